/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's client at the wire: the stand-in's agent misbehaves at each method in turn, on the virtio-serial socket
 * of the real driver. Whatever it does, the call ends by its deadline with a documented error, the VM is destroyed, and
 * the host is as before.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "support/fixture.h"

#define TIMEOUT_MS 300
#define SLACK_MS 3000 /* of a busy machine */

static const kata_op_options timely = {sizeof(timely), TIMEOUT_MS};

static struct fixture f;
static char *standin, *kernel;
static kata_vm_builder *builder;
static kata_agent_builder *agents;
static kata_vm *vm;
static kata_agent *agent;
static kata_error *err;

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void start_vm(void)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	config.id = "vm";
	config.kernel = kernel;
	config.initrd = kernel;
	fixture_assert_ok(kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err), err);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
}

static void end_vm(void)
{
	uint64_t start_ms = now_ms();

	kata_agent_unref(agent);
	agent = NULL;
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	cr_assert_lt(now_ms() - start_ms, SLACK_MS);
	kata_vm_unref(vm);
	vm = NULL;
}

static void set_up(void)
{
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;

	fixture_init(&f, true, 0);
	standin = fixture_make_standin(&f, "");
	kernel = fixture_make_kernel(&f);
	options.binary = standin;
	options.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(f.context, &options, &builder, &err), err);
	fixture_assert_ok(kata_agent_builder_new_direct(f.context, &agents, &err), err);
	start_vm();
	end_vm();
}

static void tear_down(void)
{
	error_clear(&err);
	kata_agent_builder_free(agents);
	kata_vm_builder_free(builder);
	free(standin);
	free(kernel);
	fixture_deinit(&f);
}

TestSuite(vm_wire_agent, .init = set_up, .fini = tear_down, .timeout = 600);

/* ---- calls */

#define REQUEST(method_, ...)                                                                                          \
	{                                                                                                              \
		.size = sizeof(kata_agent_request), .method = KATA_AGENT_##method_, __VA_ARGS__                        \
	}

static const char spec[] =
	"{\"ociVersion\":\"1.0.2\",\"process\":{\"cwd\":\"/\",\"args\":[\"cat\"],\"user\":{\"uid\":0,\"gid\":0}},"
	"\"root\":{\"path\":\"/run/rootfs\"},\"linux\":{}}";
static const char process[] = "{\"cwd\":\"/\",\"args\":[\"sleep\"],\"user\":{\"uid\":0,\"gid\":0}}";

static const kata_agent_request create_sandbox = REQUEST(CREATE_SANDBOX, .sandbox_id = "s1", .hostname = "host");
static const kata_agent_request create =
	REQUEST(CREATE_CONTAINER, .container_id = "c1", .exec_id = "c1", .json = spec, .json_length = sizeof(spec) - 1);
static const kata_agent_request start = REQUEST(START_CONTAINER, .container_id = "c1");
static const kata_agent_request exec = REQUEST(EXEC_PROCESS, .container_id = "c1", .exec_id = "e1", .json = process,
					       .json_length = sizeof(process) - 1);
static const kata_agent_request signal_it = REQUEST(SIGNAL_PROCESS, .container_id = "c1", .exec_id = "c1", .signal = 9);
static const kata_agent_request wait_for = REQUEST(WAIT_PROCESS, .container_id = "c1", .exec_id = "c1");
static const kata_agent_request write_in =
	REQUEST(WRITE_STDIN, .container_id = "c1", .exec_id = "c1", .data = "abc", .data_length = 3);
static const kata_agent_request read_out =
	REQUEST(READ_STDOUT, .container_id = "c1", .exec_id = "c1", .max_length = 100);
static const kata_agent_request stats = REQUEST(STATS_CONTAINER, .container_id = "c1");
static const kata_agent_request remove_it = REQUEST(REMOVE_CONTAINER, .container_id = "c1");
static const kata_agent_request destroy_sandbox = REQUEST(DESTROY_SANDBOX, );

static int call(const kata_agent_request *request, const kata_op_options *options)
{
	kata_op *op = NULL;
	int rc = kata_agent_call_begin(agent, request, options, &op, &err);

	if (rc == 0)
		rc = kata_op_wait(op, &err);
	kata_op_unref(op);
	return rc;
}

static void tell(const kata_agent_request *request)
{
	kata_op_options patient = {sizeof(patient), 10000};

	fixture_assert_ok(call(request, &patient), err);
}

