/* SPDX-License-Identifier: Apache-2.0 */
/* Rows beside the sandboxes, in SQLite: a table a kind. The ops speak JSON; in the table its members are columns. */
#include <string.h>

#include "base/text.h"
#include "persist/sqlite.h"

static const struct kata__noun *noun_of(uint32_t kind)
{
	return &kata__row_nouns[kind].noun;
}

/* Steps a statement that asks whether a row is there. 1, 0, or negative. */
static int has_row(struct kata__sqlite *s, sqlite3_stmt *st, const char *table, kata_error **err)
{
	int code = sqlite3_step(st);
	int rc = code == SQLITE_ROW ? 1 : code == SQLITE_DONE ? 0 : kata__sqlite_fail(s, code, table, err);

	kata__sqlite_done(st);
	return rc;
}

/* The table in which the parent must be, where it must be. */
static int check_parent(struct kata__sqlite *s, const kata_row *row, kata_error **err)
{
	const struct kata__row_noun *r = &kata__row_nouns[row->kind];
	const char *parent = kata__row_parent(row);
	struct kata__head head = {0};
	sqlite3_stmt *st = NULL;
	int rc;

	if (!parent || !r->parent_table)
		return 0;
	if (row->kind == KATA_ROW_NETWORK)
		return kata__sqlite_head(s, parent, &head, err);
	rc = kata__sqlite_prepare(s, KATA__SQL_BESIDE(row->kind - 1, KATA__SQL_BESIDE_HAS), &st, err);
	if (rc < 0)
		return rc;
	kata__sqlite_bind_id(st, 1, parent);
	rc = has_row(s, st, r->parent_table, err);
	if (rc == 0)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "%s '%s': its %s '%s' is not in %s: put that first",
				  s->operation, row->id, kata_row_kind_get_name(row->kind - 1), parent, s->place);
	return rc < 0 ? rc : 0;
}

static int read_row(struct kata__sqlite *s, uint32_t kind, const char *id, kata_row **ret, kata_error **err)
{
	const struct kata__noun *n = noun_of(kind);
	sqlite3_stmt *st = NULL;
	kata_row *row;
	int rc = kata__sqlite_prepare(s, KATA__SQL_BESIDE(kind, KATA__SQL_BESIDE_GET), &st, err);
	int code;

	if (rc < 0)
		return rc;
	row = kata__row_new(kind);
	if (!row)
		return kata__fail_no_memory(err);
	kata__sqlite_bind_id(st, 1, id);
	code = sqlite3_step(st);
	if (code == SQLITE_ROW)
		rc = kata__sqlite_take_fields(s, st, n, row, err);
	else if (code == SQLITE_DONE)
		rc = kata__fail(err, KATA_E_NOT_FOUND, CALLER, "%s: there is no %s '%s' in %s", s->operation,
				kata_row_kind_get_name(kind), id, s->place);
	else
		rc = kata__sqlite_fail(s, code, n->table, err);
	kata__sqlite_done(st);
	if (rc == 0)
		rc = kata__noun_check(n, row, n->table, err);
	if (rc < 0)
		kata_row_free(row);
	else
		*ret = row;
	return rc;
}

static int read_json(struct kata__sqlite *s, uint32_t kind, const char *id, char **ret, kata_error **err)
{
	kata_row *row = NULL;
	int rc = read_row(s, kind, id, &row, err);

	if (rc == 0)
		rc = kata__row_to_json_text(row, ret, err);
	kata_row_free(row);
	return rc;
}

static int check_expected(struct kata__sqlite *s, const kata_row *row, const char *expected, kata_error **err)
{
	KATA_AUTO(free) char *now = NULL;
	int rc = expected ? read_json(s, row->kind, row->id, &now, err) : 0;

	if (rc < 0 || !expected || strcmp(now, expected) == 0)
		return rc;
	return kata__fail(err, KATA_E_FENCED, CALLER, "%s '%s': another has changed it since it was read", s->operation,
			  row->id);
}

