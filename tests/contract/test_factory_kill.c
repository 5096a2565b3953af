/* SPDX-License-Identifier: Apache-2.0 */
/* The process that keeps a pool is killed at every step; the VMM is the stand-in, which outlives its starter as QEMU
 * does. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "support/pool_kill.h"

static void kill_during(const char *operation)
{
	struct fixture f;
	struct pool_kill k = {.f = &f, .machines = 2, .only = operation};
	char *binary, *kernel;

	fixture_init(&f, false, 0);
	binary = fixture_make_standin(&f, NULL);
	kernel = fixture_make_kernel(&f);
	k.binary = binary;
	k.kernel = kernel;
	k.initrd = kernel;
	pool_kill_everywhere(&k);
	free(binary);
	free(kernel);
	fixture_deinit(&f);
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
