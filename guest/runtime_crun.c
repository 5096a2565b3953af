/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runtime_crun.c - the runtime by running crun.
 *
 * crun copies itself into a sealed memory file and executes the copy, so that a container cannot write to the program
 * that enters it (CVE-2019-5736). The agent makes that sealed file once and runs it from there: crun finds itself safe
 * and does not copy.
 *
 * A job is a directory /run/kata-agent/jobs/N while crun runs: its log, the pid it reports, a process or resources
 * document, the socket that a terminal's master comes in by.
 */
#include "guest/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "guest/kmsg.h"

#define CRUN "/usr/bin/crun"
#define STATE_DIR "/run/crun"
#define JOBS_DIR "/run/kata-agent/jobs"
#define ARGS_MAX 24
#define IDLE_WAITERS_MAX 64

struct runtime {
	struct kata__loop *loop;
	struct children *children;
	int exe_fd;
	uint64_t next_job;
	size_t job_count;
	struct idle_waiter {
		void (*fn)(void *user);
		void *user;
	} idle[IDLE_WAITERS_MAX];
	size_t idle_count;
};

struct job {
	struct runtime *rt;
	char dir[64];
	char log[80], pid_file[80], document[80], console[80], log_arg[96];
	const char *what;
	char *id;
	bool makes_process;
	int console_fd; /* listens */
	const char *argv[ARGS_MAX];
	size_t argc;
	runtime_done_fn done;
	void *user;
};

/* ---- the program */

