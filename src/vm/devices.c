/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of a VM's devices: who holds which slot, and what must not be there twice.
 *
 *     reserve --> (plug under way) --> commit --> in the public lists --> drop
 *
 * Model: the table is under the VM's mutex, so that lists answer from any thread while a plug is in progress; slots are
 * the leader's. Invariants: 1. an id is in the table once, over storages and NICs; so is a MAC. 2. a file that
 * one of them may write to is in the table once, backing files included. 3. a slot is taken in vm->ports or vm->luns
 * exactly while its device is in the table.
 */
#include "vm/core.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const char *device_id(const struct kata__vm_device *d)
{
	return d->storage ? kata_storage_get_id(d->storage) : kata_nic_get_id(d->nic);
}

static const void *device_object(const struct kata__vm_device *d)
{
	return d->storage ? (const void *)d->storage : (const void *)d->nic;
}

static struct kata__slots *slots_of(kata_vm *vm, const struct kata__vm_device *d)
{
	return d->on_lun ? &vm->luns : &vm->ports;
}

static struct kata__vm_device *find_object(const kata_vm *vm, const void *object)
{
	for (size_t i = 0; i < vm->shared->device_count; i++)
		if (device_object(vm->shared->devices[i]) == object)
			return vm->shared->devices[i];
	return NULL;
}

static struct kata__vm_device *find_id(const kata_vm *vm, const char *id)
{
	for (size_t i = 0; i < vm->shared->device_count; i++)
		if (strcmp(device_id(vm->shared->devices[i]), id) == 0)
			return vm->shared->devices[i];
	return NULL;
}

static struct kata__vm_device *find_mac(const kata_vm *vm, const char *mac)
{
	for (size_t i = 0; i < vm->shared->device_count; i++)
		if (vm->shared->devices[i]->nic && strcmp(kata_nic_get_mac(vm->shared->devices[i]->nic), mac) == 0)
			return vm->shared->devices[i];
	return NULL;
}

bool kata__vm_device_has_id(kata_vm *vm, const char *id)
{
	bool has;

	kata__vm_lock(vm);
	has = find_id(vm, id) != NULL;
	kata__vm_unlock(vm);
	return has;
}

bool kata__vm_device_has_mac(kata_vm *vm, const char *mac)
{
	bool has;

	kata__vm_lock(vm);
	has = find_mac(vm, mac) != NULL;
	kata__vm_unlock(vm);
	return has;
}

size_t kata__vm_device_slots_used(kata_vm *vm, bool luns)
{
	size_t n = 0;

	kata__vm_lock(vm);
	for (size_t i = 0; i < vm->shared->device_count; i++)
		n += vm->shared->devices[i]->on_lun == luns;
	kata__vm_unlock(vm);
	return n;
}

/* ---- in and out ---- */

static int check_twice(kata_vm *vm, const struct kata__vm_device *d, kata_error **err)
{
	const char *id = device_id(d);
	const struct kata__vm_device *other = NULL;
	int rc = 0;

	kata__vm_lock(vm);
	if (find_object(vm, device_object(d)))
		rc = kata__fail(err, KATA_E_EXISTS, CALLER, "%s '%s' is in vm '%s' already",
				d->storage ? "storage" : "NIC", id, vm->id);
	else if ((other = find_id(vm, id)))
		rc = kata__fail(err, KATA_E_EXISTS, CALLER, "id '%s' is taken in vm '%s' by a %s", id, vm->id,
				other->storage ? "storage" : "NIC");
	else if (d->nic && (other = find_mac(vm, kata_nic_get_mac(d->nic))))
		rc = kata__fail(err, KATA_E_EXISTS, CALLER, "NIC '%s': MAC %s is that of NIC '%s' in vm '%s'", id,
				kata_nic_get_mac(d->nic), device_id(other), vm->id);
	kata__vm_unlock(vm);
	return rc;
}

static int append(kata_vm *vm, struct kata__vm_device *d, kata_error **err)
{
	struct kata__vm_shared *s = vm->shared;
	struct kata__vm_device **grown;
	int rc = 0;

	kata__vm_lock(vm);
	if (s->device_count == s->device_alloc) {
		grown = realloc(s->devices, (s->device_alloc + 16) * sizeof(*grown));
		if (grown) {
			s->devices = grown;
			s->device_alloc += 16;
		}
	}
	if (s->device_count < s->device_alloc)
		s->devices[s->device_count++] = d;
	else
		rc = KATA_E_NO_MEMORY;
	kata__vm_unlock(vm);
	return rc < 0 ? kata__fail_no_memory(err) : 0;
}

