/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every step of making a machine and of handing one out fails once before and once after it did its work, hangs, and is
 * cancelled; on the mock, and on the driver of QEMU with the stand-in. The pool goes on, a build gets a machine that
 * works, and in the end the host is as before.
 */
#include "unit/factory/factory_test.h"

#include "base/clock.h"

static void arm(struct world *w, const struct kata__op_table *table, size_t step, const char *where,
		kata_fail_action action, uint32_t count)
{
	char point[128];

	snprintf(point, sizeof(point), "%s/%s:%s", table->name, table->steps[step].name, where);
	fixture_assert_ok(kata_context_set_fail_point(w->f.context, point, action, 0, 0, count, &w->err), w->err);
}

static void open_with_census(struct world *w, bool standin, struct census **ret)
{
	world_open(w, standin, 0);
	world_make_cache(w);
	world_keep(w, 1, 1); /* what is made once and stays */
	world_await_ready(w, 1);
	world_drain(w);
	*ret = fixture_census(&w->f);
}

static void close_with_census(struct world *w, struct census *take_before, const char *when)
{
	kata_context_clear_fail_point(w->f.context, NULL);
	world_drain(w);
	fixture_assert_census(&w->f, take_before, when);
	world_close(w);
}

/* ---- making ---- */

static void fail_makes(bool standin, const char *where)
{
	for (size_t i = 0; i < kata__pool_make_table.count; i++) {
		const char *step = kata__pool_make_table.steps[i].name;
		struct census *before;
		kata_cache_status s;
		struct world w;

		open_with_census(&w, standin, &before);
		arm(&w, &kata__pool_make_table, i, where, KATA_FAIL_ERROR, 1);
		world_keep(&w, 1, 1);
		world_await_ready(&w, 1);
		s = world_status(&w);
		cr_assert_eq(s.failed, 1u, "%s:%s", step, where);
		cr_assert(strstr(s.last_error, step), "%s: %s", step, s.last_error);
		world_use_up(&w, world_build(&w, "mine"));
		close_with_census(&w, before, step);
	}
}

static void await_making(struct world *w)
{
	uint64_t deadline = kata__deadline_in_ms(10000);

	while (world_status(w).making == 0) {
		cr_assert_lt(kata__now_ns(), deadline);
		usleep(1000); /* bounded; there is no event for a counter */
	}
}

/* A make that hangs ends when its machine is not wanted any more. */
static void hang_makes(bool standin, const char *where)
{
	for (size_t i = 0; i < kata__pool_make_table.count; i++) {
		struct census *before;
		struct world w;

		open_with_census(&w, standin, &before);
		arm(&w, &kata__pool_make_table, i, where, KATA_FAIL_HANG, 1);
		world_keep(&w, 1, 1);
		await_making(&w);
		usleep(20000); /* usually enough to come to the step; else it is cancelled on its way: right too */
		if (i % 2)
			world_drain(&w);
		else
			fixture_assert_ok(kata_cache_set_sizes(w.cache, NULL, 0, &w.err), w.err);
		close_with_census(&w, before, kata__pool_make_table.steps[i].name);
	}
}

/* ---- handing out ---- */

static void fail_hand_outs(bool standin, const char *where)
{
	for (size_t i = 0; i < kata__hand_out_table.count; i++) {
		const char *step = kata__hand_out_table.steps[i].name;
		struct census *before;
		struct world w;
		kata_vm *vm;

		open_with_census(&w, standin, &before);
		world_keep(&w, 2, 2);
		world_await_ready(&w, 2);
		arm(&w, &kata__hand_out_table, i, where, KATA_FAIL_ERROR, 1);
		vm = world_build(&w, "mine");
		cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_WARM, "%s:%s: the next one is taken", step, where);
		cr_assert_str_eq(kata_vm_get_id(vm), "mine");
		cr_assert_eq(world_status(&w).unhealthy, 1u, "%s:%s", step, where);
		world_use_up(&w, vm);
		world_await_ready(&w, 2);
		close_with_census(&w, before, step);
	}
}

static void hang_hand_outs(bool standin, const char *where)
{
	for (size_t i = 0; i < kata__hand_out_table.count; i++) {
		struct census *before;
		struct world w;
		kata_vm *vm;

		open_with_census(&w, standin, &before);
		kata__cache_pool(w.cache)->probe_ms = 150;
		world_keep(&w, 1, 1);
		world_await_ready(&w, 1);
		arm(&w, &kata__hand_out_table, i, where, KATA_FAIL_HANG, 0);
		vm = world_build(&w, "mine");
		cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_BOOTED);
		world_use_up(&w, vm);
		close_with_census(&w, before, kata__hand_out_table.steps[i].name);
	}
}

