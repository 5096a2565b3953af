/* SPDX-License-Identifier: Apache-2.0 */
/* What describes a thing without touching it: storages, NICs, names of states, references. Public functions alone. */
#include <criterion/criterion.h>
#include <kata/kata.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Test(storage, says_what_it_was_made_from)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_storage *s = NULL, *again;
	char address[8] = "x";

	c.id = "data";
	c.path = "/srv/data.qcow2";
	c.format = KATA_STORAGE_QCOW2;
	c.driver = KATA_STORAGE_VIRTIO_SCSI;
	c.flags = KATA_STORAGE_READ_ONLY;
	c.fstype = "xfs";
	cr_assert_eq(kata_storage_new(&c, &s, NULL), 0);
	again = kata_storage_ref(s);
	kata_storage_unref(s);
	cr_expect_str_eq(kata_storage_get_id(again), "data");
	cr_expect_str_eq(kata_storage_get_path(again), "/srv/data.qcow2");
	cr_expect_eq(kata_storage_get_format(again), KATA_STORAGE_QCOW2);
	cr_expect_eq(kata_storage_get_driver(again), KATA_STORAGE_VIRTIO_SCSI);
	cr_expect(kata_storage_is_read_only(again));
	cr_expect_str_eq(kata_storage_get_fstype(again), "xfs");
	cr_expect_eq(kata_storage_get_state(again), KATA_DEVICE_NEW);
	cr_expect_eq(kata_storage_get_address(again, address, sizeof(address)), 0, "it has none before it is plugged");
	cr_expect_eq(kata_storage_get_size_bytes(again), 0);
	kata_storage_unref(again);
	kata_storage_unref(NULL);
}

Test(nic, says_what_it_was_made_from)
{
	kata_nic_config c = KATA_NIC_CONFIG_INIT;
	kata_nic *n = NULL, *again;

	c.id = "net";
	c.type = KATA_NIC_TAP;
	c.tap_name = "kata-test0";
	c.mac = "02:AB:cd:00:00:01";
	c.mtu = 9000;
	cr_assert_eq(kata_nic_new(&c, &n, NULL), 0);
	again = kata_nic_ref(n);
	kata_nic_unref(n);
	cr_expect_str_eq(kata_nic_get_id(again), "net");
	cr_expect_eq(kata_nic_get_type(again), KATA_NIC_TAP);
	cr_expect_str_eq(kata_nic_get_tap_name(again), "kata-test0");
	cr_expect_str_eq(kata_nic_get_mac(again), "02:ab:cd:00:00:01", "in lower case");
	cr_expect_eq(kata_nic_get_mtu(again), 9000);
	cr_expect_eq(kata_nic_get_state(again), KATA_DEVICE_NEW);
	kata_nic_unref(again);
	kata_nic_unref(NULL);
}

Test(nic, of_type_user_has_no_tap_and_gets_a_local_mac_and_an_mtu)
{
	kata_nic_config c = KATA_NIC_CONFIG_INIT;
	kata_nic *n = NULL;
	unsigned first;

	cr_assert_eq(kata_nic_new(&c, &n, NULL), 0);
	cr_expect_null(kata_nic_get_tap_name(n));
	cr_expect_eq(sscanf(kata_nic_get_mac(n), "%2x:", &first), 1);
	cr_expect_eq(first & 3, 2, "locally administered, unicast: %s", kata_nic_get_mac(n));
	cr_expect_eq(kata_nic_get_mtu(n), 1500);
	kata_nic_unref(n);
}

Test(vm, lives_as_long_as_a_reference)
{
	char dir[] = "/tmp/kata-desc-XXXXXX";
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_vm_builder *builder = NULL;
	kata_context *ctx = NULL;
	kata_op *op = NULL, *same;
	kata_vm *vm = NULL;

	cr_assert(mkdtemp(dir));
	o.state_dir = dir;
	cr_assert_eq(kata_context_new(&o, &ctx, NULL), 0);
	cr_expect_str_eq(kata_context_get_state_dir(ctx), dir);
	cr_assert_eq(kata_vm_builder_new_mock(ctx, &builder, NULL), 0);
	cr_assert_eq(kata_vm_builder_build(builder, &config, NULL, NULL, &vm, NULL), 0);
	kata_vm_unref(kata_vm_ref(vm));
	cr_assert_eq(kata_vm_start_begin(vm, NULL, &op, NULL), 0);
	same = kata_op_ref(op);
	kata_op_unref(op);
	cr_expect_eq(kata_op_wait(same, NULL), 0);
	cr_expect_str_eq(kata_op_get_name(same), "start");
	kata_op_unref(same);
	cr_expect_eq(kata_vm_get_state(vm), KATA_VM_RUNNING);
	cr_expect_eq(kata_vm_destroy(vm, NULL, NULL), 0);
	kata_vm_unref(vm);
	kata_vm_builder_free(builder);
	cr_expect_eq(kata_context_free(ctx, NULL), 0);
	cr_expect_eq(remove(dir), 0, "nothing is left in the state directory");
}