static struct kata__vm_device *device_new(kata_storage *storage, kata_nic *nic)
{
	struct kata__vm_device *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->storage = kata_storage_ref(storage);
	d->nic = kata_nic_ref(nic);
	d->slot = -1;
	d->on_lun = storage && kata_storage_get_driver(storage) == KATA_STORAGE_VIRTIO_SCSI;
	return d;
}

static void device_free(struct kata__vm_device *d)
{
	kata_storage_unref(d->storage);
	kata_nic_unref(d->nic);
	free(d);
}

static int begin_plug(struct kata__vm_device *d, kata_error **err)
{
	return d->storage ? kata__storage_begin_plug(d->storage, err) : kata__nic_begin_plug(d->nic, err);
}

static void set_device_state(struct kata__vm_device *d, kata_device_state state)
{
	if (d->storage)
		kata__storage_set_state(d->storage, state);
	else
		kata__nic_set_state(d->nic, state);
}

static int reserve_slot(kata_vm *vm, struct kata__vm_device *d, kata_error **err)
{
	int rc = kata__slots_reserve(slots_of(vm, d), &d->slot, err);

	if (rc == 0)
		return 0;
	rc = kata__error_wrap(err, rc, "%s '%s': vm '%s' has no room for it", d->storage ? "storage" : "NIC",
			      device_id(d), vm->id);
	if (err)
		kata__error_set_hint(*err, "unplug another%s",
				     d->on_lun ? "" : ", or build the VM with more config.device_slots");
	return rc;
}

int kata__vm_device_reserve(kata_vm *vm, kata_storage *storage, kata_nic *nic, int *ret_slot, kata_error **err)
{
	struct kata__vm_device *d = device_new(storage, nic);
	int rc;

	if (!d)
		return kata__fail_no_memory(err);
	rc = check_twice(vm, d, err);
	if (rc == 0)
		rc = begin_plug(d, err);
	if (rc < 0) {
		device_free(d);
		return rc;
	}
	rc = reserve_slot(vm, d, err);
	if (rc == 0 && (rc = append(vm, d, err)) < 0)
		kata__slots_release(slots_of(vm, d), d->slot, false);
	if (rc < 0) {
		set_device_state(d, KATA_DEVICE_NEW);
		device_free(d);
		return rc;
	}
	*ret_slot = d->slot;
	return 0;
}

int kata__vm_device_restore(kata_vm *vm, kata_storage *storage, kata_nic *nic, uint32_t slot, kata_error **err)
{
	struct kata__vm_device *d = device_new(storage, nic);
	int rc;

	if (!d)
		return kata__fail_no_memory(err);
	rc = check_twice(vm, d, err);
	if (rc == 0)
		rc = kata__slots_take(slots_of(vm, d), slot, err);
	if (rc == 0) {
		d->slot = (int)slot;
		d->committed = true;
		rc = append(vm, d, err);
	}
	if (rc < 0)
		device_free(d);
	return rc;
}

/* Under the mutex. */
static int check_files(const kata_vm *vm, const kata_storage *mine, const struct kata__disk_files *files,
		       const struct kata__vm_device *other, kata_error **err)
{
	const char *id = kata_storage_get_id(mine), *path = kata_storage_get_path(mine);

	if (kata__disk_files_same(files, &other->files))
		return kata__fail(
			err, KATA_E_EXISTS, CALLER,
			"storage '%s': %s is plugged into vm '%s' already, as '%s': a file may be there twice "
			"only read-only",
			id, path, vm->id, device_id(other));
	if (kata__disk_files_below(files, &other->files))
		return kata__fail(
			err, KATA_E_EXISTS, CALLER,
			"storage '%s': %s is in vm '%s' already, as the backing file of '%s': it may be plugged "
			"only read-only",
			id, path, vm->id, device_id(other));
	if (kata__disk_files_below(&other->files, files))
		return kata__fail(
			err, KATA_E_EXISTS, CALLER,
			"storage '%s': its backing file %s is plugged into vm '%s' already, as '%s', which may "
			"write to it: a backing file may be plugged only read-only",
			id, kata__storage_backing_path(mine), vm->id, device_id(other));
	return 0;
}

int kata__vm_device_claim_files(kata_vm *vm, const kata_storage *storage, const struct kata__disk_files *files,
				kata_error **err)
{
	struct kata__vm_device *mine;
	int rc = 0;

	kata__vm_lock(vm);
	mine = find_object(vm, storage);
	for (size_t i = 0; rc == 0 && i < vm->shared->device_count; i++)
		if (vm->shared->devices[i] != mine)
			rc = check_files(vm, storage, files, vm->shared->devices[i], err);
	if (rc == 0 && mine)
		mine->files = *files;
	kata__vm_unlock(vm);
	return rc;
}

void kata__vm_device_note_files(kata_vm *vm, const kata_storage *storage, const struct kata__disk_files *files)
{
	struct kata__vm_device *d;

	kata__vm_lock(vm);
	d = find_object(vm, storage);
	if (d)
		d->files = *files;
	kata__vm_unlock(vm);
}

