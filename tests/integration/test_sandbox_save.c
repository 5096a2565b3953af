/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sandbox saved and restored on the real QEMU: two containers, two disks, a NIC. KATA_TEST_ROUNDS says how often the
 * first test goes round (1 by default, 30 is the long form).
 */
#include "integration/sandbox_test.h"

#include <sys/wait.h>

TestSuite(sandbox_save, .timeout = 1800);

/* The number is there whole, whenever somebody looks. */
#define COUNT                                                                                                          \
	"exec 3>/mnt/log; n=0; while :; do n=$((n+1)); echo $n > /tmp/m; busybox mv /tmp/m /tmp/n; "                   \
	"echo line $n >&3; busybox usleep 50000; done"

static unsigned rounds(void)
{
	const char *text = getenv("KATA_TEST_ROUNDS");

	return text ? (unsigned)strtoul(text, NULL, 10) : 1;
}

static long number(struct stage *st, const char *exec_id, const char *script)
{
	char *text;
	long n;
	int out;

	exec(st, "counter", exec_id, script, false);
	open_stdio(st, "counter", exec_id, NULL, &out, NULL);
	text = read_text(out, NULL);
	close(out);
	cr_assert_eq(wait_for(st, "counter", exec_id), 0);
	n = strtol(text, NULL, 10);
	free(text);
	return n;
}

static void add_network(struct stage *st)
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
	kata_nic_unref(nic);
}

static void assert_network(struct stage *st, const char *exec_id)
{
	exec(st, "counter", exec_id, "ping -c 1 -W 10 10.0.2.2 >/dev/null", false);
	cr_assert_eq(wait_for(st, "counter", exec_id), 0, "the network works");
}

/* "counter" counts into a file of its tmpfs and, through an open file, onto the data disk; "idle" only sleeps. */
static void fill(struct stage *st)
{
	char *data = fixture_path(&st->m.f, "data.raw"), *other = fixture_path(&st->m.f, "other.raw");

	run_tool((const char *const[]){"/bin/cp", st->rootfs, data, NULL});
	run_tool((const char *const[]){"/bin/cp", st->rootfs, other, NULL});
	stage_start(st);
	add_disk(st, "rootfs", st->rootfs, KATA_STORAGE_VIRTIO_BLK);
	add_disk(st, "data", data, KATA_STORAGE_VIRTIO_SCSI);
	add_network(st);
	add_container(
		st, "counter", "rootfs",
		",{\"destination\":\"/mnt\",\"type\":\"bind\",\"source\":\"storage:data\",\"options\":[\"rbind\"]}",
		COUNT);
	start_container(st, "counter");
	add_container(st, "idle", "rootfs", "", "exec sleep 100000");
	start_container(st, "idle");
	assert_network(st, "ping");
	free(data);
	free(other);
}

static void save(struct stage *st, const char *name)
{
	char *path = fixture_path(&st->m.f, name);
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_save(st->s, path, NULL, NULL, &err), err);
	free(path);
}

static kata_sandbox *restore(struct stage *st, const char *name, const char *id)
{
	char *path = fixture_path(&st->m.f, name);
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_snapshot *snapshot = NULL;
	kata_sandbox *s = NULL;
	kata_error *err = NULL;

	config.id = id;
	fixture_assert_ok(kata_snapshot_open(st->m.f.context, path, 0, &snapshot, &err), err);
	fixture_assert_ok(kata_sandbox_build_from_snapshot(st->m.f.context, snapshot, st->m.builder, &config, NULL,
							   NULL, NULL, &s, &err),
			  err);
	cr_assert_eq(kata_sandbox_get_state(s), KATA_SANDBOX_RUNNING);
	cr_assert_str_eq(kata_sandbox_get_id(s), id);
	kata_snapshot_free(snapshot);
	free(path);
	return s;
}

static void assert_own(kata_sandbox *s, uint64_t parts)
{
	kata_vm *vm = kata_sandbox_get_vm(s);

	cr_assert_eq(kata_vm_get_identity_reset(vm), parts, "0x%llx",
		     (unsigned long long)kata_vm_get_identity_reset(vm));
	kata_vm_unref(vm);
}

/* What was there goes on: the counter, its open file, the disk, the network, both containers. */
static void assert_goes_on(struct stage *st, long before)
{
	long now, later, file;

	cr_assert_eq(kata_sandbox_get_container_count(st->s), 2);
	now = number(st, "look", "cat /tmp/n");
	cr_assert_geq(now, before, "the counter stood at %ld, is %ld", before, now);
	later = number(st, "look-again", "busybox usleep 300000; cat /tmp/n");
	cr_assert_gt(later, now, "the counter is %ld, and later %ld", now, later);
	file = number(st, "file", "busybox usleep 300000; busybox tail -n 1 /mnt/log | busybox cut -c 6-");
	cr_assert_gt(file, now, "the counter is %ld, its open file later at %ld", now, file);
	assert_exec_says(st, "counter", "first-line", "head -n 1 /mnt/log", "line 1\n");
	assert_exec_says(st, "idle", "alive", "echo alive", "alive\n");
	assert_network(st, "ping-restored");
}

