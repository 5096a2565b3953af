/* SPDX-License-Identifier: Apache-2.0 */
/* A machine's life on the real QEMU: start, pause, the ways it ends, what stays behind: nothing. */
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include "integration/vm_test.h"

TestSuite(vm_life, .timeout = 120);

Test(vm_life, start_and_destroy_leave_nothing_behind)
{
	struct machine m;
	struct census *before;

	machine_init(&m, 0);
	machine_warm_up(&m);
	before = fixture_census(&m.f);
	machine_build(&m, "a");
	cr_assert_eq(kata_vm_get_state(m.vm), KATA_VM_CREATED);
	machine_start(&m);
	cr_assert_eq(kata_vm_get_state(m.vm), KATA_VM_RUNNING);
	cr_assert_gt(kata_vm_get_pid(m.vm), 0);
	machine_destroy(&m);
	fixture_assert_census(&m.f, before, "after destroy");
	machine_deinit(&m);
}

Test(vm_life, the_accelerator_has_a_name_and_a_reason)
{
	kata_capabilities c = {.size = sizeof(c)};
	kata_error *err = NULL;
	struct machine m;

	machine_init(&m, 0);
	fixture_assert_ok(kata_vm_builder_get_capabilities(m.builder, &c, &err), err);
	machine_build(&m, "a");
	cr_assert_str_eq(c.driver, "qemu");
	cr_assert(strcmp(c.accelerator, "tcg") == 0 || strcmp(c.accelerator, "kvm") == 0);
	cr_assert_eq(c.isolation, strcmp(c.accelerator, "kvm") == 0);
	cr_assert_str_eq(kata_vm_get_accelerator(m.vm), c.accelerator);
	cr_assert_str_eq(kata_vm_get_accelerator_reason(m.vm), c.accelerator_reason);
	cr_assert_neq(c.accelerator_reason[0], '\0');
	cr_assert_geq(c.device_slots_max, 16u);
	machine_deinit(&m);
}

Test(vm_life, a_missing_qemu_is_not_found_and_says_where)
{
	kata_qemu_options o = KATA_QEMU_OPTIONS_INIT;
	kata_vm_builder *b = NULL;
	kata_error *err = NULL;
	struct fixture f;

	fixture_init(&f, true, 0);
	o.binary = "/nonexistent/qemu-system-x86_64";
	fixture_assert_fails(kata_vm_builder_new_qemu(f.context, &o, &b, &err), KATA_E_NOT_FOUND, err);
	cr_assert(strstr(kata_error_get_message(err), "/nonexistent/qemu-system-x86_64"));
	cr_assert(strstr(kata_error_get_hint(err), "qemu-system-x86"));
	cr_assert_null(b);
	kata_error_free(err);
	fixture_deinit(&f);
}

Test(vm_life, a_kernel_that_is_none_fails_the_start_with_qemus_words_and_leaves_the_host_as_before)
{
	struct machine m;
	struct census *before;
	kata_vm_config c;
	kata_error *err = NULL;
	char *path;

	machine_init(&m, 0);
	machine_warm_up(&m);
	path = fixture_write_file(&m.f, "kernel", "no kernel at all", 16);
	before = fixture_census(&m.f);
	c = machine_config(&m);
	c.kernel = path;
	fixture_assert_ok(kata_vm_builder_build(m.builder, &c, NULL, NULL, &m.vm, &err), err);
	fixture_assert_fails(kata_vm_start(m.vm, NULL, &err), KATA_E_GONE, err);
	cr_assert_str_eq(kata_error_get_step(err), "start/connect-qmp");
	cr_assert_not_null(kata_error_get_vmm_output(err));
	cr_assert(strstr(kata_error_get_vmm_output(err), "kernel"), "%s", kata_error_get_vmm_output(err));
	cr_assert_eq(kata_vm_get_state(m.vm), KATA_VM_CREATED);
	kata_error_free(err);
	machine_destroy(&m);
	fixture_assert_census(&m.f, before, "after the failed start");
	free(path);
	machine_deinit(&m);
}

