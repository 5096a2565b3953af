/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PERSIST_PERSISTENCE_H
#define KATA_PERSIST_PERSISTENCE_H
/*
 * The inside of kata_persistence: the ops of an implementation, called by the sandbox room (store, release, obtain) and
 * by the public list and delete functions here. Absent optional ops are filled in at kata_persistence_new.
 */
#include <kata/driver/persistence.h>

#include "op/context.h"
#include "persist/record.h"

#define KATA__PERSISTENCE_MAGIC UINT32_C(0x6b707273)

struct kata_persistence {
	uint32_t magic;
	kata_context *ctx;
	struct kata_persistence_ops ops; /* complete: defaults filled in */
	void *self;
	/* Ours only, else NULL: the record from its rows, without the way over JSON. */
	int (*load_record)(void *self, const char *id, kata_record **ret, kata_error **err);
};

/* Every public function's first line: INVALID when it is none. */
int kata__persistence_check(const kata_persistence *p, kata_error **err);

/* An implementation has no way to make a kata_error of its own: its status gets our words. `what` is the op. Returns
 * rc, or DATABASE when that is no status. */
int kata__persistence_answer(const kata_persistence *p, const char *what, const char *id, int rc, kata_error **err);
/* What a record says for lists; the rest of the info is left as it is. */
void kata__info_of_record(const struct kata_record *record, kata_sandbox_info *info);
/* FENCED when another owner's epoch is stored. All or nothing. */
int kata__persistence_store(kata_persistence *p, const kata_record *record, kata_error **err);
/* The record passed kata__record_check, and its epoch is the one that counts now. NOT_FOUND (also: only reserved),
 * CORRUPT. */
int kata__persistence_load(kata_persistence *p, const char *id, kata_record **ret, kata_error **err);
/* For who has judged a record by its info: deletes it, unless it is another by now. NOT_FOUND, FENCED. */
int kata__persistence_remove_seen(kata_persistence *p, const kata_sandbox_info *seen, kata_error **err);
/* FENCED unless `now` is the record of which `seen` was read. */
int kata__info_compare(const kata_sandbox_info *now, const kata_sandbox_info *seen, kata_error **err);
/* Compare-and-set. Taking the epoch back to what it was leaves the row as it was. NOT_FOUND, FENCED. */
int kata__persistence_set_epoch(kata_persistence *p, const char *id, uint64_t from, uint64_t to, kata_error **err);
#endif
