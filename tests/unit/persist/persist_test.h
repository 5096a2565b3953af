/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_UNIT_PERSIST_PERSIST_TEST_H
#define KATA_TESTS_UNIT_PERSIST_PERSIST_TEST_H
/* Records for tests, a caller's handle with our tables in it, and SQL in one line. */
#include <criterion/criterion.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "persist/fields.h"
#include "persist/sqlite.h"
#include "support/persistence_contract.h"

#define BOOT_ID "0b0b0b0b-1111-4222-8333-444455556666"

static inline void fill_storages(kata_record *r, unsigned count)
{
	cr_assert_eq(kata__noun_alloc(&kata__nouns[KATA__NOUN_STORAGE], r, count), 0);
	for (unsigned i = 0; i < count; i++) {
		struct kata__record_storage *s = &r->storages[i];

		s->id = kata__format("disk%u", i);
		s->path = kata__format("/var/lib/pods/%s/d\xc3\xbcsk%u.img", r->id, i);
		s->format = strdup(i % 2 ? "qcow2" : "raw");
		s->driver = strdup("virtio-blk");
		s->fstype = i % 2 ? NULL : strdup("ext4");
		s->address = kata__format("%02x/00", 8 + i);
		s->state = strdup("plugged");
		s->read_only = i == 1;
		s->size_bytes = UINT64_C(1) << (40 + i);
	}
}

static inline void fill_nics(kata_record *r, unsigned count)
{
	cr_assert_eq(kata__noun_alloc(&kata__nouns[KATA__NOUN_NIC], r, count), 0);
	for (unsigned i = 0; i < count; i++) {
		struct kata__record_nic *n = &r->nics[i];

		n->id = kata__format("nic%u", i);
		n->type = strdup(i ? "tap" : "user");
		n->tap_name = i ? kata__format("tap%u", i) : NULL;
		n->mac = kata__format("02:00:00:00:00:%02x", i);
		n->address = strdup("10/00");
		n->state = strdup("plugged");
		n->mtu = 1500;
		n->interface_json = i ? strdup("{\"addresses\":[\"10.0.0.2/24\"],\"name\":\"eth0\"}") : NULL;
	}
}

static inline void fill_containers(kata_record *r, const char *const *ids)
{
	size_t count = ids ? kata__strv_length(ids) : 0;

	cr_assert_eq(kata__noun_alloc(&kata__nouns[KATA__NOUN_CONTAINER], r, count), 0);
	cr_assert_eq(kata__noun_alloc(&kata__nouns[KATA__NOUN_PROCESS], r, count), 0);
	for (size_t i = 0; i < count; i++) {
		r->containers[i].id = strdup(ids[i]);
		r->containers[i].state = strdup("running");
		r->containers[i].storages_json = strdup("[\"disk0\"]");
		r->processes[i].container_id = strdup(ids[i]);
		r->processes[i].exec_id = strdup(ids[i]);
		r->processes[i].state = strdup("running");
		r->processes[i].terminal = i == 0;
		r->processes[i].exit_status = i ? 3 : -1;
	}
}

static inline void fill_undone(kata_record *r, const struct record_wish *wish)
{
	r->undone = calloc(4, sizeof(*r->undone));
	for (size_t i = 0; i < 4 && wish->undone_storages[i]; i++)
		r->undone[r->undone_count++] =
			(struct kata__record_undone){KATA_RESERVE_STORAGE, strdup(wish->undone_storages[i])};
}

