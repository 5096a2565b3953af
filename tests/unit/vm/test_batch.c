/* SPDX-License-Identifier: Apache-2.0 */
/* Batches: validated as a whole, side by side, a result each, all or nothing where asked for. */
#include "fake_driver.h"

static struct fixture f;
static kata_vm *vm;
static kata_batch *batch;
static kata_error *err;

static void setup(void)
{
	fixture_init(&f, true, 0);
	vm = fake_started_vm(&f, "vm", 4);
}

static void teardown(void)
{
	kata_batch_free(batch);
	kata_vm_unref(vm);
	error_clear(&err);
	fixture_deinit(&f);
}

TestSuite(batch, .init = setup, .fini = teardown, .timeout = 30);

static void new_batch(uint64_t flags)
{
	kata_batch_free(batch);
	batch = NULL;
	fixture_assert_ok(kata_batch_new(vm, flags, &batch, &err), err);
}

static void add_nic(const char *id, const char *mac)
{
	kata_nic *n = fixture_nic(id, mac);

	fixture_assert_ok(kata_batch_add_nic(batch, n, &err), err);
	kata_nic_unref(n);
}

static void add_disk(const char *id, const char *path, kata_storage_driver driver)
{
	kata_storage *s = fixture_storage(id, path, driver);

	fixture_assert_ok(kata_batch_add_storage(batch, s, &err), err);
	kata_storage_unref(s);
}

static void add_new_disk(const char *id)
{
	char *path = fixture_make_raw(&f, id, 4096);

	add_disk(id, path, KATA_STORAGE_VIRTIO_BLK);
	free(path);
}

static uint32_t slots_free(void)
{
	kata_vm_stats stats = {.size = sizeof(stats)};

	fixture_assert_ok(kata_vm_get_stats(vm, &stats, &err), err);
	return stats.slots_free;
}

Test(batch, all_are_plugged_and_have_an_op_each)
{
	new_batch(0);
	add_new_disk("a");
	add_new_disk("b");
	add_nic("n", NULL);
	cr_assert_null(kata_batch_get_item_op(batch, 0));
	fixture_assert_ok(kata_batch_run(batch, NULL, &err), err);
	cr_assert_eq(kata_batch_get_count(batch), 3u);
	cr_assert_str_eq(kata_batch_get_item_id(batch, 2), "n");
	for (size_t i = 0; i < 3; i++) {
		kata_op *op = kata_batch_get_item_op(batch, i);

		cr_assert(kata_op_is_done(op));
		cr_assert_null(kata_op_get_error(op));
		cr_assert_geq(kata_op_get_timeline_length(op), 3u);
	}
	cr_assert_null(kata_batch_get_item_op(batch, 3));
	cr_assert_null(kata_batch_get_item_id(batch, 3));
	cr_assert_eq(kata_vm_get_storage_count(vm), 2u);
	cr_assert_eq(slots_free(), 1u);
}

Test(batch, an_empty_one_succeeds)
{
	new_batch(0);
	fixture_assert_ok(kata_batch_run(batch, NULL, &err), err);
}

Test(batch, items_run_side_by_side)
{
	uint64_t start;

	new_batch(0);
	for (int i = 0; i < 4; i++) {
		char id[8];

		snprintf(id, sizeof(id), "n%d", i);
		add_nic(id, NULL);
	}
	kata_context_set_fail_point(f.context, "plug-nic/act:before", KATA_FAIL_DELAY, 100, 0, 0, NULL);
	start = kata__now_ns();
	fixture_assert_ok(kata_batch_run(batch, NULL, &err), err);
	cr_assert_lt(kata__now_ns() - start, 300000000u, "four delays of 100 ms took %llu us",
		     (unsigned long long)((kata__now_ns() - start) / 1000));
}

Test(batch, more_than_fit_are_refused_before_anything_is_touched)
{
	new_batch(0);
	add_nic("n0", NULL);
	fixture_assert_ok(kata_batch_run(batch, NULL, &err), err);
	new_batch(0);
	for (int i = 1; i < 5; i++) {
		char id[8];

		snprintf(id, sizeof(id), "n%d", i);
		add_nic(id, NULL);
	}
	fixture_assert_fails(kata_batch_run(batch, NULL, &err), KATA_E_EXHAUSTED, err);
	cr_assert(strstr(error_text(err), "needs 4 device slots, of 4 there are 3 free"), "%s", error_text(err));
	cr_assert_null(kata_batch_get_item_op(batch, 0));
	cr_assert_eq(slots_free(), 3u);
}

