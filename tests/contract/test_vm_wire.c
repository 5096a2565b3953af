/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The QEMU driver at the wire: the stand-in misbehaves at each command of each operation in turn. Whatever it does, the
 * call ends by its deadline with an error that is documented, destroy works, and the host is as before.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "support/fixture.h"

#define TIMEOUT_MS 300 /* of the operation under test */
#define UNDO_MS 4500   /* most that taking back may add to it, and any other call may take */
#define DESTROY_MS 3000

static struct fixture f;
static char *standin, *kernel;
static kata_vm_builder *builder;
static kata_vm *vm;
static kata_storage *disk;
static kata_nic *nic;
static char *record;
static kata_error *err;

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void build(void)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	config.id = "vm";
	config.kernel = kernel;
	config.initrd = kernel;
	config.device_slots = 2;
	fixture_assert_ok(kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err), err);
}

static void drop_vm(void)
{
	kata_vm_unref(vm);
	vm = NULL;
}

/* With the capabilities cached, so that scripts meet machines only; and with one machine's life behind it. */
static void set_up(void)
{
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;
	char *path;

	fixture_init(&f, true, 0);
	standin = fixture_make_standin(&f, "");
	kernel = fixture_make_kernel(&f);
	options.binary = standin;
	options.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(f.context, &options, &builder, &err), err);
	path = fixture_make_raw(&f, "disk.raw", 1 << 20);
	disk = fixture_storage("disk", path, KATA_STORAGE_VIRTIO_BLK);
	free(path);
	nic = fixture_nic("nic", NULL);
	build();
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	drop_vm();
}

static void tear_down(void)
{
	error_clear(&err);
	kata_storage_unref(disk);
	kata_nic_unref(nic);
	kata_vm_builder_free(builder);
	free(standin);
	free(kernel);
	free(record);
	record = NULL;
	fixture_deinit(&f);
}

TestSuite(vm_wire, .init = set_up, .fini = tear_down, .timeout = 600);

/* ---- operations: what must have gone well before, and the call itself */

static const kata_op_options timely = {sizeof(timely), TIMEOUT_MS};

static void built(void)
{
	build();
}

static void started(void)
{
	build();
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
}

static void with_disk(void)
{
	started();
	fixture_assert_ok(kata_vm_add_storage(vm, disk, NULL, &err), err);
}

static void with_nic(void)
{
	started();
	fixture_assert_ok(kata_vm_add_nic(vm, nic, NULL, &err), err);
}

static void paused(void)
{
	started();
	fixture_assert_ok(kata_vm_pause(vm, NULL, &err), err);
}

static void released(void)
{
	with_disk();
	free(record);
	record = NULL;
	fixture_assert_ok(kata_vm_release(vm, NULL, &record, &err), err);
	drop_vm();
}

static void taken_over(void)
{
	released();
	fixture_assert_ok(kata_vm_builder_build_from_released(builder, record, strlen(record), NULL, &vm, &err), err);
}

/* Its record is held against the machine, since there is no copy to hold it against. */
static void released_uncopied(void)
{
	char path[80];

	released();
	snprintf(path, sizeof(path), "%s/vm/vm/released.json", f.state_dir);
	cr_assert_eq(unlink(path), 0);
}

static int call_start(kata_error **e)
{
	return kata_vm_start(vm, &timely, e);
}
static int call_plug_disk(kata_error **e)
{
	return kata_vm_add_storage(vm, disk, &timely, e);
}
static int call_unplug_disk(kata_error **e)
{
	return kata_vm_remove_storage(vm, "disk", &timely, e);
}
static int call_plug_nic(kata_error **e)
{
	return kata_vm_add_nic(vm, nic, &timely, e);
}
static int call_unplug_nic(kata_error **e)
{
	return kata_vm_remove_nic(vm, "nic", &timely, e);
}
static int call_pause(kata_error **e)
{
	return kata_vm_pause(vm, &timely, e);
}
static int call_resume(kata_error **e)
{
	return kata_vm_resume(vm, &timely, e);
}
static int call_release(kata_error **e)
{
	free(record);
	record = NULL;
	return kata_vm_release(vm, &timely, &record, e);
}
static int call_rebuild(kata_error **e)
{
	return kata_vm_builder_build_from_released(builder, record, strlen(record), &timely, &vm, e);
}
static int call_destroy(kata_error **e)
{
	return kata_vm_destroy(vm, &timely, e);
}

