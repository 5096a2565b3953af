/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FAIL_POINT_H
#define KATA_FAIL_POINT_H
/*
 * Fail-points: before and after every step of every operation stands a point named
 * "<operation>/<step>:before" or "<operation>/<step>:after" ("plug-storage/device_add:before"). At
 * "<operation>/<step>:undo", before a step is taken back, only KILL acts. For tests of those who use the library; unset
 * points cost a pointer comparison.
 */
#include <kata/context.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The name of every point: with KILL and `skip` counted up from 0, a test dies at each step of whatever it does. */
#define KATA_FAIL_ANYWHERE "*/*:*"

typedef enum kata_fail_action {
	KATA_FAIL_ERROR = 0, /* the step fails with INJECTED (":after": it did its work, and is undone) */
	KATA_FAIL_HANG = 1,  /* the step never completes: the deadline or a cancel ends the op */
	KATA_FAIL_DELAY = 2, /* the step waits `value` milliseconds, then goes on */
	KATA_FAIL_KILL = 3   /* the calling process is killed (SIGKILL) here */
} kata_fail_action;

/*
 * Arms a point. `name` is the full name; it need not exist (yet). It acts on the `skip`-th + 1 pass and on `count`
 * passes from there (0: for ever). Arming again replaces. INVALID for a name without ':' or longer than 127 bytes.
 */
KATA_API int kata_context_set_fail_point(kata_context *context, const char *name, kata_fail_action action,
					 uint64_t value, uint32_t skip, uint32_t count, kata_error **err);
/* Disarms one (NULL: all). */
KATA_API void kata_context_clear_fail_point(kata_context *context, const char *name);

#ifdef __cplusplus
}
#endif
#endif
