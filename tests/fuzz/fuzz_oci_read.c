/* SPDX-License-Identifier: Apache-2.0 */
/* OCI JSON: byte 0 chooses spec, process or resources, the rest is the text. What is read is written, and reads the
 * same. */
#include <string.h>

#include "fuzz.h"
#include "proto/oci.h"

static int read_text(unsigned kind, const char *text, size_t length, void **ret, kata_error **err)
{
	if (kind == 0)
		return kata__oci_spec_from_json(text, length, (Grpc__Spec **)ret, err);
	if (kind == 1)
		return kata__oci_process_from_json(text, length, (Grpc__Process **)ret, err);
	return kata__oci_resources_from_json(text, length, (Grpc__LinuxResources **)ret, err);
}

static int write_text(unsigned kind, const void *message, char **ret, size_t *ret_length, kata_error **err)
{
	if (kind == 0)
		return kata__oci_spec_to_json(message, ret, ret_length, err);
	if (kind == 1)
		return kata__oci_process_to_json(message, ret, ret_length, err);
	return kata__oci_resources_to_json(message, ret, ret_length, err);
}

static void round_trip(unsigned kind, const void *message)
{
	size_t length, again_length;
	char *text = NULL;
	char *again = NULL;
	void *back = NULL;

	must(write_text(kind, message, &text, &length, NULL) == 0);
	must(strlen(text) == length);
	/* Control characters grow sixfold, so what was read need not fit again. */
	if (length <= KATA__OCI_JSON_MAX) {
		must(read_text(kind, text, length, &back, NULL) == 0);
		must(write_text(kind, back, &again, &again_length, NULL) == 0);
		must(length == again_length && memcmp(text, again, length) == 0);
	}
	kata__oci_free(back);
	free(again);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	kata_error *err = NULL;
	void *message = NULL;
	unsigned kind;
	int rc;

	if (!size)
		return 0;
	kind = data[0] % 3;
	rc = read_text(kind, (const char *)data + 1, size - 1, &message, &err);
	must_agree(rc, err);
	must((rc == 0) == (message != NULL));
	if (message)
		round_trip(kind, message);
	kata__oci_free(message);
	kata_error_free(err);
	return 0;
}
