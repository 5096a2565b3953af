/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_persistence: arguments are checked here, the work is the implementation's. What an implementation of the
 * caller's hands back is checked too: an error it did not explain gets a message, a record is read as hostile.
 */
#include "persist/persistence.h"

#include <string.h>

#include "base/options.h"
#include "base/text.h"

int kata__persistence_check(const kata_persistence *p, kata_error **err)
{
	if (p && p->magic == KATA__PERSISTENCE_MAGIC)
		return 0;
	return kata__fail(err, KATA_E_INVALID, CALLER, "persistence: is %s", p ? "not a kata_persistence" : "NULL");
}

static int check_id(const kata_persistence *p, const char *argument, const char *id, kata_error **err)
{
	int rc = kata__persistence_check(p, err);

	return rc < 0 ? rc : kata__id_check(argument, id, err);
}

static int check_ret(const void *ret, const char *argument, kata_error **err)
{
	return ret ? 0 : kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", argument);
}

int kata__persistence_answer(const kata_persistence *p, const char *what, const char *id, int rc, kata_error **err)
{
	if (rc == 0 || (err && *err))
		return rc;
	if (rc > 0 || rc < KATA_E_DIVERGED)
		return kata__fail(err, KATA_E_DATABASE, CALLER,
				  "persistence '%s': %s '%s' answered %d, which is no kata_status", p->ops.name, what,
				  id ? id : "", rc);
	if (rc == KATA_E_NO_MEMORY)
		return kata__fail_no_memory(err);
	return kata__error_set(err, KATA__BIRTH, rc, KATA_ORIGIN_HOST, 0, "persistence '%s': %s '%s': %s", p->ops.name,
			       what, id ? id : "", kata_status_get_name(rc));
}

static int no_schema(void *self, kata_error **err)
{
	return 0;
}

static int check_ops(const kata_persistence_ops *ops, kata_error **err)
{
	const char *missing = !ops->name                   ? "name"
			      : !ops->create_sandbox       ? "create_sandbox"
			      : !ops->store                ? "store"
			      : !ops->load                 ? "load"
			      : !ops->set_epoch            ? "set_epoch"
			      : !ops->remove               ? "remove"
			      : !ops->list_sandboxes       ? "list_sandboxes"
			      : !ops->list_containers      ? "list_containers"
			      : !ops->sandbox_of_container ? "sandbox_of_container"
			      : !ops->free                 ? "free"
							   : NULL;

	if (!missing)
		return 0;
	return kata__fail(err, KATA_E_INVALID, CALLER, "ops.%s: is NULL, must be set", missing);
}

int kata_persistence_new(kata_context *context, const kata_persistence_ops *ops, void *self,
			 kata_persistence **ret_persistence, kata_error **err)
{
	kata_persistence_ops copy = {0};
	kata_persistence *p;
	int rc;

	if (!context || !ops || !ret_persistence)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL",
				  !context ? "context"
				  : !ops   ? "ops"
					   : "ret_persistence");
	rc = kata__options_read(&copy, sizeof(copy), ops, "ops", err);
	if (rc == 0)
		rc = check_ops(&copy, err);
	if (rc < 0)
		return rc;
	p = calloc(1, sizeof(*p));
	if (!p)
		return kata__fail_no_memory(err);
	rc = kata__context_enter(context, KATA__OBJECT_PERSISTENCE, err);
	if (rc < 0) {
		free(p);
		return rc;
	}
	p->magic = KATA__PERSISTENCE_MAGIC;
	p->ctx = context;
	p->ops = copy;
	p->self = self;
	if (!p->ops.create_schema)
		p->ops.create_schema = no_schema;
	*ret_persistence = p;
	return 0;
}

void kata_persistence_free(kata_persistence *persistence)
{
	if (kata__persistence_check(persistence, NULL) < 0)
		return;
	persistence->magic = 0;
	persistence->ops.free(persistence->self);
	kata__context_leave(persistence->ctx, KATA__OBJECT_PERSISTENCE);
	free(persistence);
}

