/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filling a struct kata_record from a sandbox, and a sandbox from a record. The VM's part is the VM's own text; what
 * stands in rows beside it (storages, NICs, pid) is for those who read the database. Devices are restored by the VM, so
 * only the containers, the interfaces' configuration and the routes come back from here.
 */
#include "sandbox/record.h"

#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "sandbox/container.h"
#include "sandbox/device.h"
#include "sandbox/stored.h"

/* Sets *slot to a copy that goes with the record; remembers whether any failed. */
static void copy(struct kata_record *r, char **slot, const char *text, bool *ok)
{
	*slot = text ? kata__record_keep(r, text) : NULL;
	*ok = *ok && (!text || *slot);
}

/* A word of the library's own. */
static void name(char **slot, const char *text)
{
	*slot = (char *)text;
}

/* The same with a text that is given up. NULL: there was no memory for it. */
static void take(struct kata_record *r, char **slot, char *take_text, bool *ok)
{
	*ok = *ok && take_text;
	copy(r, slot, take_text, ok);
	free(take_text);
}

static char *strings_to_json(char *const *list)
{
	KATA_AUTO_JSON json_t *array = json_array();

	for (size_t i = 0; list[i]; i++)
		json_array_append_new(array, json_string(list[i]));
	return array ? kata__json_dump(array) : NULL;
}

static void copy_strings(struct kata_record *r, char **slot, char *const *list, bool *ok)
{
	if (list && *list)
		take(r, slot, strings_to_json(list), ok);
	else
		name(slot, "[]");
}

/* ---- filling */

static void fill_storage(struct kata_record *r, struct kata__record_storage *out, const kata_storage *storage, bool *ok)
{
	bool is_scsi = kata_storage_get_driver(storage) == KATA_STORAGE_VIRTIO_SCSI;
	char address[64];

	kata_storage_get_address(storage, address, sizeof(address));
	copy(r, &out->id, kata_storage_get_id(storage), ok);
	copy(r, &out->path, kata_storage_get_path(storage), ok);
	name(&out->format, kata__storage_format_name(kata_storage_get_format(storage)));
	name(&out->driver, is_scsi ? "virtio-scsi" : "virtio-blk");
	copy(r, &out->fstype, kata_storage_get_fstype(storage), ok);
	copy(r, &out->address, address, ok);
	name(&out->state, kata_device_state_get_name(kata_storage_get_state(storage)));
	out->read_only = kata_storage_is_read_only(storage);
	out->size_bytes = kata_storage_get_size_bytes(storage);
}

static bool fill_storages(kata_vm *vm, struct kata_record *r)
{
	size_t n = kata_vm_get_storage_count(vm);
	bool ok = true;

	r->storages = calloc(n + 1, sizeof(*r->storages));
	if (!r->storages)
		return false;
	while (r->storage_count < n) {
		kata_storage *storage = NULL;

		if (kata_vm_get_storage(vm, r->storage_count, &storage, NULL) < 0)
			break; /* one was unplugged meanwhile */
		fill_storage(r, &r->storages[r->storage_count++], storage, &ok);
		kata_storage_unref(storage);
	}
	return ok;
}

static void fill_nic(kata_sandbox *s, struct kata_record *r, struct kata__record_nic *out, const kata_nic *nic,
		     bool *ok)
{
	char address[64];

	kata_nic_get_address(nic, address, sizeof(address));
	copy(r, &out->id, kata_nic_get_id(nic), ok);
	name(&out->type, kata_nic_type_get_name(kata_nic_get_type(nic)));
	copy(r, &out->tap_name, kata_nic_get_tap_name(nic), ok);
	copy(r, &out->mac, kata_nic_get_mac(nic), ok);
	copy(r, &out->address, address, ok);
	name(&out->state, kata_device_state_get_name(kata_nic_get_state(nic)));
	out->mtu = kata_nic_get_mtu(nic);
	pthread_mutex_lock(&s->mutex);
	for (struct kata__sandbox_interface *i = s->interfaces; i; i = i->next)
		if (strcmp(i->nic_id, out->id ? out->id : "") == 0)
			copy(r, &out->interface_json, i->json, ok);
	pthread_mutex_unlock(&s->mutex);
}

