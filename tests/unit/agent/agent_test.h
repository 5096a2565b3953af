/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_UNIT_AGENT_AGENT_TEST_H
#define KATA_TESTS_UNIT_AGENT_AGENT_TEST_H
/*
 * A connection whose other end is the test: the agent side lives on the external loop of a context, the test holds
 * the peer's socket and reads requests and writes answers itself. All in one thread, so nothing depends on timing.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/kata.h"
#include "base/clock.h"
#include "proto/message.h"
#include "support/fixture.h"

#define PATIENCE_MS 10000 /* longest wait for what must come */

struct wire {
	int fd; /* the peer's end, non-blocking */
	struct kata__buffer in;
	struct kata__ttrpc_reader reader;
};

struct received {
	uint32_t id;
	char service[32], method[32];
	const struct kata__method *type;
	void *message; /* of type->request; free with kata__proto_free */
	uint64_t timeout_ns;
};

static inline void wire_pair(int fds[2])
{
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
}

static inline void wire_init(struct wire *w, int fd)
{
	*w = (struct wire){.fd = fd, .reader = {.is_server = true}};
	kata__buffer_init(&w->in, KATA__TTRPC_FRAME_MAX + 65536);
}

static inline void wire_deinit(struct wire *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	kata__buffer_deinit(&w->in);
}

static inline void wire_hang_up(struct wire *w)
{
	close(w->fd);
	w->fd = -1;
}

/* Takes what has been sent. False: nothing more for now. */
static inline bool wire_fill(struct wire *w)
{
	uint8_t *to = kata__buffer_reserve(&w->in, 65536);
	ssize_t n = recv(w->fd, to, 65536, 0);

	if (n > 0)
		kata__buffer_added(&w->in, (size_t)n);
	return n > 0;
}

/* A whole request if one has come. */
static inline bool wire_try_read(struct wire *w, struct received *ret)
{
	struct kata__ttrpc_frame frame;
	struct kata__ttrpc_request r;
	ProtobufCMessage *message = NULL;
	kata_error *err = NULL;
	int method, rc;

	while (wire_fill(w))
		;
	rc = kata__ttrpc_next(&w->reader, &w->in, &frame, &err);
	cr_assert_geq(rc, 0, "%s", error_text(err));
	if (rc == 0)
		return false;
	fixture_assert_ok(kata__ttrpc_read_request(&frame, &r, &err), err);
	*ret = (struct received){.id = frame.stream_id, .timeout_ns = r.timeout_ns};
	memcpy(ret->service, r.service.data, r.service.length);
	memcpy(ret->method, r.method.data, r.method.length);
	method = kata__method_find(ret->service, r.service.length, ret->method, r.method.length);
	cr_assert_geq(method, 0, "%s/%s is no method", ret->service, ret->method);
	ret->type = &kata__methods[method];
	fixture_assert_ok(kata__proto_unpack(ret->type->request, r.payload.data, r.payload.length, &message, &err),
			  err);
	ret->message = message;
	kata__ttrpc_consume(&w->in, &frame);
	return true;
}

/* The next request, which must have been sent by now or be on its way in the socket. */
static inline void wire_read(struct wire *w, struct received *ret)
{
	uint64_t deadline = kata__deadline_in_ms(PATIENCE_MS);

	while (!wire_try_read(w, ret)) {
		struct pollfd p = {.fd = w->fd, .events = POLLIN};

		cr_assert_eq(poll(&p, 1, kata__deadline_left_ms(deadline)), 1, "no request came");
	}
}

/* The id of the next request; the rest is dropped. */
static inline uint32_t wire_read_id(struct wire *w)
{
	struct received r;

	wire_read(w, &r);
	kata__proto_free(r.message);
	return r.id;
}

static inline void wire_send(struct wire *w, const void *data, size_t length)
{
	cr_assert_eq(send(w->fd, data, length, MSG_NOSIGNAL), (ssize_t)length);
}

static inline void wire_reply(struct wire *w, uint32_t id, const struct kata__ttrpc_reply *reply)
{
	struct kata__buffer out;
	kata_error *err = NULL;

	kata__buffer_init(&out, KATA__TTRPC_FRAME_MAX);
	fixture_assert_ok(kata__ttrpc_append_response(&out, id, reply, &err), err);
	wire_send(w, kata__buffer_bytes(&out), kata__buffer_len(&out));
	kata__buffer_deinit(&out);
}

/* message: of any generated type; NULL: without fields. */
static inline void wire_answer(struct wire *w, uint32_t id, const void *message)
{
	wire_reply(w, id, &(struct kata__ttrpc_reply){.message = message});
}

static inline void wire_refuse(struct wire *w, uint32_t id, int32_t code, const char *text)
{
	wire_reply(w, id, &(struct kata__ttrpc_reply){.code = code, .text = text});
}

/* Runs the loop until nothing is left to do at once. */
static inline void settle(kata_context *context)
{
	kata_error *err = NULL;

	for (int i = 0; i < 20; i++)
		fixture_assert_ok(kata_context_dispatch(context, 0, &err), err);
}

/* ---- an agent over such a wire, without a VM */

struct link {
	struct fixture f;
	kata_agent *agent;
	struct wire wire;
};

struct link_making {
	struct link *link;
	int fd;
	uint32_t first_id;
	bool has_guest_service;
};

static inline void link_make(void *user)
{
	struct link_making *m = user;
	kata_context *context = m->link->f.context;
	struct kata__ttrpc_client *client = NULL;
	struct kata__kata *kata = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata__agent_new(context, NULL, &m->link->agent, &err), err);
	fixture_assert_ok(kata__kata_new(NULL, &kata, &err), err);
	fixture_assert_ok(
		kata__ttrpc_client_new(kata__context_loop(context), m->fd, m->first_id, NULL, NULL, &client, &err),
		err);
	kata__kata_attach(kata, m->link->agent, client, m->has_guest_service);
	kata__agent_connected(m->link->agent, &kata__kata_ops, kata, NULL, m->has_guest_service);
}

static inline void link_open_with(struct link *l, uint64_t flags, uint32_t first_id, bool has_guest_service)
{
	struct link_making m = {.link = l, .first_id = first_id, .has_guest_service = has_guest_service};
	int fds[2];

	*l = (struct link){0};
	fixture_init(&l->f, true, flags);
	wire_pair(fds);
	m.fd = fds[0];
	wire_init(&l->wire, fds[1]);
	kata__agent_on_leader(l->f.context, link_make, &m);
}

static inline void link_open(struct link *l)
{
	link_open_with(l, KATA_CONTEXT_EXTERNAL_LOOP, 1, true);
}

static inline void link_close(struct link *l)
{
	kata_agent_unref(l->agent);
	wire_deinit(&l->wire);
	fixture_deinit(&l->f);
}

static inline kata_op *link_begin(struct link *l, const kata_agent_request *request)
{
	kata_error *err = NULL;
	kata_op *op = NULL;

	fixture_assert_ok(kata_agent_call_begin(l->agent, request, NULL, &op, &err), err);
	return op;
}

/* Begins a call and reads the request it became. */
static inline kata_op *link_call(struct link *l, const kata_agent_request *request, struct received *ret)
{
	kata_op *op = link_begin(l, request);

	wire_read(&l->wire, ret);
	return op;
}

/* Waits for the op and drops it; the error is the caller's. */
static inline int link_end(kata_op *take_op, kata_error **err)
{
	int rc = kata_op_wait(take_op, err);

	kata_op_unref(take_op);
	return rc;
}

#define REQUEST(...) (&(kata_agent_request){.size = sizeof(kata_agent_request), __VA_ARGS__})
#endif
