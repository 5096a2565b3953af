/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the tests registered through the Criterion look-alike beside this file: fork a test, timeout, closing line. */
#include <criterion/criterion.h>
#include <fnmatch.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_FAILED 1
#define EXIT_SKIPPED 77
#define DEFAULT_TIMEOUT_S 300.0

static struct tsan_test *tests;
static int failures;

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

/* Each test gets a process of its own, as under Criterion; nothing has a thread yet when this forks. */
static int run(const struct tsan_test *t)
{
	double timeout = t->data.timeout > 0 ? t->data.timeout : suite_of(t)->data.timeout;
	int status = 0, pidfd;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0)
		exit(run_child(t));
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1,
		 (int)((timeout > 0 ? timeout : DEFAULT_TIMEOUT_S) * 5000)) == 0) {
		fprintf(stderr, "[FAIL] %s::%s: Timed out\n", t->suite, t->name);
		kill(pid, SIGKILL);
	}
	close(pidfd);
	waitpid(pid, &status, 0);
	if (t->data.signal && WIFSIGNALED(status) && WTERMSIG(status) == t->data.signal)
		return 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	int tested = 0, passed = 0, failed = 0;
	const char *filter = NULL;

	for (int i = 1; i < argc; i++)
		if (strncmp(argv[i], "--filter=", 9) == 0)
			filter = argv[i] + 9;
	for (const struct tsan_test *t = tests; t; t = t->next) {
		char full[256];
		int rc;

		snprintf(full, sizeof(full), "%s/%s", t->suite, t->name ? t->name : "");
		if (t->is_suite || t->data.disabled || (filter && fnmatch(filter, full, 0) != 0))
			continue;
		rc = run(t);
		if (rc == EXIT_SKIPPED) {
			fprintf(stderr, "\n[SKIP] %s::%s\n", t->suite, t->name);
			continue;
		}
		tested++;
		if (rc == 0) {
			passed++;
		} else {
			failed++;
			fprintf(stderr, "[FAIL] %s::%s (exit %d)\n", t->suite, t->name, rc);
		}
	}
	fprintf(stderr, "[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: 0 \n", tested, passed,
		failed);
	return failed != 0;
}
