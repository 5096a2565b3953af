/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A factory shared between processes, one of which is killed at each step of a machine's way. The VMM is the stand-in.
 *
 * A client that dies: before it has the machine, the server ends it, and nothing of it is left; after that it is an
 * orphan like any. A server that dies: the client falls back, or has the machine; recovery ends the rest.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/fixture.h"

#define PEER KATA_BUILD_DIR "/tests/programs/factory_peer"
#define PEER_MS 60000

extern char **environ;

static struct fixture f;
static char *binary, *kernel;
static char path[64];
static kata_error *err;

static void setup(void)
{
	fixture_init(&f, false, 0);
	snprintf(path, sizeof(path), "%s/socket", f.dir);
	binary = fixture_make_standin(&f, NULL);
	kernel = fixture_make_kernel(&f);
}

static void teardown(void)
{
	free(binary);
	free(kernel);
	error_clear(&err);
	fixture_deinit(&f);
}

TestSuite(share_kill, .init = setup, .fini = teardown, .timeout = 300);

/* ---- steps ---- */

/* Calls fn for each step of the operations that begin with `only`, before and after. */
static void for_each_point(const char *only, void (*fn)(const char *point))
{
	const char *const argv[] = {PEER, "steps", NULL};
	char *steps = NULL, *rest = NULL;
	unsigned count = 0;
	char point[160];

	cr_assert_eq(fixture_run(argv, PEER_MS, &steps), 0);
	for (char *step = strtok_r(steps, "\n", &rest); step; step = strtok_r(NULL, "\n", &rest)) {
		if (strncmp(step, only, strlen(only)) != 0)
			continue;
		count++;
		snprintf(point, sizeof(point), "%s:before", step);
		fn(point);
		snprintf(point, sizeof(point), "%s:after", step);
		fn(point);
	}
	cr_assert_gt(count, 0u);
	free(steps);
}

static size_t recover(void)
{
	kata_context *context = fixture_new_context(&f, 0);
	kata_recover_report *report = NULL;
	size_t undone = 0;

	fixture_assert_ok(fixture_recover(context, NULL, KATA_RECOVER_APPLY, &report, &err), err);
	for (size_t i = 0; i < kata_recover_report_get_count(report); i++) {
		kata_recover_verdict verdict = kata_recover_report_get_verdict(report, i);

		cr_assert(verdict == KATA_RECOVER_OWNED || fixture_was_undone(report, i), "%s: %s",
			  kata_recover_verdict_get_name(verdict), kata_recover_report_get_text(report, i));
		undone += verdict != KATA_RECOVER_OWNED;
	}
	kata_recover_report_free(report);
	fixture_assert_ok(kata_context_free(context, &err), err);
	return undone;
}

/* ---- clients die; the server is here ---- */

static kata_context *context;
static kata_vm_builder *qemu, *cache;
static kata_factory_server *server;

static void serve(void)
{
	kata_factory_server_options options = KATA_FACTORY_SERVER_OPTIONS_INIT;
	kata_cache_options cache_options = KATA_CACHE_OPTIONS_INIT;
	kata_qemu_options qemu_options = KATA_QEMU_OPTIONS_INIT;
	kata_cache_size size = KATA_CACHE_SIZE_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	context = fixture_new_context(&f, 0);
	qemu_options.binary = binary;
	qemu_options.accelerator = KATA_ACCELERATOR_TCG;
	config.kernel = config.initrd = kernel;
	config.memory_mib = 192;
	size.config = &config;
	size.min = 1;
	cache_options.sizes = &size;
	cache_options.size_count = 1;
	options.socket_path = path;
	fixture_assert_ok(kata_vm_builder_new_qemu(context, &qemu_options, &qemu, &err), err);
	fixture_assert_ok(kata_vm_builder_new_cache(context, qemu, NULL, &cache_options, &cache, &err), err);
	fixture_assert_ok(kata_factory_server_new(context, cache, &options, &server, &err), err);
}

static void stop_serving(void)
{
	kata_factory_server_free(server);
	kata_vm_builder_free(cache);
	kata_vm_builder_free(qemu);
	fixture_assert_ok(kata_context_free(context, &err), err);
}

static int run_client(const char *point, char **ret_output)
{
	const char *const argv[] = {PEER, "client", f.state_dir, binary, kernel, kernel, path, "theirs", point, NULL};

	return fixture_run(argv, PEER_MS, ret_output);
}

static void await_nothing_on_its_way(const char *point)
{
	kata_factory_server_status s = {.size = sizeof(s)};

	for (int i = 0;; i++) {
		fixture_assert_ok(kata_factory_server_get_status(server, &s, &err), err);
		if (s.on_their_way == 0 && s.connections == 0)
			return;
		cr_assert_lt(i, 4000, "%s: a machine stays on its way", point);
		usleep(5000); /* bounded: there is no event for a counter */
	}
}

static size_t count_machines(void)
{
	int64_t pids[16];

	return census_find_processes(f.dir, pids, 16);
}

