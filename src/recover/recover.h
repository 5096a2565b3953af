/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_RECOVER_RECOVER_H
#define KATA_RECOVER_RECOVER_H
/*
 * The inside of kata_recover: one table of kinds (kinds.c), each with how its things are found and undone.
 *
 *   records are read --> find, of each kind --> (with APPLY) hold, begin_undo and undo, of each kind, 64 things at a
 *   time
 *
 * Invariants: 1. find changes nothing. 2. undo looks again at what it undoes, with that locked or in one transaction:
 * what has changed since is judged anew, or left. 3. undo done twice, or after half of it was done, ends the same. 4.
 * the kinds are in the order of undoing: processes before what they write to, machines before their records.
 */
#include <kata/recover.h>
#include <kata/rows.h>

#include "op/context.h"
#include "persist/persistence.h"

struct kata__finding {
	const struct kata__kind *kind;
	char *id, *text;
	kata_recover_verdict verdict;
	bool undone;
	/* Of the kind: */
	char vm_uuid[37];  /* vm: which machine; "" where nothing says */
	size_t depends_on; /* the finding that must be undone before; SIZE_MAX: none */
	void *data;        /* freed by kind->free */
};

struct kata__recovery {
	kata_context *ctx;
	kata_persistence *p; /* NULL: none */
	uint64_t flags;
	const char *const *directories;
	uint64_t patience_ns; /* until then what is just being made is waited for; 0: not at all */

	/* What the records say, by vm_uuid. */
	kata_sandbox_info *infos;
	size_t info_count;
	char *unreadable;  /* why not all could be read, or NULL */
	bool store_failed; /* the store does not take changes: no use in asking again */

	struct kata__finding *findings;
	size_t count;
	size_t machine_count; /* the first findings are those of the machines */
};

struct kata__kind {
	const char *name;
	/* Adds a finding for each thing, judged. Fails only where nothing can be said at all. */
	int (*find)(struct kata__recovery *r, kata_error **err);
	/* may: locks it and looks again. Where one of a batch is an orphan then, the records are read again: whoever
	 * might have stored one is dead, or kept away by the lock. */
	void (*hold)(struct kata__recovery *r, struct kata__finding *f);
	/* may: judges it anew and begins what takes long, of many before the first is waited for. */
	void (*begin_undo)(struct kata__recovery *r, struct kata__finding *f);
	/* NULL: none of its things is ever undone. */
	int (*undo)(struct kata__recovery *r, struct kata__finding *f, kata_error **err);
	/* may: what APPLY does to one that is attachable. */
	int (*keep)(struct kata__recovery *r, struct kata__finding *f, kata_error **err);
	void (*free)(void *data); /* may */
};
extern const struct kata__kind kata__recover_vm, kata__recover_process, kata__recover_snapshot, kata__recover_template,
	kata__recover_socket, kata__recover_sandbox, kata__recover_reservation, kata__recover_pooled_row,
	kata__recover_template_row, kata__recover_snapshot_row;
/* In the order of undoing; NULL-terminated. */
extern const struct kata__kind *const kata__recover_kinds[];

/* findings.c. The text is taken; NULL means no memory. *ret is good until the next is added. */
int kata__finding_add(struct kata__recovery *r, const struct kata__kind *kind, const char *id,
		      kata_recover_verdict verdict, char *take_text, struct kata__finding **ret, kata_error **err);
void kata__finding_drop_last(struct kata__recovery *r);
void kata__finding_say(struct kata__finding *f, kata_recover_verdict verdict, char *take_text);
void kata__finding_say_error(struct kata__finding *f, kata_recover_verdict verdict, kata_error *take_error);
/* Gone, half made, or an orphan. */
bool kata__finding_is_undoable(const struct kata__finding *f);
/* Whether it is there, by kind and id. */
bool kata__finding_exists(const struct kata__recovery *r, const struct kata__kind *kind, const char *id);
/* The machine of that UUID, or (where nothing says whose it is) of that id; NULL: none. */
const struct kata__finding *kata__finding_of_machine(const struct kata__recovery *r, const char *vm_uuid,
						     const char *vm_id);
void kata__findings_free(struct kata__finding *findings, size_t count);

/* records.c */
int kata__recover_read_records(struct kata__recovery *r, kata_error **err); /* again, too */
/* NULL: none. */
const kata_sandbox_info *kata__recover_record_of(const struct kata__recovery *r, const char *vm_uuid);
/* The epoch in the VM's record; 0 when it has none that can be read. */
uint64_t kata__recover_epoch_of(const struct kata__recovery *r, const kata_sandbox_info *info, kata_error **err);
bool kata__recover_lives(int64_t pid, uint64_t start_time, const char *boot_id);
/* A change of the store: once one has failed for a reason of the store's own, the others are not tried. */
int kata__recover_may_store(const struct kata__recovery *r, kata_error **err);
int kata__recover_stored(struct kata__recovery *r, int rc);

/* places.c: calls fn for each directory, once, that snapshots may be half made in, or that may be a template's. */
int kata__recover_places(struct kata__recovery *r,
			 int (*fn)(struct kata__recovery *r, const char *dir, kata_error **err), kata_error **err);
#endif
