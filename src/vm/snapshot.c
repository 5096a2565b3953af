/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_snapshot: opening, checking and removing the directory of a saved machine.
 *
 * Trust: the directory must be ours alone (owner, mode); within it every file is opened relative to the directory's fd
 * and without following symlinks, and what is checked is the opened file.
 */
#include "vm/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "net/nic.h"
#include "op/context.h"
#include "storage/storage.h"
#include "vm/vm.h"

#define SNAPSHOT_MAGIC 0x4b534e31u

struct kata_snapshot {
	uint32_t magic;
	atomic_uint refs;
	kata_context *ctx;
	char *path;
	char digest[KATA__DIGEST_MAX];
	struct kata__manifest *manifest;
	int state_fd, memory_fd; /* pinned; -1 */
};

const char *kata_snapshot_memory_get_name(kata_snapshot_memory memory)
{
	static const char *const names[] = {"full", "shared", "differential"};

	return (unsigned)memory < kata__array_size(names) ? names[memory] : "unknown";
}

/* ---- the directory ---- */

int kata__snapshot_check_dir(int fd, const char *path, kata_error **err)
{
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return kata__fail_errno(err, errno, "cannot look at %s", path);
	if ((st.st_uid == geteuid() || st.st_uid == 0) && !(st.st_mode & 022))
		return 0;
	rc = kata__fail(err, KATA_E_PERMISSION, CALLER,
			"%s belongs to uid %u with mode %04o: somebody else can write to it", path, (unsigned)st.st_uid,
			(unsigned)(st.st_mode & 07777));
	if (err)
		kata__error_set_hint(*err, "it must belong to uid %u or root, and be writable by its owner alone",
				     (unsigned)geteuid());
	return rc;
}

static int open_dir(const char *path, int *ret_fd, kata_error **err)
{
	KATA_AUTO_FD int fd = -1;
	int rc;

	if (path[0] != '/')
		return kata__fail(err, KATA_E_INVALID, CALLER, "path: '%.128s' is relative, must be absolute", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
		return kata__fail(err, KATA_E_INVALID, CALLER, "path: %s is no directory", path);
	if (fd < 0)
		return kata__fail_errno(err, errno, "cannot open the snapshot %s", path);
	rc = kata__snapshot_check_dir(fd, path, err);
	if (rc == 0)
		*ret_fd = kata__take_fd(&fd);
	return rc;
}

/* A regular file in the directory, not through a symlink. */
static int open_file(int dir_fd, const char *name, int flags, int *ret_fd, struct stat *ret_st, kata_error **err)
{
	KATA_AUTO_FD int fd = openat(dir_fd, name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);

	if (fd < 0 && (errno == ENOENT || errno == ELOOP || errno == ENXIO))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "snapshot: its part '%s' %s", name,
				  errno == ENOENT ? "is missing" : "is no regular file");
	if (fd < 0)
		return kata__fail_errno(err, errno, "snapshot: cannot open its part '%s'", name);
	if (fstat(fd, ret_st) < 0 || !S_ISREG(ret_st->st_mode))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "snapshot: its part '%s' is no regular file", name);
	*ret_fd = kata__take_fd(&fd);
	return 0;
}

/* ---- parts ---- */

static int check_digest(int fd, const struct kata__manifest_part *part, kata_error **err)
{
	char digest[KATA__DIGEST_MAX];
	int rc = kata__digest_fd(fd, part->file.size_bytes, part->name, NULL, NULL, digest, err);

	if (rc == 0 && strcmp(digest, part->sha256) != 0)
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER,
				"snapshot: its part '%s' was changed: sha256 is %s, the manifest says %s", part->name,
				digest, part->sha256);
	return rc;
}

static int check_part(int fd, const struct stat *st, const struct kata__manifest_part *part, bool verify,
		      kata_error **err)
{
	struct kata__file_identity now;

	kata__file_identity_of(st, &now);
	now.ctime_ns = part->file.ctime_ns; /* of no account here: links and modes may change */
	if (now.size_bytes != part->file.size_bytes)
		return kata__fail(err, KATA_E_CORRUPT, CALLER,
				  "snapshot: its part '%s' has %llu bytes, the manifest says %llu", part->name,
				  (unsigned long long)now.size_bytes, (unsigned long long)part->file.size_bytes);
	if (!verify && kata__file_identity_equal(&now, &part->file))
		return 0;
	return check_digest(fd, part, err);
}

