/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine that is taken over as it was released: what is asked of QEMU then, what is not, and when all of it is. On
 * the stand-in, to whose monitor the test speaks while nobody drives the machine, as a guest would act of its own
 * accord.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/fixture.h"
#include "support/record_edit.h"

static struct fixture f;
static char *standin, *kernel, *json;
static kata_vm_builder *builder;
static kata_vm *vm;
static kata_storage *disk, *lun;
static kata_nic *nic;
static kata_error *err;
static bool asked_uuid, compared;

static void make_builder(const char *script)
{
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;

	fixture_init(&f, true, 0);
	standin = fixture_make_standin(&f, script);
	kernel = fixture_make_kernel(&f);
	options.binary = standin;
	options.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(f.context, &options, &builder, &err), err);
}

static kata_vm *start(const char *id)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_vm *started = NULL;

	config.id = id;
	config.kernel = kernel;
	config.initrd = kernel;
	config.device_slots = 4;
	fixture_assert_ok(kata_vm_builder_build(builder, &config, NULL, NULL, &started, &err), err);
	fixture_assert_ok(kata_vm_start(started, NULL, &err), err);
	return started;
}

static kata_storage *plug(const char *id, const char *file, kata_storage_driver driver)
{
	char *path = fixture_make_raw(&f, file, 1 << 20);
	kata_storage *s = fixture_storage(id, path, driver);

	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	free(path);
	return s;
}

/* Two disks and a NIC: ports 0 and 1, LUN 0. */
static void set_up_with(const char *script)
{
	make_builder(script);
	vm = start("vm");
	disk = plug("d", "d.raw", KATA_STORAGE_VIRTIO_BLK);
	lun = plug("s", "s.raw", KATA_STORAGE_VIRTIO_SCSI);
	nic = fixture_nic("n", "02:00:00:00:00:01");
	fixture_assert_ok(kata_vm_add_nic(vm, nic, NULL, &err), err);
}

static void set_up(void)
{
	set_up_with("");
}

static void tear_down(void)
{
	kata_storage_unref(disk);
	kata_storage_unref(lun);
	kata_nic_unref(nic);
	kata_vm_unref(vm);
	kata_vm_builder_free(builder);
	free(standin);
	free(kernel);
	free(json);
	fixture_deinit(&f);
}

TestSuite(vm_as_released, .init = set_up, .fini = tear_down, .timeout = 60);

static void let_go(void)
{
	free(json);
	json = NULL;
	json = fixture_release(&vm);
}

static bool has_step(kata_op *op, const char *step)
{
	for (size_t i = 0; i < kata_op_get_timeline_length(op); i++) {
		kata_timeline_entry e = {.size = sizeof(e)};

		fixture_assert_ok(kata_op_get_timeline_entry(op, i, &e, &err), err);
		if (strcmp(e.step, step) == 0)
			return true;
	}
	return false;
}

/* And notes what it took. */
static void take_over(const char *record)
{
	kata_op *op = NULL;

	fixture_assert_ok(
		kata_vm_builder_build_from_released_begin(builder, record, strlen(record), NULL, &vm, &op, &err), err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	asked_uuid = has_step(op, "query-uuid");
	compared = has_step(op, "compare-devices");
	cr_assert_eq(compared, has_step(op, "verify-files"));
	kata_op_unref(op);
}

static void file_of(const char *name, char out[80])
{
	snprintf(out, 80, "%s/vm/vm/%s", f.state_dir, name);
}

static void write_file(const char *path, const char *text)
{
	FILE *file = fopen(path, "we");

	cr_assert(file && fputs(text, file) >= 0 && fclose(file) == 0, "%s cannot be written", path);
}

static void forget_copy(void)
{
	char path[80];

	file_of("released.json", path);
	cr_assert_eq(unlink(path), 0);
}

/* Any command: those before it have been answered by its end. */
static void do_something(void)
{
	fixture_assert_ok(kata_vm_pause(vm, NULL, &err), err);
	fixture_assert_ok(kata_vm_resume(vm, NULL, &err), err);
}

static kata_storage *storage_of(const char *id)
{
	kata_storage *s = NULL;

	fixture_assert_ok(kata_vm_find_storage(vm, id, &s, &err), err);
	kata_storage_unref(s); /* the VM has it */
	return s;
}

static void assert_all_there(void)
{
	cr_assert_eq(kata_vm_get_storage_count(vm), 2u);
	cr_assert_eq(kata_vm_get_nic_count(vm), 1u);
	cr_assert_eq(kata_storage_get_state(storage_of("d")), KATA_DEVICE_PLUGGED);
	cr_assert_eq(kata_storage_get_state(storage_of("s")), KATA_DEVICE_PLUGGED);
}

/* ---- what is asked */

Test(vm_as_released, nothing_is_compared_of_a_machine_that_is_as_it_was_released)
{
	for (int i = 0; i < 3; i++) {
		let_go();
		take_over(json);
		cr_assert_not(compared);
		cr_assert_not(asked_uuid);
		assert_all_there();
	}
	do_something();
	assert_all_there();
	fixture_assert_ok(kata_vm_remove_storage(vm, "d", NULL, &err), err);
	fixture_assert_ok(kata_vm_remove_nic(vm, "n", NULL, &err), err);
}

Test(vm_as_released, a_record_that_means_the_same_in_other_words_is_the_same)
{
	char *changed;

	let_go();
	changed = record_with(json, "state", "\"paused\"");
	take_over(changed);
	cr_assert_not(compared);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_RUNNING);
	free(changed);
}

