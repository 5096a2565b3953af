/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata.c - kata_agent_ops over a ttrpc client.
 *
 * A call's context lives from the call until its response, its cancel or the loss of the connection. The loss is told
 * to the agent first, which ends all calls by itself and frees this object; so what the client ends afterwards is
 * nothing.
 */
#include "agent/kata.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"

#define RELEASED_VERSION 1
#define RELEASED_MAX 4096u /* bytes of JSON */

struct kata__kata {
	kata_agent *agent; /* which owns us */
	kata_vm *vm;       /* the agent's; NULL */
	struct kata__ttrpc_client *client;
	bool has_guest_service;
};

/* Between a call's start and its end. */
struct kata_call {
	struct kata__kata *kata;
	struct kata__kata_expected expected;
	uint32_t id;
	kata_agent_reply_fn fn;
	void *user;
	/* A RESET_IDENTITY made of calls that every Kata agent has, one after the other: */
	bool is_composed;
	uint64_t done; /* KATA_RESET_* */
	int64_t seconds, microseconds;
	uint64_t start_ns, deadline_ns;
};

static struct kata_call *call_new(struct kata__kata *k, const kata_agent_request *r, kata_agent_reply_fn fn, void *user)
{
	struct kata_call *call = malloc(sizeof(*call));

	if (call)
		*call = (struct kata_call){.kata = k, .expected = kata__kata_expect(r), .fn = fn, .user = user};
	return call;
}

static void give_composed(struct kata_call *call, kata_error *take_err)
{
	kata_agent_reply reply = {.size = sizeof(reply), .stats = {.size = sizeof(reply.stats)}, .reset = call->done};

	call->fn(call->user, take_err ? NULL : &reply, take_err);
}

static void give_reply(void *user, const kata_agent_reply *reply)
{
	struct kata_call *call = user;

	call->fn(call->user, reply, NULL);
}

static bool goes_on(struct kata_call *call, const struct kata__ttrpc_response *response, kata_error **take_err);

static void on_response(void *user, const struct kata__ttrpc_response *response, kata_error *take_err)
{
	struct kata_call *call = user;
	struct kata_call ended;

	if (call->is_composed && response && goes_on(call, response, &take_err))
		return;
	ended = *call;
	free(call);
	if (ended.is_composed && response) {
		give_composed(&ended, take_err);
		return;
	}
	if (response && kata__kata_decode(&ended.expected, response, give_reply, &ended, &take_err) == 0)
		return;
	ended.fn(ended.user, NULL, take_err);
}

/* The guest is to give up a little before we do, so that its answer says what took so long. */
static uint64_t timeout_for_guest_ms(uint64_t timeout_ms)
{
	uint64_t margin = timeout_ms / 8 < 1000 ? timeout_ms / 8 : 1000;

	return timeout_ms - margin;
}

static int start_call(struct kata__kata *k, const kata_agent_request *r, uint64_t timeout_ms, struct kata_call *call,
		      kata_error **err)
{
	uint64_t guest_ms = timeout_for_guest_ms(timeout_ms);
	struct kata__kata_encoding e;
	struct kata__ttrpc_call frame;
	int rc = kata__kata_encode(r, guest_ms, &e, err);

	if (rc)
		return rc;
	frame = (struct kata__ttrpc_call){.service = kata__methods[e.method].service,
					  .method = kata__methods[e.method].name,
					  .message = e.is_empty ? NULL : &e.message.base,
					  .timeout_ns = guest_ms < UINT64_MAX / 1000000 ? guest_ms * 1000000 : 0};
	rc = kata__ttrpc_client_call(k->client, &frame, on_response, call, &call->id, err);
	kata__kata_encoding_deinit(&e);
	return rc;
}

/* ---- ResetIdentity without kata.Guest: ReseedRandomDev, then SetGuestDateTime ---- */

static void take_nothing(void *user, const kata_agent_reply *reply)
{
	(void)user;
	(void)reply;
}