static int open_part(int dir_fd, const struct kata__manifest_part *part, int flags, bool verify, int *ret_fd,
		     kata_error **err)
{
	KATA_AUTO_FD int fd = -1;
	struct stat st;
	int rc = open_file(dir_fd, part->name, flags, &fd, &st, err);

	if (rc == 0)
		rc = check_part(fd, &st, part, verify, err);
	if (rc == 0)
		*ret_fd = kata__take_fd(&fd);
	return rc;
}

static int pinned_fd(const kata_snapshot *s, const char *name)
{
	if (strcmp(name, KATA__MANIFEST_STATE) == 0)
		return s->state_fd;
	return strcmp(name, KATA__MANIFEST_MEMORY) == 0 ? s->memory_fd : -1;
}

/* Opened anew, so that it has a position of its own. */
static int open_pinned(int pinned, const struct kata__manifest_part *part, int flags, bool verify, int *ret_fd,
		       kata_error **err)
{
	KATA_AUTO_FD int fd = -1;
	char path[32];
	struct stat st;
	int rc;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", pinned);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return kata__fail_errno(err, errno, "snapshot: cannot open its part '%s'", part->name);
	rc = check_part(fd, &st, part, verify, err);
	if (rc == 0)
		*ret_fd = kata__take_fd(&fd);
	return rc;
}

int kata__snapshot_open_part(const kata_snapshot *s, const char *name, int flags, bool verify, int *ret_fd,
			     kata_error **err)
{
	const struct kata__manifest_part *part = kata__manifest_find_part(s->manifest, name);
	int pinned = pinned_fd(s, name);
	KATA_AUTO_FD int dir_fd = -1;
	int rc;

	if (!part)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "snapshot %s has no part '%s'", s->path, name);
	if (pinned >= 0)
		return open_pinned(pinned, part, flags, verify, ret_fd, err);
	rc = open_dir(s->path, &dir_fd, err);
	return rc < 0 ? rc : open_part(dir_fd, part, flags, verify, ret_fd, err);
}

int kata__snapshot_pin(kata_snapshot *s, kata_error **err)
{
	bool has_memory = kata__manifest_find_part(s->manifest, KATA__MANIFEST_MEMORY) != NULL;
	int state = -1, memory = -1;
	int rc = kata__snapshot_open_part(s, KATA__MANIFEST_STATE, O_RDONLY, false, &state, err);

	if (rc == 0 && has_memory)
		rc = kata__snapshot_open_part(s, KATA__MANIFEST_MEMORY, O_RDONLY, false, &memory, err);
	if (rc < 0) {
		kata__close_fd(&state);
		return rc;
	}
	s->state_fd = state;
	s->memory_fd = memory;
	return 0;
}

struct kata__manifest *kata__snapshot_manifest_of_new(kata_snapshot *s)
{
	return s->manifest;
}

char *kata__snapshot_part_path(const kata_snapshot *s, const char *name)
{
	return kata__format("%s/%s", s->path, name);
}

int kata__snapshot_read_extra(const kata_snapshot *s, const char *name, size_t max, char **ret_text, size_t *ret_len,
			      kata_error **err)
{
	const struct kata__manifest_part *part = kata__manifest_find_part(s->manifest, name);
	KATA_AUTO(free) char *text = NULL;
	KATA_AUTO_FD int fd = -1;
	int rc = kata__snapshot_open_part(s, name, O_RDONLY, true, &fd, err);

	if (rc < 0)
		return rc;
	if (part->file.size_bytes > max)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "snapshot: its part '%s' has more than %zu bytes", name,
				  max);
	text = calloc(1, (size_t)part->file.size_bytes + 1);
	if (!text)
		return kata__fail_no_memory(err);
	if (pread(fd, text, (size_t)part->file.size_bytes, 0) != (ssize_t)part->file.size_bytes)
		return kata__fail(err, KATA_E_IO, HOST, "snapshot: its part '%s' cannot be read", name);
	*ret_text = kata__take_ptr(text);
	*ret_len = (size_t)part->file.size_bytes;
	return 0;
}

