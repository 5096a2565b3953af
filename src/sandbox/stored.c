/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sandboxes in a persistence: store, release, obtain.
 *
 * Obtaining is fenced twice: by the row's epoch, raised by compare-and-set before the machine is touched, and by the
 * owner file of the machine itself. Whoever loses either puts back what he raised.
 */
#include "persist/persistence.h"

#include <string.h>

#include "base/text.h"
#include "sandbox/rebuild.h"
#include "sandbox/record.h"
#include "vm/recover.h"

int kata_persistence_store_sandbox(kata_persistence *persistence, kata_sandbox *sandbox, kata_error **err)
{
	struct kata_record *record = NULL;
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0)
		rc = kata__sandbox_check(sandbox, err);
	if (rc == 0)
		rc = kata__sandbox_to_record(sandbox, &record, err);
	if (rc == 0)
		rc = kata__persistence_store(persistence, record, err);
	kata__record_free(record);
	return rc;
}

int kata_persistence_release_sandbox(kata_persistence *persistence, kata_sandbox *sandbox,
				     const kata_op_options *options, char **ret_json, kata_error **err)
{
	char *json = NULL;
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0)
		rc = kata_sandbox_release(sandbox, options, ret_json ? &json : NULL, err);
	if (rc < 0)
		return rc;
	if (ret_json)
		*ret_json = json;
	rc = kata_persistence_store_sandbox(persistence, sandbox, err);
	if (rc < 0)
		return kata__error_wrap(err, rc, "sandbox '%s' is released, but its record could not be stored",
					sandbox->id);
	return 0;
}

/* ---- obtain */

static int check_owner(const struct kata_record *record, kata_error **err)
{
	struct kata__process_identity owner = {.pid = (pid_t)record->owner_pid, .start_time = record->owner_start_time};

	if (record->owner_pid == 0)
		return 0;
	snprintf(owner.boot_id, sizeof(owner.boot_id), "%s", record->boot_id ? record->boot_id : "");
	if (!kata__process_is_alive(&owner))
		return 0;
	return kata__fail(err, KATA_E_FENCED, CALLER,
			  "process %lld owns sandbox '%s' and lives: it must release it first",
			  (long long)record->owner_pid, record->id);
}

/* The sandbox could not be stored as ours: it goes back to nobody, at the epoch that its record has. */
static void give_up(kata_sandbox *s)
{
	kata__vm_rewind_epoch(s->vm);
	if (kata_sandbox_release(s, NULL, NULL, NULL) < 0)
		kata__log(s->ctx, KATA_LOG_ERROR, "sandbox", "sandbox '%s' could be neither stored nor released",
			  s->id);
	kata_sandbox_unref(s);
}

static int obtain(kata_persistence *p, struct kata_record *take_record, kata_vm_builder *vm_builder,
		  kata_agent_builder *agent_builder, const kata_op_options *options, kata_sandbox **ret,
		  kata_error **err)
{
	char id[KATA__ID_MAX + 1];
	uint64_t epoch = take_record->epoch;
	kata_sandbox *s = NULL;
	int rc;

	snprintf(id, sizeof(id), "%s", take_record->id);
	rc = kata__persistence_set_epoch(p, id, epoch, epoch + 1, err);
	if (rc < 0) {
		kata__record_free(take_record);
		return rc;
	}
	rc = kata__sandbox_rebuild(p->ctx, take_record, epoch + 1, vm_builder, agent_builder, options, &s, err);
	if (rc == 0) {
		rc = kata_persistence_store_sandbox(p, s, err);
		if (rc < 0)
			give_up(s);
	}
	if (rc < 0)
		kata__persistence_set_epoch(p, id, epoch + 1, epoch, NULL);
	else
		*ret = s;
	return rc;
}

int kata_persistence_obtain_sandbox(kata_persistence *persistence, const char *id, kata_vm_builder *vm_builder,
				    kata_agent_builder *agent_builder, const kata_op_options *options,
				    kata_sandbox **ret_sandbox, kata_error **err)
{
	struct kata_record *record = NULL;
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0)
		rc = kata__id_check("id", id, err);
	if (rc == 0 && (!vm_builder || !ret_sandbox))
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "%s: it is NULL",
				vm_builder ? "ret_sandbox" : "vm_builder");
	if (rc == 0)
		rc = kata__context_check_may_block(persistence->ctx, "kata_persistence_obtain_sandbox", err);
	if (rc == 0)
		rc = kata__persistence_load(persistence, id, &record, err);
	if (rc == 0)
		rc = check_owner(record, err);
	if (rc < 0) {
		kata__record_free(record);
		return rc;
	}
	return obtain(persistence, record, vm_builder, agent_builder, options, ret_sandbox, err);
}
