/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_CONTRACT_ATTACHED_DESK_H
#define KATA_TESTS_CONTRACT_ATTACHED_DESK_H
/* A caller's SQLite handle with a persistence on it, a sandbox, and every operation that is given a persistence. */
#include "sandbox_kit.h"

#include <kata/persistence.h>
#include <kata/reconcile.h>
#include <kata/recover.h>
#include <kata/rows.h>

#include "support/sqlite_shim.h"

struct desk {
	struct kit k;
	char *path;
	sqlite3 *db;
	kata_persistence *p;
	unsigned statements, foreign; /* run; run although they are not on the list */
	char text[4096];              /* the foreign ones */
	int64_t rows;                 /* of ours that TEMP triggers saw change */
	int busy_calls, commits, rollbacks, updates, progress;
};

KIT_FN void run_sql(struct desk *d, const char *sql)
{
	char *message = NULL;

	cr_assert_eq(sqlite3_exec(d->db, sql, NULL, NULL, &message), SQLITE_OK, "%s: %s", sql, message);
}

KIT_FN int64_t ask(struct desk *d, const char *sql)
{
	sqlite3_stmt *st = NULL;
	int64_t v;

	cr_assert_eq(sqlite3_prepare_v2(d->db, sql, -1, &st, NULL), SQLITE_OK, "%s: %s", sql, sqlite3_errmsg(d->db));
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	v = sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	return v;
}

KIT_FN void desk_open(struct desk *d)
{
	kata_error *err = NULL;

	memset(d, 0, sizeof(*d));
	kit_init(&d->k);
	sqlite_shim_install();
	d->path = fixture_path(&d->k.f, "desk.db");
	cr_assert_eq(sqlite3_open_v2(d->path, &d->db,
				     SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, SQLITE_SHIM),
		     SQLITE_OK);
	run_sql(d, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE mine (note TEXT)");
	fixture_assert_ok(kata_persistence_new_sqlite_attached(d->k.f.context, d->db, NULL, &d->p, &err), err);
}

KIT_FN void desk_close(struct desk *d)
{
	kata_persistence_free(d->p);
	cr_assert_eq(sqlite3_close(d->db), SQLITE_OK);
	free(d->path);
	kit_deinit(&d->k);
}

/* ---- every operation with a persistence */

KIT_FN void make_schema(struct desk *d)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_create_schema(d->p, &err), err);
}

KIT_FN void reserve_ids(struct desk *d)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_create_sandbox(d->p, "sb", &err), err);
	fixture_assert_ok(kata_persistence_create_sandbox(d->p, "other", &err), err);
	fixture_assert_fails(kata_persistence_create_sandbox(d->p, "sb", &err), KATA_E_EXISTS, err);
	error_clear(&err);
}

KIT_FN void store(struct desk *d)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_store_sandbox(d->p, d->k.s, &err), err);
}

KIT_FN void plug_and_store(struct desk *d)
{
	kata_nic *nic = fixture_nic("n1", "02:00:00:00:00:01");
	kata_error *err = NULL;

	kit_add_disk(&d->k, "d1", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_sandbox_add_nic(d->k.s, nic, NULL, NULL, &err), err);
	kata_nic_unref(nic);
	kit_run(&d->k, "runs", "\"cat\"");
	store(d);
}

KIT_FN void unplug_and_store(struct desk *d)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_remove_storage(d->k.s, "d1", NULL, &err), err);
	store(d);
}

KIT_FN void strip_and_store(struct desk *d)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_remove_nic(d->k.s, "n1", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_remove_container(d->k.s, "runs", NULL, &err), err);
	store(d);
}

KIT_FN void pause_and_store(struct desk *d)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_pause(d->k.s, NULL, &err), err);
	store(d);
	fixture_assert_ok(kata_sandbox_resume(d->k.s, NULL, &err), err);
}

KIT_FN void release(struct desk *d)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_release_sandbox(d->p, d->k.s, NULL, NULL, &err), err);
}

KIT_FN void obtain(struct desk *d)
{
	kata_sandbox *next = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_obtain_sandbox(d->p, "sb", d->k.builder, NULL, NULL, &next, &err), err);
	fixture_assert_fails(kata_persistence_store_sandbox(d->p, d->k.s, &err), KATA_E_FENCED, err);
	error_clear(&err);
	kata_sandbox_unref(d->k.s);
	d->k.s = next;
}

/* The step fails, the row goes back. */
KIT_FN void fail_to_obtain(struct desk *d)
{
	kata_sandbox *next = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_context_set_fail_point(d->k.f.context, "rebuild-sandbox/restore:before", KATA_FAIL_ERROR,
						      0, 0, 1, &err),
			  err);
	fixture_assert_fails(kata_persistence_obtain_sandbox(d->p, "sb", d->k.builder, NULL, NULL, &next, &err),
			     KATA_E_INJECTED, err);
	error_clear(&err);
}

KIT_FN void list_and_find(struct desk *d)
{
	char **list = NULL, *id = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_list_sandboxes(d->p, &list, &err), err);
	kata_string_list_free(list);
	fixture_assert_ok(kata_persistence_list_containers(d->p, "sb", &list, &err), err);
	kata_string_list_free(list);
	fixture_assert_ok(kata_persistence_list_containers(d->p, NULL, &list, &err), err);
	kata_string_list_free(list);
	fixture_assert_ok(kata_persistence_sandbox_of_container(d->p, "runs", &id, &err), err);
	free(id);
	fixture_assert_fails(kata_persistence_sandbox_of_container(d->p, "nope", &id, &err), KATA_E_NOT_FOUND, err);
	error_clear(&err);
}

