/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SQL. Each statement is prepared when first needed and kept until the persistence is freed. In the texts '@'
 * stands for the quoted name of the schema; a caller's value is always a parameter. What names columns is made from the
 * tables of fields, so that the n-th parameter is the n-th field.
 *
 * Parameters of the sandbox's row: its fields from ?1, then the time, then the four counts. Of the rows below it: ?1
 * the sandbox, ?2 the position, then the fields from ?3.
 */
#include <string.h>

#include "base/buffer.h"
#include "persist/sqlite.h"

#define COUNTS "storage_count, nic_count, container_count, process_count"

/* NULL: made from the fields. */
static const char *const fixed[KATA__SQL_FIXED] = {
	[KATA__SQL_SAVEPOINT] = "SAVEPOINT kata_persistence",
	[KATA__SQL_RELEASE] = "RELEASE kata_persistence",
	[KATA__SQL_ROLLBACK_TO] = "ROLLBACK TO kata_persistence",
	[KATA__SQL_RESERVE] = "INSERT INTO @.kata_sandboxes (id, state, taken_pid, taken_at, updated_at)"
			      " VALUES (?1, 'new', ?2, ?3, ?3) ON CONFLICT (id) DO NOTHING",
	[KATA__SQL_HEAD] =
		"SELECT epoch, taken_pid, taken_at, state = 'new', " COUNTS " FROM @.kata_sandboxes WHERE id = ?1",
	[KATA__SQL_DELETE] = "DELETE FROM @.kata_sandboxes WHERE id = ?1",
	[KATA__SQL_LIST] = "SELECT id FROM @.kata_sandboxes ORDER BY id",
	[KATA__SQL_SET_EPOCH] = "UPDATE @.kata_sandboxes SET epoch = ?3, taken_pid = ?4, taken_at = ?5"
				" WHERE id = ?1 AND epoch = ?2",
	[KATA__SQL_RESERVATION_INSERT] =
		"INSERT OR REPLACE INTO @.kata_reservations (kind, value, sandbox_id, device_id)"
		" VALUES (?1, ?2, ?3, ?4)",
	[KATA__SQL_RESERVATION_DELETE] = "DELETE FROM @.kata_reservations WHERE sandbox_id = ?1",
	[KATA__SQL_LIST_ALL_CONTAINERS] = "SELECT DISTINCT id FROM @.kata_containers ORDER BY id",
	[KATA__SQL_LIST_CONTAINERS] = "SELECT id FROM @.kata_containers WHERE sandbox_id = ?1 ORDER BY id",
	[KATA__SQL_FIND_CONTAINER] =
		"SELECT sandbox_id FROM @.kata_containers WHERE id = ?1 ORDER BY sandbox_id LIMIT 2",
};

/* Builders write into b and need not check: the cap is far off, and out of memory shows at the end. */
static void add_names(struct kata__buffer *b, const struct kata__noun *n)
{
	for (size_t i = 0; i < n->field_count; i++)
		kata__buffer_printf(b, "%s%s", i ? ", " : "", n->fields[i].name);
}

static void add_parameters(struct kata__buffer *b, size_t from, size_t count)
{
	for (size_t i = 0; i < count; i++)
		kata__buffer_printf(b, "%s?%zu", i ? ", " : "", from + i);
}

/* Of what no key is part of, but `but`; `reserving` also what holds a reservation. */
static void add_assignments(struct kata__buffer *b, const struct kata__noun *n, size_t from, const char *but,
			    bool reserving)
{
	for (size_t i = 0; i < n->field_count; i++) {
		const struct kata__field *f = &n->fields[i];

		if (!f->key && (reserving || !f->reserves) && !(but && strcmp(f->name, but) == 0))
			kata__buffer_printf(b, ", %s = ?%zu", f->name, from + i);
	}
}

static void add_counts(struct kata__buffer *b, const char *separator)
{
	for (size_t i = 0; i < KATA__NOUNS; i++)
		kata__buffer_printf(b, "%s%s = ?%zu", separator, kata__nouns[i].count,
				    kata__sandbox_noun.field_count + 2 + i);
}

