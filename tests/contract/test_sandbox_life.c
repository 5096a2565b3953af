/* SPDX-License-Identifier: Apache-2.0 */
/* The whole of a sandbox: its states, its end, and what each state forbids. */
#include "sandbox_kit.h"

static bool is_readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

static void assert_becomes_readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	cr_assert_eq(poll(&p, 1, 10000), 1, "the ended fd stayed silent for 10 s");
}

Test(sandbox_life, a_new_sandbox_is_named_after_its_vm_and_has_no_agent)
{
	struct kit k;
	kata_vm *vm;

	kit_init_new(&k);
	vm = kata_sandbox_get_vm(k.s);
	cr_assert_str_eq(kata_sandbox_get_id(k.s), "sb");
	cr_assert_str_eq(kata_vm_get_id(vm), "sb");
	cr_assert_null(kata_sandbox_get_agent(k.s));
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_NEW);
	kata_vm_unref(vm);
	kit_deinit(&k);
}

Test(sandbox_life, start_starts_the_vm_connects_the_agent_and_creates_the_sandbox_in_that_order)
{
	static const char *const steps[] = {"start-vm", "connect-agent", "create-sandbox"};
	kata_timeline_entry entry = {.size = sizeof(entry)};
	struct kit k;
	kata_op *op = NULL;
	kata_error *err = NULL;

	kit_init_new(&k);
	fixture_assert_ok(kata_sandbox_start_begin(k.s, NULL, &op, &err), err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	cr_assert_str_eq(kata_op_get_name(op), "start-sandbox");
	cr_assert_eq(kata_op_get_timeline_length(op), 3);
	for (size_t i = 0; i < 3; i++) {
		fixture_assert_ok(kata_op_get_timeline_entry(op, i, &entry, &err), err);
		cr_assert_str_eq(entry.step, steps[i]);
		cr_assert_eq(entry.outcome, KATA_STEP_DONE);
	}
	kata_op_unref(op);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_RUNNING);
	kit_deinit(&k);
}

Test(sandbox_life, parts_the_caller_made_are_used_as_they_are)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_sandbox_options options = KATA_SANDBOX_OPTIONS_INIT;
	kata_agent_builder *agent_builder = NULL;
	kata_agent *agent = NULL, *same;
	kata_vm *vm = NULL;
	struct kit k = {0};
	kata_error *err = NULL;

	fixture_init(&k.f, true, 0);
	fixture_assert_ok(kata_vm_builder_new_mock(k.f.context, &k.builder, &err), err);
	fixture_assert_ok(kata_agent_builder_new_direct(k.f.context, &agent_builder, &err), err);
	fixture_assert_ok(kata_vm_builder_build(k.builder, &config, NULL, NULL, &vm, &err), err);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	fixture_assert_ok(kata_agent_builder_build(agent_builder, vm, NULL, NULL, &agent, &err), err);
	options.id = "from-parts";
	fixture_assert_ok(kata_sandbox_new(k.f.context, &options, vm, agent, &k.s, &err), err);
	fixture_assert_ok(kata_sandbox_start(k.s, NULL, &err), err);
	same = kata_sandbox_get_agent(k.s);
	cr_assert_eq(same, agent);
	cr_assert_str_eq(kata_sandbox_get_id(k.s), "from-parts");
	kata_agent_unref(same);
	kata_agent_unref(agent);
	kata_agent_builder_free(agent_builder);
	kata_vm_unref(vm);
	kit_deinit(&k);
}

Test(sandbox_life, bad_options_are_refused_by_name)
{
	static const char *const dns[] = {"nameserver 10.0.2.3\nsearch evil", NULL};
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_sandbox_options options = KATA_SANDBOX_OPTIONS_INIT;
	kata_sandbox *s = NULL;
	struct kit k;
	kata_error *err = NULL;

	kit_init_new(&k);
	options.id = "no/slash";
	fixture_assert_fails(kata_sandbox_create(k.f.context, &options, k.builder, &config, NULL, NULL, &s, &err),
			     KATA_E_INVALID, err);
	cr_assert(strstr(kata_error_get_message(err), "options.id"));
	error_clear(&err);
	options.id = NULL;
	options.dns = dns;
	fixture_assert_fails(kata_sandbox_create(k.f.context, &options, k.builder, &config, NULL, NULL, &s, &err),
			     KATA_E_INVALID, err);
	cr_assert(strstr(kata_error_get_message(err), "options.dns[0]"));
	error_clear(&err);
	cr_assert_null(s);
	kit_deinit(&k);
}

