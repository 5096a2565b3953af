/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reservations and rows over a shelf. Whether a name is taken is asked of every sandbox: that is one read of each,
 * which is what a shelf costs in place of an index.
 */
#include <string.h>
#include <time.h>

#include "base/text.h"
#include "persist/shelf.h"

/* ---- is it taken */

static bool same(const char *a, const char *b)
{
	return a[0] && strcmp(a, b) == 0;
}

/* What the two want alike, for the message; NULL where there is nothing. */
static const char *clash(const kata_reservation *a, const kata_reservation *b, bool shared)
{
	if (a->state == KATA_RESERVATION_UNDONE)
		return NULL;
	if (a->cid && a->cid == b->cid)
		return "cid";
	if (same(a->directory, b->directory))
		return "directory";
	if (!shared && same(a->tap_name, b->tap_name))
		return "tap_name";
	return !shared && same(a->mac, b->mac) ? "mac" : NULL;
}

static int check_nics(const struct kata__entry *e, const kata_reservation *r, kata_error **err)
{
	json_t *nics = json_object_get(e->record, "nics"), *nic;
	size_t i;

	json_array_foreach(nics, i, nic)
	{
		const char *tap = json_string_value(json_object_get(nic, "tap_name"));
		const char *mac = json_string_value(json_object_get(nic, "mac"));
		const char *id = json_string_value(json_object_get(nic, "id"));

		if ((tap && same(r->tap_name, tap)) || (mac && same(r->mac, mac)))
			return kata__fail(
				err, KATA_E_EXISTS, CALLER,
				"tap '%s' or mac '%s': nic '%s' of sandbox '%s' has it (in another network? then "
				"KATA_RESERVE_SHARED)",
				r->tap_name, r->mac, id && kata__id_is_valid(id) ? id : "?", e->id);
	}
	return 0;
}

static int check_entry(const struct kata__entry *e, const kata_reservation *r, bool shared, kata_error **err)
{
	for (size_t i = 0; i < e->reservation_count; i++) {
		const char *what = clash(&e->reservations[i], r, shared);

		if (what)
			return kata__reservation_taken(what, &e->reservations[i], err);
	}
	return shared ? 0 : check_nics(e, r, err);
}

static int check_others(struct kata__shelf *s, const kata_reservation *r, bool shared, kata_error **err)
{
	char **ids = NULL;
	int rc;

	if (!r->cid && !r->directory[0] && !r->tap_name[0] && !r->mac[0])
		return 0;
	rc = s->ops->list(s->self, KATA__DRAWER_SANDBOXES, &ids, err);
	for (char **id = ids; rc == 0 && *id; id++) {
		struct kata__entry e = {0};
		bool found = false;

		rc = kata__shelf_load(s, *id, &e, &found, err);
		if (rc == 0 && found)
			rc = check_entry(&e, r, shared, err);
		kata__entry_deinit(&e);
	}
	kata__strv_free(ids);
	return rc;
}

static bool has_device(const struct kata__entry *e, const kata_reservation *r)
{
	const char *list = r->kind == KATA_RESERVE_STORAGE ? "storages" : r->kind == KATA_RESERVE_NIC ? "nics" : NULL;
	json_t *array = list ? json_object_get(e->record, list) : NULL, *item;
	size_t i;

	json_array_foreach(array, i, item)
	{
		const char *id = json_string_value(json_object_get(item, "id"));

		if (id && strcmp(id, r->id) == 0)
			return true;
	}
	return false;
}

static int check_own(struct kata__entry *e, const kata_reservation *r, kata_error **err)
{
	const kata_reservation *before = kata__entry_find(e, r->kind, r->id);
	char what[96];

	snprintf(what, sizeof(what), "%s '%s'", kata_reservation_kind_get_name((kata_reservation_kind)r->kind), r->id);
	if (before)
		return kata__reservation_taken(what, before, err);
	if (has_device(e, r))
		return kata__fail(err, KATA_E_EXISTS, CALLER, "%s: sandbox '%s' has it already", what, e->id);
	return 0;
}

/* ---- reservations */

