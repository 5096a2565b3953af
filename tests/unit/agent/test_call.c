/* SPDX-License-Identifier: Apache-2.0 */
/* Calls as operations, from the caller's begin to the bytes and back. */
#include "unit/agent/agent_test.h"

#include <pthread.h>

#define SPEC                                                                                                           \
	"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"/bin/true\"],\"cwd\":\"/"                                  \
	"\",\"user\":{\"uid\":0,\"gid\":0}},"                                                                          \
	"\"root\":{\"path\":\"/r\"},\"linux\":{}}"
#define PROCESS "{\"args\":[\"true\"],\"cwd\":\"/\",\"user\":{\"uid\":0,\"gid\":0}}"

static const char data[32] = "input";
static const kata_agent_interface nic = {.name = "eth0", .mac = "02:00:00:00:00:01", .mtu = 1500};

/* A request that every method accepts as its own. */
static kata_agent_request request_of(kata_agent_method method)
{
	const char *json = method == KATA_AGENT_EXEC_PROCESS ? PROCESS : SPEC;

	return (kata_agent_request){
		.size = sizeof(kata_agent_request),
		.method = method,
		.sandbox_id = "box",
		.container_id = "c1",
		.exec_id = "e1",
		.json = json,
		.json_length = strlen(json),
		.interface_ = &nic,
		.device_kind = "blk",
		.device_address = "08/00",
		.data = data,
		.data_length = sizeof(data),
		.signal = 15,
		.max_length = 64,
	};
}

/* The bytes of an answer that fits the method. */
static size_t answer_of(kata_agent_method method, uint8_t *to)
{
	Grpc__CgroupStats cgroup = GRPC__CGROUP_STATS__INIT;
	Grpc__StatsContainerResponse stats = GRPC__STATS_CONTAINER_RESPONSE__INIT;
	Grpc__AwaitDeviceResponse device = GRPC__AWAIT_DEVICE_RESPONSE__INIT;
	Grpc__HealthCheckResponse check = GRPC__HEALTH_CHECK_RESPONSE__INIT;
	Grpc__ResetIdentityResponse reset = GRPC__RESET_IDENTITY_RESPONSE__INIT;

	check.status = GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
	device.name = (char *)"vda";
	stats.cgroup_stats = &cgroup;
	switch (method) {
	case KATA_AGENT_CHECK:
		return protobuf_c_message_pack(&check.base, to);
	case KATA_AGENT_AWAIT_DEVICE:
		return protobuf_c_message_pack(&device.base, to);
	case KATA_AGENT_STATS_CONTAINER:
		return protobuf_c_message_pack(&stats.base, to);
	case KATA_AGENT_RESET_IDENTITY:
		reset.done = KATA_RESET_ENTROPY;
		return protobuf_c_message_pack(&reset.base, to);
	default:
		return 0;
	}
}

/* A response frame around those bytes. */
static size_t frame_of(kata_agent_method method, uint32_t id, uint8_t *to)
{
	size_t length = answer_of(method, to + KATA__TTRPC_HEADER_SIZE + 2);
	struct kata__ttrpc_header h = {
		.length = length ? (uint32_t)length + 2 : 0, .stream_id = id, .type = KATA__TTRPC_RESPONSE};

	kata__ttrpc_header_encode(&h, to);
	to[KATA__TTRPC_HEADER_SIZE] = 0x12;
	to[KATA__TTRPC_HEADER_SIZE + 1] = (uint8_t)length;
	return KATA__TTRPC_HEADER_SIZE + h.length;
}

static bool is_read(kata_agent_method method)
{
	return method == KATA_AGENT_READ_STDOUT || method == KATA_AGENT_READ_STDERR;
}

