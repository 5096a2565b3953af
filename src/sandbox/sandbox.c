/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_sandbox: the object, its states, its end.
 *
 *   NEW --start_begin--> STARTING --start's finish--> RUNNING <--pause/resume's commit--> PAUSED
 *    |                   |   | failed, VM as before       |  \__ kata__sandbox_ended --> ENDED
 *    |                   |   +--> NEW                     |release_begin --> RELEASING --finish--> RELEASED
 *    |                   | failed, VM gone                |                      | failed --> back
 *    +--destroy_begin,shutdown--> DESTROYING --finish--> DESTROYED    <-- any state but RELEASED
 *                                     | failed --> back, or ENDED
 *   OBTAINING --rebuild's or restore's finish--> RUNNING or PAUSED; failed --> RELEASED
 *   RUNNING, PAUSED --save_begin--> SAVING --save's finish--> back; its RAM became the snapshot's: PAUSED
 *
 * Invariants: 1. `state` changes under the mutex, along the table below. 2. the last reference is dropped when no op is
 * under way (each holds one), so the teardown finds only pumps, wait calls and the listener, which it ends on the
 * leader. Does not know any driver: the VM and the agent are used through their own interfaces.
 */
#include "sandbox/sandbox.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/fd.h"
#include "base/text.h"
#include "sandbox/container.h"
#include "sandbox/stored.h"

static const char *const state_names[] = {
	[KATA_SANDBOX_NEW] = "new",
	[KATA_SANDBOX_STARTING] = "starting",
	[KATA_SANDBOX_RUNNING] = "running",
	[KATA_SANDBOX_PAUSED] = "paused",
	[KATA_SANDBOX_ENDED] = "ended",
	[KATA_SANDBOX_RELEASING] = "releasing",
	[KATA_SANDBOX_RELEASED] = "released",
	[KATA_SANDBOX_OBTAINING] = "obtaining",
	[KATA_SANDBOX_DESTROYING] = "destroying",
	[KATA_SANDBOX_DESTROYED] = "destroyed",
	[KATA_SANDBOX_SAVING] = "saving",
};

#define TO(s) KATA__IN(KATA_SANDBOX_##s)
static const uint32_t transitions[] = {
	[KATA_SANDBOX_NEW] = TO(STARTING) | TO(DESTROYING),
	[KATA_SANDBOX_STARTING] = TO(RUNNING) | TO(NEW) | TO(ENDED) | TO(DESTROYING) | TO(DESTROYED),
	[KATA_SANDBOX_RUNNING] = TO(PAUSED) | TO(ENDED) | TO(RELEASING) | TO(SAVING) | TO(DESTROYING),
	[KATA_SANDBOX_PAUSED] = TO(RUNNING) | TO(ENDED) | TO(RELEASING) | TO(SAVING) | TO(DESTROYING),
	[KATA_SANDBOX_ENDED] = TO(DESTROYING),
	[KATA_SANDBOX_RELEASING] = TO(RELEASED) | TO(RUNNING) | TO(PAUSED) | TO(ENDED) | TO(DESTROYING),
	[KATA_SANDBOX_RELEASED] = 0,
	[KATA_SANDBOX_OBTAINING] = TO(RUNNING) | TO(PAUSED) | TO(RELEASED) | TO(ENDED) | TO(DESTROYING),
	[KATA_SANDBOX_DESTROYING] = TO(DESTROYED) | TO(ENDED) | TO(NEW) | TO(RUNNING) | TO(PAUSED),
	[KATA_SANDBOX_DESTROYED] = 0,
	[KATA_SANDBOX_SAVING] = TO(RUNNING) | TO(PAUSED) | TO(ENDED) | TO(DESTROYING),
};
#undef TO

const char *kata_sandbox_state_get_name(kata_sandbox_state state)
{
	return (unsigned)state < kata__array_size(state_names) ? state_names[state] : "unknown";
}

int kata__sandbox_check(const kata_sandbox *s, kata_error **err)
{
	if (s && s->magic == KATA__SANDBOX_MAGIC)
		return 0;
	return kata__fail(err, KATA_E_INVALID, CALLER, "sandbox: expected a kata_sandbox, found %s",
			  s ? "something else" : "NULL");
}

int kata__sandbox_check_ids(const kata_sandbox *s, const char *container_id, const char *exec_id, kata_error **err)
{
	int rc = kata__sandbox_check(s, err);

	if (rc == 0)
		rc = kata__id_check("container_id", container_id, err);
	if (rc == 0 && exec_id)
		rc = kata__id_check("exec_id", exec_id, err);
	return rc;
}

/* ---- states */

