/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steps of a save that make files: the directory, copies of disks, the memory file, the manifest; and the rename
 * that makes it a snapshot. All are blocking and touch the op's data and what of the VM is constant.
 */
#include "vm/save.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "storage/storage.h"
#include "vm/core.h"
#include "vm/notes.h"

/* ---- the note ---- */

int kata__save_step_note(kata_op *op, kata_error **err)
{
	const struct kata__save *s = kata__save_of(op);

	return kata__note_saving(kata__vm_op_data(op)->vm->dir, s->dir, s->was_running, err);
}

int kata__save_step_unnote(kata_op *op, kata_error **err)
{
	return kata__forget_saving(kata__vm_op_data(op)->vm->dir, err);
}

/* ---- the directory ---- */

static int make_file(const struct kata__save *s, const char *name, int *ret_fd, kata_error **err)
{
	*ret_fd = openat(s->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return *ret_fd < 0 ? kata__fail_errno(err, errno, "cannot make %s/%s", s->dir, name) : 0;
}

static int write_file(const struct kata__save *s, const char *name, const char *text, kata_error **err)
{
	KATA_AUTO_FD int fd = -1;
	size_t len = strlen(text), done = 0;
	int rc = make_file(s, name, &fd, err);

	while (rc == 0 && done < len) {
		ssize_t n = write(fd, text + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = kata__fail_errno(err, errno, "cannot write %s/%s", s->dir, name);
		else
			done += (size_t)n;
	}
	if (rc == 0 && fsync(fd) < 0)
		rc = kata__fail_errno(err, errno, "cannot sync %s/%s", s->dir, name);
	return rc;
}

static int add_part(struct kata__save *s, const char *name, kata_error **err)
{
	return kata__manifest_add_part(s->manifest, name) ? 0 : kata__fail_no_memory(err);
}

static int make_files(struct kata__save *s, kata_error **err)
{
	int rc;

	s->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->dir_fd < 0)
		return kata__fail_errno(err, errno, "cannot open %s", s->dir);
	/* Says to recovery that it is being made; a child of ours does not get the fd. Who looks has it for a moment.
	 */
	if (flock(s->dir_fd, LOCK_EX) < 0)
		return kata__fail_errno(err, errno, "cannot lock %s", s->dir);
	rc = make_file(s, KATA__MANIFEST_STATE, &s->state_fd, err);
	if (rc == 0)
		rc = add_part(s, KATA__MANIFEST_STATE, err);
	if (rc == 0 && s->extra_name)
		rc = write_file(s, s->extra_name, s->extra, err);
	if (rc == 0 && s->extra_name)
		rc = add_part(s, s->extra_name, err);
	return rc;
}

static int remove_dir(struct kata__save *s, kata_error **err)
{
	kata__close_fd(&s->state_fd);
	kata__close_fd(&s->dir_fd);
	return kata__remove_tree(s->dir, err);
}

int kata__save_step_make_dir(kata_op *op, kata_error **err)
{
	struct kata__save *s = kata__save_of(op);
	int rc;

	if (mkdir(s->dir, 0700) < 0)
		return kata__fail_errno(err, errno, "cannot make %s", s->dir);
	rc = make_files(s, err);
	if (rc < 0)
		remove_dir(s, NULL);
	return rc;
}

int kata__save_step_unmake_dir(kata_op *op, kata_error **err)
{
	return remove_dir(kata__save_of(op), err);
}

/* ---- disks ---- */

/* Times of files have the grain of the kernel's tick: a write right now could go unseen. */
static void await_next_tick(const struct stat *st)
{
	struct timespec now;

	while (clock_gettime(CLOCK_REALTIME_COARSE, &now) == 0 && now.tv_sec == st->st_mtim.tv_sec &&
	       now.tv_nsec == st->st_mtim.tv_nsec)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void read_source(const struct stat *st, struct kata__manifest_source *ret)
{
	ret->is_block_device = S_ISBLK(st->st_mode);
	if (ret->is_block_device)
		return;
	await_next_tick(st);
	kata__file_identity_of(st, &ret->file);
}

/* The file of the disk, which must be the one that was plugged. */
static int open_disk(kata_vm *vm, const kata_storage *storage, int *ret_fd, struct stat *ret_st, kata_error **err)
{
	KATA_AUTO_FD int fd = open(kata_storage_get_path(storage), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	const char *id = kata_storage_get_id(storage), *path = kata_storage_get_path(storage);

	if (fd < 0 || fstat(fd, ret_st) < 0)
		return kata__fail_errno(err, errno, "storage '%s': cannot open %s", id, path);
	if (!S_ISREG(ret_st->st_mode) && !S_ISBLK(ret_st->st_mode))
		return kata__fail(err, KATA_E_IDENTITY, HOST,
				  "storage '%s': %s is no file and no block device any more", id, path);
	if (!kata__vm_device_has_file(vm, storage, ret_st))
		return kata__fail(err, KATA_E_IDENTITY, HOST,
				  "storage '%s' cannot be saved: %s is not the file that was plugged any more", id,
				  path);
	*ret_fd = kata__take_fd(&fd);
	return 0;
}

static int get_size(int fd, const struct stat *st, uint64_t *ret, kata_error **err)
{
	off_t end = S_ISBLK(st->st_mode) ? lseek(fd, 0, SEEK_END) : st->st_size;

	if (end < 0)
		return kata__fail_errno(err, errno, "the size of a block device cannot be read");
	*ret = (uint64_t)end;
	return 0;
}

static int copy_disk(kata_op *op, size_t index, int from, const struct stat *st, kata_error **err)
{
	struct kata__save *s = kata__save_of(op);
	KATA_AUTO_FD int to = -1;
	uint64_t size = 0;
	char name[32];
	int rc = get_size(from, st, &size, err);

	kata__manifest_disk_part(index, name);
	if (rc == 0)
		rc = make_file(s, name, &to, err);
	if (rc == 0)
		rc = kata__copy_sparse(from, to, size, kata_storage_get_path(s->manifest->disks[index].storage),
				       kata__save_go_on, op, err);
	return rc < 0 ? rc : add_part(s, name, err);
}

static int note_backing(struct kata__manifest_disk *disk, kata_error **err)
{
	const char *path = kata__storage_backing_path(disk->storage);
	struct stat st;

	if (!path)
		return 0;
	if (stat(path, &st) < 0)
		return kata__fail_errno(err, errno, "storage '%s': its backing file %s",
					kata_storage_get_id(disk->storage), path);
	read_source(&st, &disk->backing);
	return 0;
}

static int save_disk(kata_op *op, size_t index, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	struct kata__manifest_disk *disk = &kata__save_of(op)->manifest->disks[index];
	KATA_AUTO_FD int fd = -1;
	struct stat st;
	int rc = open_disk(vm, disk->storage, &fd, &st, err);

	if (rc == 0 && disk->copied)
		rc = copy_disk(op, index, fd, &st, err);
	else if (rc == 0)
		read_source(&st, &disk->source);
	return rc < 0 ? rc : note_backing(disk, err);
}

int kata__save_step_copy_disks(kata_op *op, kata_error **err)
{
	const struct kata__manifest *m = kata__save_of(op)->manifest;
	int rc = 0;

	for (size_t i = 0; i < m->disk_count && rc == 0; i++)
		rc = save_disk(op, i, err);
	return rc;
}

/* ---- memory ---- */

/* A second name: the first goes at the very end, so that until then everything can be taken back. */
static int link_memory(const struct kata__save *s, const char *path, kata_error **err)
{
	int rc;

	if (linkat(AT_FDCWD, path, s->dir_fd, KATA__MANIFEST_MEMORY, 0) == 0)
		return 0;
	if (errno != EXDEV)
		return kata__fail_errno(err, errno, "config.memory_path: cannot link %s into the snapshot", path);
	rc = kata__fail(err, KATA_E_INVALID, CALLER,
			"config.memory_path: %s is on another file system than %s: the file becomes a part of the "
			"snapshot",
			path, s->parent);
	return rc;
}

int kata__save_step_share_memory(kata_op *op, kata_error **err)
{
	const kata_vm_config *c = &kata__vm_op_data(op)->vm->config->v;
	struct kata__save *s = kata__save_of(op);
	struct stat st;
	int rc;

	if (s->memory != KATA_SNAPSHOT_SHARED)
		return KATA__STEP_DONE;
	rc = link_memory(s, c->memory_path, err);
	if (rc < 0)
		return rc;
	if (fstatat(s->dir_fd, KATA__MANIFEST_MEMORY, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) ||
	    (uint64_t)st.st_size != c->memory_mib << 20)
		return kata__fail(err, KATA_E_INVALID, HOST,
				  "config.memory_path: %s is not a file of %llu MiB any more", c->memory_path,
				  (unsigned long long)c->memory_mib);
	return add_part(s, KATA__MANIFEST_MEMORY, err);
}

/* ---- digests, manifest ---- */

static int digest_part(kata_op *op, struct kata__manifest_part *part, kata_error **err)
{
	const struct kata__save *s = kata__save_of(op);
	KATA_AUTO_FD int fd = openat(s->dir_fd, part->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return kata__fail_errno(err, errno, "cannot open %s/%s", s->dir, part->name);
	if (fsync(fd) < 0 || fstat(fd, &st) < 0)
		return kata__fail_errno(err, errno, "cannot sync %s/%s", s->dir, part->name);
	kata__file_identity_of(&st, &part->file);
	return kata__digest_fd(fd, part->file.size_bytes, part->name, kata__save_go_on, op, part->sha256, err);
}

int kata__save_step_digest_parts(kata_op *op, kata_error **err)
{
	struct kata__manifest *m = kata__save_of(op)->manifest;
	int rc = 0;

	for (size_t i = 0; i < m->part_count && rc == 0; i++)
		rc = digest_part(op, &m->parts[i], err);
	return rc;
}

int kata__save_step_write_manifest(kata_op *op, kata_error **err)
{
	struct kata__save *s = kata__save_of(op);
	KATA_AUTO(free) char *text = NULL;
	struct timespec now;
	int rc;

	clock_gettime(CLOCK_REALTIME, &now);
	s->manifest->created_ns = (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
	text = kata__manifest_write(s->manifest);
	if (!text)
		return kata__fail_no_memory(err);
	rc = write_file(s, KATA__MANIFEST_NAME, text, err);
	if (rc == 0 && fsync(s->dir_fd) < 0)
		rc = kata__fail_errno(err, errno, "cannot sync %s", s->dir);
	return rc;
}

/* ---- the rename ---- */

static int sync_parent(const struct kata__save *s, kata_error **err)
{
	KATA_AUTO_FD int fd = open(s->parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? kata__fail_errno(err, errno, "cannot sync %s", s->parent) : 0;
}

static int move(const char *from, const char *to, kata_error **err)
{
	int rc = renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);

	if (rc < 0 && errno == EINVAL && faccessat(AT_FDCWD, to, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		rc = rename(from, to); /* a file system that does not know the flag */
	if (rc < 0 && errno == EEXIST)
		return kata__fail(err, KATA_E_EXISTS, CALLER, "path: %s is there since a moment ago", to);
	return rc < 0 ? kata__fail_errno(err, errno, "cannot rename %s to %s", from, to) : 0;
}

int kata__save_step_publish(kata_op *op, kata_error **err)
{
	const char *vm_dir = kata__vm_op_data(op)->vm->dir;
	struct kata__save *s = kata__save_of(op);
	int rc = s->memory == KATA_SNAPSHOT_SHARED ? kata__note_frozen(vm_dir, s->path, err) : 0;

	if (rc == 0)
		rc = move(s->dir, s->path, err);
	if (rc == 0 && (rc = sync_parent(s, err)) < 0)
		move(s->path, s->dir, NULL);
	if (rc < 0)
		kata__forget_frozen(vm_dir, NULL);
	return rc;
}

int kata__save_step_unpublish(kata_op *op, kata_error **err)
{
	struct kata__save *s = kata__save_of(op);
	int rc = move(s->path, s->dir, err);

	return rc < 0 ? rc : kata__forget_frozen(kata__vm_op_data(op)->vm->dir, err);
}

/* What was there before the snapshot and is not needed any more. */
int kata__save_step_forget(kata_op *op, kata_error **err)
{
	const kata_vm *vm = kata__vm_op_data(op)->vm;
	const struct kata__save *s = kata__save_of(op);
	int rc = kata__save_step_unnote(op, err);

	if (rc == 0 && s->memory == KATA_SNAPSHOT_SHARED && unlink(vm->config->v.memory_path) < 0)
		rc = kata__fail_errno(err, errno, "cannot remove %s, whose file is a part of %s now",
				      vm->config->v.memory_path, s->path);
	return rc;
}

int kata__save_step_unforget(kata_op *op, kata_error **err)
{
	const kata_vm *vm = kata__vm_op_data(op)->vm;
	const struct kata__save *s = kata__save_of(op);

	if (s->memory != KATA_SNAPSHOT_SHARED)
		return KATA__STEP_DONE;
	if (linkat(s->dir_fd, KATA__MANIFEST_MEMORY, AT_FDCWD, vm->config->v.memory_path, 0) == 0 || errno == EEXIST)
		return KATA__STEP_DONE;
	return kata__fail_errno(err, errno, "cannot put %s back", vm->config->v.memory_path);
}