Test(call, every_method_is_sent_under_its_name_and_answered)
{
	struct link l;

	link_open(&l);
	for (int i = 0; i < KATA_AGENT_METHOD_COUNT; i++) {
		kata_agent_request request = request_of((kata_agent_method)i);
		uint8_t frame[64];
		struct received r;
		kata_error *err = NULL;
		kata_op *op = link_call(&l, &request, &r);

		cr_assert_str_eq(r.method, kata_agent_method_get_name((kata_agent_method)i));
		cr_assert_null(kata_agent_op_get_reply(op));
		wire_send(&l.wire, frame, frame_of((kata_agent_method)i, r.id, frame));
		fixture_assert_ok(kata_op_wait(op, &err), err);
		cr_assert_not_null(kata_agent_op_get_reply(op));
		kata__proto_free(r.message);
		kata_op_unref(op);
	}
	link_close(&l);
}

/* ---- what a peer does instead of answering, and the status of the call */

enum fault {
	FAULT_STATUS, /* and 15 more codes */
	FAULT_HANG_UP = 16,
	FAULT_CUT_HEADER,
	FAULT_CUT_BODY,
	FAULT_WRONG_ID,
	FAULT_EVEN_ID,
	FAULT_DUPLICATE,
	FAULT_OVERSIZE,
	FAULT_FIRST_BYTE,
	FAULT_GARBAGE,
	FAULT_BYTE_BY_BYTE,
	FAULT_SILENCE,
	FAULT_COUNT
};

static int expected_of(kata_agent_method method, enum fault fault)
{
	switch (fault) {
	case FAULT_HANG_UP:
	case FAULT_CUT_HEADER:
	case FAULT_CUT_BODY:
	case FAULT_WRONG_ID:
		return method == KATA_AGENT_DESTROY_SANDBOX ? 0 : KATA_E_GONE;
	case FAULT_EVEN_ID:
	case FAULT_OVERSIZE:
	case FAULT_FIRST_BYTE:
	case FAULT_GARBAGE:
		return KATA_E_PROTOCOL;
	case FAULT_DUPLICATE:
	case FAULT_BYTE_BY_BYTE:
		return 0;
	case FAULT_SILENCE:
		return KATA_E_TIMEOUT;
	default:
		break;
	}
	switch (fault + 1) {
	case KATA__GRPC_DEADLINE_EXCEEDED:
		return KATA_E_TIMEOUT;
	case KATA__GRPC_NOT_FOUND:
		return is_read(method) ? 0 : KATA_E_NOT_FOUND;
	case KATA__GRPC_ALREADY_EXISTS:
		return method == KATA_AGENT_START_CONTAINER ? KATA_E_EXISTS : KATA_E_GUEST;
	case KATA__GRPC_UNIMPLEMENTED:
		return KATA_E_UNSUPPORTED;
	case KATA__GRPC_FAILED_PRECONDITION:
		return method == KATA_AGENT_OFFLINE_DEVICE ? KATA_E_BUSY : KATA_E_GUEST;
	default:
		return KATA_E_GUEST;
	}
}

static void send_frame(struct link *l, kata_agent_method method, uint32_t id, size_t at_a_time)
{
	uint8_t frame[64];
	size_t length = frame_of(method, id, frame);

	for (size_t at = 0; at < length; at += at_a_time) {
		wire_send(&l->wire, frame + at, length - at < at_a_time ? length - at : at_a_time);
		settle(l->f.context);
	}
}

static void misbehave(struct link *l, enum fault fault, kata_agent_method method, uint32_t id)
{
	switch (fault) {
	case FAULT_HANG_UP:
		break;
	case FAULT_CUT_HEADER:
		wire_send(&l->wire, "\0\0\0\x04\0", 5);
		break;
	case FAULT_CUT_BODY:
		wire_send(&l->wire, "\0\0\0\x04\0\0\0\x01\x02\0\x12\x02", 12);
		break;
	case FAULT_WRONG_ID:
		wire_answer(&l->wire, id + 2, NULL);
		break;
	case FAULT_EVEN_ID:
		wire_answer(&l->wire, id + 1, NULL);
		break;
	case FAULT_DUPLICATE:
		send_frame(l, method, id, 64);
		send_frame(l, method, id, 64);
		break;
	case FAULT_OVERSIZE:
		wire_send(&l->wire, "\0\x40\0\x01\0\0\0\x01\x02\0", 10);
		break;
	case FAULT_FIRST_BYTE:
		wire_send(&l->wire, "\x80", 1);
		break;
	case FAULT_GARBAGE:
		wire_send(&l->wire, "\0HTTP/1.1 400 Bad Request\r\n", 26);
		break;
	case FAULT_BYTE_BY_BYTE:
		send_frame(l, method, id, 1);
		break;
	case FAULT_SILENCE:
		break;
	default:
		wire_refuse(&l->wire, id, (int32_t)fault + 1, "no");
	}
	if (fault >= FAULT_HANG_UP && fault <= FAULT_WRONG_ID)
		wire_hang_up(&l->wire);
}

