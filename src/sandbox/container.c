/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of containers and processes, and the one wait for each process's exit.
 *
 * Invariants: 1. a process has at most one WaitProcess in flight, and none while an open stdout or stderr has not
 * ended. 2. a waiter is on the list of exactly one process until its op is resumed or removes it.
 */
#include "sandbox/container.h"

#include <string.h>

#include "base/text.h"
#include "sandbox/stdio.h"

/* ---- finding */

struct kata__container *kata__container_find(kata_sandbox *s, const char *id)
{
	for (struct kata__container *c = s->containers; c; c = c->next)
		if (strcmp(c->id, id) == 0)
			return c;
	return NULL;
}

struct kata__process *kata__process_find(struct kata__container *c, const char *exec_id)
{
	for (struct kata__process *p = c->processes; p; p = p->next)
		if (!exec_id || strcmp(p->exec_id, exec_id) == 0)
			return p;
	return NULL;
}

int kata__container_get(kata_sandbox *s, const char *id, struct kata__container **ret, kata_error **err)
{
	struct kata__container *c = kata__container_find(s, id);

	if (!c || !c->visible)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "container '%s' is not in sandbox '%s'", id, s->id);
	*ret = c;
	return 0;
}

int kata__process_get(kata_sandbox *s, const char *container_id, const char *exec_id, struct kata__process **ret,
		      kata_error **err)
{
	struct kata__container *c;
	struct kata__process *p;
	int rc = kata__container_get(s, container_id, &c, err);

	if (rc < 0)
		return rc;
	p = kata__process_find(c, exec_id);
	if (!p || !p->visible)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "process '%s' is not in container '%s'", exec_id,
				  container_id);
	*ret = p;
	return 0;
}

int kata__container_check_unused(kata_sandbox *s, const char *storage_id, kata_error **err)
{
	for (struct kata__container *c = s->containers; c; c = c->next)
		for (char **id = c->storages; id && *id; id++)
			if (strcmp(*id, storage_id) == 0)
				return kata__fail(
					err, KATA_E_BUSY, CALLER,
					"storage '%s' is in use by container '%s' of sandbox '%s': remove that "
					"first",
					storage_id, c->id, s->id);
	return 0;
}

/* ---- making */

static struct kata__process *process_new(kata_sandbox *s, const char *container_id, const char *exec_id, bool terminal)
{
	struct kata__process *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->sandbox = s;
	snprintf(p->container_id, sizeof(p->container_id), "%s", container_id);
	snprintf(p->exec_id, sizeof(p->exec_id), "%s", exec_id);
	p->terminal = terminal;
	p->exit_status = -1;
	return p;
}

static int check_room(const kata_sandbox *s, kata_error **err)
{
	if (s->container_count >= KATA__SANDBOX_CONTAINERS_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER,
				  "sandbox '%s' has %u containers, the most there may be", s->id,
				  KATA__SANDBOX_CONTAINERS_MAX);
	if (s->process_count >= KATA__SANDBOX_PROCESSES_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "sandbox '%s' has %u processes, the most there may be",
				  s->id, KATA__SANDBOX_PROCESSES_MAX);
	return 0;
}

static void link_container(kata_sandbox *s, struct kata__container *c)
{
	struct kata__container **end = &s->containers;

	pthread_mutex_lock(&s->mutex);
	while (*end)
		end = &(*end)->next;
	*end = c;
	s->container_count++;
	s->process_count++;
	pthread_mutex_unlock(&s->mutex);
}

int kata__container_reserve(kata_sandbox *s, const char *id, const char *const *storages, bool terminal,
			    struct kata__container **ret, kata_error **err)
{
	struct kata__container *c;
	int rc = check_room(s, err);

	if (rc < 0)
		return rc;
	if (kata__container_find(s, id))
		return kata__fail(err, KATA_E_EXISTS, CALLER, "container '%s' is in sandbox '%s' already", id, s->id);
	c = calloc(1, sizeof(*c));
	if (!c)
		return kata__fail_no_memory(err);
	snprintf(c->id, sizeof(c->id), "%s", id);
	c->storages = storages ? kata__strv_dup(storages) : NULL;
	c->processes = process_new(s, id, id, terminal);
	if (!c->processes || (storages && !c->storages)) {
		kata__strv_free(c->storages);
		free(c->processes);
		free(c);
		return kata__fail_no_memory(err);
	}
	link_container(s, c);
	*ret = c;
	return 0;
}

