/* SPDX-License-Identifier: Apache-2.0 */
/* vm_kill.c - victims, and what another process makes of what they left. */
#include "support/vm_kill.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VICTIM_MS 60000

static int run_victim(const struct vm_kill *k, const char *operation, const char *point, char **ret_output)
{
	char *disk = fixture_path(k->f, "victim.raw");
	const char *const argv[] = {KATA_BUILD_DIR "/tests/programs/vm_victim",
				    k->f->state_dir,
				    k->binary,
				    k->kernel,
				    k->initrd,
				    disk,
				    operation,
				    point,
				    k->tap ? "tap" : NULL,
				    NULL};
	int status = fixture_run(argv, VICTIM_MS, ret_output);

	free(disk);
	return status;
}

/* ---- recovery */

static char *read_record(const struct vm_kill *k, const char *name)
{
	char path[128];
	char *text = calloc(1, 65536);
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", k->f->state_dir, name);
	f = fopen(path, "re");
	cr_assert(f && text && fread(text, 1, 65535, f) > 0, "%s cannot be read", path);
	fclose(f);
	return text;
}

static void attach_and_destroy(const struct vm_kill *k, kata_context *context, const char *record_name,
			       const char *point)
{
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;
	kata_vm_builder *builder = NULL;
	kata_vm *vm = NULL;
	kata_error *err = NULL;
	char *record = read_record(k, record_name);

	options.binary = k->binary;
	options.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(context, &options, &builder, &err), err);
	cr_assert_eq(kata_vm_builder_build_from_released(builder, record, strlen(record), NULL, &vm, &err), 0,
		     "killed at %s: %s", point, error_text(err));
	if (strncmp(point, "snapshot/", 9) == 0)
		cr_assert_eq(kata_vm_get_state(vm), KATA_VM_RUNNING, "killed at %s: the machine is %s", point,
			     kata_vm_state_get_name(kata_vm_get_state(vm)));
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
	kata_vm_builder_free(builder);
	free(record);
}

static void recover(const struct vm_kill *k, const char *point)
{
	kata_context *context = fixture_new_context(k->f, 0);
	kata_recover_report *report = NULL;
	kata_error *err = NULL;
	size_t count;

	fixture_assert_ok(fixture_recover(context, NULL, KATA_RECOVER_APPLY, &report, &err), err);
	count = kata_recover_report_get_count(report);
	cr_assert_leq(count, 2u, "killed at %s", point); /* the machine, a snapshot that it was being saved to */
	for (size_t i = 0; i < count; i++) {
		kata_recover_verdict verdict = kata_recover_report_get_verdict(report, i);

		cr_assert(fixture_was_undone(report, i) || verdict == KATA_RECOVER_ATTACHABLE, "killed at %s: %s: %s",
			  point, kata_recover_verdict_get_name(verdict), kata_recover_report_get_text(report, i));
		if (verdict == KATA_RECOVER_ATTACHABLE)
			attach_and_destroy(k, context, "vm/victim/released.json", point);
	}
	kata_recover_report_free(report);
	fixture_assert_ok(fixture_recover(context, NULL, 0, &report, &err), err);
	cr_assert_eq(kata_recover_report_get_count(report), 0u, "killed at %s: recovery is not done at once", point);
	kata_recover_report_free(report);
	fixture_assert_ok(kata_context_free(context, &err), err);
}

/* ---- snapshots: what is there is whole */

static void make_place(const struct vm_kill *k)
{
	char *place = fixture_path(k->f, "saved");

	cr_assert_eq(mkdir(place, 0700), 0);
	free(place);
}

static void check_entries(const char *place, const char *point)
{
	DIR *dir = opendir(place);
	struct dirent *e;

	cr_assert_not_null(dir);
	while ((e = readdir(dir)))
		cr_assert(e->d_name[0] != '.' || !e->d_name[1] || e->d_name[1] == '.', "%s: %s is left", point,
			  e->d_name);
	closedir(dir);
}

