/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many times sooner than after a cold boot the agent answers: in a machine restored from a snapshot with 2 disks
 * and a NIC, in a clone of a template (with a VMM of its own, and with one that waited), and in one out of a warm
 * cache. "library" of the pairs is the boot, which counts for all of them; "hand" is each of the quicker ways, one
 * after the other.
 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>

#include "vms.h"

#define SLOTS 4
#define KEPT 2 /* VMMs that wait */

enum { RESTORED, CLONED, PRESTARTED, CACHED, WAYS };

struct warm {
	struct bench *b;
	kata_context *ctx;
	kata_vm_builder *qemu, *clones, *prestarted, *cache; /* the cache keeps clones */
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

/* Nothing is being made ahead meanwhile. */
static int settle(struct warm *w)
{
	kata_error *err = NULL;

	if (kata_cache_wait_ready(w->cache, 1, NULL, &err) ||
	    kata_template_wait_prestarted(w->prestarted, KEPT, NULL, &err))
		return bench_fail("waiting for what is made ahead", err);
	return 0;
}

static int by_build(struct warm *w, kata_vm_builder *builder, kata_vm_origin expected, uint64_t *ret_ns)
{
	uint64_t begin = bench_now();
	kata_vm *vm = vms_build(w->b, builder, SLOTS);

	if (vm && kata_vm_get_origin(vm) != expected) {
		fprintf(stderr, "bench: a machine is %s, not %s\n", kata_vm_origin_get_name(kata_vm_get_origin(vm)),
			kata_vm_origin_get_name(expected));
		kata_vm_unref(vm);
		return -1;
	}
	return vm ? answer(w, vm, begin, ret_ns) : -1;
}

static int restore(struct warm *w, uint64_t *ret_ns)
{
	uint64_t begin = bench_now();
	kata_error *err = NULL;
	kata_vm *vm = NULL;

	if (kata_vm_builder_build_from_snapshot(w->qemu, w->snapshot, NULL, NULL, NULL, NULL, &vm, &err))
		return bench_fail("build from snapshot", err);
	return answer(w, vm, begin, ret_ns);
}

static int boot(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct warm *w = user;
	int rc = settle(w) || by_build(w, w->qemu, KATA_VM_BOOTED, &ret_ns[0]);

	for (int i = 1; i < WAYS; i++)
		ret_ns[i] = ret_ns[0];
	return rc;
}

static int sooner(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct warm *w = user;

	return settle(w) || restore(w, &ret_ns[RESTORED]) || by_build(w, w->clones, KATA_VM_CLONED, &ret_ns[CLONED]) ||
	       by_build(w, w->prestarted, KATA_VM_PRESTARTED, &ret_ns[PRESTARTED]) || settle(w) ||
	       by_build(w, w->cache, KATA_VM_WARM, &ret_ns[CACHED]);
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
	kata_vm_builder_free(w->prestarted);
	kata_vm_builder_free(w->clones);
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

static int open_cache(struct warm *w)
{
	kata_cache_options o = KATA_CACHE_OPTIONS_INIT;
	kata_cache_size size = KATA_CACHE_SIZE_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	char kernel[512], initrd[512];
	kata_error *err = NULL;

	vms_config(w->b, SLOTS, &config, kernel, initrd, sizeof(kernel));
	size.config = &config;
	size.min = 1;
	o.sizes = &size;
	o.size_count = 1;
	if (kata_vm_builder_new_cache(w->ctx, w->clones, w->agents, &o, &w->cache, &err))
		return bench_fail("cache", err);
	return 0;
}

static int warm(struct bench *b, struct bench_value *values)
{
	struct warm w;
	struct bench_pairs p = {boot, sooner, &w, 15, 1, WAYS, 1};
	int rc = open_warm(&w, b) || save(&w) || !(w.clones = vms_template(b, w.ctx, w.qemu, w.agents, SLOTS, 0)) ||
		 !(w.prestarted = vms_template(b, w.ctx, w.qemu, w.agents, SLOTS, KEPT)) || open_cache(&w) ||
		 bench_ratio(b, &p, values);

	close_warm(&w);
	return rc ? -1 : 0;
}

const struct bench_group bench_warm[] = {
	{900,
	 warm,
	 {{.name = "cold_over_restore", .unit = "times", .higher_is_better = true, .figures = {{NULL, 10, 40}}},
	  {.name = "cold_over_clone",
	   .unit = "times",
	   .higher_is_better = true,
	   .figures = {{"a clone", 15, 80}, {"in a pre-started VMM", 15, 80}}},
	  {.name = "cold_over_cached", .unit = "times", .higher_is_better = true, .figures = {{NULL, 200, 1000}}}}},
	{0, NULL, {{NULL}}},
};
