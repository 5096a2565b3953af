/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_BASE_JSON_H
#define KATA_BASE_JSON_H
/*
 * Strict reading of JSON that may be hostile. kata__json_parse caps bytes, rejects duplicate keys and trailing text.
 * The accessors take the object and a key and report "what.key: expected an integer from 0 to 10, found string".
 * They fail with KATA_E_CORRUPT (records, manifests: text that claims to be ours). Borrowed strings live as long as the
 * object.
 */
#include <jansson.h>
#include <stdint.h>

#include "base/error.h"

#define KATA__JSON_RECORD_MAX (1024u * 1024u)

int kata__json_parse(const char *what, const char *text, size_t len, size_t max, json_t **ret, kata_error **err);
int kata__json_get_string(const json_t *o, const char *what, const char *key, const char **ret, kata_error **err);
/* The value is absent or null: *ret = NULL. */
int kata__json_get_string_opt(const json_t *o, const char *what, const char *key, const char **ret, kata_error **err);
int kata__json_get_uint(const json_t *o, const char *what, const char *key, uint64_t max, uint64_t *ret,
			kata_error **err);
int kata__json_get_bool(const json_t *o, const char *what, const char *key, bool *ret, kata_error **err);
int kata__json_get_array(const json_t *o, const char *what, const char *key, size_t max_items, json_t **ret,
			 kata_error **err);
int kata__json_get_object(const json_t *o, const char *what, const char *key, json_t **ret, kata_error **err);
/* Every member of the object is one of these; both lists are NULL-terminated, optional may be NULL. Every one of
 * `required` is there. */
int kata__json_check_members(const json_t *o, const char *what, const char *const *required,
			     const char *const *optional, kata_error **err);
/* Adds a member where text is not NULL; -1 when out of memory. (json_pack's "s*" leaves it out then, without a word.)
 */
int kata__json_set_text(json_t *o, const char *key, const char *text);
/* Compact text with sorted keys; NULL when out of memory. Caller frees. */
char *kata__json_dump(const json_t *o);

static inline void kata__cleanup_json_decref(json_t **p)
{
	json_decref(*p);
}
#define KATA_AUTO_JSON __attribute__((cleanup(kata__cleanup_json_decref)))
#endif
