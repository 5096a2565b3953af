/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_BUILDER_H
#define KATA_VM_BUILDER_H
/*
 * kata_vm_builder: a kind of VM, its driver and that driver's options. A builder is made once and builds many.
 * Factories (templates, caches) are builders around a builder; the caller may write one: kata/driver/vm_builder.h.
 * Lifetime: sole owner; VMs it has built do not need it any more.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kata/agent.h>
#include <kata/context.h>
#include <kata/snapshot.h>
#include <kata/vm.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kata_vm_builder kata_vm_builder;

typedef enum kata_accelerator {
	KATA_ACCELERATOR_AUTO = 0, /* kvm where it really runs code fast (probed by running some), else tcg */
	KATA_ACCELERATOR_KVM = 1,
	KATA_ACCELERATOR_TCG = 2 /* emulation: QEMU promises no isolation there; capabilities say so */
} kata_accelerator;

#define KATA_QEMU_KEEP_IDS UINT64_C(1) /* as root, run QEMU as root too instead of as `run_as_uid` */

typedef struct kata_qemu_options {
	size_t size;        /* sizeof(kata_qemu_options) */
	const char *binary; /* absolute path; NULL: qemu-system-x86_64 from /usr/bin, /usr/local/bin, /usr/libexec */
	kata_accelerator accelerator;
	uint64_t flags;      /* KATA_QEMU_* */
	uint32_t run_as_uid; /* as root: ids QEMU runs with; 0: 65534 (nobody) */
	uint32_t run_as_gid; /* 0: the group that may use /dev/kvm (not for TCG), else 65534 */
} kata_qemu_options;
#define KATA_QEMU_OPTIONS_INIT                                                                                         \
	{                                                                                                              \
		sizeof(kata_qemu_options), NULL, KATA_ACCELERATOR_AUTO, 0, 0, 0                                        \
	}

/* Does not run the binary yet. NOT_FOUND: no QEMU (says where it looked and which package has it). `options` may be
 * NULL. */
KATA_API int kata_vm_builder_new_qemu(kata_context *context, const kata_qemu_options *options,
				      kata_vm_builder **ret_builder, kata_error **err);

KATA_API void kata_vm_builder_free(kata_vm_builder *builder); /* accepts NULL */

/*
 * Makes a VM that is not running (state CREATED). Everything in the config is checked first; the error lists every
 * problem at once. Blocking: the first build probes the VMM binary (0.3 s; a binary that hangs costs 10 s), later ones
 * take its cached answer. Touches nothing on the host but that cache. `agent_config` NULL: an agent channel as the
 * driver prefers. `qos_config` NULL: no limits. Returns INVALID, UNSUPPORTED, EXISTS (a VM of that id is in the state
 * directory).
 */
KATA_API int kata_vm_builder_build(kata_vm_builder *builder, const kata_vm_config *config,
				   const kata_agent_config *agent_config, const kata_qos_config *qos_config,
				   kata_vm **ret_vm, kata_error **err);

/*
 * Takes over a machine that was released, in this process or another. *ret_vm is set at once (state REBUILDING) by the
 * begin form; use it after the op has succeeded. The JSON is hostile input. A device that the guest let go of while
 * nobody drove the machine is DIVERGED some milliseconds later, and before anything done to it is answered; or it is
 * not listed.
 * Returns CORRUPT (cut, changed, or not what the machine is like: the message names the member), VERSION, GONE (no such
 * VM any more), IDENTITY (a recycled pid, another machine's socket), FENCED (a living process owns it), TIMEOUT.
 */
KATA_API int kata_vm_builder_build_from_released(kata_vm_builder *builder, const char *json, size_t length,
						 const kata_op_options *options, kata_vm **ret_vm, kata_error **err);
KATA_API int kata_vm_builder_build_from_released_begin(kata_vm_builder *builder, const char *json, size_t length,
						       const kata_op_options *options, kata_vm **ret_vm,
						       kata_op **ret_op, kata_error **err);

/*
 * Makes a VM (state CREATED) of a machine that was saved; kata_vm_start() restores it. It has a new UUID (the guest may
 * still see the old one in its firmware tables). `config` NULL: as saved, with a new id and its RAM in no file. Else
 * `id` may be anything; kernel, initrd and image NULL or files of the same content; memory_path NULL or, where memory
 * was saved as KATA_SNAPSHOT_FULL, the file for its RAM; all others 0, NULL or as saved: a machine cannot be loaded
 * into another shape (INVALID: which, what was saved). `agent_config` NULL, or the transport it was saved with.
 * Devices of the snapshot are listed as PLUGGED from the start, and cannot be removed before it.
 * Blocking as the build; touches nothing. The snapshot is needed until the start has succeeded, and the directory for
 * as long as disks are overlays over its parts. Returns INVALID, UNSUPPORTED (another driver, accelerator or CPU),
 * VERSION (another version of the VMM), CORRUPT (a disk, or the kernel, has changed since), NOT_FOUND, EXISTS.
 */
KATA_API int kata_vm_builder_build_from_snapshot(kata_vm_builder *builder, const kata_snapshot *snapshot,
						 const kata_vm_config *config, const kata_agent_config *agent_config,
						 const kata_qos_config *qos_config, const kata_restore_options *options,
						 kata_vm **ret_vm, kata_error **err);

/* What the driver can do with the binary at hand, and its limits. Probed, not guessed. */
typedef struct kata_capabilities {
	size_t size;          /* set by the caller */
	char driver[16];      /* "qemu" */
	char vmm_version[64]; /* "7.2.22" */
	char accelerator[8];  /* "kvm", "tcg", "none" */
	char accelerator_reason[160];
	bool isolation; /* false: the VMM makes no promise to hold a hostile guest (TCG, mock) */
	bool hotplug_storage, hotplug_nic, pause, release, vsock, snapshot;
	uint32_t cpus_max;
	uint32_t device_slots_max; /* virtio-blk disks + NICs */
	uint32_t scsi_luns_max;
	uint64_t memory_max_mib;
	const char *vmm_path; /* the VMM's binary; borrowed from the builder; NULL: there is none */
} kata_capabilities;

/* Blocking as the build. */
KATA_API int kata_vm_builder_get_capabilities(kata_vm_builder *builder, kata_capabilities *ret_capabilities,
					      kata_error **err);

/* Checks a config without a builder's binary: every problem at once, INVALID. */
KATA_API int kata_vm_config_validate(const kata_vm_config *config, kata_error **err);

#ifdef __cplusplus
}
#endif
#endif
