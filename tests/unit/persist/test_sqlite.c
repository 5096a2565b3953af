/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite as a persistence: the suite in a file of ours and on a caller's handle; how a file of ours is opened. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "unit/persist/persist_test.h"

/* ---- the suite ---- */

static void use(struct persistence_world *w, kata_persistence *p)
{
	w->ops = &p->ops;
	w->self = p->self;
}

static void open_file(struct persistence_world *w)
{
	char *path = fixture_path(&w->f, "ours.db");
	kata_persistence *p = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_new_sqlite(w->f.context, path, &p, &err), err);
	free(path);
	w->priv = p;
	use(w, p);
}

static void close_file(struct persistence_world *w)
{
	kata_persistence_free(w->priv);
}

static void open_attached(struct persistence_world *w)
{
	struct caller *c = malloc(sizeof(*c));

	caller_open(c);
	w->priv = c;
	use(w, c->p);
}

static void close_attached(struct persistence_world *w)
{
	caller_close(w->priv);
	free(w->priv);
}

/* Inside a transaction of the caller's, in a schema he attached under an odd name, with foreign keys on and text as
 * UTF-16. */
static void open_odd(struct persistence_world *w)
{
	struct caller *c = calloc(1, sizeof(*c));

	fixture_init(&c->f, true, 0);
	cr_assert_eq(sqlite3_open(":memory:", &c->db), SQLITE_OK);
	sql(c->db,
	    "PRAGMA foreign_keys = ON; PRAGMA encoding = 'UTF-16'; ATTACH ':memory:' AS \"o'd\"\"d @ %s;--\"; BEGIN");
	fixture_assert_ok(kata_persistence_new_sqlite_attached(c->f.context, c->db, "o'd\"d @ %s;--", &c->p, &c->err),
			  c->err);
	fixture_assert_ok(kata_persistence_create_schema(c->p, &c->err), c->err);
	w->priv = c;
	use(w, c->p);
}

static void close_odd(struct persistence_world *w)
{
	struct caller *c = w->priv;

	cr_assert_eq(sqlite3_get_autocommit(c->db), 0, "the caller's transaction is still open");
	cr_assert_eq(sql_int(c->db, "SELECT count(*) FROM sqlite_master WHERE name LIKE 'kata%'"), 0,
		     "main was left alone");
	sql(c->db, "COMMIT");
	caller_close(c);
	free(c);
}

static const struct persistence_kind file_kind = {"sqlite file", open_file, close_file, sample_record,
						  kata__record_free};
static const struct persistence_kind attached_kind = {"sqlite attached", open_attached, close_attached, sample_record,
						      kata__record_free};
static const struct persistence_kind odd_kind = {"sqlite attached in a transaction", open_odd, close_odd, sample_record,
						 kata__record_free};

#define CASE(name)                                                                                                     \
	Test(persistence_file, name)                                                                                   \
	{                                                                                                              \
		persistence_contract_##name(&file_kind);                                                               \
	}
PERSISTENCE_CONTRACT_CASES(CASE)
PERSISTENCE_CONTRACT_MORE_CASES(CASE)
#undef CASE
#define CASE(name)                                                                                                     \
	Test(persistence_attached, name)                                                                               \
	{                                                                                                              \
		persistence_contract_##name(&attached_kind);                                                           \
	}
PERSISTENCE_CONTRACT_CASES(CASE)
PERSISTENCE_CONTRACT_MORE_CASES(CASE)
#undef CASE
#define CASE(name)                                                                                                     \
	Test(persistence_odd_schema, name)                                                                             \
	{                                                                                                              \
		persistence_contract_##name(&odd_kind);                                                                \
	}
PERSISTENCE_CONTRACT_CASES(CASE)
PERSISTENCE_CONTRACT_MORE_CASES(CASE)
#undef CASE

/* ---- a file of ours ---- */

struct own {
	struct fixture f;
	char *path;
	kata_persistence *p;
	kata_error *err;
};

static void own_init(struct own *o)
{
	memset(o, 0, sizeof(*o));
	fixture_init(&o->f, true, 0);
	o->path = fixture_path(&o->f, "ours.db");
}

