/* SPDX-License-Identifier: Apache-2.0 */
/* Rows beside the sandboxes: the public functions, and a row as JSON for implementations that keep texts. */
#include "persist/rows.h"

#include <string.h>
#include <time.h>

#include "base/options.h"
#include "base/text.h"
#include "persist/persistence.h"

#define FORMAT "kata-row"
#define VERSION 1

const char *kata_row_kind_get_name(kata_row_kind kind)
{
	static const char *const names[] = {"network", "snapshot", "template", "pooled-vm"};

	return (size_t)kind < kata__array_size(names) ? names[kind] : "unknown";
}

static const struct kata__noun *noun_of(uint32_t kind)
{
	return &kata__row_nouns[kind].noun;
}

kata_row *kata__row_new(kata_row_kind kind)
{
	kata_row *row = calloc(1, sizeof(*row));

	if (row) {
		row->size = sizeof(*row);
		row->kind = kind;
	}
	return row;
}

void kata_row_free(kata_row *row)
{
	if (!row)
		return;
	if (row->kind < KATA__ROW_KINDS)
		kata__noun_free_texts(noun_of(row->kind), row);
	free(row);
}

const char *kata__row_parent(const kata_row *row)
{
	return *(const char *const *)(const void *)((const char *)row + kata__row_nouns[row->kind].parent_offset);
}

/* ---- as JSON */

int kata__row_to_json_text(const kata_row *row, char **ret, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = NULL;
	char *text;
	int rc = kata__noun_to_json(noun_of(row->kind), row, "row", &o, err);

	if (rc < 0)
		return rc;
	if (json_object_set_new(o, "format", json_string(FORMAT)) < 0 ||
	    json_object_set_new(o, "version", json_integer(VERSION)) < 0 ||
	    json_object_set_new(o, "kind", json_string(kata_row_kind_get_name(row->kind))) < 0)
		return kata__fail_no_memory(err);
	text = kata__json_dump(o);
	if (!text)
		return kata__fail_no_memory(err);
	if (strlen(text) > KATA__JSON_RECORD_MAX) {
		free(text);
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "row: is longer than %u bytes as JSON",
				  KATA__JSON_RECORD_MAX);
	}
	*ret = text;
	return 0;
}

static int check_head(kata_row_kind kind, const json_t *o, kata_error **err)
{
	const char *format = NULL, *name = NULL;
	uint64_t version = 0;
	int rc = json_is_object(o) ? kata__json_get_string(o, "row", "format", &format, err)
				   : kata__fail(err, KATA_E_CORRUPT, CALLER, "row: expected a JSON object");

	if (rc == 0)
		rc = kata__json_get_uint(o, "row", "version", INT64_MAX, &version, err);
	if (rc == 0)
		rc = kata__json_get_string(o, "row", "kind", &name, err);
	if (rc < 0)
		return rc;
	if (strcmp(format, FORMAT) != 0 || strcmp(name, kata_row_kind_get_name(kind)) != 0)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "row: is no '%s' of kind '%s'", FORMAT,
				  kata_row_kind_get_name(kind));
	if (version != VERSION)
		return kata__fail(err, KATA_E_VERSION, CALLER, "row.version: is %llu, this library reads %d",
				  (unsigned long long)version, VERSION);
	return 0;
}

int kata__row_from_json(kata_row_kind kind, const char *text, size_t len, kata_row **ret, kata_error **err)
{
	static const char *const others[] = {"format", "version", "kind", NULL};
	KATA_AUTO_JSON json_t *o = NULL;
	kata_row *row;
	int rc = kata__json_parse("row", text, len, KATA__JSON_RECORD_MAX, &o, err);

	if (rc == 0)
		rc = check_head(kind, o, err);
	if (rc < 0)
		return rc;
	row = kata__row_new(kind);
	if (!row)
		return kata__fail_no_memory(err);
	rc = kata__noun_from_json(noun_of(kind), row, o, VERSION, "row", others, err);
	if (rc == 0)
		rc = kata__noun_check(noun_of(kind), row, "row", err);
	if (rc < 0)
		kata_row_free(row);
	else
		*ret = row;
	return rc;
}

