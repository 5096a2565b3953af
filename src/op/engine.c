/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The step engine: see op.h for the model.
 *
 *   phase      what the leader does next (advance)
 *   BEFORE     deadline and cancel are looked at; the fail-point "op/step:before"
 *   RUN        journal, timeline, run()
 *   AFTER      the fail-point "op/step:after"; then the next step
 *   UNDO       the fail-point "op/step:undo", undo() of the newest step not yet undone
 *   ENDED
 *
 * What ends a wait (a resume, a child's end, a timer, a worker) records the outcome and posts the op's task; the op
 * goes on from the loop, never inside the stack of who resumed it. So a completion may free what called it.
 */
#include "op/op_private.h"

#include <assert.h>
#include <string.h>

#include "base/text.h"

#define DEFAULT_UNDO_TIMEOUT_MS 5000u

static void advance(kata_op *op);

/* ---- timeline ---- */

static struct entry *push_entry(kata_op *op, bool is_undo)
{
	size_t n = atomic_load_explicit(&op->entry_count, memory_order_relaxed);
	struct entry *e = &op->entries[n];

	assert(n < 2 * op->table->count);
	e->step = op->table->steps[op->step].name;
	e->start_ns = kata__now_ns();
	e->is_undo = is_undo;
	atomic_store_explicit(&op->entry_count, n + 1, memory_order_release);
	return e;
}

static void close_entry(kata_op *op, kata_step_outcome outcome)
{
	size_t n = atomic_load_explicit(&op->entry_count, memory_order_relaxed);
	struct entry *e = n ? &op->entries[n - 1] : NULL;

	if (!e || atomic_load(&e->outcome) != KATA_STEP_RUNNING)
		return;
	atomic_store(&e->end_ns, kata__now_ns());
	atomic_store(&e->outcome, outcome);
}

/* ---- waits ---- */

static void task_run(struct kata__task *task)
{
	kata_op *op = kata__container_of(task, kata_op, task);

	op->posted = false;
	advance(op);
	kata_op_unref(op);
}

static void post(kata_op *op)
{
	if (op->posted)
		return;
	op->posted = true;
	op->task.fn = task_run;
	kata_op_ref(op);
	kata__loop_post(kata__context_loop(op->ctx), &op->task);
}

/* The wait is over, with this outcome. Late ones were filtered by the caller. */
static void wait_ended(kata_op *op, int result, kata_error *take_err)
{
	op->token++;
	kata__timer_remove(op->wait_timer);
	op->wait_timer = NULL;
	op->has_result = true;
	op->result = result;
	op->result_error = take_err;
	post(op);
}

uint64_t kata__op_token(const kata_op *op)
{
	return op->token;
}

void kata__op_resume(kata_op *op, uint64_t token, int status, kata_error *take_err)
{
	if (token != op->token || op->has_result || op->phase == PHASE_ENDED) {
		kata_error_free(take_err);
		return;
	}
	wait_ended(op, status, take_err);
}

static void wait_timer_fired(void *user)
{
	kata_op *op = user;

	op->wait_timer = NULL;
	wait_ended(op, 0, NULL);
}

int kata__op_run_delay(kata_op *op, uint64_t delay_ms, kata_error **err)
{
	int rc = kata__timer_add(kata__context_loop(op->ctx), kata__deadline_in_ms(delay_ms), wait_timer_fired, op,
				 &op->wait_timer, err);

	return rc ? rc : KATA__STEP_WAIT;
}

static void child_done(void *user, kata_op *child)
{
	kata_op *op = user;
	kata_error *error = kata__error_dup(kata_op_get_error(child));

	op->child = NULL;
	if (error && (int)kata_error_get_status(error) == op->forgiven)
		kata_error_free(kata__take_ptr(error));
	op->forgiven = 0;
	wait_ended(op, error ? (int)kata_error_get_status(error) : 0, error);
	kata_op_unref(child);
	kata_op_unref(op);
}

void kata__op_forgive_child(kata_op *op, int status)
{
	op->forgiven = status;
}

int kata__op_run_child(kata_op *op, kata_op *take_child, kata_error **err)
{
	op->child = take_child;
	kata_op_ref(op);
	if (take_child->phase == PHASE_ENDED) {
		child_done(op, take_child);
		return KATA__STEP_WAIT;
	}
	kata__op_on_done(take_child, child_done, op);
	if (!take_child->begun)
		kata__op_begin(take_child);
	return KATA__STEP_WAIT;
}

void kata__op_skip_rest(kata_op *op)
{
	op->skip_rest = true;
}

/* ---- blocking steps ---- */

static void work_run(struct kata__work *work)
{
	kata_op *op = kata__container_of(work, kata_op, work);
	const struct kata__step *step = &op->table->steps[op->step];

	op->result = (op->phase == PHASE_UNDO ? step->undo : step->run)(op, &op->result_error);
	assert(op->result != KATA__STEP_WAIT);
}

static void work_done(struct kata__work *work)
{
	kata_op *op = kata__container_of(work, kata_op, work);

	op->token++;
	op->has_result = true;
	post(op);
	kata_op_unref(op);
}

static int submit(kata_op *op, kata_error **err)
{
	int rc;

	op->work.work = work_run;
	op->work.done = work_done;
	op->wait = WAIT_WORKER;
	kata_op_ref(op);
	rc = kata__loop_work(kata__context_loop(op->ctx), &op->work, err);
	if (!rc)
		return KATA__STEP_WAIT;
	op->wait = WAIT_NOTHING;
	kata_op_unref(op);
	return rc;
}

/* ---- the end ---- */

static void end(kata_op *op)
{
	kata_context *ctx = op->ctx;

	kata__timer_remove(op->deadline_timer);
	op->deadline_timer = NULL;
	op->phase = PHASE_ENDED;
	if (op->journaled)
		kata__journal_write(op->journal, op->table->name, op->subject, "", "end", NULL);
	op->status = op->error ? (int)kata_error_get_status(op->error) : 0;
	if (op->table->finish)
		op->table->finish(op, op->status, &op->error);
	if (!(op->table->flags & KATA__OP_QUIET))
		kata__log(ctx, op->status ? KATA_LOG_WARNING : KATA_LOG_DEBUG, "op", "%s %s: %s", op->table->name,
			  op->subject ? op->subject : "", op->status ? kata_error_get_message(op->error) : "done");
	kata__op_publish(op);
	kata__context_leave(ctx, KATA__OBJECT_OP);
	kata_op_unref(op); /* the reference of being under way */
}

/* ---- failing and undoing ---- */

static void take_error(kata_op *op, kata_error *take)
{
	if (!op->error) {
		op->error = take;
		return;
	}
	kata__error_set_uncertain(op->error);
	kata__error_add_cause(op->error, take);
}

static void name_step(kata_op *op, kata_error *err)
{
	if (!kata_error_get_step(err))
		kata__error_set_step(err, op->table->name, op->table->steps[op->step].name);
}

/* From now on backwards; with_current: the step under way is undone too. */
static void begin_undo(kata_op *op, bool with_current)
{
	op->phase = PHASE_UNDO;
	op->forgiven = 0; /* of a child that never began */
	if (with_current)
		op->step++;
}

static void step_failed(kata_op *op, kata_error *take_err)
{
	name_step(op, take_err);
	close_entry(op, KATA_STEP_FAILED);
	take_error(op, take_err);
}

static kata_error *stop_error(kata_op *op)
{
	const char *step = op->step < op->table->count ? op->table->steps[op->step].name : "end";
	const char *gone = atomic_load(&op->gone);
	kata_error *err = NULL;

	if (op->timed_out)
		kata__fail(&err, KATA_E_TIMEOUT, HOST, "%s: not finished by its deadline of %llu ms (in step %s)",
			   op->table->name, (unsigned long long)op->timeout_ms, step);
	else if (gone)
		kata__fail(&err, KATA_E_GONE, CALLER, "%s: %s meanwhile (in step %s)", op->table->name, gone, step);
	else
		kata__fail(&err, KATA_E_CANCELLED, CALLER, "%s: cancelled in step %s", op->table->name, step);
	if (op->step < op->table->count)
		kata__error_set_step(err, op->table->name, step);
	return err;
}

static bool must_stop(const kata_op *op)
{
	/* A deadline always holds; a cancel may come too late. */
	return op->phase < PHASE_UNDO && (op->timed_out || (atomic_load(&op->cancel_asked) && !op->no_cancel));
}

/* A deadline or cancel while a step waits. */
static void abandon(kata_op *op)
{
	const struct kata__step *step = &op->table->steps[op->step];
	kata_error *err;

	if (op->has_result || op->wait == WAIT_WORKER || op->wait == WAIT_NOTHING)
		return; /* looked at when it returns */
	if (op->wait == WAIT_RESUME && op->child) {
		kata_op_cancel(op->child); /* its end ends the wait */
		return;
	}
	err = stop_error(op);
	op->token++;
	kata__timer_remove(op->wait_timer);
	op->wait_timer = NULL;
	if (op->wait == WAIT_RESUME && op->phase == PHASE_RUN && step->cancel)
		step->cancel(op);
	close_entry(op, KATA_STEP_FAILED);
	take_error(op, err);
	begin_undo(op, (op->wait == WAIT_RESUME && op->phase == PHASE_RUN && (step->flags & KATA__STEP_UNCERTAIN) &&
			step->undo) ||
			       op->phase == PHASE_AFTER);
	op->wait = WAIT_NOTHING;
	post(op);
}

static void undo_timed_out(void *user)
{
	kata_op *op = user;
	kata_error *err = NULL;

	op->undo_timer = NULL;
	if (op->has_result || op->wait == WAIT_WORKER)
		return;
	if (op->child) {
		kata_op_cancel(op->child);
		return;
	}
	kata__fail(&err, KATA_E_TIMEOUT, HOST, "taking back step %s of %s got no answer in time",
		   op->table->steps[op->step].name, op->table->name);
	wait_ended(op, KATA_E_TIMEOUT, err);
}

static void journal(kata_op *op, const char *event)
{
	const struct kata__step *step = &op->table->steps[op->step];

	if ((step->flags & KATA__STEP_JOURNAL) && op->journal)
		kata__journal_write(op->journal, op->table->name, op->subject, step->name, event, NULL);
}

/* ---- going on ---- */

/* Acts on what a fail-point says. True: the op waits or has been sent backwards; false: go on. */
static bool fail_point(kata_op *op, const char *where)
{
	kata_error *err = NULL;
	uint64_t value = 0;
	int action = kata__fail_point_pass(op->ctx, op->table->name, op->table->steps[op->step].name, where, &value);

	switch (action) {
	case KATA_FAIL_ERROR:
		kata__fail(&err, KATA_E_INJECTED, HOST, "fail-point %s/%s:%s", op->table->name,
			   op->table->steps[op->step].name, where);
		name_step(op, err);
		take_error(op, err);
		begin_undo(op, op->phase == PHASE_AFTER);
		return false;
	case KATA_FAIL_HANG:
		if (must_stop(op)) { /* asked while a worker was at it: nobody will look again */
			take_error(op, stop_error(op));
			begin_undo(op, op->phase == PHASE_AFTER);
			return false;
		}
		op->wait = WAIT_HANG;
		return true;
	case KATA_FAIL_DELAY:
		if (kata__op_run_delay(op, value, NULL) < 0)
			return false;
		op->wait = WAIT_TIMER;
		return true;
	default:
		return false;
	}
}

static int call_step(kata_op *op, int (*fn)(kata_op *, kata_error **), bool blocking, kata_error **err)
{
	int rc;

	if (blocking)
		return submit(op, err);
	op->wait = WAIT_RESUME;
	rc = fn(op, err);
	if (rc != KATA__STEP_WAIT) {
		op->wait = WAIT_NOTHING;
		op->token++; /* whatever it began to wait for is void */
		op->has_result = false;
		kata_error_free(kata__take_ptr(op->result_error));
	}
	return rc;
}

static void run_ended(kata_op *op, int rc, kata_error *take_err)
{
	bool unknown;

	op->wait = WAIT_NOTHING;
	if (rc < 0) {
		if ((op->timed_out || atomic_load(&op->gone)) &&
		    kata_error_get_status(take_err) == KATA_E_CANCELLED) { /* a child that we cancelled */
			kata_error *stop = stop_error(op);

			kata__error_add_cause(stop, take_err);
			take_err = stop;
		}
		if (!take_err)
			kata__fail(&take_err, rc, HOST, "%s: step %s failed", op->table->name,
				   op->table->steps[op->step].name);
		step_failed(op, take_err);
		journal(op, "undone"); /* a failed step has undone its own half work */
		/* Nobody knows what came of it: the peer was silent, or a child that asked it was stopped. */
		unknown = rc == KATA_E_TIMEOUT || rc == KATA_E_CANCELLED;
		begin_undo(op, unknown && (op->table->steps[op->step].flags & KATA__STEP_UNCERTAIN));
		return;
	}
	close_entry(op, KATA_STEP_DONE);
	journal(op, "done");
	op->phase = PHASE_AFTER;
	if (fail_point(op, "after"))
		return;
	if (op->phase == PHASE_AFTER) {
		op->step = op->skip_rest ? op->table->count : op->step + 1;
		op->phase = PHASE_BEFORE;
	}
}

static void run_step(kata_op *op)
{
	const struct kata__step *step = &op->table->steps[op->step];
	kata_error *err = NULL;
	int rc;

	op->phase = PHASE_RUN;
	if (step->flags & KATA__STEP_NO_CANCEL)
		op->no_cancel = true;
	if ((step->flags & KATA__STEP_JOURNAL) && op->journal) {
		op->journaled = true;
		rc = kata__journal_write(op->journal, op->table->name, op->subject, step->name, "begin", &err);
		if (rc) {
			step_failed(op, err);
			begin_undo(op, false);
			return;
		}
	}
	push_entry(op, false);
	rc = call_step(op, step->run, step->flags & KATA__STEP_BLOCKING, &err);
	if (rc != KATA__STEP_WAIT)
		run_ended(op, rc, err);
}

static void undo_ended(kata_op *op, int rc, kata_error *take_err)
{
	op->wait = WAIT_NOTHING;
	kata__timer_remove(op->undo_timer);
	op->undo_timer = NULL;
	close_entry(op, rc < 0 ? KATA_STEP_FAILED : KATA_STEP_UNDONE);
	if (rc < 0 && !take_err)
		kata__fail(&take_err, rc, HOST, "%s: step %s could not be taken back", op->table->name,
			   op->table->steps[op->step].name);
	if (rc < 0)
		take_error(op, take_err);
	else
		journal(op, "undone");
}

static void undo_step(kata_op *op)
{
	const struct kata__step *step = &op->table->steps[--op->step];
	uint32_t bound = op->table->undo_timeout_ms ? op->table->undo_timeout_ms : DEFAULT_UNDO_TIMEOUT_MS;
	kata_error *err = NULL;
	int rc;

	if (!step->undo) {
		journal(op, "undone");
		return;
	}
	push_entry(op, true);
	kata__fail_point_pass(op->ctx, op->table->name, step->name, "undo", &(uint64_t){0}); /* for KILL */
	rc = call_step(op, step->undo, step->flags & KATA__STEP_UNDO_BLOCKING, &err);
	if (rc != KATA__STEP_WAIT)
		undo_ended(op, rc, err);
	else if (op->wait != WAIT_WORKER)
		kata__timer_add(kata__context_loop(op->ctx), kata__deadline_in_ms(bound), undo_timed_out, op,
				&op->undo_timer, NULL);
}

/* What a wait has brought. */
static void take_result(kata_op *op)
{
	kata_error *err = kata__take_ptr(op->result_error);

	op->has_result = false;
	if (op->phase == PHASE_RUN) {
		run_ended(op, op->result, err);
	} else if (op->phase == PHASE_UNDO) {
		undo_ended(op, op->result, err);
	} else { /* a delay of a fail-point: before or after */
		assert(op->wait == WAIT_TIMER);
		op->wait = WAIT_NOTHING;
		if (op->phase == PHASE_AFTER) {
			op->step = op->skip_rest ? op->table->count : op->step + 1;
			op->phase = PHASE_BEFORE;
		} else {
			run_step(op);
		}
	}
}

static void advance(kata_op *op)
{
	if (op->phase == PHASE_ENDED)
		return;
	if (op->has_result)
		take_result(op);
	while (op->wait == WAIT_NOTHING && !op->has_result) {
		if (op->phase == PHASE_UNDO) {
			if (op->step == 0) {
				end(op);
				return;
			}
			undo_step(op);
		} else if (op->step == op->table->count) {
			end(op);
			return;
		} else if (must_stop(op)) {
			take_error(op, stop_error(op));
			begin_undo(op, false);
		} else if (op->table->steps[op->step].skip && op->table->steps[op->step].skip(op)) {
			op->step++;
		} else if (!fail_point(op, "before") && op->phase == PHASE_BEFORE) {
			run_step(op);
		}
	}
}

/* ---- begin, deadline, cancel ---- */

static void deadline_passed(void *user)
{
	kata_op *op = user;

	op->deadline_timer = NULL;
	op->timed_out = true;
	if (op->phase < PHASE_UNDO)
		abandon(op);
}

static void begin_on_leader(kata_op *op)
{
	if (op->deadline != KATA__NEVER)
		kata__timer_add(kata__context_loop(op->ctx), op->deadline, deadline_passed, op, &op->deadline_timer,
				NULL);
	advance(op);
}

static void begin_task(struct kata__task *task)
{
	kata_op *op = kata__container_of(task, kata_op, task);

	op->posted = false;
	begin_on_leader(op);
	kata_op_unref(op);
}

void kata__op_begin(kata_op *op)
{
	struct kata__loop *loop = kata__context_loop(op->ctx);

	op->begun = true;
	kata__context_enter(op->ctx, KATA__OBJECT_OP, NULL);
	kata_op_ref(op); /* under way: dropped in end() */
	if (kata__loop_is_leader(loop)) {
		kata_op_ref(op);
		begin_on_leader(op);
		kata_op_unref(op);
	} else if (kata__loop_try_lead(loop)) {
		kata_op_ref(op);
		begin_on_leader(op);
		kata_op_unref(op);
		kata__loop_unlead(loop);
	} else {
		op->posted = true;
		op->task.fn = begin_task;
		kata_op_ref(op);
		kata__loop_post(loop, &op->task);
	}
}

int kata__op_start(kata_context *ctx, const struct kata__op_table *table, void *take_data,
		   const kata_op_options *options, uint32_t scale, kata_op **ret_op, kata_error **err)
{
	kata_op *op;
	int rc = kata__op_new(ctx, table, take_data, options, scale, &op, err);

	if (rc)
		return rc;
	kata__op_begin(op);
	if (ret_op)
		*ret_op = op;
	else
		kata_op_unref(op);
	return 0;
}

static void cancel_run(struct kata__task *task)
{
	kata_op *op = kata__container_of(task, kata_op, cancel_task);

	if (op->phase < PHASE_UNDO && !op->no_cancel)
		abandon(op);
	kata_op_unref(op);
}

void kata_op_cancel(kata_op *op)
{
	if (!op || kata_op_is_done(op) || atomic_exchange(&op->cancel_asked, true))
		return;
	op->cancel_task.fn = cancel_run;
	kata_op_ref(op);
	kata__loop_post(kata__context_loop(op->ctx), &op->cancel_task);
}

void kata__op_cancel_gone(kata_op *op, const char *why)
{
	if (!atomic_load(&op->cancel_asked))
		atomic_store(&op->gone, why);
	kata_op_cancel(op);
}

void kata__op_on_done(kata_op *op, void (*fn)(void *user, kata_op *op), void *user)
{
	assert(!op->on_done && op->phase != PHASE_ENDED);
	op->on_done = fn;
	op->on_done_user = user;
}
