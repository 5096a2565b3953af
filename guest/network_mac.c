/* SPDX-License-Identifier: Apache-2.0 */
/* Another MAC for a link that stays up. */
#include <errno.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>

#include "guest/netlink.h"
#include "guest/network.h"
#include "guest/text_file.h"

struct link_mac {
	int index;
	uint8_t mac[6];
	bool found;
};

void network_link_local(const uint8_t mac[6], uint8_t out[16])
{
	memset(out, 0, 16);
	out[0] = 0xfe;
	out[1] = 0x80;
	memcpy(out + 8, mac, 3);
	out[8] ^= 0x02;
	out[11] = 0xff;
	out[12] = 0xfe;
	memcpy(out + 13, mac + 3, 3);
}

static void take_mac(void *user, const struct nlmsghdr *m)
{
	struct link_mac *l = user;
	const struct ifinfomsg *body = NLMSG_DATA(m);
	const struct rtattr *a[IFLA_ADDRESS + 1];

	if (m->nlmsg_type != RTM_NEWLINK || body->ifi_index != l->index || body->ifi_type != ARPHRD_ETHER)
		return;
	netlink_attributes(m, sizeof(*body), a, IFLA_ADDRESS);
	if (!a[IFLA_ADDRESS] || RTA_PAYLOAD(a[IFLA_ADDRESS]) != 6)
		return;
	memcpy(l->mac, RTA_DATA(a[IFLA_ADDRESS]), 6);
	l->found = true;
}

static int read_mac(int index, uint8_t mac[6])
{
	struct ifinfomsg body = {.ifi_family = AF_UNSPEC};
	struct link_mac l = {.index = index};
	struct netlink_request r;
	int rc;

	netlink_request_init(&r, RTM_GETLINK, 0, &body, sizeof(body));
	rc = netlink_dump(&r, take_mac, &l);
	memcpy(mac, l.mac, 6);
	return rc ? rc : l.found ? 0 : -ENODEV;
}

static int change_link_local(int index, uint16_t type, uint16_t flags, const uint8_t mac[6])
{
	struct ifaddrmsg body = {.ifa_family = AF_INET6,
				 .ifa_prefixlen = 64,
				 .ifa_flags = IFA_F_NODAD,
				 .ifa_scope = RT_SCOPE_LINK,
				 .ifa_index = (unsigned)index};
	struct netlink_request r;
	uint8_t address[16];

	network_link_local(mac, address);
	netlink_request_init(&r, type, flags, &body, sizeof(body));
	netlink_request_put(&r, IFA_LOCAL, address, sizeof(address));
	return netlink_do(&r);
}

/* The kernel made it when the link came up and does not look at it again. Where it is not there, nothing is to be done.
 */
static int renew_link_local(int index, const uint8_t from[6], const uint8_t to[6])
{
	int rc = change_link_local(index, RTM_DELADDR, 0, from);

	if (rc == -EADDRNOTAVAIL || rc == -EOPNOTSUPP || rc == -EAFNOSUPPORT)
		return 0;
	return rc ? rc : change_link_local(index, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, to);
}

/* With this the kernel announces the link's IPv4 addresses when its MAC changes. */
static void announce_changes(const char *device)
{
	char path[80];

	snprintf(path, sizeof(path), "/proc/sys/net/ipv4/conf/%.16s/arp_notify", device);
	text_file_write(path, "1");
}

int network_set_mac(const char *device, const uint8_t mac[6])
{
	struct ifinfomsg body = {.ifi_family = AF_UNSPEC, .ifi_index = (int)if_nametoindex(device)};
	struct netlink_request r;
	uint8_t before[6];
	int rc = body.ifi_index ? read_mac(body.ifi_index, before) : -ENODEV;

	if (rc || memcmp(before, mac, 6) == 0)
		return rc;
	announce_changes(device);
	netlink_request_init(&r, RTM_NEWLINK, 0, &body, sizeof(body));
	netlink_request_put(&r, IFLA_ADDRESS, mac, 6);
	rc = netlink_do(&r);
	return rc ? rc : renew_link_local(body.ifi_index, before, mac);
}
