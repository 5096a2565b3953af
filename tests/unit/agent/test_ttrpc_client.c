/* SPDX-License-Identifier: Apache-2.0 */
#include "unit/agent/agent_test.h"

#include <signal.h>

#define MANY 64

struct end {
	bool is_over;
	unsigned times;
	int32_t code;
	int status;
	char text[64];
	uint8_t first;
	size_t length;
};

struct loop_test {
	struct kata__loop *loop;
	struct kata__ttrpc_client *client;
	struct wire wire;
	unsigned lost_times;
	int lost_status;
	/* What the callbacks do beside taking notes. */
	void (*then)(struct loop_test *t, struct end *end);
	struct end extra;
};

static struct loop_test *current;

static void on_lost(void *user, const kata_error *reason)
{
	struct loop_test *t = user;

	t->lost_times++;
	t->lost_status = (int)kata_error_get_status(reason);
}

static void on_end(void *user, const struct kata__ttrpc_response *response, kata_error *take_err)
{
	struct end *e = user;

	e->is_over = true;
	e->times++;
	e->status = (int)kata_error_get_status(take_err);
	if (response) {
		e->code = response->code;
		e->length = response->payload.length;
		e->first = response->payload.length ? response->payload.data[0] : 0;
		cr_assert_lt(response->text.length, sizeof(e->text));
		memcpy(e->text, response->text.data ? (const char *)response->text.data : "", response->text.length);
	} else {
		cr_assert_not_null(take_err);
	}
	kata_error_free(take_err);
	if (current->then)
		current->then(current, e);
}

static void lead(struct loop_test *t)
{
	cr_assert(kata__loop_try_lead(t->loop));
}

static void setup(struct loop_test *t, uint32_t first_id)
{
	kata_error *err = NULL;
	int fds[2];

	*t = (struct loop_test){0};
	current = t;
	wire_pair(fds);
	wire_init(&t->wire, fds[1]);
	fixture_assert_ok(kata__loop_new(true, 1, &t->loop, &err), err);
	lead(t);
	fixture_assert_ok(kata__ttrpc_client_new(t->loop, fds[0], first_id, on_lost, t, &t->client, &err), err);
	kata__loop_unlead(t->loop);
}

static void teardown(struct loop_test *t)
{
	lead(t);
	kata__ttrpc_client_free(t->client);
	kata__loop_unlead(t->loop);
	kata__loop_free(t->loop);
	wire_deinit(&t->wire);
}

static int call_message(struct loop_test *t, const ProtobufCMessage *message, struct end *end, uint32_t *ret_id,
			kata_error **err)
{
	struct kata__ttrpc_call call = {.service = "grpc.AgentService", .method = "WriteStdin", .message = message};
	uint32_t id = 0;
	int rc;

	lead(t);
	rc = kata__ttrpc_client_call(t->client, &call, on_end, end, &id, err);
	kata__loop_unlead(t->loop);
	if (ret_id)
		*ret_id = id;
	return rc;
}

static uint32_t call(struct loop_test *t, struct end *end)
{
	kata_error *err = NULL;
	uint32_t id;

	fixture_assert_ok(call_message(t, NULL, end, &id, &err), err);
	return id;
}

static uint32_t call_sized(struct loop_test *t, size_t length, struct end *end)
{
	Grpc__WriteStreamRequest m = GRPC__WRITE_STREAM_REQUEST__INIT;
	kata_error *err = NULL;
	uint32_t id;

	m.data.len = length;
	m.data.data = calloc(1, length);
	fixture_assert_ok(call_message(t, &m.base, end, &id, &err), err);
	free(m.data.data);
	return id;
}

static void cancel(struct loop_test *t, uint32_t id)
{
	lead(t);
	kata__ttrpc_client_cancel(t->client, id);
	kata__loop_unlead(t->loop);
}

static void turn(struct loop_test *t)
{
	for (int i = 0; i < 30; i++)
		cr_assert_eq(kata__loop_dispatch(t->loop, 0, NULL), 0);
}

