/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_OWNER_H
#define KATA_VM_OWNER_H
/*
 * owner.json in a VM's directory: which process drives the machine, and the epoch of that ownership.
 *
 *	owned (pid, epoch n) --release--> free (pid 0, n) --take--> owned (pid, n) --rebuilt--> owned (pid, n + 1)
 *
 * A take-over is refused with FENCED while the recorded owner lives. It is read, compared and written under a short
 * flock() of the directory, so that of two processes that try at once one gets FENCED. Nothing stays open or locked
 * afterwards: a stuck owner holds no lock.
 *
 * The epoch grows when the rebuild is complete, not before: who dies in the middle leaves the record he had as good as
 * it was. Once it has grown, older records are FENCED. All functions are blocking (files).
 */
#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

#include "base/process.h"

struct kata__owner {
	struct kata__process_identity process; /* pid 0: nobody's, released */
	uint64_t epoch;                        /* grows by one with every rebuild; 1 at start */
	char vm_id[65];
	char vm_uuid[37];
	/* With pid 0: the machine has, or may have, what its record does not: what an owner before the last one left
	 * half done, or all of a recovery's doubts. Whoever takes it over looks, as after the death of an owner. */
	bool unsettled;
};

/*
 * The file `pooled` beside it, in the same form: the machine is the stock of that process, not yet given to anybody.
 * While it changes hands between processes owner.json names nobody, and this one says who answers for it. The vm_id in
 * either file is the one that the machine was started under: a pooled one gets another name when it is taken.
 */
int kata__owner_mark_pooled(const char *dir, const struct kata__owner *steward, kata_error **err);
int kata__owner_unmark_pooled(const char *dir, kata_error **err); /* not there: nothing */
/* NOT_FOUND, CORRUPT, VERSION. */
int kata__owner_read_pooled(const char *dir, struct kata__owner *ret, kata_error **err);

/* Which owner.json stands in a directory: another one is another file. One system call to compare. */
struct kata__owner_stamp {
	ino_t ino; /* 0: none */
	struct timespec written;
};
/* False: there is none. */
bool kata__owner_stamp(const char *dir, struct kata__owner_stamp *ret);
/* FENCED, naming who owns the machine now, since when, and at which epoch; 0 where that is `self` at `epoch` still. */
int kata__owner_fence(const char *dir, const char *vm_id, const struct kata__process_identity *self, uint64_t epoch,
		      kata_error **err);

/* Replaces owner.json in `dir` (atomic, mode 0600). */
int kata__owner_write(const char *dir, const struct kata__owner *owner, kata_error **err);
/* NOT_FOUND, CORRUPT, VERSION. */
int kata__owner_read(const char *dir, struct kata__owner *ret, kata_error **err);
/* True while the recorded owner lives (this process included). */
bool kata__owner_is_alive(const struct kata__owner *owner);
/*
 * Makes `self` the owner of the machine `uuid` in `dir` when the recorded owner is gone, and says who was before.
 * `known_epoch` is what the record at hand says. GONE: no such directory. IDENTITY: another machine. FENCED: the owner
 * lives, or it was taken over since that record. CORRUPT: the record claims an epoch that is yet to come.
 */
int kata__owner_take(const char *dir, const char *uuid, uint64_t known_epoch, const struct kata__process_identity *self,
		     struct kata__owner *ret_before, struct kata__owner *ret_now, kata_error **err);
#endif
