/* SPDX-License-Identifier: Apache-2.0 */
/* The caller's handle: his transaction decides, and his handle is afterwards what it was. */
#include <errno.h>
#include <pthread.h>
#include <strings.h>

#include "unit/persist/persist_test.h"

/* ---- his transaction ---- */

static int64_t our_rows(struct caller *c)
{
	return sql_int(c->db, "SELECT (SELECT count(*) FROM kata_sandboxes) + (SELECT count(*) FROM kata_storages) + "
			      "(SELECT count(*) FROM kata_nics) + (SELECT count(*) FROM kata_containers) + "
			      "(SELECT count(*) FROM kata_processes) + (SELECT count(*) FROM kata_reservations)");
}

#define FULL_ROWS (1 + 2 + 2 + 2 + 2) /* of full_wish */

Test(transaction, rolled_back_leaves_nothing)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;

	caller_open(&c);
	sql(c.db, "BEGIN; INSERT INTO own VALUES ('mine')");
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	cr_assert_eq(our_rows(&c), FULL_ROWS);
	cr_assert_eq(sqlite3_get_autocommit(c.db), 0);
	sql(c.db, "ROLLBACK");
	cr_assert_eq(our_rows(&c), 0);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM own"), 0);
	fixture_assert_fails(caller_load(&c, "pod"), KATA_E_NOT_FOUND, c.err);
	caller_close(&c);
}

Test(transaction, committed_leaves_both_rows)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;

	caller_open(&c);
	sql(c.db, "BEGIN; INSERT INTO own VALUES ('mine')");
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	sql(c.db, "COMMIT");
	cr_assert_eq(our_rows(&c), FULL_ROWS);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM own"), 1);
	fixture_assert_ok(caller_load(&c, "pod"), c.err);
	caller_close(&c);
}

Test(transaction, after_a_rollback_storing_again_inserts_again)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;

	caller_open(&c);
	for (int i = 0; i < 4; i++) {
		sql(c.db, "BEGIN");
		fixture_assert_ok(caller_store(&c, &wish), c.err);
		fixture_assert_ok(caller_store(&c, &wish), c.err);
		cr_assert_eq(our_rows(&c), FULL_ROWS);
		sql(c.db, "ROLLBACK");
	}
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	cr_assert_eq(our_rows(&c), FULL_ROWS);
	caller_close(&c);
}

Test(transaction, savepoints_of_the_caller_three_deep_undo_what_they_hold)
{
	struct record_wish first = full_wish("first"), second = full_wish("second"), third = full_wish("third");
	struct caller c;

	caller_open(&c);
	sql(c.db, "SAVEPOINT one");
	fixture_assert_ok(caller_store(&c, &first), c.err);
	sql(c.db, "SAVEPOINT two");
	fixture_assert_ok(caller_store(&c, &second), c.err);
	sql(c.db, "SAVEPOINT kata_persistence"); /* our own name is nothing special */
	fixture_assert_ok(caller_store(&c, &third), c.err);
	sql(c.db, "ROLLBACK TO kata_persistence; RELEASE kata_persistence");
	fixture_assert_fails(caller_load(&c, "third"), KATA_E_NOT_FOUND, c.err);
	fixture_assert_ok(caller_load(&c, "second"), c.err);
	sql(c.db, "ROLLBACK TO two; RELEASE two");
	fixture_assert_fails(caller_load(&c, "second"), KATA_E_NOT_FOUND, c.err);
	sql(c.db, "RELEASE one");
	fixture_assert_ok(caller_load(&c, "first"), c.err);
	cr_assert_eq(sqlite3_get_autocommit(c.db), 1);
	caller_close(&c);
}

Test(transaction, the_schema_itself_goes_with_a_rollback_and_comes_back)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;
	kata_persistence *p = NULL;

	caller_open(&c);
	sql(c.db, "ATTACH ':memory:' AS side; BEGIN");
	fixture_assert_ok(kata_persistence_new_sqlite_attached(c.f.context, c.db, "side", &p, &c.err), c.err);
	fixture_assert_ok(kata_persistence_create_schema(p, &c.err), c.err);
	fixture_assert_ok(kata_persistence_create_sandbox(p, "pod", &c.err), c.err);
	sql(c.db, "ROLLBACK");
	fixture_assert_fails(kata_persistence_create_sandbox(p, "pod", &c.err), KATA_E_STATE, c.err);
	assert_message_has(c.err, "kata_persistence_create_schema");
	error_clear(&c.err);
	fixture_assert_ok(kata_persistence_create_schema(p, &c.err), c.err);
	fixture_assert_ok(kata_persistence_create_schema(p, &c.err), c.err);
	fixture_assert_ok(kata_persistence_create_sandbox(p, "pod", &c.err), c.err);
	fixture_assert_fails(caller_load(&c, "pod"), KATA_E_NOT_FOUND, c.err);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	kata_persistence_free(p);
	sql(c.db, "DETACH side");
	caller_close(&c);
}

