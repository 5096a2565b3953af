/* SPDX-License-Identifier: Apache-2.0 */
/*
 * save.c - what saving a machine does.
 *
 * QEMU flushes and lets go of the disks when the state is written, and takes them again with the next `cont`: between
 * the two they are copied. A machine that was saved while it was paused is "postmigrate" afterwards, which QEMU does
 * not save a second time: it is then continued and stopped again, which takes no time that the guest could notice.
 */
#include "vm/qemu/migration.h"
#include "vm/qemu/host_cpu.h"
#include "vm/save.h"

#include <stdio.h>
#include <string.h>

/* No limit: the vCPUs stand still. */
#define BANDWIDTH (INT64_C(1) << 40)

/* ---- what is saved */

static int check_version(kata_op *op, const json_t *value, kata_error **err)
{
	const json_t *v = json_object_get(value, "qemu");
	struct kata__manifest *m = kata__save_of(op)->manifest;

	if (*err)
		return (int)kata_error_get_status(*err);
	if (!json_is_integer(json_object_get(v, "major")) || !json_is_integer(json_object_get(v, "minor")) ||
	    !json_is_integer(json_object_get(v, "micro")))
		return kata__fail(err, KATA_E_PROTOCOL, VMM, "QEMU does not say which version it is");
	snprintf(m->vmm_version, sizeof(m->vmm_version), "%d.%d.%d",
		 (int)json_integer_value(json_object_get(v, "major")),
		 (int)json_integer_value(json_object_get(v, "minor")),
		 (int)json_integer_value(json_object_get(v, "micro")));
	return 0;
}

static int step_query_version(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "query-version", check_version, err);
}

/* Nothing is to be taken back; but a monitor that has fallen silent is found out, and connected to anew, before the
 * next call. */
static int undo_query(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "query-status", kata__qemu_check_absent, err);
}

/* "pc-q35-7.2-machine": the type behind an alias. */
static int check_machine(kata_op *op, const json_t *value, kata_error **err)
{
	const char *type = json_string_value(value), *end = type ? strstr(type, "-machine") : NULL;
	struct kata__manifest *m = kata__save_of(op)->manifest;

	if (*err)
		return (int)kata_error_get_status(*err);
	if (!end || (size_t)(end - type) >= sizeof(m->machine) || end == type)
		return kata__fail(err, KATA_E_PROTOCOL, VMM, "QEMU does not say which machine it is");
	snprintf(m->machine, sizeof(m->machine), "%.*s", (int)(end - type), type);
	return 0;
}

static int step_query_machine(kata_op *op, kata_error **err)
{
	return kata__qemu_command(op, "qom-get", json_pack("{s:s, s:s}", "path", "/machine", "property", "type"), -1,
				  check_machine, err);
}

/* Devices that QEMU cannot save say so here. */
static int check_blocked(kata_op *op, const json_t *value, kata_error **err)
{
	const json_t *reasons = json_object_get(value, "blocked-reasons");

	if (*err)
		return (int)kata_error_get_status(*err);
	if (!json_array_size(reasons))
		return 0;
	return kata__fail(err, KATA_E_UNSUPPORTED, VMM, "the machine cannot be saved: %s",
			  json_string_value(json_array_get(reasons, 0)) ? json_string_value(json_array_get(reasons, 0))
									: "QEMU does not say why");
}

static int step_query_blockers(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "query-migrate", check_blocked, err);
}

static int step_check(kata_op *op, kata_error **err)
{
	const struct kata__qemu *q = kata__qemu_of_op(op);
	struct kata__manifest *m = kata__save_of(op)->manifest;
	int rc = kata__save_step_check(op, err);

	if (rc)
		return rc;
	if (q->strays)
		return kata__fail(err, KATA_E_BUSY, VMM,
				  "vm '%s' has a device that is still being taken back from a plug whose owner died",
				  q->vm->id);
	m->vmm = kata__qemu_host_cpu_describe(q->kvm, m->cpu_model, sizeof(m->cpu_model));
	return m->vmm ? KATA__STEP_DONE : kata__fail_no_memory(err);
}

/* ---- stopping it */

static int check_status(kata_op *op, const json_t *value, kata_error **err)
{
	const char *status = json_string_value(json_object_get(value, "status"));

	if (*err)
		return (int)kata_error_get_status(*err);
	kata__qemu_of_op(op)->was_saved = status && strcmp(status, "postmigrate") == 0;
	return 0;
}

static int step_query_status(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "query-status", check_status, err);
}

static int step_wake(kata_op *op, kata_error **err)
{
	return kata__qemu_of_op(op)->was_saved ? kata__qemu_plain_command(op, "cont", NULL, err) : KATA__STEP_DONE;
}

static int undo_wake(kata_op *op, kata_error **err)
{
	return kata__qemu_of_op(op)->was_saved ? kata__qemu_plain_command(op, "stop", kata__qemu_check_absent, err)
					       : KATA__STEP_DONE;
}

