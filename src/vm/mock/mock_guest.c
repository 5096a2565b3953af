/* SPDX-License-Identifier: Apache-2.0 */
/* mock_guest.c - lists, and the rules that hold between a container and its processes. */
#include "vm/mock/mock_guest.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

static struct kata__mock_mount *free_mount(struct kata__mock_mount *m)
{
	struct kata__mock_mount *next = m->next;

	free(m->kind);
	free(m->address);
	free(m);
	return next;
}

static void free_mounts(struct kata__mock_mount *m)
{
	while (m)
		m = free_mount(m);
}

static void free_container(struct kata__mock_container *c)
{
	while (c->processes) {
		struct kata__mock_process *next = c->processes->next;

		kata__mock_process_free(c->processes);
		c->processes = next;
	}
	free_mounts(c->mounts);
	free(c->id);
	free(c);
}

void kata__mock_guest_clear(struct kata__mock_guest *g)
{
	while (g->containers) {
		struct kata__mock_container *next = g->containers->next;

		free_container(g->containers);
		g->containers = next;
	}
	free_mounts(g->mounts);
	g->mounts = NULL;
	g->sandbox_created = false;
}

void kata__mock_guest_deinit(struct kata__mock_guest *g)
{
	kata__mock_guest_clear(g);
}

struct kata__mock_container *kata__mock_guest_find(const struct kata__mock_guest *g, const char *id)
{
	struct kata__mock_container *c = g->containers;

	while (c && strcmp(c->id, id) != 0)
		c = c->next;
	return c;
}

struct kata__mock_container *kata__mock_guest_add(struct kata__mock_guest *g, const char *id,
						  struct kata__mock_process *take_init)
{
	struct kata__mock_container *c = calloc(1, sizeof(*c));

	if (!c || !(c->id = kata__strdup(id))) {
		free(c);
		kata__mock_process_free(take_init);
		return NULL;
	}
	c->processes = take_init;
	c->next = g->containers;
	g->containers = c;
	return c;
}

void kata__mock_guest_remove(struct kata__mock_guest *g, struct kata__mock_container *c)
{
	struct kata__mock_container **at = &g->containers;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	free_container(c);
}

static void run_container(struct kata__mock_container *c, uint64_t now_ns)
{
	for (struct kata__mock_process *p = c->processes; p; p = p->next)
		kata__mock_process_run(p, now_ns);
	if (c->processes->state != KATA__MOCK_PROCESS_EXITED)
		return;
	for (struct kata__mock_process *p = c->processes->next; p; p = p->next)
		kata__mock_process_signal(p, SIGKILL);
}

void kata__mock_guest_run(struct kata__mock_guest *g, uint64_t now_ns)
{
	for (struct kata__mock_container *c = g->containers; c; c = c->next)
		run_container(c, now_ns);
}

uint64_t kata__mock_guest_deadline(const struct kata__mock_guest *g)
{
	uint64_t first = KATA__NEVER;

	for (const struct kata__mock_container *c = g->containers; c; c = c->next)
		for (const struct kata__mock_process *p = c->processes; p; p = p->next)
			if (!p->frozen && p->deadline_ns < first)
				first = p->deadline_ns;
	return first;
}

bool kata__mock_mount_add(struct kata__mock_mount **list, const char *kind, const char *address)
{
	struct kata__mock_mount *m = calloc(1, sizeof(*m));

	if (!m)
		return false;
	m->kind = kata__strdup(kind);
	m->address = kata__strdup(address);
	m->next = *list;
	*list = m;
	return m->kind && m->address;
}

static bool is_in(const struct kata__mock_mount *m, const char *kind, const char *address)
{
	for (; m; m = m->next)
		if (strcmp(m->kind, kind) == 0 && strcmp(m->address, address) == 0)
			return true;
	return false;
}

bool kata__mock_guest_has_mounted(const struct kata__mock_guest *g, const char *kind, const char *address)
{
	if (is_in(g->mounts, kind, address))
		return true;
	for (const struct kata__mock_container *c = g->containers; c; c = c->next)
		if (is_in(c->mounts, kind, address))
			return true;
	return false;
}

static void lose_mounts(struct kata__mock_mount **at, bool (*is_there)(void *, const char *, const char *), void *user)
{
	while (*at)
		if (is_there(user, (*at)->kind, (*at)->address))
			at = &(*at)->next;
		else
			*at = free_mount(*at);
}

void kata__mock_guest_lose_mounts(struct kata__mock_guest *g,
				  bool (*is_there)(void *user, const char *kind, const char *address), void *user)
{
	lose_mounts(&g->mounts, is_there, user);
	for (struct kata__mock_container *c = g->containers; c; c = c->next)
		lose_mounts(&c->mounts, is_there, user);
}

struct kata__mock_process *kata__mock_container_find(const struct kata__mock_container *c, const char *exec_id)
{
	struct kata__mock_process *p = c->processes;

	if (!*exec_id)
		return p;
	while (p && strcmp(p->id, exec_id) != 0)
		p = p->next;
	return p;
}

void kata__mock_container_drop_exited(struct kata__mock_container *c, const char *exec_id)
{
	for (struct kata__mock_process **at = &c->processes->next; *at; at = &(*at)->next) {
		struct kata__mock_process *p = *at;

		if (p->state != KATA__MOCK_PROCESS_EXITED || strcmp(p->id, exec_id) != 0)
			continue;
		*at = p->next;
		kata__mock_process_free(p);
		return;
	}
}

void kata__mock_container_add(struct kata__mock_container *c, struct kata__mock_process *take_process)
{
	struct kata__mock_process **at = &c->processes;

	while (*at)
		at = &(*at)->next;
	take_process->frozen = c->paused;
	*at = take_process;
}

void kata__mock_container_set_paused(struct kata__mock_container *c, bool paused)
{
	c->paused = paused;
	for (struct kata__mock_process *p = c->processes; p; p = p->next)
		p->frozen = paused;
}

uint32_t kata__mock_container_count_running(const struct kata__mock_container *c)
{
	uint32_t n = 0;

	for (const struct kata__mock_process *p = c->processes; p; p = p->next)
		n += p->state != KATA__MOCK_PROCESS_EXITED;
	return n;
}
