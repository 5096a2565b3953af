/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Databases of older versions, as those versions wrote them (data/schema-N.sql: a dump), brought forward: every row is
 * still there, the tables are those that are made today, and what is not exactly that version is left alone.
 */
#include "base/fd.h"
#include "persist/schema.h"
#include "unit/persist/persist_test.h"

/* A caller whose database is the fixture of `version`; `more` is run on it. */
static void old_open(struct caller *c, int version, const char *more)
{
	char *path = kata__format("%s/tests/unit/persist/data/schema-%d.sql", KATA_SOURCE_DIR, version);
	char *text = NULL;

	memset(c, 0, sizeof(*c));
	fixture_init(&c->f, true, 0);
	cr_assert_eq(kata__read_file(path, 1 << 20, &text, NULL, NULL), 0, "%s", path);
	free(path);
	path = fixture_path(&c->f, "caller.db");
	cr_assert_eq(sqlite3_open(path, &c->db), SQLITE_OK);
	free(path);
	sql(c->db, text);
	free(text);
	if (more)
		sql(c->db, more);
	fixture_assert_ok(kata_persistence_new_sqlite_attached(c->f.context, c->db, NULL, &c->p, &c->err), c->err);
}

static char *schema_text(sqlite3 *db)
{
	return sql_text(
		db, "SELECT group_concat(type || ' ' || sql, char(10)) FROM"
		    " (SELECT type, sql FROM sqlite_master WHERE name LIKE 'kata%' AND sql NOT NULL ORDER BY name)");
}

static char *json_of(struct caller *c, const char *id)
{
	kata_record *r = NULL;
	char *json;

	fixture_assert_ok(kata__persistence_load(c->p, id, &r, &c->err), c->err);
	json = kata_record_to_json(r);
	kata__record_free(r);
	return json;
}

Test(migration, of_version_1_keeps_every_row_and_makes_the_tables_of_today)
{
	static const char *const containers[] = {"app", "sidecar", NULL};
	struct record_wish wish = {.id = "pod", .epoch = 4, .containers = containers, .disks = 2, .nics = 3};
	kata_record *expected = sample_record(&wish);
	char *before = kata_record_to_json(expected), *after, *made, *migrated;
	struct caller c, fresh;
	char **ids = NULL;

	old_open(&c, 1, NULL);
	fixture_assert_fails(caller_load(&c, "pod"), KATA_E_VERSION, c.err);
	assert_message_has(c.err, "kata_persistence_create_schema");
	error_clear(&c.err);
	fixture_assert_ok(kata_persistence_create_schema(c.p, &c.err), c.err);
	after = json_of(&c, "pod");
	cr_assert_str_eq(after, before);
	fixture_assert_ok(caller_load(&c, "bare"), c.err);
	fixture_assert_ok(caller_load(&c, "let-go"), c.err);
	fixture_assert_ok(kata_persistence_list_sandboxes(c.p, &ids, &c.err), c.err);
	cr_assert_eq(kata__strv_length((const char *const *)ids), 4);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM own"), 1, "the caller's table is untouched");
	cr_assert_eq(sql_int(c.db, "SELECT taken_at FROM kata_sandboxes WHERE id = 'pod'"), 1700000000);
	caller_open(&fresh);
	made = schema_text(fresh.db);
	migrated = schema_text(c.db);
	cr_assert_str_eq(migrated, made);
	kata_string_list_free(ids);
	kata__record_free(expected);
	free(before);
	free(after);
	free(made);
	free(migrated);
	caller_close(&fresh);
	caller_close(&c);
}

Test(migration, leaves_records_that_may_be_stored_and_taken_over)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;

	old_open(&c, 1, NULL);
	fixture_assert_ok(kata_persistence_create_schema(c.p, &c.err), c.err);
	fixture_assert_fails(caller_store(&c, &wish), KATA_E_FENCED, c.err); /* of epoch 1, the record is of 4 */
	wish.epoch = 4;
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	fixture_assert_ok(kata__persistence_set_epoch(c.p, "let-go", 2, 3, &c.err), c.err);
	fixture_assert_ok(kata_persistence_delete_sandbox(c.p, "reserved", &c.err), c.err);
	caller_close(&c);
}