int kata__snapshot_check_source(const struct kata__manifest_source *s, const struct stat *st, const char *what,
				kata_error **err)
{
	struct kata__file_identity now;

	if (s->is_block_device && S_ISBLK(st->st_mode))
		return 0;
	if (s->is_block_device || S_ISBLK(st->st_mode))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: is %s block device now", what,
				  s->is_block_device ? "no" : "a");
	kata__file_identity_of(st, &now);
	if (kata__file_identity_equal(&now, &s->file))
		return 0;
	return kata__fail(err, KATA_E_CORRUPT, CALLER,
			  "%s: has changed since the machine was saved (%s): the guest would find another disk than it "
			  "had. KATA_SNAPSHOT_DISK_COPY keeps a copy",
			  what,
			  now.ino != s->file.ino                 ? "it is another file"
			  : now.size_bytes != s->file.size_bytes ? "its size"
								 : "its time stamps");
}

/* ---- opening ---- */

static int read_manifest(int dir_fd, const char *path, char **ret_text, size_t *ret_len, kata_error **err)
{
	KATA_AUTO(free) char *name = NULL;
	int rc;

	if (faccessat(dir_fd, KATA__MANIFEST_NAME, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return kata__fail_errno(err, errno, "%s has no " KATA__MANIFEST_NAME ", so it is no snapshot", path);
	name = kata__format("/proc/self/fd/%d/" KATA__MANIFEST_NAME, dir_fd);
	if (!name)
		return kata__fail_no_memory(err);
	rc = kata__read_file(name, KATA__JSON_RECORD_MAX, ret_text, ret_len, err);
	return rc < 0 ? kata__error_wrap(err, rc, "the manifest of %s", path) : 0;
}

static int check_parts(const kata_snapshot *s, int dir_fd, bool verify, kata_error **err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < s->manifest->part_count; i++) {
		KATA_AUTO_FD int fd = -1;

		rc = open_part(dir_fd, &s->manifest->parts[i], O_RDONLY, verify, &fd, err);
	}
	return rc;
}

static int fill(kata_snapshot *s, uint64_t flags, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	KATA_AUTO_FD int dir_fd = -1;
	size_t len = 0;
	int rc = open_dir(s->path, &dir_fd, err);

	if (rc == 0)
		rc = read_manifest(dir_fd, s->path, &text, &len, err);
	if (rc == 0)
		rc = kata__manifest_read(text, len, &s->manifest, err);
	if (rc < 0)
		return rc;
	kata__digest_bytes(text, len, s->digest);
	return check_parts(s, dir_fd, flags & KATA_SNAPSHOT_VERIFY, err);
}

int kata_snapshot_open(kata_context *context, const char *path, uint64_t flags, kata_snapshot **ret_snapshot,
		       kata_error **err)
{
	kata_snapshot *s;
	int rc;

	if (!context || !path || !ret_snapshot)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL",
				  !context ? "context"
				  : !path  ? "path"
					   : "ret_snapshot");
	if (flags & ~KATA_SNAPSHOT_VERIFY)
		return kata__fail(err, KATA_E_INVALID, CALLER, "flags: 0x%llx has unknown bits",
				  (unsigned long long)flags);
	s = calloc(1, sizeof(*s));
	if (!s)
		return kata__fail_no_memory(err);
	s->magic = SNAPSHOT_MAGIC;
	s->ctx = context;
	s->state_fd = -1;
	s->memory_fd = -1;
	atomic_init(&s->refs, 1);
	s->path = kata__strdup(path);
	rc = kata__context_enter(context, KATA__OBJECT_SNAPSHOT, err);
	if (rc < 0) {
		free(s->path);
		free(s);
		return rc;
	}
	rc = s->path ? fill(s, flags, err) : kata__fail_no_memory(err);
	if (rc < 0)
		kata_snapshot_free(s);
	else
		*ret_snapshot = s;
	return rc;
}

