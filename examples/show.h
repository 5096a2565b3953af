/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EXAMPLES_SHOW_H
#define EXAMPLES_SHOW_H
/* How the tour tells what it does: lines for people, or one JSON object a line on stdout and nothing else there. */
#include <jansson.h>
#include <kata/kata.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void show_init(bool json);
bool show_is_json(void);

/* A heading: "[2/6] build  ...". As JSON: {"event":"part","number":2,"title":...}. */
void show_part(int number, const char *title);
/* A line for people. */
void show_line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* An event; takes the object (made by json_pack) and adds its name and time. Nothing in the form for people. */
void show_event(const char *name, json_t *take_fields);

/* The ops of a batch (or any ops) as bars on one time axis, a row a step: shows what overlapped. */
void show_timeline(kata_op *const *ops, const char *const *names, size_t count);
/* The tables' rows of a query, for people and as an event each. */
struct sqlite3;
int show_query(struct sqlite3 *db, const char *title, const char *sql);

/* Prints the error (step, cause chain, last words, console, hint) to stderr, or as an event; frees it. Returns 1. */
int show_error(const char *what, kata_error *err);

double show_ms_since(uint64_t start_ns);
uint64_t show_now(void);
#endif
