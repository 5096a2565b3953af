/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_RECONCILE_H
#define KATA_SANDBOX_RECONCILE_H
/* What a sandbox and its record say differently: found by compare.c, settled by reconcile.c. */
#include <kata/reconcile.h>

#include "sandbox/sandbox.h"

enum kata__difference_kind {
	KATA__DIFFERENCE_STORAGE,
	KATA__DIFFERENCE_NIC,
	KATA__DIFFERENCE_CONTAINER,
	KATA__DIFFERENCE_STATE,  /* running or paused */
	KATA__DIFFERENCE_PROCESS /* a process went on, or routes: nothing is taken back */
};

struct kata__difference {
	enum kata__difference_kind kind;
	char *id, *text;
	bool recorded; /* the record has it, the sandbox has not; else the other way round */
	bool settled;
};

struct kata_reconcile_report {
	kata_reconcile_verdict verdict;
	uint64_t generation, believed;
	struct kata__difference *list;
	size_t count;
};

/* Fills the report from what the sandbox is now and its record (NULL: there is none). NO_MEMORY. */
int kata__reconcile_compare(kata_sandbox *s, const struct kata_record *now, const struct kata_record *record,
			    kata_reconcile_report *report, kata_error **err);
/* The device of that id in a machine's record, as `list` ("storages", "nics") has it; NULL: it is not there. */
json_t *kata__reconcile_device(const json_t *vm, const char *list, const char *id);
#endif
