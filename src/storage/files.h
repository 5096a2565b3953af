/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_STORAGE_FILES_H
#define KATA_STORAGE_FILES_H
/* Whole files: their digest, a sparse copy, who they are. All of it is blocking: for worker threads. */
#include <stdint.h>
#include <sys/stat.h>

#include "base/error.h"

#define KATA__DIGEST_MAX 65 /* sha256 in lower case hex, NUL */

/* Asked every few MiB by what takes long: negative with *err set stops it. NULL: nobody asks. */
typedef int (*kata__go_on_fn)(const void *user, kata_error **err);

/* sha256 of a file's first `size` bytes, read from 0 by pread. IO when it is shorter. `what` names it in errors. */
int kata__digest_fd(int fd, uint64_t size, const char *what, kata__go_on_fn go_on, const void *user,
		    char out[KATA__DIGEST_MAX], kata_error **err);
void kata__digest_bytes(const void *data, size_t len, char out[KATA__DIGEST_MAX]);
bool kata__digest_is_valid(const char *text);

/*
 * Copies `size` bytes of `from` to the empty regular file `to`: by sharing blocks where the file system can (reflink),
 * else by copy_file_range or read and write. Holes and blocks of zeros stay holes. IO names how much room is needed and
 * how much there is.
 */
int kata__copy_sparse(int from, int to, uint64_t size, const char *what, kata__go_on_fn go_on, const void *user,
		      kata_error **err);

/* A file as it was at a moment: another inode, size or time later means that it was replaced or written to. */
struct kata__file_identity {
	uint64_t ino, size_bytes, mtime_ns, ctime_ns;
};
void kata__file_identity_of(const struct stat *st, struct kata__file_identity *ret);
bool kata__file_identity_equal(const struct kata__file_identity *a, const struct kata__file_identity *b);
#endif
