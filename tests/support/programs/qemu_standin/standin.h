/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_STANDIN_STANDIN_H
#define KATA_TESTS_STANDIN_STANDIN_H
/* The process: one machine, three sockets (monitor, console, agent's port), one poll loop. See qemu_standin.c. */
#include <poll.h>

#include "base/buffer.h"
#include "qemu_standin/model.h"
#include "qemu_standin/script.h"

/* A socket of the command line: a listener with at most one peer, or a connected socket. */
struct endpoint {
	int listen_fd; /* -1: none (a connected socket was passed) */
	int fd;        /* -1: nobody is connected */
	struct kata__buffer out;
};

struct monitor;
struct port;

/* What has been asked for of the machine's state (migration.c). */
struct migration {
	int fd;
	bool events, ignore_shared; /* capabilities */
	bool pending;               /* asked for; it happens once the reply is out */
	bool cancelled;
	bool unfinished;    /* for a moment after its end the machine may not run on */
	const char *status; /* of the last one; NULL: there was none */
	char why[256];
};

struct standin {
	struct model model;
	struct migration migration;
	struct rule *rules;
	struct monitor *monitor;
	struct port *port;
	struct endpoint console;
	bool mute;        /* answers nobody, on no socket */
	bool borrows;     /* does not listen itself: its sockets name its starter as their listener */
	bool powered_off; /* by the guest: ends once everything is sent */
};

void endpoint_init(struct endpoint *e);
/* Accepts when nobody is connected. True when somebody is now that was not before. */
bool endpoint_accept(struct endpoint *e);
void endpoint_close(struct endpoint *e);
void endpoint_put(struct endpoint *e, const void *data, size_t length);
/* Sends what it can. False when the peer is gone (the endpoint is closed then). */
bool endpoint_flush(struct endpoint *e);
/* For poll(): the listener while nobody is connected, else the peer; fd -1 when there is neither. */
struct pollfd endpoint_poll(const struct endpoint *e, bool may_read);
void console_print(struct standin *s, const char *text);

/* The monitor (QMP). */
void monitor_new(struct standin *s, int fd, bool listening);
struct pollfd monitor_poll(const struct standin *s);
void monitor_serve(struct standin *s, short revents);
uint64_t monitor_deadline(const struct standin *s); /* ns, KATA__NEVER */
void monitor_event(struct standin *s, const char *name, json_t *take_data);
bool monitor_is_idle(const struct standin *s); /* nothing left to send */

/* The state. */
json_t *migration_set_capabilities(struct standin *s, const json_t *args, struct refusal *why);
json_t *migration_begin(struct standin *s, const json_t *args, struct refusal *why);
json_t *migration_incoming(struct standin *s, const json_t *args, struct refusal *why);
json_t *migration_cancel(struct standin *s, const json_t *args, struct refusal *why);
json_t *migration_query(struct standin *s, const json_t *args, struct refusal *why);
void migration_run(struct standin *s);
bool migration_may_continue(struct standin *s, struct refusal *why); /* cont: false with *why */

/* The agent's port. */
void port_new(struct standin *s, int fd, bool listening);
struct pollfd port_poll(const struct standin *s);
void port_serve(struct standin *s, short revents);
uint64_t port_deadline(const struct standin *s);
void port_machine_changed(struct standin *s); /* it runs, stops, has another device */
bool port_is_idle(const struct standin *s);
#endif
