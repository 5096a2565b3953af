/* SPDX-License-Identifier: Apache-2.0 */
/* vm_contract_devices.c - the cases on disks, NICs, slots and batches. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/vm_contract.h"

/* "SS/DD" in hex. */
static bool is_pci_path(const char *address)
{
	unsigned slot, device;
	char rest;

	return sscanf(address, "%2x/%2x%c", &slot, &device, &rest) == 2;
}

static bool is_scsi_address(const char *address)
{
	unsigned id, lun;
	char rest;

	return sscanf(address, "%u:%u%c", &id, &lun, &rest) == 2;
}

static void address_of_storage(struct vm_world *w, const char *id, char out[16])
{
	kata_storage *s = NULL;

	fixture_assert_ok(kata_vm_find_storage(w->vm, id, &s, &w->err), w->err);
	cr_assert_gt(kata_storage_get_address(s, out, 16), 0u);
	cr_assert_gt(kata_storage_get_size_bytes(s), 0u);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_PLUGGED);
	kata_storage_unref(s);
}

static void address_of_nic(struct vm_world *w, const char *id, char out[16])
{
	kata_nic *n = NULL;

	fixture_assert_ok(kata_vm_find_nic(w->vm, id, &n, &w->err), w->err);
	cr_assert_gt(kata_nic_get_address(n, out, 16), 0u);
	cr_assert_eq(strlen(kata_nic_get_mac(n)), 17);
	kata_nic_unref(n);
}

void vm_contract_cold_and_hot_plug_give_the_same_kind_of_result(const struct vm_kind *kind)
{
	char a[6][16];
	struct vm_world w;

	world_open(&w, kind, 0);
	world_plug_disk(&w, "cold-blk", KATA_STORAGE_VIRTIO_BLK);
	world_plug_disk(&w, "cold-scsi", KATA_STORAGE_VIRTIO_SCSI);
	world_plug_nic(&w, "cold-nic", NULL);
	world_start(&w);
	world_plug_disk(&w, "hot-blk", KATA_STORAGE_VIRTIO_BLK);
	world_plug_disk(&w, "hot-scsi", KATA_STORAGE_VIRTIO_SCSI);
	world_plug_nic(&w, "hot-nic", NULL);
	address_of_storage(&w, "cold-blk", a[0]);
	address_of_storage(&w, "hot-blk", a[1]);
	address_of_storage(&w, "cold-scsi", a[2]);
	address_of_storage(&w, "hot-scsi", a[3]);
	address_of_nic(&w, "cold-nic", a[4]);
	address_of_nic(&w, "hot-nic", a[5]);
	cr_assert(is_pci_path(a[0]) && is_pci_path(a[1]) && is_pci_path(a[4]) && is_pci_path(a[5]));
	cr_assert(is_scsi_address(a[2]) && is_scsi_address(a[3]));
	for (int i = 0; i < 6; i++)
		for (int j = 0; j < i; j++)
			cr_assert_str_neq(a[i], a[j]);
	world_close(&w);
}

void vm_contract_a_plugged_id_is_refused(const struct vm_kind *kind)
{
	struct vm_world w;
	kata_storage *s;
	kata_nic *n;

	world_open(&w, kind, 0);
	world_plug_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	world_plug_nic(&w, "n", NULL);
	world_start(&w);
	s = world_disk(&w, "a", KATA_STORAGE_VIRTIO_SCSI);
	fixture_assert_fails(kata_vm_add_storage(w.vm, s, NULL, &w.err), KATA_E_EXISTS, w.err);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	kata_storage_unref(s);
	error_clear(&w.err);
	n = world_nic("n", NULL);
	fixture_assert_fails(kata_vm_add_nic(w.vm, n, NULL, &w.err), KATA_E_EXISTS, w.err);
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_NEW);
	kata_nic_unref(n);
	world_close(&w);
}

void vm_contract_a_plugged_file_is_refused(const struct vm_kind *kind)
{
	struct vm_world w;
	kata_storage *a, *b;

	world_open(&w, kind, 0);
	world_start(&w);
	a = world_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	b = fixture_storage("b", kata_storage_get_path(a), KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_vm_add_storage(w.vm, a, NULL, &w.err), w.err);
	fixture_assert_fails(kata_vm_add_storage(w.vm, b, NULL, &w.err), KATA_E_EXISTS, w.err);
	cr_assert_eq(kata_vm_get_storage_count(w.vm), 1u);
	kata_storage_unref(a);
	kata_storage_unref(b);
	world_close(&w);
}

