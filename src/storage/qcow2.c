/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The qcow2 header. What QEMU would follow out of the file (a backing file, an external data file) or would not
 * understand is found here, before QEMU sees the image. Every offset is checked against the bytes at hand.
 */
#include "storage/qcow2.h"

#include <string.h>

#define HEADER_V2_BYTES 72u
#define HEADER_V3_BYTES 104u
#define CLUSTER_BITS_MIN 9u
#define CLUSTER_BITS_MAX 21u
#define L1_ENTRIES_MAX (32u * 1024u * 1024u / 8u) /* QEMU's QCOW_MAX_L1_SIZE */
#define SNAPSHOTS_MAX 65536u
#define SIZE_MAX_BYTES (UINT64_C(1) << 61)

#define INCOMPATIBLE_DIRTY UINT64_C(1)
#define INCOMPATIBLE_CORRUPT UINT64_C(2)
#define INCOMPATIBLE_DATA_FILE UINT64_C(4)
#define INCOMPATIBLE_COMPRESSION UINT64_C(8)
#define INCOMPATIBLE_EXTENDED_L2 UINT64_C(16)
#define INCOMPATIBLE_KNOWN UINT64_C(31)

#define EXTENSION_END 0u
#define EXTENSION_BACKING_FORMAT 0xe2792acau
#define EXTENSION_DATA_FILE 0x44415441u

struct cursor {
	const uint8_t *bytes;
	size_t len;
	const char *what;
};

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t be64(const uint8_t *p)
{
	return (uint64_t)be32(p) << 32 | be32(p + 4);
}

bool kata__qcow2_has_magic(const uint8_t *bytes, size_t len)
{
	return len >= 4 && memcmp(bytes, "QFI\xfb", 4) == 0;
}

static int check_geometry(const struct cursor *c, uint64_t file_size, struct kata__qcow2 *q, kata_error **err)
{
	uint64_t cluster, covered, l1_entries = be32(c->bytes + 36);
	uint64_t l1_offset = be64(c->bytes + 40), refcount_offset = be64(c->bytes + 48);

	if (q->cluster_bits < CLUSTER_BITS_MIN || q->cluster_bits > CLUSTER_BITS_MAX)
		return kata__fail(err, KATA_E_CORRUPT, HOST, "%s: cluster_bits is %u, must be %u to %u", c->what,
				  q->cluster_bits, CLUSTER_BITS_MIN, CLUSTER_BITS_MAX);
	cluster = UINT64_C(1) << q->cluster_bits;
	if (q->size_bytes == 0 || q->size_bytes > SIZE_MAX_BYTES)
		return kata__fail(err, KATA_E_CORRUPT, HOST, "%s: its virtual size is %llu bytes", c->what,
				  (unsigned long long)q->size_bytes);
	/* One L1 entry covers an L2 table of cluster/8 clusters; twice as many bytes an entry with extended L2, so
	 * half. */
	covered = cluster * (cluster / 16);
	if (l1_entries > L1_ENTRIES_MAX || l1_entries < q->size_bytes / (covered * 2))
		return kata__fail(err, KATA_E_CORRUPT, HOST, "%s: %llu L1 entries do not fit %llu bytes", c->what,
				  (unsigned long long)l1_entries, (unsigned long long)q->size_bytes);
	if (l1_offset % cluster || l1_offset < cluster || l1_offset >= file_size)
		return kata__fail(err, KATA_E_CORRUPT, HOST,
				  "%s: its L1 table lies at byte %llu of %llu: the image is cut or changed", c->what,
				  (unsigned long long)l1_offset, (unsigned long long)file_size);
	if (refcount_offset % cluster || refcount_offset < cluster || refcount_offset >= file_size ||
	    refcount_offset == l1_offset)
		return kata__fail(err, KATA_E_CORRUPT, HOST,
				  "%s: its refcount table lies at byte %llu of %llu: the image is cut or changed",
				  c->what, (unsigned long long)refcount_offset, (unsigned long long)file_size);
	if (be32(c->bytes + 60) > SNAPSHOTS_MAX)
		return kata__fail(err, KATA_E_CORRUPT, HOST, "%s: has %u snapshots, at most %u can be", c->what,
				  be32(c->bytes + 60), SNAPSHOTS_MAX);
	return 0;
}

static int check_features(const struct cursor *c, kata_error **err)
{
	uint64_t bits = be64(c->bytes + 72);

	if (bits & INCOMPATIBLE_DATA_FILE)
		return kata__fail(
			err, KATA_E_INVALID, HOST,
			"%s: keeps its data in another file (external data file), which is never opened: use an image "
			"that holds its own data (qemu-img convert)",
			c->what);
	if (bits & INCOMPATIBLE_CORRUPT)
		return kata__fail(err, KATA_E_CORRUPT, HOST,
				  "%s: is marked corrupt: qemu-img check -r all may repair it", c->what);
	if (bits & ~INCOMPATIBLE_KNOWN)
		return kata__fail(err, KATA_E_UNSUPPORTED, HOST,
				  "%s: needs features this library does not know (bits 0x%llx)", c->what,
				  (unsigned long long)(bits & ~INCOMPATIBLE_KNOWN));
	return 0;
}

