/* SPDX-License-Identifier: Apache-2.0 */
#include "factory/clone.h"

#include "factory/identity.h"
#include "vm/warm.h"

static int begin_reset(kata_vm *vm, void *user, kata_op **ret_op, kata_error **err)
{
	struct kata__identity_options options = {.agents = user, .own = KATA__OWN_FROM_THE_START};

	return kata__identity_reset_new(vm, &options, NULL, ret_op, err);
}

int kata__clone_new(kata_vm_builder *inner, const struct kata__template_base *base, const char *id,
		    const kata_agent_config *agent, kata_agent_builder *agents, kata_vm **ret_vm, kata_error **err)
{
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	kata_vm *vm = NULL;
	int rc;

	c.id = id;
	rc = kata_vm_builder_build_from_snapshot(inner, base->snapshot, &c, agent, NULL, NULL, &vm, err);
	if (rc < 0)
		return rc;
	rc = kata__vm_set_prepare(vm, begin_reset, agents, NULL, err);
	if (rc < 0) {
		kata_vm_unref(vm);
		return rc;
	}
	kata__vm_set_origin(vm, KATA_VM_CLONED);
	*ret_vm = vm;
	return 0;
}
