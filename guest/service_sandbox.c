/* SPDX-License-Identifier: Apache-2.0 */
/* The sandbox methods of grpc.AgentService: setting up, time, entropy, CPUs and memory, files, power off. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/text.h"
#include "guest/boot.h"
#include "guest/container.h"
#include "guest/copy_file.h"
#include "guest/identity.h"
#include "guest/kmsg.h"
#include "guest/modules.h"
#include "guest/text_file.h"

#define SANDBOX_DIR CONTAINERS_DIR "/sandbox"
#define POWER_OFF_MS 10000

/* ---- create */

static int write_file(const char *path, const char *text, kata_error **err)
{
	KATA_AUTO_FD int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		return kata__fail_errno(err, errno, "cannot write %s", path);
	return 0;
}

static int write_dns(char *const *lines, size_t count, kata_error **err)
{
	struct kata__buffer b;
	int rc = 0;

	kata__buffer_init(&b, 65536);
	for (size_t i = 0; i < count && rc == 0; i++)
		rc = kata__buffer_printf(&b, "%s\n", lines[i]);
	if (rc == 0)
		rc = kata__buffer_append(&b, "", 1);
	rc = rc ? kata__fail(err, KATA_E_INVALID, CALLER, "dns: more than 65536 bytes in all")
		: write_file(SANDBOX_DIR "/resolv.conf", (const char *)kata__buffer_bytes(&b), err);
	if (rc == 0 && count > 0)
		rc = write_file("/etc/resolv.conf", (const char *)kata__buffer_bytes(&b), err);
	kata__buffer_deinit(&b);
	return rc;
}

static int load_modules(Grpc__KernelModule *const *modules, size_t count, kata_error **err)
{
	int rc = 0;

	for (size_t i = 0; i < count && rc == 0; i++) {
		char parameters[1024] = "";
		size_t n = 0;

		for (size_t j = 0; j < modules[i]->n_parameters && n < sizeof(parameters); j++)
			n += (size_t)snprintf(parameters + n, sizeof(parameters) - n, "%s%s", n ? " " : "",
					      modules[i]->parameters[j]);
		rc = n >= sizeof(parameters) ? kata__fail(err, KATA_E_INVALID, CALLER,
							  "kernel_modules[%zu]: parameters are too long", i)
					     : modules_load(modules[i]->name, parameters, err);
	}
	return rc;
}

struct sandbox_job {
	struct guest *guest;
	struct call *call;
};

/* What the sandbox itself holds, until the next CreateSandbox or the end. */
static struct storage_set *held;

static void forget_sandbox(struct call *call, void *user)
{
	((struct sandbox_job *)user)->call = NULL;
}

static void sandbox_storages_ready(void *user, struct storage_set *set, kata_error *err)
{
	struct sandbox_job *job = user;

	if (!err) {
		storage_set_release(job->guest->storages, held, NULL, NULL);
		held = set;
	}
	if (job->call) {
		if (err)
			call_answer_error(job->call, &err);
		else
			call_answer(job->call, NULL);
	}
	kata_error_free(err);
	free(job);
}

static int create_begin(struct guest *guest, struct call *call, const Grpc__CreateSandboxRequest *q, kata_error **err)
{
	struct sandbox_job *job;
	int rc;

	if (strlen(q->hostname) > 64)
		return kata__fail(err, KATA_E_INVALID, CALLER, "hostname: more than 64 bytes");
	if (q->guest_hook_path[0])
		return kata__fail(err, KATA_E_UNSUPPORTED, CALLER, "guest_hook_path: this agent runs no hooks");
	if ((rc = kata__mkdirs(SANDBOX_DIR, 0755, err)) != 0 ||
	    (rc = load_modules(q->kernel_modules, q->n_kernel_modules, err)) != 0 ||
	    (rc = write_dns(q->dns, q->n_dns, err)) != 0)
		return rc;
	if (q->hostname[0] && sethostname(q->hostname, strlen(q->hostname)) != 0)
		return kata__fail_errno(err, errno, "cannot set the hostname");
	job = calloc(1, sizeof(*job));
	if (!job)
		return kata__fail_no_memory(err);
	*job = (struct sandbox_job){.guest = guest, .call = call};
	rc = storages_mount(guest->storages, q->storages, q->n_storages, sandbox_storages_ready, job, err);
	if (rc != 0) {
		free(job);
		return rc;
	}
	call_park(call, forget_sandbox, job);
	return 0;
}

