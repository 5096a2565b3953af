/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pumps and kata_sandbox_open_stdio.
 *
 * The caller's fds are ends of socket pairs, not of pipes: writing to a pipe whose reader is gone raises SIGPIPE, which
 * a library can neither take nor mask, while send() has MSG_NOSIGNAL. Each pair is made one-directional.
 *
 * Invariants: 1. an input pump has its watch only while no call is in flight (a level-triggered hang-up would spin). 2.
 * an output pump asks only while it holds nothing. 3. a pump that is over has left process->pumps before anybody else
 * is called.
 */
#include "sandbox/stdio.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "sandbox/sandbox_op.h"

struct kata__pump {
	struct kata__process *process; /* borrowed: it closes its pumps before it goes */
	enum kata__stream stream;
	int fd;
	struct kata__watch *watch;
	struct kata__call *call;
	uint8_t *held; /* output that found no room */
	size_t held_length, held_offset;
	bool closing; /* input: its end was read, the guest is being told */
};

static void advance(struct kata__pump *pump);

static void unwatch(struct kata__pump *pump)
{
	kata__watch_remove(pump->watch);
	pump->watch = NULL;
}

void kata__pump_close(struct kata__pump *pump)
{
	if (!pump)
		return;
	unwatch(pump);
	kata__call_drop(pump->call);
	kata__close_fd(&pump->fd);
	free(pump->held);
	free(pump);
}

/* The pump has nothing more to do. */
static void over(struct kata__pump *pump)
{
	struct kata__process *p = pump->process;

	p->pumps[pump->stream] = NULL;
	kata__pump_close(pump);
	kata__process_poll(p);
}

static int begin_call(struct kata__pump *pump, kata_agent_request *request, kata__call_fn fn)
{
	struct kata__process *p = pump->process;
	kata_agent *agent;
	int rc = kata__sandbox_agent(p->sandbox, &agent, NULL);

	request->size = sizeof(*request);
	request->container_id = p->container_id;
	request->exec_id = p->exec_id;
	if (rc == 0)
		rc = kata__call_begin(agent, request, fn, pump, &pump->call, NULL);
	return rc;
}

static int watch(struct kata__pump *pump, uint32_t events, kata__watch_fn fn)
{
	if (pump->watch) {
		kata__watch_set_events(pump->watch, events);
		return 0;
	}
	return kata__watch_add(kata__context_loop(pump->process->sandbox->ctx), pump->fd, events, fn, pump,
			       &pump->watch, NULL);
}

/* ---- output: guest to caller */

/* 1: all sent; 0: no room; < 0: the caller is gone. */
static int send_some(struct kata__pump *pump, const uint8_t *data, size_t length, size_t *sent)
{
	while (*sent < length) {
		ssize_t n = send(pump->fd, data + *sent, length - *sent, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n >= 0)
			*sent += (size_t)n;
		else if (errno == EAGAIN)
			return 0;
		else if (errno != EINTR)
			return -errno;
	}
	return 1;
}

static void output_ready(void *user, uint32_t events)
{
	struct kata__pump *pump = user;
	int rc;

	if (events & (EPOLLHUP | EPOLLERR)) {
		over(pump); /* the caller closed his end */
		return;
	}
	if (!pump->held)
		return;
	rc = send_some(pump, pump->held, pump->held_length, &pump->held_offset);
	if (rc < 0) {
		over(pump);
		return;
	}
	if (rc == 0)
		return;
	free(pump->held);
	pump->held = NULL;
	advance(pump);
}

static int hold(struct kata__pump *pump, const uint8_t *data, size_t length)
{
	pump->held = malloc(length);
	if (!pump->held)
		return -ENOMEM;
	memcpy(pump->held, data, length);
	pump->held_length = length;
	pump->held_offset = 0;
	return 0;
}

static void output_answered(void *user, const kata_agent_reply *reply, const kata_error *error)
{
	struct kata__pump *pump = user;
	size_t sent = 0;
	int rc;

	pump->call = NULL;
	if (!reply && pump->process->sandbox->suspended)
		return;
	/* An agent answers a read after the process's end with an error or with nothing: both are its end. */
	if (!reply || reply->data_length == 0) {
		over(pump);
		return;
	}
	rc = send_some(pump, reply->data, reply->data_length, &sent);
	if (rc == 0)
		rc = hold(pump, (const uint8_t *)reply->data + sent, reply->data_length - sent);
	if (rc < 0)
		over(pump);
	else
		advance(pump);
}

