/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of sandboxes, and reservations.
 *
 *   record   its machine is in the report and stays        (nothing: it is reported with it)
 *            whoever holds or drives it lives              (nothing)
 *            its VMM lives, but not in this directory      FOREIGN
 *            it was never stored                           HALF_MADE (applied: deleted)
 *            else                                          GONE (likewise)
 *   reservation, an intent
 *            who reserved it lives, or who holds the sandbox, or the record goes   (nothing)
 *            else                                          HALF_MADE (applied: settled as UNDONE)
 *
 * Records are hostile: what one says decides about that record alone, and about the directory of a machine only by its
 * UUID, which the directory must say too. A pid in one is compared, never signalled.
 */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "recover/recover.h"
#include "vm/recover.h"

/* ---- reading ---- */

static int note_unreadable(struct kata__recovery *r, const char *id, const kata_error *error, kata_error **err)
{
	if (!r->unreadable)
		r->unreadable =
			kata__format("record%s%s: %s", id ? " " : "s", id ? id : "", kata_error_get_message(error));
	return r->unreadable ? 0 : kata__fail_no_memory(err);
}

static int compare_uuids(const void *a, const void *b)
{
	return strcmp(((const kata_sandbox_info *)a)->vm_uuid, ((const kata_sandbox_info *)b)->vm_uuid);
}

/* One by one: a record that is damaged hides no other. */
static int read_one(struct kata__recovery *r, const char *id, kata_error **err)
{
	kata_sandbox_info *info = &r->infos[r->info_count];
	kata_error *error = NULL;
	int rc = 0;

	info->size = sizeof(*info);
	if (kata_persistence_get_info(r->p, id, info, &error) == 0)
		r->info_count++;
	else if (kata_error_get_status(error) != KATA_E_NOT_FOUND)
		rc = note_unreadable(r, id, error, err);
	kata_error_free(error);
	return rc;
}

int kata__recover_read_records(struct kata__recovery *r, kata_error **err)
{
	kata_error *error = NULL;
	char **ids = NULL;
	int rc = 0;

	if (!r->p)
		return 0;
	free(kata__take_ptr(r->infos));
	r->info_count = 0;
	if (kata_persistence_list_sandboxes(r->p, &ids, &error) < 0)
		rc = note_unreadable(r, NULL, error, err);
	r->store_failed = r->store_failed || error;
	kata_error_free(error);
	r->infos = calloc(kata__strv_length((const char *const *)ids) + 1, sizeof(*r->infos));
	if (rc == 0 && !r->infos)
		rc = kata__fail_no_memory(err);
	for (char **id = ids; rc == 0 && id && *id; id++)
		rc = read_one(r, *id, err);
	kata_string_list_free(ids);
	if (rc < 0)
		return rc;
	qsort(r->infos, r->info_count, sizeof(*r->infos), compare_uuids);
	return 0;
}

const kata_sandbox_info *kata__recover_record_of(const struct kata__recovery *r, const char *vm_uuid)
{
	kata_sandbox_info key = {0};

	snprintf(key.vm_uuid, sizeof(key.vm_uuid), "%s", vm_uuid);
	return key.vm_uuid[0] && r->info_count
		       ? bsearch(&key, r->infos, r->info_count, sizeof(*r->infos), compare_uuids)
		       : NULL;
}

uint64_t kata__recover_epoch_of(const struct kata__recovery *r, const kata_sandbox_info *info, kata_error **err)
{
	struct kata_record *record = NULL;
	uint64_t epoch = 0;

	if (kata__persistence_load(r->p, info->id, &record, err) == 0 && record->vm_json)
		epoch = kata__vm_record_epoch(record->vm_json, strlen(record->vm_json));
	kata__record_free(record);
	return epoch;
}

bool kata__recover_lives(int64_t pid, uint64_t start_time, const char *boot_id)
{
	struct kata__process_identity id = {.pid = (pid_t)pid, .start_time = start_time};

	snprintf(id.boot_id, sizeof(id.boot_id), "%s", boot_id);
	return pid > 0 && pid <= INT32_MAX && kata__process_is_alive(&id);
}

