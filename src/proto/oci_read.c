/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oci_read.c - OCI JSON to messages.
 *
 * One function reads a message by walking its descriptor beside its table in oci_schema.c; what differs between
 * messages is in those tables alone. A message is hung into its parent before it is filled, and a list's count is
 * raised after its item is there, so that after a failure freeing the root frees everything.
 *
 * Recursion is as deep as the schema (7), whatever the text: a value that no field asks for is not entered.
 */
#include "proto/oci.h"

#include <inttypes.h>
#include <string.h>

#include "proto/json_reader.h"
#include "proto/oci_schema.h"

struct reading {
	struct kata__json_reader json;
	struct kata__oci_path path;
	const char *what; /* "the OCI spec" */
	kata_error **err;
};

static int read_message(struct reading *rd, const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage *message);

static int fail_syntax(struct reading *rd, int status)
{
	return kata__json_fail_syntax(&rd->json, status, rd->what, rd->err);
}

static int expect(struct reading *rd, enum kata__json_kind kind)
{
	static const char *const nouns[] = {
		[KATA__JSON_BOOLEAN] = "a boolean", [KATA__JSON_INTEGER] = "an integer",
		[KATA__JSON_STRING] = "a string",   [KATA__JSON_ARRAY] = "an array",
		[KATA__JSON_OBJECT] = "an object",
	};
	enum kata__json_kind found = kata__json_peek(&rd->json);

	if (found == kind)
		return 0;
	return kata__oci_fail(&rd->path, rd->err, "expected %s, found %s", nouns[kind], kata__json_kind_name(found));
}

/* ---- scalars */

/* Smallest and largest number of a field's type. */
static void limits_of(ProtobufCType type, uint64_t *ret_lowest, uint64_t *ret_highest)
{
	*ret_lowest = type == PROTOBUF_C_TYPE_INT64 ? (uint64_t)INT64_MAX + 1 : 0;
	*ret_highest = type == PROTOBUF_C_TYPE_INT64    ? (uint64_t)INT64_MAX
		       : type == PROTOBUF_C_TYPE_UINT32 ? UINT32_MAX
							: UINT64_MAX;
}

static int check_number(struct reading *rd, const struct kata__oci_field *field, uint64_t value)
{
	if (field->flags & KATA__OCI_REFUSE_ZERO && !value)
		return kata__fail(rd->err, KATA_E_UNSUPPORTED, CALLER,
				  "%s: 0 cannot be told from \"not set\" in the agent's protocol", rd->path.text);
	return kata__oci_check_range(field, &rd->path, (int64_t)value, rd->err);
}

static int read_number(struct reading *rd, const struct kata__oci_field *field, ProtobufCType type, void *at)
{
	uint64_t lowest, highest, magnitude, value;
	bool negative, fits;
	int rc = expect(rd, KATA__JSON_INTEGER);

	if (rc)
		return rc;
	rc = kata__json_read_integer(&rd->json, &negative, &magnitude, &fits);
	if (rc)
		return fail_syntax(rd, rc);
	limits_of(type, &lowest, &highest);
	if (!fits || magnitude > (negative ? lowest : highest))
		return kata__oci_fail(&rd->path, rd->err, "expected an integer from %s%" PRIu64 " to %" PRIu64,
				      lowest ? "-" : "", lowest, highest);
	value = negative ? 0 - magnitude : magnitude;
	rc = check_number(rd, field, value);
	if (rc)
		return rc;
	if (type == PROTOBUF_C_TYPE_UINT32)
		*(uint32_t *)at = (uint32_t)value;
	else
		*(uint64_t *)at = value;
	return 0;
}

static int read_boolean(struct reading *rd, protobuf_c_boolean *at)
{
	bool value;
	int rc = expect(rd, KATA__JSON_BOOLEAN);

	if (rc)
		return rc;
	rc = kata__json_read_boolean(&rd->json, &value);
	if (rc)
		return fail_syntax(rd, rc);
	*at = value;
	return 0;
}

