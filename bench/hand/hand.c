/* SPDX-License-Identifier: Apache-2.0 */
#include "hand.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_S 60 /* what QEMU or its agent has not answered by then, it never will */

/* ---- the template ---- */

static int read_argv(struct hand_template *t, pid_t pid)
{
	static char text[65536];
	char path[64];
	size_t len;
	int n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return -1;
	len = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	for (size_t at = 0; at < len && n < HAND_ARGS; at += strlen(text + at) + 1)
		t->argv[n++] = strdup(text + at);
	for (int i = 0; i < n; i++) {
		const char *fd = strstr(t->argv[i], ",fd=");

		if (fd && strstr(t->argv[i], "id=qmp"))
			t->qmp_number = atoi(fd + 4);
		if (fd && strstr(t->argv[i], "id=console"))
			t->console_number = atoi(fd + 4);
		if (fd && strstr(t->argv[i], "id=agent"))
			t->agent_number = atoi(fd + 4);
	}
	return n && t->qmp_number ? 0 : -1;
}

static int read_flags(pid_t pid, int fd)
{
	char path[64], line[128];
	int flags = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", (int)pid, fd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "flags: %o", (unsigned *)&flags) == 1)
			break;
	if (f)
		fclose(f);
	return flags & O_ACCMODE;
}

static int target_of(pid_t pid, int fd, char *out, size_t size)
{
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
	n = readlink(path, out, size - 1);
	if (n <= 0)
		return -1;
	out[n] = '\0';
	return 0;
}

static void take_fd(struct hand_template *t, int number, const char *path, int flags)
{
	if (t->fd_count == HAND_FDS)
		return;
	t->fds[t->fd_count].number = number;
	snprintf(t->fds[t->fd_count].path, sizeof(t->fds[0].path), "%s", path);
	t->fds[t->fd_count++].flags = flags;
}

/* An argument names the fd: as "fd=3,..." or, of the kernel, the initrd and the RAM, as ".../fd/6". */
static bool is_named(const struct hand_template *t, int fd)
{
	char option[32], tail[32];

	snprintf(option, sizeof(option), "fd=%d,", fd);
	snprintf(tail, sizeof(tail), "/fd/%d", fd);
	for (int i = 0; t->argv[i]; i++) {
		const char *at = strstr(t->argv[i], tail);

		if (strstr(t->argv[i], option) || (at && (at[strlen(tail)] == '\0' || at[strlen(tail)] == '"')))
			return true;
	}
	return false;
}

static bool is_file(const char *target)
{
	return target[0] == '/' && strcmp(target, "/dev/null") != 0;
}

static void take_named_fds(struct hand_template *t, pid_t pid)
{
	char target[256];

	for (int fd = 3; fd < HAND_LOW_FDS; fd++) {
		if (!is_named(t, fd) || target_of(pid, fd, target, sizeof(target)))
			continue;
		if (strncmp(target, "socket:", 7) == 0)
			take_fd(t, fd, "", 0);
		else if (is_file(target))
			take_fd(t, fd, target, read_flags(pid, fd));
	}
}

/* Of "-add-fd fd=N,set=S" QEMU keeps a duplicate under another number: the n-th disk file it has open is the n-th's. */
static void take_disk_fds(struct hand_template *t, pid_t pid)
{
	char target[256], last[256] = "";
	int fd = 3;

	for (int i = 0; t->argv[i]; i++) {
		if (strncmp(t->argv[i], "fd=", 3) != 0 || !strstr(t->argv[i], ",set="))
			continue;
		for (; fd < HAND_LOW_FDS; fd++)
			if (target_of(pid, fd, target, sizeof(target)) == 0 && is_file(target) && !is_named(t, fd) &&
			    strcmp(target, last) != 0)
				break;
		if (fd == HAND_LOW_FDS)
			return;
		take_fd(t, atoi(t->argv[i] + 3), target, read_flags(pid, fd));
		snprintf(last, sizeof(last), "%s", target);
	}
}

