/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening an image so that what was checked is what the VMM gets.
 *
 * Model: the path is resolved once, to an O_PATH fd that has no effect on what it names (a fifo does not block, a tape
 * does not rewind); its type is checked by fstat; then that very inode is opened through /proc/self/fd. Whatever
 * happens to the path meanwhile, fd and checks are of one inode. Symlinks in the path are followed: /dev/disk/by-id is
 * made of them, and what they lead to is checked like anything else. Magic links (/proc/PID/fd, /proc/PID/root) are
 * not: they lead out of the path's own tree without showing it. A block device that may be written is held with O_EXCL
 * for as long as the VMM has the fd: the kernel then refuses to mount it, and refuses us what is mounted anywhere.
 * Read-only, the claim is only tried: several VMs may read one device. Does not keep two of our VMs from one writable
 * file: the VMM's own image lock does.
 */
#include "storage/storage.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "storage/mounted.h"
#include "storage/qcow2.h"

#define SECTOR_BYTES 512u

/* One file of an image: the image itself, or its backing file. */
struct source {
	const char *what; /* "storage 'x': /path" for errors */
	const char *path;
	kata_storage_format format;
	bool read_only;
	bool may_have_backing;
};

/* ---- opening ---- */

static int open_path(const struct source *s, int *ret_fd, kata_error **err)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS};
	int fd = (int)syscall(SYS_openat2, AT_FDCWD, s->path, &how, sizeof(how));

	if (fd < 0 && (errno == ENOSYS || errno == EPERM)) /* kernels before 5.6, and seccomp filters of that time */
		fd = open(s->path, O_PATH | O_CLOEXEC);
	if (fd < 0 && errno == ELOOP)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "%s: leads through a loop of symlinks or through a link like /proc/PID/fd: name the "
				  "file itself",
				  s->what);
	if (fd < 0)
		return kata__fail_errno(err, errno, "%s", s->what);
	*ret_fd = fd;
	return 0;
}

static int check_type(const struct source *s, const struct stat *st, kata_error **err)
{
	const char *kind = S_ISDIR(st->st_mode)    ? "a directory"
			   : S_ISFIFO(st->st_mode) ? "a fifo"
			   : S_ISSOCK(st->st_mode) ? "a socket"
			   : S_ISCHR(st->st_mode)  ? "a character device"
						   : "of an unknown type";

	if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
		return 0;
	return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is %s, must be a regular file or a block device", s->what,
			  kind);
}

static int reopen(const struct source *s, int path_fd, int flags, int *ret_fd, kata_error **err)
{
	char name[48];
	int fd;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", path_fd);
	fd = open(name, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 && errno == EBUSY)
		return kata__fail(err, KATA_E_BUSY, HOST,
				  "%s: is in use on the host: mounted, swap, part of a RAID, LVM or device-mapper "
				  "device, or plugged "
				  "into a VM",
				  s->what);
	if (fd < 0)
		return kata__fail_errno(err, errno, "%s: cannot be opened for %s", s->what,
					(flags & O_ACCMODE) == O_RDONLY ? "reading" : "reading and writing");
	*ret_fd = fd;
	return 0;
}

static int open_checked(const struct source *s, int path_fd, const struct stat *st, int *ret_fd, kata_error **err)
{
	int flags = s->read_only ? O_RDONLY : O_RDWR;
	KATA_AUTO_FD int claim = -1;
	int rc;

	if (!S_ISBLK(st->st_mode))
		return reopen(s, path_fd, flags, ret_fd, err);
	if (!s->read_only)
		return reopen(s, path_fd, flags | O_EXCL, ret_fd, err);
	rc = reopen(s, path_fd, flags | O_EXCL, &claim, err);
	kata__close_fd(&claim);
	return rc < 0 ? rc : reopen(s, path_fd, flags, ret_fd, err);
}

/* The fd of what the path names, of a permitted type and not mounted. */
static int open_source(const struct source *s, int *ret_fd, struct stat *ret_st, kata_error **err)
{
	KATA_AUTO_FD int path_fd = -1, fd = -1;
	struct stat st;
	int rc = open_path(s, &path_fd, err);

	if (rc < 0)
		return rc;
	if (fstat(path_fd, &st) < 0)
		return kata__fail_errno(err, errno, "%s", s->what);
	rc = check_type(s, &st, err);
	if (rc == 0)
		rc = kata__check_not_mounted(&st, s->what, err);
	if (rc == 0)
		rc = open_checked(s, path_fd, &st, &fd, err);
	if (rc < 0)
		return rc;
	/* The non-blocking flag was for the open only: QEMU must not inherit it. */
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) < 0)
		return kata__fail_errno(err, errno, "%s", s->what);
	*ret_fd = kata__take_fd(&fd);
	*ret_st = st;
	return 0;
}