static uint64_t left_ms(uint64_t deadline_ns)
{
	uint64_t now = kata__now_ns();

	return deadline_ns == KATA__NEVER ? 0 : deadline_ns > now ? (deadline_ns - now) / 1000000 + 1 : 1;
}

static int start_reseed(struct kata_call *call, const kata_agent_request *r, kata_error **err)
{
	kata_agent_request part = {
		.size = sizeof(part), .method = KATA_AGENT_RESEED, .data = r->data, .data_length = r->data_length};

	call->expected.method = part.method;
	return start_call(call->kata, &part, left_ms(call->deadline_ns), call, err);
}

/* The time is that of the request's start: what has passed since is added. */
static int start_set_time(struct kata_call *call, kata_error **err)
{
	int64_t passed_us = (int64_t)((kata__now_ns() - call->start_ns) / 1000) + call->microseconds;
	kata_agent_request part = {.size = sizeof(part),
				   .method = KATA_AGENT_SET_TIME,
				   .seconds = call->seconds + passed_us / 1000000,
				   .microseconds = passed_us % 1000000};

	call->expected.method = part.method;
	return start_call(call->kata, &part, left_ms(call->deadline_ns), call, err);
}

/* What the response ended is noted; true when another part is under way. */
static bool goes_on(struct kata_call *call, const struct kata__ttrpc_response *response, kata_error **take_err)
{
	bool was_reseed = call->expected.method == KATA_AGENT_RESEED;

	if (kata__kata_decode(&call->expected, response, take_nothing, NULL, take_err) != 0)
		return false;
	call->done |= was_reseed ? KATA_RESET_ENTROPY : KATA_RESET_CLOCK;
	return was_reseed && call->seconds && start_set_time(call, take_err) == 0;
}

static int start_composed(struct kata_call *call, const kata_agent_request *r, uint64_t timeout_ms, kata_error **err)
{
	call->is_composed = true;
	call->seconds = r->seconds;
	call->microseconds = r->microseconds;
	call->start_ns = kata__now_ns();
	call->deadline_ns = timeout_ms ? kata__deadline_in_ms(timeout_ms) : KATA__NEVER;
	return r->data_length ? start_reseed(call, r, err) : start_set_time(call, err);
}

/* An agent without kata.Guest can do none of it. */
static bool is_nothing(const struct kata__kata *k, const kata_agent_request *r)
{
	return r->method == KATA_AGENT_RESET_IDENTITY && !k->has_guest_service && !r->data_length && !r->seconds;
}

static int start(struct kata_call *call, const kata_agent_request *r, uint64_t timeout_ms, kata_error **err)
{
	if (r->method == KATA_AGENT_RESET_IDENTITY && !call->kata->has_guest_service)
		return start_composed(call, r, timeout_ms, err);
	return start_call(call->kata, r, timeout_ms, call, err);
}

/* What only kata.Guest can do. */
static bool is_guest_service(kata_agent_method method)
{
	return method == KATA_AGENT_AWAIT_DEVICE || method == KATA_AGENT_OFFLINE_DEVICE || method == KATA_AGENT_SETTLE;
}

static void ops_call(void *self, const kata_agent_request *r, uint64_t timeout_ms, kata_agent_reply_fn fn, void *user,
		     uint64_t *ret_token)
{
	struct kata__kata *k = self;
	struct kata_call *call;
	kata_error *err = NULL;

	if (!k->has_guest_service && is_guest_service(r->method)) {
		kata__fail(&err, KATA_E_UNSUPPORTED, GUEST, "agent: %s: this guest lacks the service %s",
			   kata_agent_method_get_name(r->method), KATA__SERVICE_GUEST);
		fn(user, NULL, err);
		return;
	}
	if (is_nothing(k, r)) {
		give_composed(&(struct kata_call){.fn = fn, .user = user}, NULL);
		return;
	}
	call = call_new(k, r, fn, user);
	if (!call) {
		kata__fail_no_memory(&err);
		fn(user, NULL, err);
		return;
	}
	if (start(call, r, timeout_ms, &err) == 0) {
		*ret_token = (uintptr_t)call;
		return;
	}
	free(call);
	fn(user, NULL, err);
}

