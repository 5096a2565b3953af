/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_CONTRACT_RECONCILE_DESK_H
#define KATA_TESTS_CONTRACT_RECONCILE_DESK_H
/* A caller's handle, a sandbox whose record is in it, and short ways to bring the two apart. */
#include "sandbox_kit.h"

#include <kata/reconcile.h>
#include <kata/rows.h>
#include <sqlite3.h>

#include "support/sqlite_shim.h"

struct desk {
	struct kit k;
	char *path;
	sqlite3 *db;
	kata_persistence *p;
	kata_reconcile_report *report;
};

KIT_FN void run_sql(struct desk *d, const char *sql)
{
	cr_assert_eq(sqlite3_exec(d->db, sql, NULL, NULL, NULL), SQLITE_OK, "%s: %s", sql, sqlite3_errmsg(d->db));
}

KIT_FN int64_t ask(struct desk *d, const char *sql)
{
	sqlite3_stmt *st = NULL;
	int64_t v;

	cr_assert_eq(sqlite3_prepare_v2(d->db, sql, -1, &st, NULL), SQLITE_OK, "%s", sqlite3_errmsg(d->db));
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	v = sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	return v;
}

/* A sandbox that runs and is not stored yet. */
KIT_FN void desk_open(struct desk *d)
{
	kata_error *err = NULL;

	memset(d, 0, sizeof(*d));
	kit_init(&d->k);
	sqlite_shim_install();
	d->path = fixture_path(&d->k.f, "desk.db");
	cr_assert_eq(sqlite3_open_v2(d->path, &d->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, SQLITE_SHIM),
		     SQLITE_OK);
	run_sql(d, "PRAGMA journal_mode = WAL");
	fixture_assert_ok(kata_persistence_new_sqlite_attached(d->k.f.context, d->db, NULL, &d->p, &err), err);
	fixture_assert_ok(kata_persistence_create_schema(d->p, &err), err);
}

KIT_FN void desk_close(struct desk *d)
{
	kata_reconcile_report_free(d->report);
	kata_persistence_free(d->p);
	cr_assert_eq(sqlite3_close(d->db), SQLITE_OK);
	free(d->path);
	kit_deinit(&d->k);
}

KIT_FN void store(struct desk *d)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_store_sandbox(d->p, d->k.s, &err), err);
}

KIT_FN void assert_diverged(struct desk *d)
{
	kata_error *err = NULL;

	fixture_assert_fails(kata_persistence_store_sandbox(d->p, d->k.s, &err), KATA_E_DIVERGED, err);
	cr_assert_not_null(strstr(kata_error_get_hint(err), "kata_sandbox_reconcile"));
	error_clear(&err);
}

KIT_FN int reconcile(struct desk *d, kata_reconcile_action action, kata_error **err)
{
	kata_reconcile_report_free(d->report);
	d->report = NULL;
	return kata_sandbox_reconcile(d->k.s, d->p, action, NULL, &d->report, err);
}

KIT_FN void must_reconcile(struct desk *d, kata_reconcile_action action)
{
	kata_error *err = NULL;

	fixture_assert_ok(reconcile(d, action, &err), err);
}

#define ASSERT_VERDICT(d, verdict)                                                                                     \
	do {                                                                                                           \
		must_reconcile(d, KATA_RECONCILE_LOOK);                                                                \
		cr_assert_str_eq(kata_reconcile_verdict_get_name(kata_reconcile_report_get_verdict((d)->report)),      \
				 kata_reconcile_verdict_get_name(verdict));                                            \
	} while (0)

KIT_FN void assert_difference(struct desk *d, size_t index, const char *part, bool settled)
{
	const char *text = kata_reconcile_report_get_text(d->report, index);

	cr_assert_not_null(text, "difference %zu of %zu", index, kata_reconcile_report_get_count(d->report));
	cr_assert(strstr(text, part), "'%s' is not in '%s'", part, text);
	cr_assert_eq(kata_reconcile_report_is_settled(d->report, index), settled, "%s", text);
}

KIT_FN size_t disks(struct desk *d)
{
	kata_vm *vm = kata_sandbox_get_vm(d->k.s);
	size_t n = kata_vm_get_storage_count(vm);

	kata_vm_unref(vm);
	return n;
}

KIT_FN size_t nics(struct desk *d)
{
	kata_vm *vm = kata_sandbox_get_vm(d->k.s);
	size_t n = kata_vm_get_nic_count(vm);

	kata_vm_unref(vm);
	return n;
}

KIT_FN void plug(struct desk *d, const char *id)
{
	kit_add_disk(&d->k, id, KATA_STORAGE_VIRTIO_BLK);
}

/* A disk "data" is plugged and stored, and the caller rolls that back. */
KIT_FN void plug_and_roll_back(struct desk *d)
{
	run_sql(d, "BEGIN");
	plug(d, "data");
	store(d);
	run_sql(d, "ROLLBACK");
}

KIT_FN void plug_nic(struct desk *d)
{
	static const char *const addresses[] = {"10.1.2.3/24", NULL};
	kata_interface_config config = KATA_INTERFACE_CONFIG_INIT;
	kata_nic *nic = fixture_nic("eth", "02:00:00:00:00:07");
	kata_error *err = NULL;

	config.name = "eth0";
	config.addresses = addresses;
	fixture_assert_ok(kata_sandbox_add_nic(d->k.s, nic, &config, NULL, &err), err);
	kata_nic_unref(nic);
}

KIT_FN void assert_guest_answers(struct desk *d)
{
	kata_agent *agent = kata_sandbox_get_agent(d->k.s);
	kata_error *err = NULL;

	cr_assert_not_null(agent);
	fixture_assert_ok(kata_agent_check(agent, NULL, &err), err);
	kata_agent_unref(agent);
}
#endif
