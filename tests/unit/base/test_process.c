/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/process.h"

TestSuite(process, .timeout = 30);

static int wait_status(int pidfd)
{
	int status = -2;
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	cr_assert_eq(poll(&p, 1, 10000), 1);
	cr_assert_eq(kata__process_try_reap(pidfd, &status), 1);
	close(pidfd);
	return status;
}

static int spawn_shell(const char *script, const struct kata__fd_map *fds, size_t count, pid_t *pid)
{
	const char *argv[] = {"sh", "-c", script, NULL};
	struct kata__spawn s = {.path = "/bin/sh", .argv = argv, .fds = fds, .fd_count = count};
	kata_error *err = NULL;
	int pidfd = -1;

	cr_assert_eq(kata__process_spawn(&s, pid, &pidfd, &err), 0, "%s", err ? kata_error_get_message(err) : "");
	return pidfd;
}

/* Runs a shell script with a pipe as its stdout; returns what it printed. */
static void output_of(const char *script, char *out, size_t size)
{
	int p[2];
	pid_t pid;
	ssize_t n;
	size_t at = 0;

	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	int pidfd = spawn_shell(script, (struct kata__fd_map[]){{p[1], 1}}, 1, &pid);

	close(p[1]);
	while ((n = read(p[0], out + at, size - 1 - at)) > 0)
		at += (size_t)n;
	out[at] = '\0';
	close(p[0]);
	cr_expect_eq(wait_status(pidfd), 0);
}

Test(process, gives_exit_codes_and_signals)
{
	pid_t pid;

	cr_expect_eq(wait_status(spawn_shell("exit 3", NULL, 0, &pid)), 3);
	cr_expect_eq(wait_status(spawn_shell("kill -9 $$", NULL, 0, &pid)), 128 + SIGKILL);
}

Test(process, the_child_has_the_fds_asked_for_and_no_other)
{
	char out[512];
	int leaky = open("/dev/null", O_RDONLY); /* not close-on-exec: a careless caller's */

	output_of("ls /proc/self/fd | tr '\\n' ' '", out, sizeof(out));
	/* 0 1 2 and ls's own directory fd */
	cr_expect_str_eq(out, "0 1 2 3 ", "%s", out);
	close(leaky);
}

Test(process, fds_are_mapped_even_when_numbers_overlap)
{
	char out[64] = "";
	int a[2], b[2];
	pid_t pid;

	cr_assert_eq(pipe2(a, O_CLOEXEC), 0);
	cr_assert_eq(pipe2(b, O_CLOEXEC), 0);
	/* crosswise: a's write end becomes b's number and the other way round */
	struct kata__fd_map maps[] = {{a[1], b[1]}, {b[1], a[1]}};
	char script[64];

	snprintf(script, sizeof(script), "echo A >/proc/self/fd/%d; echo B >/proc/self/fd/%d", b[1], a[1]);
	int pidfd = spawn_shell(script, maps, 2, &pid);

	close(a[1]);
	close(b[1]);
	cr_expect_eq(read(a[0], out, sizeof(out)), 2);
	cr_expect_eq(out[0], 'A');
	cr_expect_eq(read(b[0], out, sizeof(out)), 2);
	cr_expect_eq(out[0], 'B');
	close(a[0]);
	close(b[0]);
	cr_expect_eq(wait_status(pidfd), 0);
}

Test(process, the_child_has_an_empty_environment_no_new_privs_and_default_signals)
{
	char out[512];
	struct sigaction ignore = {.sa_handler = SIG_IGN};

	sigaction(SIGUSR1, &ignore, NULL);
	output_of("grep -E 'NoNewPrivs|SigIgn|SigBlk' /proc/self/status | tr -d ' \\t\\n'; tr '\\0' '\\n' "
		  "</proc/self/environ | "
		  "grep -v -E '^(PWD|SHLVL|_|OLDPWD)=' | wc -l",
		  out, sizeof(out));
	cr_expect(strstr(out, "SigBlk:0000000000000000"), "%s", out);
	cr_expect(strstr(out, "SigIgn:0000000000000000"), "%s", out);
	cr_expect(strstr(out, "NoNewPrivs:1"), "%s", out);
	cr_expect(strstr(out, "0\n"), "%s", out);
}

/* As another user where this one may: the change of ids must not make it forget. */
static void *spawn_a_sleeper(void *user)
{
	const char *argv[] = {"sleep", "1000", NULL};
	struct kata__spawn s = {.path = "/bin/sleep",
				.argv = argv,
				.set_ids = geteuid() == 0,
				.uid = 65534,
				.gid = 65534,
				.dies_with_thread = true};
	pid_t pid;

	cr_assert_eq(kata__process_spawn(&s, &pid, user, NULL), 0);
	return NULL;
}

Test(process, a_child_that_dies_with_its_thread_does)
{
	pthread_t thread;
	int pidfd = -1;

	cr_assert_eq(pthread_create(&thread, NULL, spawn_a_sleeper, &pidfd), 0);
	cr_assert_eq(pthread_join(thread, NULL), 0);
	cr_expect_eq(wait_status(pidfd), 128 + SIGKILL);
}

