/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What storing sandboxes adds to the caller's transaction. By hand: the same rows, read back once from what the library
 * wrote, written again by prepared UPDATEs by primary key, in the same kind of transaction on the same kind of
 * database (WAL, synchronous NORMAL: no fsync a commit hides the difference). The generation moves on by hand as well:
 * SQLite writes no page whose bytes are what they were.
 */
#include "bench.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SANDBOXES 20
#define MAX_STATEMENTS 8
#define MAX_ROWS 2048
#define USUAL_DISKS 2
#define USUAL_NICS 1

struct row {
	int statement;
	sqlite3_value **values; /* column values, protected copies */
	int count;
	int generation_at; /* the parameter that moves on with each store, or 0 */
};

struct store {
	struct bench *b;
	kata_context *ctx;
	kata_vm_builder *builder;
	kata_sandbox *sandboxes[SANDBOXES];
	kata_vm *vms[SANDBOXES];
	sqlite3 *db, *hand_db;
	kata_persistence *persistence;
	sqlite3_stmt *hand[MAX_STATEMENTS], *begin, *commit;
	struct row rows[MAX_ROWS];
	int row_count, hand_count;
	int batch;          /* 1 or SANDBOXES */
	int disks, nics;    /* of each */
	int64_t generation; /* of the hand program's rows */
	int transactions, forbidden, syncs;
};

static int sql(sqlite3 *db, const char *text)
{
	char *message = NULL;

	if (sqlite3_exec(db, text, NULL, NULL, &message) == SQLITE_OK)
		return 0;
	fprintf(stderr, "bench: %s: %s\n", text, message ? message : "?");
	sqlite3_free(message);
	return -1;
}

static int open_db(struct bench *b, const char *name, sqlite3 **ret)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", b->work_dir, name);
	if (sqlite3_open(path, ret) != SQLITE_OK)
		return -1;
	return sql(*ret, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE mine(id INTEGER PRIMARY "
			 "KEY, n INTEGER)");
}

/* A mock sandbox with its disks and NICs, and 2 containers. */
static int make_sandbox(struct store *s, int i)
{
	static const char spec[] =
		"{\"ociVersion\":\"1.0.2\",\"root\":{\"path\":\"/\"},\"process\":{\"cwd\":\"/\",\"args\":[\"sleep\"],"
		"\"user\":{\"uid\":0,\"gid\":0}},\"linux\":{}}";
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_sandbox_options o = KATA_SANDBOX_OPTIONS_INIT;
	kata_error *err = NULL;
	char id[32], path[256];
	int rc;

	snprintf(id, sizeof(id), "sandbox-%d", i);
	config.id = id;
	config.device_slots = (uint32_t)(s->disks + s->nics);
	o.id = id;
	rc = kata_vm_builder_build(s->builder, &config, NULL, NULL, &s->vms[i], &err) ||
	     kata_vm_start(s->vms[i], NULL, &err) ||
	     kata_sandbox_new(s->ctx, &o, s->vms[i], NULL, &s->sandboxes[i], &err) ||
	     kata_sandbox_start(s->sandboxes[i], NULL, &err);
	for (int d = 0; !rc && d < s->disks; d++) {
		kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
		kata_storage *disk = NULL;
		char name[48];

		snprintf(name, sizeof(name), "disk-%d-%d", i, d);
		rc = bench_image(s->b, name, path);
		c.path = path;
		c.id = name;
		rc = rc || kata_storage_new(&c, &disk, &err) || kata_vm_add_storage(s->vms[i], disk, NULL, &err);
		kata_storage_unref(disk);
	}
	for (int n = 0; !rc && n < s->nics; n++) {
		kata_nic_config c = KATA_NIC_CONFIG_INIT;
		kata_nic *nic = NULL;

		rc = kata_nic_new(&c, &nic, &err) || kata_vm_add_nic(s->vms[i], nic, NULL, &err);
		kata_nic_unref(nic);
	}
	for (int c = 0; !rc && c < 2; c++) {
		kata_container_config cc = KATA_CONTAINER_CONFIG_INIT;
		char cid[48];

		snprintf(cid, sizeof(cid), "container-%d-%d", i, c);
		cc.id = cid;
		cc.oci_spec = spec;
		rc = kata_sandbox_add_container(s->sandboxes[i], &cc, NULL, &err) ||
		     kata_sandbox_start_container(s->sandboxes[i], cid, NULL, &err);
	}
	return rc ? bench_fail("mock sandbox", err) : 0;
}

