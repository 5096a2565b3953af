/* SPDX-License-Identifier: Apache-2.0 */
/* vm_contract_snapshot.c - saving and restoring, and each of their steps failing. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/vm_contract.h"

/* Where snapshots go, so that what is left of one that failed is seen. */
static char place[64], path[96];
static kata_snapshot *snapshot;

static void open_world(struct vm_world *w, const struct vm_kind *kind)
{
	kata_capabilities caps = {.size = sizeof(caps)};

	world_open(w, kind, 4);
	fixture_assert_ok(kata_vm_builder_get_capabilities(w->builder, &caps, &w->err), w->err);
	if (!caps.snapshot) {
		world_close(w);
		cr_skip_test("this kind of VM cannot be saved");
	}
	snprintf(place, sizeof(place), "%s/saved", w->f.dir);
	snprintf(path, sizeof(path), "%s/one", place);
	cr_assert_eq(mkdir(place, 0700), 0);
}

static void close_world(struct vm_world *w)
{
	kata_snapshot_free(snapshot);
	snapshot = NULL;
	world_close(w);
}

static size_t count_entries(void)
{
	DIR *dir = opendir(place);
	struct dirent *e;
	size_t n = 0;

	cr_assert_not_null(dir);
	while ((e = readdir(dir)))
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(dir);
	return n;
}

static void plug_devices(struct vm_world *w)
{
	world_plug_disk(w, "blk", KATA_STORAGE_VIRTIO_BLK);
	world_plug_disk(w, "scsi", KATA_STORAGE_VIRTIO_SCSI);
	world_plug_nic(w, "nic", "02:00:00:00:00:07");
}

static void save(struct vm_world *w)
{
	fixture_assert_ok(kata_vm_snapshot(w->vm, path, NULL, NULL, &snapshot, &w->err), w->err);
	cr_assert_eq(count_entries(), 1u, "the snapshot, and nothing else");
}

static void end_source(struct vm_world *w)
{
	fixture_assert_ok(kata_vm_destroy(w->vm, NULL, &w->err), w->err);
	kata_vm_unref(w->vm);
	w->vm = NULL;
}

static kata_vm *build(struct vm_world *w, const kata_restore_options *options)
{
	kata_vm *vm = NULL;

	fixture_assert_ok(
		kata_vm_builder_build_from_snapshot(w->builder, snapshot, NULL, NULL, NULL, options, &vm, &w->err),
		w->err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	return vm;
}

static void assert_disk(kata_vm *vm, const char *id, const char *address)
{
	kata_storage *s = NULL;
	kata_error *err = NULL;
	char text[16];

	fixture_assert_ok(kata_vm_find_storage(vm, id, &s, &err), err);
	kata_storage_get_address(s, text, sizeof(text));
	cr_assert_str_eq(text, address);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_PLUGGED);
	kata_storage_unref(s);
}

static void assert_devices(kata_vm *vm)
{
	kata_nic *n = NULL;
	kata_error *err = NULL;
	char text[16];

	cr_assert_eq(kata_vm_get_storage_count(vm), 2u);
	cr_assert_eq(kata_vm_get_nic_count(vm), 1u);
	assert_disk(vm, "blk", "08/00");
	assert_disk(vm, "scsi", "0:0");
	fixture_assert_ok(kata_vm_find_nic(vm, "nic", &n, &err), err);
	kata_nic_get_address(n, text, sizeof(text));
	cr_assert_str_eq(text, "09/00");
	cr_assert_str_eq(kata_nic_get_mac(n), "02:00:00:00:00:07");
	kata_nic_unref(n);
}

void vm_contract_a_saved_machine_runs_on_and_is_restored_with_its_devices(const struct vm_kind *kind)
{
	struct vm_world w;

	open_world(&w, kind);
	world_start(&w);
	plug_devices(&w);
	save(&w);
	cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_RUNNING);
	world_plug_nic(&w, "another", NULL);
	end_source(&w);
	w.vm = build(&w, NULL);
	assert_devices(w.vm);
	fixture_assert_ok(kata_vm_start(w.vm, NULL, &w.err), w.err);
	cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_RUNNING);
	cr_assert_eq(kata_vm_get_origin(w.vm), KATA_VM_RESTORED);
	assert_devices(w.vm);
	world_plug_nic(&w, "another", NULL);
	close_world(&w);
}

