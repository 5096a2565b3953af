/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "guest/kmsg.h"

struct child {
	struct child *next;
	struct children *children;
	pid_t pid;
	child_exit_fn exited;
	void *user;
	int status;
	struct kata__task task; /* for a process that was over when it was claimed */
};

struct stray {
	pid_t pid;
	int status;
};

struct children {
	struct kata__loop *loop;
	int fd;
	struct kata__watch *watch;
	struct child *list;
	struct stray strays[CHILD_STRAYS_MAX];
	size_t stray_next;
	unsigned expecting; /* strays are kept while it is not 0 */
};

static void unlink_child(struct child *c)
{
	struct child **p = &c->children->list;

	while (*p && *p != c)
		p = &(*p)->next;
	if (*p)
		*p = c->next;
}

static void end_child(struct child *c, int status)
{
	child_exit_fn exited = c->exited;
	void *user = c->user;

	unlink_child(c);
	free(c);
	if (exited)
		exited(user, status);
}

static struct child *find(struct children *children, pid_t pid)
{
	struct child *c = children->list;

	while (c && c->pid != pid)
		c = c->next;
	return c;
}

static void reap(struct children *children)
{
	pid_t pid;
	int raw;

	while ((pid = waitpid(-1, &raw, WNOHANG)) > 0) {
		int status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
		struct child *c = find(children, pid);

		if (c) {
			end_child(c, status);
			continue;
		}
		if (children->expecting == 0)
			continue;
		children->strays[children->stray_next] = (struct stray){.pid = pid, .status = status};
		children->stray_next = (children->stray_next + 1) % CHILD_STRAYS_MAX;
	}
}

static void on_signal(void *user, uint32_t events)
{
	struct children *children = user;
	struct signalfd_siginfo info[8];

	while (read(children->fd, info, sizeof(info)) > 0)
		;
	reap(children);
}

int children_new(struct kata__loop *loop, struct children **ret, kata_error **err)
{
	struct children *children = calloc(1, sizeof(*children));
	sigset_t set;
	int rc;

	if (!children)
		return kata__fail_no_memory(err);
	children->loop = loop;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	children->fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	rc = children->fd < 0
		     ? kata__fail_errno(err, errno, "signalfd")
		     : kata__watch_add(loop, children->fd, EPOLLIN, on_signal, children, &children->watch, err);
	if (rc != 0) {
		kata__close_fd(&children->fd);
		free(children);
		return rc;
	}
	*ret = children;
	return 0;
}

static struct child *child_new(struct children *children, child_exit_fn exited, void *user)
{
	struct child *c = calloc(1, sizeof(*c));

	if (c)
		*c = (struct child){.children = children, .exited = exited, .user = user};
	return c;
}

static int spawn_with(const struct child_spawn *spawn, posix_spawn_file_actions_t *actions, posix_spawnattr_t *attr,
		      pid_t *ret_pid)
{
	static char *const no_environment[] = {(char *)"PATH=/usr/bin:/bin:/sbin", NULL};
	sigset_t none, all;
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", spawn->exe_fd);
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(attr, &none);
	posix_spawnattr_setsigdefault(attr, &all);
	posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
	for (int i = 0; i < 3; i++) {
		int rc = spawn->stdio[i] >= 0 ? posix_spawn_file_actions_adddup2(actions, spawn->stdio[i], i)
					      : posix_spawn_file_actions_addopen(actions, i, "/dev/null", O_RDWR, 0);

		if (rc != 0)
			return rc;
	}
	return posix_spawn(ret_pid, path, actions, attr, (char *const *)spawn->argv, no_environment);
}

int children_spawn(struct children *children, const struct child_spawn *spawn, child_exit_fn exited, void *user,
		   kata_error **err)
{
	struct child *c = child_new(children, exited, user);
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	int rc;

	if (!c)
		return kata__fail_no_memory(err);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	rc = spawn_with(spawn, &actions, &attr, &c->pid);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	if (rc != 0) {
		free(c);
		return kata__fail_errno(err, rc, "cannot run %s", spawn->argv[0]);
	}
	c->next = children->list;
	children->list = c;
	return 0;
}

void children_expect(struct children *children)
{
	children->expecting++;
}

void children_expect_no_more(struct children *children)
{
	if (--children->expecting > 0)
		return;
	memset(children->strays, 0, sizeof(children->strays));
	children->stray_next = 0;
}

static void end_late(struct kata__task *task)
{
	struct child *c = kata__container_of(task, struct child, task);

	end_child(c, c->status);
}

int children_claim(struct children *children, pid_t pid, child_exit_fn exited, void *user, kata_error **err)
{
	struct child *c = child_new(children, exited, user);

	if (!c)
		return kata__fail_no_memory(err);
	c->pid = pid;
	c->next = children->list;
	children->list = c;
	for (size_t i = 0; i < CHILD_STRAYS_MAX; i++) {
		if (children->strays[i].pid != pid)
			continue;
		children->strays[i].pid = 0;
		c->status = children->strays[i].status;
		c->pid = 0; /* not to be found by reap() any more: the number may be another process by now */
		c->task.fn = end_late;
		kata__loop_post(children->loop, &c->task);
		break;
	}
	return 0;
}

void children_disown(struct children *children, const void *user)
{
	for (struct child *c = children->list; c; c = c->next)
		if (c->user == user)
			c->exited = NULL;
}
