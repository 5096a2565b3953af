/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_H
#define KATA_VM_H
/*
 * kata_vm: one machine and its devices.
 *
 *   CREATED --start--> STARTING --> RUNNING <--pause/resume--> PAUSED
 *      |                  |failed       |  \__ the VMM ended by itself --> ENDED
 *      |                  v             |release --> RELEASING --> RELEASED     (this handle lets go, the machine runs
 * on)
 *      +----destroy--> DESTROYING --> DESTROYED  <--destroy-- any state but RELEASED
 *   REBUILDING (kata_vm_builder_build_from_released) --> RUNNING or PAUSED; failed --> RELEASED
 *   RUNNING, PAUSED --kata_vm_snapshot--> SAVING --> what it was (kata/snapshot.h); STARTING ends in PAUSED too, where
 *   a restore asked for that
 *
 * A failed start leaves the VM CREATED and the host as before; it may be started again.
 * Devices added in CREATED are put on the boot command line, later they are hot-plugged; both end as PLUGGED with the
 * address the guest sees.
 * kata_vm_unref of the last reference of a machine that was neither destroyed nor released destroys it first (it waits
 * for that at most the deadline of a destroy).
 * Ops on one VM run side by side; start, release, destroy wait for none: begun while another op is at work on the VM,
 * release returns BUSY, destroy stops it: it undoes what it did as far as the VMM answers, and ends with GONE.
 *
 * A VM out of a warm cache (kata/factory.h) is CREATED too, but its machine is there already, booted and paused: a
 * start lets it run, devices before it are hot-plugged and unplugged (for as long as that takes the guest runs),
 * kata_vm_get_pid tells its process, and when that dies the VM is ENDED.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kata/error.h>
#include <kata/nic.h>
#include <kata/op.h>
#include <kata/storage.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kata_vm kata_vm;

typedef enum kata_vm_state {
	KATA_VM_CREATED = 0,
	KATA_VM_STARTING = 1,
	KATA_VM_RUNNING = 2,
	KATA_VM_PAUSED = 3,
	KATA_VM_ENDED = 4,
	KATA_VM_RELEASING = 5,
	KATA_VM_RELEASED = 6,
	KATA_VM_REBUILDING = 7,
	KATA_VM_DESTROYING = 8,
	KATA_VM_DESTROYED = 9,
	KATA_VM_SAVING = 10
} kata_vm_state;
KATA_API const char *kata_vm_state_get_name(kata_vm_state state);

/* Where the machine comes from: how a caller sees that no base of a factory fitted and he got an exact boot. */
typedef enum kata_vm_origin {
	KATA_VM_BOOTED = 0,    /* its guest boots at the start */
	KATA_VM_RESTORED = 1,  /* of a snapshot */
	KATA_VM_CLONED = 2,    /* of a template */
	KATA_VM_WARM = 3,      /* out of a cache, booted before */
	KATA_VM_PRESTARTED = 4 /* of a template, in a VMM that was started before */
} kata_vm_origin;
KATA_API const char *kata_vm_origin_get_name(kata_vm_origin origin);

/* What the machine is. All strings are copied by the build. */
typedef struct kata_vm_config {
	size_t size;             /* sizeof(kata_vm_config) */
	const char *id;          /* [A-Za-z0-9][A-Za-z0-9_.-]{0,63}, unique in the state directory; NULL: a UUID */
	uint32_t cpus;           /* at boot; 0: 1 */
	uint32_t cpus_max;       /* most it may ever have; 0: cpus */
	uint64_t memory_mib;     /* at boot; 0: 256 */
	uint64_t memory_max_mib; /* 0: memory_mib; above that it needs memory_slots */
	uint32_t memory_slots;   /* slots for hot-plugged memory; 0: none */
	const char *kernel;      /* path of a kernel image the VMM can boot directly */
	const char *initrd;      /* path, or NULL when `image` is given */
	const char *image;       /* path of a raw root disk, attached read-only as the first disk; or NULL */
	const char *const *kernel_params; /* NULL-terminated "key" or "key=value", in order; they follow the library's
					   * own, so that the later wins */
	const char *memory_path;          /* file that backs the RAM, made where missing; it stays after the destroy:
					   * the caller's to remove. NULL: anonymous */
	bool memory_shared;               /* with memory_path: writes go to the file */
	const char *machine;              /* VMM's machine type; NULL: the driver's default ("q35") */
	uint32_t device_slots;            /* disks on virtio-blk and NICs that fit at once; 0: 16 */
} kata_vm_config;
#define KATA_VM_CONFIG_INIT                                                                                            \
	{                                                                                                              \
		sizeof(kata_vm_config), NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, false, NULL, 0              \
	}

