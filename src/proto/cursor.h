/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PROTO_CURSOR_H
#define KATA_PROTO_CURSOR_H
/*
 * A cursor over foreign bytes: every read names how much it takes and fails, without moving, when less is left.
 * Reading code holds no pointers into the bytes but those it gets from here.
 *
 * Beside big-endian integers it reads what protobuf's wire format is made of: varints, keys, length-delimited fields.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kata__cursor {
	const uint8_t *at;
	size_t left;
};

/* A piece of the bytes a cursor was made over; not NUL-terminated. */
struct kata__slice {
	const uint8_t *data; /* NULL when length is 0 */
	size_t length;
};

enum kata__wire_type {
	KATA__WIRE_VARINT = 0,
	KATA__WIRE_FIXED64 = 1,
	KATA__WIRE_BYTES = 2,
	KATA__WIRE_FIXED32 = 5,
};

static inline struct kata__cursor kata__cursor_over(const void *data, size_t length)
{
	return (struct kata__cursor){.at = data, .left = length};
}

static inline bool kata__cursor_take(struct kata__cursor *c, size_t n, struct kata__slice *ret)
{
	if (n > c->left)
		return false;
	*ret = (struct kata__slice){.data = n ? c->at : NULL, .length = n};
	c->at = n ? c->at + n : c->at;
	c->left -= n;
	return true;
}

static inline bool kata__cursor_u8(struct kata__cursor *c, uint8_t *ret)
{
	if (c->left < 1)
		return false;
	*ret = *c->at++;
	c->left--;
	return true;
}

static inline bool kata__cursor_be32(struct kata__cursor *c, uint32_t *ret)
{
	if (c->left < 4)
		return false;
	*ret = (uint32_t)c->at[0] << 24 | (uint32_t)c->at[1] << 16 | (uint32_t)c->at[2] << 8 | c->at[3];
	c->at += 4;
	c->left -= 4;
	return true;
}

/* At most 10 bytes; bits past the 64th are an error. */
static inline bool kata__cursor_varint(struct kata__cursor *c, uint64_t *ret)
{
	uint64_t v = 0;

	for (size_t i = 0; i < c->left && i < 10; i++) {
		uint8_t b = c->at[i];

		if (i == 9 && b > 1)
			return false;
		v |= (uint64_t)(b & 0x7f) << (7 * i);
		if (!(b & 0x80)) {
			c->at += i + 1;
			c->left -= i + 1;
			*ret = v;
			return true;
		}
	}
	return false;
}

/* A protobuf key: field number 1 to 2^29-1; groups and unknown wire types are refused by kata__cursor_skip. */
static inline bool kata__cursor_key(struct kata__cursor *c, uint32_t *ret_field, unsigned *ret_wire_type)
{
	uint64_t key;

	if (!kata__cursor_varint(c, &key) || key > UINT32_MAX || key >> 3 == 0)
		return false;
	*ret_field = (uint32_t)(key >> 3);
	*ret_wire_type = key & 7;
	return true;
}

static inline bool kata__cursor_delimited(struct kata__cursor *c, struct kata__slice *ret)
{
	struct kata__cursor ahead = *c;
	uint64_t length;

	if (!kata__cursor_varint(&ahead, &length) || length > ahead.left ||
	    !kata__cursor_take(&ahead, (size_t)length, ret))
		return false;
	*c = ahead;
	return true;
}

/* Passes over the value of a field that the reader does not know. */
static inline bool kata__cursor_skip(struct kata__cursor *c, unsigned wire_type)
{
	struct kata__slice ignored;
	uint64_t number;

	switch (wire_type) {
	case KATA__WIRE_VARINT:
		return kata__cursor_varint(c, &number);
	case KATA__WIRE_FIXED64:
		return kata__cursor_take(c, 8, &ignored);
	case KATA__WIRE_BYTES:
		return kata__cursor_delimited(c, &ignored);
	case KATA__WIRE_FIXED32:
		return kata__cursor_take(c, 4, &ignored);
	default:
		return false;
	}
}
#endif
