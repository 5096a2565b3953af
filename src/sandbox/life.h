/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_LIFE_H
#define KATA_SANDBOX_LIFE_H
/* Op data and steps that the operations on a whole sandbox share: start, pause, resume, release, rebuild, shutdown,
 * destroy, save. */
#include "sandbox/call.h"
#include "sandbox/sandbox_op.h"

struct kata__sandbox_save; /* save.c */

struct kata__life_op {
	struct kata__sandbox_op base;
	kata_agent_builder *agent_builder; /* borrowed, or own_builder */
	kata_agent_builder *own_builder;
	kata_agent *agent; /* connected, not yet the sandbox's */
	char *agent_json;
	bool connected; /* by this op (release: disconnected by it) */
	bool started_vm, resumed_vm, resume_calls;

	/* rebuild, restore */
	kata_record *record;
	kata_vm_builder *vm_builder; /* borrowed: the caller waits */
	kata_vm *new_vm;
	size_t new_macs; /* restore: that the guest is told */

	/* save */
	struct kata__sandbox_save *save;

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
/* Steps of the release, for a save too: reads and waits of processes make no new call; the agent is let go of, into
 * ->agent_json. Undo: it is connected again, and the finish calls kata__life_resume_calls. */
int kata__life_step_suspend_calls(kata_op *op, kata_error **err);
int kata__life_step_unsuspend_calls(kata_op *op, kata_error **err);
int kata__life_step_release_agent(kata_op *op, kata_error **err);
int kata__life_step_reconnect_agent(kata_op *op, kata_error **err);
#endif