/* Quality of service of the machine; NULL or all-zero: no limits. Others are UNSUPPORTED in this version. */
typedef struct kata_qos_config {
	size_t size;
	const char *cgroup_path;
	uint64_t inbound_average_bytes, inbound_peak_bytes, outbound_average_bytes,
		outbound_peak_bytes; /* per second */
} kata_qos_config;

typedef struct kata_vm_stats {
	size_t size;             /* set by the caller */
	uint64_t cpu_time_ns;    /* user + system of the VMM process */
	uint64_t resident_bytes; /* RSS of the VMM process */
	uint64_t memory_mib;     /* the guest's memory now */
	uint32_t cpus;           /* the guest's CPUs now */
	uint32_t storage_count, nic_count;
	uint32_t slots_total, slots_free; /* device slots */
	uint64_t uptime_ms;               /* since start */
} kata_vm_stats;

KATA_API kata_vm *kata_vm_ref(kata_vm *vm);
KATA_API void kata_vm_unref(kata_vm *vm); /* accepts NULL; see above for the last one */

/* Borrowed, constant for its life. The UUID is the machine's identity, given to the VMM too. */
KATA_API const char *kata_vm_get_id(const kata_vm *vm);
KATA_API const char *kata_vm_get_uuid(const kata_vm *vm);
KATA_API const char *kata_vm_get_driver(const kata_vm *vm); /* "qemu", "mock" */
/* Known after the build; of a VM that was taken over (build_from_released): BOOTED. */
KATA_API kata_vm_origin kata_vm_get_origin(const kata_vm *vm);
/* What a factory, or kata_sandbox_build_from_snapshot(), made this machine's own before it handed it out (KATA_RESET_*
 * of kata/agent.h): of a VM that was booted for its caller, or whose start is not over, 0. A part that is missing is
 * shared with the other machines of that base: an agent without the service "kata.Guest" can do entropy and clock
 * alone; a restored sandbox keeps hostname and machine-id, and the MACs unless new ones were asked for. */
KATA_API uint64_t kata_vm_get_identity_reset(const kata_vm *vm);
/* "tcg", "kvm" or "none" (mock), with the reason for the choice; borrowed. The accelerator is known after the build. */
KATA_API const char *kata_vm_get_accelerator(const kata_vm *vm);
KATA_API const char *kata_vm_get_accelerator_reason(const kata_vm *vm);
KATA_API kata_vm_state kata_vm_get_state(const kata_vm *vm);
/* The VMM's pid, 0 where there is none. For show: signals go through the library. */
KATA_API int64_t kata_vm_get_pid(const kata_vm *vm);

/*
 * Starts the machine: after it, devices can be hot-plugged and the console read. It does not mean that the guest has
 * booted: that is known when an agent answers. States: CREATED. Returns VMM, GONE (it ended; the error holds its last
 * words), TIMEOUT.
 */
KATA_API int kata_vm_start(kata_vm *vm, const kata_op_options *options, kata_error **err);
KATA_API int kata_vm_start_begin(kata_vm *vm, const kata_op_options *options, kata_op **ret_op, kata_error **err);

/*
 * Plugs a disk. On success `storage` is PLUGGED and has its guest address; the VM holds a reference. Where the only
 * free slot was freed just now, the plug waits until the guest has no late eject for it any more (some 50 ms, 0.5 s
 * under TCG). States: CREATED (cold), RUNNING, PAUSED. Returns EXISTS (the id, or the file is plugged, or is the
 * backing file of a plugged disk and one of the two may write to it), EXHAUSTED (how many slots there are), BUSY
 * (mounted on the host, or open in another process or VM), INVALID, VMM, TIMEOUT.
 */
KATA_API int kata_vm_add_storage(kata_vm *vm, kata_storage *storage, const kata_op_options *options, kata_error **err);
KATA_API int kata_vm_add_storage_begin(kata_vm *vm, kata_storage *storage, const kata_op_options *options,
				       kata_op **ret_op, kata_error **err);
/*
 * Unplugs. The slot is free again only when the guest has let go. If it does not by the deadline: TIMEOUT, and the disk
 * stays plugged; try again later. (If the guest lets go meanwhile, it is DIVERGED.) A virtio-scsi disk is taken without
 * the guest's consent: unmount first. Where a sandbox uses the VM, call kata_sandbox_remove_storage, which tells the
 * guest first. States: CREATED, RUNNING, PAUSED. Returns NOT_FOUND, BUSY (a container of a sandbox over this VM has the
 * disk: which), TIMEOUT, VMM.
 */
KATA_API int kata_vm_remove_storage(kata_vm *vm, const char *id, const kata_op_options *options, kata_error **err);
KATA_API int kata_vm_remove_storage_begin(kata_vm *vm, const char *id, const kata_op_options *options, kata_op **ret_op,
					  kata_error **err);