/* ---- another config ---- */

static void refuse(struct vm_world *w, const kata_vm_config *config, const kata_agent_config *agent, const char *word)
{
	kata_vm *vm = NULL;

	fixture_assert_fails(
		kata_vm_builder_build_from_snapshot(w->builder, snapshot, config, agent, NULL, NULL, &vm, &w->err),
		KATA_E_INVALID, w->err);
	cr_assert(strstr(kata_error_get_message(w->err), word), "no word of '%s': %s", word, error_text(w->err));
	cr_assert_null(vm);
	error_clear(&w->err);
}

#define REFUSE(w, member, value)                                                                                       \
	do {                                                                                                           \
		kata_vm_config c_ = KATA_VM_CONFIG_INIT;                                                               \
		c_.member = (value);                                                                                   \
		refuse((w), &c_, NULL, "config." #member);                                                             \
	} while (0)

static void refuse_shapes(struct vm_world *w, const char *other_kernel)
{
	const char *const params[] = {"other=1", NULL};
	kata_agent_config agent = KATA_AGENT_CONFIG_INIT;
	kata_vm_config two = KATA_VM_CONFIG_INIT;

	REFUSE(w, id, "../elsewhere");
	REFUSE(w, id, "an.id.of.more.than.sixty-four.bytes.which.would.be.the.name.of.a.directory");
	REFUSE(w, memory_path, "relative");
	REFUSE(w, kernel, "relative");
	REFUSE(w, cpus, 7);
	REFUSE(w, cpus_max, 8);
	REFUSE(w, memory_mib, 4096);
	REFUSE(w, memory_max_mib, 8192);
	REFUSE(w, memory_slots, 3);
	REFUSE(w, device_slots, 5);
	REFUSE(w, machine, "another");
	REFUSE(w, kernel_params, params);
	if (w->kind->opens_files)
		REFUSE(w, kernel, other_kernel);
	two.cpus = 7;
	two.memory_mib = 4096;
	refuse(w, &two, NULL, "config.cpus");
	refuse(w, &two, NULL, "config.memory_mib");
	agent.transport = KATA_AGENT_VSOCK;
	refuse(w, NULL, &agent, "agent_config.transport");
}

/* What its state fixes is named where it is asked for otherwise; what it does not, and more devices, may be asked for.
 */
void vm_contract_a_saved_machine_has_the_shape_it_was_saved_with(const struct vm_kind *kind)
{
	kata_vm_config same;
	struct vm_world w;
	char *kernel;

	open_world(&w, kind);
	world_start(&w);
	save(&w);
	end_source(&w);
	kernel = fixture_write_file(&w.f, "other-kernel", "not the kernel it was booted from", 33);
	refuse_shapes(&w, kernel);
	same = w.config;
	same.id = "restored";
	fixture_assert_ok(
		kata_vm_builder_build_from_snapshot(w.builder, snapshot, &same, NULL, NULL, NULL, &w.vm, &w.err),
		w.err);
	cr_assert_str_eq(kata_vm_get_id(w.vm), "restored");
	world_plug_disk(&w, "more", KATA_STORAGE_VIRTIO_BLK);
	world_plug_nic(&w, "morenic", NULL);
	fixture_assert_ok(kata_vm_start(w.vm, NULL, &w.err), w.err);
	cr_assert_eq(kata_vm_get_storage_count(w.vm), 1u);
	cr_assert_eq(kata_vm_get_nic_count(w.vm), 1u);
	free(kernel);
	close_world(&w);
}

void vm_contract_a_machine_saved_while_paused_stays_paused(const struct vm_kind *kind)
{
	struct vm_world w;

	open_world(&w, kind);
	world_start(&w);
	fixture_assert_ok(kata_vm_pause(w.vm, NULL, &w.err), w.err);
	for (int i = 0; i < 2; i++) {
		save(&w);
		cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_PAUSED);
		kata_snapshot_free(snapshot);
		snapshot = NULL;
		fixture_assert_ok(kata_snapshot_delete(w.f.context, path, &w.err), w.err);
	}
	fixture_assert_ok(kata_vm_resume(w.vm, NULL, &w.err), w.err);
	close_world(&w);
}

