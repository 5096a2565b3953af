/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the tests registered through the Criterion look-alike beside this file: fork a test, timeout, closing line. */
#include <criterion/criterion.h>
#include <fnmatch.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXIT_FAILED 1
#define EXIT_SKIPPED 77
#define DEFAULT_TIMEOUT_S 300.0
#define JOBS 2 /* tests at once: many of them wait most of the time */

static struct tsan_test *tests;
static int failures; /* of this test */
static int tested, passed;

void tsan_test_add(struct tsan_test *test)
{
	struct tsan_test **at = &tests;

	while (*at)
		at = &(*at)->next;
	*at = test;
}

void tsan_test_fail(const char *file, int line, const char *what, const char *fmt, ...)
{
	va_list ap;

	failures++;
	fprintf(stderr, "[----] %s:%d: Assertion Failed: %s ", file, line, what);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

/* Not _exit: what the test's fixture started is ended, and what it made removed, at the exit (support/fixture.c). */
void tsan_test_abort(void)
{
	exit(EXIT_FAILED);
}

void tsan_test_skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	_exit(EXIT_SKIPPED);
}

static const struct tsan_test *suite_of(const struct tsan_test *test)
{
	for (const struct tsan_test *t = tests; t; t = t->next)
		if (t->is_suite && strcmp(t->suite, test->suite) == 0)
			return t;
	return test;
}

static int run_child(const struct tsan_test *t)
{
	const struct tsan_test *s = suite_of(t);

	if (s != t && s->data.init)
		s->data.init();
	if (t->data.init)
		t->data.init();
	t->fn();
	if (t->data.fini)
		t->data.fini();
	if (s != t && s->data.fini)
		s->data.fini();
	return failures ? EXIT_FAILED : 0;
}

/* A test that runs. */
struct job {
	const struct tsan_test *test; /* NULL: none */
	pid_t pid;
	int pidfd;
	struct timespec begin;
};

static double elapsed_s(const struct job *j)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - j->begin.tv_sec) + (double)(now.tv_nsec - j->begin.tv_nsec) / 1e9;
}

static double limit_s(const struct tsan_test *t)
{
	double timeout = t->data.timeout > 0 ? t->data.timeout : suite_of(t)->data.timeout;

	return 5 * (timeout > 0 ? timeout : DEFAULT_TIMEOUT_S);
}

/* Each test gets a process of its own, as under Criterion; nothing has a thread yet when this forks. */
static void start(struct job *j, const struct tsan_test *t)
{
	fflush(NULL);
	clock_gettime(CLOCK_MONOTONIC, &j->begin);
	j->test = t;
	j->pid = fork();
	if (j->pid == 0)
		exit(run_child(t));
	j->pidfd = (int)syscall(SYS_pidfd_open, j->pid, 0);
}

static void finish(struct job *j)
{
	const struct tsan_test *t = j->test;
	int status = 0, rc;

	waitpid(j->pid, &status, 0);
	close(j->pidfd);
	j->test = NULL;
	rc = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	if (t->data.signal && WIFSIGNALED(status) && WTERMSIG(status) == t->data.signal)
		rc = 0;
	if (rc == EXIT_SKIPPED) {
		fprintf(stderr, "\n[SKIP] %s::%s\n", t->suite, t->name);
		return;
	}
	tested++;
	passed += rc == 0;
	if (rc == 0)
		fprintf(stderr, "[PASS] %s::%s: (%.2fs)\n", t->suite, t->name, elapsed_s(j));
	else
		fprintf(stderr, "[FAIL] %s::%s: (exit %d)\n", t->suite, t->name, rc);
}

/* Waits until one has ended, or is ended because its time is up. */
static void wait_for_one(struct job jobs[JOBS])
{
	struct pollfd fds[JOBS];
	double left = 1e6;

	for (int i = 0; i < JOBS; i++) {
		fds[i] = (struct pollfd){.fd = jobs[i].test ? jobs[i].pidfd : -1, .events = POLLIN};
		if (jobs[i].test && limit_s(jobs[i].test) - elapsed_s(&jobs[i]) < left)
			left = limit_s(jobs[i].test) - elapsed_s(&jobs[i]);
	}
	poll(fds, JOBS, left > 0 ? (int)(left * 1000) + 1 : 0);
	for (int i = 0; i < JOBS; i++) {
		if (!jobs[i].test)
			continue;
		if (!fds[i].revents && elapsed_s(&jobs[i]) >= limit_s(jobs[i].test)) {
			fprintf(stderr, "%s::%s: timed out\n", jobs[i].test->suite, jobs[i].test->name);
			kill(jobs[i].pid, SIGKILL);
		} else if (!fds[i].revents) {
			continue;
		}
		finish(&jobs[i]);
	}
}

static const struct tsan_test *next_wanted(const struct tsan_test *t, const char *filter)
{
	char full[256];

	for (; t; t = t->next) {
		snprintf(full, sizeof(full), "%s/%s", t->suite, t->name ? t->name : "");
		if (!t->is_suite && !t->data.disabled && (!filter || fnmatch(filter, full, 0) == 0))
			break;
	}
	return t;
}

/* The first that runs, or does not; NULL: there is none. */
static struct job *find_job(struct job jobs[JOBS], bool runs)
{
	for (int i = 0; i < JOBS; i++)
		if ((jobs[i].test != NULL) == runs)
			return &jobs[i];
	return NULL;
}

static const char *filter_of(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strncmp(argv[i], "--filter=", 9) == 0)
			return argv[i] + 9;
		if (strcmp(argv[i], "--filter") == 0 && i + 1 < argc)
			return argv[i + 1];
	}
	return NULL;
}

int main(int argc, char **argv)
{
	const char *filter = filter_of(argc, argv);
	const struct tsan_test *t = next_wanted(tests, filter);
	struct job jobs[JOBS] = {0};

	for (;;) {
		if (t && find_job(jobs, false)) {
			start(find_job(jobs, false), t);
			t = next_wanted(t->next, filter);
		} else if (find_job(jobs, true)) {
			wait_for_one(jobs);
		} else {
			break;
		}
	}
	fprintf(stderr, "[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: 0 \n", tested, passed,
		tested - passed);
	return tested != passed;
}
