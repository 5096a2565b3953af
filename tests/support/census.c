/* SPDX-License-Identifier: Apache-2.0 */
/* census.c - reads /proc, the links, a directory tree, a database; sorts the lines; compares by merging. */
#include "support/census.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <net/if.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct census {
	char **lines;
	size_t count;
};

static void *check(void *p)
{
	if (!p)
		abort();
	return p;
}

__attribute__((format(printf, 2, 3))) static void add(struct census *c, const char *fmt, ...)
{
	va_list ap;
	char *line = NULL;

	va_start(ap, fmt);
	if (vasprintf(&line, fmt, ap) < 0)
		abort();
	va_end(ap);
	c->lines = check(realloc(c->lines, (c->count + 1) * sizeof(*c->lines)));
	c->lines[c->count++] = line;
}

static void add_unreadable(struct census *c, const char *what, const char *path)
{
	add(c, "%s unreadable: %s: %s", what, path, strerror(errno));
}

/* Calls fn for every entry of a directory but "." and "..". */
static void each_entry(struct census *c, const char *what, const char *path,
		       void (*fn)(struct census *c, int dir_fd, const char *name, void *user), void *user)
{
	DIR *d = opendir(path);
	struct dirent *e;

	if (!d) {
		if (errno != ENOENT && errno != ESRCH)
			add_unreadable(c, what, path);
		return;
	}
	while ((e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			fn(c, dirfd(d), e->d_name, user);
	closedir(d);
}

static bool read_link_at(int dir_fd, const char *name, char *out, size_t size)
{
	ssize_t n = readlinkat(dir_fd, name, out, size - 1);

	if (n < 0)
		return false;
	out[n] = 0;
	return true;
}

/* ---- own fds and threads */

/* "socket:[123]" becomes "socket". */
static void add_fd(struct census *c, int dir_fd, const char *name, void *user)
{
	char target[512];
	char *bracket;

	if (atoi(name) == dir_fd || !read_link_at(dir_fd, name, target, sizeof(target)))
		return;
	bracket = strstr(target, ":[");
	if (bracket && isdigit((unsigned char)bracket[2]))
		*bracket = 0;
	add(c, "fd %s", target);
}

static void read_text_at(int dir_fd, const char *path, char *out, size_t size)
{
	int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);

	out[n < 0 ? 0 : n] = 0;
	if (fd >= 0)
		close(fd);
	out[strcspn(out, "\n")] = 0;
}

static void add_thread(struct census *c, int dir_fd, const char *name, void *user)
{
	char path[300], comm[64];

	snprintf(path, sizeof(path), "%s/comm", name);
	read_text_at(dir_fd, path, comm, sizeof(comm));
	add(c, "thread %s", comm);
}

/* ---- processes */

struct process_scan {
	const char *marker;
	bool children, others;
	int64_t *pids; /* instead of lines */
	size_t found, max;
};

static bool has_marker_in(int dir_fd, const char *pid, const char *file, const char *marker)
{
	char path[300], text[16384];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", pid, file);
	fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	if (fd >= 0)
		close(fd);
	return n > 0 && memmem(text, (size_t)n, marker, strlen(marker));
}

static bool links_to_marker(int dir_fd, const char *pid, const char *file, const char *marker)
{
	char path[600], target[512];

	snprintf(path, sizeof(path), "%s/%s", pid, file);
	return read_link_at(dir_fd, path, target, sizeof(target)) && strstr(target, marker);
}

static bool has_marked_fd(const char *pid, const char *marker)
{
	char path[300];
	bool found = false;
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	d = opendir(path);
	while (d && !found && (e = readdir(d)))
		found = links_to_marker(dirfd(d), ".", e->d_name, marker);
	if (d)
		closedir(d);
	return found;
}

static bool is_marked(int dir_fd, const char *pid, const char *marker)
{
	return has_marker_in(dir_fd, pid, "cmdline", marker) || links_to_marker(dir_fd, pid, "cwd", marker) ||
	       links_to_marker(dir_fd, pid, "exe", marker) || has_marked_fd(pid, marker);
}

/* comm, state and parent from /proc/PID/stat; false when it has gone meanwhile. */
static bool read_stat(int dir_fd, const char *pid, char comm[32], char *ret_state, int *ret_parent)
{
	char path[300], text[512];
	char *open_at, *close_at;

	snprintf(path, sizeof(path), "%s/stat", pid);
	read_text_at(dir_fd, path, text, sizeof(text));
	open_at = strchr(text, '(');
	close_at = strrchr(text, ')');
	if (!open_at || !close_at || sscanf(close_at + 1, " %c %d", ret_state, ret_parent) != 2)
		return false;
	*close_at = 0;
	snprintf(comm, 32, "%s", open_at + 1);
	return true;
}

static void add_process(struct census *c, int dir_fd, const char *name, void *user)
{
	struct process_scan *scan = user;
	char comm[32], state;
	int parent;

	if (!isdigit((unsigned char)name[0]) || atoi(name) == getpid())
		return;
	if (!read_stat(dir_fd, name, comm, &state, &parent))
		return;
	if (scan->children && parent == getpid()) {
		add(c, "child %s%s", comm, state == 'Z' ? " (zombie)" : "");
		return;
	}
	if (!scan->others || state == 'Z' || !is_marked(dir_fd, name, scan->marker))
		return;
	if (scan->pids && scan->found < scan->max)
		scan->pids[scan->found] = atoi(name);
	scan->found++;
	if (!scan->pids)
		add(c, "process %s", comm);
}

size_t census_find_processes(const char *marker, int64_t *ret_pids, size_t max)
{
	struct process_scan scan = {.marker = marker, .others = true, .pids = ret_pids, .max = max};
	int64_t nowhere;
	struct census c = {0};

	if (!ret_pids)
		scan.pids = &nowhere, scan.max = 0;
	each_entry(&c, "process", "/proc", add_process, &scan);
	return scan.found;
}

/* ---- links, files, rows */

static void add_links(struct census *c)
{
	struct if_nameindex *links = if_nameindex();

	if (!links) {
		add_unreadable(c, "link", "if_nameindex");
		return;
	}
	for (struct if_nameindex *i = links; i->if_index; i++)
		add(c, "link %s", i->if_name);
	if_freenameindex(links);
}

struct tree {
	const char *full;
	const char *relative;
};

static const char *kind_of(mode_t mode)
{
	if (S_ISDIR(mode))
		return "directory";
	if (S_ISSOCK(mode))
		return "socket";
	if (S_ISLNK(mode))
		return "symlink";
	return S_ISREG(mode) ? "file" : "special";
}

static void add_file(struct census *c, int dir_fd, const char *name, void *user)
{
	const struct tree *t = user;
	char full[1024], relative[1024];
	struct tree below = {full, relative};
	struct stat st;

	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	snprintf(full, sizeof(full), "%s/%s", t->full, name);
	snprintf(relative, sizeof(relative), "%s%s%s", t->relative, *t->relative ? "/" : "", name);
	add(c, "file %s (%s)", relative, kind_of(st.st_mode));
	if (S_ISDIR(st.st_mode))
		each_entry(c, "file", full, add_file, &below);
}

static int add_table(void *user, int columns, char **values, char **names)
{
	add(user, "rows %s: %s", values[0], values[1]);
	return 0;
}

static int count_table(void *user, int columns, char **values, char **names)
{
	char **sql = user;
	char *more;

	if (asprintf(&more, "%s%sSELECT '%s', count(*) FROM \"%s\"", *sql ? *sql : "", *sql ? " UNION ALL " : "",
		     values[0], values[0]) < 0)
		abort();
	free(*sql);
	*sql = more;
	return 0;
}

static void add_rows(struct census *c, const char *path)
{
	sqlite3 *db = NULL;
	char *sql = NULL;

	if (access(path, F_OK) < 0)
		return;
	if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK ||
	    sqlite3_exec(db, "SELECT name FROM sqlite_master WHERE type = 'table'", count_table, &sql, NULL) !=
		    SQLITE_OK ||
	    (sql && sqlite3_exec(db, sql, add_table, c, NULL) != SQLITE_OK))
		add(c, "rows unreadable: %s: %s", path, sqlite3_errmsg(db));
	free(sql);
	sqlite3_close(db);
}

