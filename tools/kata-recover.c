/* SPDX-License-Identifier: Apache-2.0 */
/* kata-recover: shows what dead processes left below a state directory and in records, and undoes it: see help() below,
 * and docs/recovery.md. */
#include <kata/kata.h>

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DIRECTORIES_MAX 256u
#define BUSY_MS 10000
#define EXIT_LEFT 1
#define EXIT_BAD 2

static struct {
	const char *state_dir, *database, *records;
	const char *directories[DIRECTORIES_MAX + 1];
	size_t directory_count;
	uint64_t flags;
	bool json;
} o;

static kata_context *ctx;
static sqlite3 *db;
static kata_persistence *persistence;

static int help(void)
{
	puts("NAME\n"
	     "  kata-recover - show and undo what dead processes left of virtual machines\n"
	     "\n"
	     "SYNOPSIS\n"
	     "  kata-recover [--state-dir DIR] [--database FILE | --records DIR] [--directory DIR]...\n"
	     "               [--dry-run | --apply [--attachable-too]] [--json]\n"
	     "\n"
	     "DESCRIPTION\n"
	     "  Compares records, journals and what there is: machines and their VMMs, half-made snapshots and "
	     "templates,\n"
	     "  sockets of factories, records of sandboxes, reservations. One line for each: its kind, its name, a "
	     "verdict:\n"
	     "    owned       a living process has it: left alone\n"
	     "    attachable  its VMM lives, and it was released or a record names it: freed from its dead owner\n"
	     "    gone        what it stands for has ended: removed\n"
	     "    half-made   its maker died in the middle: removed\n"
	     "    orphan      it lives and is nobody's: ended and removed\n"
	     "    foreign     not provably ours: never touched\n"
	     "    failed      could not be judged, or not be undone: the text says why\n"
	     "  A process is signalled only if pid, start time, boot and the file it logs to are the recorded ones. "
	     "Killed at\n"
	     "  any moment and run again, it goes on.\n"
	     "\n"
	     "OPTIONS\n"
	     "  --state-dir DIR    the library's state directory (default: /run/kata, of others than root "
	     "$XDG_RUNTIME_DIR/kata)\n"
	     "  --database FILE    SQLite database with the tables of docs/persistence.md; without records a machine "
	     "that\n"
	     "                     only a record names is an orphan\n"
	     "  --records DIR      directory of records, in place of a database\n"
	     "  --directory DIR    a template, or a directory that snapshots are made in; may be given again\n"
	     "  --dry-run          change nothing (the default)\n"
	     "  --apply            undo it\n"
	     "  --attachable-too   with --apply: end what is attachable too\n"
	     "  --json             one JSON object a line\n"
	     "  --help             this\n"
	     "\n"
	     "EXIT STATUS\n"
	     "  0  nothing is left to be undone\n"
	     "  1  something is left: with --dry-run what --apply would undo, with --apply what could not be\n"
	     "  2  wrong usage, or it could not look; why is on stderr");
	return 0;
}

static int usage(const char *what)
{
	fprintf(stderr, "kata-recover: %s; --help tells more\n", what);
	return EXIT_BAD;
}

static int failed(const char *what, kata_error *take_err)
{
	char *text = kata_error_to_text(take_err);

	fprintf(stderr, "kata-recover: %s: %s", what, text ? text : "out of memory\n");
	free(text);
	kata_error_free(take_err);
	return EXIT_BAD;
}

/* ---- the command line ---- */

static bool add_directory(const char *path)
{
	if (o.directory_count == DIRECTORIES_MAX)
		return false;
	o.directories[o.directory_count++] = path;
	return true;
}

/* -1: go on; else the exit status. */
static int read_options(int argc, char **argv)
{
	static const struct option options[] = {
		{"state-dir", 1, NULL, 's'}, {"database", 1, NULL, 'd'}, {"records", 1, NULL, 'r'},
		{"directory", 1, NULL, 'p'}, {"dry-run", 0, NULL, 'n'},  {"apply", 0, NULL, 'a'},
		{"json", 0, NULL, 'j'},      {"help", 0, NULL, 'h'},     {"attachable-too", 0, NULL, 't'},
		{NULL, 0, NULL, 0},
	};
	bool dry_run = false;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 's')
			o.state_dir = optarg;
		else if (c == 'd')
			o.database = optarg;
		else if (c == 'r')
			o.records = optarg;
		else if (c == 'p' && !add_directory(optarg))
			return usage("more than 256 --directory");
		else if (c == 'n')
			dry_run = true;
		else if (c == 'a')
			o.flags |= KATA_RECOVER_APPLY;
		else if (c == 't')
			o.flags |= KATA_RECOVER_ATTACHABLE_TOO;
		else if (c == 'j')
			o.json = true;
		else if (c == 'h')
			return help();
		else if (c == '?')
			return EXIT_BAD;
	}
	if (optind != argc)
		return usage("it takes no arguments");
	if (dry_run && o.flags)
		return usage("--dry-run changes nothing: not with --apply or --attachable-too");
	if (o.flags == KATA_RECOVER_ATTACHABLE_TOO)
		return usage("--attachable-too needs --apply");
	if (o.database && o.records)
		return usage("--database or --records, not both");
	return -1;
}

