/* SPDX-License-Identifier: Apache-2.0 */
#include "agent.pb-c.h"
#include "proto/message.h"
#include "proto/ttrpc.h"
#include "ttrpc_messages.pb-c.h"
#include "unit/proto/proto_test.h"

#define CAP (2 * KATA__TTRPC_FRAME_MAX)

/* protobuf-c's own encoder is the oracle: hand-written bytes must be what it would write. */
static void append_frame(struct kata__buffer *b, uint32_t id, uint8_t type, const void *data, size_t length)
{
	struct kata__ttrpc_header h = {.length = (uint32_t)length, .stream_id = id, .type = type};
	uint8_t bytes[KATA__TTRPC_HEADER_SIZE];

	kata__ttrpc_header_encode(&h, bytes);
	cr_assert_eq(kata__buffer_append(b, bytes, sizeof(bytes)), 0);
	cr_assert_eq(kata__buffer_append(b, data, length), 0);
}

static struct kata__ttrpc_frame next_frame(struct kata__ttrpc_reader *reader, struct kata__buffer *b)
{
	struct kata__ttrpc_frame f = {0};
	kata_error *err = NULL;

	cr_assert_eq(kata__ttrpc_next(reader, b, &f, &err), 1, "%s", kata_error_get_message(err));
	return f;
}

static void expect_refused(bool is_server, const char *bytes, size_t length, const char *part)
{
	struct kata__ttrpc_reader reader = {.is_server = is_server};
	struct kata__ttrpc_frame f;
	struct kata__buffer b;
	kata_error *err = NULL;

	kata__buffer_init(&b, CAP);
	cr_assert_eq(kata__buffer_append(&b, bytes, length), 0);
	expect_failure(kata__ttrpc_next(&reader, &b, &f, &err), KATA_E_PROTOCOL, part, &err);
	kata__buffer_deinit(&b);
}

Test(ttrpc, header_is_big_endian)
{
	struct kata__ttrpc_header h = {.length = 0x00010203, .stream_id = 0x04050607, .type = 1, .flags = 0};
	struct kata__ttrpc_header back;
	uint8_t bytes[KATA__TTRPC_HEADER_SIZE];
	struct kata__cursor c;

	kata__ttrpc_header_encode(&h, bytes);
	cr_assert_eq(memcmp(bytes, "\x00\x01\x02\x03\x04\x05\x06\x07\x01\x00", 10), 0);
	c = kata__cursor_over(bytes, sizeof(bytes));
	cr_assert(kata__ttrpc_header_decode(&c, &back));
	cr_assert_eq(back.length, h.length);
	cr_assert_eq(back.stream_id, h.stream_id);
}

Test(ttrpc, code_names)
{
	cr_assert_str_eq(kata__grpc_code_name(0), "OK");
	cr_assert_str_eq(kata__grpc_code_name(KATA__GRPC_NOT_FOUND), "NOT_FOUND");
	cr_assert_str_eq(kata__grpc_code_name(16), "UNAUTHENTICATED");
	cr_assert_str_eq(kata__grpc_code_name(17), "UNKNOWN_CODE");
	cr_assert_str_eq(kata__grpc_code_name(-1), "UNKNOWN_CODE");
}

Test(ttrpc, request_bytes_are_what_protobuf_writes)
{
	Grpc__StartContainerRequest start = GRPC__START_CONTAINER_REQUEST__INIT;
	struct kata__ttrpc_call call = {
		.service = "grpc.AgentService", .method = "StartContainer", .message = &start.base};
	Ttrpc__Request request = TTRPC__REQUEST__INIT;
	uint8_t payload[64], expected[256];
	struct kata__buffer b;

	start.container_id = (char *)"c1";
	call.timeout_ns = 60000000000;
	request.service = (char *)call.service;
	request.method = (char *)call.method;
	request.payload.len = protobuf_c_message_pack(&start.base, payload);
	request.payload.data = payload;
	request.timeout_nano = 60000000000;

	kata__buffer_init(&b, CAP);
	cr_assert_eq(kata__ttrpc_append_request(&b, 7, &call, NULL), 0);
	cr_assert_eq(kata__buffer_len(&b), 10 + ttrpc__request__pack(&request, expected));
	cr_assert_eq(memcmp(kata__buffer_bytes(&b) + 10, expected, kata__buffer_len(&b) - 10), 0);
	kata__buffer_deinit(&b);
}

