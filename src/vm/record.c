/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The released record: everything that another process needs to go on with a running machine.
 *
 *	{ "format": "kata-vm", "version": 1, "driver": "qemu", "id", "uuid", "epoch",
 *	  "state": "running" | "paused", "started_ns", "accelerator", "accelerator_reason", "time_scale",
 *	  "agent_transport", "process": { "pid", "start_time", "boot_id" }, "config": {...}, "luns": 256,
 *	  "storages": [ { "slot", "device": {...}, "file", "backing_file" } ], "nics": [ { "slot", "device": {...} } ],
 *	  "vmm": { the driver's own } }
 *
 * Model: written from what is under the VM's mutex, so any thread may ask; the driver's part is refreshed by the leader
 * after each operation. The text is kept until the generation moves on: storing an unchanged VM costs a copy.
 *
 * Read back it is hostile: every member is checked for type and range, and members must not contradict each other (a
 * slot given twice, a device outside the slots, an address that is not its slot's, an id or a MAC twice).
 */
#include "vm/core.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"

#define RECORD_FORMAT "kata-vm"
#define DEVICES_MAX (KATA__VM_DEVICE_SLOTS_MAX + KATA__VM_LUNS_MAX)
#define TIME_SCALE_MAX 1000
#define PID_MAX_VALUE 4194304
#define FILE_FORMAT "%llx:%llx" /* device and inode: see kata__file_id */
#define FILE_TEXT_MAX 40

/* ---- writing ---- */

static int put_file(json_t *item, const char *key, bool is_known, const struct kata__file_id *file)
{
	char text[FILE_TEXT_MAX];

	if (!is_known)
		return 0;
	snprintf(text, sizeof(text), FILE_FORMAT, (unsigned long long)file->dev, (unsigned long long)file->ino);
	return kata__json_set_text(item, key, text);
}

static json_t *device_to_json(const struct kata__vm_device *d)
{
	json_t *item = json_pack("{s:i, s:o}", "slot", d->slot, "device",
				 d->storage ? kata__storage_to_json(d->storage) : kata__nic_to_json(d->nic));

	if (item && (put_file(item, "file", d->files.has_file, &d->files.file) ||
		     put_file(item, "backing_file", d->files.has_backing, &d->files.backing))) {
		json_decref(item);
		return NULL;
	}
	return item;
}

static json_t *devices_to_json(const struct kata__vm_shared *s, bool nics)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < s->device_count; i++) {
		const struct kata__vm_device *d = s->devices[i];

		if (d->committed && !d->nic == !nics && json_array_append_new(list, device_to_json(d)) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* Under the mutex. */
static json_t *build_locked(const kata_vm *vm)
{
	const struct kata__vm_shared *s = vm->shared;

	return json_pack("{s:s, s:i, s:s, s:s, s:s, s:I, s:s, s:I, s:s, s:s, s:I, s:i, s:{s:I, s:I, s:s}, s:o, s:I, "
			 "s:o, s:o, s:O}",
			 "format", RECORD_FORMAT, "version", KATA__VM_RECORD_VERSION, "driver", vm->driver->name, "id",
			 vm->id, "uuid", vm->uuid, "epoch", (json_int_t)s->epoch, "state",
			 kata_vm_state_get_name(s->resting), "started_ns", (json_int_t)s->started_ns, "accelerator",
			 vm->accelerator, "accelerator_reason", vm->accelerator_reason, "time_scale",
			 (json_int_t)vm->time_scale, "agent_transport", (int)vm->agent_transport, "process", "pid",
			 (json_int_t)s->process.pid, "start_time", (json_int_t)s->process.start_time, "boot_id",
			 s->process.boot_id, "config", kata__vm_config_to_json(vm->config), "luns",
			 (json_int_t)KATA__VM_LUNS_MAX, "storages", devices_to_json(s, false), "nics",
			 devices_to_json(s, true), "vmm", s->driver_part);
}

static int refresh_locked(kata_vm *vm, kata_error **err)
{
	struct kata__vm_shared *s = vm->shared;
	json_t *o;
	char *text;

	if (s->frozen)
		return kata__fail(
			err, KATA_E_STATE, CALLER,
			"vm '%s' was saved with its memory shared: it can only be destroyed, so there is no record "
			"to go on with",
			vm->id);
	if (s->text && s->text_generation == s->generation)
		return 0;
	if (!s->driver_part)
		return kata__fail(
			err, KATA_E_STATE, CALLER,
			"vm '%s' has no record: its driver could not describe it. The next operation on it tries again",
			vm->id);
	o = build_locked(vm);
	text = o ? kata__json_dump(o) : NULL;
	json_decref(o);
	if (!text)
		return kata__fail_no_memory(err);
	free(s->text);
	s->text = text;
	s->text_generation = s->generation;
	return 0;
}

static int copy_text(kata_vm *vm, kata__copy_fn *copy, void *user, char **ret, kata_error **err)
{
	char *text = NULL;
	int rc;

	kata__vm_lock(vm);
	rc = refresh_locked(vm, err);
	if (rc == 0)
		text = copy(user, vm->shared->text);
	kata__vm_unlock(vm);
	if (rc < 0)
		return rc;
	if (!text)
		return kata__fail_no_memory(err);
	*ret = text;
	return 0;
}

static char *duplicate(void *user, const char *text)
{
	return kata__strdup(text);
}

int kata__vm_record_text(kata_vm *vm, char **ret, kata_error **err)
{
	return copy_text(vm, duplicate, NULL, ret, err);
}

int kata__vm_record(kata_vm *vm, json_t **ret, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	int rc = kata__vm_record_text(vm, &text, err);

	return rc < 0 ? rc : kata__json_parse("record", text, strlen(text), KATA__JSON_RECORD_MAX, ret, err);
}

int kata__vm_record_refresh(kata_vm *vm, kata_error **err)
{
	json_t *part = json_object(), *old;
	int rc = part ? vm->driver->dump(vm, part, err) : kata__fail_no_memory(err);

	if (rc < 0) {
		json_decref(part);
		part = NULL; /* a record that lacks something is worse than none */
	}
	kata__vm_lock(vm);
	old = vm->shared->driver_part;
	vm->shared->driver_part = part;
	vm->shared->generation++;
	kata__vm_unlock(vm);
	json_decref(old);
	return rc;
}

/* The driver's part is there and stays as it is; the rest is written anew when it is next asked for. */
static bool note_change(kata_vm *vm)
{
	bool enough;

	kata__vm_lock(vm);
	enough = vm->driver->dump_is_constant && vm->shared->driver_part;
	if (enough)
		vm->shared->generation++;
	kata__vm_unlock(vm);
	return enough;
}

void kata__vm_changed(kata_vm *vm)
{
	kata_error *cause = NULL;

	if (note_change(vm) || kata__vm_record_refresh(vm, &cause) == 0)
		return;
	kata__log(vm->ctx, KATA_LOG_ERROR, "vm", "vm %s: its record cannot be written: %s", vm->id,
		  kata_error_get_message(cause));
	kata_error_free(cause);
}

int kata__vm_dump_with(kata_vm *vm, kata__copy_fn *copy, void *user, char **ret, kata_error **err)
{
	int rc = kata__vm_check_state(vm, KATA__VM_LIVE | KATA__VM_IN(SAVING) | KATA__VM_IN(RELEASED), "dump", err);

	return rc < 0 ? rc : copy_text(vm, copy, user, ret, err);
}

int kata_vm_dump(kata_vm *vm, char **ret_json, kata_error **err)
{
	int rc = kata__vm_check(vm, err);

	if (rc == 0 && !ret_json)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "ret_json: is NULL");
	return rc < 0 ? rc : kata__vm_dump_with(vm, duplicate, NULL, ret_json, err);
}

/* ---- reading ---- */

static int check_head(const json_t *o, const char *driver, kata_error **err)
{
	const char *format = NULL, *name = NULL;
	uint64_t version = 0;
	int rc = kata__json_get_string(o, "record", "format", &format, err);

	if (rc == 0 && strcmp(format, RECORD_FORMAT) != 0)
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "record.format: is '%.32s', must be '%s'", format,
				RECORD_FORMAT);
	if (rc == 0)
		rc = kata__json_get_uint(o, "record", "version", UINT32_MAX, &version, err);
	if (rc == 0 && version != KATA__VM_RECORD_VERSION)
		rc = kata__fail(err, KATA_E_VERSION, CALLER, "record.version: is %llu, this library reads %d",
				(unsigned long long)version, KATA__VM_RECORD_VERSION);
	if (rc == 0)
		rc = kata__json_get_string(o, "record", "driver", &name, err);
	if (rc == 0 && strcmp(name, driver) != 0)
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "record.driver: is '%.16s', this builder's is '%s'", name,
				driver);
	return rc;
}

int kata__vm_record_open(const char *json, size_t len, const char *driver, json_t **ret, kata_error **err)
{
	json_t *o = NULL;
	int rc;

	if (!json)
		return kata__fail(err, KATA_E_INVALID, CALLER, "json: is NULL");
	rc = kata__json_parse("record", json, len, KATA__JSON_RECORD_MAX, &o, err);
	if (rc == 0)
		rc = check_head(o, driver, err);
	if (rc < 0) {
		json_decref(o);
		return rc;
	}
	*ret = o;
	return 0;
}

static int read_text(const json_t *o, const char *what, const char *key, char *out, size_t size, kata_error **err)
{
	const char *text = NULL;
	int rc = kata__json_get_string(o, what, key, &text, err);

	if (rc < 0)
		return rc;
	if (strlen(text) >= size)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: is longer than %zu bytes", what, key, size - 1);
	snprintf(out, size, "%s", text);
	return 0;
}

static int read_process(const json_t *o, struct kata__process_identity *ret, kata_error **err)
{
	json_t *p = NULL;
	uint64_t pid = 0;
	int rc = kata__json_get_object(o, "record", "process", &p, err);

	if (rc == 0)
		rc = kata__json_get_uint(p, "record.process", "pid", PID_MAX_VALUE, &pid, err);
	if (rc == 0)
		rc = kata__json_get_uint(p, "record.process", "start_time", INT64_MAX, &ret->start_time, err);
	if (rc == 0)
		rc = read_text(p, "record.process", "boot_id", ret->boot_id, sizeof(ret->boot_id), err);
	ret->pid = (pid_t)pid;
	if (rc == 0 && !kata__uuid_is_valid(ret->boot_id))
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "record.process.boot_id: '%s' is no UUID", ret->boot_id);
	return rc;
}

