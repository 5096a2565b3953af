/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm_contract_faults.c - every step of every operation fails once before and once after it did its work.
 *
 * The steps are not listed here: they are read off the timeline of a run that succeeds. For each of them the error must
 * name the step, the host must be as before, and the same call must then succeed.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "support/vm_contract.h"

#define STEPS_MAX 32

/* What a device may be after its unplug failed. */
static bool may_be_plugged, may_be_diverged;

static kata_storage *disk;
static kata_nic *nic;
static char *record;

struct steps {
	char operation[64];
	char names[STEPS_MAX][64];
	size_t count;
};

static void read_steps(const kata_op *op, struct steps *ret)
{
	kata_timeline_entry e = {.size = sizeof(e)};

	snprintf(ret->operation, sizeof(ret->operation), "%s", kata_op_get_name(op));
	ret->count = 0;
	for (size_t i = 0; i < kata_op_get_timeline_length(op); i++) {
		cr_assert_eq(kata_op_get_timeline_entry(op, i, &e, NULL), 0);
		cr_assert_not(e.is_undo);
		cr_assert_eq(e.outcome, KATA_STEP_DONE, "step %s", e.step);
		cr_assert_lt(ret->count, STEPS_MAX);
		snprintf(ret->names[ret->count++], sizeof(ret->names[0]), "%s", e.step);
	}
	cr_assert_gt(ret->count, 0u);
}

static void run_well(struct vm_world *w, const struct world_operation *o, struct steps *ret_steps, const char *when)
{
	kata_op *op = NULL;
	int rc = o->begin(w, &op, &w->err);

	if (rc == 0)
		rc = kata_op_wait(op, &w->err);
	cr_assert_eq(rc, 0, "%s: %s", when, error_text(w->err));
	if (ret_steps)
		read_steps(op, ret_steps);
	kata_op_unref(op);
}

static bool names_step(const kata_error *err, const char *step)
{
	for (; err; err = kata_error_get_cause(err))
		if (kata_error_get_step(err) && strcmp(kata_error_get_step(err), step) == 0)
			return true;
	return false;
}

static size_t index_of(const struct steps *s, const char *name)
{
	size_t i = 0;

	while (i < s->count && (!name || strcmp(s->names[i], name) != 0))
		i++;
	return i;
}

/* Once the guest was asked it may let go, and when it has, the device is not plugged any more. A kind without such
 * steps puts the device back. */
static void expect_state(const struct world_operation *o, const struct steps *s, size_t index, const char *where)
{
	size_t asked = index_of(s, o->asks), answered = index_of(s, o->answered);
	bool after = strcmp(where, "after") == 0;

	may_be_diverged = index > asked || (index == asked && after);
	may_be_plugged = index < answered || (index == answered && !after);
}

static void fail_at(struct vm_world *w, const struct world_operation *o, const char *operation, const char *step,
		    const char *where, bool check_census)
{
	char point[160], path[140];
	struct census *before = check_census ? fixture_census(&w->f) : NULL;
	kata_op *op = NULL;

	snprintf(path, sizeof(path), "%s/%s", operation, step);
	snprintf(point, sizeof(point), "%s:%s", path, where);
	fixture_assert_ok(kata_context_set_fail_point(w->f.context, point, KATA_FAIL_ERROR, 0, 0, 1, &w->err), w->err);
	fixture_assert_ok(o->begin(w, &op, &w->err), w->err);
	fixture_assert_fails(kata_op_wait(op, &w->err), KATA_E_INJECTED, w->err);
	cr_assert(names_step(w->err, path), "the error of %s names %s", point,
		  kata_error_get_step(w->err) ? kata_error_get_step(w->err) : "no step");
	cr_assert_not(kata_error_is_uncertain(w->err), "%s: %s", point, error_text(w->err));
	kata_op_unref(op);
	error_clear(&w->err);
	kata_context_clear_fail_point(w->f.context, NULL);
	if (o->check_failed)
		o->check_failed(w);
	if (before)
		fixture_assert_census(&w->f, before, point);
	run_well(w, o, NULL, point);
	if (o->back)
		o->back(w);
}

void world_fail_each_step(struct vm_world *w, const struct world_operation *o, bool check_census)
{
	struct steps steps;

	run_well(w, o, &steps, "without a fault");
	if (o->back)
		o->back(w);
	for (size_t i = 0; i < steps.count; i++) {
		expect_state(o, &steps, i, "before");
		fail_at(w, o, steps.operation, steps.names[i], "before", check_census);
		expect_state(o, &steps, i, "after");
		fail_at(w, o, steps.operation, steps.names[i], "after", check_census);
	}
}

