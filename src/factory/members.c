/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See members.h. A machine that dies says so while the VM tells its listeners, or while its agent is being lost:
 * nothing is taken apart in there, it is marked, and the next turn finds it.
 */
#include "factory/members.h"

#include "agent/agent.h"

static void has_died(void *user)
{
	struct kata__pool_member *m = user;

	m->dead = true;
	kata__pool_changed(m->pool);
}

/* ---- the list ---- */

static void link_by_age(struct kata__pool_size *size, struct kata__pool_member *m)
{
	struct kata__pool_member **at = &size->ready;

	while (*at && (*at)->made_ns <= m->made_ns)
		at = &(*at)->next;
	m->next = *at;
	*at = m;
	size->ready_count++;
}

int kata__members_add(struct kata__pool *pool, struct kata__pool_member *take_member)
{
	int rc = kata__vm_add_listener(take_member->vm, has_died, NULL, take_member, NULL);

	if (rc < 0)
		return rc;
	if (take_member->agent)
		kata__agent_set_lost_listener(take_member->agent, has_died, take_member);
	take_member->pool = pool;
	take_member->dead = kata__vm_get_state(take_member->vm) != KATA_VM_PAUSED;
	link_by_age(take_member->size, take_member);
	return 0;
}

static struct kata__pool_member *unlink_at(struct kata__pool_size *size, struct kata__pool_member **at)
{
	struct kata__pool_member *m = *at;

	*at = m->next;
	m->next = NULL;
	size->ready_count--;
	kata__vm_remove_listener(m->vm, has_died, m);
	if (m->agent)
		kata__agent_set_lost_listener(m->agent, NULL, NULL);
	return m;
}

struct kata__pool_member *kata__members_take_first(struct kata__pool_size *size)
{
	return size->ready ? unlink_at(size, &size->ready) : NULL;
}

struct kata__pool_member *kata__members_take_dead(struct kata__pool_size *size)
{
	struct kata__pool_member **at = &size->ready;

	while (*at && !(*at)->dead)
		at = &(*at)->next;
	return *at ? unlink_at(size, at) : NULL;
}

/* ---- age ---- */

static uint64_t aged_at(const struct kata__pool_member *m, uint64_t age_max_ms)
{
	uint64_t left_ms = (KATA__NEVER - 1 - m->made_ns) / 1000000u;

	return age_max_ms > left_ms ? KATA__NEVER : m->made_ns + age_max_ms * 1000000u;
}

uint32_t kata__members_age(struct kata__pool_size *size, uint64_t now, uint64_t age_max_ms)
{
	uint32_t newly = 0;

	for (struct kata__pool_member *m = size->ready; m && aged_at(m, age_max_ms) <= now; m = m->next) {
		newly += !m->aged;
		m->aged = true;
	}
	return newly;
}

uint64_t kata__members_next_age(const struct kata__pool_size *size, uint64_t age_max_ms)
{
	const struct kata__pool_member *m = size->ready;

	while (m && m->aged)
		m = m->next;
	return m ? aged_at(m, age_max_ms) : KATA__NEVER;
}

uint32_t kata__members_count_fresh(const struct kata__pool_size *size)
{
	uint32_t n = size->ready_count;

	for (const struct kata__pool_member *m = size->ready; m && m->aged; m = m->next)
		n--;
	return n;
}

/* ---- the end ---- */

struct ending {
	struct kata__pool *pool; /* referenced */
	kata_vm *vm;             /* referenced */
};

static void free_ending(void *user)
{
	struct ending *e = user;

	kata_vm_unref(e->vm); /* one whose destroy failed is tried once more */
	e->pool->ending--;
	kata__pool_changed(e->pool);
	kata__pool_unref(e->pool);
	free(e);
}

static void has_ended(void *user, kata_op *op)
{
	struct ending *e = user;
	const kata_error *error = kata_op_get_error(op);

	if (error)
		kata__log(e->pool->ctx, KATA_LOG_ERROR, "factory", "vm %s: %s", kata_vm_get_id(e->vm),
			  kata_error_get_message(error));
}

void kata__pool_end_vm(struct kata__pool *pool, kata_vm *take_vm, kata_agent *take_agent)
{
	struct ending *e = calloc(1, sizeof(*e));
	kata_op *op = NULL;

	kata_agent_unref(take_agent);
	if (e && kata_vm_destroy_begin(take_vm, NULL, &op, NULL) == 0) {
		*e = (struct ending){kata__pool_ref(pool), take_vm};
		pool->ending++;
		kata_op_set_callback(op, has_ended, e, free_ending, NULL);
		kata__pool_changed(pool);
	} else {
		free(e);
		kata_vm_unref(take_vm); /* begins the destroy, if there is memory for that */
	}
	kata_op_unref(op);
}

void kata__members_end(struct kata__pool *pool, struct kata__pool_member *take_member)
{
	kata__pool_end_vm(pool, take_member->vm, take_member->agent);
	kata__pool_size_unref(take_member->size);
	free(take_member);
}