Test(ttrpc, request_is_read_back_as_views)
{
	Grpc__StartContainerRequest start = GRPC__START_CONTAINER_REQUEST__INIT;
	struct kata__ttrpc_call call = {.service = "s", .method = "m", .message = &start.base, .timeout_ns = 5};
	struct kata__ttrpc_reader reader = {.is_server = true};
	struct kata__ttrpc_request r;
	struct kata__ttrpc_frame f;
	ProtobufCMessage *m = NULL;
	struct kata__buffer b;

	start.container_id = (char *)"abc";
	kata__buffer_init(&b, CAP);
	cr_assert_eq(kata__ttrpc_append_request(&b, 1, &call, NULL), 0);
	f = next_frame(&reader, &b);
	cr_assert_eq(kata__ttrpc_read_request(&f, &r, NULL), 0);
	cr_assert(slice_is(r.service, "s"));
	cr_assert(slice_is(r.method, "m"));
	cr_assert_eq(r.timeout_ns, 5);
	cr_assert_eq(kata__proto_unpack(&grpc__start_container_request__descriptor, r.payload.data, r.payload.length,
					&m, NULL),
		     0);
	cr_assert_str_eq(((Grpc__StartContainerRequest *)m)->container_id, "abc");
	kata__proto_free(m);
	kata__ttrpc_consume(&b, &f);
	cr_assert_eq(kata__buffer_len(&b), 0);
	kata__buffer_deinit(&b);
}

Test(ttrpc, request_without_message_and_timeout_has_neither)
{
	struct kata__ttrpc_call call = {.service = "grpc.Health", .method = "Check"};
	struct kata__ttrpc_reader reader = {.is_server = true};
	struct kata__ttrpc_request r;
	struct kata__ttrpc_frame f;
	struct kata__buffer b;

	kata__buffer_init(&b, CAP);
	cr_assert_eq(kata__ttrpc_append_request(&b, 1, &call, NULL), 0);
	f = next_frame(&reader, &b);
	cr_assert_eq(f.data.length, 2 + 11 + 2 + 5);
	cr_assert_eq(kata__ttrpc_read_request(&f, &r, NULL), 0);
	cr_assert_eq(r.payload.length, 0);
	cr_assert_eq(r.timeout_ns, 0);
	kata__buffer_deinit(&b);
}

Test(ttrpc, request_metadata_is_passed_over)
{
	Ttrpc__KeyValue pair = TTRPC__KEY_VALUE__INIT;
	Ttrpc__KeyValue *pairs[] = {&pair, &pair};
	Ttrpc__Request request = TTRPC__REQUEST__INIT;
	struct kata__ttrpc_reader reader = {.is_server = true};
	struct kata__ttrpc_request r;
	struct kata__ttrpc_frame f;
	struct kata__buffer b;
	uint8_t bytes[256];

	pair.key = (char *)"k";
	pair.value = (char *)"v";
	request.service = (char *)"s";
	request.n_metadata = 2;
	request.metadata = pairs;
	request.timeout_nano = -7;
	kata__buffer_init(&b, CAP);
	append_frame(&b, 3, KATA__TTRPC_REQUEST, bytes, ttrpc__request__pack(&request, bytes));
	f = next_frame(&reader, &b);
	cr_assert_eq(kata__ttrpc_read_request(&f, &r, NULL), 0);
	cr_assert(slice_is(r.service, "s"));
	cr_assert_eq(r.timeout_ns, 1, "a timeout in the past is still a timeout");
	kata__buffer_deinit(&b);
}

/* A request whose frame carries exactly `length` bytes, by the size of the container id. */
static int append_sized_request(struct kata__buffer *b, size_t length, kata_error **err)
{
	Grpc__StartContainerRequest start = GRPC__START_CONTAINER_REQUEST__INIT;
	struct kata__ttrpc_call call = {.service = "s", .method = "m", .message = &start.base};
	size_t around = 3 + 3 + 1 + 4 + 1 + 4; /* service, method, two keys with lengths of four bytes */
	char *id = calloc(1, length);
	int rc;

	memset(id, 'x', length - around);
	start.container_id = id;
	rc = kata__ttrpc_append_request(b, 1, &call, err);
	free(id);
	return rc;
}

