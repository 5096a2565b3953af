/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_CHILD_H
#define KATA_GUEST_CHILD_H
/*
 * Child processes of PID 1: those it starts, and those that become its children because their parent left.
 *
 * crun leaves a container's process behind, which is then ours to wait for. It may be over before we read its pid:
 * while such a process is expected, the status of children nobody claimed is kept (the last CHILD_STRAYS_MAX of them)
 * for whoever claims them then. Not longer: pids come round again.
 */
#include <sys/types.h>

#include "base/error.h"
#include "base/loop.h"

#define CHILD_STRAYS_MAX 512

struct children;

/* status: exit code, or 128 + the signal. */
typedef void (*child_exit_fn)(void *user, int status);

/* Blocks SIGCHLD in the calling thread: call it before any other thread is made. */
int children_new(struct kata__loop *loop, struct children **ret, kata_error **err);

struct child_spawn {
	int exe_fd;              /* the program */
	const char *const *argv; /* NULL-terminated */
	int stdio[3];            /* -1: /dev/null */
};
/* exited() is called on the loop, once. Default signals, nothing blocked, no fd but stdio. */
int children_spawn(struct children *children, const struct child_spawn *spawn, child_exit_fn exited, void *user,
		   kata_error **err);
/* Begins and ends a time in which a process that is left to us may have to be claimed after it is over. */
void children_expect(struct children *children);
void children_expect_no_more(struct children *children);
/* Claims a process that is or will be our child. exited() is called on the loop, never in here. */
int children_claim(struct children *children, pid_t pid, child_exit_fn exited, void *user, kata_error **err);
/* exited() will not be called with that user; its process is still reaped. */
void children_disown(struct children *children, const void *user);
#endif