/* ---- start, pause, resume */

static int begin_start(struct vm_world *w, kata_op **ret_op, kata_error **err)
{
	return kata_vm_start_begin(w->vm, NULL, ret_op, err);
}

static void rebuild_machine(struct vm_world *w)
{
	fixture_assert_ok(kata_vm_destroy(w->vm, NULL, &w->err), w->err);
	kata_vm_unref(w->vm);
	w->vm = NULL;
	world_build(w);
	world_plug_disk(w, "cold", KATA_STORAGE_VIRTIO_BLK);
	world_plug_nic(w, "coldnic", NULL);
}

static void is_created(struct vm_world *w)
{
	cr_assert_eq(kata_vm_get_state(w->vm), KATA_VM_CREATED);
	cr_assert_eq(kata_vm_get_storage_count(w->vm), 1u);
}

void vm_contract_a_failed_start_leaves_the_host_as_before(const struct vm_kind *kind)
{
	static const struct world_operation start = {begin_start, rebuild_machine, is_created, NULL, NULL};
	struct vm_world w;

	world_open(&w, kind, 2);
	rebuild_machine(&w);
	world_fail_each_step(&w, &start, true);
	world_close(&w);
}

static int begin_pause(struct vm_world *w, kata_op **ret_op, kata_error **err)
{
	return kata_vm_pause_begin(w->vm, NULL, ret_op, err);
}

static int begin_resume(struct vm_world *w, kata_op **ret_op, kata_error **err)
{
	return kata_vm_resume_begin(w->vm, NULL, ret_op, err);
}

static void pause_it(struct vm_world *w)
{
	fixture_assert_ok(kata_vm_pause(w->vm, NULL, &w->err), w->err);
}

static void resume_it(struct vm_world *w)
{
	fixture_assert_ok(kata_vm_resume(w->vm, NULL, &w->err), w->err);
}

static void is_running(struct vm_world *w)
{
	cr_assert_eq(kata_vm_get_state(w->vm), KATA_VM_RUNNING);
}

static void is_paused(struct vm_world *w)
{
	cr_assert_eq(kata_vm_get_state(w->vm), KATA_VM_PAUSED);
}

void vm_contract_a_failed_pause_leaves_the_machine_running(const struct vm_kind *kind)
{
	static const struct world_operation pause = {begin_pause, resume_it, is_running, NULL, NULL};
	struct vm_world w;

	world_open(&w, kind, 0);
	world_start(&w);
	world_fail_each_step(&w, &pause, true);
	world_close(&w);
}

void vm_contract_a_failed_resume_leaves_the_machine_paused(const struct vm_kind *kind)
{
	static const struct world_operation resume = {begin_resume, pause_it, is_paused, NULL, NULL};
	struct vm_world w;

	world_open(&w, kind, 0);
	world_start(&w);
	pause_it(&w);
	world_fail_each_step(&w, &resume, true);
	world_close(&w);
}

/* ---- devices */

static int begin_plug_disk(struct vm_world *w, kata_op **ret_op, kata_error **err)
{
	return kata_vm_add_storage_begin(w->vm, disk, NULL, ret_op, err);
}

static int begin_unplug_disk(struct vm_world *w, kata_op **ret_op, kata_error **err)
{
	return kata_vm_remove_storage_begin(w->vm, kata_storage_get_id(disk), NULL, ret_op, err);
}

static void unplug_disk(struct vm_world *w)
{
	fixture_assert_ok(kata_vm_remove_storage(w->vm, kata_storage_get_id(disk), NULL, &w->err), w->err);
}

static void plug_disk(struct vm_world *w)
{
	fixture_assert_ok(kata_vm_add_storage(w->vm, disk, NULL, &w->err), w->err);
}

static void assert_free_slots(struct vm_world *w, uint32_t expected)
{
	kata_vm_stats stats = {.size = sizeof(stats)};

	fixture_assert_ok(kata_vm_get_stats(w->vm, &stats, &w->err), w->err);
	cr_assert_eq(stats.slots_free, expected);
}

static void disk_is_new(struct vm_world *w)
{
	cr_assert_eq(kata_storage_get_state(disk), KATA_DEVICE_NEW);
	cr_assert_eq(kata_vm_get_storage_count(w->vm), 0u);
	assert_free_slots(w, 2);
}