static int add(struct kata__entry *e, const kata_reservation *r, kata_error **err)
{
	size_t intents = 0;
	kata_reservation *grown;

	for (size_t i = e->reservation_count; i-- > 0;) {
		intents += e->reservations[i].state == KATA_RESERVATION_INTENT;
		if (e->reservations[i].state == KATA_RESERVATION_UNDONE)
			kata__entry_drop(e, i);
	}
	if (intents >= KATA__RESERVATIONS_MAX || e->reservation_count >= 2 * KATA__RESERVATIONS_MAX - 1)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER,
				  "sandbox '%s' has %zu reservations that wait for their devices, at most %d may",
				  e->id, intents, KATA__RESERVATIONS_MAX);
	grown = reallocarray(e->reservations, e->reservation_count + 1, sizeof(*grown));
	if (!grown)
		return kata__fail_no_memory(err);
	e->reservations = grown;
	grown[e->reservation_count++] = *r;
	return 0;
}

static int drop_undone_and_check(struct kata__entry *e, const kata_reservation *r, kata_error **err)
{
	for (size_t i = e->reservation_count; i-- > 0;)
		if (e->reservations[i].state == KATA_RESERVATION_UNDONE)
			kata__entry_drop(e, i);
	return check_own(e, r, err);
}

int kata__shelf_reserve(void *self, const kata_reservation *reservation, uint64_t flags, kata_error **err)
{
	bool shared = flags & KATA_RESERVE_SHARED;
	struct kata__shelf *s = self;
	struct kata__entry e = {0};
	int rc = s->ops->lock(s->self, true, err);

	if (rc < 0)
		return rc;
	rc = kata__shelf_must_load(s, reservation->sandbox_id, &e, err);
	if (rc == 0)
		rc = drop_undone_and_check(&e, reservation, err);
	if (rc == 0)
		rc = check_others(s, reservation, shared, err);
	if (rc == 0)
		rc = add(&e, reservation, err);
	if (rc == 0)
		rc = kata__shelf_save(s, &e, err);
	s->ops->unlock(s->self);
	kata__entry_deinit(&e);
	return rc;
}

int kata__shelf_settle_one(void *self, const char *sandbox_id, uint32_t kind, const char *id, uint32_t state,
			   kata_error **err)
{
	struct kata__shelf *s = self;
	struct kata__entry e = {0};
	kata_reservation *r;
	int rc = s->ops->lock(s->self, true, err);

	if (rc < 0)
		return rc;
	rc = kata__shelf_must_load(s, sandbox_id, &e, err);
	r = rc == 0 ? kata__entry_find(&e, kind, id) : NULL;
	if (rc == 0 && (!r || r->state != KATA_RESERVATION_INTENT))
		rc = kata__fail(err, KATA_E_NOT_FOUND, CALLER, "sandbox '%s' in %s has no intent for %s '%s'",
				sandbox_id, s->place, kata_reservation_kind_get_name((kata_reservation_kind)kind), id);
	if (rc == 0) {
		r->state = state;
		r->settled_at = time(NULL);
		rc = kata__shelf_save(s, &e, err);
	}
	s->ops->unlock(s->self);
	kata__entry_deinit(&e);
	return rc;
}

struct reservations {
	kata_reservation *list;
	size_t count;
};

static int by_key(const void *a, const void *b)
{
	const kata_reservation *x = a, *y = b;
	int c = strcmp(x->sandbox_id, y->sandbox_id);

	if (!c)
		c = strcmp(kata_reservation_kind_get_name((kata_reservation_kind)x->kind),
			   kata_reservation_kind_get_name((kata_reservation_kind)y->kind));
	return c ? c : strcmp(x->id, y->id);
}

static int take_all(struct reservations *r, const struct kata__entry *e, kata_error **err)
{
	kata_reservation *grown = reallocarray(r->list, r->count + e->reservation_count + 1, sizeof(*grown));

	if (!grown)
		return kata__fail_no_memory(err);
	r->list = grown;
	if (e->reservation_count)
		memcpy(&grown[r->count], e->reservations, e->reservation_count * sizeof(*grown));
	r->count += e->reservation_count;
	return 0;
}