/* Likewise for NICs. EXISTS also for a MAC that another NIC of this VM has. */
KATA_API int kata_vm_add_nic(kata_vm *vm, kata_nic *nic, const kata_op_options *options, kata_error **err);
KATA_API int kata_vm_add_nic_begin(kata_vm *vm, kata_nic *nic, const kata_op_options *options, kata_op **ret_op,
				   kata_error **err);
KATA_API int kata_vm_remove_nic(kata_vm *vm, const char *id, const kata_op_options *options, kata_error **err);
KATA_API int kata_vm_remove_nic_begin(kata_vm *vm, const char *id, const kata_op_options *options, kata_op **ret_op,
				      kata_error **err);

/* Stops and continues the vCPUs. Pausing what is paused (resuming what runs) succeeds. States: RUNNING, PAUSED. */
KATA_API int kata_vm_pause(kata_vm *vm, const kata_op_options *options, kata_error **err);
KATA_API int kata_vm_pause_begin(kata_vm *vm, const kata_op_options *options, kata_op **ret_op, kata_error **err);
KATA_API int kata_vm_resume(kata_vm *vm, const kata_op_options *options, kata_error **err);
KATA_API int kata_vm_resume_begin(kata_vm *vm, const kata_op_options *options, kata_op **ret_op, kata_error **err);

/* Reads without asking the VMM; never waits. States: RUNNING, PAUSED, SAVING (others: counters are 0). */
KATA_API int kata_vm_get_stats(kata_vm *vm, kata_vm_stats *ret_stats, kata_error **err);
/* The tail of the guest's console (at most 8 KiB) as far as this handle has seen it; caller frees *ret_text with
 * free(). Security: written by the guest; control characters but newline and tab are replaced. */
KATA_API int kata_vm_get_console(kata_vm *vm, char **ret_text, size_t *ret_length, kata_error **err);

/* Devices by index (order of plugging; a snapshot changes with every plug): *ret is a new reference. NOT_FOUND past the
 * end. */
KATA_API size_t kata_vm_get_storage_count(const kata_vm *vm);
KATA_API int kata_vm_get_storage(kata_vm *vm, size_t index, kata_storage **ret_storage, kata_error **err);
KATA_API int kata_vm_find_storage(kata_vm *vm, const char *id, kata_storage **ret_storage, kata_error **err);
KATA_API size_t kata_vm_get_nic_count(const kata_vm *vm);
KATA_API int kata_vm_get_nic(kata_vm *vm, size_t index, kata_nic **ret_nic, kata_error **err);
KATA_API int kata_vm_find_nic(kata_vm *vm, const char *id, kata_nic **ret_nic, kata_error **err);

/*
 * A pollable fd, readable once the machine has ended (state ENDED or DESTROYED); owned by the VM, made at the first
 * call; -1 when that failed. kata_vm_wait waits for it: TIMEOUT when it still runs. States: all but RELEASED.
 */
KATA_API int kata_vm_get_ended_fd(kata_vm *vm);
KATA_API int kata_vm_wait(kata_vm *vm, uint64_t timeout_ms, kata_error **err);

/*
 * Lets go of the machine, which runs on without this process: the handle becomes RELEASED, and *ret_json (caller
 * frees) is what kata_vm_builder_build_from_released() needs, in any process of this host and boot.
 * States: RUNNING, PAUSED. BUSY while an op or an agent connection is at work on it.
 */
KATA_API int kata_vm_release(kata_vm *vm, const kata_op_options *options, char **ret_json, kata_error **err);
/* The same; the JSON is fetched by kata_vm_dump() once the op has ended. */
KATA_API int kata_vm_release_begin(kata_vm *vm, const kata_op_options *options, kata_op **ret_op, kata_error **err);
/* The record as kata_vm_release gives it, without letting go: for storing beside a running machine. Never waits.
 * States: RUNNING, PAUSED, SAVING, RELEASED. */
KATA_API int kata_vm_dump(kata_vm *vm, char **ret_json, kata_error **err);

/*
 * Ends the machine at once and removes everything it had on the host. The guest gets no chance to sync: shut a sandbox
 * down first where that matters. Succeeds on a dead or stopped VMM. States: all but RELEASED; on DESTROYED it does
 * nothing.
 */
KATA_API int kata_vm_destroy(kata_vm *vm, const kata_op_options *options, kata_error **err);
KATA_API int kata_vm_destroy_begin(kata_vm *vm, const kata_op_options *options, kata_op **ret_op, kata_error **err);

#ifdef __cplusplus
}
#endif
#endif
