/* SPDX-License-Identifier: Apache-2.0 */
/* The ops about sandboxes over a shelf of texts. */
#include "persist/shelf.h"

#include <string.h>
#include <time.h>

#include "base/text.h"

const char *const kata__drawer_names[KATA__DRAWERS] = {"sandboxes", "networks", "snapshots", "templates", "pooled-vms"};

/* ---- entries */

int kata__shelf_load(struct kata__shelf *s, const char *id, struct kata__entry *ret, bool *ret_found, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	int rc = s->ops->get(s->self, KATA__DRAWER_SANDBOXES, id, &text, err);

	memset(ret, 0, sizeof(*ret));
	*ret_found = false;
	if (rc < 0 || !text)
		return rc;
	rc = kata__entry_from_text(id, text, ret, err);
	*ret_found = rc == 0;
	return rc;
}

int kata__shelf_must_load(struct kata__shelf *s, const char *id, struct kata__entry *ret, kata_error **err)
{
	bool found = false;
	int rc = kata__shelf_load(s, id, ret, &found, err);

	if (rc == 0 && !found)
		rc = kata__fail(err, KATA_E_NOT_FOUND, CALLER, "there is no sandbox '%s' in %s", id, s->place);
	return rc;
}

int kata__shelf_save(struct kata__shelf *s, const struct kata__entry *e, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	int rc = kata__entry_to_text(e, &text, err);

	return rc < 0 ? rc : s->ops->put(s->self, KATA__DRAWER_SANDBOXES, e->id, text, err);
}

static int fenced(const struct kata__entry *e, uint64_t own, kata_error **err)
{
	char since[32];

	kata__format_time(e->holder.since, since, sizeof(since));
	return kata__fail(
		err, KATA_E_FENCED, CALLER,
		"sandbox '%s' is held by pid %lld (start time %llu) since %s (epoch %llu, this handle has %llu): "
		"obtain it again",
		e->id, (long long)e->holder.pid, (unsigned long long)e->holder.start_time, since,
		(unsigned long long)e->epoch, (unsigned long long)own);
}

static int op_create_sandbox(void *self, const char *id, kata_error **err)
{
	struct kata__shelf *s = self;
	struct kata__entry e = {0};
	bool found = false;
	int rc = s->ops->lock(s->self, true, err);

	if (rc < 0)
		return rc;
	rc = kata__shelf_load(s, id, &e, &found, err);
	if (rc == 0 && found)
		rc = kata__fail(err, KATA_E_EXISTS, CALLER,
				"sandbox '%s' is in %s already: choose another id or delete it", id, s->place);
	if (rc == 0) {
		snprintf(e.id, sizeof(e.id), "%s", id);
		kata__entry_take(&e, s->ctx);
		e.updated_at = e.holder.since;
		rc = kata__shelf_save(s, &e, err);
	}
	s->ops->unlock(s->self);
	kata__entry_deinit(&e);
	return rc;
}

/* ---- store and load */

static int check_store(struct kata__shelf *s, const struct kata__entry *e, bool found, const kata_record *record,
		       kata_error **err)
{
	int rc;

	if (found && e->epoch > record->epoch)
		return fenced(e, record->epoch, err);
	if (record->base < 0 || e->generation == (uint64_t)record->base)
		return 0;
	rc = kata__fail(err, KATA_E_DIVERGED, CALLER,
			"store sandbox '%s': %s has generation %llu (0: no record), but this handle stored %lld: what "
			"it stored "
			"was taken back, or another wrote the record",
			record->id, s->place, (unsigned long long)e->generation, (long long)record->base);
	if (err)
		kata__error_set_hint(*err, "kata_sandbox_reconcile stores it again or takes back what is not stored");
	return rc;
}

static bool is_undone(const kata_record *record, const kata_reservation *r)
{
	for (size_t i = 0; i < record->undone_count; i++)
		if (record->undone[i].kind == r->kind && strcmp(record->undone[i].id, r->id) == 0)
			return true;
	return false;
}

