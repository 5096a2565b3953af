/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_recover: one look at every VM's directory, then, on request, the removal of the orphans.
 *
 *   owner lives, or somebody is at it just now        OWNED
 *   pooled by a factory that lives, on its way out of  OWNED
 *   pooled by one that is dead                         ORPHAN, also when it was released: nobody was given it
 *   VMM lives, and released.json or a record names it  ATTACHABLE (applied: freed from its dead owner)
 *   VMM may live, but nothing can prove which it is    FAILED
 *   else                                               ORPHAN (applied: VMM killed, directory removed; or FAILED)
 *
 * Invariants: 1. a VMM is killed only when no record could name it: records that cannot be read protect every
 * machine. 2. all orphans are killed before the first is waited for, so that one stuck VMM costs its own 10 s and
 * nobody else's. 3. each directory is locked from the look to the end: of two recoveries, one does it.
 */
#include <kata/recover.h>

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "persist/persistence.h"
#include "vm/recover.h"

#define REMOVE_MS 10000u

struct entry {
	char id[KATA__ID_MAX + 1];
	kata_recover_verdict verdict;
	char *text;
	struct kata__leftover leftover;
	bool looked;
	uint64_t deadline;
};

struct kata_recover_report {
	struct entry *entries;
	size_t count;
};

/* What the records say: the machines they name. */
struct named {
	char vm_uuid[37];
	char sandbox_id[KATA__ID_MAX + 1];
	uint64_t epoch; /* of the VM's record */
};
struct records {
	struct named *machines;
	size_t count;
	char *unreadable; /* why not all could be read, or NULL */
};

const char *kata_recover_verdict_get_name(kata_recover_verdict verdict)
{
	static const char *const names[] = {"owned", "attachable", "orphan", "failed"};

	return (size_t)verdict < kata__array_size(names) ? names[verdict] : "unknown";
}

/* ---- records */

static void note_unreadable(struct records *r, const char *id, const kata_error *error)
{
	if (!r->unreadable)
		r->unreadable =
			kata__format("record%s%s: %s", id ? " " : "s", id ? id : "", kata_error_get_message(error));
}

static void note_record(struct records *r, const struct kata_record *record)
{
	struct named *m = &r->machines[r->count++];

	snprintf(m->vm_uuid, sizeof(m->vm_uuid), "%s", record->vm_uuid);
	snprintf(m->sandbox_id, sizeof(m->sandbox_id), "%s", record->id);
	m->epoch = kata__vm_record_epoch(record->vm_json, strlen(record->vm_json));
}

static int read_records(kata_persistence *p, struct records *r, kata_error **err)
{
	kata_error *error = NULL;
	char **ids = NULL;

	if (!p)
		return 0;
	if (kata_persistence_list_sandboxes(p, &ids, &error) < 0)
		note_unreadable(r, NULL, error);
	r->machines = calloc(kata__strv_length((const char *const *)ids) + 1, sizeof(*r->machines));
	for (char **id = ids; r->machines && id && *id; id++) {
		struct kata_record *record = NULL;

		kata_error_free(kata__take_ptr(error));
		if (kata__persistence_load(p, *id, &record, &error) == 0)
			note_record(r, record);
		else if (kata_error_get_status(error) != KATA_E_NOT_FOUND) /* reserved only: names no machine */
			note_unreadable(r, *id, error);
		kata__record_free(record);
	}
	kata_error_free(error);
	kata_string_list_free(ids);
	return r->machines ? 0 : kata__fail_no_memory(err);
}

static const struct named *find_record(const struct records *r, const char *vm_uuid)
{
	for (size_t i = 0; i < r->count; i++)
		if (strcmp(r->machines[i].vm_uuid, vm_uuid) == 0)
			return &r->machines[i];
	return NULL;
}

/* ---- verdicts */

static void say(struct entry *e, kata_recover_verdict verdict, char *take_text)
{
	free(e->text);
	e->verdict = verdict;
	e->text = take_text;
}

static void say_error(struct entry *e, kata_recover_verdict verdict, kata_error *take_error)
{
	say(e, verdict, kata__format("%s", kata_error_get_message(take_error)));
	kata_error_free(take_error);
}

static char *describe_orphan(const struct kata__leftover *l)
{
	const char *cut = l->interrupted ? l->interrupted : "nothing under way";

	if (!l->has_owner)
		return kata__format("no readable owner.json: left while it was being made or removed");
	if (l->pooled)
		return kata__format("it was the stock of process %d, a factory that is dead; last step: %s",
				    (int)l->steward_pid, cut);
	if (l->vmm_pidfd < 0)
		return kata__format("its VMM is gone; owner process %d is dead; last step: %s",
				    (int)l->owner.process.pid, cut);
	return kata__format("VMM %d lives, owner process %d is dead, no record names it; last step: %s",
			    (int)l->vmm_pid, (int)l->owner.process.pid, cut);
}