static void suffer(kata_agent_method method, enum fault fault)
{
	kata_op_options options = {.size = sizeof(options), .timeout_ms = fault == FAULT_SILENCE ? 20 : PATIENCE_MS};
	kata_agent_request request = request_of(method);
	int expected = expected_of(method, fault);
	kata_error *err = NULL;
	kata_op *op = NULL;
	struct received r;
	struct link l;
	int rc;

	link_open(&l);
	fixture_assert_ok(kata_agent_call_begin(l.agent, &request, &options, &op, &err), err);
	wire_read(&l.wire, &r);
	kata__proto_free(r.message);
	misbehave(&l, fault, method, r.id);
	rc = kata_op_wait(op, &err);
	cr_assert_eq(rc, expected, "%s with fault %d: %s", kata_agent_method_get_name(method), (int)fault,
		     error_text(err));
	cr_assert_eq(kata_agent_op_get_reply(op) != NULL, rc == 0);
	kata_error_free(err);
	kata_op_unref(op);
	link_close(&l);
}

/* One test a block of methods, so that they run side by side. */
static void suffer_all(int from, int to)
{
	for (int method = from; method < to && method < KATA_AGENT_METHOD_COUNT; method++)
		for (int fault = 0; fault < FAULT_COUNT; fault++)
			suffer((kata_agent_method)method, (enum fault)fault);
}

Test(call, every_fault_of_the_peer_ends_methods_0_to_8_with_its_status)
{
	suffer_all(0, 9);
}

Test(call, every_fault_of_the_peer_ends_methods_9_to_17_with_its_status)
{
	suffer_all(9, 18);
}

Test(call, every_fault_of_the_peer_ends_methods_18_and_up_with_its_status)
{
	suffer_all(18, KATA_AGENT_METHOD_COUNT);
}

/* ---- deadlines */

Test(call, silence_costs_one_deadline_and_the_error_says_so)
{
	kata_op_options options = {.size = sizeof(options), .timeout_ms = 100};
	uint64_t start = kata__now_ns(), took_ms;
	kata_error *err = NULL;
	struct link l;

	link_open(&l);
	fixture_assert_fails(kata_agent_check(l.agent, &options, &err), KATA_E_TIMEOUT, err);
	took_ms = (kata__now_ns() - start) / 1000000;
	cr_assert(took_ms >= 99 && took_ms < 5000, "%llu ms", (unsigned long long)took_ms);
	cr_assert_str_eq(kata_error_get_step(err), "agent-check/call");
	cr_assert_not_null(kata_error_get_hint(err));
	cr_assert_eq(kata_agent_get_state(l.agent), KATA_AGENT_CONNECTED);
	kata_error_free(err);
	link_close(&l);
}

Test(call, a_late_answer_is_not_taken_for_the_next_call)
{
	kata_op_options options = {.size = sizeof(options), .timeout_ms = 20};
	kata_error *err = NULL;
	struct received r;
	kata_op *op;
	struct link l;
	uint32_t late;

	link_open(&l);
	fixture_assert_fails(kata_agent_check(l.agent, &options, &err), KATA_E_TIMEOUT, err);
	error_clear(&err);
	late = wire_read_id(&l.wire);
	op = link_call(&l, REQUEST(.method = KATA_AGENT_WAIT_PROCESS, .container_id = "c1"), &r);
	kata__proto_free(r.message);
	wire_answer(&l.wire, late, NULL);
	settle(l.f.context);
	cr_assert_not(kata_op_is_done(op));
	wire_answer(&l.wire, r.id, NULL);
	fixture_assert_ok(link_end(op, &err), err);
	link_close(&l);
}

