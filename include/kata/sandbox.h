/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_H
#define KATA_SANDBOX_H
/*
 * kata_sandbox: a VM, its agent, and the containers in it. Made from parts the caller made (kata_sandbox_new) or with
 * builders (kata_sandbox_create).
 *
 *   NEW --start--> STARTING --> RUNNING <--pause/resume--> PAUSED
 *    |                |(1)         |  \__ the VM ended, or its agent was lost --> ENDED
 *    |                v            |release --> RELEASING --> RELEASED  (this handle lets go, the containers run on)
 *    +--destroy/shutdown--> DESTROYING --> DESTROYED   <-- any state but RELEASED
 *   OBTAINING (kata_persistence_obtain_sandbox, kata_sandbox_build_from_snapshot) --> RUNNING or PAUSED; failed -->
 * RELEASED
 *   RUNNING or PAUSED --save--> SAVING --> back
 *
 * (1) A start that failed takes back what it did, so the sandbox is NEW again, and may be started again; but where it
 * was this start that had started the VM, that VM is destroyed and the sandbox DESTROYED: make it anew. A destroy that
 * failed goes back to where it came from, or to ENDED.
 *
 * Ids of containers and execs: [A-Za-z0-9][A-Za-z0-9_.-]{0,63} (containers: at least 2 bytes, the agent's rule). The
 * init process of a container has its container's id as exec id.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kata/agent.h>
#include <kata/snapshot.h>
#include <kata/vm.h>
#include <kata/vm_builder.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kata_sandbox kata_sandbox;

typedef enum kata_sandbox_state {
	KATA_SANDBOX_NEW = 0,
	KATA_SANDBOX_STARTING = 1,
	KATA_SANDBOX_RUNNING = 2,
	KATA_SANDBOX_PAUSED = 3,
	KATA_SANDBOX_ENDED = 4,
	KATA_SANDBOX_RELEASING = 5,
	KATA_SANDBOX_RELEASED = 6,
	KATA_SANDBOX_OBTAINING = 7,
	KATA_SANDBOX_DESTROYING = 8,
	KATA_SANDBOX_DESTROYED = 9,
	KATA_SANDBOX_SAVING = 10
} kata_sandbox_state;
KATA_API const char *kata_sandbox_state_get_name(kata_sandbox_state state);

typedef struct kata_sandbox_options {
	size_t size;
	const char *id;         /* NULL: the VM's id, or a UUID where there is none yet */
	const char *hostname;   /* NULL: the id, cut to 64 bytes */
	const char *const *dns; /* lines of resolv.conf ("nameserver 10.0.2.3"), NULL-terminated; NULL: none */
} kata_sandbox_options;
#define KATA_SANDBOX_OPTIONS_INIT                                                                                      \
	{                                                                                                              \
		sizeof(kata_sandbox_options), NULL, NULL, NULL                                                         \
	}

/*
 * From parts: a VM (state CREATED, RUNNING or PAUSED) and its agent. `agent` NULL: start connects one itself (direct).
 * The sandbox takes references; the caller may go on using the parts, devices plugged into the VM belong to the
 * sandbox's record too. A VM is of one sandbox at a time, until the last reference to that is dropped. Returns INVALID
 * (which option; the agent is connected to another VM), STATE (the VM's), BUSY (the VM is of another sandbox).
 */
KATA_API int kata_sandbox_new(kata_context *context, const kata_sandbox_options *options, kata_vm *vm,
			      kata_agent *agent, kata_sandbox **ret_sandbox, kata_error **err);
/* With builders: builds the VM now (blocking as kata_vm_builder_build); start starts it and connects the agent. The
 * agent builder (NULL: direct) must live until the start has ended. */
KATA_API int kata_sandbox_create(kata_context *context, const kata_sandbox_options *options,
				 kata_vm_builder *vm_builder, const kata_vm_config *vm_config,
				 kata_agent_builder *agent_builder, const kata_agent_config *agent_config,
				 kata_sandbox **ret_sandbox, kata_error **err);
KATA_API kata_sandbox *kata_sandbox_ref(kata_sandbox *sandbox);
/* Accepts NULL. The last one lets go of VM and agent; whether that ends the machine is told at kata_vm_unref. */
KATA_API void kata_sandbox_unref(kata_sandbox *sandbox);

KATA_API const char *kata_sandbox_get_id(const kata_sandbox *sandbox); /* borrowed */
KATA_API kata_sandbox_state kata_sandbox_get_state(const kata_sandbox *sandbox);
/* New references, caller unrefs. The agent is NULL before start where none was given. */
KATA_API kata_vm *kata_sandbox_get_vm(kata_sandbox *sandbox);
KATA_API kata_agent *kata_sandbox_get_agent(kata_sandbox *sandbox);
/* Readable once the sandbox is ENDED or DESTROYED; owned by the sandbox; -1 when it could not be made. */
KATA_API int kata_sandbox_get_ended_fd(kata_sandbox *sandbox);