void vm_contract_a_restore_can_end_paused(const struct vm_kind *kind)
{
	kata_restore_options options = KATA_RESTORE_OPTIONS_INIT;
	struct vm_world w;

	open_world(&w, kind);
	world_start(&w);
	save(&w);
	end_source(&w);
	options.flags = KATA_RESTORE_PAUSED;
	w.vm = build(&w, &options);
	fixture_assert_ok(kata_vm_start(w.vm, NULL, &w.err), w.err);
	cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_PAUSED);
	fixture_assert_ok(kata_vm_resume(w.vm, NULL, &w.err), w.err);
	close_world(&w);
}

void vm_contract_a_machine_is_restored_side_by_side(const struct vm_kind *kind)
{
	kata_restore_options options = KATA_RESTORE_OPTIONS_INIT;
	struct vm_world w;
	kata_vm *all[3];

	open_world(&w, kind);
	world_start(&w);
	plug_devices(&w);
	save(&w);
	end_source(&w);
	options.flags = KATA_RESTORE_NEW_MACS;
	for (int i = 0; i < 3; i++) {
		kata_nic *n = NULL;

		all[i] = build(&w, &options);
		fixture_assert_ok(kata_vm_start(all[i], NULL, &w.err), w.err);
		fixture_assert_ok(kata_vm_find_nic(all[i], "nic", &n, &w.err), w.err);
		cr_assert_str_neq(kata_nic_get_mac(n), "02:00:00:00:00:07");
		cr_assert_str_neq(kata_vm_get_uuid(all[i]), kata_snapshot_get_uuid(snapshot));
		kata_nic_unref(n);
	}
	for (int i = 0; i < 3; i++) {
		fixture_assert_ok(kata_vm_destroy(all[i], NULL, &w.err), w.err);
		kata_vm_unref(all[i]);
	}
	close_world(&w);
}

void vm_contract_devices_added_before_a_restore_are_plugged_behind_the_load(const struct vm_kind *kind)
{
	struct vm_world w;

	open_world(&w, kind);
	world_start(&w);
	plug_devices(&w);
	save(&w);
	end_source(&w);
	w.vm = build(&w, NULL);
	world_plug_disk(&w, "more", KATA_STORAGE_VIRTIO_BLK);
	world_plug_nic(&w, "morenic", NULL);
	assert_disk(w.vm, "more", "0a/00");
	fixture_assert_ok(kata_vm_start(w.vm, NULL, &w.err), w.err);
	assert_disk(w.vm, "more", "0a/00");
	cr_assert_eq(kata_vm_get_storage_count(w.vm), 3u);
	cr_assert_eq(kata_vm_get_nic_count(w.vm), 2u);
	if (kind->await_guest)
		kind->await_guest(&w.f, w.vm);
	fixture_assert_ok(kata_vm_remove_storage(w.vm, "more", NULL, &w.err), w.err);
	close_world(&w);
}

void vm_contract_what_came_with_a_snapshot_is_removed_only_after_the_start(const struct vm_kind *kind)
{
	struct vm_world w;

	open_world(&w, kind);
	world_start(&w);
	plug_devices(&w);
	save(&w);
	end_source(&w);
	w.vm = build(&w, NULL);
	fixture_assert_fails(kata_vm_remove_storage(w.vm, "scsi", NULL, &w.err), KATA_E_STATE, w.err);
	cr_assert(strstr(kata_error_get_message(w.err), "snapshot"), "%s", error_text(w.err));
	error_clear(&w.err);
	fixture_assert_fails(kata_vm_remove_nic(w.vm, "nic", NULL, &w.err), KATA_E_STATE, w.err);
	error_clear(&w.err);
	fixture_assert_ok(kata_vm_start(w.vm, NULL, &w.err), w.err);
	fixture_assert_ok(kata_vm_remove_storage(w.vm, "scsi", NULL, &w.err), w.err);
	close_world(&w);
}

/* ---- refused, cancelled */

