/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_BASE_WORKERS_H
#define KATA_BASE_WORKERS_H
/* The bounded pool of threads for blocking steps; part of the loop (kata__loop_work). */
#include "base/loop.h"

struct kata__workers;

int kata__workers_new(struct kata__loop *loop, unsigned max, struct kata__workers **ret, kata_error **err);
/* Waits for what runs and runs what is queued; their done tasks have been posted when it returns. */
void kata__workers_free(struct kata__workers *w);
/* Around a wait of the calling thread, where it is one of them: another may take its place meanwhile. NULL is fine. */
void kata__workers_begin_wait(struct kata__workers *w);
void kata__workers_end_wait(struct kata__workers *w);
int kata__workers_submit(struct kata__workers *w, struct kata__work *work, kata_error **err);
#endif
