/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sandbox as a whole: start, pause, resume, shutdown, destroy, release.
 *
 * A step that connects leaves the new agent in the op's data; the next step, or the finish, hands it to the sandbox.
 * Steps that end the machine cannot be taken back, so they ignore a cancel.
 */
#include "sandbox/life.h"

#include <string.h>

#include "base/text.h"
#include "sandbox/container.h"

#define IN(s) KATA__IN(KATA_SANDBOX_##s)
#define ORDERLY_MS 5000u         /* for the guest to power off, before scaling */
#define SHUTDOWN_EXTRA_MS 15000u /* then for the destroy */

void kata__life_op_free(void *data)
{
	struct kata__life_op *l = data;

	kata_agent_unref(l->agent);
	kata_vm_unref(l->new_vm);
	kata_agent_builder_free(l->own_builder);
	free(l->agent_json);
	kata__record_free(l->record);
	kata__sandbox_op_deinit(&l->base);
	free(l);
}

static struct kata__life_op *life(const kata_op *op)
{
	return kata__op_data(op);
}

/* ---- the agent */

int kata__life_connect(kata_op *op, const char *agent_json, kata_error **err)
{
	kata_op_options options = kata__sandbox_child_options(op);
	struct kata__life_op *l = life(op);
	kata_sandbox *s = l->base.sandbox;
	kata_op *child = NULL;
	int rc = 0;

	if (!l->agent_builder) {
		rc = kata_agent_builder_new_direct(s->ctx, &l->own_builder, err);
		l->agent_builder = l->own_builder;
	}
	if (rc == 0)
		rc = kata_agent_builder_build_begin(l->agent_builder, s->vm, agent_json, &options, &l->agent, &child,
						    err);
	return kata__sandbox_run_child(op, rc, child, err);
}

void kata__life_adopt_agent(kata_op *op)
{
	struct kata__life_op *l = life(op);

	if (l->agent)
		kata__sandbox_set_agent(l->base.sandbox, kata__take_ptr(l->agent));
}

static int step_connect_agent(kata_op *op, kata_error **err)
{
	kata_sandbox *s = kata__sandbox_of(op);

	if (s->agent)
		return KATA__STEP_DONE;
	life(op)->connected = true;
	return kata__life_connect(op, s->agent_json, err);
}

static int step_disconnect_agent(kata_op *op, kata_error **err)
{
	struct kata__life_op *l = life(op);

	if (!l->connected)
		return KATA__STEP_DONE;
	kata_agent_unref(kata__take_ptr(l->agent));
	kata__sandbox_set_agent(l->base.sandbox, NULL);
	return KATA__STEP_DONE;
}

/* ---- start */

static int step_start_vm(kata_op *op, kata_error **err)
{
	kata_op_options options = kata__sandbox_child_options(op);
	struct kata__life_op *l = life(op);
	kata_sandbox *s = l->base.sandbox;
	kata_op *child = NULL;
	int rc = kata__sandbox_listen(s, err);

	if (rc < 0)
		return rc;
	switch (kata_vm_get_state(s->vm)) {
	case KATA_VM_RUNNING:
		return KATA__STEP_DONE;
	case KATA_VM_PAUSED:
		l->resumed_vm = true;
		rc = kata_vm_resume_begin(s->vm, &options, &child, err);
		break;
	default:
		rc = kata_vm_start_begin(s->vm, &options, &child, err);
		l->started_vm = rc == 0;
		break;
	}
	return kata__sandbox_run_child(op, rc, child, err);
}

static int step_unstart_vm(kata_op *op, kata_error **err)
{
	struct kata__life_op *l = life(op);
	kata_vm *vm = l->base.sandbox->vm;
	kata_op *child = NULL;
	int rc;

	if (l->started_vm)
		rc = kata_vm_destroy_begin(vm, NULL, &child, err);
	else if (l->resumed_vm && kata_vm_get_state(vm) == KATA_VM_RUNNING)
		rc = kata_vm_pause_begin(vm, NULL, &child, err);
	else
		return KATA__STEP_DONE;
	return kata__sandbox_run_child(op, rc, child, err);
}

static int step_create_sandbox(kata_op *op, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_CREATE_SANDBOX};
	kata_sandbox *s = kata__sandbox_of(op);

	kata__life_adopt_agent(op);
	request.sandbox_id = s->id;
	request.hostname = s->hostname;
	request.dns = (const char *const *)s->dns;
	return kata__sandbox_call(op, &request, err);
}

