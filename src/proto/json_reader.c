/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json_reader.c - a strict pull reader for JSON (RFC 8259).
 *
 * Invariants: 1. at <= length, and text[at] is looked at only while at < length. 2. a string is allocated once, with
 * the length of its source text, which its value never exceeds.
 */
#include "proto/json_reader.h"

#include <stdlib.h>
#include <string.h>

void kata__json_reader_init(struct kata__json_reader *r, const char *text, size_t length)
{
	*r = (struct kata__json_reader){.text = text, .length = length};
}

const char *kata__json_kind_name(enum kata__json_kind kind)
{
	static const char *const names[] = {
		[KATA__JSON_NOTHING] = "nothing", [KATA__JSON_NULL] = "null",        [KATA__JSON_BOOLEAN] = "boolean",
		[KATA__JSON_INTEGER] = "integer", [KATA__JSON_REAL] = "real number", [KATA__JSON_STRING] = "string",
		[KATA__JSON_ARRAY] = "array",     [KATA__JSON_OBJECT] = "object",
	};

	return names[kind];
}

static int invalid(struct kata__json_reader *r, const char *why)
{
	r->why = why;
	return KATA_E_INVALID;
}

/* The byte at the reader, or 0 at the end (a NUL in the text is no valid JSON anywhere, so the two need not differ). */
static char here(const struct kata__json_reader *r)
{
	return r->at < r->length ? r->text[r->at] : '\0';
}

