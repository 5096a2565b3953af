/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oci_write.c - messages to OCI JSON.
 *
 * The counterpart of oci_read.c, by the same tables. The message may come off the wire, so requirements, words and
 * UTF-8 are checked while writing, and the text is capped.
 */
#include "proto/oci.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "proto/json_reader.h"
#include "proto/oci_schema.h"

struct writing {
	struct kata__buffer out;
	struct kata__oci_path path;
	kata_error **err;
};

static int write_message(struct writing *wr, const ProtobufCMessage *message);

static int put(struct writing *wr, const char *text, size_t length)
{
	int rc = kata__buffer_append(&wr->out, text, length);

	if (rc == -ENOMEM)
		return kata__fail_no_memory(wr->err);
	if (rc)
		return kata__oci_fail(&wr->path, wr->err, "the text exceeds %u bytes", KATA__OCI_WRITE_MAX);
	return 0;
}

static int put_text(struct writing *wr, const char *text)
{
	return put(wr, text, strlen(text));
}

/* ---- scalars */

static int put_escaped(struct writing *wr, unsigned char c)
{
	char text[8];

	if (c >= 0x20)
		snprintf(text, sizeof(text), "\\%c", c);
	else
		snprintf(text, sizeof(text), "\\u%04x", c);
	return put_text(wr, text);
}

static int write_string(struct writing *wr, const char *value)
{
	size_t left = strlen(value);
	const char *from = value;
	int rc = put(wr, "\"", 1);

	for (const char *at = value; !rc && left;) {
		unsigned char c = (unsigned char)*at;
		size_t n = kata__utf8_length(at, left);

		if (!n)
			return kata__oci_fail(&wr->path, wr->err, "a string that is not UTF-8");
		if (c < 0x20 || c == '"' || c == '\\') {
			rc = put(wr, from, (size_t)(at - from));
			if (!rc)
				rc = put_escaped(wr, c);
			from = at + 1;
		}
		at += n;
		left -= n;
	}
	if (!rc)
		rc = put_text(wr, from);
	return rc ? rc : put(wr, "\"", 1);
}

static int write_number(struct writing *wr, const struct kata__oci_field *field, ProtobufCType type, const void *at)
{
	uint64_t value = type == PROTOBUF_C_TYPE_UINT32 ? *(const uint32_t *)at : *(const uint64_t *)at;
	char text[32];
	int rc = kata__oci_check_range(field, &wr->path, (int64_t)value, wr->err);

	if (rc)
		return rc;
	if (type == PROTOBUF_C_TYPE_INT64)
		snprintf(text, sizeof(text), "%" PRId64, (int64_t)value);
	else
		snprintf(text, sizeof(text), "%" PRIu64, value);
	return put_text(wr, text);
}

/* What a message carries are the fields of 1.0, whatever version it came with, and crun 1.8 refuses a later one. */
static const char *version_to_write(const char *version)
{
	return strncmp(version, "1.0", 3) == 0 ? version : "1.0.2";
}

static int write_text_value(struct writing *wr, const struct kata__oci_field *field, const char *text)
{
	int rc = kata__oci_check_string(field, &wr->path, text, wr->err);

	if (rc)
		return rc;
	return write_string(wr, field->flags & KATA__OCI_VERSION ? version_to_write(text) : text);
}

static int write_value(struct writing *wr, const struct kata__oci_field *field, const ProtobufCFieldDescriptor *type,
		       const void *at)
{
	const char *text;

	switch (type->type) {
	case PROTOBUF_C_TYPE_BOOL:
		return put_text(wr, *(const protobuf_c_boolean *)at ? "true" : "false");
	case PROTOBUF_C_TYPE_STRING:
		text = *(char *const *)at;
		return write_text_value(wr, field, text ? text : "");
	case PROTOBUF_C_TYPE_MESSAGE:
		return write_message(wr, *(ProtobufCMessage *const *)at);
	default:
		return write_number(wr, field, type->type, at);
	}
}

/* ---- lists and maps */

static size_t count_of(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *type)
{
	return *(const size_t *)(const void *)((const char *)message + type->quantifier_offset);
}

static int write_list(struct writing *wr, const struct kata__oci_field *field, const ProtobufCFieldDescriptor *type,
		      const ProtobufCMessage *message)
{
	const char *items = *(const char *const *)(const void *)((const char *)message + type->offset);
	size_t item_size = type->type == PROTOBUF_C_TYPE_UINT32 ? sizeof(uint32_t) : sizeof(void *);
	struct kata__oci_field item_field = *field;
	size_t n = count_of(message, type);
	int rc = put(wr, "[", 1);

	item_field.flags &= ~(unsigned)KATA__OCI_REQUIRED;
	for (size_t i = 0; !rc && i < n; i++) {
		size_t before = kata__oci_path_push_index(&wr->path, i);

		if (i)
			rc = put(wr, ",", 1);
		if (!rc)
			rc = write_value(wr, &item_field, type, items + i * item_size);
		if (!rc)
			kata__oci_path_pop(&wr->path, before);
	}
	return rc ? rc : put(wr, "]", 1);
}

