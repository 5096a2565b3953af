/* SPDX-License-Identifier: Apache-2.0 */
/* What the caller sets on a mock: delays, failures, the end of the machine; and what the mock costs. */
#include <criterion/criterion.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "support/fixture.h"

static struct fixture f;
static kata_vm_builder *builder;
static kata_vm *vm;
static kata_error *err;

static kata_vm *new_vm(void)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_vm *made = NULL;

	fixture_assert_ok(kata_vm_builder_build(builder, &config, NULL, NULL, &made, &err), err);
	return made;
}

static void set_up(void)
{
	fixture_init(&f, true, 0);
	fixture_assert_ok(kata_vm_builder_new_mock(f.context, &builder, &err), err);
	vm = new_vm();
}

static void tear_down(void)
{
	error_clear(&err);
	kata_vm_unref(vm);
	kata_vm_builder_free(builder);
	fixture_deinit(&f);
}

TestSuite(mock_controls, .init = set_up, .fini = tear_down, .timeout = 60);

static void set_delay(kata_mock_operation operation, uint64_t ms)
{
	fixture_assert_ok(kata_mock_set_delay(builder, operation, ms, &err), err);
}

static void set_failure(kata_mock_operation operation, int status, uint32_t count)
{
	fixture_assert_ok(kata_mock_set_failure(builder, operation, status, count, &err), err);
}

static uint64_t lasted_ms(const kata_op *op)
{
	return (kata_op_get_end_ns(op) - kata_op_get_start_ns(op)) / 1000000;
}

Test(mock_controls, a_delay_makes_the_operation_last_as_long)
{
	kata_op *op = NULL;

	set_delay(KATA_MOCK_START, 60);
	fixture_assert_ok(kata_vm_start_begin(vm, NULL, &op, &err), err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	cr_assert_geq(lasted_ms(op), 60u);
	kata_op_unref(op);
}

Test(mock_controls, a_delay_longer_than_the_deadline_is_a_timeout)
{
	kata_op_options options = {sizeof(options), 40};

	set_delay(KATA_MOCK_START, 10000);
	fixture_assert_fails(kata_vm_start(vm, &options, &err), KATA_E_TIMEOUT, err);
	cr_assert_str_eq(kata_error_get_step(err), "start/delay");
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
}

Test(mock_controls, failures_are_counted)
{
	set_failure(KATA_MOCK_START, KATA_E_VMM, 2);
	for (int i = 0; i < 2; i++) {
		fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_VMM, err);
		cr_assert_str_eq(kata_error_get_step(err), "start/boot");
		error_clear(&err);
	}
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
}

Test(mock_controls, each_operation_fails_as_asked_for_and_then_succeeds)
{
	kata_storage *s = fixture_storage("a", "/nowhere/a", KATA_STORAGE_VIRTIO_BLK);
	kata_nic *n = fixture_nic("n", NULL);

	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
#define FAILS_ONCE(operation, status, call)                                                                            \
	do {                                                                                                           \
		set_failure(operation, status, 1);                                                                     \
		fixture_assert_fails(call, status, err);                                                               \
		error_clear(&err);                                                                                     \
		fixture_assert_ok(call, err);                                                                          \
	} while (0)
	FAILS_ONCE(KATA_MOCK_ADD_STORAGE, KATA_E_BUSY, kata_vm_add_storage(vm, s, NULL, &err));
	FAILS_ONCE(KATA_MOCK_ADD_NIC, KATA_E_PERMISSION, kata_vm_add_nic(vm, n, NULL, &err));
	FAILS_ONCE(KATA_MOCK_PAUSE, KATA_E_GONE, kata_vm_pause(vm, NULL, &err));
	FAILS_ONCE(KATA_MOCK_RESUME, KATA_E_PROTOCOL, kata_vm_resume(vm, NULL, &err));
	FAILS_ONCE(KATA_MOCK_REMOVE_STORAGE, KATA_E_TIMEOUT, kata_vm_remove_storage(vm, "a", NULL, &err));
	FAILS_ONCE(KATA_MOCK_REMOVE_NIC, KATA_E_IO, kata_vm_remove_nic(vm, "n", NULL, &err));
	FAILS_ONCE(KATA_MOCK_DESTROY, KATA_E_VMM, kata_vm_destroy(vm, NULL, &err));
	kata_storage_unref(s);
	kata_nic_unref(n);
}

Test(mock_controls, plugs_with_a_delay_run_side_by_side)
{
	kata_batch *batch = NULL;
	kata_op *op = NULL;
	char id[16], path[32];

	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	set_delay(KATA_MOCK_ADD_STORAGE, 100);
	set_delay(KATA_MOCK_ADD_NIC, 100);
	fixture_assert_ok(kata_batch_new(vm, 0, &batch, &err), err);
	for (int i = 0; i < 8; i++) {
		kata_storage *s;
		kata_nic *n;

		snprintf(id, sizeof(id), "d%d", i);
		snprintf(path, sizeof(path), "/nowhere/%d", i);
		s = fixture_storage(id, path, KATA_STORAGE_VIRTIO_BLK);
		fixture_assert_ok(kata_batch_add_storage(batch, s, &err), err);
		kata_storage_unref(s);
		snprintf(id, sizeof(id), "n%d", i);
		n = fixture_nic(id, NULL);
		fixture_assert_ok(kata_batch_add_nic(batch, n, &err), err);
		kata_nic_unref(n);
	}
	fixture_assert_ok(kata_batch_begin(batch, NULL, &op, &err), err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	cr_assert_geq(lasted_ms(op), 100u);
	cr_assert_lt(lasted_ms(op), 16u * 100 / 4);
	kata_op_unref(op);
	kata_batch_free(batch);
}

Test(mock_controls, what_is_set_holds_for_machines_that_exist_and_those_to_come)
{
	kata_vm *other;

	set_failure(KATA_MOCK_START, KATA_E_VMM, 2);
	fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_VMM, err);
	error_clear(&err);
	other = new_vm();
	fixture_assert_fails(kata_vm_start(other, NULL, &err), KATA_E_VMM, err);
	kata_vm_unref(other);
}

