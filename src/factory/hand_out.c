/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hand_out.c - a ready machine becomes a caller's VM.
 *
 * It is let run, asked to make itself its own (entropy, clock, hostname, machine-id; its UUID it has since its boot),
 * and paused again; then it gets its name, and last its mark goes and it is CREATED. One whose guest is not there yet
 * gets the name alone. Nothing but the name is undone: who began the operation ends the machine when it fails.
 */
#include <stdio.h>

#include "agent/agent.h"
#include "base/text.h"
#include "factory/identity.h"
#include "factory/pool.h"
#include "vm/warm.h"

#define PROBE_MS 1000u
#define EMULATED_SCALE 5u
#define CHILD_MARGIN_MS 1000u /* so that the whole's deadline is the one that ends it */

struct hand_out {
	kata_vm *vm;       /* referenced */
	kata_agent *agent; /* referenced */
	char *id;          /* NULL: keeps its own */
	char *old_id;
	kata_op *asked; /* referenced: the reset of its identity */
};

static struct hand_out *hand_out_of(const kata_op *op)
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

/* ---- it is well, and itself ---- */

/* The question is sent while the guest is stopped: it finds it when it wakes up. */
static int step_ask(kata_op *op, kata_error **err)
{
	struct hand_out *h = hand_out_of(op);
	struct kata__identity_options who = {.agent = h->agent, .hostname = h->id, .own = KATA__OWN_FROM_THE_START};
	kata_op_options options = child_options(op);

	return kata__identity_reset_begin(h->vm, &who, &options, &h->asked, err);
}

static int forget_question(kata_op *op, kata_error **err)
{
	kata_op_cancel(hand_out_of(op)->asked); /* NULL: it was answered */
	return KATA__STEP_DONE;
}

static int step_resume(kata_op *op, kata_error **err)
{
	kata_op_options options = child_options(op);
	kata_op *child = NULL;
	int rc = kata_vm_resume_begin(hand_out_of(op)->vm, &options, &child, err);

	return run_child(op, rc, child, err);
}

static int step_answer(kata_op *op, kata_error **err)
{
	return kata__op_run_child(op, kata__take_ptr(hand_out_of(op)->asked), err);
}

/* One of the caller's own kind that cannot be released is closed when its last reference goes, the pool's. */
static int step_release_agent(kata_op *op, kata_error **err)
{
	kata_error *error = NULL;
	char *json = NULL;
	int rc = kata_agent_release(hand_out_of(op)->agent, &json, &error);

	free(json);
	if (rc != KATA_E_UNSUPPORTED)
		return rc < 0 ? kata__error_move(err, &error) : KATA__STEP_DONE;
	kata_error_free(error);
	return KATA__STEP_DONE;
}

static int step_pause(kata_op *op, kata_error **err)
{
	kata_op_options options = child_options(op);
	kata_op *child = NULL;
	int rc = kata_vm_pause_begin(hand_out_of(op)->vm, &options, &child, err);

	return run_child(op, rc, child, err);
}

/* ---- it is the caller's ---- */

static int step_claim_id(kata_op *op, kata_error **err)
{
	struct hand_out *h = hand_out_of(op);

	return h->id ? kata__vm_claim_id(h->vm, h->id, err) : KATA__STEP_DONE;
}

/* So that the next machine can have the id while this one is being ended. Whether it was moved or not. */
static int give_id_back(kata_op *op, kata_error **err)
{
	struct hand_out *h = hand_out_of(op);
	int rc = h->id ? kata__vm_claim_id(h->vm, h->old_id, err) : 0;

	return rc < 0 ? rc : kata__vm_move(h->vm, err);
}

static int step_move(kata_op *op, kata_error **err)
{
	return kata__vm_move(hand_out_of(op)->vm, err);
}

static int step_unmark(kata_op *op, kata_error **err)
{
	return kata__vm_unmark_pooled(hand_out_of(op)->vm, err);
}

static int step_stock(kata_op *op, kata_error **err)
{
	kata_vm *vm = hand_out_of(op)->vm;

	return kata__vm_stock(vm, kata__vm_is_prestarted(vm) ? KATA_VM_PRESTARTED : KATA_VM_WARM, err);
}

