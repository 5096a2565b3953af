/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sandbox from a snapshot that kata_sandbox_save made: its VM is restored, its agent connected, the guest told what
 * has changed, and the table of containers taken from the record. If a step fails the machine is destroyed.
 */
#include <kata/snapshot.h>

#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/json.h"
#include "base/text.h"
#include "sandbox/container.h"
#include "sandbox/life.h"
#include "sandbox/rebuild.h"
#include "sandbox/record.h"
#include "sandbox/save.h"
#include "vm/snapshot.h"
#include "vm/warm.h"

#define ENTROPY_BYTES 256

static struct kata__life_op *life(const kata_op *op)
{
	return kata__op_data(op);
}

/* ---- the steps */

static int step_start_vm(kata_op *op, kata_error **err)
{
	kata_op_options options = kata__sandbox_child_options(op);
	kata_sandbox *s = kata__sandbox_of(op);
	kata_op *child = NULL;
	int rc = kata__sandbox_listen(s, err);

	if (rc == 0)
		rc = kata_vm_start_begin(s->vm, &options, &child, err);
	return kata__sandbox_run_child(op, rc, child, err);
}

static int step_destroy_vm(kata_op *op, kata_error **err)
{
	kata_sandbox *s = kata__sandbox_of(op);
	kata_op *child = NULL;
	int rc;

	kata__sandbox_unlisten(s);
	kata__sandbox_set_agent(s, NULL);
	rc = kata_vm_destroy_begin(s->vm, NULL, &child, err);
	return kata__sandbox_run_child(op, rc, child, err);
}

static int step_connect_agent(kata_op *op, kata_error **err)
{
	return kata__life_connect(op, life(op)->record->agent_json, err);
}

static int step_disconnect_agent(kata_op *op, kata_error **err)
{
	kata_agent_unref(kata__take_ptr(life(op)->agent));
	return KATA__STEP_DONE;
}

/* The NICs with another MAC than they had: the guest goes on with that until it is told. */
static size_t list_macs(kata_vm *vm, const struct kata_record *record, kata_agent_mac *macs, char (*paths)[16],
			kata_nic **nics)
{
	size_t n = 0;

	for (size_t i = 0; i < record->nic_count; i++) {
		kata_nic *nic = NULL;

		if (kata_vm_find_nic(vm, record->nics[i].id, &nic, NULL) < 0)
			continue;
		if (strcmp(kata_nic_get_mac(nic), record->nics[i].mac) == 0) {
			kata_nic_unref(nic);
			continue;
		}
		kata_nic_get_address(nic, paths[n], sizeof(paths[n]));
		macs[n] = (kata_agent_mac){.pci_path = paths[n], .mac = kata_nic_get_mac(nic)};
		nics[n++] = nic;
	}
	return n;
}

static int tell_guest(kata_op *op, const kata_agent_mac *macs, size_t mac_count, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_RESET_IDENTITY};
	uint8_t entropy[ENTROPY_BYTES];
	struct timespec now;

	if (getrandom(entropy, sizeof(entropy), 0) != (ssize_t)sizeof(entropy))
		return kata__fail(err, KATA_E_IO, HOST, "the kernel gives no random bytes");
	clock_gettime(CLOCK_REALTIME, &now);
	request.data = entropy;
	request.data_length = sizeof(entropy);
	request.seconds = now.tv_sec;
	request.microseconds = now.tv_nsec / 1000;
	request.macs = macs;
	request.mac_count = mac_count;
	return kata__sandbox_call(op, &request, err);
}

static int step_tell_guest(kata_op *op, kata_error **err)
{
	struct kata__life_op *l = life(op);
	size_t count = l->record->nic_count + 1;
	KATA_AUTO(free) kata_agent_mac *macs = calloc(count, sizeof(*macs));
	KATA_AUTO(free) kata_nic **nics = calloc(count, sizeof(kata_nic *));
	KATA_AUTO(free) char(*paths)[16] = calloc(count, sizeof(*paths));
	size_t n;
	int rc;

	if (!macs || !nics || !paths)
		return kata__fail_no_memory(err);
	kata__life_adopt_agent(op);
	n = list_macs(l->base.sandbox->vm, l->record, macs, paths, nics);
	l->new_macs = n;
	rc = tell_guest(op, macs, n, err);
	while (n > 0)
		kata_nic_unref(nics[--n]);
	return rc;
}

/* The machine's side of a MAC is another one already: a guest that was not told would be without network. */
static int check_told(kata_op *op, kata_error **err)
{
	const struct kata__life_op *l = life(op);
	uint64_t told = kata__sandbox_reply(op)->reset;

	if (l->new_macs && !(told & KATA_RESET_MACS))
		return kata__fail(
			err, KATA_E_UNSUPPORTED, GUEST,
			"its agent cannot tell the guest that %zu of its MACs are others now: keep them as they "
			"were saved, or use an agent with the service kata.Guest",
			l->new_macs);
	told |= KATA_RESET_UUID | KATA_RESET_CID | KATA_RESET_MACS;
	if (l->new_macs < l->record->nic_count)
		told &= ~KATA_RESET_MACS; /* the others are those of all restores */
	kata__vm_set_identity_reset(l->base.sandbox->vm, told);
	return 0;
}

