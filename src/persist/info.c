/* SPDX-License-Identifier: Apache-2.0 */
/* What records say of their sandboxes, for lists and status. An implementation that has no columns for it loads them.
 */
#include <string.h>

#include "base/options.h"
#include "base/text.h"
#include "persist/persistence.h"

static void copy_text(char *to, size_t size, const char *from)
{
	snprintf(to, size, "%s", from ? from : "");
}

void kata__info_of_record(const struct kata_record *r, kata_sandbox_info *info)
{
	copy_text(info->id, sizeof(info->id), r->id);
	copy_text(info->state, sizeof(info->state), r->state);
	info->epoch = r->epoch;
	info->generation = r->generation;
	info->holder_pid = info->owner_pid = r->owner_pid;
	info->holder_start_time = info->owner_start_time = r->owner_start_time;
	copy_text(info->holder_boot_id, sizeof(info->holder_boot_id), r->boot_id);
	copy_text(info->boot_id, sizeof(info->boot_id), r->boot_id);
	copy_text(info->vm_id, sizeof(info->vm_id), r->vm_id);
	copy_text(info->vm_uuid, sizeof(info->vm_uuid), r->vm_uuid);
	copy_text(info->vm_driver, sizeof(info->vm_driver), r->vm_driver);
	info->vm_pid = r->vm_pid;
	info->vm_start_time = r->vm_start_time;
	info->cpus = r->vm_cpus;
	info->memory_mib = r->vm_memory_mib;
	info->storage_count = (uint32_t)r->storage_count;
	info->nic_count = (uint32_t)r->nic_count;
	info->container_count = (uint32_t)r->container_count;
	info->process_count = (uint32_t)r->process_count;
}

static bool is_listed(kata_persistence *p, const char *id, char **ids)
{
	for (char **i = ids; i && *i; i++)
		if (strcmp(*i, id) == 0)
			return true;
	return false;
}

/* A record that is not there may be of an id that is only reserved. */
static int load_info(kata_persistence *p, const char *id, kata_sandbox_info *info, kata_error **err)
{
	KATA_AUTO(kata_error_free) kata_error *own = NULL;
	kata_record *record = NULL;
	char **ids = NULL;
	int rc = kata__persistence_load(p, id, &record, &own);

	if (rc == 0)
		kata__info_of_record(record, info);
	kata__record_free(record);
	if (rc != KATA_E_NOT_FOUND)
		return rc < 0 ? kata__error_move(err, &own) : 0;
	if (kata_persistence_list_sandboxes(p, &ids, NULL) == 0 && is_listed(p, id, ids)) {
		copy_text(info->id, sizeof(info->id), id);
		copy_text(info->state, sizeof(info->state), "new");
		rc = 0;
	}
	kata_string_list_free(ids);
	return rc < 0 ? kata__error_move(err, &own) : 0;
}

static int get_info(kata_persistence *p, const char *id, kata_sandbox_info *info, kata_error **err)
{
	memset(info, 0, sizeof(*info));
	if (!p->ops.get_info)
		return load_info(p, id, info, err);
	return kata__persistence_answer(p, "get_info", id, p->ops.get_info(p->self, id, info, err), err);
}

int kata_persistence_get_info(kata_persistence *persistence, const char *id, kata_sandbox_info *ret_info,
			      kata_error **err)
{
	kata_sandbox_info info;
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0)
		rc = kata__id_check("id", id, err);
	if (rc == 0)
		rc = kata__options_check_ret(ret_info, "ret_info", err);
	if (rc == 0)
		rc = get_info(persistence, id, &info, err);
	if (rc == 0)
		kata__options_write(ret_info, &info, sizeof(info));
	return rc;
}

