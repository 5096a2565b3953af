/* SPDX-License-Identifier: Apache-2.0 */
/* json_limits.c - jansson spends some hundred bytes on "{}", and recurses; both are bounded here, beforehand. */
#include "proto/json_limits.h"

/* Past the string's end; at is behind its opening quote. */
static const char *skip_string(const char *at, const char *end)
{
	while (at < end && *at != '"')
		at += *at == '\\' && at + 1 < end ? 2 : 1;
	return at < end ? at + 1 : end;
}

struct kata__json_cost kata__json_cost(const char *text, size_t length)
{
	struct kata__json_cost cost = {.values = 1};
	const char *end = text + length;
	size_t depth = 0;

	for (const char *at = text; at < end;) {
		char c = *at++;

		if (c == '"') {
			at = skip_string(at, end);
		} else if (c == '{' || c == '[') {
			cost.values++;
			depth++;
			cost.depth = depth > cost.depth ? depth : cost.depth;
		} else if (c == ',') {
			cost.values++;
		} else if ((c == '}' || c == ']') && depth) {
			depth--;
		}
	}
	return cost;
}
