/* SPDX-License-Identifier: Apache-2.0 */
/* sha256 by nettle, in lower case hex. */
#include "storage/files.h"

#include <errno.h>
#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BYTES (1u << 20)

static void to_hex(struct sha256_ctx *ctx, char out[KATA__DIGEST_MAX])
{
	static const char digits[] = "0123456789abcdef";
	uint8_t raw[SHA256_DIGEST_SIZE];

	sha256_digest(ctx, sizeof(raw), raw);
	for (size_t i = 0; i < sizeof(raw); i++) {
		out[2 * i] = digits[raw[i] >> 4];
		out[2 * i + 1] = digits[raw[i] & 15];
	}
	out[2 * sizeof(raw)] = '\0';
}

void kata__digest_bytes(const void *data, size_t len, char out[KATA__DIGEST_MAX])
{
	struct sha256_ctx ctx;

	sha256_init(&ctx);
	sha256_update(&ctx, len, data);
	to_hex(&ctx, out);
}

bool kata__digest_is_valid(const char *text)
{
	return strspn(text, "0123456789abcdef") == KATA__DIGEST_MAX - 1 && text[KATA__DIGEST_MAX - 1] == '\0';
}

static int read_some(int fd, uint8_t *buf, uint64_t at, uint64_t size, const char *what, size_t *ret, kata_error **err)
{
	size_t want = size - at < CHUNK_BYTES ? (size_t)(size - at) : CHUNK_BYTES;
	ssize_t n;

	do
		n = pread(fd, buf, want, (off_t)at);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return kata__fail_errno(err, errno, "%s: cannot be read", what);
	if (n == 0)
		return kata__fail(err, KATA_E_IO, HOST, "%s: ends at byte %llu of %llu", what, (unsigned long long)at,
				  (unsigned long long)size);
	*ret = (size_t)n;
	return 0;
}

int kata__digest_fd(int fd, uint64_t size, const char *what, kata__go_on_fn go_on, const void *user,
		    char out[KATA__DIGEST_MAX], kata_error **err)
{
	KATA_AUTO(free) uint8_t *buf = malloc(CHUNK_BYTES);
	struct sha256_ctx ctx;
	size_t n = 0;

	if (!buf)
		return kata__fail_no_memory(err);
	sha256_init(&ctx);
	for (uint64_t at = 0; at < size; at += n) {
		int rc = go_on ? go_on(user, err) : 0;

		if (rc == 0)
			rc = read_some(fd, buf, at, size, what, &n, err);
		if (rc < 0)
			return rc;
		sha256_update(&ctx, n, buf);
	}
	to_hex(&ctx, out);
	return 0;
}