static int own_open(struct own *o, const char *path)
{
	error_clear(&o->err);
	return kata_persistence_new_sqlite(o->f.context, path, &o->p, &o->err);
}

static void own_deinit(struct own *o)
{
	error_clear(&o->err);
	kata_persistence_free(o->p);
	free(o->path);
	fixture_deinit(&o->f);
}

static sqlite3 *handle_of(kata_persistence *p)
{
	return ((struct kata__sqlite *)p->self)->db;
}

Test(sqlite_file, is_made_with_mode_0600_whatever_the_umask)
{
	struct own o;
	struct stat st;

	own_init(&o);
	umask(0);
	fixture_assert_ok(own_open(&o, o.path), o.err);
	cr_assert_eq(stat(o.path, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0600);
	own_deinit(&o);
}

Test(sqlite_file, is_in_wal_mode_with_synchronous_normal_and_waits_five_seconds)
{
	struct own o;

	own_init(&o);
	fixture_assert_ok(own_open(&o, o.path), o.err);
	char *mode = sql_text(handle_of(o.p), "PRAGMA journal_mode");
	cr_assert_str_eq(mode, "wal");
	free(mode);
	cr_assert_eq(sql_int(handle_of(o.p), "PRAGMA synchronous"), 1);
	cr_assert_eq(sql_int(handle_of(o.p), "PRAGMA busy_timeout"), 10000);
	cr_assert_eq(sql_int(handle_of(o.p), "PRAGMA trusted_schema"), 0);
	own_deinit(&o);
}

Test(sqlite_file, keeps_what_was_stored_over_closing)
{
	struct record_wish wish = full_wish("pod");
	kata_record *r = sample_record(&wish), *back = NULL;
	char *before = kata_record_to_json(r), *after;
	struct own o;

	own_init(&o);
	fixture_assert_ok(own_open(&o, o.path), o.err);
	fixture_assert_ok(kata__persistence_store(o.p, r, &o.err), o.err);
	kata_persistence_free(o.p);
	o.p = NULL;
	fixture_assert_ok(own_open(&o, o.path), o.err);
	fixture_assert_ok(kata__persistence_load(o.p, "pod", &back, &o.err), o.err);
	after = kata_record_to_json(back);
	cr_assert_str_eq(after, before);
	free(before);
	free(after);
	kata__record_free(r);
	kata__record_free(back);
	own_deinit(&o);
}

Test(sqlite_file, leaves_nothing_but_the_file_once_closed)
{
	struct census *before;
	struct own o;

	own_init(&o);
	before = fixture_census(&o.f);
	fixture_assert_ok(own_open(&o, o.path), o.err);
	fixture_assert_ok(kata_persistence_create_sandbox(o.p, "pod", &o.err), o.err);
	kata_persistence_free(o.p);
	o.p = NULL;
	fixture_assert_census(&o.f, before, "after closing");
	char *wal = kata__format("%s-wal", o.path);
	cr_assert_eq(access(wal, F_OK), -1);
	free(wal);
	own_deinit(&o);
}

Test(sqlite_file, a_missing_directory_is_not_found)
{
	struct own o;
	char *path;

	own_init(&o);
	path = fixture_path(&o.f, "no/such/dir.db");
	fixture_assert_fails(own_open(&o, path), KATA_E_NOT_FOUND, o.err);
	assert_message_has(o.err, "directory does not exist");
	assert_message_has(o.err, path);
	free(path);
	own_deinit(&o);
}

Test(sqlite_file, a_directory_a_fifo_and_no_path_are_invalid)
{
	struct own o;

	own_init(&o);
	fixture_assert_fails(own_open(&o, o.f.dir), KATA_E_INVALID, o.err);
	assert_message_has(o.err, "is a directory");
	cr_assert_eq(mkfifo(o.path, 0600), 0);
	fixture_assert_fails(own_open(&o, o.path), KATA_E_INVALID, o.err);
	fixture_assert_fails(own_open(&o, NULL), KATA_E_INVALID, o.err);
	fixture_assert_fails(own_open(&o, ""), KATA_E_INVALID, o.err);
	own_deinit(&o);
}

Test(sqlite_file, what_is_not_a_database_is_corrupt_and_stays_as_it_was)
{
	static const char text[] =
		"This is a letter, and not a database at all; it is long enough to have a header of 100 bytes......";
	struct own o;
	char *path, back[sizeof(text)];
	int fd;

	own_init(&o);
	path = fixture_write_file(&o.f, "letter.txt", text, sizeof(text));
	fixture_assert_fails(own_open(&o, path), KATA_E_CORRUPT, o.err);
	assert_message_has(o.err, "not a database");
	assert_message_has(o.err, path);
	fd = open(path, O_RDONLY);
	cr_assert_eq(read(fd, back, sizeof(back)), (ssize_t)sizeof(back));
	cr_assert_eq(memcmp(back, text, sizeof(text)), 0);
	close(fd);
	free(path);
	own_deinit(&o);
}

Test(sqlite_file, names_that_sqlite_reads_otherwise_are_files)
{
	struct own o;

	own_init(&o);
	cr_assert_eq(chdir(o.f.dir), 0);
	fixture_assert_ok(own_open(&o, ":memory:"), o.err);
	cr_assert_eq(access(":memory:", F_OK), 0);
	own_deinit(&o);
}

Test(sqlite_file, a_file_that_may_not_be_written_is_a_matter_of_permission)
{
	struct own o;

	own_init(&o);
	fixture_assert_ok(own_open(&o, o.path), o.err);
	kata_persistence_free(o.p);
	o.p = NULL;
	cr_assert_eq(chmod(o.path, 0444), 0);
	if (geteuid() == 0) { /* root may write everything: become somebody who may not */
		cr_assert_eq(chmod(o.f.dir, 0555), 0);
		cr_assert_eq(seteuid(65534), 0);
	}
	fixture_assert_fails(own_open(&o, o.path), KATA_E_PERMISSION, o.err);
	assert_message_has(o.err, "ours.db' is read-only for this process: give it write access");
	if (getuid() == 0)
		cr_assert_eq(seteuid(0), 0);
	cr_assert_eq(chmod(o.f.dir, 0755), 0);
	own_deinit(&o);
}

Test(sqlite_file, a_file_on_a_file_system_that_became_read_only_is_a_matter_of_permission)
{
	struct own o;

	own_init(&o);
	fixture_assert_ok(own_open(&o, o.path), o.err);
	kata_persistence_free(o.p);
	o.p = NULL;
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount(o.f.dir, o.f.dir, NULL, MS_BIND, NULL) ||
	    mount(NULL, o.f.dir, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL))
		cr_skip_test("this process may not mount");
	fixture_assert_fails(own_open(&o, o.path), KATA_E_PERMISSION, o.err);
	assert_message_has(o.err, "ours.db' is read-only for this process: give it write access");
	cr_assert_eq(umount2(o.f.dir, MNT_DETACH), 0);
	own_deinit(&o);
}

