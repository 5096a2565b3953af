/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handover.c - letting go of a running machine, and taking one over.
 *
 * Who takes over trusts nothing but the directory of its own state: the process is the recorded one by its pidfd and
 * start time and because it has the directory's log open; the monitor behind qmp.sock is that process, says the kernel
 * (QEMU calls listen() on the socket that it is given), or where it does not say so is that machine's by its UUID; and
 * the devices are compared with what QEMU has, unless the record is the very one that an orderly release left in the
 * directory: then nobody but the guest can have changed them, which is looked at once more when the machine is ours
 * (012-attach.md). QEMU reads a command byte by byte, some microseconds each: what need not be asked is not.
 */
#include "vm/qemu/machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/process.h"
#include "base/text.h"

/* ---- release */

/* At the end of a release that went well, so that one that fails has let go of nothing. */
static void let_go(struct kata__qemu *q)
{
	int pidfd = kata__qemu_let_go(q);

	if (pidfd >= 0 && q->is_child)
		kata__qemu_reap_later(q->vm->ctx, pidfd);
	else
		kata__close_fd(&pidfd);
	q->has_dir = false;
}

static int step_write_record(kata_op *op, kata_error **err)
{
	kata__vm_op_data(op)->unsettled = kata__qemu_is_unsettled(kata__qemu_of_op(op));
	return kata__vm_step_write_record(op, err);
}

static void finish_release(kata_op *op, int status, kata_error **error)
{
	if (status == 0)
		let_go(kata__qemu_of_op(op));
	else
		kata__qemu_look_for_lost_later(kata__qemu_of_op(op)); /* what left meanwhile was not noted */
	kata__vm_finish_device(op, status, error);
}

static const struct kata__step release_steps[] = {
	{.name = "write-record", .run = step_write_record},
	{.name = "save-released",
	 .run = kata__vm_step_save_released,
	 .undo = kata__vm_step_unsave_released,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING | KATA__STEP_JOURNAL},
	{.name = "hand-over",
	 .run = kata__vm_step_hand_over,
	 .undo = kata__vm_step_take_back,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING | KATA__STEP_JOURNAL},
};
const struct kata__op_table kata__qemu_release = {
	.name = "release",
	KATA__STEPS(release_steps),
	.timeout_ms = 5000,
	.finish = finish_release,
	.free_data = kata__vm_free_op_data,
};

/* ---- rebuild: the process and its monitor */

static struct kata__qemu_takeover *scratch_of(const kata_op *op)
{
	return kata__vm_op_data(op)->scratch;
}

/*
 * Pid and start time are what the record says, and whoever changed it may have looked them up of any process: of
 * another machine, or of one that is none. The VMM's stderr is the log in the machine's directory; nobody else has that
 * open but ourselves, for a moment, when it is read.
 */
static int check_process(const kata_vm *vm, pid_t pid, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/vmm.log", vm->dir);
	struct stat log;
	int has;

	if (!path)
		return kata__fail_no_memory(err);
	if (lstat(path, &log) < 0)
		return kata__fail(err, KATA_E_IDENTITY, CALLER,
				  "record.process.pid: nothing shows that process %d is this machine: there is no '%s'",
				  (int)pid, path);
	has = pid == getpid() ? 0 : kata__process_has_open(pid, log.st_dev, log.st_ino);
	if (has == 1)
		return 0;
	if (has < 0 && has != -EACCES)
		return kata__fail_errno(err, -has, "cannot look who has '%s' open", path);
	if (kata__process_is_ending(pid))
		return kata__fail(err, KATA_E_GONE, VMM, "the VMM, process %d, has ended", (int)pid);
	return kata__fail(err, KATA_E_IDENTITY, CALLER,
			  "record.process.pid: process %d is not this machine: it has '%s' not open", (int)pid, path);
}

static int status_of(const json_t *value, kata_vm_state *ret, kata_error **err)
{
	const json_t *running = json_object_get(value, "running");

	if (!json_is_boolean(running))
		return kata__fail(err, KATA_E_PROTOCOL, VMM, "QEMU does not say whether it runs");
	*ret = json_is_true(running) ? KATA_VM_RUNNING : KATA_VM_PAUSED;
	return 0;
}

