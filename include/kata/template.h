/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TEMPLATE_H
#define KATA_TEMPLATE_H
/*
 * A template is a machine that has booted once and was saved; a template builder builds clones of it.
 *
 *   kata_vm_builder_new_template(inner) --build(config)--> CREATED, KATA_VM_CLONED --kata_vm_start--> RUNNING in 0.1 s
 *                                           | the config is another than the template's
 *                                           v
 *                                       inner's build: an exact boot, KATA_VM_BOOTED
 *
 * The template is made by the first build (which then takes as long as a boot) or by kata_template_make(): the inner
 * builder boots a machine without devices, its agent answers, and the machine is saved with its RAM in a file. Clones
 * map that file privately: they share what they do not write. Before kata_vm_start() of a clone succeeds the guest was
 * made itself: its random state was seeded, its clock set, its host name and machine-id made new; a clone in which that
 * fails does not start. Devices that were added before the start are plugged behind the load of the state.
 *
 * A template is valid while all it was made of is the same: the content of kernel, initrd (with the agent in it) and
 * image, the VMM's binary, accelerator and CPU, the version of this library, and the template's own files. Each build
 * looks at that (by inode, size and times; by content where those differ); a template that is stale or was tampered
 * with is made anew, or refused where KATA_TEMPLATE_REFUSE_STALE says so.
 *
 * Most of what a clone costs is the start of its VMM. With options.prestarted the builder keeps so many of them ready:
 * started, their devices made, waiting for the template's state (KATA_VM_PRESTARTED instead of KATA_VM_CLONED; they are
 * used the same). They are made as soon as the template is known, by the first build or kata_template_make(), one after
 * the other, and replaced as they are taken; one that cannot be started is tried again after a second, then two, up to
 * a minute. They are ended when the template is stale, another one, or removed. A build that finds none ready, or has
 * another config or transport than the template, is what it is without them. A crash of the process leaves them marked
 * in the state directory: kata_recover() ends them.
 *
 * Any number of processes may use one path: one of them makes the template, the others wait for it. When it is replaced
 * or removed, clones that were built from it go on.
 *
 * Security: clones share pages of memory, and so a side channel: by the time that an access takes, one can tell what
 * another has read of the common memory (docs/factories.md). Let only guests that may know this of each other share a
 * template. That is the caller's decision, and must be stated by KATA_TEMPLATE_SHARE_MEMORY.
 *
 * Threads: any; functions that wait, not from a callback of the library.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kata/agent.h>
#include <kata/factory.h>
#include <kata/vm_builder.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KATA_TEMPLATE_SHARE_MEMORY UINT64_C(1) /* must be given: see above */
#define KATA_TEMPLATE_REFUSE_STALE UINT64_C(2) /* a build does not replace a template, but fails: VERSION, CORRUPT */

typedef struct kata_template_options {
	size_t size;         /* sizeof(kata_template_options) */
	const char *path;    /* of its directory: absolute; made where it is missing, with mode 0700. Its parent must
			      * belong to the caller or root, and others must not be able to touch the directory. On a
			      * tmpfs it is memory, and quick (mounted with huge=always: in huge pages); a file system
			      * whose files cannot be written to (hugetlbfs) cannot hold it. Takes the RAM that the guest
			      * has touched (256 MiB: about 60), and for a moment twice that while it is replaced */
	uint64_t flags;      /* KATA_TEMPLATE_* */
	uint32_t prestarted; /* VMMs kept waiting for the template's state, at most 4096; 0: none. Each is a process
			      * that has touched no RAM of the guest yet (QEMU: some 20 MiB), three fds, a directory */
} kata_template_options;
#define KATA_TEMPLATE_OPTIONS_INIT                                                                                     \
	{                                                                                                              \
		sizeof(kata_template_options), NULL, 0, 0                                                              \
	}

/*
 * Touches nothing. `inner` makes the machines and builds what is no clone; `agents` connects to them (NULL: directly).
 * Both are borrowed and must outlive the builder. Freeing the builder ends the VMMs that wait and waits for that.
 * Returns INVALID.
 *
 * A build's config must leave memory_path NULL to be a clone's. QoS limits, or another agent transport than the
 * template's: an exact boot. A build is blocking, and returns what making the template returns.
 */
