/* SPDX-License-Identifier: Apache-2.0 */
/* A machine that is kept warm: laid up, named, marked, and then a VM that is CREATED like any other. */
#include <sys/stat.h>

#include "fake_driver.h"
#include "vm/warm.h"

static struct fixture f;
static kata_vm *vm;
static kata_error *err;

static void setup(void)
{
	fixture_init(&f, true, 0);
	vm = fake_started_vm(&f, "stock-1", 4);
	fixture_assert_ok(kata_vm_pause(vm, NULL, &err), err);
}

static void teardown(void)
{
	kata_vm_unref(vm);
	error_clear(&err);
	fixture_deinit(&f);
}

TestSuite(warm, .init = setup, .fini = teardown, .timeout = 30);

/* ---- the leader's functions, called from here */

struct request {
	const char *id; /* NULL: stock */
	bool move;
	int rc;
};

static void act(void *user)
{
	struct request *r = user;

	if (!r->id)
		r->rc = kata__vm_stock(vm, KATA_VM_WARM, &err);
	else
		r->rc = kata__vm_claim_id(vm, r->id, &err);
	if (r->rc == 0 && r->move)
		r->rc = kata__vm_move(vm, &err);
}

static int claim(const char *id, bool move)
{
	struct request r = {id, move, 0};

	fake_on_leader(&f, act, &r);
	return r.rc;
}

static int stock(void)
{
	struct request r = {NULL, false, 0};

	fake_on_leader(&f, act, &r);
	return r.rc;
}

static bool exists(const char *id, const char *name)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/vm/%s/%s", f.state_dir, id, name);
	return access(path, F_OK) == 0;
}

/* ---- states */

Test(warm, a_stocked_machine_is_created_and_tells_where_it_comes_from)
{
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_BOOTED);
	cr_assert_not(kata__vm_is_warm(vm));
	fixture_assert_ok(stock(), err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_WARM);
	cr_assert(kata__vm_is_warm(vm));
	cr_assert_gt(kata_vm_get_pid(vm), 0);
	cr_assert_str_eq(kata_vm_origin_get_name(kata_vm_get_origin(vm)), "warm");
	cr_assert_str_eq(kata_vm_origin_get_name((kata_vm_origin)77), "unknown");
}

Test(warm, its_start_is_short_and_it_runs)
{
	kata_op *op = NULL;

	fixture_assert_ok(stock(), err);
	fixture_assert_ok(kata_vm_start_begin(vm, NULL, &op, &err), err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	cr_assert_str_eq(kata_op_get_name(op), "start-warm");
	kata_op_unref(op);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_RUNNING);
	cr_assert_not(kata__vm_is_warm(vm));
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_WARM);
	fixture_assert_ok(kata_vm_pause(vm, NULL, &err), err);
	fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_STATE, err);
}

Test(warm, a_failed_start_leaves_it_created_and_warm)
{
	fixture_assert_ok(stock(), err);
	fake_arm(&f, "start-warm/act:after", KATA_FAIL_ERROR);
	fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_INJECTED, err);
	error_clear(&err);
	kata_context_clear_fail_point(f.context, NULL);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	cr_assert(kata__vm_is_warm(vm));
	cr_assert_gt(kata_vm_get_pid(vm), 0);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
}

Test(warm, a_machine_that_dies_before_the_start_has_ended)
{
	fixture_assert_ok(stock(), err);
	fake_on_leader(&f, fake_end, vm);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_ENDED);
	fixture_assert_ok(kata_vm_wait(vm, 0, &err), err);
	fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_STATE, err);
}

Test(warm, a_machine_that_dies_in_a_start_that_fails_has_ended)
{
	kata_op *op = NULL;

	fixture_assert_ok(stock(), err);
	fake_arm(&f, "start-warm/last:before", KATA_FAIL_HANG);
	fixture_assert_ok(kata_vm_start_begin(vm, NULL, &op, &err), err);
	fake_await_steps(op, 1);
	fake_on_leader(&f, fake_end, vm);
	kata_op_cancel(op);
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_CANCELLED, err);
	kata_op_unref(op);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_ENDED);
}

Test(warm, the_last_unref_ends_it)
{
	fixture_assert_ok(stock(), err);
	kata_vm_unref(vm);
	vm = NULL;
	cr_assert_not(exists("stock-1", "owner.json"));
}