static int describe_states(uint32_t allowed, char *buf, size_t size)
{
	size_t used = 0;

	buf[0] = 0;
	for (unsigned i = 0; i < kata__array_size(state_names); i++) {
		int n;

		if (!(allowed & KATA__IN(i)))
			continue;
		n = snprintf(buf + used, size - used, "%s%s", used ? " or " : "", state_names[i]);
		if (n < 0 || (size_t)n >= size - used)
			break;
		used += (size_t)n;
	}
	return (int)used;
}

int kata__sandbox_check_state(const kata_sandbox *s, uint32_t allowed, const char *function, kata_error **err)
{
	char names[128];

	if (allowed & KATA__IN(s->state))
		return 0;
	describe_states(allowed, names, sizeof(names));
	return kata__fail(err, KATA_E_STATE, CALLER, "%s: sandbox '%s' is %s, required is %s", function, s->id,
			  kata_sandbox_state_get_name(s->state), names);
}

/* The mutex is held. */
static void signal_ended(kata_sandbox *s)
{
	uint64_t one = 1;

	if (s->ended_fd >= 0 && write(s->ended_fd, &one, sizeof(one)) < 0)
		assert(errno == EAGAIN); /* readable already */
}

static bool is_over(kata_sandbox_state state)
{
	return state == KATA_SANDBOX_ENDED || state == KATA_SANDBOX_DESTROYED;
}

void kata__sandbox_set_state(kata_sandbox *s, kata_sandbox_state state)
{
	pthread_mutex_lock(&s->mutex);
	assert(s->state == state || (transitions[s->state] & KATA__IN(state)));
	if (transitions[s->state] & KATA__IN(state)) {
		s->state = state;
		if (is_over(state))
			signal_ended(s);
	}
	pthread_mutex_unlock(&s->mutex);
}

bool kata__sandbox_move_state(kata_sandbox *s, kata_sandbox_state from, kata_sandbox_state to)
{
	if (kata_sandbox_get_state(s) != from)
		return false;
	kata__sandbox_set_state(s, to);
	return true;
}

void kata__sandbox_ended(kata_sandbox *s)
{
	kata_sandbox_state state = kata_sandbox_get_state(s);

	/* While it starts, is released, obtained or destroyed, that op finds out and decides. */
	if (state != KATA_SANDBOX_RUNNING && state != KATA_SANDBOX_PAUSED)
		return;
	kata__log(s->ctx, KATA_LOG_WARNING, "sandbox", "sandbox '%s': the VM ended or its agent was lost", s->id);
	kata__sandbox_set_state(s, KATA_SANDBOX_ENDED);
	kata__containers_stop(s);
}

static void vm_ended(void *user)
{
	kata__sandbox_ended(user);
}

static int check_unused(void *user, const char *storage_id, kata_error **err)
{
	return kata__container_check_unused(user, storage_id, err);
}

static void agent_lost(void *user)
{
	kata__sandbox_ended(user);
}

int kata__sandbox_listen(kata_sandbox *s, kata_error **err)
{
	int rc;

	if (s->listening)
		return 0;
	rc = kata__vm_add_listener(s->vm, vm_ended, check_unused, s, err);
	if (rc < 0)
		return rc;
	if (s->agent)
		kata__agent_set_lost_listener(s->agent, agent_lost, s);
	s->listening = true;
	return 0;
}

void kata__sandbox_unlisten(kata_sandbox *s)
{
	if (!s->listening)
		return;
	kata__vm_remove_listener(s->vm, vm_ended, s);
	if (s->agent)
		kata__agent_set_lost_listener(s->agent, NULL, NULL);
	s->listening = false;
}

/* ---- agent */

void kata__sandbox_set_agent(kata_sandbox *s, kata_agent *take_agent)
{
	kata_agent *old;

	pthread_mutex_lock(&s->mutex);
	old = s->agent;
	s->agent = take_agent;
	pthread_mutex_unlock(&s->mutex);
	if (old)
		kata__agent_set_lost_listener(old, NULL, NULL);
	if (take_agent && s->listening)
		kata__agent_set_lost_listener(take_agent, agent_lost, s);
	kata_agent_unref(old);
}

int kata__sandbox_agent(kata_sandbox *s, kata_agent **ret_agent, kata_error **err)
{
	if (!s->agent)
		return kata__fail(err, KATA_E_GONE, GUEST, "sandbox '%s' has no connection to its agent", s->id);
	*ret_agent = s->agent;
	return 0;
}

/* ---- object */

