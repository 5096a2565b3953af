/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_DEVICE_WAIT_H
#define KATA_GUEST_DEVICE_WAIT_H
/*
 * Waiting for devices: first a look in sysfs, then one after each event of the kernel that may have brought the device.
 * A device that was there at boot is found as well as one plugged later, and nothing is polled.
 */
#include <stdint.h>

#include "base/error.h"
#include "base/loop.h"
#include "guest/device.h"

#define DEVICE_WAITS_MAX 256

struct device_waits;
struct device_wait;

int device_waits_new(struct kata__loop *loop, struct device_waits **ret, kata_error **err);

/* name: the kernel's ("vda"), valid during the call. On failure it is NULL and err is set, to be freed by the callee.
 */
typedef void (*device_found_fn)(void *user, const char *name, kata_error *take_err);
/*
 * Calls found() exactly once: in here when the device is there or timeout_ms is 0, otherwise later, with TIMEOUT at the
 * end. ret_wait is where the wait is cancelled with device_wait_cancel(); it is NULL once found() was called.
 * Statuses: INVALID (the address), EXHAUSTED. On those found() is not called.
 */
int device_wait_begin(struct device_waits *waits, enum device_kind kind, const char *address, uint32_t timeout_ms,
		      device_found_fn found, void *user, struct device_wait **ret_wait, kata_error **err);
void device_wait_cancel(struct device_wait *wait); /* NULL is fine */

/* Called after each event of that subsystem, for what is not a wait for a disk or NIC (the channel's port, memory). */
typedef void (*device_event_fn)(void *user, const char *action, const char *devpath);
/* At most four; `subsystem` is borrowed for good. */
int device_waits_subscribe(struct device_waits *waits, const char *subsystem, device_event_fn fn, void *user,
			   kata_error **err);
#endif
