/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that drives a sandbox is killed at every step of every operation in turn; another one recovers. Afterwards
 * each sandbox is attachable or wholly gone. The VMM is the stand-in, which outlives its starter as QEMU does.
 *
 * The victims are forked, from a process that has no context and no thread yet: a program of its own would have to
 * repeat this file's set-up.
 */
#include <criterion/criterion.h>
#include <kata/fail_point.h>
#include <kata/recover.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/fixture.h"

#define STEPS_MAX 96

/* Shared with the victims. */
struct board {
	char points[STEPS_MAX][96];
	size_t count;
	bool reached; /* the victim came to the operation under test */
	char problem[512];
	char json[65536]; /* the released record, where there is one */
};

struct scene {
	struct fixture f;
	struct board *board;
	char *kernel, *binary, *disk;
};

static void scene_init(struct scene *sc)
{
	memset(sc, 0, sizeof(*sc));
#ifdef __SANITIZE_THREAD__
	cr_skip_test(
		"ThreadSanitizer sees no synchronisation in a child of its own fork and reports races that are none");
#endif
	fixture_init(&sc->f, false, 0);
	sc->kernel = fixture_make_kernel(&sc->f);
	sc->binary = fixture_make_standin(&sc->f, NULL);
	sc->disk = fixture_make_raw(&sc->f, "disk", 1 << 20);
	sc->board = mmap(NULL, sizeof(*sc->board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(sc->board, MAP_FAILED);
}

static void scene_deinit(struct scene *sc)
{
	munmap(sc->board, sizeof(*sc->board));
	free(sc->kernel);
	free(sc->binary);
	free(sc->disk);
	fixture_deinit(&sc->f);
}

/* ---- the victim; it has no Criterion, so it notes problems on the board */

struct actor {
	struct scene *sc;
	kata_context *context;
	kata_vm_builder *builder;
	kata_sandbox *s;
};

static bool ok(struct actor *a, int rc, kata_error *err)
{
	if (rc < 0)
		snprintf(a->sc->board->problem, sizeof(a->sc->board->problem), "%s", error_text(err));
	return rc == 0;
}

static bool open_builder(struct actor *a)
{
	kata_context_options context_options = KATA_CONTEXT_OPTIONS_INIT;
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;
	kata_error *err = NULL;

	context_options.state_dir = a->sc->f.state_dir;
	options.binary = a->sc->binary;
	options.accelerator = KATA_ACCELERATOR_TCG;
	return ok(a, kata_context_new(&context_options, &a->context, &err), err) &&
	       ok(a, kata_vm_builder_new_qemu(a->context, &options, &a->builder, &err), err);
}

static bool make_sandbox(struct actor *a)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_error *err = NULL;

	config.id = "vm";
	config.kernel = a->sc->kernel;
	config.initrd = a->sc->kernel;
	config.memory_mib = 64;
	return ok(a, kata_sandbox_create(a->context, NULL, a->builder, &config, NULL, NULL, &a->s, &err), err);
}

/* Begins the operation under test; preparations are made before. NULL op: it is not of the sandbox but of its VM. */
struct play {
	const char *name;
	bool (*prepare)(struct actor *a);
	int (*begin)(struct actor *a, kata_op **op, kata_error **err);
};

static bool prepare_nothing(struct actor *a)
{
	return make_sandbox(a);
}

static bool prepare_started(struct actor *a)
{
	kata_error *err = NULL;

	return make_sandbox(a) && ok(a, kata_sandbox_start(a->s, NULL, &err), err);
}

static int begin_start(struct actor *a, kata_op **op, kata_error **err)
{
	return kata_sandbox_start_begin(a->s, NULL, op, err);
}

static int begin_vm_start(struct actor *a, kata_op **op, kata_error **err)
{
	kata_vm *vm = kata_sandbox_get_vm(a->s);
	int rc = kata_vm_start_begin(vm, NULL, op, err);

	kata_vm_unref(vm);
	return rc;
}

static int begin_plug(struct actor *a, kata_op **op, kata_error **err)
{
	kata_storage *storage = fixture_storage("disk", a->sc->disk, KATA_STORAGE_VIRTIO_BLK);
	kata_vm *vm = kata_sandbox_get_vm(a->s);
	int rc = kata_vm_add_storage_begin(vm, storage, NULL, op, err);

	kata_vm_unref(vm);
	kata_storage_unref(storage);
	return rc;
}

static int begin_release(struct actor *a, kata_op **op, kata_error **err)
{
	return kata_sandbox_release_begin(a->s, NULL, op, err);
}

static int begin_vm_release(struct actor *a, kata_op **op, kata_error **err)
{
	kata_agent *agent = kata_sandbox_get_agent(a->s);
	kata_vm *vm = kata_sandbox_get_vm(a->s);
	char *json = NULL;
	int rc = kata_agent_release(agent, &json, err);

	if (rc == 0)
		rc = kata_vm_release_begin(vm, NULL, op, err);
	free(json);
	kata_agent_unref(agent);
	kata_vm_unref(vm);
	return rc;
}

static int begin_vm_destroy(struct actor *a, kata_op **op, kata_error **err)
{
	kata_vm *vm = kata_sandbox_get_vm(a->s);
	int rc = kata_vm_destroy_begin(vm, NULL, op, err);

	kata_vm_unref(vm);
	return rc;
}

/* Released, then taken back. */
static bool prepare_released(struct actor *a)
{
	kata_error *err = NULL;
	char *json = NULL;
	kata_vm *vm;
	bool good;

	if (!prepare_started(a) || !ok(a, kata_sandbox_release(a->s, NULL, NULL, &err), err))
		return false;
	vm = kata_sandbox_get_vm(a->s);
	good = ok(a, kata_vm_dump(vm, &json, &err), err);
	if (good)
		snprintf(a->sc->board->json, sizeof(a->sc->board->json), "%s", json);
	free(json);
	kata_vm_unref(vm);
	kata_sandbox_unref(a->s);
	a->s = NULL;
	return good;
}

static int begin_rebuild(struct actor *a, kata_op **op, kata_error **err)
{
	const char *json = a->sc->board->json;
	kata_vm *vm = NULL;

	return kata_vm_builder_build_from_released_begin(a->builder, json, strlen(json), NULL, &vm, op, err);
}

static int begin_destroy(struct actor *a, kata_op **op, kata_error **err)
{
	return kata_sandbox_destroy_begin(a->s, NULL, op, err);
}

static void act(struct scene *sc, const struct play *play, const char *point)
{
	struct actor a = {.sc = sc};
	kata_timeline_entry entry = {.size = sizeof(entry)};
	kata_op *op = NULL;
	kata_error *err = NULL;

	if (!open_builder(&a) || !play->prepare(&a))
		_exit(1);
	if (point && !ok(&a, kata_context_set_fail_point(a.context, point, KATA_FAIL_KILL, 0, 0, 1, &err), err))
		_exit(1);
	sc->board->reached = true;
	if (!ok(&a, play->begin(&a, &op, &err), err) || !ok(&a, kata_op_wait(op, &err), err))
		_exit(1);
	for (size_t i = 0; !point && i < kata_op_get_timeline_length(op); i++) {
		kata_op_get_timeline_entry(op, i, &entry, NULL);
		for (int after = 0; after < 2; after++)
			snprintf(sc->board->points[sc->board->count++], sizeof(sc->board->points[0]), "%s/%s:%s",
				 kata_op_get_name(op), entry.step, after ? "after" : "before");
	}
	raise(SIGKILL);
}

/* True: it was killed where it should be. False: it was not reached. */
static void run_victim(struct scene *sc, const struct play *play, const char *point)
{
	int status;
	pid_t pid;

	sc->board->reached = false;
	sc->board->problem[0] = 0;
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0)
		act(sc, play, point);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "%s at %s: %s", play->name,
		  point ? point : "its end", sc->board->problem);
	cr_assert(sc->board->reached);
}

