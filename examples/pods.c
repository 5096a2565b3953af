/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A manager of pods in the style of hyperd: its own table says which pods there shall be, the library's tables beside
 * it say what became of them, and both change in one transaction.
 *
 *     pods GUEST_DIR WORK_DIR [reserved | booted | plugged | stored | ended]
 *
 * A first manager makes pod "web", begins to make pod "db", and dies of SIGKILL at the named point (default: stored,
 * the last moment before COMMIT; ended: db ran, its sandbox is gone again, its rows are not yet). A second one comes up
 * on the same database, as a daemon does that init has started again: it recovers, takes over the pod that never
 * stopped, makes the other anew, and at last ends both.
 *
 * The order is what matters: what is about to be made is written and committed before it is made, and what was made is
 * committed together with the row of the manager's own that says so. Whenever the process dies, the database says of
 * each pod either "running", and then it runs, or "provisioning", and then nothing of it is left after kata_recover.
 * The one exception is a pod whose sandbox has ended, by itself or because the manager ended it: kata_recover removes
 * its record, obtaining it is NOT_FOUND, and the pod is made anew as any other that shall be there and is not.
 */
#include <kata/kata.h>

#include <signal.h>
#include <spawn.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "parts.h"

#define COUNTER "i=0; while :; do i=$((i + 1)); echo $i >/count; sleep 0.2; done"

extern char **environ;

struct manager {
	const char *guest, *work, *die_at;
	sqlite3 *db;
	kata_context *ctx;
	kata_vm_builder *builder;
	kata_persistence *persistence;
};

static int failed(const char *what, kata_error *take_err)
{
	char *text = kata_error_to_text(take_err);

	fprintf(stderr, "pods: %s: %s", what, text ? text : "out of memory\n");
	free(text);
	kata_error_free(take_err);
	return -1;
}

static int sql(struct manager *m, const char *statement, const char *pod)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(m->db, statement, -1, &st, NULL);

	if (rc == SQLITE_OK && pod)
		rc = sqlite3_bind_text(st, 1, pod, -1, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc != SQLITE_DONE && rc != SQLITE_ROW)
		fprintf(stderr, "pods: %s: %s\n", statement, sqlite3_errmsg(m->db));
	sqlite3_finalize(st);
	return rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : -1;
}

/* ---- the manager ---- */

static int open_manager(struct manager *m)
{
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
	char state_dir[4096], path[4096];
	kata_error *err = NULL;

	snprintf(state_dir, sizeof(state_dir), "%s/s", m->work);
	snprintf(path, sizeof(path), "%s/pods.db", m->work);
	o.state_dir = state_dir;
	if (sqlite3_open(path, &m->db) != SQLITE_OK) {
		fprintf(stderr, "pods: %s: %s\n", path, sqlite3_errmsg(m->db));
		return -1;
	}
	if (sql(m, "PRAGMA journal_mode=WAL", NULL) ||
	    sql(m,
		"CREATE TABLE IF NOT EXISTS pods (id TEXT PRIMARY KEY, state TEXT NOT NULL CHECK (state IN "
		"('provisioning', 'running')))",
		NULL))
		return -1;
	if (kata_context_new(&o, &m->ctx, &err) || kata_vm_builder_new_qemu(m->ctx, NULL, &m->builder, &err) ||
	    kata_persistence_new_sqlite_attached(m->ctx, m->db, NULL, &m->persistence, &err) ||
	    kata_persistence_create_schema(m->persistence, &err))
		return failed("opening", err);
	return 0;
}

static void close_manager(struct manager *m)
{
	kata_persistence_free(m->persistence);
	kata_vm_builder_free(m->builder);
	kata_context_free(m->ctx, NULL);
	sqlite3_close(m->db);
}

static void die_at(const struct manager *m, const char *pod, const char *point)
{
	if (strcmp(pod, "db") != 0 || !m->die_at || strcmp(m->die_at, point) != 0)
		return;
	printf("manager %ld: killed while pod db is \"%s\"\n", (long)getpid(), point);
	fflush(stdout);
	raise(SIGKILL);
}

/* ---- making a pod ---- */

/* Decided, and nothing done yet: the pod, the id of its sandbox, and what it is going to have. */
static int reserve(struct manager *m, const char *pod, kata_error **err)
{
	kata_reservation_config vm = KATA_RESERVATION_CONFIG_INIT, root = KATA_RESERVATION_CONFIG_INIT;

	vm.sandbox_id = root.sandbox_id = pod;
	vm.kind = KATA_RESERVE_VM;
	root.kind = KATA_RESERVE_STORAGE;
	root.id = "root";
	return sql(m, "BEGIN IMMEDIATE", NULL) ||
	       sql(m, "INSERT OR REPLACE INTO pods VALUES (?1, 'provisioning')", pod) ||
	       kata_persistence_create_sandbox(m->persistence, pod, err) ||
	       kata_persistence_reserve(m->persistence, &vm, err) ||
	       kata_persistence_reserve(m->persistence, &root, err) || sql(m, "COMMIT", NULL);
}

