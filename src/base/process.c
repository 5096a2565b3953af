/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Child processes by clone(CLONE_VM | CLONE_VFORK | CLONE_PIDFD): the child borrows our memory until it execs, so a
 * spawn costs the same from a caller of 8 MiB and of 8 GiB; this thread sleeps until then.
 *
 * Invariants: 1. the child calls nothing but raw system calls: glibc's setuid family signals other threads, which are
 * the parent's. 2. all signals are blocked around the clone, and the child has default handlers before it unblocks
 * them, so that no handler of the caller runs on our stack in the child. 3. the child reports a failed step through
 * `failed_errno` in shared memory; a pidfd exists from birth, and a child that failed is reaped here.
 */
#include "base/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"

/* glibc's other name for clone(). ThreadSanitizer takes `clone` for a fork and, in a child that shares its memory,
 * resets the state that the parent goes on with: it would report races that are none. */
extern int __clone(int (*fn)(void *arg), void *stack, int flags, void *arg, ...);

#define CHILD_STACK_BYTES (64u * 1024u)
#define BOOT_ID_LENGTH 36u
#define PF_EXITING 0x4u /* of the flags in /proc/PID/stat */

struct child {
	const struct kata__spawn *spawn;
	struct kata__fd_map *fds; /* sorted copy, parent fds above every child fd */
	size_t fd_count;
	int null_fd;
	sigset_t old_mask;
	pid_t parent;
	int failed_errno;
	const char *failed_step;
};

/* Where field 22 of /proc/PID/stat begins, behind the last ')' of the command name; `end` when there is none. */
static KATA__NO_SANITIZE const char *find_start_time(const char *stat, const char *end)
{
	const char *at = end;
	int spaces = 0;

	while (at > stat && at[-1] != ')')
		at--;
	while (at < end && spaces < 20)
		spaces += *at++ == ' ';
	return at;
}

static KATA__NO_SANITIZE size_t digits(const char *at, const char *end)
{
	size_t n = 0;

	while (at + n < end && at[n] >= '0' && at[n] <= '9')
		n++;
	return n;
}

static KATA__NO_SANITIZE struct iovec part(const char *at, size_t length)
{
	return (struct iovec){(void *)(uintptr_t)at, length};
}

/* As the kernel says it of this very process: nobody else need be there to tell it. */
static KATA__NO_SANITIZE int write_identity(const struct kata__spawn *s)
{
	char stat[1024];
	long fd = syscall(SYS_open, "/proc/self/stat", O_RDONLY | O_CLOEXEC);
	long n = fd < 0 ? -1 : syscall(SYS_read, fd, stat, sizeof(stat));
	struct iovec parts[6];
	const char *start;
	long length = 0;

	if (n <= 0)
		return -1;
	start = find_start_time(stat, stat + n);
	parts[0] = part(stat, digits(stat, stat + n));
	parts[1] = part(" ", 1);
	parts[2] = part(start, digits(start, stat + n));
	parts[3] = part(" ", 1);
	parts[4] = part(s->boot_id, BOOT_ID_LENGTH);
	parts[5] = part("\n", 1);
	for (int i = 0; i < 6; i++)
		length += (long)parts[i].iov_len;
	errno = EIO; /* for a file that took only a part */
	return syscall(SYS_writev, s->pid_fd, parts, 6) == length ? 0 : -1;
}

/* Default for all, so that no handler of the caller's runs in the child. The kernel's struct, all zero: SIG_DFL. */
static KATA__NO_SANITIZE void reset_signals(void)
{
	static const uint64_t by_default[4];

	for (int sig = 1; sig < NSIG; sig++)
		syscall(SYS_rt_sigaction, sig, by_default, NULL, _NSIG / 8);
}

static KATA__NO_SANITIZE int map_fds(struct child *c)
{
	int highest = 2;

	for (int fd = 0; fd < 3; fd++)
		if (syscall(SYS_dup2, c->null_fd, fd) < 0)
			return -1;
	for (size_t i = 0; i < c->fd_count; i++) {
		if (syscall(SYS_dup2, c->fds[i].parent_fd, c->fds[i].child_fd) < 0)
			return -1;
		if (c->fds[i].child_fd > highest)
			highest = c->fds[i].child_fd;
	}
	return (int)syscall(SYS_close_range, (unsigned)highest + 1, ~0u, 0);
}

static KATA__NO_SANITIZE int drop_ids(const struct kata__spawn *s)
{
	if (!s->set_ids)
		return 0;
	if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, s->gid, s->gid, s->gid) < 0)
		return -1;
	return (int)syscall(SYS_setresuid, s->uid, s->uid, s->uid);
}

/* Comes after the change of ids, which would take it back. A parent that died before it sends no signal any more; one
 * outside of our pid namespace is seen as 0. */