/* ---- the survivor, forked too: it ends by 0, or says on the board what is wrong */

static char *read_released(struct scene *sc)
{
	char path[128];
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "%s/vm/vm/released.json", sc->f.state_dir);
	file = fopen(path, "r");
	if (!file)
		return NULL;
	n = fread(sc->board->json, 1, sizeof(sc->board->json) - 1, file);
	sc->board->json[n] = 0;
	fclose(file);
	return sc->board->json;
}

static bool attach_and_destroy(struct actor *a, const char *json)
{
	kata_vm *vm = NULL;
	kata_error *err = NULL;
	bool good = ok(a, kata_vm_builder_build_from_released(a->builder, json, strlen(json), NULL, &vm, &err), err) &&
		    ok(a, kata_vm_destroy(vm, NULL, &err), err);

	kata_vm_unref(vm);
	return good;
}

static bool recover_once(struct actor *a, uint64_t flags, size_t *ret_count, bool *ret_undone, bool *ret_attachable)
{
	kata_recover_report *report = NULL;
	kata_error *err = NULL;

	if (!ok(a, fixture_recover(a->context, NULL, flags, &report, &err), err))
		return false;
	*ret_count = kata_recover_report_get_count(report);
	*ret_undone = fixture_was_undone(report, 0);
	if (*ret_count && !*ret_undone)
		snprintf(a->sc->board->problem, sizeof(a->sc->board->problem), "%s: %s",
			 kata_recover_verdict_get_name(kata_recover_report_get_verdict(report, 0)),
			 kata_recover_report_get_text(report, 0));
	*ret_attachable = *ret_count && kata_recover_report_get_verdict(report, 0) == KATA_RECOVER_ATTACHABLE;
	kata_recover_report_free(report);
	return true;
}

