/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plug_storage.c - what plugging and unplugging a disk does.
 *
 * QEMU handles commands in order, so the undo of a command whose reply never came is simply the opposite command: its
 * reply tells whether there was anything to take back.
 */
#include "vm/qemu/machine.h"

#include <stdlib.h>

static unsigned fd_set_of(kata_op *op)
{
	const struct kata__vm_op *d = kata__vm_op_data(op);

	return kata__qemu_fd_set(d->storage, d->slot);
}

/* ---- hot: plug */

static int step_reserve(kata_op *op, kata_error **err)
{
	int rc = kata__vm_step_reserve_storage(op, err);

	return rc < 0 ? rc : kata__qemu_await_port(op, err);
}

static int add_fd(kata_op *op, int fd, unsigned set, kata_error **err)
{
	return kata__qemu_command(op, "add-fd", json_pack("{s:i}", "fdset-id", (int)set), fd, NULL, err);
}

static int remove_fd(kata_op *op, unsigned set, kata_error **err)
{
	return kata__qemu_command(op, "remove-fd", json_pack("{s:i}", "fdset-id", (int)set), -1,
				  kata__qemu_check_absent, err);
}

static int step_add_fd(kata_op *op, kata_error **err)
{
	return add_fd(op, kata__vm_op_data(op)->image.fd, fd_set_of(op), err);
}

static int undo_add_fd(kata_op *op, kata_error **err)
{
	return remove_fd(op, fd_set_of(op), err);
}

static bool has_backing(kata_op *op)
{
	return kata__storage_backing_path(kata__vm_op_data(op)->storage) != NULL;
}

static int step_add_backing_fd(kata_op *op, kata_error **err)
{
	if (!has_backing(op))
		return KATA__STEP_DONE;
	return add_fd(op, kata__vm_op_data(op)->image.backing_fd, fd_set_of(op) + 1, err);
}

static int undo_add_backing_fd(kata_op *op, kata_error **err)
{
	return has_backing(op) ? remove_fd(op, fd_set_of(op) + 1, err) : KATA__STEP_DONE;
}

static int step_blockdev_add(kata_op *op, kata_error **err)
{
	const struct kata__vm_op *d = kata__vm_op_data(op);
	json_t *args = kata__qemu_blockdev(d->storage, d->slot, kata__qemu_is_block_device(d->image.fd),
					   kata__qemu_is_block_device(d->image.backing_fd));

	return args ? kata__qemu_command(op, "blockdev-add", args, -1, kata__qemu_check_lock, err)
		    : kata__fail_no_memory(err);
}

static int undo_blockdev_add(kata_op *op, kata_error **err)
{
	const struct kata__vm_op *d = kata__vm_op_data(op);
	char node[16];

	kata__qemu_node_name(d->storage, d->slot, node);
	return kata__qemu_command(op, "blockdev-del", json_pack("{s:s}", "node-name", node), -1,
				  kata__qemu_check_absent, err);
}

static int step_commit(kata_op *op, kata_error **err)
{
	int rc = kata__vm_step_commit_storage(op, err);

	if (!rc)
		kata__image_close(&kata__vm_op_data(op)->image); /* QEMU has its own */
	return rc;
}

static const struct kata__step add_steps[] = {
	{.name = "reserve-slot",
	 .run = step_reserve,
	 .undo = kata__vm_step_unreserve_storage,
	 .cancel = kata__qemu_cancel_await_port},
	{.name = "open-image",
	 .run = kata__vm_step_open_image,
	 .undo = kata__vm_step_close_image,
	 .flags = KATA__STEP_BLOCKING},
	{.name = "add-fd", .run = step_add_fd, .undo = undo_add_fd, .flags = KATA__STEP_UNCERTAIN},
	{.name = "add-backing-fd",
	 .run = step_add_backing_fd,
	 .undo = undo_add_backing_fd,
	 .flags = KATA__STEP_UNCERTAIN},
	{.name = "blockdev-add", .run = step_blockdev_add, .undo = undo_blockdev_add, .flags = KATA__STEP_UNCERTAIN},
	{.name = "device_add",
	 .run = kata__qemu_step_device_add,
	 .undo = kata__qemu_undo_device_add,
	 .flags = KATA__STEP_UNCERTAIN | KATA__STEP_JOURNAL},
	{.name = "commit", .run = step_commit},
};
const struct kata__op_table kata__qemu_add_storage = {
	.name = "plug-storage",
	KATA__STEPS(add_steps),
	.timeout_ms = 10000,
	.finish = kata__qemu_finish_plug,
	.free_data = kata__vm_free_op_data,
};

