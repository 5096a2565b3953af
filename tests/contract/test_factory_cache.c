/* SPDX-License-Identifier: Apache-2.0 */
/* The warm cache over the mock: what is kept ready, what a build gets, what happens to what is not well. */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/fixture.h"

#define LONG_MS 20000u

static struct fixture f;
static kata_vm_builder *mock, *cache;
static kata_agent_builder *agents;
static kata_vm_config config;
static kata_cache_size size_of_one[2];
static kata_cache_options options;
static kata_error *err;

static void open_with(uint64_t context_flags)
{
	fixture_init(&f, true, context_flags);
	fixture_assert_ok(kata_vm_builder_new_mock(f.context, &mock, &err), err);
	fixture_assert_ok(kata_agent_builder_new_direct(f.context, &agents, &err), err);
	config = (kata_vm_config)KATA_VM_CONFIG_INIT;
	config.device_slots = 4;
	size_of_one[0] = (kata_cache_size)KATA_CACHE_SIZE_INIT;
	size_of_one[0].config = &config;
	size_of_one[0].min = 2;
	size_of_one[0].max = 4;
	options = (kata_cache_options)KATA_CACHE_OPTIONS_INIT;
	options.sizes = size_of_one;
	options.size_count = 1;
	options.retry_min_ms = 50;
	options.retry_max_ms = 400;
}

static void setup(void)
{
	open_with(0);
}

static void teardown(void)
{
	kata_vm_builder_free(cache);
	cache = NULL;
	kata_agent_builder_free(agents);
	kata_vm_builder_free(mock);
	error_clear(&err);
	fixture_deinit(&f);
}

TestSuite(cache, .init = setup, .fini = teardown, .timeout = 60);

static void make_cache(void)
{
	fixture_assert_ok(kata_vm_builder_new_cache(f.context, mock, NULL, &options, &cache, &err), err);
}

static void await_ready(uint32_t count)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;

	o.timeout_ms = LONG_MS;
	fixture_assert_ok(kata_cache_wait_ready(cache, count, &o, &err), err);
}

static kata_cache_status status_of(size_t index)
{
	kata_cache_status s = {.size = sizeof(s)};

	fixture_assert_ok(kata_cache_get_status(cache, index, &s, &err), err);
	return s;
}

/* There is no event for a counter: bounded. */
#define await_status(condition)                                                                                        \
	do {                                                                                                           \
		kata_cache_status s_;                                                                                  \
		int tries_ = 0;                                                                                        \
		do {                                                                                                   \
			s_ = status_of(KATA_CACHE_ALL);                                                                \
			cr_assert_lt(tries_++, 4000, "%s does not come true", #condition);                             \
			usleep(5000);                                                                                  \
		} while (!(condition));                                                                                \
	} while (0)

static kata_vm *build(const char *id)
{
	kata_vm_config c = config;
	kata_vm *vm = NULL;

	c.id = id;
	fixture_assert_ok(kata_vm_builder_build(cache, &c, NULL, NULL, &vm, &err), err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	return vm;
}

/* It runs and its agent answers. */
static void use(kata_vm *vm)
{
	kata_agent *agent = NULL;
	char *json = NULL;

	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	fixture_assert_ok(kata_agent_builder_build(agents, vm, NULL, NULL, &agent, &err), err);
	fixture_assert_ok(kata_agent_check(agent, NULL, &err), err);
	fixture_assert_ok(kata_agent_release(agent, &json, &err), err);
	kata_agent_unref(agent);
	free(json);
}

static void end(kata_vm *vm)
{
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
}

/* ---- what a build gets ---- */

Test(cache, a_build_gets_a_warm_machine_that_starts_and_answers)
{
	kata_vm *vm;

	make_cache();
	await_ready(2);
	vm = build("mine");
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_WARM);
	cr_assert_str_eq(kata_vm_get_id(vm), "mine");
	cr_assert_eq(kata_vm_get_identity_reset(vm), KATA_RESET_ENTROPY | KATA_RESET_CLOCK | KATA_RESET_HOSTNAME |
							     KATA_RESET_MACHINE_ID | KATA_RESET_MACS | KATA_RESET_UUID |
							     KATA_RESET_CID);
	use(vm);
	cr_assert_eq(status_of(0).taken, 1u);
	end(vm);
}

Test(cache, what_was_taken_is_made_anew)
{
	kata_vm *vm[6];

	make_cache();
	for (size_t i = 0; i < 6; i++) {
		await_ready(2);
		vm[i] = build(NULL);
		cr_assert_eq(kata_vm_get_origin(vm[i]), KATA_VM_WARM);
		for (size_t j = 0; j < i; j++)
			cr_assert_str_neq(kata_vm_get_uuid(vm[i]), kata_vm_get_uuid(vm[j]));
	}
	await_ready(2);
	cr_assert_eq(status_of(0).made, 8u);
	cr_assert_eq(status_of(0).taken, 6u);
	for (size_t i = 0; i < 6; i++) {
		use(vm[i]);
		end(vm[i]);
	}
}

Test(cache, a_build_that_fits_nothing_is_an_exact_boot_that_says_so)
{
	kata_vm_config other = config;
	kata_vm *vm = NULL;

	make_cache();
	await_ready(2);
	other.cpus = 3;
	fixture_assert_ok(kata_vm_builder_build(cache, &other, NULL, NULL, &vm, &err), err);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_BOOTED);
	use(vm);
	end(vm);
	cr_assert_eq(status_of(KATA_CACHE_ALL).missed, 1u);
	cr_assert_eq(status_of(0).missed, 0u);
	cr_assert_eq(status_of(0).ready, 2u);
}

