/* SPDX-License-Identifier: Apache-2.0 */
/* sandbox_kill.c - a manager that is killed at any moment, and who comes after it. */
#include "support/sandbox_kill.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <ftw.h>
#include <kata/batch.h>
#include <kata/fail_point.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/sqlite_shim.h"
#include "support/yes_agent.h"

#define SANDBOXES 3
#define MANAGER_S_MAX 300 /* it ends by itself, if nobody kills it */

static const struct sandbox_kill *k; /* of the test that runs, in this process and its forks */
static unsigned round_seed;

/* ---- in the children: builders, devices */

struct part {
	struct actor a;
	kata_agent_builder *agents; /* NULL: direct */
	kata_vm_builder *cloner;    /* NULL: every machine boots */
};

static void part_open(struct part *p, struct scene *sc)
{
	kata_template_options options = KATA_TEMPLATE_OPTIONS_INIT;
	char *path = fixture_path(&sc->f, "template");
	kata_error *err = NULL;

	*p = (struct part){0};
	actor_open(&p->a, sc);
	if (!k->has_guest)
		MUST(&p->a, yes_agent_builder_new(p->a.context, &p->agents, &err));
	options.path = path;
	options.flags = KATA_TEMPLATE_SHARE_MEMORY;
	if (k->boots > 1)
		MUST(&p->a, kata_vm_builder_new_template(p->a.context, p->a.builder, NULL, &options, &p->cloner, &err));
	free(path);
}

static void part_close(struct part *p)
{
	kata_vm_builder_free(p->cloner);
	kata_agent_builder_free(p->agents);
	actor_close(&p->a);
}

static bool is_paused(kata_sandbox *s)
{
	return kata_sandbox_get_state(s) == KATA_SANDBOX_PAUSED;
}

/* A sandbox that is paused takes no devices, but its machine does: they are the sandbox's all the same. */
static void plug_disk(struct part *p, kata_sandbox *s, const char *id, const char *file, kata_storage_driver driver)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	char *path = fixture_path(&p->a.sc->f, file);
	kata_vm *vm = kata_sandbox_get_vm(s);
	kata_storage *disk = NULL;
	kata_error *err = NULL;

	c.id = id;
	c.path = path;
	c.driver = driver;
	c.flags = strcmp(id, "root") == 0 ? KATA_STORAGE_READ_ONLY : 0; /* it is everybody's */
	MUST(&p->a, kata_storage_new(&c, &disk, &err));
	if (is_paused(s))
		MUST(&p->a, kata_vm_add_storage(vm, disk, NULL, &err));
	else
		MUST(&p->a, kata_sandbox_add_storage(s, disk, NULL, &err));
	kata_storage_unref(disk);
	kata_vm_unref(vm);
	free(path);
}

static void unplug_disk(struct part *p, kata_sandbox *s, const char *id)
{
	kata_vm *vm = kata_sandbox_get_vm(s);
	kata_error *err = NULL;

	if (is_paused(s))
		MUST(&p->a, kata_vm_remove_storage(vm, id, NULL, &err));
	else
		MUST(&p->a, kata_sandbox_remove_storage(s, id, NULL, &err));
	kata_vm_unref(vm);
}

static void plug_nic(struct part *p, kata_sandbox *s, const char *id)
{
	kata_nic_config c = KATA_NIC_CONFIG_INIT;
	kata_vm *vm = kata_sandbox_get_vm(s);
	kata_error *err = NULL;
	kata_nic *nic = NULL;

	c.id = id;
	MUST(&p->a, kata_nic_new(&c, &nic, &err));
	if (is_paused(s))
		MUST(&p->a, kata_vm_add_nic(vm, nic, NULL, &err));
	else
		MUST(&p->a, kata_sandbox_add_nic(s, nic, NULL, NULL, &err));
	kata_nic_unref(nic);
	kata_vm_unref(vm);
}

