/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of fields, and access to members through them. */
#include "persist/fields.h"

#include <kata/rows.h>

#include <errno.h>
#include <string.h>

#define AT(of, member) .name = #member, .offset = offsetof(of, member)
#define TEXT(of, member, is)                                                                                           \
	{                                                                                                              \
		AT(of, member), .type = KATA__FIELD_TEXT, .rule = KATA__RULE_##is                                      \
	}
#define MUST(of, member, is)                                                                                           \
	{                                                                                                              \
		AT(of, member), .type = KATA__FIELD_TEXT, .rule = KATA__RULE_##is, .required = true                    \
	}
#define KEY(of, member)                                                                                                \
	{                                                                                                              \
		AT(of, member), .type = KATA__FIELD_TEXT, .rule = KATA__RULE_ID, .required = true, .key = true         \
	}
/* JSON texts are called x_json in the struct and x outside. */
#define JSON(of, member, is)                                                                                           \
	{                                                                                                              \
		.name = #member, .offset = offsetof(of, member##_json), .type = KATA__FIELD_JSON,                      \
		.rule = KATA__RULE_##is                                                                                \
	}
#define MUST_JSON(of, member, is)                                                                                      \
	{                                                                                                              \
		.name = #member, .offset = offsetof(of, member##_json), .type = KATA__FIELD_JSON,                      \
		.rule = KATA__RULE_##is, .required = true                                                              \
	}
#define NUMBER(of, member, as, least, most)                                                                            \
	{                                                                                                              \
		AT(of, member), .type = KATA__FIELD_##as, .min = (least), .max = (most)                                \
	}

#define PID_MAX 4194304 /* the kernel's own limit */

typedef struct kata_record sandbox_t;
static const struct kata__field sandbox_fields[] = {
	KEY(sandbox_t, id),
	MUST(sandbox_t, state, SANDBOX_STATE),
	NUMBER(sandbox_t, epoch, U64, 0, INT64_MAX - 1),
	TEXT(sandbox_t, hostname, NONE),
	JSON(sandbox_t, dns, STRINGS),
	NUMBER(sandbox_t, owner_pid, I64, 0, PID_MAX),
	NUMBER(sandbox_t, owner_start_time, U64, 0, INT64_MAX),
	TEXT(sandbox_t, boot_id, UUID),
	MUST(sandbox_t, vm_id, ID),
	MUST(sandbox_t, vm_uuid, UUID),
	MUST(sandbox_t, vm_driver, WORD),
	TEXT(sandbox_t, vm_accelerator, WORD),
	NUMBER(sandbox_t, vm_pid, I64, 0, PID_MAX),
	NUMBER(sandbox_t, vm_start_time, U64, 0, INT64_MAX),
	NUMBER(sandbox_t, vm_cpus, U32, 0, UINT32_MAX),
	NUMBER(sandbox_t, vm_memory_mib, U64, 0, INT64_MAX),
	MUST_JSON(sandbox_t, vm, OBJECT),
	JSON(sandbox_t, agent, OBJECT),
	JSON(sandbox_t, routes, ARRAY),
	{AT(sandbox_t, generation), .type = KATA__FIELD_U64, .max = INT64_MAX, .since = 2},
};

typedef struct kata__record_storage storage_t;
static const struct kata__field storage_fields[] = {
	KEY(storage_t, id),
	MUST(storage_t, path, NONE),
	MUST(storage_t, format, WORD),
	MUST(storage_t, driver, WORD),
	TEXT(storage_t, fstype, NONE),
	TEXT(storage_t, address, NONE),
	MUST(storage_t, state, WORD),
	NUMBER(storage_t, read_only, BOOL, 0, 1),
	NUMBER(storage_t, size_bytes, U64, 0, INT64_MAX),
};

typedef struct kata__record_nic nic_t;
static const struct kata__field nic_fields[] = {
	KEY(nic_t, id),
	MUST(nic_t, type, WORD),
	{AT(nic_t, tap_name), .type = KATA__FIELD_TEXT, .indexed = true},
	{AT(nic_t, mac), .type = KATA__FIELD_TEXT, .rule = KATA__RULE_MAC, .required = true, .indexed = true},
	TEXT(nic_t, address, NONE),
	MUST(nic_t, state, WORD),
	NUMBER(nic_t, mtu, U32, 0, UINT32_MAX),
	JSON(nic_t, interface, OBJECT),
};

