/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_UNIT_GUEST_HARNESS_H
#define KATA_TESTS_UNIT_GUEST_HARNESS_H
/* An rpc end on one side of a socket pair, a host's bytes on the other, and a loop the test turns. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.pb-c.h"
#include "base/clock.h"
#include "base/fd.h"
#include "guest/rpc.h"
#include "proto/message.h"

struct harness {
	struct kata__loop *loop;
	struct rpc *rpc;
	struct rpc_handlers handlers;
	int host;
	struct kata__buffer in;
};

struct reply {
	uint32_t stream_id;
	int32_t code;
	char text[256];
	uint8_t payload[1 << 19];
	size_t payload_len;
};

static inline int harness_connect(struct harness *h, bool is_channel)
{
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	cr_assert_eq(rpc_add(h->rpc, pair[0], is_channel, NULL), 0);
	return pair[1];
}

static inline void harness_init(struct harness *h, bool is_channel)
{
	signal(SIGPIPE, SIG_IGN);
	kata__buffer_init(&h->in, 64u << 20);
	cr_assert_eq(kata__loop_new(true, 1, &h->loop, NULL), 0);
	cr_assert_eq(rpc_new(h->loop, &h->handlers, &h->rpc, NULL), 0);
	h->host = harness_connect(h, is_channel);
}

/* Turns the loop until nothing is ready, but at least once. */
static inline void harness_turn(struct harness *h)
{
	struct pollfd p = {.fd = kata__loop_get_fd(h->loop), .events = POLLIN};

	do
		cr_assert_eq(kata__loop_dispatch(h->loop, 0, NULL), 0);
	while (poll(&p, 1, 0) > 0);
}

static inline void harness_send(struct harness *h, uint32_t id, const char *service, const char *method,
				const void *message, uint64_t timeout_ns)
{
	struct kata__ttrpc_call call = {
		.service = service, .method = method, .message = message, .timeout_ns = timeout_ns};
	struct kata__buffer out;

	kata__buffer_init(&out, KATA__TTRPC_FRAME_MAX);
	cr_assert_eq(kata__ttrpc_append_request(&out, id, &call, NULL), 0);
	while (kata__buffer_len(&out)) {
		ssize_t n = write(h->host, kata__buffer_bytes(&out), kata__buffer_len(&out));

		if (n > 0)
			kata__buffer_consume(&out, (size_t)n);
		harness_turn(h);
	}
	kata__buffer_deinit(&out);
	harness_turn(h);
}

/* The next reply; false when the agent has sent none. */
static inline bool harness_reply(struct harness *h, struct reply *r)
{
	struct kata__ttrpc_reader reader = {.is_server = false};
	struct kata__ttrpc_frame frame;
	struct kata__ttrpc_response response;
	uint8_t bytes[65536];
	ssize_t n;

	while ((n = read(h->host, bytes, sizeof(bytes))) > 0) {
		cr_assert_eq(kata__buffer_append(&h->in, bytes, (size_t)n), 0);
		harness_turn(h);
	}
	if (kata__ttrpc_next(&reader, &h->in, &frame, NULL) != 1)
		return false;
	cr_assert_eq(kata__ttrpc_read_response(&frame, &response, NULL), 0);
	r->stream_id = frame.stream_id;
	r->code = response.code;
	r->payload_len = response.payload.length;
	cr_assert_leq(r->payload_len, sizeof(r->payload));
	if (r->payload_len)
		memcpy(r->payload, response.payload.data, r->payload_len);
	snprintf(r->text, sizeof(r->text), "%.*s", (int)(response.text.length < 255 ? response.text.length : 255),
		 response.text.data ? (const char *)response.text.data : "");
	kata__ttrpc_consume(&h->in, &frame);
	return true;
}

/* Turns the loop until there is a reply or ms have gone by. */
static inline bool harness_await(struct harness *h, struct reply *r, unsigned ms)
{
	uint64_t deadline = kata__deadline_in_ms(ms);

	while (!harness_reply(h, r)) {
		if (kata__now_ns() > deadline)
			return false;
		cr_assert_eq(kata__loop_dispatch(h->loop, 10, NULL), 0);
	}
	return true;
}
#endif
