/* SPDX-License-Identifier: Apache-2.0 */
/* The agent of the mock, asked by the library's own client: what docs/mock.md says of containers and processes. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/fixture.h"

static struct {
	struct fixture f;
	kata_vm_builder *builder;
	kata_vm *vm;
	kata_agent_builder *agents;
	kata_agent *agent;
	kata_error *err;
} t;

static void connect_agent(void)
{
	fixture_assert_ok(kata_agent_builder_build(t.agents, t.vm, NULL, NULL, &t.agent, &t.err), t.err);
}

static void disconnect_agent(void)
{
	char *json = NULL;

	fixture_assert_ok(kata_agent_release(t.agent, &json, &t.err), t.err);
	free(json);
	kata_agent_unref(t.agent);
	t.agent = NULL;
}

static void set_up(void)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	fixture_init(&t.f, true, 0);
	fixture_assert_ok(kata_vm_builder_new_mock(t.f.context, &t.builder, &t.err), t.err);
	fixture_assert_ok(kata_vm_builder_build(t.builder, &config, NULL, NULL, &t.vm, &t.err), t.err);
	fixture_assert_ok(kata_vm_start(t.vm, NULL, &t.err), t.err);
	fixture_assert_ok(kata_agent_builder_new_direct(t.f.context, &t.agents, &t.err), t.err);
	connect_agent();
}

static void tear_down(void)
{
	error_clear(&t.err);
	kata_agent_unref(t.agent);
	kata_agent_builder_free(t.agents);
	fixture_assert_ok(kata_vm_destroy(t.vm, NULL, &t.err), t.err);
	kata_vm_unref(t.vm);
	kata_vm_builder_free(t.builder);
	fixture_deinit(&t.f);
}

TestSuite(mock_agent, .init = set_up, .fini = tear_down, .timeout = 30);

/* ---- calls */

#define REQUEST(method_, ...)                                                                                          \
	(kata_agent_request)                                                                                           \
	{                                                                                                              \
		.size = sizeof(kata_agent_request), .method = KATA_AGENT_##method_, __VA_ARGS__                        \
	}

static kata_op *begin(kata_agent_request request)
{
	kata_op *op = NULL;

	fixture_assert_ok(kata_agent_call_begin(t.agent, &request, NULL, &op, &t.err), t.err);
	return op;
}

/* The call must succeed; the op, whose reply is borrowed from it, is the caller's. */
static kata_op *ask(kata_agent_request request)
{
	kata_op *op = begin(request);

	fixture_assert_ok(kata_op_wait(op, &t.err), t.err);
	cr_assert_not_null(kata_agent_op_get_reply(op));
	return op;
}

static void tell(kata_agent_request request)
{
	kata_op_unref(ask(request));
}

static void refused(kata_agent_request request, int status, const char *text)
{
	kata_op *op = begin(request);

	fixture_assert_fails(kata_op_wait(op, &t.err), status, t.err);
	cr_assert(strstr(error_text(t.err), text), "expected '%s' in: %s", text, error_text(t.err));
	error_clear(&t.err);
	kata_op_unref(op);
}

static void create(const char *id, const char *args, bool tty)
{
	char json[512];

	snprintf(json, sizeof(json),
		 "{\"ociVersion\":\"1.0.2\",\"process\":{\"terminal\":%s,\"cwd\":\"/"
		 "\",\"args\":%s,\"user\":{\"uid\":0,\"gid\":0}},"
		 "\"root\":{\"path\":\"/run/rootfs\"},\"linux\":{}}",
		 tty ? "true" : "false", args);
	tell(REQUEST(CREATE_CONTAINER, .container_id = id, .exec_id = id, .json = json, .json_length = strlen(json)));
}

static void run(const char *id, const char *args)
{
	create(id, args, false);
	tell(REQUEST(START_CONTAINER, .container_id = id));
}

static void exec(const char *container, const char *id, const char *args)
{
	char json[256];

	snprintf(json, sizeof(json), "{\"cwd\":\"/\",\"args\":%s,\"user\":{\"uid\":0,\"gid\":0}}", args);
	tell(REQUEST(EXEC_PROCESS, .container_id = container, .exec_id = id, .json = json,
		     .json_length = strlen(json)));
}

static int32_t status_of(const char *container, const char *exec_id)
{
	kata_op *op = ask(REQUEST(WAIT_PROCESS, .container_id = container, .exec_id = exec_id));
	int32_t status = kata_agent_op_get_reply(op)->exit_status;

	kata_op_unref(op);
	return status;
}

