/* SPDX-License-Identifier: Apache-2.0 */
/* Templates and their clones on the real QEMU. */
#include "integration/vm_test.h"

#include <time.h>

TestSuite(template, .timeout = 1800);

struct world {
	struct machine m;
	kata_vm_builder *builder;
	kata_agent_builder *agents;
	kata_vm_config config;
	char *path;
	kata_error *err;
};

static void open_world(struct world *w, uint64_t flags)
{
	kata_template_options o = KATA_TEMPLATE_OPTIONS_INIT;

	memset(w, 0, sizeof(*w));
	machine_init(&w->m, 0);
	w->path = fixture_path(&w->m.f, "template");
	w->config = machine_config(&w->m);
	o.path = w->path;
	o.flags = KATA_TEMPLATE_SHARE_MEMORY | flags;
	fixture_assert_ok(kata_agent_builder_new_direct(w->m.f.context, &w->agents, &w->err), w->err);
	fixture_assert_ok(kata_vm_builder_new_template(w->m.f.context, w->m.builder, NULL, &o, &w->builder, &w->err),
			  w->err);
}

static void close_world(struct world *w)
{
	kata_vm_builder_free(w->builder);
	kata_agent_builder_free(w->agents);
	free(w->path);
	machine_deinit(&w->m);
}

static kata_vm *clone_of(struct world *w, kata_vm_builder *builder, const char *id, kata_vm_origin origin)
{
	kata_vm_config c = w->config;
	kata_vm *vm = NULL;

	c.id = id;
	fixture_assert_ok(kata_vm_builder_build(builder, &c, NULL, NULL, &vm, &w->err), w->err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	cr_assert_eq(kata_vm_get_origin(vm), origin);
	return vm;
}

static kata_vm *clone(struct world *w, const char *id)
{
	return clone_of(w, w->builder, id, KATA_VM_CLONED);
}

static void print_timeline(const char *what, kata_op *op)
{
	kata_timeline_entry e = {.size = sizeof(e)};

	if (!getenv("KATA_TEST_TIMES"))
		return;
	fprintf(stderr, "%s:", what);
	for (size_t i = 0; i < kata_op_get_timeline_length(op); i++)
		if (kata_op_get_timeline_entry(op, i, &e, NULL) == 0)
			fprintf(stderr, " %s %.2f", e.step, (double)(e.end_ns - e.start_ns) / 1e6);
	fprintf(stderr, "; all %.2f ms\n", (double)(kata_op_get_end_ns(op) - kata_op_get_start_ns(op)) / 1e6);
}

static void start(struct world *w, kata_vm *vm)
{
	kata_op *op = NULL;

	fixture_assert_ok(kata_vm_start_begin(vm, NULL, &op, &w->err), w->err);
	fixture_assert_ok(kata_op_wait(op, &w->err), w->err);
	print_timeline("start", op);
	kata_op_unref(op);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_RUNNING);
}

static void check_agent(struct world *w, kata_vm *vm)
{
	kata_agent *agent = NULL;

	fixture_assert_ok(kata_agent_builder_build(w->agents, vm, NULL, NULL, &agent, &w->err), w->err);
	fixture_assert_ok(kata_agent_check(agent, NULL, &w->err), w->err);
	kata_agent_unref(agent);
}

static void end(struct world *w, kata_vm *vm)
{
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &w->err), w->err);
	kata_vm_unref(vm);
}

/* Random bytes of the guest's; its clock is right. */
static void sample(struct world *w, kata_vm *vm, uint8_t bytes[32])
{
	kata_agent_request r = {.size = sizeof(r), .method = KATA_AGENT_RESET_IDENTITY, .max_length = 32};
	const kata_agent_reply *reply;
	kata_agent *agent = NULL;
	kata_op *op = NULL;

	fixture_assert_ok(kata_agent_builder_build(w->agents, vm, NULL, NULL, &agent, &w->err), w->err);
	fixture_assert_ok(kata_agent_call_begin(agent, &r, NULL, &op, &w->err), w->err);
	fixture_assert_ok(kata_op_wait(op, &w->err), w->err);
	reply = kata_agent_op_get_reply(op);
	cr_assert_eq(reply->data_length, 32u);
	memcpy(bytes, reply->data, 32);
	cr_assert_leq(llabs(reply->seconds - (int64_t)time(NULL)), 1);
	kata_op_unref(op);
	kata_agent_unref(agent);
}

/* What must be another's in each. */
struct one {
	char uuid[37], mac[18];
	uint8_t random[32];
};