int kata__sandbox_new(kata_context *ctx, const char *id, const char *hostname, const char *const *dns, kata_vm *vm,
		      kata_sandbox_state state, kata_sandbox **ret, kata_error **err)
{
	kata_sandbox *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return kata__fail_no_memory(err);
	snprintf(s->id, sizeof(s->id), "%s", id);
	s->hostname = kata__format("%.64s", hostname ? hostname : id);
	s->dns = dns ? kata__strv_dup(dns) : NULL;
	rc = !s->hostname || (dns && !s->dns) ? kata__fail_no_memory(err)
					      : kata__context_enter(ctx, KATA__OBJECT_SANDBOX, err);
	if (rc == 0 && vm) {
		rc = kata__vm_take(vm, s->id, err);
		if (rc < 0)
			kata__context_leave(ctx, KATA__OBJECT_SANDBOX);
	}
	if (rc < 0) {
		free(s->hostname);
		kata__strv_free(s->dns);
		free(s);
		return rc;
	}

	s->magic = KATA__SANDBOX_MAGIC;
	s->ctx = ctx;
	s->state = state;
	s->ended_fd = -1;
	s->epoch = 1;
	s->vm = vm ? kata_vm_ref(vm) : NULL;
	atomic_init(&s->refs, 1);
	pthread_mutex_init(&s->mutex, NULL);
	*ret = s;
	return 0;
}

int kata__sandbox_check_names(const char *of, int status, const char *hostname, const char *const *dns,
			      kata_error **err)
{
	if (hostname && !hostname[0])
		return kata__fail(err, status, CALLER, "%s.hostname: it is empty, expected a name or NULL", of);
	for (size_t i = 0; dns && dns[i]; i++)
		if (!dns[i][0] || strpbrk(dns[i], "\r\n"))
			return kata__fail(err, status, CALLER,
					  "%s.dns[%zu]: expected one line of resolv.conf without a newline", of, i);
	return 0;
}

static int check_options(const kata_sandbox_options *options, kata_error **err)
{
	if (!options)
		return 0;
	if (options->size < sizeof(*options))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "options.size: %zu is too small, use KATA_SANDBOX_OPTIONS_INIT", options->size);
	if (options->id && kata__id_check("options.id", options->id, err) < 0)
		return KATA_E_INVALID;
	return kata__sandbox_check_names("options", KATA_E_INVALID, options->hostname, options->dns, err);
}

static int check_vm_state(kata_vm *vm, kata_error **err)
{
	kata_vm_state state = kata_vm_get_state(vm);

	if (state == KATA_VM_CREATED || state == KATA_VM_RUNNING || state == KATA_VM_PAUSED)
		return 0;
	return kata__fail(err, KATA_E_STATE, CALLER,
			  "kata_sandbox_new: VM '%s' is %s, required is created or running or paused",
			  kata_vm_get_id(vm), kata_vm_state_get_name(state));
}

/* One that the caller made by himself (kata_agent_new) may have no VM. */
static int check_agent_vm(const kata_agent *agent, const kata_vm *vm, kata_error **err)
{
	if (!agent || !agent->vm || agent->vm == vm)
		return 0;
	return kata__fail(err, KATA_E_INVALID, CALLER, "agent: is connected to VM '%s', must be to '%s'",
			  kata_vm_get_id(agent->vm), kata_vm_get_id(vm));
}

int kata_sandbox_new(kata_context *context, const kata_sandbox_options *options, kata_vm *vm, kata_agent *agent,
		     kata_sandbox **ret_sandbox, kata_error **err)
{
	kata_sandbox_options none = KATA_SANDBOX_OPTIONS_INIT;
	kata_sandbox *s;
	int rc;

	if (!context || !vm || !ret_sandbox)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: it is NULL",
				  !context ? "context"
				  : !vm    ? "vm"
					   : "ret_sandbox");
	rc = check_options(options, err);
	if (rc == 0)
		rc = check_vm_state(vm, err);
	if (rc == 0)
		rc = check_agent_vm(agent, vm, err);
	if (rc < 0)
		return rc;
	if (!options)
		options = &none;

	rc = kata__sandbox_new(context, options->id ? options->id : kata_vm_get_id(vm), options->hostname, options->dns,
			       vm, KATA_SANDBOX_NEW, &s, err);
	if (rc < 0)
		return rc;
	s->agent = agent ? kata_agent_ref(agent) : NULL;
	s->custom_agent = agent != NULL;
	*ret_sandbox = s;
	return 0;
}

int kata_sandbox_create(kata_context *context, const kata_sandbox_options *options, kata_vm_builder *vm_builder,
			const kata_vm_config *vm_config, kata_agent_builder *agent_builder,
			const kata_agent_config *agent_config, kata_sandbox **ret_sandbox, kata_error **err)
{
	kata_vm *vm = NULL;
	int rc;

	if (!context || !vm_builder || !ret_sandbox)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: it is NULL",
				  !context      ? "context"
				  : !vm_builder ? "vm_builder"
						: "ret_sandbox");
	rc = check_options(options, err);
	if (rc == 0)
		rc = kata_vm_builder_build(vm_builder, vm_config, agent_config, NULL, &vm, err);
	if (rc < 0)
		return rc;
	rc = kata_sandbox_new(context, options, vm, NULL, ret_sandbox, err);
	kata_vm_unref(vm);
	if (rc == 0) {
		(*ret_sandbox)->agent_builder = agent_builder;
		(*ret_sandbox)->custom_agent = agent_builder != NULL;
	}
	return rc;
}

