/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_ROWS_H
#define KATA_ROWS_H
/*
 * What a persistence keeps beside the records of sandboxes: reservations, and rows about networks, snapshots, templates
 * and pooled VMs.
 *
 * A reservation says what is about to be made, before it is: "this NIC of this sandbox shall have this tap and this
 * MAC". Written in the transaction in which the caller decides, it is what a crash leaves to go by:
 *
 *   reserve --> INTENT --store of a sandbox that has it--> DONE --store of one that has it no more--> (gone)
 *                  '----store after its plug was undone, or kata_persistence_settle--> UNDONE --next reserve--> (gone)
 *
 * Threads, transactions and security: as told in kata/persistence.h.
 */
#include <kata/persistence.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- reservations ---- */

typedef enum kata_reservation_kind {
	KATA_RESERVE_VM = 0,
	KATA_RESERVE_STORAGE = 1,
	KATA_RESERVE_NIC = 2
} kata_reservation_kind;
KATA_API const char *kata_reservation_kind_get_name(kata_reservation_kind kind); /* "vm", "storage", "nic" */

typedef enum kata_reservation_state {
	KATA_RESERVATION_INTENT = 0,
	KATA_RESERVATION_DONE = 1,
	KATA_RESERVATION_UNDONE = 2
} kata_reservation_state;
KATA_API const char *kata_reservation_state_get_name(kata_reservation_state state); /* "intent", "done", "undone" */

/* Tap and MAC may be held by others too: they are in other networks. */
#define KATA_RESERVE_SHARED UINT64_C(1)

typedef struct kata_reservation_config {
	size_t size;
	const char *sandbox_id; /* reserved by kata_persistence_create_sandbox, or stored */
	uint32_t kind;          /* kata_reservation_kind */
	const char *id;         /* of the VM, storage or NIC; VM: NULL is the sandbox's id */
	const char *directory;  /* VM: NULL is its directory in the context's state directory; at most 255 bytes */
	const char *tap_name;   /* at most 15 bytes; NULL: none */
	const char *mac;        /* NULL: none */
	uint32_t cid;           /* of vsock, a guest's: from 3, vsock(7); 0: none */
	int32_t slot;           /* -1: none */
	uint64_t flags;         /* KATA_RESERVE_* */
} kata_reservation_config;
#define KATA_RESERVATION_CONFIG_INIT                                                                                   \
	{                                                                                                              \
		sizeof(kata_reservation_config), NULL, 0, NULL, NULL, NULL, NULL, 0, -1, 0                             \
	}

typedef struct kata_reservation {
	char sandbox_id[65], id[65];
	uint32_t kind, state;
	char directory[256], tap_name[16], mac[18]; /* "" where there is none */
	uint32_t cid;
	int32_t slot;
	/* the process that reserved it */
	int64_t owner_pid;
	uint64_t owner_start_time;
	char boot_id[37];
	int64_t reserved_at, settled_at; /* seconds since 1970; settled_at 0: not yet */
} kata_reservation;

/*
 * Writes the intent. NOT_FOUND: no sandbox of that id is reserved or stored. EXISTS, naming who has it since when: the
 * device is reserved or stored already; the CID or directory, or (without SHARED) the tap or MAC is another's. Rows
 * that are UNDONE make room.
 */
KATA_API int kata_persistence_reserve(kata_persistence *persistence, const kata_reservation_config *config,
				      kata_error **err);
/* Says what became of an intent whose device was not plugged through the sandbox (which knows, and says so with the
 * next store): DONE or UNDONE. NOT_FOUND: there is no such intent. */
KATA_API int kata_persistence_settle(kata_persistence *persistence, const char *sandbox_id, kata_reservation_kind kind,
				     const char *id, kata_reservation_state state, kata_error **err);
/* Of one sandbox, or all (NULL), in order of sandbox, kind and id: an array the caller frees with free(). */
KATA_API int kata_persistence_list_reservations(kata_persistence *persistence, const char *sandbox_id,
						kata_reservation **ret_reservations, size_t *ret_count,
						kata_error **err);

/* ---- rows ---- */

typedef enum kata_row_kind {
	KATA_ROW_NETWORK = 0,
	KATA_ROW_SNAPSHOT = 1,
	KATA_ROW_TEMPLATE = 2,
	KATA_ROW_POOLED_VM = 3
} kata_row_kind;
KATA_API const char *kata_row_kind_get_name(kata_row_kind kind); /* "network", "snapshot", "template", "pooled-vm" */

/*
 * One row. Which members a kind has (others must be NULL or 0), and which of them it needs (*):
 *   network    sandbox_id*, type* ("bridge", "cni", ...), name, directory (path of the network namespace), json
 *   snapshot   sandbox_id (it may be gone), type* (the driver), directory*, vm_id, vm_uuid, size_bytes, json (manifest)
 *   template   parent_id (its snapshot), type*, directory*, vm_uuid, size_bytes, json
 *   pooled VM  parent_id (its template), type*, directory, vm_uuid*, vm_pid, vm_start_time, json (the VM's record)
 * Networks go with their sandbox's record.
 */
typedef struct kata_row {
	size_t size;
	uint32_t kind;     /* kata_row_kind */
	const char *id;    /* unique in its kind */
	const char *state; /* a word: [a-z0-9_-]{1,32} */
	const char *sandbox_id;
	const char *parent_id;
	const char *type;
	const char *name;
	const char *directory;
	const char *vm_id, *vm_uuid;
	int64_t vm_pid;
	uint64_t vm_start_time;
	uint64_t size_bytes;
	const char *json; /* a JSON object */
	/* who wrote it last, and when: set by the library */
	int64_t owner_pid;
	uint64_t owner_start_time;
	const char *boot_id;
	int64_t updated_at;
} kata_row;
#define KATA_ROW_INIT                                                                                                  \
	{                                                                                                              \
		sizeof(kata_row), 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, NULL, 0, 0, NULL,  \
			0                                                                                              \
	}

/* Inserts, or replaces the row of that kind and id. NOT_FOUND: sandbox or parent is not there. */
KATA_API int kata_persistence_put_row(kata_persistence *persistence, const kata_row *row, kata_error **err);
/* *ret_row: caller frees with kata_row_free. NOT_FOUND; CORRUPT. */
KATA_API int kata_persistence_get_row(kata_persistence *persistence, kata_row_kind kind, const char *id,
				      kata_row **ret_row, kata_error **err);
/* From one state to another, and this process owns it: of several that try at once, one does (to take a VM out of a
 * pool, say). NOT_FOUND; FENCED: it is in another state, or another was quicker. */
KATA_API int kata_persistence_move_row(kata_persistence *persistence, kata_row_kind kind, const char *id,
				       const char *from_state, const char *to_state, kata_error **err);
/* NOT_FOUND; BUSY: a template of it, a pooled VM of it, is there. */
KATA_API int kata_persistence_remove_row(kata_persistence *persistence, kata_row_kind kind, const char *id,
					 kata_error **err);
/* Ids in order, of all or (parent_id) of one sandbox, snapshot or template; state NULL: any. As
 * kata_persistence_list_sandboxes. */
KATA_API int kata_persistence_list_rows(kata_persistence *persistence, kata_row_kind kind, const char *parent_id,
					const char *state, char ***ret_ids, kata_error **err);
KATA_API void kata_row_free(kata_row *row); /* accepts NULL */

#ifdef __cplusplus
}
#endif
#endif
