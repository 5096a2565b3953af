/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mock_channel.c - the simulated agent on the context's loop, behind one end of a socket pair.
 *
 * Invariants: 1. fd, watch and timers exist only while a host is connected. 2. while the machine is paused nothing is
 * read, written or timed: what comes waits in the socket. 3. a call that is delayed is in `delayed` until its timer has
 * fired or the agent forgot it.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "proto/ttrpc.h"
#include "vm/mock/mock.h"

#define CHUNK 16384

struct delayed {
	struct delayed *next;
	struct kata__mock_channel *channel;
	struct kata__mock_call *call;
	struct kata__timer *timer;
};

struct kata__mock_channel {
	struct kata__mock_machine *machine;
	struct kata__mock_agent *agent;
	struct kata__loop *loop;
	int fd;
	struct kata__watch *watch;
	struct kata__timer *timer;
	uint64_t timer_ns;
	struct delayed *delayed;
	bool paused;
	bool powering_off;
	bool hang_up;
};

static void settle(struct kata__mock_channel *c);

/* ---- delayed and failing calls */

static int32_t code_of(int status)
{
	switch (status) {
	case KATA_E_CANCELLED:
		return KATA__GRPC_CANCELLED;
	case KATA_E_INVALID:
		return KATA__GRPC_INVALID_ARGUMENT;
	case KATA_E_TIMEOUT:
		return KATA__GRPC_DEADLINE_EXCEEDED;
	case KATA_E_NOT_FOUND:
		return KATA__GRPC_NOT_FOUND;
	case KATA_E_EXISTS:
		return KATA__GRPC_ALREADY_EXISTS;
	case KATA_E_PERMISSION:
		return KATA__GRPC_PERMISSION_DENIED;
	case KATA_E_EXHAUSTED:
	case KATA_E_NO_MEMORY:
		return KATA__GRPC_RESOURCE_EXHAUSTED;
	case KATA_E_STATE:
	case KATA_E_BUSY:
		return KATA__GRPC_FAILED_PRECONDITION;
	case KATA_E_UNSUPPORTED:
		return KATA__GRPC_UNIMPLEMENTED;
	default:
		return KATA__GRPC_INTERNAL;
	}
}

/* Ends the host's hold on the call, as the caller of the mock wants it to end. */
static void finish_call(struct kata__mock_channel *c, struct kata__mock_call *call)
{
	int status = kata__mock_controls_take_failure(c->machine->controls, KATA_MOCK_AGENT_CALL);

	if (!status) {
		kata__mock_call_run(call);
	} else if (status == KATA_E_GONE) {
		c->hang_up = true;
		kata__mock_call_drop(call);
	} else {
		kata__mock_call_fail(call, code_of(status), "the mock was told to fail this call (%s)",
				     kata_status_get_name(status));
	}
}

static void unlink_delayed(struct delayed *d)
{
	struct delayed **at = &d->channel->delayed;

	while (*at != d)
		at = &(*at)->next;
	*at = d->next;
}

static void forget_delayed(void *user)
{
	struct delayed *d = user;

	kata__timer_remove(d->timer);
	unlink_delayed(d);
	free(d);
}

static void on_delay_over(void *user)
{
	struct delayed *d = user;
	struct kata__mock_channel *c = d->channel;
	struct kata__mock_call *call = d->call;

	unlink_delayed(d);
	free(d);
	finish_call(c, call);
	settle(c);
}

static bool delay_call(struct kata__mock_channel *c, struct kata__mock_call *call, uint64_t delay_ms)
{
	struct delayed *d = calloc(1, sizeof(*d));

	if (!d)
		return false;
	d->channel = c;
	d->call = call;
	if (kata__timer_add(c->loop, kata__deadline_in_ms(delay_ms), on_delay_over, d, &d->timer, NULL) < 0) {
		free(d);
		return false;
	}
	d->next = c->delayed;
	c->delayed = d;
	kata__mock_call_take(call, forget_delayed, d);
	return true;
}

static bool intercept(void *user, struct kata__mock_call *call)
{
	struct kata__mock_channel *c = user;
	uint64_t delay_ms;

	if (kata__mock_call_is_waiting(call) || !c->machine->controls)
		return false;
	delay_ms = kata__mock_controls_delay(c->machine->controls, KATA_MOCK_AGENT_CALL);
	if (delay_ms && delay_call(c, call, delay_ms))
		return true;
	finish_call(c, call);
	return true;
}

static bool find_device(void *user, const char *kind, const char *address, char ret_name[32], uint64_t *ret_size_bytes)
{
	struct kata__mock_channel *c = user;

	return kata__mock_machine_find_device(c->machine, kind, address, ret_name, ret_size_bytes);
}

static void power_off(void *user)
{
	struct kata__mock_channel *c = user;

	c->powering_off = true;
}

static const struct kata__mock_host host_ops = {
	.intercept = intercept,
	.find_device = find_device,
	.power_off = power_off,
};

/* ---- the connection */

static void hang_up(struct kata__mock_channel *c)
{
	kata__watch_remove(c->watch);
	c->watch = NULL;
	kata__close_fd(&c->fd);
	kata__timer_remove(c->timer);
	c->timer = NULL;
	c->hang_up = false;
	kata__mock_agent_reset(c->agent);
}

