/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_SQLITE_SHIM_H
#define KATA_TESTS_SUPPORT_SQLITE_SHIM_H
/*
 * What SQLite does to its files: a VFS over the default one that counts, and fails what it is asked to fail. One a
 * process; open the handle with sqlite3_open_v2(path, &db, flags, SQLITE_SHIM).
 */
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#define SQLITE_SHIM "shim"

struct sqlite_shim {
	unsigned opens; /* of database files, not of their journals */
	unsigned syncs, writes;
	int64_t fail_at; /* the n-th write, sync, truncate, opening or removal of a journal from now fails; 0: none */
	int fail_code;   /* SQLITE_FULL, SQLITE_IOERR_WRITE, ...: of a write */
	bool sticky;     /* and all that follow */
	bool kill;       /* instead of failing it, the process is killed */
	bool no_sync;    /* syncs are counted and fail, but are not done: where nobody pulls the plug */
	bool failed;     /* it has */
};
extern struct sqlite_shim sqlite_shim;

/* Registers the VFS (once) and clears the counters. It is not the default one. */
void sqlite_shim_install(void);
/* Makes it the default one of this process, for handles that the library opens itself. */
void sqlite_shim_make_default(void);
#endif