Test(batch, scsi_disks_need_no_slot)
{
	new_batch(0);
	for (int i = 0; i < 6; i++) {
		char id[8], *path;

		snprintf(id, sizeof(id), "l%d", i);
		path = fixture_make_raw(&f, id, 4096);
		add_disk(id, path, KATA_STORAGE_VIRTIO_SCSI);
		free(path);
	}
	fixture_assert_ok(kata_batch_run(batch, NULL, &err), err);
	cr_assert_eq(slots_free(), 4u);
}

static void exists(const char *part)
{
	fixture_assert_fails(kata_batch_run(batch, NULL, &err), KATA_E_EXISTS, err);
	cr_assert(strstr(error_text(err), part), "%s", error_text(err));
	cr_assert_null(kata_batch_get_item_op(batch, 0));
	cr_assert_eq(slots_free(), 4u);
}

Test(batch, two_items_of_one_id_exist)
{
	new_batch(0);
	add_nic("x", NULL);
	add_new_disk("x");
	exists("two items have the id 'x'");
}

Test(batch, two_nics_of_one_mac_exist)
{
	new_batch(0);
	add_nic("a", "02:00:00:00:00:01");
	add_nic("b", "02:00:00:00:00:01");
	exists("one MAC");
}

Test(batch, two_disks_of_one_file_exist)
{
	char *path = fixture_make_raw(&f, "raw", 4096);

	new_batch(0);
	add_disk("a", path, KATA_STORAGE_VIRTIO_BLK);
	add_disk("b", path, KATA_STORAGE_VIRTIO_SCSI);
	exists("one file");
	free(path);
}

Test(batch, a_disk_and_its_backing_file_exist)
{
	char *base = fixture_make_raw(&f, "base", 4096), *path = fixture_make_qcow2(&f, "over", 1 << 20, base);
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_storage *over = NULL;

	c.id = "over";
	c.path = path;
	c.format = KATA_STORAGE_QCOW2;
	c.backing_path = base;
	fixture_assert_ok(kata_storage_new(&c, &over, &err), err);
	for (int i = 0; i < 2; i++) {
		new_batch(0);
		if (i == 0)
			add_disk("base", base, KATA_STORAGE_VIRTIO_BLK);
		fixture_assert_ok(kata_batch_add_storage(batch, over, &err), err);
		if (i == 1)
			add_disk("base", base, KATA_STORAGE_VIRTIO_BLK);
		exists("batch: storage 'base', ");
		cr_assert(strstr(error_text(err), "is the backing file of storage 'over'"), "%s", error_text(err));
		error_clear(&err);
	}
	kata_storage_unref(over);
	free(base);
	free(path);
}

Test(batch, an_id_that_the_vm_has_exists)
{
	new_batch(0);
	add_nic("n", NULL);
	fixture_assert_ok(kata_batch_run(batch, NULL, &err), err);
	new_batch(0);
	add_nic("n", NULL);
	fixture_assert_fails(kata_batch_run(batch, NULL, &err), KATA_E_EXISTS, err);
}

Test(batch, one_failed_item_fails_the_batch_and_leaves_the_others)
{
	new_batch(0);
	add_new_disk("a");
	add_disk("b", "/nonexistent/image", KATA_STORAGE_VIRTIO_BLK);
	add_nic("n", NULL);
	fixture_assert_fails(kata_batch_run(batch, NULL, &err), KATA_E_NOT_FOUND, err);
	cr_assert(strstr(error_text(err), "1 of 3 items failed, first 'b'"), "%s", error_text(err));
	cr_assert_null(kata_op_get_error(kata_batch_get_item_op(batch, 0)));
	cr_assert_eq(kata_error_get_status(kata_op_get_error(kata_batch_get_item_op(batch, 1))), KATA_E_NOT_FOUND);
	cr_assert_eq(kata_vm_get_storage_count(vm), 1u);
	cr_assert_eq(kata_vm_get_nic_count(vm), 1u);
}

Test(batch, all_or_nothing_takes_back_what_succeeded)
{
	struct census *before = fixture_census(&f);

	new_batch(KATA_BATCH_ALL_OR_NOTHING);
	add_new_disk("a");
	add_disk("b", "/nonexistent/image", KATA_STORAGE_VIRTIO_BLK);
	add_nic("n", NULL);
	fixture_assert_fails(kata_batch_run(batch, NULL, &err), KATA_E_NOT_FOUND, err);
	cr_assert(!kata_error_is_uncertain(err));
	cr_assert_eq(kata_vm_get_storage_count(vm), 0u);
	cr_assert_eq(kata_vm_get_nic_count(vm), 0u);
	cr_assert_eq(slots_free(), 4u);
	fixture_assert_census(&f, before, "after the batch");
}