KATA_API int kata_vm_builder_new_template(kata_context *context, kata_vm_builder *inner, kata_agent_builder *agents,
					  const kata_template_options *options, kata_vm_builder **ret_builder,
					  kata_error **err);

/*
 * From here on `builder` is one made by kata_vm_builder_new_template; INVALID for another.
 *
 * Makes the template for this config (its id is not used) where there is none, a stale one, or one of another config;
 * nothing where it is there and valid. KATA_TEMPLATE_REFUSE_STALE does not hold here. One process makes it; another
 * that asks meanwhile waits and finds it made. Default deadline 120 s, longer where the VMM emulates the CPU; of it
 * each step has its own. A failure leaves what was there (a deadline that passes while that is being removed, at the
 * very end: the new one). Returns INVALID, PERMISSION (the directory is not ours alone), IO (no space: how much),
 * UNSUPPORTED (the VMM cannot save a machine), GONE, TIMEOUT.
 */
KATA_API int kata_template_make(kata_vm_builder *builder, const kata_vm_config *config, const kata_op_options *options,
				kata_error **err);
KATA_API int kata_template_make_begin(kata_vm_builder *builder, const kata_vm_config *config,
				      const kata_op_options *options, kata_op **ret_op, kata_error **err);

/* Removes the template and its directory, with what a process that was killed while making one has left there. Clones
 * that were built go on. Waits for who is making it. Default deadline 30 s. Returns NOT_FOUND, PERMISSION, TIMEOUT. */
KATA_API int kata_template_remove(kata_vm_builder *builder, const kata_op_options *options, kata_error **err);
KATA_API int kata_template_remove_begin(kata_vm_builder *builder, const kata_op_options *options, kata_op **ret_op,
					kata_error **err);

typedef struct kata_template_status {
	size_t size; /* set by the caller */
	bool exists; /* there is one, in whichever state */
	bool is_valid;
	char problem[256]; /* why it is not valid, or "" */
	/* Of one that could be read; else 0 and "". */
	uint64_t made_ns;      /* CLOCK_REALTIME */
	uint64_t memory_bytes; /* the machine's RAM */
	uint64_t disk_bytes;   /* what its files take, holes left out */
	char vmm_version[64], vmm_sha256[65], accelerator[8], cpu_model[128];
	char kernel_sha256[65], initrd_sha256[65], image_sha256[65];
	char agent_version[128], library_version[32];
	char digest[65]; /* of its manifest: another template has another */
	/* Counted by this builder. */
	uint64_t made;   /* templates */
	uint64_t clones; /* builds that were */
	uint64_t missed; /* builds that were exact boots */
} kata_template_status;

/* Looks at the files, without waiting for who may be making one; compares the parts by inode, size and times alone.
 * Blocking: some system calls. Returns PERMISSION. */
KATA_API int kata_template_get_status(kata_vm_builder *builder, kata_template_status *ret_status, kata_error **err);

/* The VMMs that wait, counted as a cache counts its machines (KATA_CACHE_ALL): ready, making, ending, made, taken,
 * missed (builds that found none), failed with next_try_ms and last_error, unhealthy (ended by themselves). All 0 where
 * none are kept. Never waits. */
KATA_API int kata_template_get_prestarted(const kata_vm_builder *builder, kata_cache_status *ret_status,
					  kata_error **err);
/* Waits until `count` of them are ready. Default deadline 300 s. Returns INVALID (more than are kept), STATE (none are
 * kept, or this builder has not seen its template yet), TIMEOUT (with the error of the last that failed as its cause).
 */
KATA_API int kata_template_wait_prestarted(kata_vm_builder *builder, uint32_t count, const kata_op_options *options,
					   kata_error **err);
KATA_API int kata_template_wait_prestarted_begin(kata_vm_builder *builder, uint32_t count,
						 const kata_op_options *options, kata_op **ret_op, kata_error **err);

#ifdef __cplusplus
}
#endif
#endif
