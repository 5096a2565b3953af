/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VM contract, held by VMs that come warm out of a cache: over the mock, and over the driver of QEMU with the
 * stand-in. A builder around the cache fills it before each build and empties it afterwards, so that the suite's census
 * sees the caller's machine alone.
 */
#include <criterion/criterion.h>
#include <kata/driver/vm_builder.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "support/vm_contract.h"

struct filled {
	kata_context *context;
	kata_vm_builder *inner, *cache;
};

static int build_warm(void *self, const kata_vm_config *config, const kata_agent_config *agent_config,
		      const kata_qos_config *qos_config, kata_vm **ret_vm, kata_error **err)
{
	struct filled *b = self;
	kata_cache_size size = KATA_CACHE_SIZE_INIT;
	kata_vm_config plain = *config;
	int rc;

	if (config->memory_path) /* a file of its own for one machine: no cache keeps that */
		return kata_vm_builder_build(b->cache, config, agent_config, qos_config, ret_vm, err);
	plain.id = NULL;
	size.config = &plain;
	size.min = 1;
	rc = kata_cache_set_sizes(b->cache, &size, 1, err);
	if (rc == 0)
		rc = kata_cache_wait_ready(b->cache, 1, NULL, err);
	if (rc < 0)
		return rc;
	rc = kata_vm_builder_build(b->cache, config, agent_config, qos_config, ret_vm, err);
	if (rc == 0)
		cr_assert_eq(kata_vm_get_origin(*ret_vm), KATA_VM_WARM);
	/* A turn of the loop, in which the mock sees that its agent was released. */
	cr_assert_eq(kata_context_set_fail_point(b->context, "pool-drain/drain:before", KATA_FAIL_DELAY, 1, 0, 1, NULL),
		     0);
	cr_assert_eq(kata_cache_drain(b->cache, NULL, NULL), 0);
	return rc;
}

static int rebuild(void *self, const char *json, size_t length, const kata_op_options *options, kata_vm **ret_vm,
		   kata_op **ret_op, kata_error **err)
{
	struct filled *b = self;

	return kata_vm_builder_build_from_released_begin(b->cache, json, length, options, ret_vm, ret_op, err);
}

static int restore(void *self, const kata_snapshot *snapshot, const kata_vm_config *config,
		   const kata_agent_config *agent_config, const kata_qos_config *qos_config,
		   const kata_restore_options *options, kata_vm **ret_vm, kata_error **err)
{
	struct filled *b = self;

	return kata_vm_builder_build_from_snapshot(b->cache, snapshot, config, agent_config, qos_config, options,
						   ret_vm, err);
}

static int get_capabilities(void *self, kata_capabilities *ret_capabilities, kata_error **err)
{
	struct filled *b = self;

	return kata_vm_builder_get_capabilities(b->cache, ret_capabilities, err);
}

static void free_filled(void *self)
{
	struct filled *b = self;

	kata_vm_builder_free(b->cache);
	kata_vm_builder_free(b->inner);
	free(b);
}

static const kata_vm_builder_ops filled_ops = {
	.size = sizeof(kata_vm_builder_ops),
	.name = "filled",
	.build = build_warm,
	.build_from_released = rebuild,
	.get_capabilities = get_capabilities,
	.free = free_filled,
	.build_from_snapshot = restore,
};

static kata_vm_builder *around(struct fixture *f, kata_vm_builder *inner)
{
	struct filled *b = calloc(1, sizeof(*b));
	kata_vm_builder *builder = NULL;
	kata_error *err = NULL;

	cr_assert_not_null(b);
	b->context = f->context;
	b->inner = inner;
	fixture_assert_ok(kata_vm_builder_new_cache(f->context, inner, NULL, NULL, &b->cache, &err), err);
	fixture_assert_ok(kata_vm_builder_new(f->context, &filled_ops, b, &builder, &err), err);
	return builder;
}

/* ---- over the mock ---- */

static kata_vm_builder *new_over_mock(struct fixture *f)
{
	kata_vm_builder *mock = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_builder_new_mock(f->context, &mock, &err), err);
	return around(f, mock);
}

static void configure_nothing(struct fixture *f, kata_vm_config *config)
{
}

static void end_mock(kata_vm *vm)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_mock_end(vm, &err), err);
}

static const struct vm_kind warm_mock = {
	.name = "a cache over the mock",
	.new_builder = new_over_mock,
	.configure = configure_nothing,
	.end = end_mock,
	.patience_ms = 2000,
	.is_warm = true,
};

#define MOCK_CASE(name)                                                                                                \
	Test(cached_mock, name, .timeout = 60)                                                                         \
	{                                                                                                              \
		vm_contract_##name(&warm_mock);                                                                        \
	}
VM_CONTRACT_CASES(MOCK_CASE)

/* ---- over the stand-in ---- */

static kata_vm_builder *new_over_standin(struct fixture *f)
{
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;
	kata_vm_builder *builder = NULL;
	kata_error *err = NULL;
	char *binary = fixture_make_standin(f, NULL);

	options.binary = binary;
	options.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(f->context, &options, &builder, &err), err);
	free(binary);
	return around(f, builder);
}

static char kernel[64];

static void configure_kernel(struct fixture *f, kata_vm_config *config)
{
	char *path = fixture_make_kernel(f);

	snprintf(kernel, sizeof(kernel), "%s", path);
	free(path);
	config->kernel = kernel;
	config->initrd = kernel;
}

static void kill_vmm(kata_vm *vm)
{
	cr_assert_gt(kata_vm_get_pid(vm), 1);
	cr_assert_eq(kill((pid_t)kata_vm_get_pid(vm), SIGKILL), 0);
}

static const struct vm_kind warm_standin = {
	.name = "a cache over qemu on the stand-in",
	.new_builder = new_over_standin,
	.configure = configure_kernel,
	.end = kill_vmm,
	.patience_ms = 5000,
	.opens_files = true,
	.is_warm = true,
};

#define STANDIN_CASE(name)                                                                                             \
	Test(cached_standin, name, .timeout = 120)                                                                     \
	{                                                                                                              \
		vm_contract_##name(&warm_standin);                                                                     \
	}
VM_CONTRACT_CASES(STANDIN_CASE)