static int read_state(const json_t *o, kata_vm_state *ret, kata_error **err)
{
	char name[16] = "";
	int rc = read_text(o, "record", "state", name, sizeof(name), err);

	if (rc < 0)
		return rc;
	if (strcmp(name, "running") != 0 && strcmp(name, "paused") != 0)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "record.state: is '%s', must be 'running' or 'paused'",
				  name);
	*ret = name[0] == 'r' ? KATA_VM_RUNNING : KATA_VM_PAUSED;
	return 0;
}

static int read_machine(kata_vm *vm, const json_t *o, kata_error **err)
{
	struct kata__vm_shared *s = vm->shared;
	uint64_t scale = 0, transport = 0, luns = 0;
	int rc = read_state(o, &s->resting, err);

	if (rc == 0)
		rc = read_text(o, "record", "accelerator", vm->accelerator, sizeof(vm->accelerator), err);
	if (rc == 0)
		rc = read_text(o, "record", "accelerator_reason", vm->accelerator_reason,
			       sizeof(vm->accelerator_reason), err);
	if (rc == 0)
		rc = kata__json_get_uint(o, "record", "epoch", INT64_MAX - 1, &s->epoch, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, "record", "started_ns", INT64_MAX, &s->started_ns, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, "record", "time_scale", TIME_SCALE_MAX, &scale, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, "record", "agent_transport", KATA_AGENT_VSOCK, &transport, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, "record", "luns", KATA__VM_LUNS_MAX, &luns, err);
	if (rc == 0)
		rc = read_process(o, &s->process, err);
	if (rc == 0 && (scale == 0 || luns != KATA__VM_LUNS_MAX || s->epoch == 0))
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER,
				"record: time_scale and epoch must not be 0, luns must be %u", KATA__VM_LUNS_MAX);
	vm->time_scale = (uint32_t)scale;
	vm->agent_transport = (kata_agent_transport)transport;
	return rc;
}

