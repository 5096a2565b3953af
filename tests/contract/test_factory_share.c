/* SPDX-License-Identifier: Apache-2.0 */
/* A factory's server and remote builders over the mock, in one process: who gets what, and what bad clients get. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "support/fixture.h"

static struct fixture f;
static kata_vm_builder *mock, *cache, *remote;
static kata_agent_builder *agents;
static kata_factory_server *server;
static kata_factory_server_options options;
static kata_remote_options remote_options;
static kata_vm_config config;
static char path[64];
static kata_error *err;

static void set_size(uint32_t min, uint32_t max)
{
	kata_cache_size size = KATA_CACHE_SIZE_INIT;

	size.config = &config;
	size.min = min;
	size.max = max;
	fixture_assert_ok(kata_cache_set_sizes(cache, &size, 1, &err), err);
}

static void open_with(uint64_t context_flags)
{
	kata_cache_options cache_options = KATA_CACHE_OPTIONS_INIT;

	fixture_init(&f, true, context_flags);
	snprintf(path, sizeof(path), "%s/socket", f.dir);
	fixture_assert_ok(kata_vm_builder_new_mock(f.context, &mock, &err), err);
	fixture_assert_ok(kata_agent_builder_new_direct(f.context, &agents, &err), err);
	config = (kata_vm_config)KATA_VM_CONFIG_INIT;
	config.kernel = "/mock/kernel";
	config.initrd = "/mock/initrd";
	cache_options.retry_min_ms = 20;
	fixture_assert_ok(kata_vm_builder_new_cache(f.context, mock, NULL, &cache_options, &cache, &err), err);
	options = (kata_factory_server_options)KATA_FACTORY_SERVER_OPTIONS_INIT;
	options.socket_path = path;
	remote_options = (kata_remote_options)KATA_REMOTE_OPTIONS_INIT;
	remote_options.socket_path = path;
}

static void setup(void)
{
	open_with(0);
}

static void teardown(void)
{
	kata_factory_server_free(server);
	server = NULL;
	kata_vm_builder_free(remote);
	kata_vm_builder_free(cache);
	kata_agent_builder_free(agents);
	kata_vm_builder_free(mock);
	error_clear(&err);
	cr_assert_neq(access(path, F_OK), 0, "the socket is there");
	fixture_deinit(&f);
}

TestSuite(share, .init = setup, .fini = teardown, .timeout = 60);

static void await_ready(uint32_t count)
{
	fixture_assert_ok(kata_cache_wait_ready(cache, count, NULL, &err), err);
}

static void serve(uint32_t machines)
{
	fixture_assert_ok(kata_factory_server_new(f.context, cache, &options, &server, &err), err);
	fixture_assert_ok(kata_vm_builder_new_remote(f.context, mock, &remote_options, &remote, &err), err);
	if (!machines)
		return;
	set_size(machines, machines);
	await_ready(machines);
}

static kata_factory_server_status status(void)
{
	kata_factory_server_status s = {.size = sizeof(s)};

	fixture_assert_ok(kata_factory_server_get_status(server, &s, &err), err);
	return s;
}

/* There is no event for a counter: bounded. */
#define await_status(condition)                                                                                        \
	do {                                                                                                           \
		kata_factory_server_status s_;                                                                         \
		int tries_ = 0;                                                                                        \
		do {                                                                                                   \
			s_ = status();                                                                                 \
			cr_assert_lt(tries_++, 4000, "%s does not come true", #condition);                             \
			usleep(5000);                                                                                  \
		} while (!(condition));                                                                                \
	} while (0)

static kata_vm *build(const char *id, kata_vm_origin origin)
{
	kata_vm_config c = config;
	kata_vm *vm = NULL;

	c.id = id;
	fixture_assert_ok(kata_vm_builder_build(remote, &c, NULL, NULL, &vm, &err), err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	cr_assert_eq(kata_vm_get_origin(vm), origin, "is %s", kata_vm_origin_get_name(kata_vm_get_origin(vm)));
	return vm;
}

static void use_up(kata_vm *vm)
{
	kata_agent *agent = NULL;

	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	fixture_assert_ok(kata_agent_builder_build(agents, vm, NULL, NULL, &agent, &err), err);
	fixture_assert_ok(kata_agent_check(agent, NULL, &err), err);
	kata_agent_unref(agent);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
}

/* ---- what a build gets ---- */

Test(share, a_build_gets_a_machine_out_of_the_servers_pool)
{
	kata_vm *vm;

	serve(1);
	vm = build("mine", KATA_VM_WARM);
	cr_assert_str_eq(kata_vm_get_id(vm), "mine");
	cr_assert_eq(kata_vm_get_identity_reset(vm) & KATA_RESET_ENTROPY, KATA_RESET_ENTROPY);
	use_up(vm);
	await_status(s_.handed_over == 1 && s_.on_their_way == 0 && s_.connections == 0);
	cr_assert_eq(status().taken_back, 0u);
}

Test(share, machines_go_one_after_the_other_and_each_once)
{
	kata_vm *vm[5];

	serve(2);
	for (int i = 0; i < 5; i++) {
		await_ready(1);
		vm[i] = build(NULL, KATA_VM_WARM);
		for (int j = 0; j < i; j++)
			cr_assert_str_neq(kata_vm_get_uuid(vm[i]), kata_vm_get_uuid(vm[j]));
	}
	for (int i = 0; i < 5; i++)
		use_up(vm[i]);
	await_status(s_.handed_over == 5);
}

Test(share, where_none_is_ready_or_fits_it_is_an_exact_boot)
{
	serve(0);
	use_up(build("mine", KATA_VM_BOOTED));
	await_status(s_.none == 1);
	set_size(1, 1);
	await_ready(1);
	config.cpus = 2;
	use_up(build("mine", KATA_VM_BOOTED));
	await_status(s_.none == 2);
	cr_assert_eq(status().failed, 0u);
}

Test(share, an_id_that_is_in_use_is_refused)
{
	kata_vm_config c = config;
	kata_vm *first, *second = NULL;

	serve(2);
	first = build("mine", KATA_VM_WARM);
	await_ready(2);
	c.id = "mine";
	fixture_assert_fails(kata_vm_builder_build(remote, &c, NULL, NULL, &second, &err), KATA_E_EXISTS, err);
	error_clear(&err);
	use_up(first);
	use_up(build("mine", KATA_VM_WARM));
}

Test(share, a_builder_that_is_no_cache_makes_one_for_each_request)
{
	kata_vm *vm;

	fixture_assert_ok(kata_factory_server_new(f.context, mock, &options, &server, &err), err);
	fixture_assert_ok(kata_vm_builder_new_remote(f.context, mock, &remote_options, &remote, &err), err);
	vm = build("mine", KATA_VM_BOOTED);
	fixture_assert_fails(kata_vm_pause(vm, NULL, &err), KATA_E_STATE, err);
	error_clear(&err);
	use_up(vm);
	await_status(s_.handed_over == 1);
}

Test(share, another_transport_goes_along_with_the_request)
{
	kata_agent_config agent = KATA_AGENT_CONFIG_INIT;
	kata_vm *vm = NULL;

	serve(1);
	agent.transport = KATA_AGENT_VSOCK;
	fixture_assert_fails(kata_vm_builder_build(remote, &config, &agent, NULL, &vm, &err), KATA_E_UNSUPPORTED, err);
	error_clear(&err);
	agent.transport = KATA_AGENT_VIRTIO_SERIAL;
	fixture_assert_ok(kata_vm_builder_build(remote, &config, &agent, NULL, &vm, &err), err);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_WARM);
	use_up(vm);
}

Test(share, the_rest_is_the_local_builders)
{
	kata_capabilities a = {.size = sizeof(a)}, b = {.size = sizeof(b)};
	char *json = NULL;
	kata_vm *vm;

	serve(1);
	fixture_assert_ok(kata_vm_builder_get_capabilities(remote, &a, &err), err);
	fixture_assert_ok(kata_vm_builder_get_capabilities(mock, &b, &err), err);
	cr_assert_eq(memcmp(&a, &b, sizeof(a)), 0);
	vm = build("mine", KATA_VM_WARM);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	json = fixture_release(&vm);
	fixture_assert_ok(kata_vm_builder_build_from_released(remote, json, strlen(json), NULL, &vm, &err), err);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
	free(json);
}

/* ---- no server ---- */

Test(share, without_a_server_a_build_fails_unless_it_may_fall_back)
{
	kata_vm *vm = NULL;

	fixture_assert_ok(kata_vm_builder_new_remote(f.context, mock, &remote_options, &remote, &err), err);
	fixture_assert_fails(kata_vm_builder_build(remote, &config, NULL, NULL, &vm, &err), KATA_E_GONE, err);
	cr_assert(strstr(error_text(err), path), "%s", error_text(err));
	error_clear(&err);
	kata_vm_builder_free(remote);
	remote_options.flags = KATA_REMOTE_FALL_BACK;
	fixture_assert_ok(kata_vm_builder_new_remote(f.context, mock, &remote_options, &remote, &err), err);
	use_up(build("mine", KATA_VM_BOOTED));
}

Test(share, a_server_that_does_not_answer_costs_the_builds_own_deadline)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	kata_vm *vm = NULL;

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(fd, 1), 0);
	remote_options.take_ms = 100;
	fixture_assert_ok(kata_vm_builder_new_remote(f.context, mock, &remote_options, &remote, &err), err);
	fixture_assert_fails(kata_vm_builder_build(remote, &config, NULL, NULL, &vm, &err), KATA_E_TIMEOUT, err);
	close(fd);
	unlink(path);
}