struct operation {
	const char *name;
	void (*prepare)(void);
	int (*call)(kata_error **e);
};
static const struct operation start = {"start", built, call_start};
static const struct operation plug_disk = {"plug a disk", started, call_plug_disk};
static const struct operation unplug_disk = {"unplug a disk", with_disk, call_unplug_disk};
static const struct operation plug_nic = {"plug a NIC", started, call_plug_nic};
static const struct operation unplug_nic = {"unplug a NIC", with_nic, call_unplug_nic};
static const struct operation pause_it = {"pause", started, call_pause};
static const struct operation resume = {"resume", paused, call_resume};
static const struct operation release = {"release", with_disk, call_release};
static const struct operation rebuild = {"rebuild", released, call_rebuild};
static const struct operation compare = {"rebuild without a copy", released_uncopied, call_rebuild};
static const struct operation pause_taken = {"pause after a rebuild", taken_over, call_pause};
static const struct operation destroy = {"destroy", with_disk, call_destroy};

static bool is_rebuild(const struct operation *o)
{
	return o == &rebuild || o == &compare;
}

/* ---- one case */

/* What a broken VMM may be reported as. */
static bool is_documented(int status)
{
	return status == KATA_E_VMM || status == KATA_E_PROTOCOL || status == KATA_E_GONE || status == KATA_E_TIMEOUT ||
	       status == KATA_E_IDENTITY || status == KATA_E_CORRUPT;
}

/* A killed process is there for some moments more. */
static void await_no_process(void)
{
	const struct timespec pause = {0, 2000000};
	uint64_t deadline_ms = now_ms() + DESTROY_MS;

	while (census_find_processes(f.dir, NULL, 0) && now_ms() < deadline_ms)
		nanosleep(&pause, NULL);
}

/* A machine that nobody drives any more (a rebuild that failed): taken over once it answers again, or killed if it
 * cannot. */
static void end_orphan(const char *what)
{
	int64_t pids[4];
	size_t count = census_find_processes(f.dir, pids, 4);

	fixture_set_script(standin, "");
	for (size_t i = 0; i < count && i < 4; i++)
		kill((pid_t)pids[i], SIGCONT);
	if (kata_vm_builder_build_from_released(builder, record, strlen(record), NULL, &vm, &err) == 0)
		return;
	cr_assert(is_documented((int)kata_error_get_status(err)), "%s: %s", what, error_text(err));
	error_clear(&err);
	for (size_t i = 0; i < count && i < 4; i++)
		kill((pid_t)pids[i], SIGKILL);
	await_no_process();
}

static void remove_orphans(const char *what)
{
	kata_recover_report *report = NULL;

	fixture_assert_ok(fixture_recover(f.context, NULL, KATA_RECOVER_APPLY, &report, &err), err);
	for (size_t i = 0; i < kata_recover_report_get_count(report); i++)
		cr_assert_neq(kata_recover_report_get_verdict(report, i), KATA_RECOVER_FAILED, "%s: %s", what,
			      kata_recover_report_get_text(report, i));
	kata_recover_report_free(report);
}

static void end_machine(const struct operation *o, const char *what)
{
	uint64_t start_ms;

	if (vm && kata_vm_get_state(vm) == KATA_VM_RELEASED)
		drop_vm();
	if (!vm && record && (is_rebuild(o) || o == &release))
		end_orphan(what);
	start_ms = now_ms();
	if (vm)
		fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	cr_assert_lt(now_ms() - start_ms, DESTROY_MS, "%s: the destroy took %llu ms", what,
		     (unsigned long long)(now_ms() - start_ms));
	drop_vm();
	if (is_rebuild(o) || o == &release)
		remove_orphans(what);
	cr_assert_eq(kata_storage_get_state(disk), KATA_DEVICE_NEW, "%s", what);
	cr_assert_eq(kata_nic_get_state(nic), KATA_DEVICE_NEW, "%s", what);
}

enum expectation { FAILS, SUCCEEDS, EITHER };

