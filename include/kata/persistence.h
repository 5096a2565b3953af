/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PERSISTENCE_H
#define KATA_PERSISTENCE_H
/*
 * kata_persistence: where records of sandboxes go. The library owns the format, the caller owns the transaction.
 *
 * Attached to the caller's SQLite handle, every call joins whatever transaction is open there, with its rows under one
 * SAVEPOINT; the library never runs BEGIN, COMMIT, ROLLBACK, ATTACH or a PRAGMA on it, opens no fd on the caller's
 * file, and leaves busy handler, authorizer and hooks alone. Tables and views are described in docs/persistence.md; all
 * begin with "kata_".
 *
 * Ownership is fenced: a record has an epoch, raised by whoever obtains the sandbox; an older handle's store is refused
 * with FENCED.
 *
 * Threads: with an attached handle, the rules of that handle hold. Where SQLite serializes it, a call is one unit to
 * statements that other threads run on it; a handle opened without a mutex is for one thread at a time. Calls run on
 * the caller's thread and wait for the database alone, except obtain and release, which also run the sandbox's op.
 * Security: rows are untrusted input. A pid, path or id in a row is checked before it is used.
 */
#include <stddef.h>
#include <stdint.h>

#include <kata/agent.h>
#include <kata/context.h>
#include <kata/sandbox.h>
#include <kata/vm_builder.h>

struct sqlite3;

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kata_persistence kata_persistence;

/* Version of the tables this library writes (docs/persistence.md). */
#define KATA_SCHEMA_VERSION 2

/* A SQLite file of our own, made with mode 0600 when missing, WAL; its tables are made. A relative path counts from
 * the directory that is the working one now, and is resolved once. NOT_FOUND (directory), CORRUPT (not a database),
 * VERSION (newer schema), PERMISSION (read-only), BUSY (locked for longer than 10 s). */
KATA_API int kata_persistence_new_sqlite(kata_context *context, const char *path, kata_persistence **ret_persistence,
					 kata_error **err);
/* The caller's handle, borrowed until kata_persistence_free. `schema` is the attached database that holds the tables;
 * NULL: "main". Touches nothing: call kata_persistence_create_schema where the tables may be missing. */
KATA_API int kata_persistence_new_sqlite_attached(kata_context *context, struct sqlite3 *db, const char *schema,
						  kata_persistence **ret_persistence, kata_error **err);
/* Creates or migrates the tables, inside the caller's transaction if one is open. Does nothing where they are current.
 * VERSION: they are of a newer library. CORRUPT: a table of that name is not ours. */
KATA_API int kata_persistence_create_schema(kata_persistence *persistence, kata_error **err);
/*
 * A directory of JSON records, for people without a database; made with mode 0700 when missing. Each record is a file
 * that is written beside, synced and renamed, with a checksum. Several processes may use one: a call that changes
 * something locks it for its time, which goes with the process that holds it. There are no transactions and no indexes:
 * some hundreds of sandboxes. A relative path is resolved once. NOT_FOUND (the directory above it), PERMISSION
 * (another's, or writable by others), VERSION, CORRUPT, BUSY (locked for longer than 10 s, says by whom).
 */
KATA_API int kata_persistence_new_file(kata_context *context, const char *path, kata_persistence **ret_persistence,
				       kata_error **err);
/* In this process's memory; gone with kata_persistence_free. */
KATA_API int kata_persistence_new_memory(kata_context *context, kata_persistence **ret_persistence, kata_error **err);
KATA_API void kata_persistence_free(kata_persistence *persistence); /* accepts NULL; finalizes our statements */

/* Reserves the id: a row with state "new", before anything exists. EXISTS. */
KATA_API int kata_persistence_create_sandbox(kata_persistence *persistence, const char *id, kata_error **err);
/*
 * Writes the sandbox as it is now: all its rows, as the next generation of its record. Never waits for the guest, never
 * harms the sandbox when it fails. Storing again replaces. FENCED: another owner has taken over, since when. DIVERGED:
 * what stands there is not what this sandbox stored last: the caller has rolled that back (or it is another's record);
 * kata_sandbox_reconcile (kata/reconcile.h) stores it nevertheless, or takes back what is not stored. BUSY: also while
 * another thread stores this sandbox. Sandbox states: RUNNING, PAUSED, RELEASED.
 */