static void assert_kernel_refused(struct machine *m, const char *path, int status, const char *word)
{
	kata_vm_config c = machine_config(m);
	kata_error *err = NULL;

	c.kernel = path;
	fixture_assert_fails(kata_vm_builder_build(m->builder, &c, NULL, NULL, &m->vm, &err), status, err);
	cr_assert(strstr(kata_error_get_message(err), word), "%s", kata_error_get_message(err));
	cr_assert_null(m->vm);
	kata_error_free(err);
}

Test(vm_life, a_kernel_that_qemus_user_may_not_read_is_refused_by_the_build)
{
	struct machine m;
	char *path;

	machine_init(&m, 0);
	if (geteuid() != 0)
		cr_skip_test("not root: QEMU runs with the caller's own ids");
	path = fixture_write_file(&m.f, "kernel", "x", 1);
	chmod(path, 0600);
	assert_kernel_refused(&m, path, KATA_E_INVALID, "0600");
	free(path);
	machine_deinit(&m);
}

Test(vm_life, a_kernel_that_is_missing_or_no_file_is_refused_by_the_build)
{
	struct machine m;
	char *fifo;

	machine_init(&m, 0);
	assert_kernel_refused(&m, "/nonexistent/vmlinux", KATA_E_INVALID, "/nonexistent/vmlinux");
	assert_kernel_refused(&m, "/tmp", KATA_E_INVALID, "/tmp");
	fifo = fixture_path(&m.f, "fifo");
	cr_assert_eq(mkfifo(fifo, 0666), 0);
	assert_kernel_refused(&m, fifo, KATA_E_INVALID, "fifo");
	free(fifo);
	machine_deinit(&m);
}

Test(vm_life, a_machine_type_qemu_does_not_have_is_refused_by_the_build)
{
	static const char *const machines[] = {"q36", "q35,accel=kvm", "microvm", "pc", ""};
	struct machine m;

	machine_init(&m, 0);
	for (size_t i = 0; i < sizeof(machines) / sizeof(machines[0]); i++) {
		kata_vm_config c = machine_config(&m);
		kata_error *err = NULL;

		c.machine = machines[i];
		fixture_assert_fails(kata_vm_builder_build(m.builder, &c, NULL, NULL, &m.vm, &err), KATA_E_INVALID,
				     err);
		cr_assert(strstr(kata_error_get_message(err), "machine"), "%s", kata_error_get_message(err));
		kata_error_free(err);
	}
	machine_deinit(&m);
}

Test(vm_life, vsock_where_the_host_has_none_is_unsupported_with_the_reason)
{
	kata_agent_config agent = KATA_AGENT_CONFIG_INIT;
	kata_error *err = NULL;
	kata_vm_config c;
	struct machine m;

	if (access("/dev/vhost-vsock", F_OK) == 0)
		cr_skip_test("this host has /dev/vhost-vsock");
	machine_init(&m, 0);
	c = machine_config(&m);
	agent.transport = KATA_AGENT_VSOCK;
	fixture_assert_fails(kata_vm_builder_build(m.builder, &c, &agent, NULL, &m.vm, &err), KATA_E_UNSUPPORTED, err);
	cr_assert(strstr(kata_error_get_message(err), "/dev/vhost-vsock"));
	kata_error_free(err);
	machine_deinit(&m);
}

Test(vm_life, pause_and_resume_may_be_repeated)
{
	kata_error *err = NULL;
	struct machine m;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start(&m);
	for (int i = 0; i < 3; i++) {
		fixture_assert_ok(kata_vm_pause(m.vm, NULL, &err), err);
		fixture_assert_ok(kata_vm_pause(m.vm, NULL, &err), err);
		cr_assert_eq(kata_vm_get_state(m.vm), KATA_VM_PAUSED);
		fixture_assert_ok(kata_vm_resume(m.vm, NULL, &err), err);
		fixture_assert_ok(kata_vm_resume(m.vm, NULL, &err), err);
		cr_assert_eq(kata_vm_get_state(m.vm), KATA_VM_RUNNING);
	}
	machine_destroy(&m);
	machine_deinit(&m);
}