void vm_contract_saving_refuses_while_an_operation_is_at_work(const struct vm_kind *kind)
{
	kata_op *op = NULL;
	struct vm_world w;
	kata_nic *n;

	open_world(&w, kind);
	world_start(&w);
	n = world_nic("nic", NULL);
	fixture_assert_ok(
		kata_context_set_fail_point(w.f.context, "plug-nic/commit:before", KATA_FAIL_HANG, 0, 0, 1, &w.err),
		w.err);
	fixture_assert_ok(kata_vm_add_nic_begin(w.vm, n, NULL, &op, &w.err), w.err);
	fixture_assert_fails(kata_vm_snapshot(w.vm, path, NULL, NULL, NULL, &w.err), KATA_E_BUSY, w.err);
	error_clear(&w.err);
	kata_op_cancel(op);
	kata_op_wait(op, NULL);
	kata_op_unref(op);
	kata_nic_unref(n);
	cr_assert_eq(count_entries(), 0u);
	close_world(&w);
}

void vm_contract_a_save_that_is_cancelled_leaves_the_machine_running(const struct vm_kind *kind)
{
	kata_op *op = NULL;
	struct vm_world w;

	open_world(&w, kind);
	world_start(&w);
	plug_devices(&w);
	fixture_assert_ok(kata_context_set_fail_point(w.f.context, "snapshot/digest-parts:before", KATA_FAIL_HANG, 0, 0,
						      1, &w.err),
			  w.err);
	fixture_assert_ok(kata_vm_snapshot_begin(w.vm, path, NULL, NULL, &op, &w.err), w.err);
	cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_SAVING);
	fixture_assert_fails(kata_vm_pause(w.vm, NULL, &w.err), KATA_E_STATE, w.err);
	error_clear(&w.err);
	kata_op_cancel(op);
	fixture_assert_fails(kata_op_wait(op, &w.err), KATA_E_CANCELLED, w.err);
	error_clear(&w.err);
	kata_op_unref(op);
	kata_context_clear_fail_point(w.f.context, NULL);
	cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_RUNNING);
	cr_assert_eq(count_entries(), 0u);
	save(&w);
	close_world(&w);
}

/* ---- each step fails */

static int begin_save(struct vm_world *w, kata_op **ret_op, kata_error **err)
{
	return kata_vm_snapshot_begin(w->vm, path, NULL, NULL, ret_op, err);
}

static void delete_it(struct vm_world *w)
{
	cr_assert_eq(count_entries(), 1u);
	fixture_assert_ok(kata_snapshot_delete(w->f.context, path, &w->err), w->err);
}

static void nothing_is_saved(struct vm_world *w, kata_vm_state state)
{
	cr_assert_eq(kata_vm_get_state(w->vm), state);
	cr_assert_eq(count_entries(), 0u, "nothing half-made is left");
}

static void runs_and_nothing_is_saved(struct vm_world *w)
{
	nothing_is_saved(w, KATA_VM_RUNNING);
	/* It really runs: a PCI device goes only with the guest's consent. */
	world_plug_nic(w, "probe", NULL);
	fixture_assert_ok(kata_vm_remove_nic(w->vm, "probe", NULL, &w->err), w->err);
}

static void stands_and_nothing_is_saved(struct vm_world *w)
{
	nothing_is_saved(w, KATA_VM_PAUSED);
}

void vm_contract_a_failed_save_leaves_the_machine_running(const struct vm_kind *kind)
{
	static const struct world_operation operation = {begin_save, delete_it, runs_and_nothing_is_saved, NULL, NULL};
	struct vm_world w;

	open_world(&w, kind);
	world_start(&w);
	plug_devices(&w);
	world_fail_each_step(&w, &operation, true);
	close_world(&w);
}

void vm_contract_a_failed_save_of_a_paused_machine_leaves_it_paused(const struct vm_kind *kind)
{
	static const struct world_operation operation = {begin_save, delete_it, stands_and_nothing_is_saved, NULL,
							 NULL};
	struct vm_world w;

	open_world(&w, kind);
	world_start(&w);
	plug_devices(&w);
	fixture_assert_ok(kata_vm_pause(w.vm, NULL, &w.err), w.err);
	world_fail_each_step(&w, &operation, true);
	close_world(&w);
}

static int begin_restore(struct vm_world *w, kata_op **ret_op, kata_error **err)
{
	return kata_vm_start_begin(w->vm, NULL, ret_op, err);
}

static void build_another(struct vm_world *w)
{
	if (w->vm)
		end_source(w);
	w->vm = build(w, NULL);
	world_plug_disk(w, "more", KATA_STORAGE_VIRTIO_BLK);
	world_plug_nic(w, "morenic", NULL);
}

