/* SPDX-License-Identifier: Apache-2.0 */
/*
 * container.c - containers' lives. Each verb is a chain of callbacks:
 *     create: storages mounted -> crun create -> answered           remove: all killed -> init exited, execs done ->
 *     start, pause, resume, update: crun -> answered                        crun delete -> storages released ->
 * answered
 */
#include "guest/container.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "guest/cgroup.h"
#include "guest/container_spec.h"
#include "guest/kmsg.h"
#include "guest/oom.h"
#include "proto/oci.h"

struct containers {
	struct guest *guest;
	struct container *list;
	size_t count;
	void (*when_none)(void *user);
	void *when_none_user;
};

static void remove_next(struct container *c);
static void removed(void *user);

const char *container_state_name(enum container_state state)
{
	static const char *const names[] = {"creating", "created", "running", "paused", "stopped", "being removed"};

	return names[state];
}

/* ---- the table */

int containers_new(struct guest *guest, struct containers **ret, kata_error **err)
{
	struct containers *containers = calloc(1, sizeof(*containers));

	if (!containers)
		return kata__fail_no_memory(err);
	containers->guest = guest;
	*ret = containers;
	return 0;
}

struct container *containers_find(const struct containers *containers, const char *id)
{
	struct container *c = containers->list;

	while (c && strcmp(c->id, id) != 0)
		c = c->next;
	return c;
}

struct container *containers_first(const struct containers *containers)
{
	return containers->list;
}

static void container_free(struct container *c)
{
	struct containers *containers = c->containers;
	struct container **p = &containers->list;
	void (*when_none)(void *user) = containers->when_none;

	while (*p && *p != c)
		p = &(*p)->next;
	if (*p) {
		*p = c->next;
		containers->count--;
	}
	while (c->processes) {
		struct process *next = c->processes->next;

		process_free(c->processes);
		c->processes = next;
	}
	if (c->bundle)
		kata__remove_tree(c->bundle, NULL);
	if (c->cgroup)
		oom_unwatch(containers->guest->oom, c->id);
	free(c->bundle);
	free(c->cgroup);
	free(c->text);
	free(c->id);
	free(c);
	if (containers->count == 0 && when_none) {
		containers->when_none = NULL;
		when_none(containers->when_none_user);
	}
}

struct process *container_process(const struct container *c, const char *exec_id)
{
	struct process *p = c->processes;

	while (p && strcmp(p->exec_id, exec_id) != 0)
		p = p->next;
	return p;
}

static struct process *init_of(const struct container *c)
{
	return container_process(c, c->id);
}

static void add_process(struct container *c, struct process *p)
{
	p->next = c->processes;
	c->processes = p;
	c->process_count++;
}

static void drop_process(struct container *c, struct process *p)
{
	struct process **at = &c->processes;

	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	c->process_count--;
	process_free(p);
}

/* ---- verbs */

static void forget_call(struct call *call, void *user)
{
	((struct container *)user)->call = NULL;
}

static void hold_call(struct container *c, struct call *call)
{
	c->call = call;
	c->is_busy = true;
	call_park(call, forget_call, c);
}

/* Answers whoever asked for the verb under way; takes err. */
static void answer_verb(struct container *c, kata_error *err)
{
	struct call *call = c->call;

	c->call = NULL;
	if (!call) {
		if (err)
			kmsg_error("container %s: %s", c->id, kata_error_get_message(err));
		kata_error_free(err);
		return;
	}
	if (err)
		call_answer_error(call, &err);
	else
		call_answer(call, NULL);
}

static void end_verb(struct container *c, kata_error *err)
{
	c->is_busy = false;
	answer_verb(c, err);
	if (c->wants_removal)
		remove_next(c);
}

/* False: refused, and the call answered. `permitted` is a bit for each state. */
static bool may(struct container *c, struct call *call, const char *verb, unsigned permitted)
{
	if (c->is_busy || c->wants_removal) {
		call_answer_code(call, KATA__GRPC_FAILED_PRECONDITION,
				 "container %s: cannot %s while another call works on it", c->id, verb);
		return false;
	}
	if (!(permitted & 1u << c->state)) {
		call_answer_code(call, KATA__GRPC_FAILED_PRECONDITION, "container %s: cannot %s, it is %s", c->id, verb,
				 container_state_name(c->state));
		return false;
	}
	return true;
}