static void check_outcome(const char *what, int rc, enum expectation expected, uint64_t took_ms)
{
	cr_assert(rc < 0 || expected != FAILS, "%s: it succeeded", what);
	cr_assert(rc == 0 || expected != SUCCEEDS, "%s: %s", what, error_text(err));
	cr_assert(rc == 0 || is_documented(rc), "%s: %s", what, error_text(err));
	cr_assert(rc == 0 || kata_error_get_step(err), "%s: the error names no step: %s", what, error_text(err));
	cr_assert_lt(took_ms, TIMEOUT_MS + UNDO_MS, "%s: it took %llu ms", what, (unsigned long long)took_ms);
}

/* `script` is one line; `meddle` (may be NULL) is done to the process before the call. Returns the call's status. */
static int run_case(const struct operation *o, const char *script, void (*meddle)(void), enum expectation expected)
{
	struct census *before = fixture_census(&f);
	uint64_t start_ms;
	char what[256];
	int rc;

	snprintf(what, sizeof(what), "%s, '%s'%s", o->name, script, meddle ? " (meddled)" : "");
	fixture_set_script(standin, script);
	o->prepare();
	if (meddle)
		meddle();
	start_ms = now_ms();
	rc = o->call(&err);
	check_outcome(what, rc, expected, now_ms() - start_ms);
	error_clear(&err);
	end_machine(o, what);
	fixture_assert_census(&f, before, what);
	return rc;
}

/* ---- every fault at every command */

static const struct fault {
	const char *action;
	enum expectation expected;
} faults[] = {
	{"error \"no, thank you\"", FAILS},
	{"half-line", FAILS},
	{"garbage", FAILS},
	{"line 1048577", FAILS},
	{"silence", FAILS},
	{"lost", FAILS},
	{"hang-up", FAILS},
	{"kill", FAILS},
	{"stop", FAILS},
	{"exit 1 \"last words\"", FAILS},
	{"flood 100000", EITHER}, /* a slow machine may need longer than the deadline for it */
	{"reply-twice", EITHER},
	{"unasked", EITHER},
	{"wrong-type", EITHER},
	{"delay 50", SUCCEEDS},
};

/* Past the point of no return: a broken connection is as good as an answer where the command only takes away. */
static void fail_after_deletion(const struct operation *o, const char *command)
{
	char script[160];

	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		snprintf(script, sizeof(script), "on %s %s\n", command, faults[i].action);
		run_case(o, script, NULL, i && faults[i].expected == FAILS ? EITHER : faults[i].expected);
	}
}

static void fail_with(const struct operation *o, const char *before, const char *command)
{
	char script[160];

	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		snprintf(script, sizeof(script), "%son %s %s\n", before, command, faults[i].action);
		run_case(o, script, NULL, faults[i].expected);
	}
}

static void fail_at(const struct operation *o, const char *command)
{
	fail_with(o, "", command);
}

