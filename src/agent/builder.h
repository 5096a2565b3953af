/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_AGENT_BUILDER_H
#define KATA_AGENT_BUILDER_H
/* The direct way to an agent: connect.c, as builder.c calls it. */
#include <kata/driver/agent.h>

/* As kata_agent_builder_build_begin, for VM channels that speak the Kata protocol themselves. [any thread] */
int kata__connect_begin(kata_context *ctx, kata_vm *vm, const char *released_json, const kata_op_options *options,
			kata_agent **ret_agent, kata_op **ret_op, kata_error **err);
#endif