Test(ttrpc, a_request_of_4194304_bytes_is_sent_and_read)
{
	struct kata__ttrpc_reader reader = {.is_server = true};
	struct kata__ttrpc_request r;
	struct kata__ttrpc_frame f;
	struct kata__buffer b;
	kata_error *err = NULL;

	kata__buffer_init(&b, KATA__TTRPC_FRAME_MAX);
	expect_success(append_sized_request(&b, 4194304, &err), &err);
	f = next_frame(&reader, &b);
	cr_assert_eq(f.data.length, 4194304);
	cr_assert_eq(kata__ttrpc_read_request(&f, &r, NULL), 0);
	kata__buffer_deinit(&b);
}

Test(ttrpc, a_request_of_4194305_bytes_is_refused_before_it_is_written)
{
	struct kata__buffer b;
	kata_error *err = NULL;

	kata__buffer_init(&b, CAP);
	expect_failure(append_sized_request(&b, 4194305, &err), KATA_E_INVALID, "4194305", &err);
	cr_assert_eq(kata__buffer_len(&b), 0);
	kata__buffer_deinit(&b);
}

Test(ttrpc, a_full_buffer_refuses_a_request_and_stays_as_it_was)
{
	struct kata__ttrpc_call call = {.service = "s", .method = "m"};
	struct kata__buffer b;
	kata_error *err = NULL;

	kata__buffer_init(&b, 31);
	expect_success(kata__ttrpc_append_request(&b, 1, &call, &err), &err);
	expect_failure(kata__ttrpc_append_request(&b, 3, &call, &err), KATA_E_EXHAUSTED, "16 bytes are waiting", &err);
	cr_assert_eq(kata__buffer_len(&b), 16);
	kata__buffer_deinit(&b);
}

Test(ttrpc, a_frame_of_4194305_bytes_is_refused_by_its_header_alone)
{
	expect_refused(false, "\x00\x40\x00\x01\x00\x00\x00\x01\x02\x00", 10, "4194305");
	expect_refused(true, "\x00\x40\x00\x01\x00\x00\x00\x01\x01\x00", 10, "4194305");
}

Test(ttrpc, a_first_byte_that_is_not_zero_is_refused_alone)
{
	expect_refused(false, "\x01", 1, "first byte");
	expect_refused(true, "{\"QMP\"", 6, "first byte");
}

Test(ttrpc, a_client_refuses_what_is_not_a_response)
{
	expect_refused(false, "\0\0\0\0\0\0\0\1\1\0", 10, "frame type must be 2 (1)");
	expect_refused(false, "\0\0\0\0\0\0\0\1\3\0", 10, "frame type must be 2 (3)");
	expect_refused(false, "\0\0\0\0\0\0\0\1\0\0", 10, "frame type must be 2 (0)");
	expect_refused(false, "\0\0\0\0\0\0\0\1\2\1", 10, "flags must be 0");
}

Test(ttrpc, a_server_refuses_what_is_not_a_unary_request)
{
	expect_refused(true, "\0\0\0\0\0\0\0\1\2\0", 10, "frame type must be 1 (2)");
	expect_refused(true, "\0\0\0\0\0\0\0\1\1\2", 10, "flags must be 0");
}

Test(ttrpc, even_and_zero_stream_ids_are_refused)
{
	expect_refused(false, "\0\0\0\0\0\0\0\0\2\0", 10, "must be odd (0)");
	expect_refused(false, "\0\0\0\0\0\0\0\2\2\0", 10, "must be odd (2)");
	expect_refused(true, "\0\0\0\0\0\0\0\4\1\0", 10, "must be odd (4)");
}

Test(ttrpc, the_origin_of_an_error_is_the_peer)
{
	struct kata__ttrpc_reader reader = {.is_server = false};
	struct kata__ttrpc_frame f;
	struct kata__buffer b;
	kata_error *err = NULL;

	kata__buffer_init(&b, CAP);
	kata__buffer_append(&b, "x", 1);
	cr_assert_eq(kata__ttrpc_next(&reader, &b, &f, &err), KATA_E_PROTOCOL);
	cr_assert_eq(kata_error_get_origin(err), KATA_ORIGIN_GUEST);
	kata_error_free(err);
	kata__buffer_deinit(&b);
}