/* ---- the whole */

static int compare_lines(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

struct census *census_take(const struct census_scope *scope)
{
	struct census *c = check(calloc(1, sizeof(*c)));
	struct process_scan scan = {.marker = scope->marker,
				    .children = scope->what & CENSUS_CHILDREN,
				    .others = scope->what & CENSUS_PROCESSES && scope->marker};
	struct tree top = {scope->directory, ""};

	if (scope->what & CENSUS_FDS)
		each_entry(c, "fd", "/proc/self/fd", add_fd, NULL);
	if (scope->what & CENSUS_THREADS)
		each_entry(c, "thread", "/proc/self/task", add_thread, NULL);
	if (scan.children || scan.others)
		each_entry(c, "process", "/proc", add_process, &scan);
	if (scope->what & CENSUS_LINKS)
		add_links(c);
	if (scope->what & CENSUS_FILES && scope->directory)
		each_entry(c, "file", scope->directory, add_file, &top);
	if (scope->what & CENSUS_ROWS && scope->database)
		add_rows(c, scope->database);
	if (c->count)
		qsort(c->lines, c->count, sizeof(*c->lines), compare_lines);
	return c;
}

void census_free(struct census *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->count; i++)
		free(c->lines[i]);
	free(c->lines);
	free(c);
}

char *census_diff(const struct census *before, const struct census *after)
{
	char *text = NULL;
	size_t size = 0, i = 0, j = 0;
	FILE *f = check(open_memstream(&text, &size));

	while (i < before->count || j < after->count) {
		int order = i == before->count ? 1 : j == after->count ? -1 : strcmp(before->lines[i], after->lines[j]);

		if (order < 0)
			fprintf(f, "- %s\n", before->lines[i]);
		if (order > 0)
			fprintf(f, "+ %s\n", after->lines[j]);
		i += order <= 0;
		j += order >= 0;
	}
	fclose(f);
	if (size)
		return text;
	free(text);
	return NULL;
}

size_t census_count(const struct census *c, const char *prefix)
{
	size_t n = 0;

	for (size_t i = 0; i < c->count; i++)
		n += strncmp(c->lines[i], prefix, strlen(prefix)) == 0;
	return n;
}