static int get_file_size(const struct source *s, int fd, const struct stat *st, uint64_t *ret, kata_error **err)
{
	*ret = (uint64_t)st->st_size;
	if (S_ISBLK(st->st_mode) && ioctl(fd, BLKGETSIZE64, ret) < 0)
		return kata__fail_errno(err, errno, "%s: its size cannot be read", s->what);
	return 0;
}

/* ---- content ---- */

static ssize_t read_head(int fd, uint8_t *buf, size_t size)
{
	size_t n = 0;

	while (n < size) {
		ssize_t got = pread(fd, buf + n, size - n, (off_t)n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		n += (size_t)got;
	}
	return (ssize_t)n;
}

static int check_raw(const struct source *s, int fd, uint64_t size, kata_error **err)
{
	uint8_t head[4];
	ssize_t n;

	if (size == 0)
		return kata__fail(err, KATA_E_INVALID, HOST,
				  "%s: is empty: a raw disk has at least one sector of %u bytes", s->what,
				  SECTOR_BYTES);
	if (size % SECTOR_BYTES)
		return kata__fail(err, KATA_E_INVALID, HOST,
				  "%s: has %llu bytes, a raw disk has a multiple of %u: truncate -s %%%u", s->what,
				  (unsigned long long)size, SECTOR_BYTES, SECTOR_BYTES);
	n = read_head(fd, head, sizeof(head));
	if (n < 0)
		return kata__fail_errno(err, (int)-n, "%s: cannot be read", s->what);
	if (kata__qcow2_has_magic(head, (size_t)n))
		return kata__fail(
			err, KATA_E_INVALID, HOST,
			"%s: is given as raw, but begins like a qcow2 image: as raw, the guest could write a header "
			"that makes "
			"it point to other files of the host. Say KATA_STORAGE_QCOW2, or erase its first bytes",
			s->what);
	return 0;
}

static int read_qcow2(const struct source *s, int fd, uint64_t file_size, struct kata__qcow2 *ret, kata_error **err)
{
	KATA_AUTO(free) uint8_t *head = malloc(KATA__QCOW2_HEADER_MAX);
	ssize_t n;

	if (!head)
		return kata__fail_no_memory(err);
	n = read_head(fd, head, KATA__QCOW2_HEADER_MAX);
	if (n < 0)
		return kata__fail_errno(err, (int)-n, "%s: cannot be read", s->what);
	return kata__qcow2_parse(head, (size_t)n, file_size, s->what, ret, err);
}

/* The virtual size, and the name of the backing file ("" for none). */
static int check_content(const struct source *s, int fd, const struct stat *st, uint64_t *ret_size,
			 struct kata__qcow2 *ret_header, kata_error **err)
{
	uint64_t file_size;
	int rc = get_file_size(s, fd, st, &file_size, err);

	if (rc < 0)
		return rc;
	if (s->format == KATA_STORAGE_RAW) {
		*ret_size = file_size;
		return check_raw(s, fd, file_size, err);
	}
	rc = read_qcow2(s, fd, file_size, ret_header, err);
	if (rc < 0)
		return rc;
	*ret_size = ret_header->size_bytes;
	if (ret_header->backing[0] && !s->may_have_backing)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "%s: wants the backing file '%.256s', which is not allowed here: %s", s->what,
				  ret_header->backing,
				  "name it as backing_path, or give it no backing file (qemu-img rebase, convert)");
	return 0;
}

/* ---- the backing file ---- */

/* Does the header's name lead to the file that the caller allowed? Names of protocols ("nbd:...", "json:...") never do.
 */
static int check_backing_name(const kata_storage *storage, const struct source *image, const char *name,
			      const struct stat *allowed, kata_error **err)
{
	KATA_AUTO(free) char *full = NULL;
	const char *slash = strrchr(image->path, '/');
	struct stat st;

	if (strcspn(name, ":") < strcspn(name, "/"))
		return kata__fail(
			err, KATA_E_INVALID, CALLER,
			"%s: its backing file '%.256s' is no path but names a protocol, which is never followed",
			image->what, name);
	full = name[0] == '/' ? kata__strdup(name)
			      : kata__format("%.*s/%s", (int)(slash - image->path), image->path, name);
	if (!full)
		return kata__fail_no_memory(err);
	if (stat(full, &st) < 0 || st.st_dev != allowed->st_dev || st.st_ino != allowed->st_ino)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "%s: its backing file is '%.256s', but backing_path allows only %s", image->what,
				  name, kata__storage_backing_path(storage));
	return 0;
}

