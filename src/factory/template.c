/* SPDX-License-Identifier: Apache-2.0 */
/* template.c - the template as a builder, and what is called on it from any thread. */
#include "factory/template.h"

#include <string.h>

#include "base/options.h"
#include "base/text.h"
#include "factory/clone.h"
#include "factory/fit.h"
#include "vm/builder.h"

#define PATH_BYTES_MAX 3800u /* leaves room for names in it */
#define PRESTARTED_MAX 4096u

/* ---- life ---- */

struct kata__template *kata__template_ref(struct kata__template *t)
{
	atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
	return t;
}

void kata__template_unref(struct kata__template *t)
{
	if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
		return;
	kata__template_base_unref(t->base);
	kata__template_base_unref(t->pool_of);
	kata__pool_unref(t->pool);
	kata_agent_builder_free(t->own_agents);
	pthread_mutex_destroy(&t->mutex);
	free(t->path);
	free(t);
}

struct kata__template_base *kata__template_known(struct kata__template *t)
{
	struct kata__template_base *base;

	pthread_mutex_lock(&t->mutex);
	base = t->base ? kata__template_base_ref(t->base) : NULL;
	pthread_mutex_unlock(&t->mutex);
	return base;
}

void kata__template_set_base(struct kata__template *t, struct kata__template_base **slot,
			     struct kata__template_base *base)
{
	struct kata__template_base *before;

	pthread_mutex_lock(&t->mutex);
	before = *slot;
	*slot = base ? kata__template_base_ref(base) : NULL;
	pthread_mutex_unlock(&t->mutex);
	kata__template_base_unref(before);
}

void kata__template_learn(struct kata__template *t, struct kata__template_base *base)
{
	kata__template_set_base(t, &t->base, base);
	kata__template_follow(t, base);
}

static void count(struct kata__template *t, uint64_t *counter)
{
	pthread_mutex_lock(&t->mutex);
	++*counter;
	pthread_mutex_unlock(&t->mutex);
}

/* ---- finding the base ---- */

static int find(struct kata__template *t, const struct kata__vm_config_copy *config, struct kata__template_base **ret,
		kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__template_find_begin(t, config, false, NULL, &op, err);

	if (rc < 0)
		return rc;
	rc = kata_op_wait(op, err);
	if (rc == 0)
		*ret = kata__template_find_result(op);
	kata_op_unref(op);
	return rc;
}

/* *ret NULL: the template is of another config. */
static int get_base(struct kata__template *t, const struct kata__vm_config_copy *config,
		    struct kata__template_base **ret, kata_error **err)
{
	struct kata__template_base *known = kata__template_known(t);
	int rc;

	*ret = NULL;
	rc = known ? kata__template_base_check(known, t->inner, t->path, err) : KATA_E_NOT_FOUND;
	if (rc == 0 || kata__template_is_stale(rc))
		kata__template_follow(t, rc == 0 ? known : NULL);
	if (rc == 0 && kata__config_fits(&known->config->v, &config->v))
		*ret = kata__take_ptr(known);
	kata__template_base_unref(known);
	if (!kata__template_is_stale(rc))
		return rc;
	if (err)
		kata_error_free(kata__take_ptr(*err));
	return find(t, config, ret, err);
}

/* ---- building ---- */

static bool has_limits(const kata_qos_config *qos)
{
	return qos && (qos->cgroup_path || qos->inbound_average_bytes || qos->inbound_peak_bytes ||
		       qos->outbound_average_bytes || qos->outbound_peak_bytes);
}

/* What no clone could be: the inner builder says why it cannot either, or can. *ret NULL. */
static int read_wish(const kata_vm_config *config, const kata_qos_config *qos, kata_vm_config *ret_config,
		     struct kata__vm_config_copy **ret, kata_error **err)
{
	int rc;

	*ret_config = (kata_vm_config)KATA_VM_CONFIG_INIT;
	if (kata__options_read(ret_config, sizeof(*ret_config), config, "config", NULL) < 0 ||
	    ret_config->memory_path || has_limits(qos))
		return 0;
	rc = kata__template_config_new(ret_config, ret, err);
	return rc;
}

