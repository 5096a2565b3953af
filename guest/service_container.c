/* SPDX-License-Identifier: Apache-2.0 */
/* The container methods of grpc.AgentService. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/cgroup.h"
#include "guest/container.h"
#include "guest/oom.h"

static void create(void *user, struct call *call, const void *request)
{
	container_create(((struct guest *)user)->containers, call, request);
}

/* NULL: there is none, and the call is answered. */
static struct container *find(struct guest *guest, struct call *call, const char *id)
{
	struct container *c = containers_find(guest->containers, id);

	if (!c)
		call_answer_code(call, KATA__GRPC_NOT_FOUND, "Invalid container id: there is no container '%.80s'", id);
	return c;
}

static void start(void *user, struct call *call, const void *request)
{
	const Grpc__StartContainerRequest *q = request;
	struct container *c = find(user, call, q->container_id);

	if (c)
		container_start(c, call);
}

static void pause_(void *user, struct call *call, const void *request)
{
	const Grpc__PauseContainerRequest *q = request;
	struct container *c = find(user, call, q->container_id);

	if (c)
		container_pause(c, call);
}

static void resume(void *user, struct call *call, const void *request)
{
	const Grpc__ResumeContainerRequest *q = request;
	struct container *c = find(user, call, q->container_id);

	if (c)
		container_resume(c, call);
}

static void update(void *user, struct call *call, const void *request)
{
	const Grpc__UpdateContainerRequest *q = request;
	struct container *c = find(user, call, q->container_id);

	if (c)
		container_update(c, call, q->resources);
}

static void remove_(void *user, struct call *call, const void *request)
{
	const Grpc__RemoveContainerRequest *q = request;
	struct container *c = find(user, call, q->container_id);

	if (c)
		container_remove(c, call);
}

static void exec(void *user, struct call *call, const void *request)
{
	const Grpc__ExecProcessRequest *q = request;
	struct container *c = find(user, call, q->container_id);

	if (c)
		container_exec(c, call, q);
}

/* ---- statistics */

#define BLKIO_ENTRIES_MAX 128

struct stats {
	Grpc__StatsContainerResponse response;
	Grpc__CgroupStats cgroup;
	Grpc__CpuStats cpu;
	Grpc__CpuUsage usage;
	Grpc__ThrottlingData throttling;
	Grpc__MemoryStats memory;
	Grpc__MemoryData memory_usage, swap_usage;
	Grpc__PidsStats pids;
	Grpc__BlkioStats blkio;
	Grpc__BlkioStatsEntry entries[BLKIO_ENTRIES_MAX];
	Grpc__BlkioStatsEntry *bytes[BLKIO_ENTRIES_MAX], *count[BLKIO_ENTRIES_MAX];
};

static void read_cpu(struct stats *s, const char *dir)
{
	KATA_AUTO(free) char *text = cgroup_read_text(dir, "cpu.stat");

	grpc__cpu_stats__init(&s->cpu);
	grpc__cpu_usage__init(&s->usage);
	grpc__throttling_data__init(&s->throttling);
	if (!text)
		return;
	s->usage.total_usage = cgroup_text_number(text, "usage_usec") * 1000;
	s->usage.usage_in_usermode = cgroup_text_number(text, "user_usec") * 1000;
	s->usage.usage_in_kernelmode = cgroup_text_number(text, "system_usec") * 1000;
	s->throttling.periods = cgroup_text_number(text, "nr_periods");
	s->throttling.throttled_periods = cgroup_text_number(text, "nr_throttled");
	s->throttling.throttled_time = cgroup_text_number(text, "throttled_usec") * 1000;
	s->cpu.cpu_usage = &s->usage;
	s->cpu.throttling_data = &s->throttling;
	s->cgroup.cpu_stats = &s->cpu;
}

static void read_memory(struct stats *s, const char *dir)
{
	KATA_AUTO(free) char *stat = cgroup_read_text(dir, "memory.stat");
	KATA_AUTO(free) char *events = cgroup_read_text(dir, "memory.events");

	grpc__memory_stats__init(&s->memory);
	grpc__memory_data__init(&s->memory_usage);
	grpc__memory_data__init(&s->swap_usage);
	s->memory_usage.usage = cgroup_read_number(dir, "memory.current");
	s->memory_usage.max_usage = cgroup_read_number(dir, "memory.peak"); /* 0 on kernels before 5.19 */
	s->memory_usage.limit = cgroup_read_number(dir, "memory.max");
	s->memory_usage.failcnt = events ? cgroup_text_number(events, "max") : 0;
	s->swap_usage.usage = cgroup_read_number(dir, "memory.swap.current");
	s->swap_usage.limit = cgroup_read_number(dir, "memory.swap.max");
	s->memory.cache = stat ? cgroup_text_number(stat, "file") : 0;
	s->memory.usage = &s->memory_usage;
	s->memory.swap_usage = &s->swap_usage;
	s->cgroup.memory_stats = &s->memory;
}

