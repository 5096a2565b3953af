/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_NET_NIC_H
#define KATA_NET_NIC_H
/* The inside of kata_nic, and taps. */
#include <kata/nic.h>

#include "base/error.h"
#include "base/json.h"

int kata__nic_begin_plug(kata_nic *n, kata_error **err); /* [leader] BUSY when not NEW */
void kata__nic_set_state(kata_nic *n, kata_device_state state);
void kata__nic_set_plugged(kata_nic *n, const char *address);
json_t *kata__nic_to_json(const kata_nic *n);
int kata__nic_from_json(const json_t *o, const char *what, kata_nic **ret, kata_error **err);

/* What a tap that was there before was like, so that a plug that fails can leave it so. */
struct kata__tap_before {
	bool existed;
	int mtu;
	bool up;
};

/*
 * Opens the tap `name` in the caller's network namespace (TUNSETIFF: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, one queue),
 * making it when missing (non-persistent: it goes with its last fd), sets MTU and up. *ret_created tells which. BUSY:
 * somebody else holds it. EXISTS: a link of that name is no tap. PERMISSION. On failure a tap that it made is gone
 * again, one that was there is as before. `ret_before` may be NULL. Blocking (RTNL).
 */
int kata__tap_open(const char *name, uint32_t mtu, int *ret_fd, bool *ret_created, struct kata__tap_before *ret_before,
		   kata_error **err);
/* Closes the fd, and puts back what the open changed on a tap that was there before. Blocking. */
int kata__tap_undo(const char *name, int *fd, const struct kata__tap_before *before, kata_error **err);
#endif
