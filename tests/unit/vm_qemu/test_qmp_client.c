/* SPDX-License-Identifier: Apache-2.0 */
/* The QMP client against a peer on the other end of a socket pair, byte by byte. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"
#include "proto/qmp.h"
#include "vm/qemu/qmp_client.h"

#define GREETING                                                                                                       \
	"{\"QMP\":{\"version\":{\"qemu\":{\"micro\":22,\"minor\":2,\"major\":7},\"package\":\"\"},\"capabilities\":[]" \
	"}}\r\n"

struct reply {
	int calls;
	int status;
	long long value;
	char text[256];
};

static struct kata__loop *loop;
static struct kata__qmp *client;
static int peer = -1;
static struct reply ready;
static char events[4096];
static unsigned event_count;
static int broken_calls, broken_status;

static void on_event(void *user, const char *name, const json_t *data)
{
	const char *device = json_string_value(json_object_get(data, "device"));

	event_count++;
	if (event_count < 10)
		snprintf(events + strlen(events), sizeof(events) - strlen(events), "%s:%s ", name,
			 device ? device : "-");
}

static void on_broken(void *user, const kata_error *err)
{
	broken_calls++;
	broken_status = (int)kata_error_get_status(err);
}

static const struct kata__qmp_handler handler = {.on_event = on_event, .on_broken = on_broken};

static void on_reply(void *user, const json_t *value, kata_error *take_err)
{
	struct reply *r = user;

	r->calls++;
	r->status = (int)kata_error_get_status(take_err);
	r->value = json_integer_value(value);
	snprintf(r->text, sizeof(r->text), "%s", take_err ? kata_error_get_message(take_err) : "");
	kata_error_free(take_err);
}

static void turn(void)
{
	for (int i = 0; i < 40; i++)
		cr_assert_eq(kata__loop_dispatch(loop, 0, NULL), 0);
}

static void say(const char *text)
{
	cr_assert_eq(write(peer, text, strlen(text)), (ssize_t)strlen(text));
	turn();
}

static void hear(char *buf, size_t size)
{
	ssize_t n = recv(peer, buf, size - 1, MSG_DONTWAIT);

	buf[n > 0 ? n : 0] = '\0';
}

static void set_up(void)
{
	int pair[2];

	cr_assert_eq(kata__loop_new(true, 1, &loop, NULL), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	cr_assert(kata__loop_try_lead(loop));
	cr_assert_eq(kata__qmp_open(loop, pair[0], &handler, NULL, on_reply, &ready, &client, NULL), 0);
	kata__loop_unlead(loop);
	peer = pair[1];
}

/* Greeted and negotiated. */
static void set_up_ready(void)
{
	char buf[512];

	set_up();
	say(GREETING);
	hear(buf, sizeof(buf));
	cr_assert_str_eq(buf, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n");
	say("{\"return\":{},\"id\":1}\r\n");
	cr_assert_eq(ready.calls, 1);
	cr_assert_eq(ready.status, 0);
}

static void tear_down(void)
{
	cr_assert(kata__loop_try_lead(loop));
	kata__qmp_close(client, NULL);
	kata__loop_unlead(loop);
	close(peer);
	kata__loop_free(loop);
}

static int execute(const char *name, json_t *args, int fd, struct reply *r)
{
	int rc;

	cr_assert(kata__loop_try_lead(loop));
	rc = kata__qmp_execute(client, name, args, fd, on_reply, r, NULL);
	kata__loop_unlead(loop);
	return rc;
}

TestSuite(qmp_client, .fini = tear_down);

Test(qmp_client, is_ready_after_greeting_and_capabilities, .init = set_up_ready)
{
	cr_assert_eq(kata__qmp_get_version(client)[0], 7u);
	cr_assert_eq(kata__qmp_get_version(client)[2], 22u);
	cr_assert_eq(kata__qmp_in_flight(client), 0u);
}

Test(qmp_client, answers_to_a_command_of_the_connection_before_are_passed_over, .init = set_up)
{
	struct reply r = {0};

	cr_assert_eq(execute("query-status", NULL, -1, &r), 0);
	say(GREETING "{\"return\":7,\"id\":2}\r\n{\"error\":{\"class\":\"x\",\"desc\":\"y\"},\"id\":9}\r\n");
	cr_assert_eq(r.calls + ready.calls + broken_calls, 0);
	say("{\"return\":{},\"id\":1}\r\n");
	cr_assert_eq(ready.calls, 1);
	say("{\"return\":{},\"id\":1}\r\n{\"return\":8,\"id\":2}\r\n");
	cr_assert_eq(ready.calls, 1);
	cr_assert_eq(r.calls, 1);
	cr_assert_eq(r.value, 8);
	cr_assert_eq(broken_calls, 0);
	say("{\"return\":8,\"id\":2}\r\n");
	cr_assert_eq(broken_calls, 1);
}

Test(qmp_client, queues_commands_sent_before_the_greeting_behind_the_capabilities, .init = set_up)
{
	struct reply r = {0};
	char buf[512];

	cr_assert_eq(execute("query-status", NULL, -1, &r), 0);
	hear(buf, sizeof(buf));
	cr_assert_str_eq(buf, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n{\"execute\":\"query-status\",\"id\":2}\n");
	say(GREETING "{\"return\":{},\"id\":1}\n{\"return\":5,\"id\":2}\n");
	cr_assert_eq(ready.calls, 1);
	cr_assert_eq(r.value, 5);
}

Test(qmp_client, matches_replies_by_id_in_any_order, .init = set_up_ready)
{
	struct reply a = {0}, b = {0}, c = {0};

	execute("a", NULL, -1, &a);
	execute("b", NULL, -1, &b);
	execute("c", NULL, -1, &c);
	cr_assert_eq(kata__qmp_in_flight(client), 3u);
	say("{\"return\":30,\"id\":4}\n{\"return\":10,\"id\":2}\n{\"return\":20,\"id\":3}\n");
	cr_assert_eq(a.value, 10);
	cr_assert_eq(b.value, 20);
	cr_assert_eq(c.value, 30);
	cr_assert_eq(a.calls + b.calls + c.calls, 3);
	cr_assert_eq(kata__qmp_in_flight(client), 0u);
}

Test(qmp_client, gives_qemus_error_as_status_vmm_with_its_words_cleaned, .init = set_up_ready)
{
	struct reply r = {0};

	execute("device_add", NULL, -1, &r);
	say("{\"error\":{\"class\":\"GenericError\",\"desc\":\"bad \\u001b[31mthing\"},\"id\":2}\n");
	cr_assert_eq(r.status, KATA_E_VMM);
	cr_assert_str_eq(r.text, "QEMU: bad ?[31mthing");
	cr_assert_not(kata__qmp_is_broken(client));
}

Test(qmp_client, delivers_an_event_that_comes_before_the_reply, .init = set_up_ready)
{
	struct reply r = {0};

	execute("device_del", json_pack("{s:s}", "id", "s-d0"), -1, &r);
	say("{\"event\":\"DEVICE_DELETED\",\"data\":{\"device\":\"s-d0\",\"path\":\"/machine/peripheral/s-d0\"},"
	    "\"timestamp\":{\"seconds\":1,\"microseconds\":2}}\n");
	cr_assert_str_eq(events, "DEVICE_DELETED:s-d0 ");
	cr_assert_eq(r.calls, 0);
	say("{\"return\":{},\"id\":2}\n");
	cr_assert_eq(r.calls, 1);
}

Test(qmp_client, puts_lines_together_from_single_bytes, .init = set_up_ready)
{
	const char *line = "{\"return\":77,\"id\":2}\r\n";
	struct reply r = {0};

	execute("x", NULL, -1, &r);
	for (const char *p = line; *p; p++) {
		char one[2] = {*p, '\0'};

		cr_assert_eq(r.calls, 0);
		say(one);
	}
	cr_assert_eq(r.value, 77);
}

Test(qmp_client, ends_every_command_in_flight_with_gone_on_a_hang_up, .init = set_up_ready)
{
	struct reply a = {0}, b = {0};

	execute("a", NULL, -1, &a);
	execute("b", NULL, -1, &b);
	say("{\"return\":1,");
	shutdown(peer, SHUT_RDWR);
	turn();
	cr_assert_eq(a.status, KATA_E_GONE);
	cr_assert_eq(b.status, KATA_E_GONE);
	cr_assert(strstr(a.text, "half a line"), "%s", a.text);
	cr_assert_eq(broken_calls, 1);
	cr_assert_eq(broken_status, KATA_E_GONE);
	cr_assert_eq(execute("c", NULL, -1, &a), KATA_E_GONE);
	cr_assert_eq(a.calls, 1, "a command that was refused has no reply");
}

static void assert_breaks(const char *bytes)
{
	struct reply r = {0};

	execute("x", NULL, -1, &r);
	say(bytes);
	cr_assert_eq(r.calls, 1);
	cr_assert_eq(r.status, KATA_E_PROTOCOL, "%s", r.text);
	cr_assert_eq(broken_calls, 1);
	cr_assert(kata__qmp_is_broken(client));
}

Test(qmp_client, breaks_on_a_line_that_is_not_json, .init = set_up_ready)
{
	assert_breaks("{\"return\": what}\n");
}

Test(qmp_client, breaks_on_a_reply_to_an_id_that_was_never_used, .init = set_up_ready)
{
	assert_breaks("{\"return\":{},\"id\":4711}\n");
}

Test(qmp_client, breaks_on_a_second_reply_to_one_command, .init = set_up_ready)
{
	struct reply r = {0}, other = {0};

	execute("x", NULL, -1, &r);
	execute("y", NULL, -1, &other);
	say("{\"return\":1,\"id\":2}\n{\"return\":1,\"id\":2}\n");
	cr_assert_eq(r.calls, 1);
	cr_assert_eq(r.status, 0);
	cr_assert_eq(other.status, KATA_E_PROTOCOL);
}

/* QEMU 7.2 sends them: see the test of answers to the connection before. */
Test(qmp_client, passes_over_what_comes_before_the_greeting, .init = set_up)
{
	say("{\"return\":{},\"id\":1}\n{\"return\":{}}\n{\"event\":\"STOP\"}\n" GREETING "{\"return\":{}}\n");
	cr_assert_eq(ready.calls, 0);
	cr_assert_eq(event_count, 0u);
	say("{\"return\":{},\"id\":1}\n");
	cr_assert_eq(ready.calls, 1);
	cr_assert_eq(ready.status, 0);
}

Test(qmp_client, breaks_on_a_second_greeting, .init = set_up_ready)
{
	assert_breaks(GREETING);
}

Test(qmp_client, breaks_on_an_error_without_an_id, .init = set_up_ready)
{
	assert_breaks("{\"error\":{\"class\":\"GenericError\",\"desc\":\"Invalid JSON syntax\"}}\n");
}

Test(qmp_client, breaks_on_a_line_above_the_cap_before_its_end_has_come, .init = set_up_ready)
{
	static char chunk[65536];
	struct reply r = {0};
	size_t sent = 0;

	memset(chunk, 'x', sizeof(chunk));
	execute("x", NULL, -1, &r);
	while (!r.calls && sent < 2u * KATA__QMP_LINE_MAX) {
		ssize_t n = send(peer, chunk, sizeof(chunk), MSG_DONTWAIT | MSG_NOSIGNAL);

		sent += n > 0 ? (size_t)n : 0;
		cr_assert_eq(kata__loop_dispatch(loop, 0, NULL), 0);
	}
	cr_assert_eq(r.status, KATA_E_PROTOCOL);
	cr_assert_leq(sent, KATA__QMP_LINE_MAX + 512u * 1024u); /* what the socket holds comes on top */
}

Test(qmp_client, survives_a_flood_of_events_without_keeping_any, .init = set_up_ready)
{
	static char flood[60000];
	struct reply r = {0};
	size_t len = 0;

	while (len < sizeof(flood) - 64)
		len += (size_t)snprintf(flood + len, sizeof(flood) - len, "{\"event\":\"RTC_CHANGE\"}\n");
	execute("x", NULL, -1, &r);
	for (int i = 0; i < 40; i++) {
		size_t at = 0;

		while (at < len) {
			ssize_t n = send(peer, flood + at, len - at, MSG_DONTWAIT);

			at += n > 0 ? (size_t)n : 0;
			turn();
		}
	}
	cr_assert_gt(event_count, 90000u);
	say("{\"return\":1,\"id\":2}\n");
	cr_assert_eq(r.value, 1);
}

static ino_t receive_fd(char *buf, size_t size, ssize_t *ret_n)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control = {.space = {0}};
	struct iovec iov = {.iov_base = buf, .iov_len = size};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.space,
			     .msg_controllen = sizeof(control.space)};
	struct cmsghdr *c;
	struct stat st = {0};
	int fd;

	*ret_n = recvmsg(peer, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	c = *ret_n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (!c)
		return 0;
	cr_assert_eq(c->cmsg_len, CMSG_LEN(sizeof(int)), "one fd at a time");
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	cr_assert_eq(fstat(fd, &st), 0);
	close(fd);
	return st.st_ino;
}

static int make_file(ino_t *ret)
{
	char path[] = "/tmp/kata-qmp-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);
	struct stat st;

	unlink(path);
	cr_assert_eq(fstat(fd, &st), 0);
	*ret = st.st_ino;
	return fd;
}

Test(qmp_client, passes_each_fd_with_the_first_byte_of_its_command, .init = set_up_ready)
{
	static struct reply r; /* answered by the teardown */
	char buf[512];
	ino_t ino[2];
	ssize_t n;

#ifdef __SANITIZE_THREAD__
	cr_skip("TSan's own wrapper of recvmsg crashes on a passed fd");
#endif

	for (int i = 0; i < 2; i++) {
		int fd = make_file(&ino[i]);

		cr_assert_eq(execute("add-fd", json_pack("{s:i}", "fdset-id", i), fd, &r), 0);
		close(fd);
	}
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(receive_fd(buf, sizeof(buf), &n), ino[i]);
		cr_assert_eq(memcmp(buf, "{\"execute\":\"add-fd\"", 19), 0);
	}
}

