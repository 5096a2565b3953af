/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_UNIT_PERSIST_FAULTS_TEST_H
#define KATA_TESTS_UNIT_PERSIST_FAULTS_TEST_H
/*
 * The n-th access to something fails, for every n until none is left to fail: the call reports it or succeeds
 * nevertheless; the record is the one of before or the new one, whole; the handle is in no transaction of ours; the
 * next call works.
 */
#include "unit/persist/persist_test.h"

static int64_t countdown; /* 0: nothing fails */
static bool failed;

static inline bool fails_now(void)
{
	if (countdown == 0 || --countdown > 0)
		return false;
	failed = true;
	return true;
}

/* ---- a caller whose handle may fail ---- */

static inline void open_world(struct caller *c, const char *vfs)
{
	char *path;

	memset(c, 0, sizeof(*c));
	fixture_init(&c->f, true, 0);
	path = fixture_path(&c->f, "caller.db");
	cr_assert_eq(sqlite3_open_v2(path, &c->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, vfs), SQLITE_OK);
	free(path);
	if (!vfs)
		sql(c->db, "PRAGMA synchronous = OFF"); /* where memory is what fails */
	sql(c->db, "CREATE TABLE own (name TEXT)");
	fixture_assert_ok(kata_persistence_new_sqlite_attached(c->f.context, c->db, NULL, &c->p, &c->err), c->err);
	fixture_assert_ok(kata_persistence_create_schema(c->p, &c->err), c->err);
}

/* What is kept beside the record. */
static inline char *content_beside(struct caller *c)
{
	return sql_text(c->db,
			"SELECT coalesce((SELECT group_concat(kind || device_id || state) FROM kata_reservations), '')"
			" || coalesce((SELECT group_concat(id || state) FROM kata_networks), '') ||"
			" coalesce((SELECT group_concat(intent_count) FROM kata_sandboxes), '')");
}

/* The record's JSON, or "" where there is none, and what is kept beside it. */
static inline char *content(struct caller *c)
{
	char *beside = content_beside(c), *json, *both;
	kata_record *r = NULL;
	int rc = kata__persistence_load(c->p, "pod", &r, &c->err);

	if (rc == KATA_E_NOT_FOUND) {
		error_clear(&c->err);
		return beside;
	}
	fixture_assert_ok(rc, c->err);
	json = kata_record_to_json(r);
	both = kata__format("%s %s", json, beside);
	kata__record_free(r);
	free(json);
	free(beside);
	return both;
}

/* A persistence of its own each time, so that preparing its statements can fail too. */
static inline int on_fresh(struct caller *c, int (*call)(struct caller *c))
{
	int rc;

	kata_persistence_free(c->p);
	c->p = NULL;
	cr_assert_eq(kata_persistence_new_sqlite_attached(c->f.context, c->db, NULL, &c->p, NULL), 0);
	error_clear(&c->err);
	failed = false;
	rc = call(c);
	countdown = 0;
	return rc;
}

static inline bool is_expected(int status)
{
	return status == KATA_E_NO_MEMORY || status == KATA_E_IO || status == KATA_E_CORRUPT ||
	       status == KATA_E_PERMISSION;
}

/* `prepare` brings the record into the state before; returns how often the call was failed. */
static inline int fail_everywhere(struct caller *c, void (*prepare)(struct caller *c), int (*call)(struct caller *c))
{
	char *before, *after, *now;
	int n, failures = 0;

	prepare(c);
	before = content(c);
	cr_assert_eq(on_fresh(c, call), 0, "%s", error_text(c->err));
	after = content(c);
	for (n = 1;; n++) {
		int64_t at = n;
		int rc;

		cr_assert_lt(n, 20000);
		prepare(c);
		countdown = at;
		rc = on_fresh(c, call);
		cr_assert_eq(sqlite3_get_autocommit(c->db), 1, "n = %d: a transaction is left open", n);
		if (!failed)
			break;
		failures += rc < 0;
		cr_assert(rc == 0 || is_expected(rc), "n = %d: %s", n, error_text(c->err));
		cr_assert(rc == 0 || c->err, "n = %d: no error set", n);
		error_clear(&c->err);
		now = content(c);
		cr_assert_str_eq(now, rc < 0 ? before : after, "n = %d, status %d", n, rc);
		free(now);
	}
	free(before);
	free(after);
	cr_assert_gt(failures, 0);
	return failures;
}

static inline void with_nothing(struct caller *c)
{
	kata_persistence_delete_sandbox(c->p, "pod", NULL);
}

static inline void with_record(struct caller *c)
{
	struct record_wish wish = full_wish("pod");

	with_nothing(c);
	fixture_assert_ok(caller_store(c, &wish), c->err);
}

static inline int call_store(struct caller *c)
{
	struct record_wish wish = full_wish("pod");

	return caller_store(c, &wish);
}

