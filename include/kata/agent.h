/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_AGENT_H
#define KATA_AGENT_H
/*
 * kata_agent: a connection to the agent in a guest. Sandboxes drive it; callers may use it directly.
 *
 *   CONNECTING --> CONNECTED --release--> RELEASED
 *        \             \__ connection lost, or the guest ended --> LOST
 *         \__ no answer, cancelled, the guest ended ____________/
 *
 * Every call has a deadline, for sending as for the answer. Any number of calls (4096 a connection) may be in flight;
 * answers come in any order. Security: the guest is hostile. Its answers are capped (4 MiB a message), parsed before
 * use, and texts from it are cleaned before they reach an error. An agent that stays silent costs the caller one
 * deadline.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kata/context.h>
#include <kata/op.h>
#include <kata/vm.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kata_agent kata_agent;
typedef struct kata_agent_builder kata_agent_builder;

typedef enum kata_agent_transport {
	KATA_AGENT_AUTO = 0,          /* vsock where the host has /dev/vhost-vsock, else virtio-serial */
	KATA_AGENT_VIRTIO_SERIAL = 1, /* port "agent.channel.0"; one connection at a time */
	KATA_AGENT_VSOCK = 2
} kata_agent_transport;

typedef struct kata_agent_config {
	size_t size;                    /* sizeof(kata_agent_config) */
	kata_agent_transport transport; /* decides which device the machine gets */
} kata_agent_config;
#define KATA_AGENT_CONFIG_INIT                                                                                         \
	{                                                                                                              \
		sizeof(kata_agent_config), KATA_AGENT_AUTO                                                             \
	}

typedef enum kata_agent_state {
	KATA_AGENT_CONNECTING = 0,
	KATA_AGENT_CONNECTED = 1,
	KATA_AGENT_RELEASED = 2,
	KATA_AGENT_LOST = 3
} kata_agent_state;
KATA_API const char *kata_agent_state_get_name(kata_agent_state state);

/* The Kata 3.x protocol (ttrpc), straight to the VM's agent channel. Sole owner. */
KATA_API int kata_agent_builder_new_direct(kata_context *context, kata_agent_builder **ret_builder, kata_error **err);
KATA_API void kata_agent_builder_free(kata_agent_builder *builder); /* accepts NULL */

/*
 * Connects to the agent of a started VM and waits until it answers, so until the guest has booted. `released_json`
 * NULL, or what kata_agent_release() of an earlier connection gave (hostile input; CORRUPT, VERSION). VM states:
 * RUNNING. Returns TIMEOUT (the error has the console's tail), GONE (the VM ended meanwhile), BUSY (the VM has an agent
 * connection already). The begin form sets *ret_agent at once (CONNECTING); use it after the op has succeeded.
 */
KATA_API int kata_agent_builder_build(kata_agent_builder *builder, kata_vm *vm, const char *released_json,
				      const kata_op_options *options, kata_agent **ret_agent, kata_error **err);
KATA_API int kata_agent_builder_build_begin(kata_agent_builder *builder, kata_vm *vm, const char *released_json,
					    const kata_op_options *options, kata_agent **ret_agent, kata_op **ret_op,
					    kata_error **err);

KATA_API kata_agent *kata_agent_ref(kata_agent *agent);
KATA_API void kata_agent_unref(kata_agent *agent); /* accepts NULL; the last one closes the connection */
KATA_API kata_agent_state kata_agent_get_state(const kata_agent *agent);
/* What the agent said of itself at the handshake; borrowed, cleaned; "" when unknown. */
KATA_API const char *kata_agent_get_version(const kata_agent *agent);
/* True where the guest has the service "kata.Guest" (docs/guest.md): devices can be awaited and taken offline by call.
 */
KATA_API bool kata_agent_has_guest_service(const kata_agent *agent);
/* Closes the connection; calls in flight end with CANCELLED; *ret_json (caller frees) continues it elsewhere. States:
 * CONNECTED. */
