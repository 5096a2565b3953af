/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a shelf keeps of a sandbox, as one text:
 *     {"format":"kata-entry","version":1,"id","epoch","generation","holder":{"pid","start_time","boot_id","since"},
 *      "updated_at","record":{...} or null,"reservations":[...]}
 * The epoch is the one that counts; the record inside has that of its last store.
 */
#include <string.h>
#include <time.h>

#include "base/text.h"
#include "persist/shelf.h"

#define FORMAT "kata-entry"
#define VERSION 1
/* A record, and 4096 reservations of at most 700 bytes. */
#define TEXT_MAX (4u * 1024u * 1024u)

void kata__entry_deinit(struct kata__entry *e)
{
	json_decref(e->record);
	free(e->reservations);
	memset(e, 0, sizeof(*e));
}

void kata__entry_take(struct kata__entry *e, kata_context *ctx)
{
	const struct kata__process_identity *self = kata__context_self(ctx);

	e->holder.pid = self->pid;
	e->holder.start_time = self->start_time;
	snprintf(e->holder.boot_id, sizeof(e->holder.boot_id), "%s", self->boot_id);
	e->holder.since = time(NULL);
}

kata_reservation *kata__entry_find(struct kata__entry *e, uint32_t kind, const char *id)
{
	for (size_t i = 0; i < e->reservation_count; i++)
		if (e->reservations[i].kind == kind && strcmp(e->reservations[i].id, id) == 0)
			return &e->reservations[i];
	return NULL;
}

void kata__entry_drop(struct kata__entry *e, size_t index)
{
	memmove(&e->reservations[index], &e->reservations[index + 1],
		(e->reservation_count - index - 1) * sizeof(*e->reservations));
	e->reservation_count--;
}

/* ---- to text */

static json_t *reservation_to_json(const kata_reservation *r)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:i, s:I, s:I, s:s, s:I, s:I}", "kind",
			 kata_reservation_kind_get_name((kata_reservation_kind)r->kind), "id", r->id, "state",
			 kata_reservation_state_get_name((kata_reservation_state)r->state), "directory", r->directory,
			 "tap_name", r->tap_name, "mac", r->mac, "cid", (json_int_t)r->cid, "slot", (int)r->slot,
			 "owner_pid", (json_int_t)r->owner_pid, "owner_start_time", (json_int_t)r->owner_start_time,
			 "boot_id", r->boot_id, "reserved_at", (json_int_t)r->reserved_at, "settled_at",
			 (json_int_t)r->settled_at);
}

static json_t *reservations_to_json(const struct kata__entry *e)
{
	json_t *array = json_array();

	for (size_t i = 0; array && i < e->reservation_count; i++)
		if (json_array_append_new(array, reservation_to_json(&e->reservations[i])) < 0) {
			json_decref(array);
			return NULL;
		}
	return array;
}

int kata__entry_to_text(const struct kata__entry *e, char **ret, kata_error **err)
{
	json_t *reservations = reservations_to_json(e);
	KATA_AUTO_JSON json_t *o = NULL;

	if (!reservations)
		return kata__fail_no_memory(err);
	o = json_pack("{s:s, s:i, s:s, s:I, s:I, s:{s:I, s:I, s:s, s:I}, s:I, s:O?, s:o}", "format", FORMAT, "version",
		      VERSION, "id", e->id, "epoch", (json_int_t)e->epoch, "generation", (json_int_t)e->generation,
		      "holder", "pid", (json_int_t)e->holder.pid, "start_time", (json_int_t)e->holder.start_time,
		      "boot_id", e->holder.boot_id, "since", (json_int_t)e->holder.since, "updated_at",
		      (json_int_t)e->updated_at, "record", e->record, "reservations", reservations);
	*ret = o ? kata__json_dump(o) : NULL;
	if (!*ret)
		return kata__fail_no_memory(err);
	if (strlen(*ret) <= TEXT_MAX)
		return 0;
	free(kata__take_ptr(*ret));
	return kata__fail(err, KATA_E_EXHAUSTED, CALLER,
			  "sandbox '%s': record and reservations have more than %u bytes, which could not be read back",
			  e->id, TEXT_MAX);
}

/* ---- from text */

static int take_text(const json_t *o, const char *what, const char *key, char *buf, size_t size, kata_error **err)
{
	const char *text = NULL;
	int rc = kata__json_get_string(o, what, key, &text, err);

	if (rc < 0)
		return rc;
	if (strlen(text) >= size)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: is longer than %zu bytes", what, key, size - 1);
	memcpy(buf, text, strlen(text) + 1);
	return 0;
}

static int take_time(const json_t *o, const char *what, const char *key, int64_t *ret, kata_error **err)
{
	uint64_t v = 0;
	int rc = kata__json_get_uint(o, what, key, INT64_MAX, &v, err);

	*ret = (int64_t)v;
	return rc;
}

static int take_words(const json_t *o, kata_reservation *r, kata_error **err)
{
	char kind[16] = "", state[16] = "";
	int rc = take_text(o, "reservation", "kind", kind, sizeof(kind), err);

	if (rc == 0)
		rc = take_text(o, "reservation", "state", state, sizeof(state), err);
	if (rc < 0)
		return rc;
	r->kind = (uint32_t)kata__reservation_kind_parse(kind);
	r->state = (uint32_t)kata__reservation_state_parse(state);
	return 0; /* what is none is seen by the check */
}

