/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ttrpc_client.c - many calls at once over one stream.
 *
 * Calls live in a table that an id leads into directly: place (id / 2) mod size. An id whose place is taken by a call
 * still in flight is skipped, for ids need only grow; the table is kept at most half full, so there is always a next
 * one.
 *
 * A request is packed into `scratch` and sent from there. What the socket does not take moves, with its memory, into
 * a queue of frames, and the rest follows when the socket can be written: so ids leave in the order they were given.
 *
 * An error in sending is not acted upon where it is found, inside a caller's call, but in a timer that is due at once,
 * and after reading what the peer had still said.
 *
 * Invariants: 1. a slot is emptied before its function is called, so a call ends once. 2. a frame that was sent in part
 * is sent to its end, or never anything after it. 3. memory: one frame being received, KATA__TTRPC_QUEUE_MAX
 * and one frame unsent. 4. the client's memory outlives every callback it is in (refs).
 */
#include "agent/ttrpc_client.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"

#define SLOTS_MIN 16u
#define READ_MIN 4096u
#define READ_MAX 262144u
#define READS_PER_TURN 16u
#define KEEP_MAX 16384u /* a buffer above this is not kept when it is empty */
#define IN_MAX (KATA__TTRPC_FRAME_MAX + READ_MAX)

enum client_state { OPEN, LOST, CLOSED };

struct slot {
	uint32_t id; /* 0: free */
	kata__ttrpc_end_fn fn;
	void *user;
};

struct frame {
	struct frame *next;
	uint32_t id;
	struct kata__buffer bytes; /* unsent */
	size_t length;             /* of the whole frame: sent in part when fewer bytes are left */
};

struct kata__ttrpc_client {
	struct kata__loop *loop;
	unsigned refs; /* one for the owner, one for each function that calls out */
	enum client_state state;
	int fd;
	struct kata__watch *watch;
	struct kata__timer *broken; /* sending failed: due at once */
	int send_errno;
	kata_error *reason; /* LOST: why */
	kata__ttrpc_lost_fn lost;
	void *user;

	struct slot *slots;
	size_t slot_count; /* a power of two */
	size_t in_flight;
	uint64_t next_id;

	struct kata__ttrpc_reader reader;
	struct kata__buffer in;
	size_t read_size;
	struct kata__buffer scratch;
	struct frame *first, *last;
	size_t queued; /* bytes in the queue */
};

/* ---- calls in flight */

static struct slot *place_of(const struct kata__ttrpc_client *c, uint64_t id)
{
	return &c->slots[(id >> 1) & (c->slot_count - 1)];
}

static struct slot *find_slot(const struct kata__ttrpc_client *c, uint32_t id)
{
	struct slot *s = place_of(c, id);

	return id && s->id == id ? s : NULL;
}

/* Two ids that meet in the larger table would have met in the smaller one, so every call finds its place. */
static int grow_slots(struct kata__ttrpc_client *c, kata_error **err)
{
	size_t old_count = c->slot_count;
	struct slot *old = c->slots;
	struct slot *slots = calloc(old_count * 2, sizeof(*slots));

	if (!slots)
		return kata__fail_no_memory(err);
	c->slots = slots;
	c->slot_count = old_count * 2;
	for (size_t i = 0; i < old_count; i++)
		if (old[i].id)
			*place_of(c, old[i].id) = old[i];
	free(old);
	return 0;
}

static int reserve_id(struct kata__ttrpc_client *c, kata_error **err)
{
	int rc;

	if (c->in_flight >= KATA__TTRPC_CALLS_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER,
				  "agent: %u calls are in flight on this connection, no more fit",
				  KATA__TTRPC_CALLS_MAX);
	if ((c->in_flight + 1) * 2 > c->slot_count) {
		rc = grow_slots(c, err);
		if (rc)
			return rc;
	}
	while (place_of(c, c->next_id)->id)
		c->next_id += 2;
	if (c->next_id > UINT32_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER,
				  "agent: this connection has used up its 2^31 stream ids; connect anew");
	return 0;
}

static void end_slot(struct kata__ttrpc_client *c, struct slot *s, const struct kata__ttrpc_response *response,
		     kata_error *take_err)
{
	struct slot ended = *s;

	*s = (struct slot){0};
	c->in_flight--;
	ended.fn(ended.user, response, take_err);
}