static void expect_lost(struct loop_test *t, int status)
{
	turn(t);
	cr_assert_eq(t->lost_times, 1u, "lost %u times", t->lost_times);
	cr_assert_eq(t->lost_status, status, "%s", kata_status_get_name(t->lost_status));
}

Test(ttrpc_client, numbers_calls_with_odd_growing_ids)
{
	struct loop_test t;
	struct end ends[3] = {0};

	setup(&t, 1);
	for (uint32_t i = 0; i < 3; i++) {
		cr_assert_eq(call(&t, &ends[i]), 2 * i + 1);
		cr_assert_eq(wire_read_id(&t.wire), 2 * i + 1);
	}
	teardown(&t);
}

Test(ttrpc_client, goes_on_from_the_first_id_it_is_given)
{
	struct loop_test t;
	struct end end = {0};

	setup(&t, 4711);
	cr_assert_eq(call(&t, &end), 4711u);
	cr_assert_eq(kata__ttrpc_client_get_next_id(t.client), 4713u);
	teardown(&t);
}

Test(ttrpc_client, matches_answers_that_come_in_any_order)
{
	static const int order[MANY] = {17, 3, 63, 0, 31, 42};
	struct loop_test t;
	struct end ends[MANY] = {0};
	uint32_t ids[MANY];
	bool answered[MANY] = {false};

	setup(&t, 1);
	for (int i = 0; i < MANY; i++)
		ids[i] = call(&t, &ends[i]);
	for (int k = 0; k < MANY; k++) {
		int i = k < 6 ? order[k] : MANY - 1 - k;

		for (int j = 0; k >= 6 && answered[i]; j++)
			i = j;
		answered[i] = true;
		wire_refuse(&t.wire, ids[i], i % 17 + 100, "");
		turn(&t);
		cr_assert(ends[i].is_over, "call %d", i);
		cr_assert_eq(ends[i].code, i % 17 + 100);
	}
	cr_assert_eq(kata__ttrpc_client_get_in_flight(t.client), 0u);
	teardown(&t);
}

Test(ttrpc_client, takes_many_answers_of_one_read)
{
	struct loop_test t;
	struct end ends[MANY] = {0};

	setup(&t, 1);
	for (int i = 0; i < MANY; i++)
		call(&t, &ends[i]);
	for (int i = 0; i < MANY; i++)
		wire_answer(&t.wire, (uint32_t)(2 * i + 1), NULL);
	cr_assert_eq(kata__loop_dispatch(t.loop, 0, NULL), 0);
	for (int i = 0; i < MANY; i++)
		cr_assert_eq(ends[i].times, 1u);
	teardown(&t);
}

Test(ttrpc_client, gives_code_and_text_of_a_refusal)
{
	struct loop_test t;

	setup(&t, 1);
	for (int32_t code = 1; code <= 16; code++) {
		struct end end = {0};

		wire_refuse(&t.wire, call(&t, &end), code, "because");
		turn(&t);
		cr_assert_eq(end.code, code);
		cr_assert_str_eq(end.text, "because");
	}
	teardown(&t);
}

Test(ttrpc_client, ignores_answers_to_ids_nobody_asked_with)
{
	struct loop_test t;
	struct end end = {0};
	uint32_t id;

	setup(&t, 101);
	id = call(&t, &end);
	wire_answer(&t.wire, 1, NULL);
	wire_answer(&t.wire, 103, NULL);
	wire_answer(&t.wire, 0xffffffff, NULL);
	turn(&t);
	cr_assert(!end.is_over);
	wire_answer(&t.wire, id, NULL);
	turn(&t);
	cr_assert(end.is_over);
	cr_assert_eq(t.lost_times, 0u);
	teardown(&t);
}

Test(ttrpc_client, ends_a_call_once_when_it_is_answered_twice)
{
	struct loop_test t;
	struct end end = {0};
	uint32_t id;

	setup(&t, 1);
	id = call(&t, &end);
	wire_answer(&t.wire, id, NULL);
	wire_refuse(&t.wire, id, KATA__GRPC_INTERNAL, "again");
	turn(&t);
	cr_assert_eq(end.times, 1u);
	cr_assert_eq(end.code, 0);
	teardown(&t);
}

