/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_PROCESS_H
#define KATA_GUEST_PROCESS_H
/*
 * One process of a container, its init or one that was executed in it: stdio, exit status, and the calls that wait.
 *
 *   STARTING --ran--> RUNNING --exited--> EXITED      (STARTING --failed--> freed)
 *
 * An exited process stays, with its status and the output nobody has read yet, until its container is removed or its
 * exec id is used again.
 */
#include <stdbool.h>
#include <sys/types.h>

#include "guest/child.h"
#include "guest/rpc.h"
#include "guest/runtime.h"
#include "guest/stream.h"

#define PROCESS_WAITERS_MAX 64

enum process_state { PROCESS_STARTING, PROCESS_RUNNING, PROCESS_EXITED };

struct process {
	struct process *next;
	struct kata__loop *loop;
	struct children *children;
	char *exec_id;
	enum process_state state;
	bool terminal;
	pid_t pid;
	int status;
	struct stream *input, *output, *errors; /* a terminal has no errors */
	struct call *waiters[PROCESS_WAITERS_MAX];
	size_t waiter_count;
	void (*on_exit)(void *user); /* of whoever owns the process; may free nothing of it */
	void *on_exit_user;
};

/* stdio: what the runtime is to give the process; the caller closes its fds with process_close_stdio(). */
int process_new(struct kata__loop *loop, struct children *children, const char *exec_id, bool terminal,
		struct process **ret, struct runtime_stdio *stdio, kata_error **err);
void process_close_stdio(struct runtime_stdio *stdio);
/* The runtime has made it: takes the pid, and the terminal where there is one. */
int process_ran(struct process *p, const struct runtime_result *result, kata_error **err);
/* Readers get end of file, waiters the status or, where there is none, UNAVAILABLE. NULL is fine. */
void process_free(struct process *p);

/* Answers or parks a WaitProcess. */
void process_wait(struct process *p, struct call *call);
/* 0 or -errno; -ESRCH when it has ended. SIGTERM to a container's init that does not handle it is SIGKILL: the kernel
 * would ignore it. */
int process_signal(const struct process *p, bool is_init, int sig);
/* UNAVAILABLE as the Kata agent has it is the caller's to say: false when there is no terminal. */
bool process_resize(const struct process *p, unsigned rows, unsigned columns);
/* True where it has exited and nobody waits for it: its exec id may be used again. */
bool process_is_spent(const struct process *p);
#endif