static kata_op *begin_take(struct world *w)
{
	struct kata__pool_wish wish = {0};
	kata_vm_config c = w->config;
	kata_op *op = NULL;

	c.id = "mine";
	fixture_assert_ok(kata__cache_wish(&c, NULL, NULL, &wish, &w->err), w->err);
	fixture_assert_ok(kata__pool_take_begin(kata__cache_pool(w->cache), &wish, NULL, &op, &w->err), w->err);
	return op;
}

static void cancel_hand_outs(bool standin)
{
	for (size_t i = 0; i < kata__hand_out_table.count; i++) {
		struct census *before;
		struct world w;
		kata_op *op;

		open_with_census(&w, standin, &before);
		world_keep(&w, 1, 1);
		world_await_ready(&w, 1);
		arm(&w, &kata__hand_out_table, i, i % 2 ? "before" : "after", KATA_FAIL_HANG, 1);
		op = begin_take(&w);
		usleep(20000); /* usually enough to come to the step */
		kata_op_cancel(op);
		fixture_assert_fails(kata_op_wait(op, &w.err), KATA_E_CANCELLED, w.err);
		error_clear(&w.err);
		kata_op_unref(op);
		kata_context_clear_fail_point(w.f.context, NULL);
		world_await_ready(&w, 1);
		world_use_up(&w, world_build(&w, "mine"));
		close_with_census(&w, before, kata__hand_out_table.steps[i].name);
	}
}

static void all_fail(bool standin)
{
	struct census *before;
	struct world w;
	kata_vm *vm;

	open_with_census(&w, standin, &before);
	world_keep(&w, 3, 3);
	world_await_ready(&w, 3);
	arm(&w, &kata__hand_out_table, 3, "before", KATA_FAIL_ERROR, 0);
	vm = world_build(&w, "mine");
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_BOOTED);
	cr_assert_eq(world_status(&w).unhealthy, 3u);
	world_use_up(&w, vm);
	close_with_census(&w, before, "all");
}

/* A take that succeeded and was cancelled at its very end: the machine is ended. */
static void cancel_at_the_end(bool standin)
{
	struct census *before;
	struct world w;
	kata_op *op;

	open_with_census(&w, standin, &before);
	world_keep(&w, 1, 1);
	world_await_ready(&w, 1);
	fixture_assert_ok(
		kata_context_set_fail_point(w.f.context, "pool-take/hand-out:after", KATA_FAIL_ERROR, 0, 0, 1, &w.err),
		w.err);
	op = begin_take(&w);
	fixture_assert_fails(kata_op_wait(op, &w.err), KATA_E_INJECTED, w.err);
	cr_assert_null(kata__pool_take_result(op));
	kata_op_unref(op);
	error_clear(&w.err);
	world_await_ready(&w, 1);
	close_with_census(&w, before, "the end");
}

#define EACH(kind, standin)                                                                                            \
	Test(kind, each_step_of_a_make_fails_before, .timeout = 120)                                                   \
	{                                                                                                              \
		fail_makes(standin, "before");                                                                         \
	}                                                                                                              \
	Test(kind, each_step_of_a_make_fails_after, .timeout = 120)                                                    \
	{                                                                                                              \
		fail_makes(standin, "after");                                                                          \
	}                                                                                                              \
	Test(kind, each_step_of_a_make_hangs_before, .timeout = 120)                                                   \
	{                                                                                                              \
		hang_makes(standin, "before");                                                                         \
	}                                                                                                              \
	Test(kind, each_step_of_a_make_hangs_after, .timeout = 120)                                                    \
	{                                                                                                              \
		hang_makes(standin, "after");                                                                          \
	}                                                                                                              \
	Test(kind, each_step_of_a_hand_out_fails_before, .timeout = 120)                                               \
	{                                                                                                              \
		fail_hand_outs(standin, "before");                                                                     \
	}                                                                                                              \
	Test(kind, each_step_of_a_hand_out_fails_after, .timeout = 120)                                                \
	{                                                                                                              \
		fail_hand_outs(standin, "after");                                                                      \
	}                                                                                                              \
	Test(kind, each_step_of_a_hand_out_hangs_before, .timeout = 120)                                               \
	{                                                                                                              \
		hang_hand_outs(standin, "before");                                                                     \
	}                                                                                                              \
	Test(kind, each_step_of_a_hand_out_hangs_after, .timeout = 120)                                                \
	{                                                                                                              \
		hang_hand_outs(standin, "after");                                                                      \
	}                                                                                                              \
	Test(kind, each_step_of_a_hand_out_is_cancelled, .timeout = 120)                                               \
	{                                                                                                              \
		cancel_hand_outs(standin);                                                                             \
	}                                                                                                              \
	Test(kind, all_hand_outs_fail, .timeout = 60)                                                                  \
	{                                                                                                              \
		all_fail(standin);                                                                                     \
	}                                                                                                              \
	Test(kind, a_take_fails_at_its_end, .timeout = 60)                                                             \
	{                                                                                                              \
		cancel_at_the_end(standin);                                                                            \
	}
EACH(steps_mock, false)
EACH(steps_standin, true)
