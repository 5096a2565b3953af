/* SPDX-License-Identifier: Apache-2.0 */
/*
 * connect.c - from a started VM to an agent that answers.
 *
 *   open-channel --> handshake --> (finish: the agent is CONNECTED)
 *                      |   ^
 *                      v   | after a pause
 *                    reopen
 *
 * Handshake: Check, Version and GetGuestDetails are sent at once. On a virtio-serial port they wait, unread, in the
 * socket until the guest has booted and opens the port, so the first answer comes as early as it can and nothing is
 * polled.
 *
 * What is known of the machine's agent from an earlier connection is not asked again: then Check is all.
 *
 * A call of a factory's may go along with Check (builder.h); its answer says that kata.Guest is there, so that the
 * other two questions are not asked.
 *
 * A try fails when the connection breaks, brings what is no ttrpc, or is silent for longer than a bound that doubles.
 * The stream of a virtio-serial port is one for all sessions: the tail of an answer to an earlier one may be in it, and
 * our first request may be taken by the guest for the tail of an earlier one's. A new connection makes the guest start
 * afresh, provided it sees that the old one is gone: hence a pause in between. Stream ids go on growing from try to
 * try, so that an answer to an earlier one is known for what it is.
 *
 * Invariants: 1. `op` is referenced exactly while the handshake waits. 2. `client` is open exactly while the channel is
 * ours, except between a failed try and its reopening.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "agent/builder.h"
#include "agent/kata.h"
#include "agent/request.h"
#include "base/clock.h"
#include "base/options.h"
#include "base/text.h"
#include "proto/message.h"

#define CONNECT_TIMEOUT_MS 60000u
#define EMULATED_SCALE 2u /* of all that waits for the guest, where its CPU is emulated */
#define TRY_FIRST_MS 3000u
#define TRY_AGAIN_MS 1000u /* where the guest is known to be up */
#define TRY_LAST_MS 30000u
#define PAUSE_FIRST_MS 20u
#define PAUSE_SILENT_MS 250u
#define PAUSE_LAST_MS 1000u
#define GUEST_FEATURE "libkata.guest"
#define FEATURES_MAX 64u

enum greeting { GREET_CHECK, GREET_VERSION, GREET_DETAILS, GREETINGS };

static const enum kata__method_id greeting_methods[GREETINGS] = {
	[GREET_CHECK] = KATA__HEALTH_CHECK,
	[GREET_VERSION] = KATA__HEALTH_VERSION,
	[GREET_DETAILS] = KATA__AGENT_GET_GUEST_DETAILS,
};

struct kata__connect {
	kata_agent *agent; /* referenced */
	struct kata__kata *kata;
	struct kata__ttrpc_client *client;
	uint32_t next_id;
	uint64_t try_ms, pause_ms;
	unsigned tries;

	/* While the handshake waits. */
	kata_op *op;
	uint64_t token;
	struct kata__timer *timer;
	unsigned unanswered;
	kata_error *last; /* why the last try failed */

	char *version;
	bool has_guest_service;

	/* The call that goes along; its answer is given to first_fn once the connect has succeeded. */
	kata_agent_request first;
	void *first_memory; /* of its texts; NULL: there is none */
	struct kata__kata_expected first_expected;
	kata_agent_reply_fn first_fn;
	void *first_user;
};

static void try_failed(struct kata__connect *c, kata_error *take_err);
static void start_try(struct kata__connect *c);

/* ---- the channel ---- */

static void on_lost(void *user, const kata_error *reason)
{
	try_failed(user, kata__error_dup(reason));
}

static int open_channel(struct kata__connect *c, kata_error **err)
{
	kata_agent *agent = c->agent;
	int fd = -1;
	int rc = kata__vm_connect_agent(agent->vm, &fd, err);

	if (rc)
		return rc;
	rc = kata__ttrpc_client_new(kata__context_loop(agent->ctx), fd, c->next_id, on_lost, c, &c->client, err);
	if (rc)
		kata__vm_disconnect_agent(agent->vm);
	return rc;
}

static void close_channel(struct kata__connect *c)
{
	uint64_t next_id;

	if (!c->client)
		return;
	next_id = kata__ttrpc_client_get_next_id(c->client);
	c->next_id = next_id > UINT32_MAX ? 1 : (uint32_t)next_id;
	kata__ttrpc_client_free(kata__take_ptr(c->client));
	kata__vm_disconnect_agent(c->agent->vm);
}

