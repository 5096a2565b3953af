/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_context: the state directory, the loop, the log, the fail-points, and how many objects live.
 *
 * Invariants: 1. a context is freed only when no object made from it lives and the loop has run what those left
 * behind. 2. the state directory is ours: owned by our uid, writable by nobody else.
 */
#include "op/context.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/text.h"

#define CONTEXT_MAGIC 0x6b637478u
#define DEFAULT_WORKERS 4u
#define DEFAULT_OBJECTS 4096u
#define POINT_NAME_MAX 127u
#define SETTLE_TURNS 8

struct fail_point {
	struct fail_point *next;
	char name[POINT_NAME_MAX + 1];
	kata_fail_action action;
	uint64_t value;
	uint32_t skip, count;
	bool forever;
};

struct extra {
	struct extra *next;
	const char *key;
	void *value;
	void (*free_fn)(void *);
};

struct kata_context {
	uint32_t magic;
	char *state_dir, *cache_dir;
	kata_log_fn log;
	void *log_user;
	kata_log_level log_level;
	uint32_t max_objects;
	struct kata__loop *loop;
	struct kata__process_identity self;
	atomic_uint counts[KATA__OBJECT_KINDS];
	pthread_mutex_t lock; /* fail_points, extras; a leaf lock */
	_Atomic(struct fail_point *) fail_points;
	struct extra *extras;
};

static const char *const kind_names[KATA__OBJECT_KINDS] = {"VM",      "agent",       "sandbox", "operation",
							   "builder", "persistence", "snapshot"};

const char *kata_get_version(void)
{
	return "0.1.0";
}

/* ---- making ---- */

static int default_state_dir(char **ret, kata_error **err)
{
	const char *runtime = secure_getenv("XDG_RUNTIME_DIR");

	if (geteuid() == 0)
		*ret = kata__strdup("/run/kata");
	else if (runtime && runtime[0] == '/')
		*ret = kata__format("%s/kata", runtime);
	else
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "state_dir: is NULL and $XDG_RUNTIME_DIR is not set: name a directory of your own");
	return *ret ? 0 : kata__fail_no_memory(err);
}

static int check_state_dir(const char *dir, kata_error **err)
{
	KATA_AUTO_FD int fd = -1;
	struct stat st;
	int rc;

	if (dir[0] != '/')
		return kata__fail(err, KATA_E_INVALID, CALLER, "state_dir: '%s' is not an absolute path", dir);
	rc = kata__mkdirs(dir, 0700, err);
	if (rc)
		return kata__error_wrap(err, rc, "state_dir: cannot make '%s'", dir);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return kata__fail_errno(err, errno, "state_dir: cannot open '%s'", dir);
	if (st.st_uid != geteuid())
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "state_dir: '%s' belongs to uid %u, must belong to uid %u", dir, st.st_uid,
				  geteuid());
	if (st.st_mode & 022)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "state_dir: '%s' can be written by others (mode %04o), must not be: chmod go-w", dir,
				  st.st_mode & 07777);
	return 0;
}

static int check_options(const kata_context_options *o, kata_error **err)
{
	if (o->size != sizeof(*o))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "options.size: is %zu, must be %zu: use KATA_CONTEXT_OPTIONS_INIT", o->size,
				  sizeof(*o));
	if (o->flags & ~KATA_CONTEXT_EXTERNAL_LOOP)
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.flags: 0x%llx has unknown bits",
				  (unsigned long long)o->flags);
	if (o->max_workers > 256)
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.max_workers: is %u, must be at most 256",
				  o->max_workers);
	if (o->state_dir && strlen(o->state_dir) > 107)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "options.state_dir: has %zu bytes: unix socket paths below it must fit "
				  "into 107",
				  strlen(o->state_dir));
	return 0;
}

static int init_directories(kata_context *ctx, const kata_context_options *o, kata_error **err)
{
	int rc = 0;

	if (o->state_dir)
		ctx->state_dir = kata__strdup(o->state_dir);
	else
		rc = default_state_dir(&ctx->state_dir, err);
	if (rc)
		return rc;
	if (!ctx->state_dir)
		return kata__fail_no_memory(err);
	rc = check_state_dir(ctx->state_dir, err);
	if (rc)
		return rc;
	ctx->cache_dir = o->cache_dir ? kata__strdup(o->cache_dir) : kata__format("%s/cache", ctx->state_dir);
	return ctx->cache_dir ? 0 : kata__fail_no_memory(err);
}

static void context_free_memory(kata_context *ctx)
{
	kata__loop_free(ctx->loop);
	kata_context_clear_fail_point(ctx, NULL);
	while (ctx->extras) {
		struct extra *x = ctx->extras;

		ctx->extras = x->next;
		if (x->free_fn)
			x->free_fn(x->value);
		free(x);
	}
	pthread_mutex_destroy(&ctx->lock);
	free(ctx->state_dir);
	free(ctx->cache_dir);
	ctx->magic = 0;
	free(ctx);
}

