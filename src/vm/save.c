/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_vm_snapshot: its arguments, its begin, and the steps that look before anything is touched. See save.h.
 */
#include "vm/save.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/options.h"
#include "base/text.h"
#include "net/nic.h"
#include "storage/storage.h"
#include "vm/core.h"
#include "vm/notes.h"
#include "vm/snapshot.h"

#define PATH_BYTES_MAX 3800u /* leaves room for names in it */
#define CHOICES_MAX (KATA__VM_DEVICE_SLOTS_MAX + KATA__VM_LUNS_MAX)
#define BYTES_PER_MS (UINT64_C(64) << 10) /* 64 MiB/s */
#define BASE_MS 30000u

/* ---- the request ---- */

void kata__save_close(struct kata__save *s)
{
	if (!s)
		return;
	kata__close_fd(&s->dir_fd);
	kata__close_fd(&s->state_fd);
}

void kata__save_free(struct kata__save *s)
{
	if (!s)
		return;
	kata__manifest_free(s->manifest);
	kata__strv_free(s->choice_ids);
	kata__save_close(s);
	free(s->choices);
	free(s->extra_name);
	free(s->extra);
	free(s->path);
	free(s->parent);
	free(s->dir);
	free(s);
}

static int check_path(const char *path, kata_error **err)
{
	const char *name = strrchr(path, '/');

	if (path[0] != '/')
		return kata__fail(err, KATA_E_INVALID, CALLER, "path: '%.128s' is relative, must be absolute", path);
	if (strnlen(path, PATH_BYTES_MAX + 1) > PATH_BYTES_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "path: is longer than %u bytes", PATH_BYTES_MAX);
	if (!name[1] || strcmp(name, "/.") == 0 || strcmp(name, "/..") == 0)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "path: '%s' ends in no name: it must be that of the directory to be made", path);
	return 0;
}

static int check_options(const kata_snapshot_options *o, kata_error **err)
{
	if ((unsigned)o->memory > KATA_SNAPSHOT_DIFFERENTIAL)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "options.memory: %d is none of KATA_SNAPSHOT_FULL, _SHARED, _DIFFERENTIAL",
				  (int)o->memory);
	if (o->memory == KATA_SNAPSHOT_DIFFERENTIAL)
		return kata__fail(err, KATA_E_UNSUPPORTED, CALLER,
				  "options.memory: no VMM here keeps track of which memory was written since a save: "
				  "use KATA_SNAPSHOT_FULL or _SHARED");
	if ((unsigned)o->disk > KATA_SNAPSHOT_DISK_COPY)
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.disk: %d is none of AUTO, REFER, COPY",
				  (int)o->disk);
	if (o->disk_count > CHOICES_MAX || (o->disk_count && !o->disks))
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.disks: %s",
				  o->disks ? "more of them than a machine can have disks" : "is NULL");
	for (size_t i = 0; i < o->disk_count; i++)
		if (!o->disks[i].storage_id || (unsigned)o->disks[i].disk > KATA_SNAPSHOT_DISK_COPY)
			return kata__fail(err, KATA_E_INVALID, CALLER, "options.disks[%zu]: %s", i,
					  o->disks[i].storage_id ? "disk is none of AUTO, REFER, COPY"
								 : "storage_id is NULL");
	return 0;
}

int kata__save_read_request(const char *path, const kata_snapshot_options *options, kata_snapshot_options *ret,
			    kata_error **err)
{
	int rc = path ? kata__options_read(ret, sizeof(*ret), options, "options", err)
		      : kata__fail(err, KATA_E_INVALID, CALLER, "path: is NULL");

	if (rc == 0)
		rc = check_path(path, err);
	return rc < 0 ? rc : check_options(ret, err);
}

/* What SHARED asks of the VM. */
static int check_memory(const kata_vm *vm, kata_snapshot_memory memory, kata_error **err)
{
	if (memory != KATA_SNAPSHOT_SHARED || (vm->config->v.memory_path && vm->config->v.memory_shared))
		return 0;
	return kata__fail(err, KATA_E_INVALID, CALLER,
			  "options.memory: KATA_SNAPSHOT_SHARED needs a VM whose RAM is in a file that is written to: "
			  "config.memory_path and memory_shared");
}

