/* SPDX-License-Identifier: Apache-2.0 */
/* The schema: what it consists of, versions, migrations, and databases that only pretend to hold it. */
#include "persist/schema.h"
#include "unit/persist/persist_test.h"

/* A persistence on a database whose content is `text`, without creating the schema. */
static void hostile_open(struct caller *c, const char *text)
{
	memset(c, 0, sizeof(*c));
	fixture_init(&c->f, true, 0);
	cr_assert_eq(sqlite3_open(":memory:", &c->db), SQLITE_OK);
	sql(c->db, text);
	fixture_assert_ok(kata_persistence_new_sqlite_attached(c->f.context, c->db, NULL, &c->p, &c->err), c->err);
}

/* Nothing works and says so, and the database is as it was. */
static void assert_refused(const char *text, int status, const char *part)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;
	char *before, *after;
	int64_t changes;

	hostile_open(&c, text);
	changes = sqlite3_total_changes64(c.db);
	before = sql_text(c.db, "SELECT group_concat(type || name || coalesce(sql, '')) FROM sqlite_master");
	fixture_assert_fails(kata_persistence_create_schema(c.p, &c.err), status, c.err);
	assert_message_has(c.err, part);
	fixture_assert_fails(caller_store(&c, &wish), status, c.err);
	fixture_assert_fails(caller_load(&c, "pod"), status, c.err);
	error_clear(&c.err);
	fixture_assert_fails(kata_persistence_create_sandbox(c.p, "pod", &c.err), status, c.err);
	after = sql_text(c.db, "SELECT group_concat(type || name || coalesce(sql, '')) FROM sqlite_master");
	cr_assert_str_eq(after, before);
	cr_assert_eq(sqlite3_total_changes64(c.db), changes);
	free(before);
	free(after);
	caller_close(&c);
}

#define VERSION_TABLE                                                                                                  \
	"CREATE TABLE kata_schema (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL) STRICT;"

Test(schema, missing_tables_ask_for_create_schema)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;

	hostile_open(&c, "CREATE TABLE own (x)");
	fixture_assert_fails(caller_store(&c, &wish), KATA_E_STATE, c.err);
	assert_message_has(c.err, "kata_persistence_create_schema");
	fixture_assert_fails(caller_load(&c, "pod"), KATA_E_STATE, c.err);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM sqlite_master"), 1);
	caller_close(&c);
}

Test(schema, creating_twice_changes_nothing)
{
	struct caller c;
	int64_t changes;

	caller_open(&c);
	changes = sqlite3_total_changes64(c.db);
	fixture_assert_ok(kata_persistence_create_schema(c.p, &c.err), c.err);
	cr_assert_eq(sqlite3_total_changes64(c.db), changes);
	cr_assert_eq(sql_int(c.db, "SELECT version FROM kata_schema"), KATA_SCHEMA_VERSION);
	caller_close(&c);
}

/* The tables of fields and the schema are two texts: they must agree. */
Test(schema, every_field_has_a_column_of_its_type)
{
	struct caller c;

	caller_open(&c);
	for (int i = -1; i < KATA__NOUNS; i++) {
		const struct kata__noun *n = i < 0 ? &kata__sandbox_noun : &kata__nouns[i];

		for (size_t k = 0; k < n->field_count; k++) {
			char *q = kata__format("SELECT type FROM pragma_table_info('%s') WHERE name = '%s'", n->table,
					       n->fields[k].name);
			char *type = sql_text(c.db, q);

			cr_assert_str_eq(type, kata__field_is_text(&n->fields[k]) ? "TEXT" : "INTEGER", "%s.%s",
					 n->table, n->fields[k].name);
			free(type);
			free(q);
		}
		if (i >= 0) {
			char *q = kata__format(
				"SELECT count(*) FROM pragma_table_info('kata_sandboxes') WHERE name = '%s'", n->count);

			cr_assert_eq(sql_int(c.db, q), 1);
			free(q);
		}
	}
	caller_close(&c);
}

