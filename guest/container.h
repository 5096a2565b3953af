/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_CONTAINER_H
#define KATA_GUEST_CONTAINER_H
/*
 * Containers: what the runtime made, from its storages to its processes.
 *
 *   CREATING --> CREATED --start--> RUNNING <--pause/resume--> PAUSED
 *      | failed     |                  |                         |      init exits: STOPPED
 *      v            +-------remove-----+-------------------------+----> REMOVING --> (gone)
 *    (gone)
 *
 * One verb of the runtime is under way on a container at a time: another is refused meanwhile, but a removal waits for
 * it. Execs run beside it. When the host leaves, what it set going goes on; the outcome shows in the container's state.
 */
#include "agent.pb-c.h"
#include "guest/guest.h"
#include "guest/process.h"
#include "guest/storage.h"

#define CONTAINERS_MAX 512
#define CONTAINER_PROCESSES_MAX 256
#define CONTAINERS_DIR "/run/kata-containers"

enum container_state {
	CONTAINER_CREATING,
	CONTAINER_CREATED,
	CONTAINER_RUNNING,
	CONTAINER_PAUSED,
	CONTAINER_STOPPED,
	CONTAINER_REMOVING,
};

struct container {
	struct container *next;
	struct containers *containers;
	enum container_state state;
	char *id;
	char *bundle;
	char *cgroup;  /* directory; NULL when it has none of its own */
	char *text;    /* config.json, while it is being created */
	bool terminal; /* of init */
	bool is_busy;  /* a verb is under way */
	enum container_state after_verb, before_verb;
	struct storage_set *storages;
	struct process *processes; /* init is the one whose exec id is the container's id */
	size_t process_count, starting_count;
	struct call *call;        /* that asked for the verb under way; NULL when its host left */
	struct call *remove_call; /* likewise for the removal */
	bool wants_removal;
};

int containers_new(struct guest *guest, struct containers **ret, kata_error **err);
struct container *containers_find(const struct containers *containers, const char *id);
/* The list, in no order; NULL when there is none. */
struct container *containers_first(const struct containers *containers);
/* Kills and removes all of them; fn is called when there is none left, at once if so. */
void containers_remove_all(struct containers *containers, void (*fn)(void *user), void *user);

/* These answer the call, now or later. */
void container_create(struct containers *containers, struct call *call, const Grpc__CreateContainerRequest *request);
void container_start(struct container *c, struct call *call);
void container_pause(struct container *c, struct call *call);
void container_resume(struct container *c, struct call *call);
void container_update(struct container *c, struct call *call, const Grpc__LinuxResources *resources);
void container_remove(struct container *c, struct call *call);
void container_exec(struct container *c, struct call *call, const Grpc__ExecProcessRequest *request);

/* NULL when there is no such process. */
struct process *container_process(const struct container *c, const char *exec_id);
/* Every process of the container. 0 or -errno. */
int container_kill_all(const struct container *c);
const char *container_state_name(enum container_state state);
#endif
