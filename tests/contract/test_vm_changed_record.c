/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A record that is whole and agrees with itself, but was changed on its way: the rebuild compares it with the copy in
 * the VM's directory, or where there is none (its owner died) with what QEMU has. On the stand-in, whose fds are real.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/fixture.h"
#include "support/record_edit.h"

static struct fixture f;
static char *standin, *kernel, *json;
static kata_vm_builder *builder;
static kata_vm *vm;
static kata_error *err;

static void add_disk(const char *id, char *take_path, char *take_backing, kata_storage_driver driver)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_storage *s = NULL;

	c.id = id;
	c.path = take_path;
	c.driver = driver;
	c.format = take_backing ? KATA_STORAGE_QCOW2 : KATA_STORAGE_RAW;
	c.backing_path = take_backing;
	fixture_assert_ok(kata_storage_new(&c, &s, &err), err);
	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	kata_storage_unref(s);
	free(take_path);
	free(take_backing);
}

static void add_nic(const char *id, const char *mac, const char *tap)
{
	kata_nic_config c = KATA_NIC_CONFIG_INIT;
	kata_nic *n = NULL;

	c.id = id;
	c.mac = mac;
	c.type = tap ? KATA_NIC_TAP : KATA_NIC_USER;
	c.tap_name = tap;
	fixture_assert_ok(kata_nic_new(&c, &n, &err), err);
	fixture_assert_ok(kata_vm_add_nic(vm, n, NULL, &err), err);
	kata_nic_unref(n);
}

static void let_go(void)
{
	free(json);
	json = NULL;
	json = fixture_release(&vm);
}

static void build_and_start(void)
{
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	fixture_init(&f, true, 0);
	standin = fixture_make_standin(&f, "");
	kernel = fixture_make_kernel(&f);
	options.binary = standin;
	options.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(f.context, &options, &builder, &err), err);
	config.id = "vm";
	config.kernel = kernel;
	config.initrd = kernel;
	config.device_slots = 4;
	fixture_assert_ok(kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err), err);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
}

static void set_up(void)
{
	char *base, *overlay;

	build_and_start();
	add_disk("d", fixture_make_raw(&f, "d.raw", 1 << 20), NULL, KATA_STORAGE_VIRTIO_BLK);
	base = fixture_make_raw(&f, "base.raw", 1 << 20);
	overlay = fixture_make_qcow2(&f, "s.qcow2", 1 << 20, base);
	add_disk("s", overlay, base, KATA_STORAGE_VIRTIO_SCSI);
	add_nic("n", "02:00:00:00:00:01", NULL);
	let_go();
}

static void tear_down(void)
{
	if (!vm)
		fixture_assert_ok(kata_vm_builder_build_from_released(builder, json, strlen(json), NULL, &vm, &err),
				  err);
	kata_vm_unref(vm);
	kata_vm_builder_free(builder);
	free(standin);
	free(kernel);
	free(json);
	fixture_deinit(&f);
}

TestSuite(vm_changed_record, .init = set_up, .fini = tear_down, .timeout = 60);

static void forget_copy(void)
{
	char path[80];

	snprintf(path, sizeof(path), "%s/vm/vm/released.json", f.state_dir);
	cr_assert_eq(unlink(path), 0);
}

static void assert_refused(const char *changed, int status, const char *word)
{
	fixture_assert_fails(kata_vm_builder_build_from_released(builder, changed, strlen(changed), NULL, &vm, &err),
			     status, err);
	cr_assert(strstr(kata_error_get_message(err), word), "'%s' is not in: %s", word, kata_error_get_message(err));
	cr_assert_null(vm);
	error_clear(&err);
}

static void assert_edit_refused(const char *path, const char *value, int status, const char *word)
{
	char *changed = record_with(json, path, value);

	assert_refused(changed, status, word);
	free(changed);
}

static char *file_value(const char *name)
{
	char *path = fixture_make_raw(&f, name, 1 << 20), *value = malloc(strlen(path) + 3);

	snprintf(value, strlen(path) + 3, "\"%s\"", path);
	free(path);
	return value;
}