Test(ttrpc, a_server_wants_growing_ids_and_a_client_takes_any_order)
{
	struct kata__ttrpc_reader server = {.is_server = true};
	struct kata__ttrpc_reader client = {.is_server = false};
	struct kata__ttrpc_frame f;
	struct kata__buffer b;
	kata_error *err = NULL;

	kata__buffer_init(&b, CAP);
	append_frame(&b, 5, KATA__TTRPC_REQUEST, NULL, 0);
	append_frame(&b, 5, KATA__TTRPC_REQUEST, NULL, 0);
	f = next_frame(&server, &b);
	kata__ttrpc_consume(&b, &f);
	expect_failure(kata__ttrpc_next(&server, &b, &f, &err), KATA_E_PROTOCOL, "larger than the last one (5)", &err);
	kata__buffer_deinit(&b);

	append_frame(&b, 5, KATA__TTRPC_RESPONSE, NULL, 0);
	append_frame(&b, 3, KATA__TTRPC_RESPONSE, NULL, 0);
	f = next_frame(&client, &b);
	kata__ttrpc_consume(&b, &f);
	f = next_frame(&client, &b);
	cr_assert_eq(f.stream_id, 3);
	kata__buffer_deinit(&b);
}

Test(ttrpc, asking_for_the_same_frame_twice_answers_the_same_to_a_client)
{
	struct kata__ttrpc_reader client = {.is_server = false};
	struct kata__buffer b;

	kata__buffer_init(&b, CAP);
	append_frame(&b, 9, KATA__TTRPC_RESPONSE, "\x12\x01x", 3);
	cr_assert_eq(next_frame(&client, &b).stream_id, 9);
	cr_assert_eq(next_frame(&client, &b).stream_id, 9);
	kata__buffer_deinit(&b);
}

Test(ttrpc, frames_cut_at_every_byte_need_more_and_say_how_much)
{
	struct kata__ttrpc_call call = {.service = "grpc.Health", .method = "Check", .timeout_ns = 1};
	struct kata__buffer whole, part;
	kata_error *err = NULL;

	kata__buffer_init(&whole, CAP);
	kata__buffer_init(&part, CAP);
	cr_assert_eq(kata__ttrpc_append_request(&whole, 1, &call, NULL), 0);
	for (size_t n = 0; n < kata__buffer_len(&whole); n++) {
		struct kata__ttrpc_reader reader = {.is_server = true};
		struct kata__ttrpc_frame f;
		size_t total = n < 10 ? 10 : kata__buffer_len(&whole);

		expect_success(kata__ttrpc_next(&reader, &part, &f, &err), &err);
		cr_assert_eq(kata__ttrpc_wanted(&part), total - n, "%zu bytes", n);
		kata__buffer_append(&part, kata__buffer_bytes(&whole) + n, 1);
	}
	cr_assert_eq(kata__ttrpc_wanted(&part), 1);
	kata__buffer_deinit(&whole);
	kata__buffer_deinit(&part);
}

Test(ttrpc, a_hostile_length_is_never_wanted)
{
	struct kata__buffer b;

	kata__buffer_init(&b, CAP);
	kata__buffer_append(&b, "\xff\xff\xff\xff\x00\x00\x00\x01\x02\x00", 10);
	cr_assert_eq(kata__ttrpc_wanted(&b), 1);
	kata__buffer_deinit(&b);
}

Test(ttrpc, many_frames_in_one_buffer_come_out_one_by_one)
{
	struct kata__ttrpc_reader client = {.is_server = false};
	struct kata__ttrpc_frame f;
	struct kata__buffer b;

	kata__buffer_init(&b, CAP);
	for (uint32_t id = 1; id < 200; id += 2)
		append_frame(&b, id, KATA__TTRPC_RESPONSE, "\x12\x02hi", 4);
	for (uint32_t id = 1; id < 200; id += 2) {
		f = next_frame(&client, &b);
		cr_assert_eq(f.stream_id, id);
		kata__ttrpc_consume(&b, &f);
	}
	cr_assert_eq(kata__ttrpc_next(&client, &b, &f, NULL), 0);
	kata__buffer_deinit(&b);
}

