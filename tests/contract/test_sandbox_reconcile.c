/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The orders of plug, store and commit (docs/persistence.md has them as a table): what was stored is rolled back after
 * an operation, the sandbox notices, and the caller lets it follow the record or the record follow it.
 */
#include "reconcile_desk.h"

/* ---- plug, store, rollback ---- */

Test(sandbox_reconcile, a_store_that_was_rolled_back_is_noticed_at_the_next_and_looking_changes_nothing)
{
	struct desk d;

	desk_open(&d);
	store(&d);
	ASSERT_VERDICT(&d, KATA_RECONCILE_SAME);
	plug_and_roll_back(&d);
	for (int i = 0; i < 2; i++) {
		assert_diverged(&d);
		ASSERT_VERDICT(&d, KATA_RECONCILE_ROLLED_BACK);
		cr_assert_eq(kata_reconcile_report_get_generation(d.report), 1u);
		cr_assert_eq(kata_reconcile_report_get_believed_generation(d.report), 2u);
		cr_assert_eq(kata_reconcile_report_get_count(d.report), 1u);
		assert_difference(&d, 0, "storage 'data' is in the sandbox, but not in the record", false);
	}
	cr_assert_eq(disks(&d), 1u);
	KIT_ASSERT_STATE(&d.k, KATA_SANDBOX_RUNNING);
	desk_close(&d);
}

Test(sandbox_reconcile, compensating_unplugs_what_the_record_has_not)
{
	struct desk d;

	desk_open(&d);
	plug(&d, "kept");
	store(&d);
	run_sql(&d, "BEGIN");
	plug(&d, "data");
	plug_nic(&d);
	store(&d);
	run_sql(&d, "ROLLBACK");
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	assert_difference(&d, 0, "storage 'data'", true);
	assert_difference(&d, 1, "NIC 'eth'", true);
	cr_assert_eq(disks(&d), 1u);
	cr_assert_eq(nics(&d), 0u);
	ASSERT_VERDICT(&d, KATA_RECONCILE_SAME);
	store(&d);
	assert_guest_answers(&d);
	desk_close(&d);
}

Test(sandbox_reconcile, storing_again_keeps_what_was_plugged)
{
	struct desk d;

	desk_open(&d);
	store(&d);
	run_sql(&d, "BEGIN");
	plug(&d, "data");
	store(&d);
	run_sql(&d, "ROLLBACK; BEGIN");
	must_reconcile(&d, KATA_RECONCILE_STORE);
	run_sql(&d, "COMMIT");
	cr_assert_eq(ask(&d, "SELECT count(*) FROM kata_storages"), 1);
	ASSERT_VERDICT(&d, KATA_RECONCILE_SAME);
	store(&d);
	desk_close(&d);
}

Test(sandbox_reconcile, storing_again_may_be_rolled_back_again)
{
	struct desk d;

	desk_open(&d);
	store(&d);
	for (int i = 0; i < 3; i++) {
		run_sql(&d, "BEGIN");
		must_reconcile(&d, KATA_RECONCILE_STORE);
		run_sql(&d, "ROLLBACK");
		assert_diverged(&d);
	}
	must_reconcile(&d, KATA_RECONCILE_STORE);
	store(&d);
	desk_close(&d);
}

Test(sandbox_reconcile, a_plug_that_was_not_stored_is_a_change_and_no_divergence)
{
	struct desk d;

	desk_open(&d);
	store(&d);
	plug(&d, "data");
	ASSERT_VERDICT(&d, KATA_RECONCILE_CHANGED);
	assert_difference(&d, 0, "storage 'data'", false);
	store(&d);
	ASSERT_VERDICT(&d, KATA_RECONCILE_SAME);
	desk_close(&d);
}

Test(sandbox_reconcile, what_was_plugged_and_not_stored_can_be_compensated_too)
{
	struct desk d;

	desk_open(&d);
	store(&d);
	plug(&d, "data");
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	cr_assert_eq(disks(&d), 0u);
	ASSERT_VERDICT(&d, KATA_RECONCILE_SAME);
	desk_close(&d);
}

Test(sandbox_reconcile, a_savepoint_of_the_caller_that_is_rolled_back_is_noticed_too)
{
	struct desk d;

	desk_open(&d);
	run_sql(&d, "BEGIN");
	store(&d);
	run_sql(&d, "SAVEPOINT part");
	plug(&d, "data");
	store(&d);
	run_sql(&d, "ROLLBACK TO part");
	assert_diverged(&d);
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	cr_assert_eq(disks(&d), 0u);
	run_sql(&d, "COMMIT");
	ASSERT_VERDICT(&d, KATA_RECONCILE_SAME);
	desk_close(&d);
}

