/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PROTO_TEST_H
#define KATA_PROTO_TEST_H
/* What the tests of src/proto share. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "proto/cursor.h"

#define DATA(name) KATA_SOURCE_DIR "/tests/unit/proto/data/" name

static __attribute__((noinline, unused)) char *read_data(const char *path)
{
	char *text = NULL;
	size_t length;

	cr_assert_eq(kata__read_file(path, 8u << 20, &text, &length, NULL), 0, "%s", path);
	return text;
}

/* The call failed with `status` and a message that contains `part`; frees the error. */
static inline void expect_failure(int rc, int status, const char *part, kata_error **err)
{
	cr_assert_eq(rc, status, "%s", *err ? kata_error_get_message(*err) : "no error");
	cr_assert(*err, "an error must be set");
	cr_assert_eq(kata_error_get_status(*err), status);
	cr_assert(strstr(kata_error_get_message(*err), part), "'%s' lacks '%s'", kata_error_get_message(*err), part);
	cr_assert(!strchr(kata_error_get_message(*err), '\n'));
	kata_error_free(*err);
	*err = NULL;
}

static inline void expect_success(int rc, kata_error **err)
{
	cr_assert_eq(rc, 0, "%s", *err ? kata_error_get_message(*err) : "no error");
	cr_assert(!*err, "success must leave the error alone");
}

static inline struct kata__slice slice_of(const char *text)
{
	return (struct kata__slice){.data = (const uint8_t *)text, .length = strlen(text)};
}

static inline bool slice_is(struct kata__slice s, const char *text)
{
	return s.length == strlen(text) && (!s.length || memcmp(s.data, text, s.length) == 0);
}
#endif
