/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/device_wait.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/text.h"
#include "guest/guest.h"
#include "guest/kmsg.h"
#include "guest/uevent.h"

#define SUBSCRIPTIONS_MAX 4
#define EVENT_SIZE 8192

struct device_wait {
	struct device_wait *next;
	struct device_waits *waits;
	enum device_kind kind;
	char *address;
	uint32_t timeout_ms;
	struct kata__timer *timer;
	device_found_fn found;
	void *user;
	struct device_wait **where; /* the owner's pointer, NULLed when the wait ends */
};

struct subscription {
	const char *subsystem;
	device_event_fn fn;
	void *user;
};

struct device_waits {
	struct kata__loop *loop;
	int fd;
	struct kata__watch *watch;
	struct device_wait *list;
	size_t count;
	struct subscription subscriptions[SUBSCRIPTIONS_MAX];
	size_t subscription_count;
};

static void wait_free(struct device_wait *w)
{
	struct device_wait **p = &w->waits->list;

	while (*p && *p != w)
		p = &(*p)->next;
	if (*p) {
		*p = w->next;
		w->waits->count--;
	}
	if (w->where)
		*w->where = NULL;
	kata__timer_remove(w->timer);
	free(w->address);
	free(w);
}

static void wait_end(struct device_wait *w, const char *name, kata_error *take_err)
{
	device_found_fn found = w->found;
	void *user = w->user;

	wait_free(w);
	found(user, name, take_err);
}

static kata_error *not_there(const struct device_wait *w)
{
	static const char *const words[] = {[DEVICE_BLK] = "disk at PCI path",
					    [DEVICE_SCSI] = "disk at SCSI address",
					    [DEVICE_NET] = "network interface"};
	kata_error *err = NULL;

	kata__fail(&err, KATA_E_TIMEOUT, GUEST, "the guest saw no %s '%s' within %u ms", words[w->kind], w->address,
		   w->timeout_ms);
	return err;
}

static void on_timeout(void *user)
{
	struct device_wait *w = user;

	w->timer = NULL;
	wait_end(w, NULL, not_there(w));
}

/* A disk is of use once its node is there too, which the kernel makes after its directory in sysfs. */
static bool is_there(enum device_kind kind, const char *address, char name[DEVICE_NAME_MAX])
{
	char node[DEVICE_NAME_MAX + 8];

	if (!device_find(SYS, kind, address, name))
		return false;
	snprintf(node, sizeof(node), "/dev/%s", name);
	return kind == DEVICE_NET || access(node, F_OK) == 0;
}

static bool may_concern(enum device_kind kind, const char *subsystem)
{
	return strcmp(subsystem, kind == DEVICE_NET ? "net" : "block") == 0;
}

/* Looks for every wait that an event of this subsystem may end; NULL: for every wait. */
static void look_again(struct device_waits *waits, const char *subsystem)
{
	struct device_wait *w = waits->list;

	while (w) {
		struct device_wait *next = w->next;
		char name[DEVICE_NAME_MAX];

		if ((!subsystem || may_concern(w->kind, subsystem)) && is_there(w->kind, w->address, name)) {
			wait_end(w, name, NULL);
			next = waits->list; /* found() may have ended others */
		}
		w = next;
	}
}

static void on_events(void *user, uint32_t events)
{
	struct device_waits *waits = user;
	char buf[EVENT_SIZE];
	struct uevent e;
	int rc;

	while ((rc = uevent_read(waits->fd, buf, sizeof(buf), &e)) != 0) {
		if (rc < 0) {
			look_again(waits, NULL);
			continue;
		}
		for (size_t i = 0; i < waits->subscription_count; i++)
			if (strcmp(waits->subscriptions[i].subsystem, e.subsystem) == 0)
				waits->subscriptions[i].fn(waits->subscriptions[i].user, e.action, e.devpath);
		if (strcmp(e.action, "add") == 0 || strcmp(e.action, "change") == 0 || strcmp(e.action, "move") == 0)
			look_again(waits, e.subsystem);
	}
}

int device_waits_new(struct kata__loop *loop, struct device_waits **ret, kata_error **err)
{
	struct device_waits *waits = calloc(1, sizeof(*waits));
	int rc;

	if (!waits)
		return kata__fail_no_memory(err);
	waits->loop = loop;
	waits->fd = -1;
	rc = uevent_open(&waits->fd, err);
	if (rc == 0)
		rc = kata__watch_add(loop, waits->fd, 1 /* EPOLLIN */, on_events, waits, &waits->watch, err);
	if (rc != 0) {
		kata__close_fd(&waits->fd);
		free(waits);
		return rc;
	}
	*ret = waits;
	return 0;
}

int device_wait_begin(struct device_waits *waits, enum device_kind kind, const char *address, uint32_t timeout_ms,
		      device_found_fn found, void *user, struct device_wait **ret_wait, kata_error **err)
{
	char name[DEVICE_NAME_MAX];
	struct device_wait *w;
	int rc = device_address_check(kind, address, err);

	if (rc != 0)
		return rc;
	if (waits->count >= DEVICE_WAITS_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "%d devices are awaited already", DEVICE_WAITS_MAX);
	w = calloc(1, sizeof(*w));
	if (!w)
		return kata__fail_no_memory(err);
	*w = (struct device_wait){.waits = waits,
				  .kind = kind,
				  .address = kata__strdup(address),
				  .timeout_ms = timeout_ms,
				  .found = found,
				  .user = user};
	rc = w->address ? kata__timer_add(waits->loop, kata__deadline_in_ms(timeout_ms), on_timeout, w, &w->timer, err)
			: kata__fail_no_memory(err);
	if (rc != 0) {
		wait_free(w);
		return rc;
	}
	if (kind == DEVICE_SCSI && !is_there(kind, address, name))
		device_rescan_scsi(SYS, address);
	if (is_there(kind, address, name)) {
		wait_end(w, name, NULL);
		return 0;
	}
	if (timeout_ms == 0) {
		wait_end(w, NULL, not_there(w));
		return 0;
	}
	w->next = waits->list;
	waits->list = w;
	waits->count++;
	w->where = ret_wait;
	*ret_wait = w;
	return 0;
}

void device_wait_cancel(struct device_wait *wait)
{
	if (wait)
		wait_free(wait);
}

int device_waits_subscribe(struct device_waits *waits, const char *subsystem, device_event_fn fn, void *user,
			   kata_error **err)
{
	if (waits->subscription_count == SUBSCRIPTIONS_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "%d subscriptions are the most", SUBSCRIPTIONS_MAX);
	waits->subscriptions[waits->subscription_count++] =
		(struct subscription){.subsystem = subsystem, .fn = fn, .user = user};
	return 0;
}