Test(call, a_peer_that_never_reads_costs_each_call_its_own_deadline)
{
	enum { CALLS = 12 };

	static uint8_t large[1 << 20];
	uint64_t start = kata__now_ns();
	kata_error *err = NULL;
	kata_op *ops[CALLS];
	struct link l;

	link_open(&l);
	for (uint64_t i = 0; i < CALLS; i++) {
		kata_op_options options = {.size = sizeof(options), .timeout_ms = 50 + 10 * i};

		fixture_assert_ok(kata_agent_call_begin(l.agent,
							REQUEST(.method = KATA_AGENT_WRITE_STDIN, .container_id = "c1",
								.data = large, .data_length = sizeof(large)),
							&options, &ops[i], &err),
				  err);
	}
	for (int i = 0; i < CALLS; i++) {
		fixture_assert_fails(link_end(ops[i], &err), KATA_E_TIMEOUT, err);
		error_clear(&err);
	}
	cr_assert_lt((kata__now_ns() - start) / 1000000, 20000u);
	link_close(&l);
}

Test(call, what_timed_out_unsent_is_not_sent_later)
{
	static uint8_t large[2 << 20];
	kata_op_options options = {.size = sizeof(options), .timeout_ms = 30};
	kata_error *err = NULL;
	struct received r;
	kata_op *first, *second;
	struct link l;

	link_open(&l);
	first = link_begin(&l, REQUEST(.method = KATA_AGENT_WRITE_STDIN, .container_id = "c1", .data = large,
				       .data_length = sizeof(large)));
	fixture_assert_ok(kata_agent_call_begin(l.agent,
						REQUEST(.method = KATA_AGENT_START_CONTAINER, .container_id = "c1"),
						&options, &second, &err),
			  err);
	fixture_assert_fails(link_end(second, &err), KATA_E_TIMEOUT, err);
	error_clear(&err);
	while (!wire_try_read(&l.wire, &r))
		settle(l.f.context);
	cr_assert_str_eq(r.method, "WriteStdin");
	kata__proto_free(r.message);
	wire_answer(&l.wire, r.id, NULL);
	fixture_assert_ok(link_end(first, &err), err);
	settle(l.f.context);
	cr_assert_not(wire_try_read(&l.wire, &r));
	link_close(&l);
}

Test(call, the_guest_is_told_a_deadline_a_little_before_ours_and_none_for_waits)
{
	struct received r;
	kata_op *op;
	struct link l;

	link_open(&l);
	op = link_call(&l, REQUEST(.method = KATA_AGENT_START_CONTAINER, .container_id = "c1"), &r);
	cr_assert(r.timeout_ns >= 58000000000u && r.timeout_ns < 60000000000u, "%llu",
		  (unsigned long long)r.timeout_ns);
	kata__proto_free(r.message);
	kata_op_unref(op);
	op = link_call(&l, REQUEST(.method = KATA_AGENT_WAIT_PROCESS, .container_id = "c1"), &r);
	cr_assert_eq(r.timeout_ns, 0u);
	kata__proto_free(r.message);
	kata_op_unref(op);
	wire_hang_up(&l.wire);
	settle(l.f.context);
	link_close(&l);
}

/* ---- cancel, loss, release */

Test(call, a_cancel_ends_it_and_the_answer_is_ignored)
{
	kata_error *err = NULL;
	struct received r;
	struct link l;
	kata_op *op;

	link_open(&l);
	op = link_call(&l, REQUEST(.method = KATA_AGENT_WAIT_PROCESS, .container_id = "c1"), &r);
	kata__proto_free(r.message);
	kata_op_cancel(op);
	fixture_assert_fails(link_end(op, &err), KATA_E_CANCELLED, err);
	error_clear(&err);
	wire_answer(&l.wire, r.id, NULL);
	settle(l.f.context);
	cr_assert_eq(kata_agent_get_state(l.agent), KATA_AGENT_CONNECTED);
	link_close(&l);
}

