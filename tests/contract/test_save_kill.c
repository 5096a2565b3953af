/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process that saves a sandbox, or restores one, is killed at each of the steps. Whoever recovers finds the saved
 * sandbox running and answering, a whole snapshot or none, and nothing half-made; of a restore nothing is left, and the
 * next one succeeds. On the stand-in for QEMU.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <kata/fail_point.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "support/recover_scene.h"

static const char *point;

static char *place_of(struct scene *sc)
{
	return fixture_path(&sc->f, "saved");
}

static char *path_of(struct scene *sc)
{
	return fixture_path(&sc->f, "saved/one");
}

static void save(struct actor *a, kata_sandbox *s)
{
	char *path = path_of(a->sc);
	kata_error *err = NULL;

	MUST(a, kata_sandbox_save(s, path, NULL, NULL, &err));
	free(path);
}

static void end_sandbox(struct actor *a, kata_sandbox *s)
{
	kata_error *err = NULL;

	MUST(a, kata_sandbox_destroy(s, NULL, &err));
	kata_sandbox_unref(s);
}

static void die_at(struct actor *a)
{
	kata_error *err = NULL;

	MUST(a, kata_context_set_fail_point(a->context, point, KATA_FAIL_KILL, 0, 0, 1, &err));
}

/* ---- who is killed, and who comes after */

static void saver(struct scene *sc)
{
	struct actor a;
	kata_sandbox *s;

	actor_open(&a, sc);
	s = actor_start_sandbox(&a, "sb");
	die_at(&a);
	save(&a, s);
}

static kata_sandbox *restore(struct actor *a)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	char *path = path_of(a->sc);
	kata_snapshot *snapshot = NULL;
	kata_sandbox *s = NULL;
	kata_error *err = NULL;

	config.id = "again";
	MUST(a, kata_snapshot_open(a->context, path, KATA_SNAPSHOT_VERIFY, &snapshot, &err));
	MUST(a,
	     kata_sandbox_build_from_snapshot(a->context, snapshot, a->builder, &config, NULL, NULL, NULL, &s, &err));
	actor_want(a, kata_sandbox_get_state(s) == KATA_SANDBOX_RUNNING, "the restored sandbox does not run");
	kata_snapshot_free(snapshot);
	free(path);
	return s;
}

static void restorer(struct scene *sc)
{
	struct actor a;

	actor_open(&a, sc);
	die_at(&a);
	restore(&a);
}

static void recover(struct actor *a, bool keeps)
{
	char *place = place_of(a->sc);
	const char *const directories[] = {place, NULL};
	kata_recover_options options = KATA_RECOVER_OPTIONS_INIT;
	kata_recover_report *report = NULL;
	kata_error *err = NULL;

	options.flags = KATA_RECOVER_APPLY;
	options.directories = directories;
	MUST(a, kata_recover(a->context, a->p, &options, &report, &err));
	for (size_t i = 0; i < kata_recover_report_get_count(report); i++)
		actor_want(a,
			   fixture_was_undone(report, i) ||
				   (keeps && kata_recover_report_get_verdict(report, i) == KATA_RECOVER_ATTACHABLE),
			   kata_recover_report_get_text(report, i));
	kata_recover_report_free(report);
	free(place);
}

/* The snapshot, whole, or nothing. */
static void check_place(struct actor *a)
{
	char *place = place_of(a->sc), *path = path_of(a->sc);
	kata_snapshot *snapshot = NULL;
	kata_error *err = NULL;
	DIR *dir = opendir(place);
	struct dirent *e;
	bool saved = false;

	actor_want(a, dir != NULL, "there is no place");
	while ((e = readdir(dir))) {
		saved = saved || strcmp(e->d_name, "one") == 0;
		actor_want(a, e->d_name[0] != '.' || !e->d_name[1] || e->d_name[1] == '.', e->d_name);
	}
	closedir(dir);
	if (saved) {
		MUST(a, kata_snapshot_open(a->context, path, KATA_SNAPSHOT_VERIFY, &snapshot, &err));
		kata_snapshot_free(snapshot);
		MUST(a, kata_snapshot_delete(a->context, path, &err));
	}
	free(place);
	free(path);
}

static void heir_of_saver(struct scene *sc)
{
	kata_sandbox *s = NULL;
	kata_error *err = NULL;
	kata_agent *agent;
	struct actor a;

	actor_open(&a, sc);
	recover(&a, true);
	check_place(&a);
	MUST(&a, kata_persistence_obtain_sandbox(a.p, "sb", a.builder, NULL, NULL, &s, &err));
	actor_want(&a, kata_sandbox_get_state(s) == KATA_SANDBOX_RUNNING, "the saved sandbox does not run");
	agent = kata_sandbox_get_agent(s);
	MUST(&a, kata_agent_check(agent, NULL, &err));
	kata_agent_unref(agent);
	save(&a, s);
	check_place(&a);
	end_sandbox(&a, s);
	MUST(&a, kata_persistence_delete_sandbox(a.p, "sb", &err));
	actor_close(&a);
}

static void heir_of_restorer(struct scene *sc)
{
	struct actor a;

	actor_open(&a, sc);
	recover(&a, false);
	end_sandbox(&a, restore(&a));
	actor_close(&a);
}

/* Makes what is made once, and the snapshot that is restored. */
static void first(struct scene *sc)
{
	kata_error *err = NULL;
	struct actor a;
	kata_sandbox *s;

	actor_open(&a, sc);
	s = actor_start_sandbox(&a, "sb");
	save(&a, s);
	end_sandbox(&a, s);
	MUST(&a, kata_persistence_delete_sandbox(a.p, "sb", &err));
	end_sandbox(&a, restore(&a));
	actor_close(&a);
}

static void clean_up(struct scene *sc)
{
	struct actor a;

	actor_open(&a, sc);
	check_place(&a);
	actor_close(&a);
}

static void run_to_its_end(struct scene *sc, void (*fn)(struct scene *sc), const char *what)
{
	scene_assert_ended(sc, scene_run(sc, fn), what);
}

static void kill_at_each(const char *operation, const char *const steps[4], bool saving)
{
	struct scene sc;
	char *place, name[64];

	scene_init(&sc);
	place = place_of(&sc);
	cr_assert_eq(mkdir(place, 0700), 0);
	run_to_its_end(&sc, first, "the first");
	if (saving)
		run_to_its_end(&sc, clean_up, "the first");
	for (int i = 0; i < 8; i++) {
		struct census *before = fixture_census(&sc.f);

		snprintf(name, sizeof(name), "%s/%s:%s", operation, steps[i / 2], i % 2 ? "after" : "before");
		point = name;
		scene_assert_killed(&sc, scene_run(&sc, saving ? saver : restorer), name);
		run_to_its_end(&sc, saving ? heir_of_saver : heir_of_restorer, name);
		fixture_assert_census(&sc.f, before, name);
	}
	free(place);
	scene_deinit(&sc);
}

Test(save_kill, killed_while_it_is_saved, .timeout = 120)
{
	static const char *const steps[] = {"suspend-calls", "release-agent", "save-vm", "reconnect-agent"};

	kill_at_each("save-sandbox", steps, true);
}

Test(save_kill, killed_while_it_is_restored, .timeout = 120)
{
	static const char *const steps[] = {"start-vm", "connect-agent", "tell-guest", "restore"};

	kill_at_each("restore-sandbox", steps, false);
}