static void finish_start(kata_op *op, int status, kata_error **error)
{
	kata_sandbox *s = kata__sandbox_of(op);
	kata_vm_state vm_state = kata_vm_get_state(s->vm);

	if (status == 0) {
		kata__sandbox_move_state(s, KATA_SANDBOX_STARTING, KATA_SANDBOX_RUNNING);
		s->agent_builder = NULL;
		if (vm_state == KATA_VM_ENDED) /* while the last step ended */
			kata__sandbox_ended(s);
	} else {
		kata__sandbox_unlisten(s);
		kata__sandbox_move_state(s, KATA_SANDBOX_STARTING,
					 vm_state == KATA_VM_CREATED || vm_state == KATA_VM_RUNNING ||
							 vm_state == KATA_VM_PAUSED
						 ? KATA_SANDBOX_NEW
					 : vm_state == KATA_VM_DESTROYED ? KATA_SANDBOX_DESTROYED
									 : KATA_SANDBOX_ENDED);
	}
	kata__sandbox_op_end(op, status);
}

static const struct kata__step start_steps[] = {
	{.name = "start-vm", .run = step_start_vm, .undo = step_unstart_vm},
	{.name = "connect-agent", .run = step_connect_agent, .undo = step_disconnect_agent},
	{.name = "create-sandbox", .run = step_create_sandbox},
};
static const struct kata__op_table start_table = {
	.name = "start-sandbox",
	KATA__STEPS(start_steps),
	.timeout_ms = 20000,
	.undo_timeout_ms = 15000,
	.finish = finish_start,
	.free_data = kata__life_op_free,
};

/* ---- pause, resume */

static int step_pause_vm(kata_op *op, kata_error **err)
{
	kata_op_options options = kata__sandbox_child_options(op);
	kata_op *child = NULL;
	int rc = kata_vm_pause_begin(kata__sandbox_of(op)->vm, &options, &child, err);

	return kata__sandbox_run_child(op, rc, child, err);
}

static int step_resume_vm(kata_op *op, kata_error **err)
{
	kata_op_options options = kata__sandbox_child_options(op);
	kata_op *child = NULL;
	int rc = kata_vm_resume_begin(kata__sandbox_of(op)->vm, &options, &child, err);

	life(op)->resumed_vm = kata_vm_get_state(kata__sandbox_of(op)->vm) == KATA_VM_PAUSED;
	return kata__sandbox_run_child(op, rc, child, err);
}

static void finish_pause(kata_op *op, int status, kata_error **error)
{
	if (status == 0)
		kata__sandbox_move_state(kata__sandbox_of(op), KATA_SANDBOX_RUNNING, KATA_SANDBOX_PAUSED);
	kata__sandbox_op_end(op, status);
}

static void finish_resume(kata_op *op, int status, kata_error **error)
{
	kata_sandbox *s = kata__sandbox_of(op);

	if (status == 0) {
		kata__life_adopt_agent(op);
		s->agent_builder = NULL;
		kata__sandbox_move_state(s, KATA_SANDBOX_PAUSED, KATA_SANDBOX_RUNNING);
	}
	kata__sandbox_op_end(op, status);
}

static const struct kata__step pause_steps[] = {
	{.name = "pause-vm", .run = step_pause_vm},
};
static const struct kata__op_table pause_table = {
	.name = "pause-sandbox",
	KATA__STEPS(pause_steps),
	.timeout_ms = 10000,
	.finish = finish_pause,
	.free_data = kata__life_op_free,
};

/* A sandbox that was taken over while paused has no connection yet: its agent could not answer. */
static const struct kata__step resume_steps[] = {
	{.name = "resume-vm", .run = step_resume_vm, .undo = step_unstart_vm},
	{.name = "connect-agent", .run = step_connect_agent, .undo = step_disconnect_agent},
};
static const struct kata__op_table resume_table = {
	.name = "resume-sandbox",
	KATA__STEPS(resume_steps),
	.timeout_ms = 10000,
	.finish = finish_resume,
	.free_data = kata__life_op_free,
};

/* ---- release */

int kata__life_step_suspend_calls(kata_op *op, kata_error **err)
{
	kata_sandbox *s = kata__sandbox_of(op);

	kata__containers_suspend(s);
	return KATA__STEP_DONE;
}

