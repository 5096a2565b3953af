/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_NOTES_H
#define KATA_VM_NOTES_H
/*
 * Notes in a VM's directory about files that its operations make elsewhere, so that whoever finds the directory after a
 * crash can remove what was half made. All are blocking, and do nothing where the driver has no directory.
 *
 *     saving    the directory in which a snapshot is being made (vm/save.h), and whether the machine ran before
 *     restored  files at places of the caller's that a restore makes, with their inodes; until it is complete
 *     frozen    the snapshot that the machine's RAM is a part of
 */
#include <stdbool.h>
#include <sys/stat.h>

#include "base/error.h"

/* `dir` is in the parent of the snapshot to be, named as kata__note_saving_name() does: nothing else is ever removed.
 */
int kata__note_saving(const char *vm_dir, const char *dir, bool was_running, kata_error **err);
int kata__forget_saving(const char *vm_dir, kata_error **err);
/* "<parent>/.kata-save-<uuid>", malloc'ed; NULL when out of memory. */
char *kata__note_saving_name(const char *parent);
bool kata__is_saving(const char *vm_dir, bool *ret_was_running);
char *kata__get_saving(const char *vm_dir); /* that directory, malloc'ed; NULL: none */
/* For such a directory, whoever's: has it such a name; is its maker at it (he has it locked); its removal. BUSY. */
bool kata__is_saving_name(const char *path);
bool kata__saving_is_under_way(const char *path);
int kata__remove_saving(const char *path, kata_error **err);

/* One more file, which is open and not at `path` yet; forget: all of them. */
int kata__note_restored(const char *vm_dir, const char *path, const struct stat *st, kata_error **err);
int kata__forget_restored(const char *vm_dir, kata_error **err);

int kata__note_frozen(const char *vm_dir, const char *snapshot, kata_error **err);
int kata__forget_frozen(const char *vm_dir, kata_error **err);
/* The snapshot that is noted is there. */
bool kata__is_frozen(const char *vm_dir);

/* Removes what operations that never ended have left elsewhere. */
int kata__sweep_notes(const char *vm_dir, kata_error **err);
#endif
