/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The finish of every operation on a VM: what its end means for the state, the device and the record. On the leader,
 * before anybody who waits for the op wakes; so who wakes sees the new state.
 */
#include "vm/core.h"

#include <string.h>

#include "base/fd.h"
#include "vm/restore.h"
#include "vm/save.h"

/* What the machine does once it is started. One that waits for its state stands still. */
static kata_vm_state started_state(const kata_vm *vm, bool prestarted)
{
	return prestarted || (vm->restore && vm->restore->flags & KATA_RESTORE_PAUSED) ? KATA_VM_PAUSED
										       : KATA_VM_RUNNING;
}

static void finish_start(kata_vm *vm, bool prestarted, int status)
{
	struct kata__vm_shared *s = vm->shared;
	bool ended = false;

	kata__vm_lock(vm);
	s->preparing = false;
	if (s->state == KATA_VM_STARTING && status < 0 && (s->warm || (s->prestarted && s->owns_dir))) {
		ended = s->ended;
		kata__vm_move_locked(vm, ended ? KATA_VM_ENDED : KATA_VM_CREATED);
	} else if (s->state == KATA_VM_STARTING && status < 0) {
		kata__vm_move_locked(vm, KATA_VM_CREATED);
		s->prestarted = false; /* its VMM went with the undo, and the directory last */
		s->ended = false;
		s->process.pid = 0;
		s->process.start_time = 0;
	} else if (s->state == KATA_VM_STARTING) {
		ended = s->ended;
		kata__vm_move_locked(vm, ended ? KATA_VM_ENDED : started_state(vm, prestarted));
		s->warm = false;
		s->prestarted = prestarted;
	}
	kata__vm_unlock(vm);
	if (ended)
		kata__vm_notify_ended(vm);
}

static void finish_pause(kata_vm *vm, kata_vm_state to, int status)
{
	kata__vm_lock(vm);
	if (status == 0 && ((KATA__VM_LIVE >> vm->shared->state) & 1))
		kata__vm_move_locked(vm, to);
	kata__vm_unlock(vm);
}

static void finish_release(kata_vm *vm, const struct kata__vm_op *d, int status)
{
	kata__vm_lock(vm);
	if (vm->shared->state == KATA_VM_RELEASING)
		kata__vm_move_locked(vm, status < 0 ? d->state_before : KATA_VM_RELEASED);
	kata__vm_unlock(vm);
	if (status == 0)
		kata__vm_unregister(vm);
}

static void finish_rebuild(kata_vm *vm, const struct kata__vm_op *d, int status)
{
	struct kata__vm_shared *s = vm->shared;
	bool ended = false;

	kata__vm_lock(vm);
	if (s->state == KATA_VM_REBUILDING && status < 0) {
		kata__vm_move_locked(vm, KATA_VM_RELEASED);
	} else if (s->state == KATA_VM_REBUILDING) {
		kata__vm_move_locked(vm, d->state_before);
		ended = s->ended;
		if (ended)
			kata__vm_move_locked(vm, KATA_VM_ENDED);
	}
	if (status == 0) {
		s->epoch = d->epoch ? d->epoch : s->epoch + 1;
		s->frozen = d->frozen;
	}
	kata__vm_unlock(vm);
	if (status < 0)
		kata__vm_unregister(vm);
	if (ended)
		kata__vm_notify_ended(vm);
}

/* Where memory is shared, the file under it is the snapshot's now. */
static void finish_snapshot(kata_vm *vm, const struct kata__vm_op *d, int status)
{
	bool frozen = status == 0 && d->save->memory == KATA_SNAPSHOT_SHARED;

	kata__vm_lock(vm);
	vm->shared->frozen = frozen;
	if (vm->shared->state == KATA_VM_SAVING)
		kata__vm_move_locked(vm, frozen ? KATA_VM_PAUSED : d->state_before);
	kata__vm_unlock(vm);
}

static void finish_destroy(kata_vm *vm, int status)
{
	if (status < 0)
		return; /* stays DESTROYING: call it again */
	kata__vm_device_drop_all(vm);
	kata__vm_lock(vm);
	vm->shared->process.pid = 0;
	vm->shared->process.start_time = 0;
	kata__vm_unlock(vm);
	kata__vm_unregister(vm);
	kata__vm_set_state(vm, KATA_VM_DESTROYED);
}

