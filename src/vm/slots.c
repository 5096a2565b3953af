/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded allocator of numbered slots; the states are in slots.h. Lowest free first, so that addresses are
 * predictable. */
#include "vm/slots.h"

#include <assert.h>
#include <stdlib.h>

int kata__slots_init(struct kata__slots *s, const char *noun, uint32_t count, kata_error **err)
{
	s->states = calloc(count ? count : 1, 1);
	if (!s->states)
		return kata__fail_no_memory(err);
	s->noun = noun;
	s->count = count;
	s->free_count = count;
	return 0;
}

void kata__slots_deinit(struct kata__slots *s)
{
	free(s->states);
	s->states = NULL;
	s->count = 0;
	s->free_count = 0;
}

int kata__slots_reserve(struct kata__slots *s, int *ret_slot, kata_error **err)
{
	for (uint32_t i = 0; s->free_count && i < s->count; i++) {
		if (s->states[i] != KATA__SLOT_FREE)
			continue;
		s->states[i] = KATA__SLOT_RESERVED;
		s->free_count--;
		*ret_slot = (int)i;
		return 0;
	}
	return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "no %s is free: %u there are, %u in use", s->noun, s->count,
			  s->count);
}

int kata__slots_take(struct kata__slots *s, uint32_t slot, kata_error **err)
{
	if (slot >= s->count)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s %u does not exist: there are %u", s->noun, slot,
				  s->count);
	if (s->states[slot] != KATA__SLOT_FREE)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s %u is given twice", s->noun, slot);
	s->states[slot] = KATA__SLOT_USED;
	s->free_count--;
	return 0;
}

void kata__slots_commit(struct kata__slots *s, int slot)
{
	assert(slot >= 0 && (uint32_t)slot < s->count && s->states[slot] != KATA__SLOT_FREE);
	s->states[slot] = KATA__SLOT_USED;
}

void kata__slots_release(struct kata__slots *s, int slot)
{
	assert(slot >= 0 && (uint32_t)slot < s->count && s->states[slot] != KATA__SLOT_FREE);
	s->states[slot] = KATA__SLOT_FREE;
	s->free_count++;
}
