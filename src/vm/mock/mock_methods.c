/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mock_methods.c - what the simulated agent does on each call. Codes and rules are those of the Kata 3.x agent where it
 * has them; the processes are those of mock_process.h.
 *
 * A method returns true once it has answered (the call is gone then) and false when it has to wait; it is then tried
 * again after every change, so what it has done so far must be in call->progress.
 */
#include <inttypes.h>
#include <signal.h>
#include <string.h>

#include <kata/agent.h>

#include "agent.pb-c.h"
#include "base/clock.h"
#include "base/text.h"
#include "vm/mock/mock_call.h"

#define READ_MAX (1u << 20)
#define ENTROPY_MIN 32u
#define SAMPLE_MAX 64u
#define GUEST_FEATURE "libkata.guest" /* how our agent tells that it has the service kata.Guest */

typedef bool (*method_fn)(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request);

static bool done(struct kata__mock_call *call)
{
	kata__mock_call_answer(call, NULL);
	return true;
}

#define refuse(call, code, ...) (kata__mock_call_fail((call), KATA__GRPC_##code, __VA_ARGS__), true)

/* ---- lookup */

/* NULL and the call answered when there is none; `code` as the real agent has it for this method. */
static struct kata__mock_container *container_of(struct kata__mock_agent *a, struct kata__mock_call *call,
						 const char *id, int32_t code)
{
	struct kata__mock_container *c = kata__mock_guest_find(&a->guest, id);

	if (!c)
		kata__mock_call_fail(call, code, "Invalid container id");
	else
		c->calls += !call->in_list;
	return c;
}

static struct kata__mock_process *process_of(struct kata__mock_agent *a, struct kata__mock_call *call,
					     const char *container_id, const char *exec_id)
{
	struct kata__mock_container *c = container_of(a, call, container_id, KATA__GRPC_INVALID_ARGUMENT);
	struct kata__mock_process *p;

	if (!c)
		return NULL;
	p = kata__mock_container_find(c, exec_id);
	if (!p)
		kata__mock_call_fail(call, KATA__GRPC_NOT_FOUND, "Invalid exec id '%.64s'", exec_id);
	return p;
}

/* ---- health, guest, sandbox */

static bool check(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	Grpc__HealthCheckResponse r = GRPC__HEALTH_CHECK_RESPONSE__INIT;

	r.status = GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
	kata__mock_call_answer(call, &r.base);
	return true;
}

static bool version(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	Grpc__VersionCheckResponse r = GRPC__VERSION_CHECK_RESPONSE__INIT;

	r.grpc_version = (char *)"0.0.1";
	r.agent_version = (char *)"mock";
	kata__mock_call_answer(call, &r.base);
	return true;
}

static bool await_device(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__AwaitDeviceRequest *q = request;
	Grpc__AwaitDeviceResponse r = GRPC__AWAIT_DEVICE_RESPONSE__INIT;
	char name[32];
	uint64_t now_ns = kata__now_ns();

	if (a->host.find_device(a->user, q->kind, q->address, name, &r.size_bytes)) {
		r.name = name;
		kata__mock_call_answer(call, &r.base);
		return true;
	}
	if (call->await_deadline_ns == KATA__NEVER)
		call->await_deadline_ns = now_ns + q->timeout_ms * UINT64_C(1000000);
	if (now_ns >= call->await_deadline_ns)
		return refuse(call, DEADLINE_EXCEEDED, "no %.16s device at '%.64s' after %" PRIu32 " ms", q->kind,
			      q->address, q->timeout_ms);
	return false;
}

static bool offline_device(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__OfflineDeviceRequest *q = request;
	char name[32];
	uint64_t size;

	if (!a->host.find_device(a->user, q->kind, q->address, name, &size))
		return refuse(call, NOT_FOUND, "no %.16s device at '%.64s'", q->kind, q->address);
	if (kata__mock_guest_has_mounted(&a->guest, q->kind, q->address))
		return refuse(call, FAILED_PRECONDITION, "%s is mounted", name);
	return done(call);
}