Test(cache, every_member_of_the_config_but_the_id_must_be_the_same)
{
	static const char *const params[] = {"quiet", NULL}, *const more[] = {"quiet", "debug", NULL};
	kata_vm_config base, c;
	kata_vm *vm = NULL;

	config.kernel_params = params;
	config.memory_mib = 128;
	config.memory_max_mib = 512;
	config.memory_slots = 1;
	config.machine = "q35";
	make_cache();
	await_ready(2);
	base = config;
#define DIFFERS(change)                                                                                                \
	do {                                                                                                           \
		c = base;                                                                                              \
		change;                                                                                                \
		fixture_assert_ok(kata_vm_builder_build(cache, &c, NULL, NULL, &vm, &err), err);                       \
		cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_BOOTED, "%s", #change);                                   \
		kata_vm_unref(vm);                                                                                     \
		vm = NULL;                                                                                             \
	} while (0)
	DIFFERS(c.cpus = 2);
	DIFFERS(c.cpus_max = 2);
	DIFFERS(c.memory_mib = 256);
	DIFFERS(c.memory_max_mib = 1024);
	DIFFERS(c.memory_slots = 2);
	DIFFERS(c.kernel = "/other/kernel");
	DIFFERS(c.initrd = "/other/initrd");
	DIFFERS(c.image = "/other/image");
	DIFFERS(c.kernel_params = more);
	DIFFERS(c.kernel_params = NULL);
	DIFFERS(c.memory_path = "/tmp/memory");
	DIFFERS(c.machine = NULL);
	DIFFERS(c.device_slots = 5);
	c = base;
	c.cpus = 1; /* the default, spelled out */
	c.id = "same";
	fixture_assert_ok(kata_vm_builder_build(cache, &c, NULL, NULL, &vm, &err), err);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_WARM);
	end(vm);
}

Test(cache, another_transport_or_limits_are_an_exact_boot)
{
	kata_agent_config agent = KATA_AGENT_CONFIG_INIT;
	kata_qos_config qos = {.size = sizeof(qos), .inbound_average_bytes = 1};
	kata_vm *vm = NULL;

	make_cache();
	await_ready(2);
	fixture_assert_fails(kata_vm_builder_build(cache, &config, NULL, &qos, &vm, &err), KATA_E_UNSUPPORTED, err);
	error_clear(&err);
	agent.transport = KATA_AGENT_VSOCK;
	fixture_assert_fails(kata_vm_builder_build(cache, &config, &agent, NULL, &vm, &err), KATA_E_UNSUPPORTED, err);
	error_clear(&err);
	agent.transport = KATA_AGENT_VIRTIO_SERIAL;
	fixture_assert_ok(kata_vm_builder_build(cache, &config, &agent, NULL, &vm, &err), err);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_WARM);
	end(vm);
}