static void set_state(const struct kata__vm_op *d, kata_device_state state)
{
	if (d->storage)
		kata__storage_set_state(d->storage, state);
	else
		kata__nic_set_state(d->nic, state);
}

static bool is_removal(const kata_vm *vm, const struct kata__op_table *table)
{
	const struct kata__vm_driver *driver = vm->driver;

	return table == driver->remove_storage || table == driver->remove_storage_cold || table == driver->remove_nic ||
	       table == driver->remove_nic_cold;
}

/* A device op failed: the device goes back to what it was, or is DIVERGED when nobody could tell or when it has left
 * the machine already. Only what this op reserved or found (slot >= 0) is touched. */
static void settle_device(kata_vm *vm, const struct kata__vm_op *d, bool removal, bool uncertain)
{
	const void *object = d->storage ? (const void *)d->storage : (const void *)d->nic;
	bool committed = false;

	if (!object || d->slot < 0 || kata__vm_device_slot(vm, object, &committed) < 0)
		return;
	if (!removal && !uncertain) {
		kata__vm_device_drop(vm, object);
		return;
	}
	if (!committed)
		kata__vm_device_commit(vm, object);
	set_state(d, uncertain || kata__vm_device_is_lost(vm, object) ? KATA_DEVICE_DIVERGED : d->device_before);
}

static bool is_worth_explaining(int status)
{
	return status == KATA_E_VMM || status == KATA_E_GONE || status == KATA_E_TIMEOUT || status == KATA_E_PROTOCOL;
}

static void publish(kata_vm *vm, kata_op *op, const struct kata__vm_op *d, int status)
{
	const struct kata__vm_driver *driver = vm->driver;
	const struct kata__op_table *table = kata__op_get_table(op);

	if (table == driver->start || table == driver->start_warm || table == driver->start_restored ||
	    table == driver->start_prestarted)
		finish_start(vm, false, status);
	else if (table == driver->prestart)
		finish_start(vm, true, status);
	else if (table == driver->pause)
		finish_pause(vm, KATA_VM_PAUSED, status);
	else if (table == driver->resume)
		finish_pause(vm, KATA_VM_RUNNING, status);
	else if (table == driver->snapshot)
		finish_snapshot(vm, d, status);
	else if (table == driver->release)
		finish_release(vm, d, status);
	else if (table == driver->rebuild)
		finish_rebuild(vm, d, status);
	else if (table == driver->destroy)
		finish_destroy(vm, status);
}

void kata__vm_finish_device(kata_op *op, int status, kata_error **error)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	kata_vm *vm = d->vm;
	kata_vm_state state;

	/* What the driver has not passed on: the op itself may be kept for its timeline. */
	kata__image_close(&d->image);
	kata__close_fd(&d->tap_fd);
	kata__save_close(d->save);
	if (status < 0 && error && is_worth_explaining(status))
		kata__vm_explain(vm, *error);
	publish(vm, op, d, status);
	if (status < 0)
		settle_device(vm, d, is_removal(vm, kata__op_get_table(op)), error && kata_error_is_uncertain(*error));
	else if (is_removal(vm, kata__op_get_table(op)))
		kata__vm_device_drop(vm, d->storage ? (const void *)d->storage : (const void *)d->nic);
	state = kata__vm_get_state(vm);
	if (state == KATA_VM_RUNNING || state == KATA_VM_PAUSED)
		kata__vm_changed(vm);
	kata__vm_call_leave(vm, op);
	d->holds_life = false;
	kata__vm_drop_life(vm);
}

void kata__vm_explain(kata_vm *vm, kata_error *err)
{
	size_t len = 0;
	char *text;

	if (!err)
		return;
	text = vm->driver->get_vmm_output ? vm->driver->get_vmm_output(vm, &len) : NULL;
	if (text && !kata_error_get_vmm_output(err))
		kata__error_set_vmm_output(err, text, len);
	free(text);
	len = 0;
	text = vm->driver->get_console ? vm->driver->get_console(vm, &len) : NULL;
	if (text && !kata_error_get_console(err))
		kata__error_set_console(err, text, len);
	free(text);
	if (vm->driver->explain)
		vm->driver->explain(vm, err);
}