Test(call, the_loss_of_the_connection_ends_all_and_later_calls_say_why)
{
	enum { CALLS = 20 };

	kata_op *ops[CALLS], *op = NULL;
	kata_error *err = NULL;
	struct link l;

	link_open(&l);
	for (int i = 0; i < CALLS; i++)
		ops[i] = link_begin(&l, REQUEST(.method = KATA_AGENT_WAIT_PROCESS, .container_id = "c1"));
	wire_hang_up(&l.wire);
	for (int i = 0; i < CALLS; i++) {
		fixture_assert_fails(link_end(ops[i], &err), KATA_E_GONE, err);
		error_clear(&err);
	}
	cr_assert_eq(kata_agent_get_state(l.agent), KATA_AGENT_LOST);
	fixture_assert_fails(kata_agent_call_begin(l.agent, REQUEST(.method = KATA_AGENT_CHECK), NULL, &op, &err),
			     KATA_E_GONE, err);
	error_clear(&err);
	fixture_assert_fails(kata_agent_check(l.agent, NULL, &err), KATA_E_GONE, err);
	kata_error_free(err);
	cr_assert_null(op);
	link_close(&l);
}

Test(call, destroy_sandbox_succeeds_when_the_guest_hangs_up_and_the_others_do_not)
{
	kata_error *err = NULL;
	kata_op *wait, *destroy;
	struct link l;

	link_open(&l);
	wait = link_begin(&l, REQUEST(.method = KATA_AGENT_WAIT_PROCESS, .container_id = "c1"));
	destroy = link_begin(&l, REQUEST(.method = KATA_AGENT_DESTROY_SANDBOX));
	wire_hang_up(&l.wire);
	fixture_assert_ok(link_end(destroy, &err), err);
	fixture_assert_fails(link_end(wait, &err), KATA_E_GONE, err);
	kata_error_free(err);
	link_close(&l);
}

Test(call, a_release_cancels_what_is_in_flight_and_says_where_to_go_on)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_WAIT_PROCESS, .container_id = "c1"};
	kata_error *err = NULL;
	char *json = NULL;
	struct link l;
	kata_op *op;

	link_open_with(&l, KATA_CONTEXT_EXTERNAL_LOOP, 41, true);
	op = link_begin(&l, &request);
	fixture_assert_ok(kata_agent_release(l.agent, &json, &err), err);
	cr_assert_str_eq(json, "{\"next_stream_id\":43,\"protocol\":\"kata\",\"version\":1}");
	free(json);
	cr_assert_eq(kata_agent_get_state(l.agent), KATA_AGENT_RELEASED);
	fixture_assert_fails(link_end(op, &err), KATA_E_CANCELLED, err);
	error_clear(&err);
	fixture_assert_fails(kata_agent_call_begin(l.agent, &request, NULL, &op, &err), KATA_E_STATE, err);
	error_clear(&err);
	json = NULL;
	fixture_assert_fails(kata_agent_release(l.agent, &json, &err), KATA_E_STATE, err);
	kata_error_free(err);
	cr_assert_null(json);
	link_close(&l);
}

/* ---- replies */

Test(call, a_reply_outlives_the_connection)
{
	Grpc__ReadStreamResponse m = GRPC__READ_STREAM_RESPONSE__INIT;
	const kata_agent_reply *reply;
	kata_error *err = NULL;
	struct received r;
	struct link l;
	kata_op *op;

	link_open(&l);
	op = link_call(&l, REQUEST(.method = KATA_AGENT_READ_STDOUT, .container_id = "c1", .max_length = 64), &r);
	kata__proto_free(r.message);
	m.data.data = (uint8_t *)"hello";
	m.data.len = 5;
	wire_answer(&l.wire, r.id, &m);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	wire_hang_up(&l.wire);
	settle(l.f.context);
	reply = kata_agent_op_get_reply(op);
	cr_assert_eq(reply->data_length, 5u);
	cr_assert_eq(memcmp(reply->data, "hello", 5), 0);
	cr_assert_eq(reply->size, sizeof(*reply));
	kata_op_unref(op);
	link_close(&l);
}

