/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handing a machine over: let go of here, taken over in another process, against what any hand-over needs: a
 * connection, QMP's handshake, and the questions whether this is the process and the machine that are meant. QEMU, its
 * guest paused.
 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hand/hand.h"
#include "vms.h"

#define RECORD_MAX 65536

struct attach {
	struct bench *b;
	kata_context *ctx;
	kata_vm_builder *builder;
	kata_vm *vm;
	pid_t pid;
	int peer; /* the other process: a record there, a time and a record back */
	struct hand_template template;
	struct hand_vm hand;
	struct hand_identity identity;
	bool has_hand;
};

static struct attach attach;

struct message {
	uint64_t ns; /* what taking over took */
	char record[RECORD_MAX];
};

static int release(kata_vm *vm, struct message *m)
{
	kata_error *err = NULL;
	char *json = NULL;
	int rc = kata_vm_release(vm, NULL, &json, &err);

	if (!rc)
		snprintf(m->record, sizeof(m->record), "%s", json);
	free(json);
	return rc ? bench_fail("release", err) : 0;
}

static kata_vm *take_over(kata_vm_builder *builder, struct message *m)
{
	uint64_t begin = bench_now();
	kata_error *err = NULL;
	kata_vm *vm = NULL;

	if (kata_vm_builder_build_from_released(builder, m->record, strlen(m->record), NULL, &vm, &err)) {
		bench_fail("taking over", err);
		return NULL;
	}
	m->ns = bench_now() - begin;
	return vm;
}

/* The other process: takes over what it is sent, lets go of it, and sends it back; until the socket closes. */
static int be_peer(struct attach *a, int fd)
{
	static struct message m;
	kata_context *ctx = bench_context(a->b, KATA_CONTEXT_EXTERNAL_LOOP);
	kata_vm_builder *builder = ctx ? vms_qemu(ctx) : NULL;
	kata_vm *vm;
	int rc = builder ? 0 : -1;

	while (!rc && recv(fd, &m, sizeof(m), 0) == (ssize_t)sizeof(m)) {
		vm = take_over(builder, &m);
		rc = !vm || release(vm, &m) || send(fd, &m, sizeof(m), MSG_NOSIGNAL) != (ssize_t)sizeof(m);
		kata_vm_unref(vm);
	}
	kata_vm_builder_free(builder);
	kata_context_free(ctx, NULL);
	return rc;
}

static int hand_over(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	static struct message m;
	struct attach *a = user;
	uint64_t begin = bench_now(), here;

	if (release(a->vm, &m))
		return -1;
	here = bench_now() - begin;
	kata_vm_unref(a->vm);
	a->vm = NULL;
	if (send(a->peer, &m, sizeof(m), MSG_NOSIGNAL) != (ssize_t)sizeof(m) ||
	    recv(a->peer, &m, sizeof(m), 0) != (ssize_t)sizeof(m)) {
		fprintf(stderr, "bench: the process that takes over has ended\n");
		return -1;
	}
	ret_ns[0] = here + m.ns;
	a->vm = take_over(a->builder, &m);
	return a->vm ? 0 : -1;
}

static int by_hand(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct attach *a = user;
	uint64_t begin = bench_now();

	if (hand_attach(&a->template, &a->hand, &a->identity))
		return -1;
	ret_ns[0] = bench_now() - begin;
	return 0;
}

/* Before anything has a thread: the peer is a fork. */
static int start_peer(struct attach *a)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		return -1;
	a->pid = fork(); /* there is no context and no thread yet; each of the two makes its own afterwards */
	if (a->pid == 0) {
		close(fds[0]);
		_exit(be_peer(a, fds[1]) ? 1 : 0);
	}
	close(fds[1]);
	a->peer = fds[0];
	return a->pid < 0 ? -1 : 0;
}

static int attach_open(struct attach *a, struct bench *b)
{
	kata_error *err = NULL;
	char dir[BENCH_DIR_MAX + 16];

	a->b = b;
	if (start_peer(a))
		return -1;
	a->ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	a->builder = a->ctx ? vms_qemu(a->ctx) : NULL;
	a->vm = a->builder ? vms_build(b, a->builder, 8) : NULL;
	if (!a->vm)
		return -1;
	if (kata_vm_start(a->vm, NULL, &err))
		return bench_fail("start", err);
	snprintf(dir, sizeof(dir), "%s/hand", b->work_dir);
	if (hand_capture(&a->template, (pid_t)kata_vm_get_pid(a->vm), dir) || hand_start(&a->template, &a->hand))
		return -1;
	a->has_hand = true;
	if (kata_vm_pause(a->vm, NULL, &err))
		return bench_fail("pause", err);
	return hand_qmp(&a->hand, "{\"execute\":\"stop\"}\n", -1) || hand_identify(&a->hand, &a->identity);
}

static int run(struct bench *b, struct bench_value *ret)
{
	struct attach *a = &attach;
	struct bench_pairs p = {hand_over, by_hand, a, 60, 4, 1, 3};
	int rc = attach_open(a, b);

	if (!rc)
		rc = bench_ratio(b, &p, ret);
	close(a->peer);
	if (a->pid > 0)
		waitpid(a->pid, NULL, 0);
	if (a->has_hand)
		hand_quit(&a->hand);
	hand_forget(&a->template);
	if (a->vm)
		kata_vm_destroy(a->vm, NULL, NULL);
	kata_vm_unref(a->vm);
	kata_vm_builder_free(a->builder);
	kata_context_free(a->ctx, NULL);
	return rc;
}

const struct bench_group bench_attach[] = {
	{60, run, {{.name = "attach_vs_hand", .unit = "ratio", .figures = {{NULL, 1.5, 1.1}}}}},
	{0, NULL, {{NULL}}},
};
