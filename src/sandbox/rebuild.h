/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_REBUILD_H
#define KATA_SANDBOX_REBUILD_H
/* A sandbox from its record: the machine that runs already is taken over. */
#include "sandbox/sandbox.h"

/* A new object in OBTAINING, with the hostname and DNS lines of the record; vm NULL: set later. */
int kata__sandbox_new_from_record(kata_context *ctx, const char *id, const struct kata_record *record, kata_vm *vm,
				  kata_sandbox **ret, kata_error **err);
/* Blocking. Takes the record (on failure too). The sandbox's epoch becomes `epoch`. agent_builder NULL: direct. */
int kata__sandbox_rebuild(kata_context *ctx, struct kata_record *take_record, uint64_t epoch,
			  kata_vm_builder *vm_builder, kata_agent_builder *agent_builder,
			  const kata_op_options *options, kata_sandbox **ret_sandbox, kata_error **err);
#endif