/* A save has come to its end, or to nothing; what a restore made goes with it, until it is complete. */
static void check_saved(const struct vm_kill *k, const char *operation, const char *point)
{
	char *place = fixture_path(k->f, "saved"), *one = fixture_path(k->f, "saved/one");
	char *disk = fixture_path(k->f, "saved/one-disk"), *ram = fixture_path(k->f, "ram");
	kata_context *context = fixture_new_context(k->f, 0);
	kata_snapshot *snapshot = NULL;
	kata_error *err = NULL;

	check_entries(place, point);
	if (access(one, F_OK) == 0) {
		cr_assert_eq(kata_snapshot_open(context, one, KATA_SNAPSHOT_VERIFY, &snapshot, &err), 0, "%s: %s",
			     point, error_text(err));
		kata_snapshot_free(snapshot);
	}
	if (strncmp(operation, "save", 4) == 0 && access(one, F_OK) == 0)
		fixture_assert_ok(kata_snapshot_delete(context, one, &err), err);
	cr_assert(access(disk, F_OK) < 0 || strcmp(point, "-") == 0 || strcmp(point, "restore/forget:after") == 0,
		  "%s: a disk is left", point);
	unlink(disk);
	unlink(ram);
	fixture_assert_ok(kata_context_free(context, &err), err);
	free(place);
	free(one);
	free(disk);
	free(ram);
}

/* ---- the rounds */

static void must_end_well(const struct vm_kill *k, const char *operation, char **ret_steps, const char *when)
{
	char *output = NULL;
	int status = run_victim(k, operation, "-", &output);

	cr_assert_eq(status, 0, "%s %s: the victim ended with %d: %s", operation, when, status, output);
	if (ret_steps)
		*ret_steps = output;
	else
		free(output);
	check_saved(k, operation, "-");
}

static void kill_at(const struct vm_kill *k, const char *operation, const char *point)
{
	struct census *before = fixture_census(k->f);
	char *output = NULL;
	int status = run_victim(k, operation, point, &output);

	cr_assert_eq(status, 128 + SIGKILL, "%s: the victim was not killed at %s but ended with %d: %s", operation,
		     point, status, output);
	free(output);
	recover(k, point);
	check_saved(k, operation, point);
	fixture_assert_census(k->f, before, point);
}

void vm_kill_in_the_probe(const struct vm_kill *k, const char *operation)
{
	char *disk = fixture_make_raw(k->f, "victim.raw", UINT64_C(1) << 20);
	kata_context *context = fixture_new_context(k->f, 0);
	char cache[64];

	snprintf(cache, sizeof(cache), "%s/cache", k->f->state_dir); /* what stays, by intent, is there before */
	cr_assert_eq(mkdir(cache, 0700), 0);
	make_place(k);
	cr_assert_eq(kata_context_free(context, NULL), 0);
	kill_at(k, operation, "-");
	free(disk);
}

void vm_kill_everywhere(const struct vm_kill *k, const char *operation)
{
	char *disk = fixture_make_raw(k->f, "victim.raw", UINT64_C(1) << 20);
	char *steps = NULL, *rest = NULL;
	unsigned count = 0;
	char point[160];

	make_place(k);
	must_end_well(k, operation, &steps, "at first"); /* makes the caches too */
	for (char *step = strtok_r(steps, "\n", &rest); step; step = strtok_r(NULL, "\n", &rest), count++) {
		snprintf(point, sizeof(point), "%s:before", step);
		kill_at(k, operation, point);
		snprintf(point, sizeof(point), "%s:after", step);
		kill_at(k, operation, point);
	}
	cr_assert_gt(count, 0u);
	must_end_well(k, operation, NULL, "after the kills");
	free(steps);
	free(disk);
}

void vm_kill_while_saving(const struct vm_kill *k)
{
	static const char *const points[] = {
		"snapshot/note:after",    "snapshot/make-dir:after",   "snapshot/stop:after", "snapshot/getfd:after",
		"snapshot/migrate:after", "snapshot/copy-disks:after", "snapshot/cont:after", "snapshot/publish:after"};
	char *disk = fixture_make_raw(k->f, "victim.raw", UINT64_C(1) << 20);
	char *record = fixture_path(k->f, "saved/one-record");

	make_place(k);
	must_end_well(k, "save-recorded", NULL, "at first");
	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		struct census *before = fixture_census(k->f);
		kata_context *context;
		char *output = NULL;
		int status = run_victim(k, "save-recorded", points[i], &output);

		cr_assert_eq(status, 128 + SIGKILL, "%s: the victim ended with %d: %s", points[i], status, output);
		context = fixture_new_context(k->f, 0);
		attach_and_destroy(k, context, "../saved/one-record", points[i]);
		cr_assert_eq(kata_context_free(context, NULL), 0);
		check_saved(k, "save", points[i]);
		free(output);
		fixture_assert_census(k->f, before, points[i]);
	}
	unlink(record);
	free(record);
	free(disk);
}