kata_snapshot *kata__snapshot_ref(const kata_snapshot *s)
{
	kata_snapshot *mine = (kata_snapshot *)(uintptr_t)s;

	atomic_fetch_add_explicit(&mine->refs, 1, memory_order_relaxed);
	return mine;
}

void kata_snapshot_free(kata_snapshot *snapshot)
{
	kata_context *ctx;

	if (!snapshot || atomic_fetch_sub_explicit(&snapshot->refs, 1, memory_order_acq_rel) != 1)
		return;
	ctx = snapshot->ctx;
	kata__close_fd(&snapshot->state_fd);
	kata__close_fd(&snapshot->memory_fd);
	kata__manifest_free(snapshot->manifest);
	free(snapshot->path);
	snapshot->magic = 0;
	free(snapshot);
	kata__context_leave(ctx, KATA__OBJECT_SNAPSHOT);
}

const struct kata__manifest *kata__snapshot_manifest(const kata_snapshot *s)
{
	return s->manifest;
}

/* ---- removing ---- */

static int check_is_ours(int dir_fd, const char *path, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	KATA_AUTO_JSON json_t *o = NULL;
	const char *format = NULL;
	size_t len = 0;
	int rc = read_manifest(dir_fd, path, &text, &len, err);

	if (rc == 0)
		rc = kata__json_parse("manifest", text, len, KATA__JSON_RECORD_MAX, &o, err);
	if (rc == 0)
		rc = kata__json_get_string(o, "manifest", "format", &format, err);
	if (rc == 0 && strcmp(format, "kata-snapshot") != 0)
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: its manifest is none of a snapshot: left alone",
				path);
	return rc;
}

/* The manifest goes last: what is left of a removal that was cut short can be removed by the same call. */
static int remove_parts(int dir_fd, const char *path, kata_error **err)
{
	DIR *dir = fdopendir(dup(dir_fd));
	struct dirent *e;
	int rc = 0;

	if (!dir)
		return kata__fail_errno(err, errno, "cannot read %s", path);
	while (rc == 0 && (e = readdir(dir))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		    strcmp(e->d_name, KATA__MANIFEST_NAME) == 0)
			continue;
		if (unlinkat(dir_fd, e->d_name, 0) < 0 && errno != ENOENT)
			rc = kata__fail_errno(err, errno, "cannot remove %s/%s", path, e->d_name);
	}
	closedir(dir);
	return rc;
}

int kata_snapshot_delete(kata_context *context, const char *path, kata_error **err)
{
	KATA_AUTO_FD int dir_fd = -1;
	int rc;

	if (!context || !path)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", context ? "path" : "context");
	rc = open_dir(path, &dir_fd, err);
	if (rc == 0)
		rc = check_is_ours(dir_fd, path, err);
	if (rc == 0)
		rc = remove_parts(dir_fd, path, err);
	if (rc < 0)
		return rc;
	if ((unlinkat(dir_fd, KATA__MANIFEST_NAME, 0) < 0 && errno != ENOENT) || rmdir(path) < 0)
		return kata__fail_errno(err, errno, "cannot remove %s", path);
	return 0;
}

/* ---- getters ---- */

const char *kata_snapshot_get_path(const kata_snapshot *snapshot)
{
	return snapshot ? snapshot->path : NULL;
}

kata_snapshot_memory kata_snapshot_get_memory(const kata_snapshot *snapshot)
{
	return snapshot ? snapshot->manifest->memory : KATA_SNAPSHOT_FULL;
}

uint64_t kata_snapshot_get_created_ns(const kata_snapshot *snapshot)
{
	return snapshot ? snapshot->manifest->created_ns : 0;
}

const char *kata_snapshot_get_driver(const kata_snapshot *snapshot)
{
	return snapshot ? snapshot->manifest->driver : NULL;
}

const char *kata_snapshot_get_vmm_version(const kata_snapshot *snapshot)
{
	return snapshot ? snapshot->manifest->vmm_version : NULL;
}

const char *kata_snapshot_get_machine(const kata_snapshot *snapshot)
{
	return snapshot ? snapshot->manifest->machine : NULL;
}

const char *kata_snapshot_get_accelerator(const kata_snapshot *snapshot)
{
	return snapshot ? snapshot->manifest->accelerator : NULL;
}

