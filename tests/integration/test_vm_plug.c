/* SPDX-License-Identifier: Apache-2.0 */
/* Disks and NICs on the real QEMU: before and after the start, together, without and with a guest that lets go. */
#include <net/if.h>
#include <sys/stat.h>

#include "integration/vm_test.h"

TestSuite(vm_plug, .timeout = 180);

#define DISKS 4

struct devices {
	kata_storage *disks[DISKS];
	kata_nic *nics[2];
};

/* raw and qcow2, virtio-blk and virtio-scsi; one of them on a backing file. */
static void make_devices(struct machine *m, struct devices *d)
{
	char *base = fixture_make_raw(&m->f, "base.raw", 1 << 20);
	char *overlay = fixture_make_qcow2(&m->f, "overlay.qcow2", 1 << 20, base);
	char *plain = fixture_make_qcow2(&m->f, "plain.qcow2", 2 << 20, NULL);
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_error *err = NULL;

	d->disks[0] = machine_disk(m, "d0", KATA_STORAGE_VIRTIO_BLK);
	d->disks[1] = machine_disk(m, "d1", KATA_STORAGE_VIRTIO_SCSI);
	c.format = KATA_STORAGE_QCOW2;
	c.id = "d2";
	c.path = overlay;
	c.backing_path = base;
	fixture_assert_ok(kata_storage_new(&c, &d->disks[2], &err), err);
	c.id = "d3";
	c.path = plain;
	c.backing_path = NULL;
	c.driver = KATA_STORAGE_VIRTIO_SCSI;
	fixture_assert_ok(kata_storage_new(&c, &d->disks[3], &err), err);
	d->nics[0] = fixture_nic("n0", "02:00:00:00:00:01");
	d->nics[1] = fixture_nic("n1", "02:00:00:00:00:02");
	free(base);
	free(overlay);
	free(plain);
}

static void free_devices(struct devices *d)
{
	for (int i = 0; i < DISKS; i++)
		kata_storage_unref(d->disks[i]);
	for (int i = 0; i < 2; i++)
		kata_nic_unref(d->nics[i]);
}

static void plug_all(struct machine *m, struct devices *d)
{
	kata_error *err = NULL;

	for (int i = 0; i < DISKS; i++)
		fixture_assert_ok(kata_vm_add_storage(m->vm, d->disks[i], NULL, &err), err);
	for (int i = 0; i < 2; i++)
		fixture_assert_ok(kata_vm_add_nic(m->vm, d->nics[i], NULL, &err), err);
}

static void assert_plugged(struct machine *m, struct devices *d)
{
	char address[32];

	for (int i = 0; i < DISKS; i++)
		cr_assert_eq(kata_storage_get_state(d->disks[i]), KATA_DEVICE_PLUGGED);
	assert_address(d->disks[0], "08/00");
	assert_address(d->disks[1], "0:0");
	assert_address(d->disks[2], "09/00");
	assert_address(d->disks[3], "0:1");
	cr_assert_eq(kata_storage_get_size_bytes(d->disks[3]), 2u << 20);
	kata_nic_get_address(d->nics[1], address, sizeof(address));
	cr_assert_str_eq(address, "0b/00");
	cr_assert_eq(kata_vm_get_storage_count(m->vm), (size_t)DISKS);
	cr_assert_eq(kata_vm_get_nic_count(m->vm), 2u);
}

Test(vm_plug, devices_added_before_the_start_are_there_after_it_and_hold_no_fd_of_ours)
{
	struct census *before;
	struct devices d;
	struct machine m;

	machine_init(&m, 0);
	machine_warm_up(&m);
	make_devices(&m, &d);
	before = fixture_census(&m.f);
	machine_build(&m, "a");
	plug_all(&m, &d);
	assert_plugged(&m, &d);
	machine_start_paused(&m);
	assert_plugged(&m, &d);
	machine_destroy(&m);
	for (int i = 0; i < DISKS; i++)
		cr_assert_eq(kata_storage_get_state(d.disks[i]), KATA_DEVICE_NEW);
	free_devices(&d);
	fixture_assert_census(&m.f, before, "after destroy");
	machine_deinit(&m);
}