/* Starts the VM where it is CREATED, connects the agent where there is none, and sets the sandbox up in the guest.
 * States: NEW. */
KATA_API int kata_sandbox_start(kata_sandbox *sandbox, const kata_op_options *options, kata_error **err);
KATA_API int kata_sandbox_start_begin(kata_sandbox *sandbox, const kata_op_options *options, kata_op **ret_op,
				      kata_error **err);

/* ---- devices ---- */

/* Plugs and waits until the guest has it. Statuses of kata_vm_add_storage; GUEST. States: RUNNING. */
KATA_API int kata_sandbox_add_storage(kata_sandbox *sandbox, kata_storage *storage, const kata_op_options *options,
				      kata_error **err);
KATA_API int kata_sandbox_add_storage_begin(kata_sandbox *sandbox, kata_storage *storage,
					    const kata_op_options *options, kata_op **ret_op, kata_error **err);
/* Unplugs after the guest has let go. BUSY while a container names it. States: RUNNING. */
KATA_API int kata_sandbox_remove_storage(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
					 kata_error **err);
KATA_API int kata_sandbox_remove_storage_begin(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
					       kata_op **ret_op, kata_error **err);

typedef struct kata_interface_config {
	size_t size;
	const char *name;             /* in the guest, 1 to 15 bytes ("eth0") */
	const char *const *addresses; /* NULL-terminated "address/prefix"; NULL: none */
	uint32_t mtu;                 /* 0: the NIC's */
} kata_interface_config;
#define KATA_INTERFACE_CONFIG_INIT                                                                                     \
	{                                                                                                              \
		sizeof(kata_interface_config), NULL, NULL, 0                                                           \
	}

/* Plugs a NIC and configures it in the guest; config NULL: plugs only. States: RUNNING. */
KATA_API int kata_sandbox_add_nic(kata_sandbox *sandbox, kata_nic *nic, const kata_interface_config *config,
				  const kata_op_options *options, kata_error **err);
KATA_API int kata_sandbox_add_nic_begin(kata_sandbox *sandbox, kata_nic *nic, const kata_interface_config *config,
					const kata_op_options *options, kata_op **ret_op, kata_error **err);
/* Configures a NIC that is plugged (also one plugged through the VM). States: RUNNING. */
KATA_API int kata_sandbox_update_nic(kata_sandbox *sandbox, const char *id, const kata_interface_config *config,
				     const kata_op_options *options, kata_error **err);
KATA_API int kata_sandbox_remove_nic(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
				     kata_error **err);
KATA_API int kata_sandbox_remove_nic_begin(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
					   kata_op **ret_op, kata_error **err);
/* Adds or replaces routes in the guest's main table. States: RUNNING. */
KATA_API int kata_sandbox_update_routes(kata_sandbox *sandbox, const kata_agent_route *routes, size_t count,
					const kata_op_options *options, kata_error **err);

/* ---- containers and processes ---- */

typedef enum kata_process_state {
	KATA_PROCESS_CREATED = 0,
	KATA_PROCESS_RUNNING = 1,
	KATA_PROCESS_PAUSED = 2,
	KATA_PROCESS_EXITED = 3
} kata_process_state;
KATA_API const char *kata_process_state_get_name(kata_process_state state);

typedef struct kata_container_config {
	size_t size;
	const char *id;
	const char *oci_spec;   /* config.json of the OCI runtime spec, as text. root.path and mounts[].source may be
				 * "storage:<id>" or "storage:<id>/sub/path": a plugged storage, mounted in the guest.
				 * Everything else goes to the guest's runtime untouched. */
	size_t oci_spec_length; /* bytes; 0: strlen */
} kata_container_config;
#define KATA_CONTAINER_CONFIG_INIT                                                                                     \
	{                                                                                                              \
		sizeof(kata_container_config), NULL, NULL, 0                                                           \
	}

/* Creates a container; its process waits for the start. One of that id that an owner who died had made, and not lived
 * to store, is ended first (libkata's agent). INVALID (the spec: which field), NOT_FOUND (a storage that is
 * not plugged), EXISTS, GUEST. States: RUNNING. */
KATA_API int kata_sandbox_add_container(kata_sandbox *sandbox, const kata_container_config *config,
					const kata_op_options *options, kata_error **err);