int hand_capture(struct hand_template *t, pid_t pid, const char *dir)
{
	memset(t, 0, sizeof(*t));
	snprintf(t->dir, sizeof(t->dir), "%s", dir);
	mkdir(t->dir, 0700);
	if (read_argv(t, pid))
		return -1;
	take_named_fds(t, pid);
	take_disk_fds(t, pid);
	return 0;
}

/* Whatever is opened from here on lies above every number QEMU wants: dup2 in the child is then all it takes. */
static void hold_low_fds(struct hand_template *t)
{
	int fd = 0;

	while (fd < HAND_LOW_FDS && t->held_count < HAND_LOW_FDS) {
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (fd < 0)
			return;
		t->held[t->held_count++] = fd;
	}
}

void hand_forget(struct hand_template *t)
{
	for (int i = 0; t->argv[i]; i++)
		free(t->argv[i]);
	for (int i = 0; i < t->held_count; i++)
		close(t->held[i]);
	memset(t, 0, sizeof(*t));
}

/* ---- start, quit ---- */

static int socket_path(const struct hand_template *t, int number, char *out, size_t size)
{
	return snprintf(out, size, "%s/%d.sock", t->dir, number) < (int)size ? 0 : -1;
}

static int listen_at(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	unlink(path);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1))
		return -1;
	return fd;
}

/* A read that is never answered ends with an error; a time limit of the socket costs nothing a read. */
static int connect_path(const char *path)
{
	static const struct timeval limit = {.tv_sec = ANSWER_S};
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0 &&
	    connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	close(fd);
	return -1;
}

static int connect_to(const struct hand_template *t, int number)
{
	char path[108];

	return socket_path(t, number, path, sizeof(path)) ? -1 : connect_path(path);
}

static int open_one(const struct hand_template *t, int i)
{
	char path[108];
	int fd, lifted;

	if (t->fds[i].path[0])
		fd = open(t->fds[i].path, t->fds[i].flags | O_CLOEXEC);
	else
		fd = socket_path(t, t->fds[i].number, path, sizeof(path)) ? -1 : listen_at(path);
	if (fd < 0 || fd >= HAND_LOW_FDS)
		return fd;
	lifted = fcntl(fd, F_DUPFD_CLOEXEC, HAND_LOW_FDS); /* the library let go of a low one after all */
	close(fd);
	return lifted;
}

/* Our ends of the listening sockets are closed: a connection to a QEMU that died must break. In a session of its own,
 * as the library starts it: the kernel deals out a busy CPU by session (autogroup). */
