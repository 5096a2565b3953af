/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The caller's SQLite handle under every operation that is given a persistence on it: which statements run there, what
 * is synced, what is counted, and that all he had set on it is still set.
 */
#include "attached_desk.h"

#include <strings.h>

/* ---- statements */

static bool starts(const char *text, const char *with)
{
	return strncasecmp(text, with, strlen(with)) == 0;
}

/* All that may run. What a statement is about is the authorizer's matter, below. */
static bool is_ours(const char *text)
{
	static const char *const first[] = {"SELECT ",
					    "INSERT ",
					    "UPDATE ",
					    "DELETE ",
					    "CREATE TABLE ",
					    "CREATE INDEX ",
					    "CREATE UNIQUE INDEX ",
					    "CREATE VIEW "};

	if (strcmp(text, "SAVEPOINT kata_persistence") == 0 || strcmp(text, "RELEASE kata_persistence") == 0 ||
	    strcmp(text, "ROLLBACK TO kata_persistence") == 0)
		return true;
	for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++)
		if (starts(text, first[i]))
			return true;
	return false;
}

static int on_statement(unsigned kind, void *user, void *stmt, void *sql)
{
	struct desk *d = user;
	const char *text = sql;

	if (starts(text, "--")) /* of a TEMP trigger */
		return 0;
	d->statements++;
	if (!is_ours(text)) {
		d->foreign++;
		snprintf(d->text + strlen(d->text), sizeof(d->text) - strlen(d->text), "%.200s\n", text);
	}
	return 0;
}

static void watch_statements(struct desk *d, bool on)
{
	sqlite3_trace_v2(d->db, on ? SQLITE_TRACE_STMT : 0, on ? on_statement : NULL, d);
}

static void assert_nothing_foreign(struct desk *d, const char *when)
{
	cr_assert_eq(d->foreign, 0, "%s ran\n%s", when, d->text);
	for (sqlite3_stmt *st = sqlite3_next_stmt(d->db, NULL); st; st = sqlite3_next_stmt(d->db, st))
		cr_assert_not(sqlite3_stmt_busy(st), "%s left open: %s", when, sqlite3_sql(st));
}

Test(attached, every_operation_runs_only_what_the_documentation_lists_and_syncs_nothing_in_a_transaction)
{
	struct desk d;

	desk_open(&d);
	for (size_t i = 0; i < OPERATIONS; i++) {
		unsigned opens = sqlite_shim.opens, syncs;

		run_sql(&d, "BEGIN; INSERT INTO mine VALUES ('with it')");
		syncs = sqlite_shim.syncs;
		watch_statements(&d, true);
		operations[i].run(&d);
		watch_statements(&d, false);
		assert_nothing_foreign(&d, operations[i].name);
		cr_assert_eq(sqlite3_get_autocommit(d.db), 0, "%s ended the transaction", operations[i].name);
		cr_assert_eq(sqlite_shim.syncs, syncs, "%s synced a file", operations[i].name);
		cr_assert_eq(sqlite_shim.opens, opens, "%s opened a database", operations[i].name);
		run_sql(&d, "COMMIT");
		cr_assert_gt(sqlite_shim.syncs, syncs, "the shim counts the caller's commit");
	}
	cr_assert_gt(d.statements, 50u);
	cr_assert_eq(ask(&d, "SELECT count(*) FROM mine"), (int64_t)OPERATIONS);
	desk_close(&d);
}

Test(attached, without_a_transaction_each_operation_syncs_as_often_as_it_commits)
{
	struct desk d;

	desk_open(&d);
	for (size_t i = 0; i < OPERATIONS; i++) {
		unsigned syncs = sqlite_shim.syncs;

		watch_statements(&d, true);
		operations[i].run(&d);
		watch_statements(&d, false);
		assert_nothing_foreign(&d, operations[i].name);
		cr_assert_eq(sqlite3_get_autocommit(d.db), 1, "%s left a transaction", operations[i].name);
		cr_assert_leq(sqlite_shim.syncs, syncs + operations[i].commits * 2, /* the first of a WAL: its header */
			      "%s", operations[i].name);
		if (operations[i].commits == 0)
			cr_assert_eq(sqlite_shim.syncs, syncs, "%s only reads", operations[i].name);
	}
	desk_close(&d);
}

/* ---- what a statement touches */

