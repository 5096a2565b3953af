/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PROTO_TTRPC_H
#define KATA_PROTO_TTRPC_H
/*
 * ttrpc: frames, and the Request and Response in them. Bytes to views and messages to bytes; the caller reads and
 * writes.
 *
 * Reading: kata__buffer_reserve(in, kata__ttrpc_wanted(in)) or more, read into it, kata__buffer_added(), then call
 * kata__ttrpc_next() until it answers 0. Each frame is a view into the buffer: use it, then
 * kata__ttrpc_consume() it. `in` should have a cap of at least KATA__TTRPC_FRAME_MAX.
 * Writing: one append per message puts header and message behind each other into the buffer, without a copy in between.
 *
 * None of these functions keeps anything; all may be used from any thread on different buffers.
 */
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "proto/cursor.h"

#define KATA__TTRPC_HEADER_SIZE 10u
#define KATA__TTRPC_DATA_MAX (4u << 20) /* 4194304, inclusive */
#define KATA__TTRPC_FRAME_MAX (KATA__TTRPC_HEADER_SIZE + KATA__TTRPC_DATA_MAX)

enum kata__ttrpc_type {
	KATA__TTRPC_REQUEST = 1,
	KATA__TTRPC_RESPONSE = 2,
	KATA__TTRPC_DATA = 3, /* streaming: not used by the Kata agent, refused here */
};

enum kata__grpc_code {
	KATA__GRPC_OK = 0,
	KATA__GRPC_CANCELLED = 1,
	KATA__GRPC_UNKNOWN = 2,
	KATA__GRPC_INVALID_ARGUMENT = 3,
	KATA__GRPC_DEADLINE_EXCEEDED = 4,
	KATA__GRPC_NOT_FOUND = 5,
	KATA__GRPC_ALREADY_EXISTS = 6,
	KATA__GRPC_PERMISSION_DENIED = 7,
	KATA__GRPC_RESOURCE_EXHAUSTED = 8,
	KATA__GRPC_FAILED_PRECONDITION = 9,
	KATA__GRPC_ABORTED = 10,
	KATA__GRPC_OUT_OF_RANGE = 11,
	KATA__GRPC_UNIMPLEMENTED = 12,
	KATA__GRPC_INTERNAL = 13,
	KATA__GRPC_UNAVAILABLE = 14,
	KATA__GRPC_DATA_LOSS = 15,
	KATA__GRPC_UNAUTHENTICATED = 16,
};

/* "NOT_FOUND"; "UNKNOWN_CODE" for a number that is none of them. */
const char *kata__grpc_code_name(int32_t code);

/* ---- frames */

struct kata__ttrpc_header {
	uint32_t length; /* of the data that follows */
	uint32_t stream_id;
	uint8_t type;
	uint8_t flags;
};

void kata__ttrpc_header_encode(const struct kata__ttrpc_header *header, uint8_t out[KATA__TTRPC_HEADER_SIZE]);
/* False when the cursor holds less than a header. Checks nothing else: kata__ttrpc_next() does. */
bool kata__ttrpc_header_decode(struct kata__cursor *c, struct kata__ttrpc_header *ret);

/* One end of a connection, as far as reading goes. A new connection starts with a new one. */
struct kata__ttrpc_reader {
	bool is_server;   /* reads requests, whose ids must grow; a client reads responses, in any order */
	uint32_t last_id; /* of the last request */
};

struct kata__ttrpc_frame {
	uint32_t stream_id;      /* odd */
	struct kata__slice data; /* borrowed from the buffer until the frame is consumed */
};

/*
 * The first frame in `in`. Returns 1 with *ret_frame; 0 when more bytes are needed; PROTOCOL for a frame that may not
 * be: first byte not 0, data over KATA__TTRPC_DATA_MAX, not the type the reader expects, flags (there is no streaming
 * here), an even id, and for a server an id that does not grow. After an error the stream has no meaning any more:
 * close it. The header is judged as soon as it is there, so a hostile length is never waited for or allocated. The
 * error's origin is the guest for a client, the caller for a server.
 */
int kata__ttrpc_next(struct kata__ttrpc_reader *reader, const struct kata__buffer *in,
		     struct kata__ttrpc_frame *ret_frame, kata_error **err);
void kata__ttrpc_consume(struct kata__buffer *in, const struct kata__ttrpc_frame *frame);
/* How many bytes are missing for the next frame's end, or for its header where that is not there yet; at least 1. A
 * header that kata__ttrpc_next() would refuse counts as complete: the answer never exceeds KATA__TTRPC_DATA_MAX. */
size_t kata__ttrpc_wanted(const struct kata__buffer *in);

/* ---- requests */

struct kata__ttrpc_call {
	const char *service;             /* "grpc.AgentService" */
	const char *method;              /* "CreateSandbox" */
	const ProtobufCMessage *message; /* NULL: a message without fields */
	uint64_t timeout_ns;             /* sent along for the server to enforce; 0: none */
};

/*
 * Appends one whole request frame. The buffer is unchanged on failure. stream_id is odd and grows from call to call.
 * Returns 0; INVALID when the message is larger than a frame may be (says both sizes); EXHAUSTED when the buffer's cap
 * leaves no room for it now; NO_MEMORY.
 */
int kata__ttrpc_append_request(struct kata__buffer *out, uint32_t stream_id, const struct kata__ttrpc_call *call,
			       kata_error **err);

struct kata__ttrpc_request {
	struct kata__slice service;
	struct kata__slice method;
	struct kata__slice payload;
	uint64_t timeout_ns; /* 0: none; a negative one counts as 1 */
};
/* Views into the frame's data; metadata is passed over. PROTOCOL (origin: caller) when it is no Request. */
int kata__ttrpc_read_request(const struct kata__ttrpc_frame *frame, struct kata__ttrpc_request *ret, kata_error **err);

/* ---- responses */

struct kata__ttrpc_reply {
	int32_t code;                    /* enum kata__grpc_code */
	const char *text;                /* of a code other than OK; may be NULL; cut to 64 KiB */
	const ProtobufCMessage *message; /* of OK; NULL: a message without fields */
};

/*
 * Appends one whole response frame. A message that is too large for a frame is replaced by RESOURCE_EXHAUSTED, as ttrpc
 * servers do, so that the caller gets an answer. The buffer is unchanged on failure. Returns 0, EXHAUSTED (the buffer's
 * cap), NO_MEMORY.
 */
int kata__ttrpc_append_response(struct kata__buffer *out, uint32_t stream_id, const struct kata__ttrpc_reply *reply,
				kata_error **err);

struct kata__ttrpc_response {
	int32_t code;            /* as sent: may be a number that gRPC does not have */
	struct kata__slice text; /* foreign, not NUL-terminated, may hold anything */
	struct kata__slice payload;
};
/* Views into the frame's data. No status, and a status with code 0, are both OK. PROTOCOL (origin: guest) when it is no
 * Response. */
int kata__ttrpc_read_response(const struct kata__ttrpc_frame *frame, struct kata__ttrpc_response *ret,
			      kata_error **err);
#endif