Test(call, a_failed_call_has_no_reply)
{
	kata_error *err = NULL;
	struct received r;
	struct link l;
	kata_op *op;

	link_open(&l);
	op = link_call(&l, REQUEST(.method = KATA_AGENT_VERSION), &r);
	kata__proto_free(r.message);
	wire_refuse(&l.wire, r.id, KATA__GRPC_INTERNAL, "no");
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_GUEST, err);
	cr_assert_null(kata_agent_op_get_reply(op));
	cr_assert_null(kata_agent_op_get_reply(NULL));
	kata_error_free(err);
	kata_op_unref(op);
	link_close(&l);
}

Test(call, a_guest_without_the_guest_service_is_not_asked_for_it)
{
	kata_error *err = NULL;
	struct received r;
	struct link l;
	kata_op *op;

	link_open_with(&l, KATA_CONTEXT_EXTERNAL_LOOP, 1, false);
	op = link_begin(&l,
			REQUEST(.method = KATA_AGENT_AWAIT_DEVICE, .device_kind = "blk", .device_address = "08/00"));
	fixture_assert_fails(link_end(op, &err), KATA_E_UNSUPPORTED, err);
	error_clear(&err);
	op = link_begin(&l, REQUEST(.method = KATA_AGENT_SETTLE));
	fixture_assert_fails(link_end(op, &err), KATA_E_UNSUPPORTED, err);
	kata_error_free(err);
	cr_assert_not(wire_try_read(&l.wire, &r));
	link_close(&l);
}

/* ---- ResetIdentity where the guest has no service for it */

static kata_op *begin_composed(struct link *l, const kata_agent_request *request)
{
	link_open_with(l, KATA_CONTEXT_EXTERNAL_LOOP, 1, false);
	return link_begin(l, request);
}

static const char seed[32] = "the seed";
#define RESET(...) REQUEST(.method = KATA_AGENT_RESET_IDENTITY, __VA_ARGS__)

Test(call, an_identity_reset_of_a_plain_agent_reseeds_and_sets_the_time)
{
	struct link l;
	kata_op *op = begin_composed(&l, RESET(.data = seed, .data_length = sizeof(seed), .seconds = 1700000000,
					       .microseconds = 999999, .hostname = "clone", .max_length = 8));
	const Grpc__ReseedRandomDevRequest *reseed;
	const Grpc__SetGuestDateTimeRequest *time;
	const kata_agent_reply *reply;
	kata_error *err = NULL;
	struct received r;

	wire_read(&l.wire, &r);
	cr_assert_str_eq(r.method, "ReseedRandomDev");
	reseed = r.message;
	cr_assert_eq(reseed->data.len, sizeof(seed));
	cr_assert_eq(memcmp(reseed->data.data, seed, sizeof(seed)), 0);
	kata__proto_free(r.message);
	cr_assert_not(wire_try_read(&l.wire, &r));
	wire_answer(&l.wire, 1, NULL);
	settle(l.f.context);
	wire_read(&l.wire, &r);
	cr_assert_str_eq(r.method, "SetGuestDateTime");
	time = r.message;
	cr_assert(time->sec == 1700000000 || time->sec == 1700000001, "with what has passed since: %lld",
		  (long long)time->sec);
	cr_assert_leq(time->usec, 999999);
	kata__proto_free(r.message);
	wire_answer(&l.wire, r.id, NULL);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	reply = kata_agent_op_get_reply(op);
	cr_assert_eq(reply->reset, KATA_RESET_ENTROPY | KATA_RESET_CLOCK, "not the hostname");
	cr_assert_eq(reply->data_length, 0u);
	kata_op_unref(op);
	link_close(&l);
}

Test(call, an_identity_reset_of_a_plain_agent_does_only_what_is_asked_for)
{
	kata_error *err = NULL;
	struct received r;
	struct link l;
	kata_op *op = begin_composed(&l, RESET(.seconds = 5));

	wire_read(&l.wire, &r);
	cr_assert_str_eq(r.method, "SetGuestDateTime");
	kata__proto_free(r.message);
	wire_answer(&l.wire, r.id, NULL);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	cr_assert_eq(kata_agent_op_get_reply(op)->reset, KATA_RESET_CLOCK);
	kata_op_unref(op);
	op = link_begin(&l, RESET(.hostname = "clone"));
	fixture_assert_ok(kata_op_wait(op, &err), err);
	cr_assert_eq(kata_agent_op_get_reply(op)->reset, 0u);
	cr_assert_not(wire_try_read(&l.wire, &r), "there is nothing to be sent");
	kata_op_unref(op);
	link_close(&l);
}