Test(transaction, without_one_each_store_is_all_or_nothing)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	cr_assert_eq(sqlite3_get_autocommit(c.db), 1);
	cr_assert_eq(our_rows(&c), FULL_ROWS);
	caller_close(&c);
}

/* ---- a store that fails ---- */

/* Refuses writes of one table, at preparation, as an authorizer does. */
struct denial {
	const char *table;
	int action;
};

static int deny(void *user, int action, const char *a, const char *b, const char *schema, const char *trigger)
{
	const struct denial *d = user;

	return action == d->action && (!d->table || (a && strcmp(a, d->table) == 0)) ? SQLITE_DENY : SQLITE_OK;
}

Test(failed_store, leaves_the_record_of_before)
{
	static const char *const tables[] = {"kata_sandboxes", "kata_storages", "kata_nics", "kata_containers",
					     "kata_processes"};
	struct record_wish wish = full_wish("pod"), changed = full_wish("pod");
	struct caller c;
	char *before, *after;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	before =
		sql_text(c.db, "SELECT group_concat(id || hostname) || (SELECT group_concat(id) FROM kata_storages) || "
			       "(SELECT group_concat(id) FROM kata_containers) FROM kata_sandboxes");
	changed.hostname = "changed";
	changed.disks = 3;
	changed.nics = 1;
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		struct denial d = {tables[i], SQLITE_UPDATE};

		sqlite3_set_authorizer(c.db, deny, &d);
		if (i == 2) /* fewer NICs: rows are deleted */
			d.action = SQLITE_DELETE;
		fixture_assert_fails(caller_store(&c, &changed), KATA_E_PERMISSION, c.err);
		assert_message_has(c.err, "authorizer");
		assert_message_has(c.err, "store sandbox 'pod'");
		sqlite3_set_authorizer(c.db, NULL, NULL);
		cr_assert_eq(sqlite3_get_autocommit(c.db), 1, "no transaction is left open");
		after = sql_text(
			c.db, "SELECT group_concat(id || hostname) || (SELECT group_concat(id) FROM kata_storages) || "
			      "(SELECT group_concat(id) FROM kata_containers) FROM kata_sandboxes");
		cr_assert_str_eq(after, before, "%s", tables[i]);
		free(after);
	}
	fixture_assert_ok(caller_store(&c, &changed), c.err);
	free(before);
	caller_close(&c);
}

Test(failed_store, within_a_transaction_keeps_what_the_caller_wrote)
{
	struct record_wish wish = full_wish("pod");
	struct denial d = {"kata_processes", SQLITE_INSERT};
	struct caller c;

	caller_open(&c);
	sql(c.db, "BEGIN; INSERT INTO own VALUES ('mine')");
	sqlite3_set_authorizer(c.db, deny, &d);
	fixture_assert_fails(caller_store(&c, &wish), KATA_E_PERMISSION, c.err);
	sqlite3_set_authorizer(c.db, NULL, NULL);
	cr_assert_eq(sqlite3_get_autocommit(c.db), 0);
	cr_assert_eq(our_rows(&c), 0);
	sql(c.db, "COMMIT");
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM own"), 1);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	caller_close(&c);
}

Test(failed_store, says_who_holds_the_sandbox_and_since_when)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;
	char pid[32];

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	fixture_assert_ok(kata__persistence_set_epoch(c.p, "pod", 1, 2, &c.err), c.err);
	fixture_assert_fails(caller_store(&c, &wish), KATA_E_FENCED, c.err);
	snprintf(pid, sizeof(pid), "by pid %d (start time ", (int)getpid());
	assert_message_has(c.err, pid);
	assert_message_has(c.err, "epoch 2, this handle has 1");
	caller_close(&c);
}