static void build_sandbox(struct kata__buffer *b, int sql)
{
	const struct kata__noun *n = &kata__sandbox_noun;
	size_t at = n->field_count + 1;

	switch (sql) {
	case KATA__SQL_UPDATE_SAME:
		kata__buffer_printf(b, "UPDATE @.kata_sandboxes SET updated_at = ?%zu", at);
		add_assignments(b, n, 1, "epoch", false);
		kata__buffer_printf(b, " WHERE id = ?1 AND epoch = ?3");
		add_counts(b, " AND ");
		break;
	case KATA__SQL_UPDATE:
		kata__buffer_printf(b,
				    "UPDATE @.kata_sandboxes SET updated_at = ?%zu"
				    ", taken_pid = CASE WHEN epoch < ?3 THEN ?6 ELSE taken_pid END"
				    ", taken_at = CASE WHEN epoch < ?3 THEN ?%zu ELSE taken_at END",
				    at, at);
		add_assignments(b, n, 1, NULL, false);
		add_counts(b, ", ");
		kata__buffer_printf(b, " WHERE id = ?1 AND epoch <= ?3");
		break;
	case KATA__SQL_INSERT:
		kata__buffer_printf(b, "INSERT INTO @.kata_sandboxes (");
		add_names(b, n);
		kata__buffer_printf(b, ", updated_at, " COUNTS ", taken_pid, taken_at) VALUES (");
		add_parameters(b, 1, n->field_count + 1 + KATA__NOUNS);
		kata__buffer_printf(b, ", ?6, ?%zu) ON CONFLICT (id) DO NOTHING", at);
		break;
	default: /* KATA__SQL_LOAD */
		kata__buffer_printf(b, "SELECT ");
		add_names(b, n);
		kata__buffer_printf(b, " FROM @.kata_sandboxes WHERE id = ?1");
		break;
	}
}

static void build_row(struct kata__buffer *b, const struct kata__noun *n, int which)
{
	switch (which) {
	case KATA__SQL_ROW_INSERT:
		kata__buffer_printf(b, "INSERT INTO @.%s (sandbox_id, position, ", n->table);
		add_names(b, n);
		kata__buffer_printf(b, ") VALUES (");
		add_parameters(b, 1, n->field_count + 2);
		kata__buffer_printf(b, ") ON CONFLICT DO UPDATE SET position = ?2");
		add_assignments(b, n, 3, NULL, true);
		break;
	case KATA__SQL_ROW_UPDATE:
		kata__buffer_printf(b, "UPDATE @.%s SET position = ?2", n->table);
		add_assignments(b, n, 3, NULL, false);
		kata__buffer_printf(b, " WHERE sandbox_id = ?1");
		for (size_t i = 0; i < n->field_count; i++)
			if (n->fields[i].key || n->fields[i].reserves)
				kata__buffer_printf(b, " AND %s %s ?%zu", n->fields[i].name,
						    n->fields[i].key ? "=" : "IS", i + 3);
		break;
	case KATA__SQL_ROWS_DELETE:
		kata__buffer_printf(b, "DELETE FROM @.%s WHERE sandbox_id = ?1", n->table);
		break;
	default: /* KATA__SQL_ROWS_LOAD */
		kata__buffer_printf(b, "SELECT ");
		add_names(b, n);
		kata__buffer_printf(b, " FROM @.%s WHERE sandbox_id = ?1 ORDER BY position, %s LIMIT %zu", n->table,
				    n->fields[0].name, n->max + 1);
		break;
	}
}

static char *build(int sql)
{
	struct kata__buffer b;

	if (sql < KATA__SQL_FIXED && fixed[sql])
		return strdup(fixed[sql]);
	kata__buffer_init(&b, 16384);
	if (sql < KATA__SQL_FIXED)
		build_sandbox(&b, sql);
	else
		build_row(&b, &kata__nouns[(sql - KATA__SQL_FIXED) / KATA__SQL_PER_NOUN],
			  (sql - KATA__SQL_FIXED) % KATA__SQL_PER_NOUN);
	if (kata__buffer_append(&b, "", 1) < 0) {
		kata__buffer_deinit(&b);
		return NULL;
	}
	return (char *)b.data;
}

char *kata__sqlite_expand(const struct kata__sqlite *s, const char *text)
{
	size_t width = strlen(s->quoted), count = 0;
	char *out, *p;

	for (const char *t = strchr(text, '@'); t; t = strchr(t + 1, '@'))
		count++;
	out = malloc(strlen(text) + count * width + 1);
	if (!out)
		return NULL;
	for (p = out; *text; text++) {
		if (*text != '@') {
			*p++ = *text;
			continue;
		}
		memcpy(p, s->quoted, width);
		p += width;
	}
	*p = '\0';
	return out;
}

