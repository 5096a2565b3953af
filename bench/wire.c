/* SPDX-License-Identifier: Apache-2.0 */
/* Round trips: QMP against a raw socket, ttrpc against an echo of the same bytes, calls in flight. */
#include "bench.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hand/hand.h"
#include "vms.h"

/* ---- QMP: a pause and a resume, against `stop` and `cont` on a raw socket of another QEMU ---- */

struct qmp {
	kata_context *ctx;
	kata_vm_builder *builder;
	kata_vm *vm;
	struct hand_template template;
	struct hand_vm hand;
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

static int qmp_hand(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	uint64_t begin = bench_now();

	if (hand_qmp(&qmp.hand, "{\"execute\":\"cont\"}\n", -1) || hand_qmp(&qmp.hand, "{\"execute\":\"stop\"}\n", -1))
		return -1;
	ret_ns[0] = bench_now() - begin;
	return 0;
}

static int qmp_rtt(struct bench *b, struct bench_value *ret)
{
	struct bench_pairs p = {qmp_library, qmp_hand, NULL, 300, 20, 1};
	char dir[BENCH_DIR_MAX + 16];
	kata_error *err = NULL;
	int rc = -1;

	memset(&qmp, 0, sizeof(qmp));
	qmp.ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	qmp.builder = qmp.ctx ? vms_qemu(qmp.ctx) : NULL;
	qmp.vm = qmp.builder ? vms_build(b, qmp.builder, 4) : NULL;
	snprintf(dir, sizeof(dir), "%s/hand", b->work_dir);
	if (qmp.vm && kata_vm_start(qmp.vm, NULL, &err))
		bench_fail("start", err);
	else if (qmp.vm && !hand_capture(&qmp.template, (pid_t)kata_vm_get_pid(qmp.vm), dir) &&
		 !hand_start(&qmp.template, &qmp.hand)) {
		if (!kata_vm_pause(qmp.vm, NULL, NULL) && !hand_qmp(&qmp.hand, "{\"execute\":\"stop\"}\n", -1))
			rc = bench_ratio(b, &p, ret);
		hand_quit(&qmp.hand);
	}
	if (qmp.vm)
		kata_vm_destroy(qmp.vm, NULL, NULL);
	kata_vm_unref(qmp.vm);
	hand_forget(&qmp.template);
	kata_vm_builder_free(qmp.builder);
	kata_context_free(qmp.ctx, NULL);
	return rc;
}

/* ---- ttrpc: a health check, against the same bytes on a raw socket; a peer of the same canned answers for both ---- */

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
	struct bench_pairs p = {ttrpc_library, ttrpc_hand, &t, 300, 20, 1};
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
