/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_sandbox_reconcile: reads the record, compares (compare.c), and makes record or sandbox follow the other.
 *
 * Compensating is a series of ordinary operations of the sandbox, one a difference; each is undone by itself when it
 * fails, and what was settled before stays settled, so that the same call may be made again. Only when nothing is left
 * does the sandbox believe in the record again.
 */
#include "sandbox/reconcile.h"

#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "persist/persistence.h"
#include "sandbox/record.h"
#include "sandbox/sandbox_op.h"
#include "sandbox/stored.h"

/* ---- plugging again what the record has */

/* The device's own part of the VM's record: what the row has, and what it has not (a backing file, mount options). */
static int find_device(const struct kata_record *record, const char *list, const char *id, json_t **ret_top,
		       json_t **ret_device, kata_error **err)
{
	int rc = kata__json_parse("vm", record->vm_json, strlen(record->vm_json), KATA__JSON_RECORD_MAX, ret_top, err);

	if (rc < 0)
		return rc;
	*ret_device = kata__reconcile_device(*ret_top, list, id);
	return *ret_device ? 0
			   : kata__fail(err, KATA_E_CORRUPT, CALLER,
					"record.vm.%s: has no '%s', but the record lists it", list, id);
}

static const char *text_of(const json_t *device, const char *key)
{
	return json_string_value(json_object_get(device, key));
}

static int storage_of(const json_t *device, const char *id, kata_storage **ret, kata_error **err)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	const char *format = text_of(device, "format"), *driver = text_of(device, "driver");
	const char *backing_format = text_of(device, "backing_format");
	const json_t *options = json_object_get(device, "mount_options");
	size_t n = json_array_size(options);
	const char **list = calloc(n + 1, sizeof(*list));
	int rc;

	if (!list)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < n; i++)
		list[i] = json_string_value(json_array_get(options, i));
	c.id = id;
	c.path = text_of(device, "path");
	c.format = format && strcmp(format, "qcow2") == 0 ? KATA_STORAGE_QCOW2 : KATA_STORAGE_RAW;
	c.driver = driver && strcmp(driver, "virtio-scsi") == 0 ? KATA_STORAGE_VIRTIO_SCSI : KATA_STORAGE_VIRTIO_BLK;
	c.flags = json_is_true(json_object_get(device, "read_only")) ? KATA_STORAGE_READ_ONLY : 0;
	c.backing_path = text_of(device, "backing_path");
	c.backing_format =
		backing_format && strcmp(backing_format, "qcow2") == 0 ? KATA_STORAGE_QCOW2 : KATA_STORAGE_RAW;
	c.fstype = text_of(device, "fstype");
	c.mount_options = n ? list : NULL;
	rc = kata_storage_new(&c, ret, err);
	free(list);
	return rc;
}

static int plug_storage(kata_sandbox *s, const struct kata_record *record, const char *id,
			const kata_op_options *options, kata_error **err)
{
	KATA_AUTO_JSON json_t *top = NULL;
	kata_storage *storage = NULL;
	json_t *device = NULL;
	int rc = find_device(record, "storages", id, &top, &device, err);

	if (rc == 0)
		rc = storage_of(device, id, &storage, err);
	if (rc == 0)
		rc = kata_sandbox_add_storage(s, storage, options, err);
	kata_storage_unref(storage);
	return rc;
}

static int nic_of(const json_t *device, const char *id, kata_nic **ret, kata_error **err)
{
	const char *type = text_of(device, "type");
	kata_nic_config c = KATA_NIC_CONFIG_INIT;

	c.id = id;
	c.type = type && strcmp(type, "tap") == 0 ? KATA_NIC_TAP : KATA_NIC_USER;
	c.tap_name = text_of(device, "tap_name");
	c.mac = text_of(device, "mac");
	c.mtu = (uint32_t)json_integer_value(json_object_get(device, "mtu"));
	return kata_nic_new(&c, ret, err);
}

static int add_nic(kata_sandbox *s, kata_nic *nic, const json_t *interface, const kata_op_options *options,
		   kata_error **err)
{
	kata_interface_config c = KATA_INTERFACE_CONFIG_INIT;
	const json_t *addresses = json_object_get(interface, "addresses");
	size_t n = json_array_size(addresses);
	const char **list = calloc(n + 1, sizeof(*list));
	int rc;

	if (!list)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < n; i++)
		list[i] = json_string_value(json_array_get(addresses, i));
	c.name = text_of(interface, "name");
	c.addresses = list;
	c.mtu = (uint32_t)json_integer_value(json_object_get(interface, "mtu"));
	rc = kata_sandbox_add_nic(s, nic, interface ? &c : NULL, options, err);
	free(list);
	return rc;
}

static const char *interface_of(const struct kata_record *record, const char *id)
{
	for (size_t i = 0; i < record->nic_count; i++)
		if (strcmp(record->nics[i].id, id) == 0)
			return record->nics[i].interface_json;
	return NULL;
}