/* ---- unplug, store, rollback ---- */

Test(sandbox_reconcile, compensating_plugs_again_what_the_record_has)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_storage *storage = NULL;
	kata_error *err = NULL;
	kata_vm *vm;
	struct desk d;

	desk_open(&d);
	c.id = "data";
	c.path = "/nonexistent/data";
	c.flags = KATA_STORAGE_READ_ONLY;
	c.fstype = "xfs";
	c.driver = KATA_STORAGE_VIRTIO_SCSI;
	fixture_assert_ok(kata_storage_new(&c, &storage, &err), err);
	fixture_assert_ok(kata_sandbox_add_storage(d.k.s, storage, NULL, &err), err);
	kata_storage_unref(storage);
	plug_nic(&d);
	store(&d);
	run_sql(&d, "BEGIN");
	fixture_assert_ok(kata_sandbox_remove_storage(d.k.s, "data", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_remove_nic(d.k.s, "eth", NULL, &err), err);
	store(&d);
	run_sql(&d, "ROLLBACK");
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	assert_difference(&d, 0, "storage 'data' is in the record, but not in the sandbox", true);
	vm = kata_sandbox_get_vm(d.k.s);
	fixture_assert_ok(kata_vm_find_storage(vm, "data", &storage, &err), err);
	cr_assert(kata_storage_is_read_only(storage));
	cr_assert_str_eq(kata_storage_get_fstype(storage), "xfs");
	cr_assert_eq(kata_storage_get_driver(storage), KATA_STORAGE_VIRTIO_SCSI);
	kata_storage_unref(storage);
	kata_vm_unref(vm);
	cr_assert_eq(nics(&d), 1u);
	store(&d);
	cr_assert_eq(ask(&d, "SELECT interface LIKE '%10.1.2.3/24%' FROM kata_nics"), 1);
	desk_close(&d);
}

/* ---- another device under the same id ---- */

static void plug_file(struct desk *d, const char *id, const char *path)
{
	kata_storage *storage = fixture_storage(id, path, KATA_STORAGE_VIRTIO_BLK);
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_add_storage(d->k.s, storage, NULL, &err), err);
	kata_storage_unref(storage);
}

static void assert_file(struct desk *d, const char *id, const char *path)
{
	kata_vm *vm = kata_sandbox_get_vm(d->k.s);
	kata_storage *storage = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_find_storage(vm, id, &storage, &err), err);
	cr_assert_str_eq(kata_storage_get_path(storage), path);
	kata_storage_unref(storage);
	kata_vm_unref(vm);
}