Test(vm_plug, devices_removed_before_the_start_are_not_on_the_command_line)
{
	kata_error *err = NULL;
	struct census *before;
	struct devices d;
	struct machine m;

	machine_init(&m, 0);
	machine_warm_up(&m);
	before = fixture_census(&m.f);
	make_devices(&m, &d);
	machine_build(&m, "a");
	plug_all(&m, &d);
	fixture_assert_ok(kata_vm_remove_storage(m.vm, "d0", NULL, &err), err);
	fixture_assert_ok(kata_vm_remove_storage(m.vm, "d3", NULL, &err), err);
	fixture_assert_ok(kata_vm_remove_nic(m.vm, "n1", NULL, &err), err);
	machine_start_paused(&m);
	cr_assert_eq(kata_vm_get_storage_count(m.vm), 2u);
	/* QEMU would refuse ids and places that it has already */
	fixture_assert_ok(kata_vm_add_storage(m.vm, d.disks[0], NULL, &err), err);
	fixture_assert_ok(kata_vm_add_storage(m.vm, d.disks[3], NULL, &err), err);
	fixture_assert_ok(kata_vm_add_nic(m.vm, d.nics[1], NULL, &err), err);
	assert_plugged(&m, &d);
	machine_destroy(&m);
	free_devices(&d);
	fixture_assert_census(&m.f, before, "after destroy");
	machine_deinit(&m);
}

Test(vm_plug, devices_are_hot_plugged_into_a_paused_machine_and_cost_no_fd)
{
	struct census_scope scope = {.what = CENSUS_FDS};
	struct census *before, *after;
	struct devices d;
	struct machine m;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	make_devices(&m, &d);
	before = census_take(&scope);
	plug_all(&m, &d);
	assert_plugged(&m, &d);
	after = census_take(&scope);
	cr_assert_eq(census_count(after, "fd"), census_count(before, "fd"));
	census_free(before);
	census_free(after);
	machine_destroy(&m);
	free_devices(&d);
	machine_deinit(&m);
}

Test(vm_plug, an_unplug_that_the_guest_does_not_answer_times_out_and_the_disk_stays_until_it_does)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	kata_error *err = NULL;
	kata_storage *s;
	struct machine m;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start(&m);
	usleep(20000); /* QEMU 7.2 never repeats an unplug asked for in the first millisecond of its virtual clock */
	fixture_assert_ok(kata_vm_pause(m.vm, NULL, &err), err);
	s = machine_disk(&m, "d0", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_vm_add_storage(m.vm, s, NULL, &err), err);
	o.timeout_ms = 300;
	for (int i = 0; i < 2; i++) {
		fixture_assert_fails(kata_vm_remove_storage(m.vm, "d0", &o, &err), KATA_E_TIMEOUT, err);
		cr_assert_str_eq(kata_error_get_step(err), "unplug-storage/await-deleted");
		cr_assert_not(kata_error_is_uncertain(err));
		error_clear(&err);
		cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_PLUGGED);
	}
	fixture_assert_ok(kata_vm_resume(m.vm, NULL, &err), err);
	fixture_assert_ok(kata_vm_remove_storage(m.vm, "d0", NULL, &err), err); /* as soon as the guest has booted */
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	fixture_assert_ok(kata_vm_add_storage(m.vm, s, NULL, &err), err);
	assert_address(s, "09/00"); /* the port it was on rests */
	machine_destroy(&m);
	kata_storage_unref(s);
	machine_deinit(&m);
}

/* Until the guest's agent answers: firmware and an early kernel may miss that a device is asked back. */
static void await_guest(struct machine *m)
{
	kata_agent_builder *builder = NULL;
	kata_agent *agent = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_agent_builder_new_direct(m->f.context, &builder, &err), err);
	fixture_assert_ok(kata_agent_builder_build(builder, m->vm, NULL, NULL, &agent, &err), err);
	kata_agent_unref(agent);
	kata_agent_builder_free(builder);
}

