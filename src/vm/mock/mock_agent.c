/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mock_agent.c - the connection of the simulated agent: frames in, calls, answers out.
 *
 * A call is tried as soon as it is there. What cannot be answered yet (a read without data, a wait) stays in the list
 * and is tried again after every change, oldest first. Invariant: a call is in the list exactly while it is parked or
 * held by the host.
 */
#include "vm/mock/mock_agent.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "proto/message.h"
#include "vm/mock/mock_call.h"

#define OUTPUT_MAX (16u << 20)

int kata__mock_agent_new(const struct kata__mock_host *host, void *user, struct kata__mock_agent **ret,
			 kata_error **err)
{
	struct kata__mock_agent *a = calloc(1, sizeof(*a));

	if (!a)
		return kata__fail_no_memory(err);
	a->host = *host;
	a->user = user;
	a->reader.is_server = true;
	a->born_ns = kata__now_ns();
	kata__buffer_init(&a->in, KATA__TTRPC_FRAME_MAX + 65536u);
	kata__buffer_init(&a->out, OUTPUT_MAX);
	kata__uuid_generate(a->boot_id);
	*ret = a;
	return 0;
}

void kata__mock_agent_free(struct kata__mock_agent *a)
{
	if (!a)
		return;
	kata__mock_agent_reset(a);
	kata__mock_guest_deinit(&a->guest);
	kata__buffer_deinit(&a->in);
	kata__buffer_deinit(&a->out);
	free(a);
}

struct kata__buffer *kata__mock_agent_output(struct kata__mock_agent *a)
{
	return &a->out;
}

/* ---- calls */

static void list_add(struct kata__mock_call *call)
{
	struct kata__mock_call **at = &call->agent->calls;

	if (call->in_list)
		return;
	while (*at)
		at = &(*at)->next;
	*at = call;
	call->next = NULL;
	call->in_list = true;
}

static void list_remove(struct kata__mock_call *call)
{
	struct kata__mock_call **at = &call->agent->calls;

	if (!call->in_list)
		return;
	while (*at != call)
		at = &(*at)->next;
	*at = call->next;
	call->in_list = false;
}

static void free_call(struct kata__mock_call *call)
{
	list_remove(call);
	kata__proto_free(call->request);
	free(call);
}

static void reply(struct kata__mock_call *call, const struct kata__ttrpc_reply *r)
{
	struct kata__mock_agent *a = call->agent;

	if (kata__ttrpc_append_response(&a->out, call->stream_id, r, NULL) < 0)
		a->broken = true;
	free_call(call);
}

void kata__mock_call_answer(struct kata__mock_call *call, const ProtobufCMessage *response)
{
	reply(call, &(struct kata__ttrpc_reply){.code = KATA__GRPC_OK, .message = response});
}

void kata__mock_call_fail(struct kata__mock_call *call, int32_t grpc_code, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	reply(call, &(struct kata__ttrpc_reply){.code = grpc_code, .text = text});
}

void kata__mock_call_drop(struct kata__mock_call *call)
{
	free_call(call);
}

void kata__mock_call_take(struct kata__mock_call *call, void (*forget)(void *user), void *user)
{
	call->forget = forget;
	call->forget_user = user;
	list_add(call);
}

void kata__mock_call_run(struct kata__mock_call *call)
{
	struct kata__mock_agent *a = call->agent;

	call->forget = NULL;
	if (!kata__mock_method_try(a, call))
		list_add(call);
	kata__mock_agent_changed(a);
}

const char *kata__mock_call_method(const struct kata__mock_call *call)
{
	return call->method < 0 ? "" : kata__methods[call->method].name;
}

bool kata__mock_call_is_waiting(const struct kata__mock_call *call)
{
	return call->method == KATA__AGENT_READ_STDOUT || call->method == KATA__AGENT_READ_STDERR ||
	       call->method == KATA__AGENT_WAIT_PROCESS || call->method == KATA__AGENT_GET_OOM_EVENT;
}

uint32_t kata__mock_call_get_stream_id(const struct kata__mock_call *call)
{
	return call->stream_id;
}

void kata__mock_call_set_stream_id(struct kata__mock_call *call, uint32_t stream_id)
{
	call->stream_id = stream_id;
}

/* ---- requests */

static struct kata__mock_call *new_call(struct kata__mock_agent *a, uint32_t stream_id)
{
	struct kata__mock_call *call = calloc(1, sizeof(*call));

	if (!call) {
		a->broken = true;
		return NULL;
	}
	call->agent = a;
	call->stream_id = stream_id;
	call->deadline_ns = KATA__NEVER;
	call->await_deadline_ns = KATA__NEVER;
	return call;
}

