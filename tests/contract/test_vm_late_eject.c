/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the QEMU driver makes of a guest that lets go of a device late, twice, or without being asked; and which port it
 * gives out next. On the stand-in, whose guest lets go at the next command after one that it was told to miss.
 */
#include <time.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/fixture.h"

/* After the last eject of a guest that nothing is asked of, until its port is used again: 50 ms x 10 under TCG. */
#define HOLD_NS UINT64_C(500000000)

static struct fixture f;
static char *standin, *kernel;
static kata_vm_builder *builder;
static kata_vm *vm;
static kata_error *err;

static void set_up(void)
{
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;

	fixture_init(&f, true, 0);
	standin = fixture_make_standin(&f, "");
	kernel = fixture_make_kernel(&f);
	options.binary = standin;
	options.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(f.context, &options, &builder, &err), err);
}

static void tear_down(void)
{
	error_clear(&err);
	kata_vm_unref(vm);
	kata_vm_builder_free(builder);
	free(standin);
	free(kernel);
	fixture_deinit(&f);
}

TestSuite(vm_late_eject, .init = set_up, .fini = tear_down, .timeout = 60);

static void start(uint32_t slots, const char *script)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	fixture_set_script(standin, script);
	config.id = "vm";
	config.kernel = kernel;
	config.initrd = kernel;
	config.device_slots = slots;
	fixture_assert_ok(kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err), err);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
}

static kata_storage *plugged_disk(const char *id, kata_storage_driver driver)
{
	char name[32], *path;
	kata_storage *s;

	snprintf(name, sizeof(name), "%s.raw", id);
	path = fixture_make_raw(&f, name, 1 << 20);
	s = fixture_storage(id, path, driver);
	free(path);
	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	return s;
}

static void remove_disk(const char *id)
{
	fixture_assert_ok(kata_vm_remove_storage(vm, id, NULL, &err), err);
}

static void remove_fails(const char *id, int status)
{
	const kata_op_options timely = {sizeof(timely), 300};

	fixture_assert_fails(kata_vm_remove_storage(vm, id, &timely, &err), status, err);
	error_clear(&err);
}

/* The event follows the reply to the first, so it is in before the reply to the second. */
static void let_guest_go_on(void)
{
	fixture_assert_ok(kata_vm_pause(vm, NULL, &err), err);
	fixture_assert_ok(kata_vm_resume(vm, NULL, &err), err);
	fixture_assert_ok(kata_vm_pause(vm, NULL, &err), err);
	fixture_assert_ok(kata_vm_resume(vm, NULL, &err), err);
}

static uint32_t slots_free(void)
{
	kata_vm_stats stats = {.size = sizeof(stats)};

	fixture_assert_ok(kata_vm_get_stats(vm, &stats, &err), err);
	return stats.slots_free;
}

Test(vm_late_eject, a_disk_that_goes_after_its_unplug_gave_up_is_diverged_until_it_is_removed_again)
{
	kata_storage *s;

	start(2, "on device_del#1 no-event\n");
	s = plugged_disk("disk", KATA_STORAGE_VIRTIO_BLK);
	remove_fails("disk", KATA_E_TIMEOUT);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_PLUGGED);
	let_guest_go_on();
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_DIVERGED);
	cr_assert_eq(kata_vm_get_storage_count(vm), 1u);
	cr_assert_eq(slots_free(), 1u);
	remove_disk("disk");
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	cr_assert_eq(slots_free(), 2u);
	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	kata_storage_unref(s);
}

Test(vm_late_eject, a_diverged_disk_is_in_the_record_and_gone_after_the_rebuild)
{
	kata_storage *s;
	char *json = NULL;

	start(2, "on device_del#1 no-event\n");
	s = plugged_disk("disk", KATA_STORAGE_VIRTIO_BLK);
	remove_fails("disk", KATA_E_TIMEOUT);
	let_guest_go_on();
	kata_storage_unref(s);
	fixture_assert_ok(kata_vm_release(vm, NULL, &json, &err), err);
	cr_assert(strstr(json, "diverged"), "%s", json);
	kata_vm_unref(vm);
	vm = NULL;
	fixture_assert_ok(kata_vm_builder_build_from_released(builder, json, strlen(json), NULL, &vm, &err), err);
	free(json);
	cr_assert_eq(kata_vm_get_storage_count(vm), 0u);
	s = plugged_disk("disk", KATA_STORAGE_VIRTIO_BLK); /* nothing of it is left on its port */
	kata_storage_unref(s);
}

/* QEMU 7.2 says so from the eject on, and DEVICE_DELETED up to 0.1 s later. */
Test(vm_late_eject, that_qemu_does_not_know_a_disk_any_more_does_not_count_before_the_event)
{
	kata_storage *s;

	start(2, "on device_del#1 error \"Device 's-disk' not found\"\n");
	s = plugged_disk("disk", KATA_STORAGE_VIRTIO_BLK);
	remove_fails("disk", KATA_E_TIMEOUT);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_PLUGGED);
	remove_disk("disk");
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	kata_storage_unref(s);
}

Test(vm_late_eject, an_event_on_a_connection_that_broke_is_not_waited_for)
{
	kata_storage *s;

	start(2, "on device_del#1 hang-up\n");
	s = plugged_disk("disk", KATA_STORAGE_VIRTIO_BLK);
	cr_assert_lt(kata_vm_remove_storage(vm, "disk", NULL, &err), 0);
	error_clear(&err);
	remove_disk("disk");
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	kata_storage_unref(s);
}

/* ---- ports */

static void assert_at(const kata_storage *s, const char *expected)
{
	char address[16];

	kata_storage_get_address(s, address, sizeof(address));
	cr_assert_str_eq(address, expected);
}

