/* SPDX-License-Identifier: Apache-2.0 */
/* A Spec off the wire to JSON: what is written is JSON. */
#include <jansson.h>
#include <string.h>

#include "fuzz.h"
#include "proto/message.h"
#include "proto/oci.h"

static void write_spec(const Grpc__Spec *spec)
{
	kata_error *err = NULL;
	char *text = NULL;
	size_t length = 0;
	json_t *json;
	int rc = kata__oci_spec_to_json(spec, &text, &length, &err);

	must_agree(rc, err);
	kata_error_free(err);
	if (rc)
		return;
	json = json_loadb(text, length, JSON_DECODE_INT_AS_REAL, NULL);
	must(json);
	json_decref(json);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	ProtobufCMessage *message = NULL;

	if (kata__proto_unpack(&grpc__spec__descriptor, data, size, &message, NULL))
		return 0;
	write_spec((Grpc__Spec *)message);
	kata__proto_free(message);
	return 0;
}
