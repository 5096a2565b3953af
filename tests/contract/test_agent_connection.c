/* SPDX-License-Identifier: Apache-2.0 */
/* An agent connection's life on a mock VM, through the public headers alone. What the calls do: test_mock_agent.c. */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <kata/mock.h>

#include "support/fixture.h"

struct world {
	struct fixture f;
	struct census *before;
	kata_vm_builder *mock;
	kata_agent_builder *agents;
	kata_vm *vm;
	kata_agent *agent;
	kata_error *err;
};

static void open_world(struct world *w, uint64_t flags)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	memset(w, 0, sizeof(*w));
	fixture_init(&w->f, true, flags);
	fixture_assert_ok(kata_vm_builder_new_mock(w->f.context, &w->mock, &w->err), w->err);
	fixture_assert_ok(kata_agent_builder_new_direct(w->f.context, &w->agents, &w->err), w->err);
	fixture_assert_ok(kata_vm_builder_build(w->mock, &config, NULL, NULL, &w->vm, &w->err), w->err);
	fixture_assert_ok(kata_vm_start(w->vm, NULL, &w->err), w->err);
	w->before = fixture_census(&w->f);
}

static void connect_with(struct world *w, const char *released_json)
{
	fixture_assert_ok(kata_agent_builder_build(w->agents, w->vm, released_json, NULL, &w->agent, &w->err), w->err);
	cr_assert_eq(kata_agent_get_state(w->agent), KATA_AGENT_CONNECTED);
}

static void drop_agent(struct world *w)
{
	kata_agent_unref(w->agent);
	w->agent = NULL;
}

static void close_world(struct world *w)
{
	drop_agent(w);
	census_free(w->before);
	if (w->vm)
		fixture_assert_ok(kata_vm_destroy(w->vm, NULL, &w->err), w->err);
	kata_vm_unref(w->vm);
	kata_agent_builder_free(w->agents);
	kata_vm_builder_free(w->mock);
	fixture_deinit(&w->f);
}

static kata_op *begin(struct world *w, const kata_agent_request *request)
{
	kata_op *op = NULL;

	fixture_assert_ok(kata_agent_call_begin(w->agent, request, NULL, &op, &w->err), w->err);
	return op;
}

static int end(kata_op *take_op, kata_error **err)
{
	int rc = kata_op_wait(take_op, err);

	kata_op_unref(take_op);
	return rc;
}

#define REQUEST(...) (&(kata_agent_request){.size = sizeof(kata_agent_request), __VA_ARGS__})

Test(agent_connection, answers_checks_and_says_who_it_is, .timeout = 30)
{
	struct world w;

	open_world(&w, 0);
	connect_with(&w, NULL);
	fixture_assert_ok(kata_agent_check(w.agent, NULL, &w.err), w.err);
	cr_assert_neq(kata_agent_get_version(w.agent)[0], '\0');
	cr_assert(kata_agent_has_guest_service(w.agent));
	close_world(&w);
}

Test(agent_connection, leaves_nothing_behind, .timeout = 30)
{
	struct world w;

	open_world(&w, 0);
	for (int i = 0; i < 20; i++) {
		connect_with(&w, NULL);
		fixture_assert_ok(kata_agent_check(w.agent, NULL, &w.err), w.err);
		drop_agent(&w);
	}
	/* The far end is noticed to be gone by the loop. */
	fixture_assert_ok(kata_vm_pause(w.vm, NULL, &w.err), w.err);
	fixture_assert_census(&w.f, w.before, "after 20 connections");
	w.before = NULL;
	close_world(&w);
}

Test(agent_connection, is_one_at_a_time, .timeout = 30)
{
	kata_agent *second = NULL;
	struct world w;

	open_world(&w, 0);
	connect_with(&w, NULL);
	fixture_assert_fails(kata_agent_builder_build(w.agents, w.vm, NULL, NULL, &second, &w.err), KATA_E_BUSY, w.err);
	error_clear(&w.err);
	cr_assert_null(second);
	drop_agent(&w);
	connect_with(&w, NULL);
	close_world(&w);
}

Test(agent_connection, keeps_its_vm_from_being_released, .timeout = 30)
{
	char *json = NULL;
	struct world w;

	open_world(&w, 0);
	connect_with(&w, NULL);
	fixture_assert_fails(kata_vm_release(w.vm, NULL, &json, &w.err), KATA_E_BUSY, w.err);
	error_clear(&w.err);
	cr_assert_null(json);
	close_world(&w);
}

