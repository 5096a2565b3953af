/* SPDX-License-Identifier: Apache-2.0 */
/* The header of a qcow2 image: the first 8 bytes are the size of the file (big endian), the rest is its beginning. */
#include <string.h>

#include "fuzz.h"
#include "storage/qcow2.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kata__qcow2 header;
	kata_error *err = NULL;
	uint64_t file_size = 0;
	int rc;

	if (size < 8)
		return 0;
	for (int i = 0; i < 8; i++)
		file_size = file_size << 8 | data[i];
	rc = kata__qcow2_parse(data + 8, size - 8, file_size, "image", &header, &err);
	must_agree(rc, err);
	kata_error_free(err);
	if (rc < 0)
		return 0;
	must(header.version == 2 || header.version == 3);
	must(header.cluster_bits >= 9 && header.cluster_bits <= 21);
	must(header.size_bytes > 0);
	must(memchr(header.backing, '\0', sizeof(header.backing)));
	must(memchr(header.backing_format, '\0', sizeof(header.backing_format)));
	return 0;
}