static int spawn(const struct hand_template *t, pid_t *ret_pid)
{
	static char *const no_env[] = {NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	int fds[HAND_FDS], count, rc = 0;
	char log[80];

	snprintf(log, sizeof(log), "%s/vmm.log", t->dir);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, 0, 1);
	posix_spawn_file_actions_addopen(&actions, 2, log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	for (count = 0; !rc && count < t->fd_count; count++) {
		fds[count] = open_one(t, count);
		rc = fds[count] < 0 ? -1 : posix_spawn_file_actions_adddup2(&actions, fds[count], t->fds[count].number);
	}
	if (!rc)
		rc = posix_spawn(ret_pid, t->argv[0], &actions, &attributes, t->argv, no_env);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	while (count-- > 0)
		if (fds[count] >= 0)
			close(fds[count]);
	return rc ? -1 : 0;
}

/* One line into the front of the buffer's unread part; returns it, NUL-terminated, or NULL. */
static char *read_line(struct hand_vm *vm)
{
	static char line[65536];

	for (;;) {
		char *end = memchr(vm->buffer, '\n', vm->have);
		ssize_t n;

		if (end) {
			size_t len = (size_t)(end - vm->buffer) + 1;

			memcpy(line, vm->buffer, len);
			line[len] = '\0';
			vm->have -= len;
			memmove(vm->buffer, vm->buffer + len, vm->have);
			return line;
		}
		n = read(vm->qmp, vm->buffer + vm->have, sizeof(vm->buffer) - vm->have);
		if (n <= 0)
			return NULL;
		vm->have += (size_t)n;
	}
}

int hand_qmp_until(struct hand_vm *vm, const char *text)
{
	char *line;

	while ((line = read_line(vm))) {
		if (strstr(line, text))
			return 0;
		if (strstr(line, "\"error\"")) {
			fprintf(stderr, "bench: by hand: %s", line);
			return -1;
		}
	}
	return -1;
}

int hand_qmp(struct hand_vm *vm, const char *command, int pass_fd)
{
	struct iovec iov = {(void *)(uintptr_t)command, strlen(command)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control;

	if (pass_fd >= 0) {
		struct cmsghdr *c = &control.align;

		msg.msg_control = control.space;
		msg.msg_controllen = sizeof(control.space);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &pass_fd, sizeof(int));
	}
	if (sendmsg(vm->qmp, &msg, MSG_NOSIGNAL) != (ssize_t)iov.iov_len)
		return -1;
	return hand_qmp_until(vm, "\"return\"");
}

/* Up to the first command. */
static int start_qmp(struct hand_template *t, struct hand_vm *vm)
{
	if (!t->held_count)
		hold_low_fds(t);
	memset(vm, 0, offsetof(struct hand_vm, buffer));
	vm->have = 0;
	vm->qmp = vm->agent = -1;
	if (spawn(t, &vm->pid))
		return -1;
	vm->qmp = connect_to(t, t->qmp_number);
	if (vm->qmp < 0 || hand_qmp_until(vm, "\"QMP\""))
		return -1;
	return hand_qmp(vm, "{\"execute\":\"qmp_capabilities\"}\n", -1);
}

int hand_start(struct hand_template *t, struct hand_vm *vm)
{
	return start_qmp(t, vm) ? -1 : hand_qmp(vm, "{\"execute\":\"cont\"}\n", -1);
}

int hand_clone(struct hand_template *t, struct hand_vm *vm, const char *state)
{
	static const char set[] = "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":["
				  "{\"capability\":\"events\",\"state\":true},"
				  "{\"capability\":\"x-ignore-shared\",\"state\":true}]}}\n";
	int fd = open(state, O_RDONLY | O_CLOEXEC), rc;

	rc = fd < 0 || start_qmp(t, vm) || hand_qmp(vm, set, -1) ||
	     hand_qmp(vm, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"state\"}}\n", fd) ||
	     hand_qmp(vm, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:state\"}}\n", -1) ||
	     hand_qmp_until(vm, "\"completed\"") || hand_qmp(vm, "{\"execute\":\"cont\"}\n", -1);
	if (fd >= 0)
		close(fd);
	return rc ? -1 : 0;
}

/* Field 22 of /proc/PID/stat, the 20th after the name. */
static int read_start_time(pid_t pid, char *out, size_t size)
{
	char path[64], text[1024], *p;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return -1;
	text[n] = '\0';
	p = strrchr(text, ')');
	for (int i = 0; p && i < 20; i++)
		p = strchr(p + 1, ' ');
	if (!p)
		return -1;
	snprintf(out, size, "%.*s", (int)strcspn(p + 1, " "), p + 1);
	return 0;
}

int hand_identify(struct hand_vm *vm, struct hand_identity *ret)
{
	static const char query[] = "{\"execute\":\"query-uuid\"}\n";
	char *line, *uuid;

	if (send(vm->qmp, query, sizeof(query) - 1, MSG_NOSIGNAL) < 0 ||
	    read_start_time(vm->pid, ret->start_time, sizeof(ret->start_time)))
		return -1;
	while ((line = read_line(vm)) && !strstr(line, "\"return\""))
		;
	uuid = line ? strstr(line, "\"UUID\": \"") : NULL;
	if (!uuid)
		return -1;
	snprintf(ret->uuid, sizeof(ret->uuid), "%.36s", uuid + strlen("\"UUID\": \""));
	return 0;
}

int hand_attach(const struct hand_template *t, struct hand_vm *vm, const struct hand_identity *meant)
{
	struct hand_identity found;

	close(vm->qmp);
	vm->have = 0;
	vm->qmp = connect_to(t, t->qmp_number);
	if (vm->qmp < 0 || hand_qmp_until(vm, "\"QMP\"") || hand_qmp(vm, "{\"execute\":\"qmp_capabilities\"}\n", -1) ||
	    hand_identify(vm, &found))
		return -1;
	return strcmp(found.uuid, meant->uuid) || strcmp(found.start_time, meant->start_time) ? -1 : 0;
}

int hand_console_until(const struct hand_template *t, char c)
{
	int fd = connect_to(t, t->console_number);
	char seen = (char)!c;

	while (fd >= 0 && seen != c && read(fd, &seen, 1) == 1)
		;
	if (fd >= 0)
		close(fd);
	return seen == c ? 0 : -1;
}

int hand_quit(struct hand_vm *vm)
{
	static const char quit[] = "{\"execute\":\"quit\"}\n";
	int status;

	if (send(vm->qmp, quit, sizeof(quit) - 1, MSG_NOSIGNAL) < 0)
		kill(vm->pid, SIGKILL);
	while (waitpid(vm->pid, &status, 0) < 0 && errno == EINTR)
		;
	close(vm->qmp);
	if (vm->agent >= 0)
		close(vm->agent);
	return 0;
}

/* ---- the agent ---- */

static int read_all(int fd, void *data, size_t len)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = read(fd, (char *)data + at, len - at);

		if (n <= 0)
			return -1;
		at += (size_t)n;
	}
	return 0;
}