Test(failed_store, of_a_full_database_is_an_io_error_with_enospc)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;
	char pragma[64];

	caller_open(&c);
	snprintf(pragma, sizeof(pragma), "PRAGMA max_page_count = %d", (int)sql_int(c.db, "PRAGMA page_count") + 1);
	sql(c.db, pragma);
	static char path[200 * 1024];
	memset(path, 'x', sizeof(path) - 1);
	wish.hostname = path;
	fixture_assert_fails(caller_store(&c, &wish), KATA_E_IO, c.err);
	cr_assert_eq(kata_error_get_errno(c.err), ENOSPC);
	assert_message_has(c.err, "kata_sandboxes");
	cr_assert_eq(our_rows(&c), 0);
	cr_assert_eq(sqlite3_get_autocommit(c.db), 1);
	caller_close(&c);
}

Test(failed_store, on_a_read_only_handle_is_a_matter_of_permission)
{
	struct record_wish wish = full_wish("pod");
	struct caller c, reader = {0};
	char *path;

	caller_open(&c);
	path = fixture_path(&c.f, "caller.db");
	cr_assert_eq(sqlite3_open_v2(path, &reader.db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	fixture_assert_ok(kata_persistence_new_sqlite_attached(c.f.context, reader.db, NULL, &reader.p, &reader.err),
			  reader.err);
	fixture_assert_fails(caller_store(&reader, &wish), KATA_E_PERMISSION, reader.err);
	assert_message_has(reader.err, "open the database for writing");
	error_clear(&reader.err);
	kata_persistence_free(reader.p);
	sqlite3_close(reader.db);
	free(path);
	caller_close(&c);
}

Test(failed_store, on_a_locked_database_is_busy_at_once_without_a_busy_handler)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;
	sqlite3 *other;
	char *path;

	caller_open(&c);
	path = fixture_path(&c.f, "caller.db");
	cr_assert_eq(sqlite3_open(path, &other), SQLITE_OK);
	sql(other, "BEGIN IMMEDIATE");
	fixture_assert_fails(caller_store(&c, &wish), KATA_E_BUSY, c.err);
	assert_message_has(c.err, "locked");
	sql(other, "COMMIT");
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	sqlite3_close(other);
	free(path);
	caller_close(&c);
}

Test(failed_store, after_a_read_that_others_overtook_asks_to_begin_again)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;
	sqlite3 *other;
	char *path;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	path = fixture_path(&c.f, "caller.db");
	cr_assert_eq(sqlite3_open(path, &other), SQLITE_OK);
	sql(c.db, "BEGIN; SELECT * FROM own");
	sql(other, "INSERT INTO own VALUES ('other')");
	fixture_assert_fails(caller_store(&c, &wish), KATA_E_BUSY, c.err);
	assert_message_has(c.err, "roll back and begin again");
	sql(c.db, "ROLLBACK");
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	sqlite3_close(other);
	free(path);
	caller_close(&c);
}

Test(failed_store, refuses_what_it_could_not_read_back)
{
	struct record_wish wish = full_wish("pod");
	kata_record *r = sample_record(&wish);
	struct caller c;

	caller_open(&c);
	free(r->storages[1].path);
	r->storages[1].path = strdup("/images/\xff\xfe");
	fixture_assert_fails(kata__persistence_store(c.p, r, &c.err), KATA_E_INVALID, c.err);
	assert_message_has(c.err, "kata_storages.path: is not UTF-8");
	error_clear(&c.err);
	free(r->storages[1].path);
	r->storages[1].path = malloc(KATA__FIELD_TEXT_MAX + 2);
	memset(r->storages[1].path, 'a', KATA__FIELD_TEXT_MAX + 1);
	r->storages[1].path[KATA__FIELD_TEXT_MAX + 1] = '\0';
	fixture_assert_fails(kata__persistence_store(c.p, r, &c.err), KATA_E_INVALID, c.err);
	error_clear(&c.err);
	r->storages[1].path[9] = '\0';
	r->vm_start_time = UINT64_MAX;
	fixture_assert_fails(kata__persistence_store(c.p, r, &c.err), KATA_E_INVALID, c.err);
	assert_message_has(c.err, "kata_sandboxes.vm_start_time");
	cr_assert_eq(our_rows(&c), 0);
	kata__record_free(r);
	caller_close(&c);
}

Test(failed_store, while_a_write_of_the_caller_is_half_done_is_busy)
{
	struct record_wish wish = full_wish("pod");
	sqlite3_stmt *st;
	struct caller c;

	caller_open(&c);
	cr_assert_eq(sqlite3_prepare_v2(c.db, "INSERT INTO own VALUES ('a'), ('b') RETURNING name", -1, &st, NULL),
		     SQLITE_OK);
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	fixture_assert_fails(caller_store(&c, &wish), KATA_E_BUSY, c.err);
	sqlite3_finalize(st);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	caller_close(&c);
}

