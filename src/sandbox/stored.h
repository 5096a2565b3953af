/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_STORED_H
#define KATA_SANDBOX_STORED_H
/* A sandbox and its record in a persistence. */
#include <kata/rows.h>

#include "sandbox/sandbox.h"

#define KATA__SANDBOX_UNDONE_MAX 1024u

/* Stores the sandbox as the generation after `base`, which must stand there (-1: whatever does, and not greater than
 * `newest`). BUSY while another thread stores it. */
int kata__sandbox_store(kata_sandbox *s, kata_persistence *p, int64_t base, uint64_t newest, kata_error **err);
/* What the sandbox believes to be stored. */
uint64_t kata__sandbox_generation(kata_sandbox *s);
/* It is given up: let go of, at the epoch that its record has. */
void kata__sandbox_give_up(kata_sandbox *s);

/* What became of a plug: the next store settles its reservation. Out of memory loses it: the reservation then
 * stays an intent, for a recovery to find. */
void kata__sandbox_note_plug(kata_sandbox *s, kata_reservation_kind kind, const char *id, bool undone);
/* The mutex is held. Into a record that is to be stored. */
bool kata__sandbox_fill_undone(kata_sandbox *s, struct kata_record *r);
void kata__sandbox_free_undone(kata_sandbox *s);
#endif