Test(share, a_server_that_ends_leaves_its_clients_to_themselves)
{
	kata_vm *vm;

	remote_options.flags = KATA_REMOTE_FALL_BACK;
	serve(2);
	vm = build("mine", KATA_VM_WARM);
	kata_factory_server_free(server);
	server = NULL;
	use_up(vm);
	use_up(build("mine", KATA_VM_BOOTED));
	fixture_assert_ok(kata_factory_server_new(f.context, cache, &options, &server, &err), err);
	use_up(build("mine", KATA_VM_WARM));
}

/* ---- who may ---- */

Test(share, a_uid_that_is_not_on_the_list_gets_nothing)
{
	const uint32_t nobody = 65533, both[] = {65533, (uint32_t)geteuid()};
	kata_vm *vm = NULL;

	options.uids = &nobody;
	options.uid_count = 1;
	serve(1);
	fixture_assert_fails(kata_vm_builder_build(remote, &config, NULL, NULL, &vm, &err), KATA_E_PERMISSION, err);
	cr_assert(strstr(error_text(err), "gives nothing to uid"), "%s", error_text(err));
	error_clear(&err);
	cr_assert_eq(status().refused, 1u);
	cr_assert_eq(status().none + status().handed_over + status().taken_back + status().failed, 0u,
		     "its request was not even looked at");
	kata_factory_server_free(server);
	options.uids = both;
	options.uid_count = 2;
	fixture_assert_ok(kata_factory_server_new(f.context, cache, &options, &server, &err), err);
	use_up(build("mine", KATA_VM_WARM));
}