Test(schema, tables_are_strict)
{
	struct caller c;

	caller_open(&c);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM pragma_table_list WHERE name LIKE 'kata\\_%' ESCAPE '\\' AND "
				   "type = 'table'"),
		     11);
	cr_assert_eq(sql_int(c.db, "SELECT min(strict) FROM pragma_table_list WHERE name LIKE 'kata\\_%' ESCAPE '\\' "
				   "AND type = 'table'"),
		     1);
	caller_close(&c);
}

Test(schema, a_container_is_found_by_index)
{
	struct caller c;
	sqlite3_stmt *st;

	caller_open(&c);
	cr_assert_eq(sqlite3_prepare_v2(c.db,
					"EXPLAIN QUERY PLAN SELECT sandbox_id FROM kata_containers WHERE id = 'x'", -1,
					&st, NULL),
		     SQLITE_OK);
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	cr_assert_not_null(strstr((const char *)sqlite3_column_text(st, 3), "kata_container_ids"));
	sqlite3_finalize(st);
	caller_close(&c);
}

Test(schema, views_show_what_is_stored)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;
	char *v;

	caller_open(&c);
	sql(c.db, "PRAGMA trusted_schema = OFF");
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	v = sql_text(
		c.db,
		"SELECT id || ' ' || state || ' ' || storages || ' ' || nics || ' ' || containers || ' ' || cpus FROM "
		"kata_v_sandbox");
	cr_assert_str_eq(v, "pod running 2 2 2 2");
	free(v);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM kata_v_device WHERE sandbox_id = 'pod'"), 4);
	cr_assert_eq(sql_int(c.db, "SELECT exit_status FROM kata_v_container WHERE id = 'sidecar'"), 3);
	cr_assert_eq(sql_int(c.db, "SELECT exit_status IS NULL FROM kata_v_process WHERE container_id = 'app'"), 1);
	cr_assert_eq(sql_int(c.db, "SELECT length(updated) FROM kata_v_sandbox"), 19);
	caller_close(&c);
}

/* What a NIC holds is found by index, and in the view of all that is held. */
Test(schema, what_nics_hold_is_found_by_index)
{
	static const char *const questions[] = {"SELECT sandbox_id, id FROM kata_nics WHERE tap_name = 'tap1'",
						"SELECT sandbox_id, id FROM kata_nics WHERE mac = '02:00:00:00:00:01'"};
	static const char *const indexes[] = {"kata_nic_taps", "kata_nic_macs"};
	struct record_wish wish = full_wish("pod");
	struct caller c;
	char *v;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	for (int i = 0; i < 2; i++) {
		char *explain = kata__format("EXPLAIN QUERY PLAN %s", questions[i]);
		sqlite3_stmt *st = NULL;

		cr_assert_eq(sqlite3_prepare_v2(c.db, explain, -1, &st, NULL), SQLITE_OK);
		cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
		cr_assert_not_null(strstr((const char *)sqlite3_column_text(st, 3), indexes[i]));
		sqlite3_finalize(st);
		free(explain);
	}
	v = sql_text(c.db,
		     "SELECT sandbox_id || '/' || device_id || ' ' || \"by\" FROM kata_v_held WHERE kind = 'tap' AND "
		     "value = 'tap1'");
	cr_assert_str_eq(v, "pod/nic1 nic");
	free(v);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM kata_v_held"), 3);
	caller_close(&c);
}

Test(schema, every_view_can_be_read)
{
	struct caller c;

	caller_open(&c);
	sql(c.db, "PRAGMA trusted_schema = OFF");
	for (size_t i = 0; i < kata__schema_object_count; i++) {
		const struct kata__schema_object *o = &kata__schema_objects[i];
		char *q;

		if (strcmp(o->type, "view") != 0 || o->until)
			continue;
		q = kata__format("SELECT count(*) FROM %s", o->name);
		cr_assert_eq(sql_int(c.db, q), 0);
		free(q);
	}
	caller_close(&c);
}

/* ---- versions ---- */

Test(schema, a_newer_version_is_refused_untouched)
{
	assert_refused(VERSION_TABLE
		       "INSERT INTO kata_schema VALUES (1, 3); CREATE TABLE kata_sandboxes (something_new)",
		       KATA_E_VERSION, "is of version 3");
}