/* ---- his handle ---- */

struct watched {
	char text[8192];
	unsigned begin, other;
};

static int on_statement(unsigned kind, void *user, void *stmt, void *text)
{
	static const char *const forbidden[] = {"BEGIN",  "COMMIT", "END",    "ROLLBACK;",
						"PRAGMA", "ATTACH", "DETACH", "VACUUM"};
	struct watched *w = user;
	const char *s = text;

	for (size_t i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++)
		w->begin += strncasecmp(s, forbidden[i], strlen(forbidden[i])) == 0;
	w->begin += strcasecmp(s, "ROLLBACK") == 0;
	w->other++;
	if (strlen(w->text) + strlen(s) + 2 < sizeof(w->text))
		snprintf(w->text + strlen(w->text), sizeof(w->text) - strlen(w->text), "%s\n", s);
	return 0;
}

static int count_actions(void *user, int action, const char *a, const char *b, const char *schema, const char *trigger)
{
	unsigned *counts = user;

	counts[0] += action == SQLITE_TRANSACTION || action == SQLITE_PRAGMA || action == SQLITE_ATTACH ||
		     action == SQLITE_DETACH;
	counts[1]++;
	return SQLITE_OK;
}

static void exercise(struct caller *c)
{
	struct record_wish wish = full_wish("pod"), fewer = full_wish("pod"), bare = {.id = "bare", .epoch = 1};
	char **list = NULL, *id = NULL;

	fewer.disks = 1;
	fixture_assert_ok(kata_persistence_create_schema(c->p, &c->err), c->err);
	fixture_assert_ok(kata_persistence_create_sandbox(c->p, "pod", &c->err), c->err);
	fixture_assert_ok(caller_store(c, &wish), c->err);
	fixture_assert_ok(caller_store(c, &wish), c->err);
	fixture_assert_ok(caller_store(c, &fewer), c->err);
	fixture_assert_ok(caller_store(c, &bare), c->err);
	fixture_assert_ok(caller_store(c, &bare), c->err);
	fixture_assert_ok(caller_load(c, "pod"), c->err);
	fixture_assert_ok(kata__persistence_set_epoch(c->p, "pod", 1, 2, &c->err), c->err);
	fixture_assert_fails(caller_store(c, &wish), KATA_E_FENCED, c->err);
	error_clear(&c->err);
	fixture_assert_ok(kata_persistence_list_sandboxes(c->p, &list, &c->err), c->err);
	kata_string_list_free(list);
	fixture_assert_ok(kata_persistence_list_containers(c->p, NULL, &list, &c->err), c->err);
	kata_string_list_free(list);
	fixture_assert_ok(kata_persistence_sandbox_of_container(c->p, "app", &id, &c->err), c->err);
	free(id);
	fixture_assert_ok(kata_persistence_delete_sandbox(c->p, "pod", &c->err), c->err);
	fixture_assert_fails(kata_persistence_delete_sandbox(c->p, "pod", &c->err), KATA_E_NOT_FOUND, c->err);
	error_clear(&c->err);
	fixture_assert_ok(kata_persistence_delete_sandbox(c->p, "bare", &c->err), c->err);
}

/* commit_counts: what is added to the caller's transaction. */
Test(handle, sees_no_begin_commit_rollback_pragma_or_attach_of_ours)
{
	struct watched w = {0};
	unsigned counts[2] = {0, 0};
	struct caller c;

	caller_open(&c);
	sqlite3_trace_v2(c.db, SQLITE_TRACE_STMT, on_statement, &w);
	sqlite3_set_authorizer(c.db, count_actions, counts);
	exercise(&c);
	sqlite3_set_authorizer(c.db, NULL, NULL);
	sqlite3_trace_v2(c.db, 0, NULL, NULL);
	cr_assert_eq(w.begin, 0, "%s", w.text);
	cr_assert_gt(w.other, 30);
	cr_assert_eq(counts[0], 0);
	cr_assert_gt(counts[1], 100);
	caller_close(&c);
}

