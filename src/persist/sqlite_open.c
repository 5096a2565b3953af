/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two constructors. A file of ours gets its own connection, set up as such a connection should be: defensive,
 * nothing trusted from the schema, WAL. The caller's handle is borrowed and nothing of it is set.
 *
 * synchronous is NORMAL: in WAL mode that keeps the database whole over a power failure but may lose the last commits,
 * while a crash of the process loses none. A record describes a VM of this boot; the power failure that would lose a
 * commit has also ended the VM, and what an older record then says is refused by its boot id. FULL would cost an fsync
 * a store (442 us against 21 us) for nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "persist/sqlite.h"

#define BUSY_TIMEOUT_MS 10000

/* "name" with inner quotes doubled. */
static char *quote(const char *name)
{
	char *out = malloc(2 * strlen(name) + 3), *p = out;

	if (!out)
		return NULL;
	*p++ = '"';
	for (; *name; name++) {
		if (*name == '"')
			*p++ = '"';
		*p++ = *name;
	}
	*p++ = '"';
	*p = '\0';
	return out;
}

static int new_self(kata_context *ctx, sqlite3 *db, const char *schema, char *take_place, struct kata__sqlite **ret,
		    kata_error **err)
{
	struct kata__sqlite *s = calloc(1, sizeof(*s));
	pthread_mutexattr_t attr;

	if (!s) {
		free(take_place);
		return kata__fail_no_memory(err);
	}
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(&s->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	s->ctx = ctx;
	s->db = db;
	s->operation = "open";
	s->quoted = quote(schema);
	s->place = take_place;
	if (!s->quoted || !s->place) {
		kata__sqlite_free(s);
		return kata__fail_no_memory(err);
	}
	*ret = s;
	return 0;
}

/* Wraps s, which is consumed also on failure. */
static int publish(kata_context *ctx, struct kata__sqlite *s, kata_persistence **ret, kata_error **err)
{
	kata_persistence *p = NULL;
	int rc = kata_persistence_new(ctx, &kata__sqlite_ops, s, &p, err);

	if (rc < 0) {
		kata__sqlite_free(s);
		return rc;
	}
	p->load_record = kata__sqlite_load_record;
	*ret = p;
	return 0;
}

/* ---- the caller's handle ---- */

static const char *find_schema(sqlite3 *db, const char *schema)
{
	const char *name;

	for (int i = 0; (name = sqlite3_db_name(db, i)); i++)
		if (sqlite3_stricmp(name, schema) == 0)
			return name;
	return NULL;
}

int kata_persistence_new_sqlite_attached(kata_context *context, struct sqlite3 *db, const char *schema,
					 kata_persistence **ret_persistence, kata_error **err)
{
	struct kata__sqlite *s = NULL;
	const char *name;
	int rc;

	if (!context || !db || !ret_persistence)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL",
				  !context ? "context"
				  : !db    ? "db"
					   : "ret_persistence");
	name = find_schema(db, schema ? schema : "main");
	if (!name) {
		KATA_AUTO(free)
		char *clean = kata__sanitize(schema ? schema : "main", strnlen(schema ? schema : "main", 80), false);

		return kata__fail(err, KATA_E_NOT_FOUND, CALLER,
				  "schema: no database is attached as '%s': use \"main\" or a name from ATTACH",
				  clean ? clean : "");
	}
	rc = new_self(context, db, name, kata__format("schema '%s'", name), &s, err);
	return rc < 0 ? rc : publish(context, s, ret_persistence, err);
}

/* ---- a file of ours ---- */

/* SQLite would make the file with the umask's mode. Only a file that is not there is opened here: closing another fd of
 * a file that this process has open in SQLite would drop SQLite's locks. */
static int make_file(const char *path, bool *ret_made, kata_error **err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd >= 0) {
		close(fd);
		*ret_made = true;
		return 0;
	}
	if (errno == EEXIST)
		return 0;
	if (errno == ENOENT)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "path: '%s': its directory does not exist", path);
	return kata__fail_errno(err, errno, "path: cannot make '%s'", path);
}

static int check_path(const char *path, kata_error **err)
{
	struct stat st;

	if (!path || !*path)
		return kata__fail(err, KATA_E_INVALID, CALLER, "path: is %s, must be the path of a file",
				  path ? "empty" : "NULL");
	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return kata__fail(err, KATA_E_INVALID, CALLER, "path: '%s' is %s, must be a regular file", path,
				  S_ISDIR(st.st_mode) ? "a directory" : "no regular file");
	return 0;
}

