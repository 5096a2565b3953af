/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_DEVICE_H
#define KATA_GUEST_DEVICE_H
/*
 * What device an address means, by looking in sysfs. Every function takes the root that sysfs is mounted at ("/sys"),
 * so that it can be tested on a made-up tree. They look once; waiting is device_wait.h's.
 *
 * Addresses: blk is a PCI path, the hexadecimal slots from the root bus down, joined by '/' ("05/00": root port in slot
 * 5, device in its slot 0; a slot may have a function, "1f.2"); scsi is "ID:LUN" in decimal on channel 0; net is a MAC
 * or a PCI path.
 */
#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define DEVICE_NAME_MAX 32
#define DEVICE_PATH_DEPTH_MAX 8

enum device_kind {
	DEVICE_BLK,
	DEVICE_SCSI,
	DEVICE_NET,
};

/* INVALID for another word, naming the three. */
int device_kind_parse(const char *text, enum device_kind *ret, kata_error **err);
/* INVALID, saying what an address of that kind looks like. */
int device_address_check(enum device_kind kind, const char *address, kata_error **err);
bool device_is_pci_path(const char *text);
bool device_is_scsi_address(const char *text);
/* Six bytes from "02:00:00:00:00:01"; false for anything else. */
bool device_parse_mac(const char *text, uint8_t out[6]);

/* The device's directory in sysfs ("<sys>/devices/pci0000:00/0000:00:05.0/0000:01:00.0"); false: not there. */
bool device_find_pci(const char *sys, const char *pci_path, char *out, size_t size);
/* The kernel's name of a device ("vda", "sdb", "eth0"); false: not there, or its driver has not made it yet. */
bool device_find(const char *sys, enum device_kind kind, const char *address, char out[DEVICE_NAME_MAX]);
/* A disk's size; 0 when it cannot be read. */
uint64_t device_size_bytes(const char *sys, const char *name);

/* Asks every SCSI host to look at one address: hosts that do not report new LUNs by themselves find it so. */
void device_rescan_scsi(const char *sys, const char *address);
/* Detaches a SCSI disk from the kernel. -errno on failure. */
int device_delete_scsi(const char *sys, const char *address);
#endif