Test(cache, devices_may_be_added_before_and_after_the_start)
{
	kata_storage *before, *after;
	kata_nic *nic = fixture_nic("nic", NULL);
	kata_vm *vm;

	make_cache();
	await_ready(1);
	vm = build("mine");
	before = fixture_storage("before", "/mock/before", KATA_STORAGE_VIRTIO_BLK);
	after = fixture_storage("after", "/mock/after", KATA_STORAGE_VIRTIO_SCSI);
	fixture_assert_ok(kata_vm_add_storage(vm, before, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_nic(vm, nic, NULL, &err), err);
	use(vm);
	fixture_assert_ok(kata_vm_add_storage(vm, after, NULL, &err), err);
	cr_assert_eq(kata_vm_get_storage_count(vm), 2u);
	end(vm);
	kata_storage_unref(before);
	kata_storage_unref(after);
	kata_nic_unref(nic);
}

Test(cache, an_id_that_is_in_use_is_refused_and_costs_no_machine)
{
	kata_vm_config c = config;
	kata_vm *first, *second = NULL;

	make_cache();
	await_ready(2);
	first = build("mine");
	await_ready(2);
	c.id = "mine";
	fixture_assert_fails(kata_vm_builder_build(cache, &c, NULL, NULL, &second, &err), KATA_E_EXISTS, err);
	error_clear(&err);
	cr_assert_null(second);
	cr_assert_eq(status_of(0).ready, 2u);
	cr_assert_eq(status_of(0).unhealthy, 0u);
	end(first);
	second = build("mine");
	cr_assert_eq(kata_vm_get_origin(second), KATA_VM_WARM);
	end(second);
}

Test(cache, a_sandbox_is_made_of_a_warm_machine)
{
	kata_sandbox *sandbox = NULL;

	make_cache();
	await_ready(1);
	config.id = "pod";
	fixture_assert_ok(kata_sandbox_create(f.context, NULL, cache, &config, NULL, NULL, &sandbox, &err), err);
	fixture_assert_ok(kata_sandbox_start(sandbox, NULL, &err), err);
	cr_assert_eq(status_of(0).taken, 1u);
	fixture_assert_ok(kata_sandbox_destroy(sandbox, NULL, &err), err);
	kata_sandbox_unref(sandbox);
	config.id = NULL;
}

Test(cache, a_taken_machine_is_released_and_rebuilt_like_any_other)
{
	kata_vm *vm;
	char *json = NULL;

	make_cache();
	await_ready(1);
	vm = build("mine");
	fixture_assert_fails(kata_vm_release(vm, NULL, &json, &err), KATA_E_STATE, err);
	error_clear(&err);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	json = fixture_release(&vm);
	fixture_assert_ok(kata_vm_builder_build_from_released(cache, json, strlen(json), NULL, &vm, &err), err);
	cr_assert_str_eq(kata_vm_get_id(vm), "mine");
	end(vm);
	free(json);
}

/* ---- what is kept ---- */

Test(cache, capabilities_are_those_of_the_inner_builder)
{
	kata_capabilities a = {.size = sizeof(a)}, b = {.size = sizeof(b)};

	make_cache();
	fixture_assert_ok(kata_vm_builder_get_capabilities(cache, &a, &err), err);
	fixture_assert_ok(kata_vm_builder_get_capabilities(mock, &b, &err), err);
	cr_assert_str_eq(a.driver, b.driver);
	cr_assert_eq(memcmp(&a, &b, sizeof(a)), 0);
}

Test(cache, no_more_are_made_at_once_than_allowed)
{
	kata_cache_status s;
	unsigned most = 0;

	size_of_one[0].min = size_of_one[0].max = 8;
	options.parallel = 3;
	fixture_assert_ok(kata_mock_set_delay(mock, KATA_MOCK_START, 20, &err), err);
	make_cache();
	do {
		s = status_of(KATA_CACHE_ALL);
		cr_assert_leq(s.making, 3u);
		cr_assert_leq(s.making + s.ready, 8u);
		most = s.making > most ? s.making : most;
	} while (s.ready < 8);
	cr_assert_eq(most, 3u);
}

Test(cache, a_miss_raises_what_is_kept_up_to_the_max)
{
	kata_vm *vm[4];

	size_of_one[0].min = 0;
	size_of_one[0].max = 2;
	make_cache();
	for (uint32_t i = 0; i < 3; i++) {
		cr_assert_eq(status_of(0).wanted, i < 2 ? i : 2);
		for (uint32_t j = 0; j < status_of(0).wanted; j++)
			kata_vm_unref(build(NULL));
		vm[i] = NULL;
		while (!vm[i] || kata_vm_get_origin(vm[i]) == KATA_VM_WARM) {
			kata_vm_unref(vm[i]);
			vm[i] = build(NULL);
		}
		kata_vm_unref(vm[i]);
	}
	cr_assert_eq(status_of(0).wanted, 2u);
	await_ready(2);
}

Test(cache, waiting_for_more_than_the_min_keeps_more)
{
	make_cache();
	await_ready(4);
	cr_assert_eq(status_of(0).ready, 4u);
	fixture_assert_fails(kata_cache_wait_ready(cache, 5, NULL, &err), KATA_E_INVALID, err);
	cr_assert(strstr(kata_error_get_message(err), "4"), "%s", error_text(err));
}

Test(cache, several_sizes_are_kept_and_each_build_gets_its_own)
{
	kata_vm_config large = config;
	kata_vm *vm = NULL;

	large.memory_mib = 512;
	size_of_one[1] = (kata_cache_size)KATA_CACHE_SIZE_INIT;
	size_of_one[1].config = &large;
	size_of_one[1].min = 1;
	options.size_count = 2;
	make_cache();
	await_ready(3);
	cr_assert_eq(kata_cache_get_size_count(cache), 2u);
	cr_assert_eq(status_of(0).ready, 2u);
	cr_assert_eq(status_of(1).ready, 1u);
	fixture_assert_ok(kata_vm_builder_build(cache, &large, NULL, NULL, &vm, &err), err);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_WARM);
	cr_assert_eq(status_of(1).taken, 1u);
	cr_assert_eq(status_of(0).taken, 0u);
	end(vm);
}

