/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mock_driver.c - the mock's tables of steps. Where the core has a step, it is the core's; between them stand "delay",
 * which waits as long as the caller asked for, and the step that does it to the machine or fails as the caller asked
 * for.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "vm/mock/mock.h"

static const struct kata__op_table start_table, add_storage_table, remove_storage_table, add_nic_table,
	remove_nic_table, pause_table, resume_table, start_warm_table, destroy_table;

static struct kata__mock_machine *machine_of(const kata_op *op)
{
	return kata__mock_machine_of(kata__vm_op_data(op)->vm);
}

static kata_mock_operation operation_of(const kata_op *op)
{
	static const struct {
		const struct kata__op_table *table;
		kata_mock_operation operation;
	} all[] = {
		{&start_table, KATA_MOCK_START},
		{&add_storage_table, KATA_MOCK_ADD_STORAGE},
		{&remove_storage_table, KATA_MOCK_REMOVE_STORAGE},
		{&add_nic_table, KATA_MOCK_ADD_NIC},
		{&remove_nic_table, KATA_MOCK_REMOVE_NIC},
		{&pause_table, KATA_MOCK_PAUSE},
		{&resume_table, KATA_MOCK_RESUME},
		{&start_warm_table, KATA_MOCK_RESUME},
		{&destroy_table, KATA_MOCK_DESTROY},
	};
	const struct kata__op_table *table = kata__op_get_table(op);

	for (size_t i = 0; i < kata__array_size(all); i++)
		if (all[i].table == table)
			return all[i].operation;
	return KATA_MOCK_OPERATION_COUNT;
}

static int step_delay(kata_op *op, kata_error **err)
{
	uint64_t delay_ms = kata__mock_controls_delay(machine_of(op)->controls, operation_of(op));

	return delay_ms ? kata__op_run_delay(op, delay_ms, err) : KATA__STEP_DONE;
}

/* 0, or the failure the caller of the mock asked for. */
static int told_to_fail(const kata_op *op, kata_error **err)
{
	int status = kata__mock_controls_take_failure(machine_of(op)->controls, operation_of(op));

	if (!status)
		return 0;
	return kata__fail(err, status, VMM, "the mock was told to fail here");
}

/* ---- start, pause, resume, destroy */

static int step_boot(kata_op *op, kata_error **err)
{
	int rc = told_to_fail(op, err);

	if (rc == 0)
		machine_of(op)->running = true;
	return rc;
}

static int undo_boot(kata_op *op, kata_error **err)
{
	machine_of(op)->running = false;
	return KATA__STEP_DONE;
}

