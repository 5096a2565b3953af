/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_SLOTS_H
#define KATA_VM_SLOTS_H
/*
 * A bounded allocator of numbered slots: FREE --reserve--> RESERVED --commit--> USED --release--> FREE. A slot is USED
 * from when its device may be in the guest, and released only after the guest let go. Of the free ones the one that has
 * not been USED for the longest time comes first: a guest may be busy yet with what left a slot just now. Leader only.
 */
#include <stdint.h>

#include "base/error.h"

enum kata__slot_state { KATA__SLOT_FREE = 0, KATA__SLOT_RESERVED = 1, KATA__SLOT_USED = 2 };

struct kata__slots {
	uint8_t *states;
	uint64_t *freed_ns; /* when it was USED last; made by the first release, NULL also when that lacked memory */
	uint32_t count;
	uint32_t free_count;
	const char *noun; /* "device slots", "SCSI LUNs": for the error */
};

int kata__slots_init(struct kata__slots *s, const char *noun, uint32_t count, kata_error **err);
void kata__slots_deinit(struct kata__slots *s);
/* EXHAUSTED: "no device slot is free: 16 there are, 16 in use". */
int kata__slots_reserve(struct kata__slots *s, int *ret_slot, kata_error **err);
/* A certain slot (rebuild). CORRUPT when out of range or taken. */
int kata__slots_take(struct kata__slots *s, uint32_t slot, kata_error **err);
/* When it was USED last; 0: never, or not known. */
uint64_t kata__slots_freed_ns(const struct kata__slots *s, int slot);
void kata__slots_commit(struct kata__slots *s, int slot);
/* `seen`: a guest may have seen what was on it, and be busy with it yet. Only then it counts as USED until now. */
void kata__slots_release(struct kata__slots *s, int slot, bool seen);
#endif
