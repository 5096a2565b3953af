/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.c - the warm cache as a builder, and what is called on it from any thread. The pool itself is the leader's.
 */
#include <string.h>

#include "agent/agent.h"
#include "base/options.h"
#include "base/text.h"
#include "factory/cache.h"
#include "vm/builder.h"

#define SIZES_MAX 256u
#define MACHINES_MAX 4096u
#define PARALLEL_MAX 256u

/* ---- the builder ---- */

static bool has_limits(const kata_qos_config *qos)
{
	return qos && (qos->cgroup_path || qos->inbound_average_bytes || qos->inbound_peak_bytes ||
		       qos->outbound_average_bytes || qos->outbound_peak_bytes);
}

int kata__cache_wish(const kata_vm_config *config, const kata_agent_config *agent_config,
		     const kata_qos_config *qos_config, struct kata__pool_wish *ret, kata_error **err)
{
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	int rc = kata__options_read(&c, sizeof(c), config, "config", err);

	if (rc == 0 && c.id)
		rc = kata__id_check("config.id", c.id, err);
	if (rc == 0 && (has_limits(qos_config) || (agent_config && agent_config->size < sizeof(*agent_config))))
		rc = kata__fail(err, KATA_E_UNSUPPORTED, CALLER, "only an exact boot has these limits");
	if (rc < 0)
		return rc;
	*ret = (struct kata__pool_wish){.keep_id = !c.id,
					.transport = agent_config ? agent_config->transport : KATA_AGENT_AUTO};
	rc = kata__vm_config_copy_new(&c, &ret->config, err);
	if (rc == 0)
		kata__stamp_take(&c, &ret->stamp);
	return rc;
}

/* What no machine could be is not looked for: the inner builder says why it cannot, or can. */
static int cache_build(void *self, const kata_vm_config *config, const kata_agent_config *agent_config,
		       const kata_qos_config *qos_config, kata_vm **ret_vm, kata_error **err)
{
	struct kata__pool *pool = self;
	struct kata__pool_wish wish = {0};
	kata_vm *vm = NULL;
	int rc = kata__context_check_may_block(pool->ctx, "kata_vm_builder_build of a cache", err);

	if (rc == 0 && kata__cache_wish(config, agent_config, qos_config, &wish, NULL) == 0)
		rc = kata__pool_take(pool, &wish, &vm, err);
	if (rc < 0)
		return rc;
	if (!vm)
		return kata_vm_builder_build(pool->inner, config, agent_config, qos_config, ret_vm, err);
	*ret_vm = vm;
	return 0;
}

static int cache_build_from_released(void *self, const char *json, size_t length, const kata_op_options *options,
				     kata_vm **ret_vm, kata_op **ret_op, kata_error **err)
{
	struct kata__pool *pool = self;

	return kata_vm_builder_build_from_released_begin(pool->inner, json, length, options, ret_vm, ret_op, err);
}

static int cache_build_from_snapshot(void *self, const kata_snapshot *snapshot, const kata_vm_config *config,
				     const kata_agent_config *agent_config, const kata_qos_config *qos_config,
				     const kata_restore_options *options, kata_vm **ret_vm, kata_error **err)
{
	struct kata__pool *pool = self;

	return kata_vm_builder_build_from_snapshot(pool->inner, snapshot, config, agent_config, qos_config, options,
						   ret_vm, err);
}

static int cache_get_capabilities(void *self, kata_capabilities *ret_capabilities, kata_error **err)
{
	struct kata__pool *pool = self;

	return kata_vm_builder_get_capabilities(pool->inner, ret_capabilities, err);
}

static void cache_free(void *self)
{
	struct kata__pool *pool = self;

	kata__pool_end(pool);
	kata__pool_unref(pool);
}

static const kata_vm_builder_ops cache_ops = {
	.size = sizeof(kata_vm_builder_ops),
	.name = "cache",
	.build = cache_build,
	.build_from_released = cache_build_from_released,
	.get_capabilities = cache_get_capabilities,
	.free = cache_free,
	.build_from_snapshot = cache_build_from_snapshot,
};