Test(sandbox_life, pause_stops_and_resume_continues_and_both_may_be_repeated)
{
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	for (int i = 0; i < 2; i++)
		fixture_assert_ok(kata_sandbox_pause(k.s, NULL, &err), err);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_PAUSED);
	for (int i = 0; i < 2; i++)
		fixture_assert_ok(kata_sandbox_resume(k.s, NULL, &err), err);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_RUNNING);
	kit_deinit(&k);
}

static void assert_all_forbidden(struct kit *k, const char *state)
{
	kata_interface_config interface = KATA_INTERFACE_CONFIG_INIT;
	kata_agent_route route = {.device = "eth0"};
	kata_storage *storage = fixture_storage("d", "/d", KATA_STORAGE_VIRTIO_BLK);
	kata_nic *nic = fixture_nic("n", NULL);
	kata_container_stats stats = {.size = sizeof(stats)};
	kata_error *err = NULL;
	int fd = -1;

	interface.name = "eth0";
#define FORBIDDEN(call)                                                                                                \
	do {                                                                                                           \
		fixture_assert_fails((call), KATA_E_STATE, err);                                                       \
		cr_assert(strstr(kata_error_get_message(err), state), "%s", kata_error_get_message(err));              \
		error_clear(&err);                                                                                     \
	} while (0)
	FORBIDDEN(kata_sandbox_add_storage(k->s, storage, NULL, &err));
	FORBIDDEN(kata_sandbox_remove_storage(k->s, "d", NULL, &err));
	FORBIDDEN(kata_sandbox_add_nic(k->s, nic, NULL, NULL, &err));
	FORBIDDEN(kata_sandbox_update_nic(k->s, "n", &interface, NULL, &err));
	FORBIDDEN(kata_sandbox_remove_nic(k->s, "n", NULL, &err));
	FORBIDDEN(kata_sandbox_update_routes(k->s, &route, 1, NULL, &err));
	FORBIDDEN(kit_try_add(k, "c1", "\"echo\"", false, &err));
	FORBIDDEN(kata_sandbox_start_container(k->s, "c1", NULL, &err));
	FORBIDDEN(kata_sandbox_remove_container(k->s, "c1", NULL, &err));
	FORBIDDEN(kata_sandbox_pause_container(k->s, "c1", NULL, &err));
	FORBIDDEN(kata_sandbox_resume_container(k->s, "c1", NULL, &err));
	FORBIDDEN(kata_sandbox_get_container_stats(k->s, "c1", NULL, &stats, &err));
	FORBIDDEN(kit_try_exec(k, "c1", "e1", "\"echo\"", false, &err));
	FORBIDDEN(kata_sandbox_signal_process(k->s, "c1", NULL, 9, NULL, &err));
	FORBIDDEN(kata_sandbox_resize_terminal(k->s, "c1", NULL, 24, 80, NULL, &err));
	if (strcmp(state, "paused") != 0) {
		FORBIDDEN(kata_sandbox_open_stdio(k->s, "c1", NULL, NULL, &fd, NULL, &err));
		FORBIDDEN(kata_sandbox_pause(k->s, NULL, &err));
		FORBIDDEN(kata_sandbox_resume(k->s, NULL, &err));
		FORBIDDEN(kata_sandbox_release(k->s, NULL, NULL, &err));
	}
	if (strcmp(state, "new") != 0)
		FORBIDDEN(kata_sandbox_start(k->s, NULL, &err));
#undef FORBIDDEN
	kata_storage_unref(storage);
	kata_nic_unref(nic);
}

