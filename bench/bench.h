/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H
/*
 * kata-bench: ratios between the library and programs written by hand (bench/hand), measured in one run, interleaved
 * ABBA, as medians of paired ratios with a bootstrap 95 % interval; and exact counts. Public headers alone.
 */
#include <kata/kata.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_DIR_MAX 128

struct bench {
	const char *guest_dir; /* vmlinuz and initrd */
	const char *build_dir; /* of the library: its .so, the stand-in */
	char work_dir[BENCH_DIR_MAX];
	bool quick; /* fewer pairs: a smoke test, no verdict on time */
};

struct bench_value {
	double value, lo, hi; /* lo == hi == value for counts */
	int n;
	bool has_verdict; /* false: the A/A control was too noisy */
};

struct bench_metric {
	const char *name;
	double bar, goal;
	bool lower_is_better;
	const char *unit; /* "ratio", "count", "us", "KiB", "per second" */
	int (*run)(struct bench *b, struct bench_value *ret);
};
/* NULL-terminated lists, one a file. */
extern const struct bench_metric bench_create[], bench_wire[], bench_plug[], bench_store[], bench_size[];

/* One timed action: sets *ret_ns to what is to be compared. 0, or -1 after it said what failed. */
typedef int (*bench_fn)(void *user, uint64_t *ret_ns);

/* Runs `library` and `hand` `pairs` times each, ABBA, after one warm-up each; first hand against itself as the control.
 */
int bench_ratio(struct bench *b, bench_fn library, bench_fn hand, void *user, int pairs, struct bench_value *ret);
void bench_count(struct bench_value *ret, double value);

/* `kata-bench ... --do lib|hand`: one create between two marks, for strace. */
int bench_do(struct bench *b, const char *what);

uint64_t bench_now(void);
uint64_t bench_cpu_ns(void); /* of this process, user and system */
/* Says what failed, with the error (freed); returns -1. */
int bench_fail(const char *what, kata_error *err);

/* A context with an external loop and a state directory of its own in work_dir. */
kata_context *bench_context(struct bench *b, uint64_t flags);
/* Sparse raw image of 16 MiB in work_dir; path must hold 256 bytes. */
int bench_image(struct bench *b, const char *name, char *path);
#endif
