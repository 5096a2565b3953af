/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reservations in SQLite. A row says what one device (or the VM) shall have. kata_sandboxes.intent_count says how many
 * of a sandbox's rows are still intents, so that a store which finds none of them does not look: it costs nothing then.
 */
#include <string.h>
#include <time.h>

#include "base/text.h"
#include "persist/sqlite.h"

#define TABLE "kata_reservations"

/* ---- rows */

static int take_word(sqlite3_stmt *st, int column, int (*parse)(const char *word), uint32_t *ret)
{
	char word[16];
	int v;

	kata__sqlite_copy_text(st, column, word, sizeof(word));
	v = parse(word);
	*ret = v < 0 ? UINT32_MAX : (uint32_t)v;
	return v;
}

/* -1 for what does not fit. */
static int64_t take_number(sqlite3_stmt *st, int column, int64_t max)
{
	int64_t v = sqlite3_column_int64(st, column);

	return v < 0 || v > max ? -1 : v;
}

static int take_reservation(struct kata__sqlite *s, sqlite3_stmt *st, kata_reservation *r, kata_error **err)
{
	KATA_AUTO(kata_error_free) kata_error *own = NULL;
	int64_t cid = take_number(st, 6, UINT32_MAX), started = take_number(st, 10, INT64_MAX);
	int rc = 0;

	memset(r, 0, sizeof(*r));
	kata__sqlite_copy_text(st, 0, r->sandbox_id, sizeof(r->sandbox_id));
	take_word(st, 1, kata__reservation_kind_parse, &r->kind);
	kata__sqlite_copy_text(st, 2, r->id, sizeof(r->id));
	take_word(st, 3, kata__reservation_state_parse, &r->state);
	kata__sqlite_copy_text(st, 4, r->directory, sizeof(r->directory));
	r->slot = sqlite3_column_type(st, 5) == SQLITE_NULL ? -1 : (int32_t)take_number(st, 5, INT32_MAX);
	kata__sqlite_copy_text(st, 7, r->tap_name, sizeof(r->tap_name));
	kata__sqlite_copy_text(st, 8, r->mac, sizeof(r->mac));
	r->owner_pid = sqlite3_column_int64(st, 9);
	kata__sqlite_copy_text(st, 11, r->boot_id, sizeof(r->boot_id));
	r->reserved_at = sqlite3_column_int64(st, 12);
	r->settled_at = sqlite3_column_int64(st, 13);
	if (cid < 0 || started < 0)
		rc = kata__fail(&own, KATA_E_CORRUPT, CALLER, "reservation: a number is out of range");
	if (rc == 0)
		rc = kata__reservation_check(r, &own);
	if (rc < 0)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: " TABLE " in %s: %s", s->operation, s->place,
				  kata_error_get_message(own));
	r->cid = (uint32_t)cid;
	r->owner_start_time = (uint64_t)started;
	return 0;
}

static void bind_text(sqlite3_stmt *st, int at, const char *text)
{
	sqlite3_bind_text(st, at, text && text[0] ? text : NULL, -1, SQLITE_STATIC);
}

/* The key: ?1 sandbox, ?2 kind, ?3 id. */
static void bind_key(sqlite3_stmt *st, const char *sandbox_id, uint32_t kind, const char *id)
{
	kata__sqlite_bind_id(st, 1, sandbox_id);
	kata__sqlite_bind_id(st, 2, kata_reservation_kind_get_name((kata_reservation_kind)kind));
	kata__sqlite_bind_id(st, 3, id);
}

/* ---- may it be had */

/* The one row of a statement of reservations. 1 and *ret; 0: there is none; or negative. */
static int find_one(struct kata__sqlite *s, sqlite3_stmt *st, kata_reservation *ret, char column[16], kata_error **err)
{
	int code = sqlite3_step(st);
	int rc = code == SQLITE_DONE ? 0 : 1;

	if (code != SQLITE_ROW && code != SQLITE_DONE)
		rc = kata__sqlite_fail(s, code, TABLE, err);
	if (rc == 1 && take_reservation(s, st, ret, err) < 0)
		rc = KATA_E_CORRUPT;
	if (rc == 1 && column)
		kata__sqlite_copy_text(st, 14, column, 16);
	kata__sqlite_done(st);
	return rc;
}

