/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every step down from the root is an openat() that follows no link, so a container that shares the directory cannot
 * lead a write out of it.
 */
#include "guest/copy_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"

#define DEPTH_MAX 64

/* Opens the directory that `rest` ("a/b/name") is to be in, making what is missing; *ret_name is "name". -errno. */
static int open_parent(const char *root, char *rest, mode_t mode, int *ret_fd, const char **ret_name)
{
	KATA_AUTO_FD int at = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int depth = 0;

	while (at >= 0) {
		char *slash = strchr(rest, '/');
		int next;

		if (strcmp(rest, "..") == 0 || strcmp(rest, ".") == 0 || strncmp(rest, "../", 3) == 0 ||
		    *rest == '\0' || depth++ > DEPTH_MAX)
			return -EINVAL;
		if (!slash) {
			*ret_name = rest;
			*ret_fd = kata__take_fd(&at);
			return 0;
		}
		*slash = '\0';
		if (mkdirat(at, rest, mode & 07777) != 0 && errno != EEXIST)
			return -errno;
		next = openat(at, rest, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		kata__close_fd(&at);
		at = next;
		rest = slash + 1;
	}
	return -errno;
}

static int make_link(int dir, const char *name, const Grpc__CopyFileRequest *q)
{
	KATA_AUTO(free) char *target = kata__format("%.*s", (int)q->data.len, q->data.data ? (char *)q->data.data : "");

	if (!target || *target == '\0')
		return -EINVAL;
	unlinkat(dir, name, 0);
	return symlinkat(target, dir, name) == 0 &&
			       fchownat(dir, name, (uid_t)q->uid, (gid_t)q->gid, AT_SYMLINK_NOFOLLOW) == 0
		       ? 0
		       : -errno;
}

static int make_directory(int dir, const char *name, const Grpc__CopyFileRequest *q)
{
	KATA_AUTO_FD int fd = -1;

	if (mkdirat(dir, name, 0700) != 0 && errno != EEXIST)
		return -errno;
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fchown(fd, (uid_t)q->uid, (gid_t)q->gid) != 0 || fchmod(fd, q->file_mode & 07777) != 0)
		return -errno;
	return 0;
}

/* Writes the piece to the temporary file, which moves to its place when it is whole. */
static int add_piece(int dir, const char *name, const Grpc__CopyFileRequest *q)
{
	const char *dot = strrchr(name, '.');
	int stem = dot && dot != name ? (int)(dot - name) : (int)strlen(name);
	KATA_AUTO(free) char *beside = kata__format("%.*s.tmp", stem, name);
	KATA_AUTO_FD int fd = -1;
	struct stat st;

	if (!beside)
		return -ENOMEM;
	fd = openat(dir, beside, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | (q->offset == 0 ? O_TRUNC : 0), 0600);
	if (fd < 0 || pwrite(fd, q->data.data, q->data.len, q->offset) != (ssize_t)q->data.len || fstat(fd, &st) != 0)
		return -errno;
	if (st.st_size != q->file_size)
		return 0;
	if (fchown(fd, (uid_t)q->uid, (gid_t)q->gid) != 0 || fchmod(fd, q->file_mode & 07777) != 0 ||
	    renameat(dir, beside, dir, name) != 0)
		return -errno;
	return 0;
}

static int make(int dir, const char *name, const Grpc__CopyFileRequest *q)
{
	if (S_ISLNK(q->file_mode))
		return make_link(dir, name, q);
	return S_ISDIR(q->file_mode) ? make_directory(dir, name, q) : add_piece(dir, name, q);
}

static int check(const char *root, const Grpc__CopyFileRequest *q, kata_error **err)
{
	size_t len = strlen(root);

	if (strncmp(q->path, root, len) != 0 || q->path[len] != '/')
		return kata__fail(err, KATA_E_INVALID, CALLER, "path: '%.80s' is not below %s", q->path, root);
	if (S_ISLNK(q->file_mode) || S_ISDIR(q->file_mode))
		return 0;
	if (q->offset < 0 || q->file_size < 0 || (uint64_t)q->offset + q->data.len > (uint64_t)q->file_size)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "offset: %lld and %zu bytes of data go past file_size %lld", (long long)q->offset,
				  q->data.len, (long long)q->file_size);
	return 0;
}

int copy_file(const char *root, const Grpc__CopyFileRequest *q, kata_error **err)
{
	KATA_AUTO_FD int dir = -1;
	KATA_AUTO(free) char *rest = NULL;
	const char *name = NULL;
	int rc = check(root, q, err);

	if (rc != 0 || (rc = kata__mkdirs(root, 0755, err)) != 0)
		return rc;
	rest = kata__strdup(q->path + strlen(root) + 1);
	rc = rest ? open_parent(root, rest, q->dir_mode ? q->dir_mode : 0755, &dir, &name) : -ENOMEM;
	if (rc == 0)
		rc = make(dir, name, q);
	return rc < 0 ? kata__fail_errno(err, -rc, "cannot copy to '%.80s'", q->path) : 0;
}
