/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent connection on the real QEMU with the real guest: few tests, since an emulated boot takes seconds, and each
 * does much. What is asked of containers is in test_sandbox_guest.c.
 */
#include "integration/vm_test.h"

#include <signal.h>
#include <time.h>

TestSuite(agent_guest, .timeout = 300);

struct stage {
	struct machine m;
	kata_agent_builder *builder;
	kata_agent *agent;
	kata_error *err;
};

static void stage_init(struct stage *st, const char *const *kernel_params)
{
	kata_vm_config config;

	memset(st, 0, sizeof(*st));
	machine_init(&st->m, 0);
	config = machine_config(&st->m);
	config.id = "agent";
	config.kernel_params = kernel_params;
	fixture_assert_ok(kata_vm_builder_build(st->m.builder, &config, NULL, NULL, &st->m.vm, &st->err), st->err);
	fixture_assert_ok(kata_agent_builder_new_direct(st->m.f.context, &st->builder, &st->err), st->err);
	machine_start(&st->m);
}

static void stage_deinit(struct stage *st)
{
	kata_agent_unref(st->agent);
	kata_agent_builder_free(st->builder);
	machine_destroy(&st->m);
	machine_deinit(&st->m);
}

static void connect_with(struct stage *st, const char *released_json)
{
	fixture_assert_ok(kata_agent_builder_build(st->builder, st->m.vm, released_json, NULL, &st->agent, &st->err),
			  st->err);
	fixture_assert_ok(kata_agent_check(st->agent, NULL, &st->err), st->err);
}

static void drop_agent(struct stage *st)
{
	kata_agent_unref(st->agent);
	st->agent = NULL;
}

#define REQUEST(...) (&(kata_agent_request){.size = sizeof(kata_agent_request), __VA_ARGS__})

static kata_op *begin(struct stage *st, const kata_agent_request *request, uint64_t timeout_ms)
{
	kata_op_options options = {.size = sizeof(options), .timeout_ms = timeout_ms};
	kata_op *op = NULL;

	fixture_assert_ok(kata_agent_call_begin(st->agent, request, &options, &op, &st->err), st->err);
	return op;
}

static int end(struct stage *st, kata_op *take_op)
{
	int rc = kata_op_wait(take_op, &st->err);

	kata_op_unref(take_op);
	return rc;
}

static int call(struct stage *st, const kata_agent_request *request)
{
	return end(st, begin(st, request, 0));
}

/* The guest says no; which code it has for that is its own affair. */
static void refused_by_guest(struct stage *st, const kata_agent_request *request)
{
	cr_assert_lt(call(st, request), 0);
	cr_assert_eq(kata_error_get_origin(st->err), KATA_ORIGIN_GUEST, "%s", error_text(st->err));
	error_clear(&st->err);
}

static void ask_the_guest(struct stage *st)
{
	static uint8_t large[4 << 20];
	kata_op *ops[64], *version, *await;

	version = begin(st, REQUEST(.method = KATA_AGENT_VERSION), 0);
	fixture_assert_ok(kata_op_wait(version, &st->err), st->err);
	fixture_assert_ok(call(st, REQUEST(.method = KATA_AGENT_SETTLE)), st->err);
	fixture_assert_ok(call(st, REQUEST(.method = KATA_AGENT_SETTLE)), st->err);
	cr_assert_str_eq(kata_agent_op_get_reply(version)->text, kata_agent_get_version(st->agent));
	kata_op_unref(version);

	for (int i = 0; i < 64; i++)
		ops[i] = begin(st, REQUEST(.method = KATA_AGENT_CHECK), 0);
	for (int i = 63; i >= 0; i--)
		fixture_assert_ok(end(st, ops[i]), st->err);

	refused_by_guest(st, REQUEST(.method = KATA_AGENT_START_CONTAINER, .container_id = "nobody"));
	await = begin(st, REQUEST(.method = KATA_AGENT_AWAIT_DEVICE, .device_kind = "blk", .device_address = "1f/00"),
		      1000);
	fixture_assert_fails(end(st, await), KATA_E_TIMEOUT, st->err);
	error_clear(&st->err);
	/* As large as a request can be: the guest reads all of it before it refuses. */
	refused_by_guest(st, REQUEST(.method = KATA_AGENT_WRITE_STDIN, .container_id = "nobody", .data = large,
				     .data_length = sizeof(large) - 1024));
	fixture_assert_ok(call(st, REQUEST(.method = KATA_AGENT_RESEED, .data = "0123456789abcdef", .data_length = 16)),
			  st->err);
	fixture_assert_ok(call(st, REQUEST(.method = KATA_AGENT_SET_TIME, .seconds = time(NULL), .microseconds = 1)),
			  st->err);
	fixture_assert_ok(
		call(st, REQUEST(.method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "box", .hostname = "box")),
		st->err);
}

