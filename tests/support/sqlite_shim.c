/* SPDX-License-Identifier: Apache-2.0 */
/* The default VFS with other functions in the tables of its files. */
#include "support/sqlite_shim.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>

struct sqlite_shim sqlite_shim;

static sqlite3_vfs shim_vfs;
static int (*real_open)(sqlite3_vfs *, const char *, sqlite3_file *, int, int *);
static int (*real_delete)(sqlite3_vfs *, const char *, int);
/* Of database files, and of the others, which lack shared memory. */
static const sqlite3_io_methods *real[2];
static sqlite3_io_methods shim[2];

static const sqlite3_io_methods *real_of(sqlite3_file *file)
{
	return real[file->pMethods == &shim[1]];
}

static bool fails_now(void)
{
	if (sqlite_shim.fail_at == 0 || --sqlite_shim.fail_at > 0)
		return false;
	if (sqlite_shim.kill)
		raise(SIGKILL);
	sqlite_shim.fail_at = sqlite_shim.sticky;
	sqlite_shim.failed = true;
	errno = sqlite_shim.fail_code == SQLITE_FULL ? ENOSPC : EIO;
	return true;
}

static int shim_write(sqlite3_file *file, const void *data, int length, sqlite3_int64 at)
{
	sqlite_shim.writes++;
	return fails_now() ? sqlite_shim.fail_code : real_of(file)->xWrite(file, data, length, at);
}

static int shim_truncate(sqlite3_file *file, sqlite3_int64 length)
{
	return fails_now() ? SQLITE_IOERR_TRUNCATE : real_of(file)->xTruncate(file, length);
}

static int shim_sync(sqlite3_file *file, int flags)
{
	sqlite_shim.syncs++;
	if (fails_now())
		return SQLITE_IOERR_FSYNC;
	return sqlite_shim.no_sync ? SQLITE_OK : real_of(file)->xSync(file, flags);
}

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *ret_flags)
{
	int which = (flags & SQLITE_OPEN_MAIN_DB) == 0;
	int rc;

	if (which && fails_now()) {
		file->pMethods = NULL;
		return SQLITE_CANTOPEN;
	}
	rc = real_open(vfs, name, file, flags, ret_flags);
	sqlite_shim.opens += !which;
	if (rc != SQLITE_OK || !file->pMethods)
		return rc;
	if (!real[which]) {
		real[which] = file->pMethods;
		shim[which] = *file->pMethods;
		shim[which].xWrite = shim_write;
		shim[which].xTruncate = shim_truncate;
		shim[which].xSync = shim_sync;
	}
	cr_assert_eq(real[which], file->pMethods, "files of one kind have one table");
	file->pMethods = &shim[which];
	return rc;
}

static int shim_delete(sqlite3_vfs *vfs, const char *name, int sync_dir)
{
	return fails_now() ? SQLITE_IOERR_DELETE : real_delete(vfs, name, sync_dir);
}

void sqlite_shim_install(void)
{
	sqlite_shim = (struct sqlite_shim){0};
	if (shim_vfs.zName)
		return;
	shim_vfs = *sqlite3_vfs_find(NULL);
	real_open = shim_vfs.xOpen;
	real_delete = shim_vfs.xDelete;
	shim_vfs.xOpen = shim_open;
	shim_vfs.xDelete = shim_delete;
	shim_vfs.zName = SQLITE_SHIM;
	cr_assert_eq(sqlite3_vfs_register(&shim_vfs, 0), SQLITE_OK);
}

void sqlite_shim_make_default(void)
{
	sqlite_shim_install();
	cr_assert_eq(sqlite3_vfs_register(&shim_vfs, 1), SQLITE_OK);
}
