/* SPDX-License-Identifier: Apache-2.0 */
#include "factory/clone.h"

#include "factory/identity.h"

static int begin(kata_vm *vm, void *user, kata_op **ret_op, kata_error **err)
{
	struct kata__identity_options options = {.agents = user, .own = KATA_RESET_UUID};

	return kata__identity_reset_new(vm, &options, NULL, ret_op, err);
}

int kata__clone_prepare(kata_vm *vm, kata_agent_builder *agents, kata_error **err)
{
	return kata__vm_set_prepare(vm, begin, agents, NULL, err);
}