/* Another slot agrees with itself only with the address that follows from it. */
static char *with_slot(const char *list, int slot, const char *address)
{
	char path[64], value[16], *half, *whole;

	snprintf(path, sizeof(path), "%s.0.slot", list);
	snprintf(value, sizeof(value), "%d", slot);
	half = record_with(json, path, value);
	snprintf(path, sizeof(path), "%s.0.device.address", list);
	snprintf(value, sizeof(value), "\"%s\"", address);
	whole = record_with(half, path, value);
	free(half);
	return whole;
}

Test(vm_changed_record, any_member_that_differs_from_the_copy_in_the_directory_is_named)
{
	static const struct {
		const char *path, *value, *word;
	} edits[] = {
		{"storages.0.device.path", "\"/other.raw\"",
		 "record.storages[0].device.path: is \"/other.raw\", but was "},
		{"storages.0.device.fstype", "\"xfs\"", "record.storages[0].device.fstype"},
		{"storages.1.device.backing_path", "\"/other.raw\"", "record.storages[1].device.backing_path"},
		{"nics.0.device.mtu", "1400", "record.nics[0].device.mtu: is 1400, but was 1500"},
		{"config.memory_max_mib", "512", "record.config.memory_max_mib: is 512, but was 256"},
		{"config.kernel", "\"/other\"", "record.config.kernel"},
		{"accelerator_reason", "\"because\"", "record.accelerator_reason"},
		{"vmm.machine", "\"pc\"", "record.vmm.machine"},
		{"extra", "true", "record.extra: is true, but was not there"},
	};

	for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++)
		assert_edit_refused(edits[i].path, edits[i].value, KATA_E_CORRUPT, edits[i].word);
}

Test(vm_changed_record, what_is_asked_of_the_process_has_its_own_status)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	assert_edit_refused("process.pid", pid, KATA_E_IDENTITY, "");
	assert_edit_refused("uuid", "\"11111111-2222-4333-8444-555555555555\"", KATA_E_IDENTITY, "");
	assert_edit_refused("epoch", "99", KATA_E_CORRUPT, "record.epoch: is 99, but ");
	assert_edit_refused("epoch", "99", KATA_E_CORRUPT, "stands at epoch 1, and no record of it is newer");
}

Test(vm_changed_record, that_it_was_paused_meanwhile_does_not_matter)
{
	char *changed = record_with(json, "state", "\"paused\"");

	fixture_assert_ok(kata_vm_builder_build_from_released(builder, changed, strlen(changed), NULL, &vm, &err), err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_RUNNING);
	free(changed);
}

/* ---- without the copy */

Test(vm_changed_record, another_image_than_qemu_has_open_is_refused)
{
	char *other = file_value("other.raw");

	forget_copy();
	assert_edit_refused("storages.0.device.path", other, KATA_E_CORRUPT, "storage 'd': path is '");
	assert_edit_refused("storages.0.device.path", "\"/nonexistent/d.raw\"", KATA_E_CORRUPT,
			    "d.raw', but QEMU has '");
	assert_edit_refused("storages.1.device.backing_path", other, KATA_E_CORRUPT, "storage 's': backing_path is '");
	free(other);
}

Test(vm_changed_record, an_image_that_was_moved_removed_or_linked_to_since_is_the_recorded_one)
{
	char *path = fixture_path(&f, "d.raw"), *link = fixture_path(&f, "link.raw"), *changed, value[128];

	forget_copy();
	cr_assert_eq(symlink(path, link), 0);
	snprintf(value, sizeof(value), "\"%s\"", link);
	changed = record_with(json, "storages.0.device.path", value);
	fixture_assert_ok(kata_vm_builder_build_from_released(builder, changed, strlen(changed), NULL, &vm, &err), err);
	let_go();
	forget_copy();
	cr_assert_eq(unlink(path), 0);
	free(fixture_make_raw(&f, "d.raw", 1 << 20)); /* another file of that name */
	free(changed);
	changed = record_with(json, "storages.0.device.path", value);
	fixture_assert_ok(kata_vm_builder_build_from_released(builder, changed, strlen(changed), NULL, &vm, &err), err);
	free(changed);
	free(path);
	free(link);
}