static void assert_distinct(const struct one *all, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		for (unsigned j = 0; j < i; j++) {
			cr_assert_str_neq(all[i].uuid, all[j].uuid);
			cr_assert_str_neq(all[i].mac, all[j].mac);
			cr_assert_neq(memcmp(all[i].random, all[j].random, 32), 0, "clones %u and %u", i, j);
		}
}

/* With a disk and a NIC from before its start, of which the guest lets go. */
static void use_up(struct world *w, kata_vm *vm, const char *path, struct one *ret)
{
	const uint64_t all = KATA_RESET_ENTROPY | KATA_RESET_CLOCK | KATA_RESET_HOSTNAME | KATA_RESET_MACHINE_ID |
			     KATA_RESET_MACS | KATA_RESET_UUID | KATA_RESET_CID;
	kata_storage *disk = fixture_storage("disk", path, KATA_STORAGE_VIRTIO_BLK);
	kata_nic *nic = fixture_nic("nic", NULL);

	fixture_assert_ok(kata_vm_add_storage(vm, disk, NULL, &w->err), w->err);
	fixture_assert_ok(kata_vm_add_nic(vm, nic, NULL, &w->err), w->err);
	start(w, vm);
	cr_assert_eq(kata_vm_get_identity_reset(vm), all);
	snprintf(ret->uuid, sizeof(ret->uuid), "%s", kata_vm_get_uuid(vm));
	snprintf(ret->mac, sizeof(ret->mac), "%s", kata_nic_get_mac(nic));
	sample(w, vm, ret->random);
	fixture_assert_ok(kata_vm_remove_storage(vm, "disk", NULL, &w->err), w->err);
	end(w, vm);
	kata_storage_unref(disk);
	kata_nic_unref(nic);
}

/* Its files are as they were written, to the last byte. */
static void check_unchanged(struct world *w)
{
	kata_snapshot *snapshot = NULL;
	char base[256];

	snprintf(base, sizeof(base), "%s/base", w->path);
	fixture_assert_ok(kata_snapshot_open(w->m.f.context, base, KATA_SNAPSHOT_VERIFY, &snapshot, &w->err), w->err);
	kata_snapshot_free(snapshot);
}

/* By turns in a VMM that waited and in one of its own; KATA_TEST_ROUNDS of them. */
static void check_distinct(struct world *w)
{
	const char *rounds = getenv("KATA_TEST_ROUNDS");
	unsigned count = rounds ? (unsigned)atoi(rounds) : 3;
	struct one *all = calloc(count, sizeof(*all));
	kata_template_options o = KATA_TEMPLATE_OPTIONS_INIT;
	kata_vm_builder *builder = NULL;
	char *path = fixture_make_raw(&w->m.f, "a.raw", 1 << 20);

	cr_assert_not_null(all);
	o.path = w->path;
	o.flags = KATA_TEMPLATE_SHARE_MEMORY;
	o.prestarted = 2;
	fixture_assert_ok(kata_vm_builder_new_template(w->m.f.context, w->m.builder, NULL, &o, &builder, &w->err),
			  w->err);
	fixture_assert_ok(kata_template_make(builder, &w->config, NULL, &w->err), w->err);
	for (unsigned i = 0; i < count; i++) {
		bool waited = i % 2 == 0;

		if (waited)
			fixture_assert_ok(kata_template_wait_prestarted(builder, 1, NULL, &w->err), w->err);
		use_up(w, waited ? clone_of(w, builder, NULL, KATA_VM_PRESTARTED) : clone(w, NULL), path, &all[i]);
	}
	assert_distinct(all, count);
	kata_vm_builder_free(builder);
	check_unchanged(w);
	free(path);
	free(all);
}

Test(template, the_first_build_makes_it_and_clones_start_and_answer)
{
	kata_template_status s = {.size = sizeof(s)};
	struct world w;
	kata_op *op = NULL;
	kata_vm *vm;

	open_world(&w, 0);
	fixture_assert_ok(kata_template_make_begin(w.builder, &w.config, NULL, &op, &w.err), w.err);
	fixture_assert_ok(kata_op_wait(op, &w.err), w.err);
	print_timeline("make", op);
	kata_op_unref(op);
	for (int i = 0; i < 2; i++) {
		vm = clone(&w, NULL);
		start(&w, vm);
		check_agent(&w, vm);
		end(&w, vm);
	}
	fixture_assert_ok(kata_template_get_status(w.builder, &s, &w.err), w.err);
	cr_assert(s.exists && s.is_valid, "%s", s.problem);
	cr_assert_eq(s.clones, 2u);
	cr_assert_eq(s.made, 1u);
	check_distinct(&w);
	fixture_assert_ok(kata_template_remove(w.builder, NULL, &w.err), w.err);
	cr_assert_lt(access(w.path, F_OK), 0);
	close_world(&w);
}
