/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_POOL_H
#define KATA_FACTORY_POOL_H
/*
 * The pool behind a warm cache, and behind the pre-started VMMs of a template: which machines there are, which are to
 * be made. They differ in how one is made and handed out, and nowhere else: a size with a base is of VMMs that wait to
 * load it, one without is of machines that were booted and paused.
 *
 *	          make (make.c)           take (take.c, hand_out.c)
 *	nothing ---------------> ready ----------------> handing out ---> the caller's
 *	              |failed      |aged, outdated, died      |unhealthy
 *	              v            v                          v
 *	          try later      ending                     ending, and the next one is taken
 *
 * Model: one function decides, the turn: what is too old goes, what is missing is made, who waits is told. It runs
 *after every change, and by one timer at the next moment at which it may decide otherwise; so nothing polls.
 *
 * Invariants: 1. a machine is in a `ready` list, or belongs to one operation (a make, a hand-out), or is being ended:
 * never two of them; so it is handed out once. 2. a failed boot is not tried again before its time. 3. the pool lives
 *as long as its builder and every operation on it.
 *
 * All [leader], but where it says otherwise.
 */
#include <pthread.h>
#include <stdatomic.h>

#include <kata/factory.h>

#include "factory/fit.h"
#include "factory/template_base.h"
#include "op/op.h"
#include "vm/vm.h"

struct kata__pool_make;

#define KATA__POOL_RETRY_MIN_MS 1000u /* what 0 means */

/* A kind of machine. */
struct kata__pool_size {
	struct kata__pool_size *next;
	atomic_uint refs;                    /* the pool, its machines, and the operations at work on it [any thread] */
	struct kata__vm_config_copy *config; /* its id is nobody's */
	struct kata__template_base *base;    /* what its VMMs wait to load; referenced; NULL: booted machines */
	bool dropped;                        /* not in the pool any more: what comes of its makes is ended */
	uint32_t min, max, wanted;
	struct kata__pool_member *ready; /* oldest first */
	uint32_t ready_count, making, handing_out;
	kata_cache_status counts; /* the counters alone */
	char *last_error;
	uint64_t retry_ms, next_try_ns; /* 0: now */
	uint64_t rest_until_ns;         /* of a size with a base: none is made before, unless none is ready */
};

/* A ready machine: paused, its agent connected; of a size with a base: a VMM, and no agent. */
struct kata__pool_member {
	struct kata__pool_member *next;
	struct kata__pool *pool;      /* while it is in the list */
	struct kata__pool_size *size; /* referenced */
	kata_vm *vm;
	kata_agent *agent;
	struct kata__stamp stamp;
	uint64_t made_ns;
	bool aged; /* replaced as soon as there is something to replace it by */
	bool dead; /* it has ended by itself, or its agent was lost */
};

/* An operation that waits for the pool to be in some state: looked at in every turn. */
struct kata__pool_waiter {
	struct kata__pool_waiter *next;
	kata_op *op; /* referenced while it is in the list */
	uint64_t token;
	uint32_t count; /* ready ones it waits for; 0: until there is no machine at all */
};

struct kata__pool {
	atomic_uint refs; /* [any thread] */
	kata_context *ctx;
	kata_vm_builder *inner;
	kata_agent_builder *agents;
	kata_agent_builder *own_agents; /* the same, where we made it */
	uint32_t parallel;
	uint64_t age_max_ms, retry_min_ms, retry_max_ms, probe_ms;

	struct kata__pool_size *sizes; /* in the order given */
	struct kata__pool_make *makes;
	uint32_t making, handing_out, ending;
	kata_cache_status total; /* counters */
	bool drained;            /* makes none */
	bool closing;            /* for ever */
	struct kata__pool_waiter *waiters;
	struct kata__timer *timer;
	struct kata__task turn_task;
	bool turn_posted;

	bool idle; /* closed, and nothing is left: set with release */

	pthread_mutex_t mutex;     /* a leaf lock, for what follows */
	kata_cache_status *mirror; /* one a size, and all together as the last */
	size_t mirror_count;       /* of sizes */
};

/* [any thread] An empty one. Borrows the builders; take_agents (may be NULL) is its own from then on, also where that
 * fails. `options` are checked, and its sizes not looked at. */
int kata__pool_new(kata_context *ctx, kata_vm_builder *inner, kata_agent_builder *agents,
		   kata_agent_builder *take_agents, const kata_cache_options *options, struct kata__pool **ret,
		   kata_error **err);
/* [any thread] The sizes that there are from now on: takes them, also where that fails (NO_MEMORY). Sizes that were
 * there with the same config and base keep their machines. */
int kata__pool_replace_sizes(struct kata__pool *pool, struct kata__pool_size *take_sizes, kata_error **err);
int kata__pool_size_new(const kata_vm_config *config, uint32_t min, uint32_t max, struct kata__pool_size **ret,
			kata_error **err);
