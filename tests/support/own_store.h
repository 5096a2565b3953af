/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_OWN_STORE_H
#define KATA_TESTS_SUPPORT_OWN_STORE_H
/* kata_persistence_ops as a user of the library would write them, in memory and by public functions only. */
#include <kata/driver/persistence.h>

struct own_entry;
struct own_row;

struct own_store {
	struct own_entry *first; /* in order of ids */
	struct own_row *rows;
	int frees;
};

/* `self` is a struct own_store, zero at first; freeing empties it and counts. */
extern const kata_persistence_ops own_store_ops;
#endif