Test(schema, a_version_of_nonsense_is_corrupt)
{
	assert_refused(VERSION_TABLE, KATA_E_CORRUPT, "one row");
	assert_refused(VERSION_TABLE "INSERT INTO kata_schema VALUES (1, -5)", KATA_E_CORRUPT, "version above 0");
	assert_refused(VERSION_TABLE "INSERT INTO kata_schema VALUES (1, 0)", KATA_E_CORRUPT, "version above 0");
}

static int add_column(struct kata__sqlite *s, kata_error **err)
{
	return kata__sqlite_exec_text(s, "ALTER TABLE @.kata_nics ADD COLUMN speed INTEGER", "kata_nics", err);
}

static int add_table(struct kata__sqlite *s, kata_error **err)
{
	return kata__sqlite_exec_text(s, "CREATE TABLE @.kata_more (x INTEGER) STRICT", "kata_more", err);
}

static int break_off(struct kata__sqlite *s, kata_error **err)
{
	return kata__sqlite_exec_text(s, "INSERT INTO @.kata_nowhere VALUES (1)", "kata_nowhere", err);
}

Test(migration, runs_what_is_newer_in_order_and_notes_the_version)
{
	static const struct kata__migration list[] = {{2, break_off}, {3, add_column}, {4, add_table}};
	struct caller c;

	caller_open(&c);
	fixture_assert_ok(kata__schema_migrate(c.p->self, 2, list, 3, &c.err), c.err);
	cr_assert_eq(sql_int(c.db, "SELECT version FROM kata_schema"), 4);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM pragma_table_info('kata_nics') WHERE name = 'speed'"), 1);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM kata_more"), 0);
	fixture_assert_fails(kata_persistence_create_sandbox(c.p, "pod", &c.err), KATA_E_VERSION, c.err);
	caller_close(&c);
}

Test(migration, that_fails_stops_with_its_error)
{
	static const struct kata__migration list[] = {{3, add_column}, {4, break_off}, {5, add_table}};
	struct kata__sqlite *s;
	struct caller c;

	caller_open(&c);
	s = c.p->self;
	fixture_assert_ok(kata__sqlite_savepoint(s, &c.err), c.err);
	fixture_assert_fails(kata__schema_migrate(s, 2, list, 3, &c.err), KATA_E_DATABASE, c.err);
	assert_message_has(c.err, "kata_nowhere");
	kata__sqlite_rollback(s, &c.err);
	cr_assert_eq(sql_int(c.db, "SELECT version FROM kata_schema"), 2);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM pragma_table_info('kata_nics') WHERE name = 'speed'"), 0);
	caller_close(&c);
}

/* ---- hostile schemas ---- */

Test(hostile_schema, a_view_in_place_of_a_table_is_corrupt)
{
	assert_refused("CREATE VIEW kata_schema AS SELECT 1 AS id, 1 AS version", KATA_E_CORRUPT,
		       "view kata_schema is not the table");
	assert_refused("CREATE VIEW kata_sandboxes AS SELECT 1 AS id", KATA_E_CORRUPT, "view kata_sandboxes");
	assert_refused("CREATE VIEW KATA_Sandboxes AS SELECT 1 AS id", KATA_E_CORRUPT, "is not the table");
}

Test(hostile_schema, somebody_elses_table_is_corrupt)
{
	assert_refused("CREATE TABLE kata_nics (id TEXT)", KATA_E_CORRUPT, "kata_nics is not the table");
	assert_refused("CREATE TABLE kata_schema (version TEXT); INSERT INTO kata_schema VALUES ('1')", KATA_E_CORRUPT,
		       "kata_schema");
	assert_refused("CREATE TABLE x (id); CREATE INDEX kata_container_ids ON x (id)", KATA_E_CORRUPT,
		       "kata_container_ids");
}

Test(hostile_schema, a_version_table_alone_is_corrupt)
{
	assert_refused(VERSION_TABLE "INSERT INTO kata_schema VALUES (1, 1)", KATA_E_CORRUPT, "is missing");
}

