/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.c - runs a QEMU binary once, without a machine, and asks it what it is.
 *
 * It is run as the real one will be (same ids, same sandbox), so what it refuses here it would refuse there. QMP goes
 * over a socket pair and is spoken in lockstep, since this is the one place that talks outside a loop: on the thread
 * that builds.
 */
#include "vm/qemu/caps.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/process.h"
#include "proto/qmp.h"
#include "vm/qemu/cmdline.h"

#define PROBE_MS 10000
#define ENDING_MS 500
#define LAST_WORDS_MAX 1024u

struct talk {
	int fd, pidfd, log_fd;
	uint64_t deadline, id;
	struct kata__buffer in;
	struct kata__qmp_reader reader;
};

static int wait_for(int fd, short events, uint64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};
	int n;

	do
		n = poll(&p, 1, kata__deadline_left_ms(deadline));
	while (n < 0 && errno == EINTR);
	return n;
}

static int read_more(struct talk *t, kata_error **err)
{
	uint8_t *at;
	ssize_t n;

	if (wait_for(t->fd, POLLIN, t->deadline) <= 0)
		return kata__fail(err, KATA_E_TIMEOUT, VMM, "no answer within %d ms", PROBE_MS);
	at = kata__buffer_reserve(&t->in, 16384);
	if (!at)
		return kata__fail_no_memory(err);
	n = recv(t->fd, at, 16384, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return kata__fail(err, KATA_E_GONE, VMM, "it ended");
	kata__buffer_added(&t->in, (size_t)n);
	return 0;
}

static int read_message(struct talk *t, struct kata__qmp_message *m, kata_error **err)
{
	struct kata__slice line;
	int rc;

	while ((rc = kata__qmp_next_line(&t->reader, &t->in, &line, err)) == 0) {
		rc = read_more(t, err);
		if (rc)
			return rc;
	}
	if (rc < 0)
		return rc;
	rc = kata__qmp_parse(&line, m, err);
	if (!rc)
		kata__qmp_consume(&t->reader, &t->in);
	return rc;
}

static int send_command(struct talk *t, const char *name, const json_t *args, kata_error **err)
{
	struct kata__buffer out;
	int rc;

	kata__buffer_init(&out, 4096);
	rc = kata__qmp_append_command(&out, ++t->id, name, args, err);
	while (!rc && kata__buffer_len(&out)) {
		ssize_t n = kata__unix_send(t->fd, kata__buffer_bytes(&out), kata__buffer_len(&out), -1);

		if (n > 0)
			kata__buffer_consume(&out, (size_t)n);
		else if (n != -EAGAIN)
			rc = kata__fail(err, KATA_E_GONE, VMM, "it ended");
		else if (wait_for(t->fd, POLLOUT, t->deadline) <= 0)
			rc = kata__fail(err, KATA_E_TIMEOUT, VMM, "it reads no command");
	}
	kata__buffer_deinit(&out);
	return rc;
}

/* The reply to the one command; events in between are dropped. ret may be NULL. */
static int ask(struct talk *t, const char *name, const json_t *args, json_t **ret, kata_error **err)
{
	struct kata__qmp_message m = {0};
	int rc = send_command(t, name, args, err);

	while (!rc) {
		rc = read_message(t, &m, err);
		if (rc || m.id == t->id)
			break;
		kata__qmp_message_deinit(&m);
	}
	if (!rc && m.kind == KATA__QMP_ERROR)
		rc = kata__fail(err, KATA_E_VMM, VMM, "%s: %.200s", name, m.text);
	if (!rc && ret)
		*ret = json_incref((json_t *)(uintptr_t)m.data);
	kata__qmp_message_deinit(&m);
	return rc;
}

static int greet(struct talk *t, struct kata__qemu_caps *c, kata_error **err)
{
	struct kata__qmp_message m = {0};
	int rc = read_message(t, &m, err);

	if (!rc && m.kind != KATA__QMP_GREETING)
		rc = kata__fail(err, KATA_E_PROTOCOL, VMM, "it does not greet");
	for (int i = 0; !rc && i < 3; i++)
		c->version[i] = m.version[i];
	kata__qmp_message_deinit(&m);
	return rc ? rc : ask(t, "qmp_capabilities", NULL, NULL, err);
}

static int interview(struct talk *t, struct kata__qemu_caps *c, kata_error **err)
{
	KATA_AUTO_JSON json_t *machines = NULL;
	KATA_AUTO_JSON json_t *types = NULL;
	KATA_AUTO_JSON json_t *args = json_pack("{s:s, s:b}", "implements", "device", "abstract", 0);
	int rc;

	if (!args)
		return kata__fail_no_memory(err);
	if ((rc = greet(t, c, err)) || (rc = ask(t, "query-machines", NULL, &machines, err)) ||
	    (rc = ask(t, "qom-list-types", args, &types, err)) || (rc = ask(t, "quit", NULL, NULL, err)))
		return rc;
	if ((rc = kata__qemu_caps_read_machines(c, machines, err)))
		return rc;
	return kata__qemu_caps_read_types(c, types, err);
}

/* Its exit status, 128+signal, or -1. */
static int end_process(struct talk *t)
{
	int status = -1;

	if (wait_for(t->pidfd, POLLIN, t->deadline) <= 0) {
		kata__process_signal(t->pidfd, SIGKILL);
		wait_for(t->pidfd, POLLIN, kata__deadline_in_ms(5000));
	}
	kata__process_try_reap(t->pidfd, &status);
	kata__close_fd(&t->pidfd);
	return status;
}

static void say_how_it_ended(int status, kata_error **err)
{
	kata_error *how = NULL;

	if (!err || status < 0)
		return;
	if (status > 128)
		kata__fail(&how, KATA_E_GONE, VMM, "it was ended by signal %d", status - 128);
	else
		kata__fail(&how, KATA_E_GONE, VMM, "its exit status was %d", status);
	kata__error_add_cause(*err, how);
}

static void add_last_words(const struct talk *t, kata_error **err)
{
	char text[LAST_WORDS_MAX];
	ssize_t n = pread(t->log_fd, text, sizeof(text), 0);

	if (err && n > 0)
		kata__error_set_vmm_output(*err, text, (size_t)n);
}

static int spawn(const char *binary, bool set_ids, uid_t uid, gid_t gid, int child_fd, struct talk *t, kata_error **err)
{
	const char *const argv[] = {binary,
				    "-machine",
				    "none,accel=tcg:kvm",
				    "-nodefaults",
				    "-no-user-config",
				    "-display",
				    "none",
				    "-S",
				    "-sandbox",
				    KATA__QEMU_SANDBOX,
				    "-chardev",
				    "socket,id=qmp,fd=3",
				    "-mon",
				    "chardev=qmp,mode=control",
				    NULL};
	const struct kata__fd_map fds[] = {{.parent_fd = t->log_fd, .child_fd = 2},
					   {.parent_fd = child_fd, .child_fd = 3}};
	/* This thread waits for it until it is reaped; who is killed meanwhile leaves no record of it to recover by. */
	const struct kata__spawn s = {.path = binary,
				      .argv = argv,
				      .fds = fds,
				      .fd_count = 2,
				      .set_ids = set_ids,
				      .uid = uid,
				      .gid = gid,
				      .dies_with_thread = true};
	pid_t pid;

	return kata__process_spawn(&s, &pid, &t->pidfd, err);
}

static int run(const char *binary, bool set_ids, uid_t uid, gid_t gid, struct talk *t, struct kata__qemu_caps *c,
	       kata_error **err)
{
	int pair[2];
	int rc, status;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return kata__fail_errno(err, errno, "no socket pair for QEMU's monitor");
	t->fd = pair[0];
	rc = spawn(binary, set_ids, uid, gid, pair[1], t, err);
	kata__close_fd(&pair[1]);
	if (rc)
		return rc;
	rc = interview(t, c, err);
	/* Who closed the connection is about to end by itself. */
	if (rc && (rc != KATA_E_GONE || wait_for(t->pidfd, POLLIN, kata__deadline_in_ms(ENDING_MS)) <= 0))
		kata__process_signal(t->pidfd, rc == KATA_E_GONE ? SIGTERM : SIGKILL);
	status = end_process(t);
	if (rc == KATA_E_GONE)
		say_how_it_ended(status, err);
	if (rc)
		add_last_words(t, err);
	return rc;
}

int kata__qemu_probe(const char *binary, bool set_ids, uid_t uid, gid_t gid, struct kata__qemu_caps **ret,
		     kata_error **err)
{
	struct kata__qemu_caps *c = calloc(1, sizeof(*c));
	struct talk t = {.fd = -1, .pidfd = -1, .log_fd = -1, .deadline = kata__deadline_in_ms(PROBE_MS)};
	int rc;

	if (!c)
		return kata__fail_no_memory(err);
	kata__buffer_init(&t.in, KATA__QMP_BUFFER_MAX);
	t.log_fd = memfd_create("qemu-stderr", MFD_CLOEXEC);
	rc = t.log_fd < 0 ? kata__fail_errno(err, errno, "no memory file for QEMU's stderr")
			  : run(binary, set_ids, uid, gid, &t, c, err);
	kata__close_fd(&t.fd);
	kata__close_fd(&t.log_fd);
	kata__buffer_deinit(&t.in);
	if (rc) {
		kata__qemu_caps_free(c);
		kata__error_wrap(err, rc, "asking %s what it can do", binary);
		if (err && rc == KATA_E_GONE)
			kata__error_set_hint(*err, "is it a QEMU of 7.2 or newer? %s -version says so", binary);
		return rc;
	}
	*ret = c;
	return 0;
}