const char *kata_snapshot_get_cpu_model(const kata_snapshot *snapshot)
{
	return snapshot ? snapshot->manifest->cpu_model : NULL;
}

const char *kata_snapshot_get_digest(const kata_snapshot *snapshot)
{
	return snapshot ? snapshot->digest : NULL;
}

uint64_t kata_snapshot_get_size_bytes(const kata_snapshot *snapshot)
{
	uint64_t bytes = 0;

	for (size_t i = 0; snapshot && i < snapshot->manifest->part_count; i++)
		bytes += snapshot->manifest->parts[i].file.size_bytes;
	return bytes;
}

const kata_vm_config *kata_snapshot_get_config(const kata_snapshot *snapshot)
{
	return snapshot ? &snapshot->manifest->config->v : NULL;
}

const char *kata_snapshot_get_uuid(const kata_snapshot *snapshot)
{
	return snapshot ? snapshot->manifest->uuid : NULL;
}

/* ---- its devices ---- */

size_t kata_snapshot_get_storage_count(const kata_snapshot *snapshot)
{
	return snapshot ? snapshot->manifest->disk_count : 0;
}

size_t kata_snapshot_get_nic_count(const kata_snapshot *snapshot)
{
	return snapshot ? snapshot->manifest->nic_count : 0;
}

static int check_index(const kata_snapshot *s, const void *ret, const char *what, size_t index, size_t count,
		       kata_error **err)
{
	if (!s || !ret)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", s ? what : "snapshot");
	if (index < count)
		return 0;
	return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "index: %zu is past the end, there are %zu", index, count);
}

/* A copy: the caller may plug it. */
int kata_snapshot_get_storage(const kata_snapshot *snapshot, size_t index, kata_storage **ret_storage, kata_error **err)
{
	int rc = check_index(snapshot, ret_storage, "ret_storage", index, kata_snapshot_get_storage_count(snapshot),
			     err);

	return rc < 0 ? rc : kata__storage_clone(snapshot->manifest->disks[index].storage, NULL, ret_storage, err);
}

int kata_snapshot_get_nic(const kata_snapshot *snapshot, size_t index, kata_nic **ret_nic, kata_error **err)
{
	kata_nic_config c = KATA_NIC_CONFIG_INIT;
	const kata_nic *n;
	int rc = check_index(snapshot, ret_nic, "ret_nic", index, kata_snapshot_get_nic_count(snapshot), err);

	if (rc < 0)
		return rc;
	n = snapshot->manifest->nics[index].nic;
	c.id = kata_nic_get_id(n);
	c.type = kata_nic_get_type(n);
	c.tap_name = kata_nic_get_tap_name(n);
	c.mac = kata_nic_get_mac(n);
	c.mtu = kata_nic_get_mtu(n);
	return kata_nic_new(&c, ret_nic, err);
}

size_t kata_snapshot_get_storage_address(const kata_snapshot *snapshot, size_t index, char *buf, size_t buf_size)
{
	const struct kata__manifest_disk *d;
	char address[16];
	int n;

	if (buf && buf_size)
		buf[0] = '\0';
	if (index >= kata_snapshot_get_storage_count(snapshot))
		return 0;
	d = &snapshot->manifest->disks[index];
	if (kata_storage_get_driver(d->storage) == KATA_STORAGE_VIRTIO_SCSI)
		kata__vm_lun_address((int)d->slot, address);
	else
		kata__vm_port_address((int)d->slot, address);
	n = snprintf(buf, buf ? buf_size : 0, "%s", address);
	return n > 0 ? (size_t)n : 0;
}

size_t kata_snapshot_get_nic_address(const kata_snapshot *snapshot, size_t index, char *buf, size_t buf_size)
{
	char address[16];
	int n;

	if (buf && buf_size)
		buf[0] = '\0';
	if (index >= kata_snapshot_get_nic_count(snapshot))
		return 0;
	kata__vm_port_address((int)snapshot->manifest->nics[index].slot, address);
	n = snprintf(buf, buf ? buf_size : 0, "%s", address);
	return n > 0 ? (size_t)n : 0;
}