kata_sandbox *kata_sandbox_ref(kata_sandbox *sandbox)
{
	if (sandbox)
		atomic_fetch_add_explicit(&sandbox->refs, 1, memory_order_relaxed);
	return sandbox;
}

/* Ends on the leader what lives there. */
struct teardown {
	struct kata__task task;
	kata_sandbox *sandbox;
	bool done;
};

static void tear_down(kata_sandbox *s)
{
	assert(!s->ops);
	kata__sandbox_unlisten(s);
	kata__containers_free(s);
}

static void tear_down_task(struct kata__task *task)
{
	struct teardown *t = kata__container_of(task, struct teardown, task);
	struct kata__loop *loop = kata__context_loop(t->sandbox->ctx);

	tear_down(t->sandbox);
	__atomic_store_n(&t->done, true, __ATOMIC_RELEASE);
	kata__loop_wake_waiters(loop);
}

static void tear_down_on_leader(kata_sandbox *s)
{
	struct kata__loop *loop = kata__context_loop(s->ctx);
	struct teardown t = {.task.fn = tear_down_task, .sandbox = s};

	if (kata__loop_is_leader(loop)) {
		tear_down(s);
		return;
	}
	kata__loop_post(loop, &t.task);
	while (!kata__loop_wait(loop, &t.done, KATA__NEVER))
		;
}

static void free_interfaces(struct kata__sandbox_interface *list)
{
	while (list) {
		struct kata__sandbox_interface *next = list->next;

		free(list->nic_id);
		free(list->json);
		free(list);
		list = next;
	}
}

void kata_sandbox_unref(kata_sandbox *sandbox)
{
	kata_context *ctx;

	if (!sandbox || atomic_fetch_sub_explicit(&sandbox->refs, 1, memory_order_acq_rel) != 1)
		return;
	ctx = sandbox->ctx;
	if (sandbox->listening || sandbox->containers)
		tear_down_on_leader(sandbox);
	kata_agent_unref(sandbox->agent);
	if (sandbox->vm)
		kata__vm_let_go(sandbox->vm, sandbox->id);
	kata_vm_unref(sandbox->vm);
	kata__close_fd(&sandbox->ended_fd);
	free_interfaces(sandbox->interfaces);
	kata__sandbox_free_undone(sandbox);
	json_decref(sandbox->routes);
	free(sandbox->agent_json);
	free(sandbox->hostname);
	kata__strv_free(sandbox->dns);
	pthread_mutex_destroy(&sandbox->mutex);
	sandbox->magic = 0;
	free(sandbox);
	kata__context_leave(ctx, KATA__OBJECT_SANDBOX);
}

/* ---- getters */

const char *kata_sandbox_get_id(const kata_sandbox *sandbox)
{
	return sandbox ? sandbox->id : NULL;
}

kata_sandbox_state kata_sandbox_get_state(const kata_sandbox *sandbox)
{
	kata_sandbox *s = (kata_sandbox *)(uintptr_t)sandbox; /* the mutex is not part of what the caller sees */
	kata_sandbox_state state;

	if (!s)
		return KATA_SANDBOX_DESTROYED;
	pthread_mutex_lock(&s->mutex);
	state = s->state;
	pthread_mutex_unlock(&s->mutex);
	return state;
}

kata_vm *kata_sandbox_get_vm(kata_sandbox *sandbox)
{
	return sandbox && sandbox->vm ? kata_vm_ref(sandbox->vm) : NULL;
}

kata_agent *kata_sandbox_get_agent(kata_sandbox *sandbox)
{
	kata_agent *agent;

	if (!sandbox)
		return NULL;
	pthread_mutex_lock(&sandbox->mutex);
	agent = sandbox->agent ? kata_agent_ref(sandbox->agent) : NULL;
	pthread_mutex_unlock(&sandbox->mutex);
	return agent;
}

int kata_sandbox_get_ended_fd(kata_sandbox *sandbox)
{
	int fd;

	if (!sandbox)
		return -1;
	pthread_mutex_lock(&sandbox->mutex);
	if (sandbox->ended_fd < 0) {
		sandbox->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (is_over(sandbox->state))
			signal_ended(sandbox);
	}
	fd = sandbox->ended_fd;
	pthread_mutex_unlock(&sandbox->mutex);
	return fd;
}
