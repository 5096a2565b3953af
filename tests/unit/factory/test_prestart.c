/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VMMs that a template keeps waiting for its state, on the driver of QEMU with the stand-in: how many there are,
 * what a build gets, when they go; and each step of starting one ahead, handing one out and starting what was handed
 * out fails before and after its work.
 */
#include "unit/factory/factory_test.h"

#include <signal.h>

#include "agent/agent.h"
#include "factory/template.h"
#include "vm/qemu/machine.h"

/* What of world is a cache is a template here. */
struct stock {
	struct world w;
	kata_template_options options;
	char *path;
};

static void open_builder(struct stock *s, uint32_t prestarted)
{
	struct kata__pool *pool;

	s->options.prestarted = prestarted;
	fixture_assert_ok(
		kata_vm_builder_new_template(s->w.f.context, s->w.inner, NULL, &s->options, &s->w.cache, &s->w.err),
		s->w.err);
	pool = kata__template_of(s->w.cache, NULL)->pool;
	if (pool)
		pool->retry_min_ms = 10;
}

static void close_builder(struct stock *s)
{
	kata_vm_builder_free(s->w.cache);
	s->w.cache = NULL;
}

static void make(struct stock *s)
{
	fixture_assert_ok(kata_template_make(s->w.cache, &s->w.config, NULL, &s->w.err), s->w.err);
}

static void await(struct stock *s, uint32_t count)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	kata_op *op = NULL;

	o.timeout_ms = 30000;
	fixture_assert_ok(kata_template_wait_prestarted_begin(s->w.cache, count, &o, &op, &s->w.err), s->w.err);
	fixture_assert_ok(kata_op_wait(op, &s->w.err), s->w.err);
	kata_op_unref(op);
}

/* The template is there, what is made once too, and the builder closed. */
static void stock_open(struct stock *s)
{
	memset(s, 0, sizeof(*s));
	world_open(&s->w, true, 0);
	s->w.config.memory_mib = 16;
	s->path = fixture_path(&s->w.f, "template");
	s->options = (kata_template_options)KATA_TEMPLATE_OPTIONS_INIT;
	s->options.path = s->path;
	s->options.flags = KATA_TEMPLATE_SHARE_MEMORY;
	open_builder(s, 1);
	make(s);
	await(s, 1);
	close_builder(s);
}

static void stock_close(struct stock *s)
{
	free(s->path);
	world_close(&s->w);
}

static kata_cache_status status(struct stock *s)
{
	kata_cache_status c = {.size = sizeof(c)};

	fixture_assert_ok(kata_template_get_prestarted(s->w.cache, &c, &s->w.err), s->w.err);
	return c;
}

static kata_vm *build(struct stock *s, const char *id, kata_vm_origin origin)
{
	kata_vm *vm = world_build(&s->w, id);

	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	cr_assert_eq(kata_vm_get_origin(vm), origin, "it is %s", kata_vm_origin_get_name(kata_vm_get_origin(vm)));
	if (id)
		cr_assert_str_eq(kata_vm_get_id(vm), id);
	return vm;
}

static void await_none(struct stock *s)
{
	kata_cache_status c;

	for (int i = 0; i < 10000; i++) {
		c = status(s);
		if (!c.ready && !c.making && !c.ending)
			return;
		usleep(1000); /* bounded; there is no event for a counter */
	}
	cr_assert_fail("%u ready, %u in the making, %u ending", c.ready, c.making, c.ending);
}

static kata_agent *agent_of(struct stock *s, kata_vm *vm)
{
	kata_agent *agent = NULL;

	fixture_assert_ok(kata_agent_builder_build(s->w.agents, vm, NULL, NULL, &agent, &s->w.err), s->w.err);
	return agent;
}

TestSuite(prestart, .timeout = 120);