Test(ttrpc_client, does_not_take_a_late_answer_for_the_next_call)
{
	struct loop_test t;
	struct end first = {0}, second = {0};
	uint32_t id;

	setup(&t, 1);
	id = call(&t, &first);
	cancel(&t, id);
	cr_assert_neq(call(&t, &second), id);
	wire_answer(&t.wire, id, NULL);
	turn(&t);
	cr_assert(!first.is_over);
	cr_assert(!second.is_over);
	teardown(&t);
}

/* What a peer may send instead of an answer, and what becomes of the connection. */
static void violate(const void *bytes, size_t length, int status)
{
	struct loop_test t;
	struct end ends[3] = {0};
	kata_error *err = NULL;

	setup(&t, 1);
	for (int i = 0; i < 3; i++)
		call(&t, &ends[i]);
	wire_send(&t.wire, bytes, length);
	if (status == KATA_E_GONE)
		wire_hang_up(&t.wire);
	expect_lost(&t, status);
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(ends[i].times, 1u);
		cr_assert_eq(ends[i].status, status);
	}
	fixture_assert_fails(call_message(&t, NULL, &ends[0], NULL, &err), status, err);
	kata_error_free(err);
	cr_assert_eq(kata__ttrpc_client_get_in_flight(t.client), 0u);
	teardown(&t);
}

Test(ttrpc_client, loses_the_connection_to_a_nonzero_first_byte)
{
	violate("\x01\0\0\0\0\0\0\x01\x02\0", 10, KATA_E_PROTOCOL);
	violate("\xff", 1, KATA_E_PROTOCOL);
}

Test(ttrpc_client, loses_the_connection_to_a_length_above_the_cap)
{
	violate("\0\x40\0\x01\0\0\0\x01\x02\0", 10, KATA_E_PROTOCOL);
	violate("\0\xff\xff\xff\0\0\0\x01\x02\0", 10, KATA_E_PROTOCOL);
}

Test(ttrpc_client, loses_the_connection_to_an_even_id)
{
	violate("\0\0\0\0\0\0\0\x02\x02\0", 10, KATA_E_PROTOCOL);
	violate("\0\0\0\0\0\0\0\0\x02\0", 10, KATA_E_PROTOCOL);
}

Test(ttrpc_client, loses_the_connection_to_another_frame_type)
{
	violate("\0\0\0\0\0\0\0\x01\x01\0", 10, KATA_E_PROTOCOL);
	violate("\0\0\0\0\0\0\0\x01\x03\0", 10, KATA_E_PROTOCOL);
	violate("\0\0\0\0\0\0\0\x01\xff\0", 10, KATA_E_PROTOCOL);
}

Test(ttrpc_client, loses_the_connection_to_flags)
{
	violate("\0\0\0\0\0\0\0\x01\x02\x01", 10, KATA_E_PROTOCOL);
}

Test(ttrpc_client, loses_the_connection_to_a_frame_that_holds_no_response)
{
	violate("\0\0\0\x02\0\0\0\x01\x02\0\x0a\xff", 12, KATA_E_PROTOCOL);
}

Test(ttrpc_client, says_gone_when_the_peer_hangs_up)
{
	violate("", 0, KATA_E_GONE);
}

Test(ttrpc_client, says_gone_when_a_header_is_cut)
{
	violate("\0\0\0\x02\0", 5, KATA_E_GONE);
}

Test(ttrpc_client, says_gone_when_a_body_is_cut)
{
	violate("\0\0\0\x20\0\0\0\x01\x02\0\x12\x1e", 12, KATA_E_GONE);
}

Test(ttrpc_client, gives_the_answers_that_came_before_the_end)
{
	struct loop_test t;
	struct end ends[2] = {0};

	setup(&t, 1);
	call(&t, &ends[0]);
	call(&t, &ends[1]);
	wire_answer(&t.wire, 1, NULL);
	wire_hang_up(&t.wire);
	expect_lost(&t, KATA_E_GONE);
	cr_assert_eq(ends[0].status, 0);
	cr_assert_eq(ends[1].status, KATA_E_GONE);
	teardown(&t);
}

