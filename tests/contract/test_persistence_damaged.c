/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Databases that were damaged: bits, pages, their end, values and schema. Each is loaded from, listed, obtained from,
 * stored into, recovered with and deleted from: an error or success in time, no signal to a stranger, nothing made
 * elsewhere, and the machine is there afterwards.
 */
#include "damage_kit.h"

#include <kata/mock.h>
#include <kata/reconcile.h>
#include <kata/recover.h>
#include <kata/rows.h>

#include "support/sqlite_shim.h"

struct library {
	struct site w;
	kata_vm_builder *mock;
	kata_sandbox *other; /* it runs on the mock, and is stored into each */
	char *base;          /* the good database */
	size_t length;
	char *path; /* of the damaged one */
};

static void run_sql(sqlite3 *db, const char *sql)
{
	sqlite3_exec(db, sql, NULL, NULL, NULL); /* what is damaged already may refuse more */
}

/* ---- the good one */

static void put_rows(kata_persistence *p)
{
	kata_reservation_config config = KATA_RESERVATION_CONFIG_INIT;
	kata_row row = KATA_ROW_INIT;
	kata_error *err = NULL;

	row.kind = KATA_ROW_NETWORK;
	row.id = "net";
	row.state = "up";
	row.type = "bridge";
	row.sandbox_id = "other";
	fixture_assert_ok(kata_persistence_put_row(p, &row, &err), err);
	config.sandbox_id = "other";
	config.kind = KATA_RESERVE_NIC;
	config.id = "n9";
	config.tap_name = "tap9";
	fixture_assert_ok(kata_persistence_reserve(p, &config, &err), err);
}

static void start_other(struct library *l)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_builder_new_mock(l->w.k.f.context, &l->mock, &err), err);
	config.id = "other";
	fixture_assert_ok(kata_sandbox_create(l->w.k.f.context, NULL, l->mock, &config, NULL, NULL, &l->other, &err),
			  err);
	fixture_assert_ok(kata_sandbox_start(l->other, NULL, &err), err);
}

static void library_open(struct library *l, uint64_t rounds)
{
	kata_persistence *p = NULL;
	kata_error *err = NULL;
	sqlite3 *db;

	memset(l, 0, sizeof(*l));
	sqlite_shim_make_default();
	sqlite_shim.no_sync = true;
	site_init(&l->w, rounds);
	start_other(l);
	l->path = fixture_path(&l->w.k.f, "records.db");
	cr_assert_eq(sqlite3_open(l->path, &db), SQLITE_OK);
	fixture_assert_ok(kata_persistence_new_sqlite_attached(l->w.k.f.context, db, NULL, &p, &err), err);
	fixture_assert_ok(kata_persistence_create_schema(p, &err), err);
	fixture_assert_ok(kata_persistence_store_sandbox(p, l->w.k.s, &err), err);
	fixture_assert_ok(kata_persistence_store_sandbox(p, l->other, &err), err);
	put_rows(p);
	site_release(&l->w, p);
	kata_persistence_free(p);
	cr_assert_eq(sqlite3_close(db), SQLITE_OK);
	l->base = slurp(l->path, &l->length);
}

static void library_close(struct library *l)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_destroy(l->other, NULL, &err), err);
	kata_sandbox_unref(l->other);
	kata_vm_builder_free(l->mock);
	free(l->base);
	free(l->path);
	site_deinit(&l->w);
}

/* ---- damage to the file */

#define PAGE 4096u

static void damage_bytes(struct library *l, char *data, size_t *length)
{
	struct site *w = &l->w;
	size_t pages = *length / PAGE, a = any(w, pages) * PAGE, b = any(w, pages) * PAGE;
	char page[PAGE];

	switch (any(w, 6)) {
	case 0: /* bits anywhere */
		for (size_t i = 0, n = 1 + any(w, 16); i < n; i++)
			data[any(w, *length)] ^= (char)(1 << any(w, 8));
		break;
	case 1: /* bits of the header, or of the heads of pages */
		for (size_t i = 0, n = 1 + any(w, 3); i < n; i++)
			data[(any(w, 2) ? a : 0) + any(w, 100)] ^= (char)(1 << any(w, 8));
		break;
	case 2:
		*length = any(w, *length);
		break;
	case 3:
		memcpy(page, data + a, PAGE);
		memcpy(data + a, data + b, PAGE);
		memcpy(data + b, page, PAGE);
		break;
	case 4:
		memset(data + a, 0, PAGE);
		break;
	default:
		for (size_t i = 0; i < PAGE; i++)
			data[a + i] = (char)any(w, 256);
	}
}

/* ---- damage by SQL */

static const char *const tables[] = {"kata_schema",     "kata_sandboxes", "kata_storages",     "kata_nics",
				     "kata_containers", "kata_processes", "kata_reservations", "kata_networks"};

