/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite's result codes as kata_error: the status, SQLite's own words, and what would be right. */
#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "persist/sqlite.h"

struct meaning {
	int code; /* extended or primary; the first that matches counts */
	int status;
	int os_errno;
	const char *advice;
};

static const struct meaning meanings[] = {
	{SQLITE_BUSY_SNAPSHOT, KATA_E_BUSY, 0,
	 "another connection has written since this transaction began to read: roll back and begin again"},
	{SQLITE_BUSY, KATA_E_BUSY, 0,
	 "the database is in use: end the other transaction or statement, or set a busy timeout on this handle"},
	{SQLITE_LOCKED, KATA_E_BUSY, 0, "a statement of this process holds the table: reset it first"},
	{SQLITE_READONLY, KATA_E_PERMISSION, 0, "open the database for writing"},
	{SQLITE_PERM, KATA_E_PERMISSION, 0, "give this process access to the file"},
	{SQLITE_AUTH, KATA_E_PERMISSION, 0,
	 "the authorizer of this handle refused: allow SELECT, INSERT, UPDATE, DELETE on kata_ tables, reading "
	 "sqlite_master, "
	 "and savepoints"},
	{SQLITE_NOTADB, KATA_E_CORRUPT, 0, "give a SQLite database or a path where there is no file"},
	{SQLITE_CORRUPT, KATA_E_CORRUPT, 0, "restore the database from a copy"},
	{SQLITE_FULL, KATA_E_IO, ENOSPC, "free space on the file system, or raise max_page_count"},
	{SQLITE_IOERR_NOMEM, KATA_E_NO_MEMORY, 0, NULL},
	{SQLITE_NOMEM, KATA_E_NO_MEMORY, 0, NULL},
	{SQLITE_IOERR, KATA_E_IO, EIO, "look at the kernel's log for the disk"},
	{SQLITE_SCHEMA, KATA_E_BUSY, 0, "another connection changes the schema: try again"},
	{SQLITE_INTERRUPT, KATA_E_CANCELLED, 0, "sqlite3_interrupt or a progress handler stopped it: try again"},
	{SQLITE_TOOBIG, KATA_E_EXHAUSTED, 0, "raise SQLITE_LIMIT_LENGTH of this handle"},
	{SQLITE_MISUSE, KATA_E_STATE, 0, "the handle is closed or in use by another thread"},
};

static const struct meaning *meaning_of(int code)
{
	for (size_t i = 0; i < kata__array_size(meanings); i++)
		if (meanings[i].code == code || meanings[i].code == (code & 0xff))
			return &meanings[i];
	return NULL;
}

/* SQLITE_CANTOPEN says nothing: the errno behind it does. A journal or directory that is not there must not read as if
 * there were no record. */
static int fail_open(sqlite3 *db, const char *what, const char *text, kata_error **err)
{
	int e = db ? sqlite3_system_errno(db) : 0;

	if (e == EACCES || e == EPERM || e == EROFS)
		return kata__fail_errno(err, e, "%s: %s", what, text);
	if (e)
		return kata__error_set(err, KATA__BIRTH, KATA_E_IO, KATA_ORIGIN_HOST, e, "%s: %s: %s", what, text,
				       strerrordesc_np(e));
	return kata__fail(err, KATA_E_PERMISSION, HOST,
			  "%s: %s: the file and its directory must be readable and writable", what, text);
}

/* Of our own connection the caller has no handle to set anything on. */
static const char *advice_of(const struct meaning *m, bool is_owned)
{
	return is_owned && m->code == SQLITE_BUSY
		       ? "the database has been in use for 10 s: let the process that holds its "
			 "transaction open end it"
		       : m->advice;
}

int kata__sqlite_fail_plain(sqlite3 *db, bool is_owned, int code, const char *what, kata_error **err)
{
	const struct meaning *m = meaning_of(code);
	const char *said = db && sqlite3_extended_errcode(db) == code ? sqlite3_errmsg(db) : sqlite3_errstr(code);
	KATA_AUTO(free) char *text = kata__sanitize(said, strnlen(said, 400), false);
	int os_errno;

	if (!text || (m && m->status == KATA_E_NO_MEMORY))
		return kata__fail_no_memory(err);
	if ((code & 0xff) == SQLITE_CANTOPEN)
		return fail_open(db, what, text, err);
	if (!m)
		return kata__fail(err, KATA_E_DATABASE, HOST, "%s: %s (SQLite code %d)", what, text, code);
	os_errno = (code & 0xff) == SQLITE_IOERR && db && sqlite3_system_errno(db) ? sqlite3_system_errno(db)
										   : m->os_errno;
	if (os_errno == ENOSPC || os_errno == EDQUOT) /* shared memory that cannot grow is an "I/O error" too */
		m = meaning_of(SQLITE_FULL);
	return kata__error_set(err, KATA__BIRTH, m->status, KATA_ORIGIN_HOST, os_errno, "%s: %s: %s", what, text,
			       advice_of(m, is_owned));
}

/* "no such table" and its kin: the schema's check knows better what is wrong. 0 when it finds nothing wrong. */
static int diagnose(struct kata__sqlite *s, kata_error **err)
{
	s->verified = false;
	return kata__schema_verify(s, err);
}

/* A row past our limit is the row's fault; a lower limit is the caller's. */
static int fail_too_big(struct kata__sqlite *s, const char *table, kata_error **err)
{
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s%s%s%s: %s has a row of more than %d bytes", s->operation,
			  s->subject ? " sandbox '" : "", s->subject ? s->subject : "", s->subject ? "'" : "",
			  table ? table : s->place, KATA__ROW_MAX);
}

int kata__sqlite_fail(struct kata__sqlite *s, int code, const char *table, kata_error **err)
{
	KATA_AUTO(free) char *what = NULL;
	kata_error *own = NULL;
	int rc;

	code = sqlite3_extended_errcode(s->db) & 0xff ? sqlite3_extended_errcode(s->db) : code;
	if ((code & 0xff) == SQLITE_TOOBIG && s->limit > KATA__ROW_MAX)
		return fail_too_big(s, table, err);
	what = s->subject ? kata__format("%s sandbox '%s' in %s", s->operation, s->subject, s->place)
			  : kata__format("%s in %s", s->operation, s->place);
	if (what && table) {
		char *longer = kata__format("%s: table %s", what, table);

		free(what);
		what = longer;
	}
	if (!what)
		return kata__fail_no_memory(err);
	rc = kata__sqlite_fail_plain(s->db, s->owned, code, what, &own);
	if ((code & 0xff) == SQLITE_ERROR && s->verified) {
		kata_error *better = NULL;
		int found = diagnose(s, &better);

		if (found < 0) {
			kata_error_free(own);
			own = better;
			rc = found;
		}
	}
	kata__error_move(err, &own);
	return rc;
}
