/* SPDX-License-Identifier: Apache-2.0 */
/* Plugging: on the mock, where a device takes 100 ms; in a booted guest, until the guest has the device. */
#include "bench.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hand/hand.h"
#include "vms.h"

/* ---- mock ---- */

#define EACH 8

static int plug_batch(struct bench *b, kata_vm *vm, int disks, int nics, double *ret_ms)
{
	kata_batch *batch = NULL;
	kata_error *err = NULL;
	char name[32];
	uint64_t begin;
	int rc = kata_batch_new(vm, 0, &batch, &err);

	for (int i = 0; !rc && i < disks + nics; i++) {
		snprintf(name, sizeof(name), "d%d-%d", disks, i);
		if (i < disks) {
			kata_storage *disk = vms_disk(b, name);

			rc = kata_batch_add_storage(batch, disk, &err);
			kata_storage_unref(disk);
		} else {
			kata_nic *nic = vms_nic(name);

			rc = kata_batch_add_nic(batch, nic, &err);
			kata_nic_unref(nic);
		}
	}
	begin = bench_now();
	if (!rc)
		rc = kata_batch_run(batch, NULL, &err);
	*ret_ms = (double)(bench_now() - begin) / 1e6;
	kata_batch_free(batch);
	return rc ? bench_fail("batch", err) : 0;
}

static int parallel_mock(struct bench *b, struct bench_value *ret)
{
	kata_context *ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	kata_vm_builder *builder = NULL;
	kata_error *err = NULL;
	kata_vm *vm = NULL;
	double one, all;
	int rc = 0;

	if (kata_vm_builder_new_mock(ctx, &builder, &err) || !(vm = vms_build(b, builder, 2 * EACH + 1)) ||
	    kata_vm_start(vm, NULL, &err) || kata_mock_set_delay(builder, KATA_MOCK_ADD_STORAGE, 100, &err) ||
	    kata_mock_set_delay(builder, KATA_MOCK_ADD_NIC, 100, &err))
		rc = bench_fail("mock", err);
	if (!rc)
		rc = plug_batch(b, vm, 1, 0, &one) || plug_batch(b, vm, EACH, EACH, &all) ? -1 : 0;
	if (!rc)
		bench_count(ret, all / one);
	if (vm)
		kata_vm_destroy(vm, NULL, NULL);
	kata_vm_unref(vm);
	kata_vm_builder_free(builder);
	kata_context_free(ctx, NULL);
	return rc;
}

/* ---- guest ---- */

#define DISKS 4
#define NICS 4
#define SLOTS                                                                                                          \
	(2 * (DISKS + NICS)) /* a port that was freed a moment ago rests, where no other is free (docs/design/008) */

struct guest {
	struct bench *b;
	kata_context *ctx;
	kata_vm_builder *builder;
	kata_vm *vm;
	kata_agent *agent;
	kata_storage *disks[DISKS];
	kata_nic *nics[NICS];
	struct hand_template template;
	struct hand_vm hand;
	bool has_hand;
	char image[256];
};

static int guest_open(struct guest *g, struct bench *b, bool with_hand)
{
	kata_agent_builder *agents = NULL;
	kata_error *err = NULL;
	char name[32], dir[BENCH_DIR_MAX + 16];

	memset(g, 0, sizeof(*g));
	g->b = b;
	g->ctx = bench_context(b, KATA_CONTEXT_EXTERNAL_LOOP);
	g->builder = g->ctx ? vms_qemu(g->ctx) : NULL;
	g->vm = g->builder ? vms_build(b, g->builder, SLOTS) : NULL;
	if (!g->vm)
		return -1;
	if (kata_vm_start(g->vm, NULL, &err))
		return bench_fail("start", err);
	snprintf(dir, sizeof(dir), "%s/hand", b->work_dir);
	if (with_hand && !hand_capture(&g->template, (pid_t)kata_vm_get_pid(g->vm), dir) &&
	    !hand_start(&g->template, &g->hand))
		g->has_hand = true;
	if (kata_agent_builder_new_direct(g->ctx, &agents, &err) ||
	    kata_agent_builder_build(agents, g->vm, NULL, NULL, &g->agent, &err))
		bench_fail("agent", err);
	kata_agent_builder_free(agents);
	if (!g->agent || (with_hand && (!g->has_hand || hand_agent_connect(&g->template, &g->hand))))
		return -1;
	for (int i = 0; i < DISKS; i++) {
		snprintf(name, sizeof(name), "disk%d", i);
		g->disks[i] = vms_disk(b, name);
		snprintf(name, sizeof(name), "nic%d", i);
		g->nics[i] = vms_nic(name);
	}
	return bench_image(b, "hand.raw", g->image);
}