static void refuse_unknown(struct kata__mock_call *call, const struct kata__ttrpc_request *r)
{
	int service = (int)(r->service.length < 100 ? r->service.length : 100);
	int method = (int)(r->method.length < 100 ? r->method.length : 100);

	if (kata__service_is_known((const char *)r->service.data, r->service.length))
		kata__mock_call_fail(call, KATA__GRPC_UNIMPLEMENTED, "method %.*s", method,
				     method ? (const char *)r->method.data : "");
	else
		kata__mock_call_fail(call, KATA__GRPC_UNIMPLEMENTED, "service %.*s", service,
				     service ? (const char *)r->service.data : "");
}

static void run_request(struct kata__mock_agent *a, struct kata__mock_call *call, const struct kata__ttrpc_request *r)
{
	call->method = kata__method_find((const char *)r->service.data, r->service.length, (const char *)r->method.data,
					 r->method.length);
	if (r->timeout_ns && r->timeout_ns < INT64_MAX)
		call->deadline_ns = kata__now_ns() + r->timeout_ns;
	if (call->method < 0) {
		refuse_unknown(call, r);
		return;
	}
	if (kata__proto_unpack(kata__methods[call->method].request, r->payload.data, r->payload.length, &call->request,
			       NULL) < 0) {
		kata__mock_call_fail(call, KATA__GRPC_INTERNAL, "the payload is no %s",
				     kata__methods[call->method].request->short_name);
		return;
	}
	if (a->host.intercept && a->host.intercept(a->user, call))
		return;
	if (!kata__mock_method_try(a, call))
		list_add(call);
}

static int run_frame(struct kata__mock_agent *a, const struct kata__ttrpc_frame *frame, kata_error **err)
{
	struct kata__ttrpc_request r;
	struct kata__mock_call *call;
	int rc = kata__ttrpc_read_request(frame, &r, err);

	if (rc < 0)
		return rc;
	if (!a->session_seen) {
		a->session_seen = true;
		a->sessions++;
	}
	call = new_call(a, frame->stream_id);
	if (call)
		run_request(a, call, &r);
	return 0;
}

int kata__mock_agent_input(struct kata__mock_agent *a, const void *data, size_t length, kata_error **err)
{
	struct kata__ttrpc_frame frame;
	int rc = kata__buffer_append(&a->in, data, length);

	if (rc < 0)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "the agent's input buffer is full");
	while ((rc = kata__ttrpc_next(&a->reader, &a->in, &frame, err)) > 0) {
		rc = run_frame(a, &frame, err);
		if (rc < 0)
			return rc;
		kata__ttrpc_consume(&a->in, &frame);
	}
	if (rc < 0)
		return rc;
	kata__mock_agent_changed(a);
	if (a->broken)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER,
				  "the agent's answers do not fit into its output buffer");
	return 0;
}

void kata__mock_agent_reset(struct kata__mock_agent *a)
{
	while (a->calls) {
		struct kata__mock_call *call = a->calls;

		if (call->forget)
			call->forget(call->forget_user);
		free_call(call);
	}
	kata__buffer_consume(&a->in, kata__buffer_len(&a->in));
	kata__buffer_consume(&a->out, kata__buffer_len(&a->out));
	a->reader = (struct kata__ttrpc_reader){.is_server = true};
	a->broken = false;
	a->session_seen = false;
}

/* True when a call was answered, so that others may have become possible. */
static bool try_parked(struct kata__mock_agent *a, uint64_t now_ns)
{
	bool any = false;

	for (struct kata__mock_call *call = a->calls, *next; call; call = next) {
		next = call->next;
		if (call->forget || kata__buffer_len(&a->out) > KATA__MOCK_AGENT_BACKLOG)
			continue;
		if (now_ns >= call->deadline_ns) {
			kata__mock_call_fail(call, KATA__GRPC_DEADLINE_EXCEEDED, "timeout");
			any = true;
		} else if (kata__mock_method_try(a, call)) {
			any = true;
		}
	}
	return any;
}

static bool is_there(void *user, const char *kind, const char *address)
{
	const struct kata__mock_agent *a = user;
	char name[32];
	uint64_t size;

	return a->host.find_device(a->user, kind, address, name, &size);
}

void kata__mock_agent_changed(struct kata__mock_agent *a)
{
	uint64_t now_ns = kata__now_ns();

	kata__mock_guest_lose_mounts(&a->guest, is_there, a);
	do
		kata__mock_guest_run(&a->guest, now_ns);
	while (a->calls && try_parked(a, now_ns));
}

uint64_t kata__mock_agent_deadline(const struct kata__mock_agent *a)
{
	uint64_t first = kata__mock_guest_deadline(&a->guest);

	for (const struct kata__mock_call *call = a->calls; call; call = call->next) {
		if (call->forget)
			continue;
		first = call->deadline_ns < first ? call->deadline_ns : first;
		first = call->await_deadline_ns < first ? call->await_deadline_ns : first;
	}
	return first;
}