/* ---- opening: nothing is made that was not there ---- */

static int open_database(void)
{
	int flags = o.flags & KATA_RECOVER_APPLY ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY;
	kata_error *err = NULL;

	if (sqlite3_open_v2(o.database, &db, flags, NULL) != SQLITE_OK) {
		fprintf(stderr, "kata-recover: cannot open %s: %s\n", o.database, sqlite3_errmsg(db));
		return EXIT_BAD;
	}
	sqlite3_busy_timeout(db, BUSY_MS);
	return kata_persistence_new_sqlite_attached(ctx, db, NULL, &persistence, &err) ? failed(o.database, err) : 0;
}

static int open_records(void)
{
	kata_error *err = NULL;
	char path[4096];

	snprintf(path, sizeof(path), "%s/format", o.records);
	if (access(path, F_OK) < 0) {
		fprintf(stderr, "kata-recover: cannot open %s: %s: is it a directory of records?\n", path,
			strerror(errno));
		return EXIT_BAD;
	}
	return kata_persistence_new_file(ctx, o.records, &persistence, &err) ? failed(o.records, err) : 0;
}

static int open_all(void)
{
	kata_context_options co = KATA_CONTEXT_OPTIONS_INIT;
	kata_error *err = NULL;

	co.state_dir = o.state_dir;
	if (kata_context_new(&co, &ctx, &err))
		return failed("opening the state directory", err);
	return o.database ? open_database() : o.records ? open_records() : 0;
}

static void close_all(void)
{
	kata_persistence_free(persistence);
	sqlite3_close(db);
	kata_context_free(ctx, NULL);
}

/* ---- telling ---- */

static void print(json_t *take)
{
	char *text = take ? json_dumps(take, JSON_SORT_KEYS | JSON_COMPACT) : NULL;

	if (text)
		puts(text);
	free(text);
	json_decref(take);
}

static void show(const kata_recover_report *r, size_t i)
{
	const char *verdict = kata_recover_verdict_get_name(kata_recover_report_get_verdict(r, i));
	bool undone = kata_recover_report_is_undone(r, i);

	if (o.json)
		print(json_pack("{s:s, s:s, s:s, s:s, s:b, s:s}", "event", "entry", "kind",
				kata_recover_report_get_kind(r, i), "id", kata_recover_report_get_id(r, i), "verdict",
				verdict, "undone", (int)undone, "text", kata_recover_report_get_text(r, i)));
	else
		printf("%-11s %s  %s%s: %s\n", kata_recover_report_get_kind(r, i), kata_recover_report_get_id(r, i),
		       verdict, undone ? ", undone" : "", kata_recover_report_get_text(r, i));
}

static int recover(void)
{
	kata_recover_options ro = KATA_RECOVER_OPTIONS_INIT;
	kata_recover_report *r = NULL;
	size_t count, left;
	kata_error *err = NULL;

	ro.flags = o.flags;
	ro.directories = o.directories;
	if (kata_recover(ctx, persistence, &ro, &r, &err))
		return failed("looking", err);
	count = kata_recover_report_get_count(r);
	left = kata_recover_report_get_left(r);
	for (size_t i = 0; i < count; i++)
		show(r, i);
	if (o.json)
		print(json_pack("{s:s, s:b, s:I, s:I}", "event", "summary", "applied",
				(int)((o.flags & KATA_RECOVER_APPLY) != 0), "found", (json_int_t)count, "left",
				(json_int_t)left));
	else
		printf("%zu found below %s, %zu left%s\n", count, kata_context_get_state_dir(ctx), left,
		       left && !o.flags ? ": --apply undoes what is not failed" : "");
	kata_recover_report_free(r);
	return left ? EXIT_LEFT : 0;
}

int main(int argc, char **argv)
{
	int rc = read_options(argc, argv);
	bool was_there;

	if (rc >= 0)
		return rc;
	was_there = !o.state_dir || access(o.state_dir, F_OK) == 0;
	rc = open_all();
	if (!rc)
		rc = recover();
	close_all();
	if (!was_there && rmdir(o.state_dir) < 0 && errno != ENOENT)
		perror(o.state_dir);
	return rc;
}