/* A column of the table: caller frees. */
static char *any_column(struct site *w, sqlite3 *db, const char *table)
{
	sqlite3_stmt *st = NULL;
	char sql[128], *name = NULL;
	uint64_t seen = 0;

	snprintf(sql, sizeof(sql), "SELECT name FROM pragma_table_info('%s')", table);
	if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK)
		return NULL;
	while (sqlite3_step(st) == SQLITE_ROW) {
		if (any(w, ++seen) != 0)
			continue;
		free(name);
		name = strdup((const char *)sqlite3_column_text(st, 0));
	}
	sqlite3_finalize(st);
	return name;
}

static void bind_any(struct site *w, sqlite3_stmt *st, int at)
{
	char *text = any_text(w);

	switch (any(w, 7)) {
	case 0:
		sqlite3_bind_null(st, at);
		break;
	case 1:
		sqlite3_bind_double(st, at, any(w, 2) ? 1e300 : -0.5);
		break;
	case 2:
		sqlite3_bind_blob(st, at, text, (int)strlen(text), SQLITE_TRANSIENT);
		break;
	case 3: /* with a NUL in it */
		sqlite3_bind_text(st, at, "sb\0x", 4, SQLITE_STATIC);
		break;
	case 4:
		sqlite3_bind_text(st, at, text, -1, SQLITE_TRANSIENT);
		break;
	default:
		sqlite3_bind_int64(st, at, any_number(w));
	}
	free(text);
}

/* Where the table would refuse the value, its text in the schema is another while the value is put there. */
static void edit_value(struct library *l, sqlite3 *db)
{
	const char *table = tables[any(&l->w, sizeof(tables) / sizeof(tables[0]))];
	char *column = any_column(&l->w, db, table), sql[256];
	sqlite3_stmt *st = NULL;

	if (!column)
		return;
	snprintf(sql, sizeof(sql), "UPDATE %s SET %s = ?1 WHERE rowid IN (SELECT rowid FROM %s LIMIT 1)", table, column,
		 table);
	if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK) { /* it has no rowid */
		snprintf(sql, sizeof(sql), "UPDATE %s SET %s = ?1", table, column);
		sqlite3_prepare_v2(db, sql, -1, &st, NULL);
	}
	if (st) {
		bind_any(&l->w, st, 1);
		sqlite3_step(st);
		sqlite3_finalize(st);
	}
	free(column);
}

static sqlite3 *open_anew(struct library *l, sqlite3 *db)
{
	sqlite3_close(db);
	cr_assert_eq(sqlite3_open(l->path, &db), SQLITE_OK);
	run_sql(db, "PRAGMA synchronous = OFF; PRAGMA writable_schema = ON");
	return db;
}

/* The tables take any type while they are edited, and say afterwards that they do not. */
static sqlite3 *edit_loosely(struct library *l, sqlite3 *db)
{
	run_sql(db, "CREATE TABLE keep AS SELECT name, sql FROM sqlite_master;"
		    "UPDATE sqlite_master SET sql = replace(replace(sql, ') STRICT', ')'), 'NOT NULL', '')"
		    " WHERE type = 'table' AND name LIKE 'kata%' AND sql NOT LIKE '%WITHOUT ROWID%';"
		    "UPDATE sqlite_master SET sql = replace(replace(sql, ') STRICT, ', ') '), ' TEXT', ' ANY')"
		    " WHERE type = 'table' AND name LIKE 'kata%' AND sql LIKE '%WITHOUT ROWID%'");
	db = open_anew(l, db);
	for (size_t i = 0, n = 1 + any(&l->w, 2); i < n; i++)
		edit_value(l, db);
	run_sql(db, "UPDATE sqlite_master SET sql = (SELECT keep.sql FROM keep WHERE keep.name = sqlite_master.name)"
		    " WHERE name LIKE 'kata%' AND sql IS NOT NULL");
	db = open_anew(l, db);
	run_sql(db, "DROP TABLE keep");
	return db;
}

/* Another process as if it were the machine's. */
static void accuse(struct library *l, sqlite3 *db)
{
	struct identity id = any_victim(&l->w);
	char sql[512];

	snprintf(sql, sizeof(sql),
		 "UPDATE kata_sandboxes SET vm_pid = %" PRId64 ", vm_start_time = %" PRId64
		 ", vm = json_set(vm, '$.process.pid', %" PRId64 ", '$.process.start_time', %" PRId64
		 ") WHERE id = 'sb'",
		 id.pid, id.start_time, id.pid, id.start_time);
	run_sql(db, sql);
	snprintf(sql, sizeof(sql),
		 "UPDATE %s SET owner_pid = %" PRId64 ", owner_start_time = %" PRId64 ", boot_id = '%s'",
		 any(&l->w, 2) ? "kata_sandboxes" : "kata_reservations", id.pid, id.start_time, l->w.boot_id);
	if (any(&l->w, 2))
		run_sql(db, sql);
}

