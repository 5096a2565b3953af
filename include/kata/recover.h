/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_RECOVER_H
#define KATA_RECOVER_H
/*
 * kata_recover: finds what dead processes left on the host and in the records, says what it is, and on request finishes
 * or undoes it. docs/recovery.md has the kinds, and what is done with each.
 *
 * What a living process owns is left alone, and so is what a living factory is giving to another process. A machine is
 * attachable while its VMM lives and it was released, or its sandbox has a record in `persistence`. Everything else is
 * undone with KATA_RECOVER_APPLY: VMMs are killed, their directories and what half-done operations made elsewhere
 * removed, then the records of what is gone, and reservations of the dead. After a reboot that is everything.
 *
 * Security: a process gets a signal only when its pid, start time and boot are the recorded ones and it has the log
 * file of that very directory open. What is in a directory of ours, or named as ours, without that proof is foreign:
 * reported, never touched.
 *
 * Replayable: killed at any moment and run again, it goes on. Of two that run at once each thing is done by one.
 */
#include <stdbool.h>

#include <kata/persistence.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KATA_RECOVER_APPLY UINT64_C(1) /* without it: report only */
/* With APPLY: what is attachable is removed too. For an owner of the whole state directory who wants none of it any
 * more, and for a machine whose record is lost. */
#define KATA_RECOVER_ATTACHABLE_TOO UINT64_C(2)

typedef enum kata_recover_verdict {
	KATA_RECOVER_OWNED = 0,      /* a living process owns it, or is at it just now */
	KATA_RECOVER_ATTACHABLE = 1, /* released or recorded, and its VMM lives: APPLY frees it from its dead owner */
	KATA_RECOVER_GONE = 2,       /* what it stands for has ended: a record, a directory. Undone when applied */
	KATA_RECOVER_HALF_MADE = 3,  /* its maker died in the middle. Undone when applied */
	KATA_RECOVER_ORPHAN = 4,     /* it lives and is nobody's. Ended when applied */
	KATA_RECOVER_FOREIGN = 5,    /* not provably ours: never touched */
	KATA_RECOVER_FAILED = 6      /* could not be judged, or undone: see text */
} kata_recover_verdict;
KATA_API const char *kata_recover_verdict_get_name(kata_recover_verdict verdict);

typedef struct kata_recover_options {
	size_t size;
	uint64_t flags; /* KATA_RECOVER_* */
	/* Absolute paths, NULL-terminated: templates' directories, and directories that snapshots are made in. Those
	 * that `persistence` has rows of, and those in which a machine was being saved, are known without. NULL: none.
	 */
	const char *const *directories;
} kata_recover_options;
#define KATA_RECOVER_OPTIONS_INIT                                                                                      \
	{                                                                                                              \
		sizeof(kata_recover_options), 0, NULL                                                                  \
	}

typedef struct kata_recover_report kata_recover_report;

/*
 * `persistence` NULL: no records. `options` NULL: report only. Each change of a record is a transaction of its own, or
 * joins the caller's. What cannot be undone is FAILED and holds up nothing else: a VMM that does not die costs 10 s,
 * for each 64 machines that are ended. Blocking. Fails only when the state directory cannot be read, with INVALID, or
 * when memory is short.
 */
KATA_API int kata_recover(kata_context *context, kata_persistence *persistence, const kata_recover_options *options,
			  kata_recover_report **ret_report, kata_error **err);

/*
 * The entries, in order of kinds and names; what belongs to one (the record of a machine that is attachable, what lies
 * in its directory) has none of its own. All texts are borrowed; NULL, OWNED or false past the end.
 */
KATA_API size_t kata_recover_report_get_count(const kata_recover_report *report);
/* "vm", "process", "snapshot", "template", "socket", "sandbox", "reservation", "pooled-vm", ...: docs/recovery.md */
KATA_API const char *kata_recover_report_get_kind(const kata_recover_report *report, size_t index);
/* The id of the VM, sandbox or row; the pid; the path; of a reservation "SANDBOX/KIND/ID". */
KATA_API const char *kata_recover_report_get_id(const kata_recover_report *report, size_t index);
KATA_API kata_recover_verdict kata_recover_report_get_verdict(const kata_recover_report *report, size_t index);
/* APPLY has finished or undone it: recovering again does not find it. */
KATA_API bool kata_recover_report_is_undone(const kata_recover_report *report, size_t index);
KATA_API const char *kata_recover_report_get_text(const kata_recover_report *report, size_t index); /* one line */
/* Entries that are gone, half made, orphans or failed, and not undone: what there is to do. */
KATA_API size_t kata_recover_report_get_left(const kata_recover_report *report);
KATA_API void kata_recover_report_free(kata_recover_report *report); /* accepts NULL */

#ifdef __cplusplus
}
#endif
#endif
