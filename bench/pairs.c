/* SPDX-License-Identifier: Apache-2.0 */
/* Paired ratios: the median, its interval, and whether the machine was quiet enough to believe it. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PAIRS 512
#define RESAMPLES 1000
#define QUIET 0.05 /* how far the control's interval may lie from 1 */

void bench_count(struct bench_value *ret, double value)
{
	*ret = (struct bench_value){.value = value, .lo = value, .hi = value, .n = 1};
}

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
	*ret = (struct bench_value){.value = median(sample, n),
				    .lo = medians[RESAMPLES * 25 / 1000],
				    .hi = medians[RESAMPLES * 975 / 1000],
				    .n = n};
}

typedef double pair_ratios[BENCH_TIMES_MAX][MAX_PAIRS];

/* ABBA: what drifts hits both alike. */
static int measure(bench_fn a, bench_fn b, void *user, int times, int pairs, pair_ratios ratios)
{
	for (int i = 0; i < pairs; i++) {
		uint64_t a1[BENCH_TIMES_MAX], a2[BENCH_TIMES_MAX], b1[BENCH_TIMES_MAX], b2[BENCH_TIMES_MAX];

		if (a(user, a1) || b(user, b1) || b(user, b2) || a(user, a2))
			return -1;
		for (int t = 0; t < times; t++)
			ratios[t][i] = (double)(a1[t] + a2[t]) / (double)(b1[t] + b2[t]);
	}
	return 0;
}

int bench_ratio(const struct bench *b, const struct bench_pairs *p, struct bench_value *ret)
{
	static pair_ratios control, ratios;
	int pairs = b->quick ? p->quick_pairs : p->pairs;
	uint64_t warm[BENCH_TIMES_MAX];

	if (p->library(p->user, warm) || p->hand(p->user, warm))
		return -1;
	if (!b->quick && measure(p->hand, p->hand, p->user, p->times, pairs, control))
		return -1;
	if (measure(p->library, p->hand, p->user, p->times, pairs, ratios))
		return -1;
	for (int t = 0; t < p->times; t++) {
		struct bench_value quiet = {.lo = 0, .hi = 2};

		if (!b->quick)
			summarise(control[t], pairs, &quiet);
		summarise(ratios[t], pairs, &ret[t]);
		ret[t].is_noisy = quiet.lo < 1 - QUIET || quiet.hi > 1 + QUIET;
	}
	return 0;
}