/* Calls that the functions start meanwhile are refused by the state, so the table does not move. */
static void end_all(struct kata__ttrpc_client *c, const kata_error *why)
{
	for (size_t i = 0; i < c->slot_count && c->in_flight; i++)
		if (c->slots[i].id)
			end_slot(c, &c->slots[i], NULL, kata__error_dup(why));
}

/* ---- the queue of unsent frames */

static void drop_first_frame(struct kata__ttrpc_client *c)
{
	struct frame *f = c->first;

	c->first = f->next;
	if (!c->first)
		c->last = NULL;
	kata__buffer_deinit(&f->bytes);
	free(f);
}

static void drop_queue(struct kata__ttrpc_client *c)
{
	while (c->first)
		drop_first_frame(c);
	c->queued = 0;
}

/* Moves what is left in scratch to the queue. */
static int enqueue(struct kata__ttrpc_client *c, uint32_t id, size_t length, kata_error **err)
{
	struct frame *f = malloc(sizeof(*f));

	if (!f)
		return kata__fail_no_memory(err);
	*f = (struct frame){.id = id, .bytes = c->scratch, .length = length};
	kata__buffer_init(&c->scratch, KATA__TTRPC_FRAME_MAX);
	if (c->last)
		c->last->next = f;
	else
		c->first = f;
	c->last = f;
	c->queued += kata__buffer_len(&f->bytes);
	kata__watch_set_events(c->watch, EPOLLIN | EPOLLOUT);
	return 0;
}

static void unqueue(struct kata__ttrpc_client *c, uint32_t id)
{
	struct frame *prev = NULL;

	for (struct frame *f = c->first; f; prev = f, f = f->next) {
		if (f->id != id)
			continue;
		if (kata__buffer_len(&f->bytes) < f->length)
			return;
		c->queued -= f->length;
		if (prev)
			prev->next = f->next;
		else
			c->first = f->next;
		if (c->last == f)
			c->last = prev;
		kata__buffer_deinit(&f->bytes);
		free(f);
		return;
	}
}

/* ---- end of the connection */

static void client_ref(struct kata__ttrpc_client *c)
{
	c->refs++;
}

static void client_unref(struct kata__ttrpc_client *c)
{
	if (--c->refs)
		return;
	kata__buffer_deinit(&c->in);
	kata__buffer_deinit(&c->scratch);
	kata_error_free(c->reason);
	free(c->slots);
	free(c);
}

static void shut(struct kata__ttrpc_client *c, enum client_state state)
{
	c->state = state;
	kata__watch_remove(c->watch);
	c->watch = NULL;
	kata__timer_remove(c->broken);
	c->broken = NULL;
	kata__close_fd(&c->fd);
	drop_queue(c);
}

static void lose(struct kata__ttrpc_client *c, kata_error *take_reason)
{
	client_ref(c);
	shut(c, LOST);
	c->reason = take_reason;
	c->lost(c->user, c->reason);
	end_all(c, c->reason);
	client_unref(c);
}

void kata__ttrpc_client_free(struct kata__ttrpc_client *c)
{
	kata_error *cancelled = NULL;

	if (!c)
		return;
	shut(c, CLOSED);
	if (c->in_flight)
		kata__fail(&cancelled, KATA_E_CANCELLED, CALLER, "agent: the connection was closed by its owner");
	end_all(c, cancelled);
	kata_error_free(cancelled);
	client_unref(c);
}

/* ---- reading */

static void lose_by_read(struct kata__ttrpc_client *c, ssize_t n)
{
	size_t left = kata__buffer_len(&c->in);
	kata_error *reason = NULL;

	if (n < 0)
		kata__error_set(&reason, KATA__BIRTH, KATA_E_GONE, KATA_ORIGIN_GUEST, errno,
				"agent: the connection broke: %s", strerrordesc_np(errno));
	else if (left)
		kata__fail(&reason, KATA_E_GONE, GUEST, "agent: the connection was closed after %zu bytes of an answer",
			   left);
	else
		kata__fail(&reason, KATA_E_GONE, GUEST, "agent: the connection was closed from the other end");
	lose(c, reason);
}

static void give_response(struct kata__ttrpc_client *c, const struct kata__ttrpc_frame *frame)
{
	struct slot *s = find_slot(c, frame->stream_id);
	struct kata__ttrpc_response response;
	kata_error *err = NULL;

	if (!s)
		return;
	if (kata__ttrpc_read_response(frame, &response, &err) != 0)
		lose(c, err);
	else
		end_slot(c, s, &response, NULL);
}

