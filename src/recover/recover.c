/* SPDX-License-Identifier: Apache-2.0 */
/* kata_recover: the walk over the table of kinds, and the report. See recover.h. */
#include "recover/recover.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/options.h"
#include "base/text.h"
#include "vm/recover.h"

#define BATCH 64u /* things whose undoing is begun before the first is waited for; each holds some fds */

struct kata_recover_report {
	struct kata__finding *findings;
	size_t count;
};

const char *kata_recover_verdict_get_name(kata_recover_verdict verdict)
{
	static const char *const names[] = {"owned", "attachable", "gone", "half-made", "orphan", "foreign", "failed"};

	return (size_t)verdict < kata__array_size(names) ? names[verdict] : "unknown";
}

/* ---- applying ---- */

/* The points "recover/KIND:before" and ":after"; only ERROR and KILL act. */
static int pass(struct kata__recovery *r, const struct kata__finding *f, const char *where, kata_error **err)
{
	uint64_t value;

	if (kata__fail_point_pass(r->ctx, "recover", f->kind->name, where, &value) != KATA_FAIL_ERROR)
		return 0;
	return kata__fail(err, KATA_E_INJECTED, HOST, "fail-point recover/%s:%s", f->kind->name, where);
}

static int undo(struct kata__recovery *r, struct kata__finding *f, kata_error **err)
{
	int rc = pass(r, f, "before", err);

	if (rc == 0 && f->depends_on < r->count && !r->findings[f->depends_on].undone)
		rc = kata__fail(err, KATA_E_STATE, HOST, "not before its machine: %s", r->findings[f->depends_on].text);
	if (rc == 0)
		rc = f->kind->undo(r, f, err);
	return rc < 0 ? rc : pass(r, f, "after", err);
}

static void finish(struct kata__recovery *r, struct kata__finding *f)
{
	kata_error *error = NULL;
	int rc = 0;

	if (kata__finding_is_undoable(f) && f->kind->undo && !f->undone) {
		rc = undo(r, f, &error);
		f->undone = rc == 0 && kata__finding_is_undoable(f);
	} else if (f->verdict == KATA_RECOVER_ATTACHABLE && f->kind->keep) {
		rc = f->kind->keep(r, f, &error);
	}
	if (rc < 0)
		kata__finding_say_error(f, KATA_RECOVER_FAILED, error);
	if (f->kind->free)
		f->kind->free(kata__take_ptr(f->data));
}

/* Locks what is to be undone, and sees to it that the records are newer than those locks where that matters. */
static int hold_batch(struct kata__recovery *r, size_t from, size_t to, kata_error **err)
{
	bool orphans = false;

	for (size_t i = from; i < to; i++) {
		struct kata__finding *f = &r->findings[i];

		if (!kata__finding_is_undoable(f) || !f->kind->hold)
			continue;
		f->kind->hold(r, f);
		orphans = orphans || f->verdict == KATA_RECOVER_ORPHAN;
	}
	return orphans ? kata__recover_read_records(r, err) : 0;
}

static void apply_batch(struct kata__recovery *r, size_t from, size_t to)
{
	kata_error *error = NULL;
	int rc = hold_batch(r, from, to, &error);

	for (size_t i = from; i < to; i++) {
		struct kata__finding *f = &r->findings[i];

		if (kata__finding_is_undoable(f) && rc < 0)
			kata__finding_say(f, KATA_RECOVER_FAILED, kata__strdup(kata_error_get_message(error)));
		else if (kata__finding_is_undoable(f) && f->kind->begin_undo)
			f->kind->begin_undo(r, f);
	}
	kata_error_free(error);
	for (size_t i = from; i < to; i++)
		finish(r, &r->findings[i]);
}

/* Findings of a kind are side by side: each kind was asked once. */
static void apply(struct kata__recovery *r)
{
	size_t from = 0, to;

	for (; from < r->count; from = to) {
		for (to = from; to < r->count && to - from < BATCH && r->findings[to].kind == r->findings[from].kind;)
			to++;
		apply_batch(r, from, to);
	}
}

/* A start that died may have come no further than the directory that all machines lie in. */
static void remove_empty_parent(kata_context *ctx)
{
	KATA_AUTO(free) char *path = kata__format("%s/vm", kata_context_get_state_dir(ctx));

	if (path && rmdir(path) < 0)
		return; /* others live in it, or it is not there */
}

/* ---- finding ---- */

