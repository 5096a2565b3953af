/* SPDX-License-Identifier: Apache-2.0 */
/* The states of a VM: what each permits and forbids, and how it gets from one to the other. */
#include <poll.h>
#include <pthread.h>

#include "fake_driver.h"

static struct fixture f;
static kata_vm *vm;
static kata_op *held; /* the op that a fail-point holds, so that the state in between lasts */
static kata_error *err;

static void setup(void)
{
	fixture_init(&f, true, 0);
}

static void teardown(void)
{
	if (f.context)
		kata_context_clear_fail_point(f.context, NULL);
	if (held) {
		kata_op_cancel(held);
		kata_op_wait(held, NULL);
		kata_op_unref(held);
	}
	kata_vm_unref(vm);
	error_clear(&err);
	fixture_deinit(&f);
}

TestSuite(states, .init = setup, .fini = teardown, .timeout = 30);

static void rebuild_held(void)
{
	char *json = NULL;

	fixture_assert_ok(kata_vm_release(vm, NULL, &json, &err), err);
	kata_vm_unref(vm);
	vm = NULL;
	fake_arm(&f, "rebuild/act:before", KATA_FAIL_HANG);
	fixture_assert_ok(fake_rebuild_begin(&f, json, &vm, &held, &err), err);
	free(json);
}

/* Brings `vm` into the state; `held` is then the op in between, if any. */
static void reach(kata_vm_state state)
{
	vm = fake_new_vm(&f, "vm", 4);
	if (state == KATA_VM_STARTING) {
		fake_arm(&f, "start/boot:before", KATA_FAIL_HANG);
		fixture_assert_ok(kata_vm_start_begin(vm, NULL, &held, &err), err);
	} else if (state != KATA_VM_CREATED) {
		fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	}
	if (state == KATA_VM_PAUSED)
		fixture_assert_ok(kata_vm_pause(vm, NULL, &err), err);
	if (state == KATA_VM_ENDED)
		fake_on_leader(&f, fake_end, vm);
	if (state == KATA_VM_RELEASING) {
		fake_arm(&f, "release/last:before", KATA_FAIL_HANG);
		fixture_assert_ok(kata_vm_release_begin(vm, NULL, &held, &err), err);
	}
	if (state == KATA_VM_RELEASED)
		fixture_assert_ok(kata_vm_release(vm, NULL, NULL, &err), err);
	if (state == KATA_VM_REBUILDING)
		rebuild_held();
	if (state == KATA_VM_DESTROYING) {
		fake_arm(&f, "destroy/act:before", KATA_FAIL_HANG);
		fixture_assert_ok(kata_vm_destroy_begin(vm, NULL, &held, &err), err);
	}
	if (state == KATA_VM_DESTROYED)
		fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	cr_assert_eq(kata_vm_get_state(vm), state, "is %s", kata_vm_state_get_name(kata_vm_get_state(vm)));
}

static int call_start(void)
{
	return kata_vm_start(vm, NULL, &err);
}

static int call_pause(void)
{
	return kata_vm_pause(vm, NULL, &err);
}

static int call_resume(void)
{
	return kata_vm_resume(vm, NULL, &err);
}

static int call_release(void)
{
	return kata_vm_release(vm, NULL, NULL, &err);
}

static int call_dump(void)
{
	char *json = NULL;
	int rc = kata_vm_dump(vm, &json, &err);

	cr_assert_eq(rc == 0, json != NULL);
	free(json);
	return rc;
}

static int call_destroy(void)
{
	return kata_vm_destroy(vm, NULL, &err);
}

static int call_wait(void)
{
	return kata_vm_wait(vm, 0, &err);
}

static int call_add_nic(void)
{
	kata_nic *n = fixture_nic("n", NULL);
	int rc = kata_vm_add_nic(vm, n, NULL, &err);

	kata_nic_unref(n);
	return rc;
}

static int call_remove_nic(void)
{
	return kata_vm_remove_nic(vm, "n", NULL, &err);
}

static int call_add_storage(void)
{
	char *path = fixture_make_raw(&f, "raw", 4096);
	kata_storage *s = fixture_storage("s", path, KATA_STORAGE_VIRTIO_BLK);
	int rc = kata_vm_add_storage(vm, s, NULL, &err);

	kata_storage_unref(s);
	free(path);
	return rc;
}

