/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_H
#define KATA_FACTORY_H
/*
 * Factories: builders around a builder, for VMs in milliseconds where a boot takes seconds.
 *
 * A warm cache keeps machines ready: booted, their agent has answered, paused. kata_vm_builder_build() on it hands one
 * of them out: a VM that is CREATED as any builder's is, to which devices are added, which is started, whose agent is
 * connected. What differs is how long that takes, and kata_vm_get_origin(): KATA_VM_WARM; or KATA_VM_BOOTED where no
 * ready machine fitted and the inner builder made an exact one.
 *
 * Before a machine is handed out it is asked to make itself its caller's own: the guest's entropy is seeded, its clock
 * set (what passes between the build and the start is missing from it), its hostname becomes the VM's id and its
 * machine-id the VM's UUID; kata_vm_get_identity_reset() tells what was done. One that does not answer is ended and
 * counted, and the next one is taken; after three of them an exact boot is. An agent of the caller's own kind must know
 * KATA_AGENT_RESET_IDENTITY.
 *
 * Threads: a cache has none; its machines are made by the context's loop. With an external loop it therefore works
 * while the caller dispatches. Functions may be called from any thread; those that wait, not from a callback of the
 * library. A crash of the process leaves pooled machines marked in the state directory: kata_recover() ends them.
 */
#include <stddef.h>
#include <stdint.h>

#include <kata/agent.h>
#include <kata/vm_builder.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- warm cache ---- */

/* A kind of machine that is kept ready. A build fits it when its config is the same but for the id, and so are the
 * files behind kernel, initrd and image as they were at the boot. */
typedef struct kata_cache_size {
	size_t size;                  /* sizeof(kata_cache_size) */
	const kata_vm_config *config; /* id and memory_path must be NULL: each machine has its own */
	uint32_t min;                 /* kept ready */
	uint32_t max;                 /* a build that finds none ready raises what is kept by one, up to this; it falls
				       * again as machines reach their age. 0: min */
} kata_cache_size;
#define KATA_CACHE_SIZE_INIT                                                                                           \
	{                                                                                                              \
		sizeof(kata_cache_size), NULL, 0, 0                                                                    \
	}

typedef struct kata_cache_options {
	size_t size;                  /* sizeof(kata_cache_options) */
	const kata_cache_size *sizes; /* an array of size_count; may be empty: kata_cache_set_sizes() */
	size_t size_count;
	uint32_t parallel;     /* most that are being made at once; 0: 1 */
	uint64_t age_max_ms;   /* one that is older is replaced; 0: no limit */
	uint64_t retry_min_ms; /* after a boot that failed; doubles with each further one, and is as this again after
				* one that went well; 0: 1000 */
	uint64_t retry_max_ms; /* 0: 60000 */
	uint64_t probe_ms;     /* how long a machine may take over answering before it is handed out; 0: 1000, five
				* times that where the VMM emulates the CPU */
} kata_cache_options;
#define KATA_CACHE_OPTIONS_INIT                                                                                        \
	{                                                                                                              \
		sizeof(kata_cache_options), NULL, 0, 0, 0, 0, 0, 0                                                     \
	}

/*
 * Begins to make machines at once, and returns. `inner` makes them and builds what the cache has not; `agents` connects
 * to them (NULL: directly). Both are borrowed and must outlive the cache. Freeing the cache ends its machines and waits
 * for that; VMs that were handed out do not need it any more. Configs are copied. Returns INVALID.
 */
KATA_API int kata_vm_builder_new_cache(kata_context *context, kata_vm_builder *inner, kata_agent_builder *agents,
				       const kata_cache_options *options, kata_vm_builder **ret_builder,
				       kata_error **err);

/*
 * From here on `cache` is a builder made by kata_vm_builder_new_cache; INVALID for another.
 *
 * Other sizes instead of those there are: machines that fit one of the new ones stay, the others are ended in the
 * background. Begins to make machines, also after a drain.
 */
KATA_API int kata_cache_set_sizes(kata_vm_builder *cache, const kata_cache_size *sizes, size_t size_count,
				  kata_error **err);
/* Ends all machines of the cache, those in the making too, and makes no more until kata_cache_set_sizes(); builds are
 * exact boots then. Default deadline 30 s. Returns TIMEOUT: how many are left; their end goes on. */
KATA_API int kata_cache_drain(kata_vm_builder *cache, const kata_op_options *options, kata_error **err);
KATA_API int kata_cache_drain_begin(kata_vm_builder *cache, const kata_op_options *options, kata_op **ret_op,
				    kata_error **err);
/* Waits until `count` machines are ready, of all sizes together, and keeps at least so many of them (as far as each
 * size's max allows). Default deadline 300 s. Returns INVALID (more than all max together), TIMEOUT (with the error of
 * the last boot that failed as its cause), STATE (it was drained). */
KATA_API int kata_cache_wait_ready(kata_vm_builder *cache, uint32_t count, const kata_op_options *options,
				   kata_error **err);
KATA_API int kata_cache_wait_ready_begin(kata_vm_builder *cache, uint32_t count, const kata_op_options *options,
					 kata_op **ret_op, kata_error **err);

typedef struct kata_cache_status {
	size_t size;       /* set by the caller */
	uint32_t min, max; /* as given */
	uint32_t wanted;   /* kept ready now, min to max */
	uint32_t ready, making;
	uint32_t handing_out; /* being looked at for a build */
	uint32_t ending;      /* being ended; in KATA_CACHE_ALL only */
	uint64_t made, taken; /* since the beginning: machines made, handed out, ... */
	uint64_t missed;      /* builds that got none; where none was well, or no size fits: in KATA_CACHE_ALL only */
	uint64_t failed;      /* boots */
	uint64_t unhealthy;   /* ended because they did not answer, or had died */
	uint64_t aged;        /* ended because of their age */
	uint64_t outdated;    /* ended because a file of theirs has changed */
	uint64_t next_try_ms; /* until a boot is tried again after one that failed; 0: none waits */
	char last_error[256]; /* of the last boot that failed, or "" */
} kata_cache_status;

#define KATA_CACHE_ALL ((size_t)-1)
/* How many sizes there are, and how one of them is doing (by its index as given), or all together. Never waits.
 * NOT_FOUND past the end. */
KATA_API size_t kata_cache_get_size_count(const kata_vm_builder *cache);
KATA_API int kata_cache_get_status(const kata_vm_builder *cache, size_t index, kata_cache_status *ret_status,
				   kata_error **err);

#ifdef __cplusplus
}
#endif
#endif
