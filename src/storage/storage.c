/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_storage: what the caller wants plugged, and the mirror of what the guest sees.
 *
 * Model: the config is copied at birth and never changes. State, address and size are its mirror's (base/mirror.h).
 * Does not touch files: see image.c.
 */
#include "storage/storage.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/mirror.h"
#include "base/options.h"
#include "base/text.h"

#define STORAGE_MAGIC 0x4b53544fu
#define MOUNT_OPTIONS_MAX 64
#define PATH_BYTES_MAX 4095

struct kata_storage {
	uint32_t magic;
	atomic_uint refs;
	char *id;
	char *path;
	char *backing_path;
	char *fstype;
	char **mount_options;
	kata_storage_format format;
	kata_storage_format backing_format;
	kata_storage_driver driver;
	uint64_t flags;

	struct kata__mirror mirror;
};

static const char *const format_names[] = {"raw", "qcow2"};
static const char *const driver_names[] = {"virtio-blk", "virtio-scsi"};

const char *kata__storage_format_name(kata_storage_format f)
{
	return (unsigned)f < kata__array_size(format_names) ? format_names[f] : "unknown";
}

static int check_path(const char *argument, const char *path, kata_error **err)
{
	if (!path)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL, must be an absolute path", argument);
	if (path[0] != '/')
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: '%.128s' is relative, must be absolute", argument,
				  path);
	if (strnlen(path, PATH_BYTES_MAX + 1) > PATH_BYTES_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is longer than %d bytes", argument, PATH_BYTES_MAX);
	return 0;
}

static int check_enums(const kata_storage_config *c, kata_error **err)
{
	if ((unsigned)c->format >= kata__array_size(format_names))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "storage.format: %d is neither KATA_STORAGE_RAW nor _QCOW2", (int)c->format);
	if ((unsigned)c->driver >= kata__array_size(driver_names))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "storage.driver: %d is neither KATA_STORAGE_VIRTIO_BLK nor _VIRTIO_SCSI",
				  (int)c->driver);
	if ((unsigned)c->backing_format >= kata__array_size(format_names))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "storage.backing_format: %d is neither KATA_STORAGE_RAW nor _QCOW2",
				  (int)c->backing_format);
	if (c->flags & ~KATA_STORAGE_READ_ONLY)
		return kata__fail(err, KATA_E_INVALID, CALLER, "storage.flags: unknown bits 0x%llx",
				  (unsigned long long)(c->flags & ~KATA_STORAGE_READ_ONLY));
	return 0;
}

static bool word_is_plain(const char *word, size_t max)
{
	size_t n = strnlen(word, max + 1);

	if (n == 0 || n > max)
		return false;
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)word[i] <= ' ' || word[i] == 0x7f)
			return false;
	return true;
}

static int check_mount(const kata_storage_config *c, kata_error **err)
{
	size_t count = c->mount_options ? kata__strv_length(c->mount_options) : 0;

	if (c->fstype && !word_is_plain(c->fstype, 32))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "storage.fstype: must be 1 to 32 bytes without spaces and control characters");
	if (count > MOUNT_OPTIONS_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "storage.mount_options: %zu of them, at most %d", count,
				  MOUNT_OPTIONS_MAX);
	for (size_t i = 0; i < count; i++)
		if (!word_is_plain(c->mount_options[i], 1024))
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "storage.mount_options[%zu]: must be 1 to 1024 bytes without spaces and "
					  "control characters",
					  i);
	return 0;
}

static int check_config(const kata_storage_config *c, kata_error **err)
{
	int rc = c->id ? kata__id_check("storage.id", c->id, err) : 0;

	if (rc == 0)
		rc = check_path("storage.path", c->path, err);
	if (rc == 0)
		rc = check_enums(c, err);
	if (rc == 0 && c->backing_path)
		rc = check_path("storage.backing_path", c->backing_path, err);
	if (rc == 0 && c->backing_path && c->format != KATA_STORAGE_QCOW2)
		rc = kata__fail(err, KATA_E_INVALID, CALLER,
				"storage.backing_path: only a qcow2 image has a backing file, this one is raw");
	if (rc == 0)
		rc = check_mount(c, err);
	return rc;
}

static void storage_free(kata_storage *s)
{
	free(s->id);
	free(s->path);
	free(s->backing_path);
	free(s->fstype);
	kata__strv_free(s->mount_options);
	kata__mirror_deinit(&s->mirror);
	s->magic = 0;
	free(s);
}

