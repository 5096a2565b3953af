/* SPDX-License-Identifier: Apache-2.0 */
/* Round trips: QMP against a raw socket, ttrpc against an echo of the same bytes, calls in flight. */
#include "bench.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hand/hand.h"
#include "vms.h"

/*
 * Where the scheduler puts a woken peer would otherwise be most of what a round trip takes. Both sides alike: the peer
 * shares our CPU, or has the last one to itself.
 */
static void stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* The n-th of those we may use, counted from the last (0). */
static int own_cpu(int n)
{
	cpu_set_t set;
	int last = 0;

	CPU_ZERO(&set);
	sched_getaffinity(0, sizeof(set), &set);
	for (int cpu = CPU_SETSIZE - 1; cpu >= 0; cpu--) {
		if (!CPU_ISSET((size_t)cpu, &set))
			continue;
		last = cpu;
		if (n-- == 0)
			break;
	}
	return last;
}

/* ---- QMP: a pause and a resume, against `stop` and `cont` on a raw socket of another QEMU ---- */

struct qmp {
	kata_context *ctx;
	kata_vm_builder *builder;
	kata_vm *vm;
	struct hand_template template;
	struct hand_vm hand;
	bool has_hand;
};

static struct qmp qmp;

static int qmp_library(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	uint64_t begin = bench_now();
	kata_error *err = NULL;

	if (kata_vm_resume(qmp.vm, NULL, &err) || kata_vm_pause(qmp.vm, NULL, &err))
		return bench_fail("pause", err);
	ret_ns[0] = bench_now() - begin;
	return 0;
}

/* With ids, as the library sends them: QEMU takes longer over a command that has one. */
static int qmp_hand(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	static const char cont[] = "{\"execute\":\"cont\",\"id\":51}\n", stop[] = "{\"execute\":\"stop\",\"id\":52}\n";
	uint64_t begin = bench_now();

	if (hand_qmp(&qmp.hand, cont, -1) || hand_qmp(&qmp.hand, stop, -1))
		return -1;
	ret_ns[0] = bench_now() - begin;
	return 0;
}

/*
 * A guest that does nothing, so that QEMU has nothing to do but answer: a multiboot kernel that sends "!" to the serial
 * port and halts with interrupts off.
 */
static int write_halt(const char *path)
{
	static const uint32_t header[] = {
		0x1badb002, 0x00010000, 0u - 0x1badb002 - 0x00010000, /* magic, "addresses follow", checksum */
		0x100000,   0x100000,   0x101000,                     /* header, load from, load to */
		0x101000,   0x100020,                                 /* end of bss, entry */
	};
	static const unsigned char code[] = {0x66, 0xba, 0xf8, 0x03, 0xb0, '!', 0xee, /* mov dx, 3f8h; mov al; out */
					     0xfa, 0xf4, 0xeb, 0xfd};                 /* cli; hlt; jmp to hlt */
	unsigned char image[4096] = {0};
	FILE *f = fopen(path, "we");
	size_t n;

	if (!f)
		return -1;
	memcpy(image, header, sizeof(header));
	memcpy(image + sizeof(header), code, sizeof(code));
	n = fwrite(image, sizeof(image), 1, f);
	return fclose(f) == 0 && n == 1 ? 0 : -1;
}

/* Until the library's guest has halted. */
static int await_halt(kata_vm *vm)
{
	for (uint64_t end = bench_now() + 20000000000u; bench_now() < end; usleep(20000)) {
		char *text = NULL;
		size_t len = 0;
		bool halted = kata_vm_get_console(vm, &text, &len, NULL) == 0 && text && strchr(text, '!');

		free(text);
		if (halted)
			return 0;
		kata_context_dispatch(qmp.ctx, 0, NULL);
	}
	fprintf(stderr, "bench: the guest that halts did not say so\n");
	return -1;
}