/* The scratch lives as long as the op, to which this has a reference. */
static void on_status(void *user, const json_t *value, kata_error *take_err)
{
	kata_op *op = user;
	struct kata__qemu_takeover *s = scratch_of(op);

	if (!take_err)
		(void)status_of(value, &s->status, &take_err);
	s->status_answered = true;
	if (s->status_token)
		kata__op_resume(op, s->status_token, (int)kata_error_get_status(take_err), take_err);
	else if (s->is_over)
		kata_error_free(take_err);
	else
		s->status_error = take_err;
	kata_op_unref(op);
}

/*
 * Nothing depends on whom this reaches: what it cannot do the steps to come do again, and say why that fails. Where
 * somebody has the machine, living or dead, QEMU is left alone until it is ours: it serves one connection at a time.
 */
static int step_ask_early(kata_op *op, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of_op(op);
	struct kata__qemu_takeover *s = calloc(1, sizeof(*s));
	struct kata__owner owner;

	if (!s)
		return kata__fail_no_memory(err);
	s->pidfd = -1;
	kata__vm_op_data(op)->scratch = s;
	if (kata__owner_read(q->vm->dir, &owner, NULL) < 0 || owner.process.pid || kata__qemu_connect(q, NULL) < 0)
		return KATA__STEP_DONE;
	kata_op_ref(op);
	s->status_asked = kata__qmp_execute(q->qmp, "query-status", NULL, -1, on_status, op, NULL) == 0;
	if (!s->status_asked)
		kata_op_unref(op);
	return KATA__STEP_DONE;
}

static int undo_ask_early(kata_op *op, kata_error **err)
{
	(void)kata__qemu_let_go(kata__qemu_of_op(op)); /* the process is not watched any more */
	return KATA__STEP_DONE;
}

static int step_open_process(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	struct kata__qemu_takeover *s = d->scratch;
	struct kata__process_identity id;
	int rc;

	kata__vm_get_process(d->vm, &id);
	rc = kata__process_open(&id, &s->pidfd, err);
	if (rc < 0)
		return rc;
	rc = check_process(d->vm, id.pid, err);
	if (rc < 0)
		kata__close_fd(&s->pidfd);
	else
		kata__vm_look_at_released(op);
	return rc;
}

static int undo_open_process(kata_op *op, kata_error **err)
{
	kata__close_fd(&scratch_of(op)->pidfd);
	return KATA__STEP_DONE;
}

static int step_watch_process(kata_op *op, kata_error **err)
{
	return kata__qemu_adopt(kata__qemu_of_op(op), kata__take_fd(&scratch_of(op)->pidfd), err);
}

static int undo_watch_process(kata_op *op, kata_error **err)
{
	scratch_of(op)->pidfd = kata__qemu_let_go(kata__qemu_of_op(op));
	return KATA__STEP_DONE;
}

static int check_uuid(kata_op *op, const json_t *value, kata_error **err)
{
	const char *uuid = json_string_value(json_object_get(value, "UUID"));
	const kata_vm *vm = kata__vm_op_data(op)->vm;

	if (*err)
		return (int)kata_error_get_status(*err);
	if (!uuid || strcmp(uuid, vm->uuid) != 0)
		return kata__fail(err, KATA_E_IDENTITY, VMM, "the monitor in %s is of another machine: not of %s",
				  vm->dir, vm->uuid);
	return 0;
}

static int step_connect(kata_op *op, kata_error **err)
{
	return scratch_of(op)->status_asked ? KATA__STEP_DONE : kata__qemu_step_connect(op, err);
}

/* The process is known to be the machine's by now: if it listens at the other end, nobody else answers there. */
static bool is_monitor_known(const kata_op *op)
{
	const struct kata__qemu *q = kata__qemu_of_op(op);
	struct kata__process_identity id;

	kata__vm_get_process(q->vm, &id);
	return q->qmp && !kata__qmp_is_broken(q->qmp) && kata__qmp_peer(q->qmp) == id.pid;
}

static int step_query_uuid(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "query-uuid", check_uuid, err);
}

/* The record may be older than the last pause. Writes the op's data: the state it stands for is used at the finish
 * only. */
static int check_status(kata_op *op, const json_t *value, kata_error **err)
{
	return *err ? (int)kata_error_get_status(*err) : status_of(value, &kata__vm_op_data(op)->state_before, err);
}

