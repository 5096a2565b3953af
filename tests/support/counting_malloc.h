/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_COUNTING_MALLOC_H
#define KATA_TESTS_SUPPORT_COUNTING_MALLOC_H
/*
 * An allocator that counts what is there and fails where it is told to, for one program: it defines malloc, and is a
 * header so that no other program gets it from the library of test support. Sanitizers bring their own malloc: CAN_FAIL
 * is 0 there, and tests are to be skipped.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include <kata/export.h>

#define MAY_BE_UNUSED __attribute__((unused))
MAY_BE_UNUSED static atomic_long countdown = -1; /* allocations until one fails; negative: none does */
MAY_BE_UNUSED static atomic_bool sticky = false; /* all that follow fail, too */
MAY_BE_UNUSED static atomic_bool hit;            /* one failed */
MAY_BE_UNUSED static atomic_long live;           /* pieces allocated and not freed */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CAN_FAIL 0
#else
#define CAN_FAIL 1
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void __libc_free(void *p);

static bool fails(void)
{
	if (countdown < 0 || atomic_fetch_sub(&countdown, 1) > 0)
		return false;
	errno = ENOMEM;
	hit = true;
	countdown = sticky ? 0 : -1;
	return true;
}

KATA_API void *malloc(size_t size)
{
	void *p = fails() ? NULL : __libc_malloc(size);

	live += p != NULL;
	return p;
}

KATA_API void *calloc(size_t n, size_t size)
{
	void *p = fails() ? NULL : __libc_calloc(n, size);

	live += p != NULL;
	return p;
}

KATA_API void *realloc(void *old, size_t size)
{
	void *p = fails() ? NULL : __libc_realloc(old, size);

	live += p && !old;
	return p;
}

KATA_API void free(void *p)
{
	live -= p != NULL;
	__libc_free(p);
}
#endif
#endif