/* ---- faults */

enum expectation { FAILS, SUCCEEDS, EITHER };

static const struct fault {
	const char *action;
	enum expectation expected;
} faults[] = {
	{"error 13 \"it rains\"", FAILS},
	{"error 5 \"never heard of it\"", FAILS},
	{"error 4711 \"no such code\"", FAILS},
	{"silence", FAILS},
	{"lost", FAILS},
	{"wrong-stream", FAILS},
	{"hang-up", FAILS},
	{"bad-frame", FAILS},
	{"truncated", FAILS},
	{"half-line", FAILS},
	{"oversize", FAILS},
	{"no-message", FAILS},
	{"exit 1 \"panic\"", FAILS},
	{"kill", FAILS},
	{"stop", FAILS},
	{"reply-twice", EITHER},
	{"flood 20000", EITHER},
	{"delay 50", SUCCEEDS},
};
#define FAULT_COUNT (sizeof(faults) / sizeof(faults[0]))

static bool is_documented(int status)
{
	return status == KATA_E_GUEST || status == KATA_E_PROTOCOL || status == KATA_E_GONE ||
	       status == KATA_E_TIMEOUT || status == KATA_E_NOT_FOUND;
}

static void check_outcome(const char *what, int rc, enum expectation expected, uint64_t took_ms)
{
	cr_assert(rc < 0 || expected != FAILS, "%s: it succeeded", what);
	cr_assert(rc == 0 || expected != SUCCEEDS, "%s: %s", what, error_text(err));
	cr_assert(rc == 0 || is_documented(rc), "%s: %s", what, error_text(err));
	cr_assert_lt(took_ms, TIMEOUT_MS + SLACK_MS, "%s: it took %llu ms", what, (unsigned long long)took_ms);
	error_clear(&err);
}

/* The call under test, after those before it have gone well. */
static void run_case(const char *script, const kata_agent_request *const *before, const kata_agent_request *request,
		     enum expectation expected)
{
	struct census *was = fixture_census(&f);
	uint64_t start_ms;
	int rc;

	fixture_set_script(standin, script);
	start_vm();
	fixture_assert_ok(kata_agent_builder_build(agents, vm, NULL, NULL, &agent, &err), err);
	for (; *before; before++)
		tell(*before);
	start_ms = now_ms();
	rc = call(request, &timely);
	check_outcome(script, rc, expected, now_ms() - start_ms);
	end_vm();
	fixture_assert_census(&f, was, script);
}

static void fail_at(const char *method, const kata_agent_request *const *before, const kata_agent_request *request)
{
	char script[160];

	for (size_t i = 0; i < FAULT_COUNT; i++) {
		snprintf(script, sizeof(script), "on %s %s\n", method, faults[i].action);
		/* A read of a process that the agent has forgotten is the end of file. */
		run_case(script, before, request, request == &read_out && i == 1 ? SUCCEEDS : faults[i].expected);
	}
}

static const kata_agent_request *const nothing[] = {NULL};
static const kata_agent_request *const created[] = {&create, NULL};
static const kata_agent_request *const running[] = {&create, &start, NULL};
static const kata_agent_request *const printed[] = {&create, &start, &write_in, NULL};
static const kata_agent_request *const killed[] = {&create, &start, &signal_it, NULL};

Test(vm_wire_agent, create_sandbox_survives_every_fault)
{
	fail_at("CreateSandbox", nothing, &create_sandbox);
}
Test(vm_wire_agent, create_container_survives_every_fault)
{
	fail_at("CreateContainer", nothing, &create);
}
Test(vm_wire_agent, start_container_survives_every_fault)
{
	fail_at("StartContainer", created, &start);
}
Test(vm_wire_agent, exec_process_survives_every_fault)
{
	fail_at("ExecProcess", running, &exec);
}
Test(vm_wire_agent, signal_process_survives_every_fault)
{
	fail_at("SignalProcess", running, &signal_it);
}
Test(vm_wire_agent, wait_process_survives_every_fault)
{
	fail_at("WaitProcess", killed, &wait_for);
}
Test(vm_wire_agent, write_stdin_survives_every_fault)
{
	fail_at("WriteStdin", running, &write_in);
}
Test(vm_wire_agent, read_stdout_survives_every_fault)
{
	fail_at("ReadStdout", printed, &read_out);
}
Test(vm_wire_agent, stats_container_survives_every_fault)
{
	fail_at("StatsContainer", running, &stats);
}
Test(vm_wire_agent, remove_container_survives_every_fault)
{
	fail_at("RemoveContainer", running, &remove_it);
}

