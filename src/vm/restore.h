/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_RESTORE_H
#define KATA_VM_RESTORE_H
/*
 * A VM made from a snapshot: what its start restores (vm/restore.c), and the steps that drivers' tables for that have
 * in common (vm/restore_steps.c).
 *
 *     make-dir, open-state, make-disks, open-taps | driver: spawn, load | driver: plug what was added, cont | prepare
 *
 * Its devices are in the VM's table from the build on, at the slots they had; the driver puts them on the command line
 * from here. Devices that the caller adds before the start cannot be there, as the state lacks them.
 */
#include "net/nic.h"
#include "storage/storage.h"
#include "vm/snapshot.h"
#include "vm/vm.h"

struct kata__restore_disk {
	const struct kata__manifest_disk *saved;
	size_t index;
	kata_restore_disk mode; /* AUTO: the saved file itself, read-only */
	kata_storage *storage;  /* in the VM's table */
	bool external;          /* its file is made at a place of the caller's */
	bool made;              /* its file is there, and ours to remove */
	struct kata__image image;
};

struct kata__restore_nic {
	uint32_t slot;
	kata_nic *nic;
	int tap_fd; /* -1 */
	bool tap_created;
	struct kata__tap_before tap_before;
};

struct kata__restore {
	kata_snapshot *snapshot;
	uint64_t flags;
	struct kata__restore_disk *disks;
	size_t disk_count;
	struct kata__restore_nic *nics;
	size_t nic_count;
	int state_fd, memory_fd; /* -1: not open */
};

void kata__vm_restore_free(struct kata__restore *r); /* NULL is fine */
/* Closes what the start has opened; the VMM has its own. */
void kata__vm_restore_close(struct kata__restore *r);

/*
 * What a driver's build_from_snapshot calls after it has checked the manifest's VMM: a VM in CREATED with its restore
 * and devices. `config`, `agent_config` as the public call; `options` read.
 */
int kata__vm_new_from_snapshot(kata_context *ctx, const struct kata__vm_driver *driver, const kata_snapshot *snapshot,
			       const kata_vm_config *config, const kata_agent_config *agent_config,
			       const kata_qos_config *qos_config, const kata_restore_options *options, kata_vm **ret_vm,
			       kata_error **err);
/* The config of the VM to be made: the saved one with what the caller may change. Its strings are borrowed from both.
 */
int kata__vm_restore_config(const kata_snapshot *snapshot, const kata_vm_config *config, kata_vm_config *ret,
			    kata_error **err);
/* True for a device of the snapshot. */
bool kata__vm_restore_has(const kata_vm *vm, const void *storage_or_nic);

/* The steps; all but prepare (vm/vm.h) are blocking, and so are their undos. */
int kata__restore_step_open_state(kata_op *op, kata_error **err); /* undo: close_state */
int kata__restore_step_close_state(kata_op *op, kata_error **err);
int kata__restore_step_make_disks(kata_op *op, kata_error **err); /* after make-dir; undo: unmake_disks */
int kata__restore_step_unmake_disks(kata_op *op, kata_error **err);
int kata__restore_step_open_taps(kata_op *op, kata_error **err); /* undo: close_taps */
int kata__restore_step_close_taps(kata_op *op, kata_error **err);
int kata__restore_step_forget(kata_op *op, kata_error **err); /* the last of all: what was made is the caller's now */

void kata__vm_preparation_free(struct kata__vm_preparation *p); /* NULL is fine */
#endif
