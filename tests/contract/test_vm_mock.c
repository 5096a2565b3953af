/* SPDX-License-Identifier: Apache-2.0 */
/* The VM contract, held by the mock. */
#include <criterion/criterion.h>

#include "support/vm_contract.h"

static kata_vm_builder *new_mock_builder(struct fixture *f)
{
	kata_vm_builder *builder = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_builder_new_mock(f->context, &builder, &err), err);
	return builder;
}

static void configure_nothing(struct fixture *f, kata_vm_config *config)
{
}

static void end_mock(kata_vm *vm)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_mock_end(vm, &err), err);
}

static const struct vm_kind mock_kind = {
	.name = "mock",
	.new_builder = new_mock_builder,
	.configure = configure_nothing,
	.end = end_mock,
	.patience_ms = 2000,
};

#define CASE(name)                                                                                                     \
	Test(vm_mock, name, .timeout = 60)                                                                             \
	{                                                                                                              \
		vm_contract_##name(&mock_kind);                                                                        \
	}
VM_CONTRACT_CASES(CASE)
