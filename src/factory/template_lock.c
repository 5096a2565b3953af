/* SPDX-License-Identifier: Apache-2.0 */
/* See template_lock.h. */
#include "factory/template_lock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "factory/template.h"

#define TRIES 10u /* after an event, at 1, 2, 4 ... ms */
#define NS_PER_MS UINT64_C(1000000)
#define OPEN_TRIES 16u /* each needs another one that removes the directory just then */

void kata__template_lock_init(struct kata__template_lock *l, const char *path, bool makes)
{
	*l = (struct kata__template_lock){.path = path, .dir_fd = -1, .fd = -1, .inotify_fd = -1, .makes = makes};
}

static void close_all(struct kata__template_lock *l)
{
	kata__close_fd(&l->inotify_fd);
	kata__close_fd(&l->fd);
	kata__close_fd(&l->dir_fd);
}

/* ---- the directory ---- */

int kata__template_check_dir(int fd, const char *path, bool sticky_passes, kata_error **err)
{
	mode_t others = S_IWGRP | S_IWOTH;
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return kata__fail_errno(err, errno, "cannot look at %s", path);
	if ((st.st_uid == geteuid() || st.st_uid == 0) &&
	    (!(st.st_mode & others) || (sticky_passes && st.st_mode & S_ISVTX)))
		return 0;
	rc = kata__fail(err, KATA_E_PERMISSION, CALLER,
			"path: %s belongs to uid %u with mode %04o: somebody else could change the template", path,
			(unsigned)st.st_uid, (unsigned)(st.st_mode & 07777));
	if (err)
		kata__error_set_hint(*err, "it must belong to uid %u or root, and be writable by its owner alone",
				     (unsigned)geteuid());
	return rc;
}

static int open_parent(const char *path, int *ret_fd, kata_error **err)
{
	const char *slash = strrchr(path, '/');
	KATA_AUTO(free)
	char *parent = slash == path ? kata__strdup("/") : kata__format("%.*s", (int)(slash - path), path);
	KATA_AUTO_FD int fd = -1;
	int rc;

	if (!parent)
		return kata__fail_no_memory(err);
	fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return kata__fail_errno(err, errno, "path: cannot open the directory %s", parent);
	rc = kata__template_check_dir(fd, parent, true, err);
	if (rc == 0)
		*ret_fd = kata__take_fd(&fd);
	return rc;
}

/* What is not ours is not filled with our files, and not removed later: neither is a `base` of somebody else's. */
static int check_content(const struct kata__template_lock *l, kata_error **err)
{
	size_t locks = 0, bases = 0, others = 0;
	int fd = dup(l->dir_fd);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!dir) {
		kata__close_fd(&fd);
		return kata__fail_errno(err, errno, "cannot read %s", l->path);
	}
	rewinddir(dir);
	while ((e = readdir(dir))) {
		if (strcmp(e->d_name, KATA__TEMPLATE_LOCK_NAME) == 0)
			locks++;
		else if (strcmp(e->d_name, KATA__TEMPLATE_BASE) == 0)
			bases++;
		else if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			others += !kata__template_is_making(e->d_name);
	}
	closedir(dir);
	if ((!others && (locks || !bases)) ||
	    faccessat(l->dir_fd, KATA__TEMPLATE_BASE "/" KATA__MANIFEST_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	return kata__fail(err, KATA_E_INVALID, CALLER,
			  "path: %s is there and is no template's: must be a name for a directory of its own", l->path);
}

static int open_dir(struct kata__template_lock *l, kata_error **err)
{
	const char *name = strrchr(l->path, '/') + 1;
	KATA_AUTO_FD int parent_fd = -1;
	int rc = open_parent(l->path, &parent_fd, err);

	if (rc < 0)
		return rc;
	l->made_dir = l->makes && mkdirat(parent_fd, name, 0700) == 0;
	if (l->makes && !l->made_dir && errno != EEXIST)
		return kata__fail_errno(err, errno, "path: cannot make %s", l->path);
	l->dir_fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (l->dir_fd < 0 && (errno == ENOTDIR || errno == ELOOP))
		return kata__fail(err, KATA_E_INVALID, CALLER, "path: %s is no directory", l->path);
	if (l->dir_fd < 0 && errno == ENOENT)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "there is no template at %s", l->path);
	if (l->dir_fd < 0)
		return kata__fail_errno(err, errno, "path: cannot open %s", l->path);
	rc = kata__template_check_dir(l->dir_fd, l->path, false, err);
	return rc < 0 ? rc : check_content(l, err);
}

static int open_lock(struct kata__template_lock *l, kata_error **err)
{
	char by_fd[32];

	l->fd = openat(l->dir_fd, KATA__TEMPLATE_LOCK_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (l->fd < 0 && errno == ENOENT)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "there is no template at %s any more", l->path);
	if (l->fd < 0)
		return kata__fail_errno(err, errno, "cannot open %s/" KATA__TEMPLATE_LOCK_NAME, l->path);
	l->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (l->inotify_fd < 0 && (errno == EMFILE || errno == ENFILE))
		return kata__fail(err, KATA_E_EXHAUSTED, HOST,
				  "no inotify instance is free (fs.inotify.max_user_instances, or the limit of fds)");
	if (l->inotify_fd < 0)
		return kata__fail_errno(err, errno, "inotify_init1");
	snprintf(by_fd, sizeof(by_fd), "/proc/self/fd/%d", l->fd);
	if (inotify_add_watch(l->inotify_fd, by_fd, IN_CLOSE_WRITE) < 0)
		return kata__fail_errno(err, errno, "cannot watch %s/" KATA__TEMPLATE_LOCK_NAME, l->path);
	return 0;
}