static bool copy_choices(struct kata__save *s, const kata_snapshot_options *o)
{
	s->choices = calloc(o->disk_count + 1, sizeof(*s->choices));
	s->choice_ids = calloc(o->disk_count + 1, sizeof(*s->choice_ids));
	if (!s->choices || !s->choice_ids)
		return false;
	for (size_t i = 0; i < o->disk_count; i++) {
		s->choices[i] = o->disks[i].disk;
		s->choice_ids[i] = kata__strdup(o->disks[i].storage_id);
		if (!s->choice_ids[i])
			return false;
	}
	return true;
}

static bool copy_names(struct kata__save *s, const char *path, const char *extra_name, const char *extra)
{
	const char *slash = strrchr(path, '/');

	s->path = kata__strdup(path);
	s->parent = slash == path ? kata__strdup("/") : kata__format("%.*s", (int)(slash - path), path);
	s->dir = s->parent ? kata__note_saving_name(s->parent) : NULL;
	if (extra_name) {
		s->extra_name = kata__strdup(extra_name);
		s->extra = kata__strdup(extra);
	}
	return s->path && s->parent && s->dir && (!extra_name || (s->extra_name && s->extra));
}

static struct kata__save *save_new(const char *path, const kata_snapshot_options *o, const char *extra_name,
				   const char *extra)
{
	struct kata__save *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->dir_fd = -1;
	s->state_fd = -1;
	s->memory = o->memory;
	s->disk = o->disk;
	s->manifest = kata__manifest_new();
	if (s->manifest && copy_choices(s, o) && copy_names(s, path, extra_name, extra))
		return s;
	kata__save_free(s);
	return NULL;
}

/* ---- the begin ---- */

/* RAM and disks at 64 MiB/s, and some more. */
static uint64_t default_timeout_ms(kata_vm *vm)
{
	uint64_t bytes = vm->config->v.memory_mib << 20;
	kata_storage *s = NULL;

	for (size_t i = 0; kata_vm_get_storage(vm, i, &s, NULL) == 0; i++, s = NULL) {
		bytes += kata_storage_get_size_bytes(s);
		kata_storage_unref(s);
	}
	return BASE_MS * vm->time_scale + bytes / BYTES_PER_MS;
}

static int begin(kata_vm *vm, struct kata__save *take_save, const kata_op_options *options, kata_op **ret_op,
		 kata_error **err)
{
	struct kata__vm_call call = {.table = vm->driver->snapshot,
				     .permitted = KATA__VM_LIVE,
				     .next = KATA_VM_SAVING,
				     .alone = true,
				     .no_agent = true};
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	struct kata__vm_op *d = kata__vm_op_new(vm);
	int rc = kata__options_read(&o, sizeof(o), options, "op_options", err);

	if (rc == 0 && !d)
		rc = kata__fail_no_memory(err);
	if (rc < 0) {
		kata__save_free(take_save);
		kata__vm_free_op_data(d);
		return rc;
	}
	d->save = take_save;
	if (!o.timeout_ms)
		o.timeout_ms = default_timeout_ms(vm);
	return kata__vm_call_begin(vm, &call, d, &o, ret_op, err);
}

int kata__vm_snapshot_begin(kata_vm *vm, const char *path, const kata_snapshot_options *options, const char *extra_name,
			    const char *extra, const kata_op_options *op_options, kata_op **ret_op, kata_error **err)
{
	kata_snapshot_options o = KATA_SNAPSHOT_OPTIONS_INIT;
	struct kata__save *s;
	int rc = kata__vm_check(vm, err);

	if (rc == 0 && !ret_op)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "ret_op: is NULL");
	if (rc == 0)
		rc = kata__save_read_request(path, options, &o, err);
	if (rc == 0 && !vm->driver->snapshot)
		rc = kata__fail(err, KATA_E_UNSUPPORTED, CALLER, "vm '%s': the driver '%s' cannot save a machine",
				vm->id, vm->driver->name);
	if (rc == 0)
		rc = check_memory(vm, o.memory, err);
	if (rc < 0)
		return rc;
	s = save_new(path, &o, extra_name, extra);
	return s ? begin(vm, s, op_options, ret_op, err) : kata__fail_no_memory(err);
}

