/* SPDX-License-Identifier: Apache-2.0 */
/* grpc.Health, and the calls that ask the guest who it is. protobuf-c's texts are char *, though nothing writes to
 * them. */
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "agent.pb-c.h"
#include "guest/guest.h"
#include "guest/text_file.h"

static void check(void *user, struct call *call, const void *request)
{
	Grpc__HealthCheckResponse r = GRPC__HEALTH_CHECK_RESPONSE__INIT;

	r.status = GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
	call_answer(call, &r);
}

static void version(void *user, struct call *call, const void *request)
{
	Grpc__VersionCheckResponse r = GRPC__VERSION_CHECK_RESPONSE__INIT;

	r.grpc_version = (char *)"0.0.1";
	r.agent_version = (char *)"libkata-" AGENT_VERSION;
	call_answer(call, &r);
}

static void guest_details(void *user, struct call *call, const void *request)
{
	static const char *const devices[] = {"blk", "scsi"};
	static const char *const storages[] = {"blk", "scsi", "ephemeral", "local", "overlayfs", "virtio-fs"};
	static const char *const features[] = {"libkata.guest"};
	const Grpc__GuestDetailsRequest *q = request;
	Grpc__GuestDetailsResponse r = GRPC__GUEST_DETAILS_RESPONSE__INIT;
	Grpc__AgentDetails d = GRPC__AGENT_DETAILS__INIT;
	KATA_AUTO(free) char *block = NULL;

	d.version = (char *)"libkata-" AGENT_VERSION;
	d.init_daemon = true;
	d.supports_seccomp = true;
	d.device_handlers = (char **)devices;
	d.n_device_handlers = kata__array_size(devices);
	d.storage_handlers = (char **)storages;
	d.n_storage_handlers = kata__array_size(storages);
	d.extra_features = (char **)features;
	d.n_extra_features = kata__array_size(features);
	r.agent_details = &d;
	if (q->mem_block_size) {
		block = text_file_read_line(SYS "/devices/system/memory/block_size_bytes");
		r.mem_block_size_bytes = block ? strtoull(block, NULL, 16) : 0;
	}
	if (q->mem_hotplug_probe)
		r.support_mem_hotplug_probe = access(SYS "/devices/system/memory/probe", F_OK) == 0;
	call_answer(call, &r);
}

static void identify(void *user, struct call *call, const void *request)
{
	struct guest *guest = user;
	Grpc__IdentifyResponse r = GRPC__IDENTIFY_RESPONSE__INIT;
	KATA_AUTO(free) char *boot_id = text_file_read_line("/proc/sys/kernel/random/boot_id");
	KATA_AUTO(free) char *machine_id = text_file_read_line(SYS "/class/dmi/id/product_uuid");
	struct timespec t = {0};

	clock_gettime(CLOCK_BOOTTIME, &t);
	r.boot_id = boot_id ? boot_id : (char *)"";
	r.machine_id = machine_id ? machine_id : (char *)"";
	r.uptime_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
	r.last_session = rpc_session_count(guest->rpc) - 1;
	call_answer(call, &r);
}

/* ---- settle: calls that wait for it */

#define SETTLE_MAX 64

static struct call *settling[SETTLE_MAX];

static void settle_forget(struct call *call, void *user)
{
	*(struct call **)user = NULL;
}

static void settle(void *user, struct call *call, const void *request)
{
	struct guest *guest = user;
	size_t i = 0;

	while (i < SETTLE_MAX && settling[i])
		i++;
	if (guest->is_settled) {
		call_answer(call, NULL);
	} else if (i == SETTLE_MAX) {
		call_answer_code(call, KATA__GRPC_RESOURCE_EXHAUSTED, "%d calls wait for this already", SETTLE_MAX);
	} else {
		settling[i] = call;
		call_park(call, settle_forget, &settling[i]);
	}
}

void service_health_settled(struct guest *guest)
{
	guest->is_settled = true;
	for (size_t i = 0; i < SETTLE_MAX; i++)
		if (settling[i])
			call_answer(kata__take_ptr(settling[i]), NULL);
}

void service_health_register(struct guest *guest)
{
	rpc_handler_fn *m = guest->handlers.methods;

	m[KATA__HEALTH_CHECK] = check;
	m[KATA__HEALTH_VERSION] = version;
	m[KATA__AGENT_GET_GUEST_DETAILS] = guest_details;
	m[KATA__GUEST_IDENTIFY] = identify;
	m[KATA__GUEST_SETTLE] = settle;
}