/* One read; "" is end of file. */
static const char *output(kata_agent_method method, const char *container, const char *exec_id)
{
	static char text[4096];
	kata_agent_request request =
		REQUEST(READ_STDOUT, .container_id = container, .exec_id = exec_id, .max_length = 1024);
	kata_op *op;

	request.method = method;
	op = ask(request);
	snprintf(text, sizeof(text), "%.*s", (int)kata_agent_op_get_reply(op)->data_length,
		 (const char *)kata_agent_op_get_reply(op)->data);
	kata_op_unref(op);
	return text;
}

static void write_stdin(const char *container, const char *text)
{
	tell(REQUEST(WRITE_STDIN, .container_id = container, .exec_id = container, .data = text,
		     .data_length = strlen(text)));
}

/* ---- the tests */

Test(mock_agent, says_who_it_is_and_has_the_guest_service)
{
	cr_assert_eq(kata_agent_get_state(t.agent), KATA_AGENT_CONNECTED);
	cr_assert_str_eq(kata_agent_get_version(t.agent), "mock");
	cr_assert(kata_agent_has_guest_service(t.agent));
	fixture_assert_ok(kata_agent_check(t.agent, NULL, &t.err), t.err);
}

Test(mock_agent, echo_prints_its_words_and_exits_0)
{
	run("c1", "[\"echo\", \"hello\", \"world\"]");
	cr_assert_str_eq(output(KATA_AGENT_READ_STDOUT, "c1", "c1"), "hello world\n");
	cr_assert_str_eq(output(KATA_AGENT_READ_STDOUT, "c1", "c1"), "");
	cr_assert_str_eq(output(KATA_AGENT_READ_STDERR, "c1", "c1"), "");
	cr_assert_eq(status_of("c1", "c1"), 0);
	cr_assert_eq(status_of("c1", "c1"), 0, "the status is kept");
}

Test(mock_agent, exit_ends_with_its_code)
{
	run("c1", "[\"exit\", \"3\"]");
	cr_assert_eq(status_of("c1", "c1"), 3);
}

Test(mock_agent, an_unknown_program_says_so_on_stderr_and_exits_127)
{
	run("c1", "[\"/bin/nope\"]");
	cr_assert(strstr(output(KATA_AGENT_READ_STDERR, "c1", "c1"), "/bin/nope"));
	cr_assert_eq(status_of("c1", "c1"), 127);
}

Test(mock_agent, cat_copies_stdin_until_it_is_closed)
{
	run("c1", "[\"cat\"]");
	write_stdin("c1", "one\n");
	cr_assert_str_eq(output(KATA_AGENT_READ_STDOUT, "c1", "c1"), "one\n");
	write_stdin("c1", "two\n");
	tell(REQUEST(CLOSE_STDIN, .container_id = "c1", .exec_id = "c1"));
	cr_assert_str_eq(output(KATA_AGENT_READ_STDOUT, "c1", "c1"), "two\n");
	cr_assert_eq(status_of("c1", "c1"), 0);
	refused(REQUEST(WRITE_STDIN, .container_id = "c1", .exec_id = "c1", .data = "x", .data_length = 1),
		KATA_E_GUEST, "Cannot get writer");
}

Test(mock_agent, a_write_waits_for_room_in_the_pipe)
{
	static char much[200000];
	kata_op *op;
	size_t total = 0;

	memset(much, 'x', sizeof(much));
	run("c1", "[\"cat\"]");
	op = begin(
		REQUEST(WRITE_STDIN, .container_id = "c1", .exec_id = "c1", .data = much, .data_length = sizeof(much)));
	fixture_assert_ok(kata_agent_check(t.agent, NULL, &t.err), t.err);
	cr_assert_not(kata_op_is_done(op), "128 KiB fit into two pipes, 200000 bytes do not");
	while (total < sizeof(much))
		total += strlen(output(KATA_AGENT_READ_STDOUT, "c1", "c1"));
	fixture_assert_ok(kata_op_wait(op, &t.err), t.err);
	kata_op_unref(op);
}