/* How long a plug of another disk waits for its port. */
static uint64_t plug_waits_ns(const char *id, kata_storage **ret)
{
	kata_timeline_entry e = {.size = sizeof(e)};
	char name[32], *path;
	kata_op *op = NULL;
	uint64_t ns;

	snprintf(name, sizeof(name), "%s.raw", id);
	path = fixture_make_raw(&f, name, 1 << 20);
	*ret = fixture_storage(id, path, KATA_STORAGE_VIRTIO_BLK);
	free(path);
	fixture_assert_ok(kata_vm_add_storage_begin(vm, *ret, NULL, &op, &err), err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	fixture_assert_ok(kata_op_get_timeline_entry(op, 0, &e, &err), err);
	cr_assert_str_eq(e.step, "reserve-slot");
	ns = e.end_ns - e.start_ns;
	kata_op_unref(op);
	return ns;
}

Test(vm_late_eject, the_port_that_was_freed_longest_ago_is_used_next_and_at_once)
{
	kata_storage *a, *b, *c;

	start(3, "");
	a = plugged_disk("a", KATA_STORAGE_VIRTIO_BLK);
	b = plugged_disk("b", KATA_STORAGE_VIRTIO_BLK);
	assert_at(a, "08/00");
	assert_at(b, "09/00");
	remove_disk("a");
	remove_disk("b"); /* the guest has answered this: so it has none left for a's */
	cr_assert_lt(plug_waits_ns("c", &c), HOLD_NS);
	assert_at(c, "0a/00");
	kata_storage_unref(a);
	cr_assert_lt(plug_waits_ns("d", &a), HOLD_NS);
	assert_at(a, "08/00");
	kata_storage_unref(a);
	kata_storage_unref(b);
	kata_storage_unref(c);
}

Test(vm_late_eject, the_last_free_port_is_held_for_a_while_after_its_device_left)
{
	kata_storage *a, *b;
	struct timespec begin, end;

	start(1, "");
	a = plugged_disk("a", KATA_STORAGE_VIRTIO_BLK);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	remove_disk("a"); /* the hold begins somewhere in here, and the plug may come late on a busy machine */
	plug_waits_ns("b", &b);
	clock_gettime(CLOCK_MONOTONIC, &end);
	cr_assert_geq((uint64_t)(end.tv_sec - begin.tv_sec) * 1000000000u + (uint64_t)end.tv_nsec -
			      (uint64_t)begin.tv_nsec,
		      HOLD_NS);
	assert_at(b, "08/00");
	kata_storage_unref(a);
	kata_storage_unref(b);
}

Test(vm_late_eject, a_plug_that_waits_for_its_port_goes_on_with_the_guests_answer_to_a_later_unplug)
{
	kata_op_options patient = {sizeof(patient), 20000};
	kata_storage *a, *b, *c;
	kata_op *op = NULL;

	/* The guest is slow with b: it lets go 2 s later, when it is asked again. */
	start(2, "on device_del#2 no-event\n");
	a = plugged_disk("a", KATA_STORAGE_VIRTIO_BLK);
	b = plugged_disk("b", KATA_STORAGE_VIRTIO_BLK);
	remove_disk("a");
	fixture_assert_ok(kata_vm_remove_storage_begin(vm, "b", &patient, &op, &err), err);
	cr_assert_geq(plug_waits_ns("c", &c), 2 * HOLD_NS);
	assert_at(c, "08/00");
	fixture_assert_ok(kata_op_wait(op, &err), err);
	kata_op_unref(op);
	kata_storage_unref(a);
	kata_storage_unref(b);
	kata_storage_unref(c);
}

Test(vm_late_eject, a_plug_that_waits_for_its_port_can_be_cancelled)
{
	kata_storage *a;
	kata_op *op = NULL;

	start(1, "");
	a = plugged_disk("a", KATA_STORAGE_VIRTIO_BLK);
	remove_disk("a");
	fixture_assert_ok(kata_vm_add_storage_begin(vm, a, NULL, &op, &err), err);
	kata_op_cancel(op);
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_CANCELLED, err);
	kata_op_unref(op);
	cr_assert_eq(kata_storage_get_state(a), KATA_DEVICE_NEW);
	cr_assert_eq(slots_free(), 1u);
	kata_storage_unref(a);
}

Test(vm_late_eject, a_plug_that_waits_for_its_port_ends_with_the_machine)
{
	kata_storage *a;
	kata_op *op = NULL;

	start(1, "");
	a = plugged_disk("a", KATA_STORAGE_VIRTIO_BLK);
	remove_disk("a");
	fixture_assert_ok(kata_vm_add_storage_begin(vm, a, NULL, &op, &err), err);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	cr_assert_lt(kata_op_wait(op, &err), 0);
	error_clear(&err);
	kata_op_unref(op);
	cr_assert_eq(kata_storage_get_state(a), KATA_DEVICE_NEW);
	kata_storage_unref(a);
}

Test(vm_late_eject, luns_are_used_again_at_once)
{
	kata_storage *a, *b;

	start(1, "");
	a = plugged_disk("a", KATA_STORAGE_VIRTIO_BLK);
	remove_disk("a");
	kata_storage_unref(a);
	a = plugged_disk("a", KATA_STORAGE_VIRTIO_SCSI);
	b = plugged_disk("b", KATA_STORAGE_VIRTIO_SCSI); /* a LUN that no port has the number of */
	remove_disk("b");
	kata_storage_unref(b);
	b = plugged_disk("b", KATA_STORAGE_VIRTIO_SCSI);
	assert_at(b, "0:1");
	kata_storage_unref(a);
	kata_storage_unref(b);
}