int kata_vm_snapshot_begin(kata_vm *vm, const char *path, const kata_snapshot_options *options,
			   const kata_op_options *op_options, kata_op **ret_op, kata_error **err)
{
	return kata__vm_snapshot_begin(vm, path, options, NULL, NULL, op_options, ret_op, err);
}

int kata_vm_snapshot(kata_vm *vm, const char *path, const kata_snapshot_options *options,
		     const kata_op_options *op_options, kata_snapshot **ret_snapshot, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__vm_check_may_block(vm, "kata_vm_snapshot", err);

	if (rc == 0)
		rc = kata_vm_snapshot_begin(vm, path, options, op_options, &op, err);
	rc = kata__op_finish_sync(rc, &op, err);
	return rc < 0 || !ret_snapshot ? rc : kata_snapshot_open(vm->ctx, path, 0, ret_snapshot, err);
}

/* ---- step check ---- */

/* A disk that a restore has made in the VM's directory goes with the VM, and cannot be referred to. */
static int choose_copied(const kata_vm *vm, const struct kata__save *s, const kata_storage *storage, bool *ret,
			 kata_error **err)
{
	const char *path = kata_storage_get_path(storage), *id = kata_storage_get_id(storage);
	size_t len = vm->dir ? strlen(vm->dir) : 0;
	bool is_of_vm = len && strncmp(path, vm->dir, len) == 0 && path[len] == '/';
	kata_snapshot_disk disk = s->disk;

	for (size_t i = 0; s->choice_ids[i]; i++)
		if (strcmp(s->choice_ids[i], id) == 0)
			disk = s->choices[i];
	*ret = disk == KATA_SNAPSHOT_DISK_COPY ||
	       (disk == KATA_SNAPSHOT_DISK_AUTO && (is_of_vm || !kata_storage_is_read_only(storage)));
	if (!is_of_vm || *ret)
		return 0;
	return kata__fail(err, KATA_E_INVALID, CALLER,
			  "storage '%s': %s goes with the VM, so a snapshot cannot refer to it: use "
			  "KATA_SNAPSHOT_DISK_COPY",
			  id, path);
}

static int refuse_device(const char *noun, const char *id, kata_device_state state, kata_error **err)
{
	return kata__fail(err, KATA_E_UNSUPPORTED, CALLER,
			  "%s '%s' cannot be saved: it is %s, nobody knows whether the guest has it. Remove it first",
			  noun, id, kata_device_state_get_name(state));
}

static int add_disk(const kata_vm *vm, struct kata__save *s, const struct kata__vm_device *device, kata_error **err)
{
	struct kata__manifest *m = s->manifest;
	struct kata__manifest_disk *disk = &m->disks[m->disk_count];
	kata_device_state state = kata_storage_get_state(device->storage);

	if (state != KATA_DEVICE_PLUGGED)
		return refuse_device("storage", kata_storage_get_id(device->storage), state, err);
	*disk = (struct kata__manifest_disk){.storage = kata_storage_ref(device->storage),
					     .slot = (uint32_t)device->slot,
					     .size_bytes = kata_storage_get_size_bytes(device->storage)};
	m->disk_count++;
	return choose_copied(vm, s, device->storage, &disk->copied, err);
}

static int add_nic(struct kata__save *s, const struct kata__vm_device *device, kata_error **err)
{
	struct kata__manifest *m = s->manifest;
	kata_device_state state = kata_nic_get_state(device->nic);

	if (state != KATA_DEVICE_PLUGGED)
		return refuse_device("NIC", kata_nic_get_id(device->nic), state, err);
	m->nics[m->nic_count++] =
		(struct kata__manifest_nic){.nic = kata_nic_ref(device->nic), .slot = (uint32_t)device->slot};
	return 0;
}

