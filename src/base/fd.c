/* SPDX-License-Identifier: Apache-2.0 */
/* File descriptors, unix sockets, whole files and trees. Nothing here follows a symlink that it did not mean to. */
#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/text.h"

void kata__close_fd(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
}

static int unix_address(const char *path, struct sockaddr_un *addr, kata_error **err)
{
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(addr->sun_path))
		return kata__fail(
			err, KATA_E_INVALID, CALLER,
			"socket path '%s' has %zu bytes, at most %zu fit: use a shorter state directory or id", path,
			strlen(path), sizeof(addr->sun_path) - 1);
	strncpy(addr->sun_path, path, sizeof(addr->sun_path) - 1);
	return 0;
}

int kata__unix_listen(const char *dir, const char *name, int *ret_fd, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/%s", dir, name);
	KATA_AUTO_FD int fd = -1;
	struct sockaddr_un addr;
	int rc;

	if (!path)
		return kata__fail_no_memory(err);
	rc = unix_address(path, &addr, err);
	if (rc)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return kata__fail_errno(err, errno, "socket for '%s'", path);
	/* The directory is 0700, so the moment before a chmod would be safe; fchmod before bind makes it 0600 at birth.
	 */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return kata__fail_errno(err, errno, "cannot bind '%s'", path);
	if (listen(fd, SOMAXCONN) < 0) {
		rc = kata__fail_errno(err, errno, "cannot listen on '%s'", path);
		unlink(path);
		return rc;
	}
	*ret_fd = kata__take_fd(&fd);
	return 0;
}

int kata__unix_connect(const char *path, int *ret_fd, kata_error **err)
{
	KATA_AUTO_FD int fd = -1;
	struct sockaddr_un addr;
	int rc = unix_address(path, &addr, err);

	if (rc)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return kata__fail_errno(err, errno, "socket for '%s'", path);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		if (errno == ECONNREFUSED || errno == ENOENT)
			return kata__error_set(err, KATA__BIRTH, KATA_E_GONE, KATA_ORIGIN_HOST, errno,
					       "nobody listens on '%s'", path);
		if (errno == EAGAIN)
			return kata__fail(err, KATA_E_BUSY, HOST,
					  "'%s' takes no connection now: as many as it keeps wait already", path);
		return kata__fail_errno(err, errno, "cannot connect to '%s'", path);
	}
	*ret_fd = kata__take_fd(&fd);
	return 0;
}

pid_t kata__unix_peer(int fd)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ? 0 : peer.pid;
}

ssize_t kata__unix_send(int fd, const void *data, size_t len, int pass_fd)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct cmsghdr *c;
	ssize_t n;

	if (pass_fd >= 0) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = control.space;
		msg.msg_controllen = sizeof(control.space);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &pass_fd, sizeof(int));
	}
	do
		n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

int kata__mkdirs(const char *path, mode_t mode, kata_error **err)
{
	KATA_AUTO(free) char *copy = kata__strdup(path);

	if (!copy)
		return kata__fail_no_memory(err);
	for (char *p = copy + 1;; p++) {
		char c = *p;

		if (c != '/' && c != '\0')
			continue;
		*p = '\0';
		if (mkdir(copy, mode) < 0 && errno != EEXIST)
			return kata__fail_errno(err, errno, "cannot make directory '%s'", copy);
		*p = c;
		if (c == '\0')
			return 0;
	}
}

/* Removes what is in dirfd; consumes it. Refuses to leave the file system `dev`. */
static int empty_directory(int dirfd, dev_t dev)
{
	DIR *dir = fdopendir(dirfd);
	struct dirent *e;
	int rc = 0;

	if (!dir) {
		rc = -errno;
		close(dirfd);
		return rc;
	}
	while (!rc && (e = readdir(dir))) {
		struct stat st;
		int fd;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (unlinkat(dirfd, e->d_name, 0) == 0 || errno == ENOENT)
			continue;
		if (errno != EISDIR && errno != EPERM) {
			rc = -errno;
			break;
		}
		fd = openat(dirfd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &st) < 0) {
			rc = -errno;
			kata__close_fd(&fd);
			break;
		}
		if (st.st_dev != dev) {
			close(fd);
			rc = -EXDEV;
			break;
		}
		rc = empty_directory(fd, dev);
		if (!rc && unlinkat(dirfd, e->d_name, AT_REMOVEDIR) < 0 && errno != ENOENT)
			rc = -errno;
	}
	closedir(dir);
	return rc;
}

int kata__remove_tree(const char *path, kata_error **err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	int rc;

	if (fd < 0)
		return errno == ENOENT ? 0 : kata__fail_errno(err, errno, "cannot open '%s' to remove it", path);
	if (fstat(fd, &st) < 0) {
		rc = -errno;
		close(fd);
	} else {
		rc = empty_directory(fd, st.st_dev);
	}
	if (!rc && rmdir(path) < 0 && errno != ENOENT)
		rc = -errno;
	return rc ? kata__fail_errno(err, -rc, "cannot remove '%s'", path) : 0;
}

int kata__read_file(const char *path, size_t max, char **ret_data, size_t *ret_len, kata_error **err)
{
	KATA_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	KATA_AUTO(free) char *data = NULL;
	size_t len = 0, alloc = 4096;
	struct stat st;

	if (fd < 0)
		return kata__fail_errno(err, errno, "cannot open '%s'", path);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return kata__fail(err, KATA_E_CORRUPT, HOST, "'%s' is not a regular file", path);
	data = malloc(alloc + 1);
	while (data) {
		ssize_t n = read(fd, data + len, alloc - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return kata__fail_errno(err, errno, "cannot read '%s'", path);
		len += (size_t)n;
		if (len > max)
			return kata__fail(err, KATA_E_CORRUPT, HOST, "'%s' has more than %zu bytes", path, max);
		if (n == 0)
			break;
		if (len == alloc) {
			char *more = realloc(data, alloc * 2 + 1);

			if (!more)
				return kata__fail_no_memory(err);
			data = more;
			alloc *= 2;
		}
	}
	if (!data)
		return kata__fail_no_memory(err);
	data[len] = '\0';
	*ret_data = kata__take_ptr(data);
	if (ret_len)
		*ret_len = len;
	return 0;
}

static int write_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

static int open_parent(const char *path)
{
	KATA_AUTO(free) char *dir = kata__strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;
	int fd;

	if (!dir)
		return -ENOMEM;
	if (!slash)
		return -EINVAL;
	slash[slash == dir] = '\0';
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* What can fail without the disk comes before the rename: after it the file is the new one. */
int kata__write_file_atomic(const char *path, const void *data, size_t len, kata_error **err)
{
	KATA_AUTO(free) char *tmp = kata__format("%s.%ld.tmp", path, (long)getpid());
	KATA_AUTO_FD int fd = -1;
	KATA_AUTO_FD int dir_fd = -1;
	int rc;

	if (!tmp)
		return kata__fail_no_memory(err);
	dir_fd = open_parent(path);
	if (dir_fd < 0)
		return kata__fail_errno(err, -dir_fd, "cannot open the directory of '%s'", path);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return kata__fail_errno(err, errno, "cannot make '%s'", tmp);
	rc = write_all(fd, data, len);
	if (!rc && fsync(fd) < 0)
		rc = -errno;
	if (!rc && rename(tmp, path) < 0)
		rc = -errno;
	if (rc) {
		unlink(tmp);
		return kata__fail_errno(err, -rc, "cannot write '%s'", path);
	}
	return fsync(dir_fd) < 0 ? kata__fail_errno(err, errno, "cannot sync the directory of '%s'", path) : 0;
}