KATA_API int kata_agent_release(kata_agent *agent, char **ret_json, kata_error **err);

/* ---- calls ---- */

typedef enum kata_agent_method {
	KATA_AGENT_CHECK = 0,
	KATA_AGENT_VERSION,          /* reply: text */
	KATA_AGENT_CREATE_SANDBOX,   /* sandbox_id, hostname, dns, storages */
	KATA_AGENT_DESTROY_SANDBOX,  /* the guest powers off; a closed connection is success */
	KATA_AGENT_UPDATE_INTERFACE, /* interface */
	KATA_AGENT_UPDATE_ROUTES,    /* routes */
	KATA_AGENT_AWAIT_DEVICE,     /* device_kind, device_address; reply: text (name in the guest), size_bytes */
	KATA_AGENT_OFFLINE_DEVICE,   /* device_kind, device_address; BUSY while it is mounted */
	KATA_AGENT_CREATE_CONTAINER, /* container_id, json (OCI spec), storages */
	KATA_AGENT_START_CONTAINER,  /* container_id */
	KATA_AGENT_REMOVE_CONTAINER, /* container_id */
	KATA_AGENT_EXEC_PROCESS,     /* container_id, exec_id, json (OCI process) */
	KATA_AGENT_SIGNAL_PROCESS,   /* container_id, exec_id (NULL: all), signal */
	KATA_AGENT_WAIT_PROCESS,     /* container_id, exec_id; reply: exit_status (code, or 128+signal) */
	KATA_AGENT_STATS_CONTAINER,  /* container_id; reply: stats */
	KATA_AGENT_PAUSE_CONTAINER,  /* container_id */
	KATA_AGENT_RESUME_CONTAINER, /* container_id */
	KATA_AGENT_WRITE_STDIN,      /* container_id, exec_id, data; reply: size_bytes (how many were taken) */
	KATA_AGENT_CLOSE_STDIN,      /* container_id, exec_id */
	KATA_AGENT_READ_STDOUT,      /* container_id, exec_id, max_length; reply: data (none: end of file, also
				      * of a process that the agent does not know any more) */
	KATA_AGENT_READ_STDERR,      /* likewise */
	KATA_AGENT_TTY_WIN_RESIZE,   /* container_id, exec_id, rows, columns */
	KATA_AGENT_SET_TIME,         /* seconds, microseconds */
	KATA_AGENT_RESEED,           /* data: random bytes */
	KATA_AGENT_ONLINE_CPU_MEM,   /* cpus: how many are to be online in all */
	KATA_AGENT_RESET_IDENTITY,   /* data (random bytes, 32 to 4096, or none), seconds, hostname, machine_id, macs:
				      * each part where it is given; max_length: bytes of new random output wanted, at
				      * most 64; reply: reset, seconds and microseconds (the guest's clock), data,
				      * text (the agent's version) */
	KATA_AGENT_SETTLE,           /* answers when the guest is done with what its boot put off: to be saved, or
				      * kept warm, only then */
	KATA_AGENT_METHOD_COUNT
} kata_agent_method;
/* "CreateSandbox", ...: the method's name on the wire. */
KATA_API const char *kata_agent_method_get_name(kata_agent_method method);

/* What two machines made from one saved state must not share (bits). */
#define KATA_RESET_ENTROPY UINT64_C(1)    /* the guest kernel's random state, of all CPUs */
#define KATA_RESET_CLOCK UINT64_C(2)      /* the guest's real-time clock */
#define KATA_RESET_HOSTNAME UINT64_C(4)   /* of the guest; containers have their own */
#define KATA_RESET_MACHINE_ID UINT64_C(8) /* the guest's /etc/machine-id; containers have their own */
#define KATA_RESET_MACS UINT64_C(16)      /* of the NICs, in the guest and the machine */
#define KATA_RESET_UUID UINT64_C(32)      /* of the machine, as the VMM and kata_vm_get_uuid() have it */
#define KATA_RESET_CID UINT64_C(64)       /* the vsock address */

