/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every allocation of a call, a connecting and a release fails in turn, once alone and once with all that follow: an
 * error comes, nothing leaks (counted here), and the same thing succeeds afterwards. Sanitizers bring their own malloc,
 * so there these tests are skipped.
 */
#include "unit/agent/agent_test.h"

#include <kata/mock.h>

#include "factory/identity.h"
#include "support/counting_malloc.h"

static struct link l;

/* One run of the thing under test: frees what it made; returns its status. `prepare` runs before, with memory. */
struct scenario {
	void (*prepare)(void);
	int (*run)(kata_error **err);
	void (*clean)(void); /* with memory again */
	/* The other end runs in this process and lacks memory, too: it is silent, or refuses. */
	bool may_time_out, may_be_refused;
};

static int run_once(const struct scenario *s, long n, kata_error **err)
{
	int rc;

	s->prepare();
	hit = false;
	countdown = n;
	rc = s->run(err);
	countdown = -1;
	s->clean();
	return rc;
}

static long points(const struct scenario *s, bool all_that_follow)
{
	kata_error *err = NULL;

	sticky = all_that_follow;
	for (int i = 0; i < 2; i++) /* what grows once and stays */
		fixture_assert_ok(run_once(s, -1, &err), err);
	for (long n = 0;; n++) {
		long before = live;
		int rc = run_once(s, n, &err);
		bool was_hit = hit;

		if (rc)
			cr_assert(was_hit && (rc == KATA_E_NO_MEMORY || (s->may_time_out && rc == KATA_E_TIMEOUT) ||
					      (s->may_be_refused && rc == KATA_E_GUEST)),
				  "allocation %ld: %s", n, error_text(err));
		error_clear(&err);
		cr_assert_eq(live, before, "allocation %ld leaks %ld pieces (%d)", n, live - before, rc);
		if (!was_hit)
			return n;
		fixture_assert_ok(run_once(s, -1, &err), err);
	}
}

static void fail_each(const struct scenario *s, long at_least)
{
	long n;

	if (!CAN_FAIL)
		cr_skip_test("the sanitizer brings its own malloc");
	n = points(s, false);
	cr_assert_geq(n, at_least, "only %ld allocations", n);
	cr_assert_geq(points(s, true), at_least);
}

/* ---- calls: each on a connection of its own, with the answer already in the socket */

static const kata_agent_request *request;
static const void *answer;
static size_t answer_length;

static void open_link(void)
{
	struct link_making m = {.link = &l, .first_id = 1, .has_guest_service = true};
	int fds[2];

	wire_pair(fds);
	m.fd = fds[0];
	wire_init(&l.wire, fds[1]);
	wire_send(&l.wire, answer, answer_length);
	kata__agent_on_leader(l.f.context, link_make, &m);
}

static void close_link(void)
{
	settle(l.f.context);
	kata_agent_unref(l.agent);
	wire_deinit(&l.wire);
}

static int run_call(kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata_agent_call_begin(l.agent, request, NULL, &op, err);

	if (rc)
		return rc;
	rc = kata_op_wait(op, err);
	cr_assert_eq(kata_agent_op_get_reply(op) != NULL, rc == 0);
	kata_op_unref(op);
	return rc;
}

