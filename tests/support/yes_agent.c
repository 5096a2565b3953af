/* SPDX-License-Identifier: Apache-2.0 */
/* See yes_agent.h. The builder's self is its context. */
#include "support/yes_agent.h"

#include <kata/driver/agent.h>
#include <stdlib.h>
#include <string.h>

static void yes_call(void *self, const kata_agent_request *request, uint64_t timeout_ms, kata_agent_reply_fn fn,
		     void *user, uint64_t *ret_token)
{
	const kata_agent_reply reply = {.size = sizeof(reply)};

	*ret_token = 1;
	fn(user, &reply, NULL);
}

static void yes_cancel(void *self, uint64_t token)
{
}

static int yes_release(void *self, char **ret_json, kata_error **err)
{
	*ret_json = strdup("{}");
	return *ret_json ? 0 : KATA_E_NO_MEMORY;
}

static void yes_free(void *self)
{
}

static const kata_agent_ops agent_ops = {.size = sizeof(agent_ops),
					 .name = "yes",
					 .call = yes_call,
					 .cancel = yes_cancel,
					 .release = yes_release,
					 .free = yes_free};

static int yes_build(void *self, kata_vm *vm, const char *released_json, const kata_op_options *options,
		     kata_agent **ret_agent, kata_op **ret_op, kata_error **err)
{
	kata_agent_request check = {.size = sizeof(check), .method = KATA_AGENT_CHECK};
	int rc = kata_agent_new(self, vm, &agent_ops, NULL, ret_agent, err);

	return rc < 0 ? rc : kata_agent_call_begin(*ret_agent, &check, options, ret_op, err);
}

static const kata_agent_builder_ops builder_ops = {
	.size = sizeof(builder_ops), .name = "yes", .build = yes_build, .free = yes_free};

int yes_agent_builder_new(kata_context *context, kata_agent_builder **ret_builder, kata_error **err)
{
	return kata_agent_builder_new(context, &builder_ops, context, ret_builder, err);
}