static int find(struct kata__recovery *r, kata_error **err)
{
	int rc = kata__recover_read_records(r, err);

	for (const struct kata__kind *const *kind = kata__recover_kinds; rc == 0 && *kind; kind++)
		rc = (*kind)->find(r, err);
	return rc;
}

static int check(kata_context *context, kata_persistence *persistence, const kata_recover_options *o,
		 kata_recover_report **ret_report, kata_error **err)
{
	int rc = 0;

	if (!context || !ret_report)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: it is NULL", context ? "ret_report" : "context");
	if (o->flags & ~(KATA_RECOVER_APPLY | KATA_RECOVER_ATTACHABLE_TOO) || o->flags == KATA_RECOVER_ATTACHABLE_TOO)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "options.flags: 0x%llx has unknown bits, or ATTACHABLE_TOO without APPLY",
				  (unsigned long long)o->flags);
	for (size_t i = 0; o->directories && o->directories[i]; i++)
		if (o->directories[i][0] != '/')
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "options.directories[%zu]: '%.128s' is relative, must be absolute", i,
					  o->directories[i]);
	if (persistence)
		rc = kata__persistence_check(persistence, err);
	return rc < 0 ? rc : kata__context_check_may_block(context, "kata_recover", err);
}

static int recover(struct kata__recovery *r, kata_recover_report **ret, kata_error **err)
{
	kata_recover_report *report = calloc(1, sizeof(*report));
	int rc = report ? find(r, err) : kata__fail_no_memory(err);

	if (rc < 0) {
		kata__findings_free(r->findings, r->count);
		free(report);
		return rc;
	}
	if (r->flags & KATA_RECOVER_APPLY) {
		apply(r);
		remove_empty_parent(r->ctx);
	}
	report->findings = r->findings;
	report->count = r->count;
	*ret = report;
	return 0;
}

int kata_recover(kata_context *context, kata_persistence *persistence, const kata_recover_options *options,
		 kata_recover_report **ret_report, kata_error **err)
{
	kata_recover_options o = KATA_RECOVER_OPTIONS_INIT;
	struct kata__recovery r = {.ctx = context, .p = persistence};
	int rc = kata__options_read(&o, sizeof(o), options, "options", err);

	if (rc == 0)
		rc = check(context, persistence, &o, ret_report, err);
	if (rc < 0)
		return rc;
	r.flags = o.flags;
	r.directories = o.directories;
	if (o.flags & KATA_RECOVER_APPLY)
		r.patience_ns = kata__deadline_in_ms(KATA__LEFTOVER_GRACE_MS);
	rc = recover(&r, ret_report, err);
	free(r.infos);
	free(r.unreadable);
	return rc;
}

/* ---- the report ---- */

size_t kata_recover_report_get_count(const kata_recover_report *report)
{
	return report ? report->count : 0;
}

static const struct kata__finding *entry_at(const kata_recover_report *report, size_t index)
{
	return report && index < report->count ? &report->findings[index] : NULL;
}

const char *kata_recover_report_get_kind(const kata_recover_report *report, size_t index)
{
	const struct kata__finding *f = entry_at(report, index);

	return f ? f->kind->name : NULL;
}

const char *kata_recover_report_get_id(const kata_recover_report *report, size_t index)
{
	const struct kata__finding *f = entry_at(report, index);

	return f ? f->id : NULL;
}

kata_recover_verdict kata_recover_report_get_verdict(const kata_recover_report *report, size_t index)
{
	const struct kata__finding *f = entry_at(report, index);

	return f ? f->verdict : KATA_RECOVER_OWNED;
}

bool kata_recover_report_is_undone(const kata_recover_report *report, size_t index)
{
	const struct kata__finding *f = entry_at(report, index);

	return f && f->undone;
}

const char *kata_recover_report_get_text(const kata_recover_report *report, size_t index)
{
	const struct kata__finding *f = entry_at(report, index);

	return f ? f->text ? f->text : "" : NULL;
}

size_t kata_recover_report_get_left(const kata_recover_report *report)
{
	size_t left = 0;

	for (size_t i = 0; report && i < report->count; i++) {
		const struct kata__finding *f = &report->findings[i];

		left += f->verdict == KATA_RECOVER_FAILED || (kata__finding_is_undoable(f) && !f->undone);
	}
	return left;
}

void kata_recover_report_free(kata_recover_report *report)
{
	if (!report)
		return;
	kata__findings_free(report->findings, report->count);
	free(report);
}
