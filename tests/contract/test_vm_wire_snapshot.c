/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saving and restoring at the wire: the stand-in misbehaves at each command in turn. Whatever it does, the call ends by
 * its deadline with an error that is documented and names the step, nothing half-made is left, a machine that still
 * answers runs on and can be saved again, destroy works, and the host is as before.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "support/fixture.h"

#define TIMEOUT_MS 400
#define UNDO_MS 9000

static struct fixture f;
static char *standin, *kernel, *path;
static char place[64];
static kata_vm_builder *builder;
static kata_snapshot *snapshot;
static kata_vm *vm;
static kata_error *err;

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void drop_vm(void)
{
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
	vm = NULL;
}

static void add_devices(void)
{
	char *disk = fixture_make_raw(&f, "disk.raw", 1 << 20);
	kata_storage *s = fixture_storage("disk", disk, KATA_STORAGE_VIRTIO_BLK);
	kata_nic *n = fixture_nic("nic", NULL);

	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_nic(vm, n, NULL, &err), err);
	kata_storage_unref(s);
	kata_nic_unref(n);
	free(disk);
}

static void start(void)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	config.id = "vm";
	config.kernel = kernel;
	config.initrd = kernel;
	config.device_slots = 4;
	fixture_assert_ok(kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err), err);
	add_devices();
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
}

/* With the capabilities cached, and with a snapshot to restore from. */
static void set_up(void)
{
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;
	char *good;

	fixture_init(&f, true, 0);
	standin = fixture_make_standin(&f, "");
	kernel = fixture_make_kernel(&f);
	options.binary = standin;
	options.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(f.context, &options, &builder, &err), err);
	start();
	good = fixture_path(&f, "good");
	fixture_assert_ok(kata_vm_snapshot(vm, good, NULL, NULL, &snapshot, &err), err);
	drop_vm();
	free(good);
	snprintf(place, sizeof(place), "%s/saved", f.dir);
	cr_assert_eq(mkdir(place, 0700), 0);
	path = fixture_path(&f, "saved/one");
}

static void tear_down(void)
{
	error_clear(&err);
	kata_snapshot_free(snapshot);
	kata_vm_builder_free(builder);
	free(standin);
	free(kernel);
	free(path);
	fixture_deinit(&f);
}

TestSuite(vm_wire_snapshot, .init = set_up, .fini = tear_down, .timeout = 600);

static size_t count_entries(void)
{
	DIR *dir = opendir(place);
	struct dirent *e;
	size_t n = 0;

	cr_assert_not_null(dir);
	while ((e = readdir(dir)))
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(dir);
	return n;
}

/* ---- faults */

enum expectation { FAILS, SUCCEEDS, EITHER };

static const struct fault {
	const char *action;
	enum expectation expected;
	bool answers; /* the process is well afterwards, and can be talked to */
} faults[] = {
	{"error \"no, thank you\"", FAILS, true},
	{"half-line", FAILS, true},
	{"garbage", FAILS, true},
	{"line 1048577", FAILS, true},
	{"silence", FAILS, true},
	{"lost", FAILS, true},
	{"hang-up", FAILS, true},
	{"kill", FAILS, false},
	{"stop", FAILS, false},
	{"exit 1 \"last words\"", FAILS, false},
	{"flood 20000", EITHER, true},
	{"reply-twice", EITHER, true},
	{"unasked", EITHER, true},
	{"wrong-type", EITHER, true},
	{"delay 30", SUCCEEDS, true},
};

static bool is_documented(int status)
{
	return status == KATA_E_VMM || status == KATA_E_PROTOCOL || status == KATA_E_GONE || status == KATA_E_TIMEOUT ||
	       status == KATA_E_IO;
}

static void check_outcome(const char *what, int rc, enum expectation expected, uint64_t took_ms)
{
	cr_assert(rc < 0 || expected != FAILS, "%s: it succeeded", what);
	cr_assert(rc == 0 || expected != SUCCEEDS, "%s: %s", what, error_text(err));
	cr_assert(rc == 0 || is_documented(rc), "%s: %s", what, error_text(err));
	cr_assert(rc == 0 || kata_error_get_step(err), "%s: the error names no step: %s", what, error_text(err));
	cr_assert_lt(took_ms, TIMEOUT_MS + UNDO_MS, "%s: it took %llu ms", what, (unsigned long long)took_ms);
}

static const kata_op_options timely = {sizeof(timely), TIMEOUT_MS};

/* A machine that answers is as it was: it runs, and is saved by the same call. */
static void save_again(const char *what)
{
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_RUNNING, "%s", what);
	cr_assert_eq(kata_vm_snapshot(vm, path, NULL, NULL, NULL, &err), 0, "%s: %s", what, error_text(err));
}

static void save_with(const char *command, const struct fault *fault)
{
	char script[160];
	struct census *before;
	uint64_t start_ms;
	int rc;

	snprintf(script, sizeof(script), "on %s %s\n", command, fault->action);
	fixture_set_script(standin, script);
	before = fixture_census(&f);
	start();
	start_ms = now_ms();
	rc = kata_vm_snapshot(vm, path, NULL, &timely, NULL, &err);
	check_outcome(script, rc, fault->expected, now_ms() - start_ms);
	cr_assert_eq(count_entries(), rc == 0 ? 1u : 0u, "%s", script);
	error_clear(&err);
	if (rc < 0 && fault->answers)
		save_again(script);
	if (count_entries())
		fixture_assert_ok(kata_snapshot_delete(f.context, path, &err), err);
	drop_vm();
	fixture_assert_census(&f, before, script);
}

static void save_survives_faults_at(const char *command)
{
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		save_with(command, &faults[i]);
}

