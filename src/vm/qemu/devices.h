/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_QEMU_DEVICES_H
#define KATA_VM_QEMU_DEVICES_H
/*
 * What QEMU is told about a device: JSON objects that serve as arguments of QMP commands and of -blockdev, -netdev,
 * -device alike.
 *
 * Names inside QEMU are derived, so they need no table and are the same in a process that takes the machine over:
 *     root port i: device "p<i>";  what sits on it: block node "b<i>", netdev and passed fd "t<i>", fd sets 10+2i and
 * 11+2i LUN l:       block node "l<l>", fd sets 1000+2l and 1001+2l the device itself: "s-<storage id>" or "n-<nic
 * id>", which no name of ours can be QEMU reads its monitor byte by byte, so short texts are quick ones. No path and no
 * other string of the caller's is in here but ids and the MAC. Pure functions. NULL is out of memory.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include <kata/nic.h>
#include <kata/storage.h>

#define KATA__QEMU_NAME_MAX 68 /* prefix, id, NUL */

/* "s-<id>" and "n-<id>". */
void kata__qemu_storage_name(const kata_storage *s, char out[KATA__QEMU_NAME_MAX]);
void kata__qemu_nic_name(const kata_nic *n, char out[KATA__QEMU_NAME_MAX]);
bool kata__qemu_is_callers_device(const char *name); /* one of these two */
/* The block node of a storage in this slot. */
void kata__qemu_node_name(const kata_storage *s, int slot, char out[16]);
void kata__qemu_netdev_name(int slot, char out[16]);
void kata__qemu_port_name(int slot, char out[16]);
/* The image's fd set; the backing file's is this + 1. */
unsigned kata__qemu_fd_set(const kata_storage *s, int slot);

/* Format node with its file (and backing) nodes inside: one blockdev-add, one blockdev-del. */
json_t *kata__qemu_blockdev(const kata_storage *s, int slot, bool is_block_device, bool backing_is_block_device);
json_t *kata__qemu_storage_device(const kata_storage *s, int slot);
/* fd: a number of an inherited fd as text, or the name given to getfd; ignored for USER. */
json_t *kata__qemu_netdev(const kata_nic *n, int slot, const char *fd);
json_t *kata__qemu_nic_device(const kata_nic *n, int slot);
/* "p<i>" with its place on pcie.0; multifunction where another port shares the slot. */
json_t *kata__qemu_port_device(int slot, bool multifunction);
#endif