/* False when the host is gone. */
static bool flush(struct kata__mock_channel *c)
{
	struct kata__buffer *out = kata__mock_agent_output(c->agent);

	while (kata__buffer_len(out)) {
		ssize_t n = kata__unix_send(c->fd, kata__buffer_bytes(out), kata__buffer_len(out), -1);

		if (n == -EAGAIN)
			return true;
		if (n == -EINTR)
			continue;
		if (n < 0)
			return false;
		kata__buffer_consume(out, (size_t)n);
		if (!kata__buffer_len(out))
			kata__mock_agent_changed(c->agent);
	}
	return true;
}

/* False when the host is gone or broke the protocol. */
static bool take_input(struct kata__mock_channel *c)
{
	char chunk[CHUNK];
	ssize_t n;

	while (kata__buffer_len(kata__mock_agent_output(c->agent)) < KATA__MOCK_AGENT_BACKLOG) {
		n = recv(c->fd, chunk, sizeof(chunk), MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		if (n == 0 || kata__mock_agent_input(c->agent, chunk, (size_t)n, NULL) < 0)
			return false;
		if ((size_t)n < sizeof(chunk))
			return true;
	}
	return true;
}

static void on_timer(void *user)
{
	struct kata__mock_channel *c = user;

	c->timer = NULL;
	kata__mock_agent_changed(c->agent);
	settle(c);
}

static void arm_timer(struct kata__mock_channel *c)
{
	uint64_t deadline_ns = c->paused ? KATA__NEVER : kata__mock_agent_deadline(c->agent);

	if (c->timer && c->timer_ns == deadline_ns)
		return;
	kata__timer_remove(c->timer);
	c->timer = NULL;
	c->timer_ns = deadline_ns;
	if (deadline_ns != KATA__NEVER)
		kata__timer_add(c->loop, deadline_ns, on_timer, c, &c->timer, NULL);
}

static void end_machine(struct kata__mock_machine *m)
{
	kata_vm *vm = m->vm;

	kata__mock_machine_end(m);
	if (vm)
		kata__vm_ended(vm);
}

/* After anything the agent did: sends, hangs up, ends the machine, sets what is waited for. May free the channel. */
static void settle(struct kata__mock_channel *c)
{
	struct kata__buffer *out = kata__mock_agent_output(c->agent);
	uint32_t events = 0;

	if (c->fd < 0 || c->paused)
		return;
	if (!flush(c) || c->hang_up)
		hang_up(c);
	if (c->powering_off && (c->fd < 0 || !kata__buffer_len(out))) {
		end_machine(c->machine);
		return;
	}
	if (c->fd < 0)
		return;
	if (kata__buffer_len(out) < KATA__MOCK_AGENT_BACKLOG)
		events |= EPOLLIN;
	if (kata__buffer_len(out))
		events |= EPOLLOUT;
	kata__watch_set_events(c->watch, events);
	arm_timer(c);
}

static void on_event(void *user, uint32_t events)
{
	struct kata__mock_channel *c = user;

	if (c->paused) {
		if (events & (EPOLLHUP | EPOLLERR))
			hang_up(c);
		return;
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !take_input(c))
		c->hang_up = true;
	settle(c);
}

static struct kata__mock_channel *new_channel(struct kata__mock_machine *m, kata_error **err)
{
	struct kata__mock_channel *c = calloc(1, sizeof(*c));

	if (!c) {
		kata__fail_no_memory(err);
		return NULL;
	}
	c->machine = m;
	c->loop = kata__context_loop(m->ctx);
	c->fd = -1;
	c->paused = m->paused;
	if (kata__mock_agent_new(&host_ops, c, &c->agent, err) < 0) {
		free(c);
		return NULL;
	}
	return c;
}

int kata__mock_channel_connect(struct kata__mock_machine *m, int *ret_fd, kata_error **err)
{
	struct kata__mock_channel *c = m->channel ? m->channel : new_channel(m, err);
	int ends[2];
	int rc;

	if (!c)
		return KATA_E_NO_MEMORY;
	m->channel = c;
	if (c->fd >= 0)
		hang_up(c);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
		return kata__fail_errno(err, errno, "socketpair");
	rc = kata__watch_add(c->loop, ends[0], c->paused ? 0 : EPOLLIN, on_event, c, &c->watch, err);
	if (rc < 0) {
		close(ends[0]);
		close(ends[1]);
		return rc;
	}
	c->fd = ends[0];
	*ret_fd = ends[1];
	return 0;
}

void kata__mock_channel_free(struct kata__mock_channel *c)
{
	if (!c)
		return;
	hang_up(c);
	kata__mock_agent_free(c->agent);
	free(c);
}

void kata__mock_channel_set_paused(struct kata__mock_channel *c, bool paused)
{
	c->paused = paused;
	if (c->fd < 0)
		return;
	if (paused) {
		kata__watch_set_events(c->watch, 0);
		arm_timer(c);
	} else {
		kata__mock_agent_changed(c->agent);
		settle(c);
	}
}

void kata__mock_channel_devices_changed(struct kata__mock_channel *c)
{
	if (!c || c->paused)
		return;
	kata__mock_agent_changed(c->agent);
	settle(c);
}
