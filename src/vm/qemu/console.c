/* SPDX-License-Identifier: Apache-2.0 */
/* console.c - a ring of the newest bytes, filled from a socket. */
#include "vm/qemu/console.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/fd.h"

#define READ_CHUNK 4096u
#define READ_ROUNDS 4

void kata__console_init(struct kata__console *c)
{
	*c = (struct kata__console){.fd = -1};
	pthread_mutex_init(&c->mutex, NULL);
}

void kata__console_deinit(struct kata__console *c)
{
	kata__console_detach(c);
	free(c->ring);
	c->ring = NULL;
	pthread_mutex_destroy(&c->mutex);
}

/* Doubles from 1 KiB to the most there is. Out of memory: the ring stays as it is. */
static void grow(struct kata__console *c, size_t need)
{
	size_t alloc = c->alloc ? c->alloc : 512;
	char *ring;

	while (alloc < need && alloc < KATA__CONSOLE_MAX)
		alloc *= 2;
	if (alloc <= c->alloc)
		return;
	ring = malloc(alloc);
	if (!ring)
		return;
	for (size_t i = 0; i < c->len; i++)
		ring[i] = c->ring[(c->start + i) % c->alloc];
	free(c->ring);
	c->ring = ring;
	c->alloc = alloc;
	c->start = 0;
}

void kata__console_append(struct kata__console *c, const char *data, size_t len)
{
	pthread_mutex_lock(&c->mutex);
	grow(c, c->len + len);
	if (len > c->alloc) {
		data += len - c->alloc;
		len = c->alloc;
	}
	for (size_t i = 0; i < len; i++) {
		c->ring[(c->start + c->len) % c->alloc] = data[i];
		if (c->len < c->alloc)
			c->len++;
		else
			c->start = (c->start + 1) % c->alloc;
	}
	pthread_mutex_unlock(&c->mutex);
}

char *kata__console_copy(struct kata__console *c, size_t *ret_len)
{
	char *copy = NULL;

	pthread_mutex_lock(&c->mutex);
	if (c->len)
		copy = malloc(c->len + 1);
	if (copy) {
		for (size_t i = 0; i < c->len; i++)
			copy[i] = c->ring[(c->start + i) % c->alloc];
		copy[c->len] = '\0';
		*ret_len = c->len;
	}
	pthread_mutex_unlock(&c->mutex);
	return copy;
}

/* 1: there may be more, 0: none now, -1: the other side has closed. */
static int read_some(struct kata__console *c)
{
	char data[READ_CHUNK];
	ssize_t n = read(c->fd, data, sizeof(data));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return -1;
	kata__console_append(c, data, (size_t)n);
	return n == (ssize_t)sizeof(data);
}

static int read_rounds(struct kata__console *c)
{
	int more = 1;

	for (int i = 0; more > 0 && i < READ_ROUNDS; i++)
		more = read_some(c);
	return more;
}

static void on_ready(void *user, uint32_t events)
{
	struct kata__console *c = user;

	if (read_rounds(c) < 0)
		kata__console_detach(c);
}

int kata__console_attach(struct kata__console *c, struct kata__loop *loop, int take_fd, kata_error **err)
{
	int rc;

	kata__console_detach(c);
	c->fd = take_fd;
	rc = kata__watch_add(loop, c->fd, EPOLLIN, on_ready, c, &c->watch, err);
	if (rc)
		kata__close_fd(&c->fd);
	return rc;
}

void kata__console_detach(struct kata__console *c)
{
	if (c->fd < 0)
		return;
	(void)read_rounds(c);
	kata__watch_remove(c->watch);
	c->watch = NULL;
	kata__close_fd(&c->fd);
}
