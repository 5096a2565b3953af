/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_BASE_OPTIONS_H
#define KATA_BASE_OPTIONS_H
/*
 * Structs whose first member is their size, as callers compiled them. Reading one from an older caller leaves the
 * members he does not know zero; one from a newer caller is taken only when what we do not know is zero. Writing gives
 * a caller what fits.
 */
#include <stdint.h>
#include <string.h>

#include "base/error.h"

/* Copies *src (NULL: nothing) into dst of `known` bytes, which holds the defaults of NULL. INVALID names `what`. */
static inline int kata__options_read(void *dst, size_t known, const void *src, const char *what, kata_error **err)
{
	const uint8_t *bytes = src;
	size_t size;

	if (!src)
		return 0;
	memcpy(&size, src, sizeof(size));
	if (size < sizeof(size) || size > 65536)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "%s.size: is %zu, must be the sizeof of the struct (%zu here)", what, size, known);
	for (size_t i = known; i < size; i++)
		if (bytes[i])
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "%s: byte %zu is set, but this library knows only %zu bytes: it is older "
					  "than the caller",
					  what, i, known);
	memset(dst, 0, known);
	memcpy(dst, src, size < known ? size : known);
	memcpy(dst, &known, sizeof(known));
	return 0;
}

/* Checks the size a caller set in a struct that is to be filled. */
static inline int kata__options_check_ret(const void *ret, const char *what, kata_error **err)
{
	size_t size = 0;

	if (!ret)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", what);
	memcpy(&size, ret, sizeof(size));
	if (size < sizeof(size) || size > 65536)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s.size: is %zu, must be the sizeof of the struct",
				  what, size);
	return 0;
}

/* Fills the caller's struct from ours; its size member stays as he set it. */
static inline void kata__options_write(void *ret, const void *src, size_t known)
{
	size_t size;

	memcpy(&size, ret, sizeof(size));
	memset(ret, 0, size);
	memcpy(ret, src, size < known ? size : known);
	memcpy(ret, &size, sizeof(size));
}
#endif
