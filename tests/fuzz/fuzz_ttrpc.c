/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: byte 0 chooses the end (even: client, odd: server) and the size of the reads, the rest is the stream. */
#include "fuzz.h"
#include "proto/ttrpc.h"

static void read_payload(bool is_server, const struct kata__ttrpc_frame *frame)
{
	struct kata__ttrpc_response response;
	struct kata__ttrpc_request request;
	kata_error *err = NULL;
	int rc;

	if (is_server) {
		rc = kata__ttrpc_read_request(frame, &request, &err);
		must(rc ||
		     request.service.length + request.method.length + request.payload.length <= frame->data.length);
	} else {
		rc = kata__ttrpc_read_response(frame, &response, &err);
		must(rc || response.text.length + response.payload.length <= frame->data.length);
	}
	must_agree(rc, err);
	kata_error_free(err);
}

/* False when the stream is broken. */
static bool drain(struct kata__ttrpc_reader *reader, struct kata__buffer *in)
{
	struct kata__ttrpc_frame frame;
	kata_error *err = NULL;
	int rc;

	while ((rc = kata__ttrpc_next(reader, in, &frame, &err)) == 1) {
		must(frame.stream_id & 1);
		must(frame.data.length <= KATA__TTRPC_DATA_MAX);
		read_payload(reader->is_server, &frame);
		kata__ttrpc_consume(in, &frame);
	}
	must_agree(rc, err);
	kata_error_free(err);
	must(kata__ttrpc_wanted(in) >= 1 && kata__ttrpc_wanted(in) <= KATA__TTRPC_DATA_MAX);
	return rc == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kata__ttrpc_reader reader = {.is_server = size && data[0] & 1};
	size_t step = size ? 1u + data[0] / 2 : 1;
	struct kata__buffer in;

	kata__buffer_init(&in, KATA__TTRPC_FRAME_MAX);
	for (size_t at = 1; at < size; at += step) {
		size_t n = size - at < step ? size - at : step;

		must(kata__buffer_append(&in, data + at, n) == 0);
		if (!drain(&reader, &in))
			break;
	}
	kata__buffer_deinit(&in);
	return 0;
}
