/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steps of a restore that make and open files. They run on a worker and touch vm->restore, which nobody else looks
 * at while the VM is STARTING.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "storage/qcow2.h"
#include "vm/core.h"
#include "vm/notes.h"
#include "vm/restore.h"

#define SMALL_STATE_BYTES (UINT64_C(16) << 20) /* up to here the digest is always computed */

static struct kata__restore *restore_of(const kata_op *op)
{
	return kata__vm_op_data(op)->vm->restore;
}

/* ---- state and memory ---- */

static void close_state(struct kata__restore *r)
{
	kata__close_fd(&r->state_fd);
	kata__close_fd(&r->memory_fd);
}

int kata__restore_step_open_state(kata_op *op, kata_error **err)
{
	struct kata__restore *r = restore_of(op);
	const struct kata__manifest *m = kata__snapshot_manifest(r->snapshot);
	const struct kata__manifest_part *state = kata__manifest_find_part(m, KATA__MANIFEST_STATE);
	int rc = kata__snapshot_open_part(r->snapshot, KATA__MANIFEST_STATE, O_RDONLY,
					  state->file.size_bytes <= SMALL_STATE_BYTES, &r->state_fd, err);

	if (rc == 0 && m->memory == KATA_SNAPSHOT_SHARED)
		rc = kata__snapshot_open_part(r->snapshot, KATA__MANIFEST_MEMORY, O_RDWR, false, &r->memory_fd, err);
	if (rc < 0)
		close_state(r);
	return rc;
}

int kata__restore_step_close_state(kata_op *op, kata_error **err)
{
	close_state(restore_of(op));
	return KATA__STEP_DONE;
}

/* ---- disks ---- */

static int fail_make(const struct kata__restore_disk *d, int os_errno, kata_error **err)
{
	const char *id = kata_storage_get_id(d->storage), *path = kata_storage_get_path(d->storage);

	if (os_errno == EEXIST)
		return kata__fail(err, KATA_E_EXISTS, CALLER,
				  "storage '%s': %s is there already: the restore makes the file", id, path);
	return kata__fail_errno(err, os_errno, "storage '%s': cannot make %s", id, path);
}

/* At a place of the caller's: it is noted before it has a name, so that a crash at any instant leaves nothing that
 * nobody knows of. */
static int make_external(const kata_vm *vm, const struct kata__restore_disk *d, int *ret_fd, kata_error **err)
{
	const char *path = kata_storage_get_path(d->storage), *slash = strrchr(path, '/');
	KATA_AUTO(free) char *dir = kata__format("%.*s/", (int)(slash - path), path);
	KATA_AUTO_FD int fd = dir ? open(dir, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600) : -1;
	bool named = false; /* a file system without O_TMPFILE */
	char name[48];
	struct stat st;
	int rc;

	if (!dir)
		return kata__fail_no_memory(err);
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
		fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
		named = true;
	}
	if (fd < 0 || fstat(fd, &st) < 0)
		return fail_make(d, errno, err);
	rc = kata__note_restored(vm->dir, path, &st, err);
	if (rc < 0 && named)
		unlink(path);
	if (rc < 0)
		return rc;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	if (!named && linkat(AT_FDCWD, name, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0)
		return fail_make(d, errno, err);
	*ret_fd = kata__take_fd(&fd);
	return 0;
}

/* The file to be made; ours from here on. */
static int make_file(const kata_vm *vm, struct kata__restore_disk *d, int *ret_fd, kata_error **err)
{
	const char *path = kata_storage_get_path(d->storage);
	int rc = 0;

	if (d->external) {
		rc = make_external(vm, d, ret_fd, err);
	} else {
		*ret_fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
		rc = *ret_fd < 0 ? fail_make(d, errno, err) : 0;
	}
	d->made = rc == 0;
	return rc;
}

static int go_on(const void *user, kata_error **err)
{
	return kata__op_check_stop(user, err);
}

/* Who may write to an image says so by a lock on this byte of it; a QEMU that loads a state does not look whether there
 * is one, and would put an overlay over a file that another machine goes on to write. */
