/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the operations of a sandbox have in common: the entry (state, list of ops under way), calls of the agent as
 * steps, the end.
 */
#include "sandbox/sandbox_op.h"

/* A child is given this much longer than its parent, so that the parent's deadline is the one that ends it. */
#define CHILD_MARGIN_MS 1000u
#define ANYHOW_MS 4000u /* for a call of an undo; less than the undo's own bound, 5 s */

/* The mutex is held. */
static void link_op(kata_sandbox *s, struct kata__sandbox_op *base)
{
	base->next = s->ops;
	if (s->ops)
		s->ops->previous = base;
	s->ops = base;
	base->linked = true;
	if (!base->passive)
		s->ops_active++;
}

/* The mutex is held. */
static void unlink_op(kata_sandbox *s, struct kata__sandbox_op *base)
{
	if (!base->linked)
		return;
	if (base->previous)
		base->previous->next = base->next;
	else
		s->ops = base->next;
	if (base->next)
		base->next->previous = base->previous;
	base->linked = false;
	if (!base->passive)
		s->ops_active--;
}

/* The mutex is held. */
static int enter(kata_sandbox *s, const struct kata__sandbox_entry *entry, struct kata__sandbox_op *base,
		 kata_error **err)
{
	int rc = kata__sandbox_check_state(s, entry->allowed, entry->function, err);

	if (rc < 0)
		return rc;
	if ((entry->enter == KATA_SANDBOX_RELEASING || entry->enter == KATA_SANDBOX_SAVING) && s->ops_active > 0)
		return kata__fail(err, KATA_E_BUSY, CALLER, "%s: %u operations are under way on sandbox '%s'",
				  entry->function, s->ops_active, s->id);
	base->before = s->state;
	if (entry->enter >= 0 && s->state != KATA_SANDBOX_DESTROYED)
		s->state = (kata_sandbox_state)entry->enter;
	link_op(s, base);
	return 0;
}

int kata__sandbox_begin(kata_sandbox *s, const struct kata__sandbox_entry *entry, const struct kata__op_table *table,
			void *take_data, const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	struct kata__sandbox_op *base = take_data;
	kata_op *op;
	int rc;

	base->sandbox = kata_sandbox_ref(s);
	base->passive = entry->flags & KATA__SANDBOX_OP_PASSIVE;
	rc = kata__op_new(s->ctx, table, take_data, options, s->vm ? s->vm->time_scale : 1, &op, err);
	if (rc < 0)
		return rc;
	base->op = op;

	/* Calls of the agent do not go through the VM's own check. */
	rc = s->vm && !base->passive ? kata__vm_check_fence(s->vm, err) : 0;
	if (rc == 0) {
		pthread_mutex_lock(&s->mutex);
		rc = enter(s, entry, base, err);
		pthread_mutex_unlock(&s->mutex);
	}
	if (rc < 0) {
		kata_op_unref(op);
		return rc;
	}
	kata__op_begin(op);
	if (ret_op)
		*ret_op = op;
	else
		kata_op_unref(op);
	return 0;
}

void kata__sandbox_op_end(kata_op *op, int status)
{
	struct kata__sandbox_op *base = kata__sandbox_op(op);
	kata_sandbox *s = base->sandbox;

	pthread_mutex_lock(&s->mutex);
	unlink_op(s, base);
	pthread_mutex_unlock(&s->mutex);
	if (status == KATA_E_GONE && s->agent && kata_agent_get_state(s->agent) == KATA_AGENT_LOST)
		kata__sandbox_ended(s);
	/* Now and not with the op: who waits for the op and then drops the sandbox drops its last reference, and so
	 * waits for its end. */
	kata_op_unref(kata__take_ptr(base->call));
	kata_sandbox_unref(kata__take_ptr(base->sandbox));
}

void kata__sandbox_op_deinit(struct kata__sandbox_op *base)
{
	kata_op_unref(base->call);
	kata_sandbox_unref(base->sandbox);
}

/* The next op to cancel, marked and referenced; NULL when there is none left. */
static kata_op *next_to_cancel(kata_sandbox *s, const kata_op *but, bool passive_only)
{
	kata_op *op = NULL;

	pthread_mutex_lock(&s->mutex);
	for (struct kata__sandbox_op *o = s->ops; o && !op; o = o->next) {
		if (o->op == but || o->cancelled || (passive_only && !o->passive))
			continue;
		o->cancelled = true;
		op = kata_op_ref(o->op);
	}
	pthread_mutex_unlock(&s->mutex);
	return op;
}