KATA_API int kata_sandbox_add_container_begin(kata_sandbox *sandbox, const kata_container_config *config,
					      const kata_op_options *options, kata_op **ret_op, kata_error **err);
/* Starts its process. After a TIMEOUT call it again: libkata's agent knows that it was started; where another says
 * GUEST, it may run all the same: remove it and add it anew. EXISTS (it was started already), NOT_FOUND, GUEST. States:
 * RUNNING. */
KATA_API int kata_sandbox_start_container(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
					  kata_error **err);
/* Kills what runs in it and removes it. Its storages stay plugged. Succeeds where the guest has no such container any
 * more: so call it again after a TIMEOUT, and on what an owner left who died before he stored the removal. In a sandbox
 * that was taken over it ends one, too, that a dead owner had made and not lived to store (libkata's agent). NOT_FOUND
 * (it is not in the sandbox), GUEST. States: RUNNING. */
KATA_API int kata_sandbox_remove_container(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
					   kata_error **err);
KATA_API int kata_sandbox_pause_container(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
					  kata_error **err);
KATA_API int kata_sandbox_resume_container(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
					   kata_error **err);
KATA_API int kata_sandbox_get_container_stats(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
					      kata_container_stats *ret_stats, kata_error **err);

typedef struct kata_container_info {
	size_t size; /* set by the caller */
	char id[65];
	uint32_t state;      /* kata_process_state of its init process */
	int32_t exit_status; /* once EXITED and waited for; else -1 */
	uint32_t exec_count;
} kata_container_info;
/* Answered from memory; never waits. NOT_FOUND past the end. */
KATA_API size_t kata_sandbox_get_container_count(const kata_sandbox *sandbox);
KATA_API int kata_sandbox_get_container(kata_sandbox *sandbox, size_t index, kata_container_info *ret_info,
					kata_error **err);

typedef struct kata_process_config {
	size_t size;
	const char *exec_id;
	const char *oci_process; /* `process` of the OCI runtime spec, as text (args, cwd, env, user, terminal, ...) */
	size_t oci_process_length; /* bytes; 0: strlen */
} kata_process_config;
#define KATA_PROCESS_CONFIG_INIT                                                                                       \
	{                                                                                                              \
		sizeof(kata_process_config), NULL, NULL, 0                                                             \
	}

/* Starts another process in a running container. */
KATA_API int kata_sandbox_add_process(kata_sandbox *sandbox, const char *container_id,
				      const kata_process_config *config, const kata_op_options *options,
				      kata_error **err);
KATA_API int kata_sandbox_add_process_begin(kata_sandbox *sandbox, const char *container_id,
					    const kata_process_config *config, const kata_op_options *options,
					    kata_op **ret_op, kata_error **err);
/*
 * Waits for the process to exit: *ret_status is its exit code, or 128 + the signal that killed it. options->timeout_ms
 * 0: no deadline. May be asked again later, by any number of callers: the answer is kept until the container is removed
 * (of execs: the last 256 of a container that exited). Drains nothing: data not read stays readable. Where stdout or
 * stderr is open, the answer comes after its end: read it, or close it, in another thread or before. States: any, once
 * the exit is known; else RUNNING, PAUSED (others: GONE).
 */
KATA_API int kata_sandbox_wait_process(kata_sandbox *sandbox, const char *container_id, const char *exec_id,
				       const kata_op_options *options, int32_t *ret_status, kata_error **err);
/* exec_id NULL: every process of the container (KILL) or its init process (others). */
KATA_API int kata_sandbox_signal_process(kata_sandbox *sandbox, const char *container_id, const char *exec_id,
					 uint32_t signal, const kata_op_options *options, kata_error **err);
KATA_API int kata_sandbox_resize_terminal(kata_sandbox *sandbox, const char *container_id, const char *exec_id,
					  uint32_t rows, uint32_t columns, const kata_op_options *options,
					  kata_error **err);
/*
 * Opens the process's stdio; each out pointer may be NULL (that stream is then left alone), each fd is the caller's,
 * close-on-exec, and used like the end of a pipe: write to *ret_stdin and close it for end of file; read *ret_stdout
 * and *ret_stderr to end of file. (They are ends of one-way socket pairs: a pipe whose reader is gone would raise
 * SIGPIPE in this process.) Closing a reading end stops the reading of that stream; it may be opened again. A tty has
 * one stream, ask for no stderr, and no end of file: a close of its stdin is not sent on. Data flows only while
 * somebody reads (back-pressure reaches the guest). Open a stream before the process may exit: a Kata agent forgets
 * what was not read when its exit is waited for. BUSY when a stream is open already. States: RUNNING, PAUSED.
 */
