/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reaper.c - children that were let go. Whoever takes a released machine over may end it, but only its parent can reap
 * it; so as long as this process lives and has the context, it keeps the pidfd and reaps. One fd a released child.
 */
#include "vm/qemu/machine.h"

#include <stdlib.h>
#include <sys/epoll.h>

#include "base/fd.h"

#define KEY "qemu-reaper"

struct orphan {
	struct orphan *next;
	struct reaper *reaper;
	int pidfd;
	struct kata__watch *watch;
};

struct reaper {
	struct orphan *first;
};

static void free_orphan(struct orphan *o)
{
	kata__watch_remove(o->watch);
	kata__close_fd(&o->pidfd);
	free(o);
}

static void free_reaper(void *value)
{
	struct reaper *r = value;

	while (r->first) {
		struct orphan *o = r->first;

		r->first = o->next;
		kata__watch_free(kata__take_ptr(o->watch)); /* the loop has gone */
		free_orphan(o);
	}
	free(r);
}

static void on_exit_seen(void *user, uint32_t events)
{
	struct orphan *o = user;
	int status;

	if (!kata__process_try_reap(o->pidfd, &status))
		return;
	for (struct orphan **at = &o->reaper->first; *at; at = &(*at)->next) {
		if (*at != o)
			continue;
		*at = o->next;
		break;
	}
	free_orphan(o);
}

static struct reaper *get_reaper(kata_context *ctx)
{
	struct reaper *r = kata__context_get_extra(ctx, KEY);

	if (r)
		return r;
	r = calloc(1, sizeof(*r));
	if (r && kata__context_set_extra(ctx, KEY, r, free_reaper, NULL)) {
		free(r);
		r = NULL;
	}
	return r;
}

/* Out of memory: the zombie stays until this process ends. */
void kata__qemu_reap_later(kata_context *ctx, int take_pidfd)
{
	struct reaper *r = get_reaper(ctx);
	struct orphan *o = r ? calloc(1, sizeof(*o)) : NULL;

	if (!o) {
		kata__close_fd(&take_pidfd);
		return;
	}
	*o = (struct orphan){.reaper = r, .pidfd = take_pidfd};
	if (kata__watch_add(kata__context_loop(ctx), o->pidfd, EPOLLIN, on_exit_seen, o, &o->watch, NULL)) {
		free_orphan(o);
		return;
	}
	o->next = r->first;
	r->first = o;
}
