/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PROTO_OCI_SCHEMA_H
#define KATA_PROTO_OCI_SCHEMA_H
/* How the OCI runtime-spec's JSON and the agent's messages correspond; shared by oci_read.c and oci_write.c. */
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define KATA__OCI_PATH_MAX 512u

enum kata__oci_flag {
	KATA__OCI_REQUIRED =
		1 << 0, /* must be given; a string or list must not be empty; a number is written even when 0 */
	KATA__OCI_KEEP_ZERO = 1 << 1,   /* 0 is a value: it is written */
	KATA__OCI_REFUSE_ZERO = 1 << 2, /* 0 is a value which the message cannot tell from "not set": it is not read */
	KATA__OCI_WILDCARD = 1 << 4,    /* not given means "any", which the message says as -1 */
	KATA__OCI_ABSOLUTE = 1 << 5,    /* a path from the root */
	KATA__OCI_VERSION = 1 << 6,     /* 1.x */
	KATA__OCI_ACCESS = 1 << 7,      /* letters of "rwm" */
	KATA__OCI_MAP = 1 << 8,         /* an object of strings */
};

struct kata__oci_field {
	const char *json_name; /* NULL: has no place in JSON, must not be set */
	unsigned flags;
	const char *const *words; /* NULL-terminated: the only values allowed; NULL: any */
	int64_t low, high;        /* the only numbers allowed; both 0: all of the field's type */
};

/* A field of the runtime-spec that the message lacks. Leaving it out changes nothing when its value is `true`
 * (harmless_true) or `harmless_number` (other than 0). */
struct kata__oci_refused {
	const char *json_name;
	bool harmless_true;
	unsigned harmless_number;
};

struct kata__oci_message {
	const ProtobufCMessageDescriptor *descriptor;
	const struct kata__oci_field *fields;    /* as many as the descriptor has, in its order */
	const struct kata__oci_refused *refused; /* ends with a NULL name; may be NULL */
};

/* NULL for a message that is not part of a spec. */
const struct kata__oci_message *kata__oci_message_of(const ProtobufCMessageDescriptor *descriptor);

/* "linux.devices[3].type": where in the JSON we are. Longer ones are cut. */
struct kata__oci_path {
	char text[KATA__OCI_PATH_MAX];
	size_t length;
};

/* Each returns the length before, for kata__oci_path_pop(). A key may be foreign: what is not printable becomes '?'. */
size_t kata__oci_path_push_key(struct kata__oci_path *path, const char *key);
size_t kata__oci_path_push_index(struct kata__oci_path *path, size_t index);
void kata__oci_path_pop(struct kata__oci_path *path, size_t length);

/* INVALID, origin caller: "PATH: " and the rest. */
int kata__oci_fail(const struct kata__oci_path *path, kata_error **err, const char *fmt, ...) KATA__PRINTF(3, 4);
/* The value against the field's low and high. */
int kata__oci_check_range(const struct kata__oci_field *field, const struct kata__oci_path *path, int64_t value,
			  kata_error **err);
/* The value against the field's words and flags. */
int kata__oci_check_string(const struct kata__oci_field *field, const struct kata__oci_path *path, const char *value,
			   kata_error **err);
#endif
