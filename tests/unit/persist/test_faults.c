/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The n-th allocation, then the n-th access to a file, fails, for every n until none is left to fail: the call reports
 * it or succeeds nevertheless; the record is the one of before or the new one, whole; the handle is in no transaction
 * of ours; the next call works.
 */
#include <errno.h>

#include "unit/persist/persist_test.h"

/* ---- what fails: SQLite's and jansson's allocations, and a VFS */

static int64_t countdown; /* 0: nothing fails */
static bool failed;

static bool fails_now(void)
{
	if (countdown == 0 || --countdown > 0)
		return false;
	failed = true;
	return true;
}

static sqlite3_mem_methods real_memory;

static void *failing_malloc(int n)
{
	return fails_now() ? NULL : real_memory.xMalloc(n);
}

static void *failing_realloc(void *p, int n)
{
	return fails_now() ? NULL : real_memory.xRealloc(p, n);
}

static void fail_sqlite_memory(void)
{
	sqlite3_mem_methods m;

	cr_assert_eq(sqlite3_config(SQLITE_CONFIG_GETMALLOC, &real_memory), SQLITE_OK);
	m = real_memory;
	m.xMalloc = failing_malloc;
	m.xRealloc = failing_realloc;
	cr_assert_eq(sqlite3_config(SQLITE_CONFIG_MALLOC, &m), SQLITE_OK);
	cr_assert_eq(sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0), SQLITE_OK); /* every small allocation counts too */
}

static void *failing_json_malloc(size_t n)
{
	return fails_now() ? NULL : malloc(n);
}

struct file {
	sqlite3_file base;
	sqlite3_file *real;
};

static sqlite3_vfs *real_vfs;
static int fault_code;
#define REAL(f) (((struct file *)(f))->real)

static int f_close(sqlite3_file *f)
{
	int rc = REAL(f)->pMethods->xClose(REAL(f));

	free(REAL(f));
	return rc;
}

static int f_read(sqlite3_file *f, void *buf, int n, sqlite3_int64 at)
{
	return fails_now() ? SQLITE_IOERR_READ : REAL(f)->pMethods->xRead(REAL(f), buf, n, at);
}

static int f_write(sqlite3_file *f, const void *buf, int n, sqlite3_int64 at)
{
	return fails_now() ? fault_code : REAL(f)->pMethods->xWrite(REAL(f), buf, n, at);
}

static int f_truncate(sqlite3_file *f, sqlite3_int64 n)
{
	return fails_now() ? SQLITE_IOERR_TRUNCATE : REAL(f)->pMethods->xTruncate(REAL(f), n);
}

static int f_sync(sqlite3_file *f, int flags)
{
	return fails_now() ? SQLITE_IOERR_FSYNC : REAL(f)->pMethods->xSync(REAL(f), flags);
}

static int f_size(sqlite3_file *f, sqlite3_int64 *n)
{
	return fails_now() ? SQLITE_IOERR_FSTAT : REAL(f)->pMethods->xFileSize(REAL(f), n);
}

static int f_lock(sqlite3_file *f, int level)
{
	return fails_now() ? SQLITE_IOERR_LOCK : REAL(f)->pMethods->xLock(REAL(f), level);
}

static int f_unlock(sqlite3_file *f, int level)
{
	return REAL(f)->pMethods->xUnlock(REAL(f), level);
}

static int f_check(sqlite3_file *f, int *out)
{
	return REAL(f)->pMethods->xCheckReservedLock(REAL(f), out);
}

static int f_control(sqlite3_file *f, int op, void *arg)
{
	return REAL(f)->pMethods->xFileControl(REAL(f), op, arg);
}

static int f_sector(sqlite3_file *f)
{
	return REAL(f)->pMethods->xSectorSize(REAL(f));
}

static int f_traits(sqlite3_file *f)
{
	return REAL(f)->pMethods->xDeviceCharacteristics(REAL(f));
}

/* Version 1: no shared memory, so a rollback journal, whose every write can fail. */
static const sqlite3_io_methods methods = {.iVersion = 1,
					   .xClose = f_close,
					   .xRead = f_read,
					   .xWrite = f_write,
					   .xTruncate = f_truncate,
					   .xSync = f_sync,
					   .xFileSize = f_size,
					   .xLock = f_lock,
					   .xUnlock = f_unlock,
					   .xCheckReservedLock = f_check,
					   .xFileControl = f_control,
					   .xSectorSize = f_sector,
					   .xDeviceCharacteristics = f_traits};

static int v_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *out, int flags, int *out_flags)
{
	struct file *f = (struct file *)out;
	int rc;

	f->base.pMethods = NULL;
	if (fails_now())
		return SQLITE_CANTOPEN;
	f->real = calloc(1, (size_t)real_vfs->szOsFile);
	rc = real_vfs->xOpen(real_vfs, name, f->real, flags, out_flags);
	if (rc == SQLITE_OK)
		f->base.pMethods = &methods;
	else
		free(f->real);
	return rc;
}

