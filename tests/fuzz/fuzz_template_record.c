/* SPDX-License-Identifier: Apache-2.0 */
/* What a template was made of, beside its snapshot: what is read can be written, and reads as the same again. */
#include <string.h>

#include "factory/template_record.h"
#include "fuzz.h"

/* NULL when it was refused. */
static char *read_and_write(const char *text, size_t size)
{
	struct kata__template_record record = {0};
	kata_error *err = NULL;
	char *written = NULL;
	int rc = kata__template_record_read(text, size, &record, &err);

	must_agree(rc, err);
	must(rc == 0 || rc == KATA_E_CORRUPT || rc == KATA_E_VERSION);
	kata_error_free(err);
	if (rc == 0) {
		written = kata__template_record_write(&record);
		must(written);
	}
	kata__template_record_deinit(&record);
	return written;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *first = data ? read_and_write((const char *)data, size) : NULL, *second;

	if (!first)
		return 0;
	second = read_and_write(first, strlen(first));
	must(second && strcmp(first, second) == 0);
	free(first);
	free(second);
	return 0;
}