int kata__life_step_unsuspend_calls(kata_op *op, kata_error **err)
{
	/* Not before the agent is back: finish does it. */
	life(op)->resume_calls = true;
	return KATA__STEP_DONE;
}

int kata__life_step_release_agent(kata_op *op, kata_error **err)
{
	struct kata__life_op *l = life(op);
	kata_sandbox *s = l->base.sandbox;
	int rc;

	if (!s->agent)
		return KATA__STEP_DONE;
	rc = kata_agent_release(s->agent, &l->agent_json, err);
	if (rc < 0)
		return rc;
	l->connected = true;
	return KATA__STEP_DONE;
}

/* The release failed behind it: the agent is ours again. */
int kata__life_step_reconnect_agent(kata_op *op, kata_error **err)
{
	struct kata__life_op *l = life(op);
	kata_sandbox *s = l->base.sandbox;

	if (!l->connected)
		return KATA__STEP_DONE;
	if (s->custom_agent)
		return kata__fail(err, KATA_E_UNSUPPORTED, HOST,
				  "the agent of sandbox '%s' was made by the caller and cannot be connected again",
				  s->id);
	return kata__life_connect(op, l->agent_json, err);
}

static int step_release_vm(kata_op *op, kata_error **err)
{
	kata_op_options options = kata__sandbox_child_options(op);
	kata_op *child = NULL;
	int rc = kata_vm_release_begin(kata__sandbox_of(op)->vm, &options, &child, err);

	return kata__sandbox_run_child(op, rc, child, err);
}

static void released(kata_sandbox *s, struct kata__life_op *l)
{
	kata__sandbox_unlisten(s);
	pthread_mutex_lock(&s->mutex);
	free(s->agent_json);
	s->agent_json = kata__take_ptr(l->agent_json);
	pthread_mutex_unlock(&s->mutex);
	kata__sandbox_set_agent(s, NULL);
	s->suspended = false;
	kata__containers_stop(s);
	kata__sandbox_move_state(s, KATA_SANDBOX_RELEASING, KATA_SANDBOX_RELEASED);
}

static void finish_release(kata_op *op, int status, kata_error **error)
{
	struct kata__life_op *l = life(op);
	kata_sandbox *s = l->base.sandbox;

	if (status == 0) {
		released(s, l);
	} else {
		kata__life_adopt_agent(op);
		kata__sandbox_move_state(s, KATA_SANDBOX_RELEASING, l->base.before);
		if (kata_vm_get_state(s->vm) == KATA_VM_ENDED)
			kata__sandbox_ended(s);
		else if (l->resume_calls)
			kata__containers_resume(s, l->connected);
	}
	kata__sandbox_op_end(op, status);
}

static const struct kata__step release_steps[] = {
	{.name = "suspend-calls", .run = kata__life_step_suspend_calls, .undo = kata__life_step_unsuspend_calls},
	{.name = "release-agent", .run = kata__life_step_release_agent, .undo = kata__life_step_reconnect_agent},
	{.name = "release-vm", .run = step_release_vm},
};
static const struct kata__op_table release_table = {
	.name = "release-sandbox",
	KATA__STEPS(release_steps),
	.timeout_ms = 15000,
	.finish = finish_release,
	.free_data = kata__life_op_free,
};

/* ---- shutdown, destroy */

static void power_off_over(struct kata__life_op *l)
{
	kata__timer_remove(kata__take_ptr(l->timer));
	kata__call_drop(kata__take_ptr(l->call));
	kata__vm_remove_listener(l->base.sandbox->vm, kata__life_vm_ended, l);
}

/* However it ended, what comes next is the destroy. */
static void power_off_resume(struct kata__life_op *l)
{
	power_off_over(l);
	kata__op_resume(l->base.op, l->token, 0, NULL);
}

void kata__life_vm_ended(void *user)
{
	power_off_resume(user);
}

static void power_off_late(void *user)
{
	struct kata__life_op *l = user;

	l->timer = NULL;
	power_off_resume(l);
}

static void power_off_answered(void *user, const kata_agent_reply *reply, const kata_error *error)
{
	struct kata__life_op *l = user;

	/* A good answer, and a connection that closes, mean that the guest is going down: its end is awaited. */
	l->call = NULL;
	if (error && kata_error_get_status(error) != KATA_E_GONE)
		power_off_resume(l);
}

