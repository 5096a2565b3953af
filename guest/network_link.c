/* SPDX-License-Identifier: Apache-2.0 */
/* Links: UpdateInterface, and the list of what there is. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "guest/device.h"
#include "guest/netlink.h"
#include "guest/network.h"

#define MTU_MAX 65535

/* ---- one link */

static int change_link(unsigned index, unsigned flags, unsigned change, uint16_t attribute, const void *data,
		       size_t len)
{
	struct ifinfomsg body = {
		.ifi_family = AF_UNSPEC, .ifi_index = (int)index, .ifi_flags = flags, .ifi_change = change};
	struct netlink_request r;

	netlink_request_init(&r, RTM_NEWLINK, 0, &body, sizeof(body));
	if (data)
		netlink_request_put(&r, attribute, data, len);
	return netlink_do(&r);
}

static int set_flags(unsigned index, unsigned flags, unsigned change)
{
	return change_link(index, flags, change, 0, NULL, 0);
}

static int rename_link(unsigned index, const char *name)
{
	return change_link(index, 0, 0, IFLA_IFNAME, name, strlen(name) + 1);
}

/* A link that has the wanted name already gives it up. */
static int make_way(unsigned index, const char *name)
{
	unsigned other = if_nametoindex(name);
	char spare[IF_NAMESIZE];
	int rc;

	if (other == 0 || other == index)
		return 0;
	snprintf(spare, sizeof(spare), "swap%u", other);
	rc = set_flags(other, 0, IFF_UP);
	return rc ? rc : rename_link(other, spare);
}

static int add_address(unsigned index, const Grpc__IPAddress *a)
{
	struct ifaddrmsg body = {.ifa_index = index, .ifa_scope = RT_SCOPE_UNIVERSE};
	struct netlink_request r;
	uint8_t bytes[16];
	int family = network_parse_address(a->address, bytes);
	size_t len = family == AF_INET ? 4 : 16;

	body.ifa_family = (uint8_t)family;
	body.ifa_prefixlen = (uint8_t)strtoul(a->mask, NULL, 10);
	body.ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0;
	netlink_request_init(&r, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body, sizeof(body));
	netlink_request_put(&r, IFA_ADDRESS, bytes, len);
	if (family == AF_INET)
		netlink_request_put(&r, IFA_LOCAL, bytes, len);
	return netlink_do(&r);
}

int network_check_interface(const Grpc__Interface *wanted, kata_error **err)
{
	size_t len = strlen(wanted->name);
	uint8_t bytes[16];

	if (len == 0 || len >= IF_NAMESIZE || strpbrk(wanted->name, "/: \t\n") || wanted->name[0] == '.')
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "interface.name: '%.32s' is not 1 to 15 bytes without '/', ':' and blanks",
				  wanted->name);
	if (wanted->mtu < 68 || wanted->mtu > MTU_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "interface.mtu: %llu is not from 68 to %d",
				  (unsigned long long)wanted->mtu, MTU_MAX);
	for (size_t i = 0; i < wanted->n_ipaddresses; i++) {
		const Grpc__IPAddress *a = wanted->ipaddresses[i];
		KATA_AUTO(free) char *text = kata__format("%.64s/%.8s", a->address, a->mask);
		unsigned prefix;

		if (!text || network_parse_prefix(text, bytes, &prefix) == 0)
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "interface.IPAddresses[%zu]: '%.64s' with mask '%.8s' is no address with a "
					  "prefix length",
					  i, a->address, a->mask);
	}
	return 0;
}

int network_update_interface(const char *device, const Grpc__Interface *wanted, kata_error **err)
{
	unsigned index = if_nametoindex(device);
	uint32_t mtu = (uint32_t)wanted->mtu;
	unsigned noarp = wanted->raw_flags & IFF_NOARP;
	int rc;

	if (index == 0)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "interface: Link not found: %s is gone", device);
	if ((rc = set_flags(index, 0, IFF_UP)) != 0 || (rc = make_way(index, wanted->name)) != 0)
		return kata__fail_errno(err, -rc, "interface %s: cannot be taken down", device);
	for (size_t i = 0; i < wanted->n_ipaddresses; i++)
		if ((rc = add_address(index, wanted->ipaddresses[i])) != 0)
			return kata__fail_errno(err, -rc, "interface.IPAddresses[%zu]: cannot add %s", i,
						wanted->ipaddresses[i]->address);
	if (strcmp(device, wanted->name) != 0 && (rc = rename_link(index, wanted->name)) != 0)
		return kata__fail_errno(err, -rc, "interface.name: cannot rename %s to %s", device, wanted->name);
	if ((rc = change_link(index, 0, 0, IFLA_MTU, &mtu, sizeof(mtu))) != 0)
		return kata__fail_errno(err, -rc, "interface.mtu: cannot set %u on %s", mtu, wanted->name);
	if ((rc = set_flags(index, IFF_UP | noarp, IFF_UP | IFF_NOARP)) != 0)
		return kata__fail_errno(err, -rc, "interface %s: cannot be brought up", wanted->name);
	return 0;
}

