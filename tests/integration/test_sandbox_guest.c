/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sandboxes on the real QEMU with the real guest: few tests, since an emulated boot takes seconds, and each does much.
 *
 * The other process of a handover is a fork made before this one has a context or a thread: a test needs two processes
 * that are the library's users, and neither may exec the other.
 */
#include "integration/sandbox_test.h"

#include <sys/wait.h>
#include <time.h>

TestSuite(sandbox_guest, .timeout = 300);

/* ---- one boot: containers, processes, devices */

static void check_output_and_status(struct stage *st)
{
	char *text;
	int out, errors;

	add_container(st, "fails", "rootfs", "", "echo out; echo err >&2; exit 3");
	open_stdio(st, "fails", NULL, NULL, &out, &errors);
	start_container(st, "fails");
	text = read_text(out, NULL);
	cr_assert_str_eq(text, "out\n");
	free(text);
	text = read_text(errors, NULL);
	cr_assert_str_eq(text, "err\n");
	free(text);
	close(out);
	close(errors);
	cr_assert_eq(wait_for(st, "fails", NULL), 3);
	cr_assert_eq(wait_for(st, "fails", NULL), 3);
}

static void check_stdin(struct stage *st)
{
	char *text;
	int in, out;

	exec(st, "main", "cat", "exec cat", false);
	open_stdio(st, "main", "cat", &in, &out, NULL);
	cr_assert_eq(write(in, "through the guest\n", 18), 18);
	close(in);
	text = read_text(out, NULL);
	cr_assert_str_eq(text, "through the guest\n");
	free(text);
	close(out);
	cr_assert_eq(wait_for(st, "main", "cat"), 0);
}

static void check_much_output(struct stage *st)
{
	char buf[65536];
	size_t total = 0;
	ssize_t n;
	int out;

	exec(st, "main", "flood", "exec dd if=/dev/zero bs=64k count=32 2>/dev/null", false);
	open_stdio(st, "main", "flood", NULL, &out, NULL);
	while ((n = read(out, buf, sizeof(buf))) > 0)
		total += (size_t)n;
	close(out);
	cr_assert_eq(total, 2u << 20);
	cr_assert_eq(wait_for(st, "main", "flood"), 0);
}

static void check_terminal(struct stage *st)
{
	kata_error *err = NULL;
	char *text;
	int in, out;

	exec(st, "main", "tty", "read x; stty size; exit 5", true);
	open_stdio(st, "main", "tty", &in, &out, NULL);
	fixture_assert_ok(kata_sandbox_resize_terminal(st->s, "main", "tty", 41, 132, NULL, &err), err);
	cr_assert_eq(write(in, "\n", 1), 1);
	text = read_text(out, "41 132");
	free(text);
	free(read_text(out, NULL));
	close(in);
	close(out);
	cr_assert_eq(wait_for(st, "main", "tty"), 5);
}

static void check_signal_and_stats(struct stage *st)
{
	kata_container_stats stats = {.size = sizeof(stats)};
	kata_error *err = NULL;

	exec(st, "main", "sleeper", "exec sleep 1000", false);
	fixture_assert_ok(kata_sandbox_get_container_stats(st->s, "main", NULL, &stats, &err), err);
	cr_assert_geq(stats.pids_current, 2);
	cr_assert_gt(stats.memory_usage_bytes, 0);
	fixture_assert_ok(kata_sandbox_signal_process(st->s, "main", "sleeper", SIGKILL, NULL, &err), err);
	cr_assert_eq(wait_for(st, "main", "sleeper"), 137);
}

/* ---- identity: what the guest says of itself after a reset */

static kata_op *ask_agent(struct stage *st, const kata_agent_request *request)
{
	kata_agent *agent = kata_sandbox_get_agent(st->s);
	kata_error *err = NULL;
	kata_op *op = NULL;

	fixture_assert_ok(kata_agent_call_begin(agent, request, NULL, &op, &err), err);
	kata_agent_unref(agent);
	return op;
}