static inline int call_store_other(struct caller *c)
{
	struct record_wish wish = full_wish("pod");

	wish.hostname = "another";
	wish.disks = 1;
	wish.nics = 3;
	return caller_store(c, &wish);
}

static inline int call_delete(struct caller *c)
{
	return kata_persistence_delete_sandbox(c->p, "pod", &c->err);
}

static inline int call_load(struct caller *c)
{
	return caller_load(c, "pod");
}

static inline int call_lists(struct caller *c)
{
	char **ids = NULL, *id = NULL;
	int rc = kata_persistence_list_sandboxes(c->p, &ids, &c->err);

	kata_string_list_free(ids);
	ids = NULL;
	if (rc == 0)
		rc = kata_persistence_list_containers(c->p, "pod", &ids, &c->err);
	kata_string_list_free(ids);
	if (rc == 0)
		rc = kata_persistence_sandbox_of_container(c->p, "app", &id, &c->err);
	free(id);
	return rc;
}

static inline int call_take(struct caller *c)
{
	int rc = kata__persistence_set_epoch(c->p, "pod", 1, 2, &c->err);

	countdown = 0; /* giving it back is not what fails here */
	return rc < 0 ? rc : kata__persistence_set_epoch(c->p, "pod", 2, 1, &c->err);
}

/* ---- beside the record ---- */

static inline int call_reserve(struct caller *c)
{
	kata_reservation_config config = KATA_RESERVATION_CONFIG_INIT;

	config.sandbox_id = "pod";
	config.kind = KATA_RESERVE_STORAGE;
	config.id = "disk9";
	return kata_persistence_reserve(c->p, &config, &c->err);
}

static inline void with_intents(struct caller *c)
{
	kata_reservation_config config = KATA_RESERVATION_CONFIG_INIT;

	with_nothing(c);
	error_clear(&c->err);
	fixture_assert_ok(kata_persistence_create_sandbox(c->p, "pod", &c->err), c->err);
	config.sandbox_id = "pod";
	config.cid = 5;
	fixture_assert_ok(kata_persistence_reserve(c->p, &config, &c->err), c->err);
	config = (kata_reservation_config)KATA_RESERVATION_CONFIG_INIT;
	config.sandbox_id = "pod";
	config.kind = KATA_RESERVE_NIC;
	config.id = "nic1";
	config.tap_name = "tap1";
	fixture_assert_ok(kata_persistence_reserve(c->p, &config, &c->err), c->err);
}

static inline int call_settle(struct caller *c)
{
	return kata_persistence_settle(c->p, "pod", KATA_RESERVE_NIC, "nic1", KATA_RESERVATION_UNDONE, &c->err);
}

static inline int call_put_row(struct caller *c)
{
	kata_row row = KATA_ROW_INIT;

	row.kind = KATA_ROW_NETWORK;
	row.id = "net";
	row.state = "up";
	row.sandbox_id = "pod";
	row.type = "bridge";
	return kata_persistence_put_row(c->p, &row, &c->err);
}

static inline void with_row(struct caller *c)
{
	with_record(c);
	fixture_assert_ok(call_put_row(c), c->err);
}

static inline int call_move_row(struct caller *c)
{
	return kata_persistence_move_row(c->p, KATA_ROW_NETWORK, "net", "up", "down", &c->err);
}

static inline int call_read_beside(struct caller *c)
{
	kata_sandbox_info info = {.size = sizeof(info)};
	kata_reservation *list = NULL;
	kata_row *row = NULL;
	size_t count = 0;
	int rc = kata_persistence_list_reservations(c->p, NULL, &list, &count, &c->err);

	free(list);
	if (rc == 0)
		rc = kata_persistence_get_row(c->p, KATA_ROW_NETWORK, "net", &row, &c->err);
	kata_row_free(row);
	if (rc == 0)
		rc = kata_persistence_get_info(c->p, "pod", &info, &c->err);
	return rc < 0 ? rc : kata_persistence_list_infos(c->p, NULL, &info, 1, &count, &c->err);
}

static inline void fail_beside(struct caller *c)
{
	fail_everywhere(c, with_record, call_reserve);
	fail_everywhere(c, with_intents, call_settle);
	fail_everywhere(c, with_intents, call_store); /* which settles them */
	fail_everywhere(c, with_record, call_put_row);
	fail_everywhere(c, with_row, call_move_row);
	fail_everywhere(c, with_row, call_delete);
	fail_everywhere(c, with_row, call_read_beside);
}

static inline void fail_stores(struct caller *c)
{
	fail_everywhere(c, with_nothing, call_store);
	fail_everywhere(c, with_record, call_store);
}

static inline void fail_changes(struct caller *c)
{
	fail_everywhere(c, with_record, call_store_other);
	fail_everywhere(c, with_record, call_delete);
	fail_everywhere(c, with_record, call_take);
}

static inline void fail_reads(struct caller *c)
{
	fail_everywhere(c, with_record, call_load);
	fail_everywhere(c, with_record, call_lists);
}
#endif