Test(cache, machines_of_a_size_that_goes_are_ended_and_those_that_fit_stay)
{
	kata_vm_config large = config;
	kata_cache_size sizes[2] = {KATA_CACHE_SIZE_INIT, KATA_CACHE_SIZE_INIT};
	uint64_t made;

	make_cache();
	await_ready(2);
	large.memory_mib = 512;
	sizes[0].config = &large;
	sizes[0].min = 1;
	sizes[1] = size_of_one[0];
	fixture_assert_ok(kata_cache_set_sizes(cache, sizes, 2, &err), err);
	await_ready(3);
	cr_assert_eq(status_of(KATA_CACHE_ALL).made, 3u, "the two were kept");
	cr_assert_eq(status_of(1).ready, 2u);
	fixture_assert_ok(kata_cache_set_sizes(cache, sizes, 1, &err), err);
	await_status(s_.ready == 1 && s_.ending == 0);
	cr_assert_eq(status_of(0).ready, 1u);
	fixture_assert_fails(
		kata_cache_get_status(cache, 2, &(kata_cache_status){.size = sizeof(kata_cache_status)}, &err),
		KATA_E_NOT_FOUND, err);
	error_clear(&err);
	made = status_of(KATA_CACHE_ALL).made;
	sizes[1].min = 3;
	fixture_assert_ok(kata_cache_set_sizes(cache, &sizes[1], 1, &err), err);
	await_ready(3);
	cr_assert_eq(status_of(KATA_CACHE_ALL).made, made + 3);
	sizes[1].min = sizes[1].max = 1;
	fixture_assert_ok(kata_cache_set_sizes(cache, &sizes[1], 1, &err), err);
	await_status(s_.ready == 1 && s_.ending == 0);
	fixture_assert_ok(kata_cache_set_sizes(cache, NULL, 0, &err), err);
	await_status(s_.ready == 0 && s_.ending == 0 && s_.making == 0);
}

