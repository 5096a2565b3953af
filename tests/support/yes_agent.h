/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_YES_AGENT_H
#define KATA_TESTS_SUPPORT_YES_AGENT_H
/* An agent in this process that says yes to every call: for a VMM whose guest does not run. */
#include <kata/kata.h>

/* Freed with kata_agent_builder_free. */
int yes_agent_builder_new(kata_context *context, kata_agent_builder **ret_builder, kata_error **err);
#endif
