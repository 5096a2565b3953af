/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_OP_CONTEXT_H
#define KATA_OP_CONTEXT_H
/* The inside of kata_context: loop, fail-points, limits, log, and the count of what lives. */
#include <kata/context.h>
#include <kata/fail_point.h>

#include "base/compiler.h"
#include "base/loop.h"
#include "base/process.h"

enum kata__object_kind {
	KATA__OBJECT_VM,
	KATA__OBJECT_AGENT,
	KATA__OBJECT_SANDBOX,
	KATA__OBJECT_OP,
	KATA__OBJECT_BUILDER,
	KATA__OBJECT_PERSISTENCE,
	KATA__OBJECT_SNAPSHOT,
	KATA__OBJECT_KINDS
};

struct kata__loop *kata__context_loop(const kata_context *ctx);
const char *kata__context_cache_dir(const kata_context *ctx);
/* This process, read once. */
const struct kata__process_identity *kata__context_self(const kata_context *ctx);

/* Objects register when made (EXHAUSTED past max_objects) and when freed. kata_context_free refuses while any lives. */
int kata__context_enter(kata_context *ctx, enum kata__object_kind kind, kata_error **err);
void kata__context_leave(kata_context *ctx, enum kata__object_kind kind);

/* Cheap when nobody listens. */
void kata__log(kata_context *ctx, kata_log_level level, const char *subsystem, const char *fmt, ...) KATA__PRINTF(4, 5);

/* What a fail-point says at this pass: -1 nothing, else a kata_fail_action (KILL does not return). */
int kata__fail_point_pass(kata_context *ctx, const char *op, const char *step, const char *where, uint64_t *ret_value);

/* STATE "called from a callback" when the caller is the leader inside a dispatch; for blocking public calls. */
int kata__context_check_may_block(kata_context *ctx, const char *function, kata_error **err);

/* A mirror of driver objects kept by rooms above, one opaque pointer a key (static string): e.g. the mock's registry of
 * released VMs. free_fn runs in kata_context_free. Leader or under the caller's own care. */
void *kata__context_get_extra(kata_context *ctx, const char *key);
int kata__context_set_extra(kata_context *ctx, const char *key, void *value, void (*free_fn)(void *), kata_error **err);
#endif
