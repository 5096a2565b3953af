/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_CALL_H
#define KATA_SANDBOX_CALL_H
/*
 * One call of the agent outside of an op: the reads and writes of stdio, the wait for a process. Leader only.
 * The function is called exactly once, never before kata__call_begin has returned, unless the call is dropped first.
 */
#include <kata/agent.h>

#include "op/op.h"

struct kata__call;

/* On failure reply is NULL and error is borrowed. The handle is gone when this is called. */
typedef void (*kata__call_fn)(void *user, const kata_agent_reply *reply, const kata_error *error);

/* No deadline but the method's own. */
int kata__call_begin(kata_agent *agent, const kata_agent_request *request, kata__call_fn fn, void *user,
		     struct kata__call **ret, kata_error **err);
/* Cancels; fn will not be called. NULL is fine. */
void kata__call_drop(struct kata__call *call);
#endif