/* A closed connection is a success here, and so is a guest that ends. */
Test(vm_wire_agent, destroy_sandbox_survives_every_fault)
{
	char script[160];

	for (size_t i = 0; i < FAULT_COUNT; i++) {
		snprintf(script, sizeof(script), "on DestroySandbox %s\n", faults[i].action);
		run_case(script, nothing, &destroy_sandbox, EITHER);
	}
}

/* ---- the handshake */

static void connect_case(const char *method, const struct fault *fault, enum expectation expected)
{
	struct census *was = fixture_census(&f);
	char script[160];
	uint64_t start_ms;
	int rc;

	snprintf(script, sizeof(script), "on %s %s\n", method, fault->action);
	fixture_set_script(standin, script);
	start_vm();
	start_ms = now_ms();
	rc = kata_agent_builder_build(agents, vm, NULL, &timely, &agent, &err);
	check_outcome(script, rc, expected, now_ms() - start_ms);
	cr_assert_eq(rc == 0, agent != NULL, "%s", script);
	end_vm();
	fixture_assert_census(&f, was, script);
}

Test(vm_wire_agent, the_handshake_survives_every_fault_at_check)
{
	/* Until the deadline it is tried again: what is wrong once may be right then. */
	for (size_t i = 0; i < FAULT_COUNT; i++)
		connect_case("Check", &faults[i], faults[i].expected);
}

Test(vm_wire_agent, the_handshake_survives_every_fault_at_version)
{
	for (size_t i = 0; i < FAULT_COUNT; i++)
		connect_case("Version", &faults[i], EITHER);
}

Test(vm_wire_agent, the_handshake_survives_every_fault_at_guest_details)
{
	for (size_t i = 0; i < FAULT_COUNT; i++)
		connect_case("GetGuestDetails", &faults[i], EITHER);
}

/* ---- other calls on the same connection */

Test(vm_wire_agent, a_call_without_an_answer_disturbs_no_other)
{
	fixture_set_script(standin, "on StatsContainer silence\non WaitProcess lost\n");
	start_vm();
	fixture_assert_ok(kata_agent_builder_build(agents, vm, NULL, NULL, &agent, &err), err);
	tell(&create);
	tell(&start);
	fixture_assert_fails(call(&stats, &timely), KATA_E_TIMEOUT, err);
	error_clear(&err);
	tell(&write_in);
	tell(&read_out);
	fixture_assert_fails(call(&stats, &timely), KATA_E_TIMEOUT, err);
	error_clear(&err);
	fixture_assert_ok(kata_agent_check(agent, NULL, &err), err);
	cr_assert_eq(kata_agent_get_state(agent), KATA_AGENT_CONNECTED);
	end_vm();
}

Test(vm_wire_agent, the_agents_words_are_in_the_error_and_harmless)
{
	fixture_set_script(standin, "on StatsContainer error 13 \"%n%s\x1b[2Jboo\"\n");
	start_vm();
	fixture_assert_ok(kata_agent_builder_build(agents, vm, NULL, NULL, &agent, &err), err);
	fixture_assert_fails(call(&stats, &timely), KATA_E_GUEST, err);
	cr_assert(strstr(kata_error_get_message(err), "%n%s"), "%s", kata_error_get_message(err));
	cr_assert(strstr(kata_error_get_message(err), "boo"));
	cr_assert_null(strchr(kata_error_get_message(err), '\x1b'));
	cr_assert_eq(kata_error_get_origin(err), KATA_ORIGIN_GUEST);
	error_clear(&err);
	end_vm();
}

Test(vm_wire_agent, a_new_connection_finds_the_containers_of_the_last_one)
{
	char *json = NULL;

	fixture_set_script(standin, "");
	start_vm();
	fixture_assert_ok(kata_agent_builder_build(agents, vm, NULL, NULL, &agent, &err), err);
	tell(&create);
	tell(&start);
	tell(&write_in);
	fixture_assert_ok(kata_agent_release(agent, &json, &err), err);
	kata_agent_unref(agent);
	agent = NULL;
	fixture_assert_ok(kata_agent_builder_build(agents, vm, json, NULL, &agent, &err), err);
	free(json);
	tell(&read_out);
	end_vm();
}
