/* SPDX-License-Identifier: Apache-2.0 */
/* What was reserved before it was made: what the sandbox's operations make of it. */
#include "reconcile_desk.h"

static void reserve(struct desk *d, uint32_t kind, const char *id)
{
	kata_reservation_config c = KATA_RESERVATION_CONFIG_INIT;
	kata_error *err = NULL;

	c.sandbox_id = "sb";
	c.kind = kind;
	c.id = id;
	fixture_assert_ok(kata_persistence_reserve(d->p, &c, &err), err);
}

static void assert_state(struct desk *d, const char *id, const char *expected)
{
	char sql[200];

	snprintf(sql, sizeof(sql), "SELECT state = '%s' FROM kata_reservations WHERE device_id = '%s'", expected, id);
	cr_assert_eq(ask(d, sql), 1, "%s is not %s", id, expected);
}

Test(sandbox_reserve, a_plug_turns_its_intent_to_done_and_one_that_fails_to_undone)
{
	kata_storage *bad = fixture_storage("bad", "/nonexistent/bad", KATA_STORAGE_VIRTIO_BLK);
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	store(&d);
	run_sql(&d, "BEGIN");
	reserve(&d, KATA_RESERVE_STORAGE, "good");
	reserve(&d, KATA_RESERVE_STORAGE, "bad");
	reserve(&d, KATA_RESERVE_STORAGE, "later");
	run_sql(&d, "COMMIT");
	plug(&d, "good");
	fixture_assert_ok(kata_mock_set_failure(d.k.builder, KATA_MOCK_ADD_STORAGE, KATA_E_VMM, 1, &err), err);
	fixture_assert_fails(kata_sandbox_add_storage(d.k.s, bad, NULL, &err), KATA_E_VMM, err);
	error_clear(&err);
	store(&d);
	assert_state(&d, "good", "done");
	assert_state(&d, "bad", "undone");
	assert_state(&d, "later", "intent");
	/* A second try of the same device. */
	reserve(&d, KATA_RESERVE_STORAGE, "bad");
	fixture_assert_ok(kata_sandbox_add_storage(d.k.s, bad, NULL, &err), err);
	store(&d);
	assert_state(&d, "bad", "done");
	kata_storage_unref(bad);
	desk_close(&d);
}

Test(sandbox_reserve, what_is_settled_by_a_store_that_is_rolled_back_is_settled_by_the_next)
{
	kata_storage *bad = fixture_storage("bad", "/nonexistent/bad", KATA_STORAGE_VIRTIO_BLK);
	kata_error *err = NULL;
	struct desk d;

	desk_open(&d);
	store(&d);
	reserve(&d, KATA_RESERVE_STORAGE, "bad");
	fixture_assert_ok(kata_mock_set_failure(d.k.builder, KATA_MOCK_ADD_STORAGE, KATA_E_VMM, 1, &err), err);
	fixture_assert_fails(kata_sandbox_add_storage(d.k.s, bad, NULL, &err), KATA_E_VMM, err);
	error_clear(&err);
	run_sql(&d, "BEGIN");
	store(&d);
	run_sql(&d, "ROLLBACK");
	assert_state(&d, "bad", "intent");
	must_reconcile(&d, KATA_RECONCILE_STORE);
	assert_state(&d, "bad", "undone");
	kata_storage_unref(bad);
	desk_close(&d);
}

Test(sandbox_reserve, compensating_undoes_the_intent_of_what_it_unplugs)
{
	struct desk d;

	desk_open(&d);
	store(&d);
	reserve(&d, KATA_RESERVE_STORAGE, "data");
	run_sql(&d, "BEGIN");
	plug(&d, "data");
	store(&d);
	assert_state(&d, "data", "done");
	run_sql(&d, "ROLLBACK");
	assert_state(&d, "data", "intent");
	must_reconcile(&d, KATA_RECONCILE_COMPENSATE);
	store(&d);
	assert_state(&d, "data", "undone");
	desk_close(&d);
}