static void restore_with(const char *command, const struct fault *fault)
{
	char script[160];
	struct census *before = fixture_census(&f);
	uint64_t start_ms;
	kata_nic *n = fixture_nic("more", NULL);
	int rc;

	snprintf(script, sizeof(script), "on %s %s\n", command, fault->action);
	fixture_set_script(standin, script);
	fixture_assert_ok(kata_vm_builder_build_from_snapshot(builder, snapshot, NULL, NULL, NULL, NULL, &vm, &err),
			  err);
	fixture_assert_ok(kata_vm_add_nic(vm, n, NULL, &err), err);
	start_ms = now_ms();
	rc = kata_vm_start(vm, &timely, &err);
	check_outcome(script, rc, fault->expected, now_ms() - start_ms);
	error_clear(&err);
	if (rc < 0) {
		cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED, "%s", script);
		fixture_set_script(standin, "");
		cr_assert_eq(kata_vm_start(vm, NULL, &err), 0, "%s: then: %s", script, error_text(err));
	}
	drop_vm();
	kata_nic_unref(n);
	fixture_assert_census(&f, before, script);
}

static void restore_survives_faults_at(const char *command)
{
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		restore_with(command, &faults[i]);
}

#define AT(what, name, command)                                                                                        \
	Test(vm_wire_snapshot, what##_survives_every_fault_at_##name)                                                  \
	{                                                                                                              \
		what##_survives_faults_at(command);                                                                    \
	}
/* #N: only that one, so that the same call can succeed afterwards. The start has had the first cont. */
AT(save, query_version, "query-version#1")
AT(save, qom_get, "qom-get#1")
AT(save, query_migrate_for_blockers, "query-migrate#1")
AT(save, query_status, "query-status#1")
AT(save, stop, "stop#1")
AT(save, set_capabilities, "migrate-set-capabilities#1")
AT(save, set_parameters, "migrate-set-parameters#1")
AT(save, getfd, "getfd#1")
AT(save, migrate, "migrate#1")
AT(save, query_migrate, "query-migrate#2")
AT(save, cont, "cont#3") /* the second is refused as the migration is not finalized */
AT(restore, set_capabilities, "migrate-set-capabilities")
AT(restore, getfd, "getfd")
AT(restore, migrate_incoming, "migrate-incoming")
AT(restore, query_migrate, "query-migrate")
AT(restore, netdev_add, "netdev_add")
AT(restore, device_add, "device_add")
AT(restore, cont, "cont")

/* ---- the transfer itself */

Test(vm_wire_snapshot, a_transfer_that_never_ends_is_cancelled_at_the_deadline)
{
	fixture_set_script(standin, "on migrate#1 no-event\n");
	start();
	fixture_assert_fails(kata_vm_snapshot(vm, path, NULL, &timely, NULL, &err), KATA_E_TIMEOUT, err);
	cr_assert_not(kata_error_is_uncertain(err), "%s", error_text(err));
	cr_assert_eq(count_entries(), 0u);
	error_clear(&err);
	save_again("after the deadline");
	drop_vm();
}

Test(vm_wire_snapshot, an_end_that_is_told_before_the_reply_is_not_missed)
{
	fixture_set_script(standin, "on migrate event-first\non migrate-incoming event-first\n");
	start();
	fixture_assert_ok(kata_vm_snapshot(vm, path, NULL, NULL, NULL, &err), err);
	drop_vm();
	fixture_assert_ok(kata_vm_builder_build_from_snapshot(builder, snapshot, NULL, NULL, NULL, NULL, &vm, &err),
			  err);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	drop_vm();
}

Test(vm_wire_snapshot, a_state_that_finds_no_room_says_so)
{
	fixture_set_script(standin, "on state#1 error \"Unable to write: No space left on device\"\n");
	start();
	fixture_assert_fails(kata_vm_snapshot(vm, path, NULL, NULL, NULL, &err), KATA_E_IO, err);
	cr_assert(strstr(kata_error_get_message(err), "No space left"), "%s", error_text(err));
	cr_assert(kata_error_get_hint(err) && strstr(kata_error_get_hint(err), "MiB free; the RAM alone may take"));
	cr_assert_eq(count_entries(), 0u);
	error_clear(&err);
	save_again("with room");
	drop_vm();
}

Test(vm_wire_snapshot, a_state_that_cannot_be_loaded_is_refused_in_qemus_words)
{
	struct census *before = fixture_census(&f);
	kata_snapshot *other = NULL;
	char *state;
	FILE *out;

	start();
	fixture_assert_ok(kata_vm_snapshot(vm, path, NULL, NULL, &other, &err), err);
	drop_vm();
	fixture_set_script(standin, "on migrate-incoming exit 1 \"load of migration failed: Invalid argument\"\n");
	fixture_assert_ok(kata_vm_builder_build_from_snapshot(builder, other, NULL, NULL, NULL, NULL, &vm, &err), err);
	fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_GONE, err);
	cr_assert(strstr(kata_error_get_message(err), "load of migration failed"), "%s", error_text(err));
	error_clear(&err);
	drop_vm();
	/* Changed between the open and the start. */
	state = fixture_path(&f, "saved/one/state");
	out = fopen(state, "r+e");
	cr_assert_not_null(out);
	fputc('X', out);
	fclose(out);
	fixture_assert_ok(kata_vm_builder_build_from_snapshot(builder, other, NULL, NULL, NULL, NULL, &vm, &err), err);
	fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_CORRUPT, err);
	cr_assert(strstr(kata_error_get_message(err), "'state'"), "%s", error_text(err));
	error_clear(&err);
	drop_vm();
	free(state);
	kata_snapshot_free(other);
	fixture_assert_census(&f, before, "after states that cannot be loaded");
}
