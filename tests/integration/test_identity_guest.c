/* SPDX-License-Identifier: Apache-2.0 */
/* Two machines restored from one snapshot, with the real guest: the same until each is made its own. */
#include "integration/vm_test.h"

#include <time.h>

TestSuite(identity_guest, .timeout = 200);

struct stage {
	struct machine m;
	kata_agent_builder *agents;
	kata_snapshot *snapshot;
	kata_error *err;
};

struct twin {
	kata_vm *vm;
	kata_agent *agent;
	char mac[18], address[16];
	uint8_t sample[32];
};

#define REQUEST(...) (&(kata_agent_request){.size = sizeof(kata_agent_request), __VA_ARGS__})

static kata_op *ask(struct stage *st, kata_agent *agent, const kata_agent_request *request)
{
	kata_op *op = NULL;

	fixture_assert_ok(kata_agent_call_begin(agent, request, NULL, &op, &st->err), st->err);
	fixture_assert_ok(kata_op_wait(op, &st->err), st->err);
	return op;
}

static kata_agent *connect_to(struct stage *st, kata_vm *vm)
{
	kata_agent *agent = NULL;

	fixture_assert_ok(kata_agent_builder_build(st->agents, vm, NULL, NULL, &agent, &st->err), st->err);
	return agent;
}

static void configure_nic(struct stage *st, kata_agent *agent, const char *mac)
{
	const char *const addresses[] = {"10.0.2.15/24", NULL};
	kata_agent_interface interface = {.name = "eth0", .mac = mac, .mtu = 1500, .addresses = addresses};

	kata_op_unref(ask(st, agent, REQUEST(.method = KATA_AGENT_UPDATE_INTERFACE, .interface_ = &interface)));
}

/* A machine with a NIC that is up, saved when it has settled, and gone. */
static void stage_init(struct stage *st)
{
	kata_agent *agent;
	kata_nic *nic;
	char *path, *json = NULL;

	memset(st, 0, sizeof(*st));
	machine_init(&st->m, 0);
	machine_build(&st->m, "source");
	fixture_assert_ok(kata_agent_builder_new_direct(st->m.f.context, &st->agents, &st->err), st->err);
	nic = fixture_nic("net", "02:00:00:00:00:01");
	fixture_assert_ok(kata_vm_add_nic(st->m.vm, nic, NULL, &st->err), st->err);
	machine_start(&st->m);
	agent = connect_to(st, st->m.vm);
	kata_op_unref(ask(st, agent, REQUEST(.method = KATA_AGENT_SETTLE)));
	configure_nic(st, agent, "02:00:00:00:00:01");
	fixture_assert_ok(kata_agent_release(agent, &json, &st->err), st->err);
	kata_agent_unref(agent);
	free(json);
	path = fixture_path(&st->m.f, "snapshot");
	fixture_assert_ok(kata_vm_snapshot(st->m.vm, path, NULL, NULL, &st->snapshot, &st->err), st->err);
	free(path);
	kata_nic_unref(nic);
	machine_destroy(&st->m);
}

static void stage_deinit(struct stage *st)
{
	kata_snapshot_free(st->snapshot);
	kata_agent_builder_free(st->agents);
	machine_deinit(&st->m);
}

static void read_nic(struct stage *st, struct twin *t)
{
	kata_nic *nic = NULL;

	fixture_assert_ok(kata_vm_get_nic(t->vm, 0, &nic, &st->err), st->err);
	snprintf(t->mac, sizeof(t->mac), "%s", kata_nic_get_mac(nic));
	kata_nic_get_address(nic, t->address, sizeof(t->address));
	kata_nic_unref(nic);
}

static void restore(struct stage *st, struct twin *t)
{
	kata_restore_options options = KATA_RESTORE_OPTIONS_INIT;

	options.flags = KATA_RESTORE_NEW_MACS;
	fixture_assert_ok(kata_vm_builder_build_from_snapshot(st->m.builder, st->snapshot, NULL, NULL, NULL, &options,
							      &t->vm, &st->err),
			  st->err);
	fixture_assert_ok(kata_vm_start(t->vm, NULL, &st->err), st->err);
	read_nic(st, t);
	t->agent = connect_to(st, t->vm);
}

static void make_own(struct stage *st, struct twin *t, const char *hostname, const char *entropy)
{
	const kata_agent_mac mac = {.pci_path = t->address, .mac = t->mac};
	const kata_agent_reply *reply;
	kata_op *op = ask(st, t->agent,
			  REQUEST(.method = KATA_AGENT_RESET_IDENTITY, .data = entropy, .data_length = 32,
				  .seconds = time(NULL), .hostname = hostname,
				  .machine_id = "0123456789abcdef0123456789abcdef", .macs = &mac, .mac_count = 1,
				  .max_length = sizeof(t->sample)));

	reply = kata_agent_op_get_reply(op);
	cr_assert_eq(reply->reset, KATA_RESET_ENTROPY | KATA_RESET_CLOCK | KATA_RESET_HOSTNAME | KATA_RESET_MACHINE_ID |
					   KATA_RESET_MACS);
	cr_assert_leq(llabs(reply->seconds - time(NULL)), 1);
	cr_assert_eq(reply->data_length, sizeof(t->sample));
	memcpy(t->sample, reply->data, sizeof(t->sample));
	kata_op_unref(op);
}

/* The guest has the NIC under its new MAC, and no longer under the one it was saved with. */
static void assert_mac(struct stage *st, struct twin *t)
{
	kata_op_options options = {.size = sizeof(options), .timeout_ms = 500};
	kata_op *op = NULL;

	kata_op_unref(ask(st, t->agent,
			  REQUEST(.method = KATA_AGENT_AWAIT_DEVICE, .device_kind = "net", .device_address = t->mac)));
	fixture_assert_ok(kata_agent_call_begin(t->agent,
						REQUEST(.method = KATA_AGENT_AWAIT_DEVICE, .device_kind = "net",
							.device_address = "02:00:00:00:00:01"),
						&options, &op, &st->err),
			  st->err);
	fixture_assert_fails(kata_op_wait(op, &st->err), KATA_E_TIMEOUT, st->err);
	error_clear(&st->err);
	kata_op_unref(op);
}

static void end(struct stage *st, struct twin *t)
{
	kata_agent_unref(t->agent);
	fixture_assert_ok(kata_vm_destroy(t->vm, NULL, &st->err), st->err);
	kata_vm_unref(t->vm);
}

Test(identity_guest, two_machines_of_one_snapshot_are_two)
{
	struct twin one = {0}, other = {0};
	struct stage st;

	stage_init(&st);
	restore(&st, &one);
	restore(&st, &other);
	cr_assert_str_neq(kata_vm_get_uuid(one.vm), kata_vm_get_uuid(other.vm));
	cr_assert_str_neq(one.mac, other.mac);
	make_own(&st, &one, "one", "thirty-two bytes for the first..");
	make_own(&st, &other, "other", "thirty-two bytes for the second.");
	cr_assert_neq(memcmp(one.sample, other.sample, sizeof(one.sample)), 0, "the same random output");
	assert_mac(&st, &one);
	assert_mac(&st, &other);
	end(&st, &one);
	end(&st, &other);
	stage_deinit(&st);
}
