/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_QEMU_START_H
#define KATA_VM_QEMU_START_H
/*
 * The steps that a boot (start.c) and a restore (restore.c) have in common. They share the op's scratch, which make_dir
 * makes.
 */
#include "vm/qemu/machine.h"

struct kata__restore;

int kata__qemu_start_make_dir(kata_op *op, kata_error **err);   /* BLOCKING; undo: kata__vm_step_unmake_dir */
int kata__qemu_start_open_files(kata_op *op, kata_error **err); /* BLOCKING */
int kata__qemu_start_undo_open_files(kata_op *op, kata_error **err);
int kata__qemu_start_listen(kata_op *op, kata_error **err); /* BLOCKING */
int kata__qemu_start_undo_listen(kata_op *op, kata_error **err);
int kata__qemu_start_spawn(kata_op *op, kata_error **err);      /* BLOCKING */
int kata__qemu_start_undo_spawn(kata_op *op, kata_error **err); /* BLOCKING */
int kata__qemu_start_watch_process(kata_op *op, kata_error **err);
int kata__qemu_start_undo_watch_process(kata_op *op, kata_error **err);
int kata__qemu_start_connect_console(kata_op *op, kata_error **err);
int kata__qemu_start_cont(kata_op *op, kata_error **err);
int kata__qemu_start_commit(kata_op *op, kata_error **err);
/* For a QEMU that was started before: the undos of make_dir, spawn and watch_process hold for it from then on. */
int kata__qemu_start_claim(kata_op *op, kata_error **err);
int kata__qemu_start_undo_claim(kata_op *op, kata_error **err); /* BLOCKING; after undo_watch_process */
void kata__qemu_start_finish(kata_op *op, int status, kata_error **error);

/* The devices of a snapshot as a list for the command line, in one block: free(*ret). It borrows everything. */
int kata__qemu_list_restored(const struct kata__restore *r, struct kata__qemu_cold **ret, kata_error **err);
#endif
