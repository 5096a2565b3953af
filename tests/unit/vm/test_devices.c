/* SPDX-License-Identifier: Apache-2.0 */
/* Devices of a VM: adding, removing, what must not be there twice, and what an uncertain end leaves. */
#include "fake_driver.h"

static struct fixture f;
static kata_vm *vm;
static kata_error *err;

static void setup(void)
{
	fixture_init(&f, true, 0);
	vm = fake_started_vm(&f, "vm", 4);
}

static void teardown(void)
{
	kata_vm_unref(vm);
	error_clear(&err);
	fixture_deinit(&f);
}

TestSuite(devices, .init = setup, .fini = teardown, .timeout = 30);

static kata_storage *disk(const char *id, kata_storage_driver driver, uint64_t flags, const char *path)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_storage *s = NULL;

	c.id = id;
	c.path = path;
	c.driver = driver;
	c.flags = flags;
	fixture_assert_ok(kata_storage_new(&c, &s, &err), err);
	return s;
}

static kata_storage *new_disk(const char *id)
{
	char *path = fixture_make_raw(&f, id, 1 << 20);
	kata_storage *s = disk(id, KATA_STORAGE_VIRTIO_BLK, 0, path);

	free(path);
	return s;
}

static uint32_t slots_free(void)
{
	kata_vm_stats stats = {.size = sizeof(stats)};

	fixture_assert_ok(kata_vm_get_stats(vm, &stats, &err), err);
	return stats.slots_free;
}

Test(devices, a_plugged_disk_has_address_size_and_a_slot)
{
	kata_storage *s = new_disk("d");
	char address[16];

	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_PLUGGED);
	cr_assert_eq(kata_storage_get_address(s, address, sizeof(address)), 5u);
	cr_assert_str_eq(address, "08/00");
	cr_assert_eq(kata_storage_get_size_bytes(s), 1u << 20);
	cr_assert_eq(slots_free(), 3u);
	fixture_assert_ok(kata_vm_remove_storage(vm, "d", NULL, &err), err);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	cr_assert_eq(kata_storage_get_address(s, address, sizeof(address)), 0u);
	cr_assert_eq(kata_storage_get_size_bytes(s), 0u);
	cr_assert_eq(slots_free(), 4u);
	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	kata_storage_unref(s);
}

Test(devices, a_scsi_disk_takes_a_lun_and_no_slot)
{
	char *path = fixture_make_raw(&f, "raw", 4096), address[16];
	kata_storage *s = disk("d", KATA_STORAGE_VIRTIO_SCSI, 0, path);

	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	kata_storage_get_address(s, address, sizeof(address));
	cr_assert_str_eq(address, "0:0");
	cr_assert_eq(slots_free(), 4u);
	kata_storage_unref(s);
	free(path);
}

