/* SPDX-License-Identifier: Apache-2.0 */
/* A manager of several sandboxes is killed at any moment, and at every one; the VMM is the stand-in for QEMU. 1,000
 * rounds are the long form of what is random. */
#include "support/sandbox_kill.h"

#include <criterion/criterion.h>

Test(sandbox_kill, a_manager_that_is_killed_at_any_moment_leaves_what_answers_or_nothing, .timeout = 3600)
{
	struct scene sc;
	struct sandbox_kill k = {
		.sc = &sc, .has_guest = true, .boots = 1, .rounds = 6, .acts_max = 40, .act_ms_max = 25};

	scene_init(&sc);
	sandbox_kill_run(&k);
	scene_deinit(&sc);
}

Test(sandbox_kill, so_does_one_that_is_killed_at_each_step_of_each_operation, .timeout = 3600)
{
	struct scene sc;
	struct sandbox_kill k = {.sc = &sc, .has_guest = true, .boots = 2};

	scene_init(&sc);
	sandbox_kill_at_every_step(&k, 83);
	scene_deinit(&sc);
}

Test(sandbox_kill, so_does_one_that_is_killed_at_each_write_of_a_record, .timeout = 3600)
{
	struct scene sc;
	struct sandbox_kill k = {.sc = &sc, .has_guest = true, .boots = 2};

	scene_init(&sc);
	sandbox_kill_at_every_write(&k, 23);
	scene_deinit(&sc);
}

Test(sandbox_kill, so_does_one_whose_sandboxes_are_clones, .timeout = 3600)
{
	struct scene sc;
	struct sandbox_kill k = {
		.sc = &sc, .has_guest = true, .boots = 4, .rounds = 2, .acts_max = 40, .act_ms_max = 40};

	scene_init(&sc);
	sandbox_kill_run(&k);
	scene_deinit(&sc);
}