Test(agent_connection, goes_on_after_a_release_with_the_json, .timeout = 30)
{
	char *json = NULL;
	struct world w;
	kata_op *op;

	open_world(&w, 0);
	connect_with(&w, NULL);
	fixture_assert_ok(end(begin(&w, REQUEST(.method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "box")), &w.err),
			  w.err);
	for (int i = 0; i < 3; i++) {
		fixture_assert_ok(kata_agent_release(w.agent, &json, &w.err), w.err);
		cr_assert_eq(kata_agent_get_state(w.agent), KATA_AGENT_RELEASED);
		fixture_assert_fails(kata_agent_check(w.agent, NULL, &w.err), KATA_E_STATE, w.err);
		error_clear(&w.err);
		drop_agent(&w);
		connect_with(&w, json);
		free(json);
		json = NULL;
	}
	op = begin(&w, REQUEST(.method = KATA_AGENT_VERSION));
	fixture_assert_ok(kata_op_wait(op, &w.err), w.err);
	cr_assert_str_eq(kata_agent_op_get_reply(op)->text, kata_agent_get_version(w.agent));
	kata_op_unref(op);
	close_world(&w);
}

Test(agent_connection, is_lost_with_its_machine_and_says_why, .timeout = 30)
{
	struct world w;

	open_world(&w, 0);
	connect_with(&w, NULL);
	fixture_assert_ok(kata_mock_end(w.vm, &w.err), w.err);
	fixture_assert_fails(kata_agent_check(w.agent, NULL, &w.err), KATA_E_GONE, w.err);
	error_clear(&w.err);
	cr_assert_eq(kata_agent_get_state(w.agent), KATA_AGENT_LOST);
	fixture_assert_fails(kata_agent_builder_build(w.agents, w.vm, NULL, NULL, &w.agent, &w.err), KATA_E_GONE,
			     w.err);
	error_clear(&w.err);
	close_world(&w);
}

Test(agent_connection, is_lost_when_its_machine_is_destroyed, .timeout = 30)
{
	struct world w;
	kata_op *op;

	open_world(&w, 0);
	connect_with(&w, NULL);
	op = begin(&w, REQUEST(.method = KATA_AGENT_VERSION));
	fixture_assert_ok(end(op, &w.err), w.err);
	fixture_assert_ok(kata_vm_destroy(w.vm, NULL, &w.err), w.err);
	fixture_assert_fails(kata_agent_check(w.agent, NULL, &w.err), KATA_E_GONE, w.err);
	error_clear(&w.err);
	close_world(&w);
}

Test(agent_connection, destroy_sandbox_is_done_when_the_guest_is_off, .timeout = 30)
{
	struct world w;

	open_world(&w, 0);
	connect_with(&w, NULL);
	fixture_assert_ok(end(begin(&w, REQUEST(.method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "box")), &w.err),
			  w.err);
	fixture_assert_ok(end(begin(&w, REQUEST(.method = KATA_AGENT_DESTROY_SANDBOX)), &w.err), w.err);
	fixture_assert_ok(kata_vm_wait(w.vm, 10000, &w.err), w.err);
	close_world(&w);
}

Test(agent_connection, a_paused_machine_costs_the_deadline_and_goes_on_after_it, .timeout = 30)
{
	kata_op_options options = {.size = sizeof(options), .timeout_ms = 100};
	struct world w;

	open_world(&w, 0);
	connect_with(&w, NULL);
	fixture_assert_ok(kata_vm_pause(w.vm, NULL, &w.err), w.err);
	fixture_assert_fails(kata_agent_check(w.agent, &options, &w.err), KATA_E_TIMEOUT, w.err);
	error_clear(&w.err);
	fixture_assert_ok(kata_vm_resume(w.vm, NULL, &w.err), w.err);
	fixture_assert_ok(kata_agent_check(w.agent, NULL, &w.err), w.err);
	close_world(&w);
}

Test(agent_connection, the_mocks_failures_have_their_statuses, .timeout = 30)
{
	static const struct {
		int told, given;
	} failures[] = {{KATA_E_TIMEOUT, KATA_E_TIMEOUT},
			{KATA_E_NOT_FOUND, KATA_E_NOT_FOUND},
			{KATA_E_UNSUPPORTED, KATA_E_UNSUPPORTED},
			{KATA_E_IO, KATA_E_GUEST},
			{KATA_E_EXISTS, KATA_E_GUEST},
			{KATA_E_GONE, KATA_E_GONE}};
	struct world w;

	open_world(&w, 0);
	connect_with(&w, NULL);
	for (size_t i = 0; i < sizeof(failures) / sizeof(failures[0]); i++) {
		fixture_assert_ok(kata_mock_set_failure(w.mock, KATA_MOCK_AGENT_CALL, failures[i].told, 1, &w.err),
				  w.err);
		fixture_assert_fails(kata_agent_check(w.agent, NULL, &w.err), failures[i].given, w.err);
		cr_assert_eq(kata_error_get_origin(w.err), KATA_ORIGIN_GUEST);
		error_clear(&w.err);
	}
	cr_assert_eq(kata_agent_get_state(w.agent), KATA_AGENT_LOST);
	drop_agent(&w);
	connect_with(&w, NULL);
	fixture_assert_ok(kata_agent_check(w.agent, NULL, &w.err), w.err);
	close_world(&w);
}

