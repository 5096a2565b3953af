/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PROTO_JSON_READER_H
#define KATA_PROTO_JSON_READER_H
/*
 * Reads JSON value by value, straight into where it belongs: no tree in between, so a text costs no more memory than
 * what is kept of it. Needed beside jansson because OCI has unsigned 64-bit numbers (RLIM_INFINITY), which jansson
 * refuses.
 *
 * The reader stands before a value. kata__json_peek() says what kind it is; one of the reading functions passes over
 * it. Arrays and objects:
 *
 *         rc = kata__json_enter(r, '[');
 *         while ((rc = kata__json_next_item(r, &first)) == 1)
 *                 ... read one value ...
 *
 * The functions return 0 (or 1, where said) or a negative status; after one the reader stays where it failed:
 * INVALID means the text is not JSON there, and kata__json_fail_syntax() makes the error. Recursion is the caller's.
 * Strict: UTF-8 is checked, so are escapes and surrogates; NUL in a string is refused; no comments, no trailing commas.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct kata__json_reader {
	const char *text;
	size_t length;
	size_t at;
	const char *why; /* of the last INVALID: "expected ','" */
};

enum kata__json_kind {
	KATA__JSON_NOTHING, /* the text's end, or no value begins here */
	KATA__JSON_NULL,
	KATA__JSON_BOOLEAN,
	KATA__JSON_INTEGER, /* no fraction, no exponent */
	KATA__JSON_REAL,
	KATA__JSON_STRING,
	KATA__JSON_ARRAY,
	KATA__JSON_OBJECT,
};

/* "integer", ...; what an error says was found. */
const char *kata__json_kind_name(enum kata__json_kind kind);

void kata__json_reader_init(struct kata__json_reader *r, const char *text, size_t length);
/* Skips white space. Judges by the first bytes: the value may still turn out broken when it is read. */
enum kata__json_kind kata__json_peek(struct kata__json_reader *r);

int kata__json_read_null(struct kata__json_reader *r);
int kata__json_read_boolean(struct kata__json_reader *r, bool *ret);
/* An integer of any sign that fits in 64 bits: the magnitude, and whether it is negative. *ret_fits is false, and the
 * magnitude UINT64_MAX, when it does not. */
int kata__json_read_integer(struct kata__json_reader *r, bool *ret_negative, uint64_t *ret_magnitude, bool *ret_fits);
/* malloc'ed, NUL-terminated, valid UTF-8; the caller frees it. NO_MEMORY possible. */
int kata__json_read_string(struct kata__json_reader *r, char **ret);

/* Passes the opening bracket, '[' or '{'; *ret_first is the state for the functions below. */
int kata__json_enter(struct kata__json_reader *r, char bracket, bool *ret_first);
/* 1: stands before an item; 0: passed the closing bracket. */
int kata__json_next_item(struct kata__json_reader *r, bool *first);
/* 1: *ret_key (malloc'ed) was read, stands before its value; 0: passed the closing bracket. */
int kata__json_next_key(struct kata__json_reader *r, bool *first, char **ret_key);
/* True, and passes over it, when the value says nothing: null, false, "", [] or {}. */
bool kata__json_skip_void(struct kata__json_reader *r);
/* 0 when only white space is left. */
int kata__json_end(struct kata__json_reader *r);

/* "WHAT is not JSON at byte 17 (line 2): expected ','", INVALID, origin caller; for a status of NO_MEMORY that error.
 */
int kata__json_fail_syntax(const struct kata__json_reader *r, int status, const char *what, kata_error **err);

/* Length of the UTF-8 character at `at`, 1 to 4, or 0 when there is none that is well-formed within `left` bytes. */
size_t kata__utf8_length(const char *at, size_t left);
#endif
