/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool of real machines under a load of clients in other processes. Short here; KATA_TEST_LOAD_S seconds, and then
 * with a pool of eight, where that is set:
 *
 *     KATA_TEST_LOAD_S=600 build/asan/tests/integration/integration_factory_load
 */
#include "support/factory_load.h"
#include "vm_test.h"

#define SECONDS 10u

Test(factory_load, clients_take_use_drop_and_crash_at_random, .timeout = 1800)
{
	const char *seconds = getenv("KATA_TEST_LOAD_S");
	struct factory_load l = {.machines = seconds ? 8 : 2,
				 .clients = seconds ? 6 : 2,
				 .seconds = seconds ? (unsigned)atoi(seconds) : SECONDS};
	struct machine image;
	struct fixture f;

	if (access("/usr/bin/qemu-system-x86_64", X_OK))
		cr_skip_test("no /usr/bin/qemu-system-x86_64: install qemu-system-x86");
	find_image(&image);
	fixture_init(&f, false, 0);
	l.f = &f;
	l.binary = "/usr/bin/qemu-system-x86_64";
	l.kernel = image.kernel;
	l.initrd = image.initrd;
	cr_assert_gt(factory_load_run(&l), 0u);
	fixture_deinit(&f);
}