static int step_wake_vm(kata_op *op, kata_error **err)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	kata_sandbox *s = kata__sandbox_of(op);
	kata_op *child = NULL;

	kata__sandbox_cancel_ops(s, op, false);
	options.timeout_ms = (uint64_t)kata__deadline_left_ms(life(op)->orderly_deadline) + 1;
	if (kata_vm_get_state(s->vm) != KATA_VM_PAUSED || kata_vm_resume_begin(s->vm, &options, &child, NULL) < 0)
		return KATA__STEP_DONE;
	return kata__sandbox_run_anyhow(op, child, err);
}

static int step_power_off(kata_op *op, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_DESTROY_SANDBOX};
	struct kata__life_op *l = life(op);
	kata_sandbox *s = l->base.sandbox;
	struct kata__loop *loop = kata__context_loop(s->ctx);
	int rc;

	if (!s->agent || kata_vm_get_state(s->vm) != KATA_VM_RUNNING)
		return KATA__STEP_DONE;
	l->token = kata__op_token(op);
	rc = kata__vm_add_listener(s->vm, kata__life_vm_ended, NULL, l, err);
	if (rc == 0)
		rc = kata__timer_add(loop, l->orderly_deadline, power_off_late, l, &l->timer, err);
	if (rc == 0)
		rc = kata__call_begin(s->agent, &request, power_off_answered, l, &l->call, NULL);
	if (rc < 0) {
		power_off_over(l);
		return KATA__STEP_DONE; /* not orderly, then */
	}
	return KATA__STEP_WAIT;
}

static void cancel_power_off(kata_op *op)
{
	power_off_over(life(op));
}

static int step_cancel_ops(kata_op *op, kata_error **err)
{
	kata__sandbox_cancel_ops(kata__sandbox_of(op), op, false);
	return KATA__STEP_DONE;
}

static int step_destroy_vm(kata_op *op, kata_error **err)
{
	kata_op_options options = kata__sandbox_child_options(op);
	kata_sandbox *s = kata__sandbox_of(op);
	kata_op *child = NULL;
	kata_vm_state state = s->vm ? kata_vm_get_state(s->vm) : KATA_VM_DESTROYED;
	int rc;

	if (state == KATA_VM_DESTROYED || state == KATA_VM_RELEASED)
		return KATA__STEP_DONE;
	rc = kata_vm_destroy_begin(s->vm, &options, &child, err);
	return kata__sandbox_run_child(op, rc, child, err);
}

static bool vm_lives(kata_sandbox *s)
{
	kata_vm_state state = s->vm ? kata_vm_get_state(s->vm) : KATA_VM_DESTROYED;

	return state == KATA_VM_CREATED || state == KATA_VM_RUNNING || state == KATA_VM_PAUSED;
}

/* What a destroy that failed goes back to: where it came from, if that is still true. */
static kata_sandbox_state state_after_failure(kata_sandbox *s, kata_sandbox_state before)
{
	bool settled = before == KATA_SANDBOX_NEW || before == KATA_SANDBOX_RUNNING || before == KATA_SANDBOX_PAUSED;

	return settled && vm_lives(s) ? before : KATA_SANDBOX_ENDED;
}

static void finish_destroy(kata_op *op, int status, kata_error **error)
{
	struct kata__life_op *l = life(op);
	kata_sandbox *s = l->base.sandbox;

	if (status == 0) {
		kata__sandbox_unlisten(s);
		kata__containers_stop(s);
		kata__sandbox_move_state(s, KATA_SANDBOX_DESTROYING, KATA_SANDBOX_DESTROYED);
		kata__sandbox_set_agent(s, NULL);
	} else if (l->base.before != KATA_SANDBOX_DESTROYING) { /* else the other destroy decides */
		kata__sandbox_move_state(s, KATA_SANDBOX_DESTROYING, state_after_failure(s, l->base.before));
	}
	kata__sandbox_op_end(op, status);
}

static const struct kata__step shutdown_steps[] = {
	{.name = "wake-vm", .run = step_wake_vm, .flags = KATA__STEP_NO_CANCEL},
	{.name = "power-off", .run = step_power_off, .cancel = cancel_power_off, .flags = KATA__STEP_NO_CANCEL},
	{.name = "destroy-vm", .run = step_destroy_vm, .flags = KATA__STEP_NO_CANCEL},
};
static const struct kata__op_table shutdown_table = {
	.name = "shutdown-sandbox",
	KATA__STEPS(shutdown_steps),
	.timeout_ms = ORDERLY_MS + SHUTDOWN_EXTRA_MS,
	.finish = finish_destroy,
	.free_data = kata__life_op_free,
};