static bool has_disk(kata_sandbox *s, const char *id)
{
	kata_vm *vm = kata_sandbox_get_vm(s);
	kata_storage *disk = NULL;

	kata_vm_find_storage(vm, id, &disk, NULL);
	kata_storage_unref(disk);
	kata_vm_unref(vm);
	return disk != NULL;
}

static bool has_nic(kata_sandbox *s)
{
	kata_vm *vm = kata_sandbox_get_vm(s);
	kata_nic *nic = NULL;

	kata_vm_find_nic(vm, "nic", &nic, NULL);
	kata_nic_unref(nic);
	kata_vm_unref(vm);
	return nic != NULL;
}

static void plug_or_unplug_disk(struct part *p, kata_sandbox *s, int at, unsigned choice)
{
	kata_storage_driver driver = k->has_guest && choice % 2 ? KATA_STORAGE_VIRTIO_BLK : KATA_STORAGE_VIRTIO_SCSI;
	char file[32];

	snprintf(file, sizeof(file), "disk%d", at);
	if (has_disk(s, "disk"))
		unplug_disk(p, s, "disk");
	else
		plug_disk(p, s, "disk", file, driver);
}

static void plug_or_unplug_nic(struct part *p, kata_sandbox *s)
{
	kata_error *err = NULL;

	if (!has_nic(s))
		plug_nic(p, s, "nic");
	else if (k->has_guest)
		MUST(&p->a, kata_sandbox_remove_nic(s, "nic", NULL, &err));
}

static void run_container(struct part *p, kata_sandbox *s)
{
	kata_container_config c = KATA_CONTAINER_CONFIG_INIT;
	kata_error *err = NULL;

	c.id = "c1";
	c.oci_spec = "{\"ociVersion\":\"1.0.2\",\"process\":{\"user\":{\"uid\":0,\"gid\":0},\"cwd\":\"/\",\"args\":["
		     "\"/bin/sleep\",\"100000\"]},\"root\":{\"path\":\"storage:root\",\"readonly\":true},\"mounts\":[{"
		     "\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"},{\"destination\":\"/"
		     "dev\",\"type\":\"tmpfs\",\"source\":\"tmpfs\"}],\"linux\":{\"namespaces\":[{"
		     "\"type\":\"mount\"},{\"type\":\"pid\"}]}}";
	plug_disk(p, s, "root", "root", KATA_STORAGE_VIRTIO_BLK);
	MUST(&p->a, kata_sandbox_add_container(s, &c, NULL, &err));
	MUST(&p->a, kata_sandbox_start_container(s, "c1", NULL, &err));
}

/* Of containers the record may be older than the guest: what was removed and not stored is removed again, and what was
 * made and not stored is there for who knows its id. */
static void end_container(struct part *p, kata_sandbox *s)
{
	kata_error *err = NULL;
	int rc = kata_sandbox_remove_container(s, "c1", NULL, &err);

	if (rc == KATA_E_NOT_FOUND)
		error_clear(&err);
	else
		actor_must(&p->a, rc, err, "kata_sandbox_remove_container");
	if (has_disk(s, "root"))
		unplug_disk(p, s, "root");
}

static void resume(struct part *p, kata_sandbox *s)
{
	kata_error *err = NULL;

	MUST(&p->a, kata_sandbox_resume(s, NULL, &err));
}

static void pause_it(struct part *p, kata_sandbox *s)
{
	kata_error *err = NULL;

	MUST(&p->a, kata_sandbox_pause(s, NULL, &err));
}

/* ---- the manager */

struct manager {
	struct part p;
	kata_sandbox *places[SANDBOXES];
	unsigned seed, acts;
};

static unsigned choose(struct manager *m, unsigned of)
{
	return (unsigned)rand_r(&m->seed) % of;
}

static void name(char *out, size_t size, int at)
{
	snprintf(out, size, "s%d", at);
}

static void store(struct manager *m, kata_sandbox *s)
{
	kata_error *err = NULL;

	MUST(&m->p.a, kata_persistence_store_sandbox(m->p.a.p, s, &err));
}