static int collect(struct kata__shelf *s, const char *sandbox_id, struct reservations *r, kata_error **err)
{
	char **ids = NULL;
	int rc = s->ops->list(s->self, KATA__DRAWER_SANDBOXES, &ids, err);

	for (char **id = ids; rc == 0 && *id; id++) {
		struct kata__entry e = {0};
		bool found = false;

		if (sandbox_id && strcmp(*id, sandbox_id) != 0)
			continue;
		rc = kata__shelf_load(s, *id, &e, &found, err);
		if (rc == 0)
			rc = take_all(r, &e, err);
		kata__entry_deinit(&e);
	}
	kata__strv_free(ids);
	return rc;
}

int kata__shelf_list_reservations(void *self, const char *sandbox_id, kata_reservation **ret, size_t *ret_count,
				  kata_error **err)
{
	struct reservations r = {.list = calloc(1, sizeof(kata_reservation))};
	struct kata__shelf *s = self;
	int rc = r.list ? s->ops->lock(s->self, false, err) : kata__fail_no_memory(err);

	if (rc == 0) {
		rc = collect(s, sandbox_id, &r, err);
		s->ops->unlock(s->self);
	}
	if (rc < 0) {
		free(r.list);
		return rc;
	}
	qsort(r.list, r.count, sizeof(*r.list), by_key);
	*ret = r.list;
	*ret_count = r.count;
	return 0;
}

/* ---- rows */

static int no_row(struct kata__shelf *s, uint32_t kind, const char *id, kata_error **err)
{
	return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "there is no %s '%s' in %s",
			  kata_row_kind_get_name((kata_row_kind)kind), id, s->place);
}

static int has_text(struct kata__shelf *s, int drawer, const char *id, bool *ret, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	int rc = s->ops->get(s->self, drawer, id, &text, err);

	*ret = text != NULL;
	return rc;
}

static int check_parent(struct kata__shelf *s, const kata_row *row, kata_error **err)
{
	const char *parent = kata__row_parent(row);
	bool found = false;
	int rc;

	if (!parent || row->kind == KATA_ROW_SNAPSHOT)
		return 0;
	rc = has_text(s, row->kind == KATA_ROW_NETWORK ? KATA__DRAWER_SANDBOXES : KATA__DRAWER_OF(row->kind - 1),
		      parent, &found, err);
	if (rc < 0 || found)
		return rc;
	return kata__fail(err, KATA_E_NOT_FOUND, CALLER,
			  "%s '%s': what it belongs to, '%s', is not in %s: put that first",
			  kata_row_kind_get_name((kata_row_kind)row->kind), row->id, parent, s->place);
}

/* What a newer library wrote is not replaced; what nobody can read is. */
static int check_newer(struct kata__shelf *s, const kata_row *row, kata_error **err)
{
	KATA_AUTO(kata_error_free) kata_error *own = NULL;
	KATA_AUTO(free) char *text = NULL;
	kata_row *there = NULL;
	int rc = s->ops->get(s->self, KATA__DRAWER_OF(row->kind), row->id, &text, NULL);

	if (rc == 0 && text)
		rc = kata__row_from_json((kata_row_kind)row->kind, text, strlen(text), &there, &own);
	kata_row_free(there);
	return rc == KATA_E_VERSION ? kata__error_move(err, &own) : 0;
}

static int check_expected(struct kata__shelf *s, const kata_row *row, const char *expected, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	int rc = expected ? s->ops->get(s->self, KATA__DRAWER_OF(row->kind), row->id, &text, err)
			  : check_newer(s, row, err);

	if (rc < 0 || !expected)
		return rc;
	if (!text)
		return no_row(s, row->kind, row->id, err);
	return strcmp(text, expected) == 0
		       ? 0
		       : kata__fail(err, KATA_E_FENCED, CALLER, "%s '%s': another has changed it since it was read",
				    kata_row_kind_get_name((kata_row_kind)row->kind), row->id);
}

int kata__shelf_put_row(void *self, const kata_row *row, const char *json, const char *expected, kata_error **err)
{
	struct kata__shelf *s = self;
	int rc = s->ops->lock(s->self, true, err);

	if (rc < 0)
		return rc;
	rc = check_expected(s, row, expected, err);
	if (rc == 0)
		rc = check_parent(s, row, err);
	if (rc == 0)
		rc = s->ops->put(s->self, KATA__DRAWER_OF(row->kind), row->id, json, err);
	s->ops->unlock(s->self);
	return rc;
}

