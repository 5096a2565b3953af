/* SPDX-License-Identifier: Apache-2.0 */
/* power.c - pause, resume and the end. */
#include "vm/qemu/machine.h"

#include <errno.h>
#include <signal.h>

#include "base/fd.h"

/* ---- pause and resume */

static int run_stop(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "stop", NULL, err);
}

static int run_cont(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "cont", NULL, err);
}

static int undo_stop(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "cont", kata__qemu_check_absent, err);
}

static int undo_cont(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "stop", kata__qemu_check_absent, err);
}

static const struct kata__step pause_steps[] = {
	{.name = "stop", .run = run_stop, .undo = undo_stop, .flags = KATA__STEP_UNCERTAIN}};
const struct kata__op_table kata__qemu_pause = {
	.name = "pause",
	KATA__STEPS(pause_steps),
	.timeout_ms = 5000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

static const struct kata__step resume_steps[] = {
	{.name = "cont", .run = run_cont, .undo = undo_cont, .flags = KATA__STEP_UNCERTAIN}};
const struct kata__op_table kata__qemu_resume = {
	.name = "resume",
	KATA__STEPS(resume_steps),
	.timeout_ms = 5000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

/* A machine that was booted and paused before: to start it is to let it run. */
const struct kata__op_table kata__qemu_start_warm = {
	.name = "start-warm",
	KATA__STEPS(resume_steps),
	.timeout_ms = 5000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};

/* ---- destroy */

/* SIGKILL and not `quit`: it is quicker, and works on a QEMU that is stopped or stuck. What the guest had flushed is on
 * the disks. */
static int step_kill(kata_op *op, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of_op(op);
	int rc;

	if (q->pidfd < 0)
		return KATA__STEP_DONE;
	rc = kata__process_signal(q->pidfd, SIGKILL);
	if (rc && rc != -ESRCH)
		return kata__fail_errno(err, -rc, "cannot kill QEMU");
	kata_op_unref(q->killing);
	q->killing = kata_op_ref(op);
	q->killing_token = kata__op_token(op);
	return KATA__STEP_WAIT;
}

static void cancel_kill(kata_op *op)
{
	struct kata__qemu *q = kata__qemu_of_op(op);

	if (q->killing != op)
		return;
	q->killing = NULL;
	kata_op_unref(op);
}

static int step_let_go(kata_op *op, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of_op(op);
	int pidfd = kata__qemu_let_go(q);

	kata__close_fd(&pidfd);
	kata__qemu_drop_cold(q);
	return KATA__STEP_DONE;
}

/* A directory of that name may be another machine's, where this one never started. */
static int step_remove_dir(kata_op *op, kata_error **err)
{
	return kata__qemu_of_op(op)->has_dir ? kata__vm_step_remove_dir(op, err) : KATA__STEP_DONE;
}

static const struct kata__step destroy_steps[] = {
	{.name = "cancel-operations", .run = kata__vm_step_cancel_operations, .flags = KATA__STEP_NO_CANCEL},
	{.name = "kill", .run = step_kill, .cancel = cancel_kill, .flags = KATA__STEP_NO_CANCEL},
	{.name = "await-operations", .run = kata__vm_step_await_operations, .flags = KATA__STEP_NO_CANCEL},
	{.name = "let-go", .run = step_let_go, .flags = KATA__STEP_NO_CANCEL},
	{.name = "remove-dir", .run = step_remove_dir, .flags = KATA__STEP_NO_CANCEL | KATA__STEP_BLOCKING},
};
const struct kata__op_table kata__qemu_destroy = {
	.name = "destroy",
	KATA__STEPS(destroy_steps),
	.timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};
