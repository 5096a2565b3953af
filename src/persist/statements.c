/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SQL. Each statement is prepared when first needed and kept until the persistence is freed. In the texts '@'
 * stands for the quoted name of the schema; a caller's value is always a parameter. What names columns is made from the
 * tables of fields, so that the n-th parameter is the n-th field.
 *
 * Parameters of the sandbox's row: its fields from ?1, then the time, the four counts, and the generation that must
 * stand there. Of the rows below it: ?1 the sandbox, ?2 the position, then the fields from ?3.
 */
#include <string.h>

#include "base/buffer.h"
#include "persist/sqlite.h"

#define COUNTS "storage_count, nic_count, container_count, process_count"

/* In the order of take_info in sqlite_info.c. */
#define INFO                                                                                                           \
	"id, state, epoch, generation, taken_pid, taken_start_time, taken_boot_id, taken_at, owner_pid, "              \
	"owner_start_time, boot_id, vm_id, vm_uuid, vm_driver, vm_pid, vm_start_time, vm_cpus, vm_memory_mib, " COUNTS \
	", intent_count, updated_at"
#define RESERVATION                                                                                                    \
	"sandbox_id, kind, device_id, state, directory, slot, cid, tap_name, mac, owner_pid, owner_start_time, "       \
	"boot_id, "                                                                                                    \
	"reserved_at, settled_at"
/* Who holds a value by a reservation that was not undone. */
#define CLASH(column, value)                                                                                           \
	"SELECT " RESERVATION ", '" column "' FROM @.kata_reservations WHERE " column " = " value                      \
	" AND state <> 'undone'"

