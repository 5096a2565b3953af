/* SPDX-License-Identifier: Apache-2.0 */
/* The census itself: what it must not overlook, since every other test relies on it. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/fixture.h"

extern char **environ;

static struct fixture f;
static char database[64];

static void set_up(void)
{
	fixture_init(&f, false, 0);
	snprintf(database, sizeof(database), "%s/db", f.dir);
}

static void tear_down(void)
{
	fixture_deinit(&f);
}

TestSuite(support_census, .init = set_up, .fini = tear_down, .timeout = 30);

static struct census *take(void)
{
	const struct census_scope scope = {CENSUS_ALL & ~CENSUS_LINKS, f.dir, f.dir, database};

	return census_take(&scope);
}

/* The difference must be exactly this text; NULL: none. */
static void differs_by(struct census *take_before, const char *expected)
{
	struct census *after = take();
	char *difference = census_diff(take_before, after);

	if (expected)
		cr_assert_str_eq(difference ? difference : "", expected);
	else
		cr_assert_null(difference, "%s", difference);
	free(difference);
	census_free(take_before);
	census_free(after);
}

static pid_t spawn(const char *const *argv)
{
	pid_t pid;

	cr_assert_eq(posix_spawn(&pid, argv[0], NULL, NULL, (char *const *)(uintptr_t)argv, environ), 0);
	return pid;
}

Test(support_census, nothing_done_is_no_difference)
{
	differs_by(take(), NULL);
}

Test(support_census, an_open_fd_is_seen_by_what_it_is)
{
	struct census *before = take();
	int ends[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	differs_by(before, "+ fd socket\n+ fd socket\n");
	before = take();
	close(ends[0]);
	close(ends[1]);
	differs_by(before, "- fd socket\n- fd socket\n");
}

Test(support_census, a_file_is_seen_by_its_path_and_kind)
{
	struct census *before = take();
	char *path = fixture_write_file(&f, "left", "x", 1);

	differs_by(before, "+ file left (file)\n");
	free(path);
}

Test(support_census, a_zombie_is_seen)
{
	static const char *const argv[] = {"/bin/true", NULL};
	struct census *before = take();
	siginfo_t info;
	pid_t pid = spawn(argv);

	cr_assert_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	differs_by(before, "+ child true (zombie)\n");
	waitpid(pid, NULL, 0);
}

Test(support_census, a_process_that_outlives_its_starter_is_seen_by_its_marker)
{
	char command[160];
	const char *const argv[] = {"/bin/sh", "-c", command, NULL};
	struct census *before = take();
	int64_t pids[2];
	pid_t starter;

	snprintf(command, sizeof(command), "cd %s && sleep 60 </dev/null >/dev/null 2>&1 &", f.dir);
	starter = spawn(argv);
	waitpid(starter, NULL, 0);
	cr_assert_eq(census_find_processes(f.dir, pids, 2), 1u);
	kill((pid_t)pids[0], SIGKILL);
	while (census_find_processes(f.dir, NULL, 0))
		usleep(1000); /* the suite's timeout ends it */
	differs_by(before, NULL);
}

static void *sit(void *user)
{
	int *ends = user;
	char c;

	return read(ends[0], &c, 1) == 1 ? user : NULL;
}

Test(support_census, a_thread_is_seen)
{
	struct census *before, *after;
	pthread_t thread;
	int ends[2];

#ifdef __SANITIZE_THREAD__
	cr_skip_test("ThreadSanitizer has a thread of its own, which it starts with the first of ours");
#endif
	before = take();
	cr_assert_eq(pipe(ends), 0);
	cr_assert_eq(pthread_create(&thread, NULL, sit, ends), 0);
	after = take();
	cr_assert_eq(census_count(after, "thread"), census_count(before, "thread") + 1);
	cr_assert_eq(write(ends[1], "x", 1), 1);
	pthread_join(thread, NULL);
	close(ends[0]);
	close(ends[1]);
	census_free(after);
	differs_by(before, NULL);
}

Test(support_census, a_row_is_seen_in_its_table)
{
	sqlite3 *db = NULL;
	struct census *before;

	cr_assert_eq(sqlite3_open(database, &db), SQLITE_OK);
	cr_assert_eq(
		sqlite3_exec(db, "CREATE TABLE t (a); CREATE TABLE u (a); INSERT INTO t VALUES (1)", NULL, NULL, NULL),
		SQLITE_OK);
	before = take();
	cr_assert_eq(sqlite3_exec(db, "INSERT INTO t VALUES (2)", NULL, NULL, NULL), SQLITE_OK);
	differs_by(before, "- rows t: 1\n+ rows t: 2\n");
	sqlite3_close(db);
}

Test(support_census, a_link_is_seen)
{
	const struct census_scope scope = {.what = CENSUS_LINKS};
	struct census *c;

	if (!fixture_enter_netns())
		cr_skip_test("a network namespace of its own needs CAP_SYS_ADMIN");
	c = census_take(&scope);
	cr_assert_eq(census_count(c, "link lo"), 1u);
	cr_assert_eq(census_count(c, ""), 1u, "a new namespace has lo and nothing else");
	census_free(c);
}

/* ---- the fixture's programs */

Test(support_census, a_program_runs_to_its_end_or_to_its_timeout)
{
	static const char *const three[] = {"/bin/sh", "-c", "echo out; echo err >&2; exit 3", NULL};
	static const char *const dies[] = {"/bin/sh", "-c", "kill -9 $$", NULL};
	static const char *const hangs[] = {"/bin/sleep", "60", NULL};
	char *output = NULL;

	cr_assert_eq(fixture_run(three, 10000, &output), 3);
	cr_assert_str_eq(output, "out\nerr\n");
	free(output);
	cr_assert_eq(fixture_run(dies, 10000, NULL), 128 + SIGKILL);
	cr_assert_eq(fixture_run(hangs, 50, NULL), -1);
}