Test(sandbox_life, what_needs_a_running_guest_is_refused_before_the_start)
{
	struct kit k;
	char *json = NULL;
	kata_error *err = NULL;

	kit_init_new(&k);
	assert_all_forbidden(&k, "new");
	fixture_assert_fails(kata_sandbox_dump(k.s, &json, &err), KATA_E_STATE, err);
	error_clear(&err);
	kit_deinit(&k);
}

Test(sandbox_life, what_needs_a_running_guest_is_refused_while_paused)
{
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	fixture_assert_ok(kata_sandbox_pause(k.s, NULL, &err), err);
	assert_all_forbidden(&k, "paused");
	kit_deinit(&k);
}

Test(sandbox_life, everything_is_refused_after_the_destroy_but_a_second_destroy)
{
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	fixture_assert_ok(kata_sandbox_destroy(k.s, NULL, &err), err);
	assert_all_forbidden(&k, "destroyed");
	fixture_assert_ok(kata_sandbox_destroy(k.s, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_shutdown(k.s, NULL, &err), err);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_DESTROYED);
	kit_deinit(&k);
}

Test(sandbox_life, everything_is_refused_after_the_release_the_destroy_included)
{
	struct kit k;
	kata_sandbox *again = NULL;
	char *json = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	fixture_assert_ok(kata_sandbox_release(k.s, NULL, &json, &err), err);
	assert_all_forbidden(&k, "released");
	fixture_assert_fails(kata_sandbox_destroy(k.s, NULL, &err), KATA_E_STATE, err);
	error_clear(&err);
	fixture_assert_fails(kata_sandbox_shutdown(k.s, NULL, &err), KATA_E_STATE, err);
	error_clear(&err);
	fixture_assert_ok(
		kata_sandbox_build_from_released(k.f.context, json, strlen(json), k.builder, NULL, NULL, &again, &err),
		err);
	kata_sandbox_unref(k.s);
	k.s = again;
	free(json);
	kit_deinit(&k);
}

Test(sandbox_life, everything_is_refused_once_it_has_ended_but_the_destroy)
{
	struct kit k;
	kata_vm *vm;
	kata_error *err = NULL;

	kit_init(&k);
	vm = kata_sandbox_get_vm(k.s);
	fixture_assert_ok(kata_mock_end(vm, &err), err);
	assert_becomes_readable(kata_sandbox_get_ended_fd(k.s));
	assert_all_forbidden(&k, "ended");
	kata_vm_unref(vm);
	kit_deinit(&k);
}

Test(sandbox_life, the_ended_fd_is_silent_while_it_runs_and_speaks_when_the_vm_ends)
{
	struct kit k;
	kata_vm *vm;
	kata_error *err = NULL;
	int fd;

	kit_init(&k);
	fd = kata_sandbox_get_ended_fd(k.s);
	cr_assert_geq(fd, 0);
	cr_assert_eq(fd, kata_sandbox_get_ended_fd(k.s));
	cr_assert(!is_readable(fd));
	vm = kata_sandbox_get_vm(k.s);
	fixture_assert_ok(kata_mock_end(vm, &err), err);
	assert_becomes_readable(fd);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_ENDED);
	kata_vm_unref(vm);
	kit_deinit(&k);
}

Test(sandbox_life, an_agent_that_is_lost_ends_the_sandbox_and_destroy_still_works)
{
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	fixture_assert_ok(kata_mock_set_failure(k.builder, KATA_MOCK_AGENT_CALL, KATA_E_GONE, 1, &err), err);
	fixture_assert_fails(kit_try_add(&k, "c1", "\"echo\"", false, &err), KATA_E_GONE, err);
	error_clear(&err);
	assert_becomes_readable(kata_sandbox_get_ended_fd(k.s));
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_ENDED);
	cr_assert_eq(kata_sandbox_get_container_count(k.s), 0);
	kit_deinit(&k);
}