int kata__shelf_get_row(void *self, uint32_t kind, const char *id, char **ret_json, kata_error **err)
{
	struct kata__shelf *s = self;
	char *text = NULL;
	int rc = s->ops->lock(s->self, false, err);

	if (rc < 0)
		return rc;
	rc = s->ops->get(s->self, KATA__DRAWER_OF(kind), id, &text, err);
	s->ops->unlock(s->self);
	if (rc == 0 && !text)
		rc = no_row(s, kind, id, err);
	if (rc == 0)
		*ret_json = text;
	return rc;
}

/* Adds the ids of a kind whose parent and state are these (NULL: any). */
static int find_rows(struct kata__shelf *s, uint32_t kind, const char *parent, const char *state,
		     struct kata__id_list *l, kata_error **err)
{
	char **ids = NULL;
	int rc = s->ops->list(s->self, KATA__DRAWER_OF(kind), &ids, err);

	for (char **id = ids; rc == 0 && *id; id++) {
		KATA_AUTO(free) char *text = NULL;
		kata_row *row = NULL;
		const char *of;

		rc = s->ops->get(s->self, KATA__DRAWER_OF(kind), *id, &text, err);
		if (rc == 0 && text)
			rc = kata__row_from_json((kata_row_kind)kind, text, strlen(text), &row, err);
		of = row ? kata__row_parent(row) : NULL;
		if (row && (!parent || (of && strcmp(of, parent) == 0)) && (!state || strcmp(row->state, state) == 0))
			rc = kata__id_list_add(l, *id, err);
		kata_row_free(row);
	}
	kata__strv_free(ids);
	return rc;
}

static int check_children(struct kata__shelf *s, uint32_t kind, const char *id, kata_error **err)
{
	int child = kata__row_nouns[kind].child;
	struct kata__id_list l = {0};
	int rc = child < 0 ? 0 : find_rows(s, (uint32_t)child, id, NULL, &l, err);

	if (rc == 0 && l.count)
		rc = kata__fail(err, KATA_E_BUSY, CALLER, "%s '%s': %s '%s' is of it: remove that first",
				kata_row_kind_get_name((kata_row_kind)kind), id,
				kata_row_kind_get_name((kata_row_kind)child), l.list[0]);
	kata__strv_free(l.list);
	return rc;
}

int kata__shelf_remove_row(void *self, uint32_t kind, const char *id, kata_error **err)
{
	struct kata__shelf *s = self;
	bool found = false;
	int rc = s->ops->lock(s->self, true, err);

	if (rc < 0)
		return rc;
	rc = has_text(s, KATA__DRAWER_OF(kind), id, &found, err);
	if (rc == 0 && !found)
		rc = no_row(s, kind, id, err);
	if (rc == 0)
		rc = check_children(s, kind, id, err);
	if (rc == 0)
		rc = s->ops->remove(s->self, KATA__DRAWER_OF(kind), id, err);
	s->ops->unlock(s->self);
	return rc;
}

int kata__shelf_list_rows(void *self, uint32_t kind, const char *parent_id, const char *state, char ***ret_ids,
			  kata_error **err)
{
	struct kata__shelf *s = self;
	struct kata__id_list l = {0};
	int rc = s->ops->lock(s->self, false, err);

	if (rc < 0)
		return rc;
	rc = kata__id_list_add(&l, NULL, err);
	if (rc == 0)
		rc = find_rows(s, kind, parent_id, state, &l, err);
	s->ops->unlock(s->self);
	if (rc < 0)
		kata__strv_free(l.list);
	else
		*ret_ids = l.list;
	return rc;
}

int kata__shelf_remove_networks(struct kata__shelf *s, const char *sandbox_id, kata_error **err)
{
	struct kata__id_list l = {0};
	int rc = find_rows(s, KATA_ROW_NETWORK, sandbox_id, NULL, &l, err);

	for (size_t i = 0; rc == 0 && i < l.count; i++)
		rc = s->ops->remove(s->self, KATA__DRAWER_OF(KATA_ROW_NETWORK), l.list[i], err);
	kata__strv_free(l.list);
	return rc;
}