static int plug_nic(kata_sandbox *s, const struct kata_record *record, const char *id, const kata_op_options *options,
		    kata_error **err)
{
	const char *text = interface_of(record, id);
	KATA_AUTO_JSON json_t *interface = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
	KATA_AUTO_JSON json_t *top = NULL;
	json_t *device = NULL;
	kata_nic *nic = NULL;
	int rc = find_device(record, "nics", id, &top, &device, err);

	if (rc == 0)
		rc = nic_of(device, id, &nic, err);
	if (rc == 0)
		rc = add_nic(s, nic, interface, options, err);
	kata_nic_unref(nic);
	return rc;
}

/* ---- compensating */

static int take_back(kata_sandbox *s, const struct kata__difference *d, const kata_op_options *options,
		     kata_error **err)
{
	int rc;

	switch (d->kind) {
	case KATA__DIFFERENCE_CONTAINER:
		return kata_sandbox_remove_container(s, d->id, options, err);
	case KATA__DIFFERENCE_STORAGE:
		rc = kata_sandbox_remove_storage(s, d->id, options, err);
		if (rc == 0)
			kata__sandbox_note_plug(s, KATA_RESERVE_STORAGE, d->id, true);
		return rc;
	default:
		rc = kata_sandbox_remove_nic(s, d->id, options, err);
		if (rc == 0)
			kata__sandbox_note_plug(s, KATA_RESERVE_NIC, d->id, true);
		return rc;
	}
}

static int put_back(kata_sandbox *s, const struct kata_record *record, const struct kata__difference *d,
		    const kata_op_options *options, kata_error **err)
{
	if (d->kind == KATA__DIFFERENCE_STORAGE)
		return plug_storage(s, record, d->id, options, err);
	if (d->kind == KATA__DIFFERENCE_NIC)
		return plug_nic(s, record, d->id, options, err);
	return kata__fail(err, KATA_E_DIVERGED, CALLER,
			  "container '%s' was removed and cannot come back: store sandbox '%s' as it is", d->id, s->id);
}

static bool is_member(const struct kata__difference *d)
{
	return d->kind <= KATA__DIFFERENCE_CONTAINER;
}

/* Containers let go of their storages first; what is to come back comes last, when there is room. */
static int settle_members(kata_sandbox *s, const struct kata_record *record, kata_reconcile_report *report,
			  const kata_op_options *options, kata_error **err)
{
	static const enum kata__difference_kind order[] = {KATA__DIFFERENCE_CONTAINER, KATA__DIFFERENCE_STORAGE,
							   KATA__DIFFERENCE_NIC};

	for (int recorded = 0; recorded < 2; recorded++)
		for (size_t k = 0; k < kata__array_size(order); k++)
			for (size_t i = 0; i < report->count; i++) {
				struct kata__difference *d = &report->list[i];
				int rc;

				if (d->kind != order[k] || d->recorded != (recorded == 1))
					continue;
				rc = recorded ? put_back(s, record, d, options, err) : take_back(s, d, options, err);
				if (rc < 0)
					return rc;
				d->settled = true;
			}
	return 0;
}

static int set_running(kata_sandbox *s, bool running, const kata_op_options *options, kata_error **err)
{
	kata_sandbox_state state = kata_sandbox_get_state(s);

	if (running && state == KATA_SANDBOX_PAUSED)
		return kata_sandbox_resume(s, options, err);
	if (!running && state == KATA_SANDBOX_RUNNING)
		return kata_sandbox_pause(s, options, err);
	return 0;
}

static void settle_state(kata_reconcile_report *report)
{
	for (size_t i = 0; i < report->count; i++)
		if (report->list[i].kind == KATA__DIFFERENCE_STATE)
			report->list[i].settled = true;
}

static int follow_record(kata_sandbox *s, const struct kata_record *record, kata_reconcile_report *report,
			 const kata_op_options *options, kata_error **err)
{
	bool members = false;
	int rc = 0;

	for (size_t i = 0; i < report->count; i++)
		members = members || is_member(&report->list[i]);
	if (members)
		rc = set_running(s, true, options, err);
	if (rc == 0)
		rc = settle_members(s, record, report, options, err);
	if (rc == 0 && report->verdict != KATA_RECONCILE_TAKEN_BACK)
		rc = set_running(s, strcmp(record->state, "paused") != 0, options, err);
	if (rc < 0)
		return rc;
	settle_state(report);
	if (report->verdict == KATA_RECONCILE_TAKEN_BACK) {
		kata__sandbox_give_up(s);
		return kata_sandbox_get_state(s) == KATA_SANDBOX_RELEASED
			       ? 0
			       : kata__fail(err, KATA_E_STATE, HOST, "sandbox '%s' could not be released", s->id);
	}
	pthread_mutex_lock(&s->mutex);
	s->generation = record->generation;
	pthread_mutex_unlock(&s->mutex);
	return 0;
}