static kata_storage *overlay(struct vm_world *w, const char *id, const char *base)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	char *path = fixture_make_qcow2(&w->f, id, 1 << 20, base);
	kata_storage *s = NULL;

	c.id = id;
	c.path = path;
	c.format = KATA_STORAGE_QCOW2;
	c.backing_path = base;
	fixture_assert_ok(kata_storage_new(&c, &s, &w->err), w->err);
	free(path);
	return s;
}

static void refused_for_its_file(struct vm_world *w, kata_storage *s, const char *file, const char *other)
{
	struct census *before = fixture_census(&w->f);

	fixture_assert_fails(kata_vm_add_storage(w->vm, s, NULL, &w->err), KATA_E_EXISTS, w->err);
	cr_assert(strstr(error_text(w->err), kata_storage_get_id(s)) && strstr(error_text(w->err), file) &&
			  strstr(error_text(w->err), other),
		  "%s", error_text(w->err));
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	error_clear(&w->err);
	fixture_assert_census(&w->f, before, "after the refused plug");
}

/* Cold, plugged, and taken over. */
void vm_contract_a_backing_file_and_a_disk_that_writes_to_it_exclude_each_other(const struct vm_kind *kind)
{
	kata_storage *below, *over, *writes, *over_it;
	char *json = NULL;
	struct vm_world w;

	world_open(&w, kind, 0);
	below = world_disk(&w, "below", KATA_STORAGE_VIRTIO_BLK);
	over = overlay(&w, "over", kata_storage_get_path(below));
	writes = world_disk(&w, "writes", KATA_STORAGE_VIRTIO_SCSI);
	over_it = overlay(&w, "over-it", kata_storage_get_path(writes));
	fixture_assert_ok(kata_vm_add_storage(w.vm, over, NULL, &w.err), w.err);
	fixture_assert_ok(kata_vm_add_storage(w.vm, writes, NULL, &w.err), w.err);
	for (int i = 0; i < 3; i++) {
		refused_for_its_file(&w, below, kata_storage_get_path(below), "'over'");
		refused_for_its_file(&w, over_it, kata_storage_get_path(writes), "'writes'");
		if (i == 0)
			world_start(&w);
		if (i == 1) {
			fixture_assert_ok(kata_vm_release(w.vm, NULL, &json, &w.err), w.err);
			kata_vm_unref(w.vm);
			w.vm = NULL;
			world_rebuild(&w, json);
		}
	}
	fixture_assert_ok(kata_vm_remove_storage(w.vm, "over", NULL, &w.err), w.err);
	fixture_assert_ok(kata_vm_add_storage(w.vm, below, NULL, &w.err), w.err);
	free(json);
	kata_storage_unref(below);
	kata_storage_unref(over);
	kata_storage_unref(writes);
	kata_storage_unref(over_it);
	world_close(&w);
}

void vm_contract_a_storage_is_plugged_into_one_machine_at_a_time(const struct vm_kind *kind)
{
	struct vm_world w;
	kata_vm_config config;
	kata_vm *other = NULL;
	kata_storage *s;

	world_open(&w, kind, 0);
	config = w.config;
	config.id = "vm-2";
	fixture_assert_ok(kata_vm_builder_build(w.builder, &config, NULL, NULL, &other, &w.err), w.err);
	s = world_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_vm_add_storage(w.vm, s, NULL, &w.err), w.err);
	fixture_assert_fails(kata_vm_add_storage(other, s, NULL, &w.err), KATA_E_BUSY, w.err);
	error_clear(&w.err);
	fixture_assert_ok(kata_vm_remove_storage(w.vm, "a", NULL, &w.err), w.err);
	fixture_assert_ok(kata_vm_add_storage(other, s, NULL, &w.err), w.err);
	kata_storage_unref(s);
	kata_vm_unref(other);
	world_close(&w);
}

void vm_contract_two_nics_with_one_mac_are_refused(const struct vm_kind *kind)
{
	struct vm_world w;
	kata_nic *n = world_nic("m", "02:AA:00:00:00:01");

	world_open(&w, kind, 0);
	world_plug_nic(&w, "n", "02:aa:00:00:00:01");
	fixture_assert_fails(kata_vm_add_nic(w.vm, n, NULL, &w.err), KATA_E_EXISTS, w.err);
	cr_assert(strstr(kata_error_get_message(w.err), "02:aa:00:00:00:01"), "%s", error_text(w.err));
	error_clear(&w.err);
	world_start(&w);
	fixture_assert_fails(kata_vm_add_nic(w.vm, n, NULL, &w.err), KATA_E_EXISTS, w.err);
	kata_nic_unref(n);
	world_close(&w);
}