Test(cache, one_in_the_making_for_a_size_that_goes_is_ended)
{
	fixture_assert_ok(kata_mock_set_delay(mock, KATA_MOCK_START, 200, &err), err);
	make_cache();
	await_status(s_.making == 1);
	fixture_assert_ok(kata_cache_set_sizes(cache, NULL, 0, &err), err);
	await_status(s_.making == 0 && s_.ending == 0);
	cr_assert_eq(status_of(KATA_CACHE_ALL).failed, 0u, "nothing has failed");
	cr_assert_eq(status_of(KATA_CACHE_ALL).ready, 0u);
}

Test(cache, a_drained_cache_has_none_and_makes_none_until_it_gets_sizes)
{
	kata_vm *vm;

	size_of_one[0].min = 3;
	options.parallel = 2;
	make_cache();
	await_ready(1);
	fixture_assert_ok(kata_cache_drain(cache, NULL, &err), err);
	cr_assert_eq(status_of(KATA_CACHE_ALL).ready + status_of(KATA_CACHE_ALL).making, 0u);
	cr_assert_eq(status_of(KATA_CACHE_ALL).ending, 0u);
	fixture_assert_fails(kata_cache_wait_ready(cache, 1, NULL, &err), KATA_E_STATE, err);
	error_clear(&err);
	vm = build(NULL);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_BOOTED);
	end(vm);
	fixture_assert_ok(kata_cache_drain(cache, NULL, &err), err); /* again: nothing to do */
	fixture_assert_ok(kata_cache_set_sizes(cache, size_of_one, 1, &err), err);
	await_ready(3);
}

Test(cache, a_drain_that_takes_too_long_says_so_and_goes_on)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;

	make_cache();
	await_ready(2);
	fixture_assert_ok(kata_mock_set_delay(mock, KATA_MOCK_DESTROY, 300, &err), err);
	o.timeout_ms = 20;
	fixture_assert_fails(kata_cache_drain(cache, &o, &err), KATA_E_TIMEOUT, err);
	error_clear(&err);
	await_status(s_.ready + s_.ending == 0);
}

Test(cache, who_waits_for_machines_is_told_of_a_drain)
{
	kata_op *op = NULL;

	fixture_assert_ok(kata_mock_set_delay(mock, KATA_MOCK_START, 60000, &err), err);
	make_cache();
	fixture_assert_ok(kata_cache_wait_ready_begin(cache, 1, NULL, &op, &err), err);
	fixture_assert_ok(kata_cache_drain(cache, NULL, &err), err);
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_STATE, err);
	kata_op_unref(op);
}

Test(cache, machines_that_reach_their_age_are_replaced_and_the_pool_does_not_run_dry)
{
	kata_cache_status s;

	options.age_max_ms = 100;
	make_cache();
	await_ready(2);
	do {
		s = status_of(0);
		cr_assert_geq(s.ready, 2u, "after %llu", (unsigned long long)s.aged);
	} while (s.aged < 6);
	cr_assert_eq(s.unhealthy, 0u);
}

Test(cache, what_was_raised_falls_again_with_age)
{
	options.age_max_ms = 50;
	make_cache();
	await_ready(4);
	await_status(s_.wanted == 2 && s_.ready == 2);
}

Test(cache, a_machine_whose_kernel_has_changed_is_not_handed_out)
{
	char *kernel = fixture_make_kernel(&f);
	kata_vm *vm;

	config.kernel = kernel;
	make_cache();
	await_ready(2);
	free(fixture_make_kernel(&f)); /* written anew */
	vm = build(NULL);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_BOOTED);
	end(vm);
	cr_assert_eq(status_of(0).outdated, 2u);
	await_ready(2);
	vm = build(NULL);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_WARM);
	end(vm);
	free(kernel);
}

/* ---- what is not well ---- */

Test(cache, a_boot_that_fails_is_tried_again_later_and_ever_later)
{
	kata_cache_status s;

	fixture_assert_ok(kata_mock_set_failure(mock, KATA_MOCK_START, KATA_E_VMM, 5, &err), err);
	make_cache();
	await_status(s_.failed == 3);
	s = status_of(0);
	cr_assert(strstr(s.last_error, "told to fail"), "%s", s.last_error);
	cr_assert_gt(s.next_try_ms, 100u, "50, 100, then 200 ms");
	cr_assert_leq(s.next_try_ms, 200u);
	await_ready(2);
	s = status_of(0);
	cr_assert_eq(s.failed, 5u, "no try in between");
	cr_assert_eq(s.next_try_ms, 0u);
	cr_assert_eq(s.made, 2u);
}