Test(process, a_program_that_is_not_there_is_an_error_and_leaves_no_child)
{
	const char *argv[] = {"nope", NULL};
	struct kata__spawn s = {.path = "/nonexistent/nope", .argv = argv};
	kata_error *err = NULL;
	int pidfd = -1;
	pid_t pid = 0;

	cr_expect_eq(kata__process_spawn(&s, &pid, &pidfd, &err), KATA_E_NOT_FOUND);
	cr_expect(strstr(kata_error_get_message(err), "/nonexistent/nope"));
	kata_error_free(err);
	cr_expect_eq(pidfd, -1);
	cr_expect_eq(waitpid(-1, NULL, WNOHANG), -1);
	cr_expect_eq(errno, ECHILD);
}

Test(process, ids_are_dropped_for_the_child_alone)
{
	const char *argv[] = {"sh", "-c", "test $(id -u):$(id -g) = 65534:65534", NULL};
	struct kata__spawn s = {.path = "/bin/sh", .argv = argv, .set_ids = true, .uid = 65534, .gid = 65534};
	const char *env[] = {"PATH=/usr/bin:/bin", NULL};
	int pidfd;
	pid_t pid;

	if (geteuid() != 0)
		cr_skip("changing ids needs root");
	s.envp = env;
	cr_assert_eq(kata__process_spawn(&s, &pid, &pidfd, NULL), 0);
	cr_expect_eq(wait_status(pidfd), 0);
	cr_expect_eq(geteuid(), 0);
}

Test(process, the_child_writes_its_identity_before_it_execs)
{
	const char *argv[] = {"sleep", "1000", NULL};
	int fd = memfd_create("pid", MFD_CLOEXEC), pidfd;
	struct kata__process_identity id;
	char boot_id[37], text[128] = "", expected[128];
	struct kata__spawn s = {.path = "/bin/sleep", .argv = argv, .pid_fd = fd, .boot_id = boot_id};
	pid_t pid;

	cr_assert_eq(kata__boot_id(boot_id, NULL), 0);
	cr_assert_eq(kata__process_spawn(&s, &pid, &pidfd, NULL), 0);
	cr_expect_gt(pread(fd, text, sizeof(text) - 1, 0), 0);
	cr_assert_eq(kata__process_identity_of(pid, &id, NULL), 0);
	snprintf(expected, sizeof(expected), "%ld %llu %s\n", (long)pid, (unsigned long long)id.start_time, boot_id);
	cr_expect_str_eq(text, expected);
	close(fd);
	kill(pid, SIGKILL);
	wait_status(pidfd);
}

Test(process, a_child_that_cannot_say_who_it_is_is_not_started)
{
	const char *argv[] = {"true", NULL};
	int fd = open("/dev/full", O_WRONLY | O_CLOEXEC), pidfd = -1;
	struct kata__spawn s = {
		.path = "/bin/true", .argv = argv, .pid_fd = fd, .boot_id = "01234567-89ab-cdef-0123-456789abcdef"};
	kata_error *err = NULL;
	pid_t pid;

	cr_assert_lt(kata__process_spawn(&s, &pid, &pidfd, &err), 0);
	cr_expect(strstr(kata_error_get_message(err), "which process it is"), "%s", kata_error_get_message(err));
	cr_expect_eq(waitpid(-1, NULL, WNOHANG), -1);
	kata_error_free(err);
	close(fd);
}

Test(process, an_identity_is_recognised_and_a_recycled_pid_is_not)
{
	struct kata__process_identity id;
	kata_error *err = NULL;
	pid_t pid;
	int fd, pidfd = spawn_shell("exec sleep 60", NULL, 0, &pid);

	cr_assert_eq(kata__process_identity_of(pid, &id, NULL), 0);
	cr_expect(kata__process_is_alive(&id));
	cr_assert_eq(kata__process_open(&id, &fd, NULL), 0);
	close(fd);
	id.start_time++;
	cr_expect_eq(kata__process_open(&id, &fd, &err), KATA_E_IDENTITY);
	kata_error_free(err);
	err = NULL;
	id.start_time--;
	id.boot_id[0] = id.boot_id[0] == '0' ? '1' : '0';
	cr_expect_eq(kata__process_open(&id, &fd, &err), KATA_E_GONE);
	kata_error_free(err);
	err = NULL;
	id.pid = 1;
	kata__boot_id(id.boot_id, NULL);
	cr_expect_eq(kata__process_open(&id, &fd, &err), KATA_E_IDENTITY, "init is never ours");
	kata_error_free(err);
	cr_expect_eq(kata__process_signal(pidfd, SIGKILL), 0);
	cr_expect_eq(wait_status(pidfd), 128 + SIGKILL);
	id.pid = pid;
	cr_expect(!kata__process_is_alive(&id));
}

Test(process, a_child_the_caller_reaped_counts_as_ended)
{
	int status = 0;
	pid_t pid;
	int pidfd = spawn_shell("exit 0", NULL, 0, &pid);

	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	cr_expect_eq(kata__process_try_reap(pidfd, &status), 1);
	cr_expect_eq(status, -1);
	close(pidfd);
}
