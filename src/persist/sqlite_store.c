/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Storing, made for the common case: a sandbox that was stored before with as many storages, NICs, containers and
 * processes as now. That is one UPDATE a row, nothing else. The sandbox's row keeps its epoch and the number of rows
 * below it; the UPDATE of that row asks for both, so when it hits, the owner is right and the counts are known. A row
 * below that its UPDATE does not find is inserted; when fewer were found than there had been, something went away, and
 * the rows of that table are written afresh.
 */
#include <string.h>
#include <time.h>

#include "persist/sqlite.h"

/* ---- binding ---- */

static int bind_failed(struct kata__sqlite *s, const char *table, const char *field, const char *why, kata_error **err)
{
	return kata__fail(err, KATA_E_INVALID, CALLER, "%s sandbox '%s': %s.%s: %s", s->operation,
			  s->subject ? s->subject : "", table, field, why);
}

/* What would be refused when read back is refused here. The record outlives the statement's use, so nothing is copied.
 */
static int bind_field(struct kata__sqlite *s, sqlite3_stmt *st, int at, const struct kata__noun *n,
		      const struct kata__field *f, const void *row, kata_error **err)
{
	int64_t v;
	int code;

	if (kata__field_is_text(f)) {
		const char *text = kata__field_get_text(f, row);
		size_t len = text ? strlen(text) : 0;

		if (!text && f->required)
			return bind_failed(s, n->table, f->name, "is missing", err);
		if (len > KATA__FIELD_TEXT_MAX)
			return bind_failed(s, n->table, f->name, "is longer than 1 MiB", err);
		if (!kata__text_is_clean(text, len))
			return bind_failed(s, n->table, f->name, "is not UTF-8", err);
		code = sqlite3_bind_text(st, at, text, (int)len, SQLITE_STATIC);
	} else {
		v = kata__field_get_int(f, row);
		if (v < f->min || v > f->max)
			return bind_failed(s, n->table, f->name, "is out of range", err);
		code = sqlite3_bind_int64(st, at, v);
	}
	return code == SQLITE_OK ? 0 : kata__sqlite_fail(s, code, n->table, err);
}

