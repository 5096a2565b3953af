/* SPDX-License-Identifier: Apache-2.0 */
/* Records of a sandbox: dump, release and rebuild, store, roll back, release and obtain through SQLite. */
#include "sandbox_kit.h"

#include <jansson.h>
#include <kata/persistence.h>
#include <kata/reconcile.h>
#include <sqlite3.h>

#include "support/yes_agent.h"

struct book {
	sqlite3 *db;
	kata_persistence *p;
};

static void book_open(struct book *b, struct kit *k)
{
	char *path = fixture_path(&k->f, "book.db");
	kata_error *err = NULL;

	cr_assert_eq(sqlite3_open(path, &b->db), SQLITE_OK);
	free(path);
	fixture_assert_ok(kata_persistence_new_sqlite_attached(k->f.context, b->db, NULL, &b->p, &err), err);
	fixture_assert_ok(kata_persistence_create_schema(b->p, &err), err);
}

static void book_close(struct book *b)
{
	kata_persistence_free(b->p);
	cr_assert_eq(sqlite3_close(b->db), SQLITE_OK);
}

static int64_t ask(struct book *b, const char *sql)
{
	sqlite3_stmt *stmt = NULL;
	int64_t v;

	cr_assert_eq(sqlite3_prepare_v2(b->db, sql, -1, &stmt, NULL), SQLITE_OK, "%s", sqlite3_errmsg(b->db));
	cr_assert_eq(sqlite3_step(stmt), SQLITE_ROW);
	v = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	return v;
}

static void run_sql(struct book *b, const char *sql)
{
	cr_assert_eq(sqlite3_exec(b->db, sql, NULL, NULL, NULL), SQLITE_OK, "%s: %s", sql, sqlite3_errmsg(b->db));
}

/* A sandbox with a disk, a NIC, a route, a container that runs and one that has exited with 3. */
static void furnish(struct kit *k)
{
	static const char *const addresses[] = {"10.0.2.15/24", NULL};
	kata_interface_config config = KATA_INTERFACE_CONFIG_INIT;
	kata_agent_route route = {.gateway = "10.0.2.2", .device = "eth0"};
	kata_nic *nic = fixture_nic("n1", "02:00:00:00:00:01");
	kata_error *err = NULL;

	kit_add_disk(k, "d1", KATA_STORAGE_VIRTIO_BLK);
	config.name = "eth0";
	config.addresses = addresses;
	fixture_assert_ok(kata_sandbox_add_nic(k->s, nic, &config, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_update_routes(k->s, &route, 1, NULL, &err), err);
	kit_run(k, "runs", "\"cat\"");
	kit_run(k, "ran", "\"exit\",\"3\"");
	cr_assert_eq(kit_wait(k, "ran", NULL), 3);
	kata_nic_unref(nic);
}

static void assert_furnished(struct kit *k)
{
	kata_container_info info = {.size = sizeof(info)};
	kata_vm *vm = kata_sandbox_get_vm(k->s);
	kata_error *err = NULL;
	int in, out;

	cr_assert_eq(kata_vm_get_storage_count(vm), 1);
	cr_assert_eq(kata_vm_get_nic_count(vm), 1);
	kata_vm_unref(vm);
	cr_assert_eq(kata_sandbox_get_container_count(k->s), 2);
	fixture_assert_ok(kata_sandbox_get_container(k->s, 0, &info, &err), err);
	cr_assert_str_eq(info.id, "runs");
	cr_assert_eq(info.state, KATA_PROCESS_RUNNING);
	cr_assert_eq(kit_wait(k, "ran", NULL), 3);
	kit_exec(k, "runs", "after", "\"echo\",\"still\",\"here\"");
	kit_open(k, "runs", "after", NULL, &out, NULL);
	kit_assert_reads(out, "still here\n");
	kit_open(k, "runs", NULL, &in, &out, NULL);
	cr_assert_eq(write(in, "x", 1), 1);
	close(in);
	kit_assert_reads(out, "x");
	cr_assert_eq(kit_wait(k, "runs", NULL), 0);
}

Test(sandbox_records, release_lets_go_and_the_record_brings_everything_back)
{
	struct kit k;
	kata_sandbox *next = NULL;
	char *json = NULL, *again = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	furnish(&k);
	fixture_assert_ok(kata_sandbox_release(k.s, NULL, &json, &err), err);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_RELEASED);
	cr_assert_null(kata_sandbox_get_agent(k.s));
	fixture_assert_ok(kata_sandbox_dump(k.s, &again, &err), err);
	cr_assert_str_eq(again, json);
	free(again);
	kata_sandbox_unref(k.s);
	fixture_assert_ok(
		kata_sandbox_build_from_released(k.f.context, json, strlen(json), k.builder, NULL, NULL, &next, &err),
		err);
	free(json);
	k.s = next;
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_RUNNING);
	cr_assert_str_eq(kata_sandbox_get_id(k.s), "sb");
	assert_furnished(&k);
	kit_deinit(&k);
}