static void verb_done(void *user, const struct runtime_result *result)
{
	struct container *c = user;

	if (!result->err && c->state != CONTAINER_STOPPED) {
		c->before_verb = c->state;
		c->state = c->after_verb;
	}
	end_verb(c, result->err);
}

static void begin_verb(struct container *c, struct call *call, enum runtime_verb verb, enum container_state after)
{
	kata_error *err = NULL;

	hold_call(c, call);
	c->after_verb = after;
	if (runtime_do(c->containers->guest->runtime, verb, c->id, verb_done, c, &err) != 0)
		end_verb(c, err);
}

/* That it was started is told apart: a caller whose first answer was lost asks again. */
void container_start(struct container *c, struct call *call)
{
	if (!c->is_busy && (c->state == CONTAINER_RUNNING || c->state == CONTAINER_PAUSED))
		call_answer_code(call, KATA__GRPC_ALREADY_EXISTS, "container %s: was started already, it is %s", c->id,
				 container_state_name(c->state));
	else if (may(c, call, "start", 1u << CONTAINER_CREATED))
		begin_verb(c, call, RUNTIME_START, CONTAINER_RUNNING);
}

void container_pause(struct container *c, struct call *call)
{
	if (may(c, call, "pause", 1u << CONTAINER_CREATED | 1u << CONTAINER_RUNNING))
		begin_verb(c, call, RUNTIME_PAUSE, CONTAINER_PAUSED);
}

void container_resume(struct container *c, struct call *call)
{
	if (may(c, call, "resume", 1u << CONTAINER_PAUSED))
		begin_verb(c, call, RUNTIME_RESUME, c->before_verb);
}

void container_update(struct container *c, struct call *call, const Grpc__LinuxResources *resources)
{
	KATA_AUTO(free) char *text = NULL;
	kata_error *err = NULL;
	int rc;

	if (!may(c, call, "update", 1u << CONTAINER_CREATED | 1u << CONTAINER_RUNNING | 1u << CONTAINER_PAUSED))
		return;
	rc = resources ? kata__oci_resources_to_json(resources, &text, NULL, &err)
		       : kata__fail(&err, KATA_E_INVALID, CALLER, "resources: missing");
	if (rc != 0) {
		call_answer_error(call, &err);
		return;
	}
	hold_call(c, call);
	c->after_verb = c->state;
	if (runtime_update(c->containers->guest->runtime, c->id, text, verb_done, c, &err) != 0)
		end_verb(c, err);
}

/* ---- create */

static void on_init_exit(void *user)
{
	struct container *c = user;

	if (c->state != CONTAINER_REMOVING)
		c->state = CONTAINER_STOPPED;
	if (c->wants_removal)
		remove_next(c);
}

static void create_failed(struct container *c, kata_error *err)
{
	struct storage_set *set = c->storages;

	c->storages = NULL;
	c->is_busy = false;
	c->state = CONTAINER_REMOVING;
	answer_verb(c, err);
	storage_set_release(c->containers->guest->storages, set, removed, c);
}

static void find_cgroup(struct container *c, pid_t pid)
{
	char path[PATH_MAX];

	if (cgroup_of_process(pid, path, sizeof(path)))
		c->cgroup = kata__strdup(path);
	if (c->cgroup)
		oom_watch(c->containers->guest->oom, c->id, c->cgroup);
}

static void after_failed_create(void *user, const struct runtime_result *result)
{
	kata_error_free(result->err);
}

static void created(void *user, const struct runtime_result *result)
{
	struct container *c = user;
	kata_error *err = result->err;

	if (!err && process_ran(init_of(c), result, &err) == 0) {
		find_cgroup(c, result->pid);
		c->state = CONTAINER_CREATED;
		end_verb(c, NULL);
		return;
	}
	/* A create that failed half-way may have left its state behind. */
	runtime_do(c->containers->guest->runtime, RUNTIME_DELETE, c->id, after_failed_create, NULL, NULL);
	create_failed(c, err);
}

static int write_config(struct container *c, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/config.json", c->bundle);
	KATA_AUTO_FD int fd = -1;
	size_t len = strlen(c->text);
	int rc = kata__mkdirs(c->bundle, 0700, err);

	if (rc != 0)
		return rc;
	fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
	if (fd < 0 || write(fd, c->text, len) != (ssize_t)len)
		return kata__fail_errno(err, errno, "cannot write %s/config.json", c->bundle);
	free(kata__take_ptr(c->text));
	return 0;
}