int kata_context_new(const kata_context_options *options, kata_context **ret_context, kata_error **err)
{
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
	kata_context *ctx;
	int rc = 0;

	if (!ret_context)
		return kata__fail(err, KATA_E_INVALID, CALLER, "ret_context: is NULL");
	if (options) {
		rc = check_options(options, err);
		if (rc)
			return rc;
		o = *options;
	}
	ctx = calloc(1, sizeof(*ctx));
	if (!ctx)
		return kata__fail_no_memory(err);
	ctx->magic = CONTEXT_MAGIC;
	pthread_mutex_init(&ctx->lock, NULL);
	ctx->log = o.log;
	ctx->log_user = o.log_user;
	ctx->log_level = o.log_level;
	ctx->max_objects = o.max_objects ? o.max_objects : DEFAULT_OBJECTS;
	rc = init_directories(ctx, &o, err);
	if (!rc)
		rc = kata__process_identity_of(getpid(), &ctx->self, err);
	if (!rc)
		rc = kata__loop_new(o.flags & KATA_CONTEXT_EXTERNAL_LOOP,
				    o.max_workers ? o.max_workers : DEFAULT_WORKERS, &ctx->loop, err);
	if (rc) {
		context_free_memory(ctx);
		return rc;
	}
	*ret_context = ctx;
	return 0;
}

/* ---- freeing ---- */

struct barrier {
	struct kata__task task;
	struct kata__loop *loop;
	bool done;
};

static void barrier_run(struct kata__task *task)
{
	struct barrier *b = kata__container_of(task, struct barrier, task);
	struct kata__loop *loop = b->loop;

	__atomic_store_n(&b->done, true, __ATOMIC_RELEASE);
	kata__loop_wake_waiters(loop);
}

static bool anything_lives(kata_context *ctx)
{
	for (int i = 0; i < KATA__OBJECT_KINDS; i++)
		if (atomic_load(&ctx->counts[i]))
			return true;
	return false;
}

static void let_turn_pass(kata_context *ctx)
{
	struct barrier b = {.task.fn = barrier_run, .loop = ctx->loop};

	kata__loop_post(ctx->loop, &b.task);
	while (!kata__loop_wait(ctx->loop, &b.done, KATA__NEVER))
		;
}

/* What ended a moment ago may still be letting go of its objects on the leader: in the turn that is under way, or,
 * where an end posts the next (a cancelled call: its cancel, its end, its delivery), in one of the following. */
static void settle(kata_context *ctx)
{
	let_turn_pass(ctx);
	for (int i = 0; i < SETTLE_TURNS && anything_lives(ctx); i++)
		let_turn_pass(ctx);
}

static int refuse_while_alive(kata_context *ctx, kata_error **err)
{
	char text[200] = "";
	size_t at = 0;

	for (int i = 0; i < KATA__OBJECT_KINDS; i++) {
		unsigned n = atomic_load(&ctx->counts[i]);

		if (n && at < sizeof(text))
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%u %s%s", at ? ", " : "", n,
					       kind_names[i], n > 1 ? "s" : "");
	}
	return at ? kata__fail(err, KATA_E_BUSY, CALLER, "the context is in use by %s: free them first", text) : 0;
}

int kata_context_free(kata_context *context, kata_error **err)
{
	int rc;

	if (!context)
		return 0;
	rc = kata__context_check_may_block(context, "kata_context_free", err);
	if (rc)
		return rc;
	settle(context);
	rc = refuse_while_alive(context, err);
	if (rc)
		return rc;
	context_free_memory(context);
	return 0;
}

int kata__context_enter(kata_context *ctx, enum kata__object_kind kind, kata_error **err)
{
	unsigned n = atomic_fetch_add(&ctx->counts[kind], 1);

	if (n < ctx->max_objects || kind == KATA__OBJECT_OP)
		return 0;
	atomic_fetch_sub(&ctx->counts[kind], 1);
	return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "the context has %u %ss, its limit (max_objects)", n,
			  kind_names[kind]);
}

void kata__context_leave(kata_context *ctx, enum kata__object_kind kind)
{
	atomic_fetch_sub(&ctx->counts[kind], 1);
}

/* ---- getters, loop ---- */

int kata_context_get_fd(const kata_context *context)
{
	return kata__loop_get_fd(context->loop);
}

int kata_context_dispatch(kata_context *context, int timeout_ms, kata_error **err)
{
	if (!context)
		return kata__fail(err, KATA_E_INVALID, CALLER, "context: is NULL");
	return kata__loop_dispatch(context->loop, timeout_ms, err);
}

const char *kata_context_get_state_dir(const kata_context *context)
{
	return context->state_dir;
}

