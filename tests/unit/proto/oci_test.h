/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_OCI_TEST_H
#define KATA_OCI_TEST_H
/* Specs for the tests of the OCI conversion: a smallest one with a piece put in. */
#include "proto/oci.h"
#include "unit/proto/proto_test.h"

/* Members of the spec, of process, of root and of linux; each begins with a comma or is empty. */
struct pieces {
	const char *spec;
	const char *process;
	const char *root;
	const char *linux_;
};

static inline char *spec_with(struct pieces p)
{
	char *text = NULL;

	cr_assert_gt(asprintf(&text,
			      "{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"sh\"],\"cwd\":\"/"
			      "\"%s},\"root\":{\"path\":\"r\"%s}"
			      ",\"linux\":{\"rootfsPropagation\":\"\"%s}%s}",
			      p.process ? p.process : "", p.root ? p.root : "", p.linux_ ? p.linux_ : "",
			      p.spec ? p.spec : ""),
		     0);
	return text;
}

static inline Grpc__Spec *read_spec(const char *text)
{
	Grpc__Spec *spec = NULL;
	kata_error *err = NULL;

	expect_success(kata__oci_spec_from_json(text, strlen(text), &spec, &err), &err);
	return spec;
}

static inline Grpc__Spec *read_with(struct pieces p)
{
	char *text = spec_with(p);
	Grpc__Spec *spec = read_spec(text);

	free(text);
	return spec;
}

static inline void expect_spec_refused(const char *text, int status, const char *part)
{
	Grpc__Spec *spec = NULL;
	kata_error *err = NULL;

	expect_failure(kata__oci_spec_from_json(text, strlen(text), &spec, &err), status, part, &err);
	cr_assert(!spec);
}

static inline void expect_refused_with(struct pieces p, int status, const char *part)
{
	char *text = spec_with(p);

	expect_spec_refused(text, status, part);
	free(text);
}

static inline char *write_spec(const Grpc__Spec *spec)
{
	char *text = NULL;
	size_t length = 0;
	kata_error *err = NULL;

	expect_success(kata__oci_spec_to_json(spec, &text, &length, &err), &err);
	cr_assert_eq(strlen(text), length);
	return text;
}

/* White space outside strings taken out, in place. */
static inline char *compact_json(char *text)
{
	bool in_string = false;
	char *to = text;

	for (const char *at = text; *at; at++) {
		if (*at == '"' && (at == text || at[-1] != '\\'))
			in_string = !in_string;
		if (in_string || !strchr(" \t\r\n", *at))
			*to++ = *at;
	}
	*to = '\0';
	return text;
}
#endif