/* Fills the socket until commands stay in the client's queue. */
static unsigned stuff(struct reply *r)
{
	unsigned sent = 0;
	char pad[2001];

	memset(pad, 'p', sizeof(pad) - 1);
	pad[sizeof(pad) - 1] = '\0';
	while (sent < 300) {
		cr_assert_eq(execute("pad", json_pack("{s:s}", "p", pad), -1, r), 0);
		sent++;
	}
	return sent;
}

Test(qmp_client, never_blocks_on_a_peer_that_does_not_read_and_goes_on_when_it_does, .init = set_up_ready)
{
	static struct reply r; /* answered by the teardown */
	static char buf[65536];
	size_t heard = 0;
	unsigned lines = 0;
	ino_t ino, got = 0;
	ssize_t n;
	unsigned sent = stuff(&r);
	int fd = make_file(&ino);

	cr_assert_eq(execute("add-fd", NULL, fd, &r), 0);
	close(fd);
	for (int idle = 0; idle < 50;) {
		ino_t here = receive_fd(buf, sizeof(buf), &n);

		got = here ? here : got;
		idle = n > 0 ? 0 : idle + 1;
		for (ssize_t i = 0; i < n; i++)
			lines += buf[i] == '\n';
		heard += n > 0 ? (size_t)n : 0;
		turn();
	}
	cr_assert_eq(lines, sent + 1);
	cr_assert_gt(heard, 500000u);
	cr_assert_eq(got, ino, "the fd waited for its command in the queue");
}

