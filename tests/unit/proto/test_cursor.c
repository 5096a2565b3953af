/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/cursor.h"
#include "unit/proto/proto_test.h"

Test(cursor, reads_a_big_endian_number_and_moves)
{
	struct kata__cursor c = kata__cursor_over("\x01\x02\x03\x04\x05", 5);
	uint32_t v;

	cr_assert(kata__cursor_be32(&c, &v));
	cr_assert_eq(v, 0x01020304);
	cr_assert_eq(c.left, 1);
}

Test(cursor, does_not_move_when_too_little_is_left)
{
	struct kata__cursor c = kata__cursor_over("\x01\x02\x03", 3);
	struct kata__slice s;
	uint32_t v;

	cr_assert(!kata__cursor_be32(&c, &v));
	cr_assert(!kata__cursor_take(&c, 4, &s));
	cr_assert_eq(c.left, 3);
}

Test(cursor, takes_nothing_from_nothing)
{
	struct kata__cursor c = kata__cursor_over(NULL, 0);
	struct kata__slice s;
	uint8_t b;

	cr_assert(kata__cursor_take(&c, 0, &s));
	cr_assert(!s.data);
	cr_assert(!kata__cursor_u8(&c, &b));
}

Test(cursor, reads_the_largest_varint)
{
	struct kata__cursor c = kata__cursor_over("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10);
	uint64_t v;

	cr_assert(kata__cursor_varint(&c, &v));
	cr_assert_eq(v, UINT64_MAX);
	cr_assert_eq(c.left, 0);
}

Test(cursor, refuses_varints_of_more_than_64_bits)
{
	struct kata__cursor over = kata__cursor_over("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10);
	struct kata__cursor longer = kata__cursor_over("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 11);
	uint64_t v;

	cr_assert(!kata__cursor_varint(&over, &v));
	cr_assert(!kata__cursor_varint(&longer, &v));
	cr_assert_eq(longer.left, 11);
}

Test(cursor, refuses_a_varint_cut_at_every_byte)
{
	uint64_t v;

	for (size_t n = 0; n < 10; n++) {
		struct kata__cursor c = kata__cursor_over("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", n);

		cr_assert(!kata__cursor_varint(&c, &v));
		cr_assert_eq(c.left, n);
	}
}

Test(cursor, refuses_field_number_zero)
{
	struct kata__cursor c = kata__cursor_over("\x02", 1);
	uint32_t field;
	unsigned type;

	cr_assert(!kata__cursor_key(&c, &field, &type));
}

Test(cursor, refuses_a_length_beyond_the_end_without_moving)
{
	struct kata__cursor c = kata__cursor_over("\xff\xff\xff\xff\xff\xff\xff\xff\x7f"
						  "abc",
						  12);
	struct kata__slice s;

	cr_assert(!kata__cursor_delimited(&c, &s));
	cr_assert_eq(c.left, 12);
}

Test(cursor, skips_every_wire_type_but_groups)
{
	static const struct {
		unsigned type;
		size_t length;
		bool ok;
	} cases[] = {{0, 1, true},  {1, 8, true}, {2, 3, true},  {3, 0, false},
		     {4, 0, false}, {5, 4, true}, {6, 0, false}, {7, 0, false}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kata__cursor c = kata__cursor_over("\x02\x02\x02\x02\x02\x02\x02\x02", 8);

		cr_assert_eq(kata__cursor_skip(&c, cases[i].type), cases[i].ok, "wire type %u", cases[i].type);
		cr_assert_eq(c.left, 8 - cases[i].length, "wire type %u", cases[i].type);
	}
}
