/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_OP_OP_H
#define KATA_OP_OP_H
/*
 * The step engine. An operation is a static const table of steps; this runs it.
 *
 *        begin --> step 0 --> step 1 --> ... --> finish(OK)
 *                    | fails, deadline, cancel
 *                    v
 *                  undo of the finished steps in reverse --> finish(error)
 *
 * A step's run() is called on the leader (or on a worker thread when BLOCKING) and returns
 *   KATA__STEP_DONE  it has finished,
 *   KATA__STEP_WAIT  it waits for something: kata__op_resume() will end it (never from a BLOCKING step),
 *   < 0              it failed and set *err; it must have undone its own half work.
 * undo() likewise. A step without undo has nothing to take back.
 *
 * A deadline or cancel while a step waits: its cancel() is called (if any), the token is spent, so that a late resume
 * is ignored, and the steps before it are undone; a step flagged UNCERTAIN is undone too although it did not finish:
 * its undo asks the peer what really happened and takes that back. While a BLOCKING step runs, deadline and cancel take
 * effect when it returns. Undo is bounded: a waiting undo is given undo_timeout_ms (x the op's scale) and then counts
 * as failed; what undo could not take back is added to the error's causes, and the error says uncertain.
 *
 * Invariants: 1. at most one step of an op is under way. 2. finish() is called exactly once, on the leader, before
 * waiters wake. 3. a resume with a spent token does nothing. 4. whoever will call resume holds a reference until then.
 */
#include <kata/op.h>

#include "base/clock.h"
#include "base/loop.h"
#include "op/context.h"
#include "op/journal.h"

#define KATA__STEP_DONE 0
#define KATA__STEP_WAIT 1

#define KATA__STEP_BLOCKING 1u      /* run() on a worker thread: touches only the op's data */
#define KATA__STEP_UNDO_BLOCKING 2u /* likewise undo() */
#define KATA__STEP_UNCERTAIN 4u     /* see above */
#define KATA__STEP_JOURNAL 8u       /* intent is written to the op's journal before run, and done/undone after */
#define KATA__STEP_NO_CANCEL 16u    /* past the point of no return: a cancel is ignored from here on */

struct kata__step {
	const char *name;
	int (*run)(kata_op *op, kata_error **err);
	int (*undo)(kata_op *op, kata_error **err);
	void (*cancel)(kata_op *op);
	uint32_t flags;
	/* [leader] May, for a step without undo: true where there is nothing to do. It costs no hop to a worker, and
	 * the step is not in the timeline. */
	bool (*skip)(const kata_op *op);
};

#define KATA__OP_NO_DEADLINE 1u /* timeout_ms 0 in the options means none */
#define KATA__OP_QUIET 2u       /* no fail-points named in the docs, no log at info (agent reads) */

struct kata__op_table {
	const char *name; /* "plug-storage" */
	const struct kata__step *steps;
	size_t count;
	uint32_t timeout_ms;      /* default deadline before scaling */
	uint32_t undo_timeout_ms; /* 0: 5000 */
	uint32_t flags;
	/* Called on the leader once, at the end: publishes the result to the object (state, counters) and may add to
	 * *error (VMM's last words). status is 0 or negative. */
	void (*finish)(kata_op *op, int status, kata_error **error);
	/* Frees the op's data with the op. Any thread. */
	void (*free_data)(void *data);
};
#define KATA__STEPS(array) .steps = (array), .count = sizeof(array) / sizeof((array)[0])

/* Takes `take_data` (also on failure, then freed by table->free_data). `scale` multiplies the default deadline (10
 * under TCG). */
int kata__op_new(kata_context *ctx, const struct kata__op_table *table, void *take_data, const kata_op_options *options,
		 uint32_t scale, kata_op **ret_op, kata_error **err);
/* Gives the op a journal (borrowed; the object outlives the op through its data) and the subject named in its lines. */
void kata__op_set_journal(kata_op *op, struct kata__journal *journal, const char *subject);
/* Starts it: on the leader at once, else posted. */
void kata__op_begin(kata_op *op);
/* new + begin + (ret_op: hand over; NULL: drop). */
int kata__op_start(kata_context *ctx, const struct kata__op_table *table, void *take_data,
		   const kata_op_options *options, uint32_t scale, kata_op **ret_op, kata_error **err);
/* For the blocking twin: waits for *take_op and unrefs it, given the result of the _begin (rc != 0: returns it). By
 * address, so that `kata__op_finish_sync(x_begin(..., &op, err), &op, err)` does not depend on the order in which
 * arguments are evaluated. */
int kata__op_finish_sync(int rc, kata_op **take_op, kata_error **err);

/* [any thread] kata_op_cancel for who takes away what the op works on: it ends with GONE and says why. `why` is static
 * text: "the VM was destroyed". Who was cancelled by his caller before stays CANCELLED. */
void kata__op_cancel_gone(kata_op *op, const char *why);

void *kata__op_data(const kata_op *op);
kata_context *kata__op_context(const kata_op *op);
const struct kata__op_table *kata__op_get_table(const kata_op *op);
uint64_t kata__op_deadline(const kata_op *op); /* ns; KATA__NEVER */
uint32_t kata__op_scale(const kata_op *op);
bool kata__op_is_undoing(const kata_op *op);
/* [any thread] For blocking steps that take long: TIMEOUT or CANCELLED once the op is to stop. */
int kata__op_check_stop(const kata_op *op, kata_error **err);

/* [leader] The token of the wait that the current run/undo is about to begin. */
uint64_t kata__op_token(const kata_op *op);
/* [leader] Ends the waiting step: status 0, or negative with *take_err consumed (may be NULL only for 0). */
void kata__op_resume(kata_op *op, uint64_t token, int status, kata_error *take_err);

/* [leader] Steps built on others: run a child op (consumed; its error becomes the step's), or wait some time. Return
 * WAIT or < 0. A deadline or cancel of the parent cancels the child and waits for its undo. */
int kata__op_run_child(kata_op *op, kata_op *take_child, kata_error **err);
/* [leader] Of the child run next: an end with `status` is success to the parent. */
void kata__op_forgive_child(kata_op *op, int status);
int kata__op_run_delay(kata_op *op, uint64_t delay_ms, kata_error **err);
/* [leader] Ends the op successfully after this step, skipping the rest of the table (e.g. nothing to do). Call before
 * returning DONE. */
void kata__op_skip_rest(kata_op *op);
/* [leader] Calls fn(user, op) when it is done, before public waiters wake; one a op, before the op has ended (check
 * kata_op_is_done). */
void kata__op_on_done(kata_op *op, void (*fn)(void *user, kata_op *op), void *user);
#endif
