/* SPDX-License-Identifier: Apache-2.0 */
/*
 * factory_load.c - rounds of clients.
 *
 * A round: some clients are started, and some of them are killed on their way to a machine. Those that have one say
 * which and hold it; what the dead left is recovered; the pool is awaited full. Now VMMs = pooled + held. Then each is
 * told what to do with it, and when all have gone and the rest was recovered: VMMs = pooled.
 */
#include "support/factory_load.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CLIENT KATA_BUILD_DIR "/tests/programs/factory_client"
#define CLIENTS_MAX 16u
#define ANSWER_MS 240000
#define UUIDS_MAX 65536u

extern char **environ;

struct client {
	pid_t pid;
	FILE *from;
	int to, from_fd;
	bool armed; /* to be killed on its way */
	bool holds;
	char uuid[37];
};

struct load {
	const struct factory_load *l;
	kata_context *context;
	kata_vm_builder *qemu, *cache;
	kata_factory_server *server;
	char socket[64];
	char (*uuids)[37];
	unsigned uuid_count, taken, killed; /* killed: on their way */
	unsigned ended[3];                  /* by what they were told: see words */
	kata_error *err;
};

static const char *const points[] = {
	"remote-take/ask:before",      "remote-take/ask:after",      "remote-take/take-over:before",
	"remote-take/take-over:after", "remote-take/claim-id:after", "remote-take/move:after",
	"remote-take/unmark:after",    "remote-take/stock:after",    "remote-take/confirm:before",
	"remote-take/confirm:after",   "rebuild/take-over:after",    "rebuild/drop-released:before",
	"rebuild/drop-released:after",
};

/* ---- the server ---- */

static void serve(struct load *s)
{
	kata_factory_server_options options = KATA_FACTORY_SERVER_OPTIONS_INIT;
	kata_cache_options cache_options = KATA_CACHE_OPTIONS_INIT;
	kata_qemu_options qemu = KATA_QEMU_OPTIONS_INIT;
	kata_cache_size size = KATA_CACHE_SIZE_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	s->context = fixture_new_context(s->l->f, 0);
	qemu.binary = s->l->binary;
	qemu.accelerator = KATA_ACCELERATOR_TCG;
	config.kernel = s->l->kernel;
	config.initrd = s->l->initrd;
	config.memory_mib = 192;
	size.config = &config;
	size.min = s->l->machines;
	cache_options.sizes = &size;
	cache_options.size_count = 1;
	cache_options.parallel = 2;
	cache_options.probe_ms = 30000; /* of a machine that does much else */
	options.socket_path = s->socket;
	options.take_ms = 120000;
	fixture_assert_ok(kata_vm_builder_new_qemu(s->context, &qemu, &s->qemu, &s->err), s->err);
	fixture_assert_ok(kata_vm_builder_new_cache(s->context, s->qemu, NULL, &cache_options, &s->cache, &s->err),
			  s->err);
	fixture_assert_ok(kata_factory_server_new(s->context, s->cache, &options, &s->server, &s->err), s->err);
}

static void stop_serving(struct load *s)
{
	kata_factory_server_free(s->server);
	kata_vm_builder_free(s->cache);
	kata_vm_builder_free(s->qemu);
	fixture_assert_ok(kata_context_free(s->context, &s->err), s->err);
}

static kata_cache_status cache_status(struct load *s)
{
	kata_cache_status c = {.size = sizeof(c)};

	fixture_assert_ok(kata_cache_get_status(s->cache, KATA_CACHE_ALL, &c, &s->err), s->err);
	return c;
}

static kata_factory_server_status server_status(struct load *s)
{
	kata_factory_server_status c = {.size = sizeof(c)};

	fixture_assert_ok(kata_factory_server_get_status(s->server, &c, &s->err), s->err);
	return c;
}

/* As many as are kept are ready, and nothing is under way. */
static void await_full(struct load *s)
{
	for (int i = 0;; i++) {
		kata_cache_status c;

		fixture_assert_ok(kata_cache_wait_ready(s->cache, s->l->machines, NULL, &s->err), s->err);
		c = cache_status(s);
		if (c.ready == s->l->machines && c.making + c.handing_out + c.ending == 0 &&
		    server_status(s).on_their_way == 0)
			return;
		cr_assert_lt(i, 60000, "the pool does not come to rest");
		usleep(5000); /* bounded: there is no event for a counter */
	}
}

/* Ends what dead clients left. */
static void recover(struct load *s)
{
	kata_context *context = fixture_new_context(s->l->f, 0);
	kata_recover_report *report = NULL;

	fixture_assert_ok(fixture_recover(context, NULL, KATA_RECOVER_APPLY, &report, &s->err), s->err);
	for (size_t i = 0; i < kata_recover_report_get_count(report); i++) {
		kata_recover_verdict verdict = kata_recover_report_get_verdict(report, i);

		cr_assert(verdict == KATA_RECOVER_OWNED || fixture_was_undone(report, i), "%s: %s",
			  kata_recover_verdict_get_name(verdict), kata_recover_report_get_text(report, i));
	}
	kata_recover_report_free(report);
	fixture_assert_ok(kata_context_free(context, &s->err), s->err);
}

/* Clients carry the directory's name too, and are left out. Who was killed a moment ago may still be on its way out. */
static size_t count_vmms(const struct load *s, size_t expected, size_t clients)
{
	int64_t pids[1];
	size_t n = 0;

	for (int i = 0; i < 400; i++) {
		n = census_find_processes(s->l->f->state_dir, pids, 1);
		n = n > clients ? n - clients : 0;
		if (n == expected)
			break;
		usleep(5000);
	}
	return n;
}