static bool identify(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	Grpc__IdentifyResponse r = GRPC__IDENTIFY_RESPONSE__INIT;

	r.boot_id = a->boot_id;
	r.machine_id = (char *)"00000000000000000000000000000000";
	r.uptime_ns = kata__now_ns() - a->born_ns;
	r.last_session = a->sessions - 1;
	kata__mock_call_answer(call, &r.base);
	return true;
}

/* The random state of this guest is the entropy it was given last: equal ones give equal samples, others do not. */
static size_t draw_sample(struct kata__mock_agent *a, const Grpc__ResetIdentityRequest *q, uint8_t *sample)
{
	size_t used = q->entropy.len < sizeof(a->entropy) ? q->entropy.len : sizeof(a->entropy);

	if (used) {
		memset(a->entropy, 0, sizeof(a->entropy));
		memcpy(a->entropy, q->entropy.data, used);
	}
	for (size_t i = 0; i < q->sample_length; i++)
		sample[i] = (uint8_t)(a->entropy[i % sizeof(a->entropy)] + i);
	return q->sample_length;
}

static bool reset_identity(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__ResetIdentityRequest *q = request;
	Grpc__ResetIdentityResponse r = GRPC__RESET_IDENTITY_RESPONSE__INIT;
	uint8_t sample[SAMPLE_MAX];

	if (q->entropy.len && q->entropy.len < ENTROPY_MIN)
		return refuse(call, INVALID_ARGUMENT, "entropy: %zu bytes, at least %u are needed", q->entropy.len,
			      ENTROPY_MIN);
	if (q->sample_length > SAMPLE_MAX)
		return refuse(call, INVALID_ARGUMENT, "sample_length: %u, at most %u", q->sample_length, SAMPLE_MAX);
	if (*q->machine_id && strlen(q->machine_id) != 32)
		return refuse(call, INVALID_ARGUMENT, "machine_id: '%.64s' is not 32 digits", q->machine_id);
	r.done = (q->entropy.len ? KATA_RESET_ENTROPY : 0) | (q->seconds ? KATA_RESET_CLOCK : 0) |
		 (*q->hostname ? KATA_RESET_HOSTNAME : 0) | (*q->machine_id ? KATA_RESET_MACHINE_ID : 0) |
		 (q->n_macs ? KATA_RESET_MACS : 0);
	r.seconds = q->seconds;
	r.microseconds = q->microseconds;
	r.agent_version = (char *)"mock";
	r.sample = (ProtobufCBinaryData){.len = draw_sample(a, q, sample), .data = sample};
	kata__mock_call_answer(call, &r.base);
	return true;
}

static bool is_block(const char *driver)
{
	return strcmp(driver, "blk") == 0 || strcmp(driver, "scsi") == 0;
}

/* Mounts what is on a disk; other drivers need no device. True when it went well, else the call is answered. */
static bool mount_storages(struct kata__mock_agent *a, struct kata__mock_call *call, Grpc__Storage *const *storages,
			   size_t count, struct kata__mock_mount **list)
{
	char name[32];
	uint64_t size;

	for (size_t i = 0; i < count; i++) {
		const Grpc__Storage *s = storages[i];

		if (s->mount_point[0] != '/')
			return !refuse(call, INTERNAL, "mount point '%.64s' is not absolute", s->mount_point);
		if (!is_block(s->driver))
			continue;
		if (!a->host.find_device(a->user, s->driver, s->source, name, &size))
			return !refuse(call, INTERNAL, "Timeout reached waiting for device %.16s '%.64s'", s->driver,
				       s->source);
		if (!kata__mock_mount_add(list, s->driver, s->source))
			return !refuse(call, RESOURCE_EXHAUSTED, "out of memory");
	}
	return true;
}

