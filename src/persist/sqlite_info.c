/* SPDX-License-Identifier: Apache-2.0 */
/* Lists and status from kata_sandboxes alone: one statement a page, whatever is plugged, stored or started meanwhile.
 */
#include <string.h>

#include "base/text.h"
#include "persist/sqlite.h"

static bool is_state(const char *text)
{
	return strcmp(text, "new") == 0 || strcmp(text, "running") == 0 || strcmp(text, "paused") == 0 ||
	       strcmp(text, "released") == 0;
}

static uint32_t take_count(sqlite3_stmt *st, int column, bool *ok)
{
	int64_t v = sqlite3_column_int64(st, column);

	*ok = *ok && v >= 0 && v <= UINT32_MAX;
	return (uint32_t)v;
}

static uint64_t take_number(sqlite3_stmt *st, int column, bool *ok)
{
	int64_t v = sqlite3_column_int64(st, column);

	*ok = *ok && v >= 0;
	return (uint64_t)v;
}

/* The order of INFO in statements.c. */
static int take_info(struct kata__sqlite *s, sqlite3_stmt *st, kata_sandbox_info *info, kata_error **err)
{
	bool ok = true;

	kata__sqlite_copy_text(st, 0, info->id, sizeof(info->id));
	kata__sqlite_copy_text(st, 1, info->state, sizeof(info->state));
	info->epoch = take_number(st, 2, &ok);
	info->generation = take_number(st, 3, &ok);
	info->holder_pid = (int64_t)take_number(st, 4, &ok);
	info->holder_start_time = take_number(st, 5, &ok);
	kata__sqlite_copy_text(st, 6, info->holder_boot_id, sizeof(info->holder_boot_id));
	info->held_since = sqlite3_column_int64(st, 7);
	info->owner_pid = (int64_t)take_number(st, 8, &ok);
	info->owner_start_time = take_number(st, 9, &ok);
	kata__sqlite_copy_text(st, 10, info->boot_id, sizeof(info->boot_id));
	kata__sqlite_copy_text(st, 11, info->vm_id, sizeof(info->vm_id));
	kata__sqlite_copy_text(st, 12, info->vm_uuid, sizeof(info->vm_uuid));
	kata__sqlite_copy_text(st, 13, info->vm_driver, sizeof(info->vm_driver));
	info->vm_pid = (int64_t)take_number(st, 14, &ok);
	info->vm_start_time = take_number(st, 15, &ok);
	info->cpus = take_count(st, 16, &ok);
	info->memory_mib = take_number(st, 17, &ok);
	info->storage_count = take_count(st, 18, &ok);
	info->nic_count = take_count(st, 19, &ok);
	info->container_count = take_count(st, 20, &ok);
	info->process_count = take_count(st, 21, &ok);
	info->intent_count = take_count(st, 22, &ok);
	info->updated_at = sqlite3_column_int64(st, 23);
	if (!ok || !kata__id_is_valid(info->id) || !is_state(info->state))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: kata_sandboxes in %s has a row with %s",
				  s->operation, s->place,
				  !kata__id_is_valid(info->id) ? "an id that is no id"
				  : !ok                        ? "a number out of range"
							       : "a state that is none");
	return 0;
}

int kata__sqlite_info(struct kata__sqlite *s, const char *id, kata_sandbox_info *ret_info, kata_error **err)
{
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_prepare(s, KATA__SQL_INFO, &st, err);
	int code;

	if (rc < 0)
		return rc;
	kata__sqlite_bind_id(st, 1, id);
	code = sqlite3_step(st);
	if (code == SQLITE_ROW)
		rc = take_info(s, st, ret_info, err);
	else if (code == SQLITE_DONE)
		rc = kata__fail(err, KATA_E_NOT_FOUND, CALLER, "there is no sandbox '%s' in %s", id, s->place);
	else
		rc = kata__sqlite_fail(s, code, "kata_sandboxes", err);
	kata__sqlite_done(st);
	return rc;
}

int kata__sqlite_get_info(void *self, const char *id, kata_sandbox_info *ret_info, kata_error **err)
{
	struct kata__sqlite *s = self;
	int rc = kata__sqlite_enter(s, "status of", id, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = kata__schema_recheck_read(s, kata__sqlite_info(s, id, ret_info, err), err);
	return kata__sqlite_leave(s, rc, err);
}

static int collect(struct kata__sqlite *s, sqlite3_stmt *st, kata_sandbox_info *infos, size_t room, size_t *ret_count,
		   kata_error **err)
{
	size_t count = 0;
	int code = SQLITE_ROW, rc = 0;

	while (rc == 0 && count < room) {
		code = sqlite3_step(st);
		if (code != SQLITE_ROW)
			break;
		rc = take_info(s, st, &infos[count], err);
		count += rc == 0;
	}
	*ret_count = count;
	return rc == 0 && code != SQLITE_ROW && code != SQLITE_DONE ? kata__sqlite_fail(s, code, "kata_sandboxes", err)
								    : rc;
}

int kata__sqlite_list_infos(void *self, const char *after, kata_sandbox_info *ret_infos, size_t room, size_t *ret_count,
			    kata_error **err)
{
	struct kata__sqlite *s = self;
	sqlite3_stmt *st = NULL;
	int rc = kata__sqlite_enter(s, "list", NULL, err);

	if (rc < 0)
		return rc;
	rc = kata__schema_verify(s, err);
	if (rc == 0)
		rc = kata__sqlite_prepare(s, KATA__SQL_INFOS, &st, err);
	if (rc == 0) {
		kata__sqlite_bind_id(st, 1, after ? after : "");
		sqlite3_bind_int64(st, 2, (int64_t)room);
		rc = collect(s, st, ret_infos, room, ret_count, err);
	}
	kata__sqlite_done(st);
	return kata__sqlite_leave(s, kata__schema_recheck_read(s, rc, err), err);
}