typedef struct kata__record_container container_t;
static const struct kata__field container_fields[] = {
	KEY(container_t, id),
	MUST(container_t, state, WORD),
	JSON(container_t, storages, IDS),
};

typedef struct kata__record_process process_t;
static const struct kata__field process_fields[] = {
	KEY(process_t, container_id),
	KEY(process_t, exec_id),
	MUST(process_t, state, WORD),
	NUMBER(process_t, terminal, BOOL, 0, 1),
	NUMBER(process_t, exit_status, I32, INT32_MIN, INT32_MAX),
};

/* ---- rows beside the sandboxes: one struct, of which each kind has some members ---- */

#define ROW_TEXT(column, member, is)                                                                                   \
	{                                                                                                              \
		.name = #column, .offset = offsetof(kata_row, member), .rule = KATA__RULE_##is                         \
	}
#define ROW_MUST(column, member, is)                                                                                   \
	{                                                                                                              \
		.name = #column, .offset = offsetof(kata_row, member), .rule = KATA__RULE_##is, .required = true       \
	}
#define ROW_JSON(column)                                                                                               \
	{                                                                                                              \
		.name = #column, .offset = offsetof(kata_row, json), .type = KATA__FIELD_JSON,                         \
		.rule = KATA__RULE_OBJECT                                                                              \
	}
#define ROW_NAMED                                                                                                      \
	KEY(kata_row, id), MUST(kata_row, state, WORD), NUMBER(kata_row, updated_at, I64, 0, INT64_MAX),               \
		NUMBER(kata_row, owner_pid, I64, 0, PID_MAX), NUMBER(kata_row, owner_start_time, U64, 0, INT64_MAX),   \
		MUST(kata_row, boot_id, UUID)

static const struct kata__field network_fields[] = {
	ROW_NAMED,
	ROW_MUST(sandbox_id, sandbox_id, ID),
	ROW_MUST(type, type, WORD),
	ROW_TEXT(name, name, NONE),
	ROW_TEXT(netns, directory, PATH),
	ROW_JSON(config),
};
static const struct kata__field snapshot_fields[] = {
	ROW_NAMED,
	ROW_TEXT(sandbox_id, sandbox_id, ID),
	ROW_MUST(driver, type, WORD),
	ROW_MUST(directory, directory, PATH),
	ROW_TEXT(vm_id, vm_id, ID),
	ROW_TEXT(vm_uuid, vm_uuid, UUID),
	NUMBER(kata_row, size_bytes, U64, 0, INT64_MAX),
	ROW_JSON(manifest),
};
static const struct kata__field template_fields[] = {
	ROW_NAMED,
	ROW_TEXT(snapshot_id, parent_id, ID),
	ROW_MUST(driver, type, WORD),
	ROW_MUST(directory, directory, PATH),
	ROW_TEXT(vm_uuid, vm_uuid, UUID),
	NUMBER(kata_row, size_bytes, U64, 0, INT64_MAX),
	ROW_JSON(config),
};
static const struct kata__field pooled_vm_fields[] = {
	ROW_NAMED,
	ROW_TEXT(template_id, parent_id, ID),
	ROW_MUST(driver, type, WORD),
	ROW_TEXT(directory, directory, PATH),
	ROW_MUST(vm_uuid, vm_uuid, UUID),
	NUMBER(kata_row, vm_pid, I64, 0, PID_MAX),
	NUMBER(kata_row, vm_start_time, U64, 0, INT64_MAX),
	ROW_JSON(vm),
};

#define ROW_NOUN(named, of)                                                                                            \
	.noun = {.name = #named,                                                                                       \
		 .table = "kata_" #named "s",                                                                          \
		 .fields = of,                                                                                         \
		 .field_count = kata__array_size(of),                                                                  \
		 .size = sizeof(kata_row)}