/* NULL: made from the fields. */
static const char *const fixed[KATA__SQL_FIXED] = {
	[KATA__SQL_SAVEPOINT] = "SAVEPOINT kata_persistence",
	[KATA__SQL_RELEASE] = "RELEASE kata_persistence",
	[KATA__SQL_ROLLBACK_TO] = "ROLLBACK TO kata_persistence",
	[KATA__SQL_WITNESS] = "SELECT 1 FROM @.sqlite_master LIMIT 1",
	[KATA__SQL_CLAIM] = "DELETE FROM @.kata_sandboxes WHERE 0",
	[KATA__SQL_RESERVE] = "INSERT INTO @.kata_sandboxes"
			      " (id, state, updated_at, taken_pid, taken_start_time, taken_boot_id, taken_at)"
			      " VALUES (?1, 'new', ?5, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO NOTHING",
	[KATA__SQL_HEAD] = "SELECT epoch, taken_pid, taken_start_time, taken_boot_id, taken_at, state = 'new', "
			   "generation, intent_count, " COUNTS " FROM @.kata_sandboxes WHERE id = ?1",
	[KATA__SQL_DELETE] = "DELETE FROM @.kata_sandboxes WHERE id = ?1",
	[KATA__SQL_LIST] = "SELECT id FROM @.kata_sandboxes ORDER BY id",
	[KATA__SQL_INFO] = "SELECT " INFO " FROM @.kata_sandboxes WHERE id = ?1",
	[KATA__SQL_INFOS] = "SELECT " INFO " FROM @.kata_sandboxes WHERE id > ?1 ORDER BY id LIMIT ?2",
	[KATA__SQL_SET_EPOCH] = "UPDATE @.kata_sandboxes SET epoch = ?2, taken_pid = ?3, taken_start_time = ?4,"
				" taken_boot_id = ?5, taken_at = ?6 WHERE id = ?1 AND epoch = ?7",
	[KATA__SQL_RESERVATION_PUT] = "INSERT INTO @.kata_reservations (sandbox_id, kind, device_id, state, directory, "
				      "slot, cid, tap_name, mac,"
				      " owner_pid, owner_start_time, boot_id, reserved_at)"
				      " VALUES (?1, ?2, ?3, 'intent', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
	[KATA__SQL_RESERVATION_FIND] = "SELECT " RESERVATION " FROM @.kata_reservations"
				       " WHERE sandbox_id = ?1 AND kind = ?2 AND device_id = ?3",
	[KATA__SQL_RESERVATION_CLASH] = CLASH("cid", "?1") " UNION ALL " CLASH("directory", "?2") " UNION ALL " CLASH(
		"tap_name", "?3") " UNION ALL " CLASH("mac", "?4") " LIMIT 1",
	[KATA__SQL_NIC_CLASH] = "SELECT sandbox_id, id FROM @.kata_nics WHERE tap_name = ?1"
				" UNION ALL SELECT sandbox_id, id FROM @.kata_nics WHERE mac = ?2 LIMIT 1",
	[KATA__SQL_DEVICE_FIND] =
		"SELECT 1 FROM @.kata_storages WHERE ?2 = 'storage' AND sandbox_id = ?1 AND id = ?3 UNION ALL "
		"SELECT 1 FROM @.kata_nics WHERE ?2 = 'nic' AND sandbox_id = ?1 AND id = ?3",
	[KATA__SQL_RESERVATION_SETTLE] = "UPDATE @.kata_reservations SET state = ?4, settled_at = ?5"
					 " WHERE sandbox_id = ?1 AND kind = ?2 AND device_id = ?3 AND state = 'intent'",
	[KATA__SQL_RESERVATIONS_DONE] =
		"UPDATE @.kata_reservations SET state = 'done', settled_at = ?3 WHERE sandbox_id = ?1"
		" AND state = 'intent' AND (kind = 'vm' AND device_id = ?2"
		" OR kind = 'storage' AND device_id IN (SELECT id FROM @.kata_storages WHERE sandbox_id = ?1 AND state "
		"= "
		"'plugged')"
		" OR kind = 'nic' AND device_id IN (SELECT id FROM @.kata_nics WHERE sandbox_id = ?1 AND state = "
		"'plugged'))",
	[KATA__SQL_RESERVATIONS_SWEEP] = "DELETE FROM @.kata_reservations WHERE sandbox_id = ?1 AND state = 'undone'",
	[KATA__SQL_RESERVATIONS_GIVE_UP] =
		"DELETE FROM @.kata_reservations WHERE sandbox_id = ?1 AND kind = ?2 AND state = 'done' AND device_id "
		"NOT IN"
		" (SELECT id FROM @.kata_storages WHERE ?2 = 'storage' AND sandbox_id = ?1 UNION ALL"
		" SELECT id FROM @.kata_nics WHERE ?2 = 'nic' AND sandbox_id = ?1)",
	[KATA__SQL_RESERVATIONS_DELETE] = "DELETE FROM @.kata_reservations WHERE sandbox_id = ?1",
	[KATA__SQL_RESERVATIONS_COUNT] =
		"UPDATE @.kata_sandboxes SET intent_count ="
		" (SELECT count(*) FROM @.kata_reservations WHERE sandbox_id = ?1 AND state = 'intent') WHERE id = ?1",
	[KATA__SQL_RESERVATIONS_LIST] = "SELECT " RESERVATION " FROM @.kata_reservations"
					" WHERE sandbox_id >= coalesce(?1, '') AND (?1 IS NULL OR sandbox_id = ?1)"
					" ORDER BY sandbox_id, kind, device_id",
	[KATA__SQL_NETWORKS_DELETE] = "DELETE FROM @.kata_networks WHERE sandbox_id = ?1",
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

/* Of what no key is part of, but `but`; `indexed` also what an index has. */
static void add_assignments(struct kata__buffer *b, const struct kata__noun *n, size_t from, const char *but,
			    bool indexed)
{
	for (size_t i = 0; i < n->field_count; i++) {
		const struct kata__field *f = &n->fields[i];

		if (!f->key && (indexed || !f->indexed) && !(but && strcmp(f->name, but) == 0))
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
	size_t at = n->field_count + 1, base = at + KATA__NOUNS + 1;

	switch (sql) {
	case KATA__SQL_UPDATE_SAME:
		kata__buffer_printf(b, "UPDATE @.kata_sandboxes SET updated_at = ?%zu", at);
		add_assignments(b, n, 1, "epoch", false);
		kata__buffer_printf(b, " WHERE id = ?1 AND epoch = ?3");
		add_counts(b, " AND ");
		kata__buffer_printf(b, " AND intent_count = 0 AND (?%zu < 0 OR generation = ?%zu)", base, base);
		break;
	case KATA__SQL_UPDATE:
		kata__buffer_printf(b,
				    "UPDATE @.kata_sandboxes SET updated_at = ?%zu"
				    ", taken_pid = CASE WHEN epoch < ?3 THEN ?6 ELSE taken_pid END"
				    ", taken_start_time = CASE WHEN epoch < ?3 THEN ?7 ELSE taken_start_time END"
				    ", taken_boot_id = CASE WHEN epoch < ?3 THEN ?8 ELSE taken_boot_id END"
				    ", taken_at = CASE WHEN epoch < ?3 THEN ?%zu ELSE taken_at END",
				    at, at);
		add_assignments(b, n, 1, NULL, false);
		add_counts(b, ", ");
		kata__buffer_printf(b, " WHERE id = ?1 AND epoch <= ?3");
		break;
	case KATA__SQL_INSERT:
		kata__buffer_printf(b, "INSERT INTO @.kata_sandboxes (");
		add_names(b, n);
		kata__buffer_printf(b, ", updated_at, " COUNTS
				       ", taken_pid, taken_start_time, taken_boot_id, taken_at) VALUES (");
		add_parameters(b, 1, n->field_count + 1 + KATA__NOUNS);
		kata__buffer_printf(b, ", ?6, ?7, ?8, ?%zu) ON CONFLICT (id) DO NOTHING", at);
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
			if (n->fields[i].key || n->fields[i].indexed)
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

/* A row beside the sandboxes. */
static void build_beside(struct kata__buffer *b, const struct kata__row_noun *r, int which)
{
	const struct kata__noun *n = &r->noun;

	switch (which) {
	case KATA__SQL_BESIDE_PUT:
		kata__buffer_printf(b, "INSERT INTO @.%s (", n->table);
		add_names(b, n);
		kata__buffer_printf(b, ") VALUES (");
		add_parameters(b, 1, n->field_count);
		kata__buffer_printf(b, ") ON CONFLICT (id) DO UPDATE SET id = ?1");
		add_assignments(b, n, 1, NULL, true);
		break;
	case KATA__SQL_BESIDE_GET:
		kata__buffer_printf(b, "SELECT ");
		add_names(b, n);
		kata__buffer_printf(b, " FROM @.%s WHERE id = ?1", n->table);
		break;
	case KATA__SQL_BESIDE_HAS:
		kata__buffer_printf(b, "SELECT 1 FROM @.%s WHERE id = ?1", n->table);
		break;
	case KATA__SQL_BESIDE_REMOVE:
		kata__buffer_printf(b, "DELETE FROM @.%s WHERE id = ?1", n->table);
		break;
	default: /* KATA__SQL_BESIDE_LIST, KATA__SQL_BESIDE_LIST_OF */
		kata__buffer_printf(b, "SELECT id FROM @.%s WHERE (?1 IS NULL OR state = ?1)", n->table);
		if (which == KATA__SQL_BESIDE_LIST_OF)
			kata__buffer_printf(b, " AND %s = ?2", r->parent);
		kata__buffer_printf(b, " ORDER BY id");
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
	else if (sql >= KATA__SQL_NOUNS_END)
		build_beside(&b, &kata__row_nouns[(sql - KATA__SQL_NOUNS_END) / KATA__SQL_PER_BESIDE],
			     (sql - KATA__SQL_NOUNS_END) % KATA__SQL_PER_BESIDE);
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
	/* Whether the schema is ours is asked after the compilation: a change from here on makes SQLite compile again,
	 * which shows. */
	return sql <= KATA__SQL_WITNESS ? 0 : kata__schema_verify_still(s, err);
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
	int code, rc;

	do /* where the caller has PRAGMA count_changes, a change answers with a row */
		code = sqlite3_step(st);
	while (code == SQLITE_ROW);
	rc = code == SQLITE_DONE ? 0 : kata__sqlite_fail(s, code, table, err);
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

/* SQLite asks the busy handler only for a transaction's first lock: one that has read and then wants to write fails at
 * once while another writes. So the right to write comes first; its statement is compiled before, for that reads. */
int kata__sqlite_begin_change(struct kata__sqlite *s, kata_error **err)
{
	sqlite3_stmt *claim = NULL;
	int rc = kata__sqlite_prepare(s, KATA__SQL_CLAIM, &claim, err);

	if (rc == 0)
		rc = kata__sqlite_savepoint(s, err);
	if (rc < 0)
		return rc;
	rc = kata__sqlite_run(s, claim, "kata_sandboxes", err);
	if (rc < 0)
		kata__sqlite_rollback(s, err);
	return rc;
}

int kata__sqlite_end_change(struct kata__sqlite *s, int rc, kata_error **err)
{
	if (rc == 0)
		rc = kata__sqlite_release(s, err);
	if (rc < 0)
		kata__sqlite_rollback(s, err);
	return rc;
}
