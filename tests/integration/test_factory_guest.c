/* SPDX-License-Identifier: Apache-2.0 */
/* The warm cache over the real QEMU with guests that have booted. */
#include <time.h>

#include "support/pool_kill.h"
#include "vm_test.h"

static struct machine m;
static kata_vm_builder *cache;
static kata_agent_builder *agents;
static kata_vm_config config;
static kata_error *err;

static void setup(void)
{
	machine_init(&m, 0);
	config = machine_config(&m);
	config.memory_mib = 192;
	fixture_assert_ok(kata_agent_builder_new_direct(m.f.context, &agents, &err), err);
}

static void teardown(void)
{
	kata_vm_builder_free(cache);
	cache = NULL;
	kata_agent_builder_free(agents);
	kata_vm_builder_free(m.builder);
	error_clear(&err);
	fixture_deinit(&m.f);
}

TestSuite(factory_guest, .init = setup, .fini = teardown, .timeout = 600);

static void fill(uint32_t count)
{
	kata_cache_size size = KATA_CACHE_SIZE_INIT;
	kata_cache_options options = KATA_CACHE_OPTIONS_INIT;

	size.config = &config;
	size.min = count;
	options.sizes = &size;
	options.size_count = 1;
	options.parallel = 2;
	options.probe_ms = 30000; /* of a machine that does much else */
	fixture_assert_ok(kata_vm_builder_new_cache(m.f.context, m.builder, NULL, &options, &cache, &err), err);
	fixture_assert_ok(kata_cache_wait_ready(cache, count, NULL, &err), err);
	size.min = 0;
	size.max = count;
	fixture_assert_ok(kata_cache_set_sizes(cache, &size, 1, &err), err); /* what is taken is not replaced */
}

static kata_vm *take(const char *id)
{
	kata_vm_config c = config;
	kata_vm *vm = NULL;

	c.id = id;
	fixture_assert_ok(kata_vm_builder_build(cache, &c, NULL, NULL, &vm, &err), err);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_WARM);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	cr_assert_gt(kata_vm_get_pid(vm), 0);
	return vm;
}

static kata_agent *connect_to(kata_vm *vm)
{
	kata_agent *agent = NULL;

	fixture_assert_ok(kata_agent_builder_build(agents, vm, NULL, NULL, &agent, &err), err);
	fixture_assert_ok(kata_agent_check(agent, NULL, &err), err);
	return agent;
}

static void end(kata_vm *vm)
{
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
}