/* ---- the end of the handshake's wait ---- */

static void stop_waiting(struct kata__connect *c)
{
	kata__timer_remove(c->timer);
	c->timer = NULL;
}

static void resume(struct kata__connect *c, int status, kata_error *take_err)
{
	kata_op *op = c->op;

	stop_waiting(c);
	c->op = NULL;
	kata__op_resume(op, c->token, status, take_err);
	kata_op_unref(op);
}

void kata__connect_fail(struct kata__connect *c, const kata_error *reason)
{
	if (c->op)
		resume(c, (int)kata_error_get_status(reason), kata__error_dup(reason));
}

/* ---- answers ---- */

static int unpack(enum greeting which, const struct kata__ttrpc_response *response, ProtobufCMessage **ret,
		  kata_error **err)
{
	const struct kata__method *m = &kata__methods[greeting_methods[which]];

	if (response->code == KATA__GRPC_OK)
		return kata__proto_unpack(m->response, response->payload.data, response->payload.length, ret, err);
	return kata__fail(err, KATA_E_GUEST, GUEST, "agent: %s: answered %s", m->name,
			  kata__grpc_code_name(response->code));
}

static void take_details(struct kata__connect *c, const Grpc__GuestDetailsResponse *m)
{
	const Grpc__AgentDetails *d = m->agent_details;

	for (size_t i = 0; d && i < d->n_extra_features && i < FEATURES_MAX; i++)
		if (strcmp(d->extra_features[i], GUEST_FEATURE) == 0)
			c->has_guest_service = true;
}

static int take_answer(struct kata__connect *c, enum greeting which, const void *message, kata_error **err)
{
	const Grpc__VersionCheckResponse *version = message;
	const Grpc__HealthCheckResponse *health = message;

	switch (which) {
	case GREET_CHECK:
		if (health->status == GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING)
			return 0;
		return kata__fail(err, KATA_E_GUEST, GUEST, "agent: Check: does not serve (status %d)",
				  (int)health->status);
	case GREET_VERSION:
		free(c->version);
		c->version = kata__sanitize(version->agent_version, strlen(version->agent_version), false);
		return c->version ? 0 : kata__fail_no_memory(err);
	default:
		take_details(c, message);
		return 0;
	}
}

/* Only Check must be answered well: an agent that cannot say its version or its features has none. */
static void on_answer(struct kata__connect *c, enum greeting which, const struct kata__ttrpc_response *response,
		      kata_error *take_err)
{
	ProtobufCMessage *message = NULL;
	kata_error *err = take_err;
	int rc = response ? unpack(which, response, &message, &err) : (int)kata_error_get_status(err);

	if (!c->op || (!response && c->client == NULL)) { /* the try was given up */
		kata_error_free(err);
		kata__proto_free(message);
		return;
	}
	if (!rc)
		rc = take_answer(c, which, message, &err);
	kata__proto_free(message);
	if (rc && (which == GREET_CHECK || rc != KATA_E_GUEST)) {
		try_failed(c, err);
		return;
	}
	kata_error_free(err);
	if (--c->unanswered == 0)
		resume(c, 0, NULL);
}

static void on_check(void *user, const struct kata__ttrpc_response *response, kata_error *take_err)
{
	on_answer(user, GREET_CHECK, response, take_err);
}

static void on_version(void *user, const struct kata__ttrpc_response *response, kata_error *take_err)
{
	on_answer(user, GREET_VERSION, response, take_err);
}

static void on_details(void *user, const struct kata__ttrpc_response *response, kata_error *take_err)
{
	on_answer(user, GREET_DETAILS, response, take_err);
}

/* ---- the call that goes along ---- */

static void give_first(void *user, const kata_agent_reply *reply)
{
	struct kata__connect *c = user;
	kata_agent_reply_fn fn = kata__take_ptr(c->first_fn);

	free(c->version);
	c->version = kata__strdup(reply->text);

	if (fn)
		fn(c->first_user, reply, NULL);
}

static int greet(struct kata__connect *c, int from, int to, kata_error **err);

/* An agent that did what only ours can do need not be asked what it can do. One that did not is asked now. */
static int learn_from_first(struct kata__connect *c, bool is_done, kata_error **err)
{
	if (is_done)
		c->has_guest_service = true;
	return is_done ? 0 : greet(c, GREET_VERSION, GREETINGS, err);
}