static const struct kata__step start_steps[] = {
	{.name = "delay", .run = step_delay},
	{.name = "boot", .run = step_boot, .undo = undo_boot},
};
static const struct kata__op_table start_table = {
	.name = "start",
	KATA__STEPS(start_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

static int set_paused(kata_op *op, bool paused, kata_error **err)
{
	int rc = told_to_fail(op, err);

	if (rc < 0)
		return rc;
	if (machine_of(op)->ended)
		return kata__fail(err, KATA_E_GONE, VMM, "the machine has ended");
	kata__mock_machine_set_paused(machine_of(op), paused);
	return KATA__STEP_DONE;
}

static int step_stop(kata_op *op, kata_error **err)
{
	return set_paused(op, true, err);
}

static int step_continue(kata_op *op, kata_error **err)
{
	return set_paused(op, false, err);
}

static int undo_stop(kata_op *op, kata_error **err)
{
	kata__mock_machine_set_paused(machine_of(op), false);
	return KATA__STEP_DONE;
}

static int undo_continue(kata_op *op, kata_error **err)
{
	kata__mock_machine_set_paused(machine_of(op), true);
	return KATA__STEP_DONE;
}

static const struct kata__step pause_steps[] = {
	{.name = "delay", .run = step_delay},
	{.name = "stop", .run = step_stop, .undo = undo_stop},
};
static const struct kata__op_table pause_table = {
	.name = "pause",
	KATA__STEPS(pause_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

static const struct kata__step resume_steps[] = {
	{.name = "delay", .run = step_delay},
	{.name = "cont", .run = step_continue, .undo = undo_continue},
};
static const struct kata__op_table resume_table = {
	.name = "resume",
	KATA__STEPS(resume_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

static const struct kata__op_table start_warm_table = {
	.name = "start-warm",
	KATA__STEPS(resume_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

static int step_end(kata_op *op, kata_error **err)
{
	int rc = told_to_fail(op, err);

	if (rc < 0)
		return rc;
	kata__mock_machine_end(machine_of(op));
	return KATA__STEP_DONE;
}

static const struct kata__step destroy_steps[] = {
	{.name = "cancel-operations", .run = kata__vm_step_cancel_operations},
	{.name = "delay", .run = step_delay},
	{.name = "end", .run = step_end, .flags = KATA__STEP_NO_CANCEL},
	{.name = "await-operations", .run = kata__vm_step_await_operations},
};
static const struct kata__op_table destroy_table = {
	.name = "destroy",
	KATA__STEPS(destroy_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

/* ---- devices */

static int attach_storage(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	bool scsi = kata_storage_get_driver(d->storage) == KATA_STORAGE_VIRTIO_SCSI;
	struct kata__mock_device device = {0};

	snprintf(device.id, sizeof(device.id), "%s", kata_storage_get_id(d->storage));
	snprintf(device.kind, sizeof(device.kind), "%s", scsi ? "scsi" : "blk");
	if (scsi)
		kata__vm_lun_address(d->slot, device.address);
	else
		kata__vm_port_address(d->slot, device.address);
	device.storage = d->storage;
	d->image.size_bytes = KATA__MOCK_DISK_BYTES;
	return kata__mock_machine_attach(machine_of(op), &device, err);
}

static int step_attach_storage(kata_op *op, kata_error **err)
{
	int rc = told_to_fail(op, err);

	return rc < 0 ? rc : attach_storage(op, err);
}

static int undo_attach_storage(kata_op *op, kata_error **err)
{
	kata__mock_machine_detach(machine_of(op), kata_storage_get_id(kata__vm_op_data(op)->storage));
	return KATA__STEP_DONE;
}

static int step_detach_storage(kata_op *op, kata_error **err)
{
	int rc = told_to_fail(op, err);

	return rc < 0 ? rc : undo_attach_storage(op, err);
}

static const struct kata__step add_storage_steps[] = {
	{.name = "reserve-slot", .run = kata__vm_step_reserve_storage, .undo = kata__vm_step_unreserve_storage},
	{.name = "delay", .run = step_delay},
	{.name = "attach", .run = step_attach_storage, .undo = undo_attach_storage},
	{.name = "commit", .run = kata__vm_step_commit_storage},
};
static const struct kata__op_table add_storage_table = {
	.name = "plug-storage",
	KATA__STEPS(add_storage_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

static const struct kata__step remove_storage_steps[] = {
	{.name = "find", .run = kata__vm_step_find_storage, .undo = kata__vm_step_unfind_storage},
	{.name = "delay", .run = step_delay},
	{.name = "detach", .run = step_detach_storage, .undo = attach_storage},
	{.name = "drop", .run = kata__vm_step_drop_storage},
};
static const struct kata__op_table remove_storage_table = {
	.name = "unplug-storage",
	KATA__STEPS(remove_storage_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

static int attach_nic(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	struct kata__mock_device device = {.kind = "net"};

	snprintf(device.id, sizeof(device.id), "%s", kata_nic_get_id(d->nic));
	snprintf(device.mac, sizeof(device.mac), "%s", kata_nic_get_mac(d->nic));
	kata__vm_port_address(d->slot, device.address);
	return kata__mock_machine_attach(machine_of(op), &device, err);
}

static int step_attach_nic(kata_op *op, kata_error **err)
{
	int rc = told_to_fail(op, err);

	return rc < 0 ? rc : attach_nic(op, err);
}

static int undo_attach_nic(kata_op *op, kata_error **err)
{
	kata__mock_machine_detach(machine_of(op), kata_nic_get_id(kata__vm_op_data(op)->nic));
	return KATA__STEP_DONE;
}

static int step_detach_nic(kata_op *op, kata_error **err)
{
	int rc = told_to_fail(op, err);

	return rc < 0 ? rc : undo_attach_nic(op, err);
}

static const struct kata__step add_nic_steps[] = {
	{.name = "reserve-slot", .run = kata__vm_step_reserve_nic, .undo = kata__vm_step_unreserve_nic},
	{.name = "delay", .run = step_delay},
	{.name = "attach", .run = step_attach_nic, .undo = undo_attach_nic},
	{.name = "commit", .run = kata__vm_step_commit_nic},
};
static const struct kata__op_table add_nic_table = {
	.name = "plug-nic",
	KATA__STEPS(add_nic_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

static const struct kata__step remove_nic_steps[] = {
	{.name = "find", .run = kata__vm_step_find_nic, .undo = kata__vm_step_unfind_nic},
	{.name = "delay", .run = step_delay},
	{.name = "detach", .run = step_detach_nic, .undo = attach_nic},
	{.name = "drop", .run = kata__vm_step_drop_nic},
};
static const struct kata__op_table remove_nic_table = {
	.name = "unplug-nic",
	KATA__STEPS(remove_nic_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

/* ---- release and rebuild */

static int step_let_go(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	int rc = kata__mock_registry_put(machine_of(op), err);

	if (rc == 0)
		d->vm->impl = NULL;
	return rc;
}

static int step_take_back(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	struct kata__mock_machine *m = kata__mock_registry_take(vm->ctx, vm->uuid);

	if (!m)
		return kata__fail(err, KATA_E_GONE, VMM, "another handle has taken the machine over meanwhile");
	m->vm = vm;
	vm->impl = m;
	return KATA__STEP_DONE;
}

static const struct kata__step release_steps[] = {
	{.name = "write-record", .run = kata__vm_step_write_record},
	{.name = "let-go", .run = step_let_go, .undo = step_take_back},
};
static const struct kata__op_table release_table = {
	.name = "release",
	KATA__STEPS(release_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

/* The rebuilt handle came with a machine of its own that never ran: the released one takes its place, under its
 * controls. */
static int step_find_machine(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	struct kata__mock_machine *blank = kata__mock_machine_of(vm);
	struct kata__mock_machine *m = kata__mock_registry_take(vm->ctx, vm->uuid);

	if (!m)
		return kata__fail(err, KATA_E_GONE, VMM, "no machine %s has been released in this process", vm->uuid);
	if (m->paused != blank->paused) {
		int rc = kata__mock_registry_put(m, err);

		return rc < 0 ? rc
			      : kata__fail(err, KATA_E_CORRUPT, CALLER, "the record says %s, the machine is %s",
					   blank->paused ? "paused" : "running", m->paused ? "paused" : "running");
	}
	kata__mock_controls_unref(m->controls);
	m->controls = kata__mock_controls_ref(blank->controls);
	m->vm = vm;
	vm->impl = m;
	kata__mock_machine_free(blank);
	return KATA__STEP_DONE;
}

static int has_device(const struct kata__mock_machine *m, const char *noun, const char *id, const char *address,
		      kata_error **err)
{
	const struct kata__mock_device *d = kata__mock_machine_find(m, id);

	if (!d || strcmp(d->address, address) != 0)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "the record has %s '%s' at %s, the machine has not",
				  noun, id, address);
	return 0;
}

static int check_storages(kata_vm *vm, kata_error **err)
{
	size_t count = kata_vm_get_storage_count(vm);
	char address[16];
	int rc = 0;

	for (size_t i = 0; i < count && rc == 0; i++) {
		kata_storage *s = NULL;

		rc = kata_vm_get_storage(vm, i, &s, err);
		if (rc < 0)
			break;
		kata_storage_get_address(s, address, sizeof(address));
		rc = has_device(kata__mock_machine_of(vm), "disk", kata_storage_get_id(s), address, err);
		kata_storage_unref(s);
	}
	return rc;
}

static int check_nics(kata_vm *vm, kata_error **err)
{
	size_t count = kata_vm_get_nic_count(vm);
	char address[16];
	int rc = 0;

	for (size_t i = 0; i < count && rc == 0; i++) {
		kata_nic *n = NULL;

		rc = kata_vm_get_nic(vm, i, &n, err);
		if (rc < 0)
			break;
		kata_nic_get_address(n, address, sizeof(address));
		rc = has_device(kata__mock_machine_of(vm), "NIC", kata_nic_get_id(n), address, err);
		kata_nic_unref(n);
	}
	return rc;
}

static int step_check_devices(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	int rc = check_storages(vm, err);

	return rc < 0 ? rc : check_nics(vm, err);
}

static const struct kata__step rebuild_steps[] = {
	{.name = "find-machine", .run = step_find_machine, .undo = step_let_go},
	{.name = "check-devices", .run = step_check_devices},
};
static const struct kata__op_table rebuild_table = {
	.name = "rebuild",
	KATA__STEPS(rebuild_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

/* ---- the rest of the driver */

static int mock_init(kata_vm *vm, kata_error **err)
{
	struct kata__mock_machine *m = kata__mock_machine_new(vm);

	if (!m)
		return kata__fail_no_memory(err);
	vm->impl = m;
	snprintf(vm->accelerator, sizeof(vm->accelerator), "none");
	snprintf(vm->accelerator_reason, sizeof(vm->accelerator_reason), "the mock runs no guest");
	return 0;
}

static void mock_deinit(kata_vm *vm)
{
	kata__mock_machine_free(kata__mock_machine_of(vm));
	vm->impl = NULL;
}

static int mock_connect_agent(kata_vm *vm, int *ret_fd, kata_error **err)
{
	struct kata__mock_machine *m = kata__mock_machine_of(vm);

	if (!m || !m->running)
		return kata__fail(err, KATA_E_GONE, VMM, "the machine is not running");
	return kata__mock_channel_connect(m, ret_fd, err);
}

static int mock_dump(kata_vm *vm, json_t *driver, kata_error **err)
{
	struct kata__mock_machine *m = kata__mock_machine_of(vm);

	if (json_object_set_new(driver, "paused", json_boolean(m && m->paused)) < 0)
		return kata__fail_no_memory(err);
	return 0;
}

static int mock_restore(kata_vm *vm, const json_t *driver, kata_error **err)
{
	return kata__json_get_bool(driver, "driver", "paused", &kata__mock_machine_of(vm)->paused, err);
}

static char *mock_get_console(kata_vm *vm, size_t *ret_len)
{
	char *text = kata__format("mock: machine %s, no guest\n", vm->id);

	*ret_len = text ? strlen(text) : 0;
	return text;
}

const struct kata__vm_driver kata__mock_driver = {
	.name = "mock",
	.start = &start_table,
	.start_warm = &start_warm_table,
	.add_storage_cold = &add_storage_table,
	.add_storage = &add_storage_table,
	.remove_storage_cold = &remove_storage_table,
	.remove_storage = &remove_storage_table,
	.add_nic_cold = &add_nic_table,
	.add_nic = &add_nic_table,
	.remove_nic_cold = &remove_nic_table,
	.remove_nic = &remove_nic_table,
	.pause = &pause_table,
	.resume = &resume_table,
	.release = &release_table,
	.rebuild = &rebuild_table,
	.destroy = &destroy_table,
	.init = mock_init,
	.deinit = mock_deinit,
	.connect_agent = mock_connect_agent,
	.dump = mock_dump,
	.restore = mock_restore,
	.get_console = mock_get_console,
	.no_files = true,
};
