/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <criterion/criterion.h>

#include "base/compiler.h"
#include "guest/network.h"

Test(network_address, reads_prefixes_of_both_families)
{
	uint8_t bytes[16];
	unsigned prefix;

	cr_assert_eq(network_parse_prefix("10.1.0.0/16", bytes, &prefix), AF_INET);
	cr_assert_eq(prefix, 16);
	cr_assert_eq(bytes[1], 1);
	cr_assert_eq(network_parse_prefix("fd00::1/64", bytes, &prefix), AF_INET6);
	cr_assert_eq(prefix, 64);
}

Test(network_address, takes_an_address_alone_for_a_whole_one)
{
	uint8_t bytes[16];
	unsigned prefix;

	cr_assert_eq(network_parse_prefix("10.1.2.3", bytes, &prefix), AF_INET);
	cr_assert_eq(prefix, 32);
	cr_assert_eq(network_parse_prefix("::1", bytes, &prefix), AF_INET6);
	cr_assert_eq(prefix, 128);
}

Test(network_address, refuses_what_is_none)
{
	static const char *const bad[] = {"",
					  "/",
					  "10.0.0.0/",
					  "10.0.0.0/33",
					  "10.0.0.0/-1",
					  "10.0.0.0/8x",
					  "10.0.0/8",
					  "fd00::/129",
					  "host",
					  "10.0.0.0 /8",
					  "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc:dddd:eeee:ffff"};
	uint8_t bytes[16];
	unsigned prefix;

	for (size_t i = 0; i < kata__array_size(bad); i++)
		cr_expect_eq(network_parse_prefix(bad[i], bytes, &prefix), 0, "'%s'", bad[i]);
}
