/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A line a metric. A metric of several figures (create_counts, commit_overhead) has one line as well: the line's value,
 * bar and goal are those of its worst figure, all figures follow.
 */
#include "bench.h"

#include <stdio.h>

int bench_count_figures(const struct bench_metric *m)
{
	int n = 1;

	while (n < 4 && m->figures[n].part)
		n++;
	return n;
}

/* A bar is missed only when the whole interval is beyond it. */
static bool is_within(const struct bench_metric *m, int i, const struct bench_value *v)
{
	return m->higher_is_better ? v->hi >= m->figures[i].bar : v->lo <= m->figures[i].bar;
}

/* How near to the bar, or beyond it: 1 is the bar. A count of 0 with a bar of 0 is as good as it gets. */
static double strain(const struct bench_metric *m, int i, const struct bench_value *v)
{
	double bar = m->figures[i].bar;

	if (m->higher_is_better)
		return v->value > 0 ? bar / v->value : 1e9;
	return bar > 0 ? v->value / bar : v->value > 0 ? 1e9 : 0;
}

static const char *verdict(const struct bench *b, const struct bench_metric *m, int i, const struct bench_value *v)
{
	static const char *const words[3][2] = {{"no verdict", "null"}, {"MISSED", "false"}, {"ok", "true"}};

	return words[v->is_noisy ? 0 : 1 + is_within(m, i, v)][b->json];
}

/* What there was no verdict for. */
static void print_noise(const struct bench *b, const struct bench_value *v)
{
	if (!v->is_noisy || v->drift <= 0)
		return;
	printf(b->json ? ",\"control\":{\"lo\":%.4g,\"hi\":%.4g,\"drift\":%.4g}"
		       : " (control %.4g to %.4g, drift %.4g)",
	       v->control_lo, v->control_hi, v->drift);
}

static void print_json(const struct bench *b, const struct bench_metric *m, const struct bench_value *values, int worst)
{
	const struct bench_value *v = &values[worst];
	int n = bench_count_figures(m);

	printf("{\"metric\":\"%s\",\"value\":%.4g,\"lo\":%.4g,\"hi\":%.4g,\"n\":%d,\"bar\":%g,\"goal\":%g,\"better\":"
	       "\"%s\","
	       "\"unit\":\"%s\",\"ok\":%s",
	       m->name, v->value, v->lo, v->hi, v->n, m->figures[worst].bar, m->figures[worst].goal,
	       m->higher_is_better ? "higher" : "lower", m->unit, verdict(b, m, worst, v));
	print_noise(b, v);
	for (int i = 0; n > 1 && i < n; i++)
		printf("%s{\"part\":\"%s\",\"value\":%.4g,\"lo\":%.4g,\"hi\":%.4g,\"bar\":%g,\"goal\":%g,\"ok\":%s}",
		       i ? "," : ",\"parts\":[", m->figures[i].part, values[i].value, values[i].lo, values[i].hi,
		       m->figures[i].bar, m->figures[i].goal, verdict(b, m, i, &values[i]));
	printf("%s}\n", n > 1 ? "]" : "");
}

static void print_text(const struct bench *b, const struct bench_metric *m, const struct bench_value *values, int worst)
{
	const struct bench_value *v = &values[worst];
	int n = bench_count_figures(m);

	printf("%-20s %9.4g  [%.4g, %.4g]  n=%-4d bar %-6g goal %-6g %-10s %s", m->name, v->value, v->lo, v->hi, v->n,
	       m->figures[worst].bar, m->figures[worst].goal, m->unit, verdict(b, m, worst, v));
	print_noise(b, v);
	for (int i = 0; n > 1 && i < n; i++)
		printf("%s%s %.4g (bar %g)", i ? ", " : "   ", m->figures[i].part, values[i].value, m->figures[i].bar);
	printf("\n");
}

bool bench_report(const struct bench *b, const struct bench_metric *m, const struct bench_value *values)
{
	int worst = 0;
	bool ok = true;

	for (int i = 0; i < bench_count_figures(m); i++) {
		ok = ok && (values[i].is_noisy || is_within(m, i, &values[i]));
		if (strain(m, i, &values[i]) > strain(m, worst, &values[worst]))
			worst = i;
	}
	(b->json ? print_json : print_text)(b, m, values, worst);
	fflush(stdout);
	return ok;
}
