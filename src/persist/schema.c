/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether the tables that stand there are ours, and the call that makes or migrates them.
 *
 * A database is hostile until shown otherwise: before the first statement of ours runs, every object of our names must
 * read in sqlite_master exactly as this library makes it in that version, and no trigger stored in the file may hang on
 * our tables (it would run its own SQL inside the caller's transaction). What else the caller keeps there, other kata_
 * names included, is his. TEMP triggers are his too.
 */
#include <assert.h>
#include <string.h>

#include "base/text.h"
#include "persist/schema.h"

/* ---- what stands in the file ---- */

/* The first with this name, of whatever version. */
static const struct kata__schema_object *find_object(const char *name)
{
	for (size_t i = 0; i < kata__schema_object_count; i++)
		if (sqlite3_stricmp(kata__schema_objects[i].name, name) == 0)
			return &kata__schema_objects[i];
	return NULL;
}

static bool reads_as(const struct kata__schema_object *o, const char *type, const char *name, const char *sql)
{
	size_t verb = strlen(o->verb), length = strlen(o->name);

	return sql && strcmp(type, o->type) == 0 && strcmp(name, o->name) == 0 && strncmp(sql, o->verb, verb) == 0 &&
	       strncmp(sql + verb, o->name, length) == 0 && strcmp(sql + verb + length, o->rest) == 0;
}

static const char *column(sqlite3_stmt *st, int i)
{
	const char *text = (const char *)sqlite3_column_text(st, i);

	return text ? text : "";
}

#define OBJECTS_MAX 64

struct findings {
	bool any;               /* something has a name of ours */
	bool seen[OBJECTS_MAX]; /* and is what one version of this library makes */
	char *wrong;            /* the first that is not, kata_schema before others */
};

/* Whether the row is what a version of ours makes under that name. */
static bool note_seen(struct findings *f, const char *type, const char *name, const char *sql)
{
	for (size_t i = 0; i < kata__schema_object_count; i++)
		if (reads_as(&kata__schema_objects[i], type, name, sql)) {
			f->seen[i] = true;
			return true;
		}
	return false;
}

static int note_row(struct kata__sqlite *s, sqlite3_stmt *st, struct findings *f)
{
	const char *type = column(st, 0), *name = column(st, 1), *table = column(st, 2);
	const struct kata__schema_object *o = find_object(name);
	KATA_AUTO(free) char *clean = NULL;

	if (strcmp(type, "trigger") == 0 && find_object(table)) {
		clean = kata__sanitize(name, strnlen(name, 80), false);
		if (!f->wrong)
			f->wrong = kata__format("trigger '%s' hangs on table %s: drop it (a TEMP trigger is allowed)",
						clean ? clean : "", find_object(table)->name);
		return f->wrong ? 0 : -1;
	}
	if (!o || strcmp(type, "trigger") == 0)
		return 0;
	f->any = true;
	if (note_seen(f, type, name, column(st, 3)) || (f->wrong && o != kata__schema_objects))
		return 0;
	clean = kata__sanitize(type, strnlen(type, 16), false);
	free(f->wrong);
	f->wrong = kata__format("%s %s is not the %s that this library makes: rename it, or use another database",
				clean ? clean : "", o->name, o->type);
	return f->wrong ? 0 : -1;
}

/* Reads sqlite_master. Own statements, finalized at once: between calls nothing of ours keeps a read open. */
static int look(struct kata__sqlite *s, struct findings *f, kata_error **err)
{
	static const char text[] = "SELECT type, name, tbl_name, sql FROM @.sqlite_master"
				   " WHERE (name COLLATE NOCASE >= 'kata_' AND name COLLATE NOCASE < 'kata`')"
				   " OR (tbl_name COLLATE NOCASE >= 'kata_' AND tbl_name COLLATE NOCASE < 'kata`')";
	KATA_AUTO(free) char *full = kata__sqlite_expand(s, text);
	sqlite3_stmt *st = NULL;
	int code, rc = 0;

	if (!full)
		return kata__fail_no_memory(err);
	code = sqlite3_prepare_v2(s->db, full, -1, &st, NULL);
	while (code == SQLITE_OK || code == SQLITE_ROW) {
		code = sqlite3_step(st);
		if (code == SQLITE_ROW && note_row(s, st, f) < 0) {
			rc = kata__fail_no_memory(err);
			break;
		}
	}
	if (rc == 0 && code != SQLITE_DONE)
		rc = kata__sqlite_fail(s, code, "sqlite_master", err);
	sqlite3_finalize(st);
	return rc;
}

static int read_version(struct kata__sqlite *s, int64_t *ret, kata_error **err)
{
	KATA_AUTO(free) char *full = kata__sqlite_expand(s, "SELECT version FROM @.kata_schema LIMIT 2");
	sqlite3_stmt *st = NULL;
	int64_t version = 0;
	int code, rows = 0, rc = 0;

	if (!full)
		return kata__fail_no_memory(err);
	code = sqlite3_prepare_v2(s->db, full, -1, &st, NULL);
	while (code == SQLITE_OK || code == SQLITE_ROW) {
		code = sqlite3_step(st);
		if (code != SQLITE_ROW)
			break;
		rows++;
		version = sqlite3_column_type(st, 0) == SQLITE_INTEGER ? sqlite3_column_int64(st, 0) : 0;
	}
	if (code != SQLITE_DONE)
		rc = kata__sqlite_fail(s, code, "kata_schema", err);
	else if (rows != 1 || version < 1)
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER,
				"%s: %s: kata_schema must hold one row with a version above 0", s->operation, s->place);
	sqlite3_finalize(st);
	*ret = version;
	return rc;
}