static void create_sandbox(void *user, struct call *call, const void *request)
{
	kata_error *err = NULL;

	if (create_begin(user, call, request, &err) != 0)
		call_answer_error(call, &err);
}

/* ---- destroy */

struct end {
	struct guest *guest;
	struct call *call;
	bool is_under_way;
};

static struct end end;

static void power_off(void *user)
{
	boot_power_off();
}

static void all_unmounted(void *user)
{
	if (end.call)
		call_answer(end.call, NULL);
	rpc_when_flushed(end.guest->rpc, power_off, NULL);
}

static void all_removed(void *user)
{
	storage_set_release(end.guest->storages, kata__take_ptr(held), all_unmounted, NULL);
}

static void forget_end(struct call *call, void *user)
{
	end.call = NULL;
}

static void destroy_sandbox(void *user, struct call *call, const void *request)
{
	struct guest *guest = user;
	struct kata__timer *timer;

	if (end.is_under_way) {
		call_answer_code(call, KATA__GRPC_FAILED_PRECONDITION, "the sandbox is being destroyed");
		return;
	}
	end = (struct end){.guest = guest, .call = call, .is_under_way = true};
	call_park(call, forget_end, NULL);
	/* A container that cannot be removed does not keep the machine on. */
	if (kata__timer_add(guest->loop, kata__deadline_in_ms(POWER_OFF_MS), power_off, NULL, &timer, NULL) != 0)
		kmsg_error("no timer for the power off");
	containers_remove_all(guest->containers, all_removed, NULL);
}

/* ---- time and entropy */

static void set_time(void *user, struct call *call, const void *request)
{
	const Grpc__SetGuestDateTimeRequest *q = request;
	struct timeval t = {.tv_sec = q->sec, .tv_usec = q->usec};

	if (q->usec < 0 || q->usec >= 1000000 || settimeofday(&t, NULL) != 0)
		call_answer_code(call, KATA__GRPC_INVALID_ARGUMENT, "cannot set the time to %lld s, %lld us",
				 (long long)q->sec, (long long)q->usec);
	else
		call_answer(call, NULL);
}

static void reseed_random(void *user, struct call *call, const void *request)
{
	const Grpc__ReseedRandomDevRequest *q = request;
	int rc;

	if (q->data.len == 0 || q->data.len > IDENTITY_ENTROPY_MAX) {
		call_answer_code(call, KATA__GRPC_INVALID_ARGUMENT, "data: %zu bytes, 1 to %d are needed", q->data.len,
				 IDENTITY_ENTROPY_MAX);
		return;
	}
	rc = identity_add_entropy(q->data.data, q->data.len);
	if (rc == 0)
		call_answer(call, NULL);
	else
		call_answer_code(call, KATA__GRPC_INTERNAL, "cannot reseed: %s", strerror(-rc));
}

/* ---- CPUs and memory */

/* Writes "1" to the file `leaf` of every directory PREFIX<number> that does not say "1" yet, up to `max` that do;
 * returns how many do in the end. */
