/* SPDX-License-Identifier: Apache-2.0 */
/* See server.h. The socket, who connects to it, and the public functions. */
#include "factory/server.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/fd.h"
#include "base/options.h"
#include "base/text.h"
#include "factory/cache.h"
#include "vm/builder.h"

#define SERVER_MAGIC 0x4b465331u
#define CONNECTIONS_DEFAULT 64u
#define CONNECTIONS_MAX 4096u
#define UIDS_MAX 1024u
#define TAKE_MS 30000u
#define LOCK_TRIES 16
#define LOCK_WAIT_NS 1000000L
#define PATIENCE_MS 5000u /* for a request, and for an answer to be read */
#define REST_MS 100u

/* ---- life ---- */

kata_factory_server *kata__server_ref(kata_factory_server *server)
{
	atomic_fetch_add_explicit(&server->refs, 1, memory_order_relaxed);
	return server;
}

void kata__server_unref(kata_factory_server *s)
{
	if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	pthread_mutex_destroy(&s->mutex);
	free(s->uids);
	free(s->path);
	s->magic = 0;
	free(s);
}

static void count(kata_factory_server *s, uint64_t *counter)
{
	pthread_mutex_lock(&s->mutex);
	++*counter;
	pthread_mutex_unlock(&s->mutex);
}

/* ---- connections ---- */

static void look_whether_idle(kata_factory_server *s)
{
	if (!s->closing || s->serving || s->connections)
		return;
	__atomic_store_n(&s->idle, true, __ATOMIC_RELEASE);
	kata__loop_wake_waiters(kata__context_loop(s->ctx));
}

static uint32_t count_connections(const kata_factory_server *s)
{
	uint32_t n = 0;

	for (const struct kata__connection *c = s->connections; c; c = c->next)
		n++;
	return n;
}

/* Who comes when there are too many waits. */
static void admit(kata_factory_server *s)
{
	uint32_t n = count_connections(s);

	pthread_mutex_lock(&s->mutex);
	s->status.connections = n;
	pthread_mutex_unlock(&s->mutex);
	if (s->watch)
		kata__watch_set_events(s->watch, n < s->max_connections ? EPOLLIN : 0);
}

static void close_connection(struct kata__connection *c)
{
	kata_factory_server *s = c->server;
	struct kata__connection **at = &s->connections;
	kata_op *serving = kata__take_ptr(c->serving);

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	kata__timer_remove(c->timer);
	kata__wire_free(c->wire);
	free(c);
	if (serving)
		kata__serve_lost(serving);
	admit(s);
	look_whether_idle(s);
}

static void on_patience_over(void *user)
{
	struct kata__connection *c = user;

	c->timer = NULL;
	close_connection(c);
}

static void be_patient(struct kata__connection *c)
{
	kata__timer_remove(kata__take_ptr(c->timer));
	if (kata__timer_add(kata__context_loop(c->server->ctx), kata__deadline_in_ms(PATIENCE_MS), on_patience_over, c,
			    &c->timer, NULL) < 0)
		close_connection(c);
}

static char *error_text(const kata_error *error)
{
	const struct kata__take_reply reply = {.status = (int)kata_error_get_status(error),
					       .message = (char *)(uintptr_t)kata_error_get_message(error)};

	return kata__take_reply_encode(&reply);
}

static void answer_error(struct kata__connection *c, const kata_error *error)
{
	char *text = error_text(error);

	c->answered = true;
	if (text && kata__wire_send(c->wire, text, -1, NULL) == 0)
		be_patient(c);
	else
		close_connection(c);
	free(text);
}

static void begin(struct kata__connection *c, const char *text, size_t len)
{
	struct kata__take_request request = {0};
	kata_error *error = NULL;
	int rc = kata__take_request_decode(text, len, &request, &error);

	if (rc == 0) {
		kata__timer_remove(kata__take_ptr(c->timer));
		rc = kata__serve_begin(c, &request, &error);
	}
	if (rc < 0) {
		count(c->server, &c->server->status.failed);
		answer_error(c, error);
	}
	kata_error_free(error);
}

