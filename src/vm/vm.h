/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_VM_H
#define KATA_VM_VM_H
/*
 * The inside of kata_vm: what drivers (vm/qemu, vm/mock) and the rooms above (agent, sandbox) share.
 *
 * The core (vm.c and its neighbours) owns the state machine, the device tables, slots, config and the released record;
 * a driver owns the tables of steps and a private `impl`. [leader] everywhere, except what says [any thread].
 */
#include <kata/agent.h>
#include <kata/batch.h>
#include <kata/vm.h>
#include <kata/vm_builder.h>

#include "base/json.h"
#include "base/process.h"
#include "net/nic.h"
#include "op/op.h"
#include "storage/storage.h"
#include "vm/config.h"
#include "vm/owner.h"
#include "vm/slots.h"

/* A driver fits one screen. All members must, unless marked may. */
struct kata__vm_driver {
	const char *name;
	/* What each operation is. Their op data is struct kata__vm_op. cold: the VM is CREATED. */
	const struct kata__op_table *start;
	/* may, with pause: the same for a machine that is there already, booted and paused (warm.h): lets it run. */
	const struct kata__op_table *start_warm;
	const struct kata__op_table *add_storage_cold, *add_storage, *remove_storage_cold, *remove_storage;
	const struct kata__op_table *add_nic_cold, *add_nic, *remove_nic_cold, *remove_nic;
	const struct kata__op_table *pause, *resume;
	const struct kata__op_table *release, *rebuild, *destroy;
	/* May: saving (vm/save.h), and the start of a VM made from a snapshot (vm/restore.h). Both or none. */
	const struct kata__op_table *snapshot, *start_restored;
	/* May: start_restored in two: up to a VMM that waits for the state (warm.h), and from there on. Both or none.
	 */
	const struct kata__op_table *prestart, *start_prestarted;
	/* Makes / frees vm->impl. init is called by the build, deinit when memory is freed (the machine is gone by
	 * then). */
	int (*init)(kata_vm *vm, kata_error **err);
	void (*deinit)(kata_vm *vm);
	/* A non-blocking stream fd to the agent's channel, the caller's. */
	int (*connect_agent)(kata_vm *vm, int *ret_fd, kata_error **err);
	/* The driver's private part of the released record, and back (hostile input). */
	int (*dump)(kata_vm *vm, json_t *driver, kata_error **err);
	int (*restore)(kata_vm *vm, const json_t *driver, kata_error **err);
	/* From the start or rebuild on dump always says the same: it is asked once, not after each operation. */
	bool dump_is_constant;
	/* [any thread] may: console tail as malloc'ed text, last words of the VMM likewise; NULL when there are none.
	 */
	char *(*get_console)(kata_vm *vm, size_t *ret_len);
	char *(*get_vmm_output)(kata_vm *vm, size_t *ret_len);
	/* [leader] May: adds what the VMM's process tells of a failure: how it ended, that it is stopped. */
	void (*explain)(kata_vm *vm, kata_error *err);
	/* The driver keeps nothing on disk: vm->dir is NULL, ops have no journal. */
	bool no_files;
};

struct kata_vm {
	uint32_t magic;
	kata_context *ctx;
	const struct kata__vm_driver *driver;
	void *impl;
	struct kata__vm_config_copy *config;
	char id[65];
	char uuid[37];
	char accelerator[8];
	char accelerator_reason[160];
	uint32_t time_scale; /* of deadlines: 10 under TCG, else 1 */
	char *dir;           /* <state_dir>/vm/<id>; NULL for drivers without files */
	struct kata__journal journal;
	kata_agent_transport agent_transport; /* resolved */
	/* [leader] What its agent has said of itself: whoever connects next need not ask. Of this handle alone. */
	struct {
		bool is_known, has_guest_service;
		char version[64];
	} agent;

	/* [leader] */
	struct kata__slots ports; /* root ports, or the mock's slots */
	struct kata__slots luns;
	bool agent_connected;          /* one connection at a time; written under the mutex too */
	struct kata__restore *restore; /* made from a snapshot: vm/restore.h. Constant after the build */
	struct kata__vm_preparation *preparation;