static int qmp_open(struct bench *b)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	char dir[BENCH_DIR_MAX + 16], kernel[BENCH_DIR_MAX + 16];
	int ours = own_cpu(1);
	kata_error *err = NULL;

	stay_on(own_cpu(0)); /* QEMU inherits it */
	qmp.ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	qmp.builder = qmp.ctx ? vms_qemu(qmp.ctx) : NULL;
	snprintf(dir, sizeof(dir), "%s/hand", b->work_dir);
	snprintf(kernel, sizeof(kernel), "%s/halt", b->work_dir);
	config.kernel = kernel;
	config.initrd = kernel; /* a module to it; the library wants one */
	config.memory_mib = 64;
	if (!qmp.builder || write_halt(kernel))
		return -1;
	if (kata_vm_builder_build(qmp.builder, &config, NULL, NULL, &qmp.vm, &err) || kata_vm_start(qmp.vm, NULL, &err))
		return bench_fail("start", err);
	if (hand_capture(&qmp.template, (pid_t)kata_vm_get_pid(qmp.vm), dir) || hand_start(&qmp.template, &qmp.hand))
		return -1;
	qmp.has_hand = true;
	stay_on(ours);
	if (hand_console_until(&qmp.template, '!') || await_halt(qmp.vm))
		return -1;
	if (kata_vm_pause(qmp.vm, NULL, &err))
		return bench_fail("pause", err);
	return hand_qmp(&qmp.hand, "{\"execute\":\"stop\"}\n", -1);
}

static int qmp_rtt(struct bench *b, struct bench_value *ret)
{
	struct bench_pairs p = {qmp_library, qmp_hand, NULL, 200, 10, 1, 5};
	int rc = qmp_open(b);

	if (!rc)
		rc = bench_ratio(b, &p, ret);
	if (qmp.has_hand)
		hand_quit(&qmp.hand);
	if (qmp.vm)
		kata_vm_destroy(qmp.vm, NULL, NULL);
	kata_vm_unref(qmp.vm);
	hand_forget(&qmp.template);
	kata_vm_builder_free(qmp.builder);
	kata_context_free(qmp.ctx, NULL);
	return rc;
}

/* ---- ttrpc: a health check, against the same bytes on a raw socket; a peer of the same canned answers for both ----
 */

/* Health.Check, as the library sends it: 10 bytes of header; service, method, timeout_nano. Answered by 10 and 4. */
static const unsigned char check_request[] = "\0\0\0\032\0\0\0\1\1\0\n\vgrpc.Health\022\5Check \200\304\243\204l";
#define CHECK_REPLY 14
#define CALLS 16 /* a sample: one call is as short as the clock is coarse */

struct ttrpc {
	kata_context *ctx;
	kata_vm_builder *builder;
	kata_vm *vm;
	kata_agent *agent;
	int raw_fd;
	pid_t peers[2];
};

static int ttrpc_library(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct ttrpc *t = user;
	uint64_t begin = bench_now();
	kata_error *err = NULL;

	for (int i = 0; i < CALLS; i++)
		if (kata_agent_check(t->agent, NULL, &err))
			return bench_fail("check", err);
	ret_ns[0] = bench_now() - begin;
	return 0;
}

static int ttrpc_hand(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct ttrpc *t = user;
	uint64_t begin = bench_now();
	char out[CHECK_REPLY];

	for (int i = 0; i < CALLS; i++)
		if (hand_peer_call(t->raw_fd, check_request, sizeof(check_request) - 1, out, sizeof(out)))
			return -1;
	ret_ns[0] = bench_now() - begin;
	return 0;
}

static kata_agent *connect_agent(kata_context *ctx, kata_vm *vm)
{
	kata_agent_builder *agents = NULL;
	kata_agent *agent = NULL;
	kata_error *err = NULL;

	if (kata_agent_builder_new_direct(ctx, &agents, &err) ||
	    kata_agent_builder_build(agents, vm, NULL, NULL, &agent, &err))
		bench_fail("agent", err);
	kata_agent_builder_free(agents);
	return agent;
}

