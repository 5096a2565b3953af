/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine is made its own: by the mock's agent, and by one whose far end is the test, which sees what is asked of it
 * and when. The VM is the mock.
 */
#include "unit/agent/agent_test.h"

#include <ctype.h>
#include <time.h>

#include "factory/identity.h"

#define ALL (KATA_RESET_ENTROPY | KATA_RESET_CLOCK | KATA_RESET_HOSTNAME | KATA_RESET_MACHINE_ID)

struct world {
	struct fixture f;
	kata_vm_builder *builder;
	kata_vm *vm;
	struct kata__vm_driver driver; /* the mock's, whose channel leads to the test */
	struct wire wire;
	bool is_wired;
	kata_op *op;
	kata_error *err;
};

static struct world *world;

static int connect_to_test(kata_vm *vm, int *ret_fd, kata_error **err)
{
	int fds[2];

	(void)vm;
	(void)err;
	if (world->is_wired)
		wire_deinit(&world->wire);
	wire_pair(fds);
	*ret_fd = fds[0];
	wire_init(&world->wire, fds[1]);
	world->is_wired = true;
	return 0;
}

static void open_world(struct world *w, bool wired)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	*w = (struct world){0};
	world = w;
	config.id = "clone-7";
	fixture_init(&w->f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	fixture_assert_ok(kata_vm_builder_new_mock(w->f.context, &w->builder, &w->err), w->err);
	fixture_assert_ok(kata_vm_builder_build(w->builder, &config, NULL, NULL, &w->vm, &w->err), w->err);
	fixture_assert_ok(kata_vm_start(w->vm, NULL, &w->err), w->err);
	cr_assert_eq(kata_vm_get_identity_reset(w->vm), 0u);
	if (!wired)
		return;
	w->driver = *w->vm->driver;
	w->driver.connect_agent = connect_to_test;
	w->vm->driver = &w->driver;
}

static void close_world(struct world *w)
{
	kata_context_clear_fail_point(w->f.context, NULL);
	kata_op_unref(w->op);
	kata_vm_destroy(w->vm, NULL, NULL);
	kata_vm_unref(w->vm);
	kata_vm_builder_free(w->builder);
	if (w->is_wired)
		wire_deinit(&w->wire);
	error_clear(&w->err);
	fixture_deinit(&w->f);
}

static void begin(struct world *w, const struct kata__identity_options *options)
{
	fixture_assert_ok(kata__identity_reset_begin(w->vm, options, NULL, &w->op, &w->err), w->err);
}

/* The agent's channel is free: nobody has kept it. */
static void assert_channel_is_free(struct world *w)
{
	kata_error *err = NULL;
	int fd = -1;

	settle(w->f.context);
	fixture_assert_ok(kata__vm_connect_agent(w->vm, &fd, &err), err);
	kata__vm_disconnect_agent(w->vm);
	close(fd);
}

static void assert_succeeds(struct world *w, uint64_t reset)
{
	fixture_assert_ok(kata_op_wait(w->op, &w->err), w->err);
	cr_assert_eq(kata_vm_get_identity_reset(w->vm), reset, "0x%llx",
		     (unsigned long long)kata_vm_get_identity_reset(w->vm));
	assert_channel_is_free(w);
}

static void assert_fails(struct world *w, int status, const char *text)
{
	fixture_assert_fails(kata_op_wait(w->op, &w->err), status, w->err);
	cr_assert(strstr(error_text(w->err), text), "'%s' is not in: %s", text, error_text(w->err));
	error_clear(&w->err);
	cr_assert_eq(kata_vm_get_identity_reset(w->vm), 0u);
	assert_channel_is_free(w);
}

/* ---- the agent is the mock's ---- */

Test(identity, the_mocks_agent_does_all_of_it)
{
	struct kata__identity_options options = {.own = KATA_RESET_UUID};
	struct world w;

	open_world(&w, false);
	begin(&w, &options);
	assert_succeeds(&w, ALL | KATA_RESET_UUID);
	close_world(&w);
}

Test(identity, macs_are_counted_where_there_are_some)
{
	char path[] = "08/00", mac[] = "02:00:00:00:00:01";
	kata_agent_mac macs[] = {{.pci_path = path, .mac = mac}};
	struct kata__identity_options options = {.macs = macs, .mac_count = 1};
	struct world w;

	open_world(&w, false);
	begin(&w, &options);
	memset(path, 'x', 5); /* they were copied */
	memset(mac, 'x', 17);
	assert_succeeds(&w, ALL | KATA_RESET_MACS);
	close_world(&w);
}

Test(identity, a_connection_that_is_given_stays)
{
	struct kata__identity_options options = {0};
	kata_agent_builder *agents = NULL;
	struct world w;

	open_world(&w, false);
	fixture_assert_ok(kata_agent_builder_new_direct(w.f.context, &agents, &w.err), w.err);
	fixture_assert_ok(kata_agent_builder_build(agents, w.vm, NULL, NULL, &options.agent, &w.err), w.err);
	begin(&w, &options);
	fixture_assert_ok(kata_op_wait(w.op, &w.err), w.err);
	cr_assert_eq(kata_vm_get_identity_reset(w.vm), ALL);
	fixture_assert_ok(kata_agent_check(options.agent, NULL, &w.err), w.err);
	kata_agent_unref(options.agent);
	kata_agent_builder_free(agents);
	close_world(&w);
}

