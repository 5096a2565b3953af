/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that drives a sandbox is killed at every step of every operation in turn; another one recovers. Afterwards
 * each sandbox is attachable or wholly gone. The VMM is the stand-in, which outlives its starter as QEMU does.
 */
#include <criterion/criterion.h>
#include <kata/fail_point.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/recover_scene.h"

/* ---- the victim */

struct owner {
	struct actor a;
	kata_sandbox *s;
};

static void make_sandbox(struct owner *o)
{
	kata_vm_config config = actor_config(&o->a, "vm");
	kata_error *err = NULL;

	MUST(&o->a, kata_sandbox_create(o->a.context, NULL, o->a.builder, &config, NULL, NULL, &o->s, &err));
}

static void start_sandbox(struct owner *o)
{
	kata_error *err = NULL;

	make_sandbox(o);
	MUST(&o->a, kata_sandbox_start(o->s, NULL, &err));
}

/* Begins the operation under test; preparations are made before. */
struct play {
	const char *name;
	void (*prepare)(struct owner *o);
	int (*begin)(struct owner *o, kata_op **op, kata_error **err);
};

static int begin_start(struct owner *o, kata_op **op, kata_error **err)
{
	return kata_sandbox_start_begin(o->s, NULL, op, err);
}

static int begin_vm_start(struct owner *o, kata_op **op, kata_error **err)
{
	kata_vm *vm = kata_sandbox_get_vm(o->s);
	int rc = kata_vm_start_begin(vm, NULL, op, err);

	kata_vm_unref(vm);
	return rc;
}

static int begin_plug(struct owner *o, kata_op **op, kata_error **err)
{
	kata_storage *storage = fixture_storage("disk", o->a.sc->disk, KATA_STORAGE_VIRTIO_BLK);
	kata_vm *vm = kata_sandbox_get_vm(o->s);
	int rc = kata_vm_add_storage_begin(vm, storage, NULL, op, err);

	kata_vm_unref(vm);
	kata_storage_unref(storage);
	return rc;
}

static int begin_release(struct owner *o, kata_op **op, kata_error **err)
{
	return kata_sandbox_release_begin(o->s, NULL, op, err);
}

static int begin_vm_release(struct owner *o, kata_op **op, kata_error **err)
{
	kata_agent *agent = kata_sandbox_get_agent(o->s);
	kata_vm *vm = kata_sandbox_get_vm(o->s);
	char *json = NULL;
	int rc = kata_agent_release(agent, &json, err);

	if (rc == 0)
		rc = kata_vm_release_begin(vm, NULL, op, err);
	free(json);
	kata_agent_unref(agent);
	kata_vm_unref(vm);
	return rc;
}

static int begin_vm_destroy(struct owner *o, kata_op **op, kata_error **err)
{
	kata_vm *vm = kata_sandbox_get_vm(o->s);
	int rc = kata_vm_destroy_begin(vm, NULL, op, err);

	kata_vm_unref(vm);
	return rc;
}

/* Taken back by the operation under test. */
static void release_sandbox(struct owner *o)
{
	kata_error *err = NULL;
	char *json = NULL;
	kata_vm *vm;

	start_sandbox(o);
	MUST(&o->a, kata_sandbox_release(o->s, NULL, NULL, &err));
	vm = kata_sandbox_get_vm(o->s);
	MUST(&o->a, kata_vm_dump(vm, &json, &err));
	snprintf(o->a.sc->board->record, sizeof(o->a.sc->board->record), "%s", json);
	free(json);
	kata_vm_unref(vm);
	kata_sandbox_unref(o->s);
	o->s = NULL;
}

static int begin_rebuild(struct owner *o, kata_op **op, kata_error **err)
{
	const char *json = o->a.sc->board->record;
	kata_vm *vm = NULL;

	return kata_vm_builder_build_from_released_begin(o->a.builder, json, strlen(json), NULL, &vm, op, err);
}

static int begin_destroy(struct owner *o, kata_op **op, kata_error **err)
{
	return kata_sandbox_destroy_begin(o->s, NULL, op, err);
}

/* What is played, and where the victim dies. NULL: at the end, when the points are on the board, a line each. */
static const struct play *play;
static const char *point;

static void note_points(struct scene_board *board, const kata_op *op)
{
	kata_timeline_entry entry = {.size = sizeof(entry)};
	size_t at = 0;

	for (size_t i = 0; i < kata_op_get_timeline_length(op); i++) {
		kata_op_get_timeline_entry(op, i, &entry, NULL);
		for (int after = 0; after < 2; after++)
			at += (size_t)snprintf(board->record + at, sizeof(board->record) - at, "%s/%s:%s\n",
					       kata_op_get_name(op), entry.step, after ? "after" : "before");
	}
}