static void assert_still_there(kata_device_state state)
{
	cr_assert((state == KATA_DEVICE_PLUGGED && may_be_plugged) ||
			  (state == KATA_DEVICE_DIVERGED && may_be_diverged),
		  "it is %s", kata_device_state_get_name(state));
}

static void disk_is_still_there(struct vm_world *w)
{
	assert_still_there(kata_storage_get_state(disk));
	cr_assert_eq(kata_vm_get_storage_count(w->vm), 1u);
	assert_free_slots(w, 1);
}

static const struct world_operation plug_disk_operation = {begin_plug_disk, unplug_disk, disk_is_new, NULL, NULL};
static const struct world_operation unplug_disk_operation = {begin_unplug_disk, plug_disk, disk_is_still_there,
							     "device_del", "await-deleted"};

static void open_with_disk(struct vm_world *w, const struct vm_kind *kind, kata_storage_driver driver)
{
	world_open(w, kind, 2);
	disk = world_disk(w, "disk", driver);
}

static void close_with_disk(struct vm_world *w)
{
	kata_storage_unref(disk);
	disk = NULL;
	world_close(w);
}

void vm_contract_a_failed_plug_of_a_disk_leaves_the_host_as_before(const struct vm_kind *kind)
{
	struct vm_world w;

	open_with_disk(&w, kind, KATA_STORAGE_VIRTIO_BLK);
	world_start(&w);
	world_fail_each_step(&w, &plug_disk_operation, true);
	close_with_disk(&w);
}

void vm_contract_a_failed_plug_of_a_scsi_disk_leaves_the_host_as_before(const struct vm_kind *kind)
{
	struct vm_world w;

	open_with_disk(&w, kind, KATA_STORAGE_VIRTIO_SCSI);
	world_start(&w);
	world_fail_each_step(&w, &plug_disk_operation, true);
	world_fail_each_step(&w, &plug_disk_operation, true);
	close_with_disk(&w);
}

void vm_contract_a_failed_cold_plug_leaves_the_host_as_before(const struct vm_kind *kind)
{
	struct vm_world w;

	open_with_disk(&w, kind, KATA_STORAGE_VIRTIO_BLK);
	world_fail_each_step(&w, &plug_disk_operation, true);
	plug_disk(&w);
	world_fail_each_step(&w, &unplug_disk_operation, true);
	close_with_disk(&w);
}

void vm_contract_a_failed_unplug_of_a_disk_leaves_it_there_or_diverged(const struct vm_kind *kind)
{
	struct vm_world w;

	open_with_disk(&w, kind, KATA_STORAGE_VIRTIO_BLK);
	world_start(&w);
	plug_disk(&w);
	world_fail_each_step(&w, &unplug_disk_operation, true);
	close_with_disk(&w);
}

static int begin_plug_nic(struct vm_world *w, kata_op **ret_op, kata_error **err)
{
	return kata_vm_add_nic_begin(w->vm, nic, NULL, ret_op, err);
}

static int begin_unplug_nic(struct vm_world *w, kata_op **ret_op, kata_error **err)
{
	return kata_vm_remove_nic_begin(w->vm, "nic", NULL, ret_op, err);
}

static void unplug_nic(struct vm_world *w)
{
	fixture_assert_ok(kata_vm_remove_nic(w->vm, "nic", NULL, &w->err), w->err);
}

static void plug_nic(struct vm_world *w)
{
	fixture_assert_ok(kata_vm_add_nic(w->vm, nic, NULL, &w->err), w->err);
}

static void nic_is_new(struct vm_world *w)
{
	cr_assert_eq(kata_nic_get_state(nic), KATA_DEVICE_NEW);
	cr_assert_eq(kata_vm_get_nic_count(w->vm), 0u);
	assert_free_slots(w, 2);
}

static void nic_is_still_there(struct vm_world *w)
{
	assert_still_there(kata_nic_get_state(nic));
	cr_assert_eq(kata_vm_get_nic_count(w->vm), 1u);
	assert_free_slots(w, 1);
}

static const struct world_operation plug_nic_operation = {begin_plug_nic, unplug_nic, nic_is_new, NULL, NULL};
static const struct world_operation unplug_nic_operation = {begin_unplug_nic, plug_nic, nic_is_still_there,
							    "device_del", "await-deleted"};

