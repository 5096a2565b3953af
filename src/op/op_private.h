/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_OP_OP_PRIVATE_H
#define KATA_OP_OP_PRIVATE_H
/* The inside of kata_op, shared by the object (op.c) and the engine (engine.c) alone. */
#include "op/op.h"

#include <pthread.h>
#include <stdatomic.h>

#define OP_MAGIC 0x6b6f7031u

enum phase { PHASE_BEFORE, PHASE_RUN, PHASE_AFTER, PHASE_UNDO, PHASE_ENDED };
enum wait { WAIT_NOTHING, WAIT_RESUME, WAIT_WORKER, WAIT_CHILD, WAIT_TIMER, WAIT_HANG };

struct entry {
	const char *step;
	uint64_t start_ns;
	_Atomic uint64_t end_ns;
	_Atomic uint32_t outcome;
	bool is_undo;
};

struct kata_op {
	uint32_t magic;
	atomic_uint refs;
	kata_context *ctx;
	const struct kata__op_table *table;
	void *data;
	struct kata__journal *journal;
	char *subject;
	uint32_t scale;
	uint64_t timeout_ms;
	uint64_t deadline;

	/* [leader] */
	enum phase phase;
	enum wait wait;
	size_t step; /* RUN phases: current; UNDO: one past the next to undo */
	uint64_t token;
	bool has_result; /* the wait has ended: result_* */
	int result;
	kata_error *result_error;
	kata_error *error;
	int status;
	bool begun, journaled, timed_out, skip_rest, no_cancel, posted;
	struct kata__timer *deadline_timer, *wait_timer, *undo_timer;
	kata_op *child;
	int forgiven; /* an end of the child that is success; 0: none */
	struct kata__work work;
	struct kata__task task;
	void (*on_done)(void *user, kata_op *op);
	void *on_done_user;

	/* any thread */
	atomic_bool cancel_asked;
	_Atomic(const char *) gone; /* why the object that it works on goes, where that is why it was cancelled */
	struct kata__task cancel_task;
	bool done; /* __atomic */
	uint64_t start_ns;
	_Atomic uint64_t end_ns;
	pthread_mutex_t lock; /* event_fd, callback */
	int event_fd;
	kata_op_done_fn callback;
	void *callback_user;
	void (*callback_free)(void *user);
	struct kata__task callback_task;
	atomic_size_t entry_count;
	struct entry entries[];
};

/* Tells everybody that the op has ended: done flag, fd, parent, callback, waiters. [leader] */
void kata__op_publish(kata_op *op);
#endif