/* ---- what the caller gives */

static int check_kind(uint32_t kind, kata_error **err)
{
	return kind < KATA__ROW_KINDS
		       ? 0
		       : kata__fail(err, KATA_E_INVALID, CALLER, "kind: is %u, must be a kata_row_kind, 0 to %d", kind,
				    KATA__ROW_KINDS - 1);
}

static bool has_member(const struct kata__noun *n, size_t offset)
{
	for (size_t i = 0; i < n->field_count; i++)
		if (n->fields[i].offset == offset)
			return true;
	return false;
}

/* A member that the kind has not would be lost without a word. */
static int check_members(const kata_row *row, kata_error **err)
{
	static const struct {
		const char *name;
		size_t offset;
	} texts[] = {{"sandbox_id", offsetof(kata_row, sandbox_id)},
		     {"parent_id", offsetof(kata_row, parent_id)},
		     {"name", offsetof(kata_row, name)},
		     {"vm_id", offsetof(kata_row, vm_id)},
		     {"vm_uuid", offsetof(kata_row, vm_uuid)}};
	const struct kata__noun *n = noun_of(row->kind);

	for (size_t i = 0; i < kata__array_size(texts); i++)
		if (*(const char *const *)(const void *)((const char *)row + texts[i].offset) &&
		    !has_member(n, texts[i].offset))
			return kata__fail(err, KATA_E_INVALID, CALLER, "row.%s: a %s has none", texts[i].name,
					  kata_row_kind_get_name(row->kind));
	if (row->vm_pid && !has_member(n, offsetof(kata_row, vm_pid)))
		return kata__fail(err, KATA_E_INVALID, CALLER, "row.vm_pid: a %s has none",
				  kata_row_kind_get_name(row->kind));
	if (row->vm_pid && !row->vm_start_time)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "row.vm_start_time: is 0: a pid alone identifies nobody");
	return 0;
}

static void sign(const kata_persistence *p, kata_row *row)
{
	const struct kata__process_identity *self = kata__context_self(p->ctx);

	row->owner_pid = self->pid;
	row->owner_start_time = self->start_time;
	row->boot_id = self->boot_id;
	row->updated_at = time(NULL);
}

/* A check for what is read, of what is written: the fault is the caller's. */
static int check_row(const kata_row *row, kata_error **err)
{
	KATA_AUTO(kata_error_free) kata_error *own = NULL;

	if (kata__noun_check(noun_of(row->kind), row, "row", &own) == 0)
		return 0;
	if (kata_error_get_status(own) != KATA_E_CORRUPT)
		return kata__error_move(err, &own);
	return kata__fail(err, KATA_E_INVALID, CALLER, "%s", kata_error_get_message(own));
}

static int supported(const kata_persistence *p, bool has, kata_error **err)
{
	return has ? 0
		   : kata__fail(err, KATA_E_UNSUPPORTED, CALLER, "persistence '%s': it keeps no such rows",
				p->ops.name);
}

int kata_persistence_put_row(kata_persistence *persistence, const kata_row *row, kata_error **err)
{
	KATA_AUTO(free) char *json = NULL;
	kata_row copy = KATA_ROW_INIT;
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0 && !row)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "row: is NULL");
	if (rc == 0)
		rc = kata__options_read(&copy, sizeof(copy), row, "row", err);
	if (rc == 0)
		rc = check_kind(copy.kind, err);
	if (rc == 0)
		rc = supported(persistence, persistence->ops.put_row, err);
	if (rc == 0)
		rc = check_members(&copy, err);
	if (rc < 0)
		return rc;
	sign(persistence, &copy);
	rc = check_row(&copy, err);
	if (rc == 0)
		rc = kata__row_to_json_text(&copy, &json, err);
	if (rc < 0)
		return rc;
	return kata__persistence_answer(persistence, "put_row", copy.id,
					persistence->ops.put_row(persistence->self, &copy, json, NULL, err), err);
}

static int check_row_id(const kata_persistence *p, uint32_t kind, const char *id, kata_error **err)
{
	int rc = kata__persistence_check(p, err);

	if (rc == 0)
		rc = check_kind(kind, err);
	return rc < 0 ? rc : kata__id_check("id", id, err);
}