struct kata__pool *kata__cache_pool(const kata_vm_builder *builder)
{
	return builder ? kata__vm_builder_self(builder, &cache_ops) : NULL;
}

static int check_cache(const kata_vm_builder *builder, struct kata__pool **ret, kata_error **err)
{
	*ret = kata__cache_pool(builder);
	if (*ret)
		return 0;
	return kata__fail(err, KATA_E_INVALID, CALLER, "cache: is %s", builder ? "another kind of builder" : "NULL");
}

/* ---- sizes ---- */

static void check_size(const kata_cache_size *size, size_t i, struct kata__problems *p)
{
	uint32_t max = size->max ? size->max : size->min;

	if (!size->config)
		kata__problems_add(p, "sizes[%zu].config: is NULL", i);
	if (size->config && size->config->size >= sizeof(kata_vm_config) && size->config->id)
		kata__problems_add(p, "sizes[%zu].config.id: must be NULL: each machine has its own", i);
	if (size->config && size->config->size >= sizeof(kata_vm_config) && size->config->memory_path)
		kata__problems_add(p, "sizes[%zu].config.memory_path: must be NULL: machines cannot share that file",
				   i);
	if (!max)
		kata__problems_add(p, "sizes[%zu].max: is 0, and so is min: leave the size out", i);
	else if (max < size->min)
		kata__problems_add(p, "sizes[%zu].max: %u is less than min, %u", i, max, size->min);
	else if (max > MACHINES_MAX)
		kata__problems_add(p, "sizes[%zu].max: %u, at most %u", i, max, MACHINES_MAX);
}

static int append_size(struct kata__pool_size **list, const kata_cache_size *from, size_t i, kata_error **err)
{
	struct kata__pool_size **last = list, *s = NULL;
	size_t at = 0;
	int rc = kata__pool_size_new(from->config, from->min, from->max ? from->max : from->min, &s, err);

	if (rc < 0)
		return rc;
	for (; *last; last = &(*last)->next, at++) {
		if (!kata__config_fits(&(*last)->config->v, &s->config->v))
			continue;
		kata__pool_size_unref(s);
		return kata__fail(err, KATA_E_INVALID, CALLER, "sizes[%zu].config: is that of sizes[%zu]", i, at);
	}
	*last = s;
	return 0;
}

/* The array's elements are as long as the caller's struct was. */
static int read_size(const kata_cache_size *sizes, size_t i, kata_cache_size *ret, kata_error **err)
{
	const uint8_t *at = (const uint8_t *)sizes + i * sizes->size;

	return kata__options_read(ret, sizeof(*ret), at, "sizes[]", err);
}

static int check_sizes(const kata_cache_size *sizes, size_t count, kata_error **err)
{
	struct kata__problems problems = {0};
	kata_cache_size size = KATA_CACHE_SIZE_INIT;
	int rc = 0;

	if (count > SIZES_MAX || (count && !sizes))
		return kata__fail(err, KATA_E_INVALID, CALLER, "sizes: %s",
				  sizes ? "more than 256 of them" : "is NULL, but size_count is not 0");
	for (size_t i = 0; i < count && rc == 0; i++) {
		rc = read_size(sizes, i, &size, err);
		if (rc == 0)
			check_size(&size, i, &problems);
	}
	if (rc == 0)
		return kata__problems_finish(&problems, "sizes", err);
	kata__problems_finish(&problems, "sizes", NULL);
	return rc;
}

static int copy_sizes(const kata_cache_size *sizes, size_t count, struct kata__pool_size **ret, kata_error **err)
{
	struct kata__pool_size *list = NULL;
	kata_cache_size size = KATA_CACHE_SIZE_INIT;
	int rc = check_sizes(sizes, count, err);

	for (size_t i = 0; i < count && rc == 0; i++) {
		rc = read_size(sizes, i, &size, err);
		if (rc == 0)
			rc = append_size(&list, &size, i, err);
	}
	if (rc < 0)
		kata__pool_sizes_free(list);
	else
		*ret = list;
	return rc;
}

static int set_sizes(struct kata__pool *pool, const kata_cache_size *sizes, size_t count, kata_error **err)
{
	struct kata__pool_size *list = NULL;
	int rc = copy_sizes(sizes, count, &list, err);

	return rc < 0 ? rc : kata__pool_replace_sizes(pool, list, err);
}

