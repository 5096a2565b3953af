/* SPDX-License-Identifier: Apache-2.0 */
/* Paired ratios: the median, its interval, and whether the machine was quiet enough to believe it. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PAIRS 512
#define RESAMPLES 1000
#define QUIET 0.05 /* how far the control's interval may lie from 1 */
#define DRIFT 0.15 /* how far the hand program's time may move between control and measurement */

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

typedef double series[BENCH_TIMES_MAX][MAX_PAIRS];

/* Of `a` to `b`; b's times. */
struct samples {
	series ratios, hand_ns;
};

/* The quickest of some: on a busy machine most single runs hold a wait for the CPU, of either side. */
static int sample(const struct bench_pairs *p, bench_fn fn, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	uint64_t ns[BENCH_TIMES_MAX];

	for (int i = 0; i < p->best_of; i++) {
		if (fn(p->user, ns))
			return -1;
		for (int t = 0; t < p->times; t++)
			ret_ns[t] = i == 0 || ns[t] < ret_ns[t] ? ns[t] : ret_ns[t];
	}
	return 0;
}

/* ABBA: what drifts hits both alike. */
static int measure(const struct bench_pairs *p, bench_fn a, int pairs, struct samples *s)
{
	for (int i = 0; i < pairs; i++) {
		uint64_t a1[BENCH_TIMES_MAX], a2[BENCH_TIMES_MAX], b1[BENCH_TIMES_MAX], b2[BENCH_TIMES_MAX];

		if (sample(p, a, a1) || sample(p, p->hand, b1) || sample(p, p->hand, b2) || sample(p, a, a2))
			return -1;
		for (int t = 0; t < p->times; t++) {
			s->ratios[t][i] = (double)(a1[t] + a2[t]) / (double)(b1[t] + b2[t]);
			s->hand_ns[t][i] = (double)(b1[t] + b2[t]);
		}
	}
	return 0;
}

/* The machine must have been quiet before, and the hand program no slower beside the library than alone. */
static void judge_noise(struct samples *before, struct samples *s, int t, int pairs, struct bench_value *ret)
{
	struct bench_value control;

	summarise(before->ratios[t], pairs, &control);
	ret->control_lo = control.lo;
	ret->control_hi = control.hi;
	ret->drift = median(s->hand_ns[t], pairs) / median(before->hand_ns[t], pairs);
	ret->is_noisy =
		control.lo < 1 - QUIET || control.hi > 1 + QUIET || ret->drift < 1 - DRIFT || ret->drift > 1 + DRIFT;
}

int bench_ratio(const struct bench *b, const struct bench_pairs *p, struct bench_value *ret)
{
	static struct samples before, s;
	int pairs = b->quick ? p->quick_pairs : p->pairs;
	uint64_t warm[BENCH_TIMES_MAX];

	if (p->library(p->user, warm) || p->hand(p->user, warm))
		return -1;
	if (!b->quick && measure(p, p->hand, pairs, &before))
		return -1;
	if (measure(p, p->library, pairs, &s))
		return -1;
	for (int t = 0; t < p->times; t++) {
		summarise(s.ratios[t], pairs, &ret[t]);
		if (b->quick)
			ret[t].is_noisy = true;
		else
			judge_noise(&before, &s, t, pairs, &ret[t]);
	}
	return 0;
}
