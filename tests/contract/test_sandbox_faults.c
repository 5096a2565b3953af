/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every step of every operation of a sandbox is failed in turn, before and after it did its work: the error names it,
 * what was is again, and the same call then succeeds. The steps are read from the timeline of a call that succeeded.
 */
#include "sandbox_kit.h"

#define STEPS_MAX 8

struct steps {
	char op[64];
	char names[STEPS_MAX][48];
	size_t count;
};

static void note_steps(kata_op *op, struct steps *steps)
{
	kata_timeline_entry entry = {.size = sizeof(entry)};
	kata_error *err = NULL;

	snprintf(steps->op, sizeof(steps->op), "%s", kata_op_get_name(op));
	steps->count = kata_op_get_timeline_length(op);
	cr_assert_leq(steps->count, STEPS_MAX);
	for (size_t i = 0; i < steps->count; i++) {
		fixture_assert_ok(kata_op_get_timeline_entry(op, i, &entry, &err), err);
		snprintf(steps->names[i], sizeof(steps->names[i]), "%s", entry.step);
	}
}

/* One operation under test: begins it, and takes back what it did when it has succeeded. */
struct subject {
	int (*begin)(struct kit *k, kata_op **op, kata_error **err);
	void (*revert)(struct kit *k);
	void (*check_unchanged)(struct kit *k, const char *point);
	size_t last_after; /* steps from the end whose ":after" is past taking back, so is not failed */
};

static void run_ok(struct kit *k, const struct subject *s, struct steps *steps)
{
	kata_error *err = NULL;
	kata_op *op = NULL;

	fixture_assert_ok(s->begin(k, &op, &err), err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	if (steps)
		note_steps(op, steps);
	kata_op_unref(op);
	s->revert(k);
}

static void run_failing(struct kit *k, const struct subject *s, const char *point, const char *op_and_step)
{
	kata_error *err = NULL;
	kata_op *op = NULL;

	fixture_assert_ok(kata_context_set_fail_point(k->f.context, point, KATA_FAIL_ERROR, 0, 0, 1, &err), err);
	fixture_assert_ok(s->begin(k, &op, &err), err);
	cr_assert_eq(kata_op_wait(op, &err), KATA_E_INJECTED, "%s: %s", point, error_text(err));
	cr_assert_str_eq(kata_error_get_step(err), op_and_step);
	cr_assert(!kata_error_is_uncertain(err), "%s: %s", point, error_text(err));
	error_clear(&err);
	kata_op_unref(op);
	s->check_unchanged(k, point);
}

/* A hang is ended by a cancel; the steps before it are undone all the same. */
static void run_cancelled(struct kit *k, const struct subject *s, const char *point)
{
	kata_error *err = NULL;
	kata_op *op = NULL;

	fixture_assert_ok(kata_context_set_fail_point(k->f.context, point, KATA_FAIL_HANG, 0, 0, 1, &err), err);
	fixture_assert_ok(s->begin(k, &op, &err), err);
	kata_op_cancel(op);
	cr_assert_eq(kata_op_wait(op, &err), KATA_E_CANCELLED, "%s: %s", point, error_text(err));
	error_clear(&err);
	kata_op_unref(op);
	s->check_unchanged(k, point);
	kata_context_clear_fail_point(k->f.context, NULL);
}

static void fail_every_step(struct kit *k, const struct subject *s)
{
	struct steps steps;
	char point[128], op_and_step[120];

	run_ok(k, s, &steps);
	for (size_t i = 0; i < steps.count; i++) {
		snprintf(op_and_step, sizeof(op_and_step), "%.60s/%.47s", steps.op, steps.names[i]);
		snprintf(point, sizeof(point), "%.110s:before", op_and_step);
		run_failing(k, s, point, op_and_step);
		run_ok(k, s, NULL);
		run_cancelled(k, s, point);
		run_ok(k, s, NULL);
		if (i + s->last_after >= steps.count)
			continue;
		snprintf(point, sizeof(point), "%.110s:after", op_and_step);
		run_failing(k, s, point, op_and_step);
		run_ok(k, s, NULL);
	}
}

/* ---- storages */

static kata_storage *disk;

static int begin_add_storage(struct kit *k, kata_op **op, kata_error **err)
{
	return kata_sandbox_add_storage_begin(k->s, disk, NULL, op, err);
}

static void revert_add_storage(struct kit *k)
{
	kata_error *err = NULL;

	cr_assert_eq(kata_storage_get_state(disk), KATA_DEVICE_PLUGGED);
	fixture_assert_ok(kata_sandbox_remove_storage(k->s, "disk", NULL, &err), err);
}

static uint32_t slots_free(struct kit *k)
{
	kata_vm_stats stats = {.size = sizeof(stats)};
	kata_vm *vm = kata_sandbox_get_vm(k->s);
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_get_stats(vm, &stats, &err), err);
	kata_vm_unref(vm);
	return stats.slots_free;
}

