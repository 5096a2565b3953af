/* SPDX-License-Identifier: Apache-2.0 */
/* A store in memory: lists, and nothing cleverer. It makes no errors, only statuses: the library words them. */
#include "support/own_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct own_entry {
	struct own_entry *next;
	char id[65];
	uint64_t epoch, generation;
	char *json; /* NULL: reserved */
	char **containers;
	kata_reservation *reservations;
	size_t reservation_count;
};

struct own_row {
	struct own_row *next;
	uint32_t kind;
	char id[65], parent[65], state[33];
	char *json;
};

/* ---- sandboxes ---- */

static struct own_entry *find(struct own_store *s, const char *id)
{
	struct own_entry *e = s->first;

	while (e && strcmp(e->id, id) != 0)
		e = e->next;
	return e;
}

static struct own_entry *add(struct own_store *s, const char *id)
{
	struct own_entry **at = &s->first, *e = calloc(1, sizeof(*e));

	while (*at && strcmp((*at)->id, id) < 0)
		at = &(*at)->next;
	snprintf(e->id, sizeof(e->id), "%s", id);
	e->containers = calloc(1, sizeof(char *));
	e->next = *at;
	*at = e;
	return e;
}

static int own_create(void *self, const char *id, kata_error **err)
{
	if (find(self, id))
		return KATA_E_EXISTS;
	add(self, id);
	return 0;
}

static void remove_reservation(struct own_entry *e, size_t i)
{
	e->reservations[i] = e->reservations[--e->reservation_count];
}

static bool is_undone(const kata_record *record, const kata_reservation *r)
{
	for (size_t i = 0; i < kata_record_get_undone_count(record); i++) {
		uint32_t kind = 0;

		if (strcmp(kata_record_get_undone(record, i, &kind), r->id) == 0 && kind == r->kind)
			return true;
	}
	return false;
}

static void settle_all(struct own_entry *e, const kata_record *record)
{
	for (size_t i = e->reservation_count; i-- > 0;) {
		kata_reservation *r = &e->reservations[i];
		bool has = kata_record_has_device(record, r->kind, r->id);

		if (r->state == KATA_RESERVATION_DONE && r->kind != KATA_RESERVE_VM && !has)
			remove_reservation(e, i);
		else if (r->state == KATA_RESERVATION_INTENT && has)
			r->state = KATA_RESERVATION_DONE;
		else if (r->state == KATA_RESERVATION_INTENT && is_undone(record, r))
			r->state = KATA_RESERVATION_UNDONE;
	}
}

static int own_store(void *self, const kata_record *record, kata_error **err)
{
	const char *id = kata_record_get_sandbox_id(record);
	size_t count = kata_record_get_container_count(record);
	int64_t base = kata_record_get_base_generation(record);
	struct own_entry *e = find(self, id);
	char *json;

	if (e && e->epoch > kata_record_get_epoch(record))
		return KATA_E_FENCED;
	if (base >= 0 && (e ? e->generation : 0) != (uint64_t)base)
		return KATA_E_DIVERGED;
	json = kata_record_to_json(record);
	if (!json)
		return KATA_E_NO_MEMORY;
	if (!e)
		e = add(self, id);
	free(e->json);
	kata_string_list_free(e->containers);
	e->json = json;
	e->epoch = kata_record_get_epoch(record);
	e->generation = kata_record_get_generation(record);
	e->containers = calloc(count + 1, sizeof(char *));
	for (size_t i = 0; i < count; i++)
		e->containers[i] = strdup(kata_record_get_container_id(record, i));
	settle_all(e, record);
	return 0;
}

static int own_load(void *self, const char *id, char **ret_json, uint64_t *ret_epoch, kata_error **err)
{
	struct own_entry *e = find(self, id);

	if (!e || !e->json)
		return KATA_E_NOT_FOUND;
	*ret_json = strdup(e->json);
	*ret_epoch = e->epoch;
	return 0;
}

static int own_set_epoch(void *self, const char *id, uint64_t from, uint64_t to, kata_error **err)
{
	struct own_entry *e = find(self, id);

	if (!e)
		return KATA_E_NOT_FOUND;
	if (e->epoch != from)
		return KATA_E_FENCED;
	e->epoch = to;
	return 0;
}

static void drop(struct own_entry *e)
{
	free(e->json);
	kata_string_list_free(e->containers);
	free(e->reservations);
	free(e);
}

static void drop_row(struct own_store *s, struct own_row **at)
{
	struct own_row *row = *at;

	*at = row->next;
	free(row->json);
	free(row);
}