void kata__shelf_settle(struct kata__entry *e, const kata_record *record)
{
	for (size_t i = e->reservation_count; i-- > 0;) {
		kata_reservation *r = &e->reservations[i];
		bool has = kata_record_has_device(record, r->kind, r->id);

		if (r->state == KATA_RESERVATION_DONE && r->kind != KATA_RESERVE_VM && !has) {
			kata__entry_drop(e, i);
			continue;
		}
		if (r->state != KATA_RESERVATION_INTENT || (!has && !is_undone(record, r)))
			continue;
		r->state = has ? KATA_RESERVATION_DONE : KATA_RESERVATION_UNDONE;
		r->settled_at = time(NULL);
	}
}

/* The record is checked as it will be when it is read back. */
static int fill_entry(struct kata__entry *e, const kata_record *record, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	json_t *o = NULL;
	int rc = kata__record_to_json_text(record, &text, err); /* EXHAUSTED where it would not be read back */

	if (rc == 0)
		rc = kata__record_to_json_object(record, &o, err);
	if (rc < 0)
		return rc;
	json_decref(e->record);
	e->record = o;
	snprintf(e->id, sizeof(e->id), "%s", record->id);
	if (e->epoch < record->epoch || !e->updated_at) {
		e->holder.pid = record->owner_pid;
		e->holder.start_time = record->owner_start_time;
		snprintf(e->holder.boot_id, sizeof(e->holder.boot_id), "%s", record->boot_id ? record->boot_id : "");
		e->holder.since = time(NULL);
	}
	e->epoch = record->epoch;
	e->generation = record->generation;
	e->updated_at = time(NULL);
	kata__shelf_settle(e, record);
	return 0;
}

static int op_store(void *self, const kata_record *record, kata_error **err)
{
	struct kata__shelf *s = self;
	struct kata__entry e = {0};
	bool found = false;
	int rc = s->ops->lock(s->self, true, err);

	if (rc < 0)
		return rc;
	rc = kata__shelf_load(s, record->id, &e, &found, err);
	if (rc == 0)
		rc = check_store(s, &e, found, record, err);
	if (rc == 0)
		rc = fill_entry(&e, record, err);
	if (rc == 0)
		rc = kata__shelf_save(s, &e, err);
	s->ops->unlock(s->self);
	kata__entry_deinit(&e);
	return rc;
}

static int op_load(void *self, const char *id, char **ret_json, uint64_t *ret_epoch, kata_error **err)
{
	struct kata__shelf *s = self;
	struct kata__entry e = {0};
	int rc = s->ops->lock(s->self, false, err);

	if (rc < 0)
		return rc;
	rc = kata__shelf_must_load(s, id, &e, err);
	s->ops->unlock(s->self);
	if (rc == 0 && !e.record)
		rc = kata__fail(err, KATA_E_NOT_FOUND, CALLER, "sandbox '%s' is only reserved: it was never stored",
				id);
	if (rc == 0) {
		char *json = kata__json_dump(e.record);

		if (json) {
			*ret_json = json;
			*ret_epoch = e.epoch;
		}
		rc = json ? 0 : kata__fail_no_memory(err);
	}
	kata__entry_deinit(&e);
	return rc;
}

/* Giving an epoch back leaves the holder whom the record names. */
static void set_epoch(struct kata__shelf *s, struct kata__entry *e, uint64_t from, uint64_t to)
{
	const json_t *pid = json_object_get(e->record, "owner_pid");

	kata__entry_take(e, s->ctx);
	if (to < from && json_is_integer(pid)) {
		e->holder.pid = json_integer_value(pid);
		e->holder.start_time = (uint64_t)json_integer_value(json_object_get(e->record, "owner_start_time"));
	}
	e->epoch = to;
}

static int op_set_epoch(void *self, const char *id, uint64_t from, uint64_t to, kata_error **err)
{
	struct kata__shelf *s = self;
	struct kata__entry e = {0};
	int rc;

	if (from > INT64_MAX || to > INT64_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "epoch: is past 63 bits");
	rc = s->ops->lock(s->self, true, err);
	if (rc < 0)
		return rc;
	rc = kata__shelf_must_load(s, id, &e, err);
	if (rc == 0 && e.epoch != from)
		rc = fenced(&e, from, err);
	if (rc == 0) {
		set_epoch(s, &e, from, to);
		rc = kata__shelf_save(s, &e, err);
	}
	s->ops->unlock(s->self);
	kata__entry_deinit(&e);
	return rc;
}

