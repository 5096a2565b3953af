/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call.c - agent calls as operations of one step.
 *
 * Model: the op's data holds a deep copy of the request and, later, of the reply. The step hands the request to the
 * agent's implementation; its reply function ends the step. Deadline and cancel come from the op and are forwarded by
 * the step's cancel(), so an implementation needs no timers. A lost connection, the end of the VM and a release end the
 * calls from here, whatever the implementation does about it.
 *
 * Invariants: 1. a call is in agent->calls exactly while the implementation may call its reply function. 2. whoever
 * takes it off that list ends it, or abandons it for the engine.
 */
#include <assert.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/request.h"
#include "base/options.h"
#include "base/text.h"

static int call_run(kata_op *op, kata_error **err);
static void call_cancel(kata_op *op);
static void call_finish(kata_op *op, int status, kata_error **error);
static void call_free(void *data);

static const struct kata__step call_steps[] = {{.name = "call", .run = call_run, .cancel = call_cancel}};

#define CALL_TABLE(op_name, timeout, extra_flags)                                                                      \
	{                                                                                                              \
		.name = op_name, KATA__STEPS(call_steps), .timeout_ms = timeout, .flags = extra_flags,                 \
		.finish = call_finish, .free_data = call_free                                                          \
	}
#define CALL(op_name) CALL_TABLE(op_name, 60000, 0)
#define LONG_CALL(op_name) CALL_TABLE(op_name, 0, KATA__OP_NO_DEADLINE | KATA__OP_QUIET)

/* An operation a method, so that timelines, errors and fail-points name it. */
static const struct kata__op_table tables[KATA_AGENT_METHOD_COUNT] = {
	[KATA_AGENT_CHECK] = CALL_TABLE("agent-check", 30000, KATA__OP_QUIET),
	[KATA_AGENT_VERSION] = CALL("agent-version"),
	[KATA_AGENT_CREATE_SANDBOX] = CALL("agent-create-sandbox"),
	[KATA_AGENT_DESTROY_SANDBOX] = CALL("agent-destroy-sandbox"),
	[KATA_AGENT_UPDATE_INTERFACE] = CALL("agent-update-interface"),
	[KATA_AGENT_UPDATE_ROUTES] = CALL("agent-update-routes"),
	[KATA_AGENT_AWAIT_DEVICE] = CALL("agent-await-device"),
	[KATA_AGENT_OFFLINE_DEVICE] = CALL("agent-offline-device"),
	[KATA_AGENT_CREATE_CONTAINER] = CALL("agent-create-container"),
	[KATA_AGENT_START_CONTAINER] = CALL("agent-start-container"),
	[KATA_AGENT_REMOVE_CONTAINER] = CALL("agent-remove-container"),
	[KATA_AGENT_EXEC_PROCESS] = CALL("agent-exec-process"),
	[KATA_AGENT_SIGNAL_PROCESS] = CALL("agent-signal-process"),
	[KATA_AGENT_WAIT_PROCESS] = LONG_CALL("agent-wait-process"),
	[KATA_AGENT_STATS_CONTAINER] = CALL("agent-stats-container"),
	[KATA_AGENT_PAUSE_CONTAINER] = CALL("agent-pause-container"),
	[KATA_AGENT_RESUME_CONTAINER] = CALL("agent-resume-container"),
	[KATA_AGENT_WRITE_STDIN] = CALL_TABLE("agent-write-stdin", 60000, KATA__OP_QUIET),
	[KATA_AGENT_CLOSE_STDIN] = CALL("agent-close-stdin"),
	[KATA_AGENT_READ_STDOUT] = LONG_CALL("agent-read-stdout"),
	[KATA_AGENT_READ_STDERR] = LONG_CALL("agent-read-stderr"),
	[KATA_AGENT_TTY_WIN_RESIZE] = CALL("agent-tty-win-resize"),
	[KATA_AGENT_SET_TIME] = CALL("agent-set-time"),
	[KATA_AGENT_RESEED] = CALL("agent-reseed"),
	[KATA_AGENT_ONLINE_CPU_MEM] = CALL("agent-online-cpu-mem"),
	[KATA_AGENT_RESET_IDENTITY] = CALL("agent-reset-identity"),
	[KATA_AGENT_SETTLE] = CALL("agent-settle"),
};

