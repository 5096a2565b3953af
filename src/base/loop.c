/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop: epoll, a heap of timers, a queue of posted tasks, waiters.
 *
 * The leader's state is one of
 *     IDLE     nobody leads (external loop between dispatches)
 *     BUSY     the leader runs callbacks; it looks at the queue again before it sleeps or leaves
 *     POLLING  the leader sleeps in epoll_wait
 * A post writes the eventfd unless the loop is BUSY, so a leader's own posts cost no system call.
 *
 * Invariants: 1. `state`, `leader`, the queue and the waiter count are under `lock`; all else is the leader's. 2. a
 * dead watch is freed only after the batch of events that may still name it. 3. a timer is in the heap until it fires
 * or is removed. With an external loop the epoll fd is what the caller polls; a timerfd in it stands for the earliest
 * timer. It may be armed too early (a removed timer), never too late.
 */
#include "base/loop.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/workers.h"

enum loop_state { LOOP_IDLE, LOOP_BUSY, LOOP_POLLING };

struct kata__watch {
	struct kata__loop *loop;
	int fd;
	uint32_t events;
	kata__watch_fn fn; /* NULL: dead, waits to be freed */
	void *user;
	struct kata__watch *next_dead;
};

struct kata__timer {
	struct kata__loop *loop;
	uint64_t deadline;
	kata__timer_fn fn;
	void *user;
	size_t index; /* in the heap */
};

struct kata__loop {
	int epoll_fd;
	int wake_fd;
	int timer_fd;         /* external loops only, else -1 */
	uint64_t timer_armed; /* what timer_fd is set to; KATA__NEVER */
	bool external;
	pthread_t thread; /* own I/O thread */
	struct kata__workers *workers;

	struct kata__watch *dead;
	struct kata__timer **heap;
	size_t heap_len, heap_alloc;

	pthread_mutex_t lock; /* leaf lock: nothing else is taken under it */
	pthread_cond_t cond;  /* waiters: something is done, or the lead is free */
	struct kata__task *first, **last;
	enum loop_state state;
	unsigned long leader; /* pthread_t; 0: none. Written under lock, read atomically */
	unsigned waiters;
	bool stopping;
};

static unsigned long self(void)
{
	return (unsigned long)pthread_self();
}

bool kata__loop_is_leader(const struct kata__loop *loop)
{
	return __atomic_load_n(&loop->leader, __ATOMIC_RELAXED) == self();
}

static void wake(struct kata__loop *loop)
{
	uint64_t one = 1;

	/* Cannot fail but for a full counter, which wakes as well. */
	(void)!write(loop->wake_fd, &one, sizeof(one));
}

static void drain(int fd)
{
	uint64_t count;

	(void)!read(fd, &count, sizeof(count));
}

/* ---- watches ---- */

int kata__watch_add(struct kata__loop *loop, int fd, uint32_t events, kata__watch_fn fn, void *user,
		    struct kata__watch **ret, kata_error **err)
{
	struct kata__watch *w = calloc(1, sizeof(*w));
	struct epoll_event ev = {.events = events, .data.ptr = w};

	if (!w)
		return kata__fail_no_memory(err);
	w->loop = loop;
	w->fd = fd;
	w->events = events;
	w->fn = fn;
	w->user = user;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		int rc = kata__fail_errno(err, errno, "cannot watch fd %d", fd);

		free(w);
		return rc;
	}
	*ret = w;
	return 0;
}

void kata__watch_set_events(struct kata__watch *w, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = w};

	if (w->events == events)
		return;
	w->events = events;
	epoll_ctl(w->loop->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev);
}

void kata__watch_look_again(struct kata__watch *w)
{
	struct epoll_event ev = {.events = w->events, .data.ptr = w};

	epoll_ctl(w->loop->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev);
}

