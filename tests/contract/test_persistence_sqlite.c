/* SPDX-License-Identifier: Apache-2.0 */
/* Persistence on SQLite as a user of the library sees it: reservations in his transaction, lists, and databases that
 * are refused. */
#include <criterion/criterion.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/fixture.h"

struct world {
	struct fixture f;
	sqlite3 *db;
	char *path;
	kata_persistence *p;
	kata_error *err;
};

static void sql(sqlite3 *db, const char *text)
{
	char *message = NULL;

	cr_assert_eq(sqlite3_exec(db, text, NULL, NULL, &message), SQLITE_OK, "%s: %s", text, message);
}

static int sql_int(sqlite3 *db, const char *text)
{
	sqlite3_stmt *st = NULL;
	int v;

	cr_assert_eq(sqlite3_prepare_v2(db, text, -1, &st, NULL), SQLITE_OK, "%s: %s", text, sqlite3_errmsg(db));
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	v = sqlite3_column_int(st, 0);
	sqlite3_finalize(st);
	return v;
}

static void up(struct world *w)
{
	memset(w, 0, sizeof(*w));
	fixture_init(&w->f, true, 0);
	w->path = fixture_path(&w->f, "records.db");
	cr_assert_eq(sqlite3_open(w->path, &w->db), SQLITE_OK);
}

static void attach(struct world *w)
{
	fixture_assert_ok(kata_persistence_new_sqlite_attached(w->f.context, w->db, NULL, &w->p, &w->err), w->err);
}

static void down(struct world *w)
{
	error_clear(&w->err);
	kata_persistence_free(w->p);
	cr_assert_eq(sqlite3_close(w->db), SQLITE_OK);
	free(w->path);
	fixture_deinit(&w->f);
}

Test(persistence_sqlite, attaching_touches_nothing)
{
	struct world w;
	struct stat st;

	up(&w);
	attach(&w);
	cr_assert_eq(stat(w.path, &st), 0);
	cr_assert_eq(st.st_size, 0);
	fixture_assert_fails(kata_persistence_create_sandbox(w.p, "pod", &w.err), KATA_E_STATE, w.err);
	cr_assert_not_null(strstr(kata_error_get_message(w.err), "kata_persistence_create_schema"));
	cr_assert_eq(stat(w.path, &st), 0);
	cr_assert_eq(st.st_size, 0);
	down(&w);
}

Test(persistence_sqlite, the_callers_transaction_decides_over_a_reservation)
{
	struct world w;

	up(&w);
	attach(&w);
	sql(w.db, "CREATE TABLE own (pod)");
	fixture_assert_ok(kata_persistence_create_schema(w.p, &w.err), w.err);
	sql(w.db, "BEGIN; INSERT INTO own VALUES ('pod')");
	fixture_assert_ok(kata_persistence_create_sandbox(w.p, "pod", &w.err), w.err);
	sql(w.db, "ROLLBACK");
	cr_assert_eq(sql_int(w.db, "SELECT (SELECT count(*) FROM own) + (SELECT count(*) FROM kata_sandboxes)"), 0);
	sql(w.db, "BEGIN; INSERT INTO own VALUES ('pod')");
	fixture_assert_ok(kata_persistence_create_sandbox(w.p, "pod", &w.err), w.err);
	sql(w.db, "COMMIT");
	cr_assert_eq(sql_int(w.db, "SELECT (SELECT count(*) FROM own) + (SELECT count(*) FROM kata_v_sandbox WHERE "
				   "state = 'new')"),
		     2);
	down(&w);
}

Test(persistence_sqlite, a_taken_id_exists_and_a_deleted_one_is_free)
{
	struct world w;

	up(&w);
	attach(&w);
	fixture_assert_ok(kata_persistence_create_schema(w.p, &w.err), w.err);
	fixture_assert_ok(kata_persistence_create_sandbox(w.p, "pod", &w.err), w.err);
	fixture_assert_fails(kata_persistence_create_sandbox(w.p, "pod", &w.err), KATA_E_EXISTS, w.err);
	error_clear(&w.err);
	fixture_assert_ok(kata_persistence_delete_sandbox(w.p, "pod", &w.err), w.err);
	fixture_assert_fails(kata_persistence_delete_sandbox(w.p, "pod", &w.err), KATA_E_NOT_FOUND, w.err);
	error_clear(&w.err);
	fixture_assert_ok(kata_persistence_create_sandbox(w.p, "pod", &w.err), w.err);
	down(&w);
}

