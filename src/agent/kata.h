/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_AGENT_KATA_H
#define KATA_AGENT_KATA_H
/* The Kata 3.x agent protocol as an implementation of kata_agent_ops: requests to messages, messages to replies.
 * [leader] */
#include "agent/agent.h"
#include "agent/kata_messages.h"
#include "agent/ttrpc_client.h"

struct kata__kata;

extern const kata_agent_ops kata__kata_ops;

/* What kata__kata_ops is called with. `vm`: NULL, or whose agent channel it is: that is given back by the free. */
int kata__kata_new(kata_vm *vm, struct kata__kata **ret, kata_error **err);
/* Hands over the connection; the loss of it is told to `agent`, which owns the object by then. */
void kata__kata_attach(struct kata__kata *kata, kata_agent *agent, struct kata__ttrpc_client *take_client,
		       bool has_guest_service);
/* As the ops' free; NULL is fine. */
void kata__kata_free(struct kata__kata *kata);

/* What a successor starts with: hostile input. NULL: from 1. CORRUPT, VERSION. */
int kata__kata_read_released(const char *json, uint32_t *ret_first_id, kata_error **err);
#endif
