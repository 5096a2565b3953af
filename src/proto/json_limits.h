/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PROTO_JSON_LIMITS_H
#define KATA_PROTO_JSON_LIMITS_H
/* What a JSON text would cost to parse, before it is parsed. */
#include <stddef.h>

struct kata__json_cost {
	size_t depth;  /* deepest nesting of arrays and objects */
	size_t values; /* at least the number of values */
};

/* Counts brackets and commas outside strings, in one pass. The text need not be valid; a parser says that afterwards.
 */
struct kata__json_cost kata__json_cost(const char *text, size_t length);
#endif
