/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_DRIVER_PERSISTENCE_H
#define KATA_DRIVER_PERSISTENCE_H
/*
 * For those who keep records elsewhere (etcd, PostgreSQL, LMDB): see kata_persistence_new. An implementation stores
 * opaque record texts under an id and keeps the few columns it needs for its lists.
 */
#include <kata/persistence.h>
#include <kata/rows.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A sandbox's record while it is being stored; borrowed during the call. */
typedef struct kata_record kata_record;
KATA_API const char *kata_record_get_sandbox_id(const kata_record *record);
KATA_API uint64_t kata_record_get_epoch(const kata_record *record);
/* The generation it will have once stored, and the one that must stand there now: 0 where none was stored yet, -1 where
 * it does not matter. */
KATA_API uint64_t kata_record_get_generation(const kata_record *record);
KATA_API int64_t kata_record_get_base_generation(const kata_record *record);
/* Devices whose reservation this store settles: those it has (DONE), and those whose plug was undone (UNDONE). The VM's
 * is DONE with any store. */
KATA_API bool kata_record_has_device(const kata_record *record, uint32_t kind, const char *id);
KATA_API size_t kata_record_get_undone_count(const kata_record *record);
KATA_API const char *kata_record_get_undone(const kata_record *record, size_t index, uint32_t *ret_kind);
KATA_API size_t kata_record_get_container_count(const kata_record *record);
KATA_API const char *kata_record_get_container_id(const kata_record *record, size_t index);
/* The whole record; caller frees. NULL when out of memory, or when it is longer than 1 MiB and so would not be read
 * back. */
KATA_API char *kata_record_to_json(const kata_record *record);

typedef struct kata_persistence_ops {
	size_t size; /* sizeof(kata_persistence_ops) */
	const char *name;
	int (*create_schema)(void *self, kata_error **err);                  /* may */
	int (*create_sandbox)(void *self, const char *id, kata_error **err); /* must: EXISTS */
	/* must: replaces; FENCED when the stored epoch is greater than the record's, DIVERGED when the stored
	 * generation is not the record's base (unless that is -1). All or nothing. */
	int (*store)(void *self, const kata_record *record, kata_error **err);
	/* must: NOT_FOUND, also where the id was only reserved. *ret_json is what kata_record_to_json gave at the last
	 * store, malloc'ed; *ret_epoch the epoch now, which set_epoch may have changed since then (and which counts).
	 */
	int (*load)(void *self, const char *id, char **ret_json, uint64_t *ret_epoch, kata_error **err);
	/* must: compare-and-set of the epoch. NOT_FOUND; FENCED when the stored one is not `from`. */
	int (*set_epoch)(void *self, const char *id, uint64_t from, uint64_t to, kata_error **err);
	int (*remove)(void *self, const char *id, kata_error **err);          /* must: NOT_FOUND */
	int (*list_sandboxes)(void *self, char ***ret_ids, kata_error **err); /* must; malloc'ed, NULL-terminated */
	int (*list_containers)(void *self, const char *sandbox_id, char ***ret_ids, kata_error **err); /* must */
	/* must: NOT_FOUND; EXISTS when containers of several sandboxes have that id. */
	int (*sandbox_of_container)(void *self, const char *container_id, char **ret_id, kata_error **err);
	void (*free)(void *self); /* must */
	/*
	 * may; without them reservations and rows are UNSUPPORTED. Both are described in kata/rows.h; what the library
	 * passes is complete and checked. A store settles the reservations of its sandbox (above), drops those that are
	 * DONE and whose device it has not; removing a sandbox removes its reservations and networks.
	 */
	int (*reserve)(void *self, const kata_reservation *reservation, uint64_t flags, kata_error **err);
	int (*settle)(void *self, const char *sandbox_id, uint32_t kind, const char *id, uint32_t state,
		      kata_error **err);
	int (*list_reservations)(void *self, const char *sandbox_id, kata_reservation **ret_reservations,
				 size_t *ret_count, kata_error **err);
	/* json is the whole row. expected: what get_row gave; FENCED when that is not what stands there now. NULL: put
	 * it in any case. NOT_FOUND: what the row belongs to (but a snapshot's sandbox) is not there. */
	int (*put_row)(void *self, const kata_row *row, const char *json, const char *expected, kata_error **err);
	int (*get_row)(void *self, uint32_t kind, const char *id, char **ret_json, kata_error **err); /* malloc'ed */
	int (*remove_row)(void *self, uint32_t kind, const char *id, kata_error **err);
	/* may; without them the library loads the records. Sets the members that it can, in *ret_info cleared before.
	 */
	int (*get_info)(void *self, const char *id, kata_sandbox_info *ret_info, kata_error **err);
	int (*list_infos)(void *self, const char *after, kata_sandbox_info *ret_infos, size_t room, size_t *ret_count,
			  kata_error **err);
	int (*list_rows)(void *self, uint32_t kind, const char *parent_id, const char *state, char ***ret_ids,
			 kata_error **err);
	/* may; without it the library asks get_info, compares and removes: that is safe where nobody else writes. As
	 * remove, if the sandbox's info still is what was seen, all in one. FENCED when it is not. */
	int (*remove_seen)(void *self, const kata_sandbox_info *seen, kata_error **err);
} kata_persistence_ops;

/* ops must stay valid; self is freed by ops->free (not when this fails). */
KATA_API int kata_persistence_new(kata_context *context, const kata_persistence_ops *ops, void *self,
				  kata_persistence **ret_persistence, kata_error **err);

#ifdef __cplusplus
}
#endif
#endif
