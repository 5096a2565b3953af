/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_IDENTITY_H
#define KATA_FACTORY_IDENTITY_H
/*
 * Makes a machine that came of a base its own: entropy, clock, hostname, machine-id (the VM's UUID without its dashes)
 * and MACs, asked of the guest's agent in one round trip. What was done is kept on the VM:
 * kata_vm_get_identity_reset().
 *
 * connect-agent --> reset-identity --> set-clock (where it is late) --> release-agent
 *
 * The VM is RUNNING, or STARTING and being prepared (kata__vm_set_prepare). An agent that cannot do a part leaves it
 * undone, and the bits say so; MACs must be done where there are some, for the machine's side of them is changed
 * already. Any other failure fails the op: then the machine must not be handed out.
 */
#include <kata/agent.h>

#include "op/op.h"

/* What a machine of a factory has never shared: its VMM was started with a UUID and a CID of its own, and the base it
 * is of has no NICs. */
#define KATA__OWN_FROM_THE_START (KATA_RESET_MACS | KATA_RESET_UUID | KATA_RESET_CID)

struct kata__identity_options {
	kata_agent *agent;          /* connected already, and stays so; NULL: one is connected, and released again */
	kata_agent_builder *agents; /* by which; NULL: directly */
	const char *hostname;       /* NULL: the VM's id */
	const kata_agent_mac *macs; /* of NICs whose MAC is another one than the guest knows */
	size_t mac_count;
	uint64_t own; /* KATA_RESET_*: what is the machine's own without this (UUID, CID) */
};

/* Options are copied, but agent and agents, which are borrowed until the op has ended. Default deadline 5 s, five times
 * that where the VMM emulates the CPU. [any thread] */
int kata__identity_reset_begin(kata_vm *vm, const struct kata__identity_options *options,
			       const kata_op_options *op_options, kata_op **ret_op, kata_error **err);
/* Likewise, not begun: for kata__op_run_child. */
int kata__identity_reset_new(kata_vm *vm, const struct kata__identity_options *options,
			     const kata_op_options *op_options, kata_op **ret_op, kata_error **err);
#endif