static void judge(struct entry *e, const struct records *records)
{
	const struct kata__leftover *l = &e->leftover;
	const struct named *record = l->has_owner ? find_record(records, l->owner.vm_uuid) : NULL;

	if (l->owner_lives)
		say(e, KATA_RECOVER_OWNED, kata__format("process %d owns it", (int)l->owner.process.pid));
	else if (l->pooled && l->steward_lives)
		say(e, KATA_RECOVER_OWNED,
		    kata__format("process %d is giving it to another process", (int)l->steward_pid));
	else if (l->doubtful)
		say(e, KATA_RECOVER_FAILED,
		    kata__format("owner.json cannot be read, and VMM %d of vmm.pid lives: end it by hand if it is "
				 "nobody's",
				 (int)l->vmm_pid));
	else if (l->becoming)
		say(e, KATA_RECOVER_FAILED,
		    kata__format(
			    "owner process %d is dead, but a child of it is still about to become the VMM: recover "
			    "again",
			    (int)l->owner.process.pid));
	else if (l->pooled)
		say(e, KATA_RECOVER_ORPHAN, describe_orphan(l));
	else if (l->vmm_pidfd >= 0 && record)
		say(e, KATA_RECOVER_ATTACHABLE,
		    kata__format("VMM %d lives, recorded as sandbox '%s'", (int)l->vmm_pid, record->sandbox_id));
	else if (l->vmm_pidfd >= 0 && l->released)
		say(e, KATA_RECOVER_ATTACHABLE, kata__format("VMM %d lives, released", (int)l->vmm_pid));
	else if (l->vmm_pidfd >= 0 && records->unreadable)
		say(e, KATA_RECOVER_FAILED,
		    kata__format("VMM %d lives, and records that cannot be read may name it: %s", (int)l->vmm_pid,
				 records->unreadable));
	else
		say(e, KATA_RECOVER_ORPHAN, describe_orphan(l));
}

static void discard(struct entry *e)
{
	char *text = kata__format("%s; not wanted any more", e->text ? e->text : "");

	say(e, KATA_RECOVER_ORPHAN, text);
}

/* False: it is not there any more. */
static bool look(kata_context *ctx, struct entry *e, const struct records *records, uint64_t flags)
{
	kata_error *error = NULL;
	int rc = kata__leftover_open(kata_context_get_state_dir(ctx), e->id, flags & KATA_RECOVER_APPLY, &e->leftover,
				     &error);

	if (rc == 0) {
		e->looked = true;
		judge(e, records);
		if (e->verdict == KATA_RECOVER_ATTACHABLE && (flags & KATA_RECOVER_ATTACHABLE_TOO))
			discard(e);
		if (e->verdict == KATA_RECOVER_OWNED) {
			kata__leftover_close(&e->leftover); /* many of these may be there, and fds are few */
			e->looked = false;
		}
		return true;
	}
	if (rc == KATA_E_NOT_FOUND) {
		kata_error_free(error);
		return false;
	}
	say_error(e, rc == KATA_E_BUSY ? KATA_RECOVER_OWNED : KATA_RECOVER_FAILED, error);
	return true;
}

/* ---- applying */

/* A dead owner must not stand in the way of who takes it over next. */
static void set_free(struct entry *e, const struct records *records)
{
	const struct named *record = find_record(records, e->leftover.owner.vm_uuid);
	uint64_t epoch = e->leftover.released ? e->leftover.released_epoch : record ? record->epoch : 0;
	kata_error *error = NULL;

	if (epoch && kata__leftover_set_free(&e->leftover, epoch, &error) < 0)
		say_error(e, KATA_RECOVER_FAILED, error);
}

static void apply_first(struct entry *e, const struct records *records)
{
	kata_error *error = NULL;

	e->deadline = kata__deadline_in_ms(REMOVE_MS);
	if (!e->looked)
		return;
	if (e->verdict == KATA_RECOVER_ATTACHABLE)
		set_free(e, records);
	else if (e->verdict == KATA_RECOVER_ORPHAN && kata__leftover_kill(&e->leftover, &error) < 0)
		say_error(e, KATA_RECOVER_FAILED, error);
}

static void apply_last(struct entry *e)
{
	kata_error *error = NULL;

	if (e->looked && e->verdict == KATA_RECOVER_ORPHAN &&
	    kata__leftover_remove(&e->leftover, e->deadline, &error) < 0)
		say_error(e, KATA_RECOVER_FAILED, error);
}

/* ---- the scan */

static int compare_entries(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->id, ((const struct entry *)b)->id);
}

static int add_entry(kata_recover_report *report, const char *id, kata_error **err)
{
	struct entry *grown = realloc(report->entries, (report->count + 1) * sizeof(*grown));

	if (!grown)
		return kata__fail_no_memory(err);
	report->entries = grown;
	grown[report->count] = (struct entry){.leftover = {.lock_fd = -1, .vmm_pidfd = -1}};
	snprintf(grown[report->count].id, sizeof(grown->id), "%.*s", KATA__ID_MAX, id);
	report->count++;
	return 0;
}

