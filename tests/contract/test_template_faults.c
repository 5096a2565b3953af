/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every step of making a template, replacing one, starting a clone and removing the template fails once before and once
 * after it did its work, or hangs there; and the process that does it is killed there. Afterwards the host is as
 * before, at once or after kata_recover(), what is in the template's directory is whole, and the next make succeeds.
 * The VMM is the stand-in.
 *
 * KATA_TEST_EVERY: every how many of the points are tried (15 by default; 1 is the long form).
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/fixture.h"

#define EVERY 15u
#define VICTIM_MS 60000
#define HANG_MS 600 /* more than a making takes */
#define MEMORY_MIB 16
#define OTHER_MIB 32 /* of a template that is there and is replaced */

TestSuite(template_faults, .timeout = 1800);

struct desk {
	struct fixture f;
	char *binary, *kernel, *path;
	kata_context *context;
	kata_vm_builder *inner, *builder;
	kata_vm_config config;
	kata_error *err;
};

static void open_desk(struct desk *d)
{
	memset(d, 0, sizeof(*d));
	fixture_init(&d->f, false, 0);
	d->binary = fixture_make_standin(&d->f, NULL);
	d->kernel = fixture_make_kernel(&d->f);
	d->path = fixture_path(&d->f, "template");
	d->config = (kata_vm_config)KATA_VM_CONFIG_INIT;
	d->config.kernel = d->config.initrd = d->kernel;
	d->config.memory_mib = MEMORY_MIB;
}

static void close_desk(struct desk *d)
{
	free(d->binary);
	free(d->kernel);
	free(d->path);
	fixture_deinit(&d->f);
}

static void open_builder(struct desk *d)
{
	kata_template_options o = KATA_TEMPLATE_OPTIONS_INIT;
	kata_qemu_options qemu = KATA_QEMU_OPTIONS_INIT;

	d->context = fixture_new_context(&d->f, 0);
	qemu.binary = d->binary;
	qemu.accelerator = KATA_ACCELERATOR_TCG;
	o.path = d->path;
	o.flags = KATA_TEMPLATE_SHARE_MEMORY;
	fixture_assert_ok(kata_vm_builder_new_qemu(d->context, &qemu, &d->inner, &d->err), d->err);
	fixture_assert_ok(kata_vm_builder_new_template(d->context, d->inner, NULL, &o, &d->builder, &d->err), d->err);
}

static void close_builder(struct desk *d)
{
	kata_vm_builder_free(d->builder);
	kata_vm_builder_free(d->inner);
	fixture_assert_ok(kata_context_free(d->context, &d->err), d->err);
}

static int make(struct desk *d, uint64_t memory_mib)
{
	kata_vm_config c = d->config;

	c.memory_mib = memory_mib;
	return kata_template_make(d->builder, &c, NULL, &d->err);
}

/* ---- what is there afterwards ---- */

/* The template, whole, or none; and nothing of a making. */
static void assert_whole(struct desk *d, const char *point)
{
	kata_template_status s = {.size = sizeof(s)};
	DIR *dir = opendir(d->path);
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		cr_assert(strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
				  strcmp(e->d_name, "lock") == 0 || strcmp(e->d_name, "base") == 0,
			  "%s: %s is left", point, e->d_name);
	if (dir)
		closedir(dir);
	fixture_assert_ok(kata_template_get_status(d->builder, &s, &d->err), d->err);
	cr_assert(!s.exists || s.is_valid, "%s: %s", point, s.problem);
}

static void assert_can_be_made(struct desk *d, const char *point)
{
	kata_template_status s = {.size = sizeof(s)};

	cr_assert_eq(make(d, MEMORY_MIB), 0, "after %s: %s", point, error_text(d->err));
	fixture_assert_ok(kata_template_get_status(d->builder, &s, &d->err), d->err);
	cr_assert(s.is_valid, "after %s: %s", point, s.problem);
	cr_assert_eq(s.memory_bytes, (uint64_t)MEMORY_MIB << 20);
}

/* ---- the points ---- */

static int run_victim(struct desk *d, const char *point, char **ret_output)
{
	char program[] = KATA_BUILD_DIR "/tests/programs/template_victim", memory[8];
	const char *const argv[] = {program, d->f.state_dir, d->binary, d->kernel, d->kernel,
				    d->path, memory,         point,     NULL};

	snprintf(memory, sizeof(memory), "%d", MEMORY_MIB);
	return fixture_run(argv, VICTIM_MS, ret_output);
}

static char *list_steps(struct desk *d)
{
	char *steps = NULL;
	int status = run_victim(d, "-", &steps);

	cr_assert_eq(status, 0, "the victim ended with %d: %s", status, steps);
	return steps;
}

static unsigned every(void)
{
	const char *text = getenv("KATA_TEST_EVERY");

	return text ? (unsigned)strtoul(text, NULL, 10) : EVERY;
}