static int seal_program(int *ret_fd, kata_error **err)
{
	KATA_AUTO_FD int from = open(CRUN, O_RDONLY | O_CLOEXEC);
	KATA_AUTO_FD int to = memfd_create("crun", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct stat st;

	if (from < 0 || to < 0 || fstat(from, &st) != 0)
		return kata__fail_errno(err, errno, "cannot open " CRUN);
	if (sendfile(to, from, NULL, (size_t)st.st_size) != st.st_size ||
	    fcntl(to, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0)
		return kata__fail_errno(err, errno, "cannot seal a copy of " CRUN);
	*ret_fd = kata__take_fd(&to);
	return 0;
}

int runtime_new(struct kata__loop *loop, struct children *children, struct runtime **ret, kata_error **err)
{
	struct runtime *rt = calloc(1, sizeof(*rt));
	int rc;

	if (!rt)
		return kata__fail_no_memory(err);
	rt->loop = loop;
	rt->children = children;
	rt->exe_fd = -1;
	rc = kata__mkdirs(JOBS_DIR, 0700, err);
	if (rc == 0)
		rc = seal_program(&rt->exe_fd, err);
	if (rc != 0) {
		free(rt);
		return rc;
	}
	*ret = rt;
	return 0;
}

/* ---- jobs */

static void arg(struct job *job, const char *text)
{
	if (job->argc < ARGS_MAX - 1)
		job->argv[job->argc++] = text;
}

static void job_free(struct job *job)
{
	kata__close_fd(&job->console_fd);
	kata__remove_tree(job->dir, NULL);
	if (job->makes_process)
		children_expect_no_more(job->rt->children);
	job->rt->job_count--;
	free(job->id);
	free(job);
}

static int job_new(struct runtime *rt, const char *verb, const char *id, runtime_done_fn done, void *user,
		   struct job **ret, kata_error **err)
{
	struct job *job;

	if (rt->job_count >= RUNTIME_JOBS_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "%d jobs of the container runtime are under way",
				  RUNTIME_JOBS_MAX);
	job = calloc(1, sizeof(*job));
	if (!job)
		return kata__fail_no_memory(err);
	*job = (struct job){
		.rt = rt, .what = verb, .done = done, .user = user, .console_fd = -1, .id = kata__strdup(id)};
	rt->job_count++;
	snprintf(job->dir, sizeof(job->dir), JOBS_DIR "/%llu", (unsigned long long)rt->next_job++);
	snprintf(job->log, sizeof(job->log), "%s/log", job->dir);
	snprintf(job->log_arg, sizeof(job->log_arg), "--log=file:%s", job->log);
	snprintf(job->pid_file, sizeof(job->pid_file), "%s/pid", job->dir);
	snprintf(job->document, sizeof(job->document), "%s/document.json", job->dir);
	snprintf(job->console, sizeof(job->console), "%s/console", job->dir);
	if (!job->id || mkdir(job->dir, 0700) != 0) {
		kata__fail_errno(err, errno, "cannot make %s", job->dir);
		job_free(job);
		return KATA_E_IO;
	}
	arg(job, "crun");
	arg(job, "--root=" STATE_DIR);
	arg(job, "--cgroup-manager=cgroupfs");
	arg(job, job->log_arg);
	arg(job, verb);
	*ret = job;
	return 0;
}

/* ---- what crun left behind */

/* The last line of crun's log without its time ("2026-11-22T12:00:00.000000Z: "). */
static kata_error *read_complaint(const struct job *job, int status)
{
	KATA_AUTO(free) char *text = NULL;
	KATA_AUTO(free) char *clean = NULL;
	kata_error *err = NULL;
	const char *line = "it said nothing";
	size_t len = 0;

	if (kata__read_file(job->log, 65536, &text, &len, NULL) == 0 && len > 0) {
		while (len > 0 && text[len - 1] == '\n')
			text[--len] = '\0';
		line = strrchr(text, '\n') ? strrchr(text, '\n') + 1 : text;
		if (strlen(line) > 29 && strncmp(line + 10, "T", 1) == 0 && strstr(line, "Z: "))
			line = strstr(line, "Z: ") + 3;
		clean = kata__sanitize(line, strlen(line), false);
	}
	kata__fail(&err, KATA_E_IO, GUEST, "crun %s %s: %s (status %d)", job->what, job->id, clean ? clean : line,
		   status);
	return err;
}

static pid_t read_pid(const struct job *job)
{
	KATA_AUTO(free) char *text = NULL;
	size_t len = 0;

	if (kata__read_file(job->pid_file, 64, &text, &len, NULL) != 0)
		return 0;
	return (pid_t)strtol(text, NULL, 10);
}

/* The fd that came with a message on the console socket; -1: none. */
static int receive_terminal(const struct job *job)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	char name[256];
	struct iovec iov = {.iov_base = name, .iov_len = sizeof(name)};
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	KATA_AUTO_FD int fd = accept4(job->console_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct cmsghdr *c;
	int terminal = -1;

	if (fd < 0 || recvmsg(fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) < 0)
		return -1;
	c = CMSG_FIRSTHDR(&m);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&terminal, CMSG_DATA(c), sizeof(int));
	if (terminal >= 0)
		fcntl(terminal, F_SETFL, O_NONBLOCK | O_RDWR);
	return terminal;
}

static void read_result(const struct job *job, int status, struct runtime_result *r)
{
	*r = (struct runtime_result){.terminal_fd = -1};
	if (status != 0) {
		r->err = read_complaint(job, status);
		return;
	}
	if (job->console_fd >= 0 && (r->terminal_fd = receive_terminal(job)) < 0)
		kata__fail(&r->err, KATA_E_IO, GUEST, "crun %s %s: it passed no terminal", job->what, job->id);
	if (job->makes_process && (r->pid = read_pid(job)) <= 0 && !r->err)
		kata__fail(&r->err, KATA_E_IO, GUEST, "crun %s %s: it reported no process", job->what, job->id);
}

static void on_exit_of_crun(void *user, int status)
{
	struct job *job = user;
	struct runtime *rt = job->rt;
	struct runtime_result r;

	read_result(job, status, &r);
	job->done(job->user, &r); /* claims the process, so the job must still be there */
	job_free(job);
	while (rt->job_count == 0 && rt->idle_count > 0) {
		struct idle_waiter w = rt->idle[--rt->idle_count];

		w.fn(w.user);
	}
}

bool runtime_when_idle(struct runtime *rt, void (*fn)(void *user), void *user)
{
	if (rt->job_count == 0) {
		fn(user);
		return true;
	}
	if (rt->idle_count == IDLE_WAITERS_MAX)
		return false;
	rt->idle[rt->idle_count++] = (struct idle_waiter){.fn = fn, .user = user};
	return true;
}

static int job_run(struct job *job, const struct runtime_stdio *stdio, kata_error **err)
{
	struct child_spawn spawn = {.exe_fd = job->rt->exe_fd, .argv = job->argv, .stdio = {-1, -1, -1}};
	int rc;

	arg(job, job->id);
	if (stdio && !stdio->terminal)
		memcpy(spawn.stdio, stdio->fds, sizeof(spawn.stdio));
	rc = children_spawn(job->rt->children, &spawn, on_exit_of_crun, job, err);
	if (rc != 0)
		job_free(job);
	return rc;
}

/* ---- the seam */

/* Options that create and exec share: where the pid goes, where the terminal comes from. */
static int expect_process(struct job *job, const struct runtime_stdio *stdio, kata_error **err)
{
	job->makes_process = true;
	children_expect(job->rt->children);
	arg(job, "--pid-file");
	arg(job, job->pid_file);
	if (!stdio->terminal)
		return 0;
	arg(job, "--console-socket");
	arg(job, job->console);
	return kata__unix_listen(job->dir, "console", &job->console_fd, err);
}

static int write_document(struct job *job, const char *text, kata_error **err)
{
	size_t len = strlen(text);
	KATA_AUTO_FD int fd = open(job->document, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, text, len) != (ssize_t)len)
		return kata__fail_errno(err, errno, "cannot write %s", job->document);
	return 0;
}

