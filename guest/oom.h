/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_OOM_H
#define KATA_GUEST_OOM_H
/*
 * Containers that ran out of memory: the kernel says so in a file of their control group, which inotify watches. Each
 * kill the kernel reports is one event for whoever asks by GetOOMEvent; events nobody asked for yet are kept, the last
 * OOM_EVENTS_MAX of them.
 */
#include "guest/rpc.h"

#define OOM_EVENTS_MAX 64
#define OOM_WAITERS_MAX 16

struct oom;

int oom_new(struct kata__loop *loop, struct oom **ret, kata_error **err);
/* Watches a container's group until oom_unwatch(). A group without memory control is not watched. */
void oom_watch(struct oom *oom, const char *container_id, const char *cgroup);
void oom_unwatch(struct oom *oom, const char *container_id);
/* Answers with the id of a container, now or later. */
void oom_wait(struct oom *oom, struct call *call);
#endif