Test(devices, lists_show_devices_in_order_of_plugging)
{
	kata_storage *a = new_disk("a"), *b = new_disk("b"), *found = NULL;
	kata_nic *n = fixture_nic("n", NULL), *nic = NULL;

	fixture_assert_ok(kata_vm_add_storage(vm, b, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_nic(vm, n, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_storage(vm, a, NULL, &err), err);
	cr_assert_eq(kata_vm_get_storage_count(vm), 2u);
	cr_assert_eq(kata_vm_get_nic_count(vm), 1u);
	fixture_assert_ok(kata_vm_get_storage(vm, 1, &found, &err), err);
	cr_assert_eq(found, a);
	kata_storage_unref(found);
	fixture_assert_ok(kata_vm_get_nic(vm, 0, &nic, &err), err);
	cr_assert_eq(nic, n);
	kata_nic_unref(nic);
	fixture_assert_fails(kata_vm_get_storage(vm, 2, &found, &err), KATA_E_NOT_FOUND, err);
	kata_storage_unref(a);
	kata_storage_unref(b);
	kata_nic_unref(n);
}

Test(devices, find_tells_storages_from_nics)
{
	kata_nic *n = fixture_nic("n", NULL), *nic = NULL;
	kata_storage *found = NULL;

	fixture_assert_ok(kata_vm_add_nic(vm, n, NULL, &err), err);
	fixture_assert_ok(kata_vm_find_nic(vm, "n", &nic, &err), err);
	kata_nic_unref(nic);
	fixture_assert_fails(kata_vm_find_storage(vm, "n", &found, &err), KATA_E_NOT_FOUND, err);
	kata_nic_unref(n);
}

Test(devices, the_same_storage_twice_exists)
{
	kata_storage *s = new_disk("d");

	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	fixture_assert_fails(kata_vm_add_storage(vm, s, NULL, &err), KATA_E_EXISTS, err);
	cr_assert(strstr(error_text(err), "storage 'd' is in vm 'vm' already"));
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_PLUGGED);
	cr_assert_eq(slots_free(), 3u);
	kata_storage_unref(s);
}

Test(devices, an_id_is_unique_over_disks_and_nics)
{
	kata_storage *s = new_disk("x");
	kata_nic *n = fixture_nic("x", NULL);

	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	fixture_assert_fails(kata_vm_add_nic(vm, n, NULL, &err), KATA_E_EXISTS, err);
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_NEW);
	kata_storage_unref(s);
	kata_nic_unref(n);
}

Test(devices, a_mac_twice_exists)
{
	kata_nic *a = fixture_nic("a", "02:00:00:00:00:01"), *b = fixture_nic("b", "02:00:00:00:00:01");

	fixture_assert_ok(kata_vm_add_nic(vm, a, NULL, &err), err);
	fixture_assert_fails(kata_vm_add_nic(vm, b, NULL, &err), KATA_E_EXISTS, err);
	cr_assert(strstr(error_text(err), "02:00:00:00:00:01"));
	cr_assert_eq(slots_free(), 3u);
	kata_nic_unref(a);
	kata_nic_unref(b);
}

Test(devices, a_file_twice_exists_also_by_another_name)
{
	char *path = fixture_make_raw(&f, "raw", 4096), *other = fixture_path(&f, "link");
	kata_storage *a, *b;

	cr_assert_eq(symlink(path, other), 0);
	a = disk("a", KATA_STORAGE_VIRTIO_BLK, 0, path);
	b = disk("b", KATA_STORAGE_VIRTIO_BLK, KATA_STORAGE_READ_ONLY, other);
	fixture_assert_ok(kata_vm_add_storage(vm, a, NULL, &err), err);
	fixture_assert_fails(kata_vm_add_storage(vm, b, NULL, &err), KATA_E_EXISTS, err);
	cr_assert(strstr(error_text(err), "as 'a'"));
	cr_assert_eq(kata_storage_get_state(b), KATA_DEVICE_NEW);
	cr_assert_eq(slots_free(), 3u);
	kata_storage_unref(a);
	kata_storage_unref(b);
	free(path);
	free(other);
}

Test(devices, a_file_may_be_there_twice_read_only)
{
	char *path = fixture_make_raw(&f, "raw", 4096);
	kata_storage *a = disk("a", KATA_STORAGE_VIRTIO_BLK, KATA_STORAGE_READ_ONLY, path);
	kata_storage *b = disk("b", KATA_STORAGE_VIRTIO_BLK, KATA_STORAGE_READ_ONLY, path);

	fixture_assert_ok(kata_vm_add_storage(vm, a, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_storage(vm, b, NULL, &err), err);
	kata_storage_unref(a);
	kata_storage_unref(b);
	free(path);
}

static kata_storage *overlay(const char *id, const char *base)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	char *path = fixture_make_qcow2(&f, id, 1 << 20, base);
	kata_storage *s = NULL;

	c.id = id;
	c.path = path;
	c.format = KATA_STORAGE_QCOW2;
	c.backing_path = base;
	fixture_assert_ok(kata_storage_new(&c, &s, &err), err);
	free(path);
	return s;
}

