/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_ERROR_H
#define KATA_ERROR_H
/*
 * kata_error: what went wrong, where it came from, and what would be right.
 *
 * Every call of libkata that can fail returns 0 or a negative kata_status, and takes a `kata_error **` as its last
 * argument. That argument may be NULL (only the status is wanted); otherwise it must point to a NULL pointer. It is
 * left untouched on success and always set on failure; the caller owns the error and frees it with kata_error_free().
 *
 * Errors are plain values: immutable once returned, usable from any thread, not bound to any other object.
 * Getters accept NULL and then answer KATA_OK, 0 or NULL. Strings they return are borrowed from the error.
 * Security: texts that came from a guest or a VMM are cut to a bounded length and control characters in them are
 * replaced, so that they may be printed.
 */
#include <stdbool.h>
#include <stddef.h>

#include <kata/export.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kata_status {
	KATA_OK = 0,
	KATA_E_INVALID = -1,   /* an argument, a config or an input text is wrong; the message names it */
	KATA_E_STATE = -2,     /* the object's state does not permit the call; the message says current and required */
	KATA_E_NOT_FOUND = -3, /* no object, file, row or program of that name */
	KATA_E_EXISTS = -4,    /* the id or name is taken */
	KATA_E_BUSY = -5,      /* in use: a mounted disk, an open transaction, live objects, a locked database */
	KATA_E_EXHAUSTED = -6, /* no slot, LUN or id is free, or a named limit is reached; says how many there are */
	KATA_E_TIMEOUT = -7,   /* the deadline passed; see kata_error_is_uncertain() */
	KATA_E_CANCELLED = -8, /* kata_op_cancel(), or the agent's connection was released */
	KATA_E_UNSUPPORTED = -9, /* this driver, binary or build cannot do it; the message says why */
	KATA_E_NO_MEMORY = -10,  /* out of memory; the error is then a static object */
	KATA_E_IO = -11,         /* a system call failed; kata_error_get_errno() has its errno */
	KATA_E_PERMISSION = -12, /* the operating system refused */
	KATA_E_PROTOCOL = -13,   /* the peer (VMM, agent) sent what its protocol forbids, or more than the cap */
	KATA_E_GONE = -14,       /* the VMM, the guest or the connection has ended, or was destroyed under the op */
	KATA_E_VERSION = -15,    /* a record, manifest or schema of a version this library does not read */
	KATA_E_CORRUPT = -16,    /* a record, image or database that is cut, changed or contradicts itself */
	KATA_E_IDENTITY = -17,   /* the process is not the recorded one (recycled pid, other boot, other UUID) */
	KATA_E_FENCED = -18,     /* another owner has taken the object over since */
	KATA_E_VMM = -19,        /* the VMM answered with an error */
	KATA_E_GUEST = -20,      /* the guest's agent answered with an error */
	KATA_E_DATABASE = -21,   /* SQLite answered with an error that has no closer status here */
	KATA_E_INJECTED = -22,   /* a fail-point was set to fail here (kata/fail_point.h) */
	KATA_E_DIVERGED = -23 /* the store does not hold what this object stored last: the caller rolled that back, or
			       * put older records back; kata_sandbox_reconcile decides */
} kata_status;

typedef enum kata_origin {
	KATA_ORIGIN_CALLER = 0, /* the arguments or the order of calls */
	KATA_ORIGIN_HOST = 1,   /* the host's kernel, files, memory */
	KATA_ORIGIN_VMM = 2,    /* the VMM process */
	KATA_ORIGIN_GUEST = 3   /* the guest or its agent */
} kata_origin;

typedef struct kata_error kata_error;

/* The status the failed call returned too; KATA_OK for NULL. */
KATA_API kata_status kata_error_get_status(const kata_error *err);
KATA_API kata_origin kata_error_get_origin(const kata_error *err);
/* The errno of the system call that failed, or 0. */
KATA_API int kata_error_get_errno(const kata_error *err);
/* One line without a newline: which argument or object, what was wrong, what would be right. Never NULL unless err is.
 */
KATA_API const char *kata_error_get_message(const kata_error *err);
/* The error that caused this one, borrowed, or NULL at the end of the chain. */
KATA_API const kata_error *kata_error_get_cause(const kata_error *err);
/* "operation/step" of the step that failed ("plug-storage/device_add"), or NULL where no operation was under way. */
KATA_API const char *kata_error_get_step(const kata_error *err);
/* The last lines the VMM wrote to its stderr, or NULL. */
KATA_API const char *kata_error_get_vmm_output(const kata_error *err);
/* The tail of the guest's console, or NULL. Security: written by the guest; control characters are replaced. */
KATA_API const char *kata_error_get_console(const kata_error *err);
/* What to try next, one line, or NULL. */
KATA_API const char *kata_error_get_hint(const kata_error *err);
/* True where not even asking the VMM could tell whether the operation took effect; the object then says `diverged`. */
KATA_API bool kata_error_is_uncertain(const kata_error *err);
/* Source file and line where the error was born ("src/vm/vm.c:120"), or NULL in builds with NDEBUG. */
KATA_API const char *kata_error_get_birth(const kata_error *err);

/* Validation finds every problem at once: number of problems (0 for an ordinary error) and each one's line. */
KATA_API size_t kata_error_get_problem_count(const kata_error *err);
KATA_API const char *kata_error_get_problem(const kata_error *err, size_t index);

/*
 * The whole error as text of several lines (step, cause chain, problems, VMM output, console tail, hint), or as one
 * line of JSON. Returns a string the caller frees with free(), or NULL when out of memory or err is NULL.
 */
KATA_API char *kata_error_to_text(const kata_error *err);
KATA_API char *kata_error_to_json(const kata_error *err);

/* Frees the error and its causes. Accepts NULL and the static out-of-memory error. */
KATA_API void kata_error_free(kata_error *err);

/* "invalid", "timeout", ...: the stable word for a status, as used in JSON; "unknown" for any other number. */
KATA_API const char *kata_status_get_name(int status);
KATA_API const char *kata_origin_get_name(kata_origin origin);

#ifdef __cplusplus
}
#endif
#endif