int runtime_create(struct runtime *rt, const char *id, const char *bundle, const struct runtime_stdio *stdio,
		   runtime_done_fn done, void *user, kata_error **err)
{
	struct job *job;
	int rc = job_new(rt, "create", id, done, user, &job, err);

	if (rc != 0)
		return rc;
	arg(job, "--bundle");
	arg(job, bundle);
	rc = expect_process(job, stdio, err);
	if (rc != 0) {
		job_free(job);
		return rc;
	}
	return job_run(job, stdio, err);
}

int runtime_exec(struct runtime *rt, const char *id, const char *process_json, const struct runtime_stdio *stdio,
		 runtime_done_fn done, void *user, kata_error **err)
{
	struct job *job;
	int rc = job_new(rt, "exec", id, done, user, &job, err);

	if (rc != 0)
		return rc;
	arg(job, "--detach");
	arg(job, "--process");
	arg(job, job->document);
	rc = write_document(job, process_json, err);
	if (rc == 0)
		rc = expect_process(job, stdio, err);
	if (rc != 0) {
		job_free(job);
		return rc;
	}
	return job_run(job, stdio, err);
}

int runtime_update(struct runtime *rt, const char *id, const char *resources_json, runtime_done_fn done, void *user,
		   kata_error **err)
{
	struct job *job;
	int rc = job_new(rt, "update", id, done, user, &job, err);

	if (rc != 0)
		return rc;
	arg(job, "--resources");
	arg(job, job->document);
	rc = write_document(job, resources_json, err);
	if (rc != 0) {
		job_free(job);
		return rc;
	}
	return job_run(job, NULL, err);
}

int runtime_do(struct runtime *rt, enum runtime_verb verb, const char *id, runtime_done_fn done, void *user,
	       kata_error **err)
{
	static const char *const words[] = {[RUNTIME_START] = "start",
					    [RUNTIME_PAUSE] = "pause",
					    [RUNTIME_RESUME] = "resume",
					    [RUNTIME_DELETE] = "delete"};
	struct job *job;
	int rc = job_new(rt, words[verb], id, done, user, &job, err);

	if (rc != 0)
		return rc;
	if (verb == RUNTIME_DELETE)
		arg(job, "--force");
	return job_run(job, NULL, err);
}
