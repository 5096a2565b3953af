/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clones of a template: to the agent's answer against the same by hand, and the memory that one more costs.
 *
 * By hand a clone is the library's own command line, its RAM mapped privately from the template's file, the state
 * loaded, and the guest made itself along with the first question to its agent. That is where the hand program stops;
 * the library's caller has yet to connect for himself.
 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hand/hand.h"
#include "vms.h"

#define SLOTS 4
#define CLONES 5

struct clones {
	struct bench *b;
	kata_context *ctx;
	kata_vm_builder *qemu, *builder;
	kata_agent_builder *agents;
	struct hand_template template;
	char state[256];
};

static int open_clones(struct clones *c, struct bench *b)
{
	kata_error *err = NULL;

	memset(c, 0, sizeof(*c));
	c->b = b;
	c->ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	c->qemu = c->ctx ? vms_qemu(c->ctx) : NULL;
	if (!c->qemu)
		return -1;
	if (kata_agent_builder_new_direct(c->ctx, &c->agents, &err))
		return bench_fail("agents", err);
	c->builder = vms_template(b, c->ctx, c->qemu, c->agents, SLOTS, 0);
	snprintf(c->state, sizeof(c->state), "%s/" VMS_TEMPLATE "/base/state", b->work_dir);
	return c->builder ? 0 : -1;
}

static void close_clones(struct clones *c)
{
	hand_forget(&c->template);
	kata_vm_builder_free(c->builder);
	kata_agent_builder_free(c->agents);
	kata_vm_builder_free(c->qemu);
	kata_context_free(c->ctx, NULL);
}

/* A VM whose agent has answered, and that it has at `ret_ns`. */
static kata_vm *answering(struct clones *c, kata_vm_builder *builder, uint64_t *ret_ns)
{
	kata_vm *vm = vms_build(c->b, builder, SLOTS);
	kata_agent *agent = NULL;
	kata_error *err = NULL;
	int rc = !vm || kata_vm_start(vm, NULL, &err) ||
		 kata_agent_builder_build(c->agents, vm, NULL, NULL, &agent, &err);

	*ret_ns = bench_now();
	kata_agent_unref(agent);
	if (!rc)
		return vm;
	bench_fail("to the agent's answer", err);
	kata_vm_unref(vm);
	return NULL;
}

static int by_library(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct clones *c = user;
	uint64_t begin = bench_now(), end;
	kata_vm *vm = answering(c, c->builder, &end);
	kata_error *err = NULL;
	int rc;

	if (!vm)
		return -1;
	ret_ns[0] = end - begin;
	rc = kata_vm_destroy(vm, NULL, &err) ? bench_fail("destroy", err) : 0;
	kata_vm_unref(vm);
	return rc;
}

static int by_hand(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct clones *c = user;
	uint64_t begin = bench_now();
	static struct hand_vm vm;

	if (hand_clone(&c->template, &vm, c->state) ||
	    hand_agent_reset(&c->template, &vm, "by-hand", "0123456789abcdef0123456789abcdef"))
		return -1;
	ret_ns[0] = bench_now() - begin;
	return hand_quit(&vm);
}

/* How the library runs QEMU for a clone. */
static int capture(struct clones *c)
{
	char dir[BENCH_DIR_MAX + 16];
	uint64_t end;
	kata_vm *vm = answering(c, c->builder, &end);
	int rc;

	if (!vm)
		return -1;
	snprintf(dir, sizeof(dir), "%s/hand", c->b->work_dir);
	rc = hand_capture(&c->template, (pid_t)kata_vm_get_pid(vm), dir);
	kata_vm_destroy(vm, NULL, NULL);
	kata_vm_unref(vm);
	return rc;
}

/* ---- memory ---- */

/* What the kernel counts for it, pages that several processes map by their share; KiB. */
static double pss_of(const kata_vm *vm)
{
	char path[64], line[128];
	long kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)kata_vm_get_pid(vm));
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Pss: %ld", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return (double)kib;
}

static double pss_of_all(kata_vm *const *vms, int count)
{
	double sum = 0;

	for (int i = 0; i < count; i++)
		sum += pss_of(vms[i]);
	return sum;
}

/* What the sum over all grows by: with each clone after the first, and with a machine that was booted. */
static int measure_pss(struct clones *c, kata_vm **vms, struct bench_value *ret)
{
	double first = 0, clones;
	uint64_t end;

	for (int i = 0; i < CLONES; i++) {
		vms[i] = answering(c, c->builder, &end);
		if (!vms[i])
			return -1;
		if (i == 0)
			first = pss_of_all(vms, 1);
	}
	clones = pss_of_all(vms, CLONES);
	vms[CLONES] = answering(c, c->qemu, &end);
	if (!vms[CLONES])
		return -1;
	bench_count(ret, (clones - first) / (CLONES - 1) / (pss_of_all(vms, CLONES + 1) - clones));
	ret->n = CLONES - 1;
	return 0;
}

static int pss(struct clones *c, struct bench_value *ret)
{
	kata_vm *vms[CLONES + 1] = {NULL};
	int rc = measure_pss(c, vms, ret);

	for (int i = 0; i <= CLONES; i++) {
		if (vms[i])
			kata_vm_destroy(vms[i], NULL, NULL);
		kata_vm_unref(vms[i]);
	}
	return rc;
}

static int clones(struct bench *b, struct bench_value *values)
{
	static struct clones c;
	struct bench_pairs p = {by_library, by_hand, &c, 20, 1, 1, 2};
	int rc = open_clones(&c, b) || capture(&c) || bench_ratio(b, &p, &values[0]) || pss(&c, &values[1]);

	close_clones(&c);
	return rc ? -1 : 0;
}

const struct bench_group bench_clone[] = {
	{240,
	 clones,
	 {{.name = "clone_vs_hand", .unit = "ratio", .figures = {{NULL, 1.05, 1.00}}},
	  {.name = "clone_pss", .unit = "ratio", .figures = {{NULL, 0.25, 0.15}}}}},
	{0, NULL, {{NULL}}},
};
