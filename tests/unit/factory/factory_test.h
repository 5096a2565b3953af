/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_UNIT_FACTORY_TEST_H
#define KATA_TESTS_UNIT_FACTORY_TEST_H
/* A cache over the mock, or over the QEMU driver on the stand-in, with small delays. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/compiler.h"
#include "factory/cache.h"
#include "support/fixture.h"

struct world {
	struct fixture f;
	kata_vm_builder *inner, *cache;
	kata_agent_builder *agents;
	kata_vm_config config;
	kata_cache_size size;
	kata_cache_options options;
	char *binary, *kernel;
	kata_error *err;
};

static KATA__UNUSED void world_open(struct world *w, bool standin, uint64_t context_flags)
{
	kata_qemu_options qemu = KATA_QEMU_OPTIONS_INIT;

	memset(w, 0, sizeof(*w));
	fixture_init(&w->f, true, context_flags);
	w->config = (kata_vm_config)KATA_VM_CONFIG_INIT;
	w->config.device_slots = 2;
	if (standin) {
		w->binary = fixture_make_standin(&w->f, NULL);
		w->kernel = fixture_make_kernel(&w->f);
		w->config.kernel = w->config.initrd = w->kernel;
		qemu.binary = w->binary;
		qemu.accelerator = KATA_ACCELERATOR_TCG;
		fixture_assert_ok(kata_vm_builder_new_qemu(w->f.context, &qemu, &w->inner, &w->err), w->err);
	} else {
		fixture_assert_ok(kata_vm_builder_new_mock(w->f.context, &w->inner, &w->err), w->err);
	}
	fixture_assert_ok(kata_agent_builder_new_direct(w->f.context, &w->agents, &w->err), w->err);
	w->size = (kata_cache_size)KATA_CACHE_SIZE_INIT;
	w->size.config = &w->config;
	w->options = (kata_cache_options)KATA_CACHE_OPTIONS_INIT;
	w->options.retry_min_ms = 10;
	w->options.retry_max_ms = 20;
	w->options.probe_ms = 5000;
}

/* The cache, empty; the machine type is probed and directories are made. */
static KATA__UNUSED void world_make_cache(struct world *w)
{
	fixture_assert_ok(kata_vm_builder_new_cache(w->f.context, w->inner, NULL, &w->options, &w->cache, &w->err),
			  w->err);
}

static KATA__UNUSED void world_keep(struct world *w, uint32_t min, uint32_t max)
{
	w->size.min = min;
	w->size.max = max;
	fixture_assert_ok(kata_cache_set_sizes(w->cache, &w->size, 1, &w->err), w->err);
}

static KATA__UNUSED void world_await_ready(struct world *w, uint32_t count)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;

	o.timeout_ms = 30000;
	fixture_assert_ok(kata_cache_wait_ready(w->cache, count, &o, &w->err), w->err);
}

static KATA__UNUSED kata_cache_status world_status(struct world *w)
{
	kata_cache_status s = {.size = sizeof(s)};

	fixture_assert_ok(kata_cache_get_status(w->cache, KATA_CACHE_ALL, &s, &w->err), w->err);
	return s;
}

static KATA__UNUSED void world_drain(struct world *w)
{
	fixture_assert_ok(kata_cache_drain(w->cache, NULL, &w->err), w->err);
}

static KATA__UNUSED kata_vm *world_build(struct world *w, const char *id)
{
	kata_vm_config c = w->config;
	kata_vm *vm = NULL;
	char mark[256];

	c.id = id;
	fixture_assert_ok(kata_vm_builder_build(w->cache, &c, NULL, NULL, &vm, &w->err), w->err);
	snprintf(mark, sizeof(mark), "%s/vm/%s/pooled", w->f.state_dir, kata_vm_get_id(vm));
	cr_assert_neq(access(mark, F_OK), 0, "recovery would take it for stock");
	return vm;
}

/* It runs and its agent answers; then it is ended. */
static KATA__UNUSED void world_use_up(struct world *w, kata_vm *vm)
{
	kata_agent *agent = NULL;

	fixture_assert_ok(kata_vm_start(vm, NULL, &w->err), w->err);
	fixture_assert_ok(kata_agent_builder_build(w->agents, vm, NULL, NULL, &agent, &w->err), w->err);
	fixture_assert_ok(kata_agent_check(agent, NULL, &w->err), w->err);
	kata_agent_unref(agent);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &w->err), w->err);
	kata_vm_unref(vm);
}

static KATA__UNUSED void world_close(struct world *w)
{
	kata_context_clear_fail_point(w->f.context, NULL);
	kata_vm_builder_free(w->cache);
	kata_agent_builder_free(w->agents);
	kata_vm_builder_free(w->inner);
	free(w->binary);
	free(w->kernel);
	error_clear(&w->err);
	fixture_deinit(&w->f);
}
#endif
