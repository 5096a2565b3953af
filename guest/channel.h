/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_CHANNEL_H
#define KATA_GUEST_CHANNEL_H
/*
 * Where hosts come from: the virtio-serial port named "agent.channel.0", as soon as the kernel shows it, and vsock port
 * 1024 on machines with a vsock device.
 */
#include "guest/guest.h"

#define CHANNEL_PORT_NAME "agent.channel.0"
#define CHANNEL_VSOCK_PORT 1024

/* Looks for the port now and after every event that may bring it; hands what it opens to guest->rpc. */
int channel_begin(struct guest *guest, kata_error **err);
/* Listens on vsock where there is a device for it; nothing otherwise. Call once the modules are loaded. */
int channel_listen_vsock(struct guest *guest, kata_error **err);
#endif