/* Changes one thing in a good schema behind the library's back and asks again. */
static void assert_spoiled(const char *text, const char *part)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;
	int64_t rows;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err); /* statements are prepared and the schema was seen */
	sql(c.db, "CREATE TABLE log (what)");
	sql(c.db, text);
	rows = sql_int(c.db, "SELECT count(*) FROM log");
	wish.hostname = "changed";
	fixture_assert_fails(caller_store(&c, &wish), KATA_E_CORRUPT, c.err);
	assert_message_has(c.err, part);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM log"), rows, "what the trigger wrote was undone");
	fixture_assert_fails(kata_persistence_delete_sandbox(c.p, "pod", NULL), KATA_E_CORRUPT, c.err);
	fixture_assert_fails(caller_load(&c, "pod"), KATA_E_CORRUPT, c.err);
	caller_close(&c);
}

Test(hostile_schema, a_trigger_on_our_table_is_corrupt_and_undone)
{
	assert_spoiled(
		"CREATE TRIGGER innocent AFTER UPDATE ON kata_sandboxes BEGIN INSERT INTO log VALUES (new.id); END",
		"trigger 'innocent' hangs on table kata_sandboxes");
	assert_spoiled("CREATE TRIGGER kata_t AFTER UPDATE ON KATA_STORAGES BEGIN INSERT INTO log VALUES ('x'); END",
		       "trigger 'kata_t'");
}

Test(hostile_schema, another_process_that_adds_a_trigger_is_noticed)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;
	sqlite3 *other;
	char *path;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	path = fixture_path(&c.f, "caller.db");
	cr_assert_eq(sqlite3_open(path, &other), SQLITE_OK);
	sql(other, "CREATE TRIGGER t AFTER UPDATE ON kata_nics BEGIN DELETE FROM own; END");
	sql(other, "INSERT INTO own VALUES ('precious')");
	fixture_assert_fails(caller_store(&c, &wish), KATA_E_CORRUPT, c.err);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM own"), 1);
	sql(other, "DROP TRIGGER t");
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	sqlite3_close(other);
	free(path);
	caller_close(&c);
}

/* Every op that reads; what it answers while all is well. */
static int read_something(struct caller *c, int which, int *ret_expected)
{
	kata_sandbox_info info = {.size = sizeof(info)};
	kata_reservation *list = NULL;
	kata_row *row = NULL;
	char **ids = NULL, *id = NULL;
	size_t count = 0;
	int rc = 1;

	error_clear(&c->err);
	*ret_expected = 0;
	switch (which) {
	case 0:
		rc = kata_persistence_list_sandboxes(c->p, &ids, &c->err);
		break;
	case 1:
		rc = kata_persistence_list_containers(c->p, "pod", &ids, &c->err);
		break;
	case 2:
		rc = kata_persistence_list_rows(c->p, KATA_ROW_NETWORK, NULL, NULL, &ids, &c->err);
		break;
	case 3:
		rc = kata_persistence_sandbox_of_container(c->p, "app", &id, &c->err);
		break;
	case 4:
		rc = kata_persistence_get_info(c->p, "pod", &info, &c->err);
		break;
	case 5:
		rc = kata_persistence_list_infos(c->p, NULL, &info, 1, &count, &c->err);
		break;
	case 6:
		rc = kata_persistence_list_reservations(c->p, NULL, &list, &count, &c->err);
		break;
	case 7:
		rc = caller_load(c, "pod");
		break;
	case 8:
		*ret_expected = KATA_E_NOT_FOUND;
		rc = kata_persistence_get_row(c->p, KATA_ROW_NETWORK, "none", &row, &c->err);
		break;
	case 9:
		*ret_expected = KATA_E_NOT_FOUND;
		rc = kata_persistence_get_info(c->p, "none", &info, &c->err);
		break;
	default:
		break;
	}
	kata_string_list_free(ids);
	free(id);
	free(list);
	return rc;
}

