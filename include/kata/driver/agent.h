/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_DRIVER_AGENT_H
#define KATA_DRIVER_AGENT_H
/* For those who write an agent of their own (another protocol, a proxy, a test double): see kata_agent_new. */
#include <kata/agent.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Ends a call: exactly once, on the loop's thread (from a callback of the library or kata_context_dispatch), reply
 * valid during the call; on failure reply is NULL and `take_error` is consumed. */
typedef void (*kata_agent_reply_fn)(void *user, const kata_agent_reply *reply, kata_error *take_error);

typedef struct kata_agent_ops {
	size_t size;      /* sizeof(kata_agent_ops) */
	const char *name; /* "kata", static */
	/* must: starts a call; the request is valid during this function only. timeout_ms 0: none. May end it before it
	 * returns. Called on the loop's thread. `ret_token` identifies the call for cancel. */
	void (*call)(void *self, const kata_agent_request *request, uint64_t timeout_ms, kata_agent_reply_fn fn,
		     void *user, uint64_t *ret_token);
	/* must: forgets a call in flight; fn will not be called. Called on the loop's thread. */
	void (*cancel)(void *self, uint64_t token);
	/* may: closes and gives what a successor needs as JSON (malloc'ed). NULL: release is UNSUPPORTED. Loop's
	 * thread. */
	int (*release)(void *self, char **ret_json, kata_error **err);
	/* must: closes and frees. Calls in flight end with CANCELLED before it returns. Loop's thread. */
	void (*free)(void *self);
} kata_agent_ops;

/* Wraps an implementation; ops must stay valid, self is freed by ops->free (not on failure). `vm` may be NULL. */
KATA_API int kata_agent_new(kata_context *context, kata_vm *vm, const kata_agent_ops *ops, void *self,
			    kata_agent **ret_agent, kata_error **err);

/* An agent builder of the caller's own. */
typedef struct kata_agent_builder_ops {
	size_t size;
	const char *name;
	/* must: as kata_agent_builder_build_begin. */
	int (*build)(void *self, kata_vm *vm, const char *released_json, const kata_op_options *options,
		     kata_agent **ret_agent, kata_op **ret_op, kata_error **err);
	void (*free)(void *self); /* must */
} kata_agent_builder_ops;
KATA_API int kata_agent_builder_new(kata_context *context, const kata_agent_builder_ops *ops, void *self,
				    kata_agent_builder **ret_builder, kata_error **err);

#ifdef __cplusplus
}
#endif
#endif
