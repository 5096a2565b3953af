/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices of a VM that is CREATED and warm: plugging and unplugging as into a running one, with the guest let run for
 *as long as that takes. A guest that is stopped neither lets go of a device nor of one whose plug has failed.
 *
 *	run-guest (the first of them), the driver's own operation, rest-guest (the last of them)
 *
 * Commands to a VMM are carried out in the order they are sent, so a rest that is under way when the next one runs the
 * guest needs no wait.
 */
#include "vm/core.h"
#include "vm/warm.h"

static int run_child(kata_op *op, int rc, kata_op *child, kata_error **err)
{
	return rc < 0 ? rc : kata__op_run_child(op, child, err);
}

static int power(kata_op *op, const struct kata__op_table *table, kata_error **err)
{
	struct kata__vm_call call = {.table = table, .permitted = KATA__VM_IN(CREATED), .next = -1};
	kata_vm *vm = kata__vm_op_data(op)->vm;
	kata_op *child = NULL;
	int rc = kata__vm_call_begin(vm, &call, kata__vm_op_new(vm), NULL, &child, err);

	return run_child(op, rc, child, err);
}

/* That this operation counts among those for which the guest runs. */
static uint64_t *is_counted(kata_op *op)
{
	return &kata__vm_op_data(op)->t_scratch[0];
}

static int run_guest(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;

	*is_counted(op) = true;
	return vm->shared->warm_runs++ ? KATA__STEP_DONE : power(op, vm->driver->resume, err);
}

/* A machine that has ended rests. */
static int rest_guest(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;

	if (!*is_counted(op))
		return KATA__STEP_DONE;
	*is_counted(op) = false;
	if (--vm->shared->warm_runs > 0 || kata__vm_get_state(vm) != KATA_VM_CREATED)
		return KATA__STEP_DONE;
	return power(op, vm->driver->pause, err);
}

static void finish(kata_op *op, int status, kata_error **error)
{
	kata__vm_op_data(op)->vm->shared->warm_runs -= *is_counted(op) ? 1 : 0; /* the guest could not be let run */
	kata__vm_finish_device(op, status, error);
}

static const struct kata__op_table *hot_table(const kata_vm *vm, const struct kata__vm_op *d, bool add)
{
	const struct kata__vm_driver *driver = vm->driver;

	if (d->storage)
		return add ? driver->add_storage : driver->remove_storage;
	return add ? driver->add_nic : driver->remove_nic;
}

static int device(kata_op *op, bool add, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op), *child_data = kata__vm_op_new(d->vm);
	struct kata__vm_call call = {.table = hot_table(d->vm, d, add), .permitted = KATA__VM_IN(CREATED), .next = -1};
	kata_op *child = NULL;
	int rc;

	if (child_data) {
		child_data->storage = kata_storage_ref(d->storage);
		child_data->nic = kata_nic_ref(d->nic);
	}
	rc = kata__vm_call_begin(d->vm, &call, child_data, NULL, &child, err);
	return run_child(op, rc, child, err);
}

static int plug(kata_op *op, kata_error **err)
{
	return device(op, true, err);
}

static int unplug(kata_op *op, kata_error **err)
{
	return device(op, false, err);
}

#define STEPS(array, act, back)                                                                                        \
	static const struct kata__step array[] = {                                                                     \
		{.name = "run-guest", .run = run_guest, .undo = rest_guest},                                           \
		{.name = "device", .run = act, .undo = back},                                                          \
		{.name = "rest-guest", .run = rest_guest, .undo = run_guest},                                          \
	}
STEPS(plug_steps, plug, unplug);
STEPS(unplug_steps, unplug, plug);

#define TABLE(var, text, array)                                                                                        \
	static const struct kata__op_table var = {.name = text,                                                        \
						  KATA__STEPS(array),                                                  \
						  .timeout_ms = 20000,                                                 \
						  .undo_timeout_ms = 20000,                                            \
						  .finish = finish,                                                    \
						  .free_data = kata__vm_free_op_data}
TABLE(plug_storage, "plug-storage-warm", plug_steps);
TABLE(unplug_storage, "unplug-storage-warm", unplug_steps);
TABLE(plug_nic, "plug-nic-warm", plug_steps);
TABLE(unplug_nic, "unplug-nic-warm", unplug_steps);

const struct kata__op_table *kata__vm_warm_table(bool nic, bool add)
{
	if (nic)
		return add ? &plug_nic : &unplug_nic;
	return add ? &plug_storage : &unplug_storage;
}
