/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows about pooled VMs, templates and snapshots. Their states are the caller's words; a row is GONE when who wrote it
 * last is dead, and what it is about is not there any more:
 *
 *   pooled VM  its machine is being undone, or is nowhere and its VMM does not live
 *   template, snapshot  its directory is not there, while the one above it is (a file system that is not mounted just
 *                       now proves nothing)
 *
 * Rows of networks go with the record of their sandbox.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "recover/recover.h"

#define STATE_GONE "gone"

static bool is_written_by_living(const kata_row *row)
{
	return kata__recover_lives(row->owner_pid, row->owner_start_time, row->boot_id ? row->boot_id : "");
}

/* NULL: it stays. *ret_depends is left where the machine is nowhere. */
static char *why_gone_vm(const struct kata__recovery *r, const kata_row *row, size_t *ret_depends)
{
	const struct kata__finding *machine = kata__finding_of_machine(r, row->vm_uuid ? row->vm_uuid : "", "");

	if (machine) {
		*ret_depends = (size_t)(machine - r->findings);
		return kata__finding_is_undoable(machine)
			       ? kata__format("its machine '%s' is %s", machine->id,
					      kata_recover_verdict_get_name(machine->verdict))
			       : NULL;
	}
	if (kata__recover_lives(row->vm_pid, row->vm_start_time, row->boot_id ? row->boot_id : ""))
		return NULL;
	return kata__format("its machine is gone, with process %lld, whose row it is", (long long)row->owner_pid);
}

static bool is_missing(const char *directory)
{
	const char *slash = strrchr(directory, '/');
	KATA_AUTO(free) char *parent = slash ? kata__format("%.*s/.", (int)(slash - directory), directory) : NULL;
	struct stat st;

	return parent && stat(parent, &st) == 0 && lstat(directory, &st) < 0 && errno == ENOENT;
}

static char *why_gone_dir(const struct kata__recovery *r, const kata_row *row, size_t *ret_depends)
{
	return row->directory && is_missing(row->directory) ? kata__format("%s is not there", row->directory) : NULL;
}

static int find_row(struct kata__recovery *r, const struct kata__kind *kind, kata_row_kind row_kind, const char *id,
		    char *(*why_gone)(const struct kata__recovery *r, const kata_row *row, size_t *ret_depends),
		    kata_error **err)
{
	size_t depends_on = SIZE_MAX;
	struct kata__finding *f = NULL;
	kata_error *error = NULL;
	kata_row *row = NULL;
	char *why = NULL;
	int rc = kata_persistence_get_row(r->p, row_kind, id, &row, &error);

	if (rc == 0 && !is_written_by_living(row))
		why = why_gone(r, row, &depends_on);
	if (rc == 0 && why)
		rc = kata__finding_add(r, kind, id, KATA_RECOVER_GONE, why, &f, err);
	else if (rc < 0 && rc != KATA_E_NOT_FOUND)
		rc = kata__finding_add(r, kind, id, KATA_RECOVER_FAILED, kata__strdup(kata_error_get_message(error)),
				       NULL, err);
	else
		rc = 0;
	if (f) {
		f->depends_on = depends_on;
		f->data = kata__strdup(row->state);
	}
	kata_row_free(row);
	kata_error_free(error);
	return rc;
}

static int find_rows(struct kata__recovery *r, const struct kata__kind *kind, kata_row_kind row_kind,
		     char *(*why_gone)(const struct kata__recovery *r, const kata_row *row, size_t *ret_depends),
		     kata_error **err)
{
	kata_error *error = NULL;
	char **ids = NULL;
	int rc = r->p && !r->store_failed ? kata_persistence_list_rows(r->p, row_kind, NULL, NULL, &ids, &error) : 0;

	if (rc < 0 && rc != KATA_E_UNSUPPORTED)
		rc = kata__finding_add(r, kind, "?", KATA_RECOVER_FAILED, kata__strdup(kata_error_get_message(error)),
				       NULL, err);
	else
		rc = 0;
	kata_error_free(error);
	for (char **id = ids; rc == 0 && id && *id; id++)
		rc = find_row(r, kind, row_kind, *id, why_gone, err);
	kata_string_list_free(ids);
	return rc;
}

/* Claimed first, so that of somebody who uses the row and us one is told. Who dies in between leaves it as gone. */
static int remove_row(struct kata__recovery *r, struct kata__finding *f, kata_row_kind row_kind, kata_error **err)
{
	const char *state = f->data ? f->data : STATE_GONE;
	kata_error *error = NULL;
	int rc = kata__recover_may_store(r, err);

	if (rc < 0)
		return rc;
	rc = kata_persistence_move_row(r->p, row_kind, f->id, state, STATE_GONE, &error);
	if (rc == 0)
		rc = kata_persistence_remove_row(r->p, row_kind, f->id, &error);
	if (rc == KATA_E_FENCED)
		kata__finding_say_error(f, KATA_RECOVER_OWNED, kata__take_ptr(error));
	if (rc == KATA_E_NOT_FOUND || rc == KATA_E_FENCED) {
		kata_error_free(error);
		return 0;
	}
	return kata__recover_stored(r, rc) < 0 ? kata__error_move(err, &error) : 0;
}

static int find_pooled(struct kata__recovery *r, kata_error **err)
{
	return find_rows(r, &kata__recover_pooled_row, KATA_ROW_POOLED_VM, why_gone_vm, err);
}

static int undo_pooled(struct kata__recovery *r, struct kata__finding *f, kata_error **err)
{
	return remove_row(r, f, KATA_ROW_POOLED_VM, err);
}

static int find_templates(struct kata__recovery *r, kata_error **err)
{
	return find_rows(r, &kata__recover_template_row, KATA_ROW_TEMPLATE, why_gone_dir, err);
}

static int undo_template(struct kata__recovery *r, struct kata__finding *f, kata_error **err)
{
	return remove_row(r, f, KATA_ROW_TEMPLATE, err);
}

static int find_snapshots(struct kata__recovery *r, kata_error **err)
{
	return find_rows(r, &kata__recover_snapshot_row, KATA_ROW_SNAPSHOT, why_gone_dir, err);
}

static int undo_snapshot(struct kata__recovery *r, struct kata__finding *f, kata_error **err)
{
	return remove_row(r, f, KATA_ROW_SNAPSHOT, err);
}

const struct kata__kind kata__recover_pooled_row = {
	.name = "pooled-vm-row", .find = find_pooled, .undo = undo_pooled, .free = free};
const struct kata__kind kata__recover_template_row = {
	.name = "template-row", .find = find_templates, .undo = undo_template, .free = free};
const struct kata__kind kata__recover_snapshot_row = {
	.name = "snapshot-row", .find = find_snapshots, .undo = undo_snapshot, .free = free};