static void edit_schema(struct library *l, sqlite3 *db)
{
	static const char *const edits[] = {
		"CREATE TRIGGER t BEFORE UPDATE ON kata_sandboxes BEGIN DELETE FROM kata_containers; END",
		"CREATE TRIGGER t AFTER INSERT ON kata_storages BEGIN INSERT INTO kata_storages SELECT * FROM "
		"kata_storages; END",
		"DROP TABLE kata_nics; CREATE VIEW kata_nics AS WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n "
		"FROM c)"
		" SELECT n FROM c",
		"ALTER TABLE kata_sandboxes RENAME TO real; CREATE VIEW kata_sandboxes AS SELECT * FROM real",
		"ALTER TABLE kata_containers ADD COLUMN more TEXT",
		"ALTER TABLE kata_storages RENAME COLUMN path TO other",
		"DROP TABLE kata_processes",
		"DROP TABLE kata_schema",
		"DROP INDEX kata_container_ids",
		"DELETE FROM kata_schema",
		"UPDATE kata_schema SET version = version + 1",
		"UPDATE kata_schema SET version = 1",
		"UPDATE kata_schema SET version = -1",
		"UPDATE kata_schema SET version = 9223372036854775807",
		"INSERT INTO kata_schema SELECT * FROM kata_schema",
		"UPDATE sqlite_master SET sql = 'CREATE TABLE kata_nics (x)' WHERE name = 'kata_nics'",
		"UPDATE sqlite_master SET sql = 'nonsense' WHERE name = 'kata_nics'",
		"UPDATE sqlite_master SET sql = NULL WHERE name = 'kata_sandboxes'",
		"UPDATE sqlite_master SET rootpage = 2 WHERE name LIKE 'kata%'",
		"UPDATE sqlite_master SET rootpage = 99999 WHERE name = 'kata_storages'",
		"UPDATE sqlite_master SET type = 'view' WHERE name = 'kata_containers'",
		"UPDATE sqlite_master SET tbl_name = 'kata_nics' WHERE name = 'kata_container_ids'",
		"DELETE FROM sqlite_master WHERE name = 'kata_v_sandbox'",
		"PRAGMA user_version = -1; PRAGMA application_id = 7; CREATE TABLE kata_later (x)",
		"UPDATE kata_sandboxes SET storage_count = 1000000, container_count = -1",
		"INSERT INTO kata_containers SELECT 'nobody', position, id, state, storages FROM kata_containers",
		"DELETE FROM kata_sandboxes",
		"UPDATE kata_sandboxes SET id = 'other2' WHERE id = 'sb'",
		"UPDATE kata_storages SET id = id || x'00' || id",
		"UPDATE kata_sandboxes SET epoch = 9223372036854775807, generation = 9223372036854775807",
		"UPDATE kata_sandboxes SET vm = '[' || replace(hex(zeroblob(100000)), '00', '[')",
		"UPDATE kata_sandboxes SET hostname = replace(hex(zeroblob(1048576)), '00', 'x')",
		"UPDATE kata_sandboxes SET vm = (SELECT vm FROM kata_sandboxes WHERE id = 'other')",
	};

	run_sql(db, edits[any(&l->w, sizeof(edits) / sizeof(edits[0]))]);
}

static void damage_by_sql(struct library *l)
{
	sqlite3 *db = open_anew(l, NULL);

	switch (any(&l->w, 8)) {
	case 0:
	case 1:
		edit_schema(l, db);
		break;
	case 2:
	case 3:
		accuse(l, db);
		break;
	case 4:
	case 5:
		db = edit_loosely(l, db);
		break;
	default:
		for (size_t i = 0, n = 1 + any(&l->w, 3); i < n; i++)
			edit_value(l, db);
	}
	cr_assert_eq(sqlite3_close(db), SQLITE_OK);
}

static void make_damaged(struct library *l)
{
	static const char *const beside[] = {"-wal", "-shm", "-journal"};
	char *data = malloc(l->length), path[80];
	size_t length = l->length;
	bool bytes = any(&l->w, 2);

	for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", l->path, beside[i]);
		unlink(path);
	}
	memcpy(data, l->base, length);
	if (bytes)
		damage_bytes(l, data, &length);
	spill(l->path, data, length);
	if (!bytes)
		damage_by_sql(l);
	free(data);
	data = slurp(l->path, &length);
	spill(DAMAGE_TRIED "records.db", data, length);
	free(data);
}

/* ---- what is tried with it */

