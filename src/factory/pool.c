/* SPDX-License-Identifier: Apache-2.0 */
/* See pool.h. Here is the turn and what it decides by; operations are in make.c, take.c and hand_out.c. */
#include "factory/pool.h"

#include <stdio.h>
#include <string.h>

#include "agent/agent.h"
#include "base/text.h"
#include "factory/members.h"

#define NS_PER_MS UINT64_C(1000000)
#define RETRY_MAX_MS 60000u
/* What was taken is started now, by somebody who waits for it, and the start of another VMM would take half of the CPU
 * from it: as long as there are others ready, that comes after. */
#define REST_MS 250u

/* ---- life ---- */

struct kata__pool *kata__pool_ref(struct kata__pool *pool)
{
	atomic_fetch_add_explicit(&pool->refs, 1, memory_order_relaxed);
	return pool;
}

struct kata__pool_size *kata__pool_size_ref(struct kata__pool_size *size)
{
	atomic_fetch_add_explicit(&size->refs, 1, memory_order_relaxed);
	return size;
}

void kata__pool_size_unref(struct kata__pool_size *size)
{
	if (!size || atomic_fetch_sub_explicit(&size->refs, 1, memory_order_acq_rel) != 1)
		return;
	kata__vm_config_copy_free(size->config);
	kata__template_base_unref(size->base);
	free(size->last_error);
	free(size);
}

void kata__pool_unref(struct kata__pool *pool)
{
	if (!pool || atomic_fetch_sub_explicit(&pool->refs, 1, memory_order_acq_rel) != 1)
		return;
	kata__pool_sizes_free(pool->sizes);
	kata_agent_builder_free(pool->own_agents);
	pthread_mutex_destroy(&pool->mutex);
	free(pool->mirror);
	free(pool);
}

int kata__pool_size_new(const kata_vm_config *config, uint32_t min, uint32_t max, struct kata__pool_size **ret,
			kata_error **err)
{
	struct kata__pool_size *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return kata__fail_no_memory(err);
	atomic_init(&s->refs, 1);
	s->min = min;
	s->max = max;
	s->wanted = min;
	rc = kata__vm_config_copy_new(config, &s->config, err);
	if (rc < 0)
		free(s);
	else
		*ret = s;
	return rc;
}

void kata__pool_sizes_free(struct kata__pool_size *sizes)
{
	while (sizes) {
		struct kata__pool_size *next = sizes->next;

		kata__pool_size_unref(sizes);
		sizes = next;
	}
}

int kata__pool_new(kata_context *ctx, kata_vm_builder *inner, kata_agent_builder *agents,
		   kata_agent_builder *take_agents, const kata_cache_options *o, struct kata__pool **ret,
		   kata_error **err)
{
	struct kata__pool *pool = calloc(1, sizeof(*pool));
	kata_cache_status *mirror = calloc(1, sizeof(*mirror));

	if (!pool || !mirror) {
		kata_agent_builder_free(take_agents);
		free(pool);
		free(mirror);
		return kata__fail_no_memory(err);
	}
	atomic_init(&pool->refs, 1);
	pthread_mutex_init(&pool->mutex, NULL);
	pool->ctx = ctx;
	pool->inner = inner;
	pool->agents = take_agents ? take_agents : agents;
	pool->own_agents = take_agents;
	pool->parallel = o->parallel ? o->parallel : 1;
	pool->age_max_ms = o->age_max_ms;
	pool->retry_min_ms = o->retry_min_ms ? o->retry_min_ms : KATA__POOL_RETRY_MIN_MS;
	pool->retry_max_ms = o->retry_max_ms ? o->retry_max_ms : RETRY_MAX_MS;
	if (pool->retry_max_ms < pool->retry_min_ms)
		pool->retry_max_ms = pool->retry_min_ms;
	pool->probe_ms = o->probe_ms;
	pool->mirror = mirror;
	*ret = pool;
	return 0;
}

/* ---- numbers ---- */

static uint32_t count_ready(const struct kata__pool *pool)
{
	uint32_t n = 0;

	for (const struct kata__pool_size *s = pool->sizes; s; s = s->next)
		n += s->ready_count;
	return n;
}

uint32_t kata__pool_count_max(const struct kata__pool *pool)
{
	uint32_t n = 0;

	for (const struct kata__pool_size *s = pool->sizes; s; s = s->next)
		n += s->max;
	return n;
}

