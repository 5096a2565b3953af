/* SPDX-License-Identifier: Apache-2.0 */
/* kata_vm_builder as a vtable: what must be there, what has a default, and the checked downcast. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "support/fixture.h"
#include "vm/builder.h"

static struct fixture f;
static kata_error *err;
static int freed;

static void setup(void)
{
	fixture_init(&f, true, 0);
}

static void teardown(void)
{
	error_clear(&err);
	fixture_deinit(&f);
}

TestSuite(builder, .init = setup, .fini = teardown, .timeout = 30);

static int build(void *self, const kata_vm_config *config, const kata_agent_config *agent_config,
		 const kata_qos_config *qos_config, kata_vm **ret_vm, kata_error **e)
{
	return kata__fail(e, KATA_E_UNSUPPORTED, CALLER, "self %d", *(int *)self);
}

static int get_capabilities(void *self, kata_capabilities *ret, kata_error **e)
{
	snprintf(ret->driver, sizeof(ret->driver), "test");
	ret->device_slots_max = 23;
	ret->memory_max_mib = 1024;
	return 0;
}

static void free_self(void *self)
{
	freed++;
}

static const kata_vm_builder_ops ops = {
	.size = sizeof(ops), .name = "test", .build = build, .get_capabilities = get_capabilities, .free = free_self};
static int number = 42;

static kata_vm_builder *new_builder(void)
{
	kata_vm_builder *b = NULL;

	fixture_assert_ok(kata_vm_builder_new(f.context, &ops, &number, &b, &err), err);
	return b;
}

Test(builder, calls_its_ops_with_self_and_frees_it_once)
{
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	kata_vm_builder *b = new_builder();
	kata_vm *vm = NULL;

	fixture_assert_fails(kata_vm_builder_build(b, &c, NULL, NULL, &vm, &err), KATA_E_UNSUPPORTED, err);
	cr_assert(strstr(error_text(err), "self 42"));
	kata_vm_builder_free(b);
	cr_assert_eq(freed, 1);
	kata_vm_builder_free(NULL);
}

Test(builder, the_downcast_knows_its_own_ops_only)
{
	kata_vm_builder_ops other = ops;
	kata_vm_builder *b = new_builder();

	cr_assert_eq(kata__vm_builder_self(b, &ops), &number);
	cr_assert_null(kata__vm_builder_self(b, &other));
	cr_assert_null(kata__vm_builder_self(NULL, &ops));
	cr_assert_eq(kata__vm_builder_context(b), f.context);
	kata_vm_builder_free(b);
}

Test(builder, without_build_from_released_it_is_unsupported)
{
	kata_vm_builder *b = new_builder();
	kata_vm *vm = NULL;

	fixture_assert_fails(kata_vm_builder_build_from_released(b, "{}", 2, NULL, &vm, &err), KATA_E_UNSUPPORTED, err);
	cr_assert_null(vm);
	kata_vm_builder_free(b);
}

Test(builder, an_op_that_must_be_there_is_named)
{
	kata_vm_builder_ops o = ops;
	kata_vm_builder *b = NULL;

	o.get_capabilities = NULL;
	fixture_assert_fails(kata_vm_builder_new(f.context, &o, &number, &b, &err), KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), "ops.get_capabilities"));
	cr_assert_eq(freed, 0);
	cr_assert_null(b);
}

Test(builder, ops_of_an_older_caller_have_defaults)
{
	kata_vm_builder_ops o = ops;
	kata_vm_builder *b = NULL;

	o.size = 8;
	fixture_assert_fails(kata_vm_builder_new(f.context, &o, &number, &b, &err), KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), "ops.name"));
}

Test(builder, null_arguments_are_named)
{
	kata_vm_builder *b = new_builder();
	kata_vm *vm = NULL;
	kata_vm_config c = KATA_VM_CONFIG_INIT;

	fixture_assert_fails(kata_vm_builder_build(b, NULL, NULL, NULL, &vm, &err), KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), "config"));
	error_clear(&err);
	fixture_assert_fails(kata_vm_builder_build(b, &c, NULL, NULL, NULL, &err), KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), "ret_vm"));
	error_clear(&err);
	fixture_assert_fails(kata_vm_builder_build(NULL, &c, NULL, NULL, &vm, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_builder_build_from_released(b, NULL, 0, NULL, &vm, &err), KATA_E_INVALID, err);
	kata_vm_builder_free(b);
}

Test(builder, capabilities_fill_what_the_caller_knows)
{
	kata_vm_builder *b = new_builder();
	kata_capabilities c;

	memset(&c, 0xee, sizeof(c));
	c.size = offsetof(kata_capabilities, memory_max_mib);
	fixture_assert_ok(kata_vm_builder_get_capabilities(b, &c, &err), err);
	cr_assert_str_eq(c.driver, "test");
	cr_assert_eq(c.device_slots_max, 23u);
	cr_assert_eq(c.memory_max_mib, UINT64_C(0xeeeeeeeeeeeeeeee));
	cr_assert_eq(c.size, offsetof(kata_capabilities, memory_max_mib));
	kata_vm_builder_free(b);
}

Test(builder, a_context_with_a_builder_is_busy)
{
	kata_vm_builder *b = new_builder();

	fixture_assert_fails(kata_context_free(f.context, &err), KATA_E_BUSY, err);
	kata_vm_builder_free(b);
}
