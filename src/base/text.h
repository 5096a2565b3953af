/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_BASE_TEXT_H
#define KATA_BASE_TEXT_H
/* Small texts: ids, UUIDs, formatted strings. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define KATA__ID_MAX 64 /* bytes, without the NUL */

/* [A-Za-z0-9][A-Za-z0-9_.-]{0,63} */
bool kata__id_is_valid(const char *id);
/* INVALID, naming `argument` ("storage.id"), the id (sanitized) and the rule. */
int kata__id_check(const char *argument, const char *id, kata_error **err);
/* A random (version 4) UUID in lower case: 36 bytes and a NUL. */
void kata__uuid_generate(char out[37]);
bool kata__uuid_is_valid(const char *uuid);
/* malloc'ed printf; NULL when out of memory. */
char *kata__format(const char *fmt, ...) KATA__PRINTF(1, 2);
/* Seconds since 1970 as "2026-01-31 12:00:00 UTC"; "?" for what is no such time. */
void kata__format_time(int64_t seconds, char *buf, size_t size);
/* What fits, with a NUL; like snprintf it returns the whole length. buf may be NULL where size is 0. */
size_t kata__copy_text(char *buf, size_t size, const char *text);
/* strdup that takes NULL for NULL. */
char *kata__strdup(const char *s);
/* NULL-terminated string lists. */
char **kata__strv_dup(const char *const *v); /* NULL for NULL or when out of memory */
void kata__strv_free(char **v);
size_t kata__strv_length(const char *const *v);
#endif
