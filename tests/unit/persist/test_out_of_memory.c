/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every allocation of a call on the persistences without SQLite fails in turn, once alone and once with all that
 * follow: the error says so, nothing leaks (counted here), what was kept is as it was, and the same call succeeds
 * afterwards. (SQLite's own: test_memory_faults.c.) Sanitizers bring their own malloc, so there these tests are
 * skipped.
 */
#include "support/counting_malloc.h"
#include "unit/persist/persist_test.h"

static struct fixture f;
static kata_persistence *p;
static kata_record *record;
static int modes = 2; /* alone, and with all that follow */

/* ---- calls; each frees what it made */

static int call_store(kata_error **err)
{
	return kata__persistence_store(p, record, err);
}

static int call_load(kata_error **err)
{
	kata_record *back = NULL;
	int rc = kata__persistence_load(p, "pod", &back, err);

	kata__record_free(back);
	return rc;
}

static int call_lists(kata_error **err)
{
	char **ids = NULL, *id = NULL;
	int rc = kata_persistence_list_sandboxes(p, &ids, err);

	kata_string_list_free(ids);
	ids = NULL;
	if (rc == 0)
		rc = kata_persistence_list_containers(p, NULL, &ids, err);
	kata_string_list_free(ids);
	if (rc == 0)
		rc = kata_persistence_sandbox_of_container(p, "app", &id, err);
	free(id);
	return rc;
}

static int call_infos(kata_error **err)
{
	kata_sandbox_info info = {.size = sizeof(info)};
	size_t count = 0;
	int rc = kata_persistence_get_info(p, "pod", &info, err);

	return rc < 0 ? rc : kata_persistence_list_infos(p, NULL, &info, 1, &count, err);
}

static int call_reserve(kata_error **err)
{
	kata_reservation_config c = KATA_RESERVATION_CONFIG_INIT;
	kata_reservation *list = NULL;
	size_t count = 0;
	int rc;

	c.sandbox_id = "pod";
	c.kind = KATA_RESERVE_NIC;
	c.id = "nic9";
	c.tap_name = "tap9";
	rc = kata_persistence_reserve(p, &c, err);
	if (rc < 0)
		return rc;
	countdown = -1; /* the way back is not what fails here */
	rc = kata_persistence_settle(p, "pod", KATA_RESERVE_NIC, "nic9", KATA_RESERVATION_UNDONE, err);
	if (rc == 0)
		rc = kata_persistence_list_reservations(p, "pod", &list, &count, err);
	free(list);
	return rc;
}

static int call_rows(kata_error **err)
{
	kata_row row = KATA_ROW_INIT, *back = NULL;
	char **ids = NULL;
	int rc;

	row.kind = KATA_ROW_NETWORK;
	row.id = "net";
	row.state = "up";
	row.type = "bridge";
	row.sandbox_id = "pod";
	rc = kata_persistence_put_row(p, &row, err);
	if (rc == 0)
		rc = kata_persistence_get_row(p, KATA_ROW_NETWORK, "net", &back, err);
	kata_row_free(back);
	if (rc == 0)
		rc = kata_persistence_list_rows(p, KATA_ROW_NETWORK, "pod", NULL, &ids, err);
	kata_string_list_free(ids);
	return rc < 0 ? rc : kata_persistence_move_row(p, KATA_ROW_NETWORK, "net", "up", "up", err);
}

static int call_open(kata_error **err)
{
	kata_persistence *other = NULL;
	int rc = kata_persistence_new_memory(f.context, &other, err);

	kata_persistence_free(other);
	return rc;
}

static int call_open_file(kata_error **err)
{
	char path[64];
	kata_persistence *other = NULL;
	int rc;

	snprintf(path, sizeof(path), "%s/records", f.dir);
	rc = kata_persistence_new_file(f.context, path, &other, err);
	kata_persistence_free(other);
	return rc;
}

/* ---- the loop */

/* jansson's lexer calls it a wrong token when it has no memory for the right one. */
static bool is_expected(int status)
{
	return status == KATA_E_NO_MEMORY || status == KATA_E_CORRUPT || status == KATA_E_INVALID;
}

static void fail_each(int (*call)(kata_error **err), const char *what)
{
	kata_error *err = NULL;

	fixture_assert_ok(call(&err), err);
	for (int mode = 0; mode < modes; mode++)
		for (long n = 0;; n++) {
			long before = live;
			int rc;

			sticky = mode;
			hit = false;
			countdown = n;
			rc = call(&err);
			countdown = -1;
			if (!hit)
				break;
			cr_assert(rc == 0 || is_expected(rc), "%s: allocation %ld: %s", what, n, error_text(err));
			cr_assert_eq(rc == 0, err == NULL, "%s: allocation %ld", what, n);
			error_clear(&err);
			fixture_assert_ok(call(&err), err);
			cr_assert_leq(live, before + 2, "%s: allocation %ld leaks %ld", what, n, live - before);
			cr_assert_lt(n, 20000);
		}
}

static void fail_all(void)
{
	struct record_wish wish = full_wish("pod");

	record = sample_record(&wish);
	fail_each(call_store, "store");
	fail_each(call_load, "load");
	fail_each(call_lists, "lists");
	fail_each(call_infos, "infos");
	fail_each(call_reserve, "reserve");
	fail_each(call_rows, "rows");
	kata__record_free(record);
	kata_persistence_free(p);
	fixture_deinit(&f);
}

static void set_up(void)
{
	if (!CAN_FAIL)
		cr_skip_test("the sanitizer has its own malloc");
	fixture_init(&f, true, 0);
}

Test(out_of_memory, every_call_on_records_in_memory_bears_it, .timeout = 120)
{
	kata_error *err = NULL;

	set_up();
	fail_each(call_open, "open");
	fixture_assert_ok(kata_persistence_new_memory(f.context, &p, &err), err);
	fail_all();
}

Test(out_of_memory, every_call_on_records_in_files_bears_it, .timeout = 300)
{
	char *path;
	kata_error *err = NULL;

	set_up();
	fail_each(call_open_file, "open");
	modes = 1; /* each call syncs */
	path = fixture_path(&f, "records");
	fixture_assert_ok(kata_persistence_new_file(f.context, path, &p, &err), err);
	free(path);
	fail_all();
}
