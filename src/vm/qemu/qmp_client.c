/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp_client.c - one QMP connection: bytes in, bytes out, and who waits for what.
 *
 * The stream out is a buffer of bytes and a list of fds, each with the stream offset of the byte it travels with. QEMU
 * keeps the last fd it received until a command takes it, and handles commands in order, so several fd-taking commands
 * may be queued at once.
 */
#include "vm/qemu/qmp_client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/fd.h"
#include "base/json.h"
#include "proto/qmp.h"

#define READ_CHUNK 4096u
#define FIRST_CHUNK 1024u /* most replies are shorter, and memory of that size costs little to get and to give back */
#define FIRST_ID 1u       /* of qmp_capabilities */
#define READ_ROUNDS 16    /* per wake-up: other VMs want the loop too */

struct pending {
	struct pending *next;
	uint64_t id;
	kata__qmp_reply_fn reply;
	void *user;
};

struct passed_fd {
	struct passed_fd *next;
	uint64_t offset;
	int fd;
};

struct kata__qmp {
	struct kata__loop *loop;
	int fd;
	struct kata__watch *watch;
	const struct kata__qmp_handler *handler;
	void *user;
	bool greeted, ready, broken, closed;
	unsigned depth; /* callbacks of ours on the stack: the memory must stay */
	unsigned version[3];
	uint64_t next_id;
	size_t in_flight;
	struct pending *first, **last;
	struct kata__buffer in, out;
	struct kata__qmp_reader reader;
	uint64_t sent; /* bytes of the stream that the socket took */
	struct passed_fd *fds, **fds_last;
};

/* ---- life */

static void free_fds(struct kata__qmp *q)
{
	while (q->fds) {
		struct passed_fd *f = q->fds;

		q->fds = f->next;
		kata__close_fd(&f->fd);
		free(f);
	}
	q->fds_last = &q->fds;
}

static void enter(struct kata__qmp *q)
{
	q->depth++;
}

static void leave(struct kata__qmp *q)
{
	if (--q->depth || !q->closed)
		return;
	kata__buffer_deinit(&q->in);
	kata__buffer_deinit(&q->out);
	free(q);
}

/* Takes the connection down; the callers in flight get copies of why. */
static void disconnect(struct kata__qmp *q, const kata_error *why)
{
	struct pending *list = q->first;

	q->broken = true;
	kata__watch_remove(q->watch);
	q->watch = NULL;
	kata__close_fd(&q->fd);
	free_fds(q);
	q->first = NULL;
	q->last = &q->first;
	q->in_flight = 0;
	while (list) {
		struct pending *p = list;

		list = p->next;
		p->reply(p->user, NULL, kata__error_dup(why));
		free(p);
	}
}

static void fail(struct kata__qmp *q, kata_error *take_why)
{
	if (!q->broken) {
		disconnect(q, take_why);
		if (!q->closed)
			q->handler->on_broken(q->user, take_why);
	}
	kata_error_free(take_why);
}

void kata__qmp_close(struct kata__qmp *q, const kata_error *why)
{
	KATA_AUTO(kata_error_free) kata_error *own = NULL;

	if (!q || q->closed)
		return;
	enter(q);
	q->closed = true;
	if (!q->broken) {
		kata__fail(&own, KATA_E_GONE, CALLER, "the connection to QEMU's monitor was closed");
		disconnect(q, why ? why : own);
	}
	leave(q);
}

bool kata__qmp_is_broken(const struct kata__qmp *q)
{
	return q->broken;
}

const unsigned *kata__qmp_get_version(const struct kata__qmp *q)
{
	return q->version;
}

size_t kata__qmp_in_flight(const struct kata__qmp *q)
{
	return q->in_flight;
}

pid_t kata__qmp_peer(const struct kata__qmp *q)
{
	return kata__unix_peer(q->fd);
}

/* ---- out */

/* One sendmsg: up to the byte that the next fd travels with. Returns bytes sent or -errno. */
static ssize_t send_some(struct kata__qmp *q)
{
	size_t len = kata__buffer_len(&q->out);
	struct passed_fd *f = q->fds;
	int fd = -1;
	ssize_t n;

	if (f && f->offset == q->sent) {
		fd = f->fd;
		f = f->next;
	}
	if (f && f->offset - q->sent < len)
		len = (size_t)(f->offset - q->sent);
	n = kata__unix_send(q->fd, kata__buffer_bytes(&q->out), len, fd);
	if (n <= 0)
		return n;
	if (fd >= 0) {
		f = q->fds;
		q->fds = f->next;
		if (!q->fds)
			q->fds_last = &q->fds;
		kata__close_fd(&f->fd);
		free(f);
	}
	kata__buffer_consume(&q->out, (size_t)n);
	q->sent += (uint64_t)n;
	return n;
}

