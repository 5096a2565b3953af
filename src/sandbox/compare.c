/* SPDX-License-Identifier: Apache-2.0 */
/* A sandbox beside its record: the report of kata_sandbox_reconcile. */
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "sandbox/reconcile.h"

const char *kata_reconcile_verdict_get_name(kata_reconcile_verdict verdict)
{
	static const char *const names[] = {"same", "changed", "rolled-back", "missing", "taken-back"};

	return (size_t)verdict < kata__array_size(names) ? names[verdict] : "unknown";
}

/* ---- differences */

static int add(kata_reconcile_report *report, enum kata__difference_kind kind, const char *id, bool recorded,
	       char *take_text, kata_error **err)
{
	struct kata__difference *grown =
		take_text ? reallocarray(report->list, report->count + 1, sizeof(*grown)) : NULL;
	char *copy = kata__strdup(id);

	if (grown)
		report->list = grown;
	if (!grown || !copy) {
		free(copy);
		free(take_text);
		return kata__fail_no_memory(err);
	}
	grown[report->count++] = (struct kata__difference){kind, copy, take_text, recorded, false};
	return 0;
}

/* A list of structs whose first member is the id. */
struct list {
	const void *first;
	size_t count, size;
};

#define LIST(r, member, number) ((struct list){(r)->member, (r)->number, sizeof(*(r)->member)})

static const char *id_at(const struct list *l, size_t i)
{
	return *(char *const *)(const void *)((const char *)l->first + i * l->size);
}

static bool has(const struct list *l, const char *id)
{
	for (size_t i = 0; i < l->count; i++)
		if (strcmp(id_at(l, i), id) == 0)
			return true;
	return false;
}

static const char *const nouns[] = {"storage", "NIC", "container"};

/* What `ours` has and `other` has not. */
static int compare_ids(kata_reconcile_report *report, enum kata__difference_kind kind, const struct list *ours,
		       const struct list *other, bool recorded, kata_error **err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < ours->count; i++) {
		const char *id = id_at(ours, i);

		if (has(other, id))
			continue;
		rc = add(report, kind, id, recorded,
			 kata__format(recorded ? "%s '%s' is in the record, but not in the sandbox"
					       : "%s '%s' is in the sandbox, but not in the record",
				      nouns[kind], id),
			 err);
	}
	return rc;
}

static int compare_lists(kata_reconcile_report *report, enum kata__difference_kind kind, const struct list *now,
			 const struct list *record, kata_error **err)
{
	int rc = compare_ids(report, kind, now, record, false, err);

	return rc < 0 ? rc : compare_ids(report, kind, record, now, true, err);
}

/* ---- devices that have one id and are not the same */

json_t *kata__reconcile_device(const json_t *vm, const char *list, const char *id)
{
	json_t *entry;
	size_t i;

	json_array_foreach(json_object_get(vm, list), i, entry)
	{
		json_t *device = json_object_get(entry, "device");
		const char *name = json_string_value(json_object_get(device, "id"));

		if (name && strcmp(name, id) == 0)
			return device;
	}
	return NULL;
}

/* What it is, and not where it is plugged and how it fares. */
static bool is_same_device(const json_t *now, const json_t *recorded, const char *list, const char *id)
{
	static const char *const passing[] = {"address", "state", "size_bytes"};
	json_t *a = kata__reconcile_device(now, list, id), *b = kata__reconcile_device(recorded, list, id);

	for (size_t i = 0; i < kata__array_size(passing); i++) {
		json_object_del(a, passing[i]);
		json_object_del(b, passing[i]);
	}
	return json_equal(a, b);
}

/* One is taken back, the other put back. */
static int add_other(kata_reconcile_report *report, enum kata__difference_kind kind, const char *id, kata_error **err)
{
	int rc = add(report, kind, id, false,
		     kata__format("%s '%s' of the sandbox is another than that of the record", nouns[kind], id), err);

	return rc < 0 ? rc
		      : add(report, kind, id, true,
			    kata__format("%s '%s' of the record is another than that of the sandbox", nouns[kind], id),
			    err);
}

static bool is_same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

static const struct kata__record_nic *find_nic(const struct kata_record *r, const char *id)
{
	for (size_t i = 0; i < r->nic_count; i++)
		if (strcmp(r->nics[i].id, id) == 0)
			return &r->nics[i];
	return NULL;
}

static int compare_devices(kata_reconcile_report *report, const struct kata_record *now,
			   const struct kata_record *record, kata_error **err)
{
	KATA_AUTO_JSON json_t *a = NULL;
	KATA_AUTO_JSON json_t *b = NULL;
	int rc = kata__json_parse("vm", now->vm_json, strlen(now->vm_json), KATA__JSON_RECORD_MAX, &a, err);

	if (rc == 0)
		rc = kata__json_parse("vm", record->vm_json, strlen(record->vm_json), KATA__JSON_RECORD_MAX, &b, err);
	for (size_t i = 0; rc == 0 && i < now->storage_count; i++) {
		const char *id = now->storages[i].id;

		if (has(&LIST(record, storages, storage_count), id) && !is_same_device(a, b, "storages", id))
			rc = add_other(report, KATA__DIFFERENCE_STORAGE, id, err);
	}
	for (size_t i = 0; rc == 0 && i < now->nic_count; i++) {
		const struct kata__record_nic *n = &now->nics[i], *before = find_nic(record, n->id);

		if (before &&
		    !(is_same_device(a, b, "nics", n->id) && is_same_text(n->interface_json, before->interface_json)))
			rc = add_other(report, KATA__DIFFERENCE_NIC, n->id, err);
	}
	return rc;
}