Test(sandbox_records, a_paused_sandbox_is_released_paused_and_answers_once_resumed)
{
	struct kit k;
	kata_sandbox *next = NULL;
	char *json = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	kit_run(&k, "c1", "\"sleep\"");
	fixture_assert_ok(kata_sandbox_pause(k.s, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_release(k.s, NULL, &json, &err), err);
	kata_sandbox_unref(k.s);
	fixture_assert_ok(
		kata_sandbox_build_from_released(k.f.context, json, strlen(json), k.builder, NULL, NULL, &next, &err),
		err);
	free(json);
	k.s = next;
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_PAUSED);
	fixture_assert_ok(kata_sandbox_resume(k.s, NULL, &err), err);
	kit_exec(&k, "c1", "e1", "\"exit\",\"0\"");
	cr_assert_eq(kit_wait(&k, "c1", "e1"), 0);
	kit_deinit(&k);
}

Test(sandbox_records, one_that_is_taken_over_paused_is_resumed_with_the_agent_builder_it_was_taken_over_with)
{
	struct kit k;
	kata_agent_builder *agents = NULL;
	kata_sandbox *next = NULL;
	kata_agent *agent;
	char *json = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	fixture_assert_ok(yes_agent_builder_new(k.f.context, &agents, &err), err);
	fixture_assert_ok(kata_sandbox_pause(k.s, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_release(k.s, NULL, &json, &err), err);
	kata_sandbox_unref(k.s);
	fixture_assert_ok(
		kata_sandbox_build_from_released(k.f.context, json, strlen(json), k.builder, agents, NULL, &next, &err),
		err);
	free(json);
	k.s = next;
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_PAUSED);
	fixture_assert_ok(kata_sandbox_resume(k.s, NULL, &err), err);
	agent = kata_sandbox_get_agent(k.s);
	cr_assert_str_eq(kata_agent_get_version(agent), "", "it is the guest's, connected directly");
	kata_agent_unref(agent);
	kata_agent_builder_free(agents);
	kit_deinit(&k);
}

Test(sandbox_records, release_is_busy_while_an_operation_is_under_way)
{
	struct kit k;
	kata_storage *storage;
	kata_op *op = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	storage = fixture_storage("d", "/d", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_mock_set_delay(k.builder, KATA_MOCK_ADD_STORAGE, 100, &err), err);
	fixture_assert_ok(kata_sandbox_add_storage_begin(k.s, storage, NULL, &op, &err), err);
	fixture_assert_fails(kata_sandbox_release(k.s, NULL, NULL, &err), KATA_E_BUSY, err);
	error_clear(&err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_RUNNING);
	kata_op_unref(op);
	kata_storage_unref(storage);
	kit_deinit(&k);
}

static void assert_rebuild_fails(struct kit *k, const char *json, size_t length, int status)
{
	kata_sandbox *s = NULL;
	kata_error *err = NULL;

	fixture_assert_fails(
		kata_sandbox_build_from_released(k->f.context, json, length, k->builder, NULL, NULL, &s, &err), status,
		err);
	cr_assert_null(s);
	error_clear(&err);
}

static char *changed(const char *json, const char *key, json_t *value)
{
	json_t *o = json_loads(json, 0, NULL);
	char *text;

	cr_assert_not_null(json_object_get(o, key), "the record has no '%s'", key);
	json_object_set_new(o, key, value);
	text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return text;
}

Test(sandbox_records, a_record_that_is_cut_or_changed_is_refused_and_the_good_one_still_works)
{
	struct kit k;
	kata_sandbox *next = NULL;
	char *json = NULL, *bad;
	kata_error *err = NULL;

	kit_init(&k);
	furnish(&k);
	fixture_assert_ok(kata_sandbox_release(k.s, NULL, &json, &err), err);
	kata_sandbox_unref(k.s);
	for (size_t n = 1; n < strlen(json); n += 97)
		assert_rebuild_fails(&k, json, n, KATA_E_CORRUPT);
	bad = changed(json, "version", json_integer(99));
	assert_rebuild_fails(&k, bad, strlen(bad), KATA_E_VERSION);
	free(bad);
	bad = changed(json, "vm_uuid", json_string("00000000-0000-4000-8000-000000000000"));
	assert_rebuild_fails(&k, bad, strlen(bad), KATA_E_CORRUPT);
	free(bad);
	fixture_assert_ok(
		kata_sandbox_build_from_released(k.f.context, json, strlen(json), k.builder, NULL, NULL, &next, &err),
		err);
	free(json);
	k.s = next;
	assert_furnished(&k);
	kit_deinit(&k);
}

