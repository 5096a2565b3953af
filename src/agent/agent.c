/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent.c - kata_agent: a connection to the agent in a guest, whatever speaks behind it.
 *
 *   CONNECTING --kata__agent_connected--> CONNECTED --kata_agent_release--> RELEASED
 *       \__kata__agent_lost______________________/__kata__agent_lost______> LOST
 *
 * Model: an implementation (kata_agent_ops: our Kata protocol, or the caller's own) is called on the leader alone. It
 * exists while the agent is CONNECTED; release, loss and the last unref free it, on the leader too: a thread that is
 * not the leader waits for that, so that the connection is closed when its call returns.
 *
 * Invariants: 1. ops is set exactly while CONNECTED. 2. the listener for the VM's end is there exactly from
 * kata__agent_listen to the close. 3. calls hold a reference, so the last unref finds none in flight.
 */
#include "agent/agent.h"

#include <assert.h>
#include <string.h>

#include "base/options.h"

#define AGENT_MAGIC 0x6b616731u

static const char *const state_names[] = {"connecting", "connected", "released", "lost"};

/* Bits of the states that may follow. */
static const uint8_t transitions[] = {
	[KATA_AGENT_CONNECTING] = 1u << KATA_AGENT_CONNECTED | 1u << KATA_AGENT_LOST,
	[KATA_AGENT_CONNECTED] = 1u << KATA_AGENT_RELEASED | 1u << KATA_AGENT_LOST,
	[KATA_AGENT_RELEASED] = 0,
	[KATA_AGENT_LOST] = 0,
};

const char *kata_agent_state_get_name(kata_agent_state state)
{
	return (size_t)state < kata__array_size(state_names) ? state_names[state] : "unknown";
}

/* ---- running on the leader ---- */

struct errand {
	struct kata__task task;
	struct kata__loop *loop;
	void (*fn)(void *user);
	void *user;
	bool done;
};

static void run_errand(struct kata__task *task)
{
	struct errand *e = kata__container_of(task, struct errand, task);
	struct kata__loop *loop = e->loop;

	e->fn(e->user);
	__atomic_store_n(&e->done, true, __ATOMIC_RELEASE);
	kata__loop_wake_waiters(loop);
}

void kata__agent_on_leader(kata_context *ctx, void (*fn)(void *user), void *user)
{
	struct kata__loop *loop = kata__context_loop(ctx);
	struct errand e = {.task = {.fn = run_errand}, .loop = loop, .fn = fn, .user = user};

	if (kata__loop_is_leader(loop)) {
		fn(user);
		return;
	}
	if (kata__loop_try_lead(loop)) {
		fn(user);
		kata__loop_unlead(loop);
		return;
	}
	kata__loop_post(loop, &e.task);
	kata__loop_wait(loop, &e.done, KATA__NEVER);
}

/* ---- state ---- */

/* Constness of a getter is about what the caller sees; the mutex is not part of that. */
static kata_agent *locked(const kata_agent *agent)
{
	kata_agent *a = (kata_agent *)(uintptr_t)agent;

	assert(a->magic == AGENT_MAGIC);
	pthread_mutex_lock(&a->mutex);
	return a;
}

/* False, and nothing changed, where the table has no such edge. */
static bool move_locked(kata_agent *agent, kata_agent_state state)
{
	if (!(transitions[atomic_load(&agent->state)] & 1u << state))
		return false;
	atomic_store(&agent->state, state);
	return true;
}

kata_agent_state kata_agent_get_state(const kata_agent *agent)
{
	assert(agent->magic == AGENT_MAGIC);
	return atomic_load(&agent->state);
}

const char *kata_agent_get_version(const kata_agent *agent)
{
	kata_agent *a = locked(agent);
	const char *version = a->version;

	pthread_mutex_unlock(&a->mutex);
	return version ? version : "";
}

bool kata_agent_has_guest_service(const kata_agent *agent)
{
	kata_agent *a = locked(agent);
	bool has = a->has_guest_service;

	pthread_mutex_unlock(&a->mutex);
	return has;
}

int kata__agent_check_connected(kata_agent *agent, kata_error **err)
{
	kata_agent_state state = kata_agent_get_state(agent);
	kata_error *lost;

	if (state == KATA_AGENT_CONNECTED)
		return 0;
	locked(agent);
	lost = kata__error_dup(agent->lost);
	pthread_mutex_unlock(&agent->mutex);
	if (lost)
		return kata__error_move(err, &lost);
	return kata__fail(err, KATA_E_STATE, CALLER, "agent: is %s, must be connected",
			  kata_agent_state_get_name(state));
}

/* ---- life ---- */

int kata__agent_new(kata_context *ctx, kata_vm *vm, kata_agent **ret, kata_error **err)
{
	kata_agent *agent;
	int rc = kata__context_enter(ctx, KATA__OBJECT_AGENT, err);

	if (rc)
		return rc;
	agent = calloc(1, sizeof(*agent));
	if (!agent) {
		kata__context_leave(ctx, KATA__OBJECT_AGENT);
		return kata__fail_no_memory(err);
	}
	agent->magic = AGENT_MAGIC;
	atomic_init(&agent->refs, 1);
	agent->ctx = ctx;
	agent->vm = vm ? kata_vm_ref(vm) : NULL;
	atomic_init(&agent->state, KATA_AGENT_CONNECTING);
	pthread_mutex_init(&agent->mutex, NULL);
	*ret = agent;
	return 0;
}

static void on_vm_ended(void *user)
{
	kata_agent *agent = user;
	kata_error *reason = NULL;

	kata__fail(&reason, KATA_E_GONE, VMM, "agent: VM '%s' has ended", kata_vm_get_id(agent->vm));
	if (agent->connect)
		kata__connect_fail(agent->connect, reason);
	else
		kata__agent_lost(agent, reason);
	kata_error_free(reason);
}

int kata__agent_listen(kata_agent *agent, kata_error **err)
{
	return agent->vm ? kata__vm_add_listener(agent->vm, on_vm_ended, NULL, agent, err) : 0;
}

static void close_agent(kata_agent *agent)
{
	const kata_agent_ops *ops = agent->ops;
	void *self = agent->self;

	if (agent->vm)
		kata__vm_remove_listener(agent->vm, on_vm_ended, agent);
	agent->ops = NULL;
	agent->self = NULL;
	if (ops)
		ops->free(self);
}

static void free_agent(void *user)
{
	kata_agent *agent = user;
	kata_context *ctx = agent->ctx;

	assert(!agent->calls && !agent->connect);
	close_agent(agent);
	kata_error_free(agent->lost);
	free(agent->version);
	pthread_mutex_destroy(&agent->mutex);
	agent->magic = 0;
	free(agent);
	kata__context_leave(ctx, KATA__OBJECT_AGENT);
}

kata_agent *kata_agent_ref(kata_agent *agent)
{
	if (agent)
		atomic_fetch_add_explicit(&agent->refs, 1, memory_order_relaxed);
	return agent;
}

/* The VM's reference is dropped by the caller's thread: where it is the last, that thread waits for the machine's end.
 */
void kata_agent_unref(kata_agent *agent)
{
	kata_vm *vm;

	if (!agent || atomic_fetch_sub_explicit(&agent->refs, 1, memory_order_acq_rel) != 1)
		return;
	assert(agent->magic == AGENT_MAGIC);
	vm = agent->vm;
	kata__agent_on_leader(agent->ctx, free_agent, agent);
	kata_vm_unref(vm);
}

/* ---- edges ---- */

void kata__agent_connected(kata_agent *agent, const kata_agent_ops *ops, void *take_self, char *take_version,
			   bool has_guest_service)
{
	agent->ops = ops;
	agent->self = take_self;
	pthread_mutex_lock(&agent->mutex);
	agent->version = take_version;
	agent->has_guest_service = has_guest_service;
	move_locked(agent, KATA_AGENT_CONNECTED);
	pthread_mutex_unlock(&agent->mutex);
}

/* False where the last reference is gone already: then the end of the agent is an errand that waits for the leader,
 * which is us. */
static bool ref_unless_last_is_gone(kata_agent *agent)
{
	unsigned refs = atomic_load(&agent->refs);

	while (refs)
		if (atomic_compare_exchange_weak(&agent->refs, &refs, refs + 1))
			return true;
	return false;
}

void kata__agent_lost(kata_agent *agent, const kata_error *reason)
{
	bool held = ref_unless_last_is_gone(agent);
	kata_error *lost = kata__error_dup(reason);
	bool first;

	pthread_mutex_lock(&agent->mutex);
	first = move_locked(agent, KATA_AGENT_LOST);
	if (first)
		agent->lost = lost;
	pthread_mutex_unlock(&agent->mutex);
	if (first) {
		kata__log(agent->ctx, KATA_LOG_INFO, "agent", "%s", kata_error_get_message(reason));
		kata__agent_end_calls(agent, reason);
		close_agent(agent);
		if (agent->lost_fn)
			agent->lost_fn(agent->lost_user);
	} else {
		kata_error_free(lost);
	}
	if (held)
		kata_agent_unref(agent);
}

void kata__agent_set_lost_listener(kata_agent *agent, void (*fn)(void *user), void *user)
{
	agent->lost_fn = fn;
	agent->lost_user = user;
}

/* ---- release ---- */

struct release {
	kata_agent *agent;
	char *json;
	kata_error *error;
};

static int release_now(kata_agent *agent, char **ret_json, kata_error **err)
{
	kata_error *cancelled = NULL;
	int rc = kata__agent_check_connected(agent, err);

	if (rc)
		return rc;
	if (!agent->ops->release)
		return kata__fail(err, KATA_E_UNSUPPORTED, CALLER, "agent: an agent of kind '%s' cannot be released",
				  agent->ops->name);
	rc = agent->ops->release(agent->self, ret_json, err);
	if (rc)
		return rc;
	pthread_mutex_lock(&agent->mutex);
	move_locked(agent, KATA_AGENT_RELEASED);
	pthread_mutex_unlock(&agent->mutex);
	if (agent->calls)
		kata__fail(&cancelled, KATA_E_CANCELLED, CALLER, "agent: the connection was released");
	kata__agent_end_calls(agent, cancelled);
	kata_error_free(cancelled);
	close_agent(agent);
	return 0;
}

static void do_release(void *user)
{
	struct release *r = user;

	release_now(r->agent, &r->json, &r->error);
}

int kata_agent_release(kata_agent *agent, char **ret_json, kata_error **err)
{
	struct release r = {.agent = agent};

	if (!agent || !ret_json)
		return kata__fail(err, KATA_E_INVALID, CALLER, "kata_agent_release: %s is NULL",
				  agent ? "ret_json" : "agent");
	kata__agent_on_leader(agent->ctx, do_release, &r);
	if (r.error)
		return kata__error_move(err, &r.error);
	*ret_json = r.json;
	return 0;
}

/* ---- an implementation of the caller's ---- */

struct adopt {
	kata_agent *agent;
	const kata_agent_ops *ops;
	void *self;
	kata_error *error;
};

static void do_adopt(void *user)
{
	struct adopt *a = user;

	if (kata__agent_listen(a->agent, &a->error) == 0)
		kata__agent_connected(a->agent, a->ops, a->self, NULL, false);
}

static int check_ops(const kata_agent_ops *ops, kata_error **err)
{
	if (!ops || ops->size < sizeof(*ops))
		return kata__fail(err, KATA_E_INVALID, CALLER, "ops.size: is %zu, must be at least %zu",
				  ops ? ops->size : 0, sizeof(*ops));
	if (!ops->name || !ops->call || !ops->cancel || !ops->free)
		return kata__fail(err, KATA_E_INVALID, CALLER, "ops.%s: is NULL, an agent must have it",
				  !ops->name     ? "name"
				  : !ops->call   ? "call"
				  : !ops->cancel ? "cancel"
						 : "free");
	return 0;
}

int kata_agent_new(kata_context *context, kata_vm *vm, const kata_agent_ops *ops, void *self, kata_agent **ret_agent,
		   kata_error **err)
{
	struct adopt a = {.ops = ops, .self = self};
	int rc;

	if (!context || !ret_agent)
		return kata__fail(err, KATA_E_INVALID, CALLER, "kata_agent_new: %s is NULL",
				  context ? "ret_agent" : "context");
	rc = check_ops(ops, err);
	if (rc)
		return rc;
	rc = kata__agent_new(context, vm, &a.agent, err);
	if (rc)
		return rc;
	kata__agent_on_leader(context, do_adopt, &a);
	if (a.error) {
		kata_agent_unref(a.agent);
		return kata__error_move(err, &a.error);
	}
	*ret_agent = a.agent;
	return 0;
}
