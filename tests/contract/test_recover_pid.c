/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pid that is given again on purpose: a VMM dies, and a process that has nothing to do with it gets its pid (a pid
 * namespace of its own, in which the next pid can be chosen). Neither recovery, nor who obtains the sandbox, nor who
 * destroys the machine by a handle that he rebuilt before, sends it anything.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/recover_scene.h"

#define LAST_PID "/proc/sys/kernel/ns_last_pid"
#define TRIES 50
#define NOT_HERE 77 /* the exit status of who may not make a namespace */

static void say(struct scene *sc, const char *what)
{
	snprintf(sc->board->problem, sizeof(sc->board->problem), "%s: %s", what, strerror(errno));
	_exit(1);
}

/* ---- in the namespace, as its init ---- */

static volatile sig_atomic_t hit;

static void note(int sig)
{
	hit = sig;
}

/* Ends by 0 when told to by a byte, by 1 when it ever got a signal. */
static void be_a_stranger(int fd)
{
	struct sigaction act = {.sa_handler = note};
	char byte;

	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &act, NULL);
	while (read(fd, &byte, 1) < 0 && errno == EINTR)
		;
	_exit(hit ? 1 : 0);
}

struct stranger {
	pid_t pid;
	int fd;
};

static void choose_next_pid(struct scene *sc, pid_t pid)
{
	char text[16];
	int fd = open(LAST_PID, O_WRONLY | O_CLOEXEC);
	int n = snprintf(text, sizeof(text), "%d", (int)pid - 1);

	if (fd < 0 || write(fd, text, (size_t)n) != n)
		say(sc, LAST_PID);
	close(fd);
}

static struct stranger start_stranger(struct scene *sc)
{
	struct stranger s;
	int fds[2];

	if (pipe(fds) < 0)
		say(sc, "pipe");
	s.fd = fds[1];
	s.pid = fork();
	if (s.pid == 0) {
		close(fds[1]);
		be_a_stranger(fds[0]);
	}
	close(fds[0]);
	return s;
}

static struct stranger take_pid(struct scene *sc, pid_t pid)
{
	for (int i = 0; i < TRIES; i++) { /* a thread that begins takes a pid too */
		struct stranger s;

		choose_next_pid(sc, pid);
		s = start_stranger(sc);
		if (s.pid == pid)
			return s;
		close(s.fd);
		kill(s.pid, SIGKILL);
		waitpid(s.pid, NULL, 0);
	}
	say(sc, "others were quicker");
	return (struct stranger){0};
}

static void check_stranger(struct scene *sc, struct stranger *s)
{
	int status;

	if (write(s->fd, "x", 1) != 1 || waitpid(s->pid, &status, 0) != s->pid || status != 0)
		say(sc, "the stranger got a signal");
	close(s->fd);
}

/* A child's end; init reaps others' children too. */
static int wait_for(pid_t pid)
{
	int status = 0;
	pid_t ended;

	while ((ended = wait(&status)) != pid)
		if (ended < 0 && errno != EINTR)
			return -1;
	return status;
}

static void end_vmm(struct scene *sc, pid_t vmm)
{
	if (kill(vmm, SIGKILL) < 0)
		say(sc, "the VMM");
	while (kill(vmm, 0) == 0 && wait(NULL) > 0) /* it is init's child since its starter died */
		;
}

static int run(struct scene *sc, void (*fn)(struct scene *sc))
{
	pid_t pid = fork();

	if (pid == 0) {
		fn(sc);
		_exit(0);
	}
	return wait_for(pid);
}

/* ---- an owner dies, then his VMM; the next obtains, or recovers */

static void owner(struct scene *sc)
{
	struct actor a;
	kata_vm *vm;

	actor_open(&a, sc);
	vm = kata_sandbox_get_vm(actor_start_sandbox(&a, "sb"));
	sc->board->number = kata_vm_get_pid(vm);
	raise(SIGKILL);
}

static void heir(struct scene *sc)
{
	kata_recover_report *report;
	kata_sandbox *s = NULL;
	kata_error *err = NULL;
	struct actor a;
	size_t vm, sandbox;

	actor_open(&a, sc);
	actor_want(&a, kata_persistence_obtain_sandbox(a.p, "sb", a.builder, NULL, NULL, &s, &err) < 0,
		   "a sandbox without a VMM was obtained");
	error_clear(&err);
	report = actor_recover(&a, KATA_RECOVER_APPLY);
	vm = actor_find(report, "vm", "sb");
	sandbox = actor_find(report, "sandbox", "sb");
	actor_want(&a, vm != SIZE_MAX, "the machine is not found");
	actor_want(&a, fixture_was_undone(report, vm), kata_recover_report_get_text(report, vm));
	actor_want(&a, sandbox != SIZE_MAX, "the record is not found");
	actor_want(&a, fixture_was_undone(report, sandbox), kata_recover_report_get_text(report, sandbox));
	kata_recover_report_free(report);
	report = actor_recover(&a, 0);
	actor_want(&a, kata_recover_report_get_count(report) == 0, "recovering again finds something");
	kata_recover_report_free(report);
	actor_close(&a);
}

