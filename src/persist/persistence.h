/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PERSIST_PERSISTENCE_H
#define KATA_PERSIST_PERSISTENCE_H
/*
 * The inside of kata_persistence: the ops of an implementation, called by the sandbox room (store, release, obtain) and by the
 * public list and delete functions here. Absent optional ops are filled in at kata_persistence_new.
 */
#include <kata/driver/persistence.h>

#include "op/context.h"
#include "persist/record.h"

struct kata_persistence {
	uint32_t magic;
	kata_context *ctx;
	struct kata_persistence_ops ops; /* complete: defaults filled in */
	void *self;
};

int kata__persistence_store(kata_persistence *p, const kata_record *record, kata_error **err);
int kata__persistence_load(kata_persistence *p, const char *id, kata_record **ret, kata_error **err);
int kata__persistence_set_epoch(kata_persistence *p, const char *id, uint64_t from, uint64_t to, kata_error **err);
#endif