/* ---- responses */

static struct kata__ttrpc_response response_of(const void *data, size_t length)
{
	struct kata__ttrpc_frame f = {.stream_id = 1, .data = {.data = data, .length = length}};
	struct kata__ttrpc_response r;
	kata_error *err = NULL;

	expect_success(kata__ttrpc_read_response(&f, &r, &err), &err);
	return r;
}

Test(ttrpc, no_status_and_an_empty_status_are_both_ok)
{
	cr_assert_eq(response_of(NULL, 0).code, 0);
	cr_assert_eq(response_of("\x0a\x00", 2).code, 0);
	cr_assert_eq(response_of("\x0a\x02\x08\x00", 4).code, 0);
	cr_assert(slice_is(response_of("\x0a\x00\x12\x02hi", 6).payload, "hi"));
}

Test(ttrpc, an_error_reply_is_what_protobuf_reads)
{
	struct kata__ttrpc_reply reply = {.code = KATA__GRPC_NOT_FOUND, .text = "Link not found"};
	Ttrpc__Response *back;
	struct kata__buffer b;

	kata__buffer_init(&b, CAP);
	cr_assert_eq(kata__ttrpc_append_response(&b, 1, &reply, NULL), 0);
	back = ttrpc__response__unpack(NULL, kata__buffer_len(&b) - 10, kata__buffer_bytes(&b) + 10);
	cr_assert(back);
	cr_assert_eq(back->status->code, 5);
	cr_assert_str_eq(back->status->message, "Link not found");
	ttrpc__response__free_unpacked(back, NULL);
	kata__buffer_deinit(&b);
}

Test(ttrpc, an_error_reply_is_read_back)
{
	struct kata__ttrpc_reply replies[] = {
		{.code = 5, .text = "gone"}, {.code = -3}, {.code = INT32_MAX, .text = ""}};
	struct kata__ttrpc_reader client = {.is_server = false};
	struct kata__buffer b;

	kata__buffer_init(&b, CAP);
	for (size_t i = 0; i < 3; i++) {
		struct kata__ttrpc_response r;
		struct kata__ttrpc_frame f;

		cr_assert_eq(kata__ttrpc_append_response(&b, 1, &replies[i], NULL), 0);
		f = next_frame(&client, &b);
		cr_assert_eq(kata__ttrpc_read_response(&f, &r, NULL), 0);
		cr_assert_eq(r.code, replies[i].code);
		cr_assert(slice_is(r.text, replies[i].text ? replies[i].text : ""));
		kata__ttrpc_consume(&b, &f);
	}
	kata__buffer_deinit(&b);
}

Test(ttrpc, a_long_text_is_cut_between_characters)
{
	char text[65536 + 8] = "";
	struct kata__ttrpc_reply reply = {.code = 13, .text = text};
	struct kata__ttrpc_reader client = {.is_server = false};
	struct kata__ttrpc_response r;
	struct kata__ttrpc_frame f;
	struct kata__buffer b;

	memset(text, 'x', 65534);
	memcpy(text + 65534, "\xe2\x82\xac!", 4);
	kata__buffer_init(&b, CAP);
	cr_assert_eq(kata__ttrpc_append_response(&b, 1, &reply, NULL), 0);
	f = next_frame(&client, &b);
	cr_assert_eq(kata__ttrpc_read_response(&f, &r, NULL), 0);
	cr_assert_eq(r.text.length, 65534);
	kata__buffer_deinit(&b);
}

Test(ttrpc, an_empty_ok_reply_is_an_empty_frame)
{
	Grpc__Empty empty = GRPC__EMPTY__INIT;
	struct kata__ttrpc_reply reply = {.message = &empty.base};
	struct kata__buffer b;

	kata__buffer_init(&b, CAP);
	cr_assert_eq(kata__ttrpc_append_response(&b, 0x01020305, &reply, NULL), 0);
	cr_assert_eq(kata__buffer_len(&b), 10);
	cr_assert_eq(memcmp(kata__buffer_bytes(&b), "\0\0\0\0\1\2\3\5\2\0", 10), 0);
	kata__buffer_deinit(&b);
}

