/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_UEVENT_H
#define KATA_GUEST_UEVENT_H
/* The kernel's device events: one netlink message is "ACTION@DEVPATH" and then "KEY=VALUE" texts, each with its NUL. */
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* Borrowed from the message. Texts that are absent are "". */
struct uevent {
	const char *action;    /* "add", "change", "remove", ... */
	const char *devpath;   /* below /sys: "/devices/pci0000:00/..." */
	const char *subsystem; /* "block", "net", ... */
};

/* False for what is no event of the kernel: not NUL-terminated, no '@', no path. */
bool uevent_parse(const char *message, size_t len, struct uevent *ret);

/* A non-blocking socket that receives the kernel's events. */
int uevent_open(int *ret_fd, kata_error **err);
/* Reads one message from the kernel into buf and parses it. 1: *ret is set; 0: nothing to read; -1: messages were lost,
 * so whoever waits for a device must look in sysfs again. */
int uevent_read(int fd, char *buf, size_t size, struct uevent *ret);
#endif