Test(sandbox_reconcile, a_disk_of_the_same_id_with_another_file_is_told_and_taken_back)
{
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	plug_file(&d, "data", "/nonexistent/recorded");
	plug_file(&d, "same", "/nonexistent/same");
	store(&d);
	run_sql(&d, "BEGIN");
	fixture_assert_ok(kata_sandbox_remove_storage(d.k.s, "data", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_remove_storage(d.k.s, "same", NULL, &err), err);
	plug_file(&d, "same", "/nonexistent/same"); /* elsewhere: that is no other disk */
	plug_file(&d, "data", "/nonexistent/other");
	store(&d);
	run_sql(&d, "ROLLBACK");
	ASSERT_VERDICT(&d, KATA_RECONCILE_ROLLED_BACK);
	cr_assert_eq(kata_reconcile_report_get_count(d.report), 2u);
	assert_difference(&d, 0, "storage 'data' of the sandbox is another than that of the record", false);
	assert_difference(&d, 1, "storage 'data' of the record is another", false);
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	assert_difference(&d, 0, "storage 'data'", true);
	assert_difference(&d, 1, "storage 'data'", true);
	assert_file(&d, "data", "/nonexistent/recorded");
	store(&d);
	ASSERT_VERDICT(&d, KATA_RECONCILE_SAME);
	desk_close(&d);
}

Test(sandbox_reconcile, an_interface_that_was_configured_anew_is_taken_back_and_routes_are_told)
{
	kata_interface_config config = KATA_INTERFACE_CONFIG_INIT;
	kata_agent_route route = {.destination = "10.9.0.0/16", .gateway = "10.1.2.1", .device = "eth0"};
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	plug_nic(&d);
	store(&d);
	run_sql(&d, "BEGIN");
	config.name = "eth0";
	config.mtu = 1400;
	fixture_assert_ok(kata_sandbox_update_nic(d.k.s, "eth", &config, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_update_routes(d.k.s, &route, 1, NULL, &err), err);
	store(&d);
	run_sql(&d, "ROLLBACK");
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	cr_assert_eq(kata_reconcile_report_get_count(d.report), 3u);
	assert_difference(&d, 0, "NIC 'eth' of the sandbox is another", true);
	assert_difference(&d, 1, "NIC 'eth' of the record is another", true);
	assert_difference(&d, 2, "the routes are others", false);
	store(&d);
	cr_assert_eq(ask(&d, "SELECT interface LIKE '%10.1.2.3/24%' AND interface NOT LIKE '%1400%' FROM kata_nics"),
		     1);
	desk_close(&d);
}

/* ---- containers, states ---- */

Test(sandbox_reconcile, compensating_removes_containers_before_their_storages)
{
	struct desk d;

	desk_open(&d);
	store(&d);
	run_sql(&d, "BEGIN");
	plug(&d, "root");
	kit_run(&d.k, "web", "\"sleep\"");
	store(&d);
	run_sql(&d, "ROLLBACK");
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	cr_assert_eq(kata_sandbox_get_container_count(d.k.s), 0u);
	cr_assert_eq(disks(&d), 0u);
	desk_close(&d);
}

Test(sandbox_reconcile, a_container_that_was_removed_cannot_come_back_and_storing_is_left)
{
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	kit_run(&d.k, "web", "\"sleep\"");
	store(&d);
	run_sql(&d, "BEGIN");
	fixture_assert_ok(kata_sandbox_remove_container(d.k.s, "web", NULL, &err), err);
	plug(&d, "data");
	store(&d);
	run_sql(&d, "ROLLBACK");
	fixture_assert_fails(reconcile(&d, KATA_RECONCILE_COMPENSATE, &err), KATA_E_DIVERGED, err);
	cr_assert_not_null(strstr(kata_error_get_message(err), "container 'web' was removed"));
	assert_difference(&d, 0, "storage 'data'", true);
	assert_difference(&d, 1, "container 'web' is in the record", false);
	error_clear(&err);
	assert_diverged(&d);
	must_reconcile(&d, KATA_RECONCILE_STORE);
	cr_assert_eq(ask(&d, "SELECT count(*) FROM kata_containers"), 0);
	store(&d);
	desk_close(&d);
}

Test(sandbox_reconcile, compensating_resumes_what_was_paused_and_the_other_way_round)
{
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	store(&d);
	run_sql(&d, "BEGIN");
	plug(&d, "data");
	fixture_assert_ok(kata_sandbox_pause(d.k.s, NULL, &err), err);
	store(&d);
	run_sql(&d, "ROLLBACK");
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	KIT_ASSERT_STATE(&d.k, KATA_SANDBOX_RUNNING);
	cr_assert_eq(disks(&d), 0u);
	fixture_assert_ok(kata_sandbox_pause(d.k.s, NULL, &err), err);
	store(&d);
	fixture_assert_ok(kata_sandbox_resume(d.k.s, NULL, &err), err);
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	KIT_ASSERT_STATE(&d.k, KATA_SANDBOX_PAUSED);
	desk_close(&d);
}

Test(sandbox_reconcile, a_process_that_went_on_is_told_and_left)
{
	struct desk d;

	desk_open(&d);
	kit_run(&d.k, "web", "\"exit\",\"3\"");
	store(&d);
	cr_assert_eq(kit_wait(&d.k, "web", NULL), 3);
	ASSERT_VERDICT(&d, KATA_RECONCILE_CHANGED);
	assert_difference(&d, 0, "process 'web' of container 'web' is exited, the record says running", false);
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	cr_assert_eq(kata_sandbox_get_container_count(d.k.s), 1u);
	desk_close(&d);
}

/* ---- without a record ---- */

Test(sandbox_reconcile, without_a_record_compensating_destroys)
{
	struct desk d;

	desk_open(&d);
	ASSERT_VERDICT(&d, KATA_RECONCILE_MISSING);
	run_sql(&d, "BEGIN");
	store(&d);
	run_sql(&d, "ROLLBACK");
	ASSERT_VERDICT(&d, KATA_RECONCILE_MISSING);
	assert_diverged(&d);
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	KIT_ASSERT_STATE(&d.k, KATA_SANDBOX_DESTROYED);
	desk_close(&d);
}

Test(sandbox_reconcile, a_record_that_was_deleted_is_stored_again_only_on_purpose)
{
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	store(&d);
	fixture_assert_ok(kata_persistence_delete_sandbox(d.p, "sb", &err), err);
	assert_diverged(&d);
	must_reconcile(&d, KATA_RECONCILE_STORE);
	store(&d);
	desk_close(&d);
}

Test(sandbox_reconcile, the_record_of_another_sandbox_of_the_same_id_is_not_replaced)
{
	kata_sandbox *other;
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	store(&d);
	fixture_assert_ok(kata_sandbox_destroy(d.k.s, NULL, &err), err);
	kata_sandbox_unref(d.k.s);
	other = d.k.s = kit_create(&d.k, "sb"); /* the record of the first was forgotten */
	fixture_assert_ok(kata_sandbox_start(other, NULL, &err), err);
	assert_diverged(&d);
	must_reconcile(&d, KATA_RECONCILE_STORE);
	cr_assert_eq(ask(&d, "SELECT generation FROM kata_sandboxes"), 2, "else the first would take it for its own");
	store(&d);
	desk_close(&d);
}

/* ---- release and obtain ---- */

Test(sandbox_reconcile, a_sandbox_that_has_diverged_is_not_released)
{
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	store(&d);
	plug_and_roll_back(&d);
	fixture_assert_fails(kata_persistence_release_sandbox(d.p, d.k.s, NULL, NULL, &err), KATA_E_DIVERGED, err);
	error_clear(&err);
	KIT_ASSERT_STATE(&d.k, KATA_SANDBOX_RUNNING);
	assert_guest_answers(&d);
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	fixture_assert_ok(kata_persistence_release_sandbox(d.p, d.k.s, NULL, NULL, &err), err);
	desk_close(&d);
}

Test(sandbox_reconcile, a_release_that_was_rolled_back_is_stored_again)
{
	kata_sandbox *next = NULL;
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	store(&d);
	run_sql(&d, "BEGIN");
	fixture_assert_ok(kata_persistence_release_sandbox(d.p, d.k.s, NULL, NULL, &err), err);
	run_sql(&d, "ROLLBACK");
	fixture_assert_fails(kata_persistence_obtain_sandbox(d.p, "sb", d.k.builder, NULL, NULL, &next, &err),
			     KATA_E_FENCED, err); /* the record says that we own it, and live */
	error_clear(&err);
	ASSERT_VERDICT(&d, KATA_RECONCILE_ROLLED_BACK);
	fixture_assert_fails(reconcile(&d, KATA_RECONCILE_COMPENSATE, &err), KATA_E_STATE, err);
	error_clear(&err);
	must_reconcile(&d, KATA_RECONCILE_STORE);
	fixture_assert_ok(kata_persistence_obtain_sandbox(d.p, "sb", d.k.builder, NULL, NULL, &next, &err), err);
	kata_sandbox_unref(d.k.s);
	d.k.s = next;
	assert_guest_answers(&d);
	desk_close(&d);
}

static void release_and_obtain(struct desk *d)
{
	kata_sandbox *next = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_release_sandbox(d->p, d->k.s, NULL, NULL, &err), err);
	kata_sandbox_unref(d->k.s);
	run_sql(d, "BEGIN");
	fixture_assert_ok(kata_persistence_obtain_sandbox(d->p, "sb", d->k.builder, NULL, NULL, &next, &err), err);
	d->k.s = next;
	run_sql(d, "ROLLBACK");
}

Test(sandbox_reconcile, an_obtain_that_was_rolled_back_is_given_back_or_stored_again)
{
	kata_sandbox *next = NULL;
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	plug(&d, "data");
	store(&d);
	release_and_obtain(&d);
	assert_diverged(&d);
	ASSERT_VERDICT(&d, KATA_RECONCILE_TAKEN_BACK);
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	KIT_ASSERT_STATE(&d.k, KATA_SANDBOX_RELEASED);
	fixture_assert_ok(kata_persistence_obtain_sandbox(d.p, "sb", d.k.builder, NULL, NULL, &next, &err), err);
	kata_sandbox_unref(d.k.s);
	d.k.s = next;
	assert_guest_answers(&d);
	release_and_obtain(&d);
	must_reconcile(&d, KATA_RECONCILE_STORE);
	ASSERT_VERDICT(&d, KATA_RECONCILE_SAME);
	store(&d);
	cr_assert_eq(ask(&d, "SELECT state = 'running' FROM kata_sandboxes"), 1);
	desk_close(&d);
}

Test(sandbox_reconcile, an_obtain_that_was_rolled_back_after_a_plug_is_given_back_without_it)
{
	kata_sandbox *next = NULL;
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	store(&d);
	release_and_obtain(&d);
	plug(&d, "data");
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	assert_difference(&d, 0, "storage 'data'", true);
	KIT_ASSERT_STATE(&d.k, KATA_SANDBOX_RELEASED);
	fixture_assert_ok(kata_persistence_obtain_sandbox(d.p, "sb", d.k.builder, NULL, NULL, &next, &err), err);
	kata_sandbox_unref(d.k.s);
	d.k.s = next;
	cr_assert_eq(disks(&d), 0u);
	desk_close(&d);
}

Test(sandbox_reconcile, an_obtain_that_was_rolled_back_after_an_unplug_cannot_go_back)
{
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	plug(&d, "data");
	store(&d);
	release_and_obtain(&d);
	fixture_assert_ok(kata_sandbox_remove_storage(d.k.s, "data", NULL, &err), err);
	fixture_assert_fails(reconcile(&d, KATA_RECONCILE_COMPENSATE, &err), KATA_E_DIVERGED, err);
	cr_assert_not_null(strstr(kata_error_get_message(err), "cannot go back to the record of before"));
	error_clear(&err);
	KIT_ASSERT_STATE(&d.k, KATA_SANDBOX_RUNNING);
	must_reconcile(&d, KATA_RECONCILE_STORE);
	store(&d);
	desk_close(&d);
}

/* The row is raised, its store fails, the row is lowered again; where that fails too, the error says so. */
Test(sandbox_reconcile, an_obtain_whose_store_fails_leaves_the_row_as_it_was)
{
	kata_sandbox *next = NULL;
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	store(&d);
	fixture_assert_ok(kata_persistence_release_sandbox(d.p, d.k.s, NULL, NULL, &err), err);
	run_sql(&d,
		"CREATE TEMP TRIGGER t BEFORE UPDATE OF state ON main.kata_sandboxes BEGIN SELECT RAISE(ABORT, 'no'); "
		"END");
	fixture_assert_fails(kata_persistence_obtain_sandbox(d.p, "sb", d.k.builder, NULL, NULL, &next, &err),
			     KATA_E_DATABASE, err);
	error_clear(&err);
	cr_assert_eq(ask(&d, "SELECT epoch FROM kata_sandboxes"), 1);
	run_sql(&d, "DROP TRIGGER t");
	fixture_assert_ok(kata_persistence_obtain_sandbox(d.p, "sb", d.k.builder, NULL, NULL, &next, &err), err);
	kata_sandbox_unref(d.k.s);
	d.k.s = next;
	cr_assert_eq(ask(&d, "SELECT epoch FROM kata_sandboxes"), 2);
	desk_close(&d);
}

Test(sandbox_reconcile, another_owner_since_then_is_named_with_when)
{
	kata_sandbox *next = NULL;
	kata_error *err = NULL;
	struct desk d;
	char pid[32];

	desk_open(&d);
	store(&d);
	fixture_assert_ok(kata_persistence_release_sandbox(d.p, d.k.s, NULL, NULL, &err), err);
	fixture_assert_ok(kata_persistence_obtain_sandbox(d.p, "sb", d.k.builder, NULL, NULL, &next, &err), err);
	for (int action = KATA_RECONCILE_LOOK; action <= KATA_RECONCILE_STORE; action++) {
		fixture_assert_fails(reconcile(&d, (kata_reconcile_action)action, &err), KATA_E_FENCED, err);
		snprintf(pid, sizeof(pid), "pid %d (start time ", (int)getpid());
		cr_assert_not_null(strstr(kata_error_get_message(err), pid));
		cr_assert_not_null(strstr(kata_error_get_message(err), "UTC (epoch 2, this handle has 1)"));
		error_clear(&err);
	}
	kata_sandbox_unref(d.k.s);
	d.k.s = next;
	desk_close(&d);
}

/* ---- a COMMIT that fails ---- */

Test(sandbox_reconcile, a_commit_that_fails_in_the_file_is_a_rollback_that_is_noticed)
{
	struct desk d;

	desk_open(&d);
	store(&d);
	run_sql(&d, "BEGIN");
	plug(&d, "data");
	store(&d);
	sqlite_shim.fail_at = 1;
	sqlite_shim.fail_code = SQLITE_FULL;
	cr_assert_eq(sqlite3_exec(d.db, "COMMIT", NULL, NULL, NULL), SQLITE_FULL);
	cr_assert(sqlite_shim.failed);
	cr_assert_eq(sqlite3_get_autocommit(d.db), 1);
	assert_diverged(&d);
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	cr_assert_eq(disks(&d), 0u);
	store(&d);
	desk_close(&d);
}

/* ---- compensating is interrupted ---- */

Test(sandbox_reconcile, compensating_that_fails_in_between_goes_on_when_called_again)
{
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	store(&d);
	run_sql(&d, "BEGIN");
	plug(&d, "a");
	plug(&d, "b");
	plug_nic(&d);
	store(&d);
	run_sql(&d, "ROLLBACK");
	fixture_assert_ok(kata_mock_set_failure(d.k.builder, KATA_MOCK_REMOVE_NIC, KATA_E_VMM, 1, &err), err);
	fixture_assert_fails(reconcile(&d, KATA_RECONCILE_COMPENSATE, &err), KATA_E_VMM, err);
	error_clear(&err);
	assert_difference(&d, 1, "storage 'b'", true);
	assert_difference(&d, 2, "NIC 'eth'", false);
	assert_diverged(&d);
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	cr_assert_eq(nics(&d), 0u);
	store(&d);
	desk_close(&d);
}

/* ---- two handles, two threads, bad arguments ---- */

Test(sandbox_reconcile, a_rollback_is_noticed_through_another_handle_of_the_same_file)
{
	kata_persistence *other = NULL;
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	store(&d);
	plug_and_roll_back(&d);
	fixture_assert_ok(kata_persistence_new_sqlite(d.k.f.context, d.path, &other, &err), err);
	fixture_assert_fails(kata_persistence_store_sandbox(other, d.k.s, &err), KATA_E_DIVERGED, err);
	error_clear(&err);
	fixture_assert_ok(kata_sandbox_reconcile(d.k.s, other, KATA_RECONCILE_STORE, NULL, NULL, &err), err);
	store(&d);
	kata_persistence_free(other);
	desk_close(&d);
}

static struct desk *inner_desk;
static int inner_rc;

static int store_inside(void *user, int action, const char *a, const char *b, const char *schema, const char *trigger)
{
	struct desk *d = inner_desk;

	inner_desk = NULL;
	if (d)
		inner_rc = kata_persistence_store_sandbox(d->p, d->k.s, NULL);
	return SQLITE_OK;
}

Test(sandbox_reconcile, a_store_during_another_store_of_the_same_sandbox_is_busy)
{
	struct desk d;

	desk_open(&d);
	store(&d);
	inner_desk = &d;
	sqlite3_set_authorizer(d.db, store_inside, NULL);
	store(&d);
	sqlite3_set_authorizer(d.db, NULL, NULL);
	cr_assert_eq(inner_rc, KATA_E_BUSY);
	store(&d);
	desk_close(&d);
}

Test(sandbox_reconcile, arguments_are_checked)
{
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	fixture_assert_fails(kata_sandbox_reconcile(NULL, d.p, KATA_RECONCILE_LOOK, NULL, NULL, &err), KATA_E_INVALID,
			     err);
	error_clear(&err);
	fixture_assert_fails(kata_sandbox_reconcile(d.k.s, NULL, KATA_RECONCILE_LOOK, NULL, NULL, &err), KATA_E_INVALID,
			     err);
	error_clear(&err);
	fixture_assert_fails(kata_sandbox_reconcile(d.k.s, d.p, (kata_reconcile_action)9, NULL, NULL, &err),
			     KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_ok(kata_sandbox_destroy(d.k.s, NULL, &err), err);
	fixture_assert_fails(kata_sandbox_reconcile(d.k.s, d.p, KATA_RECONCILE_LOOK, NULL, NULL, &err), KATA_E_STATE,
			     err);
	error_clear(&err);
	kata_reconcile_report_free(NULL);
	cr_assert_null(kata_reconcile_report_get_text(NULL, 0));
	cr_assert_eq(kata_reconcile_report_get_count(NULL), 0u);
	desk_close(&d);
}