static int call_remove_storage(void)
{
	return kata_vm_remove_storage(vm, "s", NULL, &err);
}

static int call_batch(void)
{
	kata_batch *b = NULL;
	int rc;

	fixture_assert_ok(kata_batch_new(vm, 0, &b, &err), err);
	rc = kata_batch_run(b, NULL, &err);
	kata_batch_free(b);
	return rc;
}

static int call_connect_agent(void)
{
	int fd = -1, rc = kata__vm_connect_agent(vm, &fd, &err);

	kata__close_fd(&fd);
	return rc;
}

/* The state and what would be right are in the text. */
static void refused(int (*call)(void), kata_vm_state state, const char *must)
{
	char is[64];

	reach(state);
	fixture_assert_fails(call(), KATA_E_STATE, err);
	snprintf(is, sizeof(is), "is %s, must be", kata_vm_state_get_name(state));
	cr_assert(strstr(error_text(err), is), "%s", error_text(err));
	cr_assert(strstr(error_text(err), must), "%s", error_text(err));
	cr_assert_eq(kata_vm_get_state(vm), state);
}

#define REFUSED(call, state, must)                                                                                     \
	Test(states, call##_is_refused_in_##state)                                                                     \
	{                                                                                                              \
		refused(call_##call, KATA_VM_##state, must);                                                           \
	}

#define REFUSED_OUTSIDE_OF_LIFE(call, must)                                                                            \
	REFUSED(call, STARTING, must)                                                                                  \
	REFUSED(call, ENDED, must)                                                                                     \
	REFUSED(call, RELEASING, must)                                                                                 \
	REFUSED(call, REBUILDING, must)                                                                                \
	REFUSED(call, DESTROYING, must)                                                                                \
	REFUSED(call, DESTROYED, must)

REFUSED_OUTSIDE_OF_LIFE(start, "created")
REFUSED(start, RUNNING, "created")
REFUSED(start, PAUSED, "created")
REFUSED(start, RELEASED, "created")

REFUSED_OUTSIDE_OF_LIFE(pause, "running or paused")
REFUSED(pause, CREATED, "running or paused")
REFUSED(pause, RELEASED, "running or paused")

REFUSED_OUTSIDE_OF_LIFE(resume, "running or paused")
REFUSED(resume, CREATED, "running or paused")
REFUSED(resume, RELEASED, "running or paused")

REFUSED_OUTSIDE_OF_LIFE(release, "running or paused")
REFUSED(release, CREATED, "running or paused")
REFUSED(release, RELEASED, "running or paused")

REFUSED_OUTSIDE_OF_LIFE(dump, "running, paused, released or saving")
REFUSED(dump, CREATED, "running, paused, released or saving")

REFUSED(destroy, RELEASED, "destroyed")
REFUSED(wait, RELEASED, "destroyed")

REFUSED_OUTSIDE_OF_LIFE(add_nic, "created, running or paused")
REFUSED(add_nic, RELEASED, "created, running or paused")
REFUSED_OUTSIDE_OF_LIFE(remove_nic, "created, running or paused")
REFUSED(remove_nic, RELEASED, "created, running or paused")
REFUSED_OUTSIDE_OF_LIFE(add_storage, "created, running or paused")
REFUSED(add_storage, RELEASED, "created, running or paused")
REFUSED_OUTSIDE_OF_LIFE(remove_storage, "created, running or paused")
REFUSED(remove_storage, RELEASED, "created, running or paused")
REFUSED_OUTSIDE_OF_LIFE(batch, "created, running or paused")
REFUSED(batch, RELEASED, "created, running or paused")
REFUSED_OUTSIDE_OF_LIFE(connect_agent, "running or paused")
REFUSED(connect_agent, CREATED, "running or paused")
REFUSED(connect_agent, RELEASED, "running or paused")

/* ---- what is permitted ---- */

#define PERMITTED(call, state, after)                                                                                  \
	Test(states, call##_is_permitted_in_##state)                                                                   \
	{                                                                                                              \
		reach(KATA_VM_##state);                                                                                \
		fixture_assert_ok(call_##call(), err);                                                                 \
		cr_assert_eq(kata_vm_get_state(vm), KATA_VM_##after);                                                  \
	}

PERMITTED(start, CREATED, RUNNING)
PERMITTED(pause, RUNNING, PAUSED)
PERMITTED(pause, PAUSED, PAUSED)
PERMITTED(resume, PAUSED, RUNNING)
PERMITTED(resume, RUNNING, RUNNING)
PERMITTED(release, RUNNING, RELEASED)
PERMITTED(release, PAUSED, RELEASED)
PERMITTED(dump, RUNNING, RUNNING)
PERMITTED(dump, PAUSED, PAUSED)
PERMITTED(dump, RELEASED, RELEASED)
PERMITTED(destroy, CREATED, DESTROYED)
PERMITTED(destroy, STARTING, DESTROYED)
PERMITTED(destroy, RUNNING, DESTROYED)
PERMITTED(destroy, PAUSED, DESTROYED)
PERMITTED(destroy, ENDED, DESTROYED)
PERMITTED(destroy, RELEASING, DESTROYED)
PERMITTED(destroy, REBUILDING, DESTROYED)
PERMITTED(destroy, DESTROYED, DESTROYED)
PERMITTED(wait, ENDED, ENDED)
PERMITTED(wait, DESTROYED, DESTROYED)
PERMITTED(add_nic, CREATED, CREATED)
PERMITTED(add_nic, RUNNING, RUNNING)
PERMITTED(add_nic, PAUSED, PAUSED)
PERMITTED(add_storage, CREATED, CREATED)
PERMITTED(add_storage, RUNNING, RUNNING)
PERMITTED(add_storage, PAUSED, PAUSED)
PERMITTED(batch, CREATED, CREATED)
PERMITTED(batch, RUNNING, RUNNING)

/* ---- edges ---- */

Test(states, every_state_has_a_name)
{
	cr_assert_str_eq(kata_vm_state_get_name(KATA_VM_CREATED), "created");
	cr_assert_str_eq(kata_vm_state_get_name(KATA_VM_DESTROYED), "destroyed");
	cr_assert_str_eq(kata_vm_state_get_name((kata_vm_state)99), "unknown");
}

static void start_fails_at(const char *point)
{
	struct census *before = fixture_census(&f);

	fake_arm(&f, point, KATA_FAIL_ERROR);
	fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_INJECTED, err);
	error_clear(&err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	cr_assert_eq(kata_vm_get_pid(vm), 0);
	fixture_assert_census(&f, before, point);
	kata_context_clear_fail_point(f.context, NULL);
}

Test(states, a_failed_start_leaves_created_and_may_be_repeated)
{
	reach(KATA_VM_CREATED);
	start_fails_at("start/make-dir:before");
	start_fails_at("start/last:before");
	start_fails_at("start/make-dir:after");
	start_fails_at("start/boot:after");
	start_fails_at("start/last:after");
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	cr_assert_eq(kata_vm_get_pid(vm), getpid());
}

Test(states, a_release_that_fails_goes_back_to_paused)
{
	reach(KATA_VM_PAUSED);
	fake_arm(&f, "release/last:after", KATA_FAIL_ERROR);
	fixture_assert_fails(kata_vm_release(vm, NULL, NULL, &err), KATA_E_INJECTED, err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_PAUSED);
	kata_context_clear_fail_point(f.context, NULL);
	error_clear(&err);
	fixture_assert_ok(kata_vm_resume(vm, NULL, &err), err);
}

Test(states, a_destroy_that_fails_stays_destroying_and_may_be_repeated)
{
	static const char *const points[] = {"destroy/cancel-operations:before", "destroy/act:after",
					     "destroy/await-operations:after", "destroy/remove-dir:before",
					     "destroy/remove-dir:after"};

	reach(KATA_VM_RUNNING);
	for (size_t i = 0; i < kata__array_size(points); i++) {
		fake_arm(&f, points[i], KATA_FAIL_ERROR);
		fixture_assert_fails(kata_vm_destroy(vm, NULL, &err), KATA_E_INJECTED, err);
		cr_assert_eq(kata_vm_get_state(vm), KATA_VM_DESTROYING);
		kata_context_clear_fail_point(f.context, NULL);
		error_clear(&err);
	}
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_DESTROYED);
	cr_assert(access(vm->dir, F_OK) < 0);
}

Test(states, a_second_destroy_is_the_first)
{
	kata_op *second = NULL;

	reach(KATA_VM_DESTROYING);
	fixture_assert_ok(kata_vm_destroy_begin(vm, NULL, &second, &err), err);
	cr_assert_eq(second, held);
	kata_op_unref(second);
}

/* Another thread sleeps on an op when this one destroys the VM. */
static void *wait_for_held(void *user)
{
	kata_op_wait(held, user);
	return NULL;
}

Test(states, destroy_stops_what_is_under_way_waits_for_its_undo_and_says_that_it_was_the_destroy)
{
	kata_nic *n = fixture_nic("n", NULL);
	kata_error *seen = NULL;
	pthread_t waiter;

	reach(KATA_VM_RUNNING);
	fake_arm(&f, "plug-nic/commit:before", KATA_FAIL_HANG);
	fixture_assert_ok(kata_vm_add_nic_begin(vm, n, NULL, &held, &err), err);
	fake_await_steps(held, 2);
	cr_assert_eq(pthread_create(&waiter, NULL, wait_for_held, &seen), 0);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	cr_assert(kata_op_is_done(held));
	pthread_join(waiter, NULL);
	cr_assert_eq(kata_error_get_status(seen), KATA_E_GONE, "%s", error_text(seen));
	cr_assert_eq(kata_error_get_origin(seen), KATA_ORIGIN_CALLER);
	cr_assert_str_eq(kata_error_get_message(seen), "plug-nic: the VM was destroyed meanwhile (in step commit)");
	cr_assert_str_eq(kata_error_get_step(seen), "plug-nic/commit");
	kata_error_free(seen);
	cr_assert_eq(fake_of(vm)->undos, 1);
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_NEW);
	kata_nic_unref(n);
}

Test(states, an_op_cancelled_by_its_caller_stays_cancelled_when_the_vm_is_destroyed_then)
{
	kata_nic *n = fixture_nic("n", NULL);

	reach(KATA_VM_RUNNING);
	fake_arm(&f, "plug-nic/commit:before", KATA_FAIL_HANG);
	fixture_assert_ok(kata_vm_add_nic_begin(vm, n, NULL, &held, &err), err);
	kata_op_cancel(held);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	cr_assert_eq(kata_op_wait(held, NULL), KATA_E_CANCELLED);
	kata_nic_unref(n);
}

Test(states, an_op_whose_first_step_comes_after_the_destroy_says_that_too)
{
	kata_nic *n = fixture_nic("n", NULL);
	kata_op *destroy = NULL;

	reach(KATA_VM_RUNNING);
	kata_context_set_fail_point(f.context, "plug-nic/reserve:before", KATA_FAIL_DELAY, 100, 0, 0, NULL);
	fake_arm(&f, "destroy/cancel-operations:before", KATA_FAIL_HANG); /* it is DESTROYING, and has told nobody */
	fixture_assert_ok(kata_vm_add_nic_begin(vm, n, NULL, &held, &err), err);
	fixture_assert_ok(kata_vm_destroy_begin(vm, NULL, &destroy, &err), err);
	fixture_assert_fails(kata_op_wait(held, &err), KATA_E_GONE, err);
	cr_assert(strstr(error_text(err), "the VM was destroyed meanwhile"), "%s", error_text(err));
	kata_op_cancel(destroy);
	kata_op_wait(destroy, NULL);
	kata_op_unref(destroy);
	kata_context_clear_fail_point(f.context, NULL);
	kata_nic_unref(n);
}

Test(states, start_is_busy_while_a_cold_plug_is_under_way)
{
	kata_nic *n = fixture_nic("n", NULL);

	reach(KATA_VM_CREATED);
	fake_arm(&f, "plug-nic-cold/act:before", KATA_FAIL_HANG);
	fixture_assert_ok(kata_vm_add_nic_begin(vm, n, NULL, &held, &err), err);
	fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_BUSY, err);
	cr_assert(strstr(error_text(err), "plug-nic-cold"));
	kata_nic_unref(n);
}

Test(states, release_is_busy_while_an_op_is_under_way)
{
	kata_nic *n = fixture_nic("n", NULL);

	reach(KATA_VM_RUNNING);
	fake_arm(&f, "plug-nic/act:before", KATA_FAIL_HANG);
	fixture_assert_ok(kata_vm_add_nic_begin(vm, n, NULL, &held, &err), err);
	fixture_assert_fails(kata_vm_release(vm, NULL, NULL, &err), KATA_E_BUSY, err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_RUNNING);
	kata_nic_unref(n);
}

Test(states, release_is_busy_while_an_agent_is_connected)
{
	reach(KATA_VM_RUNNING);
	fixture_assert_ok(call_connect_agent(), err);
	fixture_assert_fails(call_connect_agent(), KATA_E_BUSY, err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_release(vm, NULL, NULL, &err), KATA_E_BUSY, err);
	kata__vm_disconnect_agent(vm);
	error_clear(&err);
	fixture_assert_ok(kata_vm_release(vm, NULL, NULL, &err), err);
}

Test(states, a_plug_begun_before_a_start_but_run_after_it_is_refused)
{
	kata_nic *n = fixture_nic("n", NULL);
	kata_op *op = NULL;

	reach(KATA_VM_CREATED);
	fake_arm(&f, "plug-nic-cold/reserve:before", KATA_FAIL_HANG);
	fixture_assert_ok(kata_vm_add_nic_begin(vm, n, NULL, &op, &err), err);
	kata_op_cancel(op);
	cr_assert_eq(kata_op_wait(op, NULL), KATA_E_CANCELLED);
	kata_op_unref(op);
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_NEW);
	kata_nic_unref(n);
}

/* ---- the end ---- */

static void count_call(void *user)
{
	++*(int *)user;
}

static void add_listener(void *user)
{
	cr_assert_eq(kata__vm_add_listener(vm, count_call, NULL, user, NULL), 0);
}

static void remove_listener(void *user)
{
	kata__vm_remove_listener(vm, count_call, user);
}

Test(states, the_end_is_told_once_to_fd_waiters_and_listeners)
{
	struct pollfd p;
	int calls = 0, removed = 0;

	reach(KATA_VM_RUNNING);
	fake_on_leader(&f, add_listener, &calls);
	fake_on_leader(&f, add_listener, &removed);
	fake_on_leader(&f, remove_listener, &removed);
	p = (struct pollfd){.fd = kata_vm_get_ended_fd(vm), .events = POLLIN};
	cr_assert_eq(poll(&p, 1, 0), 0);
	fixture_assert_fails(kata_vm_wait(vm, 1, &err), KATA_E_TIMEOUT, err);
	error_clear(&err);
	fake_on_leader(&f, fake_end, vm);
	cr_assert_eq(poll(&p, 1, 0), 1);
	fixture_assert_ok(kata_vm_wait(vm, 0, &err), err);
	cr_assert_eq(calls, 1);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	cr_assert_eq(calls, 1);
	cr_assert_eq(removed, 0);
}

Test(states, an_ended_fd_asked_for_after_the_end_is_readable)
{
	struct pollfd p;

	reach(KATA_VM_DESTROYED);
	p = (struct pollfd){.fd = kata_vm_get_ended_fd(vm), .events = POLLIN};
	cr_assert_eq(poll(&p, 1, 0), 1);
}

Test(states, a_machine_that_ends_while_starting_is_ended_at_the_finish)
{
	reach(KATA_VM_STARTING);
	fake_on_leader(&f, fake_end, vm);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_STARTING);
	kata_op_cancel(held);
	cr_assert_eq(kata_op_wait(held, NULL), KATA_E_CANCELLED);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
}

/* ---- references ---- */

Test(states, the_last_unref_of_a_live_vm_destroys_it)
{
	char *dir;

	reach(KATA_VM_RUNNING);
	dir = strdup(vm->dir);
	cr_assert_eq(access(dir, F_OK), 0);
	kata_vm_unref(vm);
	vm = NULL;
	cr_assert(access(dir, F_OK) < 0);
	free(dir);
}

static void unref_vm(void *user)
{
	kata_vm_unref(user);
}

Test(states, the_last_unref_on_the_leader_does_not_block)
{
	char *dir;
	uint64_t deadline = kata__deadline_in_ms(10000);

	reach(KATA_VM_RUNNING);
	dir = strdup(vm->dir);
	fake_on_leader(&f, unref_vm, vm);
	vm = NULL;
	while (access(dir, F_OK) == 0 && kata__now_ns() < deadline)
		usleep(1000); /* the destroy goes on by itself; nobody is left to ask */
	cr_assert(access(dir, F_OK) < 0);
	free(dir);
	while (kata_context_free(f.context, NULL) == KATA_E_BUSY && kata__now_ns() < deadline)
		usleep(1000);
	f.context = NULL;
}

Test(states, the_last_unref_while_a_destroy_fails_frees_all_the_same)
{
	reach(KATA_VM_RUNNING);
	fake_arm(&f, "destroy/act:before", KATA_FAIL_ERROR);
	kata_vm_unref(vm);
	vm = NULL;
}

Test(states, dropping_the_handle_while_an_op_runs_destroys_after_it)
{
	kata_nic *n = fixture_nic("n", NULL);
	uint64_t deadline = kata__deadline_in_ms(10000);

	reach(KATA_VM_RUNNING);
	kata_context_set_fail_point(f.context, "plug-nic/act:before", KATA_FAIL_DELAY, 30, 0, 0, NULL);
	fixture_assert_ok(kata_vm_add_nic_begin(vm, n, NULL, &held, &err), err);
	kata_vm_unref(vm);
	vm = NULL;
	cr_assert_eq(kata_op_wait(held, NULL), 0);
	kata_op_unref(held);
	held = NULL;
	while (kata_nic_get_state(n) != KATA_DEVICE_NEW && kata__now_ns() < deadline)
		usleep(1000);
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_NEW);
	kata_nic_unref(n);
	while (kata_context_free(f.context, NULL) == KATA_E_BUSY && kata__now_ns() < deadline)
		usleep(1000);
	f.context = NULL;
}

