/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded worker pool: a thread is started when work arrives, none is idle and the bound allows; threads then stay.
 */
#include "base/workers.h"

#include <pthread.h>
#include <signal.h>

struct kata__workers {
	struct kata__loop *loop;
	unsigned max, count, idle;
	pthread_t *threads;
	pthread_mutex_t lock; /* leaf lock */
	pthread_cond_t cond;
	struct kata__task *first, **last;
	bool stopping;
};

static void run_done(struct kata__task *task)
{
	struct kata__work *work = kata__container_of(task, struct kata__work, task);

	work->done(work);
}

static void *worker(void *arg)
{
	struct kata__workers *w = arg;

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

static int add_thread(struct kata__workers *w)
{
	sigset_t all, old;
	int rc;

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

int kata__workers_submit(struct kata__workers *w, struct kata__work *work, kata_error **err)
{
	unsigned queued = 0;
	int rc = 0;

	pthread_mutex_lock(&w->lock);
	for (struct kata__task *t = w->first; t; t = t->next)
		queued++;
	if (queued >= w->idle && w->count < w->max)
		rc = add_thread(w);
	if (rc && w->count > 0)
		rc = 0; /* the threads that are there will do it */
	if (!rc) {
		work->task.next = NULL;
		*w->last = &work->task;
		w->last = &work->task.next;
		pthread_cond_signal(&w->cond);
	}
	pthread_mutex_unlock(&w->lock);
	return rc ? kata__fail_errno(err, rc, "cannot start a worker thread") : 0;
}

int kata__workers_new(struct kata__loop *loop, unsigned max, struct kata__workers **ret, kata_error **err)
{
	struct kata__workers *w = calloc(1, sizeof(*w));

	if (!w)
		return kata__fail_no_memory(err);
	w->threads = calloc(max, sizeof(*w->threads));
	if (!w->threads) {
		free(w);
		return kata__fail_no_memory(err);
	}
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