int kata__sqlite_bind_fields(struct kata__sqlite *s, sqlite3_stmt *st, int from, const struct kata__noun *n,
			     const void *row, kata_error **err)
{
	for (size_t i = 0; i < n->field_count; i++) {
		int rc = bind_field(s, st, from + (int)i, n, &n->fields[i], row, err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/* ---- the sandbox's row ---- */

/* One of the three statements that write the row. *ret_hits: rows written, 0 or 1. */
static int write_sandbox(struct kata__sqlite *s, int sql, const struct kata_record *record, int *ret_hits,
			 kata_error **err)
{
	const struct kata__noun *n = &kata__sandbox_noun;
	int at = (int)n->field_count + 1;
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_prepare(s, sql, &st, err);

	if (rc < 0)
		return rc;
	rc = kata__sqlite_bind_fields(s, st, 1, n, record, err);
	if (rc == 0) {
		sqlite3_bind_int64(st, at, time(NULL));
		for (int i = 0; i < KATA__NOUNS; i++)
			sqlite3_bind_int64(st, at + 1 + i, (int64_t)kata__noun_count(&kata__nouns[i], record));
		if (sql == KATA__SQL_UPDATE_SAME)
			sqlite3_bind_int64(st, at + 1 + KATA__NOUNS, record->base);
		rc = kata__sqlite_run(s, st, n->table, err);
	}
	sqlite3_clear_bindings(st);
	*ret_hits = rc == 0 ? sqlite3_changes(s->db) : 0;
	return rc;
}

/* Where the hint for this id stands. FNV-1a. */
static uint64_t *hint(struct kata__sqlite *s, const char *id, uint64_t *ret_bit)
{
	uint32_t h = 2166136261u;

	for (; *id; id++)
		h = (h ^ (unsigned char)*id) * 16777619u;
	*ret_bit = UINT64_C(1) << (h % 64);
	return &s->updated[h / 64 % kata__array_size(s->updated)];
}

enum put { PUT_NOTHING, PUT_SAME, PUT_NEW };

static int insert_sandbox(struct kata__sqlite *s, const struct kata_record *record, int *ret_hits, kata_error **err)
{
	sqlite3_int64 rowid = sqlite3_last_insert_rowid(s->db);
	int rc = write_sandbox(s, KATA__SQL_INSERT, record, ret_hits, err);

	if (*ret_hits)
		sqlite3_set_last_insert_rowid(s->db, rowid);
	return rc;
}

/* Updates the row where epoch and counts are what they were, or inserts it where there is none; first what did it the
 * last time. */
static int put_row(struct kata__sqlite *s, const struct kata_record *record, enum put *ret, kata_error **err)
{
	uint64_t bit, *updated = hint(s, record->id, &bit);
	bool may_insert = record->base <= 0; /* else it was stored before: what is not there was rolled back */
	bool update_first = !may_insert || (*updated & bit);
	int hits = 0;
	int rc = 0;

	*ret = PUT_NOTHING;
	if (!update_first)
		rc = insert_sandbox(s, record, &hits, err);
	if (rc == 0 && !hits) {
		rc = write_sandbox(s, KATA__SQL_UPDATE_SAME, record, &hits, err);
		*ret = hits ? PUT_SAME : PUT_NOTHING;
		*updated |= bit;
		if (rc < 0 || hits || !update_first || !may_insert)
			return rc;
		rc = insert_sandbox(s, record, &hits, err);
	}
	if (hits) {
		*ret = PUT_NEW;
		*updated &= ~bit;
	}
	return rc;
}

/* What stood below the sandbox's row before this store, as far as that row knew. */
struct before {
	int64_t counts[KATA__NOUNS];
	int64_t intents;
};

/* found: the generation that stands there, 0: no record. */
static int diverged(struct kata__sqlite *s, const struct kata_record *record, int64_t found, kata_error **err)
{
	char there[64] = "no record", stored[64] = "has stored none yet";
	int rc;

	if (found)
		snprintf(there, sizeof(there), "a record of generation %lld", (long long)found);
	if (record->base)
		snprintf(stored, sizeof(stored), "stored generation %lld", (long long)record->base);
	rc = kata__fail(
		err, KATA_E_DIVERGED, CALLER,
		"%s sandbox '%s': %s has %s, but this handle %s: what it stored was rolled back, or another wrote "
		"the record",
		s->operation, s->subject, s->place, there, stored);
	if (err)
		kata__error_set_hint(*err, "kata_sandbox_reconcile stores it again or takes back what is not stored");
	return rc;
}

/* Whether the row that is there may be replaced by this store. */
static int check_head(struct kata__sqlite *s, const struct kata_record *record, const struct kata__head *head,
		      kata_error **err)
{
	if ((uint64_t)head->epoch > record->epoch)
		return kata__sqlite_fenced(s, head, record->epoch, err);
	if (record->base >= 0 && head->generation != record->base)
		return diverged(s, record, head->generation, err);
	return 0;
}

/* The row, whatever stands there. */
static int put_sandbox(struct kata__sqlite *s, const struct kata_record *record, struct before *before,
		       kata_error **err)
{
	KATA_AUTO(kata_error_free) kata_error *own = NULL;
	struct kata__head head = {0};
	enum put put;
	int hits = 0;
	int rc = put_row(s, record, &put, err);

	before->intents = 0; /* else the row would not have been updated, and one that was not there has none */
	for (int i = 0; i < KATA__NOUNS; i++)
		before->counts[i] = put == PUT_SAME ? (int64_t)kata__noun_count(&kata__nouns[i], record) : 0;
	if (rc < 0 || put != PUT_NOTHING)
		return rc;
	rc = kata__sqlite_head(s, record->id, &head, &own);
	if (rc == KATA_E_NOT_FOUND)
		return diverged(s, record, 0, err);
	if (rc < 0)
		return kata__error_move(err, &own);
	rc = check_head(s, record, &head, err);
	if (rc < 0)
		return rc;
	memcpy(before->counts, head.counts, sizeof(head.counts));
	before->intents = head.intents;
	return write_sandbox(s, KATA__SQL_UPDATE, record, &hits, err);
}

/* ---- the rows below it ---- */

static int write_row(struct kata__sqlite *s, sqlite3_stmt *st, const struct kata__noun *n,
		     const struct kata_record *record, size_t index, kata_error **err)
{
	int rc = kata__sqlite_bind_fields(s, st, 3, n, kata__noun_row(n, record, index), err);

	if (rc < 0)
		return rc;
	kata__sqlite_bind_id(st, 1, record->id);
	sqlite3_bind_int64(st, 2, (int64_t)index);
	return kata__sqlite_run(s, st, n->table, err);
}

static int insert_rows(struct kata__sqlite *s, int noun, const struct kata_record *record, kata_error **err)
{
	const struct kata__noun *n = &kata__nouns[noun];
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_prepare(s, KATA__SQL_OF(noun, KATA__SQL_ROW_INSERT), &st, err);

	for (size_t i = 0; rc == 0 && i < kata__noun_count(n, record); i++)
		rc = write_row(s, st, n, record, i, err);
	kata__sqlite_done(st);
	return rc;
}

/* *ret_hits: how many were there already; the others are inserted. */
static int update_rows(struct kata__sqlite *s, int noun, const struct kata_record *record, int64_t *ret_hits,
		       kata_error **err)
{
	const struct kata__noun *n = &kata__nouns[noun];
	sqlite3_stmt *update = NULL, *insert = NULL;
	int rc = kata__sqlite_prepare(s, KATA__SQL_OF(noun, KATA__SQL_ROW_UPDATE), &update, err);

	for (size_t i = 0; rc == 0 && i < kata__noun_count(n, record); i++) {
		rc = write_row(s, update, n, record, i, err);
		if (rc < 0 || sqlite3_changes(s->db) > 0) {
			*ret_hits += rc == 0;
			continue;
		}
		if (!insert)
			rc = kata__sqlite_prepare(s, KATA__SQL_OF(noun, KATA__SQL_ROW_INSERT), &insert, err);
		if (rc == 0)
			rc = write_row(s, insert, n, record, i, err);
	}
	kata__sqlite_done(update);
	kata__sqlite_done(insert);
	return rc;
}

/* When all rows that there were are found again, none is left over; else the table's rows of this sandbox are written
 * afresh, and what was reserved for those that went is given up. */
static int put_rows(struct kata__sqlite *s, int noun, const struct kata_record *record, const struct before *b,
		    kata_error **err)
{
	const struct kata__noun *n = &kata__nouns[noun];
	int64_t count = (int64_t)kata__noun_count(n, record), before = b->counts[noun], hits = 0;
	int rc = 0;

	if (before == 0 && count == 0)
		return 0;
	if (before > 0 && before <= count)
		rc = update_rows(s, noun, record, &hits, err);
	if (rc < 0 || (hits == before && hits == count))
		return rc;
	if (hits != before)
		rc = kata__sqlite_run_for(s, KATA__SQL_OF(noun, KATA__SQL_ROWS_DELETE), record->id, n->table, err);
	if (rc == 0 && (hits != before || before == 0))
		rc = insert_rows(s, noun, record, err);
	if (rc == 0 && hits != before)
		rc = kata__sqlite_give_up_reservations(s, noun, record->id, err);
	return rc;
}

static int put_all(struct kata__sqlite *s, const struct kata_record *record, kata_error **err)
{
	struct before before;
	int rc = put_sandbox(s, record, &before, err);

	for (int i = 0; rc == 0 && i < KATA__NOUNS; i++)
		rc = put_rows(s, i, record, &before, err);
	if (rc == 0 && before.intents > 0)
		rc = kata__sqlite_settle_intents(s, record, err);
	return rc == 0 ? kata__schema_recheck(s, err) : rc;
}

static int all_or_nothing(struct kata__sqlite *s, const struct kata_record *record, kata_error **err)
{
	sqlite3_stmt *first = NULL;
	int rc;

	/* What comes first writes, and so waits until it may; but compiling it reads: kata__sqlite_begin_change. */
	rc = kata__sqlite_prepare(s, KATA__SQL_UPDATE_SAME, &first, err);
	if (rc == 0)
		rc = kata__sqlite_prepare(s, KATA__SQL_INSERT, &first, err);
	if (rc == 0)
		rc = kata__sqlite_savepoint(s, err);
	return rc < 0 ? rc : kata__sqlite_end_change(s, put_all(s, record, err), err);
}

/* A sandbox with nothing below it, now and before: one statement, which needs no savepoint. *ret_done says whether that
 * was so. */
static int put_bare(struct kata__sqlite *s, const struct kata_record *record, bool *ret_done, kata_error **err)
{
	enum put put;
	int rc;

	for (int i = 0; i < KATA__NOUNS; i++)
		if (kata__noun_count(&kata__nouns[i], record) != 0)
			return 0;
	rc = put_row(s, record, &put, err);
	*ret_done = rc == 0 && put != PUT_NOTHING;
	return *ret_done ? kata__schema_recheck(s, err) : rc;
}

int kata__sqlite_store(void *self, const kata_record *record, kata_error **err)
{
	struct kata__sqlite *s = self;
	bool done = false;
	int rc = kata__sqlite_enter(s, "store", record->id, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = put_bare(s, record, &done, err);
	if (rc == 0 && !done)
		rc = all_or_nothing(s, record, err);
	return kata__sqlite_leave(s, rc, err);
}