Test(mock_agent, a_read_waits_for_data)
{
	kata_op *read;

	run("c1", "[\"cat\"]");
	read = begin(REQUEST(READ_STDOUT, .container_id = "c1", .exec_id = "c1", .max_length = 10));
	fixture_assert_ok(kata_agent_check(t.agent, NULL, &t.err), t.err);
	cr_assert_not(kata_op_is_done(read));
	write_stdin("c1", "now");
	fixture_assert_ok(kata_op_wait(read, &t.err), t.err);
	cr_assert_eq(kata_agent_op_get_reply(read)->data_length, 3u);
	kata_op_unref(read);
}

Test(mock_agent, a_created_container_waits_for_its_start)
{
	kata_op *wait;

	create("c1", "[\"exit\", \"5\"]", false);
	wait = begin(REQUEST(WAIT_PROCESS, .container_id = "c1", .exec_id = "c1"));
	fixture_assert_ok(kata_agent_check(t.agent, NULL, &t.err), t.err);
	cr_assert_not(kata_op_is_done(wait));
	tell(REQUEST(START_CONTAINER, .container_id = "c1"));
	fixture_assert_ok(kata_op_wait(wait, &t.err), t.err);
	cr_assert_eq(kata_agent_op_get_reply(wait)->exit_status, 5);
	kata_op_unref(wait);
	refused(REQUEST(START_CONTAINER, .container_id = "c1"), KATA_E_EXISTS, "started already");
}

Test(mock_agent, sleep_runs_until_signalled)
{
	run("c1", "[\"sleep\"]");
	exec("c1", "e1", "[\"sleep\"]");
	tell(REQUEST(SIGNAL_PROCESS, .container_id = "c1", .exec_id = "e1", .signal = SIGTERM));
	cr_assert_eq(status_of("c1", "e1"), 128 + SIGTERM);
	tell(REQUEST(SIGNAL_PROCESS, .container_id = "c1", .exec_id = "c1", .signal = SIGCHLD));
	tell(REQUEST(SIGNAL_PROCESS, .container_id = "c1", .exec_id = "c1", .signal = SIGUSR1));
	cr_assert_eq(status_of("c1", "c1"), 128 + SIGUSR1);
}

Test(mock_agent, sleep_ends_after_its_seconds)
{
	run("c1", "[\"sleep\", \"0.05\"]");
	cr_assert_eq(status_of("c1", "c1"), 0);
}

Test(mock_agent, term_to_an_init_process_counts_as_kill)
{
	run("c1", "[\"sleep\"]");
	tell(REQUEST(SIGNAL_PROCESS, .container_id = "c1", .exec_id = "c1", .signal = SIGTERM));
	cr_assert_eq(status_of("c1", "c1"), 137);
}

Test(mock_agent, kill_without_an_exec_id_ends_every_process)
{
	run("c1", "[\"sleep\"]");
	exec("c1", "e1", "[\"cat\"]");
	tell(REQUEST(SIGNAL_PROCESS, .container_id = "c1", .signal = SIGKILL));
	cr_assert_eq(status_of("c1", "c1"), 137);
	cr_assert_eq(status_of("c1", "e1"), 137);
}

Test(mock_agent, the_end_of_the_init_process_ends_the_others)
{
	run("c1", "[\"cat\"]");
	exec("c1", "e1", "[\"sleep\"]");
	tell(REQUEST(CLOSE_STDIN, .container_id = "c1", .exec_id = "c1"));
	cr_assert_eq(status_of("c1", "e1"), 137);
}

Test(mock_agent, a_paused_container_does_nothing_until_it_is_resumed)
{
	kata_op *read;

	run("c1", "[\"cat\"]");
	tell(REQUEST(PAUSE_CONTAINER, .container_id = "c1"));
	refused(REQUEST(PAUSE_CONTAINER, .container_id = "c1"), KATA_E_GUEST, "neither running nor created");
	write_stdin("c1", "late");
	read = begin(REQUEST(READ_STDOUT, .container_id = "c1", .exec_id = "c1", .max_length = 10));
	tell(REQUEST(SIGNAL_PROCESS, .container_id = "c1", .exec_id = "c1", .signal = SIGWINCH));
	cr_assert_not(kata_op_is_done(read));
	tell(REQUEST(RESUME_CONTAINER, .container_id = "c1"));
	fixture_assert_ok(kata_op_wait(read, &t.err), t.err);
	kata_op_unref(read);
	refused(REQUEST(RESUME_CONTAINER, .container_id = "c1"), KATA_E_GUEST, "not paused");
}

