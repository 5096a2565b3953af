/* SPDX-License-Identifier: Apache-2.0 */
/* From a running VM to an agent: the VM is the mock, but the far end of its agent channel is the test. */
#include "unit/agent/agent_test.h"

#include <kata/mock.h>

#include "vm/mock/mock.h"

#define CONNECTIONS_MAX 32
#define RUN(context, condition)                                                                                        \
	do {                                                                                                           \
		uint64_t until_ = kata__deadline_in_ms(PATIENCE_MS);                                                   \
		while (!(condition) && kata__deadline_left_ms(until_))                                                 \
			cr_assert_eq(kata_context_dispatch((context), 100, NULL), 0);                                  \
		cr_assert((condition), "it never came to: %s", #condition);                                            \
	} while (0)

struct world {
	struct fixture f;
	kata_vm_builder *vm_builder;
	kata_agent_builder *builder;
	kata_vm *vm;
	struct kata__vm_driver driver; /* the mock's, with our connect */
	kata_agent *agent;
	kata_op *op;
	kata_error *err;
	struct wire wires[CONNECTIONS_MAX]; /* the far ends, a connection each */
	unsigned connects;
	unsigned refused; /* connects that fail from now on */
	bool closes_at_once;
};

static struct world *world;

static int connect_to_test(kata_vm *vm, int *ret_fd, kata_error **err)
{
	int fds[2];

	if (world->refused) {
		world->refused--;
		return kata__fail(err, KATA_E_GONE, VMM, "nobody listens (says the test)");
	}
	cr_assert_lt(world->connects, (unsigned)CONNECTIONS_MAX);
	wire_pair(fds);
	*ret_fd = fds[0];
	wire_init(&world->wires[world->connects], fds[1]);
	if (world->closes_at_once)
		wire_hang_up(&world->wires[world->connects]);
	world->connects++;
	return 0;
}

static void setup(struct world *w)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	*w = (struct world){0};
	world = w;
	fixture_init(&w->f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	fixture_assert_ok(kata_vm_builder_new_mock(w->f.context, &w->vm_builder, &w->err), w->err);
	fixture_assert_ok(kata_vm_builder_build(w->vm_builder, &config, NULL, NULL, &w->vm, &w->err), w->err);
	fixture_assert_ok(kata_vm_start(w->vm, NULL, &w->err), w->err);
	w->driver = *w->vm->driver;
	w->driver.connect_agent = connect_to_test;
	w->vm->driver = &w->driver;
	fixture_assert_ok(kata_agent_builder_new_direct(w->f.context, &w->builder, &w->err), w->err);
}

static void teardown(struct world *w)
{
	kata_op_unref(w->op);
	kata_agent_unref(w->agent);
	kata_agent_builder_free(w->builder);
	if (w->vm)
		kata_vm_destroy(w->vm, NULL, NULL);
	kata_vm_unref(w->vm);
	kata_vm_builder_free(w->vm_builder);
	for (unsigned i = 0; i < w->connects; i++)
		wire_deinit(&w->wires[i]);
	kata_error_free(w->err);
	fixture_deinit(&w->f);
}

static void begin_with(struct world *w, const char *released_json, uint64_t timeout_ms)
{
	kata_op_options options = {.size = sizeof(options), .timeout_ms = timeout_ms};

	fixture_assert_ok(
		kata_agent_builder_build_begin(w->builder, w->vm, released_json, &options, &w->agent, &w->op, &w->err),
		w->err);
}

static void begin(struct world *w)
{
	begin_with(w, NULL, 0);
}

static void end_machine(struct world *w)
{
	w->vm->driver = &kata__mock_driver;
	fixture_assert_ok(kata_mock_end(w->vm, &w->err), w->err);
}

/* The three requests of a handshake; returns the id of the first. */
static uint32_t read_greetings(struct wire *wire)
{
	static const char *const methods[] = {"Check", "Version", "GetGuestDetails"};
	uint32_t first = 0;

	for (uint32_t i = 0; i < 3; i++) {
		struct received r;

		wire_read(wire, &r);
		cr_assert_str_eq(r.method, methods[i]);
		first = i ? first : r.id;
		cr_assert_eq(r.id, first + 2 * i);
		kata__proto_free(r.message);
	}
	return first;
}

static void answer_check(struct wire *wire, uint32_t id, Grpc__HealthCheckResponse__ServingStatus status)
{
	Grpc__HealthCheckResponse check = GRPC__HEALTH_CHECK_RESPONSE__INIT;

	check.status = status;
	wire_answer(wire, id, &check);
}

static void answer_greetings(struct wire *wire, uint32_t first)
{
	Grpc__VersionCheckResponse version = GRPC__VERSION_CHECK_RESPONSE__INIT;
	Grpc__GuestDetailsResponse details = GRPC__GUEST_DETAILS_RESPONSE__INIT;
	Grpc__AgentDetails agent = GRPC__AGENT_DETAILS__INIT;
	char *features[] = {(char *)"other", (char *)"libkata.guest"};

	version.agent_version = (char *)"9.8.7\x07";
	agent.extra_features = features;
	agent.n_extra_features = 2;
	details.agent_details = &agent;
	answer_check(wire, first, GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
	wire_answer(wire, first + 2, &version);
	wire_answer(wire, first + 4, &details);
}

static void expect_connected(struct world *w)
{
	fixture_assert_ok(kata_op_wait(w->op, &w->err), w->err);
	cr_assert_eq(kata_agent_get_state(w->agent), KATA_AGENT_CONNECTED);
}

Test(connect, asks_all_at_once_and_learns_version_and_features)
{
	struct world w;

	setup(&w);
	begin(&w);
	cr_assert_eq(kata_agent_get_state(w.agent), KATA_AGENT_CONNECTING);
	cr_assert_eq(read_greetings(&w.wires[0]), 1u);
	answer_greetings(&w.wires[0], 1);
	expect_connected(&w);
	cr_assert_str_eq(kata_agent_get_version(w.agent), "9.8.7?");
	cr_assert(kata_agent_has_guest_service(w.agent));
	cr_assert_eq(w.connects, 1u);
	teardown(&w);
}

/* Only Check, and nothing behind it. */
static void read_check_alone(struct world *w, struct wire *wire)
{
	struct received r;

	wire_read(wire, &r);
	cr_assert_str_eq(r.method, "Check");
	kata__proto_free(r.message);
	settle(w->f.context);
	cr_assert_not(wire_try_read(wire, &(struct received){0}));
	answer_check(wire, r.id, GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
}

static void drop_connection(struct world *w)
{
	kata_op_unref(w->op);
	kata_agent_unref(w->agent);
	w->op = NULL;
	w->agent = NULL;
	settle(w->f.context);
}

Test(connect, asks_a_machine_it_knows_only_whether_it_serves)
{
	struct world w;

	setup(&w);
	begin(&w);
	read_greetings(&w.wires[0]);
	answer_greetings(&w.wires[0], 1);
	expect_connected(&w);
	drop_connection(&w);
	begin(&w);
	read_check_alone(&w, &w.wires[1]);
	expect_connected(&w);
	cr_assert_str_eq(kata_agent_get_version(w.agent), "9.8.7?");
	cr_assert(kata_agent_has_guest_service(w.agent));
	teardown(&w);
}

Test(connect, asks_again_where_it_was_not_told_a_version)
{
	struct world w;

	setup(&w);
	for (unsigned i = 0; i < 2; i++) {
		uint32_t first;

		begin(&w);
		first = read_greetings(&w.wires[i]);
		wire_refuse(&w.wires[i], first + 4, KATA__GRPC_UNIMPLEMENTED, "");
		wire_refuse(&w.wires[i], first + 2, KATA__GRPC_UNIMPLEMENTED, "");
		answer_check(&w.wires[i], first, GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
		expect_connected(&w);
		drop_connection(&w);
	}
	teardown(&w);
}

Test(connect, takes_an_agent_that_knows_neither_version_nor_details)
{
	struct world w;

	setup(&w);
	begin(&w);
	read_greetings(&w.wires[0]);
	wire_refuse(&w.wires[0], 5, KATA__GRPC_UNIMPLEMENTED, "");
	wire_refuse(&w.wires[0], 3, KATA__GRPC_UNIMPLEMENTED, "");
	answer_check(&w.wires[0], 1, GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
	expect_connected(&w);
	cr_assert_str_eq(kata_agent_get_version(w.agent), "");
	cr_assert_not(kata_agent_has_guest_service(w.agent));
	teardown(&w);
}

Test(connect, goes_on_with_the_ids_of_a_released_connection)
{
	struct world w;

	setup(&w);
	begin_with(&w, "{\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":101}", 0);
	cr_assert_eq(read_greetings(&w.wires[0]), 101u);
	answer_greetings(&w.wires[0], 101);
	expect_connected(&w);
	teardown(&w);
}

Test(connect, passes_over_whole_answers_to_an_earlier_session)
{
	struct world w;

	setup(&w);
	begin_with(&w, "{\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":101}", 0);
	wire_answer(&w.wires[0], 37, NULL);
	wire_refuse(&w.wires[0], 99, KATA__GRPC_INTERNAL, "of before");
	answer_greetings(&w.wires[0], read_greetings(&w.wires[0]));
	expect_connected(&w);
	cr_assert_eq(w.connects, 1u);
	teardown(&w);
}

/* The first connection brings `bytes`, the second is fine: with ids that go on. */
static void recovers_from(const void *bytes, size_t length, bool hangs_up)
{
	struct world w;

	setup(&w);
	begin(&w);
	read_greetings(&w.wires[0]);
	if (length)
		wire_send(&w.wires[0], bytes, length);
	if (hangs_up)
		wire_hang_up(&w.wires[0]);
	RUN(w.f.context, w.connects == 2);
	cr_assert_eq(read_greetings(&w.wires[1]), 7u);
	answer_greetings(&w.wires[1], 7);
	expect_connected(&w);
	teardown(&w);
}

Test(connect, comes_back_after_the_tail_of_an_earlier_answer)
{
	recovers_from("tail of a frame", 15, false);
	recovers_from("\0\0\0\0\0\0\0\0\0\0", 10, false);
}

Test(connect, comes_back_after_a_connection_that_is_closed)
{
	recovers_from("", 0, true);
}

Test(connect, comes_back_after_an_answer_that_is_cut)
{
	recovers_from("\0\0\0\4\0\0\0\1\2", 9, true);
}

Test(connect, comes_back_when_another_answer_has_the_id_of_the_check)
{
	recovers_from("\0\0\0\4\0\0\0\1\2\0\x12\2\x10\1", 14, false);
	recovers_from("\0\0\0\4\0\0\0\1\2\0\x12\2\xff\xff", 14, false);
}

Test(connect, comes_back_after_a_silence, .timeout = 30)
{
	uint64_t start = kata__now_ns();

	recovers_from("", 0, false);
	cr_assert_geq((kata__now_ns() - start) / 1000000, 2900u);
}

Test(connect, comes_back_when_opening_again_fails)
{
	struct world w;

	setup(&w);
	begin(&w);
	w.refused = 2;
	wire_hang_up(&w.wires[0]);
	RUN(w.f.context, w.connects == 2);
	answer_greetings(&w.wires[1], read_greetings(&w.wires[1]));
	expect_connected(&w);
	teardown(&w);
}

Test(connect, fails_at_once_when_the_channel_cannot_be_opened)
{
	struct world w;

	setup(&w);
	w.refused = 1;
	begin(&w);
	fixture_assert_fails(kata_op_wait(w.op, &w.err), KATA_E_GONE, w.err);
	cr_assert_str_eq(kata_error_get_step(w.err), "connect-agent/open-channel");
	cr_assert_eq(kata_agent_get_state(w.agent), KATA_AGENT_LOST);
	cr_assert_not(w.vm->agent_connected);
	teardown(&w);
}

Test(connect, a_guest_that_stays_silent_costs_the_deadline_and_the_error_tells_all)
{
	struct world w;

	setup(&w);
	begin_with(&w, NULL, 100);
	fixture_assert_fails(kata_op_wait(w.op, &w.err), KATA_E_TIMEOUT, w.err);
	cr_assert_str_eq(kata_error_get_step(w.err), "connect-agent/handshake");
	cr_assert_not_null(kata_error_get_hint(w.err));
	cr_assert_not_null(kata_error_get_console(w.err));
	cr_assert_eq(kata_agent_get_state(w.agent), KATA_AGENT_LOST);
	cr_assert_not(w.vm->agent_connected);
	teardown(&w);
}

Test(connect, a_peer_that_always_hangs_up_is_tried_few_times_and_named_as_the_cause)
{
	struct world w;

	setup(&w);
	w.closes_at_once = true;
	begin_with(&w, NULL, 400);
	fixture_assert_fails(kata_op_wait(w.op, &w.err), KATA_E_TIMEOUT, w.err);
	cr_assert(w.connects >= 3 && w.connects <= 8, "%u connects", w.connects);
	cr_assert_not_null(kata_error_get_cause(w.err));
	cr_assert_eq(kata_error_get_status(kata_error_get_cause(w.err)), KATA_E_GONE);
	teardown(&w);
}

Test(connect, the_end_of_the_machine_ends_it)
{
	struct world w;

	setup(&w);
	begin(&w);
	settle(w.f.context);
	end_machine(&w);
	fixture_assert_fails(kata_op_wait(w.op, &w.err), KATA_E_GONE, w.err);
	cr_assert_not_null(kata_error_get_console(w.err));
	cr_assert_eq(kata_agent_get_state(w.agent), KATA_AGENT_LOST);
	teardown(&w);
}

Test(connect, a_cancel_gives_the_channel_back)
{
	struct world w;
	char byte;

	setup(&w);
	begin(&w);
	read_greetings(&w.wires[0]);
	kata_op_cancel(w.op);
	fixture_assert_fails(kata_op_wait(w.op, &w.err), KATA_E_CANCELLED, w.err);
	error_clear(&w.err);
	cr_assert_eq(recv(w.wires[0].fd, &byte, 1, 0), 0);
	kata_op_unref(kata__take_ptr(w.op));
	kata_agent_unref(kata__take_ptr(w.agent));

	begin(&w);
	answer_greetings(&w.wires[1], read_greetings(&w.wires[1]));
	expect_connected(&w);
	teardown(&w);
}

Test(connect, a_vm_has_one_connection_at_a_time)
{
	kata_agent *second = NULL;
	struct world w;

	setup(&w);
	begin(&w);
	answer_greetings(&w.wires[0], read_greetings(&w.wires[0]));
	expect_connected(&w);
	fixture_assert_fails(kata_agent_builder_build(w.builder, w.vm, NULL, NULL, &second, &w.err), KATA_E_BUSY,
			     w.err);
	error_clear(&w.err);
	cr_assert_null(second);
	wire_hang_up(&w.wires[0]);
	RUN(w.f.context, kata_agent_get_state(w.agent) == KATA_AGENT_LOST);
	cr_assert_not(w.vm->agent_connected);
	teardown(&w);
}

Test(connect, bytes_behind_the_last_answer_are_noticed)
{
	struct world w;
	uint32_t first;

	setup(&w);
	begin(&w);
	first = read_greetings(&w.wires[0]);
	answer_greetings(&w.wires[0], first);
	wire_send(&w.wires[0], "\xff", 1);
	fixture_assert_ok(kata_op_wait(w.op, &w.err), w.err);
	cr_assert_eq(kata_agent_get_state(w.agent), KATA_AGENT_LOST);
	fixture_assert_fails(kata_agent_check(w.agent, NULL, &w.err), KATA_E_PROTOCOL, w.err);
	teardown(&w);
}

Test(connect, the_end_of_the_machine_loses_a_connected_agent)
{
	kata_op *wait, *destroy;
	struct world w;

	setup(&w);
	begin(&w);
	answer_greetings(&w.wires[0], read_greetings(&w.wires[0]));
	expect_connected(&w);
	fixture_assert_ok(kata_agent_call_begin(w.agent,
						REQUEST(.method = KATA_AGENT_WAIT_PROCESS, .container_id = "c1"), NULL,
						&wait, &w.err),
			  w.err);
	fixture_assert_ok(
		kata_agent_call_begin(w.agent, REQUEST(.method = KATA_AGENT_DESTROY_SANDBOX), NULL, &destroy, &w.err),
		w.err);
	end_machine(&w);
	fixture_assert_fails(link_end(wait, &w.err), KATA_E_GONE, w.err);
	cr_assert_not_null(kata_error_get_console(w.err));
	error_clear(&w.err);
	fixture_assert_ok(link_end(destroy, &w.err), w.err);
	cr_assert_eq(kata_agent_get_state(w.agent), KATA_AGENT_LOST);
	teardown(&w);
}

Test(connect, refuses_a_vm_that_does_not_run_and_text_that_is_not_ours)
{
	struct world w;

	setup(&w);
	fixture_assert_fails(kata_agent_builder_build(w.builder, w.vm, "{}", NULL, &w.agent, &w.err), KATA_E_CORRUPT,
			     w.err);
	error_clear(&w.err);
	fixture_assert_ok(kata_vm_pause(w.vm, NULL, &w.err), w.err);
	fixture_assert_fails(kata_agent_builder_build(w.builder, w.vm, NULL, NULL, &w.agent, &w.err), KATA_E_STATE,
			     w.err);
	error_clear(&w.err);
	fixture_assert_ok(kata_vm_destroy(w.vm, NULL, &w.err), w.err);
	fixture_assert_fails(kata_agent_builder_build(w.builder, w.vm, NULL, NULL, &w.agent, &w.err), KATA_E_GONE,
			     w.err);
	cr_assert_null(w.agent);
	cr_assert_eq(w.connects, 0u);
	teardown(&w);
}

Test(connect, the_agent_may_be_dropped_while_it_connects)
{
	struct world w;

	setup(&w);
	begin(&w);
	kata_agent_unref(kata__take_ptr(w.agent));
	answer_greetings(&w.wires[0], read_greetings(&w.wires[0]));
	fixture_assert_ok(kata_op_wait(w.op, &w.err), w.err);
	kata_op_unref(kata__take_ptr(w.op));
	cr_assert_not(w.vm->agent_connected);
	teardown(&w);
}

Test(connect, each_step_may_fail_and_the_channel_is_free_again)
{
	static const char *const points[] = {"connect-agent/open-channel:before", "connect-agent/open-channel:after",
					     "connect-agent/handshake:before", "connect-agent/handshake:after"};
	struct world w;

	setup(&w);
	for (unsigned i = 0; i < 4; i++) {
		fixture_assert_ok(kata_context_set_fail_point(w.f.context, points[i], KATA_FAIL_ERROR, 0, 0, 1, &w.err),
				  w.err);
		begin(&w);
		if (i == 3)
			answer_greetings(&w.wires[w.connects - 1], read_greetings(&w.wires[w.connects - 1]));
		fixture_assert_fails(kata_op_wait(w.op, &w.err), KATA_E_INJECTED, w.err);
		error_clear(&w.err);
		cr_assert_eq(kata_agent_get_state(w.agent), KATA_AGENT_LOST);
		cr_assert_not(w.vm->agent_connected);
		kata_op_unref(kata__take_ptr(w.op));
		kata_agent_unref(kata__take_ptr(w.agent));
	}
	begin(&w);
	answer_greetings(&w.wires[w.connects - 1], read_greetings(&w.wires[w.connects - 1]));
	expect_connected(&w);
	teardown(&w);
}