static void on_text(void *user, const char *text, size_t len, int take_fd)
{
	struct kata__connection *c = user;
	bool taken = false;

	kata__close_fd(&take_fd); /* a client has none to give */
	if (c->answered)
		return;
	if (!c->serving)
		begin(c, text, len);
	else if (kata__taken_decode(text, len, &taken, NULL) == 0)
		kata__serve_taken(c->serving, taken);
	else
		close_connection(c);
}

static void on_end(void *user, const kata_error *why)
{
	close_connection(user);
}

static const struct kata__wire_handler handler = {.on_text = on_text, .on_end = on_end};

bool kata__connection_send(struct kata__connection *c, const char *text, int fd)
{
	return c && kata__wire_send(c->wire, text, fd, NULL) == 0;
}

void kata__connection_served(kata_factory_server *s, struct kata__connection *c, bool close)
{
	s->serving--;
	if (c) {
		c->serving = NULL;
		c->answered = true;
	}
	if (c && close)
		close_connection(c);
	else if (c)
		be_patient(c);
	look_whether_idle(s);
}

/* ---- the socket ---- */

static bool may_take(const kata_factory_server *s, uint32_t uid)
{
	if (!s->uid_count)
		return uid == geteuid();
	for (size_t i = 0; i < s->uid_count; i++)
		if (s->uids[i] == uid)
			return true;
	return false;
}

/* Who may take nothing does not stay connected: he would keep others out. What was sent he can read all the same. */
static void refuse(struct kata__connection *c, kata_error *take_error)
{
	char *text = error_text(take_error);

	count(c->server, &c->server->status.refused);
	if (text)
		kata__wire_send(c->wire, text, -1, NULL);
	free(text);
	kata_error_free(take_error);
	close_connection(c);
}

static void check_peer(struct kata__connection *c)
{
	kata_error *error = NULL;
	uint32_t uid = 0;

	if (kata__wire_peer_uid(c->wire, &uid, &error) == 0 && !may_take(c->server, uid))
		kata__fail(&error, KATA_E_PERMISSION, CALLER, "the factory gives nothing to uid %u", uid);
	if (error)
		refuse(c, error);
	else
		be_patient(c);
}

static void take_in(kata_factory_server *s, int take_fd)
{
	struct kata__connection *c = calloc(1, sizeof(*c));

	if (!c || kata__wire_new(kata__context_loop(s->ctx), take_fd, KATA__FACTORY_REQUEST_MAX, &handler, c, &c->wire,
				 NULL) < 0) {
		free(c);
		close(take_fd);
		return;
	}
	c->server = s;
	c->next = s->connections;
	s->connections = c;
	admit(s);
	check_peer(c);
}

static void rested(void *user)
{
	kata_factory_server *s = user;

	s->rest = NULL;
	admit(s);
}

/* Who cannot be accepted, as no fd is free, stays in the queue, and would be told of again at once. */
static void on_connect(void *user, uint32_t events)
{
	kata_factory_server *s = user;
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0)
		take_in(s, fd);
	else if (errno != EAGAIN && !s->rest &&
		 kata__timer_add(kata__context_loop(s->ctx), kata__deadline_in_ms(REST_MS), rested, s, &s->rest,
				 NULL) == 0)
		kata__watch_set_events(s->watch, 0);
}

static int check_directory(const char *dir, kata_error **err)
{
	struct stat st;

	if (stat(dir, &st) < 0)
		return kata__fail_errno(err, errno, "options.socket_path: its directory %s", dir);
	if ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022 && !(st.st_mode & S_ISVTX)))
		return kata__fail(
			err, KATA_E_PERMISSION, CALLER,
			"options.socket_path: %s belongs to uid %u with mode %04o: it must be ours or root's, "
			"and not writable by others",
			dir, st.st_uid, (unsigned)(st.st_mode & 07777));
	return 0;
}

/* Recovery looks whether it is held, by holding it for a moment. */
static bool lock_soon(int fd)
{
	for (int i = 0; i < LOCK_TRIES; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return true;
		if (errno != EWOULDBLOCK)
			return false;
		nanosleep(&(struct timespec){.tv_nsec = LOCK_WAIT_NS}, NULL);
	}
	errno = EWOULDBLOCK;
	return false;
}

