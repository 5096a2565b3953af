/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a snapshot to a VM in CREATED: the config, and each device as the caller wants it. Touches nothing.
 */
#include "vm/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/options.h"
#include "base/text.h"
#include "vm/core.h"
#include "vm/warm.h"

/* ---- memory ---- */

void kata__vm_restore_close(struct kata__restore *r)
{
	kata__close_fd(&r->state_fd);
	kata__close_fd(&r->memory_fd);
	for (size_t i = 0; i < r->disk_count; i++)
		kata__image_close(&r->disks[i].image);
	for (size_t i = 0; i < r->nic_count; i++)
		kata__close_fd(&r->nics[i].tap_fd);
}

void kata__vm_restore_free(struct kata__restore *r)
{
	if (!r)
		return;
	kata__vm_restore_close(r);
	for (size_t i = 0; i < r->disk_count; i++)
		kata_storage_unref(r->disks[i].storage);
	for (size_t i = 0; i < r->nic_count; i++)
		kata_nic_unref(r->nics[i].nic);
	free(r->disks);
	free(r->nics);
	kata_snapshot_free(r->snapshot);
	free(r);
}

static struct kata__restore *restore_new(const kata_snapshot *snapshot, uint64_t flags)
{
	const struct kata__manifest *m = kata__snapshot_manifest(snapshot);
	struct kata__restore *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->snapshot = kata__snapshot_ref(snapshot);
	r->flags = flags;
	r->state_fd = -1;
	r->memory_fd = -1;
	r->disks = calloc(m->disk_count + 1, sizeof(*r->disks));
	r->nics = calloc(m->nic_count + 1, sizeof(*r->nics));
	if (r->disks && r->nics)
		return r;
	kata__vm_restore_free(r);
	return NULL;
}

bool kata__vm_restore_has(const kata_vm *vm, const void *device)
{
	const struct kata__restore *r = vm->restore;

	for (size_t i = 0; r && i < r->disk_count; i++)
		if (r->disks[i].storage == device)
			return true;
	for (size_t i = 0; r && i < r->nic_count; i++)
		if (r->nics[i].nic == device)
			return true;
	return false;
}

/* ---- the config ---- */

static void check_number(struct kata__problems *p, const char *member, uint64_t asked, uint64_t saved)
{
	if (asked && asked != saved)
		kata__problems_add(p,
				   "config.%s: is %llu, the machine was saved with %llu and cannot be loaded into "
				   "another shape",
				   member, (unsigned long long)asked, (unsigned long long)saved);
}

/* Both NULL-terminated; NULL is none. */
static bool same_list(const char *const *a, const char *const *b)
{
	for (; *a && *b; a++, b++)
		if (strcmp(*a, *b) != 0)
			return false;
	return !*a && !*b;
}

static void check_shape(struct kata__problems *p, const kata_vm_config *c, const kata_vm_config *saved)
{
	check_number(p, "cpus", c->cpus, saved->cpus);
	check_number(p, "cpus_max", c->cpus_max, saved->cpus_max);
	check_number(p, "memory_mib", c->memory_mib, saved->memory_mib);
	check_number(p, "memory_max_mib", c->memory_max_mib, saved->memory_max_mib);
	check_number(p, "memory_slots", c->memory_slots, saved->memory_slots);
	check_number(p, "device_slots", c->device_slots, saved->device_slots);
	if (c->machine && (!saved->machine || strcmp(c->machine, saved->machine) != 0))
		kata__problems_add(p, "config.machine: is '%.64s', the machine was saved as '%s'", c->machine,
				   saved->machine ? saved->machine : "the driver's default");
	if (c->kernel_params && c->kernel_params[0] && !same_list(c->kernel_params, saved->kernel_params))
		kata__problems_add(p, "config.kernel_params: are not those the machine was booted with; they cannot be "
				      "changed any more");
}

