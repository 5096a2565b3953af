/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_KMSG_H
#define KATA_GUEST_KMSG_H
/* The agent's log is the kernel's: errors reach the console even where the kernel was told to be quiet. */
#include "base/compiler.h"

/* Opens /dev/kmsg; until then messages go nowhere. */
void kmsg_open(void);
void kmsg_error(const char *fmt, ...) KATA__PRINTF(1, 2);
void kmsg_info(const char *fmt, ...) KATA__PRINTF(1, 2);
#endif
