/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_AGENT_TTRPC_CLIENT_H
#define KATA_AGENT_TTRPC_CLIENT_H
/*
 * A ttrpc client on a non-blocking stream. [leader] everywhere.
 *
 *   OPEN --end of stream, error, bytes that are no ttrpc--> LOST --free--> CLOSED
 *     \__________________________free___________________________________/
 *
 * It has no deadlines of its own: who starts a call cancels it when its time is over, sent or not.
 * From inside any of its callbacks, calls may be started and cancelled and the client may be freed.
 */
#include "base/loop.h"
#include "proto/ttrpc.h"

#define KATA__TTRPC_CALLS_MAX 4096u               /* in flight on one connection */
#define KATA__TTRPC_QUEUE_MAX (16u * 1024 * 1024) /* bytes waiting for the peer to read */

struct kata__ttrpc_client;

/* Ends a call, exactly once. The response is valid during the function; on failure it is NULL and `take_err` is
 * consumed: PROTOCOL or GONE (the connection was lost), CANCELLED (the client was freed). */
typedef void (*kata__ttrpc_end_fn)(void *user, const struct kata__ttrpc_response *response, kata_error *take_err);
/* The connection is lost: called once, before the calls in flight end with the same error. The reason is borrowed. */
typedef void (*kata__ttrpc_lost_fn)(void *user, const kata_error *reason);

/* `take_fd` is consumed, also on failure. first_id: odd, what the first call is numbered with. */
int kata__ttrpc_client_new(struct kata__loop *loop, int take_fd, uint32_t first_id, kata__ttrpc_lost_fn lost,
			   void *user, struct kata__ttrpc_client **ret, kata_error **err);
/* Whom the loss is told to from now on. */
void kata__ttrpc_client_set_lost(struct kata__ttrpc_client *client, kata__ttrpc_lost_fn lost, void *user);
/* Closes; calls in flight end with CANCELLED before it returns; `lost` is not called any more. NULL is fine. */
void kata__ttrpc_client_free(struct kata__ttrpc_client *client);

/*
 * Starts a call; its bytes leave at once where the peer takes them. The call's strings and message are used during this
 * function only. *ret_id (never 0) is set before `fn` can be called; fn is never called from here. On failure fn is not
 * called. Returns 0; INVALID (a request too large for a frame), EXHAUSTED (4096 in flight; 16 MiB unsent; no id left),
 * GONE or PROTOCOL (the connection is lost), NO_MEMORY.
 */
int kata__ttrpc_client_call(struct kata__ttrpc_client *client, const struct kata__ttrpc_call *call,
			    kata__ttrpc_end_fn fn, void *user, uint32_t *ret_id, kata_error **err);
/* Forgets a call: fn will not be called, and what was not begun to be sent is not sent. Nothing when it has ended. */
void kata__ttrpc_client_cancel(struct kata__ttrpc_client *client, uint32_t id);

/* What the next call is numbered with at the least; above 2^32-1 when the ids are used up. */
uint64_t kata__ttrpc_client_get_next_id(const struct kata__ttrpc_client *client);
/* Why the connection was lost, borrowed; NULL while it is open. */
const kata_error *kata__ttrpc_client_get_reason(const struct kata__ttrpc_client *client);
size_t kata__ttrpc_client_get_in_flight(const struct kata__ttrpc_client *client);
#endif