static int step_restore(kata_op *op, kata_error **err)
{
	int rc = check_told(op, err);

	return rc < 0 ? rc : kata__sandbox_restore(kata__sandbox_of(op), life(op)->record, err);
}

static void finish_restore(kata_op *op, int status, kata_error **error)
{
	kata_sandbox *s = kata__sandbox_of(op);

	kata__sandbox_move_state(s, KATA_SANDBOX_OBTAINING, status < 0 ? KATA_SANDBOX_RELEASED : KATA_SANDBOX_RUNNING);
	if (status == 0 && kata_vm_get_state(s->vm) == KATA_VM_ENDED)
		kata__sandbox_ended(s);
	kata__sandbox_op_end(op, status);
}

static const struct kata__step restore_steps[] = {
	{.name = "start-vm", .run = step_start_vm, .undo = step_destroy_vm},
	{.name = "connect-agent", .run = step_connect_agent, .undo = step_disconnect_agent},
	{.name = "tell-guest", .run = step_tell_guest},
	{.name = "restore", .run = step_restore},
};
static const struct kata__op_table restore_table = {
	.name = "restore-sandbox",
	KATA__STEPS(restore_steps),
	.timeout_ms = 30000,
	.undo_timeout_ms = 15000,
	.finish = finish_restore,
	.free_data = kata__life_op_free,
};

/* ---- the call */

static int read_record(const kata_snapshot *snapshot, struct kata_record **ret, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	size_t length = 0;
	int rc = kata__snapshot_read_extra(snapshot, KATA__SANDBOX_PART, KATA__JSON_RECORD_MAX, &text, &length, err);

	return rc < 0 ? rc : kata__record_from_json(text, length, ret, err);
}

static int check(kata_context *context, const kata_snapshot *snapshot, const kata_vm_builder *vm_builder,
		 const kata_restore_options *options, kata_sandbox *const *ret, kata_error **err)
{
	if (!context || !snapshot || !vm_builder || !ret)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL",
				  !context      ? "context"
				  : !snapshot   ? "snapshot"
				  : !vm_builder ? "vm_builder"
						: "ret_sandbox");
	if (options && (options->flags & KATA_RESTORE_PAUSED))
		return kata__fail(
			err, KATA_E_INVALID, CALLER,
			"restore_options.flags: KATA_RESTORE_PAUSED: the guest of a sandbox must be told that "
			"time has passed, so it must run: pause the sandbox afterwards");
	return kata__context_check_may_block(context, "kata_sandbox_build_from_snapshot", err);
}

static int run(kata_sandbox *s, struct kata_record *take_record, kata_agent_builder *agent_builder,
	       const kata_op_options *options, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_build_from_snapshot",
							 KATA__IN(KATA_SANDBOX_OBTAINING), -1, 0};
	struct kata__life_op *l = calloc(1, sizeof(*l));
	kata_op *op = NULL;
	int rc;

	if (!l) {
		kata__record_free(take_record);
		return kata__fail_no_memory(err);
	}
	l->record = take_record;
	l->agent_builder = agent_builder;
	s->custom_agent = agent_builder != NULL;
	rc = kata__sandbox_begin(s, &entry, &restore_table, l, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_sandbox_build_from_snapshot(kata_context *context, const kata_snapshot *snapshot, kata_vm_builder *vm_builder,
				     const kata_vm_config *vm_config, const kata_restore_options *restore_options,
				     kata_agent_builder *agent_builder, const kata_op_options *options,
				     kata_sandbox **ret_sandbox, kata_error **err)
{
	struct kata_record *record = NULL;
	kata_sandbox *s = NULL;
	kata_vm *vm = NULL;
	int rc = check(context, snapshot, vm_builder, restore_options, ret_sandbox, err);

	if (rc == 0)
		rc = read_record(snapshot, &record, err);
	if (rc == 0)
		rc = kata_vm_builder_build_from_snapshot(vm_builder, snapshot, vm_config, NULL, NULL, restore_options,
							 &vm, err);
	if (rc == 0)
		rc = kata__sandbox_new_from_record(context, kata_vm_get_id(vm), record, vm, &s, err);
	kata_vm_unref(vm);
	if (rc == 0)
		rc = run(s, kata__take_ptr(record), agent_builder, options, err);
	kata__record_free(record);
	if (rc < 0)
		kata_sandbox_unref(s);
	else
		*ret_sandbox = s;
	return rc;
}