/* 1: locked, and it is still the file of that name; 0: not. */
static int try_lock(const char *lock, int *ret_fd, kata_error **err)
{
	KATA_AUTO_FD int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct stat ours, there;

	if (fd < 0)
		return kata__fail_errno(err, errno, "cannot make %s", lock);
	if (!lock_soon(fd))
		return errno == EWOULDBLOCK
			       ? kata__fail(err, KATA_E_EXISTS, CALLER,
					    "options.socket_path: a factory serves there already (%s)", lock)
			       : kata__fail_errno(err, errno, "cannot lock %s", lock);
	if (fstat(fd, &ours) < 0 || lstat(lock, &there) < 0 || ours.st_ino != there.st_ino ||
	    ours.st_dev != there.st_dev)
		return 0;
	*ret_fd = kata__take_fd(&fd);
	return 1;
}

/* Held as long as we serve: so what else lies at that name is left from a server that is dead. */
static int lock_path(kata_factory_server *s, kata_error **err)
{
	KATA_AUTO(free) char *lock = kata__format("%s.lock", s->path);
	int rc = 0;

	if (!lock)
		return kata__fail_no_memory(err);
	for (int i = 0; i < LOCK_TRIES && rc == 0; i++) /* who had it may just be removing it */
		rc = try_lock(lock, &s->lock_fd, err);
	if (rc == 0)
		return kata__fail(err, KATA_E_BUSY, HOST, "%s comes and goes", lock);
	return rc < 0 ? rc : 0;
}

static int remove_left_socket(const char *path, kata_error **err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return kata__fail(err, KATA_E_EXISTS, CALLER, "options.socket_path: %s is there and no socket", path);
	return unlink(path) < 0 ? kata__fail_errno(err, errno, "cannot remove %s", path) : 0;
}

static bool has_others(const kata_factory_server *s)
{
	for (size_t i = 0; i < s->uid_count; i++)
		if (s->uids[i] != geteuid())
			return true;
	return false;
}

static int listen_at(kata_factory_server *s, kata_error **err)
{
	char *slash = strrchr(s->path, '/');
	KATA_AUTO(free) char *dir = kata__format("%.*s", slash == s->path ? 1 : (int)(slash - s->path), s->path);
	int rc = dir ? check_directory(dir, err) : kata__fail_no_memory(err);

	if (rc == 0)
		rc = lock_path(s, err);
	if (rc == 0)
		rc = remove_left_socket(s->path, err);
	if (rc == 0)
		rc = kata__unix_listen(dir, slash + 1, &s->listen_fd, err);
	if (rc == 0 && has_others(s) && chmod(s->path, 0666) < 0)
		rc = kata__fail_errno(err, errno, "cannot open %s for others", s->path);
	return rc;
}

/* ---- [the leader's] beginning and end ---- */

struct opening {
	kata_factory_server *server;
	kata_error *error;
};

static void open_now(void *user)
{
	struct opening *o = user;

	kata__watch_add(kata__context_loop(o->server->ctx), o->server->listen_fd, EPOLLIN, on_connect, o->server,
			&o->server->watch, &o->error);
}

/* The socket's name goes before the lock: who comes next makes his own. */
static void close_files(kata_factory_server *s)
{
	KATA_AUTO(free) char *lock = kata__format("%s.lock", s->path);

	if (s->listen_fd >= 0)
		unlink(s->path);
	kata__close_fd(&s->listen_fd);
	if (s->lock_fd >= 0 && lock)
		unlink(lock);
	kata__close_fd(&s->lock_fd);
}

static void close_now(void *user)
{
	kata_factory_server *s = user;

	s->closing = true;
	kata__watch_remove(kata__take_ptr(s->watch));
	kata__timer_remove(kata__take_ptr(s->rest));
	close_files(s);
	while (s->connections)
		close_connection(s->connections);
	look_whether_idle(s);
}

/* ---- public ---- */

static int check_options(const kata_factory_server_options *o, kata_error **err)
{
	const char *slash = o->socket_path ? strrchr(o->socket_path, '/') : NULL;

	if (!o->socket_path || o->socket_path[0] != '/' || !slash[1])
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "options.socket_path: %s, must be the absolute path of a socket",
				  o->socket_path ? o->socket_path : "is NULL");
	if (strlen(o->socket_path) > 107)
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.socket_path: has %zu bytes, at most 107",
				  strlen(o->socket_path));
	if (o->uid_count > UIDS_MAX || (o->uid_count && !o->uids))
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.uids: %s",
				  o->uids ? "more than 1024 of them" : "is NULL, but uid_count is not 0");
	if (o->max_connections > CONNECTIONS_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "options.max_connections: %u, at most %u",
				  o->max_connections, CONNECTIONS_MAX);
	return 0;
}

