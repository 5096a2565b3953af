/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_SERVER_INTERNAL_H
#define KATA_FACTORY_SERVER_INTERNAL_H
/*
 * The inside of kata_factory_server: who is connected (server.c), and the operation that gives one client a machine
 * (serve.c).
 *
 *	connection: ASKED_NOTHING --request--> SERVED (an operation is at work) --> ANSWERED --> closed
 *
 * Invariants: 1. a connection has at most one operation, an operation at most one connection: each forgets the other
 *when it ends. 2. the server lives as long as an operation of it does.
 *
 * All [leader], but where it says otherwise.
 */
#include <pthread.h>
#include <stdatomic.h>

#include <kata/factory_server.h>

#include "factory/message.h"
#include "factory/pool.h"
#include "factory/wire.h"

struct kata__connection {
	struct kata__connection *next;
	kata_factory_server *server;
	struct kata__wire *wire;
	struct kata__timer *timer; /* until the request is there, and for the answer to be read */
	kata_op *serving;          /* borrowed: until its finish */
	bool answered;             /* with an error, or none: whatever comes then is not looked at */
};

struct kata_factory_server {
	uint32_t magic;
	atomic_uint refs; /* [any thread] */
	kata_context *ctx;
	kata_vm_builder *builder;
	struct kata__pool *pool; /* of the builder, where it is a cache; NULL */
	uint32_t *uids;
	size_t uid_count;
	uint32_t max_connections;
	uint64_t take_ms;

	char *path;
	int listen_fd, lock_fd;
	struct kata__watch *watch;
	struct kata__timer *rest; /* no fd is free for who connects: until it is tried again */
	struct kata__connection *connections;
	uint32_t serving; /* operations under way */
	bool closing;
	bool idle; /* closed, and nothing is left: set with release */

	pthread_mutex_t mutex; /* a leaf lock, for what follows */
	kata_factory_server_status status;
};

/* [any thread] */
kata_factory_server *kata__server_ref(kata_factory_server *server);
void kata__server_unref(kata_factory_server *server);

/* serve.c: begins to give the client a machine. Takes the request, also when it fails. */
int kata__serve_begin(struct kata__connection *connection, struct kata__take_request *take_request, kata_error **err);
/* The client says whether it has the machine; or it is gone (NULL: with its connection). */
void kata__serve_taken(kata_op *op, bool taken);
void kata__serve_lost(kata_op *op);

/* server.c, called by the operation: sends it; false: there is nobody any more. */
bool kata__connection_send(struct kata__connection *connection, const char *text, int fd);
/* The operation has ended: with an answer that is still to be read, or none. */
void kata__connection_served(kata_factory_server *server, struct kata__connection *connection, bool close);
#endif
