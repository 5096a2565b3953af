/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_RECOVER_H
#define KATA_RECOVER_H
/*
 * kata_recover: finds what a dead process left in the context's state directory, reports it, and on request removes it.
 *
 * A VM directory whose owner lives is left alone; so is one that a living factory is giving to another process. What
 * was the stock of a factory that is dead is an orphan. One that was released, or whose sandbox has a record in
 * `persistence`, is attachable as long as its VMM lives. Everything else is an orphan: with KATA_RECOVER_APPLY its VMM
 * is killed (by checked identity only) and its journal undone (taps, sockets, files), in that order. Replayable: run
 * again after a crash, it goes on.
 */
#include <kata/persistence.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KATA_RECOVER_APPLY UINT64_C(1) /* without it: report only */
/* With APPLY: what is attachable is removed too. For an owner of the whole state directory who wants none of it any
 * more, and for a machine whose record is lost. */
#define KATA_RECOVER_ATTACHABLE_TOO UINT64_C(2)

typedef enum kata_recover_verdict {
	KATA_RECOVER_OWNED = 0,      /* a living process owns it */
	KATA_RECOVER_ATTACHABLE = 1, /* released or recorded, and its VMM lives */
	KATA_RECOVER_ORPHAN = 2,     /* nobody's: removed when applied */
	KATA_RECOVER_FAILED = 3      /* an orphan that could not be removed: see text */
} kata_recover_verdict;
KATA_API const char *kata_recover_verdict_get_name(kata_recover_verdict verdict);

typedef struct kata_recover_report kata_recover_report;

/* `persistence` NULL: no records. Blocking; bounded by 10 s a VM. Fails only when the state directory cannot be read.
 */
KATA_API int kata_recover(kata_context *context, kata_persistence *persistence, uint64_t flags,
			  kata_recover_report **ret_report, kata_error **err);
KATA_API size_t kata_recover_report_get_count(const kata_recover_report *report);
/* VM id, verdict and one line of text of entry `index`; borrowed. NULL / OWNED past the end. */
KATA_API const char *kata_recover_report_get_vm_id(const kata_recover_report *report, size_t index);
KATA_API kata_recover_verdict kata_recover_report_get_verdict(const kata_recover_report *report, size_t index);
KATA_API const char *kata_recover_report_get_text(const kata_recover_report *report, size_t index);
KATA_API void kata_recover_report_free(kata_recover_report *report); /* accepts NULL */

#ifdef __cplusplus
}
#endif
#endif