static int own_remove(void *self, const char *id, kata_error **err)
{
	struct own_store *s = self;
	struct own_entry **at = &s->first, *e;

	while (*at && strcmp((*at)->id, id) != 0)
		at = &(*at)->next;
	if (!*at)
		return KATA_E_NOT_FOUND;
	e = *at;
	*at = e->next;
	for (struct own_row **r = &s->rows; *r;)
		if ((*r)->kind == KATA_ROW_NETWORK && strcmp((*r)->parent, id) == 0)
			drop_row(s, r);
		else
			r = &(*r)->next;
	drop(e);
	return 0;
}

/* ---- lists ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static char **list_add(char **list, size_t *count, const char *id)
{
	list = realloc(list, (*count + 2) * sizeof(char *));
	list[(*count)++] = strdup(id);
	list[*count] = NULL;
	return list;
}

/* Sorts and leaves each once. */
static char **list_end(char **list, size_t count)
{
	size_t kept = 0;

	qsort(list, count, sizeof(char *), by_name);
	for (size_t i = 0; i < count; i++) {
		if (kept && strcmp(list[kept - 1], list[i]) == 0)
			free(list[i]);
		else
			list[kept++] = list[i];
	}
	list[kept] = NULL;
	return list;
}

static int own_list(void *self, char ***ret_ids, kata_error **err)
{
	size_t count = 0;
	char **list = calloc(1, sizeof(char *));

	for (struct own_entry *e = ((struct own_store *)self)->first; e; e = e->next)
		list = list_add(list, &count, e->id);
	*ret_ids = list;
	return 0;
}

static int own_list_containers(void *self, const char *sandbox_id, char ***ret_ids, kata_error **err)
{
	size_t count = 0;
	char **list = calloc(1, sizeof(char *));

	for (struct own_entry *e = ((struct own_store *)self)->first; e; e = e->next)
		for (char **c = e->containers; *c && (!sandbox_id || strcmp(sandbox_id, e->id) == 0); c++)
			list = list_add(list, &count, *c);
	*ret_ids = list_end(list, count);
	return 0;
}

static int own_sandbox_of(void *self, const char *container_id, char **ret_id, kata_error **err)
{
	const struct own_entry *found = NULL;

	for (struct own_entry *e = ((struct own_store *)self)->first; e; e = e->next)
		for (char **c = e->containers; *c; c++)
			if (strcmp(*c, container_id) == 0) {
				if (found)
					return KATA_E_EXISTS;
				found = e;
			}
	if (!found)
		return KATA_E_NOT_FOUND;
	*ret_id = strdup(found->id);
	return 0;
}

/* ---- reservations ---- */

static bool same(const char *a, const char *b)
{
	return a[0] && strcmp(a, b) == 0;
}

static bool clashes(const kata_reservation *a, const kata_reservation *b, bool shared)
{
	if (a->state == KATA_RESERVATION_UNDONE)
		return false;
	return (a->cid && a->cid == b->cid) || same(a->directory, b->directory) ||
	       (!shared && (same(a->tap_name, b->tap_name) || same(a->mac, b->mac)));
}

static kata_reservation *find_reservation(struct own_entry *e, uint32_t kind, const char *id)
{
	for (size_t i = 0; e && i < e->reservation_count; i++)
		if (e->reservations[i].kind == kind && strcmp(e->reservations[i].id, id) == 0)
			return &e->reservations[i];
	return NULL;
}

static int own_reserve(void *self, const kata_reservation *reservation, uint64_t flags, kata_error **err)
{
	struct own_store *s = self;
	struct own_entry *own = find(s, reservation->sandbox_id);

	if (!own)
		return KATA_E_NOT_FOUND;
	for (size_t i = own->reservation_count; i-- > 0;)
		if (own->reservations[i].state == KATA_RESERVATION_UNDONE)
			remove_reservation(own, i);
	if (find_reservation(own, reservation->kind, reservation->id))
		return KATA_E_EXISTS;
	for (struct own_entry *e = s->first; e; e = e->next)
		for (size_t i = 0; i < e->reservation_count; i++)
			if (clashes(&e->reservations[i], reservation, flags & KATA_RESERVE_SHARED))
				return KATA_E_EXISTS;
	own->reservations = realloc(own->reservations, (own->reservation_count + 1) * sizeof(*own->reservations));
	own->reservations[own->reservation_count++] = *reservation;
	return 0;
}

static int own_settle(void *self, const char *sandbox_id, uint32_t kind, const char *id, uint32_t state,
		      kata_error **err)
{
	kata_reservation *r = find_reservation(find(self, sandbox_id), kind, id);

	if (!r || r->state != KATA_RESERVATION_INTENT)
		return KATA_E_NOT_FOUND;
	r->state = state;
	return 0;
}

static int by_key(const void *a, const void *b)
{
	const kata_reservation *x = a, *y = b;
	int c = strcmp(x->sandbox_id, y->sandbox_id);

	if (!c)
		c = strcmp(kata_reservation_kind_get_name((kata_reservation_kind)x->kind),
			   kata_reservation_kind_get_name((kata_reservation_kind)y->kind));
	return c ? c : strcmp(x->id, y->id);
}