Test(sandbox_life, an_agent_that_goes_while_nobody_calls_it_is_noticed_too)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_CHECK};
	struct kit k;
	kata_agent *agent;
	kata_op *op = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	agent = kata_sandbox_get_agent(k.s);
	fixture_assert_ok(kata_mock_set_failure(k.builder, KATA_MOCK_AGENT_CALL, KATA_E_GONE, 1, &err), err);
	fixture_assert_ok(kata_agent_call_begin(agent, &request, &options, &op, &err),
			  err); /* not a call of the sandbox */
	assert_becomes_readable(kata_sandbox_get_ended_fd(k.s));
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_ENDED);
	kata_op_unref(op);
	kata_agent_unref(agent);
	kit_deinit(&k);
}

Test(sandbox_life, an_agent_that_never_answers_costs_one_deadline)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	struct kit k;
	kata_error *err = NULL;

	kit_init_new(&k);
	options.timeout_ms = 150;
	fixture_assert_ok(kata_mock_set_delay(k.builder, KATA_MOCK_AGENT_CALL, 60000, &err), err);
	fixture_assert_fails(kata_sandbox_start(k.s, &options, &err), KATA_E_TIMEOUT, err);
	error_clear(&err);
	kit_deinit(&k);
}

Test(sandbox_life, shutdown_lets_the_guest_power_off_and_then_destroys)
{
	struct kit k;
	kata_vm *vm;
	kata_error *err = NULL;

	kit_init(&k);
	vm = kata_sandbox_get_vm(k.s);
	kit_run(&k, "c1", "\"sleep\"");
	fixture_assert_ok(kata_sandbox_shutdown(k.s, NULL, &err), err);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_DESTROYED);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_DESTROYED);
	cr_assert(is_readable(kata_sandbox_get_ended_fd(k.s)));
	kata_vm_unref(vm);
	kit_deinit(&k);
}

Test(sandbox_life, shutdown_of_a_paused_sandbox_wakes_it_first)
{
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	fixture_assert_ok(kata_sandbox_pause(k.s, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_shutdown(k.s, NULL, &err), err);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_DESTROYED);
	kit_deinit(&k);
}

Test(sandbox_life, shutdown_of_a_guest_that_does_not_answer_falls_back_to_destroy)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	options.timeout_ms = 100;
	fixture_assert_ok(kata_mock_set_delay(k.builder, KATA_MOCK_AGENT_CALL, 60000, &err), err);
	fixture_assert_ok(kata_sandbox_shutdown(k.s, &options, &err), err);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_DESTROYED);
	kit_deinit(&k);
}

Test(sandbox_life, destroy_cancels_what_is_under_way)
{
	struct kit k;
	kata_storage *storage;
	kata_op *op = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	storage = fixture_storage("d", "/d", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_mock_set_delay(k.builder, KATA_MOCK_ADD_STORAGE, 60000, &err), err);
	fixture_assert_ok(kata_sandbox_add_storage_begin(k.s, storage, NULL, &op, &err), err);
	fixture_assert_ok(kata_sandbox_destroy(k.s, NULL, &err), err);
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_GONE, err);
	error_clear(&err);
	cr_assert_eq(kata_storage_get_state(storage), KATA_DEVICE_NEW);
	kata_op_unref(op);
	kata_storage_unref(storage);
	kit_deinit(&k);
}

Test(sandbox_life, the_last_reference_of_a_running_sandbox_ends_its_vm)
{
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	kit_run(&k, "c1", "\"sleep\"");
	kata_sandbox_unref(k.s);
	k.s = NULL;
	kata_vm_builder_free(k.builder);
	fixture_assert_ok(kata_context_free(k.f.context, &err), err);
	k.f.context = NULL;
	fixture_deinit(&k.f);
}

