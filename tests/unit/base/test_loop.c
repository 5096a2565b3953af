/* SPDX-License-Identifier: Apache-2.0 */
/* The loop: watches, timers, posts, workers, leading. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"

TestSuite(loop, .timeout = 60);

static struct kata__loop *external(void)
{
	struct kata__loop *loop = NULL;

	cr_assert_eq(kata__loop_new(true, 2, &loop, NULL), 0);
	return loop;
}

/* Callbacks append a digit to this. */
static char order[64];
static int at;

static void note(char c)
{
	order[at++] = c;
	order[at] = '\0';
}

static void note_timer(void *user)
{
	note(*(char *)user);
}

Test(loop, timers_fire_in_order_of_their_deadlines_and_not_once_removed)
{
	struct kata__loop *loop = external();
	struct kata__timer *t[4];
	uint64_t now = kata__now_ns();

	cr_assert(kata__loop_try_lead(loop));
	kata__timer_add(loop, now + 3000000, note_timer, (char[]){'3'}, &t[0], NULL);
	kata__timer_add(loop, now + 1000000, note_timer, (char[]){'1'}, &t[1], NULL);
	kata__timer_add(loop, now + 2000000, note_timer, (char[]){'2'}, &t[2], NULL);
	kata__timer_add(loop, now + 1500000, note_timer, (char[]){'x'}, &t[3], NULL);
	kata__timer_remove(t[3]);
	kata__loop_unlead(loop);
	while (at < 3) {
		struct pollfd p = {.fd = kata__loop_get_fd(loop), .events = POLLIN};

		cr_assert_eq(poll(&p, 1, 5000), 1, "the loop's fd tells of timers");
		cr_assert_eq(kata__loop_dispatch(loop, 0, NULL), 0);
	}
	cr_expect_str_eq(order, "123");
	kata__loop_free(loop);
}

static void note_watch(void *user, uint32_t events)
{
	note('w');
}