/* What cannot be read can be removed too. */
static int remove_locked(struct kata__shelf *s, const char *id, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	int rc = s->ops->get(s->self, KATA__DRAWER_SANDBOXES, id, &text, NULL);

	if (rc == 0 && !text)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "there is no sandbox '%s' in %s", id, s->place);
	rc = kata__shelf_remove_networks(s, id, err);
	return rc < 0 ? rc : s->ops->remove(s->self, KATA__DRAWER_SANDBOXES, id, err);
}

static int op_remove(void *self, const char *id, kata_error **err)
{
	struct kata__shelf *s = self;
	int rc = s->ops->lock(s->self, true, err);

	if (rc < 0)
		return rc;
	rc = remove_locked(s, id, err);
	s->ops->unlock(s->self);
	return rc;
}

/* ---- lists */

int kata__id_list_add(struct kata__id_list *l, const char *id, kata_error **err)
{
	char *copy = id ? kata__strdup(id) : NULL;

	if (id && !copy)
		return kata__fail_no_memory(err);
	if (l->count + 1 >= l->room) {
		size_t room = l->room ? 2 * l->room : 16;
		char **grown = reallocarray(l->list, room, sizeof(*grown));

		if (!grown) {
			free(copy);
			return kata__fail_no_memory(err);
		}
		l->list = grown;
		l->room = room;
	}
	if (copy)
		l->list[l->count++] = copy;
	l->list[l->count] = NULL;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorts and leaves each once. */
static void sort_ids(struct kata__id_list *l)
{
	size_t kept = 0;

	qsort(l->list, l->count, sizeof(char *), by_name);
	for (size_t i = 0; i < l->count; i++) {
		if (kept && strcmp(l->list[kept - 1], l->list[i]) == 0)
			free(l->list[i]);
		else
			l->list[kept++] = l->list[i];
	}
	l->count = kept;
	l->list[kept] = NULL;
}

static int op_list_sandboxes(void *self, char ***ret_ids, kata_error **err)
{
	struct kata__shelf *s = self;
	int rc = s->ops->lock(s->self, false, err);

	if (rc < 0)
		return rc;
	rc = s->ops->list(s->self, KATA__DRAWER_SANDBOXES, ret_ids, err);
	s->ops->unlock(s->self);
	return rc;
}

/* The n-th container of a record, or NULL past the end; CORRUPT is an id that is none. */
static const char *container_at(const struct kata__entry *e, size_t i)
{
	const json_t *list = json_object_get(e->record, "containers");

	return json_string_value(json_object_get(json_array_get(list, i), "id"));
}

static size_t count_containers(const struct kata__entry *e)
{
	return json_array_size(json_object_get(e->record, "containers"));
}

static int corrupt_container(const struct kata__entry *e, kata_error **err)
{
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "the record of sandbox '%s' has a container whose id is no id",
			  e->id);
}

static int collect_containers(const struct kata__entry *e, struct kata__id_list *l, kata_error **err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < count_containers(e); i++) {
		const char *id = container_at(e, i);

		rc = id && kata__id_is_valid(id) ? kata__id_list_add(l, id, err) : corrupt_container(e, err);
	}
	return rc;
}

/* Calls fn for each entry, or the one of `only`. */
static int for_each(struct kata__shelf *s, const char *only,
		    int (*fn)(const struct kata__entry *e, void *user, kata_error **err), void *user, kata_error **err)
{
	char **ids = NULL;
	int rc = s->ops->list(s->self, KATA__DRAWER_SANDBOXES, &ids, err);

	for (char **id = ids; rc == 0 && *id; id++) {
		struct kata__entry e = {0};
		bool found = false;

		if (only && strcmp(*id, only) != 0)
			continue;
		rc = kata__shelf_load(s, *id, &e, &found, err);
		if (rc == 0 && found)
			rc = fn(&e, user, err);
		kata__entry_deinit(&e);
	}
	kata__strv_free(ids);
	return rc;
}

