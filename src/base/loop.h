/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_BASE_LOOP_H
#define KATA_BASE_LOOP_H
/*
 * The event loop of a context: fd watches, timers, functions posted from other threads, and a worker pool.
 *
 * Model: whoever runs the loop is its *leader*: the context's I/O thread, or with an external loop the thread that is
 * in kata_context_dispatch() or in a blocking call. Everything marked [leader] may be called by the leader alone, that
 * is from inside a callback of the loop. All callbacks run on the leader, one at a time, with no lock held. State that
 * only the leader touches needs no lock; state that a getter reads from another thread is kept under the object's own
 * mutex.
 *
 * Invariants: 1. a callback is never called after its watch or timer was removed. 2. removing from inside any callback
 * is allowed. 3. kata__loop_post never blocks and never runs the function in the caller.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct kata__loop;
struct kata__watch;
struct kata__timer;

/* External: no I/O thread is made. */
int kata__loop_new(bool external, unsigned max_workers, struct kata__loop **ret, kata_error **err);
/* Stops and joins the threads. Posted functions that have not run are run here first. */
void kata__loop_free(struct kata__loop *loop);

/* [leader] `events` are EPOLLIN/EPOLLOUT (EPOLLERR and EPOLLHUP always reported); level-triggered,
 * unless EPOLLET is among them. */
typedef void (*kata__watch_fn)(void *user, uint32_t events);
int kata__watch_add(struct kata__loop *loop, int fd, uint32_t events, kata__watch_fn fn, void *user,
		    struct kata__watch **ret, kata_error **err);
void kata__watch_set_events(struct kata__watch *w, uint32_t events); /* no syscall when unchanged */
void kata__watch_look_again(struct kata__watch *w); /* EPOLLET: what is ready now is reported once more */
void kata__watch_remove(struct kata__watch *w);     /* NULL is fine; before the fd is closed */
/* For what outlives the loop: frees a watch whose loop has been freed. NULL is fine. */
void kata__watch_free(struct kata__watch *w);

/* [leader] One-shot timer; frees itself after it fired. */
typedef void (*kata__timer_fn)(void *user);
int kata__timer_add(struct kata__loop *loop, uint64_t deadline_ns, kata__timer_fn fn, void *user,
		    struct kata__timer **ret, kata_error **err);
void kata__timer_remove(struct kata__timer *t); /* NULL is fine; never after it fired: keep the pointer NULLed in fn */

/* [any thread] Runs fn on the leader soon, in order of posting. The task is the caller's memory, embedded in its
 * object. */
struct kata__task {
	struct kata__task *next;
	void (*fn)(struct kata__task *task);
};
void kata__loop_post(struct kata__loop *loop, struct kata__task *task);

/* [any thread] Runs work(task) on a worker thread, then done(task) on the leader. Threads start when first needed. */
struct kata__work {
	struct kata__task task; /* internal */
	void (*work)(struct kata__work *work);
	void (*done)(struct kata__work *work);
};
int kata__loop_work(struct kata__loop *loop, struct kata__work *work, kata_error **err);

/* [any thread] True when the calling thread is leading right now. */
bool kata__loop_is_leader(const struct kata__loop *loop);
/* [any thread, external loop] Tries to become leader without waiting; true: kata__loop_unlead() must follow. With an
 * own I/O thread it is always false. Lets a blocking call do its first step without a hop. */
bool kata__loop_try_lead(struct kata__loop *loop);
void kata__loop_unlead(struct kata__loop *loop);

/* External loop: one round; waits at most timeout_ms (-1: until something happens, 0: never waits). */
int kata__loop_dispatch(struct kata__loop *loop, int timeout_ms, kata_error **err);
int kata__loop_get_fd(const struct kata__loop *loop);

/*
 * [any thread but the leader] Waits until *done (read with acquire) is true or the deadline passes; returns *done. With
 * an own I/O thread it sleeps; with an external loop it leads when nobody does. kata__loop_wake_waiters must follow
 * whenever such a flag was set. On the leader (a callback) it returns at once.
 */
bool kata__loop_wait(struct kata__loop *loop, const bool *done, uint64_t deadline_ns);
void kata__loop_wake_waiters(struct kata__loop *loop);
#endif