static int survive(struct scene *sc)
{
	struct actor a = {.sc = sc};
	bool undone = false, attachable = false;
	size_t count = 0;
	kata_error *err = NULL;
	char *json;

	if (!open_builder(&a) || !recover_once(&a, KATA_RECOVER_APPLY, &count, &undone, &attachable))
		return 1;
	if (count == 1 && attachable) {
		json = read_released(sc);
		if (!json || !attach_and_destroy(&a, json))
			return 2;
	} else if (count > 1 || (count == 1 && !undone)) {
		return 3;
	}
	if (!recover_once(&a, 0, &count, &undone, &attachable) || count != 0)
		return 4; /* recovering again must find nothing */
	/* And the same call succeeds now. */
	if (!make_sandbox(&a) || !ok(&a, kata_sandbox_start(a.s, NULL, &err), err) ||
	    !ok(&a, kata_sandbox_destroy(a.s, NULL, &err), err))
		return 5;
	kata_sandbox_unref(a.s);
	kata_vm_builder_free(a.builder);
	return ok(&a, kata_context_free(a.context, &err), err) ? 0 : 6;
}

static void recover_after(struct scene *sc, const char *point)
{
	int64_t pids[4];
	int status;
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0)
		_exit(survive(sc));
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "killed at %s: survivor ended with %d: %s", point,
		  status, sc->board->problem);
	cr_assert_eq(census_find_processes(sc->f.state_dir, pids, 4), 0, "killed at %s: a process is left", point);
	cr_assert_eq(census_find_processes(sc->binary, pids, 4), 0, "killed at %s: a VMM is left", point);
}

static void kill_everywhere(const struct play *play)
{
	struct scene sc;

	scene_init(&sc);
	run_victim(&sc, play, NULL);
	recover_after(&sc, "the end");
	cr_assert_gt(sc.board->count, 0);
	for (size_t i = 0; i < sc.board->count; i++) {
		run_victim(&sc, play, sc.board->points[i]);
		recover_after(&sc, sc.board->points[i]);
	}
	scene_deinit(&sc);
}