static KATA__NO_SANITIZE int follow_parent(const struct child *c)
{
	long parent;

	if (!c->spawn->dies_with_thread)
		return 0;
	if (syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return -1;
	parent = syscall(SYS_getppid);
	if (parent == c->parent || parent == 0)
		return 0;
	errno = ESRCH;
	return -1;
}

static KATA__NO_SANITIZE int child_fail(struct child *c, const char *step)
{
	c->failed_errno = errno;
	c->failed_step = step;
	syscall(SYS_exit_group, 127);
	return -1;
}

static KATA__NO_SANITIZE int child_main(void *arg)
{
	struct child *c = arg;
	const struct kata__spawn *s = c->spawn;
	static const char *const no_env[] = {NULL};

	reset_signals();
	if (s->pid_fd > 0 && write_identity(s) < 0)
		return child_fail(c, "write down which process it is");
	if (syscall(SYS_setsid) < 0)
		return child_fail(c, "setsid");
	if (syscall(SYS_chdir, s->cwd ? s->cwd : "/") < 0)
		return child_fail(c, "chdir");
	if (map_fds(c) < 0)
		return child_fail(c, "pass file descriptors");
	if (drop_ids(s) < 0)
		return child_fail(c, "change ids");
	if (follow_parent(c) < 0)
		return child_fail(c, "follow its parent");
	if (syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return child_fail(c, "set no_new_privs");
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &(sigset_t){0}, NULL, _NSIG / 8);
	syscall(SYS_execve, s->path, s->argv, s->envp ? s->envp : no_env);
	return child_fail(c, "exec");
}

/* Parent fds that lie below the highest child fd would be overwritten while mapping: move them up first. */
static int lift_fds(struct child *c, kata_error **err)
{
	const struct kata__spawn *s = c->spawn;
	int highest = 2;

	c->fds = calloc(s->fd_count + 1, sizeof(*c->fds));
	if (!c->fds)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < s->fd_count; i++)
		if (s->fds[i].child_fd > highest)
			highest = s->fds[i].child_fd;
	for (size_t i = 0; i < s->fd_count; i++) {
		int fd = fcntl(s->fds[i].parent_fd, F_DUPFD_CLOEXEC, highest + 1);

		if (fd < 0)
			return kata__fail_errno(err, errno, "cannot duplicate fd %d for '%s'", s->fds[i].parent_fd,
						s->path);
		c->fds[i].parent_fd = fd;
		c->fds[i].child_fd = s->fds[i].child_fd;
		c->fd_count = i + 1;
	}
	c->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (c->null_fd >= 0 && c->null_fd <= highest) {
		int fd = fcntl(c->null_fd, F_DUPFD_CLOEXEC, highest + 1);

		close(c->null_fd);
		c->null_fd = fd;
	}
	return c->null_fd < 0 ? kata__fail_errno(err, errno, "cannot open /dev/null") : 0;
}

static void drop_lifted(struct child *c)
{
	for (size_t i = 0; i < c->fd_count; i++)
		close(c->fds[i].parent_fd);
	free(c->fds);
	kata__close_fd(&c->null_fd);
}

static int reap_failed(struct child *c, int pidfd, kata_error **err)
{
	siginfo_t info;

	while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0 && errno == EINTR)
		;
	close(pidfd);
	return kata__fail_errno(err, c->failed_errno, "cannot start '%s': %s", c->spawn->path, c->failed_step);
}

static int clone_child(struct child *c, pid_t *ret_pid, int *ret_pidfd, kata_error **err)
{
	sigset_t all;
	char *stack;
	int pidfd = -1, saved;
	pid_t pid;

	stack = mmap(NULL, CHILD_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stack == MAP_FAILED)
		return kata__fail_no_memory(err);
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &c->old_mask);
	pid = __clone(child_main, stack + CHILD_STACK_BYTES, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, c, &pidfd);
	saved = errno;
	pthread_sigmask(SIG_SETMASK, &c->old_mask, NULL);
	munmap(stack, CHILD_STACK_BYTES);
	if (pid < 0)
		return kata__fail_errno(err, saved, "cannot start '%s': clone", c->spawn->path);
	if (c->failed_errno)
		return reap_failed(c, pidfd, err);
	*ret_pid = pid;
	*ret_pidfd = pidfd;
	return 0;
}

int kata__process_spawn(const struct kata__spawn *spawn, pid_t *ret_pid, int *ret_pidfd, kata_error **err)
{
	struct child c = {.spawn = spawn, .null_fd = -1, .parent = getpid()};
	int rc = lift_fds(&c, err);

	if (!rc)
		rc = clone_child(&c, ret_pid, ret_pidfd, err);
	drop_lifted(&c);
	return rc;
}

/* ---- identity ---- */

int kata__boot_id(char out[37], kata_error **err)
{
	KATA_AUTO_FD int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, out, 36) != 36)
		return kata__fail_errno(err, errno, "cannot read the boot id");
	out[36] = '\0';
	return 0;
}

struct process_stat {
	char state;
	unsigned flags; /* PF_... of the kernel */
	uint64_t start;
};