/* ---- bad clients ---- */

static int connect_raw(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void send_text(int fd, const char *text)
{
	uint32_t head = htonl((uint32_t)strlen(text));

	cr_assert_eq(send(fd, &head, sizeof(head), MSG_NOSIGNAL), (ssize_t)sizeof(head));
	cr_assert_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* A message; NULL when the server has closed. The caller frees. */
static char *receive_text(int fd)
{
	uint32_t head;
	char *text;
	ssize_t n = recv(fd, &head, sizeof(head), MSG_WAITALL);

	if (n != (ssize_t)sizeof(head))
		return NULL;
	text = calloc(1, ntohl(head) + 1);
	cr_assert_eq(recv(fd, text, ntohl(head), MSG_WAITALL), (ssize_t)ntohl(head));
	return text;
}

static void must_be_answered(int fd, const char *says)
{
	char *text = receive_text(fd);

	cr_assert(text && strstr(text, says), "'%s' is not in: %s", says, text ? text : "(closed)");
	free(text);
}

static void must_be_closed(int fd)
{
	char byte;

	cr_assert_leq(recv(fd, &byte, 1, 0), 0);
}

#define TAKE                                                                                                           \
	"{\"kata_factory\":1,\"take\":{\"keep_id\":true,\"transport\":0,\"config\":{\"id\":\"x\",\"cpus\":1,"          \
	"\"cpus_max\":1,\"memory_mib\":256,\"memory_max_mib\":256,\"memory_slots\":0,\"kernel\":\"/mock/kernel\","     \
	"\"initrd\":\"/mock/initrd\",\"kernel_params\":[],\"memory_shared\":false,\"device_slots\":16}}}"

Test(share, a_machine_that_was_offered_and_not_taken_is_taken_back)
{
	static const char *const words[] = {"{\"kata_factory\":1,\"taken\":false}", "nonsense", TAKE, NULL};

	serve(1);
	for (unsigned i = 0; i < 4; i++) {
		int fd = connect_raw();

		await_ready(1);
		send_text(fd, TAKE);
		must_be_answered(fd, "\"vm\"");
		cr_assert_eq(status().on_their_way, 1u);
		if (words[i]) {
			send_text(fd, words[i]);
			must_be_closed(fd);
		}
		close(fd);
		await_status(s_.taken_back == i + 1 && s_.on_their_way == 0);
	}
	await_ready(1);
	cr_assert_eq(status().handed_over, 0u);
}

Test(share, a_client_that_goes_while_a_machine_is_made_ready_leaves_nothing)
{
	serve(1);
	fixture_assert_ok(kata_mock_set_delay(mock, KATA_MOCK_AGENT_CALL, 100, &err), err);
	for (unsigned i = 0; i < 3; i++) {
		int fd = connect_raw();

		await_ready(1);
		send_text(fd, TAKE);
		usleep(20000);
		close(fd);
		await_status(s_.failed + s_.taken_back == i + 1 && s_.on_their_way == 0);
	}
	fixture_assert_ok(kata_mock_set_delay(mock, KATA_MOCK_AGENT_CALL, 0, &err), err);
	await_ready(1);
	use_up(build("mine", KATA_VM_WARM));
}

Test(share, a_client_that_does_not_say_that_it_has_it_loses_it_after_a_time)
{
	int fd;

	options.take_ms = 300;
	serve(1);
	fd = connect_raw();
	send_text(fd, TAKE);
	must_be_answered(fd, "\"vm\"");
	must_be_closed(fd);
	close(fd);
	await_status(s_.taken_back == 1);
}

Test(share, what_is_no_request_is_answered_with_what_is_wrong)
{
	static const char *const texts[][2] = {
		{"", "factory message"},
		{"nonsense", "factory message"},
		{"{}", "kata_factory"},
		{"{\"kata_factory\":2}", "of protocol 2"},
		{"{\"kata_factory\":1}", "take"},
		{"{\"kata_factory\":1,\"take\":{}}", "keep_id"},
		{"{\"kata_factory\":1,\"take\":{\"keep_id\":true,\"transport\":77,\"config\":{}}}", "transport"},
		{"{\"kata_factory\":1,\"take\":{\"keep_id\":true,\"transport\":0,\"config\":{\"id\":\"x\"}}}",
		 "config"},
		{"{\"kata_factory\":1,\"taken\":true}", "take"},
	};

	serve(1);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		int fd = connect_raw();

		send_text(fd, texts[i][0]);
		must_be_answered(fd, texts[i][1]);
		close(fd);
	}
	await_status(s_.connections == 0);
	cr_assert_eq(status().failed, sizeof(texts) / sizeof(texts[0]));
	use_up(build("mine", KATA_VM_WARM));
}

Test(share, a_message_that_is_too_long_ends_the_connection)
{
	const uint32_t head = htonl(65537);
	int fd;

	serve(1);
	fd = connect_raw();
	cr_assert_eq(send(fd, &head, sizeof(head), MSG_NOSIGNAL), (ssize_t)sizeof(head));
	must_be_closed(fd);
	close(fd);
}

Test(share, fds_that_a_client_sends_are_closed)
{
	struct census *before;
	char byte = 0;
	int fd, gift[4];
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(gift))];
	} control;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};

	serve(0);
	before = fixture_census(&f);
	for (int i = 0; i < 4; i++)
		gift[i] = 0;
	memset(&control, 0, sizeof(control));
	CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
	CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
	CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof(gift));
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), gift, sizeof(gift));
	fd = connect_raw();
	cr_assert_eq(sendmsg(fd, &msg, MSG_NOSIGNAL), 1);
	must_be_closed(fd);
	close(fd);
	await_status(s_.connections == 0);
	fixture_assert_census(&f, before, "after the gift");
}