Test(mock_controls, a_machine_outlives_its_builder)
{
	kata_vm_builder_free(builder);
	builder = NULL;
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
}

Test(mock_controls, wrong_arguments_are_named)
{
	kata_vm_builder *no_mock = NULL;

	fixture_assert_fails(kata_mock_set_delay(NULL, KATA_MOCK_START, 1, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_mock_set_delay(builder, KATA_MOCK_OPERATION_COUNT, 1, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_mock_set_failure(builder, KATA_MOCK_START, 0, 1, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_mock_set_failure(builder, KATA_MOCK_START, -1000, 1, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_mock_end(NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_mock_end(vm, &err), KATA_E_STATE, err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_builder_new_mock(NULL, &no_mock, &err), KATA_E_INVALID, err);
	cr_assert_null(no_mock);
}

Test(mock_controls, vsock_is_refused_as_the_capabilities_say)
{
	kata_agent_config agent = {sizeof(agent), KATA_AGENT_VSOCK};
	kata_capabilities caps = {.size = sizeof(caps)};
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_vm *other = NULL;

	fixture_assert_ok(kata_vm_builder_get_capabilities(builder, &caps, &err), err);
	cr_assert_str_eq(caps.driver, "mock");
	cr_assert_str_eq(caps.accelerator, "none");
	cr_assert(caps.hotplug_storage && caps.hotplug_nic && caps.pause && caps.release);
	cr_assert(!caps.vsock && !caps.snapshot && !caps.isolation);
	fixture_assert_fails(kata_vm_builder_build(builder, &config, &agent, NULL, &other, &err), KATA_E_UNSUPPORTED,
			     err);
}

Test(mock_controls, a_config_is_checked_though_no_file_is_opened)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_vm *other = NULL;

	config.kernel = "/nowhere/vmlinux";
	config.initrd = "/nowhere/initrd";
	fixture_assert_ok(kata_vm_builder_build(builder, &config, NULL, NULL, &other, &err), err);
	kata_vm_unref(other);
	other = NULL;
	config.cpus = 4;
	config.cpus_max = 2;
	config.memory_mib = 512;
	config.memory_max_mib = 256;
	fixture_assert_fails(kata_vm_builder_build(builder, &config, NULL, NULL, &other, &err), KATA_E_INVALID, err);
	cr_assert_eq(kata_error_get_problem_count(err), 2u, "%s", error_text(err));
}

Test(mock_controls, released_machines_go_with_the_context)
{
	char *json = NULL;

	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	fixture_assert_ok(kata_vm_release(vm, NULL, &json, &err), err);
	free(json);
}

Test(mock_controls, a_machine_has_no_files_no_processes_no_threads_of_its_own)
{
	struct census_scope scope = {CENSUS_ALL & ~CENSUS_LINKS, f.dir, f.state_dir, NULL};
	struct census *before = census_take(&scope), *after;
	char *difference;

	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	after = census_take(&scope);
	difference = census_diff(before, after);
	cr_assert_null(difference, "%s", difference);
	census_free(before);
	census_free(after);
}

static uint64_t cpu_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* Under a sanitizer the figures mean nothing. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEASURED 0
#else
#define MEASURED 1
#endif

Test(mock_controls, a_life_costs_less_than_half_a_millisecond_of_cpu)
{
	enum { LIVES = 200 };
	uint64_t start;

	if (!MEASURED)
		cr_skip_test("built with a sanitizer: CPU time is not that of the library");
	start = cpu_us();
	for (int i = 0; i < LIVES; i++) {
		kata_vm *one = new_vm();

		fixture_assert_ok(kata_vm_start(one, NULL, &err), err);
		fixture_assert_ok(kata_vm_destroy(one, NULL, &err), err);
		kata_vm_unref(one);
	}
	cr_assert_lt((cpu_us() - start) / LIVES, 500u, "%llu us", (unsigned long long)(cpu_us() - start) / LIVES);
}

Test(mock_controls, a_running_machine_takes_less_than_16_kib_of_heap)
{
	enum { COUNT = 100 };
	kata_vm *many[COUNT];
	size_t before, used;

	if (!MEASURED)
		cr_skip_test("built with a sanitizer: its allocator does not tell");
	before = mallinfo2().uordblks;
	for (int i = 0; i < COUNT; i++) {
		many[i] = new_vm();
		fixture_assert_ok(kata_vm_start(many[i], NULL, &err), err);
	}
	used = (mallinfo2().uordblks - before) / COUNT;
	for (int i = 0; i < COUNT; i++)
		kata_vm_unref(many[i]);
	cr_assert_lt(used, 16u * 1024, "%zu bytes", used);
}