/* Only calls in flight are cancelled, so the token is the address of one. */
static void ops_cancel(void *self, uint64_t token)
{
	struct kata__kata *k = self;
	struct kata_call *call = (struct kata_call *)(uintptr_t)token;

	kata__ttrpc_client_cancel(k->client, call->id);
	free(call);
}

/* ---- release and its successor ---- */

static int ops_release(void *self, char **ret_json, kata_error **err)
{
	struct kata__kata *k = self;
	KATA_AUTO_JSON json_t *root =
		json_pack("{s:i, s:s, s:I}", "version", RELEASED_VERSION, "protocol", "kata", "next_stream_id",
			  (json_int_t)kata__ttrpc_client_get_next_id(k->client));
	char *text = root ? kata__json_dump(root) : NULL;

	if (!text)
		return kata__fail_no_memory(err);
	*ret_json = text;
	return 0;
}

int kata__kata_read_released(const char *json, uint32_t *ret_first_id, kata_error **err)
{
	KATA_AUTO_JSON json_t *root = NULL;
	const char *what = "released agent", *protocol;
	uint64_t version, next_id;
	int rc;

	*ret_first_id = 1;
	if (!json)
		return 0;
	rc = kata__json_parse(what, json, strlen(json), RELEASED_MAX, &root, err);
	if (!rc)
		rc = kata__json_get_uint(root, what, "version", INT32_MAX, &version, err);
	if (rc)
		return rc;
	if (version != RELEASED_VERSION)
		return kata__fail(err, KATA_E_VERSION, CALLER, "released agent.version: is %llu, this library reads %d",
				  (unsigned long long)version, RELEASED_VERSION);
	rc = kata__json_get_string(root, what, "protocol", &protocol, err);
	if (!rc)
		rc = kata__json_get_uint(root, what, "next_stream_id", (uint64_t)UINT32_MAX + 2, &next_id, err);
	if (rc)
		return rc;
	if (strcmp(protocol, "kata") != 0)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "released agent.protocol: '%.32s' is not 'kata'",
				  protocol);
	if (!(next_id & 1))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "released agent.next_stream_id: %llu is not odd",
				  (unsigned long long)next_id);
	/* Used up: the guest takes a lower id for what it is, another host. */
	*ret_first_id = next_id > UINT32_MAX - KATA__TTRPC_CALLS_MAX ? 1 : (uint32_t)next_id;
	return 0;
}

/* ---- life ---- */

void kata__kata_free(struct kata__kata *k)
{
	if (!k)
		return;
	kata__ttrpc_client_free(k->client);
	if (k->vm && k->client)
		kata__vm_disconnect_agent(k->vm);
	free(k);
}

static void ops_free(void *self)
{
	kata__kata_free(self);
}

const kata_agent_ops kata__kata_ops = {.size = sizeof(kata__kata_ops),
				       .name = "kata",
				       .call = ops_call,
				       .cancel = ops_cancel,
				       .release = ops_release,
				       .free = ops_free};

int kata__kata_new(kata_vm *vm, struct kata__kata **ret, kata_error **err)
{
	struct kata__kata *k = calloc(1, sizeof(*k));

	if (!k)
		return kata__fail_no_memory(err);
	k->vm = vm;
	*ret = k;
	return 0;
}

static void on_lost(void *user, const kata_error *reason)
{
	struct kata__kata *k = user;

	kata__agent_lost(k->agent, reason);
}

void kata__kata_attach(struct kata__kata *k, kata_agent *agent, struct kata__ttrpc_client *take_client,
		       bool has_guest_service)
{
	k->agent = agent;
	k->client = take_client;
	kata__ttrpc_client_set_lost(take_client, on_lost, k);
	k->has_guest_service = has_guest_service;
}
