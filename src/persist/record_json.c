/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A record as JSON and back: docs/released-json.md. Written compact with sorted keys, so that equal records are equal
 * texts. Read strictly: every key is there, none is unknown, and the whole passes kata__record_check.
 */
#include <string.h>

#include "persist/fields.h"

#define FORMAT "kata-sandbox"

static int bad_value(const char *where, const struct kata__field *f, const char *why, kata_error **err)
{
	return kata__fail(err, KATA_E_INVALID, CALLER, "%s.%s: %s", where, f->name, why);
}

static int text_to_json(const struct kata__field *f, const char *text, const char *where, json_t **ret,
			kata_error **err)
{
	size_t len = strlen(text);
	json_error_t e;

	if (len > KATA__FIELD_TEXT_MAX)
		return bad_value(where, f, "is longer than 1 MiB", err);
	if (!kata__text_is_clean(text, len))
		return bad_value(where, f, "is not UTF-8", err);
	if (f->type == KATA__FIELD_TEXT) {
		*ret = json_stringn_nocheck(text, len);
		return *ret ? 0 : kata__fail_no_memory(err);
	}
	*ret = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
	if (!*ret)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s.%s: is not JSON: %s", where, f->name, e.text);
	return 0;
}

static int value_to_json(const struct kata__field *f, const void *row, const char *where, json_t **ret,
			 kata_error **err)
{
	int64_t v;

	if (kata__field_is_text(f)) {
		const char *text = kata__field_get_text(f, row);

		if (text)
			return text_to_json(f, text, where, ret, err);
		if (f->required)
			return bad_value(where, f, "is missing", err);
		*ret = json_null();
		return 0;
	}
	v = kata__field_get_int(f, row);
	if (v < f->min || v > f->max)
		return bad_value(where, f, "is out of range", err);
	*ret = f->type == KATA__FIELD_BOOL ? json_boolean(v) : json_integer(v);
	return *ret ? 0 : kata__fail_no_memory(err);
}

int kata__noun_to_json(const struct kata__noun *n, const void *row, const char *where, json_t **ret, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = json_object();

	if (!o)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < n->field_count; i++) {
		json_t *v = NULL;
		int rc = value_to_json(&n->fields[i], row, where, &v, err);

		if (rc < 0)
			return rc;
		if (json_object_set_new(o, n->fields[i].name, v) < 0)
			return kata__fail_no_memory(err);
	}
	*ret = kata__take_ptr(o);
	return 0;
}

static int rows_to_json(const struct kata__noun *n, const struct kata_record *record, json_t **ret, kata_error **err)
{
	KATA_AUTO_JSON json_t *array = json_array();

	if (!array)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < kata__noun_count(n, record); i++) {
		json_t *o = NULL;
		char where[64];
		int rc;

		snprintf(where, sizeof(where), "record.%s[%zu]", n->name, i);
		rc = kata__noun_to_json(n, kata__noun_row(n, record, i), where, &o, err);
		if (rc < 0)
			return rc;
		if (json_array_append_new(array, o) < 0)
			return kata__fail_no_memory(err);
	}
	*ret = kata__take_ptr(array);
	return 0;
}

int kata__record_to_json_object(const struct kata_record *record, json_t **ret, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = NULL;
	int rc = kata__noun_to_json(&kata__sandbox_noun, record, "record", &o, err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < KATA__NOUNS; i++) {
		json_t *array = NULL;

		rc = rows_to_json(&kata__nouns[i], record, &array, err);
		if (rc < 0)
			return rc;
		if (json_object_set_new(o, kata__nouns[i].name, array) < 0)
			return kata__fail_no_memory(err);
	}
	if (json_object_set_new(o, "format", json_string(FORMAT)) < 0 ||
	    json_object_set_new(o, "version", json_integer(KATA__RECORD_VERSION)) < 0)
		return kata__fail_no_memory(err);
	*ret = kata__take_ptr(o);
	return 0;
}

int kata__record_to_json_text(const struct kata_record *record, char **ret, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = NULL;
	char *text;
	size_t len;
	int rc = kata__record_to_json_object(record, &o, err);

	if (rc < 0)
		return rc;
	text = kata__json_dump(o);
	if (!text)
		return kata__fail_no_memory(err);
	len = strlen(text);
	if (len > KATA__JSON_RECORD_MAX) {
		free(text);
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER,
				  "record: has %zu bytes as JSON, at most %u can be read back", len,
				  KATA__JSON_RECORD_MAX);
	}
	*ret = text;
	return 0;
}

char *kata_record_to_json(const kata_record *record)
{
	char *text = NULL;

	if (!record || kata__record_to_json_text(record, &text, NULL) < 0)
		return NULL;
	return text;
}

/* ---- reading ---- */

static int read_text(const struct kata__field *f, void *row, const json_t *o, const char *where, kata_error **err)
{
	const json_t *v = json_object_get(o, f->name);
	char *copy;

	if (json_is_null(v))
		return 0; /* kata__record_check knows which may be missing */
	if (f->type == KATA__FIELD_JSON) {
		if (!json_is_object(v) && !json_is_array(v))
			return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: expected an object or array", where,
					  f->name);
		copy = kata__json_dump(v);
	} else {
		const char *text = NULL;
		int rc = kata__json_get_string(o, where, f->name, &text, err);

		if (rc < 0)
			return rc;
		copy = strdup(text);
	}
	if (!copy)
		return kata__fail_no_memory(err);
	kata__field_set_text(f, row, copy);
	return 0;
}