Test(states, null_is_refused_by_name)
{
	reach(KATA_VM_RUNNING);
	fixture_assert_fails(kata_vm_start(NULL, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_add_storage(vm, NULL, NULL, &err), KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), "storage"));
	error_clear(&err);
	fixture_assert_fails(kata_vm_remove_nic(vm, NULL, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_start_begin(vm, NULL, NULL, &err), KATA_E_INVALID, err);
	kata_vm_unref(NULL);
}

Test(states, options_of_a_newer_caller_are_refused_when_set)
{
	struct {
		kata_op_options known;
		uint64_t newer;
	} o = {{sizeof(o), 0}, 1};

	reach(KATA_VM_RUNNING);
	fixture_assert_fails(kata_vm_pause(vm, &o.known, &err), KATA_E_INVALID, err);
	error_clear(&err);
	o.newer = 0;
	fixture_assert_ok(kata_vm_pause(vm, &o.known, &err), err);
}

/* ---- stats, console ---- */

Test(states, stats_of_a_running_vm_are_of_its_process)
{
	kata_vm_stats s = {.size = sizeof(s)};

	reach(KATA_VM_RUNNING);
	fixture_assert_ok(kata_vm_get_stats(vm, &s, &err), err);
	cr_assert_gt(s.resident_bytes, 4096u); /* the fake says it is this process */
	cr_assert_eq(s.memory_mib, 256u);
	cr_assert_eq(s.cpus, 1u);
	cr_assert_eq(s.slots_total, 4u);
	cr_assert_eq(s.slots_free, 4u);
}

