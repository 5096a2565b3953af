/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sandbox on an agent of the caller's own, which notes what it is asked and in which order: the rules of the Kata
 * agent that a mock that forgives would not show. Such an agent may answer before its call function returns; this one
 * does wherever it can.
 */
#include "sandbox_kit.h"

#include <kata/driver/agent.h>

#define CALLS_MAX 4096

/* Written on the loop's thread; a test reads a call after it has seen the count that includes it. */
struct spy {
	kata_agent_method calls[CALLS_MAX];
	_Atomic size_t count;
	_Atomic uint32_t max_length;
	_Atomic size_t stdin_bytes;
	uint64_t out_left;
	size_t out_chunk;
	bool park_reads;
	int32_t status;
	_Atomic bool freed;
	kata_agent_reply_fn parked;
	void *parked_user;
};

static void answer(kata_agent_reply_fn fn, void *user, const void *data, size_t length, int32_t status)
{
	kata_agent_reply reply = {.size = sizeof(reply), .data = data, .data_length = length, .exit_status = status};

	fn(user, &reply, NULL);
}

static void read_output(struct spy *spy, const kata_agent_request *request, kata_agent_reply_fn fn, void *user)
{
	static char zeros[65536];
	size_t n = spy->out_chunk < request->max_length ? spy->out_chunk : request->max_length;

	spy->max_length = request->max_length > spy->max_length ? request->max_length : spy->max_length;
	if (spy->park_reads) {
		spy->parked = fn;
		spy->parked_user = user;
		return;
	}
	if (n > spy->out_left)
		n = (size_t)spy->out_left;
	spy->out_left -= n;
	answer(fn, user, zeros, n, 0);
}

static void spy_call(void *self, const kata_agent_request *request, uint64_t timeout_ms, kata_agent_reply_fn fn,
		     void *user, uint64_t *ret_token)
{
	struct spy *spy = self;

	*ret_token = 1;
	if (spy->count < CALLS_MAX) {
		spy->calls[spy->count] = request->method;
		spy->count++;
	}
	switch (request->method) {
	case KATA_AGENT_READ_STDOUT:
		read_output(spy, request, fn, user);
		break;
	case KATA_AGENT_WRITE_STDIN:
		spy->stdin_bytes += request->data_length;
		answer(fn, user, NULL, 0, 0);
		break;
	case KATA_AGENT_WAIT_PROCESS:
		answer(fn, user, NULL, 0, spy->status);
		break;
	default:
		answer(fn, user, NULL, 0, 0);
		break;
	}
}

static void spy_cancel(void *self, uint64_t token)
{
	struct spy *spy = self;

	spy->parked = NULL;
}

static void spy_free(void *self)
{
	struct spy *spy = self;

	spy->freed = true;
}

static const kata_agent_ops spy_ops = {
	.size = sizeof(kata_agent_ops), .name = "spy", .call = spy_call, .cancel = spy_cancel, .free = spy_free};

static void spy_init(struct kit *k, struct spy *spy)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_agent *agent = NULL;
	kata_vm *vm = NULL;
	kata_error *err = NULL;

	memset(k, 0, sizeof(*k));
	fixture_init(&k->f, true, 0);
	fixture_assert_ok(kata_vm_builder_new_mock(k->f.context, &k->builder, &err), err);
	fixture_assert_ok(kata_vm_builder_build(k->builder, &config, NULL, NULL, &vm, &err), err);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	fixture_assert_ok(kata_agent_new(k->f.context, NULL, &spy_ops, spy, &agent, &err), err);
	fixture_assert_ok(kata_sandbox_new(k->f.context, NULL, vm, agent, &k->s, &err), err);
	fixture_assert_ok(kata_sandbox_start(k->s, NULL, &err), err);
	kata_agent_unref(agent);
	kata_vm_unref(vm);
}

/* Where the method was first called, or -1. */
static long first(const struct spy *spy, kata_agent_method method)
{
	for (size_t i = 0; i < spy->count; i++)
		if (spy->calls[i] == method)
			return (long)i;
	return -1;
}

static long last(const struct spy *spy, kata_agent_method method)
{
	for (size_t i = spy->count; i-- > 0;)
		if (spy->calls[i] == method)
			return (long)i;
	return -1;
}

Test(sandbox_agent, the_exit_is_asked_for_only_after_the_last_read)
{
	struct spy spy = {.out_left = 300000, .out_chunk = 1000, .status = 42};
	struct kit k;
	size_t length;
	int out;

	spy_init(&k, &spy);
	kit_run(&k, "c1", "\"x\"");
	kit_open(&k, "c1", NULL, NULL, &out, NULL);
	free(kit_read(out, 0, &length));
	close(out);
	cr_assert_eq(length, 300000);
	cr_assert_eq(kit_wait(&k, "c1", NULL), 42);
	cr_assert_gt(first(&spy, KATA_AGENT_WAIT_PROCESS), last(&spy, KATA_AGENT_READ_STDOUT));
	cr_assert_eq(first(&spy, KATA_AGENT_WAIT_PROCESS), last(&spy, KATA_AGENT_WAIT_PROCESS), "it is asked for once");
	cr_assert_leq(spy.max_length, 65536u);
	kit_deinit(&k);
	cr_assert(spy.freed);
}

