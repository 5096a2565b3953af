/* SPDX-License-Identifier: Apache-2.0 */
/* plug.c - what plugging and unplugging disks and NICs have in common: the device behind a root port. */
#include "vm/qemu/machine.h"

#include <string.h>
#include <sys/stat.h>

bool kata__qemu_is_block_device(int fd)
{
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 && S_ISBLK(st.st_mode);
}

void kata__qemu_device_name(const kata_op *op, char out[KATA__QEMU_NAME_MAX])
{
	const struct kata__vm_op *d = kata__vm_op_data(op);

	if (d->storage)
		kata__qemu_storage_name(d->storage, out);
	else
		kata__qemu_nic_name(d->nic, out);
}

/* QEMU locks what it opens, and says which lock it did not get, but not of what. */
int kata__qemu_check_lock(kata_op *op, const json_t *value, kata_error **err)
{
	const kata_storage *s = kata__vm_op_data(op)->storage;
	kata_error *said;

	if (!*err)
		return 0;
	if (kata_error_get_status(*err) != KATA_E_VMM || !s || !kata__qemu_says_locked(kata_error_get_message(*err)))
		return (int)kata_error_get_status(*err);
	said = *err;
	*err = NULL;
	kata__fail(err, KATA_E_BUSY, HOST,
		   "storage '%s': another process or VM has %s open in a way that excludes this one",
		   kata_storage_get_id(s), kata_storage_get_path(s));
	kata__error_add_cause(*err, said);
	kata__error_set_hint(*err,
			     "a file may be writable in one place only: plug it read-only in both, or give each VM an "
			     "overlay of its own");
	return KATA_E_BUSY;
}

bool kata__qemu_says_locked(const char *text)
{
	return strstr(text, "Failed to get ") && strstr(text, " lock");
}

/* QEMU answers before the guest can let go of it: what went before was another of that name, a dead owner's. */
static int check_added(kata_op *op, const json_t *value, kata_error **err)
{
	const struct kata__vm_op *d = kata__vm_op_data(op);
	int rc = kata__qemu_check_lock(op, value, err);

	if (rc == 0)
		kata__vm_device_arrived(d->vm, d->storage ? (const void *)d->storage : (const void *)d->nic);
	return rc;
}

int kata__qemu_step_device_add(kata_op *op, kata_error **err)
{
	const struct kata__vm_op *d = kata__vm_op_data(op);
	json_t *args =
		d->storage ? kata__qemu_storage_device(d->storage, d->slot) : kata__qemu_nic_device(d->nic, d->slot);

	kata__qemu_occupy_port(op);
	return args ? kata__qemu_command(op, "device_add", args, -1, check_added, err) : kata__fail_no_memory(err);
}

int kata__qemu_undo_device_add(kata_op *op, kata_error **err)
{
	char name[KATA__QEMU_NAME_MAX];

	kata__qemu_device_name(op, name);
	return kata__qemu_undo_device(op, name, err);
}

int kata__qemu_step_device_del(kata_op *op, kata_error **err)
{
	char name[KATA__QEMU_NAME_MAX];

	kata__qemu_device_name(op, name);
	return kata__qemu_request_deletion(op, name, err);
}

void kata__qemu_finish_plug(kata_op *op, int status, kata_error **error)
{
	kata__qemu_end_deletion(op);
	kata__vm_finish_device(op, status, error);
}
