/* SPDX-License-Identifier: Apache-2.0 */
/*
 * remote.c - a builder whose machines come from a factory in another process.
 *
 *	connect, ask, compare-directory, take-over, claim-id, move, unmark, stock, confirm
 *
 * Once it is taken over the machine is this process's like any that it started; what fails behind that ends it. Until
 *the mark is gone it is stock, to recovery as to the server, which ends it when this process dies before its word.
 */
#include "factory/remote.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/options.h"
#include "base/text.h"
#include "factory/cache.h"
#include "factory/message.h"
#include "factory/wire.h"
#include "vm/builder.h"
#include "vm/warm.h"

#define TAKE_MS 30000u
#define UNDO_MS 15000u
#define TRIES_MAX 3 /* where somebody else is at the machine just now: recovery, looking */

struct remote {
	kata_context *ctx;
	kata_vm_builder *local;
	char *path;
	bool falls_back;
	uint64_t take_ms;
};

struct take {
	const struct remote *remote; /* it waits for us */
	struct kata__take_request request;
	struct kata__wire *wire;
	struct kata__take_reply reply;
	int dir_fd;  /* -1 */
	kata_op *op; /* borrowed, while the answer is waited for */
	uint64_t token;
	kata_vm *vm;
};

static struct take *take_of(const kata_op *op)
{
	return kata__op_data(op);
}

static int run_child(kata_op *op, int rc, kata_op *child, kata_error **err)
{
	return rc < 0 ? rc : kata__op_run_child(op, child, err);
}

/* ---- the server ---- */

static void answered(struct take *t, int status, kata_error *take_err)
{
	kata_op *op = kata__take_ptr(t->op);

	if (op)
		kata__op_resume(op, t->token, status, take_err);
	else
		kata_error_free(take_err);
}

static void on_text(void *user, const char *text, size_t len, int take_fd)
{
	struct take *t = user;
	kata_error *error = NULL;
	int rc;

	if (!t->op) { /* more than was asked for */
		kata__close_fd(&take_fd);
		return;
	}
	t->dir_fd = take_fd;
	rc = kata__take_reply_decode(text, len, &t->reply, &error);
	if (rc == 0 && t->reply.status < 0)
		rc = kata__fail(&error, t->reply.status, HOST, "the factory: %s", t->reply.message);
	answered(t, rc, error);
}

static void on_end(void *user, const kata_error *why)
{
	struct take *t = user;

	answered(t, (int)kata_error_get_status(why), kata__error_dup(why));
}

static const struct kata__wire_handler handler = {.on_text = on_text, .on_end = on_end};

static int check_server(const struct take *t, kata_error **err)
{
	uint32_t uid = 0;
	int rc = kata__wire_peer_uid(t->wire, &uid, err);

	if (rc == 0 && uid != geteuid())
		rc = kata__fail(err, KATA_E_PERMISSION, HOST,
				"the factory at %s is of uid %u, not of ours: nothing is taken from it",
				t->remote->path, uid);
	return rc;
}

static int undo_connect(kata_op *op, kata_error **err)
{
	kata__wire_free(kata__take_ptr(take_of(op)->wire));
	return KATA__STEP_DONE;
}

static int step_connect(kata_op *op, kata_error **err)
{
	struct take *t = take_of(op);
	int fd = -1, rc = kata__unix_connect(t->remote->path, &fd, err);

	if (rc < 0)
		return rc;
	rc = kata__wire_new(kata__context_loop(t->remote->ctx), fd, KATA__FACTORY_REPLY_MAX, &handler, t, &t->wire,
			    err);
	if (rc < 0) {
		close(fd);
		return rc;
	}
	rc = check_server(t, err);
	if (rc < 0)
		undo_connect(op, NULL);
	return rc;
}

