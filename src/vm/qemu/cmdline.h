/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_QEMU_CMDLINE_H
#define KATA_VM_QEMU_CMDLINE_H
/*
 * QEMU's command line and the fds that go with it, made from what is known before the start.
 *
 * No string of the caller's is ever syntax: kernel parameters are one argument of their own, ids have a safe alphabet,
 * the machine type is one that the binary named itself, files are passed as fds, devices are JSON. Pure, but for
 * memory.
 */
#include <stdbool.h>
#include <stddef.h>

#include <kata/vm.h>

#include "base/process.h"
#include "vm/qemu/devices.h"

#define KATA__QEMU_SANDBOX "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
#define KATA__QEMU_AGENT_PORT "agent.channel.0"
/* Slots of pcie.0 before the root ports (KATA__VM_FIRST_PORT_SLOT). */
#define KATA__QEMU_SERIAL_SLOT 1
#define KATA__QEMU_SCSI_SLOT 2
#define KATA__QEMU_IMAGE_SLOT 3
#define KATA__QEMU_VSOCK_SLOT 4
#define KATA__QEMU_KERNEL_CMDLINE_MAX 2047u /* x86 */

/* A device of the boot command line. Either a storage or a NIC. fds are the parent's; -1: none. */
struct kata__qemu_cold {
	struct kata__qemu_cold *next;
	kata_storage *storage; /* referenced */
	kata_nic *nic;
	int slot;
	int fd; /* image or tap */
	int backing_fd;
	bool fd_is_block_device, backing_is_block_device;
};

struct kata__qemu_boot {
	const char *binary;
	const char *id, *uuid;
	const char *machine; /* a name from the binary's own list */
	bool kvm;
	const kata_vm_config *config; /* defaults filled in */
	const struct kata__qemu_cold *devices;
	bool incoming; /* waits for a saved state; its RAM is not written back to memory_fd */
	bool agent_vsock;
	unsigned vsock_cid;
	/* The parent's fds; -1: none (initrd, image, memory, vsock). */
	int kernel_fd, initrd_fd, image_fd, memory_fd, vsock_fd;
	int qmp_fd, console_fd, agent_fd; /* listening sockets */
	int log_fd;
};

struct kata__qemu_launch {
	char **argv; /* NULL-terminated */
	size_t argc, argv_alloc;
	struct kata__fd_map *fds;
	size_t fd_count, fd_alloc;
	bool out_of_memory;
};

int kata__qemu_launch_make(const struct kata__qemu_boot *boot, struct kata__qemu_launch *ret, kata_error **err);
void kata__qemu_launch_deinit(struct kata__qemu_launch *l);
/* The whole of -append; malloc'ed. INVALID past what x86 takes. */
int kata__qemu_kernel_cmdline(const kata_vm_config *config, bool kvm, char **ret, kata_error **err);
#endif