static void kill_client(const char *point)
{
	bool confirmed = strcmp(point, "remote-take/confirm:after") == 0;
	char *output = NULL;
	int status;

	fixture_assert_ok(kata_cache_wait_ready(cache, 1, NULL, &err), err);
	status = run_client(point, &output);
	cr_assert_eq(status, 128 + SIGKILL, "the client was not killed at %s but ended with %d: %s", point, status,
		     output);
	free(output);
	await_nothing_on_its_way(point);
	fixture_assert_ok(kata_cache_wait_ready(cache, 1, NULL, &err), err);
	cr_assert_eq(recover(), confirmed ? 1u : 0u, "%s: what the client had", point);
	cr_assert_eq(count_machines(), 1u, "%s: there are others than the pool's one", point);
}

Test(share_kill, clients_are_killed_at_each_step)
{
	char *output = NULL;

	serve();
	for_each_point("remote-take/", kill_client);
	fixture_assert_ok(kata_cache_wait_ready(cache, 1, NULL, &err), err);
	cr_assert_eq(run_client("-", &output), 0, "%s", output);
	cr_assert_str_eq(output, "warm\n");
	free(output);
	stop_serving();
	cr_assert_eq(count_machines(), 0u);
}

/* ---- servers die; the client is here ---- */

struct peer {
	pid_t pid;
	int in, out; /* its stdin, its stdout */
};

static void spawn_server(const char *machines, const char *point, struct peer *ret)
{
	const char *const argv[] = {PEER, "server", f.state_dir, binary, kernel, kernel, path, machines, point, NULL};
	posix_spawn_file_actions_t actions;
	int in[2], out[2];
	char line[16] = "";

	cr_assert(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in[0], 0);
	posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	cr_assert_eq(posix_spawn(&ret->pid, PEER, &actions, NULL, (char *const *)(uintptr_t)argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(in[0]);
	close(out[1]);
	ret->in = in[1];
	ret->out = out[0];
	cr_assert_eq(read(ret->out, line, sizeof(line) - 1), 6, "the server does not come up");
}

static int end_server(struct peer *p)
{
	int status;

	close(p->in);
	cr_assert_eq(waitpid(p->pid, &status, 0), p->pid);
	close(p->out);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* By a builder that falls back: it gets a VM that works, whatever becomes of the server. */
static void build_and_use(const char *point)
{
	kata_remote_options options = KATA_REMOTE_OPTIONS_INIT;
	kata_qemu_options qemu_options = KATA_QEMU_OPTIONS_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_context *here = fixture_new_context(&f, 0);
	kata_vm_builder *local = NULL, *remote = NULL;
	kata_vm *vm = NULL;

	qemu_options.binary = binary;
	qemu_options.accelerator = KATA_ACCELERATOR_TCG;
	options.socket_path = path;
	options.flags = KATA_REMOTE_FALL_BACK;
	config.kernel = config.initrd = kernel;
	config.memory_mib = 192;
	config.id = "ours";
	fixture_assert_ok(kata_vm_builder_new_qemu(here, &qemu_options, &local, &err), err);
	fixture_assert_ok(kata_vm_builder_new_remote(here, local, &options, &remote, &err), err);
	cr_assert_eq(kata_vm_builder_build(remote, &config, NULL, NULL, &vm, &err), 0, "%s: %s", point,
		     error_text(err));
	cr_assert_eq(kata_vm_start(vm, NULL, &err), 0, "%s: %s", point, error_text(err));
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
	kata_vm_builder_free(remote);
	kata_vm_builder_free(local);
	fixture_assert_ok(kata_context_free(here, &err), err);
}

static void kill_server(const char *point)
{
	struct peer server_process;

	spawn_server("2", point, &server_process);
	build_and_use(point);
	cr_assert_eq(end_server(&server_process), 128 + SIGKILL, "it was not killed at %s", point);
	recover();
	cr_assert_eq(count_machines(), 0u, "killed at %s", point);
	cr_assert_eq(recover(), 0u, "killed at %s: recovery is not done at once", point);
}

Test(share_kill, servers_are_killed_at_each_step)
{
	struct peer server_process;

	for_each_point("factory-serve/", kill_server);
	spawn_server("1", "-", &server_process);
	build_and_use("-");
	cr_assert_eq(end_server(&server_process), 0);
	cr_assert_eq(count_machines(), 0u);
}

/* ---- both die ---- */

Test(share_kill, both_die_and_recovery_ends_what_was_on_its_way)
{
	static const char *const points[] = {"remote-take/take-over:before", "remote-take/take-over:after",
					     "remote-take/move:after", "remote-take/unmark:after",
					     "remote-take/confirm:before"};
	struct peer server_process;

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		char *output = NULL;

		spawn_server("1", "-", &server_process);
		cr_assert_eq(run_client(points[i], &output), 128 + SIGKILL, "%s: %s", points[i], output);
		cr_assert_eq(kill(server_process.pid, SIGKILL), 0);
		end_server(&server_process);
		free(output);
		recover();
		cr_assert_eq(count_machines(), 0u, "killed at %s", points[i]);
	}
}
