/* SPDX-License-Identifier: Apache-2.0 */
/* kata_storage: the config's checks, the mirror, JSON and back. */
#include <criterion/criterion.h>
#include <string.h>

#include "storage/storage.h"
#include "support/fixture.h"

static kata_storage_config c;
static kata_storage *s;
static kata_error *err;

static void setup(void)
{
	c = (kata_storage_config)KATA_STORAGE_CONFIG_INIT;
	c.id = "disk";
	c.path = "/dev/null";
}

static void teardown(void)
{
	kata_storage_unref(s);
	error_clear(&err);
}

TestSuite(storage, .init = setup, .fini = teardown, .timeout = 30);

static void is_invalid(const char *part)
{
	fixture_assert_fails(kata_storage_new(&c, &s, &err), KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), part), "%s", error_text(err));
	cr_assert_null(s);
}

Test(storage, copies_its_config_and_touches_no_file)
{
	char path[] = "/nonexistent/image";

	c.path = path;
	c.flags = KATA_STORAGE_READ_ONLY;
	fixture_assert_ok(kata_storage_new(&c, &s, &err), err);
	path[1] = 'X';
	cr_assert_str_eq(kata_storage_get_path(s), "/nonexistent/image");
	cr_assert_str_eq(kata_storage_get_id(s), "disk");
	cr_assert_str_eq(kata_storage_get_fstype(s), "ext4");
	cr_assert(kata_storage_is_read_only(s));
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	cr_assert_eq(kata_storage_get_address(s, NULL, 0), 0u);
}

Test(storage, without_an_id_it_has_a_uuid)
{
	c.id = NULL;
	fixture_assert_ok(kata_storage_new(&c, &s, &err), err);
	cr_assert_eq(strlen(kata_storage_get_id(s)), 36u);
}

#define INVALID(name, change, part)                                                                                    \
	Test(storage, name)                                                                                            \
	{                                                                                                              \
		change;                                                                                                \
		is_invalid(part);                                                                                      \
	}

INVALID(an_id_with_a_slash_is_invalid, c.id = "a/b", "storage.id")
INVALID(an_empty_id_is_invalid, c.id = "", "storage.id")
INVALID(no_path_is_invalid, c.path = NULL, "storage.path: is NULL")
INVALID(a_relative_path_is_invalid, c.path = "disk.raw", "storage.path: 'disk.raw' is relative")
INVALID(an_unknown_format_is_invalid, c.format = (kata_storage_format)7, "storage.format: 7")
INVALID(an_unknown_driver_is_invalid, c.driver = (kata_storage_driver)7, "storage.driver: 7")
INVALID(an_unknown_backing_format_is_invalid, c.backing_format = (kata_storage_format)7, "storage.backing_format: 7")
INVALID(unknown_flags_are_invalid, c.flags = 4, "storage.flags: unknown bits 0x4")
INVALID(a_backing_file_of_a_raw_disk_is_invalid, c.backing_path = "/x", "storage.backing_path: only a qcow2")
INVALID(a_relative_backing_file_is_invalid, (c.format = KATA_STORAGE_QCOW2, c.backing_path = "x"),
	"storage.backing_path: 'x' is relative")
INVALID(an_fstype_with_a_space_is_invalid, c.fstype = "ext 4", "storage.fstype")
INVALID(an_empty_fstype_is_invalid, c.fstype = "", "storage.fstype")
INVALID(a_size_that_is_none_is_invalid, c.size = 3, "storage.size: is 3")

Test(storage, a_mount_option_with_a_newline_is_invalid)
{
	const char *options[] = {"ro", "a\nb", NULL};

	c.mount_options = options;
	is_invalid("storage.mount_options[1]");
}

Test(storage, a_path_longer_than_the_kernel_takes_is_invalid)
{
	static char path[5000];

	memset(path, 'a', sizeof(path) - 1);
	path[0] = '/';
	c.path = path;
	is_invalid("longer than 4095 bytes");
}

Test(storage, null_is_refused)
{
	fixture_assert_fails(kata_storage_new(NULL, &s, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_storage_new(&c, NULL, &err), KATA_E_INVALID, err);
	kata_storage_unref(NULL);
	cr_assert_null(kata_storage_ref(NULL));
	cr_assert_null(kata_storage_get_id(NULL));
}

Test(storage, states_have_names)
{
	cr_assert_str_eq(kata_device_state_get_name(KATA_DEVICE_NEW), "new");
	cr_assert_str_eq(kata_device_state_get_name(KATA_DEVICE_DIVERGED), "diverged");
	cr_assert_str_eq(kata_device_state_get_name((kata_device_state)9), "unknown");
}

Test(storage, is_plugged_once_at_a_time)
{
	fixture_assert_ok(kata_storage_new(&c, &s, &err), err);
	fixture_assert_ok(kata__storage_begin_plug(s, &err), err);
	fixture_assert_fails(kata__storage_begin_plug(s, &err), KATA_E_BUSY, err);
	cr_assert(strstr(error_text(err), "is plugging"));
}

Test(storage, an_address_is_cut_like_snprintf_does)
{
	char buf[3];

	fixture_assert_ok(kata_storage_new(&c, &s, &err), err);
	kata__storage_set_plugged(s, "08/00", 4096);
	cr_assert_eq(kata_storage_get_address(s, buf, sizeof(buf)), 5u);
	cr_assert_str_eq(buf, "08");
	kata__storage_set_state(s, KATA_DEVICE_NEW);
	cr_assert_eq(kata_storage_get_address(s, buf, sizeof(buf)), 0u);
	cr_assert_str_eq(buf, "");
}

Test(storage, json_and_back_is_the_same)
{
	const char *options[] = {"ro", "noatime", NULL};
	KATA_AUTO_JSON json_t *one = NULL, *two = NULL;
	kata_storage *again = NULL;

	c.format = KATA_STORAGE_QCOW2;
	c.backing_path = "/base.raw";
	c.driver = KATA_STORAGE_VIRTIO_SCSI;
	c.mount_options = options;
	fixture_assert_ok(kata_storage_new(&c, &s, &err), err);
	kata__storage_set_plugged(s, "0:3", UINT64_C(1) << 40);
	one = kata__storage_to_json(s);
	fixture_assert_ok(kata__storage_from_json(one, "device", &again, &err), err);
	two = kata__storage_to_json(again);
	cr_assert(json_equal(one, two));
	cr_assert_eq(kata_storage_get_state(again), KATA_DEVICE_PLUGGED);
	cr_assert_str_eq(kata__storage_mount_options(again)[1], "noatime");
	kata_storage_unref(again);
}

Test(storage, a_diverged_one_comes_back_diverged)
{
	KATA_AUTO_JSON json_t *one = NULL;
	kata_storage *again = NULL;

	fixture_assert_ok(kata_storage_new(&c, &s, &err), err);
	kata__storage_set_plugged(s, "08/00", 512);
	kata__storage_set_state(s, KATA_DEVICE_DIVERGED);
	one = kata__storage_to_json(s);
	fixture_assert_ok(kata__storage_from_json(one, "device", &again, &err), err);
	cr_assert_eq(kata_storage_get_state(again), KATA_DEVICE_DIVERGED);
	kata_storage_unref(again);
}