static int check_backing_format(const kata_storage *storage, const struct source *image,
				const struct kata__qcow2 *header, kata_error **err)
{
	const char *given = kata__storage_format_name(kata__storage_backing_format(storage));

	if (!header->backing_format[0] || strcmp(header->backing_format, given) == 0)
		return 0;
	return kata__fail(err, KATA_E_INVALID, CALLER,
			  "%s: says its backing file is '%s', but backing_format says '%s'", image->what,
			  header->backing_format, given);
}

static int open_backing(const kata_storage *storage, const struct source *image, const struct kata__qcow2 *header,
			int *ret_fd, struct stat *ret_st, kata_error **err)
{
	const char *path = kata__storage_backing_path(storage);
	KATA_AUTO(free)
	char *what = kata__format("storage '%s': backing file %s", kata_storage_get_id(storage), path ? path : "");
	struct source s = {
		.what = what, .path = path, .format = kata__storage_backing_format(storage), .read_only = true};
	struct kata__qcow2 ignored;
	KATA_AUTO_FD int fd = -1;
	uint64_t size;
	int rc;

	if (!path)
		return 0;
	if (!what)
		return kata__fail_no_memory(err);
	if (!header->backing[0])
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: has no backing file, but backing_path names %s",
				  image->what, path);
	rc = open_source(&s, &fd, ret_st, err);
	if (rc == 0)
		rc = check_backing_name(storage, image, header->backing, ret_st, err);
	if (rc == 0)
		rc = check_backing_format(storage, image, header, err);
	if (rc == 0)
		rc = check_content(&s, fd, ret_st, &size, &ignored, err);
	if (rc == 0)
		*ret_fd = kata__take_fd(&fd);
	return rc;
}

/* ---- which files they are ---- */

struct kata__file_id kata__file_id_of(const struct stat *st)
{
	if (S_ISBLK(st->st_mode))
		return (struct kata__file_id){0, (ino_t)st->st_rdev};
	return (struct kata__file_id){st->st_dev, st->st_ino};
}

static bool look(const char *path, struct kata__file_id *ret)
{
	struct stat st;

	if (!path || stat(path, &st) < 0)
		return false;
	*ret = kata__file_id_of(&st);
	return true;
}

void kata__disk_files_look(const kata_storage *s, struct kata__disk_files *ret)
{
	*ret = (struct kata__disk_files){.read_only = kata_storage_is_read_only(s)};
	ret->has_file = look(kata_storage_get_path(s), &ret->file);
	ret->has_backing = look(kata__storage_backing_path(s), &ret->backing);
}

static bool is_one(const struct kata__file_id *a, const struct kata__file_id *b)
{
	return a->dev == b->dev && a->ino == b->ino;
}

bool kata__disk_files_same(const struct kata__disk_files *a, const struct kata__disk_files *b)
{
	return a->has_file && b->has_file && !(a->read_only && b->read_only) && is_one(&a->file, &b->file);
}

bool kata__disk_files_below(const struct kata__disk_files *a, const struct kata__disk_files *b)
{
	return a->has_file && b->has_backing && !a->read_only && is_one(&a->file, &b->backing);
}

/* ---- the whole ---- */

int kata__image_open(const kata_storage *s, struct kata__image *ret, kata_error **err)
{
	KATA_AUTO(free) char *what = kata__format("storage '%s': %s", kata_storage_get_id(s), kata_storage_get_path(s));
	struct source image = {.what = what,
			       .path = kata_storage_get_path(s),
			       .format = kata_storage_get_format(s),
			       .read_only = kata_storage_is_read_only(s),
			       .may_have_backing = kata__storage_backing_path(s) != NULL};
	struct kata__qcow2 header = {0};
	KATA_AUTO_FD int fd = -1, backing_fd = -1;
	uint64_t size = 0;
	struct stat st, backing = {0};
	int rc;

	if (!what)
		return kata__fail_no_memory(err);
	rc = open_source(&image, &fd, &st, err);
	if (rc == 0)
		rc = check_content(&image, fd, &st, &size, &header, err);
	if (rc == 0)
		rc = open_backing(s, &image, &header, &backing_fd, &backing, err);
	if (rc < 0)
		return rc;
	ret->size_bytes = size;
	ret->files = (struct kata__disk_files){.has_file = true,
					       .has_backing = backing_fd >= 0,
					       .read_only = image.read_only,
					       .file = kata__file_id_of(&st),
					       .backing = kata__file_id_of(&backing)};
	ret->fd = kata__take_fd(&fd);
	ret->backing_fd = kata__take_fd(&backing_fd);
	return 0;
}

void kata__image_close(struct kata__image *image)
{
	kata__close_fd(&image->fd);
	kata__close_fd(&image->backing_fd);
}
