/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_CONTAINER_H
#define KATA_SANDBOX_CONTAINER_H
/*
 * The containers of a sandbox and their processes, in memory. A container is in the table from the moment its id is
 * reserved; `visible` once the guest has it. The first process is its init process and has the container's id.
 *
 * A process's exit status is fetched from the guest once, by one WaitProcess for all who wait, and kept. That call is
 * made only while somebody waits and no open stdout or stderr is short of its end: a Kata agent throws unread output
 * away when it answers the wait. Leader only, but for what says [mutex]: those read under the sandbox's mutex.
 */
#include "sandbox/call.h"
#include "sandbox/sandbox.h"

#define KATA__CONTAINER_EXITED_EXECS_MAX 256u /* exited execs whose status is kept, the latest */

enum kata__stream { KATA__STDIN = 0, KATA__STDOUT = 1, KATA__STDERR = 2 };

struct kata__pump;
struct kata__waiter;

struct kata__process {
	kata_sandbox *sandbox; /* borrowed */
	char container_id[KATA__ID_MAX + 1];
	char exec_id[KATA__ID_MAX + 1];
	bool visible, terminal;
	kata_process_state state; /* [mutex] */
	int32_t exit_status;      /* [mutex] valid once EXITED and known; else -1 */
	bool exit_known;
	struct kata__call *wait_call;
	struct kata__waiter *waiters;
	struct kata__pump *pumps[3];
	struct kata__process *next; /* [mutex] */
};

struct kata__container {
	char id[KATA__ID_MAX + 1];
	bool visible;                    /* [mutex] */
	char **storages;                 /* [mutex] */
	struct kata__process *processes; /* [mutex] first: init */
	struct kata__container *next;    /* [mutex] in order of making */
};

/* Somebody who waits for a process to exit; lies in his op's data. */
struct kata__waiter {
	kata_op *op; /* borrowed: the op lives while it waits */
	uint64_t token;
	struct kata__process *process; /* while it is on its list, else NULL */
	int32_t exit_status;           /* the answer, where it is resumed without an error */
	struct kata__waiter *next;
};

struct kata__container *kata__container_find(kata_sandbox *s, const char *id);
struct kata__process *kata__process_find(struct kata__container *c, const char *exec_id);
/* Both by id; exec_id NULL: init. NOT_FOUND unless visible. */
int kata__process_get(kata_sandbox *s, const char *container_id, const char *exec_id, struct kata__process **ret,
		      kata_error **err);
int kata__container_get(kata_sandbox *s, const char *id, struct kata__container **ret, kata_error **err);

/* Reserve an id, invisible. EXISTS, EXHAUSTED. `storages` is copied (NULL: none). */
int kata__container_reserve(kata_sandbox *s, const char *id, const char *const *storages, bool terminal,
			    struct kata__container **ret, kata_error **err);
int kata__process_reserve(kata_sandbox *s, struct kata__container *c, const char *exec_id, bool terminal,
			  struct kata__process **ret, kata_error **err);
void kata__container_show(kata_sandbox *s, struct kata__container *c);
void kata__process_show(struct kata__process *p, kata_process_state state);
/* Ends pumps and the wait call, fails the waiters with NOT_FOUND, frees. */
void kata__container_forget(kata_sandbox *s, struct kata__container *c);
void kata__process_forget(kata_sandbox *s, struct kata__container *c, struct kata__process *p);
void kata__container_set_state(kata_sandbox *s, struct kata__container *c, kata_process_state from,
			       kata_process_state to);
void kata__process_set_state(struct kata__process *p, kata_process_state state);
/* BUSY where a container (visible or not) names the storage. */
int kata__container_check_unused(kata_sandbox *s, const char *storage_id, kata_error **err);

/* Waiting. An added waiter is resumed once, unless it is removed first. The add fails where the guest cannot be asked.
 */
int kata__process_add_waiter(struct kata__process *p, struct kata__waiter *w, kata_error **err);
void kata__waiter_remove(struct kata__waiter *w); /* does nothing when it is on no list */
/* Makes the WaitProcess call if it is time; where it cannot be made, the waiters are told. */
void kata__process_poll(struct kata__process *p);

/*
 * A release begins: no new calls are made, and one that ends with an error is forgotten. Calls in flight are not
 * dropped: a dropped read would take its data along. It failed: everything goes on, with calls made anew where the
 * agent has been `reconnected`.
 */
void kata__containers_suspend(kata_sandbox *s);
void kata__containers_resume(kata_sandbox *s, bool reconnected);
/* The guest is gone or not ours any more: pumps closed, wait calls dropped, waiters failed with GONE. The table stays.
 */
void kata__containers_stop(kata_sandbox *s);
void kata__containers_free(kata_sandbox *s);
#endif