static int step_ask(kata_op *op, kata_error **err)
{
	struct take *t = take_of(op);
	char *text = kata__take_request_encode(&t->request);
	int rc = text ? kata__wire_send(t->wire, text, -1, err) : kata__fail_no_memory(err);

	free(text);
	if (rc < 0)
		return rc;
	t->op = op;
	t->token = kata__op_token(op);
	return KATA__STEP_WAIT;
}

static void cancel_ask(kata_op *op)
{
	take_of(op)->op = NULL;
}

/* ---- the machine ---- */

static int read_id(const char *record, const char **ret_id, json_t **ret, kata_error **err)
{
	int rc = kata__json_parse("record", record, strlen(record), KATA__JSON_RECORD_MAX, ret, err);

	if (rc == 0)
		rc = kata__json_get_string(*ret, "record", "id", ret_id, err);
	return rc == 0 ? kata__id_check("record.id", *ret_id, err) : rc;
}

/* The directory that came along is the one that we find under the machine's id. */
static int step_compare_directory(kata_op *op, kata_error **err)
{
	struct take *t = take_of(op);
	KATA_AUTO_JSON json_t *record = NULL;
	KATA_AUTO(free) char *path = NULL;
	struct stat theirs, ours;
	const char *id = NULL;
	int rc = read_id(t->reply.record, &id, &record, err);

	if (rc < 0 || t->dir_fd < 0)
		return rc;
	path = kata__format("%s/vm/%s", kata_context_get_state_dir(t->remote->ctx), id);
	if (!path)
		return kata__fail_no_memory(err);
	if (fstat(t->dir_fd, &theirs) < 0)
		return kata__fail_errno(err, errno, "the machine's directory");
	if (lstat(path, &ours) == 0 && S_ISDIR(ours.st_mode) && ours.st_dev == theirs.st_dev &&
	    ours.st_ino == theirs.st_ino)
		return KATA__STEP_DONE;
	return kata__fail(
		err, KATA_E_UNSUPPORTED, CALLER,
		"%s is not the directory of the factory's machine: both contexts must use one state directory", path);
}

/* What the server has not sent is none: exact boots are the caller's affair. */
static int step_take_over(kata_op *op, kata_error **err)
{
	struct take *t = take_of(op);
	kata_op *child = NULL;
	int rc = kata_vm_builder_build_from_released_begin(t->remote->local, t->reply.record, strlen(t->reply.record),
							   NULL, &t->vm, &child, err);

	return run_child(op, rc, child, err);
}

static int undo_take_over(kata_op *op, kata_error **err)
{
	kata_op *child = NULL;
	int rc = kata_vm_destroy_begin(take_of(op)->vm, NULL, &child, err);

	return run_child(op, rc, child, err);
}

static int step_look_at_answer(kata_op *op, kata_error **err)
{
	struct take *t = take_of(op);

	if (t->reply.record)
		return KATA__STEP_DONE;
	kata__log(t->remote->ctx, KATA_LOG_DEBUG, "factory", "%s: %s", t->remote->path, t->reply.none);
	kata__op_skip_rest(op);
	return KATA__STEP_DONE;
}

static int step_claim_id(kata_op *op, kata_error **err)
{
	struct take *t = take_of(op);

	return t->request.keep_id ? KATA__STEP_DONE : kata__vm_claim_id(t->vm, t->request.config->v.id, err);
}

static int step_move(kata_op *op, kata_error **err)
{
	return kata__vm_move(take_of(op)->vm, err);
}

static int step_unmark(kata_op *op, kata_error **err)
{
	return kata__vm_unmark_pooled(take_of(op)->vm, err);
}

static int step_stock(kata_op *op, kata_error **err)
{
	struct take *t = take_of(op);
	int rc = kata__vm_stock(t->vm, t->reply.origin, err);

	if (rc == 0)
		kata__vm_set_identity_reset(t->vm, t->reply.reset);
	return rc;
}

/* The machine is ours, also when the server does not hear it any more. */
static int step_confirm(kata_op *op, kata_error **err)
{
	char *text = kata__taken_encode(true);

	if (text)
		kata__wire_send(take_of(op)->wire, text, -1, NULL);
	free(text);
	return KATA__STEP_DONE;
}

