/* SPDX-License-Identifier: Apache-2.0 */
/* See left.h. */
#include "factory/left.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "factory/template.h"
#include "factory/template_lock.h"

/* ---- templates ---- */

/* The lock of a template's directory that is ours alone; -1: there is none. */
static int open_lock(const char *path)
{
	KATA_AUTO(free) char *lock = kata__format("%s/" KATA__TEMPLATE_LOCK_NAME, path);
	KATA_AUTO_FD int fd = lock ? open(lock, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;
	struct stat dir, st;

	if (fd < 0 || lstat(path, &dir) < 0 || fstat(fd, &st) < 0 || !S_ISDIR(dir.st_mode) || !S_ISREG(st.st_mode) ||
	    dir.st_uid != geteuid() || (dir.st_mode & 022) || st.st_nlink == 0)
		return -1;
	return kata__take_fd(&fd);
}

size_t kata__template_count_left(const char *path)
{
	KATA_AUTO_FD int lock = open_lock(path);
	DIR *dir = lock >= 0 && flock(lock, LOCK_SH | LOCK_NB) == 0 ? opendir(path) : NULL;
	struct dirent *e;
	size_t n = 0;

	while (dir && (e = readdir(dir)))
		n += kata__template_is_making(e->d_name);
	if (dir)
		closedir(dir);
	return n;
}

int kata__template_remove_left(const char *path, kata_error **err)
{
	KATA_AUTO_FD int lock = open_lock(path);

	if (lock < 0)
		return 0; /* it was removed since */
	if (flock(lock, LOCK_EX | LOCK_NB) < 0)
		return kata__fail(err, KATA_E_BUSY, HOST, "somebody makes the template %s just now", path);
	return kata__template_sweep(path, false, err);
}

/* ---- servers ---- */

static int open_server_lock(const char *path)
{
	KATA_AUTO(free) char *lock = kata__format("%s.lock", path);
	KATA_AUTO_FD int fd = lock ? open(lock, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;
	struct stat st, there;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_size != 0 ||
	    (lstat(path, &there) == 0 && (!S_ISSOCK(there.st_mode) || there.st_uid != geteuid())))
		return -1;
	return kata__take_fd(&fd);
}

bool kata__server_is_left(const char *path)
{
	KATA_AUTO_FD int lock = open_server_lock(path);

	return lock >= 0 && flock(lock, LOCK_SH | LOCK_NB) == 0;
}

/* In the order in which a server that ends removes them. */
int kata__server_remove_left(const char *path, kata_error **err)
{
	KATA_AUTO(free) char *name = kata__format("%s.lock", path);
	KATA_AUTO_FD int lock = open_server_lock(path);
	struct stat ours, there;

	if (!name)
		return kata__fail_no_memory(err);
	if (lock < 0)
		return 0;
	if (flock(lock, LOCK_EX | LOCK_NB) < 0)
		return kata__fail(err, KATA_E_BUSY, HOST, "a factory serves at %s just now", path);
	if (fstat(lock, &ours) < 0 || lstat(name, &there) < 0 || ours.st_ino != there.st_ino)
		return 0; /* another's by now */
	if (unlink(path) < 0 && errno != ENOENT)
		return kata__fail_errno(err, errno, "cannot remove %s", path);
	return unlink(name) == 0 || errno == ENOENT ? 0 : kata__fail_errno(err, errno, "cannot remove %s", name);
}