/* Sends what the socket takes. A socket that fails is noticed here, reported by the reading side or by the caller. */
static int flush(struct kata__qmp *q)
{
	while (kata__buffer_len(&q->out)) {
		ssize_t n = send_some(q);

		if (n == -EINTR)
			continue;
		if (n == -EAGAIN) {
			kata__watch_set_events(q->watch, EPOLLIN | EPOLLOUT);
			return 0;
		}
		if (n < 0)
			return (int)n;
	}
	kata__buffer_deinit(&q->out);
	kata__buffer_init(&q->out, KATA__QMP_OUT_MAX);
	kata__watch_set_events(q->watch, EPOLLIN);
	return 0;
}

static int queue_fd(struct kata__qmp *q, int fd, uint64_t offset, kata_error **err)
{
	struct passed_fd *f = calloc(1, sizeof(*f));

	if (!f)
		return kata__fail_no_memory(err);
	f->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (f->fd < 0) {
		int e = errno;

		free(f);
		return kata__fail_errno(err, e, "cannot duplicate a file descriptor for QEMU");
	}
	f->offset = offset;
	*q->fds_last = f;
	q->fds_last = &f->next;
	return 0;
}

static void forget_last_fd(struct kata__qmp *q)
{
	struct passed_fd **at = &q->fds;

	while ((*at)->next)
		at = &(*at)->next;
	kata__close_fd(&(*at)->fd);
	free(*at);
	*at = NULL;
	q->fds_last = at;
}

static int enqueue(struct kata__qmp *q, const char *command, const json_t *args, int fd, kata_error **err)
{
	uint64_t offset = q->sent + kata__buffer_len(&q->out);
	int rc = fd >= 0 ? queue_fd(q, fd, offset, err) : 0;

	if (rc)
		return rc;
	rc = kata__qmp_append_command(&q->out, q->next_id, command, args, err);
	if (rc && fd >= 0)
		forget_last_fd(q);
	return rc;
}

int kata__qmp_execute(struct kata__qmp *q, const char *command, json_t *take_args, int fd, kata__qmp_reply_fn reply,
		      void *user, kata_error **err)
{
	KATA_AUTO_JSON json_t *args = take_args;
	struct pending *p;
	int rc;

	if (q->broken)
		return kata__fail(err, KATA_E_GONE, VMM, "the connection to QEMU's monitor is broken: no %s", command);
	if (q->in_flight >= KATA__QMP_IN_FLIGHT_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, VMM, "%u QMP commands are in flight, QEMU answers none: no %s",
				  KATA__QMP_IN_FLIGHT_MAX, command);
	p = calloc(1, sizeof(*p));
	if (!p)
		return kata__fail_no_memory(err);
	rc = enqueue(q, command, args, fd, err);
	if (rc) {
		free(p);
		return rc;
	}
	*p = (struct pending){.id = q->next_id++, .reply = reply, .user = user};
	*q->last = p;
	q->last = &p->next;
	q->in_flight++;
	/* A dead socket is also readable: the loop finds out and tells everyone, this command included. */
	(void)flush(q);
	return 0;
}

/* ---- in */

static struct pending *take_pending(struct kata__qmp *q, uint64_t id)
{
	for (struct pending **at = &q->first; *at; at = &(*at)->next) {
		struct pending *p = *at;

		if (p->id != id)
			continue;
		*at = p->next;
		if (!p->next)
			q->last = at;
		q->in_flight--;
		return p;
	}
	return NULL;
}

static void reply_to(struct pending *p, const struct kata__qmp_message *m)
{
	kata_error *failure = NULL;

	if (m->kind == KATA__QMP_ERROR) {
		char *text = kata__sanitize(m->text, strlen(m->text), false);

		kata__fail(&failure, KATA_E_VMM, VMM, "QEMU: %s", text ? text : "(no memory for its words)");
		free(text);
	}
	p->reply(p->user, failure ? NULL : m->data, failure);
	free(p);
}

/*
 * A command that QEMU was at when the connection before this one ended is answered on this one, before the greeting or
 * after it. Ours are answered in order, so what comes before the answer to the first is such a one; and that may look
 * like the answer to the first.
 */
static bool is_of_another_connection(struct kata__qmp *q, const struct kata__qmp_message *m)
{
	if (q->ready)
		return m->id == FIRST_ID;
	q->ready = m->id == FIRST_ID;
	return !q->ready && (m->id || m->kind == KATA__QMP_RETURN);
}

static int on_reply(struct kata__qmp *q, const struct kata__qmp_message *m, kata_error **err)
{
	struct pending *p;

	if (is_of_another_connection(q, m))
		return 0;
	p = m->id ? take_pending(q, m->id) : NULL;
	if (p) {
		reply_to(p, m);
		return 0;
	}
	if (m->kind == KATA__QMP_ERROR && !m->id) {
		char *text = kata__sanitize(m->text, strlen(m->text), false);

		kata__fail(err, KATA_E_PROTOCOL, VMM, "QEMU did not understand what it got: %s", text ? text : "");
		free(text);
		return KATA_E_PROTOCOL;
	}
	return kata__fail(err, KATA_E_PROTOCOL, VMM, "QMP: a reply to a command that was not sent (id %llu)",
			  (unsigned long long)m->id);
}

