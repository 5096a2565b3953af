/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/kmsg.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define LEVEL_ERROR 3
#define LEVEL_INFO 6

static int kmsg_fd = -1;

void kmsg_open(void)
{
	kmsg_fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
}

static void KATA__PRINTF(2, 0) say(int level, const char *fmt, va_list ap)
{
	char line[900]; /* the kernel takes 1024 at most */
	int head = snprintf(line, sizeof(line), "<%d>kata-agent: ", level);
	int n = vsnprintf(line + head, sizeof(line) - (size_t)head, fmt, ap);
	ssize_t ignored;

	if (kmsg_fd < 0 || n < 0)
		return;
	n = n < (int)sizeof(line) - head ? n : (int)sizeof(line) - head - 1;
	ignored = write(kmsg_fd, line, (size_t)(head + n));
	(void)ignored;
}

void kmsg_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(LEVEL_ERROR, fmt, ap);
	va_end(ap);
}

void kmsg_info(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(LEVEL_INFO, fmt, ap);
	va_end(ap);
}