void vm_contract_exhausted_slots_say_how_many_there_are(const struct vm_kind *kind)
{
	struct vm_world w;
	kata_storage *s;

	world_open(&w, kind, 3);
	world_plug_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	world_start(&w);
	world_plug_disk(&w, "b", KATA_STORAGE_VIRTIO_BLK);
	world_plug_nic(&w, "n", NULL);
	s = world_disk(&w, "c", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_fails(kata_vm_add_storage(w.vm, s, NULL, &w.err), KATA_E_EXHAUSTED, w.err);
	cr_assert(strstr(error_text(w.err), "3"), "%s", error_text(w.err));
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	error_clear(&w.err);
	fixture_assert_ok(kata_vm_remove_storage(w.vm, "b", NULL, &w.err), w.err);
	fixture_assert_ok(kata_vm_add_storage(w.vm, s, NULL, &w.err), w.err);
	kata_storage_unref(s);
	world_close(&w);
}

void vm_contract_scsi_disks_take_no_device_slot(const struct vm_kind *kind)
{
	kata_vm_stats stats = {.size = sizeof(stats)};
	struct vm_world w;
	char id[16];

	world_open(&w, kind, 1);
	world_start(&w);
	for (int i = 0; i < 5; i++) {
		snprintf(id, sizeof(id), "s%d", i);
		world_plug_disk(&w, id, KATA_STORAGE_VIRTIO_SCSI);
	}
	fixture_assert_ok(kata_vm_get_stats(w.vm, &stats, &w.err), w.err);
	cr_assert_eq(stats.storage_count, 5u);
	cr_assert_eq(stats.slots_free, 1u);
	world_close(&w);
}

void vm_contract_stats_count_devices_and_slots(const struct vm_kind *kind)
{
	kata_vm_stats stats = {.size = sizeof(stats)};
	struct vm_world w;

	world_open(&w, kind, 4);
	world_start(&w);
	world_plug_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	world_plug_nic(&w, "n", NULL);
	fixture_assert_ok(kata_vm_get_stats(w.vm, &stats, &w.err), w.err);
	cr_assert_eq(stats.storage_count, 1u);
	cr_assert_eq(stats.nic_count, 1u);
	cr_assert_eq(stats.slots_total, 4u);
	cr_assert_eq(stats.slots_free, 2u);
	cr_assert_geq(stats.cpus, 1u);
	cr_assert_gt(stats.memory_mib, 0u);
	world_close(&w);
}

void vm_contract_an_unknown_device_cannot_be_removed(const struct vm_kind *kind)
{
	struct vm_world w;

	world_open(&w, kind, 0);
	world_plug_nic(&w, "n", NULL);
	world_start(&w);
	fixture_assert_fails(kata_vm_remove_storage(w.vm, "nobody", NULL, &w.err), KATA_E_NOT_FOUND, w.err);
	cr_assert(strstr(kata_error_get_message(w.err), "nobody"), "%s", error_text(w.err));
	error_clear(&w.err);
	fixture_assert_fails(kata_vm_remove_nic(w.vm, "nobody", NULL, &w.err), KATA_E_NOT_FOUND, w.err);
	error_clear(&w.err);
	fixture_assert_fails(kata_vm_remove_storage(w.vm, "n", NULL, &w.err), KATA_E_NOT_FOUND, w.err);
	world_close(&w);
}

void vm_contract_a_slot_is_free_again_after_the_unplug(const struct vm_kind *kind)
{
	char first[16], again[16];
	struct vm_world w;

	world_open(&w, kind, 1);
	world_start(&w);
	for (int i = 0; i < 3; i++) {
		world_plug_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
		address_of_storage(&w, "a", i ? again : first);
		fixture_assert_ok(kata_vm_remove_storage(w.vm, "a", NULL, &w.err), w.err);
		world_plug_nic(&w, "a", NULL);
		fixture_assert_ok(kata_vm_remove_nic(w.vm, "a", NULL, &w.err), w.err);
	}
	cr_assert_str_eq(first, again);
	world_close(&w);
}

void vm_contract_a_removed_device_can_be_plugged_again(const struct vm_kind *kind)
{
	struct vm_world w;
	kata_storage *s;
	kata_nic *n = world_nic("n", NULL);
	char address[16];

	world_open(&w, kind, 0);
	s = world_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	world_start(&w);
	for (int i = 0; i < 3; i++) {
		fixture_assert_ok(kata_vm_add_storage(w.vm, s, NULL, &w.err), w.err);
		fixture_assert_ok(kata_vm_add_nic(w.vm, n, NULL, &w.err), w.err);
		fixture_assert_ok(kata_vm_remove_storage(w.vm, "a", NULL, &w.err), w.err);
		fixture_assert_ok(kata_vm_remove_nic(w.vm, "n", NULL, &w.err), w.err);
		cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
		cr_assert_eq(kata_storage_get_address(s, address, sizeof(address)), 0u);
		cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_NEW);
	}
	kata_storage_unref(s);
	kata_nic_unref(n);
	world_close(&w);
}

