/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc.c - connections, frames in, calls, frames out.
 *
 * Model: a connection has a reader, an input and an output buffer and a list of calls. Reading stops while the output
 * holds more than OUT_PAUSE bytes, so a host that asks and does not read gets no further than that.
 *
 * A virtio-serial port is one byte stream for all hosts that ever connect. Its fd is watched edge-triggered, for
 * POLLHUP stays up while no host is there. Two things say "another host": POLLHUP that begins,
 * and a request whose id does not grow (a client counts from 1), which also catches a host that left and came back
 * between two looks. Either drops unsent output and parked calls. A broken stream is read and dropped until POLLHUP.
 * A host that died in the middle of a frame and was followed by another between two looks leaves us waiting for the
 * rest: nothing tells its bytes from the next one's, for what is in a frame may come from a container's user. A frame
 * that does not grow for STALL_MS is therefore given up, and so is a broken stream that is silent as long; the next
 * host's first call may be lost with it, and its second try is understood.
 *
 * Invariants: 1. a call is on its connection's list until it ends. 2. no answer reaches a host that did not ask.
 */
#include "guest/rpc.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/text.h"
#include "guest/kmsg.h"
#include "proto/message.h"

#define OUT_PAUSE (1u << 20)
#define OUT_MAX (64u << 20)
#define READ_SIZE 65536u
#define READS_PER_TURN 16
#define STALL_MS 2000

struct call {
	struct call *next;
	struct rpc_connection *connection;
	uint32_t stream_id;
	enum kata__method_id method;
	void *request;
	size_t request_len;
	struct kata__timer *timer;
	void (*forget)(struct call *call, void *user);
	void *user;
};

struct rpc_connection {
	struct rpc *rpc;
	int fd;
	bool is_channel;
	struct kata__watch *watch;
	struct kata__ttrpc_reader reader;
	struct kata__buffer in, out;
	struct call *calls;
	size_t call_count, call_bytes;
	uint64_t drop;  /* bytes of an oversized request still to be passed over */
	bool is_broken; /* what comes in has no meaning until the host changes */
	bool has_host;
	bool is_hung_up; /* a channel had no host when we looked last */
	uint64_t bytes_read, bytes_at_stall;
	struct kata__timer *stall; /* runs while a channel is in the middle of something */
};

struct rpc {
	struct kata__loop *loop;
	const struct rpc_handlers *handlers;
	struct rpc_connection *connections[RPC_CONNECTIONS_MAX];
	uint64_t session_count;
	void (*flushed)(void *user);
	void *flushed_user;
};

/* ---- calls */

static void call_free(struct call *call)
{
	struct rpc_connection *c = call->connection;
	struct call **p = &c->calls;

	while (*p != call)
		p = &(*p)->next;
	*p = call->next;
	c->call_count--;
	c->call_bytes -= call->request_len;
	kata__timer_remove(call->timer);
	kata__proto_free(call->request);
	free(call);
}

static void call_forget(struct call *call)
{
	if (call->forget)
		call->forget(call, call->user);
}

static void flush_soon(struct rpc_connection *c);

static void call_end(struct call *call, const struct kata__ttrpc_reply *reply)
{
	struct rpc_connection *c = call->connection;
	kata_error *err = NULL;

	if (kata__ttrpc_append_response(&c->out, call->stream_id, reply, &err) != 0) {
		kmsg_error("an answer was lost: %s", kata_error_get_message(err));
		kata_error_free(err);
	}
	call_free(call);
	flush_soon(c);
}

void call_answer(struct call *call, const void *response)
{
	call_end(call, &(struct kata__ttrpc_reply){.code = KATA__GRPC_OK, .message = response});
}

/* Errors quote what the host sent, which may be anything; on the wire a text is UTF-8. */
static void call_end_failed(struct call *call, int32_t grpc_code, const char *text)
{
	KATA_AUTO(free) char *clean = kata__sanitize(text, strlen(text), false);

	call_end(call, &(struct kata__ttrpc_reply){.code = grpc_code, .text = clean ? clean : "out of memory"});
}

void call_answer_code(struct call *call, int32_t grpc_code, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	call_end_failed(call, grpc_code, text);
}

