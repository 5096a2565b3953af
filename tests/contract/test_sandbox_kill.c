/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A manager with several sandboxes does what it likes (starts, plugs, unplugs, stores, pauses, saves, releases,
 * obtains, destroys) and is killed at a random moment. A second process recovers: each sandbox is attachable and
 * answers, or is wholly gone; recovering again finds nothing; the host is as before, and a stranger next to it was not
 * touched.
 *
 * KATA_TEST_ROUNDS says how often (6); KATA_TEST_SEED begins another sequence.
 */
#include <criterion/criterion.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/recover_scene.h"

#define SANDBOXES 3
#define MOMENT_NS_MAX 400000000 /* some thirty acts on a machine with nothing else to do */
#define MANAGER_S_MAX 60        /* it ends by itself, if nobody kills it */

/* ---- the manager */

struct place {
	kata_sandbox *s;
	bool has_disk, has_nic, is_paused;
};

struct manager {
	struct actor a;
	struct place places[SANDBOXES];
	unsigned seed, acts;
};

static void name(char *out, size_t size, int at)
{
	snprintf(out, size, "s%d", at);
}

static void store(struct manager *m, struct place *p)
{
	kata_error *err = NULL;

	MUST(&m->a, kata_persistence_store_sandbox(m->a.p, p->s, &err));
}

static void plug_or_unplug_disk(struct manager *m, struct place *p, int at)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_storage *disk = NULL;
	kata_error *err = NULL;
	char file[32];
	char *path;

	if (p->has_disk) {
		MUST(&m->a, kata_sandbox_remove_storage(p->s, "disk", NULL, &err));
	} else {
		snprintf(file, sizeof(file), "disk%d", at);
		path = fixture_path(&m->a.sc->f, file);
		c.id = "disk";
		c.path = path;
		MUST(&m->a, kata_storage_new(&c, &disk, &err));
		MUST(&m->a, kata_sandbox_add_storage(p->s, disk, NULL, &err));
		kata_storage_unref(disk);
		free(path);
	}
	p->has_disk = !p->has_disk;
}

static void plug_or_unplug_nic(struct manager *m, struct place *p)
{
	kata_nic_config c = KATA_NIC_CONFIG_INIT;
	kata_error *err = NULL;
	kata_nic *nic = NULL;

	if (p->has_nic) {
		MUST(&m->a, kata_sandbox_remove_nic(p->s, "nic", NULL, &err));
	} else {
		c.id = "nic";
		MUST(&m->a, kata_nic_new(&c, &nic, &err));
		MUST(&m->a, kata_sandbox_add_nic(p->s, nic, NULL, NULL, &err));
		kata_nic_unref(nic);
	}
	p->has_nic = !p->has_nic;
}

static void pause_or_resume(struct manager *m, struct place *p)
{
	kata_error *err = NULL;

	if (p->is_paused)
		MUST(&m->a, kata_sandbox_resume(p->s, NULL, &err));
	else
		MUST(&m->a, kata_sandbox_pause(p->s, NULL, &err));
	p->is_paused = !p->is_paused;
}

/* A machine beside the sandboxes, in no record: a template's maker, say. */
static void save_machine(struct manager *m)
{
	kata_vm *vm = actor_start_vm(&m->a, "beside");
	kata_error *err = NULL;
	char file[32];
	char *path;

	snprintf(file, sizeof(file), "saved/%u", m->acts);
	path = fixture_path(&m->a.sc->f, file);
	MUST(&m->a, kata_vm_snapshot(vm, path, NULL, NULL, NULL, &err));
	MUST(&m->a, kata_vm_destroy(vm, NULL, &err));
	MUST(&m->a, kata_snapshot_delete(m->a.context, path, &err));
	kata_vm_unref(vm);
	free(path);
}

static void hand_over(struct manager *m, struct place *p, int at)
{
	kata_error *err = NULL;
	char id[8];

	name(id, sizeof(id), at);
	MUST(&m->a, kata_persistence_release_sandbox(m->a.p, p->s, NULL, NULL, &err));
	kata_sandbox_unref(p->s);
	p->s = NULL;
	MUST(&m->a, kata_persistence_obtain_sandbox(m->a.p, id, m->a.builder, NULL, NULL, &p->s, &err));
}

static void end(struct manager *m, struct place *p, int at)
{
	kata_error *err = NULL;
	char id[8];

	name(id, sizeof(id), at);
	MUST(&m->a, kata_sandbox_destroy(p->s, NULL, &err));
	kata_sandbox_unref(p->s);
	*p = (struct place){0};
	MUST(&m->a, kata_persistence_delete_sandbox(m->a.p, id, &err));
}

static void act(struct manager *m)
{
	int at = rand_r(&m->seed) % SANDBOXES;
	struct place *p = &m->places[at];
	char id[8];

	m->acts++;
	name(id, sizeof(id), at);
	if (!p->s) {
		p->s = actor_start_sandbox(&m->a, id);
		return;
	}
	if (p->is_paused) { /* what comes and goes needs the guest */
		pause_or_resume(m, p);
		return;
	}
	switch (rand_r(&m->seed) % 9) {
	case 0:
	case 1:
	case 2:
		plug_or_unplug_disk(m, p, at);
		break;
	case 3:
	case 4:
		plug_or_unplug_nic(m, p);
		break;
	case 5:
		pause_or_resume(m, p);
		break;
	case 6:
		save_machine(m);
		break;
	case 7:
		hand_over(m, p, at);
		break;
	default:
		end(m, p, at);
		return;
	}
	if (rand_r(&m->seed) % 2)
		store(m, p);
}