bool kata__vm_device_has_file(kata_vm *vm, const kata_storage *storage, const struct stat *st)
{
	struct kata__file_id file = kata__file_id_of(st);
	const struct kata__vm_device *d;
	bool has;

	kata__vm_lock(vm);
	d = find_object(vm, storage);
	has = d && (!d->files.has_file || (d->files.file.dev == file.dev && d->files.file.ino == file.ino));
	kata__vm_unlock(vm);
	return has;
}

int kata__vm_device_slot(kata_vm *vm, const void *object, bool *ret_committed)
{
	const struct kata__vm_device *d;
	int slot;

	kata__vm_lock(vm);
	d = find_object(vm, object);
	slot = d ? d->slot : -1;
	*ret_committed = d && d->committed;
	kata__vm_unlock(vm);
	return slot;
}

static kata_device_state device_state(const struct kata__vm_device *d)
{
	return d->storage ? kata_storage_get_state(d->storage) : kata_nic_get_state(d->nic);
}

static bool is_known(const struct kata__vm_device *d)
{
	return device_state(d) == KATA_DEVICE_PLUGGED &&
	       (d->nic || (d->files.has_file && d->files.has_backing == !!kata__storage_backing_path(d->storage)));
}

bool kata__vm_devices_are_known(const kata_vm *vm)
{
	bool known = true;

	kata__vm_lock(vm);
	for (size_t i = 0; known && i < vm->shared->device_count; i++)
		known = is_known(vm->shared->devices[i]);
	kata__vm_unlock(vm);
	return known;
}

bool kata__vm_device_lost(kata_vm *vm, bool nic, const char *id)
{
	struct kata__vm_device *d;
	bool unasked;

	kata__vm_lock(vm);
	d = find_id(vm, id);
	if (d && !d->nic == nic)
		d = NULL;
	unasked = d && d->committed && device_state(d) == KATA_DEVICE_PLUGGED;
	if (d)
		d->lost = true;
	if (unasked) {
		set_device_state(d, KATA_DEVICE_DIVERGED);
		vm->shared->generation++;
	}
	kata__vm_unlock(vm);
	return unasked;
}

void kata__vm_device_arrived(kata_vm *vm, const void *object)
{
	struct kata__vm_device *d;

	kata__vm_lock(vm);
	d = find_object(vm, object);
	if (d)
		d->lost = false;
	kata__vm_unlock(vm);
}

bool kata__vm_device_is_lost(kata_vm *vm, const void *object)
{
	const struct kata__vm_device *d;
	bool lost;

	kata__vm_lock(vm);
	d = find_object(vm, object);
	lost = d && d->lost;
	kata__vm_unlock(vm);
	return lost;
}

void kata__vm_device_commit(kata_vm *vm, const void *object)
{
	struct kata__vm_device *d;

	kata__vm_lock(vm);
	d = find_object(vm, object);
	assert(d);
	d->committed = true;
	kata__slots_commit(slots_of(vm, d), d->slot);
	vm->shared->generation++;
	kata__vm_unlock(vm);
}

static void remove_at(kata_vm *vm, size_t i)
{
	struct kata__vm_shared *s = vm->shared;
	struct kata__vm_device *d = s->devices[i];

	memmove(&s->devices[i], &s->devices[i + 1], (s->device_count - i - 1) * sizeof(*s->devices));
	s->device_count--;
	s->generation++;
	if (d->slot >= 0)
		kata__slots_release(slots_of(vm, d), d->slot, !d->on_lun && s->state != KATA_VM_CREATED);
}

void kata__vm_device_drop(kata_vm *vm, const void *object)
{
	struct kata__vm_shared *s = vm->shared;
	struct kata__vm_device *d = NULL;

	kata__vm_lock(vm);
	for (size_t i = 0; i < s->device_count && !d; i++) {
		if (device_object(s->devices[i]) == object) {
			d = s->devices[i];
			remove_at(vm, i);
		}
	}
	kata__vm_unlock(vm);
	if (!d)
		return;
	set_device_state(d, KATA_DEVICE_NEW);
	device_free(d);
}

void kata__vm_device_drop_all(kata_vm *vm)
{
	const void *object;

	for (;;) {
		kata__vm_lock(vm);
		object = vm->shared->device_count ? device_object(vm->shared->devices[0]) : NULL;
		kata__vm_unlock(vm);
		if (!object)
			return;
		kata__vm_device_drop(vm, object);
	}
}

/* ---- the public lists ---- */

