/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one more costs beside a thousand live sandboxes, against the same beside one: finding the sandbox of a container
 * and its state in the database, making a sandbox, committing one. On the mock, in two worlds side by side, each with
 * a database of its own (WAL, synchronous NORMAL).
 */
#include "bench.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MANY 1000
#define ROUNDS 8 /* of an action, a sample */

struct world {
	kata_context *ctx;
	kata_vm_builder *builder;
	sqlite3 *db;
	kata_persistence *persistence;
	int count;
	kata_vm *vms[MANY + 1];
	kata_sandbox *sandboxes[MANY + 1];
};

struct growth;
typedef int (*action_fn)(struct growth *g, struct world *w, uint64_t *ret_ns);

struct growth {
	struct world many, one;
	action_fn action;
	int turn; /* which of the many: no two lookups in a row are alike */
};

static struct growth growth;

static int exec(sqlite3 *db, const char *sql)
{
	if (sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK)
		return 0;
	fprintf(stderr, "bench: %s: %s\n", sql, sqlite3_errmsg(db));
	return -1;
}

static int make_sandbox(struct world *w, int i)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_sandbox_options o = KATA_SANDBOX_OPTIONS_INIT;
	kata_error *err = NULL;
	char id[48];

	snprintf(id, sizeof(id), "%s-%d", w->count == MANY ? "many" : "one", i);
	config.id = id;
	o.id = id;
	if (kata_vm_builder_build(w->builder, &config, NULL, NULL, &w->vms[i], &err) ||
	    kata_vm_start(w->vms[i], NULL, &err) ||
	    kata_sandbox_new(w->ctx, &o, w->vms[i], NULL, &w->sandboxes[i], &err) ||
	    kata_sandbox_start(w->sandboxes[i], NULL, &err))
		return bench_fail("mock sandbox", err);
	return 0;
}

static int end_sandbox(struct world *w, int i)
{
	kata_error *err = NULL;
	int rc = w->sandboxes[i] ? kata_sandbox_destroy(w->sandboxes[i], NULL, &err) : 0;

	kata_sandbox_unref(w->sandboxes[i]);
	kata_vm_unref(w->vms[i]);
	w->sandboxes[i] = NULL;
	w->vms[i] = NULL;
	return rc ? bench_fail("destroy", err) : 0;
}

static int add_container(struct world *w, int i)
{
	static const char spec[] =
		"{\"ociVersion\":\"1.0.2\",\"root\":{\"path\":\"/\"},\"process\":{\"cwd\":\"/\",\"args\":[\"sleep\"],"
		"\"user\":{\"uid\":0,\"gid\":0}},\"linux\":{}}";
	kata_container_config c = KATA_CONTAINER_CONFIG_INIT;
	kata_error *err = NULL;
	char id[48];

	snprintf(id, sizeof(id), "container-%d", i);
	c.id = id;
	c.oci_spec = spec;
	return kata_sandbox_add_container(w->sandboxes[i], &c, NULL, &err) ? bench_fail("container", err) : 0;
}

static int world_open(struct world *w, struct bench *b, int count)
{
	kata_error *err = NULL;
	char path[256];

	w->count = count;
	w->ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	snprintf(path, sizeof(path), "%s/%d.db", b->work_dir, count);
	if (!w->ctx || sqlite3_open(path, &w->db) != SQLITE_OK ||
	    exec(w->db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL") ||
	    kata_vm_builder_new_mock(w->ctx, &w->builder, &err) ||
	    kata_persistence_new_sqlite_attached(w->ctx, w->db, NULL, &w->persistence, &err) ||
	    kata_persistence_create_schema(w->persistence, &err) || exec(w->db, "BEGIN"))
		return bench_fail("opening", err);
	for (int i = 0; i < count; i++) {
		if (make_sandbox(w, i) || add_container(w, i))
			return -1;
		if (kata_persistence_store_sandbox(w->persistence, w->sandboxes[i], &err))
			return bench_fail("store", err);
	}
	return exec(w->db, "COMMIT");
}

static void world_close(struct world *w)
{
	kata_persistence_free(w->persistence);
	for (int i = 0; i <= w->count; i++)
		end_sandbox(w, i);
	kata_vm_builder_free(w->builder);
	sqlite3_close(w->db);
	kata_context_free(w->ctx, NULL);
}

/* ---- the actions ---- */

static int look_up(struct growth *g, struct world *w, uint64_t *ret_ns)
{
	uint64_t begin = bench_now();

	for (int i = 0; i < ROUNDS; i++) {
		kata_sandbox_info info = {.size = sizeof(info)};
		kata_error *err = NULL;
		char id[48], *found = NULL;
		int rc;

		g->turn = (g->turn + 383) % MANY; /* a prime: all of them, in no order */
		snprintf(id, sizeof(id), "container-%d", g->turn % w->count);
		rc = kata_persistence_sandbox_of_container(w->persistence, id, &found, &err) ||
		     kata_persistence_get_info(w->persistence, found, &info, &err);
		free(found);
		if (rc)
			return bench_fail("lookup", err);
	}
	*ret_ns = bench_now() - begin;
	return 0;
}

static int create(struct growth *g, struct world *w, uint64_t *ret_ns)
{
	uint64_t begin;

	*ret_ns = 0;
	for (int i = 0; i < ROUNDS; i++) {
		begin = bench_now();
		if (make_sandbox(w, w->count))
			return -1;
		*ret_ns += bench_now() - begin;
		if (end_sandbox(w, w->count))
			return -1;
	}
	return 0;
}

/* One and the same: storing each in turn tells about SQLite's log, which gets a page of each. */
static int commit(struct growth *g, struct world *w, uint64_t *ret_ns)
{
	uint64_t begin = bench_now();
	kata_error *err = NULL;

	for (int i = 0; i < ROUNDS; i++) {
		if (exec(w->db, "BEGIN"))
			return -1;
		if (kata_persistence_store_sandbox(w->persistence, w->sandboxes[w->count / 2], &err))
			return bench_fail("store", err);
		if (exec(w->db, "COMMIT"))
			return -1;
	}
	*ret_ns = bench_now() - begin;
	return 0;
}

static int in_many(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct growth *g = user;

	return g->action(g, &g->many, ret_ns);
}

static int in_one(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct growth *g = user;

	return g->action(g, &g->one, ret_ns);
}

static int run(struct bench *b, struct bench_value *values)
{
	static const action_fn actions[] = {look_up, create, commit};
	struct growth *g = &growth;
	struct bench_pairs pairs = {in_many, in_one, g, 200, 9, 1, 1};
	int rc = world_open(&g->many, b, MANY) || world_open(&g->one, b, 1) ? -1 : 0;

	for (size_t i = 0; !rc && i < sizeof(actions) / sizeof(actions[0]); i++) {
		g->action = actions[i];
		rc = bench_ratio(b, &pairs, &values[i]);
	}
	world_close(&g->many);
	world_close(&g->one);
	return rc;
}

const struct bench_group bench_growth[] = {
	{60,
	 run,
	 {{.name = "growth_lookup", .unit = "ratio", .figures = {{NULL, 1.5, 1.1}}},
	  {.name = "growth_create", .unit = "ratio", .figures = {{NULL, 1.10, 1.02}}},
	  {.name = "growth_commit", .unit = "ratio", .figures = {{NULL, 1.10, 1.02}}}}},
	{0, NULL, {{NULL}}},
};
