/* SPDX-License-Identifier: Apache-2.0 */
/* The caller's SQLite handle in use around and beside the operations: his savepoints, open statements, a COMMIT that
 * fails, two threads. */
#include "attached_desk.h"

#include <pthread.h>

/* ---- the caller's transactions around it */

Test(attached, savepoints_of_the_caller_hold_whole_operations)
{
	struct desk d;

	desk_open(&d);
	make_schema(&d);
	store(&d);
	run_sql(&d, "SAVEPOINT a; INSERT INTO mine VALUES ('a')");
	plug_and_store(&d);
	run_sql(&d, "SAVEPOINT b; SAVEPOINT kata_persistence; INSERT INTO mine VALUES ('b')");
	unplug_and_store(&d);
	cr_assert_eq(ask(&d, "SELECT count(*) FROM kata_storages"), 0);
	run_sql(&d, "ROLLBACK TO b");
	cr_assert_eq(ask(&d, "SELECT count(*) FROM kata_storages"), 1);
	cr_assert_eq(ask(&d, "SELECT count(*) FROM mine"), 1);
	run_sql(&d, "RELEASE b; RELEASE a");
	cr_assert_eq(sqlite3_get_autocommit(d.db), 1);
	cr_assert_eq(ask(&d, "SELECT count(*) FROM kata_storages"), 1);
	desk_close(&d);
}

Test(attached, a_read_that_the_caller_left_open_goes_on_over_every_operation)
{
	struct desk d;

	desk_open(&d);
	run_sql(&d, "CREATE TABLE many (n); WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 1000)"
		    " INSERT INTO many SELECT n FROM c");
	for (size_t i = 0; i < OPERATIONS; i++) {
		sqlite3_stmt *st = NULL;
		int64_t sum = 0;

		cr_assert_eq(sqlite3_prepare_v2(d.db, "SELECT n FROM many", -1, &st, NULL), SQLITE_OK);
		for (int n = 0; n < 500; n++) {
			cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
			sum += sqlite3_column_int64(st, 0);
		}
		operations[i].run(&d);
		while (sqlite3_step(st) == SQLITE_ROW)
			sum += sqlite3_column_int64(st, 0);
		cr_assert_eq(sqlite3_finalize(st), SQLITE_OK, "%s", operations[i].name);
		cr_assert_eq(sum, 500500, "%s", operations[i].name);
	}
	desk_close(&d);
}

Test(attached, a_write_that_the_caller_left_half_done_makes_it_busy_and_harms_nobody)
{
	sqlite3_stmt *st = NULL;
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	make_schema(&d);
	store(&d);
	cr_assert_eq(sqlite3_prepare_v2(d.db, "INSERT INTO mine VALUES ('a'), ('b') RETURNING note", -1, &st, NULL),
		     SQLITE_OK);
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	fixture_assert_fails(kata_persistence_delete_sandbox(d.p, "sb", &err), KATA_E_BUSY, err);
	error_clear(&err);
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	cr_assert_eq(sqlite3_step(st), SQLITE_DONE);
	sqlite3_finalize(st);
	cr_assert_eq(ask(&d, "SELECT count(*) FROM mine"), 2);
	plug_and_store(&d);
	KIT_ASSERT_STATE(&d.k, KATA_SANDBOX_RUNNING);
	desk_close(&d);
}

/* Under it each change answers with a row. */
Test(attached, a_handle_on_which_changes_are_counted_does_as_any_other)
{
	struct desk d;

	desk_open(&d);
	run_sql(&d, "PRAGMA count_changes = 1");
	for (size_t i = 0; i < OPERATIONS; i++)
		operations[i].run(&d);
	desk_close(&d);
}

/* A COMMIT that is refused leaves the transaction open, one that fails in the file takes it back: the sandbox runs on
 * in both, and the record is the one of before or the new one. */