Test(vm_wire, start_survives_every_fault_at_the_greeting)
{
	for (size_t i = 1; i < sizeof(faults) / sizeof(faults[0]) - 1; i++) {
		char script[160];

		snprintf(script, sizeof(script), "on greeting %s\n", faults[i].action);
		run_case(&start, script, NULL,
			 strncmp(faults[i].action, "flood", 5) == 0 ? EITHER : faults[i].expected);
	}
}
Test(vm_wire, start_survives_every_fault_at_qmp_capabilities)
{
	fail_at(&start, "qmp_capabilities");
}
Test(vm_wire, start_survives_every_fault_at_cont)
{
	fail_at(&start, "cont");
}
Test(vm_wire, plug_disk_survives_every_fault_at_add_fd)
{
	fail_at(&plug_disk, "add-fd");
}
Test(vm_wire, plug_disk_survives_every_fault_at_blockdev_add)
{
	fail_at(&plug_disk, "blockdev-add");
}
Test(vm_wire, plug_disk_survives_every_fault_at_device_add)
{
	fail_at(&plug_disk, "device_add");
}
Test(vm_wire, unplug_disk_survives_every_fault_at_device_del)
{
	fail_at(&unplug_disk, "device_del#1");
}
Test(vm_wire, unplug_disk_survives_every_fault_at_blockdev_del)
{
	fail_after_deletion(&unplug_disk, "blockdev-del#1");
}
Test(vm_wire, unplug_disk_survives_every_fault_at_remove_fd)
{
	fail_after_deletion(&unplug_disk, "remove-fd#1");
}
Test(vm_wire, plug_nic_survives_every_fault_at_netdev_add)
{
	fail_at(&plug_nic, "netdev_add");
}
Test(vm_wire, plug_nic_survives_every_fault_at_device_add)
{
	fail_at(&plug_nic, "device_add");
}
Test(vm_wire, unplug_nic_survives_every_fault_at_device_del)
{
	fail_at(&unplug_nic, "device_del#1");
}
Test(vm_wire, unplug_nic_survives_every_fault_at_netdev_del)
{
	fail_after_deletion(&unplug_nic, "netdev_del#1");
}
Test(vm_wire, plug_tap_survives_every_fault_at_getfd)
{
	kata_nic_config config = KATA_NIC_CONFIG_INIT;

	if (access("/dev/net/tun", R_OK | W_OK) < 0)
		cr_skip_test("/dev/net/tun cannot be opened");
	/* The thread that opens taps was made before: it is in the namespace of the test's first thread. */
	tear_down();
	if (!fixture_enter_netns())
		cr_skip_test("a network namespace of its own needs CAP_SYS_ADMIN");
	set_up();
	kata_nic_unref(nic);
	config.id = "nic";
	config.type = KATA_NIC_TAP;
	nic = NULL;
	fixture_assert_ok(kata_nic_new(&config, &nic, &err), err);
	fail_at(&plug_nic, "getfd");
}
Test(vm_wire, pause_survives_every_fault_at_stop)
{
	fail_at(&pause_it, "stop#1");
}
Test(vm_wire, resume_survives_every_fault_at_cont)
{
	fail_at(&resume, "cont#2");
}
Test(vm_wire, rebuild_survives_every_fault_at_the_greeting)
{
	for (size_t i = 1; i < sizeof(faults) / sizeof(faults[0]) - 1; i++) {
		char script[160];

		snprintf(script, sizeof(script), "on greeting#2 %s\n", faults[i].action);
		run_case(&rebuild, script, NULL, EITHER);
	}
}
Test(vm_wire, rebuild_survives_every_fault_at_qmp_capabilities)
{
	fail_at(&rebuild, "qmp_capabilities#2");
}
/* One that compared nothing asks for the devices afterwards, before anything else is asked. */
Test(vm_wire, what_comes_after_a_rebuild_survives_every_fault_at_the_look_for_lost_devices)
{
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]) - 1; i++) {
		char script[160];

		snprintf(script, sizeof(script), "on qom-list#1 %s\n", faults[i].action);
		run_case(&pause_taken, script, NULL, i ? EITHER : SUCCEEDS);
	}
}
Test(vm_wire, rebuild_survives_every_fault_at_query_uuid)
{
	fail_with(&rebuild, "on start lost\n",
		  "query-uuid#1"); /* it is asked where the kernel does not say who answers */
}
Test(vm_wire, rebuild_survives_every_fault_at_query_status)
{
	fail_at(&rebuild, "query-status#1");
}
Test(vm_wire, rebuild_survives_every_fault_at_qom_list)
{
	fail_at(&compare, "qom-list#1");
}
Test(vm_wire, rebuild_survives_every_fault_at_qom_get)
{
	fail_at(&compare, "qom-get#1");
}
Test(vm_wire, rebuild_survives_every_fault_at_query_fdsets)
{
	fail_at(&compare, "query-fdsets#1");
}
Test(vm_wire, rebuild_survives_every_fault_at_query_named_block_nodes)
{
	fail_at(&compare, "query-named-block-nodes#1");
}

/* ---- the order of reply and event */

Test(vm_wire, an_event_before_the_reply_is_understood)
{
	run_case(&unplug_disk, "on device_del event-first\n", NULL, SUCCEEDS);
	run_case(&unplug_nic, "on device_del event-first\n", NULL, SUCCEEDS);
}

Test(vm_wire, a_late_event_of_a_device_before_it_is_not_taken_for_that_of_the_new_one)
{
	run_case(&plug_disk, "on device_add event-first\n", NULL, SUCCEEDS);
	run_case(&plug_nic, "on device_add event-first\n", NULL, SUCCEEDS);
}

Test(vm_wire, a_node_that_a_deleted_device_still_holds_is_asked_for_again)
{
	run_case(&unplug_disk,
		 "on blockdev-del#1 error \"Node b0 is in use\"\non blockdev-del#2 error \"Node b0 is in use\"\n", NULL,
		 SUCCEEDS);
}