/* Sets *ret_len to where the extensions begin. */
static int check_version(const struct cursor *c, const struct kata__qcow2 *q, size_t *ret_len, kata_error **err)
{
	uint32_t length = HEADER_V2_BYTES;

	if (q->version == 3) {
		if (c->len < HEADER_V3_BYTES)
			return kata__fail(err, KATA_E_CORRUPT, HOST, "%s: its header is cut after %zu bytes", c->what,
					  c->len);
		length = be32(c->bytes + 100);
		if (length < HEADER_V3_BYTES || length % 8 || length > c->len ||
		    length > UINT32_C(1) << q->cluster_bits)
			return kata__fail(err, KATA_E_CORRUPT, HOST, "%s: its header says it has %u bytes", c->what,
					  length);
		if (be32(c->bytes + 96) > 6)
			return kata__fail(err, KATA_E_CORRUPT, HOST, "%s: refcount_order is %u, at most 6", c->what,
					  be32(c->bytes + 96));
	}
	*ret_len = length;
	return q->version == 3 ? check_features(c, err) : 0;
}

/* The name must lie behind the header, in the first cluster and in the bytes at hand. */
static int read_backing(const struct cursor *c, size_t header, struct kata__qcow2 *q, size_t *ret_end, kata_error **err)
{
	uint64_t offset = be64(c->bytes + 8), cluster = UINT64_C(1) << q->cluster_bits;
	uint32_t size = be32(c->bytes + 16);
	size_t limit = cluster < c->len ? (size_t)cluster : c->len;

	*ret_end = limit;
	if (offset == 0)
		return size == 0 || q->version == 2
			       ? 0
			       : kata__fail(err, KATA_E_CORRUPT, HOST,
					    "%s: a backing file name of %u bytes at no offset", c->what, size);
	if (size == 0 || size > KATA__QCOW2_BACKING_MAX || offset < header || offset > limit || size > limit - offset)
		return kata__fail(err, KATA_E_CORRUPT, HOST,
				  "%s: its backing file name, %u bytes at %llu, lies outside of the header", c->what,
				  size, (unsigned long long)offset);
	memcpy(q->backing, c->bytes + offset, size);
	q->backing[size] = '\0';
	if (memchr(q->backing, '\0', size))
		return kata__fail(err, KATA_E_CORRUPT, HOST, "%s: its backing file name holds a NUL byte", c->what);
	*ret_end = (size_t)offset;
	return 0;
}

static int read_extensions(const struct cursor *c, size_t at, size_t end, struct kata__qcow2 *q, kata_error **err)
{
	while (end - at >= 8) {
		uint32_t type = be32(c->bytes + at), size = be32(c->bytes + at + 4);

		at += 8;
		if (type == EXTENSION_END)
			return 0;
		if (size > end - at)
			return kata__fail(err, KATA_E_CORRUPT, HOST,
					  "%s: header extension 0x%08x has %u bytes, %zu are left", c->what, type, size,
					  end - at);
		if (type == EXTENSION_DATA_FILE)
			return kata__fail(err, KATA_E_INVALID, HOST,
					  "%s: names an external data file in its header, which is never opened",
					  c->what);
		if (type == EXTENSION_BACKING_FORMAT) {
			if (size >= sizeof(q->backing_format) || memchr(c->bytes + at, '\0', size))
				return kata__fail(err, KATA_E_CORRUPT, HOST, "%s: its backing format is no name",
						  c->what);
			memcpy(q->backing_format, c->bytes + at, size);
			q->backing_format[size] = '\0';
		}
		size = (size + 7u) & ~7u;
		at = size > end - at ? end : at + size;
	}
	return 0;
}

int kata__qcow2_parse(const uint8_t *bytes, size_t len, uint64_t file_size, const char *what, struct kata__qcow2 *ret,
		      kata_error **err)
{
	struct cursor c = {bytes, len, what};
	struct kata__qcow2 q = {0};
	size_t header = 0, end = 0;
	int rc;

	if (!kata__qcow2_has_magic(bytes, len))
		return kata__fail(err, KATA_E_INVALID, HOST, "%s: is no qcow2 image: it does not begin with its magic",
				  what);
	if (len < HEADER_V2_BYTES)
		return kata__fail(err, KATA_E_CORRUPT, HOST, "%s: its header is cut after %zu bytes", what, len);
	q.version = be32(bytes + 4);
	if (q.version != 2 && q.version != 3)
		return kata__fail(err, KATA_E_UNSUPPORTED, HOST, "%s: is of qcow version %u, must be 2 or 3", what,
				  q.version);
	q.cluster_bits = be32(bytes + 20);
	q.size_bytes = be64(bytes + 24);
	if (be32(bytes + 32) != 0)
		return kata__fail(err, KATA_E_UNSUPPORTED, HOST,
				  "%s: is encrypted (method %u): this library has no keys to give", what,
				  be32(bytes + 32));
	rc = check_geometry(&c, file_size, &q, err);
	if (rc == 0)
		rc = check_version(&c, &q, &header, err);
	if (rc == 0)
		rc = read_backing(&c, header, &q, &end, err);
	if (rc == 0)
		rc = read_extensions(&c, header, end, &q, err);
	if (rc == 0)
		*ret = q;
	return rc;
}
