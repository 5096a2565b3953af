/* SPDX-License-Identifier: Apache-2.0 */
/* owner.json: see owner.h. What is read back may have been changed by anybody who could write there: it is parsed
 * strictly. */
#include "vm/owner.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/json.h"
#include "base/text.h"

#define OWNER_FORMAT "kata-owner"
#define OWNER_VERSION 1
#define OWNER_BYTES_MAX 4096
#define PID_MAX_VALUE 4194304 /* PID_MAX_LIMIT of 64-bit kernels */

#define OWNER_FILE "owner.json"
#define POOLED_FILE "pooled"

static int write_as(const char *dir, const char *name, const struct kata__owner *owner, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/%s", dir, name);
	KATA_AUTO(free) char *text = NULL;
	KATA_AUTO_JSON json_t *o =
		json_pack("{s:s, s:i, s:s, s:s, s:I, s:I, s:I, s:s}", "format", OWNER_FORMAT, "version", OWNER_VERSION,
			  "vm_id", owner->vm_id, "vm_uuid", owner->vm_uuid, "epoch", (json_int_t)owner->epoch, "pid",
			  (json_int_t)owner->process.pid, "start_time", (json_int_t)owner->process.start_time,
			  "boot_id", owner->process.boot_id);

	if (o && (!owner->unsettled || json_object_set_new(o, "unsettled", json_true()) == 0))
		text = kata__json_dump(o);
	if (!path || !text)
		return kata__fail_no_memory(err);
	return kata__write_file_atomic(path, text, strlen(text), err);
}

static bool look(const char *dir, struct stat *ret)
{
	char path[256];
	int n = snprintf(path, sizeof(path), "%s/owner.json", dir);

	return n > 0 && (size_t)n < sizeof(path) && lstat(path, ret) == 0;
}

bool kata__owner_stamp(const char *dir, struct kata__owner_stamp *ret)
{
	struct stat st;

	*ret = (struct kata__owner_stamp){0};
	if (!look(dir, &st))
		return false;
	ret->ino = st.st_ino;
	ret->written = st.st_mtim;
	return true;
}

int kata__owner_fence(const char *dir, const char *vm_id, const struct kata__process_identity *self, uint64_t epoch,
		      kata_error **err)
{
	struct kata__owner now;
	struct stat st;
	char since[32] = "?";

	if (kata__owner_read(dir, &now, NULL) < 0)
		return 0; /* it was removed or spoilt by hand: nobody else owns the machine by that */
	if (now.process.pid == self->pid && now.process.start_time == self->start_time && now.epoch == epoch)
		return 0;
	if (look(dir, &st))
		kata__format_time(st.st_mtim.tv_sec, since, sizeof(since));
	return kata__fail(
		err, KATA_E_FENCED, CALLER,
		"vm '%s' is held by pid %d (start time %llu) since %s (epoch %llu, this handle has %llu): drop this "
		"handle",
		vm_id, (int)now.process.pid, (unsigned long long)now.process.start_time, since,
		(unsigned long long)now.epoch, (unsigned long long)epoch);
}

static int read_text(const json_t *o, const char *key, char *out, size_t size, kata_error **err)
{
	const char *text;
	int rc = kata__json_get_string(o, "owner", key, &text, err);

	if (rc < 0)
		return rc;
	if (strlen(text) >= size)
		return kata__fail(err, KATA_E_CORRUPT, HOST, "owner.%s: is longer than %zu bytes", key, size - 1);
	memcpy(out, text, strlen(text) + 1);
	return 0;
}

static int read_version(const json_t *o, kata_error **err)
{
	char format[32];
	uint64_t version;
	int rc = read_text(o, "format", format, sizeof(format), err);

	if (rc == 0)
		rc = kata__json_get_uint(o, "owner", "version", UINT32_MAX, &version, err);
	if (rc < 0)
		return rc;
	if (strcmp(format, OWNER_FORMAT) != 0)
		return kata__fail(err, KATA_E_CORRUPT, HOST, "owner.format: is '%s', must be '%s'", format,
				  OWNER_FORMAT);
	if (version != OWNER_VERSION)
		return kata__fail(err, KATA_E_VERSION, HOST, "owner.version: is %llu, this library reads %d",
				  (unsigned long long)version, OWNER_VERSION);
	return 0;
}

static int parse(const char *text, size_t len, struct kata__owner *ret, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = NULL;
	struct kata__owner owner = {0};
	uint64_t pid = 0;
	int rc = kata__json_parse("owner", text, len, OWNER_BYTES_MAX, &o, err);

	if (rc == 0)
		rc = read_version(o, err);
	if (rc == 0)
		rc = read_text(o, "vm_id", owner.vm_id, sizeof(owner.vm_id), err);
	if (rc == 0)
		rc = read_text(o, "vm_uuid", owner.vm_uuid, sizeof(owner.vm_uuid), err);
	if (rc == 0)
		rc = read_text(o, "boot_id", owner.process.boot_id, sizeof(owner.process.boot_id), err);
	if (rc == 0)
		rc = kata__json_get_uint(o, "owner", "epoch", INT64_MAX - 1, &owner.epoch, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, "owner", "pid", PID_MAX_VALUE, &pid, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, "owner", "start_time", INT64_MAX, &owner.process.start_time, err);
	if (rc < 0)
		return rc;
	owner.process.pid = (pid_t)pid;
	owner.unsettled = json_object_get(o, "unsettled") != NULL;
	*ret = owner;
	return 0;
}