int32_t rpc_code_of(kata_status status)
{
	switch (status) {
	case KATA_E_INVALID:
		return KATA__GRPC_INVALID_ARGUMENT;
	case KATA_E_STATE:
	case KATA_E_BUSY:
		return KATA__GRPC_FAILED_PRECONDITION;
	case KATA_E_NOT_FOUND:
		return KATA__GRPC_NOT_FOUND;
	case KATA_E_EXISTS:
		return KATA__GRPC_ALREADY_EXISTS;
	case KATA_E_EXHAUSTED:
	case KATA_E_NO_MEMORY:
		return KATA__GRPC_RESOURCE_EXHAUSTED;
	case KATA_E_TIMEOUT:
		return KATA__GRPC_DEADLINE_EXCEEDED;
	case KATA_E_UNSUPPORTED:
		return KATA__GRPC_UNIMPLEMENTED;
	case KATA_E_GONE:
		return KATA__GRPC_UNAVAILABLE;
	case KATA_E_PROTOCOL:
		return KATA__GRPC_INVALID_ARGUMENT;
	default:
		return KATA__GRPC_INTERNAL;
	}
}

void call_answer_error(struct call *call, kata_error **take_err)
{
	char text[4096];
	size_t n = 0;

	text[0] = '\0';
	for (const kata_error *e = *take_err; e && n < sizeof(text) - 1; e = kata_error_get_cause(e))
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", n ? ": " : "", kata_error_get_message(e));
	call_end_failed(call, rpc_code_of(kata_error_get_status(*take_err)), text);
	kata_error_free(*take_err);
	*take_err = NULL;
}

static void on_call_timeout(void *user)
{
	struct call *call = user;

	call->timer = NULL;
	call_forget(call);
	call_answer_code(call, KATA__GRPC_DEADLINE_EXCEEDED, "timeout");
}

void call_park(struct call *call, void (*forget)(struct call *call, void *user), void *user)
{
	call->forget = forget;
	call->user = user;
}

const void *call_request(const struct call *call)
{
	return call->request;
}

enum kata__method_id call_method(const struct call *call)
{
	return call->method;
}

/* ---- hosts */

static void drop_calls(struct rpc_connection *c)
{
	while (c->calls) {
		struct call *call = c->calls;

		call_forget(call);
		call_free(call);
	}
}

/* The host behind the connection is gone or another one: nothing of the old one's is left. */
static void reset_host(struct rpc_connection *c)
{
	drop_calls(c);
	kata__buffer_consume(&c->out, kata__buffer_len(&c->out));
	c->reader = (struct kata__ttrpc_reader){.is_server = true};
	c->drop = 0;
	c->is_broken = false;
	c->has_host = false;
}

static void connection_free(struct rpc_connection *c)
{
	struct rpc *rpc = c->rpc;

	drop_calls(c);
	kata__timer_remove(c->stall);
	for (size_t i = 0; i < RPC_CONNECTIONS_MAX; i++)
		if (rpc->connections[i] == c)
			rpc->connections[i] = NULL;
	kata__watch_remove(c->watch);
	kata__close_fd(&c->fd);
	kata__buffer_deinit(&c->in);
	kata__buffer_deinit(&c->out);
	free(c);
}

/* ---- frames in */

static void refuse(struct rpc_connection *c, uint32_t stream_id, int32_t code, const char *text)
{
	KATA_AUTO(free) char *clean = kata__sanitize(text, strlen(text), false);

	kata__ttrpc_append_response(&c->out, stream_id, &(struct kata__ttrpc_reply){.code = code, .text = clean}, NULL);
}

static void refuse_unknown(struct rpc_connection *c, uint32_t id, const struct kata__ttrpc_request *r)
{
	bool known = kata__service_is_known((const char *)r->service.data, r->service.length);
	const struct kata__slice *s = known ? &r->method : &r->service;
	char text[256];

	snprintf(text, sizeof(text), "%s %.*s", known ? "method" : "service", (int)(s->length < 200 ? s->length : 200),
		 s->data ? (const char *)s->data : "");
	refuse(c, id, KATA__GRPC_UNIMPLEMENTED, text);
}

