/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PERSIST_SQLITE_H
#define KATA_PERSIST_SQLITE_H
/*
 * kata_persistence on SQLite, the parts that its files share.
 *
 *   sqlite_open.c   the two constructors: a file of ours, the caller's handle
 *   sqlite.c        the small ops: reservation, epoch, removal, lists
 *   sqlite_store.c  a record to rows
 *   sqlite_load.c   rows to a record
 *   sqlite_info.c   lists and status
 *   sqlite_reserve.c, sqlite_rows.c  reservations; rows beside the sandboxes
 *   statements.c    the SQL, prepared when first needed and kept
 *   schema.c        whether the tables there are ours; schema_objects.c: what they are; schema_migrate.c: how they came
 *   sqlite_error.c  SQLite's codes to kata_error
 *
 * Invariants. 1. On a borrowed handle nothing is run but SELECT, INSERT, UPDATE, DELETE, CREATE on kata_ tables and our
 * one savepoint; no PRAGMA, no BEGIN, COMMIT or ROLLBACK (but see kata__sqlite_rollback), no hook, no busy handler. 2.
 * After each call every statement is reset with its bindings cleared, the savepoint is gone, last_insert_rowid is what
 * it was. 3. No statement writes before the schema was found to be ours.
 */
#include <pthread.h>
#include <sqlite3.h>

#include "persist/fields.h"
#include "persist/persistence.h"
#include "persist/rows.h"

/* Six texts of at most 1 MiB and the rest: what a row of ours can hold. While an op runs the handle's length limit is
 * not above it, so that a row that claims a gigabyte is refused by SQLite before it is read. */
#define KATA__ROW_MAX (8 * 1024 * 1024)

/* Statements by number: the fixed ones, then four for each noun. */
enum kata__sql {
	KATA__SQL_SAVEPOINT,
	KATA__SQL_RELEASE,
	KATA__SQL_ROLLBACK_TO,
	KATA__SQL_WITNESS,     /* compiled when the schema was seen to be ours: compiled anew, it has changed */
	KATA__SQL_CLAIM,       /* writes nothing, but waits for the right to */
	KATA__SQL_RESERVE,     /* ?1 id, ?2 pid, ?3 start time, ?4 boot, ?5 now */
	KATA__SQL_HEAD,        /* ?1 id; see struct kata__head */
	KATA__SQL_UPDATE_SAME, /* the sandbox's row where epoch, generation and counts are unchanged, and nothing is
				  reserved */
	KATA__SQL_UPDATE,      /* the same where they are not, and the epoch is not greater */
	KATA__SQL_INSERT,      /* the same where there is none */
	KATA__SQL_LOAD,
	KATA__SQL_DELETE, /* ?1 id */
	KATA__SQL_LIST,
	KATA__SQL_INFO,      /* ?1 id */
	KATA__SQL_INFOS,     /* ?1 after, ?2 how many */
	KATA__SQL_SET_EPOCH, /* ?1 id, ?2 to, ?3 pid, ?4 start time, ?5 boot, ?6 since, ?7 from */
	/* kata_reservations; sqlite_reserve.c has their parameters */
	KATA__SQL_RESERVATION_PUT,
	KATA__SQL_RESERVATION_FIND,
	KATA__SQL_RESERVATION_CLASH,
	KATA__SQL_NIC_CLASH,
	KATA__SQL_DEVICE_FIND,
	KATA__SQL_RESERVATION_SETTLE,
	KATA__SQL_RESERVATIONS_DONE,
	KATA__SQL_RESERVATIONS_SWEEP,
	KATA__SQL_RESERVATIONS_GIVE_UP,
	KATA__SQL_RESERVATIONS_DELETE, /* ?1 sandbox */
	KATA__SQL_RESERVATIONS_COUNT,  /* ?1 sandbox: writes intent_count */
	KATA__SQL_RESERVATIONS_LIST,
	KATA__SQL_NETWORKS_DELETE, /* ?1 sandbox */
	KATA__SQL_LIST_ALL_CONTAINERS,
	KATA__SQL_LIST_CONTAINERS, /* ?1 sandbox */
	KATA__SQL_FIND_CONTAINER,  /* ?1 container */
	KATA__SQL_FIXED
};
enum kata__noun_sql {
	KATA__SQL_ROW_INSERT,
	KATA__SQL_ROW_UPDATE,
	KATA__SQL_ROWS_DELETE,
	KATA__SQL_ROWS_LOAD,
	KATA__SQL_PER_NOUN
};
/* Of each kind of row beside the sandboxes: ?1 is the id, but for LIST (?1 state or NULL) and LIST_OF (?2 the parent).
 */
