/* SPDX-License-Identifier: Apache-2.0 */
/* caps.c - what was found out about a binary: reading QEMU's replies, checking, and the cache file. */
#include "vm/qemu/caps.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/json.h"
#include "base/text.h"

#define FORMAT_VERSION 1
#define CACHE_MAX (256u * 1024u)
#define NAME_MAX_BYTES 63u
/* -netdev and -device in JSON, ACPI hotplug on root ports. */
#define OLDEST_MAJOR 7u
#define OLDEST_MINOR 2u

static const char *const type_names[KATA__QEMU_TYPES] = {
	[KATA__QEMU_VIRTIO_BLK] = "virtio-blk-pci",
	[KATA__QEMU_VIRTIO_SCSI] = "virtio-scsi-pci",
	[KATA__QEMU_SCSI_HD] = "scsi-hd",
	[KATA__QEMU_VIRTIO_NET] = "virtio-net-pci",
	[KATA__QEMU_VIRTIO_SERIAL] = "virtio-serial-pci",
	[KATA__QEMU_SERIAL_PORT] = "virtserialport",
	[KATA__QEMU_ROOT_PORT] = "pcie-root-port",
	[KATA__QEMU_ISA_SERIAL] = "isa-serial",
	[KATA__QEMU_VHOST_VSOCK] = "vhost-vsock-pci",
};

void kata__qemu_caps_free(struct kata__qemu_caps *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->machine_count; i++) {
		free(c->machines[i].name);
		free(c->machines[i].alias);
	}
	free(c->machines);
	free(c);
}
KATA__DEFINE_CLEANUP(struct kata__qemu_caps *, kata__qemu_caps_free)

/* ---- QEMU's replies */

/* Names end up on command lines: QEMU's own have this alphabet, and the binary is not trusted more than that. */
static bool is_name(const char *s)
{
	size_t n = strlen(s);

	return n && n <= NAME_MAX_BYTES &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.+") == n;
}

static int add_machine(struct kata__qemu_caps *c, const char *name, const char *alias, uint64_t cpus_max,
		       kata_error **err)
{
	struct kata__qemu_machine *m = &c->machines[c->machine_count];

	m->name = kata__strdup(name);
	m->alias = kata__strdup(alias);
	m->cpus_max = cpus_max > UINT32_MAX ? UINT32_MAX : (uint32_t)cpus_max;
	c->machine_count++;
	return m->name && (m->alias || !alias) ? 0 : kata__fail_no_memory(err);
}

static int make_room(struct kata__qemu_caps *c, const json_t *list, kata_error **err)
{
	size_t n = json_array_size(list);

	if (!json_is_array(list) || n > KATA__QEMU_MACHINES_MAX)
		return kata__fail(err, KATA_E_PROTOCOL, VMM, "QEMU: the list of machines is no list of at most %d",
				  KATA__QEMU_MACHINES_MAX);
	c->machines = calloc(n + 1, sizeof(*c->machines));
	return c->machines ? 0 : kata__fail_no_memory(err);
}

int kata__qemu_caps_read_machines(struct kata__qemu_caps *c, const json_t *reply, kata_error **err)
{
	const json_t *o;
	size_t i;
	int rc = make_room(c, reply, err);

	if (rc)
		return rc;
	json_array_foreach(reply, i, o)
	{
		const char *name = json_string_value(json_object_get(o, "name"));
		const char *alias = json_string_value(json_object_get(o, "alias"));
		json_int_t cpus = json_integer_value(json_object_get(o, "cpu-max"));

		if (!name || !is_name(name) || (alias && !is_name(alias)) || cpus < 1)
			return kata__fail(err, KATA_E_PROTOCOL, VMM, "QEMU: a machine without name and cpu-max");
		rc = add_machine(c, name, alias, (uint64_t)cpus, err);
		if (rc)
			return rc;
	}
	return 0;
}

static void note_type(struct kata__qemu_caps *c, const char *name)
{
	for (unsigned t = 0; t < KATA__QEMU_TYPES; t++)
		if (strcmp(name, type_names[t]) == 0)
			c->types |= 1u << t;
}