Test(batch, all_or_nothing_puts_back_what_was_removed)
{
	new_batch(0);
	add_nic("n", NULL);
	fixture_assert_ok(kata_batch_run(batch, NULL, &err), err);
	new_batch(KATA_BATCH_ALL_OR_NOTHING);
	fixture_assert_ok(kata_batch_remove_nic(batch, "n", &err), err);
	add_disk("b", "/nonexistent/image", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_fails(kata_batch_run(batch, NULL, &err), KATA_E_NOT_FOUND, err);
	cr_assert_eq(kata_vm_get_nic_count(vm), 1u);
	cr_assert_eq(slots_free(), 3u);
}

Test(batch, what_cannot_be_taken_back_makes_the_error_uncertain)
{
	new_batch(KATA_BATCH_ALL_OR_NOTHING);
	add_nic("n", NULL);
	add_disk("b", "/nonexistent/image", KATA_STORAGE_VIRTIO_BLK);
	fake_arm(&f, "unplug-nic/act:before", KATA_FAIL_ERROR);
	fixture_assert_fails(kata_batch_run(batch, NULL, &err), KATA_E_NOT_FOUND, err);
	cr_assert(kata_error_is_uncertain(err));
	cr_assert_eq(kata_vm_get_nic_count(vm), 1u);
}

Test(batch, removes_side_by_side)
{
	new_batch(0);
	add_new_disk("a");
	add_nic("n", NULL);
	fixture_assert_ok(kata_batch_run(batch, NULL, &err), err);
	new_batch(0);
	fixture_assert_ok(kata_batch_remove_storage(batch, "a", &err), err);
	fixture_assert_ok(kata_batch_remove_nic(batch, "n", &err), err);
	fixture_assert_ok(kata_batch_run(batch, NULL, &err), err);
	cr_assert_eq(slots_free(), 4u);
}

Test(batch, removing_what_is_not_there_is_not_found_at_the_begin)
{
	kata_op *op = NULL;

	new_batch(0);
	fixture_assert_ok(kata_batch_remove_nic(batch, "none", &err), err);
	fixture_assert_fails(kata_batch_begin(batch, NULL, &op, &err), KATA_E_NOT_FOUND, err);
	cr_assert_null(op);
}

Test(batch, one_deadline_ends_every_item)
{
	kata_op_options o = {sizeof(o), 50};

	new_batch(0);
	add_nic("a", NULL);
	add_nic("b", NULL);
	fake_arm(&f, "plug-nic/act:before", KATA_FAIL_HANG);
	fixture_assert_fails(kata_batch_run(batch, &o, &err), KATA_E_TIMEOUT, err);
	for (size_t i = 0; i < 2; i++)
		cr_assert_eq(kata_error_get_status(kata_op_get_error(kata_batch_get_item_op(batch, i))),
			     KATA_E_TIMEOUT);
	cr_assert_eq(slots_free(), 4u);
}

static void cancel_it(uint64_t flags)
{
	kata_op *op = NULL;

	new_batch(flags);
	add_new_disk("a");
	add_nic("n", NULL);
	fake_arm(&f, "plug-nic/act:before", KATA_FAIL_HANG);
	fixture_assert_ok(kata_batch_begin(batch, NULL, &op, &err), err);
	while (!kata_batch_get_item_op(batch, 0) || !kata_op_is_done(kata_batch_get_item_op(batch, 0)))
		usleep(1000);
	kata_op_cancel(op);
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_CANCELLED, err);
	kata_op_unref(op);
	cr_assert_eq(kata_error_get_status(kata_op_get_error(kata_batch_get_item_op(batch, 1))), KATA_E_CANCELLED);
	cr_assert_eq(kata_vm_get_nic_count(vm), 0u);
}

Test(batch, a_cancel_cancels_the_items_and_keeps_what_is_done)
{
	cancel_it(0);
	cr_assert_eq(kata_vm_get_storage_count(vm), 1u);
}