static bool create_sandbox(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__CreateSandboxRequest *q = request;

	if (!mount_storages(a, call, q->storages, q->n_storages, &a->guest.mounts))
		return true;
	a->guest.sandbox_created = true;
	return done(call);
}

static bool destroy_sandbox(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	kata__mock_guest_clear(&a->guest);
	kata__mock_call_answer(call, NULL);
	a->host.power_off(a->user);
	return true;
}

static bool get_oom_event(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	if (a->guest.sandbox_created)
		return false;
	return refuse(call, INTERNAL, "there is no sandbox");
}

static bool guest_details(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	char *handlers[] = {(char *)"blk", (char *)"scsi", (char *)"ephemeral"};
	char *features[] = {(char *)GUEST_FEATURE};
	Grpc__AgentDetails details = GRPC__AGENT_DETAILS__INIT;
	Grpc__GuestDetailsResponse r = GRPC__GUEST_DETAILS_RESPONSE__INIT;

	details.version = (char *)"mock";
	details.init_daemon = true;
	details.storage_handlers = handlers;
	details.n_storage_handlers = kata__array_size(handlers);
	details.extra_features = features;
	details.n_extra_features = kata__array_size(features);
	r.mem_block_size_bytes = UINT64_C(128) << 20;
	r.agent_details = &details;
	kata__mock_call_answer(call, &r.base);
	return true;
}

static bool update_interface(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__UpdateInterfaceRequest *q = request;
	char name[32];
	uint64_t size;

	if (!q->interface || !*q->interface->name || !q->interface->mtu)
		return refuse(call, INVALID_ARGUMENT, "an interface needs a name and an MTU");
	if (!a->host.find_device(a->user, "net", q->interface->hwaddr, name, &size))
		return refuse(call, INTERNAL, "Link not found (Address: %.32s)", q->interface->hwaddr);
	kata__mock_call_answer(call, &q->interface->base);
	return true;
}

static bool update_routes(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__UpdateRoutesRequest *q = request;

	if (!q->routes)
		return refuse(call, INVALID_ARGUMENT, "empty update routes request");
	kata__mock_call_answer(call, &q->routes->base);
	return true;
}

static bool accept(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	return done(call);
}

static bool reseed(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__ReseedRandomDevRequest *q = request;

	if (!q->data.len)
		return refuse(call, INTERNAL, "no random data");
	return done(call);
}

/* ---- containers */

static const char *spec_problem(const Grpc__Spec *spec)
{
	if (!spec)
		return "no OCI spec";
	if (!spec->process || !spec->process->n_args || !*spec->process->args[0])
		return "the OCI spec has no process.args";
	if (!spec->root || spec->root->path[0] != '/')
		return "root.path is not an absolute path in the guest";
	for (size_t i = 0; i < spec->n_mounts; i++)
		if (strncmp(spec->mounts[i]->source, "storage:", 8) == 0)
			return "a mount's source names a storage instead of a path in the guest";
	return NULL;
}

static uint64_t memory_limit_of(const Grpc__Spec *spec)
{
	if (!spec->linux || !spec->linux->resources || !spec->linux->resources->memory ||
	    spec->linux->resources->memory->limit < 0)
		return 0;
	return (uint64_t)spec->linux->resources->memory->limit;
}

static struct kata__mock_process *new_process(const char *id, const Grpc__Process *process)
{
	struct kata__mock_process *p = kata__mock_process_new(id, process->args, process->n_args, process->terminal);

	if (p && process->consolesize)
		kata__mock_process_resize(p, process->consolesize->height, process->consolesize->width);
	return p;
}

