/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_SANDBOX_OP_H
#define KATA_SANDBOX_SANDBOX_OP_H
/*
 * What the operations of a sandbox have in common. Each kind of op data begins with a struct kata__sandbox_op; its
 * table's finish calls kata__sandbox_op_end and its free_data kata__sandbox_op_deinit.
 */
#include <kata/agent.h>

#include "sandbox/sandbox.h"

#define KATA__SANDBOX_OP_PASSIVE 1u /* a release ends it instead of being BUSY because of it */

struct kata__sandbox_op {
	kata_sandbox *sandbox; /* referenced */
	kata_op *op;           /* borrowed: the op whose data this is */
	struct kata__sandbox_op *previous, *next;
	bool linked, passive, cancelled;
	kata_sandbox_state before; /* the sandbox's state when the op began */
	kata_op *call;             /* referenced: the last agent call or child op that a step ran */
};

static inline struct kata__sandbox_op *kata__sandbox_op(const kata_op *op)
{
	return (struct kata__sandbox_op *)kata__op_data(op);
}
static inline kata_sandbox *kata__sandbox_of(const kata_op *op)
{
	return kata__sandbox_op(op)->sandbox;
}

struct kata__sandbox_entry {
	const char *function; /* for errors */
	uint32_t allowed;     /* KATA__IN(...) of the states that permit it */
	int enter;            /* state to enter, or -1 */
	uint32_t flags;       /* KATA__SANDBOX_OP_* */
};
/*
 * Begins an op: checks the state, enters the new one and links the op, all at one instant. `take_data` (referencing
 * nothing yet: this adds the sandbox) is consumed in every case.
 */
int kata__sandbox_begin(kata_sandbox *s, const struct kata__sandbox_entry *entry, const struct kata__op_table *table,
			void *take_data, const kata_op_options *options, kata_op **ret_op, kata_error **err);
/* [leader] Last in finish: unlinks; when the agent turns out to be lost, so is the sandbox. Drops ->call and ->sandbox.
 */
void kata__sandbox_op_end(kata_op *op, int status);
void kata__sandbox_op_deinit(struct kata__sandbox_op *base);
/* [leader] Cancels every other op under way (passive ones only: those). */
void kata__sandbox_cancel_ops(kata_sandbox *s, const kata_op *but, bool passive_only);

/* [leader] In a step: options for a child so that it ends about when the parent must. */
kata_op_options kata__sandbox_child_options(const kata_op *op);
/* [leader] In a step: runs a call of the agent and waits for it. The reply is kata__sandbox_reply() afterwards. */
int kata__sandbox_call(kata_op *op, const kata_agent_request *request, kata_error **err);
const kata_agent_reply *kata__sandbox_reply(const kata_op *op);
/* [leader] In a step or undo: runs a child (consumed) whose failure does not matter. A cancel does not reach it: give
 * it a deadline. */
int kata__sandbox_run_anyhow(kata_op *op, kata_op *take_child, kata_error **err);
/* [leader] In an undo: a call whose answer does not matter ("there is no such container" is as good as "removed"), but
 * there must be one: the undo fails by TIMEOUT else, and the op is uncertain. */
int kata__sandbox_call_anyhow(kata_op *op, const kata_agent_request *request, kata_error **err);
/* [leader] In a step: runs a child (consumed), given the result of its begin; keeps a reference in ->call. */
int kata__sandbox_run_child(kata_op *op, int begun, kata_op *take_child, kata_error **err);
/* For the blocking forms, before they begin anything: STATE inside a callback of the library. NULL passes: the begin
 * refuses it. */
int kata__sandbox_check_may_block(const kata_sandbox *sandbox, const char *function, kata_error **err);
#endif
