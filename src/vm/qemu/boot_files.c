/* SPDX-License-Identifier: Apache-2.0 */
/* boot_files.c - see boot_files.h. What is checked is the opened file. */
#include "vm/qemu/boot_files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

static bool may(const struct stat *st, const struct kata__qemu_settings *s, mode_t bits)
{
	if (!s->set_ids || s->uid == 0)
		return true;
	if (st->st_uid == s->uid)
		return (st->st_mode & bits << 6) == bits << 6;
	if (st->st_gid == s->gid)
		return (st->st_mode & bits << 3) == bits << 3;
	return (st->st_mode & bits) == bits;
}

static int check(const char *member, const char *path, int fd, const struct kata__qemu_settings *s, mode_t bits,
		 kata_error **err)
{
	struct stat st;
	int rc;

	if (fstat(fd, &st))
		return kata__fail_errno(err, errno, "vm_config.%s: cannot stat '%s'", member, path);
	if (!S_ISREG(st.st_mode))
		return kata__fail(err, KATA_E_INVALID, CALLER, "vm_config.%s: '%s' is not a regular file", member,
				  path);
	if (bits == 4 && st.st_size == 0)
		return kata__fail(err, KATA_E_INVALID, CALLER, "vm_config.%s: '%s' is empty", member, path);
	if (may(&st, s, bits))
		return 0;
	rc = kata__fail(err, KATA_E_PERMISSION, CALLER,
			"vm_config.%s: '%s' has mode %04o, owner %u: uid %u, with which QEMU runs, may not %s it",
			member, path, (unsigned)(st.st_mode & 07777), (unsigned)st.st_uid, (unsigned)s->uid,
			bits == 4 ? "read" : "read and write");
	if (err)
		kata__error_set_hint(*err,
				     "chmod o+%s it, or set KATA_QEMU_KEEP_IDS or run_as_uid in kata_qemu_options",
				     bits == 4 ? "r" : "rw");
	return rc;
}

/* O_NONBLOCK: a fifo must not hold us up. */
static int open_one(const char *member, const char *path, const struct kata__qemu_settings *s, int *ret_fd,
		    kata_error **err)
{
	KATA_AUTO_FD int fd = -1;
	int rc;

	if (!path)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return kata__fail_errno(err, errno, "vm_config.%s: cannot open '%s'", member, path);
	rc = check(member, path, fd, s, 4, err);
	if (!rc)
		*ret_fd = kata__take_fd(&fd);
	return rc;
}

int kata__qemu_boot_files_open(const kata_vm_config *c, const struct kata__qemu_settings *s,
			       struct kata__qemu_boot_files *ret, kata_error **err)
{
	struct kata__qemu_boot_files f = KATA__QEMU_NO_BOOT_FILES;
	int rc;

	if ((rc = open_one("kernel", c->kernel, s, &f.kernel_fd, err)) ||
	    (rc = open_one("initrd", c->initrd, s, &f.initrd_fd, err)) ||
	    (rc = open_one("image", c->image, s, &f.image_fd, err))) {
		kata__qemu_boot_files_close(&f);
		return rc;
	}
	*ret = f;
	return 0;
}

/* Makes it when it is missing, for QEMU's uid. */
static int open_memory(const kata_vm_config *c, const struct kata__qemu_settings *s, bool *ret_made, int *ret_fd,
		       kata_error **err)
{
	int fd = open(c->memory_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	*ret_made = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = open(c->memory_path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return kata__fail_errno(err, errno, "vm_config.memory_path: cannot open '%s'", c->memory_path);
	*ret_fd = fd;
	if (*ret_made && s->set_ids && fchown(fd, s->uid, s->gid))
		return kata__fail_errno(err, errno, "vm_config.memory_path: cannot give '%s' to uid %u", c->memory_path,
					(unsigned)s->uid);
	return 0;
}

static int size_memory(const kata_vm_config *c, int fd, kata_error **err)
{
	off_t want = (off_t)(c->memory_mib << 20);
	struct stat st;

	if (fstat(fd, &st) == 0 && st.st_size >= want)
		return 0;
	return ftruncate(fd, want)
		       ? kata__fail_errno(err, errno, "vm_config.memory_path: cannot make '%s' %llu MiB long",
					  c->memory_path, (unsigned long long)c->memory_mib)
		       : 0;
}

int kata__qemu_memory_file_open(const kata_vm_config *c, const struct kata__qemu_settings *s,
				struct kata__qemu_boot_files *ret, kata_error **err)
{
	KATA_AUTO_FD int fd = -1;
	bool made = false;
	int rc;

	if (!c->memory_path)
		return 0;
	rc = open_memory(c, s, &made, &fd, err);
	if (!rc)
		rc = check("memory_path", c->memory_path, fd, s, 6, err);
	if (!rc)
		rc = size_memory(c, fd, err);
	if (rc && made)
		unlink(c->memory_path);
	if (rc)
		return rc;
	ret->memory_fd = kata__take_fd(&fd);
	ret->made_memory = made;
	return 0;
}

void kata__qemu_boot_files_close(struct kata__qemu_boot_files *f)
{
	kata__close_fd(&f->kernel_fd);
	kata__close_fd(&f->initrd_fd);
	kata__close_fd(&f->image_fd);
	kata__close_fd(&f->memory_fd);
}

int kata__qemu_check_memory(const char *snapshot, int fd, const struct kata__qemu_settings *s, kata_error **err)
{
	struct stat st;

	if (fstat(fd, &st))
		return kata__fail_errno(err, errno, "cannot look at the memory of %s", snapshot);
	if (may(&st, s, 6))
		return 0;
	return kata__fail(
		err, KATA_E_PERMISSION, CALLER,
		"the file of the saved RAM, %s/memory, has mode %04o, owner %u: uid %u, with which QEMU runs, "
		"may not open it. It was saved by a QEMU with another run_as_uid",
		snapshot, (unsigned)(st.st_mode & 07777), (unsigned)st.st_uid, (unsigned)s->uid);
}