static int corrupt(struct kata__sqlite *s, const char *why, kata_error **err)
{
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: %s: %s", s->operation, s->place, why);
}

/* What stands there in place of what version `version` has. */
static int miss(struct kata__sqlite *s, const struct findings *f, size_t at, int64_t version, kata_error **err)
{
	const struct kata__schema_object *o = &kata__schema_objects[at];

	for (size_t i = 0; i < kata__schema_object_count; i++)
		if (f->seen[i] && strcmp(kata__schema_objects[i].name, o->name) == 0)
			return kata__fail(err, KATA_E_CORRUPT, CALLER,
					  "%s: %s: %s %s is of another version than kata_schema says (%lld)",
					  s->operation, s->place, o->type, o->name, (long long)version);
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: %s: %s %s is missing", s->operation, s->place, o->type,
			  o->name);
}

/* kata_schema itself never changes, so its text may be judged before the version is known; the others only where this
 * library knows that version. */
static int judge(struct kata__sqlite *s, const struct findings *f, int64_t *ret, kata_error **err)
{
	int rc;

	if (!f->any && !f->wrong) {
		*ret = 0;
		return 0;
	}
	if (!f->seen[0])
		return corrupt(s, f->wrong ? f->wrong : "has tables of our names but no kata_schema: they are not ours",
			       err);
	rc = read_version(s, ret, err);
	if (rc < 0 || *ret > KATA_SCHEMA_VERSION)
		return rc;
	if (f->wrong)
		return corrupt(s, f->wrong, err);
	for (size_t i = 0; i < kata__schema_object_count; i++)
		if (kata__schema_has(&kata__schema_objects[i], *ret) && !f->seen[i])
			return miss(s, f, i, *ret, err);
	return 0;
}

int kata__schema_probe(struct kata__sqlite *s, int64_t *ret_version, kata_error **err)
{
	struct findings f = {0};
	int rc;

	assert(kata__schema_object_count <= OBJECTS_MAX);
	rc = look(s, &f, err);
	if (rc == 0)
		rc = judge(s, &f, ret_version, err);
	free(f.wrong);
	return rc;
}

