/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls of the agent outside of ops. A call that ended inside its begin is delivered by a posted task, so that callers
 * need not expect their own callback while they begin. A dropped call frees itself once its op has ended; it holds
 * nothing of its user.
 */
#include "sandbox/call.h"

/* A write to a process that does not read waits as long as the process likes, though the default of that call is a
 * minute. */
#define CENTURY_MS (UINT64_C(100) * 365 * 24 * 3600 * 1000)

struct kata__call {
	struct kata__task task;
	kata_op *op;
	kata__call_fn fn;
	void *user;
};

static void deliver(struct kata__call *call)
{
	if (call->fn)
		call->fn(call->user, kata_agent_op_get_reply(call->op), kata_op_get_error(call->op));
	kata_op_unref(call->op);
	free(call);
}

static void deliver_task(struct kata__task *task)
{
	deliver(kata__container_of(task, struct kata__call, task));
}

static void done(void *user, kata_op *op)
{
	struct kata__call *call = user;

	(void)op;
	kata__loop_post(kata__context_loop(kata__op_context(call->op)), &call->task);
}

int kata__call_begin(kata_agent *agent, const kata_agent_request *request, kata__call_fn fn, void *user,
		     struct kata__call **ret, kata_error **err)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	struct kata__call *call = calloc(1, sizeof(*call));
	int rc;

	if (!call)
		return kata__fail_no_memory(err);
	call->task.fn = deliver_task;
	call->fn = fn;
	call->user = user;
	options.timeout_ms = request->method == KATA_AGENT_WRITE_STDIN ? CENTURY_MS : 0;

	rc = kata_agent_call_begin(agent, request, &options, &call->op, err);
	if (rc < 0) {
		free(call);
		return rc;
	}
	*ret = call;
	if (kata_op_is_done(call->op))
		done(call, call->op);
	else
		kata__op_on_done(call->op, done, call);
	return 0;
}

void kata__call_drop(struct kata__call *call)
{
	if (!call)
		return;
	call->fn = NULL;
	kata_op_cancel(call->op);
}