Test(qmp_client, refuses_more_commands_than_may_be_in_flight, .init = set_up_ready)
{
	struct reply r = {0};

	for (unsigned i = 0; i < KATA__QMP_IN_FLIGHT_MAX; i++)
		cr_assert_eq(execute("x", NULL, -1, &r), 0);
	cr_assert_eq(execute("x", NULL, -1, &r), KATA_E_EXHAUSTED);
	shutdown(peer, SHUT_RDWR);
	turn();
	cr_assert_eq(r.calls, (int)KATA__QMP_IN_FLIGHT_MAX);
}

static void close_in_reply(void *user, const json_t *value, kata_error *take_err)
{
	on_reply(user, value, take_err);
	kata__qmp_close(client, NULL);
	client = NULL;
}

Test(qmp_client, may_be_closed_by_a_reply_function_while_others_wait, .init = set_up_ready)
{
	struct reply a = {0}, b = {0};

	cr_assert(kata__loop_try_lead(loop));
	cr_assert_eq(kata__qmp_execute(client, "a", NULL, -1, close_in_reply, &a, NULL), 0);
	cr_assert_eq(kata__qmp_execute(client, "b", NULL, -1, on_reply, &b, NULL), 0);
	kata__loop_unlead(loop);
	say("{\"return\":1,\"id\":2}\n{\"return\":2,\"id\":3}\n");
	cr_assert_eq(a.value, 1);
	cr_assert_eq(b.status, KATA_E_GONE);
	cr_assert_eq(broken_calls, 0);
}