Test(vm_plug, a_batch_plugs_and_unplugs_six_devices_of_a_guest_that_runs)
{
	kata_batch *batch = NULL;
	kata_error *err = NULL;
	struct devices d;
	struct machine m;

	machine_init(&m, 0);
	make_devices(&m, &d);
	machine_build(&m, "a");
	machine_start(&m);
	await_guest(&m);
	for (int round = 0; round < 2; round++) {
		fixture_assert_ok(kata_batch_new(m.vm, KATA_BATCH_ALL_OR_NOTHING, &batch, &err), err);
		for (int i = 0; i < DISKS; i++)
			fixture_assert_ok(kata_batch_add_storage(batch, d.disks[i], &err), err);
		for (int i = 0; i < 2; i++)
			fixture_assert_ok(kata_batch_add_nic(batch, d.nics[i], &err), err);
		fixture_assert_ok(kata_batch_run(batch, NULL, &err), err);
		kata_batch_free(batch);
		cr_assert_eq(kata_vm_get_storage_count(m.vm), (size_t)DISKS);
		fixture_assert_ok(kata_batch_new(m.vm, 0, &batch, &err), err);
		for (int i = 0; i < DISKS; i++)
			fixture_assert_ok(kata_batch_remove_storage(batch, kata_storage_get_id(d.disks[i]), &err), err);
		for (int i = 0; i < 2; i++)
			fixture_assert_ok(kata_batch_remove_nic(batch, kata_nic_get_id(d.nics[i]), &err), err);
		fixture_assert_ok(kata_batch_run(batch, NULL, &err), err);
		kata_batch_free(batch);
		cr_assert_eq(kata_vm_get_storage_count(m.vm), 0u);
		cr_assert_eq(kata_vm_get_nic_count(m.vm), 0u);
	}
	machine_destroy(&m);
	free_devices(&d);
	machine_deinit(&m);
}

Test(vm_plug, a_batch_of_which_one_fails_takes_the_others_back)
{
	kata_batch *batch = NULL;
	kata_error *err = NULL;
	kata_storage *good, *bad;
	struct machine m;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start(&m);
	good = machine_disk(&m, "good", KATA_STORAGE_VIRTIO_SCSI);
	bad = fixture_storage("bad", "/tmp", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_batch_new(m.vm, KATA_BATCH_ALL_OR_NOTHING, &batch, &err), err);
	fixture_assert_ok(kata_batch_add_storage(batch, good, &err), err);
	fixture_assert_ok(kata_batch_add_storage(batch, bad, &err), err);
	cr_assert_lt(kata_batch_run(batch, NULL, &err), 0);
	error_clear(&err);
	kata_batch_free(batch);
	cr_assert_eq(kata_vm_get_storage_count(m.vm), 0u);
	cr_assert_eq(kata_storage_get_state(good), KATA_DEVICE_NEW);
	cr_assert_eq(kata_storage_get_state(bad), KATA_DEVICE_NEW);
	machine_destroy(&m);
	kata_storage_unref(good);
	kata_storage_unref(bad);
	machine_deinit(&m);
}

Test(vm_plug, more_devices_than_slots_are_refused_and_say_how_many_there_are)
{
	kata_error *err = NULL;
	kata_storage *disks[9];
	struct machine m;
	char id[8];

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	for (int i = 0; i < 9; i++) {
		snprintf(id, sizeof(id), "d%d", i);
		disks[i] = machine_disk(&m, id, KATA_STORAGE_VIRTIO_BLK);
	}
	for (int i = 0; i < 8; i++)
		fixture_assert_ok(kata_vm_add_storage(m.vm, disks[i], NULL, &err), err);
	fixture_assert_fails(kata_vm_add_storage(m.vm, disks[8], NULL, &err), KATA_E_EXHAUSTED, err);
	cr_assert(strstr(kata_error_get_message(err), "8"), "%s", kata_error_get_message(err));
	error_clear(&err);
	machine_destroy(&m);
	for (int i = 0; i < 9; i++)
		kata_storage_unref(disks[i]);
	machine_deinit(&m);
}

