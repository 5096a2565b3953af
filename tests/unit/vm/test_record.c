/* SPDX-License-Identifier: Apache-2.0 */
/* The released record: it holds everything, comes back the same, and is refused when cut, changed or contradictory. */
#include "fake_driver.h"

static struct fixture f;
static kata_vm *vm;
static char *json; /* the record of a released VM with two disks and a NIC */
static kata_storage *disk, *lun;
static kata_nic *nic;
static kata_error *err;

static void setup(void)
{
	char *a, *b;

	fixture_init(&f, true, 0);
	a = fixture_make_raw(&f, "a", 4096);
	b = fixture_make_raw(&f, "b", 8192);
	vm = fake_new_vm(&f, "vm", 4);
	disk = fixture_storage("disk", a, KATA_STORAGE_VIRTIO_BLK);
	lun = fixture_storage("lun", b, KATA_STORAGE_VIRTIO_SCSI);
	nic = fixture_nic("nic", "02:00:00:00:00:01");
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_storage(vm, disk, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_storage(vm, lun, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_nic(vm, nic, NULL, &err), err);
	fixture_assert_ok(kata_vm_release(vm, NULL, &json, &err), err);
	free(a);
	free(b);
}

static void teardown(void)
{
	free(json);
	kata_storage_unref(disk);
	kata_storage_unref(lun);
	kata_nic_unref(nic);
	kata_vm_unref(vm);
	error_clear(&err);
	fixture_deinit(&f);
}

TestSuite(record, .init = setup, .fini = teardown, .timeout = 120);

static kata_vm *rebuilt(void)
{
	kata_vm *again = NULL;

	fixture_assert_ok(fake_rebuild_wait(&f, json, &again, &err), err);
	return again;
}

Test(record, a_rebuilt_vm_is_as_it_was)
{
	kata_vm_stats s = {.size = sizeof(s)};
	kata_storage *found = NULL;
	kata_vm *again = rebuilt();
	char address[16];

	cr_assert_eq(kata_vm_get_state(again), KATA_VM_RUNNING);
	cr_assert_str_eq(kata_vm_get_id(again), "vm");
	cr_assert_str_eq(kata_vm_get_uuid(again), kata_vm_get_uuid(vm));
	cr_assert_eq(kata_vm_get_pid(again), getpid());
	fixture_assert_ok(kata_vm_find_storage(again, "lun", &found, &err), err);
	kata_storage_get_address(found, address, sizeof(address));
	cr_assert_str_eq(address, "0:0");
	cr_assert_eq(kata_storage_get_size_bytes(found), 8192u);
	cr_assert_eq(kata_storage_get_state(found), KATA_DEVICE_PLUGGED);
	kata_storage_unref(found);
	cr_assert_eq(kata_vm_get_nic_count(again), 1u);
	fixture_assert_ok(kata_vm_get_stats(again, &s, &err), err);
	cr_assert_eq(s.slots_free, 2u);
	cr_assert_eq(fake_of(again)->plugs, 4u); /* three plugs, and the rebuild's own act */
	fixture_assert_ok(kata_vm_remove_storage(again, "disk", NULL, &err), err);
	kata_vm_unref(again);
	cr_assert(access(vm->dir, F_OK) < 0);
}

/* What the driver said of itself and what the core says of the machine, in the record as it is now. */
static void assert_recorded(kata_vm *of, json_int_t plugs, const char *state)
{
	char *text = NULL;
	json_t *root;

	fixture_assert_ok(kata_vm_dump(of, &text, &err), err);
	root = json_loads(text, 0, NULL);
	cr_assert_eq(json_integer_value(json_object_get(json_object_get(root, "vmm"), "plugs")), plugs);
	cr_assert_str_eq(json_string_value(json_object_get(root, "state")), state);
	json_decref(root);
	free(text);
}

Test(record, a_driver_whose_part_is_constant_is_asked_for_it_once_and_the_rest_is_as_it_is_now)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_vm *other = NULL;

	config.id = "other";
	config.kernel = "/boot/kernel";
	config.initrd = "/boot/initrd";
	fixture_assert_ok(kata__vm_new(f.context, &fake_driver_constant_dump, &config, NULL, NULL, &other, &err), err);
	fixture_assert_ok(kata_vm_start(other, NULL, &err), err);
	assert_recorded(other, 0, "running");
	fixture_assert_ok(kata_vm_pause(other, NULL, &err), err);
	cr_assert_eq(fake_of(other)->plugs, 1u);
	assert_recorded(other, 0, "paused");
	fixture_assert_ok(kata_vm_resume(other, NULL, &err), err);
	assert_recorded(other, 0, "running");
	kata_vm_unref(other);
}