KATA_API int kata_sandbox_open_stdio(kata_sandbox *sandbox, const char *container_id, const char *exec_id,
				     int *ret_stdin, int *ret_stdout, int *ret_stderr, kata_error **err);

/* ---- the whole ---- */

KATA_API int kata_sandbox_pause(kata_sandbox *sandbox, const kata_op_options *options, kata_error **err);
KATA_API int kata_sandbox_resume(kata_sandbox *sandbox, const kata_op_options *options, kata_error **err);
/* The sandbox's record as JSON, without letting go; answered from memory. States: RUNNING, PAUSED, RELEASED. */
KATA_API int kata_sandbox_dump(kata_sandbox *sandbox, char **ret_json, kata_error **err);
/*
 * Lets go: the guest runs on, another process may take it over from the record. *ret_json (may be NULL; caller frees)
 * is that record. Where the sandbox is kept in a persistence, call kata_persistence_release_sandbox instead, which does
 * this and stores. Open stdio pipes are closed; output that the guest has not sent yet is kept there. States: RUNNING,
 * PAUSED.
 */
KATA_API int kata_sandbox_release(kata_sandbox *sandbox, const kata_op_options *options, char **ret_json,
				  kata_error **err);
KATA_API int kata_sandbox_release_begin(kata_sandbox *sandbox, const kata_op_options *options, kata_op **ret_op,
					kata_error **err);
/* From such a record: `length` bytes at `json`, a NUL is not needed. It is hostile input. Statuses of
 * kata_vm_builder_build_from_released. agent_builder NULL: direct; of a sandbox that is paused it connects when that is
 * resumed, and must live until then. Blocking. */
KATA_API int kata_sandbox_build_from_released(kata_context *context, const char *json, size_t length,
					      kata_vm_builder *vm_builder, kata_agent_builder *agent_builder,
					      const kata_op_options *options, kata_sandbox **ret_sandbox,
					      kata_error **err);
/*
 * Saves the whole sandbox at `path`: its machine as kata_vm_snapshot() does, and with it what is known of its
 * containers, so that their processes go on where they were when it is restored. The agent's connection is closed for
 * the save and made anew: an agent that the caller gave is RELEASED then (kata_sandbox_get_agent has the new one), and
 * one made by his own builder is UNSUPPORTED. Open stdio stays open. With KATA_SNAPSHOT_SHARED the sandbox is PAUSED
 * afterwards and can only be destroyed. BUSY while other operations are under way. Statuses of kata_vm_snapshot.
 * States: RUNNING, PAUSED.
 */
KATA_API int kata_sandbox_save(kata_sandbox *sandbox, const char *path, const kata_snapshot_options *options,
			       const kata_op_options *op_options, kata_error **err);
KATA_API int kata_sandbox_save_begin(kata_sandbox *sandbox, const char *path, const kata_snapshot_options *options,
				     const kata_op_options *op_options, kata_op **ret_op, kata_error **err);
/*
 * The inverse: a running sandbox, or nothing at all. vm_config, restore_options: as for
 * kata_vm_builder_build_from_snapshot(); the sandbox's id is the new VM's. The guest's clock is set, its entropy seeded
 * anew, and NICs get their MACs where those are new ones; its hostname stays. KATA_RESTORE_PAUSED is INVALID: the guest
 * must be told. agent_builder NULL: direct. The snapshot is hostile input. Returns NOT_FOUND (a snapshot without a
 * sandbox), CORRUPT; statuses of kata_vm_builder_build_from_snapshot and kata_vm_start. Blocking.
 */
KATA_API int kata_sandbox_build_from_snapshot(kata_context *context, const kata_snapshot *snapshot,
					      kata_vm_builder *vm_builder, const kata_vm_config *vm_config,
					      const kata_restore_options *restore_options,
					      kata_agent_builder *agent_builder, const kata_op_options *options,
					      kata_sandbox **ret_sandbox, kata_error **err);
/* Orderly: containers are stopped, the guest syncs and powers off; then as destroy. Falls back to destroy at the
 * deadline. */
KATA_API int kata_sandbox_shutdown(kata_sandbox *sandbox, const kata_op_options *options, kata_error **err);
/* At once. Succeeds on a dead or stopped VM. Ops under way on the sandbox end with GONE (with a shutdown too). States:
 * all but RELEASED. */
KATA_API int kata_sandbox_destroy(kata_sandbox *sandbox, const kata_op_options *options, kata_error **err);
KATA_API int kata_sandbox_destroy_begin(kata_sandbox *sandbox, const kata_op_options *options, kata_op **ret_op,
					kata_error **err);

#ifdef __cplusplus
}
#endif
#endif
