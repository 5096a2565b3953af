/* SPDX-License-Identifier: Apache-2.0 */
/* notes.c - see notes.h. They lie in a directory that is ours alone; read back they are parsed strictly nevertheless.
 */
#include "vm/notes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/json.h"
#include "base/text.h"

#define NOTE_BYTES_MAX (1024u * 1024u)
#define SAVING_PREFIX ".kata-save-"
#define FILES_MAX 1024u

static int write_note(const char *vm_dir, const char *name, const char *text, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/%s", vm_dir, name);

	return path ? kata__write_file_atomic(path, text, strlen(text), err) : kata__fail_no_memory(err);
}

static int remove_note(const char *vm_dir, const char *name, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/%s", vm_dir, name);

	if (!path)
		return kata__fail_no_memory(err);
	return unlink(path) == 0 || errno == ENOENT ? 0 : kata__fail_errno(err, errno, "cannot remove %s", path);
}

/* *ret NULL: there is none. */
static int read_note(const char *vm_dir, const char *name, char **ret, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/%s", vm_dir, name);

	*ret = NULL;
	if (!path)
		return kata__fail_no_memory(err);
	if (faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	return kata__read_file(path, NOTE_BYTES_MAX, ret, NULL, err);
}

/* ---- saving ---- */

char *kata__note_saving_name(const char *parent)
{
	char uuid[37];

	kata__uuid_generate(uuid);
	return kata__format("%s/" SAVING_PREFIX "%s", strcmp(parent, "/") == 0 ? "" : parent, uuid);
}

bool kata__is_saving_name(const char *path)
{
	const char *name = strrchr(path, '/');

	return path[0] == '/' && strncmp(name + 1, SAVING_PREFIX, strlen(SAVING_PREFIX)) == 0 &&
	       kata__uuid_is_valid(name + 1 + strlen(SAVING_PREFIX));
}

int kata__note_saving(const char *vm_dir, const char *dir, bool was_running, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = vm_dir ? json_pack("{s:s, s:b}", "dir", dir, "was_running", (int)was_running) : NULL;
	KATA_AUTO(free) char *text = o ? kata__json_dump(o) : NULL;

	if (!vm_dir)
		return 0;
	return text ? write_note(vm_dir, "saving", text, err) : kata__fail_no_memory(err);
}

int kata__forget_saving(const char *vm_dir, kata_error **err)
{
	return vm_dir ? remove_note(vm_dir, "saving", err) : 0;
}

/* *ret NULL: there is none. */
static int load_saving(const char *vm_dir, json_t **ret, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	int rc = read_note(vm_dir, "saving", &text, err);

	*ret = NULL;
	return rc < 0 || !text ? rc : kata__json_parse("saving", text, strlen(text), NOTE_BYTES_MAX, ret, err);
}

bool kata__is_saving(const char *vm_dir, bool *ret_was_running)
{
	KATA_AUTO_JSON json_t *o = NULL;

	*ret_was_running = false;
	if (!vm_dir || load_saving(vm_dir, &o, NULL) < 0 || !o)
		return false;
	return kata__json_get_bool(o, "saving", "was_running", ret_was_running, NULL) == 0;
}

char *kata__get_saving(const char *vm_dir)
{
	KATA_AUTO_JSON json_t *o = NULL;
	const char *dir = NULL;

	if (load_saving(vm_dir, &o, NULL) < 0 || !o || kata__json_get_string(o, "saving", "dir", &dir, NULL) < 0)
		return NULL;
	return kata__is_saving_name(dir) ? kata__strdup(dir) : NULL;
}

static int open_saving(const char *path)
{
	return open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

bool kata__saving_is_under_way(const char *path)
{
	KATA_AUTO_FD int fd = open_saving(path);

	return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

int kata__remove_saving(const char *path, kata_error **err)
{
	KATA_AUTO_FD int fd = open_saving(path);

	if (fd < 0)
		return errno == ENOENT ? 0 : kata__fail_errno(err, errno, "cannot open %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return kata__fail(err, KATA_E_BUSY, HOST, "the snapshot in %s is being made just now", path);
	return kata__remove_tree(path, err);
}

static int sweep_saving(const char *vm_dir, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = NULL;
	const char *dir = NULL;
	int rc = load_saving(vm_dir, &o, err);

	if (rc == 0 && o)
		rc = kata__json_get_string(o, "saving", "dir", &dir, err);
	if (rc == 0 && dir && kata__is_saving_name(dir))
		rc = kata__remove_tree(dir, err);
	return rc < 0 ? rc : remove_note(vm_dir, "saving", err);
}

/* ---- restored ---- */

static int load_restored(const char *vm_dir, json_t **ret, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	int rc = read_note(vm_dir, "restored", &text, err);

	*ret = NULL;
	if (rc == 0 && text)
		rc = kata__json_parse("restored", text, strlen(text), NOTE_BYTES_MAX, ret, err);
	if (rc < 0 || *ret)
		return rc;
	*ret = json_pack("{s:[]}", "files");
	return *ret ? 0 : kata__fail_no_memory(err);
}

int kata__note_restored(const char *vm_dir, const char *path, const struct stat *st, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = NULL;
	KATA_AUTO(free) char *text = NULL;
	json_t *files = NULL;
	int rc = vm_dir ? load_restored(vm_dir, &o, err) : 0;

	if (rc < 0 || !vm_dir)
		return rc;
	rc = kata__json_get_array(o, "restored", "files", FILES_MAX, &files, err);
	if (rc < 0)
		return rc;
	if (json_array_append_new(files, json_pack("{s:s, s:I, s:I}", "path", path, "dev", (json_int_t)st->st_dev,
						   "ino", (json_int_t)st->st_ino)) < 0 ||
	    !(text = kata__json_dump(o)))
		return kata__fail_no_memory(err);
	return write_note(vm_dir, "restored", text, err);
}

int kata__forget_restored(const char *vm_dir, kata_error **err)
{
	return vm_dir ? remove_note(vm_dir, "restored", err) : 0;
}

/* The very file that was made, and no other of its name. */
static int sweep_file(const json_t *o, kata_error **err)
{
	const char *path = NULL;
	uint64_t dev = 0, ino = 0;
	struct stat st;
	int rc = kata__json_get_string(o, "restored", "path", &path, err);

	if (rc == 0)
		rc = kata__json_get_uint(o, "restored", "dev", INT64_MAX, &dev, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, "restored", "ino", INT64_MAX, &ino, err);
	if (rc < 0 || lstat(path, &st) < 0 || st.st_dev != dev || st.st_ino != ino)
		return rc;
	return unlink(path) == 0 || errno == ENOENT ? 0 : kata__fail_errno(err, errno, "cannot remove %s", path);
}

static int sweep_restored(const char *vm_dir, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = NULL;
	json_t *files = NULL;
	int rc = load_restored(vm_dir, &o, err);

	if (rc == 0)
		rc = kata__json_get_array(o, "restored", "files", FILES_MAX, &files, err);
	for (size_t i = 0; rc == 0 && i < json_array_size(files); i++)
		rc = sweep_file(json_array_get(files, i), err);
	return rc < 0 ? rc : remove_note(vm_dir, "restored", err);
}

/* ---- frozen ---- */

int kata__note_frozen(const char *vm_dir, const char *snapshot, kata_error **err)
{
	return vm_dir ? write_note(vm_dir, "frozen", snapshot, err) : 0;
}

int kata__forget_frozen(const char *vm_dir, kata_error **err)
{
	return vm_dir ? remove_note(vm_dir, "frozen", err) : 0;
}

bool kata__is_frozen(const char *vm_dir)
{
	KATA_AUTO(free) char *snapshot = NULL;
	KATA_AUTO(free) char *manifest = NULL;

	if (!vm_dir || read_note(vm_dir, "frozen", &snapshot, NULL) < 0 || !snapshot)
		return false;
	manifest = kata__format("%s/manifest.json", snapshot);
	return !manifest || access(manifest, F_OK) == 0;
}

/* ---- all ---- */

int kata__sweep_notes(const char *vm_dir, kata_error **err)
{
	int rc = sweep_saving(vm_dir, err);

	return rc < 0 ? rc : sweep_restored(vm_dir, err);
}