enum kata__row_sql {
	KATA__SQL_BESIDE_PUT, /* the fields from ?1 */
	KATA__SQL_BESIDE_GET,
	KATA__SQL_BESIDE_HAS,
	KATA__SQL_BESIDE_REMOVE,
	KATA__SQL_BESIDE_LIST,
	KATA__SQL_BESIDE_LIST_OF,
	KATA__SQL_PER_BESIDE
};
#define KATA__SQL_NOUNS_END (KATA__SQL_FIXED + KATA__NOUNS * KATA__SQL_PER_NOUN)
#define KATA__SQL_COUNT (KATA__SQL_NOUNS_END + KATA__ROW_KINDS * KATA__SQL_PER_BESIDE)
#define KATA__SQL_OF(noun, which) (KATA__SQL_FIXED + (int)(noun)*KATA__SQL_PER_NOUN + (which))
#define KATA__SQL_BESIDE(kind, which) (KATA__SQL_NOUNS_END + (int)(kind)*KATA__SQL_PER_BESIDE + (which))

/* Who holds a sandbox, and since when. */
struct kata__holder {
	int64_t pid, start_time, since;
	char boot_id[37]; /* "": not known */
};

/* Who held it before an epoch was taken, so that giving it back restores the row exactly. */
struct kata__taken {
	char id[65];
	uint64_t epoch; /* that was taken; 0: nothing remembered */
	struct kata__holder before;
};

struct kata__sqlite {
	kata_context *ctx;
	sqlite3 *db;
	bool owned;   /* our own connection, in a file of ours */
	char *quoted; /* "\"main\"" */
	char *place;  /* "schema 'main'" or "'/var/lib/x.db'", for messages */
	pthread_mutex_t
		lock;  /* around each op; error-checking, so that a call from inside SQLite's callbacks is refused */
	bool verified; /* the schema was seen to be ours, and no statement was prepared anew since */
	sqlite3_stmt *statements[KATA__SQL_COUNT];
	struct kata__taken taken;
	/* A bit for each hash of an id: whether its row was last updated, not inserted. Being wrong costs a statement.
	 */
	uint64_t updated[32];
	bool in_transaction;   /* a transaction was open when the op began */
	int limit;             /* the handle's SQLITE_LIMIT_LENGTH, put back after the op */
	const char *operation; /* "store", for messages */
	const char *subject;   /* id of the sandbox, or NULL */
};

/*
 * Takes the locks and notes what is done, for messages; STATE when called from inside itself. The handle's own mutex
 * comes first, and is kept: statements that another thread runs on the handle come before or after the op, never into
 * its savepoint. Order: the handle's mutex, `lock`. (A handle opened without a mutex has none; then it is the caller's
 * to keep threads apart.)
 */
int kata__sqlite_enter(struct kata__sqlite *s, const char *operation, const char *subject, kata_error **err);
/* Returns rc. Adds a hint where SQLite gave the caller's transaction up. */
int kata__sqlite_leave(struct kata__sqlite *s, int rc, kata_error **err);

/* A failed SQLite call as kata_error: reads the handle's message, so it comes before anything else on the handle.
 * `table` may be NULL. An error that looks like missing tables is diagnosed. */
int kata__sqlite_fail(struct kata__sqlite *s, int code, const char *table, kata_error **err);
/* The same without diagnosis, for handles that are not open yet. `what` is the whole beginning of the message. */
int kata__sqlite_fail_plain(sqlite3 *db, bool is_owned, int code, const char *what, kata_error **err);

/* statements.c. Prepares at the first call. The statement is reset and unbound. */
int kata__sqlite_prepare(struct kata__sqlite *s, int sql, sqlite3_stmt **ret, kata_error **err);
/* Ends a use: reset and bindings cleared. NULL is fine. */
void kata__sqlite_done(sqlite3_stmt *st);
/* Steps a statement that gives no row. */
int kata__sqlite_run(struct kata__sqlite *s, sqlite3_stmt *st, const char *table, kata_error **err);
/* prepare + run + done of one without parameters. */
int kata__sqlite_exec(struct kata__sqlite *s, int sql, kata_error **err);
/* Prepares and runs a text in which '@' stands for the quoted schema. */
int kata__sqlite_exec_text(struct kata__sqlite *s, const char *text, const char *table, kata_error **err);
/* The text with '@' replaced; caller frees; NULL when out of memory. */
char *kata__sqlite_expand(const struct kata__sqlite *s, const char *text);
/* True when SQLite prepared any statement anew since the last call: the schema changed under us. */
bool kata__sqlite_schema_changed(struct kata__sqlite *s);
void kata__sqlite_finalize(struct kata__sqlite *s);

/* All that is written after the savepoint is kept by _release, undone by _rollback, which may add a hint to the error
 * in *err. */
int kata__sqlite_savepoint(struct kata__sqlite *s, kata_error **err);
int kata__sqlite_release(struct kata__sqlite *s, kata_error **err);
void kata__sqlite_rollback(struct kata__sqlite *s, kata_error **err);
/* The same for what is to be written: waits, as the handle's busy handler says, until it may be. Ended by end_change,
 * which keeps what was done where rc is 0, and undoes it else. */
int kata__sqlite_begin_change(struct kata__sqlite *s, kata_error **err);
int kata__sqlite_end_change(struct kata__sqlite *s, int rc, kata_error **err);

