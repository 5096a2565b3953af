/* SPDX-License-Identifier: Apache-2.0 */
/* The step engine: order, waiting, undo, deadlines, cancel, fail-points, children, timeline, journal. */
#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "op/op.h"

/* What happened, as letters: lower case runs, upper case undoes. */
struct trace {
	char text[64];
	atomic_int at;
	atomic_int finished;
	int finish_status;
	uint64_t token; /* of the step that waits */
	kata_op *waiting;
	atomic_int cancels;
};

static kata_context *ctx;
static char dir[64];

static void setup_flags(uint64_t flags)
{
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;

	strcpy(dir, "/tmp/kata-op-XXXXXX");
	cr_assert(mkdtemp(dir));
	o.state_dir = dir;
	o.flags = flags;
	cr_assert_eq(kata_context_new(&o, &ctx, NULL), 0);
}

static void setup(void)
{
	setup_flags(0);
}

static void teardown(void)
{
	kata_error *err = NULL;

	cr_expect_eq(kata_context_free(ctx, &err), 0, "%s", err ? kata_error_get_message(err) : "");
	kata_error_free(err);
	cr_expect_eq(kata__remove_tree(dir, NULL), 0);
}

TestSuite(op, .init = setup, .fini = teardown, .timeout = 30);

static struct trace *trace_of(kata_op *op)
{
	return kata__op_data(op);
}

static void mark(kata_op *op, char c)
{
	struct trace *t = trace_of(op);

	t->text[atomic_fetch_add(&t->at, 1)] = c;
}

static int run_a(kata_op *op, kata_error **err)
{
	mark(op, 'a');
	return KATA__STEP_DONE;
}
static int undo_a(kata_op *op, kata_error **err)
{
	mark(op, 'A');
	return KATA__STEP_DONE;
}
static int run_b(kata_op *op, kata_error **err)
{
	mark(op, 'b');
	return kata__op_run_delay(op, 5, err);
}
static int undo_b(kata_op *op, kata_error **err)
{
	mark(op, 'B');
	return kata__op_run_delay(op, 5, err);
}
static int run_c(kata_op *op, kata_error **err)
{
	mark(op, 'c');
	return KATA__STEP_DONE;
}
static int run_fail(kata_op *op, kata_error **err)
{
	mark(op, 'f');
	return kata__fail(err, KATA_E_VMM, VMM, "it says no");
}
static int run_wait(kata_op *op, kata_error **err)
{
	struct trace *t = trace_of(op);

	mark(op, 'w');
	t->token = kata__op_token(op);
	t->waiting = op;
	return KATA__STEP_WAIT;
}
static int undo_wait(kata_op *op, kata_error **err)
{
	mark(op, 'W');
	return KATA__STEP_DONE;
}
static void cancel_wait(kata_op *op)
{
	atomic_fetch_add(&trace_of(op)->cancels, 1);
}
static int undo_never(kata_op *op, kata_error **err)
{
	mark(op, 'N');
	return KATA__STEP_WAIT;
}
static int run_blocking(kata_op *op, kata_error **err)
{
	mark(op, kata__loop_is_leader(kata__context_loop(ctx)) ? '!' : 'k');
	return KATA__STEP_DONE;
}
static int run_resumed_early(kata_op *op, kata_error **err)
{
	mark(op, 'e');
	kata__op_resume(op, kata__op_token(op), 0, NULL);
	return KATA__STEP_WAIT;
}
static int run_skip(kata_op *op, kata_error **err)
{
	mark(op, 's');
	kata__op_skip_rest(op);
	return KATA__STEP_DONE;
}

static void finish(kata_op *op, int status, kata_error **error)
{
	struct trace *t = trace_of(op);

	t->finish_status = status;
	atomic_fetch_add(&t->finished, 1);
}

static atomic_int freed;

static void free_trace(void *data)
{
	atomic_fetch_add(&freed, 1); /* the trace may be a test's stack, gone by now */
}

static bool always(const kata_op *op)
{
	return true;
}

