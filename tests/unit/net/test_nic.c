/* SPDX-License-Identifier: Apache-2.0 */
/* kata_nic: names, addresses and MTUs that are refused, what is generated, JSON and back. */
#include <criterion/criterion.h>
#include <string.h>

#include "net/nic.h"
#include "support/fixture.h"

static kata_nic_config c;
static kata_nic *n;
static kata_error *err;

static void setup(void)
{
	c = (kata_nic_config)KATA_NIC_CONFIG_INIT;
	c.id = "nic";
}

static void teardown(void)
{
	kata_nic_unref(n);
	error_clear(&err);
}

TestSuite(nic, .init = setup, .fini = teardown, .timeout = 30);

static void is_made(void)
{
	fixture_assert_ok(kata_nic_new(&c, &n, &err), err);
}

Test(nic, has_the_defaults)
{
	c.id = NULL;
	is_made();
	cr_assert_eq(strlen(kata_nic_get_id(n)), 36u);
	cr_assert_eq(kata_nic_get_type(n), KATA_NIC_USER);
	cr_assert_null(kata_nic_get_tap_name(n));
	cr_assert_eq(kata_nic_get_mtu(n), 1500u);
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_NEW);
	cr_assert_eq(kata_nic_get_address(n, NULL, 0), 0u);
}

Test(nic, a_generated_mac_is_unicast_and_local)
{
	for (int i = 0; i < 200; i++) {
		unsigned first;

		is_made();
		cr_assert_eq(sscanf(kata_nic_get_mac(n), "%2x:", &first), 1);
		cr_assert_eq(first & 3u, 2u, "%s", kata_nic_get_mac(n));
		cr_assert_eq(strlen(kata_nic_get_mac(n)), 17u);
		kata_nic_unref(n);
		n = NULL;
	}
}

Test(nic, a_generated_tap_name_is_kata_and_eight_digits)
{
	kata_nic *other = NULL;

	c.type = KATA_NIC_TAP;
	is_made();
	cr_assert_eq(strlen(kata_nic_get_tap_name(n)), 12u);
	cr_assert_eq(strncmp(kata_nic_get_tap_name(n), "kata", 4), 0);
	cr_assert_eq(strspn(kata_nic_get_tap_name(n) + 4, "0123456789abcdef"), 8u);
	fixture_assert_ok(kata_nic_new(&c, &other, &err), err);
	cr_assert_str_neq(kata_nic_get_tap_name(n), kata_nic_get_tap_name(other),
			  "two NICs of one id in two VMs are two taps");
	kata_nic_unref(other);
}

Test(nic, a_mac_is_kept_in_lower_case)
{
	c.mac = "02:AB:cd:EF:00:11";
	is_made();
	cr_assert_str_eq(kata_nic_get_mac(n), "02:ab:cd:ef:00:11");
}

#define INVALID(name, change, part)                                                                                    \
	Test(nic, name)                                                                                                \
	{                                                                                                              \
		change;                                                                                                \
		fixture_assert_fails(kata_nic_new(&c, &n, &err), KATA_E_INVALID, err);                                 \
		cr_assert(strstr(error_text(err), part), "%s", error_text(err));                                       \
		cr_assert_null(n);                                                                                     \
	}
#define TAP(text) (c.type = KATA_NIC_TAP, c.tap_name = text)