static void destroy(struct stage *st)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_destroy(st->s, NULL, &err), err);
	kata_sandbox_unref(st->s);
	st->s = NULL;
}

/* What the first process leaves for the second: the snapshot, and where the counter stood. */
static void first_process(struct stage *st)
{
	char *path = fixture_path(&st->m.f, "before");
	FILE *f;

	fill(st);
	f = fopen(path, "w");
	fprintf(f, "%ld\n", number(st, "stands", "cat /tmp/n"));
	fclose(f);
	save(st, "snap");
	cr_assert_eq(kata_sandbox_get_state(st->s), KATA_SANDBOX_RUNNING);
	assert_exec_says(st, "idle", "still", "echo still", "still\n");
	destroy(st);
	free(path);
}

static void in_another_process(struct stage *st, void (*fn)(struct stage *st))
{
	int status;
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0) {
		st->m.f.context = fixture_new_context(&st->m.f, 0);
		cr_assert_eq(kata_vm_builder_new_qemu(st->m.f.context, NULL, &st->m.builder, NULL), 0);
		fn(st);
		kata_vm_builder_free(st->m.builder);
		cr_assert_eq(kata_context_free(st->m.f.context, NULL), 0);
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a process ended with %d", status);
}

static long read_before(struct stage *st)
{
	char *path = fixture_path(&st->m.f, "before");
	FILE *f = fopen(path, "r");
	long n = -1;

	cr_assert(f && fscanf(f, "%ld", &n) == 1);
	fclose(f);
	free(path);
	return n;
}

static void next_process(struct stage *st)
{
	st->s = restore(st, "snap", "again");
	assert_goes_on(st, read_before(st));
	destroy(st);
}

/* Files first, without a context: each process makes its own. */
static void stage_without_context(struct stage *st)
{
	memset(st, 0, sizeof(*st));
	find_image(&st->m);
	if (access("/usr/bin/qemu-system-x86_64", X_OK))
		cr_skip_test("no /usr/bin/qemu-system-x86_64: install qemu-system-x86");
	fixture_init(&st->m.f, false, 0);
	make_rootfs(st);
}

Test(sandbox_save, its_processes_go_on_in_another_process_where_they_were)
{
	struct stage st;
	struct census *before;
	int64_t pids[4];

	stage_without_context(&st);
	in_another_process(&st, first_process);
	before = fixture_census(&st.m.f);
	for (unsigned i = 0; i < rounds(); i++) {
		in_another_process(&st, next_process);
		cr_assert_eq(census_find_processes(st.m.f.state_dir, pids, 4), 0, "a QEMU is left");
	}
	fixture_assert_census(&st.m.f, before, "after the last round");
	fixture_deinit(&st.m.f);
}

Test(sandbox_save, three_are_restored_side_by_side_and_share_nothing_they_write)
{
	static const char *const ids[] = {"one", "two", "three"};
	kata_sandbox *restored[3];
	struct stage st;
	long before;

	stage_init(&st);
	fill(&st);
	before = number(&st, "stands", "cat /tmp/n");
	save(&st, "snap");
	destroy(&st);
	for (int i = 0; i < 3; i++)
		restored[i] = restore(&st, "snap", ids[i]);
	for (int i = 0; i < 3; i++) {
		char script[80];

		st.s = restored[i];
		assert_own(st.s, KATA_RESET_ENTROPY | KATA_RESET_CLOCK | KATA_RESET_UUID | KATA_RESET_CID);
		snprintf(script, sizeof(script), "test ! -e /mnt/own; echo %s > /mnt/own; sync", ids[i]);
		exec(&st, "counter", "write", script, false);
		cr_assert_eq(wait_for(&st, "counter", "write"), 0);
	}
	for (int i = 0; i < 3; i++) {
		char expected[16];

		st.s = restored[i];
		snprintf(expected, sizeof(expected), "%s\n", ids[i]);
		assert_exec_says(&st, "counter", "read", "cat /mnt/own", expected);
		assert_goes_on(&st, before);
		destroy(&st);
	}
	stage_deinit(&st);
}

/* ---- what may go wrong */

static void fail_at(struct stage *st, const char *op, const char *step, const char *where)
{
	char name[96];

	snprintf(name, sizeof(name), "%s/%s:%s", op, step, where);
	fixture_assert_ok(kata_context_set_fail_point(st->m.f.context, name, KATA_FAIL_ERROR, 0, 0, 1, NULL), NULL);
}