	/* under mutex */
	struct kata__vm_shared *shared; /* state, pid, device lists, ended eventfd: vm/vm.c */
};

/* Op data of every VM operation. Drivers put their scratch into `scratch` (freed by free()). */
struct kata__vm_op {
	kata_vm *vm;           /* referenced; its memory stays valid until the data is freed */
	bool holds_life;       /* the core's: dropped in the finish */
	kata_storage *storage; /* referenced; device ops */
	kata_nic *nic;
	int slot;                 /* reserved port or LUN; -1 */
	struct kata__image image; /* fds -1 when not open */
	int tap_fd;               /* -1 */
	bool tap_created;
	struct kata__tap_before tap_before;
	uint64_t t_scratch[4];
	void *scratch;
	const char *json; /* rebuild: borrowed from scratch of the core */
	char *json_owned;
	json_t *record;
	struct kata__owner *owner_before; /* rebuild: who owned it before the take-over; freed by free() */
	kata_vm_state state_before;       /* release, rebuild: what to go (back) to */
	kata_device_state device_before;  /* unplug: what to go back to */
	uint64_t epoch;                   /* rebuild: of the ownership taken */
	bool released_removed;            /* rebuild: released.json was there */
	bool is_released_one;             /* rebuild: its record is the one that an orderly release left */
	bool is_as_released;              /* and shows all: nothing but the guest has changed the machine since */
	bool unsettled;                   /* release: the VMM has what the record does not */
	struct kata__save *save;          /* snapshot: freed with the op */
	bool was_saving, was_running;     /* rebuild: its owner died while it was being saved, before which it ran */
	bool frozen;                      /* rebuild: its RAM is a part of a snapshot */
};

/* State. [any thread] get; set moves along the transition table and asserts it. */
kata_vm_state kata__vm_get_state(const kata_vm *vm);
void kata__vm_set_state(kata_vm *vm, kata_vm_state state);
/* The driver saw the machine end by itself: state ENDED, ended fd readable, listeners called. */
void kata__vm_ended(kata_vm *vm);
void kata__vm_set_pid(kata_vm *vm, pid_t pid, uint64_t start_time);
/* What the machine is known as: pid and start time as set, boot id of this boot. [any thread] */
void kata__vm_get_process(const kata_vm *vm, struct kata__process_identity *ret);
/* [leader] The record has changed (the driver's part of it): call after a change that driver->dump shows. The core does
 * it itself after each of its own operations. */
void kata__vm_changed(kata_vm *vm);

/* [leader] The VMM says that this device has left the machine. Whoever was removing it goes on; a plugged one that
 * nobody was removing is DIVERGED from now on, and true is returned. */
bool kata__vm_device_lost(kata_vm *vm, bool nic, const char *id);
/* QEMU has added it: what was said before was of another of that name. */
void kata__vm_device_arrived(kata_vm *vm, const void *storage_or_nic);
bool kata__vm_device_is_lost(kata_vm *vm, const void *storage_or_nic);

/* FENCED: another process has taken the machine over, says its owner.json: who, since when. One system call where that
 * is not so. */
int kata__vm_check_fence(const kata_vm *vm, kata_error **err);

/*
 * The rooms above listen (agent, sandbox, pool): `ended` hears of the machine's end; `check_unused` (NULL: none) is
 * asked before a storage is unplugged, and BUSY, which says who uses it, keeps it there. [leader]; removed by the same
 * pair.
 */
typedef void (*kata__vm_ended_fn)(void *user);
typedef int (*kata__vm_check_unused_fn)(void *user, const char *storage_id, kata_error **err);
int kata__vm_add_listener(kata_vm *vm, kata__vm_ended_fn ended, kata__vm_check_unused_fn check_unused, void *user,
			  kata_error **err);
void kata__vm_remove_listener(kata_vm *vm, kata__vm_ended_fn ended, void *user);

/* [any thread] One sandbox at a time has a VM: `sandbox_id` is borrowed until it lets go (by the same pointer; nothing
 * where it does not have it). BUSY: another has it. */