Test(call, an_identity_reset_of_a_plain_agent_ends_at_the_first_part_that_fails)
{
	kata_error *err = NULL;
	struct received r;
	struct link l;
	kata_op *op = begin_composed(&l, RESET(.data = seed, .data_length = sizeof(seed), .seconds = 5));

	wire_refuse(&l.wire, wire_read_id(&l.wire), KATA__GRPC_INTERNAL, "no device");
	fixture_assert_fails(link_end(op, &err), KATA_E_GUEST, err);
	cr_assert(strstr(error_text(err), "ReseedRandomDev"), "%s", error_text(err));
	error_clear(&err);
	cr_assert_not(wire_try_read(&l.wire, &r));
	link_close(&l);
}

Test(call, an_identity_reset_of_a_plain_agent_can_be_cancelled_between_its_parts)
{
	kata_error *err = NULL;
	struct link l;
	kata_op *op = begin_composed(&l, RESET(.data = seed, .data_length = sizeof(seed), .seconds = 5));

	wire_answer(&l.wire, wire_read_id(&l.wire), NULL);
	settle(l.f.context);
	wire_read_id(&l.wire);
	kata_op_cancel(op);
	fixture_assert_fails(link_end(op, &err), KATA_E_CANCELLED, err);
	kata_error_free(err);
	link_close(&l);
}

/* ---- arguments */