Test(loop, an_edge_is_reported_once_and_again_when_asked_for)
{
	struct kata__loop *loop = external();
	struct kata__watch *watch;
	int fds[2];

	cr_assert_eq(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	cr_assert(kata__loop_try_lead(loop));
	cr_assert_eq(kata__watch_add(loop, fds[0], EPOLLIN | EPOLLET, note_watch, NULL, &watch, NULL), 0);
	kata__loop_unlead(loop);
	cr_assert_eq(write(fds[1], "x", 1), 1);
	kata__loop_dispatch(loop, 1000, NULL);
	kata__loop_dispatch(loop, 0, NULL);
	cr_expect_str_eq(order, "w", "the byte lies there, but nothing has come since");
	kata__watch_look_again(watch);
	kata__loop_dispatch(loop, 1000, NULL);
	kata__loop_dispatch(loop, 0, NULL);
	cr_expect_str_eq(order, "ww");
	close(fds[1]);
	kata__loop_dispatch(loop, 1000, NULL);
	kata__loop_dispatch(loop, 0, NULL);
	cr_expect_str_eq(order, "www", "a hang-up is one edge");
	kata__watch_remove(watch);
	kata__loop_free(loop);
	close(fds[0]);
}

Test(loop, a_thousand_timers_added_and_removed_at_random_fire_in_order)
{
	struct kata__loop *loop = external();
	struct kata__timer *timers[1000];
	static char letter = 'f';
	unsigned seed = 11;

	cr_assert(kata__loop_try_lead(loop));
	for (int i = 0; i < 1000; i++) {
		seed = seed * 1103515245u + 12345u;
		cr_assert_eq(kata__timer_add(loop, kata__now_ns() + 3600000000000u + (seed >> 8), note_timer, &letter,
					     &timers[i], NULL),
			     0);
	}
	for (int i = 0; i < 1000; i++) {
		int k = (i * 7919) % 1000;

		kata__timer_remove(timers[k]);
	}
	kata__loop_unlead(loop);
	cr_assert_eq(kata__loop_dispatch(loop, 0, NULL), 0);
	cr_expect_eq(at, 0);
	kata__loop_free(loop);
}

struct pair {
	struct kata__watch *own, *other;
	int fd, calls;
};

static void remove_both(void *user, uint32_t events)
{
	struct pair *p = user;

	p->calls++;
	kata__watch_remove(p->own);
	kata__watch_remove(p->other);
	p->own = p->other = NULL;
}

Test(loop, a_watch_removed_in_the_same_round_is_not_called)
{
	struct kata__loop *loop = external();
	struct pair a = {0}, b = {0};
	int fds[2];

	cr_assert_eq(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	b.fd = dup(fds[0]);
	cr_assert(kata__loop_try_lead(loop));
	cr_assert_eq(kata__watch_add(loop, fds[0], EPOLLIN, remove_both, &a, &a.own, NULL), 0);
	cr_assert_eq(kata__watch_add(loop, b.fd, EPOLLIN, remove_both, &b, &b.own, NULL), 0);
	a.other = b.own;
	b.other = a.own;
	kata__loop_unlead(loop);
	cr_assert_eq(write(fds[1], "x", 1), 1);
	kata__loop_dispatch(loop, 1000, NULL);
	kata__loop_dispatch(loop, 0, NULL);
	cr_expect_eq(a.calls + b.calls, 1);
	kata__loop_free(loop);
	close(b.fd);
	close(fds[0]);
	close(fds[1]);
}

struct poster {
	struct kata__task task;
	struct kata__loop *loop;
	atomic_int *count;
	bool *done;
	int left;
};

static void count_down(struct kata__task *task)
{
	struct poster *p = kata__container_of(task, struct poster, task);
	struct kata__loop *loop = p->loop;

	cr_assert(kata__loop_is_leader(p->loop));
	atomic_fetch_add(p->count, 1);
	if (--p->left) {
		kata__loop_post(p->loop, &p->task);
		return;
	}
	__atomic_store_n(p->done, true, __ATOMIC_RELEASE); /* from here on p may be gone */
	kata__loop_wake_waiters(loop);
}

static void *post_and_wait(void *arg)
{
	struct kata__loop *loop = arg;
	static atomic_int total;

	for (int i = 0; i < 200; i++) {
		bool done = false;
		struct poster p = {.task.fn = count_down, .loop = loop, .count = &total, .done = &done, .left = 5};

		kata__loop_post(loop, &p.task);
		cr_assert(kata__loop_wait(loop, &done, kata__deadline_in_ms(20000)));
	}
	return &total;
}

static void from_eight_threads(bool is_external)
{
	struct kata__loop *loop = NULL;
	pthread_t threads[8];
	void *total = NULL;

	cr_assert_eq(kata__loop_new(is_external, 2, &loop, NULL), 0);
	for (int i = 0; i < 8; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, post_and_wait, loop), 0);
	for (int i = 0; i < 8; i++)
		pthread_join(threads[i], &total);
	cr_expect_eq(atomic_load((atomic_int *)total), 8 * 200 * 5);
	kata__loop_free(loop);
}

Test(loop, no_post_and_no_wake_up_is_lost_with_an_io_thread)
{
	from_eight_threads(false);
}

Test(loop, no_post_and_no_wake_up_is_lost_when_callers_lead)
{
	from_eight_threads(true);
}

struct job {
	struct kata__work work;
	struct kata__loop *loop;
	atomic_int *running, *most;
	bool worked_off_the_leader, done;
};

static void work(struct kata__work *w)
{
	struct job *j = kata__container_of(w, struct job, work);
	int n = atomic_fetch_add(j->running, 1) + 1, most = atomic_load(j->most);

	while (n > most && !atomic_compare_exchange_weak(j->most, &most, n))
		;
	j->worked_off_the_leader = !kata__loop_is_leader(j->loop);
	usleep(2000); /* so that more workers than the bound would be seen together */
	atomic_fetch_sub(j->running, 1);
}

static void work_ended(struct kata__work *w)
{
	struct job *j = kata__container_of(w, struct job, work);
	struct kata__loop *loop = j->loop;

	__atomic_store_n(&j->done, true, __ATOMIC_RELEASE);
	kata__loop_wake_waiters(loop);
}

Test(loop, workers_are_bounded_and_every_job_ends_on_the_leader)
{
	atomic_int running = 0, most = 0;
	struct kata__loop *loop = NULL;
	struct job jobs[40];

	cr_assert_eq(kata__loop_new(false, 2, &loop, NULL), 0);
	for (int i = 0; i < 40; i++) {
		jobs[i] = (struct job){
			.work = {.work = work, .done = work_ended}, .loop = loop, .running = &running, .most = &most};
		cr_assert_eq(kata__loop_work(loop, &jobs[i].work, NULL), 0);
	}
	for (int i = 0; i < 40; i++) {
		cr_assert(kata__loop_wait(loop, &jobs[i].done, kata__deadline_in_ms(20000)));
		cr_expect(jobs[i].worked_off_the_leader);
	}
	cr_expect_leq(most, 2);
	kata__loop_free(loop);
}

struct waiting_job {
	struct kata__work work;
	struct kata__loop *loop;
	struct job inner;
	bool waited, done;
};

static void wait_for_another(struct kata__work *w)
{
	struct waiting_job *j = kata__container_of(w, struct waiting_job, work);

	if (kata__loop_work(j->loop, &j->inner.work, NULL) == 0)
		j->waited = kata__loop_wait(j->loop, &j->inner.done, kata__deadline_in_ms(20000));
}

static void waiting_ended(struct kata__work *w)
{
	struct waiting_job *j = kata__container_of(w, struct waiting_job, work);
	struct kata__loop *loop = j->loop;

	__atomic_store_n(&j->done, true, __ATOMIC_RELEASE);
	kata__loop_wake_waiters(loop);
}

/* As a step does that runs another operation and waits for it. */
Test(loop, jobs_that_wait_for_others_do_not_keep_them_from_a_worker)
{
	atomic_int running = 0, most = 0;
	struct kata__loop *loop = NULL;
	struct waiting_job jobs[3];

	cr_assert_eq(kata__loop_new(false, 2, &loop, NULL), 0);
	for (int i = 0; i < 3; i++) {
		jobs[i] = (struct waiting_job){.work = {.work = wait_for_another, .done = waiting_ended}, .loop = loop};
		jobs[i].inner = (struct job){
			.work = {.work = work, .done = work_ended}, .loop = loop, .running = &running, .most = &most};
		cr_assert_eq(kata__loop_work(loop, &jobs[i].work, NULL), 0);
	}
	for (int i = 0; i < 3; i++) {
		cr_assert(kata__loop_wait(loop, &jobs[i].done, kata__deadline_in_ms(30000)));
		cr_expect(jobs[i].waited);
	}
	kata__loop_free(loop);
}

Test(loop, a_wait_ends_at_its_deadline)
{
	bool done = false;
	struct kata__loop *own = NULL, *ext = external();
	uint64_t begin = kata__now_ns();

	cr_assert_eq(kata__loop_new(false, 1, &own, NULL), 0);
	cr_expect(!kata__loop_wait(own, &done, kata__deadline_in_ms(20)));
	cr_expect(!kata__loop_wait(ext, &done, kata__deadline_in_ms(20)));
	cr_expect_geq(kata__now_ns() - begin, 40u * 1000000u);
	kata__loop_free(own);
	kata__loop_free(ext);
}

Test(loop, dispatch_belongs_to_external_loops)
{
	struct kata__loop *loop = NULL;

	cr_assert_eq(kata__loop_new(false, 1, &loop, NULL), 0);
	cr_expect_eq(kata__loop_dispatch(loop, 0, NULL), KATA_E_STATE);
	cr_expect(!kata__loop_try_lead(loop));
	kata__loop_free(loop);
}
