/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a record that came from outside (JSON, rows) may be used. Every text is bounded, UTF-8 and of its form; every
 * number in range; what fields say about one another holds. It does not ask whether pids, paths or devices exist: that
 * is for who uses them.
 */
#include <string.h>

#include "base/text.h"
#include "persist/fields.h"

static bool utf8_next(const unsigned char **p, const unsigned char *end)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	const unsigned char *s = *p;
	uint32_t c = s[0];
	int n = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;

	if (n == 0 || c == 0 || end - s < n)
		return false;
	if (n > 1)
		c &= 0x7fu >> n;
	for (int i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return false;
		c = c << 6 | (s[i] & 0x3fu);
	}
	*p = s + n;
	return c >= least[n] && c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
}

/* Stores check every text they write, so plain ASCII goes eight bytes at a time. */
bool kata__text_is_clean(const char *text, size_t len)
{
	const unsigned char *p = (const unsigned char *)text;
	const unsigned char *end = p + len;
	uint64_t high = 0, words[4];
	size_t i = 0;

	if (len && memchr(text, '\0', len))
		return false;
	for (; i + sizeof(words) <= len; i += sizeof(words)) {
		memcpy(words, text + i, sizeof(words));
		high |= words[0] | words[1] | words[2] | words[3];
	}
	for (; i < len; i++)
		high |= p[i];
	if (!(high & UINT64_C(0x8080808080808080)))
		return true;
	while (p < end)
		if (!utf8_next(&p, end))
			return false;
	return true;
}

static int corrupt(const char *where, const struct kata__field *f, const char *value, const char *expected,
		   kata_error **err)
{
	char *clean = value ? kata__sanitize(value, strnlen(value, 80), false) : NULL;
	int rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: '%s' is not %s", where, f->name, clean ? clean : "",
			    expected);

	free(clean);
	return rc;
}

static bool is_word(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_-");

	return n >= 1 && n <= 32 && s[n] == '\0';
}

static bool is_mac(const char *s)
{
	for (int i = 0; i < 17; i++)
		if (i % 3 == 2 ? s[i] != ':' : !s[i] || !strchr("0123456789abcdef", s[i]))
			return false;
	return s[17] == '\0';
}

static bool items_are(const json_t *array, bool ids)
{
	const json_t *v;
	size_t i;

	if (!json_is_array(array))
		return false;
	json_array_foreach(array, i, v)
	{
		if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
			return false;
		if (ids && !kata__id_is_valid(json_string_value(v)))
			return false;
	}
	return true;
}

static int check_json(const struct kata__field *f, const char *text, size_t len, const char *where, kata_error **err)
{
	KATA_AUTO_JSON json_t *v = NULL;
	char what[160];
	int rc;

	snprintf(what, sizeof(what), "%s.%s", where, f->name);
	rc = kata__json_parse(what, text, len, KATA__FIELD_TEXT_MAX, &v, err);
	if (rc < 0)
		return rc;
	switch (f->rule) {
	case KATA__RULE_OBJECT:
		return json_is_object(v) ? 0 : corrupt(where, f, text, "a JSON object", err);
	case KATA__RULE_ARRAY:
		return json_is_array(v) ? 0 : corrupt(where, f, text, "a JSON array", err);
	case KATA__RULE_IDS:
		return items_are(v, true) ? 0 : corrupt(where, f, text, "a JSON array of ids", err);
	default:
		return items_are(v, false) ? 0 : corrupt(where, f, text, "a JSON array of strings", err);
	}
}

static int check_text(const struct kata__field *f, const char *text, const char *where, kata_error **err)
{
	size_t len;

	if (!text)
		return f->required ? kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: is missing", where, f->name) : 0;
	len = strlen(text);
	if (len > KATA__FIELD_TEXT_MAX)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: has %zu bytes, at most %u are read", where,
				  f->name, len, KATA__FIELD_TEXT_MAX);
	if (!kata__text_is_clean(text, len))
		return corrupt(where, f, text, "UTF-8", err);
	switch (f->rule) {
	case KATA__RULE_NONE:
		return 0;
	case KATA__RULE_ID:
		return kata__id_is_valid(text) ? 0 : corrupt(where, f, text, "an id", err);
	case KATA__RULE_SANDBOX_STATE:
		if (strcmp(text, "running") == 0 || strcmp(text, "paused") == 0 || strcmp(text, "released") == 0)
			return 0;
		return corrupt(where, f, text, "running, paused or released", err);
	case KATA__RULE_WORD:
		return is_word(text) ? 0 : corrupt(where, f, text, "a word of a-z, 0-9, '_', '-'", err);
	case KATA__RULE_UUID:
		return kata__uuid_is_valid(text) ? 0 : corrupt(where, f, text, "a UUID", err);
	case KATA__RULE_PATH:
		return text[0] == '/' ? 0 : corrupt(where, f, text, "an absolute path", err);
	case KATA__RULE_MAC:
		return is_mac(text) ? 0 : corrupt(where, f, text, "a MAC address in lower case", err);
	default:
		return check_json(f, text, len, where, err);
	}
}