int kata_persistence_create_schema(kata_persistence *persistence, kata_error **err)
{
	int rc = kata__persistence_check(persistence, err);

	if (rc < 0)
		return rc;
	return kata__persistence_answer(persistence, "create_schema", NULL,
					persistence->ops.create_schema(persistence->self, err), err);
}

int kata_persistence_create_sandbox(kata_persistence *persistence, const char *id, kata_error **err)
{
	int rc = check_id(persistence, "id", id, err);

	if (rc < 0)
		return rc;
	return kata__persistence_answer(persistence, "create_sandbox", id,
					persistence->ops.create_sandbox(persistence->self, id, err), err);
}

int kata_persistence_delete_sandbox(kata_persistence *persistence, const char *id, kata_error **err)
{
	int rc = check_id(persistence, "id", id, err);

	if (rc < 0)
		return rc;
	return kata__persistence_answer(persistence, "remove", id, persistence->ops.remove(persistence->self, id, err),
					err);
}

int kata_persistence_list_sandboxes(kata_persistence *persistence, char ***ret_ids, kata_error **err)
{
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0)
		rc = check_ret(ret_ids, "ret_ids", err);
	if (rc < 0)
		return rc;
	return kata__persistence_answer(persistence, "list_sandboxes", NULL,
					persistence->ops.list_sandboxes(persistence->self, ret_ids, err), err);
}

int kata_persistence_list_containers(kata_persistence *persistence, const char *sandbox_id, char ***ret_ids,
				     kata_error **err)
{
	int rc = sandbox_id ? check_id(persistence, "sandbox_id", sandbox_id, err)
			    : kata__persistence_check(persistence, err);

	if (rc == 0)
		rc = check_ret(ret_ids, "ret_ids", err);
	if (rc < 0)
		return rc;
	return kata__persistence_answer(persistence, "list_containers", sandbox_id,
					persistence->ops.list_containers(persistence->self, sandbox_id, ret_ids, err),
					err);
}

int kata_persistence_sandbox_of_container(kata_persistence *persistence, const char *container_id, char **ret_id,
					  kata_error **err)
{
	int rc = check_id(persistence, "container_id", container_id, err);

	if (rc == 0)
		rc = check_ret(ret_id, "ret_id", err);
	if (rc < 0)
		return rc;
	return kata__persistence_answer(
		persistence, "sandbox_of_container", container_id,
		persistence->ops.sandbox_of_container(persistence->self, container_id, ret_id, err), err);
}

void kata_string_list_free(char **list)
{
	kata__strv_free(list);
}

int kata__persistence_store(kata_persistence *p, const kata_record *record, kata_error **err)
{
	return kata__persistence_answer(p, "store", record->id, p->ops.store(p->self, record, err), err);
}

int kata__persistence_set_epoch(kata_persistence *p, const char *id, uint64_t from, uint64_t to, kata_error **err)
{
	return kata__persistence_answer(p, "set_epoch", id, p->ops.set_epoch(p->self, id, from, to, err), err);
}

static int load_json(kata_persistence *p, const char *id, kata_record **ret, kata_error **err)
{
	KATA_AUTO(free) char *json = NULL;
	kata_record *record = NULL;
	uint64_t epoch = 0;
	int rc = kata__persistence_answer(p, "load", id, p->ops.load(p->self, id, &json, &epoch, err), err);

	if (rc < 0)
		return rc;
	if (!json)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "persistence '%s': load '%s' gave no record",
				  p->ops.name, id);
	rc = kata__record_from_json(json, strlen(json), &record, err);
	if (rc < 0)
		return kata__error_wrap(err, rc, "record of sandbox '%s' in persistence '%s'", id, p->ops.name);
	record->epoch = epoch;
	*ret = record;
	return 0;
}

int kata__persistence_load(kata_persistence *p, const char *id, kata_record **ret, kata_error **err)
{
	kata_record *record = NULL;
	int rc;

	if (p->load_record)
		rc = p->load_record(p->self, id, &record, err);
	else
		rc = load_json(p, id, &record, err);
	if (rc < 0)
		return rc;
	if (strcmp(record->id, id) != 0) {
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "record of sandbox '%s': says it is of '%s'", id,
				record->id);
		kata__record_free(record);
		return rc;
	}
	*ret = record;
	return 0;
}