Test(ttrpc, a_reply_that_is_too_large_becomes_an_error_reply)
{
	Grpc__ReadStreamResponse message = GRPC__READ_STREAM_RESPONSE__INIT;
	struct kata__ttrpc_reply reply = {.message = &message.base};
	struct kata__ttrpc_reader client = {.is_server = false};
	struct kata__ttrpc_response r;
	struct kata__ttrpc_frame f;
	struct kata__buffer b;

	message.data.len = KATA__TTRPC_DATA_MAX;
	message.data.data = calloc(1, message.data.len);
	kata__buffer_init(&b, CAP);
	cr_assert_eq(kata__ttrpc_append_response(&b, 1, &reply, NULL), 0);
	f = next_frame(&client, &b);
	cr_assert_eq(kata__ttrpc_read_response(&f, &r, NULL), 0);
	cr_assert_eq(r.code, KATA__GRPC_RESOURCE_EXHAUSTED);
	free(message.data.data);
	kata__buffer_deinit(&b);
}

Test(ttrpc, a_full_buffer_refuses_a_reply)
{
	struct kata__ttrpc_reply reply = {.code = 13, .text = "a text that is longer than the room"};
	struct kata__buffer b;
	kata_error *err = NULL;

	kata__buffer_init(&b, 20);
	expect_failure(kata__ttrpc_append_response(&b, 1, &reply, &err), KATA_E_EXHAUSTED, "limit of 20", &err);
	cr_assert_eq(kata__buffer_len(&b), 0);
	kata__buffer_deinit(&b);
}

Test(ttrpc, status_details_and_unknown_fields_are_passed_over)
{
	struct kata__ttrpc_response r = response_of("\x0a\x0b\x08\x05\x1a\x03xyz\x12\x02no\x18\x07", 15);

	cr_assert_eq(r.code, 5);
	cr_assert(slice_is(r.text, "no"));
}

Test(ttrpc, a_response_cut_at_every_byte_is_refused_or_whole)
{
	static const char bytes[] = "\x0a\x06\x08\x05\x12\x02no\x12\x03"
				    "abc";
	size_t length = sizeof(bytes) - 1;

	for (size_t n = 1; n < length; n++) {
		struct kata__ttrpc_frame f = {.stream_id = 1, .data = {.data = (const uint8_t *)bytes, .length = n}};
		struct kata__ttrpc_response r;
		kata_error *err = NULL;

		if (n == 8)
			expect_success(kata__ttrpc_read_response(&f, &r, &err), &err);
		else
			expect_failure(kata__ttrpc_read_response(&f, &r, &err), KATA_E_PROTOCOL, "no Response", &err);
	}
}

Test(ttrpc, hostile_payloads_are_refused)
{
	static const struct kata__slice cases[] = {
		{(const uint8_t *)"\x00\x00", 2},                 /* field 0 */
		{(const uint8_t *)"\x0b", 1},                     /* a group */
		{(const uint8_t *)"\x0a\xff\xff\xff\xff\x0f", 6}, /* a length of 4 GiB */
		{(const uint8_t *)"\x0a\x02\x08\x80", 4},         /* a varint that does not end in its message */
		{(const uint8_t *)"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11},
		{(const uint8_t *)"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 10},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kata__ttrpc_frame f = {.stream_id = 1, .data = cases[i]};
		struct kata__ttrpc_response response;
		struct kata__ttrpc_request request;
		kata_error *err = NULL;

		expect_failure(kata__ttrpc_read_response(&f, &response, &err), KATA_E_PROTOCOL, "no Response", &err);
		if (i != 3)
			expect_failure(kata__ttrpc_read_request(&f, &request, &err), KATA_E_PROTOCOL, "no Request",
				       &err);
	}
}

Test(ttrpc, a_field_of_another_wire_type_is_passed_over)
{
	struct kata__ttrpc_response r = response_of("\x08\x05\x10\x07", 4);

	cr_assert_eq(r.code, 0);
	cr_assert_eq(r.payload.length, 0);
}