static void make_diverged(json_t *root, const char *list)
{
	json_t *device = json_object_get(json_array_get(json_object_get(root, list), 0), "device");

	cr_assert_not_null(device);
	json_object_set_new(device, "state", json_string("diverged"));
	json_object_del(device, "address");
	json_object_del(device, "size_bytes");
}

Test(record, a_device_whose_plug_ended_uncertain_has_no_address_and_comes_back_diverged)
{
	json_t *root = json_loads(json, 0, NULL);
	kata_storage *found = NULL;
	kata_nic *found_nic = NULL;
	kata_vm *again;

	make_diverged(root, "storages");
	make_diverged(root, "nics");
	free(json);
	json = json_dumps(root, 0);
	json_decref(root);
	again = rebuilt();
	fixture_assert_ok(kata_vm_get_storage(again, 0, &found, &err), err);
	cr_expect_eq(kata_storage_get_state(found), KATA_DEVICE_DIVERGED);
	fixture_assert_ok(kata_vm_get_nic(again, 0, &found_nic, &err), err);
	cr_expect_eq(kata_nic_get_state(found_nic), KATA_DEVICE_DIVERGED);
	kata_storage_unref(found);
	kata_nic_unref(found_nic);
	kata_vm_unref(again);
}

Test(record, a_paused_vm_comes_back_paused)
{
	kata_vm *again = rebuilt(), *third = NULL;
	char *text = NULL;

	fixture_assert_ok(kata_vm_pause(again, NULL, &err), err);
	fixture_assert_ok(kata_vm_release(again, NULL, &text, &err), err);
	kata_vm_unref(again);
	fixture_assert_ok(fake_rebuild_wait(&f, text, &third, &err), err);
	cr_assert_eq(kata_vm_get_state(third), KATA_VM_PAUSED);
	kata_vm_unref(third);
	free(text);
}

Test(record, release_and_rebuild_again_differ_only_in_what_must)
{
	kata_vm *again = rebuilt();
	KATA_AUTO_JSON json_t *one = NULL, *two = NULL;
	char *text = NULL;

	fixture_assert_ok(kata_vm_dump(again, &text, &err), err);
	one = json_loads(json, 0, NULL);
	two = json_loads(text, 0, NULL);
	cr_assert_eq(json_integer_value(json_object_get(two, "epoch")),
		     json_integer_value(json_object_get(one, "epoch")) + 1);
	json_object_del(one, "epoch");
	json_object_del(two, "epoch");
	json_object_del(one, "vmm");
	json_object_del(two, "vmm");
	cr_assert(json_equal(one, two), "%s\n%s", json, text);
	kata_vm_unref(again);
	free(text);
}

Test(record, dump_of_a_released_vm_is_what_release_gave)
{
	char *text = NULL;

	fixture_assert_ok(kata_vm_dump(vm, &text, &err), err);
	cr_assert_str_eq(text, json);
	free(text);
}

Test(record, dump_follows_every_change)
{
	kata_vm *again = rebuilt();
	char *one = NULL, *two = NULL, *three = NULL;

	fixture_assert_ok(kata_vm_dump(again, &one, &err), err);
	fixture_assert_ok(kata_vm_dump(again, &two, &err), err);
	cr_assert_str_eq(one, two);
	fixture_assert_ok(kata_vm_remove_nic(again, "nic", NULL, &err), err);
	fixture_assert_ok(kata_vm_dump(again, &three, &err), err);
	cr_assert_str_neq(one, three);
	cr_assert_null(strstr(three, "02:00:00:00:00:01"));
	kata_vm_unref(again);
	free(one);
	free(two);
	free(three);
}

Test(record, a_driver_that_cannot_dump_gives_no_record)
{
	kata_vm *again = rebuilt();
	char *text = NULL;

	fake_of(again)->fail_dump = true;
	fixture_assert_fails(kata_vm_release(again, NULL, &text, &err), KATA_E_IO, err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_dump(again, &text, &err), KATA_E_STATE, err);
	cr_assert_null(text);
	cr_assert_eq(kata_vm_get_state(again), KATA_VM_RUNNING);
	kata_vm_unref(again);
}