Test(identity, each_step_can_fail_and_leaves_the_channel_free)
{
	static const char *const points[] = {"connect-agent:before", "connect-agent:after", "reset-identity:before",
					     "reset-identity:after", "set-clock:before",    "set-clock:after",
					     "release-agent:before", "release-agent:after"};
	struct kata__identity_options options = {0};

	for (size_t i = 0; i < kata__array_size(points); i++) {
		struct world w;
		char point[64];

		open_world(&w, false);
		snprintf(point, sizeof(point), "reset-identity/%s", points[i]);
		fixture_assert_ok(kata_context_set_fail_point(w.f.context, point, KATA_FAIL_ERROR, 0, 0, 1, &w.err),
				  w.err);
		begin(&w, &options);
		assert_fails(&w, KATA_E_INJECTED, "");
		close_world(&w);
	}
}

/* ---- the agent is the test ---- */

/* The handshake's question and the reset are there before anything was answered. */
static uint32_t read_flight(struct world *w, struct received *ret_reset)
{
	struct received r;

	wire_read(&w->wire, &r);
	cr_assert_str_eq(r.method, "Check");
	kata__proto_free(r.message);
	wire_read(&w->wire, ret_reset);
	cr_assert_str_eq(ret_reset->method, "ResetIdentity");
	return r.id;
}

static void answer_check(struct world *w, uint32_t id)
{
	Grpc__HealthCheckResponse check = GRPC__HEALTH_CHECK_RESPONSE__INIT;

	check.status = GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
	wire_answer(&w->wire, id, &check);
}

static void answer_features(struct world *w, bool has_guest_service)
{
	Grpc__VersionCheckResponse version = GRPC__VERSION_CHECK_RESPONSE__INIT;
	Grpc__GuestDetailsResponse details = GRPC__GUEST_DETAILS_RESPONSE__INIT;
	Grpc__AgentDetails agent = GRPC__AGENT_DETAILS__INIT;
	char *features[] = {(char *)"libkata.guest"};
	struct received r;

	settle(w->f.context);
	wire_read(&w->wire, &r);
	cr_assert_str_eq(r.method, "Version");
	wire_answer(&w->wire, r.id, &version);
	kata__proto_free(r.message);
	wire_read(&w->wire, &r);
	cr_assert_str_eq(r.method, "GetGuestDetails");
	kata__proto_free(r.message);
	agent.extra_features = features;
	agent.n_extra_features = has_guest_service;
	details.agent_details = &agent;
	wire_answer(&w->wire, r.id, &details);
}

static void answer_reset(struct world *w, uint32_t id, int64_t seconds)
{
	Grpc__ResetIdentityResponse r = GRPC__RESET_IDENTITY_RESPONSE__INIT;

	r.done = ALL;
	r.seconds = seconds;
	wire_answer(&w->wire, id, &r);
}

static void begin_wired(struct world *w, const struct kata__identity_options *options, struct received *ret_reset,
			uint32_t *ret_first)
{
	open_world(w, true);
	begin(w, options);
	*ret_first = read_flight(w, ret_reset);
}

Test(identity, everything_is_asked_in_one_flight_and_in_the_machines_own_name)
{
	struct kata__identity_options options = {0};
	const Grpc__ResetIdentityRequest *q;
	const char *uuid;
	struct received r;
	struct world w;
	uint32_t first;

	begin_wired(&w, &options, &r, &first);
	q = r.message;
	cr_assert_str_eq(q->hostname, "clone-7");
	cr_assert_eq(strlen(q->machine_id), 32u);
	uuid = kata_vm_get_uuid(w.vm);
	for (const char *p = q->machine_id; *p; p++, uuid++) {
		uuid += *uuid == '-';
		cr_assert_eq(*p, *uuid);
	}
	cr_assert_geq(q->entropy.len, 32u);
	cr_assert_leq(llabs(q->seconds - time(NULL)), 1);
	cr_assert_eq(q->n_macs, 0u);
	kata__proto_free(r.message);
	answer_reset(&w, r.id, time(NULL) + 1);
	answer_check(&w, first);
	assert_succeeds(&w, ALL);
	close_world(&w);
}

Test(identity, another_hostname_may_be_given_and_is_cut_to_64_bytes)
{
	struct kata__identity_options options = {
		.hostname = "0123456789012345678901234567890123456789012345678901234567890123456789"};
	struct received r;
	struct world w;
	uint32_t first;

	begin_wired(&w, &options, &r, &first);
	cr_assert_eq(strlen(((const Grpc__ResetIdentityRequest *)r.message)->hostname), 64u);
	kata__proto_free(r.message);
	answer_check(&w, first);
	answer_reset(&w, r.id, time(NULL) + 1);
	assert_succeeds(&w, ALL);
	close_world(&w);
}