/* The peer takes the place of the stand-in's agent: its socket's name in the VM's directory is made the peer's. */
static int ttrpc_open(struct ttrpc *t, struct bench *b)
{
	char raw[BENCH_DIR_MAX + 16], agent[256];
	kata_error *err = NULL;

	stay_on(own_cpu(0));
	snprintf(raw, sizeof(raw), "%s/raw.sock", b->work_dir);
	if (hand_peer_start(raw, &t->peers[0]))
		return -1;
	t->raw_fd = hand_peer_connect(raw);
	t->ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	t->builder = t->ctx ? vms_standin(b, t->ctx) : NULL;
	t->vm = t->builder ? vms_build(b, t->builder, 4) : NULL;
	if (t->raw_fd < 0 || !t->vm)
		return -1;
	if (kata_vm_start(t->vm, NULL, &err))
		return bench_fail("start", err);
	snprintf(agent, sizeof(agent), "%s/vm/%s/agent.sock", kata_context_get_state_dir(t->ctx),
		 kata_vm_get_id(t->vm));
	if (access(agent, F_OK) || hand_peer_start(agent, &t->peers[1])) {
		fprintf(stderr, "bench: the VM's agent socket is not where it is looked for\n");
		return -1;
	}
	t->agent = connect_agent(t->ctx, t->vm);
	return t->agent ? 0 : -1;
}

static int ttrpc_rtt(struct bench *b, struct bench_value *ret)
{
	struct ttrpc t = {.raw_fd = -1};
	struct bench_pairs p = {ttrpc_library, ttrpc_hand, &t, 300, 20, 1, 1};
	int rc = ttrpc_open(&t, b);

	if (!rc)
		rc = bench_ratio(b, &p, ret);
	kata_agent_unref(t.agent);
	if (t.vm)
		kata_vm_destroy(t.vm, NULL, NULL);
	kata_vm_unref(t.vm);
	kata_vm_builder_free(t.builder);
	kata_context_free(t.ctx, NULL);
	hand_peer_stop(t.peers[0]);
	hand_peer_stop(t.peers[1]);
	return rc;
}

/* ---- 64 in flight on a service that takes 1 ms ---- */

#define IN_FLIGHT 64

static int call_many(kata_agent *agent, int at_once, double *ret_ms)
{
	kata_agent_request r = {.size = sizeof(r), .method = KATA_AGENT_CHECK};
	kata_op *ops[IN_FLIGHT] = {NULL};
	kata_error *err = NULL;
	uint64_t begin = bench_now();
	int rc = 0;

	for (int done = 0; !rc && done < IN_FLIGHT; done += at_once) {
		for (int i = 0; !rc && i < at_once; i++)
			rc = kata_agent_call_begin(agent, &r, NULL, &ops[i], &err);
		for (int i = 0; i < at_once; i++) {
			if (ops[i] && !rc)
				rc = kata_op_wait(ops[i], &err);
			kata_op_unref(ops[i]);
			ops[i] = NULL;
		}
	}
	*ret_ms = (double)(bench_now() - begin) / 1e6;
	return rc ? bench_fail("calls", err) : 0;
}

static int inflight(struct bench *b, struct bench_value *ret)
{
	kata_context *ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	kata_vm_builder *builder = NULL;
	kata_agent *agent = NULL;
	kata_error *err = NULL;
	double serial, together, best = 0;
	kata_vm *vm = NULL;
	int rc = 0;

	if (kata_vm_builder_new_mock(ctx, &builder, &err) || !(vm = vms_build(b, builder, 4)) ||
	    kata_vm_start(vm, NULL, &err) || !(agent = connect_agent(ctx, vm)) ||
	    kata_mock_set_delay(builder, KATA_MOCK_AGENT_CALL, 1, &err))
		rc = bench_fail("mock", err);
	for (int i = 0; !rc && i < 5; i++) {
		rc = call_many(agent, 1, &serial) || call_many(agent, IN_FLIGHT, &together);
		if (!rc && serial / together > best)
			best = serial / together;
	}
	bench_count(ret, best);
	kata_agent_unref(agent);
	if (vm)
		kata_vm_destroy(vm, NULL, NULL);
	kata_vm_unref(vm);
	kata_vm_builder_free(builder);
	kata_context_free(ctx, NULL);
	return rc;
}

const struct bench_group bench_wire[] = {
	{30, ttrpc_rtt, {{.name = "ttrpc_rtt", .unit = "ratio", .figures = {{NULL, 1.5, 1.15}}}}},
	{30,
	 inflight,
	 {{.name = "ttrpc_inflight", .unit = "times", .higher_is_better = true, .figures = {{NULL, 40, 60}}}}},
	{60, qmp_rtt, {{.name = "qmp_rtt", .unit = "ratio", .figures = {{NULL, 1.10, 1.02}}}}},
	{0, NULL, {{NULL}}},
};