Test(share, who_is_silent_or_slow_keeps_nobody_else_waiting)
{
	int silent, slow;

	serve(1);
	silent = connect_raw();
	slow = connect_raw();
	cr_assert_eq(send(slow, "\0\0", 2, MSG_NOSIGNAL), 2);
	use_up(build("mine", KATA_VM_WARM));
	must_be_closed(silent); /* after five seconds */
	must_be_closed(slow);
	close(silent);
	close(slow);
}

Test(share, who_comes_when_there_are_too_many_waits)
{
	int fd;

	options.max_connections = 1;
	serve(1);
	fd = connect_raw();
	await_status(s_.connections == 1);
	remote_options.take_ms = 100;
	kata_vm_builder_free(remote);
	fixture_assert_ok(kata_vm_builder_new_remote(f.context, mock, &remote_options, &remote, &err), err);
	fixture_assert_fails(kata_vm_builder_build(remote, &config, NULL, NULL, &(kata_vm *){NULL}, &err),
			     KATA_E_TIMEOUT, err);
	error_clear(&err);
	close(fd);
	kata_vm_builder_free(remote);
	remote_options.take_ms = 0;
	fixture_assert_ok(kata_vm_builder_new_remote(f.context, mock, &remote_options, &remote, &err), err);
	use_up(build("mine", KATA_VM_WARM));
}