static int run_create(struct container *c, kata_error **err)
{
	struct guest *guest = c->containers->guest;
	struct runtime_stdio stdio;
	struct process *init;
	int rc = write_config(c, err);

	if (rc != 0 || (rc = process_new(guest->loop, guest->children, c->id, c->terminal, &init, &stdio, err)) != 0)
		return rc;
	init->on_exit = on_init_exit;
	init->on_exit_user = c;
	add_process(c, init);
	rc = runtime_create(guest->runtime, c->id, c->bundle, &stdio, created, c, err);
	process_close_stdio(&stdio);
	return rc;
}

static void storages_ready(void *user, struct storage_set *set, kata_error *err)
{
	struct container *c = user;

	c->storages = set;
	if (err || run_create(c, &err) != 0)
		create_failed(c, err);
}

static int container_new(struct containers *containers, const Grpc__CreateContainerRequest *q, struct container **ret,
			 kata_error **err)
{
	struct container *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return kata__fail_no_memory(err);
	c->containers = containers;
	c->id = kata__strdup(q->container_id);
	c->bundle = kata__format(CONTAINERS_DIR "/%s", q->container_id);
	rc = c->id && c->bundle ? container_spec_text(q->oci, &c->text, err) : kata__fail_no_memory(err);
	if (rc != 0) {
		free(c->id);
		free(c->bundle);
		free(c);
		return rc;
	}
	c->terminal = q->oci->process->terminal;
	*ret = c;
	return 0;
}

static int create_begin(struct containers *containers, struct call *call, const Grpc__CreateContainerRequest *q,
			kata_error **err)
{
	struct container *c = NULL;
	int rc = container_id_check(q->container_id, err);

	if (rc != 0)
		return rc;
	if (containers_find(containers, q->container_id))
		return kata__fail(err, KATA_E_EXISTS, CALLER, "container_id: there is a container '%s' already",
				  q->container_id);
	if (containers->count >= CONTAINERS_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "there are %d containers, no more are possible",
				  CONTAINERS_MAX);
	if (q->n_devices > 0 || q->n_shared_mounts > 0)
		return kata__fail(err, KATA_E_UNSUPPORTED, CALLER, "%s: this agent does not do that",
				  q->n_devices ? "devices" : "shared_mounts");
	if ((rc = container_new(containers, q, &c, err)) != 0)
		return rc;
	rc = storages_mount(containers->guest->storages, q->storages, q->n_storages, storages_ready, c, err);
	if (rc != 0) {
		container_free(c);
		return rc;
	}
	c->next = containers->list;
	containers->list = c;
	containers->count++;
	hold_call(c, call);
	return 0;
}

void container_create(struct containers *containers, struct call *call, const Grpc__CreateContainerRequest *request)
{
	kata_error *err = NULL;

	if (create_begin(containers, call, request, &err) != 0)
		call_answer_error(call, &err);
}

/* ---- exec */

struct exec {
	struct container *container;
	struct process *process;
	struct call *call;
};

static void forget_exec(struct call *call, void *user)
{
	((struct exec *)user)->call = NULL;
}

static void exec_done(void *user, const struct runtime_result *result)
{
	struct exec *e = user;
	struct container *c = e->container;
	kata_error *err = result->err;

	c->starting_count--;
	if (!err)
		process_ran(e->process, result, &err);
	if (err)
		drop_process(c, e->process);
	if (e->call) {
		if (err)
			call_answer_error(e->call, &err);
		else
			call_answer(e->call, NULL);
	}
	kata_error_free(err);
	free(e);
	if (c->wants_removal)
		remove_next(c);
}

/* An exec id may be used again once its process is over; past the cap the spent ones go. */
static int make_room(struct container *c, const char *exec_id, kata_error **err)
{
	struct process *old = container_process(c, exec_id);

	if (old && !(process_is_spent(old) && old != init_of(c)))
		return kata__fail(err, KATA_E_EXISTS, CALLER, "exec_id '%.64s' already exists in container %s", exec_id,
				  c->id);
	for (struct process *p = c->processes; !old && c->process_count >= CONTAINER_PROCESSES_MAX && p; p = p->next)
		if (process_is_spent(p) && p != init_of(c))
			old = p; /* the last one found is the oldest */
	if (old)
		drop_process(c, old);
	if (c->process_count >= CONTAINER_PROCESSES_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "container %s has %d processes", c->id,
				  CONTAINER_PROCESSES_MAX);
	return 0;
}