static bool copy_strings(kata_storage *s, const kata_storage_config *c)
{
	char uuid[37];

	if (!c->id)
		kata__uuid_generate(uuid);
	s->id = kata__strdup(c->id ? c->id : uuid);
	s->path = kata__strdup(c->path);
	s->fstype = kata__strdup(c->fstype ? c->fstype : "ext4");
	if (c->backing_path)
		s->backing_path = kata__strdup(c->backing_path);
	if (c->mount_options)
		s->mount_options = kata__strv_dup(c->mount_options);
	return s->id && s->path && s->fstype && (!c->backing_path || s->backing_path) &&
	       (!c->mount_options || s->mount_options);
}

int kata_storage_new(const kata_storage_config *config, kata_storage **ret_storage, kata_error **err)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_storage *s;
	int rc;

	if (!config || !ret_storage)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", config ? "ret_storage" : "storage");
	rc = kata__options_read(&c, sizeof(c), config, "storage", err);
	if (rc == 0)
		rc = check_config(&c, err);
	if (rc < 0)
		return rc;

	s = calloc(1, sizeof(*s));
	if (!s)
		return kata__fail_no_memory(err);
	s->magic = STORAGE_MAGIC;
	atomic_init(&s->refs, 1);
	kata__mirror_init(&s->mirror, true);
	s->format = c.format;
	s->backing_format = c.backing_format;
	s->driver = c.driver;
	s->flags = c.flags;
	if (!copy_strings(s, &c)) {
		storage_free(s);
		return kata__fail_no_memory(err);
	}
	*ret_storage = s;
	return 0;
}

int kata__storage_clone(const kata_storage *s, const struct kata__storage_place *place, kata_storage **ret,
			kata_error **err)
{
	const struct kata__storage_place same = {s->path, s->format, s->backing_path, s->backing_format};
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;

	place = place ? place : &same;
	c.id = s->id;
	c.path = place->path;
	c.format = place->format;
	c.driver = s->driver;
	c.flags = s->flags;
	c.backing_path = place->backing_path;
	c.backing_format = place->backing_format;
	c.fstype = s->fstype;
	c.mount_options = (const char *const *)s->mount_options;
	return kata_storage_new(&c, ret, err);
}

kata_storage *kata_storage_ref(kata_storage *storage)
{
	if (storage)
		atomic_fetch_add_explicit(&storage->refs, 1, memory_order_relaxed);
	return storage;
}

void kata_storage_unref(kata_storage *storage)
{
	if (storage && atomic_fetch_sub_explicit(&storage->refs, 1, memory_order_acq_rel) == 1)
		storage_free(storage);
}

const char *kata_storage_get_id(const kata_storage *storage)
{
	return storage ? storage->id : NULL;
}

const char *kata_storage_get_path(const kata_storage *storage)
{
	return storage ? storage->path : NULL;
}

kata_storage_format kata_storage_get_format(const kata_storage *storage)
{
	return storage ? storage->format : KATA_STORAGE_RAW;
}

kata_storage_driver kata_storage_get_driver(const kata_storage *storage)
{
	return storage ? storage->driver : KATA_STORAGE_VIRTIO_BLK;
}

bool kata_storage_is_read_only(const kata_storage *storage)
{
	return storage && (storage->flags & KATA_STORAGE_READ_ONLY);
}

const char *kata_storage_get_fstype(const kata_storage *storage)
{
	return storage ? storage->fstype : NULL;
}

const char *kata__storage_backing_path(const kata_storage *s)
{
	return s->backing_path;
}

kata_storage_format kata__storage_backing_format(const kata_storage *s)
{
	return s->backing_format;
}

const char *const *kata__storage_mount_options(const kata_storage *s)
{
	return (const char *const *)s->mount_options;
}

/* ---- the mirror ---- */

kata_device_state kata_storage_get_state(const kata_storage *storage)
{
	return storage ? kata__mirror_get_state(&storage->mirror) : KATA_DEVICE_NEW;
}

size_t kata_storage_get_address(const kata_storage *storage, char *buf, size_t buf_size)
{
	return storage ? kata__mirror_get_address(&storage->mirror, buf, buf_size)
		       : kata__copy_text(buf, buf ? buf_size : 0, "");
}

uint64_t kata_storage_get_size_bytes(const kata_storage *storage)
{
	return storage ? kata__mirror_get_size_bytes(&storage->mirror) : 0;
}

int kata__storage_begin_plug(kata_storage *s, kata_error **err)
{
	return kata__mirror_begin_plug(&s->mirror, "storage", s->id, err);
}

void kata__storage_set_state(kata_storage *s, kata_device_state state)
{
	kata__mirror_set_state(&s->mirror, state);
}

void kata__storage_set_plugged(kata_storage *s, const char *address, uint64_t size_bytes)
{
	kata__mirror_set_plugged(&s->mirror, address, size_bytes);
}