/* Whatever the answer is, the connection is good: what becomes of an error is the affair of who asked. */
static void on_first(void *user, const struct kata__ttrpc_response *response, kata_error *take_err)
{
	struct kata__connect *c = user;
	kata_error *err = take_err;
	kata_agent_reply_fn fn;
	bool is_done;
	int rc;

	if (!c->op || (!response && c->client == NULL)) { /* the try was given up */
		kata_error_free(err);
		return;
	}
	is_done = response && kata__kata_decode(&c->first_expected, response, give_first, c, &err) == 0;
	if (!is_done) {
		fn = kata__take_ptr(c->first_fn);
		if (fn)
			fn(c->first_user, NULL, err);
		else
			kata_error_free(err);
		err = NULL;
	}
	rc = learn_from_first(c, is_done, &err);
	if (rc)
		try_failed(c, err);
	else if (--c->unanswered == 0)
		resume(c, 0, NULL);
}

static int send_first(struct kata__connect *c, kata_error **err)
{
	struct kata__kata_encoding e;
	struct kata__ttrpc_call call;
	struct timespec now;
	uint32_t id;
	int rc;

	if (c->first.seconds) {
		clock_gettime(CLOCK_REALTIME, &now);
		c->first.seconds = now.tv_sec;
		c->first.microseconds = now.tv_nsec / 1000;
	}
	rc = kata__kata_encode(&c->first, 0, &e, err);
	if (rc)
		return rc;
	call = (struct kata__ttrpc_call){.service = kata__methods[e.method].service,
					 .method = kata__methods[e.method].name,
					 .message = e.is_empty ? NULL : &e.message.base};
	rc = kata__ttrpc_client_call(c->client, &call, on_first, c, &id, err);
	kata__kata_encoding_deinit(&e);
	if (!rc)
		c->unanswered++;
	return rc;
}

/* ---- a try ---- */

static void on_silence(void *user)
{
	struct kata__connect *c = user;
	kata_error *err = NULL;

	c->timer = NULL;
	kata__fail(&err, KATA_E_TIMEOUT, GUEST, "agent: no answer within %" PRIu64 " ms at try %u", c->try_ms,
		   c->tries);
	c->try_ms = c->try_ms * 2 < TRY_LAST_MS ? c->try_ms * 2 : TRY_LAST_MS;
	if (c->pause_ms < PAUSE_SILENT_MS)
		c->pause_ms = PAUSE_SILENT_MS;
	try_failed(c, err);
}

static void on_pause_over(void *user)
{
	struct kata__connect *c = user;

	c->timer = NULL;
	start_try(c);
}

static void remember(struct kata__connect *c, kata_error *take_err)
{
	kata_error_free(c->last);
	c->last = take_err;
}

/* A VM that has ended, or is being ended, will not answer any more. */
static int check_running(kata_vm *vm, kata_error **err)
{
	kata_vm_state state = kata__vm_get_state(vm);

	if (state == KATA_VM_RUNNING || state == KATA_VM_PAUSED || kata__vm_is_being_prepared(vm))
		return 0;
	return kata__fail(err, KATA_E_GONE, VMM, "agent: VM '%s' is %s", kata_vm_get_id(vm),
			  kata_vm_state_get_name(state));
}

/* Closes and comes back later; what cannot be waited for ends the handshake. */
static void try_failed(struct kata__connect *c, kata_error *take_err)
{
	uint64_t pause_ms = c->pause_ms;
	kata_error *err = NULL;
	int rc;

	if (!c->op) {
		kata_error_free(take_err);
		return;
	}
	kata__log(c->agent->ctx, KATA_LOG_DEBUG, "agent", "handshake: try %u: %s", c->tries,
		  kata_error_get_message(take_err));
	remember(c, take_err);
	stop_waiting(c);
	close_channel(c);
	c->pause_ms = pause_ms * 2 < PAUSE_FIRST_MS  ? PAUSE_FIRST_MS
		      : pause_ms * 2 < PAUSE_LAST_MS ? pause_ms * 2
						     : PAUSE_LAST_MS;
	rc = check_running(c->agent->vm, &err);
	if (!rc)
		rc = kata__timer_add(kata__context_loop(c->agent->ctx), kata__deadline_in_ms(pause_ms), on_pause_over,
				     c, &c->timer, &err);
	if (rc)
		resume(c, rc, err);
}

