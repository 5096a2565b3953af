/* SPDX-License-Identifier: Apache-2.0 */
/*
 * make.c - making a machine for the pool: build, start, mark, wait for its agent, rehearse the hand-out, pause. Or a
 * VMM that waits for a template's state: build, start half-way, mark.
 *
 * The table has its own undo: a make that fails or is cancelled has ended its machine when it ends. Each step waits by
 * its own operation's deadline; the one of the whole is a last resort.
 */
#include "factory/clone.h"
#include "factory/identity.h"
#include "factory/pool.h"
#include "vm/warm.h"

#define WHOLE_MS 600000u
#define UNDO_MS 30000u

struct kata__pool_make {
	struct kata__pool_make *next; /* in pool->makes */
	struct kata__pool *pool;      /* referenced */
	struct kata__pool_size *size; /* referenced */
	kata_op *op;                  /* borrowed: it is in the list until its finish */
	kata_vm *vm;
	kata_agent *agent;
	struct kata__stamp stamp;
};

static struct kata__pool_make *make_of(const kata_op *op)
{
	return kata__op_data(op);
}

static int run_child(kata_op *op, int rc, kata_op *child, kata_error **err)
{
	return rc < 0 ? rc : kata__op_run_child(op, child, err);
}

/* ---- steps ---- */

/* The files are looked at first: one that changes meanwhile makes the machine outdated, not wrong. */
static int step_build(kata_op *op, kata_error **err)
{
	struct kata__pool_make *m = make_of(op);
	kata_vm_config config = m->size->config->v;
	int rc;

	config.id = NULL;
	kata__stamp_take(&config, &m->stamp);
	rc = kata_vm_builder_build(m->pool->inner, &config, NULL, NULL, &m->vm, err);
	return rc < 0 ? rc : kata__vm_check_poolable(m->vm, err);
}

static int step_build_clone(kata_op *op, kata_error **err)
{
	struct kata__pool_make *m = make_of(op);

	kata__stamp_take(&m->size->config->v, &m->stamp);
	return kata__clone_new(m->pool->inner, m->size->base, NULL, NULL, m->pool->agents, &m->vm, err);
}

static int undo_build(kata_op *op, kata_error **err)
{
	kata_op *child = NULL;
	int rc = kata_vm_destroy_begin(make_of(op)->vm, NULL, &child, err);

	return run_child(op, rc, child, err);
}

static int step_start(kata_op *op, kata_error **err)
{
	kata_op *child = NULL;
	int rc = kata_vm_start_begin(make_of(op)->vm, NULL, &child, err);

	return run_child(op, rc, child, err);
}

static int step_prestart(kata_op *op, kata_error **err)
{
	kata_op *child = NULL;
	int rc = kata__vm_prestart_begin(make_of(op)->vm, &child, err);

	return run_child(op, rc, child, err);
}

static int step_mark(kata_op *op, kata_error **err)
{
	return kata__vm_mark_pooled(make_of(op)->vm, err);
}

static int step_connect(kata_op *op, kata_error **err)
{
	struct kata__pool_make *m = make_of(op);
	kata_op *child = NULL;
	int rc = kata_agent_builder_build_begin(m->pool->agents, m->vm, NULL, NULL, &m->agent, &child, err);

	return run_child(op, rc, child, err);
}

static int undo_connect(kata_op *op, kata_error **err)
{
	kata_agent_unref(kata__take_ptr(make_of(op)->agent));
	return KATA__STEP_DONE;
}

/* What the boot put off would be done in a caller's time. */
static int step_settle(kata_op *op, kata_error **err)
{
	struct kata__pool_make *m = make_of(op);
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_SETTLE};
	kata_op *child = NULL;
	int rc;

	if (!kata_agent_has_guest_service(m->agent))
		return KATA__STEP_DONE;
	rc = kata_agent_call_begin(m->agent, &request, NULL, &child, err);
	return run_child(op, rc, child, err);
}

/* As at the hand-out: what is wrong with it is seen now; and where the CPU is emulated, the way there is translated
 * once and for all, which would cost the hand-out most of its time. */
static int step_rehearse(kata_op *op, kata_error **err)
{
	struct kata__pool_make *m = make_of(op);
	kata_op *child = NULL;
	struct kata__identity_options who = {.agent = m->agent, .own = KATA__OWN_FROM_THE_START};
	int rc = kata__identity_reset_begin(m->vm, &who, NULL, &child, err);

	return run_child(op, rc, child, err);
}