static int read_string(struct reading *rd, const struct kata__oci_field *field, char **at)
{
	char *value;
	int rc = expect(rd, KATA__JSON_STRING);

	if (rc)
		return rc;
	rc = kata__json_read_string(&rd->json, &value);
	if (rc)
		return fail_syntax(rd, rc);
	*at = value;
	return kata__oci_check_string(field, &rd->path, value, rd->err);
}

static int new_message(struct reading *rd, const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **at)
{
	ProtobufCMessage *message = malloc(descriptor->sizeof_message);

	if (!message)
		return kata__fail_no_memory(rd->err);
	protobuf_c_message_init(descriptor, message);
	*at = message;
	return 0;
}

static int read_value(struct reading *rd, const struct kata__oci_field *field, const ProtobufCFieldDescriptor *type,
		      void *at)
{
	int rc;

	switch (type->type) {
	case PROTOBUF_C_TYPE_BOOL:
		return read_boolean(rd, at);
	case PROTOBUF_C_TYPE_STRING:
		return read_string(rd, field, at);
	case PROTOBUF_C_TYPE_MESSAGE:
		rc = expect(rd, KATA__JSON_OBJECT);
		if (!rc)
			rc = new_message(rd, type->descriptor, at);
		return rc ? rc : read_message(rd, type->descriptor, *(ProtobufCMessage **)at);
	default:
		return read_number(rd, field, type->type, at);
	}
}

/* ---- lists and maps */

struct list {
	size_t *count;
	void **items;
	size_t item_size;
};

static struct list list_of(ProtobufCMessage *message, const ProtobufCFieldDescriptor *type)
{
	return (struct list){
		.count = (size_t *)(void *)((char *)message + type->quantifier_offset),
		.items = (void **)(void *)((char *)message + type->offset),
		.item_size = type->type == PROTOBUF_C_TYPE_UINT32 ? sizeof(uint32_t) : sizeof(void *),
	};
}

/* Room for one more item, zeroed, not counted yet: the room is doubled whenever the count is a power of two. */
static int grow(struct reading *rd, const struct list *list, void **ret_item)
{
	size_t n = *list->count;

	if (n >= KATA__OCI_ITEMS_MAX)
		return kata__oci_fail(&rd->path, rd->err, "more than %u items", KATA__OCI_ITEMS_MAX);
	if (!(n & (n - 1))) {
		void *items = realloc(*list->items, (n ? 2 * n : 1) * list->item_size);

		if (!items)
			return kata__fail_no_memory(rd->err);
		*list->items = items;
	}
	*ret_item = (char *)*list->items + n * list->item_size;
	memset(*ret_item, 0, list->item_size);
	return 0;
}

static int read_item(struct reading *rd, const struct kata__oci_field *field, const ProtobufCFieldDescriptor *type,
		     const struct list *list)
{
	size_t before = kata__oci_path_push_index(&rd->path, *list->count);
	void *item;
	int rc = grow(rd, list, &item);

	if (rc)
		return rc;
	/* Counted first: what a failed read leaves in the zeroed item is freed with the message. */
	++*list->count;
	rc = read_value(rd, field, type, item);
	kata__oci_path_pop(&rd->path, before);
	return rc;
}

static int read_list(struct reading *rd, const struct kata__oci_field *field, const ProtobufCFieldDescriptor *type,
		     ProtobufCMessage *message)
{
	struct list list = list_of(message, type);
	struct kata__oci_field item_field = *field;
	bool first;
	int rc = expect(rd, KATA__JSON_ARRAY);

	if (rc)
		return rc;
	/* "Required" is said of the list, not of its strings: an argument may be empty. */
	item_field.flags &= ~(unsigned)KATA__OCI_REQUIRED;
	rc = kata__json_enter(&rd->json, '[', &first);
	while (!rc && (rc = kata__json_next_item(&rd->json, &first)) == 1) {
		rc = read_item(rd, &item_field, type, &list);
		if (rc)
			return rc;
	}
	if (rc)
		return fail_syntax(rd, rc);
	if (field->flags & KATA__OCI_REQUIRED && !*list.count)
		return kata__oci_fail(&rd->path, rd->err, "must not be empty");
	return 0;
}