/* Under the mutex: no other op is under way, so the table does not change before the end of this one. */
static int add_devices(const kata_vm *vm, struct kata__save *s, kata_error **err)
{
	const struct kata__vm_shared *shared = vm->shared;
	struct kata__manifest *m = s->manifest;
	int rc = 0;

	m->disks = calloc(shared->device_count + 1, sizeof(*m->disks));
	m->nics = calloc(shared->device_count + 1, sizeof(*m->nics));
	if (!m->disks || !m->nics)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < shared->device_count && rc == 0; i++)
		rc = shared->devices[i]->storage ? add_disk(vm, s, shared->devices[i], err)
						 : add_nic(s, shared->devices[i], err);
	return rc;
}

static int check_choices(kata_vm *vm, const struct kata__save *s, kata_error **err)
{
	for (size_t i = 0; s->choice_ids[i]; i++) {
		kata_storage *storage = NULL;

		if (kata_vm_find_storage(vm, s->choice_ids[i], &storage, NULL) < 0)
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "options.disks[%zu].storage_id: vm '%s' has no storage '%.64s'", i, vm->id,
					  s->choice_ids[i]);
		kata_storage_unref(storage);
	}
	return 0;
}

static int begin_manifest(const kata_vm *vm, struct kata__save *s, kata_error **err)
{
	struct kata__manifest *m = s->manifest;

	snprintf(m->driver, sizeof(m->driver), "%s", vm->driver->name);
	snprintf(m->uuid, sizeof(m->uuid), "%s", vm->uuid);
	snprintf(m->accelerator, sizeof(m->accelerator), "%s", vm->accelerator);
	m->agent_transport = vm->agent_transport;
	m->memory = s->memory;
	return kata__vm_config_copy_new(&vm->config->v, &m->config, err);
}

int kata__save_step_check(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	int rc = check_choices(d->vm, d->save, err);

	d->save->was_running = d->state_before == KATA_VM_RUNNING;
	if (rc == 0)
		rc = begin_manifest(d->vm, d->save, err);
	if (rc < 0)
		return rc;
	kata__vm_lock(d->vm);
	rc = add_devices(d->vm, d->save, err);
	kata__vm_unlock(d->vm);
	return rc;
}

/* ---- step digest-files ---- */

int kata__save_go_on(const void *user, kata_error **err)
{
	return kata__op_check_stop(user, err);
}

static int check_place(const struct kata__save *s, kata_error **err)
{
	KATA_AUTO_FD int fd = open(s->parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return kata__fail_errno(err, errno, "path: cannot open the directory %s", s->parent);
	rc = kata__snapshot_check_dir(fd, s->parent, err);
	if (rc == 0 && faccessat(AT_FDCWD, s->path, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		rc = kata__fail(err, KATA_E_EXISTS, CALLER, "path: %s is there already", s->path);
	return rc;
}

static int digest_file(kata_op *op, const char *member, const char *path, struct kata__manifest_file *ret,
		       kata_error **err)
{
	KATA_AUTO_FD int fd = -1;
	struct stat st;

	if (!path)
		return 0;
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return kata__fail_errno(err, errno, "config.%s: cannot open %s", member, path);
	ret->path = kata__strdup(path);
	if (!ret->path)
		return kata__fail_no_memory(err);
	kata__file_identity_of(&st, &ret->file);
	return kata__digest_fd(fd, ret->file.size_bytes, path, kata__save_go_on, op, ret->sha256, err);
}

int kata__save_step_digest_files(kata_op *op, kata_error **err)
{
	const kata_vm_config *c = &kata__vm_op_data(op)->vm->config->v;
	struct kata__save *s = kata__save_of(op);
	int rc = check_place(s, err);

	if (rc == 0)
		rc = digest_file(op, "kernel", c->kernel, &s->manifest->kernel, err);
	if (rc == 0)
		rc = digest_file(op, "initrd", c->initrd, &s->manifest->initrd, err);
	if (rc == 0)
		rc = digest_file(op, "image", c->image, &s->manifest->image, err);
	return rc;
}
