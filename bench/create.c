/* SPDX-License-Identifier: Apache-2.0 */
/* Making and ending VMs: T1 (QEMU that has only just begun to boot) against the hand program, T0 (mock) alone. */
#include "bench.h"

#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hand/hand.h"
#include "vms.h"

#define SLOTS 8
#define STARTS 8 /* with one ballast, which takes longer to make than the start: the quickest counts */

struct create {
	struct bench *b;
	kata_context *ctx;
	kata_vm_builder *builder;
	struct hand_template template;
	size_t ballast;
};

static int add_devices(struct bench *b, kata_vm *vm)
{
	static const char *const disks[] = {"disk-a", "disk-b"}, *const nics[] = {"nic-a", "nic-b"};
	kata_error *err = NULL;
	int rc = 0;

	for (int i = 0; !rc && i < 2; i++) {
		kata_storage *disk = vms_disk(b, disks[i]);
		kata_nic *nic = vms_nic(nics[i]);

		rc = kata_vm_add_storage(vm, disk, NULL, &err) || kata_vm_add_nic(vm, nic, NULL, &err);
		kata_storage_unref(disk);
		kata_nic_unref(nic);
	}
	return rc ? bench_fail("add", err) : 0;
}

static kata_vm *create(struct create *c)
{
	kata_vm *vm = vms_build(c->b, c->builder, SLOTS);
	kata_error *err = NULL;

	if (!vm || add_devices(c->b, vm))
		return NULL;
	if (kata_vm_start(vm, NULL, &err)) {
		bench_fail("start", err);
		kata_vm_unref(vm);
		return NULL;
	}
	return vm;
}

/* Times: create, destroy. */
static int by_library(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct create *c = user;
	uint64_t begin = bench_now(), middle;
	kata_vm *vm = create(c);

	if (!vm)
		return -1;
	middle = bench_now();
	kata_vm_destroy(vm, NULL, NULL);
	ret_ns[0] = middle - begin;
	ret_ns[1] = bench_now() - middle;
	kata_vm_unref(vm);
	return 0;
}

static int by_hand(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct create *c = user;
	uint64_t begin = bench_now(), middle;
	static struct hand_vm vm;

	if (hand_start(&c->template, &vm))
		return -1;
	middle = bench_now();
	hand_quit(&vm);
	ret_ns[0] = middle - begin;
	ret_ns[1] = bench_now() - middle;
	return 0;
}

static int create_open(struct create *c, struct bench *b, bool standin)
{
	char dir[BENCH_DIR_MAX + 16];
	kata_vm *vm;
	int rc;

	memset(c, 0, sizeof(*c));
	c->b = b;
	c->ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	c->builder = c->ctx ? standin ? vms_standin(b, c->ctx) : vms_qemu(c->ctx) : NULL;
	vm = c->builder ? create(c) : NULL;
	if (!vm)
		return -1;
	snprintf(dir, sizeof(dir), "%s/hand", b->work_dir);
	rc = hand_capture(&c->template, (pid_t)kata_vm_get_pid(vm), dir);
	kata_vm_destroy(vm, NULL, NULL);
	kata_vm_unref(vm);
	if (rc)
		fprintf(stderr, "bench: the library's QEMU could not be read from /proc\n");
	return rc;
}

static void create_close(struct create *c)
{
	hand_forget(&c->template);
	kata_vm_builder_free(c->builder);
	kata_context_free(c->ctx, NULL);
}

static int create_and_destroy(struct bench *b, struct bench_value *values)
{
	struct create c;
	struct bench_pairs p = {by_library, by_hand, &c, 30, 2, 2, 3};
	int rc = create_open(&c, b, false);

	if (!rc)
		rc = bench_ratio(b, &p, values);
	create_close(&c);
	return rc;
}

/* ---- counts, by strace over a child that does it once ---- */

struct counts {
	double commands, forks, sleeps, calls;
};

/* bench_main calls these for `kata-bench ... --do lib|hand`: the action stands between two marks that strace shows. */
int bench_do(struct bench *b, const char *what)
{
	struct create c;
	uint64_t ns[BENCH_TIMES_MAX];
	int rc = create_open(&c, b, false);

	if (!rc)
		rc = by_library(&c, ns); /* warm: the worker threads are there, the accelerator is known */
	(void)!write(-1, "BENCH-BEGIN", 11);
	if (!rc && strcmp(what, "hand") == 0) {
		static struct hand_vm vm;

		rc = hand_start(&c.template, &vm);
		(void)!write(-1, "BENCH-END", 9);
		hand_quit(&vm);
	} else if (!rc) {
		kata_vm *vm = create(&c);

		(void)!write(-1, "BENCH-END", 9);
		kata_vm_destroy(vm, NULL, NULL);
		kata_vm_unref(vm);
	}
	create_close(&c);
	return rc;
}

#define PIDS_MAX 4194304

struct trace {
	bool has_execed[PIDS_MAX]; /* is QEMU, which does not count */
	bool is_of_qemu[PIDS_MAX]; /* a thread of such a process */
	char line[65536];
};