static void start(struct manager *m, int at, bool boots)
{
	kata_sandbox_options options = KATA_SANDBOX_OPTIONS_INIT;
	struct actor *a = &m->p.a;
	kata_sandbox *s = NULL;
	kata_vm_config config;
	kata_error *err = NULL;
	char id[8];

	name(id, sizeof(id), at);
	options.id = id;
	config = actor_config(a, id);
	MUST(a, kata_persistence_create_sandbox(a->p, id, &err));
	MUST(a, kata_sandbox_create(a->context, &options, boots ? a->builder : m->p.cloner, &config, m->p.agents, NULL,
				    &s, &err));
	MUST(a, kata_sandbox_start(s, NULL, &err));
	if (!k->has_guest)
		pause_it(&m->p, s);
	store(m, s);
	m->places[at] = s;
}

/* The sandbox, its machine alone, or a machine beside that is in no record: a template's maker, say. */
static void save(struct manager *m, kata_sandbox *s)
{
	struct actor *a = &m->p.a;
	bool beside = k->boots == 1 && choose(m, 2);
	kata_vm *vm = beside ? actor_start_vm(a, "beside") : kata_sandbox_get_vm(s);
	kata_error *err = NULL;
	char file[32];
	char *path;

	snprintf(file, sizeof(file), "saved/%u", m->acts);
	path = fixture_path(&a->sc->f, file);
	if (k->has_guest && !beside)
		MUST(a, kata_sandbox_save(s, path, NULL, NULL, &err));
	else
		MUST(a, kata_vm_snapshot(vm, path, NULL, NULL, NULL, &err));
	if (beside)
		MUST(a, kata_vm_destroy(vm, NULL, &err));
	MUST(a, kata_snapshot_delete(a->context, path, &err));
	kata_vm_unref(vm);
	free(path);
}

static void hand_over(struct manager *m, int at)
{
	struct actor *a = &m->p.a;
	kata_error *err = NULL;
	char id[8];

	name(id, sizeof(id), at);
	MUST(a, kata_persistence_release_sandbox(a->p, m->places[at], NULL, NULL, &err));
	kata_sandbox_unref(m->places[at]);
	m->places[at] = NULL;
	MUST(a, kata_persistence_obtain_sandbox(a->p, id, a->builder, m->p.agents, NULL, &m->places[at], &err));
}

static void end(struct part *p, kata_sandbox *s)
{
	kata_error *err = NULL;

	MUST(&p->a, kata_sandbox_destroy(s, NULL, &err));
	MUST(&p->a, kata_persistence_delete_sandbox(p->a.p, kata_sandbox_get_id(s), &err));
	kata_sandbox_unref(s);
}

static void act(struct manager *m)
{
	int at = (int)choose(m, SANDBOXES);
	kata_sandbox *s = m->places[at];

	if (!s) {
		start(m, at, !m->p.cloner || choose(m, k->boots) == 0);
		return;
	}
	if (is_paused(s) && k->has_guest) { /* what comes and goes needs the guest */
		resume(&m->p, s);
		return;
	}
	switch (choose(m, 12)) {
	case 0:
	case 1:
	case 2:
		plug_or_unplug_disk(&m->p, s, at, choose(m, 2));
		break;
	case 3:
	case 4:
		plug_or_unplug_nic(&m->p, s);
		break;
	case 5:
	case 6:
	case 7:
		if (!k->has_guest)
			plug_or_unplug_disk(&m->p, s, at, 0);
		else if (kata_sandbox_get_container_count(s))
			end_container(&m->p, s);
		else
			run_container(&m->p, s);
		break;
	case 8:
		if (!k->has_guest)
			resume(&m->p, s);
		pause_it(&m->p, s);
		break;
	case 9:
		save(m, s);
		break;
	case 10:
		hand_over(m, at);
		break;
	default:
		m->places[at] = NULL;
		end(&m->p, s);
		return;
	}
	if (choose(m, 2))
		store(m, m->places[at]);
}

