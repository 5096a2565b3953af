/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_QEMU_VSOCK_H
#define KATA_VM_QEMU_VSOCK_H
/*
 * The agent's channel over vsock. The CID is claimed by setting it on a vhost fd of ours, which is then QEMU's: nobody
 * else can have it between the choice and the use.
 */
#include <stdbool.h>

#include "base/error.h"

#define KATA__QEMU_VSOCK_DEVICE "/dev/vhost-vsock"
#define KATA__QEMU_VSOCK_AGENT_PORT 1024u

bool kata__qemu_vsock_is_there(void);
/* A vhost fd with a CID of its own. */
int kata__qemu_vsock_open(unsigned *ret_cid, int *ret_fd, kata_error **err);
/* Begins to connect to the agent: the fd is non-blocking and may still be connecting. */
int kata__qemu_vsock_connect(unsigned cid, int *ret_fd, kata_error **err);
#endif
