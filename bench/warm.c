/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many times sooner than after a cold boot the agent answers: in a machine restored from a snapshot with 2 disks
 * and a NIC, and in one out of a warm cache. "library" of the pairs is the boot, "hand" what is quicker.
 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>

#include "vms.h"

#define SLOTS 4

struct warm {
	struct bench *b;
	kata_context *ctx;
	kata_vm_builder *qemu, *cache;
	kata_agent_builder *agents;
	kata_snapshot *snapshot;
};

/* ---- to the agent's answer ---- */

/* Starts it, waits for its agent's answer, and notes the time since `begin`; then the machine is ended. */
static int answer(struct warm *w, kata_vm *take_vm, uint64_t begin, uint64_t *ret_ns)
{
	kata_agent *agent = NULL;
	kata_error *err = NULL;
	int rc = kata_vm_start(take_vm, NULL, &err) ||
		 kata_agent_builder_build(w->agents, take_vm, NULL, NULL, &agent, &err);

	*ret_ns = bench_now() - begin;
	kata_agent_unref(agent);
	if (rc)
		bench_fail("to the agent's answer", err);
	err = NULL;
	if (kata_vm_destroy(take_vm, NULL, &err))
		rc = bench_fail("destroy", err);
	kata_vm_unref(take_vm);
	return rc ? -1 : 0;
}

static int boot(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct warm *w = user;
	uint64_t begin = bench_now();
	kata_vm *vm = vms_build(w->b, w->qemu, SLOTS);

	return vm ? answer(w, vm, begin, ret_ns) : -1;
}

static int restore(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct warm *w = user;
	uint64_t begin = bench_now();
	kata_error *err = NULL;
	kata_vm *vm = NULL;

	if (kata_vm_builder_build_from_snapshot(w->qemu, w->snapshot, NULL, NULL, NULL, NULL, &vm, &err))
		return bench_fail("build from snapshot", err);
	return answer(w, vm, begin, ret_ns);
}

static int take(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct warm *w = user;
	kata_error *err = NULL;
	uint64_t begin;
	kata_vm *vm;

	if (kata_cache_wait_ready(w->cache, 1, NULL, &err))
		return bench_fail("waiting for the cache", err);
	begin = bench_now();
	vm = vms_build(w->b, w->cache, SLOTS);
	if (vm && kata_vm_get_origin(vm) != KATA_VM_WARM) {
		kata_vm_unref(vm);
		return bench_fail("the cache handed out a machine that is not warm", NULL);
	}
	return vm ? answer(w, vm, begin, ret_ns) : -1;
}

/* ---- what they start from ---- */

static int open_warm(struct warm *w, struct bench *b)
{
	kata_error *err = NULL;

	*w = (struct warm){.b = b, .ctx = bench_context(b, 0)};
	if (!w->ctx || !(w->qemu = vms_qemu(w->ctx)))
		return -1;
	return kata_agent_builder_new_direct(w->ctx, &w->agents, &err) ? bench_fail("agents", err) : 0;
}

static void close_warm(struct warm *w)
{
	kata_vm_builder_free(w->cache);
	kata_snapshot_free(w->snapshot);
	kata_agent_builder_free(w->agents);
	kata_vm_builder_free(w->qemu);
	kata_context_free(w->ctx, NULL);
}

static int add_devices(struct warm *w, kata_vm *vm, kata_error **err)
{
	kata_storage *one = vms_disk(w->b, "one"), *two = vms_disk(w->b, "two");
	kata_nic *nic = vms_nic("net");
	int rc = !one || !two || !nic || kata_vm_add_storage(vm, one, NULL, err) ||
		 kata_vm_add_storage(vm, two, NULL, err) || kata_vm_add_nic(vm, nic, NULL, err);

	kata_storage_unref(one);
	kata_storage_unref(two);
	kata_nic_unref(nic);
	return rc;
}

/* A machine with 2 disks and a NIC whose agent has answered, saved. */
static int save(struct warm *w)
{
	kata_vm *vm = vms_build(w->b, w->qemu, SLOTS);
	kata_agent *agent = NULL;
	kata_error *err = NULL;
	char path[256], *json = NULL;
	int rc;

	if (!vm)
		return -1;
	snprintf(path, sizeof(path), "%s/snapshot", w->b->work_dir);
	rc = add_devices(w, vm, &err) || kata_vm_start(vm, NULL, &err) ||
	     kata_agent_builder_build(w->agents, vm, NULL, NULL, &agent, &err) ||
	     kata_agent_release(agent, &json, &err) || kata_vm_snapshot(vm, path, NULL, NULL, &w->snapshot, &err) ||
	     kata_vm_destroy(vm, NULL, &err);
	free(json);
	kata_agent_unref(agent);
	kata_vm_unref(vm);
	return rc ? bench_fail("saving", err) : 0;
}

static int restored(struct bench *b, struct bench_value *ret)
{
	struct warm w;
	struct bench_pairs p = {boot, restore, &w, 15, 1, 1, 1};
	int rc = open_warm(&w, b) || save(&w) ? -1 : bench_ratio(b, &p, ret);

	close_warm(&w);
	return rc;
}

static int cached(struct bench *b, struct bench_value *ret)
{
	struct warm w;
	struct bench_pairs p = {boot, take, &w, 15, 1, 1, 1};
	kata_cache_options o = KATA_CACHE_OPTIONS_INIT;
	kata_cache_size size = KATA_CACHE_SIZE_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	char kernel[512], initrd[512];
	kata_error *err = NULL;
	int rc = open_warm(&w, b);

	vms_config(b, SLOTS, &config, kernel, initrd, sizeof(kernel));
	size.config = &config;
	size.min = 1;
	o.sizes = &size;
	o.size_count = 1;
	if (!rc && kata_vm_builder_new_cache(w.ctx, w.qemu, w.agents, &o, &w.cache, &err))
		rc = bench_fail("cache", err);
	if (!rc)
		rc = bench_ratio(b, &p, ret);
	close_warm(&w);
	return rc;
}

const struct bench_group bench_warm[] = {
	{600,
	 restored,
	 {{.name = "cold_over_restore", .unit = "times", .higher_is_better = true, .figures = {{NULL, 10, 40}}}}},
	{600,
	 cached,
	 {{.name = "cold_over_cached", .unit = "times", .higher_is_better = true, .figures = {{NULL, 200, 1000}}}}},
	{0, NULL, {{NULL}}},
};
