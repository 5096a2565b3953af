/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_DEVICE_H
#define KATA_SANDBOX_DEVICE_H
/* What the other files of this room need of devices. */
#include "sandbox/sandbox.h"

/* "blk" or "scsi": the agent's word for how a disk is attached. */
const char *kata__storage_agent_driver(const kata_storage *storage);
/* [leader] What was configured on a NIC in the guest; replaces. */
int kata__interface_remember(kata_sandbox *s, const char *nic_id, const char *json, kata_error **err);
#endif
