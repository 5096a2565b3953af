/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "guest/child.h"

static struct kata__loop *loop;
static struct children *children;
static int status = -1;

static void set_up(void)
{
	cr_assert_eq(kata__loop_new(true, 1, &loop, NULL), 0);
	cr_assert_eq(children_new(loop, &children, NULL), 0);
}

TestSuite(child, .init = set_up, .timeout = 20);

static void on_exit_of_child(void *user, int how)
{
	*(int *)user = how;
}

static void turn_until_exit(void)
{
	for (uint64_t deadline = kata__deadline_in_ms(5000); status < 0 && kata__now_ns() < deadline;)
		cr_assert_eq(kata__loop_dispatch(loop, 100, NULL), 0);
}

static void run(const char *script, int stdout_fd)
{
	const char *const argv[] = {"sh", "-c", script, NULL};
	struct child_spawn spawn = {.exe_fd = open("/bin/sh", O_RDONLY | O_CLOEXEC), .argv = argv};

	spawn.stdio[0] = spawn.stdio[2] = -1;
	spawn.stdio[1] = stdout_fd;
	cr_assert_eq(children_spawn(children, &spawn, on_exit_of_child, &status, NULL), 0);
	close(spawn.exe_fd);
}

Test(child, tells_the_exit_code)
{
	run("exit 7", -1);
	turn_until_exit();
	cr_assert_eq(status, 7);
}

Test(child, tells_a_signal_as_128_and_its_number)
{
	run("kill -9 $$", -1);
	turn_until_exit();
	cr_assert_eq(status, 137);
}

Test(child, gets_its_stdio_and_default_signals)
{
	int fds[2];
	char text[64] = "";

	cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
	run("read x; echo end:$?; grep -c 'SigBlk:.*0000000000000000' /proc/self/status", fds[1]);
	close(fds[1]);
	turn_until_exit();
	cr_assert_gt(read(fds[0], text, sizeof(text) - 1), 0);
	cr_assert_str_eq(text, "end:1\n1\n");
}

/* A child nobody claimed yet, as crun leaves one behind. */
static pid_t orphan(const char *script)
{
	char *const argv[] = {(char *)"sh", (char *)"-c", (char *)script, NULL};
	pid_t pid;

	cr_assert_eq(posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, NULL), 0);
	return pid;
}

Test(child, can_be_claimed_after_it_is_over)
{
	pid_t pid = orphan("exit 5");

	children_expect(children);
	/* Until the loop has reaped it. */
	for (uint64_t deadline = kata__deadline_in_ms(5000); kill(pid, 0) == 0 && kata__now_ns() < deadline;)
		cr_assert_eq(kata__loop_dispatch(loop, 100, NULL), 0);
	cr_assert_eq(children_claim(children, pid, on_exit_of_child, &status, NULL), 0);
	cr_assert_eq(status, -1, "never from inside the claim");
	turn_until_exit();
	cr_assert_eq(status, 5);
}

Test(child, is_not_taken_for_one_long_gone_that_had_its_pid)
{
	pid_t pid = orphan("exit 5");

	children_expect(children);
	for (uint64_t deadline = kata__deadline_in_ms(5000); kill(pid, 0) == 0 && kata__now_ns() < deadline;)
		cr_assert_eq(kata__loop_dispatch(loop, 100, NULL), 0);
	children_expect_no_more(children);
	cr_assert_eq(children_claim(children, pid, on_exit_of_child, &status, NULL), 0);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(kata__loop_dispatch(loop, 0, NULL), 0);
	cr_assert_eq(status, -1);
}

Test(child, can_be_claimed_while_it_runs)
{
	pid_t pid = orphan("read x < /dev/null; exit 6");

	cr_assert_eq(children_claim(children, pid, on_exit_of_child, &status, NULL), 0);
	turn_until_exit();
	cr_assert_eq(status, 6);
}

Test(child, that_is_disowned_calls_nobody)
{
	int other_status = -1;
	pid_t pid = orphan("exit 1");

	cr_assert_eq(children_claim(children, pid, on_exit_of_child, &other_status, NULL), 0);
	children_disown(children, &other_status);
	run("exit 2", -1);
	turn_until_exit();
	while (kill(pid, 0) == 0)
		cr_assert_eq(kata__loop_dispatch(loop, 100, NULL), 0);
	cr_assert_eq(other_status, -1);
}
