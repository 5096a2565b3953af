/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_STORAGE_H
#define KATA_STORAGE_H
/*
 * kata_storage: a disk the caller wants plugged; after the plug, the disk as the guest sees it.
 *
 * Lifetime: reference counted; a VM that has it plugged holds a reference. A storage is plugged into one VM at a time;
 * after an unplug it can be plugged again, anywhere. Not bound to a context. Security: the file at `path` is opened
 * once, by the library, when it is plugged; what is checked is the opened file, and the VMM gets that fd. A block
 * device that is mounted on the host, a directory, a fifo or a character device is refused. A qcow2 image may be
 * hostile: its header is read before the VMM sees it; a backing file is used only when it is the one named in
 * `backing_path`, an external data file never.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kata/error.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kata_storage kata_storage;

typedef enum kata_storage_format { KATA_STORAGE_RAW = 0, KATA_STORAGE_QCOW2 = 1 } kata_storage_format;
typedef enum kata_storage_driver { KATA_STORAGE_VIRTIO_BLK = 0, KATA_STORAGE_VIRTIO_SCSI = 1 } kata_storage_driver;

/* One life: NEW -> PLUGGING -> PLUGGED -> UNPLUGGING -> NEW. DIVERGED: a plug or unplug ended uncertain, or the guest
 * let go of it without being asked to, or after the call that asked had given up; removing it settles that. */
typedef enum kata_device_state {
	KATA_DEVICE_NEW = 0,
	KATA_DEVICE_PLUGGING = 1,
	KATA_DEVICE_PLUGGED = 2, /* also: on the boot command line of a VM not started */
	KATA_DEVICE_UNPLUGGING = 3,
	KATA_DEVICE_DIVERGED = 4
} kata_device_state;
KATA_API const char *kata_device_state_get_name(kata_device_state state);

#define KATA_STORAGE_READ_ONLY UINT64_C(1) /* enforced by the VMM, not only in the guest */

typedef struct kata_storage_config {
	size_t size;      /* sizeof(kata_storage_config) */
	const char *id;   /* [A-Za-z0-9][A-Za-z0-9_.-]{0,63}, unique in the VM; NULL: a UUID */
	const char *path; /* absolute path of a regular file or block device */
	kata_storage_format format;
	kata_storage_driver driver;
	uint64_t flags;           /* KATA_STORAGE_* */
	const char *backing_path; /* qcow2: the backing file that is allowed (opened read-only); NULL: none is */
	kata_storage_format backing_format;
	const char *fstype;               /* file system for containers that name this storage ("ext4"); NULL: "ext4" */
	const char *const *mount_options; /* NULL-terminated, for the mount in the guest; NULL: none */
} kata_storage_config;
#define KATA_STORAGE_CONFIG_INIT                                                                                       \
	{                                                                                                              \
		sizeof(kata_storage_config), NULL, NULL, KATA_STORAGE_RAW, KATA_STORAGE_VIRTIO_BLK, 0, NULL,           \
			KATA_STORAGE_RAW, NULL, NULL                                                                   \
	}

/* Copies the config. Touches no file. INVALID: id, path (relative, NULL), format, driver, flags out of range. */
KATA_API int kata_storage_new(const kata_storage_config *config, kata_storage **ret_storage, kata_error **err);
KATA_API kata_storage *kata_storage_ref(kata_storage *storage);
KATA_API void kata_storage_unref(kata_storage *storage); /* accepts NULL */

/* Borrowed from the storage, constant for its life. */
KATA_API const char *kata_storage_get_id(const kata_storage *storage);
KATA_API const char *kata_storage_get_path(const kata_storage *storage);
KATA_API kata_storage_format kata_storage_get_format(const kata_storage *storage);
KATA_API kata_storage_driver kata_storage_get_driver(const kata_storage *storage);
KATA_API bool kata_storage_is_read_only(const kata_storage *storage);
KATA_API const char *kata_storage_get_fstype(const kata_storage *storage);

KATA_API kata_device_state kata_storage_get_state(const kata_storage *storage);
/*
 * The address at which the guest finds it: virtio-blk: PCI path "SS/DD" (root port's slot on bus 0, slot behind it,
 * hex); virtio-scsi: "ID:LUN" (decimal). Written to buf as by snprintf; returns its length, 0 while not plugged.
 */
KATA_API size_t kata_storage_get_address(const kata_storage *storage, char *buf, size_t buf_size);
/* Virtual size as the guest sees it, 0 while not plugged. */
KATA_API uint64_t kata_storage_get_size_bytes(const kata_storage *storage);

#ifdef __cplusplus
}
#endif
#endif