static struct call *call_new(struct rpc_connection *c, uint32_t id, int method, void *request,
			     const struct kata__ttrpc_request *r)
{
	struct call *call = calloc(1, sizeof(*call));

	if (!call)
		return NULL;
	*call = (struct call){.next = c->calls,
			      .connection = c,
			      .stream_id = id,
			      .method = (enum kata__method_id)method,
			      .request = request,
			      .request_len = r->payload.length};
	c->calls = call;
	c->call_count++;
	c->call_bytes += call->request_len;
	if (r->timeout_ns)
		kata__timer_add(c->rpc->loop, kata__now_ns() + r->timeout_ns, on_call_timeout, call, &call->timer,
				NULL);
	return call;
}

static void handle_frame(struct rpc_connection *c, const struct kata__ttrpc_frame *frame)
{
	const struct rpc_handlers *h = c->rpc->handlers;
	KATA_AUTO(kata_error_free) kata_error *err = NULL;
	struct kata__ttrpc_request r;
	ProtobufCMessage *request = NULL;
	struct call *call;
	int method;

	if (kata__ttrpc_read_request(frame, &r, &err) != 0) {
		refuse(c, frame->stream_id, KATA__GRPC_INVALID_ARGUMENT, kata_error_get_message(err));
		return;
	}
	method = kata__method_find((const char *)r.service.data, r.service.length, (const char *)r.method.data,
				   r.method.length);
	if (method < 0 || !h->methods[method]) {
		refuse_unknown(c, frame->stream_id, &r);
		return;
	}
	if (c->call_count >= RPC_PARKED_MAX || c->call_bytes + r.payload.length > RPC_PARKED_BYTES_MAX) {
		refuse(c, frame->stream_id, KATA__GRPC_RESOURCE_EXHAUSTED,
		       "4096 calls, or 32 MiB of them, are under way on this connection");
		return;
	}
	if (kata__proto_unpack(kata__methods[method].request, r.payload.data, r.payload.length, &request, &err) != 0) {
		refuse(c, frame->stream_id, KATA__GRPC_INVALID_ARGUMENT, kata_error_get_message(err));
		return;
	}
	call = call_new(c, frame->stream_id, method, request, &r);
	if (!call) {
		kata__proto_free(request);
		refuse(c, frame->stream_id, KATA__GRPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	h->methods[method](h->user, call, request);
}

static void meet_host(struct rpc_connection *c)
{
	if (!c->has_host)
		c->rpc->session_count++;
	c->has_host = true;
}

/* What to do with a frame the reader refuses. True: go on reading. */
static bool recover_stream(struct rpc_connection *c)
{
	struct kata__cursor at = kata__cursor_over(kata__buffer_bytes(&c->in), kata__buffer_len(&c->in));
	struct kata__ttrpc_header h;

	if (!kata__ttrpc_header_decode(&at, &h) || h.type != KATA__TTRPC_REQUEST)
		return false;
	if (h.length > KATA__TTRPC_DATA_MAX && h.length >> 24 == 0) {
		refuse(c, h.stream_id, KATA__GRPC_RESOURCE_EXHAUSTED,
		       "message length exceeds the maximum message size of 4194304");
		c->drop = KATA__TTRPC_HEADER_SIZE + (uint64_t)h.length;
		return true;
	}
	return false;
}

/* Looked at before the reader refuses the frame: to a machine that was loaded from a saved state this is how the first
 * host shows, and an error in the making would double what its first answer takes. */
static void look_for_another_host(struct rpc_connection *c)
{
	struct kata__cursor at = kata__cursor_over(kata__buffer_bytes(&c->in), kata__buffer_len(&c->in));
	struct kata__ttrpc_header h;

	if (!c->is_channel || c->drop || !c->reader.last_id || !kata__ttrpc_header_decode(&at, &h) ||
	    h.type != KATA__TTRPC_REQUEST || h.length >> 24 || h.stream_id > c->reader.last_id)
		return;
	reset_host(c);
	meet_host(c);
	c->is_hung_up = true; /* a hang-up that is seen now is the old one's */
}

static void pass_over(struct rpc_connection *c)
{
	size_t n = kata__buffer_len(&c->in);

	if (n > c->drop)
		n = (size_t)c->drop;
	kata__buffer_consume(&c->in, n);
	c->drop -= n;
}

static void handle_input(struct rpc_connection *c)
{
	struct kata__ttrpc_frame frame;
	kata_error *err = NULL;

	while (!c->is_broken && kata__buffer_len(&c->out) < OUT_PAUSE) {
		int rc;

		pass_over(c);
		look_for_another_host(c);
		rc = c->drop ? 0 : kata__ttrpc_next(&c->reader, &c->in, &frame, &err);
		if (rc == 0)
			return;
		if (rc < 0) {
			c->is_broken = !recover_stream(c);
			if (c->is_broken)
				kmsg_error("the host sent what is not ttrpc: %s", kata_error_get_message(err));
			kata_error_free(err);
			err = NULL;
			continue;
		}
		meet_host(c);
		handle_frame(c, &frame);
		kata__ttrpc_consume(&c->in, &frame);
	}
	if (c->is_broken)
		kata__buffer_consume(&c->in, kata__buffer_len(&c->in));
}

/* ---- bytes */

/* False: the peer is gone. *ret_more: there may be more to read. */
static bool read_some(struct rpc_connection *c, bool *ret_more)
{
	size_t want = kata__ttrpc_wanted(&c->in);
	uint8_t *to;
	ssize_t n;

	*ret_more = false;
	want = want > READ_SIZE ? want : READ_SIZE;
	to = kata__buffer_reserve(&c->in, want);
	if (!to)
		return true;
	n = read(c->fd, to, want);
	if (n > 0) {
		kata__buffer_added(&c->in, (size_t)n);
		c->bytes_read += (size_t)n;
	}
	*ret_more = n > 0;
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/* False: the peer is gone. */
static bool write_some(struct rpc_connection *c)
{
	while (kata__buffer_len(&c->out)) {
		ssize_t n = write(c->fd, kata__buffer_bytes(&c->out), kata__buffer_len(&c->out));

		if (n <= 0)
			return n < 0 && (errno == EAGAIN || errno == EINTR);
		kata__buffer_consume(&c->out, (size_t)n);
	}
	return true;
}

static void set_interest(struct rpc_connection *c)
{
	bool reads = kata__buffer_len(&c->out) < OUT_PAUSE;

	if (!c->is_channel)
		kata__watch_set_events(c->watch, (reads ? EPOLLIN : 0u) | (kata__buffer_len(&c->out) ? EPOLLOUT : 0u));
}

static void tell_flushed(struct rpc *rpc)
{
	void (*fn)(void *user) = rpc->flushed;

	for (size_t i = 0; i < RPC_CONNECTIONS_MAX; i++)
		if (rpc->connections[i] && kata__buffer_len(&rpc->connections[i]->out))
			return;
	rpc->flushed = NULL;
	if (fn)
		fn(rpc->flushed_user);
}

/*
 * Asking is not free of effects: to answer, the kernel's driver takes data that has just come out of the queue, and its
 * interrupt then finds nothing new and wakes nobody. So what is seen here must be acted upon here.
 */
static bool has_hung_up(struct rpc_connection *c)
{
	struct pollfd p = {.fd = c->fd, .events = POLLIN};

	if (poll(&p, 1, 0) <= 0)
		return false;
	if (p.revents & (POLLHUP | POLLERR))
		return true;
	if (kata__buffer_len(&c->out) < OUT_PAUSE)
		kata__watch_look_again(c->watch);
	return false;
}

static void drop_input(struct rpc_connection *c)
{
	bool more = true;

	while (more) {
		kata__buffer_consume(&c->in, kata__buffer_len(&c->in));
		if (!read_some(c, &more))
			more = false;
	}
	kata__buffer_consume(&c->in, kata__buffer_len(&c->in));
}

/*
 * A channel's host left when the hang-up begins: what it still sent is of no use. While the hang-up lasts, data is the
 * next host's: it may get here before the kernel has heard that there is one.
 */
static void look_for_host(struct rpc_connection *c, bool has_more)
{
	bool was = c->is_hung_up;

	c->is_hung_up = has_hung_up(c);
	if (!c->is_hung_up || was)
		return;
	if (has_more)
		drop_input(c);
	kata__buffer_consume(&c->in, kata__buffer_len(&c->in));
	reset_host(c);
}

static void pump(struct rpc_connection *c);

static void on_stall(void *user)
{
	struct rpc_connection *c = user;
	uint64_t before = c->bytes_at_stall;

	c->stall = NULL;
	pump(c); /* we may be the ones who are late */
	if (!c->stall || c->bytes_read != before)
		return;
	kata__timer_remove(c->stall);
	c->stall = NULL;
	kmsg_error("the host stopped in the middle of a frame");
	reset_host(c);
	kata__buffer_consume(&c->in, kata__buffer_len(&c->in));
}

static void watch_for_stall(struct rpc_connection *c)
{
	bool is_halfway = c->is_broken || c->drop || kata__buffer_len(&c->in);

	if (c->stall && is_halfway && c->bytes_read == c->bytes_at_stall)
		return;
	kata__timer_remove(c->stall);
	c->stall = NULL;
	if (!is_halfway || kata__buffer_len(&c->out) >= OUT_PAUSE)
		return;
	c->bytes_at_stall = c->bytes_read;
	kata__timer_add(c->rpc->loop, kata__deadline_in_ms(STALL_MS), on_stall, c, &c->stall, NULL);
}

static void pump(struct rpc_connection *c)
{
	struct rpc *rpc = c->rpc;
	bool more = true, there = true;

	for (int turn = 0; there && more && turn < READS_PER_TURN; turn++) {
		more = false;
		if (kata__buffer_len(&c->out) < OUT_PAUSE)
			there = read_some(c, &more);
		handle_input(c);
		there = there && write_some(c);
	}
	if (more && c->is_channel)
		kata__watch_look_again(c->watch);
	if (c->is_channel) {
		look_for_host(c, more);
		watch_for_stall(c);
	} else if (there) {
		set_interest(c);
	} else {
		connection_free(c);
	}
	tell_flushed(rpc);
}

static void on_stream(void *user, uint32_t events)
{
	pump(user);
}

/* Answers given outside pump(): one write now; what does not go is sent when the fd says so. */
static void flush_soon(struct rpc_connection *c)
{
	if (!write_some(c))
		return; /* the watch is about to say the same */
	set_interest(c);
}

/* ---- connections */

int rpc_add(struct rpc *rpc, int take_fd, bool is_channel, kata_error **err)
{
	KATA_AUTO_FD int fd = take_fd;
	struct rpc_connection *c;
	size_t slot = 0;
	int rc;

	while (slot < RPC_CONNECTIONS_MAX && rpc->connections[slot])
		slot++;
	if (slot == RPC_CONNECTIONS_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "%d hosts are connected", RPC_CONNECTIONS_MAX);
	c = calloc(1, sizeof(*c));
	if (!c)
		return kata__fail_no_memory(err);
	c->rpc = rpc;
	c->fd = kata__take_fd(&fd);
	c->is_channel = is_channel;
	c->reader.is_server = true;
	kata__buffer_init(&c->in, KATA__TTRPC_FRAME_MAX + 2 * READ_SIZE);
	kata__buffer_init(&c->out, OUT_MAX);
	rpc->connections[slot] = c;
	rc = kata__watch_add(rpc->loop, c->fd, is_channel ? EPOLLIN | EPOLLOUT | EPOLLET : EPOLLIN, on_stream, c,
			     &c->watch, err);
	if (rc != 0)
		connection_free(c);
	return rc;
}

int rpc_new(struct kata__loop *loop, const struct rpc_handlers *handlers, struct rpc **ret, kata_error **err)
{
	struct rpc *rpc = calloc(1, sizeof(*rpc));

	if (!rpc)
		return kata__fail_no_memory(err);
	rpc->loop = loop;
	rpc->handlers = handlers;
	*ret = rpc;
	return 0;
}

uint64_t rpc_session_count(const struct rpc *rpc)
{
	return rpc->session_count;
}

void rpc_when_flushed(struct rpc *rpc, void (*fn)(void *user), void *user)
{
	rpc->flushed = fn;
	rpc->flushed_user = user;
	tell_flushed(rpc);
}
