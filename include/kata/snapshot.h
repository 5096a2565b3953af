/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SNAPSHOT_H
#define KATA_SNAPSHOT_H
/*
 * kata_snapshot: a machine saved on disk: a directory with manifest.json and parts (docs/snapshots.md has the format,
 * what is and is not preserved, and the trust model).
 *
 *   kata_vm_snapshot --> directory --kata_snapshot_open--> kata_snapshot --kata_vm_builder_build_from_snapshot-->
 * kata_vm
 *
 * Saving stops the vCPUs until memory and disks are copied, and leaves the machine as it found it (running, or paused
 * where the caller had paused it), whether it succeeds or fails. The directory is written beside its name, synced,
 * renamed: it is there whole or not at all. The VM made from it is CREATED and has touched nothing; kata_vm_start()
 * loads the state and lets it run. When that fails the host is as before and the VM CREATED. Devices of the snapshot
 * are there from the start; what the caller adds before the start is plugged behind the load, what he adds later as
 * ever.
 *
 * Lifetime: a kata_snapshot is constant; it describes the directory as it was when opened. VMs built from it keep what
 * they need. Threads: any. Security: a manifest is hostile input; parts are checked against it before they are used.
 * A saved machine is as secret as the memory in it: the directory is 0700, its files 0600 (those that the VMM must
 * open by itself belong to the VMM's uid).
 */
#include <stddef.h>
#include <stdint.h>

#include <kata/context.h>
#include <kata/nic.h>
#include <kata/storage.h>
#include <kata/vm.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kata_snapshot kata_snapshot;

typedef enum kata_snapshot_memory {
	KATA_SNAPSHOT_FULL = 0,        /* RAM is a part of the snapshot: any number of restores */
	KATA_SNAPSHOT_SHARED = 1,      /* RAM stays in the VM's memory_path file (needs memory_shared), which becomes a
					* part of the snapshot: it must be on the same file system, and is not at
					* memory_path any more afterwards. Restores map it privately: they share what
					* they do not write, and with it a side channel: docs/snapshots.md. The VM must not
					* run on: it is left PAUSED, and every call but destroy is refused with STATE */
	KATA_SNAPSHOT_DIFFERENTIAL = 2 /* UNSUPPORTED: no VMM here keeps track of what was written since a save */
} kata_snapshot_memory;
KATA_API const char *kata_snapshot_memory_get_name(kata_snapshot_memory memory);

typedef enum kata_snapshot_disk {
	KATA_SNAPSHOT_DISK_AUTO = 0,  /* REFER for read-only disks, COPY for others */
	KATA_SNAPSHOT_DISK_REFER = 1, /* the file itself; a restore is refused once anybody has written to it, and
				       * while a machine has it open for writing (BUSY: the saved one, running on). Not
				       * of a disk that a restore has made in the VM's directory, which goes with the
				       * VM: AUTO copies it, REFER is INVALID */
	KATA_SNAPSHOT_DISK_COPY = 2   /* a sparse copy in the snapshot, as of its instant */
} kata_snapshot_disk;

typedef struct kata_snapshot_disk_choice {
	const char *storage_id;
	kata_snapshot_disk disk;
} kata_snapshot_disk_choice;

typedef struct kata_snapshot_options {
	size_t size; /* sizeof(kata_snapshot_options) */
	kata_snapshot_memory memory;
	kata_snapshot_disk disk; /* of disks not named below */
	const kata_snapshot_disk_choice *disks;
	size_t disk_count;
} kata_snapshot_options;
#define KATA_SNAPSHOT_OPTIONS_INIT                                                                                     \
	{                                                                                                              \
		sizeof(kata_snapshot_options), KATA_SNAPSHOT_FULL, KATA_SNAPSHOT_DISK_AUTO, NULL, 0                    \
	}

/*
 * Saves the machine at `path`: absolute, must not exist; its directory must exist, belong to the caller (or root) and
 * be writable by nobody else. `options` may be NULL. While it is under way the VM is SAVING. *ret_snapshot is the
 * caller's; may be NULL. States: RUNNING, PAUSED. Returns EXISTS, BUSY (another op or an agent connection is at work on
 * it), UNSUPPORTED (names the device that cannot be saved, and why), INVALID, PERMISSION, IO (no space: how much there
 * is), VMM, TIMEOUT. The default deadline allows for 64 MiB/s.
 */
KATA_API int kata_vm_snapshot(kata_vm *vm, const char *path, const kata_snapshot_options *options,
			      const kata_op_options *op_options, kata_snapshot **ret_snapshot, kata_error **err);
/* The same; open the snapshot by its path once the op has ended. `path` and `options` are copied. */
KATA_API int kata_vm_snapshot_begin(kata_vm *vm, const char *path, const kata_snapshot_options *options,
				    const kata_op_options *op_options, kata_op **ret_op, kata_error **err);

#define KATA_SNAPSHOT_VERIFY UINT64_C(1) /* read every part and compare its digest */
/*
 * Reads and checks the manifest, and that every part is there with its size. A part whose file is not the one that was
 * written (inode, time) is read and its digest compared; with KATA_SNAPSHOT_VERIFY every part is. Blocking.
 * Returns NOT_FOUND (no directory, or none with a manifest), CORRUPT (which part, what is wrong), VERSION, PERMISSION
 * (somebody else may write to the directory).
 */