static const char *const method_names[KATA_AGENT_METHOD_COUNT] = {
	[KATA_AGENT_CHECK] = "Check",
	[KATA_AGENT_VERSION] = "Version",
	[KATA_AGENT_CREATE_SANDBOX] = "CreateSandbox",
	[KATA_AGENT_DESTROY_SANDBOX] = "DestroySandbox",
	[KATA_AGENT_UPDATE_INTERFACE] = "UpdateInterface",
	[KATA_AGENT_UPDATE_ROUTES] = "UpdateRoutes",
	[KATA_AGENT_AWAIT_DEVICE] = "AwaitDevice",
	[KATA_AGENT_OFFLINE_DEVICE] = "OfflineDevice",
	[KATA_AGENT_CREATE_CONTAINER] = "CreateContainer",
	[KATA_AGENT_START_CONTAINER] = "StartContainer",
	[KATA_AGENT_REMOVE_CONTAINER] = "RemoveContainer",
	[KATA_AGENT_EXEC_PROCESS] = "ExecProcess",
	[KATA_AGENT_SIGNAL_PROCESS] = "SignalProcess",
	[KATA_AGENT_WAIT_PROCESS] = "WaitProcess",
	[KATA_AGENT_STATS_CONTAINER] = "StatsContainer",
	[KATA_AGENT_PAUSE_CONTAINER] = "PauseContainer",
	[KATA_AGENT_RESUME_CONTAINER] = "ResumeContainer",
	[KATA_AGENT_WRITE_STDIN] = "WriteStdin",
	[KATA_AGENT_CLOSE_STDIN] = "CloseStdin",
	[KATA_AGENT_READ_STDOUT] = "ReadStdout",
	[KATA_AGENT_READ_STDERR] = "ReadStderr",
	[KATA_AGENT_TTY_WIN_RESIZE] = "TtyWinResize",
	[KATA_AGENT_SET_TIME] = "SetGuestDateTime",
	[KATA_AGENT_RESEED] = "ReseedRandomDev",
	[KATA_AGENT_ONLINE_CPU_MEM] = "OnlineCPUMem",
	[KATA_AGENT_RESET_IDENTITY] = "ResetIdentity",
	[KATA_AGENT_SETTLE] = "Settle",
};

const char *kata_agent_method_get_name(kata_agent_method method)
{
	return (unsigned)method < KATA_AGENT_METHOD_COUNT ? method_names[method] : "unknown";
}

/* ---- in flight ---- */

static void link_call(struct kata__agent_call *call)
{
	kata_agent *agent = call->agent;

	call->next = agent->calls;
	call->link = &agent->calls;
	if (call->next)
		call->next->link = &call->next;
	agent->calls = call;
}

static void unlink_call(struct kata__agent_call *call)
{
	*call->link = call->next;
	if (call->next)
		call->next->link = call->link;
	call->link = NULL;
}

/* Takes the call out of flight and tells the engine. */
static void end_call(struct kata__agent_call *call, int status, kata_error *take_err)
{
	kata_op *op = call->op;

	unlink_call(call);
	call->op = NULL;
	if (call->phase == KATA__CALL_STARTING) {
		call->status = status;
		call->error = take_err;
	} else {
		kata__op_resume(op, call->op_token, status, take_err);
	}
	call->phase = KATA__CALL_IDLE;
	kata_op_unref(op);
}

/* The reply of a caller's own agent may be of an older library, and shorter; of the first one where it has no size. */
static size_t known_size(const kata_agent_reply *reply)
{
	size_t size = reply->size ? reply->size : offsetof(kata_agent_reply, reset);

	return size < sizeof(*reply) ? size : sizeof(*reply);
}

static int keep_reply(struct kata__agent_call *call, const kata_agent_reply *reply)
{
	memset(&call->reply, 0, sizeof(call->reply));
	memcpy(&call->reply, reply, known_size(reply));
	call->reply.size = sizeof(call->reply);
	call->reply.stats.size = sizeof(call->reply.stats);
	call->reply.data = NULL;
	call->reply.text = NULL;
	if (reply->data_length) {
		call->reply_data = malloc(reply->data_length);
		if (!call->reply_data)
			return KATA_E_NO_MEMORY;
		call->reply.data = memcpy(call->reply_data, reply->data, reply->data_length);
	}
	if (reply->text) {
		call->reply_text = kata__strdup(reply->text);
		if (!call->reply_text)
			return KATA_E_NO_MEMORY;
		call->reply.text = call->reply_text;
	}
	return 0;
}

static void on_reply(void *user, const kata_agent_reply *reply, kata_error *take_error)
{
	struct kata__agent_call *call = user;
	int status = take_error ? (int)kata_error_get_status(take_error) : 0;

	if (!take_error && reply && keep_reply(call, reply) != 0)
		status = kata__fail_no_memory(&take_error);
	end_call(call, status, take_error);
}

void kata__agent_end_calls(kata_agent *agent, const kata_error *reason)
{
	bool is_gone = kata_error_get_status(reason) == KATA_E_GONE;

	while (agent->calls) {
		struct kata__agent_call *call = agent->calls;

		if (agent->ops && call->phase == KATA__CALL_WAITING)
			agent->ops->cancel(agent->self, call->agent_token);
		if (is_gone && call->request.method == KATA_AGENT_DESTROY_SANDBOX)
			end_call(call, 0, NULL);
		else
			end_call(call, (int)kata_error_get_status(reason), kata__error_dup(reason));
	}
}