static int own_list_reservations(void *self, const char *sandbox_id, kata_reservation **ret, size_t *ret_count,
				 kata_error **err)
{
	kata_reservation *list = calloc(1, sizeof(*list));
	size_t count = 0;

	for (struct own_entry *e = ((struct own_store *)self)->first; e; e = e->next)
		for (size_t i = 0; i < e->reservation_count && (!sandbox_id || !strcmp(sandbox_id, e->id)); i++) {
			list = realloc(list, (count + 1) * sizeof(*list));
			list[count++] = e->reservations[i];
		}
	qsort(list, count, sizeof(*list), by_key);
	*ret = list;
	*ret_count = count;
	return 0;
}

/* ---- rows ---- */

static struct own_row **find_row(struct own_store *s, uint32_t kind, const char *id)
{
	struct own_row **at = &s->rows;

	while (*at && ((*at)->kind != kind || strcmp((*at)->id, id) != 0))
		at = &(*at)->next;
	return at;
}

static const char *parent_of(const kata_row *row)
{
	const char *parent =
		row->kind == KATA_ROW_NETWORK || row->kind == KATA_ROW_SNAPSHOT ? row->sandbox_id : row->parent_id;

	return parent ? parent : "";
}

static bool has_parent(struct own_store *s, const kata_row *row)
{
	const char *parent = parent_of(row);

	if (!parent[0] || row->kind == KATA_ROW_SNAPSHOT)
		return true;
	return row->kind == KATA_ROW_NETWORK ? find(s, parent) != NULL : *find_row(s, row->kind - 1, parent) != NULL;
}

static int own_put_row(void *self, const kata_row *row, const char *json, const char *expected, kata_error **err)
{
	struct own_row **at = find_row(self, row->kind, row->id);

	if (expected && (!*at || strcmp((*at)->json, expected) != 0))
		return *at ? KATA_E_FENCED : KATA_E_NOT_FOUND;
	if (!has_parent(self, row))
		return KATA_E_NOT_FOUND;
	if (!*at) {
		*at = calloc(1, sizeof(**at));
		(*at)->kind = row->kind;
		snprintf((*at)->id, sizeof((*at)->id), "%s", row->id);
	}
	snprintf((*at)->parent, sizeof((*at)->parent), "%s", parent_of(row));
	snprintf((*at)->state, sizeof((*at)->state), "%s", row->state);
	free((*at)->json);
	(*at)->json = strdup(json);
	return 0;
}

static int own_get_row(void *self, uint32_t kind, const char *id, char **ret_json, kata_error **err)
{
	struct own_row *row = *find_row(self, kind, id);

	if (!row)
		return KATA_E_NOT_FOUND;
	*ret_json = strdup(row->json);
	return 0;
}

static int own_remove_row(void *self, uint32_t kind, const char *id, kata_error **err)
{
	struct own_store *s = self;
	struct own_row **at = find_row(s, kind, id);

	if (!*at)
		return KATA_E_NOT_FOUND;
	for (struct own_row *r = s->rows; r; r = r->next)
		if (kind != KATA_ROW_NETWORK && r->kind == kind + 1 && strcmp(r->parent, id) == 0)
			return KATA_E_BUSY;
	drop_row(s, at);
	return 0;
}

static int own_list_rows(void *self, uint32_t kind, const char *parent_id, const char *state, char ***ret_ids,
			 kata_error **err)
{
	size_t count = 0;
	char **list = calloc(1, sizeof(char *));

	for (struct own_row *r = ((struct own_store *)self)->rows; r; r = r->next)
		if (r->kind == kind && (!parent_id || strcmp(r->parent, parent_id) == 0) &&
		    (!state || strcmp(r->state, state) == 0))
			list = list_add(list, &count, r->id);
	*ret_ids = list_end(list, count);
	return 0;
}

static void own_free(void *self)
{
	struct own_store *s = self;

	while (s->first) {
		struct own_entry *e = s->first;

		s->first = e->next;
		drop(e);
	}
	while (s->rows)
		drop_row(s, &s->rows);
	s->frees++;
}

const kata_persistence_ops own_store_ops = {
	.size = sizeof(kata_persistence_ops),
	.name = "memory",
	.create_sandbox = own_create,
	.store = own_store,
	.load = own_load,
	.set_epoch = own_set_epoch,
	.remove = own_remove,
	.list_sandboxes = own_list,
	.list_containers = own_list_containers,
	.sandbox_of_container = own_sandbox_of,
	.free = own_free,
	.reserve = own_reserve,
	.settle = own_settle,
	.list_reservations = own_list_reservations,
	.put_row = own_put_row,
	.get_row = own_get_row,
	.remove_row = own_remove_row,
	.list_rows = own_list_rows,
};
