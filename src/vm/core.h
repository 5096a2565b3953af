/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_CORE_H
#define KATA_VM_CORE_H
/*
 * What the files of the VM core share and drivers do not see.
 *
 * Lock order: vm->shared->mutex, then a storage's or NIC's own mutex. Nothing sleeps and no callback runs under it.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "vm/owner.h"
#include "vm/vm.h"

#define KATA__VM_MAGIC 0x4b564d31u
#define KATA__VM_ITEM_ID_MAX 65u
#define KATA__VM_OPS_MAX 4096u /* operations under way on one VM */

/* A device that holds a slot. It is in the table from the reserve to the drop. */
struct kata__vm_device {
	kata_storage *storage; /* referenced; one of the two */
	kata_nic *nic;
	int slot;
	bool on_lun;
	bool committed;                /* plugged, unplugging or diverged: in the public lists */
	bool lost;                     /* it has left the machine, says the VMM */
	struct kata__disk_files files; /* storages, once they are known */
};

struct kata__vm_listener {
	kata__vm_ended_fn ended; /* NULL: removed while notifying */
	kata__vm_check_unused_fn check_unused;
	void *user;
};

struct kata__vm_shared {
	atomic_uint lives;       /* handles, and ops under way: at 0 a live machine is destroyed */
	atomic_uint refs;        /* the same, and ops that have ended but are not freed: at 0 the memory goes */
	bool last_destroy_tried; /* the destroy of a last unref was tried: free, whatever came of it */
	bool registered;         /* the id is held in the context's list */

	pthread_mutex_t mutex; /* what follows, up to the next blank line */
	kata_vm_state state;
	kata_vm_state resting; /* RUNNING or PAUSED: what the machine does, while the handle is released or destroyed */
	bool warm;             /* until the start: the machine is there, booted and paused (warm.c) */
	bool prestarted;       /* until the start: the VMM is there and waits for the state that it is to load */
	unsigned warm_runs;    /* [leader] device operations for which a warm guest runs (warm_device.c) */
	kata_vm_origin origin;
	uint64_t identity_reset; /* KATA_RESET_* */
	bool ended;              /* the machine ended by itself */
	bool preparing;          /* the step prepare of a start is under way */
	bool frozen;             /* its RAM is a part of a snapshot: nothing may change it, only a destroy is left */
	bool owns_dir;           /* we made vm->dir or took it over: destroy may remove it */
	struct kata__owner_stamp owner; /* the owner.json that says so */
	int ended_fd;
	const char *sandbox_id; /* borrowed: of the sandbox that has it; NULL: none */
	struct kata__process_identity process;
	uint64_t started_ns;
	uint64_t epoch;
	struct kata__vm_device **devices; /* in order of reserving */
	size_t device_count, device_alloc;
	kata_op **active; /* borrowed: an op leaves in its finish. Without the destroy */
	size_t active_count, active_alloc;
	kata_op *destroying; /* borrowed */
	uint64_t generation, text_generation;
	char *text; /* the record at text_generation */
	json_t *driver_part;

	bool over; /* ENDED or DESTROYED: read by kata_vm_wait with acquire, set with release */

	/* [leader] */
	struct kata__vm_listener *listeners;
	size_t listener_count;
	bool notifying;
	kata_op *drain; /* a destroy that waits for the others; referenced */
	uint64_t drain_token;
	struct kata__timer *drain_timer;
};

static inline void kata__vm_lock(const kata_vm *vm)
{
	pthread_mutex_lock(&vm->shared->mutex);
}
static inline void kata__vm_unlock(const kata_vm *vm)
{
	pthread_mutex_unlock(&vm->shared->mutex);
}

/* INVALID when `vm` is NULL or no VM. */
int kata__vm_check(const kata_vm *vm, kata_error **err);
/* STATE "vm 'x' is released, must be running or paused: plug-storage" unless the state is in `permitted` (bits 1 <<
 * state). Under no lock. */
int kata__vm_check_state(kata_vm *vm, uint32_t permitted, const char *what, kata_error **err);
/* The same inside an op that was begun in a permitted state: GONE when the VM was destroyed since. */
int kata__vm_recheck_state(kata_vm *vm, uint32_t permitted, const char *what, kata_error **err);
int kata__vm_fail_state(const kata_vm *vm, kata_vm_state state, uint32_t permitted, const char *what, kata_error **err);
#define KATA__VM_IN(state) (1u << KATA_VM_##state)
#define KATA__VM_LIVE (KATA__VM_IN(RUNNING) | KATA__VM_IN(PAUSED))

/* The object (vm.c). */
int kata__vm_alloc(kata_context *ctx, const struct kata__vm_driver *driver, struct kata__vm_config_copy *take_config,
		   const char *uuid, kata_vm_state state, kata_vm **ret, kata_error **err);
void kata__vm_free(kata_vm *vm);
/* The halves of kata_vm_unref: an op drops its life in its finish, so that who waited for it holds the last one, and
 * its memory when it is freed. */