/* From /proc/PID/stat: the command name may hold anything, so parse behind its last ')'. -errno. */
static int read_stat(pid_t pid, struct process_stat *ret)
{
	char path[32], text[1024], *p;
	unsigned long long start;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return -ESRCH;
	text[n] = '\0';
	p = strrchr(text, ')');
	if (!p || sscanf(p + 1, " %c %*d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
			 &ret->state, &ret->flags, &start) != 3)
		return -EIO;
	ret->start = start;
	return 0;
}

int kata__process_identity_of(pid_t pid, struct kata__process_identity *ret, kata_error **err)
{
	struct kata__process_identity id = {.pid = pid};
	struct process_stat stat;
	int rc = kata__boot_id(id.boot_id, err);

	if (rc)
		return rc;
	rc = read_stat(pid, &stat);
	if (rc)
		return kata__fail(err, KATA_E_GONE, HOST, "there is no process %ld", (long)pid);
	id.start_time = stat.start;
	*ret = id;
	return 0;
}

int kata__process_open(const struct kata__process_identity *id, int *ret_pidfd, kata_error **err)
{
	KATA_AUTO_FD int fd = -1;
	struct process_stat stat;
	char boot[37];
	int rc = kata__boot_id(boot, err);

	if (rc)
		return rc;
	if (strcmp(boot, id->boot_id) != 0)
		return kata__fail(err, KATA_E_GONE, HOST, "process %ld was of another boot (%s)", (long)id->pid,
				  id->boot_id);
	if (id->pid <= 1)
		return kata__fail(err, KATA_E_IDENTITY, CALLER, "pid %ld cannot be a VMM's", (long)id->pid);
	fd = (int)syscall(SYS_pidfd_open, id->pid, 0);
	if (fd < 0)
		return errno == ESRCH
			       ? kata__fail(err, KATA_E_GONE, HOST, "there is no process %ld any more", (long)id->pid)
			       : kata__fail_errno(err, errno, "pidfd_open(%ld)", (long)id->pid);
	/* The pidfd pins the process: if the start time read now is right, the pidfd is the recorded process. */
	rc = read_stat(id->pid, &stat);
	if (rc < 0 && rc != -ENOENT && rc != -ESRCH)
		return kata__fail_errno(err, -rc, "cannot look at process %ld", (long)id->pid);
	if (rc < 0 || stat.state == 'Z' || stat.state == 'X')
		return kata__fail(err, KATA_E_GONE, HOST, "process %ld has ended", (long)id->pid);
	if (stat.start != id->start_time)
		return kata__fail(err, KATA_E_IDENTITY, HOST,
				  "pid %ld is another process now (started at %llu, recorded %llu)", (long)id->pid,
				  (unsigned long long)stat.start, (unsigned long long)id->start_time);
	*ret_pidfd = kata__take_fd(&fd);
	return 0;
}

bool kata__process_is_alive(const struct kata__process_identity *id)
{
	int fd;
	int rc = kata__process_open(id, &fd, NULL);

	if (rc == 0)
		close(fd);
	return rc != KATA_E_GONE && rc != KATA_E_IDENTITY;
}

bool kata__process_is_stopped(const struct kata__process_identity *id)
{
	struct process_stat stat;

	return id->pid > 1 && read_stat(id->pid, &stat) == 0 && stat.start == id->start_time &&
	       (stat.state == 'T' || stat.state == 't');
}

static bool is_file(int proc_fd, const char *name, dev_t dev, ino_t ino)
{
	struct stat st;

	return fstatat(proc_fd, name, &st, 0) == 0 && st.st_dev == dev && st.st_ino == ino;
}

int kata__process_has_open(pid_t pid, dev_t dev, ino_t ino)
{
	char path[32];
	struct dirent *e;
	bool has = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT || errno == ESRCH ? 0 : -errno;
	while (!has && (e = readdir(dir)))
		has = e->d_name[0] != '.' && is_file(dirfd(dir), e->d_name, dev, ino);
	closedir(dir);
	return has;
}

bool kata__process_is_ending(pid_t pid)
{
	struct process_stat stat;
	int rc = read_stat(pid, &stat);

	return rc == 0 ? (stat.flags & PF_EXITING) != 0 : rc == -ENOENT || rc == -ESRCH;
}

int kata__process_signal(int pidfd, int sig)
{
	return syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0) < 0 ? -errno : 0;
}

int kata__process_try_reap(int pidfd, int *ret_status)
{
	siginfo_t info;

	memset(&info, 0, sizeof(info));
	if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) == 0) {
		if (info.si_pid == 0)
			return 0;
		*ret_status = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
		return 1;
	}
	/* Not our child (a rebuilt VM), or reaped by the caller's wait(-1): only whether it lives can be told. A pidfd
	 * is readable once its process has ended, reaped or not. */
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	if (poll(&p, 1, 0) == 1 && (p.revents & POLLIN)) {
		*ret_status = -1;
		return 1;
	}
	return 0;
}
