/* SPDX-License-Identifier: Apache-2.0 */
/* Strict JSON accessors over jansson: every failure names the path and what stands there instead. */
#include "base/json.h"

#include <string.h>

static const char *type_name(const json_t *v)
{
	static const char *const names[] = {"object", "array", "string", "integer", "real", "true", "false", "null"};

	return v ? names[json_typeof(v)] : "nothing";
}

int kata__json_parse(const char *what, const char *text, size_t len, size_t max, json_t **ret, kata_error **err)
{
	json_error_t e;
	json_t *v;

	if (len > max)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: has %zu bytes, at most %zu are read", what, len,
				  max);
	v = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
	if (!v && !e.text[0]) /* jansson has words for all that is wrong but this */
		return kata__fail_no_memory(err);
	if (!v) /* jansson names its own flag where it would have to hold a NUL */
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: not JSON: %s (line %d, byte %d)", what,
				  strstr(e.text, "JSON_ALLOW_NUL") ? "a NUL (\\u0000) may not be in a text" : e.text,
				  e.line, e.position);
	*ret = v;
	return 0;
}

static int wrong(const char *what, const char *key, const char *expected, const json_t *v, kata_error **err)
{
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: expected %s, found %s", what, key, expected,
			  type_name(v));
}

int kata__json_get_string(const json_t *o, const char *what, const char *key, const char **ret, kata_error **err)
{
	const json_t *v = json_object_get(o, key);

	if (!json_is_string(v))
		return wrong(what, key, "a string", v, err);
	if (strlen(json_string_value(v)) != json_string_length(v))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: has a NUL byte", what, key);
	*ret = json_string_value(v);
	return 0;
}

int kata__json_get_string_opt(const json_t *o, const char *what, const char *key, const char **ret, kata_error **err)
{
	const json_t *v = json_object_get(o, key);

	if (!v || json_is_null(v)) {
		*ret = NULL;
		return 0;
	}
	return kata__json_get_string(o, what, key, ret, err);
}

int kata__json_get_uint(const json_t *o, const char *what, const char *key, uint64_t max, uint64_t *ret,
			kata_error **err)
{
	const json_t *v = json_object_get(o, key);

	if (!json_is_integer(v))
		return wrong(what, key, "an integer", v, err);
	if (json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > max)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: is %lld, must be from 0 to %llu", what, key,
				  (long long)json_integer_value(v), (unsigned long long)max);
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

int kata__json_get_bool(const json_t *o, const char *what, const char *key, bool *ret, kata_error **err)
{
	const json_t *v = json_object_get(o, key);

	if (!json_is_boolean(v))
		return wrong(what, key, "true or false", v, err);
	*ret = json_is_true(v);
	return 0;
}

int kata__json_get_array(const json_t *o, const char *what, const char *key, size_t max_items, json_t **ret,
			 kata_error **err)
{
	json_t *v = json_object_get(o, key);

	if (!json_is_array(v))
		return wrong(what, key, "an array", v, err);
	if (json_array_size(v) > max_items)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: has %zu items, at most %zu are read", what, key,
				  json_array_size(v), max_items);
	*ret = v;
	return 0;
}

int kata__json_get_object(const json_t *o, const char *what, const char *key, json_t **ret, kata_error **err)
{
	json_t *v = json_object_get(o, key);

	if (!json_is_object(v))
		return wrong(what, key, "an object", v, err);
	*ret = v;
	return 0;
}

static bool is_listed(const char *key, const char *const *list)
{
	for (size_t i = 0; list && list[i]; i++)
		if (strcmp(list[i], key) == 0)
			return true;
	return false;
}

int kata__json_check_members(const json_t *o, const char *what, const char *const *required,
			     const char *const *optional, kata_error **err)
{
	const char *key;
	json_t *value;

	for (size_t i = 0; required[i]; i++)
		if (!json_object_get(o, required[i]))
			return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: is missing", what, required[i]);
	json_object_foreach((json_t *)(uintptr_t)o, key, value)
	{
		if (!is_listed(key, required) && !is_listed(key, optional))
			return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%.64s: is no member of it", what, key);
	}
	return 0;
}

int kata__json_set_text(json_t *o, const char *key, const char *text)
{
	return text ? json_object_set_new(o, key, json_string(text)) : 0;
}

struct dump {
	char *text;
	size_t len, alloc;
	bool failed;
};

static int dump_append(const char *piece, size_t size, void *user)
{
	struct dump *d = user;
	size_t alloc = d->alloc ? d->alloc : 256;
	char *grown;

	if (d->failed)
		return -1;
	while (alloc < d->len + size + 1)
		alloc *= 2;
	grown = alloc == d->alloc ? d->text : realloc(d->text, alloc);
	if (!grown) {
		d->failed = true;
		return -1;
	}
	d->text = grown;
	d->alloc = alloc;
	memcpy(d->text + d->len, piece, size);
	d->len += size;
	d->text[d->len] = '\0';
	return 0;
}

/* Not json_dumps(): for want of memory that may leave pieces out and yet succeed, since jansson 2.14 does not look at
 * the outcome of writing a key. Here the failure sticks. */
char *kata__json_dump(const json_t *o)
{
	struct dump d = {0};

	if (json_dump_callback(o, dump_append, &d, JSON_COMPACT | JSON_SORT_KEYS) == 0 && !d.failed)
		return d.text;
	free(d.text);
	return NULL;
}
