/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve.c - a client gets a machine.
 *
 *	look, take, [start, pause, mark: where the builder is no cache], stand-by, release, offer
 *
 * From the release to the client's word the machine has no owner but a mark that says whose stock it is; so recovery
 * leaves it alone while this process lives, and ends it afterwards. When the word does not come, stand-by's undo ends
 *it: by what lies in its directory, as it may be with the client's dead process by then, under the client's name for
 *it. A client that lives and has taken it over keeps it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "factory/cache.h"
#include "factory/remote.h"
#include "factory/server.h"
#include "vm/recover.h"
#include "vm/warm.h"

#define UNDO_MS 30000u
#define END_MS 10000u      /* for a VMM that was killed */
#define CLIENT_END_MS 2000 /* for a client that has gone to be dead; one that lives keeps what it has */
#define BUSY_TRIES 50
#define BUSY_NS 20000000

struct serve {
	kata_factory_server *server;         /* referenced */
	struct kata__connection *connection; /* NULL: gone */
	struct kata__take_request request;
	struct kata__pool_wish wish;
	kata_op *taking; /* the pool's; referenced */
	kata_vm *vm;
	kata_vm *back; /* one without files, taken back */
	char id[65], uuid[37];
	char *record;
	bool has_files;
	uint64_t token; /* of the offer */
	bool offered;
	bool ended; /* after the client did not take it over */
};

static struct serve *serve_of(const kata_op *op)
{
	return kata__op_data(op);
}

static int run_child(kata_op *op, int rc, kata_op *child, kata_error **err)
{
	return rc < 0 ? rc : kata__op_run_child(op, child, err);
}

/* ---- a machine ---- */

static int step_look(kata_op *op, kata_error **err)
{
	struct serve *s = serve_of(op);
	kata_agent_config agent = KATA_AGENT_CONFIG_INIT;
	kata_vm_config config = s->request.config->v;
	int rc;

	agent.transport = s->request.transport;
	if (s->request.keep_id || !s->server->pool)
		config.id = NULL;
	if (!s->server->pool)
		return kata_vm_builder_build(s->server->builder, &config, &agent, NULL, &s->vm, err);
	rc = kata__cache_wish(&config, &agent, NULL, &s->wish, err);
	s->wish.transfer = true;
	return rc;
}

static int step_take(kata_op *op, kata_error **err)
{
	struct serve *s = serve_of(op);
	int rc;

	if (!s->server->pool)
		return KATA__STEP_DONE;
	rc = kata__pool_take_begin(s->server->pool, &s->wish, NULL, &s->taking, err);
	return rc < 0 ? rc : kata__op_run_child(op, kata_op_ref(s->taking), err);
}

static int undo_take(kata_op *op, kata_error **err)
{
	struct serve *s = serve_of(op);
	kata_vm *vm = s->back ? s->back : s->vm;
	kata_op *child = NULL;
	int rc;

	if (!vm && s->taking) { /* cancelled after it had succeeded */
		s->vm = kata__pool_take_result(s->taking);
		vm = s->vm;
	}
	if (!vm || kata_vm_get_state(vm) == KATA_VM_RELEASED)
		return KATA__STEP_DONE;
	rc = kata_vm_destroy_begin(vm, NULL, &child, err);
	return run_child(op, rc, child, err);
}

/* ---- none, or one that is not running yet ---- */

static int say_none(kata_op *op)
{
	struct kata__take_reply reply = {.none = (char *)"the factory has none ready"};
	struct serve *s = serve_of(op);
	char *text = kata__take_reply_encode(&reply);

	if (text)
		kata__connection_send(s->connection, text, -1);
	free(text);
	kata__op_skip_rest(op);
	return KATA__STEP_DONE;
}

static int step_start(kata_op *op, kata_error **err)
{
	struct serve *s = serve_of(op);
	kata_op *child = NULL;
	int rc;

	if (s->taking) {
		s->vm = kata__pool_take_result(s->taking);
		return s->vm ? KATA__STEP_DONE : say_none(op);
	}
	rc = kata_vm_start_begin(s->vm, NULL, &child, err);
	return run_child(op, rc, child, err);
}

static int step_pause(kata_op *op, kata_error **err)
{
	kata_op *child = NULL;
	int rc = kata_vm_pause_begin(serve_of(op)->vm, NULL, &child, err);

	return run_child(op, rc, child, err);
}

static int step_mark(kata_op *op, kata_error **err)
{
	return kata__vm_mark_pooled(serve_of(op)->vm, err);
}

/* ---- on its way ---- */

static void count_on_their_way(const struct serve *s, int change)
{
	pthread_mutex_lock(&s->server->mutex);
	s->server->status.on_their_way += (uint32_t)change;
	pthread_mutex_unlock(&s->server->mutex);
}

static int step_stand_by(kata_op *op, kata_error **err)
{
	struct serve *s = serve_of(op);

	s->has_files = s->vm->dir != NULL;
	snprintf(s->id, sizeof(s->id), "%s", kata_vm_get_id(s->vm));
	snprintf(s->uuid, sizeof(s->uuid), "%s", kata_vm_get_uuid(s->vm));
	count_on_their_way(s, 1);
	return KATA__STEP_DONE;
}

