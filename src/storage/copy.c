/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying a disk. Holes are found by SEEK_DATA where the file system tells; where it does not (a block device) blocks
 * of zeros are left out as they are read.
 */
#include "storage/files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define CHUNK_BYTES (UINT64_C(4) << 20)
#define BLOCK_BYTES 4096u

struct copy {
	int from, to;
	const char *what;
	kata__go_on_fn go_on;
	const void *user;
	uint8_t *buf;  /* made when first needed */
	bool no_range; /* copy_file_range does not work between these */
};

static uint64_t room(int fd)
{
	struct statvfs v;

	return fstatvfs(fd, &v) == 0 ? (uint64_t)v.f_bavail * v.f_frsize : UINT64_MAX;
}

static int fail_write(const struct copy *c, int os_errno, kata_error **err)
{
	if (os_errno != ENOSPC && os_errno != EDQUOT)
		return kata__fail_errno(err, os_errno, "%s: its copy cannot be written", c->what);
	return kata__fail_errno(err, os_errno, "%s: no room for its copy, %llu bytes are left on the file system",
				c->what, (unsigned long long)room(c->to));
}

static bool is_zero(const uint8_t *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

static int write_block(const struct copy *c, const uint8_t *data, size_t len, uint64_t at, kata_error **err)
{
	while (len) {
		ssize_t n = pwrite(c->to, data, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail_write(c, errno, err);
		data += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

static int write_what_is_not_zero(const struct copy *c, size_t len, uint64_t at, kata_error **err)
{
	int rc = 0;

	for (size_t i = 0; i < len && rc == 0; i += BLOCK_BYTES) {
		size_t n = len - i < BLOCK_BYTES ? len - i : BLOCK_BYTES;

		if (!is_zero(c->buf + i, n))
			rc = write_block(c, c->buf + i, n, at + i, err);
	}
	return rc;
}

static int copy_by_hand(struct copy *c, uint64_t at, uint64_t len, uint64_t *ret_done, kata_error **err)
{
	ssize_t n;

	if (!c->buf && !(c->buf = malloc(CHUNK_BYTES)))
		return kata__fail_no_memory(err);
	do
		n = pread(c->from, c->buf, len < CHUNK_BYTES ? (size_t)len : CHUNK_BYTES, (off_t)at);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return kata__fail_errno(err, errno, "%s: cannot be read", c->what);
	if (n == 0)
		return kata__fail(err, KATA_E_IO, HOST, "%s: was cut to %llu bytes while it was copied", c->what,
				  (unsigned long long)at);
	*ret_done = (uint64_t)n;
	return write_what_is_not_zero(c, (size_t)n, at, err);
}

/* One piece of data of at most a chunk. */
static int copy_some(struct copy *c, uint64_t at, uint64_t len, uint64_t *ret_done, kata_error **err)
{
	off_t in = (off_t)at, out = (off_t)at;
	ssize_t n;

	if (c->no_range)
		return copy_by_hand(c, at, len, ret_done, err);
	n = copy_file_range(c->from, &in, c->to, &out, len < CHUNK_BYTES ? (size_t)len : CHUNK_BYTES, 0);
	if (n > 0) {
		*ret_done = (uint64_t)n;
		return 0;
	}
	if (n < 0 && (errno == ENOSPC || errno == EDQUOT))
		return fail_write(c, errno, err);
	c->no_range = true; /* other file systems, a block device, an old kernel: by hand it works or says why not */
	return copy_by_hand(c, at, len, ret_done, err);
}

static int copy_range(struct copy *c, uint64_t at, uint64_t end, kata_error **err)
{
	uint64_t done = 0;
	int rc = 0;

	for (; at < end && rc == 0; at += done) {
		rc = c->go_on ? c->go_on(c->user, err) : 0;
		if (rc == 0)
			rc = copy_some(c, at, end - at, &done, err);
	}
	return rc;
}

/* The next piece of data from `at` on: false when there is none. */
static bool next_data(const struct copy *c, uint64_t at, uint64_t size, uint64_t *ret_begin, uint64_t *ret_end)
{
	off_t begin = lseek(c->from, (off_t)at, SEEK_DATA);
	off_t end;

	if (begin < 0 && errno == ENXIO)
		return false;
	end = begin < 0 ? -1 : lseek(c->from, begin, SEEK_HOLE);
	if (begin < 0 || end <= begin) { /* it does not tell */
		begin = (off_t)at;
		end = (off_t)size;
	}
	*ret_begin = (uint64_t)begin;
	*ret_end = (uint64_t)end < size ? (uint64_t)end : size;
	return *ret_begin < size;
}

/* Before anything is written: an error at once is better than one after a minute. */
static int check_room(const struct copy *c, kata_error **err)
{
	uint64_t free_bytes = room(c->to), need;
	struct stat st;

	if (fstat(c->from, &st) < 0)
		return kata__fail_errno(err, errno, "%s: cannot be looked at", c->what);
	need = (uint64_t)st.st_blocks * 512u;
	if (need <= free_bytes)
		return 0;
	return kata__fail_errno(err, ENOSPC, "%s: its copy takes %llu bytes, %llu are left on the file system", c->what,
				(unsigned long long)need, (unsigned long long)free_bytes);
}

int kata__copy_sparse(int from, int to, uint64_t size, const char *what, kata__go_on_fn go_on, const void *user,
		      kata_error **err)
{
	struct copy c = {.from = from, .to = to, .what = what, .go_on = go_on, .user = user};
	uint64_t begin = 0, end = 0;
	int rc;

	if (ioctl(to, FICLONE, from) == 0)
		return 0;
	rc = check_room(&c, err);
	if (rc == 0 && ftruncate(to, (off_t)size) < 0)
		rc = fail_write(&c, errno, err);
	while (rc == 0 && end < size && next_data(&c, end, size, &begin, &end))
		rc = copy_range(&c, begin, end, err);
	free(c.buf);
	return rc;
}

/* ---- who a file is ---- */

static uint64_t to_ns(struct timespec t)
{
	/* Before 1970 all is one moment: the size and the inode still tell. */
	return t.tv_sec < 0 ? 0 : (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

void kata__file_identity_of(const struct stat *st, struct kata__file_identity *ret)
{
	*ret = (struct kata__file_identity){.ino = st->st_ino,
					    .size_bytes = (uint64_t)st->st_size,
					    .mtime_ns = to_ns(st->st_mtim),
					    .ctime_ns = to_ns(st->st_ctim)};
}

bool kata__file_identity_equal(const struct kata__file_identity *a, const struct kata__file_identity *b)
{
	return a->ino == b->ino && a->size_bytes == b->size_bytes && a->mtime_ns == b->mtime_ns &&
	       a->ctime_ns == b->ctime_ns;
}