/* ---- the operation ---- */

static void finish_take(kata_op *op, int status, kata_error **error)
{
	struct take *t = take_of(op);

	kata__wire_free(kata__take_ptr(t->wire));
	kata__close_fd(&t->dir_fd);
	if (status < 0)
		kata_vm_unref(kata__take_ptr(t->vm));
}

static void free_take(void *data)
{
	struct take *t = data;

	kata__take_request_deinit(&t->request);
	kata__take_reply_deinit(&t->reply);
	kata_vm_unref(t->vm);
	free(t);
}

static const struct kata__step steps[] = {
	{.name = "connect", .run = step_connect, .undo = undo_connect},
	{.name = "ask", .run = step_ask, .cancel = cancel_ask},
	{.name = "look-at-answer", .run = step_look_at_answer},
	{.name = "compare-directory", .run = step_compare_directory, .flags = KATA__STEP_BLOCKING},
	{.name = "take-over", .run = step_take_over, .undo = undo_take_over},
	{.name = "claim-id", .run = step_claim_id},
	{.name = "move", .run = step_move},
	{.name = "unmark", .run = step_unmark},
	{.name = "stock", .run = step_stock},
	{.name = "confirm", .run = step_confirm},
};
const struct kata__op_table kata__remote_take_table = {
	.name = "remote-take",
	KATA__STEPS(steps),
	.timeout_ms = TAKE_MS,
	.undo_timeout_ms = UNDO_MS,
	.finish = finish_take,
	.free_data = free_take,
};

/* ---- the builder ---- */

/* Takes the wish. *ret_vm NULL: the server has none. */
static int take(const struct remote *r, const struct kata__pool_wish *wish, kata_vm **ret_vm, kata_error **err)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	struct take *t = calloc(1, sizeof(*t));
	kata_op *op = NULL;
	int rc;

	if (!t)
		return kata__fail_no_memory(err);
	*t = (struct take){.remote = r, .dir_fd = -1};
	t->request.keep_id = wish->keep_id;
	t->request.transport = wish->transport;
	rc = kata__vm_config_copy_new(&wish->config->v, &t->request.config, err);
	if (rc < 0) {
		free_take(t);
		return rc;
	}
	options.timeout_ms = r->take_ms;
	rc = kata__op_start(r->ctx, &kata__remote_take_table, t, &options, 1, &op, err);
	if (rc < 0)
		return rc;
	rc = kata_op_wait(op, err);
	if (rc == 0)
		*ret_vm = kata__take_ptr(t->vm);
	kata_op_unref(op);
	return rc;
}

static bool is_the_callers(int status)
{
	return status == KATA_E_EXISTS || status == KATA_E_INVALID || status == KATA_E_NO_MEMORY ||
	       status == KATA_E_CANCELLED;
}

static int take_or_none(const struct remote *r, const struct kata__pool_wish *wish, kata_vm **ret_vm, kata_error **err)
{
	kata_error *error = NULL;
	int rc = KATA_E_FENCED;

	for (int i = 0; i < TRIES_MAX && rc == KATA_E_FENCED; i++) {
		kata_error_free(kata__take_ptr(error));
		rc = take(r, wish, ret_vm, &error);
	}
	if (rc < 0 && (!r->falls_back || is_the_callers(rc)))
		return kata__error_move(err, &error);
	if (rc < 0)
		kata__log(r->ctx, KATA_LOG_WARNING, "factory", "%s: %s: an exact boot instead", r->path,
			  kata_error_get_message(error));
	kata_error_free(error);
	return 0;
}

