/* SPDX-License-Identifier: Apache-2.0 */
/* The slot allocator, against a model: a million random steps. */
#include <criterion/criterion.h>
#include <string.h>

#include "vm/slots.h"

#define SLOTS 24u

TestSuite(slots, .timeout = 60);

static int reserve(struct kata__slots *s)
{
	int slot = -1;

	cr_assert_eq(kata__slots_reserve(s, &slot, NULL), 0);
	return slot;
}

Test(slots, what_was_never_used_comes_first_then_what_was_freed_longest_ago)
{
	struct kata__slots s;

	cr_assert_eq(kata__slots_init(&s, "device slot", 4, NULL), 0);
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(reserve(&s), i);
		kata__slots_commit(&s, i);
	}
	kata__slots_release(&s, 2, true);
	kata__slots_release(&s, 0, true);
	cr_assert_eq(reserve(&s), 3);
	cr_assert_eq(reserve(&s), 2);
	cr_assert_eq(reserve(&s), 0);
	cr_assert_gt(kata__slots_freed_ns(&s, 0), kata__slots_freed_ns(&s, 2));
	kata__slots_deinit(&s);
}

Test(slots, a_slot_that_was_reserved_only_counts_as_never_used)
{
	struct kata__slots s;

	cr_assert_eq(kata__slots_init(&s, "device slot", 2, NULL), 0);
	cr_assert_eq(reserve(&s), 0);
	kata__slots_release(&s, 0, true);
	cr_assert_eq(kata__slots_freed_ns(&s, 0), 0u);
	cr_assert_eq(reserve(&s), 0);
	kata__slots_deinit(&s);
}

Test(slots, exhausted_says_how_many_there_are)
{
	struct kata__slots s;
	kata_error *err = NULL;
	int slot = -1;

	cr_assert_eq(kata__slots_init(&s, "device slot", 2, NULL), 0);
	cr_assert_eq(kata__slots_reserve(&s, &slot, NULL), 0);
	cr_assert_eq(kata__slots_reserve(&s, &slot, NULL), 0);
	slot = -7;
	cr_assert_eq(kata__slots_reserve(&s, &slot, &err), KATA_E_EXHAUSTED);
	cr_assert_eq(slot, -7);
	cr_assert_str_eq(kata_error_get_message(err), "no device slot is free: 2 there are, 2 in use");
	kata_error_free(err);
	kata__slots_deinit(&s);
}

Test(slots, none_at_all_are_exhausted_at_once)
{
	struct kata__slots s;
	int slot;

	cr_assert_eq(kata__slots_init(&s, "device slot", 0, NULL), 0);
	cr_assert_eq(kata__slots_reserve(&s, &slot, NULL), KATA_E_EXHAUSTED);
	kata__slots_deinit(&s);
}

Test(slots, a_slot_taken_twice_or_out_of_range_is_corrupt)
{
	struct kata__slots s;
	kata_error *err = NULL;

	cr_assert_eq(kata__slots_init(&s, "device slot", 4, NULL), 0);
	cr_assert_eq(kata__slots_take(&s, 3, NULL), 0);
	cr_assert_eq(kata__slots_take(&s, 3, &err), KATA_E_CORRUPT);
	cr_assert(strstr(kata_error_get_message(err), "given twice"));
	kata_error_free(err);
	cr_assert_eq(kata__slots_take(&s, 4, NULL), KATA_E_CORRUPT);
	cr_assert_eq(s.free_count, 3u);
	kata__slots_deinit(&s);
}

/* The model: which slots are held, and since when the others are free. */
static uint32_t longest_free(const bool *held, const struct kata__slots *s)
{
	uint32_t best = SLOTS;

	for (uint32_t i = 0; i < SLOTS; i++)
		if (!held[i] && (best == SLOTS || kata__slots_freed_ns(s, (int)i) < kata__slots_freed_ns(s, (int)best)))
			best = i;
	return best;
}

Test(slots, a_million_random_steps_agree_with_the_model)
{
	bool held[SLOTS] = {false};
	struct kata__slots s;
	uint64_t seed = 0x9e3779b97f4a7c15u;
	uint32_t count = 0;

	cr_assert_eq(kata__slots_init(&s, "device slot", SLOTS, NULL), 0);
	for (int i = 0; i < 1000000; i++) {
		uint32_t pick, want = longest_free(held, &s);
		int slot = -1, rc;

		seed = seed * 6364136223846793005u + 1442695040888963407u;
		pick = (uint32_t)(seed >> 33) % SLOTS;
		if ((seed >> 60) < 8) {
			rc = kata__slots_reserve(&s, &slot, NULL);
			cr_assert_eq(rc, want == SLOTS ? KATA_E_EXHAUSTED : 0);
			if (rc == 0) {
				cr_assert_eq((uint32_t)slot, want);
				held[want] = true;
				count++;
			}
		} else if ((seed >> 60) < 10) {
			cr_assert_eq(kata__slots_take(&s, pick, NULL), held[pick] ? KATA_E_CORRUPT : 0);
			count += !held[pick];
			held[pick] = true;
		} else if (held[pick] && (seed >> 60) < 12) {
			kata__slots_commit(&s, (int)pick);
			cr_assert_eq(s.states[pick], KATA__SLOT_USED);
		} else if (held[pick]) {
			kata__slots_release(&s, (int)pick, true);
			held[pick] = false;
			count--;
		}
		cr_assert_eq(s.free_count, SLOTS - count);
	}
	kata__slots_deinit(&s);
}