#define TABLE(var, ...)                                                                                                \
	static const struct kata__step var##_steps[] = {__VA_ARGS__};                                                  \
	static const struct kata__op_table var = {.name = #var,                                                        \
						  KATA__STEPS(var##_steps),                                            \
						  .timeout_ms = 5000,                                                  \
						  .undo_timeout_ms = 50,                                               \
						  .finish = finish,                                                    \
						  .free_data = free_trace}

#define A                                                                                                              \
	{                                                                                                              \
		"a", run_a, undo_a, NULL, 0, NULL                                                                      \
	}
#define B                                                                                                              \
	{                                                                                                              \
		"b", run_b, undo_b, NULL, 0, NULL                                                                      \
	}
#define C                                                                                                              \
	{                                                                                                              \
		"c", run_c, NULL, NULL, 0, NULL                                                                        \
	}
#define FAIL                                                                                                           \
	{                                                                                                              \
		"fail", run_fail, NULL, NULL, 0, NULL                                                                  \
	}

TABLE(three, A, B, C);
TABLE(failing, A, B, C, FAIL);
TABLE(waiting, A, {"wait", run_wait, undo_wait, cancel_wait, 0, NULL});
TABLE(unsure, A, {"wait", run_wait, undo_wait, cancel_wait, KATA__STEP_UNCERTAIN, NULL});
TABLE(late, A, {"wait", run_wait, undo_wait, cancel_wait, KATA__STEP_NO_CANCEL, NULL});
TABLE(stuck_undo, A, {"n", run_a, undo_never, NULL, 0, NULL}, FAIL);
TABLE(working, A, {"k", run_blocking, NULL, NULL, KATA__STEP_BLOCKING, NULL}, C);
TABLE(early, {"e", run_resumed_early, NULL, NULL, 0, NULL}, C);
TABLE(skipping, A, {"s", run_skip, NULL, NULL, 0, NULL}, FAIL);
TABLE(skipped, A, {"s", run_fail, NULL, NULL, KATA__STEP_BLOCKING, always}, C, {"t", run_fail, NULL, NULL, 0, always});
TABLE(journaled, {"a", run_a, undo_a, NULL, KATA__STEP_JOURNAL, NULL}, B, FAIL);

static int run_table(const struct kata__op_table *table, struct trace *t, uint64_t timeout_ms, kata_error **err)
{
	kata_op_options o = {sizeof(o), timeout_ms};
	kata_op *op = NULL;
	int rc = kata__op_start(ctx, table, t, &o, 1, &op, err);

	return kata__op_finish_sync(rc, &op, err);
}

Test(op, runs_its_steps_in_order_and_finishes_once)
{
	struct trace t = {0};

	cr_expect_eq(run_table(&three, &t, 0, NULL), 0);
	cr_expect_str_eq(t.text, "abc");
	cr_expect_eq(t.finished, 1);
	cr_expect_eq(t.finish_status, 0);
}

Test(op, undoes_finished_steps_in_reverse_when_one_fails_and_names_the_step)
{
	struct trace t = {0};
	kata_error *err = NULL;

	cr_expect_eq(run_table(&failing, &t, 0, &err), KATA_E_VMM);
	cr_expect_str_eq(t.text, "abcfBA");
	cr_expect_str_eq(kata_error_get_step(err), "failing/fail");
	cr_expect_str_eq(kata_error_get_message(err), "it says no");
	cr_expect_eq(kata_error_get_origin(err), KATA_ORIGIN_VMM);
	cr_expect(!kata_error_is_uncertain(err));
	cr_expect_eq(t.finish_status, KATA_E_VMM);
	kata_error_free(err);
}

Test(op, passes_over_a_step_that_has_nothing_to_do)
{
	struct trace t = {0};
	kata_op *op = NULL;

	cr_expect_eq(kata__op_start(ctx, &skipped, &t, NULL, 1, &op, NULL), 0);
	cr_expect_eq(kata_op_wait(op, NULL), 0);
	cr_expect_str_eq(t.text, "ac");
	cr_expect_eq(kata_op_get_timeline_length(op), 2u);
	kata_op_unref(op);
}

Test(op, ends_by_its_deadline_and_calls_the_steps_cancel)
{
	struct trace t = {0};
	kata_error *err = NULL;

	cr_expect_eq(run_table(&waiting, &t, 200, &err), KATA_E_TIMEOUT);
	cr_expect_str_eq(t.text, "awA");
	cr_expect_eq(t.cancels, 1);
	cr_expect_str_eq(kata_error_get_step(err), "waiting/wait");
	kata_error_free(err);
}

Test(op, undoes_an_uncertain_step_that_did_not_finish)
{
	struct trace t = {0};

	cr_expect_eq(run_table(&unsure, &t, 200, NULL), KATA_E_TIMEOUT);
	cr_expect_str_eq(t.text, "awWA");
}

Test(op, a_resume_with_a_spent_token_is_ignored)
{
	struct trace t = {0};
	kata_op_options o = {sizeof(o), 20};
	kata_error *late_error = NULL;
	kata_op *op;

	cr_assert_eq(kata__op_start(ctx, &waiting, &t, &o, 1, &op, NULL), 0);
	cr_expect_eq(kata_op_wait(op, NULL), KATA_E_TIMEOUT);
	kata__fail(&late_error, KATA_E_GONE, VMM, "late");
	kata__op_resume(op, t.token, KATA_E_GONE, late_error);
	cr_expect_eq(kata_error_get_status(kata_op_get_error(op)), KATA_E_TIMEOUT);
	kata_op_unref(op);
}

Test(op, cancel_undoes_and_ends_with_cancelled)
{
	struct trace t = {0};
	kata_op *op;
	kata_error *err = NULL;

	cr_assert_eq(kata__op_start(ctx, &waiting, &t, NULL, 1, &op, NULL), 0);
	kata_op_cancel(op);
	cr_expect_eq(kata_op_wait(op, &err), KATA_E_CANCELLED);
	cr_expect(strcmp(t.text, "awA") == 0 || strcmp(t.text, "A") == 0 || strcmp(t.text, "") == 0 ||
			  strcmp(t.text, "aA") == 0,
		  "%s", t.text);
	kata_op_unref(op);
	kata_error_free(err);
}

Test(op, a_cancel_past_the_point_of_no_return_is_ignored_but_the_deadline_holds)
{
	struct trace t = {0};
	kata_op_options o = {sizeof(o), 500};
	struct pollfd p;
	kata_op *op;

	cr_assert_eq(kata__op_start(ctx, &late, &t, &o, 1, &op, NULL), 0);
	p = (struct pollfd){.fd = kata_op_get_fd(op), .events = POLLIN};
	while (atomic_load(&t.at) < 2)
		cr_assert_eq(poll(&p, 1, 1), 0);
	kata_op_cancel(op);
	cr_expect_eq(kata_op_wait(op, NULL), KATA_E_TIMEOUT);
	kata_op_unref(op);
}

Test(op, an_undo_that_never_answers_is_bounded_and_makes_the_error_uncertain)
{
	struct trace t = {0};
	kata_error *err = NULL;

	cr_expect_eq(run_table(&stuck_undo, &t, 0, &err), KATA_E_VMM);
	cr_expect_str_eq(t.text, "aafNA");
	cr_expect(kata_error_is_uncertain(err));
	cr_expect_not_null(kata_error_get_cause(err));
	cr_expect_eq(kata_error_get_status(kata_error_get_cause(err)), KATA_E_TIMEOUT);
	kata_error_free(err);
}

Test(op, blocking_steps_run_on_a_worker)
{
	struct trace t = {0};

	cr_expect_eq(run_table(&working, &t, 0, NULL), 0);
	cr_expect_str_eq(t.text, "akc");
}

Test(op, a_step_may_be_resumed_before_its_run_returns)
{
	struct trace t = {0};

	cr_expect_eq(run_table(&early, &t, 0, NULL), 0);
	cr_expect_str_eq(t.text, "ec");
}

Test(op, a_step_may_skip_the_rest)
{
	struct trace t = {0};

	cr_expect_eq(run_table(&skipping, &t, 0, NULL), 0);
	cr_expect_str_eq(t.text, "as");
}

#define CASES 6
static const struct {
	const char *point, *trace;
} cases[CASES] = {{"three/a:before", ""},    {"three/a:after", "aA"},    {"three/b:before", "aA"},
		  {"three/b:after", "abBA"}, {"three/c:before", "abBA"}, {"three/c:after", "abcBA"}};

Test(op, every_fail_point_fails_its_step_and_takes_back_what_was_done)
{
	for (size_t i = 0; i < CASES; i++) {
		struct trace t = {0};
		kata_error *err = NULL;
		char step[32];

		cr_assert_eq(kata_context_set_fail_point(ctx, cases[i].point, KATA_FAIL_ERROR, 0, 0, 1, NULL), 0);
		cr_expect_eq(run_table(&three, &t, 0, &err), KATA_E_INJECTED, "%s", cases[i].point);
		cr_expect_str_eq(t.text, cases[i].trace, "%s", cases[i].point);
		snprintf(step, sizeof(step), "%.7s", cases[i].point);
		cr_expect_str_eq(kata_error_get_step(err), step);
		kata_error_free(err);
		memset(&t, 0, sizeof(t));
		cr_expect_eq(run_table(&three, &t, 0, NULL), 0, "the same call then succeeds");
	}
}

Test(op, a_hanging_fail_point_is_ended_by_the_deadline)
{
	struct trace t = {0};

	kata_context_set_fail_point(ctx, "three/b:after", KATA_FAIL_HANG, 0, 0, 1, NULL);
	cr_expect_eq(run_table(&three, &t, 200, NULL), KATA_E_TIMEOUT);
	cr_expect_str_eq(t.text, "abBA");
}

Test(op, a_delaying_fail_point_delays)
{
	struct trace t = {0};
	uint64_t begin = kata__now_ns();

	kata_context_set_fail_point(ctx, "three/a:before", KATA_FAIL_DELAY, 30, 0, 1, NULL);
	kata_context_set_fail_point(ctx, "three/c:after", KATA_FAIL_DELAY, 30, 0, 1, NULL);
	cr_expect_eq(run_table(&three, &t, 0, NULL), 0);
	cr_expect_str_eq(t.text, "abc");
	cr_expect_geq(kata__now_ns() - begin, 60u * 1000000u);
}

Test(op, a_fail_point_anywhere_counts_every_pass)
{
	for (uint32_t i = 0; i < CASES; i++) {
		struct trace t = {0};

		cr_assert_eq(kata_context_set_fail_point(ctx, KATA_FAIL_ANYWHERE, KATA_FAIL_ERROR, 0, i, 1, NULL), 0);
		cr_expect_eq(run_table(&three, &t, 0, NULL), KATA_E_INJECTED);
		cr_expect_str_eq(t.text, cases[i].trace, "pass %u", i);
	}
}

Test(op, a_fail_point_acts_on_the_pass_it_was_asked_for)
{
	struct trace t = {0};

	kata_context_set_fail_point(ctx, "three/a:before", KATA_FAIL_ERROR, 0, 1, 1, NULL);
	cr_expect_eq(run_table(&three, &t, 0, NULL), 0);
	cr_expect_eq(run_table(&three, &t, 0, NULL), KATA_E_INJECTED);
	cr_expect_eq(run_table(&three, &t, 0, NULL), 0);
}

Test(op, the_timeline_has_every_step_and_undo_with_times)
{
	struct trace t = {0};
	kata_timeline_entry e = {.size = sizeof(e)};
	static const char *const names[] = {"a", "b", "c", "fail", "b", "a"};
	kata_op *op;

	cr_assert_eq(kata__op_start(ctx, &failing, &t, NULL, 1, &op, NULL), 0);
	kata_op_wait(op, NULL);
	cr_assert_eq(kata_op_get_timeline_length(op), 6);
	for (size_t i = 0; i < 6; i++) {
		cr_assert_eq(kata_op_get_timeline_entry(op, i, &e, NULL), 0);
		cr_expect_str_eq(e.step, names[i]);
		cr_expect_eq(e.is_undo, i > 3);
		cr_expect_eq(e.outcome, i < 3 ? KATA_STEP_DONE : i == 3 ? KATA_STEP_FAILED : KATA_STEP_UNDONE);
		cr_expect_geq(e.end_ns, e.start_ns);
		cr_expect_geq(e.start_ns, kata_op_get_start_ns(op));
		cr_expect_leq(e.end_ns, kata_op_get_end_ns(op));
	}
	cr_expect_eq(kata_op_get_timeline_entry(op, 6, &e, NULL), KATA_E_INVALID);
	e.size = 1;
	cr_expect_eq(kata_op_get_timeline_entry(op, 0, &e, NULL), KATA_E_INVALID);
	kata_op_unref(op);
}

static int run_child_step(kata_op *op, kata_error **err)
{
	kata_op *child;
	int rc = kata__op_new(ctx, &waiting, trace_of(op)->waiting, NULL, 1, &child, err);

	trace_of(op)->waiting = NULL;
	mark(op, 'c');
	return rc ? rc : kata__op_run_child(op, child, err);
}
TABLE(parent, A, {"child", run_child_step, NULL, NULL, 0, NULL});

Test(op, a_deadline_of_the_parent_cancels_the_child_and_waits_for_its_undo)
{
	struct trace child = {0}, t = {.waiting = (kata_op *)(void *)&child};
	kata_error *err = NULL;

	cr_expect_eq(run_table(&parent, &t, 200, &err), KATA_E_TIMEOUT);
	cr_expect_str_eq(child.text, "awA");
	cr_expect_eq(child.finish_status, KATA_E_CANCELLED);
	cr_expect_str_eq(t.text, "acA");
	cr_expect_eq(kata_error_get_status(kata_error_get_cause(err)), KATA_E_CANCELLED);
	kata_error_free(err);
}

static struct trace failed_child;

static int run_failing_child(kata_op *op, kata_error **err)
{
	kata_op *child;
	int rc;

	failed_child = (struct trace){0};
	rc = kata__op_new(ctx, &failing, &failed_child, NULL, 1, &child, err);
	return rc ? rc : kata__op_run_child(op, child, err);
}
static int run_forgiven_child(kata_op *op, kata_error **err)
{
	kata__op_forgive_child(op, KATA_E_VMM);
	return run_failing_child(op, err);
}
static int forgive_and_fail(kata_op *op, kata_error **err)
{
	kata__op_forgive_child(op, KATA_E_VMM);
	return kata__fail(err, KATA_E_BUSY, HOST, "no child was begun");
}
TABLE(forgiving, A, {"forgiven", run_forgiven_child, NULL, NULL, 0, NULL}, C);
TABLE(forgiving_once, A, {"forgiven", run_forgiven_child, NULL, NULL, 0, NULL},
      {"not", run_failing_child, NULL, NULL, 0, NULL});
TABLE(forgiving_nobody, {"a", run_a, run_failing_child, NULL, 0, NULL}, {"f", forgive_and_fail, NULL, NULL, 0, NULL});

Test(op, a_childs_end_that_is_forgiven_is_success_for_that_child_alone)
{
	struct trace t = {0}, once = {0}, nobody = {0};
	kata_error *err = NULL;

	cr_expect_eq(run_table(&forgiving, &t, 0, &err), 0);
	cr_expect_str_eq(failed_child.text, "abcfBA", "it was undone nevertheless");
	cr_expect_str_eq(t.text, "ac");
	cr_expect_eq(run_table(&forgiving_once, &once, 0, &err), KATA_E_VMM);
	cr_expect_str_eq(kata_error_get_step(err), "failing/fail");
	cr_expect_str_eq(once.text, "aA");
	kata_error_free(err);
	err = NULL;
	cr_expect_eq(run_table(&forgiving_nobody, &nobody, 0, &err), KATA_E_BUSY);
	cr_expect(kata_error_is_uncertain(err), "an undo's child that fails is not forgiven");
	kata_error_free(err);
}

Test(op, what_it_works_on_goes_and_the_error_says_so_with_the_childs_end_as_its_cause)
{
	struct trace child = {0}, t = {.waiting = (kata_op *)(void *)&child};
	kata_error *err = NULL;
	kata_op *op = NULL;

	cr_assert_eq(kata__op_start(ctx, &parent, &t, NULL, 1, &op, NULL), 0);
	while (kata_op_get_timeline_length(op) < 2)
		usleep(1000); /* there is no event for a step's start */
	kata__op_cancel_gone(op, "the thing was destroyed");
	cr_expect_eq(kata_op_wait(op, &err), KATA_E_GONE);
	cr_expect(strstr(kata_error_get_message(err), "the thing was destroyed meanwhile"), "%s",
		  kata_error_get_message(err));
	cr_expect_eq(kata_error_get_status(kata_error_get_cause(err)), KATA_E_CANCELLED);
	cr_expect_str_eq(child.text, "awA");
	cr_expect_str_eq(t.text, "acA");
	kata_op_unref(op);
	kata_error_free(err);
}

Test(op, the_fd_becomes_readable_at_the_end)
{
	struct trace t = {0};
	kata_op *op;
	struct pollfd p;

	cr_assert_eq(kata__op_start(ctx, &three, &t, NULL, 1, &op, NULL), 0);
	p = (struct pollfd){.fd = kata_op_get_fd(op), .events = POLLIN};
	cr_expect_eq(poll(&p, 1, 5000), 1);
	cr_expect(kata_op_is_done(op));
	kata_op_unref(op);
}

struct called {
	atomic_int calls, frees, wait_status;
};

static void on_done(void *user, kata_op *op)
{
	struct called *c = user;

	c->wait_status = kata_op_is_done(op) ? 0 : -1;
	atomic_fetch_add(&c->calls, 1);
}

static void on_free(void *user)
{
	atomic_fetch_add(&((struct called *)user)->frees, 1);
}

Test(op, the_callback_is_called_once_after_the_end_and_its_user_freed_once)
{
	struct trace t = {0};
	struct called c = {0};
	kata_op *op;
	kata_error *err = NULL;

	cr_assert_eq(kata__op_start(ctx, &three, &t, NULL, 1, &op, NULL), 0);
	cr_expect_eq(kata_op_set_callback(op, on_done, &c, on_free, NULL), 0);
	cr_expect_eq(kata_op_set_callback(op, on_done, &c, on_free, &err), KATA_E_STATE);
	kata_error_free(err);
	kata_op_wait(op, NULL);
	kata_op_unref(op);
	cr_expect_eq(kata_context_free(ctx, NULL), 0);
	cr_expect_eq(c.calls, 1);
	cr_expect_eq(c.frees, 1);
	cr_expect_eq(c.wait_status, 0);
	cr_expect_eq(freed, 1);
	setup();
}

struct blocker {
	kata_op *other;
	atomic_int rc;
};

static void block_in_callback(void *user, kata_op *op)
{
	struct blocker *b = user;

	b->rc = kata_op_wait(b->other, NULL);
}

Test(op, a_blocking_call_inside_a_callback_is_refused)
{
	struct trace t = {0}, u = {0};
	struct blocker b = {.rc = 1};
	kata_op *op;

	cr_assert_eq(kata__op_start(ctx, &waiting, &t, NULL, 1, &b.other, NULL), 0);
	cr_assert_eq(kata__op_start(ctx, &three, &u, NULL, 1, &op, NULL), 0);
	cr_assert_eq(kata_op_set_callback(op, block_in_callback, &b, NULL, NULL), 0);
	kata_op_wait(op, NULL);
	kata_op_unref(op);
	while (b.rc == 1)
		usleep(1000);
	cr_expect_eq(b.rc, KATA_E_STATE);
	kata_op_cancel(b.other);
	kata_op_wait(b.other, NULL);
	kata_op_unref(b.other);
}

Test(op, the_context_is_not_freed_while_an_op_is_under_way)
{
	struct trace t = {0};
	kata_error *err = NULL;
	kata_op *op;

	cr_assert_eq(kata__op_start(ctx, &waiting, &t, NULL, 1, &op, NULL), 0);
	cr_expect_eq(kata_context_free(ctx, &err), KATA_E_BUSY);
	cr_expect(strstr(kata_error_get_message(err), "1 operation"), "%s", kata_error_get_message(err));
	kata_error_free(err);
	kata_op_cancel(op);
	kata_op_wait(op, NULL);
	kata_op_unref(op);
}

static void count_step(void *user, const char *op, const char *subject, const char *step, bool done)
{
	char *out = user;

	snprintf(out, 64, "%s/%s/%s/%d", op, subject, step, done);
}

Test(op, intent_is_journaled_before_a_step_acts_and_cleared_by_its_undo)
{
	struct trace t = {0};
	struct kata__journal j;
	char left[64] = "";
	kata_op *op;

	cr_assert_eq(kata__journal_init(&j, dir, NULL), 0);
	cr_assert_eq(kata__op_new(ctx, &journaled, &t, NULL, 1, &op, NULL), 0);
	kata__op_set_journal(op, &j, "vm-1");
	kata_context_set_fail_point(ctx, "journaled/b:before", KATA_FAIL_DELAY, 50, 0, 1, NULL);
	kata__op_begin(op);
	while (atomic_load(&t.at) < 1)
		usleep(500);
	usleep(5000);
	cr_expect_eq(kata__journal_read(dir, count_step, left, NULL), 0);
	cr_expect_str_eq(left, "journaled/vm-1/a/1");
	kata_op_wait(op, NULL);
	left[0] = 0;
	cr_expect_eq(kata__journal_read(dir, count_step, left, NULL), 0);
	cr_expect_str_eq(left, "", "undone steps are gone: %s", left);
	kata_op_unref(op);
	kata__journal_deinit(&j);
}

TABLE(tapped, {"a", run_a, undo_a, NULL, KATA__STEP_JOURNAL, NULL}, C);

Test(op, the_journal_forgets_an_op_that_has_ended_and_stays_short)
{
	struct kata__journal j;
	char left[64] = "";
	struct stat st;

	cr_assert_eq(kata__journal_init(&j, dir, NULL), 0);
	cr_assert_eq(kata__journal_write(&j, "start", "vm-1", "spawn", "begin", NULL), 0);
	for (int i = 0; i < 1000; i++) {
		struct trace t = {0};
		kata_op *op;

		cr_assert_eq(kata__op_new(ctx, &tapped, &t, NULL, 1, &op, NULL), 0);
		kata__op_set_journal(op, &j, "vm-1");
		kata__op_begin(op);
		cr_assert_eq(kata_op_wait(op, NULL), 0);
		kata_op_unref(op);
	}
	cr_expect_eq(kata__journal_read(dir, count_step, left, NULL), 0);
	cr_expect_str_eq(left, "start/vm-1/spawn/0", "the op that has not ended is still known");
	cr_assert_eq(stat(j.path, &st), 0);
	cr_expect_lt(st.st_size, 66 * 1024);
	kata__journal_deinit(&j);
}

/* Outside the suite: the fork must come before any thread, under TSan. */
Test(op_kill, a_kill_fail_point_leaves_the_intent_in_the_journal)
{
	char left[64] = "";
	int status;
	pid_t pid;

	strcpy(dir, "/tmp/kata-op-XXXXXX");
	cr_assert(mkdtemp(dir));
	pid = fork(); /* the victim must be this program with its tables */
	if (pid == 0) {
		struct trace t = {0};
		struct kata__journal j;
		kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
		kata_context *own;
		kata_op *op;

		o.state_dir = dir;
		kata_context_new(&o, &own, NULL);
		kata_context_set_fail_point(own, "journaled/a:after", KATA_FAIL_KILL, 0, 0, 1, NULL);
		kata__journal_init(&j, dir, NULL);
		kata__op_new(own, &journaled, &t, NULL, 1, &op, NULL);
		kata__op_set_journal(op, &j, "vm-2");
		kata__op_begin(op);
		kata_op_wait(op, NULL);
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	cr_expect_eq(kata__journal_read(dir, count_step, left, NULL), 0);
	cr_expect_str_eq(left, "journaled/vm-2/a/1");
	cr_expect_eq(kata__remove_tree(dir, NULL), 0);
}

/* ---- the state directory ---- */

static void refused(const char *state_dir, int status, const char *part)
{
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
	kata_context *none = NULL;
	kata_error *err = NULL;

	o.state_dir = state_dir;
	cr_assert_eq(kata_context_new(&o, &none, &err), status);
	cr_expect(strstr(kata_error_get_message(err), part), "%s", kata_error_get_message(err));
	cr_expect_null(none);
	kata_error_free(err);
}

Test(state_dir, that_is_relative_too_long_or_open_to_others_is_refused)
{
	char longer[110], path[80];

	memset(longer, 'a', sizeof(longer));
	longer[0] = '/';
	longer[108] = '\0';
	refused("relative", KATA_E_INVALID, "state_dir: 'relative' is not an absolute path");
	refused(longer, KATA_E_INVALID, "options.state_dir: has 108 bytes: unix socket paths below it must fit");
	setup();
	snprintf(path, sizeof(path), "%s/open", dir);
	cr_assert_eq(mkdir(path, 0700), 0);
	cr_assert_eq(chmod(path, 0777), 0);
	refused(path, KATA_E_INVALID, "can be written by others (mode 0777), must not be: chmod go-w");
	teardown();
}

TestSuite(op_external, .timeout = 30);

Test(op_external, a_blocking_call_drives_the_loop_itself)
{
	struct trace t = {0};

	setup_flags(KATA_CONTEXT_EXTERNAL_LOOP);
	cr_expect_eq(run_table(&three, &t, 0, NULL), 0);
	cr_expect_str_eq(t.text, "abc");
	cr_expect_eq(run_table(&waiting, &(struct trace){0}, 200, NULL), KATA_E_TIMEOUT);
	teardown();
}

Test(op_external, a_caller_with_poll_and_dispatch_sees_the_op_through)
{
	struct trace t = {0};
	kata_op *op;
	int rounds = 0;

	setup_flags(KATA_CONTEXT_EXTERNAL_LOOP);
	cr_assert_eq(kata__op_start(ctx, &three, &t, NULL, 1, &op, NULL), 0);
	while (!kata_op_is_done(op)) {
		struct pollfd p = {.fd = kata_context_get_fd(ctx), .events = POLLIN};

		cr_assert_eq(poll(&p, 1, 5000), 1, "the fd must tell of the timer");
		cr_assert_eq(kata_context_dispatch(ctx, 0, NULL), 0);
		cr_assert_lt(++rounds, 100);
	}
	cr_expect_str_eq(t.text, "abc");
	kata_op_unref(op);
	teardown();
}

static atomic_int parallel_ok;

static void *run_many(void *arg)
{
	for (int i = 0; i < 200; i++) {
		struct trace t = {0};
		const struct kata__op_table *table = i % 3 == 0 ? &working : i % 3 == 1 ? &early : &three;

		if (run_table(table, &t, 0, NULL) == 0 && t.finished == 1)
			atomic_fetch_add(&parallel_ok, 1);
	}
	return NULL;
}

static void run_from_threads(uint64_t flags)
{
	pthread_t threads[8];

	setup_flags(flags);
	parallel_ok = 0;
	for (int i = 0; i < 8; i++)
		pthread_create(&threads[i], NULL, run_many, NULL);
	for (int i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	cr_expect_eq(parallel_ok, 1600);
	teardown();
}

Test(op_threads, eight_threads_run_ops_on_the_io_thread, .timeout = 120)
{
	run_from_threads(0);
}

Test(op_threads, eight_threads_share_an_external_loop, .timeout = 120)
{
	run_from_threads(KATA_CONTEXT_EXTERNAL_LOOP);
}