static void arm(struct actor *a)
{
	kata_error *err = NULL;

	if (point)
		MUST(a, kata_context_set_fail_point(a->context, point, KATA_FAIL_KILL, 0, 0, 1, &err));
}

static void victim(struct scene *sc)
{
	struct owner o = {0};
	kata_op *op = NULL;
	kata_error *err = NULL;

	actor_open(&o.a, sc);
	play->prepare(&o);
	arm(&o.a);
	MUST(&o.a, play->begin(&o, &op, &err));
	MUST(&o.a, kata_op_wait(op, &err));
	actor_want(&o.a, !point, "it was not killed");
	note_points(sc->board, op);
	raise(SIGKILL);
}

/* ---- the survivor */

static void attach_and_destroy(struct actor *a)
{
	char path[128], *record = a->sc->board->record;
	kata_error *err = NULL;
	kata_vm *vm = NULL;
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "%s/vm/vm/released.json", a->sc->f.state_dir);
	file = fopen(path, "r");
	actor_want(a, file != NULL, "there is no released.json");
	n = fread(record, 1, sizeof(a->sc->board->record) - 1, file);
	record[n] = 0;
	fclose(file);
	MUST(a, kata_vm_builder_build_from_released(a->builder, record, n, NULL, &vm, &err));
	MUST(a, kata_vm_destroy(vm, NULL, &err));
	kata_vm_unref(vm);
}

static void survivor(struct scene *sc)
{
	kata_recover_report *report;
	struct owner o = {0};
	kata_error *err = NULL;

	actor_open(&o.a, sc);
	report = actor_recover(&o.a, KATA_RECOVER_APPLY);
	actor_want_settled(&o.a, report);
	actor_want(&o.a, kata_recover_report_get_count(report) <= 1, "more than the machine is reported");
	if (kata_recover_report_get_count(report) == 1 && !fixture_was_undone(report, 0))
		attach_and_destroy(&o.a);
	kata_recover_report_free(report);
	report = actor_recover(&o.a, 0);
	actor_want(&o.a, kata_recover_report_get_count(report) == 0, "recovering again finds something");
	kata_recover_report_free(report);
	/* And the same call succeeds now. */
	start_sandbox(&o);
	MUST(&o.a, kata_sandbox_destroy(o.s, NULL, &err));
	kata_sandbox_unref(o.s);
	actor_close(&o.a);
}

static void assert_nothing_runs(struct scene *sc, const char *what)
{
	int64_t pids[4];

	cr_assert_eq(census_find_processes(sc->f.state_dir, pids, 4), 0, "%s: a process is left", what);
	cr_assert_eq(census_find_processes(sc->binary, pids, 4), 0, "%s: a VMM is left", what);
}

static void kill_at(struct scene *sc, const char *where)
{
	point = where;
	scene_assert_killed(sc, scene_run(sc, victim), where ? where : "the end");
}

static void recover_after(struct scene *sc, const char *what)
{
	scene_assert_ended(sc, scene_run(sc, survivor), what);
	assert_nothing_runs(sc, what);
}

static void kill_everywhere(const struct play *what)
{
	char *points, *rest = NULL;
	unsigned count = 0;
	struct scene sc;

	play = what;
	scene_init(&sc);
	kill_at(&sc, NULL);
	points = strdup(sc.board->record);
	recover_after(&sc, "the end");
	for (char *p = strtok_r(points, "\n", &rest); p; p = strtok_r(NULL, "\n", &rest), count++) {
		kill_at(&sc, p);
		recover_after(&sc, p);
	}
	cr_assert_gt(count, 0u);
	free(points);
	scene_deinit(&sc);
}