/* Forgets the oldest exited execs beyond the number that is kept. */
static void prune(kata_sandbox *s, struct kata__container *c)
{
	size_t exited = 0;

	for (struct kata__process *p = c->processes->next; p; p = p->next)
		exited += p->exit_known;
	for (struct kata__process *p = c->processes->next, *next; p && exited > KATA__CONTAINER_EXITED_EXECS_MAX;
	     p = next) {
		next = p->next;
		if (!p->exit_known || p->pumps[KATA__STDIN] || p->pumps[KATA__STDOUT] || p->pumps[KATA__STDERR])
			continue;
		kata__process_forget(s, c, p);
		exited--;
	}
}

int kata__process_reserve(kata_sandbox *s, struct kata__container *c, const char *exec_id, bool terminal,
			  struct kata__process **ret, kata_error **err)
{
	struct kata__process *p, **end = &c->processes;
	int rc;

	prune(s, c);
	rc = check_room(s, err);
	if (rc < 0)
		return rc;
	if (kata__process_find(c, exec_id))
		return kata__fail(err, KATA_E_EXISTS, CALLER, "process '%s' is in container '%s' already", exec_id,
				  c->id);
	p = process_new(s, c->id, exec_id, terminal);
	if (!p)
		return kata__fail_no_memory(err);
	pthread_mutex_lock(&s->mutex);
	while (*end)
		end = &(*end)->next;
	*end = p;
	s->process_count++;
	pthread_mutex_unlock(&s->mutex);
	*ret = p;
	return 0;
}

void kata__container_show(kata_sandbox *s, struct kata__container *c)
{
	pthread_mutex_lock(&s->mutex);
	c->visible = true;
	c->processes->visible = true;
	pthread_mutex_unlock(&s->mutex);
}

void kata__process_show(struct kata__process *p, kata_process_state state)
{
	pthread_mutex_lock(&p->sandbox->mutex);
	p->visible = true;
	p->state = state;
	pthread_mutex_unlock(&p->sandbox->mutex);
}

void kata__process_set_state(struct kata__process *p, kata_process_state state)
{
	pthread_mutex_lock(&p->sandbox->mutex);
	p->state = state;
	pthread_mutex_unlock(&p->sandbox->mutex);
}

void kata__container_set_state(kata_sandbox *s, struct kata__container *c, kata_process_state from,
			       kata_process_state to)
{
	pthread_mutex_lock(&s->mutex);
	for (struct kata__process *p = c->processes; p; p = p->next)
		if (p->state == from)
			p->state = to;
	pthread_mutex_unlock(&s->mutex);
}

/* ---- forgetting */

/* Answers every waiter: status 0 (error NULL), or the error, copied for each. */
static void answer_waiters(struct kata__process *p, const kata_error *error)
{
	while (p->waiters) {
		struct kata__waiter *w = p->waiters;

		p->waiters = w->next;
		w->process = NULL;
		w->exit_status = p->exit_status;
		kata__op_resume(w->op, w->token, error ? kata_error_get_status(error) : 0, kata__error_dup(error));
	}
}

static void end_process(struct kata__process *p, int status, const char *why)
{
	kata_error *error = NULL;

	for (size_t i = 0; i < kata__array_size(p->pumps); i++) {
		kata__pump_close(p->pumps[i]);
		p->pumps[i] = NULL;
	}
	kata__call_drop(p->wait_call);
	p->wait_call = NULL;
	if (!p->waiters)
		return;
	kata__error_set(&error, KATA__BIRTH, status, KATA_ORIGIN_GUEST, 0, "process '%s' of container '%s': %s",
			p->exec_id, p->container_id, why);
	answer_waiters(p, error);
	kata_error_free(error);
}

void kata__process_forget(kata_sandbox *s, struct kata__container *c, struct kata__process *p)
{
	struct kata__process **link = &c->processes;

	end_process(p, KATA_E_NOT_FOUND, "it was removed");
	pthread_mutex_lock(&s->mutex);
	while (*link != p)
		link = &(*link)->next;
	*link = p->next;
	s->process_count--;
	pthread_mutex_unlock(&s->mutex);
	free(p);
}