static unsigned bring_online(const char *dir, const char *prefix, unsigned max)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	unsigned count = 0;

	while (d && count < max && (e = readdir(d))) {
		size_t n = strlen(prefix);
		char path[PATH_MAX], now = '0';
		KATA_AUTO_FD int fd = -1;

		if (strncmp(e->d_name, prefix, n) != 0 || !isdigit((unsigned char)e->d_name[n]))
			continue;
		snprintf(path, sizeof(path), "%s/%s/online", dir, e->d_name);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0) {
			count += errno == ENOENT; /* the first CPU cannot be switched */
			continue;
		}
		if (pread(fd, &now, 1, 0) == 1 && (now == '1' || pwrite(fd, "1", 1, 0) == 1))
			count++;
	}
	if (d)
		closedir(d);
	return count;
}

static void online_cpu_mem(void *user, struct call *call, const void *request)
{
	const Grpc__OnlineCPUMemRequest *q = request;
	unsigned cpus = q->nb_cpus ? bring_online(SYS "/devices/system/cpu", "cpu", q->nb_cpus) : 0;

	if (!q->cpu_only)
		bring_online(SYS "/devices/system/memory", "memory", UINT_MAX);
	if (cpus < q->nb_cpus)
		call_answer_code(call, KATA__GRPC_INTERNAL, "%u CPUs are online, not %u", cpus, q->nb_cpus);
	else
		call_answer(call, NULL);
}

static void on_memory_event(void *user, const char *action, const char *devpath)
{
	char path[PATH_MAX];
	int rc;

	if (strcmp(action, "add") != 0)
		return;
	snprintf(path, sizeof(path), SYS "%s/online", devpath);
	rc = text_file_write(path, "1");
	if (rc < 0)
		kmsg_error("cannot bring %s online: %s", devpath, strerror(-rc));
}

/* ---- files and metrics */

static void copy(void *user, struct call *call, const void *request)
{
	kata_error *err = NULL;

	if (copy_file(COPY_FILE_ROOT, request, &err) == 0)
		call_answer(call, NULL);
	else
		call_answer_error(call, &err);
}

static void metrics(void *user, struct call *call, const void *request)
{
	KATA_AUTO(free) char *meminfo = NULL;
	KATA_AUTO(free) char *load = NULL;
	Grpc__Metrics r = GRPC__METRICS__INIT;
	char text[1024];
	size_t len = 0;
	const char *total, *available;

	if (kata__read_file("/proc/meminfo", 65536, &meminfo, &len, NULL) != 0 ||
	    kata__read_file("/proc/loadavg", 4096, &load, &len, NULL) != 0) {
		call_answer_code(call, KATA__GRPC_INTERNAL, "cannot read /proc");
		return;
	}
	total = strstr(meminfo, "MemTotal:");
	available = strstr(meminfo, "MemAvailable:");
	snprintf(text, sizeof(text),
		 "# TYPE kata_guest_memory_bytes gauge\nkata_guest_memory_bytes{item=\"total\"} %llu\n"
		 "kata_guest_memory_bytes{item=\"available\"} %llu\n# TYPE kata_guest_load gauge\nkata_guest_load %g\n",
		 total ? strtoull(total + 9, NULL, 10) * 1024 : 0,
		 available ? strtoull(available + 13, NULL, 10) * 1024 : 0, strtod(load, NULL));
	r.metrics = text;
	call_answer(call, &r);
}

void service_sandbox_register(struct guest *guest)
{
	rpc_handler_fn *m = guest->handlers.methods;

	m[KATA__AGENT_CREATE_SANDBOX] = create_sandbox;
	m[KATA__AGENT_DESTROY_SANDBOX] = destroy_sandbox;
	m[KATA__AGENT_SET_GUEST_DATE_TIME] = set_time;
	m[KATA__AGENT_RESEED_RANDOM_DEV] = reseed_random;
	m[KATA__AGENT_ONLINE_CPU_MEM] = online_cpu_mem;
	m[KATA__AGENT_COPY_FILE] = copy;
	m[KATA__AGENT_GET_METRICS] = metrics;
}

int service_sandbox_begin(struct guest *guest, kata_error **err)
{
	return device_waits_subscribe(guest->waits, "memory", on_memory_event, guest, err);
}
