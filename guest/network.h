/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_NETWORK_H
#define KATA_GUEST_NETWORK_H
/* Links, addresses, routes and neighbours, as the protocol's messages describe them. */
#include "agent.pb-c.h"
#include "base/error.h"

#define NETWORK_LIST_MAX 1024

/* Configures the link `device` as `wanted` says: renames it, MTU, addresses (added, none removed), up. INVALID names
 * the field; a link of the wanted name that is in the way gets another one. */
int network_update_interface(const char *device, const Grpc__Interface *wanted, kata_error **err);
/* Gives the link another MAC while it stays up, so that its addresses and routes stay; the link-local IPv6 address that
 * was made from the old MAC is replaced by the new one's, and neighbours are told. 0 or -errno; -EBUSY: the driver
 * takes a MAC only while the link is down. */
int network_set_mac(const char *device, const uint8_t mac[6]);
/* The interface identifier's address: fe80:: and the MAC as EUI-64. */
void network_link_local(const uint8_t mac[6], uint8_t out[16]);
int network_check_interface(const Grpc__Interface *wanted, kata_error **err);
/* Adds or replaces them in the main table, those without a gateway first; others stay. */
int network_update_routes(const Grpc__Routes *routes, kata_error **err);
int network_add_neighbors(const Grpc__ARPNeighbors *neighbors, kata_error **err);

/* What there is: messages of their own, freed with the functions below. */
int network_list_interfaces(Grpc__Interfaces **ret, kata_error **err);
int network_list_routes(Grpc__Routes **ret, kata_error **err);
void network_free_interfaces(Grpc__Interfaces *list);
void network_free_routes(Grpc__Routes *list);

/* "10.0.2.15" or "fd00::1" to bytes; AF_INET, AF_INET6, or 0 when it is neither. */
int network_parse_address(const char *text, uint8_t out[16]);
/* "10.0.0.0/8": the family, 0 when it is none; without '/' the prefix is the whole address. */
int network_parse_prefix(const char *text, uint8_t out[16], unsigned *prefix);
#endif
