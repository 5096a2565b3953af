/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_MANIFEST_H
#define KATA_VM_MANIFEST_H
/*
 * manifest.json of a snapshot, in memory: docs/snapshots.md has the format. Written by the save, read back as hostile
 * input: every member must be there and no other, in its range, and none may contradict another.
 */
#include <kata/agent.h>
#include <kata/snapshot.h>

#include "base/json.h"
#include "storage/files.h"
#include "vm/config.h"

#define KATA__MANIFEST_NAME "manifest.json"
#define KATA__MANIFEST_VERSION 1
#define KATA__MANIFEST_PARTS_MAX 520u /* a disk each on every port and LUN, state, memory, some of rooms above */
#define KATA__MANIFEST_STATE "state"
#define KATA__MANIFEST_MEMORY "memory"
#define KATA__MANIFEST_EXTRA "x-" /* prefix of parts that rooms above put in */

/* A file in the directory. */
struct kata__manifest_part {
	char name[32]; /* [a-z][a-z0-9-]*: the name of its file too */
	char sha256[KATA__DIGEST_MAX];
	struct kata__file_identity file; /* where the digest need not be computed again; without ctime */
};

/* A file elsewhere that the machine needs, as it was. */
struct kata__manifest_file {
	char *path; /* NULL: the machine has none */
	char sha256[KATA__DIGEST_MAX];
	struct kata__file_identity file;
};

/* What kind of file a disk lies in, and which content it must have. */
struct kata__manifest_source {
	bool is_block_device; /* of which nothing more is known than its size */
	struct kata__file_identity file;
};

struct kata__manifest_disk {
	kata_storage *storage; /* as it was plugged; state NEW */
	uint32_t slot;
	uint64_t size_bytes;                  /* as the guest sees it */
	bool copied;                          /* a part of the snapshot, "disk-<index>"; else referred to at its path */
	struct kata__manifest_source source;  /* referred to */
	struct kata__manifest_source backing; /* where the storage has a backing file, which is always referred to */
};

struct kata__manifest_nic {
	kata_nic *nic;
	uint32_t slot;
};

struct kata__manifest {
	char driver[16], uuid[37], accelerator[8];
	uint64_t created_ns;
	kata_snapshot_memory memory;
	kata_agent_transport agent_transport;
	struct kata__vm_config_copy *config;
	struct kata__manifest_file kernel, initrd, image;
	struct kata__manifest_part *parts;
	size_t part_count;
	struct kata__manifest_disk *disks;
	size_t disk_count;
	struct kata__manifest_nic *nics;
	size_t nic_count;
	/* The VMM: what it is, and the driver's own (owned; the driver checks it). */
	char vmm_version[64], machine[65], cpu_model[128];
	json_t *vmm;
};

struct kata__manifest *kata__manifest_new(void);    /* NULL when out of memory */
void kata__manifest_free(struct kata__manifest *m); /* NULL is fine */
/* Adds an entry, zeroed; NULL when out of memory. */
struct kata__manifest_part *kata__manifest_add_part(struct kata__manifest *m, const char *name);
const struct kata__manifest_part *kata__manifest_find_part(const struct kata__manifest *m, const char *name);
/* "disk-<index>". */
void kata__manifest_disk_part(size_t index, char out[32]);

/* The text of manifest.json; NULL when out of memory. */
char *kata__manifest_write(const struct kata__manifest *m);
/* CORRUPT, VERSION. */
int kata__manifest_read(const char *text, size_t len, struct kata__manifest **ret, kata_error **err);
#endif
