/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists and status of 10,000 sandboxes while others write: answers are those of the caller's read transaction, and
 * nothing but the database is looked at.
 */
#include <sys/inotify.h>
#include <sys/stat.h>

#include "unit/persist/persist_test.h"

#define MANY 10000
#define PAGE 1000

/* The rows of "pod" in this table, once more for each of the others. */
static void multiply(sqlite3 *db, const char *table, const char *key)
{
	char *columns, *values, *text;

	text = kata__format("SELECT group_concat(name) FROM pragma_table_info('%s')", table);
	columns = sql_text(db, text);
	free(text);
	text = kata__format("SELECT group_concat(CASE name WHEN '%s' THEN 'printf(''pod%%05d'', n)' ELSE name END)"
			    " FROM pragma_table_info('%s')",
			    key, table);
	values = sql_text(db, text);
	free(text);
	text = kata__format("WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT %d)"
			    " INSERT INTO %s (%s) SELECT %s FROM c, %s WHERE %s = 'pod'",
			    MANY, table, columns, values, table, key);
	sql(db, text);
	free(text);
	free(columns);
	free(values);
}

static void open_many(struct caller *c)
{
	static const char *const below[] = {"kata_storages", "kata_nics", "kata_containers", "kata_processes"};
	struct record_wish wish = full_wish("pod");

	caller_open(c);
	sql(c->db, "PRAGMA synchronous = OFF");
	fixture_assert_ok(caller_store(c, &wish), c->err);
	sql(c->db, "BEGIN");
	multiply(c->db, "kata_sandboxes", "id");
	for (size_t i = 0; i < kata__array_size(below); i++)
		multiply(c->db, below[i], "sandbox_id");
	sql(c->db, "DELETE FROM kata_sandboxes WHERE id = 'pod'");
	for (size_t i = 0; i < kata__array_size(below); i++) {
		char *text = kata__format("DELETE FROM %s WHERE sandbox_id = 'pod'", below[i]);

		sql(c->db, text);
		free(text);
	}
	sql(c->db, "COMMIT");
}

/* ---- another process's connection */

struct writer {
	sqlite3 *db;
	kata_persistence *p;
	unsigned turns;
};

static void writer_open(struct writer *w, struct caller *c)
{
	char *path = fixture_path(&c->f, "caller.db");

	*w = (struct writer){0};
	cr_assert_eq(sqlite3_open(path, &w->db), SQLITE_OK);
	sql(w->db, "PRAGMA synchronous = OFF");
	free(path);
	fixture_assert_ok(kata_persistence_new_sqlite_attached(c->f.context, w->db, NULL, &w->p, &c->err), c->err);
}

static void writer_close(struct writer *w)
{
	kata_persistence_free(w->p);
	cr_assert_eq(sqlite3_close(w->db), SQLITE_OK);
}

static void id_of(unsigned n, char id[16])
{
	snprintf(id, 16, "pod%05u", n);
}

/* Deletes one ahead of the reader, changes another, adds a third. */
static void write_a_little(struct writer *w, struct caller *c)
{
	struct record_wish wish = full_wish("zzz");
	kata_record *record;
	char id[16];

	id_of(MANY - w->turns, id);
	fixture_assert_ok(kata_persistence_delete_sandbox(w->p, id, &c->err), c->err);
	id_of(MANY / 2 - w->turns, id);
	wish.id = id;
	wish.state = "paused";
	wish.generation = 7;
	wish.base = -1;
	wish.disks = 1;
	record = sample_record(&wish);
	fixture_assert_ok(kata__persistence_store(w->p, record, &c->err), c->err);
	kata__record_free(record);
	snprintf(id, sizeof(id), "zzz%u", w->turns);
	fixture_assert_ok(kata_persistence_create_sandbox(w->p, id, &c->err), c->err);
	w->turns++;
}

/* ---- what the reader sees */

static unsigned list_all(struct caller *c, struct writer *w, unsigned *ret_changed)
{
	kata_sandbox_info *infos = calloc(PAGE, sizeof(*infos));
	char after[65] = "";
	unsigned seen = 0;
	size_t count = 0;

	*ret_changed = 0;
	do {
		infos[0].size = sizeof(infos[0]);
		fixture_assert_ok(
			kata_persistence_list_infos(c->p, after[0] ? after : NULL, infos, PAGE, &count, &c->err),
			c->err);
		for (size_t i = 0; i < count; i++) {
			cr_assert_gt(strcmp(infos[i].id, after), 0, "%s after %s", infos[i].id, after);
			snprintf(after, sizeof(after), "%s", infos[i].id);
			*ret_changed += strcmp(infos[i].state, "running") != 0 || infos[i].storage_count != 2 ||
					infos[i].container_count != 2;
		}
		seen += (unsigned)count;
		if (w)
			write_a_little(w, c);
	} while (count == PAGE);
	free(infos);
	return seen;
}