Test(cache, boots_that_always_fail_neither_close_the_pool_nor_spin)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	kata_vm *vm;

	fixture_assert_ok(kata_mock_set_failure(mock, KATA_MOCK_START, KATA_E_VMM, 1000, &err), err);
	options.parallel = 4;
	make_cache();
	o.timeout_ms = 600;
	fixture_assert_fails(kata_cache_wait_ready(cache, 1, &o, &err), KATA_E_TIMEOUT, err);
	cr_assert(strstr(error_text(err), "told to fail"), "%s", error_text(err));
	error_clear(&err);
	cr_assert_leq(status_of(0).failed, 12u);
	vm = build(NULL); /* an exact one, as ever */
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_BOOTED);
	kata_vm_unref(vm);
	fixture_assert_ok(kata_mock_set_failure(mock, KATA_MOCK_START, KATA_E_VMM, 0, &err), err);
	await_ready(2);
}

Test(cache, one_that_does_not_answer_is_ended_and_the_next_is_taken)
{
	kata_vm *vm;

	make_cache();
	await_ready(2);
	fixture_assert_ok(kata_mock_set_failure(mock, KATA_MOCK_AGENT_CALL, KATA_E_GUEST, 1, &err), err);
	vm = build("mine");
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_WARM);
	cr_assert_eq(status_of(0).unhealthy, 1u);
	use(vm);
	end(vm);
	await_ready(2);
}

Test(cache, where_none_is_well_it_is_an_exact_boot)
{
	kata_vm *vm;

	make_cache();
	await_ready(2);
	fixture_assert_ok(kata_mock_set_failure(mock, KATA_MOCK_AGENT_CALL, KATA_E_GUEST, 2, &err), err);
	vm = build("mine");
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_BOOTED);
	cr_assert_eq(status_of(0).unhealthy, 2u);
	use(vm);
	end(vm);
}

Test(cache, one_that_hangs_costs_no_more_than_the_probe)
{
	kata_vm *vm;

	size_of_one[0].min = size_of_one[0].max = 1;
	options.probe_ms = 100;
	make_cache();
	await_ready(1);
	fixture_assert_ok(kata_mock_set_delay(mock, KATA_MOCK_AGENT_CALL, 60000, &err), err);
	vm = build("mine");
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_BOOTED);
	cr_assert_eq(status_of(0).unhealthy, 1u);
	end(vm);
	fixture_assert_ok(kata_mock_set_delay(mock, KATA_MOCK_AGENT_CALL, 0, &err), err);
}

/* ---- life ---- */

Test(cache, it_may_be_freed_while_machines_are_made)
{
	fixture_assert_ok(kata_mock_set_delay(mock, KATA_MOCK_START, 100, &err), err);
	options.parallel = 2;
	make_cache();
	await_status(s_.making == 2);
}

Test(cache, machines_that_were_handed_out_do_not_need_it)
{
	kata_vm *vm;

	make_cache();
	await_ready(1);
	vm = build("mine");
	kata_vm_builder_free(cache);
	cache = NULL;
	use(vm);
	end(vm);
}

Test(cache, an_empty_one_is_filled_later)
{
	options.size_count = 0;
	options.sizes = NULL;
	make_cache();
	cr_assert_eq(kata_cache_get_size_count(cache), 0u);
	fixture_assert_ok(kata_cache_set_sizes(cache, size_of_one, 1, &err), err);
	await_ready(2);
}

Test(cache, a_cache_of_a_cache_works)
{
	kata_vm_builder *inner;
	kata_vm *vm;

	make_cache();
	inner = cache;
	await_ready(2);
	fixture_assert_ok(kata_vm_builder_new_cache(f.context, inner, agents, &options, &cache, &err), err);
	await_ready(2);
	vm = build("mine");
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_WARM);
	use(vm);
	end(vm);
	kata_vm_builder_free(cache);
	cache = inner;
}