Test(warm, only_a_paused_machine_that_nobody_works_on_is_laid_up)
{
	int fd = -1;

	fixture_assert_ok(kata_vm_resume(vm, NULL, &err), err);
	fixture_assert_fails(stock(), KATA_E_STATE, err);
	error_clear(&err);
	fixture_assert_ok(kata_vm_pause(vm, NULL, &err), err);
	fixture_assert_ok(kata__vm_connect_agent(vm, &fd, &err), err);
	fixture_assert_fails(stock(), KATA_E_BUSY, err);
	error_clear(&err);
	close(fd);
	kata__vm_disconnect_agent(vm);
	fixture_assert_ok(stock(), err);
	fixture_assert_fails(stock(), KATA_E_STATE, err);
	fixture_assert_fails(kata__vm_connect_agent(vm, &fd, NULL), KATA_E_STATE, err);
}

/* ---- devices */

Test(warm, devices_are_plugged_before_the_start_as_into_a_running_machine)
{
	char *path = fixture_make_raw(&f, "disk.raw", 1 << 20);
	kata_storage *disk = fixture_storage("disk", path, KATA_STORAGE_VIRTIO_BLK);
	kata_nic *nic = fixture_nic("nic", NULL);
	kata_op *op = NULL;

	fixture_assert_ok(stock(), err);
	fixture_assert_ok(kata_vm_add_storage_begin(vm, disk, NULL, &op, &err), err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	cr_assert_str_eq(kata_op_get_name(op), "plug-storage-warm");
	kata_op_unref(op);
	fixture_assert_ok(kata_vm_add_nic(vm, nic, NULL, &err), err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	cr_assert_eq(kata_vm_get_storage_count(vm), 1u);
	fixture_assert_ok(kata_vm_remove_storage(vm, "disk", NULL, &err), err);
	cr_assert_eq(kata_storage_get_state(disk), KATA_DEVICE_NEW);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	cr_assert_eq(kata_vm_get_nic_count(vm), 1u);
	kata_storage_unref(disk);
	kata_nic_unref(nic);
	free(path);
}

Test(warm, a_start_waits_for_no_plug_that_is_under_way)
{
	kata_nic *nic = fixture_nic("nic", NULL);
	kata_op *op = NULL;

	fixture_assert_ok(stock(), err);
	fake_arm(&f, "plug-nic/act:before", KATA_FAIL_HANG);
	fixture_assert_ok(kata_vm_add_nic_begin(vm, nic, NULL, &op, &err), err);
	fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_BUSY, err);
	kata_op_cancel(op);
	fixture_assert_fails(kata_op_wait(op, NULL), KATA_E_CANCELLED, kata_op_get_error(op));
	kata_op_unref(op);
	kata_nic_unref(nic);
}

/* Resume, plug and pause of the fake each act once. */
Test(warm, the_guest_runs_once_for_plugs_side_by_side)
{
	kata_nic *nics[2] = {fixture_nic("a", NULL), fixture_nic("b", NULL)};
	kata_op *ops[2] = {NULL, NULL};
	int acts;

	fixture_assert_ok(stock(), err);
	acts = fake_of(vm)->acts;
	fixture_assert_ok(
		kata_context_set_fail_point(f.context, "plug-nic-warm/device:before", KATA_FAIL_DELAY, 50, 0, 0, &err),
		err);
	for (int i = 0; i < 2; i++)
		fixture_assert_ok(kata_vm_add_nic_begin(vm, nics[i], NULL, &ops[i], &err), err);
	for (int i = 0; i < 2; i++) {
		fixture_assert_ok(kata_op_wait(ops[i], &err), err);
		kata_op_unref(ops[i]);
		kata_nic_unref(nics[i]);
	}
	cr_assert_eq(fake_of(vm)->acts - acts, 4, "one resume, two plugs, one pause; %d", fake_of(vm)->acts - acts);
}

Test(warm, a_guest_that_cannot_be_let_run_gets_no_device_and_the_next_try_works)
{
	kata_nic *nic = fixture_nic("nic", NULL);
	static const char *const points[] = {"resume/act:before", "plug-nic/act:before", "pause/act:before",
					     "plug-nic-warm/rest-guest:after"};

	fixture_assert_ok(stock(), err);
	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		fixture_assert_ok(kata_context_set_fail_point(f.context, points[i], KATA_FAIL_ERROR, 0, 0, 1, &err),
				  err);
		fixture_assert_fails(kata_vm_add_nic(vm, nic, NULL, &err), KATA_E_INJECTED, err);
		error_clear(&err);
		cr_assert_eq(kata_nic_get_state(nic), KATA_DEVICE_NEW, "%s", points[i]);
		cr_assert_eq(vm->shared->warm_runs, 0u, "%s", points[i]);
		fixture_assert_ok(kata_vm_add_nic(vm, nic, NULL, &err), err);
		fixture_assert_ok(kata_vm_remove_nic(vm, "nic", NULL, &err), err);
	}
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	kata_nic_unref(nic);
}