/* ---- the step ---- */

static int call_run(kata_op *op, kata_error **err)
{
	struct kata__agent_call *call = kata__op_data(op);
	kata_agent *agent = call->agent;
	int rc = kata__agent_check_connected(agent, err);

	if (rc)
		return rc;
	call->op = kata_op_ref(op);
	call->op_token = kata__op_token(op);
	call->phase = KATA__CALL_STARTING;
	link_call(call);
	agent->ops->call(agent->self, &call->request, call->timeout_ms, on_reply, call, &call->agent_token);
	if (call->phase == KATA__CALL_STARTING) {
		call->phase = KATA__CALL_WAITING;
		return KATA__STEP_WAIT;
	}
	return call->error ? kata__error_move(err, &call->error) : KATA__STEP_DONE;
}

static void call_cancel(kata_op *op)
{
	struct kata__agent_call *call = kata__op_data(op);

	if (!call->op)
		return;
	unlink_call(call);
	call->op = NULL;
	call->phase = KATA__CALL_IDLE;
	if (call->agent->ops)
		call->agent->ops->cancel(call->agent->self, call->agent_token);
	kata_op_unref(op);
}

static void call_finish(kata_op *op, int status, kata_error **error)
{
	const struct kata__agent_call *call = kata__op_data(op);
	kata_vm *vm = call->agent->vm;

	if (vm && (status == KATA_E_TIMEOUT || status == KATA_E_GONE))
		kata__vm_explain(vm, *error);
	if (status == KATA_E_TIMEOUT && kata_error_get_origin(*error) == KATA_ORIGIN_HOST &&
	    !kata_error_get_hint(*error))
		kata__error_set_hint(*error,
				     "the agent did not answer %s in time: %sis the guest overloaded, or did the "
				     "agent die?",
				     method_names[call->request.method],
				     kata_error_get_console(*error) ? "see the console's tail; " : "");
}

static void call_free(void *data)
{
	struct kata__agent_call *call = data;

	assert(!call->op);
	kata_error_free(call->error);
	free(call->reply_data);
	free(call->reply_text);
	kata_agent_unref(call->agent);
	free(call);
}

/* ---- the public calls ---- */

static struct kata__agent_call *new_call(kata_agent *agent, const kata_agent_request *request,
					 const kata_op_options *options)
{
	size_t size = kata__agent_request_copy(request, NULL, NULL);
	struct kata__agent_call *call = malloc(sizeof(*call) + size);

	if (!call)
		return NULL;
	*call = (struct kata__agent_call){.agent = kata_agent_ref(agent)};
	call->timeout_ms = options && options->timeout_ms ? options->timeout_ms : tables[request->method].timeout_ms;
	kata__agent_request_copy(request, call->memory, &call->request);
	return call;
}

int kata_agent_call_begin(kata_agent *agent, const kata_agent_request *request, const kata_op_options *options,
			  kata_op **ret_op, kata_error **err)
{
	kata_agent_request known = {0};
	kata_op_options timing = KATA_OP_OPTIONS_INIT;
	struct kata__agent_call *call;
	int rc;

	if (!agent || !request)
		return kata__fail(err, KATA_E_INVALID, CALLER, "kata_agent_call: %s is NULL",
				  agent ? "request" : "agent");
	rc = kata__options_read(&known, sizeof(known), request, "request", err);
	if (!rc)
		rc = kata__options_read(&timing, sizeof(timing), options, "options", err);
	if (!rc)
		rc = kata__agent_request_check(&known, err);
	if (!rc)
		rc = kata__agent_check_connected(agent, err);
	if (rc)
		return rc;
	call = new_call(agent, &known, &timing);
	if (!call)
		return kata__fail_no_memory(err);
	return kata__op_start(agent->ctx, &tables[known.method], call, &timing, 1, ret_op, err);
}

const kata_agent_reply *kata_agent_op_get_reply(const kata_op *op)
{
	const struct kata__op_table *table = op ? kata__op_get_table(op) : NULL;
	const struct kata__agent_call *call;

	if (!op || table < tables || table >= tables + KATA_AGENT_METHOD_COUNT)
		return NULL;
	if (!kata_op_is_done(op) || kata_op_get_error(op))
		return NULL;
	call = kata__op_data(op);
	return &call->reply;
}

int kata_agent_check(kata_agent *agent, const kata_op_options *options, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_CHECK};
	kata_op *op = NULL;
	int rc;

	if (!agent)
		return kata__fail(err, KATA_E_INVALID, CALLER, "kata_agent_check: agent is NULL");
	rc = kata__context_check_may_block(agent->ctx, "kata_agent_check", err);
	if (rc)
		return rc;
	rc = kata_agent_call_begin(agent, &request, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}
