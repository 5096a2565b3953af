/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_CENSUS_H
#define KATA_TESTS_SUPPORT_CENSUS_H
/*
 * What this process and the host hold at a moment, as a list of lines that can be compared: own fds, threads and
 * children (zombies too), processes that carry a marker, network links, files below a directory, rows of a database.
 *
 * Numbers that differ from run to run (fd numbers, socket inodes) are left out, so two moments are equal exactly when
 * nothing was leaked between them. A child that is counted as a process too is listed once, as a child.
 */
#include <stddef.h>
#include <stdint.h>

#define CENSUS_FDS UINT64_C(1)
#define CENSUS_THREADS UINT64_C(2)
#define CENSUS_CHILDREN UINT64_C(4)
#define CENSUS_PROCESSES UINT64_C(8) /* needs a marker */
#define CENSUS_LINKS UINT64_C(16)    /* of the caller's network namespace */
#define CENSUS_FILES UINT64_C(32)    /* needs a directory */
#define CENSUS_ROWS UINT64_C(64)     /* needs a database */
#define CENSUS_ALL UINT64_MAX

struct census_scope {
	uint64_t what; /* CENSUS_* */
	const char
		*marker; /* a path: processes that have it in their command line, executable, cwd or an fd; or NULL */
	const char *directory; /* or NULL */
	const char *database;  /* path of an SQLite file, or NULL; one that does not exist has no rows */
};

struct census;

/* Never fails: what cannot be read becomes a line that says so. The scope need not outlive the call. */
struct census *census_take(const struct census_scope *scope);
void census_free(struct census *c); /* NULL is fine */

/* NULL when both are equal, else lines "+ what is new" and "- what is missing"; the caller frees. */
char *census_diff(const struct census *before, const struct census *after);
/* How many lines start with `prefix` ("process", "child", "file", "fd", "thread", "link", "rows"). */
size_t census_count(const struct census *c, const char *prefix);
/* The pids of processes that carry the marker, this process left out; at most `max` are written. Returns how many there
 * are. */
size_t census_find_processes(const char *marker, int64_t *ret_pids, size_t max);
#endif