static int on_authorize(void *user, int action, const char *a, const char *b, const char *schema, const char *trigger)
{
	struct desk *d = user;
	bool row =
		action == SQLITE_READ || action == SQLITE_INSERT || action == SQLITE_UPDATE || action == SQLITE_DELETE;
	bool create = action == SQLITE_CREATE_TABLE || action == SQLITE_CREATE_INDEX || action == SQLITE_CREATE_VIEW ||
		      action == SQLITE_REINDEX;
	bool neutral = action == SQLITE_SELECT || action == SQLITE_FUNCTION || action == SQLITE_SAVEPOINT;
	bool ours = a && (starts(a, "kata_") || starts(a, "sqlite_"));

	d->statements++;
	if (neutral || ((row || create) && ours && (!schema || strcmp(schema, "main") == 0)))
		return SQLITE_OK;
	d->foreign++;
	snprintf(d->text + strlen(d->text), sizeof(d->text) - strlen(d->text), "action %d on %s %s in %s\n", action,
		 a ? a : "-", b ? b : "-", schema ? schema : "-");
	return SQLITE_OK;
}

Test(attached, every_operation_touches_our_tables_alone)
{
	struct desk d;

	desk_open(&d);
	for (size_t i = 0; i < OPERATIONS; i++) {
		sqlite3_set_authorizer(d.db, on_authorize, &d); /* makes SQLite compile everything anew, and ask */
		operations[i].run(&d);
		sqlite3_set_authorizer(d.db, NULL, NULL);
		cr_assert_eq(d.foreign, 0, "%s:\n%s", operations[i].name, d.text);
	}
	cr_assert_gt(d.statements, 500u);
	desk_close(&d);
}

/* ---- what is counted */

static void note_row(sqlite3_context *context, int argc, sqlite3_value **argv)
{
	++*(int64_t *)sqlite3_user_data(context);
	sqlite3_result_null(context);
}

static void count_table(struct desk *d, const char *table)
{
	static const char *const events[] = {"INSERT", "UPDATE", "DELETE"};
	char sql[256];

	for (int i = 0; i < 3; i++) {
		snprintf(sql, sizeof(sql),
			 "CREATE TEMP TRIGGER t_%s_%s AFTER %s ON main.%s BEGIN SELECT note_row(); END", table,
			 events[i], events[i], table);
		run_sql(d, sql);
	}
}

/* TEMP triggers of the caller's see each row of ours; they change none themselves. */
static void count_rows(struct desk *d)
{
	sqlite3_stmt *st = NULL;
	char tables[32][64];
	int n = 0;

	cr_assert_eq(sqlite3_create_function(d->db, "note_row", 0, SQLITE_UTF8, &d->rows, note_row, NULL, NULL),
		     SQLITE_OK);
	cr_assert_eq(sqlite3_prepare_v2(d->db,
					"SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'kata%'", -1,
					&st, NULL),
		     SQLITE_OK);
	while (n < 32 && sqlite3_step(st) == SQLITE_ROW)
		snprintf(tables[n++], sizeof(tables[0]), "%s", (const char *)sqlite3_column_text(st, 0));
	sqlite3_finalize(st);
	cr_assert_gt(n, 6);
	while (n-- > 0)
		count_table(d, tables[n]);
}

Test(attached, total_changes_counts_our_rows_and_nothing_else)
{
	struct desk d;
	int64_t changed = 0;

	desk_open(&d);
	make_schema(&d);
	count_rows(&d);
	run_sql(&d, "INSERT INTO mine VALUES ('a'), ('b')");
	for (size_t i = 1; i < OPERATIONS; i++) {
		int64_t changes = sqlite3_total_changes64(d.db), rows = d.rows;

		operations[i].run(&d);
		cr_assert_eq(sqlite3_total_changes64(d.db) - changes, d.rows - rows, "%s", operations[i].name);
		if (operations[i].commits == 0)
			cr_assert_eq(d.rows, rows, "%s only reads", operations[i].name);
		changed += d.rows - rows;
	}
	cr_assert_gt(changed, 20);
	cr_assert_eq(ask(&d, "SELECT count(*) FROM mine"), 2);
	desk_close(&d);
}

/* ---- what is set on the handle */

static int on_busy(void *user, int count)
{
	++*(int *)user;
	return 0;
}
static int on_commit(void *user)
{
	++*(int *)user;
	return 0;
}
static void on_rollback(void *user)
{
	++*(int *)user;
}
static void on_update(void *user, int action, const char *schema, const char *table, sqlite3_int64 rowid)
{
	++*(int *)user;
}
static int on_wal(void *user, sqlite3 *db, const char *schema, int pages)
{
	return SQLITE_OK;
}
static int on_progress(void *user)
{
	++*(int *)user;
	return 0;
}