static int refuse_newer(struct kata__sqlite *s, int64_t version, kata_error **err)
{
	if (version <= KATA_SCHEMA_VERSION)
		return 0;
	return kata__fail(err, KATA_E_VERSION, CALLER,
			  "%s: %s is of version %lld, this library knows up to %d: use a newer library", s->operation,
			  s->place, (long long)version, KATA_SCHEMA_VERSION);
}

int kata__schema_verify(struct kata__sqlite *s, kata_error **err)
{
	sqlite3_stmt *witness = NULL;
	int64_t version = 0;
	int rc;

	if (s->verified)
		return 0;
	rc = kata__sqlite_prepare(s, KATA__SQL_WITNESS, &witness, err); /* before the look: what comes after it shows */
	if (rc == 0)
		rc = kata__schema_probe(s, &version, err);
	if (rc == 0)
		rc = refuse_newer(s, version, err);
	if (rc < 0)
		return rc;
	if (version == 0)
		return kata__fail(err, KATA_E_STATE, CALLER,
				  "%s: %s has no kata_ tables: call kata_persistence_create_schema", s->operation,
				  s->place);
	if (version < KATA_SCHEMA_VERSION)
		return kata__fail(err, KATA_E_VERSION, CALLER,
				  "%s: %s is of version %lld: call kata_persistence_create_schema, which "
				  "migrates it to %d",
				  s->operation, s->place, (long long)version, KATA_SCHEMA_VERSION);
	s->verified = true;
	return 0;
}

int kata__schema_verify_still(struct kata__sqlite *s, kata_error **err)
{
	sqlite3_stmt *witness = s->statements[KATA__SQL_WITNESS];
	int code, rc;

	if (!s->verified)
		return kata__schema_verify(s, err);
	code = sqlite3_step(witness);
	rc = code == SQLITE_ROW ? 0 : kata__sqlite_fail(s, code, "sqlite_master", err);
	sqlite3_reset(witness);
	return rc < 0 ? rc : kata__schema_recheck(s, err);
}

int kata__schema_recheck(struct kata__sqlite *s, kata_error **err)
{
	if (!kata__sqlite_schema_changed(s))
		return 0;
	s->verified = false;
	return kata__schema_verify(s, err);
}

/* Also what was not found may be somewhere else by now. */
int kata__schema_recheck_read(struct kata__sqlite *s, int rc, kata_error **err)
{
	kata_error *own = NULL;

	if (kata__schema_recheck(s, &own) == 0)
		return rc;
	if (err)
		kata_error_free(kata__take_ptr(*err));
	return kata__error_move(err, &own);
}

static int migrate_in_savepoint(struct kata__sqlite *s, int64_t from, kata_error **err)
{
	int64_t version = 0;
	int rc = kata__sqlite_savepoint(s, err);

	if (rc < 0)
		return rc;
	rc = from ? kata__schema_migrate(s, from, kata__migrations, kata__migration_count, err)
		  : kata__schema_make(s, err);
	if (rc == 0)
		rc = kata__schema_probe(s, &version, err);
	if (rc == 0)
		rc = kata__sqlite_release(s, err);
	if (rc < 0)
		kata__sqlite_rollback(s, err);
	return rc;
}

int kata__schema_create(struct kata__sqlite *s, kata_error **err)
{
	KATA_AUTO(kata_error_free) kata_error *own = NULL;
	int64_t version = 0;
	int rc = kata__schema_probe(s, &version, err);

	if (rc == 0)
		rc = refuse_newer(s, version, err);
	if (rc < 0 || version == KATA_SCHEMA_VERSION)
		return rc;
	rc = migrate_in_savepoint(s, version, &own);
	/* Two may find the tables missing at the same time: the slower finds them made. */
	if (rc == 0 || (kata__schema_probe(s, &version, NULL) == 0 && version == KATA_SCHEMA_VERSION))
		return 0;
	return kata__error_move(err, &own);
}
