/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_CLONE_H
#define KATA_FACTORY_CLONE_H
/*
 * A clone of a template: a VM in CREATED whose start loads the template's state and then, while nobody else has the
 * machine, connects to its agent, makes the guest itself, and lets go of the agent.
 */
#include "factory/template_base.h"
#include "vm/vm.h"

/* `id` NULL: one of its own. `agents` is borrowed until the start is over. [may block] */
int kata__clone_new(kata_vm_builder *inner, const struct kata__template_base *base, const char *id,
		    const kata_agent_config *agent, kata_agent_builder *agents, kata_vm **ret_vm, kata_error **err);
#endif
