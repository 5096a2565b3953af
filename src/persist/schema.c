/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables: made, migrated, and checked. docs/schema.md describes them for people.
 *
 * A database is hostile until shown otherwise: before the first statement of ours runs, every object of our names must
 * read in sqlite_master exactly as this file would have made it, and no trigger stored in the file may hang on our
 * tables (it would run its own SQL inside the caller's transaction). What else the caller keeps there, other kata_
 * names included, is his. TEMP triggers are his too.
 */
#include <string.h>

#include "base/text.h"
#include "persist/sqlite.h"

struct object {
	const char *type; /* as in sqlite_master */
	const char *verb; /* "CREATE TABLE" */
	const char *name;
	const char *rest; /* after the name */
};

#define TABLE(name, rest)                                                                                              \
	{                                                                                                              \
		"table", "CREATE TABLE ", name, rest                                                                   \
	}
#define INDEX(name, rest)                                                                                              \
	{                                                                                                              \
		"index", "CREATE INDEX ", name, rest                                                                   \
	}
#define VIEW(name, rest)                                                                                               \
	{                                                                                                              \
		"view", "CREATE VIEW ", name, rest                                                                     \
	}
#define OF_SANDBOX "sandbox_id TEXT NOT NULL REFERENCES kata_sandboxes (id) ON DELETE CASCADE"

/* The order of making. kata_schema is first: what has it not is not ours. */
static const struct object objects[] = {
	TABLE("kata_schema", " (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL) STRICT"),
	TABLE("kata_sandboxes", " ("
				"id TEXT NOT NULL PRIMARY KEY, "
				"state TEXT NOT NULL, "
				"epoch INTEGER NOT NULL DEFAULT 0, "
				"taken_pid INTEGER NOT NULL DEFAULT 0, "
				"taken_at INTEGER NOT NULL DEFAULT 0, "
				"updated_at INTEGER NOT NULL DEFAULT 0, "
				"storage_count INTEGER NOT NULL DEFAULT 0, "
				"nic_count INTEGER NOT NULL DEFAULT 0, "
				"container_count INTEGER NOT NULL DEFAULT 0, "
				"process_count INTEGER NOT NULL DEFAULT 0, "
				"hostname TEXT, "
				"dns TEXT, "
				"owner_pid INTEGER NOT NULL DEFAULT 0, "
				"owner_start_time INTEGER NOT NULL DEFAULT 0, "
				"boot_id TEXT, "
				"vm_id TEXT, "
				"vm_uuid TEXT, "
				"vm_driver TEXT, "
				"vm_accelerator TEXT, "
				"vm_pid INTEGER NOT NULL DEFAULT 0, "
				"vm_start_time INTEGER NOT NULL DEFAULT 0, "
				"vm_cpus INTEGER NOT NULL DEFAULT 0, "
				"vm_memory_mib INTEGER NOT NULL DEFAULT 0, "
				"vm TEXT, "
				"agent TEXT, "
				"routes TEXT"
				") STRICT"),
	TABLE("kata_storages", " (" OF_SANDBOX ", "
			       "position INTEGER NOT NULL, "
			       "id TEXT NOT NULL, "
			       "path TEXT NOT NULL, "
			       "format TEXT NOT NULL, "
			       "driver TEXT NOT NULL, "
			       "fstype TEXT, "
			       "address TEXT, "
			       "state TEXT NOT NULL, "
			       "read_only INTEGER NOT NULL, "
			       "size_bytes INTEGER NOT NULL, "
			       "PRIMARY KEY (sandbox_id, id)) STRICT, WITHOUT ROWID"),
	TABLE("kata_nics", " (" OF_SANDBOX ", "
			   "position INTEGER NOT NULL, "
			   "id TEXT NOT NULL, "
			   "type TEXT NOT NULL, "
			   "tap_name TEXT, "
			   "mac TEXT NOT NULL, "
			   "address TEXT, "
			   "state TEXT NOT NULL, "
			   "mtu INTEGER NOT NULL, "
			   "interface TEXT, "
			   "PRIMARY KEY (sandbox_id, id)) STRICT, WITHOUT ROWID"),
	TABLE("kata_containers", " (" OF_SANDBOX ", "
				 "position INTEGER NOT NULL, "
				 "id TEXT NOT NULL, "
				 "state TEXT NOT NULL, "
				 "storages TEXT, "
				 "PRIMARY KEY (sandbox_id, id)) STRICT, WITHOUT ROWID"),
	TABLE("kata_processes", " (" OF_SANDBOX ", "
				"position INTEGER NOT NULL, "
				"container_id TEXT NOT NULL, "
				"exec_id TEXT NOT NULL, "
				"state TEXT NOT NULL, "
				"terminal INTEGER NOT NULL, "
				"exit_status INTEGER NOT NULL, "
				"PRIMARY KEY (sandbox_id, container_id, exec_id)) STRICT, WITHOUT ROWID"),
	TABLE("kata_reservations", " ("
				   "kind TEXT NOT NULL, "
				   "value TEXT NOT NULL, " OF_SANDBOX ", "
				   "device_id TEXT, "
				   "PRIMARY KEY (kind, value, sandbox_id)) STRICT, WITHOUT ROWID"),
	INDEX("kata_container_ids", " ON kata_containers (id)"),
	INDEX("kata_reservations_of", " ON kata_reservations (sandbox_id)"),
	VIEW("kata_v_sandbox",
	     " AS SELECT id, state, epoch, owner_pid, hostname, vm_id, vm_driver, vm_accelerator AS accelerator, "
	     "vm_pid, vm_cpus AS cpus, vm_memory_mib AS memory_mib, storage_count AS storages, nic_count AS nics, "
	     "container_count AS containers, process_count AS processes, "
	     "datetime(updated_at, 'unixepoch') AS updated FROM kata_sandboxes"),
	VIEW("kata_v_device",
	     " AS SELECT sandbox_id, 'storage' AS kind, id, state, address, driver AS model, path AS source "
	     "FROM kata_storages UNION ALL "
	     "SELECT sandbox_id, 'nic', id, state, address, type, coalesce(tap_name, mac) FROM kata_nics"),
	VIEW("kata_v_container",
	     " AS SELECT c.id, c.sandbox_id, c.state, p.exit_status, c.storages, s.state AS sandbox_state, "
	     "s.vm_pid FROM kata_containers AS c JOIN kata_sandboxes AS s ON s.id = c.sandbox_id "
	     "LEFT JOIN kata_processes AS p ON p.sandbox_id = c.sandbox_id AND p.container_id = c.id "
	     "AND p.exec_id = c.id"),
	VIEW("kata_v_process", " AS SELECT sandbox_id, container_id, exec_id, state, "
			       "CASE exit_status WHEN -1 THEN NULL ELSE exit_status END AS exit_status, terminal "
			       "FROM kata_processes"),
};

#define OBJECTS kata__array_size(objects)

static int create_version_1(struct kata__sqlite *s, kata_error **err)
{
	for (size_t i = 0; i < OBJECTS; i++) {
		const struct object *o = &objects[i];
		KATA_AUTO(free) char *text = kata__format("%s@.%s%s", o->verb, o->name, o->rest);
		int rc = text ? kata__sqlite_exec_text(s, text, o->name, err) : kata__fail_no_memory(err);

		if (rc < 0)
			return rc;
	}
	return kata__sqlite_exec_text(s, "INSERT INTO @.kata_schema (id, version) VALUES (1, 0)", "kata_schema", err);
}

/* Oldest first. A later version adds its entry, and `objects` becomes what it leaves. */
static const struct kata__migration migrations[] = {{1, create_version_1}};

int kata__schema_migrate(struct kata__sqlite *s, int64_t from, const struct kata__migration *list, size_t count,
			 kata_error **err)
{
	for (size_t i = 0; i < count; i++) {
		char text[96];
		int rc;

		if (list[i].version <= from)
			continue;
		rc = list[i].run(s, err);
		if (rc < 0)
			return rc;
		snprintf(text, sizeof(text), "UPDATE @.kata_schema SET version = %d", list[i].version);
		rc = kata__sqlite_exec_text(s, text, "kata_schema", err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* ---- what stands in the file ---- */

static const struct object *find_object(const char *name)
{
	for (size_t i = 0; i < OBJECTS; i++)
		if (sqlite3_stricmp(objects[i].name, name) == 0)
			return &objects[i];
	return NULL;
}

static bool reads_as(const struct object *o, const char *type, const char *name, const char *sql)
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

struct findings {
	bool any;           /* something has a name of ours */
	bool seen[OBJECTS]; /* and is ours */
	char *wrong;        /* the first that is not, kata_schema before others */
};

static int note_row(struct kata__sqlite *s, sqlite3_stmt *st, struct findings *f)
{
	const char *type = column(st, 0), *name = column(st, 1), *table = column(st, 2);
	const struct object *o = find_object(name);
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
	f->seen[o - objects] = reads_as(o, type, name, column(st, 3));
	if (f->seen[o - objects] || (f->wrong && o != objects))
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

/* kata_schema itself never changes, so its text may be judged before the version is known; the others only at our
 * version. */
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
	if (rc < 0 || *ret != KATA_SCHEMA_VERSION)
		return rc;
	if (f->wrong)
		return corrupt(s, f->wrong, err);
	for (size_t i = 0; i < OBJECTS; i++) {
		if (!f->seen[i])
			return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: %s: %s %s is missing", s->operation,
					  s->place, objects[i].type, objects[i].name);
	}
	return 0;
}

int kata__schema_probe(struct kata__sqlite *s, int64_t *ret_version, kata_error **err)
{
	struct findings f = {0};
	int rc = look(s, &f, err);

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
	int64_t version = 0;
	int rc;

	if (s->verified)
		return 0;
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

int kata__schema_recheck(struct kata__sqlite *s, kata_error **err)
{
	if (!kata__sqlite_schema_changed(s))
		return 0;
	s->verified = false;
	return kata__schema_verify(s, err);
}

static int migrate_in_savepoint(struct kata__sqlite *s, int64_t from, kata_error **err)
{
	int64_t version = 0;
	int rc = kata__sqlite_savepoint(s, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_migrate(s, from, migrations, kata__array_size(migrations), err);
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