static int store_all(struct store *s)
{
	kata_error *err = NULL;

	for (int i = 0; i < s->batch; i++)
		if (kata_persistence_store_sandbox(s->persistence, s->sandboxes[i], &err))
			return bench_fail("store", err);
	return 0;
}

static int by_library(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct store *s = user;
	uint64_t begin = bench_now();

	if (sql(s->db, "BEGIN; INSERT OR REPLACE INTO mine VALUES(1, 1)") || store_all(s) || sql(s->db, "COMMIT"))
		return -1;
	ret_ns[0] = bench_now() - begin;
	return 0;
}

static int by_hand(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct store *s = user;
	uint64_t begin = bench_now();

	if (sql(s->hand_db, "BEGIN; INSERT OR REPLACE INTO mine VALUES(1, 1)"))
		return -1;
	for (int r = 0; r < s->row_count; r++) {
		sqlite3_stmt *stmt = s->hand[s->rows[r].statement];

		for (int c = 0; c < s->rows[r].count; c++)
			sqlite3_bind_value(stmt, c + 1, s->rows[r].values[c]);
		if (s->rows[r].generation_at)
			sqlite3_bind_int64(stmt, s->rows[r].generation_at, ++s->generation);
		if (sqlite3_step(stmt) != SQLITE_DONE)
			return -1;
		sqlite3_reset(stmt);
	}
	if (sql(s->hand_db, "COMMIT"))
		return -1;
	ret_ns[0] = bench_now() - begin;
	return 0;
}

static bool is_key(sqlite3 *db, const char *table, const char *column)
{
	sqlite3_stmt *stmt;
	char text[256];
	int key = 0;

	snprintf(text, sizeof(text), "SELECT pk FROM pragma_table_info('%s') WHERE name = '%s'", table, column);
	if (sqlite3_prepare_v2(db, text, -1, &stmt, NULL) != SQLITE_OK)
		return false;
	if (sqlite3_step(stmt) == SQLITE_ROW)
		key = sqlite3_column_int(stmt, 0);
	sqlite3_finalize(stmt);
	return key > 0;
}

/* The quickest that does it: "UPDATE table SET column = ?2, ... WHERE key = ?1"; the rows are known to be there. */
static int prepare_update(struct store *s, const char *table, sqlite3_stmt *columns, sqlite3_stmt **ret)
{
	char set[4096] = "", where[1024] = "", text[6000];
	size_t set_at = 0, where_at = 0;

	for (int i = 0; i < sqlite3_column_count(columns); i++) {
		const char *name = sqlite3_column_name(columns, i);

		if (is_key(s->db, table, name))
			where_at += (size_t)snprintf(where + where_at, sizeof(where) - where_at, "%s%s = ?%d",
						     where_at ? " AND " : "", name, i + 1);
		else
			set_at += (size_t)snprintf(set + set_at, sizeof(set) - set_at, "%s%s = ?%d", set_at ? ", " : "",
						   name, i + 1);
	}
	snprintf(text, sizeof(text), "UPDATE %s SET %s WHERE %s", table, set, where);
	return sqlite3_prepare_v2(s->hand_db, text, -1, ret, NULL) == SQLITE_OK ? 0 : -1;
}

static int insert_row(struct store *s, const char *table, const struct row *r)
{
	char marks[256] = "?", text[512];
	sqlite3_stmt *stmt;
	int rc;

	for (int i = 1; i < r->count; i++)
		strncat(marks, ",?", sizeof(marks) - strlen(marks) - 1);
	snprintf(text, sizeof(text), "INSERT INTO %s VALUES(%s)", table, marks);
	if (sqlite3_prepare_v2(s->hand_db, text, -1, &stmt, NULL) != SQLITE_OK)
		return -1;
	for (int i = 0; i < r->count; i++)
		sqlite3_bind_value(stmt, i + 1, r->values[i]);
	rc = sqlite3_step(stmt) == SQLITE_DONE ? 0 : -1;
	sqlite3_finalize(stmt);
	return rc;
}