/* ---- JSON ---- */

static json_t *options_to_json(char *const *options)
{
	json_t *list = json_array();

	for (size_t i = 0; list && options && options[i]; i++) {
		if (json_array_append_new(list, json_string(options[i])) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

json_t *kata__storage_to_json(const kata_storage *s)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:b, s:s, s:o}", "id", s->id, "path", s->path, "format",
			      format_names[s->format], "driver", driver_names[s->driver], "read_only",
			      (int)(s->flags & KATA_STORAGE_READ_ONLY), "fstype", s->fstype, "mount_options",
			      options_to_json(s->mount_options));

	if (!o || kata__json_set_text(o, "backing_path", s->backing_path) < 0 ||
	    kata__json_set_text(o, "backing_format", s->backing_path ? format_names[s->backing_format] : NULL) < 0 ||
	    kata__mirror_to_json(&s->mirror, o) < 0) {
		json_decref(o);
		return NULL;
	}
	return o;
}

static int read_name(const json_t *o, const char *what, const char *key, const char *const *names, size_t count,
		     bool optional, int *ret, kata_error **err)
{
	const char *name = NULL;
	int rc = optional ? kata__json_get_string_opt(o, what, key, &name, err)
			  : kata__json_get_string(o, what, key, &name, err);

	if (rc < 0)
		return rc;
	*ret = 0;
	if (!name)
		return 0;
	for (size_t i = 0; i < count; i++) {
		if (strcmp(names[i], name) == 0) {
			*ret = (int)i;
			return 0;
		}
	}
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: '%.32s' is unknown", what, key, name);
}

/* The mount options, borrowed from `o`, NULL-terminated in a malloc'ed array. */
static int read_options(const json_t *o, const char *what, const char ***ret, kata_error **err)
{
	const char **list;
	json_t *array;
	int rc = kata__json_get_array(o, what, "mount_options", MOUNT_OPTIONS_MAX, &array, err);

	if (rc < 0)
		return rc;
	list = calloc(json_array_size(array) + 1, sizeof(*list));
	if (!list)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < json_array_size(array); i++) {
		list[i] = json_string_value(json_array_get(array, i));
		if (!list[i]) {
			free(list);
			return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.mount_options[%zu]: is no string", what, i);
		}
	}
	*ret = list;
	return 0;
}

static int read_config(const json_t *o, const char *what, kata_storage_config *c, kata_error **err)
{
	int rc, format = 0, driver = 0, backing = 0;
	bool read_only = false;

	rc = kata__json_get_string(o, what, "id", &c->id, err);
	if (rc == 0)
		rc = kata__json_get_string(o, what, "path", &c->path, err);
	if (rc == 0)
		rc = kata__json_get_string(o, what, "fstype", &c->fstype, err);
	if (rc == 0)
		rc = kata__json_get_string_opt(o, what, "backing_path", &c->backing_path, err);
	if (rc == 0)
		rc = kata__json_get_bool(o, what, "read_only", &read_only, err);
	if (rc == 0)
		rc = read_name(o, what, "format", format_names, kata__array_size(format_names), false, &format, err);
	if (rc == 0)
		rc = read_name(o, what, "backing_format", format_names, kata__array_size(format_names), true, &backing,
			       err);
	if (rc == 0)
		rc = read_name(o, what, "driver", driver_names, kata__array_size(driver_names), false, &driver, err);
	c->format = (kata_storage_format)format;
	c->backing_format = (kata_storage_format)backing;
	c->driver = (kata_storage_driver)driver;
	c->flags = read_only ? KATA_STORAGE_READ_ONLY : 0;
	return rc;
}

int kata__storage_from_json(const json_t *o, const char *what, kata_storage **ret, kata_error **err)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	KATA_AUTO(free) const char **options = NULL;
	kata_storage *s = NULL;
	kata_error *cause = NULL;
	int rc;

	rc = read_config(o, what, &c, err);
	if (rc == 0)
		rc = read_options(o, what, &options, err);
	if (rc < 0)
		return rc;
	c.mount_options = options;
	rc = kata_storage_new(&c, &s, &cause);
	if (rc == KATA_E_INVALID) { /* the text is wrong, not the caller's argument */
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: %s", what, kata_error_get_message(cause));
		kata_error_free(cause);
		return rc;
	}
	if (rc < 0)
		return kata__error_move(err, &cause);
	rc = kata__mirror_from_json(&s->mirror, o, what, err);
	if (rc < 0) {
		kata_storage_unref(s);
		return rc;
	}
	*ret = s;
	return 0;
}