Test(ttrpc_client, reads_an_answer_that_comes_a_byte_at_a_time)
{
	static const uint8_t answer[] = {0, 0, 0, 4, 0, 0, 0, 1, 2, 0, 0x12, 2, 8, 1};
	struct loop_test t;
	struct end end = {0};

	setup(&t, 1);
	call(&t, &end);
	for (size_t i = 0; i < sizeof(answer); i++) {
		cr_assert(!end.is_over);
		wire_send(&t.wire, &answer[i], 1);
		turn(&t);
	}
	cr_assert_eq(end.length, 2u);
	cr_assert_eq(end.first, 8);
	teardown(&t);
}

/* Sends a large frame piece by piece, since the socket holds less. */
static void send_slowly(struct loop_test *t, const uint8_t *data, size_t length)
{
	while (length) {
		ssize_t n = send(t->wire.fd, data, length, MSG_NOSIGNAL);

		if (n > 0) {
			data += n;
			length -= (size_t)n;
		}
		cr_assert_eq(kata__loop_dispatch(t->loop, 0, NULL), 0);
	}
}

Test(ttrpc_client, takes_an_answer_of_four_mebibytes)
{
	const size_t length = KATA__TTRPC_HEADER_SIZE + KATA__TTRPC_DATA_MAX;
	uint8_t *frame = calloc(1, length);
	struct loop_test t;
	struct end end = {0};

	setup(&t, 1);
	call(&t, &end);
	memcpy(frame, "\0\x40\0\0\0\0\0\x01\x02\0\x12\xfb\xff\xff\x01\x77", 16);
	send_slowly(&t, frame, length);
	turn(&t);
	cr_assert(end.is_over);
	cr_assert_eq(end.length, KATA__TTRPC_DATA_MAX - 5u);
	cr_assert_eq(end.first, 0x77);
	teardown(&t);
	free(frame);
}

Test(ttrpc_client, queues_what_a_peer_does_not_read_and_sends_it_later_in_order)
{
	struct loop_test t;
	struct end ends[8] = {0};
	uint32_t ids[8];

	setup(&t, 1);
	for (int i = 0; i < 8; i++)
		ids[i] = call_sized(&t, 300000, &ends[i]);
	turn(&t);
	for (int i = 0; i < 8; i++) {
		struct received r;
		Grpc__WriteStreamRequest *m;

		while (!wire_try_read(&t.wire, &r))
			turn(&t);
		m = r.message;
		cr_assert_eq(r.id, ids[i]);
		cr_assert_eq(m->data.len, 300000u);
		kata__proto_free(r.message);
		wire_answer(&t.wire, r.id, NULL);
	}
	turn(&t);
	for (int i = 0; i < 8; i++)
		cr_assert_eq(ends[i].times, 1u);
	teardown(&t);
}

Test(ttrpc_client, says_exhausted_when_a_peer_never_reads)
{
	struct loop_test t;
	struct end ends[16] = {0};
	Grpc__WriteStreamRequest m = GRPC__WRITE_STREAM_REQUEST__INIT;
	kata_error *err = NULL;
	int rc = 0, n = 0;

	setup(&t, 1);
	m.data.len = 4000000;
	m.data.data = calloc(1, m.data.len);
	while (rc == 0 && n < 16) {
		rc = call_message(&t, &m.base, &ends[n], NULL, &err);
		n += rc == 0;
	}
	cr_assert_eq(rc, KATA_E_EXHAUSTED, "after %d: %s", n, error_text(err));
	cr_assert_leq(n, 6);
	kata_error_free(err);
	free(m.data.data);
	teardown(&t);
	for (int i = 0; i < n; i++)
		cr_assert_eq(ends[i].status, KATA_E_CANCELLED);
}