Test(persistence_sqlite, lists_are_sorted_and_end_with_null)
{
	struct world w;
	char **ids = NULL, *id = NULL;

	up(&w);
	attach(&w);
	fixture_assert_ok(kata_persistence_create_schema(w.p, &w.err), w.err);
	fixture_assert_ok(kata_persistence_create_sandbox(w.p, "b", &w.err), w.err);
	fixture_assert_ok(kata_persistence_create_sandbox(w.p, "a", &w.err), w.err);
	fixture_assert_ok(kata_persistence_list_sandboxes(w.p, &ids, &w.err), w.err);
	cr_assert_str_eq(ids[0], "a");
	cr_assert_str_eq(ids[1], "b");
	cr_assert_null(ids[2]);
	kata_string_list_free(ids);
	fixture_assert_ok(kata_persistence_list_containers(w.p, "a", &ids, &w.err), w.err);
	cr_assert_null(ids[0]);
	kata_string_list_free(ids);
	fixture_assert_fails(kata_persistence_sandbox_of_container(w.p, "app", &id, &w.err), KATA_E_NOT_FOUND, w.err);
	cr_assert_null(id);
	down(&w);
}

Test(persistence_sqlite, two_handles_see_one_another_through_the_file)
{
	struct world w;
	kata_persistence *own = NULL;
	char **ids = NULL;

	up(&w);
	fixture_assert_ok(kata_persistence_new_sqlite(w.f.context, w.path, &own, &w.err), w.err);
	attach(&w);
	fixture_assert_ok(kata_persistence_create_sandbox(w.p, "pod", &w.err), w.err);
	fixture_assert_fails(kata_persistence_create_sandbox(own, "pod", &w.err), KATA_E_EXISTS, w.err);
	error_clear(&w.err);
	fixture_assert_ok(kata_persistence_delete_sandbox(own, "pod", &w.err), w.err);
	fixture_assert_ok(kata_persistence_list_sandboxes(w.p, &ids, &w.err), w.err);
	cr_assert_null(ids[0]);
	kata_string_list_free(ids);
	kata_persistence_free(own);
	down(&w);
}

Test(persistence_sqlite, a_context_with_a_persistence_is_busy)
{
	struct world w;

	up(&w);
	attach(&w);
	fixture_assert_fails(kata_context_free(w.f.context, &w.err), KATA_E_BUSY, w.err);
	down(&w);
}

Test(persistence_sqlite, a_newer_schema_is_refused)
{
	struct world w;
	kata_persistence *own = NULL;

	up(&w);
	attach(&w);
	fixture_assert_ok(kata_persistence_create_schema(w.p, &w.err), w.err);
	sql(w.db, "UPDATE kata_schema SET version = 1000");
	kata_persistence_free(w.p);
	w.p = NULL;
	fixture_assert_fails(kata_persistence_new_sqlite(w.f.context, w.path, &own, &w.err), KATA_E_VERSION, w.err);
	error_clear(&w.err);
	attach(&w);
	fixture_assert_fails(kata_persistence_create_schema(w.p, &w.err), KATA_E_VERSION, w.err);
	error_clear(&w.err);
	fixture_assert_fails(kata_persistence_create_sandbox(w.p, "pod", &w.err), KATA_E_VERSION, w.err);
	cr_assert_eq(sql_int(w.db, "SELECT version FROM kata_schema"), 1000);
	down(&w);
}

Test(persistence_sqlite, an_error_names_operation_table_and_remedy)
{
	struct world w;
	sqlite3 *other;

	up(&w);
	attach(&w);
	fixture_assert_ok(kata_persistence_create_schema(w.p, &w.err), w.err);
	cr_assert_eq(sqlite3_open(w.path, &other), SQLITE_OK);
	sql(other, "BEGIN EXCLUSIVE");
	fixture_assert_fails(kata_persistence_delete_sandbox(w.p, "pod", &w.err), KATA_E_BUSY, w.err);
	cr_assert_not_null(strstr(kata_error_get_message(w.err), "delete sandbox 'pod' in schema 'main'"));
	cr_assert_not_null(strstr(kata_error_get_message(w.err), "database is locked"));
	cr_assert_not_null(strstr(kata_error_get_message(w.err), "busy timeout"));
	cr_assert_eq(kata_error_get_origin(w.err), KATA_ORIGIN_HOST);
	sqlite3_close(other);
	down(&w);
}
