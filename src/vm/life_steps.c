/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared steps of start, release, rebuild and destroy: the VM's directory, its owner, and the wait for other
 * operations.
 *
 * Blocking ones touch the op's data and constants of the VM (dir, uuid, ctx) only. Drivers without files have no dir:
 * nothing to do.
 */
#include "vm/core.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "vm/notes.h"

#define DRAIN_MS 1000u
#define MAKE_DIR_TRIES 8

static void describe_owner(const kata_vm *vm, uint64_t epoch, const struct kata__process_identity *process,
			   struct kata__owner *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (process)
		ret->process = *process;
	ret->epoch = epoch;
	snprintf(ret->vm_id, sizeof(ret->vm_id), "%s", vm->id);
	snprintf(ret->vm_uuid, sizeof(ret->vm_uuid), "%s", vm->uuid);
}

static uint64_t epoch_of(const kata_vm *vm)
{
	uint64_t epoch;

	kata__vm_lock(vm);
	epoch = vm->shared->epoch;
	kata__vm_unlock(vm);
	return epoch;
}

static int write_owner_as(kata_vm *vm, bool ours, bool unsettled, uint64_t epoch, kata_error **err)
{
	struct kata__owner_stamp stamp = {0};
	struct kata__owner owner;
	int rc;

	describe_owner(vm, epoch, ours ? kata__context_self(vm->ctx) : NULL, &owner);
	owner.unsettled = unsettled;
	rc = kata__owner_write(vm->dir, &owner, err);
	if (ours)
		kata__owner_stamp(vm->dir, &stamp);
	kata__vm_lock(vm);
	vm->shared->owner = stamp;
	kata__vm_unlock(vm);
	return rc;
}

static int write_owner(kata_vm *vm, bool ours, uint64_t epoch, kata_error **err)
{
	return write_owner_as(vm, ours, false, epoch, err);
}

static bool set_owns_dir(kata_vm *vm, bool owns)
{
	bool before;

	kata__vm_lock(vm);
	before = vm->shared->owns_dir;
	vm->shared->owns_dir = owns;
	kata__vm_unlock(vm);
	return before;
}

/* ---- start ---- */

/* <state_dir>/vm goes with the last VM in it, in whatever process: then it is made again. */
static int make_dir(const kata_vm *vm, kata_error **err)
{
	KATA_AUTO(free) char *parent = kata__format("%s/vm", kata_context_get_state_dir(vm->ctx));
	int rc;

	if (!parent)
		return kata__fail_no_memory(err);
	for (int i = 0; i < MAKE_DIR_TRIES; i++) {
		rc = kata__mkdirs(parent, 0700, err);
		if (rc < 0 || mkdir(vm->dir, 0700) == 0)
			return rc;
		if (errno != ENOENT)
			break;
	}
	if (errno == EEXIST)
		return kata__fail(err, KATA_E_EXISTS, CALLER,
				  "%s is there: another VM of that id was started since this one was built", vm->dir);
	return kata__fail_errno(err, errno, "cannot make %s", vm->dir);
}

static void remove_parent(const kata_vm *vm)
{
	KATA_AUTO(free) char *parent = kata__format("%s/vm", kata_context_get_state_dir(vm->ctx));

	if (parent && rmdir(parent) < 0)
		return; /* others live in it */
}

/* A directory that is not ours (a start that met one of that name) is never touched. */
static int remove_dir(kata_vm *vm, kata_error **err)
{
	int rc;

	if (!vm->dir || !set_owns_dir(vm, false))
		return KATA__STEP_DONE;
	rc = kata__remove_tree(vm->dir, err);
	if (rc < 0)
		set_owns_dir(vm, true);
	else
		remove_parent(vm);
	return rc;
}

/* Locked as by one who takes it over, until it says whose it is: a recovery that comes by finds somebody at it. One
 * that was there first waits for what it says. */
static int lock_dir(const kata_vm *vm)
{
	int fd = open(vm->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0)
		kata__close_fd(&fd);
	return fd;
}

int kata__vm_step_make_dir(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	KATA_AUTO_FD int lock = -1;
	int rc;

	if (!vm->dir)
		return KATA__STEP_DONE;
	rc = make_dir(vm, err);
	if (rc < 0)
		return rc;
	lock = lock_dir(vm);
	set_owns_dir(vm, true);
	rc = write_owner(vm, true, epoch_of(vm), err);
	if (rc < 0)
		remove_dir(vm, NULL); /* where that fails too, it stays ours, for the destroy */
	return rc;
}

int kata__vm_step_unmake_dir(kata_op *op, kata_error **err)
{
	return remove_dir(kata__vm_op_data(op)->vm, err);
}

/* ---- release ---- */

int kata__vm_step_write_record(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);

	int rc = kata__vm_record_refresh(d->vm, err);

	return rc < 0 ? rc : kata__vm_record_text(d->vm, &d->json_owned, err);
}

static char *released_path(const kata_vm *vm)
{
	return kata__format("%s/released.json", vm->dir);
}

static int save_released(const struct kata__vm_op *d, kata_error **err)
{
	KATA_AUTO(free) char *path = released_path(d->vm);

	if (!path)
		return kata__fail_no_memory(err);
	return kata__write_file_atomic(path, d->json_owned, strlen(d->json_owned), err);
}

static int remove_released(const kata_vm *vm, bool *ret_removed, kata_error **err)
{
	KATA_AUTO(free) char *path = released_path(vm);

	if (!path)
		return kata__fail_no_memory(err);
	*ret_removed = unlink(path) == 0;
	if (!*ret_removed && errno != ENOENT)
		return kata__fail_errno(err, errno, "cannot remove %s", path);
	return 0;
}