/* The file has the content that the saved machine was booted from. */
static int check_file(const char *member, const char *path, const struct kata__manifest_file *saved, bool asked,
		      kata_error **err)
{
	int status = asked ? KATA_E_INVALID : KATA_E_CORRUPT, rc;
	struct kata__file_identity now;
	char digest[KATA__DIGEST_MAX];
	KATA_AUTO_FD int fd = -1;
	struct stat st;

	if (!saved->path)
		return asked ? kata__fail(err, KATA_E_INVALID, CALLER, "config.%s: the saved machine has none", member)
			     : 0;
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return kata__fail_errno(err, errno, "config.%s: cannot open %s", member, path);
	kata__file_identity_of(&st, &now);
	if (kata__file_identity_equal(&now, &saved->file))
		return 0;
	if (now.size_bytes != saved->file.size_bytes)
		return kata__fail(err, status, CALLER,
				  "config.%s: %s has %llu bytes, the machine was booted from a file of %llu", member,
				  path, (unsigned long long)now.size_bytes, (unsigned long long)saved->file.size_bytes);
	rc = kata__digest_fd(fd, now.size_bytes, path, NULL, NULL, digest, err);
	if (rc == 0 && strcmp(digest, saved->sha256) != 0)
		rc = kata__fail(err, status, CALLER,
				"config.%s: %s is not the file that the machine was booted from (sha256 %s, was %s)",
				member, path, digest, saved->sha256);
	return rc;
}

static int check_files(const struct kata__manifest *m, const kata_vm_config *c, const kata_vm_config *result,
		       kata_error **err)
{
	int rc = check_file("kernel", result->kernel, &m->kernel, c->kernel != NULL, err);

	if (rc == 0)
		rc = check_file("initrd", result->initrd, &m->initrd, c->initrd != NULL, err);
	if (rc == 0)
		rc = check_file("image", result->image, &m->image, c->image != NULL, err);
	return rc;
}

static int take_memory_path(const struct kata__manifest *m, const kata_vm_config *c, kata_vm_config *result,
			    kata_error **err)
{
	result->memory_path = c->memory_path;
	result->memory_shared = c->memory_shared;
	if (!c->memory_path || m->memory == KATA_SNAPSHOT_FULL)
		return 0;
	return kata__fail(err, KATA_E_INVALID, CALLER,
			  "config.memory_path: must be NULL: the RAM of this machine was saved in a file, which its "
			  "restores map");
}

int kata__vm_restore_config(const kata_snapshot *snapshot, const kata_vm_config *config, kata_vm_config *ret,
			    kata_error **err)
{
	const struct kata__manifest *m = kata__snapshot_manifest(snapshot);
	kata_vm_config c = KATA_VM_CONFIG_INIT, result = m->config->v;
	struct kata__problems problems = {0};
	int rc = kata__options_read(&c, sizeof(c), config, "config", err);

	if (rc < 0)
		return rc;
	check_shape(&problems, &c, &m->config->v);
	rc = kata__problems_finish(&problems, "config", err);
	result.id = c.id;
	if (c.kernel)
		result.kernel = c.kernel;
	if (c.initrd)
		result.initrd = c.initrd;
	if (c.image)
		result.image = c.image;
	if (rc == 0)
		rc = take_memory_path(m, &c, &result, err);
	if (rc == 0)
		rc = kata__vm_config_check_values(&result, err);
	if (rc == 0)
		rc = check_files(m, &c, &result, err);
	if (rc == 0)
		*ret = result;
	return rc;
}

/* ---- disks ---- */

static const kata_restore_storage *find_storage(const kata_restore_options *o, const char *id)
{
	for (size_t i = 0; i < o->storage_count; i++)
		if (strcmp(o->storages[i].id, id) == 0)
			return &o->storages[i];
	return NULL;
}

