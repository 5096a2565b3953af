/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_QEMU_BOOT_FILES_H
#define KATA_VM_QEMU_BOOT_FILES_H
/* The files a machine boots from. QEMU opens them again through /proc/self/fd, with its own ids: so those are checked
 * here. */
#include "vm/qemu/machine.h"

struct kata__qemu_boot_files {
	int kernel_fd, initrd_fd, image_fd, memory_fd; /* -1: none */
	bool made_memory;                              /* the memory file is ours */
};
#define KATA__QEMU_NO_BOOT_FILES                                                                                       \
	{                                                                                                              \
		-1, -1, -1, -1, false                                                                                  \
	}

/* Opens kernel, initrd and image; NOT_FOUND, PERMISSION, INVALID name the member of the config. On failure nothing
 * stays open. Blocking. */
int kata__qemu_boot_files_open(const kata_vm_config *c, const struct kata__qemu_settings *s,
			       struct kata__qemu_boot_files *ret, kata_error **err);
/* Opens, or makes, memory_path with at least the memory's size; nothing when there is none. Blocking. */
int kata__qemu_memory_file_open(const kata_vm_config *c, const struct kata__qemu_settings *s,
				struct kata__qemu_boot_files *ret, kata_error **err);
void kata__qemu_boot_files_close(struct kata__qemu_boot_files *f);
/* QEMU opens the file of a saved RAM again by itself, for reading and writing, though it maps it privately. */
int kata__qemu_check_memory(const char *snapshot, int fd, const struct kata__qemu_settings *s, kata_error **err);
#endif