static void fail_files(int code)
{
	static sqlite3_vfs vfs;

	real_vfs = sqlite3_vfs_find(NULL);
	vfs = *real_vfs;
	vfs.pNext = NULL;
	vfs.zName = "faulty";
	vfs.szOsFile = sizeof(struct file);
	vfs.xOpen = v_open;
	fault_code = code;
	cr_assert_eq(sqlite3_vfs_register(&vfs, 0), SQLITE_OK);
}

/* ---- a caller whose handle may fail ---- */

static void open_world(struct caller *c, const char *vfs)
{
	char *path;

	memset(c, 0, sizeof(*c));
	fixture_init(&c->f, true, 0);
	path = fixture_path(&c->f, "caller.db");
	cr_assert_eq(sqlite3_open_v2(path, &c->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, vfs), SQLITE_OK);
	free(path);
	if (!vfs)
		sql(c->db, "PRAGMA synchronous = OFF"); /* where memory is what fails */
	sql(c->db, "CREATE TABLE own (name TEXT)");
	fixture_assert_ok(kata_persistence_new_sqlite_attached(c->f.context, c->db, NULL, &c->p, &c->err), c->err);
	fixture_assert_ok(kata_persistence_create_schema(c->p, &c->err), c->err);
}

/* The record's JSON, or "" where there is none. */
static char *content(struct caller *c)
{
	kata_record *r = NULL;
	int rc = kata__persistence_load(c->p, "pod", &r, &c->err);
	char *json;

	if (rc == KATA_E_NOT_FOUND) {
		error_clear(&c->err);
		return strdup("");
	}
	fixture_assert_ok(rc, c->err);
	json = kata_record_to_json(r);
	kata__record_free(r);
	return json;
}

/* A persistence of its own each time, so that preparing its statements can fail too. */
static int on_fresh(struct caller *c, int (*call)(struct caller *c))
{
	int rc;

	kata_persistence_free(c->p);
	c->p = NULL;
	cr_assert_eq(kata_persistence_new_sqlite_attached(c->f.context, c->db, NULL, &c->p, NULL), 0);
	error_clear(&c->err);
	failed = false;
	rc = call(c);
	countdown = 0;
	return rc;
}

static bool is_expected(int status)
{
	return status == KATA_E_NO_MEMORY || status == KATA_E_IO || status == KATA_E_CORRUPT ||
	       status == KATA_E_PERMISSION || status == KATA_E_NOT_FOUND;
}

/* `prepare` brings the record into the state before; returns how often the call was failed. */
static int fail_everywhere(struct caller *c, void (*prepare)(struct caller *c), int (*call)(struct caller *c))
{
	char *before, *after, *now;
	int n, failures = 0;

	prepare(c);
	before = content(c);
	cr_assert_eq(on_fresh(c, call), 0, "%s", error_text(c->err));
	after = content(c);
	for (n = 1;; n++) {
		int64_t at = n;
		int rc;

		cr_assert_lt(n, 20000);
		prepare(c);
		countdown = at;
		rc = on_fresh(c, call);
		cr_assert_eq(sqlite3_get_autocommit(c->db), 1, "n = %d: a transaction is left open", n);
		if (!failed)
			break;
		failures += rc < 0;
		cr_assert(rc == 0 || is_expected(rc), "n = %d: %s", n, error_text(c->err));
		cr_assert(rc == 0 || c->err, "n = %d: no error set", n);
		error_clear(&c->err);
		now = content(c);
		cr_assert_str_eq(now, rc < 0 ? before : after, "n = %d, status %d", n, rc);
		free(now);
	}
	free(before);
	free(after);
	cr_assert_gt(failures, 0);
	return failures;
}

static void with_nothing(struct caller *c)
{
	kata_persistence_delete_sandbox(c->p, "pod", NULL);
}

static void with_record(struct caller *c)
{
	struct record_wish wish = full_wish("pod");

	with_nothing(c);
	fixture_assert_ok(caller_store(c, &wish), c->err);
}

static int call_store(struct caller *c)
{
	struct record_wish wish = full_wish("pod");

	return caller_store(c, &wish);
}

static int call_store_other(struct caller *c)
{
	struct record_wish wish = full_wish("pod");

	wish.hostname = "another";
	wish.disks = 1;
	wish.nics = 3;
	return caller_store(c, &wish);
}

static int call_delete(struct caller *c)
{
	return kata_persistence_delete_sandbox(c->p, "pod", &c->err);
}

static int call_load(struct caller *c)
{
	return caller_load(c, "pod");
}

static int call_lists(struct caller *c)
{
	char **ids = NULL, *id = NULL;
	int rc = kata_persistence_list_sandboxes(c->p, &ids, &c->err);

	kata_string_list_free(ids);
	ids = NULL;
	if (rc == 0)
		rc = kata_persistence_list_containers(c->p, "pod", &ids, &c->err);
	kata_string_list_free(ids);
	if (rc == 0)
		rc = kata_persistence_sandbox_of_container(c->p, "app", &id, &c->err);
	free(id);
	return rc;
}