Test(identity, two_machines_get_other_entropy)
{
	struct kata__identity_options options = {0};
	uint8_t entropy[2][32];

	for (int i = 0; i < 2; i++) {
		struct received r;
		struct world w;
		uint32_t first;

		begin_wired(&w, &options, &r, &first);
		memcpy(entropy[i], ((const Grpc__ResetIdentityRequest *)r.message)->entropy.data, 32);
		kata__proto_free(r.message);
		answer_check(&w, first);
		answer_reset(&w, r.id, time(NULL) + 1);
		assert_succeeds(&w, ALL);
		close_world(&w);
	}
	cr_assert_neq(memcmp(entropy[0], entropy[1], 32), 0);
}

static void answer_next(struct world *w, const char *method)
{
	struct received r;

	settle(w->f.context);
	wire_read(&w->wire, &r);
	cr_assert_str_eq(r.method, method);
	wire_answer(&w->wire, r.id, NULL);
	kata__proto_free(r.message);
}

static void answer_as_a_plain_agent(struct world *w, uint32_t first, struct received *r)
{
	kata__proto_free(r->message);
	answer_check(w, first);
	wire_refuse(&w->wire, r->id, KATA__GRPC_INVALID_ARGUMENT, "/kata.Guest/ResetIdentity does not exist");
	answer_features(w, false);
	answer_next(w, "ReseedRandomDev");
	answer_next(w, "SetGuestDateTime");
}

Test(identity, a_plain_agent_does_entropy_and_clock_and_the_rest_is_not_claimed)
{
	struct kata__identity_options options = {.own = KATA_RESET_UUID};
	struct received r;
	struct world w;
	uint32_t first;

	begin_wired(&w, &options, &r, &first);
	answer_as_a_plain_agent(&w, first, &r);
	assert_succeeds(&w, KATA_RESET_ENTROPY | KATA_RESET_CLOCK | KATA_RESET_UUID);
	close_world(&w);
}

Test(identity, a_mac_that_the_guest_cannot_be_told_of_fails_it)
{
	const kata_agent_mac mac = {.pci_path = "08/00", .mac = "02:00:00:00:00:01"};
	struct kata__identity_options options = {.macs = &mac, .mac_count = 1};
	struct received r;
	struct world w;
	uint32_t first;

	begin_wired(&w, &options, &r, &first);
	answer_as_a_plain_agent(&w, first, &r);
	assert_fails(&w, KATA_E_UNSUPPORTED, "1 of its MACs");
	close_world(&w);
}

Test(identity, a_guest_that_cannot_do_it_fails_it_with_its_words)
{
	struct kata__identity_options options = {0};
	struct received r;
	struct world w;
	uint32_t first;

	begin_wired(&w, &options, &r, &first);
	kata__proto_free(r.message);
	answer_check(&w, first);
	wire_refuse(&w.wire, r.id, KATA__GRPC_INTERNAL, "machine_id: cannot be reset (done before: entropy)");
	answer_features(&w, true);
	assert_fails(&w, KATA_E_GUEST, "done before: entropy");
	close_world(&w);
}

Test(identity, a_clock_that_came_late_is_set_once_more)
{
	struct kata__identity_options options = {0};
	struct received r;
	struct world w;
	uint32_t first;

	begin_wired(&w, &options, &r, &first);
	kata__proto_free(r.message);
	answer_reset(&w, r.id, time(NULL) - 2);
	answer_check(&w, first);
	answer_next(&w, "SetGuestDateTime");
	assert_succeeds(&w, ALL);
	close_world(&w);
}

Test(identity, a_guest_that_lies_about_what_it_did_fails_it)
{
	Grpc__ResetIdentityResponse lie = GRPC__RESET_IDENTITY_RESPONSE__INIT;
	struct kata__identity_options options = {0};
	struct received r;
	struct world w;
	uint32_t first;

	begin_wired(&w, &options, &r, &first);
	kata__proto_free(r.message);
	lie.done = KATA_RESET_ENTROPY;
	wire_answer(&w.wire, r.id, &lie);
	answer_check(&w, first);
	answer_features(&w, true);
	assert_fails(&w, KATA_E_PROTOCOL, "ResetIdentity");
	close_world(&w);
}

Test(identity, a_guest_that_is_silent_costs_one_deadline)
{
	kata_op_options timing = {.size = sizeof(timing), .timeout_ms = 50};
	struct kata__identity_options options = {0};
	struct world w;

	open_world(&w, true);
	fixture_assert_ok(kata__identity_reset_begin(w.vm, &options, &timing, &w.op, &w.err), w.err);
	assert_fails(&w, KATA_E_TIMEOUT, "");
	close_world(&w);
}

Test(identity, the_end_of_the_machine_ends_it)
{
	struct kata__identity_options options = {0};
	struct received r;
	struct world w;
	uint32_t first;

	begin_wired(&w, &options, &r, &first);
	kata__proto_free(r.message);
	fixture_assert_ok(kata_vm_destroy(w.vm, NULL, &w.err), w.err);
	cr_assert_lt(kata_op_wait(w.op, &w.err), 0);
	error_clear(&w.err);
	cr_assert_eq(kata_vm_get_identity_reset(w.vm), 0u);
	close_world(&w);
}