static int configure(sqlite3 *db)
{
	static const int on[] = {SQLITE_DBCONFIG_DEFENSIVE};
	static const int off[] = {SQLITE_DBCONFIG_TRUSTED_SCHEMA, SQLITE_DBCONFIG_ENABLE_TRIGGER,
				  SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, SQLITE_DBCONFIG_ENABLE_FKEY};
	int code = sqlite3_busy_timeout(db, BUSY_TIMEOUT_MS);

	for (size_t i = 0; code == SQLITE_OK && i < kata__array_size(on); i++)
		code = sqlite3_db_config(db, on[i], 1, NULL);
	for (size_t i = 0; code == SQLITE_OK && i < kata__array_size(off); i++)
		code = sqlite3_db_config(db, off[i], 0, NULL);
	return code;
}

/* The first row's first column as text says what mode it is now. */
static int set_pragma(struct kata__sqlite *s, const char *text, const char *expected, kata_error **err)
{
	sqlite3_stmt *st = NULL;
	int code = sqlite3_prepare_v2(s->db, text, -1, &st, NULL);
	const char *got;
	int rc = 0;

	if (code == SQLITE_OK)
		code = sqlite3_step(st);
	if (code != SQLITE_ROW && code != SQLITE_DONE)
		rc = kata__sqlite_fail(s, code, NULL, err);
	got = code == SQLITE_ROW ? (const char *)sqlite3_column_text(st, 0) : NULL;
	if (rc == 0 && expected && (!got || sqlite3_stricmp(got, expected) != 0))
		rc = kata__fail(err, KATA_E_UNSUPPORTED, HOST,
				"open: '%s' gave '%s', must give '%s': is the file on a network file system?", text,
				got ? got : "nothing", expected);
	sqlite3_finalize(st);
	return rc;
}

/* What must not change a newer database comes first. */
static int prepare_file(struct kata__sqlite *s, const char *path, kata_error **err)
{
	KATA_AUTO(kata_error_free) kata_error *own = NULL;
	int64_t version = 0;
	int code = configure(s->db);
	int rc;

	if (code != SQLITE_OK)
		return kata__sqlite_fail(s, code, NULL, err);
	rc = kata__schema_probe(s, &version, &own);
	if (rc == 0 && version > KATA_SCHEMA_VERSION)
		return kata__schema_create(s, err); /* which refuses it in its words */
	/* IO: without the file's shared memory, which cannot be made there, WAL cannot be read. */
	if ((rc == 0 || rc == KATA_E_PERMISSION || rc == KATA_E_IO) && sqlite3_db_readonly(s->db, "main") == 1)
		return kata__fail(err, KATA_E_PERMISSION, HOST,
				  "path: '%s' is read-only for this process: give it write access", path);
	if (rc < 0)
		return kata__error_move(err, &own);
	if (rc == 0)
		rc = set_pragma(s, "PRAGMA journal_mode = WAL", "wal", err);
	if (rc == 0)
		rc = set_pragma(s, "PRAGMA synchronous = NORMAL", NULL, err);
	return rc == 0 ? kata__schema_create(s, err) : rc;
}

static int open_file(kata_context *ctx, const char *path, struct kata__sqlite **ret, kata_error **err)
{
	struct kata__sqlite *s = NULL;
	sqlite3 *db = NULL;
	/* Locked by kata__sqlite.lock, so not by SQLite too. */
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
	int code = sqlite3_open_v2(path, &db, flags, NULL);
	int rc;

	if (code != SQLITE_OK) {
		KATA_AUTO(free) char *what = kata__format("open '%s'", path);

		rc = kata__sqlite_fail_plain(db, true, code, what ? what : "open", err);
		sqlite3_close(db);
		return rc;
	}
	rc = new_self(ctx, db, "main", kata__format("'%s'", path), &s, err);
	if (rc < 0) {
		sqlite3_close(db);
		return rc;
	}
	s->owned = true;
	rc = prepare_file(s, path, err);
	if (rc < 0) {
		kata__sqlite_free(s);
		return rc;
	}
	*ret = s;
	return 0;
}

int kata_persistence_new_sqlite(kata_context *context, const char *path, kata_persistence **ret_persistence,
				kata_error **err)
{
	/* A relative path begins with "./": SQLite reads ":memory:" and "file:" as something else. */
	KATA_AUTO(free) char *full = NULL;
	struct kata__sqlite *s = NULL;
	bool made = false;
	int rc;

	if (!context || !ret_persistence)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", !context ? "context" : "ret_persistence");
	rc = check_path(path, err);
	if (rc < 0)
		return rc;
	full = kata__format("%s%s", path[0] == '/' ? "" : "./", path);
	if (!full)
		return kata__fail_no_memory(err);
	rc = make_file(full, &made, err);
	if (rc == 0)
		rc = open_file(context, full, &s, err);
	if (rc == 0)
		rc = publish(context, s, ret_persistence, err);
	if (rc < 0 && made)
		unlink(full);
	return rc;
}
