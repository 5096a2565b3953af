/* SPDX-License-Identifier: Apache-2.0 */
/*
 * port.c - the agent's virtio-serial port: the mock's agent behind a socket, with the script's faults at each method.
 *
 * The guest is up as soon as the machine has run; what the host sends before that waits. While the machine is stopped
 * nothing moves.
 */
#include "qemu_standin/standin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "proto/ttrpc.h"
#include "vm/mock/mock_agent.h"

struct delayed {
	struct delayed *next;
	struct port *port;
	struct kata__mock_call *call;
	uint64_t due_ns;
};

struct port {
	struct standin *s;
	struct endpoint e;
	struct kata__mock_agent *agent;
	struct delayed *delayed;
	bool hang_up;
	bool dead; /* half a frame was sent: nothing may follow */
};

static struct kata__buffer *output(struct port *p)
{
	return kata__mock_agent_output(p->agent);
}

/* ---- faults */

static void put_frame(struct port *p, uint32_t length, uint32_t stream_id, uint8_t type, size_t data_length)
{
	struct kata__ttrpc_header header = {.length = length, .stream_id = stream_id, .type = type};
	uint8_t bytes[KATA__TTRPC_HEADER_SIZE];
	static const uint8_t data[64];

	kata__ttrpc_header_encode(&header, bytes);
	kata__buffer_append(output(p), bytes, sizeof(bytes));
	kata__buffer_append(output(p), data, data_length);
}

static void forget(void *user)
{
	struct delayed *d = user;
	struct delayed **at = &d->port->delayed;

	while (*at != d)
		at = &(*at)->next;
	*at = d->next;
	free(d);
}

static void delay(struct port *p, struct kata__mock_call *call, uint64_t ms)
{
	struct delayed *d = calloc(1, sizeof(*d));

	if (!d)
		abort();
	d->port = p;
	d->call = call;
	d->due_ns = kata__deadline_in_ms(ms);
	d->next = p->delayed;
	p->delayed = d;
	kata__mock_call_take(call, forget, d);
}

static void cut_answer(struct port *p, struct kata__mock_call *call)
{
	size_t before = kata__buffer_len(output(p));
	size_t after;

	kata__mock_call_run(call);
	after = kata__buffer_len(output(p));
	if (after > before)
		output(p)->len -= (after - before + 1) / 2;
}

static void answer_twice(struct port *p, struct kata__mock_call *call)
{
	size_t before = kata__buffer_len(output(p));
	uint8_t copy[65536];
	size_t n;

	kata__mock_call_run(call);
	n = kata__buffer_len(output(p)) - before;
	if (n > sizeof(copy))
		return;
	memcpy(copy, kata__buffer_bytes(output(p)) + before, n);
	kata__buffer_append(output(p), copy, n);
}

/* The call never gets its answer: what is sent in its place is wrong. */
static void answer_wrongly(struct port *p, struct kata__mock_call *call, enum action action)
{
	uint32_t stream_id = kata__mock_call_get_stream_id(call);

	kata__mock_call_drop(call);
	if (action == ACT_BAD_FRAME)
		put_frame(p, 0xff000004u, stream_id, KATA__TTRPC_RESPONSE, 4);
	else if (action == ACT_OVERSIZE)
		put_frame(p, KATA__TTRPC_DATA_MAX + 1, stream_id, KATA__TTRPC_RESPONSE, 64);
	else
		put_frame(p, 16, stream_id, KATA__TTRPC_RESPONSE, 16); /* a key with field number 0 */
}

static void misbehave(struct port *p, struct kata__mock_call *call, const struct rule *r)
{
	switch (r->action) {
	case ACT_ERROR:
		kata__mock_call_fail(call, (int32_t)r->number, "%s", r->text);
		break;
	case ACT_SILENCE:
		kata__mock_call_drop(call);
		break;
	case ACT_LOST:
		kata__mock_call_set_stream_id(call, 0x7ffffff1u);
		kata__mock_call_run(call);
		break;
	case ACT_WRONG_STREAM:
		kata__mock_call_set_stream_id(call, kata__mock_call_get_stream_id(call) + 100001 * 2);
		kata__mock_call_run(call);
		break;
	case ACT_DELAY:
		delay(p, call, r->number);
		break;
	case ACT_REPLY_TWICE:
		answer_twice(p, call);
		break;
	case ACT_TRUNCATED:
	case ACT_HALF_LINE:
		cut_answer(p, call);
		p->dead = r->action == ACT_HALF_LINE;
		p->hang_up = r->action == ACT_TRUNCATED;
		break;
	case ACT_HANG_UP:
		kata__mock_call_run(call);
		kata__buffer_consume(output(p), kata__buffer_len(output(p)));
		p->hang_up = true;
		break;
	case ACT_FLOOD:
		for (uint64_t i = 0; i < r->number; i++)
			put_frame(p, 0, 0x40000001u + 2 * (uint32_t)i, KATA__TTRPC_RESPONSE, 0);
		kata__mock_call_run(call);
		break;
	default:
		answer_wrongly(p, call, r->action);
	}
}

