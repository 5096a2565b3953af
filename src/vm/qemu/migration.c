/* SPDX-License-Identifier: Apache-2.0 */
/* migration.c - see migration.h. One at a time, as the ops that use it are alone on their VM. */
#include "vm/qemu/migration.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "vm/save.h"

static bool has_ended(const char *status)
{
	return strcmp(status, "completed") == 0 || strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0 ||
	       strcmp(status, "none") == 0 || status[0] == '\0';
}

static void set_status(struct kata__qemu *q, const char *status)
{
	snprintf(q->migration, sizeof(q->migration), "%s", status);
}

/* ---- waiting for its end */

static void resume(struct kata__qemu *q, kata_error *take_err)
{
	kata_op *op = kata__take_ptr(q->migrating);

	if (op)
		kata__op_resume(op, q->migrating_token, (int)kata_error_get_status(take_err), take_err);
	else
		kata_error_free(take_err);
	kata_op_unref(op);
}

void kata__qemu_on_migration(struct kata__qemu *q, const char *status)
{
	set_status(q, status);
	if (has_ended(q->migration))
		resume(q, NULL);
}

void kata__qemu_fail_migration(struct kata__qemu *q, const kata_error *why)
{
	if (q->migrating)
		resume(q, kata__error_dup(why));
}

int kata__qemu_arm_migration(kata_op *op, kata_error **err)
{
	set_status(kata__qemu_of_op(op), "");
	return KATA__STEP_DONE;
}

int kata__qemu_await_migration(kata_op *op, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of_op(op);

	/* What has been asked for and has said nothing yet is under way; in an undo it may never have begun. */
	if (has_ended(q->migration) && (q->migration[0] || kata__op_is_undoing(op)))
		return KATA__STEP_DONE;
	if (q->exited || !q->qmp)
		return kata__op_is_undoing(op) ? KATA__STEP_DONE
					       : kata__fail(err, KATA_E_GONE, VMM, "the monitor of QEMU is gone");
	q->migrating = kata_op_ref(op);
	q->migrating_token = kata__op_token(op);
	return KATA__STEP_WAIT;
}

void kata__qemu_cancel_await_migration(kata_op *op)
{
	struct kata__qemu *q = kata__qemu_of_op(op);

	if (q->migrating == op)
		kata_op_unref(kata__take_ptr(q->migrating));
}

/* ---- what came of it */

/* What the state has taken counts as room: it goes. */
static void say_how_much(const kata_op *op, kata_error *error)
{
	const struct kata__save *s = kata__save_of(op);
	struct statvfs v;
	struct stat st;

	if (fstatvfs(s->state_fd, &v) == 0 && fstat(s->state_fd, &st) == 0)
		kata__error_set_hint(
			error, "the file system of %s had %llu MiB free; the RAM alone may take %llu", s->path,
			((unsigned long long)v.f_bavail * v.f_frsize + (unsigned long long)st.st_blocks * 512) >> 20,
			(unsigned long long)kata__vm_op_data(op)->vm->config->v.memory_mib);
}

static int check_completed(kata_op *op, const json_t *value, kata_error **err)
{
	const char *status = json_string_value(json_object_get(value, "status"));
	const char *why = json_string_value(json_object_get(value, "error-desc"));
	bool no_room;
	int rc;

	if (*err)
		return (int)kata_error_get_status(*err);
	if (status && strcmp(status, "completed") == 0)
		return 0;
	no_room = why && (strstr(why, "No space left") || strstr(why, "Disk quota exceeded"));
	rc = kata__fail(err, no_room ? KATA_E_IO : KATA_E_VMM, VMM, "the state was not transferred: %s: %s",
			status ? status : "QEMU knows of no transfer", why ? why : "QEMU does not say why");
	if (no_room && kata__vm_op_data(op)->save)
		say_how_much(op, *err);
	return rc;
}

int kata__qemu_check_migration(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "query-migrate", check_completed, err);
}

/* What cannot be asked is not waited for. */
static int note_status(kata_op *op, const json_t *value, kata_error **err)
{
	const char *status = json_string_value(json_object_get(value, "status"));

	if (*err)
		return kata__qemu_check_absent(op, value, err);
	set_status(kata__qemu_of_op(op), status ? status : "");
	return 0;
}

int kata__qemu_ask_migration(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "query-migrate", note_status, err);
}

/* ---- before it */

int kata__qemu_set_capabilities(kata_op *op, bool ignore_shared, kata_error **err)
{
	json_t *args = json_pack("{s:[{s:s, s:b}, {s:s, s:b}]}", "capabilities", "capability", "events", "state", 1,
				 "capability", "x-ignore-shared", "state", (int)ignore_shared);

	return kata__qemu_command(op, "migrate-set-capabilities", args, -1, NULL, err);
}

int kata__qemu_pass_state(kata_op *op, int fd, kata_error **err)
{
	return kata__qemu_command(op, "getfd", json_pack("{s:s}", "fdname", KATA__QEMU_STATE_FD), fd, NULL, err);
}

/* Absent once a migration has taken it. */
int kata__qemu_undo_pass_state(kata_op *op, kata_error **err)
{
	return kata__qemu_command(op, "closefd", json_pack("{s:s}", "fdname", KATA__QEMU_STATE_FD), -1,
				  kata__qemu_check_absent, err);
}