/* ---- many at once */

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void calls_wait_side_by_side(uint64_t flags)
{
	enum { CALLS = 64, DELAY_MS = 20 };

	kata_op *ops[CALLS];
	uint64_t start;
	struct world w;

	open_world(&w, flags);
	connect_with(&w, NULL);
	fixture_assert_ok(kata_mock_set_delay(w.mock, KATA_MOCK_AGENT_CALL, DELAY_MS, &w.err), w.err);
	start = now_us();
	for (int i = 0; i < CALLS; i++)
		ops[i] = begin(&w, REQUEST(.method = KATA_AGENT_VERSION));
	for (int i = 0; i < CALLS; i++)
		fixture_assert_ok(end(ops[i], &w.err), w.err);
	/* One after another they take 1280 ms; half of that is room for a loaded machine. */
	cr_assert_lt(now_us() - start, CALLS * DELAY_MS * 1000u / 2);
	close_world(&w);
}

Test(agent_connection, sixty_four_calls_wait_side_by_side, .timeout = 30)
{
	calls_wait_side_by_side(0);
}

Test(agent_connection, sixty_four_calls_wait_side_by_side_on_an_external_loop, .timeout = 30)
{
	calls_wait_side_by_side(KATA_CONTEXT_EXTERNAL_LOOP);
}

Test(agent_connection, a_callers_own_loop_gets_by_with_poll_and_dispatch, .timeout = 30)
{
	struct world w;
	kata_op *op;

	open_world(&w, KATA_CONTEXT_EXTERNAL_LOOP);
	fixture_assert_ok(kata_agent_builder_build_begin(w.agents, w.vm, NULL, NULL, &w.agent, &op, &w.err), w.err);
	while (!kata_op_is_done(op)) {
		struct pollfd p = {.fd = kata_context_get_fd(w.f.context), .events = POLLIN};

		cr_assert_eq(poll(&p, 1, 10000), 1);
		fixture_assert_ok(kata_context_dispatch(w.f.context, 0, &w.err), w.err);
	}
	fixture_assert_ok(end(op, &w.err), w.err);
	cr_assert_eq(kata_agent_get_state(w.agent), KATA_AGENT_CONNECTED);
	close_world(&w);
}

Test(agent_connection, a_short_call_is_not_held_up_by_parked_ones, .timeout = 30)
{
	static const char spec[] = "{\"ociVersion\":\"1.0.2\",\"process\":{\"cwd\":\"/\",\"args\":[\"sleep\"],"
				   "\"user\":{\"uid\":0,\"gid\":0}},\"root\":{\"path\":\"/r\"},\"linux\":{}}";
	enum { PARKED = 200 };

	kata_op *parked[PARKED];
	struct world w;

	open_world(&w, 0);
	connect_with(&w, NULL);
	fixture_assert_ok(end(begin(&w, REQUEST(.method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "box")), &w.err),
			  w.err);
	fixture_assert_ok(end(begin(&w, REQUEST(.method = KATA_AGENT_CREATE_CONTAINER, .container_id = "c1",
						.json = spec, .json_length = strlen(spec))),
			      &w.err),
			  w.err);
	fixture_assert_ok(end(begin(&w, REQUEST(.method = KATA_AGENT_START_CONTAINER, .container_id = "c1")), &w.err),
			  w.err);
	for (int i = 0; i < PARKED; i++)
		parked[i] = begin(&w, REQUEST(.method = KATA_AGENT_WAIT_PROCESS, .container_id = "c1"));
	fixture_assert_ok(kata_agent_check(w.agent, NULL, &w.err), w.err);
	for (int i = 0; i < PARKED; i++)
		cr_assert_not(kata_op_is_done(parked[i]));
	fixture_assert_ok(
		end(begin(&w, REQUEST(.method = KATA_AGENT_SIGNAL_PROCESS, .container_id = "c1", .signal = 9)), &w.err),
		w.err);
	for (int i = 0; i < PARKED; i++) {
		fixture_assert_ok(kata_op_wait(parked[i], &w.err), w.err);
		cr_assert_eq(kata_agent_op_get_reply(parked[i])->exit_status, 137);
		kata_op_unref(parked[i]);
	}
	close_world(&w);
}