static void call_with(const kata_agent_request *r, const void *bytes, size_t length, long at_least)
{
	struct scenario s = {.prepare = open_link, .run = run_call, .clean = close_link};

	fixture_init(&l.f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	request = r;
	answer = bytes;
	answer_length = length;
	fail_each(&s, at_least);
	fixture_deinit(&l.f);
}

Test(out_of_memory, a_check, .timeout = 60)
{
	call_with(REQUEST(.method = KATA_AGENT_CHECK), "\0\0\0\4\0\0\0\1\2\0\x12\2\x08\1", 14, 5);
}

Test(out_of_memory, a_read_with_data, .timeout = 60)
{
	call_with(REQUEST(.method = KATA_AGENT_READ_STDOUT, .container_id = "c1", .max_length = 64),
		  "\0\0\0\7\0\0\0\1\2\0\x12\5\x0a\3abc", 17, 6);
}

Test(out_of_memory, a_version_with_text, .timeout = 60)
{
	call_with(REQUEST(.method = KATA_AGENT_VERSION), "\0\0\0\7\0\0\0\1\2\0\x12\5\x12\0031.0", 17, 7);
}

Test(out_of_memory, an_identity_reset_with_a_mac, .timeout = 60)
{
	const kata_agent_mac mac = {.pci_path = "08/00", .mac = "02:00:00:00:00:01"};

	call_with(REQUEST(.method = KATA_AGENT_RESET_IDENTITY, .hostname = "h", .macs = &mac, .mac_count = 1,
			  .max_length = 4),
		  "\0\0\0\x0a\0\0\0\1\2\0\x12\x08\x08\x14\x22\4abcd", 20, 9);
}

Test(out_of_memory, a_create_container_with_a_spec, .timeout = 60)
{
	static const char spec[] = "{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"a\",\"b\"],\"cwd\":\"/\","
				   "\"user\":{\"uid\":0,\"gid\":0}},\"root\":{\"path\":\"/r\"},\"linux\":{}}";
	const char *const options[] = {"ro", NULL};
	const kata_agent_storage storage = {.driver = "blk", .mount_point = "/mnt", .options = options};

	call_with(REQUEST(.method = KATA_AGENT_CREATE_CONTAINER, .container_id = "c1", .json = spec,
			  .json_length = strlen(spec), .storages = &storage, .storage_count = 1),
		  "\0\0\0\0\0\0\0\1\2\0", 10, 15);
}

Test(out_of_memory, an_update_interface_with_addresses, .timeout = 60)
{
	const char *const addresses[] = {"10.0.0.1/8", "fd00::1/64", NULL};
	const kata_agent_interface nic = {
		.name = "eth0", .mac = "02:00:00:00:00:01", .mtu = 1500, .addresses = addresses};

	call_with(REQUEST(.method = KATA_AGENT_UPDATE_INTERFACE, .interface_ = &nic), "\0\0\0\0\0\0\0\1\2\0", 10, 10);
}

/* ---- release */

static int run_release(kata_error **err)
{
	char *json = NULL;
	int rc = kata_agent_release(l.agent, &json, err);

	cr_assert_eq(json != NULL, rc == 0);
	free(json);
	cr_assert_eq(kata_agent_get_state(l.agent), rc ? KATA_AGENT_CONNECTED : KATA_AGENT_RELEASED);
	return rc;
}

Test(out_of_memory, a_release, .timeout = 60)
{
	struct scenario s = {.prepare = open_link, .run = run_release, .clean = close_link};

	fixture_init(&l.f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	fail_each(&s, 3);
	fixture_deinit(&l.f);
}

/* ---- connecting */

static kata_vm *vm;
static kata_agent_builder *builder;

/* Each time the whole handshake. */
static void forget_agent(void)
{
	vm->agent.is_known = false;
}

static void settle_loop(void)
{
	settle(l.f.context);
}

static int run_connect(kata_error **err)
{
	kata_op_options options = {.size = sizeof(options), .timeout_ms = 300};
	kata_agent *agent = NULL;
	int rc = kata_agent_builder_build(builder, vm, NULL, &options, &agent, err);

	cr_assert_eq(agent != NULL, rc == 0);
	kata_agent_unref(agent);
	return rc;
}

/* A connecting with a call that goes along. */
static int run_identity_reset(kata_error **err)
{
	const kata_agent_mac mac = {.pci_path = "08/00", .mac = "02:00:00:00:00:01"};
	const struct kata__identity_options identity = {.agents = builder, .macs = &mac, .mac_count = 1};
	kata_op_options options = {.size = sizeof(options), .timeout_ms = 300};
	kata_op *op = NULL;
	int rc = kata__identity_reset_begin(vm, &identity, &options, &op, err);

	return kata__op_finish_sync(rc, &op, err);
}

static void with_a_machine(const struct scenario *s, long at_least)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_vm_builder *mock = NULL;
	kata_error *err = NULL;

	fixture_init(&l.f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	fixture_assert_ok(kata_vm_builder_new_mock(l.f.context, &mock, &err), err);
	fixture_assert_ok(kata_vm_builder_build(mock, &config, NULL, NULL, &vm, &err), err);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	fixture_assert_ok(kata_agent_builder_new_direct(l.f.context, &builder, &err), err);
	fail_each(s, at_least);
	kata_agent_builder_free(builder);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
	kata_vm_builder_free(mock);
	fixture_deinit(&l.f);
}

Test(out_of_memory, a_connecting, .timeout = 120)
{
	struct scenario s = {.prepare = forget_agent, .run = run_connect, .clean = settle_loop, .may_time_out = true};

	with_a_machine(&s, 20);
}

Test(out_of_memory, an_identity_reset, .timeout = 120)
{
	struct scenario s = {.prepare = forget_agent,
			     .run = run_identity_reset,
			     .clean = settle_loop,
			     .may_time_out = true,
			     .may_be_refused = true};

	with_a_machine(&s, 25);
}
