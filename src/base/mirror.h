/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_BASE_MIRROR_H
#define KATA_BASE_MIRROR_H
/*
 * What there is to see of a disk or NIC in a VM: written by the leader of the VM that plugs it, read from any thread,
 * under a mutex of its own (a leaf: no other lock is taken under it). Invariant: address and size are set exactly while
 * the device is not NEW or PLUGGING; a NIC has no size.
 */
#include <kata/storage.h>

#include <pthread.h>

#include "base/json.h"

struct kata__mirror {
	pthread_mutex_t mutex;
	kata_device_state state;
	char address[16];
	uint64_t size_bytes;
	bool has_size;
};

void kata__mirror_init(struct kata__mirror *m, bool has_size);
void kata__mirror_deinit(struct kata__mirror *m);

kata_device_state kata__mirror_get_state(const struct kata__mirror *m);
/* As snprintf. */
size_t kata__mirror_get_address(const struct kata__mirror *m, char *buf, size_t buf_size);
uint64_t kata__mirror_get_size_bytes(const struct kata__mirror *m);

/* BUSY, naming the device ("storage", "NIC"; its id), when it is not NEW. */
int kata__mirror_begin_plug(struct kata__mirror *m, const char *noun, const char *id, kata_error **err);
void kata__mirror_set_state(struct kata__mirror *m, kata_device_state state);
void kata__mirror_set_plugged(struct kata__mirror *m, const char *address, uint64_t size_bytes);

/* Members of released JSON: "state", and while it is plugged "address", and "size_bytes" where it has one. -1: no
 * memory.
 */
int kata__mirror_to_json(const struct kata__mirror *m, json_t *o);
/* CORRUPT, naming the member of `what`. */
int kata__mirror_from_json(struct kata__mirror *m, const json_t *o, const char *what, kata_error **err);
#endif