Test(vm_life, two_machines_live_side_by_side)
{
	kata_error *err = NULL;
	struct machine m;
	kata_vm *first;
	int64_t pid;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	first = m.vm;
	machine_build(&m, "b");
	machine_start_paused(&m);
	pid = kata_vm_get_pid(m.vm);
	cr_assert_neq(pid, kata_vm_get_pid(first));
	fixture_assert_ok(kata_vm_destroy(first, NULL, &err), err);
	cr_assert_eq(kata_vm_get_state(m.vm), KATA_VM_PAUSED);
	cr_assert_eq(kill((pid_t)pid, 0), 0);
	kata_vm_unref(first);
	machine_destroy(&m);
	machine_deinit(&m);
}

Test(vm_life, works_with_the_callers_own_loop)
{
	struct machine m;

	machine_init(&m, KATA_CONTEXT_EXTERNAL_LOOP);
	machine_build(&m, "a");
	machine_start_paused(&m);
	machine_destroy(&m);
	machine_deinit(&m);
}

Test(vm_life, a_killed_qemu_is_noticed_and_the_machine_can_be_destroyed)
{
	kata_error *err = NULL;
	struct census *before;
	struct pollfd ended;
	struct machine m;

	machine_init(&m, 0);
	machine_warm_up(&m);
	before = fixture_census(&m.f);
	machine_build(&m, "a");
	machine_start_paused(&m);
	ended = (struct pollfd){.fd = kata_vm_get_ended_fd(m.vm), .events = POLLIN};
	cr_assert_eq(poll(&ended, 1, 0), 0);
	kill((pid_t)kata_vm_get_pid(m.vm), SIGKILL);
	cr_assert_eq(poll(&ended, 1, 10000), 1);
	fixture_assert_ok(kata_vm_wait(m.vm, 1000, &err), err);
	cr_assert_eq(kata_vm_get_state(m.vm), KATA_VM_ENDED);
	fixture_assert_fails(kata_vm_pause(m.vm, NULL, &err), KATA_E_STATE, err);
	kata_error_free(err);
	machine_destroy(&m);
	fixture_assert_census(&m.f, before, "after destroy");
	machine_deinit(&m);
}

Test(vm_life, a_stopped_qemu_costs_a_call_its_deadline_and_can_be_destroyed)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	struct census *before;
	kata_error *err = NULL;
	struct machine m;

	machine_init(&m, 0);
	machine_warm_up(&m);
	before = fixture_census(&m.f);
	machine_build(&m, "a");
	machine_start(&m);
	kill((pid_t)kata_vm_get_pid(m.vm), SIGSTOP);
	o.timeout_ms = 300;
	fixture_assert_fails(kata_vm_pause(m.vm, &o, &err), KATA_E_TIMEOUT, err);
	cr_assert_str_eq(kata_error_get_step(err), "pause/stop");
	cr_assert(kata_error_is_uncertain(err));
	kata_error_free(err);
	machine_destroy(&m);
	fixture_assert_census(&m.f, before, "after destroy");
	machine_deinit(&m);
}

/* QEMU keeps few connections that it has not accepted: the third try finds no room, and waits for it. */
Test(vm_life, a_stopped_qemu_costs_each_rebuild_its_deadline_and_one_that_goes_on_is_rebuilt)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	kata_error *err = NULL;
	kata_vm *again = NULL;
	kata_op *op = NULL;
	struct machine m;
	char *json;
	pid_t pid;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	pid = (pid_t)kata_vm_get_pid(m.vm);
	json = fixture_release(&m.vm);
	kill(pid, SIGSTOP);
	o.timeout_ms = 100;
	for (int i = 0; i < 4; i++) {
		fixture_assert_fails(
			kata_vm_builder_build_from_released(m.builder, json, strlen(json), &o, &again, &err),
			KATA_E_TIMEOUT, err);
		cr_assert_not_null(strstr(kata_error_get_hint(err), "the VMM is stopped"), "%s", error_text(err));
		error_clear(&err);
	}
	fixture_assert_ok(
		kata_vm_builder_build_from_released_begin(m.builder, json, strlen(json), NULL, &m.vm, &op, &err), err);
	kill(pid, SIGCONT);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	kata_op_unref(op);
	free(json);
	machine_destroy(&m);
	machine_deinit(&m);
}

