/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_RECOVER_H
#define KATA_VM_RECOVER_H
/*
 * What a VM's directory says about its machine to a process that did not make it. Knows the files every driver with a
 * directory keeps: owner.json, released.json, journal, and vmm.pid, which the VMM's process writes about itself before
 * it execs. Blocking (files).
 *
 * Who is the VMM: the process that wrote vmm.pid, by pid, start time and boot, if it has this directory's vmm.log open:
 * it has from its first moment (the starter opened it) to its last. Another one of that pid is a stranger and is left
 * alone, also when it started in the same tick of the clock, and when somebody has written its number there by hand:
 * then the VMM is gone, if no process of the host has that log open, and the directory a riddle, if one has.
 * While vmm.pid is empty and locked, a child of the starter is on its way to writing it.
 *
 * A directory without owner.json is being made, or being removed, or was left in the middle of either: in all three no
 * VMM lives, so removing it harms nobody (a start that is still at it fails cleanly). A moment's grace spares it that.
 */
#include "vm/vm.h"

struct kata__leftover {
	char *dir;
	char id[65];
	int lock_fd; /* held from open to close */
	struct kata__owner owner;
	bool has_owner; /* owner.json was there and good */
	bool owner_lives;
	bool pooled;        /* it is the stock of a factory, whatever else lies there: nobody was given it */
	bool steward_lives; /* the factory's process */
	pid_t steward_pid;
	bool released; /* released.json is there: a release was complete, and no rebuild since */
	uint64_t released_epoch;
	char *interrupted; /* "start/spawn": the last step that began and was not undone; or NULL */
	int vmm_pidfd;     /* -1: no VMM lives */
	pid_t vmm_pid;
	bool doubtful; /* a VMM lives, but nothing left says whose */
	bool becoming; /* the dead owner's child lives and has not yet become the VMM, or said who it is */
	bool ending;   /* the process of vmm.pid is on its way out */
	bool stranger; /* vmm.pid names a process, vmm_pid, that is not of this directory; another may be */
	bool old_boot; /* it was made before the host's last boot */
};

#define KATA__LEFTOVER_GRACE_MS 1000u

/* NOT_FOUND: no such directory (any more). BUSY: another process recovers it or takes it over. patience: until when
 * (kata__now_ns) it waits for owner.json, and for vmm.pid, where they may be just being written; 0: it does not. */
int kata__leftover_open(const char *state_dir, const char *id, uint64_t patience_ns, struct kata__leftover *ret,
			kata_error **err);
void kata__leftover_close(struct kata__leftover *l);
/* SIGKILL to the VMM, if one lives. Does not wait. PERMISSION; IDENTITY: a stranger is where it should be. */
int kata__leftover_kill(struct kata__leftover *l, kata_error **err);
/* Waits for its end, then removes the directory. TIMEOUT: it does not die (uninterruptible sleep). */
int kata__leftover_remove(struct kata__leftover *l, uint64_t deadline_ns, kata_error **err);
/* The owner is dead and the machine lives: makes it free for whoever has a record of `epoch`. Unless it was released,
 * the dead owner stays named: his record may be older than the machine. */
int kata__leftover_set_free(struct kata__leftover *l, uint64_t epoch, kata_error **err);

/* vmm.pid in that directory names this process, as it is now. */
bool kata__leftover_names(const char *dir, pid_t pid);

/* The record that the last release left beside the machine, if it is of that epoch; malloc'ed. NULL: none such. */
char *kata__vm_read_released(const char *state_dir, const char *id, uint64_t epoch);
/* The epoch in a VM's record; 0 when it has none that can be read. */
uint64_t kata__vm_record_epoch(const char *json, size_t length);
/* [leader] A rebuild that is being undone: the release that follows leaves the machine at the epoch that it had before,
 * so that the record it was rebuilt from stays good. Nothing may have changed in between. */
void kata__vm_rewind_epoch(kata_vm *vm);
#endif
