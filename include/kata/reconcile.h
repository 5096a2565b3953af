/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_RECONCILE_H
#define KATA_RECONCILE_H
/*
 * kata_sandbox_reconcile: a sandbox and its record that have come apart, because the caller rolled back (or lost) what
 * was stored after an operation. What is plugged does not go away by a ROLLBACK: the caller decides whether the sandbox
 * follows the record, or the record the sandbox. docs/persistence.md walks through the orders of plug, store and
 * commit.
 */
#include <kata/persistence.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kata_reconcile_action {
	KATA_RECONCILE_LOOK = 0,      /* say what differs, change nothing */
	KATA_RECONCILE_STORE = 1,     /* store the sandbox as it is */
	KATA_RECONCILE_COMPENSATE = 2 /* make the sandbox what its record says */
} kata_reconcile_action;

typedef enum kata_reconcile_verdict {
	KATA_RECONCILE_SAME = 0,        /* the record is the one this sandbox stored last, and says what it is */
	KATA_RECONCILE_CHANGED = 1,     /* it is that one, and the sandbox has changed since: store it */
	KATA_RECONCILE_ROLLED_BACK = 2, /* it is another generation than this sandbox stored last */
	KATA_RECONCILE_MISSING = 3,     /* there is none: never stored, rolled back, or deleted */
	KATA_RECONCILE_TAKEN_BACK = 4   /* it is of an older epoch: obtaining this sandbox was rolled back */
} kata_reconcile_verdict;
KATA_API const char *kata_reconcile_verdict_get_name(kata_reconcile_verdict verdict);

typedef struct kata_reconcile_report kata_reconcile_report;

/*
 * Reads the record in the caller's transaction and compares. *ret_report (may be NULL; caller frees) says what was
 * found before the action, and is set also when the action fails.
 *
 * STORE: the next generation, whatever stands there. COMPENSATE: removes containers, storages and NICs that the record
 * has not, plugs again what it has and the sandbox has not (and configures its interface), does both with what has one
 * id in both and is not the same (a disk with another file), pauses or resumes; routes are told and left; without a
 * record it destroys the sandbox; TAKEN_BACK, it then releases it, so that the record is good for the next who obtains
 * it. What cannot be taken back (a container that was removed) is left as a difference: DIVERGED, and only STORE is
 * left.
 *
 * FENCED: another owner has taken over since: neither is possible. DIVERGED. Others as the operations that compensate.
 * Blocking; options->timeout_ms is for each of those. Sandbox states: RUNNING, PAUSED; RELEASED for LOOK and STORE.
 */
KATA_API int kata_sandbox_reconcile(kata_sandbox *sandbox, kata_persistence *persistence, kata_reconcile_action action,
				    const kata_op_options *options, kata_reconcile_report **ret_report,
				    kata_error **err);

KATA_API kata_reconcile_verdict kata_reconcile_report_get_verdict(const kata_reconcile_report *report);
/* Generation of the record (0: none), and the one this sandbox believed to be stored. */
KATA_API uint64_t kata_reconcile_report_get_generation(const kata_reconcile_report *report);
KATA_API uint64_t kata_reconcile_report_get_believed_generation(const kata_reconcile_report *report);
/* What differs: one line each ("storage 'data' is in the sandbox, but not in the record"), and whether this call
 * settled it. Borrowed; NULL / false past the end. */
KATA_API size_t kata_reconcile_report_get_count(const kata_reconcile_report *report);
KATA_API const char *kata_reconcile_report_get_text(const kata_reconcile_report *report, size_t index);
KATA_API bool kata_reconcile_report_is_settled(const kata_reconcile_report *report, size_t index);
KATA_API void kata_reconcile_report_free(kata_reconcile_report *report); /* accepts NULL */

#ifdef __cplusplus
}
#endif
#endif