static int greet(struct kata__connect *c, int from, int to, kata_error **err)
{
	static const kata__ttrpc_end_fn fns[GREETINGS] = {on_check, on_version, on_details};

	for (int i = from; i < to; i++) {
		const struct kata__method *m = &kata__methods[greeting_methods[i]];
		struct kata__ttrpc_call call = {.service = m->service, .method = m->name};
		uint32_t id;
		int rc = kata__ttrpc_client_call(c->client, &call, fns[i], c, &id, err);

		if (rc)
			return rc;
		c->unanswered++;
	}
	return 0;
}

static bool remember_agent(struct kata__connect *c)
{
	const kata_vm *vm = c->agent->vm;

	if (!vm->agent.is_known)
		return false;
	free(c->version);
	c->version = kata__strdup(vm->agent.version);
	c->has_guest_service = vm->agent.has_guest_service;
	return c->version != NULL;
}

/* With a call that goes along, the rest of the handshake waits for what becomes of it. */
static int say_hello(struct kata__connect *c, kata_error **err)
{
	bool is_short = remember_agent(c) || c->first_fn;
	int rc;

	c->unanswered = 0;
	rc = greet(c, GREET_CHECK, is_short ? GREET_VERSION : GREETINGS, err);
	return rc || !c->first_fn ? rc : send_first(c, err);
}

static void start_try(struct kata__connect *c)
{
	kata_error *err = NULL;
	int rc = c->client ? 0 : open_channel(c, &err);

	c->tries++;
	if (!rc)
		rc = kata__timer_add(kata__context_loop(c->agent->ctx), kata__deadline_in_ms(c->try_ms), on_silence, c,
				     &c->timer, &err);
	if (!rc)
		rc = say_hello(c, &err);
	if (rc)
		try_failed(c, err);
}

/* ---- the steps ---- */

static int run_open(kata_op *op, kata_error **err)
{
	struct kata__connect *c = kata__op_data(op);
	int rc = check_running(c->agent->vm, err);

	if (!rc)
		rc = kata__agent_listen(c->agent, err);
	if (rc)
		return rc;
	c->agent->connect = c;
	return open_channel(c, err);
}

static int undo_open(kata_op *op, kata_error **err)
{
	(void)err;
	close_channel(kata__op_data(op));
	return KATA__STEP_DONE;
}

static int run_handshake(kata_op *op, kata_error **err)
{
	struct kata__connect *c = kata__op_data(op);

	(void)err;
	c->op = kata_op_ref(op);
	c->token = kata__op_token(op);
	start_try(c);
	return KATA__STEP_WAIT;
}

static void cancel_handshake(kata_op *op)
{
	struct kata__connect *c = kata__op_data(op);

	if (!c->op)
		return;
	stop_waiting(c);
	c->op = NULL;
	kata_op_unref(op);
}

static void explain(struct kata__connect *c, kata_error *err)
{
	int status = (int)kata_error_get_status(err);

	if (status == KATA_E_TIMEOUT)
		kata__error_add_cause(err, kata__take_ptr(c->last));
	if (status == KATA_E_TIMEOUT || status == KATA_E_GONE || status == KATA_E_PROTOCOL)
		kata__vm_explain(c->agent->vm, err);
	if (status == KATA_E_TIMEOUT && !kata_error_get_hint(err))
		kata__error_set_hint(
			err,
			"the guest's agent did not answer (%u tries): %s; an emulated guest boots in 4 to 30 "
			"s; is the agent in the initrd, and the port agent.channel.0 in the machine?",
			c->tries,
			kata_error_get_console(err) ? "the console's tail shows how far the boot came"
						    : "the guest has written nothing to its console");
}

/* An agent without a version, or with one that is too long, is asked again the next time. */
static void keep_in_mind(const struct kata__connect *c)
{
	kata_vm *vm = c->agent->vm;

	if (!c->version || !c->version[0] || strlen(c->version) >= sizeof(vm->agent.version))
		return;
	vm->agent.is_known = true;
	vm->agent.has_guest_service = c->has_guest_service;
	snprintf(vm->agent.version, sizeof(vm->agent.version), "%s", c->version);
}

