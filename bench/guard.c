/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nothing that is measured may hang the bench or outlive it. The parent uses no library and has no thread, so it may
 * fork; it is the reaper of all that descends from it (PR_SET_CHILD_SUBREAPER), so that it finds a VMM whose starter
 * died by its parent's pid, wherever it put itself.
 */
#include "bench.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t parent_of(pid_t pid)
{
	char path[32], text[512], *end;
	long parent = -1;
	size_t len;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return -1;
	len = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[len] = '\0';
	end = text;
	for (char *p = text; *p; p++)
		if (*p == ')')
			end = p + 1;
	return sscanf(end, " %*c %ld", &parent) == 1 ? (pid_t)parent : -1;
}

/* Our children by now: the child itself, or the orphans it left. Their children become ours as they die. */
static int kill_children(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	int n = 0;

	while (proc && (e = readdir(proc))) {
		pid_t pid = (pid_t)atoi(e->d_name);

		if (pid <= 1 || parent_of(pid) != getpid())
			continue;
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		n++;
	}
	if (proc)
		closedir(proc);
	return n;
}

static int end_all(void)
{
	int n, all = 0;

	while ((n = kill_children()) > 0)
		all += n;
	return all;
}

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	interrupted = sig;
}

static void handle_signals(void (*handler)(int))
{
	struct sigaction a = {.sa_handler = handler};

	sigaction(SIGINT, &a, NULL);
	sigaction(SIGTERM, &a, NULL);
}

int bench_interrupted(void)
{
	return interrupted;
}

static int wait_until(pid_t child, int limit_s, int *ret_status)
{
	struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, child, 0), .events = POLLIN};
	int n;

	do
		n = poll(&p, 1, limit_s * 1000);
	while (n < 0 && errno == EINTR && !interrupted);
	close(p.fd);
	return n == 1 && waitpid(child, ret_status, 0) == child ? 0 : -1;
}

int bench_guard(const char *name, int limit_s, int (*fn)(void *user), void *user)
{
	int status = 0, left;
	pid_t child;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	handle_signals(on_signal);
	fflush(NULL);
	child = fork(); /* each group of metrics is a child with a deadline; the parent has no context and no thread */
	if (child < 0)
		return -1;
	if (child == 0) {
		handle_signals(SIG_DFL);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		exit(fn(user));
	}
	if (wait_until(child, limit_s, &status)) {
		if (!interrupted)
			fprintf(stderr, "bench: %s: did not end within %d s\n", name, limit_s);
		end_all();
		return -1;
	}
	left = end_all();
	if (!WIFEXITED(status))
		fprintf(stderr, "bench: %s: ended by signal %d\n", name, WTERMSIG(status));
	if (left)
		fprintf(stderr, "bench: %s: left %d processes behind\n", name, left);
	return left || !WIFEXITED(status) ? -1 : WEXITSTATUS(status);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	return remove(path);
}

void bench_remove_tree(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