Test(vm_plug, thirty_slots_hold_thirty_disks)
{
	kata_error *err = NULL;
	kata_storage *disks[30];
	kata_vm_config c;
	struct machine m;
	char id[8];

	machine_init(&m, 0);
	c = machine_config(&m);
	c.device_slots = 30;
	fixture_assert_ok(kata_vm_builder_build(m.builder, &c, NULL, NULL, &m.vm, &err), err);
	machine_start_paused(&m);
	for (int i = 0; i < 30; i++) {
		snprintf(id, sizeof(id), "d%d", i);
		disks[i] = machine_disk(&m, id, KATA_STORAGE_VIRTIO_BLK);
		fixture_assert_ok(kata_vm_add_storage(m.vm, disks[i], NULL, &err), err);
	}
	assert_address(disks[22], "1e/00");
	assert_address(disks[23], "08.1/00");
	machine_destroy(&m);
	for (int i = 0; i < 30; i++)
		kata_storage_unref(disks[i]);
	machine_deinit(&m);
}

Test(vm_plug, a_disk_behind_the_second_function_of_a_slot_can_be_unplugged_by_the_guest)
{
	kata_error *err = NULL;
	kata_storage *disks[25];
	kata_vm_config c;
	struct machine m;
	char id[8];

	machine_init(&m, 0);
	c = machine_config(&m);
	c.device_slots = 25;
	fixture_assert_ok(kata_vm_builder_build(m.builder, &c, NULL, NULL, &m.vm, &err), err);
	for (int i = 0; i < 25; i++) {
		snprintf(id, sizeof(id), "d%d", i);
		disks[i] = machine_disk(&m, id, KATA_STORAGE_VIRTIO_BLK);
	}
	for (int i = 0; i < 24; i++)
		fixture_assert_ok(kata_vm_add_storage(m.vm, disks[i], NULL, &err), err);
	machine_start(&m);
	fixture_assert_ok(kata_vm_add_storage(m.vm, disks[24], NULL, &err), err);
	assert_address(disks[24], "09.1/00");
	fixture_assert_ok(kata_vm_remove_storage(m.vm, "d23", NULL, &err), err);
	fixture_assert_ok(kata_vm_remove_storage(m.vm, "d24", NULL, &err), err);
	fixture_assert_ok(kata_vm_remove_storage(m.vm, "d0", NULL, &err), err);
	machine_destroy(&m);
	for (int i = 0; i < 25; i++)
		kata_storage_unref(disks[i]);
	machine_deinit(&m);
}

Test(vm_plug, a_tap_the_library_made_goes_with_its_nic_or_the_machine)
{
	kata_nic_config c = KATA_NIC_CONFIG_INIT;
	kata_nic *cold = NULL, *hot = NULL;
	kata_error *err = NULL;
	struct machine m;

	if (!fixture_enter_netns())
		cr_skip_test("no network namespace of our own can be made here");
	machine_init(&m, 0);
	machine_build(&m, "a");
	c.type = KATA_NIC_TAP;
	c.id = "cold";
	c.tap_name = "kt-cold";
	fixture_assert_ok(kata_nic_new(&c, &cold, &err), err);
	c.id = "hot";
	c.tap_name = "kt-hot";
	c.mtu = 1400;
	fixture_assert_ok(kata_nic_new(&c, &hot, &err), err);
	fixture_assert_ok(kata_vm_add_nic(m.vm, cold, NULL, &err), err);
	cr_assert_neq(if_nametoindex("kt-cold"), 0u);
	machine_start(&m);
	fixture_assert_ok(kata_vm_add_nic(m.vm, hot, NULL, &err), err);
	cr_assert_neq(if_nametoindex("kt-hot"), 0u);
	fixture_assert_ok(kata_vm_remove_nic(m.vm, "hot", NULL, &err), err);
	cr_assert_eq(if_nametoindex("kt-hot"), 0u);
	machine_destroy(&m);
	for (int i = 0; i < 200 && if_nametoindex("kt-cold"); i++) /* the kernel removes it after QEMU's exit */
		usleep(10000);
	cr_assert_eq(if_nametoindex("kt-cold"), 0u);
	kata_nic_unref(cold);
	kata_nic_unref(hot);
	machine_deinit(&m);
}

static void assert_refused(struct machine *m, kata_storage *s, int status, const char *word)
{
	kata_error *err = NULL;

	fixture_assert_fails(kata_vm_add_storage(m->vm, s, NULL, &err), status, err);
	cr_assert(strstr(kata_error_get_message(err), word), "%s", kata_error_get_message(err));
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	kata_error_free(err);
	kata_storage_unref(s);
}