KIT_FN void recover(struct desk *d)
{
	kata_recover_report *report = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(fixture_recover(d->k.f.context, d->p, KATA_RECOVER_APPLY, &report, &err), err);
	kata_recover_report_free(report);
}

KIT_FN void delete (struct desk *d)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_delete_sandbox(d->p, "sb", &err), err);
	fixture_assert_ok(kata_persistence_delete_sandbox(d->p, "other", &err), err);
	fixture_assert_fails(kata_persistence_delete_sandbox(d->p, "sb", &err), KATA_E_NOT_FOUND, err);
	error_clear(&err);
}

KIT_FN void reserve(struct desk *d)
{
	kata_reservation_config c = KATA_RESERVATION_CONFIG_INIT;
	kata_error *err = NULL;

	c.sandbox_id = "sb";
	c.kind = KATA_RESERVE_NIC;
	c.id = "n1";
	c.mac = "02:00:00:00:00:01";
	fixture_assert_ok(kata_persistence_reserve(d->p, &c, &err), err);
	c.kind = KATA_RESERVE_STORAGE;
	c.id = "d1";
	c.mac = NULL;
	fixture_assert_ok(kata_persistence_reserve(d->p, &c, &err), err);
	fixture_assert_fails(kata_persistence_reserve(d->p, &c, &err), KATA_E_EXISTS, err);
	error_clear(&err);
}

KIT_FN void reserve_and_settle(struct desk *d)
{
	kata_reservation_config c = KATA_RESERVATION_CONFIG_INIT;
	kata_error *err = NULL;

	c.sandbox_id = "sb";
	fixture_assert_ok(kata_persistence_reserve(d->p, &c, &err), err);
	fixture_assert_ok(kata_persistence_settle(d->p, "sb", KATA_RESERVE_VM, "sb", KATA_RESERVATION_UNDONE, &err),
			  err);
}

KIT_FN void put_rows(struct desk *d)
{
	kata_row row = KATA_ROW_INIT;
	kata_error *err = NULL;

	row.kind = KATA_ROW_NETWORK;
	row.id = "net";
	row.state = "up";
	row.type = "bridge";
	row.sandbox_id = "sb";
	fixture_assert_ok(kata_persistence_put_row(d->p, &row, &err), err);
	fixture_assert_ok(kata_persistence_move_row(d->p, KATA_ROW_NETWORK, "net", "up", "down", &err), err);
}

KIT_FN void read_beside(struct desk *d)
{
	kata_sandbox_info info = {.size = sizeof(info)};
	kata_reservation *list = NULL;
	kata_row *row = NULL;
	kata_error *err = NULL;
	char **ids = NULL;
	size_t count;

	fixture_assert_ok(kata_persistence_get_info(d->p, "sb", &info, &err), err);
	fixture_assert_ok(kata_persistence_list_infos(d->p, NULL, &info, 1, &count, &err), err);
	fixture_assert_ok(kata_persistence_list_reservations(d->p, NULL, &list, &count, &err), err);
	free(list);
	fixture_assert_ok(kata_persistence_get_row(d->p, KATA_ROW_NETWORK, "net", &row, &err), err);
	kata_row_free(row);
	fixture_assert_ok(kata_persistence_list_rows(d->p, KATA_ROW_NETWORK, "sb", NULL, &ids, &err), err);
	kata_string_list_free(ids);
}

KIT_FN void remove_row(struct desk *d)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_remove_row(d->p, KATA_ROW_NETWORK, "net", &err), err);
}

KIT_FN void look(struct desk *d)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_reconcile(d->k.s, d->p, KATA_RECONCILE_LOOK, NULL, NULL, &err), err);
}

KIT_FN void store_again(struct desk *d)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_reconcile(d->k.s, d->p, KATA_RECONCILE_STORE, NULL, NULL, &err), err);
}

/* In an order in which each finds what it needs. */
static const struct operation {
	const char *name;
	void (*run)(struct desk *d);
	unsigned commits; /* at most, where no transaction of the caller's is open */
} operations[] = {
	{"make the schema", make_schema, 1},
	{"make the schema again", make_schema, 0},
	{"reserve ids", reserve_ids, 2},
	{"store the first time", store, 1},
	{"reserve", reserve, 2},
	{"reserve and settle", reserve_and_settle, 2},
	{"plug and store", plug_and_store, 1},
	{"store what did not change", store, 1},
	{"unplug and store", unplug_and_store, 1},
	{"pause and store", pause_and_store, 1},
	{"list and find", list_and_find, 0},
	{"put rows", put_rows, 2},
	{"read what is beside", read_beside, 0},
	{"remove a row", remove_row, 1},
	{"look", look, 0},
	{"store whatever stands there", store_again, 1},
	{"recover", recover, 0},
	{"release", release, 1},
	{"fail to obtain", fail_to_obtain, 2},
	{"obtain", obtain, 2},
	{"delete", delete, 2},
};
#define OPERATIONS (sizeof(operations) / sizeof(operations[0]))
#endif
