/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steps that plugging and unplugging have in common, whatever the VMM: the book-keeping around the driver's own.
 *
 *	plug:    reserve, open, ... driver ..., commit         unplug:  find, ... driver ..., drop
 *
 * What drop, and the undo of reserve and of find, are for is not done at once but in the op's finish (finish.c): an
 * unplug that fails at its very end must leave the device where it was, so that the same call can be made again; and
 * only there it is known whether the driver could take its part back: a slot whose device may still be in the guest
 * must not be free.
 */
#include "vm/core.h"

#include <stdio.h>

#include "vm/restore.h"
#include "vm/warm.h"

/* Slots 8 to 30 of bus 0 first (31 is the chipset's), then their next functions: "08.1/00". */
void kata__vm_port_address(int port, char out[16])
{
	unsigned slot = KATA__VM_FIRST_PORT_SLOT + (unsigned)port % KATA__VM_PORT_SLOTS;
	unsigned function = (unsigned)port / KATA__VM_PORT_SLOTS;

	if (function)
		snprintf(out, 16, "%02x.%u/00", slot, function);
	else
		snprintf(out, 16, "%02x/00", slot);
}

void kata__vm_lun_address(int lun, char out[16])
{
	snprintf(out, 16, "0:%d", lun);
}

/* The table was chosen by the state at the begin; since then it may have changed. */
static int check_state(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	const struct kata__vm_driver *driver = vm->driver;
	const struct kata__op_table *table = kata__op_get_table(op);
	bool cold = table == driver->add_storage_cold || table == driver->remove_storage_cold ||
		    table == driver->add_nic_cold || table == driver->remove_nic_cold;

	if (cold && (table == driver->add_storage || table == driver->remove_storage || table == driver->add_nic ||
		     table == driver->remove_nic))
		return kata__vm_recheck_state(vm, KATA__VM_IN(CREATED) | KATA__VM_LIVE, table->name,
					      err); /* one table for both */
	if (!cold && kata__vm_is_warm(vm))
		return kata__vm_recheck_state(vm, KATA__VM_IN(CREATED) | KATA__VM_LIVE, table->name, err);
	return kata__vm_recheck_state(vm, cold ? KATA__VM_IN(CREATED) : KATA__VM_LIVE, table->name, err);
}

/* ---- plug ---- */

int kata__vm_step_reserve_storage(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	int rc = check_state(op, err);

	return rc < 0 ? rc : kata__vm_device_reserve(d->vm, d->storage, NULL, &d->slot, err);
}

int kata__vm_step_unreserve_storage(kata_op *op, kata_error **err)
{
	return KATA__STEP_DONE;
}

int kata__vm_step_reserve_nic(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	int rc = check_state(op, err);

	return rc < 0 ? rc : kata__vm_device_reserve(d->vm, NULL, d->nic, &d->slot, err);
}

int kata__vm_step_unreserve_nic(kata_op *op, kata_error **err)
{
	return KATA__STEP_DONE;
}

int kata__vm_step_open_image(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	int rc = kata__image_open(d->storage, &d->image, err);

	if (rc < 0)
		return rc;
	rc = kata__vm_device_claim_files(d->vm, d->storage, &d->image.files, err);
	if (rc < 0)
		kata__image_close(&d->image);
	return rc;
}

int kata__vm_step_close_image(kata_op *op, kata_error **err)
{
	kata__image_close(&kata__vm_op_data(op)->image);
	return KATA__STEP_DONE;
}

int kata__vm_step_open_tap(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);

	if (kata_nic_get_type(d->nic) != KATA_NIC_TAP)
		return KATA__STEP_DONE;
	return kata__tap_open(kata_nic_get_tap_name(d->nic), kata_nic_get_mtu(d->nic), &d->tap_fd, &d->tap_created,
			      &d->tap_before, err);
}

int kata__vm_step_close_tap(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);

	return kata__tap_undo(kata_nic_get_tap_name(d->nic), &d->tap_fd, &d->tap_before, err);
}

