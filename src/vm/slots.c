/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded allocator of numbered slots; the states are in slots.h. */
#include "vm/slots.h"

#include <assert.h>
#include <stdlib.h>

#include "base/clock.h"

int kata__slots_init(struct kata__slots *s, const char *noun, uint32_t count, kata_error **err)
{
	s->states = calloc(count ? count : 1, 1);
	if (!s->states)
		return kata__fail_no_memory(err);
	s->freed_ns = NULL;
	s->noun = noun;
	s->count = count;
	s->free_count = count;
	return 0;
}

void kata__slots_deinit(struct kata__slots *s)
{
	free(s->states);
	free(s->freed_ns);
	s->states = NULL;
	s->freed_ns = NULL;
	s->count = 0;
	s->free_count = 0;
}

uint64_t kata__slots_freed_ns(const struct kata__slots *s, int slot)
{
	assert(slot >= 0 && (uint32_t)slot < s->count);
	return s->freed_ns ? s->freed_ns[slot] : 0;
}

int kata__slots_reserve(struct kata__slots *s, int *ret_slot, kata_error **err)
{
	uint32_t best = s->count;

	for (uint32_t i = 0; i < s->count; i++)
		if (s->states[i] == KATA__SLOT_FREE &&
		    (best == s->count || kata__slots_freed_ns(s, (int)i) < kata__slots_freed_ns(s, (int)best)))
			best = i;
	if (best == s->count)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "no %s is free: %u there are, %u in use", s->noun,
				  s->count, s->count);
	s->states[best] = KATA__SLOT_RESERVED;
	s->free_count--;
	*ret_slot = (int)best;
	return 0;
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

void kata__slots_release(struct kata__slots *s, int slot, bool seen)
{
	assert(slot >= 0 && (uint32_t)slot < s->count && s->states[slot] != KATA__SLOT_FREE);
	seen = seen && s->states[slot] == KATA__SLOT_USED;
	if (seen && !s->freed_ns)
		s->freed_ns = calloc(s->count, sizeof(*s->freed_ns));
	if (seen && s->freed_ns)
		s->freed_ns[slot] = kata__now_ns();
	s->states[slot] = KATA__SLOT_FREE;
	s->free_count++;
}
