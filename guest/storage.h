/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_STORAGE_H
#define KATA_GUEST_STORAGE_H
/*
 * Storages: what the agent mounts in the guest before a container sees it.
 *
 * A storage is known by its mount point and counted: containers (and the sandbox) that name the same one share it, and
 * it is unmounted with the last of them. A set is what one of them holds; its storages are mounted in order, off the
 * loop, each disk being awaited by its address. A set that fails is undone before its failure is told.
 */
#include "agent.pb-c.h"
#include "base/error.h"
#include "base/loop.h"
#include "guest/device_wait.h"
#include "guest/runtime.h"

#define STORAGE_SET_MAX 64
#define STORAGES_MAX 1024

struct storages;
struct storage_set;

int storages_new(struct kata__loop *loop, struct device_waits *waits, struct runtime *runtime, uint32_t timeout_ms,
		 struct storages **ret, kata_error **err);

/* set: the callee's, to be given back with storage_set_release(); NULL with an error, the callee's too. */
typedef void (*storage_set_mounted_fn)(void *user, struct storage_set *set, kata_error *err);
/* Checks every storage first (INVALID names the one that is wrong: "storages[1].driver: ..."), then begins; mounted()
 * is called later, on the loop. An empty list is a set as well. */
int storages_mount(struct storages *storages, Grpc__Storage *const *list, size_t count, storage_set_mounted_fn mounted,
		   void *user, kata_error **err);
/* Lets go of the set; released() (may be NULL) is called once what nobody else holds is unmounted. NULL set: at once.
 */
void storage_set_release(struct storages *storages, struct storage_set *set, void (*released)(void *user), void *user);
#endif
