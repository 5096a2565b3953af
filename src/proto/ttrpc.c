/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ttrpc.c - frames, and Request and Response by hand.
 *
 * Request and Response have few fields with known tags, so they are written around the packed message and read as
 * views, in place: a call costs one reservation and no copy. ttrpc_messages.proto describes the same bytes, for tests.
 *
 * Invariants: 1. a buffer is changed by one kata__buffer_added() at the end, with exactly the bytes counted beforehand.
 * 2. a length from the wire is compared with its cap before anything else is done with it.
 */
#include "proto/ttrpc.h"

#include <inttypes.h>
#include <string.h>

#include "base/compiler.h"

#define TEXT_MAX 65536u

/* Field keys: number << 3 | wire type. All of them fit in one byte. */
enum {
	REQUEST_SERVICE = 1 << 3 | KATA__WIRE_BYTES,
	REQUEST_METHOD = 2 << 3 | KATA__WIRE_BYTES,
	REQUEST_PAYLOAD = 3 << 3 | KATA__WIRE_BYTES,
	REQUEST_TIMEOUT = 4 << 3 | KATA__WIRE_VARINT,
	RESPONSE_STATUS = 1 << 3 | KATA__WIRE_BYTES,
	RESPONSE_PAYLOAD = 2 << 3 | KATA__WIRE_BYTES,
	STATUS_CODE = 1 << 3 | KATA__WIRE_VARINT,
	STATUS_TEXT = 2 << 3 | KATA__WIRE_BYTES,
};

const char *kata__grpc_code_name(int32_t code)
{
	static const char *const names[] = {
		"OK",        "CANCELLED",       "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
		"NOT_FOUND", "ALREADY_EXISTS",  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
		"ABORTED",   "OUT_OF_RANGE",    "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
		"DATA_LOSS", "UNAUTHENTICATED",
	};

	return code >= 0 && (size_t)code < kata__array_size(names) ? names[code] : "UNKNOWN_CODE";
}

/* ---- frames */

void kata__ttrpc_header_encode(const struct kata__ttrpc_header *header, uint8_t out[KATA__TTRPC_HEADER_SIZE])
{
	for (unsigned i = 0; i < 4; i++) {
		out[i] = (uint8_t)(header->length >> (24 - 8 * i));
		out[4 + i] = (uint8_t)(header->stream_id >> (24 - 8 * i));
	}
	out[8] = header->type;
	out[9] = header->flags;
}

bool kata__ttrpc_header_decode(struct kata__cursor *c, struct kata__ttrpc_header *ret)
{
	return c->left >= KATA__TTRPC_HEADER_SIZE && kata__cursor_be32(c, &ret->length) &&
	       kata__cursor_be32(c, &ret->stream_id) && kata__cursor_u8(c, &ret->type) &&
	       kata__cursor_u8(c, &ret->flags);
}

static struct kata__cursor cursor_over(const struct kata__buffer *in)
{
	return kata__cursor_over(kata__buffer_bytes(in), kata__buffer_len(in));
}

static int refuse(const struct kata__ttrpc_reader *reader, kata_error **err, const char *what, uint32_t value)
{
	if (reader->is_server)
		return kata__fail(err, KATA_E_PROTOCOL, CALLER, "ttrpc request: %s (%" PRIu32 ")", what, value);
	return kata__fail(err, KATA_E_PROTOCOL, GUEST, "ttrpc response: %s (%" PRIu32 ")", what, value);
}

static int check_header(const struct kata__ttrpc_reader *reader, const struct kata__ttrpc_header *h, kata_error **err)
{
	uint8_t expected = reader->is_server ? KATA__TTRPC_REQUEST : KATA__TTRPC_RESPONSE;

	if (h->length >> 24)
		return refuse(reader, err, "the first byte of a frame must be 0", h->length >> 24);
	if (h->length > KATA__TTRPC_DATA_MAX)
		return refuse(reader, err, "more data than the 4194304 bytes a frame may hold", h->length);
	if (h->type != expected)
		return refuse(reader, err, reader->is_server ? "frame type must be 1" : "frame type must be 2",
			      h->type);
	if (h->flags)
		return refuse(reader, err, "flags must be 0, streams are not served", h->flags);
	if (!(h->stream_id & 1))
		return refuse(reader, err, "the stream id must be odd", h->stream_id);
	if (reader->is_server && h->stream_id <= reader->last_id)
		return refuse(reader, err, "the stream id must be larger than the last one", h->stream_id);
	return 0;
}

int kata__ttrpc_next(struct kata__ttrpc_reader *reader, const struct kata__buffer *in,
		     struct kata__ttrpc_frame *ret_frame, kata_error **err)
{
	struct kata__cursor c = cursor_over(in);
	struct kata__ttrpc_header h;
	struct kata__slice data;
	int rc;

	if (c.left && c.at[0])
		return refuse(reader, err, "the first byte of a frame must be 0", c.at[0]);
	if (!kata__ttrpc_header_decode(&c, &h))
		return 0;
	rc = check_header(reader, &h, err);
	if (rc)
		return rc;
	if (!kata__cursor_take(&c, h.length, &data))
		return 0;
	if (reader->is_server)
		reader->last_id = h.stream_id;
	*ret_frame = (struct kata__ttrpc_frame){.stream_id = h.stream_id, .data = data};
	return 1;
}

