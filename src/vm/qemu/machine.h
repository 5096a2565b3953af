/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_QEMU_MACHINE_H
#define KATA_VM_QEMU_MACHINE_H
/*
 * The QEMU process behind a kata_vm: its pidfd, its monitor, its console, the devices for its command line. vm->impl.
 *
 *   blank --start: adopt, connect--> connected --exit seen--> exited
 *                                        |release: let_go--> blank
 *   blank --rebuild: adopt, connect--> connected
 *
 * A monitor connection that broke while QEMU lives is made anew by the next command.
 * [leader] all of it, unless it says otherwise.
 */
#include "vm/qemu/cmdline.h"
#include "vm/qemu/console.h"
#include "vm/qemu/qmp_client.h"
#include "vm/vm.h"

/* How QEMU is run: from the builder's options. Strings are owned by whoever holds the struct. */
struct kata__qemu_settings {
	char *binary;
	bool set_ids;
	uid_t uid;
	gid_t gid;
};

struct kata__qemu_waiter;    /* deletion.c */
struct kata__qemu_port_wait; /* ports.c */
struct kata__qemu_stray;     /* reconcile.c */
struct kata__qemu_clearing;
struct kata__qemu_call;

struct kata__qemu {
	kata_vm *vm;
	struct kata__qemu_settings settings;
	char *machine; /* as the binary names it */
	bool kvm;
	unsigned vsock_cid; /* 0: the agent's channel is virtio-serial */
	bool has_dir;       /* vm->dir is this machine's, and goes with it */
	struct kata__qemu_cold *cold, **cold_last;

	int pidfd; /* -1: no process */
	struct kata__watch *pid_watch;
	struct kata__timer *log_timer;
	bool is_child;
	bool exited;
	int exit_status; /* as kata__process_try_reap */
	struct kata__qmp *qmp;
	struct kata__qemu_call *connecting; /* waits until QEMU takes a connection to its monitor */
	bool inherited;                     /* of an owner who died: events of what he did may come yet */
	unsigned connections;               /* to the monitor, since it is ours: events may have passed between two */
	bool look_due;                      /* see kata__qemu_look_for_lost_later */
	struct kata__timer *look_timer;
	bool silent; /* left an undo without an answer, twice; until it says something, undos fail at once */
	struct kata__console console;
	struct kata__qemu_waiter *waiters;
	struct kata__qemu_port_wait *port_waits;
	uint64_t drained_ns; /* what it was asked to eject before that, and ejected, it is done with */
	uint64_t last_answer_ns, last_answer_took_ns; /* its last eject */
	struct kata__qemu_stray *strays;
	struct kata__qemu_clearing *clearings;
	struct kata__timer *stray_timer;
	uint64_t stray_repeat_ms;
	char migration[16]; /* its status, as the last event or answer said; "" before it begins */
	kata_op *migrating; /* referenced: waits for its end */
	uint64_t migrating_token;
	bool was_saved;   /* looked at by a save: it was saved while it was paused, and stands still since */
	char *last_words; /* under console.mutex */
	kata_op *killing; /* referenced: a destroy that waits for the exit */
	uint64_t killing_token;
};

static inline struct kata__qemu *kata__qemu_of(const kata_vm *vm)
{
	return (struct kata__qemu *)vm->impl;
}
static inline struct kata__qemu *kata__qemu_of_op(const kata_op *op)
{
	return kata__qemu_of(kata__vm_op_data(op)->vm);
}

int kata__qemu_init(kata_vm *vm, kata_error **err);
void kata__qemu_deinit(kata_vm *vm);
void kata__qemu_explain(kata_vm *vm, kata_error *err); /* as kata__vm_driver.explain */

/* Watches this process from now on; takes the pidfd. */
int kata__qemu_adopt(struct kata__qemu *q, int take_pidfd, kata_error **err);
/* Stops watching and closes all connections; the process is left as it is. Returns its pidfd, the caller's, or -1. */
int kata__qemu_let_go(struct kata__qemu *q);
/* Step: a new connection to the monitor; waits until it can be used. */
int kata__qemu_step_connect(kata_op *op, kata_error **err);
/* A new connection to the monitor that nobody waits for: commands are queued behind its handshake. GONE, BUSY. */
int kata__qemu_connect(struct kata__qemu *q, kata_error **err);
/* A connection to the monitor, the one there is or a new one: 0, GONE, or BUSY: QEMU takes none now. */
int kata__qemu_ensure_connected(struct kata__qemu *q, kata_error **err);
int kata__qemu_connect_console(struct kata__qemu *q, kata_error **err);
/* A connection to <dir>/<name>; non-blocking. */
int kata__qemu_connect_socket(const struct kata__qemu *q, const char *name, int *ret_fd, kata_error **err);

