/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/text_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"

#define LINE_MAX_BYTES 65536

int text_file_write(const char *path, const char *text)
{
	KATA_AUTO_FD int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

char *text_file_read_line(const char *path)
{
	char *text = NULL;
	size_t len = 0;

	if (kata__read_file(path, LINE_MAX_BYTES, &text, &len, NULL) != 0)
		return NULL;
	text[strcspn(text, "\n")] = '\0';
	return text;
}
