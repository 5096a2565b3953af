/* SPDX-License-Identifier: Apache-2.0 */
/* The process that drives a VM is killed at every step; the VMM is the stand-in, which outlives its starter as QEMU
 * does. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <unistd.h>

#include "support/vm_kill.h"

static void kill_with(const char *script, void (*kill_it)(const struct vm_kill *k, const char *operation),
		      const char *operation)
{
	struct fixture f;
	struct vm_kill k = {.f = &f};
	char *binary, *kernel;

	k.tap = access("/dev/net/tun", R_OK | W_OK) == 0 && fixture_enter_netns();
	fixture_init(&f, false, 0);
	binary = fixture_make_standin(&f, script);
	kernel = fixture_make_kernel(&f);
	k.binary = binary;
	k.kernel = kernel;
	k.initrd = kernel;
	kill_it(&k, operation);
	free(binary);
	free(kernel);
	fixture_deinit(&f);
}

#define KILLED_DURING(name, operation)                                                                                 \
	Test(vm_kill, killed_during_##name, .timeout = 300)                                                            \
	{                                                                                                              \
		kill_with(NULL, vm_kill_everywhere, operation);                                                        \
	}
KILLED_DURING(start, "start")
KILLED_DURING(cold_plug_of_a_disk, "cold-plug-disk")
KILLED_DURING(plug_of_a_disk, "plug-disk")
KILLED_DURING(unplug_of_a_disk, "unplug-disk")
KILLED_DURING(plug_of_a_nic, "plug-nic")
KILLED_DURING(unplug_of_a_nic, "unplug-nic")
KILLED_DURING(resume, "resume")
KILLED_DURING(release, "release")
KILLED_DURING(rebuild, "rebuild")
KILLED_DURING(rebuild_that_compares, "rebuild-compared")
KILLED_DURING(destroy, "destroy")
KILLED_DURING(save, "save")
KILLED_DURING(save_of_shared_memory, "save-shared")
KILLED_DURING(restore, "restore")

static void kill_while_saving(const struct vm_kill *k, const char *operation)
{
	vm_kill_while_saving(k);
}

Test(vm_kill, whoever_takes_over_what_was_being_saved_finds_it_running, .timeout = 120)
{
	kill_with(NULL, kill_while_saving, "save-recorded");
}

Test(vm_kill, killed_while_qemu_is_asked_what_it_can_do, .timeout = 60)
{
	kill_with("on start silence\n", vm_kill_in_the_probe, "probe");
}
