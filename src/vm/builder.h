/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_BUILDER_INTERNAL_H
#define KATA_VM_BUILDER_INTERNAL_H
/* The inside of kata_vm_builder: an ops table of the driver (or of the caller), and its self. */
#include <kata/driver/vm_builder.h>

/* The self that was given to kata_vm_builder_new with exactly these ops, or NULL: a downcast that checks. */
void *kata__vm_builder_self(const kata_vm_builder *builder, const kata_vm_builder_ops *ops);
kata_context *kata__vm_builder_context(const kata_vm_builder *builder);
#endif