static int check_device(struct kata__sqlite *s, const kata_reservation *r, kata_error **err)
{
	kata_reservation before;
	sqlite3_stmt *st = NULL;
	char what[96];
	int rc = kata__sqlite_prepare(s, KATA__SQL_RESERVATION_FIND, &st, err);
	int code;

	if (rc < 0)
		return rc;
	snprintf(what, sizeof(what), "%s '%s'", kata_reservation_kind_get_name((kata_reservation_kind)r->kind), r->id);
	bind_key(st, r->sandbox_id, r->kind, r->id);
	rc = find_one(s, st, &before, NULL, err);
	if (rc != 0)
		return rc < 0 ? rc : kata__reservation_taken(what, &before, err);
	rc = kata__sqlite_prepare(s, KATA__SQL_DEVICE_FIND, &st, err);
	if (rc < 0)
		return rc;
	bind_key(st, r->sandbox_id, r->kind, r->id);
	code = sqlite3_step(st);
	kata__sqlite_done(st);
	if (code == SQLITE_ROW)
		return kata__fail(err, KATA_E_EXISTS, CALLER, "%s: sandbox '%s' has it already", what, r->sandbox_id);
	return code == SQLITE_DONE ? 0 : kata__sqlite_fail(s, code, TABLE, err);
}

static int check_reserved(struct kata__sqlite *s, const kata_reservation *r, bool shared, kata_error **err)
{
	kata_reservation by;
	sqlite3_stmt *st = NULL;
	char column[16] = "", what[320];
	int rc = kata__sqlite_prepare(s, KATA__SQL_RESERVATION_CLASH, &st, err);

	if (rc < 0)
		return rc;
	if (r->cid)
		sqlite3_bind_int64(st, 1, r->cid);
	bind_text(st, 2, r->directory);
	bind_text(st, 3, shared ? NULL : r->tap_name);
	bind_text(st, 4, shared ? NULL : r->mac);
	rc = find_one(s, st, &by, column, err);
	if (rc <= 0)
		return rc;
	snprintf(what, sizeof(what), "%s", column);
	if (strcmp(column, "cid") == 0)
		snprintf(what, sizeof(what), "cid %u", r->cid);
	else
		snprintf(what, sizeof(what), "%s '%s'", column,
			 strcmp(column, "directory") == 0  ? r->directory
			 : strcmp(column, "tap_name") == 0 ? r->tap_name
							   : r->mac);
	return kata__reservation_taken(what, &by, err);
}

/* A NIC of another sandbox that was stored without a reservation holds its names too. */
static int check_nics(struct kata__sqlite *s, const kata_reservation *r, kata_error **err)
{
	sqlite3_stmt *st = NULL;
	char sandbox[65] = "", nic[65] = "";
	int rc = r->tap_name[0] || r->mac[0] ? kata__sqlite_prepare(s, KATA__SQL_NIC_CLASH, &st, err) : 0;
	int code;

	if (rc < 0 || !st)
		return rc;
	bind_text(st, 1, r->tap_name);
	bind_text(st, 2, r->mac);
	code = sqlite3_step(st);
	if (code == SQLITE_ROW) {
		kata__sqlite_copy_text(st, 0, sandbox, sizeof(sandbox));
		kata__sqlite_copy_text(st, 1, nic, sizeof(nic));
	}
	kata__sqlite_done(st);
	if (code == SQLITE_ROW)
		return kata__fail(err, KATA_E_EXISTS, CALLER,
				  "tap '%s' or mac '%s': nic '%s' of sandbox '%s' has it (in another network? then "
				  "KATA_RESERVE_SHARED)",
				  r->tap_name, r->mac, nic, sandbox);
	return code == SQLITE_DONE ? 0 : kata__sqlite_fail(s, code, "kata_nics", err);
}

/* ---- writing */