/* ---- hot: unplug */

static const struct kata__step remove_steps[] = {
	{.name = "find", .run = kata__vm_step_find_storage, .undo = kata__vm_step_unfind_storage},
	{.name = "device_del", .run = kata__qemu_step_device_del, .flags = KATA__STEP_JOURNAL},
	{.name = "await-deleted", .run = kata__qemu_await_deletion, .cancel = kata__qemu_cancel_deletion},
	{.name = "blockdev-del", .run = undo_blockdev_add, .flags = KATA__STEP_NO_CANCEL},
	{.name = "remove-backing-fd", .run = undo_add_backing_fd},
	{.name = "remove-fd", .run = undo_add_fd},
	{.name = "drop", .run = kata__vm_step_drop_storage},
};
const struct kata__op_table kata__qemu_remove_storage = {
	.name = "unplug-storage",
	KATA__STEPS(remove_steps),
	.timeout_ms = 10000,
	.finish = kata__qemu_finish_plug,
	.free_data = kata__vm_free_op_data,
};

/* ---- cold */

/* The fds wait here for the start. */
static int step_keep(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	struct kata__qemu_cold *e = calloc(1, sizeof(*e));

	if (!e)
		return kata__fail_no_memory(err);
	*e = (struct kata__qemu_cold){.storage = kata_storage_ref(d->storage),
				      .slot = d->slot,
				      .fd_is_block_device = kata__qemu_is_block_device(d->image.fd),
				      .backing_is_block_device = kata__qemu_is_block_device(d->image.backing_fd),
				      .fd = d->image.fd,
				      .backing_fd = d->image.backing_fd};
	d->image.fd = -1;
	d->image.backing_fd = -1;
	kata__qemu_add_cold(kata__qemu_of(d->vm), e);
	return KATA__STEP_DONE;
}

static int undo_keep(kata_op *op, kata_error **err)
{
	kata__qemu_free_cold(kata__qemu_take_cold(kata__qemu_of_op(op), kata__vm_op_data(op)->storage));
	return KATA__STEP_DONE;
}

static const struct kata__step add_cold_steps[] = {
	{.name = "reserve-slot", .run = kata__vm_step_reserve_storage, .undo = kata__vm_step_unreserve_storage},
	{.name = "open-image",
	 .run = kata__vm_step_open_image,
	 .undo = kata__vm_step_close_image,
	 .flags = KATA__STEP_BLOCKING},
	{.name = "keep", .run = step_keep, .undo = undo_keep},
	{.name = "commit", .run = kata__vm_step_commit_storage},
};
const struct kata__op_table kata__qemu_add_storage_cold = {
	.name = "plug-storage",
	KATA__STEPS(add_cold_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

static const struct kata__step remove_cold_steps[] = {
	{.name = "find", .run = kata__vm_step_find_storage, .undo = kata__vm_step_unfind_storage},
	{.name = "take", .run = kata__qemu_step_take_cold, .undo = kata__qemu_undo_take_cold},
	{.name = "drop", .run = kata__vm_step_drop_storage},
};
const struct kata__op_table kata__qemu_remove_storage_cold = {
	.name = "unplug-storage",
	KATA__STEPS(remove_cold_steps),
	.timeout_ms = 10000,
	.finish = kata__qemu_finish_take_cold,
	.free_data = kata__vm_free_op_data,
};