Test(states, stats_fill_only_what_an_older_caller_knows)
{
	kata_vm_stats s;

	reach(KATA_VM_RUNNING);
	memset(&s, 0xee, sizeof(s));
	s.size = offsetof(kata_vm_stats, memory_mib);
	fixture_assert_ok(kata_vm_get_stats(vm, &s, &err), err);
	cr_assert_eq(s.memory_mib, UINT64_C(0xeeeeeeeeeeeeeeee));
	s.size = 1;
	fixture_assert_fails(kata_vm_get_stats(vm, &s, &err), KATA_E_INVALID, err);
}

Test(states, the_console_has_no_byte_that_drives_a_terminal)
{
	char *text = NULL;
	size_t length = 0;

	reach(KATA_VM_RUNNING);
	fixture_assert_ok(kata_vm_get_console(vm, &text, &length, &err), err);
	cr_assert_str_eq(text, "boot\nfine?[2J\ttab??\n");
	cr_assert_eq(length, strlen(text));
	free(text);
}

Test(states, an_error_of_the_vmm_carries_its_last_words)
{
	kata_op_options o = {sizeof(o), 20};

	reach(KATA_VM_RUNNING);
	fake_arm(&f, "pause/act:before", KATA_FAIL_HANG);
	fixture_assert_fails(kata_vm_pause(vm, &o, &err), KATA_E_TIMEOUT, err);
	cr_assert_str_eq(kata_error_get_vmm_output(err), "fake: no such thing\n");
	cr_assert_not_null(kata_error_get_console(err));
}