Test(mock_agent, a_terminal_can_be_resized_and_nothing_else_can)
{
	create("c1", "[\"winsize\"]", true);
	tell(REQUEST(START_CONTAINER, .container_id = "c1"));
	cr_assert_str_eq(output(KATA_AGENT_READ_STDOUT, "c1", "c1"), "0 0\n");
	tell(REQUEST(TTY_WIN_RESIZE, .container_id = "c1", .exec_id = "c1", .rows = 24, .columns = 80));
	cr_assert_str_eq(output(KATA_AGENT_READ_STDOUT, "c1", "c1"), "24 80\n");
	run("c2", "[\"winsize\"]");
	refused(REQUEST(TTY_WIN_RESIZE, .container_id = "c2", .exec_id = "c2", .rows = 24, .columns = 80), KATA_E_GUEST,
		"no tty");
}

Test(mock_agent, stats_count_the_processes)
{
	kata_op *op;

	run("c1", "[\"sleep\"]");
	exec("c1", "e1", "[\"sleep\"]");
	op = ask(REQUEST(STATS_CONTAINER, .container_id = "c1"));
	cr_assert_eq(kata_agent_op_get_reply(op)->stats.pids_current, 2u);
	cr_assert_gt(kata_agent_op_get_reply(op)->stats.cpu_usage_ns, 0u);
	cr_assert_gt(kata_agent_op_get_reply(op)->stats.memory_usage_bytes, 0u);
	kata_op_unref(op);
}

Test(mock_agent, what_is_not_there_is_refused_as_the_kata_agent_does)
{
	refused(REQUEST(START_CONTAINER, .container_id = "nobody"), KATA_E_NOT_FOUND, "Invalid container id");
	refused(REQUEST(READ_STDOUT, .container_id = "nobody", .exec_id = "nobody", .max_length = 1), KATA_E_NOT_FOUND,
		"Invalid container id");
	run("c1", "[\"sleep\"]");
	refused(REQUEST(WAIT_PROCESS, .container_id = "c1", .exec_id = "nobody"), KATA_E_NOT_FOUND, "nobody");
	tell(REQUEST(REMOVE_CONTAINER, .container_id = "c1"));
	refused(REQUEST(REMOVE_CONTAINER, .container_id = "c1"), KATA_E_NOT_FOUND, "Invalid container id");
}

Test(mock_agent, disks_and_nics_are_seen_where_they_are_plugged)
{
	kata_storage *s = fixture_storage("disk", "/nowhere/disk.raw", KATA_STORAGE_VIRTIO_BLK);
	kata_nic *n = fixture_nic("nic", "02:00:00:00:00:09");
	char address[16];
	kata_op *op;

	fixture_assert_ok(kata_vm_add_storage(t.vm, s, NULL, &t.err), t.err);
	fixture_assert_ok(kata_vm_add_nic(t.vm, n, NULL, &t.err), t.err);
	kata_storage_get_address(s, address, sizeof(address));
	op = ask(REQUEST(AWAIT_DEVICE, .device_kind = "blk", .device_address = address));
	cr_assert_str_eq(kata_agent_op_get_reply(op)->text, "vda");
	cr_assert_eq(kata_agent_op_get_reply(op)->size_bytes, kata_storage_get_size_bytes(s));
	kata_op_unref(op);
	tell(REQUEST(AWAIT_DEVICE, .device_kind = "net", .device_address = "02:00:00:00:00:09"));
	tell(REQUEST(OFFLINE_DEVICE, .device_kind = "blk", .device_address = address));
	refused(REQUEST(OFFLINE_DEVICE, .device_kind = "blk", .device_address = "1f/00"), KATA_E_NOT_FOUND, "1f/00");
	kata_storage_unref(s);
	kata_nic_unref(n);
}

Test(mock_agent, a_device_that_is_awaited_is_answered_when_it_comes)
{
	kata_storage *s = fixture_storage("disk", "/nowhere/disk.raw", KATA_STORAGE_VIRTIO_BLK);
	kata_op *op = begin(REQUEST(AWAIT_DEVICE, .device_kind = "blk", .device_address = "08/00"));

	fixture_assert_ok(kata_agent_check(t.agent, NULL, &t.err), t.err);
	cr_assert_not(kata_op_is_done(op));
	fixture_assert_ok(kata_vm_add_storage(t.vm, s, NULL, &t.err), t.err);
	fixture_assert_ok(kata_op_wait(op, &t.err), t.err);
	kata_op_unref(op);
	kata_storage_unref(s);
}

