/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The orders of reserve, plug, store and commit in which the process dies (docs/persistence.md has them as a table).
 * The next process finds the sandbox as its record says it: what was plugged and not committed is taken back, what was
 * unplugged and not committed is dropped, and the reservation tells what was meant.
 *
 * The VMM is the stand-in; the processes are forks of one that has no context and no thread.
 */
#include <criterion/criterion.h>
#include <kata/recover.h>
#include <kata/rows.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/fixture.h"

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

struct scene {
	struct fixture f;
	char *kernel, *binary, *disk;
	char *problem; /* shared with the children */
	enum moment moment;
};

/* ---- in the children: no Criterion there, problems go to the parent */

struct actor {
	struct scene *sc;
	kata_context *context;
	kata_vm_builder *builder;
	sqlite3 *db;
	kata_persistence *p;
	kata_sandbox *s;
};

static void must(struct actor *a, int rc, kata_error *err, const char *what)
{
	if (rc == 0)
		return;
	snprintf(a->sc->problem, 512, "%s: %s", what, error_text(err));
	_exit(1);
}
#define MUST(a, call)                                                                                                  \
	do {                                                                                                           \
		int rc_ = (call);                                                                                      \
		must(a, rc_, err, #call);                                                                              \
	} while (0)

static void want(struct actor *a, bool good, const char *what)
{
	if (good)
		return;
	snprintf(a->sc->problem, 512, "%s", what);
	_exit(2);
}

static void sql(struct actor *a, const char *text)
{
	want(a, sqlite3_exec(a->db, text, NULL, NULL, NULL) == SQLITE_OK, text);
}

static void open_all(struct actor *a, struct scene *sc)
{
	kata_context_options context_options = KATA_CONTEXT_OPTIONS_INIT;
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;
	char *path = fixture_path(&sc->f, "book.db");
	kata_error *err = NULL;

	*a = (struct actor){.sc = sc};
	context_options.state_dir = sc->f.state_dir;
	options.binary = sc->binary;
	options.accelerator = KATA_ACCELERATOR_TCG;
	MUST(a, kata_context_new(&context_options, &a->context, &err));
	MUST(a, kata_vm_builder_new_qemu(a->context, &options, &a->builder, &err));
	want(a, sqlite3_open(path, &a->db) == SQLITE_OK, "the database");
	sql(a, "PRAGMA journal_mode = WAL");
	MUST(a, kata_persistence_new_sqlite_attached(a->context, a->db, NULL, &a->p, &err));
	MUST(a, kata_persistence_create_schema(a->p, &err));
	free(path);
}

static void close_all(struct actor *a)
{
	kata_error *err = NULL;

	kata_persistence_free(a->p);
	sqlite3_close(a->db);
	kata_vm_builder_free(a->builder);
	MUST(a, kata_context_free(a->context, &err));
}

static void die_at(struct actor *a, enum moment moment)
{
	if (a->sc->moment == moment)
		raise(SIGKILL);
}

static void plug(struct actor *a)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_storage *storage = NULL;
	kata_error *err = NULL;

	c.id = "data";
	c.path = a->sc->disk;
	MUST(a, kata_storage_new(&c, &storage, &err));
	MUST(a, kata_sandbox_add_storage(a->s, storage, NULL, &err));
	kata_storage_unref(storage);
}

static void reserve(struct actor *a)
{
	kata_reservation_config c = KATA_RESERVATION_CONFIG_INIT;
	kata_error *err = NULL;

	c.sandbox_id = "sb";
	c.kind = KATA_RESERVE_STORAGE;
	c.id = "data";
	MUST(a, kata_persistence_reserve(a->p, &c, &err));
}

static void store(struct actor *a)
{
	kata_error *err = NULL;

	MUST(a, kata_persistence_store_sandbox(a->p, a->s, &err));
}

/* A sandbox that runs, and its record. */
static void make(struct actor *a)
{
	kata_sandbox_options options = KATA_SANDBOX_OPTIONS_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_error *err = NULL;

	options.id = config.id = "sb";
	config.kernel = config.initrd = a->sc->kernel;
	config.memory_mib = 64;
	MUST(a, kata_persistence_create_sandbox(a->p, "sb", &err));
	MUST(a, kata_sandbox_create(a->context, &options, a->builder, &config, NULL, NULL, &a->s, &err));
	MUST(a, kata_sandbox_start(a->s, NULL, &err));
	store(a);
}