static int step_query_status(kata_op *op, kata_error **err)
{
	struct kata__qemu_takeover *s = scratch_of(op);

	if (!s->status_asked)
		return kata__qemu_plain_command(op, "query-status", check_status, err);
	if (s->status_error)
		return kata__error_move(err, &s->status_error);
	if (s->status_answered)
		return KATA__STEP_DONE;
	s->status_token = kata__op_token(op);
	return KATA__STEP_WAIT;
}

/* ---- rebuild: a save that its owner did not live to end */

static int step_end_save(kata_op *op, kata_error **err)
{
	if (scratch_of(op)->status_asked)
		kata__vm_op_data(op)->state_before = scratch_of(op)->status;
	return kata__vm_op_data(op)->was_saving ? kata__qemu_plain_command(op, "migrate_cancel", NULL, err)
						: KATA__STEP_DONE;
}

/* It was stopped for the save alone. Where its RAM is a part of a snapshot it must not run on. */
static int step_continue(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);

	if (!d->was_saving || !d->was_running || d->frozen)
		return KATA__STEP_DONE;
	d->state_before = KATA_VM_RUNNING;
	return kata__qemu_plain_command(op, "cont", NULL, err);
}

/* ---- rebuild: the end */

static int step_connect_console(kata_op *op, kata_error **err)
{
	return kata__qemu_connect_console(kata__qemu_of_op(op), err);
}

static bool is_as_released(const kata_op *op)
{
	return kata__vm_op_data(op)->is_as_released;
}

static int step_commit(kata_op *op, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of_op(op);

	q->has_dir = true;
	if (is_as_released(op))
		kata__qemu_look_for_lost_later(q);
	return KATA__STEP_DONE;
}

static void finish_rebuild(kata_op *op, int status, kata_error **error)
{
	struct kata__qemu_takeover *s = scratch_of(op);

	if (s) {
		s->is_over = true;
		kata_error_free(kata__take_ptr(s->status_error));
		kata__close_fd(&s->pidfd);
		json_decref(kata__take_ptr(s->fd_sets));
	}
	kata__vm_finish_device(op, status, error);
}

static const struct kata__step rebuild_steps[] = {
	{.name = "ask-early", .run = step_ask_early, .undo = undo_ask_early},
	{.name = "take-over",
	 .run = kata__vm_step_take_over,
	 .undo = kata__vm_step_give_back,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
	{.name = "open-process", .run = step_open_process, .undo = undo_open_process, .flags = KATA__STEP_BLOCKING},
	{.name = "watch-process", .run = step_watch_process, .undo = undo_watch_process},
	{.name = "connect-qmp", .run = step_connect},
	{.name = "query-uuid", .run = step_query_uuid, .skip = is_monitor_known},
	{.name = "connect-console", .run = step_connect_console},
	{.name = "query-status", .run = step_query_status},
	{.name = "end-save", .run = step_end_save},
	{.name = "continue", .run = step_continue},
	{.name = "compare-devices", .run = kata__qemu_step_compare_devices, .skip = is_as_released},
	{.name = "compare-record",
	 .run = kata__vm_step_compare_record,
	 .flags = KATA__STEP_BLOCKING,
	 .skip = is_as_released},
	{.name = "verify-slots", .run = kata__qemu_step_verify_slots, .skip = is_as_released},
	{.name = "query-fd-sets", .run = kata__qemu_step_query_fd_sets, .skip = is_as_released},
	{.name = "verify-files",
	 .run = kata__qemu_step_verify_files,
	 .flags = KATA__STEP_BLOCKING,
	 .skip = is_as_released},
	{.name = "find-strays", .run = kata__qemu_step_find_strays, .skip = is_as_released},
	{.name = "sweep", .run = kata__qemu_step_sweep, .skip = is_as_released},
	{.name = "drop-released",
	 .run = kata__vm_step_drop_released,
	 .undo = kata__vm_step_save_released,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
	{.name = "commit", .run = step_commit},
};
const struct kata__op_table kata__qemu_rebuild = {
	.name = "rebuild",
	KATA__STEPS(rebuild_steps),
	.timeout_ms = 5000,
	.finish = finish_rebuild,
	.free_data = kata__vm_free_op_data,
};