static void come_and_go(struct stage *st)
{
	char *json = NULL;

	for (int i = 0; i < 5; i++) {
		/* An answer that nobody waits for may still be on its way when the next host comes. */
		kata_op_unref(begin(st, REQUEST(.method = KATA_AGENT_CHECK), 0));
		fixture_assert_ok(kata_agent_release(st->agent, &json, &st->err), st->err);
		drop_agent(st);
		connect_with(st, json);
		free(json);
		json = NULL;
		drop_agent(st);
		connect_with(st, NULL);
	}
}

Test(agent_guest, boots_answers_is_let_go_of_and_taken_again_and_powers_off)
{
	kata_op_options short_options = {.size = sizeof(short_options), .timeout_ms = 200};
	struct stage st;

	stage_init(&st, NULL);
	fixture_assert_fails(kata_agent_builder_build(st.builder, st.m.vm, NULL, &short_options, &st.agent, &st.err),
			     KATA_E_TIMEOUT, st.err);
	cr_assert_not_null(kata_error_get_hint(st.err));
	error_clear(&st.err);
	cr_assert_null(st.agent);

	connect_with(&st, NULL);
	cr_assert(kata_agent_has_guest_service(st.agent));
	cr_assert_neq(kata_agent_get_version(st.agent)[0], '\0');
	ask_the_guest(&st);
	come_and_go(&st);
	fixture_assert_ok(call(&st, REQUEST(.method = KATA_AGENT_DESTROY_SANDBOX)), st.err);
	fixture_assert_ok(kata_vm_wait(st.m.vm, 30000, &st.err), st.err);
	cr_assert_eq(kata_agent_get_state(st.agent), KATA_AGENT_LOST);
	stage_deinit(&st);
}

/* Leaves in the middle of a frame: the guest must not take the next host's first bytes for the rest of it. */
static void leave_in_mid_frame(struct stage *st)
{
	static uint8_t large[2 << 20];

	char *json = NULL;

	for (int i = 0; i < 4; i++)
		kata_op_unref(begin(st,
				    REQUEST(.method = KATA_AGENT_WRITE_STDIN, .container_id = "nobody", .data = large,
					    .data_length = sizeof(large)),
				    0));
	fixture_assert_ok(kata_agent_release(st->agent, &json, &st->err), st->err);
	drop_agent(st);
	connect_with(st, json);
	free(json);
}