/* fn with each point of the operations that begin with `only`. */
static void for_points(struct desk *d, const char *only, void (*fn)(struct desk *d, const char *point))
{
	char *steps = list_steps(d), *rest = NULL, point[128];
	unsigned at = 0, tried = 0;

	for (char *step = strtok_r(steps, "\n", &rest); step; step = strtok_r(NULL, "\n", &rest))
		for (int after = 0; after < 2 && strncmp(step, only, strlen(only)) == 0; after++) {
			if (at++ % every() != every() / 4)
				continue;
			snprintf(point, sizeof(point), "%s:%s", step, after ? "after" : "before");
			fn(d, point);
			tried++;
		}
	cr_assert_gt(tried, 0u, "%s has no steps", only);
	if (getenv("KATA_TEST_TIMES"))
		fprintf(stderr, "%s: %u of %u points\n", only, tried, at);
	free(steps);
}

/* ---- killed ---- */

static void recover(struct desk *d, const char *point)
{
	const char *const directories[] = {d->path, NULL};
	kata_recover_options options = KATA_RECOVER_OPTIONS_INIT;
	kata_recover_report *report = NULL;

	options.flags = KATA_RECOVER_APPLY;
	options.directories = directories;
	fixture_assert_ok(kata_recover(d->context, NULL, &options, &report, &d->err), d->err);
	for (size_t i = 0; i < kata_recover_report_get_count(report); i++)
		cr_assert(fixture_was_undone(report, i), "killed at %s: %s: %s", point,
			  kata_recover_report_get_id(report, i), kata_recover_report_get_text(report, i));
	kata_recover_report_free(report);
	options.flags = 0;
	fixture_assert_ok(kata_recover(d->context, NULL, &options, &report, &d->err), d->err);
	cr_assert_eq(kata_recover_report_get_count(report), 0u, "killed at %s: recovery is not done at once", point);
	kata_recover_report_free(report);
}

static void kill_at(struct desk *d, const char *point)
{
	struct census *before = fixture_census(&d->f);
	char *output = NULL;
	int status = run_victim(d, point, &output);

	cr_assert_eq(status, 128 + SIGKILL, "the victim was not killed at %s but ended with %d: %s", point, status,
		     output);
	free(output);
	open_builder(d);
	recover(d, point);
	assert_whole(d, point);
	assert_can_be_made(d, point);
	fixture_assert_ok(kata_template_remove(d->builder, NULL, &d->err), d->err);
	close_builder(d);
	fixture_assert_census(&d->f, before, point);
}

static void kill_at_replacing(struct desk *d, const char *point)
{
	open_builder(d);
	fixture_assert_ok(make(d, OTHER_MIB), d->err);
	close_builder(d);
	kill_at(d, point);
}

static void kill_during(const char *operation, void (*fn)(struct desk *d, const char *point))
{
	struct desk d;

	open_desk(&d);
	for_points(&d, operation, fn);
	close_desk(&d);
}

Test(template_faults, killed_while_it_is_made)
{
	kill_during("template/", kill_at);
}

Test(template_faults, killed_while_another_is_replaced)
{
	kill_during("template/", kill_at_replacing);
}

/* What the steps of others leave, in the template's directory and beside it. */
Test(template_faults, killed_while_its_machine_is_started_and_saved)
{
	static const char *const points[] = {"start/spawn:after", "reset-identity/connect-agent:after",
					     "snapshot/migrate:after", "snapshot/publish:before",
					     "snapshot/publish:after"};
	struct desk d;

	open_desk(&d);
	free(list_steps(&d)); /* makes what is made once and stays */
	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		kill_at(&d, points[i]);
	close_desk(&d);
}

Test(template_faults, killed_while_a_clone_is_started)
{
	kill_during("restore/", kill_at);
}

Test(template_faults, killed_while_it_is_removed)
{
	kill_during("template-remove/", kill_at);
}

/* ---- failing ---- */

static void fail_at(struct desk *d, const char *point)
{
	fixture_assert_ok(kata_context_set_fail_point(d->context, point, KATA_FAIL_ERROR, 0, 0, 1, &d->err), d->err);
}

static void assert_injected(struct desk *d, int rc, const char *point)
{
	const char *step = strchr(point, '/') + 1;
	char name[64];

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(step, ":"), step);
	cr_assert_eq(rc, KATA_E_INJECTED, "at %s: %s", point, error_text(d->err));
	cr_assert(strstr(error_text(d->err), name), "at %s: %s", point, error_text(d->err));
	cr_assert_not(kata_error_is_uncertain(d->err), "at %s: %s", point, error_text(d->err));
	error_clear(&d->err);
	kata_context_clear_fail_point(d->context, NULL);
}