/* All our maps are of strings to strings; their entries are generated alike. */
static int read_entry(struct reading *rd, const ProtobufCFieldDescriptor *type, const struct list *list, char *take_key)
{
	static const struct kata__oci_field any = {.json_name = ""};
	Grpc__Spec__AnnotationsEntry **entries = *list->items;
	void *item;
	int rc;

	for (size_t i = 0; i < *list->count; i++)
		if (strcmp(entries[i]->key, take_key) == 0) {
			free(take_key);
			return kata__oci_fail(&rd->path, rd->err, "given twice");
		}
	rc = grow(rd, list, &item);
	if (!rc)
		rc = new_message(rd, type->descriptor, item);
	if (rc) {
		free(take_key);
		return rc;
	}
	(*(Grpc__Spec__AnnotationsEntry **)item)->key = take_key;
	++*list->count;
	return read_string(rd, &any, &(*(Grpc__Spec__AnnotationsEntry **)item)->value);
}

static int read_map(struct reading *rd, const ProtobufCFieldDescriptor *type, ProtobufCMessage *message)
{
	struct list list = list_of(message, type);
	char *key;
	bool first;
	int rc = expect(rd, KATA__JSON_OBJECT);

	if (rc)
		return rc;
	rc = kata__json_enter(&rd->json, '{', &first);
	while (!rc && (rc = kata__json_next_key(&rd->json, &first, &key)) == 1) {
		size_t before = kata__oci_path_push_key(&rd->path, key);

		rc = read_entry(rd, type, &list, key);
		if (rc)
			return rc;
		kata__oci_path_pop(&rd->path, before);
	}
	return rc ? fail_syntax(rd, rc) : 0;
}

/* ---- messages */

static bool skip_harmless(struct kata__json_reader *r, const struct kata__oci_refused *refused)
{
	struct kata__json_reader ahead = *r;
	bool negative, fits;
	bool value = false;
	uint64_t magnitude = 0;

	if (refused->harmless_true)
		(void)kata__json_read_boolean(&ahead, &value);
	if (refused->harmless_number)
		value = !kata__json_read_integer(&ahead, &negative, &magnitude, &fits) && !negative &&
			magnitude == refused->harmless_number;
	if (value)
		*r = ahead;
	return value;
}

/* The path ends with the field's name. */
static int refuse_field(struct reading *rd, const struct kata__oci_message *schema, const char *name)
{
	if (kata__json_skip_void(&rd->json))
		return 0;
	for (const struct kata__oci_refused *f = schema->refused; f && f->json_name; f++) {
		if (strcmp(f->json_name, name) != 0)
			continue;
		if (skip_harmless(&rd->json, f))
			return 0;
		return kata__fail(rd->err, KATA_E_UNSUPPORTED, CALLER,
				  "%s: the agent's protocol cannot carry this field", rd->path.text);
	}
	return kata__fail(rd->err, KATA_E_UNSUPPORTED, CALLER,
			  "%s: no field of the OCI runtime-spec that is known here", rd->path.text);
}

