/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ownership: an older owner that still runs is refused, in the store and at the machine, and told who holds it since
 * when; a stuck one holds no lock; a dead one is taken over at once. The VMM is the stand-in.
 */
#include <criterion/criterion.h>
#include <jansson.h>
#include <kata/recover.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/fixture.h"

/* Where the records are. Those in memory are of one process: nobody else could take over from it. */
enum kind { OWN_FILE, ATTACHED, DIRECTORY };

struct scene {
	struct fixture f;
	enum kind kind;
	sqlite3 *db; /* of the caller, where it is attached */
	char *kernel, *binary, *disk;
	kata_vm_builder *builder;
	kata_persistence *p;
	kata_sandbox *s;
	kata_vm *vm;
};

static kata_vm_builder *new_builder(struct scene *sc, kata_context *context)
{
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;
	kata_vm_builder *builder = NULL;
	kata_error *err = NULL;

	options.binary = sc->binary;
	options.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(context, &options, &builder, &err), err);
	return builder;
}

static kata_persistence *attach_book(struct scene *sc, kata_context *context, const char *path)
{
	kata_persistence *p = NULL;
	kata_error *err = NULL;

	cr_assert_eq(sqlite3_open(path, &sc->db), SQLITE_OK);
	cr_assert_eq(sqlite3_busy_timeout(sc->db, 10000), SQLITE_OK);
	fixture_assert_ok(kata_persistence_new_sqlite_attached(context, sc->db, NULL, &p, &err), err);
	fixture_assert_ok(kata_persistence_create_schema(p, &err), err);
	return p;
}

static kata_persistence *open_book(struct scene *sc, kata_context *context)
{
	char *path = fixture_path(&sc->f, "book");
	kata_persistence *p = NULL;
	kata_error *err = NULL;

	if (sc->kind == ATTACHED)
		p = attach_book(sc, context, path);
	else if (sc->kind == DIRECTORY)
		fixture_assert_ok(kata_persistence_new_file(context, path, &p, &err), err);
	else
		fixture_assert_ok(kata_persistence_new_sqlite(context, path, &p, &err), err);
	free(path);
	return p;
}

static void scene_init(struct scene *sc)
{
	memset(sc, 0, sizeof(*sc));
	fixture_init(&sc->f, false, 0);
	sc->kernel = fixture_make_kernel(&sc->f);
	sc->binary = fixture_make_standin(&sc->f, NULL);
	sc->disk = fixture_make_raw(&sc->f, "disk", 1 << 20);
}

static void scene_deinit(struct scene *sc)
{
	free(sc->kernel);
	free(sc->binary);
	free(sc->disk);
	fixture_deinit(&sc->f);
}

/* A sandbox "sb" that runs and is stored. */
static void own(struct scene *sc, kata_context *context)
{
	kata_sandbox_options options = KATA_SANDBOX_OPTIONS_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_error *err = NULL;

	sc->builder = new_builder(sc, context);
	sc->p = open_book(sc, context);
	options.id = config.id = "sb";
	config.kernel = config.initrd = sc->kernel;
	config.memory_mib = 64;
	fixture_assert_ok(kata_sandbox_create(context, &options, sc->builder, &config, NULL, NULL, &sc->s, &err), err);
	fixture_assert_ok(kata_sandbox_start(sc->s, NULL, &err), err);
	fixture_assert_ok(kata_persistence_store_sandbox(sc->p, sc->s, &err), err);
	sc->vm = kata_sandbox_get_vm(sc->s);
}

static void disown(struct scene *sc)
{
	kata_vm_unref(sc->vm);
	kata_sandbox_unref(sc->s);
	kata_persistence_free(sc->p);
	cr_assert_eq(sqlite3_close(sc->db), SQLITE_OK);
	kata_vm_builder_free(sc->builder);
}

/* ---- an older owner that still runs */

/* Another process, which believed this one dead, has taken the machine over: that is what its owner.json says then. */
static json_t *rewrite_owner(struct scene *sc, int64_t pid, int64_t start_time, int64_t epoch)
{
	char path[128], next[140];
	json_t *owner, *before;

	snprintf(path, sizeof(path), "%s/vm/sb/owner.json", sc->f.state_dir);
	snprintf(next, sizeof(next), "%s.next", path);
	owner = json_load_file(path, 0, NULL);
	cr_assert_not_null(owner);
	before = json_deep_copy(owner);
	json_object_set_new(owner, "pid", json_integer(pid));
	json_object_set_new(owner, "start_time", json_integer(start_time));
	json_object_set_new(owner, "epoch", json_integer(epoch));
	cr_assert_eq(json_dump_file(owner, next, 0), 0);
	cr_assert_eq(rename(next, path), 0);
	json_decref(owner);
	return before;
}

