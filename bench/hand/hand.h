/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BENCH_HAND_HAND_H
#define BENCH_HAND_HAND_H
/*
 * What one writes by hand instead of using the library: start QEMU, talk QMP and ttrpc on raw sockets, blocking, for
 * this one machine, without checks. Best effort: posix_spawn, no sleeps, one write a command, blocking reads. Knows
 * nothing of libkata.
 *
 * The machine is the library's own, to the byte: its argv and the kinds of its fds are read from /proc/PID of a VM that
 * the library started, and made again (files opened, sockets made) at every start.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define HAND_ARGS 160
#define HAND_FDS 32
#define HAND_LOW_FDS 64

struct hand_template {
	char *argv[HAND_ARGS + 1];
	struct {
		int number;
		char path[256]; /* "" for a listening socket */
		int flags;
	} fds[HAND_FDS];
	int fd_count;
	int qmp_number, agent_number, console_number; /* the fds of those sockets */
	char dir[64];                                 /* where sockets are made */
	int held[HAND_LOW_FDS];                       /* so that the numbers QEMU wants are not ours */
	int held_count;
};

struct hand_vm {
	pid_t pid;
	int qmp, agent;
	char buffer[65536];
	size_t have;
};

int hand_capture(struct hand_template *t, pid_t pid, const char *dir);
void hand_forget(struct hand_template *t);
/* Files opened, sockets made, QEMU spawned, QMP ready, vCPUs running. */
int hand_start(struct hand_template *t, struct hand_vm *vm);
/* The same of a QEMU that waits for a state (-incoming defer): the state is loaded from that file first. */
int hand_clone(struct hand_template *t, struct hand_vm *vm, const char *state);
/* Sends one command, reads lines until its return (events on the way are skipped). */
int hand_qmp(struct hand_vm *vm, const char *command, int pass_fd);
/* Reads lines until one has `text`. */
int hand_qmp_until(struct hand_vm *vm, const char *text);
/* Reads the console until the guest has sent c: to be called soon after the start, nothing is kept for a late reader.
 */
int hand_console_until(const struct hand_template *t, char c);
/* Which process, and which machine, it is. */
struct hand_identity {
	char start_time[32], uuid[64];
};
int hand_identify(struct hand_vm *vm, struct hand_identity *ret);
/* Leaves QMP, and comes back: connection, greeting, handshake, and the process and machine that are meant. */
int hand_attach(const struct hand_template *t, struct hand_vm *vm, const struct hand_identity *meant);
/* quit, and reap. */
int hand_quit(struct hand_vm *vm);

/* Connects to the agent and waits until it answers. */
int hand_agent_connect(const struct hand_template *t, struct hand_vm *vm);
/* The same, and the guest is made itself along with it: entropy, clock, hostname, machine-id. */
int hand_agent_reset(const struct hand_template *t, struct hand_vm *vm, const char *hostname, const char *machine_id);
/* AwaitDevice of kata.Guest, encoded by hand. kind: "blk", "net". */
int hand_agent_await(struct hand_vm *vm, const char *kind, const char *address);

/* A process that listens at the path and answers each ttrpc request with canned bytes: Check well, all else as
 * unimplemented. One read and one write a request. */
int hand_peer_start(const char *path, pid_t *ret_pid);
int hand_peer_connect(const char *path);
/* `in` bytes there, `out` bytes back. */
int hand_peer_call(int fd, const void *request, size_t in, void *reply, size_t out);
void hand_peer_stop(pid_t pid);
#endif