static int read_as(const char *dir, const char *name, struct kata__owner *ret, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/%s", dir, name);
	KATA_AUTO(free) char *text = NULL;
	size_t len = 0;
	int rc;

	if (!path)
		return kata__fail_no_memory(err);
	rc = kata__read_file(path, OWNER_BYTES_MAX, &text, &len, err);
	return rc < 0 ? rc : parse(text, len, ret, err);
}

int kata__owner_write(const char *dir, const struct kata__owner *owner, kata_error **err)
{
	return write_as(dir, OWNER_FILE, owner, err);
}

int kata__owner_read(const char *dir, struct kata__owner *ret, kata_error **err)
{
	return read_as(dir, OWNER_FILE, ret, err);
}

int kata__owner_mark_pooled(const char *dir, const struct kata__owner *steward, kata_error **err)
{
	return write_as(dir, POOLED_FILE, steward, err);
}

int kata__owner_unmark_pooled(const char *dir, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/%s", dir, POOLED_FILE);

	if (!path)
		return kata__fail_no_memory(err);
	if (unlink(path) < 0 && errno != ENOENT)
		return kata__fail_errno(err, errno, "cannot remove %s", path);
	return 0;
}

int kata__owner_read_pooled(const char *dir, struct kata__owner *ret, kata_error **err)
{
	return read_as(dir, POOLED_FILE, ret, err);
}

bool kata__owner_is_alive(const struct kata__owner *owner)
{
	return owner->process.pid > 0 && kata__process_is_alive(&owner->process);
}

static int check_take(const char *dir, const char *uuid, uint64_t known_epoch, const struct kata__owner *before,
		      kata_error **err)
{
	if (strcmp(before->vm_uuid, uuid) != 0)
		return kata__fail(err, KATA_E_IDENTITY, HOST, "%s belongs to the machine %s, not to %s", dir,
				  before->vm_uuid, uuid);
	if (before->epoch < known_epoch)
		return kata__fail(
			err, KATA_E_CORRUPT, CALLER,
			"record.epoch: is %llu, but %s stands at epoch %llu, and no record of it is newer than "
			"that: this one was changed, or is of another machine",
			(unsigned long long)known_epoch, dir, (unsigned long long)before->epoch);
	if (before->epoch != known_epoch)
		return kata__fail(err, KATA_E_FENCED, CALLER,
				  "the record is of epoch %llu, but the machine has been taken over since (epoch "
				  "%llu): use the newest record",
				  (unsigned long long)known_epoch, (unsigned long long)before->epoch);
	if (kata__owner_is_alive(before))
		return kata__fail(err, KATA_E_FENCED, CALLER,
				  "process %d owns the machine and lives: it must release it first",
				  (int)before->process.pid);
	return 0;
}

/* With the directory locked. */
static int take_locked(const char *dir, const char *uuid, uint64_t known_epoch,
		       const struct kata__process_identity *self, struct kata__owner *ret_before,
		       struct kata__owner *ret_now, kata_error **err)
{
	struct kata__owner before, now;
	int rc = kata__owner_read(dir, &before, err);

	if (rc == KATA_E_NOT_FOUND)
		return kata__error_wrap(err, rc, "%s has no owner.json: it is being removed or was changed by hand",
					dir);
	if (rc == 0)
		rc = check_take(dir, uuid, known_epoch, &before, err);
	if (rc < 0)
		return rc;
	now = before;
	now.process = *self;
	rc = kata__owner_write(dir, &now, err);
	if (rc < 0) {
		kata__owner_write(dir, &before, NULL); /* it may have failed after the rename */
		return rc;
	}
	*ret_before = before;
	*ret_now = now;
	return 0;
}

int kata__owner_take(const char *dir, const char *uuid, uint64_t known_epoch, const struct kata__process_identity *self,
		     struct kata__owner *ret_before, struct kata__owner *ret_now, kata_error **err)
{
	KATA_AUTO_FD int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return kata__fail(err, KATA_E_GONE, HOST,
				  "%s is not there: the machine was destroyed, or the state directory is another", dir);
	if (fd < 0 || fstat(fd, &st) < 0)
		return kata__fail_errno(err, errno, "cannot open %s", dir);
	if (st.st_uid != geteuid() || (st.st_mode & 022))
		return kata__fail(err, KATA_E_IDENTITY, HOST,
				  "%s belongs to uid %d with mode %o: it must be ours alone", dir, (int)st.st_uid,
				  (unsigned)(st.st_mode & 07777));
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? kata__fail(err, KATA_E_FENCED, CALLER,
							 "another process is taking the machine over just now")
					    : kata__fail_errno(err, errno, "cannot lock %s", dir);
	return take_locked(dir, uuid, known_epoch, self, ret_before, ret_now, err);
}