int kata__qemu_caps_read_types(struct kata__qemu_caps *c, const json_t *reply, kata_error **err)
{
	const json_t *o;
	size_t i;

	if (!json_is_array(reply))
		return kata__fail(err, KATA_E_PROTOCOL, VMM, "QEMU: the list of device types is no list");
	json_array_foreach(reply, i, o)
	{
		const char *name = json_string_value(json_object_get(o, "name"));

		if (name)
			note_type(c, name);
	}
	return 0;
}

/* ---- what it means */

int kata__qemu_caps_check(const struct kata__qemu_caps *c, const char *binary, kata_error **err)
{
	char missing[256] = "";
	size_t len = 0;

	if (c->version[0] < OLDEST_MAJOR || (c->version[0] == OLDEST_MAJOR && c->version[1] < OLDEST_MINOR))
		return kata__fail(err, KATA_E_UNSUPPORTED, HOST, "%s is QEMU %u.%u.%u: at least %u.%u is needed",
				  binary, c->version[0], c->version[1], c->version[2], OLDEST_MAJOR, OLDEST_MINOR);
	for (unsigned t = 0; t < KATA__QEMU_VHOST_VSOCK; t++)
		if (!(c->types & 1u << t))
			len += (size_t)snprintf(missing + len, sizeof(missing) - len, " %s", type_names[t]);
	if (len)
		return kata__fail(err, KATA_E_UNSUPPORTED, HOST, "%s has no device type%s", binary, missing);
	return 0;
}

const struct kata__qemu_machine *kata__qemu_caps_find_machine(const struct kata__qemu_caps *c, const char *name)
{
	for (size_t i = 0; i < c->machine_count; i++) {
		const struct kata__qemu_machine *m = &c->machines[i];

		if (strcmp(m->name, name) == 0 || (m->alias && strcmp(m->alias, name) == 0))
			return m;
	}
	return NULL;
}

/* ---- the cache file */

static json_t *machine_to_json(const struct kata__qemu_machine *m)
{
	json_t *o = json_pack("{s:s, s:I}", "name", m->name, "cpus_max", (json_int_t)m->cpus_max);

	if (o && m->alias && json_object_set_new(o, "alias", json_string(m->alias))) {
		json_decref(o);
		return NULL;
	}
	return o;
}