Test(attached, a_commit_that_fails_later_harms_no_sandbox)
{
	struct desk d;

	desk_open(&d);
	make_schema(&d);
	store(&d);
	run_sql(&d,
		"PRAGMA foreign_keys = ON; CREATE TABLE pods (sandbox TEXT REFERENCES kata_sandboxes (id) DEFERRABLE "
		"INITIALLY DEFERRED)");
	run_sql(&d, "BEGIN; INSERT INTO pods VALUES ('nobody')");
	plug_and_store(&d);
	cr_assert_eq(sqlite3_exec(d.db, "COMMIT", NULL, NULL, NULL), SQLITE_CONSTRAINT);
	cr_assert_eq(sqlite3_get_autocommit(d.db), 0);
	run_sql(&d, "UPDATE pods SET sandbox = 'sb'; COMMIT");
	cr_assert_eq(ask(&d, "SELECT count(*) FROM kata_storages"), 1);

	run_sql(&d, "BEGIN");
	unplug_and_store(&d);
	sqlite_shim.fail_at = 1;
	sqlite_shim.fail_code = SQLITE_IOERR_WRITE;
	cr_assert_eq(sqlite3_exec(d.db, "COMMIT", NULL, NULL, NULL), SQLITE_IOERR);
	cr_assert_eq(sqlite3_get_autocommit(d.db), 1);
	cr_assert_eq(ask(&d, "SELECT count(*) FROM kata_storages"), 1, "the record of before");
	KIT_ASSERT_STATE(&d.k, KATA_SANDBOX_RUNNING);
	kit_exec(&d.k, "runs", "after", "\"exit\",\"7\"");
	cr_assert_eq(kit_wait(&d.k, "runs", "after"), 7);
	desk_close(&d);
}

/* ---- two threads on one handle */

#define ROUNDS 300

struct other {
	struct desk *d;
	int failures;
};

/* Statements of the caller's own, each a transaction of its own. */
static void *insert_own(void *user)
{
	struct other *o = user;

	for (int i = 0; i < ROUNDS; i++)
		o->failures += sqlite3_exec(o->d->db, "INSERT INTO mine VALUES ('x')", NULL, NULL, NULL) != SQLITE_OK;
	return NULL;
}

/* What the other thread writes never lands in a savepoint of ours that is rolled back. */
Test(attached, a_handle_used_from_two_threads_keeps_what_each_wrote)
{
	struct other o;
	kata_error *err = NULL;
	pthread_t thread;
	struct desk d;

	desk_open(&d);
	run_sql(&d, "PRAGMA synchronous = OFF");
	make_schema(&d);
	plug_and_store(&d);
	o = (struct other){&d, 0};
	cr_assert_eq(pthread_create(&thread, NULL, insert_own, &o), 0);
	for (int i = 0; i < ROUNDS; i++) {
		if (i % 2 == 0) {
			store(&d);
			continue;
		}
		/* Takes its savepoint, finds no row to remove, and rolls back. */
		fixture_assert_fails(kata_persistence_delete_sandbox(d.p, "nobody", &err), KATA_E_NOT_FOUND, err);
		error_clear(&err);
	}
	pthread_join(thread, NULL);
	cr_assert_eq(o.failures, 0);
	cr_assert_eq(ask(&d, "SELECT count(*) FROM mine"), ROUNDS);
	cr_assert_eq(ask(&d, "SELECT count(*) FROM kata_sandboxes"), 1);
	desk_close(&d);
}

static int list_inside(void *user, int columns, char **values, char **names)
{
	struct desk *d = user;
	char **ids = NULL;

	cr_assert_eq(kata_persistence_list_sandboxes(d->p, &ids, NULL), 0);
	kata_string_list_free(ids);
	return 0;
}

static void *list_from_callbacks(void *user)
{
	struct other *o = user;

	for (int i = 0; i < ROUNDS; i++)
		o->failures += sqlite3_exec(o->d->db, "SELECT * FROM mine", list_inside, o->d, NULL) != SQLITE_OK;
	return NULL;
}

/* sqlite3_exec holds the handle while it calls back. */
Test(attached, calls_from_inside_sqlite3_exec_of_two_threads_do_not_wait_for_one_another, .timeout = 60)
{
	struct other o;
	pthread_t thread;
	struct desk d;

	desk_open(&d);
	run_sql(&d, "PRAGMA synchronous = OFF; INSERT INTO mine VALUES ('a')");
	make_schema(&d);
	o = (struct other){&d, 0};
	cr_assert_eq(pthread_create(&thread, NULL, list_from_callbacks, &o), 0);
	for (int i = 0; i < ROUNDS; i++)
		store(&d);
	pthread_join(thread, NULL);
	cr_assert_eq(o.failures, 0);
	desk_close(&d);
}