static bool create_container(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__CreateContainerRequest *q = request;
	const char *problem = spec_problem(q->oci);
	struct kata__mock_container *c;
	struct kata__mock_process *init;

	if (!kata__id_is_valid(q->container_id) || strlen(q->container_id) < 2)
		return refuse(call, INTERNAL, "Invalid container id");
	if (problem)
		return refuse(call, INVALID_ARGUMENT, "%s", problem);
	if (kata__mock_guest_find(&a->guest, q->container_id))
		return refuse(call, INTERNAL, "container '%s' exists already", q->container_id);
	init = new_process(q->container_id, q->oci->process);
	c = init ? kata__mock_guest_add(&a->guest, q->container_id, init) : NULL;
	if (!c)
		return refuse(call, RESOURCE_EXHAUSTED, "out of memory");
	c->memory_limit = memory_limit_of(q->oci);
	if (!mount_storages(a, call, q->storages, q->n_storages, &c->mounts)) {
		kata__mock_guest_remove(&a->guest, c);
		return true;
	}
	return done(call);
}

static bool start_container(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__StartContainerRequest *q = request;
	struct kata__mock_container *c = container_of(a, call, q->container_id, KATA__GRPC_INTERNAL);

	if (!c)
		return true;
	if (c->processes->state != KATA__MOCK_PROCESS_CREATED)
		return refuse(call, ALREADY_EXISTS, "container '%s' was started already", c->id);
	kata__mock_process_start(c->processes);
	return done(call);
}

static bool remove_container(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__RemoveContainerRequest *q = request;
	struct kata__mock_container *c = container_of(a, call, q->container_id, KATA__GRPC_INTERNAL);

	if (!c)
		return true;
	kata__mock_guest_remove(&a->guest, c);
	return done(call);
}

static bool exec_process(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__ExecProcessRequest *q = request;
	struct kata__mock_container *c = container_of(a, call, q->container_id, KATA__GRPC_INTERNAL);
	struct kata__mock_process *p;

	if (!c)
		return true;
	if (c->processes->state != KATA__MOCK_PROCESS_RUNNING)
		return refuse(call, INTERNAL, "container '%s' is not running", c->id);
	if (!q->process || !q->process->n_args || !*q->process->args[0])
		return refuse(call, INVALID_ARGUMENT, "process.args is empty");
	kata__mock_container_drop_exited(c, q->exec_id);
	if (!*q->exec_id || kata__mock_container_find(c, q->exec_id))
		return refuse(call, INTERNAL, "exec_id '%.64s' already exists", q->exec_id);
	p = new_process(q->exec_id, q->process);
	if (!p)
		return refuse(call, RESOURCE_EXHAUSTED, "out of memory");
	kata__mock_container_add(c, p);
	kata__mock_process_start(p);
	return done(call);
}

static void signal_container(struct kata__mock_container *c, const char *exec_id, uint32_t signal)
{
	struct kata__mock_process *p = kata__mock_container_find(c, exec_id);

	if (!*exec_id && signal == SIGKILL) {
		for (p = c->processes; p; p = p->next)
			kata__mock_process_signal(p, signal);
		return;
	}
	/* As PID 1 a process without a handler would not see a TERM: the agent sends KILL in its place. */
	if (p == c->processes && signal == SIGTERM)
		signal = SIGKILL;
	kata__mock_process_signal(p, signal);
}

static bool signal_process(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__SignalProcessRequest *q = request;

	if (!process_of(a, call, q->container_id, q->exec_id))
		return true;
	if (q->signal > 64)
		return refuse(call, INVALID_ARGUMENT, "%" PRIu32 " is no signal", q->signal);
	signal_container(kata__mock_guest_find(&a->guest, q->container_id), q->exec_id, q->signal);
	return done(call);
}

static bool wait_process(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__WaitProcessRequest *q = request;
	struct kata__mock_process *p = process_of(a, call, q->container_id, q->exec_id);
	Grpc__WaitProcessResponse r = GRPC__WAIT_PROCESS_RESPONSE__INIT;

	if (!p)
		return true;
	if (p->state != KATA__MOCK_PROCESS_EXITED)
		return false;
	r.status = p->status;
	kata__mock_call_answer(call, &r.base);
	return true;
}

