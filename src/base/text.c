/* SPDX-License-Identifier: Apache-2.0 */
/* Ids, UUIDs, formatted strings, string lists. */
#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <uuid/uuid.h>

static bool is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool kata__id_is_valid(const char *id)
{
	size_t n = 1;

	if (!id || !is_alnum(id[0]))
		return false;
	while (is_alnum(id[n]) || id[n] == '_' || id[n] == '.' || id[n] == '-')
		n++;
	return id[n] == '\0' && n <= KATA__ID_MAX;
}

int kata__id_check(const char *argument, const char *id, kata_error **err)
{
	char *clean;
	size_t n;
	int rc;

	if (kata__id_is_valid(id))
		return 0;
	if (!id)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL, must be an id", argument);
	n = strnlen(id, 2 * KATA__ID_MAX);
	if (n == 0)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is empty, must have 1 to %d bytes", argument,
				  KATA__ID_MAX);
	clean = kata__sanitize(id, n, false);
	if (!clean)
		return kata__fail_no_memory(err);
	if (n > KATA__ID_MAX)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "%s: '%.32s...' is longer than %d bytes", argument, clean,
				KATA__ID_MAX);
	else
		rc = kata__fail(
			err, KATA_E_INVALID, CALLER,
			"%s: '%s' is no id: letters, digits, '_', '.' and '-', beginning with a letter or digit",
			argument, clean);
	free(clean);
	return rc;
}

void kata__uuid_generate(char out[37])
{
	uuid_t u;

	uuid_generate_random(u);
	uuid_unparse_lower(u, out);
}

bool kata__uuid_is_valid(const char *uuid)
{
	uuid_t u;

	return uuid && strlen(uuid) == 36 && uuid_parse(uuid, u) == 0;
}

char *kata__format(const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : s;
}

void kata__format_time(int64_t seconds, char *buf, size_t size)
{
	time_t at = (time_t)seconds;
	struct tm tm;

	if (!gmtime_r(&at, &tm) || strftime(buf, size, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
		snprintf(buf, size, "?");
}

size_t kata__copy_text(char *buf, size_t size, const char *text)
{
	size_t len = strlen(text), n = len < size ? len : size - 1;

	if (size == 0)
		return len;
	memcpy(buf, text, n);
	buf[n] = '\0';
	return len;
}

char *kata__strdup(const char *s)
{
	return s ? strdup(s) : NULL;
}

size_t kata__strv_length(const char *const *v)
{
	size_t n = 0;

	while (v && v[n])
		n++;
	return n;
}

char **kata__strv_dup(const char *const *v)
{
	size_t n = kata__strv_length(v);
	char **copy;

	if (!v)
		return NULL;
	copy = calloc(n + 1, sizeof(*copy));
	if (!copy)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		copy[i] = strdup(v[i]);
		if (!copy[i]) {
			kata__strv_free(copy);
			return NULL;
		}
	}
	return copy;
}

void kata__strv_free(char **v)
{
	for (size_t i = 0; v && v[i]; i++)
		free(v[i]);
	free(v);
}
