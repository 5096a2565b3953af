/* SPDX-License-Identifier: Apache-2.0 */
/* Measuring, and printing a line a metric. bench/run starts this with the right directories. */
#include "bench.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_PAIRS 512
#define RESAMPLES 1000

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t bench_now(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t bench_cpu_ns(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

int bench_fail(const char *what, kata_error *err)
{
	char *text = kata_error_to_text(err);

	fprintf(stderr, "bench: %s: %s\n", what, text ? text : "failed");
	free(text);
	kata_error_free(err);
	return -1;
}

void bench_count(struct bench_value *ret, double value)
{
	*ret = (struct bench_value){.value = value, .lo = value, .hi = value, .n = 1, .has_verdict = true};
}

kata_context *bench_context(struct bench *b, uint64_t flags)
{
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
	kata_context *ctx = NULL;
	kata_error *err = NULL;
	char dir[BENCH_DIR_MAX + 8];

	snprintf(dir, sizeof(dir), "%s/s", b->work_dir);
	o.state_dir = dir;
	o.flags = flags;
	if (kata_context_new(&o, &ctx, &err))
		bench_fail("context", err);
	return ctx;
}

int bench_image(struct bench *b, const char *name, char *path)
{
	int fd, rc;

	snprintf(path, 256, "%s/%s", b->work_dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	rc = ftruncate(fd, 16 << 20);
	close(fd);
	return rc;
}

/* ---- statistics ---- */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, int n)
{
	qsort(values, (size_t)n, sizeof(*values), compare);
	return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* Median of the ratios and its bootstrap 95 % interval; a fixed seed, so that the same samples give the same interval.
 */
static void summarise(const double *ratios, int n, struct bench_value *ret)
{
	double sample[MAX_PAIRS], medians[RESAMPLES];
	uint64_t seed = 88172645463325252u;

	for (int r = 0; r < RESAMPLES; r++) {
		for (int i = 0; i < n; i++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			sample[i] = ratios[seed % (uint64_t)n];
		}
		medians[r] = median(sample, n);
	}
	qsort(medians, RESAMPLES, sizeof(*medians), compare);
	memcpy(sample, ratios, (size_t)n * sizeof(*sample));
	ret->value = median(sample, n);
	ret->lo = medians[RESAMPLES * 25 / 1000];
	ret->hi = medians[RESAMPLES * 975 / 1000];
	ret->n = n;
}

static int measure_pairs(bench_fn a, bench_fn b, void *user, int pairs, double *ratios)
{
	for (int i = 0; i < pairs; i++) {
		uint64_t ta[2], tb[2];

		/* ABBA: what drifts hits both alike. */
		if (a(user, &ta[0]) || b(user, &tb[0]) || b(user, &tb[1]) || a(user, &ta[1]))
			return -1;
		ratios[i] = (double)(ta[0] + ta[1]) / (double)(tb[0] + tb[1]);
	}
	return 0;
}

int bench_ratio(struct bench *b, bench_fn library, bench_fn hand, void *user, int pairs, struct bench_value *ret)
{
	double ratios[MAX_PAIRS];
	struct bench_value control;
	uint64_t warm;

	if (b->quick)
		pairs = pairs > 9 ? 9 : pairs;
	if (library(user, &warm) || hand(user, &warm) || measure_pairs(hand, hand, user, pairs, ratios))
		return -1;
	summarise(ratios, pairs, &control);
	if (measure_pairs(library, hand, user, pairs, ratios))
		return -1;
	summarise(ratios, pairs, ret);
	ret->has_verdict = control.lo >= 0.95 && control.hi <= 1.05;
	return 0;
}

/* ---- printing ---- */

static bool is_within(const struct bench_metric *m, const struct bench_value *v)
{
	/* A bar is missed only when the whole interval is beyond it. */
	return m->lower_is_better ? v->lo <= m->bar : v->hi >= m->bar;
}

static void print(const struct bench_metric *m, const struct bench_value *v, bool json)
{
	const char *verdict = !v->has_verdict   ? (json ? "null" : "no verdict")
			      : is_within(m, v) ? (json ? "true" : "ok")
						: (json ? "false" : "MISSED");

	if (json)
		printf("{\"metric\":\"%s\",\"value\":%.4g,\"lo\":%.4g,\"hi\":%.4g,\"n\":%d,\"bar\":%g,\"goal\":%g,"
		       "\"better\":\"%s\",\"unit\":\"%s\",\"ok\":%s}\n",
		       m->name, v->value, v->lo, v->hi, v->n, m->bar, m->goal, m->lower_is_better ? "lower" : "higher",
		       m->unit, verdict);
	else
		printf("%-26s %9.4g  [%.4g, %.4g]  n=%-4d bar %-7g goal %-7g %-10s %s\n", m->name, v->value, v->lo,
		       v->hi, v->n, m->bar, m->goal, m->unit, verdict);
	fflush(stdout);
}

static bool is_wanted(const struct bench_metric *m, char **names, int count)
{
	for (int i = 0; i < count; i++)
		if (strncmp(m->name, names[i], strlen(names[i])) == 0)
			return true;
	return count == 0;
}

static int run_list(struct bench *b, const struct bench_metric *list, char **names, int count, bool json)
{
	int missed = 0;

	for (const struct bench_metric *m = list; m->name; m++) {
		struct bench_value v = {.has_verdict = true};

		if (!is_wanted(m, names, count))
			continue;
		if (m->run(b, &v)) {
			fprintf(stderr, "bench: %s could not be measured\n", m->name);
			missed++;
			continue;
		}
		print(m, &v, json);
		/* Time under --quick is not judged: too few pairs. Counts always are. */
		missed += v.has_verdict && !is_within(m, &v) && !(b->quick && v.n > 1);
	}
	return missed;
}

int main(int argc, char **argv)
{
	static const struct bench_metric *const lists[] = {bench_size, bench_store, bench_wire, bench_create,
							   bench_plug};
	struct bench b = {0};
	bool json = false;
	int at = 3, missed = 0;

	if (argc < 3) {
		fprintf(stderr, "usage: kata-bench GUEST_DIR BUILD_DIR [--json] [--quick] [METRIC...]\n");
		return 2;
	}
	b.guest_dir = argv[1];
	b.build_dir = argv[2];
	for (; at < argc && argv[at][0] == '-'; at++) {
		json |= strcmp(argv[at], "--json") == 0;
		b.quick |= strcmp(argv[at], "--quick") == 0;
		if (strcmp(argv[at], "--do") == 0)
			break;
	}
	snprintf(b.work_dir, sizeof(b.work_dir), "/tmp/kata-bench-XXXXXX");
	if (!mkdtemp(b.work_dir)) {
		perror("bench: mkdtemp");
		return 1;
	}
	if (at + 1 < argc && strcmp(argv[at], "--do") == 0)
		return bench_do(&b, argv[at + 1]) ? 1 : 0;
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		missed += run_list(&b, lists[i], argv + at, argc - at, json);
	return missed ? 1 : 0;
}