#define WRITER_BYTE 101

static int check_no_writer(int fd, const char *what, kata_error **err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = WRITER_BYTE, .l_len = 1};

	if (fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
		return 0;
	return kata__fail(
		err, KATA_E_BUSY, HOST,
		"%s: another machine has the file open for writing, so its content may change any moment: end "
		"that first, or save with KATA_SNAPSHOT_DISK_COPY",
		what);
}

/* The saved content: a part, checked, or the file referred to, unchanged. */
static int open_source(kata_op *op, const struct kata__restore_disk *d, int *ret_fd, struct stat *ret_st,
		       kata_error **err)
{
	const struct kata__manifest_disk *saved = d->saved;
	char name[32], what[128];
	KATA_AUTO_FD int fd = -1;
	int rc;

	snprintf(what, sizeof(what), "storage '%s'", kata_storage_get_id(saved->storage));
	if (saved->copied) {
		kata__manifest_disk_part(d->index, name);
		rc = kata__snapshot_open_part(restore_of(op)->snapshot, name, O_RDONLY, false, &fd, err);
	} else {
		fd = open(kata_storage_get_path(saved->storage), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
		rc = fd < 0 ? kata__fail_errno(err, errno, "%s: %s", what, kata_storage_get_path(saved->storage)) : 0;
	}
	if (rc == 0 && fstat(fd, ret_st) < 0)
		rc = kata__fail_errno(err, errno, "%s", what);
	if (rc == 0 && !saved->copied)
		rc = kata__snapshot_check_source(&saved->source, ret_st, what, err);
	if (rc == 0 && !saved->copied)
		rc = check_no_writer(fd, what, err);
	if (rc == 0)
		*ret_fd = kata__take_fd(&fd);
	return rc;
}

static int make_copy(kata_op *op, struct kata__restore_disk *d, int from, const struct stat *st, kata_error **err)
{
	off_t size = S_ISBLK(st->st_mode) ? lseek(from, 0, SEEK_END) : st->st_size;
	KATA_AUTO_FD int to = -1;
	int rc = make_file(kata__vm_op_data(op)->vm, d, &to, err);

	if (rc == 0 && size < 0)
		rc = kata__fail_errno(err, errno, "storage '%s': its size", kata_storage_get_id(d->storage));
	return rc < 0 ? rc
		      : kata__copy_sparse(from, to, (uint64_t)size, kata_storage_get_path(d->storage), go_on, op, err);
}

static int make_overlay(const kata_vm *vm, struct kata__restore_disk *d, kata_error **err)
{
	KATA_AUTO_FD int fd = -1;
	int rc = make_file(vm, d, &fd, err);

	if (rc < 0)
		return rc;
	return kata__qcow2_write_empty(fd, d->saved->size_bytes, kata__storage_backing_path(d->storage),
				       kata__storage_format_name(kata__storage_backing_format(d->storage)),
				       kata_storage_get_path(d->storage), err);
}

static int check_size(const struct kata__restore_disk *d, kata_error **err)
{
	if (d->image.size_bytes == d->saved->size_bytes)
		return 0;
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "storage '%s': has %llu bytes, the guest had one of %llu",
			  kata_storage_get_id(d->storage), (unsigned long long)d->image.size_bytes,
			  (unsigned long long)d->saved->size_bytes);
}

static int make_disk(kata_op *op, struct kata__restore_disk *d, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	KATA_AUTO_FD int from = -1;
	struct stat st;
	int rc = open_source(op, d, &from, &st, err);

	if (rc == 0 && d->mode == KATA_RESTORE_DISK_COPY)
		rc = make_copy(op, d, from, &st, err);
	else if (rc == 0 && d->mode == KATA_RESTORE_DISK_OVERLAY)
		rc = make_overlay(vm, d, err);
	if (rc == 0)
		rc = kata__image_open(d->storage, &d->image, err);
	if (rc == 0)
		rc = check_size(d, err);
	return rc < 0 ? rc : kata__vm_device_claim_files(vm, d->storage, &d->image.files, err);
}