static json_t *machines_to_json(const struct kata__qemu_caps *c)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < c->machine_count; i++) {
		if (json_array_append_new(list, machine_to_json(&c->machines[i]))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

char *kata__qemu_caps_format(const struct kata__qemu_caps *c, const char *key)
{
	json_t *machines = machines_to_json(c);
	KATA_AUTO_JSON json_t *o =
		machines ? json_pack("{s:i, s:s, s:[iii], s:I, s:o}", "format", FORMAT_VERSION, "key", key, "version",
				     (int)c->version[0], (int)c->version[1], (int)c->version[2], "types",
				     (json_int_t)c->types, "machines", machines)
			 : NULL;

	return o ? kata__json_dump(o) : NULL;
}

static int parse_version(const json_t *o, struct kata__qemu_caps *c, kata_error **err)
{
	json_t *list;
	int rc = kata__json_get_array(o, "qemu cache", "version", 3, &list, err);

	if (rc)
		return rc;
	for (size_t i = 0; i < 3; i++) {
		const json_t *part = json_array_get(list, i);

		if (!json_is_integer(part) || json_integer_value(part) < 0 || json_integer_value(part) > 99999)
			return kata__fail(err, KATA_E_CORRUPT, HOST, "qemu cache.version: expected three numbers");
		c->version[i] = (unsigned)json_integer_value(part);
	}
	return 0;
}

static int parse_machine(const json_t *o, struct kata__qemu_caps *c, kata_error **err)
{
	const char *name, *alias;
	uint64_t cpus;
	int rc;

	if ((rc = kata__json_get_string(o, "qemu cache machine", "name", &name, err)) ||
	    (rc = kata__json_get_string_opt(o, "qemu cache machine", "alias", &alias, err)) ||
	    (rc = kata__json_get_uint(o, "qemu cache machine", "cpus_max", UINT32_MAX, &cpus, err)))
		return rc;
	if (!is_name(name) || (alias && !is_name(alias)) || !cpus)
		return kata__fail(err, KATA_E_CORRUPT, HOST, "qemu cache machine: no name or no CPUs");
	return add_machine(c, name, alias, cpus, err);
}

static int parse_machines(const json_t *o, struct kata__qemu_caps *c, kata_error **err)
{
	const json_t *m;
	json_t *list;
	size_t i;
	int rc = kata__json_get_array(o, "qemu cache", "machines", KATA__QEMU_MACHINES_MAX, &list, err);

	if (!rc)
		rc = make_room(c, list, err);
	if (rc)
		return rc;
	json_array_foreach(list, i, m)
	{
		rc = parse_machine(m, c, err);
		if (rc)
			return rc;
	}
	return 0;
}

static int parse_head(const json_t *o, const char *key, struct kata__qemu_caps *c, kata_error **err)
{
	uint64_t format, types;
	const char *cached_key;
	int rc;

	if ((rc = kata__json_get_uint(o, "qemu cache", "format", 1000, &format, err)) ||
	    (rc = kata__json_get_string(o, "qemu cache", "key", &cached_key, err)) ||
	    (rc = kata__json_get_uint(o, "qemu cache", "types", (1u << KATA__QEMU_TYPES) - 1, &types, err)))
		return rc;
	if (format != FORMAT_VERSION || strcmp(cached_key, key) != 0)
		return kata__fail(err, KATA_E_NOT_FOUND, HOST, "qemu cache: of another binary or format");
	c->types = (uint32_t)types;
	return 0;
}

int kata__qemu_caps_parse(const char *text, size_t len, const char *key, struct kata__qemu_caps **ret, kata_error **err)
{
	KATA_AUTO(kata__qemu_caps_free) struct kata__qemu_caps *c = calloc(1, sizeof(*c));
	KATA_AUTO_JSON json_t *o = NULL;
	int rc;

	if (!c)
		return kata__fail_no_memory(err);
	if ((rc = kata__json_parse("qemu cache", text, len, CACHE_MAX, &o, err)) || (rc = parse_head(o, key, c, err)) ||
	    (rc = parse_version(o, c, err)) || (rc = parse_machines(o, c, err)))
		return rc;
	*ret = kata__take_ptr(c);
	return 0;
}

/* ---- together */

static char *make_key(const char *binary, const struct stat *st)
{
	return kata__format("%s %llx:%llx %lld.%09ld %lld", binary, (unsigned long long)st->st_dev,
			    (unsigned long long)st->st_ino, (long long)st->st_ctim.tv_sec, st->st_ctim.tv_nsec,
			    (long long)st->st_size);
}

/* A name for the path: FNV-1a. Two paths with one name overwrite each other's answer; the key inside tells them apart.
 */
static char *make_path(const char *cache_dir, const char *binary)
{
	uint64_t h = UINT64_C(14695981039346656037);

	for (const char *p = binary; *p; p++)
		h = (h ^ (uint8_t)*p) * UINT64_C(1099511628211);
	return kata__format("%s/qemu-%016llx.json", cache_dir, (unsigned long long)h);
}

static int probe_and_keep(const char *binary, const char *path, const char *key, bool set_ids, uid_t uid, gid_t gid,
			  struct kata__qemu_caps **ret, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	int rc = kata__qemu_probe(binary, set_ids, uid, gid, ret, err);

	if (rc)
		return rc;
	text = kata__qemu_caps_format(*ret, key);
	if (text) /* a cache that cannot be written only costs time */
		(void)kata__write_file_atomic(path, text, strlen(text), NULL);
	return 0;
}

int kata__qemu_caps_get(const char *binary, const char *cache_dir, bool set_ids, uid_t uid, gid_t gid,
			struct kata__qemu_caps **ret, kata_error **err)
{
	KATA_AUTO(free) char *key = NULL, *path = make_path(cache_dir, binary), *text = NULL;
	struct stat st;
	size_t len;

	if (stat(binary, &st))
		return kata__fail(err, KATA_E_NOT_FOUND, HOST, "QEMU's binary '%s' has gone since the builder was made",
				  binary);
	key = make_key(binary, &st);
	if (!key || !path)
		return kata__fail_no_memory(err);
	if (kata__read_file(path, CACHE_MAX, &text, &len, NULL) == 0 &&
	    kata__qemu_caps_parse(text, len, key, ret, NULL) == 0)
		return 0;
	return probe_and_keep(binary, path, key, set_ids, uid, gid, ret, err);
}
