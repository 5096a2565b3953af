/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An empty qcow2 image (version 3, clusters of 64 KiB) over a backing file:
 *
 *     cluster 0  header, its extensions, the backing file's name
 *     1, 2       refcount table, and its one block: each of these clusters is used once
 *     3 ...      L1 table, all zero: nothing is allocated, every read goes to the backing file
 */
#include "storage/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLUSTER_BITS 16u
#define CLUSTER (UINT64_C(1) << CLUSTER_BITS)
#define COVERED_BY_L1_ENTRY (CLUSTER * (CLUSTER / 8))
#define L1_CLUSTER 3u
#define HEADER_BYTES 104u
#define EXTENSION_BACKING_FORMAT 0xe2792acau

static void put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void put64(uint8_t *p, uint64_t v)
{
	put32(p, (uint32_t)(v >> 32));
	put32(p + 4, (uint32_t)v);
}

/* Returns where the name goes. */
static size_t put_extensions(uint8_t *header, const char *backing_format)
{
	size_t len = strlen(backing_format), at = HEADER_BYTES;

	put32(header + at, EXTENSION_BACKING_FORMAT);
	put32(header + at + 4, (uint32_t)len);
	memcpy(header + at + 8, backing_format, len);
	at += 8 + ((len + 7) & ~(size_t)7);
	return at + 8; /* the end is an extension of type 0 and length 0 */
}

static void put_header(uint8_t *header, uint64_t size_bytes, uint32_t l1_entries, const char *backing,
		       const char *backing_format)
{
	size_t name_at = put_extensions(header, backing_format), len = strlen(backing);

	memcpy(header, "QFI\xfb", 4);
	put32(header + 4, 3);
	put64(header + 8, name_at);
	put32(header + 16, (uint32_t)len);
	put32(header + 20, CLUSTER_BITS);
	put64(header + 24, size_bytes);
	put32(header + 36, l1_entries);
	put64(header + 40, L1_CLUSTER * CLUSTER);
	put64(header + 48, CLUSTER); /* refcount table */
	put32(header + 56, 1);       /* of one cluster */
	put32(header + 96, 4);       /* 16 bits each */
	put32(header + 100, HEADER_BYTES);
	memcpy(header + name_at, backing, len);
}

static int write_all(int fd, const uint8_t *data, size_t len, const char *what, kata_error **err)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(fd, data + done, len - done, (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return kata__fail_errno(err, errno, "%s: cannot be written", what);
		done += (size_t)n;
	}
	return 0;
}

int kata__qcow2_write_empty(int fd, uint64_t size_bytes, const char *backing, const char *backing_format,
			    const char *what, kata_error **err)
{
	uint64_t l1_entries = (size_bytes + COVERED_BY_L1_ENTRY - 1) / COVERED_BY_L1_ENTRY;
	uint64_t clusters = L1_CLUSTER + (l1_entries * 8 + CLUSTER - 1) / CLUSTER;
	KATA_AUTO(free) uint8_t *head = NULL;

	if (strlen(backing) > KATA__QCOW2_BACKING_MAX)
		return kata__fail(
			err, KATA_E_INVALID, CALLER,
			"%s: the path of what lies under it, %.64s..., has %zu bytes: a qcow2 header takes %d", what,
			backing, strlen(backing), KATA__QCOW2_BACKING_MAX);
	if (clusters > CLUSTER / 2)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: %llu bytes are too many for an overlay", what,
				  (unsigned long long)size_bytes);
	head = calloc(L1_CLUSTER, CLUSTER);
	if (!head)
		return kata__fail_no_memory(err);
	put_header(head, size_bytes, (uint32_t)l1_entries, backing, backing_format);
	put64(head + CLUSTER, 2 * CLUSTER);
	for (uint64_t i = 0; i < clusters; i++)
		head[2 * CLUSTER + 2 * i + 1] = 1;
	if (ftruncate(fd, (off_t)(clusters * CLUSTER)) < 0)
		return kata__fail_errno(err, errno, "%s: cannot be made %llu bytes long", what,
					(unsigned long long)(clusters * CLUSTER));
	return write_all(fd, head, L1_CLUSTER * CLUSTER, what, err);
}