static int prepare_new(struct kata__sqlite *s, int sql, kata_error **err)
{
	KATA_AUTO(free) char *text = build(sql);
	KATA_AUTO(free) char *full = text ? kata__sqlite_expand(s, text) : NULL;
	int code;

	if (!full)
		return kata__fail_no_memory(err);
	code = sqlite3_prepare_v3(s->db, full, -1, SQLITE_PREPARE_PERSISTENT, &s->statements[sql], NULL);
	if (code != SQLITE_OK)
		return kata__sqlite_fail(s, code, NULL, err);
	if (sql <= KATA__SQL_ROLLBACK_TO)
		return 0;
	/* The schema is looked at after the compilation: a change from here on makes SQLite compile again, which shows.
	 */
	s->verified = false;
	return kata__schema_verify(s, err);
}

int kata__sqlite_prepare(struct kata__sqlite *s, int sql, sqlite3_stmt **ret, kata_error **err)
{
	int rc = s->statements[sql] ? 0 : prepare_new(s, sql, err);

	if (rc == 0)
		*ret = s->statements[sql];
	return rc;
}

void kata__sqlite_done(sqlite3_stmt *st)
{
	if (!st)
		return;
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
}

int kata__sqlite_run(struct kata__sqlite *s, sqlite3_stmt *st, const char *table, kata_error **err)
{
	int code = sqlite3_step(st);
	int rc = code == SQLITE_DONE ? 0 : kata__sqlite_fail(s, code, table, err);

	sqlite3_reset(st);
	return rc;
}

int kata__sqlite_exec(struct kata__sqlite *s, int sql, kata_error **err)
{
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_prepare(s, sql, &st, err);

	return rc < 0 ? rc : kata__sqlite_run(s, st, NULL, err);
}

int kata__sqlite_exec_text(struct kata__sqlite *s, const char *text, const char *table, kata_error **err)
{
	KATA_AUTO(free) char *full = kata__sqlite_expand(s, text);
	sqlite3_stmt *st = NULL;
	int code, rc;

	if (!full)
		return kata__fail_no_memory(err);
	code = sqlite3_prepare_v2(s->db, full, -1, &st, NULL);
	if (code != SQLITE_OK)
		return kata__sqlite_fail(s, code, table, err);
	rc = kata__sqlite_run(s, st, table, err);
	sqlite3_finalize(st);
	return rc;
}

bool kata__sqlite_schema_changed(struct kata__sqlite *s)
{
	int count = 0;

	for (size_t i = 0; i < KATA__SQL_COUNT; i++)
		if (s->statements[i])
			count += sqlite3_stmt_status(s->statements[i], SQLITE_STMTSTATUS_REPREPARE, 1);
	return count > 0;
}

void kata__sqlite_finalize(struct kata__sqlite *s)
{
	for (size_t i = 0; i < KATA__SQL_COUNT; i++) {
		sqlite3_finalize(s->statements[i]);
		s->statements[i] = NULL;
	}
}

int kata__sqlite_savepoint(struct kata__sqlite *s, kata_error **err)
{
	return kata__sqlite_exec(s, KATA__SQL_SAVEPOINT, err);
}

int kata__sqlite_release(struct kata__sqlite *s, kata_error **err)
{
	return kata__sqlite_exec(s, KATA__SQL_RELEASE, err);
}

/* Three ends. The savepoint is undone and gone. SQLite rolled everything back by itself (a full disk, an I/O error),
 * savepoint included. Or, on a damaged database, nothing can be undone singly: then the transaction, where our
 * savepoint began it, is ended as a whole, and the caller's own is for him to end. */
void kata__sqlite_rollback(struct kata__sqlite *s, kata_error **err)
{
	bool undone = kata__sqlite_exec(s, KATA__SQL_ROLLBACK_TO, NULL) == 0 && kata__sqlite_release(s, NULL) == 0;

	if (undone)
		return;
	if (!s->in_transaction && !sqlite3_get_autocommit(s->db))
		sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
	else if (err && !sqlite3_get_autocommit(s->db))
		kata__error_set_hint(*err, "the transaction is in doubt: roll it back");
}