const char *kata__pool_last_error(const struct kata__pool *pool)
{
	for (const struct kata__pool_size *s = pool->sizes; s; s = s->next)
		if (s->last_error)
			return s->last_error;
	return NULL;
}

static void describe(const struct kata__pool_size *s, uint64_t now, kata_cache_status *ret)
{
	*ret = s->counts;
	ret->min = s->min;
	ret->max = s->max;
	ret->wanted = s->wanted;
	ret->ready = s->ready_count;
	ret->making = s->making;
	ret->handing_out = s->handing_out;
	ret->next_try_ms = s->next_try_ns > now ? (s->next_try_ns - now + NS_PER_MS - 1) / NS_PER_MS : 0;
	snprintf(ret->last_error, sizeof(ret->last_error), "%s", s->last_error ? s->last_error : "");
}

static void add_up(const kata_cache_status *one, kata_cache_status *all)
{
	all->min += one->min;
	all->max += one->max;
	all->wanted += one->wanted;
	all->ready += one->ready;
	if (one->next_try_ms && (!all->next_try_ms || one->next_try_ms < all->next_try_ms))
		all->next_try_ms = one->next_try_ms;
	if (one->last_error[0] && !all->last_error[0])
		memcpy(all->last_error, one->last_error, sizeof(all->last_error));
}

/* Of sizes that were dropped a machine may still be in the making: so those are counted for the whole. */
static void publish(struct kata__pool *pool)
{
	kata_cache_status all = pool->total, one;
	uint64_t now = kata__now_ns();
	size_t i = 0;

	all.making = pool->making;
	all.handing_out = pool->handing_out;
	all.ending = pool->ending;
	pthread_mutex_lock(&pool->mutex);
	for (const struct kata__pool_size *s = pool->sizes; s; s = s->next, i++) {
		describe(s, now, &one);
		add_up(&one, &all);
		pool->mirror[i] = one;
	}
	pool->mirror[i] = all;
	pthread_mutex_unlock(&pool->mutex);
}

bool kata__pool_get_status(struct kata__pool *pool, size_t index, kata_cache_status *ret)
{
	bool there;

	pthread_mutex_lock(&pool->mutex);
	there = index == KATA_CACHE_ALL || index < pool->mirror_count;
	if (there)
		*ret = pool->mirror[index == KATA_CACHE_ALL ? pool->mirror_count : index];
	pthread_mutex_unlock(&pool->mutex);
	return there;
}

/* ---- the turn ---- */

/* What is too old makes room as soon as there is enough without it. */
static void retire(struct kata__pool *pool, struct kata__pool_size *s, uint64_t now)
{
	struct kata__pool_member *m;

	while ((m = kata__members_take_dead(s)) != NULL) {
		s->counts.unhealthy++;
		pool->total.unhealthy++;
		kata__members_end(pool, m);
	}
	if (pool->age_max_ms)
		for (uint32_t newly = kata__members_age(s, now, pool->age_max_ms); newly && s->wanted > s->min; newly--)
			s->wanted--;
	while (s->ready_count > s->wanted && s->ready->aged) {
		s->counts.aged++;
		pool->total.aged++;
		kata__members_end(pool, kata__members_take_first(s));
	}
	while (s->ready_count > s->max)
		kata__members_end(pool, kata__members_take_first(s));
}

static uint32_t lacks(const struct kata__pool_size *s)
{
	uint32_t have = kata__members_count_fresh(s) + s->making + s->handing_out;

	return have < s->wanted ? s->wanted - have : 0;
}

/* When one may be made. */
static uint64_t next_make(const struct kata__pool_size *s)
{
	return s->ready_count && s->rest_until_ns > s->next_try_ns ? s->rest_until_ns : s->next_try_ns;
}

/* The size that lacks most and may be tried now. */
static struct kata__pool_size *neediest(const struct kata__pool *pool, uint64_t now)
{
	struct kata__pool_size *most = NULL;

	for (struct kata__pool_size *s = pool->sizes; s; s = s->next)
		if (lacks(s) && next_make(s) <= now && (!most || lacks(s) > lacks(most)))
			most = s;
	return most;
}