Test(vm_wire, a_guest_that_does_not_let_go_is_a_timeout)
{
	cr_assert_eq(run_case(&unplug_disk, "on device_del no-event\n", NULL, FAILS), KATA_E_TIMEOUT);
	cr_assert_eq(run_case(&unplug_nic, "on device_del no-event\n", NULL, FAILS), KATA_E_TIMEOUT);
}

Test(vm_wire, an_unplug_can_be_asked_for_again_when_the_guest_was_slow)
{
	fixture_set_script(standin, "on device_del#1 no-event\n");
	with_disk();
	fixture_assert_fails(call_unplug_disk(&err), KATA_E_TIMEOUT, err);
	error_clear(&err);
	cr_assert_eq(kata_storage_get_state(disk), KATA_DEVICE_PLUGGED);
	kata_op_options patient = {sizeof(patient), 10000};
	fixture_assert_ok(kata_vm_remove_storage(vm, "disk", &patient, &err), err);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	drop_vm();
}

/* ---- what an error says */

Test(vm_wire, the_vmms_refusal_is_in_the_error)
{
	fixture_set_script(standin, "on blockdev-add#1 error \"the disk is upside down\"\n");
	started();
	fixture_assert_fails(call_plug_disk(&err), KATA_E_VMM, err);
	cr_assert(strstr(error_text(err), "the disk is upside down"), "%s", error_text(err));
	cr_assert_str_eq(kata_error_get_step(err), "plug-storage/blockdev-add");
	error_clear(&err);
	fixture_assert_ok(call_plug_disk(&err), err);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	drop_vm();
}

Test(vm_wire, a_vmm_that_dies_at_its_start_leaves_its_last_words)
{
	fixture_set_script(standin, "on start exit 1 \"qemu: no such luck\"\n");
	build();
	fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_GONE, err);
	cr_assert_not_null(kata_error_get_vmm_output(err), "%s", error_text(err));
	cr_assert(strstr(kata_error_get_vmm_output(err), "no such luck"), "%s", kata_error_get_vmm_output(err));
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	error_clear(&err);
	fixture_set_script(standin, "");
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	drop_vm();
}

/* ---- a VMM that is killed or stopped between calls */

static void kill_it(void)
{
	int64_t pids[4];
	size_t count = census_find_processes(f.dir, pids, 4);

	cr_assert_geq(count, 1u);
	for (size_t i = 0; i < count && i < 4; i++)
		kill((pid_t)pids[i], SIGKILL);
}

static void stop_it(void)
{
	int64_t pids[4];
	size_t count = census_find_processes(f.dir, pids, 4);

	cr_assert_geq(count, 1u);
	for (size_t i = 0; i < count && i < 4; i++)
		kill((pid_t)pids[i], SIGSTOP);
}

static int begin_pause(kata_op **op)
{
	return kata_vm_pause_begin(vm, NULL, op, NULL);
}
static int begin_plug_disk(kata_op **op)
{
	return kata_vm_add_storage_begin(vm, disk, NULL, op, NULL);
}
static int begin_plug_nic(kata_op **op)
{
	return kata_vm_add_nic_begin(vm, nic, NULL, op, NULL);
}

/* The end may be noticed before the call: then the state forbids it. */
static void run_killed(const struct operation *o)
{
	struct census *before = fixture_census(&f);
	uint64_t start_ms;
	int rc;

	fixture_set_script(standin, "");
	o->prepare();
	kill_it();
	start_ms = now_ms();
	rc = o->call(&err);
	cr_assert(rc == 0 || rc == KATA_E_STATE || is_documented(rc), "%s: %s", o->name, error_text(err));
	cr_assert(rc < 0 || o == &destroy || o == &release, "%s succeeded on a dead VMM", o->name);
	cr_assert_lt(now_ms() - start_ms, TIMEOUT_MS + UNDO_MS, "%s", o->name);
	error_clear(&err);
	end_machine(o, o->name);
	fixture_assert_census(&f, before, o->name);
}

Test(vm_wire, a_killed_vmm_is_an_error_by_the_deadline)
{
	static const struct operation *const all[] = {&plug_disk, &unplug_disk, &plug_nic, &unplug_nic, &pause_it,
						      &resume,    &release,     &rebuild,  &destroy};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		run_killed(all[i]);
}