/* schema.c */
/* What stands in the file: 0 no tables of ours, else their version. CORRUPT: something of our names that is not ours.
 */
int kata__schema_probe(struct kata__sqlite *s, int64_t *ret_version, kata_error **err);
/* Usable as it is: STATE (no tables), VERSION, CORRUPT. Before the first statement of an op; remembered until a recheck
 * fails. */
int kata__schema_verify(struct kata__sqlite *s, kata_error **err);
/* After a statement was prepared: the same, when the witness shows a change since. */
int kata__schema_verify_still(struct kata__sqlite *s, kata_error **err);
/* After the last statement of an op: the same, when SQLite had to compile a statement anew. */
int kata__schema_recheck(struct kata__sqlite *s, kata_error **err);
/* The same for one that reads and has ended with rc: what it found, or not, counts only where it looked into our
 * tables.
 */
int kata__schema_recheck_read(struct kata__sqlite *s, int rc, kata_error **err);
int kata__schema_create(struct kata__sqlite *s, kata_error **err);

/* sqlite.c, sqlite_store.c, sqlite_load.c */
extern const kata_persistence_ops kata__sqlite_ops;
int kata__sqlite_store(void *self, const kata_record *record, kata_error **err);
int kata__sqlite_load_record(void *self, const char *id, kata_record **ret, kata_error **err);
void kata__sqlite_free(void *self);

/* What the row of a sandbox says before its own fields. */
struct kata__head {
	int64_t epoch;
	struct kata__holder holder;
	bool reserved; /* never stored */
	int64_t generation, intents;
	int64_t counts[KATA__NOUNS];
};
/* The text is not copied: it outlives the use. */
void kata__sqlite_bind_id(sqlite3_stmt *st, int at, const char *id);
/* Runs a statement whose one parameter is a sandbox's id. */
int kata__sqlite_run_for(struct kata__sqlite *s, int sql, const char *id, const char *table, kata_error **err);
/* What fits a column of text that may be anything: "" where it does not. */
void kata__sqlite_copy_text(sqlite3_stmt *st, int column, char *buf, size_t size);
/* Binds a row's fields from parameter `from`; INVALID for what would be refused when read back. The row outlives the
 * use. */
int kata__sqlite_bind_fields(struct kata__sqlite *s, sqlite3_stmt *st, int from, const struct kata__noun *n,
			     const void *row, kata_error **err);
/* A row's fields from the statement's columns; CORRUPT. */
int kata__sqlite_take_fields(struct kata__sqlite *s, sqlite3_stmt *st, const struct kata__noun *n, void *row,
			     kata_error **err);
/* Collects ids, the first column; NULL-terminated. Ends the statement's use. */
int kata__sqlite_collect_ids(struct kata__sqlite *s, sqlite3_stmt *st, const char *table, char ***ret,
			     kata_error **err);

/* sqlite_reserve.c. Within a store's savepoint: what the record says of its intents; what was reserved for devices that
 * went away. */
int kata__sqlite_settle_intents(struct kata__sqlite *s, const struct kata_record *record, kata_error **err);
int kata__sqlite_give_up_reservations(struct kata__sqlite *s, int noun, const char *id, kata_error **err);
int kata__sqlite_reserve(void *self, const kata_reservation *reservation, uint64_t flags, kata_error **err);
int kata__sqlite_settle(void *self, const char *sandbox_id, uint32_t kind, const char *id, uint32_t state,
			kata_error **err);
int kata__sqlite_list_reservations(void *self, const char *sandbox_id, kata_reservation **ret, size_t *ret_count,
				   kata_error **err);

/* sqlite_info.c; the first within an op. NOT_FOUND. */
int kata__sqlite_info(struct kata__sqlite *s, const char *id, kata_sandbox_info *ret_info, kata_error **err);
int kata__sqlite_get_info(void *self, const char *id, kata_sandbox_info *ret_info, kata_error **err);
int kata__sqlite_list_infos(void *self, const char *after, kata_sandbox_info *ret_infos, size_t room, size_t *ret_count,
			    kata_error **err);

/* sqlite_rows.c */
int kata__sqlite_put_row(void *self, const kata_row *row, const char *json, const char *expected, kata_error **err);
int kata__sqlite_get_row(void *self, uint32_t kind, const char *id, char **ret_json, kata_error **err);
int kata__sqlite_remove_row(void *self, uint32_t kind, const char *id, kata_error **err);
int kata__sqlite_list_rows(void *self, uint32_t kind, const char *parent_id, const char *state, char ***ret_ids,
			   kata_error **err);

/* FENCED, naming who holds the sandbox and since when. */
int kata__sqlite_fenced(struct kata__sqlite *s, const struct kata__head *h, uint64_t own, kata_error **err);
/* NOT_FOUND. */
int kata__sqlite_head(struct kata__sqlite *s, const char *id, struct kata__head *ret, kata_error **err);
#endif