void vm_contract_a_failed_plug_of_a_nic_leaves_the_host_as_before(const struct vm_kind *kind)
{
	struct vm_world w;

	world_open(&w, kind, 2);
	nic = world_nic("nic", NULL);
	world_start(&w);
	world_fail_each_step(&w, &plug_nic_operation, true);
	kata_nic_unref(nic);
	world_close(&w);
}

/* In a network namespace of its own, where a tap that is left would be seen. */
void vm_contract_a_failed_plug_or_unplug_of_a_tap_leaves_no_link(const struct vm_kind *kind)
{
	kata_nic_config config = KATA_NIC_CONFIG_INIT;
	struct vm_world w;

	if (access("/dev/net/tun", R_OK | W_OK) < 0)
		cr_skip_test("/dev/net/tun cannot be opened");
	if (!fixture_enter_netns())
		cr_skip_test("a network namespace of its own needs CAP_SYS_ADMIN");
	config.id = "nic";
	config.type = KATA_NIC_TAP;
	world_open(&w, kind, 2);
	fixture_assert_ok(kata_nic_new(&config, &nic, &w.err), w.err);
	world_fail_each_step(&w, &plug_nic_operation, true);
	world_start(&w);
	world_fail_each_step(&w, &plug_nic_operation, true);
	plug_nic(&w);
	/* An unplug that fails after the guest has let go may have taken the tap away already; asked again it ends
	 * well. */
	world_fail_each_step(&w, &unplug_nic_operation, false);
	kata_nic_unref(nic);
	world_close(&w);
}

void vm_contract_a_failed_unplug_of_a_nic_leaves_it_there_or_diverged(const struct vm_kind *kind)
{
	struct vm_world w;

	world_open(&w, kind, 2);
	nic = world_nic("nic", NULL);
	world_start(&w);
	plug_nic(&w);
	world_fail_each_step(&w, &unplug_nic_operation, true);
	kata_nic_unref(nic);
	world_close(&w);
}

/* ---- release, rebuild, destroy */

static int begin_release(struct vm_world *w, kata_op **ret_op, kata_error **err)
{
	return kata_vm_release_begin(w->vm, NULL, ret_op, err);
}

static void take_back(struct vm_world *w)
{
	char *json = NULL;

	cr_assert_eq(kata_vm_get_state(w->vm), KATA_VM_RELEASED);
	fixture_assert_ok(kata_vm_dump(w->vm, &json, &w->err), w->err);
	kata_vm_unref(w->vm);
	w->vm = NULL;
	world_rebuild(w, json);
	free(json);
}

static void is_ours_still(struct vm_world *w)
{
	is_running(w);
	world_plug_nic(w, "probe", NULL);
	fixture_assert_ok(kata_vm_remove_nic(w->vm, "probe", NULL, &w->err), w->err);
}

void vm_contract_a_failed_release_leaves_the_machine_ours(const struct vm_kind *kind)
{
	static const struct world_operation release = {begin_release, take_back, is_ours_still, NULL, NULL};
	struct vm_world w;

	world_open(&w, kind, 2);
	world_start(&w);
	world_plug_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	world_fail_each_step(&w, &release, true);
	world_close(&w);
}

static int begin_rebuild(struct vm_world *w, kata_op **ret_op, kata_error **err)
{
	kata_vm_unref(w->vm); /* of a round that failed */
	w->vm = NULL;
	return kata_vm_builder_build_from_released_begin(w->builder, record, strlen(record), NULL, &w->vm, ret_op, err);
}

static void release_again(struct vm_world *w)
{
	is_ours_still(w);
	free(record);
	record = NULL;
	fixture_assert_ok(kata_vm_release(w->vm, NULL, &record, &w->err), w->err);
	kata_vm_unref(w->vm);
	w->vm = NULL;
}

static void handle_is_released(struct vm_world *w)
{
	cr_assert_eq(kata_vm_get_state(w->vm), KATA_VM_RELEASED);
	kata_vm_unref(w->vm);
	w->vm = NULL;
}

void vm_contract_a_failed_rebuild_can_be_tried_again(const struct vm_kind *kind)
{
	static const struct world_operation rebuild = {begin_rebuild, release_again, handle_is_released, NULL, NULL};
	struct vm_world w;

	world_open(&w, kind, 2);
	world_start(&w);
	world_plug_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	release_again(&w);
	world_fail_each_step(&w, &rebuild, true);
	world_rebuild(&w, record);
	free(record);
	record = NULL;
	world_close(&w);
}

