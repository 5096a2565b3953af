/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_RPC_H
#define KATA_GUEST_RPC_H
/*
 * The agent's end of ttrpc: connections to the host, and the calls that came in over them.
 *
 * A handler gets a struct call and answers it now, or parks it and answers later; many may be parked at once, and they
 * are answered in any order. A call ends exactly once: by an answer, by its own timeout (DEADLINE_EXCEEDED), or when
 * the host went away. In the last two cases the function given when it was parked is called first, so that whoever
 * holds the call forgets it; what the call has set going goes on.
 */
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/loop.h"
#include "proto/methods.h"
#include "proto/ttrpc.h"

#define RPC_PARKED_MAX 4096              /* calls under way on one connection */
#define RPC_PARKED_BYTES_MAX (32u << 20) /* and what their requests take */
#define RPC_CONNECTIONS_MAX 8

struct call;
struct rpc;
struct rpc_connection;

/* `request` is of the method's request type and lives until the call ends. */
typedef void (*rpc_handler_fn)(void *user, struct call *call, const void *request);
/* Indexed by method id; NULL answers UNIMPLEMENTED. */
struct rpc_handlers {
	void *user;
	rpc_handler_fn methods[KATA__METHOD_COUNT];
};

int rpc_new(struct kata__loop *loop, const struct rpc_handlers *handlers, struct rpc **ret, kata_error **err);
/* Hands over a non-blocking stream. A channel is a virtio-serial port: it outlives the hosts that come and go on it,
 * which POLLHUP and stream ids that start anew tell apart. Anything else is closed when its peer is gone. */
int rpc_add(struct rpc *rpc, int take_fd, bool is_channel, kata_error **err);
/* How many hosts have been seen on all connections, the one that calls included. */
uint64_t rpc_session_count(const struct rpc *rpc);
/* Runs `fn` once every answer given so far has left; at once when that is the case. */
void rpc_when_flushed(struct rpc *rpc, void (*fn)(void *user), void *user);

/* ---- one call */

/* NULL stands for a response without fields. */
void call_answer(struct call *call, const void *response);
/* The message of err and of its causes, with the gRPC code that goes with its status; frees *take_err. */
void call_answer_error(struct call *call, kata_error **take_err);
void call_answer_code(struct call *call, int32_t grpc_code, const char *fmt, ...) KATA__PRINTF(3, 4);

/* Must be called before the handler returns if the call is not answered by then. An answer does not call `forget`. */
void call_park(struct call *call, void (*forget)(struct call *call, void *user), void *user);
const void *call_request(const struct call *call);
enum kata__method_id call_method(const struct call *call);

/* The gRPC code that stands for a status. */
int32_t rpc_code_of(kata_status status);
#endif