static void handle_frames(struct kata__ttrpc_client *c)
{
	struct kata__ttrpc_frame frame;
	kata_error *err = NULL;

	while (c->state == OPEN) {
		int rc = kata__ttrpc_next(&c->reader, &c->in, &frame, &err);

		if (rc == 0)
			break;
		if (rc < 0) {
			lose(c, err);
			break;
		}
		give_response(c, &frame);
		kata__ttrpc_consume(&c->in, &frame);
	}
	if (!kata__buffer_len(&c->in) && c->in.alloc > KEEP_MAX)
		kata__buffer_deinit(&c->in);
}

/* A vsock that is still connecting is neither readable nor broken; one that failed to has an error waiting, which errno
 * becomes. */
static bool is_connecting(const struct kata__ttrpc_client *c, int recv_errno)
{
	int waiting = 0;
	socklen_t size = sizeof(waiting);

	if (recv_errno != ENOTCONN)
		return false;
	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &waiting, &size) < 0 || !waiting)
		return true;
	errno = waiting;
	return false;
}

/* A peer that talks much is read in large pieces, until it talks less. */
static void adapt_read_size(struct kata__ttrpc_client *c, size_t n, size_t size)
{
	if (n == size && size < READ_MAX)
		c->read_size = size * 2;
	else if (n < c->read_size / 4 && c->read_size > READ_MIN)
		c->read_size /= 2;
}

/* One recv and what it brought. False: nothing more for now. The peer's claim of a long frame makes the buffer grow
 * only as its bytes come in. */
static bool read_once(struct kata__ttrpc_client *c)
{
	size_t wanted = kata__ttrpc_wanted(&c->in);
	size_t size = wanted > c->read_size ? (wanted < READ_MAX ? wanted : READ_MAX) : c->read_size;
	uint8_t *to = kata__buffer_reserve(&c->in, size);
	kata_error *err = NULL;
	ssize_t n;

	if (!to) {
		kata__fail_no_memory(&err);
		lose(c, err);
		return false;
	}
	do
		n = recv(c->fd, to, size, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || is_connecting(c, errno)))
		return false;
	if (n <= 0) {
		lose_by_read(c, n);
		return false;
	}
	kata__buffer_added(&c->in, (size_t)n);
	adapt_read_size(c, (size_t)n, size);
	handle_frames(c);
	return c->state == OPEN && (size_t)n == size;
}

static void read_all(struct kata__ttrpc_client *c)
{
	for (unsigned i = 0; i < READS_PER_TURN && read_once(c); i++)
		;
}

/* ---- writing */

static void on_broken(void *user)
{
	struct kata__ttrpc_client *c = user;
	kata_error *reason = NULL;

	c->broken = NULL;
	client_ref(c);
	read_all(c);
	if (c->state == OPEN) {
		kata__error_set(&reason, KATA__BIRTH, KATA_E_GONE, KATA_ORIGIN_GUEST, c->send_errno,
				"agent: sending failed: %s", strerrordesc_np(c->send_errno));
		lose(c, reason);
	}
	client_unref(c);
}

/* Where even the timer cannot be made, the end is noticed by the watch, or by the deadline of the calls. */
static void break_soon(struct kata__ttrpc_client *c, int send_errno)
{
	if (c->broken)
		return;
	c->send_errno = send_errno;
	kata__watch_set_events(c->watch, EPOLLIN);
	kata__timer_add(c->loop, kata__now_ns(), on_broken, c, &c->broken, NULL);
}

/* Sends from the front of `b`. True: all of it has left. */
static bool send_buffer(struct kata__ttrpc_client *c, struct kata__buffer *b)
{
	while (kata__buffer_len(b)) {
		ssize_t n = send(c->fd, kata__buffer_bytes(b), kata__buffer_len(b), MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			/* ENOTCONN: a vsock that is still connecting. */
			if (errno != EAGAIN && errno != ENOTCONN)
				break_soon(c, errno);
			return false;
		}
		kata__buffer_consume(b, (size_t)n);
	}
	return true;
}

static void flush(struct kata__ttrpc_client *c)
{
	while (c->first && !c->broken) {
		size_t before = kata__buffer_len(&c->first->bytes);
		bool all = send_buffer(c, &c->first->bytes);

		c->queued -= before - kata__buffer_len(&c->first->bytes);
		if (!all)
			return;
		drop_first_frame(c);
	}
	if (!c->first)
		kata__watch_set_events(c->watch, EPOLLIN);
}

