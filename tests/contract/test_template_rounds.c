/* SPDX-License-Identifier: Apache-2.0 */
/* Templates made, cloned and destroyed in rounds, on the stand-in for QEMU. KATA_TEST_ROUNDS: 500 is the long form. */
#include "support/template_rounds.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include "support/counting_malloc.h"

#define ROUNDS 6u

static long count_live(void)
{
	return live;
}

Test(template_rounds, nothing_grows, .timeout = 1800)
{
	kata_qemu_options qemu = KATA_QEMU_OPTIONS_INIT;
	struct template_rounds r = {.memory_mib = 16, .rounds = ROUNDS, .count_live = count_live};
	kata_error *err = NULL;
	struct fixture f;
	char *binary, *kernel;

	fixture_init(&f, true, 0);
	binary = fixture_make_standin(&f, NULL);
	kernel = fixture_make_kernel(&f);
	qemu.binary = binary;
	qemu.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(f.context, &qemu, &r.inner, &err), err);
	r.f = &f;
	r.kernel = r.initrd = kernel;
	template_rounds_run(&r);
	kata_vm_builder_free(r.inner);
	free(binary);
	free(kernel);
	fixture_deinit(&f);
}