Test(share, who_may_take_nothing_keeps_nobody_out)
{
	const struct timeval patience = {.tv_sec = 3}; /* the server's with a client is five seconds */
	const uint32_t nobody = 65533;
	int fd[2];

	options.uids = &nobody;
	options.uid_count = 1;
	options.max_connections = 1;
	serve(0);
	for (int i = 0; i < 2; i++) {
		fd[i] = connect_raw();
		cr_assert_eq(setsockopt(fd[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
		must_be_answered(fd[i], "gives nothing to uid");
	}
	await_status(s_.refused == 2 && s_.connections == 0);
	close(fd[0]);
	close(fd[1]);
}

/* The library's is this one. */
static atomic_uint accepts;

KATA_API int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	atomic_fetch_add(&accepts, 1);
	return (int)syscall(SYS_accept4, fd, address, length, flags);
}

/* Who connects is there to be accepted all the time; the loop does not spin over it. */
Test(share, a_server_without_fds_waits_for_one_and_goes_on)
{
	struct rlimit before, none;
	int first, second;

	serve(1);
	first = dup(0); /* the number that the client gets, and below which all are taken */
	close(first);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = before;
	none.rlim_cur = (rlim_t)first + 1;
	second = connect_raw();
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	close(second);
	await_status(s_.connections == 0);
	accepts = 0;
	second = connect_raw();
	usleep(250000);
	cr_assert_eq(status().connections, 0u);
	cr_assert(accepts > 0 && accepts < 10, "%u times in a quarter of a second", accepts);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	await_status(s_.connections == 1);
	use_up(build("mine", KATA_VM_WARM));
	close(second);
}

Test(share, it_may_be_freed_while_clients_are_served)
{
	int fds[3];

	serve(3);
	for (int i = 0; i < 3; i++) {
		fds[i] = connect_raw();
		send_text(fds[i], TAKE);
	}
	must_be_answered(fds[0], "\"vm\"");
	kata_factory_server_free(server);
	server = NULL;
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	await_ready(3);
}

/* ---- bad servers ---- */

static int listen_raw(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(fd, 4), 0);
	return fd;
}

Test(share, what_is_no_answer_fails_the_build)
{
	static const struct {
		const char *text;
		int status;
	} answers[] = {
		{"nonsense", KATA_E_CORRUPT},
		{"{\"kata_factory\":7,\"none\":\"\"}", KATA_E_VERSION},
		{"{\"kata_factory\":1}", KATA_E_CORRUPT},
		{"{\"kata_factory\":1,\"vm\":7}", KATA_E_CORRUPT},
		{"{\"kata_factory\":1,\"vm\":\"{}\",\"origin\":9,\"reset\":0}", KATA_E_CORRUPT},
		{"{\"kata_factory\":1,\"vm\":\"{}\",\"origin\":3,\"reset\":0}", KATA_E_CORRUPT},
		{"{\"kata_factory\":1,\"vm\":\"{\\\"id\\\":\\\"../x\\\"}\",\"origin\":3,\"reset\":0}", KATA_E_INVALID},
		{"{\"kata_factory\":1,\"error\":{\"status\":0,\"message\":\"\"}}", KATA_E_CORRUPT},
		{"{\"kata_factory\":1,\"error\":{\"status\":99,\"message\":\"\"}}", KATA_E_CORRUPT},
	};
	int fd = listen_raw();

	fixture_assert_ok(kata_vm_builder_new_remote(f.context, mock, &remote_options, &remote, &err), err);
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		kata_vm *vm = NULL;
		int rc, peer;
		pid_t pid = fork();

		if (pid == 0) {
			peer = accept(fd, NULL, NULL);
			free(receive_text(peer));
			send_text(peer, answers[i].text);
			must_be_closed(peer);
			_exit(0);
		}
		rc = kata_vm_builder_build(remote, &config, NULL, NULL, &vm, &err);
		cr_assert_eq(rc, answers[i].status, "%s: %s", answers[i].text, error_text(err));
		error_clear(&err);
	}
	close(fd);
	unlink(path);
}

