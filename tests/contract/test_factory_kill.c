/* SPDX-License-Identifier: Apache-2.0 */
/* The process that keeps a pool is killed at every step; the VMM is the stand-in, which outlives its starter as QEMU
 * does. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "support/pool_kill.h"

static void kill_a_pool_during(const char *operation, bool of_template)
{
	struct fixture f;
	struct pool_kill k = {.f = &f, .machines = 2, .only = operation};
	char *binary, *kernel, *template_dir = NULL;

	fixture_init(&f, false, 0);
	if (of_template)
		template_dir = fixture_path(&f, "template");
	k.template_dir = template_dir;
	binary = fixture_make_standin(&f, NULL);
	kernel = fixture_make_kernel(&f);
	k.binary = binary;
	k.kernel = kernel;
	k.initrd = kernel;
	pool_kill_everywhere(&k);
	free(template_dir);
	free(binary);
	free(kernel);
	fixture_deinit(&f);
}

static void kill_during(const char *operation)
{
	kill_a_pool_during(operation, false);
}

Test(factory_kill, killed_while_machines_are_made, .timeout = 300)
{
	kill_during("pool-make/");
}

Test(factory_kill, killed_while_one_is_handed_out, .timeout = 300)
{
	kill_during("hand-out/");
}

Test(factory_kill, killed_while_one_is_taken, .timeout = 300)
{
	kill_during("pool-take/");
}

Test(factory_kill, killed_while_a_taken_one_is_started, .timeout = 300)
{
	kill_during("start-warm/");
}

Test(factory_kill, killed_while_the_pool_is_drained, .timeout = 300)
{
	kill_during("pool-drain/");
}

Test(factory_kill, killed_while_vmms_are_made_that_wait, .timeout = 300)
{
	kill_a_pool_during("pool-prestart/", true);
}

Test(factory_kill, killed_while_a_vmm_is_started_ahead, .timeout = 300)
{
	kill_a_pool_during("prestart/", true);
}

Test(factory_kill, killed_while_a_waiting_vmm_is_handed_out, .timeout = 300)
{
	kill_a_pool_during("hand-out-prestarted/", true);
}

Test(factory_kill, killed_while_a_waiting_vmm_loads_its_state, .timeout = 300)
{
	kill_a_pool_during("start-prestarted/", true);
}
