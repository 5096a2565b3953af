/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_SNAPSHOT_INTERNAL_H
#define KATA_VM_SNAPSHOT_INTERNAL_H
/* The inside of kata_snapshot: a manifest that was read, and the directory it lies in. Immutable, so any thread. */
#include "vm/manifest.h"

/* Referenced: freed with the last. */
kata_snapshot *kata__snapshot_ref(const kata_snapshot *s);
const struct kata__manifest *kata__snapshot_manifest(const kata_snapshot *s);

/*
 * Opens a part (flags: O_RDONLY or O_RDWR) and checks it: CORRUPT when it is missing, of another size, or neither the
 * file that was written nor one of that digest. `verify`: the digest is computed in any case. Blocking.
 */
int kata__snapshot_open_part(const kata_snapshot *s, const char *name, int flags, bool verify, int *ret_fd,
			     kata_error **err);
/* Before others see it: what may be changed in it, by who knows better than the file. */
struct kata__manifest *kata__snapshot_manifest_of_new(kata_snapshot *s);
/* Likewise: keeps state and memory open, so that they can be restored also when the directory has gone or is another
 * one's. Blocking. */
int kata__snapshot_pin(kata_snapshot *s, kata_error **err);
/* The path of a part, malloc'ed; NULL when out of memory. */
char *kata__snapshot_part_path(const kata_snapshot *s, const char *name);
/* A part of a room above ("x-..."): its text, checked, the caller's. NOT_FOUND: there is none. Blocking. */
int kata__snapshot_read_extra(const kata_snapshot *s, const char *name, size_t max, char **ret_text, size_t *ret_len,
			      kata_error **err);

/* PERMISSION when somebody but us and root could change what is in the directory. `fd` is open on it. */
int kata__snapshot_check_dir(int fd, const char *path, kata_error **err);
/* "storage 'x' ... has changed since it was saved" as CORRUPT, when the file is not as the manifest says. */
int kata__snapshot_check_source(const struct kata__manifest_source *s, const struct stat *st, const char *what,
				kata_error **err);
#endif
