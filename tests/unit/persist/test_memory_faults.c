/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation of SQLite and of jansson fails in turn. */
#include "unit/persist/faults_test.h"

static sqlite3_mem_methods real_memory;

static void *failing_malloc(int n)
{
	return fails_now() ? NULL : real_memory.xMalloc(n);
}

static void *failing_realloc(void *p, int n)
{
	return fails_now() ? NULL : real_memory.xRealloc(p, n);
}

static void fail_sqlite_memory(void)
{
	sqlite3_mem_methods m;

	cr_assert_eq(sqlite3_config(SQLITE_CONFIG_GETMALLOC, &real_memory), SQLITE_OK);
	m = real_memory;
	m.xMalloc = failing_malloc;
	m.xRealloc = failing_realloc;
	cr_assert_eq(sqlite3_config(SQLITE_CONFIG_MALLOC, &m), SQLITE_OK);
	cr_assert_eq(sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0), SQLITE_OK); /* every small allocation counts too */
}

static void *failing_json_malloc(size_t n)
{
	return fails_now() ? NULL : malloc(n);
}

static void fail_memory_of(void (*calls)(struct caller *c))
{
	struct caller c;

	fail_sqlite_memory();
	open_world(&c, NULL);
	calls(&c);
	caller_close(&c);
}

Test(memory, every_allocation_of_sqlite_in_a_store_may_fail, .timeout = 300)
{
	fail_memory_of(fail_stores);
}

Test(memory, every_allocation_of_sqlite_in_a_change_may_fail, .timeout = 300)
{
	fail_memory_of(fail_changes);
}

Test(memory, every_allocation_of_sqlite_in_a_read_may_fail, .timeout = 300)
{
	fail_memory_of(fail_reads);
}

Test(memory, every_allocation_of_sqlite_in_a_reservation_or_row_may_fail, .timeout = 300)
{
	fail_memory_of(fail_beside);
}

Test(memory, every_allocation_while_the_schema_is_made_may_fail, .timeout = 300)
{
	struct caller c;

	fail_sqlite_memory();
	open_world(&c, NULL);
	for (int n = 1;; n++) {
		kata_persistence *p = NULL;
		int rc;

		sql(c.db, "ATTACH ':memory:' AS side");
		fixture_assert_ok(kata_persistence_new_sqlite_attached(c.f.context, c.db, "side", &p, &c.err), c.err);
		failed = false;
		countdown = n;
		rc = kata_persistence_create_schema(p, &c.err);
		countdown = 0;
		cr_assert_eq(sqlite3_get_autocommit(c.db), 1);
		cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM side.sqlite_master WHERE type = 'table'"),
			     rc < 0 ? 0 : 11);
		cr_assert(rc == 0 || rc == KATA_E_NO_MEMORY, "%s", error_text(c.err));
		error_clear(&c.err);
		kata_persistence_free(p);
		sql(c.db, "DETACH side");
		if (!failed)
			break;
	}
	caller_close(&c);
}

Test(memory, every_allocation_of_json_may_fail, .timeout = 120)
{
	struct record_wish wish = full_wish("pod");
	kata_record *r = sample_record(&wish);
	char *json = kata_record_to_json(r);

	json_set_alloc_funcs(failing_json_malloc, free);
	for (int n = 1;; n++) {
		kata_record *back = NULL;
		kata_error *err = NULL;
		char *text = NULL;
		int rc;

		failed = false;
		countdown = n;
		rc = kata__record_to_json_text(r, &text, &err);
		if (rc == 0)
			rc = kata__record_from_json(text, strlen(text), &back, &err);
		countdown = 0;
		/* jansson's lexer calls it a wrong token when it has no memory for the right one */
		cr_assert(rc == 0 || rc == KATA_E_NO_MEMORY || rc == KATA_E_INVALID || rc == KATA_E_CORRUPT,
			  "n = %d: %s", n, error_text(err));
		cr_assert_eq(rc == 0, err == NULL);
		kata__record_free(back);
		free(text);
		error_clear(&err);
		if (!failed)
			break;
	}
	kata__record_free(r);
	free(json);
}