/* ---- changing ---- */

int kata__recover_may_store(const struct kata__recovery *r, kata_error **err)
{
	return r->store_failed ? kata__fail(err, KATA_E_DATABASE, HOST,
					    "not tried: the persistence has failed before (see the others)")
			       : 0;
}

int kata__recover_stored(struct kata__recovery *r, int rc)
{
	if (rc < 0 && rc != KATA_E_NOT_FOUND && rc != KATA_E_FENCED && rc != KATA_E_CORRUPT && rc != KATA_E_BUSY)
		r->store_failed = true;
	return rc;
}

/* ---- sandboxes ---- */

static bool is_held(const kata_sandbox_info *i)
{
	return kata__recover_lives(i->holder_pid, i->holder_start_time, i->holder_boot_id) ||
	       kata__recover_lives(i->owner_pid, i->owner_start_time, i->boot_id);
}

static int add(struct kata__recovery *r, const kata_sandbox_info *info, kata_recover_verdict verdict, char *take_text,
	       size_t depends_on, kata_error **err)
{
	struct kata__finding *f = NULL;
	int rc = kata__finding_add(r, &kata__recover_sandbox, info->id, verdict, take_text, &f, err);

	if (rc < 0)
		return rc;
	f->depends_on = depends_on;
	f->data = malloc(sizeof(*info));
	if (!f->data)
		return kata__fail_no_memory(err);
	memcpy(f->data, info, sizeof(*info));
	return 0;
}

static int find_sandbox(struct kata__recovery *r, const kata_sandbox_info *i, kata_error **err)
{
	const struct kata__finding *machine = kata__finding_of_machine(r, i->vm_uuid, i->vm_id);
	bool is_new = strcmp(i->state, "new") == 0;

	if (is_held(i) || (machine && !kata__finding_is_undoable(machine)))
		return 0;
	if (machine)
		return add(r, i, KATA_RECOVER_GONE,
			   kata__format("its machine '%s' is %s", machine->id,
					kata_recover_verdict_get_name(machine->verdict)),
			   (size_t)(machine - r->findings), err);
	if (is_new && i->holder_pid <= 0)
		return add(r, i, KATA_RECOVER_FOREIGN, kata__strdup("reserved, and nothing says by whom"), SIZE_MAX,
			   err);
	if (is_new)
		return add(r, i, KATA_RECOVER_HALF_MADE,
			   kata__format("reserved by process %lld, which is dead, and never stored",
					(long long)i->holder_pid),
			   SIZE_MAX, err);
	if (kata__recover_lives(i->vm_pid, i->vm_start_time, i->boot_id))
		return add(r, i, KATA_RECOVER_FOREIGN,
			   kata__format("process %lld, its VMM, lives, and has no directory below %s",
					(long long)i->vm_pid, kata_context_get_state_dir(r->ctx)),
			   SIZE_MAX, err);
	return add(r, i, KATA_RECOVER_GONE,
		   kata__format("its machine is gone, with its owner, process %lld", (long long)i->holder_pid),
		   SIZE_MAX, err);
}

static int compare_ids(const void *a, const void *b)
{
	return strcmp(((const struct kata__finding *)a)->id, ((const struct kata__finding *)b)->id);
}

static int find_sandboxes(struct kata__recovery *r, kata_error **err)
{
	size_t first = r->count;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < r->info_count; i++)
		rc = find_sandbox(r, &r->infos[i], err);
	if (rc == 0 && r->unreadable)
		rc = kata__finding_add(r, &kata__recover_sandbox, "?", KATA_RECOVER_FAILED, kata__strdup(r->unreadable),
				       NULL, err);
	if (r->count > first)
		qsort(&r->findings[first], r->count - first, sizeof(*r->findings), compare_ids);
	return rc;
}