static int boot(struct manager *m, const char *pod, kata_sandbox **ret, kata_error **err)
{
	kata_sandbox_options o = KATA_SANDBOX_OPTIONS_INIT;
	kata_vm_config vm = KATA_VM_CONFIG_INIT;
	char kernel[4096], initrd[4096];

	snprintf(kernel, sizeof(kernel), "%s/vmlinux", m->guest);
	snprintf(initrd, sizeof(initrd), "%s/initrd", m->guest);
	vm.id = o.id = pod;
	vm.kernel = kernel;
	vm.initrd = initrd;
	vm.memory_mib = 128;
	vm.device_slots = 4;
	return kata_sandbox_create(m->ctx, &o, m->builder, &vm, NULL, NULL, ret, err) ||
	       kata_sandbox_start(*ret, NULL, err);
}

static int plug_root(struct manager *m, const char *pod, kata_sandbox *s, kata_error **err)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_storage *root = NULL;
	char path[4096];
	int rc;

	snprintf(path, sizeof(path), "%s/%s.img", m->work, pod);
	c.id = "root";
	c.path = path;
	rc = make_rootfs(m->work, path) || kata_storage_new(&c, &root, err) ||
	     kata_sandbox_add_storage(s, root, NULL, err);
	kata_storage_unref(root);
	return rc;
}

static int run_counter(kata_sandbox *s, kata_error **err)
{
	kata_container_config c = KATA_CONTAINER_CONFIG_INIT;
	char spec[4096];

	container_spec(spec, sizeof(spec), "storage:root", COUNTER);
	c.id = "counter";
	c.oci_spec = spec;
	return kata_sandbox_add_container(s, &c, NULL, err) || kata_sandbox_start_container(s, "counter", NULL, err);
}

/* Made, and said so, at one moment: our row and the library's. */
static int commit(struct manager *m, const char *pod, kata_sandbox *s, kata_error **err)
{
	if (sql(m, "BEGIN IMMEDIATE", NULL) || sql(m, "UPDATE pods SET state = 'running' WHERE id = ?1", pod) ||
	    kata_persistence_store_sandbox(m->persistence, s, err))
		return -1;
	die_at(m, pod, "stored");
	return sql(m, "COMMIT", NULL);
}

static int make_pod(struct manager *m, const char *pod, kata_sandbox **ret)
{
	kata_error *err = NULL;

	if (reserve(m, pod, &err))
		return failed(pod, err);
	die_at(m, pod, "reserved");
	if (boot(m, pod, ret, &err))
		return failed(pod, err);
	die_at(m, pod, "booted");
	if (plug_root(m, pod, *ret, &err))
		return failed(pod, err);
	die_at(m, pod, "plugged");
	if (run_counter(*ret, &err) || commit(m, pod, *ret, &err))
		return failed(pod, err);
	printf("manager %ld: pod %s runs\n", (long)getpid(), pod);
	return 0;
}

/* ---- coming back ---- */

static int recover(struct manager *m)
{
	kata_recover_options o = KATA_RECOVER_OPTIONS_INIT;
	kata_recover_report *report = NULL;
	kata_error *err = NULL;
	size_t left;

	o.flags = KATA_RECOVER_APPLY;
	if (kata_recover(m->ctx, m->persistence, &o, &report, &err))
		return failed("recovering", err);
	for (size_t i = 0; i < kata_recover_report_get_count(report); i++)
		printf("manager %ld: found %s %s: %s%s\n", (long)getpid(), kata_recover_report_get_kind(report, i),
		       kata_recover_report_get_id(report, i),
		       kata_recover_verdict_get_name(kata_recover_report_get_verdict(report, i)),
		       kata_recover_report_is_undone(report, i) ? ", undone" : "");
	left = kata_recover_report_get_left(report);
	kata_recover_report_free(report);
	return left ? unexpected("the recovery left something") : 0;
}

static int read_counter(kata_sandbox *s, char *out, size_t size)
{
	kata_process_config c = KATA_PROCESS_CONFIG_INIT;
	char process[1024];
	kata_error *err = NULL;
	int32_t status = -1;
	int fd = -1;

	process_spec(process, sizeof(process), "sleep 0.5; cat /count", false);
	c.exec_id = "look";
	c.oci_process = process;
	if (kata_sandbox_add_process(s, "counter", &c, NULL, &err) ||
	    kata_sandbox_open_stdio(s, "counter", "look", NULL, &fd, NULL, &err))
		return failed("exec", err);
	read_line(fd, out, size);
	close(fd);
	if (kata_sandbox_wait_process(s, "counter", "look", NULL, &status, &err))
		return failed("exec", err);
	return atoi(out) > 0 ? 0 : unexpected("the counter");
}

