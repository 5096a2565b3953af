/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_NETLINK_H
#define KATA_GUEST_NETLINK_H
/* rtnetlink, as much as the agent needs: one request at a time on a socket of its own. The kernel answers within the
 * call, so these functions do not wait for anything. */
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct netlink_request {
	union {
		struct nlmsghdr header;
		uint8_t bytes[2048];
	};
	bool overflow;
};

/* body: the family's struct (ifinfomsg, ifaddrmsg, rtmsg, ndmsg); flags beside NLM_F_REQUEST. */
void netlink_request_init(struct netlink_request *r, uint16_t type, uint16_t flags, const void *body, size_t body_len);
void netlink_request_put(struct netlink_request *r, uint16_t attribute, const void *data, size_t len);
void netlink_request_put_u32(struct netlink_request *r, uint16_t attribute, uint32_t value);
/* Between these two the attributes are nested in `attribute`. */
struct rtattr *netlink_request_nest(struct netlink_request *r, uint16_t attribute);
void netlink_request_unnest(struct netlink_request *r, struct rtattr *nest);

/* Sends and waits for the acknowledgement. 0 or -errno. */
int netlink_do(struct netlink_request *r);
/* Sends a dump request; entry() is called for each message. 0 or -errno. */
typedef void (*netlink_entry_fn)(void *user, const struct nlmsghdr *message);
int netlink_dump(struct netlink_request *r, netlink_entry_fn entry, void *user);

/* The attributes after a message's body of body_len bytes, by number, in out[0..max]; absent ones are NULL. */
void netlink_attributes(const struct nlmsghdr *message, size_t body_len, const struct rtattr **out, size_t max);
#endif