Test(migration, goes_with_the_callers_rollback_and_works_the_next_time)
{
	struct caller c;
	char *before, *after;

	old_open(&c, 1, NULL);
	before = schema_text(c.db);
	sql(c.db, "BEGIN; INSERT INTO own VALUES ('with it')");
	fixture_assert_ok(kata_persistence_create_schema(c.p, &c.err), c.err);
	fixture_assert_ok(caller_load(&c, "pod"), c.err);
	sql(c.db, "ROLLBACK");
	after = schema_text(c.db);
	cr_assert_str_eq(after, before);
	fixture_assert_fails(caller_load(&c, "pod"), KATA_E_VERSION, c.err);
	error_clear(&c.err);
	fixture_assert_ok(kata_persistence_create_schema(c.p, &c.err), c.err);
	fixture_assert_ok(caller_load(&c, "pod"), c.err);
	free(before);
	free(after);
	caller_close(&c);
}

Test(migration, bears_foreign_keys_and_recursive_triggers)
{
	struct caller c;

	old_open(&c, 1, "PRAGMA foreign_keys = ON; PRAGMA recursive_triggers = ON");
	fixture_assert_ok(kata_persistence_create_schema(c.p, &c.err), c.err);
	fixture_assert_ok(caller_load(&c, "pod"), c.err);
	fixture_assert_ok(kata_persistence_delete_sandbox(c.p, "pod", &c.err), c.err);
	caller_close(&c);
}

Test(migration, of_a_file_of_ours_happens_when_it_is_opened)
{
	struct caller c;
	kata_persistence *ours = NULL;
	kata_record *r = NULL;
	char *path;

	old_open(&c, 1, NULL);
	path = fixture_path(&c.f, "caller.db");
	fixture_assert_ok(kata_persistence_new_sqlite(c.f.context, path, &ours, &c.err), c.err);
	fixture_assert_ok(kata__persistence_load(ours, "pod", &r, &c.err), c.err);
	kata__record_free(r);
	kata_persistence_free(ours);
	free(path);
	caller_close(&c);
}

/* ---- what is not exactly that version */

static void assert_left_alone(const char *more, int status, const char *part)
{
	struct caller c;
	char *before, *after;
	int64_t rows;

	old_open(&c, 1, "CREATE TABLE log (what)");
	sql(c.db, more);
	before = schema_text(c.db);
	rows = sql_int(c.db, "SELECT count(*) FROM log");
	fixture_assert_fails(kata_persistence_create_schema(c.p, &c.err), status, c.err);
	assert_message_has(c.err, part);
	after = schema_text(c.db);
	cr_assert_str_eq(after, before);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM log"), rows);
	cr_assert_eq(sqlite3_get_autocommit(c.db), 1);
	free(before);
	free(after);
	caller_close(&c);
}

Test(migration, of_tables_that_were_changed_by_hand_is_refused)
{
	assert_left_alone("ALTER TABLE kata_nics ADD COLUMN speed INTEGER", KATA_E_CORRUPT,
			  "kata_nics is not the table");
	assert_left_alone("ALTER TABLE kata_sandboxes ADD COLUMN generation INTEGER NOT NULL DEFAULT 0", KATA_E_CORRUPT,
			  "kata_sandboxes is not the table");
	assert_left_alone("DROP VIEW kata_v_sandbox", KATA_E_CORRUPT, "view kata_v_sandbox is missing");
	assert_left_alone("DROP TABLE kata_reservations", KATA_E_CORRUPT, "kata_reservations is missing");
	assert_left_alone("DROP TABLE kata_reservations; CREATE VIEW kata_reservations AS SELECT 1", KATA_E_CORRUPT,
			  "view kata_reservations is not the table");
}

