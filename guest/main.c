/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata-agent: PID 1 of the guest.
 *
 * Order: what every userland needs is mounted, the modules of group `boot` make the channel to the host appear, and the
 * agent answers. Everything else, other modules first, happens while it does.
 * It never exits: the kernel would panic. What cannot be had is logged and done without.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "guest/boot.h"
#include "guest/channel.h"
#include "guest/container.h"
#include "guest/device_wait.h"
#include "guest/guest.h"
#include "guest/identity.h"
#include "guest/kmsg.h"
#include "guest/modules.h"
#include "guest/oom.h"

#define HOTPLUG_TIMEOUT_MS                                                                                             \
	10000 /* an emulated guest on a busy host takes seconds for what is there in milliseconds                      \
	       */
#define WORKERS 4
#define STACK_TOUCHED 32768

struct module_job {
	struct kata__work work;
	struct guest *guest;
};

static void load_soon(struct kata__work *work)
{
	modules_load_group("soon");
	identity_prepare();
}

static void loaded_soon(struct kata__work *work)
{
	struct module_job *job = kata__container_of(work, struct module_job, work);
	kata_error *err = NULL;

	if (channel_listen_vsock(job->guest, &err) != 0)
		kmsg_error("%s", kata_error_get_message(err));
	kata_error_free(err);
	service_health_settled(job->guest);
}

/* agent.hotplug_timeout=SECONDS */
static uint32_t read_hotplug_timeout(void)
{
	static const char key[] = "agent.hotplug_timeout=";
	KATA_AUTO(free) char *line = NULL;
	size_t len = 0;
	const char *at;
	unsigned long seconds;

	if (kata__read_file("/proc/cmdline", 65536, &line, &len, NULL) != 0)
		return HOTPLUG_TIMEOUT_MS;
	at = strstr(line, key);
	seconds = at ? strtoul(at + sizeof(key) - 1, NULL, 10) : 0;
	return seconds && seconds <= 3600 ? (uint32_t)seconds * 1000 : HOTPLUG_TIMEOUT_MS;
}

static int guest_begin(struct guest *guest, kata_error **err)
{
	static struct module_job job;
	int rc;

	service_health_register(guest);
	service_device_register(guest);
	service_container_register(guest);
	service_process_register(guest);
	service_sandbox_register(guest);
	service_network_register(guest);
	service_identity_register(guest);
	guest->handlers.user = guest;
	guest->hotplug_timeout_ms = read_hotplug_timeout();
	job = (struct module_job){.work = {.work = load_soon, .done = loaded_soon}, .guest = guest};
	if ((rc = kata__loop_new(true, WORKERS, &guest->loop, err)) != 0 ||
	    (rc = rpc_new(guest->loop, &guest->handlers, &guest->rpc, err)) != 0 ||
	    (rc = device_waits_new(guest->loop, &guest->waits, err)) != 0 ||
	    (rc = children_new(guest->loop, &guest->children, err)) != 0 ||
	    (rc = service_sandbox_begin(guest, err)) != 0 ||
	    (rc = containers_new(guest, &guest->containers, err)) != 0 ||
	    (rc = oom_new(guest->loop, &guest->oom, err)) != 0)
		return rc;
	modules_load_group("boot");
	if ((rc = channel_begin(guest, err)) != 0 ||
	    (rc = runtime_new(guest->loop, guest->children, &guest->runtime, err)) != 0 ||
	    (rc = storages_new(guest->loop, guest->waits, guest->runtime, guest->hotplug_timeout_ms, &guest->storages,
			       err)) != 0)
		return rc;
	return kata__loop_work(guest->loop, &job.work, err);
}

/*
 * The agent goes before all else that wants the CPU, kernel threads included: a host gets its answer however busy the
 * containers are, and a machine that was loaded from a saved state does not first run what its kernel has put off.
 * What the agent starts (workers, containers) is scheduled as usual.
 */
static void go_first(void)
{
	struct sched_param p = {.sched_priority = 1};

	if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &p) != 0)
		kmsg_error("the agent cannot have the CPU first: %s", strerror(errno));
}

/* What the stack grows to under an error message, so that the kernel need not make it grow then. */
static void touch_stack(void)
{
	volatile char depth[STACK_TOUCHED];

	for (size_t i = 0; i < sizeof(depth); i += 1024)
		depth[i] = 0;
}

static void run(struct guest *guest)
{
	for (;;) {
		kata_error *err = NULL;

		if (kata__loop_dispatch(guest->loop, -1, &err) != 0)
			kmsg_error("%s", kata_error_get_message(err));
		kata_error_free(err);
	}
}

int main(int argc, char **argv)
{
	static struct guest guest;
	const char *name = strrchr(argv[0], '/');
	kata_error *err = NULL;

	name = name ? name + 1 : argv[0];
	if (strcmp(name, "modprobe") == 0)
		return modules_modprobe(argc, argv);
	if (getpid() != 1)
		return 1;
	signal(SIGPIPE, SIG_IGN);
	boot_prepare();
	go_first();
	touch_stack();
	if (guest_begin(&guest, &err) != 0)
		kmsg_error("%s", kata_error_get_message(err));
	kata_error_free(err);
	run(&guest);
}
