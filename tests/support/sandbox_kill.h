/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_SANDBOX_KILL_H
#define KATA_TESTS_SUPPORT_SANDBOX_KILL_H
/*
 * A manager with several sandboxes does what it likes (starts, clones, plugs, unplugs, runs containers, stores, pauses,
 * saves, releases, obtains, destroys) and is killed at a random moment. A second process recovers: each sandbox is
 * attachable, answers and still does what it is told, or is wholly gone; recovering again finds nothing; the host is as
 * before, and a stranger next to it was not touched.
 *
 * KATA_TEST_ROUNDS says how often; KATA_TEST_SEED begins another sequence.
 */
#include "support/recover_scene.h"

struct sandbox_kill {
	struct scene *sc;
	/*
	 * False: machines are paused as soon as they run, and an agent in the manager says yes to everything. What is
	 * plugged then goes through the VM; what needs a guest is left out: NICs stay, disks are SCSI ones (which QEMU
	 * takes out without asking the guest), and there are no containers, no clones and no saved sandboxes.
	 */
	bool has_guest;
	const char *rootfs; /* an image with /bin/sleep; NULL: nobody looks into it */
	unsigned boots;     /* of so many starts one boots, the others are clones of a template; 1: all boot */
	unsigned rounds;    /* without KATA_TEST_ROUNDS */
	/* It is killed at any time of the first milliseconds of any of its first acts. */
	unsigned acts_max, act_ms_max;
};

void sandbox_kill_run(const struct sandbox_kill *k);

/*
 * A manager whose sandbox goes through every operation once is killed at each `stride`-th of the points that it passes:
 * before and after each step of each operation, of those too that an operation is made of; or at each write that SQLite
 * makes for it. Which come first is KATA_TEST_SEED (0); with KATA_TEST_ROUNDS the stride is 1.
 */
void sandbox_kill_at_every_step(const struct sandbox_kill *k, unsigned stride);
void sandbox_kill_at_every_write(const struct sandbox_kill *k, unsigned stride);
#endif