static int take_numbers(const json_t *o, kata_reservation *r, kata_error **err)
{
	const json_t *slot = json_object_get(o, "slot");
	uint64_t cid = 0;
	int rc = kata__json_get_uint(o, "reservation", "cid", UINT32_MAX, &cid, err);

	if (rc == 0)
		rc = take_time(o, "reservation", "owner_pid", &r->owner_pid, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, "reservation", "owner_start_time", INT64_MAX, &r->owner_start_time, err);
	if (rc == 0)
		rc = take_time(o, "reservation", "reserved_at", &r->reserved_at, err);
	if (rc == 0)
		rc = take_time(o, "reservation", "settled_at", &r->settled_at, err);
	if (rc < 0)
		return rc;
	if (!json_is_integer(slot) || json_integer_value(slot) < -1 || json_integer_value(slot) > INT32_MAX)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "reservation.slot: is no slot");
	r->cid = (uint32_t)cid;
	r->slot = (int32_t)json_integer_value(slot);
	return 0;
}

static int take_reservation(const struct kata__entry *e, const json_t *o, kata_reservation *r, kata_error **err)
{
	int rc;

	if (!json_is_object(o))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "reservation: expected an object");
	snprintf(r->sandbox_id, sizeof(r->sandbox_id), "%s", e->id);
	rc = take_words(o, r, err);
	if (rc == 0)
		rc = take_text(o, "reservation", "id", r->id, sizeof(r->id), err);
	if (rc == 0)
		rc = take_text(o, "reservation", "directory", r->directory, sizeof(r->directory), err);
	if (rc == 0)
		rc = take_text(o, "reservation", "tap_name", r->tap_name, sizeof(r->tap_name), err);
	if (rc == 0)
		rc = take_text(o, "reservation", "mac", r->mac, sizeof(r->mac), err);
	if (rc == 0)
		rc = take_text(o, "reservation", "boot_id", r->boot_id, sizeof(r->boot_id), err);
	if (rc == 0)
		rc = take_numbers(o, r, err);
	return rc < 0 ? rc : kata__reservation_check(r, err);
}

static int take_reservations(const json_t *o, struct kata__entry *e, kata_error **err)
{
	json_t *array = NULL, *item;
	size_t i;
	int rc = kata__json_get_array(o, "entry", "reservations", 2 * KATA__RESERVATIONS_MAX, &array, err);

	if (rc < 0)
		return rc;
	e->reservations = calloc(json_array_size(array) + 1, sizeof(*e->reservations));
	if (!e->reservations)
		return kata__fail_no_memory(err);
	json_array_foreach(array, i, item)
	{
		rc = take_reservation(e, item, &e->reservations[i], err);
		if (rc < 0)
			return rc;
		e->reservation_count++;
	}
	return 0;
}

static int take_holder(const json_t *o, struct kata__entry *e, kata_error **err)
{
	json_t *holder = NULL;
	int rc = kata__json_get_object(o, "entry", "holder", &holder, err);

	if (rc == 0)
		rc = take_time(holder, "entry.holder", "pid", &e->holder.pid, err);
	if (rc == 0)
		rc = kata__json_get_uint(holder, "entry.holder", "start_time", INT64_MAX, &e->holder.start_time, err);
	if (rc == 0)
		rc = take_text(holder, "entry.holder", "boot_id", e->holder.boot_id, sizeof(e->holder.boot_id), err);
	return rc < 0 ? rc : take_time(holder, "entry.holder", "since", &e->holder.since, err);
}

static int check_version(const json_t *o, kata_error **err)
{
	char format[32] = "";
	uint64_t version = 0;
	int rc = json_is_object(o) ? take_text(o, "entry", "format", format, sizeof(format), err)
				   : kata__fail(err, KATA_E_CORRUPT, CALLER, "entry: expected a JSON object");

	if (rc == 0)
		rc = kata__json_get_uint(o, "entry", "version", INT64_MAX, &version, err);
	if (rc < 0)
		return rc;
	if (strcmp(format, FORMAT) != 0)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "entry.format: must be '%s'", FORMAT);
	if (version != VERSION)
		return kata__fail(err, KATA_E_VERSION, CALLER, "entry.version: is %llu, this library reads %d",
				  (unsigned long long)version, VERSION);
	return 0;
}

static int take_entry(const json_t *o, struct kata__entry *e, kata_error **err)
{
	json_t *record = json_object_get(o, "record");
	int rc = check_version(o, err);

	if (rc == 0)
		rc = take_text(o, "entry", "id", e->id, sizeof(e->id), err);
	if (rc == 0)
		rc = kata__json_get_uint(o, "entry", "epoch", INT64_MAX, &e->epoch, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, "entry", "generation", INT64_MAX, &e->generation, err);
	if (rc == 0)
		rc = take_holder(o, e, err);
	if (rc == 0)
		rc = take_time(o, "entry", "updated_at", &e->updated_at, err);
	if (rc < 0)
		return rc;
	if (!json_is_object(record) && !json_is_null(record))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "entry.record: expected an object or null");
	e->record = json_is_object(record) ? json_incref(record) : NULL;
	return take_reservations(o, e, err);
}

int kata__entry_from_text(const char *id, const char *text, struct kata__entry *ret, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = NULL;
	int rc;

	memset(ret, 0, sizeof(*ret));
	rc = kata__json_parse("entry", text, strlen(text), TEXT_MAX, &o, err);
	if (rc == 0)
		rc = take_entry(o, ret, err);
	if (rc == 0 && strcmp(ret->id, id) != 0)
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "entry.id: says it is of another sandbox");
	if (rc < 0)
		kata__entry_deinit(ret);
	return rc < 0 ? kata__error_wrap(err, rc, "the record of sandbox '%s'", id) : 0;
}