static bool transport_fits(const struct kata__template_base *base, const kata_agent_config *agent)
{
	kata_agent_config a = KATA_AGENT_CONFIG_INIT;

	if (kata__options_read(&a, sizeof(a), agent, "agent_config", NULL) < 0)
		return false;
	return a.transport == KATA_AGENT_AUTO ||
	       a.transport == kata__snapshot_manifest(base->snapshot)->agent_transport;
}

static int build_clone(struct kata__template *t, struct kata__template_base *base, const char *id,
		       const kata_agent_config *agent, kata_vm **ret_vm, kata_error **err)
{
	kata_vm *vm = NULL;
	int rc = kata__template_take_prestarted(t, base, id, &vm, err);

	if (rc == 0 && !vm)
		rc = kata__clone_new(t->inner, base, id, agent, t->agents, &vm, err);
	if (rc < 0)
		return rc;
	count(t, &t->clones);
	*ret_vm = vm;
	return 0;
}

static int build_exact(struct kata__template *t, const kata_vm_config *config, const kata_agent_config *agent,
		       const kata_qos_config *qos, kata_vm **ret_vm, kata_error **err)
{
	int rc = kata_vm_builder_build(t->inner, config, agent, qos, ret_vm, err);

	if (rc == 0)
		count(t, &t->missed);
	return rc;
}

static int build(struct kata__template *t, const kata_vm_config *config, const kata_agent_config *agent,
		 const kata_qos_config *qos, kata_vm **ret_vm, kata_error **err)
{
	struct kata__vm_config_copy *wish = NULL;
	struct kata__template_base *base = NULL;
	kata_vm_config c;
	int rc = read_wish(config, qos, &c, &wish, err);

	if (rc == 0 && wish)
		rc = get_base(t, wish, &base, err);
	kata__vm_config_copy_free(wish);
	if (rc < 0)
		return rc;
	rc = base && transport_fits(base, agent) ? build_clone(t, base, c.id, agent, ret_vm, err)
						 : build_exact(t, config, agent, qos, ret_vm, err);
	kata__template_base_unref(base);
	return rc;
}

static int template_build(void *self, const kata_vm_config *config, const kata_agent_config *agent_config,
			  const kata_qos_config *qos_config, kata_vm **ret_vm, kata_error **err)
{
	struct kata__template *t = self;
	int rc = kata__context_check_may_block(t->ctx, "kata_vm_builder_build of a template", err);

	return rc < 0 ? rc : build(t, config, agent_config, qos_config, ret_vm, err);
}

static int template_build_from_released(void *self, const char *json, size_t length, const kata_op_options *options,
					kata_vm **ret_vm, kata_op **ret_op, kata_error **err)
{
	struct kata__template *t = self;

	return kata_vm_builder_build_from_released_begin(t->inner, json, length, options, ret_vm, ret_op, err);
}

static int template_build_from_snapshot(void *self, const kata_snapshot *snapshot, const kata_vm_config *config,
					const kata_agent_config *agent_config, const kata_qos_config *qos_config,
					const kata_restore_options *options, kata_vm **ret_vm, kata_error **err)
{
	struct kata__template *t = self;

	return kata_vm_builder_build_from_snapshot(t->inner, snapshot, config, agent_config, qos_config, options,
						   ret_vm, err);
}

static int template_get_capabilities(void *self, kata_capabilities *ret_capabilities, kata_error **err)
{
	struct kata__template *t = self;

	return kata_vm_builder_get_capabilities(t->inner, ret_capabilities, err);
}

static void template_free(void *self)
{
	struct kata__template *t = self;

	if (t->pool)
		kata__pool_end(t->pool);
	kata__template_unref(t);
}

static const kata_vm_builder_ops template_ops = {
	.size = sizeof(kata_vm_builder_ops),
	.name = "template",
	.build = template_build,
	.build_from_released = template_build_from_released,
	.build_from_snapshot = template_build_from_snapshot,
	.get_capabilities = template_get_capabilities,
	.free = template_free,
};

