/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that plug and unplug on one machine of the mock. What must hold: no slot is given out twice, none is lost,
 * nobody waits for ever. Also the test that runs under TSan.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/fixture.h"

#define THREADS 8
#define DEVICES 16 /* of all threads together: disks on virtio-blk, on SCSI, NICs */
#define ROUNDS 200

static struct fixture f;
static kata_vm_builder *builder;
static kata_vm *vm;
static kata_error *err;

/* Threads count failures: an assertion holds in the thread of the test only. */
static atomic_uint failures;
static char first_failure[512];
static pthread_mutex_t failure_lock = PTHREAD_MUTEX_INITIALIZER;

static void note_failure(const char *what, kata_error *take_err)
{
	pthread_mutex_lock(&failure_lock);
	if (atomic_fetch_add(&failures, 1) == 0)
		snprintf(first_failure, sizeof(first_failure), "%s: %s", what, error_text(take_err));
	pthread_mutex_unlock(&failure_lock);
	kata_error_free(take_err);
}

/* ---- who holds which address */

static pthread_mutex_t addresses_lock = PTHREAD_MUTEX_INITIALIZER;
static char held[DEVICES][16];

static void hold(const char *address)
{
	int free_at = -1;

	pthread_mutex_lock(&addresses_lock);
	for (int i = 0; i < DEVICES; i++) {
		if (!held[i][0])
			free_at = i;
		if (strcmp(held[i], address) == 0)
			note_failure("an address is given out twice", NULL);
	}
	if (free_at >= 0)
		snprintf(held[free_at], sizeof(held[0]), "%s", address);
	pthread_mutex_unlock(&addresses_lock);
}

static void let_go(const char *address)
{
	pthread_mutex_lock(&addresses_lock);
	for (int i = 0; i < DEVICES; i++)
		if (strcmp(held[i], address) == 0)
			held[i][0] = 0;
	pthread_mutex_unlock(&addresses_lock);
}

/* ---- one thread's devices */

/* The address is held from the plug until before the unplug: afterwards another thread may have it already. */
static bool plug_disk(kata_storage *s, char address[16])
{
	kata_error *e = NULL;

	if (kata_vm_add_storage(vm, s, NULL, &e) < 0) {
		note_failure("add_storage", e);
		return false;
	}
	kata_storage_get_address(s, address, 16);
	hold(address);
	return true;
}

static bool plug_nic(kata_nic *n, char address[16])
{
	kata_error *e = NULL;

	if (kata_vm_add_nic(vm, n, NULL, &e) < 0) {
		note_failure("add_nic", e);
		return false;
	}
	kata_nic_get_address(n, address, 16);
	hold(address);
	return true;
}

static void cycle(kata_storage *s, kata_nic *n)
{
	kata_error *e = NULL;
	char disk_address[16], nic_address[16];
	bool disk = plug_disk(s, disk_address), nic = plug_nic(n, nic_address);

	if (disk) {
		let_go(disk_address);
		if (kata_vm_remove_storage(vm, kata_storage_get_id(s), NULL, &e) < 0)
			note_failure("remove_storage", e);
	}
	e = NULL;
	if (nic) {
		let_go(nic_address);
		if (kata_vm_remove_nic(vm, kata_nic_get_id(n), NULL, &e) < 0)
			note_failure("remove_nic", e);
	}
}

static void *plug_and_unplug(void *user)
{
	unsigned me = (unsigned)(uintptr_t)user;
	kata_vm_stats stats = {.size = sizeof(stats)};
	kata_storage *s;
	kata_nic *n;
	char id[16], path[32];

	snprintf(id, sizeof(id), "disk%u", me);
	snprintf(path, sizeof(path), "/nowhere/%u", me);
	s = fixture_storage(id, path, me % 2 ? KATA_STORAGE_VIRTIO_SCSI : KATA_STORAGE_VIRTIO_BLK);
	snprintf(id, sizeof(id), "nic%u", me);
	n = fixture_nic(id, NULL);
	for (int i = 0; i < ROUNDS; i++) {
		cycle(s, n);
		if (kata_vm_get_stats(vm, &stats, NULL) < 0 || stats.slots_free > stats.slots_total)
			note_failure("get_stats", NULL);
	}
	kata_storage_unref(s);
	kata_nic_unref(n);
	return NULL;
}

static void open_machine(uint64_t context_flags, uint32_t slots)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	fixture_init(&f, true, context_flags);
	fixture_assert_ok(kata_vm_builder_new_mock(f.context, &builder, &err), err);
	config.device_slots = slots;
	fixture_assert_ok(kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err), err);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
}

static void close_machine(uint32_t slots)
{
	kata_vm_stats stats = {.size = sizeof(stats)};

	cr_assert_eq(atomic_load(&failures), 0u, "%u failures, the first: %s", atomic_load(&failures), first_failure);
	fixture_assert_ok(kata_vm_get_stats(vm, &stats, &err), err);
	cr_assert_eq(stats.slots_free, slots);
	cr_assert_eq(stats.storage_count + stats.nic_count, 0u);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
	kata_vm_builder_free(builder);
	fixture_deinit(&f);
}