#define KILLED_DURING(noun, prepare_fn, begin_fn)                                                                      \
	Test(sandbox_recover, killed_during_##noun, .timeout = 120)                                                    \
	{                                                                                                              \
		static const struct play play = {#noun, prepare_fn, begin_fn};                                         \
		kill_everywhere(&play);                                                                                \
	}
KILLED_DURING(start, prepare_nothing, begin_start)
KILLED_DURING(vm_start, prepare_nothing, begin_vm_start)
KILLED_DURING(plug, prepare_started, begin_plug)
KILLED_DURING(release, prepare_started, begin_release)
KILLED_DURING(vm_release, prepare_started, begin_vm_release)
KILLED_DURING(destroy, prepare_started, begin_destroy)
KILLED_DURING(vm_destroy, prepare_started, begin_vm_destroy)
KILLED_DURING(rebuild, prepare_released, begin_rebuild)

/* ---- recorded in a database, not released */

static kata_persistence *open_book(struct actor *a)
{
	kata_persistence *p = NULL;
	kata_error *err = NULL;
	char path[96];

	snprintf(path, sizeof(path), "%s/book.db", a->sc->f.dir);
	ok(a, kata_persistence_new_sqlite(a->context, path, &p, &err), err);
	return p;
}

static bool prepare_recorded(struct actor *a)
{
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;
	kata_persistence *p = open_book(a);
	kata_error *err = NULL;

	config.id = "c1";
	config.oci_spec =
		"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"sleep\"],\"cwd\":\"/\",\"user\":{\"uid\":0,"
		"\"gid\":0}},\"root\":{\"path\":\"/r\"}}";
	return p && prepare_started(a) && ok(a, kata_sandbox_add_container(a->s, &config, NULL, &err), err) &&
	       ok(a, kata_sandbox_start_container(a->s, "c1", NULL, &err), err) &&
	       ok(a, kata_persistence_store_sandbox(p, a->s, &err), err);
}

/* Obtains what the first victim left, to be killed at the point. */
static void act_obtain(struct scene *sc, const char *point)
{
	struct actor a = {.sc = sc};
	kata_persistence *p;
	kata_error *err = NULL;

	if (!open_builder(&a) || !(p = open_book(&a)))
		_exit(1);
	if (point && !ok(&a, kata_context_set_fail_point(a.context, point, KATA_FAIL_KILL, 0, 0, 1, &err), err))
		_exit(1);
	sc->board->reached = true;
	ok(&a, kata_persistence_obtain_sandbox(p, "vm", a.builder, NULL, NULL, &a.s, &err), err);
	if (!point && a.s)
		raise(SIGKILL);
	_exit(1);
}

static int survive_recorded(struct scene *sc)
{
	struct actor a = {.sc = sc};
	kata_recover_report *report = NULL;
	kata_container_stats stats = {.size = sizeof(stats)};
	kata_persistence *p;
	kata_error *err = NULL;
	bool good;

	if (!open_builder(&a) || !(p = open_book(&a)))
		return 1;
	if (!ok(&a, fixture_recover(a.context, p, KATA_RECOVER_APPLY, &report, &err), err))
		return 2;
	good = kata_recover_report_get_count(report) == 1 &&
	       kata_recover_report_get_verdict(report, 0) == KATA_RECOVER_ATTACHABLE;
	if (!good)
		snprintf(sc->board->problem, sizeof(sc->board->problem), "%s", kata_recover_report_get_text(report, 0));
	kata_recover_report_free(report);
	if (!good)
		return 3;
	if (!ok(&a, kata_persistence_obtain_sandbox(p, "vm", a.builder, NULL, NULL, &a.s, &err), err) ||
	    !ok(&a, kata_sandbox_get_container_stats(a.s, "c1", NULL, &stats, &err), err) ||
	    !ok(&a, kata_sandbox_destroy(a.s, NULL, &err), err) ||
	    !ok(&a, kata_persistence_delete_sandbox(p, "vm", &err), err))
		return 4;
	kata_sandbox_unref(a.s);
	kata_persistence_free(p);
	kata_vm_builder_free(a.builder);
	return ok(&a, kata_context_free(a.context, &err), err) ? 0 : 5;
}

static int run_child(struct scene *sc, void (*fn)(struct scene *sc, const char *point), const char *point)
{
	int status;
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0)
		fn(sc, point);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return status;
}

static void act_record(struct scene *sc, const char *point)
{
	struct actor a = {.sc = sc};

	if (open_builder(&a) && prepare_recorded(&a))
		raise(SIGKILL);
	_exit(1);
}

static void survive_recorded_child(struct scene *sc, const char *point)
{
	_exit(survive_recorded(sc));
}

static void assert_killed(int status, struct scene *sc, const char *what)
{
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "%s: ended with %d: %s", what, status,
		  sc->board->problem);
}

