/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_MOCK_GUEST_H
#define KATA_VM_MOCK_GUEST_H
/* What the simulated guest holds: containers, their processes, and the devices that they have mounted. */
#include "vm/mock/mock_process.h"

/* A device that something has mounted. */
struct kata__mock_mount {
	struct kata__mock_mount *next;
	char *kind; /* "blk", "scsi" */
	char *address;
};

struct kata__mock_container {
	struct kata__mock_container *next;
	char *id;
	bool paused;
	struct kata__mock_process *processes; /* the first is the init process */
	struct kata__mock_mount *mounts;
	uint64_t memory_limit;
	uint64_t calls; /* seen by this container: what its CPU time is counted by */
};

struct kata__mock_guest {
	struct kata__mock_container *containers;
	struct kata__mock_mount *mounts; /* of the sandbox */
	bool sandbox_created;
};

void kata__mock_guest_deinit(struct kata__mock_guest *g);
/* Kills and forgets every container and mount. */
void kata__mock_guest_clear(struct kata__mock_guest *g);
struct kata__mock_container *kata__mock_guest_find(const struct kata__mock_guest *g, const char *id);
/* Takes the init process. NULL when out of memory (the process is then freed). */
struct kata__mock_container *kata__mock_guest_add(struct kata__mock_guest *g, const char *id,
						  struct kata__mock_process *take_init);
void kata__mock_guest_remove(struct kata__mock_guest *g, struct kata__mock_container *c);
/* Lets every process run; an init process that has ended takes the others of its container with it. */
void kata__mock_guest_run(struct kata__mock_guest *g, uint64_t now_ns);
/* When a process wants to be run next. */
uint64_t kata__mock_guest_deadline(const struct kata__mock_guest *g);
/* False when out of memory. */
bool kata__mock_mount_add(struct kata__mock_mount **list, const char *kind, const char *address);
/* A device that is away takes its mounts with it; `is_there` is asked of each. */
void kata__mock_guest_lose_mounts(struct kata__mock_guest *g,
				  bool (*is_there)(void *user, const char *kind, const char *address), void *user);
bool kata__mock_guest_has_mounted(const struct kata__mock_guest *g, const char *kind, const char *address);

/* exec_id "" is the init process. */
struct kata__mock_process *kata__mock_container_find(const struct kata__mock_container *c, const char *exec_id);
/* An exec that has exited gives its id up to the next. */
void kata__mock_container_drop_exited(struct kata__mock_container *c, const char *exec_id);
void kata__mock_container_add(struct kata__mock_container *c, struct kata__mock_process *take_process);
void kata__mock_container_set_paused(struct kata__mock_container *c, bool paused);
uint32_t kata__mock_container_count_running(const struct kata__mock_container *c);
#endif