/* Somebody who is at it just now holds it for a moment. */
static int open_leftover(const struct serve *s, const char *id, struct kata__leftover *ret, kata_error **err)
{
	const char *state_dir = kata_context_get_state_dir(s->server->ctx);
	kata_error *error = NULL;
	int rc = KATA_E_BUSY;

	for (int i = 0; i < BUSY_TRIES && rc == KATA_E_BUSY; i++) {
		kata_error_free(kata__take_ptr(error));
		if (i)
			nanosleep(&(struct timespec){.tv_nsec = BUSY_NS}, NULL);
		rc = kata__leftover_open(state_dir, id, kata__deadline_in_ms(KATA__LEFTOVER_GRACE_MS), ret, &error);
	}
	return rc < 0 ? kata__error_move(err, &error) : 0;
}

/* The connections of a process that was killed close before it has ended. True: it has, now. */
static bool await_end_of(const struct kata__owner *owner)
{
	struct pollfd p = {.events = POLLIN};
	KATA_AUTO_FD int fd = -1;
	int n;

	if (kata__process_open(&owner->process, &fd, NULL) < 0)
		return true;
	p.fd = fd;
	do
		n = poll(&p, 1, CLIENT_END_MS);
	while (n < 0 && errno == EINTR);
	return n > 0;
}

static bool is_ours_to_end(const struct serve *s, const struct kata__leftover *l)
{
	return l->has_owner && strcmp(l->owner.vm_uuid, s->uuid) == 0;
}

static int end_leftover(struct serve *s, struct kata__leftover *l, kata_error **err)
{
	int rc;

	if (!is_ours_to_end(s, l) || l->owner_lives)
		return 0;
	s->ended = true;
	rc = kata__leftover_kill(l, err);
	return rc < 0 ? rc : kata__leftover_remove(l, kata__deadline_in_ms(END_MS), err);
}

/* Not there under this name (any more): fine. */
static int end_under(struct serve *s, const char *id, kata_error **err)
{
	struct kata__leftover l;
	kata_error *error = NULL;
	int rc = open_leftover(s, id, &l, &error);

	if (rc == 0 && is_ours_to_end(s, &l) && l.owner_lives && await_end_of(&l.owner)) {
		kata__leftover_close(&l);
		rc = open_leftover(s, id, &l, &error);
	}
	if (rc == KATA_E_NOT_FOUND) {
		kata_error_free(error);
		return 0;
	}
	if (rc < 0)
		return kata__error_move(err, &error);
	rc = end_leftover(s, &l, err);
	kata__leftover_close(&l);
	return rc;
}

/* [worker] */
static int undo_stand_by(kata_op *op, kata_error **err)
{
	struct serve *s = serve_of(op);
	const char *wanted = s->request.keep_id ? s->id : s->request.config->v.id;
	int rc;

	if (!s->has_files || kata_vm_get_state(s->vm) != KATA_VM_RELEASED)
		return KATA__STEP_DONE;
	rc = end_under(s, s->id, err);
	return rc == 0 && strcmp(wanted, s->id) != 0 ? end_under(s, wanted, err) : rc;
}

static int step_release(kata_op *op, kata_error **err)
{
	kata_op *child = NULL;
	int rc = kata_vm_release_begin(serve_of(op)->vm, NULL, &child, err);

	return run_child(op, rc, child, err);
}

/* One without files can be ended by nobody but this process: it is taken back, and ended like another. */
static int undo_release(kata_op *op, kata_error **err)
{
	struct serve *s = serve_of(op);
	kata_op *child = NULL;
	int rc = s->has_files || s->record ? 0 : kata_vm_dump(s->vm, &s->record, err);

	if (rc < 0 || s->has_files)
		return rc;
	s->ended = true;
	rc = kata_vm_builder_build_from_released_begin(s->server->builder, s->record, strlen(s->record), NULL, &s->back,
						       &child, err);
	return run_child(op, rc, child, err);
}

static int offer(struct serve *s, int dir_fd, kata_error **err)
{
	struct kata__take_reply reply = {.record = s->record,
					 .origin = s->server->pool ? KATA_VM_WARM : kata_vm_get_origin(s->vm),
					 .reset = kata_vm_get_identity_reset(s->vm)};
	char *text = kata__take_reply_encode(&reply);
	bool sent = text && kata__connection_send(s->connection, text, dir_fd);

	free(text);
	if (!text)
		return kata__fail_no_memory(err);
	return sent ? 0 : kata__fail(err, KATA_E_GONE, HOST, "the client has gone");
}

static int step_offer(kata_op *op, kata_error **err)
{
	struct serve *s = serve_of(op);
	KATA_AUTO_FD int fd = -1;
	int rc = kata_vm_dump(s->vm, &s->record, err);

	if (rc < 0)
		return rc;
	fd = s->vm->dir ? open(s->vm->dir, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) : -1;
	rc = offer(s, fd, err);
	if (rc < 0)
		return rc;
	s->token = kata__op_token(op);
	s->offered = true;
	return KATA__STEP_WAIT;
}