void kata__pool_sizes_free(struct kata__pool_size *sizes);
/* [any thread] Ends everything, for ever, and waits for that; in a callback nobody can wait: then it goes on in the
 * background. */
void kata__pool_end(struct kata__pool *pool);
/* [any thread] One size, or KATA_CACHE_ALL. False: past the end. */
bool kata__pool_get_status(struct kata__pool *pool, size_t index, kata_cache_status *ret);
/* [any thread] */
struct kata__pool *kata__pool_ref(struct kata__pool *pool);
void kata__pool_unref(struct kata__pool *pool);
struct kata__pool_size *kata__pool_size_ref(struct kata__pool_size *size);
void kata__pool_size_unref(struct kata__pool_size *size);

/* Something has changed: publishes it, and decides anew soon (not inside the caller's stack). */
void kata__pool_changed(struct kata__pool *pool);
void kata__pool_drain(struct kata__pool *pool);
/* Keeps at least `count` ready, as far as the sizes allow. */
void kata__pool_want(struct kata__pool *pool, uint32_t count);
uint32_t kata__pool_count_max(const struct kata__pool *pool);
const char *kata__pool_last_error(const struct kata__pool *pool); /* NULL: none */
void kata__pool_wait(struct kata__pool *pool, struct kata__pool_waiter *w);
void kata__pool_stop_waiting(struct kata__pool *pool, struct kata__pool_waiter *w);
/* Ends a machine in the background. Takes both references; the agent may be NULL. */
void kata__pool_end_vm(struct kata__pool *pool, kata_vm *take_vm, kata_agent *take_agent);

/* cache_wait.c: an operation that waits for so many ready ones, and keeps as many. [any thread] */
int kata__pool_wait_ready_begin(struct kata__pool *pool, uint32_t count, const kata_op_options *options,
				kata_op **ret_op, kata_error **err);

/* What a build asks for. */
struct kata__pool_wish {
	struct kata__vm_config_copy *config;
	struct kata__stamp stamp;
	struct kata__template_base *base; /* referenced; NULL: a booted machine is wanted */
	bool keep_id;                     /* the caller gave none: the machine keeps what it is called */
	kata_agent_transport transport;
	bool transfer; /* to another process */
};
void kata__pool_wish_deinit(struct kata__pool_wish *wish);

/* The oldest ready machine that fits, out of the list and handing out; NULL when there is none, which is counted. */
struct kata__pool_member *kata__pool_pop(struct kata__pool *pool, const struct kata__pool_wish *wish);
/* A build gets none although there may be some. */
void kata__pool_missed(struct kata__pool *pool);
/* The ends of a hand-out: back in the list; the caller's (takes the member, not its VM); ended (takes all). */
void kata__pool_put_back(struct kata__pool *pool, struct kata__pool_member *take_member);
void kata__pool_handed_out(struct kata__pool *pool, struct kata__pool_member *take_member);
void kata__pool_not_handed_out(struct kata__pool *pool, struct kata__pool_member *take_member, bool unhealthy);
/* The ends of a make. */
void kata__pool_made(struct kata__pool *pool, struct kata__pool_member *take_member);
void kata__pool_made_not(struct kata__pool *pool, struct kata__pool_size *size, const kata_error *error);

/* make.c: begins to make one of this size. */
extern const struct kata__op_table kata__pool_make_table, kata__pool_prestart_table;
int kata__pool_make_begin(struct kata__pool *pool, struct kata__pool_size *size, kata_error **err);
/* Cancels those of one size, or all (NULL). */
void kata__pool_make_cancel(struct kata__pool *pool, const struct kata__pool_size *size);

/* take.c: an operation that takes a machine. [any thread] Takes the wish, also when it fails. */
int kata__pool_take_begin(struct kata__pool *pool, struct kata__pool_wish *take_wish, const kata_op_options *options,
			  kata_op **ret_op, kata_error **err);
/* Once it has succeeded: the VM, the caller's (PAUSED and marked, for a transfer); or NULL: none was ready. */
kata_vm *kata__pool_take_result(kata_op *op);
/* Both at once, blocking. *ret_vm NULL: none was ready. */
int kata__pool_take(struct kata__pool *pool, struct kata__pool_wish *take_wish, kata_vm **ret_vm, kata_error **err);

/* hand_out.c: an operation that looks at one machine and makes it a caller's: CREATED, warm, called `id` (NULL: as it
 * is). With `transfer` it is left PAUSED, marked, and under its name: another process does the rest. A VMM that waits
 * for its state (`agent` NULL) has nothing to be asked; the start makes its guest its own. Not begun. Borrows all; the
 * agent is released by it. */
extern const struct kata__op_table kata__hand_out_table, kata__transfer_table, kata__hand_out_prestarted_table;
int kata__hand_out_new(struct kata__pool *pool, kata_vm *vm, kata_agent *agent, const char *id, bool transfer,
		       kata_op **ret_op, kata_error **err);
#endif