Test(mock_agent, a_mounted_disk_is_not_taken_offline)
{
	static const char json[] = "{\"ociVersion\":\"1.0.2\",\"process\":{\"cwd\":\"/"
				   "\",\"args\":[\"sleep\"],\"user\":{\"uid\":0,\"gid\":0}},"
				   "\"root\":{\"path\":\"/run/rootfs\"},\"linux\":{}}";
	kata_storage *s = fixture_storage("disk", "/nowhere/disk.raw", KATA_STORAGE_VIRTIO_SCSI);
	kata_agent_storage mount = {.driver = "scsi", .source = "0:0", .fstype = "ext4", .mount_point = "/run/rootfs"};

	fixture_assert_ok(kata_vm_add_storage(t.vm, s, NULL, &t.err), t.err);
	tell(REQUEST(CREATE_CONTAINER, .container_id = "c1", .exec_id = "c1", .json = json,
		     .json_length = sizeof(json) - 1, .storages = &mount, .storage_count = 1));
	refused(REQUEST(OFFLINE_DEVICE, .device_kind = "scsi", .device_address = "0:0"), KATA_E_BUSY, "mounted");
	tell(REQUEST(REMOVE_CONTAINER, .container_id = "c1"));
	tell(REQUEST(OFFLINE_DEVICE, .device_kind = "scsi", .device_address = "0:0"));
	mount.source = "0:7";
	refused(REQUEST(CREATE_CONTAINER, .container_id = "c1", .exec_id = "c1", .json = json,
			.json_length = sizeof(json) - 1, .storages = &mount, .storage_count = 1),
		KATA_E_GUEST, "0:7");
	kata_storage_unref(s);
}

Test(mock_agent, containers_outlive_the_connection)
{
	run("c1", "[\"cat\"]");
	write_stdin("c1", "kept");
	disconnect_agent();
	connect_agent();
	cr_assert_str_eq(output(KATA_AGENT_READ_STDOUT, "c1", "c1"), "kept");
}

Test(mock_agent, containers_outlive_a_release_and_rebuild)
{
	char *json = NULL;

	run("c1", "[\"cat\"]");
	write_stdin("c1", "kept");
	disconnect_agent();
	fixture_assert_ok(kata_vm_release(t.vm, NULL, &json, &t.err), t.err);
	kata_vm_unref(t.vm);
	t.vm = NULL;
	fixture_assert_ok(kata_vm_builder_build_from_released(t.builder, json, strlen(json), NULL, &t.vm, &t.err),
			  t.err);
	free(json);
	connect_agent();
	cr_assert_str_eq(output(KATA_AGENT_READ_STDOUT, "c1", "c1"), "kept");
}

Test(mock_agent, a_paused_machine_answers_after_the_resume)
{
	kata_op *op;

	fixture_assert_ok(kata_vm_pause(t.vm, NULL, &t.err), t.err);
	op = begin(REQUEST(CHECK, ));
	fixture_assert_ok(kata_vm_pause(t.vm, NULL, &t.err), t.err);
	cr_assert_not(kata_op_is_done(op));
	fixture_assert_ok(kata_vm_resume(t.vm, NULL, &t.err), t.err);
	fixture_assert_ok(kata_op_wait(op, &t.err), t.err);
	kata_op_unref(op);
}

Test(mock_agent, destroying_the_sandbox_powers_the_machine_off)
{
	tell(REQUEST(CREATE_SANDBOX, .sandbox_id = "s1", .hostname = "h"));
	tell(REQUEST(DESTROY_SANDBOX, ));
	fixture_assert_ok(kata_vm_wait(t.vm, 5000, &t.err), t.err);
	cr_assert_eq(kata_vm_get_state(t.vm), KATA_VM_ENDED);
}

Test(mock_agent, calls_are_delayed_and_fail_as_asked_for)
{
	kata_op *op;

	fixture_assert_ok(kata_mock_set_delay(t.builder, KATA_MOCK_AGENT_CALL, 50, &t.err), t.err);
	op = ask(REQUEST(CHECK, ));
	cr_assert_geq(kata_op_get_end_ns(op) - kata_op_get_start_ns(op), 50000000u);
	kata_op_unref(op);
	fixture_assert_ok(kata_mock_set_delay(t.builder, KATA_MOCK_AGENT_CALL, 0, &t.err), t.err);
	fixture_assert_ok(kata_mock_set_failure(t.builder, KATA_MOCK_AGENT_CALL, KATA_E_PERMISSION, 2, &t.err), t.err);
	refused(REQUEST(CHECK, ), KATA_E_GUEST, "permission");
	refused(REQUEST(CHECK, ), KATA_E_GUEST, "permission");
	tell(REQUEST(CHECK, ));
}