void vm_contract_devices_are_listed_in_order_and_found_by_id(const struct vm_kind *kind)
{
	static const char *const ids[] = {"c", "a", "b"};
	kata_storage *s = NULL;
	kata_nic *n = NULL;
	struct vm_world w;

	world_open(&w, kind, 0);
	for (size_t i = 0; i < 3; i++)
		world_plug_disk(&w, ids[i], KATA_STORAGE_VIRTIO_BLK);
	world_plug_nic(&w, "n", NULL);
	cr_assert_eq(kata_vm_get_storage_count(w.vm), 3u);
	cr_assert_eq(kata_vm_get_nic_count(w.vm), 1u);
	for (size_t i = 0; i < 3; i++) {
		fixture_assert_ok(kata_vm_get_storage(w.vm, i, &s, &w.err), w.err);
		cr_assert_str_eq(kata_storage_get_id(s), ids[i]);
		kata_storage_unref(s);
		s = NULL;
	}
	fixture_assert_fails(kata_vm_get_storage(w.vm, 3, &s, &w.err), KATA_E_NOT_FOUND, w.err);
	error_clear(&w.err);
	fixture_assert_fails(kata_vm_find_storage(w.vm, "n", &s, &w.err), KATA_E_NOT_FOUND, w.err);
	cr_assert_null(s);
	error_clear(&w.err);
	fixture_assert_ok(kata_vm_find_nic(w.vm, "n", &n, &w.err), w.err);
	kata_nic_unref(n);
	world_close(&w);
}

/* ---- batches */

static kata_batch *new_batch(struct vm_world *w, uint64_t flags, unsigned disks, unsigned nics)
{
	kata_batch *batch = NULL;
	char id[16];

	fixture_assert_ok(kata_batch_new(w->vm, flags, &batch, &w->err), w->err);
	for (unsigned i = 0; i < disks; i++) {
		kata_storage *s;

		snprintf(id, sizeof(id), "d%u", i);
		s = world_disk(w, id, KATA_STORAGE_VIRTIO_BLK);
		fixture_assert_ok(kata_batch_add_storage(batch, s, &w->err), w->err);
		kata_storage_unref(s);
	}
	for (unsigned i = 0; i < nics; i++) {
		kata_nic *n;

		snprintf(id, sizeof(id), "n%u", i);
		n = world_nic(id, NULL);
		fixture_assert_ok(kata_batch_add_nic(batch, n, &w->err), w->err);
		kata_nic_unref(n);
	}
	return batch;
}

void vm_contract_a_batch_plugs_all_its_devices(const struct vm_kind *kind)
{
	struct vm_world w;
	kata_batch *batch;

	world_open(&w, kind, 8);
	world_start(&w);
	batch = new_batch(&w, 0, 4, 2);
	fixture_assert_ok(kata_batch_run(batch, NULL, &w.err), w.err);
	cr_assert_eq(kata_batch_get_count(batch), 6u);
	for (size_t i = 0; i < 6; i++) {
		cr_assert_str_eq(kata_batch_get_item_id(batch, i),
				 ((const char *[]){"d0", "d1", "d2", "d3", "n0", "n1"})[i]);
		cr_assert(kata_op_is_done(kata_batch_get_item_op(batch, i)));
		cr_assert_null(kata_op_get_error(kata_batch_get_item_op(batch, i)));
	}
	kata_batch_free(batch);
	fixture_assert_ok(kata_batch_new(w.vm, 0, &batch, &w.err), w.err);
	fixture_assert_ok(kata_batch_remove_storage(batch, "d0", &w.err), w.err);
	fixture_assert_ok(kata_batch_remove_storage(batch, "d1", &w.err), w.err);
	fixture_assert_ok(kata_batch_remove_nic(batch, "n0", &w.err), w.err);
	fixture_assert_ok(kata_batch_run(batch, NULL, &w.err), w.err);
	kata_batch_free(batch);
	cr_assert_eq(kata_vm_get_storage_count(w.vm), 2u);
	cr_assert_eq(kata_vm_get_nic_count(w.vm), 1u);
	world_close(&w);
}