#define TRY(call)                                                                                                      \
	do {                                                                                                           \
		int rc_ = (call);                                                                                      \
		cr_assert_eq(rc_ < 0, err != NULL, "%s: %s: %d", when, #call, rc_);                                    \
		error_clear(&err);                                                                                     \
	} while (0)

static void read_all(struct library *l, kata_persistence *p, const char *when)
{
	kata_sandbox_info infos[4] = {{.size = sizeof(infos[0])}};
	kata_reservation *reservations = NULL;
	kata_row *row = NULL;
	kata_error *err = NULL;
	char **ids = NULL, *id = NULL;
	size_t count = 0;

	TRY(kata_persistence_get_info(p, "sb", infos, &err));
	TRY(kata_persistence_list_infos(p, NULL, infos, 4, &count, &err));
	TRY(kata_persistence_list_sandboxes(p, &ids, &err));
	kata_string_list_free(ids);
	ids = NULL;
	TRY(kata_persistence_list_containers(p, NULL, &ids, &err));
	kata_string_list_free(ids);
	TRY(kata_persistence_sandbox_of_container(p, "c1", &id, &err));
	free(id);
	TRY(kata_persistence_list_reservations(p, NULL, &reservations, &count, &err));
	free(reservations);
	for (unsigned kind = 0; kind <= KATA_ROW_POOLED_VM; kind++) {
		ids = NULL;
		TRY(kata_persistence_list_rows(p, (kata_row_kind)kind, NULL, NULL, &ids, &err));
		kata_string_list_free(ids);
	}
	TRY(kata_persistence_get_row(p, KATA_ROW_NETWORK, "net", &row, &err));
	kata_row_free(row);
}

static void use(struct library *l, kata_persistence *p, unsigned round, const char *when)
{
	kata_recover_options options = KATA_RECOVER_OPTIONS_INIT;
	kata_recover_report *report = NULL;
	kata_sandbox *s = NULL;
	kata_error *err = NULL;
	int rc;

	read_all(l, p, when);
	rc = kata_persistence_obtain_sandbox(p, "sb", l->w.k.builder, NULL, NULL, &s, &err);
	settle_attempt(&l->w, rc, s, err, when);
	error_clear(&err);
	TRY(kata_persistence_store_sandbox(p, l->other, &err));
	TRY(kata_sandbox_reconcile(l->other, p, KATA_RECONCILE_STORE, NULL, NULL, &err));
	cr_assert_eq(kata_sandbox_get_state(l->other), KATA_SANDBOX_RUNNING, "%s", when);
	if (round % 4 == 0) {
		options.flags = KATA_RECOVER_APPLY;
		TRY(kata_recover(l->w.k.f.context, p, &options, &report, &err));
		kata_recover_report_free(report);
	}
	TRY(kata_persistence_remove_row(p, KATA_ROW_NETWORK, "net", &err));
	TRY(kata_persistence_delete_sandbox(p, "other", &err));
	TRY(kata_persistence_delete_sandbox(p, "sb", &err));
	read_all(l, p, when);
}

/* In a file of ours, and on a handle of the caller's, whose transaction is as it was. */
static void try_database(struct library *l, unsigned round, const char *when)
{
	kata_persistence *p = NULL;
	kata_error *err = NULL;
	sqlite3 *db = NULL;
	int rc;

	if (round % 2) {
		rc = kata_persistence_new_sqlite(l->w.k.f.context, l->path, &p, &err);
		cr_assert_eq(rc < 0, err != NULL, "%s", when);
	} else {
		cr_assert_eq(sqlite3_open(l->path, &db), SQLITE_OK);
		run_sql(db, "PRAGMA synchronous = OFF");
		fixture_assert_ok(kata_persistence_new_sqlite_attached(l->w.k.f.context, db, NULL, &p, &err), err);
		if (round % 4 == 0)
			TRY(kata_persistence_create_schema(p, &err));
	}
	error_clear(&err);
	if (p)
		use(l, p, round, when);
	kata_persistence_free(p);
	cr_assert(!db || sqlite3_get_autocommit(db), "%s", when);
	cr_assert_eq(sqlite3_close(db), SQLITE_OK, "%s", when);
}

Test(persistence_damaged, databases_are_refused_or_right_and_nobody_else_is_touched, .timeout = 3600)
{
	struct library l;

	library_open(&l, 120);
	for (unsigned i = 0; i < l.w.rounds; i++) {
		char when[64];

		snprintf(when, sizeof(when), "round %u of seed %" PRIu64, i, number_of("KATA_TEST_SEED", 20260101));
		alarm(DAMAGE_SECONDS);
		make_damaged(&l);
		try_database(&l, i, when);
		assert_nobody_was_hurt(&l.w, when);
		if (i % 50 == 0)
			assert_good_record_works(&l.w, when);
	}
	cr_log_info("%u databases, %u of them gave the machine", l.w.rounds, l.w.succeeded);
	library_close(&l);
}