Test(vm_wire, a_stopped_vmm_is_an_error_by_the_deadline)
{
	static const struct operation *const all[] = {&plug_disk, &unplug_disk, &plug_nic, &unplug_nic,
						      &pause_it,  &resume,      &rebuild};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		cr_assert_eq(run_case(all[i], "", stop_it, FAILS), KATA_E_TIMEOUT, "%s", all[i]->name);
}

Test(vm_wire, a_stopped_vmm_can_be_released_and_destroyed)
{
	run_case(&release, "", stop_it, EITHER);
	run_case(&destroy, "", stop_it, SUCCEEDS);
}

static void *wait_for_op(void *op)
{
	return (void *)(intptr_t)kata_op_wait(op, &err);
}

Test(vm_wire, a_waiter_on_another_thread_is_told_that_the_stopped_vmm_was_destroyed)
{
	static int (*const begins[])(kata_op **) = {begin_pause, begin_plug_disk, begin_plug_nic};

	for (size_t i = 0; i < sizeof(begins) / sizeof(begins[0]); i++) {
		kata_op *op = NULL;
		pthread_t waiter;
		void *status;

		started();
		stop_it();
		cr_assert_eq(begins[i](&op), 0);
		cr_assert_eq(pthread_create(&waiter, NULL, wait_for_op, op), 0);
		fixture_assert_ok(kata_vm_destroy(vm, NULL, NULL), NULL);
		pthread_join(waiter, &status);
		cr_assert_eq((intptr_t)status, KATA_E_GONE, "%zu: %s", i, error_text(err));
		cr_assert(strstr(error_text(err), "the VM was destroyed meanwhile"), "%s", error_text(err));
		cr_assert_not(kata_error_is_uncertain(err), "%zu: %s", i, error_text(err));
		error_clear(&err);
		kata_op_unref(op);
		drop_vm();
	}
}

/* ---- a flood between calls */

Test(vm_wire, a_flood_of_events_costs_no_memory_and_no_call)
{
	fixture_set_script(standin, "on stop flood 100000\n");
	started();
	for (int i = 0; i < 3; i++) {
		kata_op_options patient = {sizeof(patient), 60000};

		fixture_assert_ok(kata_vm_pause(vm, &patient, &err), err);
		fixture_assert_ok(kata_vm_resume(vm, &patient, &err), err);
	}
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	drop_vm();
}

/* ---- the probe */

static void refuses_to_build(const char *script, int status)
{
	struct fixture own;
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;
	kata_capabilities caps = {.size = sizeof(caps)};
	kata_vm_builder *b = NULL;
	struct census *before;
	char *binary;
	char cache[64];

	fixture_init(&own, true, 0);
	snprintf(cache, sizeof(cache), "%s/cache", own.state_dir);
	binary = fixture_make_standin(&own, script);
	options.binary = binary;
	options.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(own.context, &options, &b, &err), err);
	cr_assert_eq(mkdir(cache, 0700), 0);
	before = fixture_census(&own);
	cr_assert_eq(kata_vm_builder_get_capabilities(b, &caps, &err), status, "%s: %s", script, error_text(err));
	error_clear(&err);
	fixture_assert_census(&own, before, script);
	fixture_set_script(binary, "");
	fixture_assert_ok(kata_vm_builder_get_capabilities(b, &caps, &err), err);
	cr_assert_str_eq(caps.driver, "qemu");
	cr_assert_str_eq(caps.vmm_version, "7.2.22");
	kata_vm_builder_free(b);
	free(binary);
	fixture_deinit(&own);
}

Test(vm_wire, a_probe_of_a_broken_binary_is_an_error_and_is_not_cached)
{
	refuses_to_build("on start exit 1 \"cannot allocate memory\"\n", KATA_E_GONE);
	refuses_to_build("on greeting garbage\n", KATA_E_PROTOCOL);
	refuses_to_build("on query-machines error \"no machines today\"\n", KATA_E_VMM);
	refuses_to_build("on query-machines wrong-type\n", KATA_E_PROTOCOL);
	refuses_to_build("on qom-list-types line 1048577\n", KATA_E_PROTOCOL);
	refuses_to_build("on qom-list-types hang-up\n", KATA_E_GONE);
	refuses_to_build("on query-machines kill\n", KATA_E_GONE);
}