static int insert(struct kata__sqlite *s, const kata_reservation *r, kata_error **err)
{
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_prepare(s, KATA__SQL_RESERVATION_PUT, &st, err);

	if (rc < 0)
		return rc;
	bind_key(st, r->sandbox_id, r->kind, r->id);
	bind_text(st, 4, r->directory);
	if (r->slot >= 0)
		sqlite3_bind_int64(st, 5, r->slot);
	if (r->cid)
		sqlite3_bind_int64(st, 6, r->cid);
	bind_text(st, 7, r->tap_name);
	bind_text(st, 8, r->mac);
	sqlite3_bind_int64(st, 9, r->owner_pid);
	sqlite3_bind_int64(st, 10, (int64_t)r->owner_start_time);
	kata__sqlite_bind_id(st, 11, r->boot_id);
	sqlite3_bind_int64(st, 12, r->reserved_at);
	rc = kata__sqlite_run(s, st, TABLE, err);
	kata__sqlite_done(st);
	return rc;
}

static int count_intents(struct kata__sqlite *s, const char *sandbox_id, kata_error **err)
{
	return kata__sqlite_run_for(s, KATA__SQL_RESERVATIONS_COUNT, sandbox_id, "kata_sandboxes", err);
}

static int reserve(struct kata__sqlite *s, const kata_reservation *r, uint64_t flags, kata_error **err)
{
	bool shared = flags & KATA_RESERVE_SHARED;
	struct kata__head head = {0};
	int rc = kata__sqlite_head(s, r->sandbox_id, &head, err);

	if (rc == 0 && head.intents >= KATA__RESERVATIONS_MAX)
		rc = kata__fail(err, KATA_E_EXHAUSTED, CALLER,
				"sandbox '%s' has %lld reservations that wait for their devices, at most %d may",
				s->subject, (long long)head.intents, KATA__RESERVATIONS_MAX);
	if (rc == 0)
		rc = kata__sqlite_run_for(s, KATA__SQL_RESERVATIONS_SWEEP, r->sandbox_id, TABLE, err);
	if (rc == 0)
		rc = check_device(s, r, err);
	if (rc == 0)
		rc = check_reserved(s, r, shared, err);
	if (rc == 0 && !shared)
		rc = check_nics(s, r, err);
	if (rc == 0)
		rc = insert(s, r, err);
	if (rc == 0)
		rc = count_intents(s, r->sandbox_id, err);
	return rc == 0 ? kata__schema_recheck(s, err) : rc;
}

/* *ret_hits: how many intents it was. */
static int settle_one(struct kata__sqlite *s, const char *sandbox_id, uint32_t kind, const char *id, uint32_t state,
		      int *ret_hits, kata_error **err)
{
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_prepare(s, KATA__SQL_RESERVATION_SETTLE, &st, err);

	if (rc < 0)
		return rc;
	bind_key(st, sandbox_id, kind, id);
	kata__sqlite_bind_id(st, 4, kata_reservation_state_get_name((kata_reservation_state)state));
	sqlite3_bind_int64(st, 5, time(NULL));
	rc = kata__sqlite_run(s, st, TABLE, err);
	kata__sqlite_done(st);
	*ret_hits = rc == 0 ? sqlite3_changes(s->db) : 0;
	return rc;
}

static int settle(struct kata__sqlite *s, const char *sandbox_id, uint32_t kind, const char *id, uint32_t state,
		  kata_error **err)
{
	int hits = 0;
	int rc = settle_one(s, sandbox_id, kind, id, state, &hits, err);

	if (rc == 0 && !hits)
		rc = kata__fail(err, KATA_E_NOT_FOUND, CALLER, "sandbox '%s' in %s has no intent for %s '%s'",
				sandbox_id, s->place, kata_reservation_kind_get_name((kata_reservation_kind)kind), id);
	if (rc == 0)
		rc = count_intents(s, sandbox_id, err);
	return rc == 0 ? kata__schema_recheck(s, err) : rc;
}

/* ---- with a store */

int kata__sqlite_settle_intents(struct kata__sqlite *s, const struct kata_record *record, kata_error **err)
{
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_prepare(s, KATA__SQL_RESERVATIONS_DONE, &st, err);

	if (rc < 0)
		return rc;
	kata__sqlite_bind_id(st, 1, record->id);
	kata__sqlite_bind_id(st, 2, record->vm_id);
	sqlite3_bind_int64(st, 3, time(NULL));
	rc = kata__sqlite_run(s, st, TABLE, err);
	kata__sqlite_done(st);
	for (size_t i = 0; rc == 0 && i < record->undone_count; i++) {
		int hits;

		rc = settle_one(s, record->id, record->undone[i].kind, record->undone[i].id, KATA_RESERVATION_UNDONE,
				&hits, err);
	}
	return rc < 0 ? rc : count_intents(s, record->id, err);
}

