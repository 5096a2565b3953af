/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_FIT_H
#define KATA_FACTORY_FIT_H
/*
 * Whether a machine that was made before is the one a build asks for: the same config but for the id, and the same
 * files behind it. Here a base that is smaller than what is asked for will be taken too, once CPUs and memory can be
 * hot-plugged: then this says what is missing instead of no.
 */
#include <sys/types.h>
#include <time.h>

#include "vm/config.h"

/* What a path named at a moment; all zero: nothing. */
struct kata__file_stamp {
	dev_t dev;
	ino_t ino;
	off_t size_bytes;
	struct timespec changed;
};

/* The files a machine boots from. */
struct kata__stamp {
	struct kata__file_stamp kernel, initrd, image;
};

/* [may block] */
void kata__stamp_take(const kata_vm_config *config, struct kata__stamp *ret);
bool kata__stamp_is_equal(const struct kata__stamp *a, const struct kata__stamp *b);
/* Both are copies: defaults filled in. */
bool kata__config_fits(const kata_vm_config *have, const kata_vm_config *wanted);
#endif
