/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_SANDBOX_H
#define KATA_SANDBOX_SANDBOX_H
/*
 * The inside of kata_sandbox, shared by the files of this room.
 *
 * Model: a sandbox composes a VM, its agent and an in-memory table of containers. Everything that changes it runs on
 * the leader; what getters read from other threads is changed under the mutex, which is never held over a call into
 * another room that may wait.
 *
 * Invariants: 1. ops name containers and processes by id and look them up at each step, so a removed one is never
 * touched. 2. every op under way is linked in `ops` and holds a reference of the sandbox; pumps and wait calls hold
 * none and end with the sandbox.
 */
#include <kata/persistence.h>
#include <kata/sandbox.h>

#include <pthread.h>
#include <stdatomic.h>

#include "base/text.h"
#include "op/op.h"
#include "persist/record.h"
#include "vm/vm.h"

#define KATA__SANDBOX_MAGIC 0x53414e44u
#define KATA__SANDBOX_CONTAINERS_MAX 4096u
#define KATA__SANDBOX_PROCESSES_MAX 16384u
#define KATA__SANDBOX_ROUTES_MAX 1024u

struct kata__container;
struct kata__sandbox_op;

/* What was configured on a NIC in the guest. */
struct kata__sandbox_interface {
	char *nic_id;
	char *json;
	struct kata__sandbox_interface *next;
};

/* A storage that is being unplugged: containers may not name it any more. */
struct kata__sandbox_leaving {
	const char *id; /* of the op that unplugs it */
	struct kata__sandbox_leaving *next;
};

struct kata_sandbox {
	uint32_t magic;
	atomic_uint refs;
	kata_context *ctx;
	char id[KATA__ID_MAX + 1];
	char *hostname;
	char **dns;
	kata_vm *vm;                       /* referenced; set once */
	kata_agent_builder *agent_builder; /* the caller's, until the agent is connected; NULL: direct */

	/* [leader] */
	bool listening;    /* to the VM's end */
	bool suspended;    /* a release is under way: reads and waits of processes make no new call */
	bool taken_over;   /* by its record: the guest may have containers that a dead owner did not live to store */
	bool custom_agent; /* made by a builder of the caller's own, which is not at hand later */
	struct kata__sandbox_leaving *leaving;

	pthread_mutex_t mutex; /* for all below */
	kata_sandbox_state state;
	kata_agent *agent; /* referenced */
	char *agent_json;  /* what continues the agent, once released */
	uint64_t epoch;
	uint64_t generation;                /* of the record that it believes to be stored; 0: none */
	bool storing;                       /* a thread stores it just now */
	struct kata__record_undone *undone; /* plugs that were undone: what was reserved for them is free */
	size_t undone_count;
	int ended_fd;
	struct kata__sandbox_op *ops;
	uint32_t ops_active; /* of them, those that a release must not cut short */
	struct kata__container *containers;
	size_t container_count, process_count;
	struct kata__sandbox_interface *interfaces;
	json_t *routes; /* array or NULL */
};

/* ---- sandbox.c: object and states */

/* Hostname and DNS lines as options or a record (`of`) have them; NULL: none. `status` where they are not of their
 * form. */
int kata__sandbox_check_names(const char *of, int status, const char *hostname, const char *const *dns,
			      kata_error **err);
/* A sandbox around `vm` (NULL: set later by a rebuild) in `state`. id must be checked; hostname NULL: the id. */
int kata__sandbox_new(kata_context *ctx, const char *id, const char *hostname, const char *const *dns, kata_vm *vm,
		      kata_sandbox_state state, kata_sandbox **ret, kata_error **err);
/* NULL argument or something that is no sandbox: INVALID. */
int kata__sandbox_check(const kata_sandbox *s, kata_error **err);
/* sandbox, container_id and exec_id (may be NULL) as a public function got them. INVALID. */
int kata__sandbox_check_ids(const kata_sandbox *s, const char *container_id, const char *exec_id, kata_error **err);
/* [leader] Moves along the transition table, asserting it. */
void kata__sandbox_set_state(kata_sandbox *s, kata_sandbox_state state);
/* [leader] The same, where the state still is `from`: another op may have moved it on. */
bool kata__sandbox_move_state(kata_sandbox *s, kata_sandbox_state from, kata_sandbox_state to);
/* The mutex is held. STATE unless the current state is in the mask. */
int kata__sandbox_check_state(const kata_sandbox *s, uint32_t allowed, const char *function, kata_error **err);
#define KATA__IN(state) (1u << (state))
/* [leader] Takes the reference; NULL: there is none any more. */
void kata__sandbox_set_agent(kata_sandbox *s, kata_agent *take_agent);
/* [leader] Borrowed. GONE where there is none. */
int kata__sandbox_agent(kata_sandbox *s, kata_agent **ret_agent, kata_error **err);
/* [leader] Begins / ends to hear of the VM's end. */
int kata__sandbox_listen(kata_sandbox *s, kata_error **err);
void kata__sandbox_unlisten(kata_sandbox *s);
/* [leader] The VM ended or its agent was lost. */
void kata__sandbox_ended(kata_sandbox *s);
#endif