/* What the hand-out cost, step by step: for who wonders what bounds it. */
static void finish_hand_out(kata_op *op, int status, kata_error **error)
{
	const struct hand_out *h = hand_out_of(op);
	size_t count = kata_op_get_timeline_length(op), at = 0;
	kata_timeline_entry e = {.size = sizeof(e)};
	char text[512] = "";

	for (size_t i = 0; i < count && at < sizeof(text) - 64; i++)
		if (kata_op_get_timeline_entry(op, i, &e, NULL) == 0)
			at += (size_t)snprintf(text + at, sizeof(text) - at, " %s %llu", e.step,
					       (unsigned long long)(e.end_ns - e.start_ns) / 1000);
	kata__log(kata__op_context(op), KATA_LOG_DEBUG, "factory", "vm %s: handed out, in us:%s",
		  h->id ? h->id : h->old_id, text);
}

static void free_hand_out(void *data)
{
	struct hand_out *h = data;

	kata_op_unref(h->asked);
	kata_agent_unref(h->agent);
	kata_vm_unref(h->vm);
	free(h->id);
	free(h->old_id);
	free(h);
}

static const struct kata__step steps[] = {
	{.name = "ask", .run = step_ask, .undo = forget_question},
	{.name = "resume", .run = step_resume},
	{.name = "answer", .run = step_answer},
	{.name = "release-agent", .run = step_release_agent},
	{.name = "pause", .run = step_pause},
	{.name = "claim-id", .run = step_claim_id, .undo = give_id_back},
	{.name = "move", .run = step_move},
	{.name = "unmark", .run = step_unmark},
	{.name = "stock", .run = step_stock},
};
/* Of those that go to another process: there it gets its name, and there it is laid up. Until then it stays marked. */
static const struct kata__step transfer_steps[] = {
	{.name = "ask", .run = step_ask, .undo = forget_question},
	{.name = "resume", .run = step_resume},
	{.name = "answer", .run = step_answer},
	{.name = "release-agent", .run = step_release_agent},
	{.name = "pause", .run = step_pause},
};
static const struct kata__step prestarted_steps[] = {
	{.name = "claim-id", .run = step_claim_id, .undo = give_id_back},
	{.name = "move", .run = step_move},
	{.name = "unmark", .run = step_unmark},
	{.name = "stock", .run = step_stock},
};
const struct kata__op_table kata__hand_out_prestarted_table = {
	.name = "hand-out-prestarted",
	KATA__STEPS(prestarted_steps),
	.timeout_ms = PROBE_MS,
	.finish = finish_hand_out,
	.free_data = free_hand_out,
};
const struct kata__op_table kata__transfer_table = {
	.name = "hand-out-transfer",
	KATA__STEPS(transfer_steps),
	.timeout_ms = PROBE_MS,
	.finish = finish_hand_out,
	.free_data = free_hand_out,
};
const struct kata__op_table kata__hand_out_table = {
	.name = "hand-out",
	KATA__STEPS(steps),
	.timeout_ms = PROBE_MS,
	.finish = finish_hand_out,
	.free_data = free_hand_out,
};

static struct hand_out *new_data(kata_vm *vm, kata_agent *agent, const char *id)
{
	struct hand_out *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->vm = kata_vm_ref(vm);
	h->agent = kata_agent_ref(agent);
	h->id = kata__strdup(id);
	h->old_id = kata__strdup(kata_vm_get_id(vm));
	if (h->old_id && (h->id || !id))
		return h;
	free_hand_out(h);
	return NULL;
}

int kata__hand_out_new(struct kata__pool *pool, kata_vm *vm, kata_agent *agent, const char *id, bool transfer,
		       kata_op **ret_op, kata_error **err)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	struct hand_out *h = new_data(vm, agent, id);

	if (!h)
		return kata__fail_no_memory(err);
	options.timeout_ms = pool->probe_ms;
	return kata__op_new(pool->ctx,
			    transfer ? &kata__transfer_table
			    : agent  ? &kata__hand_out_table
				     : &kata__hand_out_prestarted_table,
			    h, &options, vm->time_scale > 1 ? EMULATED_SCALE : 1, ret_op, err);
}
