/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_STORAGE_STORAGE_H
#define KATA_STORAGE_STORAGE_H
/* The inside of kata_storage, and opening images safely. */
#include <kata/storage.h>

#include <sys/stat.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/json.h"

/* [leader] Life of the device; what getters read is its mirror (base/mirror.h). kata__storage_begin_plug
 * fails with BUSY when it is not NEW. address and size are copied. */
int kata__storage_begin_plug(kata_storage *s, kata_error **err);
void kata__storage_set_state(kata_storage *s, kata_device_state state);
void kata__storage_set_plugged(kata_storage *s, const char *address, uint64_t size_bytes);
const char *kata__storage_backing_path(const kata_storage *s);
kata_storage_format kata__storage_backing_format(const kata_storage *s);
const char *const *kata__storage_mount_options(const kata_storage *s);
const char *kata__storage_format_name(kata_storage_format f); /* "raw", "qcow2": as QEMU spells them */

/* A new storage with the config of this one, at another place (NULL: the same). */
struct kata__storage_place {
	const char *path;
	kata_storage_format format;
	const char *backing_path; /* NULL: none */
	kata_storage_format backing_format;
};
int kata__storage_clone(const kata_storage *s, const struct kata__storage_place *place, kata_storage **ret,
			kata_error **err);

/* Config and, when plugged, address and size, for released JSON ("storages": [...]) and back (hostile input). */
json_t *kata__storage_to_json(const kata_storage *s);
int kata__storage_from_json(const json_t *o, const char *what, kata_storage **ret, kata_error **err);

/* A file, whatever its path: for block devices 0 and st_rdev in ino. */
struct kata__file_id {
	dev_t dev;
	ino_t ino;
};
struct kata__file_id kata__file_id_of(const struct stat *st);

/* The files of a disk: its own, which it may write to, and the one below that, which it reads. */
struct kata__disk_files {
	bool has_file, has_backing; /* it is known which */
	bool read_only;
	struct kata__file_id file, backing;
};
/* As its paths lead to them now. Blocking. */
void kata__disk_files_look(const kata_storage *s, struct kata__disk_files *ret);
/* Both have one file, and one of them may write to it. */
bool kata__disk_files_same(const struct kata__disk_files *a, const struct kata__disk_files *b);
/* `a` may write to the backing file of `b`. */
bool kata__disk_files_below(const struct kata__disk_files *a, const struct kata__disk_files *b);

/* An image opened and checked: what the VMM gets. */
struct kata__image {
	int fd;              /* O_RDWR, or O_RDONLY when read-only; -1 when closed */
	int backing_fd;      /* O_RDONLY, or -1 */
	uint64_t size_bytes; /* virtual size */
	struct kata__disk_files files;
};
/*
 * Opens the storage's path without following a symlink swap after the check (what is checked is the fd), and refuses:
 * directory, fifo, socket, char device; a block device mounted on the host (mountinfo, by dev number, partitions and
 * whole disk included) or with holders (O_EXCL), a loop backing file that is mounted; qcow2 with an unallowed backing
 * file, external data file, unknown incompatible features, a header that contradicts itself; a raw file whose size is 0
 * or not a multiple of 512; a format that does not match the magic. Blocking: for worker threads.
 */
int kata__image_open(const kata_storage *s, struct kata__image *ret, kata_error **err);
void kata__image_close(struct kata__image *image);
#endif