static bool stats_container(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__StatsContainerRequest *q = request;
	struct kata__mock_container *c = container_of(a, call, q->container_id, KATA__GRPC_INTERNAL);
	Grpc__CpuUsage usage = GRPC__CPU_USAGE__INIT;
	Grpc__CpuStats cpu = GRPC__CPU_STATS__INIT;
	Grpc__MemoryData data = GRPC__MEMORY_DATA__INIT;
	Grpc__MemoryStats memory = GRPC__MEMORY_STATS__INIT;
	Grpc__PidsStats pids = GRPC__PIDS_STATS__INIT;
	Grpc__CgroupStats cgroup = GRPC__CGROUP_STATS__INIT;
	Grpc__StatsContainerResponse r = GRPC__STATS_CONTAINER_RESPONSE__INIT;

	if (!c)
		return true;
	usage.total_usage = c->calls * 100000;
	cpu.cpu_usage = &usage;
	pids.current = kata__mock_container_count_running(c);
	data.usage = pids.current << 20;
	data.max_usage = UINT64_C(1) << 20;
	data.max_usage = data.usage > data.max_usage ? data.usage : data.max_usage;
	data.limit = c->memory_limit;
	memory.usage = &data;
	cgroup.cpu_stats = &cpu;
	cgroup.memory_stats = &memory;
	cgroup.pids_stats = &pids;
	r.cgroup_stats = &cgroup;
	kata__mock_call_answer(call, &r.base);
	return true;
}

static bool pause_container(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__PauseContainerRequest *q = request;
	struct kata__mock_container *c = container_of(a, call, q->container_id, KATA__GRPC_INTERNAL);

	if (!c)
		return true;
	if (c->processes->state == KATA__MOCK_PROCESS_EXITED || c->paused)
		return refuse(call, INTERNAL, "container '%s' is neither running nor created", c->id);
	kata__mock_container_set_paused(c, true);
	return done(call);
}

static bool resume_container(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__ResumeContainerRequest *q = request;
	struct kata__mock_container *c = container_of(a, call, q->container_id, KATA__GRPC_INTERNAL);

	if (!c)
		return true;
	if (!c->paused)
		return refuse(call, INTERNAL, "container '%s' is not paused", c->id);
	kata__mock_container_set_paused(c, false);
	return done(call);
}

/* ---- stdio */

static bool write_stdin(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__WriteStreamRequest *q = request;
	struct kata__mock_process *p = process_of(a, call, q->container_id, q->exec_id);
	Grpc__WriteStreamResponse r = GRPC__WRITE_STREAM_RESPONSE__INIT;

	if (!p)
		return true;
	if (p->stdin_closed || p->state == KATA__MOCK_PROCESS_EXITED)
		return refuse(call, INTERNAL, "Cannot get writer");
	if (!q->data.len)
		kata__mock_process_close_stdin(p);
	while (call->progress < q->data.len) {
		size_t n = kata__mock_process_write(p, q->data.data + call->progress, q->data.len - call->progress);

		if (!n)
			return false;
		call->progress += n;
		kata__mock_process_run(p, kata__now_ns());
	}
	r.len = (uint32_t)q->data.len;
	kata__mock_call_answer(call, &r.base);
	return true;
}

static bool close_stdin(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__CloseStdinRequest *q = request;
	struct kata__mock_process *p = process_of(a, call, q->container_id, q->exec_id);

	if (!p)
		return true;
	kata__mock_process_close_stdin(p);
	return done(call);
}

static bool read_stream(struct kata__mock_call *call, struct kata__mock_process *p, struct kata__buffer *from,
			uint32_t length)
{
	Grpc__ReadStreamResponse r = GRPC__READ_STREAM_RESPONSE__INIT;
	size_t n = kata__buffer_len(from);

	if (p->tty_dropped)
		return refuse(call, INTERNAL, "cannot get stream reader");
	if (!n && p->state != KATA__MOCK_PROCESS_EXITED)
		return false;
	length = length < READ_MAX ? length : READ_MAX;
	r.data.len = n < length ? n : length;
	r.data.data = (uint8_t *)(uintptr_t)kata__buffer_bytes(from);
	n = r.data.len;
	kata__mock_call_answer(call, &r.base);
	kata__buffer_consume(from, n);
	return true;
}