Test(mock_agent, delayed_calls_wait_side_by_side)
{
	kata_op *ops[64];
	uint64_t first = UINT64_MAX, last = 0;

	fixture_assert_ok(kata_mock_set_delay(t.builder, KATA_MOCK_AGENT_CALL, 100, &t.err), t.err);
	for (int i = 0; i < 64; i++)
		ops[i] = begin(REQUEST(CHECK, ));
	for (int i = 0; i < 64; i++) {
		fixture_assert_ok(kata_op_wait(ops[i], &t.err), t.err);
		first = kata_op_get_start_ns(ops[i]) < first ? kata_op_get_start_ns(ops[i]) : first;
		last = kata_op_get_end_ns(ops[i]) > last ? kata_op_get_end_ns(ops[i]) : last;
		kata_op_unref(ops[i]);
	}
	cr_assert_lt(last - first, UINT64_C(64) * 100000000 / 4, "%llu ms",
		     (unsigned long long)(last - first) / 1000000);
}

Test(mock_agent, an_agent_that_hangs_up_is_lost)
{
	kata_op *op;

	fixture_assert_ok(kata_mock_set_failure(t.builder, KATA_MOCK_AGENT_CALL, KATA_E_GONE, 1, &t.err), t.err);
	op = begin(REQUEST(CHECK, ));
	fixture_assert_fails(kata_op_wait(op, &t.err), KATA_E_GONE, t.err);
	kata_op_unref(op);
	cr_assert_eq(kata_agent_get_state(t.agent), KATA_AGENT_LOST);
}

Test(mock_agent, calls_in_flight_end_when_the_machine_does)
{
	kata_op *op;

	run("c1", "[\"sleep\"]");
	op = begin(REQUEST(WAIT_PROCESS, .container_id = "c1", .exec_id = "c1"));
	fixture_assert_ok(kata_mock_end(t.vm, &t.err), t.err);
	fixture_assert_fails(kata_op_wait(op, &t.err), KATA_E_GONE, t.err);
	kata_op_unref(op);
}

/* ---- identity */

Test(mock_agent, has_settled_from_the_start)
{
	tell(REQUEST(SETTLE, .hostname = NULL));
}

static const kata_agent_reply *reset(kata_op **ret_op, const char *entropy)
{
	static const kata_agent_mac mac = {.pci_path = "08/00", .mac = "02:00:00:00:00:01"};

	*ret_op = ask(REQUEST(RESET_IDENTITY, .data = entropy, .data_length = 32, .seconds = 1700000000,
			      .hostname = "clone", .machine_id = "0123456789abcdef0123456789abcdef", .macs = &mac,
			      .mac_count = 1, .max_length = 16));
	return kata_agent_op_get_reply(*ret_op);
}

Test(mock_agent, resets_its_identity_and_says_what_it_did)
{
	kata_op *first, *second, *third;
	const kata_agent_reply *a = reset(&first, "first entropy of thirty-two bytes"),
			       *b = reset(&second, "other entropy of thirty-two bytes"),
			       *c = reset(&third, "first entropy of thirty-two bytes");

	cr_assert_eq(a->reset, KATA_RESET_ENTROPY | KATA_RESET_CLOCK | KATA_RESET_HOSTNAME | KATA_RESET_MACHINE_ID |
				       KATA_RESET_MACS);
	cr_assert_eq(a->seconds, 1700000000);
	cr_assert_eq(a->data_length, 16u);
	cr_assert_neq(memcmp(a->data, b->data, 16), 0, "another seed, another sample");
	cr_assert_eq(memcmp(a->data, c->data, 16), 0);
	kata_op_unref(first);
	kata_op_unref(second);
	kata_op_unref(third);
}

Test(mock_agent, an_identity_reset_of_nothing_does_nothing)
{
	kata_op *op = ask(REQUEST(RESET_IDENTITY, .hostname = NULL));

	cr_assert_eq(kata_agent_op_get_reply(op)->reset, 0u);
	kata_op_unref(op);
}
