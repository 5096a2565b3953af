/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_WIRE_H
#define KATA_FACTORY_WIRE_H
/*
 * A connection between a factory's server and a builder in another process: texts behind a length of four bytes, big
 * end first, and at most one fd with each.
 *
 * Model: what comes in is given to on_text, one whole text at a time; the end of the connection, for whatever reason,
 * to on_end, once and last. Both may free the wire. A peer cannot make it grow: a length above the cap ends it, as does
 * an fd too many. [leader]
 */
#include "base/loop.h"

struct kata__wire;

struct kata__wire_handler {
	/* The text is borrowed; the fd is the handler's, -1: none. */
	void (*on_text)(void *user, const char *text, size_t len, int take_fd);
	void (*on_end)(void *user, const kata_error *why);
};

/* Takes the fd on success. `max` bytes: the longest text that may come. */
int kata__wire_new(struct kata__loop *loop, int take_fd, size_t max, const struct kata__wire_handler *handler,
		   void *user, struct kata__wire **ret, kata_error **err);
void kata__wire_free(struct kata__wire *w); /* NULL is fine */
/* Sends, now and as the peer reads. The fd is borrowed until it returns; -1: none. GONE. */
int kata__wire_send(struct kata__wire *w, const char *text, int fd, kata_error **err);
/* The uid of the process that made the other end. */
int kata__wire_peer_uid(const struct kata__wire *w, uint32_t *ret_uid, kata_error **err);
#endif
