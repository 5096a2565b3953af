/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows to a record. Rows are untrusted input: their types and lengths are checked here, their meaning by
 * kata__record_check, and there must be as many of them as the sandbox's row says.
 */
#include <string.h>

#include "base/text.h"
#include "persist/sqlite.h"

static const char *type_name(int type)
{
	static const char *const names[] = {"?", "INTEGER", "REAL", "TEXT", "BLOB", "NULL"};

	return type >= SQLITE_INTEGER && type <= SQLITE_NULL ? names[type] : names[0];
}

static int wrong(struct kata__sqlite *s, const struct kata__noun *n, const struct kata__field *f, const char *why,
		 const char *what, kata_error **err)
{
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s '%s': %s.%s: %s%s", s->operation,
			  s->subject ? s->subject : "", n->table, f->name, why, what);
}

static int take_text(struct kata__sqlite *s, sqlite3_stmt *st, int at, const struct kata__noun *n,
		     const struct kata__field *f, void *row, kata_error **err)
{
	const char *text = (const char *)sqlite3_column_text(st, at);
	size_t len = (size_t)sqlite3_column_bytes(st, at);
	char *copy;

	if (!text)
		return kata__fail_no_memory(err);
	if (len > KATA__FIELD_TEXT_MAX)
		return wrong(s, n, f, "is longer than 1 MiB", "", err);
	if (!kata__text_is_clean(text, len))
		return wrong(s, n, f, "has a NUL or is not UTF-8", "", err);
	copy = strdup(text);
	if (!copy)
		return kata__fail_no_memory(err);
	kata__field_set_text(f, row, copy);
	return 0;
}

static int take_value(struct kata__sqlite *s, sqlite3_stmt *st, int at, const struct kata__noun *n,
		      const struct kata__field *f, void *row, kata_error **err)
{
	int type = sqlite3_column_type(st, at);
	int64_t v;

	if (kata__field_is_text(f)) {
		if (type == SQLITE_NULL)
			return f->required ? wrong(s, n, f, "is NULL", "", err) : 0;
		if (type != SQLITE_TEXT)
			return wrong(s, n, f, "must be TEXT, is ", type_name(type), err);
		return take_text(s, st, at, n, f, row, err);
	}
	if (type != SQLITE_INTEGER)
		return wrong(s, n, f, "must be INTEGER, is ", type_name(type), err);
	v = sqlite3_column_int64(st, at);
	if (v < f->min || v > f->max)
		return wrong(s, n, f, "is out of range", "", err);
	kata__field_set_int(f, row, v);
	return 0;
}

int kata__sqlite_take_fields(struct kata__sqlite *s, sqlite3_stmt *st, const struct kata__noun *n, void *row,
			     kata_error **err)
{
	for (size_t i = 0; i < n->field_count; i++) {
		int rc = take_value(s, st, (int)i, n, &n->fields[i], row, err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

static int load_sandbox(struct kata__sqlite *s, const char *id, struct kata_record *record, kata_error **err)
{
	const struct kata__noun *n = &kata__sandbox_noun;
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_prepare(s, KATA__SQL_LOAD, &st, err);
	int code;

	if (rc < 0)
		return rc;
	sqlite3_bind_text(st, 1, id, -1, SQLITE_STATIC);
	code = sqlite3_step(st);
	if (code == SQLITE_ROW)
		rc = kata__sqlite_take_fields(s, st, n, record, err);
	else if (code == SQLITE_DONE)
		rc = kata__fail(err, KATA_E_NOT_FOUND, CALLER, "%s: there is no sandbox '%s' in %s", s->operation, id,
				s->place);
	else
		rc = kata__sqlite_fail(s, code, n->table, err);
	kata__sqlite_done(st);
	return rc;
}

static int collect_rows(struct kata__sqlite *s, sqlite3_stmt *st, const struct kata__noun *n,
			struct kata_record *record, size_t expected, kata_error **err)
{
	size_t found = 0;
	int code, rc;

	while ((code = sqlite3_step(st)) == SQLITE_ROW) {
		rc = found < expected ? kata__sqlite_take_fields(s, st, n, kata__noun_row(n, record, found), err) : 0;
		if (rc < 0)
			return rc;
		found++;
	}
	if (code != SQLITE_DONE)
		return kata__sqlite_fail(s, code, n->table, err);
	if (found != expected)
		return kata__fail(err, KATA_E_CORRUPT, CALLER,
				  "%s sandbox '%s': %s has %zu rows, kata_sandboxes.%s says %zu", s->operation,
				  s->subject, n->table, found, n->count, expected);
	return 0;
}

static int load_rows(struct kata__sqlite *s, int noun, const char *id, int64_t count, struct kata_record *record,
		     kata_error **err)
{
	const struct kata__noun *n = &kata__nouns[noun];
	sqlite3_stmt *st = NULL;
	int rc;

	if (count < 0 || (size_t)count > n->max)
		return kata__fail(err, KATA_E_CORRUPT, CALLER,
				  "%s sandbox '%s': kata_sandboxes.%s is %lld, must be from 0 to %zu", s->operation,
				  s->subject, n->count, (long long)count, n->max);
	if (kata__noun_alloc(n, record, (size_t)count) < 0)
		return kata__fail_no_memory(err);
	rc = kata__sqlite_prepare(s, KATA__SQL_OF(noun, KATA__SQL_ROWS_LOAD), &st, err);
	if (rc < 0)
		return rc;
	sqlite3_bind_text(st, 1, id, -1, SQLITE_STATIC);
	rc = collect_rows(s, st, n, record, (size_t)count, err);
	kata__sqlite_done(st);
	return rc;
}

static int load_all(struct kata__sqlite *s, const char *id, struct kata_record *record, kata_error **err)
{
	struct kata__head head = {0};
	int rc = kata__sqlite_head(s, id, &head, err);

	if (rc < 0)
		return rc;
	if (head.reserved)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER,
				  "%s: sandbox '%s' is only reserved: it was never stored", s->operation, id);
	rc = load_sandbox(s, id, record, err);
	for (int i = 0; rc == 0 && i < KATA__NOUNS; i++)
		rc = load_rows(s, i, id, head.counts[i], record, err);
	return rc < 0 ? rc : kata__record_check(record, err);
}

/* The savepoint makes the seven reads see one state where no transaction is open. */
static int load_in_one(struct kata__sqlite *s, const char *id, struct kata_record *record, kata_error **err)
{
	int rc = kata__schema_verify(s, err);
	int released;

	if (rc == 0)
		rc = kata__sqlite_savepoint(s, err);
	if (rc < 0)
		return rc;
	rc = kata__schema_recheck_read(s, load_all(s, id, record, err), err);
	released = kata__sqlite_release(s, rc < 0 ? NULL : err); /* nothing was written: there is nothing to undo */
	if (released < 0)
		kata__sqlite_rollback(s, err);
	return rc < 0 ? rc : released;
}

int kata__sqlite_load_record(void *self, const char *id, kata_record **ret, kata_error **err)
{
	struct kata__sqlite *s = self;
	struct kata_record *record = kata__record_new();
	int rc;

	if (!record)
		return kata__fail_no_memory(err);
	rc = kata__sqlite_enter(s, "load", id, err);
	if (rc < 0) {
		kata__record_free(record);
		return rc;
	}
	rc = load_in_one(s, id, record, err);
	kata__sqlite_leave(s, rc, err);
	if (rc < 0)
		kata__record_free(record);
	else
		*ret = record;
	return rc;
}