/* The hand program's rows of one table: copied into its own database with the same schema, and kept for writing again.
 */
static int take_table(struct store *s, const char *table)
{
	sqlite3_stmt *stmt;
	char text[128];
	int rc = 0;

	snprintf(text, sizeof(text), "SELECT * FROM %s", table);
	if (sqlite3_prepare_v2(s->db, text, -1, &stmt, NULL) != SQLITE_OK)
		return -1;
	rc = prepare_update(s, table, stmt, &s->hand[s->hand_count]);
	while (!rc && sqlite3_step(stmt) == SQLITE_ROW && s->row_count < MAX_ROWS) {
		struct row *r = &s->rows[s->row_count++];

		r->statement = s->hand_count;
		r->count = sqlite3_column_count(stmt);
		r->values = calloc((size_t)r->count, sizeof(sqlite3_value *));
		for (int i = 0; r->values && i < r->count; i++) {
			r->values[i] = sqlite3_value_dup(sqlite3_column_value(stmt, i));
			if (strcmp(sqlite3_column_name(stmt, i), "generation") == 0)
				r->generation_at = i + 1;
		}
		rc = r->values ? insert_row(s, table, r) : -1;
	}
	s->hand_count++;
	sqlite3_finalize(stmt);
	return rc;
}

static int take_rows(struct store *s)
{
	static const char *const tables[] = {"kata_sandboxes", "kata_containers", "kata_processes",
					     "kata_storages",  "kata_nics",       "kata_reservations"};
	sqlite3_stmt *stmt;
	uint64_t ns[BENCH_TIMES_MAX];

	if (by_library(s, ns) ||
	    sqlite3_prepare_v2(s->db, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name LIKE 'kata_%'", -1,
			       &stmt, NULL) != SQLITE_OK)
		return -1;
	while (sqlite3_step(stmt) == SQLITE_ROW)
		if (sql(s->hand_db, (const char *)sqlite3_column_text(stmt, 0)))
			return -1;
	sqlite3_finalize(stmt);
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		if (take_table(s, tables[i]))
			return -1;
	return 0;
}

static int store_open(struct store *s, struct bench *b, int batch, int disks, int nics)
{
	kata_error *err = NULL;

	memset(s, 0, sizeof(*s));
	s->b = b;
	s->batch = batch;
	s->disks = disks;
	s->nics = nics;
	s->ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	if (!s->ctx || kata_vm_builder_new_mock(s->ctx, &s->builder, &err) || open_db(b, "lib.db", &s->db) ||
	    open_db(b, "hand.db", &s->hand_db) ||
	    kata_persistence_new_sqlite_attached(s->ctx, s->db, NULL, &s->persistence, &err) ||
	    kata_persistence_create_schema(s->persistence, &err))
		return bench_fail("opening", err);
	for (int i = 0; i < batch; i++)
		if (make_sandbox(s, i))
			return -1;
	return 0;
}

static void remove_db(struct bench *b, const char *name)
{
	static const char *const tails[] = {"", "-wal", "-shm"};
	char path[256];

	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s%s", b->work_dir, name, tails[i]);
		remove(path);
	}
}

static void store_close(struct store *s)
{
	for (int i = 0; i < s->hand_count; i++)
		sqlite3_finalize(s->hand[i]);
	for (int r = 0; r < s->row_count; r++) {
		for (int c = 0; c < s->rows[r].count; c++)
			sqlite3_value_free(s->rows[r].values[c]);
		free(s->rows[r].values);
	}
	kata_persistence_free(s->persistence);
	for (int i = 0; i < SANDBOXES; i++) {
		if (s->sandboxes[i])
			kata_sandbox_destroy(s->sandboxes[i], NULL, NULL);
		kata_sandbox_unref(s->sandboxes[i]);
		kata_vm_unref(s->vms[i]);
	}
	kata_vm_builder_free(s->builder);
	sqlite3_close(s->db);
	sqlite3_close(s->hand_db);
	kata_context_free(s->ctx, NULL);
	remove_db(s->b, "lib.db");
	remove_db(s->b, "hand.db");
}

