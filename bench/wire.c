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

static int qmp_library(void *user, uint64_t *ret_ns)
{
	uint64_t begin = bench_now();
	kata_error *err = NULL;

	if (kata_vm_resume(qmp.vm, NULL, &err) || kata_vm_pause(qmp.vm, NULL, &err))
		return bench_fail("pause", err);
	*ret_ns = bench_now() - begin;
	return 0;
}

static int qmp_hand(void *user, uint64_t *ret_ns)
{
	uint64_t begin = bench_now();

	if (hand_qmp(&qmp.hand, "{\"execute\":\"cont\"}\n", -1) || hand_qmp(&qmp.hand, "{\"execute\":\"stop\"}\n", -1))
		return -1;
	*ret_ns = bench_now() - begin;
	return 0;
}

static int qmp_rtt(struct bench *b, struct bench_value *ret)
{
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
			rc = bench_ratio(b, qmp_library, qmp_hand, NULL, 200, ret);
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

/* ---- ttrpc: a health check of the stand-in's agent, against an echo by another process on a unix socket ---- */

/* Health.Check: 10 bytes of header, service and method; answered by 10 bytes and {status: SERVING}. */
#define CHECK_REQUEST 46
#define CHECK_REPLY 14

struct ttrpc {
	kata_agent *agent;
	int echo_fd;
};

static int ttrpc_library(void *user, uint64_t *ret_ns)
{
	struct ttrpc *t = user;
	uint64_t begin = bench_now();
	kata_error *err = NULL;

	for (int i = 0; i < 16; i++)
		if (kata_agent_check(t->agent, NULL, &err))
			return bench_fail("check", err);
	*ret_ns = bench_now() - begin;
	return 0;
}

static int ttrpc_hand(void *user, uint64_t *ret_ns)
{
	struct ttrpc *t = user;
	uint64_t begin = bench_now();
	char in[CHECK_REQUEST] = {0}, out[CHECK_REPLY];

	for (int i = 0; i < 16; i++)
		if (hand_echo(t->echo_fd, in, sizeof(in), out, sizeof(out)))
			return -1;
	*ret_ns = bench_now() - begin;
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

static int ttrpc_rtt(struct bench *b, struct bench_value *ret)
{
	struct ttrpc t = {.echo_fd = -1};
	pid_t echo = -1;
	int rc = hand_echo_start(CHECK_REQUEST, CHECK_REPLY, &echo, &t.echo_fd);
	kata_context *ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	kata_vm_builder *builder = vms_standin(b, ctx);
	kata_vm *vm = vms_build(b, builder, 4);
	kata_error *err = NULL;

	if (!rc && kata_vm_start(vm, NULL, &err))
		rc = bench_fail("start", err);
	if (!rc)
		t.agent = connect_agent(ctx, vm);
	rc = rc || !t.agent ? -1 : bench_ratio(b, ttrpc_library, ttrpc_hand, &t, 200, ret);
	kata_agent_unref(t.agent);
	kata_vm_destroy(vm, NULL, NULL);
	kata_vm_unref(vm);
	kata_vm_builder_free(builder);
	kata_context_free(ctx, NULL);
	hand_echo_stop(echo, t.echo_fd);
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

const struct bench_metric bench_wire[] = {
	{"ttrpc_rtt", 1.5, 1.15, true, "ratio", ttrpc_rtt},
	{"ttrpc_inflight", 40, 60, false, "times", inflight},
	{"qmp_rtt", 1.10, 1.02, true, "ratio", qmp_rtt},
	{NULL, 0, 0, false, NULL, NULL},
};