#define KILLED_DURING(noun, prepare_fn, begin_fn)                                                                      \
	Test(sandbox_recover, killed_during_##noun, .timeout = 120)                                                    \
	{                                                                                                              \
		static const struct play what = {#noun, prepare_fn, begin_fn};                                         \
		kill_everywhere(&what);                                                                                \
	}
KILLED_DURING(start, make_sandbox, begin_start)
KILLED_DURING(vm_start, make_sandbox, begin_vm_start)
KILLED_DURING(plug, start_sandbox, begin_plug)
KILLED_DURING(release, start_sandbox, begin_release)
KILLED_DURING(vm_release, start_sandbox, begin_vm_release)
KILLED_DURING(destroy, start_sandbox, begin_destroy)
KILLED_DURING(vm_destroy, start_sandbox, begin_vm_destroy)
KILLED_DURING(rebuild, release_sandbox, begin_rebuild)

/* ---- recorded in a database, not released */

static void run_container(struct owner *o, const char *id)
{
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;
	kata_error *err = NULL;

	config.id = id;
	config.oci_spec =
		"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"sleep\"],\"cwd\":\"/\",\"user\":{\"uid\":0,"
		"\"gid\":0}},\"root\":{\"path\":\"/r\"}}";
	MUST(&o->a, kata_sandbox_add_container(o->s, &config, NULL, &err));
	MUST(&o->a, kata_sandbox_start_container(o->s, id, NULL, &err));
}

static void record_sandbox(struct owner *o)
{
	kata_error *err = NULL;

	start_sandbox(o);
	run_container(o, "c1");
	MUST(&o->a, kata_persistence_store_sandbox(o->a.p, o->s, &err));
}

static void obtain(struct owner *o)
{
	kata_error *err = NULL;

	MUST(&o->a, kata_persistence_obtain_sandbox(o->a.p, "vm", o->a.builder, NULL, NULL, &o->s, &err));
}

static void first_owner(struct scene *sc)
{
	struct owner o = {0};

	actor_open(&o.a, sc);
	record_sandbox(&o);
	raise(SIGKILL);
}

/* Obtains what the first left, to be killed at the point. */
static void second_owner(struct scene *sc)
{
	struct owner o = {0};

	actor_open(&o.a, sc);
	arm(&o.a);
	obtain(&o);
	if (!point)
		raise(SIGKILL);
}

static void recover_and_obtain(struct owner *o, struct scene *sc)
{
	kata_recover_report *report;

	actor_open(&o->a, sc);
	report = actor_recover(&o->a, KATA_RECOVER_APPLY);
	actor_want(&o->a,
		   kata_recover_report_get_count(report) == 1 &&
			   kata_recover_report_get_verdict(report, 0) == KATA_RECOVER_ATTACHABLE,
		   kata_recover_report_get_text(report, 0));
	kata_recover_report_free(report);
	obtain(o);
}

static void end(struct owner *o)
{
	kata_error *err = NULL;

	MUST(&o->a, kata_sandbox_destroy(o->s, NULL, &err));
	MUST(&o->a, kata_persistence_delete_sandbox(o->a.p, "vm", &err));
	kata_sandbox_unref(o->s);
	actor_close(&o->a);
}

static void third_owner(struct scene *sc)
{
	kata_container_stats stats = {.size = sizeof(stats)};
	struct owner o = {0};
	kata_error *err = NULL;

	recover_and_obtain(&o, sc);
	MUST(&o.a, kata_sandbox_get_container_stats(o.s, "c1", NULL, &stats, &err));
	end(&o);
}

/* The owner dies, then `point` kills the one who obtains it (NULL: right after), and the third has it all. */
static void obtain_after_deaths(const char *where)
{
	const char *what = where ? where : "the end";
	struct scene sc;

	point = where;
	scene_init(&sc);
	scene_assert_killed(&sc, scene_run(&sc, first_owner), "the first owner");
	scene_assert_killed(&sc, scene_run(&sc, second_owner), what);
	scene_assert_ended(&sc, scene_run(&sc, third_owner), what);
	assert_nothing_runs(&sc, what);
	scene_deinit(&sc);
}

Test(sandbox_recover, a_recorded_sandbox_survives_the_death_of_each_who_obtains_it, .timeout = 120)
{
	static const char *const points[] = {"rebuild-sandbox/rebuild-vm:before", "rebuild/take-over:after",
					     "rebuild/connect-qmp:after",         "rebuild/compare-devices:after",
					     "rebuild/drop-released:after",       "rebuild/commit:after",
					     "rebuild-sandbox/adopt-vm:after",    "rebuild-sandbox/connect-agent:after",
					     "rebuild-sandbox/restore:after",     NULL};

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		obtain_after_deaths(points[i]);
}

/* ---- what its owner had done and not stored */

static void hasty_owner(struct scene *sc)
{
	struct owner o = {0};

	actor_open(&o.a, sc);
	record_sandbox(&o);
	run_container(&o, "c2");
	run_container(&o, "c3");
	raise(SIGKILL);
}

static void next_owner(struct scene *sc)
{
	struct owner o = {0};
	kata_error *err = NULL;

	recover_and_obtain(&o, sc);
	actor_want(&o.a, kata_sandbox_get_container_count(o.s) == 1, "it has containers that nobody stored");
	run_container(&o, "c2");
	MUST(&o.a, kata_sandbox_remove_container(o.s, "c3", NULL, &err));
	actor_want(&o.a, kata_sandbox_remove_container(o.s, "c3", NULL, &err) == KATA_E_NOT_FOUND, "c3 is there still");
	error_clear(&err);
	end(&o);
}

Test(sandbox_recover, a_container_that_was_not_stored_is_in_nobodys_way, .timeout = 60)
{
	struct scene sc;

	scene_init(&sc);
	scene_assert_killed(&sc, scene_run(&sc, hasty_owner), "the hasty owner");
	scene_assert_ended(&sc, scene_run(&sc, next_owner), "the next");
	scene_deinit(&sc);
}

static void plug_nic(struct owner *o, int expected)
{
	kata_nic *nic = fixture_nic("nic", NULL);
	kata_vm *vm = kata_sandbox_get_vm(o->s);
	kata_error *err = NULL;
	int rc = kata_vm_add_nic(vm, nic, NULL, &err);

	if (rc != expected)
		actor_must(&o->a, rc ? rc : -1, err, "kata_vm_add_nic");
	error_clear(&err);
	kata_vm_unref(vm);
	kata_nic_unref(nic);
}

static void owner_who_plugs(struct scene *sc)
{
	struct owner o = {0};
	kata_error *err = NULL;

	actor_open(&o.a, sc);
	record_sandbox(&o);
	MUST(&o.a, kata_sandbox_pause(o.s, NULL, &err));
	MUST(&o.a, kata_persistence_store_sandbox(o.a.p, o.s, &err));
	plug_nic(&o, 0);
	raise(SIGKILL);
}

static void owner_who_plugs_again(struct scene *sc)
{
	struct owner o = {0};
	kata_error *err = NULL;

	recover_and_obtain(&o, sc);
	plug_nic(&o, KATA_E_BUSY);
	MUST(&o.a, kata_sandbox_resume(o.s, NULL, &err));
	plug_nic(&o, 0);
	end(&o);
}

Test(sandbox_recover, a_plug_that_was_not_stored_is_in_the_way_while_the_guest_is_paused, .timeout = 60)
{
	struct scene sc;

	scene_init(&sc);
	scene_assert_killed(&sc, scene_run(&sc, owner_who_plugs), "the owner");
	scene_assert_ended(&sc, scene_run(&sc, owner_who_plugs_again), "the next");
	scene_deinit(&sc);
}

/* ---- a living owner */

static void living_owner(struct scene *sc)
{
	struct owner o = {0};

	actor_open(&o.a, sc);
	record_sandbox(&o);
	__atomic_store_n(&sc->board->number, 1, __ATOMIC_RELEASE);
	for (;;)
		pause();
}

static void coveter(struct scene *sc)
{
	kata_recover_report *report;
	struct owner o = {0};
	kata_error *err = NULL;
	int rc;

	actor_open(&o.a, sc);
	rc = kata_persistence_obtain_sandbox(o.a.p, "vm", o.a.builder, NULL, NULL, &o.s, &err);
	actor_want(&o.a, rc == KATA_E_FENCED, error_text(err));
	error_clear(&err);
	report = actor_recover(&o.a, KATA_RECOVER_APPLY);
	actor_want(&o.a,
		   kata_recover_report_get_count(report) == 1 &&
			   kata_recover_report_get_verdict(report, 0) == KATA_RECOVER_OWNED,
		   kata_recover_report_get_text(report, 0));
}

Test(sandbox_recover, what_a_living_process_owns_is_neither_obtained_nor_recovered, .timeout = 60)
{
	struct scene sc;
	int status;
	pid_t owner;

	scene_init(&sc);
	owner = fork();
	cr_assert_geq(owner, 0);
	if (owner == 0)
		living_owner(&sc);
	while (!__atomic_load_n(&sc.board->number, __ATOMIC_ACQUIRE)) {
		cr_assert_eq(waitpid(owner, &status, WNOHANG), 0, "the owner ended: %s", sc.board->problem);
		usleep(1000);
	}
	scene_assert_ended(&sc, scene_run(&sc, coveter), "who covets it");
	kill(owner, SIGKILL);
	cr_assert_eq(waitpid(owner, &status, 0), owner);
	scene_assert_ended(&sc, scene_run(&sc, third_owner), "the heir");
	scene_deinit(&sc);
}