static void manage(struct scene *sc)
{
	struct manager m = {.seed = round_seed};
	time_t until = time(NULL) + MANAGER_S_MAX;

	part_open(&m.p, sc);
	while (time(NULL) < until) {
		__atomic_store_n(&sc->board->number, ++m.acts, __ATOMIC_RELEASE);
		act(&m);
	}
	actor_want(&m.p.a, false, "nobody killed the manager");
}

static void kill_manager(struct scene *sc, const char *what)
{
	unsigned seed = round_seed + 7919;
	int64_t acts = 1 + rand_r(&seed) % (int)k->acts_max;
	long us = (long)((unsigned)rand_r(&seed) % (k->act_ms_max * 1000));
	int status = 0;
	pid_t pid;

	sc->board->number = 0;
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0) {
		manage(sc);
		_exit(0);
	}
	while (__atomic_load_n(&sc->board->number, __ATOMIC_ACQUIRE) < acts && waitpid(pid, &status, WNOHANG) == 0)
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	nanosleep(&(struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000}, NULL);
	kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) == pid)
		scene_assert_killed(sc, status, what);
	else /* it ended while it was waited for above */
		cr_assert_fail("%s: the manager ended by itself: %s", what, sc->board->problem);
}

/* ---- one that does everything once */

static void plug_two_at_once(struct part *p, kata_sandbox *s)
{
	kata_storage *disk = fixture_storage("two", p->a.sc->disk, KATA_STORAGE_VIRTIO_SCSI);
	kata_nic *nic = fixture_nic("two-nic", NULL);
	kata_vm *vm = kata_sandbox_get_vm(s);
	kata_batch *batch = NULL;
	kata_error *err = NULL;

	MUST(&p->a, kata_batch_new(vm, KATA_BATCH_ALL_OR_NOTHING, &batch, &err));
	MUST(&p->a, kata_batch_add_storage(batch, disk, &err));
	MUST(&p->a, kata_batch_add_nic(batch, nic, &err));
	MUST(&p->a, kata_batch_run(batch, NULL, &err));
	kata_batch_free(batch);
	kata_vm_unref(vm);
	kata_nic_unref(nic);
	kata_storage_unref(disk);
}

static void reserve_disk(struct manager *m)
{
	actor_reserve_storage(&m->p.a, "s0", "disk");
}

static void shut_down_clone(struct manager *m)
{
	struct actor *a = &m->p.a;
	kata_error *err = NULL;

	start(m, 1, false);
	MUST(a, kata_sandbox_shutdown(m->places[1], NULL, &err));
	MUST(a, kata_persistence_delete_sandbox(a->p, "s1", &err));
	kata_sandbox_unref(m->places[1]);
}

/* Devices come on both buses, and go. */
static void do_all(struct manager *m)
{
	struct part *p = &m->p;
	kata_sandbox *s;

	start(m, 0, true);
	s = m->places[0];
	reserve_disk(m);
	for (unsigned driver = 0; driver < 2; driver++) {
		plug_or_unplug_disk(p, s, 0, driver);
		plug_or_unplug_nic(p, s);
		store(m, s);
		plug_or_unplug_disk(p, s, 0, driver);
		plug_or_unplug_nic(p, s);
		store(m, s);
	}
	plug_two_at_once(p, s);
	if (k->has_guest)
		run_container(p, s);
	store(m, s);
	save(m, s);
	if (k->has_guest)
		pause_it(p, s);
	store(m, s);
	resume(p, s);
	hand_over(m, 0);
	s = m->places[0];
	if (k->has_guest)
		end_container(p, s);
	else
		pause_it(p, s);
	store(m, s);
	if (p->cloner)
		shut_down_clone(m);
	end(p, s);
}

/* ---- who comes after it */

/* In a machine that is paused a NIC that nobody stored stays until its guest runs: another is plugged beside it. */
static void use_paused(struct part *p, kata_sandbox *s, int at)
{
	resume(p, s);
	pause_it(p, s);
	plug_or_unplug_disk(p, s, at, 0);
	plug_or_unplug_disk(p, s, at, 0);
	plug_nic(p, s, "another");
}