Test(sqlite_file, a_newer_schema_is_refused_and_untouched)
{
	struct own o;
	sqlite3 *db;

	own_init(&o);
	cr_assert_eq(sqlite3_open(o.path, &db), SQLITE_OK);
	sql(db, "CREATE TABLE kata_schema (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL) STRICT;"
		"INSERT INTO kata_schema VALUES (1, 99); CREATE TABLE kata_sandboxes (anything)");
	sqlite3_close(db);
	fixture_assert_fails(own_open(&o, o.path), KATA_E_VERSION, o.err);
	assert_message_has(o.err, "99");
	cr_assert_eq(sqlite3_open(o.path, &db), SQLITE_OK);
	char *mode = sql_text(db, "PRAGMA journal_mode");
	cr_assert_str_eq(mode, "delete");
	free(mode);
	cr_assert_eq(sql_int(db, "SELECT count(*) FROM sqlite_master"), 2);
	sqlite3_close(db);
	own_deinit(&o);
}

/* No byte may be written: the empty file can be made, the tables cannot. */
Test(sqlite_file, a_failed_opening_removes_the_file_it_made)
{
	struct rlimit limit = {0, RLIM_INFINITY};
	struct own o;

	own_init(&o);
	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	fixture_assert_fails(own_open(&o, o.path), KATA_E_IO, o.err);
	cr_assert_eq(access(o.path, F_OK), -1);
	limit.rlim_cur = RLIM_INFINITY;
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	fixture_assert_ok(own_open(&o, o.path), o.err);
	own_deinit(&o);
}