/* AUTO resolved; AUTO in the result is "the saved file itself, read-only". */
static int choose_mode(const struct kata__manifest_disk *saved, kata_restore_disk asked, kata_restore_disk *ret,
		       kata_error **err)
{
	const char *id = kata_storage_get_id(saved->storage);
	bool backed = kata__storage_backing_path(saved->storage) != NULL;

	*ret = asked;
	if (kata_storage_is_read_only(saved->storage)) {
		if (asked == KATA_RESTORE_DISK_OVERLAY)
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "storage '%s': is read-only: there is nothing to put over it", id);
		if (asked == KATA_RESTORE_DISK_IN_PLACE)
			*ret = KATA_RESTORE_DISK_AUTO;
	} else if (asked == KATA_RESTORE_DISK_AUTO) {
		*ret = backed ? KATA_RESTORE_DISK_COPY : KATA_RESTORE_DISK_OVERLAY;
	}
	if (*ret == KATA_RESTORE_DISK_OVERLAY && backed)
		return kata__fail(err, KATA_E_UNSUPPORTED, CALLER,
				  "storage '%s': has a backing file itself, an overlay over it would make a chain: use "
				  "KATA_RESTORE_DISK_COPY",
				  id);
	if (*ret == KATA_RESTORE_DISK_IN_PLACE && saved->copied)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "storage '%s': was copied into the snapshot, which is not written to: use "
				  "KATA_RESTORE_DISK_OVERLAY or _COPY",
				  id);
	return 0;
}

/* Where the saved content lies: a part, or the file itself. malloc'ed. */
static char *source_path(const kata_snapshot *snapshot, const struct kata__manifest_disk *saved, size_t index)
{
	char name[32];

	if (!saved->copied)
		return kata__strdup(kata_storage_get_path(saved->storage));
	kata__manifest_disk_part(index, name);
	return kata__snapshot_part_path(snapshot, name);
}

static char *made_path(const kata_vm *vm, const kata_restore_storage *choice, size_t index)
{
	return choice && choice->path ? kata__strdup(choice->path)
				      : kata__format("%s/restored-%zu", vm->dir ? vm->dir : "", index);
}

static int make_storage(const kata_vm *vm, struct kata__restore_disk *d, const kata_restore_storage *choice,
			kata_error **err)
{
	const kata_storage *saved = d->saved->storage;
	KATA_AUTO(free) char *source = source_path(vm->restore->snapshot, d->saved, d->index);
	KATA_AUTO(free) char *made = made_path(vm, choice, d->index);
	struct kata__storage_place place = {source, kata_storage_get_format(saved), kata__storage_backing_path(saved),
					    kata__storage_backing_format(saved)};

	if (!source || !made)
		return kata__fail_no_memory(err);
	if (d->mode == KATA_RESTORE_DISK_OVERLAY)
		place = (struct kata__storage_place){made, KATA_STORAGE_QCOW2, source, kata_storage_get_format(saved)};
	else if (d->mode == KATA_RESTORE_DISK_COPY)
		place.path = made;
	return kata__storage_clone(saved, &place, &d->storage, err);
}

/* In the VM's table, as plugged. */
static int place_storage(kata_vm *vm, struct kata__restore_disk *d, kata_error **err)
{
	char address[16];
	int rc = kata__storage_begin_plug(d->storage, err);

	if (rc == 0)
		rc = kata__vm_device_restore(vm, d->storage, NULL, d->saved->slot, err);
	if (rc < 0)
		return rc;
	if (kata_storage_get_driver(d->storage) == KATA_STORAGE_VIRTIO_SCSI)
		kata__vm_lun_address((int)d->saved->slot, address);
	else
		kata__vm_port_address((int)d->saved->slot, address);
	kata__storage_set_plugged(d->storage, address, d->saved->size_bytes);
	return 0;
}

/* That it is there and unchanged, before anything is done; the start looks again. */
static int check_source(const struct kata__manifest_disk *saved, kata_error **err)
{
	const char *id = kata_storage_get_id(saved->storage), *path = kata_storage_get_path(saved->storage);
	const char *backing = kata__storage_backing_path(saved->storage);
	char what[128];
	struct stat st;
	int rc = 0;

	snprintf(what, sizeof(what), "storage '%s'", id);
	if (!saved->copied) {
		if (stat(path, &st) < 0)
			return kata__fail_errno(err, errno, "storage '%s': %s", id, path);
		rc = kata__snapshot_check_source(&saved->source, &st, what, err);
	}
	if (rc < 0 || !backing)
		return rc;
	snprintf(what, sizeof(what), "storage '%s': its backing file", id);
	if (stat(backing, &st) < 0)
		return kata__fail_errno(err, errno, "%s %s", what, backing);
	return kata__snapshot_check_source(&saved->backing, &st, what, err);
}