void vm_contract_a_batch_that_does_not_fit_touches_nothing(const struct vm_kind *kind)
{
	struct census *before;
	kata_batch *batch;
	struct vm_world w;

	world_open(&w, kind, 4);
	world_start(&w);
	world_plug_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	batch = new_batch(&w, 0, 2, 2);
	before = fixture_census(&w.f);
	fixture_assert_fails(kata_batch_run(batch, NULL, &w.err), KATA_E_EXHAUSTED, w.err);
	cr_assert(strstr(error_text(w.err), "4") && strstr(error_text(w.err), "3"),
		  "says how many there are, are free, are needed: %s", error_text(w.err));
	cr_assert_eq(kata_vm_get_storage_count(w.vm), 1u);
	cr_assert_eq(kata_vm_get_nic_count(w.vm), 0u);
	fixture_assert_census(&w.f, before, "after the refused batch");
	kata_batch_free(batch);
	world_close(&w);
}

void vm_contract_a_batch_with_two_items_of_one_id_touches_nothing(const struct vm_kind *kind)
{
	struct vm_world w;
	kata_batch *batch;
	kata_storage *s;

	world_open(&w, kind, 0);
	world_start(&w);
	batch = new_batch(&w, 0, 2, 0);
	s = world_disk(&w, "d1", KATA_STORAGE_VIRTIO_SCSI);
	fixture_assert_ok(kata_batch_add_storage(batch, s, &w.err), w.err);
	fixture_assert_fails(kata_batch_run(batch, NULL, &w.err), KATA_E_EXISTS, w.err);
	cr_assert_eq(kata_vm_get_storage_count(w.vm), 0u);
	kata_storage_unref(s);
	kata_batch_free(batch);
	world_close(&w);
}

/* The third of four plugs fails at its commit. */
static void run_failing_batch(struct vm_world *w, uint64_t flags)
{
	kata_batch *batch = new_batch(w, flags, 4, 0);
	size_t failed = 0;

	fixture_assert_ok(kata_context_set_fail_point(w->f.context, "plug-storage/commit:before", KATA_FAIL_ERROR, 0, 2,
						      1, &w->err),
			  w->err);
	fixture_assert_fails(kata_batch_run(batch, NULL, &w->err), KATA_E_INJECTED, w->err);
	error_clear(&w->err);
	kata_context_clear_fail_point(w->f.context, NULL);
	for (size_t i = 0; i < 4; i++)
		failed += kata_op_get_error(kata_batch_get_item_op(batch, i)) != NULL;
	cr_assert_geq(failed, 1u);
	kata_batch_free(batch);
}

void vm_contract_an_all_or_nothing_batch_undoes_what_succeeded(const struct vm_kind *kind)
{
	struct census *before;
	kata_batch *batch;
	struct vm_world w;

	world_open(&w, kind, 4);
	world_start(&w);
	before = fixture_census(&w.f);
	run_failing_batch(&w, KATA_BATCH_ALL_OR_NOTHING);
	cr_assert_eq(kata_vm_get_storage_count(w.vm), 0u);
	fixture_assert_census(&w.f, before, "after the batch was undone");
	batch = new_batch(&w, KATA_BATCH_ALL_OR_NOTHING, 4, 0);
	fixture_assert_ok(kata_batch_run(batch, NULL, &w.err), w.err);
	cr_assert_eq(kata_vm_get_storage_count(w.vm), 4u);
	kata_batch_free(batch);
	world_close(&w);
}

void vm_contract_a_batch_keeps_what_succeeded_unless_told_otherwise(const struct vm_kind *kind)
{
	struct vm_world w;

	world_open(&w, kind, 4);
	world_start(&w);
	run_failing_batch(&w, 0);
	cr_assert_eq(kata_vm_get_storage_count(w.vm), 3u);
	world_close(&w);
}
