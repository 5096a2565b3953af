/* SPDX-License-Identifier: Apache-2.0 */
/* A record is removed only while it is the one that was seen, in every persistence. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "persist/persistence.h"
#include "support/fixture.h"
#include "support/own_store.h"

static kata_error *err;

static kata_sandbox_info see(kata_persistence *p)
{
	kata_sandbox_info info = {.size = sizeof(info)};

	fixture_assert_ok(kata_persistence_get_info(p, "sb", &info, &err), err);
	return info;
}

/* Deleted, and made again by another owner: as many stores, another machine. */
static void check(kata_persistence *p)
{
	kata_sandbox_info seen, edited;

	fixture_assert_ok(kata_persistence_create_schema(p, &err), err);
	fixture_assert_ok(kata_persistence_create_sandbox(p, "sb", &err), err);
	seen = edited = see(p);
	edited.epoch++;
	fixture_assert_fails(kata__persistence_remove_seen(p, &edited, &err), KATA_E_FENCED, err);
	cr_assert(strstr(error_text(err), "'sb'"), "%s", error_text(err));
	error_clear(&err);
	edited = seen;
	snprintf(edited.vm_uuid, sizeof(edited.vm_uuid), "11111111-2222-4333-8444-555555555555");
	fixture_assert_fails(kata__persistence_remove_seen(p, &edited, &err), KATA_E_FENCED, err);
	error_clear(&err);
	edited = see(p); /* it is there, and as it was */
	cr_assert_eq(kata__info_compare(&edited, &seen, NULL), 0);
	fixture_assert_ok(kata__persistence_remove_seen(p, &seen, &err), err);
	fixture_assert_fails(kata__persistence_remove_seen(p, &seen, &err), KATA_E_NOT_FOUND, err);
	error_clear(&err);
	kata_persistence_free(p);
}

Test(seen, a_record_that_is_another_by_now_is_not_removed)
{
	kata_persistence *p = NULL;
	struct own_store own = {0};
	struct fixture f;
	char *path;

	fixture_init(&f, true, 0);
	path = fixture_path(&f, "db");
	fixture_assert_ok(kata_persistence_new_sqlite(f.context, path, &p, &err), err);
	check(p);
	free(path);
	path = fixture_path(&f, "records");
	fixture_assert_ok(kata_persistence_new_file(f.context, path, &p, &err), err);
	check(p);
	free(path);
	fixture_assert_ok(kata_persistence_new_memory(f.context, &p, &err), err);
	check(p);
	fixture_assert_ok(kata_persistence_new(f.context, &own_store_ops, &own, &p, &err), err);
	check(p);
	fixture_deinit(&f);
}
