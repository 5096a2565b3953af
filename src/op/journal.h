/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_OP_JOURNAL_H
#define KATA_OP_JOURNAL_H
/*
 * The journal of intent: one text file, "<dir>/journal", a JSON line an event:
 *     {"op":"start","subject":"vm-1","step":"spawn","event":"begin"|"done"|"undone"}
 *     {"op":"start","subject":"vm-1","step":"","event":"end"}      the whole op has ended: its steps are forgotten
 * written before a step acts and after it ended. It survives the process (not the host's reboot: it lies on tmpfs).
 * Recovery reads which steps began and were not undone, of ops that did not end. No fd is kept open. Past 64 KiB, what
 * has ended is dropped.
 */
#include <stddef.h>

#include "base/error.h"

struct kata__journal {
	char *path;
};

int kata__journal_init(struct kata__journal *j, const char *dir, kata_error **err);
void kata__journal_deinit(struct kata__journal *j); /* leaves the file */
int kata__journal_write(struct kata__journal *j, const char *op, const char *subject, const char *step,
			const char *event, kata_error **err);
/* Calls fn for each step that began and was not undone, of ops that did not end, in order. A half last line is ignored;
 * CORRUPT for anything else. */
int kata__journal_read(const char *dir,
		       void (*fn)(void *user, const char *op, const char *subject, const char *step, bool done),
		       void *user, kata_error **err);
#endif