static void assert_has(struct caller *c, unsigned number, int status, const char *state)
{
	kata_sandbox_info info = {.size = sizeof(info)};
	char id[16];
	int rc;

	id_of(number, id);
	rc = kata_persistence_get_info(c->p, id, &info, &c->err);
	cr_assert_eq(rc, status, "%s: %s", id, error_text(c->err));
	error_clear(&c->err);
	if (rc == 0)
		cr_assert_str_eq(info.state, state, "%s", id);
}

static size_t count_ids(struct caller *c, const char *of)
{
	char **ids = NULL;
	size_t n;

	fixture_assert_ok(of ? kata_persistence_list_containers(c->p, of, &ids, &c->err)
			     : kata_persistence_list_sandboxes(c->p, &ids, &c->err),
			  c->err);
	n = kata__strv_length((const char *const *)ids);
	kata_string_list_free(ids);
	return n;
}

/* The state directory, with the directory of one of the machines in it: whoever looks into it is noticed. */
static int watch_machines(struct caller *c)
{
	char *vm = kata__format("%s/vm", c->f.state_dir), *machine = kata__format("%s/vm-pod", vm);
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

	mkdir(c->f.state_dir, 0700);
	cr_assert_eq(mkdir(vm, 0700), 0);
	cr_assert_eq(mkdir(machine, 0700), 0);
	cr_assert_geq(inotify_add_watch(fd, c->f.state_dir, IN_ALL_EVENTS), 0);
	cr_assert_geq(inotify_add_watch(fd, vm, IN_ALL_EVENTS), 0);
	cr_assert_geq(inotify_add_watch(fd, machine, IN_ALL_EVENTS), 0);
	free(vm);
	free(machine);
	return fd;
}

Test(many, lists_and_status_are_of_the_callers_snapshot_and_touch_nothing_else, .timeout = 120)
{
	struct census_scope scope = {.what = CENSUS_FDS | CENSUS_CHILDREN | CENSUS_THREADS};
	struct census *before, *after;
	unsigned changed = 0;
	char *difference, event[4096];
	struct caller c;
	struct writer w;
	int watch;

	open_many(&c);
	writer_open(&w, &c);
	cr_assert_eq(list_all(&c, NULL, &changed), MANY); /* whatever SQLite opens when first used is open */
	cr_assert_eq(kata_persistence_create_schema(w.p, &c.err), 0);
	write_a_little(&w, &c);
	watch = watch_machines(&c);
	before = census_take(&scope);

	sql(c.db, "BEGIN");
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM kata_sandboxes"), MANY); /* one went, one came */
	cr_assert_eq(list_all(&c, &w, &changed), MANY);
	cr_assert_eq(changed, 2, "the one that was paused and the one that was added before the snapshot");
	cr_assert_eq(list_all(&c, &w, &changed), MANY, "and once more");
	cr_assert_eq(changed, 2);
	cr_assert_eq(count_ids(&c, NULL), MANY);
	assert_has(&c, MANY - 5, 0, "running");     /* deleted since */
	assert_has(&c, MANY / 2 - 5, 0, "running"); /* paused since */
	assert_has(&c, MANY, KATA_E_NOT_FOUND, NULL);
	cr_assert_eq(count_ids(&c, "pod09995"), 2);
	sql(c.db, "COMMIT");

	cr_assert_gt(w.turns, 20);
	cr_assert_eq(list_all(&c, NULL, &changed), MANY);
	cr_assert_eq(changed, 2 * w.turns, "now it is as the other left it");
	assert_has(&c, MANY - 5, KATA_E_NOT_FOUND, NULL);
	assert_has(&c, MANY / 2 - 5, 0, "paused");
	after = census_take(&scope);
	difference = census_diff(before, after);
	cr_assert_null(difference, "%s", difference);
	cr_assert_lt(read(watch, event, sizeof(event)), 0, "somebody looked at a machine's directory");
	close(watch);
	census_free(before);
	census_free(after);
	writer_close(&w);
	caller_close(&c);
}
