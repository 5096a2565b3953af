/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bounded worker pool: a thread is started when work arrives, none is idle and the bound allows; threads then stay.
 *
 * A step may wait for another operation, which may need a worker itself. So a thread that waits does not count: else as
 * many such steps as there are threads would wait for each other for ever.
 */
#include "base/workers.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>

struct kata__workers {
	struct kata__loop *loop;
	unsigned max, count, idle, waiting;
	pthread_t *threads;
	unsigned threads_alloc;
	pthread_mutex_t lock; /* leaf lock */
	pthread_cond_t cond;
	struct kata__task *first, **last;
	bool stopping;
};

static _Thread_local struct kata__workers *employer; /* of this thread */

static void run_done(struct kata__task *task)
{
	struct kata__work *work = kata__container_of(task, struct kata__work, task);

	work->done(work);
}

static void *worker(void *arg)
{
	struct kata__workers *w = arg;

	employer = w;
	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct kata__work *work;

		while (!w->first && !w->stopping) {
			w->idle++;
			pthread_cond_wait(&w->cond, &w->lock);
			w->idle--;
		}
		if (!w->first)
			break;
		work = kata__container_of(w->first, struct kata__work, task);
		w->first = work->task.next;
		if (!w->first)
			w->last = &w->first;
		pthread_mutex_unlock(&w->lock);
		work->work(work);
		work->task.fn = run_done;
		kata__loop_post(w->loop, &work->task);
		pthread_mutex_lock(&w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static int make_room(struct kata__workers *w)
{
	pthread_t *grown;

	if (w->count < w->threads_alloc)
		return 0;
	grown = realloc(w->threads, (w->threads_alloc + 4) * sizeof(*grown));
	if (!grown)
		return ENOMEM;
	w->threads = grown;
	w->threads_alloc += 4;
	return 0;
}

static int add_thread(struct kata__workers *w)
{
	sigset_t all, old;
	int rc = make_room(w);

	if (rc)
		return rc;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&w->threads[w->count], NULL, worker, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return rc;
	pthread_setname_np(w->threads[w->count], "kata-worker");
	w->count++;
	return 0;
}

/* With the lock held. For `more` pieces of work, beyond what is queued. */
static int add_for(struct kata__workers *w, unsigned more)
{
	unsigned queued = more;

	for (struct kata__task *t = w->first; t; t = t->next)
		queued++;
	return queued > w->idle && w->count < w->max + w->waiting ? add_thread(w) : 0;
}

void kata__workers_begin_wait(struct kata__workers *w)
{
	if (!w || employer != w)
		return;
	pthread_mutex_lock(&w->lock);
	w->waiting++;
	if (!w->stopping)
		add_for(w, 0); /* where that fails, the threads that are there do it when they can */
	pthread_mutex_unlock(&w->lock);
}

void kata__workers_end_wait(struct kata__workers *w)
{
	if (!w || employer != w)
		return;
	pthread_mutex_lock(&w->lock);
	w->waiting--;
	pthread_mutex_unlock(&w->lock);
}

int kata__workers_submit(struct kata__workers *w, struct kata__work *work, kata_error **err)
{
	int rc;

	pthread_mutex_lock(&w->lock);
	rc = add_for(w, 1);
	if (rc && w->count > 0)
		rc = 0; /* the threads that are there will do it */
	if (!rc) {
		work->task.next = NULL;
		*w->last = &work->task;
		w->last = &work->task.next;
	}
	pthread_mutex_unlock(&w->lock);
	if (!rc)
		pthread_cond_signal(&w->cond); /* not with the lock held: who wakes would only wait for it */
	return rc ? kata__fail_errno(err, rc, "cannot start a worker thread") : 0;
}

int kata__workers_new(struct kata__loop *loop, unsigned max, struct kata__workers **ret, kata_error **err)
{
	struct kata__workers *w = calloc(1, sizeof(*w));

	if (!w)
		return kata__fail_no_memory(err);
	w->loop = loop;
	w->max = max;
	w->last = &w->first;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
	*ret = w;
	return 0;
}

void kata__workers_free(struct kata__workers *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stopping = true;
	pthread_cond_broadcast(&w->cond);
	pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < w->count; i++)
		pthread_join(w->threads[i], NULL);
	free(w->threads);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->cond);
	free(w);
}