void kata__serve_taken(kata_op *op, bool taken)
{
	struct serve *s = serve_of(op);
	kata_error *error = NULL;

	if (!s->offered) {
		kata__serve_lost(op); /* it answers what was not asked */
		return;
	}
	if (!taken)
		kata__fail(&error, KATA_E_GONE, HOST, "the client could not take the machine over");
	kata__op_resume(op, s->token, taken ? 0 : KATA_E_GONE, error);
}

void kata__serve_lost(kata_op *op)
{
	serve_of(op)->connection = NULL;
	kata_op_cancel(op);
}

/* ---- the end ---- */

static void tell(struct serve *s, const kata_error *error)
{
	struct kata__take_reply reply = {.status = (int)kata_error_get_status(error),
					 .message = (char *)(uintptr_t)kata_error_get_message(error)};
	char *text = kata__take_reply_encode(&reply);

	if (text)
		kata__connection_send(s->connection, text, -1);
	free(text);
}

static void count_end(const struct serve *s, int status)
{
	kata_factory_server_status *status_of = &s->server->status;

	pthread_mutex_lock(&s->server->mutex);
	status_of->on_their_way -= s->uuid[0] ? 1 : 0;
	status_of->handed_over += s->offered && !s->ended; /* also when its word did not come through */
	status_of->taken_back += s->offered && s->ended;
	status_of->none += status == 0 && !s->offered;
	status_of->failed += status < 0 && !s->offered;
	pthread_mutex_unlock(&s->server->mutex);
}

static void finish_serve(kata_op *op, int status, kata_error **error)
{
	struct serve *s = serve_of(op);

	count_end(s, status);
	if (status < 0 && !s->offered)
		tell(s, *error);
	kata_op_unref(kata__take_ptr(s->taking));
	kata_vm_unref(kata__take_ptr(s->vm));
	kata_vm_unref(kata__take_ptr(s->back));
	kata__connection_served(s->server, s->connection, s->offered);
	s->connection = NULL;
}

static void free_serve(void *data)
{
	struct serve *s = data;

	kata__take_request_deinit(&s->request);
	kata__pool_wish_deinit(&s->wish);
	kata_op_unref(s->taking);
	kata_vm_unref(s->vm);
	kata_vm_unref(s->back);
	free(s->record);
	kata__server_unref(s->server);
	free(s);
}

static const struct kata__step cache_steps[] = {
	{.name = "look", .run = step_look, .flags = KATA__STEP_BLOCKING},
	{.name = "take", .run = step_take, .undo = undo_take},
	{.name = "receive", .run = step_start},
	{.name = "stand-by", .run = step_stand_by, .undo = undo_stand_by, .flags = KATA__STEP_UNDO_BLOCKING},
	{.name = "release", .run = step_release, .undo = undo_release},
	{.name = "offer", .run = step_offer},
};
/* Where the builder is no cache. */
static const struct kata__step other_steps[] = {
	{.name = "build", .run = step_look, .undo = undo_take, .flags = KATA__STEP_BLOCKING},
	{.name = "start", .run = step_start},
	{.name = "pause", .run = step_pause},
	{.name = "mark", .run = step_mark, .flags = KATA__STEP_BLOCKING},
	{.name = "stand-by", .run = step_stand_by, .undo = undo_stand_by, .flags = KATA__STEP_UNDO_BLOCKING},
	{.name = "release", .run = step_release, .undo = undo_release},
	{.name = "offer", .run = step_offer},
};
const struct kata__op_table kata__serve_table = {
	.name = "factory-serve",
	KATA__STEPS(cache_steps),
	.timeout_ms = 30000,
	.undo_timeout_ms = UNDO_MS,
	.finish = finish_serve,
	.free_data = free_serve,
};
const struct kata__op_table kata__serve_other_table = {
	.name = "factory-serve-other",
	KATA__STEPS(other_steps),
	.timeout_ms = 30000,
	.undo_timeout_ms = UNDO_MS,
	.finish = finish_serve,
	.free_data = free_serve,
};

int kata__serve_begin(struct kata__connection *connection, struct kata__take_request *take_request, kata_error **err)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	kata_factory_server *server = connection->server;
	struct serve *s = calloc(1, sizeof(*s));
	kata_op *op = NULL;
	int rc;

	if (!s) {
		kata__take_request_deinit(take_request);
		return kata__fail_no_memory(err);
	}
	s->server = kata__server_ref(server);
	s->connection = connection;
	s->request = *take_request;
	*take_request = (struct kata__take_request){0};
	options.timeout_ms = server->take_ms;
	rc = kata__op_new(server->ctx, server->pool ? &kata__serve_table : &kata__serve_other_table, s, &options, 1,
			  &op, err);
	if (rc < 0)
		return rc;
	connection->serving = op;
	server->serving++;
	kata__op_begin(op);
	kata_op_unref(op);
	return 0;
}
