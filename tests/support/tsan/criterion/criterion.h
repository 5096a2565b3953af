/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CRITERION_CRITERION_H
#define CRITERION_CRITERION_H
/*
 * The part of Criterion's interface that our tests use, for builds with ThreadSanitizer alone: Criterion maps its arena
 * at an address that TSan keeps for itself, and stops. Same model: every test in a process of its own, with a timeout;
 * prints Criterion's closing line. TSan's own exit code (66) counts as a failure.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct criterion_test_extra_data {
	int sentinel_;
	void (*init)(void);
	void (*fini)(void);
	double timeout;
	bool disabled;
	const char *description;
	int signal;
	int exit_code;
};

struct tsan_test {
	const char *suite, *name;
	void (*fn)(void);
	struct criterion_test_extra_data data;
	bool is_suite;
	struct tsan_test *next;
};

void tsan_test_add(struct tsan_test *test);
void tsan_test_fail(const char *file, int line, const char *what, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
void tsan_test_abort(void) __attribute__((noreturn));
void tsan_test_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#define TSAN_REGISTER_(var, suite_, name_, fn_, is_suite_, ...)                                                        \
	static struct tsan_test var = {#suite_, name_, fn_, {.sentinel_ = 0, ##__VA_ARGS__}, is_suite_, NULL};         \
	__attribute__((constructor)) static void var##_add(void)                                                       \
	{                                                                                                              \
		tsan_test_add(&var);                                                                                   \
	}
#define Test(suite_, name_, ...)                                                                                       \
	static void suite_##_##name_##_fn(void);                                                                       \
	TSAN_REGISTER_(suite_##_##name_##_test, suite_, #name_, suite_##_##name_##_fn, false, ##__VA_ARGS__)           \
	static void suite_##_##name_##_fn(void)
#define TestSuite(suite_, ...) TSAN_REGISTER_(suite_##_suite_, suite_, NULL, NULL, true, ##__VA_ARGS__)

#define TSAN_CHECK_(fatal, cond, what, ...)                                                                            \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			tsan_test_fail(__FILE__, __LINE__, what, " " __VA_ARGS__);                                     \
			if (fatal)                                                                                     \
				tsan_test_abort();                                                                     \
		}                                                                                                      \
	} while (0)

#define cr_expect(c, ...) TSAN_CHECK_(0, c, #c, ##__VA_ARGS__)
#define cr_assert(c, ...) TSAN_CHECK_(1, c, #c, ##__VA_ARGS__)
#define cr_expect_not(c, ...) TSAN_CHECK_(0, !(c), "not " #c, ##__VA_ARGS__)
#define cr_assert_not(c, ...) TSAN_CHECK_(1, !(c), "not " #c, ##__VA_ARGS__)
#define cr_expect_eq(a, b, ...) TSAN_CHECK_(0, (a) == (b), #a " == " #b, ##__VA_ARGS__)
#define cr_assert_eq(a, b, ...) TSAN_CHECK_(1, (a) == (b), #a " == " #b, ##__VA_ARGS__)
#define cr_expect_neq(a, b, ...) TSAN_CHECK_(0, (a) != (b), #a " != " #b, ##__VA_ARGS__)
#define cr_assert_neq(a, b, ...) TSAN_CHECK_(1, (a) != (b), #a " != " #b, ##__VA_ARGS__)
#define cr_expect_lt(a, b, ...) TSAN_CHECK_(0, (a) < (b), #a " < " #b, ##__VA_ARGS__)
#define cr_assert_lt(a, b, ...) TSAN_CHECK_(1, (a) < (b), #a " < " #b, ##__VA_ARGS__)
#define cr_expect_leq(a, b, ...) TSAN_CHECK_(0, (a) <= (b), #a " <= " #b, ##__VA_ARGS__)
#define cr_assert_leq(a, b, ...) TSAN_CHECK_(1, (a) <= (b), #a " <= " #b, ##__VA_ARGS__)
#define cr_expect_gt(a, b, ...) TSAN_CHECK_(0, (a) > (b), #a " > " #b, ##__VA_ARGS__)
#define cr_assert_gt(a, b, ...) TSAN_CHECK_(1, (a) > (b), #a " > " #b, ##__VA_ARGS__)
#define cr_expect_geq(a, b, ...) TSAN_CHECK_(0, (a) >= (b), #a " >= " #b, ##__VA_ARGS__)
#define cr_assert_geq(a, b, ...) TSAN_CHECK_(1, (a) >= (b), #a " >= " #b, ##__VA_ARGS__)
#define cr_expect_null(a, ...) TSAN_CHECK_(0, (a) == NULL, #a " is NULL", ##__VA_ARGS__)
#define cr_assert_null(a, ...) TSAN_CHECK_(1, (a) == NULL, #a " is NULL", ##__VA_ARGS__)
#define cr_expect_not_null(a, ...) TSAN_CHECK_(0, (a) != NULL, #a " is not NULL", ##__VA_ARGS__)
#define cr_assert_not_null(a, ...) TSAN_CHECK_(1, (a) != NULL, #a " is not NULL", ##__VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) TSAN_CHECK_(0, strcmp(a, b) == 0, #a " equals " #b, ##__VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) TSAN_CHECK_(1, strcmp(a, b) == 0, #a " equals " #b, ##__VA_ARGS__)
#define cr_expect_str_neq(a, b, ...) TSAN_CHECK_(0, strcmp(a, b) != 0, #a " differs from " #b, ##__VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) TSAN_CHECK_(1, strcmp(a, b) != 0, #a " differs from " #b, ##__VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) TSAN_CHECK_(0, memcmp(a, b, n) == 0, #a " equals " #b, ##__VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) TSAN_CHECK_(1, memcmp(a, b, n) == 0, #a " equals " #b, ##__VA_ARGS__)
#define cr_expect_fail(...) TSAN_CHECK_(0, false, "reached", ##__VA_ARGS__)
#define cr_assert_fail(...) TSAN_CHECK_(1, false, "reached", ##__VA_ARGS__)
#define cr_fatal(...) TSAN_CHECK_(1, false, "reached", ##__VA_ARGS__)
#define cr_fail(...) TSAN_CHECK_(0, false, "reached", ##__VA_ARGS__)
#define cr_skip(...) tsan_test_skip(" " __VA_ARGS__)
#define cr_skip_test(...) tsan_test_skip(" " __VA_ARGS__)
#define cr_log_info(...) ((void)fprintf(stderr, __VA_ARGS__))
#define cr_log_warn(...) ((void)fprintf(stderr, __VA_ARGS__))
#define cr_log_error(...) ((void)fprintf(stderr, __VA_ARGS__))
#endif