static int fill(kata_factory_server *s, const kata_factory_server_options *o, kata_error **err)
{
	s->max_connections = o->max_connections ? o->max_connections : CONNECTIONS_DEFAULT;
	s->take_ms = o->take_ms ? o->take_ms : TAKE_MS;
	s->path = kata__strdup(o->socket_path);
	s->uids = calloc(o->uid_count ? o->uid_count : 1, sizeof(*s->uids));
	if (!s->path || !s->uids)
		return kata__fail_no_memory(err);
	if (o->uid_count)
		memcpy(s->uids, o->uids, o->uid_count * sizeof(*s->uids));
	s->uid_count = o->uid_count;
	return 0;
}

static int check_arguments(const kata_context *context, const kata_vm_builder *builder, kata_factory_server **ret,
			   kata_error **err)
{
	if (!context || !builder || !ret)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL",
				  !context   ? "context"
				  : !builder ? "builder"
					     : "ret_server");
	if (kata__vm_builder_context(builder) != context)
		return kata__fail(err, KATA_E_INVALID, CALLER, "builder: is one of another context");
	return 0;
}

static int open_server(kata_factory_server *s, const kata_factory_server_options *o, kata_error **err)
{
	struct opening opening = {.server = s};
	int rc = fill(s, o, err);

	if (rc == 0)
		rc = listen_at(s, err);
	if (rc < 0)
		return rc;
	kata__agent_on_leader(s->ctx, open_now, &opening);
	return opening.error ? kata__error_move(err, &opening.error) : 0;
}

int kata_factory_server_new(kata_context *context, kata_vm_builder *builder, const kata_factory_server_options *options,
			    kata_factory_server **ret_server, kata_error **err)
{
	kata_factory_server_options o = KATA_FACTORY_SERVER_OPTIONS_INIT;
	kata_factory_server *s;
	int rc = check_arguments(context, builder, ret_server, err);

	if (rc == 0)
		rc = kata__options_read(&o, sizeof(o), options, "options", err);
	if (rc == 0)
		rc = check_options(&o, err);
	if (rc < 0)
		return rc;
	s = calloc(1, sizeof(*s));
	if (!s)
		return kata__fail_no_memory(err);
	*s = (kata_factory_server){
		.magic = SERVER_MAGIC, .ctx = context, .builder = builder, .listen_fd = -1, .lock_fd = -1};
	atomic_init(&s->refs, 1);
	pthread_mutex_init(&s->mutex, NULL);
	s->pool = kata__cache_pool(builder);
	rc = open_server(s, &o, err);
	if (rc < 0) {
		if (s->path)
			close_files(s);
		kata__server_unref(s);
		return rc;
	}
	*ret_server = s;
	return 0;
}

void kata_factory_server_free(kata_factory_server *server)
{
	if (!server)
		return;
	kata__agent_on_leader(server->ctx, close_now, server);
	if (kata__context_check_may_block(server->ctx, "kata_factory_server_free", NULL) == 0)
		kata__loop_wait(kata__context_loop(server->ctx), &server->idle, KATA__NEVER);
	kata__server_unref(server);
}

int kata_factory_server_get_status(const kata_factory_server *server, kata_factory_server_status *ret_status,
				   kata_error **err)
{
	kata_factory_server *s = (kata_factory_server *)(uintptr_t)server; /* for its mutex */
	kata_factory_server_status status;
	int rc;

	if (!s || s->magic != SERVER_MAGIC)
		return kata__fail(err, KATA_E_INVALID, CALLER, "server: is %s", s ? "no server, or was freed" : "NULL");
	rc = kata__options_check_ret(ret_status, "ret_status", err);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&s->mutex);
	status = s->status;
	pthread_mutex_unlock(&s->mutex);
	kata__options_write(ret_status, &status, sizeof(status));
	return 0;
}