int kata__vm_step_save_released(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	bool removed;
	int rc;

	if (!d->vm->dir)
		return KATA__STEP_DONE;
	rc = save_released(d, err);
	if (rc < 0)
		remove_released(d->vm, &removed, NULL); /* it may have failed after the rename */
	return rc;
}

int kata__vm_step_unsave_released(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	bool removed;

	return vm->dir ? remove_released(vm, &removed, err) : KATA__STEP_DONE;
}

int kata__vm_step_hand_over(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	int rc;

	if (!vm->dir)
		return KATA__STEP_DONE;
	rc = write_owner_as(vm, false, kata__vm_op_data(op)->unsettled, epoch_of(vm), err);
	if (rc < 0)
		write_owner(vm, true, epoch_of(vm), NULL); /* it may have failed after the rename */
	return rc;
}

int kata__vm_step_take_back(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;

	return vm->dir ? write_owner(vm, true, epoch_of(vm), err) : KATA__STEP_DONE;
}

/* ---- rebuild ---- */

/* What the owner before had half made elsewhere. That it cannot be removed must not keep the machine from its new
 * owner.
 */
static void sweep(const kata_vm *vm)
{
	kata_error *cause = NULL;

	if (kata__sweep_notes(vm->dir, &cause) == 0)
		return;
	kata__log(vm->ctx, KATA_LOG_WARNING, "vm", "vm %s: what a dead process left cannot be removed: %s", vm->id,
		  kata_error_get_message(cause));
	kata_error_free(cause);
}

int kata__vm_step_take_over(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	kata_vm *vm = d->vm;
	struct kata__owner now;
	int rc;

	if (!vm->dir)
		return KATA__STEP_DONE;
	d->owner_before = calloc(1, sizeof(*d->owner_before));
	if (!d->owner_before)
		return kata__fail_no_memory(err);
	rc = kata__owner_take(vm->dir, vm->uuid, epoch_of(vm), kata__context_self(vm->ctx), d->owner_before, &now, err);
	if (rc < 0)
		return rc;
	set_owns_dir(vm, true);
	d->was_saving = kata__is_saving(vm->dir, &d->was_running);
	d->frozen = kata__is_frozen(vm->dir);
	sweep(vm);
	return 0;
}

int kata__vm_step_give_back(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	int rc = 0;

	if (!d->vm->dir || !set_owns_dir(d->vm, false))
		return KATA__STEP_DONE;
	if (d->released_removed)
		rc = save_released(d, err);
	return rc < 0 ? rc : kata__owner_write(d->vm->dir, d->owner_before, err);
}

/* The rebuild is complete: the record it was made from is a thing of the past. */
int kata__vm_step_drop_released(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	int rc;

	if (!d->vm->dir)
		return KATA__STEP_DONE;
	rc = remove_released(d->vm, &d->released_removed, err);
	if (rc < 0)
		return rc;
	d->epoch = epoch_of(d->vm) + 1;
	return write_owner(d->vm, true, d->epoch, err); /* what fails here is undone by give_back */
}

/* ---- destroy ---- */

static size_t count_active(const kata_vm *vm)
{
	size_t n;

	kata__vm_lock(vm);
	n = vm->shared->active_count;
	kata__vm_unlock(vm);
	return n;
}

static void end_drain(kata_vm *vm)
{
	struct kata__vm_shared *s = vm->shared;
	kata_op *op = s->drain;

	if (!op)
		return;
	s->drain = NULL;
	kata__timer_remove(kata__take_ptr(s->drain_timer));
	kata__op_resume(op, s->drain_token, 0, NULL);
	kata_op_unref(op);
}

void kata__vm_drain_check(kata_vm *vm)
{
	if (vm->shared->drain && count_active(vm) == 0)
		end_drain(vm);
}

static void drain_timed_out(void *user)
{
	kata_vm *vm = user;

	vm->shared->drain_timer = NULL;
	end_drain(vm);
}

static int begin_drain(kata_op *op, uint64_t limit_ms, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	struct kata__vm_shared *s = vm->shared;
	int rc;

	if (count_active(vm) == 0)
		return KATA__STEP_DONE;
	end_drain(vm); /* of a destroy that failed while it waited */
	if (limit_ms) {
		rc = kata__timer_add(kata__context_loop(vm->ctx), kata__deadline_in_ms(limit_ms), drain_timed_out, vm,
				     &s->drain_timer, err);
		if (rc < 0)
			return rc;
	}
	s->drain = kata_op_ref(op);
	s->drain_token = kata__op_token(op);
	return KATA__STEP_WAIT;
}

static void cancel_all(kata_vm *vm)
{
	kata_op **ops;
	size_t n = 0;

	kata__vm_lock(vm);
	ops = calloc(vm->shared->active_count + 1, sizeof(*ops));
	for (; ops && n < vm->shared->active_count; n++)
		ops[n] = kata_op_ref(vm->shared->active[n]);
	kata__vm_unlock(vm);
	while (n-- > 0) {
		kata__op_cancel_gone(ops[n], "the VM was destroyed");
		kata_op_unref(ops[n]);
	}
	free(ops);
}

int kata__vm_step_cancel_operations(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;

	cancel_all(vm);
	return begin_drain(op, DRAIN_MS, err);
}

int kata__vm_step_await_operations(kata_op *op, kata_error **err)
{
	return begin_drain(op, 0, err);
}

int kata__vm_step_remove_dir(kata_op *op, kata_error **err)
{
	return remove_dir(kata__vm_op_data(op)->vm, err);
}
