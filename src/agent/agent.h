/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_AGENT_AGENT_H
#define KATA_AGENT_AGENT_H
/* The inside of kata_agent: what agent.c, the calls and the connecting share. */
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include <kata/driver/agent.h>

#include "op/op.h"
#include "vm/vm.h"

struct kata__agent_call;
struct kata__connect;

struct kata_agent {
	uint32_t magic;
	atomic_uint refs;
	kata_context *ctx;
	kata_vm *vm; /* referenced; NULL */

	/* [leader] */
	const kata_agent_ops *ops;      /* NULL while connecting and once closed */
	void *self;                     /* of ops */
	struct kata__agent_call *calls; /* in flight */
	void (*lost_fn)(void *user);    /* who is told of the loss; NULL */
	void *lost_user;
	struct kata__connect *connect; /* while connecting: who is told that the VM ended */

	/* under mutex (a leaf: nothing is called with it held) */
	pthread_mutex_t mutex;
	_Atomic kata_agent_state state; /* written under the mutex, read without */
	kata_error *lost;               /* LOST: why */
	char *version;                  /* set once, before CONNECTED; NULL: unknown */
	bool has_guest_service;
};

/* One call under way: the op's data. The request's texts lie in `memory`. */
struct kata__agent_call {
	kata_agent *agent; /* referenced */
	kata_agent_request request;
	uint64_t timeout_ms; /* 0: none */
	kata_agent_reply reply;
	void *reply_data;
	char *reply_text;

	/* [leader], while it is in flight */
	kata_op *op; /* referenced by the call in flight; NULL: not in flight */
	uint64_t op_token, agent_token;
	struct kata__agent_call *next, **link; /* in agent->calls */
	enum { KATA__CALL_IDLE, KATA__CALL_STARTING, KATA__CALL_WAITING } phase;
	int status; /* of a call that ended while STARTING */
	kata_error *error;

	_Alignas(max_align_t) uint8_t memory[];
};

/* Makes the object, CONNECTING and without an implementation. [any thread] */
int kata__agent_new(kata_context *ctx, kata_vm *vm, kata_agent **ret, kata_error **err);
/* [leader] */
int kata__agent_listen(kata_agent *agent, kata_error **err); /* for the end of its VM; taken back by the close */
void kata__agent_connected(kata_agent *agent, const kata_agent_ops *ops, void *take_self, char *take_version,
			   bool has_guest_service);
/* The connection is no more: state LOST, the calls in flight end (a DESTROY_SANDBOX with success when the reason is
 * GONE). Nothing in other states than CONNECTING and CONNECTED. */
void kata__agent_lost(kata_agent *agent, const kata_error *reason);
/* [leader] Calls fn(user) once when a connected agent is LOST; one listener (the sandbox). NULL ends it. */
void kata__agent_set_lost_listener(kata_agent *agent, void (*fn)(void *user), void *user);
/* [leader] Whether it is connected by the direct builder, so that any direct builder can connect it again. */
bool kata__agent_is_direct(const kata_agent *agent);
/* [any thread] 0 when CONNECTED; else STATE, or why it was lost. */
int kata__agent_check_connected(kata_agent *agent, kata_error **err);

/* connect.c: ends the connecting under way with a copy of `reason`. [leader] */
void kata__connect_fail(struct kata__connect *connect, const kata_error *reason);

/* call.c: ends all calls in flight with a copy of `reason`. [leader] */
void kata__agent_end_calls(kata_agent *agent, const kata_error *reason);

/* [any thread] Runs fn(user) on the leader and waits for it; at once where the caller is, or can become, the leader. */
void kata__agent_on_leader(kata_context *ctx, void (*fn)(void *user), void *user);
#endif