void kata__ttrpc_consume(struct kata__buffer *in, const struct kata__ttrpc_frame *frame)
{
	kata__buffer_consume(in, KATA__TTRPC_HEADER_SIZE + frame->data.length);
}

size_t kata__ttrpc_wanted(const struct kata__buffer *in)
{
	struct kata__cursor c = cursor_over(in);
	size_t missing = KATA__TTRPC_HEADER_SIZE - c.left;
	struct kata__ttrpc_header h;

	if (!kata__ttrpc_header_decode(&c, &h))
		return missing;
	return h.length <= KATA__TTRPC_DATA_MAX && h.length > c.left ? h.length - c.left : 1;
}

/* ---- writing */

static size_t varint_size(uint64_t v)
{
	size_t n = 1;

	while (v >>= 7)
		n++;
	return n;
}

static uint8_t *put_varint(uint8_t *at, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		*at++ = (uint8_t)(v | 0x80);
	*at++ = (uint8_t)v;
	return at;
}

/* Of a length-delimited field with key; proto3 leaves an empty one out. */
static size_t field_size(size_t length)
{
	return length ? 1 + varint_size(length) + length : 0;
}

static uint8_t *put_field(uint8_t *at, uint8_t key, const void *data, size_t length)
{
	if (!length)
		return at;
	*at++ = key;
	at = put_varint(at, length);
	memcpy(at, data, length);
	return at + length;
}

static uint8_t *put_message(uint8_t *at, uint8_t key, const ProtobufCMessage *message, size_t length)
{
	if (!length)
		return at;
	*at++ = key;
	at = put_varint(at, length);
	return at + protobuf_c_message_pack(message, at);
}

static size_t packed_size(const ProtobufCMessage *message)
{
	return message ? protobuf_c_message_get_packed_size(message) : 0;
}

/* Room for a frame with this header, which is written; *ret_at is where the data goes. */
static int begin_frame(struct kata__buffer *out, const struct kata__ttrpc_header *h, uint8_t **ret_at, kata_error **err)
{
	size_t size = KATA__TTRPC_HEADER_SIZE + h->length;
	uint8_t *at;

	if (size > out->cap || kata__buffer_len(out) > out->cap - size)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER,
				  "ttrpc: %zu bytes are waiting to be sent and %zu more exceed the limit of %zu",
				  kata__buffer_len(out), size, out->cap);
	at = kata__buffer_reserve(out, size);
	if (!at)
		return kata__fail_no_memory(err);
	kata__ttrpc_header_encode(h, at);
	*ret_at = at + KATA__TTRPC_HEADER_SIZE;
	return 0;
}

int kata__ttrpc_append_request(struct kata__buffer *out, uint32_t stream_id, const struct kata__ttrpc_call *call,
			       kata_error **err)
{
	uint64_t timeout = call->timeout_ns > INT64_MAX ? INT64_MAX : call->timeout_ns;
	size_t service = strlen(call->service);
	size_t method = strlen(call->method);
	size_t message = packed_size(call->message);
	size_t length = field_size(service) + field_size(method) + field_size(message) +
			(timeout ? 1 + varint_size(timeout) : 0);
	struct kata__ttrpc_header h = {.length = (uint32_t)length, .stream_id = stream_id, .type = KATA__TTRPC_REQUEST};
	uint8_t *at;
	int rc;

	if (length > KATA__TTRPC_DATA_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "%s: a request of %zu bytes, at most %u fit in a ttrpc frame", call->method, length,
				  KATA__TTRPC_DATA_MAX);
	rc = begin_frame(out, &h, &at, err);
	if (rc)
		return rc;

	at = put_field(at, REQUEST_SERVICE, call->service, service);
	at = put_field(at, REQUEST_METHOD, call->method, method);
	at = put_message(at, REQUEST_PAYLOAD, call->message, message);
	if (timeout) {
		*at++ = REQUEST_TIMEOUT;
		put_varint(at, timeout);
	}
	kata__buffer_added(out, KATA__TTRPC_HEADER_SIZE + length);
	return 0;
}

/* At most TEXT_MAX bytes, not cut within a UTF-8 character. */
static size_t text_length_of(const char *text)
{
	size_t n = text ? strnlen(text, TEXT_MAX) : 0;

	if (n == TEXT_MAX)
		while (n && ((unsigned char)text[n] & 0xc0) == 0x80)
			n--;
	return n;
}

static int append_status(struct kata__buffer *out, uint32_t stream_id, int32_t code, const char *text, kata_error **err)
{
	uint64_t wire_code = (uint64_t)(int64_t)code;
	size_t text_length = text_length_of(text);
	size_t status = 1 + varint_size(wire_code) + field_size(text_length);
	struct kata__ttrpc_header h = {
		.length = (uint32_t)field_size(status), .stream_id = stream_id, .type = KATA__TTRPC_RESPONSE};
	uint8_t *at;
	int rc = begin_frame(out, &h, &at, err);

	if (rc)
		return rc;
	*at++ = RESPONSE_STATUS;
	at = put_varint(at, status);
	*at++ = STATUS_CODE;
	at = put_varint(at, wire_code);
	put_field(at, STATUS_TEXT, text, text_length);
	kata__buffer_added(out, KATA__TTRPC_HEADER_SIZE + h.length);
	return 0;
}