/* ---- the list */

struct link_list {
	Grpc__Interfaces *list;
	int indexes[NETWORK_LIST_MAX];
	bool no_memory;
};

static void take_link(void *user, const struct nlmsghdr *m)
{
	struct link_list *l = user;
	const struct rtattr *a[IFLA_MTU + 1];
	const struct ifinfomsg *body = NLMSG_DATA(m);
	Grpc__Interface *i;

	if (m->nlmsg_type != RTM_NEWLINK || l->list->n_interfaces == NETWORK_LIST_MAX ||
	    (body->ifi_flags & IFF_LOOPBACK))
		return;
	i = malloc(sizeof(*i));
	if (!i) {
		l->no_memory = true;
		return;
	}
	grpc__interface__init(i);
	netlink_attributes(m, sizeof(*body), a, IFLA_MTU);
	if (a[IFLA_IFNAME]) {
		i->name = kata__strdup(RTA_DATA(a[IFLA_IFNAME]));
		i->device = kata__strdup(RTA_DATA(a[IFLA_IFNAME]));
	}
	if (a[IFLA_MTU] && RTA_PAYLOAD(a[IFLA_MTU]) >= 4)
		i->mtu = *(const uint32_t *)RTA_DATA(a[IFLA_MTU]);
	if (a[IFLA_ADDRESS] && RTA_PAYLOAD(a[IFLA_ADDRESS]) == 6) {
		const uint8_t *b = RTA_DATA(a[IFLA_ADDRESS]);

		i->hwaddr = kata__format("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]);
	}
	i->raw_flags = body->ifi_flags;
	l->indexes[l->list->n_interfaces] = body->ifi_index;
	l->list->interfaces[l->list->n_interfaces++] = i;
}

static void append_address(Grpc__Interface *i, int family, const void *bytes, unsigned prefix)
{
	Grpc__IPAddress **grown = realloc(i->ipaddresses, (i->n_ipaddresses + 1) * sizeof(Grpc__IPAddress *));
	Grpc__IPAddress *a = malloc(sizeof(*a));
	char text[INET6_ADDRSTRLEN];

	if (grown)
		i->ipaddresses = grown;
	if (!grown || !a || !inet_ntop(family, bytes, text, sizeof(text))) {
		free(a);
		return;
	}
	grpc__ipaddress__init(a);
	a->family = family == AF_INET6 ? GRPC__IPFAMILY__v6 : GRPC__IPFAMILY__v4;
	a->address = kata__strdup(text);
	a->mask = kata__format("%u", prefix);
	i->ipaddresses[i->n_ipaddresses++] = a;
}

static void take_address(void *user, const struct nlmsghdr *m)
{
	struct link_list *l = user;
	const struct rtattr *a[IFA_LOCAL + 1];
	const struct ifaddrmsg *body = NLMSG_DATA(m);
	const struct rtattr *address;

	if (m->nlmsg_type != RTM_NEWADDR)
		return;
	netlink_attributes(m, sizeof(*body), a, IFA_LOCAL);
	address = a[IFA_LOCAL] ? a[IFA_LOCAL] : a[IFA_ADDRESS];
	if (!address || RTA_PAYLOAD(address) != (body->ifa_family == AF_INET ? 4 : 16))
		return;
	for (size_t i = 0; i < l->list->n_interfaces; i++)
		if (l->indexes[i] == (int)body->ifa_index)
			append_address(l->list->interfaces[i], body->ifa_family, RTA_DATA(address),
				       body->ifa_prefixlen);
}

int network_list_interfaces(Grpc__Interfaces **ret, kata_error **err)
{
	struct ifinfomsg links = {.ifi_family = AF_UNSPEC};
	struct ifaddrmsg addresses = {.ifa_family = AF_UNSPEC};
	struct netlink_request r;
	struct link_list l = {.list = malloc(sizeof(*l.list))};
	int rc;

	if (!l.list)
		return kata__fail_no_memory(err);
	grpc__interfaces__init(l.list);
	l.list->interfaces = calloc(NETWORK_LIST_MAX, sizeof(Grpc__Interface *));
	if (!l.list->interfaces) {
		free(l.list);
		return kata__fail_no_memory(err);
	}
	netlink_request_init(&r, RTM_GETLINK, 0, &links, sizeof(links));
	rc = netlink_dump(&r, take_link, &l);
	if (rc == 0) {
		netlink_request_init(&r, RTM_GETADDR, 0, &addresses, sizeof(addresses));
		rc = netlink_dump(&r, take_address, &l);
	}
	if (rc != 0 || l.no_memory) {
		network_free_interfaces(l.list);
		return rc ? kata__fail_errno(err, -rc, "cannot list the interfaces") : kata__fail_no_memory(err);
	}
	*ret = l.list;
	return 0;
}

void network_free_interfaces(Grpc__Interfaces *list)
{
	if (list)
		grpc__interfaces__free_unpacked(list, NULL);
}
