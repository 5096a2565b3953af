/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_SAVE_H
#define KATA_VM_SAVE_H
/*
 * Saving a machine: what drivers' tables for kata_vm_snapshot have in common (vm/save.c, vm/save_parts.c).
 *
 *     check, digest-files, note, make-dir | driver: stop, write the state to state_fd | copy-disks, share-memory
 *     | driver: cont | digest-parts, write-manifest, publish, forget
 *
 * The directory is made beside its name, as "<parent>/.kata-save-<uuid>", and renamed when it is whole. Before it is
 * made its name is noted in the VM's directory (vm/notes.h), so that whoever finds that after a crash can remove what
 * was half made.
 */
#include "vm/manifest.h"
#include "vm/vm.h"

struct kata__save {
	char *path, *parent, *dir; /* dir: where it is made */
	kata_snapshot_memory memory;
	kata_snapshot_disk disk;
	char **choice_ids; /* NULL-terminated */
	kata_snapshot_disk *choices;
	char *extra_name, *extra; /* a part of a room above, or NULL */
	struct kata__manifest *manifest;
	int dir_fd;   /* on `dir`; -1 */
	int state_fd; /* for the driver to write the state to; -1 */
	bool published;
	bool was_running;
};

void kata__save_free(struct kata__save *s);  /* NULL is fine */
void kata__save_close(struct kata__save *s); /* its fds; likewise */

/* INVALID or UNSUPPORTED: what is wrong with what the caller asks for, whichever the VM. */
int kata__save_read_request(const char *path, const kata_snapshot_options *options, kata_snapshot_options *ret,
			    kata_error **err);
/* As kata_vm_snapshot_begin, with one more part: `extra_name` "x-...", NULL: none. */
int kata__vm_snapshot_begin(kata_vm *vm, const char *path, const kata_snapshot_options *options, const char *extra_name,
			    const char *extra, const kata_op_options *op_options, kata_op **ret_op, kata_error **err);

static inline struct kata__save *kata__save_of(const kata_op *op)
{
	return kata__vm_op_data(op)->save;
}

/* For what takes long in a blocking step: `user` is the op. */
int kata__save_go_on(const void *user, kata_error **err);

/* The steps. The driver sets manifest->vmm_version, machine, cpu_model and vmm before write-manifest. */
int kata__save_step_check(kata_op *op, kata_error **err);        /* [leader] devices, choices; begins the manifest */
int kata__save_step_digest_files(kata_op *op, kata_error **err); /* BLOCKING: the path; kernel, initrd, image */
int kata__save_step_note(kata_op *op, kata_error **err);         /* BLOCKING; undo: unnote */
int kata__save_step_unnote(kata_op *op, kata_error **err);
int kata__save_step_make_dir(kata_op *op, kata_error **err); /* BLOCKING; opens state_fd; undo: unmake_dir */
int kata__save_step_unmake_dir(kata_op *op, kata_error **err);
int kata__save_step_copy_disks(kata_op *op, kata_error **err);     /* BLOCKING; what make-dir's undo takes back */
int kata__save_step_share_memory(kata_op *op, kata_error **err);   /* BLOCKING; likewise */
int kata__save_step_digest_parts(kata_op *op, kata_error **err);   /* BLOCKING */
int kata__save_step_write_manifest(kata_op *op, kata_error **err); /* BLOCKING; syncs everything */
int kata__save_step_publish(kata_op *op, kata_error **err);        /* BLOCKING; undo: unpublish */
int kata__save_step_unpublish(kata_op *op, kata_error **err);
int kata__save_step_forget(kata_op *op, kata_error **err); /* BLOCKING; the last; undo: unforget */
int kata__save_step_unforget(kata_op *op, kata_error **err);
#endif