static int undo_sandbox(struct kata__recovery *r, struct kata__finding *f, kata_error **err)
{
	kata_error *error = NULL;
	int rc = kata__recover_may_store(r, err);

	if (rc < 0)
		return rc;
	rc = kata__recover_stored(r, kata__persistence_remove_seen(r->p, f->data, &error));
	if (rc == KATA_E_FENCED) /* somebody has it since */
		kata__finding_say_error(f, KATA_RECOVER_OWNED, kata__take_ptr(error));
	if (rc != KATA_E_NOT_FOUND && rc != KATA_E_FENCED)
		return rc < 0 ? kata__error_move(err, &error) : 0;
	kata_error_free(error);
	return 0;
}

const struct kata__kind kata__recover_sandbox = {
	.name = "sandbox", .find = find_sandboxes, .undo = undo_sandbox, .free = free};

/* ---- reservations ---- */

static const kata_sandbox_info *info_of(const struct kata__recovery *r, const char *id)
{
	for (size_t i = 0; i < r->info_count; i++)
		if (strcmp(r->infos[i].id, id) == 0)
			return &r->infos[i];
	return NULL;
}

static int find_reservation(struct kata__recovery *r, const kata_reservation *v, kata_error **err)
{
	const kata_sandbox_info *sandbox;
	struct kata__finding *f = NULL;
	KATA_AUTO(free) char *id = NULL;
	int rc;

	if (v->state != KATA_RESERVATION_INTENT || kata__recover_lives(v->owner_pid, v->owner_start_time, v->boot_id) ||
	    kata__finding_exists(r, &kata__recover_sandbox, v->sandbox_id))
		return 0;
	sandbox = info_of(r, v->sandbox_id);
	if (!sandbox || is_held(sandbox))
		return 0;
	id = kata__format("%s/%s/%s", v->sandbox_id, kata_reservation_kind_get_name((kata_reservation_kind)v->kind),
			  v->id);
	if (!id)
		return kata__fail_no_memory(err);
	rc = kata__finding_add(r, &kata__recover_reservation, id, KATA_RECOVER_HALF_MADE,
			       kata__format("process %lld reserved it and is dead", (long long)v->owner_pid), &f, err);
	if (rc < 0)
		return rc;
	f->data = malloc(sizeof(*v));
	if (!f->data)
		return kata__fail_no_memory(err);
	memcpy(f->data, v, sizeof(*v));
	return 0;
}

static int find_reservations(struct kata__recovery *r, kata_error **err)
{
	kata_reservation *list = NULL;
	kata_error *error = NULL;
	size_t count = 0;
	int rc = r->p && !r->store_failed ? kata_persistence_list_reservations(r->p, NULL, &list, &count, &error) : 0;

	if (rc < 0 && rc != KATA_E_UNSUPPORTED)
		rc = kata__finding_add(r, &kata__recover_reservation, "?", KATA_RECOVER_FAILED,
				       kata__strdup(kata_error_get_message(error)), NULL, err);
	else
		rc = 0;
	kata_error_free(error);
	for (size_t i = 0; rc == 0 && i < count; i++)
		rc = find_reservation(r, &list[i], err);
	free(list);
	return rc;
}

static int undo_reservation(struct kata__recovery *r, struct kata__finding *f, kata_error **err)
{
	const kata_reservation *v = f->data;
	kata_error *error = NULL;
	int rc = kata__recover_may_store(r, err);

	if (rc < 0)
		return rc;
	rc = kata_persistence_settle(r->p, v->sandbox_id, (kata_reservation_kind)v->kind, v->id,
				     KATA_RESERVATION_UNDONE, &error);
	if (kata__recover_stored(r, rc) != KATA_E_NOT_FOUND)
		return rc < 0 ? kata__error_move(err, &error) : 0;
	kata_error_free(error); /* somebody has settled it since, or the sandbox is deleted */
	return 0;
}

const struct kata__kind kata__recover_reservation = {
	.name = "reservation", .find = find_reservations, .undo = undo_reservation, .free = free};