int kata__vm_take(kata_vm *vm, const char *sandbox_id, kata_error **err);
void kata__vm_let_go(kata_vm *vm, const char *sandbox_id);

/* [leader] Adds what the driver knows, the VMM's last words and the console's tail to an error in the making. What
 * the driver finds is a better hint than a caller's guess, which therefore comes afterwards and where there is none. */
void kata__vm_explain(kata_vm *vm, kata_error *err);

/* Shared steps of every driver's device tables (vm/device_steps.c). Undo of reserve frees the slot, of insert removes
 * from the list. */
int kata__vm_step_reserve_storage(kata_op *op, kata_error **err); /* state, id/file/EXISTS check, slot or LUN */
int kata__vm_step_unreserve_storage(kata_op *op, kata_error **err);
int kata__vm_step_open_image(kata_op *op, kata_error **err); /* BLOCKING */
int kata__vm_step_close_image(kata_op *op, kata_error **err);
int kata__vm_step_commit_storage(kata_op *op, kata_error **err); /* PLUGGED, in the list; no undo needed after it */
int kata__vm_step_find_storage(kata_op *op, kata_error **err);   /* unplug: UNPLUGGING; undo: back to PLUGGED */
int kata__vm_step_unfind_storage(kata_op *op, kata_error **err);
int kata__vm_step_drop_storage(kata_op *op, kata_error **err); /* unplug: out of the list, slot free, NEW */
int kata__vm_step_reserve_nic(kata_op *op, kata_error **err);
int kata__vm_step_unreserve_nic(kata_op *op, kata_error **err);
int kata__vm_step_open_tap(kata_op *op, kata_error **err); /* BLOCKING; nothing for USER */
int kata__vm_step_close_tap(kata_op *op, kata_error **err);
int kata__vm_step_commit_nic(kata_op *op, kata_error **err);
int kata__vm_step_find_nic(kata_op *op, kata_error **err);
int kata__vm_step_unfind_nic(kata_op *op, kata_error **err);
int kata__vm_step_drop_nic(kata_op *op, kata_error **err);
/*
 * The finish of EVERY table of a driver (start, add_*, remove_*, pause, resume, release, rebuild, destroy): moves the
 * state (start: RUNNING or back to CREATED; pause: PAUSED; release: RELEASED or back; rebuild: as recorded, or
 * RELEASED; destroy: DESTROYED), takes the op out of the list of active ones, refreshes the record, and explains
 * failures by kata__vm_explain. Steps therefore need not set the state. A driver's own finish must call it last.
 */
void kata__vm_finish_device(kata_op *op, int status, kata_error **error);
void kata__vm_free_op_data(void *data);
static inline struct kata__vm_op *kata__vm_op_data(const kata_op *op)
{
	return (struct kata__vm_op *)kata__op_data(op);
}
/*
 * Shared steps of the other tables (vm/life_steps.c). All may be in tables of drivers without files, where they do
 * nothing.
 *
 * - start: make_dir first (BLOCKING | UNDO_BLOCKING, never JOURNAL: the journal lies in that directory):
 *   <state_dir>/vm/<id> with mode 0700 and owner.json; EXISTS. Its undo (unmake_dir) removes the tree.
 * - release: write_record [leader] (makes op data `json_owned`), save_released (BLOCKING: released.json; undo
 *   unsave_released), hand_over (BLOCKING: owner.json says nobody; undo take_back) as the last step that can fail.
 * - rebuild: take_over first (BLOCKING; FENCED, GONE, IDENTITY; undo give_back), and drop_released as the last
 *   (BLOCKING: removes released.json; the epoch grows).
 * - destroy: cancel_operations first (WAIT: other ops of this VM are cancelled; waits at most a second for their undo,
 * so that a VMM that hangs is killed next), await_operations after the kill (WAIT: until all have ended), remove_dir as
 *   the last (BLOCKING).
 */
