/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_BASE_BUFFER_H
#define KATA_BASE_BUFFER_H
/* A growing byte buffer with a cap that is set at init: appending past it fails instead of growing. */
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

struct kata__buffer {
	uint8_t *data;
	size_t len;   /* bytes held */
	size_t start; /* bytes consumed from the front; live bytes are data[start..len) */
	size_t alloc;
	size_t cap; /* most live bytes ever held */
};

void kata__buffer_init(struct kata__buffer *b, size_t cap);
void kata__buffer_deinit(struct kata__buffer *b);
/* 0, -E2BIG past the cap, -ENOMEM. */
int kata__buffer_append(struct kata__buffer *b, const void *data, size_t len);
int kata__buffer_printf(struct kata__buffer *b, const char *fmt, ...) KATA__PRINTF(2, 3);
/* Makes room for n bytes and returns where to write them, or NULL; kata__buffer_added() commits what was written. */
uint8_t *kata__buffer_reserve(struct kata__buffer *b, size_t n);
void kata__buffer_added(struct kata__buffer *b, size_t n);
void kata__buffer_consume(struct kata__buffer *b, size_t n);
static inline const uint8_t *kata__buffer_bytes(const struct kata__buffer *b)
{
	return b->data ? b->data + b->start : NULL;
}
static inline size_t kata__buffer_len(const struct kata__buffer *b)
{
	return b->len - b->start;
}
#endif