static struct store state;

static int overhead_of(struct bench *b, int batch, int disks, int nics, struct bench_value *ret)
{
	struct bench_pairs p = {by_library, by_hand, &state, 200, 9, 1, 1};
	int rc = store_open(&state, b, batch, disks, nics);

	if (!rc)
		rc = take_rows(&state);
	if (!rc)
		rc = bench_ratio(b, &p, ret);
	store_close(&state);
	return rc;
}

static int overhead(struct bench *b, struct bench_value *values)
{
	return overhead_of(b, 1, USUAL_DISKS, USUAL_NICS, &values[0]) ||
			       overhead_of(b, SANDBOXES, USUAL_DISKS, USUAL_NICS, &values[1]) ||
			       overhead_of(b, SANDBOXES, 8, 2, &values[2])
		       ? -1
		       : 0;
}

static int on_trace(unsigned type, void *user, void *stmt, void *text)
{
	static const char *const forbidden[] = {"BEGIN",  "COMMIT", "END",    "ROLLBACK",
						"PRAGMA", "ATTACH", "DETACH", "VACUUM"};
	struct store *s = user;

	for (size_t i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++)
		if (sqlite3_strnicmp(text, forbidden[i], (int)strlen(forbidden[i])) == 0 &&
		    sqlite3_strnicmp(text, "ROLLBACK TO", 11) != 0)
			s->forbidden++;
	return 0;
}

/* Syncs of every file, by a shim over the default VFS. */
static int (*real_open)(sqlite3_vfs *, const char *, sqlite3_file *, int, int *);
static int (*real_sync)(sqlite3_file *, int);
static sqlite3_io_methods shim_methods[2]; /* of database files, and of the others, which lack shared memory */

static int count_sync(sqlite3_file *file, int flags)
{
	state.syncs++;
	return real_sync(file, flags);
}

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out)
{
	int rc = real_open(vfs, name, file, flags, out);

	if (rc == SQLITE_OK && file->pMethods && file->pMethods->xSync != count_sync) {
		sqlite3_io_methods *shim = &shim_methods[(flags & SQLITE_OPEN_MAIN_DB) == 0];

		*shim = *file->pMethods;
		real_sync = shim->xSync;
		shim->xSync = count_sync;
		file->pMethods = shim;
	}
	return rc;
}

/* BEGIN, COMMIT, ROLLBACK, PRAGMA run, and files synced, by storing inside the caller's transaction. */
static int counts(struct bench *b, struct bench_value *ret)
{
	static sqlite3_vfs vfs;
	int rc;

	vfs = *sqlite3_vfs_find(NULL);
	real_open = vfs.xOpen;
	vfs.xOpen = shim_open;
	vfs.zName = "bench";
	sqlite3_vfs_register(&vfs, 1);
	rc = store_open(&state, b, SANDBOXES, 8, 2);
	if (!rc)
		rc = sql(state.db, "PRAGMA synchronous=FULL; BEGIN; INSERT OR REPLACE INTO mine VALUES(1, 1)");
	if (!rc) {
		state.syncs = 0;
		sqlite3_trace_v2(state.db, SQLITE_TRACE_STMT, on_trace, &state);
		rc = store_all(&state);
		sqlite3_trace_v2(state.db, 0, NULL, NULL);
		bench_count(ret, state.forbidden + state.syncs);
		if (!rc)
			rc = sql(state.db, "COMMIT");
		if (!rc && state.syncs == 0) {
			fprintf(stderr, "bench: the commit itself synced nothing: the shim does not count\n");
			rc = -1;
		}
	}
	store_close(&state);
	sqlite3_vfs_unregister(&vfs);
	return rc;
}

const struct bench_group bench_store[] = {
	{90,
	 overhead,
	 {{.name = "commit_overhead",
	   .unit = "ratio",
	   .figures = {{"of 1 sandbox", 1.10, 1.03}, {"of 20", 1.10, 1.03}, {"of 20 with 10 devices", 1.10, 1.03}}}}},
	{30, counts, {{.name = "commit_counts", .unit = "count", .figures = {{NULL, 0, 0}}}}},
	{0, NULL, {{NULL}}},
};
