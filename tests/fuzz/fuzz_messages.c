/* SPDX-License-Identifier: Apache-2.0 */
/* Every message: byte 0 chooses the method (odd: its request, even: its response), the rest is the message. */
#include <string.h>

#include "fuzz.h"
#include "proto/message.h"
#include "proto/methods.h"

/* What was unpacked packs again, into the size it says. */
static void repack(const ProtobufCMessage *message)
{
	size_t size = protobuf_c_message_get_packed_size(message);
	uint8_t *bytes = malloc(size + 1);

	must(bytes);
	bytes[size] = 0x5a;
	must(protobuf_c_message_pack(message, bytes) == size);
	must(bytes[size] == 0x5a);
	free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	ProtobufCMessage *message = NULL;
	const struct kata__method *method;
	kata_error *err = NULL;
	int rc;

	if (!size)
		return 0;
	method = &kata__methods[data[0] / 2 % KATA__METHOD_COUNT];
	rc = kata__proto_unpack(data[0] & 1 ? method->request : method->response, data + 1, size - 1, &message, &err);
	must_agree(rc, err);
	must((rc == 0) == (message != NULL));
	if (message)
		repack(message);
	kata__proto_free(message);
	kata_error_free(err);
	return 0;
}
