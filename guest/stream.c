/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "agent.pb-c.h"
#include "base/clock.h"
#include "base/fd.h"

struct waiter {
	struct waiter *next;
	struct stream *stream;
	struct call *call;
	const uint8_t *data; /* of a writer */
	size_t len;          /* most to read; all to write */
	size_t written;
};

struct stream {
	struct kata__loop *loop;
	int fd;
	bool is_terminal;
	bool is_closing; /* input: close once the waiters are done */
	bool has_ended;  /* the process has, and the linger time too: no data is end of file */
	struct kata__watch *watch;
	struct kata__timer *linger;
	struct waiter *waiters; /* in order */
	size_t waiter_count;
};

struct stream *stream_new(struct kata__loop *loop, int take_fd, bool is_terminal)
{
	struct stream *s = calloc(1, sizeof(*s));

	if (!s) {
		close(take_fd);
		return NULL;
	}
	*s = (struct stream){.loop = loop, .fd = take_fd, .is_terminal = is_terminal};
	return s;
}

int stream_fd(const struct stream *s)
{
	return s ? s->fd : -1;
}

static void waiter_remove(struct waiter *w)
{
	struct waiter **p = &w->stream->waiters;

	while (*p != w)
		p = &(*p)->next;
	*p = w->next;
	w->stream->waiter_count--;
	free(w);
}

/* Watched only while somebody waits: an fd that hung up is ready for ever. */
static void unwatch_if_idle(struct stream *s)
{
	if (s->waiters)
		return;
	kata__watch_remove(s->watch);
	s->watch = NULL;
}

static void forget(struct call *call, void *user)
{
	struct waiter *w = user;
	struct stream *s = w->stream;

	waiter_remove(w);
	unwatch_if_idle(s);
}

static void answer_data(struct call *call, const void *data, size_t len)
{
	Grpc__ReadStreamResponse r = GRPC__READ_STREAM_RESPONSE__INIT;

	r.data.data = (uint8_t *)data;
	r.data.len = len;
	call_answer(call, &r);
}

static void answer_written(struct call *call, size_t len)
{
	Grpc__WriteStreamResponse r = GRPC__WRITE_STREAM_RESPONSE__INIT;

	r.len = (uint32_t)len;
	call_answer(call, &r);
}

static void close_stream(struct stream *s)
{
	kata__watch_remove(s->watch);
	s->watch = NULL;
	kata__close_fd(&s->fd);
}

/* True: answered. A terminal nobody holds any more reads as EIO. */
static bool try_read(struct stream *s, struct call *call, size_t len)
{
	uint8_t buf[STREAM_READ_MAX];
	ssize_t n;

	len = len == 0 || len > sizeof(buf) ? sizeof(buf) : len;
	do
		n = s->fd < 0 ? 0 : read(s->fd, buf, len);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN && !s->has_ended)
		return false;
	answer_data(call, buf, n > 0 ? (size_t)n : 0);
	return true;
}

/* True: answered. */
static bool try_write(struct stream *s, struct call *call, const uint8_t *data, size_t len, size_t *written)
{
	while (*written < len) {
		ssize_t n = s->fd < 0 ? (errno = EPIPE, -1) : write(s->fd, data + *written, len - *written);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return false;
		if (n < 0) {
			call_answer_code(call, KATA__GRPC_FAILED_PRECONDITION, "stdin is closed: %s", strerror(errno));
			return true;
		}
		*written += (size_t)n;
	}
	answer_written(call, len);
	return true;
}

static void serve(struct stream *s)
{
	while (s->waiters) {
		struct waiter *w = s->waiters;
		bool done =
			w->data ? try_write(s, w->call, w->data, w->len, &w->written) : try_read(s, w->call, w->len);

		if (!done)
			break;
		waiter_remove(w);
	}
	unwatch_if_idle(s);
	if (s->is_closing && !s->waiters)
		close_stream(s);
}

static void on_ready(void *user, uint32_t events)
{
	serve(user);
}

static void park(struct stream *s, struct call *call, const void *data, size_t len, size_t written)
{
	struct waiter *w = s->waiter_count < STREAM_WAITERS_MAX ? calloc(1, sizeof(*w)) : NULL;
	struct waiter **p = &s->waiters;

	if (!w) {
		call_answer_code(call, KATA__GRPC_RESOURCE_EXHAUSTED, "%d calls wait for this stream already",
				 STREAM_WAITERS_MAX);
		return;
	}
	if (!s->watch &&
	    kata__watch_add(s->loop, s->fd, data ? EPOLLOUT : EPOLLIN, on_ready, s, &s->watch, NULL) != 0) {
		free(w);
		call_answer_code(call, KATA__GRPC_INTERNAL, "cannot wait for this stream");
		return;
	}
	*w = (struct waiter){.stream = s, .call = call, .data = data, .len = len, .written = written};
	while (*p)
		p = &(*p)->next;
	*p = w;
	s->waiter_count++;
	call_park(call, forget, w);
}

void stream_read(struct stream *s, struct call *call, size_t len)
{
	if (s->waiters || !try_read(s, call, len))
		park(s, call, NULL, len, 0);
}

void stream_write(struct stream *s, struct call *call, const void *data, size_t len)
{
	size_t written = 0;

	if (s->is_closing || s->fd < 0)
		call_answer_code(call, KATA__GRPC_FAILED_PRECONDITION, "stdin is closed");
	else if (s->waiters || !try_write(s, call, data, len, &written))
		park(s, call, data, len, written);
}

void stream_close_input(struct stream *s)
{
	if (s->is_terminal)
		return;
	s->is_closing = true;
	serve(s);
}

static void on_linger_end(void *user)
{
	struct stream *s = user;

	s->linger = NULL;
	s->has_ended = true;
	serve(s);
}

void stream_process_ended(struct stream *s)
{
	if (s->fd < 0 || s->has_ended || s->linger)
		return;
	if (kata__timer_add(s->loop, kata__deadline_in_ms(STREAM_LINGER_MS), on_linger_end, s, &s->linger, NULL) != 0)
		s->has_ended = true;
	serve(s);
}

void stream_free(struct stream *s)
{
	if (!s)
		return;
	kata__timer_remove(s->linger);
	close_stream(s);
	serve(s); /* without an fd every waiter gets its end */
	free(s);
}