/* ---- ids ---- */

Test(states, two_vms_of_one_id_exist)
{
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	kata_vm *other = NULL;

	reach(KATA_VM_CREATED);
	c.id = "vm";
	fixture_assert_fails(kata__vm_new(f.context, &fake_driver, &c, NULL, NULL, &other, &err), KATA_E_EXISTS, err);
	error_clear(&err);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	fixture_assert_ok(kata__vm_new(f.context, &fake_driver, &c, NULL, NULL, &other, &err), err);
	kata_vm_unref(other);
}

Test(states, an_id_too_long_for_sockets_in_its_directory_is_refused)
{
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	kata_context *second = NULL;
	char state_dir[96], id[65];
	kata_vm *other = NULL;

	snprintf(state_dir, sizeof(state_dir), "%s/state-in-a-directory-with-a-rather-long-name", f.dir);
	o.state_dir = state_dir;
	fixture_assert_ok(kata_context_new(&o, &second, &err), err);
	memset(id, 'x', 64);
	c.id = id;
	for (size_t n = 64; n > 0; n--) {
		id[n] = '\0';
		if (strlen(state_dir) + sizeof("/vm/") - 1 + n + sizeof("/console.sock") <= 108)
			break;
		fixture_assert_fails(kata__vm_new(second, &fake_driver, &c, NULL, NULL, &other, &err), KATA_E_INVALID,
				     err);
		cr_assert(strstr(error_text(err), "config.id: the VM's directory ") &&
				  strstr(error_text(err), state_dir) &&
				  strstr(error_text(err), "use a shorter id, or a shorter state_dir"),
			  "%s", error_text(err));
		error_clear(&err);
	}
	fixture_assert_ok(kata__vm_new(second, &fake_driver, &c, NULL, NULL, &other, &err), err);
	kata_vm_unref(other);
	cr_assert_eq(kata_context_free(second, NULL), 0);
}

