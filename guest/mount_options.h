/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_MOUNT_OPTIONS_H
#define KATA_GUEST_MOUNT_OPTIONS_H
/* "ro", "noexec", "size=1m", ...: words of mount(8) to flags and data of mount(2). */
#include <stddef.h>

#include "base/error.h"

struct mount_options {
	unsigned long flags;
	char data[4096]; /* what is no flag, joined by commas: below a page, as the kernel takes it */
};

/* Later words win over earlier ones. INVALID: the data does not fit in a page. */
int mount_options_parse(char *const *options, size_t count, struct mount_options *ret, kata_error **err);
#endif