static int add_containers(const struct kata__entry *e, void *user, kata_error **err)
{
	return collect_containers(e, user, err);
}

static int op_list_containers(void *self, const char *sandbox_id, char ***ret_ids, kata_error **err)
{
	struct kata__shelf *s = self;
	struct kata__id_list l = {0};
	int rc = s->ops->lock(s->self, false, err);

	if (rc < 0)
		return rc;
	rc = kata__id_list_add(&l, NULL, err);
	if (rc == 0)
		rc = for_each(s, sandbox_id, add_containers, &l, err);
	s->ops->unlock(s->self);
	if (rc < 0) {
		kata__strv_free(l.list);
		return rc;
	}
	sort_ids(&l);
	*ret_ids = l.list;
	return 0;
}

struct search {
	const char *container;
	char first[65];
	bool again;
};

static int look_for(const struct kata__entry *e, void *user, kata_error **err)
{
	struct search *q = user;

	for (size_t i = 0; i < count_containers(e); i++) {
		const char *id = container_at(e, i);

		if (!id || strcmp(id, q->container) != 0)
			continue;
		q->again = q->first[0] != '\0';
		if (!q->again)
			snprintf(q->first, sizeof(q->first), "%s", e->id);
	}
	return 0;
}

static int op_sandbox_of_container(void *self, const char *container_id, char **ret_id, kata_error **err)
{
	struct search q = {.container = container_id};
	struct kata__shelf *s = self;
	char *copy;
	int rc = s->ops->lock(s->self, false, err);

	if (rc < 0)
		return rc;
	rc = for_each(s, NULL, look_for, &q, err);
	s->ops->unlock(s->self);
	if (rc < 0)
		return rc;
	if (!q.first[0])
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "no sandbox in %s has a container '%s'", s->place,
				  container_id);
	if (q.again)
		return kata__fail(
			err, KATA_E_EXISTS, CALLER,
			"several sandboxes have a container '%s', the first is '%s': list the containers of each",
			container_id, q.first);
	copy = kata__strdup(q.first);
	if (!copy)
		return kata__fail_no_memory(err);
	*ret_id = copy;
	return 0;
}

/* ---- infos */

static int fill_info(const struct kata__entry *e, kata_sandbox_info *info, kata_error **err)
{
	KATA_AUTO(free) char *json = e->record ? kata__json_dump(e->record) : NULL;
	kata_record *record = NULL;
	int rc = 0;

	if (e->record && !json)
		return kata__fail_no_memory(err);
	if (json)
		rc = kata__record_from_json(json, strlen(json), &record, err);
	if (rc < 0)
		return kata__error_wrap(err, rc, "record of sandbox '%s'", e->id);
	snprintf(info->id, sizeof(info->id), "%s", e->id);
	snprintf(info->state, sizeof(info->state), "new");
	if (record)
		kata__info_of_record(record, info);
	kata__record_free(record);
	info->epoch = e->epoch;
	info->generation = e->generation;
	info->holder_pid = e->holder.pid;
	info->holder_start_time = e->holder.start_time;
	snprintf(info->holder_boot_id, sizeof(info->holder_boot_id), "%s", e->holder.boot_id);
	info->held_since = e->holder.since;
	info->updated_at = e->updated_at;
	for (size_t i = 0; i < e->reservation_count; i++)
		info->intent_count += e->reservations[i].state == KATA_RESERVATION_INTENT;
	return 0;
}

static int compare_info(struct kata__shelf *s, const kata_sandbox_info *seen, kata_error **err)
{
	struct kata__entry e = {0};
	kata_sandbox_info now = {0};
	int rc = kata__shelf_must_load(s, seen->id, &e, err);

	if (rc == 0)
		rc = fill_info(&e, &now, err);
	kata__entry_deinit(&e);
	return rc < 0 ? rc : kata__info_compare(&now, seen, err);
}