Test(devices, the_backing_file_of_a_plugged_disk_exists_also_by_another_name)
{
	char *base = fixture_make_raw(&f, "base", 4096), *link = fixture_path(&f, "link");
	kata_storage *a = overlay("a", base), *b, *c;

	cr_assert_eq(symlink(base, link), 0);
	b = disk("b", KATA_STORAGE_VIRTIO_BLK, 0, link);
	c = disk("c", KATA_STORAGE_VIRTIO_BLK, KATA_STORAGE_READ_ONLY, link);
	fixture_assert_ok(kata_vm_add_storage(vm, a, NULL, &err), err);
	fixture_assert_fails(kata_vm_add_storage(vm, b, NULL, &err), KATA_E_EXISTS, err);
	cr_assert(strstr(error_text(err), "storage 'b': ") && strstr(error_text(err), "link is in vm 'vm' already, as "
										      "the backing file of 'a'"),
		  "%s", error_text(err));
	cr_assert_eq(slots_free(), 3u);
	error_clear(&err);
	fixture_assert_ok(kata_vm_add_storage(vm, c, NULL, &err), err);
	kata_storage_unref(a);
	kata_storage_unref(b);
	kata_storage_unref(c);
	free(base);
	free(link);
}

Test(devices, a_disk_over_a_file_that_another_may_write_to_exists)
{
	char *base = fixture_make_raw(&f, "base", 4096);
	kata_storage *a = disk("a", KATA_STORAGE_VIRTIO_SCSI, 0, base), *b = overlay("b", base),
		     *c = overlay("c", base);

	fixture_assert_ok(kata_vm_add_storage(vm, a, NULL, &err), err);
	fixture_assert_fails(kata_vm_add_storage(vm, b, NULL, &err), KATA_E_EXISTS, err);
	cr_assert(strstr(error_text(err), "storage 'b': its backing file ") &&
			  strstr(error_text(err), "is plugged into vm 'vm' already, as 'a', which may write to it"),
		  "%s", error_text(err));
	error_clear(&err);
	fixture_assert_ok(kata_vm_remove_storage(vm, "a", NULL, &err), err);
	fixture_assert_ok(kata_vm_add_storage(vm, b, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_storage(vm, c, NULL, &err), err);
	kata_storage_unref(a);
	kata_storage_unref(b);
	kata_storage_unref(c);
	free(base);
}

Test(devices, a_storage_of_another_vm_is_busy)
{
	kata_vm *other = fake_started_vm(&f, "other", 4);
	kata_storage *s = new_disk("d");

	fixture_assert_ok(kata_vm_add_storage(other, s, NULL, &err), err);
	fixture_assert_fails(kata_vm_add_storage(vm, s, NULL, &err), KATA_E_BUSY, err);
	cr_assert_eq(slots_free(), 4u);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_PLUGGED);
	kata_storage_unref(s);
	kata_vm_unref(other);
}

Test(devices, more_than_there_are_slots_are_exhausted)
{
	kata_nic *n[5];

	for (int i = 0; i < 5; i++) {
		char id[8];

		snprintf(id, sizeof(id), "n%d", i);
		n[i] = fixture_nic(id, NULL);
	}
	for (int i = 0; i < 4; i++)
		fixture_assert_ok(kata_vm_add_nic(vm, n[i], NULL, &err), err);
	fixture_assert_fails(kata_vm_add_nic(vm, n[4], NULL, &err), KATA_E_EXHAUSTED, err);
	cr_assert(strstr(error_text(err), "4 there are"));
	cr_assert_eq(kata_nic_get_state(n[4]), KATA_DEVICE_NEW);
	for (int i = 0; i < 5; i++)
		kata_nic_unref(n[i]);
}

Test(devices, removing_an_unknown_id_is_not_found)
{
	fixture_assert_fails(kata_vm_remove_storage(vm, "none", NULL, &err), KATA_E_NOT_FOUND, err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_remove_nic(vm, "none", NULL, &err), KATA_E_NOT_FOUND, err);
}