/* SQLite itself would go on with a file that has no name any more. */
Test(sqlite_file, one_that_was_removed_or_replaced_is_not_written_to)
{
	kata_persistence *p = NULL;
	kata_error *err = NULL;
	struct fixture f;
	char *path, *away;

	fixture_init(&f, true, 0);
	path = fixture_path(&f, "records.db");
	away = fixture_path(&f, "away");
	fixture_assert_ok(kata_persistence_new_sqlite(f.context, path, &p, &err), err);
	for (int replaced = 0; replaced < 2; replaced++) {
		cr_assert_eq(rename(path, away), 0);
		if (replaced)
			free(fixture_write_file(&f, "records.db", "x", 1));
		fixture_assert_fails(kata_persistence_create_sandbox(p, "pod", &err), KATA_E_IO, err);
		assert_message_has(err, "removed or replaced since it was opened");
		error_clear(&err);
		cr_assert_eq(rename(away, path), 0);
	}
	fixture_assert_ok(kata_persistence_create_sandbox(p, "pod", &err), err);
	kata_persistence_free(p);
	free(path);
	free(away);
	fixture_deinit(&f);
}

Test(sqlite_file, a_locked_database_is_busy_after_the_timeout)
{
	struct own o;
	sqlite3 *db;

	own_init(&o);
	fixture_assert_ok(own_open(&o, o.path), o.err);
	sqlite3_busy_timeout(handle_of(o.p), 50); /* five seconds would prove no more */
	cr_assert_eq(sqlite3_open(o.path, &db), SQLITE_OK);
	sql(db, "BEGIN IMMEDIATE");
	fixture_assert_fails(kata_persistence_create_sandbox(o.p, "pod", &o.err), KATA_E_BUSY, o.err);
	assert_message_has(o.err, "locked");
	error_clear(&o.err);
	sql(db, "COMMIT");
	fixture_assert_ok(kata_persistence_create_sandbox(o.p, "pod", &o.err), o.err);
	sqlite3_close(db);
	own_deinit(&o);
}

/* ---- waiting for another writer ---- */

static int write_store(kata_persistence *p, kata_error **err)
{
	struct record_wish wish = full_wish("pod");
	kata_record *r = sample_record(&wish);
	int rc = kata__persistence_store(p, r, err);

	kata__record_free(r);
	return rc;
}

static int write_reservation(kata_persistence *p, kata_error **err)
{
	kata_reservation_config c = KATA_RESERVATION_CONFIG_INIT;

	c.sandbox_id = "pod";
	c.kind = KATA_RESERVE_NIC;
	c.id = "eth9";
	return kata_persistence_reserve(p, &c, err);
}

static int write_outcome(kata_persistence *p, kata_error **err)
{
	return kata_persistence_settle(p, "pod", KATA_RESERVE_NIC, "eth9", KATA_RESERVATION_DONE, err);
}

static int write_network(kata_persistence *p, kata_error **err)
{
	kata_row row = KATA_ROW_INIT;

	row.kind = KATA_ROW_NETWORK;
	row.id = "net";
	row.state = "up";
	row.sandbox_id = "pod";
	row.type = "bridge";
	return kata_persistence_put_row(p, &row, err);
}

static int remove_network(kata_persistence *p, kata_error **err)
{
	return kata_persistence_remove_row(p, KATA_ROW_NETWORK, "net", err);
}

static int write_epoch(kata_persistence *p, kata_error **err)
{
	return kata__persistence_set_epoch(p, "pod", 1, 2, err);
}

static int delete_record(kata_persistence *p, kata_error **err)
{
	return kata_persistence_delete_sandbox(p, "pod", err);
}

static int busy_calls;