static void skip_space(struct kata__json_reader *r)
{
	while (here(r) == ' ' || here(r) == '\t' || here(r) == '\n' || here(r) == '\r')
		r->at++;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* ---- scalars */

/* End of the number at the reader; 0 when there is none. */
static size_t number_end(const struct kata__json_reader *r, bool *ret_is_real)
{
	struct kata__json_reader n = *r;

	*ret_is_real = false;
	if (here(&n) == '-')
		n.at++;
	if (!is_digit(here(&n)))
		return 0;
	if (here(&n) == '0')
		n.at++;
	else
		while (is_digit(here(&n)))
			n.at++;
	if (here(&n) == '.') {
		*ret_is_real = true;
		n.at++;
		if (!is_digit(here(&n)))
			return 0;
		while (is_digit(here(&n)))
			n.at++;
	}
	if (here(&n) == 'e' || here(&n) == 'E') {
		*ret_is_real = true;
		n.at++;
		if (here(&n) == '+' || here(&n) == '-')
			n.at++;
		if (!is_digit(here(&n)))
			return 0;
		while (is_digit(here(&n)))
			n.at++;
	}
	return n.at;
}

enum kata__json_kind kata__json_peek(struct kata__json_reader *r)
{
	bool is_real;

	skip_space(r);
	switch (here(r)) {
	case 'n':
		return KATA__JSON_NULL;
	case 't':
	case 'f':
		return KATA__JSON_BOOLEAN;
	case '"':
		return KATA__JSON_STRING;
	case '[':
		return KATA__JSON_ARRAY;
	case '{':
		return KATA__JSON_OBJECT;
	default:
		if (!number_end(r, &is_real))
			return KATA__JSON_NOTHING;
		return is_real ? KATA__JSON_REAL : KATA__JSON_INTEGER;
	}
}

static int read_word(struct kata__json_reader *r, const char *word)
{
	size_t length = strlen(word);

	if (r->length - r->at < length || memcmp(r->text + r->at, word, length) != 0)
		return invalid(r, "expected a value");
	r->at += length;
	return 0;
}

int kata__json_read_null(struct kata__json_reader *r)
{
	skip_space(r);
	return read_word(r, "null");
}

int kata__json_read_boolean(struct kata__json_reader *r, bool *ret)
{
	int rc;

	skip_space(r);
	rc = read_word(r, here(r) == 't' ? "true" : "false");
	if (!rc)
		*ret = r->text[r->at - 2] == 'u';
	return rc;
}

int kata__json_read_integer(struct kata__json_reader *r, bool *ret_negative, uint64_t *ret_magnitude, bool *ret_fits)
{
	bool is_real, negative;
	bool fits = true;
	uint64_t v = 0;
	size_t end;

	skip_space(r);
	end = number_end(r, &is_real);
	if (!end || is_real)
		return invalid(r, "expected an integer");
	negative = here(r) == '-';
	for (size_t i = r->at + negative; i < end; i++) {
		unsigned digit = (unsigned)(r->text[i] - '0');

		if (v > (UINT64_MAX - digit) / 10) {
			v = UINT64_MAX;
			fits = false;
			break;
		}
		v = v * 10 + digit;
	}
	r->at = end;
	*ret_negative = negative;
	*ret_magnitude = v;
	*ret_fits = fits;
	return 0;
}

/* ---- strings */

size_t kata__utf8_length(const char *at, size_t left)
{
	const uint8_t *b = (const uint8_t *)at;
	size_t n;

	if (!left)
		return 0;
	if (b[0] < 0x80)
		return 1;
	n = b[0] >= 0xf0 ? 4 : b[0] >= 0xe0 ? 3 : 2;
	if (b[0] < 0xc2 || b[0] > 0xf4 || n > left)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((b[i] & 0xc0) != 0x80)
			return 0;
	/* Overlong forms, surrogates, and what is past U+10FFFF. */
	if ((b[0] == 0xe0 && b[1] < 0xa0) || (b[0] == 0xed && b[1] > 0x9f) || (b[0] == 0xf0 && b[1] < 0x90) ||
	    (b[0] == 0xf4 && b[1] > 0x8f))
		return 0;
	return n;
}

static size_t put_utf8(char *out, uint32_t c)
{
	if (c < 0x80) {
		out[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		out[0] = (char)(0xc0 | c >> 6);
		out[1] = (char)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		out[0] = (char)(0xe0 | c >> 12);
		out[1] = (char)(0x80 | (c >> 6 & 0x3f));
		out[2] = (char)(0x80 | (c & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | c >> 18);
	out[1] = (char)(0x80 | (c >> 12 & 0x3f));
	out[2] = (char)(0x80 | (c >> 6 & 0x3f));
	out[3] = (char)(0x80 | (c & 0x3f));
	return 4;
}

static bool read_hex4(struct kata__json_reader *r, uint32_t *ret)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < 4; i++, r->at++) {
		char c = here(r);

		if (is_digit(c))
			v = v << 4 | (uint32_t)(c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			v = v << 4 | (uint32_t)((c | 0x20) - 'a' + 10);
		else
			return false;
	}
	*ret = v;
	return true;
}

/* Behind "\u": one or, for a pair of surrogates, two of them. */
static int read_unicode(struct kata__json_reader *r, uint32_t *ret)
{
	uint32_t low;

	if (!read_hex4(r, ret))
		return invalid(r, "expected four hex digits");
	if (*ret == 0)
		return invalid(r, "a NUL in a string is not allowed");
	if (*ret >= 0xdc00 && *ret <= 0xdfff)
		return invalid(r, "a low surrogate without a high one");
	if (*ret < 0xd800 || *ret > 0xdbff)
		return 0;
	if (read_word(r, "\\u") || !read_hex4(r, &low) || low < 0xdc00 || low > 0xdfff)
		return invalid(r, "a high surrogate without a low one");
	*ret = 0x10000 + ((*ret - 0xd800) << 10) + (low - 0xdc00);
	return 0;
}

/* Behind a backslash. */
static int read_escape(struct kata__json_reader *r, char *out, size_t *used)
{
	static const char letters[] = "\"\\/bfnrt";
	static const char values[] = "\"\\/\b\f\n\r\t";
	const char *letter;
	uint32_t c;
	int rc;

	if (here(r) == 'u') {
		r->at++;
		rc = read_unicode(r, &c);
		if (!rc)
			*used += put_utf8(out + *used, c);
		return rc;
	}
	letter = here(r) ? strchr(letters, here(r)) : NULL;
	if (!letter)
		return invalid(r, "an unknown escape");
	r->at++;
	out[(*used)++] = values[letter - letters];
	return 0;
}

/* Behind the opening quote; `out` has room for all of the source text. */
static int read_characters(struct kata__json_reader *r, char *out)
{
	size_t used = 0;
	size_t n;
	int rc;

	while (here(r) != '"') {
		if (r->at >= r->length)
			return invalid(r, "a string without its end");
		if ((unsigned char)here(r) < 0x20)
			return invalid(r, "a control character in a string");
		if (here(r) == '\\') {
			r->at++;
			rc = read_escape(r, out, &used);
			if (rc)
				return rc;
			continue;
		}
		n = kata__utf8_length(r->text + r->at, r->length - r->at);
		if (!n)
			return invalid(r, "a string that is not UTF-8");
		memcpy(out + used, r->text + r->at, n);
		used += n;
		r->at += n;
	}
	r->at++;
	out[used] = '\0';
	return 0;
}

/* Bytes up to the closing quote, or to the text's end. */
static size_t source_length(const struct kata__json_reader *r)
{
	size_t i = r->at;

	while (i < r->length && r->text[i] != '"')
		i += r->text[i] == '\\' ? 2 : 1;
	return (i < r->length ? i : r->length) - r->at;
}

int kata__json_read_string(struct kata__json_reader *r, char **ret)
{
	char *out;
	int rc;

	skip_space(r);
	if (here(r) != '"')
		return invalid(r, "expected a string");
	r->at++;
	out = malloc(source_length(r) + 1);
	if (!out)
		return KATA_E_NO_MEMORY;
	rc = read_characters(r, out);
	if (rc) {
		free(out);
		return rc;
	}
	*ret = out;
	return 0;
}

/* ---- arrays and objects */

int kata__json_enter(struct kata__json_reader *r, char bracket, bool *ret_first)
{
	skip_space(r);
	if (here(r) != bracket)
		return invalid(r, bracket == '[' ? "expected '['" : "expected '{'");
	r->at++;
	*ret_first = true;
	return 0;
}

static int next(struct kata__json_reader *r, char closing, bool *first)
{
	skip_space(r);
	if (here(r) == closing) {
		r->at++;
		return 0;
	}
	if (!*first) {
		if (here(r) != ',')
			return invalid(r, closing == ']' ? "expected ',' or ']'" : "expected ',' or '}'");
		r->at++;
	}
	*first = false;
	return 1;
}

int kata__json_next_item(struct kata__json_reader *r, bool *first)
{
	int rc = next(r, ']', first);

	if (rc == 1 && kata__json_peek(r) == KATA__JSON_NOTHING)
		return invalid(r, "expected a value");
	return rc;
}

int kata__json_next_key(struct kata__json_reader *r, bool *first, char **ret_key)
{
	char *key = NULL;
	int rc = next(r, '}', first);

	if (rc != 1)
		return rc;
	rc = kata__json_read_string(r, &key);
	if (rc)
		return rc;
	skip_space(r);
	if (here(r) != ':') {
		free(key);
		return invalid(r, "expected ':'");
	}
	r->at++;
	if (kata__json_peek(r) == KATA__JSON_NOTHING) {
		free(key);
		return invalid(r, "expected a value");
	}
	*ret_key = key;
	return 1;
}

bool kata__json_skip_void(struct kata__json_reader *r)
{
	static const char *const words[] = {"null", "false", "\"\""};
	struct kata__json_reader ahead = *r;
	char closing;

	skip_space(&ahead);
	for (size_t i = 0; i < kata__array_size(words); i++) {
		if (read_word(&ahead, words[i]) == 0) {
			r->at = ahead.at;
			return true;
		}
	}
	closing = here(&ahead) == '[' ? ']' : '}';
	if (here(&ahead) != '[' && here(&ahead) != '{')
		return false;
	ahead.at++;
	skip_space(&ahead);
	if (here(&ahead) != closing)
		return false;
	r->at = ahead.at + 1;
	return true;
}

int kata__json_end(struct kata__json_reader *r)
{
	skip_space(r);
	return r->at == r->length ? 0 : invalid(r, "expected the end of the text");
}

int kata__json_fail_syntax(const struct kata__json_reader *r, int status, const char *what, kata_error **err)
{
	size_t line = 1;

	if (status == KATA_E_NO_MEMORY)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < r->at; i++)
		line += r->text[i] == '\n';
	return kata__fail(err, KATA_E_INVALID, CALLER, "%s is not JSON at byte %zu (line %zu): %s", what, r->at, line,
			  r->why);
}