/* Lines are "PID call(...". The call, or NULL for what is none or a call's second half. */
static char *call_of(char *line, long *ret_pid)
{
	char *call;

	*ret_pid = strtol(line, &call, 10);
	call += strspn(call, " ");
	return *ret_pid > 0 && *ret_pid < PIDS_MAX && *call != '-' && *call != '+' ? call : NULL;
}

static bool is_call(const char *call, const char *name)
{
	return strncmp(call, name, strlen(name)) == 0 && call[strlen(name)] == '(';
}

/* QEMU's threads, by what its clone calls returned: that may stand behind their first lines. */
static void find_qemu(struct trace *t, FILE *f)
{
	bool is_first = true; /* strace's own start of the bench */
	long pid, child;
	char *call, *result;

	while (fgets(t->line, sizeof(t->line), f)) {
		call = call_of(t->line, &pid);
		if (!call)
			continue;
		if (is_call(call, "execve")) {
			t->has_execed[pid] = t->has_execed[pid] || !is_first;
			is_first = false;
		}
		result = strrchr(call, '=');
		child = strstr(call, "clone") && result && (t->has_execed[pid] || t->is_of_qemu[pid])
				? strtol(result + 1, NULL, 10)
				: 0;
		if (child > 0 && child < PIDS_MAX)
			t->is_of_qemu[child] = true;
	}
	memset(t->has_execed, 0, sizeof(t->has_execed));
}

static void count_call(const char *call, struct counts *n)
{
	if (call[0] == '<') /* the second half of a call counted before */
		return;
	n->calls++;
	n->commands += strstr(call, "execute\\\"") != NULL &&
		       (strncmp(call, "send", 4) == 0 || strncmp(call, "write", 5) == 0);
	n->forks += strncmp(call, "clone", 5) == 0 && !strstr(call, "CLONE_THREAD");
	n->forks += is_call(call, "fork") || is_call(call, "vfork");
	n->sleeps += is_call(call, "nanosleep") || is_call(call, "clock_nanosleep");
}

static void count_calls(struct trace *t, FILE *f, struct counts *n)
{
	bool counting = false;
	char *call;
	long pid;

	while (fgets(t->line, sizeof(t->line), f)) {
		call = call_of(t->line, &pid);
		if (strstr(t->line, "BENCH-BEGIN") || strstr(t->line, "BENCH-END"))
			counting = strstr(t->line, "BENCH-BEGIN") != NULL;
		else if (call && counting && is_call(call, "execve"))
			t->has_execed[pid] = true;
		else if (call && counting && !t->has_execed[pid] && !t->is_of_qemu[pid])
			count_call(call, n);
	}
}

static int read_trace(const char *path, struct counts *n)
{
	struct trace *t = calloc(1, sizeof(*t));
	FILE *f = fopen(path, "re");

	memset(n, 0, sizeof(*n));
	if (t && f) {
		find_qemu(t, f);
		rewind(f);
		count_calls(t, f, n);
	}
	if (f)
		fclose(f);
	free(t);
	return n->calls > 0 && n->commands > 0 ? 0 : -1;
}

static int trace(struct bench *b, const char *what, struct counts *ret)
{
	char path[256], self[512];
	char *argv[] = {(char *)"strace",
			(char *)"-f",
			(char *)"-qq",
			(char *)"-s",
			(char *)"96",
			(char *)"-o",
			path,
			self,
			(char *)b->guest_dir,
			(char *)b->build_dir,
			(char *)"--do",
			(char *)what,
			(char *)b->work_dir,
			NULL};
	int status = -1;
	pid_t pid;

	snprintf(path, sizeof(path), "%s/trace", b->work_dir);
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return -1;
	self[readlink("/proc/self/exe", self, sizeof(self) - 1)] = '\0';
	pid = fork(); /* a tool, started by a bench: no library code runs in the child */
	if (pid == 0) {
		execvp("strace", argv);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		fprintf(stderr, "bench: strace %s ended with %d (is strace installed?)\n", what, status);
		return -1;
	}
	return read_trace(path, ret);
}

static int counts(struct bench *b, struct bench_value *values)
{
	struct counts library, hand;

	if (trace(b, "hand", &hand) || trace(b, "lib", &library))
		return -1;
	bench_count(&values[0], library.commands - hand.commands);
	bench_count(&values[1], library.forks);
	bench_count(&values[2], library.sleeps);
	bench_count(&values[3], library.calls / hand.calls);
	return 0;
}

/* ---- T0 ---- */

static int mock_once(kata_vm_builder *builder)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_error *err = NULL;
	kata_vm *vm = NULL;
	int rc = kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err) || kata_vm_start(vm, NULL, &err) ||
		 kata_vm_destroy(vm, NULL, &err);

	kata_vm_unref(vm);
	return rc ? bench_fail("mock", err) : 0;
}