static int step_stop(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "stop", NULL, err);
}

static int cont_if_it_ran(kata_op *op, kata__qemu_check_fn check, kata_error **err)
{
	return kata__save_of(op)->was_running ? kata__qemu_plain_command(op, "cont", check, err) : KATA__STEP_DONE;
}

static int undo_stop(kata_op *op, kata_error **err)
{
	return cont_if_it_ran(op, kata__qemu_check_absent, err);
}

/* Its memory may not change where it is shared. */
static int step_cont(kata_op *op, kata_error **err)
{
	return kata__save_of(op)->memory == KATA_SNAPSHOT_SHARED ? KATA__STEP_DONE : cont_if_it_ran(op, NULL, err);
}

/* ---- the state */

static int step_set_capabilities(kata_op *op, kata_error **err)
{
	return kata__qemu_set_capabilities(op, kata__save_of(op)->memory == KATA_SNAPSHOT_SHARED, err);
}

static int step_set_parameters(kata_op *op, kata_error **err)
{
	return kata__qemu_command(op, "migrate-set-parameters",
				  json_pack("{s:I}", "max-bandwidth", (json_int_t)BANDWIDTH), -1, NULL, err);
}

static int step_getfd(kata_op *op, kata_error **err)
{
	return kata__qemu_pass_state(op, kata__save_of(op)->state_fd, err);
}

/*
 * Taking it back, whatever came of the command "migrate" (its reply may be lost): it is asked to stop, asked how it
 * stands, and its end is awaited; these are the undos of the three steps before, so that each has its own wait.
 */
static int step_expect(kata_op *op, kata_error **err)
{
	return KATA__STEP_DONE;
}

static int step_migrate(kata_op *op, kata_error **err)
{
	return kata__qemu_command(op, "migrate", json_pack("{s:s}", "uri", "fd:" KATA__QEMU_STATE_FD), -1, NULL, err);
}

static int undo_migrate(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "migrate_cancel", kata__qemu_check_absent, err);
}

static const struct kata__step steps[] = {
	{.name = "check", .run = step_check},
	{.name = "query-version", .run = step_query_version, .undo = undo_query, .flags = KATA__STEP_UNCERTAIN},
	{.name = "query-machine", .run = step_query_machine},
	{.name = "query-blockers", .run = step_query_blockers},
	{.name = "digest-files", .run = kata__save_step_digest_files, .flags = KATA__STEP_BLOCKING},
	{.name = "note",
	 .run = kata__save_step_note,
	 .undo = kata__save_step_unnote,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
	{.name = "make-dir",
	 .run = kata__save_step_make_dir,
	 .undo = kata__save_step_unmake_dir,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING | KATA__STEP_JOURNAL},
	{.name = "query-status", .run = step_query_status},
	{.name = "wake", .run = step_wake, .undo = undo_wake, .flags = KATA__STEP_UNCERTAIN},
	{.name = "stop", .run = step_stop, .undo = undo_stop, .flags = KATA__STEP_UNCERTAIN | KATA__STEP_JOURNAL},
	{.name = "set-capabilities", .run = step_set_capabilities},
	{.name = "expect", .run = step_expect, .undo = kata__qemu_await_migration},
	{.name = "arm", .run = kata__qemu_arm_migration, .undo = kata__qemu_ask_migration},
	{.name = "set-parameters", .run = step_set_parameters, .undo = undo_migrate},
	{.name = "getfd", .run = step_getfd, .undo = kata__qemu_undo_pass_state, .flags = KATA__STEP_UNCERTAIN},
	{.name = "migrate", .run = step_migrate},
	{.name = "await-migration", .run = kata__qemu_await_migration, .cancel = kata__qemu_cancel_await_migration},
	{.name = "query-migrate", .run = kata__qemu_check_migration},
	{.name = "copy-disks", .run = kata__save_step_copy_disks, .flags = KATA__STEP_BLOCKING},
	{.name = "share-memory", .run = kata__save_step_share_memory, .flags = KATA__STEP_BLOCKING},
	{.name = "cont", .run = step_cont, .flags = KATA__STEP_UNCERTAIN},
	{.name = "digest-parts", .run = kata__save_step_digest_parts, .flags = KATA__STEP_BLOCKING},
	{.name = "write-manifest", .run = kata__save_step_write_manifest, .flags = KATA__STEP_BLOCKING},
	{.name = "publish",
	 .run = kata__save_step_publish,
	 .undo = kata__save_step_unpublish,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING | KATA__STEP_JOURNAL},
	{.name = "forget",
	 .run = kata__save_step_forget,
	 .undo = kata__save_step_unforget,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
};
const struct kata__op_table kata__qemu_snapshot = {
	.name = "snapshot",
	KATA__STEPS(steps),
	.timeout_ms = 30000,
	.undo_timeout_ms = 10000,
	.finish = kata__vm_finish_device,
	.free_data = kata__vm_free_op_data,
};
