/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_AGENT_BUILDER_H
#define KATA_AGENT_BUILDER_H
/* The direct way to an agent: connect.c, as builder.c calls it. */
#include <kata/driver/agent.h>

/*
 * A call of ours (of kata.Guest) that is sent along with the handshake's Check, so that both cost one round trip: to a
 * machine that was just loaded from a saved state each costs milliseconds. Version and details are asked for only where
 * it was not answered well. fn: the answer, on the leader, before the connect ends; once at most, and
 * not at all where the connect fails, or is another agent's than ours. The request is copied; a time in it is replaced
 * by that of its sending.
 */
struct kata__connect_first {
	const kata_agent_request *request; /* checked */
	kata_agent_reply_fn fn;
	void *user;
};

/* As kata_agent_builder_build_begin, for VM channels that speak the Kata protocol themselves. first: NULL: none. [any
 * thread] */
int kata__connect_begin(kata_context *ctx, kata_vm *vm, const char *released_json,
			const struct kata__connect_first *first, const kata_op_options *options, kata_agent **ret_agent,
			kata_op **ret_op, kata_error **err);
/* The same by a builder; NULL: directly. */
int kata__agent_builder_connect(kata_agent_builder *builder, kata_vm *vm, const struct kata__connect_first *first,
				const kata_op_options *options, kata_agent **ret_agent, kata_op **ret_op,
				kata_error **err);
#endif