static void read_pids(struct stats *s, const char *dir)
{
	uint64_t max = cgroup_read_number(dir, "pids.max");

	grpc__pids_stats__init(&s->pids);
	s->pids.current = cgroup_read_number(dir, "pids.current");
	s->pids.limit = max == UINT64_MAX ? 0 : max;
	s->cgroup.pids_stats = &s->pids;
}

static void add_entry(struct stats *s, size_t *n, unsigned major, unsigned minor, const char *op, uint64_t value,
		      Grpc__BlkioStatsEntry **list, size_t *count)
{
	Grpc__BlkioStatsEntry *e;

	if (*n == BLKIO_ENTRIES_MAX)
		return;
	e = &s->entries[(*n)++];
	grpc__blkio_stats_entry__init(e);
	e->major = major;
	e->minor = minor;
	e->op = (char *)op;
	e->value = value;
	list[(*count)++] = e;
}

/* io.stat: "254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0" a line. */
static void read_blkio(struct stats *s, const char *dir)
{
	KATA_AUTO(free) char *text = cgroup_read_text(dir, "io.stat");
	char *save = NULL;
	size_t n = 0;

	grpc__blkio_stats__init(&s->blkio);
	s->blkio.io_service_bytes_recursive = s->bytes;
	s->blkio.io_serviced_recursive = s->count;
	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
		unsigned long long rb, wb, ri, wi;
		unsigned major, minor;

		if (sscanf(line, "%u:%u rbytes=%llu wbytes=%llu rios=%llu wios=%llu", &major, &minor, &rb, &wb, &ri,
			   &wi) != 6)
			continue;
		add_entry(s, &n, major, minor, "Read", rb, s->bytes, &s->blkio.n_io_service_bytes_recursive);
		add_entry(s, &n, major, minor, "Write", wb, s->bytes, &s->blkio.n_io_service_bytes_recursive);
		add_entry(s, &n, major, minor, "Read", ri, s->count, &s->blkio.n_io_serviced_recursive);
		add_entry(s, &n, major, minor, "Write", wi, s->count, &s->blkio.n_io_serviced_recursive);
	}
	s->cgroup.blkio_stats = &s->blkio;
}

static void stats(void *user, struct call *call, const void *request)
{
	const Grpc__StatsContainerRequest *q = request;
	struct container *c = find(user, call, q->container_id);
	struct stats *s;

	if (!c)
		return;
	if (!c->cgroup || c->state == CONTAINER_STOPPED || c->state == CONTAINER_REMOVING) {
		call_answer_code(call, KATA__GRPC_FAILED_PRECONDITION, "container %s has no control group, it is %s",
				 c->id, container_state_name(c->state));
		return;
	}
	s = calloc(1, sizeof(*s));
	if (!s) {
		call_answer_code(call, KATA__GRPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	grpc__stats_container_response__init(&s->response);
	grpc__cgroup_stats__init(&s->cgroup);
	s->response.cgroup_stats = &s->cgroup;
	read_cpu(s, c->cgroup);
	read_memory(s, c->cgroup);
	read_pids(s, c->cgroup);
	read_blkio(s, c->cgroup);
	call_answer(call, &s->response);
	free(s);
}

static void oom_event(void *user, struct call *call, const void *request)
{
	oom_wait(((struct guest *)user)->oom, call);
}

void service_container_register(struct guest *guest)
{
	rpc_handler_fn *m = guest->handlers.methods;

	m[KATA__AGENT_CREATE_CONTAINER] = create;
	m[KATA__AGENT_START_CONTAINER] = start;
	m[KATA__AGENT_PAUSE_CONTAINER] = pause_;
	m[KATA__AGENT_RESUME_CONTAINER] = resume;
	m[KATA__AGENT_UPDATE_CONTAINER] = update;
	m[KATA__AGENT_REMOVE_CONTAINER] = remove_;
	m[KATA__AGENT_EXEC_PROCESS] = exec;
	m[KATA__AGENT_STATS_CONTAINER] = stats;
	m[KATA__AGENT_GET_OOM_EVENT] = oom_event;
}