static void use(struct part *p, kata_sandbox *s, int at)
{
	kata_container_stats stats = {.size = sizeof(stats)};
	kata_error *err = NULL;
	kata_agent *agent;

	if (is_paused(s))
		resume(p, s);
	agent = kata_sandbox_get_agent(s);
	MUST(&p->a, kata_agent_check(agent, NULL, &err));
	kata_agent_unref(agent);
	end_container(p, s);
	run_container(p, s);
	MUST(&p->a, kata_sandbox_get_container_stats(s, "c1", NULL, &stats, &err));
	for (int i = 0; i < 2; i++) {
		plug_or_unplug_disk(p, s, at, round_seed);
		plug_or_unplug_nic(p, s);
	}
}

static void attach_all(struct part *p)
{
	kata_error *err = NULL;
	char **ids = NULL;

	MUST(&p->a, kata_persistence_list_sandboxes(p->a.p, &ids, &err));
	for (char **id = ids; *id; id++) {
		kata_sandbox *s = NULL;

		MUST(&p->a, kata_persistence_obtain_sandbox(p->a.p, *id, p->a.builder, p->agents, NULL, &s, &err));
		(k->has_guest ? use : use_paused)(p, s, atoi(kata_sandbox_get_id(s) + 1));
		MUST(&p->a, kata_persistence_store_sandbox(p->a.p, s, &err));
		end(p, s);
		p->a.sc->board->number++;
	}
	kata_string_list_free(ids);
}

static void heir(struct scene *sc)
{
	kata_recover_report *report;
	kata_error *err = NULL;
	char **ids = NULL;
	struct part p;

	sc->board->number = 0;
	part_open(&p, sc);
	report = actor_recover(&p.a, KATA_RECOVER_APPLY);
	actor_want_settled(&p.a, report);
	kata_recover_report_free(report);
	attach_all(&p);
	report = actor_recover(&p.a, 0);
	actor_want(&p.a, kata_recover_report_get_count(report) == 0, "recovering again finds something");
	kata_recover_report_free(report);
	MUST(&p.a, kata_persistence_list_sandboxes(p.a.p, &ids, &err));
	actor_want(&p.a, !ids[0], "a record is left");
	kata_string_list_free(ids);
	part_close(&p);
}

/* ---- what is there before */

/* Makes what is made once: caches, the database, the template. */
static void first(struct scene *sc)
{
	kata_error *err = NULL;
	struct part p;

	scene_warm_up(sc);
	part_open(&p, sc);
	if (p.cloner) {
		kata_vm_config config = actor_config(&p.a, NULL);

		MUST(&p.a, kata_template_make(p.cloner, &config, NULL, &err));
	}
	part_close(&p);
}