/* Fields of protobuf: bytes, and a number. */
static size_t put_bytes(unsigned char *out, unsigned char tag, const void *data, size_t len)
{
	size_t at = 0;

	out[at++] = tag;
	if (len > 127)
		out[at++] = (unsigned char)(len | 0x80);
	out[at++] = (unsigned char)(len > 127 ? len >> 7 : len);
	memcpy(out + at, data, len);
	return at + len;
}

static size_t put_number(unsigned char *out, unsigned char tag, uint64_t value)
{
	size_t at = 0;

	for (out[at++] = tag; value > 127; value >>= 7)
		out[at++] = (unsigned char)(value | 0x80);
	out[at++] = (unsigned char)value;
	return at;
}

/* A unary call: 10 bytes of header, Request{service, method, payload}. `out` has CALL_MAX bytes. */
#define CALL_MAX 512
static size_t make_call(unsigned char *out, const char *service, const char *method, const void *payload, size_t len)
{
	static uint32_t stream = 1;
	size_t at = 10;

	memset(out, 0, 10);
	at += put_bytes(out + at, 0x0a, service, strlen(service));
	at += put_bytes(out + at, 0x12, method, strlen(method));
	at += put_bytes(out + at, 0x1a, payload, len);
	out[2] = (unsigned char)((at - 10) >> 8);
	out[3] = (unsigned char)(at - 10);
	for (int i = 0; i < 4; i++)
		out[4 + i] = (unsigned char)(stream >> (24 - 8 * i));
	stream += 2;
	out[8] = 1;
	return at;
}