static void assert_save_fails(struct stage *st, const char *path, const char *step, const char *where)
{
	kata_error *err = NULL;
	kata_op *op = NULL;
	char exec_id[64];

	fail_at(st, "save-sandbox", step, where);
	fixture_assert_ok(kata_sandbox_save_begin(st->s, path, NULL, NULL, &op, &err), err);
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_INJECTED, err);
	cr_assert(strstr(error_text(err), step), "%s", error_text(err));
	error_clear(&err);
	kata_op_unref(op);
	cr_assert_eq(kata_sandbox_get_state(st->s), KATA_SANDBOX_RUNNING);
	snprintf(exec_id, sizeof(exec_id), "after-%s-%s", step, where);
	assert_exec_says(st, "idle", exec_id, "echo alive", "alive\n");
}

static void assert_restore_fails(struct stage *st, const kata_snapshot *snapshot, const char *step, const char *where)
{
	kata_sandbox *s = NULL;
	kata_error *err = NULL;

	fail_at(st, "restore-sandbox", step, where);
	fixture_assert_fails(kata_sandbox_build_from_snapshot(st->m.f.context, snapshot, st->m.builder, NULL, NULL,
							      NULL, NULL, &s, &err),
			     KATA_E_INJECTED, err);
	cr_assert_null(s);
	error_clear(&err);
}

Test(sandbox_save, every_step_may_fail_and_the_same_call_then_succeeds)
{
	static const char *const save_steps[] = {"suspend-calls", "release-agent", "save-vm", "reconnect-agent"};
	static const char *const restore_steps[] = {"start-vm", "connect-agent", "tell-guest", "restore"};
	static const char *const where[] = {"before", "after"};
	kata_snapshot *snapshot = NULL;
	kata_error *err = NULL;
	struct census *before;
	struct stage st;
	char *path;

	stage_init(&st);
	path = fixture_path(&st.m.f, "snap");
	fill(&st);
	for (size_t i = 0; i < 8; i++) {
		assert_save_fails(&st, path, save_steps[i / 2], where[i % 2]);
		cr_assert_neq(access(path, F_OK), 0, "%s:%s left a snapshot", save_steps[i / 2], where[i % 2]);
	}
	save(&st, "snap");
	destroy(&st);
	fixture_assert_ok(kata_snapshot_open(st.m.f.context, path, 0, &snapshot, &err), err);
	before = fixture_census(&st.m.f);
	for (size_t i = 0; i < 8; i++)
		assert_restore_fails(&st, snapshot, restore_steps[i / 2], where[i % 2]);
	fixture_assert_census(&st.m.f, before, "after restores that failed");
	st.s = restore(&st, "snap", "again");
	assert_goes_on(&st, 1);
	destroy(&st);
	kata_snapshot_free(snapshot);
	free(path);
	stage_deinit(&st);
}

Test(sandbox_save, bad_arguments_are_named)
{
	kata_restore_options paused = KATA_RESTORE_OPTIONS_INIT;
	kata_snapshot_options many = KATA_SNAPSHOT_OPTIONS_INIT;
	const kata_snapshot_disk_choice disk = {"none", KATA_SNAPSHOT_DISK_COPY};
	kata_snapshot *snapshot = NULL;
	kata_sandbox *s = NULL;
	kata_agent *agent;
	kata_error *err = NULL;
	kata_op *op = NULL;
	struct stage st;
	kata_vm *vm;
	char *path;

	stage_init(&st);
	path = fixture_path(&st.m.f, "plain");
	stage_start(&st);
	fixture_assert_fails(kata_sandbox_save_begin(st.s, NULL, NULL, NULL, &op, &err), KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), "path"), "%s", error_text(err));
	error_clear(&err);
	agent = kata_sandbox_get_agent(st.s);
	fixture_assert_fails(kata_sandbox_save(st.s, "relative", NULL, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	many.disks = &disk;
	many.disk_count = SIZE_MAX;
	fixture_assert_fails(kata_sandbox_save(st.s, path, &many, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	cr_assert_eq(kata_sandbox_get_state(st.s), KATA_SANDBOX_RUNNING);
	cr_assert_eq(kata_agent_get_state(agent), KATA_AGENT_CONNECTED, "it was let go of");
	kata_agent_unref(agent);
	destroy(&st);

	machine_build(&st.m, "plain");
	machine_start_paused(&st.m);
	vm = st.m.vm;
	fixture_assert_ok(kata_vm_snapshot(vm, path, NULL, NULL, &snapshot, &err), err);
	machine_destroy(&st.m);
	fixture_assert_fails(kata_sandbox_build_from_snapshot(st.m.f.context, snapshot, st.m.builder, NULL, NULL, NULL,
							      NULL, &s, &err),
			     KATA_E_NOT_FOUND, err);
	error_clear(&err);
	paused.flags = KATA_RESTORE_PAUSED;
	fixture_assert_fails(kata_sandbox_build_from_snapshot(st.m.f.context, snapshot, st.m.builder, NULL, &paused,
							      NULL, NULL, &s, &err),
			     KATA_E_INVALID, err);
	error_clear(&err);
	kata_snapshot_free(snapshot);
	free(path);
	stage_deinit(&st);
}
