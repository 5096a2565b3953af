/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer with a cap. Growth doubles; consuming moves `start` and compacts when the front half is dead.
 */
#include "base/buffer.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void kata__buffer_init(struct kata__buffer *b, size_t cap)
{
	memset(b, 0, sizeof(*b));
	b->cap = cap;
}

void kata__buffer_deinit(struct kata__buffer *b)
{
	free(b->data);
	kata__buffer_init(b, b->cap);
}

static void compact(struct kata__buffer *b)
{
	size_t live = kata__buffer_len(b);

	if (b->start == 0)
		return;
	memmove(b->data, b->data + b->start, live);
	b->start = 0;
	b->len = live;
}

static int make_room(struct kata__buffer *b, size_t n)
{
	size_t live = kata__buffer_len(b), want;
	uint8_t *data;

	if (n > b->cap || live > b->cap - n)
		return -E2BIG;
	if (b->alloc - b->len >= n)
		return 0;
	if (b->alloc && b->alloc - live >= n && b->start >= live) {
		compact(b);
		return 0;
	}
	compact(b);
	if (b->alloc - b->len >= n)
		return 0;
	want = b->alloc ? b->alloc : 256;
	while (want < live + n)
		want = want > SIZE_MAX / 2 ? live + n : want * 2;
	if (want > b->cap)
		want = b->cap;
	data = realloc(b->data, want);
	if (!data)
		return -ENOMEM;
	b->data = data;
	b->alloc = want;
	return 0;
}

int kata__buffer_append(struct kata__buffer *b, const void *data, size_t len)
{
	int rc;

	if (!len)
		return 0;
	rc = make_room(b, len);
	if (rc)
		return rc;
	memcpy(b->data + b->len, data, len);
	b->len += len;
	return 0;
}

int kata__buffer_printf(struct kata__buffer *b, const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;
	int n, rc;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	if (n < 0)
		return -ENOMEM;
	rc = kata__buffer_append(b, s, (size_t)n);
	free(s);
	return rc;
}

uint8_t *kata__buffer_reserve(struct kata__buffer *b, size_t n)
{
	return make_room(b, n) ? NULL : b->data + b->len;
}

void kata__buffer_added(struct kata__buffer *b, size_t n)
{
	b->len += n;
}

void kata__buffer_consume(struct kata__buffer *b, size_t n)
{
	b->start += n;
	if (b->start == b->len)
		b->start = b->len = 0;
}
