/* SPDX-License-Identifier: Apache-2.0 */
/* Routes of the main table, and neighbours. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/neighbour.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "guest/device.h"
#include "guest/netlink.h"
#include "guest/network.h"

static size_t address_size(int family)
{
	return family == AF_INET6 ? 16 : 4;
}

static int link_index(const char *device, const char *what, size_t i, unsigned *ret, kata_error **err)
{
	*ret = if_nametoindex(device);
	if (*ret == 0)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "%s[%zu].device: Link not found: there is no '%.32s'",
				  what, i, device);
	return 0;
}

/* What a route says, in bytes. */
struct route {
	int family;
	uint8_t destination[16], gateway[16], source[16];
	unsigned destination_prefix, source_prefix, index;
	bool has_gateway, has_source;
};

static int read_destination(const Grpc__Route *from, size_t i, struct route *r, kata_error **err)
{
	if (from->dest[0] == '\0') {
		r->family = from->family == GRPC__IPFAMILY__v6 || strchr(from->gateway, ':') ? AF_INET6 : AF_INET;
		return 0;
	}
	r->family = network_parse_prefix(from->dest, r->destination, &r->destination_prefix);
	if (r->family == 0)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "routes[%zu].dest: '%.64s' is not \"address/prefix\", or empty for the default route",
				  i, from->dest);
	return 0;
}

static int read_route(const Grpc__Route *from, size_t i, struct route *r, kata_error **err)
{
	int rc = read_destination(from, i, r, err);

	if (rc != 0 || (rc = link_index(from->device, "routes", i, &r->index, err)) != 0)
		return rc;
	r->has_gateway = from->gateway[0] != '\0';
	if (r->has_gateway && network_parse_address(from->gateway, r->gateway) != r->family)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "routes[%zu].gateway: '%.64s' is no address of the route's family", i, from->gateway);
	r->has_source = from->source[0] != '\0';
	if (r->has_source && network_parse_prefix(from->source, r->source, &r->source_prefix) != r->family)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "routes[%zu].source: '%.64s' is no address of the route's family", i, from->source);
	/* The Kata agent's reading: "/0", or no prefix at all, is the preferred source address. */
	if (r->has_source && (!strchr(from->source, '/') || r->source_prefix == address_size(r->family) * 8))
		r->source_prefix = 0;
	return 0;
}

static int add_route(const Grpc__Route *from, const struct route *route)
{
	struct rtmsg body = {.rtm_family = (uint8_t)route->family,
			     .rtm_dst_len = (uint8_t)route->destination_prefix,
			     .rtm_table = RT_TABLE_MAIN,
			     .rtm_protocol = RTPROT_STATIC,
			     .rtm_scope = (uint8_t)from->scope,
			     .rtm_type = RTN_UNICAST,
			     .rtm_flags = from->flags};
	size_t len = address_size(route->family);
	struct netlink_request r;
	int rc;

	if (route->has_source && route->source_prefix > 0)
		body.rtm_src_len = (uint8_t)route->source_prefix;
	if (from->scope == 0 && !route->has_gateway && route->family == AF_INET)
		body.rtm_scope = RT_SCOPE_LINK;
	netlink_request_init(&r, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body, sizeof(body));
	if (from->dest[0])
		netlink_request_put(&r, RTA_DST, route->destination, len);
	if (route->has_gateway)
		netlink_request_put(&r, RTA_GATEWAY, route->gateway, len);
	if (route->has_source)
		netlink_request_put(&r, route->source_prefix > 0 ? RTA_SRC : RTA_PREFSRC, route->source, len);
	netlink_request_put_u32(&r, RTA_OIF, route->index);
	if (from->mtu) {
		struct rtattr *nest = netlink_request_nest(&r, RTA_METRICS);

		netlink_request_put_u32(&r, RTAX_MTU, from->mtu);
		netlink_request_unnest(&r, nest);
	}
	rc = netlink_do(&r);
	return rc == -EEXIST ? 0 : rc;
}

int network_update_routes(const Grpc__Routes *routes, kata_error **err)
{
	KATA_AUTO(free) struct route *read = NULL;
	int rc = 0;

	if (routes->n_routes > NETWORK_LIST_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "routes: %zu, at most %d", routes->n_routes,
				  NETWORK_LIST_MAX);
	read = calloc(routes->n_routes + 1, sizeof(*read));
	if (!read)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < routes->n_routes && rc == 0; i++)
		rc = read_route(routes->routes[i], i, &read[i], err);
	/* A gateway must be reachable when its route is added. */
	for (int with_gateway = 0; with_gateway < 2 && rc == 0; with_gateway++) {
		for (size_t i = 0; i < routes->n_routes && rc == 0; i++) {
			int e = read[i].has_gateway == with_gateway ? add_route(routes->routes[i], &read[i]) : 0;

			if (e != 0)
				rc = kata__fail_errno(err, -e, "routes[%zu]: cannot add '%s' by '%s' on %s", i,
						      routes->routes[i]->dest, routes->routes[i]->gateway,
						      routes->routes[i]->device);
		}
	}
	return rc;
}

