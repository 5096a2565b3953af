/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/oom.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "agent.pb-c.h"
#include "base/fd.h"
#include "base/text.h"
#include "guest/cgroup.h"

struct watched {
	struct watched *next;
	int wd;
	char *id;
	char *cgroup;
	uint64_t kills;
};

struct oom {
	int fd;
	struct kata__watch *watch;
	struct watched *list;
	char events[OOM_EVENTS_MAX][KATA__ID_MAX + 1]; /* oldest first */
	size_t event_count;
	struct call *waiters[OOM_WAITERS_MAX];
	size_t waiter_count;
};

static void answer(struct call *call, const char *id)
{
	Grpc__OOMEvent r = GRPC__OOMEVENT__INIT;

	r.container_id = (char *)id;
	call_answer(call, &r);
}

static void tell(struct oom *oom, const char *id)
{
	if (oom->waiter_count > 0) {
		struct call *call = oom->waiters[0];

		memmove(oom->waiters, oom->waiters + 1, --oom->waiter_count * sizeof(struct call *));
		answer(call, id);
		return;
	}
	if (oom->event_count == OOM_EVENTS_MAX)
		memmove(oom->events[0], oom->events[1], sizeof(oom->events[0]) * --oom->event_count);
	snprintf(oom->events[oom->event_count++], sizeof(oom->events[0]), "%s", id);
}

static void look(struct oom *oom, struct watched *w)
{
	KATA_AUTO(free) char *text = cgroup_read_text(w->cgroup, "memory.events");
	uint64_t kills = text ? cgroup_text_number(text, "oom_kill") : w->kills;

	for (; w->kills < kills; w->kills++)
		tell(oom, w->id);
}

static void on_change(void *user, uint32_t events)
{
	struct oom *oom = user;
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));

	while (read(oom->fd, buf, sizeof(buf)) > 0)
		;
	for (struct watched *w = oom->list; w; w = w->next)
		look(oom, w);
}

int oom_new(struct kata__loop *loop, struct oom **ret, kata_error **err)
{
	struct oom *oom = calloc(1, sizeof(*oom));
	int rc;

	if (!oom)
		return kata__fail_no_memory(err);
	oom->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	rc = oom->fd < 0 ? kata__fail_errno(err, errno, "inotify")
			 : kata__watch_add(loop, oom->fd, EPOLLIN, on_change, oom, &oom->watch, err);
	if (rc != 0) {
		kata__close_fd(&oom->fd);
		free(oom);
		return rc;
	}
	*ret = oom;
	return 0;
}

static void watched_free(struct watched *w)
{
	free(w->id);
	free(w->cgroup);
	free(w);
}

void oom_watch(struct oom *oom, const char *container_id, const char *cgroup)
{
	struct watched *w = calloc(1, sizeof(*w));
	char path[PATH_MAX];

	if (!w)
		return;
	snprintf(path, sizeof(path), "%s/memory.events", cgroup);
	w->id = kata__strdup(container_id);
	w->cgroup = kata__strdup(cgroup);
	w->wd = w->id && w->cgroup ? inotify_add_watch(oom->fd, path, IN_MODIFY) : -1;
	if (w->wd < 0) {
		watched_free(w);
		return;
	}
	w->next = oom->list;
	oom->list = w;
}

void oom_unwatch(struct oom *oom, const char *container_id)
{
	struct watched **p = &oom->list;

	while (*p && strcmp((*p)->id, container_id) != 0)
		p = &(*p)->next;
	if (*p) {
		struct watched *w = *p;

		look(oom, w);
		*p = w->next;
		inotify_rm_watch(oom->fd, w->wd);
		watched_free(w);
	}
}

static void forget(struct call *call, void *user)
{
	struct oom *oom = user;
	size_t i = 0;

	while (oom->waiters[i] != call)
		i++;
	memmove(oom->waiters + i, oom->waiters + i + 1, (--oom->waiter_count - i) * sizeof(struct call *));
}

void oom_wait(struct oom *oom, struct call *call)
{
	char id[KATA__ID_MAX + 1];

	if (oom->event_count > 0) {
		memcpy(id, oom->events[0], sizeof(id));
		memmove(oom->events[0], oom->events[1], sizeof(oom->events[0]) * --oom->event_count);
		answer(call, id);
		return;
	}
	if (oom->waiter_count == OOM_WAITERS_MAX) {
		call_answer_code(call, KATA__GRPC_RESOURCE_EXHAUSTED, "%d calls wait for an event already",
				 OOM_WAITERS_MAX);
		return;
	}
	oom->waiters[oom->waiter_count++] = call;
	call_park(call, forget, oom);
}