static void run_threads(void *(*fn)(void *user))
{
	pthread_t threads[THREADS];

	for (uintptr_t i = 0; i < THREADS; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, fn, (void *)i), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

Test(mock_stress, eight_threads_plug_and_unplug_sixteen_devices, .timeout = 300)
{
	open_machine(0, DEVICES);
	run_threads(plug_and_unplug);
	close_machine(DEVICES);
}

Test(mock_stress, the_same_with_the_callers_own_loop, .timeout = 300)
{
	open_machine(KATA_CONTEXT_EXTERNAL_LOOP, DEVICES);
	run_threads(plug_and_unplug);
	close_machine(DEVICES);
}

/* ---- more devices than slots: who gets none must be told so, and nothing else may happen */

#define FEW_SLOTS 5
static atomic_uint plugged;

static void *fight_for_slots(void *user)
{
	unsigned me = (unsigned)(uintptr_t)user;
	kata_storage *s;
	char id[16], path[32];

	snprintf(id, sizeof(id), "disk%u", me);
	snprintf(path, sizeof(path), "/nowhere/%u", me);
	s = fixture_storage(id, path, KATA_STORAGE_VIRTIO_BLK);
	for (int i = 0; i < ROUNDS; i++) {
		kata_error *e = NULL;
		int rc = kata_vm_add_storage(vm, s, NULL, &e);

		if (rc == KATA_E_EXHAUSTED) {
			kata_error_free(e);
			continue;
		}
		if (rc < 0) {
			note_failure("add_storage", e);
			continue;
		}
		if (atomic_fetch_add(&plugged, 1) >= FEW_SLOTS)
			note_failure("more devices than slots", NULL);
		atomic_fetch_sub(&plugged, 1);
		if (kata_vm_remove_storage(vm, id, NULL, &e) < 0)
			note_failure("remove_storage", e);
	}
	kata_storage_unref(s);
	return NULL;
}

Test(mock_stress, eight_threads_fight_for_five_slots, .timeout = 300)
{
	open_machine(0, FEW_SLOTS);
	run_threads(fight_for_slots);
	close_machine(FEW_SLOTS);
}

/* ---- cancels and failures at random moments */

static void *plug_and_cancel(void *user)
{
	unsigned me = (unsigned)(uintptr_t)user;
	unsigned seed = me + 1;
	kata_storage *s;
	char id[16], path[32];

	snprintf(id, sizeof(id), "disk%u", me);
	snprintf(path, sizeof(path), "/nowhere/%u", me);
	s = fixture_storage(id, path, KATA_STORAGE_VIRTIO_BLK);
	for (int i = 0; i < ROUNDS; i++) {
		kata_error *e = NULL;
		kata_op *op = NULL;
		int rc = kata_vm_add_storage_begin(vm, s, NULL, &op, &e);

		if (rc < 0) {
			note_failure("add_storage_begin", e);
			continue;
		}
		if (rand_r(&seed) % 2)
			kata_op_cancel(op);
		rc = kata_op_wait(op, &e);
		kata_op_unref(op);
		if (rc == 0 && kata_vm_remove_storage(vm, id, NULL, &e) < 0)
			note_failure("remove_storage", e);
		else if (rc < 0 && rc != KATA_E_CANCELLED && rc != KATA_E_VMM)
			note_failure("add_storage", e);
		else
			kata_error_free(e);
	}
	kata_storage_unref(s);
	return NULL;
}

Test(mock_stress, cancelled_and_failing_plugs_lose_no_slot, .timeout = 300)
{
	open_machine(0, THREADS);
	fixture_assert_ok(kata_mock_set_delay(builder, KATA_MOCK_ADD_STORAGE, 1, &err), err);
	fixture_assert_ok(kata_mock_set_failure(builder, KATA_MOCK_ADD_STORAGE, KATA_E_VMM, THREADS * ROUNDS / 4, &err),
			  err);
	run_threads(plug_and_cancel);
	close_machine(THREADS);
}

/* ---- destroyed while everybody is at work */

static atomic_bool gone;

static void *plug_until_gone(void *user)
{
	kata_nic *n = fixture_nic(NULL, NULL);

	while (!atomic_load(&gone)) {
		kata_vm_add_nic(vm, n, NULL, NULL);
		kata_vm_remove_nic(vm, kata_nic_get_id(n), NULL, NULL);
	}
	kata_nic_unref(n);
	return NULL;
}

static void *destroy_soon(void *user)
{
	kata_error *e = NULL;

	if ((uintptr_t)user != 0)
		return plug_until_gone(user);
	for (int i = 0; i < 20; i++)
		kata_vm_wait(vm, 1, NULL);
	if (kata_vm_destroy(vm, NULL, &e) < 0)
		note_failure("destroy", e);
	atomic_store(&gone, true);
	return NULL;
}

Test(mock_stress, a_destroy_among_plugs_ends_them_all, .timeout = 300)
{
	open_machine(0, THREADS);
	run_threads(destroy_soon);
	cr_assert_eq(atomic_load(&failures), 0u, "%s", first_failure);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_DESTROYED);
	kata_vm_unref(vm);
	kata_vm_builder_free(builder);
	fixture_deinit(&f);
}
