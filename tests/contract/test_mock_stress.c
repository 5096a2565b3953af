/* SPDX-License-Identifier: Apache-2.0 */
/* Threads at work on one machine of the mock. Also the test that runs under TSan. */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "support/vm_stress.h"

#define THREADS 8
#define DEVICES 16 /* of all threads together */
#define ROUNDS 200

static struct fixture f;
static kata_vm_builder *builder;
static kata_vm *vm;
static kata_error *err;

static void open_machine(uint64_t context_flags, uint32_t slots)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	fixture_init(&f, true, context_flags);
	fixture_assert_ok(kata_vm_builder_new_mock(f.context, &builder, &err), err);
	config.device_slots = slots;
	fixture_assert_ok(kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err), err);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
}

static void close_machine(void)
{
	vm_stress_assert_no_failure();
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
	kata_vm_builder_free(builder);
	fixture_deinit(&f);
}

static void assert_all_slots_free(uint32_t slots)
{
	kata_vm_stats stats = {.size = sizeof(stats)};

	fixture_assert_ok(kata_vm_get_stats(vm, &stats, &err), err);
	cr_assert_eq(stats.slots_free, slots);
	cr_assert_eq(stats.storage_count, 0u);
}

Test(mock_stress, eight_threads_plug_and_unplug_sixteen_devices, .timeout = 300)
{
	open_machine(0, DEVICES);
	vm_stress_plug_and_unplug(&f, vm, THREADS, ROUNDS);
	close_machine();
}

Test(mock_stress, the_same_with_the_callers_own_loop, .timeout = 300)
{
	open_machine(KATA_CONTEXT_EXTERNAL_LOOP, DEVICES);
	vm_stress_plug_and_unplug(&f, vm, THREADS, ROUNDS);
	close_machine();
}

/* ---- more devices than slots: who gets none must be told so, and nothing else may happen */

#define FEW_SLOTS 5
static atomic_uint plugged;

static kata_storage *new_disk(unsigned index, char id[16])
{
	char path[32];

	snprintf(id, 16, "disk%u", index);
	snprintf(path, sizeof(path), "/nowhere/%u", index);
	return fixture_storage(id, path, KATA_STORAGE_VIRTIO_BLK);
}

static void fight_for_slots(void *user, unsigned index)
{
	char id[16];
	kata_storage *s = new_disk(index, id);

	for (int i = 0; i < ROUNDS; i++) {
		kata_error *e = NULL;
		int rc = kata_vm_add_storage(vm, s, NULL, &e);

		if (rc == KATA_E_EXHAUSTED) {
			kata_error_free(e);
			continue;
		}
		if (rc < 0) {
			vm_stress_note_failure("add_storage", e);
			continue;
		}
		if (atomic_fetch_add(&plugged, 1) >= FEW_SLOTS)
			vm_stress_note_failure("more devices than slots", NULL);
		atomic_fetch_sub(&plugged, 1);
		if (kata_vm_remove_storage(vm, id, NULL, &e) < 0)
			vm_stress_note_failure("remove_storage", e);
	}
	kata_storage_unref(s);
}

Test(mock_stress, eight_threads_fight_for_five_slots, .timeout = 300)
{
	open_machine(0, FEW_SLOTS);
	vm_stress_run_threads(THREADS, fight_for_slots, NULL);
	assert_all_slots_free(FEW_SLOTS);
	close_machine();
}

/* ---- cancels and failures at random moments */

static void plug_and_cancel(void *user, unsigned index)
{
	unsigned seed = index + 1;
	char id[16];
	kata_storage *s = new_disk(index, id);

	for (int i = 0; i < ROUNDS; i++) {
		kata_error *e = NULL;
		kata_op *op = NULL;
		int rc = kata_vm_add_storage_begin(vm, s, NULL, &op, &e);

		if (rc < 0) {
			vm_stress_note_failure("add_storage_begin", e);
			continue;
		}
		if (rand_r(&seed) % 2)
			kata_op_cancel(op);
		rc = kata_op_wait(op, &e);
		kata_op_unref(op);
		if (rc == 0 && kata_vm_remove_storage(vm, id, NULL, &e) < 0)
			vm_stress_note_failure("remove_storage", e);
		else if (rc < 0 && rc != KATA_E_CANCELLED && rc != KATA_E_VMM)
			vm_stress_note_failure("add_storage", e);
		else
			kata_error_free(e);
	}
	kata_storage_unref(s);
}

Test(mock_stress, cancelled_and_failing_plugs_lose_no_slot, .timeout = 300)
{
	open_machine(0, THREADS);
	fixture_assert_ok(kata_mock_set_delay(builder, KATA_MOCK_ADD_STORAGE, 1, &err), err);
	fixture_assert_ok(kata_mock_set_failure(builder, KATA_MOCK_ADD_STORAGE, KATA_E_VMM, THREADS * ROUNDS / 4, &err),
			  err);
	vm_stress_run_threads(THREADS, plug_and_cancel, NULL);
	assert_all_slots_free(THREADS);
	close_machine();
}

/* ---- destroyed while everybody is at work */

static atomic_bool gone;

static void plug_until_gone(void)
{
	kata_nic *n = fixture_nic(NULL, NULL);

	while (!atomic_load(&gone)) {
		kata_vm_add_nic(vm, n, NULL, NULL);
		kata_vm_remove_nic(vm, kata_nic_get_id(n), NULL, NULL);
	}
	kata_nic_unref(n);
}

static void destroy_soon(void)
{
	kata_error *e = NULL;

	kata_vm_wait(vm, 20, NULL);
	if (kata_vm_destroy(vm, NULL, &e) < 0)
		vm_stress_note_failure("destroy", e);
	atomic_store(&gone, true);
}

static void plug_or_destroy(void *user, unsigned index)
{
	if (index)
		plug_until_gone();
	else
		destroy_soon();
}

Test(mock_stress, a_destroy_among_plugs_ends_them_all, .timeout = 300)
{
	open_machine(0, THREADS);
	vm_stress_run_threads(THREADS, plug_or_destroy, NULL);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_DESTROYED);
	close_machine();
}