static void on_event(void *user, uint32_t events)
{
	struct kata__ttrpc_client *c = user;

	client_ref(c);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		read_all(c);
	if (c->state == OPEN && events & EPOLLOUT)
		flush(c);
	client_unref(c);
}

static int send_or_queue(struct kata__ttrpc_client *c, uint32_t id, kata_error **err)
{
	size_t length = kata__buffer_len(&c->scratch);
	int rc;

	if (!c->first && !c->broken && send_buffer(c, &c->scratch)) {
		if (c->scratch.alloc > KEEP_MAX)
			kata__buffer_deinit(&c->scratch);
		return 0;
	}
	if (c->broken) {
		kata__buffer_consume(&c->scratch, kata__buffer_len(&c->scratch));
		return 0;
	}
	rc = enqueue(c, id, length, err);
	if (rc && kata__buffer_len(&c->scratch) < length)
		break_soon(c, ENOMEM);
	if (rc)
		kata__buffer_consume(&c->scratch, kata__buffer_len(&c->scratch));
	return rc;
}

/* ---- the rest of the interface */

int kata__ttrpc_client_call(struct kata__ttrpc_client *c, const struct kata__ttrpc_call *call, kata__ttrpc_end_fn fn,
			    void *user, uint32_t *ret_id, kata_error **err)
{
	uint32_t id;
	int rc;

	if (c->state != OPEN) {
		kata_error *why = kata__error_dup(c->reason);

		return why ? kata__error_move(err, &why)
			   : kata__fail(err, KATA_E_CANCELLED, CALLER, "agent: the connection was closed by its owner");
	}
	if (c->queued > KATA__TTRPC_QUEUE_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, GUEST,
				  "agent: %zu bytes wait to be sent and the agent does not read, at most %u are kept",
				  c->queued, KATA__TTRPC_QUEUE_MAX);
	rc = reserve_id(c, err);
	if (rc)
		return rc;
	id = (uint32_t)c->next_id;
	rc = kata__ttrpc_append_request(&c->scratch, id, call, err);
	if (rc)
		return rc;
	rc = send_or_queue(c, id, err);
	if (rc)
		return rc;

	c->next_id += 2;
	*place_of(c, id) = (struct slot){.id = id, .fn = fn, .user = user};
	c->in_flight++;
	*ret_id = id;
	return 0;
}

void kata__ttrpc_client_cancel(struct kata__ttrpc_client *c, uint32_t id)
{
	struct slot *s = find_slot(c, id);

	if (!s)
		return;
	*s = (struct slot){0};
	c->in_flight--;
	unqueue(c, id);
}

void kata__ttrpc_client_set_lost(struct kata__ttrpc_client *c, kata__ttrpc_lost_fn lost, void *user)
{
	c->lost = lost;
	c->user = user;
}

uint64_t kata__ttrpc_client_get_next_id(const struct kata__ttrpc_client *c)
{
	return c->next_id;
}

const kata_error *kata__ttrpc_client_get_reason(const struct kata__ttrpc_client *c)
{
	return c->reason;
}

size_t kata__ttrpc_client_get_in_flight(const struct kata__ttrpc_client *c)
{
	return c->in_flight;
}

int kata__ttrpc_client_new(struct kata__loop *loop, int take_fd, uint32_t first_id, kata__ttrpc_lost_fn lost,
			   void *user, struct kata__ttrpc_client **ret, kata_error **err)
{
	struct kata__ttrpc_client *c = calloc(1, sizeof(*c));
	struct slot *slots = calloc(SLOTS_MIN, sizeof(*slots));
	int rc;

	if (!c || !slots) {
		free(c);
		free(slots);
		kata__close_fd(&take_fd);
		return kata__fail_no_memory(err);
	}
	*c = (struct kata__ttrpc_client){.loop = loop,
					 .refs = 1,
					 .fd = take_fd,
					 .lost = lost,
					 .user = user,
					 .slots = slots,
					 .slot_count = SLOTS_MIN,
					 .next_id = first_id,
					 .read_size = READ_MIN};
	kata__buffer_init(&c->in, IN_MAX);
	kata__buffer_init(&c->scratch, KATA__TTRPC_FRAME_MAX);
	rc = kata__watch_add(loop, take_fd, EPOLLIN, on_event, c, &c->watch, err);
	if (rc) {
		kata__ttrpc_client_free(c);
		return rc;
	}
	*ret = c;
	return 0;
}
