/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_DRIVER_VM_BUILDER_H
#define KATA_DRIVER_VM_BUILDER_H
/* For those who write a builder around builders (a template factory, a warm cache, a chooser): see kata_vm_builder_new.
 */
#include <kata/vm_builder.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Each op behaves as the public function of that name; arguments have been checked for NULL. Called from any thread. */
typedef struct kata_vm_builder_ops {
	size_t size;      /* sizeof(kata_vm_builder_ops) */
	const char *name; /* static */
	/* must */
	int (*build)(void *self, const kata_vm_config *config, const kata_agent_config *agent_config,
		     const kata_qos_config *qos_config, kata_vm **ret_vm, kata_error **err);
	/* may; NULL: UNSUPPORTED */
	int (*build_from_released)(void *self, const char *json, size_t length, const kata_op_options *options,
				   kata_vm **ret_vm, kata_op **ret_op, kata_error **err);
	/* must */
	int (*get_capabilities)(void *self, kata_capabilities *ret_capabilities, kata_error **err);
	/* must */
	void (*free)(void *self);
	/* may; NULL: UNSUPPORTED */
	int (*build_from_snapshot)(void *self, const kata_snapshot *snapshot, const kata_vm_config *config,
				   const kata_agent_config *agent_config, const kata_qos_config *qos_config,
				   const kata_restore_options *options, kata_vm **ret_vm, kata_error **err);
} kata_vm_builder_ops;

/* ops must stay valid; self is freed by ops->free (not when this fails). */
KATA_API int kata_vm_builder_new(kata_context *context, const kata_vm_builder_ops *ops, void *self,
				 kata_vm_builder **ret_builder, kata_error **err);

#ifdef __cplusplus
}
#endif
#endif