static void finish_connect(kata_op *op, int status, kata_error **error)
{
	struct kata__connect *c = kata__op_data(op);
	struct kata__ttrpc_client *client;
	kata_agent *agent = c->agent;

	agent->connect = NULL;
	if (status) {
		explain(c, *error);
		kata__agent_lost(agent, *error);
		return;
	}
	keep_in_mind(c);
	client = kata__take_ptr(c->client);
	kata__kata_attach(c->kata, agent, client, c->has_guest_service);
	kata__log(agent->ctx, KATA_LOG_INFO, "agent", "connected to VM '%s', agent %s", kata_vm_get_id(agent->vm),
		  c->version ? c->version : "of unknown version");
	kata__agent_connected(agent, &kata__kata_ops, kata__take_ptr(c->kata), kata__take_ptr(c->version),
			      c->has_guest_service);
	/* Lost by bytes behind the last answer: the agent owns the connection now, so it is told now. */
	if (kata__ttrpc_client_get_reason(client))
		kata__agent_lost(agent, kata__ttrpc_client_get_reason(client));
}

static void free_connect(void *data)
{
	struct kata__connect *c = data;

	kata__kata_free(c->kata);
	kata_error_free(c->last);
	free(c->version);
	free(c->first_memory);
	kata_agent_unref(c->agent);
	free(c);
}

static const struct kata__step connect_steps[] = {
	{.name = "open-channel", .run = run_open, .undo = undo_open},
	{.name = "handshake", .run = run_handshake, .cancel = cancel_handshake},
};

static const struct kata__op_table connect_table = {.name = "connect-agent",
						    KATA__STEPS(connect_steps),
						    .timeout_ms = CONNECT_TIMEOUT_MS,
						    .finish = finish_connect,
						    .free_data = free_connect};

/* ---- begin ---- */

static int check_vm(kata_context *ctx, kata_vm *vm, kata_error **err)
{
	kata_vm_state state = kata__vm_get_state(vm);

	if (vm->ctx != ctx)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "vm: VM '%s' belongs to another context than the agent builder", kata_vm_get_id(vm));
	if (state != KATA_VM_RUNNING && !kata__vm_is_being_prepared(vm))
		return kata__fail(
			err, state == KATA_VM_ENDED || state == KATA_VM_DESTROYED ? KATA_E_GONE : KATA_E_STATE, CALLER,
			"vm: VM '%s' is %s, must be running", kata_vm_get_id(vm), kata_vm_state_get_name(state));
	return 0;
}

static int keep_first(struct kata__connect *c, const struct kata__connect_first *first, kata_error **err)
{
	if (!first)
		return 0;
	c->first_memory = malloc(kata__agent_request_copy(first->request, NULL, NULL) + 1);
	if (!c->first_memory)
		return kata__fail_no_memory(err);
	kata__agent_request_copy(first->request, c->first_memory, &c->first);
	c->first_expected = kata__kata_expect(&c->first);
	c->first_fn = first->fn;
	c->first_user = first->user;
	return 0;
}

int kata__connect_begin(kata_context *ctx, kata_vm *vm, const char *released_json,
			const struct kata__connect_first *first, const kata_op_options *options, kata_agent **ret_agent,
			kata_op **ret_op, kata_error **err)
{
	kata_op_options timing = KATA_OP_OPTIONS_INIT;
	struct kata__connect *c;
	kata_agent *agent;
	uint32_t first_id, scale = vm->time_scale > 1 ? EMULATED_SCALE : 1;
	int rc = kata__options_read(&timing, sizeof(timing), options, "options", err);

	if (!rc)
		rc = kata__kata_read_released(released_json, &first_id, err);
	if (!rc)
		rc = check_vm(ctx, vm, err);
	if (rc)
		return rc;
	c = calloc(1, sizeof(*c));
	if (!c)
		return kata__fail_no_memory(err);
	c->next_id = first_id;
	c->try_ms = (released_json || first ? TRY_AGAIN_MS : TRY_FIRST_MS) * scale;
	c->pause_ms = PAUSE_FIRST_MS;
	rc = keep_first(c, first, err);
	if (!rc)
		rc = kata__kata_new(vm, &c->kata, err);
	if (!rc)
		rc = kata__agent_new(ctx, vm, &c->agent, err);
	if (rc) {
		free_connect(c);
		return rc;
	}
	agent = kata_agent_ref(c->agent);
	rc = kata__op_start(ctx, &connect_table, c, &timing, scale, ret_op, err);
	if (rc)
		kata_agent_unref(agent);
	else
		*ret_agent = agent;
	return rc;
}

bool kata__agent_is_direct(const kata_agent *agent)
{
	return agent->ops == &kata__kata_ops;
}
