/* SPDX-License-Identifier: Apache-2.0 */
/*
 * identity.c - see identity.h.
 *
 * Where the connection is ours, the request goes along with the handshake: in a machine that was just loaded every
 * round trip costs milliseconds. An agent of another kind, or without the service (which may say no in any way it
 * likes), is asked once more when connected.
 */
#include "factory/identity.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "agent/agent.h"
#include "agent/builder.h"
#include "base/text.h"
#include "vm/warm.h"

#define WHOLE_MS 5000u
#define EMULATED_SCALE 5u
#define CHILD_MARGIN_MS 1000u /* so that the whole's deadline is the one that ends it */
#define ENTROPY_BYTES 64u     /* twice what the guest kernel's generator holds */
/* A request takes as long as the guest takes to come to: up to 30 ms under TCG, more on a busy host. Beyond this the
 * clock is set once more, which then takes a millisecond. */
#define LATE_US 250000

struct identity {
	kata_vm *vm; /* referenced */
	kata_agent_builder *agents;
	kata_agent *agent; /* referenced */
	bool is_ours;      /* the connection */
	uint64_t own;

	uint8_t entropy[ENTROPY_BYTES];
	char hostname[65], machine_id[33];
	kata_agent_mac *macs; /* one allocation with their texts */
	size_t mac_count;

	bool is_answered;
	kata_error *refused; /* why the first try was not */
	kata_op *call;       /* the second; referenced */
	uint64_t done;
	int64_t seconds, microseconds;
};

static struct identity *identity_of(const kata_op *op)
{
	return kata__op_data(op);
}

static kata_op_options child_options(const kata_op *op)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	int left_ms = kata__deadline_left_ms(kata__op_deadline(op));

	if (left_ms >= 0)
		options.timeout_ms = (uint64_t)left_ms + CHILD_MARGIN_MS;
	return options;
}

static int run_child(kata_op *op, int rc, kata_op *child, kata_error **err)
{
	return rc < 0 ? rc : kata__op_run_child(op, child, err);
}

static void set_now(kata_agent_request *request)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	request->seconds = now.tv_sec;
	request->microseconds = now.tv_nsec / 1000;
}

static kata_agent_request make_request(const struct identity *d)
{
	kata_agent_request request = {.size = sizeof(request),
				      .method = KATA_AGENT_RESET_IDENTITY,
				      .data = d->entropy,
				      .data_length = sizeof(d->entropy),
				      .hostname = d->hostname,
				      .machine_id = d->machine_id,
				      .macs = d->macs,
				      .mac_count = d->mac_count};

	set_now(&request);
	return request;
}

/* ---- steps ---- */

static void take_reply(struct identity *d, const kata_agent_reply *reply)
{
	d->is_answered = true;
	d->done = reply->reset;
	d->seconds = reply->seconds;
	d->microseconds = reply->microseconds;
}

static void on_first(void *user, const kata_agent_reply *reply, kata_error *take_err)
{
	struct identity *d = user;

	if (reply)
		take_reply(d, reply);
	else
		d->refused = take_err;
}

static int step_connect(kata_op *op, kata_error **err)
{
	struct identity *d = identity_of(op);
	kata_agent_request request = make_request(d);
	struct kata__connect_first first = {.request = &request, .fn = on_first, .user = d};
	kata_op_options options = child_options(op);
	kata_op *child = NULL;
	int rc;

	if (d->agent)
		return KATA__STEP_DONE;
	d->is_ours = true;
	rc = kata__agent_builder_connect(d->agents, d->vm, &first, &options, &d->agent, &child, err);
	return run_child(op, rc, child, err);
}

static int undo_connect(kata_op *op, kata_error **err)
{
	struct identity *d = identity_of(op);

	(void)err;
	kata_op_unref(kata__take_ptr(d->call));
	if (d->is_ours)
		kata_agent_unref(kata__take_ptr(d->agent));
	return KATA__STEP_DONE;
}

static int step_reset(kata_op *op, kata_error **err)
{
	struct identity *d = identity_of(op);
	kata_agent_request request;
	kata_op_options options;
	kata_op *child = NULL;
	int rc;

	if (d->is_answered)
		return KATA__STEP_DONE;
	if (d->refused && kata_agent_has_guest_service(d->agent))
		return kata__error_move(err, &d->refused);
	request = make_request(d);
	options = child_options(op);
	rc = kata_agent_call_begin(d->agent, &request, &options, &child, err);
	d->call = kata_op_ref(child);
	return run_child(op, rc, child, err);
}

static int check_done(const struct identity *d, kata_error **err)
{
	if (!d->mac_count || d->done & KATA_RESET_MACS)
		return 0;
	return kata__fail(err, KATA_E_UNSUPPORTED, GUEST,
			  "vm '%s': its agent cannot tell the guest that %zu of its MACs are others now: keep them as "
			  "they were saved, or use an agent with the service kata.Guest",
			  kata_vm_get_id(d->vm), d->mac_count);
}

