/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cold.c - devices added before the start: their files and taps are open already, so bad ones were refused when they
 * were added; they wait in a list, in order of adding, for the command line.
 */
#include "vm/qemu/machine.h"

#include <stdlib.h>

#include "base/fd.h"

void kata__qemu_free_cold(struct kata__qemu_cold *e)
{
	if (!e)
		return;
	kata__close_fd(&e->fd);
	kata__close_fd(&e->backing_fd);
	kata_storage_unref(e->storage);
	kata_nic_unref(e->nic);
	free(e);
}

void kata__qemu_add_cold(struct kata__qemu *q, struct kata__qemu_cold *take_entry)
{
	take_entry->next = NULL;
	*q->cold_last = take_entry;
	q->cold_last = &take_entry->next;
}

struct kata__qemu_cold *kata__qemu_take_cold(struct kata__qemu *q, const void *storage_or_nic)
{
	for (struct kata__qemu_cold **at = &q->cold; *at; at = &(*at)->next) {
		struct kata__qemu_cold *e = *at;

		if (e->storage != storage_or_nic && e->nic != storage_or_nic)
			continue;
		*at = e->next;
		if (!e->next)
			q->cold_last = at;
		e->next = NULL;
		return e;
	}
	return NULL;
}

void kata__qemu_drop_cold(struct kata__qemu *q)
{
	while (q->cold) {
		struct kata__qemu_cold *e = q->cold;

		q->cold = e->next;
		kata__qemu_free_cold(e);
	}
	q->cold_last = &q->cold;
}

/* ---- unplugging before the start */

/* The entry is the op's until its end, so that an undo can put it back; the order of the list is of no consequence. */
int kata__qemu_step_take_cold(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);

	d->scratch = kata__qemu_take_cold(kata__qemu_of(d->vm), d->storage ? (void *)d->storage : (void *)d->nic);
	return KATA__STEP_DONE;
}

int kata__qemu_undo_take_cold(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);

	if (d->scratch)
		kata__qemu_add_cold(kata__qemu_of(d->vm), d->scratch);
	d->scratch = NULL;
	return KATA__STEP_DONE;
}

void kata__qemu_finish_take_cold(kata_op *op, int status, kata_error **error)
{
	struct kata__vm_op *d = kata__vm_op_data(op);

	kata__qemu_free_cold(kata__take_ptr(d->scratch));
	kata__vm_finish_device(op, status, error);
}