/* ---- clients ---- */

static void spawn_client(struct load *s, struct client *c)
{
	const char *point = rand() % 3 == 0 ? points[(size_t)rand() % (sizeof(points) / sizeof(points[0]))] : "-";
	const char *const argv[] = {CLIENT,       s->l->f->state_dir, s->l->binary, s->l->kernel,
				    s->l->initrd, s->socket,          point,        NULL};
	posix_spawn_file_actions_t actions;
	int to[2], from[2];

	memset(c, 0, sizeof(*c));
	cr_assert(pipe2(to, O_CLOEXEC) == 0 && pipe2(from, O_CLOEXEC) == 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, to[0], 0);
	posix_spawn_file_actions_adddup2(&actions, from[1], 1);
	cr_assert_eq(posix_spawn(&c->pid, CLIENT, &actions, NULL, (char *const *)(uintptr_t)argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(to[0]);
	close(from[1]);
	c->to = to[1];
	c->from_fd = from[0];
	c->from = fdopen(from[0], "r");
	c->armed = point[0] != '-';
}

/* A line, or "" when it is gone. */
static void read_line(struct client *c, char *line, size_t size)
{
	struct pollfd p = {c->from_fd, POLLIN, 0};

	line[0] = '\0';
	cr_assert_eq(poll(&p, 1, ANSWER_MS), 1, "a client says nothing");
	if (!fgets(line, (int)size, c->from))
		line[0] = '\0';
}

static void never_before(struct load *s, const char *uuid)
{
	for (unsigned i = 0; i < s->uuid_count; i++)
		cr_assert_str_neq(s->uuids[i], uuid, "it was handed out twice");
	cr_assert_lt(s->uuid_count, UUIDS_MAX);
	snprintf(s->uuids[s->uuid_count++], sizeof(s->uuids[0]), "%s", uuid);
}

/* Waits for its end: before that its machine has an owner. */
static int bury(struct client *c)
{
	int status;

	close(c->to);
	cr_assert_eq(waitpid(c->pid, &status, 0), c->pid);
	fclose(c->from);
	c->pid = 0;
	return status;
}

/* It says which machine it has; or was killed on its way. */
static void hear(struct load *s, struct client *c)
{
	char line[256], origin[16] = "";

	read_line(c, line, sizeof(line));
	if (!line[0]) {
		cr_assert(c->armed, "a client that was not to be killed has gone");
		s->killed++;
		bury(c);
		return;
	}
	cr_assert_eq(sscanf(line, "%36s %15s", c->uuid, origin), 2, "%s", line);
	cr_assert_str_eq(origin, "warm", "%s", line);
	never_before(s, c->uuid);
	c->holds = true;
	s->taken++;
}

static void finish(struct load *s, struct client *c)
{
	static const char *const words[] = {"use\n", "drop\n", "crash\n"};
	int which = rand() % 3;
	const char *word = words[which];
	char line[256];
	int status;

	if (!c->pid)
		return;
	if (c->holds) {
		cr_assert_gt(write(c->to, word, strlen(word)), 0);
		read_line(c, line, sizeof(line));
		cr_assert_str_eq(line, "works\n", "machine %s: %s", c->uuid, line);
		s->ended[which]++;
	}
	status = bury(c);
	if (c->holds && word[0] != 'c')
		cr_assert_eq(status, 0, "machine %s: %d", c->uuid, status);
}

static void one_round(struct load *s)
{
	unsigned count = 1 + (unsigned)rand() % s->l->clients, held = 0;
	struct client clients[CLIENTS_MAX];
	size_t n;

	for (unsigned i = 0; i < count; i++)
		spawn_client(s, &clients[i]);
	for (unsigned i = 0; i < count; i++) {
		hear(s, &clients[i]);
		held += clients[i].holds;
	}
	recover(s);
	await_full(s);
	n = count_vmms(s, s->l->machines + held, held);
	cr_assert_eq(n, s->l->machines + held, "%zu VMMs: pooled %u, taken %u", n, s->l->machines, held);
	for (unsigned i = 0; i < count; i++)
		finish(s, &clients[i]);
	recover(s);
	await_full(s);
	n = count_vmms(s, s->l->machines, 0);
	cr_assert_eq(n, s->l->machines, "%zu VMMs: pooled %u, taken 0", n, s->l->machines);
}

unsigned factory_load_run(const struct factory_load *l)
{
	struct load s = {.l = l, .uuids = calloc(UUIDS_MAX, sizeof(*s.uuids))};
	time_t end;
	unsigned seed = (unsigned)time(NULL), rounds = 0;

	cr_assert_not_null(s.uuids);
	cr_assert_leq(l->clients, CLIENTS_MAX);
	srand(seed);
	snprintf(s.socket, sizeof(s.socket), "%s/socket", l->f->dir);
	serve(&s);
	await_full(&s);
	for (end = time(NULL) + l->seconds; time(NULL) < end || !s.taken;
	     rounds++) /* a slow host is no reason to fail */
		one_round(&s);
	fprintf(stderr,
		"load: %u rounds, %u machines taken (%u used, %u dropped, %u crashed), %u clients killed on their way, "
		"%llu taken back, %llu unhealthy (seed %u)\n",
		rounds, s.taken, s.ended[0], s.ended[1], s.ended[2], s.killed,
		(unsigned long long)server_status(&s).taken_back, (unsigned long long)cache_status(&s).unhealthy, seed);
	stop_serving(&s);
	cr_assert_eq(count_vmms(&s, 0, 0), 0u);
	free(s.uuids);
	return s.taken;
}