static int remote_build(void *self, const kata_vm_config *config, const kata_agent_config *agent_config,
			const kata_qos_config *qos_config, kata_vm **ret_vm, kata_error **err)
{
	const struct remote *r = self;
	struct kata__pool_wish wish = {0};
	kata_vm *vm = NULL;
	int rc = kata__context_check_may_block(r->ctx, "kata_vm_builder_build of a remote builder", err);

	if (rc == 0 && kata__cache_wish(config, agent_config, qos_config, &wish, NULL) == 0)
		rc = take_or_none(r, &wish, &vm, err);
	kata__pool_wish_deinit(&wish);
	if (rc < 0)
		return rc;
	if (!vm)
		return kata_vm_builder_build(r->local, config, agent_config, qos_config, ret_vm, err);
	*ret_vm = vm;
	return 0;
}

static int remote_build_from_released(void *self, const char *json, size_t length, const kata_op_options *options,
				      kata_vm **ret_vm, kata_op **ret_op, kata_error **err)
{
	const struct remote *r = self;

	return kata_vm_builder_build_from_released_begin(r->local, json, length, options, ret_vm, ret_op, err);
}

static int remote_build_from_snapshot(void *self, const kata_snapshot *snapshot, const kata_vm_config *config,
				      const kata_agent_config *agent_config, const kata_qos_config *qos_config,
				      const kata_restore_options *options, kata_vm **ret_vm, kata_error **err)
{
	const struct remote *r = self;

	return kata_vm_builder_build_from_snapshot(r->local, snapshot, config, agent_config, qos_config, options,
						   ret_vm, err);
}

static int remote_get_capabilities(void *self, kata_capabilities *ret_capabilities, kata_error **err)
{
	const struct remote *r = self;

	return kata_vm_builder_get_capabilities(r->local, ret_capabilities, err);
}

static void remote_free(void *self)
{
	struct remote *r = self;

	free(r->path);
	free(r);
}

static const kata_vm_builder_ops remote_ops = {
	.size = sizeof(kata_vm_builder_ops),
	.name = "remote",
	.build = remote_build,
	.build_from_released = remote_build_from_released,
	.get_capabilities = remote_get_capabilities,
	.free = remote_free,
	.build_from_snapshot = remote_build_from_snapshot,
};

static int check_options(const kata_remote_options *o, kata_error **err)
{
	if (!o->socket_path || o->socket_path[0] != '/' || strlen(o->socket_path) > 107)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "options.socket_path: %s, must be an absolute path of at most 107 bytes",
				  o->socket_path ? o->socket_path : "is NULL");
	if (o->flags & ~KATA_REMOTE_FALL_BACK)
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.flags: 0x%llx has unknown bits",
				  (unsigned long long)o->flags);
	return 0;
}

static int check_arguments(const kata_context *context, const kata_vm_builder *local, kata_vm_builder **ret,
			   kata_error **err)
{
	if (!context || !local || !ret)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL",
				  !context ? "context"
				  : !local ? "local"
					   : "ret_builder");
	if (kata__vm_builder_context(local) != context)
		return kata__fail(err, KATA_E_INVALID, CALLER, "local: is a builder of another context");
	return 0;
}

int kata_vm_builder_new_remote(kata_context *context, kata_vm_builder *local, const kata_remote_options *options,
			       kata_vm_builder **ret_builder, kata_error **err)
{
	kata_remote_options o = KATA_REMOTE_OPTIONS_INIT;
	struct remote *r;
	int rc = check_arguments(context, local, ret_builder, err);

	if (rc == 0)
		rc = kata__options_read(&o, sizeof(o), options, "options", err);
	if (rc == 0)
		rc = check_options(&o, err);
	if (rc < 0)
		return rc;
	r = calloc(1, sizeof(*r));
	if (!r)
		return kata__fail_no_memory(err);
	*r = (struct remote){.ctx = context,
			     .local = local,
			     .path = kata__strdup(o.socket_path),
			     .falls_back = o.flags & KATA_REMOTE_FALL_BACK,
			     .take_ms = o.take_ms ? o.take_ms : TAKE_MS};
	rc = r->path ? kata_vm_builder_new(context, &remote_ops, r, ret_builder, err) : kata__fail_no_memory(err);
	if (rc < 0)
		remote_free(r);
	return rc;
}