void kata__watch_remove(struct kata__watch *w)
{
	if (!w)
		return;
	epoll_ctl(w->loop->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	w->fn = NULL;
	w->next_dead = w->loop->dead;
	w->loop->dead = w;
}

void kata__watch_free(struct kata__watch *w)
{
	free(w);
}

static void free_dead(struct kata__loop *loop)
{
	while (loop->dead) {
		struct kata__watch *w = loop->dead;

		loop->dead = w->next_dead;
		free(w);
	}
}

/* ---- timers: a binary heap ---- */

static void heap_set(struct kata__loop *loop, size_t i, struct kata__timer *t)
{
	loop->heap[i] = t;
	t->index = i;
}

static void sift_up(struct kata__loop *loop, size_t i)
{
	struct kata__timer *t = loop->heap[i];

	while (i && loop->heap[(i - 1) / 2]->deadline > t->deadline) {
		heap_set(loop, i, loop->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	heap_set(loop, i, t);
}

static void sift_down(struct kata__loop *loop, size_t i)
{
	struct kata__timer *t = loop->heap[i];

	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= loop->heap_len)
			break;
		if (child + 1 < loop->heap_len && loop->heap[child + 1]->deadline < loop->heap[child]->deadline)
			child++;
		if (loop->heap[child]->deadline >= t->deadline)
			break;
		heap_set(loop, i, loop->heap[child]);
		i = child;
	}
	heap_set(loop, i, t);
}

int kata__timer_add(struct kata__loop *loop, uint64_t deadline_ns, kata__timer_fn fn, void *user,
		    struct kata__timer **ret, kata_error **err)
{
	struct kata__timer *t;

	if (loop->heap_len == loop->heap_alloc) {
		size_t alloc = loop->heap_alloc ? loop->heap_alloc * 2 : 16;
		struct kata__timer **heap = realloc(loop->heap, alloc * sizeof(*heap));

		if (!heap)
			return kata__fail_no_memory(err);
		loop->heap = heap;
		loop->heap_alloc = alloc;
	}
	t = malloc(sizeof(*t));
	if (!t)
		return kata__fail_no_memory(err);
	*t = (struct kata__timer){.loop = loop, .deadline = deadline_ns, .fn = fn, .user = user};
	heap_set(loop, loop->heap_len++, t);
	sift_up(loop, t->index);
	*ret = t;
	return 0;
}

void kata__timer_remove(struct kata__timer *t)
{
	struct kata__loop *loop;
	size_t i;

	if (!t)
		return;
	loop = t->loop;
	i = t->index;
	loop->heap_len--;
	if (i < loop->heap_len) {
		heap_set(loop, i, loop->heap[loop->heap_len]);
		sift_down(loop, i);
		sift_up(loop, loop->heap[i]->index);
	}
	free(t);
}

static void fire_timers(struct kata__loop *loop)
{
	uint64_t now;

	if (!loop->heap_len)
		return;
	now = kata__now_ns();
	while (loop->heap_len && loop->heap[0]->deadline <= now) {
		struct kata__timer *t = loop->heap[0];
		kata__timer_fn fn = t->fn;
		void *user = t->user;

		kata__timer_remove(t);
		fn(user);
	}
}

/* For who polls the epoll fd: never later than the earliest timer. */
static void arm_timer_fd(struct kata__loop *loop)
{
	uint64_t earliest = loop->heap_len ? loop->heap[0]->deadline : KATA__NEVER;
	struct itimerspec spec = {0};

	if (loop->timer_fd < 0 || earliest >= loop->timer_armed)
		return;
	spec.it_value.tv_sec = (time_t)(earliest / 1000000000u);
	spec.it_value.tv_nsec = (long)(earliest % 1000000000u) + !earliest; /* all zero would switch it off */
	if (timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL) == 0)
		loop->timer_armed = earliest;
}

/* ---- tasks ---- */

void kata__loop_post(struct kata__loop *loop, struct kata__task *task)
{
	bool must_wake;

	task->next = NULL;
	pthread_mutex_lock(&loop->lock);
	__atomic_store_n(loop->last, task, __ATOMIC_RELAXED); /* for the look that run_tasks takes */
	loop->last = &task->next;
	must_wake = loop->state != LOOP_BUSY;
	pthread_mutex_unlock(&loop->lock);
	if (must_wake)
		wake(loop);
}

/* The look without the lock may miss what is being posted: poll_timeout and kata__loop_unlead look again with it. */
static bool run_tasks(struct kata__loop *loop)
{
	struct kata__task *task;

	if (!__atomic_load_n(&loop->first, __ATOMIC_RELAXED))
		return false;
	pthread_mutex_lock(&loop->lock);
	task = loop->first;
	__atomic_store_n(&loop->first, NULL, __ATOMIC_RELAXED);
	loop->last = &loop->first;
	pthread_mutex_unlock(&loop->lock);
	if (!task)
		return false;
	while (task) {
		struct kata__task *next = task->next;

		task->fn(task);
		task = next;
	}
	return true;
}

int kata__loop_work(struct kata__loop *loop, struct kata__work *work, kata_error **err)
{
	return kata__workers_submit(loop->workers, work, err);
}

/* ---- one round ---- */

static void handle(struct kata__loop *loop, const struct epoll_event *ev)
{
	if (ev->data.ptr == &loop->wake_fd) {
		drain(loop->wake_fd);
	} else if (ev->data.ptr == &loop->timer_fd) {
		drain(loop->timer_fd);
		loop->timer_armed = KATA__NEVER;
	} else {
		struct kata__watch *w = ev->data.ptr;

		if (w->fn)
			w->fn(w->user, ev->events);
	}
}