static size_t count_committed(const kata_vm *vm, bool nics)
{
	size_t n = 0;

	kata__vm_lock(vm);
	for (size_t i = 0; i < vm->shared->device_count; i++)
		n += vm->shared->devices[i]->committed && !vm->shared->devices[i]->nic == !nics;
	kata__vm_unlock(vm);
	return n;
}

/* A reference to the index-th one, or nothing. */
static void get_committed(const kata_vm *vm, size_t index, kata_storage **ret_storage, kata_nic **ret_nic)
{
	kata__vm_lock(vm);
	for (size_t i = 0; i < vm->shared->device_count; i++) {
		struct kata__vm_device *d = vm->shared->devices[i];

		if (!d->committed || !d->nic == !ret_storage || index-- > 0)
			continue;
		if (ret_storage)
			*ret_storage = kata_storage_ref(d->storage);
		else
			*ret_nic = kata_nic_ref(d->nic);
		break;
	}
	kata__vm_unlock(vm);
}

size_t kata_vm_get_storage_count(const kata_vm *vm)
{
	return vm ? count_committed(vm, false) : 0;
}

size_t kata_vm_get_nic_count(const kata_vm *vm)
{
	return vm ? count_committed(vm, true) : 0;
}

int kata_vm_get_storage(kata_vm *vm, size_t index, kata_storage **ret_storage, kata_error **err)
{
	kata_storage *found = NULL;
	int rc = kata__vm_check(vm, err);

	if (rc == 0 && !ret_storage)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "ret_storage: is NULL");
	if (rc < 0)
		return rc;
	get_committed(vm, index, &found, NULL);
	if (!found)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "index: %zu is past the end, vm '%s' has %zu storages",
				  index, vm->id, kata_vm_get_storage_count(vm));
	*ret_storage = found;
	return 0;
}

int kata_vm_get_nic(kata_vm *vm, size_t index, kata_nic **ret_nic, kata_error **err)
{
	kata_nic *found = NULL;
	int rc = kata__vm_check(vm, err);

	if (rc == 0 && !ret_nic)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "ret_nic: is NULL");
	if (rc < 0)
		return rc;
	get_committed(vm, index, NULL, &found);
	if (!found)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "index: %zu is past the end, vm '%s' has %zu NICs",
				  index, vm->id, kata_vm_get_nic_count(vm));
	*ret_nic = found;
	return 0;
}

/* The device of that id and kind; *ret_pending when its plug is under way. */
static void look_up(kata_vm *vm, const char *id, bool *ret_pending, kata_storage **ret_storage, kata_nic **ret_nic)
{
	struct kata__vm_device *d;

	kata__vm_lock(vm);
	d = find_id(vm, id);
	if (d && !d->nic == !ret_storage)
		d = NULL;
	*ret_pending = d && !d->committed;
	if (d && d->committed && ret_storage)
		*ret_storage = kata_storage_ref(d->storage);
	else if (d && d->committed)
		*ret_nic = kata_nic_ref(d->nic);
	kata__vm_unlock(vm);
}

static int check_find(kata_vm *vm, const char *id, const void *ret, kata_error **err)
{
	int rc = kata__vm_check(vm, err);

	if (rc == 0 && (!id || !ret))
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", id ? "ret" : "id");
	return rc;
}

static int fail_find(const kata_vm *vm, const char *noun, const char *id, bool pending, kata_error **err)
{
	if (pending)
		return kata__fail(err, KATA_E_BUSY, CALLER,
				  "%s '%.64s' is just being plugged into vm '%s': wait for that operation", noun, id,
				  vm->id);
	return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "vm '%s' has no %s '%.64s'", vm->id, noun, id);
}

int kata__vm_device_find_storage(kata_vm *vm, const char *id, kata_storage **ret, kata_error **err)
{
	kata_storage *found = NULL;
	bool pending = false;
	int rc = check_find(vm, id, ret, err);

	if (rc < 0)
		return rc;
	look_up(vm, id, &pending, &found, NULL);
	if (!found)
		return fail_find(vm, "storage", id, pending, err);
	*ret = found;
	return 0;
}

int kata__vm_device_find_nic(kata_vm *vm, const char *id, kata_nic **ret, kata_error **err)
{
	kata_nic *found = NULL;
	bool pending = false;
	int rc = check_find(vm, id, ret, err);

	if (rc < 0)
		return rc;
	look_up(vm, id, &pending, NULL, &found);
	if (!found)
		return fail_find(vm, "NIC", id, pending, err);
	*ret = found;
	return 0;
}

int kata_vm_find_storage(kata_vm *vm, const char *id, kata_storage **ret_storage, kata_error **err)
{
	return kata__vm_device_find_storage(vm, id, ret_storage, err);
}

int kata_vm_find_nic(kata_vm *vm, const char *id, kata_nic **ret_nic, kata_error **err)
{
	return kata__vm_device_find_nic(vm, id, ret_nic, err);
}