Test(handle, a_store_that_changes_nothing_is_one_statement_a_row)
{
	struct record_wish wish = full_wish("pod"), bare = {.id = "bare", .epoch = 1};
	struct watched w = {0};
	struct caller c;

	caller_open(&c);
	for (int i = 0; i < 2; i++) {
		fixture_assert_ok(caller_store(&c, &wish), c.err);
		fixture_assert_ok(caller_store(&c, &bare), c.err);
	}
	sqlite3_trace_v2(c.db, SQLITE_TRACE_STMT, on_statement, &w);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	cr_assert_eq(w.other, 1 + 2 + 2 + 2 + 2 + 2, "the rows, SAVEPOINT and RELEASE, and nothing else:\n%s", w.text);
	w.other = 0;
	fixture_assert_ok(caller_store(&c, &bare), c.err);
	cr_assert_eq(w.other, 1, "no savepoint around one statement:\n%s", w.text);
	sqlite3_trace_v2(c.db, 0, NULL, NULL);
	caller_close(&c);
}

static int busy_calls;

static int on_busy(void *user, int count)
{
	busy_calls++;
	return 0;
}

static int on_commit(void *user)
{
	++*(int *)user;
	return 0;
}

Test(handle, is_afterwards_as_it_was)
{
	struct caller c;
	sqlite3 *other;
	sqlite3_stmt *st;
	int commits = 0, limit;
	char *path;

	caller_open(&c);
	path = fixture_path(&c.f, "caller.db");
	cr_assert_eq(sqlite3_open(path, &other), SQLITE_OK);
	sqlite3_busy_handler(c.db, on_busy, NULL);
	sqlite3_commit_hook(c.db, on_commit, &commits);
	limit = sqlite3_limit(c.db, SQLITE_LIMIT_LENGTH, 123456789);
	sql(c.db, "BEGIN; INSERT INTO own VALUES ('a'), ('b'), ('c')");
	cr_assert_eq(sqlite3_last_insert_rowid(c.db), 3);
	exercise(&c);
	cr_assert_eq(sqlite3_get_autocommit(c.db), 0);
	cr_assert_eq(sqlite3_last_insert_rowid(c.db), 3, "last_insert_rowid is the caller's");
	cr_assert_eq(sqlite3_limit(c.db, SQLITE_LIMIT_LENGTH, limit), 123456789);
	cr_assert_eq(commits, 0);
	for (st = sqlite3_next_stmt(c.db, NULL); st; st = sqlite3_next_stmt(c.db, st))
		cr_assert_not(sqlite3_stmt_busy(st), "left open: %s", sqlite3_sql(st));
	sql(c.db, "COMMIT");
	cr_assert_eq(commits, 1);
	sql(other, "BEGIN IMMEDIATE");
	fixture_assert_fails(kata_persistence_create_sandbox(c.p, "x", &c.err), KATA_E_BUSY, c.err);
	cr_assert_eq(busy_calls, 1, "the caller's busy handler was asked, and only it");
	sqlite3_close(other);
	kata_persistence_free(c.p);
	c.p = NULL;
	cr_assert_null(sqlite3_next_stmt(c.db, NULL), "freeing finalizes our statements");
	free(path);
	caller_close(&c);
}

Test(handle, statements_keep_no_text_of_the_record)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err); /* the record is freed by now */
	for (sqlite3_stmt *st = sqlite3_next_stmt(c.db, NULL); st; st = sqlite3_next_stmt(c.db, st)) {
		char *text = sqlite3_expanded_sql(st);

		cr_assert_null(strstr(text, "'pod'"), "%s", text);
		sqlite3_free(text);
	}
	caller_close(&c);
}

Test(handle, an_open_read_of_the_caller_goes_on_over_a_store)
{
	struct record_wish wish = full_wish("pod");
	sqlite3_stmt *st;
	struct caller c;

	caller_open(&c);
	sql(c.db, "INSERT INTO own VALUES ('a'), ('b'), ('c')");
	cr_assert_eq(sqlite3_prepare_v2(c.db, "SELECT name FROM own", -1, &st, NULL), SQLITE_OK);
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	fixture_assert_fails(caller_store(&c, &(struct record_wish){.id = "pod", .epoch = 0}), KATA_E_FENCED, c.err);
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	cr_assert_eq(sqlite3_step(st), SQLITE_DONE);
	sqlite3_finalize(st);
	caller_close(&c);
}