/* Generation and times alone do not tell a record from one that was deleted and made again. */
int kata__info_compare(const kata_sandbox_info *now, const kata_sandbox_info *seen, kata_error **err)
{
	if (now->epoch == seen->epoch && now->generation == seen->generation && now->holder_pid == seen->holder_pid &&
	    now->holder_start_time == seen->holder_start_time && now->held_since == seen->held_since &&
	    now->updated_at == seen->updated_at && strcmp(now->state, seen->state) == 0 &&
	    strcmp(now->holder_boot_id, seen->holder_boot_id) == 0 && strcmp(now->vm_uuid, seen->vm_uuid) == 0)
		return 0;
	return kata__fail(err, KATA_E_FENCED, CALLER,
			  "sandbox '%s' is another by now: %s, epoch %llu, generation %llu, held by pid %lld", seen->id,
			  now->state, (unsigned long long)now->epoch, (unsigned long long)now->generation,
			  (long long)now->holder_pid);
}

static int remove_seen(kata_persistence *p, const kata_sandbox_info *seen, kata_error **err)
{
	kata_sandbox_info now;
	int rc = get_info(p, seen->id, &now, err);

	if (rc == 0)
		rc = kata__info_compare(&now, seen, err);
	return rc < 0 ? rc : kata_persistence_delete_sandbox(p, seen->id, err);
}

int kata__persistence_remove_seen(kata_persistence *p, const kata_sandbox_info *seen, kata_error **err)
{
	if (!p->ops.remove_seen)
		return remove_seen(p, seen, err);
	return kata__persistence_answer(p, "remove_seen", seen->id, p->ops.remove_seen(p->self, seen, err), err);
}

static int load_infos(kata_persistence *p, const char *after, kata_sandbox_info *infos, size_t room, size_t *ret_count,
		      kata_error **err)
{
	size_t count = 0;
	char **ids = NULL;
	int rc = kata_persistence_list_sandboxes(p, &ids, err);

	for (char **id = ids; rc == 0 && id && *id && count < room; id++) {
		if (after && strcmp(*id, after) <= 0)
			continue;
		memset(&infos[count], 0, sizeof(*infos));
		rc = load_info(p, *id, &infos[count], err);
		count += rc == 0;
	}
	kata_string_list_free(ids);
	*ret_count = count;
	return rc;
}

static int list_infos(kata_persistence *p, const char *after, kata_sandbox_info *infos, size_t room, size_t *ret_count,
		      kata_error **err)
{
	int rc;

	if (!p->ops.list_infos)
		return load_infos(p, after, infos, room, ret_count, err);
	memset(infos, 0, room * sizeof(*infos));
	rc = p->ops.list_infos(p->self, after, infos, room, ret_count, err);
	return kata__persistence_answer(p, "list_infos", after, rc, err);
}

/* The caller's structs may be of another size. */
static void hand_over(kata_sandbox_info *ret_infos, const kata_sandbox_info *infos, size_t count)
{
	size_t size = ret_infos[0].size;

	for (size_t i = 0; i < count; i++) {
		void *to = (char *)ret_infos + i * size;

		memcpy(to, &size, sizeof(size));
		kata__options_write(to, &infos[i], sizeof(infos[i]));
	}
}

int kata_persistence_list_infos(kata_persistence *persistence, const char *after, kata_sandbox_info *ret_infos,
				size_t room, size_t *ret_count, kata_error **err)
{
	KATA_AUTO(free) kata_sandbox_info *infos = NULL;
	size_t count = 0;
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0 && after)
		rc = kata__id_check("after", after, err);
	if (rc == 0)
		rc = kata__options_check_ret(ret_infos, "ret_infos[0]", err);
	if (rc == 0 && (!ret_count || room == 0 || room > 65536))
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "%s",
				ret_count ? "room: must be from 1 to 65536" : "ret_count: is NULL");
	if (rc < 0)
		return rc;
	infos = malloc(room * sizeof(*infos));
	if (!infos)
		return kata__fail_no_memory(err);
	rc = list_infos(persistence, after, infos, room, &count, err);
	if (rc < 0)
		return rc;
	hand_over(ret_infos, infos, count < room ? count : room);
	*ret_count = count < room ? count : room;
	return 0;
}