static void take_sample(struct stage *st, const char *hostname, const char *machine_id, const kata_agent_mac *mac,
			uint8_t sample[32])
{
	char entropy[512] = "the same in every reset";
	kata_agent_request request = {.size = sizeof(request),
				      .method = KATA_AGENT_RESET_IDENTITY,
				      .data = entropy,
				      .data_length = sizeof(entropy),
				      .seconds = time(NULL),
				      .hostname = hostname,
				      .machine_id = machine_id,
				      .macs = mac,
				      .mac_count = mac != NULL,
				      .max_length = 32};
	const kata_agent_reply *reply;
	kata_op *op = ask_agent(st, &request);
	kata_error *err = NULL;

	fixture_assert_ok(kata_op_wait(op, &err), err);
	reply = kata_agent_op_get_reply(op);
	cr_assert_eq(reply->reset, (mac ? KATA_RESET_MACS : 0) | KATA_RESET_ENTROPY | KATA_RESET_CLOCK |
					   KATA_RESET_HOSTNAME | KATA_RESET_MACHINE_ID);
	cr_assert_leq(llabs(reply->seconds - time(NULL)), 1, "the guest's clock says %lld", (long long)reply->seconds);
	cr_assert_eq(reply->data_length, 32u);
	memcpy(sample, reply->data, 32);
	kata_op_unref(op);
}

static void settle(struct stage *st)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_SETTLE};
	kata_error *err = NULL;
	kata_op *op = ask_agent(st, &request);

	fixture_assert_ok(kata_op_wait(op, &err), err);
	kata_op_unref(op);
}

static void refuse_absent_nic(struct stage *st)
{
	const kata_agent_mac mac = {.pci_path = "1f/00", .mac = "02:00:00:00:00:99"};
	kata_agent_request request = {.size = sizeof(request),
				      .method = KATA_AGENT_RESET_IDENTITY,
				      .hostname = "half-done",
				      .macs = &mac,
				      .mac_count = 1};
	kata_op *op = ask_agent(st, &request);
	kata_error *err = NULL;

	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_NOT_FOUND, err);
	cr_assert(strstr(error_text(err), "done before: hostname"), "%s", error_text(err));
	kata_op_unref(op);
	error_clear(&err);
}

static void check_identity(struct stage *st, kata_nic *nic)
{
	char address[64], *text;
	const kata_agent_mac mac = {.pci_path = address, .mac = "02:00:00:00:00:42"};
	uint8_t first[32], second[32];
	time_t before;
	int out;

	kata_nic_get_address(nic, address, sizeof(address));
	settle(st);
	take_sample(st, "one", "00000000000000000000000000000001", NULL, first);
	take_sample(st, "clone-two", "0123456789abcdef0123456789abcdef", &mac, second);
	cr_assert_neq(memcmp(first, second, 32), 0);
	assert_exec_says(st, "main", "who", "cat /proc/sys/kernel/hostname /run/id /sys/class/net/eth0/address",
			 "clone-two\n0123456789abcdef0123456789abcdef\n02:00:00:00:00:42\n");
	before = time(NULL);
	exec(st, "main", "when", "busybox date +%s", false);
	open_stdio(st, "main", "when", NULL, &out, NULL);
	text = read_text(out, NULL);
	close(out);
	cr_assert_geq(strtoll(text, NULL, 10), before - 1, "%s", text);
	cr_assert_leq(strtoll(text, NULL, 10), time(NULL) + 1, "%s", text);
	free(text);
	cr_assert_eq(wait_for(st, "main", "when"), 0);
	exec(st, "main", "ping-again", "ping -c 1 -W 10 10.0.2.2 >/dev/null", false);
	cr_assert_eq(wait_for(st, "main", "ping-again"), 0, "addresses and routes are kept");
	refuse_absent_nic(st);
}

