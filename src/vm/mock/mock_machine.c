/* SPDX-License-Identifier: Apache-2.0 */
/* mock_machine.c - what a VMM process would hold: devices, whether it runs; and the registry of machines nobody drives.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"
#include "vm/mock/mock.h"

#define REGISTRY_KEY "vm/mock"

struct registry {
	struct kata__mock_machine *machines;
};

struct kata__mock_machine *kata__mock_machine_new(kata_vm *vm)
{
	struct kata__mock_machine *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->ctx = vm->ctx;
	m->vm = vm;
	snprintf(m->uuid, sizeof(m->uuid), "%s", vm->uuid);
	return m;
}

static void free_device(struct kata__mock_device *d)
{
	kata_storage_unref(d->storage);
	free(d);
}

static void drop_devices(struct kata__mock_machine *m)
{
	while (m->devices) {
		struct kata__mock_device *next = m->devices->next;

		free_device(m->devices);
		m->devices = next;
	}
}

void kata__mock_machine_free(struct kata__mock_machine *m)
{
	if (!m)
		return;
	kata__mock_channel_free(m->channel);
	drop_devices(m);
	kata__mock_controls_unref(m->controls);
	free(m);
}

/* The lowest free letter or number of its kind, as a guest's kernel would name it. */
static void name_device(const struct kata__mock_machine *m, struct kata__mock_device *d)
{
	for (unsigned i = 0;; i++) {
		const struct kata__mock_device *other = m->devices;

		if (strcmp(d->kind, "net") == 0)
			snprintf(d->name, sizeof(d->name), "eth%u", i);
		else if (i < 26)
			snprintf(d->name, sizeof(d->name), "%cd%c", d->kind[0] == 'b' ? 'v' : 's', 'a' + i);
		else
			snprintf(d->name, sizeof(d->name), "%cd%c%c", d->kind[0] == 'b' ? 'v' : 's', 'a' + i / 26 - 1,
				 'a' + i % 26);
		while (other && strcmp(other->name, d->name) != 0)
			other = other->next;
		if (!other)
			return;
	}
}

static bool share_a_place(const struct kata__mock_device *a, const struct kata__mock_device *b)
{
	return (strcmp(a->kind, "scsi") == 0) == (strcmp(b->kind, "scsi") == 0) && strcmp(a->address, b->address) == 0;
}

/* Nothing is opened: a file is its path. */
static int check_files(const kata_storage *mine, const kata_storage *other, kata_error **err)
{
	const char *path = kata_storage_get_path(mine), *other_path = kata_storage_get_path(other);
	const char *backing = kata__storage_backing_path(mine), *other_backing = kata__storage_backing_path(other);
	bool writes = !kata_storage_is_read_only(mine), other_writes = !kata_storage_is_read_only(other);

	if ((writes || other_writes) && strcmp(path, other_path) == 0)
		return kata__fail(err, KATA_E_EXISTS, CALLER, "storage '%s': %s is plugged as '%s'",
				  kata_storage_get_id(mine), path, kata_storage_get_id(other));
	if (writes && other_backing && strcmp(path, other_backing) == 0)
		return kata__fail(err, KATA_E_EXISTS, CALLER, "storage '%s': %s is the backing file of '%s'",
				  kata_storage_get_id(mine), path, kata_storage_get_id(other));
	if (other_writes && backing && strcmp(backing, other_path) == 0)
		return kata__fail(err, KATA_E_EXISTS, CALLER, "storage '%s': its backing file %s is plugged as '%s'",
				  kata_storage_get_id(mine), backing, kata_storage_get_id(other));
	return 0;
}