static void guest_close(struct guest *g)
{
	if (g->has_hand)
		hand_quit(&g->hand);
	hand_forget(&g->template);
	kata_agent_unref(g->agent);
	if (g->vm)
		kata_vm_destroy(g->vm, NULL, NULL);
	kata_vm_unref(g->vm);
	for (int i = 0; i < DISKS; i++) {
		kata_storage_unref(g->disks[i]);
		kata_nic_unref(g->nics[i]);
	}
	kata_vm_builder_free(g->builder);
	kata_context_free(g->ctx, NULL);
}

static int begin_await(struct guest *g, int i, bool is_disk, kata_op **ret_op)
{
	char address[32];

	if (!is_disk)
		return vms_await_begin(g->agent, "net", kata_nic_get_mac(g->nics[i]), ret_op);
	kata_storage_get_address(g->disks[i], address, sizeof(address));
	return vms_await_begin(g->agent, "blk", address, ret_op);
}

static int await_one(struct guest *g, int i, bool is_disk)
{
	kata_op *op = NULL;

	return begin_await(g, i, is_disk, &op) ? -1 : vms_await_end(op);
}

static int await_all(struct guest *g)
{
	kata_op *ops[DISKS + NICS] = {NULL};
	int rc = 0;

	for (int i = 0; !rc && i < DISKS + NICS; i++)
		rc = begin_await(g, i < DISKS ? i : i - DISKS, i < DISKS, &ops[i]);
	for (int i = 0; i < DISKS + NICS; i++)
		if (ops[i] && vms_await_end(ops[i]))
			rc = -1;
	return rc;
}

static int batch_all(struct guest *g, bool add)
{
	kata_batch *batch = NULL;
	kata_error *err = NULL;
	int rc = kata_batch_new(g->vm, 0, &batch, &err);

	for (int i = 0; !rc && i < DISKS; i++)
		rc = add ? kata_batch_add_storage(batch, g->disks[i], &err)
			 : kata_batch_remove_storage(batch, kata_storage_get_id(g->disks[i]), &err);
	for (int i = 0; !rc && i < NICS; i++)
		rc = add ? kata_batch_add_nic(batch, g->nics[i], &err)
			 : kata_batch_remove_nic(batch, kata_nic_get_id(g->nics[i]), &err);
	if (!rc)
		rc = kata_batch_run(batch, NULL, &err);
	kata_batch_free(batch);
	return rc ? bench_fail("batch", err) : 0;
}

/* What the guest said, for whoever must find out why a device did not come. */
static int tell(struct guest *g, const char *what)
{
	char *text = NULL;
	size_t len = 0;

	fprintf(stderr, "bench: %s did not reach the guest; its console:\n", what);
	if (kata_vm_get_console(g->vm, &text, &len, NULL) == 0)
		fprintf(stderr, "%.*s\n", (int)len, text);
	free(text);
	return -1;
}

static int together(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct guest *g = user;
	uint64_t begin = bench_now();

	if (batch_all(g, true))
		return -1;
	if (await_all(g))
		return tell(g, "a batch of devices");
	ret_ns[0] = bench_now() - begin;
	return batch_all(g, false);
}

static int one_by_one(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct guest *g = user;
	uint64_t begin = bench_now();
	kata_error *err = NULL;

	for (int i = 0; i < DISKS; i++) {
		if (kata_vm_add_storage(g->vm, g->disks[i], NULL, &err))
			return bench_fail("plug", err);
		if (await_one(g, i, true))
			return tell(g, kata_storage_get_id(g->disks[i]));
	}
	for (int i = 0; i < NICS; i++) {
		if (kata_vm_add_nic(g->vm, g->nics[i], NULL, &err))
			return bench_fail("plug", err);
		if (await_one(g, i, false))
			return tell(g, kata_nic_get_id(g->nics[i]));
	}
	ret_ns[0] = bench_now() - begin;
	return batch_all(g, false);
}