/* ---- the list */

static char *print_address(int family, const struct rtattr *a)
{
	char text[INET6_ADDRSTRLEN];

	if (!a || RTA_PAYLOAD(a) != address_size(family) || !inet_ntop(family, RTA_DATA(a), text, sizeof(text)))
		return kata__strdup("");
	return kata__strdup(text);
}

static char *print_destination(int family, const struct rtattr *a, unsigned prefix)
{
	KATA_AUTO(free) char *address = NULL;

	if (!a)
		return kata__strdup(family == AF_INET6 ? "::1"
						       : "0.0.0.0"); /* as the Kata agent reports a default route */
	address = print_address(family, a);
	return address ? kata__format("%s/%u", address, prefix) : NULL;
}

static void take_route(void *user, const struct nlmsghdr *m)
{
	Grpc__Routes *list = user;
	const struct rtmsg *body = NLMSG_DATA(m);
	const struct rtattr *a[RTA_TABLE + 1];
	char device[IF_NAMESIZE] = "";
	Grpc__Route *r;

	if (m->nlmsg_type != RTM_NEWROUTE || body->rtm_table != RT_TABLE_MAIN || list->n_routes == NETWORK_LIST_MAX ||
	    (body->rtm_family != AF_INET && body->rtm_family != AF_INET6))
		return;
	r = malloc(sizeof(*r));
	if (!r)
		return;
	grpc__route__init(r);
	netlink_attributes(m, sizeof(*body), a, RTA_TABLE);
	if (a[RTA_OIF])
		if_indextoname(*(const uint32_t *)RTA_DATA(a[RTA_OIF]), device);
	r->dest = print_destination(body->rtm_family, a[RTA_DST], body->rtm_dst_len);
	r->gateway = print_address(body->rtm_family, a[RTA_GATEWAY]);
	r->source = print_address(body->rtm_family, a[RTA_PREFSRC]);
	r->device = kata__strdup(device);
	r->scope = body->rtm_scope;
	r->family = body->rtm_family == AF_INET6 ? GRPC__IPFAMILY__v6 : GRPC__IPFAMILY__v4;
	r->flags = body->rtm_flags;
	list->routes[list->n_routes++] = r;
}

int network_list_routes(Grpc__Routes **ret, kata_error **err)
{
	struct rtmsg body = {.rtm_family = AF_UNSPEC, .rtm_table = RT_TABLE_MAIN};
	struct netlink_request r;
	Grpc__Routes *list = malloc(sizeof(*list));
	int rc;

	if (!list)
		return kata__fail_no_memory(err);
	grpc__routes__init(list);
	list->routes = calloc(NETWORK_LIST_MAX, sizeof(Grpc__Route *));
	netlink_request_init(&r, RTM_GETROUTE, 0, &body, sizeof(body));
	rc = list->routes ? netlink_dump(&r, take_route, list) : -ENOMEM;
	if (rc != 0) {
		network_free_routes(list);
		return kata__fail_errno(err, -rc, "cannot list the routes");
	}
	*ret = list;
	return 0;
}

void network_free_routes(Grpc__Routes *list)
{
	if (list)
		grpc__routes__free_unpacked(list, NULL);
}

/* ---- neighbours */

static int add_neighbor(const Grpc__ARPNeighbor *n, size_t i, kata_error **err)
{
	struct ndmsg body = {0};
	struct netlink_request r;
	uint8_t address[16], mac[6];
	unsigned index;
	int family = n->toipaddress ? network_parse_address(n->toipaddress->address, address) : 0;
	int rc = link_index(n->device, "neighbors", i, &index, err);

	if (rc != 0)
		return rc;
	if (family == 0)
		return kata__fail(err, KATA_E_INVALID, CALLER, "neighbors[%zu].toIPAddress: not an address", i);
	if (n->lladdr[0] && !device_parse_mac(n->lladdr, mac))
		return kata__fail(err, KATA_E_INVALID, CALLER, "neighbors[%zu].lladdr: '%.32s' is not a MAC", i,
				  n->lladdr);
	body = (struct ndmsg){.ndm_family = (uint8_t)family,
			      .ndm_ifindex = (int)index,
			      .ndm_state = (uint16_t)(n->state ? n->state : NUD_PERMANENT),
			      .ndm_flags = (uint8_t)n->flags};
	netlink_request_init(&r, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &body, sizeof(body));
	netlink_request_put(&r, NDA_DST, address, address_size(family));
	if (n->lladdr[0])
		netlink_request_put(&r, NDA_LLADDR, mac, sizeof(mac));
	rc = netlink_do(&r);
	return rc ? kata__fail_errno(err, -rc, "neighbors[%zu]: cannot add", i) : 0;
}

int network_add_neighbors(const Grpc__ARPNeighbors *neighbors, kata_error **err)
{
	int rc = 0;

	for (size_t i = 0; i < neighbors->n_arpneighbors && rc == 0; i++)
		rc = add_neighbor(neighbors->arpneighbors[i], i, err);
	return rc;
}
