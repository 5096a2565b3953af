/* SPDX-License-Identifier: Apache-2.0 */
/* cache_wait.c - operations that wait for the pool: until so many are ready, until there is none. */
#include "base/options.h"
#include "base/text.h"
#include "factory/cache.h"

#define READY_MS 300000u
#define DRAIN_MS 30000u

struct waiting {
	struct kata__pool *pool; /* referenced */
	struct kata__pool_waiter waiter;
};

static struct waiting *waiting_of(const kata_op *op)
{
	return kata__op_data(op);
}

static int wait_here(kata_op *op)
{
	struct waiting *w = waiting_of(op);

	w->waiter.op = op;
	w->waiter.token = kata__op_token(op);
	kata__pool_wait(w->pool, &w->waiter);
	return KATA__STEP_WAIT;
}

static int step_wait_ready(kata_op *op, kata_error **err)
{
	struct waiting *w = waiting_of(op);
	uint32_t max = kata__pool_count_max(w->pool);

	if (w->waiter.count > max)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "count: is %u, but the cache may keep %u machines (the max of its sizes together)",
				  w->waiter.count, max);
	if (!w->waiter.count)
		return KATA__STEP_DONE;
	kata__pool_want(w->pool, w->waiter.count);
	return wait_here(op);
}

static int step_drain(kata_op *op, kata_error **err)
{
	kata__pool_drain(waiting_of(op)->pool);
	return wait_here(op);
}

static void stop(kata_op *op)
{
	kata__pool_stop_waiting(waiting_of(op)->pool, &waiting_of(op)->waiter);
}

static void say_how_far(kata_op *op, int status, kata_error **error)
{
	struct waiting *w = waiting_of(op);
	const char *why = kata__pool_last_error(w->pool);
	kata_error *cause = NULL;

	if (status != KATA_E_TIMEOUT)
		return;
	if (w->waiter.count && why)
		kata__fail(&cause, KATA_E_VMM, HOST, "the last machine that could not be made: %s", why);
	kata__error_add_cause(*error, cause);
	kata__error_set_hint(*error, "kata_cache_get_status() tells how many machines there are, in which way");
}

static void free_waiting(void *data)
{
	struct waiting *w = data;

	kata__pool_unref(w->pool);
	free(w);
}

static const struct kata__step ready_steps[] = {{.name = "wait-ready", .run = step_wait_ready, .cancel = stop}};
static const struct kata__op_table ready_table = {.name = "pool-wait",
						  KATA__STEPS(ready_steps),
						  .timeout_ms = READY_MS,
						  .finish = say_how_far,
						  .free_data = free_waiting};

static const struct kata__step drain_steps[] = {{.name = "drain", .run = step_drain, .cancel = stop}};
static const struct kata__op_table drain_table = {.name = "pool-drain",
						  KATA__STEPS(drain_steps),
						  .timeout_ms = DRAIN_MS,
						  .finish = say_how_far,
						  .free_data = free_waiting};

static int begin(struct kata__pool *pool, const struct kata__op_table *table, uint32_t count,
		 const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	struct waiting *w;
	int rc = kata__options_read(&o, sizeof(o), options, "options", err);

	if (rc < 0)
		return rc;
	if (!ret_op)
		return kata__fail(err, KATA_E_INVALID, CALLER, "ret_op: is NULL");
	w = calloc(1, sizeof(*w));
	if (!w)
		return kata__fail_no_memory(err);
	w->pool = kata__pool_ref(pool);
	w->waiter.count = count;
	return kata__op_start(pool->ctx, table, w, &o, 1, ret_op, err);
}

int kata__pool_wait_ready_begin(struct kata__pool *pool, uint32_t count, const kata_op_options *options,
				kata_op **ret_op, kata_error **err)
{
	return begin(pool, &ready_table, count, options, ret_op, err);
}

static int begin_of(kata_vm_builder *cache, const struct kata__op_table *table, uint32_t count,
		    const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	struct kata__pool *pool = kata__cache_pool(cache);

	if (!pool)
		return kata__fail(err, KATA_E_INVALID, CALLER, "cache: is %s",
				  cache ? "another kind of builder" : "NULL");
	return begin(pool, table, count, options, ret_op, err);
}

int kata_cache_wait_ready_begin(kata_vm_builder *cache, uint32_t count, const kata_op_options *options,
				kata_op **ret_op, kata_error **err)
{
	return begin_of(cache, &ready_table, count, options, ret_op, err);
}

int kata_cache_drain_begin(kata_vm_builder *cache, const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	return begin_of(cache, &drain_table, 0, options, ret_op, err);
}

static int check_may_block(const kata_vm_builder *cache, const char *function, kata_error **err)
{
	const struct kata__pool *pool = kata__cache_pool(cache);

	return pool ? kata__context_check_may_block(pool->ctx, function, err) : 0;
}

int kata_cache_wait_ready(kata_vm_builder *cache, uint32_t count, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = check_may_block(cache, "kata_cache_wait_ready", err);

	if (rc == 0)
		rc = kata_cache_wait_ready_begin(cache, count, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_cache_drain(kata_vm_builder *cache, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = check_may_block(cache, "kata_cache_drain", err);

	if (rc == 0)
		rc = kata_cache_drain_begin(cache, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}
