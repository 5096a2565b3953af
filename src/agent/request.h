/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_AGENT_REQUEST_H
#define KATA_AGENT_REQUEST_H
/* Requests of calls: what each method needs, and deep copies. Any thread. */
#include <kata/agent.h>

/* INVALID, naming the member ("request.container_id"), where the method lacks what it needs or has it in a wrong form.
 */
int kata__agent_request_check(const kata_agent_request *request, kata_error **err);

/*
 * Copies all that a checked request points to into `memory`, which must be aligned as malloc does, and points *ret into
 * it. Returns the bytes it takes; with memory NULL it only counts them, and ret is not used.
 */
size_t kata__agent_request_copy(const kata_agent_request *request, void *memory, kata_agent_request *ret);

/* INVALID, naming the member of `what` ("routes[0]"). */
int kata__agent_check_route(const char *what, const kata_agent_route *route, kata_error **err);

/* "10.0.0.2/24" or "fd00::1/64". False when it is neither; the parts are set otherwise. is_v6 and prefix may not be
 * NULL. */
bool kata__agent_parse_prefix(const char *text, char address[46], unsigned *prefix, bool *is_v6);
#endif