Test(ttrpc_client, does_not_send_what_was_cancelled_before_its_turn)
{
	struct loop_test t;
	struct end ends[4] = {0};
	uint32_t ids[4];
	struct received r;

	setup(&t, 1);
	for (int i = 0; i < 4; i++)
		ids[i] = call_sized(&t, 600000, &ends[i]);
	cancel(&t, ids[0]); /* begun: is sent to its end */
	cancel(&t, ids[2]);
	for (int i = 0; i < 4; i++) {
		if (i == 2)
			continue;
		while (!wire_try_read(&t.wire, &r))
			turn(&t);
		cr_assert_eq(r.id, ids[i]);
		kata__proto_free(r.message);
	}
	turn(&t);
	cr_assert(!wire_try_read(&t.wire, &r));
	cr_assert(!ends[0].is_over && !ends[2].is_over);
	teardown(&t);
}

Test(ttrpc_client, refuses_a_request_larger_than_a_frame_and_stays_usable)
{
	struct loop_test t;
	struct end end = {0};
	Grpc__WriteStreamRequest m = GRPC__WRITE_STREAM_REQUEST__INIT;
	kata_error *err = NULL;
	uint32_t id;

	setup(&t, 1);
	m.data.len = KATA__TTRPC_DATA_MAX;
	m.data.data = calloc(1, m.data.len);
	fixture_assert_fails(call_message(&t, &m.base, &end, NULL, &err), KATA_E_INVALID, err);
	kata_error_free(err);
	free(m.data.data);
	id = call(&t, &end);
	cr_assert_eq(wire_read_id(&t.wire), id);
	teardown(&t);
}

Test(ttrpc_client, refuses_the_call_after_4096_in_flight_and_takes_it_when_one_ended)
{
	struct loop_test t;
	struct end *ends = calloc(KATA__TTRPC_CALLS_MAX + 1, sizeof(*ends));
	uint32_t first = 0;
	kata_error *err = NULL;

	setup(&t, 1);
	for (unsigned i = 0; i < KATA__TTRPC_CALLS_MAX; i++) {
		uint32_t id = call(&t, &ends[i]);

		first = first ? first : id;
		while (wire_fill(&t.wire))
			;
	}
	fixture_assert_fails(call_message(&t, NULL, &ends[0], NULL, &err), KATA_E_EXHAUSTED, err);
	kata_error_free(err);
	wire_answer(&t.wire, first, NULL);
	turn(&t);
	cr_assert_eq(ends[0].times, 1u);
	call(&t, &ends[KATA__TTRPC_CALLS_MAX]);
	teardown(&t);
	for (unsigned i = 1; i <= KATA__TTRPC_CALLS_MAX; i++)
		cr_assert_eq(ends[i].times, 1u);
	free(ends);
}

Test(ttrpc_client, keeps_parked_calls_apart_from_ten_thousand_short_ones)
{
	struct loop_test t;
	struct end parked[5] = {0};
	uint32_t ids[5];

	setup(&t, 1);
	for (int i = 0; i < 5; i++)
		ids[i] = call(&t, &parked[i]);
	for (int i = 0; i < 10000; i++) {
		struct end end = {0};
		uint32_t id = call(&t, &end);

		wire_answer(&t.wire, id, NULL);
		cr_assert_eq(kata__loop_dispatch(t.loop, 0, NULL), 0);
		cr_assert_eq(end.times, 1u);
		while (wire_fill(&t.wire))
			;
		kata__buffer_consume(&t.wire.in, kata__buffer_len(&t.wire.in));
	}
	for (int i = 0; i < 5; i++) {
		cr_assert(!parked[i].is_over);
		wire_refuse(&t.wire, ids[i], i + 1, "");
	}
	turn(&t);
	for (int i = 0; i < 5; i++)
		cr_assert_eq(parked[i].code, i + 1);
	teardown(&t);
}

Test(ttrpc_client, says_exhausted_when_the_ids_are_used_up)
{
	struct loop_test t;
	struct end ends[2] = {0};
	kata_error *err = NULL;

	setup(&t, 0xffffffff);
	cr_assert_eq(call(&t, &ends[0]), 0xffffffffu);
	fixture_assert_fails(call_message(&t, NULL, &ends[1], NULL, &err), KATA_E_EXHAUSTED, err);
	kata_error_free(err);
	wire_answer(&t.wire, 0xffffffff, NULL);
	turn(&t);
	cr_assert(ends[0].is_over);
	teardown(&t);
}

