/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_BASE_ERROR_H
#define KATA_BASE_ERROR_H
/*
 * How the library's own code makes errors. A failing function writes
 *
 *         return kata__fail(err, KATA_E_INVALID, CALLER, "nic.mac: '%s' is not six hex bytes", mac);
 *
 * and a function whose callee failed either returns the callee's status unchanged or, once at a room's boundary, adds
 * what the callee could not know: `return kata__error_wrap(err, rc, "disk '%s'", id);`.
 * All of these accept err == NULL, never fail themselves, and return the status for the caller to return.
 */
#include <kata/error.h>

#include <stdarg.h>

#include "base/compiler.h"

/* Longest piece of text taken from a guest or VMM into an error. */
#define KATA__ERROR_TEXT_MAX 4096

int kata__error_set(kata_error **err, const char *file, int line, int status, kata_origin origin, int os_errno,
		    const char *fmt, ...) KATA__PRINTF(7, 8);

/* Where an error was made is said in builds for development alone: a thousand places would be a fortieth of the
 * library. */
#ifdef NDEBUG
#define KATA__BIRTH NULL, 0
#else
#define KATA__BIRTH __FILE__, __LINE__
#endif
#define kata__fail(err, status, origin, ...)                                                                           \
	kata__error_set((err), KATA__BIRTH, (status), KATA_ORIGIN_##origin, 0, __VA_ARGS__)
/* A failed system call: origin host; status from errno (EACCES, EPERM: PERMISSION; ENOENT: NOT_FOUND; ENOMEM:
 * NO_MEMORY; else IO); ": strerror" is appended to the message. */
int kata__error_set_errno(kata_error **err, const char *file, int line, int os_errno, const char *fmt, ...)
	KATA__PRINTF(5, 6);
#define kata__fail_errno(err, os_errno, ...) kata__error_set_errno((err), KATA__BIRTH, (os_errno), __VA_ARGS__)
/* Out of memory: the static error. */
int kata__fail_no_memory(kata_error **err);

/* *err becomes the cause of a new error with the same status, origin and errno and this message. Returns status. */
int kata__error_wrap(kata_error **err, int status, const char *fmt, ...) KATA__PRINTF(3, 4);

/* Additions to an error still in the making (no effect on NULL or the static error). They copy their text. */
void kata__error_set_step(kata_error *err, const char *op, const char *step);
void kata__error_set_hint(kata_error *err, const char *fmt, ...) KATA__PRINTF(2, 3);
void kata__error_set_vmm_output(kata_error *err, const char *text, size_t len);
void kata__error_set_console(kata_error *err, const char *text, size_t len);
void kata__error_set_uncertain(kata_error *err);
/* Appends `take_other` (may be NULL) at the end of err's cause chain. */
void kata__error_add_cause(kata_error *err, kata_error *take_other);
/* A deep copy, so that one failure can be answered to several waiters. NULL for NULL; static error when out of memory.
 */
kata_error *kata__error_dup(const kata_error *err);
/* Moves *from to *err when err is not NULL, else frees it. Returns the status of *from. */
int kata__error_move(kata_error **err, kata_error **from);

/* Copies at most KATA__ERROR_TEXT_MAX bytes of foreign text, control characters and bad UTF-8 replaced by '?'
 * (newlines kept when keep_newlines). Returns malloc'ed text or NULL. */
char *kata__sanitize(const char *text, size_t len, bool keep_newlines);

/* Collects problems of a validation; becomes one error at the end. */
struct kata__problems {
	char **lines;
	size_t count;
	bool out_of_memory;
};
void kata__problems_add(struct kata__problems *p, const char *fmt, ...) KATA__PRINTF(2, 3);
/* 0 when empty; otherwise KATA_E_INVALID "N problems in WHAT: first; second; ..." with the list. Frees p's content. */
int kata__problems_finish(struct kata__problems *p, const char *what, kata_error **err);

KATA__DEFINE_CLEANUP(kata_error *, kata_error_free)
#endif