void kata__sandbox_cancel_ops(kata_sandbox *s, const kata_op *but, bool passive_only)
{
	kata_op *op;

	/* A cancel may end an op at once, which changes the list: so one at a time, and outside of the mutex. */
	while ((op = next_to_cancel(s, but, passive_only)) != NULL) {
		kata__op_cancel_gone(op, "the sandbox was shut down or destroyed");
		kata_op_unref(op);
	}
}

/* ---- steps */

kata_op_options kata__sandbox_child_options(const kata_op *op)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	int left = kata__deadline_left_ms(kata__op_deadline(op));

	if (left >= 0 && !kata__op_is_undoing(op))
		options.timeout_ms = (uint64_t)left + CHILD_MARGIN_MS;
	return options;
}

int kata__sandbox_run_child(kata_op *op, int begun, kata_op *take_child, kata_error **err)
{
	struct kata__sandbox_op *base = kata__sandbox_op(op);

	if (begun < 0)
		return begun;
	kata_op_unref(base->call);
	base->call = kata_op_ref(take_child);
	return kata__op_run_child(op, take_child, err);
}

int kata__sandbox_call(kata_op *op, const kata_agent_request *request, kata_error **err)
{
	kata_op_options options = kata__sandbox_child_options(op);
	kata_agent *agent;
	kata_op *child = NULL;
	int rc = kata__sandbox_agent(kata__sandbox_of(op), &agent, err);

	if (rc == 0)
		rc = kata_agent_call_begin(agent, request, &options, &child, err);
	return kata__sandbox_run_child(op, rc, child, err);
}

const kata_agent_reply *kata__sandbox_reply(const kata_op *op)
{
	struct kata__sandbox_op *base = kata__sandbox_op(op);

	return base->call ? kata_agent_op_get_reply(base->call) : NULL;
}

/* Resumes a waiting step when its child has ended, whatever the end was; `must_answer`: unless it was a silence. */
struct anyhow {
	kata_op *op; /* referenced */
	uint64_t token;
	bool must_answer;
};

static void anyhow_done(void *user, kata_op *child)
{
	struct anyhow *a = user;
	const kata_error *error = kata_op_get_error(child);
	bool silent = kata_error_get_status(error) == KATA_E_TIMEOUT;

	if (a->must_answer && silent)
		kata__op_resume(a->op, a->token, KATA_E_TIMEOUT, kata__error_dup(error));
	else
		kata__op_resume(a->op, a->token, 0, NULL);
	kata_op_unref(a->op);
	free(a);
}

static int run_anyhow(kata_op *op, kata_op *take_child, bool must_answer, kata_error **err)
{
	struct anyhow *a;

	if (kata_op_is_done(take_child)) {
		kata_op_unref(take_child);
		return KATA__STEP_DONE;
	}
	a = calloc(1, sizeof(*a));
	if (!a) {
		kata_op_unref(take_child);
		return kata__fail_no_memory(err);
	}
	a->op = kata_op_ref(op);
	a->token = kata__op_token(op);
	a->must_answer = must_answer;
	kata__op_on_done(take_child, anyhow_done, a);
	kata_op_unref(take_child);
	return KATA__STEP_WAIT;
}

int kata__sandbox_run_anyhow(kata_op *op, kata_op *take_child, kata_error **err)
{
	return run_anyhow(op, take_child, false, err);
}

int kata__sandbox_call_anyhow(kata_op *op, const kata_agent_request *request, kata_error **err)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	kata_agent *agent;
	kata_op *call = NULL;

	options.timeout_ms = ANYHOW_MS;
	if (kata__sandbox_agent(kata__sandbox_of(op), &agent, NULL) < 0 ||
	    kata_agent_call_begin(agent, request, &options, &call, NULL) < 0)
		return KATA__STEP_DONE; /* nobody to ask: the guest is gone, and with it what was to be undone */
	return run_anyhow(op, call, true, err);
}

int kata__sandbox_check_may_block(const kata_sandbox *sandbox, const char *function, kata_error **err)
{
	return sandbox ? kata__context_check_may_block(sandbox->ctx, function, err) : 0;
}