const struct kata__row_noun kata__row_nouns[KATA__ROW_KINDS] = {
	[KATA_ROW_NETWORK] = {ROW_NOUN(network, network_fields), "sandbox_id", "kata_sandboxes",
			      offsetof(kata_row, sandbox_id), -1},
	[KATA_ROW_SNAPSHOT] = {ROW_NOUN(snapshot, snapshot_fields), "sandbox_id", NULL, offsetof(kata_row, sandbox_id),
			       KATA_ROW_TEMPLATE},
	[KATA_ROW_TEMPLATE] = {ROW_NOUN(template, template_fields), "snapshot_id", "kata_snapshots",
			       offsetof(kata_row, parent_id), KATA_ROW_POOLED_VM},
	[KATA_ROW_POOLED_VM] = {ROW_NOUN(pooled_vm, pooled_vm_fields), "template_id", "kata_templates",
				offsetof(kata_row, parent_id), -1},
};

/* ---- the sandbox's ---- */

#define NOUN(noun, plural, most)                                                                                       \
	{                                                                                                              \
		.name = #plural, .table = "kata_" #plural, .count = #noun "_count", .fields = noun##_fields,           \
		.field_count = kata__array_size(noun##_fields), .size = sizeof(noun##_t),                              \
		.array_offset = offsetof(struct kata_record, plural),                                                  \
		.count_offset = offsetof(struct kata_record, noun##_count), .max = (most)                              \
	}

const struct kata__noun kata__nouns[KATA__NOUNS] = {
	[KATA__NOUN_STORAGE] = NOUN(storage, storages, 1024),
	[KATA__NOUN_NIC] = NOUN(nic, nics, 1024),
	[KATA__NOUN_CONTAINER] = NOUN(container, containers, 4096),
	[KATA__NOUN_PROCESS] = NOUN(process, processes, 16384),
};

const struct kata__noun kata__sandbox_noun = {
	.name = "sandbox",
	.table = "kata_sandboxes",
	.fields = sandbox_fields,
	.field_count = kata__array_size(sandbox_fields),
	.size = sizeof(struct kata_record),
};

static const void *member(const struct kata__field *f, const void *row)
{
	return (const char *)row + f->offset;
}

const char *kata__field_get_text(const struct kata__field *f, const void *row)
{
	return *(char *const *)member(f, row);
}

void kata__field_set_text(const struct kata__field *f, void *row, char *take_text)
{
	char **slot = (char **)(void *)((char *)row + f->offset);

	free(*slot);
	*slot = take_text;
}

int64_t kata__field_get_int(const struct kata__field *f, const void *row)
{
	const void *p = member(f, row);

	switch (f->type) {
	case KATA__FIELD_BOOL:
		return *(const bool *)p;
	case KATA__FIELD_I32:
		return *(const int32_t *)p;
	case KATA__FIELD_U32:
		return *(const uint32_t *)p;
	case KATA__FIELD_U64:
		return *(const uint64_t *)p > INT64_MAX ? -1 : (int64_t) * (const uint64_t *)p;
	default:
		return *(const int64_t *)p;
	}
}

void kata__field_set_int(const struct kata__field *f, void *row, int64_t value)
{
	void *p = (char *)row + f->offset;

	switch (f->type) {
	case KATA__FIELD_BOOL:
		*(bool *)p = value != 0;
		break;
	case KATA__FIELD_I32:
		*(int32_t *)p = (int32_t)value;
		break;
	case KATA__FIELD_U32:
		*(uint32_t *)p = (uint32_t)value;
		break;
	case KATA__FIELD_U64:
		*(uint64_t *)p = (uint64_t)value;
		break;
	default:
		*(int64_t *)p = value;
		break;
	}
}

void kata__noun_free_texts(const struct kata__noun *n, void *row)
{
	for (size_t i = 0; i < n->field_count; i++)
		if (kata__field_is_text(&n->fields[i]))
			kata__field_set_text(&n->fields[i], row, NULL);
}

void *kata__noun_row(const struct kata__noun *n, const struct kata_record *record, size_t index)
{
	char *array = *(char *const *)(const void *)((const char *)record + n->array_offset);

	return array ? array + index * n->size : NULL;
}

size_t kata__noun_count(const struct kata__noun *n, const struct kata_record *record)
{
	return *(const size_t *)(const void *)((const char *)record + n->count_offset);
}

int kata__noun_alloc(const struct kata__noun *n, struct kata_record *record, size_t count)
{
	void *array = count ? calloc(count, n->size) : NULL;

	if (count && !array)
		return -ENOMEM;
	*(void **)(void *)((char *)record + n->array_offset) = array;
	*(size_t *)(void *)((char *)record + n->count_offset) = count;
	return 0;
}