/* The guest sees the device at its address. */
static void await_device(kata_agent *agent, const char *kind, const char *address)
{
	kata_agent_request r = {.size = sizeof(r), .method = KATA_AGENT_AWAIT_DEVICE};
	kata_op *op = NULL;

	r.device_kind = kind;
	r.device_address = address;
	fixture_assert_ok(kata_agent_call_begin(agent, &r, NULL, &op, &err), err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	kata_op_unref(op);
}

Test(factory_guest, a_warm_machine_has_the_devices_it_was_given_before_and_after_the_start)
{
	char *path = fixture_make_raw(&m.f, "a.raw", 1 << 20), *other = fixture_make_raw(&m.f, "b.raw", 1 << 20);
	kata_storage *before = fixture_storage("before", path, KATA_STORAGE_VIRTIO_BLK);
	kata_storage *after = fixture_storage("after", other, KATA_STORAGE_VIRTIO_SCSI);
	kata_storage *changed_his_mind = fixture_storage("not", other, KATA_STORAGE_VIRTIO_BLK);
	kata_nic *nic = fixture_nic("nic", NULL);
	char address[16];
	kata_agent *agent;
	kata_vm *vm;

	fill(1);
	vm = take("guest");
	fixture_assert_ok(kata_vm_add_storage(vm, before, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_storage(vm, changed_his_mind, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_nic(vm, nic, NULL, &err), err);
	fixture_assert_ok(kata_vm_remove_storage(vm, "not", NULL, &err), err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	agent = connect_to(vm);
	fixture_assert_ok(kata_vm_add_storage(vm, after, NULL, &err), err);
	kata_storage_get_address(before, address, sizeof(address));
	await_device(agent, "blk", address);
	kata_storage_get_address(after, address, sizeof(address));
	await_device(agent, "scsi", address);
	kata_nic_get_address(nic, address, sizeof(address));
	await_device(agent, "net", address);
	kata_agent_unref(agent);
	end(vm);
	kata_storage_unref(before);
	kata_storage_unref(after);
	kata_storage_unref(changed_his_mind);
	kata_nic_unref(nic);
	free(path);
	free(other);
}

/* The reply's data: random bytes drawn behind the reset; and the guest's clock. */
static void sample(kata_agent *agent, uint8_t bytes[32], double *ret_skew_s)
{
	kata_agent_request r = {.size = sizeof(r), .method = KATA_AGENT_RESET_IDENTITY};
	const kata_agent_reply *reply;
	struct timespec now;
	kata_op *op = NULL;

	r.max_length = 32;
	fixture_assert_ok(kata_agent_call_begin(agent, &r, NULL, &op, &err), err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	reply = kata_agent_op_get_reply(op);
	cr_assert_eq(reply->reset, 0u, "nothing was asked for but random bytes");
	cr_assert_eq(reply->data_length, 32u);
	memcpy(bytes, reply->data, 32);
	clock_gettime(CLOCK_REALTIME, &now);
	*ret_skew_s =
		(double)(now.tv_sec - reply->seconds) + ((double)now.tv_nsec / 1e9 - (double)reply->microseconds / 1e6);
	kata_op_unref(op);
}

Test(factory_guest, machines_of_a_pool_are_each_their_own_and_know_the_time)
{
	kata_agent *agent[2];
	uint8_t random[2][32];
	kata_vm *vm[2];
	double skew;

	fill(2);
	sleep(2); /* they lie there, and their clocks stand */
	vm[0] = take("one");
	vm[1] = take("two");
	for (int i = 0; i < 2; i++) {
		fixture_assert_ok(kata_vm_start(vm[i], NULL, &err), err);
		agent[i] = connect_to(vm[i]);
		sample(agent[i], random[i], &skew);
		cr_assert(skew > -1 && skew < 2, "its clock is %.3f s late", skew);
	}
	cr_assert_neq(memcmp(random[0], random[1], 32), 0);
	cr_assert_str_neq(kata_vm_get_uuid(vm[0]), kata_vm_get_uuid(vm[1]));
	for (int i = 0; i < 2; i++) {
		kata_agent_unref(agent[i]);
		end(vm[i]);
	}
}

Test(factory_guest, a_machine_that_dies_in_the_pool_or_is_stopped_is_not_handed_out)
{
	kata_cache_status s = {.size = sizeof(s)};
	int64_t pids[4];
	kata_vm *vm = NULL;

	fill(2);
	cr_assert_eq(census_find_processes(m.f.dir, pids, 4), 2u);
	cr_assert_eq(kill((pid_t)pids[0], SIGKILL), 0);
	cr_assert_eq(kill((pid_t)pids[1], SIGSTOP), 0); /* hangs: found out by the probe */
	kata_vm_builder_free(cache);
	cache = NULL;
	cr_assert_eq(census_find_processes(m.f.dir, pids, 4), 0u, "both were ended, the stopped one too");
	fill(1);
	cr_assert_eq(census_find_processes(m.f.dir, pids, 4), 1u);
	cr_assert_eq(kill((pid_t)pids[0], SIGKILL), 0);
	fixture_assert_ok(kata_vm_builder_build(cache, &config, NULL, NULL, &vm, &err), err);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_BOOTED, "there was one, and it was dead");
	fixture_assert_ok(kata_cache_get_status(cache, KATA_CACHE_ALL, &s, &err), err);
	cr_assert_eq(s.unhealthy, 1u);
	kata_vm_unref(vm);
}

/* ---- the process that keeps it is killed */

static void kill_during(const char *step)
{
	struct machine image;
	struct fixture f;
	struct pool_kill k = {
		.f = &f, .binary = "/usr/bin/qemu-system-x86_64", .machines = 1, .only = step, .brief = true};

	if (access(k.binary, X_OK))
		cr_skip_test("no /usr/bin/qemu-system-x86_64: install qemu-system-x86");
	find_image(&image);
	k.kernel = image.kernel;
	k.initrd = image.initrd;
	fixture_init(&f, false, 0);
	pool_kill_everywhere(&k);
	fixture_deinit(&f);
}

Test(factory_guest_kill, killed_where_machines_have_been_started, .timeout = 600)
{
	kill_during("pool-make/mark");
}

Test(factory_guest_kill, killed_where_one_has_got_its_name, .timeout = 600)
{
	kill_during("hand-out/move");
}