/* How long until the next timer. A timerfd that is set early enough ends the sleep by itself; being set rarely, it
 * costs less than a timeout that the kernel sets up and takes down in every round. */
static int timers_left_ms(struct kata__loop *loop)
{
	arm_timer_fd(loop);
	if (!loop->heap_len || (loop->timer_fd >= 0 && loop->timer_armed <= loop->heap[0]->deadline))
		return -1;
	return kata__deadline_left_ms(loop->heap[0]->deadline);
}

/* Goes to sleep only if nothing was posted meanwhile. */
static int poll_timeout(struct kata__loop *loop, int timeout_ms)
{
	int left = timers_left_ms(loop);

	if (timeout_ms >= 0 && (left < 0 || timeout_ms < left))
		left = timeout_ms;
	pthread_mutex_lock(&loop->lock);
	if (loop->first)
		left = 0;
	else if (left != 0)
		loop->state = LOOP_POLLING;
	pthread_mutex_unlock(&loop->lock);
	return left;
}

static void set_busy(struct kata__loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	loop->state = LOOP_BUSY;
	pthread_mutex_unlock(&loop->lock);
}

/* Tasks post tasks (an op's next step): run them in this round, but let the fds have their turn at last. */
static bool run_tasks_settled(struct kata__loop *loop)
{
	bool any = false;

	for (int i = 0; i < 64 && run_tasks(loop); i++)
		any = true;
	return any;
}

static void round_once(struct kata__loop *loop, int timeout_ms)
{
	struct epoll_event events[32];
	int n, timeout;

	if (run_tasks_settled(loop))
		timeout_ms = 0;
	timeout = poll_timeout(loop, timeout_ms);
	n = epoll_wait(loop->epoll_fd, events, (int)(sizeof(events) / sizeof(events[0])), timeout);
	if (timeout != 0)
		set_busy(loop);
	for (int i = 0; i < n; i++)
		handle(loop, &events[i]);
	fire_timers(loop);
	run_tasks_settled(loop);
	free_dead(loop);
}

/* ---- leading ---- */

static bool lead_locked(struct kata__loop *loop)
{
	if (loop->leader)
		return false;
	__atomic_store_n(&loop->leader, self(), __ATOMIC_RELAXED);
	loop->state = LOOP_BUSY;
	return true;
}

bool kata__loop_try_lead(struct kata__loop *loop)
{
	bool ok;

	if (!loop->external)
		return false;
	pthread_mutex_lock(&loop->lock);
	ok = lead_locked(loop);
	pthread_mutex_unlock(&loop->lock);
	return ok;
}

void kata__loop_unlead(struct kata__loop *loop)
{
	bool more;

	free_dead(loop);
	arm_timer_fd(loop);
	pthread_mutex_lock(&loop->lock);
	__atomic_store_n(&loop->leader, 0, __ATOMIC_RELAXED);
	loop->state = LOOP_IDLE;
	more = loop->first != NULL;
	if (loop->waiters)
		pthread_cond_broadcast(&loop->cond);
	pthread_mutex_unlock(&loop->lock);
	if (more)
		wake(loop);
}

/* With loop->lock held: sleeps on the condition until woken or the deadline. */
static void sleep_locked(struct kata__loop *loop, uint64_t deadline_ns)
{
	struct timespec ts = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
			      .tv_nsec = (long)(deadline_ns % 1000000000u)};

	loop->waiters++;
	if (deadline_ns == KATA__NEVER)
		pthread_cond_wait(&loop->cond, &loop->lock);
	else
		pthread_cond_clockwait(&loop->cond, &loop->lock, CLOCK_MONOTONIC, &ts);
	loop->waiters--;
}

static bool is_set(const bool *done)
{
	return __atomic_load_n(done, __ATOMIC_ACQUIRE);
}

bool kata__loop_wait(struct kata__loop *loop, const bool *done, uint64_t deadline_ns)
{
	if (kata__loop_is_leader(loop))
		return is_set(done);
	kata__workers_begin_wait(loop->workers);
	pthread_mutex_lock(&loop->lock);
	while (!is_set(done) && kata__deadline_left_ms(deadline_ns) != 0) {
		if (loop->external && lead_locked(loop)) {
			pthread_mutex_unlock(&loop->lock);
			while (!is_set(done) && kata__deadline_left_ms(deadline_ns) != 0)
				round_once(loop, kata__deadline_left_ms(deadline_ns));
			kata__loop_unlead(loop);
			pthread_mutex_lock(&loop->lock);
		} else {
			sleep_locked(loop, deadline_ns);
		}
	}
	pthread_mutex_unlock(&loop->lock);
	kata__workers_end_wait(loop->workers);
	return is_set(done);
}