Test(sandbox_life, the_whole_life_runs_on_the_callers_own_loop)
{
	struct kit k = {0};
	char text[8] = "";
	size_t length = 0;
	kata_error *err = NULL;
	int out;

	fixture_init(&k.f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	fixture_assert_ok(kata_vm_builder_new_mock(k.f.context, &k.builder, &err), err);
	k.s = kit_create(&k, "sb");
	fixture_assert_ok(kata_sandbox_start(k.s, NULL, &err), err);
	kit_run(&k, "c1", "\"echo\",\"hi\"");
	kit_open(&k, "c1", NULL, NULL, &out, NULL);
	while (length < 3) { /* nothing flows but in a dispatch */
		struct pollfd p = {.fd = out, .events = POLLIN};

		fixture_assert_ok(kata_context_dispatch(k.f.context, 20, &err), err);
		if (poll(&p, 1, 0) == 1)
			length += (size_t)read(out, text + length, 3 - length);
	}
	cr_assert_str_eq(text, "hi\n");
	close(out);
	cr_assert_eq(kit_wait(&k, "c1", NULL), 0);
	kit_deinit(&k);
}

Test(sandbox_life, two_starts_at_once_are_one_start_and_one_state_error)
{
	struct kit k;
	kata_op *op = NULL;
	kata_error *err = NULL;

	kit_init_new(&k);
	fixture_assert_ok(kata_mock_set_delay(k.builder, KATA_MOCK_START, 100, &err), err);
	fixture_assert_ok(kata_sandbox_start_begin(k.s, NULL, &op, &err), err);
	fixture_assert_fails(kata_sandbox_start(k.s, NULL, &err), KATA_E_STATE, err);
	error_clear(&err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	kata_op_unref(op);
	kit_deinit(&k);
}

Test(sandbox_life, null_arguments_are_named)
{
	kata_error *err = NULL;
	kata_sandbox *s = NULL;

	fixture_assert_fails(kata_sandbox_start(NULL, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_sandbox_new(NULL, NULL, NULL, NULL, &s, &err), KATA_E_INVALID, err);
	cr_assert(strstr(kata_error_get_message(err), "context"));
	error_clear(&err);
	cr_assert_eq(kata_sandbox_get_state(NULL), KATA_SANDBOX_DESTROYED);
	cr_assert_null(kata_sandbox_get_id(NULL));
	cr_assert_null(kata_sandbox_get_vm(NULL));
	cr_assert_null(kata_sandbox_get_agent(NULL));
	cr_assert_eq(kata_sandbox_get_ended_fd(NULL), -1);
	cr_assert_eq(kata_sandbox_get_container_count(NULL), 0);
	kata_sandbox_unref(NULL);
	cr_assert_null(kata_sandbox_ref(NULL));
	cr_assert_str_eq(kata_sandbox_state_get_name((kata_sandbox_state)99), "unknown");
}

Test(sandbox_life, a_vm_is_of_one_sandbox_and_the_agent_is_its_own)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_sandbox_options options = KATA_SANDBOX_OPTIONS_INIT;
	kata_sandbox *second = NULL;
	kata_agent *agent;
	kata_vm *own, *other = NULL;
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	own = kata_sandbox_get_vm(k.s);
	agent = kata_sandbox_get_agent(k.s);
	config.id = "other";
	fixture_assert_ok(kata_vm_builder_build(k.builder, &config, NULL, NULL, &other, &err), err);
	fixture_assert_fails(kata_sandbox_new(k.f.context, NULL, other, agent, &second, &err), KATA_E_INVALID, err);
	cr_assert_str_eq(kata_error_get_message(err), "agent: is connected to VM 'sb', must be to 'other'");
	error_clear(&err);
	options.id = "second";
	fixture_assert_fails(kata_sandbox_new(k.f.context, &options, own, agent, &second, &err), KATA_E_BUSY, err);
	cr_assert_not_null(strstr(kata_error_get_message(err), "VM 'sb' is of sandbox 'sb'"), "%s", error_text(err));
	error_clear(&err);
	cr_assert_null(second);

	/* Who drops the first, and goes on with the parts, may make another. */
	kata_sandbox_unref(k.s);
	fixture_assert_ok(kata_sandbox_new(k.f.context, &options, own, agent, &k.s, &err), err);
	fixture_assert_ok(kata_sandbox_start(k.s, NULL, &err), err);
	kata_agent_unref(agent);
	kata_vm_unref(own);
	kata_vm_unref(other);
	kit_deinit(&k);
}