static void check_no_storage(struct kit *k, const char *point)
{
	cr_assert_eq(kata_storage_get_state(disk), KATA_DEVICE_NEW, "after %s it is %s", point,
		     kata_device_state_get_name(kata_storage_get_state(disk)));
	cr_assert_eq(slots_free(k), 8, "after %s", point);
	KIT_ASSERT_STATE(k, KATA_SANDBOX_RUNNING);
}

Test(sandbox_faults, add_storage)
{
	static const struct subject subject = {begin_add_storage, revert_add_storage, check_no_storage, 0};
	struct kit k;

	kit_init(&k);
	disk = fixture_storage("disk", "/disk", KATA_STORAGE_VIRTIO_BLK);
	fail_every_step(&k, &subject);
	kata_storage_unref(disk);
	kit_deinit(&k);
}

static int begin_remove_storage(struct kit *k, kata_op **op, kata_error **err)
{
	return kata_sandbox_remove_storage_begin(k->s, "disk", NULL, op, err);
}

static void revert_remove_storage(struct kit *k)
{
	kata_error *err = NULL;

	cr_assert_eq(kata_storage_get_state(disk), KATA_DEVICE_NEW);
	fixture_assert_ok(kata_sandbox_add_storage(k->s, disk, NULL, &err), err);
}

static void check_storage_plugged(struct kit *k, const char *point)
{
	cr_assert_eq(kata_storage_get_state(disk), KATA_DEVICE_PLUGGED, "after %s it is %s", point,
		     kata_device_state_get_name(kata_storage_get_state(disk)));
	cr_assert_eq(slots_free(k), 7, "after %s", point);
}

Test(sandbox_faults, remove_storage)
{
	static const struct subject subject = {begin_remove_storage, revert_remove_storage, check_storage_plugged, 1};
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	disk = fixture_storage("disk", "/disk", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_sandbox_add_storage(k.s, disk, NULL, &err), err);
	fail_every_step(&k, &subject);
	kata_storage_unref(disk);
	kit_deinit(&k);
}

/* ---- NICs */

static kata_nic *nic;

static int begin_add_nic(struct kit *k, kata_op **op, kata_error **err)
{
	static const char *const addresses[] = {"10.0.0.2/24", NULL};
	kata_interface_config config = KATA_INTERFACE_CONFIG_INIT;

	config.name = "eth0";
	config.addresses = addresses;
	return kata_sandbox_add_nic_begin(k->s, nic, &config, NULL, op, err);
}

static void revert_add_nic(struct kit *k)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_remove_nic(k->s, "nic", NULL, &err), err);
}

static void check_no_nic(struct kit *k, const char *point)
{
	cr_assert_eq(kata_nic_get_state(nic), KATA_DEVICE_NEW, "after %s", point);
	cr_assert_eq(slots_free(k), 8, "after %s", point);
}

Test(sandbox_faults, add_nic)
{
	static const struct subject subject = {begin_add_nic, revert_add_nic, check_no_nic, 0};
	struct kit k;

	kit_init(&k);
	nic = fixture_nic("nic", "02:00:00:00:00:01");
	fail_every_step(&k, &subject);
	kata_nic_unref(nic);
	kit_deinit(&k);
}

/* ---- containers */