Test(ttrpc_client, survives_a_peer_that_is_gone_before_the_write_with_sigpipe_fatal)
{
	struct loop_test t;
	struct end end = {0};

	signal(SIGPIPE, SIG_DFL);
	setup(&t, 1);
	wire_hang_up(&t.wire);
	call(&t, &end);
	cr_assert(!end.is_over, "a call must not end inside the function that starts it");
	expect_lost(&t, KATA_E_GONE);
	cr_assert_eq(end.times, 1u);
	teardown(&t);
}

Test(ttrpc_client, is_lost_when_the_peer_only_stops_reading)
{
	struct loop_test t;
	struct end end = {0};

	setup(&t, 1);
	cr_assert_eq(shutdown(t.wire.fd, SHUT_RD), 0);
	call(&t, &end);
	expect_lost(&t, KATA_E_GONE);
	cr_assert_eq(end.status, KATA_E_GONE);
	teardown(&t);
}

static void then_free(struct loop_test *t, struct end *end)
{
	t->then = NULL; /* the calls that the free ends come here too */
	kata__ttrpc_client_free(kata__take_ptr(t->client));
}

Test(ttrpc_client, may_be_freed_by_the_function_that_ends_a_call)
{
	struct loop_test t;
	struct end ends[4] = {0};

	setup(&t, 1);
	for (int i = 0; i < 4; i++)
		call(&t, &ends[i]);
	t.then = then_free;
	wire_answer(&t.wire, 3, NULL);
	wire_answer(&t.wire, 1, NULL);
	turn(&t);
	cr_assert_eq(ends[1].status, 0);
	for (int i = 0; i < 4; i++) {
		cr_assert_eq(ends[i].times, 1u);
		cr_assert(i == 1 || ends[i].status == KATA_E_CANCELLED);
	}
	teardown(&t);
}

Test(ttrpc_client, may_be_freed_while_it_is_being_lost)
{
	struct loop_test t;
	struct end ends[4] = {0};

	setup(&t, 1);
	for (int i = 0; i < 4; i++)
		call(&t, &ends[i]);
	t.then = then_free;
	wire_hang_up(&t.wire);
	turn(&t);
	for (int i = 0; i < 4; i++)
		cr_assert_eq(ends[i].times, 1u);
	teardown(&t);
}

static void then_call(struct loop_test *t, struct end *end)
{
	struct kata__ttrpc_call c = {.service = "grpc.AgentService", .method = "WriteStdin"};
	kata_error *err = NULL;
	uint32_t id;

	t->then = NULL;
	fixture_assert_ok(kata__ttrpc_client_call(t->client, &c, on_end, &t->extra, &id, &err), err);
}

Test(ttrpc_client, takes_a_call_from_the_function_that_ends_one)
{
	struct loop_test t;
	struct end end = {0};

	setup(&t, 1);
	call(&t, &end);
	t.then = then_call;
	wire_answer(&t.wire, 1, NULL);
	wire_answer(&t.wire, 3, NULL);
	turn(&t);
	cr_assert_eq(t.extra.times, 1u);
	cr_assert_eq(wire_read_id(&t.wire), 1u);
	cr_assert_eq(wire_read_id(&t.wire), 3u);
	teardown(&t);
}

static void then_cancel_others(struct loop_test *t, struct end *end)
{
	for (uint32_t id = 1; id < 2 * MANY; id += 2)
		kata__ttrpc_client_cancel(t->client, id);
}

Test(ttrpc_client, lets_a_function_cancel_calls_whose_answers_are_read_already)
{
	struct loop_test t;
	struct end ends[MANY] = {0};
	unsigned over = 0;

	setup(&t, 1);
	for (int i = 0; i < MANY; i++)
		call(&t, &ends[i]);
	t.then = then_cancel_others;
	for (int i = 0; i < MANY; i++)
		wire_answer(&t.wire, (uint32_t)(2 * i + 1), NULL);
	turn(&t);
	for (int i = 0; i < MANY; i++)
		over += ends[i].times;
	cr_assert_eq(over, 1u);
	cr_assert_eq(kata__ttrpc_client_get_in_flight(t.client), 0u);
	teardown(&t);
}
