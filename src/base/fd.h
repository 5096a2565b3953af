/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_BASE_FD_H
#define KATA_BASE_FD_H
/* File descriptors: -1 is the only "no fd"; every fd is close-on-exec from birth. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

void kata__close_fd(int *fd); /* closes *fd when >= 0 and sets it to -1; keeps errno */
#define KATA_AUTO_FD __attribute__((cleanup(kata__close_fd)))
static inline int kata__take_fd(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}

/* A listening unix stream socket at dir/name with mode 0600, non-blocking. INVALID when the path exceeds 107 bytes. */
int kata__unix_listen(const char *dir, const char *name, int *ret_fd, kata_error **err);
/* Connects, non-blocking from the connect on (a unix connect succeeds or fails at once). GONE when nobody listens. */
int kata__unix_connect(const char *path, int *ret_fd, kata_error **err);
/* The process that called listen() last on the socket that this one was connected to, as our pid namespace numbers it;
 * 0: it has no number here, or it cannot be told. */
pid_t kata__unix_peer(int fd);
/* sendmsg with MSG_NOSIGNAL and optionally one fd as SCM_RIGHTS. Returns bytes sent or -errno. */
ssize_t kata__unix_send(int fd, const void *data, size_t len, int pass_fd);
/* mkdir -p of `path` with `mode` for what is made. */
int kata__mkdirs(const char *path, mode_t mode, kata_error **err);
/* Removes a directory tree without following symlinks or crossing mounts. 0 when it is not there. */
int kata__remove_tree(const char *path, kata_error **err);
/* Reads a whole regular file of at most `max` bytes; result is NUL-terminated, caller frees. CORRUPT when longer. */
int kata__read_file(const char *path, size_t max, char **ret_data, size_t *ret_len, kata_error **err);
/* Writes beside (.tmp), syncs, renames, syncs the directory. Mode 0600. */
int kata__write_file_atomic(const char *path, const void *data, size_t len, kata_error **err);
#endif