Test(migration, with_a_trigger_on_our_tables_is_refused_before_it_runs)
{
	assert_left_alone("CREATE TRIGGER t AFTER UPDATE ON kata_schema BEGIN INSERT INTO log VALUES ('x'); END",
			  KATA_E_CORRUPT, "trigger 't' hangs on table kata_schema");
	assert_left_alone("CREATE TRIGGER t AFTER DELETE ON kata_reservations BEGIN INSERT INTO log VALUES ('x'); END",
			  KATA_E_CORRUPT, "trigger 't'");
}

Test(migration, where_a_name_of_today_is_taken_is_refused)
{
	assert_left_alone("CREATE TABLE kata_networks (mine)", KATA_E_CORRUPT, "kata_networks is not the table");
	assert_left_alone("CREATE VIEW kata_v_held AS SELECT 1", KATA_E_CORRUPT, "view kata_v_held");
}

Test(migration, of_a_version_that_its_tables_are_not_of_is_refused)
{
	assert_left_alone("UPDATE kata_schema SET version = 2", KATA_E_CORRUPT, "another version");
	assert_left_alone("UPDATE kata_schema SET version = 99", KATA_E_VERSION, "use a newer library");
}

Test(migration, while_the_caller_reads_our_tables_is_busy)
{
	sqlite3_stmt *st = NULL;
	struct caller c;

	old_open(&c, 1, NULL);
	cr_assert_eq(sqlite3_prepare_v2(c.db, "SELECT id FROM kata_reservations, kata_nics", -1, &st, NULL), SQLITE_OK);
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	fixture_assert_fails(kata_persistence_create_schema(c.p, &c.err), KATA_E_BUSY, c.err);
	sqlite3_finalize(st);
	error_clear(&c.err);
	fixture_assert_ok(kata_persistence_create_schema(c.p, &c.err), c.err);
	caller_close(&c);
}

/* The n-th statement of the migration is denied: nothing of it stays. */
struct nth {
	int at;
};

static int deny_nth(void *user, int action, const char *a, const char *b, const char *schema, const char *trigger)
{
	struct nth *n = user;
	bool writes = action != SQLITE_SELECT && action != SQLITE_READ && action != SQLITE_FUNCTION &&
		      action != SQLITE_SAVEPOINT && action != SQLITE_RECURSIVE;

	return writes && --n->at == 0 ? SQLITE_DENY : SQLITE_OK;
}

Test(migration, that_fails_anywhere_leaves_the_old_tables)
{
	struct caller c;
	char *before, *after;
	int failures = 0;

	old_open(&c, 1, NULL);
	before = schema_text(c.db);
	for (int at = 1;; at++) {
		struct nth n = {at};
		int rc;

		error_clear(&c.err);
		sqlite3_set_authorizer(c.db, deny_nth, &n);
		rc = kata_persistence_create_schema(c.p, &c.err);
		sqlite3_set_authorizer(c.db, NULL, NULL);
		if (rc == 0)
			break;
		failures++;
		after = schema_text(c.db);
		cr_assert_str_eq(after, before, "at %d", at);
		cr_assert_eq(sql_int(c.db, "SELECT version FROM kata_schema"), 1);
		cr_assert_eq(sqlite3_get_autocommit(c.db), 1);
		free(after);
	}
	cr_assert_gt(failures, 20);
	fixture_assert_ok(caller_load(&c, "pod"), c.err);
	free(before);
	caller_close(&c);
}

/* ---- records as JSON */

Test(migration, of_released_json_reads_version_1)
{
	char *path = kata__format("%s/tests/fuzz/corpus/record/full.json", KATA_SOURCE_DIR);
	kata_record *r = NULL;
	kata_error *err = NULL;
	char *text = NULL, *out;

	cr_assert_eq(kata__read_file(path, 1 << 20, &text, NULL, NULL), 0);
	cr_assert_not_null(strstr(text, "\"version\":1"));
	fixture_assert_ok(kata__record_from_json(text, strlen(text), &r, &err), err);
	cr_assert_eq(r->generation, 0);
	out = kata_record_to_json(r);
	cr_assert_not_null(strstr(out, "\"version\":2"));
	kata__record_free(r);
	free(out);
	free(text);
	free(path);
}
