/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking a sandbox over from its record: the VM, then its agent, then the table of containers. If a step fails the
 * machine is let go again, so that the same record can be tried once more.
 *
 * A machine that is paused cannot answer: its agent is connected when the sandbox is resumed.
 */
#include "sandbox/rebuild.h"

#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "sandbox/container.h"
#include "sandbox/life.h"
#include "sandbox/record.h"
#include "vm/recover.h"

static struct kata__life_op *life(const kata_op *op)
{
	return kata__op_data(op);
}

static int step_rebuild_vm(kata_op *op, kata_error **err)
{
	kata_op_options options = kata__sandbox_child_options(op);
	struct kata__life_op *l = life(op);
	kata_op *child = NULL;
	int rc = kata_vm_builder_build_from_released_begin(
		l->vm_builder, l->record->vm_json, strlen(l->record->vm_json), &options, &l->new_vm, &child, err);

	return kata__sandbox_run_child(op, rc, child, err);
}

static int step_release_vm(kata_op *op, kata_error **err)
{
	kata_op *child = NULL;
	kata_vm *vm = life(op)->base.sandbox->vm ? life(op)->base.sandbox->vm : life(op)->new_vm;
	kata_vm_state state = vm ? kata_vm_get_state(vm) : KATA_VM_RELEASED;
	int rc;

	if (state != KATA_VM_RUNNING && state != KATA_VM_PAUSED)
		return KATA__STEP_DONE;
	kata__vm_rewind_epoch(vm);
	rc = kata_vm_release_begin(vm, NULL, &child, err);
	return kata__sandbox_run_child(op, rc, child, err);
}

static int text_agrees(const char *member, const char *recorded, const char *of_vm, kata_error **err)
{
	if (!recorded || strcmp(recorded, of_vm) == 0)
		return 0;
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "record.%s: '%s', but its VM has '%s'", member, recorded, of_vm);
}

static int number_agrees(const char *member, uint64_t recorded, uint64_t of_vm, kata_error **err)
{
	if (recorded == of_vm)
		return 0;
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "record.%s: %llu, but its VM has %llu", member,
			  (unsigned long long)recorded, (unsigned long long)of_vm);
}

/* What the record says of the machine beside `vm` was written with it. Devices are not compared: one that was being
 * plugged may be in one of both only. */
static int check_copies(const struct kata_record *r, const kata_vm *vm, kata_error **err)
{
	struct kata__process_identity process;
	int rc = text_agrees("vm_id", r->vm_id, kata_vm_get_id(vm), err);

	kata__vm_get_process(vm, &process);
	if (rc == 0)
		rc = text_agrees("vm_uuid", r->vm_uuid, kata_vm_get_uuid(vm), err);
	if (rc == 0)
		rc = text_agrees("vm_driver", r->vm_driver, kata_vm_get_driver(vm), err);
	if (rc == 0)
		rc = text_agrees("vm_accelerator", r->vm_accelerator, kata_vm_get_accelerator(vm), err);
	if (rc == 0)
		rc = number_agrees("vm_pid", (uint64_t)r->vm_pid, (uint64_t)process.pid, err);
	if (rc == 0)
		rc = number_agrees("vm_start_time", r->vm_start_time, process.pid ? process.start_time : 0, err);
	if (rc == 0)
		rc = number_agrees("vm_cpus", r->vm_cpus, vm->config->v.cpus, err);
	if (rc == 0)
		rc = number_agrees("vm_memory_mib", r->vm_memory_mib, vm->config->v.memory_mib, err);
	return rc;
}

static int step_adopt_vm(kata_op *op, kata_error **err)
{
	struct kata__life_op *l = life(op);
	kata_sandbox *s = l->base.sandbox;
	int rc = check_copies(l->record, l->new_vm, err);

	if (rc == 0)
		rc = kata__vm_take(l->new_vm, s->id, err);
	if (rc < 0)
		return rc;
	s->vm = kata__take_ptr(l->new_vm);
	return kata__sandbox_listen(s, err);
}

static int step_unlisten(kata_op *op, kata_error **err)
{
	kata__sandbox_unlisten(kata__sandbox_of(op));
	return KATA__STEP_DONE;
}

static int step_connect_agent(kata_op *op, kata_error **err)
{
	struct kata__life_op *l = life(op);

	if (kata_vm_get_state(l->base.sandbox->vm) == KATA_VM_PAUSED)
		return KATA__STEP_DONE;
	return kata__life_connect(op, l->record->agent_json, err);
}

static int step_disconnect_agent(kata_op *op, kata_error **err)
{
	struct kata__life_op *l = life(op);
	KATA_AUTO(free) char *json = NULL;

	kata__life_adopt_agent(op);
	if (l->base.sandbox->agent)
		kata_agent_release(l->base.sandbox->agent, &json, NULL);
	kata__sandbox_set_agent(l->base.sandbox, NULL);
	return KATA__STEP_DONE;
}

static int step_restore(kata_op *op, kata_error **err)
{
	struct kata__life_op *l = life(op);

	kata__life_adopt_agent(op);
	return kata__sandbox_restore(l->base.sandbox, l->record, err);
}