static int write_map(struct writing *wr, const ProtobufCFieldDescriptor *type, const ProtobufCMessage *message)
{
	/* All our maps are of strings to strings; their entries are generated alike. */
	Grpc__Spec__AnnotationsEntry *const *entries =
		*(Grpc__Spec__AnnotationsEntry *const *const *)(const void *)((const char *)message + type->offset);
	size_t n = count_of(message, type);
	int rc = put(wr, "{", 1);

	for (size_t i = 0; !rc && i < n; i++) {
		size_t before = kata__oci_path_push_key(&wr->path, entries[i]->key);

		if (i)
			rc = put(wr, ",", 1);
		if (!rc)
			rc = write_string(wr, entries[i]->key);
		if (!rc)
			rc = put(wr, ":", 1);
		if (!rc)
			rc = write_string(wr, entries[i]->value);
		if (!rc)
			kata__oci_path_pop(&wr->path, before);
	}
	return rc ? rc : put(wr, "}", 1);
}

/* ---- messages */

static bool scalar_is_set(const struct kata__oci_field *field, ProtobufCType type, const void *at)
{
	bool keep = field->flags & (KATA__OCI_REQUIRED | KATA__OCI_KEEP_ZERO);

	if (field->flags & KATA__OCI_WILDCARD)
		return *(const int64_t *)at >= 0;
	if (type == PROTOBUF_C_TYPE_BOOL)
		return keep || *(const protobuf_c_boolean *)at;
	if (type == PROTOBUF_C_TYPE_UINT32)
		return keep || *(const uint32_t *)at;
	return keep || *(const uint64_t *)at;
}

static bool is_set(const struct kata__oci_field *field, const ProtobufCFieldDescriptor *type,
		   const ProtobufCMessage *message)
{
	const void *at = (const char *)message + type->offset;
	const char *text;

	if (type->label == PROTOBUF_C_LABEL_REPEATED)
		return count_of(message, type) > 0;
	if (type->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
		return *(const uint32_t *)(const void *)((const char *)message + type->quantifier_offset) == type->id;
	if (type->type == PROTOBUF_C_TYPE_MESSAGE)
		return *(ProtobufCMessage *const *)at != NULL;
	if (type->type == PROTOBUF_C_TYPE_STRING) {
		text = *(char *const *)at;
		return text && *text;
	}
	return scalar_is_set(field, type->type, at);
}

static int write_field(struct writing *wr, const struct kata__oci_field *field, const ProtobufCFieldDescriptor *type,
		       const ProtobufCMessage *message)
{
	int rc = write_string(wr, field->json_name);

	if (!rc)
		rc = put(wr, ":", 1);
	if (rc)
		return rc;
	if (field->flags & KATA__OCI_MAP)
		return write_map(wr, type, message);
	if (type->label == PROTOBUF_C_LABEL_REPEATED)
		return write_list(wr, field, type, message);
	return write_value(wr, field, type, (const char *)message + type->offset);
}

static int write_message(struct writing *wr, const ProtobufCMessage *message)
{
	const ProtobufCMessageDescriptor *descriptor = message->descriptor;
	const struct kata__oci_message *schema = kata__oci_message_of(descriptor);
	bool first = true;
	int rc = put(wr, "{", 1);

	for (unsigned i = 0; !rc && i < descriptor->n_fields; i++) {
		const struct kata__oci_field *field = &schema->fields[i];
		bool set = is_set(field, &descriptor->fields[i], message);
		size_t before = kata__oci_path_push_key(&wr->path, field->json_name ? field->json_name
										    : descriptor->fields[i].name);

		if (set && !field->json_name)
			return kata__oci_fail(&wr->path, wr->err, "has no place in the spec of a Linux container");
		if (!set && field->flags & KATA__OCI_REQUIRED)
			return kata__oci_fail(&wr->path, wr->err, "is missing");
		if (set && !first)
			rc = put(wr, ",", 1);
		if (set && !rc)
			rc = write_field(wr, field, &descriptor->fields[i], message);
		if (rc)
			return rc;
		first = first && !set;
		kata__oci_path_pop(&wr->path, before);
	}
	return rc ? rc : put(wr, "}", 1);
}

/* ---- the whole text */

static int write_text(const char *path, const ProtobufCMessage *message, char **ret_text, size_t *ret_length,
		      kata_error **err)
{
	struct writing wr = {.err = err};
	int rc;

	kata__buffer_init(&wr.out, KATA__OCI_WRITE_MAX);
	kata__oci_path_push_key(&wr.path, path);
	rc = write_message(&wr, message);
	if (!rc)
		rc = put(&wr, "", 1);
	if (!rc) {
		*ret_text = strndup((const char *)kata__buffer_bytes(&wr.out), kata__buffer_len(&wr.out));
		if (!*ret_text)
			rc = kata__fail_no_memory(err);
		else if (ret_length)
			*ret_length = kata__buffer_len(&wr.out) - 1;
	}
	kata__buffer_deinit(&wr.out);
	return rc;
}

int kata__oci_spec_to_json(const Grpc__Spec *spec, char **ret_text, size_t *ret_length, kata_error **err)
{
	return write_text("", &spec->base, ret_text, ret_length, err);
}

int kata__oci_process_to_json(const Grpc__Process *process, char **ret_text, size_t *ret_length, kata_error **err)
{
	return write_text("process", &process->base, ret_text, ret_length, err);
}

int kata__oci_resources_to_json(const Grpc__LinuxResources *resources, char **ret_text, size_t *ret_length,
				kata_error **err)
{
	return write_text("resources", &resources->base, ret_text, ret_length, err);
}