static void is_created(struct vm_world *w)
{
	cr_assert_eq(kata_vm_get_state(w->vm), KATA_VM_CREATED);
	cr_assert_eq(kata_vm_get_storage_count(w->vm), 3u);
	cr_assert_eq(kata_vm_get_nic_count(w->vm), 2u);
}

void vm_contract_a_failed_restore_leaves_the_host_as_before(const struct vm_kind *kind)
{
	static const struct world_operation operation = {begin_restore, build_another, is_created, NULL, NULL};
	struct vm_world w;

	open_world(&w, kind);
	world_start(&w);
	plug_devices(&w);
	save(&w);
	build_another(&w);
	world_fail_each_step(&w, &operation, true);
	close_world(&w);
}

/* ---- shared memory */

static char ram[96];

/* A machine whose RAM is in a file, small, as it is read more than once. */
static void open_shared(struct vm_world *w, const struct vm_kind *kind)
{
	open_world(w, kind);
	if (!kind->opens_files) {
		close_world(w);
		cr_skip_test("this kind of VM has no memory that could be shared");
	}
	end_source(w);
	snprintf(ram, sizeof(ram), "%s/ram", w->f.dir);
	w->config.memory_path = ram;
	w->config.memory_shared = true;
	if (!kind->await_guest)
		w->config.memory_mib = 16;
	world_build(w);
	world_start(w);
}

static int begin_shared_save(struct vm_world *w, kata_op **ret_op, kata_error **err)
{
	kata_snapshot_options options = KATA_SNAPSHOT_OPTIONS_INIT;

	options.memory = KATA_SNAPSHOT_SHARED;
	return kata_vm_snapshot_begin(w->vm, path, &options, NULL, ret_op, err);
}

static void runs_and_has_its_memory(struct vm_world *w)
{
	cr_assert_eq(access(ram, F_OK), 0);
	runs_and_nothing_is_saved(w);
}

static void start_anew(struct vm_world *w)
{
	cr_assert_eq(kata_vm_get_state(w->vm), KATA_VM_PAUSED);
	cr_assert_eq(access(ram, F_OK), -1, "the file is the snapshot's now");
	delete_it(w);
	end_source(w);
	world_build(w);
	world_start(w);
}

void vm_contract_a_failed_save_of_shared_memory_leaves_the_machine_running(const struct vm_kind *kind)
{
	static const struct world_operation operation = {begin_shared_save, start_anew, runs_and_has_its_memory, NULL,
							 NULL};
	struct vm_world w;

	open_shared(&w, kind);
	world_fail_each_step(&w, &operation, true);
	close_world(&w);
}

void vm_contract_a_machine_saved_with_shared_memory_can_only_be_destroyed(const struct vm_kind *kind)
{
	kata_op *op = NULL;
	struct vm_world w;
	char *json = NULL;
	kata_nic *n = world_nic("nic", NULL);

	open_shared(&w, kind);
	fixture_assert_ok(begin_shared_save(&w, &op, &w.err), w.err);
	fixture_assert_ok(kata_op_wait(op, &w.err), w.err);
	kata_op_unref(op);
	fixture_assert_ok(kata_vm_pause(w.vm, NULL, &w.err), w.err);
	fixture_assert_fails(kata_vm_resume(w.vm, NULL, &w.err), KATA_E_STATE, w.err);
	cr_assert(strstr(kata_error_get_message(w.err), "snapshot"), "%s", error_text(w.err));
	error_clear(&w.err);
	fixture_assert_fails(kata_vm_add_nic(w.vm, n, NULL, &w.err), KATA_E_STATE, w.err);
	error_clear(&w.err);
	fixture_assert_fails(kata_vm_release(w.vm, NULL, &json, &w.err), KATA_E_STATE, w.err);
	error_clear(&w.err);
	fixture_assert_fails(kata_vm_dump(w.vm, &json, &w.err), KATA_E_STATE, w.err);
	error_clear(&w.err);
	end_source(&w);
	fixture_assert_ok(kata_snapshot_open(w.f.context, path, KATA_SNAPSHOT_VERIFY, &snapshot, &w.err), w.err);
	w.vm = build(&w, NULL);
	fixture_assert_ok(kata_vm_start(w.vm, NULL, &w.err), w.err);
	kata_nic_unref(n);
	close_world(&w);
}