/* The owner dies, then `point` kills the one who obtains it (NULL: right after), and the third has it all. */
static void obtain_after_deaths(const char *point)
{
	struct scene sc;
	int64_t pids[4];
	int status;

	scene_init(&sc);
	assert_killed(run_child(&sc, act_record, NULL), &sc, "the first owner");
	assert_killed(run_child(&sc, act_obtain, point), &sc, point ? point : "the second owner");
	status = run_child(&sc, survive_recorded_child, NULL);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: the third ended with %d: %s",
		  point ? point : "the end", status, sc.board->problem);
	cr_assert_eq(census_find_processes(sc.binary, pids, 4), 0, "%s: a VMM is left", point ? point : "the end");
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

/* ---- a living owner */

static void act_own(struct scene *sc, const char *point)
{
	struct actor a = {.sc = sc};

	if (!open_builder(&a) || !prepare_recorded(&a))
		_exit(1);
	__atomic_store_n(&sc->board->reached, true, __ATOMIC_RELEASE);
	for (;;)
		pause();
}

static void act_covet(struct scene *sc, const char *point)
{
	struct actor a = {.sc = sc};
	kata_recover_report *report = NULL;
	kata_persistence *p;
	kata_error *err = NULL;
	int rc;

	if (!open_builder(&a) || !(p = open_book(&a)))
		_exit(1);
	rc = kata_persistence_obtain_sandbox(p, "vm", a.builder, NULL, NULL, &a.s, &err);
	snprintf(sc->board->problem, sizeof(sc->board->problem), "obtain: %s", error_text(err));
	if (rc != KATA_E_FENCED)
		_exit(2);
	error_clear(&err);
	if (!ok(&a, fixture_recover(a.context, p, KATA_RECOVER_APPLY, &report, &err), err))
		_exit(3);
	_exit(kata_recover_report_get_count(report) == 1 &&
			      kata_recover_report_get_verdict(report, 0) == KATA_RECOVER_OWNED
		      ? 0
		      : 4);
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
		act_own(&sc, NULL);
	while (!__atomic_load_n(&sc.board->reached, __ATOMIC_ACQUIRE)) {
		cr_assert_eq(waitpid(owner, &status, WNOHANG), 0, "the owner ended: %s", sc.board->problem);
		usleep(1000);
	}
	status = run_child(&sc, act_covet, NULL);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "ended with %d: %s", status, sc.board->problem);
	kill(owner, SIGKILL);
	cr_assert_eq(waitpid(owner, &status, 0), owner);
	status = run_child(&sc, survive_recorded_child, NULL);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the heir ended with %d: %s", status,
		  sc.board->problem);
	scene_deinit(&sc);
}
