/* SPDX-License-Identifier: Apache-2.0 */
#include "harness.h"

/* The calls that a handler has parked, newest first. */
static struct call *parked[8];
static size_t parked_count, forgotten;

static void answer(void *user, struct call *call, const void *request)
{
	Grpc__HealthCheckResponse r = GRPC__HEALTH_CHECK_RESPONSE__INIT;

	r.status = GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
	call_answer(call, &r);
}

static void forget(struct call *call, void *user)
{
	forgotten++;
}

static void park(void *user, struct call *call, const void *request)
{
	parked[parked_count++ % 8] = call;
	call_park(call, forget, NULL);
}

static void fail(void *user, struct call *call, const void *request)
{
	kata_error *err = NULL;

	kata__fail(&err, KATA_E_NOT_FOUND, CALLER, "there is none");
	kata__error_wrap(&err, KATA_E_NOT_FOUND, "looking");
	call_answer_error(call, &err);
}

static struct harness h;
static struct reply r;

static void set_up_as(bool is_channel)
{
	h.handlers.methods[KATA__HEALTH_CHECK] = answer;
	h.handlers.methods[KATA__AGENT_WAIT_PROCESS] = park;
	h.handlers.methods[KATA__AGENT_WRITE_STDIN] = answer;
	h.handlers.methods[KATA__AGENT_START_CONTAINER] = fail;
	harness_init(&h, is_channel);
}

static void set_up(void)
{
	set_up_as(true);
}

TestSuite(rpc, .init = set_up, .timeout = 20);

static void check(uint32_t id)
{
	harness_send(&h, id, "grpc.Health", "Check", NULL, 0);
}

static void wait_process(uint32_t id, uint64_t timeout_ns)
{
	harness_send(&h, id, "grpc.AgentService", "WaitProcess", NULL, timeout_ns);
}

Test(rpc, answers_a_call)
{
	check(1);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.stream_id, 1);
	cr_assert_eq(r.code, 0);
	cr_assert_gt(r.payload_len, 0);
}

Test(rpc, answers_unknown_methods_and_services_with_unimplemented)
{
	harness_send(&h, 1, "grpc.AgentService", "Frobnicate", NULL, 0);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, KATA__GRPC_UNIMPLEMENTED);
	cr_assert_str_eq(r.text, "method Frobnicate");
	harness_send(&h, 3, "x.Y", "Check", NULL, 0);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, KATA__GRPC_UNIMPLEMENTED);
	cr_assert_str_eq(r.text, "service x.Y");
	harness_send(&h, 5, "grpc.AgentService", "SetPolicy", NULL, 0);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, KATA__GRPC_UNIMPLEMENTED, "a method nobody registered");
}

Test(rpc, gives_the_message_of_an_error_and_its_causes)
{
	harness_send(&h, 1, "grpc.AgentService", "StartContainer", NULL, 0);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, KATA__GRPC_NOT_FOUND);
	cr_assert_str_eq(r.text, "looking: there is none");
}

Test(rpc, answers_parked_calls_in_any_order)
{
	wait_process(1, 0);
	wait_process(3, 0);
	check(5);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.stream_id, 5);
	call_answer(parked[1], NULL);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.stream_id, 3);
	call_answer(parked[0], NULL);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.stream_id, 1);
}

Test(rpc, ends_a_parked_call_at_its_timeout)
{
	wait_process(1, 20000000);
	cr_assert(harness_await(&h, &r, 5000));
	cr_assert_eq(r.code, KATA__GRPC_DEADLINE_EXCEEDED);
	cr_assert_eq(forgotten, 1);
}

Test(rpc, passes_over_a_request_that_is_too_large_and_goes_on)
{
	uint8_t header[KATA__TTRPC_HEADER_SIZE];
	uint8_t *rest = calloc(1, 5u << 20);
	size_t left = 5u << 20;

	kata__ttrpc_header_encode(
		&(struct kata__ttrpc_header){.length = 5u << 20, .stream_id = 1, .type = KATA__TTRPC_REQUEST}, header);
	cr_assert_eq(write(h.host, header, sizeof(header)), (ssize_t)sizeof(header));
	harness_turn(&h);
	while (left) {
		ssize_t n = write(h.host, rest, left);

		left -= n > 0 ? (size_t)n : 0;
		harness_turn(&h);
	}
	free(rest);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, KATA__GRPC_RESOURCE_EXHAUSTED);
	check(3);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.stream_id, 3);
	cr_assert_eq(r.code, 0);
}

Test(rpc, answers_bytes_that_are_no_message)
{
	static const uint8_t payload[] = {0x0a, 0x40, 'g', 'r', 'p', 'c', '.', 'H', 'e', 'a', 'l', 't', 'h', 0x7f};
	uint8_t header[KATA__TTRPC_HEADER_SIZE];

	kata__ttrpc_header_encode(
		&(struct kata__ttrpc_header){.length = sizeof(payload), .stream_id = 1, .type = KATA__TTRPC_REQUEST},
		header);
	cr_assert_eq(write(h.host, header, sizeof(header)), (ssize_t)sizeof(header));
	cr_assert_eq(write(h.host, payload, sizeof(payload)), (ssize_t)sizeof(payload));
	harness_turn(&h);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, KATA__GRPC_INVALID_ARGUMENT);
	check(3);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, 0);
}

