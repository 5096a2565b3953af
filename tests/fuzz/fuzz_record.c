/* SPDX-License-Identifier: Apache-2.0 */
/* The record of a sandbox as JSON: what is read can be written, and reads as the same again. */
#include <string.h>

#include "fuzz.h"
#include "persist/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kata_record *record = NULL, *again = NULL;
	char *text = NULL, *second = NULL;
	kata_error *err = NULL;
	int rc = kata__record_from_json((const char *)data, size, &record, &err);

	must_agree(rc, err);
	must((rc == 0) == (record != NULL));
	kata_error_free(err);
	err = NULL;
	if (rc < 0)
		return 0;
	rc = kata__record_to_json_text(record, &text, &err);
	must_agree(rc, err);
	must(rc == 0 || rc == KATA_E_EXHAUSTED); /* numbers may be longer as we write them */
	if (rc == 0) {
		must(kata__record_from_json(text, strlen(text), &again, NULL) == 0);
		must(kata__record_to_json_text(again, &second, NULL) == 0);
		must(strcmp(text, second) == 0);
	}
	kata_error_free(err);
	kata__record_free(again);
	kata__record_free(record);
	free(second);
	free(text);
	return 0;
}