Test(states, a_directory_of_that_id_exists)
{
	kata_context *second = fixture_new_context(&f, 0);
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	kata_vm *other = NULL;

	reach(KATA_VM_RUNNING);
	c.id = "vm";
	fixture_assert_fails(kata__vm_new(second, &fake_driver, &c, NULL, NULL, &other, &err), KATA_E_EXISTS, err);
	cr_assert(strstr(error_text(err), "driven by process"));
	cr_assert_eq(kata_context_free(second, NULL), 0);
}

Test(states, a_start_that_meets_a_directory_leaves_it_alone)
{
	kata_context *second = fixture_new_context(&f, 0);
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	kata_vm *other = NULL;

	c.id = "vm";
	fixture_assert_ok(kata__vm_new(second, &fake_driver, &c, NULL, NULL, &other, &err), err);
	reach(KATA_VM_RUNNING);
	fixture_assert_fails(kata_vm_start(other, NULL, &err), KATA_E_EXISTS, err);
	error_clear(&err);
	fixture_assert_ok(kata_vm_destroy(other, NULL, &err), err);
	cr_assert_eq(access(vm->dir, F_OK), 0);
	kata_vm_unref(other);
	cr_assert_eq(kata_context_free(second, NULL), 0);
}

Test(states, limits_that_are_not_in_this_version_are_unsupported)
{
	kata_qos_config qos = {.size = sizeof(qos), .inbound_average_bytes = 1};
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	kata_vm *none = NULL;

	fixture_assert_fails(kata__vm_new(f.context, &fake_driver, &c, NULL, &qos, &none, &err), KATA_E_UNSUPPORTED,
			     err);
	cr_assert_null(none);
}
