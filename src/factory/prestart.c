/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prestart.c - a template's VMMs that wait for its state: a pool (pool.h) with one size, whose base is the template
 * that is known. When that is another one, or none, the pool is told, which ends what waits for the old one.
 */
#include "agent/agent.h"
#include "base/options.h"
#include "base/text.h"
#include "factory/template.h"

/* ---- which template they wait for ---- */

static bool follows(struct kata__template *t, const struct kata__template_base *base)
{
	bool same;

	pthread_mutex_lock(&t->mutex);
	same = t->pool_of == base;
	pthread_mutex_unlock(&t->mutex);
	return same;
}

static int set_base(struct kata__template *t, struct kata__template_base *base, kata_error **err)
{
	struct kata__pool_size *size = NULL;
	int rc = base ? kata__pool_size_new(&base->config->v, t->prestarted, t->prestarted, &size, err) : 0;

	if (rc < 0)
		return rc;
	if (base)
		size->base = kata__template_base_ref(base);
	return kata__pool_replace_sizes(t->pool, size, err);
}

struct following {
	struct kata__template *t;
	struct kata__template_base *base;
};

/* What cannot be done now is done with the next build. */
static void follow_now(void *user)
{
	const struct following *f = user;
	kata_error *error = NULL;

	if (follows(f->t, f->base))
		return;
	if (set_base(f->t, f->base, &error) == 0)
		kata__template_set_base(f->t, &f->t->pool_of, f->base);
	else
		kata__log(f->t->ctx, KATA_LOG_WARNING, "factory", "VMMs cannot be started ahead: %s",
			  kata_error_get_message(error));
	kata_error_free(error);
}

void kata__template_follow(struct kata__template *t, struct kata__template_base *base)
{
	struct following f = {t, base};

	if (t->pool && !follows(t, base))
		kata__agent_on_leader(t->ctx, follow_now, &f);
}

/* ---- taking one ---- */

static int make_wish(struct kata__template_base *base, const char *id, struct kata__pool_wish *ret, kata_error **err)
{
	kata_vm_config c = base->config->v;
	int rc = id ? kata__id_check("config.id", id, err) : 0;

	if (rc < 0)
		return rc;
	*ret = (struct kata__pool_wish){.keep_id = !id};
	if (id)
		c.id = id;
	rc = kata__vm_config_copy_new(&c, &ret->config, err);
	if (rc < 0)
		return rc;
	kata__stamp_take(&c, &ret->stamp);
	ret->base = kata__template_base_ref(base);
	return 0;
}

int kata__template_take_prestarted(struct kata__template *t, struct kata__template_base *base, const char *id,
				   kata_vm **ret_vm, kata_error **err)
{
	struct kata__pool_wish wish = {0};
	int rc = t->pool ? make_wish(base, id, &wish, err) : 0;

	return rc < 0 || !t->pool ? rc : kata__pool_take(t->pool, &wish, ret_vm, err);
}

/* ---- looking at them, waiting for them ---- */

static int check(const kata_vm_builder *builder, struct kata__template **ret, kata_error **err)
{
	*ret = kata__template_of(builder, err);
	if (!*ret)
		return KATA_E_INVALID;
	if (!(*ret)->pool)
		return kata__fail(err, KATA_E_STATE, CALLER,
				  "builder: keeps no VMMs waiting: kata_template_options.prestarted was 0");
	return !follows(*ret, NULL) ? 0
				    : kata__fail(err, KATA_E_STATE, CALLER,
						 "builder: has not seen its template yet: kata_template_make() first");
}

int kata_template_get_prestarted(const kata_vm_builder *builder, kata_cache_status *ret_status, kata_error **err)
{
	kata_cache_status status = {.size = sizeof(status)};
	struct kata__template *t = kata__template_of(builder, err);
	int rc;

	if (!t)
		return KATA_E_INVALID;
	rc = kata__options_check_ret(ret_status, "ret_status", err);
	if (rc < 0)
		return rc;
	if (t->pool)
		kata__pool_get_status(t->pool, KATA_CACHE_ALL, &status);
	kata__options_write(ret_status, &status, sizeof(status));
	return 0;
}

int kata_template_wait_prestarted_begin(kata_vm_builder *builder, uint32_t count, const kata_op_options *options,
					kata_op **ret_op, kata_error **err)
{
	struct kata__template *t;
	int rc = check(builder, &t, err);

	return rc < 0 ? rc : kata__pool_wait_ready_begin(t->pool, count, options, ret_op, err);
}

int kata_template_wait_prestarted(kata_vm_builder *builder, uint32_t count, const kata_op_options *options,
				  kata_error **err)
{
	struct kata__template *t;
	kata_op *op = NULL;
	int rc = check(builder, &t, err);

	if (rc == 0)
		rc = kata__context_check_may_block(t->ctx, "kata_template_wait_prestarted", err);
	if (rc == 0)
		rc = kata_template_wait_prestarted_begin(builder, count, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}