/* ---- the agent's host */

static bool intercept(void *user, struct kata__mock_call *call)
{
	struct port *p = user;
	const struct rule *r = script_next(p->s->rules, kata__mock_call_method(call));

	if (!r)
		return false;
	misbehave(p, call, r);
	return true;
}

static bool find_device(void *user, const char *kind, const char *address, char ret_name[32], uint64_t *ret_size)
{
	struct port *p = user;

	return model_guest_find(&p->s->model, kind, address, ret_name, ret_size);
}

static void power_off(void *user)
{
	struct port *p = user;

	p->s->powered_off = true;
}

static const struct kata__mock_host host_ops = {
	.intercept = intercept,
	.find_device = find_device,
	.power_off = power_off,
};

/* ---- the connection */

void port_new(struct standin *s, int fd, bool listening)
{
	struct port *p = calloc(1, sizeof(*p));

	if (!p || kata__mock_agent_new(&host_ops, p, &p->agent, NULL) < 0)
		abort();
	p->s = s;
	endpoint_init(&p->e);
	if (listening)
		p->e.listen_fd = fd;
	else
		p->e.fd = fd;
	s->port = p;
}

static void disconnect(struct port *p)
{
	endpoint_close(&p->e);
	kata__mock_agent_reset(p->agent);
	p->hang_up = false;
	p->dead = false;
}

static void send_output(struct port *p)
{
	endpoint_put(&p->e, kata__buffer_bytes(output(p)), kata__buffer_len(output(p)));
	kata__buffer_consume(output(p), kata__buffer_len(output(p)));
	if (!endpoint_flush(&p->e) || p->hang_up)
		disconnect(p);
}

static bool receive(struct port *p)
{
	char chunk[65536];
	ssize_t n = recv(p->e.fd, chunk, sizeof(chunk), MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	return n > 0 && (p->dead || kata__mock_agent_input(p->agent, chunk, (size_t)n, NULL) == 0);
}

static void run_delayed(struct port *p)
{
	uint64_t now_ns = kata__now_ns();

	for (struct delayed *d = p->delayed, *next; d; d = next) {
		struct kata__mock_call *call = d->call;

		next = d->next;
		if (now_ns < d->due_ns)
			continue;
		forget(d);
		kata__mock_call_run(call);
	}
}

static bool may_move(const struct standin *s)
{
	return s->model.running && s->model.started;
}

struct pollfd port_poll(const struct standin *s)
{
	if (!s->port)
		return (struct pollfd){.fd = -1};
	return endpoint_poll(&s->port->e, may_move(s) && kata__buffer_len(&s->port->e.out) < KATA__MOCK_AGENT_BACKLOG);
}

void port_serve(struct standin *s, short revents)
{
	struct port *p = s->port;

	if (!p)
		return;
	endpoint_accept(&p->e);
	if (p->e.fd >= 0 && revents & (POLLHUP | POLLERR) && !(revents & POLLIN))
		disconnect(p);
	if (!may_move(s))
		return;
	if (p->e.fd >= 0 && revents & POLLIN && !receive(p))
		disconnect(p);
	run_delayed(p);
	if (kata__now_ns() >= kata__mock_agent_deadline(p->agent))
		kata__mock_agent_changed(p->agent);
	if (p->e.fd >= 0)
		send_output(p);
}

uint64_t port_deadline(const struct standin *s)
{
	uint64_t first;

	if (!s->port || !may_move(s))
		return KATA__NEVER;
	first = kata__mock_agent_deadline(s->port->agent);
	for (const struct delayed *d = s->port->delayed; d; d = d->next)
		first = d->due_ns < first ? d->due_ns : first;
	return first;
}

void port_machine_changed(struct standin *s)
{
	if (s->port && may_move(s))
		kata__mock_agent_changed(s->port->agent);
}

bool port_is_idle(const struct standin *s)
{
	return !s->port || s->port->e.fd < 0 ||
	       (!kata__buffer_len(&s->port->e.out) && !kata__buffer_len(output(s->port)));
}
