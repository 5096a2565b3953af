/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent.pb-c.h"
#include "base/fd.h"
#include "base/text.h"

/* A pipe whose end `ours` (0: reads, 1: writes) does not block. */
static int make_pipe(int ours, int out[2], kata_error **err)
{
	if (pipe2(out, O_CLOEXEC) != 0 || fcntl(out[ours], F_SETFL, O_NONBLOCK) != 0)
		return kata__fail_errno(err, errno, "cannot make a pipe");
	return 0;
}

static int make_stdio(struct process *p, struct runtime_stdio *stdio, kata_error **err)
{
	int in[2] = {-1, -1}, out[2] = {-1, -1}, errs[2] = {-1, -1};
	int rc = make_pipe(1, in, err);

	if (rc == 0)
		rc = make_pipe(0, out, err);
	if (rc == 0)
		rc = make_pipe(0, errs, err);
	stdio->fds[0] = in[0];
	stdio->fds[1] = out[1];
	stdio->fds[2] = errs[1];
	if (rc != 0) {
		kata__close_fd(&in[1]);
		kata__close_fd(&out[0]);
		kata__close_fd(&errs[0]);
		return rc;
	}
	p->input = stream_new(p->loop, in[1], false);
	p->output = stream_new(p->loop, out[0], false);
	p->errors = stream_new(p->loop, errs[0], false);
	return p->input && p->output && p->errors ? 0 : kata__fail_no_memory(err);
}

void process_close_stdio(struct runtime_stdio *stdio)
{
	for (int i = 0; i < 3; i++)
		kata__close_fd(&stdio->fds[i]);
}

int process_new(struct kata__loop *loop, struct children *children, const char *exec_id, bool terminal,
		struct process **ret, struct runtime_stdio *stdio, kata_error **err)
{
	struct process *p = calloc(1, sizeof(*p));
	int rc = 0;

	*stdio = (struct runtime_stdio){.terminal = terminal, .fds = {-1, -1, -1}};
	if (!p)
		return kata__fail_no_memory(err);
	*p = (struct process){.loop = loop,
			      .children = children,
			      .terminal = terminal,
			      .exec_id = kata__strdup(exec_id),
			      .status = -1};
	if (!p->exec_id)
		rc = kata__fail_no_memory(err);
	if (rc == 0 && !terminal)
		rc = make_stdio(p, stdio, err);
	if (rc != 0) {
		process_close_stdio(stdio);
		process_free(p);
		return rc;
	}
	*ret = p;
	return 0;
}

static void answer_status(struct call *call, int status)
{
	Grpc__WaitProcessResponse r = GRPC__WAIT_PROCESS_RESPONSE__INIT;

	r.status = status;
	call_answer(call, &r);
}

static void on_process_exit(void *user, int status)
{
	struct process *p = user;

	p->state = PROCESS_EXITED;
	p->status = status;
	p->pid = 0;
	if (p->output)
		stream_process_ended(p->output);
	if (p->errors)
		stream_process_ended(p->errors);
	while (p->waiter_count > 0)
		answer_status(p->waiters[--p->waiter_count], status);
	if (p->on_exit)
		p->on_exit(p->on_exit_user);
}

int process_ran(struct process *p, const struct runtime_result *result, kata_error **err)
{
	int terminal = result->terminal_fd;
	int other = terminal >= 0 ? fcntl(terminal, F_DUPFD_CLOEXEC, 3) : -1;

	if (p->terminal && other < 0) {
		kata__close_fd(&terminal);
		return kata__fail_errno(err, errno, "cannot keep the terminal");
	}
	if (p->terminal) {
		p->input = stream_new(p->loop, terminal, true);
		p->output = stream_new(p->loop, other, true);
		if (!p->input || !p->output)
			return kata__fail_no_memory(err);
	}
	p->pid = result->pid;
	p->state = PROCESS_RUNNING;
	return children_claim(p->children, p->pid, on_process_exit, p, err);
}

void process_free(struct process *p)
{
	if (!p)
		return;
	children_disown(p->children, p);
	while (p->waiter_count > 0) {
		struct call *call = p->waiters[--p->waiter_count];

		call_answer_code(call, KATA__GRPC_UNAVAILABLE, "the container was removed");
	}
	stream_free(p->input);
	stream_free(p->output);
	stream_free(p->errors);
	free(p->exec_id);
	free(p);
}

static void forget_waiter(struct call *call, void *user)
{
	struct process *p = user;
	size_t i = 0;

	while (p->waiters[i] != call)
		i++;
	p->waiters[i] = p->waiters[--p->waiter_count];
}

void process_wait(struct process *p, struct call *call)
{
	if (p->state == PROCESS_EXITED) {
		answer_status(call, p->status);
		return;
	}
	if (p->waiter_count == PROCESS_WAITERS_MAX) {
		call_answer_code(call, KATA__GRPC_RESOURCE_EXHAUSTED, "%d calls wait for this process already",
				 PROCESS_WAITERS_MAX);
		return;
	}
	p->waiters[p->waiter_count++] = call;
	call_park(call, forget_waiter, p);
}

/* Whether the process handles, ignores or blocks a signal, by the masks of /proc/PID/status. */
static bool minds_signal(pid_t pid, int sig)
{
	static const char *const masks[] = {"SigBlk:", "SigIgn:", "SigCgt:"};
	KATA_AUTO(free) char *text = NULL;
	char path[32];
	size_t len = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	if (kata__read_file(path, 65536, &text, &len, NULL) != 0)
		return true;
	for (size_t i = 0; i < kata__array_size(masks); i++) {
		const char *at = strstr(text, masks[i]);

		if (at && (strtoull(at + strlen(masks[i]), NULL, 16) >> (sig - 1) & 1))
			return true;
	}
	return false;
}

int process_signal(const struct process *p, bool is_init, int sig)
{
	if (p->state != PROCESS_RUNNING)
		return -ESRCH;
	if (is_init && sig == SIGTERM && !minds_signal(p->pid, sig))
		sig = SIGKILL;
	return kill(p->pid, sig) == 0 ? 0 : -errno;
}

bool process_resize(const struct process *p, unsigned rows, unsigned columns)
{
	struct winsize w = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};

	return p->terminal && stream_fd(p->input) >= 0 && ioctl(stream_fd(p->input), TIOCSWINSZ, &w) == 0;
}

bool process_is_spent(const struct process *p)
{
	return p->state == PROCESS_EXITED && p->waiter_count == 0;
}
