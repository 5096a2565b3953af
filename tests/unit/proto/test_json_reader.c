/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/json_limits.h"
#include "proto/json_reader.h"
#include "unit/proto/proto_test.h"

static struct kata__json_reader over(const char *text)
{
	struct kata__json_reader r;

	kata__json_reader_init(&r, text, strlen(text));
	return r;
}

static void expect_string(const char *text, const char *value)
{
	struct kata__json_reader r = over(text);
	char *s = NULL;

	cr_assert_eq(kata__json_read_string(&r, &s), 0, "%s: %s", text, r.why);
	cr_assert_str_eq(s, value);
	cr_assert_eq(r.at, r.length);
	free(s);
}

static void expect_bad_string(const char *text, const char *why)
{
	struct kata__json_reader r = over(text);
	char *s = NULL;

	cr_assert_eq(kata__json_read_string(&r, &s), KATA_E_INVALID, "%s", text);
	cr_assert_str_eq(r.why, why);
	cr_assert(!s);
}

Test(json_reader, strings_and_their_escapes)
{
	expect_string("\"\"", "");
	expect_string(" \n\t\r\"a\"", "a");
	expect_string("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t");
	expect_string("\"\\u0041\\u00e9\\u20AC\\ud83d\\uDE00\"", "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
	expect_string("\"\xf4\x8f\xbf\xbf\"", "\xf4\x8f\xbf\xbf");
}

Test(json_reader, broken_strings_are_refused)
{
	expect_bad_string("x", "expected a string");
	expect_bad_string("\"a", "a string without its end");
	expect_bad_string("\"a\\", "an unknown escape");
	expect_bad_string("\"a\\\"", "a string without its end");
	expect_bad_string("\"\\x\"", "an unknown escape");
	expect_bad_string("\"\n\"", "a control character in a string");
	expect_bad_string("\"\\u12g4\"", "expected four hex digits");
	expect_bad_string("\"\\u12\"", "expected four hex digits");
	expect_bad_string("\"\\u0000\"", "a NUL in a string is not allowed");
	expect_bad_string("\"\\udc00\"", "a low surrogate without a high one");
	expect_bad_string("\"\\ud800\"", "a high surrogate without a low one");
	expect_bad_string("\"\\ud800\\u0041\"", "a high surrogate without a low one");
}

Test(json_reader, what_is_not_utf_8_is_refused)
{
	static const char *const bad[] = {
		"\"\x80\"",
		"\"\xc3\"",
		"\"\xc0\x80\"",
		"\"\xc1\xbf\"",
		"\"\xe0\x9f\xbf\"",
		"\"\xed\xa0\x80\"",
		"\"\xf0\x8f\xbf\xbf\"",
		"\"\xf4\x90\x80\x80\"",
		"\"\xf5\x80\x80\x80\"",
		"\"\xff\"",
		"\"\xe2\x82\"",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		expect_bad_string(bad[i], "a string that is not UTF-8");
}

Test(json_reader, integers_to_the_ends_of_64_bits)
{
	static const struct {
		const char *text;
		bool negative;
		uint64_t magnitude;
		bool fits;
	} cases[] = {
		{"0", false, 0, true},
		{"-0", true, 0, true},
		{"-9223372036854775808", true, 9223372036854775808u, true},
		{"18446744073709551615", false, UINT64_MAX, true},
		{"18446744073709551616", false, UINT64_MAX, false},
		{"-99999999999999999999999999", true, UINT64_MAX, false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kata__json_reader r = over(cases[i].text);
		bool negative, fits;
		uint64_t magnitude;

		cr_assert_eq(kata__json_peek(&r), KATA__JSON_INTEGER);
		cr_assert_eq(kata__json_read_integer(&r, &negative, &magnitude, &fits), 0);
		cr_assert_eq(negative, cases[i].negative, "%s", cases[i].text);
		cr_assert_eq(magnitude, cases[i].magnitude, "%s", cases[i].text);
		cr_assert_eq(fits, cases[i].fits, "%s", cases[i].text);
		cr_assert_eq(kata__json_end(&r), 0);
	}
}

Test(json_reader, kinds_are_told_by_their_beginning)
{
	static const struct {
		const char *text;
		enum kata__json_kind kind;
	} cases[] = {
		{" null", KATA__JSON_NULL}, {"true", KATA__JSON_BOOLEAN}, {"-5", KATA__JSON_INTEGER},
		{"1.5", KATA__JSON_REAL},   {"1e3", KATA__JSON_REAL},     {"1E-3", KATA__JSON_REAL},
		{"\"", KATA__JSON_STRING},  {"[", KATA__JSON_ARRAY},      {"{", KATA__JSON_OBJECT},
		{"", KATA__JSON_NOTHING},   {"-", KATA__JSON_NOTHING},    {"+1", KATA__JSON_NOTHING},
		{"1.", KATA__JSON_NOTHING}, {"1e", KATA__JSON_NOTHING},   {".5", KATA__JSON_NOTHING},
		{"}", KATA__JSON_NOTHING},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kata__json_reader r = over(cases[i].text);

		cr_assert_eq(kata__json_peek(&r), cases[i].kind, "%s", cases[i].text);
	}
}

Test(json_reader, booleans_and_null)
{
	struct kata__json_reader r = over("true false null");
	bool b;

	cr_assert_eq(kata__json_read_boolean(&r, &b), 0);
	cr_assert(b);
	cr_assert_eq(kata__json_read_boolean(&r, &b), 0);
	cr_assert(!b);
	cr_assert_eq(kata__json_read_null(&r), 0);
	r = over("tru");
	cr_assert_eq(kata__json_read_boolean(&r, &b), KATA_E_INVALID);
	r = over("nil");
	cr_assert_eq(kata__json_read_null(&r), KATA_E_INVALID);
}

/* Reads an array of integers; returns how many, or the status. */
static int read_integers(const char *text)
{
	struct kata__json_reader r = over(text);
	bool first, negative, fits;
	uint64_t v;
	int count = 0;
	int rc = kata__json_enter(&r, '[', &first);

	while (!rc && (rc = kata__json_next_item(&r, &first)) == 1) {
		rc = kata__json_read_integer(&r, &negative, &v, &fits);
		count++;
	}
	if (!rc)
		rc = kata__json_end(&r);
	return rc ? rc : count;
}

Test(json_reader, arrays)
{
	cr_assert_eq(read_integers("[]"), 0);
	cr_assert_eq(read_integers(" [ 1 , 2,3 ] \n"), 3);
}

Test(json_reader, broken_arrays_are_refused)
{
	static const char *const bad[] = {"",      "[",   "[1",  "[1,",  "[1,]", "[,1]",
					  "[1 2]", "[1}", "{1]", "[1]x", "[01]", "[1],"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(read_integers(bad[i]), KATA_E_INVALID, "%s", bad[i]);
}

/* Reads an object of integers; returns how many keys, or the status. */
static int read_keys(const char *text)
{
	struct kata__json_reader r = over(text);
	bool first, negative, fits;
	uint64_t v;
	char *key;
	int count = 0;
	int rc = kata__json_enter(&r, '{', &first);

	while (!rc && (rc = kata__json_next_key(&r, &first, &key)) == 1) {
		free(key);
		rc = kata__json_read_integer(&r, &negative, &v, &fits);
		count++;
	}
	if (!rc)
		rc = kata__json_end(&r);
	return rc ? rc : count;
}

Test(json_reader, objects)
{
	cr_assert_eq(read_keys("{}"), 0);
	cr_assert_eq(read_keys("{ \"a\" : 1 , \"b\":2}"), 2);
}

Test(json_reader, broken_objects_are_refused)
{
	static const char *const bad[] = {
		"{",   "{\"a\"", "{\"a\":", "{\"a\":}",  "{\"a\" 1}",         "{\"a\":1",  "{\"a\":1,}",
		"{,}", "{a:1}",  "{1:1}",   "{\"a\":1]", "{\"a\":1 \"b\":2}", "{\"a\"::1}"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(read_keys(bad[i]), KATA_E_INVALID, "%s", bad[i]);
}

Test(json_reader, a_void_value_is_passed_over_and_another_is_not)
{
	static const char *const voids[] = {"null", " false", "\"\"", "[]", "{ }", "\n[\t]"};
	static const char *const others[] = {"", "true", "0", "\"a\"", "[0]", "{\"a\":1}", "[}", "{]", "[", "nul"};

	for (size_t i = 0; i < sizeof(voids) / sizeof(voids[0]); i++) {
		struct kata__json_reader r = over(voids[i]);

		cr_assert(kata__json_skip_void(&r), "%s", voids[i]);
		cr_assert_eq(r.at, r.length, "%s", voids[i]);
	}
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		struct kata__json_reader r = over(others[i]);

		cr_assert(!kata__json_skip_void(&r), "%s", others[i]);
		cr_assert_eq(r.at, 0, "%s", others[i]);
	}
}

Test(json_reader, a_syntax_error_says_where_and_why)
{
	struct kata__json_reader r = over("[\n1 2]");
	kata_error *err = NULL;
	bool first, negative, fits;
	uint64_t v;
	int rc;

	kata__json_enter(&r, '[', &first);
	kata__json_next_item(&r, &first);
	kata__json_read_integer(&r, &negative, &v, &fits);
	rc = kata__json_next_item(&r, &first);
	expect_failure(kata__json_fail_syntax(&r, rc, "the text", &err), KATA_E_INVALID,
		       "the text is not JSON at byte 4 (line 2): expected ',' or ']'", &err);
}

Test(json_reader, a_nul_byte_ends_nothing)
{
	struct kata__json_reader r;
	char *s;

	kata__json_reader_init(&r, "\"a\0b\"", 5);
	cr_assert_eq(kata__json_read_string(&r, &s), KATA_E_INVALID);
	kata__json_reader_init(&r, "\0", 1);
	cr_assert_eq(kata__json_peek(&r), KATA__JSON_NOTHING);
	cr_assert_eq(kata__json_end(&r), KATA_E_INVALID);
}

/* ---- limits */

Test(json_limits, depth_and_values_are_counted_outside_strings)
{
	const char *text = "{\"a\": [1, 2, {\"b\": \"[[[[,,,{\\\"[[[\"}], \"c\": []}";
	struct kata__json_cost cost = kata__json_cost(text, strlen(text));

	cr_assert_eq(cost.depth, 3);
	cr_assert_eq(cost.values, 8);
}

Test(json_limits, unbalanced_text_is_counted_without_overrun)
{
	cr_assert_eq(kata__json_cost("]]]}}}[", 7).depth, 1);
	cr_assert_eq(kata__json_cost("\"abc\\", 5).depth, 0);
	cr_assert_eq(kata__json_cost(NULL, 0).depth, 0);
	cr_assert_eq(kata__json_cost("[[[[", 4).depth, 4);
}