int kata__mock_machine_attach(struct kata__mock_machine *m, const struct kata__mock_device *device, kata_error **err)
{
	struct kata__mock_device *d;
	int rc;

	if (m->ended)
		return kata__fail(err, KATA_E_GONE, VMM, "the machine has ended");
	for (const struct kata__mock_device *other = m->devices; other; other = other->next) {
		rc = device->storage && other->storage ? check_files(device->storage, other->storage, err) : 0;
		if (rc < 0)
			return rc;
		if (strcmp(other->id, device->id) == 0)
			return kata__fail(err, KATA_E_VMM, VMM, "Duplicate device ID '%s'", device->id);
		if (share_a_place(other, device))
			return kata__fail(err, KATA_E_VMM, VMM, "slot %s is in use by '%s'", device->address,
					  other->id);
	}
	d = malloc(sizeof(*d));
	if (!d)
		return kata__fail_no_memory(err);
	*d = *device;
	kata_storage_ref(d->storage);
	name_device(m, d);
	d->next = m->devices;
	m->devices = d;
	kata__mock_channel_devices_changed(m->channel);
	return 0;
}

void kata__mock_machine_detach(struct kata__mock_machine *m, const char *id)
{
	for (struct kata__mock_device **at = &m->devices; *at; at = &(*at)->next) {
		struct kata__mock_device *d = *at;

		if (strcmp(d->id, id) != 0)
			continue;
		*at = d->next;
		free_device(d);
		return;
	}
}

const struct kata__mock_device *kata__mock_machine_find(const struct kata__mock_machine *m, const char *id)
{
	const struct kata__mock_device *d = m->devices;

	while (d && strcmp(d->id, id) != 0)
		d = d->next;
	return d;
}

bool kata__mock_machine_find_device(const struct kata__mock_machine *m, const char *kind, const char *address,
				    char ret_name[32], uint64_t *ret_size_bytes)
{
	bool net = strcmp(kind, "net") == 0;

	for (const struct kata__mock_device *d = m->devices; d; d = d->next) {
		if (strcmp(d->kind, kind) != 0 || strcasecmp(net ? d->mac : d->address, address) != 0)
			continue;
		snprintf(ret_name, 32, "%s", d->name);
		*ret_size_bytes = net ? 0 : KATA__MOCK_DISK_BYTES;
		return true;
	}
	return false;
}

void kata__mock_machine_set_paused(struct kata__mock_machine *m, bool paused)
{
	m->paused = paused;
	if (m->channel)
		kata__mock_channel_set_paused(m->channel, paused);
}

void kata__mock_machine_end(struct kata__mock_machine *m)
{
	m->running = false;
	m->ended = true;
	kata__mock_channel_free(m->channel);
	m->channel = NULL;
	drop_devices(m);
}

static void free_registry(void *value)
{
	struct registry *r = value;

	while (r->machines) {
		struct kata__mock_machine *next = r->machines->next;

		kata__mock_machine_free(r->machines);
		r->machines = next;
	}
	free(r);
}

int kata__mock_registry_put(struct kata__mock_machine *take_m, kata_error **err)
{
	struct registry *r = kata__context_get_extra(take_m->ctx, REGISTRY_KEY);
	int rc;

	if (!r) {
		r = calloc(1, sizeof(*r));
		if (!r)
			return kata__fail_no_memory(err);
		rc = kata__context_set_extra(take_m->ctx, REGISTRY_KEY, r, free_registry, err);
		if (rc < 0) {
			free(r);
			return rc;
		}
	}
	take_m->vm = NULL;
	take_m->next = r->machines;
	r->machines = take_m;
	return 0;
}

struct kata__mock_machine *kata__mock_registry_take(kata_context *ctx, const char *uuid)
{
	struct registry *r = kata__context_get_extra(ctx, REGISTRY_KEY);

	for (struct kata__mock_machine **at = r ? &r->machines : NULL; at && *at; at = &(*at)->next) {
		struct kata__mock_machine *m = *at;

		if (strcmp(m->uuid, uuid) != 0)
			continue;
		*at = m->next;
		m->next = NULL;
		return m;
	}
	return NULL;
}
