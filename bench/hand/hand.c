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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* The fds that QEMU was given: its own come after them and are eventfds, epolls and the like. */
static bool is_given(const struct hand_template *t, int fd, const char *target)
{
	char option[32];

	if (target[0] == '/' && strncmp(target, "/dev/", 5) != 0)
		return true;
	snprintf(option, sizeof(option), "fd=%d,", fd);
	for (int i = 0; t->argv[i]; i++)
		if (strstr(t->argv[i], option))
			return strncmp(target, "socket:", 7) == 0;
	return false;
}

int hand_capture(struct hand_template *t, pid_t pid, const char *dir)
{
	char path[64], target[256];

	memset(t, 0, sizeof(*t));
	snprintf(t->dir, sizeof(t->dir), "%s", dir);
	mkdir(t->dir, 0700);
	if (read_argv(t, pid))
		return -1;
	for (int fd = 3; fd < 200 && t->fd_count < HAND_FDS; fd++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
		n = readlink(path, target, sizeof(target) - 1);
		if (n <= 0)
			continue;
		target[n] = '\0';
		if (!is_given(t, fd, target))
			continue;
		t->fds[t->fd_count].number = fd;
		if (target[0] == '/')
			snprintf(t->fds[t->fd_count].path, sizeof(t->fds[0].path), "%s", target);
		t->fds[t->fd_count++].flags = read_flags(pid, fd);
	}
	return 0;
}

void hand_forget(struct hand_template *t)
{
	for (int i = 0; t->argv[i]; i++)
		free(t->argv[i]);
	memset(t, 0, sizeof(*t));
}

/* ---- start, quit ---- */

static void socket_path(const struct hand_template *t, int number, char *out, size_t size)
{
	snprintf(out, size, "%s/%d.sock", t->dir, number);
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

static int connect_to(const struct hand_template *t, int number)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	socket_path(t, number, a.sun_path, sizeof(a.sun_path));
	return connect(fd, (struct sockaddr *)&a, sizeof(a)) ? -1 : fd;
}

static int spawn(const struct hand_template *t, pid_t *ret_pid)
{
	static char *const no_env[] = {NULL};
	posix_spawn_file_actions_t actions;
	int fds[HAND_FDS], rc;
	char path[256];

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, 0, 1);
	posix_spawn_file_actions_adddup2(&actions, 0, 2);
	for (int i = 0; i < t->fd_count; i++) {
		socket_path(t, t->fds[i].number, path, sizeof(path));
		fds[i] = t->fds[i].path[0] ? open(t->fds[i].path, t->fds[i].flags | O_CLOEXEC) : listen_at(path);
		fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 300);
		posix_spawn_file_actions_adddup2(&actions, fds[i], t->fds[i].number);
	}
	rc = posix_spawn(ret_pid, t->argv[0], &actions, NULL, t->argv, no_env);
	posix_spawn_file_actions_destroy(&actions);
	for (int i = 0; i < t->fd_count; i++)
		close(fds[i]);
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

int hand_start(const struct hand_template *t, struct hand_vm *vm)
{
	memset(vm, 0, offsetof(struct hand_vm, buffer));
	vm->have = 0;
	vm->qmp = vm->agent = -1;
	if (spawn(t, &vm->pid))
		return -1;
	vm->qmp = connect_to(t, t->qmp_number);
	if (vm->qmp < 0 || hand_qmp_until(vm, "\"QMP\"") || hand_qmp(vm, "{\"execute\":\"qmp_capabilities\"}\n", -1))
		return -1;
	return hand_qmp(vm, "{\"execute\":\"cont\"}\n", -1);
}

int hand_quit(struct hand_vm *vm)
{
	static const char quit[] = "{\"execute\":\"quit\"}\n";
	int status;

	if (write(vm->qmp, quit, sizeof(quit) - 1) < 0)
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

/* A unary call: 10 bytes of header, Request{service, method, payload} with one-byte lengths. */
static int call(struct hand_vm *vm, const char *service, const char *method, const unsigned char *payload, size_t len)
{
	static uint32_t stream = 1;
	unsigned char out[256] = {0}, in[10], body[512];
	size_t at = 10;
	uint32_t size, id;

	out[at++] = 0x0a;
	out[at++] = (unsigned char)strlen(service);
	memcpy(out + at, service, strlen(service));
	at += strlen(service);
	out[at++] = 0x12;
	out[at++] = (unsigned char)strlen(method);
	memcpy(out + at, method, strlen(method));
	at += strlen(method);
	out[at++] = 0x1a;
	out[at++] = (unsigned char)len;
	memcpy(out + at, payload, len);
	at += len;
	out[3] = (unsigned char)(at - 10);
	id = stream;
	stream += 2;
	for (int i = 0; i < 4; i++)
		out[4 + i] = (unsigned char)(id >> (24 - 8 * i));
	out[8] = 1;
	if (write(vm->agent, out, at) != (ssize_t)at || read_all(vm->agent, in, sizeof(in)))
		return -1;
	size = (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
	if (size > sizeof(body) || read_all(vm->agent, body, size))
		return -1;
	/* field 1 is the status: a code that is not 0 begins with 08 */
	return size > 2 && body[0] == 0x0a && body[1] > 0 && body[2] == 0x08 && body[3] != 0 ? -1 : 0;
}

int hand_agent_connect(const struct hand_template *t, struct hand_vm *vm)
{
	vm->agent = connect_to(t, t->agent_number);
	return vm->agent < 0 ? -1 : call(vm, "grpc.Health", "Check", (const unsigned char *)"", 0);
}

int hand_agent_await(struct hand_vm *vm, const char *kind, const char *address)
{
	unsigned char payload[128];
	size_t at = 0;

	payload[at++] = 0x0a;
	payload[at++] = (unsigned char)strlen(kind);
	memcpy(payload + at, kind, strlen(kind));
	at += strlen(kind);
	payload[at++] = 0x12;
	payload[at++] = (unsigned char)strlen(address);
	memcpy(payload + at, address, strlen(address));
	at += strlen(address);
	payload[at++] = 0x18; /* timeout_ms = 30000 */
	payload[at++] = 0xb0;
	payload[at++] = 0xea;
	payload[at++] = 0x01;
	return call(vm, "kata.Guest", "AwaitDevice", payload, at);
}

/* ---- echo ---- */

/* The peer is a process of its own, as QEMU is; forked before anything else of the bench has a thread. */
int hand_echo_start(size_t in, size_t out, pid_t *ret_pid, int *ret_fd)
{
	char request[256], reply[256] = {0};
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
		return -1;
	*ret_pid = fork();
	if (*ret_pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(fds[0]);
		while (read_all(fds[1], request, in) == 0)
			if (write(fds[1], reply, out) != (ssize_t)out)
				break;
		_exit(0);
	}
	close(fds[1]);
	*ret_fd = fds[0];
	return *ret_pid < 0 ? -1 : 0;
}

int hand_echo(int fd, const void *request, size_t in, void *reply, size_t out)
{
	return write(fd, request, in) == (ssize_t)in ? read_all(fd, reply, out) : -1;
}

void hand_echo_stop(pid_t pid, int fd)
{
	close(fd);
	waitpid(pid, NULL, 0);
}
