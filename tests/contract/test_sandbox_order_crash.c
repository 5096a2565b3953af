/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The orders of reserve, plug, store and commit in which the process dies (docs/persistence.md has them as a table).
 * The next process finds the sandbox as its record says it: what was plugged and not committed is taken back, what was
 * unplugged and not committed is dropped, and the reservation tells what was meant.
 *
 * The VMM is the stand-in; the processes are forks of one that has no context and no thread.
 */
#include <criterion/criterion.h>
#include <kata/rows.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "support/recover_scene.h"

/* Where the process dies. */
enum moment {
	BEFORE_THE_PLUG,
	AFTER_THE_PLUG,
	AFTER_THE_STORE,
	AFTER_THE_COMMIT,
	AFTER_THE_UNPLUG,    /* from here on "data" was plugged and committed first */
	AFTER_THE_PLUG_ANEW, /* in another slot by then */
	AFTER_THE_RELEASE,
	AFTER_THE_STORE_OF_THE_UNPLUG,
	AFTER_THE_COMMIT_OF_THE_UNPLUG
};

static enum moment moment; /* of the test */

struct owner {
	struct actor a;
	sqlite3 *db;
	kata_sandbox *s;
};

static void sql(struct owner *o, const char *text)
{
	actor_want(&o->a, sqlite3_exec(o->db, text, NULL, NULL, NULL) == SQLITE_OK, text);
}

static void open_all(struct owner *o, struct scene *sc)
{
	char *path = fixture_path(&sc->f, "book.db");
	kata_error *err = NULL;

	*o = (struct owner){0};
	actor_open_without_p(&o->a, sc);
	actor_want(&o->a, sqlite3_open(path, &o->db) == SQLITE_OK, "the database");
	sql(o, "PRAGMA journal_mode = WAL");
	MUST(&o->a, kata_persistence_new_sqlite_attached(o->a.context, o->db, NULL, &o->a.p, &err));
	MUST(&o->a, kata_persistence_create_schema(o->a.p, &err));
	free(path);
}

static void close_all(struct owner *o)
{
	actor_close(&o->a);
	sqlite3_close(o->db);
}

static void die_at(enum moment now)
{
	if (moment == now)
		raise(SIGKILL);
}

static void plug(struct owner *o)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_storage *storage = NULL;
	kata_error *err = NULL;

	c.id = "data";
	c.path = o->a.sc->disk;
	MUST(&o->a, kata_storage_new(&c, &storage, &err));
	MUST(&o->a, kata_sandbox_add_storage(o->s, storage, NULL, &err));
	kata_storage_unref(storage);
}

static void reserve(struct owner *o)
{
	actor_reserve_storage(&o->a, "sb", "data");
}

static void store(struct owner *o)
{
	kata_error *err = NULL;

	MUST(&o->a, kata_persistence_store_sandbox(o->a.p, o->s, &err));
}

static void victim(struct scene *sc)
{
	kata_error *err = NULL;
	struct owner o;

	open_all(&o, sc);
	o.s = actor_start_sandbox(&o.a, "sb");
	sql(&o, "BEGIN");
	reserve(&o);
	sql(&o, "COMMIT");
	die_at(BEFORE_THE_PLUG);
	plug(&o);
	die_at(AFTER_THE_PLUG);
	sql(&o, "BEGIN");
	store(&o);
	die_at(AFTER_THE_STORE);
	sql(&o, "COMMIT");
	die_at(AFTER_THE_COMMIT);
	MUST(&o.a, kata_sandbox_remove_storage(o.s, "data", NULL, &err));
	die_at(AFTER_THE_UNPLUG);
	if (moment == AFTER_THE_PLUG_ANEW)
		plug(&o);
	die_at(AFTER_THE_PLUG_ANEW);
	if (moment == AFTER_THE_RELEASE)
		MUST(&o.a, kata_sandbox_release(o.s, NULL, NULL, &err));
	die_at(AFTER_THE_RELEASE);
	sql(&o, "BEGIN");
	store(&o);
	die_at(AFTER_THE_STORE_OF_THE_UNPLUG);
	sql(&o, "COMMIT");
	die_at(AFTER_THE_COMMIT_OF_THE_UNPLUG);
}

/* ---- the next */