/* A device whose plug ended uncertain has no address: the rebuild asks the VMM whether it is there. */
static int check_address(const char *what, kata_device_state state, const char *address, const char *expected,
			 kata_error **err)
{
	if (strcmp(address, expected) == 0 || (!address[0] && state == KATA_DEVICE_DIVERGED))
		return 0;
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.device.address: is '%s', but the slot says '%s'", what,
			  address, expected);
}

static bool get_file(const json_t *item, const char *key, struct kata__file_id *ret)
{
	const char *text = json_string_value(json_object_get(item, key));
	unsigned long long dev, ino;

	if (!text || sscanf(text, FILE_FORMAT, &dev, &ino) != 2)
		return false;
	*ret = (struct kata__file_id){(dev_t)dev, (ino_t)ino};
	return true;
}

/* May be missing. Where the record is not known to be true the driver looks at the files that are open. */
static void restore_files(kata_vm *vm, const json_t *item, const kata_storage *s)
{
	struct kata__disk_files files = {.read_only = kata_storage_is_read_only(s)};

	files.has_file = get_file(item, "file", &files.file);
	files.has_backing = get_file(item, "backing_file", &files.backing);
	kata__vm_device_note_files(vm, s, &files);
}

static int restore_storage(kata_vm *vm, const json_t *item, const json_t *device, const char *what, uint32_t slot,
			   kata_error **err)
{
	char expected[16], address[16];
	kata_storage *s = NULL;
	int rc = kata__storage_from_json(device, what, &s, err);

	if (rc < 0)
		return rc;
	if (kata_storage_get_driver(s) == KATA_STORAGE_VIRTIO_SCSI)
		kata__vm_lun_address((int)slot, expected);
	else
		kata__vm_port_address((int)slot, expected);
	if (kata_storage_get_address(s, address, sizeof(address)) == 0)
		address[0] = '\0';
	rc = check_address(what, kata_storage_get_state(s), address, expected, err);
	if (rc == 0)
		rc = kata__vm_device_restore(vm, s, NULL, slot, err);
	if (rc == 0)
		restore_files(vm, item, s);
	kata_storage_unref(s);
	return rc;
}