static void fail_making(struct desk *d, const char *point)
{
	struct census *before = fixture_census(&d->f);

	fail_at(d, point);
	assert_injected(d, make(d, MEMORY_MIB), point);
	assert_whole(d, point);
	fixture_assert_census(&d->f, before, point);
	assert_can_be_made(d, point);
	fixture_assert_ok(kata_template_remove(d->builder, NULL, &d->err), d->err);
}

/* The one that is there stays, and is good; or, where it has been removed already, the new one. */
static void fail_replacing(struct desk *d, const char *point)
{
	uint64_t expected_mib = strcmp(point, "template/retire:after") == 0 ? MEMORY_MIB : OTHER_MIB;
	kata_template_status s = {.size = sizeof(s)};

	fixture_assert_ok(make(d, OTHER_MIB), d->err);
	fail_at(d, point);
	assert_injected(d, make(d, MEMORY_MIB), point);
	assert_whole(d, point);
	fixture_assert_ok(kata_template_get_status(d->builder, &s, &d->err), d->err);
	cr_assert(s.is_valid, "%s: %s", point, s.problem);
	cr_assert_eq(s.memory_bytes, expected_mib << 20, "%s: it has %llu MiB", point,
		     (unsigned long long)s.memory_bytes >> 20);
	assert_can_be_made(d, point);
	fixture_assert_ok(kata_template_remove(d->builder, NULL, &d->err), d->err);
}

/* Hangs until its deadline. */
static void hang_replacing(struct desk *d, const char *point)
{
	const kata_op_options options = {.size = sizeof(options), .timeout_ms = HANG_MS};
	kata_template_status s = {.size = sizeof(s)};

	fixture_assert_ok(make(d, OTHER_MIB), d->err);
	fixture_assert_ok(kata_context_set_fail_point(d->context, point, KATA_FAIL_HANG, 0, 0, 1, &d->err), d->err);
	cr_assert_eq(kata_template_make(d->builder, &d->config, &options, &d->err), KATA_E_TIMEOUT, "at %s: %s", point,
		     error_text(d->err));
	cr_assert_not(kata_error_is_uncertain(d->err), "at %s: %s", point, error_text(d->err));
	error_clear(&d->err);
	kata_context_clear_fail_point(d->context, NULL);
	assert_whole(d, point);
	fixture_assert_ok(kata_template_get_status(d->builder, &s, &d->err), d->err);
	cr_assert(s.is_valid, "%s: %s", point, s.problem);
	cr_assert(s.memory_bytes == (uint64_t)OTHER_MIB << 20 || strcmp(point, "template/retire:after") == 0,
		  "%s: the one that was there has gone", point);
	assert_can_be_made(d, point);
	fixture_assert_ok(kata_template_remove(d->builder, NULL, &d->err), d->err);
}

static void fail_start(struct desk *d, const char *point)
{
	kata_vm_config c = d->config;
	struct census *before;
	kata_vm *vm = NULL;

	fixture_assert_ok(make(d, MEMORY_MIB), d->err);
	before = fixture_census(&d->f);
	fixture_assert_ok(kata_vm_builder_build(d->builder, &c, NULL, NULL, &vm, &d->err), d->err);
	fail_at(d, point);
	assert_injected(d, kata_vm_start(vm, NULL, &d->err), point);
	kata_vm_unref(vm);
	fixture_assert_census(&d->f, before, point);
	assert_whole(d, point);
	fixture_assert_ok(kata_vm_builder_build(d->builder, &c, NULL, NULL, &vm, &d->err), d->err);
	cr_assert_eq(kata_vm_start(vm, NULL, &d->err), 0, "after %s: %s", point, error_text(d->err));
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &d->err), d->err);
	kata_vm_unref(vm);
}

/* Removed in part it is none, and goes with the next removal. */
static void fail_removing(struct desk *d, const char *point)
{
	fixture_assert_ok(make(d, MEMORY_MIB), d->err);
	fail_at(d, point);
	assert_injected(d, kata_template_remove(d->builder, NULL, &d->err), point);
	assert_whole(d, point);
	assert_can_be_made(d, point);
	fixture_assert_ok(kata_template_remove(d->builder, NULL, &d->err), d->err);
}

static void fail_during(const char *operation, void (*fn)(struct desk *d, const char *point))
{
	struct desk d;

	open_desk(&d);
	open_builder(&d);
	for_points(&d, operation, fn);
	close_builder(&d);
	close_desk(&d);
}

Test(template_faults, a_step_fails_while_it_is_made)
{
	fail_during("template/", fail_making);
}

Test(template_faults, a_step_fails_while_another_is_replaced)
{
	fail_during("template/", fail_replacing);
}

Test(template_faults, a_step_fails_while_a_clone_is_started)
{
	fail_during("restore/", fail_start);
}

Test(template_faults, a_step_fails_while_it_is_removed)
{
	fail_during("template-remove/", fail_removing);
}

Test(template_faults, a_step_hangs_while_another_is_replaced)
{
	fail_during("template/", hang_replacing);
}