static int write_row(struct kata__sqlite *s, const kata_row *row, const char *expected, kata_error **err)
{
	const struct kata__noun *n = noun_of(row->kind);
	sqlite3_stmt *st = NULL;
	int rc = check_expected(s, row, expected, err);

	if (rc == 0)
		rc = check_parent(s, row, err);
	if (rc == 0)
		rc = kata__sqlite_prepare(s, KATA__SQL_BESIDE(row->kind, KATA__SQL_BESIDE_PUT), &st, err);
	if (rc < 0)
		return rc;
	rc = kata__sqlite_bind_fields(s, st, 1, n, row, err);
	if (rc == 0)
		rc = kata__sqlite_run(s, st, n->table, err);
	kata__sqlite_done(st);
	return rc == 0 ? kata__schema_recheck(s, err) : rc;
}

/* Children keep what they belong to, whether the caller's foreign keys hold or not. */
static int delete_row(struct kata__sqlite *s, uint32_t kind, const char *id, kata_error **err)
{
	int child = kata__row_nouns[kind].child;
	sqlite3_stmt *st = NULL;
	int rc = 0;

	if (child >= 0) {
		rc = kata__sqlite_prepare(s, KATA__SQL_BESIDE(child, KATA__SQL_BESIDE_LIST_OF), &st, err);
		if (rc < 0)
			return rc;
		kata__sqlite_bind_id(st, 2, id);
		rc = has_row(s, st, noun_of((uint32_t)child)->table, err);
	}
	if (rc > 0)
		return kata__fail(err, KATA_E_BUSY, CALLER, "%s '%s': a %s of it is in %s: remove that first",
				  s->operation, id, kata_row_kind_get_name((kata_row_kind)child), s->place);
	if (rc == 0)
		rc = kata__sqlite_run_for(s, KATA__SQL_BESIDE(kind, KATA__SQL_BESIDE_REMOVE), id, noun_of(kind)->table,
					  err);
	if (rc == 0 && sqlite3_changes(s->db) == 0)
		rc = kata__fail(err, KATA_E_NOT_FOUND, CALLER, "%s: there is no %s '%s' in %s", s->operation,
				kata_row_kind_get_name(kind), id, s->place);
	return rc == 0 ? kata__schema_recheck(s, err) : rc;
}

/* ---- the ops */

int kata__sqlite_put_row(void *self, const kata_row *row, const char *json, const char *expected, kata_error **err)
{
	struct kata__sqlite *s = self;
	int rc = kata__sqlite_enter(s, "put row", NULL, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = kata__sqlite_begin_change(s, err);
	if (rc == 0)
		rc = kata__sqlite_end_change(s, write_row(s, row, expected, err), err);
	return kata__sqlite_leave(s, rc, err);
}

int kata__sqlite_get_row(void *self, uint32_t kind, const char *id, char **ret_json, kata_error **err)
{
	struct kata__sqlite *s = self;
	KATA_AUTO(free) char *json = NULL;
	int rc = kata__sqlite_enter(s, "get row", NULL, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = kata__schema_recheck_read(s, read_json(s, kind, id, &json, err), err);
	if (rc == 0)
		*ret_json = kata__take_ptr(json);
	return kata__sqlite_leave(s, rc, err);
}

int kata__sqlite_remove_row(void *self, uint32_t kind, const char *id, kata_error **err)
{
	struct kata__sqlite *s = self;
	int rc = kata__sqlite_enter(s, "remove row", NULL, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = kata__sqlite_begin_change(s, err);
	if (rc == 0)
		rc = kata__sqlite_end_change(s, delete_row(s, kind, id, err), err);
	return kata__sqlite_leave(s, rc, err);
}

int kata__sqlite_list_rows(void *self, uint32_t kind, const char *parent_id, const char *state, char ***ret_ids,
			   kata_error **err)
{
	struct kata__sqlite *s = self;
	sqlite3_stmt *st = NULL;
	int which = parent_id ? KATA__SQL_BESIDE_LIST_OF : KATA__SQL_BESIDE_LIST;
	int rc = kata__sqlite_enter(s, "list rows", NULL, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = kata__sqlite_prepare(s, KATA__SQL_BESIDE(kind, which), &st, err);
	if (rc == 0) {
		kata__sqlite_bind_id(st, 1, state);
		if (parent_id)
			kata__sqlite_bind_id(st, 2, parent_id);
		rc = kata__sqlite_collect_ids(s, st, noun_of(kind)->table, ret_ids, err);
	}
	return kata__sqlite_leave(s, rc, err);
}
