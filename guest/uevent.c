/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/uevent.h"

#include <errno.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"

#define KERNEL_GROUP 1
#define SOCKET_BUFFER (1 << 20)

bool uevent_parse(const char *message, size_t len, struct uevent *ret)
{
	const char *end = message + len;
	struct uevent e = {.action = "", .devpath = "", .subsystem = ""};

	if (len == 0 || message[len - 1] != '\0' || !strchr(message, '@'))
		return false;
	for (const char *p = message + strlen(message) + 1; p < end; p += strlen(p) + 1) {
		if (strncmp(p, "ACTION=", 7) == 0)
			e.action = p + 7;
		else if (strncmp(p, "DEVPATH=", 8) == 0)
			e.devpath = p + 8;
		else if (strncmp(p, "SUBSYSTEM=", 10) == 0)
			e.subsystem = p + 10;
	}
	*ret = e;
	return e.devpath[0] == '/' && e.action[0] != '\0';
}

int uevent_open(int *ret_fd, kata_error **err)
{
	struct sockaddr_nl addr = {.nl_family = AF_NETLINK, .nl_groups = KERNEL_GROUP};
	int size = SOCKET_BUFFER;
	KATA_AUTO_FD int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);

	if (fd < 0)
		return kata__fail_errno(err, errno, "cannot open the socket for device events");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0)
		return kata__fail_errno(err, errno, "cannot listen to device events");
	*ret_fd = kata__take_fd(&fd);
	return 0;
}

int uevent_read(int fd, char *buf, size_t size, struct uevent *ret)
{
	for (;;) {
		struct sockaddr_nl from = {0};
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(fd, buf, size, MSG_DONTWAIT, (struct sockaddr *)&from, &from_len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == ENOBUFS ? -1 : 0;
		if (from.nl_pid == 0 && uevent_parse(buf, (size_t)n, ret))
			return 1;
	}
}