static void assert_member_refused(struct kit *k, const char *json, const char *member, json_t *value)
{
	char *bad = changed(json, member, value), where[64];
	kata_sandbox *s = NULL;
	kata_error *err = NULL;

	fixture_assert_fails(
		kata_sandbox_build_from_released(k->f.context, bad, strlen(bad), k->builder, NULL, NULL, &s, &err),
		KATA_E_CORRUPT, err);
	snprintf(where, sizeof(where), "record.%s", member);
	cr_assert_not_null(strstr(kata_error_get_message(err), where), "%s: %s", member, kata_error_get_message(err));
	cr_assert_null(s);
	error_clear(&err);
	free(bad);
}

Test(sandbox_records, what_contradicts_the_machine_or_has_not_its_form_is_refused_by_name)
{
	struct kit k;
	kata_sandbox *next = NULL;
	char *json = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	furnish(&k);
	fixture_assert_ok(kata_sandbox_release(k.s, NULL, &json, &err), err);
	kata_sandbox_unref(k.s);
	assert_member_refused(&k, json, "vm_id", json_string("another"));
	assert_member_refused(&k, json, "vm_driver", json_string("qemu"));
	assert_member_refused(&k, json, "vm_accelerator", json_string("kvm"));
	assert_member_refused(&k, json, "vm_pid", json_integer(1));
	assert_member_refused(&k, json, "vm_start_time", json_integer(1));
	assert_member_refused(&k, json, "vm_cpus", json_integer(77));
	assert_member_refused(&k, json, "vm_memory_mib", json_integer(77));
	assert_member_refused(&k, json, "epoch", json_integer(INT64_MAX)); /* there is none after it */
	assert_member_refused(&k, json, "hostname", json_string(""));
	assert_member_refused(&k, json, "dns", json_pack("[s]", "nameserver 10.0.2.3\nsearch x"));
	fixture_assert_ok(
		kata_sandbox_build_from_released(k.f.context, json, strlen(json), k.builder, NULL, NULL, &next, &err),
		err);
	free(json);
	k.s = next;
	assert_furnished(&k);
	kit_deinit(&k);
}

/* Rows beside `vm`, for who reads the database: devices are those of `vm`. */
Test(sandbox_records, the_copies_of_devices_are_not_read_back)
{
	struct kit k;
	kata_sandbox *next = NULL;
	char *json = NULL, *other, *again = NULL;
	json_t *o;
	kata_error *err = NULL;

	kit_init(&k);
	furnish(&k);
	fixture_assert_ok(kata_sandbox_release(k.s, NULL, &json, &err), err);
	kata_sandbox_unref(k.s);
	o = json_loads(json, 0, NULL);
	cr_assert_gt(json_array_size(json_object_get(o, "storages")), 0u);
	json_object_set_new(json_array_get(json_object_get(o, "storages"), 0), "path", json_string("../../x"));
	other = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	fixture_assert_ok(
		kata_sandbox_build_from_released(k.f.context, other, strlen(other), k.builder, NULL, NULL, &next, &err),
		err);
	k.s = next;
	assert_furnished(&k);
	fixture_assert_ok(kata_sandbox_dump(k.s, &again, &err), err);
	cr_assert_null(strstr(again, "../../x"));
	free(again);
	free(other);
	free(json);
	kit_deinit(&k);
}

/* The length is taken literally, whatever follows. */
Test(sandbox_records, a_record_of_no_bytes_is_corrupt)
{
	struct kit k;
	char *text = malloc(1);

	kit_init(&k);
	*text = '{';
	assert_rebuild_fails(&k, text, 0, KATA_E_CORRUPT);
	free(text);
	kit_deinit(&k);
}

Test(sandbox_records, a_record_of_a_vm_that_is_gone_says_so)
{
	struct kit k;
	kata_sandbox *next = NULL;
	char *json = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	fixture_assert_ok(kata_sandbox_release(k.s, NULL, &json, &err), err);
	kata_sandbox_unref(k.s);
	fixture_assert_ok(
		kata_sandbox_build_from_released(k.f.context, json, strlen(json), k.builder, NULL, NULL, &next, &err),
		err);
	fixture_assert_ok(kata_sandbox_destroy(next, NULL, &err), err);
	kata_sandbox_unref(next);
	k.s = NULL;
	assert_rebuild_fails(&k, json, strlen(json), KATA_E_GONE);
	free(json);
	kit_deinit(&k);
}

