/* SPDX-License-Identifier: Apache-2.0 */
/* vm_stress.c - an assertion holds in the thread of the test only, so threads count failures and the test asserts at
 * the end. */
#include "support/vm_stress.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_uint failures;
static char first_failure[512];
static pthread_mutex_t failure_lock = PTHREAD_MUTEX_INITIALIZER;

void vm_stress_note_failure(const char *what, kata_error *take_err)
{
	pthread_mutex_lock(&failure_lock);
	if (atomic_fetch_add(&failures, 1) == 0)
		snprintf(first_failure, sizeof(first_failure), "%s: %s", what, error_text(take_err));
	pthread_mutex_unlock(&failure_lock);
	kata_error_free(take_err);
}

void vm_stress_assert_no_failure(void)
{
	cr_assert_eq(atomic_load(&failures), 0u, "%u failures, the first: %s", atomic_load(&failures), first_failure);
}

/* ---- threads */

struct thread {
	pthread_t id;
	unsigned index;
	void (*fn)(void *user, unsigned index);
	void *user;
};

static void *run(void *user)
{
	struct thread *t = user;

	t->fn(t->user, t->index);
	return NULL;
}

void vm_stress_run_threads(unsigned threads, void (*fn)(void *user, unsigned index), void *user)
{
	struct thread all[VM_STRESS_THREADS_MAX];

	cr_assert_leq(threads, VM_STRESS_THREADS_MAX);
	for (unsigned i = 0; i < threads; i++) {
		all[i] = (struct thread){.index = i, .fn = fn, .user = user};
		cr_assert_eq(pthread_create(&all[i].id, NULL, run, &all[i]), 0);
	}
	for (unsigned i = 0; i < threads; i++)
		pthread_join(all[i].id, NULL);
}

/* ---- who holds which address */

static pthread_mutex_t addresses_lock = PTHREAD_MUTEX_INITIALIZER;
static char held[2 * VM_STRESS_THREADS_MAX][16];

static void hold(const char *address)
{
	size_t count = sizeof(held) / sizeof(held[0]), free_at = count;
	bool twice = false;

	pthread_mutex_lock(&addresses_lock);
	for (size_t i = 0; i < count; i++) {
		if (!held[i][0])
			free_at = i;
		twice |= strcmp(held[i], address) == 0;
	}
	if (free_at < count)
		snprintf(held[free_at], sizeof(held[0]), "%s", address);
	pthread_mutex_unlock(&addresses_lock);
	if (twice || free_at == count)
		vm_stress_note_failure(twice ? "an address is given out twice" : "more addresses than devices", NULL);
}

static void let_go(const char *address)
{
	pthread_mutex_lock(&addresses_lock);
	for (size_t i = 0; i < sizeof(held) / sizeof(held[0]); i++)
		if (strcmp(held[i], address) == 0)
			held[i][0] = 0;
	pthread_mutex_unlock(&addresses_lock);
}

/* ---- one thread's devices */

/* The address is held from the plug until before the unplug: afterwards another thread may have it already. */
static bool plug_disk(kata_vm *vm, kata_storage *s, char address[16])
{
	kata_error *e = NULL;

	if (kata_vm_add_storage(vm, s, NULL, &e) < 0) {
		vm_stress_note_failure("add_storage", e);
		return false;
	}
	kata_storage_get_address(s, address, 16);
	hold(address);
	return true;
}

static bool plug_nic(kata_vm *vm, kata_nic *n, char address[16])
{
	kata_error *e = NULL;

	if (kata_vm_add_nic(vm, n, NULL, &e) < 0) {
		vm_stress_note_failure("add_nic", e);
		return false;
	}
	kata_nic_get_address(n, address, 16);
	hold(address);
	return true;
}

static void cycle(kata_vm *vm, kata_storage *s, kata_nic *n)
{
	kata_error *disk_error = NULL, *nic_error = NULL;
	char disk_address[16], nic_address[16];
	bool disk = plug_disk(vm, s, disk_address), nic = plug_nic(vm, n, nic_address);

	if ((disk && kata_storage_get_state(s) != KATA_DEVICE_PLUGGED) ||
	    (nic && kata_nic_get_state(n) != KATA_DEVICE_PLUGGED))
		vm_stress_note_failure("a device did not stay plugged", NULL);
	if (disk) {
		let_go(disk_address);
		if (kata_vm_remove_storage(vm, kata_storage_get_id(s), NULL, &disk_error) < 0)
			vm_stress_note_failure("remove_storage", disk_error);
	}
	if (nic) {
		let_go(nic_address);
		if (kata_vm_remove_nic(vm, kata_nic_get_id(n), NULL, &nic_error) < 0)
			vm_stress_note_failure("remove_nic", nic_error);
	}
}

struct stress {
	kata_vm *vm;
	unsigned rounds;
	kata_storage *disks[VM_STRESS_THREADS_MAX];
	kata_nic *nics[VM_STRESS_THREADS_MAX];
};

static void plug_and_unplug(void *user, unsigned index)
{
	struct stress *s = user;
	kata_vm_stats stats = {.size = sizeof(stats)};

	for (unsigned i = 0; i < s->rounds; i++) {
		cycle(s->vm, s->disks[index], s->nics[index]);
		if (kata_vm_get_stats(s->vm, &stats, NULL) < 0 || stats.slots_free > stats.slots_total)
			vm_stress_note_failure("get_stats", NULL);
	}
}

static void make_devices(struct fixture *f, struct stress *s, unsigned threads)
{
	char id[16], name[32];

	for (unsigned i = 0; i < threads; i++) {
		char *path;

		snprintf(id, sizeof(id), "disk%u", i);
		snprintf(name, sizeof(name), "stress%u.raw", i);
		path = fixture_make_raw(f, name, UINT64_C(1) << 20);
		s->disks[i] = fixture_storage(id, path, i % 2 ? KATA_STORAGE_VIRTIO_SCSI : KATA_STORAGE_VIRTIO_BLK);
		free(path);
		snprintf(id, sizeof(id), "nic%u", i);
		s->nics[i] = fixture_nic(id, NULL);
	}
}

void vm_stress_plug_and_unplug(struct fixture *f, kata_vm *vm, unsigned threads, unsigned rounds)
{
	struct stress s = {.vm = vm, .rounds = rounds};
	kata_vm_stats before = {.size = sizeof(before)}, after = {.size = sizeof(after)};
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_get_stats(vm, &before, &err), err);
	make_devices(f, &s, threads);
	vm_stress_run_threads(threads, plug_and_unplug, &s);
	vm_stress_assert_no_failure();
	for (unsigned i = 0; i < threads; i++) {
		cr_assert_eq(kata_storage_get_state(s.disks[i]), KATA_DEVICE_NEW);
		cr_assert_eq(kata_nic_get_state(s.nics[i]), KATA_DEVICE_NEW);
		kata_storage_unref(s.disks[i]);
		kata_nic_unref(s.nics[i]);
	}
	fixture_assert_ok(kata_vm_get_stats(vm, &after, &err), err);
	cr_assert_eq(after.slots_free, before.slots_free);
	cr_assert_eq(after.storage_count, before.storage_count);
	cr_assert_eq(after.nic_count, before.nic_count);
}