static int64_t late_us(const struct identity *d)
{
	kata_agent_request now = {0};

	set_now(&now);
	return (now.seconds - d->seconds) * 1000000 + now.microseconds - d->microseconds;
}

static int step_set_clock(kata_op *op, kata_error **err)
{
	struct identity *d = identity_of(op);
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_SET_TIME};
	kata_op_options options = child_options(op);
	kata_op *child = NULL;
	int rc;

	if (d->call)
		take_reply(d, kata_agent_op_get_reply(d->call));
	kata_op_unref(kata__take_ptr(d->call)); /* it holds the agent */
	rc = check_done(d, err);
	if (rc < 0 || !d->seconds || late_us(d) < LATE_US)
		return rc;
	set_now(&request);
	rc = kata_agent_call_begin(d->agent, &request, &options, &child, err);
	return run_child(op, rc, child, err);
}

static int step_release(kata_op *op, kata_error **err)
{
	return undo_connect(op, err);
}

static void finish_reset(kata_op *op, int status, kata_error **error)
{
	const struct identity *d = identity_of(op);

	(void)error;
	if (status == 0)
		kata__vm_set_identity_reset(d->vm, d->done | d->own);
}

static void free_identity(void *data)
{
	struct identity *d = data;

	explicit_bzero(d->entropy, sizeof(d->entropy));
	kata_error_free(d->refused);
	kata_op_unref(d->call);
	kata_agent_unref(d->agent);
	kata_vm_unref(d->vm);
	free(d->macs);
	free(d);
}

static const struct kata__step steps[] = {
	{.name = "connect-agent", .run = step_connect, .undo = undo_connect},
	{.name = "reset-identity", .run = step_reset},
	{.name = "set-clock", .run = step_set_clock},
	{.name = "release-agent", .run = step_release},
};
static const struct kata__op_table reset_table = {
	.name = "reset-identity",
	KATA__STEPS(steps),
	.timeout_ms = WHOLE_MS,
	.finish = finish_reset,
	.free_data = free_identity,
};

/* ---- begin ---- */

/* The list and its texts in one block. */
static int copy_macs(struct identity *d, const kata_agent_mac *macs, size_t count, kata_error **err)
{
	size_t size = count * sizeof(*macs);
	char *text;

	if (!count)
		return 0;
	for (size_t i = 0; i < count; i++)
		size += strlen(macs[i].pci_path) + strlen(macs[i].mac) + 2;
	d->macs = malloc(size);
	if (!d->macs)
		return kata__fail_no_memory(err);
	text = (char *)(d->macs + count);
	for (size_t i = 0; i < count; i++) {
		d->macs[i].pci_path = text;
		text = stpcpy(text, macs[i].pci_path) + 1;
		d->macs[i].mac = text;
		text = stpcpy(text, macs[i].mac) + 1;
	}
	d->mac_count = count;
	return 0;
}

static void machine_id_of(const char *uuid, char out[33])
{
	size_t n = 0;

	for (; *uuid && n < 32; uuid++)
		if (*uuid != '-')
			out[n++] = *uuid;
	out[n] = '\0';
}

static int fill(struct identity *d, const struct kata__identity_options *o, kata_error **err)
{
	const char *hostname = o->hostname ? o->hostname : kata_vm_get_id(d->vm);

	if (getrandom(d->entropy, sizeof(d->entropy), 0) != (ssize_t)sizeof(d->entropy))
		return kata__fail(err, KATA_E_IO, HOST, "the host has no random bytes for the guest");
	snprintf(d->hostname, sizeof(d->hostname), "%.64s", hostname);
	machine_id_of(kata_vm_get_uuid(d->vm), d->machine_id);
	d->agents = o->agents;
	d->agent = kata_agent_ref(o->agent);
	d->own = o->own;
	return copy_macs(d, o->macs, o->mac_count, err);
}

int kata__identity_reset_new(kata_vm *vm, const struct kata__identity_options *o, const kata_op_options *op_options,
			     kata_op **ret_op, kata_error **err)
{
	struct identity *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return kata__fail_no_memory(err);
	d->vm = kata_vm_ref(vm);
	rc = fill(d, o, err);
	if (rc < 0) {
		free_identity(d);
		return rc;
	}
	return kata__op_new(vm->ctx, &reset_table, d, op_options, vm->time_scale > 1 ? EMULATED_SCALE : 1, ret_op, err);
}

int kata__identity_reset_begin(kata_vm *vm, const struct kata__identity_options *o, const kata_op_options *op_options,
			       kata_op **ret_op, kata_error **err)
{
	int rc = kata__identity_reset_new(vm, o, op_options, ret_op, err);

	if (rc == 0)
		kata__op_begin(*ret_op);
	return rc;
}
