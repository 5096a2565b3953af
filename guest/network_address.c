/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/network.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int network_parse_address(const char *text, uint8_t out[16])
{
	if (inet_pton(AF_INET, text, out) == 1)
		return AF_INET;
	return inet_pton(AF_INET6, text, out) == 1 ? AF_INET6 : 0;
}

int network_parse_prefix(const char *text, uint8_t out[16], unsigned *prefix)
{
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	char address[64];
	int family;
	unsigned max;

	if (len >= sizeof(address))
		return 0;
	snprintf(address, sizeof(address), "%.*s", (int)len, text);
	family = network_parse_address(address, out);
	max = family == AF_INET ? 32 : 128;
	*prefix = max;
	if (family && slash) {
		char *end;
		unsigned long n = strtoul(slash + 1, &end, 10);

		if (!isdigit((unsigned char)slash[1]) || *end || n > max)
			return 0;
		*prefix = (unsigned)n;
	}
	return family;
}
