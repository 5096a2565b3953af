/* SPDX-License-Identifier: Apache-2.0 */
/* The ops on SQLite but storing and loading: reservation, epoch, removal, lists; and what the others share. */
#include "persist/sqlite.h"

#include <string.h>
#include <time.h>

#include "base/text.h"

/* SQLite goes on with a file that has no name any more: what is written there is lost. Of the caller's, he knows. */
static bool has_moved(struct kata__sqlite *s)
{
	int moved = 0;

	return s->owned && sqlite3_file_control(s->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK && moved;
}

int kata__sqlite_enter(struct kata__sqlite *s, const char *operation, const char *subject, kata_error **err)
{
	sqlite3_mutex_enter(sqlite3_db_mutex(s->db));
	if (pthread_mutex_lock(&s->lock) != 0) {
		sqlite3_mutex_leave(sqlite3_db_mutex(s->db));
		return kata__fail(err, KATA_E_STATE, CALLER,
				  "%s: called from inside a callback of SQLite during another call on this persistence",
				  operation);
	}
	if (has_moved(s)) {
		pthread_mutex_unlock(&s->lock);
		sqlite3_mutex_leave(sqlite3_db_mutex(s->db));
		return kata__fail(err, KATA_E_IO, HOST,
				  "%s: %s was removed or replaced since it was opened: open it again", operation,
				  s->place);
	}
	s->operation = operation;
	s->subject = subject;
	s->in_transaction = !sqlite3_get_autocommit(s->db);
	s->limit = sqlite3_limit(s->db, SQLITE_LIMIT_LENGTH, -1);
	if (s->limit > KATA__ROW_MAX)
		sqlite3_limit(s->db, SQLITE_LIMIT_LENGTH, KATA__ROW_MAX);
	return 0;
}

int kata__sqlite_leave(struct kata__sqlite *s, int rc, kata_error **err)
{
	if (rc < 0 && err && s->in_transaction && sqlite3_get_autocommit(s->db))
		kata__error_set_hint(*err, "SQLite has rolled the whole transaction back: begin it again");
	sqlite3_limit(s->db, SQLITE_LIMIT_LENGTH, s->limit);
	s->subject = NULL;
	pthread_mutex_unlock(&s->lock);
	sqlite3_mutex_leave(sqlite3_db_mutex(s->db));
	return rc;
}

void kata__sqlite_bind_id(sqlite3_stmt *st, int at, const char *id)
{
	sqlite3_bind_text(st, at, id, -1, SQLITE_STATIC);
}

int kata__sqlite_run_for(struct kata__sqlite *s, int sql, const char *id, const char *table, kata_error **err)
{
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_prepare(s, sql, &st, err);

	if (rc < 0)
		return rc;
	kata__sqlite_bind_id(st, 1, id);
	rc = kata__sqlite_run(s, st, table, err);
	sqlite3_clear_bindings(st);
	return rc;
}

void kata__sqlite_copy_text(sqlite3_stmt *st, int column, char *buf, size_t size)
{
	const char *text = (const char *)sqlite3_column_text(st, column);
	size_t length = text ? (size_t)sqlite3_column_bytes(st, column) : 0;

	buf[0] = '\0';
	if (!text || length >= size || !kata__text_is_clean(text, length))
		return;
	memcpy(buf, text, length + 1);
}

static void take_head(sqlite3_stmt *st, struct kata__head *ret)
{
	ret->epoch = sqlite3_column_int64(st, 0);
	ret->holder.pid = sqlite3_column_int64(st, 1);
	ret->holder.start_time = sqlite3_column_int64(st, 2);
	kata__sqlite_copy_text(st, 3, ret->holder.boot_id, sizeof(ret->holder.boot_id));
	ret->holder.since = sqlite3_column_int64(st, 4);
	ret->reserved = sqlite3_column_int(st, 5);
	ret->generation = sqlite3_column_int64(st, 6);
	ret->intents = sqlite3_column_int64(st, 7);
	for (int i = 0; i < KATA__NOUNS; i++)
		ret->counts[i] = sqlite3_column_int64(st, 8 + i);
}

int kata__sqlite_head(struct kata__sqlite *s, const char *id, struct kata__head *ret, kata_error **err)
{
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_prepare(s, KATA__SQL_HEAD, &st, err);
	int code;

	if (rc < 0)
		return rc;
	kata__sqlite_bind_id(st, 1, id);
	code = sqlite3_step(st);
	if (code == SQLITE_ROW) {
		take_head(st, ret);
	} else if (code == SQLITE_DONE) {
		rc = kata__fail(err, KATA_E_NOT_FOUND, CALLER, "%s: there is no sandbox '%s' in %s", s->operation, id,
				s->place);
	} else {
		rc = kata__sqlite_fail(s, code, "kata_sandboxes", err);
	}
	kata__sqlite_done(st);
	return rc;
}

int kata__sqlite_fenced(struct kata__sqlite *s, const struct kata__head *h, uint64_t own, kata_error **err)
{
	char since[32];

	kata__format_time(h->holder.since, since, sizeof(since));
	return kata__fail(
		err, KATA_E_FENCED, CALLER,
		"%s: sandbox '%s' is held by pid %lld (start time %lld) since %s (epoch %lld, this handle has "
		"%llu): obtain it again",
		s->operation, s->subject, (long long)h->holder.pid, (long long)h->holder.start_time, since,
		(long long)h->epoch, (unsigned long long)own);
}

/* ---- reservation, epoch, removal ---- */

static struct kata__holder self_now(const struct kata__sqlite *s)
{
	const struct kata__process_identity *self = kata__context_self(s->ctx);
	struct kata__holder h = {.pid = self->pid, .start_time = (int64_t)self->start_time, .since = time(NULL)};

	snprintf(h.boot_id, sizeof(h.boot_id), "%s", self->boot_id);
	return h;
}

/* Pid, start time, boot id and time, from parameter `at`. The holder outlives the use. */
static void bind_holder(sqlite3_stmt *st, int at, const struct kata__holder *h)
{
	sqlite3_bind_int64(st, at, h->pid);
	sqlite3_bind_int64(st, at + 1, h->start_time);
	sqlite3_bind_text(st, at + 2, h->boot_id[0] ? h->boot_id : NULL, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, at + 3, h->since);
}

static int reserve_id(struct kata__sqlite *s, const char *id, kata_error **err)
{
	sqlite3_int64 rowid = sqlite3_last_insert_rowid(s->db);
	struct kata__holder self = self_now(s);
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_prepare(s, KATA__SQL_RESERVE, &st, err);

	if (rc < 0)
		return rc;
	kata__sqlite_bind_id(st, 1, id);
	bind_holder(st, 2, &self);
	rc = kata__sqlite_run(s, st, "kata_sandboxes", err);
	sqlite3_clear_bindings(st);
	sqlite3_set_last_insert_rowid(s->db, rowid);
	if (rc == 0 && sqlite3_changes(s->db) == 0)
		rc = kata__fail(err, KATA_E_EXISTS, CALLER,
				"%s: sandbox '%s' is in %s already: choose another id or delete it", s->operation, id,
				s->place);
	return rc == 0 ? kata__schema_recheck(s, err) : rc;
}

static int op_create_sandbox(void *self, const char *id, kata_error **err)
{
	struct kata__sqlite *s = self;
	int rc = kata__sqlite_enter(s, "create", id, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = reserve_id(s, id, err);
	return kata__sqlite_leave(s, rc, err);
}

/* Who shall stand in the row as the holder: this process; when it gives an epoch back that it took, whoever stood there
 * before. */
static struct kata__holder next_holder(struct kata__sqlite *s, const char *id, uint64_t from, uint64_t to)
{
	struct kata__taken *t = &s->taken;

	return to < from && t->epoch == from && strcmp(t->id, id) == 0 ? t->before : self_now(s);
}

static int write_epoch(struct kata__sqlite *s, const char *id, uint64_t from, uint64_t to, kata_error **err)
{
	struct kata__holder holder = next_holder(s, id, from, to);
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_prepare(s, KATA__SQL_SET_EPOCH, &st, err);

	if (rc < 0)
		return rc;
	kata__sqlite_bind_id(st, 1, id);
	sqlite3_bind_int64(st, 2, (int64_t)to);
	bind_holder(st, 3, &holder);
	sqlite3_bind_int64(st, 7, (int64_t)from);
	rc = kata__sqlite_run(s, st, "kata_sandboxes", err);
	sqlite3_clear_bindings(st);
	return rc;
}

/* The row is read for who held it until now; what decides is the UPDATE, which asks for `from` itself. */
static int set_epoch(struct kata__sqlite *s, const char *id, uint64_t from, uint64_t to, kata_error **err)
{
	struct kata__head head = {0};
	int rc = kata__sqlite_head(s, id, &head, err);

	if (rc == 0 && (uint64_t)head.epoch != from)
		rc = kata__sqlite_fenced(s, &head, from, err);
	if (rc == 0)
		rc = write_epoch(s, id, from, to, err);
	if (rc == 0 && sqlite3_changes(s->db) == 0) {
		rc = kata__sqlite_head(s, id, &head, err);
		rc = rc < 0 ? rc : kata__sqlite_fenced(s, &head, from, err);
	}
	if (rc < 0)
		return rc;
	snprintf(s->taken.id, sizeof(s->taken.id), "%s", id);
	s->taken.epoch = to;
	s->taken.before = head.holder;
	return kata__schema_recheck(s, err);
}

static int op_set_epoch(void *self, const char *id, uint64_t from, uint64_t to, kata_error **err)
{
	struct kata__sqlite *s = self;
	int rc = kata__sqlite_enter(s, "set epoch of", id, err);

	if (rc < 0)
		return rc;
	if (from > INT64_MAX || to > INT64_MAX)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "epoch: is past 63 bits");
	if (rc == 0)
		rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = set_epoch(s, id, from, to, err);
	return kata__sqlite_leave(s, rc, err);
}

/* Rows below first: whether the foreign keys cascade is up to a PRAGMA that is not ours to set. */
static int remove_rows(struct kata__sqlite *s, const char *id, kata_error **err)
{
	int rc = kata__sqlite_run_for(s, KATA__SQL_RESERVATIONS_DELETE, id, "kata_reservations", err);

	if (rc == 0)
		rc = kata__sqlite_run_for(s, KATA__SQL_NETWORKS_DELETE, id, "kata_networks", err);
	for (int i = 0; rc == 0 && i < KATA__NOUNS; i++)
		rc = kata__sqlite_run_for(s, KATA__SQL_OF(i, KATA__SQL_ROWS_DELETE), id, kata__nouns[i].table, err);
	if (rc == 0)
		rc = kata__sqlite_run_for(s, KATA__SQL_DELETE, id, "kata_sandboxes", err);
	if (rc == 0 && sqlite3_changes(s->db) == 0)
		rc = kata__fail(err, KATA_E_NOT_FOUND, CALLER, "%s: there is no sandbox '%s' in %s", s->operation, id,
				s->place);
	return rc == 0 ? kata__schema_recheck(s, err) : rc;
}

/* The right to write is ours: nobody else writes between the look and the removal. */
static int remove_seen(struct kata__sqlite *s, const kata_sandbox_info *seen, kata_error **err)
{
	kata_sandbox_info now = {0};
	int rc = kata__sqlite_info(s, seen->id, &now, err);

	if (rc == 0)
		rc = kata__info_compare(&now, seen, err);
	return rc < 0 ? rc : remove_rows(s, seen->id, err);
}

/* seen NULL: whatever stands there. */
static int op_remove_any(struct kata__sqlite *s, const char *id, const kata_sandbox_info *seen, kata_error **err)
{
	int rc = kata__sqlite_enter(s, "delete", id, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = kata__sqlite_begin_change(s, err);
	if (rc == 0)
		rc = kata__sqlite_end_change(s, seen ? remove_seen(s, seen, err) : remove_rows(s, id, err), err);
	return kata__sqlite_leave(s, rc, err);
}

static int op_remove(void *self, const char *id, kata_error **err)
{
	return op_remove_any(self, id, NULL, err);
}

static int op_remove_seen(void *self, const kata_sandbox_info *seen, kata_error **err)
{
	return op_remove_any(self, seen->id, seen, err);
}

/* ---- lists ---- */

/* An id from a row: TEXT of the form of an id, or CORRUPT. */
static int take_id(struct kata__sqlite *s, sqlite3_stmt *st, const char *table, char **ret, kata_error **err)
{
	const char *id = (const char *)sqlite3_column_text(st, 0);

	if (sqlite3_column_type(st, 0) != SQLITE_TEXT || !id || strlen(id) != (size_t)sqlite3_column_bytes(st, 0) ||
	    !kata__id_is_valid(id))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: %s has a row whose id is no id", s->operation,
				  table);
	*ret = strdup(id);
	return *ret ? 0 : kata__fail_no_memory(err);
}

struct ids {
	char **list;
	size_t count, room;
};

static int add_id(struct ids *ids, char *take_id_, kata_error **err)
{
	if (ids->count + 1 >= ids->room) {
		size_t room = ids->room ? 2 * ids->room : 16;
		char **list = reallocarray(ids->list, room, sizeof(*list));

		if (!list) {
			free(take_id_);
			return kata__fail_no_memory(err);
		}
		ids->list = list;
		ids->room = room;
	}
	if (take_id_)
		ids->list[ids->count++] = take_id_;
	ids->list[ids->count] = NULL;
	return 0;
}

static int collect(struct kata__sqlite *s, sqlite3_stmt *st, const char *table, struct ids *ids, kata_error **err)
{
	int rc = add_id(ids, NULL, err);
	int code = SQLITE_ROW;

	while (rc == 0) {
		char *id = NULL;

		code = sqlite3_step(st);
		if (code != SQLITE_ROW)
			break;
		rc = take_id(s, st, table, &id, err);
		if (rc == 0)
			rc = add_id(ids, id, err);
	}
	return rc == 0 && code != SQLITE_DONE ? kata__sqlite_fail(s, code, table, err) : rc;
}

int kata__sqlite_collect_ids(struct kata__sqlite *s, sqlite3_stmt *st, const char *table, char ***ret, kata_error **err)
{
	struct ids ids = {0};
	int rc = collect(s, st, table, &ids, err);

	kata__sqlite_done(st);
	rc = kata__schema_recheck_read(s, rc, err);
	if (rc < 0)
		kata__strv_free(ids.list);
	else
		*ret = ids.list;
	return rc;
}

static int list(struct kata__sqlite *s, int sql, const char *table, const char *of, char ***ret, kata_error **err)
{
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_enter(s, "list", of, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = kata__sqlite_prepare(s, sql, &st, err);
	if (rc == 0 && of)
		kata__sqlite_bind_id(st, 1, of);
	if (rc == 0)
		rc = kata__sqlite_collect_ids(s, st, table, ret, err);
	return kata__sqlite_leave(s, rc, err);
}

static int op_list_sandboxes(void *self, char ***ret_ids, kata_error **err)
{
	return list(self, KATA__SQL_LIST, "kata_sandboxes", NULL, ret_ids, err);
}

static int op_list_containers(void *self, const char *sandbox_id, char ***ret_ids, kata_error **err)
{
	int sql = sandbox_id ? KATA__SQL_LIST_CONTAINERS : KATA__SQL_LIST_ALL_CONTAINERS;

	return list(self, sql, "kata_containers", sandbox_id, ret_ids, err);
}

static int find_sandbox(struct kata__sqlite *s, sqlite3_stmt *st, const char *container_id, char **ret_id,
			kata_error **err)
{
	char *id = NULL;
	int code = sqlite3_step(st);
	int rc;

	if (code == SQLITE_DONE)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "%s: no sandbox in %s has a container '%s'",
				  s->operation, s->place, container_id);
	if (code != SQLITE_ROW)
		return kata__sqlite_fail(s, code, "kata_containers", err);
	rc = take_id(s, st, "kata_containers", &id, err);
	if (rc < 0)
		return rc;
	code = sqlite3_step(st);
	if (code == SQLITE_DONE) {
		*ret_id = id;
		return 0;
	}
	if (code == SQLITE_ROW)
		rc = kata__fail(
			err, KATA_E_EXISTS, CALLER,
			"%s: several sandboxes have a container '%s', the first is '%s': list the containers of each",
			s->operation, container_id, id);
	else
		rc = kata__sqlite_fail(s, code, "kata_containers", err);
	free(id);
	return rc;
}

static int op_sandbox_of_container(void *self, const char *container_id, char **ret_id, kata_error **err)
{
	struct kata__sqlite *s = self;
	sqlite3_stmt *st = NULL;
	char *id = NULL;
	int rc = kata__sqlite_enter(s, "find container", NULL, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = kata__sqlite_prepare(s, KATA__SQL_FIND_CONTAINER, &st, err);
	if (rc == 0) {
		kata__sqlite_bind_id(st, 1, container_id);
		rc = find_sandbox(s, st, container_id, &id, err);
	}
	kata__sqlite_done(st);
	rc = kata__schema_recheck_read(s, rc, err);
	if (rc == 0)
		*ret_id = kata__take_ptr(id);
	free(id);
	return kata__sqlite_leave(s, rc, err);
}

static int op_create_schema(void *self, kata_error **err)
{
	struct kata__sqlite *s = self;
	int rc = kata__sqlite_enter(s, "create schema", NULL, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_create(s, err);
	return kata__sqlite_leave(s, rc, err);
}

static int op_load(void *self, const char *id, char **ret_json, uint64_t *ret_epoch, kata_error **err)
{
	kata_record *record = NULL;
	int rc = kata__sqlite_load_record(self, id, &record, err);

	if (rc < 0)
		return rc;
	rc = kata__record_to_json_text(record, ret_json, err);
	if (rc == 0)
		*ret_epoch = record->epoch;
	kata__record_free(record);
	return rc;
}

void kata__sqlite_free(void *self)
{
	struct kata__sqlite *s = self;

	if (!s)
		return;
	kata__sqlite_finalize(s);
	if (s->owned)
		sqlite3_close(s->db);
	pthread_mutex_destroy(&s->lock);
	free(s->place);
	free(s->quoted);
	free(s);
}

const kata_persistence_ops kata__sqlite_ops = {
	.size = sizeof(kata_persistence_ops),
	.name = "sqlite",
	.create_schema = op_create_schema,
	.create_sandbox = op_create_sandbox,
	.store = kata__sqlite_store,
	.load = op_load,
	.set_epoch = op_set_epoch,
	.remove = op_remove,
	.remove_seen = op_remove_seen,
	.list_sandboxes = op_list_sandboxes,
	.list_containers = op_list_containers,
	.sandbox_of_container = op_sandbox_of_container,
	.free = kata__sqlite_free,
	.reserve = kata__sqlite_reserve,
	.settle = kata__sqlite_settle,
	.list_reservations = kata__sqlite_list_reservations,
	.get_info = kata__sqlite_get_info,
	.list_infos = kata__sqlite_list_infos,
	.put_row = kata__sqlite_put_row,
	.get_row = kata__sqlite_get_row,
	.remove_row = kata__sqlite_remove_row,
	.list_rows = kata__sqlite_list_rows,
};