Test(vm_plug, disks_that_are_none_are_refused_before_and_after_the_start)
{
	struct machine m;
	char *fifo, *base, *overlay;

	machine_init(&m, 0);
	machine_build(&m, "a");
	fifo = fixture_path(&m.f, "fifo");
	cr_assert_eq(mkfifo(fifo, 0600), 0);
	base = fixture_make_raw(&m.f, "base.raw", 1 << 20);
	overlay = fixture_make_qcow2(&m.f, "overlay.qcow2", 1 << 20, base);
	for (int round = 0; round < 2; round++) {
		kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
		kata_storage *s = NULL;

		assert_refused(&m, fixture_storage("x", "/nonexistent/disk", KATA_STORAGE_VIRTIO_BLK), KATA_E_NOT_FOUND,
			       "/nonexistent/disk");
		assert_refused(&m, fixture_storage("x", "/tmp", KATA_STORAGE_VIRTIO_BLK), KATA_E_INVALID, "/tmp");
		assert_refused(&m, fixture_storage("x", fifo, KATA_STORAGE_VIRTIO_SCSI), KATA_E_INVALID, "fifo");
		c.id = "x";
		c.path = overlay;
		c.format = KATA_STORAGE_QCOW2;
		cr_assert_eq(kata_storage_new(&c, &s, NULL), 0);
		assert_refused(&m, s, KATA_E_INVALID, "back");
		if (!round)
			machine_start_paused(&m);
	}
	free(fifo);
	free(base);
	free(overlay);
	machine_destroy(&m);
	machine_deinit(&m);
}

Test(vm_plug, a_read_only_disk_is_not_opened_for_writing)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_error *err = NULL;
	kata_storage *s = NULL;
	struct machine m;
	char *path;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	path = fixture_make_raw(&m.f, "ro.raw", 1 << 20);
	chmod(path, 0444);
	c.id = "ro";
	c.path = path;
	c.flags = KATA_STORAGE_READ_ONLY;
	fixture_assert_ok(kata_storage_new(&c, &s, &err), err);
	fixture_assert_ok(kata_vm_add_storage(m.vm, s, NULL, &err), err);
	machine_destroy(&m);
	kata_storage_unref(s);
	free(path);
	machine_deinit(&m);
}

Test(vm_plug, qemu_killed_during_a_plug_ends_it_with_gone_and_frees_the_disk)
{
	kata_error *err = NULL;
	kata_op *op = NULL;
	kata_storage *s;
	struct machine m;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	s = machine_disk(&m, "d0", KATA_STORAGE_VIRTIO_BLK);
	kill((pid_t)kata_vm_get_pid(m.vm), SIGSTOP);
	fixture_assert_ok(kata_vm_add_storage_begin(m.vm, s, NULL, &op, &err), err);
	usleep(50000); /* whichever step it is at by then */
	kill((pid_t)kata_vm_get_pid(m.vm), SIGKILL);
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_GONE, err);
	error_clear(&err);
	kata_op_unref(op);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	machine_destroy(&m);
	kata_storage_unref(s);
	machine_deinit(&m);
}

/* Of one VM the library itself sees it; of two only QEMU's locks do. */
Test(vm_plug, a_file_that_another_vm_has_writable_is_busy_and_named)
{
	kata_storage *first, *second;
	kata_error *err = NULL;
	kata_vm *other;
	struct machine m;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	other = m.vm;
	machine_build(&m, "b");
	machine_start_paused(&m);
	first = machine_disk(&m, "same", KATA_STORAGE_VIRTIO_BLK);
	second = machine_disk(&m, "same", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_vm_add_storage(other, first, NULL, &err), err);
	fixture_assert_fails(kata_vm_add_storage(m.vm, second, NULL, &err), KATA_E_BUSY, err);
	cr_assert_not_null(strstr(error_text(err), "storage 'same': another process or VM has "), "%s",
			   error_text(err));
	cr_assert_not_null(strstr(error_text(err), "same.raw"), "%s", error_text(err));
	cr_assert_not_null(kata_error_get_hint(err));
	error_clear(&err);
	machine_destroy(&m);
	m.vm = other;
	machine_destroy(&m);
	kata_storage_unref(first);
	kata_storage_unref(second);
	machine_deinit(&m);
}
