/* SPDX-License-Identifier: Apache-2.0 */
/* What a template was made of, beside its snapshot: what is read can be written, and reads as the same again. */
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
	must_read_again(data, size, read_and_write);
	return 0;
}
