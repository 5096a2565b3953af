/* SPDX-License-Identifier: Apache-2.0 */
/* The process methods of grpc.AgentService: signals, waiting, stdio, terminals. */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "guest/container.h"

/* An empty exec id is the init process. NULL: there is none, and the call is answered. */
static struct process *find(struct guest *guest, struct call *call, const char *container_id, const char *exec_id)
{
	struct container *c = containers_find(guest->containers, container_id);
	struct process *p;

	if (!c) {
		call_answer_code(call, KATA__GRPC_NOT_FOUND, "Invalid container id: there is no container '%.80s'",
				 container_id);
		return NULL;
	}
	p = container_process(c, exec_id[0] ? exec_id : c->id);
	if (!p)
		call_answer_code(call, KATA__GRPC_NOT_FOUND, "Invalid exec id: container %s has no process '%.80s'",
				 c->id, exec_id);
	return p;
}

static void answer_errno(struct call *call, int rc)
{
	if (rc == 0 || rc == -ESRCH)
		call_answer(call, NULL); /* a process that is over needs no signal */
	else
		call_answer_code(call, rc == -EINVAL ? KATA__GRPC_INVALID_ARGUMENT : KATA__GRPC_INTERNAL, "signal: %s",
				 strerror(-rc));
}

static void signal_process(void *user, struct call *call, const void *request)
{
	struct guest *guest = user;
	const Grpc__SignalProcessRequest *q = request;
	struct process *p = find(guest, call, q->container_id, q->exec_id);

	if (!p)
		return;
	if (q->signal < 1 || q->signal > 64)
		call_answer_code(call, KATA__GRPC_INVALID_ARGUMENT, "signal: %u is not from 1 to 64", q->signal);
	else if (q->exec_id[0] == '\0' && q->signal == SIGKILL)
		answer_errno(call, container_kill_all(containers_find(guest->containers, q->container_id)));
	else
		answer_errno(call, process_signal(p, strcmp(p->exec_id, q->container_id) == 0, (int)q->signal));
}

static void wait_process(void *user, struct call *call, const void *request)
{
	const Grpc__WaitProcessRequest *q = request;
	struct process *p = find(user, call, q->container_id, q->exec_id);

	if (p)
		process_wait(p, call);
}

static void read_stream(struct process *p, struct stream *s, struct call *call, uint32_t len)
{
	if (!p)
		return;
	if (p->state == PROCESS_STARTING)
		call_answer_code(call, KATA__GRPC_FAILED_PRECONDITION, "process '%s' has not started yet", p->exec_id);
	else
		stream_read(s, call, len);
}

static void read_stdout(void *user, struct call *call, const void *request)
{
	const Grpc__ReadStreamRequest *q = request;
	struct process *p = find(user, call, q->container_id, q->exec_id);

	read_stream(p, p ? p->output : NULL, call, q->len);
}

static void read_stderr(void *user, struct call *call, const void *request)
{
	const Grpc__ReadStreamRequest *q = request;
	struct process *p = find(user, call, q->container_id, q->exec_id);

	read_stream(p, p && p->terminal ? p->output : p ? p->errors : NULL, call, q->len);
}

static void write_stdin(void *user, struct call *call, const void *request)
{
	const Grpc__WriteStreamRequest *q = request;
	struct process *p = find(user, call, q->container_id, q->exec_id);
	Grpc__WriteStreamResponse r = GRPC__WRITE_STREAM_RESPONSE__INIT;

	if (!p)
		return;
	if (p->state == PROCESS_STARTING) {
		call_answer_code(call, KATA__GRPC_FAILED_PRECONDITION, "process '%s' has not started yet", p->exec_id);
	} else if (q->data.len == 0) {
		stream_close_input(p->input);
		call_answer(call, &r);
	} else {
		stream_write(p->input, call, q->data.data, q->data.len);
	}
}

static void close_stdin(void *user, struct call *call, const void *request)
{
	const Grpc__CloseStdinRequest *q = request;
	struct process *p = find(user, call, q->container_id, q->exec_id);

	if (!p)
		return;
	if (p->input)
		stream_close_input(p->input);
	call_answer(call, NULL);
}

static void resize(void *user, struct call *call, const void *request)
{
	const Grpc__TtyWinResizeRequest *q = request;
	struct process *p = find(user, call, q->container_id, q->exec_id);

	if (!p)
		return;
	if (q->row > 65535 || q->column > 65535)
		call_answer_code(call, KATA__GRPC_INVALID_ARGUMENT,
				 "%ux%u: a terminal has at most 65535 rows and columns", q->row, q->column);
	else if (process_resize(p, q->row, q->column))
		call_answer(call, NULL);
	else
		call_answer_code(call, KATA__GRPC_UNAVAILABLE, "no tty");
}

void service_process_register(struct guest *guest)
{
	rpc_handler_fn *m = guest->handlers.methods;

	m[KATA__AGENT_SIGNAL_PROCESS] = signal_process;
	m[KATA__AGENT_WAIT_PROCESS] = wait_process;
	m[KATA__AGENT_READ_STDOUT] = read_stdout;
	m[KATA__AGENT_READ_STDERR] = read_stderr;
	m[KATA__AGENT_WRITE_STDIN] = write_stdin;
	m[KATA__AGENT_CLOSE_STDIN] = close_stdin;
	m[KATA__AGENT_TTY_WIN_RESIZE] = resize;
}