Test(record, released_json_lies_in_the_directory_only_while_released)
{
	char *path = kata__format("%s/released.json", vm->dir), *text = NULL;
	kata_vm *again;

	fixture_assert_ok(kata__read_file(path, 1 << 20, &text, NULL, &err), err);
	cr_assert_str_eq(text, json);
	again = rebuilt();
	cr_assert(access(path, F_OK) < 0);
	kata_vm_unref(again);
	free(text);
	free(path);
}

Test(record, a_living_owner_fences)
{
	kata_vm *again = rebuilt(), *third = NULL;
	char *text = NULL;
	kata_context *second = fixture_new_context(&f, 0);
	kata_op *op = NULL;

	fixture_assert_ok(kata_vm_dump(again, &text, &err), err);
	cr_assert_eq(
		kata__vm_rebuild_begin(second, &fake_driver, text, strlen(text), NULL, NULL, NULL, &third, &op, &err),
		0);
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_FENCED, err);
	cr_assert_eq(kata_vm_get_state(third), KATA_VM_RELEASED);
	kata_op_unref(op);
	kata_vm_unref(third);
	cr_assert_eq(access(again->dir, F_OK), 0);
	cr_assert_eq(kata_context_free(second, NULL), 0);
	kata_vm_unref(again);
	free(text);
}

Test(record, an_older_record_is_fenced_after_a_take_over)
{
	kata_vm *again = rebuilt(), *third = NULL;

	fixture_assert_ok(kata_vm_release(again, NULL, NULL, &err), err);
	fixture_assert_fails(fake_rebuild_wait(&f, json, &third, &err), KATA_E_FENCED, err);
	cr_assert(strstr(error_text(err), "epoch"), "%s", error_text(err));
	kata_vm_unref(again);
}

Test(record, a_destroyed_vm_is_gone)
{
	kata_vm *again = rebuilt(), *third = NULL;

	fixture_assert_ok(kata_vm_destroy(again, NULL, &err), err);
	kata_vm_unref(again);
	fixture_assert_fails(fake_rebuild_wait(&f, json, &third, &err), KATA_E_GONE, err);
}

Test(record, a_rebuild_that_fails_gives_it_back)
{
	static const char *const points[] = {"rebuild/take-over:before", "rebuild/take-over:after", "rebuild/act:after",
					     "rebuild/drop-released:before", "rebuild/drop-released:after"};
	kata_vm *again = NULL;

	for (size_t i = 0; i < kata__array_size(points); i++) {
		struct census *before = fixture_census(&f);

		fake_arm(&f, points[i], KATA_FAIL_ERROR);
		fixture_assert_fails(fake_rebuild_wait(&f, json, &again, &err), KATA_E_INJECTED, err);
		error_clear(&err);
		kata_context_clear_fail_point(f.context, NULL);
		fixture_assert_census(&f, before, points[i]);
	}
	again = rebuilt();
	kata_vm_unref(again);
}

/* ---- hostile input ---- */

/* None of these may reach a rebuild. Returns the status; the context must hold nothing more than before. */
static int refuse(const char *text, size_t length)
{
	kata_vm *again = NULL;
	kata_op *op = NULL;
	int rc = kata__vm_rebuild_begin(f.context, &fake_driver, text, length, NULL, NULL, NULL, &again, &op, &err);

	if (rc == 0) {
		rc = kata_op_wait(op, &err);
		kata_op_unref(op);
		kata_vm_unref(again);
	} else {
		cr_assert_null(again);
		cr_assert_null(op);
		cr_assert_not_null(err);
	}
	return rc;
}

Test(record, a_record_cut_at_any_byte_is_corrupt)
{
	size_t length = strlen(json);

	for (size_t i = 0; i < length; i++) {
		int rc = refuse(json, i);

		cr_assert_eq(rc, KATA_E_CORRUPT, "cut at %zu: %s", i, error_text(err));
		error_clear(&err);
	}
}

/* Any byte changed to any of some others: corrupt, or a record that is as sound (a changed path, an accelerator's
 * reason). Never a crash, never a leak. */
Test(record, a_changed_byte_never_harms)
{
	static const char others[] = "0}\"a\\,-9\x01\xff";
	size_t length = strlen(json);
	char *copy = strdup(json);

	for (size_t i = 0; i < length; i++) {
		for (size_t k = 0; k < sizeof(others) - 1; k++) {
			KATA_AUTO_JSON json_t *o = NULL;

			if (copy[i] == others[k])
				continue;
			copy[i] = others[k];
			/* Only up to where a rebuild would begin: what is sound would be taken over. */
			if (kata__vm_record_open(copy, length, "fake", &o, &err) < 0) {
				cr_assert_not_null(err);
				cr_assert(kata_error_get_status(err) == KATA_E_CORRUPT ||
						  kata_error_get_status(err) == KATA_E_VERSION,
					  "%s", error_text(err));
			}
			error_clear(&err);
			copy[i] = json[i];
		}
	}
	free(copy);
}

