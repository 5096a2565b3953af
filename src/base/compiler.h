/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_BASE_COMPILER_H
#define KATA_BASE_COMPILER_H
/* The only place with GNU extensions: cleanup, printf checks, typeof. */
#include <stddef.h>
#include <stdlib.h>

#define KATA__PRINTF(f, a) __attribute__((format(printf, f, a)))
#define KATA__UNUSED __attribute__((unused))
/* For code that runs in a child which shares our memory: a sanitizer would take it for this thread. */
#define KATA__NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined")))
#define KATA__NODISCARD __attribute__((warn_unused_result))

/* KATA_AUTO(free_fn) type *x = NULL: calls kata__cleanup_free_fn(&x) when x goes out of scope. */
#define KATA_AUTO(fn) __attribute__((cleanup(kata__cleanup_##fn)))
#define KATA__DEFINE_CLEANUP(type, fn)                                                                                 \
	static inline KATA__UNUSED void kata__cleanup_##fn(type *p)                                                    \
	{                                                                                                              \
		if (*p)                                                                                                \
			fn(*p);                                                                                        \
	}

static inline KATA__UNUSED void kata__cleanup_free(void *p)
{
	free(*(void **)p);
}

/* Moves a pointer out of an auto variable: the variable becomes NULL. */
#define kata__take_ptr(p)                                                                                              \
	__extension__({                                                                                                \
		__typeof__(p) *take_p_ = &(p);                                                                         \
		__typeof__(p) take_v_ = *take_p_;                                                                      \
		*take_p_ = NULL;                                                                                       \
		take_v_;                                                                                               \
	})

#define kata__array_size(a) (sizeof(a) / sizeof((a)[0]))
#define kata__container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#endif