int kata__field_check(const struct kata__field *f, const void *row, const char *where, kata_error **err)
{
	int64_t v;

	if (kata__field_is_text(f))
		return check_text(f, kata__field_get_text(f, row), where, err);
	v = kata__field_get_int(f, row);
	if (v < f->min || v > f->max)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: is %lld, must be from %lld to %lld", where,
				  f->name, (long long)v, (long long)f->min, (long long)f->max);
	return 0;
}

int kata__noun_check(const struct kata__noun *n, const void *row, const char *where, kata_error **err)
{
	for (size_t i = 0; i < n->field_count; i++) {
		int rc = kata__field_check(&n->fields[i], row, where, err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/* A row's key: its one or two id fields. */
struct key {
	const char *a, *b;
};

static int compare_keys(const void *x, const void *y)
{
	const struct key *k = x, *l = y;
	int c = strcmp(k->a, l->a);

	return c ? c : strcmp(k->b, l->b);
}

static int sorted_keys(const struct kata__noun *n, const struct kata_record *record, struct key **ret, kata_error **err)
{
	size_t count = kata__noun_count(n, record);
	struct key *keys = calloc(count + 1, sizeof(*keys));

	if (!keys)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < count; i++) {
		const void *row = kata__noun_row(n, record, i);

		keys[i].a = kata__field_get_text(&n->fields[0], row);
		keys[i].b = n->fields[1].key ? kata__field_get_text(&n->fields[1], row) : "";
	}
	qsort(keys, count, sizeof(*keys), compare_keys);
	*ret = keys;
	return 0;
}

static int check_noun(const struct kata__noun *n, const struct kata_record *record, kata_error **err)
{
	size_t count = kata__noun_count(n, record);
	KATA_AUTO(free) struct key *keys = NULL;
	int rc;

	if (count > n->max)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "record.%s: has %zu items, at most %zu are read",
				  n->name, count, n->max);
	for (size_t i = 0; i < count; i++) {
		char where[64];

		snprintf(where, sizeof(where), "record.%s[%zu]", n->name, i);
		rc = kata__noun_check(n, kata__noun_row(n, record, i), where, err);
		if (rc < 0)
			return rc;
	}
	rc = sorted_keys(n, record, &keys, err);
	if (rc < 0)
		return rc;
	for (size_t i = 1; i < count; i++)
		if (compare_keys(&keys[i - 1], &keys[i]) == 0)
			return kata__fail(err, KATA_E_CORRUPT, CALLER, "record.%s: '%s' is there twice", n->name,
					  keys[i].a);
	return 0;
}

static int check_processes(const struct kata_record *record, kata_error **err)
{
	const struct kata__noun *n = &kata__nouns[KATA__NOUN_CONTAINER];
	KATA_AUTO(free) struct key *keys = NULL;
	int rc = sorted_keys(n, record, &keys, err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < record->process_count; i++) {
		struct key k = {record->processes[i].container_id, ""};

		if (!bsearch(&k, keys, record->container_count, sizeof(*keys), compare_keys))
			return kata__fail(err, KATA_E_CORRUPT, CALLER,
					  "record.processes[%zu]: there is no container '%s'", i, k.a);
	}
	return 0;
}

/* A pid without start time and boot id could be anybody's. */
static int check_pid(const char *what, int64_t pid, uint64_t start_time, const char *boot_id, kata_error **err)
{
	if (pid == 0 || (start_time != 0 && boot_id))
		return 0;
	return kata__fail(err, KATA_E_CORRUPT, CALLER,
			  "record.%s: %lld has no %s beside it: a pid alone identifies nobody", what, (long long)pid,
			  boot_id ? "start time" : "boot id");
}

int kata__record_check(const struct kata_record *record, kata_error **err)
{
	int rc = kata__noun_check(&kata__sandbox_noun, record, "record", err);

	for (size_t i = 0; rc == 0 && i < KATA__NOUNS; i++)
		rc = check_noun(&kata__nouns[i], record, err);
	if (rc == 0)
		rc = check_processes(record, err);
	if (rc == 0)
		rc = check_pid("owner_pid", record->owner_pid, record->owner_start_time, record->boot_id, err);
	if (rc == 0)
		rc = check_pid("vm_pid", record->vm_pid, record->vm_start_time, record->boot_id, err);
	return rc;
}
