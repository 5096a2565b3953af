/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata.Guest: awaiting a device that the host plugs, and taking one offline before it is unplugged.
 *
 * Flushing a disk may take long, so it is done by a worker: the loop goes on.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent.pb-c.h"
#include "base/fd.h"
#include "base/text.h"
#include "guest/device_wait.h"
#include "guest/guest.h"
#include "guest/runtime.h"

struct await {
	struct call *call;
	struct device_wait *wait;
};

static void await_forget(struct call *call, void *user)
{
	struct await *a = user;

	device_wait_cancel(a->wait);
	free(a);
}

static void await_found(void *user, const char *name, kata_error *take_err)
{
	struct await *a = user;
	Grpc__AwaitDeviceResponse r = GRPC__AWAIT_DEVICE_RESPONSE__INIT;
	char copy[DEVICE_NAME_MAX];

	if (take_err) {
		call_answer_error(a->call, &take_err);
	} else {
		snprintf(copy, sizeof(copy), "%s", name);
		r.name = copy;
		r.size_bytes = device_size_bytes(SYS, name);
		call_answer(a->call, &r);
	}
	free(a);
}

static void await_device(void *user, struct call *call, const void *request)
{
	struct guest *guest = user;
	const Grpc__AwaitDeviceRequest *q = request;
	enum device_kind kind;
	kata_error *err = NULL;
	struct await *a = calloc(1, sizeof(*a));

	if (!a) {
		call_answer_code(call, KATA__GRPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	a->call = call;
	call_park(call, await_forget, a);
	if (device_kind_parse(q->kind, &kind, &err) == 0 &&
	    device_wait_begin(guest->waits, kind, q->address, q->timeout_ms, await_found, a, &a->wait, &err) == 0)
		return;
	free(a);
	call_answer_error(call, &err);
}

/* ---- offline */

struct offline {
	struct kata__work work;
	struct call *call;
	enum device_kind kind;
	char address[64];
	char name[DEVICE_NAME_MAX];
	struct guest *guest;
	bool is_second; /* look */
	int rc;         /* -errno */
	const char *at; /* what failed */
};

/* A whole disk's use shows when somebody opens it exclusively: file systems, swap and holders do. */
static int flush_disk(struct offline *o)
{
	char path[64];
	KATA_AUTO_FD int fd = -1;

	snprintf(path, sizeof(path), "/dev/%s", o->name);
	o->at = "is in use by the guest";
	fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	o->at = "cannot be flushed";
	if (fsync(fd) != 0 || (ioctl(fd, BLKFLSBUF, 0) != 0 && errno != ENOTTY && errno != EACCES))
		return -errno;
	return 0;
}

static void offline_work(struct kata__work *work)
{
	struct offline *o = kata__container_of(work, struct offline, work);

	o->rc = flush_disk(o);
	if (o->rc == 0 && o->kind == DEVICE_SCSI) {
		o->at = "cannot be detached";
		o->rc = device_delete_scsi(SYS, o->address);
	}
}

static void offline_again(void *user)
{
	struct offline *o = user;

	if (kata__loop_work(o->guest->loop, &o->work, NULL) != 0)
		o->work.done(&o->work);
}

static void offline_done(struct kata__work *work)
{
	struct offline *o = kata__container_of(work, struct offline, work);

	/* The runtime at work on any container holds copies of our mounts, of file systems that are unmounted too. */
	if (o->rc == -EBUSY && !o->is_second) {
		o->is_second = true;
		if (runtime_when_idle(o->guest->runtime, offline_again, o))
			return;
	}
	if (o->call) {
		if (o->rc == 0)
			call_answer(o->call, NULL);
		else
			call_answer_code(o->call,
					 o->rc == -EBUSY ? KATA__GRPC_FAILED_PRECONDITION : KATA__GRPC_INTERNAL,
					 "%s (%s) %s: %s", o->address, o->name, o->at, strerror(-o->rc));
	}
	free(o);
}

static void offline_forget(struct call *call, void *user)
{
	((struct offline *)user)->call = NULL;
}

static int offline_begin(struct guest *guest, struct call *call, const Grpc__OfflineDeviceRequest *q, kata_error **err)
{
	struct offline *o;
	enum device_kind kind;
	int rc;

	if ((rc = device_kind_parse(q->kind, &kind, err)) != 0 ||
	    (rc = device_address_check(kind, q->address, err)) != 0)
		return rc;
	if (kind == DEVICE_NET) {
		call_answer(call, NULL); /* nothing of a NIC's is kept back */
		return 0;
	}
	o = calloc(1, sizeof(*o));
	if (!o)
		return kata__fail_no_memory(err);
	o->guest = guest;
	o->call = call;
	o->kind = kind;
	snprintf(o->address, sizeof(o->address), "%s", q->address);
	if (!device_find(SYS, kind, q->address, o->name)) {
		free(o);
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "address: the guest has no disk at '%.64s'",
				  q->address);
	}
	o->work = (struct kata__work){.work = offline_work, .done = offline_done};
	rc = kata__loop_work(guest->loop, &o->work, err);
	if (rc == 0)
		call_park(call, offline_forget, o);
	else
		free(o);
	return rc;
}

static void offline_device(void *user, struct call *call, const void *request)
{
	kata_error *err = NULL;

	if (offline_begin(user, call, request, &err) != 0)
		call_answer_error(call, &err);
}

void service_device_register(struct guest *guest)
{
	guest->handlers.methods[KATA__GUEST_AWAIT_DEVICE] = await_device;
	guest->handlers.methods[KATA__GUEST_OFFLINE_DEVICE] = offline_device;
}
