/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_BASE_PROCESS_H
#define KATA_BASE_PROCESS_H
/*
 * Child processes and process identity.
 *
 * Spawning shares the caller's memory until exec (clone with CLONE_VM|CLONE_VFORK|CLONE_PIDFD, as posix_spawn does), so
 * its cost does not grow with the caller. The child gets exactly the fds asked for (close_range for the rest), default
 * signals, an own session, no_new_privs, and optionally other ids. A child is reaped through its pidfd alone.
 *
 * An identity is pid + start time (field 22 of /proc/PID/stat, clock ticks since boot) + boot id. A recycled pid has
 * another start time; after a reboot the boot id differs. Signals go through a pidfd whose identity was checked after
 * it was opened, so a stranger is never hit.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct kata__fd_map {
	int parent_fd;
	int child_fd;
};

struct kata__spawn {
	const char *path;               /* absolute */
	const char *const *argv;        /* NULL-terminated */
	const char *const *envp;        /* NULL-terminated; NULL is an empty environment */
	const struct kata__fd_map *fds; /* 0, 1 and 2 not named here become /dev/null */
	size_t fd_count;
	bool set_ids; /* setgroups(0), setresgid, setresuid before exec */
	uid_t uid;
	gid_t gid;
	/* SIGKILL when the calling thread ends, so also when this process is killed: for a child that the thread waits
	 * for. */
	bool dies_with_thread;
	const char *cwd;     /* NULL: "/" */
	int pid_fd;          /* > 0: the child writes its identity here, "PID START_TIME BOOT_ID\n", before it execs */
	const char *boot_id; /* with pid_fd: this boot's, 36 bytes */
};

/* Returns once exec has succeeded or failed (the error then names the path and the errno). *ret_pidfd is the caller's.
 */
int kata__process_spawn(const struct kata__spawn *spawn, pid_t *ret_pid, int *ret_pidfd, kata_error **err);

struct kata__process_identity {
	pid_t pid;
	uint64_t start_time;
	char boot_id[37];
};

int kata__process_identity_of(pid_t pid, struct kata__process_identity *ret, kata_error **err);
/* Opens a pidfd and verifies the identity through it. GONE: no such process or other boot. IDENTITY: recycled pid. */
int kata__process_open(const struct kata__process_identity *id, int *ret_pidfd, kata_error **err);
/* False only where the identity certainly names no living (not zombie) process: also true where that cannot be told
 * (no fd, no memory), for who takes a living one for dead does harm. */
bool kata__process_is_alive(const struct kata__process_identity *id);
/* 1: it has this very file open, under whatever name. 0: not, or there is no such process. -errno: that cannot be
 * looked at (-EACCES: another user's). */
int kata__process_has_open(pid_t pid, dev_t dev, ino_t ino);
/* It is on its way out: it may have closed its files already. */
bool kata__process_is_ending(pid_t pid);
/* A signal or a debugger has stopped it: it will not do anything until it is continued. */
bool kata__process_is_stopped(const struct kata__process_identity *id);
int kata__process_signal(int pidfd, int sig); /* 0 or -errno; -ESRCH when it has ended */
/* Reaps when the process is our child and has ended. 1: ended and *ret_status is set (waitid code: exit status, or
 * 128+signal); *ret_status = -1 where it is not our child or was reaped elsewhere. 0: still alive. */
int kata__process_try_reap(int pidfd, int *ret_status);
/* This boot's id, read once per call from /proc/sys/kernel/random/boot_id. */
int kata__boot_id(char out[37], kata_error **err);
#endif