Test(sandbox_records, a_store_joins_the_callers_transaction_and_goes_with_it)
{
	struct kit k;
	struct book b;
	kata_error *err = NULL;

	kit_init(&k);
	furnish(&k);
	book_open(&b, &k);
	run_sql(&b, "CREATE TABLE mine (note TEXT)");
	run_sql(&b, "BEGIN; INSERT INTO mine VALUES ('first')");
	fixture_assert_ok(kata_persistence_store_sandbox(b.p, k.s, &err), err);
	cr_assert_eq(ask(&b, "SELECT count(*) FROM kata_sandboxes"), 1);
	run_sql(&b, "ROLLBACK");
	cr_assert_eq(ask(&b, "SELECT count(*) FROM kata_sandboxes"), 0);
	cr_assert_eq(ask(&b, "SELECT count(*) FROM mine"), 0);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_RUNNING);
	run_sql(&b, "BEGIN; INSERT INTO mine VALUES ('second')");
	fixture_assert_fails(kata_persistence_store_sandbox(b.p, k.s, &err), KATA_E_DIVERGED, err);
	error_clear(&err);
	fixture_assert_ok(kata_sandbox_reconcile(k.s, b.p, KATA_RECONCILE_STORE, NULL, NULL, &err), err);
	run_sql(&b, "COMMIT");
	cr_assert_eq(ask(&b, "SELECT count(*) FROM kata_sandboxes"), 1);
	cr_assert_eq(ask(&b, "SELECT count(*) FROM kata_containers"), 2);
	cr_assert_eq(ask(&b, "SELECT count(*) FROM kata_storages"), 1);
	cr_assert_eq(ask(&b, "SELECT count(*) FROM kata_nics"), 1);
	cr_assert_eq(ask(&b, "SELECT count(*) FROM mine"), 1);
	book_close(&b);
	kit_deinit(&k);
}

Test(sandbox_records, storing_again_replaces_and_shows_what_changed)
{
	struct kit k;
	struct book b;
	kata_error *err = NULL;

	kit_init(&k);
	furnish(&k);
	book_open(&b, &k);
	fixture_assert_ok(kata_persistence_store_sandbox(b.p, k.s, &err), err);
	fixture_assert_ok(kata_sandbox_remove_container(k.s, "ran", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_remove_storage(k.s, "d1", NULL, &err), err);
	fixture_assert_ok(kata_persistence_store_sandbox(b.p, k.s, &err), err);
	cr_assert_eq(ask(&b, "SELECT count(*) FROM kata_sandboxes"), 1);
	cr_assert_eq(ask(&b, "SELECT count(*) FROM kata_containers"), 1);
	cr_assert_eq(ask(&b, "SELECT count(*) FROM kata_storages"), 0);
	book_close(&b);
	kit_deinit(&k);
}

Test(sandbox_records, a_released_sandbox_is_obtained_by_its_id_with_a_higher_epoch)
{
	struct kit k;
	struct book b;
	kata_sandbox *next = NULL, *third = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	furnish(&k);
	book_open(&b, &k);
	fixture_assert_ok(kata_persistence_store_sandbox(b.p, k.s, &err), err);
	fixture_assert_ok(kata_persistence_release_sandbox(b.p, k.s, NULL, NULL, &err), err);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_RELEASED);
	cr_assert_eq(ask(&b, "SELECT state = 'released' FROM kata_sandboxes"), 1);
	cr_assert_eq(ask(&b, "SELECT epoch FROM kata_sandboxes"), 1);
	fixture_assert_ok(kata_persistence_obtain_sandbox(b.p, "sb", k.builder, NULL, NULL, &next, &err), err);
	cr_assert_eq(ask(&b, "SELECT epoch FROM kata_sandboxes"), 2);
	cr_assert_eq(ask(&b, "SELECT state = 'running' FROM kata_sandboxes"), 1);
	cr_assert_eq(ask(&b, "SELECT owner_pid FROM kata_sandboxes"), getpid());
	/* The handle of before is fenced off; and what a living process owns is not given away. */
	fixture_assert_fails(kata_persistence_store_sandbox(b.p, k.s, &err), KATA_E_FENCED, err);
	error_clear(&err);
	fixture_assert_fails(kata_persistence_obtain_sandbox(b.p, "sb", k.builder, NULL, NULL, &third, &err),
			     KATA_E_FENCED, err);
	error_clear(&err);
	kata_sandbox_unref(k.s);
	k.s = next;
	assert_furnished(&k);
	book_close(&b);
	kit_deinit(&k);
}