struct from_callback {
	kata_vm *vm;
	int pause, destroy;
};

static void block_in_callback(void *user, kata_op *op)
{
	struct from_callback *c = user;

	c->pause = kata_vm_pause(c->vm, NULL, NULL);
	c->destroy = kata_vm_destroy(c->vm, NULL, NULL);
}

Test(vm, a_blocking_call_in_a_callback_is_refused_and_does_nothing)
{
	char dir[] = "/tmp/kata-desc-XXXXXX";
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_vm_builder *builder = NULL;
	struct from_callback c = {0};
	kata_context *ctx = NULL;
	kata_op *op = NULL;

	cr_assert(mkdtemp(dir));
	o.state_dir = dir;
	o.flags = KATA_CONTEXT_EXTERNAL_LOOP; /* so that the callback has run when dispatch returns */
	cr_assert_eq(kata_context_new(&o, &ctx, NULL), 0);
	cr_assert_eq(kata_vm_builder_new_mock(ctx, &builder, NULL), 0);
	cr_assert_eq(kata_vm_builder_build(builder, &config, NULL, NULL, &c.vm, NULL), 0);
	cr_assert_eq(kata_vm_start_begin(c.vm, NULL, &op, NULL), 0);
	cr_assert_eq(kata_op_set_callback(op, block_in_callback, &c, NULL, NULL), 0);
	for (int i = 0; i < 1000 && !c.destroy; i++)
		cr_assert_eq(kata_context_dispatch(ctx, 10, NULL), 0);
	cr_expect_eq(c.pause, KATA_E_STATE);
	cr_expect_eq(c.destroy, KATA_E_STATE);
	cr_expect_eq(kata_context_dispatch(ctx, 0, NULL), 0);
	cr_expect_eq(kata_vm_get_state(c.vm), KATA_VM_RUNNING, "neither paused nor destroyed");
	kata_op_unref(op);
	cr_expect_eq(kata_vm_destroy(c.vm, NULL, NULL), 0);
	kata_vm_unref(c.vm);
	kata_vm_builder_free(builder);
	cr_expect_eq(kata_context_free(ctx, NULL), 0);
	cr_expect_eq(remove(dir), 0);
}

#define EXPECT_NAMES(get_name, last)                                                                                   \
	do {                                                                                                           \
		for (int i = 0; i <= (int)(last); i++) {                                                               \
			cr_expect_str_neq(get_name(i), "unknown");                                                     \
			for (int j = 0; j < i; j++)                                                                    \
				cr_expect_str_neq(get_name(i), get_name(j));                                           \
		}                                                                                                      \
		cr_expect_str_eq(get_name((int)(last) + 1), "unknown");                                                \
	} while (0)

Test(names, every_value_has_one_of_its_own_and_any_other_is_unknown)
{
	EXPECT_NAMES(kata_vm_state_get_name, KATA_VM_SAVING);
	EXPECT_NAMES(kata_vm_origin_get_name, KATA_VM_PRESTARTED);
	EXPECT_NAMES(kata_snapshot_memory_get_name, KATA_SNAPSHOT_DIFFERENTIAL);
	EXPECT_NAMES(kata_device_state_get_name, KATA_DEVICE_DIVERGED);
	EXPECT_NAMES(kata_nic_type_get_name, KATA_NIC_TAP);
	EXPECT_NAMES(kata_agent_state_get_name, KATA_AGENT_LOST);
	EXPECT_NAMES(kata_agent_method_get_name, KATA_AGENT_METHOD_COUNT - 1);
	EXPECT_NAMES(kata_sandbox_state_get_name, KATA_SANDBOX_SAVING);
	EXPECT_NAMES(kata_process_state_get_name, KATA_PROCESS_EXITED);
	EXPECT_NAMES(kata_recover_verdict_get_name, KATA_RECOVER_FAILED);
	EXPECT_NAMES(kata_origin_get_name, KATA_ORIGIN_GUEST);
}
