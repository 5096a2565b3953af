/* SPDX-License-Identifier: Apache-2.0 */
/* The process that drives a VM is killed at every step; the VMM is the real QEMU, its guest paused. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <unistd.h>

#include "support/vm_kill.h"
#include "vm_test.h"

static void while_saving(const struct vm_kill *k, const char *operation)
{
	vm_kill_while_saving(k);
}

static void kill_with(void (*kill_it)(const struct vm_kill *k, const char *operation), const char *operation)
{
	struct machine image;
	struct fixture f;
	struct vm_kill k = {.f = &f, .binary = "/usr/bin/qemu-system-x86_64"};

	if (access(k.binary, X_OK))
		cr_skip_test("no /usr/bin/qemu-system-x86_64: install qemu-system-x86");
	find_image(&image);
	k.kernel = image.kernel;
	k.initrd = image.initrd;
	k.tap = access("/dev/net/tun", R_OK | W_OK) == 0 && fixture_enter_netns();
	fixture_init(&f, false, 0);
	kill_it(&k, operation);
	fixture_deinit(&f);
}

#define KILLED_DURING(name, operation)                                                                                 \
	Test(vm_kill, killed_during_##name, .timeout = 300)                                                            \
	{                                                                                                              \
		kill_with(vm_kill_everywhere, operation);                                                              \
	}
KILLED_DURING(start, "start")
KILLED_DURING(plug_of_a_disk, "plug-disk")
KILLED_DURING(unplug_of_a_disk, "unplug-disk")
KILLED_DURING(plug_of_a_nic, "plug-nic")
KILLED_DURING(release, "release")
KILLED_DURING(rebuild, "rebuild")
KILLED_DURING(destroy, "destroy")
KILLED_DURING(restore, "restore")

/* The guest must have booted, to let go of it, in most rounds. */
Test(vm_kill, killed_during_unplug_of_a_nic, .timeout = 300)
{
	if (!getenv("KATA_TEST_ROUNDS"))
		cr_skip_test("boots a guest for each point, nearly a minute: KATA_TEST_ROUNDS=1 runs it");
	kill_with(vm_kill_everywhere, "unplug-nic");
}

Test(vm_kill, whoever_takes_over_what_was_being_saved_finds_it_running, .timeout = 300)
{
	kill_with(while_saving, "save-recorded");
}
