/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_BATCH_H
#define KATA_BATCH_H
/*
 * kata_batch: several plugs and unplugs as one: validated together against the free slots, run side by side, one
 * deadline, a result each. Sole owner; not for use from two threads at once until begun.
 */
#include <kata/vm.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kata_batch kata_batch;

#define KATA_BATCH_ALL_OR_NOTHING UINT64_C(1) /* if one fails, those that succeeded are undone */

KATA_API int kata_batch_new(kata_vm *vm, uint64_t flags, kata_batch **ret_batch, kata_error **err);
KATA_API void kata_batch_free(kata_batch *batch); /* accepts NULL; a batch under way goes on */

/* Adds an item; nothing happens yet. STATE once begun. EXHAUSTED past 1024 items. */
KATA_API int kata_batch_add_storage(kata_batch *batch, kata_storage *storage, kata_error **err);
KATA_API int kata_batch_add_nic(kata_batch *batch, kata_nic *nic, kata_error **err);
KATA_API int kata_batch_remove_storage(kata_batch *batch, const char *id, kata_error **err);
KATA_API int kata_batch_remove_nic(kata_batch *batch, const char *id, kata_error **err);

/*
 * Runs the batch. EXHAUSTED before anything is touched when the plugs do not all fit (how many slots there are, are
 * free and are needed), EXISTS for two items of one id, file (backing files included) or MAC. Otherwise the op fails
 * with the first failed item's error; ask each item for its own.
 */
KATA_API int kata_batch_run(kata_batch *batch, const kata_op_options *options, kata_error **err);
KATA_API int kata_batch_begin(kata_batch *batch, const kata_op_options *options, kata_op **ret_op, kata_error **err);

/* Items in order of adding: the id of the device, and its op (borrowed; its timeline and error), NULL before the begin
 * or when it never began. */
KATA_API size_t kata_batch_get_count(const kata_batch *batch);
KATA_API const char *kata_batch_get_item_id(const kata_batch *batch, size_t index);
KATA_API kata_op *kata_batch_get_item_op(const kata_batch *batch, size_t index);

#ifdef __cplusplus
}
#endif
#endif