int kata_cache_set_sizes(kata_vm_builder *cache, const kata_cache_size *sizes, size_t size_count, kata_error **err)
{
	struct kata__pool *pool;
	int rc = check_cache(cache, &pool, err);

	return rc < 0 ? rc : set_sizes(pool, sizes, size_count, err);
}

/* ---- making one ---- */

static int check_options(const kata_cache_options *o, kata_error **err)
{
	if (o->parallel > PARALLEL_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.parallel: %u, at most %u", o->parallel,
				  PARALLEL_MAX);
	if (o->retry_max_ms && o->retry_max_ms < (o->retry_min_ms ? o->retry_min_ms : KATA__POOL_RETRY_MIN_MS))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "options.retry_max_ms: %llu is less than retry_min_ms, %llu",
				  (unsigned long long)o->retry_max_ms,
				  (unsigned long long)(o->retry_min_ms ? o->retry_min_ms : KATA__POOL_RETRY_MIN_MS));
	return 0;
}

static int new_pool(kata_context *ctx, kata_vm_builder *inner, kata_agent_builder *agents, const kata_cache_options *o,
		    struct kata__pool **ret, kata_error **err)
{
	kata_agent_builder *own = NULL;
	int rc = agents ? 0 : kata_agent_builder_new_direct(ctx, &own, err);

	return rc < 0 ? rc : kata__pool_new(ctx, inner, agents, own, o, ret, err);
}

static int check_arguments(const kata_context *context, const kata_vm_builder *inner, kata_vm_builder **ret_builder,
			   kata_error **err)
{
	if (!context || !inner || !ret_builder)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL",
				  !context ? "context"
				  : !inner ? "inner"
					   : "ret_builder");
	if (kata__vm_builder_context(inner) != context)
		return kata__fail(err, KATA_E_INVALID, CALLER, "inner: is a builder of another context");
	return 0;
}

int kata_vm_builder_new_cache(kata_context *context, kata_vm_builder *inner, kata_agent_builder *agents,
			      const kata_cache_options *options, kata_vm_builder **ret_builder, kata_error **err)
{
	kata_cache_options o = KATA_CACHE_OPTIONS_INIT;
	struct kata__pool *pool = NULL;
	kata_vm_builder *builder = NULL;
	int rc = check_arguments(context, inner, ret_builder, err);

	if (rc == 0)
		rc = kata__options_read(&o, sizeof(o), options, "options", err);
	if (rc == 0)
		rc = check_options(&o, err);
	if (rc == 0)
		rc = new_pool(context, inner, agents, &o, &pool, err);
	if (rc < 0)
		return rc;
	rc = kata_vm_builder_new(context, &cache_ops, pool, &builder, err);
	if (rc < 0) {
		kata__pool_unref(pool);
		return rc;
	}
	rc = set_sizes(pool, o.sizes, o.size_count, err);
	if (rc < 0) {
		kata_vm_builder_free(builder);
		return rc;
	}
	*ret_builder = builder;
	return 0;
}

/* ---- status ---- */

size_t kata_cache_get_size_count(const kata_vm_builder *cache)
{
	struct kata__pool *pool = kata__cache_pool(cache);
	size_t count;

	if (!pool)
		return 0;
	pthread_mutex_lock(&pool->mutex);
	count = pool->mirror_count;
	pthread_mutex_unlock(&pool->mutex);
	return count;
}

int kata_cache_get_status(const kata_vm_builder *cache, size_t index, kata_cache_status *ret_status, kata_error **err)
{
	struct kata__pool *pool;
	kata_cache_status status;
	int rc = check_cache(cache, &pool, err);

	if (rc == 0)
		rc = kata__options_check_ret(ret_status, "ret_status", err);
	if (rc < 0)
		return rc;
	if (!kata__pool_get_status(pool, index, &status))
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "index: %zu is past the end, the cache has %zu sizes",
				  index, kata_cache_get_size_count(cache));
	kata__options_write(ret_status, &status, sizeof(status));
	return 0;
}