Test(prestart, so_many_are_kept_and_what_is_taken_is_replaced)
{
	struct stock s;
	kata_vm *vm;

	stock_open(&s);
	open_builder(&s, 2);
	fixture_assert_fails(kata_template_wait_prestarted(s.w.cache, 1, NULL, &s.w.err), KATA_E_STATE, s.w.err);
	error_clear(&s.w.err);
	make(&s);
	await(&s, 2);
	cr_assert_eq(status(&s).made, 2u);
	vm = build(&s, "mine", KATA_VM_PRESTARTED);
	cr_assert_gt(kata_vm_get_pid(vm), 0, "its VMM is there");
	world_use_up(&s.w, vm);
	await(&s, 2);
	world_use_up(&s.w, build(&s, NULL, KATA_VM_PRESTARTED));
	await(&s, 2);
	cr_assert_eq(status(&s).taken, 2u);
	cr_assert_eq(status(&s).made, 4u);
	cr_assert_eq(status(&s).missed, 0u);
	fixture_assert_fails(kata_template_wait_prestarted(s.w.cache, 3, NULL, &s.w.err), KATA_E_INVALID, s.w.err);
	stock_close(&s);
}

Test(prestart, none_are_kept_unless_asked_for)
{
	struct stock s;

	stock_open(&s);
	open_builder(&s, 0);
	make(&s);
	world_use_up(&s.w, build(&s, "mine", KATA_VM_CLONED));
	cr_assert_eq(status(&s).made, 0u);
	fixture_assert_fails(kata_template_wait_prestarted(s.w.cache, 1, NULL, &s.w.err), KATA_E_STATE, s.w.err);
	error_clear(&s.w.err);
	close_builder(&s);
	s.options.prestarted = 4097;
	fixture_assert_fails(
		kata_vm_builder_new_template(s.w.f.context, s.w.inner, NULL, &s.options, &s.w.cache, &s.w.err),
		KATA_E_INVALID, s.w.err);
	stock_close(&s);
}

Test(prestart, one_has_the_devices_that_were_added_before_its_start)
{
	struct stock s;
	kata_storage *disk, *other;
	kata_nic *nic = fixture_nic("nic", NULL);
	kata_agent *agent;
	char *path;
	kata_vm *vm;

	stock_open(&s);
	open_builder(&s, 1);
	make(&s);
	await(&s, 1);
	path = fixture_make_raw(&s.w.f, "a.raw", 1 << 20);
	disk = fixture_storage("disk", path, KATA_STORAGE_VIRTIO_BLK);
	other = fixture_storage("other", path, KATA_STORAGE_VIRTIO_SCSI);
	vm = build(&s, "mine", KATA_VM_PRESTARTED);
	fixture_assert_ok(kata_vm_add_storage(vm, other, NULL, &s.w.err), s.w.err);
	fixture_assert_ok(kata_vm_remove_storage(vm, "other", NULL, &s.w.err), s.w.err);
	fixture_assert_ok(kata_vm_add_storage(vm, disk, NULL, &s.w.err), s.w.err);
	fixture_assert_ok(kata_vm_add_nic(vm, nic, NULL, &s.w.err), s.w.err);
	fixture_assert_ok(kata_vm_start(vm, NULL, &s.w.err), s.w.err);
	cr_assert_eq(kata_storage_get_state(disk), KATA_DEVICE_PLUGGED);
	cr_assert_eq(kata_nic_get_state(nic), KATA_DEVICE_PLUGGED);
	agent = agent_of(&s, vm);
	kata_agent_unref(agent);
	fixture_assert_ok(kata_vm_remove_storage(vm, "disk", NULL, &s.w.err), s.w.err);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &s.w.err), s.w.err);
	kata_vm_unref(vm);
	kata_storage_unref(disk);
	kata_storage_unref(other);
	kata_nic_unref(nic);
	free(path);
	stock_close(&s);
}

Test(prestart, what_fits_none_of_them_is_built_as_without_them)
{
	kata_vm_config other;
	kata_vm *vm = NULL;
	struct stock s;

	stock_open(&s);
	open_builder(&s, 1);
	make(&s);
	await(&s, 1);
	other = s.w.config;
	other.device_slots = 3;
	fixture_assert_ok(kata_vm_builder_build(s.w.cache, &other, NULL, NULL, &vm, &s.w.err), s.w.err);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_BOOTED);
	kata_vm_unref(vm);
	cr_assert_eq(status(&s).ready, 1u);
	stock_close(&s);
}