static int unmake_disks(kata_vm *vm, kata_error **err)
{
	struct kata__restore *r = vm->restore;
	int rc = 0;

	for (size_t i = 0; i < r->disk_count; i++) {
		struct kata__restore_disk *d = &r->disks[i];

		kata__image_close(&d->image);
		kata__vm_device_note_files(vm, d->storage, &(struct kata__disk_files){0});
		if (d->made && unlink(kata_storage_get_path(d->storage)) < 0 && errno != ENOENT && rc == 0)
			rc = kata__fail_errno(err, errno, "cannot remove %s", kata_storage_get_path(d->storage));
		d->made = false;
	}
	return rc < 0 ? rc : kata__forget_restored(vm->dir, err);
}

int kata__restore_step_make_disks(kata_op *op, kata_error **err)
{
	struct kata__restore *r = restore_of(op);
	int rc = 0;

	for (size_t i = 0; i < r->disk_count && rc == 0; i++)
		rc = make_disk(op, &r->disks[i], err);
	if (rc < 0)
		unmake_disks(kata__vm_op_data(op)->vm, NULL);
	return rc;
}

int kata__restore_step_unmake_disks(kata_op *op, kata_error **err)
{
	return unmake_disks(kata__vm_op_data(op)->vm, err);
}

int kata__restore_step_forget(kata_op *op, kata_error **err)
{
	return kata__forget_restored(kata__vm_op_data(op)->vm->dir, err);
}

/* ---- taps ---- */

static int close_taps(struct kata__restore *r, kata_error **err)
{
	int rc = 0;

	for (size_t i = 0; i < r->nic_count; i++) {
		struct kata__restore_nic *n = &r->nics[i];

		if (n->tap_fd < 0)
			continue;
		if (rc == 0)
			rc = kata__tap_undo(kata_nic_get_tap_name(n->nic), &n->tap_fd, &n->tap_before, err);
		kata__close_fd(&n->tap_fd);
	}
	return rc;
}

int kata__restore_step_open_taps(kata_op *op, kata_error **err)
{
	struct kata__restore *r = restore_of(op);
	int rc = 0;

	for (size_t i = 0; i < r->nic_count && rc == 0; i++) {
		struct kata__restore_nic *n = &r->nics[i];

		if (kata_nic_get_type(n->nic) == KATA_NIC_TAP)
			rc = kata__tap_open(kata_nic_get_tap_name(n->nic), kata_nic_get_mtu(n->nic), &n->tap_fd,
					    &n->tap_created, &n->tap_before, err);
	}
	if (rc < 0)
		close_taps(r, NULL);
	return rc;
}

int kata__restore_step_close_taps(kata_op *op, kata_error **err)
{
	return close_taps(restore_of(op), err);
}

/* ---- prepare ---- */

struct kata__vm_preparation {
	kata__vm_prepare_fn fn;
	void *user;
	void (*free_user)(void *user);
};

void kata__vm_preparation_free(struct kata__vm_preparation *p)
{
	if (p && p->free_user)
		p->free_user(p->user);
	free(p);
}

int kata__vm_set_prepare(kata_vm *vm, kata__vm_prepare_fn fn, void *user, void (*free_user)(void *user),
			 kata_error **err)
{
	struct kata__vm_preparation *p = NULL;

	if (fn) {
		p = calloc(1, sizeof(*p));
		if (!p)
			return kata__fail_no_memory(err);
		*p = (struct kata__vm_preparation){fn, user, free_user};
	}
	kata__vm_preparation_free(vm->preparation);
	vm->preparation = p;
	return 0;
}

static void set_preparing(kata_vm *vm, bool preparing)
{
	kata__vm_lock(vm);
	vm->shared->preparing = preparing;
	kata__vm_unlock(vm);
}

int kata__vm_step_prepare(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	const struct kata__vm_preparation *p = vm->preparation;
	kata_op *child = NULL;
	int rc;

	if (!p)
		return KATA__STEP_DONE;
	set_preparing(vm, true);
	rc = p->fn(vm, p->user, &child, err);
	if (rc < 0 || !child)
		return rc;
	return kata__op_run_child(op, child, err);
}
