/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_LIFE_H
#define KATA_SANDBOX_LIFE_H
/* Op data and steps that the operations on a whole sandbox share: start, pause, resume, release, rebuild, shutdown,
 * destroy. */
#include "sandbox/call.h"
#include "sandbox/sandbox_op.h"

struct kata__life_op {
	struct kata__sandbox_op base;
	kata_agent_builder *agent_builder; /* borrowed, or own_builder */
	kata_agent_builder *own_builder;
	kata_agent *agent; /* connected, not yet the sandbox's */
	char *agent_json;
	bool connected; /* by this op (release: disconnected by it) */
	bool started_vm, resumed_vm, resume_calls;

	/* rebuild */
	kata_record *record;
	kata_vm_builder *vm_builder; /* borrowed: the caller waits */
	kata_vm *new_vm;

	/* shutdown */
	uint64_t orderly_deadline;
	uint64_t token;
	struct kata__timer *timer;
	struct kata__call *call;
};

void kata__life_op_free(void *data);
/* [leader] In a step: connects an agent into ->agent. */
int kata__life_connect(kata_op *op, const char *agent_json, kata_error **err);
/* [leader] ->agent, if any, becomes the sandbox's. */
void kata__life_adopt_agent(kata_op *op);
void kata__life_vm_ended(void *user);
#endif
