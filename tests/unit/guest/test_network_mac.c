/* SPDX-License-Identifier: Apache-2.0 */
/* Another MAC for a link that stays up, in a network namespace of the test's own. */
#include <criterion/criterion.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "guest/network.h"
#include "net/nic.h"
#include "support/fixture.h"

static int tap = -1;

static char *ip(const char *const *arguments)
{
	const char *argv[16] = {"/sbin/ip"};
	char *output = NULL;

	for (int i = 0; arguments[i]; i++)
		argv[i + 1] = arguments[i];
	cr_assert_eq(fixture_run(argv, 10000, &output), 0, "ip %s: %s", arguments[0], output);
	return output;
}
#define IP(...) ip((const char *const[]){__VA_ARGS__, NULL})

static void set_up(void)
{
	bool created = false;

	if (!fixture_enter_netns() || access("/dev/net/tun", R_OK | W_OK) != 0)
		cr_skip_test("needs root, network namespaces and /dev/net/tun");
	cr_assert_eq(kata__tap_open("kt0", 1500, &tap, &created, NULL, NULL), 0);
	free(IP("link", "set", "kt0", "address", "02:00:00:00:00:01"));
	free(IP("link", "set", "kt0", "down"));
	free(IP("link", "set", "kt0", "up")); /* the link-local address is made anew */
	free(IP("address", "add", "10.1.2.3/24", "dev", "kt0"));
	free(IP("address", "add", "fd00::3/64", "dev", "kt0", "nodad"));
	free(IP("route", "add", "default", "via", "10.1.2.1"));
}

static void tear_down(void)
{
	kata__close_fd(&tap);
}

TestSuite(network_mac, .init = set_up, .fini = tear_down, .timeout = 30);

static void has(const char *text, const char *part, bool is_there)
{
	cr_assert_eq(strstr(text, part) != NULL, is_there, "%s is %s in: %s", part, is_there ? "not" : "still", text);
}

Test(network_mac, changes_while_addresses_and_routes_stay)
{
	static const uint8_t mac[6] = {0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee};
	char *before = IP("address", "show", "kt0"), *after, *routes;

	has(before, "fe80::ff:fe00:1/64", true);
	cr_assert_eq(network_set_mac("kt0", mac), 0);
	after = IP("address", "show", "kt0");
	routes = IP("route");
	has(after, "02:aa:bb:cc:dd:ee", true);
	has(after, "10.1.2.3/24", true);
	has(after, "fd00::3/64", true);
	has(after, "fe80::aa:bbff:fecc:ddee/64", true);
	has(after, "fe80::ff:fe00:1/64", false);
	has(routes, "default via 10.1.2.1", true);
	free(before);
	free(after);
	free(routes);
}

Test(network_mac, does_nothing_where_it_has_it_already)
{
	static const uint8_t mac[6] = {0x02, 0, 0, 0, 0, 0x01};
	char *before = IP("address", "show", "kt0"), *after;

	cr_assert_eq(network_set_mac("kt0", mac), 0);
	after = IP("address", "show", "kt0");
	cr_assert_str_eq(before, after);
	free(before);
	free(after);
}

Test(network_mac, says_when_there_is_no_such_link)
{
	static const uint8_t mac[6] = {0x02, 0, 0, 0, 0, 0x02};

	cr_assert_eq(network_set_mac("none0", mac), -ENODEV);
}

Test(network_mac, a_link_local_address_is_made_from_the_mac, .init = NULL, .fini = NULL)
{
	static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
	static const uint8_t expected[16] = {0xfe, 0x80, 0,    0,    0,    0,    0,    0,
					     0x50, 0x54, 0x00, 0xff, 0xfe, 0x12, 0x34, 0x56};
	uint8_t address[16];

	network_link_local(mac, address);
	cr_assert_eq(memcmp(address, expected, 16), 0);
}