Test(sandbox_records, an_obtain_that_fails_leaves_the_row_as_it_was_and_the_next_succeeds)
{
	static const char *const points[] = {
		"rebuild-sandbox/rebuild-vm:before",    "rebuild-sandbox/rebuild-vm:after",
		"rebuild-sandbox/connect-agent:before", "rebuild-sandbox/connect-agent:after",
		"rebuild-sandbox/restore:before",       "rebuild-sandbox/restore:after"};
	struct kit k;
	struct book b;
	kata_sandbox *next = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	furnish(&k);
	book_open(&b, &k);
	fixture_assert_ok(kata_persistence_release_sandbox(b.p, k.s, NULL, NULL, &err), err);
	kata_sandbox_unref(k.s);
	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		fixture_assert_ok(kata_context_set_fail_point(k.f.context, points[i], KATA_FAIL_ERROR, 0, 0, 1, &err),
				  err);
		fixture_assert_fails(kata_persistence_obtain_sandbox(b.p, "sb", k.builder, NULL, NULL, &next, &err),
				     KATA_E_INJECTED, err);
		error_clear(&err);
		cr_assert_null(next);
		cr_assert_eq(ask(&b, "SELECT epoch FROM kata_sandboxes"), 1, "after %s", points[i]);
		cr_assert_eq(ask(&b, "SELECT state = 'released' FROM kata_sandboxes"), 1, "after %s", points[i]);
	}
	fixture_assert_ok(kata_persistence_obtain_sandbox(b.p, "sb", k.builder, NULL, NULL, &next, &err), err);
	k.s = next;
	assert_furnished(&k);
	book_close(&b);
	kit_deinit(&k);
}

Test(sandbox_records, an_obtain_that_cannot_be_stored_is_taken_back)
{
	struct kit k;
	struct book b;
	kata_sandbox *next = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	furnish(&k);
	book_open(&b, &k);
	fixture_assert_ok(kata_persistence_release_sandbox(b.p, k.s, NULL, NULL, &err), err);
	kata_sandbox_unref(k.s);
	run_sql(&b, "CREATE TRIGGER no BEFORE INSERT ON kata_containers BEGIN SELECT RAISE(ABORT, 'full'); END");
	cr_assert_lt(kata_persistence_obtain_sandbox(b.p, "sb", k.builder, NULL, NULL, &next, &err), 0);
	error_clear(&err);
	cr_assert_eq(ask(&b, "SELECT epoch FROM kata_sandboxes"), 1);
	run_sql(&b, "DROP TRIGGER no");
	fixture_assert_ok(kata_persistence_obtain_sandbox(b.p, "sb", k.builder, NULL, NULL, &next, &err), err);
	k.s = next;
	assert_furnished(&k);
	book_close(&b);
	kit_deinit(&k);
}

Test(sandbox_records, a_release_that_cannot_be_stored_says_so_and_hands_the_record_out)
{
	struct kit k;
	struct book b;
	kata_sandbox *next = NULL;
	char *json = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	furnish(&k);
	book_open(&b, &k);
	run_sql(&b, "CREATE TRIGGER no BEFORE INSERT ON kata_containers BEGIN SELECT RAISE(ABORT, 'full'); END");
	cr_assert_lt(kata_persistence_release_sandbox(b.p, k.s, NULL, &json, &err), 0);
	cr_assert(strstr(kata_error_get_message(err), "released"));
	error_clear(&err);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_RELEASED);
	cr_assert_not_null(json);
	kata_sandbox_unref(k.s);
	fixture_assert_ok(
		kata_sandbox_build_from_released(k.f.context, json, strlen(json), k.builder, NULL, NULL, &next, &err),
		err);
	free(json);
	k.s = next;
	book_close(&b);
	kit_deinit(&k);
}

Test(sandbox_records, what_is_not_recorded_or_only_reserved_is_not_found)
{
	struct kit k;
	struct book b;
	kata_sandbox *next = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	book_open(&b, &k);
	fixture_assert_fails(kata_persistence_obtain_sandbox(b.p, "nope", k.builder, NULL, NULL, &next, &err),
			     KATA_E_NOT_FOUND, err);
	error_clear(&err);
	fixture_assert_ok(kata_persistence_create_sandbox(b.p, "nope", &err), err);
	fixture_assert_fails(kata_persistence_obtain_sandbox(b.p, "nope", k.builder, NULL, NULL, &next, &err),
			     KATA_E_NOT_FOUND, err);
	error_clear(&err);
	book_close(&b);
	kit_deinit(&k);
}