Test(vm_changed_record, another_slot_than_the_devices_is_refused)
{
	char *changed;

	forget_copy();
	changed = with_slot("storages", 3, "0b/00");
	assert_refused(changed, KATA_E_CORRUPT, "storage 'd': slot is '3', but QEMU has '0'");
	free(changed);
	changed = with_slot("nics", 2, "0a/00");
	assert_refused(changed, KATA_E_CORRUPT, "NIC 'n': slot is '2', but QEMU has '1'");
	free(changed);
}

Test(vm_changed_record, what_qemus_devices_and_nodes_are_like_is_compared)
{
	forget_copy();
	assert_edit_refused("nics.0.device.mac", "\"02:00:00:00:00:02\"", KATA_E_CORRUPT,
			    "NIC 'n': mac is '02:00:00:00:00:02', but QEMU has '02:00:00:00:00:01'");
	assert_edit_refused("storages.0.device.read_only", "true", KATA_E_CORRUPT,
			    "storage 'd': read_only is 'true', but QEMU has 'false'");
	assert_edit_refused("storages.0.device.format", "\"qcow2\"", KATA_E_CORRUPT,
			    "storage 'd': format is 'qcow2', but QEMU has 'raw'");
}

/* All of what the record says of the process is true of this one, but that it is the machine. */
Test(vm_changed_record, a_living_process_with_its_own_start_time_is_not_taken_for_the_machine)
{
	char path[64], stat[512] = "", value[32], *half, *whole, *at;
	char *argv[] = {(char *)"/bin/sleep", (char *)"600", NULL}, *none[] = {NULL};
	pid_t stranger = -1;
	FILE *file;

	cr_assert_eq(posix_spawn(&stranger, argv[0], NULL, NULL, argv, none), 0);
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)stranger);
	file = fopen(path, "r");
	cr_assert_gt(fread(stat, 1, sizeof(stat) - 1, file), 0u);
	fclose(file);
	at = strrchr(stat, ')');
	for (int i = 0; i < 20; i++)
		at = strchr(at + 1, ' ');
	snprintf(value, sizeof(value), "%d", (int)stranger);
	half = record_with(json, "process.pid", value);
	snprintf(value, sizeof(value), "%lld", strtoll(at, NULL, 10));
	whole = record_with(half, "process.start_time", value);
	assert_refused(whole, KATA_E_IDENTITY, "is not this machine");
	forget_copy();
	assert_refused(whole, KATA_E_IDENTITY, "is not this machine");
	cr_assert_eq(waitpid(stranger, NULL, WNOHANG), 0);
	cr_assert_eq(kill(stranger, SIGKILL), 0);
	cr_assert_eq(waitpid(stranger, NULL, 0), stranger);
	free(half);
	free(whole);
}

/* Its own VM: the namespace must be there before the fixture. */
static void nothing(void)
{
}

Test(vm_changed_record_taps, another_tap_than_qemu_holds_is_refused, .init = nothing, .fini = nothing, .timeout = 60)
{
	if (access("/dev/net/tun", R_OK | W_OK) < 0)
		cr_skip_test("/dev/net/tun cannot be opened");
	if (!fixture_enter_netns())
		cr_skip_test("a network namespace of its own needs CAP_SYS_ADMIN");
	build_and_start();
	add_nic("n", "02:00:00:00:00:01", "kt-one");
	let_go();
	assert_edit_refused("nics.0.device.tap_name", "\"kt-two\"", KATA_E_CORRUPT, "record.nics[0].device.tap_name");
	forget_copy();
	assert_edit_refused("nics.0.device.tap_name", "\"kt-two\"", KATA_E_CORRUPT,
			    "NIC 'n': tap_name is 'kt-two', but QEMU has 'kt-one'");
	tear_down();
}