Test(batch, a_cancel_of_all_or_nothing_leaves_nothing)
{
	cancel_it(KATA_BATCH_ALL_OR_NOTHING);
	cr_assert_eq(kata_vm_get_storage_count(vm), 0u);
	cr_assert_eq(slots_free(), 4u);
}

Test(batch, freed_while_under_way_it_goes_on)
{
	kata_op *op = NULL;

	new_batch(0);
	add_nic("n", NULL);
	kata_context_set_fail_point(f.context, "plug-nic/act:before", KATA_FAIL_DELAY, 30, 0, 0, NULL);
	fixture_assert_ok(kata_batch_begin(batch, NULL, &op, &err), err);
	kata_batch_free(batch);
	batch = NULL;
	cr_assert_eq(kata_op_wait(op, NULL), 0);
	kata_op_unref(op);
	cr_assert_eq(kata_vm_get_nic_count(vm), 1u);
}

Test(batch, destroy_ends_a_batch_under_way)
{
	kata_op *op = NULL;

	new_batch(KATA_BATCH_ALL_OR_NOTHING);
	add_new_disk("a");
	add_nic("n", NULL);
	fake_arm(&f, "plug-nic/act:before", KATA_FAIL_HANG);
	fixture_assert_ok(kata_batch_begin(batch, NULL, &op, &err), err);
	while (!kata_batch_get_item_op(batch, 0) || !kata_op_is_done(kata_batch_get_item_op(batch, 0)))
		usleep(1000);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_GONE, err);
	cr_assert_not(kata_error_is_uncertain(err), "%s", error_text(err));
	cr_assert_eq(kata_error_get_status(kata_op_get_error(kata_batch_get_item_op(batch, 1))), KATA_E_GONE);
	kata_op_unref(op);
}

Test(batch, a_begun_one_takes_no_more)
{
	kata_nic *n = fixture_nic("late", NULL);
	kata_op *op = NULL;

	new_batch(0);
	fixture_assert_ok(kata_batch_run(batch, NULL, &err), err);
	fixture_assert_fails(kata_batch_add_nic(batch, n, &err), KATA_E_STATE, err);
	error_clear(&err);
	fixture_assert_fails(kata_batch_begin(batch, NULL, &op, &err), KATA_E_STATE, err);
	kata_nic_unref(n);
}

Test(batch, more_than_1024_items_are_exhausted)
{
	new_batch(0);
	for (int i = 0; i < 1024; i++)
		fixture_assert_ok(kata_batch_remove_nic(batch, "x", &err), err);
	fixture_assert_fails(kata_batch_remove_nic(batch, "x", &err), KATA_E_EXHAUSTED, err);
}

Test(batch, unknown_flags_and_null_are_refused)
{
	kata_batch *none = NULL;

	fixture_assert_fails(kata_batch_new(vm, 2, &none, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_batch_new(NULL, 0, &none, &err), KATA_E_INVALID, err);
	error_clear(&err);
	new_batch(0);
	fixture_assert_fails(kata_batch_add_nic(batch, NULL, &err), KATA_E_INVALID, err);
	kata_batch_free(NULL);
	cr_assert_eq(kata_batch_get_count(NULL), 0u);
}

Test(batch, works_cold_too)
{
	kata_vm *cold = fake_new_vm(&f, "cold", 4);
	kata_nic *n = fixture_nic("n", NULL);
	kata_batch *b = NULL;

	fixture_assert_ok(kata_batch_new(cold, 0, &b, &err), err);
	fixture_assert_ok(kata_batch_add_nic(b, n, &err), err);
	fixture_assert_ok(kata_batch_run(b, NULL, &err), err);
	kata_batch_free(b);
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_PLUGGED);
	kata_vm_unref(cold);
	kata_nic_unref(n);
}

Test(batch, works_with_an_external_loop)
{
	kata_context *external = fixture_new_context(&f, KATA_CONTEXT_EXTERNAL_LOOP), *own = f.context;
	kata_nic *n = fixture_nic("n", NULL);
	kata_batch *b = NULL;
	kata_vm *other;

	f.context = external;
	other = fake_started_vm(&f, "external", 4);
	fixture_assert_ok(kata_batch_new(other, 0, &b, &err), err);
	fixture_assert_ok(kata_batch_add_nic(b, n, &err), err);
	fixture_assert_ok(kata_batch_run(b, NULL, &err), err);
	kata_batch_free(b);
	kata_vm_unref(other);
	f.context = own;
	fixture_assert_ok(kata_context_free(external, &err), err);
	kata_nic_unref(n);
}
