/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/netlink.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"

#define ANSWER_SIZE 65536

void netlink_request_init(struct netlink_request *r, uint16_t type, uint16_t flags, const void *body, size_t body_len)
{
	memset(r, 0, sizeof(*r));
	r->header.nlmsg_len = NLMSG_LENGTH(body_len);
	r->header.nlmsg_type = type;
	r->header.nlmsg_flags = NLM_F_REQUEST | flags;
	memcpy(NLMSG_DATA(&r->header), body, body_len);
}

void netlink_request_put(struct netlink_request *r, uint16_t attribute, const void *data, size_t len)
{
	size_t at = NLMSG_ALIGN(r->header.nlmsg_len);
	struct rtattr a = {.rta_len = (unsigned short)RTA_LENGTH(len), .rta_type = attribute};

	if (len > 1024 || at + RTA_SPACE(len) > sizeof(r->bytes)) {
		r->overflow = true;
		return;
	}
	memcpy(r->bytes + at, &a, sizeof(a));
	if (len)
		memcpy(r->bytes + at + RTA_LENGTH(0), data, len);
	r->header.nlmsg_len = (uint32_t)(at + RTA_LENGTH(len));
}

void netlink_request_put_u32(struct netlink_request *r, uint16_t attribute, uint32_t value)
{
	netlink_request_put(r, attribute, &value, sizeof(value));
}

struct rtattr *netlink_request_nest(struct netlink_request *r, uint16_t attribute)
{
	size_t at = NLMSG_ALIGN(r->header.nlmsg_len);

	netlink_request_put(r, attribute, NULL, 0);
	return r->overflow ? NULL : (struct rtattr *)(void *)(r->bytes + at);
}

void netlink_request_unnest(struct netlink_request *r, struct rtattr *nest)
{
	if (nest)
		nest->rta_len = (unsigned short)(r->bytes + r->header.nlmsg_len - (uint8_t *)nest);
}

/* ---- exchange */

static int open_socket(void)
{
	struct sockaddr_nl addr = {.nl_family = AF_NETLINK};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd;
	kata__close_fd(&fd);
	return -1;
}

/* 1: more is to come; 0: done; -errno. */
static int take_message(const struct nlmsghdr *m, netlink_entry_fn entry, void *user)
{
	struct nlmsgerr e;

	if (m->nlmsg_type == NLMSG_DONE)
		return 0;
	if (m->nlmsg_type == NLMSG_ERROR) {
		if (m->nlmsg_len < NLMSG_LENGTH(sizeof(e)))
			return -EPROTO;
		memcpy(&e, NLMSG_DATA(m), sizeof(e));
		return e.error;
	}
	if (entry)
		entry(user, m);
	return 1;
}

static int receive(int fd, netlink_entry_fn entry, void *user)
{
	static uint8_t buf[ANSWER_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));
	int rc = 1;

	while (rc > 0) {
		ssize_t got = recv(fd, buf, sizeof(buf), 0);
		unsigned len;

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EPROTO;
		len = (unsigned)got;
		for (const struct nlmsghdr *m = (const void *)buf; rc > 0 && NLMSG_OK(m, len); m = NLMSG_NEXT(m, len))
			rc = take_message(m, entry, user);
	}
	return rc;
}

static int exchange(struct netlink_request *r, netlink_entry_fn entry, void *user)
{
	KATA_AUTO_FD int fd = -1;

	if (r->overflow)
		return -EMSGSIZE;
	fd = open_socket();
	if (fd < 0 || send(fd, r->bytes, r->header.nlmsg_len, 0) < 0)
		return -errno;
	return receive(fd, entry, user);
}

int netlink_do(struct netlink_request *r)
{
	r->header.nlmsg_flags |= NLM_F_ACK;
	return exchange(r, NULL, NULL);
}

int netlink_dump(struct netlink_request *r, netlink_entry_fn entry, void *user)
{
	r->header.nlmsg_flags |= NLM_F_DUMP;
	return exchange(r, entry, user);
}

void netlink_attributes(const struct nlmsghdr *message, size_t body_len, const struct rtattr **out, size_t max)
{
	size_t skip = NLMSG_SPACE(body_len);
	size_t len = message->nlmsg_len > skip ? message->nlmsg_len - skip : 0;

	memset(out, 0, (max + 1) * sizeof(*out));
	for (const struct rtattr *a = (const void *)((const uint8_t *)message + skip); RTA_OK(a, len);
	     a = RTA_NEXT(a, len))
		if ((a->rta_type & NLA_TYPE_MASK) <= max)
			out[a->rta_type & NLA_TYPE_MASK] = a;
}
