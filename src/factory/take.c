/* SPDX-License-Identifier: Apache-2.0 */
/*
 * take.c - taking a machine out of the pool: the oldest ready one that fits is looked at; one that does not answer is
 * ended and the next one is tried, until one is well, none is left, or a boot is the better way.
 *
 * A failure that is not the machine's (its id is taken, no memory) ends the operation with that error.
 */
#include "factory/pool.h"
#include "vm/warm.h"

#define TAKE_MS 60000u
#define TRIES_MAX 3u /* where so many are not well, all may be */

struct take {
	struct kata__pool *pool; /* referenced */
	struct kata__pool_wish wish;
	uint64_t token;
	struct kata__pool_member *member; /* being handed out */
	kata_op *child;                   /* its operation; referenced */
	unsigned tries;
	bool given_up; /* the step was abandoned: what comes of the child is ended */
	kata_vm *vm;
};

static struct take *take_of(const kata_op *op)
{
	return kata__op_data(op);
}

static int try_next(kata_op *op, kata_error **err);

static const char *id_of(const struct take *t)
{
	return t->wish.keep_id ? NULL : t->wish.config->v.id;
}

static bool is_the_callers(int status)
{
	return status == KATA_E_EXISTS || status == KATA_E_NO_MEMORY;
}

static void well(struct take *t, struct kata__pool_member *member)
{
	t->vm = member->vm;
	kata__pool_handed_out(t->pool, member);
}

/* [op->child has ended] */
static void has_ended(void *user, kata_op *child)
{
	struct kata__pool_member *member;
	kata_error *error = kata__error_dup(kata_op_get_error(child));
	kata_op *op = user;
	struct take *t = take_of(op);
	int rc = error ? (int)kata_error_get_status(error) : 0;

	kata_op_unref(kata__take_ptr(t->child));
	member = kata__take_ptr(t->member);
	if (rc < 0 || t->given_up)
		kata__pool_not_handed_out(t->pool, member, !t->given_up && !is_the_callers(rc));
	else
		well(t, member);
	if (rc < 0 && !t->given_up && !is_the_callers(rc)) {
		kata__log(t->pool->ctx, KATA_LOG_WARNING, "factory", "a pooled machine was not well: %s",
			  kata_error_get_message(error));
		kata_error_free(kata__take_ptr(error));
		rc = try_next(op, &error);
	}
	if (rc <= 0)
		kata__op_resume(op, t->token, rc, error);
	kata_op_unref(op);
}

static int begin_hand_out(kata_op *op, struct kata__pool_member *member, kata_error **err)
{
	struct take *t = take_of(op);
	kata_op *child = NULL;
	int rc = kata__vm_check_id(member->vm, id_of(t), err);

	if (rc == 0)
		rc = kata__hand_out_new(t->pool, member->vm, member->agent, id_of(t), t->wish.transfer, &child, err);
	if (rc < 0) {
		kata__pool_put_back(t->pool, member);
		return rc;
	}
	t->member = member;
	t->child = child;
	kata_op_ref(op);
	kata__op_on_done(child, has_ended, op);
	kata__op_begin(child);
	return KATA__STEP_WAIT;
}

/* DONE: none is left. WAIT: one is being looked at. */
static int try_next(kata_op *op, kata_error **err)
{
	struct take *t = take_of(op);
	struct kata__pool_member *member;

	if (t->tries++ == TRIES_MAX) {
		kata__pool_missed(t->pool);
		return KATA__STEP_DONE;
	}
	member = kata__pool_pop(t->pool, &t->wish);
	return member ? begin_hand_out(op, member, err) : KATA__STEP_DONE;
}

static int step_hand_out(kata_op *op, kata_error **err)
{
	struct take *t = take_of(op);

	t->token = kata__op_token(op);
	return try_next(op, err);
}

static void cancel_hand_out(kata_op *op)
{
	struct take *t = take_of(op);

	t->given_up = true;
	kata_op_cancel(t->child);
}

static int undo_hand_out(kata_op *op, kata_error **err)
{
	struct take *t = take_of(op);

	if (t->vm)
		kata__pool_end_vm(t->pool, kata__take_ptr(t->vm), NULL);
	return KATA__STEP_DONE;
}

static void free_take(void *data)
{
	struct take *t = data;

	kata_vm_unref(t->vm);
	kata__pool_wish_deinit(&t->wish);
	kata__pool_unref(t->pool);
	free(t);
}

static const struct kata__step steps[] = {
	{.name = "hand-out", .run = step_hand_out, .undo = undo_hand_out, .cancel = cancel_hand_out},
};
static const struct kata__op_table take_table = {
	.name = "pool-take",
	KATA__STEPS(steps),
	.timeout_ms = TAKE_MS,
	.free_data = free_take,
};

void kata__pool_wish_deinit(struct kata__pool_wish *wish)
{
	kata__vm_config_copy_free(wish->config);
	kata__template_base_unref(wish->base);
	wish->config = NULL;
	wish->base = NULL;
}

int kata__pool_take_begin(struct kata__pool *pool, struct kata__pool_wish *take_wish, const kata_op_options *options,
			  kata_op **ret_op, kata_error **err)
{
	struct take *t = calloc(1, sizeof(*t));

	if (!t) {
		kata__pool_wish_deinit(take_wish);
		return kata__fail_no_memory(err);
	}
	t->pool = kata__pool_ref(pool);
	t->wish = *take_wish;
	*take_wish = (struct kata__pool_wish){0};
	return kata__op_start(pool->ctx, &take_table, t, options, 1, ret_op, err);
}

kata_vm *kata__pool_take_result(kata_op *op)
{
	return kata__take_ptr(take_of(op)->vm);
}

int kata__pool_take(struct kata__pool *pool, struct kata__pool_wish *take_wish, kata_vm **ret_vm, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__pool_take_begin(pool, take_wish, NULL, &op, err);

	if (rc < 0)
		return rc;
	rc = kata_op_wait(op, err);
	if (rc == 0)
		*ret_vm = kata__pool_take_result(op);
	kata_op_unref(op);
	return rc;
}