Test(sandbox_agent, a_wait_that_comes_first_still_waits_for_the_output)
{
	struct spy spy = {.out_left = 5000000, .out_chunk = 30000, .status = 1};
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	struct kit k;
	int32_t status;
	size_t length;
	kata_error *err = NULL;
	int out;

	spy_init(&k, &spy);
	kit_run(&k, "c1", "\"x\"");
	kit_open(&k, "c1", NULL, NULL, &out, NULL);
	options.timeout_ms = 100;
	fixture_assert_fails(kata_sandbox_wait_process(k.s, "c1", NULL, &options, &status, &err), KATA_E_TIMEOUT, err);
	error_clear(&err);
	cr_assert_eq(first(&spy, KATA_AGENT_WAIT_PROCESS), -1);
	free(kit_read(out, 0, &length));
	close(out);
	cr_assert_eq(length, 5000000);
	cr_assert_eq(kit_wait(&k, "c1", NULL), 1);
	kit_deinit(&k);
}

Test(sandbox_agent, a_reader_who_stops_costs_a_bounded_number_of_reads)
{
	struct spy spy = {.out_left = UINT64_C(1) << 40, .out_chunk = 1000};
	struct kit k;
	size_t before;
	int out;

	spy_init(&k, &spy);
	kit_run(&k, "c1", "\"x\"");
	kit_open(&k, "c1", NULL, NULL, &out, NULL);
	free(kit_read(out, 100000, NULL));
	kit_add(&k, "c2", "\"x\""); /* a call that has come back: the loop has had its turns */
	do {                        /* what the socket and the pump take is soon full */
		before = spy.count;
		usleep(100000);
	} while (spy.count != before && spy.count < CALLS_MAX);
	cr_assert_lt(spy.count, CALLS_MAX, "reads go on though nobody reads");
	close(out);
	kit_deinit(&k);
}

Test(sandbox_agent, one_byte_answers_are_carried_as_well)
{
	struct spy spy = {.out_left = 2000, .out_chunk = 1};
	struct kit k;
	size_t length;
	int out;

	spy_init(&k, &spy);
	kit_run(&k, "c1", "\"x\"");
	kit_open(&k, "c1", NULL, NULL, &out, NULL);
	free(kit_read(out, 0, &length));
	close(out);
	cr_assert_eq(length, 2000);
	kit_deinit(&k);
}

Test(sandbox_agent, the_input_is_closed_after_its_last_byte_and_a_terminals_never)
{
	struct spy spy = {.park_reads = true};
	struct kit k;
	kata_error *err = NULL;
	int in, tries = 0;

	spy_init(&k, &spy);
	kit_run(&k, "c1", "\"x\"");
	kit_open(&k, "c1", NULL, &in, NULL, NULL);
	cr_assert_eq(write(in, "hello", 5), 5);
	close(in);
	while (first(&spy, KATA_AGENT_CLOSE_STDIN) < 0 && tries++ < 2000)
		usleep(1000);
	cr_assert_eq(spy.stdin_bytes, 5);
	cr_assert_gt(first(&spy, KATA_AGENT_CLOSE_STDIN), last(&spy, KATA_AGENT_WRITE_STDIN));

	spy.count = 0;
	fixture_assert_ok(kit_try_add(&k, "tty", "\"x\"", true, &err), err);
	kit_open(&k, "tty", NULL, &in, NULL, NULL);
	close(in);
	kit_add(&k, "c2", "\"x\"");
	usleep(50000);
	cr_assert_eq(first(&spy, KATA_AGENT_CLOSE_STDIN), -1);
	kit_deinit(&k);
}

Test(sandbox_agent, an_agent_of_the_callers_own_cannot_be_released_and_the_sandbox_goes_on)
{
	struct spy spy = {.park_reads = true, .status = 9};
	struct kit k;
	kata_error *err = NULL;

	spy_init(&k, &spy);
	fixture_assert_fails(kata_sandbox_release(k.s, NULL, NULL, &err), KATA_E_UNSUPPORTED, err);
	error_clear(&err);
	KIT_ASSERT_STATE(&k, KATA_SANDBOX_RUNNING);
	kit_run(&k, "c1", "\"x\"");
	cr_assert_eq(kit_wait(&k, "c1", NULL), 9);
	kit_deinit(&k);
}

Test(sandbox_agent, a_call_in_flight_when_the_sandbox_is_freed_is_cancelled)
{
	struct spy spy = {.park_reads = true};
	struct kit k;
	int out;
	char byte;

	spy_init(&k, &spy);
	kit_run(&k, "c1", "\"x\"");
	kit_open(&k, "c1", NULL, NULL, &out, NULL);
	kit_deinit(&k);
	cr_assert_eq(read(out, &byte, 1), 0);
	close(out);
	cr_assert(spy.freed);
}