/* A guest may let go of a device before its plug is complete. */
static int check_is_there(const struct kata__vm_op *d, const void *object, const char *noun, const char *id,
			  kata_error **err)
{
	if (!kata__vm_device_is_lost(d->vm, object))
		return 0;
	return kata__fail(err, KATA_E_VMM, GUEST, "the guest let go of %s '%s' while it was being plugged", noun, id);
}

int kata__vm_step_commit_storage(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	char address[16];
	int rc = check_is_there(d, d->storage, "storage", kata_storage_get_id(d->storage), err);

	if (rc < 0)
		return rc;
	if (kata_storage_get_driver(d->storage) == KATA_STORAGE_VIRTIO_SCSI)
		kata__vm_lun_address(d->slot, address);
	else
		kata__vm_port_address(d->slot, address);
	kata__vm_device_commit(d->vm, d->storage);
	kata__storage_set_plugged(d->storage, address, d->image.size_bytes);
	return KATA__STEP_DONE;
}

int kata__vm_step_commit_nic(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	char address[16];
	int rc = check_is_there(d, d->nic, "NIC", kata_nic_get_id(d->nic), err);

	if (rc < 0)
		return rc;
	kata__vm_port_address(d->slot, address);
	kata__vm_device_commit(d->vm, d->nic);
	kata__nic_set_plugged(d->nic, address);
	return KATA__STEP_DONE;
}

/* ---- unplug ---- */

/* BUSY while another op is at work on it, NOT_FOUND when one has removed it since the begin. */
static int find(kata_op *op, const void *object, const char *noun, const char *id, kata_device_state state,
		kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	bool committed = false;
	int slot, rc = check_state(op, err);

	if (rc == 0 && kata__vm_get_state(d->vm) == KATA_VM_CREATED && !kata__vm_is_warm(d->vm) &&
	    kata__vm_restore_has(d->vm, object))
		rc = kata__fail(
			err, KATA_E_STATE, CALLER,
			"%s '%s' came with the snapshot, whose state knows of it: it can be removed once vm '%s' "
			"is started",
			noun, id, d->vm->id);
	if (rc < 0)
		return rc;
	slot = kata__vm_device_slot(d->vm, object, &committed);
	if (slot < 0)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "vm '%s' has no %s '%s' any more", d->vm->id, noun,
				  id);
	if (!committed || (state != KATA_DEVICE_PLUGGED && state != KATA_DEVICE_DIVERGED))
		return kata__fail(err, KATA_E_BUSY, CALLER, "%s '%s' is %s by another operation: wait for that", noun,
				  id, committed ? kata_device_state_get_name(state) : "plugging");
	d->slot = slot;
	d->device_before = state;
	return KATA__STEP_DONE;
}

int kata__vm_step_find_storage(kata_op *op, kata_error **err)
{
	kata_storage *s = kata__vm_op_data(op)->storage;
	int rc = find(op, s, "storage", kata_storage_get_id(s), kata_storage_get_state(s), err);

	if (rc == 0)
		rc = kata__vm_check_unused(kata__vm_op_data(op)->vm, kata_storage_get_id(s), err);
	if (rc == 0)
		kata__storage_set_state(s, KATA_DEVICE_UNPLUGGING);
	return rc;
}

int kata__vm_step_unfind_storage(kata_op *op, kata_error **err)
{
	return KATA__STEP_DONE;
}

int kata__vm_step_drop_storage(kata_op *op, kata_error **err)
{
	return KATA__STEP_DONE;
}

int kata__vm_step_find_nic(kata_op *op, kata_error **err)
{
	kata_nic *n = kata__vm_op_data(op)->nic;
	int rc = find(op, n, "NIC", kata_nic_get_id(n), kata_nic_get_state(n), err);

	if (rc == 0)
		kata__nic_set_state(n, KATA_DEVICE_UNPLUGGING);
	return rc;
}

int kata__vm_step_unfind_nic(kata_op *op, kata_error **err)
{
	return KATA__STEP_DONE;
}

int kata__vm_step_drop_nic(kata_op *op, kata_error **err)
{
	return KATA__STEP_DONE;
}
