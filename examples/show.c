/* SPDX-License-Identifier: Apache-2.0 */
/* Output of the tour. In the form for people, width is kept below 110 columns. */
#include "show.h"

#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BAR_WIDTH 56

static bool json_mode;
static uint64_t started;

uint64_t show_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

double show_ms_since(uint64_t start_ns)
{
	return (double)(show_now() - start_ns) / 1e6;
}

void show_init(bool json)
{
	json_mode = json;
	started = show_now();
	setvbuf(stdout, NULL, _IOLBF, 0);
}

bool show_is_json(void)
{
	return json_mode;
}

void show_event(const char *name, json_t *take_fields)
{
	char *text;

	if (json_mode) {
		json_object_set_new(take_fields, "event", json_string(name));
		json_object_set_new(take_fields, "at_ms",
				    json_real((double)(uint64_t)(show_ms_since(started) * 1000) / 1000));
		text = json_dumps(take_fields, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(9));
		puts(text ? text : "{\"event\":\"out-of-memory\"}");
		free(text);
	}
	json_decref(take_fields);
}

void show_part(int number, const char *title)
{
	if (!json_mode)
		printf("\n[%d/6] %s\n", number, title);
	show_event("part", json_pack("{s:i,s:s}", "number", number, "title", title));
}

void show_line(const char *fmt, ...)
{
	va_list ap;

	if (json_mode)
		return;
	va_start(ap, fmt);
	fputs("      ", stdout);
	vprintf(fmt, ap);
	putchar('\n');
	va_end(ap);
}

/* ---- bars ---- */

struct axis {
	uint64_t start, end;
};

static struct axis axis_of(kata_op *const *ops, size_t count)
{
	struct axis a = {UINT64_MAX, 0};

	for (size_t i = 0; i < count; i++) {
		if (kata_op_get_start_ns(ops[i]) < a.start)
			a.start = kata_op_get_start_ns(ops[i]);
		if (kata_op_get_end_ns(ops[i]) > a.end)
			a.end = kata_op_get_end_ns(ops[i]);
	}
	if (a.end <= a.start)
		a.end = a.start + 1;
	return a;
}

static int column(struct axis a, uint64_t t)
{
	return (int)((double)(t - a.start) * BAR_WIDTH / (double)(a.end - a.start));
}

static void show_step(struct axis a, const char *name, const kata_timeline_entry *e)
{
	uint64_t end = e->end_ns ? e->end_ns : a.end;
	int from = column(a, e->start_ns), to = column(a, end);
	char bar[BAR_WIDTH + 2];

	memset(bar, ' ', sizeof(bar));
	bar[BAR_WIDTH + 1] = '\0';
	if (from > BAR_WIDTH)
		from = BAR_WIDTH;
	for (int i = from; i <= to && i <= BAR_WIDTH; i++)
		bar[i] = e->is_undo ? '<' : e->outcome == KATA_STEP_FAILED ? 'x' : '=';
	if (!json_mode)
		printf("      %-9s %-18s |%s| %7.2f ms\n", name, e->step, bar, (double)(end - e->start_ns) / 1e6);
	show_event("step", json_pack("{s:s,s:s,s:f,s:f,s:b}", "subject", name, "step", e->step, "start_ms",
				     (double)(e->start_ns - a.start) / 1e6, "end_ms", (double)(end - a.start) / 1e6,
				     "undo", (int)e->is_undo));
}

void show_timeline(kata_op *const *ops, const char *const *names, size_t count)
{
	struct axis a = axis_of(ops, count);

	for (size_t i = 0; i < count; i++) {
		for (size_t s = 0; s < kata_op_get_timeline_length(ops[i]); s++) {
			kata_timeline_entry e = {.size = sizeof(e)};

			if (kata_op_get_timeline_entry(ops[i], s, &e, NULL) == 0)
				show_step(a, s == 0 || json_mode ? names[i] : "", &e);
		}
	}
	show_line("%-28s  0%*s%.1f ms", "", BAR_WIDTH - 8, "", (double)(a.end - a.start) / 1e6);
}

/* ---- rows ---- */

static void show_row(sqlite3_stmt *stmt, const char *title)
{
	json_t *row = json_object();

	if (!json_mode)
		fputs("        ", stdout);
	for (int i = 0; i < sqlite3_column_count(stmt); i++) {
		const char *value = (const char *)sqlite3_column_text(stmt, i);

		if (!json_mode)
			printf("%s%s=%s", i ? "  " : "", sqlite3_column_name(stmt, i), value ? value : "NULL");
		json_object_set_new(row, sqlite3_column_name(stmt, i), value ? json_string(value) : json_null());
	}
	if (!json_mode)
		putchar('\n');
	show_event("row", json_pack("{s:s,s:o}", "table", title, "row", row));
}

int show_query(sqlite3 *db, const char *title, const char *sql)
{
	sqlite3_stmt *stmt = NULL;
	int rows = 0;

	show_line("%s", title);
	if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK) {
		fprintf(stderr, "tour: %s: %s\n", sql, sqlite3_errmsg(db));
		return -1;
	}
	while (sqlite3_step(stmt) == SQLITE_ROW) {
		show_row(stmt, title);
		rows++;
	}
	sqlite3_finalize(stmt);
	if (rows == 0)
		show_line("  (no rows)");
	return rows;
}

int show_error(const char *what, kata_error *err)
{
	char *text;

	if (json_mode) {
		text = kata_error_to_json(err);
		show_event("error", json_pack("{s:s,s:o}", "what", what, "error",
					      text ? json_loads(text, 0, NULL) : json_null()));
	} else {
		text = kata_error_to_text(err);
		fprintf(stderr, "\ntour: %s failed: %s", what, text ? text : "out of memory\n");
	}
	free(text);
	kata_error_free(err);
	return 1;
}
