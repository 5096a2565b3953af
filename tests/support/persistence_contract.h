/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_PERSISTENCE_CONTRACT_H
#define KATA_TESTS_SUPPORT_PERSISTENCE_CONTRACT_H
/*
 * What every kata_persistence_ops must do, as one suite that is run for each: SQLite in a file of ours, SQLite on a
 * caller's handle, an implementation of somebody else's. A test file describes its kind and instantiates the cases:
 *
 *     static const struct persistence_kind file_kind = {...};
 *     #define CASE(name) Test(persistence_file, name) { persistence_contract_##name(&file_kind); }
 *     PERSISTENCE_CONTRACT_CASES(CASE)
 *
 * Records are opaque here, as they are to an implementation: the test file makes them.
 */
#include <kata/driver/persistence.h>

#include "support/fixture.h"

/* What a record is asked to hold. */
struct record_wish {
	const char *id;
	uint64_t epoch;
	const char *state;             /* NULL: "running" */
	const char *const *containers; /* ids, NULL-terminated; NULL: none. Each has one process. */
	unsigned disks, nics;
	const char *hostname; /* NULL: "guest" */
};

struct persistence_world {
	struct fixture f;
	const struct persistence_kind *kind;
	const kata_persistence_ops *ops;
	void *self;
	void *priv; /* the kind's */
};

struct persistence_kind {
	const char *name;
	/* Sets ops and self: an empty store whose schema is made. The fixture has a context. */
	void (*open)(struct persistence_world *w);
	void (*close)(struct persistence_world *w);
	kata_record *(*make_record)(const struct record_wish *wish);
	void (*free_record)(kata_record *record);
};

#define PERSISTENCE_CONTRACT_CASES(X)                                                                                  \
	X(what_was_stored_is_loaded_to_the_byte)                                                                       \
	X(a_sandbox_with_nothing_in_it_is_kept_too)                                                                    \
	X(storing_again_replaces)                                                                                      \
	X(rows_that_went_away_are_gone_after_the_next_store)                                                           \
	X(rows_that_changed_places_come_back_in_their_new_order)                                                       \
	X(an_older_epoch_is_fenced_and_leaves_the_record)                                                              \
	X(a_greater_epoch_takes_over)                                                                                  \
	X(the_epoch_is_compared_and_set)                                                                               \
	X(loading_tells_the_epoch_of_now)                                                                              \
	X(an_id_is_reserved_once)                                                                                      \
	X(a_reserved_sandbox_is_listed_but_has_no_record)                                                              \
	X(a_reserved_sandbox_can_be_stored)                                                                            \
	X(what_is_not_there_is_not_found)                                                                              \
	X(removing_takes_the_containers_along_and_frees_the_id)                                                        \
	X(lists_are_in_order)                                                                                          \
	X(a_container_leads_to_its_sandbox)                                                                            \
	X(a_container_of_two_sandboxes_is_ambiguous)                                                                   \
	X(many_sandboxes_do_not_disturb_one_another)

#define PERSISTENCE_CONTRACT_DECLARE(name) void persistence_contract_##name(const struct persistence_kind *kind);
PERSISTENCE_CONTRACT_CASES(PERSISTENCE_CONTRACT_DECLARE)
#undef PERSISTENCE_CONTRACT_DECLARE
#endif
