/* SPDX-License-Identifier: Apache-2.0 */
/* Every access of SQLite to its files fails in turn: an I/O error, a full disk. */
#include "unit/persist/faults_test.h"

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

Test(files, every_access_may_fail, .timeout = 300)
{
	struct caller c;

	fail_files(SQLITE_IOERR_WRITE);
	open_world(&c, "faulty");
	fail_stores(&c);
	fail_changes(&c);
	fail_reads(&c);
	caller_close(&c);
}

Test(files, every_access_beside_the_records_may_fail, .timeout = 300)
{
	struct caller c;

	fail_files(SQLITE_IOERR_WRITE);
	open_world(&c, "faulty");
	fail_beside(&c);
	caller_close(&c);
}

Test(files, every_write_may_find_the_disk_full, .timeout = 300)
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