static unsigned round_seed;

static void manage(struct scene *sc)
{
	struct manager m = {.seed = round_seed};
	time_t until = time(NULL) + MANAGER_S_MAX;

	actor_open(&m.a, sc);
	__atomic_store_n(&sc->board->number, getpid(), __ATOMIC_RELEASE); /* from here on it may be killed */
	while (time(NULL) < until)
		act(&m);
	actor_want(&m.a, false, "nobody killed the manager");
}

static void kill_manager(struct scene *sc, const char *what)
{
	unsigned seed = round_seed + 7919;
	struct timespec moment = {.tv_nsec = rand_r(&seed) % MOMENT_NS_MAX};
	int status = 0;
	pid_t pid;

	sc->board->number = 0;
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0) {
		manage(sc);
		_exit(0);
	}
	while (!__atomic_load_n(&sc->board->number, __ATOMIC_ACQUIRE) && waitpid(pid, &status, WNOHANG) == 0)
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	nanosleep(&moment, NULL);
	kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) == pid)
		scene_assert_killed(sc, status, what);
	else /* it ended while it was waited for above */
		cr_assert_fail("%s: the manager ended by itself: %s", what, sc->board->problem);
}

/* ---- who comes after it */

/* Each record's sandbox is taken over, its machine answers and still does what it is told. */
static void attach_all(struct actor *a)
{
	kata_error *err = NULL;
	char **ids = NULL;

	MUST(a, kata_persistence_list_sandboxes(a->p, &ids, &err));
	for (char **id = ids; *id; id++) {
		kata_vm_stats stats = {.size = sizeof(stats)};
		kata_sandbox *s = NULL;
		kata_vm *vm;

		MUST(a, kata_persistence_obtain_sandbox(a->p, *id, a->builder, NULL, NULL, &s, &err));
		vm = kata_sandbox_get_vm(s);
		MUST(a, kata_vm_get_stats(vm, &stats, &err));
		if (kata_vm_get_state(vm) == KATA_VM_PAUSED)
			MUST(a, kata_sandbox_resume(s, NULL, &err));
		kata_vm_unref(vm);
		MUST(a, kata_persistence_store_sandbox(a->p, s, &err));
		MUST(a, kata_sandbox_destroy(s, NULL, &err));
		MUST(a, kata_persistence_delete_sandbox(a->p, *id, &err));
		kata_sandbox_unref(s);
		a->sc->board->number++;
	}
	kata_string_list_free(ids);
}

static void heir(struct scene *sc)
{
	kata_recover_report *report;
	kata_error *err = NULL;
	char **ids = NULL;
	struct actor a;

	sc->board->number = 0;
	actor_open(&a, sc);
	report = actor_recover(&a, KATA_RECOVER_APPLY);
	actor_want_settled(&a, report);
	kata_recover_report_free(report);
	attach_all(&a);
	report = actor_recover(&a, 0);
	actor_want(&a, kata_recover_report_get_count(report) == 0, "recovering again finds something");
	kata_recover_report_free(report);
	MUST(&a, kata_persistence_list_sandboxes(a.p, &ids, &err));
	actor_want(&a, !ids[0], "a record is left");
	kata_string_list_free(ids);
	actor_close(&a);
}

/* ---- */

static pid_t start_stranger(void)
{
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* with a test that fails */
		for (;;)
			pause();
	}
	return pid;
}

static unsigned number_of(const char *variable, unsigned otherwise)
{
	const char *text = getenv(variable);

	return text ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
	return remove(path);
}

/* A snapshot that was complete is a good one, which nobody undoes. */
static void empty_saved(struct scene *sc)
{
	char *place = fixture_path(&sc->f, "saved");

	nftw(place, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	cr_assert_eq(mkdir(place, 0700), 0);
	free(place);
}

Test(sandbox_kill, a_manager_that_is_killed_at_any_moment_leaves_what_answers_or_nothing, .timeout = 3600)
{
	unsigned rounds = number_of("KATA_TEST_ROUNDS", 6), seed = number_of("KATA_TEST_SEED", 1);
	unsigned attached = 0;
	struct scene sc;
	pid_t stranger;

	scene_init(&sc);
	for (int i = 0; i < SANDBOXES; i++) {
		char file[32];

		snprintf(file, sizeof(file), "disk%d", i);
		free(fixture_make_raw(&sc.f, file, 1 << 20));
	}
	stranger = start_stranger();
	empty_saved(&sc);
	scene_assert_ended(&sc, scene_run(&sc, scene_warm_up), "the first");
	for (unsigned i = 0; i < rounds; i++) {
		struct census *before = fixture_census(&sc.f);
		char what[64];

		round_seed = seed + i;
		snprintf(what, sizeof(what), "round %u (KATA_TEST_SEED=%u)", i, round_seed);
		kill_manager(&sc, what);
		scene_assert_ended(&sc, scene_run(&sc, heir), what);
		attached += (unsigned)sc.board->number;
		empty_saved(&sc);
		fixture_assert_census(&sc.f, before, what);
	}
	cr_assert_gt(attached, rounds / 2, "of %u rounds only %u sandboxes were left to attach", rounds, attached);
	cr_assert_eq(waitpid(stranger, NULL, WNOHANG), 0, "the stranger was touched");
	kill(stranger, SIGKILL);
	waitpid(stranger, NULL, 0);
	printf("%u rounds, %u sandboxes attached\n", rounds, attached);
	scene_deinit(&sc);
}
