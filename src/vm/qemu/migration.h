/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_QEMU_MIGRATION_H
#define KATA_VM_QEMU_MIGRATION_H
/*
 * The machine's state through a passed fd, out of a QEMU (save.c) and into another (restore.c): what QEMU calls a
 * migration. Its end is told by the event MIGRATION, for which the capability "events" must be on.
 *
 *     set-capabilities, getfd, arm | migrate or migrate-incoming | await-migration, query-migrate
 */
#include "vm/qemu/machine.h"

#define KATA__QEMU_STATE_FD "kata-state" /* the name given to getfd */

/* Steps. */
int kata__qemu_set_capabilities(kata_op *op, bool ignore_shared, kata_error **err);
int kata__qemu_pass_state(kata_op *op, int fd, kata_error **err); /* undo: undo_pass_state */
int kata__qemu_undo_pass_state(kata_op *op, kata_error **err);
int kata__qemu_arm_migration(kata_op *op, kata_error **err);   /* forgets what an earlier one came to */
int kata__qemu_await_migration(kata_op *op, kata_error **err); /* also an undo: until one that runs has ended */
void kata__qemu_cancel_await_migration(kata_op *op);
/* Did it complete? What QEMU says is the error: IO where there was no room. */
int kata__qemu_check_migration(kata_op *op, kata_error **err);
/* Undo: asks how it stands, for the await that follows. */
int kata__qemu_ask_migration(kata_op *op, kata_error **err);

/* The event. */
void kata__qemu_on_migration(struct kata__qemu *q, const char *status);
/* The monitor's connection broke, or QEMU ended. */
void kata__qemu_fail_migration(struct kata__qemu *q, const kata_error *why);
#endif
