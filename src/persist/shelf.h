/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PERSIST_SHELF_H
#define KATA_PERSIST_SHELF_H
/*
 * Persistence over texts under names: what the one in memory and the one in a directory share. A shelf keeps texts in
 * drawers; who may store what, reservations and lists are said once, here, over any shelf.
 *
 *   shelf.c         the ops about sandboxes
 *   shelf_beside.c  reservations and rows
 *   entry.c         a sandbox's text: record, epoch, holder, reservations
 *   memory.c        a shelf in memory; file.c: one in a directory, a file a text
 *
 * Invariant: an op holds the shelf's lock from its first look to its last write, and writes one text; so each is all of
 * it or nothing. (Removing a sandbox removes its networks first: who dies in between leaves a sandbox with fewer of
 * them.)
 */
#include "persist/persistence.h"
#include "persist/rows.h"

/* Drawers: the sandboxes, then one for each kata_row_kind. */
#define KATA__DRAWER_SANDBOXES 0
#define KATA__DRAWER_OF(kind) (1 + (int)(kind))
#define KATA__DRAWERS (1 + KATA__ROW_KINDS)
extern const char *const kata__drawer_names[KATA__DRAWERS];

struct kata__shelf_ops {
	/* Keeps others out until unlock; readers share. BUSY: somebody held it for too long, says who. */
	int (*lock)(void *self, bool exclusive, kata_error **err);
	void (*unlock)(void *self);
	/* *ret NULL: there is none. malloc'ed. */
	int (*get)(void *self, int drawer, const char *id, char **ret, kata_error **err);
	/* Replaces. All or nothing. */
	int (*put)(void *self, int drawer, const char *id, const char *text, kata_error **err);
	int (*remove)(void *self, int drawer, const char *id, kata_error **err);
	/* In order; NULL-terminated, kata__strv_free. */
	int (*list)(void *self, int drawer, char ***ret, kata_error **err);
	void (*free)(void *self);
};

struct kata__shelf {
	kata_context *ctx;
	const struct kata__shelf_ops *ops;
	void *self;
	char *place; /* "memory", "'/var/lib/x'", for messages */
};

/* A persistence over a shelf, which is freed with it (also when this fails). */
int kata__shelf_publish(kata_context *ctx, const char *name, const struct kata__shelf_ops *ops, void *take_self,
			char *take_place, kata_persistence **ret, kata_error **err);

/* ---- entry.c ---- */

struct kata__entry {
	char id[65];
	uint64_t epoch, generation;
	struct {
		int64_t pid, since;
		uint64_t start_time;
		char boot_id[37];
	} holder;
	int64_t updated_at;
	json_t *record; /* NULL: only reserved */
	kata_reservation *reservations;
	size_t reservation_count;
};

void kata__entry_deinit(struct kata__entry *e);
/* Held by this process from now on. */
void kata__entry_take(struct kata__entry *e, kata_context *ctx);
int kata__entry_to_text(const struct kata__entry *e, char **ret, kata_error **err);
/* Strict, but for the record, which is read as such when it is loaded. CORRUPT, VERSION. */
int kata__entry_from_text(const char *id, const char *text, struct kata__entry *ret, kata_error **err);
kata_reservation *kata__entry_find(struct kata__entry *e, uint32_t kind, const char *id);
void kata__entry_drop(struct kata__entry *e, size_t index);

/* ---- shelf.c, for shelf_beside.c ---- */

/* The entry of a sandbox; *ret_found false: there is none. kata__entry_deinit in any case. */
int kata__shelf_load(struct kata__shelf *s, const char *id, struct kata__entry *ret, bool *ret_found, kata_error **err);
/* NOT_FOUND. */
int kata__shelf_must_load(struct kata__shelf *s, const char *id, struct kata__entry *ret, kata_error **err);
int kata__shelf_save(struct kata__shelf *s, const struct kata__entry *e, kata_error **err);
/* What a store says of the reservations of its sandbox. */
void kata__shelf_settle(struct kata__entry *e, const kata_record *record);

/* ---- shelf_beside.c ---- */

int kata__shelf_reserve(void *self, const kata_reservation *reservation, uint64_t flags, kata_error **err);
int kata__shelf_settle_one(void *self, const char *sandbox_id, uint32_t kind, const char *id, uint32_t state,
			   kata_error **err);
int kata__shelf_list_reservations(void *self, const char *sandbox_id, kata_reservation **ret, size_t *ret_count,
				  kata_error **err);
int kata__shelf_put_row(void *self, const kata_row *row, const char *json, const char *expected, kata_error **err);
int kata__shelf_get_row(void *self, uint32_t kind, const char *id, char **ret_json, kata_error **err);
int kata__shelf_remove_row(void *self, uint32_t kind, const char *id, kata_error **err);
int kata__shelf_list_rows(void *self, uint32_t kind, const char *parent_id, const char *state, char ***ret_ids,
			  kata_error **err);
/* The lock is held. */
int kata__shelf_remove_networks(struct kata__shelf *s, const char *sandbox_id, kata_error **err);

/* Ids of a list in the making. */
struct kata__id_list {
	char **list;
	size_t count, room;
};
int kata__id_list_add(struct kata__id_list *l, const char *id, kata_error **err); /* id NULL: only makes the end */
#endif
