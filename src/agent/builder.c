/* SPDX-License-Identifier: Apache-2.0 */
/*
 * builder.c - kata_agent_builder: a vtable and who it belongs to.
 *
 * It holds no agent and is held by none: sole-owned, free at any time after a build has begun.
 */
#include "agent/builder.h"

#include <assert.h>

#include "base/error.h"
#include "op/op.h"
#include "vm/vm.h"

#define BUILDER_MAGIC 0x6b616231u

struct kata_agent_builder {
	uint32_t magic;
	kata_context *ctx;
	const kata_agent_builder_ops *ops;
	void *self;
};

static int direct_build(void *self, kata_vm *vm, const char *released_json, const kata_op_options *options,
			kata_agent **ret_agent, kata_op **ret_op, kata_error **err)
{
	return kata__connect_begin(self, vm, released_json, NULL, options, ret_agent, ret_op, err);
}

static void direct_free(void *self)
{
	(void)self; /* the context, which is not ours */
}

static const kata_agent_builder_ops direct_ops = {
	.size = sizeof(direct_ops), .name = "direct", .build = direct_build, .free = direct_free};

int kata_agent_builder_new(kata_context *context, const kata_agent_builder_ops *ops, void *self,
			   kata_agent_builder **ret_builder, kata_error **err)
{
	kata_agent_builder *b;
	int rc;

	if (!context || !ret_builder)
		return kata__fail(err, KATA_E_INVALID, CALLER, "kata_agent_builder_new: %s is NULL",
				  context ? "ret_builder" : "context");
	if (!ops || ops->size < sizeof(*ops))
		return kata__fail(err, KATA_E_INVALID, CALLER, "ops.size: is %zu, must be at least %zu",
				  ops ? ops->size : 0, sizeof(*ops));
	if (!ops->name || !ops->build || !ops->free)
		return kata__fail(err, KATA_E_INVALID, CALLER, "ops.%s: is NULL, an agent builder must have it",
				  !ops->name    ? "name"
				  : !ops->build ? "build"
						: "free");
	rc = kata__context_enter(context, KATA__OBJECT_BUILDER, err);
	if (rc)
		return rc;
	b = malloc(sizeof(*b));
	if (!b) {
		kata__context_leave(context, KATA__OBJECT_BUILDER);
		return kata__fail_no_memory(err);
	}
	*b = (kata_agent_builder){.magic = BUILDER_MAGIC, .ctx = context, .ops = ops, .self = self};
	*ret_builder = b;
	return 0;
}

int kata_agent_builder_new_direct(kata_context *context, kata_agent_builder **ret_builder, kata_error **err)
{
	return kata_agent_builder_new(context, &direct_ops, context, ret_builder, err);
}

void kata_agent_builder_free(kata_agent_builder *b)
{
	kata_context *ctx;

	if (!b)
		return;
	assert(b->magic == BUILDER_MAGIC);
	ctx = b->ctx;
	b->ops->free(b->self);
	b->magic = 0;
	free(b);
	kata__context_leave(ctx, KATA__OBJECT_BUILDER);
}

int kata_agent_builder_build_begin(kata_agent_builder *b, kata_vm *vm, const char *released_json,
				   const kata_op_options *options, kata_agent **ret_agent, kata_op **ret_op,
				   kata_error **err)
{
	if (!b || !vm || !ret_agent || !ret_op)
		return kata__fail(err, KATA_E_INVALID, CALLER, "kata_agent_builder_build: %s is NULL",
				  !b           ? "builder"
				  : !vm        ? "vm"
				  : !ret_agent ? "ret_agent"
					       : "ret_op");
	assert(b->magic == BUILDER_MAGIC);
	return b->ops->build(b->self, vm, released_json, options, ret_agent, ret_op, err);
}

int kata__agent_builder_connect(kata_agent_builder *b, kata_vm *vm, const struct kata__connect_first *first,
				const kata_op_options *options, kata_agent **ret_agent, kata_op **ret_op,
				kata_error **err)
{
	if (b && b->ops != &direct_ops)
		return b->ops->build(b->self, vm, NULL, options, ret_agent, ret_op, err);
	return kata__connect_begin(vm->ctx, vm, NULL, first, options, ret_agent, ret_op, err);
}

int kata_agent_builder_build(kata_agent_builder *b, kata_vm *vm, const char *released_json,
			     const kata_op_options *options, kata_agent **ret_agent, kata_error **err)
{
	kata_agent *agent = NULL;
	kata_op *op = NULL;
	int rc;

	if (!b || !ret_agent)
		return kata__fail(err, KATA_E_INVALID, CALLER, "kata_agent_builder_build: %s is NULL",
				  b ? "ret_agent" : "builder");
	rc = kata__context_check_may_block(b->ctx, "kata_agent_builder_build", err);
	if (rc)
		return rc;
	rc = kata_agent_builder_build_begin(b, vm, released_json, options, &agent, &op, err);
	rc = kata__op_finish_sync(rc, &op, err);
	if (rc)
		kata_agent_unref(agent);
	else
		*ret_agent = agent;
	return rc;
}