/* The machine is let go of at the epoch of a record that must then be true of it to the letter. */
static int check_taken_back(kata_sandbox *s, const kata_reconcile_report *report, kata_error **err)
{
	if (report->verdict != KATA_RECONCILE_TAKEN_BACK)
		return 0;
	for (size_t i = 0; i < report->count; i++)
		if (is_member(&report->list[i]) && report->list[i].recorded)
			return kata__fail(err, KATA_E_DIVERGED, CALLER,
					  "sandbox '%s' cannot go back to the record of before it was obtained: %s: "
					  "store it as it is",
					  s->id, report->list[i].text);
	return 0;
}

static int compensate(kata_sandbox *s, const struct kata_record *record, kata_reconcile_report *report,
		      const kata_op_options *options, kata_error **err)
{
	int rc;

	if (!record) {
		rc = kata_sandbox_destroy(s, options, err);
		for (size_t i = 0; rc == 0 && i < report->count; i++)
			report->list[i].settled = true;
		return rc;
	}
	rc = check_taken_back(s, report, err);
	return rc < 0 ? rc : follow_record(s, record, report, options, err);
}

/* ---- reading */

static int check_fence(kata_persistence *p, kata_sandbox *s, const struct kata_record *record, kata_error **err)
{
	kata_sandbox_info info = {.size = sizeof(info)};
	char since[32];

	if (record->epoch <= s->epoch)
		return 0;
	kata_persistence_get_info(p, s->id, &info, NULL);
	kata__format_time(info.held_since, since, sizeof(since));
	return kata__fail(
		err, KATA_E_FENCED, CALLER,
		"sandbox '%s' is held by pid %lld (start time %llu) since %s (epoch %llu, this handle has %llu)", s->id,
		(long long)info.holder_pid, (unsigned long long)info.holder_start_time, since,
		(unsigned long long)record->epoch, (unsigned long long)s->epoch);
}

static int read_both(kata_sandbox *s, kata_persistence *p, struct kata_record **ret_now,
		     struct kata_record **ret_record, kata_error **err)
{
	KATA_AUTO(kata_error_free) kata_error *own = NULL;
	int rc = kata__sandbox_to_record(s, ret_now, err);

	if (rc < 0)
		return rc;
	rc = kata__persistence_load(p, s->id, ret_record, &own);
	if (rc == 0)
		return check_fence(p, s, *ret_record, err);
	return rc == KATA_E_NOT_FOUND ? 0 : kata__error_move(err, &own);
}

static int check(kata_sandbox *s, kata_persistence *p, kata_reconcile_action action, kata_error **err)
{
	int rc = kata__persistence_check(p, err);

	if (rc == 0)
		rc = kata__sandbox_check(s, err);
	if (rc == 0)
		rc = kata__sandbox_check_may_block(s, "kata_sandbox_reconcile", err);
	if (rc == 0 && (unsigned)action > KATA_RECONCILE_COMPENSATE)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "action: is %d, must be LOOK, STORE or COMPENSATE",
				(int)action);
	if (rc == 0 && action == KATA_RECONCILE_COMPENSATE && kata_sandbox_get_state(s) == KATA_SANDBOX_RELEASED)
		rc = kata__fail(
			err, KATA_E_STATE, CALLER,
			"kata_sandbox_reconcile: sandbox '%s' is released, compensating needs one that is running or "
			"paused: store it, or obtain it again",
			s->id);
	return rc;
}

static int act(kata_sandbox *s, kata_persistence *p, kata_reconcile_action action, const struct kata_record *record,
	       kata_reconcile_report *report, const kata_op_options *options, kata_error **err)
{
	if (action == KATA_RECONCILE_STORE)
		return kata__sandbox_store(s, p, -1, report->generation, err);
	if (action == KATA_RECONCILE_COMPENSATE)
		return compensate(s, record, report, options, err);
	return 0;
}

int kata_sandbox_reconcile(kata_sandbox *sandbox, kata_persistence *persistence, kata_reconcile_action action,
			   const kata_op_options *options, kata_reconcile_report **ret_report, kata_error **err)
{
	struct kata_record *now = NULL, *record = NULL;
	kata_reconcile_report *report;
	int rc = check(sandbox, persistence, action, err);

	if (rc < 0)
		return rc;
	report = calloc(1, sizeof(*report));
	if (!report)
		return kata__fail_no_memory(err);
	rc = read_both(sandbox, persistence, &now, &record, err);
	if (rc == 0)
		rc = kata__reconcile_compare(sandbox, now, record, report, err);
	if (rc < 0) {
		kata_reconcile_report_free(report);
		report = NULL;
	} else {
		rc = act(sandbox, persistence, action, record, report, options, err);
	}
	kata__record_free(now);
	kata__record_free(record);
	if (ret_report && report)
		*ret_report = report;
	else
		kata_reconcile_report_free(report);
	return rc;
}