static int read_field(struct reading *rd, const struct kata__oci_field *field, const ProtobufCFieldDescriptor *type,
		      ProtobufCMessage *message)
{
	if (field->flags & KATA__OCI_MAP)
		return read_map(rd, type, message);
	if (type->label == PROTOBUF_C_LABEL_REPEATED)
		return read_list(rd, field, type, message);
	if (type->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
		*(uint32_t *)(void *)((char *)message + type->quantifier_offset) = type->id;
	return read_value(rd, field, type, (char *)message + type->offset);
}

static int read_named(struct reading *rd, const struct kata__oci_message *schema, const char *name,
		      ProtobufCMessage *message, uint32_t *seen)
{
	unsigned n = schema->descriptor->n_fields;
	unsigned i = 0;

	while (i < n && (!schema->fields[i].json_name || strcmp(schema->fields[i].json_name, name) != 0))
		i++;
	if (i == n)
		return refuse_field(rd, schema, name);
	if (*seen & 1u << i)
		return kata__oci_fail(&rd->path, rd->err, "given twice");
	if (kata__json_peek(&rd->json) == KATA__JSON_NULL) {
		int rc = kata__json_read_null(&rd->json);

		return rc ? fail_syntax(rd, rc) : 0;
	}
	*seen |= 1u << i;
	return read_field(rd, &schema->fields[i], &schema->descriptor->fields[i], message);
}

static int check_seen(struct reading *rd, const struct kata__oci_message *schema, uint32_t seen)
{
	for (unsigned i = 0; i < schema->descriptor->n_fields; i++) {
		if (!(schema->fields[i].flags & KATA__OCI_REQUIRED) || seen & 1u << i)
			continue;
		kata__oci_path_push_key(&rd->path, schema->fields[i].json_name);
		return kata__oci_fail(&rd->path, rd->err, "is missing");
	}
	return 0;
}

static void set_wildcards(const struct kata__oci_message *schema, ProtobufCMessage *message)
{
	for (unsigned i = 0; i < schema->descriptor->n_fields; i++)
		if (schema->fields[i].flags & KATA__OCI_WILDCARD)
			*(int64_t *)(void *)((char *)message + schema->descriptor->fields[i].offset) = -1;
}

static int read_message(struct reading *rd, const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage *message)
{
	const struct kata__oci_message *schema = kata__oci_message_of(descriptor);
	uint32_t seen = 0;
	char *name;
	bool first;
	int rc;

	set_wildcards(schema, message);
	rc = kata__json_enter(&rd->json, '{', &first);
	while (!rc && (rc = kata__json_next_key(&rd->json, &first, &name)) == 1) {
		size_t before = kata__oci_path_push_key(&rd->path, name);

		rc = read_named(rd, schema, name, message, &seen);
		free(name);
		if (rc)
			return rc;
		kata__oci_path_pop(&rd->path, before);
	}
	return rc ? fail_syntax(rd, rc) : check_seen(rd, schema, seen);
}

/* ---- the whole text */

static int read_root(struct reading *rd, const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage *root)
{
	int rc;

	if (kata__json_peek(&rd->json) != KATA__JSON_OBJECT)
		return kata__fail(rd->err, KATA_E_INVALID, CALLER, "%s must be a JSON object", rd->what);
	rc = read_message(rd, descriptor, root);
	if (rc)
		return rc;
	rc = kata__json_end(&rd->json);
	return rc ? fail_syntax(rd, rc) : 0;
}

static int read_text(const char *what, const char *path, const ProtobufCMessageDescriptor *descriptor, const char *text,
		     size_t length, ProtobufCMessage **ret, kata_error **err)
{
	struct reading rd = {.what = what, .err = err};
	ProtobufCMessage *root = NULL;
	int rc;

	if (length > KATA__OCI_JSON_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s has %zu bytes, at most %u are read", what, length,
				  KATA__OCI_JSON_MAX);
	kata__json_reader_init(&rd.json, text, length);
	kata__oci_path_push_key(&rd.path, path);
	rc = new_message(&rd, descriptor, &root);
	if (rc)
		return rc;
	rc = read_root(&rd, descriptor, root);
	if (rc) {
		kata__oci_free(root);
		return rc;
	}
	*ret = root;
	return 0;
}

int kata__oci_spec_from_json(const char *text, size_t length, Grpc__Spec **ret_spec, kata_error **err)
{
	return read_text("the OCI spec", "", &grpc__spec__descriptor, text, length, (ProtobufCMessage **)ret_spec, err);
}

int kata__oci_process_from_json(const char *text, size_t length, Grpc__Process **ret_process, kata_error **err)
{
	return read_text("the OCI process", "process", &grpc__process__descriptor, text, length,
			 (ProtobufCMessage **)ret_process, err);
}

int kata__oci_resources_from_json(const char *text, size_t length, Grpc__LinuxResources **ret_resources,
				  kata_error **err)
{
	return read_text("the OCI resources", "resources", &grpc__linux_resources__descriptor, text, length,
			 (ProtobufCMessage **)ret_resources, err);
}

void kata__oci_free(void *message)
{
	if (message)
		protobuf_c_message_free_unpacked(message, NULL);
}

int kata__oci_set_string(char **field, const char *value, kata_error **err)
{
	char *copy = strdup(value);

	if (!copy)
		return kata__fail_no_memory(err);
	if (*field != protobuf_c_empty_string)
		free(*field);
	*field = copy;
	return 0;
}
