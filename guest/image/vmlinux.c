/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata-vmlinux BZIMAGE > VMLINUX: takes the uncompressed ELF kernel out of a bzImage whose payload is LZ4.
 *
 * QEMU starts an ELF kernel with a PVH note at its 32-bit entry, so the guest need not decompress itself, which under
 * emulation takes most of a second. The payload is LZ4's legacy format: a magic number, then chunks, each with its
 * compressed length in front; the file format is documented in Documentation/x86/boot.rst of the kernel.
 */
#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/image/module_file.h"

#define LZ4_LEGACY_MAGIC 0x184C2102u
#define CHUNK (8u << 20) /* a legacy chunk's size when uncompressed, the last one being shorter */

static uint32_t le32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* A length whose low four bits stood in the token: 15 goes on in bytes, up to the first that is not 255. */
static size_t more_length(const uint8_t **in, const uint8_t *end, size_t low)
{
	size_t len = low;
	uint8_t b = 255;

	while (low == 15 && b == 255) {
		if (*in == end)
			die("the kernel's LZ4 payload is cut");
		b = *(*in)++;
		len += b;
	}
	return len;
}

static size_t unpack_chunk(const uint8_t *in, size_t in_len, uint8_t *out)
{
	const uint8_t *end = in + in_len;
	size_t n = 0;

	while (in < end) {
		uint8_t token = *in++;
		size_t literals = more_length(&in, end, token >> 4);
		size_t distance, match;

		if (literals > (size_t)(end - in) || literals > CHUNK - n)
			die("the kernel's LZ4 payload is broken");
		memcpy(out + n, in, literals);
		in += literals;
		n += literals;
		if (in == end)
			break;
		if (end - in < 2)
			die("the kernel's LZ4 payload is cut");
		distance = in[0] | (size_t)in[1] << 8;
		in += 2;
		match = more_length(&in, end, token & 15) + 4;
		if (distance == 0 || distance > n || match > CHUNK - n)
			die("the kernel's LZ4 payload is broken");
		for (; match; match--, n++)
			out[n] = out[n - distance];
	}
	return n;
}

static const uint8_t *find_payload(const uint8_t *image, size_t len, size_t *ret_len)
{
	size_t start, setup_sectors;

	if (len < 0x260 || memcmp(image + 0x202, "HdrS", 4) != 0 || (image[0x206] | image[0x207] << 8) < 0x208)
		die("not a bzImage of boot protocol 2.08 or later");
	setup_sectors = image[0x1f1] ? image[0x1f1] : 4;
	start = (setup_sectors + 1) * 512 + le32(image + 0x248);
	*ret_len = le32(image + 0x24c);
	if (start > len || *ret_len > len - start || *ret_len < 8)
		die("the bzImage is cut");
	if (le32(image + start) != LZ4_LEGACY_MAGIC)
		die("the kernel's payload is not LZ4");
	return image + start;
}

int main(int argc, char **argv)
{
	size_t len, payload_len, at = 4;
	uint8_t *image, *chunk = malloc(CHUNK);
	const uint8_t *payload;

	if (argc != 2 || !chunk)
		die("usage: kata-vmlinux BZIMAGE > VMLINUX");
	image = module_file_read(argv[1], &len);
	payload = find_payload(image, len, &payload_len);

	/* The last four bytes are the uncompressed size, which the kernel's build appends. */
	while (at + 8 <= payload_len) {
		size_t in_len = le32(payload + at), n;

		at += 4;
		if (in_len > payload_len - at)
			die("the kernel's LZ4 payload is cut");
		n = unpack_chunk(payload + at, in_len, chunk);
		if (at == 8 && memcmp(chunk, ELFMAG, SELFMAG) != 0)
			die("the kernel's payload is not an ELF file");
		if (fwrite(chunk, 1, n, stdout) != n)
			die("cannot write: %s", strerror(errno));
		at += in_len;
	}
	if (fflush(stdout) != 0)
		die("cannot write: %s", strerror(errno));
	free(chunk);
	free(image);
	return 0;
}
