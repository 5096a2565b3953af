/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_QEMU_CAPS_H
#define KATA_VM_QEMU_CAPS_H
/*
 * What a QEMU binary is and can do: asked of the binary itself, once, and kept in the cache directory keyed by path,
 * inode, ctime and size. A cache file that does not read back cleanly is ignored and written anew.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define KATA__QEMU_MACHINES_MAX 512

struct kata__qemu_machine {
	char *name;
	char *alias; /* or NULL */
	uint32_t cpus_max;
};

/* Device types the driver can make use of, as bits. */
enum kata__qemu_type {
	KATA__QEMU_VIRTIO_BLK,
	KATA__QEMU_VIRTIO_SCSI,
	KATA__QEMU_SCSI_HD,
	KATA__QEMU_VIRTIO_NET,
	KATA__QEMU_VIRTIO_SERIAL,
	KATA__QEMU_SERIAL_PORT,
	KATA__QEMU_ROOT_PORT,
	KATA__QEMU_ISA_SERIAL,
	KATA__QEMU_VHOST_VSOCK, /* the only one that is not needed */
	KATA__QEMU_TYPES
};

struct kata__qemu_caps {
	unsigned version[3];
	struct kata__qemu_machine *machines;
	size_t machine_count;
	uint32_t types; /* 1 << enum kata__qemu_type */
};

void kata__qemu_caps_free(struct kata__qemu_caps *c); /* NULL is fine */

/* Runs the binary with `-machine none` as these ids (when set_ids) and asks. Blocking, 0.1 to 0.3 s, at most 10 s. */
int kata__qemu_probe(const char *binary, bool set_ids, uid_t uid, gid_t gid, struct kata__qemu_caps **ret,
		     kata_error **err);
/* From the cache, else by the probe. Blocking. */
int kata__qemu_caps_get(const char *binary, const char *cache_dir, bool set_ids, uid_t uid, gid_t gid,
			struct kata__qemu_caps **ret, kata_error **err);
/* UNSUPPORTED: too old, or device types are missing (named). */
int kata__qemu_caps_check(const struct kata__qemu_caps *c, const char *binary, kata_error **err);
/* By name or alias; NULL. */
const struct kata__qemu_machine *kata__qemu_caps_find_machine(const struct kata__qemu_caps *c, const char *name);

/* From replies of QEMU: query-machines, qom-list-types. */
int kata__qemu_caps_read_machines(struct kata__qemu_caps *c, const json_t *reply, kata_error **err);
int kata__qemu_caps_read_types(struct kata__qemu_caps *c, const json_t *reply, kata_error **err);

/* The cache file's text; parse gives CORRUPT for anything but what format makes, NOT_FOUND for another key. */
char *kata__qemu_caps_format(const struct kata__qemu_caps *c, const char *key);
int kata__qemu_caps_parse(const char *text, size_t len, const char *key, struct kata__qemu_caps **ret,
			  kata_error **err);
#endif
