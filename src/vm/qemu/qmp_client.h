/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_QEMU_QMP_CLIENT_H
#define KATA_VM_QEMU_QMP_CLIENT_H
/*
 * A QMP connection on a context's loop: commands with ids, many in flight, each with its own reply function; events
 * handed over as they come; file descriptors passed in order with the command that needs them.
 *
 *   open --> greeting, capabilities --> ready --> broken (hang-up, garbage, a line too long) --> close
 *
 * Invariants: 1. every command accepted by execute gets its reply function called exactly once: with the value, with
 * QEMU's error, or with the error that broke the connection. 2. nothing here ever blocks: what the socket does not take
 * is queued up to a cap. 3. events are never kept: a flood costs time of the peer's making, no memory. 4. any callback
 * may close. It does not time out (the operations do) and does not reconnect: open another one. [leader] all of it.
 */
#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"
#include "base/loop.h"

#define KATA__QMP_IN_FLIGHT_MAX 1024u
#define KATA__QMP_OUT_MAX (2u * 1024u * 1024u) /* bytes queued for a QEMU that does not read */

struct kata__qmp;

struct kata__qmp_handler {
	/* data is borrowed and may be NULL. */
	void (*on_event)(void *user, const char *name, const json_t *data);
	/* Once, after every command in flight has got its error. Not after a close. */
	void (*on_broken)(void *user, const kata_error *err);
};

/* Success: take_err is NULL and value is borrowed; NULL stands for {}. Failure: take_err is the callee's. QEMU's own
 * errors have the status VMM. */
typedef void (*kata__qmp_reply_fn)(void *user, const json_t *value, kata_error *take_err);

/* Takes the connected socket (also on failure). ready is called once as the reply to qmp_capabilities: the connection
 * can be used from then on (commands executed before are queued behind it). */
int kata__qmp_open(struct kata__loop *loop, int take_fd, const struct kata__qmp_handler *handler, void *user,
		   kata__qmp_reply_fn ready, void *ready_user, struct kata__qmp **ret, kata_error **err);
/* Commands in flight end with a copy of `why` (NULL: GONE). A NULL q is fine. */
void kata__qmp_close(struct kata__qmp *q, const kata_error *why);
bool kata__qmp_is_broken(const struct kata__qmp *q);
/* Major, minor, micro of the greeting; zeros before it. */
const unsigned *kata__qmp_get_version(const struct kata__qmp *q);
size_t kata__qmp_in_flight(const struct kata__qmp *q);
pid_t kata__qmp_peer(const struct kata__qmp *q); /* who listens at its other end: as kata__unix_peer */

/*
 * Sends a command. Takes take_args (NULL: none), also on failure. fd (-1: none) stays the caller's; it goes with the
 * command's first byte. On failure (GONE, EXHAUSTED) reply is not called.
 */
int kata__qmp_execute(struct kata__qmp *q, const char *command, json_t *take_args, int fd, kata__qmp_reply_fn reply,
		      void *user, kata_error **err);
#endif
