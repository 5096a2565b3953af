/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VM contract on real QEMU and the real guest: the cases where the emulated machine has a say. Two kinds: one whose
 * guest nobody waits for (an emulated boot is what costs), for what needs no consent of the guest; and one that has
 * booted, for the unplugs.
 */
#include "support/vm_contract.h"
#include "support/vm_stress.h"
#include "vm_test.h"

static struct machine image;

static kata_vm_builder *new_qemu_builder(struct fixture *f)
{
	kata_vm_builder *builder = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_builder_new_qemu(f->context, NULL, &builder, &err), err);
	return builder;
}

static void configure(struct fixture *f, kata_vm_config *config)
{
	config->kernel = image.kernel;
	config->initrd = image.initrd;
	config->memory_mib = 128;
}

static void kill_qemu(kata_vm *vm)
{
	cr_assert_gt(kata_vm_get_pid(vm), 1);
	cr_assert_eq(kill((pid_t)kata_vm_get_pid(vm), SIGKILL), 0);
}

/* The guest is up when its agent answers. */
static void await_agent(struct fixture *f, kata_vm *vm)
{
	kata_agent_builder *builder = NULL;
	kata_agent *agent = NULL;
	kata_error *err = NULL;
	char *json = NULL;

	fixture_assert_ok(kata_agent_builder_new_direct(f->context, &builder, &err), err);
	fixture_assert_ok(kata_agent_builder_build(builder, vm, NULL, NULL, &agent, &err), err);
	fixture_assert_ok(kata_agent_release(agent, &json, &err), err);
	free(json);
	kata_agent_unref(agent);
	kata_agent_builder_free(builder);
}

static const struct vm_kind unbooted = {
	.name = "qemu, its guest not waited for",
	.new_builder = new_qemu_builder,
	.configure = configure,
	.end = kill_qemu,
	.patience_ms = 20000,
	.opens_files = true,
};
static const struct vm_kind booted = {
	.name = "qemu and its guest",
	.new_builder = new_qemu_builder,
	.configure = configure,
	.end = kill_qemu,
	.await_guest = await_agent,
	.patience_ms = 30000,
	.opens_files = true,
};

static void need_image(void)
{
	if (access("/usr/bin/qemu-system-x86_64", X_OK))
		cr_skip_test("no /usr/bin/qemu-system-x86_64: install qemu-system-x86");
	find_image(&image);
}

TestSuite(vm_contract, .init = need_image, .timeout = 300);

#define UNBOOTED(name)                                                                                                 \
	Test(vm_contract, name)                                                                                        \
	{                                                                                                              \
		vm_contract_##name(&unbooted);                                                                         \
	}
#define BOOTED(name)                                                                                                   \
	Test(vm_contract, name)                                                                                        \
	{                                                                                                              \
		vm_contract_##name(&booted);                                                                           \
	}

UNBOOTED(a_call_in_a_forbidden_state_says_current_and_required)
UNBOOTED(a_machine_that_ends_by_itself_is_noticed)
UNBOOTED(cold_and_hot_plug_give_the_same_kind_of_result)
UNBOOTED(a_plugged_file_is_refused)
UNBOOTED(scsi_disks_take_no_device_slot)
UNBOOTED(a_batch_that_does_not_fit_touches_nothing)
UNBOOTED(a_paused_machine_is_rebuilt_paused)
UNBOOTED(the_record_of_a_destroyed_machine_is_refused)
UNBOOTED(a_failed_start_leaves_the_host_as_before)
UNBOOTED(a_failed_cold_plug_leaves_the_host_as_before)
UNBOOTED(a_failed_plug_of_a_scsi_disk_leaves_the_host_as_before)
UNBOOTED(a_failed_pause_leaves_the_machine_running)
UNBOOTED(a_failed_resume_leaves_the_machine_paused)
UNBOOTED(a_failed_destroy_can_be_called_again)

BOOTED(a_slot_is_free_again_after_the_unplug)
BOOTED(an_all_or_nothing_batch_undoes_what_succeeded)
BOOTED(a_released_machine_is_rebuilt_with_its_devices)
BOOTED(a_failed_plug_of_a_disk_leaves_the_host_as_before)
BOOTED(a_failed_plug_of_a_nic_leaves_the_host_as_before)
BOOTED(a_failed_unplug_of_a_disk_leaves_it_there_or_diverged)
BOOTED(a_failed_unplug_of_a_nic_leaves_it_there_or_diverged)
BOOTED(a_failed_release_leaves_the_machine_ours)
BOOTED(a_failed_rebuild_can_be_tried_again)

Test(vm_contract, eight_threads_plug_and_unplug_sixteen_devices_of_a_guest)
{
	struct vm_world w;

	world_open(&w, &booted, 16);
	world_start(&w);
	vm_stress_plug_and_unplug(&w.f, w.vm, 8, 5);
	world_close(&w);
}

/* Each plug finds but ports that were freed just now. A disk that a late eject takes is diverged when it is looked at.
 */
#define BUSY_THREADS 8
#define BUSY_ROUNDS 4

struct busy {
	kata_vm *vm;
	kata_storage *disks[BUSY_THREADS];
};

static void replace_disk(void *user, unsigned index)
{
	struct busy *b = user;
	kata_storage *s = b->disks[index];
	kata_error *e = NULL;

	for (int i = 0; i < BUSY_ROUNDS; i++) {
		if (kata_vm_add_storage(b->vm, s, NULL, &e) < 0) {
			vm_stress_note_failure("add_storage", e);
			return;
		}
		usleep(50000); /* in which the guest ejects */
		if (kata_storage_get_state(s) != KATA_DEVICE_PLUGGED)
			vm_stress_note_failure("a disk did not stay plugged", NULL);
		if (kata_vm_remove_storage(b->vm, kata_storage_get_id(s), NULL, &e) < 0) {
			vm_stress_note_failure("remove_storage", e);
			return;
		}
	}
}

Test(vm_contract, a_guest_with_no_port_to_spare_takes_no_disk_for_one_that_it_was_asked_to_eject_before)
{
	struct busy b;
	struct vm_world w;
	char id[8];

	world_open(&w, &booted, BUSY_THREADS);
	world_start(&w);
	b.vm = w.vm;
	for (int i = 0; i < BUSY_THREADS; i++) {
		snprintf(id, sizeof(id), "d%d", i);
		b.disks[i] = world_disk(&w, id, KATA_STORAGE_VIRTIO_BLK);
	}
	vm_stress_run_threads(BUSY_THREADS, replace_disk, &b);
	vm_stress_assert_no_failure();
	for (int i = 0; i < BUSY_THREADS; i++)
		kata_storage_unref(b.disks[i]);
	world_close(&w);
}