static int open_once(struct kata__template_lock *l, kata_error **err)
{
	int rc = open_dir(l, err);

	if (rc == 0)
		rc = open_lock(l, err);
	if (rc < 0 && l->fd >= 0)
		kata__template_lock_unmake(l);
	else if (rc < 0 && l->made_dir)
		rmdir(l->path);
	if (rc < 0)
		close_all(l);
	return rc;
}

/* Another one may remove the directory between any two of these calls. */
int kata__template_lock_open(struct kata__template_lock *l, kata_error **err)
{
	kata_error *why = NULL;
	int rc = open_once(l, &why);

	for (unsigned i = 1; rc == KATA_E_NOT_FOUND && l->makes && i < OPEN_TRIES; i++) {
		kata_error_free(kata__take_ptr(why));
		rc = open_once(l, &why);
	}
	if (rc < 0)
		kata__error_move(err, &why);
	return rc;
}

void kata__template_lock_unmake(struct kata__template_lock *l)
{
	struct stat st;

	if (!l->made_dir || l->fd < 0 || flock(l->fd, LOCK_EX | LOCK_NB) < 0 || fstat(l->fd, &st) < 0 || !st.st_nlink)
		return;
	if (faccessat(l->dir_fd, KATA__TEMPLATE_BASE, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return;
	unlinkat(l->dir_fd, KATA__TEMPLATE_LOCK_NAME, 0);
	rmdir(l->path);
}

/* ---- the lock ---- */

static void was_closed(void *user, uint32_t events);

static void stop_waiting(struct kata__template_lock *l)
{
	kata__watch_remove(kata__take_ptr(l->watch));
	kata__timer_remove(kata__take_ptr(l->timer));
}

/* 1: it is ours. 0: another's, and its end is watched for: since the file was opened, so that nothing is missed. */
static int try_lock(struct kata__template_lock *l, kata_error **err)
{
	struct stat st;

	while (flock(l->fd, LOCK_EX | LOCK_NB) == 0) {
		int rc;

		if (fstat(l->fd, &st) == 0 && st.st_nlink > 0)
			return 1;
		stop_waiting(l); /* its holder has removed the file: what is there now is another one, or none */
		close_all(l);
		rc = kata__template_lock_open(l, err);
		if (rc < 0)
			return rc;
	}
	if (errno != EWOULDBLOCK)
		return kata__fail_errno(err, errno, "cannot lock %s/" KATA__TEMPLATE_LOCK_NAME, l->path);
	if (l->watch)
		return 0;
	return kata__watch_add(kata__context_loop(kata__op_context(l->op)), l->inotify_fd, EPOLLIN, was_closed, l,
			       &l->watch, err);
}

static void try_now(void *user);

static int try_later(struct kata__template_lock *l, kata_error **err)
{
	uint64_t delay_ns = NS_PER_MS << l->tries;

	if (l->timer || l->tries >= TRIES)
		return 0;
	l->tries++;
	return kata__timer_add(kata__context_loop(kata__op_context(l->op)), kata__now_ns() + delay_ns, try_now, l,
			       &l->timer, err);
}

static void end_wait(struct kata__template_lock *l, int status, kata_error *take_err)
{
	kata_op *op = kata__take_ptr(l->op);

	stop_waiting(l);
	kata__op_resume(op, l->token, status, take_err);
	kata_op_unref(op);
}

static void look(struct kata__template_lock *l)
{
	kata_error *error = NULL;
	int rc = try_lock(l, &error);

	if (rc == 0)
		rc = try_later(l, &error);
	if (rc)
		end_wait(l, rc < 0 ? rc : 0, error);
}

static void try_now(void *user)
{
	struct kata__template_lock *l = user;

	l->timer = NULL;
	look(l);
}

static void was_closed(void *user, uint32_t events)
{
	struct kata__template_lock *l = user;
	char buffer[4096];

	while (read(l->inotify_fd, buffer, sizeof(buffer)) > 0)
		;
	l->tries = 0;
	look(l);
}

int kata__template_lock_acquire(struct kata__template_lock *l, kata_op *op, kata_error **err)
{
	int rc;

	l->op = kata_op_ref(op);
	l->token = kata__op_token(op);
	l->tries = 0;
	rc = try_lock(l, err);
	if (rc == 0)
		rc = try_later(l, err);
	if (rc == 0)
		return KATA__STEP_WAIT;
	stop_waiting(l);
	kata_op_unref(kata__take_ptr(l->op));
	return rc < 0 ? rc : KATA__STEP_DONE;
}

void kata__template_lock_cancel(struct kata__template_lock *l)
{
	stop_waiting(l);
	kata_op_unref(kata__take_ptr(l->op));
}

/* By word: a close alone would leave the lock with a copy of the fd, in a child that the caller has forked. */
void kata__template_lock_release(struct kata__template_lock *l)
{
	if (l->fd >= 0)
		flock(l->fd, LOCK_UN);
	close_all(l);
}