/* A NIC that is to have another MAC. Its addresses and routes stay. */
typedef struct kata_agent_mac {
	const char *pci_path; /* "SS/00" */
	const char *mac;
} kata_agent_mac;

/* A file system the agent mounts before the container sees it. */
typedef struct kata_agent_storage {
	const char *driver; /* "blk", "scsi", "ephemeral", ... (agent-protocols: Storage.driver) */
	const char *source; /* PCI path, SCSI address, ... */
	const char *fstype;
	const char *mount_point;    /* absolute, in the guest */
	const char *const *options; /* NULL-terminated or NULL */
} kata_agent_storage;

typedef struct kata_agent_interface {
	const char *name;             /* wanted name in the guest ("eth0") */
	const char *mac;              /* looks the NIC up */
	const char *pci_path;         /* "SS/DD" or NULL: awaited when not there yet */
	uint32_t mtu;                 /* bytes, not 0 */
	const char *const *addresses; /* NULL-terminated "address/prefix", IPv4 or IPv6 */
} kata_agent_interface;

typedef struct kata_agent_route {
	const char *destination; /* "10.0.0.0/8"; NULL or "": default */
	const char *gateway;     /* or NULL */
	const char *device;      /* interface name in the guest */
	const char *source;      /* or NULL */
} kata_agent_route;

typedef struct kata_container_stats {
	size_t size; /* set by the caller (in a reply: by the library) */
	uint64_t cpu_usage_ns;
	uint64_t memory_usage_bytes, memory_max_usage_bytes, memory_limit_bytes;
	uint64_t pids_current;
	uint64_t block_read_bytes, block_write_bytes;
} kata_container_stats;

typedef struct kata_agent_request {
	size_t size; /* sizeof(kata_agent_request) */
	kata_agent_method method;
	const char *sandbox_id, *container_id, *exec_id;
	const char *json;
	size_t json_length; /* bytes */
	const kata_agent_storage *storages;
	size_t storage_count;
	const char *hostname;
	const char *const *dns; /* lines of resolv.conf, NULL-terminated */
	const kata_agent_interface *interface_;
	const kata_agent_route *routes;
	size_t route_count;
	const char *device_kind, *device_address; /* kind: "blk", "scsi", "net" */
	const void *data;
	size_t data_length;
	uint32_t signal, rows, columns, max_length, cpus;
	int64_t seconds, microseconds;
	const char *machine_id; /* 32 lower-case hexadecimal digits */
	const kata_agent_mac *macs;
	size_t mac_count;
} kata_agent_request;

typedef struct kata_agent_reply {
	size_t size;
	int32_t exit_status;
	const void *data;
	size_t data_length;
	const char *text; /* cleaned; or NULL */
	uint64_t size_bytes;
	kata_container_stats stats;
	uint64_t reset; /* KATA_RESET_* */
	int64_t seconds, microseconds;
} kata_agent_reply;

/* One call. The request is copied by the begin. Where no exec_id is given, the container's first process is meant, but
 * by SIGNAL_PROCESS. Returns GUEST (the agent's error; NOT_FOUND and UNSUPPORTED where it says so, with origin guest),
 * TIMEOUT, GONE. The default deadline is 60 s, 30 s for CHECK, none for WAIT_PROCESS, READ_STDOUT and READ_STDERR. The
 * connection's default is 60 s, twice that where the VMM emulates the CPU. */
KATA_API int kata_agent_call_begin(kata_agent *agent, const kata_agent_request *request, const kata_op_options *options,
				   kata_op **ret_op, kata_error **err);
/* The reply of an op made by kata_agent_call_begin that succeeded; borrowed from the op; NULL otherwise. */
KATA_API const kata_agent_reply *kata_agent_op_get_reply(const kata_op *op);
/* Health check: begin, wait, done. */
KATA_API int kata_agent_check(kata_agent *agent, const kata_op_options *options, kata_error **err);

#ifdef __cplusplus
}
#endif
#endif