static int64_t number(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static void assert_fenced(int rc, kata_error **err, const char *what)
{
	char year[8];
	time_t now = time(NULL);
	struct tm tm;

	cr_assert_eq(rc, KATA_E_FENCED, "%s: %s", what, error_text(*err));
	strftime(year, sizeof(year), "%Y-", gmtime_r(&now, &tm));
	cr_assert(strstr(kata_error_get_message(*err), "held by pid 1 (start time 4711) since "), "%s: %s", what,
		  error_text(*err));
	cr_assert(strstr(kata_error_get_message(*err), year), "%s: %s", what, error_text(*err));
	cr_assert(strstr(kata_error_get_message(*err), "epoch 2, this handle has 1"), "%s: %s", what, error_text(*err));
	error_clear(err);
}

/* Each public call that changes the machine or what runs in it. */
static void assert_all_fenced(struct scene *sc)
{
	kata_storage *storage = fixture_storage("late", sc->disk, KATA_STORAGE_VIRTIO_BLK);
	kata_nic *nic = fixture_nic("late", "02:00:00:00:00:09");
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;
	kata_error *err = NULL;

	config.id = "late";
	config.oci_spec =
		"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"x\"],\"cwd\":\"/\",\"user\":{\"uid\":0,\"gid\":0}},"
		"\"root\":{\"path\":\"/r\"}}";
#define FENCED(call)                                                                                                   \
	do {                                                                                                           \
		int rc_ = (call);                                                                                      \
		assert_fenced(rc_, &err, #call);                                                                       \
	} while (0)
	FENCED(kata_sandbox_add_storage(sc->s, storage, NULL, &err));
	FENCED(kata_sandbox_remove_storage(sc->s, "data", NULL, &err));
	FENCED(kata_sandbox_add_nic(sc->s, nic, NULL, NULL, &err));
	FENCED(kata_sandbox_add_container(sc->s, &config, NULL, &err));
	FENCED(kata_sandbox_pause(sc->s, NULL, &err));
	FENCED(kata_sandbox_release(sc->s, NULL, NULL, &err));
	FENCED(kata_sandbox_shutdown(sc->s, NULL, &err));
	FENCED(kata_sandbox_destroy(sc->s, NULL, &err));
	FENCED(kata_vm_add_storage(sc->vm, storage, NULL, &err));
	FENCED(kata_vm_pause(sc->vm, NULL, &err));
	FENCED(kata_vm_destroy(sc->vm, NULL, &err));
	cr_assert_eq(kata_sandbox_get_state(sc->s), KATA_SANDBOX_RUNNING, "it is told, and nothing else");
	kata_storage_unref(storage);
	kata_nic_unref(nic);
}

Test(sandbox_fence, an_older_owner_is_refused_at_the_machine_and_told_who_holds_it_since_when, .timeout = 60)
{
	kata_error *err = NULL;
	struct scene sc;
	json_t *ours;
	pid_t vmm;

	scene_init(&sc);
	sc.f.context = fixture_new_context(&sc.f, 0);
	own(&sc, sc.f.context);
	vmm = (pid_t)kata_vm_get_pid(sc.vm);
	ours = rewrite_owner(&sc, 1, 4711, 2);
	assert_all_fenced(&sc);
	cr_assert_eq(kill(vmm, 0), 0, "the machine lives");
	json_decref(rewrite_owner(&sc, number(ours, "pid"), number(ours, "start_time"), number(ours, "epoch")));
	fixture_assert_ok(kata_sandbox_pause(sc.s, NULL, &err), err); /* written again, but it says that it is ours */
	fixture_assert_ok(kata_sandbox_resume(sc.s, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_destroy(sc.s, NULL, &err), err);
	json_decref(ours);
	disown(&sc);
	scene_deinit(&sc);
}

Test(sandbox_fence, an_older_owner_that_drops_its_handles_leaves_the_machine_alive, .timeout = 60)
{
	struct scene sc;
	int64_t pids[4];
	pid_t vmm;

	scene_init(&sc);
	sc.f.context = fixture_new_context(&sc.f, 0);
	own(&sc, sc.f.context);
	vmm = (pid_t)kata_vm_get_pid(sc.vm);
	json_decref(rewrite_owner(&sc, 1, 4711, 2));
	disown(&sc);
	cr_assert_eq(kill(vmm, 0), 0, "the machine is the other's");
	cr_assert_eq(census_find_processes(sc.binary, pids, 4), 1u);
	cr_assert_eq(pids[0], vmm);
	cr_assert_eq(kill(vmm, SIGKILL), 0);
	scene_deinit(&sc);
}

Test(sandbox_fence, a_machine_whose_directory_was_removed_by_hand_can_still_be_destroyed, .timeout = 60)
{
	kata_error *err = NULL;
	struct scene sc;
	char path[128];
	int64_t pids[4];

	scene_init(&sc);
	sc.f.context = fixture_new_context(&sc.f, 0);
	own(&sc, sc.f.context);
	snprintf(path, sizeof(path), "%s/vm/sb/owner.json", sc.f.state_dir);
	cr_assert_eq(unlink(path), 0);
	fixture_assert_ok(kata_sandbox_destroy(sc.s, NULL, &err), err);
	disown(&sc);
	cr_assert_eq(census_find_processes(sc.binary, pids, 4), 0u);
	scene_deinit(&sc);
}

/* ---- stuck and dead owners: processes */

static void be_owner(struct scene *sc, char *ready)
{
	kata_context_options options = KATA_CONTEXT_OPTIONS_INIT;
	kata_context *context = NULL;

	options.state_dir = sc->f.state_dir;
	if (kata_context_new(&options, &context, NULL) < 0)
		_exit(1);
	own(sc, context);
	__atomic_store_n(ready, 1, __ATOMIC_RELEASE);
	for (;;)
		pause();
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void outlive_an_owner(enum kind kind)
{
	char *ready = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	kata_sandbox_info info = {.size = sizeof(info)};
	kata_error *err = NULL;
	struct scene sc;
	uint64_t begin;
	char who[64];
	pid_t owner;
	int status;

#ifdef __SANITIZE_THREAD__
	cr_skip_test(
		"ThreadSanitizer sees no synchronisation in a child of its own fork and reports races that are none");
#endif
	scene_init(&sc);
	sc.kind = kind;
	owner = fork();
	cr_assert_geq(owner, 0);
	if (owner == 0)
		be_owner(&sc, ready);
	while (!__atomic_load_n(ready, __ATOMIC_ACQUIRE)) {
		cr_assert_eq(waitpid(owner, &status, WNOHANG), 0, "the owner ended");
		usleep(1000);
	}
	cr_assert_eq(kill(owner, SIGSTOP), 0);
	sc.f.context = fixture_new_context(&sc.f, 0);
	sc.builder = new_builder(&sc, sc.f.context);
	sc.p = open_book(&sc, sc.f.context);
	fixture_assert_fails(kata_persistence_obtain_sandbox(sc.p, "sb", sc.builder, NULL, NULL, &sc.s, &err),
			     KATA_E_FENCED, err);
	snprintf(who, sizeof(who), "process %d (start time ", (int)owner);
	cr_assert_not_null(strstr(kata_error_get_message(err), who), "%s", error_text(err));
	cr_assert_not_null(strstr(kata_error_get_message(err), " UTC (epoch 1) and lives"), "%s", error_text(err));
	error_clear(&err);
	/* Lists, status and other sandboxes do not wait for it. */
	fixture_assert_ok(kata_persistence_get_info(sc.p, "sb", &info, &err), err);
	cr_assert_eq(info.owner_pid, owner);
	fixture_assert_ok(kata_persistence_create_sandbox(sc.p, "another", &err), err);

	cr_assert_eq(kill(owner, SIGKILL), 0);
	cr_assert_eq(waitpid(owner, &status, 0), owner);
	begin = now_ms();
	fixture_assert_ok(kata_persistence_obtain_sandbox(sc.p, "sb", sc.builder, NULL, NULL, &sc.s, &err), err);
	cr_assert_lt(now_ms() - begin, 5000u, "no waiting for a lease to end");
	fixture_assert_ok(kata_persistence_get_info(sc.p, "sb", &info, &err), err);
	cr_assert_eq(info.epoch, 2u);
	cr_assert_eq(info.holder_pid, getpid());
	fixture_assert_ok(kata_sandbox_destroy(sc.s, NULL, &err), err);
	disown(&sc);
	munmap(ready, 4096);
	scene_deinit(&sc);
}

Test(sandbox_fence, a_stuck_owner_is_named_and_holds_no_lock_and_a_dead_one_is_taken_over_at_once, .timeout = 120)
{
	outlive_an_owner(OWN_FILE);
}

Test(sandbox_fence, the_same_on_a_handle_of_the_callers, .timeout = 120)
{
	outlive_an_owner(ATTACHED);
}

Test(sandbox_fence, the_same_in_a_directory, .timeout = 120)
{
	outlive_an_owner(DIRECTORY);
}