static int read_value(const struct kata__field *f, void *row, const json_t *o, const char *where, kata_error **err)
{
	const json_t *v = json_object_get(o, f->name);
	json_int_t number;

	if (!v)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: is missing", where, f->name);
	if (kata__field_is_text(f))
		return read_text(f, row, o, where, err);
	if (f->type == KATA__FIELD_BOOL) {
		bool b = false;
		int rc = kata__json_get_bool(o, where, f->name, &b, err);

		kata__field_set_int(f, row, b);
		return rc;
	}
	number = json_integer_value(v);
	if (!json_is_integer(v) || number < f->min || number > f->max)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: must be an integer from %lld to %lld", where,
				  f->name, (long long)f->min, (long long)f->max);
	kata__field_set_int(f, row, number);
	return 0;
}

static bool is_field(const struct kata__noun *n, const char *key, uint64_t version)
{
	for (size_t i = 0; i < n->field_count; i++)
		if (strcmp(n->fields[i].name, key) == 0)
			return n->fields[i].since <= version;
	return false;
}

/* Keys of a record beside the fields of the sandbox. */
static const char *const top_keys[] = {"format", "version", "storages", "nics", "containers", "processes", NULL};

static bool is_in(const char *const *list, const char *key)
{
	while (list && *list && strcmp(*list, key) != 0)
		list++;
	return list && *list;
}

int kata__noun_from_json(const struct kata__noun *n, void *row, json_t *o, uint64_t version, const char *where,
			 const char *const *other, kata_error **err)
{
	const char *key;
	json_t *v;

	if (!json_is_object(o))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: expected an object", where);
	json_object_foreach(o, key, v)
	{
		KATA_AUTO(free) char *clean = NULL;

		if (is_field(n, key, version) || is_in(other, key))
			continue;
		clean = kata__sanitize(key, strnlen(key, 64), false);
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: has '%s', which version %d does not know", where,
				  clean ? clean : "", (int)version);
	}
	for (size_t i = 0; i < n->field_count; i++) {
		int rc = n->fields[i].since <= version ? read_value(&n->fields[i], row, o, where, err) : 0;

		if (rc < 0)
			return rc;
	}
	return 0;
}

static int read_rows(const struct kata__noun *n, struct kata_record *record, const json_t *top, uint64_t version,
		     kata_error **err)
{
	json_t *array, *v;
	size_t i;
	int rc = kata__json_get_array(top, "record", n->name, n->max, &array, err);

	if (rc < 0)
		return rc;
	if (kata__noun_alloc(n, record, json_array_size(array)) < 0)
		return kata__fail_no_memory(err);
	json_array_foreach(array, i, v)
	{
		char where[64];

		snprintf(where, sizeof(where), "record.%s[%zu]", n->name, i);
		rc = kata__noun_from_json(n, kata__noun_row(n, record, i), v, version, where, NULL, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int check_version(const json_t *top, uint64_t *ret, kata_error **err)
{
	const char *format = NULL;
	uint64_t version = 0;
	int rc;

	if (!json_is_object(top))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "record: expected a JSON object");
	rc = kata__json_get_string(top, "record", "format", &format, err);
	if (rc < 0)
		return rc;
	if (strcmp(format, FORMAT) != 0)
		return kata__fail(err, KATA_E_CORRUPT, CALLER,
				  "record.format: must be '%s': this is no record of a sandbox", FORMAT);
	rc = kata__json_get_uint(top, "record", "version", INT64_MAX, &version, err);
	if (rc < 0)
		return rc;
	if (version < 1 || version > KATA__RECORD_VERSION)
		return kata__fail(err, KATA_E_VERSION, CALLER,
				  "record.version: is %llu, this library reads versions 1 to %d",
				  (unsigned long long)version, KATA__RECORD_VERSION);
	*ret = version;
	return 0;
}

static int read_record(struct kata_record *record, json_t *top, kata_error **err)
{
	uint64_t version = 0;
	int rc = check_version(top, &version, err);

	if (rc == 0)
		rc = kata__noun_from_json(&kata__sandbox_noun, record, top, version, "record", top_keys, err);
	for (size_t i = 0; rc == 0 && i < KATA__NOUNS; i++)
		rc = read_rows(&kata__nouns[i], record, top, version, err);
	return rc == 0 ? kata__record_check(record, err) : rc;
}

int kata__record_from_json(const char *text, size_t len, struct kata_record **ret, kata_error **err)
{
	KATA_AUTO_JSON json_t *top = NULL;
	struct kata_record *record;
	int rc = kata__json_parse("record", text, len, KATA__JSON_RECORD_MAX, &top, err);

	if (rc < 0)
		return rc;
	record = kata__record_new();
	if (!record)
		return kata__fail_no_memory(err);
	rc = read_record(record, top, err);
	if (rc < 0) {
		kata__record_free(record);
		return rc;
	}
	*ret = record;
	return 0;
}