static void obtain_and_recover(struct scene *sc)
{
	struct stranger s;

	run(sc, owner);
	end_vmm(sc, (pid_t)sc->board->number);
	s = take_pid(sc, (pid_t)sc->board->number);
	if (run(sc, heir) != 0)
		_exit(1);
	check_stranger(sc, &s);
}

/* ---- a machine is rebuilt, its VMM dies, its handle is destroyed */

static int told[2], asked[2]; /* pipes between the holder of the handle and init */

static void releaser(struct scene *sc)
{
	kata_error *err = NULL;
	char *json = NULL;
	struct actor a;
	kata_vm *vm;

	actor_open(&a, sc);
	vm = actor_start_vm(&a, "vm");
	sc->board->number = kata_vm_get_pid(vm);
	MUST(&a, kata_vm_release(vm, NULL, &json, &err));
	snprintf(sc->board->record, sizeof(sc->board->record), "%s", json);
	raise(SIGKILL);
}

static void holder(struct scene *sc)
{
	const char *record = sc->board->record;
	kata_error *err = NULL;
	kata_vm *vm = NULL;
	struct actor a;
	char byte;

	actor_open(&a, sc);
	MUST(&a, kata_vm_builder_build_from_released(a.builder, record, strlen(record), NULL, &vm, &err));
	actor_want(&a, write(asked[1], "x", 1) == 1 && read(told[0], &byte, 1) == 1, "the pipes");
	MUST(&a, kata_vm_destroy(vm, NULL, &err));
	kata_vm_unref(vm);
	actor_close(&a);
}

static void destroy_by_a_rebuilt_handle(struct scene *sc)
{
	struct stranger s;
	char byte;
	pid_t pid;

	if (pipe(told) < 0 || pipe(asked) < 0)
		say(sc, "pipe");
	run(sc, releaser);
	pid = fork();
	if (pid == 0) {
		close(asked[0]);
		holder(sc);
		_exit(0);
	}
	close(asked[1]);
	if (read(asked[0], &byte, 1) != 1) /* it has ended: the board says why */
		_exit(1);
	end_vmm(sc, (pid_t)sc->board->number);
	s = take_pid(sc, (pid_t)sc->board->number);
	if (write(told[1], "x", 1) != 1 || wait_for(pid) != 0)
		_exit(1);
	check_stranger(sc, &s);
}

/* ---- */

static void (*play)(struct scene *sc);

static void enter_namespace(struct scene *sc)
{
	int status;
	pid_t init;

	if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0 || access(LAST_PID, W_OK) < 0)
		_exit(NOT_HERE);
	init = fork();
	if (init == 0) {
		if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		    mount("proc", "/proc", "proc", 0, NULL) < 0)
			_exit(NOT_HERE);
		play(sc);
		_exit(0);
	}
	if (init < 0 || waitpid(init, &status, 0) != init || !WIFEXITED(status))
		say(sc, "the namespace");
	_exit(WEXITSTATUS(status));
}

static void play_in_namespace(void (*fn)(struct scene *sc))
{
	struct scene sc;
	int64_t pids[4];
	int status;

	scene_init(&sc);
	play = fn;
	status = scene_run(&sc, enter_namespace);
	if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_HERE) {
		scene_deinit(&sc);
		cr_skip_test("no pid namespace in which the next pid can be chosen (it takes root)");
	}
	scene_assert_ended(&sc, status, "in the namespace");
	cr_assert_eq(census_find_processes(sc.binary, pids, 4), 0, "a VMM is left");
	scene_deinit(&sc);
}

Test(recover_pid, who_obtains_or_recovers_signals_no_stranger_with_the_pid_of_the_vmm, .timeout = 60)
{
	play_in_namespace(obtain_and_recover);
}

Test(recover_pid, destroying_by_a_rebuilt_handle_signals_no_stranger_with_the_pid_of_the_vmm, .timeout = 60)
{
	play_in_namespace(destroy_by_a_rebuilt_handle);
}