static int step_pause(kata_op *op, kata_error **err)
{
	kata_op *child = NULL;
	int rc = kata_vm_pause_begin(make_of(op)->vm, NULL, &child, err);

	return run_child(op, rc, child, err);
}

/* ---- the end ---- */

static void unlink_make(struct kata__pool_make *m)
{
	struct kata__pool_make **at = &m->pool->makes;

	while (*at && *at != m)
		at = &(*at)->next;
	if (*at)
		*at = m->next;
	m->pool->making--;
	m->size->making--;
}

static struct kata__pool_member *new_member(struct kata__pool_make *m)
{
	struct kata__pool_member *member = calloc(1, sizeof(*member));

	if (member)
		*member = (struct kata__pool_member){.size = kata__pool_size_ref(m->size),
						     .vm = kata__take_ptr(m->vm),
						     .agent = kata__take_ptr(m->agent),
						     .stamp = m->stamp,
						     .made_ns = kata__now_ns()};
	return member;
}

static void finish_make(kata_op *op, int status, kata_error **error)
{
	struct kata__pool_make *m = make_of(op);
	struct kata__pool_member *member = status == 0 ? new_member(m) : NULL;

	unlink_make(m);
	if (member) {
		kata__pool_made(m->pool, member);
		return;
	}
	if (status == 0) { /* no memory for the list's entry */
		kata__pool_end_vm(m->pool, kata__take_ptr(m->vm), kata__take_ptr(m->agent));
		kata__fail_no_memory(error);
	}
	kata__pool_made_not(m->pool, m->size, *error);
	kata_agent_unref(kata__take_ptr(m->agent));
	kata_vm_unref(kata__take_ptr(m->vm));
}

static void free_make(void *data)
{
	struct kata__pool_make *m = data;

	kata_agent_unref(m->agent);
	kata_vm_unref(m->vm);
	kata__pool_size_unref(m->size);
	kata__pool_unref(m->pool);
	free(m);
}

static const struct kata__step steps[] = {
	{.name = "build", .run = step_build, .undo = undo_build, .flags = KATA__STEP_BLOCKING},
	{.name = "start", .run = step_start},
	{.name = "mark", .run = step_mark, .flags = KATA__STEP_BLOCKING},
	{.name = "connect-agent", .run = step_connect, .undo = undo_connect},
	{.name = "settle", .run = step_settle},
	{.name = "rehearse", .run = step_rehearse},
	{.name = "pause", .run = step_pause},
};
const struct kata__op_table kata__pool_make_table = {
	.name = "pool-make",
	KATA__STEPS(steps),
	.timeout_ms = WHOLE_MS,
	.undo_timeout_ms = UNDO_MS,
	.finish = finish_make,
	.free_data = free_make,
};

static const struct kata__step prestart_steps[] = {
	{.name = "build", .run = step_build_clone, .undo = undo_build, .flags = KATA__STEP_BLOCKING},
	{.name = "prestart", .run = step_prestart},
	{.name = "mark", .run = step_mark, .flags = KATA__STEP_BLOCKING},
};
const struct kata__op_table kata__pool_prestart_table = {
	.name = "pool-prestart",
	KATA__STEPS(prestart_steps),
	.timeout_ms = WHOLE_MS,
	.undo_timeout_ms = UNDO_MS,
	.finish = finish_make,
	.free_data = free_make,
};

int kata__pool_make_begin(struct kata__pool *pool, struct kata__pool_size *size, kata_error **err)
{
	struct kata__pool_make *m = calloc(1, sizeof(*m));
	kata_op *op = NULL;
	int rc;

	if (!m)
		return kata__fail_no_memory(err);
	*m = (struct kata__pool_make){.pool = kata__pool_ref(pool), .size = kata__pool_size_ref(size)};
	rc = kata__op_new(pool->ctx, size->base ? &kata__pool_prestart_table : &kata__pool_make_table, m, NULL, 1, &op,
			  err);
	if (rc < 0)
		return rc;
	m->op = op;
	m->next = pool->makes;
	pool->makes = m;
	pool->making++;
	size->making++;
	kata__op_begin(op);
	kata_op_unref(op);
	return 0;
}

void kata__pool_make_cancel(struct kata__pool *pool, const struct kata__pool_size *size)
{
	for (struct kata__pool_make *m = pool->makes; m; m = m->next)
		if (!size || m->size == size)
			kata_op_cancel(m->op);
}
