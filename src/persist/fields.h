/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PERSIST_FIELDS_H
#define KATA_PERSIST_FIELDS_H
/*
 * What a record consists of, as tables: for each noun (the sandbox itself, storages, NICs, containers, processes) its
 * fields with type and rule. JSON, rows, checks and freeing all walk these tables, so a field is added in record.h,
 * here, and in the schema.
 *
 * A field's name is its JSON key and its column. The order here is the order of the columns that are bound.
 */
#include "persist/record.h"

enum kata__field_type {
	KATA__FIELD_TEXT, /* char *; NULL unless required */
	KATA__FIELD_JSON, /* char * of JSON text: nested as JSON in JSON, TEXT in a row */
	KATA__FIELD_BOOL,
	KATA__FIELD_I32,
	KATA__FIELD_I64,
	KATA__FIELD_U32,
	KATA__FIELD_U64 /* at most INT64_MAX: neither SQLite nor jansson hold more */
};

enum kata__field_rule {
	KATA__RULE_NONE,
	KATA__RULE_ID,            /* text.h */
	KATA__RULE_SANDBOX_STATE, /* "running", "paused", "released" */
	KATA__RULE_WORD,          /* [a-z0-9_-]{1,32} */
	KATA__RULE_UUID,
	KATA__RULE_MAC,    /* lower case, six bytes */
	KATA__RULE_OBJECT, /* JSON */
	KATA__RULE_ARRAY,
	KATA__RULE_STRINGS,
	KATA__RULE_IDS,
	KATA__RULE_PATH /* absolute */
};

struct kata__field {
	const char *name;
	size_t offset; /* in the noun's struct */
	enum kata__field_type type;
	enum kata__field_rule rule;
	bool required; /* texts: not NULL */
	bool key;      /* part of what identifies a row; such fields come first */
	bool indexed;  /* an index has it: an UPDATE that changes it is another statement */
	uint8_t since; /* version of the record that brought it; 0: the first */
	int64_t min, max;
};

struct kata__noun {
	const char *name;  /* "storages": the key in JSON */
	const char *table; /* "kata_storages" */
	const char *count; /* the column of kata_sandboxes that counts its rows */
	const struct kata__field *fields;
	size_t field_count;
	size_t size;         /* of one struct */
	size_t array_offset; /* in kata_record: pointer, and number, of the structs */
	size_t count_offset;
	size_t max; /* most rows of a sandbox */
};

/* The nouns below a sandbox, in this order everywhere. */
enum { KATA__NOUN_STORAGE, KATA__NOUN_NIC, KATA__NOUN_CONTAINER, KATA__NOUN_PROCESS, KATA__NOUNS };

extern const struct kata__noun kata__nouns[KATA__NOUNS];
/* The sandbox: array_offset, count_offset and max mean nothing. */
extern const struct kata__noun kata__sandbox_noun;

/* The rows beside the sandboxes, by kata_row_kind; their structs are kata_row. array_offset, count_offset, count and
 * max mean nothing. `parent` is the column that names what the row belongs to, of the table `parent_table`. */
#define KATA__ROW_KINDS 4
struct kata__row_noun {
	struct kata__noun noun;
	const char *parent, *parent_table;
	size_t parent_offset;
	int child; /* kata_row_kind of the rows that name this one as their parent, or -1 */
};
extern const struct kata__row_noun kata__row_nouns[KATA__ROW_KINDS];

/* Longest text of one field, in bytes. */
#define KATA__FIELD_TEXT_MAX (1024u * 1024u)

static inline bool kata__field_is_text(const struct kata__field *f)
{
	return f->type == KATA__FIELD_TEXT || f->type == KATA__FIELD_JSON;
}

/* Reads and writes members by table. A text that is set is taken over; the previous one is freed. */
const char *kata__field_get_text(const struct kata__field *f, const void *row);
void kata__field_set_text(const struct kata__field *f, void *row, char *take_text);
int64_t kata__field_get_int(const struct kata__field *f, const void *row); /* BOOL: 0 or 1; U64 past INT64_MAX: -1 */
void kata__field_set_int(const struct kata__field *f, void *row, int64_t value);

/* Frees the texts of a row and sets them to NULL. */
void kata__noun_free_texts(const struct kata__noun *n, void *row);
/* The structs of a noun in a record. */
void *kata__noun_row(const struct kata__noun *n, const struct kata_record *record, size_t index);
size_t kata__noun_count(const struct kata__noun *n, const struct kata_record *record);
/* Makes room for `count` zeroed structs (none are there yet) and counts them. -ENOMEM. */
int kata__noun_alloc(const struct kata__noun *n, struct kata_record *record, size_t count);

/* One value of a row that `where` names ("record.storages[3]"): length, UTF-8, range, rule. CORRUPT. */
int kata__field_check(const struct kata__field *f, const void *row, const char *where, kata_error **err);
/* Every field of a row. CORRUPT. */
int kata__noun_check(const struct kata__noun *n, const void *row, const char *where, kata_error **err);
/* Everything, and what fields say about one another: unique keys, processes of known containers, pids with a full
 * identity. CORRUPT names the first that is wrong. */
int kata__record_check(const struct kata_record *record, kata_error **err);
/* A row's fields as a JSON object, and back: every field there, none unknown but `other` (NULL-terminated). */
int kata__noun_to_json(const struct kata__noun *n, const void *row, const char *where, json_t **ret, kata_error **err);
int kata__noun_from_json(const struct kata__noun *n, void *row, json_t *o, uint64_t version, const char *where,
			 const char *const *other, kata_error **err);
/* True where the bytes are UTF-8 without NUL. */
bool kata__text_is_clean(const char *text, size_t len);
#endif