Test(devices, removing_while_its_plug_is_under_way_is_busy)
{
	kata_nic *n = fixture_nic("n", NULL);
	kata_op *op = NULL;

	fake_arm(&f, "plug-nic/act:before", KATA_FAIL_HANG);
	fixture_assert_ok(kata_vm_add_nic_begin(vm, n, NULL, &op, &err), err);
	fake_await_steps(op, 1);
	cr_assert_eq(kata_vm_get_nic_count(vm), 0u);
	while (kata_nic_get_state(n) != KATA_DEVICE_PLUGGING)
		usleep(1000);
	fixture_assert_fails(kata_vm_remove_nic(vm, "n", NULL, &err), KATA_E_BUSY, err);
	kata_op_cancel(op);
	cr_assert_eq(kata_op_wait(op, NULL), KATA_E_CANCELLED);
	kata_op_unref(op);
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_NEW);
	cr_assert_eq(slots_free(), 4u);
	kata_nic_unref(n);
}

Test(devices, removing_twice_at_once_is_busy_for_the_second)
{
	kata_nic *n = fixture_nic("n", NULL);
	kata_op *op = NULL;

	fixture_assert_ok(kata_vm_add_nic(vm, n, NULL, &err), err);
	fake_arm(&f, "unplug-nic/act:before", KATA_FAIL_HANG);
	fixture_assert_ok(kata_vm_remove_nic_begin(vm, "n", NULL, &op, &err), err);
	fake_await_steps(op, 1);
	fixture_assert_fails(kata_vm_remove_nic(vm, "n", NULL, &err), KATA_E_BUSY, err);
	kata_op_cancel(op);
	cr_assert_eq(kata_op_wait(op, NULL), KATA_E_CANCELLED);
	kata_op_unref(op);
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_PLUGGED);
	kata_nic_unref(n);
}

static void fails_at(const char *point, const char *step)
{
	kata_storage *s = new_disk("d");

	fake_arm(&f, point, KATA_FAIL_ERROR);
	fixture_assert_fails(kata_vm_add_storage(vm, s, NULL, &err), KATA_E_INJECTED, err);
	cr_assert_str_eq(kata_error_get_step(err), step);
	error_clear(&err);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	cr_assert_eq(kata_vm_get_storage_count(vm), 0u);
	cr_assert_eq(slots_free(), 4u);
	kata_context_clear_fail_point(f.context, NULL);
	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	kata_storage_unref(s);
}

Test(devices, a_plug_that_fails_at_any_step_leaves_nothing_and_then_succeeds)
{
	static const char *const steps[] = {"reserve", "open", "act", "commit"};
	static const char *const sides[] = {"before", "after"};

	for (size_t i = 0; i < kata__array_size(steps); i++) {
		for (size_t k = 0; k < 2; k++) {
			char point[64], step[64];

			snprintf(point, sizeof(point), "plug-storage/%s:%s", steps[i], sides[k]);
			snprintf(step, sizeof(step), "plug-storage/%s", steps[i]);
			fails_at(point, step);
			fixture_assert_ok(kata_vm_remove_storage(vm, "d", NULL, &err), err);
		}
	}
}

Test(devices, an_unplug_that_fails_leaves_it_plugged)
{
	kata_storage *s = new_disk("d");

	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	fake_arm(&f, "unplug-storage/act:after", KATA_FAIL_ERROR);
	fixture_assert_fails(kata_vm_remove_storage(vm, "d", NULL, &err), KATA_E_INJECTED, err);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_PLUGGED);
	cr_assert_eq(slots_free(), 3u);
	kata_storage_unref(s);
}