static int restore_nic(kata_vm *vm, const json_t *device, const char *what, uint32_t slot, kata_error **err)
{
	char expected[16], address[16];
	kata_nic *n = NULL;
	int rc = kata__nic_from_json(device, what, &n, err);

	if (rc < 0)
		return rc;
	kata__vm_port_address((int)slot, expected);
	if (kata_nic_get_address(n, address, sizeof(address)) == 0)
		address[0] = '\0';
	rc = check_address(what, kata_nic_get_state(n), address, expected, err);
	if (rc == 0)
		rc = kata__vm_device_restore(vm, NULL, n, slot, err);
	kata_nic_unref(n);
	return rc;
}

static int restore_device(kata_vm *vm, const json_t *item, const char *what, bool nics, kata_error **err)
{
	json_t *device = NULL;
	uint64_t slot = 0;
	int rc;

	if (!json_is_object(item))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: is no object", what);
	rc = kata__json_get_uint(item, what, "slot", DEVICES_MAX, &slot, err);
	if (rc == 0)
		rc = kata__json_get_object(item, what, "device", &device, err);
	if (rc < 0)
		return rc;
	return nics ? restore_nic(vm, device, what, (uint32_t)slot, err)
		    : restore_storage(vm, item, device, what, (uint32_t)slot, err);
}

static int restore_devices(kata_vm *vm, const json_t *o, const char *key, bool nics, kata_error **err)
{
	json_t *list = NULL;
	char what[48];
	int rc = kata__json_get_array(o, "record", key, DEVICES_MAX, &list, err);

	for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
		snprintf(what, sizeof(what), "record.%s[%zu]", key, i);
		rc = restore_device(vm, json_array_get(list, i), what, nics, err);
	}
	return rc;
}

/* A record that names one thing twice is wrong, not the caller's call. */
static int as_corrupt(int rc, kata_error *take_cause, kata_error **err)
{
	if (rc == KATA_E_EXISTS) {
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "record: %s", kata_error_get_message(take_cause));
		kata_error_free(take_cause);
	} else if (rc < 0) {
		kata__error_move(err, &take_cause);
	}
	return rc;
}

