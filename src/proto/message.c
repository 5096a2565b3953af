/* SPDX-License-Identifier: Apache-2.0 */
/*
 * message.c - bounded unpacking.
 *
 * protobuf-c allocates through an allocator that we hand it: pieces are cut from the arena's own tail and, when that is
 * full, from chunks; all are freed together. Freeing one piece does nothing, so what protobuf-c takes for the time of
 * parsing counts as well: the cap is on all it ever asks for, and asking for more fails the unpack.
 *
 * Invariants: 1. the message is the first piece ever cut, so it lies at arena->tail and its address leads back to the
 * arena. 2. pieces cut sum up to at most kata__proto_memory_cap().
 */
#include "proto/message.h"

#include <stdalign.h>
#include <stdbool.h>
#include <stdlib.h>

#define MEMORY_FLOOR 65536u
#define MEMORY_FACTOR 16u
#define MEMORY_EXTRA_MAX (4u << 20)
#define TAIL_MIN 1024u
#define CHUNK_SIZE 65536u

struct chunk {
	struct chunk *next;
	alignas(max_align_t) uint8_t data[];
};

struct arena {
	ProtobufCAllocator allocator;
	struct chunk *chunks;
	uint8_t *at;      /* where the next piece is cut, */
	size_t room;      /* and how much is there */
	size_t allowance; /* what is left of the cap */
	bool over_cap;
	bool out_of_memory;
	alignas(max_align_t) uint8_t tail[];
};

size_t kata__proto_memory_cap(size_t length)
{
	size_t factor = MEMORY_FACTOR - 1;
	size_t extra = length > MEMORY_EXTRA_MAX / factor ? MEMORY_EXTRA_MAX : length * factor;

	return MEMORY_FLOOR + length + extra;
}

static bool grow(struct arena *arena, size_t at_least)
{
	size_t size = at_least > CHUNK_SIZE ? at_least : CHUNK_SIZE;
	struct chunk *c = malloc(sizeof(*c) + size);

	if (!c) {
		arena->out_of_memory = true;
		return false;
	}
	c->next = arena->chunks;
	arena->chunks = c;
	arena->at = c->data;
	arena->room = size;
	return true;
}

static void *arena_alloc(void *data, size_t size)
{
	struct arena *arena = data;
	size_t align = alignof(max_align_t);
	size_t cut;
	void *piece;

	if (size > arena->allowance) {
		arena->over_cap = true;
		return NULL;
	}
	cut = (size + align - 1) & ~(align - 1);
	if (cut > arena->room && !grow(arena, cut))
		return NULL;
	piece = arena->at;
	arena->at += cut;
	arena->room -= cut;
	arena->allowance -= cut < arena->allowance ? cut : arena->allowance;
	return piece;
}

static void arena_free(void *data, void *piece)
{
	(void)data;
	(void)piece;
}

static void arena_destroy(struct arena *arena)
{
	while (arena->chunks) {
		struct chunk *next = arena->chunks->next;

		free(arena->chunks);
		arena->chunks = next;
	}
	free(arena);
}

static struct arena *arena_new(size_t first_piece, size_t length)
{
	size_t expected = length < CHUNK_SIZE / 4 ? length * 4 : CHUNK_SIZE;
	size_t tail = TAIL_MIN + first_piece + expected;
	struct arena *arena = malloc(sizeof(*arena) + tail);

	if (!arena)
		return NULL;
	*arena = (struct arena){
		.at = arena->tail, .room = tail, .allowance = first_piece + kata__proto_memory_cap(length)};
	arena->allocator = (ProtobufCAllocator){.alloc = arena_alloc, .free = arena_free, .allocator_data = arena};
	return arena;
}

static int explain(const struct arena *arena, const ProtobufCMessageDescriptor *descriptor, size_t length,
		   kata_error **err)
{
	if (arena->out_of_memory)
		return kata__fail_no_memory(err);
	if (arena->over_cap)
		return kata__fail(err, KATA_E_PROTOCOL, GUEST,
				  "message %s: %zu bytes that unpack to more than the %zu bytes of memory allowed",
				  descriptor->short_name, length, kata__proto_memory_cap(length));
	return kata__fail(err, KATA_E_PROTOCOL, GUEST, "message %s: %zu bytes that are not an encoding of it",
			  descriptor->short_name, length);
}

int kata__proto_unpack(const ProtobufCMessageDescriptor *descriptor, const void *bytes, size_t length,
		       ProtobufCMessage **ret_message, kata_error **err)
{
	struct arena *arena = arena_new(descriptor->sizeof_message, length);
	ProtobufCMessage *message;
	int rc;

	if (!arena)
		return kata__fail_no_memory(err);
	message = protobuf_c_message_unpack(descriptor, &arena->allocator, length, bytes);
	if (!message) {
		rc = explain(arena, descriptor, length, err);
		arena_destroy(arena);
		return rc;
	}
	*ret_message = message;
	return 0;
}

void kata__proto_free(void *message)
{
	if (message)
		arena_destroy((struct arena *)(void *)((uint8_t *)message - offsetof(struct arena, tail)));
}
