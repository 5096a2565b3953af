/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_STORAGE_MOUNTED_H
#define KATA_STORAGE_MOUNTED_H
/* Whether the host has a disk mounted: by the kernel's tables, so only as this mount namespace shows it. Blocking. */
#include <sys/stat.h>

#include "base/error.h"

/*
 * BUSY when the block device or regular file of `st` is mounted: the device itself, a partition of it, the disk it is a
 * partition of, or a loop device (or a partition of one) that it backs. IO when the kernel's tables cannot be read:
 * then nobody can tell, and it is refused.
 */
int kata__check_not_mounted(const struct stat *st, const char *what, kata_error **err);
#endif