static int advance_output(struct kata__pump *pump)
{
	kata_agent_request request = {.method = pump->stream == KATA__STDOUT ? KATA_AGENT_READ_STDOUT
									     : KATA_AGENT_READ_STDERR,
				      .max_length = KATA__PUMP_CHUNK};
	int rc = watch(pump, pump->held ? EPOLLOUT : 0, output_ready);

	if (rc < 0 || pump->held || pump->call || pump->process->sandbox->suspended)
		return rc;
	return begin_call(pump, &request, output_answered);
}

/* ---- input: caller to guest */

static void input_answered(void *user, const kata_agent_reply *reply, const kata_error *error)
{
	struct kata__pump *pump = user;

	pump->call = NULL;
	if (!reply && pump->process->sandbox->suspended)
		return;
	if (!reply || pump->closing)
		over(pump);
	else
		advance(pump);
}

static int close_input(struct kata__pump *pump)
{
	kata_agent_request request = {.method = KATA_AGENT_CLOSE_STDIN};

	/* Closing the input of a terminal takes the terminal away (Kata 3.x): its end is the hang-up of the container.
	 */
	if (pump->process->terminal)
		return -EPIPE;
	pump->closing = true;
	return begin_call(pump, &request, input_answered);
}

static void input_ready(void *user, uint32_t events)
{
	kata_agent_request request = {.method = KATA_AGENT_WRITE_STDIN};
	struct kata__pump *pump = user;
	uint8_t chunk[KATA__PUMP_CHUNK];
	ssize_t n;
	int rc;

	unwatch(pump);
	if (pump->process->sandbox->suspended)
		return; /* what was written waits in the socket */
	n = recv(pump->fd, chunk, sizeof(chunk), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		advance(pump);
		return;
	}
	if (n > 0) {
		request.data = chunk;
		request.data_length = (size_t)n;
		rc = begin_call(pump, &request, input_answered);
	} else {
		rc = close_input(pump);
	}
	if (rc < 0)
		over(pump);
}

/* Makes the pump do what is next; it may be gone afterwards. */
static void advance(struct kata__pump *pump)
{
	int rc = 0;

	if (pump->stream != KATA__STDIN)
		rc = advance_output(pump);
	else if (pump->closing && !pump->call)
		rc = close_input(pump);
	else if (!pump->call)
		rc = watch(pump, EPOLLIN, input_ready);
	if (rc < 0)
		over(pump);
}

/* ---- life */

int kata__pump_open(struct kata__process *p, enum kata__stream stream, int take_fd, kata_error **err)
{
	static const char *const names[] = {"stdin", "stdout", "stderr"};
	struct kata__pump *pump;

	if (p->pumps[stream]) {
		kata__close_fd(&take_fd);
		return kata__fail(err, KATA_E_BUSY, CALLER, "%s of process '%s' is open already", names[stream],
				  p->exec_id);
	}
	pump = calloc(1, sizeof(*pump));
	if (!pump) {
		kata__close_fd(&take_fd);
		return kata__fail_no_memory(err);
	}
	pump->process = p;
	pump->stream = stream;
	pump->fd = take_fd;
	p->pumps[stream] = pump;
	advance(pump);
	return 0;
}

void kata__pump_drop_call(struct kata__pump *pump)
{
	kata__call_drop(pump->call);
	pump->call = NULL;
}

void kata__pump_resume(struct kata__pump *pump)
{
	advance(pump);
}

/* ---- kata_sandbox_open_stdio */

struct stdio_op {
	struct kata__sandbox_op base;
	char container_id[KATA__ID_MAX + 1];
	char exec_id[KATA__ID_MAX + 1];
	int ours[3]; /* -1: not asked for, or handed to its pump */
};

