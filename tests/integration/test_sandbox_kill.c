/* SPDX-License-Identifier: Apache-2.0 */
/* A manager of several sandboxes is killed at any moment; the VMM is the real QEMU. */
#include "support/sandbox_kill.h"

#include "integration/sandbox_test.h"

static void scene_of_image(struct scene *sc)
{
	struct machine image;

	if (access("/usr/bin/qemu-system-x86_64", X_OK))
		cr_skip_test("no /usr/bin/qemu-system-x86_64: install qemu-system-x86");
	find_image(&image);
	scene_init_qemu(sc, image.kernel, image.initrd);
}

/*
 * QEMU runs, and its CPUs do not: each machine is paused as soon as it was started, which is for the first thousandths
 * of a second of its firmware. What that leaves out is said in sandbox_kill.h. 1,000 is the long form.
 */
Test(sandbox_kill, paused_machines_are_attachable_or_gone, .timeout = 14400)
{
	struct scene sc;
	struct sandbox_kill k = {
		.sc = &sc, .has_guest = false, .boots = 1, .rounds = 10, .acts_max = 14, .act_ms_max = 100};

	scene_of_image(&sc);
	sandbox_kill_run(&k);
	scene_deinit(&sc);
}

Test(sandbox_kill, paused_machines_are_so_after_a_kill_at_each_step, .timeout = 14400)
{
	struct scene sc;
	struct sandbox_kill k = {.sc = &sc, .has_guest = false, .boots = 1};

	scene_of_image(&sc);
	sandbox_kill_at_every_step(&k, 83);
	scene_deinit(&sc);
}

/* Guests that have booted, or are clones of one that has; their agents answer. 50 is the long form. */
Test(sandbox_kill, booted_guests_answer_or_are_gone, .timeout = 14400)
{
	struct scene sc;
	struct sandbox_kill k = {
		.sc = &sc, .has_guest = true, .boots = 6, .rounds = 2, .acts_max = 20, .act_ms_max = 400};
	struct stage st = {0};

	scene_of_image(&sc);
	st.m.f = sc.f;
	make_rootfs(&st);
	k.rootfs = st.rootfs;
	sandbox_kill_run(&k);
	scene_deinit(&sc);
}
