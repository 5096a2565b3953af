/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_vm_builder: an ops table and its self. Absent optional ops are filled with defaults when the builder is made, so
 * that no call site tests for NULL. The blocking build_from_released is the begin form and a wait.
 */
#include "vm/builder.h"

#include <stddef.h>
#include <string.h>

#include "base/options.h"
#include "op/op.h"

#define BUILDER_MAGIC 0x4b564231u

struct kata_vm_builder {
	uint32_t magic;
	kata_context *ctx;
	const kata_vm_builder_ops *given; /* as the maker passed them: the identity for downcasts */
	kata_vm_builder_ops ops;          /* with the defaults */
	void *self;
};

static int no_build_from_released(void *self, const char *json, size_t length, const kata_op_options *options,
				  kata_vm **ret_vm, kata_op **ret_op, kata_error **err)
{
	return kata__fail(err, KATA_E_UNSUPPORTED, CALLER,
			  "this builder cannot take over a released VM: its ops have no build_from_released");
}

static int no_build_from_snapshot(void *self, const kata_snapshot *snapshot, const kata_vm_config *config,
				  const kata_agent_config *agent_config, const kata_qos_config *qos_config,
				  const kata_restore_options *options, kata_vm **ret_vm, kata_error **err)
{
	return kata__fail(err, KATA_E_UNSUPPORTED, CALLER,
			  "this builder cannot restore a saved VM: its ops have no build_from_snapshot");
}

static int check_ops(const kata_vm_builder_ops *ops, kata_error **err)
{
	if (!ops->name || !ops->name[0])
		return kata__fail(err, KATA_E_INVALID, CALLER, "ops.name: must be given");
	if (!ops->build || !ops->get_capabilities || !ops->free)
		return kata__fail(err, KATA_E_INVALID, CALLER, "ops.%s: must be given",
				  !ops->build              ? "build"
				  : !ops->get_capabilities ? "get_capabilities"
							   : "free");
	return 0;
}

int kata_vm_builder_new(kata_context *context, const kata_vm_builder_ops *ops, void *self,
			kata_vm_builder **ret_builder, kata_error **err)
{
	kata_vm_builder *b;
	int rc;

	if (!context || !ops || !ret_builder)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL",
				  !context ? "context"
				  : !ops   ? "ops"
					   : "ret_builder");
	b = calloc(1, sizeof(*b));
	if (!b)
		return kata__fail_no_memory(err);
	rc = kata__options_read(&b->ops, sizeof(b->ops), ops, "ops", err);
	if (rc == 0)
		rc = check_ops(&b->ops, err);
	if (rc == 0)
		rc = kata__context_enter(context, KATA__OBJECT_BUILDER, err);
	if (rc < 0) {
		free(b);
		return rc;
	}
	if (!b->ops.build_from_released)
		b->ops.build_from_released = no_build_from_released;
	if (!b->ops.build_from_snapshot)
		b->ops.build_from_snapshot = no_build_from_snapshot;
	b->magic = BUILDER_MAGIC;
	b->ctx = context;
	b->given = ops;
	b->self = self;
	*ret_builder = b;
	return 0;
}

void kata_vm_builder_free(kata_vm_builder *builder)
{
	kata_context *ctx;

	if (!builder)
		return;
	ctx = builder->ctx;
	builder->ops.free(builder->self);
	builder->magic = 0;
	free(builder);
	kata__context_leave(ctx, KATA__OBJECT_BUILDER);
}

void *kata__vm_builder_self(const kata_vm_builder *builder, const kata_vm_builder_ops *ops)
{
	return builder && builder->given == ops ? builder->self : NULL;
}

kata_context *kata__vm_builder_context(const kata_vm_builder *builder)
{
	return builder->ctx;
}

static int check(const kata_vm_builder *builder, const void *out, const char *out_name, kata_error **err)
{
	if (!builder || builder->magic != BUILDER_MAGIC)
		return kata__fail(err, KATA_E_INVALID, CALLER, "builder: is %s",
				  builder ? "no builder, or was freed" : "NULL");
	if (!out)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", out_name);
	return 0;
}

int kata_vm_builder_build(kata_vm_builder *builder, const kata_vm_config *config, const kata_agent_config *agent_config,
			  const kata_qos_config *qos_config, kata_vm **ret_vm, kata_error **err)
{
	int rc = check(builder, ret_vm, "ret_vm", err);

	if (rc == 0 && !config)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "config: is NULL");
	return rc < 0 ? rc : builder->ops.build(builder->self, config, agent_config, qos_config, ret_vm, err);
}

int kata_vm_builder_build_from_snapshot(kata_vm_builder *builder, const kata_snapshot *snapshot,
					const kata_vm_config *config, const kata_agent_config *agent_config,
					const kata_qos_config *qos_config, const kata_restore_options *options,
					kata_vm **ret_vm, kata_error **err)
{
	kata_restore_options o = KATA_RESTORE_OPTIONS_INIT;
	int rc = check(builder, ret_vm, "ret_vm", err);

	if (rc == 0 && !snapshot)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "snapshot: is NULL");
	if (rc == 0)
		rc = kata__options_read(&o, sizeof(o), options, "options", err);
	return rc < 0 ? rc
		      : builder->ops.build_from_snapshot(builder->self, snapshot, config, agent_config, qos_config, &o,
							 ret_vm, err);
}

int kata_vm_builder_build_from_released_begin(kata_vm_builder *builder, const char *json, size_t length,
					      const kata_op_options *options, kata_vm **ret_vm, kata_op **ret_op,
					      kata_error **err)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	int rc = check(builder, ret_vm, "ret_vm", err);

	if (rc == 0 && (!json || !ret_op))
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", json ? "ret_op" : "json");
	if (rc == 0)
		rc = kata__options_read(&o, sizeof(o), options, "options", err);
	return rc < 0 ? rc
		      : builder->ops.build_from_released(builder->self, json, length, options, ret_vm, ret_op, err);
}

int kata_vm_builder_build_from_released(kata_vm_builder *builder, const char *json, size_t length,
					const kata_op_options *options, kata_vm **ret_vm, kata_error **err)
{
	kata_vm *vm = NULL;
	kata_op *op = NULL;
	int rc = check(builder, ret_vm, "ret_vm", err);

	if (rc == 0)
		rc = kata__context_check_may_block(builder->ctx, "kata_vm_builder_build_from_released", err);
	if (rc == 0)
		rc = kata_vm_builder_build_from_released_begin(builder, json, length, options, &vm, &op, err);
	rc = kata__op_finish_sync(rc, &op, err);
	if (rc < 0) {
		kata_vm_unref(vm);
		return rc;
	}
	*ret_vm = vm;
	return 0;
}

int kata_vm_builder_get_capabilities(kata_vm_builder *builder, kata_capabilities *ret_capabilities, kata_error **err)
{
	kata_capabilities c = {.size = sizeof(c)};
	int rc = check(builder, ret_capabilities, "ret_capabilities", err);

	if (rc == 0)
		rc = kata__options_check_ret(ret_capabilities, "ret_capabilities", err);
	if (rc == 0)
		rc = builder->ops.get_capabilities(builder->self, &c, err);
	if (rc == 0)
		kata__options_write(ret_capabilities, &c, sizeof(c));
	return rc;
}