int kata__ttrpc_append_response(struct kata__buffer *out, uint32_t stream_id, const struct kata__ttrpc_reply *reply,
				kata_error **err)
{
	size_t message = reply->code == KATA__GRPC_OK ? packed_size(reply->message) : 0;
	size_t length = field_size(message);
	struct kata__ttrpc_header h = {
		.length = (uint32_t)length, .stream_id = stream_id, .type = KATA__TTRPC_RESPONSE};
	uint8_t *at;
	int rc;

	if (reply->code != KATA__GRPC_OK)
		return append_status(out, stream_id, reply->code, reply->text, err);
	if (length > KATA__TTRPC_DATA_MAX)
		return append_status(out, stream_id, KATA__GRPC_RESOURCE_EXHAUSTED,
				     "the response exceeds the maximum message size of 4194304", err);
	rc = begin_frame(out, &h, &at, err);
	if (rc)
		return rc;
	put_message(at, RESPONSE_PAYLOAD, reply->message, message);
	kata__buffer_added(out, KATA__TTRPC_HEADER_SIZE + length);
	return 0;
}

/* ---- reading */

/* A key whose field has another wire type than ours is no key of ours: it is passed over like any unknown field. */
static bool read_key(struct kata__cursor *c, unsigned *ret_key, unsigned *ret_wire_type)
{
	uint32_t field;

	if (!kata__cursor_key(c, &field, ret_wire_type))
		return false;
	*ret_key = field < 32 ? field << 3 | *ret_wire_type : 0;
	return true;
}

static bool read_request_field(struct kata__cursor *c, struct kata__ttrpc_request *r)
{
	unsigned key, wire_type;
	uint64_t timeout;

	if (!read_key(c, &key, &wire_type))
		return false;
	switch (key) {
	case REQUEST_SERVICE:
		return kata__cursor_delimited(c, &r->service);
	case REQUEST_METHOD:
		return kata__cursor_delimited(c, &r->method);
	case REQUEST_PAYLOAD:
		return kata__cursor_delimited(c, &r->payload);
	case REQUEST_TIMEOUT:
		if (!kata__cursor_varint(c, &timeout))
			return false;
		r->timeout_ns = timeout > INT64_MAX ? 1 : timeout;
		return true;
	default:
		return kata__cursor_skip(c, wire_type);
	}
}

int kata__ttrpc_read_request(const struct kata__ttrpc_frame *frame, struct kata__ttrpc_request *ret, kata_error **err)
{
	struct kata__cursor c = kata__cursor_over(frame->data.data, frame->data.length);
	struct kata__ttrpc_request r = {0};

	while (c.left)
		if (!read_request_field(&c, &r))
			return kata__fail(err, KATA_E_PROTOCOL, CALLER,
					  "ttrpc request %" PRIu32 ": %zu bytes that are no Request", frame->stream_id,
					  frame->data.length);
	*ret = r;
	return 0;
}

static bool read_status(struct kata__slice bytes, struct kata__ttrpc_response *r)
{
	struct kata__cursor c = kata__cursor_over(bytes.data, bytes.length);
	unsigned key, wire_type;
	uint64_t code;

	while (c.left) {
		if (!read_key(&c, &key, &wire_type))
			return false;
		if (key == STATUS_CODE) {
			if (!kata__cursor_varint(&c, &code))
				return false;
			r->code = (int32_t)(uint32_t)code;
		} else if (key == STATUS_TEXT) {
			if (!kata__cursor_delimited(&c, &r->text))
				return false;
		} else if (!kata__cursor_skip(&c, wire_type)) {
			return false;
		}
	}
	return true;
}

static bool read_response_field(struct kata__cursor *c, struct kata__ttrpc_response *r)
{
	unsigned key, wire_type;
	struct kata__slice status;

	if (!read_key(c, &key, &wire_type))
		return false;
	switch (key) {
	case RESPONSE_STATUS:
		return kata__cursor_delimited(c, &status) && read_status(status, r);
	case RESPONSE_PAYLOAD:
		return kata__cursor_delimited(c, &r->payload);
	default:
		return kata__cursor_skip(c, wire_type);
	}
}

int kata__ttrpc_read_response(const struct kata__ttrpc_frame *frame, struct kata__ttrpc_response *ret, kata_error **err)
{
	struct kata__cursor c = kata__cursor_over(frame->data.data, frame->data.length);
	struct kata__ttrpc_response r = {0};

	while (c.left)
		if (!read_response_field(&c, &r))
			return kata__fail(err, KATA_E_PROTOCOL, GUEST,
					  "ttrpc response %" PRIu32 ": %zu bytes that are no Response",
					  frame->stream_id, frame->data.length);
	*ret = r;
	return 0;
}