Test(vm_as_released, all_is_compared_where_there_is_no_copy)
{
	let_go();
	forget_copy();
	take_over(json);
	cr_assert(compared);
	cr_assert_not(asked_uuid);
	assert_all_there();
}

/* Written by a library that did not yet name them. */
Test(vm_as_released, all_is_compared_where_the_record_does_not_name_the_files)
{
	char path[80], *older;

	let_go();
	older = record_with(json, "storages.0.file", NULL);
	file_of("released.json", path);
	write_file(path, older);
	take_over(older);
	cr_assert(compared);
	assert_all_there();
	free(older);
}

/* The record names its files as they are: those of the copy, not those that the paths lead to by now. */
Test(vm_as_released, a_file_that_is_plugged_is_not_plugged_again)
{
	char *path = fixture_path(&f, "d.raw"), *other = fixture_path(&f, "moved.raw");
	kata_storage *again;

	let_go();
	cr_assert_eq(rename(path, other), 0);
	take_over(json);
	cr_assert_not(compared);
	again = fixture_storage("again", other, KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_fails(kata_vm_add_storage(vm, again, NULL, &err), KATA_E_EXISTS, err);
	error_clear(&err);
	kata_storage_unref(again);
	free(path);
	free(other);
}

static void nothing(void)
{
}

Test(vm_as_released_elsewhere, the_uuid_is_asked_where_the_kernel_does_not_name_the_vmm, .init = nothing,
     .fini = tear_down, .timeout = 60)
{
	set_up_with("on start lost\n");
	let_go();
	take_over(json);
	cr_assert(asked_uuid);
	cr_assert_not(compared);
	assert_all_there();
}

Test(vm_as_released, the_monitor_of_another_machine_is_not_taken_for_its_own)
{
	kata_vm *other = start("other");
	char path[80], away[80], theirs[80], *its_record = NULL;

	let_go();
	file_of("qmp.sock", path);
	file_of("away.sock", away);
	snprintf(theirs, sizeof(theirs), "%s/vm/other/qmp.sock", f.state_dir);
	cr_assert_eq(rename(path, away), 0);
	cr_assert_eq(link(theirs, path), 0);
	fixture_assert_ok(kata_vm_release(other, NULL, &its_record, &err), err); /* so that its monitor answers */
	fixture_assert_fails(kata_vm_builder_build_from_released(builder, json, strlen(json), NULL, &vm, &err),
			     KATA_E_IDENTITY, err);
	cr_assert(strstr(kata_error_get_message(err), "is of another machine"), "%s", error_text(err));
	error_clear(&err);
	cr_assert_eq(rename(away, path), 0);
	take_over(json);
	kata_vm_unref(other);
	fixture_assert_ok(
		kata_vm_builder_build_from_released(builder, its_record, strlen(its_record), NULL, &other, &err), err);
	kata_vm_unref(other);
	free(its_record);
}

/* ---- the guest lets go of what it has while nobody is there to hear of it */

static void eject(const char *name)
{
	char dir[80], command[160];

	file_of("", dir);
	snprintf(command, sizeof(command), "{\"execute\":\"device_del\",\"arguments\":{\"id\":\"%s\"}}", name);
	fixture_speak_qmp(dir, command, "\"device\"");
}

Test(vm_as_released, a_disk_that_left_meanwhile_is_diverged_before_any_command_is_answered)
{
	let_go();
	eject("s-s");
	take_over(json);
	cr_assert_not(compared);
	do_something();
	cr_assert_eq(kata_storage_get_state(storage_of("s")), KATA_DEVICE_DIVERGED);
	cr_assert_eq(kata_storage_get_state(storage_of("d")), KATA_DEVICE_PLUGGED);
	fixture_assert_ok(kata_vm_remove_storage(vm, "s", NULL, &err), err);
	kata_storage_unref(lun);
	lun = plug("s", "t.raw", KATA_STORAGE_VIRTIO_SCSI);
}

Test(vm_as_released, what_left_meanwhile_can_be_removed_at_once)
{
	let_go();
	eject("s-s");
	eject("n-n");
	take_over(json);
	fixture_assert_ok(kata_vm_remove_storage(vm, "s", NULL, &err), err);
	fixture_assert_ok(kata_vm_remove_nic(vm, "n", NULL, &err), err);
	cr_assert_eq(kata_vm_get_storage_count(vm), 1u);
	cr_assert_eq(kata_vm_get_nic_count(vm), 0u);
	kata_nic_unref(nic);
	nic = fixture_nic("n", "02:00:00:00:00:01");
	fixture_assert_ok(kata_vm_add_nic(vm, nic, NULL, &err), err);
}

Test(vm_as_released, one_that_left_meanwhile_and_was_not_noticed_is_noticed_by_the_next)
{
	let_go();
	eject("s-s");
	take_over(json);
	let_go(); /* at once; on a busy machine it is too late for that */
	if (!strstr(json, "diverged")) {
		take_over(json);
		cr_assert_not(compared);
		do_something();
		cr_assert_eq(kata_storage_get_state(storage_of("s")), KATA_DEVICE_DIVERGED);
		let_go();
	}
	cr_assert(strstr(json, "diverged"), "%s", json);
	eject("n-n");
	take_over(json);
	cr_assert(compared);
	cr_assert_eq(kata_vm_get_storage_count(vm), 1u);
	cr_assert_eq(kata_vm_get_nic_count(vm), 0u);
}

/* ---- a machine that has what its record does not */

/* As if its owner had been killed: it names a process of another boot. */
static void owner_dies(void)
{
	char path[80], text[512] = "", *half, *whole;
	FILE *file;

	file_of("owner.json", path);
	file = fopen(path, "re");
	cr_assert_gt(fread(text, 1, sizeof(text) - 1, file), 0u);
	fclose(file);
	half = record_with(text, "pid", "4711");
	whole = record_with(half, "boot_id", "\"00000000-0000-4000-8000-000000000000\"");
	write_file(path, whole);
	free(half);
	free(whole);
}

Test(vm_as_released, a_plug_of_a_dead_owner_that_the_guest_holds_on_to_does_not_keep_the_machine_from_its_next_owners)
{
	kata_nic *more[2] = {fixture_nic("m0", NULL), fixture_nic("m1", NULL)};
	char dir[80];

	fixture_assert_ok(kata_vm_pause(vm, NULL, &err), err); /* a guest that stands still lets go of nothing */
	let_go();
	file_of("", dir);
	fixture_speak_qmp(dir,
			  "{\"execute\":\"netdev_add\",\"arguments\":{\"type\":\"user\",\"id\":\"t2\"}}\n"
			  "{\"execute\":\"device_add\",\"arguments\":{\"driver\":\"virtio-net-pci\",\"id\":\"n-stray\","
			  "\"netdev\":\"t2\",\"mac\":\"02:00:00:00:00:09\",\"bus\":\"p2\"},\"id\":7777}",
			  "7777");
	owner_dies();
	forget_copy();
	take_over(json);
	cr_assert(compared);
	for (int i = 0; i < 2; i++) {
		let_go();
		take_over(json);
		cr_assert(compared);
		assert_all_there();
	}
	fixture_assert_ok(kata_vm_add_nic(vm, more[0], NULL, &err), err); /* not on the stray's port */
	fixture_assert_fails(kata_vm_add_nic(vm, more[1], NULL, &err), KATA_E_EXHAUSTED, err);
	error_clear(&err);
	fixture_assert_ok(kata_vm_resume(vm, NULL, &err), err);
	do_something(); /* it goes, and its port is cleared */
	do_something();
	fixture_assert_ok(kata_vm_add_nic(vm, more[1], NULL, &err), err);
	let_go();
	take_over(json);
	cr_assert_not(compared);
	kata_nic_unref(more[0]);
	kata_nic_unref(more[1]);
}