KATA_API int kata_snapshot_open(kata_context *context, const char *path, uint64_t flags, kata_snapshot **ret_snapshot,
				kata_error **err);
KATA_API void kata_snapshot_free(kata_snapshot *snapshot); /* accepts NULL; the files stay */
/* Removes the files. Only a directory with a manifest of ours is touched: NOT_FOUND, PERMISSION. Running VMs that were
 * restored from it with overlays lose their disks: end them first. Blocking. */
KATA_API int kata_snapshot_delete(kata_context *context, const char *path, kata_error **err);

/* What is in it; strings are borrowed from the snapshot. */
KATA_API const char *kata_snapshot_get_path(const kata_snapshot *snapshot);
KATA_API kata_snapshot_memory kata_snapshot_get_memory(const kata_snapshot *snapshot);
KATA_API uint64_t kata_snapshot_get_created_ns(const kata_snapshot *snapshot); /* CLOCK_REALTIME */
KATA_API const char *kata_snapshot_get_driver(const kata_snapshot *snapshot);
KATA_API const char *kata_snapshot_get_vmm_version(const kata_snapshot *snapshot);
KATA_API const char *kata_snapshot_get_machine(const kata_snapshot *snapshot);
KATA_API const char *kata_snapshot_get_accelerator(const kata_snapshot *snapshot);
KATA_API const char *kata_snapshot_get_cpu_model(const kata_snapshot *snapshot);
/* sha256 of manifest.json in hex: the identity of this snapshot, since the manifest has the digests of all parts. */
KATA_API const char *kata_snapshot_get_digest(const kata_snapshot *snapshot);
/* All parts together, as the files are long (holes included). */
KATA_API uint64_t kata_snapshot_get_size_bytes(const kata_snapshot *snapshot);
/* Of the machine that was saved: its id and UUID are in it too. Defaults are filled in. */
KATA_API const kata_vm_config *kata_snapshot_get_config(const kata_snapshot *snapshot);
KATA_API const char *kata_snapshot_get_uuid(const kata_snapshot *snapshot);
/* Its devices, in order of plugging. *ret is a new reference in state NEW, as it was plugged into the saved machine
 * (the path is the one it had there); the address is written as by snprintf. NOT_FOUND past the end. */
KATA_API size_t kata_snapshot_get_storage_count(const kata_snapshot *snapshot);
KATA_API int kata_snapshot_get_storage(const kata_snapshot *snapshot, size_t index, kata_storage **ret_storage,
				       kata_error **err);
KATA_API size_t kata_snapshot_get_storage_address(const kata_snapshot *snapshot, size_t index, char *buf,
						  size_t buf_size);
KATA_API size_t kata_snapshot_get_nic_count(const kata_snapshot *snapshot);
KATA_API int kata_snapshot_get_nic(const kata_snapshot *snapshot, size_t index, kata_nic **ret_nic, kata_error **err);
KATA_API size_t kata_snapshot_get_nic_address(const kata_snapshot *snapshot, size_t index, char *buf, size_t buf_size);

typedef enum kata_restore_disk {
	KATA_RESTORE_DISK_AUTO = 0,    /* read-only: as it is. Others: OVERLAY */
	KATA_RESTORE_DISK_OVERLAY = 1, /* an empty qcow2 over the saved disk: any number of restores side by side */
	KATA_RESTORE_DISK_COPY = 2,    /* a copy of its own */
	KATA_RESTORE_DISK_IN_PLACE =
		3 /* disks saved by REFER: goes on with the file itself; this uses the snapshot up */
} kata_restore_disk;

typedef struct kata_restore_storage {
	const char *id;
	kata_restore_disk disk;
	const char *path; /* of the overlay or copy, which is made by the start: must not exist; the caller's
			   * afterwards. NULL: in the VM's directory, goes with it */
} kata_restore_storage;

typedef struct kata_restore_nic {
	const char *id;
	const char *tap_name; /* NULL: a TAP gets a generated name */
	const char *mac;      /* NULL: as saved; "random": a new one; or the MAC. The guest goes on with the one it had
			       * until it is told (identity reset) */
} kata_restore_nic;

#define KATA_RESTORE_PAUSED UINT64_C(1)   /* kata_vm_start() ends in PAUSED */
#define KATA_RESTORE_NEW_MACS UINT64_C(2) /* for all NICs not named */

typedef struct kata_restore_options {
	size_t size;            /* sizeof(kata_restore_options) */
	uint64_t flags;         /* KATA_RESTORE_* */
	kata_restore_disk disk; /* of disks not named */
	const kata_restore_storage *storages;
	size_t storage_count;
	const kata_restore_nic *nics;
	size_t nic_count;
} kata_restore_options;
#define KATA_RESTORE_OPTIONS_INIT                                                                                      \
	{                                                                                                              \
		sizeof(kata_restore_options), 0, KATA_RESTORE_DISK_AUTO, NULL, 0, NULL, 0                              \
	}

#ifdef __cplusplus
}
#endif
#endif