static int begin_add_container(struct kit *k, kata_op **op, kata_error **err)
{
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;

	config.id = "c1";
	config.oci_spec = "{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"sleep\"],\"cwd\":\"/"
			  "\",\"user\":{\"uid\":0,\"gid\":0}},\"root\":{\"path\":\"/r\"}}";
	return kata_sandbox_add_container_begin(k->s, &config, NULL, op, err);
}

static void revert_add_container(struct kit *k)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_remove_container(k->s, "c1", NULL, &err), err);
}

static void check_no_container(struct kit *k, const char *point)
{
	cr_assert_eq(kata_sandbox_get_container_count(k->s), 0, "after %s", point);
}

Test(sandbox_faults, add_container)
{
	static const struct subject subject = {begin_add_container, revert_add_container, check_no_container, 0};
	struct kit k;

	kit_init(&k);
	fail_every_step(&k, &subject);
	kit_deinit(&k);
}

static void run_on(struct kit *k, const char *id, const char *disk_id)
{
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;
	kata_error *err = NULL;
	char spec[256];

	snprintf(spec, sizeof(spec),
		 "{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"sleep\"],\"cwd\":\"/\",\"user\":{\"uid\":0,"
		 "\"gid\":0}},\"root\":{\"path\":\"storage:%s\"}}",
		 disk_id);
	config.id = id;
	config.oci_spec = spec;
	fixture_assert_ok(kata_sandbox_add_container(k->s, &config, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_start_container(k->s, id, NULL, &err), err);
}

/* A removal whose answer is lost is known to the guest alone: the next one succeeds, and the disk is free. */
Test(sandbox_faults, remove_container)
{
	static const char *const points[] = {"remove-container/remove:before", "remove-container/remove:after"};
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	kit_add_disk(&k, "disk", KATA_STORAGE_VIRTIO_BLK);
	for (size_t i = 0; i < 2; i++) {
		run_on(&k, "c1", "disk");
		fixture_assert_ok(kata_context_set_fail_point(k.f.context, points[i], KATA_FAIL_ERROR, 0, 0, 1, &err),
				  err);
		fixture_assert_fails(kata_sandbox_remove_container(k.s, "c1", NULL, &err), KATA_E_INJECTED, err);
		error_clear(&err);
		cr_assert_eq(kata_sandbox_get_container_count(k.s), 1, "after %s", points[i]);
		fixture_assert_fails(kata_sandbox_remove_storage(k.s, "disk", NULL, &err), KATA_E_BUSY, err);
		error_clear(&err);
		fixture_assert_ok(kata_sandbox_remove_container(k.s, "c1", NULL, &err), err);
		cr_assert_eq(kata_sandbox_get_container_count(k.s), 0, "after %s", points[i]);
	}
	fixture_assert_fails(kata_sandbox_remove_container(k.s, "c1", NULL, &err), KATA_E_NOT_FOUND, err);
	error_clear(&err);
	fixture_assert_ok(kata_sandbox_remove_storage(k.s, "disk", NULL, &err), err);
	kit_deinit(&k);
}

/* So is a start; one that was told of is refused when it is asked for again. */
Test(sandbox_faults, start_container)
{
	static const char *const points[] = {"start-container/start:before", "start-container/start:after"};
	struct kit k;
	kata_container_info info = {.size = sizeof(info)};
	kata_error *err = NULL;

	kit_init(&k);
	for (size_t i = 0; i < 2; i++) {
		kit_add(&k, "c1", "\"sleep\"");
		fixture_assert_ok(kata_context_set_fail_point(k.f.context, points[i], KATA_FAIL_ERROR, 0, 0, 1, &err),
				  err);
		fixture_assert_fails(kata_sandbox_start_container(k.s, "c1", NULL, &err), KATA_E_INJECTED, err);
		error_clear(&err);
		fixture_assert_ok(kata_sandbox_start_container(k.s, "c1", NULL, &err), err);
		fixture_assert_ok(kata_sandbox_get_container(k.s, 0, &info, &err), err);
		cr_assert_eq(info.state, KATA_PROCESS_RUNNING, "after %s", points[i]);
		fixture_assert_fails(kata_sandbox_start_container(k.s, "c1", NULL, &err), KATA_E_EXISTS, err);
		error_clear(&err);
		fixture_assert_ok(kata_sandbox_remove_container(k.s, "c1", NULL, &err), err);
	}
	kit_deinit(&k);
}

/* Its owner died between the guest's removal and the store: the record says more than there is. */
Test(sandbox_faults, a_container_that_the_guest_has_no_more_is_removed_from_what_was_taken_over)
{
	struct kit k;
	kata_sandbox *next = NULL;
	kata_error *err = NULL;
	char *json = NULL;

	kit_init(&k);
	kit_add_disk(&k, "disk", KATA_STORAGE_VIRTIO_BLK);
	run_on(&k, "c1", "disk");
	fixture_assert_ok(kata_sandbox_dump(k.s, &json, &err), err);
	fixture_assert_ok(kata_sandbox_remove_container(k.s, "c1", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_release(k.s, NULL, NULL, &err), err);
	fixture_assert_ok(
		kata_sandbox_build_from_released(k.f.context, json, strlen(json), k.builder, NULL, NULL, &next, &err),
		err);
	kata_sandbox_unref(k.s);
	k.s = next;
	free(json);
	cr_assert_eq(kata_sandbox_get_container_count(k.s), 1);
	fixture_assert_fails(kata_sandbox_signal_process(k.s, "c1", NULL, 9, NULL, &err), KATA_E_NOT_FOUND, err);
	error_clear(&err);
	fixture_assert_ok(kata_sandbox_remove_container(k.s, "c1", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_remove_storage(k.s, "disk", NULL, &err), err);
	kit_deinit(&k);
}

static unsigned exec_number;

static int begin_exec(struct kit *k, kata_op **op, kata_error **err)
{
	kata_process_config config = KATA_PROCESS_CONFIG_INIT;
	char id[16];

	/* The same until it succeeds: what was undone leaves the id free in the guest too. */
	snprintf(id, sizeof(id), "e%u", exec_number);
	config.exec_id = id;
	config.oci_process = "{\"args\":[\"sleep\"],\"cwd\":\"/\",\"user\":{\"uid\":0,\"gid\":0}}";
	return kata_sandbox_add_process_begin(k->s, "c1", &config, NULL, op, err);
}

static unsigned shown_execs;

static void revert_exec(struct kit *k)
{
	shown_execs++;
	exec_number++;
}

static void check_no_exec(struct kit *k, const char *point)
{
	kata_container_info info = {.size = sizeof(info)};
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_get_container(k->s, 0, &info, &err), err);
	cr_assert_eq(info.exec_count, shown_execs, "after %s", point);
}

Test(sandbox_faults, exec)
{
	static const struct subject subject = {begin_exec, revert_exec, check_no_exec, 0};
	struct kit k;

	kit_init(&k);
	kit_run(&k, "c1", "\"sleep\"");
	fail_every_step(&k, &subject);
	kit_deinit(&k);
}

/* ---- the whole */

static int begin_release(struct kit *k, kata_op **op, kata_error **err)
{
	return kata_sandbox_release_begin(k->s, NULL, op, err);
}

static void revert_release(struct kit *k)
{
	kata_sandbox *next = NULL;
	kata_error *err = NULL;
	char *json = NULL;

	fixture_assert_ok(kata_sandbox_dump(k->s, &json, &err), err);
	fixture_assert_ok(
		kata_sandbox_build_from_released(k->f.context, json, strlen(json), k->builder, NULL, NULL, &next, &err),
		err);
	kata_sandbox_unref(k->s);
	k->s = next;
	free(json);
}

/* The pipes that were open go on, the agent is there. */
static int cat_in, cat_out;

static void check_running(struct kit *k, const char *point)
{
	char *text;

	KIT_ASSERT_STATE(k, KATA_SANDBOX_RUNNING);
	cr_assert_eq(write(cat_in, "x", 1), 1);
	text = kit_read(cat_out, 1, NULL);
	cr_assert_str_eq(text, "x", "after %s", point);
	free(text);
}

/* cat ends with its stdin, so a release that failed must be followed by the same pipes, never by their close. */
Test(sandbox_faults, release)
{
	static const struct subject subject = {begin_release, revert_release, check_running, 1};
	static const char *const steps[] = {"release-sandbox/suspend-calls", "release-sandbox/release-agent",
					    "release-sandbox/release-vm"};
	struct kit k;
	char point[64];

	kit_init(&k);
	kit_run(&k, "c1", "\"cat\"");
	kit_open(&k, "c1", NULL, &cat_in, &cat_out, NULL);
	for (size_t i = 0; i < 3; i++) {
		snprintf(point, sizeof(point), "%s:before", steps[i]);
		run_failing(&k, &subject, point, steps[i]);
		run_cancelled(&k, &subject, point);
		if (i == 2)
			break; /* once the VM is let go, it is let go */
		snprintf(point, sizeof(point), "%s:after", steps[i]);
		run_failing(&k, &subject, point, steps[i]);
	}
	run_ok(&k, &subject, NULL);
	close(cat_in);
	close(cat_out);
	kit_deinit(&k);
}

Test(sandbox_faults, start)
{
	static const char *const points[][2] = {
		{"start-sandbox/start-vm:before", "start-sandbox/start-vm"},
		{"start-sandbox/start-vm:after", "start-sandbox/start-vm"},
		{"start-sandbox/connect-agent:before", "start-sandbox/connect-agent"},
		{"start-sandbox/connect-agent:after", "start-sandbox/connect-agent"},
		{"start-sandbox/create-sandbox:before", "start-sandbox/create-sandbox"},
		{"start-sandbox/create-sandbox:after", "start-sandbox/create-sandbox"},
	};
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		kata_sandbox *s = kit_create(&k, "other");
		kata_vm *vm = kata_sandbox_get_vm(s);

		fixture_assert_ok(
			kata_context_set_fail_point(k.f.context, points[i][0], KATA_FAIL_ERROR, 0, 0, 1, &err), err);
		fixture_assert_fails(kata_sandbox_start(s, NULL, &err), KATA_E_INJECTED, err);
		cr_assert_str_eq(kata_error_get_step(err), points[i][1]);
		error_clear(&err);
		if (i == 0) { /* nothing was begun: the same sandbox starts */
			cr_assert_eq(kata_sandbox_get_state(s), KATA_SANDBOX_NEW);
			fixture_assert_ok(kata_sandbox_start(s, NULL, &err), err);
		} else { /* its VM was started, so it was destroyed: one of that name can be made again */
			cr_assert_eq(kata_sandbox_get_state(s), KATA_SANDBOX_DESTROYED, "after %s: %s", points[i][0],
				     kata_sandbox_state_get_name(kata_sandbox_get_state(s)));
			cr_assert_eq(kata_vm_get_state(vm), KATA_VM_DESTROYED);
		}
		fixture_assert_ok(kata_sandbox_destroy(s, NULL, &err), err);
		kata_vm_unref(vm);
		kata_sandbox_unref(s);
	}
	kit_deinit(&k);
}

Test(sandbox_faults, destroy_and_shutdown_that_were_stopped_succeed_when_called_again)
{
	static const char *const points[] = {"destroy-sandbox/cancel-ops:before", "destroy-sandbox/cancel-ops:after",
					     "destroy-sandbox/destroy-vm:before"};
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		fixture_assert_ok(kata_context_set_fail_point(k.f.context, points[i], KATA_FAIL_ERROR, 0, 0, 1, &err),
				  err);
		fixture_assert_fails(kata_sandbox_destroy(k.s, NULL, &err), KATA_E_INJECTED, err);
		error_clear(&err);
		KIT_ASSERT_STATE(&k, KATA_SANDBOX_RUNNING);
	}
	fixture_assert_ok(kata_context_set_fail_point(k.f.context, "shutdown-sandbox/power-off:before", KATA_FAIL_ERROR,
						      0, 0, 1, &err),
			  err);
	fixture_assert_fails(kata_sandbox_shutdown(k.s, NULL, &err), KATA_E_INJECTED, err);
	error_clear(&err);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_RUNNING);
	fixture_assert_ok(kata_sandbox_shutdown(k.s, NULL, &err), err);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_DESTROYED);
	kit_deinit(&k);
}