static int scan(kata_context *ctx, kata_recover_report *report, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/vm", kata_context_get_state_dir(ctx));
	struct dirent *d;
	DIR *dir;
	int rc = 0;

	if (!path)
		return kata__fail_no_memory(err);
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? 0 : kata__fail_errno(err, errno, "cannot read %s", path);
	while (rc == 0 && (errno = 0, d = readdir(dir)) != NULL)
		if (kata__id_is_valid(d->d_name))
			rc = add_entry(report, d->d_name, err);
	if (rc == 0 && errno != 0)
		rc = kata__fail_errno(err, errno, "cannot read %s", path);
	closedir(dir);
	if (rc == 0 && report->count)
		qsort(report->entries, report->count, sizeof(*report->entries), compare_entries);
	return rc;
}

static void look_at_all(kata_context *ctx, kata_recover_report *report, const struct records *records, uint64_t flags)
{
	size_t kept = 0;

	for (size_t i = 0; i < report->count; i++)
		if (look(ctx, &report->entries[i], records, flags))
			report->entries[kept++] = report->entries[i];
	report->count = kept;
}

static void apply_to_all(kata_recover_report *report, const struct records *records)
{
	for (size_t i = 0; i < report->count; i++)
		apply_first(&report->entries[i], records);
	for (size_t i = 0; i < report->count; i++)
		apply_last(&report->entries[i]);
}

/* A start that died may have come no further than the directory that all VMs lie in. */
static void remove_empty_parent(kata_context *ctx)
{
	KATA_AUTO(free) char *path = kata__format("%s/vm", kata_context_get_state_dir(ctx));

	if (path && rmdir(path) < 0)
		return; /* others live in it, or it is not there */
}

static void close_all(kata_recover_report *report)
{
	for (size_t i = 0; i < report->count; i++)
		kata__leftover_close(&report->entries[i].leftover);
}

static int check(kata_context *context, kata_persistence *persistence, uint64_t flags, kata_recover_report **ret_report,
		 kata_error **err)
{
	int rc = 0;

	if (!context || !ret_report)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: it is NULL", context ? "ret_report" : "context");
	if (flags & ~(KATA_RECOVER_APPLY | KATA_RECOVER_ATTACHABLE_TOO) || flags == KATA_RECOVER_ATTACHABLE_TOO)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "flags: 0x%llx has unknown bits, or ATTACHABLE_TOO without APPLY",
				  (unsigned long long)flags);
	if (persistence)
		rc = kata__persistence_check(persistence, err);
	return rc < 0 ? rc : kata__context_check_may_block(context, "kata_recover", err);
}

int kata_recover(kata_context *context, kata_persistence *persistence, uint64_t flags, kata_recover_report **ret_report,
		 kata_error **err)
{
	kata_recover_report *report;
	struct records records = {0};
	int rc = check(context, persistence, flags, ret_report, err);

	if (rc < 0)
		return rc;
	report = calloc(1, sizeof(*report));
	if (!report)
		return kata__fail_no_memory(err);
	rc = scan(context, report, err);
	if (rc == 0 && report->count)
		rc = read_records(persistence, &records, err);
	if (rc == 0) {
		look_at_all(context, report, &records, flags);
		if (flags & KATA_RECOVER_APPLY)
			apply_to_all(report, &records);
		close_all(report);
		if (flags & KATA_RECOVER_APPLY)
			remove_empty_parent(context);
		*ret_report = report;
	} else {
		kata_recover_report_free(report);
	}
	free(records.machines);
	free(records.unreadable);
	return rc;
}

/* ---- the report */

size_t kata_recover_report_get_count(const kata_recover_report *report)
{
	return report ? report->count : 0;
}

static const struct entry *entry_at(const kata_recover_report *report, size_t index)
{
	return report && index < report->count ? &report->entries[index] : NULL;
}

const char *kata_recover_report_get_vm_id(const kata_recover_report *report, size_t index)
{
	const struct entry *e = entry_at(report, index);

	return e ? e->id : NULL;
}

kata_recover_verdict kata_recover_report_get_verdict(const kata_recover_report *report, size_t index)
{
	const struct entry *e = entry_at(report, index);

	return e ? e->verdict : KATA_RECOVER_OWNED;
}

const char *kata_recover_report_get_text(const kata_recover_report *report, size_t index)
{
	const struct entry *e = entry_at(report, index);

	return e ? e->text ? e->text : "" : NULL;
}

void kata_recover_report_free(kata_recover_report *report)
{
	if (!report)
		return;
	for (size_t i = 0; i < report->count; i++)
		free(report->entries[i].text);
	free(report->entries);
	free(report);
}
