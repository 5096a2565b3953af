/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_BOOT_H
#define KATA_GUEST_BOOT_H
/* What PID 1 does before anything else, and at the very end. */

/* Mounts what a Linux userland expects, leaves the initramfs root, brings up lo. What fails is logged: an agent that
 * answers with half a system is of more use than a kernel panic. */
void boot_prepare(void);
/* Syncs and powers the machine off. Does not return. */
void boot_power_off(void) __attribute__((noreturn));
#endif