static int step_unrestore(kata_op *op, kata_error **err)
{
	kata__sandbox_unrestore(kata__sandbox_of(op));
	return KATA__STEP_DONE;
}

static void finish_rebuild(kata_op *op, int status, kata_error **error)
{
	struct kata__life_op *l = life(op);
	kata_sandbox *s = l->base.sandbox;
	kata_vm_state state = s->vm ? kata_vm_get_state(s->vm) : KATA_VM_RELEASED;

	if (status < 0) {
		kata__sandbox_move_state(s, KATA_SANDBOX_OBTAINING, KATA_SANDBOX_RELEASED);
	} else {
		s->taken_over = true;
		kata__sandbox_move_state(s, KATA_SANDBOX_OBTAINING,
					 state == KATA_VM_PAUSED ? KATA_SANDBOX_PAUSED : KATA_SANDBOX_RUNNING);
		if (state == KATA_VM_PAUSED) {
			/* What continues the agent, and by whom, is needed until it is connected. */
			s->agent_json = kata__take_ptr(l->record->agent_json);
			s->agent_builder = l->agent_builder;
		}
		if (state == KATA_VM_ENDED)
			kata__sandbox_ended(s);
	}
	kata__sandbox_op_end(op, status);
}

static const struct kata__step rebuild_steps[] = {
	{.name = "rebuild-vm", .run = step_rebuild_vm, .undo = step_release_vm},
	{.name = "adopt-vm", .run = step_adopt_vm, .undo = step_unlisten},
	{.name = "connect-agent", .run = step_connect_agent, .undo = step_disconnect_agent},
	{.name = "restore", .run = step_restore, .undo = step_unrestore},
};
static const struct kata__op_table rebuild_table = {
	.name = "rebuild-sandbox",
	KATA__STEPS(rebuild_steps),
	.timeout_ms = 60000,
	.undo_timeout_ms = 15000,
	.finish = finish_rebuild,
	.free_data = kata__life_op_free,
};

int kata__sandbox_new_from_record(kata_context *ctx, const char *id, const struct kata_record *record, kata_vm *vm,
				  kata_sandbox **ret, kata_error **err)
{
	KATA_AUTO_JSON json_t *lines = record->dns_json ? json_loads(record->dns_json, 0, NULL) : NULL;
	size_t n = json_array_size(lines);
	const char **dns = calloc(n + 1, sizeof(*dns));
	int rc;

	if (!dns)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < n; i++)
		dns[i] = json_string_value(json_array_get(lines, i));
	rc = kata__sandbox_check_names("record", KATA_E_CORRUPT, record->hostname, dns, err);
	if (rc == 0)
		rc = kata__sandbox_new(ctx, id, record->hostname, n ? dns : NULL, vm, KATA_SANDBOX_OBTAINING, ret, err);
	free(dns);
	return rc;
}

int kata__sandbox_rebuild(kata_context *ctx, struct kata_record *take_record, uint64_t epoch,
			  kata_vm_builder *vm_builder, kata_agent_builder *agent_builder,
			  const kata_op_options *options, kata_sandbox **ret_sandbox, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_build_from_released",
							 KATA__IN(KATA_SANDBOX_OBTAINING), -1, 0};
	struct kata__life_op *l = NULL;
	kata_sandbox *s = NULL;
	kata_op *op = NULL;
	int rc = kata__context_check_may_block(ctx, "taking a sandbox over", err);

	if (rc == 0)
		rc = kata__sandbox_new_from_record(ctx, take_record->id, take_record, NULL, &s, err);
	if (rc == 0) {
		s->epoch = epoch;
		s->generation = take_record->generation;
		l = calloc(1, sizeof(*l));
		rc = l ? 0 : kata__fail_no_memory(err);
	}
	if (rc < 0) {
		kata__record_free(take_record);
		kata_sandbox_unref(s);
		return rc;
	}
	l->record = take_record;
	l->vm_builder = vm_builder;
	l->agent_builder = agent_builder;
	s->custom_agent = agent_builder != NULL;
	rc = kata__sandbox_begin(s, &entry, &rebuild_table, l, options, &op, err);
	rc = kata__op_finish_sync(rc, &op, err);
	if (rc < 0)
		kata_sandbox_unref(s);
	else
		*ret_sandbox = s;
	return rc;
}

int kata_sandbox_build_from_released(kata_context *context, const char *json, size_t length,
				     kata_vm_builder *vm_builder, kata_agent_builder *agent_builder,
				     const kata_op_options *options, kata_sandbox **ret_sandbox, kata_error **err)
{
	struct kata_record *record = NULL;
	int rc;

	if (!context || !json || !vm_builder || !ret_sandbox)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: it is NULL",
				  !context      ? "context"
				  : !json       ? "json"
				  : !vm_builder ? "vm_builder"
						: "ret_sandbox");
	rc = kata__context_check_may_block(context, "kata_sandbox_build_from_released", err);
	if (rc == 0)
		rc = kata__record_from_json(json, length, &record, err);
	if (rc < 0)
		return rc;
	return kata__sandbox_rebuild(context, record, record->epoch + 1, vm_builder, agent_builder, options,
				     ret_sandbox, err);
}