/*
 * A command as the wait of the step (or undo) under way: returns KATA__STEP_WAIT or < 0. Takes take_args (NULL: could
 * not be made, NO_MEMORY). The reply goes through check (NULL: success is success): it gets the value, or *err set, and
 * returns the step's outcome; to forgive, it frees *err, sets it NULL and returns 0. It must not write the op's data:
 * the op may have gone on (deadline).
 */
typedef int (*kata__qemu_check_fn)(kata_op *op, const json_t *value, kata_error **err);
int kata__qemu_command(kata_op *op, const char *command, json_t *take_args, int fd, kata__qemu_check_fn check,
		       kata_error **err);
/* One without arguments. */
int kata__qemu_plain_command(kata_op *op, const char *command, kata__qemu_check_fn check, kata_error **err);
/* Checks for undos: what is not there (or a QEMU that is gone) needs no undoing. */
int kata__qemu_check_absent(kata_op *op, const json_t *value, kata_error **err);
bool kata__qemu_says_absent(const kata_error *err);

/* Devices of the boot command line (cold.c). add takes the entry. take_cold unlinks the entry of this device (NULL:
 * none). */
void kata__qemu_add_cold(struct kata__qemu *q, struct kata__qemu_cold *take_entry);
struct kata__qemu_cold *kata__qemu_take_cold(struct kata__qemu *q, const void *storage_or_nic);
void kata__qemu_free_cold(struct kata__qemu_cold *entry); /* NULL is fine */
/* After the start QEMU has the fds. */
void kata__qemu_drop_cold(struct kata__qemu *q);
/* Steps and finish of unplugging before the start. */
int kata__qemu_step_take_cold(kata_op *op, kata_error **err);
int kata__qemu_undo_take_cold(kata_op *op, kata_error **err);
void kata__qemu_finish_take_cold(kata_op *op, int status, kata_error **error);

/* What disks and NICs have in common (plug.c): steps of the device itself, an undo, and the finish of plug and unplug.
 */
int kata__qemu_step_device_add(kata_op *op, kata_error **err);
int kata__qemu_undo_device_add(kata_op *op, kata_error **err);
int kata__qemu_step_device_del(kata_op *op, kata_error **err);
void kata__qemu_finish_plug(kata_op *op, int status, kata_error **error);
bool kata__qemu_is_block_device(int fd);
/* Of the disk or NIC that the op is about. */
void kata__qemu_device_name(const kata_op *op, char out[KATA__QEMU_NAME_MAX]);
/* Check of what opens a disk: BUSY with the storage and its file where somebody else has it locked. */
int kata__qemu_check_lock(kata_op *op, const json_t *value, kata_error **err);
bool kata__qemu_says_locked(const char *text);

/*
 * Unplugging (deletion.c): device_del is only a request; the device is gone when QEMU says DEVICE_DELETED, after the
 * guest let go. The op's scratch holds the wait, so a table that uses these has no other; its finish calls
 * kata__qemu_end_deletion first.
 */
int kata__qemu_request_deletion(kata_op *op, const char *name, kata_error **err); /* step: waits for the reply */
int kata__qemu_await_deletion(kata_op *op, kata_error **err);                     /* step: waits for the event */
void kata__qemu_cancel_deletion(kata_op *op);                                     /* its cancel */
int kata__qemu_undo_device(kata_op *op, const char *name, kata_error **err);      /* both, as one undo */
bool kata__qemu_awaits_guest(const struct kata__qemu *q); /* it has not answered a device_del of a port */
void kata__qemu_end_deletion(kata_op *op);
void kata__qemu_on_deleted(struct kata__qemu *q, const char *name);
/* It has gone, and nobody waited for that. */
void kata__qemu_note_lost(struct kata__qemu *q, const char *name);
/* The monitor's connection broke, or QEMU ended. */
void kata__qemu_fail_waiters(struct kata__qemu *q, const kata_error *why);

/*
 * When a root port may be used again (ports.c). await_port is the end of the step that reserves it, or a LUN: DONE, or
 * WAIT while the guest may be busy with what left the port just now, or while what a dead owner left is in the way; its
 * cancel.
 */
int kata__qemu_await_port(kata_op *op, kata_error **err);
void kata__qemu_cancel_await_port(kata_op *op);
void kata__qemu_occupy_port(kata_op *op);         /* before device_add */
bool kata__qemu_uses_port(const kata_op *op);     /* not a LUN, which goes without the guest's consent */
bool kata__qemu_port_is_clean(const kata_op *op); /* the one it has */
/* The guest has ejected a device; when it was asked to, and whether the port was clean then. */
void kata__qemu_port_answered(struct kata__qemu *q, uint64_t asked_ns, bool port_was_clean);
/* Wakes those who need wait no longer. */
void kata__qemu_look_at_ports(struct kata__qemu *q);

