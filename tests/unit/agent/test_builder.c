/* SPDX-License-Identifier: Apache-2.0 */
#include "unit/agent/agent_test.h"

#include <kata/mock.h>

struct own {
	unsigned builds, frees;
	const char *released_json;
};

static int own_build(void *self, kata_vm *vm, const char *released_json, const kata_op_options *options,
		     kata_agent **ret_agent, kata_op **ret_op, kata_error **err)
{
	struct own *o = self;

	o->builds++;
	o->released_json = released_json;
	return kata__fail(err, KATA_E_UNSUPPORTED, CALLER, "an agent of the test's own");
}

static void own_free(void *self)
{
	struct own *o = self;

	o->frees++;
}

static const kata_agent_builder_ops own_ops = {
	.size = sizeof(own_ops), .name = "own", .build = own_build, .free = own_free};

Test(builder, of_the_callers_own_is_asked_and_freed)
{
	struct own o = {0};
	struct fixture f;
	kata_agent_builder *b = NULL;
	kata_vm_builder *mock = NULL;
	kata_agent *agent = NULL;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_vm *vm = NULL;
	kata_error *err = NULL;

	fixture_init(&f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	fixture_assert_ok(kata_vm_builder_new_mock(f.context, &mock, &err), err);
	fixture_assert_ok(kata_vm_builder_build(mock, &config, NULL, NULL, &vm, &err), err);
	fixture_assert_ok(kata_agent_builder_new(f.context, &own_ops, &o, &b, &err), err);
	fixture_assert_fails(kata_agent_builder_build(b, vm, "json", NULL, &agent, &err), KATA_E_UNSUPPORTED, err);
	kata_error_free(err);
	cr_assert_null(agent);
	cr_assert_eq(o.builds, 1u);
	cr_assert_str_eq(o.released_json, "json");
	kata_agent_builder_free(b);
	cr_assert_eq(o.frees, 1u);
	kata_vm_unref(vm);
	kata_vm_builder_free(mock);
	fixture_deinit(&f);
}

Test(builder, refuses_missing_arguments_by_name)
{
	kata_agent_builder_ops ops = own_ops;
	struct own o = {0};
	struct fixture f;
	kata_agent_builder *b = NULL;
	kata_agent *agent = NULL;
	kata_op *op = NULL;
	kata_error *err = NULL;

	fixture_init(&f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	fixture_assert_fails(kata_agent_builder_new_direct(NULL, &b, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_agent_builder_new_direct(f.context, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_agent_builder_new(f.context, NULL, &o, &b, &err), KATA_E_INVALID, err);
	error_clear(&err);
	ops.build = NULL;
	fixture_assert_fails(kata_agent_builder_new(f.context, &ops, &o, &b, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_ok(kata_agent_builder_new_direct(f.context, &b, &err), err);
	fixture_assert_fails(kata_agent_builder_build(b, NULL, NULL, NULL, &agent, &err), KATA_E_INVALID, err);
	cr_assert_not_null(strstr(kata_error_get_message(err), "vm"));
	error_clear(&err);
	fixture_assert_fails(kata_agent_builder_build(NULL, NULL, NULL, NULL, &agent, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_agent_builder_build_begin(b, NULL, NULL, NULL, &agent, &op, &err), KATA_E_INVALID,
			     err);
	kata_error_free(err);
	kata_agent_builder_free(b);
	kata_agent_builder_free(NULL);
	fixture_deinit(&f);
}

Test(builder, keeps_its_context_from_being_freed)
{
	struct fixture f;
	kata_agent_builder *b = NULL;
	kata_error *err = NULL;

	fixture_init(&f, true, 0);
	fixture_assert_ok(kata_agent_builder_new_direct(f.context, &b, &err), err);
	fixture_assert_fails(kata_context_free(f.context, &err), KATA_E_BUSY, err);
	kata_error_free(err);
	kata_agent_builder_free(b);
	fixture_deinit(&f);
}