void kata__container_forget(kata_sandbox *s, struct kata__container *c)
{
	struct kata__container **link = &s->containers;

	pthread_mutex_lock(&s->mutex);
	while (*link != c)
		link = &(*link)->next;
	*link = c->next;
	s->container_count--;
	pthread_mutex_unlock(&s->mutex);
	while (c->processes)
		kata__process_forget(s, c, c->processes);
	kata__strv_free(c->storages);
	free(c);
}

void kata__containers_free(kata_sandbox *s)
{
	while (s->containers)
		kata__container_forget(s, s->containers);
}

static void for_each_process(kata_sandbox *s, void (*fn)(struct kata__process *p))
{
	for (struct kata__container *c = s->containers; c; c = c->next)
		for (struct kata__process *p = c->processes; p; p = p->next)
			fn(p);
}

static void stop(struct kata__process *p)
{
	end_process(p, KATA_E_GONE, "the sandbox ended or was released before it exited");
}

void kata__containers_stop(kata_sandbox *s)
{
	for_each_process(s, stop);
}

/* What was in flight went down with the connection, even where that has not been delivered yet. */
static void drop_calls(struct kata__process *p)
{
	kata__call_drop(p->wait_call);
	p->wait_call = NULL;
	for (size_t i = 0; i < kata__array_size(p->pumps); i++)
		if (p->pumps[i])
			kata__pump_drop_call(p->pumps[i]);
}

static void resume(struct kata__process *p)
{
	for (size_t i = 0; i < kata__array_size(p->pumps); i++)
		if (p->pumps[i])
			kata__pump_resume(p->pumps[i]);
	kata__process_poll(p);
}

void kata__containers_suspend(kata_sandbox *s)
{
	s->suspended = true;
}

void kata__containers_resume(kata_sandbox *s, bool reconnected)
{
	s->suspended = false;
	if (reconnected)
		for_each_process(s, drop_calls);
	for_each_process(s, resume);
}

/* ---- waiting */

static void exited(struct kata__process *p, int32_t status)
{
	pthread_mutex_lock(&p->sandbox->mutex);
	p->exit_known = true;
	p->exit_status = status;
	p->state = KATA_PROCESS_EXITED;
	pthread_mutex_unlock(&p->sandbox->mutex);
	kata__pump_close(p->pumps[KATA__STDIN]);
	p->pumps[KATA__STDIN] = NULL;
	answer_waiters(p, NULL);
}

static void wait_answered(void *user, const kata_agent_reply *reply, const kata_error *error)
{
	struct kata__process *p = user;

	p->wait_call = NULL;
	if (reply)
		exited(p, reply->exit_status);
	else if (!p->sandbox->suspended)
		answer_waiters(p, error);
}

static int ask(struct kata__process *p, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_WAIT_PROCESS};
	kata_agent *agent;
	int rc;

	if (!p->waiters || p->wait_call || p->sandbox->suspended || p->pumps[KATA__STDOUT] || p->pumps[KATA__STDERR])
		return 0;
	request.container_id = p->container_id;
	request.exec_id = p->exec_id;
	rc = kata__sandbox_agent(p->sandbox, &agent, err);
	if (rc == 0)
		rc = kata__call_begin(agent, &request, wait_answered, p, &p->wait_call, err);
	return rc;
}

void kata__process_poll(struct kata__process *p)
{
	kata_error *error = NULL;

	if (ask(p, &error) < 0)
		answer_waiters(p, error);
	kata_error_free(error);
}

int kata__process_add_waiter(struct kata__process *p, struct kata__waiter *w, kata_error **err)
{
	int rc;

	w->next = p->waiters;
	w->process = p;
	p->waiters = w;
	rc = ask(p, err);
	if (rc < 0)
		kata__waiter_remove(w);
	return rc;
}

void kata__waiter_remove(struct kata__waiter *w)
{
	if (!w->process)
		return;
	for (struct kata__waiter **link = &w->process->waiters; *link; link = &(*link)->next)
		if (*link == w) {
			*link = w->next;
			break;
		}
	w->process = NULL;
}
