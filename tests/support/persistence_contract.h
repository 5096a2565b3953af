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
	uint64_t generation;
	int64_t base;                   /* generation that must stand there */
	const char *undone_storages[4]; /* whose plug was undone; ends with NULL */
};

struct persistence_world {
	struct fixture f;
	const struct persistence_kind *kind;
	const kata_persistence_ops *ops;
	void *self;
	kata_persistence *p; /* around ops and self; freeing it leaves them */
	void *priv;          /* the kind's */
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

/* The same for what an implementation may leave out: reservations, rows, infos. */
#define PERSISTENCE_CONTRACT_MORE_CASES(X)                                                                             \
	X(a_store_on_another_generation_is_diverged_and_leaves_the_record)                                             \
	X(a_store_on_whatever_stands_there_replaces_it)                                                                \
	X(a_store_of_what_is_no_more_there_is_diverged)                                                                \
	X(taking_over_keeps_the_generation)                                                                            \
	X(a_reservation_needs_its_sandbox)                                                                             \
	X(a_reservation_is_an_intent_until_its_device_is_stored)                                                       \
	X(a_plug_that_was_undone_settles_its_reservation)                                                              \
	X(a_device_that_went_away_gives_its_reservation_up)                                                            \
	X(what_is_reserved_is_taken)                                                                                   \
	X(names_in_other_networks_may_be_shared)                                                                       \
	X(an_intent_is_settled_by_hand_once)                                                                           \
	X(reservations_go_with_their_sandbox)                                                                          \
	X(reservations_are_listed_in_order)                                                                            \
	X(a_row_is_read_back_as_it_was_put)                                                                            \
	X(rows_are_listed_by_what_they_belong_to)                                                                      \
	X(a_row_needs_what_it_belongs_to_and_keeps_it)                                                                 \
	X(of_several_who_move_a_row_one_does)                                                                          \
	X(networks_go_with_their_sandbox)                                                                              \
	X(infos_say_what_the_records_say)                                                                              \
	X(infos_come_in_pages)

/* For the cases. */
void persistence_world_up(struct persistence_world *w, const struct persistence_kind *kind);
void persistence_world_down(struct persistence_world *w);
int persistence_store(struct persistence_world *w, const struct record_wish *wish);
void persistence_assert_holds(struct persistence_world *w, const struct record_wish *wish);

#define PERSISTENCE_CONTRACT_DECLARE(name) void persistence_contract_##name(const struct persistence_kind *kind);
PERSISTENCE_CONTRACT_CASES(PERSISTENCE_CONTRACT_DECLARE)
PERSISTENCE_CONTRACT_MORE_CASES(PERSISTENCE_CONTRACT_DECLARE)
#undef PERSISTENCE_CONTRACT_DECLARE
#endif
