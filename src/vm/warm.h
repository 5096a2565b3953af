/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_WARM_H
#define KATA_VM_WARM_H
/*
 * What factories do to a machine that is there before anybody wants it.
 *
 *	start ... PAUSED --mark--> pooled: nobody's yet --claim_id, move, unmark, stock--> CREATED and warm
 *
 * A pooled machine has the file `pooled` in its directory (owner.h), which goes before a caller gets the machine; so
 * what a crash leaves with it was never anybody's, whatever else lies there. The directory is renamed before that: at
 * every instant recovery finds it under one name, and knows its machine by the UUID.
 *
 * Nobody but the factory may have seen the VM: its id changes.
 */
#include "vm/vm.h"

/*
 * A VMM that waits for its state is stock as well, and goes the same way:
 *
 *	prestart ... PAUSED --mark--> pooled --claim_id, move, unmark, stock--> CREATED and pre-started
 *
 * It is of a VM made from a snapshot. Devices added before the start wait as they do for any such VM; the start loads
 * the state. A start that fails ends the VMM: the next one begins from the beginning.
 */
/* [any thread] */
bool kata__vm_is_prestarted(const kata_vm *vm);
/* The first half of a start: PAUSED at the end. UNSUPPORTED where the driver has no halves, nothing is to be loaded, or
 * the saved machine has devices (whose files would have to be made for nobody yet). */
int kata__vm_prestart_begin(kata_vm *vm, kata_op **ret_op, kata_error **err);

/* [any thread] CREATED, and the machine is there. */
bool kata__vm_is_warm(const kata_vm *vm);
/* [any thread] */
void kata__vm_set_origin(kata_vm *vm, kata_vm_origin origin);
/* [any thread] KATA_RESET_* */
void kata__vm_set_identity_reset(kata_vm *vm, uint64_t reset);
/* [any thread] UNSUPPORTED where the driver cannot start a machine that is paused. */
int kata__vm_check_poolable(const kata_vm *vm, kata_error **err);

/* [any thread] EXISTS: `id` is that of another VM in this context or state directory. NULL passes. */
int kata__vm_check_id(const kata_vm *vm, const char *id, kata_error **err);
/* [leader] The id it will have; nothing else is touched. EXISTS: of another VM in this context or state directory.
 * Claiming the old id takes it back. */
int kata__vm_claim_id(kata_vm *vm, const char *id, kata_error **err);
/* [leader] Its directory gets the name of its id; where it has that, nothing. EXISTS: then it has its old one. One
 * rename: cheaper than a worker. */
int kata__vm_move(kata_vm *vm, kata_error **err);
/* The file `pooled`; nothing for drivers without files. [worker] mark, [leader] unmark. */
int kata__vm_mark_pooled(kata_vm *vm, kata_error **err);
int kata__vm_unmark_pooled(kata_vm *vm, kata_error **err);
/* What plugs and unplugs while it is warm: the guest runs for as long as that takes (warm_device.c). */
const struct kata__op_table *kata__vm_warm_table(bool nic, bool add);
/* [leader] PAUSED, no operation under way, no agent connected: becomes CREATED and warm (or pre-started, where it
 * waits for its state), of this origin. STATE, BUSY. */
int kata__vm_stock(kata_vm *vm, kata_vm_origin origin, kata_error **err);
#endif