/* ---- the sandbox and the record */

static int compare_members(kata_reconcile_report *report, const struct kata_record *now,
			   const struct kata_record *record, kata_error **err)
{
	int rc = compare_lists(report, KATA__DIFFERENCE_STORAGE, &LIST(now, storages, storage_count),
			       &LIST(record, storages, storage_count), err);

	if (rc == 0)
		rc = compare_lists(report, KATA__DIFFERENCE_NIC, &LIST(now, nics, nic_count),
				   &LIST(record, nics, nic_count), err);
	if (rc == 0)
		rc = compare_lists(report, KATA__DIFFERENCE_CONTAINER, &LIST(now, containers, container_count),
				   &LIST(record, containers, container_count), err);
	return rc;
}

static const struct kata__record_process *find_process(const struct kata_record *r,
						       const struct kata__record_process *like)
{
	for (size_t i = 0; i < r->process_count; i++)
		if (strcmp(r->processes[i].container_id, like->container_id) == 0 &&
		    strcmp(r->processes[i].exec_id, like->exec_id) == 0)
			return &r->processes[i];
	return NULL;
}

static int compare_processes(kata_reconcile_report *report, const struct kata_record *now,
			     const struct kata_record *record, kata_error **err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < now->process_count; i++) {
		const struct kata__record_process *p = &now->processes[i], *before = find_process(record, p);

		if (!before || strcmp(before->state, p->state) == 0)
			continue;
		rc = add(report, KATA__DIFFERENCE_PROCESS, p->exec_id, false,
			 kata__format("process '%s' of container '%s' is %s, the record says %s", p->exec_id,
				      p->container_id, p->state, before->state),
			 err);
	}
	if (rc == 0 && !is_same_text(now->routes_json, record->routes_json))
		rc = add(report, KATA__DIFFERENCE_PROCESS, now->id, false,
			 kata__strdup("the routes are others than those of the record"), err);
	return rc;
}

static int compare_state(kata_reconcile_report *report, const struct kata_record *now, const struct kata_record *record,
			 kata_error **err)
{
	if (strcmp(now->state, record->state) == 0)
		return 0;
	return add(report, KATA__DIFFERENCE_STATE, now->id, false,
		   kata__format("the sandbox is %s, the record says %s", now->state, record->state), err);
}

/* ---- the verdict */

/* Whether they say the same, but for the generation. */
static int is_same(const struct kata_record *now, const struct kata_record *record, bool *ret, kata_error **err)
{
	KATA_AUTO_JSON json_t *a = NULL;
	KATA_AUTO_JSON json_t *b = NULL;
	int rc = kata__record_to_json_object(now, &a, err);

	if (rc == 0)
		rc = kata__record_to_json_object(record, &b, err);
	if (rc < 0)
		return rc;
	json_object_del(a, "generation");
	json_object_del(b, "generation");
	*ret = json_equal(a, b);
	return 0;
}

static int judge(const struct kata_record *now, const struct kata_record *record, kata_reconcile_report *report,
		 kata_error **err)
{
	bool same = false;
	int rc;

	if (record->epoch < now->epoch) {
		report->verdict = KATA_RECONCILE_TAKEN_BACK;
		return 0;
	}
	if (record->generation != report->believed) {
		report->verdict = KATA_RECONCILE_ROLLED_BACK;
		return 0;
	}
	rc = is_same(now, record, &same, err);
	report->verdict = same && report->count == 0 ? KATA_RECONCILE_SAME : KATA_RECONCILE_CHANGED;
	return rc;
}

int kata__reconcile_compare(kata_sandbox *s, const struct kata_record *now, const struct kata_record *record,
			    kata_reconcile_report *report, kata_error **err)
{
	struct kata_record none = {0};
	int rc;

	report->believed = now->generation;
	report->generation = record ? record->generation : 0;
	rc = compare_members(report, now, record ? record : &none, err);
	if (!record) {
		report->verdict = KATA_RECONCILE_MISSING;
		return rc;
	}
	if (rc == 0)
		rc = compare_devices(report, now, record, err);
	if (rc == 0)
		rc = compare_processes(report, now, record, err);
	if (rc == 0)
		rc = compare_state(report, now, record, err);
	return rc < 0 ? rc : judge(now, record, report, err);
}

/* ---- the report */

kata_reconcile_verdict kata_reconcile_report_get_verdict(const kata_reconcile_report *report)
{
	return report ? report->verdict : KATA_RECONCILE_SAME;
}

uint64_t kata_reconcile_report_get_generation(const kata_reconcile_report *report)
{
	return report ? report->generation : 0;
}

uint64_t kata_reconcile_report_get_believed_generation(const kata_reconcile_report *report)
{
	return report ? report->believed : 0;
}

size_t kata_reconcile_report_get_count(const kata_reconcile_report *report)
{
	return report ? report->count : 0;
}

const char *kata_reconcile_report_get_text(const kata_reconcile_report *report, size_t index)
{
	return report && index < report->count ? report->list[index].text : NULL;
}

bool kata_reconcile_report_is_settled(const kata_reconcile_report *report, size_t index)
{
	return report && index < report->count && report->list[index].settled;
}

void kata_reconcile_report_free(kata_reconcile_report *report)
{
	if (!report)
		return;
	for (size_t i = 0; i < report->count; i++) {
		free(report->list[i].id);
		free(report->list[i].text);
	}
	free(report->list);
	free(report);
}