static bool read_stdout(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__ReadStreamRequest *q = request;
	struct kata__mock_process *p = process_of(a, call, q->container_id, q->exec_id);

	return !p || read_stream(call, p, &p->out, q->len);
}

static bool read_stderr(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__ReadStreamRequest *q = request;
	struct kata__mock_process *p = process_of(a, call, q->container_id, q->exec_id);

	return !p || read_stream(call, p, p->tty ? &p->out : &p->err, q->len);
}

static bool resize(struct kata__mock_agent *a, struct kata__mock_call *call, const void *request)
{
	const Grpc__TtyWinResizeRequest *q = request;
	struct kata__mock_process *p = process_of(a, call, q->container_id, q->exec_id);

	if (!p)
		return true;
	if (!p->tty)
		return refuse(call, UNAVAILABLE, "no tty");
	kata__mock_process_resize(p, q->row, q->column);
	return done(call);
}

static const method_fn methods[KATA__METHOD_COUNT] = {
	[KATA__HEALTH_CHECK] = check,
	[KATA__HEALTH_VERSION] = version,
	[KATA__GUEST_AWAIT_DEVICE] = await_device,
	[KATA__GUEST_OFFLINE_DEVICE] = offline_device,
	[KATA__GUEST_IDENTIFY] = identify,
	[KATA__GUEST_RESET_IDENTITY] = reset_identity,
	[KATA__GUEST_SETTLE] = accept,
	[KATA__AGENT_CREATE_SANDBOX] = create_sandbox,
	[KATA__AGENT_DESTROY_SANDBOX] = destroy_sandbox,
	[KATA__AGENT_GET_OOM_EVENT] = get_oom_event,
	[KATA__AGENT_GET_GUEST_DETAILS] = guest_details,
	[KATA__AGENT_UPDATE_INTERFACE] = update_interface,
	[KATA__AGENT_UPDATE_ROUTES] = update_routes,
	[KATA__AGENT_ADD_ARP_NEIGHBORS] = accept,
	[KATA__AGENT_ONLINE_CPU_MEM] = accept,
	[KATA__AGENT_SET_GUEST_DATE_TIME] = accept,
	[KATA__AGENT_RESEED_RANDOM_DEV] = reseed,
	[KATA__AGENT_CREATE_CONTAINER] = create_container,
	[KATA__AGENT_START_CONTAINER] = start_container,
	[KATA__AGENT_REMOVE_CONTAINER] = remove_container,
	[KATA__AGENT_EXEC_PROCESS] = exec_process,
	[KATA__AGENT_SIGNAL_PROCESS] = signal_process,
	[KATA__AGENT_WAIT_PROCESS] = wait_process,
	[KATA__AGENT_STATS_CONTAINER] = stats_container,
	[KATA__AGENT_PAUSE_CONTAINER] = pause_container,
	[KATA__AGENT_RESUME_CONTAINER] = resume_container,
	[KATA__AGENT_WRITE_STDIN] = write_stdin,
	[KATA__AGENT_CLOSE_STDIN] = close_stdin,
	[KATA__AGENT_READ_STDOUT] = read_stdout,
	[KATA__AGENT_READ_STDERR] = read_stderr,
	[KATA__AGENT_TTY_WIN_RESIZE] = resize,
};

bool kata__mock_method_try(struct kata__mock_agent *a, struct kata__mock_call *call)
{
	method_fn method = call->method < 0 ? NULL : methods[call->method];

	if (!method)
		return refuse(call, UNIMPLEMENTED, "method %s", kata__mock_call_method(call));
	return method(a, call, call->request);
}
