/* SPDX-License-Identifier: Apache-2.0 */
/*
 * restore.c - from a snapshot to a running QEMU.
 *
 * The first part, up to commit, makes a QEMU with the snapshot's devices that waits for the state; the second loads it.
 * They are a table each as well, for who keeps QEMUs waiting (vm/warm.h). Devices that the caller added before the
 * start are not in the state, so QEMU must not have them while it loads: they are plugged behind it, while the vCPUs
 * stand still.
 */
#include "vm/qemu/migration.h"
#include "vm/qemu/start.h"
#include "vm/restore.h"

#include <stdlib.h>

#include "base/fd.h"

/* ---- the devices on the command line */

int kata__qemu_list_restored(const struct kata__restore *r, struct kata__qemu_cold **ret, kata_error **err)
{
	size_t count = r->disk_count + r->nic_count;
	struct kata__qemu_cold *list = calloc(count + 1, sizeof(*list));

	if (!list)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < r->disk_count; i++) {
		const struct kata__restore_disk *d = &r->disks[i];

		list[i] = (struct kata__qemu_cold){.storage = d->storage,
						   .slot = (int)d->saved->slot,
						   .fd = d->image.fd,
						   .backing_fd = d->image.backing_fd,
						   .fd_is_block_device = kata__qemu_is_block_device(d->image.fd),
						   .backing_is_block_device =
							   kata__qemu_is_block_device(d->image.backing_fd)};
	}
	for (size_t i = 0; i < r->nic_count; i++)
		list[r->disk_count + i] = (struct kata__qemu_cold){
			.nic = r->nics[i].nic, .slot = (int)r->nics[i].slot, .fd = r->nics[i].tap_fd, .backing_fd = -1};
	for (size_t i = 0; i + 1 < count; i++)
		list[i].next = &list[i + 1];
	if (!count) {
		free(list);
		list = NULL;
	}
	*ret = list;
	return 0;
}

/* ---- the state */

static const struct kata__restore *restore_of(const kata_op *op)
{
	return kata__vm_op_data(op)->vm->restore;
}

static int step_set_capabilities(kata_op *op, kata_error **err)
{
	return kata__qemu_set_capabilities(op, restore_of(op)->memory_fd >= 0, err);
}

static int step_getfd(kata_op *op, kata_error **err)
{
	return kata__qemu_pass_state(op, restore_of(op)->state_fd, err);
}

static int step_migrate_incoming(kata_op *op, kata_error **err)
{
	return kata__qemu_command(op, "migrate-incoming", json_pack("{s:s}", "uri", "fd:" KATA__QEMU_STATE_FD), -1,
				  NULL, err);
}

/* ---- what the caller added */

/* One device after the other; QEMU handles the commands of one in order. */
struct pending {
	kata_op *op; /* referenced */
	uint64_t token;
	const struct kata__qemu_cold *next; /* to be plugged */
	size_t left;                        /* replies to come */
	kata_error *failure;                /* the first */
};

static void send_device(struct pending *p);

static void end_pending(struct pending *p)
{
	kata_error *failure = kata__take_ptr(p->failure);

	kata__op_resume(p->op, p->token, (int)kata_error_get_status(failure), failure);
	kata_op_unref(p->op);
	free(p);
}

static void on_plugged(void *user, const json_t *value, kata_error *take_err)
{
	struct pending *p = user;

	if (take_err && !p->failure)
		p->failure = take_err;
	else
		kata_error_free(take_err);
	if (--p->left)
		return;
	if (p->failure || !p->next)
		end_pending(p);
	else
		send_device(p);
}

static void send(struct pending *p, const char *command, json_t *take_args, int fd)
{
	const struct kata__qemu *q = kata__qemu_of_op(p->op);
	kata_error *failure = NULL;
	int rc;

	if (!take_args || !q->qmp) {
		json_decref(take_args);
		rc = take_args ? kata__fail(&failure, KATA_E_GONE, VMM, "QEMU has ended")
			       : kata__fail_no_memory(&failure);
	} else {
		rc = kata__qmp_execute(q->qmp, command, take_args, fd, on_plugged, p, &failure);
	}
	if (!rc)
		p->left++;
	else if (!p->failure)
		p->failure = failure;
	else
		kata_error_free(failure);
}

static void send_storage(struct pending *p, const struct kata__qemu_cold *d)
{
	unsigned set = kata__qemu_fd_set(d->storage, d->slot);

	send(p, "add-fd", json_pack("{s:i}", "fdset-id", (int)set), d->fd);
	if (d->backing_fd >= 0)
		send(p, "add-fd", json_pack("{s:i}", "fdset-id", (int)set + 1), d->backing_fd);
	send(p, "blockdev-add",
	     kata__qemu_blockdev(d->storage, d->slot, d->fd_is_block_device, d->backing_is_block_device), -1);
	send(p, "device_add", kata__qemu_storage_device(d->storage, d->slot), -1);
}

static void send_nic(struct pending *p, const struct kata__qemu_cold *d)
{
	char name[16];

	kata__qemu_netdev_name(d->slot, name);
	if (d->fd >= 0)
		send(p, "getfd", json_pack("{s:s}", "fdname", name), d->fd);
	send(p, "netdev_add", kata__qemu_netdev(d->nic, d->slot, name), -1);
	send(p, "device_add", kata__qemu_nic_device(d->nic, d->slot), -1);
}

static void send_device(struct pending *p)
{
	const struct kata__qemu_cold *d = p->next;

	p->next = d->next;
	p->left = 1; /* of ours, so that an early failure does not end it in the middle */
	if (d->storage)
		send_storage(p, d);
	else
		send_nic(p, d);
	on_plugged(p, NULL, NULL);
}

