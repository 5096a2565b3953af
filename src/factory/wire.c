/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See wire.h. What does not fit into the socket at once is kept, with a copy of its fd, until it does; a second text
 * waits behind it.
 */
#include "factory/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/fd.h"

#define HEAD 4u
#define CHUNK 16384u
#define OUT_MAX (4u * 1024u * 1024u)

struct kata__wire {
	int fd;
	size_t max;
	const struct kata__wire_handler *handler;
	void *user;
	struct kata__watch *watch;
	struct kata__buffer in, out;
	int in_fd;   /* came with the text under way; -1 */
	int out_fd;  /* goes with the next byte; -1 */
	bool *freed; /* set by the free while a handler runs */
	bool ended;
};

/* ---- the end ---- */

static void end(struct kata__wire *w, kata_error *take_why)
{
	if (!w->ended) {
		w->ended = true;
		kata__watch_remove(kata__take_ptr(w->watch));
		w->handler->on_end(w->user, take_why);
	}
	kata_error_free(take_why);
}

static void end_with(struct kata__wire *w, int status, const char *why)
{
	kata_error *error = NULL;

	if (status == KATA_E_GONE)
		kata__fail(&error, KATA_E_GONE, HOST, "the other process has closed the connection");
	else
		kata__fail(&error, status, CALLER, "%s", why);
	end(w, error);
}

/* ---- in ---- */

static size_t length_at(const uint8_t *p)
{
	return (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
}

/* True while the wire is there to go on with. */
static bool give_text(struct kata__wire *w, size_t len)
{
	char *text = (char *)kata__buffer_bytes(&w->in) + HEAD;
	int fd = kata__take_fd(&w->in_fd);
	bool freed = false;

	w->freed = &freed;
	w->handler->on_text(w->user, text, len, fd);
	if (freed)
		return false;
	w->freed = NULL;
	kata__buffer_consume(&w->in, HEAD + len);
	return !w->ended;
}

static bool give_texts(struct kata__wire *w)
{
	while (kata__buffer_len(&w->in) >= HEAD) {
		size_t len = length_at(kata__buffer_bytes(&w->in));

		if (len > w->max) {
			end_with(w, KATA_E_PROTOCOL, "the other process announces a message that is too long");
			return false;
		}
		if (kata__buffer_len(&w->in) < HEAD + len)
			return true;
		if (!give_text(w, len))
			return false;
	}
	return true;
}

/* One fd is kept, others are closed. False: more than may be. */
static bool keep_fds(struct kata__wire *w, struct msghdr *msg)
{
	bool ok = !(msg->msg_flags & MSG_CTRUNC);

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t count = c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS
				       ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int)
				       : 0;

		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (w->in_fd < 0) {
				w->in_fd = fd;
			} else {
				close(fd);
				ok = false;
			}
		}
	}
	return ok;
}

/* Bytes received; 0: end of file or an error, and the wire has ended; -1: nothing now. */
static ssize_t receive(struct kata__wire *w)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = kata__buffer_reserve(&w->in, CHUNK), .iov_len = CHUNK};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.space,
			     .msg_controllen = sizeof(control.space)};
	ssize_t n;

	if (!iov.iov_base) {
		end_with(w, KATA_E_NO_MEMORY, "no memory for a message");
		return 0;
	}
	do
		n = recvmsg(w->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return -1;
	if (n <= 0) {
		end_with(w, KATA_E_GONE, NULL);
		return 0;
	}
	if (!keep_fds(w, &msg)) {
		end_with(w, KATA_E_PROTOCOL, "the other process sends more fds than it may");
		return 0;
	}
	kata__buffer_added(&w->in, (size_t)n);
	return n;
}

/* ---- out ---- */

/* What can go now. 0, or -errno. */
static ssize_t push(struct kata__wire *w)
{
	while (kata__buffer_len(&w->out)) {
		ssize_t n = kata__unix_send(w->fd, kata__buffer_bytes(&w->out), kata__buffer_len(&w->out), w->out_fd);

		if (n < 0)
			return n == -EAGAIN ? 0 : n;
		kata__close_fd(&w->out_fd);
		kata__buffer_consume(&w->out, (size_t)n);
	}
	return 0;
}

static void await(struct kata__wire *w)
{
	kata__watch_set_events(w->watch, kata__buffer_len(&w->out) ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void on_event(void *user, uint32_t events)
{
	struct kata__wire *w = user;
	ssize_t n;

	if (events & EPOLLOUT && push(w) < 0) {
		end_with(w, KATA_E_GONE, NULL);
		return;
	}
	await(w);
	if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return;
	do
		n = receive(w);
	while (n > 0 && give_texts(w));
}

static int keep_fd(struct kata__wire *w, int fd, kata_error **err)
{
	if (fd < 0)
		return 0;
	if (kata__buffer_len(&w->out))
		return kata__fail(err, KATA_E_BUSY, HOST, "an fd can only go with the first message");
	w->out_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return w->out_fd < 0 ? kata__fail_errno(err, errno, "an fd cannot go along") : 0;
}

/* A connection that breaks here is noticed by the loop, behind what the peer said before it closed it. */
int kata__wire_send(struct kata__wire *w, const char *text, int fd, kata_error **err)
{
	size_t len = strlen(text);
	const uint8_t head[HEAD] = {(uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len};
	int rc;

	if (w->ended)
		return kata__fail(err, KATA_E_GONE, HOST, "the connection has ended");
	rc = keep_fd(w, fd, err);
	if (rc < 0)
		return rc;
	if (kata__buffer_append(&w->out, head, sizeof(head)) < 0 || kata__buffer_append(&w->out, text, len) < 0)
		return kata__fail_no_memory(err);
	if (push(w) < 0)
		kata__buffer_consume(&w->out, kata__buffer_len(&w->out));
	await(w);
	return 0;
}

int kata__wire_peer_uid(const struct kata__wire *w, uint32_t *ret_uid, kata_error **err)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(w->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return kata__fail_errno(err, errno, "who is at the other end cannot be seen");
	*ret_uid = peer.uid;
	return 0;
}

/* ---- life ---- */

int kata__wire_new(struct kata__loop *loop, int take_fd, size_t max, const struct kata__wire_handler *handler,
		   void *user, struct kata__wire **ret, kata_error **err)
{
	struct kata__wire *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return kata__fail_no_memory(err);
	*w = (struct kata__wire){
		.fd = take_fd, .max = max, .handler = handler, .user = user, .in_fd = -1, .out_fd = -1};
	kata__buffer_init(&w->in, HEAD + max + CHUNK);
	kata__buffer_init(&w->out, OUT_MAX);
	rc = kata__watch_add(loop, take_fd, EPOLLIN, on_event, w, &w->watch, err);
	if (rc < 0) {
		w->fd = -1; /* the caller's */
		kata__wire_free(w);
		return rc;
	}
	*ret = w;
	return 0;
}

void kata__wire_free(struct kata__wire *w)
{
	if (!w)
		return;
	if (w->freed)
		*w->freed = true;
	kata__watch_remove(w->watch);
	kata__close_fd(&w->fd);
	kata__close_fd(&w->in_fd);
	kata__close_fd(&w->out_fd);
	kata__buffer_deinit(&w->in);
	kata__buffer_deinit(&w->out);
	free(w);
}