Test(call, refuses_what_can_be_seen_to_be_wrong_at_once)
{
	kata_op_options options = {.size = 3};
	kata_agent_request request = {.size = 2, .method = KATA_AGENT_CHECK};
	kata_error *err = NULL;
	kata_op *op = NULL;
	struct link l;

	link_open(&l);
	fixture_assert_fails(kata_agent_call_begin(NULL, &request, NULL, &op, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_agent_call_begin(l.agent, NULL, NULL, &op, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_agent_call_begin(l.agent, &request, NULL, &op, &err), KATA_E_INVALID, err);
	error_clear(&err);
	request.size = sizeof(request);
	fixture_assert_fails(kata_agent_call_begin(l.agent, &request, &options, &op, &err), KATA_E_INVALID, err);
	error_clear(&err);
	request.method = KATA_AGENT_START_CONTAINER;
	fixture_assert_fails(kata_agent_call_begin(l.agent, &request, NULL, &op, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_agent_check(NULL, NULL, &err), KATA_E_INVALID, err);
	kata_error_free(err);
	cr_assert_null(op);
	link_close(&l);
}

Test(call, bad_json_fails_the_op_and_sends_nothing)
{
	kata_error *err = NULL;
	struct received r;
	struct link l;
	kata_op *op;

	link_open(&l);
	op = link_begin(&l, REQUEST(.method = KATA_AGENT_CREATE_CONTAINER, .container_id = "c1", .json = "{",
				    .json_length = 1));
	fixture_assert_fails(link_end(op, &err), KATA_E_INVALID, err);
	kata_error_free(err);
	cr_assert_not(wire_try_read(&l.wire, &r));
	link_close(&l);
}

Test(call, fail_points_stand_before_and_after_each_method)
{
	kata_agent_request request = {
		.size = sizeof(request), .method = KATA_AGENT_START_CONTAINER, .container_id = "c1"};
	kata_error *err = NULL;
	struct received r;
	struct link l;
	kata_op *op;

	link_open(&l);
	fixture_assert_ok(kata_context_set_fail_point(l.f.context, "agent-start-container/call:before", KATA_FAIL_ERROR,
						      0, 0, 1, &err),
			  err);
	op = link_begin(&l, &request);
	fixture_assert_fails(link_end(op, &err), KATA_E_INJECTED, err);
	cr_assert_str_eq(kata_error_get_step(err), "agent-start-container/call");
	error_clear(&err);
	cr_assert_not(wire_try_read(&l.wire, &r));
	op = link_call(&l, &request, &r);
	kata__proto_free(r.message);
	wire_answer(&l.wire, r.id, NULL);
	fixture_assert_ok(link_end(op, &err), err);
	link_close(&l);
}

/* ---- callbacks and threads */

struct chain {
	kata_agent *agent; /* owned: dropped in the callback */
	unsigned left;
	unsigned done;
};

static void again(void *user, kata_op *op)
{
	struct chain *c = user;
	kata_op *next = NULL;
	kata_error *err = NULL;

	c->done += kata_op_get_error(op) == NULL;
	if (!c->left--) {
		kata_agent_unref(c->agent);
		return;
	}
	fixture_assert_ok(kata_agent_call_begin(c->agent,
						REQUEST(.method = KATA_AGENT_START_CONTAINER, .container_id = "c1"),
						NULL, &next, &err),
			  err);
	fixture_assert_ok(kata_op_set_callback(next, again, c, NULL, &err), err);
	kata_op_unref(next);
}

Test(call, a_callback_may_start_the_next_and_drop_the_agent)
{
	struct chain c = {.left = 3};
	kata_error *err = NULL;
	struct link l;
	kata_op *op;

	link_open(&l);
	c.agent = l.agent;
	l.agent = NULL;
	fixture_assert_ok(kata_agent_call_begin(c.agent, REQUEST(.method = KATA_AGENT_CHECK), NULL, &op, &err), err);
	fixture_assert_ok(kata_op_set_callback(op, again, &c, NULL, &err), err);
	kata_op_unref(op);
	for (int i = 0; i < 4; i++) {
		uint8_t frame[64];
		uint32_t id = wire_read_id(&l.wire);

		wire_send(&l.wire, frame, frame_of(i ? KATA_AGENT_START_CONTAINER : KATA_AGENT_CHECK, id, frame));
		settle(l.f.context);
	}
	cr_assert_eq(c.done, 4u);
	cr_assert_eq(recv(l.wire.fd, &op, 1, 0), 0, "the connection must be closed by now");
	link_close(&l);
}

struct server {
	struct wire wire;
	pthread_t thread;
};

static void *serve(void *arg)
{
	struct server *s = arg;
	struct kata__ttrpc_frame frame;
	struct pollfd p = {.fd = s->wire.fd, .events = POLLIN};

	while (poll(&p, 1, PATIENCE_MS) == 1 && wire_fill(&s->wire)) {
		while (kata__ttrpc_next(&s->wire.reader, &s->wire.in, &frame, NULL) == 1) {
			uint8_t answer[64];

			send(s->wire.fd, answer, frame_of(KATA_AGENT_CHECK, frame.stream_id, answer), MSG_NOSIGNAL);
			kata__ttrpc_consume(&s->wire.in, &frame);
		}
	}
	return NULL;
}

static void *check_often(void *arg)
{
	kata_error *err = NULL;

	for (int i = 0; i < 300; i++)
		if (kata_agent_check(arg, NULL, &err) != 0)
			return err;
	return NULL;
}

static void check_from_eight_threads(uint64_t flags)
{
	pthread_t threads[8];
	struct server s;
	struct link l;

	link_open_with(&l, flags, 1, true);
	s.wire = l.wire;
	cr_assert_eq(pthread_create(&s.thread, NULL, serve, &s), 0);
	for (int i = 0; i < 8; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, check_often, l.agent), 0);
	for (int i = 0; i < 8; i++) {
		void *err = NULL;

		pthread_join(threads[i], &err);
		cr_assert_null(err, "%s", error_text(err));
	}
	kata_agent_unref(l.agent);
	l.agent = NULL;
	pthread_join(s.thread, NULL);
	l.wire = s.wire;
	link_close(&l);
}

Test(call, eight_threads_call_side_by_side_with_an_io_thread, .timeout = 60)
{
	check_from_eight_threads(0);
}

Test(call, eight_threads_call_side_by_side_on_an_external_loop, .timeout = 60)
{
	check_from_eight_threads(KATA_CONTEXT_EXTERNAL_LOOP);
}