static inline kata_record *sample_record(const struct record_wish *wish)
{
	kata_record *r = kata__record_new();

	cr_assert_not_null(r);
	r->id = strdup(wish->id);
	r->state = strdup(wish->state ? wish->state : "running");
	r->epoch = wish->epoch;
	r->generation = wish->generation;
	r->base = wish->base;
	fill_undone(r, wish);
	r->hostname = strdup(wish->hostname ? wish->hostname : "guest");
	r->dns_json = strdup("[\"nameserver 10.0.2.3\",\"search example\"]");
	r->owner_pid = 4242;
	r->owner_start_time = 123456;
	r->boot_id = strdup(BOOT_ID);
	r->vm_id = kata__format("vm-%s", wish->id);
	r->vm_uuid = strdup("1c1c1c1c-1111-4222-8333-444455556666");
	r->vm_driver = strdup("qemu");
	r->vm_accelerator = strdup("tcg");
	r->vm_pid = 777;
	r->vm_start_time = 999;
	r->vm_cpus = 2;
	r->vm_memory_mib = 512;
	r->vm_json = strdup("{\"slots\":[1,2,3],\"version\":1}");
	r->agent_json = strdup("{\"next\":17}");
	r->routes_json = strdup("[{\"dest\":\"\",\"gateway\":\"10.0.2.2\"}]");
	fill_storages(r, wish->disks);
	fill_nics(r, wish->nics);
	fill_containers(r, wish->containers);
	return r;
}

/* ---- a caller's handle ---- */

struct caller {
	struct fixture f;
	sqlite3 *db;
	kata_persistence *p;
	kata_error *err;
};

static inline void sql(sqlite3 *db, const char *text)
{
	char *message = NULL;

	cr_assert_eq(sqlite3_exec(db, text, NULL, NULL, &message), SQLITE_OK, "%s: %s", text, message);
}

static inline int64_t sql_int(sqlite3 *db, const char *text)
{
	sqlite3_stmt *st = NULL;
	int64_t v;

	cr_assert_eq(sqlite3_prepare_v2(db, text, -1, &st, NULL), SQLITE_OK, "%s: %s", text, sqlite3_errmsg(db));
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW, "%s: %s", text, sqlite3_errmsg(db));
	v = sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	return v;
}

/* All rows of all tables of ours, as one number that changes when any value does. */
static inline char *sql_text(sqlite3 *db, const char *text)
{
	sqlite3_stmt *st = NULL;
	char *v;

	cr_assert_eq(sqlite3_prepare_v2(db, text, -1, &st, NULL), SQLITE_OK, "%s: %s", text, sqlite3_errmsg(db));
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW, "%s: %s", text, sqlite3_errmsg(db));
	v = strdup(sqlite3_column_text(st, 0) ? (const char *)sqlite3_column_text(st, 0) : "NULL");
	sqlite3_finalize(st);
	return v;
}

/* A database file of the caller's with our tables, in WAL mode, and a persistence on it. */
static inline void caller_open(struct caller *c)
{
	char *path;

	memset(c, 0, sizeof(*c));
	fixture_init(&c->f, true, 0);
	path = fixture_path(&c->f, "caller.db");
	cr_assert_eq(sqlite3_open(path, &c->db), SQLITE_OK);
	free(path);
	sql(c->db, "PRAGMA journal_mode = WAL");
	sql(c->db, "CREATE TABLE own (name TEXT)");
	fixture_assert_ok(kata_persistence_new_sqlite_attached(c->f.context, c->db, NULL, &c->p, &c->err), c->err);
	fixture_assert_ok(kata_persistence_create_schema(c->p, &c->err), c->err);
}

static inline void caller_close(struct caller *c)
{
	error_clear(&c->err);
	kata_persistence_free(c->p);
	cr_assert_eq(sqlite3_close(c->db), SQLITE_OK, "a statement was left: %s", sqlite3_errmsg(c->db));
	fixture_deinit(&c->f);
}

static inline int caller_store(struct caller *c, const struct record_wish *wish)
{
	kata_record *r = sample_record(wish);
	int rc;

	error_clear(&c->err);
	rc = kata__persistence_store(c->p, r, &c->err);
	kata__record_free(r);
	return rc;
}

static inline int caller_load(struct caller *c, const char *id)
{
	kata_record *r = NULL;
	int rc;

	error_clear(&c->err);
	rc = kata__persistence_load(c->p, id, &r, &c->err);
	kata__record_free(r);
	return rc;
}

static inline struct record_wish full_wish(const char *id)
{
	static const char *const containers[] = {"app", "sidecar", NULL};

	return (struct record_wish){.id = id, .epoch = 1, .containers = containers, .disks = 2, .nics = 2};
}

#define assert_message_has(err, part)                                                                                  \
	cr_assert(strstr(error_text(err), part), "'%s' is not in: %s", part, error_text(err))
#endif