/* The record with one member changed. `path` has up to three keys, split by '/', numbers are indices. */
static json_t *parent_of(json_t *o, char *path, char **ret_last)
{
	char *save = NULL, *key = strtok_r(path, "/", &save), *next;

	while ((next = strtok_r(NULL, "/", &save))) {
		o = json_is_array(o) ? json_array_get(o, (size_t)atoi(key)) : json_object_get(o, key);
		cr_assert_not_null(o, "%s", key);
		key = next;
	}
	*ret_last = key;
	return o;
}

static int refuse_changed(const char *path, json_t *take_value)
{
	KATA_AUTO_JSON json_t *o = json_loads(json, 0, NULL);
	char copy[128], *last, *text;
	json_t *parent;
	int rc;

	snprintf(copy, sizeof(copy), "%s", path);
	parent = parent_of(o, copy, &last);
	if (take_value)
		json_object_set_new(parent, last, take_value);
	else
		json_object_del(parent, last);
	text = json_dumps(o, JSON_COMPACT);
	rc = refuse(text, strlen(text));
	free(text);
	return rc;
}

#define CHANGED(name, path, value, status, part)                                                                       \
	Test(record, name)                                                                                             \
	{                                                                                                              \
		int rc = refuse_changed(path, value);                                                                  \
		cr_assert_eq(rc, status, "%s", error_text(err));                                                       \
		cr_assert(strstr(error_text(err), part), "%s", error_text(err));                                       \
	}

CHANGED(a_newer_version_is_refused, "version", json_integer(2), KATA_E_VERSION,
	"record.version: is 2, this library reads 1")
CHANGED(an_unknown_driver_is_corrupt, "driver", json_string("xen"), KATA_E_CORRUPT, "record.driver")
CHANGED(another_format_is_corrupt, "format", json_string("kata-sandbox"), KATA_E_CORRUPT, "record.format")
CHANGED(an_id_that_climbs_is_corrupt, "config/id", json_string("../x"), KATA_E_CORRUPT, "config")
CHANGED(ids_that_differ_are_corrupt, "id", json_string("other"), KATA_E_CORRUPT, "record.id")
CHANGED(a_uuid_that_is_none_is_corrupt, "uuid", json_string("x"), KATA_E_CORRUPT, "record.uuid")
CHANGED(another_uuid_is_another_identity, "uuid", json_string("00000000-0000-4000-8000-000000000000"), KATA_E_IDENTITY,
	"belongs to the machine")
CHANGED(another_state_is_corrupt, "state", json_string("destroyed"), KATA_E_CORRUPT, "record.state")
CHANGED(an_epoch_of_zero_is_corrupt, "epoch", json_integer(0), KATA_E_CORRUPT, "epoch")
CHANGED(an_epoch_below_zero_is_corrupt, "epoch", json_integer(-1), KATA_E_CORRUPT, "record.epoch")
CHANGED(an_epoch_that_is_yet_to_come_is_corrupt, "epoch", json_integer(7), KATA_E_CORRUPT, "record.epoch: is 7, but ")
CHANGED(a_time_scale_of_zero_is_corrupt, "time_scale", json_integer(0), KATA_E_CORRUPT, "time_scale")
CHANGED(an_unknown_transport_is_corrupt, "agent_transport", json_integer(9), KATA_E_CORRUPT, "agent_transport")
CHANGED(a_pid_above_the_limit_is_corrupt, "process/pid", json_integer(99999999), KATA_E_CORRUPT, "record.process.pid")
CHANGED(a_negative_pid_is_corrupt, "process/pid", json_integer(-1), KATA_E_CORRUPT, "record.process.pid")
CHANGED(a_pid_that_is_text_is_corrupt, "process/pid", json_string("1"), KATA_E_CORRUPT, "record.process.pid")
CHANGED(a_boot_id_that_is_none_is_corrupt, "process/boot_id", json_string("x"), KATA_E_CORRUPT, "boot_id")
CHANGED(a_missing_process_is_corrupt, "process", NULL, KATA_E_CORRUPT, "record.process")
CHANGED(a_missing_config_is_corrupt, "config", NULL, KATA_E_CORRUPT, "record.config")
CHANGED(a_missing_driver_part_is_corrupt, "vmm", NULL, KATA_E_CORRUPT, "record.vmm")
CHANGED(a_driver_part_out_of_range_is_corrupt, "vmm/plugs", json_integer(1 << 30), KATA_E_CORRUPT, "record.vmm.plugs")
CHANGED(a_slot_given_twice_is_corrupt, "nics/0/slot", json_integer(0), KATA_E_CORRUPT, "address")
CHANGED(a_device_outside_of_the_slots_is_corrupt, "config/device_slots", json_integer(1), KATA_E_CORRUPT,
	"does not exist: there are 1")