Test(devices, a_plug_that_cannot_be_taken_back_is_diverged_and_keeps_its_slot)
{
	kata_nic *n = fixture_nic("n", NULL);

	fake_of(vm)->fail_undo = true;
	fake_arm(&f, "plug-nic/act:after", KATA_FAIL_ERROR);
	fixture_assert_fails(kata_vm_add_nic(vm, n, NULL, &err), KATA_E_INJECTED, err);
	cr_assert(kata_error_is_uncertain(err));
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_DIVERGED);
	cr_assert_eq(kata_vm_get_nic_count(vm), 1u);
	cr_assert_eq(slots_free(), 3u);
	error_clear(&err);
	fixture_assert_ok(kata_vm_remove_nic(vm, "n", NULL, &err), err);
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_NEW);
	cr_assert_eq(slots_free(), 4u);
	kata_nic_unref(n);
}

Test(devices, an_unplug_that_ends_uncertain_is_diverged)
{
	kata_nic *n = fixture_nic("n", NULL);

	fixture_assert_ok(kata_vm_add_nic(vm, n, NULL, &err), err);
	fake_of(vm)->fail_undo = true;
	fake_arm(&f, "unplug-nic/act:after", KATA_FAIL_ERROR);
	fixture_assert_fails(kata_vm_remove_nic(vm, "n", NULL, &err), KATA_E_INJECTED, err);
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_DIVERGED);
	kata_nic_unref(n);
}

/* ---- a device that the VMM says has left */

Test(devices, a_plugged_device_that_left_is_diverged_until_it_is_removed)
{
	kata_storage *s = new_disk("d");

	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	cr_assert_not(kata__vm_device_lost(vm, true, "d"), "a NIC of that id there is none");
	cr_assert(kata__vm_device_lost(vm, false, "d"));
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_DIVERGED);
	cr_assert_eq(slots_free(), 3u);
	cr_assert_not(kata__vm_device_lost(vm, false, "d"), "it is known");
	fixture_assert_ok(kata_vm_remove_storage(vm, "d", NULL, &err), err);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	cr_assert_eq(slots_free(), 4u);
	kata_storage_unref(s);
}

Test(devices, a_device_that_left_in_its_unplug_is_diverged_when_that_fails)
{
	kata_nic *n = fixture_nic("n", NULL);

	fixture_assert_ok(kata_vm_add_nic(vm, n, NULL, &err), err);
	fake_of(vm)->loses_device = true;
	fake_arm(&f, "unplug-nic/act:after", KATA_FAIL_ERROR);
	fixture_assert_fails(kata_vm_remove_nic(vm, "n", NULL, &err), KATA_E_INJECTED, err);
	cr_assert_not(kata_error_is_uncertain(err));
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_DIVERGED);
	kata_nic_unref(n);
}

Test(devices, a_device_that_left_in_its_plug_is_not_plugged)
{
	kata_storage *s = new_disk("d");

	fake_of(vm)->loses_device = true;
	fixture_assert_fails(kata_vm_add_storage(vm, s, NULL, &err), KATA_E_VMM, err);
	cr_assert_eq(kata_error_get_origin(err), KATA_ORIGIN_GUEST);
	cr_assert_str_eq(kata_error_get_step(err), "plug-storage/commit");
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	cr_assert_eq(slots_free(), 4u);
	kata_storage_unref(s);
}

Test(devices, cold_devices_are_plugged_before_the_start_and_after_it)
{
	kata_vm *cold = fake_new_vm(&f, "cold", 4);
	kata_nic *n = fixture_nic("n", NULL);

	fixture_assert_ok(kata_vm_add_nic(cold, n, NULL, &err), err);
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_PLUGGED);
	cr_assert(access(cold->dir, F_OK) < 0, "a build touches nothing on the host");
	fixture_assert_ok(kata_vm_start(cold, NULL, &err), err);
	fixture_assert_ok(kata_vm_remove_nic(cold, "n", NULL, &err), err);
	kata_nic_unref(n);
	kata_vm_unref(cold);
}

Test(devices, destroy_gives_the_devices_back)
{
	kata_storage *s = new_disk("d");

	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	cr_assert_eq(kata_vm_get_storage_count(vm), 0u);
	kata_storage_unref(s);
}
