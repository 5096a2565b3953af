/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_OP_H
#define KATA_OP_H
/*
 * kata_op: one operation under way: a table of named steps, run in order; when a step fails, the deadline passes or the
 * op is cancelled, the finished steps are undone in reverse and the op ends with one error.
 *
 * Each `kata_X(..., options, err)` that can take time is `kata_X_begin(..., options, &op, err)` followed by
 * kata_op_wait() and kata_op_unref(): the two behave alike. A begin fails at once only for what can be seen at once
 * (bad argument, wrong state); everything later is the op's error.
 *
 * Threads: all functions from any thread. An op keeps the objects it works on alive. Dropping the last reference of an
 * op under way does not stop it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kata/error.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kata_op kata_op;

typedef struct kata_op_options {
	size_t size;         /* sizeof(kata_op_options) */
	uint64_t timeout_ms; /* from the begin to the end of the last step (undo has its own: 5 s a step at most, for
			      * most ops); 0: the op's default, which is longer where the VMM emulates the CPU */
} kata_op_options;
#define KATA_OP_OPTIONS_INIT                                                                                           \
	{                                                                                                              \
		sizeof(kata_op_options), 0                                                                             \
	}

KATA_API kata_op *kata_op_ref(kata_op *op);
KATA_API void kata_op_unref(kata_op *op); /* accepts NULL */

/* "plug-storage", "start", ...: the name of the table; borrowed, static. */
KATA_API const char *kata_op_get_name(const kata_op *op);

/* Waits for the end; returns the op's status and, through err, a copy of its error. Never times out by itself: the op's
 * own deadline ends it. STATE when called from a callback of the library. */
KATA_API int kata_op_wait(kata_op *op, kata_error **err);

/* True once it has ended. kata_op_get_error: NULL while under way and after success, else borrowed from the op. */
KATA_API bool kata_op_is_done(const kata_op *op);
KATA_API const kata_error *kata_op_get_error(const kata_op *op);

/* A pollable fd, readable once the op has ended; owned by the op, made at the first call. -1 when no fd could be made.
 */
KATA_API int kata_op_get_fd(kata_op *op);

/* Asks the op to stop: it undoes what it did and ends with CANCELLED. No effect when it has ended or is past its last
 * step. Returns at once. An op whose VM or sandbox somebody destroys meanwhile is stopped likewise, but ends with GONE.
 */
KATA_API void kata_op_cancel(kata_op *op);

/* Calls fn(user, op) once on the loop's thread after the end (soon, also when it has ended already), then
 * free_user(user) exactly once. One callback per op; STATE for a second. */
typedef void (*kata_op_done_fn)(void *user, kata_op *op);
KATA_API int kata_op_set_callback(kata_op *op, kata_op_done_fn fn, void *user, void (*free_user)(void *user),
				  kata_error **err);

/*
 * The timeline: an entry a step in order of start, undo steps included. Complete once the op is done; may be read
 * before.
 */
typedef enum kata_step_outcome {
	KATA_STEP_RUNNING = 0,
	KATA_STEP_DONE = 1,
	KATA_STEP_FAILED = 2,
	KATA_STEP_UNDONE = 3 /* an undo that ran to its end */
} kata_step_outcome;

typedef struct kata_timeline_entry {
	size_t size;       /* sizeof(kata_timeline_entry), set by the caller */
	const char *step;  /* name of the step; borrowed, static */
	uint64_t start_ns; /* CLOCK_MONOTONIC */
	uint64_t end_ns;   /* 0 while running */
	uint32_t outcome;  /* kata_step_outcome */
	bool is_undo;
} kata_timeline_entry;

KATA_API size_t kata_op_get_timeline_length(const kata_op *op);
/* INVALID when index is past the end. */
KATA_API int kata_op_get_timeline_entry(const kata_op *op, size_t index, kata_timeline_entry *ret_entry,
					kata_error **err);
/* CLOCK_MONOTONIC of begin and end (0 while under way). */
KATA_API uint64_t kata_op_get_start_ns(const kata_op *op);
KATA_API uint64_t kata_op_get_end_ns(const kata_op *op);

#ifdef __cplusplus
}
#endif
#endif
