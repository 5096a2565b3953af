/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery itself is killed, at each of its steps and at any moment: the next one goes on. A manager has died that had
 * a bit of everything; who recovers after it dies too; the third has it all: what was recorded or released is
 * attachable and answers, everything else is wholly gone, and recovering again finds nothing.
 *
 * KATA_TEST_ROUNDS says how often (8).
 */
#include <criterion/criterion.h>
#include <kata/fail_point.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/recover_scene.h"

#define MOMENT_NS_MAX 12000000 /* about as long as it takes */

/* ---- the manager that dies ---- */

static void reserve(struct actor *a, const char *sandbox, uint32_t kind, const char *id)
{
	kata_reservation_config c = KATA_RESERVATION_CONFIG_INIT;
	kata_error *err = NULL;

	c.sandbox_id = sandbox;
	c.kind = kind;
	c.id = id;
	MUST(a, kata_persistence_reserve(a->p, &c, &err));
}

static void put_row(struct actor *a, uint32_t kind, const char *id, const char *directory, const char *vm_uuid)
{
	kata_row row = KATA_ROW_INIT;
	kata_error *err = NULL;

	row.kind = kind;
	row.id = id;
	row.state = "ready";
	row.type = "qemu";
	row.directory = directory;
	row.vm_uuid = vm_uuid;
	MUST(a, kata_persistence_put_row(a->p, &row, &err));
}

/* Of which nothing is left but its record and its directory. */
static void make_gone(struct actor *a)
{
	kata_sandbox *s = actor_start_sandbox(a, "gone");
	kata_vm *vm = kata_sandbox_get_vm(s);

	a->sc->board->number = kata_vm_get_pid(vm);
}

static void make_released(struct actor *a)
{
	kata_vm *vm = actor_start_vm(a, "released");
	kata_error *err = NULL;
	char *json = NULL;

	MUST(a, kata_vm_release(vm, NULL, &json, &err));
	snprintf(a->sc->board->record, sizeof(a->sc->board->record), "%s", json);
	free(json);
	kata_vm_unref(vm);
}

static void manager(struct scene *sc)
{
	char *missing = fixture_path(&sc->f, "saved/missing"), *saved = fixture_path(&sc->f, "saved/one");
	kata_error *err = NULL;
	struct actor a;
	kata_vm *vm;

	actor_open(&a, sc);
	actor_start_sandbox(&a, "kept");
	reserve(&a, "kept", KATA_RESERVE_STORAGE, "later");
	MUST(&a, kata_persistence_create_sandbox(a.p, "new", &err));
	reserve(&a, "new", KATA_RESERVE_VM, "new");
	make_gone(&a);
	make_released(&a);
	put_row(&a, KATA_ROW_SNAPSHOT, "missing", missing, NULL);
	vm = actor_start_vm(&a, "orphan");
	put_row(&a, KATA_ROW_POOLED_VM, "pooled", NULL, kata_vm_get_uuid(vm));
	MUST(&a, kata_context_set_fail_point(a.context, "snapshot/copy-disks:before", KATA_FAIL_KILL, 0, 0, 1, &err));
	MUST(&a, kata_vm_snapshot(vm, saved, NULL, NULL, NULL, &err));
}

static void end_process(pid_t pid)
{
	struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};

	cr_assert_geq(p.fd, 0);
	cr_assert_eq(kill(pid, SIGKILL), 0);
	cr_assert_eq(poll(&p, 1, 10000), 1, "process %d does not end", (int)pid);
	close(p.fd);
}

static void make_scene(struct scene *sc)
{
	char *place = fixture_path(&sc->f, "saved");

	cr_assert_eq(mkdir(place, 0700), 0);
	scene_assert_killed(sc, scene_run(sc, manager), "the manager");
	end_process((pid_t)sc->board->number);
	free(place);
}

/* ---- who recovers and is killed ---- */

static const struct death {
	const char *point; /* NULL: at any moment */
	uint32_t skip;
} deaths[] = {
	{"recover/vm:before", 0},
	{"recover/vm:before", 1},
	{"recover/vm:after", 1},
	{"recover/snapshot:before", 0},
	{"recover/sandbox:before", 0},
	{"recover/sandbox:after", 0},
	{"recover/reservation:before", 0},
	{NULL, 0},
	{"recover/vm:after", 0},
	{"recover/sandbox:before", 1},
	{"recover/pooled-vm-row:before", 0},
	{"recover/reservation:after", 0},
	{NULL, 0},
	{"recover/snapshot:after", 0},
	{"recover/sandbox:after", 1},
	{"recover/snapshot-row:before", 0},
	{"recover/pooled-vm-row:after", 0},
	{NULL, 0},
};
#define DEATHS (sizeof(deaths) / sizeof(deaths[0]))

static const struct death at_any_moment = {NULL, 0}; /* of many rounds each second one */

static const struct death *death;