static int step_open_stdio(kata_op *op, kata_error **err)
{
	struct stdio_op *o = kata__op_data(op);
	struct kata__process *p;
	int rc = kata__process_get(kata__sandbox_of(op), o->container_id, o->exec_id[0] ? o->exec_id : NULL, &p, err);

	if (rc < 0)
		return rc;
	if (p->terminal && o->ours[KATA__STDERR] >= 0)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "ret_stderr: process '%s' has a terminal, which has one stream: expected NULL",
				  p->exec_id);
	for (int i = 0; i < 3; i++)
		if (o->ours[i] >= 0 && p->pumps[i])
			return kata__pump_open(p, (enum kata__stream)i, kata__take_fd(&o->ours[i]), err); /* BUSY */
	for (int i = 0; i < 3; i++)
		if (o->ours[i] >= 0) {
			rc = kata__pump_open(p, (enum kata__stream)i, kata__take_fd(&o->ours[i]), err);
			if (rc < 0)
				return rc;
		}
	return KATA__STEP_DONE;
}

static void finish_stdio(kata_op *op, int status, kata_error **error)
{
	kata__sandbox_op_end(op, status);
}

static void free_stdio_op(void *data)
{
	struct stdio_op *o = data;

	for (int i = 0; i < 3; i++)
		kata__close_fd(&o->ours[i]);
	kata__sandbox_op_deinit(&o->base);
	free(o);
}

static const struct kata__step open_stdio_steps[] = {
	{.name = "open", .run = step_open_stdio},
};
static const struct kata__op_table open_stdio_table = {
	.name = "open-stdio",
	KATA__STEPS(open_stdio_steps),
	.timeout_ms = 10000,
	.finish = finish_stdio,
	.free_data = free_stdio_op,
};

/* A pair of which data can only go from or to the caller. */
static int make_pair(enum kata__stream stream, int *ret_ours, int *ret_theirs, kata_error **err)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return kata__fail_errno(err, errno, "a socket pair for stdio");
	if (fcntl(fds[0], F_SETFL, O_NONBLOCK) < 0 || shutdown(fds[0], stream == KATA__STDIN ? SHUT_WR : SHUT_RD) < 0) {
		int e = errno;

		kata__close_fd(&fds[0]);
		kata__close_fd(&fds[1]);
		return kata__fail_errno(err, e, "a socket pair for stdio");
	}
	*ret_ours = fds[0];
	*ret_theirs = fds[1];
	return 0;
}

static int make_pairs(struct stdio_op *o, int *const wanted[3], int theirs[3], kata_error **err)
{
	int rc = 0;

	for (int i = 0; i < 3 && rc == 0; i++)
		if (wanted[i])
			rc = make_pair((enum kata__stream)i, &o->ours[i], &theirs[i], err);
	return rc;
}

int kata_sandbox_open_stdio(kata_sandbox *sandbox, const char *container_id, const char *exec_id, int *ret_stdin,
			    int *ret_stdout, int *ret_stderr, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_open_stdio",
							 KATA__IN(KATA_SANDBOX_RUNNING) | KATA__IN(KATA_SANDBOX_PAUSED),
							 -1, KATA__SANDBOX_OP_PASSIVE};
	int *const wanted[3] = {ret_stdin, ret_stdout, ret_stderr};
	int theirs[3] = {-1, -1, -1};
	struct stdio_op *o;
	kata_op *op = NULL;
	int rc = kata__sandbox_check_ids(sandbox, container_id, exec_id, err);

	if (rc < 0)
		return rc;
	o = calloc(1, sizeof(*o));
	if (!o)
		return kata__fail_no_memory(err);
	for (int i = 0; i < 3; i++)
		o->ours[i] = -1;
	snprintf(o->container_id, sizeof(o->container_id), "%s", container_id);
	snprintf(o->exec_id, sizeof(o->exec_id), "%s", exec_id ? exec_id : "");
	rc = make_pairs(o, wanted, theirs, err);
	if (rc < 0)
		free_stdio_op(o);
	else
		rc = kata__op_finish_sync(kata__sandbox_begin(sandbox, &entry, &open_stdio_table, o, NULL, &op, err),
					  &op, err);
	for (int i = 0; i < 3; i++)
		if (wanted[i] && rc == 0)
			*wanted[i] = theirs[i];
		else
			kata__close_fd(&theirs[i]);
	return rc;
}