Test(rpc, takes_ids_that_start_anew_on_a_channel_for_another_host)
{
	check(1);
	cr_assert(harness_reply(&h, &r));
	wait_process(3, 0);
	check(1);
	cr_assert_eq(forgotten, 1, "the call of the host that left is forgotten");
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.stream_id, 1);
	cr_assert_eq(r.code, 0);
	cr_assert_not(harness_reply(&h, &r));
	cr_assert_eq(rpc_session_count(h.rpc), 2);
}

Test(rpc, forgets_parked_calls_when_the_host_hangs_up_and_does_not_spin)
{
	wait_process(1, 0);
	close(h.host);
	harness_turn(&h); /* ends, though the hang-up stays */
	cr_assert_eq(forgotten, 1);
}

Test(rpc, survives_garbage_until_the_host_hangs_up)
{
	cr_assert_eq(write(h.host, "HTTP/1.1 200 OK\r\n\r\n", 19), 19);
	harness_turn(&h);
	cr_assert_not(harness_reply(&h, &r));
	close(h.host);
	harness_turn(&h);
	h.host = harness_connect(&h, false);
	check(1);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, 0);
}

Test(rpc, takes_a_request_byte_by_byte)
{
	struct kata__ttrpc_call call = {.service = "grpc.Health", .method = "Check"};
	struct kata__buffer out;

	kata__buffer_init(&out, 4096);
	cr_assert_eq(kata__ttrpc_append_request(&out, 1, &call, NULL), 0);
	for (; kata__buffer_len(&out); kata__buffer_consume(&out, 1)) {
		cr_assert_not(harness_reply(&h, &r));
		cr_assert_eq(write(h.host, kata__buffer_bytes(&out), 1), 1);
		harness_turn(&h);
	}
	kata__buffer_deinit(&out);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, 0);
}

Test(rpc, gives_up_a_frame_that_does_not_grow)
{
	uint8_t header[KATA__TTRPC_HEADER_SIZE];
	uint64_t deadline = kata__deadline_in_ms(10000);

	wait_process(1, 0);
	kata__ttrpc_header_encode(
		&(struct kata__ttrpc_header){.length = 1000, .stream_id = 3, .type = KATA__TTRPC_REQUEST}, header);
	cr_assert_eq(write(h.host, header, sizeof(header)), (ssize_t)sizeof(header));
	while (forgotten == 0 && kata__now_ns() < deadline)
		cr_assert_eq(kata__loop_dispatch(h.loop, 100, NULL), 0);
	cr_assert_eq(forgotten, 1);
	check(1);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, 0);
}

Test(rpc, refuses_calls_past_the_cap_and_keeps_those_it_has)
{
	for (uint32_t i = 0; i < RPC_PARKED_MAX; i++)
		wait_process(2 * i + 1, 0);
	cr_assert_not(harness_reply(&h, &r));
	wait_process(2 * RPC_PARKED_MAX + 1, 0);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, KATA__GRPC_RESOURCE_EXHAUSTED);
	cr_assert_eq(forgotten, 0);
}

Test(rpc, refuses_calls_whose_requests_take_more_than_the_cap)
{
	static uint8_t data[4u << 20];
	Grpc__WriteStreamRequest q = GRPC__WRITE_STREAM_REQUEST__INIT;
	uint32_t id = 1;

	h.handlers.methods[KATA__AGENT_WRITE_STDIN] = park;
	q.data.data = data;
	q.data.len = sizeof(data) - 4096;
	for (; id < 2 * RPC_PARKED_BYTES_MAX / sizeof(data); id += 2)
		harness_send(&h, id, "grpc.AgentService", "WriteStdin", &q, 0);
	cr_assert_not(harness_reply(&h, &r));
	harness_send(&h, id, "grpc.AgentService", "WriteStdin", &q, 0);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, KATA__GRPC_RESOURCE_EXHAUSTED);
	check(id + 2);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, 0);
}

static bool was_flushed;

static void on_flushed(void *user)
{
	was_flushed = true;
}

Test(rpc, says_when_answers_have_left)
{
	check(1);
	rpc_when_flushed(h.rpc, on_flushed, NULL);
	cr_assert(was_flushed);
}

Test(rpc_connection, is_closed_when_its_peer_is_gone, .init = NULL)
{
	int other;

	set_up_as(false);
	for (int i = 0; i < 3 * RPC_CONNECTIONS_MAX; i++) {
		other = harness_connect(&h, false);
		close(other);
		harness_turn(&h);
	}
	check(1);
	cr_assert(harness_reply(&h, &r));
}