CHANGED(a_negative_slot_is_corrupt, "storages/0/slot", json_integer(-1), KATA_E_CORRUPT, "record.storages[0].slot")
CHANGED(an_address_that_is_not_its_slots_is_corrupt, "storages/0/device/address", json_string("09/00"), KATA_E_CORRUPT,
	"storages[0].device.address")
CHANGED(a_relative_path_is_corrupt, "storages/0/device/path", json_string("x"), KATA_E_CORRUPT, "relative")
CHANGED(an_unknown_device_driver_is_corrupt, "storages/1/device/driver", json_string("nvme"), KATA_E_CORRUPT, "driver")
CHANGED(a_disk_that_turns_from_scsi_to_blk_is_corrupt, "storages/1/device/driver", json_string("virtio-blk"),
	KATA_E_CORRUPT, "address")
CHANGED(an_id_twice_is_corrupt, "storages/1/device/id", json_string("disk"), KATA_E_CORRUPT, "id 'disk' is taken")
CHANGED(a_multicast_mac_is_corrupt, "nics/0/device/mac", json_string("01:00:00:00:00:01"), KATA_E_CORRUPT, "multicast")
CHANGED(an_mtu_of_zero_is_corrupt, "nics/0/device/mtu", json_integer(0), KATA_E_CORRUPT, "mtu")
CHANGED(storages_that_are_no_list_are_corrupt, "storages", json_integer(1), KATA_E_CORRUPT, "record.storages")
CHANGED(another_number_of_luns_is_corrupt, "luns", json_integer(7), KATA_E_CORRUPT, "luns")

static json_t *two_on_one_slot(void)
{
	return json_pack("[{s:i, s:{s:s, s:s, s:s, s:s, s:i, s:s}}, {s:i, s:{s:s, s:s, s:s, s:s, s:i, s:s}}]", "slot",
			 2, "device", "id", "x", "type", "user", "mac", "02:00:00:00:00:05", "address", "0a/00", "mtu",
			 1500, "state", "plugged", "slot", 2, "device", "id", "y", "type", "user", "mac",
			 "02:00:00:00:00:06", "address", "0a/00", "mtu", 1500, "state", "plugged");
}
CHANGED(two_devices_on_one_slot_are_corrupt, "nics", two_on_one_slot(), KATA_E_CORRUPT, "given twice")

static json_t *two_of_one_mac(void)
{
	return json_pack("[{s:i, s:{s:s, s:s, s:s, s:s, s:i, s:s}}, {s:i, s:{s:s, s:s, s:s, s:s, s:i, s:s}}]", "slot",
			 2, "device", "id", "x", "type", "user", "mac", "02:00:00:00:00:05", "address", "0a/00", "mtu",
			 1500, "state", "plugged", "slot", 3, "device", "id", "y", "type", "user", "mac",
			 "02:00:00:00:00:05", "address", "0b/00", "mtu", 1500, "state", "plugged");
}
CHANGED(two_nics_of_one_mac_are_corrupt, "nics", two_of_one_mac(), KATA_E_CORRUPT, "MAC")

Test(record, what_is_no_json_is_corrupt)
{
	static const char *const texts[] = {
		"", "null", "[]", "{}", "{\"version\":1}", "\xff\xfe", "{\"format\":\"kata-vm\",\"format\":1}"};

	for (size_t i = 0; i < kata__array_size(texts); i++) {
		cr_assert_eq(refuse(texts[i], strlen(texts[i])), KATA_E_CORRUPT, "%s: %s", texts[i], error_text(err));
		error_clear(&err);
	}
}

Test(record, a_record_above_its_cap_is_refused)
{
	char *big = malloc(KATA__JSON_RECORD_MAX + 2);

	memset(big, ' ', KATA__JSON_RECORD_MAX + 1);
	big[KATA__JSON_RECORD_MAX + 1] = '\0';
	cr_assert_eq(refuse(big, KATA__JSON_RECORD_MAX + 1), KATA_E_CORRUPT);
	free(big);
}
