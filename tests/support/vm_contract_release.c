/* SPDX-License-Identifier: Apache-2.0 */
/* vm_contract_release.c - the cases on letting go of a machine and taking it over again. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "support/vm_contract.h"

/* The record; w->vm is gone afterwards. */
static char *release(struct vm_world *w)
{
	char *json = NULL;

	fixture_assert_ok(kata_vm_release(w->vm, NULL, &json, &w->err), w->err);
	cr_assert_not_null(json);
	cr_assert_eq(kata_vm_get_state(w->vm), KATA_VM_RELEASED);
	kata_vm_unref(w->vm);
	w->vm = NULL;
	return json;
}

static void address_of(struct vm_world *w, const char *id, char out[16])
{
	kata_storage *s = NULL;

	fixture_assert_ok(kata_vm_find_storage(w->vm, id, &s, &w->err), w->err);
	kata_storage_get_address(s, out, 16);
	kata_storage_unref(s);
}

void vm_contract_a_released_machine_is_rebuilt_with_its_devices(const struct vm_kind *kind)
{
	char uuid[37], blk[2][16], scsi[2][16];
	struct vm_world w;
	char *json;

	world_open(&w, kind, 4);
	world_plug_disk(&w, "blk", KATA_STORAGE_VIRTIO_BLK);
	world_start(&w);
	world_plug_disk(&w, "scsi", KATA_STORAGE_VIRTIO_SCSI);
	world_plug_nic(&w, "n", "02:00:00:00:00:07");
	memcpy(uuid, kata_vm_get_uuid(w.vm), sizeof(uuid));
	address_of(&w, "blk", blk[0]);
	address_of(&w, "scsi", scsi[0]);
	for (int i = 0; i < 3; i++) {
		kata_vm_stats stats = {.size = sizeof(stats)};

		json = release(&w);
		world_rebuild(&w, json);
		free(json);
		cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_RUNNING);
		cr_assert_str_eq(kata_vm_get_uuid(w.vm), uuid);
		cr_assert_str_eq(kata_vm_get_id(w.vm), "vm-1");
		address_of(&w, "blk", blk[1]);
		address_of(&w, "scsi", scsi[1]);
		cr_assert_str_eq(blk[0], blk[1]);
		cr_assert_str_eq(scsi[0], scsi[1]);
		fixture_assert_ok(kata_vm_get_stats(w.vm, &stats, &w.err), w.err);
		cr_assert_eq(stats.slots_free, 2u);
	}
	world_plug_disk(&w, "late", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_vm_remove_storage(w.vm, "blk", NULL, &w.err), w.err);
	fixture_assert_ok(kata_vm_remove_storage(w.vm, "scsi", NULL, &w.err), w.err);
	fixture_assert_ok(kata_vm_remove_nic(w.vm, "n", NULL, &w.err), w.err);
	world_close(&w);
}

void vm_contract_a_paused_machine_is_rebuilt_paused(const struct vm_kind *kind)
{
	struct vm_world w;
	char *json;

	world_open(&w, kind, 0);
	world_start(&w);
	fixture_assert_ok(kata_vm_pause(w.vm, NULL, &w.err), w.err);
	json = release(&w);
	world_rebuild(&w, json);
	free(json);
	cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_PAUSED);
	fixture_assert_ok(kata_vm_resume(w.vm, NULL, &w.err), w.err);
	world_close(&w);
}

static void assert_refused(struct vm_world *w, const char *json, size_t length, const char *how)
{
	int rc = kata_vm_builder_build_from_released(w->builder, json, length, NULL, &w->vm, &w->err);

	cr_assert(rc == KATA_E_CORRUPT || rc == KATA_E_VERSION || rc == KATA_E_GONE || rc == KATA_E_IDENTITY,
		  "%s record: %s %s", how, kata_status_get_name(rc), error_text(w->err));
	cr_assert_null(w->vm);
	error_clear(&w->err);
}

void vm_contract_a_cut_or_changed_record_is_refused(const struct vm_kind *kind)
{
	struct vm_world w;
	char *json;
	size_t length;

	world_open(&w, kind, 0);
	world_start(&w);
	world_plug_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	json = release(&w);
	length = strlen(json);
	for (size_t cut = 0; cut < length; cut += 1 + length / 61)
		assert_refused(&w, json, cut, "a cut");
	assert_refused(&w, "{}", 2, "an empty");
	assert_refused(&w, "[1, 2]", 6, "a wrong");
	for (size_t i = 0; i < strlen(json); i += 1 + length / 127) {
		json[i] ^= 0x60;
		/* Some changes are none that matters: then the machine is taken over, and its newest record counts. */
		if (kata_vm_builder_build_from_released(w.builder, json, strlen(json), NULL, &w.vm, &w.err) == 0) {
			free(json);
			json = release(&w);
		} else {
			json[i] ^= 0x60;
		}
		error_clear(&w.err);
		cr_assert_null(w.vm);
	}
	world_rebuild(&w, json);
	free(json);
	world_close(&w);
}

void vm_contract_the_record_of_a_destroyed_machine_is_refused(const struct vm_kind *kind)
{
	struct vm_world w;
	char *json = NULL;

	world_open(&w, kind, 0);
	world_start(&w);
	fixture_assert_ok(kata_vm_dump(w.vm, &json, &w.err), w.err);
	fixture_assert_ok(kata_vm_destroy(w.vm, NULL, &w.err), w.err);
	kata_vm_unref(w.vm);
	w.vm = NULL;
	fixture_assert_fails(kata_vm_builder_build_from_released(w.builder, json, strlen(json), NULL, &w.vm, &w.err),
			     KATA_E_GONE, w.err);
	cr_assert_null(w.vm);
	free(json);
	world_close(&w);
}