int kata__sqlite_give_up_reservations(struct kata__sqlite *s, int noun, const char *id, kata_error **err)
{
	kata_reservation_kind kind = noun == KATA__NOUN_STORAGE ? KATA_RESERVE_STORAGE : KATA_RESERVE_NIC;
	sqlite3_stmt *st = NULL;
	int rc;

	if (noun != KATA__NOUN_STORAGE && noun != KATA__NOUN_NIC)
		return 0;
	rc = kata__sqlite_prepare(s, KATA__SQL_RESERVATIONS_GIVE_UP, &st, err);
	if (rc < 0)
		return rc;
	kata__sqlite_bind_id(st, 1, id);
	kata__sqlite_bind_id(st, 2, kata_reservation_kind_get_name(kind));
	rc = kata__sqlite_run(s, st, TABLE, err);
	kata__sqlite_done(st);
	return rc;
}

/* ---- the ops */

static int end(struct kata__sqlite *s, int rc, kata_error **err)
{
	return kata__sqlite_leave(s, kata__sqlite_end_change(s, rc, err), err);
}

static int begin(struct kata__sqlite *s, const char *operation, const char *subject, kata_error **err)
{
	int rc = kata__sqlite_enter(s, operation, subject, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = kata__sqlite_begin_change(s, err);
	return rc < 0 ? kata__sqlite_leave(s, rc, err) : 0;
}

int kata__sqlite_reserve(void *self, const kata_reservation *reservation, uint64_t flags, kata_error **err)
{
	struct kata__sqlite *s = self;
	int rc = begin(s, "reserve", reservation->sandbox_id, err);

	return rc < 0 ? rc : end(s, reserve(s, reservation, flags, err), err);
}

int kata__sqlite_settle(void *self, const char *sandbox_id, uint32_t kind, const char *id, uint32_t state,
			kata_error **err)
{
	struct kata__sqlite *s = self;
	int rc = begin(s, "settle", sandbox_id, err);

	return rc < 0 ? rc : end(s, settle(s, sandbox_id, kind, id, state, err), err);
}

static int add(kata_reservation **list, size_t *count, const kata_reservation *r, kata_error **err)
{
	kata_reservation *grown = *list;

	if ((*count & (*count - 1)) == 0) /* 0, 1, 2, 4, ...: room for as many again */
		grown = reallocarray(grown, *count ? 2 * *count : 1, sizeof(*grown));
	if (!grown)
		return kata__fail_no_memory(err);
	grown[(*count)++] = *r;
	*list = grown;
	return 0;
}

static int collect(struct kata__sqlite *s, sqlite3_stmt *st, kata_reservation **list, size_t *count, kata_error **err)
{
	kata_reservation r;
	int code, rc = 0;

	while (rc == 0 && (code = sqlite3_step(st)) == SQLITE_ROW) {
		rc = take_reservation(s, st, &r, err);
		if (rc == 0)
			rc = add(list, count, &r, err);
	}
	return rc == 0 && code != SQLITE_DONE ? kata__sqlite_fail(s, code, TABLE, err) : rc;
}

int kata__sqlite_list_reservations(void *self, const char *sandbox_id, kata_reservation **ret, size_t *ret_count,
				   kata_error **err)
{
	struct kata__sqlite *s = self;
	kata_reservation *list = calloc(1, sizeof(*list));
	sqlite3_stmt *st = NULL;
	size_t count = 0;
	int rc = list ? kata__sqlite_enter(s, "list reservations", sandbox_id, err) : kata__fail_no_memory(err);

	if (rc < 0) {
		free(list);
		return rc;
	}
	rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = kata__sqlite_prepare(s, KATA__SQL_RESERVATIONS_LIST, &st, err);
	if (rc == 0) {
		kata__sqlite_bind_id(st, 1, sandbox_id);
		rc = collect(s, st, &list, &count, err);
	}
	kata__sqlite_done(st);
	rc = kata__sqlite_leave(s, kata__schema_recheck_read(s, rc, err), err);
	if (rc < 0) {
		free(list);
		return rc;
	}
	*ret = list;
	*ret_count = count;
	return 0;
}