static int begin_destroy(struct vm_world *w, kata_op **ret_op, kata_error **err)
{
	return kata_vm_destroy_begin(w->vm, NULL, ret_op, err);
}

static void start_another(struct vm_world *w)
{
	cr_assert_eq(kata_vm_get_state(w->vm), KATA_VM_DESTROYED);
	kata_vm_unref(w->vm);
	w->vm = NULL;
	world_build(w);
	world_start(w);
	world_plug_disk(w, "a", KATA_STORAGE_VIRTIO_BLK);
}

void vm_contract_a_failed_destroy_can_be_called_again(const struct vm_kind *kind)
{
	static const struct world_operation destroy = {begin_destroy, start_another, NULL, NULL, NULL};
	struct vm_world w;

	world_open(&w, kind, 2);
	world_start(&w);
	world_plug_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	world_fail_each_step(&w, &destroy, false);
	world_close(&w);
}

/* ---- deadlines and cancels */

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void hang_at(struct vm_world *w, const struct steps *steps, size_t index, const char *where)
{
	char point[160];

	snprintf(point, sizeof(point), "%s/%s:%s", steps->operation, steps->names[index], where);
	fixture_assert_ok(kata_context_set_fail_point(w->f.context, point, KATA_FAIL_HANG, 0, 0, 1, &w->err), w->err);
}

/* So that the cancel comes at that step. */
static void await_step(struct vm_world *w, const kata_op *op, size_t count)
{
	const struct timespec pause = {0, 1000000};
	uint64_t deadline_ms = now_ms() + w->kind->patience_ms;

	while (kata_op_get_timeline_length(op) < count && now_ms() < deadline_ms)
		nanosleep(&pause, NULL);
	cr_assert_eq(kata_op_get_timeline_length(op), count);
}

static void learn_steps(struct vm_world *w, struct steps *ret)
{
	world_start(w);
	run_well(w, &plug_disk_operation, ret, "without a fault");
	unplug_disk(w);
}

void vm_contract_a_step_that_hangs_ends_by_the_deadline(const struct vm_kind *kind)
{
	kata_op_options options = {sizeof(options), 100};
	struct vm_world w;
	struct steps steps;

	open_with_disk(&w, kind, KATA_STORAGE_VIRTIO_BLK);
	learn_steps(&w, &steps);
	for (size_t i = 0; i < steps.count; i++) {
		struct census *before = fixture_census(&w.f);
		uint64_t start_ms = now_ms();

		hang_at(&w, &steps, i, "before");
		fixture_assert_fails(kata_vm_add_storage(w.vm, disk, &options, &w.err), KATA_E_TIMEOUT, w.err);
		cr_assert_geq(now_ms() - start_ms, 100u);
		cr_assert_lt(now_ms() - start_ms, 100u + kind->patience_ms, "step %s", steps.names[i]);
		cr_assert(kata_error_get_step(w.err) && strstr(kata_error_get_step(w.err), steps.names[i]), "%s",
			  error_text(w.err));
		error_clear(&w.err);
		disk_is_new(&w);
		fixture_assert_census(&w.f, before, steps.names[i]);
		plug_disk(&w);
		unplug_disk(&w);
	}
	close_with_disk(&w);
}

void vm_contract_a_cancelled_operation_leaves_the_host_as_before(const struct vm_kind *kind)
{
	struct vm_world w;
	struct steps steps;

	open_with_disk(&w, kind, KATA_STORAGE_VIRTIO_BLK);
	learn_steps(&w, &steps);
	for (size_t i = 0; i < steps.count; i++) {
		struct census *before = fixture_census(&w.f);
		kata_op *op = NULL;

		hang_at(&w, &steps, i, "after");
		fixture_assert_ok(kata_vm_add_storage_begin(w.vm, disk, NULL, &op, &w.err), w.err);
		await_step(&w, op, i + 1);
		cr_assert_not(kata_op_is_done(op));
		kata_op_cancel(op);
		fixture_assert_fails(kata_op_wait(op, &w.err), KATA_E_CANCELLED, w.err);
		kata_context_clear_fail_point(w.f.context, NULL);
		kata_op_unref(op);
		error_clear(&w.err);
		disk_is_new(&w);
		fixture_assert_census(&w.f, before, steps.names[i]);
		plug_disk(&w);
		unplug_disk(&w);
	}
	close_with_disk(&w);
}