static void make_disks(struct scene *sc)
{
	char *root = fixture_path(&sc->f, "root");

	for (int i = 0; i < SANDBOXES; i++) {
		char file[32];

		snprintf(file, sizeof(file), "disk%d", i);
		free(fixture_make_raw(&sc->f, file, 1 << 20));
	}
	if (k->rootfs)
		cr_assert_eq(rename(k->rootfs, root), 0);
	else
		free(fixture_make_raw(&sc->f, "root", 1 << 20));
	free(root);
}

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
static void empty_saved(struct scene *sc, const char *what)
{
	char *place = fixture_path(&sc->f, "saved");
	DIR *dir = opendir(place);
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		cr_assert(e->d_name[0] != '.' || !e->d_name[1] || e->d_name[1] == '.', "%s: %s is left", what,
			  e->d_name);
	if (dir)
		closedir(dir);
	nftw(place, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	cr_assert_eq(mkdir(place, 0700), 0);
	free(place);
}

/* ---- at random moments */

static unsigned go_round(struct scene *sc, unsigned round)
{
	struct census *before = fixture_census(&sc->f);
	char what[64];

	round_seed = number_of("KATA_TEST_SEED", 1) + round;
	snprintf(what, sizeof(what), "round %u (KATA_TEST_SEED=%u)", round, round_seed);
	kill_manager(sc, what);
	scene_assert_ended(sc, scene_run(sc, heir), what);
	empty_saved(sc, what);
	fixture_assert_census(&sc->f, before, what);
	return (unsigned)sc->board->number;
}

static pid_t begin(const struct sandbox_kill *kill_what)
{
	pid_t stranger = start_stranger();

	k = kill_what;
	make_disks(k->sc);
	empty_saved(k->sc, "before");
	scene_assert_ended(k->sc, scene_run(k->sc, first), "the first");
	return stranger;
}

static void conclude(pid_t stranger)
{
	cr_assert_eq(waitpid(stranger, NULL, WNOHANG), 0, "the stranger was touched");
	kill(stranger, SIGKILL);
	waitpid(stranger, NULL, 0);
}

void sandbox_kill_run(const struct sandbox_kill *kill_what)
{
	unsigned rounds = number_of("KATA_TEST_ROUNDS", kill_what->rounds), attached = 0;
	struct scene *sc = kill_what->sc;
	pid_t stranger = begin(kill_what);

	for (unsigned i = 0; i < rounds; i++)
		attached += go_round(sc, i);
	cr_assert_gt(attached, rounds / 2, "of %u rounds only %u sandboxes were left to attach", rounds, attached);
	conclude(stranger);
	printf("%u rounds, %u sandboxes attached\n", rounds, attached);
}

/* ---- at every point */

static unsigned point;

static void die_at_step(struct scene *sc)
{
	struct manager m = {.seed = 1};
	kata_error *err = NULL;

	part_open(&m.p, sc);
	MUST(&m.p.a, kata_context_set_fail_point(m.p.a.context, KATA_FAIL_ANYWHERE, KATA_FAIL_KILL, 0, point, 1, &err));
	do_all(&m);
	part_close(&m.p);
}

static void die_at_write(struct scene *sc)
{
	struct manager m = {.seed = 1};

	sqlite_shim_make_default();
	sqlite_shim.kill = sqlite_shim.no_sync = true;
	part_open(&m.p, sc);
	sqlite_shim.fail_at = point + 1;
	do_all(&m);
	sqlite_shim.fail_at = 0;
	part_close(&m.p);
}

/* False: it came to its end. */
static bool kill_at_point(struct scene *sc, void (*manager)(struct scene *sc), unsigned *attached)
{
	struct census *before = fixture_census(&sc->f);
	char what[64];
	int status;

	snprintf(what, sizeof(what), "point %u (KATA_TEST_SEED=%u)", point, point);
	round_seed = point;
	status = scene_run(sc, manager);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		scene_assert_killed(sc, status, what);
	scene_assert_ended(sc, scene_run(sc, heir), what);
	*attached += (unsigned)sc->board->number;
	empty_saved(sc, what);
	fixture_assert_census(&sc->f, before, what);
	return WIFSIGNALED(status);
}

static void kill_everywhere(const struct sandbox_kill *kill_what, void (*manager)(struct scene *sc), unsigned stride)
{
	pid_t stranger = begin(kill_what);
	unsigned rounds = 0, attached = 0;

	point = number_of("KATA_TEST_SEED", 0);
	for (; kill_at_point(k->sc, manager, &attached); rounds++)
		point += getenv("KATA_TEST_ROUNDS") ? 1 : stride;
	cr_assert_gt(attached, rounds / 2, "of %u rounds only %u sandboxes were left to attach", rounds, attached);
	conclude(stranger);
	printf("killed at %u of %u points, %u sandboxes attached\n", rounds, point, attached);
}

void sandbox_kill_at_every_step(const struct sandbox_kill *kill_what, unsigned stride)
{
	kill_everywhere(kill_what, die_at_step, stride);
}

void sandbox_kill_at_every_write(const struct sandbox_kill *kill_what, unsigned stride)
{
	kill_everywhere(kill_what, die_at_write, stride);
}
