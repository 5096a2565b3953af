/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sandbox on disk and back: the snapshot of its VM with the sandbox's record as one more part, "x-sandbox".
 *
 * A machine is saved without an agent connection, since the guest's end of one would be saved with it: it is let go of
 * as for a release, and made anew. The record is that of a released sandbox; what names the old machine in it (VM,
 * pids, owner) is of no use to who restores it.
 */
#include <kata/snapshot.h>

#include <string.h>

#include "agent/agent.h"
#include "base/text.h"
#include "sandbox/container.h"
#include "sandbox/life.h"
#include "sandbox/record.h"
#include "sandbox/save.h"
#include "vm/save.h"

#define IN(s) KATA__IN(KATA_SANDBOX_##s)
#define SAVE_MS 45000u /* beside the copying, which the VM's own default allows for */

/* What the public begin got; owned. */
struct kata__sandbox_save {
	char *path;
	kata_snapshot_options options;
	kata_snapshot_disk_choice *disks; /* with copies of the ids */
};

static struct kata__life_op *life(const kata_op *op)
{
	return kata__op_data(op);
}

/* ---- save: the request */

static void save_free(struct kata__sandbox_save *save)
{
	if (!save)
		return;
	for (size_t i = 0; save->disks && i < save->options.disk_count; i++)
		free((char *)save->disks[i].storage_id);
	free(save->disks);
	free(save->path);
	free(save);
}

static void op_free(void *data)
{
	save_free(((struct kata__life_op *)data)->save);
	kata__life_op_free(data);
}

static bool copy_disks(struct kata__sandbox_save *save, const kata_snapshot_options *o)
{
	save->disks = calloc(o->disk_count + 1, sizeof(*save->disks));
	for (size_t i = 0; save->disks && i < o->disk_count; i++) {
		save->disks[i] = o->disks[i];
		save->disks[i].storage_id = kata__strdup(o->disks[i].storage_id);
		if (!save->disks[i].storage_id)
			return false;
	}
	save->options.disks = save->disks;
	return save->disks;
}

static int save_new(const char *path, const kata_snapshot_options *options, struct kata__sandbox_save **ret,
		    kata_error **err)
{
	kata_snapshot_options o = KATA_SNAPSHOT_OPTIONS_INIT;
	struct kata__sandbox_save *save;
	int rc = kata__save_read_request(path, options, &o, err);

	if (rc < 0)
		return rc;
	save = calloc(1, sizeof(*save));
	if (!save)
		return kata__fail_no_memory(err);
	save->options = o;
	save->path = kata__strdup(path);
	if (!save->path || !copy_disks(save, &o)) {
		save_free(save);
		return kata__fail_no_memory(err);
	}
	*ret = save;
	return 0;
}

/* ---- save: the steps */

/* What continues the agent is the record's, and the sandbox's until it is connected again. */
static void remember_agent(kata_sandbox *s, struct kata__life_op *l)
{
	if (!l->agent_json)
		return;
	pthread_mutex_lock(&s->mutex);
	free(s->agent_json);
	s->agent_json = kata__strdup(l->agent_json);
	pthread_mutex_unlock(&s->mutex);
}

static int record_text(kata_sandbox *s, char **ret, kata_error **err)
{
	struct kata_record *record = NULL;
	int rc = kata__sandbox_to_record(s, &record, err);

	if (rc == 0)
		rc = kata__record_to_json_text(record, ret, err);
	kata__record_free(record);
	return rc;
}

/* What cannot be connected again is not let go of. A direct one of the caller's is as good as one of ours. */
static int step_release_agent(kata_op *op, kata_error **err)
{
	kata_sandbox *s = kata__sandbox_of(op);

	if (s->custom_agent && s->agent && !kata__agent_is_direct(s->agent))
		return kata__fail(err, KATA_E_UNSUPPORTED, CALLER,
				  "sandbox '%s': its agent was made by a builder of the caller's, so it could not be "
				  "connected again after the save",
				  s->id);
	return kata__life_step_release_agent(op, err);
}