static int add_disk(kata_vm *vm, size_t index, const kata_restore_options *o, kata_error **err)
{
	struct kata__restore *r = vm->restore;
	struct kata__restore_disk *d = &r->disks[index];
	const kata_restore_storage *choice;
	int rc;

	*d = (struct kata__restore_disk){.saved = &kata__snapshot_manifest(r->snapshot)->disks[index],
					 .index = index,
					 .image = {.fd = -1, .backing_fd = -1}};
	r->disk_count = index + 1;
	choice = find_storage(o, kata_storage_get_id(d->saved->storage));
	d->external = choice && choice->path;
	rc = choose_mode(d->saved, choice && choice->disk ? choice->disk : o->disk, &d->mode, err);
	if (rc == 0)
		rc = check_source(d->saved, err);
	if (rc == 0)
		rc = make_storage(vm, d, choice, err);
	return rc < 0 ? rc : place_storage(vm, d, err);
}

/* ---- NICs ---- */

static const kata_restore_nic *find_nic(const kata_restore_options *o, const char *id)
{
	for (size_t i = 0; i < o->nic_count; i++)
		if (strcmp(o->nics[i].id, id) == 0)
			return &o->nics[i];
	return NULL;
}

static int make_nic(const kata_nic *saved, const kata_restore_nic *choice, uint64_t flags, kata_nic **ret,
		    kata_error **err)
{
	kata_nic_config c = KATA_NIC_CONFIG_INIT;

	c.id = kata_nic_get_id(saved);
	c.type = kata_nic_get_type(saved);
	c.mtu = kata_nic_get_mtu(saved);
	c.mac = !choice && flags & KATA_RESTORE_NEW_MACS ? NULL : kata_nic_get_mac(saved);
	if (choice) {
		c.tap_name = choice->tap_name;
		if (choice->mac)
			c.mac = strcmp(choice->mac, "random") == 0 ? NULL : choice->mac;
	}
	return kata_nic_new(&c, ret, err);
}

static int add_nic(kata_vm *vm, size_t index, const kata_restore_options *o, kata_error **err)
{
	struct kata__restore *r = vm->restore;
	const struct kata__manifest_nic *saved = &kata__snapshot_manifest(r->snapshot)->nics[index];
	struct kata__restore_nic *n = &r->nics[index];
	char address[16];
	int rc;

	*n = (struct kata__restore_nic){.slot = saved->slot, .tap_fd = -1};
	r->nic_count = index + 1;
	rc = make_nic(saved->nic, find_nic(o, kata_nic_get_id(saved->nic)), r->flags, &n->nic, err);
	if (rc == 0)
		rc = kata__nic_begin_plug(n->nic, err);
	if (rc == 0)
		rc = kata__vm_device_restore(vm, NULL, n->nic, saved->slot, err);
	if (rc < 0)
		return rc;
	kata__vm_port_address((int)saved->slot, address);
	kata__nic_set_plugged(n->nic, address);
	return 0;
}

/* ---- the options ---- */

static int check_storages(const kata_restore_options *o, const struct kata__manifest *m, kata_error **err)
{
	for (size_t i = 0; i < o->storage_count; i++) {
		const kata_restore_storage *s = &o->storages[i];
		bool known = false;

		for (size_t j = 0; s->id && j < m->disk_count; j++)
			known |= strcmp(kata_storage_get_id(m->disks[j].storage), s->id) == 0;
		if (!known)
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "options.storages[%zu].id: the snapshot has no storage '%.64s'", i,
					  s->id ? s->id : "NULL");
		if ((unsigned)s->disk > KATA_RESTORE_DISK_IN_PLACE)
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "options.storages[%zu].disk: %d is none of AUTO, OVERLAY, COPY, IN_PLACE", i,
					  (int)s->disk);
		if (s->path && s->path[0] != '/')
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "options.storages[%zu].path: '%.128s' is relative, must be absolute", i,
					  s->path);
	}
	return 0;
}

