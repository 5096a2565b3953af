/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_STORAGE_QCOW2_H
#define KATA_STORAGE_QCOW2_H
/*
 * The header of a qcow2 image, read from bytes that may be hostile (pure: no file is touched, nothing is allocated),
 * and an empty image, written. Format: docs/interop/qcow2.txt of QEMU, versions 2 and 3.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define KATA__QCOW2_BACKING_MAX 1023
/* Bytes from the start of the file that the parser may need: the first cluster, at most 2 MiB, of which header,
 * extensions and name fit into this. */
#define KATA__QCOW2_HEADER_MAX (64u * 1024u)

struct kata__qcow2 {
	uint32_t version;
	uint32_t cluster_bits;
	uint64_t size_bytes;                       /* virtual */
	char backing[KATA__QCOW2_BACKING_MAX + 1]; /* "" when there is none */
	char backing_format[16];                   /* as the header says; "" when it does not */
};

bool kata__qcow2_has_magic(const uint8_t *bytes, size_t len);
/* `bytes` are the first `len` of a file of `file_size`. CORRUPT: cut or contradicts itself. UNSUPPORTED: encryption,
 * unknown features. INVALID: an external data file. `what` names the image in errors. */
int kata__qcow2_parse(const uint8_t *bytes, size_t len, uint64_t file_size, const char *what, struct kata__qcow2 *ret,
		      kata_error **err);

/* Makes the empty file an image without data of its own, over `backing` (named in its header, at most
 * KATA__QCOW2_BACKING_MAX bytes; "raw" or "qcow2"). Blocking. */
int kata__qcow2_write_empty(int fd, uint64_t size_bytes, const char *backing, const char *backing_format,
			    const char *what, kata_error **err);
#endif