/* ---- the socket, and bad input ---- */

static void refused(int status_, const char *says)
{
	kata_factory_server *none = NULL;

	fixture_assert_fails(kata_factory_server_new(f.context, cache, &options, &none, &err), status_, err);
	cr_assert(strstr(error_text(err), says), "'%s' is not in: %s", says, error_text(err));
	cr_assert_null(none);
	error_clear(&err);
}

Test(share, two_servers_cannot_have_one_socket)
{
	serve(1);
	refused(KATA_E_EXISTS, "serves there already");
	use_up(build("mine", KATA_VM_WARM));
}

Test(share, what_a_dead_server_left_is_replaced)
{
	close(listen_raw());
	serve(1);
	use_up(build("mine", KATA_VM_WARM));
}

Test(share, what_is_no_socket_is_left_alone)
{
	free(fixture_write_file(&f, "socket", "x", 1));
	refused(KATA_E_EXISTS, "no socket");
	unlink(path);
}

Test(share, a_directory_that_others_can_write_is_refused)
{
	cr_assert_eq(chmod(f.dir, 0777), 0);
	refused(KATA_E_PERMISSION, "not writable by others");
	cr_assert_eq(chmod(f.dir, 0755), 0);
}

Test(share, options_that_make_no_sense_are_refused)
{
	char longer[200];
	uint32_t uid = 0;

	options.socket_path = NULL;
	refused(KATA_E_INVALID, "socket_path: is NULL");
	options.socket_path = "relative";
	refused(KATA_E_INVALID, "absolute");
	options.socket_path = "/";
	refused(KATA_E_INVALID, "absolute");
	memset(longer, 'x', sizeof(longer));
	longer[0] = '/';
	longer[sizeof(longer) - 1] = '\0';
	options.socket_path = longer;
	refused(KATA_E_INVALID, "at most 107");
	options.socket_path = "/no/such/directory/socket";
	refused(KATA_E_NOT_FOUND, "/no/such/directory");
	options.socket_path = path;
	options.uid_count = 1;
	refused(KATA_E_INVALID, "uids: is NULL");
	options.uids = &uid;
	options.uid_count = 5000;
	refused(KATA_E_INVALID, "more than 1024");
	options.uid_count = 0;
	options.max_connections = 1000000;
	refused(KATA_E_INVALID, "max_connections");
}

Test(share, arguments_that_are_missing_or_of_another_kind_are_refused)
{
	kata_factory_server *none = NULL;
	kata_vm_builder *no_builder = NULL;
	kata_context *other = fixture_new_context(&f, 0);
	kata_factory_server_status s = {.size = sizeof(s)};

	fixture_assert_fails(kata_factory_server_new(NULL, cache, &options, &none, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_factory_server_new(f.context, NULL, &options, &none, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_factory_server_new(f.context, cache, &options, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_factory_server_new(f.context, cache, NULL, &none, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_factory_server_new(other, cache, &options, &none, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_factory_server_get_status(NULL, &s, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_builder_new_remote(f.context, mock, NULL, &no_builder, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_builder_new_remote(f.context, NULL, &remote_options, &no_builder, &err),
			     KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_builder_new_remote(other, mock, &remote_options, &no_builder, &err),
			     KATA_E_INVALID, err);
	error_clear(&err);
	remote_options.flags = 64;
	fixture_assert_fails(kata_vm_builder_new_remote(f.context, mock, &remote_options, &no_builder, &err),
			     KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_ok(kata_context_free(other, &err), err);
	kata_factory_server_free(NULL);
}

/* ---- a loop of the caller's ---- */

Test(share_of_an_external_loop, it_works_while_the_caller_dispatches, .timeout = 60)
{
	open_with(KATA_CONTEXT_EXTERNAL_LOOP);
	serve(1);
	use_up(build("mine", KATA_VM_WARM));
	teardown();
	remote = NULL;
}