static int on_message(struct kata__qmp *q, const struct kata__qmp_message *m, kata_error **err)
{
	if (!q->greeted && m->kind != KATA__QMP_GREETING)
		return 0; /* as is_of_another_connection */
	if (q->greeted && m->kind == KATA__QMP_GREETING)
		return kata__fail(err, KATA_E_PROTOCOL, VMM, "QMP: a second greeting");
	switch (m->kind) {
	case KATA__QMP_GREETING:
		q->greeted = true;
		for (int i = 0; i < 3; i++)
			q->version[i] = m->version[i];
		return 0;
	case KATA__QMP_EVENT:
		q->handler->on_event(q->user, m->name, m->data);
		return 0;
	case KATA__QMP_RETURN:
	case KATA__QMP_ERROR:
		break;
	}
	return on_reply(q, m, err);
}

/* Every whole line that is there. */
static int take_lines(struct kata__qmp *q, kata_error **err)
{
	struct kata__qmp_message m = {0};
	struct kata__slice line;
	int rc;

	while (!q->broken && (rc = kata__qmp_next_line(&q->reader, &q->in, &line, err)) != 0) {
		if (rc < 0)
			return rc;
		rc = kata__qmp_parse(&line, &m, err);
		if (rc)
			return rc;
		kata__qmp_consume(&q->reader, &q->in);
		rc = on_message(q, &m, err);
		kata__qmp_message_deinit(&m);
		if (rc)
			return rc;
	}
	return 0;
}

static int hung_up(struct kata__qmp *q, int e, kata_error **err)
{
	size_t half = kata__buffer_len(&q->in);

	if (half)
		return kata__fail(err, KATA_E_GONE, VMM, "QEMU closed its monitor after half a line (%zu bytes)", half);
	if (e)
		return kata__fail(err, KATA_E_GONE, VMM, "QEMU's monitor: %s", strerror(e));
	return kata__fail(err, KATA_E_GONE, VMM, "QEMU closed its monitor");
}

/* One read. 1: there may be more, 0: no more now, < 0: the connection is over. */
static int read_some(struct kata__qmp *q, size_t chunk, kata_error **err)
{
	uint8_t *at = kata__buffer_reserve(&q->in, chunk);
	ssize_t n;

	if (!at)
		return kata__fail_no_memory(err);
	n = read(q->fd, at, chunk);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return hung_up(q, n < 0 ? errno : 0, err);
	kata__buffer_added(&q->in, (size_t)n);
	return (size_t)n == chunk;
}

static int receive(struct kata__qmp *q, kata_error **err)
{
	int more = 1;

	for (int i = 0; more && i < READ_ROUNDS; i++) {
		int rc;

		more = read_some(q, i ? READ_CHUNK : FIRST_CHUNK, err);
		if (more < 0)
			return more;
		rc = take_lines(q, err);
		if (rc || q->broken)
			return rc;
	}
	if (!kata__buffer_len(&q->in)) { /* an idle connection holds no memory */
		kata__buffer_deinit(&q->in);
		kata__buffer_init(&q->in, KATA__QMP_BUFFER_MAX);
	}
	return 0;
}

static void on_ready(void *user, uint32_t events)
{
	struct kata__qmp *q = user;
	kata_error *err = NULL;
	int rc = 0;

	enter(q);
	if (events & EPOLLOUT)
		(void)flush(q);
	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
		rc = receive(q, &err);
	if (rc)
		fail(q, err);
	leave(q);
}

int kata__qmp_open(struct kata__loop *loop, int take_fd, const struct kata__qmp_handler *handler, void *user,
		   kata__qmp_reply_fn ready, void *ready_user, struct kata__qmp **ret, kata_error **err)
{
	struct kata__qmp *q = calloc(1, sizeof(*q));
	int rc;

	if (!q) {
		kata__close_fd(&take_fd);
		return kata__fail_no_memory(err);
	}
	*q = (struct kata__qmp){.loop = loop, .fd = take_fd, .handler = handler, .user = user, .next_id = FIRST_ID};
	q->last = &q->first;
	q->fds_last = &q->fds;
	kata__buffer_init(&q->in, KATA__QMP_BUFFER_MAX);
	kata__buffer_init(&q->out, KATA__QMP_OUT_MAX);
	rc = kata__watch_add(loop, q->fd, EPOLLIN, on_ready, q, &q->watch, err);
	if (!rc)
		rc = kata__qmp_execute(q, "qmp_capabilities", NULL, -1, ready, ready_user, err);
	if (rc) {
		kata__qmp_close(q, NULL);
		return rc;
	}
	*ret = q;
	return 0;
}