static int read_answer(struct hand_vm *vm)
{
	unsigned char in[10], body[512];
	uint32_t size;

	if (read_all(vm->agent, in, sizeof(in)))
		return -1;
	size = (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
	if (size > sizeof(body) || read_all(vm->agent, body, size))
		return -1;
	/* field 1 is the status: a code that is not 0 begins with 08 */
	return size > 2 && body[0] == 0x0a && body[1] > 0 && body[2] == 0x08 && body[3] != 0 ? -1 : 0;
}

static int call(struct hand_vm *vm, const char *service, const char *method, const void *payload, size_t len)
{
	unsigned char out[CALL_MAX];
	size_t at = make_call(out, service, method, payload, len);

	return write(vm->agent, out, at) == (ssize_t)at ? read_answer(vm) : -1;
}

int hand_agent_connect(const struct hand_template *t, struct hand_vm *vm)
{
	vm->agent = connect_to(t, t->agent_number);
	return vm->agent < 0 ? -1 : call(vm, "grpc.Health", "Check", "", 0);
}

/* Both questions in one write. */
int hand_agent_reset(const struct hand_template *t, struct hand_vm *vm, const char *hostname, const char *machine_id)
{
	unsigned char out[2 * CALL_MAX], payload[256], entropy[64];
	struct timespec now;
	size_t at = 0, len;

	if (getrandom(entropy, sizeof(entropy), 0) != sizeof(entropy))
		return -1;
	clock_gettime(CLOCK_REALTIME, &now);
	at += put_bytes(payload + at, 0x0a, hostname, strlen(hostname));
	at += put_bytes(payload + at, 0x12, machine_id, strlen(machine_id));
	at += put_bytes(payload + at, 0x1a, entropy, sizeof(entropy));
	at += put_number(payload + at, 0x20, (uint64_t)now.tv_sec);
	at += put_number(payload + at, 0x28, (uint64_t)now.tv_nsec / 1000);
	len = make_call(out, "grpc.Health", "Check", "", 0);
	len += make_call(out + len, "kata.Guest", "ResetIdentity", payload, at);
	vm->agent = connect_to(t, t->agent_number);
	if (vm->agent < 0 || write(vm->agent, out, len) != (ssize_t)len)
		return -1;
	return read_answer(vm) || read_answer(vm) ? -1 : 0;
}

int hand_agent_await(struct hand_vm *vm, const char *kind, const char *address)
{
	unsigned char payload[128];
	size_t at = put_bytes(payload, 0x0a, kind, strlen(kind));

	at += put_bytes(payload + at, 0x12, address, strlen(address));
	at += put_number(payload + at, 0x18, 30000); /* timeout_ms */
	return call(vm, "kata.Guest", "AwaitDevice", payload, at);
}

/* ---- a peer that answers canned bytes ---- */

/* Response{payload: {status: SERVING}}, and to every method but Check Response{status: {code: 12}} (unimplemented). */
static size_t answer_frame(const unsigned char *frame, size_t len, unsigned char *out)
{
	static const unsigned char serving[] = {0x12, 0x02, 0x08, 0x01}, absent[] = {0x0a, 0x02, 0x08, 0x0c};

	memset(out, 0, 10);
	memcpy(out + 4, frame + 4, 4); /* the stream */
	out[3] = sizeof(serving);
	out[8] = 2;
	memcpy(out + 10,
	       memmem(frame, len,
		      "\x12\x05"
		      "Check",
		      7)
		       ? serving
		       : absent,
	       sizeof(serving));
	return 10 + sizeof(serving);
}

static void serve(int fd)
{
	unsigned char in[4096], out[4096];
	size_t have = 0, answer;
	ssize_t n;

	while ((n = read(fd, in + have, sizeof(in) - have)) > 0) {
		size_t at = 0;

		have += (size_t)n;
		answer = 0;
		while (have - at >= 10) {
			size_t len = 10 + ((size_t)in[at + 2] << 8 | in[at + 3]);

			if (have - at < len || answer + 14 > sizeof(out))
				break;
			answer += answer_frame(in + at, len, out + answer);
			at += len;
		}
		have -= at;
		memmove(in, in + at, have);
		if (answer && write(fd, out, answer) != (ssize_t)answer)
			break;
	}
	close(fd);
}

/* A process of its own, as QEMU is; forked before anything else of the bench has a thread. */
int hand_peer_start(const char *path, pid_t *ret_pid)
{
	int fd = listen_at(path);

	*ret_pid = fd < 0 ? -1 : fork(); /* by hand, without the library: the peer, before any context is made */
	if (*ret_pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			serve(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
	}
	if (fd >= 0)
		close(fd);
	return *ret_pid < 0 ? -1 : 0;
}

int hand_peer_connect(const char *path)
{
	return connect_path(path);
}

int hand_peer_call(int fd, const void *request, size_t in, void *reply, size_t out)
{
	return write(fd, request, in) == (ssize_t)in ? read_all(fd, reply, out) : -1;
}

void hand_peer_stop(pid_t pid)
{
	if (pid <= 0)
		return;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}