/* The VM's own process may go while it waits for room. */
Test(vm_life, a_stopped_qemu_that_is_killed_while_a_rebuild_waits_ends_it_with_gone)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	kata_error *err = NULL;
	kata_vm *again = NULL;
	kata_op *op = NULL;
	struct machine m;
	char *json;
	pid_t pid;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	pid = (pid_t)kata_vm_get_pid(m.vm);
	fixture_assert_ok(kata_vm_release(m.vm, NULL, &json, &err), err);
	kill(pid, SIGSTOP);
	o.timeout_ms = 50;
	for (int i = 0; i < 3; i++) {
		fixture_assert_fails(
			kata_vm_builder_build_from_released(m.builder, json, strlen(json), &o, &again, &err),
			KATA_E_TIMEOUT, err);
		error_clear(&err);
	}
	fixture_assert_ok(
		kata_vm_builder_build_from_released_begin(m.builder, json, strlen(json), NULL, &again, &op, &err), err);
	usleep(100000); /* it waits for room by now; if not, it is gone all the same */
	kill(pid, SIGKILL);
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_GONE, err);
	error_clear(&err);
	kata_op_unref(op);
	kata_vm_unref(again);
	free(json);
	machine_deinit(&m);
}

Test(vm_life, qemu_killed_while_a_call_waits_ends_that_call_with_gone)
{
	kata_error *err = NULL;
	kata_op *op = NULL;
	struct machine m;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start(&m);
	kill((pid_t)kata_vm_get_pid(m.vm), SIGSTOP);
	fixture_assert_ok(kata_vm_pause_begin(m.vm, NULL, &op, &err), err);
	kill((pid_t)kata_vm_get_pid(m.vm), SIGKILL);
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_GONE, err);
	kata_error_free(err);
	kata_op_unref(op);
	fixture_assert_ok(kata_vm_wait(m.vm, 5000, &err), err);
	machine_destroy(&m);
	machine_deinit(&m);
}

Test(vm_life, a_start_cancelled_at_once_leaves_the_host_as_before_and_can_be_repeated)
{
	struct census *before;
	kata_error *err = NULL;
	kata_op *op = NULL;
	struct machine m;

	machine_init(&m, 0);
	machine_warm_up(&m);
	before = fixture_census(&m.f);
	machine_build(&m, "a");
	fixture_assert_ok(kata_vm_start_begin(m.vm, NULL, &op, &err), err);
	kata_op_cancel(op);
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_CANCELLED, err);
	kata_error_free(err);
	kata_op_unref(op);
	cr_assert_eq(kata_vm_get_state(m.vm), KATA_VM_CREATED);
	fixture_assert_census(&m.f, before, "after the cancel");
	machine_start_paused(&m);
	machine_destroy(&m);
	machine_deinit(&m);
}

Test(vm_life, destroy_during_a_start_leaves_nothing_behind)
{
	struct census *before;
	kata_error *err = NULL;
	kata_op *op = NULL;
	struct machine m;

	machine_init(&m, 0);
	machine_warm_up(&m);
	before = fixture_census(&m.f);
	machine_build(&m, "a");
	fixture_assert_ok(kata_vm_start_begin(m.vm, NULL, &op, &err), err);
	machine_destroy(&m);
	cr_assert(kata_op_is_done(op));
	kata_op_unref(op);
	fixture_assert_census(&m.f, before, "after destroy");
	machine_deinit(&m);
}

Test(vm_life, dropping_the_last_reference_ends_the_machine)
{
	struct census *before;
	struct machine m;

	machine_init(&m, 0);
	machine_warm_up(&m);
	before = fixture_census(&m.f);
	machine_build(&m, "a");
	machine_start_paused(&m);
	kata_vm_unref(m.vm);
	m.vm = NULL;
	fixture_assert_census(&m.f, before, "after the unref");
	machine_deinit(&m);
}

