/* SPDX-License-Identifier: Apache-2.0 */
/* record_edit.c - see record_edit.h. */
#include "support/record_edit.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static json_t *step_into(json_t *o, const char *key)
{
	return json_is_array(o) ? json_array_get(o, (size_t)atoi(key)) : json_object_get(o, key);
}

static void set(json_t *o, const char *key, json_t *take_value)
{
	if (take_value)
		cr_assert_eq(json_object_set_new(o, key, take_value), 0);
	else
		cr_assert_eq(json_object_del(o, key), 0, "no %s to remove", key);
}

char *record_with(const char *json, const char *path, const char *value)
{
	json_t *root = json_loads(json, 0, NULL), *at = root;
	char copy[128], *key = copy, *dot, *text;

	cr_assert_not_null(root);
	cr_assert_lt(strlen(path), sizeof(copy));
	memcpy(copy, path, strlen(path) + 1);
	for (; (dot = strchr(key, '.')); key = dot + 1) {
		*dot = '\0';
		at = step_into(at, key);
		cr_assert_not_null(at, "no %s in the record", path);
	}
	set(at, key, value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL);
	text = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	cr_assert_not_null(text);
	return text;
}