static void set_everything(struct desk *d)
{
	sqlite3_busy_handler(d->db, on_busy, &d->busy_calls);
	sqlite3_commit_hook(d->db, on_commit, &d->commits);
	sqlite3_rollback_hook(d->db, on_rollback, &d->rollbacks);
	sqlite3_update_hook(d->db, on_update, &d->updates);
	sqlite3_wal_hook(d->db, on_wal, d);
	sqlite3_progress_handler(d->db, 10, on_progress, &d->progress);
	sqlite3_set_authorizer(d->db, on_authorize, d);
	sqlite3_limit(d->db, SQLITE_LIMIT_LENGTH, 98765432);
	sqlite3_extended_result_codes(d->db, 1);
}

/* Setting a hook gives back what was set. */
static void assert_everything_is_set(struct desk *d)
{
	sqlite3 *other = NULL;
	int progress = d->progress;

	cr_assert_eq(sqlite3_commit_hook(d->db, NULL, NULL), &d->commits);
	cr_assert_eq(sqlite3_rollback_hook(d->db, NULL, NULL), &d->rollbacks);
	cr_assert_eq(sqlite3_update_hook(d->db, NULL, NULL), &d->updates);
	cr_assert_eq(sqlite3_wal_hook(d->db, NULL, NULL), d);
	cr_assert_eq(sqlite3_limit(d->db, SQLITE_LIMIT_LENGTH, -1), 98765432);
	d->foreign = 0;
	cr_assert_eq(ask(d, "SELECT count(*) FROM mine AS a, mine AS b"), 4);
	cr_assert_gt(d->foreign, 0u, "the authorizer was asked");
	cr_assert_gt(d->progress, progress, "the progress handler was called");
	cr_assert_eq(sqlite3_open(d->path, &other), SQLITE_OK);
	cr_assert_eq(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	d->busy_calls = 0;
	cr_assert_eq(sqlite3_exec(d->db, "INSERT INTO mine VALUES ('c')", NULL, NULL, NULL), SQLITE_BUSY);
	cr_assert_eq(d->busy_calls, 1, "the busy handler was called");
	sqlite3_close(other);
}

Test(attached, hooks_handlers_and_limits_of_the_caller_are_still_his_after_every_operation)
{
	struct desk d;

	desk_open(&d);
	run_sql(&d, "INSERT INTO mine VALUES ('a'), ('b')");
	set_everything(&d);
	for (size_t i = 0; i < OPERATIONS; i++)
		operations[i].run(&d);
	cr_assert_gt(d.commits, 0);
	cr_assert_eq(d.foreign, 0, "%s", d.text);
	assert_everything_is_set(&d);
	sqlite3_set_authorizer(d.db, NULL, NULL);
	sqlite3_progress_handler(d.db, 0, NULL, NULL);
	desk_close(&d);
}

/* ---- prepared once */

static unsigned prepared(struct desk *d)
{
	unsigned n = 0;

	for (sqlite3_stmt *st = sqlite3_next_stmt(d->db, NULL); st; st = sqlite3_next_stmt(d->db, st))
		n++;
	return n;
}

static int on_prepare(void *user, int action, const char *a, const char *b, const char *schema, const char *trigger)
{
	++*(int *)user;
	return SQLITE_OK;
}

Test(attached, statements_are_prepared_once_and_reset_after_each_use)
{
	struct desk d;
	unsigned count;
	int compiled = 0;

	desk_open(&d);
	for (size_t i = 0; i + 1 < OPERATIONS; i++)
		operations[i].run(&d);
	strip_and_store(&d);
	sqlite3_set_authorizer(d.db, on_prepare, &compiled);
	for (int round = 0; round < 2; round++) {
		compiled = 0; /* in the first all is compiled anew, for the authorizer */
		plug_and_store(&d);
		unplug_and_store(&d);
		list_and_find(&d);
		strip_and_store(&d);
		count = round ? count : prepared(&d);
		cr_assert_eq(prepared(&d), count);
		assert_nothing_foreign(&d, "a round");
	}
	cr_assert_eq(compiled, 0, "nothing was compiled in the second round");
	sqlite3_set_authorizer(d.db, NULL, NULL);
	desk_close(&d);
}
