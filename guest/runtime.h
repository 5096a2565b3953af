/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_RUNTIME_H
#define KATA_GUEST_RUNTIME_H
/*
 * The OCI runtime in the guest, behind a narrow seam: runtime_crun.c runs Debian's crun; a runtime in process would
 * implement the same functions. Signals, statistics and waiting are not here: a container is a cgroup and processes of
 * ours, and the agent deals with those itself.
 *
 * Every function starts something and returns; done() is called once, on the loop, later. Where a function fails,
 * done() is not called. Ids are checked by the caller.
 */
#include <sys/types.h>

#include "base/error.h"
#include "guest/child.h"

#define RUNTIME_JOBS_MAX 256

struct runtime;

struct runtime_result {
	pid_t pid;       /* of the process that create and exec made, a child of ours by now; claim it; else 0 */
	int terminal_fd; /* its terminal's master, the callee's, where one was asked for; else -1 */
	kata_error *err; /* the callee's; NULL: it worked */
};
typedef void (*runtime_done_fn)(void *user, const struct runtime_result *result);

struct runtime_stdio {
	bool terminal; /* then fds are not used */
	int fds[3];    /* borrowed: the process gets copies */
};

int runtime_new(struct kata__loop *loop, struct children *children, struct runtime **ret, kata_error **err);
/* `bundle` has a config.json. The process waits for runtime_start. */
int runtime_create(struct runtime *rt, const char *id, const char *bundle, const struct runtime_stdio *stdio,
		   runtime_done_fn done, void *user, kata_error **err);
/* process_json: `process` of the OCI runtime spec. */
int runtime_exec(struct runtime *rt, const char *id, const char *process_json, const struct runtime_stdio *stdio,
		 runtime_done_fn done, void *user, kata_error **err);
int runtime_update(struct runtime *rt, const char *id, const char *resources_json, runtime_done_fn done, void *user,
		   kata_error **err);

enum runtime_verb {
	RUNTIME_START,
	RUNTIME_PAUSE,
	RUNTIME_RESUME,
	RUNTIME_DELETE, /* by force: whatever state it is in */
};
int runtime_do(struct runtime *rt, enum runtime_verb verb, const char *id, runtime_done_fn done, void *user,
	       kata_error **err);
/* Runs fn once no job is under way (now, if so): until then jobs hold copies of our mounts. False when too many wait.
 */
bool runtime_when_idle(struct runtime *rt, void (*fn)(void *user), void *user);
#endif