static void build_in_a_callback(void *user, kata_op *op)
{
	kata_error *error = NULL;
	kata_vm *vm = NULL;
	int *ret = user;

	*ret = kata_vm_builder_build(cache, &config, NULL, NULL, &vm, &error);
	kata_error_free(error);
	if (*ret == 0)
		kata_vm_unref(vm);
	if (*ret == KATA_E_STATE)
		*ret = kata_cache_wait_ready(cache, 1, NULL, NULL) == KATA_E_STATE ? KATA_E_STATE : 1;
	if (*ret == KATA_E_STATE)
		*ret = kata_cache_drain(cache, NULL, NULL) == KATA_E_STATE ? KATA_E_STATE : 1;
}

static void let_go(void *user)
{
	char byte = 0;

	cr_assert_eq(write(*(int *)user, &byte, 1), 1);
}

struct in_callback {
	int rc; /* first: the callback's */
	int fds[2];
};

static void free_in_callback(void *user)
{
	let_go(&((struct in_callback *)user)->fds[1]);
}

Test(cache, what_waits_is_refused_in_a_callback)
{
	struct in_callback in = {.rc = 0};
	kata_op *op = NULL;
	char byte;

	make_cache();
	await_ready(2);
	cr_assert_eq(pipe(in.fds), 0);
	fixture_assert_ok(kata_cache_wait_ready_begin(cache, 2, NULL, &op, &err), err);
	fixture_assert_ok(kata_op_set_callback(op, build_in_a_callback, &in, free_in_callback, &err), err);
	cr_assert_eq(read(in.fds[0], &byte, 1), 1);
	cr_assert_eq(in.rc, KATA_E_STATE);
	kata_op_unref(op);
	close(in.fds[0]);
	close(in.fds[1]);
}

static void free_the_cache(void *user, kata_op *op)
{
	kata_vm_builder_free(cache);
	cache = NULL;
}

Test(cache, it_may_be_freed_in_a_callback)
{
	struct in_callback in = {.rc = 0};
	kata_op *op = NULL;
	char byte;
	int rc;

	make_cache();
	await_ready(2);
	cr_assert_eq(pipe(in.fds), 0);
	fixture_assert_ok(kata_cache_wait_ready_begin(cache, 2, NULL, &op, &err), err);
	fixture_assert_ok(kata_op_set_callback(op, free_the_cache, &in, free_in_callback, &err), err);
	cr_assert_eq(read(in.fds[0], &byte, 1), 1);
	kata_op_unref(op);
	close(in.fds[0]);
	close(in.fds[1]);
	/* Its machines end in the background: the context says when. */
	kata_agent_builder_free(agents);
	agents = NULL;
	kata_vm_builder_free(mock);
	mock = NULL;
	for (int i = 0; (rc = kata_context_free(f.context, NULL)) == KATA_E_BUSY && i < 2000; i++)
		usleep(5000);
	cr_assert_eq(rc, 0);
	f.context = NULL;
}

/* ---- a loop of the caller's ---- */

Test(cache_of_an_external_loop, it_works_while_the_caller_dispatches, .timeout = 60)
{
	struct pollfd p;
	kata_vm *vm;

	open_with(KATA_CONTEXT_EXTERNAL_LOOP);
	make_cache();
	p = (struct pollfd){kata_context_get_fd(f.context), POLLIN, 0};
	while (status_of(0).ready < 2) {
		cr_assert_geq(poll(&p, 1, 10000), 0);
		fixture_assert_ok(kata_context_dispatch(f.context, 0, &err), err);
	}
	vm = build("mine");
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_WARM);
	use(vm);
	end(vm);
	await_ready(2);
	teardown();
}

/* ---- bad input ---- */

static void refused(int status, const char *says)
{
	kata_vm_builder *none = NULL;

	fixture_assert_fails(kata_vm_builder_new_cache(f.context, mock, NULL, &options, &none, &err), status, err);
	cr_assert(strstr(error_text(err), says), "'%s' is not in: %s", says, error_text(err));
	cr_assert_null(none);
	error_clear(&err);
}