static const struct kata__step destroy_steps[] = {
	{.name = "cancel-ops", .run = step_cancel_ops, .flags = KATA__STEP_NO_CANCEL},
	{.name = "destroy-vm", .run = step_destroy_vm, .flags = KATA__STEP_NO_CANCEL},
};
static const struct kata__op_table destroy_table = {
	.name = "destroy-sandbox",
	KATA__STEPS(destroy_steps),
	.timeout_ms = 20000,
	.finish = finish_destroy,
	.free_data = kata__life_op_free,
};

/* ---- public */

static int begin(kata_sandbox *s, const struct kata__sandbox_entry *entry, const struct kata__op_table *table,
		 const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	struct kata__life_op *l;
	int rc = kata__sandbox_check(s, err);

	if (rc < 0)
		return rc;
	l = calloc(1, sizeof(*l));
	if (!l)
		return kata__fail_no_memory(err);
	l->agent_builder = s->agent_builder;
	return kata__sandbox_begin(s, entry, table, l, options, ret_op, err);
}

int kata_sandbox_start_begin(kata_sandbox *sandbox, const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_start", IN(NEW), KATA_SANDBOX_STARTING, 0};

	return begin(sandbox, &entry, &start_table, options, ret_op, err);
}

int kata_sandbox_start(kata_sandbox *sandbox, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_start", err);

	if (rc == 0)
		rc = kata_sandbox_start_begin(sandbox, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_sandbox_pause(kata_sandbox *sandbox, const kata_op_options *options, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_pause", IN(RUNNING) | IN(PAUSED), -1, 0};
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_pause", err);

	if (rc == 0)
		rc = begin(sandbox, &entry, &pause_table, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_sandbox_resume(kata_sandbox *sandbox, const kata_op_options *options, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_resume", IN(RUNNING) | IN(PAUSED), -1, 0};
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_resume", err);

	if (rc == 0)
		rc = begin(sandbox, &entry, &resume_table, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_sandbox_release_begin(kata_sandbox *sandbox, const kata_op_options *options, kata_op **ret_op,
			       kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_release", IN(RUNNING) | IN(PAUSED),
							 KATA_SANDBOX_RELEASING, 0};

	return begin(sandbox, &entry, &release_table, options, ret_op, err);
}

int kata_sandbox_release(kata_sandbox *sandbox, const kata_op_options *options, char **ret_json, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_release", err);

	if (rc == 0)
		rc = kata_sandbox_release_begin(sandbox, options, &op, err);
	rc = kata__op_finish_sync(rc, &op, err);

	return rc == 0 && ret_json ? kata_sandbox_dump(sandbox, ret_json, err) : rc;
}

#define NOT_RELEASED (~(uint32_t)IN(RELEASED))

int kata_sandbox_shutdown(kata_sandbox *sandbox, const kata_op_options *options, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_shutdown", NOT_RELEASED, KATA_SANDBOX_DESTROYING,
							 0};
	kata_op_options longer = KATA_OP_OPTIONS_INIT;
	struct kata__life_op *l;
	uint64_t scale, orderly_ms;
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_shutdown", err);

	if (rc == 0)
		rc = kata__sandbox_check(sandbox, err);

	if (rc < 0)
		return rc;
	l = calloc(1, sizeof(*l));
	if (!l)
		return kata__fail_no_memory(err);
	scale = sandbox->vm ? sandbox->vm->time_scale : 1;
	orderly_ms = options && options->timeout_ms ? options->timeout_ms : ORDERLY_MS * scale;
	l->orderly_deadline = kata__deadline_in_ms(orderly_ms);
	longer.timeout_ms = orderly_ms + SHUTDOWN_EXTRA_MS * scale;
	return kata__op_finish_sync(kata__sandbox_begin(sandbox, &entry, &shutdown_table, l, &longer, &op, err), &op,
				    err);
}

int kata_sandbox_destroy_begin(kata_sandbox *sandbox, const kata_op_options *options, kata_op **ret_op,
			       kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_destroy", NOT_RELEASED, KATA_SANDBOX_DESTROYING,
							 0};

	return begin(sandbox, &entry, &destroy_table, options, ret_op, err);
}

int kata_sandbox_destroy(kata_sandbox *sandbox, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_destroy", err);

	if (rc == 0)
		rc = kata_sandbox_destroy_begin(sandbox, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}