KATA_API int kata_persistence_store_sandbox(kata_persistence *persistence, kata_sandbox *sandbox, kata_error **err);
/* Releases the sandbox (kata_sandbox_release) and stores it as released. DIVERGED as above, before anything is done. If
 * the store fails, the sandbox is RELEASED nevertheless, the error says so, and *ret_json (may be NULL; caller frees)
 * holds the record. */
KATA_API int kata_persistence_release_sandbox(kata_persistence *persistence, kata_sandbox *sandbox,
					      const kata_op_options *options, char **ret_json, kata_error **err);
/* Takes the recorded sandbox over: rebuilds VM and agent, raises its epoch, stores it. agent_builder NULL: direct; of a
 * sandbox that is paused it connects when that is resumed, and must live until then. On failure the row is as before
 * (where the store cannot be written any more its epoch stays raised, which hinders nobody). NOT_FOUND; FENCED: a
 * living process owns it; statuses of kata_vm_builder_build_from_released. */
KATA_API int kata_persistence_obtain_sandbox(kata_persistence *persistence, const char *id, kata_vm_builder *vm_builder,
					     kata_agent_builder *agent_builder, const kata_op_options *options,
					     kata_sandbox **ret_sandbox, kata_error **err);
/* Removes the record with everything below it. NOT_FOUND. Does not touch the sandbox. */
KATA_API int kata_persistence_delete_sandbox(kata_persistence *persistence, const char *id, kata_error **err);

/* What a record says of its sandbox, for lists and status: read from the store alone, no VM and no guest is asked. */
typedef struct kata_sandbox_info {
	size_t size; /* set by the caller */
	char id[65];
	char state[16];      /* "new": reserved, never stored; "running", "paused", "released" */
	uint64_t epoch;      /* of the ownership */
	uint64_t generation; /* of the record: grows with each store */
	int64_t holder_pid;  /* who took that epoch (or reserved the id): pid, start time, boot, and when (seconds since
			      */
	uint64_t holder_start_time; /* 1970) */
	char holder_boot_id[37];
	int64_t held_since;
	int64_t owner_pid; /* the process that drives it, 0 once released */
	uint64_t owner_start_time;
	char boot_id[37];                           /* boot of the host on which owner_pid and vm_pid mean something */
	char vm_id[65], vm_uuid[37], vm_driver[33]; /* "" where it was never stored */
	int64_t vm_pid;
	uint64_t vm_start_time;
	uint32_t cpus;
	uint64_t memory_mib;
	uint32_t storage_count, nic_count, container_count, process_count;
	uint32_t intent_count; /* reservations that wait for their devices */
	int64_t updated_at;    /* the last store */
} kata_sandbox_info;
/* NOT_FOUND; CORRUPT. */
KATA_API int kata_persistence_get_info(kata_persistence *persistence, const char *id, kata_sandbox_info *ret_info,
				       kata_error **err);
/*
 * The next `room` sandboxes in order of ids, after `after` (NULL: from the first): sets their number. Fewer than room:
 * there are no more. Each page is one read; pages are of one state inside a transaction of the caller's. `size` must be
 * set in the first info and holds for all.
 */
KATA_API int kata_persistence_list_infos(kata_persistence *persistence, const char *after, kata_sandbox_info *ret_infos,
					 size_t room, size_t *ret_count, kata_error **err);

/* Lists of ids in order: a NULL-terminated array the caller frees with kata_string_list_free. sandbox_id NULL: all
 * containers. */
KATA_API int kata_persistence_list_sandboxes(kata_persistence *persistence, char ***ret_ids, kata_error **err);
KATA_API int kata_persistence_list_containers(kata_persistence *persistence, const char *sandbox_id, char ***ret_ids,
					      kata_error **err);
/* Which sandbox has this container: its id (caller frees). NOT_FOUND; EXISTS: containers of several sandboxes have that
 * id. */
KATA_API int kata_persistence_sandbox_of_container(kata_persistence *persistence, const char *container_id,
						   char **ret_id, kata_error **err);
KATA_API void kata_string_list_free(char **list); /* accepts NULL */

#ifdef __cplusplus
}
#endif
#endif