/* One that cannot be started is tried again, a while later each time; builds are ordinary clones meanwhile. */
Test(prestart, where_none_can_be_started_builds_are_ordinary_clones)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	struct stock s;

	stock_open(&s);
	open_builder(&s, 2);
	kata__template_of(s.w.cache, NULL)->pool->retry_max_ms = 40;
	fixture_assert_ok(kata_context_set_fail_point(s.w.f.context, "pool-prestart/prestart:before", KATA_FAIL_ERROR,
						      0, 0, 0, &s.w.err),
			  s.w.err);
	make(&s);
	world_use_up(&s.w, build(&s, "mine", KATA_VM_CLONED));
	o.timeout_ms = 300;
	fixture_assert_fails(kata_template_wait_prestarted(s.w.cache, 1, &o, &s.w.err), KATA_E_TIMEOUT, s.w.err);
	cr_assert(strstr(error_text(s.w.err), "pool-prestart"), "%s", error_text(s.w.err));
	error_clear(&s.w.err);
	cr_assert_eq(status(&s).missed, 1u);
	cr_assert_gt(status(&s).failed, 1u);
	cr_assert_lt(status(&s).failed, 100u, "it is not tried again at once");
	kata_context_clear_fail_point(s.w.f.context, NULL);
	await(&s, 2);
	stock_close(&s);
}

Test(prestart, they_go_with_the_template_and_those_of_a_new_one_come)
{
	kata_vm *vm = NULL;
	uint64_t made;
	struct stock s;

	stock_open(&s);
	s.options.flags |= KATA_TEMPLATE_REFUSE_STALE;
	open_builder(&s, 2);
	make(&s);
	await(&s, 2);
	make(&s);
	cr_assert_eq(status(&s).made, 2u, "nothing has changed: they stay");
	free(fixture_write_file(&s.w.f, strrchr(s.w.kernel, '/') + 1, "another kernel", 14));
	fixture_assert_fails(kata_vm_builder_build(s.w.cache, &s.w.config, NULL, NULL, &vm, &s.w.err), KATA_E_VERSION,
			     s.w.err);
	error_clear(&s.w.err);
	await_none(&s);
	made = status(&s).made;
	make(&s);
	await(&s, 2);
	cr_assert_eq(status(&s).made, made + 2);
	world_use_up(&s.w, build(&s, "mine", KATA_VM_PRESTARTED));
	fixture_assert_ok(kata_template_remove(s.w.cache, NULL, &s.w.err), s.w.err);
	await_none(&s);
	stock_close(&s);
}

static void kill_one(void *user)
{
	struct kata__pool *pool = user;

	kill((pid_t)kata_vm_get_pid(pool->sizes->ready->vm), SIGKILL);
}

Test(prestart, one_that_dies_is_replaced)
{
	struct stock s;

	stock_open(&s);
	open_builder(&s, 2);
	make(&s);
	await(&s, 2);
	kata__agent_on_leader(s.w.f.context, kill_one, kata__template_of(s.w.cache, NULL)->pool);
	for (int i = 0; i < 10000 && status(&s).unhealthy == 0; i++)
		usleep(1000); /* bounded; there is no event for a counter */
	cr_assert_eq(status(&s).unhealthy, 1u);
	await(&s, 2);
	world_use_up(&s.w, build(&s, "mine", KATA_VM_PRESTARTED));
	stock_close(&s);
}

Test(prestart, one_that_dies_before_its_start_has_ended)
{
	struct stock s;
	kata_vm *vm;

	stock_open(&s);
	open_builder(&s, 1);
	make(&s);
	await(&s, 1);
	vm = build(&s, "mine", KATA_VM_PRESTARTED);
	kill((pid_t)kata_vm_get_pid(vm), SIGKILL);
	fixture_assert_ok(kata_vm_wait(vm, 10000, &s.w.err), s.w.err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_ENDED);
	fixture_assert_fails(kata_vm_start(vm, NULL, &s.w.err), KATA_E_STATE, s.w.err);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, NULL), NULL);
	kata_vm_unref(vm);
	stock_close(&s);
}

/* ---- each step fails ---- */

static void arm(struct stock *s, const struct kata__op_table *table, size_t step, const char *where)
{
	char point[128];

	snprintf(point, sizeof(point), "%s/%s:%s", table->name, table->steps[step].name, where);
	fixture_assert_ok(kata_context_set_fail_point(s->w.f.context, point, KATA_FAIL_ERROR, 0, 0, 1, &s->w.err),
			  s->w.err);
}

