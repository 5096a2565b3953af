/* SPDX-License-Identifier: Apache-2.0 */
/* A pool of eight under a load of clients in other processes; the VMMs are stand-ins. KATA_TEST_LOAD_S: how long. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "support/factory_load.h"

#define SECONDS 15u

Test(factory_load, clients_take_use_drop_and_crash_at_random, .timeout = 1200)
{
	const char *seconds = getenv("KATA_TEST_LOAD_S");
	struct factory_load l = {.machines = 8, .clients = 6, .seconds = seconds ? (unsigned)atoi(seconds) : SECONDS};
	struct census *before;
	struct fixture f;
	char *binary, *kernel;

	fixture_init(&f, false, 0);
	binary = fixture_make_standin(&f, NULL);
	kernel = fixture_make_kernel(&f);
	before = fixture_census(&f);
	l.f = &f;
	l.binary = binary;
	l.kernel = kernel;
	l.initrd = kernel;
	cr_assert_gt(factory_load_run(&l), 0u);
	census_free(before);
	free(binary);
	free(kernel);
	fixture_deinit(&f);
}