Test(handle, needs_no_foreign_keys_and_bears_them)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;

	caller_open(&c);
	for (int on = 0; on < 2; on++) {
		sql(c.db, on ? "PRAGMA foreign_keys = ON" : "PRAGMA foreign_keys = OFF");
		fixture_assert_ok(caller_store(&c, &wish), c.err);
		fixture_assert_ok(caller_store(&c, &wish), c.err);
		fixture_assert_ok(kata_persistence_delete_sandbox(c.p, "pod", &c.err), c.err);
		cr_assert_eq(our_rows(&c), 0);
	}
	caller_close(&c);
}

Test(handle, opens_no_second_fd_on_the_callers_file)
{
	struct record_wish wish = full_wish("pod");
	struct census_scope scope = {CENSUS_FDS, NULL, NULL, NULL};
	struct census *before, *after;
	struct caller c;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	before = census_take(&scope);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	fixture_assert_ok(caller_load(&c, "pod"), c.err);
	after = census_take(&scope);
	cr_assert_null(census_diff(before, after));
	census_free(before);
	census_free(after);
	caller_close(&c);
}

/* ---- set_epoch leaves the row as it was when it is taken back ---- */

Test(epoch, given_back_leaves_the_row_as_it_was)
{
	struct record_wish wish = full_wish("pod");
	char *before, *after;
	struct caller c;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	sql(c.db, "UPDATE kata_sandboxes SET taken_pid = 11, taken_at = 1000"); /* somebody else, long ago */
	before = sql_text(
		c.db, "SELECT epoch || ' ' || taken_pid || ' ' || taken_at || ' ' || updated_at FROM kata_sandboxes");
	fixture_assert_ok(kata__persistence_set_epoch(c.p, "pod", 1, 2, &c.err), c.err);
	cr_assert_eq(sql_int(c.db, "SELECT taken_pid FROM kata_sandboxes"), getpid());
	fixture_assert_ok(kata__persistence_set_epoch(c.p, "pod", 2, 1, &c.err), c.err);
	after = sql_text(
		c.db, "SELECT epoch || ' ' || taken_pid || ' ' || taken_at || ' ' || updated_at FROM kata_sandboxes");
	cr_assert_str_eq(after, before);
	free(before);
	free(after);
	caller_close(&c);
}

/* ---- threads ---- */

struct worker {
	kata_persistence *p;
	int number;
	int failures;
};

static void *work(void *user)
{
	struct worker *w = user;
	char id[16];

	for (int i = 0; i < 20; i++) {
		struct record_wish wish;
		kata_record *r;

		snprintf(id, sizeof(id), "pod%d-%d", w->number, i % 5);
		wish = full_wish(id);
		r = sample_record(&wish);
		w->failures += kata__persistence_store(w->p, r, NULL) != 0;
		kata__record_free(r);
	}
	return NULL;
}

Test(threads, may_store_on_one_file_of_ours_at_once)
{
	struct worker workers[4];
	pthread_t threads[4];
	struct fixture f;
	kata_persistence *p = NULL;
	kata_error *err = NULL;
	char **ids = NULL;

	fixture_init(&f, true, 0);
	char *path = fixture_path(&f, "ours.db");
	fixture_assert_ok(kata_persistence_new_sqlite(f.context, path, &p, &err), err);
	for (int i = 0; i < 4; i++) {
		workers[i] = (struct worker){p, i, 0};
		cr_assert_eq(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		cr_assert_eq(workers[i].failures, 0);
	}
	fixture_assert_ok(kata_persistence_list_sandboxes(p, &ids, &err), err);
	cr_assert_eq(kata__strv_length((const char *const *)ids), 20);
	kata_string_list_free(ids);
	kata_persistence_free(p);
	free(path);
	fixture_deinit(&f);
}

/* A callback of SQLite that calls us back would wait for itself. */
static kata_persistence *inner;
static int inner_rc;

static int call_back(void *user, int action, const char *a, const char *b, const char *schema, const char *trigger)
{
	if (action == SQLITE_READ && inner) {
		kata_persistence *p = inner;
		char **ids = NULL;

		inner = NULL;
		inner_rc = kata_persistence_list_sandboxes(p, &ids, NULL);
	}
	return SQLITE_OK;
}

Test(threads, a_call_from_inside_a_callback_of_sqlite_is_refused)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;

	caller_open(&c);
	inner = c.p;
	sqlite3_set_authorizer(c.db, call_back, NULL);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	sqlite3_set_authorizer(c.db, NULL, NULL);
	cr_assert_eq(inner_rc, KATA_E_STATE);
	caller_close(&c);
}
