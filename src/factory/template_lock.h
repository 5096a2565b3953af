/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_TEMPLATE_LOCK_H
#define KATA_FACTORY_TEMPLATE_LOCK_H
/*
 * The directory of a template, and who may change it: one operation at a time, of all processes of the host.
 *
 *	open --> acquire --> (changes the directory) --> release
 *	            | held by another
 *	            v
 *	         waits for the event that the file is closed
 *
 * Model: an flock() on the file `lock` in the directory. Nobody can wait for one with a deadline, but its holder
 * closes the file when it is done, and so does the kernel when it dies: inotify tells that. Where the kernel does it,
 * it tells a moment before it lets go of the lock, so an event is followed by some tries.
 *
 * Invariants: 1. who holds the lock holds that of the directory's present file: a file that was removed meanwhile is
 * opened anew. 2. the directory is ours alone, and holds a template or nothing.
 */
#include "op/op.h"

#define KATA__TEMPLATE_LOCK_NAME "lock"
#define KATA__TEMPLATE_BASE "base" /* the directory of its snapshot, in it */

struct kata__template_lock {
	const char *path; /* of the directory; borrowed */
	int dir_fd, fd, inotify_fd;
	bool makes;    /* the directory is made where it is missing */
	bool made_dir; /* by the last open */

	/* [leader] */
	kata_op *op; /* referenced while it waits */
	uint64_t token;
	struct kata__watch *watch;
	struct kata__timer *timer;
	unsigned tries;
};

void kata__template_lock_init(struct kata__template_lock *l, const char *path, bool makes);
/* [worker] Looks at the directory (and makes it). NOT_FOUND, PERMISSION (others could change it), INVALID (no path of a
 * directory, or one with something else in it). */
int kata__template_lock_open(struct kata__template_lock *l, kata_error **err);
/* [leader] The run and the cancel of a step: DONE once the lock is ours. */
int kata__template_lock_acquire(struct kata__template_lock *l, kata_op *op, kata_error **err);
void kata__template_lock_cancel(struct kata__template_lock *l);
/* [worker] The undo of open: the directory goes, if this operation has made it, nobody else has the lock, and there is
 * no template in it. */
void kata__template_lock_unmake(struct kata__template_lock *l);
/* [leader] Lets go, in whichever state it is. */
void kata__template_lock_release(struct kata__template_lock *l);

/* PERMISSION when somebody but us and root could change what is in the directory. `fd` is open on it. In a `sticky` one
 * (as /tmp) others can make files, but not touch ours: that passes where it is asked for. */
int kata__template_check_dir(int fd, const char *path, bool sticky_passes, kata_error **err);
#endif