Test(vm_life, an_id_in_use_is_refused_and_the_other_machine_stays)
{
	kata_error *err = NULL;
	kata_vm_builder *builder = NULL;
	kata_context *other;
	kata_vm_config c;
	kata_vm *vm = NULL;
	struct machine m;

	machine_init(&m, 0);
	machine_build(&m, "a");
	other = fixture_new_context(&m.f, 0);
	fixture_assert_ok(kata_vm_builder_new_qemu(other, NULL, &builder, &err), err);
	c = machine_config(&m);
	c.id = "a";
	fixture_assert_ok(kata_vm_builder_build(builder, &c, NULL, NULL, &vm, &err), err);
	machine_start_paused(&m);
	fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_EXISTS, err);
	error_clear(&err);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
	fixture_assert_ok(kata_vm_resume(m.vm, NULL, &err), err);
	fixture_assert_ok(kata_vm_pause(m.vm, NULL, &err), err);
	kata_vm_builder_free(builder);
	fixture_assert_ok(kata_context_free(other, &err), err);
	machine_destroy(&m);
	machine_deinit(&m);
}

static void read_proc(int64_t pid, const char *name, char *buf, size_t size)
{
	char path[64];
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%lld/%s", (long long)pid, name);
	file = fopen(path, "re");
	cr_assert_not_null(file);
	n = fread(buf, 1, size - 1, file);
	buf[n] = '\0';
	fclose(file);
}

Test(vm_life, qemu_runs_as_nobody_without_privileges_environment_or_fds_of_the_caller)
{
	int leak = open("/etc/hostname", O_RDONLY); /* inheritable on purpose */
	char buf[8192], path[64], target[256];
	struct machine m;
	ssize_t n;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	read_proc(kata_vm_get_pid(m.vm), "environ", buf, sizeof(buf));
	cr_assert_eq(buf[0], '\0');
	read_proc(kata_vm_get_pid(m.vm), "status", buf, sizeof(buf));
	cr_assert(strstr(buf, "NoNewPrivs:\t1"));
	cr_assert(strstr(buf, "Seccomp:\t2"));
	if (geteuid() == 0) {
		cr_assert(strstr(buf, "Uid:\t65534\t65534\t65534\t65534"));
		cr_assert(strstr(buf, "CapEff:\t0000000000000000"));
		cr_assert(strstr(buf, "Groups:\t \n") || strstr(buf, "Groups:\t\n"), "%s", strstr(buf, "Groups:"));
	}
	for (int fd = 0; fd < 200; fd++) {
		snprintf(path, sizeof(path), "/proc/%lld/fd/%d", (long long)kata_vm_get_pid(m.vm), fd);
		n = readlink(path, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		cr_assert_neq(strcmp(target, "/etc/hostname"), 0, "fd %d", fd);
	}
	close(leak);
	machine_destroy(&m);
	machine_deinit(&m);
}

Test(vm_life, an_idle_machine_costs_three_fds)
{
	struct census_scope scope = {.what = CENSUS_FDS};
	struct census *before, *after;
	struct machine m;

	machine_init(&m, 0);
	machine_warm_up(&m);
	before = census_take(&scope);
	machine_build(&m, "a");
	machine_start_paused(&m);
	after = census_take(&scope);
	cr_assert_leq(census_count(after, "fd"), census_count(before, "fd") + 3);
	census_free(before);
	census_free(after);
	machine_destroy(&m);
	machine_deinit(&m);
}

Test(vm_life, the_console_and_the_stats_can_be_read)
{
	const char *params[] = {"loglevel=7", NULL};
	kata_vm_stats stats = {.size = sizeof(stats)};
	kata_error *err = NULL;
	kata_vm_config c;
	struct machine m;
	char *text = NULL;
	size_t len = 0;

	machine_init(&m, 0);
	c = machine_config(&m);
	c.kernel_params = params;
	fixture_assert_ok(kata_vm_builder_build(m.builder, &c, NULL, NULL, &m.vm, &err), err);
	machine_start(&m);
	for (int i = 0; i < 600 && (!text || !strstr(text, "] "));
	     i++) { /* the console has no event in the public surface */
		free(text);
		usleep(100000);
		fixture_assert_ok(kata_vm_get_console(m.vm, &text, &len, &err), err);
	}
	cr_assert(strstr(text, "] "), "a line of the kernel log: %s", text);
	free(text);
	fixture_assert_ok(kata_vm_get_stats(m.vm, &stats, &err), err);
	cr_assert_gt(stats.cpu_time_ns, 0u);
	cr_assert_gt(stats.resident_bytes, 1u << 20);
	cr_assert_eq(stats.slots_total, 8u);
	machine_destroy(&m);
	machine_deinit(&m);
}