/* Races show at a third of the steps as well, and there each start takes long. */
#ifdef __SANITIZE_THREAD__
#define STRIDE 3
#else
#define STRIDE 1
#endif

/* act NULL: of making one. */
static void each_step(const struct kata__op_table *table, uint32_t kept, void (*act)(struct stock *s, const char *step))
{
	static const char *const places[] = {"before", "after"};
	struct stock s;

	stock_open(&s);
	for (size_t i = 0; i < 2 * table->count; i += STRIDE) {
		struct census *before = fixture_census(&s.w.f);

		open_builder(&s, kept);
		if (act) {
			make(&s);
			await(&s, kept);
		}
		arm(&s, table, i / 2, places[i % 2]);
		if (act) {
			act(&s, table->steps[i / 2].name);
		} else {
			make(&s);
			await(&s, kept);
			cr_assert_eq(status(&s).failed, 1u, "%s", table->steps[i / 2].name);
			cr_assert(strstr(status(&s).last_error, table->steps[i / 2].name), "%s", status(&s).last_error);
			world_use_up(&s.w, build(&s, "mine", KATA_VM_PRESTARTED));
		}
		kata_context_clear_fail_point(s.w.f.context, NULL);
		close_builder(&s);
		fixture_assert_census(&s.w.f, before, table->steps[i / 2].name);
	}
	stock_close(&s);
}

Test(prestart_steps, each_of_making_one, .timeout = 120)
{
	each_step(&kata__pool_prestart_table, 1, NULL);
}

Test(prestart_steps, each_of_starting_a_vmm_ahead, .timeout = 120)
{
	each_step(&kata__qemu_prestart, 1, NULL);
}

static void next_is_taken(struct stock *s, const char *step)
{
	kata_vm *vm = build(s, "mine", KATA_VM_PRESTARTED);

	cr_assert_eq(status(s).unhealthy, 1u, "%s", step);
	world_use_up(&s->w, vm);
	await(s, 2);
}

Test(prestart_steps, each_of_handing_one_out, .timeout = 120)
{
	each_step(&kata__hand_out_prestarted_table, 2, next_is_taken);
}

/* The VMM goes, and the next start begins from the beginning; or nothing was done yet, and all is as it was. */
static void start_fails(struct stock *s, const char *step)
{
	kata_vm *vm = build(s, "mine", KATA_VM_PRESTARTED);
	char dir[128];
	bool kept;

	snprintf(dir, sizeof(dir), "%s/vm/mine", s->w.f.state_dir);
	cr_assert_eq(access(dir, F_OK), 0);
	fixture_assert_fails(kata_vm_start(vm, NULL, &s->w.err), KATA_E_INJECTED, s->w.err);
	error_clear(&s->w.err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED, "%s", step);
	kept = kata_vm_get_pid(vm) > 0;
	cr_assert(kept ? strcmp(step, "claim") == 0 || strcmp(step, "watched") == 0 : kata_vm_get_pid(vm) == 0, "%s",
		  step);
	cr_assert_eq(access(dir, F_OK) == 0, kept, "%s", step);
	world_use_up(&s->w, vm);
}

Test(prestart_steps, each_of_starting_what_was_handed_out, .timeout = 120)
{
	each_step(&kata__qemu_start_prestarted, 1, start_fails);
}

/* What is in the making when the builder goes, goes too, wherever it hangs. */
Test(prestart_steps, the_builder_is_freed_while_one_hangs, .timeout = 120)
{
	struct stock s;

	stock_open(&s);
	for (size_t i = 0; i < kata__pool_prestart_table.count; i++) {
		struct census *before = fixture_census(&s.w.f);
		char point[128];

		open_builder(&s, 1);
		snprintf(point, sizeof(point), "pool-prestart/%s:after", kata__pool_prestart_table.steps[i].name);
		fixture_assert_ok(kata_context_set_fail_point(s.w.f.context, point, KATA_FAIL_HANG, 0, 0, 1, &s.w.err),
				  s.w.err);
		make(&s);
		usleep(20000); /* usually enough to come to the step; else it is cancelled on its way: right too */
		close_builder(&s);
		kata_context_clear_fail_point(s.w.f.context, NULL);
		fixture_assert_census(&s.w.f, before, kata__pool_prestart_table.steps[i].name);
	}
	stock_close(&s);
}