static int call_take(struct caller *c)
{
	int rc = kata__persistence_set_epoch(c->p, "pod", 1, 2, &c->err);

	countdown = 0; /* giving it back is not what fails here */
	return rc < 0 ? rc : kata__persistence_set_epoch(c->p, "pod", 2, 1, &c->err);
}

static void fail_all_calls(struct caller *c)
{
	fail_everywhere(c, with_nothing, call_store);
	fail_everywhere(c, with_record, call_store);
	fail_everywhere(c, with_record, call_store_other);
	fail_everywhere(c, with_record, call_delete);
	fail_everywhere(c, with_record, call_load);
	fail_everywhere(c, with_record, call_lists);
	fail_everywhere(c, with_record, call_take);
}

Test(memory, every_allocation_of_sqlite_may_fail, .timeout = 120)
{
	struct caller c;

	fail_sqlite_memory();
	open_world(&c, NULL);
	fail_all_calls(&c);
	caller_close(&c);
}

Test(memory, every_allocation_while_the_schema_is_made_may_fail, .timeout = 120)
{
	struct caller c;

	fail_sqlite_memory();
	open_world(&c, NULL);
	for (int n = 1;; n++) {
		kata_persistence *p = NULL;
		int rc;

		sql(c.db, "ATTACH ':memory:' AS side");
		fixture_assert_ok(kata_persistence_new_sqlite_attached(c.f.context, c.db, "side", &p, &c.err), c.err);
		failed = false;
		countdown = n;
		rc = kata_persistence_create_schema(p, &c.err);
		countdown = 0;
		cr_assert_eq(sqlite3_get_autocommit(c.db), 1);
		cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM side.sqlite_master WHERE type = 'table'"),
			     rc < 0 ? 0 : 7);
		cr_assert(rc == 0 || rc == KATA_E_NO_MEMORY, "%s", error_text(c.err));
		error_clear(&c.err);
		kata_persistence_free(p);
		sql(c.db, "DETACH side");
		if (!failed)
			break;
	}
	caller_close(&c);
}

Test(memory, every_allocation_of_json_may_fail, .timeout = 60)
{
	struct record_wish wish = full_wish("pod");
	kata_record *r = sample_record(&wish);
	char *json = kata_record_to_json(r);

	json_set_alloc_funcs(failing_json_malloc, free);
	for (int n = 1;; n++) {
		kata_record *back = NULL;
		kata_error *err = NULL;
		char *text = NULL;
		int rc;

		failed = false;
		countdown = n;
		rc = kata__record_to_json_text(r, &text, &err);
		if (rc == 0)
			rc = kata__record_from_json(text, strlen(text), &back, &err);
		countdown = 0;
		/* jansson's lexer calls it a wrong token when it has no memory for the right one */
		cr_assert(rc == 0 || rc == KATA_E_NO_MEMORY || rc == KATA_E_INVALID || rc == KATA_E_CORRUPT,
			  "n = %d: %s", n, error_text(err));
		cr_assert_eq(rc == 0, err == NULL);
		kata__record_free(back);
		free(text);
		error_clear(&err);
		if (!failed)
			break;
	}
	kata__record_free(r);
	free(json);
}

Test(files, every_access_may_fail, .timeout = 120)
{
	struct caller c;

	fail_files(SQLITE_IOERR_WRITE);
	open_world(&c, "faulty");
	fail_all_calls(&c);
	caller_close(&c);
}

Test(files, every_write_may_find_the_disk_full, .timeout = 120)
{
	struct caller c;

	fail_files(SQLITE_FULL);
	open_world(&c, "faulty");
	fail_everywhere(&c, with_nothing, call_store);
	fail_everywhere(&c, with_record, call_store_other);
	caller_close(&c);
}

/* A small cache makes SQLite write while the transaction is open; then a failed write costs the whole of it. */
Test(files, a_transaction_that_sqlite_gives_up_is_said_to_be_lost)
{
	struct record_wish wish = full_wish("pod");
	static char big[256 * 1024];
	int times = 0;
	struct caller c;

	fail_files(SQLITE_FULL);
	open_world(&c, "faulty");
	sql(c.db, "PRAGMA cache_size = 5");
	memset(big, 'x', sizeof(big) - 1);
	wish.hostname = big;
	for (int n = 1; n < 200; n++) {
		bool lost;
		int rc;

		sql(c.db, "BEGIN; INSERT INTO own VALUES ('mine')");
		countdown = n;
		rc = caller_store(&c, &wish);
		countdown = 0;
		lost = rc < 0 && sqlite3_get_autocommit(c.db);
		if (lost)
			cr_assert_not_null(strstr(kata_error_get_hint(c.err), "rolled the whole transaction back"));
		times += lost;
		if (!sqlite3_get_autocommit(c.db))
			sql(c.db, "ROLLBACK");
		cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM own"), 0);
	}
	cr_assert_gt(times, 3);
	caller_close(&c);
}
