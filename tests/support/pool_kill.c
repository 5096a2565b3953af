/* SPDX-License-Identifier: Apache-2.0 */
/* pool_kill.c - factories that are killed, and what another process makes of what they left. */
#include "support/pool_kill.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VICTIM_MS 300000

static int run_victim(const struct pool_kill *k, const char *point, char **ret_output)
{
	char machines[8];
	const char *const argv[] = {KATA_BUILD_DIR "/tests/programs/pool_victim",
				    k->f->state_dir,
				    k->binary,
				    k->kernel,
				    k->initrd,
				    machines,
				    point,
				    k->template_dir,
				    NULL};

	snprintf(machines, sizeof(machines), "%u", k->machines);
	return fixture_run(argv, VICTIM_MS, ret_output);
}

static void recover(const struct pool_kill *k, const char *point)
{
	kata_context *context = fixture_new_context(k->f, 0);
	kata_recover_report *report = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(fixture_recover(context, NULL, KATA_RECOVER_APPLY, &report, &err), err);
	for (size_t i = 0; i < kata_recover_report_get_count(report); i++)
		cr_assert(fixture_was_undone(report, i), "killed at %s: %s: %s", point,
			  kata_recover_report_get_id(report, i), kata_recover_report_get_text(report, i));
	kata_recover_report_free(report);
	fixture_assert_ok(fixture_recover(context, NULL, 0, &report, &err), err);
	cr_assert_eq(kata_recover_report_get_count(report), 0u, "killed at %s: recovery is not done at once", point);
	kata_recover_report_free(report);
	fixture_assert_ok(kata_context_free(context, &err), err);
}

static void kill_at(const struct pool_kill *k, const char *point)
{
	struct census *before = fixture_census(k->f);
	char *output = NULL;
	int status = run_victim(k, point, &output);

	cr_assert_eq(status, 128 + SIGKILL, "the factory was not killed at %s but ended with %d: %s", point, status,
		     output);
	free(output);
	recover(k, point);
	fixture_assert_census(k->f, before, point);
}

static void must_end_well(const struct pool_kill *k, const char *point, char **ret_output, const char *when)
{
	int status = run_victim(k, point, ret_output);

	cr_assert_eq(status, 0, "%s: it ended with %d: %s", when, status, *ret_output);
}

static void run_to_its_end(const struct pool_kill *k, const char *when)
{
	char *output = NULL;

	if (!k->brief)
		must_end_well(k, "-", &output, when);
	free(output);
}

void pool_kill_everywhere(const struct pool_kill *k)
{
	char *steps = NULL, *rest = NULL;
	unsigned count = 0;
	char point[160];

	must_end_well(k, "?", &steps, "asked for its steps"); /* makes the caches too */
	run_to_its_end(k, "at first");
	for (char *step = strtok_r(steps, "\n", &rest); step; step = strtok_r(NULL, "\n", &rest)) {
		if (strncmp(step, k->only, strlen(k->only)) != 0)
			continue;
		count++;
		snprintf(point, sizeof(point), "%s:before", step);
		kill_at(k, point);
		snprintf(point, sizeof(point), "%s:after", step);
		kill_at(k, point);
	}
	cr_assert_gt(count, 0u);
	run_to_its_end(k, "after the kills");
	free(steps);
}