/* Properties of devices, side by side, as one wait of a step (inquiry.c). */
struct kata__qemu_question {
	char device[KATA__QEMU_NAME_MAX];
	const char *property;
	char expected[32]; /* the asker's own */
};
/* Not for a device that has gone; text is NULL when the answer is no text. A failure is the step's. */
typedef int (*kata__qemu_answer_fn)(kata_op *op, const struct kata__qemu_question *question, const char *text,
				    kata_error **err);
int kata__qemu_inquire(kata_op *op, const struct kata__qemu_question *questions, size_t count,
		       kata__qemu_answer_fn answer, kata_error **err);

/* The op's scratch of a rebuild. */
struct kata__qemu_takeover {
	int pidfd;
	json_t *fd_sets; /* QEMU's answer */
	/* query-status goes out with the connection, so that QEMU reads it while others are asked about the process. */
	bool status_asked, status_answered, is_over;
	uint64_t status_token; /* of the step that waits for the answer; 0: none does */
	kata_error *status_error;
	kata_vm_state status;
};

/* Steps of the rebuild (verify.c): what the record says of devices, against QEMU and the files it has open. */
int kata__qemu_step_verify_slots(kata_op *op, kata_error **err);
int kata__qemu_step_query_fd_sets(kata_op *op, kata_error **err);
int kata__qemu_step_verify_files(kata_op *op, kata_error **err); /* BLOCKING */
/* With the answer to query-named-block-nodes. */
int kata__qemu_verify_nodes(kata_op *op, const json_t *nodes, kata_error **err);

/* Steps of the rebuild (reconcile.c): QEMU's devices against the record. */
int kata__qemu_step_compare_devices(kata_op *op, kata_error **err);
int kata__qemu_step_find_strays(kata_op *op, kata_error **err);
int kata__qemu_step_sweep(kata_op *op, kata_error **err);
/* The last owner died, or left something half done: the machine may have what the record has not, and lack what it has.
 */
bool kata__qemu_owner_died(const kata_op *op);
/* It has such a thing now. */
bool kata__qemu_is_unsettled(const struct kata__qemu *q);
/* After a rebuild that compared nothing, and after a release that failed: asks which devices there are, in a moment,
 * and before any other command. One that the guest let go of meanwhile is DIVERGED by the time that such a command is
 * answered. */
void kata__qemu_look_for_lost_later(struct kata__qemu *q);
void kata__qemu_look_for_lost(struct kata__qemu *q); /* now: the connection is there */
/* The device of that name is not the recorded one: it was plugged by an owner that died before it stored that. */
int kata__qemu_plugged_anew(kata_op *op, const char *name, kata_error **err);
/* False: there is none of that name. */
bool kata__qemu_stray_deleted(struct kata__qemu *q, const char *name);
/* Whether what dead owners left stands in the way of a device of that name in QEMU: 0, WAIT until
 * kata__qemu_look_at_ports, or BUSY: it does not go by itself. */
int kata__qemu_check_strays(const kata_op *op, const char *name, kata_error **err);
void kata__qemu_forget_strays(struct kata__qemu *q);

/* Reaps a child of ours that was let go, when it ends (reaper.c). Takes the pidfd. */
void kata__qemu_reap_later(kata_context *ctx, int take_pidfd);

/* [any thread] Tail of vmm.log, or of what was kept of it; malloc'ed or NULL. */
char *kata__qemu_last_words(kata_vm *vm, size_t *ret_len);
char *kata__qemu_console(kata_vm *vm, size_t *ret_len);
/* [any thread] Before the directory goes. */
void kata__qemu_keep_last_words(kata_vm *vm);

/* The tables of the driver. */
extern const struct kata__op_table kata__qemu_start, kata__qemu_start_warm, kata__qemu_start_restored,
	kata__qemu_prestart, kata__qemu_start_prestarted, kata__qemu_pause, kata__qemu_resume, kata__qemu_release,
	kata__qemu_rebuild, kata__qemu_destroy, kata__qemu_snapshot;
extern const struct kata__op_table kata__qemu_add_storage, kata__qemu_remove_storage, kata__qemu_add_storage_cold,
	kata__qemu_remove_storage_cold;
extern const struct kata__op_table kata__qemu_add_nic, kata__qemu_remove_nic, kata__qemu_add_nic_cold,
	kata__qemu_remove_nic_cold;
extern const struct kata__vm_driver kata__qemu_driver;
#endif
