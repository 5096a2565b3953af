/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_CLONE_H
#define KATA_FACTORY_CLONE_H
/* What a clone's start does at its end, while nobody else has the machine: its agent is connected to, the guest is made
 * itself, and the agent is let go of. */
#include "vm/vm.h"

/* Of a VM that was built and not begun to be started. `agents` is borrowed until it was. */
int kata__clone_prepare(kata_vm *vm, kata_agent_builder *agents, kata_error **err);
#endif