/* ---- names and the mark */

Test(warm, it_gets_the_id_of_who_takes_it_and_its_record_says_so)
{
	char *json = NULL;

	fixture_assert_ok(claim("mine", true), err);
	cr_assert_str_eq(kata_vm_get_id(vm), "mine");
	cr_assert_not(exists("stock-1", ""));
	cr_assert(exists("mine", "owner.json"));
	fixture_assert_ok(kata_vm_release(vm, NULL, &json, &err), err);
	cr_assert(strstr(json, "\"id\":\"mine\""), "%s", json);
	cr_assert_not(strstr(json, "stock-1"));
	cr_assert(exists("mine", "released.json"));
	kata_vm_unref(vm);
	vm = NULL;
	fixture_assert_ok(fake_rebuild_wait(&f, json, &vm, &err), err);
	cr_assert_str_eq(kata_vm_get_id(vm), "mine");
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_BOOTED);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	cr_assert_not(exists("mine", ""));
	free(json);
}

Test(warm, its_old_id_is_free_again)
{
	kata_vm *other;

	fixture_assert_ok(claim("mine", true), err);
	other = fake_started_vm(&f, "stock-1", 1);
	kata_vm_unref(other);
}

Test(warm, an_id_of_another_vm_is_refused_and_nothing_has_changed)
{
	kata_vm *other = fake_new_vm(&f, "mine", 1);

	fixture_assert_fails(claim("mine", true), KATA_E_EXISTS, err);
	error_clear(&err);
	cr_assert_str_eq(kata_vm_get_id(vm), "stock-1");
	cr_assert(exists("stock-1", "owner.json"));
	kata_vm_unref(other);
	fixture_assert_ok(claim("mine", true), err);
	fixture_assert_ok(claim("mine", true), err); /* again: nothing */
}

Test(warm, a_directory_of_that_id_is_refused)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/vm/mine", f.state_dir);
	cr_assert_eq(mkdir(path, 0700), 0);
	fixture_assert_fails(claim("mine", true), KATA_E_EXISTS, err);
	error_clear(&err);
	cr_assert_str_eq(kata_vm_get_id(vm), "stock-1");
	cr_assert_eq(rmdir(path), 0);
	fixture_assert_ok(claim("mine", false), err);
	cr_assert_eq(mkdir(path, 0700), 0); /* another process was quicker */
	fixture_assert_fails(claim("mine", true), KATA_E_EXISTS, err);
	cr_assert(exists("stock-1", "owner.json"));
	cr_assert_eq(rmdir(path), 0);
}

Test(warm, the_mark_comes_and_goes)
{
	struct kata__owner steward;
	char dir[128];

	snprintf(dir, sizeof(dir), "%s/vm/stock-1", f.state_dir);
	fixture_assert_fails(kata__owner_read_pooled(dir, &steward, &err), KATA_E_NOT_FOUND, err);
	error_clear(&err);
	fixture_assert_ok(kata__vm_mark_pooled(vm, &err), err);
	fixture_assert_ok(kata__owner_read_pooled(dir, &steward, &err), err);
	cr_assert_eq(steward.process.pid, getpid());
	cr_assert_str_eq(steward.vm_uuid, kata_vm_get_uuid(vm));
	for (int i = 0; i < 2; i++)
		fixture_assert_ok(kata__vm_unmark_pooled(vm, &err), err);
	cr_assert_not(exists("stock-1", "pooled"));
}