static void fill(struct kata__pool *pool, uint64_t now)
{
	struct kata__pool_size *s;

	while (pool->making < pool->parallel && (s = neediest(pool, now)) != NULL) {
		kata_error *error = NULL;

		if (kata__pool_make_begin(pool, s, &error) < 0)
			kata__pool_made_not(pool, s, error);
		kata_error_free(error);
	}
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* When the turn may decide otherwise although nothing has happened. */
static uint64_t next_moment(const struct kata__pool *pool, uint64_t now)
{
	uint64_t at = KATA__NEVER;

	for (const struct kata__pool_size *s = pool->sizes; s; s = s->next) {
		if (lacks(s) && next_make(s) > now)
			at = earlier(at, next_make(s));
		if (pool->age_max_ms)
			at = earlier(at, kata__members_next_age(s, pool->age_max_ms));
	}
	return at;
}

static void turn(struct kata__pool *pool);

static void on_timer(void *user)
{
	struct kata__pool *pool = user;

	pool->timer = NULL;
	turn(pool);
}

static void set_timer(struct kata__pool *pool, uint64_t now)
{
	uint64_t at = pool->closing || pool->drained ? KATA__NEVER : next_moment(pool, now);

	kata__timer_remove(kata__take_ptr(pool->timer));
	if (at == KATA__NEVER)
		return;
	if (kata__timer_add(kata__context_loop(pool->ctx), at, on_timer, pool, &pool->timer, NULL) < 0)
		kata__log(pool->ctx, KATA_LOG_ERROR, "factory",
			  "no memory for a timer: the pool goes on with its next change");
}

static bool is_empty(const struct kata__pool *pool)
{
	return count_ready(pool) + pool->making + pool->handing_out + pool->ending == 0;
}

static void tell_waiters(struct kata__pool *pool)
{
	struct kata__pool_waiter *next;

	for (struct kata__pool_waiter *w = pool->waiters; w; w = next) {
		kata_op *op = w->op;
		uint64_t token = w->token;
		kata_error *error = NULL;

		next = w->next;
		if (w->count && (pool->drained || pool->closing))
			kata__fail(&error, KATA_E_STATE, CALLER,
				   "the cache was drained while %u machines were waited for: kata_cache_set_sizes() "
				   "fills it again",
				   w->count);
		else if (w->count ? count_ready(pool) < w->count : !is_empty(pool))
			continue;
		kata_op_ref(op);
		kata__pool_stop_waiting(pool, w);
		kata__op_resume(op, token, error ? KATA_E_STATE : 0, error);
		kata_op_unref(op);
	}
}

static void look_whether_idle(struct kata__pool *pool)
{
	if (!pool->closing || !is_empty(pool) || __atomic_load_n(&pool->idle, __ATOMIC_RELAXED))
		return;
	kata_agent_builder_free(kata__take_ptr(pool->own_agents)); /* nobody connects any more */
	pthread_mutex_lock(&pool->mutex);
	pool->mirror[0] = pool->mirror[pool->mirror_count];
	pool->mirror_count = 0;
	pthread_mutex_unlock(&pool->mutex);
	kata__pool_sizes_free(kata__take_ptr(pool->sizes)); /* and with them what they hold open */
	__atomic_store_n(&pool->idle, true, __ATOMIC_RELEASE);
	kata__loop_wake_waiters(kata__context_loop(pool->ctx));
}

static void turn(struct kata__pool *pool)
{
	uint64_t now = kata__now_ns();

	for (struct kata__pool_size *s = pool->sizes; s; s = s->next)
		retire(pool, s, now);
	if (!pool->closing && !pool->drained)
		fill(pool, now);
	set_timer(pool, now);
	publish(pool);
	tell_waiters(pool);
	look_whether_idle(pool);
}

static void turn_now(struct kata__task *task)
{
	struct kata__pool *pool = kata__container_of(task, struct kata__pool, turn_task);

	pool->turn_posted = false;
	turn(pool);
	kata__pool_unref(pool);
}

void kata__pool_changed(struct kata__pool *pool)
{
	publish(pool);
	if (pool->turn_posted)
		return;
	pool->turn_posted = true;
	pool->turn_task.fn = turn_now;
	kata__pool_ref(pool);
	kata__loop_post(kata__context_loop(pool->ctx), &pool->turn_task);
}

/* ---- waiters ---- */

void kata__pool_wait(struct kata__pool *pool, struct kata__pool_waiter *w)
{
	kata_op_ref(w->op);
	w->next = pool->waiters;
	pool->waiters = w;
	kata__pool_changed(pool);
}

void kata__pool_stop_waiting(struct kata__pool *pool, struct kata__pool_waiter *w)
{
	for (struct kata__pool_waiter **at = &pool->waiters; *at; at = &(*at)->next) {
		if (*at != w)
			continue;
		*at = w->next;
		kata_op_unref(w->op);
		return;
	}
}

/* ---- what is wanted ---- */

static void end_all_ready(struct kata__pool *pool, struct kata__pool_size *s)
{
	struct kata__pool_member *m;

	while ((m = kata__members_take_first(s)) != NULL)
		kata__members_end(pool, m);
}

void kata__pool_drain(struct kata__pool *pool)
{
	pool->drained = true;
	for (struct kata__pool_size *s = pool->sizes; s; s = s->next)
		end_all_ready(pool, s);
	kata__pool_make_cancel(pool, NULL);
	kata__pool_changed(pool);
}

static void close_now(void *user)
{
	struct kata__pool *pool = user;

	pool->closing = true;
	kata__pool_drain(pool);
}

void kata__pool_end(struct kata__pool *pool)
{
	kata__agent_on_leader(pool->ctx, close_now, pool);
	if (kata__context_check_may_block(pool->ctx, "kata_vm_builder_free", NULL) == 0)
		kata__loop_wait(kata__context_loop(pool->ctx), &pool->idle, KATA__NEVER);
}

void kata__pool_want(struct kata__pool *pool, uint32_t count)
{
	uint32_t wanted = 0;

	for (struct kata__pool_size *s = pool->sizes; s; s = s->next)
		wanted += s->wanted;
	for (struct kata__pool_size *s = pool->sizes; s; s = s->next) {
		while (wanted < count && s->wanted < s->max) {
			s->wanted++;
			wanted++;
		}
	}
	kata__pool_changed(pool);
}

/* The size of that config and base, out of the list. */
static struct kata__pool_size *take_like(struct kata__pool_size **list, const struct kata__pool_size *like)
{
	for (struct kata__pool_size **at = list; *at; at = &(*at)->next) {
		struct kata__pool_size *s = *at;

		if (!kata__config_fits(&s->config->v, &like->config->v) ||
		    !kata__template_base_is_same(s->base, like->base))
			continue;
		*at = s->next;
		return s;
	}
	return NULL;
}

/* `fresh` or, where there was one like it, that one with the numbers of `fresh`. */
static struct kata__pool_size *merge(struct kata__pool_size **old, struct kata__pool_size *fresh)
{
	struct kata__pool_size *s = take_like(old, fresh);

	if (!s)
		return fresh;
	s->min = fresh->min;
	s->max = fresh->max;
	s->wanted = s->wanted < s->min ? s->min : s->wanted > s->max ? s->max : s->wanted;
	kata__pool_size_unref(fresh);
	return s;
}

static void set_sizes(struct kata__pool *pool, struct kata__pool_size *take_sizes, kata_cache_status *take_mirror,
		      size_t count)
{
	struct kata__pool_size *old = pool->sizes, **last = &pool->sizes, *next;
	kata_cache_status *mirror = pool->mirror;

	pool->sizes = NULL;
	for (struct kata__pool_size *s = take_sizes; s; s = next) {
		next = s->next;
		*last = merge(&old, s);
		last = &(*last)->next;
		*last = NULL;
	}
	for (struct kata__pool_size *s = old; s; s = next) {
		next = s->next;
		s->dropped = true;
		end_all_ready(pool, s);
		kata__pool_make_cancel(pool, s);
		kata__pool_size_unref(s);
	}
	pthread_mutex_lock(&pool->mutex);
	pool->mirror = take_mirror;
	pool->mirror_count = count;
	pthread_mutex_unlock(&pool->mutex);
	free(mirror);
	pool->drained = pool->closing;
	kata__pool_changed(pool);
}

struct replacement {
	struct kata__pool *pool;
	struct kata__pool_size *sizes;
	kata_cache_status *mirror;
	size_t count;
};

static void replace_now(void *user)
{
	struct replacement *r = user;

	set_sizes(r->pool, r->sizes, r->mirror, r->count);
}

int kata__pool_replace_sizes(struct kata__pool *pool, struct kata__pool_size *take_sizes, kata_error **err)
{
	struct replacement r = {.pool = pool, .sizes = take_sizes};

	for (const struct kata__pool_size *s = take_sizes; s; s = s->next)
		r.count++;
	r.mirror = calloc(r.count + 1, sizeof(*r.mirror));
	if (!r.mirror) {
		kata__pool_sizes_free(take_sizes);
		return kata__fail_no_memory(err);
	}
	kata__agent_on_leader(pool->ctx, replace_now, &r);
	return 0;
}

/* ---- machines come and go ---- */

void kata__pool_made(struct kata__pool *pool, struct kata__pool_member *take_member)
{
	struct kata__pool_size *s = take_member->size;

	s->counts.made++;
	pool->total.made++;
	s->retry_ms = 0;
	s->next_try_ns = 0;
	if (s->dropped || pool->drained || kata__members_add(pool, take_member) < 0)
		kata__members_end(pool, take_member);
	kata__pool_changed(pool);
}

void kata__pool_made_not(struct kata__pool *pool, struct kata__pool_size *s, const kata_error *error)
{
	if (!s->dropped && !pool->drained) {
		s->counts.failed++;
		pool->total.failed++;
		s->retry_ms = s->retry_ms ? s->retry_ms * 2 : pool->retry_min_ms;
		if (s->retry_ms > pool->retry_max_ms)
			s->retry_ms = pool->retry_max_ms;
		s->next_try_ns = kata__deadline_in_ms(s->retry_ms);
		free(s->last_error);
		s->last_error = kata__strdup(kata_error_get_message(error));
		kata__log(pool->ctx, KATA_LOG_WARNING, "factory", "a machine could not be made, again in %llu ms: %s",
			  (unsigned long long)s->retry_ms, kata_error_get_message(error));
	}
	kata__pool_changed(pool);
}

static bool fits(const struct kata__pool_size *s, const struct kata__pool_wish *wish)
{
	return kata__config_fits(&s->config->v, &wish->config->v) && kata__template_base_is_same(s->base, wish->base);
}

static bool has_transport(const struct kata__pool_member *m, kata_agent_transport wanted)
{
	return wanted == KATA_AGENT_AUTO || m->vm->agent_transport == wanted;
}

/* The oldest that will do; what is of other files than there are now goes. */
static struct kata__pool_member *pop_of(struct kata__pool *pool, struct kata__pool_size *s,
					const struct kata__pool_wish *wish)
{
	while (s->ready) {
		struct kata__pool_member *m;

		if (!has_transport(s->ready, wish->transport))
			return NULL; /* all of a size have the same */
		m = kata__members_take_first(s);
		if (!m->dead && kata__stamp_is_equal(&m->stamp, &wish->stamp))
			return m;
		if (m->dead) {
			s->counts.unhealthy++;
			pool->total.unhealthy++;
		} else {
			s->counts.outdated++;
			pool->total.outdated++;
		}
		kata__members_end(pool, m);
	}
	return NULL;
}

struct kata__pool_member *kata__pool_pop(struct kata__pool *pool, const struct kata__pool_wish *wish)
{
	struct kata__pool_size *s = pool->sizes;
	struct kata__pool_member *m = NULL;

	while (s && !fits(s, wish))
		s = s->next;
	if (s)
		m = pop_of(pool, s, wish);
	if (m) {
		s->handing_out++;
		pool->handing_out++;
	} else {
		pool->total.missed++;
		if (s) {
			s->counts.missed++;
			s->wanted += s->wanted < s->max;
		}
	}
	kata__pool_changed(pool);
	return m;
}

void kata__pool_missed(struct kata__pool *pool)
{
	pool->total.missed++;
	kata__pool_changed(pool);
}

static void leave_hand_out(struct kata__pool *pool, struct kata__pool_member *m)
{
	m->size->handing_out--;
	pool->handing_out--;
	kata__pool_changed(pool);
}

void kata__pool_put_back(struct kata__pool *pool, struct kata__pool_member *take_member)
{
	take_member->size->handing_out--;
	pool->handing_out--;
	if (take_member->size->dropped || pool->drained || kata__members_add(pool, take_member) < 0)
		kata__members_end(pool, take_member);
	kata__pool_changed(pool);
}

void kata__pool_handed_out(struct kata__pool *pool, struct kata__pool_member *take_member)
{
	struct kata__pool_size *s = take_member->size;

	s->counts.taken++;
	pool->total.taken++;
	if (s->base && s->rest_until_ns <= kata__now_ns())
		s->rest_until_ns = kata__deadline_in_ms(REST_MS);
	leave_hand_out(pool, take_member);
	kata_agent_unref(take_member->agent);
	kata__pool_size_unref(take_member->size);
	free(take_member);
}

void kata__pool_not_handed_out(struct kata__pool *pool, struct kata__pool_member *take_member, bool unhealthy)
{
	take_member->size->counts.unhealthy += unhealthy;
	pool->total.unhealthy += unhealthy;
	leave_hand_out(pool, take_member);
	kata__members_end(pool, take_member);
}