struct kata__template *kata__template_of(const kata_vm_builder *builder, kata_error **err)
{
	struct kata__template *t = builder ? kata__vm_builder_self(builder, &template_ops) : NULL;

	if (!t)
		kata__fail(err, KATA_E_INVALID, CALLER, "builder: is %s",
			   builder ? "another kind of builder, not made by kata_vm_builder_new_template" : "NULL");
	return t;
}

/* ---- making the builder ---- */

static int check_path(const char *path, kata_error **err)
{
	const char *name;

	if (!path)
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.path: must be given");
	if (path[0] != '/')
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.path: '%.128s' is relative, must be absolute",
				  path);
	if (strnlen(path, PATH_BYTES_MAX + 1) > PATH_BYTES_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.path: is longer than %u bytes", PATH_BYTES_MAX);
	name = strrchr(path, '/');
	if (!name[1] || strcmp(name, "/.") == 0 || strcmp(name, "/..") == 0)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "options.path: '%s' ends in no name: it must be that of the template's directory",
				  path);
	return 0;
}

static int check_options(const kata_template_options *o, kata_error **err)
{
	if (o->flags & ~(KATA_TEMPLATE_SHARE_MEMORY | KATA_TEMPLATE_REFUSE_STALE))
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.flags: 0x%llx has unknown bits",
				  (unsigned long long)o->flags);
	if (!(o->flags & KATA_TEMPLATE_SHARE_MEMORY))
		return kata__fail(
			err, KATA_E_INVALID, CALLER,
			"options.flags: clones of a template share pages of memory, so that one can measure what "
			"another has read of them: KATA_TEMPLATE_SHARE_MEMORY must say that this is wanted");
	if (o->prestarted > PRESTARTED_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.prestarted: %u, at most %u", o->prestarted,
				  PRESTARTED_MAX);
	return check_path(o->path, err);
}

static int new_template(kata_context *ctx, kata_vm_builder *inner, kata_agent_builder *agents,
			const kata_template_options *o, struct kata__template **ret, kata_error **err)
{
	const kata_cache_options pool_options = KATA_CACHE_OPTIONS_INIT;
	struct kata__template *t = calloc(1, sizeof(*t));
	int rc = 0;

	if (!t)
		return kata__fail_no_memory(err);
	atomic_init(&t->refs, 1);
	pthread_mutex_init(&t->mutex, NULL);
	t->ctx = ctx;
	t->inner = inner;
	t->agents = agents;
	t->flags = o->flags;
	t->path = kata__strdup(o->path);
	if (!t->path)
		rc = kata__fail_no_memory(err);
	if (rc == 0 && !agents) {
		rc = kata_agent_builder_new_direct(ctx, &t->own_agents, err);
		t->agents = t->own_agents;
	}
	if (rc == 0 && o->prestarted)
		rc = kata__pool_new(ctx, inner, t->agents, NULL, &pool_options, &t->pool, err);
	t->prestarted = o->prestarted;
	if (rc < 0)
		kata__template_unref(t);
	else
		*ret = t;
	return rc;
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

int kata_vm_builder_new_template(kata_context *context, kata_vm_builder *inner, kata_agent_builder *agents,
				 const kata_template_options *options, kata_vm_builder **ret_builder, kata_error **err)
{
	kata_template_options o = KATA_TEMPLATE_OPTIONS_INIT;
	struct kata__template *t = NULL;
	int rc = check_arguments(context, inner, ret_builder, err);

	if (rc == 0)
		rc = kata__options_read(&o, sizeof(o), options, "options", err);
	if (rc == 0)
		rc = check_options(&o, err);
	if (rc == 0)
		rc = new_template(context, inner, agents, &o, &t, err);
	if (rc < 0)
		return rc;
	rc = kata_vm_builder_new(context, &template_ops, t, ret_builder, err);
	if (rc < 0)
		kata__template_unref(t);
	return rc;
}