INVALID(an_id_with_a_slash_is_invalid, c.id = "a/b", "nic.id")
INVALID(an_unknown_type_is_invalid, c.type = (kata_nic_type)5, "nic.type: 5")
INVALID(a_tap_name_for_a_user_nic_is_invalid, c.tap_name = "tap0", "nic.tap_name: is given")
INVALID(an_empty_tap_name_is_invalid, TAP(""), "is empty")
INVALID(a_tap_name_of_16_bytes_is_invalid, TAP("abcdefghijklmnop"), "is too long")
INVALID(a_tap_name_with_a_slash_is_invalid, TAP("a/b"), "nic.tap_name: 'a/b'")
INVALID(a_tap_name_with_a_space_is_invalid, TAP("a b"), "nic.tap_name")
INVALID(a_tap_name_with_a_percent_is_invalid, TAP("tap%d"), "nic.tap_name")
INVALID(a_tap_name_with_a_colon_is_invalid, TAP("eth0:1"), "nic.tap_name")
INVALID(a_tap_name_with_a_control_character_is_invalid, TAP("a\nb"), "nic.tap_name")
INVALID(a_tap_name_that_is_not_ascii_is_invalid, TAP("t\xc3\xa4p"), "nic.tap_name")
INVALID(a_tap_name_of_all_is_invalid, TAP("all"), "nic.tap_name: 'all' is reserved")
INVALID(a_tap_name_of_default_is_invalid, TAP("default"), "nic.tap_name: 'default' is reserved")
INVALID(a_tap_name_of_two_dots_is_invalid, TAP(".."), "nic.tap_name: '..'")
INVALID(a_mac_too_short_is_invalid, c.mac = "02:00:00:00:00", "nic.mac")
INVALID(a_mac_too_long_is_invalid, c.mac = "02:00:00:00:00:00:00", "nic.mac")
INVALID(a_mac_with_dashes_is_invalid, c.mac = "02-00-00-00-00-00", "nic.mac")
INVALID(a_mac_of_no_hex_is_invalid, c.mac = "0g:00:00:00:00:00", "nic.mac")
INVALID(an_empty_mac_is_invalid, c.mac = "", "nic.mac")
INVALID(a_multicast_mac_is_invalid, c.mac = "01:00:5e:00:00:01", "multicast")
INVALID(a_mac_of_zeros_is_invalid, c.mac = "00:00:00:00:00:00", "all zero")
INVALID(an_mtu_of_67_is_invalid, c.mtu = 67, "nic.mtu: 67, must be 68 to 65535")
INVALID(an_mtu_of_65536_is_invalid, c.mtu = 65536, "nic.mtu")
INVALID(a_size_that_is_none_is_invalid, c.size = 0, "nic.size")

Test(nic, a_tap_name_of_15_bytes_is_kept)
{
	c.type = KATA_NIC_TAP;
	c.tap_name = "abcdefghijklmno";
	is_made();
	cr_assert_str_eq(kata_nic_get_tap_name(n), "abcdefghijklmno");
}

Test(nic, is_plugged_once_at_a_time)
{
	is_made();
	fixture_assert_ok(kata__nic_begin_plug(n, &err), err);
	fixture_assert_fails(kata__nic_begin_plug(n, &err), KATA_E_BUSY, err);
}

Test(nic, null_is_refused)
{
	fixture_assert_fails(kata_nic_new(NULL, &n, &err), KATA_E_INVALID, err);
	kata_nic_unref(NULL);
	cr_assert_null(kata_nic_get_mac(NULL));
	cr_assert_str_eq(kata_nic_type_get_name(KATA_NIC_TAP), "tap");
	cr_assert_str_eq(kata_nic_type_get_name((kata_nic_type)4), "unknown");
}

Test(nic, json_and_back_is_the_same)
{
	KATA_AUTO_JSON json_t *one = NULL, *two = NULL;
	kata_nic *again = NULL;

	c.type = KATA_NIC_TAP;
	c.mtu = 9000;
	is_made();
	kata__nic_set_plugged(n, "09/00");
	one = kata__nic_to_json(n);
	fixture_assert_ok(kata__nic_from_json(one, "device", &again, &err), err);
	two = kata__nic_to_json(again);
	cr_assert(json_equal(one, two));
	cr_assert_eq(kata_nic_get_state(again), KATA_DEVICE_PLUGGED);
	kata_nic_unref(again);
}

Test(nic, json_of_a_tap_without_its_name_is_corrupt)
{
	KATA_AUTO_JSON json_t *o = NULL;
	kata_nic *again = NULL;

	c.type = KATA_NIC_TAP;
	is_made();
	o = kata__nic_to_json(n);
	json_object_del(o, "tap_name");
	fixture_assert_fails(kata__nic_from_json(o, "device", &again, &err), KATA_E_CORRUPT, err);
	cr_assert(strstr(error_text(err), "device.tap_name"));
}
