/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_MODULES_H
#define KATA_GUEST_MODULES_H
/*
 * Kernel modules of the image: /lib/modules/list ("GROUP NAME" lines, dependencies first) and /lib/modules/alias
 * ("PATTERN NAME" lines).
 *
 * Groups: `boot` is loaded before the agent answers, `soon` right after, off the loop, and `ask` when the kernel or the
 * host asks for it. The kernel asks by running /sbin/modprobe, which is the agent's binary under another name.
 * May be used from any thread: it keeps nothing but what the kernel keeps.
 */
#include "base/error.h"

/* Loads every module of the group; one that fails is logged and passed over. */
void modules_load_group(const char *group);
/* Loads a module by its name or alias, dependencies first, with "k=v" parameters. NOT_FOUND when the image has none. */
int modules_load(const char *name, const char *parameters, kata_error **err);
/* main() of /sbin/modprobe: `modprobe -q -- ALIAS`. Returns the exit status. */
int modules_modprobe(int argc, char **argv);
#endif