/* A migration by a newer library, say: who takes the answer of its tables for "no record" ends every machine. */
Test(hostile_schema, what_was_read_where_another_has_changed_the_tables_is_refused)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;
	sqlite3 *other;
	char *path;
	int expected, ops = 0;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	path = fixture_path(&c.f, "caller.db");
	cr_assert_eq(sqlite3_open(path, &other), SQLITE_OK);
	for (int which = 0; read_something(&c, which, &expected) != 1; which++, ops++) {
		cr_assert_eq(read_something(&c, which, &expected), expected, "%d: %s", which, error_text(c.err));
		sql(other, "CREATE TRIGGER t AFTER UPDATE ON kata_nics BEGIN DELETE FROM own; END");
		for (int again = 0; again < 2; again++) {
			cr_assert_eq(read_something(&c, which, &expected), KATA_E_CORRUPT, "%d: %s", which,
				     error_text(c.err));
			assert_message_has(c.err, "trigger 't' hangs on table kata_nics");
		}
		sql(other, "DROP TRIGGER t");
		cr_assert_eq(read_something(&c, which, &expected), expected, "%d: %s", which, error_text(c.err));
	}
	cr_assert_eq(ops, 10);
	sqlite3_close(other);
	free(path);
	caller_close(&c);
}

Test(hostile_schema, a_trigger_there_from_the_start_never_runs)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;
	kata_persistence *fresh = NULL;

	caller_open(&c);
	sql(c.db, "CREATE TABLE log (what);"
		  "CREATE TRIGGER t AFTER INSERT ON kata_sandboxes BEGIN INSERT INTO log VALUES (new.id); END");
	fixture_assert_ok(kata_persistence_new_sqlite_attached(c.f.context, c.db, NULL, &fresh, &c.err), c.err);
	fixture_assert_fails(kata_persistence_create_sandbox(fresh, "pod", &c.err), KATA_E_CORRUPT, c.err);
	fixture_assert_fails(caller_store(&c, &wish), KATA_E_CORRUPT, c.err);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM log"), 0);
	kata_persistence_free(fresh);
	caller_close(&c);
}

Test(hostile_schema, a_changed_or_dropped_table_is_corrupt)
{
	assert_spoiled("ALTER TABLE kata_processes ADD COLUMN more TEXT", "kata_processes is not the table");
	assert_spoiled("DROP TABLE kata_reservations", "kata_reservations is missing");
	assert_spoiled("DROP TABLE kata_nics; CREATE VIEW kata_nics AS SELECT * FROM kata_storages", "view kata_nics");
}

Test(schema, what_the_caller_keeps_beside_is_his)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;

	caller_open(&c);
	sql(c.db, "CREATE TABLE kata_mine (x); CREATE INDEX kata_extra ON kata_sandboxes (vm_id);"
		  "CREATE TRIGGER t AFTER INSERT ON own BEGIN DELETE FROM kata_mine; END;"
		  "CREATE TEMP TABLE seen (id); "
		  "CREATE TEMP TRIGGER watch AFTER UPDATE ON main.kata_sandboxes BEGIN INSERT INTO seen VALUES "
		  "(new.id); END");
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM seen"), 1, "a TEMP trigger is the caller's own");
	fixture_assert_ok(kata_persistence_create_schema(c.p, &c.err), c.err);
	caller_close(&c);
}

Test(schema, a_temp_table_of_our_name_is_not_taken_for_ours)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;

	caller_open(&c);
	sql(c.db, "CREATE TEMP TABLE kata_sandboxes (id); CREATE TEMP VIEW kata_nics AS SELECT 1");
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM main.kata_sandboxes"), 1);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM temp.kata_sandboxes"), 0);
	caller_close(&c);
}

Test(schema, an_unknown_schema_name_is_not_found)
{
	struct caller c;
	kata_persistence *p = NULL;

	caller_open(&c);
	fixture_assert_fails(kata_persistence_new_sqlite_attached(c.f.context, c.db, "elsewhere", &p, &c.err),
			     KATA_E_NOT_FOUND, c.err);
	assert_message_has(c.err, "elsewhere");
	error_clear(&c.err);
	fixture_assert_fails(
		kata_persistence_new_sqlite_attached(c.f.context, c.db, "main\"; DROP TABLE own;--", &p, &c.err),
		KATA_E_NOT_FOUND, c.err);
	error_clear(&c.err);
	fixture_assert_fails(kata_persistence_new_sqlite_attached(c.f.context, NULL, NULL, &p, &c.err), KATA_E_INVALID,
			     c.err);
	cr_assert_null(p);
	caller_close(&c);
}