void kata__loop_wake_waiters(struct kata__loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	if (loop->waiters)
		pthread_cond_broadcast(&loop->cond);
	pthread_mutex_unlock(&loop->lock);
}

int kata__loop_dispatch(struct kata__loop *loop, int timeout_ms, kata_error **err)
{
	bool lead;

	if (!loop->external)
		return kata__fail(err, KATA_E_STATE, CALLER,
				  "this context has its own I/O thread: nothing to dispatch");
	if (kata__loop_is_leader(loop))
		return kata__fail(err, KATA_E_STATE, CALLER, "dispatch was called from a callback of the library");
	pthread_mutex_lock(&loop->lock);
	lead = lead_locked(loop);
	if (!lead && timeout_ms != 0) /* a blocking call of another thread leads: what there is to do, it does */
		sleep_locked(loop, timeout_ms < 0 ? KATA__NEVER : kata__deadline_in_ms((uint64_t)timeout_ms));
	pthread_mutex_unlock(&loop->lock);
	if (!lead)
		return 0;
	round_once(loop, timeout_ms);
	kata__loop_unlead(loop);
	return 0;
}

int kata__loop_get_fd(const struct kata__loop *loop)
{
	return loop->epoll_fd;
}

/* ---- life ---- */

static void *io_thread(void *arg)
{
	struct kata__loop *loop = arg;

	for (;;) {
		bool stop;

		pthread_mutex_lock(&loop->lock);
		stop = loop->stopping && !loop->first;
		pthread_mutex_unlock(&loop->lock);
		if (stop)
			return NULL;
		round_once(loop, -1);
	}
}

/* A thread of the library handles no signal of the caller's. */
static int start_thread(struct kata__loop *loop, kata_error **err)
{
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_mutex_lock(&loop->lock);
	rc = pthread_create(&loop->thread, NULL, io_thread, loop);
	if (!rc) {
		pthread_setname_np(loop->thread, "kata-io");
		__atomic_store_n(&loop->leader, (unsigned long)loop->thread, __ATOMIC_RELAXED);
		loop->state = LOOP_BUSY;
	}
	pthread_mutex_unlock(&loop->lock);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc ? kata__fail_errno(err, rc, "cannot start the I/O thread") : 0;
}

static int add_internal(struct kata__loop *loop, int *fd)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = fd};

	return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, *fd, &ev);
}

static int open_fds(struct kata__loop *loop, kata_error **err)
{
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->epoll_fd < 0 || loop->wake_fd < 0 || add_internal(loop, &loop->wake_fd) < 0)
		return kata__fail_errno(err, errno, "cannot make an event loop");
	if (!loop->external)
		return 0;
	loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (loop->timer_fd < 0 || add_internal(loop, &loop->timer_fd) < 0)
		return kata__fail_errno(err, errno, "cannot make an event loop");
	return 0;
}

int kata__loop_new(bool external, unsigned max_workers, struct kata__loop **ret, kata_error **err)
{
	struct kata__loop *loop = calloc(1, sizeof(*loop));
	int rc;

	if (!loop)
		return kata__fail_no_memory(err);
	loop->external = external;
	loop->epoll_fd = loop->wake_fd = loop->timer_fd = -1;
	loop->timer_armed = KATA__NEVER;
	loop->last = &loop->first;
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->cond, NULL);
	rc = open_fds(loop, err);
	if (!rc)
		rc = kata__workers_new(loop, max_workers, &loop->workers, err);
	if (!rc && !external)
		rc = start_thread(loop, err);
	if (rc) {
		loop->external = true; /* no thread to join */
		kata__loop_free(loop);
		return rc;
	}
	*ret = loop;
	return 0;
}

void kata__loop_free(struct kata__loop *loop)
{
	if (!loop)
		return;
	kata__workers_free(loop->workers);
	if (!loop->external) {
		pthread_mutex_lock(&loop->lock);
		loop->stopping = true;
		pthread_mutex_unlock(&loop->lock);
		wake(loop);
		pthread_join(loop->thread, NULL);
	}
	__atomic_store_n(&loop->leader, self(), __ATOMIC_RELAXED);
	while (run_tasks(loop))
		;
	free_dead(loop);
	for (size_t i = 0; i < loop->heap_len; i++)
		free(loop->heap[i]);
	free(loop->heap);
	kata__close_fd(&loop->epoll_fd);
	kata__close_fd(&loop->wake_fd);
	kata__close_fd(&loop->timer_fd);
	pthread_mutex_destroy(&loop->lock);
	pthread_cond_destroy(&loop->cond);
	free(loop);
}