static int step_save_vm(kata_op *op, kata_error **err)
{
	kata_op_options options = kata__sandbox_child_options(op);
	struct kata__life_op *l = life(op);
	KATA_AUTO(free) char *text = NULL;
	kata_sandbox *s = l->base.sandbox;
	kata_op *child = NULL;
	int rc;

	remember_agent(s, l);
	rc = record_text(s, &text, err);
	if (rc == 0)
		rc = kata__vm_snapshot_begin(s->vm, l->save->path, &l->save->options, KATA__SANDBOX_PART, text,
					     &options, &child, err);
	return kata__sandbox_run_child(op, rc, child, err);
}

/* All or nothing: what a caller was told has failed is not there. */
static int step_unsave_vm(kata_op *op, kata_error **err)
{
	return kata_snapshot_delete(kata__op_context(op), life(op)->save->path, err);
}

/* A machine whose RAM has become the snapshot's does not run on. As an undo: a failure behind the step has it already.
 */
static int step_reconnect_agent(kata_op *op, kata_error **err)
{
	struct kata__life_op *l = life(op);

	if (!l->connected || l->agent || kata_vm_get_state(l->base.sandbox->vm) != KATA_VM_RUNNING)
		return KATA__STEP_DONE;
	return kata__life_connect(op, l->agent_json, err);
}

static void finish_save(kata_op *op, int status, kata_error **error)
{
	struct kata__life_op *l = life(op);
	kata_sandbox *s = l->base.sandbox;
	kata_vm_state state = kata_vm_get_state(s->vm);

	kata__life_adopt_agent(op);
	kata__sandbox_move_state(s, KATA_SANDBOX_SAVING,
				 state == KATA_VM_RUNNING ? l->base.before : KATA_SANDBOX_PAUSED);
	if (state == KATA_VM_ENDED)
		kata__sandbox_ended(s);
	else if (s->agent)
		kata__containers_resume(s, l->connected);
	if (s->agent && kata_agent_get_state(s->agent) == KATA_AGENT_RELEASED)
		kata__sandbox_set_agent(s, NULL); /* connected when the sandbox is resumed */
	kata__sandbox_op_end(op, status);
}

static const struct kata__step save_steps[] = {
	{.name = "suspend-calls", .run = kata__life_step_suspend_calls, .undo = kata__life_step_unsuspend_calls},
	{.name = "release-agent", .run = step_release_agent, .undo = step_reconnect_agent},
	{.name = "save-vm", .run = step_save_vm, .undo = step_unsave_vm, .flags = KATA__STEP_UNDO_BLOCKING},
	{.name = "reconnect-agent", .run = step_reconnect_agent},
};
static const struct kata__op_table save_table = {
	.name = "save-sandbox",
	KATA__STEPS(save_steps),
	.timeout_ms = SAVE_MS,
	.undo_timeout_ms = 15000,
	.finish = finish_save,
	.free_data = op_free,
};

int kata_sandbox_save_begin(kata_sandbox *sandbox, const char *path, const kata_snapshot_options *options,
			    const kata_op_options *op_options, kata_op **ret_op, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_save", IN(RUNNING) | IN(PAUSED),
							 KATA_SANDBOX_SAVING, 0};
	struct kata__sandbox_save *save = NULL;
	struct kata__life_op *l;
	int rc = kata__sandbox_check(sandbox, err);

	if (rc == 0)
		rc = save_new(path, options, &save, err);
	if (rc < 0)
		return rc;
	l = calloc(1, sizeof(*l));
	if (!l) {
		save_free(save);
		return kata__fail_no_memory(err);
	}
	l->save = save;
	return kata__sandbox_begin(sandbox, &entry, &save_table, l, op_options, ret_op, err);
}

int kata_sandbox_save(kata_sandbox *sandbox, const char *path, const kata_snapshot_options *options,
		      const kata_op_options *op_options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_save", err);

	if (rc == 0)
		rc = kata_sandbox_save_begin(sandbox, path, options, op_options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}
