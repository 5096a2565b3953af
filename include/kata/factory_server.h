/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_SERVER_H
#define KATA_FACTORY_SERVER_H
/*
 * Sharing a factory between processes: a server in the process that has it, remote builders in others.
 *
 *	process A                                      process B
 *	kata_vm_builder_new_cache(...)
 *	kata_factory_server_new(cache, socket) <-----> kata_vm_builder_new_remote(local, socket)
 *	                                               kata_vm_builder_build(remote, ...): a warm VM, as from the cache
 *
 * A build in B asks the server for a machine of its config. The server takes one out of its builder, releases it and
 *sends its record; B takes the machine over, by its own builder for such VMs, gives it its id, and says so. From then
 *on it is B's as if B had started it: it outlives A. Where A has none ready, or none fits, B builds one itself: an
 *exact boot, as by a cache.
 *
 * Both contexts must use the same state directory (the path may differ, as in a container: what counts is that the
 *machine's directory is there; an fd of it goes along and is compared), be in one PID namespace, and run with one uid:
 *a state directory belongs to one.
 *
 * A machine on its way belongs to the server until B says that it has it. A client that goes before that leaves
 *nothing: the server ends the machine. When the server goes, a machine that B was not given yet is stock of a dead
 *factory: kata_recover() ends it. A client that goes later leaves an ordinary machine of a dead owner.
 *
 * Security: each side checks the other's uid (SO_PEERCRED). Messages are capped and checked, connections and their time
 * limited. Who may take a machine may do with it whatever the server could.
 */
#include <stddef.h>
#include <stdint.h>

#include <kata/vm_builder.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kata_factory_server kata_factory_server;

typedef struct kata_factory_server_options {
	size_t size;             /* sizeof(kata_factory_server_options) */
	const char *socket_path; /* absolute, at most 107 bytes; made here and removed by the free. Its directory must
				  * be ours (or root's) and not writable by others. */
	const uint32_t *uids;    /* who may take machines; uid_count 0: our own uid alone */
	size_t uid_count;
	uint32_t max_connections; /* 0: 64; who comes when there are so many waits to be accepted */
	uint64_t take_ms;         /* from the request to the word that the machine was taken over; 0: 30000 */
} kata_factory_server_options;
#define KATA_FACTORY_SERVER_OPTIONS_INIT                                                                               \
	{                                                                                                              \
		sizeof(kata_factory_server_options), NULL, NULL, 0, 0, 0                                               \
	}

/*
 * Serves from now on, by the context's loop. `builder` is borrowed and must outlive the server: a cache, from which
 * ready machines are handed over; or any other, whose VMs are then started for each request (a template, say). Returns
 * INVALID, EXISTS (another server listens there), PERMISSION (the directory).
 */
KATA_API int kata_factory_server_new(kata_context *context, kata_vm_builder *builder,
				     const kata_factory_server_options *options, kata_factory_server **ret_server,
				     kata_error **err);
/* Stops; machines on their way are ended, and waited for. Accepts NULL. In a callback of the library it does not wait.
 */
KATA_API void kata_factory_server_free(kata_factory_server *server);

typedef struct kata_factory_server_status {
	size_t size; /* set by the caller */
	uint32_t connections;
	uint32_t on_their_way; /* machines between the builder and a client */
	uint64_t handed_over;  /* since the beginning: machines that a client has, ... */
	uint64_t none;         /* requests for which there was none */
	uint64_t failed;       /* requests that failed */
	uint64_t taken_back;   /* machines that were ended because their client did not take them over */
	uint64_t refused;      /* clients of another uid */
} kata_factory_server_status;
/* Never waits. */
KATA_API int kata_factory_server_get_status(const kata_factory_server *server, kata_factory_server_status *ret_status,
					    kata_error **err);

/* Where no server answers, or it cannot serve, build() makes an exact one by the local builder instead of failing. */
#define KATA_REMOTE_FALL_BACK UINT64_C(1)

typedef struct kata_remote_options {
	size_t size;             /* sizeof(kata_remote_options) */
	const char *socket_path; /* the server's */
	uint64_t flags;          /* KATA_REMOTE_* */
	uint64_t take_ms;        /* longest wait for the server's machine; 0: 30000 */
} kata_remote_options;
#define KATA_REMOTE_OPTIONS_INIT                                                                                       \
	{                                                                                                              \
		sizeof(kata_remote_options), NULL, 0, 0                                                                \
	}

/*
 * A builder whose build() asks the server. `local` builds VMs of the server's kind in this process: it takes the
 * machines over, and makes the exact ones; borrowed, must outlive this. Connects with each build, not before. build()
 * returns GONE (no server, without KATA_REMOTE_FALL_BACK), PERMISSION (a server of another uid), UNSUPPORTED (another
 * state directory), TIMEOUT, and what a build returns. Not from a callback of the library.
 */
KATA_API int kata_vm_builder_new_remote(kata_context *context, kata_vm_builder *local,
					const kata_remote_options *options, kata_vm_builder **ret_builder,
					kata_error **err);

#ifdef __cplusplus
}
#endif
#endif