static bool fill_nics(kata_sandbox *s, struct kata_record *r)
{
	size_t n = kata_vm_get_nic_count(s->vm);
	bool ok = true;

	r->nics = calloc(n + 1, sizeof(*r->nics));
	if (!r->nics)
		return false;
	while (r->nic_count < n) {
		kata_nic *nic = NULL;

		if (kata_vm_get_nic(s->vm, r->nic_count, &nic, NULL) < 0)
			break;
		fill_nic(s, r, &r->nics[r->nic_count++], nic, &ok);
		kata_nic_unref(nic);
	}
	return ok;
}

static void fill_process(struct kata_record *r, struct kata__record_process *out, const struct kata__process *p,
			 bool *ok)
{
	copy(r, &out->container_id, p->container_id, ok);
	copy(r, &out->exec_id, p->exec_id, ok);
	name(&out->state, kata_process_state_get_name(p->state));
	out->terminal = p->terminal;
	out->exit_status = p->exit_status;
}

/* The mutex is held: it keeps the table, and the copies are short. */
static bool fill_containers(kata_sandbox *s, struct kata_record *r)
{
	bool ok = true;

	r->containers = calloc(s->container_count + 1, sizeof(*r->containers));
	r->processes = calloc(s->process_count + 1, sizeof(*r->processes));
	if (!r->containers || !r->processes)
		return false;
	for (struct kata__container *c = s->containers; c; c = c->next) {
		struct kata__record_container *out = &r->containers[r->container_count];

		if (!c->visible)
			continue;
		r->container_count++;
		copy(r, &out->id, c->id, &ok);
		name(&out->state, kata_process_state_get_name(c->processes->state));
		copy_strings(r, &out->storages_json, c->storages, &ok);
		for (struct kata__process *p = c->processes; p; p = p->next)
			if (p->visible)
				fill_process(r, &r->processes[r->process_count++], p, &ok);
	}
	return ok;
}

static bool fill_vm(kata_sandbox *s, struct kata_record *r)
{
	struct kata__process_identity process;
	bool ok = true;

	kata__vm_get_process(s->vm, &process);
	copy(r, &r->vm_id, kata_vm_get_id(s->vm), &ok);
	copy(r, &r->vm_uuid, kata_vm_get_uuid(s->vm), &ok);
	copy(r, &r->vm_driver, kata_vm_get_driver(s->vm), &ok);
	copy(r, &r->vm_accelerator, kata_vm_get_accelerator(s->vm), &ok);
	r->vm_pid = process.pid;
	r->vm_start_time = process.pid ? process.start_time : 0;
	r->vm_cpus = s->vm->config->v.cpus;
	r->vm_memory_mib = s->vm->config->v.memory_mib;
	return ok && fill_storages(s->vm, r);
}

/* The mutex is held. */
static bool fill_own(kata_sandbox *s, struct kata_record *r)
{
	const struct kata__process_identity *self = kata__context_self(s->ctx);
	bool is_ours = s->state != KATA_SANDBOX_RELEASED && s->state != KATA_SANDBOX_SAVING;
	bool ok = true;

	copy(r, &r->id, s->id, &ok);
	name(&r->state, kata_sandbox_state_get_name(is_ours ? s->state : KATA_SANDBOX_RELEASED));
	copy(r, &r->hostname, s->hostname, &ok);
	copy(r, &r->boot_id, self->boot_id, &ok);
	copy(r, &r->agent_json, s->agent_json, &ok);
	r->epoch = s->epoch;
	r->generation = s->generation;
	r->base = (int64_t)s->generation;
	if (is_ours) {
		r->owner_pid = self->pid;
		r->owner_start_time = self->start_time;
	}
	copy_strings(r, &r->dns_json, s->dns, &ok);
	if (s->routes)
		take(r, &r->routes_json, kata__json_dump(s->routes), &ok);
	return ok && kata__sandbox_fill_undone(s, r) && fill_containers(s, r);
}

static char *keep(void *record, const char *text)
{
	return kata__record_keep(record, text);
}