Test(cache, sizes_that_make_no_sense_are_refused_all_at_once)
{
	kata_cache_size sizes[3] = {KATA_CACHE_SIZE_INIT, KATA_CACHE_SIZE_INIT, KATA_CACHE_SIZE_INIT};
	kata_vm_config named = config, shared = config;

	named.id = "x";
	shared.memory_path = "/dev/shm/x";
	sizes[0].config = &named;
	sizes[0].min = 2;
	sizes[0].max = 1;
	sizes[1].config = &shared;
	options.sizes = sizes;
	options.size_count = 3;
	fixture_assert_fails(kata_vm_builder_new_cache(f.context, mock, NULL, &options, &cache, &err), KATA_E_INVALID,
			     err);
	cr_assert(strstr(error_text(err), "sizes[0].config.id"), "%s", error_text(err));
	cr_assert(strstr(error_text(err), "sizes[0].max: 1 is less than min, 2"), "%s", error_text(err));
	cr_assert(strstr(error_text(err), "sizes[1].config.memory_path"), "%s", error_text(err));
	cr_assert(strstr(error_text(err), "sizes[1].max: is 0"), "%s", error_text(err));
	cr_assert(strstr(error_text(err), "sizes[2].config: is NULL"), "%s", error_text(err));
}

Test(cache, two_sizes_of_one_config_are_refused)
{
	size_of_one[1] = size_of_one[0];
	options.size_count = 2;
	refused(KATA_E_INVALID, "is that of sizes[0]");
}

Test(cache, options_out_of_range_are_refused)
{
	options.parallel = 100000;
	refused(KATA_E_INVALID, "options.parallel");
	options.parallel = 0;
	options.retry_min_ms = 500;
	options.retry_max_ms = 100;
	refused(KATA_E_INVALID, "options.retry_max_ms");
	options.retry_max_ms = 0;
	options.sizes = NULL;
	refused(KATA_E_INVALID, "sizes: is NULL");
	options.sizes = size_of_one;
	options.size_count = 1000;
	refused(KATA_E_INVALID, "more than 256");
	options.size_count = 1;
	size_of_one[0].max = 100000;
	refused(KATA_E_INVALID, "at most 4096");
	size_of_one[0].max = 0;
	size_of_one[0].size = 3;
	refused(KATA_E_INVALID, "size");
}

Test(cache, arguments_that_are_missing_or_of_another_kind_are_refused)
{
	kata_cache_status s = {.size = sizeof(s)};
	kata_vm_builder *none = NULL;
	kata_op *op = NULL;

	fixture_assert_fails(kata_vm_builder_new_cache(NULL, mock, NULL, NULL, &none, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_builder_new_cache(f.context, NULL, NULL, NULL, &none, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_builder_new_cache(f.context, mock, NULL, NULL, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_cache_set_sizes(mock, NULL, 0, &err), KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), "another kind of builder"), "%s", error_text(err));
	error_clear(&err);
	fixture_assert_fails(kata_cache_drain(mock, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_cache_drain_begin(NULL, NULL, &op, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_cache_wait_ready(mock, 1, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_cache_get_status(mock, 0, &s, &err), KATA_E_INVALID, err);
	error_clear(&err);
	cr_assert_eq(kata_cache_get_size_count(mock), 0u);
	make_cache();
	fixture_assert_fails(kata_cache_get_status(cache, 0, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_cache_wait_ready_begin(cache, 1, NULL, NULL, &err), KATA_E_INVALID, err);
}

Test(cache, an_inner_builder_of_another_context_is_refused)
{
	kata_context *other = fixture_new_context(&f, 0);
	kata_vm_builder *none = NULL;

	fixture_assert_fails(kata_vm_builder_new_cache(other, mock, NULL, &options, &none, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_ok(kata_context_free(other, &err), err);
}

Test(cache, a_config_that_is_wrong_is_refused_as_by_the_inner_builder)
{
	kata_vm_config c = config;
	kata_vm *vm = NULL;

	make_cache();
	c.id = "no/id";
	fixture_assert_fails(kata_vm_builder_build(cache, &c, NULL, NULL, &vm, &err), KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), "config.id"), "%s", error_text(err));
	error_clear(&err);
	c.id = NULL;
	c.cpus = 100000;
	fixture_assert_fails(kata_vm_builder_build(cache, &c, NULL, NULL, &vm, &err), KATA_E_INVALID, err);
}