static int cpu(struct bench *b, struct bench_value *ret)
{
	kata_context *ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	kata_vm_builder *builder = NULL;
	int rc = !ctx || kata_vm_builder_new_mock(ctx, &builder, NULL) || mock_once(builder), n = b->quick ? 200 : 2000;
	uint64_t begin = bench_cpu_ns();

	for (int i = 0; !rc && i < n; i++)
		rc = mock_once(builder);
	bench_count(ret, (double)(bench_cpu_ns() - begin) / 1000 / n);
	ret->n = n;
	kata_vm_builder_free(builder);
	kata_context_free(ctx, NULL);
	return rc;
}

static int store_once(kata_context *ctx, kata_vm_builder *builder, sqlite3 *db, kata_persistence *p)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_sandbox *sandbox = NULL;
	kata_error *err = NULL;
	kata_vm *vm = NULL;
	int rc = kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err) || kata_vm_start(vm, NULL, &err) ||
		 kata_sandbox_new(ctx, NULL, vm, NULL, &sandbox, &err) || kata_sandbox_start(sandbox, NULL, &err) ||
		 sqlite3_exec(db, "BEGIN", NULL, NULL, NULL) || kata_persistence_store_sandbox(p, sandbox, &err) ||
		 sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) || kata_sandbox_destroy(sandbox, NULL, &err) ||
		 kata_persistence_delete_sandbox(p, kata_sandbox_get_id(sandbox), &err);

	kata_sandbox_unref(sandbox);
	kata_vm_unref(vm);
	return rc ? bench_fail("mock sandbox", err) : 0;
}

/* Sandboxes (a mock VM, its agent, a commit) made and destroyed in a second of one core, all on this one thread: its
 * CPU time, so that what else the machine does is not in it. */
static int rate(struct bench *b, struct bench_value *ret)
{
	kata_context *ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	kata_vm_builder *builder = NULL;
	kata_persistence *p = NULL;
	kata_error *err = NULL;
	sqlite3 *db = NULL;
	char path[256];
	int n = b->quick ? 100 : 3000, rc;
	uint64_t begin;

	snprintf(path, sizeof(path), "%s/rate.db", b->work_dir);
	rc = !ctx || kata_vm_builder_new_mock(ctx, &builder, &err) || sqlite3_open(path, &db) ||
	     sqlite3_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL", NULL, NULL, NULL) ||
	     kata_persistence_new_sqlite_attached(ctx, db, NULL, &p, &err) || kata_persistence_create_schema(p, &err) ||
	     store_once(ctx, builder, db, p);
	begin = bench_cpu_ns();
	for (int i = 0; !rc && i < n; i++)
		rc = store_once(ctx, builder, db, p);
	bench_count(ret, n / ((double)(bench_cpu_ns() - begin) / 1e9));
	ret->n = n;
	kata_persistence_free(p);
	sqlite3_close(db);
	kata_vm_builder_free(builder);
	kata_context_free(ctx, NULL);
	remove(path);
	return rc ? bench_fail("rate", err) : 0;
}

/* ---- spawn ---- */

static int start_with_ballast(void *user, uint64_t ret_ns[BENCH_TIMES_MAX], size_t bytes)
{
	struct create *c = user;
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t ns[BENCH_TIMES_MAX];
	int rc = 0;

	if (memory == MAP_FAILED)
		return -1;
	memset(memory, 1, bytes);
	for (int i = 0; !rc && i < STARTS; i++) {
		rc = by_library(c, ns);
		ret_ns[0] = i == 0 || ns[0] < ret_ns[0] ? ns[0] : ret_ns[0];
	}
	munmap(memory, bytes);
	return rc;
}

static int large(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	return start_with_ballast(user, ret_ns, 512u << 20);
}

static int small(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	return start_with_ballast(user, ret_ns, 8u << 20);
}

/* Start of the stand-in (its own start costs about a millisecond, so that a copied page table would show) from a caller
 * of 512 MiB and of 8 MiB. */
static int spawn(struct bench *b, struct bench_value *ret)
{
	struct create c;
	struct bench_pairs p = {large, small, &c, 15, 2, 1, 1};
	int rc = create_open(&c, b, true);

	if (!rc)
		rc = bench_ratio(b, &p, ret);
	create_close(&c);
	return rc;
}

const struct bench_group bench_create[] = {
	{240,
	 create_and_destroy,
	 {{.name = "create_overhead", .unit = "ratio", .figures = {{NULL, 1.05, 1.00}}},
	  {.name = "destroy_vs_hand", .unit = "ratio", .figures = {{NULL, 1.3, 1.1}}}}},
	{60,
	 counts,
	 {{.name = "create_counts",
	   .unit = "count",
	   .figures =
		   {{"extra QMP commands", 0, 0}, {"forks", 1, 1}, {"sleeps", 0, 0}, {"syscalls / hand", 1.5, 1.1}}}}},
	{30, cpu, {{.name = "create_cpu_us", .unit = "us", .figures = {{NULL, 500, 150}}}}},
	{60,
	 rate,
	 {{.name = "mock_rate", .unit = "per second", .higher_is_better = true, .figures = {{NULL, 2000, 10000}}}}},
	{150, spawn, {{.name = "spawn_scaling", .unit = "ratio", .figures = {{NULL, 1.6, 1.1}}}}},
	{0, NULL, {{NULL}}},
};