int kata__sandbox_to_record(kata_sandbox *s, struct kata_record **ret, kata_error **err)
{
	static const uint32_t allowed =
		KATA__IN(KATA_SANDBOX_RUNNING) | KATA__IN(KATA_SANDBOX_PAUSED) | KATA__IN(KATA_SANDBOX_RELEASED) |
		KATA__IN(KATA_SANDBOX_SAVING); /* as a released one: whoever restores it owns it */
	struct kata_record *r = kata__record_new_kept();
	bool ok = false;
	int rc;

	if (!r)
		return kata__fail_no_memory(err);
	pthread_mutex_lock(&s->mutex);
	rc = kata__sandbox_check_state(s, allowed, "the record of a sandbox", err);
	if (rc == 0)
		ok = fill_own(s, r);
	pthread_mutex_unlock(&s->mutex);
	ok = ok && fill_vm(s, r) && fill_nics(s, r);
	if (rc == 0)
		rc = ok ? kata__vm_dump_with(s->vm, keep, r, &r->vm_json, err) : kata__fail_no_memory(err);
	if (rc < 0) {
		kata__record_free(r);
		return rc;
	}
	*ret = r;
	return 0;
}

int kata_sandbox_dump(kata_sandbox *sandbox, char **ret_json, kata_error **err)
{
	struct kata_record *record = NULL;
	int rc = kata__sandbox_check(sandbox, err);

	if (rc == 0 && !ret_json)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "ret_json: it is NULL");
	if (rc == 0)
		rc = kata__sandbox_to_record(sandbox, &record, err);
	if (rc == 0)
		rc = kata__record_to_json_text(record, ret_json, err);
	kata__record_free(record);
	return rc;
}

/* ---- restoring */

static int parse_state(const char *what, const char *text, kata_process_state *ret, kata_error **err)
{
	for (int i = KATA_PROCESS_CREATED; i <= KATA_PROCESS_EXITED; i++)
		if (strcmp(text, kata_process_state_get_name((kata_process_state)i)) == 0) {
			*ret = (kata_process_state)i;
			return 0;
		}
	return kata__fail(err, KATA_E_CORRUPT, CALLER,
			  "%s: its state '%.32s' is none of created, running, paused, exited", what, text);
}

static int restore_process(kata_sandbox *s, const struct kata__record_process *in, kata_error **err)
{
	struct kata__container *c = kata__container_find(s, in->container_id);
	bool is_init = strcmp(in->exec_id, in->container_id) == 0;
	struct kata__process *p;
	kata_process_state state = KATA_PROCESS_CREATED;
	int rc = parse_state(in->exec_id, in->state, &state, err);

	if (rc < 0)
		return rc;
	if (!c)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "process '%s' is of container '%s', which is not there",
				  in->exec_id, in->container_id);
	if (is_init) {
		p = c->processes;
		p->terminal = in->terminal;
	} else {
		rc = kata__process_reserve(s, c, in->exec_id, in->terminal, &p, err);
		if (rc < 0)
			return rc;
	}
	kata__process_show(p, state);
	p->exit_known = state == KATA_PROCESS_EXITED;
	p->exit_status = p->exit_known ? in->exit_status : -1;
	return 0;
}

static int restore_container(kata_sandbox *s, const struct kata__record_container *in, kata_error **err)
{
	KATA_AUTO_JSON json_t *ids = in->storages_json ? json_loads(in->storages_json, 0, NULL) : NULL;
	size_t n = json_array_size(ids);
	const char **list = n ? calloc(n + 1, sizeof(*list)) : NULL;
	struct kata__container *c;
	int rc;

	if (n && !list)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < n; i++)
		list[i] = json_string_value(json_array_get(ids, i));
	rc = kata__container_reserve(s, in->id, list, false, &c, err);
	free(list);
	if (rc == 0)
		kata__container_show(s, c);
	return rc;
}

int kata__sandbox_restore(kata_sandbox *s, const struct kata_record *record, kata_error **err)
{
	int rc = 0;

	for (size_t i = 0; i < record->container_count && rc == 0; i++)
		rc = restore_container(s, &record->containers[i], err);
	for (size_t i = 0; i < record->process_count && rc == 0; i++)
		rc = restore_process(s, &record->processes[i], err);
	for (size_t i = 0; i < record->nic_count && rc == 0; i++)
		if (record->nics[i].interface_json)
			rc = kata__interface_remember(s, record->nics[i].id, record->nics[i].interface_json, err);
	if (rc == 0 && record->routes_json) {
		json_t *routes = json_loads(record->routes_json, 0, NULL);

		pthread_mutex_lock(&s->mutex);
		json_decref(s->routes);
		s->routes = routes;
		pthread_mutex_unlock(&s->mutex);
	}
	if (rc < 0)
		kata__sandbox_unrestore(s);
	return rc;
}

void kata__sandbox_unrestore(kata_sandbox *s)
{
	kata__containers_free(s);
}