static void check_network(struct stage *st)
{
	static const char *const addresses[] = {"10.0.2.15/24", NULL};
	kata_interface_config config = KATA_INTERFACE_CONFIG_INIT;
	kata_agent_route route = {.gateway = "10.0.2.2", .device = "eth0"};
	kata_nic *nic = fixture_nic("net", "02:00:00:00:00:01");
	kata_error *err = NULL;

	config.name = "eth0";
	config.addresses = addresses;
	fixture_assert_ok(kata_sandbox_add_nic(st->s, nic, &config, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_update_routes(st->s, &route, 1, NULL, &err), err);
	exec(st, "main", "ping", "ping -c 1 -W 10 10.0.2.2 >/dev/null", false);
	cr_assert_eq(wait_for(st, "main", "ping"), 0);
	check_identity(st, nic);
	fixture_assert_ok(kata_sandbox_remove_nic(st->s, "net", NULL, &err), err);
	kata_nic_unref(nic);
}

static void check_pause(struct stage *st)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_pause_container(st->s, "main", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_resume_container(st->s, "main", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_pause(st->s, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_resume(st->s, NULL, &err), err);
	assert_exec_says(st, "main", "awake", "echo awake", "awake\n");
}

static void check_disk_removal(struct stage *st)
{
	kata_error *err = NULL;

	fixture_assert_fails(kata_sandbox_remove_storage(st->s, "data", NULL, &err), KATA_E_BUSY, err);
	error_clear(&err);
	fixture_assert_ok(kata_sandbox_remove_container(st->s, "main", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_remove_container(st->s, "fails", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_remove_storage(st->s, "data", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_remove_storage(st->s, "rootfs", NULL, &err), err);
	cr_assert_eq(kata_sandbox_get_container_count(st->s), 0);
}

Test(sandbox_guest, containers_run_on_plugged_disks_with_all_that_belongs_to_them)
{
	struct stage st;
	struct census *before;
	kata_error *err = NULL;

	stage_init(&st);
	machine_warm_up(&st.m);
	before = fixture_census(&st.m.f);
	stage_start(&st);
	add_disk(&st, "rootfs", st.rootfs, KATA_STORAGE_VIRTIO_BLK);
	{
		char *data = fixture_path(&st.m.f, "data.raw");

		run_tool((const char *const[]){"/bin/cp", st.rootfs, data, NULL});
		add_disk(&st, "data", data, KATA_STORAGE_VIRTIO_SCSI);
		free(data);
	}
	add_container(
		&st, "main", "rootfs",
		",{\"destination\":\"/mnt\",\"type\":\"bind\",\"source\":\"storage:data/bin\",\"options\":[\"rbind\"]},"
		"{\"destination\":\"/run/id\",\"type\":\"bind\",\"source\":\"/etc/"
		"machine-id\",\"options\":[\"bind\",\"ro\"]},"
		"{\"destination\":\"/sys\",\"type\":\"bind\",\"source\":\"/sys\",\"options\":[\"rbind\",\"ro\"]}",
		"exec sleep 100000");
	start_container(&st, "main");
	assert_exec_says(&st, "main", "see-data", "ls /mnt/busybox", "/mnt/busybox\n");
	check_output_and_status(&st);
	check_stdin(&st);
	check_much_output(&st);
	check_terminal(&st);
	check_signal_and_stats(&st);
	check_network(&st);
	check_pause(&st);
	check_disk_removal(&st);
	fixture_assert_ok(kata_sandbox_shutdown(st.s, NULL, &err), err);
	cr_assert_eq(kata_sandbox_get_state(st.s), KATA_SANDBOX_DESTROYED);
	kata_sandbox_unref(st.s);
	st.s = NULL;
	fixture_assert_census(&st.m.f, before, "after the shutdown");
	stage_deinit(&st);
}

/* ---- one boot: handed from process to process */

static kata_persistence *open_book(struct stage *st)
{
	char *path = fixture_path(&st->m.f, "book.db");
	kata_persistence *p = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_new_sqlite(st->m.f.context, path, &p, &err), err);
	free(path);
	return p;
}

/* The first process: what it makes lives on. */
static void first_owner(struct stage *st)
{
	kata_persistence *p = open_book(st);
	kata_nic *nic = fixture_nic("net", NULL);
	kata_error *err = NULL;

	stage_start(st);
	add_disk(st, "rootfs", st->rootfs, KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_sandbox_add_nic(st->s, nic, NULL, NULL, &err), err);
	add_container(st, "main", "rootfs", "", "echo begun > /tmp/mark; exec sleep 100000");
	start_container(st, "main");
	{
		kata_storage *spare = machine_disk(&st->m, "spare", KATA_STORAGE_VIRTIO_SCSI);

		fixture_assert_ok(kata_sandbox_add_storage(st->s, spare, NULL, &err), err);
		kata_storage_unref(spare);
	}
	fixture_assert_ok(kata_persistence_release_sandbox(p, st->s, NULL, NULL, &err), err);
	kata_nic_unref(nic);
	kata_persistence_free(p);
}

static void second_owner(struct stage *st)
{
	kata_persistence *p = open_book(st);
	kata_container_info info = {.size = sizeof(info)};
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_obtain_sandbox(p, "sb", st->m.builder, NULL, NULL, &st->s, &err), err);
	cr_assert_eq(kata_sandbox_get_state(st->s), KATA_SANDBOX_RUNNING);
	fixture_assert_ok(kata_sandbox_get_container(st->s, 0, &info, &err), err);
	cr_assert_eq(info.state, KATA_PROCESS_RUNNING);
	assert_exec_says(st, "main", "look", "cat /tmp/mark", "begun\n");
	fixture_assert_ok(kata_sandbox_remove_storage(st->s, "spare", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_remove_nic(st->s, "net", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_destroy(st->s, NULL, &err), err);
	fixture_assert_ok(kata_persistence_delete_sandbox(p, "sb", &err), err);
	kata_persistence_free(p);
}

Test(sandbox_guest, released_in_one_process_and_obtained_in_another)
{
	int64_t pids[4];
	struct stage st;
	char state_dir[64];
	int status;
	pid_t pid;

	/* The directory and the images first, without a context: both processes make their own below it. */
	memset(&st, 0, sizeof(st));
	find_image(&st.m);
	if (access("/usr/bin/qemu-system-x86_64", X_OK))
		cr_skip_test("no /usr/bin/qemu-system-x86_64: install qemu-system-x86");
	fixture_init(&st.m.f, false, 0);
	make_rootfs(&st);
	pid = fork();
	cr_assert_geq(pid, 0);
	st.m.f.context = fixture_new_context(&st.m.f, 0);
	cr_assert_eq(kata_vm_builder_new_qemu(st.m.f.context, NULL, &st.m.builder, NULL), 0);
	if (pid == 0) {
		first_owner(&st);
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the first owner ended with %d", status);
	second_owner(&st);
	snprintf(state_dir, sizeof(state_dir), "%s/vm", st.m.f.state_dir);
	cr_assert_eq(census_find_processes(st.m.f.state_dir, pids, 4), 0, "a QEMU is left");
	cr_assert(access(state_dir, F_OK) != 0 || rmdir(state_dir) == 0, "a file is left in %s", state_dir);
	stage_deinit(&st);
}

/* ---- one boot: a guest that stops, and one that dies */

Test(sandbox_guest, a_stopped_vmm_costs_one_deadline_and_a_killed_one_ends_the_sandbox)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	kata_container_stats stats = {.size = sizeof(stats)};
	struct pollfd p = {.events = POLLIN};
	struct stage st;
	kata_vm *vm;
	pid_t pid;
	int32_t exit_status;
	kata_error *err = NULL;

	stage_init(&st);
	stage_start(&st);
	add_disk(&st, "rootfs", st.rootfs, KATA_STORAGE_VIRTIO_BLK);
	add_container(&st, "main", "rootfs", "", "exec sleep 100000");
	start_container(&st, "main");
	vm = kata_sandbox_get_vm(st.s);
	pid = (pid_t)kata_vm_get_pid(vm);
	cr_assert_gt(pid, 1);
	cr_assert_eq(kill(pid, SIGSTOP), 0);
	options.timeout_ms = 300;
	fixture_assert_fails(kata_sandbox_get_container_stats(st.s, "main", &options, &stats, &err), KATA_E_TIMEOUT,
			     err);
	error_clear(&err);
	fixture_assert_fails(kata_sandbox_wait_process(st.s, "main", NULL, &options, &exit_status, &err),
			     KATA_E_TIMEOUT, err);
	error_clear(&err);
	cr_assert_eq(kill(pid, SIGCONT), 0);
	fixture_assert_ok(kata_sandbox_get_container_stats(st.s, "main", NULL, &stats, &err), err);

	p.fd = kata_sandbox_get_ended_fd(st.s);
	cr_assert_eq(kill(pid, SIGKILL), 0);
	cr_assert_eq(poll(&p, 1, 20000), 1);
	cr_assert_eq(kata_sandbox_get_state(st.s), KATA_SANDBOX_ENDED);
	fixture_assert_fails(kata_sandbox_wait_process(st.s, "main", NULL, NULL, &exit_status, &err), KATA_E_GONE, err);
	error_clear(&err);
	fixture_assert_ok(kata_sandbox_destroy(st.s, NULL, &err), err);
	kata_vm_unref(vm);
	stage_deinit(&st);
}