Test(agent_guest, a_stopped_machine_costs_one_deadline_and_a_killed_one_is_gone)
{
	struct stage st;
	kata_op *wait;
	pid_t pid;

	stage_init(&st, NULL);
	connect_with(&st, NULL);
	pid = (pid_t)kata_vm_get_pid(st.m.vm);

	cr_assert_eq(kill(pid, SIGSTOP), 0);
	fixture_assert_fails(end(&st, begin(&st, REQUEST(.method = KATA_AGENT_CHECK), 300)), KATA_E_TIMEOUT, st.err);
	cr_assert_not_null(strstr(kata_error_get_hint(st.err), "the VMM is stopped"), "%s", error_text(st.err));
	error_clear(&st.err);
	cr_assert_eq(kill(pid, SIGCONT), 0);
	fixture_assert_ok(kata_agent_check(st.agent, NULL, &st.err), st.err);

	wait = begin(&st, REQUEST(.method = KATA_AGENT_WAIT_PROCESS, .container_id = "nobody"), 0);
	cr_assert_lt(end(&st, wait), 0);
	error_clear(&st.err);

	cr_assert_eq(kill(pid, SIGSTOP), 0);
	wait = begin(&st, REQUEST(.method = KATA_AGENT_CHECK), 20000);
	cr_assert_eq(kill(pid, SIGKILL), 0);
	fixture_assert_fails(end(&st, wait), KATA_E_GONE, st.err);
	error_clear(&st.err);
	cr_assert_eq(kata_agent_get_state(st.agent), KATA_AGENT_LOST);
	fixture_assert_ok(kata_vm_wait(st.m.vm, 10000, &st.err), st.err);
	drop_agent(&st);
	fixture_assert_fails(kata_agent_builder_build(st.builder, st.m.vm, NULL, NULL, &st.agent, &st.err), KATA_E_GONE,
			     st.err);
	error_clear(&st.err);
	stage_deinit(&st);
}

/* The guest has not booted yet: there is no console's tail that a hint could refer to. */
Test(agent_guest, who_connects_hears_that_qemu_is_stopped_and_how_it_ended)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	struct stage st;
	kata_op *op;
	pid_t pid;

	stage_init(&st, NULL);
	pid = (pid_t)kata_vm_get_pid(st.m.vm);
	cr_assert_eq(kill(pid, SIGSTOP), 0);
	options.timeout_ms = 200;
	fixture_assert_fails(kata_agent_builder_build(st.builder, st.m.vm, NULL, &options, &st.agent, &st.err),
			     KATA_E_TIMEOUT, st.err);
	cr_assert_not_null(strstr(kata_error_get_hint(st.err), "the VMM is stopped"), "%s", error_text(st.err));
	cr_assert_null(strstr(error_text(st.err), "initrd"), "%s", error_text(st.err));
	error_clear(&st.err);

	fixture_assert_ok(kata_agent_builder_build_begin(st.builder, st.m.vm, NULL, NULL, &st.agent, &op, &st.err),
			  st.err);
	cr_assert_eq(kill(pid, SIGKILL), 0);
	fixture_assert_fails(end(&st, op), KATA_E_GONE, st.err);
	cr_assert_not_null(strstr(error_text(st.err), "<- QEMU was ended by signal 9"), "%s", error_text(st.err));
	cr_assert_not_null(strstr(kata_error_get_hint(st.err), "out-of-memory"), "%s", error_text(st.err));
	error_clear(&st.err);
	stage_deinit(&st);
}

Test(agent_guest, a_host_that_left_in_mid_frame_does_not_spoil_the_next_one)
{
	struct stage st;

	stage_init(&st, NULL);
	connect_with(&st, NULL);
	for (int i = 0; i < 2; i++)
		leave_in_mid_frame(&st);
	stage_deinit(&st);
}

Test(agent_guest, a_guest_that_panics_is_gone_and_its_console_says_why)
{
	static const char *const params[] = {"rdinit=/nothing", "init=/nothing", "panic=-1", NULL};
	struct stage st;

	stage_init(&st, params);
	fixture_assert_fails(kata_agent_builder_build(st.builder, st.m.vm, NULL, NULL, &st.agent, &st.err), KATA_E_GONE,
			     st.err);
	cr_assert_not_null(kata_error_get_console(st.err), "%s", error_text(st.err));
	cr_assert_not_null(strstr(kata_error_get_console(st.err), "panic"), "%s", kata_error_get_console(st.err));
	cr_assert_not_null(strstr(error_text(st.err), "<- QEMU has ended with exit status 0"), "%s",
			   error_text(st.err));
	cr_assert_not_null(strstr(kata_error_get_hint(st.err), "console's tail"), "%s", error_text(st.err));
	error_clear(&st.err);
	stage_deinit(&st);
}