int kata__vm_step_make_dir(kata_op *op, kata_error **err);
int kata__vm_step_unmake_dir(kata_op *op, kata_error **err);
int kata__vm_step_write_record(kata_op *op, kata_error **err);
int kata__vm_step_save_released(kata_op *op, kata_error **err);
int kata__vm_step_unsave_released(kata_op *op, kata_error **err);
int kata__vm_step_hand_over(kata_op *op, kata_error **err);
int kata__vm_step_take_back(kata_op *op, kata_error **err); /* undo of hand_over */
int kata__vm_step_take_over(kata_op *op, kata_error **err);
int kata__vm_step_give_back(kata_op *op, kata_error **err); /* undo of take_over */
/* BLOCKING. CORRUPT where the record given differs from the released.json of its epoch (compare.c). */
int kata__vm_step_compare_record(kata_op *op, kata_error **err);
/* Blocking, after take_over: sets is_released_one and is_as_released (compare.c). */
void kata__vm_look_at_released(kata_op *op);
int kata__vm_step_drop_released(kata_op *op, kata_error **err);
int kata__vm_step_cancel_operations(kata_op *op, kata_error **err);
int kata__vm_step_await_operations(kata_op *op, kata_error **err);
int kata__vm_step_remove_dir(kata_op *op, kata_error **err);

/*
 * The last step of a start (vm/restore_steps.c): runs the op that a room above has set for it, as its child; nothing
 * where none is set. The machine runs, and its agent can be connected to although the VM is STARTING.
 */
int kata__vm_step_prepare(kata_op *op, kata_error **err);
/*
 * For a room above: fn is called by every start from then on and returns an op, begun or not, that must have ended well
 * for the start to succeed (*ret_op NULL: nothing to do). When it fails everything is undone. free_user is called once,
 * when the VM's memory goes or another is set. Not while a start is under way. fn NULL: none.
 */
typedef int (*kata__vm_prepare_fn)(kata_vm *vm, void *user, kata_op **ret_op, kata_error **err);
int kata__vm_set_prepare(kata_vm *vm, kata__vm_prepare_fn fn, void *user, void (*free_user)(void *user),
			 kata_error **err);

/* Root port slot number on pcie.0 of port i, and the address strings: "SS/00" and "0:LUN". */
#define KATA__VM_FIRST_PORT_SLOT 8
#define KATA__VM_PORT_SLOTS 23u
void kata__vm_port_address(int port, char out[16]);
void kata__vm_lun_address(int lun, char out[16]);

/* Makes a VM object for a driver: config is validated already. */
int kata__vm_new(kata_context *ctx, const struct kata__vm_driver *driver, const kata_vm_config *config,
		 const kata_agent_config *agent_config, const kata_qos_config *qos_config, kata_vm **ret_vm,
		 kata_error **err);
/* Makes a VM object in REBUILDING from a released record (hostile) and begins driver->rebuild. */
int kata__vm_rebuild_begin(kata_context *ctx, const struct kata__vm_driver *driver, const char *json, size_t len,
			   const kata_op_options *options, int (*prepare)(kata_vm *vm, void *user, kata_error **err),
			   void *user, kata_vm **ret_vm, kata_op **ret_op, kata_error **err);
/* The released record of the VM as JSON, the caller's own copy. [any thread] */
int kata__vm_record(kata_vm *vm, json_t **ret, kata_error **err);
#define KATA__VM_RECORD_VERSION 1

/* For the agent room. */
/* [any thread] Its start runs what a room above has set (kata__vm_set_prepare): the machine runs although it is
 * STARTING. */
bool kata__vm_is_being_prepared(const kata_vm *vm);
int kata__vm_connect_agent(kata_vm *vm, int *ret_fd, kata_error **err); /* BUSY when one is connected; marks it */
void kata__vm_disconnect_agent(kata_vm *vm);
/* kata_vm_dump into memory of the caller's: `copy` is called once, under the VM's mutex, and answers NULL for no
 * memory. */
typedef char *kata__copy_fn(void *user, const char *text);
int kata__vm_dump_with(kata_vm *vm, kata__copy_fn *copy, void *user, char **ret, kata_error **err);
#endif