struct kata__loop *kata__context_loop(const kata_context *ctx)
{
	return ctx->loop;
}

const char *kata__context_cache_dir(const kata_context *ctx)
{
	return ctx->cache_dir;
}

const struct kata__process_identity *kata__context_self(const kata_context *ctx)
{
	return &ctx->self;
}

int kata__context_check_may_block(kata_context *ctx, const char *function, kata_error **err)
{
	if (!kata__loop_is_leader(ctx->loop))
		return 0;
	return kata__fail(err, KATA_E_STATE, CALLER,
			  "%s waits and was called from a callback of the library: use the _begin form", function);
}

void kata__log(kata_context *ctx, kata_log_level level, const char *subsystem, const char *fmt, ...)
{
	char *line;
	va_list ap;
	int n;

	if (!ctx->log || level > ctx->log_level)
		return;
	va_start(ap, fmt);
	n = vasprintf(&line, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	ctx->log(ctx->log_user, level, subsystem, line);
	free(line);
}

/* ---- fail-points ---- */

int kata_context_set_fail_point(kata_context *context, const char *name, kata_fail_action action, uint64_t value,
				uint32_t skip, uint32_t count, kata_error **err)
{
	struct fail_point *p;

	if (!context || !name || !strchr(name, ':') || strlen(name) > POINT_NAME_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "%s: must be \"operation/step:before\", \":after\" or \":undo\", of at most %u bytes",
				  context ? "name" : "context", POINT_NAME_MAX);
	if ((unsigned)action > KATA_FAIL_KILL)
		return kata__fail(err, KATA_E_INVALID, CALLER, "action: %d is unknown", (int)action);
	kata_context_clear_fail_point(context, name);
	p = calloc(1, sizeof(*p));
	if (!p)
		return kata__fail_no_memory(err);
	strncpy(p->name, name, POINT_NAME_MAX);
	p->action = action;
	p->value = value;
	p->skip = skip;
	p->count = count;
	p->forever = count == 0;
	pthread_mutex_lock(&context->lock);
	p->next = atomic_load(&context->fail_points);
	atomic_store(&context->fail_points, p);
	pthread_mutex_unlock(&context->lock);
	return 0;
}

void kata_context_clear_fail_point(kata_context *context, const char *name)
{
	struct fail_point *keep = NULL, *p;

	pthread_mutex_lock(&context->lock);
	p = atomic_load(&context->fail_points);
	while (p) {
		struct fail_point *next = p->next;

		if (name && strcmp(p->name, name) != 0) {
			p->next = keep;
			keep = p;
		} else {
			free(p);
		}
		p = next;
	}
	atomic_store(&context->fail_points, keep);
	pthread_mutex_unlock(&context->lock);
}

static bool is_named(const struct fail_point *p, const char *op, const char *step, const char *where)
{
	char name[POINT_NAME_MAX + 1];

	snprintf(name, sizeof(name), "%s/%s:%s", op, step, where);
	return strcmp(p->name, name) == 0 || strcmp(p->name, KATA_FAIL_ANYWHERE) == 0;
}

int kata__fail_point_pass(kata_context *ctx, const char *op, const char *step, const char *where, uint64_t *ret_value)
{
	int action = -1;

	if (!atomic_load_explicit(&ctx->fail_points, memory_order_acquire))
		return -1;
	pthread_mutex_lock(&ctx->lock);
	for (struct fail_point *p = atomic_load(&ctx->fail_points); p; p = p->next) {
		if (!is_named(p, op, step, where))
			continue;
		if (p->skip) {
			p->skip--;
		} else if (p->forever || p->count) {
			p->count -= !p->forever;
			action = (int)p->action;
			*ret_value = p->value;
		}
		break;
	}
	pthread_mutex_unlock(&ctx->lock);
	if (action == KATA_FAIL_KILL)
		kill(getpid(), SIGKILL);
	return action;
}

/* ---- extras ---- */

void *kata__context_get_extra(kata_context *ctx, const char *key)
{
	void *value = NULL;

	pthread_mutex_lock(&ctx->lock);
	for (struct extra *x = ctx->extras; x; x = x->next)
		if (strcmp(x->key, key) == 0)
			value = x->value;
	pthread_mutex_unlock(&ctx->lock);
	return value;
}

int kata__context_set_extra(kata_context *ctx, const char *key, void *value, void (*free_fn)(void *), kata_error **err)
{
	struct extra *x = calloc(1, sizeof(*x));

	if (!x)
		return kata__fail_no_memory(err);
	*x = (struct extra){.key = key, .value = value, .free_fn = free_fn};
	pthread_mutex_lock(&ctx->lock);
	x->next = ctx->extras;
	ctx->extras = x;
	pthread_mutex_unlock(&ctx->lock);
	return 0;
}