void kata__vm_drop_life(kata_vm *vm);
void kata__vm_drop_memory(kata_vm *vm);
void kata__vm_move_locked(kata_vm *vm, kata_vm_state state);
/* [leader] Ended fd, waiters, listeners. */
void kata__vm_notify_ended(kata_vm *vm);
/* [leader] BUSY: a listener uses that storage. */
int kata__vm_check_unused(const kata_vm *vm, const char *storage_id, kata_error **err);

/* Ids of the VMs of a context (registry.c). EXISTS. */
int kata__vm_register(kata_vm *vm, kata_error **err);
void kata__vm_unregister(kata_vm *vm);
/* EXISTS: another VM of the context has that id. */
int kata__vm_check_registered(const kata_vm *vm, const char *id, kata_error **err);
/* Gives a registered VM that nobody else has seen yet another id. EXISTS. [leader] */
int kata__vm_reregister(kata_vm *vm, const char *id, kata_error **err);

/* The device table (devices.c). [leader] where slots are touched. */
int kata__vm_device_reserve(kata_vm *vm, kata_storage *storage, kata_nic *nic, int *ret_slot, kata_error **err);
/* Rebuild: a certain slot; committed at once. */
int kata__vm_device_restore(kata_vm *vm, kata_storage *storage, kata_nic *nic, uint32_t slot, kata_error **err);
/* [any thread] EXISTS when another device has one of these files and one of the two may write to it; else notes them.
 */
int kata__vm_device_claim_files(kata_vm *vm, const kata_storage *storage, const struct kata__disk_files *files,
				kata_error **err);
/* [any thread] Slot of the device, committed or not; -1 when it is not in the table. */
int kata__vm_device_slot(kata_vm *vm, const void *storage_or_nic, bool *ret_committed);
void kata__vm_device_commit(kata_vm *vm, const void *storage_or_nic);
/* [any thread] Notes them unasked; all zero: none, they are gone and others may have their inodes. */
void kata__vm_device_note_files(kata_vm *vm, const kata_storage *storage, const struct kata__disk_files *files);
/* [any thread] The file is the one that was plugged, or nobody knows which that was. */
bool kata__vm_device_has_file(kata_vm *vm, const kata_storage *storage, const struct stat *st);
/* [any thread] All are PLUGGED, and it is known which files the disks are. */
bool kata__vm_devices_are_known(const kata_vm *vm);
/* Out of the table, slot free, device NEW. */
void kata__vm_device_drop(kata_vm *vm, const void *storage_or_nic);
void kata__vm_device_drop_all(kata_vm *vm);
/* [any thread] Borrowed; the first device but `but` that has this id, or this MAC. */
bool kata__vm_device_has_id(kata_vm *vm, const char *id);
bool kata__vm_device_has_mac(kata_vm *vm, const char *mac);
size_t kata__vm_device_slots_used(kata_vm *vm, bool luns);
/* [any thread] New references; BUSY while its plug is under way, NOT_FOUND. */
int kata__vm_device_find_storage(kata_vm *vm, const char *id, kata_storage **ret, kata_error **err);
int kata__vm_device_find_nic(kata_vm *vm, const char *id, kata_nic **ret, kata_error **err);

/* Operations (calls.c). data is consumed. `permitted` and `next` (a state or -1) are checked and set together. */
struct kata__vm_call {
	const struct kata__op_table *table;
	uint32_t permitted;
	int next;
	bool starts;   /* a table that makes the VM's directory: its ops have a journal nevertheless */
	bool alone;    /* BUSY while other operations are under way */
	bool no_agent; /* BUSY while an agent is connected */
};
struct kata__vm_op *kata__vm_op_new(kata_vm *vm);
int kata__vm_call_begin(kata_vm *vm, const struct kata__vm_call *call, struct kata__vm_op *take_data,
			const kata_op_options *options, kata_op **ret_op, kata_error **err);
/* [leader] Out of the list of active ones. */
void kata__vm_call_leave(kata_vm *vm, kata_op *op);
int kata__vm_begin_storage(kata_vm *vm, bool add, kata_storage *storage, const kata_op_options *options,
			   kata_op **ret_op, kata_error **err);
int kata__vm_begin_nic(kata_vm *vm, bool add, kata_nic *nic, const kata_op_options *options, kata_op **ret_op,
		       kata_error **err);
/* [leader] Wakes a destroy that waits for the others (life_steps.c). */
void kata__vm_drain_check(kata_vm *vm);

/* The record (record.c). */
/* [leader] Asks the driver for its part anew; without one there is no record. */
int kata__vm_record_refresh(kata_vm *vm, kata_error **err);
int kata__vm_record_text(kata_vm *vm, char **ret, kata_error **err);
int kata__vm_record_restore(kata_vm *vm, json_t *record, kata_error **err);
/* Checks format, version, driver and the fixed members. */
int kata__vm_record_open(const char *json, size_t len, const char *driver, json_t **ret, kata_error **err);
/* For the blocking forms, before they begin anything: STATE inside a callback of the library. NULL passes: the begin
 * refuses it. */
int kata__vm_check_may_block(const kata_vm *vm, const char *function, kata_error **err);
#endif