static int op_remove_seen(void *self, const kata_sandbox_info *seen, kata_error **err)
{
	struct kata__shelf *s = self;
	int rc = s->ops->lock(s->self, true, err);

	if (rc < 0)
		return rc;
	rc = compare_info(s, seen, err);
	if (rc == 0)
		rc = remove_locked(s, seen->id, err);
	s->ops->unlock(s->self);
	return rc;
}

static int op_get_info(void *self, const char *id, kata_sandbox_info *ret_info, kata_error **err)
{
	struct kata__shelf *s = self;
	struct kata__entry e = {0};
	int rc = s->ops->lock(s->self, false, err);

	if (rc < 0)
		return rc;
	rc = kata__shelf_must_load(s, id, &e, err);
	s->ops->unlock(s->self);
	if (rc == 0)
		rc = fill_info(&e, ret_info, err);
	kata__entry_deinit(&e);
	return rc;
}

static int next_infos(struct kata__shelf *s, char **ids, const char *after, kata_sandbox_info *infos, size_t room,
		      size_t *ret_count, kata_error **err)
{
	size_t count = 0;
	int rc = 0;

	for (char **id = ids; rc == 0 && *id && count < room; id++) {
		struct kata__entry e = {0};
		bool found = false;

		if (after && strcmp(*id, after) <= 0)
			continue;
		rc = kata__shelf_load(s, *id, &e, &found, err);
		if (rc == 0 && found)
			rc = fill_info(&e, &infos[count++], err);
		kata__entry_deinit(&e);
	}
	*ret_count = count;
	return rc;
}

static int op_list_infos(void *self, const char *after, kata_sandbox_info *ret_infos, size_t room, size_t *ret_count,
			 kata_error **err)
{
	struct kata__shelf *s = self;
	char **ids = NULL;
	int rc = s->ops->lock(s->self, false, err);

	if (rc < 0)
		return rc;
	rc = s->ops->list(s->self, KATA__DRAWER_SANDBOXES, &ids, err);
	if (rc == 0)
		rc = next_infos(s, ids, after, ret_infos, room, ret_count, err);
	s->ops->unlock(s->self);
	kata__strv_free(ids);
	return rc;
}

/* ---- the object */

static void op_free(void *self)
{
	struct kata__shelf *s = self;

	s->ops->free(s->self);
	free(s->place);
	free(s);
}

static const kata_persistence_ops shelf_ops = {
	.size = sizeof(kata_persistence_ops),
	.create_sandbox = op_create_sandbox,
	.store = op_store,
	.load = op_load,
	.set_epoch = op_set_epoch,
	.remove = op_remove,
	.remove_seen = op_remove_seen,
	.list_sandboxes = op_list_sandboxes,
	.list_containers = op_list_containers,
	.sandbox_of_container = op_sandbox_of_container,
	.free = op_free,
	.reserve = kata__shelf_reserve,
	.settle = kata__shelf_settle_one,
	.list_reservations = kata__shelf_list_reservations,
	.put_row = kata__shelf_put_row,
	.get_row = kata__shelf_get_row,
	.remove_row = kata__shelf_remove_row,
	.list_rows = kata__shelf_list_rows,
	.get_info = op_get_info,
	.list_infos = op_list_infos,
};

int kata__shelf_publish(kata_context *ctx, const char *name, const struct kata__shelf_ops *ops, void *take_self,
			char *take_place, kata_persistence **ret, kata_error **err)
{
	struct kata__shelf *s = calloc(1, sizeof(*s));
	kata_persistence_ops persistence_ops = shelf_ops;
	int rc;

	if (!s || !take_place) {
		free(s);
		free(take_place);
		ops->free(take_self);
		return kata__fail_no_memory(err);
	}
	s->ctx = ctx;
	s->ops = ops;
	s->self = take_self;
	s->place = take_place;
	persistence_ops.name = name;
	rc = kata_persistence_new(ctx, &persistence_ops, s, ret, err);
	if (rc < 0)
		op_free(s);
	return rc;
}
