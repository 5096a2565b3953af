/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_DRIVER_PERSISTENCE_H
#define KATA_DRIVER_PERSISTENCE_H
/*
 * For those who keep records elsewhere (etcd, PostgreSQL, LMDB): see kata_persistence_new. An implementation stores
 * opaque record texts under an id and keeps the few columns it needs for its lists.
 */
#include <kata/persistence.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A sandbox's record while it is being stored; borrowed during the call. */
typedef struct kata_record kata_record;
KATA_API const char *kata_record_get_sandbox_id(const kata_record *record);
KATA_API uint64_t kata_record_get_epoch(const kata_record *record);
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
	/* must: replaces; FENCED when the stored epoch is greater than the record's. All or nothing. */
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
} kata_persistence_ops;

/* ops must stay valid; self is freed by ops->free (not when this fails). */
KATA_API int kata_persistence_new(kata_context *context, const kata_persistence_ops *ops, void *self,
				  kata_persistence **ret_persistence, kata_error **err);

#ifdef __cplusplus
}
#endif
#endif