/* A pod is what our table says: one that runs is taken over, one that was being made is made. */
static int bring_up(struct manager *m, const char *pod, const char *state, kata_sandbox **ret)
{
	bool runs = strcmp(state, "running") == 0;
	kata_error *err = NULL;
	char count[32] = "";
	int rc = runs ? kata_persistence_obtain_sandbox(m->persistence, pod, m->builder, NULL, NULL, ret, &err) : 0;

	if (rc == KATA_E_NOT_FOUND) {
		runs = false;
		kata_error_free(err);
	} else if (rc) {
		return failed(pod, err);
	}
	if (!runs && make_pod(m, pod, ret))
		return -1;
	if (read_counter(*ret, count, sizeof(count)))
		return -1;
	printf("manager %ld: pod %s was \"%s\", is %s; its counter stands at %s\n", (long)getpid(), pod, state,
	       runs ? "taken over" : "made anew", count);
	return 0;
}

/* The sandbox goes first: killed in between, the rows of a pod that is gone are what the next recovery finds. */
static int end_pod(struct manager *m, const char *pod, kata_sandbox *take)
{
	kata_error *err = NULL;
	int rc = kata_sandbox_destroy(take, NULL, &err);

	if (!rc)
		die_at(m, pod, "ended");
	rc = rc || sql(m, "BEGIN IMMEDIATE", NULL) || sql(m, "DELETE FROM pods WHERE id = ?1", pod) ||
	     kata_persistence_delete_sandbox(m->persistence, pod, &err) || sql(m, "COMMIT", NULL);
	kata_sandbox_unref(take);
	return rc ? failed(pod, err) : 0;
}

static int come_back(struct manager *m)
{
	struct {
		char id[65], state[16];
	} pods[8];
	kata_sandbox *s[8] = {NULL};
	sqlite3_stmt *st = NULL;
	size_t count = 0;
	int rc = recover(m);

	if (rc ||
	    sqlite3_prepare_v2(m->db, "SELECT id, state FROM pods ORDER BY state DESC", -1, &st, NULL) != SQLITE_OK)
		return -1;
	while (count < 8 && sqlite3_step(st) == SQLITE_ROW) {
		snprintf(pods[count].id, sizeof(pods[count].id), "%s", (const char *)sqlite3_column_text(st, 0));
		snprintf(pods[count].state, sizeof(pods[count].state), "%s", (const char *)sqlite3_column_text(st, 1));
		count++;
	}
	sqlite3_finalize(st);
	for (size_t i = 0; i < count && !rc; i++)
		rc = bring_up(m, pods[i].id, pods[i].state, &s[i]);
	for (size_t i = 0; i < count; i++)
		if (s[i] && end_pod(m, pods[i].id, s[i]))
			rc = -1;
	return rc ? rc : recover(m); /* finds nothing */
}

/* ---- two managers ---- */

static int run_first(char **argv, const char *point)
{
	static char first[] = "first";
	char *const args[] = {argv[0], argv[1], argv[2], (char *)(uintptr_t)point, first, NULL};
	int status = 0;
	pid_t pid;

	if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, args, environ) || waitpid(pid, &status, 0) != pid)
		return unexpected("the first manager did not start");
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 0 : unexpected("the first manager was not killed");
}

static bool is_point(const char *point)
{
	static const char *const points[] = {"reserved", "booted", "plugged", "stored", "ended"};

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		if (strcmp(point, points[i]) == 0)
			return true;
	return false;
}

int main(int argc, char **argv)
{
	struct manager m = {.guest = argc > 1 ? argv[1] : NULL, .work = argc > 2 ? argv[2] : NULL};
	const char *point = argc > 3 ? argv[3] : "stored";
	bool is_first = argc > 4 && strcmp(argv[4], "first") == 0;
	kata_sandbox *s[2] = {NULL};
	int rc;

	if (argc < 3 || !is_point(point)) {
		fprintf(stderr, "usage: pods GUEST_DIR WORK_DIR [reserved | booted | plugged | stored | ended]\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	m.die_at = is_first ? point : NULL;
	rc = is_first ? 0 : run_first(argv, point);
	if (!rc)
		rc = open_manager(&m);
	if (!rc)
		rc = is_first ? make_pod(&m, "web", &s[0]) || make_pod(&m, "db", &s[1]) || end_pod(&m, "db", s[1])
			      : come_back(&m);
	close_manager(&m);
	return rc ? 1 : 0;
}