/* Without an undo: when the start fails QEMU goes, and the list still has the fds. */
static int step_plug_pending(kata_op *op, kata_error **err)
{
	const struct kata__qemu *q = kata__qemu_of_op(op);
	struct pending *p;

	if (!q->cold)
		return KATA__STEP_DONE;
	p = calloc(1, sizeof(*p));
	if (!p)
		return kata__fail_no_memory(err);
	*p = (struct pending){.op = kata_op_ref(op), .token = kata__op_token(op), .next = q->cold};
	send_device(p);
	return KATA__STEP_WAIT;
}

/* ---- the end */

static bool ends_paused(const kata_op *op)
{
	return restore_of(op)->flags & KATA_RESTORE_PAUSED;
}

/* What prepares it needs it running. */
static int step_cont(kata_op *op, kata_error **err)
{
	return ends_paused(op) && !kata__vm_op_data(op)->vm->preparation ? KATA__STEP_DONE
									 : kata__qemu_start_cont(op, err);
}

static int step_stop(kata_op *op, kata_error **err)
{
	return ends_paused(op) ? kata__qemu_plain_command(op, "stop", NULL, err) : KATA__STEP_DONE;
}

/* ---- the tables */

/* QEMU is there already, started by the first half. */
static int step_watched(kata_op *op, kata_error **err)
{
	return KATA__STEP_DONE;
}

#define LOAD_STEPS                                                                                                     \
	{.name = "arm", .run = kata__qemu_arm_migration}, {.name = "migrate-incoming", .run = step_migrate_incoming},  \
		{.name = "await-migration",                                                                            \
		 .run = kata__qemu_await_migration,                                                                    \
		 .cancel = kata__qemu_cancel_await_migration},                                                         \
		{.name = "query-migrate", .run = kata__qemu_check_migration},                                          \
		{.name = "plug-pending", .run = step_plug_pending}, {.name = "cont", .run = step_cont},                \
		{.name = "prepare", .run = kata__vm_step_prepare},                                                     \
	{                                                                                                              \
		.name = "stop", .run = step_stop                                                                       \
	}

static const struct kata__step steps[] = {
	{.name = "make-dir",
	 .run = kata__qemu_start_make_dir,
	 .undo = kata__vm_step_unmake_dir,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
	{.name = "open-state",
	 .run = kata__restore_step_open_state,
	 .undo = kata__restore_step_close_state,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
	{.name = "make-disks",
	 .run = kata__restore_step_make_disks,
	 .undo = kata__restore_step_unmake_disks,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING | KATA__STEP_JOURNAL},
	{.name = "open-taps",
	 .run = kata__restore_step_open_taps,
	 .undo = kata__restore_step_close_taps,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING | KATA__STEP_JOURNAL},
	{.name = "open-files",
	 .run = kata__qemu_start_open_files,
	 .undo = kata__qemu_start_undo_open_files,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_JOURNAL},
	{.name = "listen",
	 .run = kata__qemu_start_listen,
	 .undo = kata__qemu_start_undo_listen,
	 .flags = KATA__STEP_BLOCKING},
	{.name = "spawn",
	 .run = kata__qemu_start_spawn,
	 .undo = kata__qemu_start_undo_spawn,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING | KATA__STEP_JOURNAL},
	{.name = "watch-process", .run = kata__qemu_start_watch_process, .undo = kata__qemu_start_undo_watch_process},
	{.name = "connect-qmp", .run = kata__qemu_step_connect},
	{.name = "connect-console", .run = kata__qemu_start_connect_console},
	{.name = "set-capabilities", .run = step_set_capabilities},
	{.name = "getfd", .run = step_getfd},
	{.name = "commit", .run = kata__qemu_start_commit},
	LOAD_STEPS,
	{.name = "forget", .run = kata__restore_step_forget, .flags = KATA__STEP_BLOCKING},
};
/* Of a machine without devices: no files were made that would have to be forgotten. */
static const struct kata__step load_steps[] = {
	{.name = "claim",
	 .run = kata__qemu_start_claim,
	 .undo = kata__qemu_start_undo_claim,
	 .flags = KATA__STEP_UNDO_BLOCKING},
	{.name = "watched", .run = step_watched, .undo = kata__qemu_start_undo_watch_process},
	LOAD_STEPS,
};
#define CLAIM_STEPS 2
#define FORGET_STEPS 1
#define WAITING_STEPS (kata__array_size(steps) - (kata__array_size(load_steps) - CLAIM_STEPS) - FORGET_STEPS)

const struct kata__op_table kata__qemu_start_restored = {
	.name = "restore",
	KATA__STEPS(steps),
	.timeout_ms = 30000,
	.finish = kata__qemu_start_finish,
	.free_data = kata__vm_free_op_data,
};
/* Up to a QEMU with the snapshot's devices that waits for the state, which it has at hand. */
const struct kata__op_table kata__qemu_prestart = {
	.name = "prestart",
	.steps = steps,
	.count = WAITING_STEPS,
	.timeout_ms = 10000,
	.finish = kata__qemu_start_finish,
	.free_data = kata__vm_free_op_data,
};
const struct kata__op_table kata__qemu_start_prestarted = {
	.name = "start-prestarted",
	KATA__STEPS(load_steps),
	.timeout_ms = 30000,
	.finish = kata__qemu_start_finish,
	.free_data = kata__vm_free_op_data,
};