int kata__vm_record_restore(kata_vm *vm, json_t *record, kata_error **err)
{
	kata_error *cause = NULL;
	json_t *part = NULL;
	int rc = read_machine(vm, record, err);

	if (rc < 0)
		return rc;
	rc = restore_devices(vm, record, "storages", false, &cause);
	if (rc == 0)
		rc = restore_devices(vm, record, "nics", true, &cause);
	if (rc < 0)
		return as_corrupt(rc, cause, err);
	rc = kata__json_get_object(record, "record", "vmm", &part, err);
	return rc < 0 ? rc : vm->driver->restore(vm, part, err);
}

/* The object of a record, in REBUILDING and without its devices. */
static int alloc_from_record(kata_context *ctx, const struct kata__vm_driver *driver, json_t *record, kata_vm **ret,
			     kata_error **err)
{
	struct kata__vm_config_copy *config = NULL;
	const char *id = NULL, *uuid = NULL;
	json_t *o = NULL;
	int rc = kata__json_get_string(record, "record", "id", &id, err);

	if (rc == 0)
		rc = kata__json_get_string(record, "record", "uuid", &uuid, err);
	if (rc == 0 && !kata__uuid_is_valid(uuid))
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "record.uuid: is no UUID");
	if (rc == 0)
		rc = kata__json_get_object(record, "record", "config", &o, err);
	if (rc == 0)
		rc = kata__vm_config_from_json(o, "record.config", &config, err);
	if (rc < 0)
		return rc;
	if (strcmp(config->v.id, id) != 0) {
		kata__vm_config_copy_free(config);
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "record.id: is not that of record.config.id");
	}
	return kata__vm_alloc(ctx, driver, config, uuid, KATA_VM_REBUILDING, ret, err);
}

struct rebuild {
	int (*prepare)(kata_vm *vm, void *user, kata_error **err);
	void *user;
};

static int fill(kata_vm *vm, json_t *record, const struct rebuild *r, kata_error **err)
{
	int rc = vm->driver->init(vm, err);

	if (rc == 0 && r->prepare)
		rc = r->prepare(vm, r->user, err);
	return rc < 0 ? rc : kata__vm_record_restore(vm, record, err);
}

static int begin(kata_vm *vm, json_t *record, const char *json, size_t len, const kata_op_options *options,
		 kata_op **ret_op, kata_error **err)
{
	struct kata__vm_call call = {.table = vm->driver->rebuild, .permitted = KATA__VM_IN(REBUILDING), .next = -1};
	struct kata__vm_op *d = kata__vm_op_new(vm);

	if (!d)
		return kata__fail_no_memory(err);
	d->state_before = vm->shared->resting;
	d->record = json_incref(record);
	d->json_owned = kata__format("%.*s", (int)len, json);
	d->json = d->json_owned;
	if (!d->json_owned) {
		kata__vm_free_op_data(d);
		return kata__fail_no_memory(err);
	}
	return kata__vm_call_begin(vm, &call, d, options, ret_op, err);
}

int kata__vm_rebuild_begin(kata_context *ctx, const struct kata__vm_driver *driver, const char *json, size_t len,
			   const kata_op_options *options, int (*prepare)(kata_vm *vm, void *user, kata_error **err),
			   void *user, kata_vm **ret_vm, kata_op **ret_op, kata_error **err)
{
	struct rebuild r = {prepare, user};
	KATA_AUTO_JSON json_t *record = NULL;
	kata_vm *vm = NULL;
	int rc = kata__vm_record_open(json, len, driver->name, &record, err);

	if (rc == 0)
		rc = alloc_from_record(ctx, driver, record, &vm, err);
	if (rc < 0)
		return rc;
	rc = fill(vm, record, &r, err);
	if (rc == 0)
		rc = begin(vm, record, json, len, options, ret_op, err);
	if (rc < 0) {
		kata__vm_set_state(vm, KATA_VM_RELEASED); /* so that the unref lets the machine be */
		kata_vm_unref(vm);
		return rc;
	}
	*ret_vm = vm;
	return 0;
}