/* With the text it was read from, where that is wanted. */
static int get_row(kata_persistence *p, kata_row_kind kind, const char *id, char **ret_json, kata_row **ret,
		   kata_error **err)
{
	char *json = NULL;
	int rc = supported(p, p->ops.get_row, err);

	if (rc == 0)
		rc = kata__persistence_answer(p, "get_row", id, p->ops.get_row(p->self, kind, id, &json, err), err);
	if (rc < 0)
		return rc;
	if (!json)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "persistence '%s': get_row '%s' gave none", p->ops.name,
				  id);
	rc = kata__row_from_json(kind, json, strlen(json), ret, err);
	if (rc < 0)
		rc = kata__error_wrap(err, rc, "%s '%s' in persistence '%s'", kata_row_kind_get_name(kind), id,
				      p->ops.name);
	if (rc == 0 && ret_json)
		*ret_json = json;
	else
		free(json);
	return rc;
}

int kata_persistence_get_row(kata_persistence *persistence, kata_row_kind kind, const char *id, kata_row **ret_row,
			     kata_error **err)
{
	int rc = check_row_id(persistence, kind, id, err);

	if (rc == 0 && !ret_row)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "ret_row: is NULL");
	return rc < 0 ? rc : get_row(persistence, kind, id, NULL, ret_row, err);
}

static int swap_state(kata_persistence *p, const kata_row *now, const char *json, const char *to, kata_error **err)
{
	KATA_AUTO(free) char *next = NULL;
	kata_row row = *now; /* borrows its texts */
	int rc;

	row.state = to;
	sign(p, &row);
	rc = check_row(&row, err);
	if (rc == 0)
		rc = kata__row_to_json_text(&row, &next, err);
	if (rc < 0)
		return rc;
	return kata__persistence_answer(p, "put_row", row.id, p->ops.put_row(p->self, &row, next, json, err), err);
}

int kata_persistence_move_row(kata_persistence *persistence, kata_row_kind kind, const char *id, const char *from_state,
			      const char *to_state, kata_error **err)
{
	KATA_AUTO(free) char *json = NULL;
	kata_row *row = NULL;
	int rc = check_row_id(persistence, kind, id, err);

	if (rc == 0 && (!from_state || !to_state))
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", from_state ? "to_state" : "from_state");
	if (rc == 0)
		rc = get_row(persistence, kind, id, &json, &row, err);
	if (rc < 0)
		return rc;
	if (strcmp(row->state, from_state) != 0)
		rc = kata__fail(err, KATA_E_FENCED, CALLER,
				"%s '%s' is %s, not %s: process %lld (start time %llu) has it",
				kata_row_kind_get_name(kind), id, row->state, from_state, (long long)row->owner_pid,
				(unsigned long long)row->owner_start_time);
	else
		rc = swap_state(persistence, row, json, to_state, err);
	kata_row_free(row);
	return rc;
}

int kata_persistence_remove_row(kata_persistence *persistence, kata_row_kind kind, const char *id, kata_error **err)
{
	int rc = check_row_id(persistence, kind, id, err);

	if (rc == 0)
		rc = supported(persistence, persistence->ops.remove_row, err);
	if (rc < 0)
		return rc;
	return kata__persistence_answer(persistence, "remove_row", id,
					persistence->ops.remove_row(persistence->self, kind, id, err), err);
}

int kata_persistence_list_rows(kata_persistence *persistence, kata_row_kind kind, const char *parent_id,
			       const char *state, char ***ret_ids, kata_error **err)
{
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0)
		rc = check_kind(kind, err);
	if (rc == 0 && parent_id)
		rc = kata__id_check("parent_id", parent_id, err);
	if (rc == 0 && !ret_ids)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "ret_ids: is NULL");
	if (rc == 0)
		rc = supported(persistence, persistence->ops.list_rows, err);
	if (rc < 0)
		return rc;
	return kata__persistence_answer(
		persistence, "list_rows", parent_id,
		persistence->ops.list_rows(persistence->self, kind, parent_id, state, ret_ids, err), err);
}