static int parallel_guest(struct bench *b, struct bench_value *ret)
{
	struct guest g;
	struct bench_pairs p = {together, one_by_one, &g, 15, 2, 1, 2};
	int rc = guest_open(&g, b, false);

	if (!rc)
		rc = bench_ratio(b, &p, ret);
	guest_close(&g);
	return rc;
}

/* One disk, plugged until the guest has it, and unplugged until it has let go. */
static int library_disk(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	struct guest *g = user;
	uint64_t begin = bench_now(), middle;
	kata_error *err = NULL;

	if (kata_vm_add_storage(g->vm, g->disks[0], NULL, &err) || await_one(g, 0, true))
		return bench_fail("plug", err);
	middle = bench_now();
	if (kata_vm_remove_storage(g->vm, kata_storage_get_id(g->disks[0]), NULL, &err))
		return bench_fail("unplug", err);
	ret_ns[0] = middle - begin;
	ret_ns[1] = bench_now() - middle;
	return 0;
}

static int hand_disk(void *user, uint64_t ret_ns[BENCH_TIMES_MAX])
{
	static const char *const plug[] = {"{\"execute\":\"blockdev-add\",\"arguments\":{\"driver\":\"raw\",\"node-"
					   "name\":\"h0\",\"discard\":\"unmap\",\"file\":{\"driver\":"
					   "\"file\",\"filename\":\"/dev/fdset/77\"}}}\n",
					   "{\"execute\":\"device_add\",\"arguments\":{\"driver\":\"virtio-blk-pci\","
					   "\"id\":\"hd0\",\"drive\":\"h0\",\"bus\":\"p0\"}}\n"};
	struct guest *g = user;
	uint64_t begin = bench_now(), middle;
	int fd = open(g->image, O_RDWR | O_CLOEXEC);
	int rc = hand_qmp(&g->hand, "{\"execute\":\"add-fd\",\"arguments\":{\"fdset-id\":77}}\n", fd);

	close(fd);
	if (rc || hand_qmp(&g->hand, plug[0], -1) || hand_qmp(&g->hand, plug[1], -1) ||
	    hand_agent_await(&g->hand, "blk", "08/00"))
		return -1;
	middle = bench_now();
	if (hand_qmp(&g->hand, "{\"execute\":\"device_del\",\"arguments\":{\"id\":\"hd0\"}}\n", -1) ||
	    hand_qmp_until(&g->hand, "\"device\": \"hd0\"") ||
	    hand_qmp(&g->hand, "{\"execute\":\"blockdev-del\",\"arguments\":{\"node-name\":\"h0\"}}\n", -1) ||
	    hand_qmp(&g->hand, "{\"execute\":\"remove-fd\",\"arguments\":{\"fdset-id\":77}}\n", -1))
		return -1;
	ret_ns[0] = middle - begin;
	ret_ns[1] = bench_now() - middle;
	return 0;
}

static int disk(struct bench *b, struct bench_value *values)
{
	static struct guest g;
	struct bench_pairs p = {library_disk, hand_disk, &g, 30, 3, 2, 2};
	int rc = guest_open(&g, b, true);

	if (!rc)
		rc = bench_ratio(b, &p, values);
	guest_close(&g);
	return rc;
}

const struct bench_group bench_plug[] = {
	{30, parallel_mock, {{.name = "plug_parallel_mock", .unit = "ratio", .figures = {{NULL, 1.25, 1.05}}}}},
	{240, parallel_guest, {{.name = "plug_parallel_guest", .unit = "ratio", .figures = {{NULL, 1.00, 0.75}}}}},
	{240,
	 disk,
	 {{.name = "plug_vs_hand", .unit = "ratio", .figures = {{NULL, 1.10, 1.00}}},
	  {.name = "unplug_vs_hand", .unit = "ratio", .figures = {{NULL, 1.10, 1.00}}}}},
	{0, NULL, {{NULL}}},
};
