/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_RECOVER_SCENE_H
#define KATA_TESTS_SUPPORT_RECOVER_SCENE_H
/*
 * Processes that drive machines with a record in a database, die, and are recovered from. They are forks of a test that
 * has no context and no thread; Criterion is not usable in them, so they say on a shared page what is wrong, and end
 * with 1.
 */
#include <kata/kata.h>

#include "support/fixture.h"

struct scene {
	struct fixture f;
	char *kernel, *initrd, *binary, *disk;
	uint64_t memory_mib; /* of a machine */
	struct scene_board {
		char problem[512];
		char record[65536];
		int64_t number; /* of the test's */
	} * board;
};

struct actor {
	struct scene *sc;
	kata_context *context;
	kata_vm_builder *builder;
	kata_persistence *p; /* a database of its own, "book.db" in the fixture's directory */
};

/* On the stand-in for QEMU, or on the real one with that guest. Skip the test where forks cannot be. */
void scene_init(struct scene *sc);
void scene_init_qemu(struct scene *sc, const char *kernel, const char *initrd);
void scene_deinit(struct scene *sc);
/* Runs fn in a child; its wait status. */
int scene_run(struct scene *sc, void (*fn)(struct scene *sc));
/* The child must have been killed; or ended by 0. */
void scene_assert_killed(struct scene *sc, int status, const char *what);
void scene_assert_ended(struct scene *sc, int status, const char *what);

/* In the children. */
void actor_open(struct actor *a, struct scene *sc);
void actor_open_without_p(struct actor *a, struct scene *sc); /* the persistence is the caller's to set */
void actor_close(struct actor *a);
kata_vm_config actor_config(struct actor *a, const char *id);
kata_vm *actor_start_vm(struct actor *a, const char *id);
/* Started and stored; sandbox, VM and record have that id. */
kata_sandbox *actor_start_sandbox(struct actor *a, const char *id);
void actor_reserve_storage(struct actor *a, const char *sandbox_id, const char *id);
kata_recover_report *actor_recover(struct actor *a, uint64_t flags);
/* The entry of that kind and id; SIZE_MAX: none. */
size_t actor_find(const kata_recover_report *report, const char *kind, const char *id);
void actor_must(struct actor *a, int rc, kata_error *err, const char *what);
void actor_want(struct actor *a, bool good, const char *what);
/* Each entry is attachable, or was undone. */
void actor_want_settled(struct actor *a, const kata_recover_report *report);
/* For scene_run: makes the caches and the database, so that a census does not count them. */
void scene_warm_up(struct scene *sc);

#define MUST(a, call)                                                                                                  \
	do {                                                                                                           \
		int rc_ = (call);                                                                                      \
		actor_must(a, rc_, err, #call);                                                                        \
	} while (0)
#endif