static void recover(struct owner *o)
{
	kata_recover_report *report = actor_recover(&o->a, KATA_RECOVER_APPLY);

	actor_want(&o->a, kata_recover_report_get_verdict(report, 0) == KATA_RECOVER_ATTACHABLE,
		   "it is not attachable");
	actor_want(&o->a, kata_recover_report_get_count(report) == (moment < AFTER_THE_COMMIT ? 2 : 1),
		   "something else is reported");
	actor_want(&o->a,
		   kata_recover_report_get_count(report) == 1 ||
			   (strcmp(kata_recover_report_get_id(report, 1), "sb/storage/data") == 0 &&
			    kata_recover_report_get_verdict(report, 1) == KATA_RECOVER_HALF_MADE &&
			    kata_recover_report_is_undone(report, 1)),
		   "the intent of the dead is not undone");
	kata_recover_report_free(report);
}

static size_t count_disks(struct owner *o)
{
	kata_vm *vm = kata_sandbox_get_vm(o->s);
	size_t n = kata_vm_get_storage_count(vm);

	kata_vm_unref(vm);
	return n;
}

/* "intent", "done", "undone", or "" where there is no reservation. */
static const char *reservation(struct owner *o)
{
	kata_reservation *list = NULL;
	kata_error *err = NULL;
	const char *state = "";
	size_t count = 0;

	MUST(&o->a, kata_persistence_list_reservations(o->a.p, "sb", &list, &count, &err));
	if (count)
		state = kata_reservation_state_get_name((kata_reservation_state)list[0].state);
	free(list);
	return state;
}

static const struct outcome {
	size_t disks;
	const char *reservation; /* after the next has stored what he found */
} outcomes[] = {
	[BEFORE_THE_PLUG] = {0, "undone"},
	[AFTER_THE_PLUG] = {0, "undone"},
	[AFTER_THE_STORE] = {0, "undone"},
	[AFTER_THE_COMMIT] = {1, "done"},
	[AFTER_THE_UNPLUG] = {0, ""},
	[AFTER_THE_PLUG_ANEW] = {0, ""},
	[AFTER_THE_RELEASE] = {0, ""},
	[AFTER_THE_STORE_OF_THE_UNPLUG] = {0, ""},
	[AFTER_THE_COMMIT_OF_THE_UNPLUG] = {0, ""},
};

static void heir(struct scene *sc)
{
	const struct outcome *expected = &outcomes[moment];
	kata_error *err = NULL;
	struct owner o;

	open_all(&o, sc);
	recover(&o);
	MUST(&o.a, kata_persistence_obtain_sandbox(o.a.p, "sb", o.a.builder, NULL, NULL, &o.s, &err));
	actor_want(&o.a, count_disks(&o) == expected->disks, "the sandbox is not what its record says");
	actor_want(&o.a, strcmp(reservation(&o), expected->reservation) == 0, reservation(&o));
	if (strcmp(expected->reservation, "undone") == 0) {
		/* The plug that was meant is made good. */
		reserve(&o);
		plug(&o);
		store(&o);
		actor_want(&o.a, strcmp(reservation(&o), "done") == 0, "the intent is not done");
	}
	MUST(&o.a, kata_sandbox_destroy(o.s, NULL, &err));
	MUST(&o.a, kata_persistence_delete_sandbox(o.a.p, "sb", &err));
	kata_sandbox_unref(o.s);
	close_all(&o);
}

/* ---- the parent */

static void die_and_inherit(enum moment when)
{
	struct scene sc;
	int64_t pids[4];

	moment = when;
	scene_init(&sc);
	scene_assert_killed(&sc, scene_run(&sc, victim), "the victim");
	scene_assert_ended(&sc, scene_run(&sc, heir), "the heir");
	cr_assert_eq(census_find_processes(sc.binary, pids, 4), 0u, "a VMM is left");
	scene_deinit(&sc);
}

#define MOMENT(name, when)                                                                                             \
	Test(order_crash, name, .timeout = 120)                                                                        \
	{                                                                                                              \
		die_and_inherit(when);                                                                                 \
	}

MOMENT(before_the_plug, BEFORE_THE_PLUG)
MOMENT(after_the_plug, AFTER_THE_PLUG)
MOMENT(after_the_store, AFTER_THE_STORE)
MOMENT(after_the_commit, AFTER_THE_COMMIT)
MOMENT(after_the_unplug, AFTER_THE_UNPLUG)
MOMENT(after_the_plug_anew, AFTER_THE_PLUG_ANEW)
MOMENT(after_the_release, AFTER_THE_RELEASE)
MOMENT(after_the_store_of_the_unplug, AFTER_THE_STORE_OF_THE_UNPLUG)
MOMENT(after_the_commit_of_the_unplug, AFTER_THE_COMMIT_OF_THE_UNPLUG)