static void recover_and_die(struct scene *sc)
{
	kata_error *err = NULL;
	struct actor a;

	actor_open(&a, sc);
	if (death->point)
		MUST(&a, kata_context_set_fail_point(a.context, death->point, KATA_FAIL_KILL, 0, death->skip, 1, &err));
	sc->board->number = getpid(); /* from here on it may be killed */
	actor_recover(&a, KATA_RECOVER_APPLY);
	sc->board->number = 0;
	actor_want(&a, !death->point, "it was not killed");
}

static void die_at_any_moment(struct scene *sc, unsigned *seed)
{
	struct timespec delay = {.tv_nsec = rand_r(seed) % MOMENT_NS_MAX};
	int status;
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	sc->board->number = 0;
	if (pid == 0) {
		recover_and_die(sc);
		_exit(0);
	}
	while (__atomic_load_n(&sc->board->number, __ATOMIC_ACQUIRE) == 0 && waitpid(pid, &status, WNOHANG) == 0)
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	nanosleep(&delay, NULL);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
}

/* ---- who has it all ---- */

static void check_report(struct actor *a, const kata_recover_report *report)
{
	actor_want_settled(a, report);
	actor_want(a, actor_find(report, "vm", "kept") != SIZE_MAX, "what was recorded is not attachable");
	actor_want(a, actor_find(report, "vm", "released") != SIZE_MAX, "what was released is not attachable");
}

/* Each answers, and is ended as usual. */
static void attach(struct actor *a)
{
	const char *record = a->sc->board->record;
	kata_vm_stats stats = {.size = sizeof(stats)};
	kata_sandbox *s = NULL;
	kata_error *err = NULL;
	kata_vm *vm = NULL;

	MUST(a, kata_persistence_obtain_sandbox(a->p, "kept", a->builder, NULL, NULL, &s, &err));
	vm = kata_sandbox_get_vm(s);
	MUST(a, kata_vm_get_stats(vm, &stats, &err));
	kata_vm_unref(vm);
	MUST(a, kata_sandbox_destroy(s, NULL, &err));
	MUST(a, kata_persistence_delete_sandbox(a->p, "kept", &err));
	kata_sandbox_unref(s);
	vm = NULL;
	MUST(a, kata_vm_builder_build_from_released(a->builder, record, strlen(record), NULL, &vm, &err));
	MUST(a, kata_vm_destroy(vm, NULL, &err));
	kata_vm_unref(vm);
}

static void check_nothing(struct actor *a)
{
	kata_recover_report *report = actor_recover(a, 0);
	kata_reservation *reservations = NULL;
	kata_error *err = NULL;
	char **ids = NULL;
	size_t count = 0;

	actor_want(a, kata_recover_report_get_count(report) == 0, "recovering again finds something");
	kata_recover_report_free(report);
	MUST(a, kata_persistence_list_sandboxes(a->p, &ids, &err));
	actor_want(a, !ids[0], "a record is left");
	kata_string_list_free(ids);
	MUST(a, kata_persistence_list_reservations(a->p, NULL, &reservations, &count, &err));
	actor_want(a, count == 0, "a reservation is left");
	free(reservations);
	for (uint32_t kind = KATA_ROW_NETWORK; kind <= KATA_ROW_POOLED_VM; kind++) {
		MUST(a, kata_persistence_list_rows(a->p, (kata_row_kind)kind, NULL, NULL, &ids, &err));
		actor_want(a, !ids[0], "a row is left");
		kata_string_list_free(ids);
	}
}

static void heir(struct scene *sc)
{
	kata_recover_report *report;
	struct actor a;

	actor_open(&a, sc);
	report = actor_recover(&a, KATA_RECOVER_APPLY);
	check_report(&a, report);
	kata_recover_report_free(report);
	attach(&a);
	check_nothing(&a);
	actor_close(&a);
}

/* ---- */

static unsigned rounds(void)
{
	const char *text = getenv("KATA_TEST_ROUNDS");

	return text ? (unsigned)strtoul(text, NULL, 10) : 8;
}

static void one_round(struct scene *sc, unsigned round, unsigned *seed)
{
	char *place = fixture_path(&sc->f, "saved"), what[96];
	struct census *before = fixture_census(&sc->f);

	death = round >= DEATHS && round % 2 ? &at_any_moment : &deaths[round % DEATHS];
	snprintf(what, sizeof(what), "round %u, %s", round, death->point ? death->point : "at any moment");
	make_scene(sc);
	if (death->point)
		scene_assert_killed(sc, scene_run(sc, recover_and_die), what);
	else
		die_at_any_moment(sc, seed);
	scene_assert_ended(sc, scene_run(sc, heir), what);
	cr_assert_eq(rmdir(place), 0, "%s: a snapshot is left", what);
	fixture_assert_census(&sc->f, before, what);
	free(place);
}

Test(recover_kill, recovery_that_is_killed_is_gone_on_with, .timeout = 1200)
{
	unsigned seed = 1, count = rounds();
	struct scene sc;

	scene_init(&sc);
	scene_assert_ended(&sc, scene_run(&sc, scene_warm_up), "the first");
	for (unsigned i = 0; i < count; i++)
		one_round(&sc, i, &seed);
	scene_deinit(&sc);
}
