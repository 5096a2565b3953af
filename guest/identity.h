/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_IDENTITY_H
#define KATA_GUEST_IDENTITY_H
/*
 * What two machines loaded from one saved state must not share: random state, clock, hostname, machine-id, MACs.
 *
 * A clone waits for this before it is handed out, so it is quick: the files it writes to are opened at boot and stay
 * open, and nothing is looked up that the request does not ask for.
 */
#include <stddef.h>
#include <stdint.h>

#include "agent.pb-c.h"
#include "base/error.h"

#define IDENTITY_ENTROPY_MIN 32 /* bytes: what the kernel takes for a full seed */
#define IDENTITY_ENTROPY_MAX 4096
#define IDENTITY_SAMPLE_MAX 64
#define IDENTITY_MACS_MAX 64

/* How each part is done; all answer 0 or -errno. The kernel's are identity_kernel; tests have others. */
struct identity_ops {
	int (*add_entropy)(const void *bytes, size_t len);
	int (*set_clock)(int64_t seconds, int64_t microseconds);
	int (*set_hostname)(const char *name);
	int (*set_machine_id)(const char *id);
	/* -ENODEV: there is no NIC at that address. -EBUSY: its driver takes no new MAC while the link is up. */
	int (*set_mac)(const char *pci_path, const uint8_t mac[6]);
};
extern const struct identity_ops identity_kernel;

/*
 * Does what the request has, in the order entropy, clock, hostname, machine-id, MACs. *ret_done: KATA_RESET_* of what
 * was done, also on failure. INVALID, before anything is done: names the field. NOT_FOUND, IO, ...: the part that
 * failed, and in the same text which were done before it.
 */
int identity_reset(const struct identity_ops *ops, const Grpc__ResetIdentityRequest *request, uint32_t *ret_done,
		   kata_error **err);

/* Opens what identity_kernel writes to, and writes /etc/machine-id from the machine's UUID where there is none. Once,
 * on a worker: looking files up takes milliseconds under emulation. */
void identity_prepare(void);
/* Makes the random output of all CPUs depend on these bytes from now on. 0 or -errno. */
int identity_add_entropy(const void *bytes, size_t len);
#endif
