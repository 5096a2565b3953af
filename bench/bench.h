/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H
/*
 * kata-bench: ratios between the library and programs written by hand (bench/hand), measured in one run, interleaved
 * ABBA, as medians of paired ratios with a bootstrap 95 % interval; and exact counts. Public headers alone.
 *
 * A group is what is measured in one go: a child process of its own with a deadline and a directory of its own. What a
 * child leaves behind (processes, files) is removed by its parent and counts as a failure.
 */
#include <kata/kata.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_DIR_MAX 96
#define BENCH_FIGURES_MAX 8 /* of a group */

struct bench {
	const char *guest_dir; /* vmlinuz and initrd */
	const char *build_dir; /* of the library: its .so, the stand-in */
	char work_dir[BENCH_DIR_MAX];
	bool quick; /* few pairs: a smoke test; time gets no verdict, counts do */
	bool json;
};

struct bench_value {
	double value, lo, hi; /* lo == hi == value for counts */
	int n;
	bool is_noisy;                 /* no verdict: what follows says why, or it is a --quick run */
	double control_lo, control_hi; /* hand against hand */
	double drift;                  /* the hand program's time beside the library / in the control; 0: no control */
};

/* One number with its bar. Most metrics have one, whose part is NULL. */
struct bench_figure {
	const char *part;
	double bar, goal;
};

struct bench_metric {
	const char *name; /* NULL ends a list */
	const char *unit; /* "ratio", "count", "us", "KiB", "per second", "times" */
	bool higher_is_better;
	struct bench_figure figures[4]; /* up to the first of bar and goal 0 without a part; one at least */
};

struct bench_group {
	int limit_s;
	/* Sets a value for each figure of each metric, in their order. 0, or -1 after it said what failed. */
	int (*run)(struct bench *b, struct bench_value *values);
	struct bench_metric metrics[4];
};
/* Lists that end with a group without `run`, one a file. */
extern const struct bench_group bench_size[], bench_store[], bench_wire[], bench_create[], bench_plug[], bench_warm[],
	bench_clone[], bench_growth[], bench_attach[];

/* ---- pairs.c ---- */

/* One action, timed: sets as many of ret_ns as the group asked for. 0, or -1 after it said what failed. */
#define BENCH_TIMES_MAX 4
typedef int (*bench_fn)(void *user, uint64_t ret_ns[BENCH_TIMES_MAX]);

/*
 * Runs `library` and `hand` `pairs` times each, ABBA, after one warm-up each, first hand against itself as the control;
 * sets `times` values. Under --quick `quick_pairs`, without a control.
 */
struct bench_pairs {
	bench_fn library, hand;
	void *user;
	int pairs, quick_pairs, times;
	int best_of; /* runs a sample */
};
int bench_ratio(const struct bench *b, const struct bench_pairs *p, struct bench_value *ret);
void bench_count(struct bench_value *ret, double value);

/* ---- report.c ---- */

int bench_count_figures(const struct bench_metric *m);
/* Prints the metric's line; false when a bar is missed. */
bool bench_report(const struct bench *b, const struct bench_metric *m, const struct bench_value *values);

/* ---- guard.c ---- */

/* Runs fn in a child; ends it, and whatever descends from it, at the deadline. The child's exit status, or -1 after it
 * said what went wrong. */
int bench_guard(const char *name, int limit_s, int (*fn)(void *user), void *user);
/* The signal (SIGINT, SIGTERM) that ended a guarded child before its time, or 0. */
int bench_interrupted(void);
void bench_remove_tree(const char *path);

/* ---- */

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