static int run_exec(struct container *c, struct exec *e, const Grpc__ExecProcessRequest *q, kata_error **err)
{
	struct guest *guest = c->containers->guest;
	KATA_AUTO(free) char *text = NULL;
	struct runtime_stdio stdio;
	int rc;

	if (!q->process)
		return kata__fail(err, KATA_E_INVALID, CALLER, "process: missing");
	if ((rc = kata__id_check("exec_id", q->exec_id, err)) != 0 || (rc = make_room(c, q->exec_id, err)) != 0 ||
	    (rc = kata__oci_process_to_json(q->process, &text, NULL, err)) != 0 ||
	    (rc = process_new(guest->loop, guest->children, q->exec_id, q->process->terminal, &e->process, &stdio,
			      err)) != 0)
		return rc;
	add_process(c, e->process);
	rc = runtime_exec(guest->runtime, c->id, text, &stdio, exec_done, e, err);
	process_close_stdio(&stdio);
	if (rc != 0)
		drop_process(c, e->process);
	return rc;
}

void container_exec(struct container *c, struct call *call, const Grpc__ExecProcessRequest *request)
{
	struct exec *e;
	kata_error *err = NULL;

	if (c->wants_removal || (c->state != CONTAINER_RUNNING && c->state != CONTAINER_CREATED)) {
		call_answer_code(call, KATA__GRPC_FAILED_PRECONDITION, "container %s: cannot execute in it, it is %s",
				 c->id, container_state_name(c->state));
		return;
	}
	e = calloc(1, sizeof(*e));
	if (!e) {
		call_answer_code(call, KATA__GRPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	*e = (struct exec){.container = c, .call = call};
	if (run_exec(c, e, request, &err) != 0) {
		free(e);
		call_answer_error(call, &err);
		return;
	}
	c->starting_count++;
	call_park(call, forget_exec, e);
}

/* ---- remove */

int container_kill_all(const struct container *c)
{
	struct process *init = init_of(c);

	if (c->cgroup)
		return cgroup_kill(c->cgroup);
	return init ? process_signal(init, true, SIGKILL) : -ESRCH;
}

static void forget_remove(struct call *call, void *user)
{
	((struct container *)user)->remove_call = NULL;
}

static void removed(void *user)
{
	struct container *c = user;
	struct call *call = c->remove_call;

	container_free(c);
	if (call)
		call_answer(call, NULL);
}

static void deleted(void *user, const struct runtime_result *result)
{
	struct container *c = user;
	struct storage_set *set = c->storages;

	if (result->err)
		kmsg_error("container %s: %s", c->id, kata_error_get_message(result->err));
	kata_error_free(result->err);
	c->storages = NULL;
	storage_set_release(c->containers->guest->storages, set, removed, c);
}

/* Comes here after everything that a removal waits for. */
static void remove_next(struct container *c)
{
	struct process *init = init_of(c);
	struct runtime_result nothing = {.terminal_fd = -1};

	if (c->is_busy || c->state == CONTAINER_REMOVING)
		return;
	if (init && init->state == PROCESS_RUNNING) {
		container_kill_all(c);
		return; /* on_init_exit() */
	}
	if (c->starting_count > 0)
		return; /* exec_done() */
	c->state = CONTAINER_REMOVING;
	if (runtime_do(c->containers->guest->runtime, RUNTIME_DELETE, c->id, deleted, c, &nothing.err) != 0)
		deleted(c, &nothing);
}

void container_remove(struct container *c, struct call *call)
{
	if (c->remove_call) {
		call_answer_code(call, KATA__GRPC_FAILED_PRECONDITION, "container %s is being removed", c->id);
		return;
	}
	c->remove_call = call;
	call_park(call, forget_remove, c);
	if (c->wants_removal)
		return;
	c->wants_removal = true;
	remove_next(c);
}

void containers_remove_all(struct containers *containers, void (*fn)(void *user), void *user)
{
	struct container *c = containers->list;

	containers->when_none = fn;
	containers->when_none_user = user;
	if (!c) {
		containers->when_none = NULL;
		fn(user);
	}
	while (c) {
		struct container *next = c->next;

		if (!c->wants_removal) {
			c->wants_removal = true;
			remove_next(c);
		}
		c = next;
	}
}