static int check_nics(const kata_restore_options *o, const struct kata__manifest *m, kata_error **err)
{
	for (size_t i = 0; i < o->nic_count; i++) {
		bool known = false;

		for (size_t j = 0; o->nics[i].id && j < m->nic_count; j++)
			known |= strcmp(kata_nic_get_id(m->nics[j].nic), o->nics[i].id) == 0;
		if (!known)
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "options.nics[%zu].id: the snapshot has no NIC '%.64s'", i,
					  o->nics[i].id ? o->nics[i].id : "NULL");
	}
	return 0;
}

static int check_options(const kata_restore_options *o, const struct kata__manifest *m, kata_error **err)
{
	int rc;

	if (o->flags & ~(KATA_RESTORE_PAUSED | KATA_RESTORE_NEW_MACS))
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.flags: 0x%llx has unknown bits",
				  (unsigned long long)o->flags);
	if ((unsigned)o->disk > KATA_RESTORE_DISK_IN_PLACE)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "options.disk: %d is none of AUTO, OVERLAY, COPY, IN_PLACE", (int)o->disk);
	if ((o->storage_count && !o->storages) || (o->nic_count && !o->nics))
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.%s: is NULL",
				  o->storage_count && !o->storages ? "storages" : "nics");
	rc = check_storages(o, m, err);
	return rc < 0 ? rc : check_nics(o, m, err);
}

/* ---- the whole ---- */

static int add_devices(kata_vm *vm, const kata_restore_options *o, kata_error **err)
{
	const struct kata__manifest *m = kata__snapshot_manifest(vm->restore->snapshot);
	int rc = 0;

	for (size_t i = 0; i < m->disk_count && rc == 0; i++)
		rc = add_disk(vm, i, o, err);
	for (size_t i = 0; i < m->nic_count && rc == 0; i++)
		rc = add_nic(vm, i, o, err);
	return rc;
}

static int choose_transport(const struct kata__manifest *m, const kata_agent_config *agent, kata_agent_config *ret,
			    kata_error **err)
{
	int rc = kata__options_read(ret, sizeof(*ret), agent, "agent_config", err);

	if (rc < 0)
		return rc;
	if (ret->transport != KATA_AGENT_AUTO && ret->transport != m->agent_transport)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "agent_config.transport: the machine was saved with the agent on %s",
				  m->agent_transport == KATA_AGENT_VSOCK ? "vsock" : "virtio-serial");
	ret->transport = m->agent_transport;
	return 0;
}

int kata__vm_new_from_snapshot(kata_context *ctx, const struct kata__vm_driver *driver, const kata_snapshot *snapshot,
			       const kata_vm_config *config, const kata_agent_config *agent_config,
			       const kata_qos_config *qos_config, const kata_restore_options *options, kata_vm **ret_vm,
			       kata_error **err)
{
	const struct kata__manifest *m = kata__snapshot_manifest(snapshot);
	kata_agent_config agent = KATA_AGENT_CONFIG_INIT;
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	kata_vm *vm = NULL;
	int rc;

	if (strcmp(m->driver, driver->name) != 0)
		return kata__fail(err, KATA_E_UNSUPPORTED, CALLER,
				  "snapshot: is of a machine of the driver '%s', this builder's is '%s'", m->driver,
				  driver->name);
	if ((rc = check_options(options, m, err)) || (rc = choose_transport(m, agent_config, &agent, err)) ||
	    (rc = kata__vm_restore_config(snapshot, config, &c, err)) ||
	    (rc = kata__vm_new(ctx, driver, &c, &agent, qos_config, &vm, err)))
		return rc;
	vm->restore = restore_new(snapshot, options->flags);
	rc = vm->restore ? add_devices(vm, options, err) : kata__fail_no_memory(err);
	if (rc < 0) {
		kata_vm_unref(vm);
		return rc;
	}
	kata__vm_set_origin(vm, KATA_VM_RESTORED);
	*ret_vm = vm;
	return 0;
}
