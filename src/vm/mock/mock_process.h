/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_MOCK_PROCESS_H
#define KATA_VM_MOCK_PROCESS_H
/*
 * A simulated process: what its first argument names is one of a few small programs (docs/mock.md), everything else
 * exits 127. It has three pipes of PIPE_SIZE bytes, moves data between them when it is run, and ends with an exit code
 * or 128 + signal. No time passes in it by itself: whoever owns it calls kata__mock_process_run() after every change.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/clock.h"

#define KATA__MOCK_PIPE_SIZE (64u * 1024u)

enum kata__mock_process_state {
	KATA__MOCK_PROCESS_CREATED,
	KATA__MOCK_PROCESS_RUNNING,
	KATA__MOCK_PROCESS_EXITED,
};

struct kata__mock_process {
	struct kata__mock_process *next;
	char *id;
	char **args; /* NULL-terminated, at least one */
	const struct kata__mock_program *program;
	enum kata__mock_process_state state;
	int32_t status; /* once EXITED */
	bool tty;       /* one stream: what goes to stderr goes to stdout */
	bool frozen;    /* its container is paused */
	bool stdin_closed;
	bool tty_dropped; /* stdin of a tty was closed, which takes the terminal away */
	bool started;     /* the program has done its first part */
	struct kata__buffer in, out, err;
	uint32_t rows, columns;
	bool resized;
	uint64_t left;        /* flood: bytes still to write */
	uint64_t deadline_ns; /* sleep: when it ends; KATA__NEVER */
	uint64_t signals;     /* arrived while frozen */
};

/* Copies id and args. NULL when out of memory. */
struct kata__mock_process *kata__mock_process_new(const char *id, char *const *args, size_t arg_count, bool tty);
void kata__mock_process_free(struct kata__mock_process *p); /* NULL is fine */
void kata__mock_process_start(struct kata__mock_process *p);
/* Lets it do what it can do now. */
void kata__mock_process_run(struct kata__mock_process *p, uint64_t now_ns);
/* A signal as the kernel would treat a process without handlers. KILL works on a frozen one too. */
void kata__mock_process_signal(struct kata__mock_process *p, uint32_t signal);
void kata__mock_process_exit(struct kata__mock_process *p, int32_t status);
/* How much of `length` bytes its stdin takes now. */
size_t kata__mock_process_write(struct kata__mock_process *p, const void *data, size_t length);
void kata__mock_process_close_stdin(struct kata__mock_process *p);
void kata__mock_process_resize(struct kata__mock_process *p, uint32_t rows, uint32_t columns);
#endif