/* The other writer ends when we are found to wait for it. */
static int end_the_other(void *other, int count)
{
	busy_calls++;
	return sqlite3_exec(other, "COMMIT", NULL, NULL, NULL) == SQLITE_OK;
}

/* Each with statements compiled anew, and again with those it has; a handler that is not asked is no waiting. */
static void every_change_waits(kata_persistence *p, sqlite3 *db, sqlite3 *other, kata_persistence *(*renew)(void *user),
			       void *user)
{
	static int (*const changes[])(kata_persistence *, kata_error **) = {
		write_store,   write_store,    write_reservation, write_outcome, write_network,
		write_network, remove_network, write_epoch,       delete_record};

	for (int fresh = 0; fresh < 2; fresh++) {
		for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
			kata_error *err = NULL;

			if (fresh) {
				p = renew(user);
				db = handle_of(p);
			}
			sqlite3_busy_handler(db, end_the_other, other);
			busy_calls = 0;
			sql(other, "BEGIN IMMEDIATE");
			fixture_assert_ok(changes[i](p, &err), err);
			cr_assert_eq(busy_calls, 1, "change %zu asked %d times", i, busy_calls);
		}
	}
}

static kata_persistence *renew_own(void *user)
{
	struct own *o = user;

	kata_persistence_free(o->p);
	fixture_assert_ok(own_open(o, o->path), o->err);
	return o->p;
}

Test(sqlite_file, every_change_waits_while_another_writes)
{
	sqlite3 *other;
	struct own o;

	own_init(&o);
	fixture_assert_ok(own_open(&o, o.path), o.err);
	cr_assert_eq(sqlite3_open(o.path, &other), SQLITE_OK);
	every_change_waits(o.p, handle_of(o.p), other, renew_own, &o);
	sqlite3_close(other);
	own_deinit(&o);
}

static kata_persistence *renew_attached(void *user)
{
	struct caller *c = user;

	kata_persistence_free(c->p);
	fixture_assert_ok(kata_persistence_new_sqlite_attached(c->f.context, c->db, NULL, &c->p, &c->err), c->err);
	return c->p;
}

Test(sqlite_attached, every_change_asks_the_callers_busy_handler)
{
	struct caller c;
	sqlite3 *other;
	char *path;

	caller_open(&c);
	path = fixture_path(&c.f, "caller.db");
	cr_assert_eq(sqlite3_open(path, &other), SQLITE_OK);
	every_change_waits(c.p, c.db, other, renew_attached, &c);
	sqlite3_close(other);
	free(path);
	caller_close(&c);
}

/* Processes, for threads of one process share SQLite's idea of the file's locks. */
Test(sqlite_file, may_be_made_by_many_processes_at_once)
{
	enum { PROCESSES = 8 };
	pid_t pids[PROCESSES];
	struct own o;
	char **ids = NULL;

	own_init(&o);
	for (int i = 0; i < PROCESSES; i++) {
		pids[i] = fork(); /* a test process without threads yet: its context is made in the child */
		cr_assert_geq(pids[i], 0);
		if (pids[i] == 0) {
			kata_context *context = fixture_new_context(&o.f, KATA_CONTEXT_EXTERNAL_LOOP);
			kata_persistence *p = NULL;
			char id[16];

			snprintf(id, sizeof(id), "pod%d", i);
			if (kata_persistence_new_sqlite(context, o.path, &p, &o.err) < 0 ||
			    kata_persistence_create_sandbox(p, id, &o.err) < 0) {
				fprintf(stderr, "%s\n", error_text(o.err));
				_exit(1);
			}
			kata_persistence_free(p);
			_exit(0);
		}
	}
	for (int i = 0; i < PROCESSES; i++) {
		int status = -1;

		cr_assert_eq(waitpid(pids[i], &status, 0), pids[i]);
		cr_assert_eq(status, 0);
	}
	fixture_assert_ok(own_open(&o, o.path), o.err);
	fixture_assert_ok(kata_persistence_list_sandboxes(o.p, &ids, &o.err), o.err);
	cr_assert_eq(kata__strv_length((const char *const *)ids), PROCESSES);
	kata_string_list_free(ids);
	own_deinit(&o);
}