static void victim(struct scene *sc)
{
	kata_error *err = NULL;
	struct actor a;

	open_all(&a, sc);
	make(&a);
	sql(&a, "BEGIN");
	reserve(&a);
	sql(&a, "COMMIT");
	die_at(&a, BEFORE_THE_PLUG);
	plug(&a);
	die_at(&a, AFTER_THE_PLUG);
	sql(&a, "BEGIN");
	store(&a);
	die_at(&a, AFTER_THE_STORE);
	sql(&a, "COMMIT");
	die_at(&a, AFTER_THE_COMMIT);
	MUST(&a, kata_sandbox_remove_storage(a.s, "data", NULL, &err));
	die_at(&a, AFTER_THE_UNPLUG);
	if (sc->moment == AFTER_THE_PLUG_ANEW)
		plug(&a);
	die_at(&a, AFTER_THE_PLUG_ANEW);
	if (sc->moment == AFTER_THE_RELEASE)
		MUST(&a, kata_sandbox_release(a.s, NULL, NULL, &err));
	die_at(&a, AFTER_THE_RELEASE);
	sql(&a, "BEGIN");
	store(&a);
	die_at(&a, AFTER_THE_STORE_OF_THE_UNPLUG);
	sql(&a, "COMMIT");
	die_at(&a, AFTER_THE_COMMIT_OF_THE_UNPLUG);
	_exit(3);
}

/* ---- the next */

static void recover(struct actor *a)
{
	kata_recover_report *report = NULL;
	kata_error *err = NULL;

	MUST(a, fixture_recover(a->context, a->p, KATA_RECOVER_APPLY, &report, &err));
	want(a, kata_recover_report_get_verdict(report, 0) == KATA_RECOVER_ATTACHABLE, "it is not attachable");
	want(a, kata_recover_report_get_count(report) == (a->sc->moment < AFTER_THE_COMMIT ? 2 : 1),
	     "something else is reported");
	want(a,
	     kata_recover_report_get_count(report) == 1 ||
		     (strcmp(kata_recover_report_get_id(report, 1), "sb/storage/data") == 0 &&
		      kata_recover_report_get_verdict(report, 1) == KATA_RECOVER_HALF_MADE &&
		      kata_recover_report_is_undone(report, 1)),
	     "the intent of the dead is not undone");
	kata_recover_report_free(report);
}

static size_t count_disks(struct actor *a)
{
	kata_vm *vm = kata_sandbox_get_vm(a->s);
	size_t n = kata_vm_get_storage_count(vm);

	kata_vm_unref(vm);
	return n;
}

/* "intent", "done", "undone", or "" where there is no reservation. */
static const char *reservation(struct actor *a)
{
	kata_reservation *list = NULL;
	kata_error *err = NULL;
	const char *state = "";
	size_t count = 0;

	MUST(a, kata_persistence_list_reservations(a->p, "sb", &list, &count, &err));
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
	const struct outcome *o = &outcomes[sc->moment];
	kata_error *err = NULL;
	struct actor a;

	open_all(&a, sc);
	recover(&a);
	MUST(&a, kata_persistence_obtain_sandbox(a.p, "sb", a.builder, NULL, NULL, &a.s, &err));
	want(&a, count_disks(&a) == o->disks, "the sandbox is not what its record says");
	want(&a, strcmp(reservation(&a), o->reservation) == 0, reservation(&a));
	if (strcmp(o->reservation, "undone") == 0) {
		/* The plug that was meant is made good. */
		reserve(&a);
		plug(&a);
		store(&a);
		want(&a, strcmp(reservation(&a), "done") == 0, "the intent is not done");
	}
	MUST(&a, kata_sandbox_destroy(a.s, NULL, &err));
	MUST(&a, kata_persistence_delete_sandbox(a.p, "sb", &err));
	kata_sandbox_unref(a.s);
	close_all(&a);
	_exit(0);
}

/* ---- the parent */

static int run_child(struct scene *sc, void (*fn)(struct scene *sc))
{
	int status;
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0)
		fn(sc);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return status;
}

static void die_and_inherit(enum moment moment)
{
	struct scene sc = {.moment = moment};
	int64_t pids[4];
	int status;

#ifdef __SANITIZE_THREAD__
	cr_skip_test(
		"ThreadSanitizer sees no synchronisation in a child of its own fork and reports races that are none");
#endif
	fixture_init(&sc.f, false, 0);
	sc.kernel = fixture_make_kernel(&sc.f);
	sc.binary = fixture_make_standin(&sc.f, NULL);
	sc.disk = fixture_make_raw(&sc.f, "disk", 1 << 20);
	sc.problem = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(sc.problem, MAP_FAILED);
	status = run_child(&sc, victim);
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the victim ended with %d: %s", status,
		  sc.problem);
	status = run_child(&sc, heir);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the heir ended with %d: %s", status, sc.problem);
	cr_assert_eq(census_find_processes(sc.binary, pids, 4), 0u, "a VMM is left");
	munmap(sc.problem, 4096);
	free(sc.kernel);
	free(sc.binary);
	free(sc.disk);
	fixture_deinit(&sc.f);
}

#define MOMENT(name, moment)                                                                                           \
	Test(order_crash, name, .timeout = 120)                                                                        \
	{                                                                                                              \
		die_and_inherit(moment);                                                                               \
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
