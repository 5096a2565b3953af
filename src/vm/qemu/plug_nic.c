/* SPDX-License-Identifier: Apache-2.0 */
/* plug_nic.c - what plugging and unplugging a NIC does. Undo as in plug_storage.c. */
#include "vm/qemu/machine.h"

#include <stdlib.h>

#include "base/fd.h"

static bool is_tap(kata_op *op)
{
	return kata_nic_get_type(kata__vm_op_data(op)->nic) == KATA_NIC_TAP;
}

/* ---- hot: plug */

static int step_reserve(kata_op *op, kata_error **err)
{
	int rc = kata__vm_step_reserve_nic(op, err);

	return rc < 0 ? rc : kata__qemu_await_port(op, err);
}

static int step_getfd(kata_op *op, kata_error **err)
{
	const struct kata__vm_op *d = kata__vm_op_data(op);
	char name[16];

	if (!is_tap(op))
		return KATA__STEP_DONE;
	kata__qemu_netdev_name(d->slot, name);
	return kata__qemu_command(op, "getfd", json_pack("{s:s}", "fdname", name), d->tap_fd, NULL, err);
}

/* Absent where netdev_add has taken it. */
static int undo_getfd(kata_op *op, kata_error **err)
{
	char name[16];

	if (!is_tap(op))
		return KATA__STEP_DONE;
	kata__qemu_netdev_name(kata__vm_op_data(op)->slot, name);
	return kata__qemu_command(op, "closefd", json_pack("{s:s}", "fdname", name), -1, kata__qemu_check_absent, err);
}

static int step_netdev_add(kata_op *op, kata_error **err)
{
	const struct kata__vm_op *d = kata__vm_op_data(op);
	char name[16];
	json_t *args;

	kata__qemu_netdev_name(d->slot, name);
	args = kata__qemu_netdev(d->nic, d->slot, name);
	return args ? kata__qemu_command(op, "netdev_add", args, -1, NULL, err) : kata__fail_no_memory(err);
}

static int undo_netdev_add(kata_op *op, kata_error **err)
{
	char name[16];

	kata__qemu_netdev_name(kata__vm_op_data(op)->slot, name);
	return kata__qemu_command(op, "netdev_del", json_pack("{s:s}", "id", name), -1, kata__qemu_check_absent, err);
}

static int step_commit(kata_op *op, kata_error **err)
{
	int rc = kata__vm_step_commit_nic(op, err);

	if (!rc)
		kata__close_fd(&kata__vm_op_data(op)->tap_fd); /* QEMU has its own */
	return rc;
}

static const struct kata__step add_steps[] = {
	{.name = "reserve-slot",
	 .run = step_reserve,
	 .undo = kata__vm_step_unreserve_nic,
	 .cancel = kata__qemu_cancel_await_port},
	{.name = "open-tap",
	 .run = kata__vm_step_open_tap,
	 .undo = kata__vm_step_close_tap,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_JOURNAL},
	{.name = "getfd", .run = step_getfd, .undo = undo_getfd, .flags = KATA__STEP_UNCERTAIN},
	{.name = "netdev_add", .run = step_netdev_add, .undo = undo_netdev_add, .flags = KATA__STEP_UNCERTAIN},
	{.name = "device_add",
	 .run = kata__qemu_step_device_add,
	 .undo = kata__qemu_undo_device_add,
	 .flags = KATA__STEP_UNCERTAIN | KATA__STEP_JOURNAL},
	{.name = "commit", .run = step_commit},
};
const struct kata__op_table kata__qemu_add_nic = {
	.name = "plug-nic",
	KATA__STEPS(add_steps),
	.timeout_ms = 10000,
	.finish = kata__qemu_finish_plug,
	.free_data = kata__vm_free_op_data,
};

/* ---- hot: unplug */

static const struct kata__step remove_steps[] = {
	{.name = "find", .run = kata__vm_step_find_nic, .undo = kata__vm_step_unfind_nic},
	{.name = "device_del", .run = kata__qemu_step_device_del, .flags = KATA__STEP_JOURNAL},
	{.name = "await-deleted", .run = kata__qemu_await_deletion, .cancel = kata__qemu_cancel_deletion},
	{.name = "netdev_del", .run = undo_netdev_add, .flags = KATA__STEP_NO_CANCEL},
	{.name = "drop", .run = kata__vm_step_drop_nic},
};
const struct kata__op_table kata__qemu_remove_nic = {
	.name = "unplug-nic",
	KATA__STEPS(remove_steps),
	.timeout_ms = 10000,
	.finish = kata__qemu_finish_plug,
	.free_data = kata__vm_free_op_data,
};

/* ---- cold */

/* The tap waits here for the start. */
static int step_keep(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	struct kata__qemu_cold *e = calloc(1, sizeof(*e));

	if (!e)
		return kata__fail_no_memory(err);
	*e = (struct kata__qemu_cold){
		.nic = kata_nic_ref(d->nic), .slot = d->slot, .fd = kata__take_fd(&d->tap_fd), .backing_fd = -1};
	kata__qemu_add_cold(kata__qemu_of(d->vm), e);
	return KATA__STEP_DONE;
}

static int undo_keep(kata_op *op, kata_error **err)
{
	kata__qemu_free_cold(kata__qemu_take_cold(kata__qemu_of_op(op), kata__vm_op_data(op)->nic));
	return KATA__STEP_DONE;
}

static const struct kata__step add_cold_steps[] = {
	{.name = "reserve-slot", .run = kata__vm_step_reserve_nic, .undo = kata__vm_step_unreserve_nic},
	{.name = "open-tap",
	 .run = kata__vm_step_open_tap,
	 .undo = kata__vm_step_close_tap,
	 .flags = KATA__STEP_BLOCKING},
	{.name = "keep", .run = step_keep, .undo = undo_keep},
	{.name = "commit", .run = kata__vm_step_commit_nic},
};
const struct kata__op_table kata__qemu_add_nic_cold = {
	.name = "plug-nic",
	KATA__STEPS(add_cold_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

static const struct kata__step remove_cold_steps[] = {
	{.name = "find", .run = kata__vm_step_find_nic, .undo = kata__vm_step_unfind_nic},
	{.name = "take", .run = kata__qemu_step_take_cold, .undo = kata__qemu_undo_take_cold},
	{.name = "drop", .run = kata__vm_step_drop_nic},
};
const struct kata__op_table kata__qemu_remove_nic_cold = {
	.name = "unplug-nic",
	KATA__STEPS(remove_cold_steps),
	.timeout_ms = 10000,
	.finish = kata__qemu_finish_take_cold,
	.free_data = kata__vm_free_op_data,
};
