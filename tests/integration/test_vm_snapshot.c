/* SPDX-License-Identifier: Apache-2.0 */
/* Saving and restoring machines on the real QEMU. */
#include "integration/vm_test.h"

TestSuite(vm_snapshot, .timeout = 120);

static kata_snapshot *save(struct machine *m, const char *name, const kata_snapshot_options *options)
{
	char *path = fixture_path(&m->f, name);
	kata_snapshot *snapshot = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_snapshot(m->vm, path, options, NULL, &snapshot, &err), err);
	free(path);
	return snapshot;
}

static kata_vm *restore(struct machine *m, const kata_snapshot *snapshot, const kata_restore_options *options)
{
	kata_vm *vm = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(
		kata_vm_builder_build_from_snapshot(m->builder, snapshot, NULL, NULL, NULL, options, &vm, &err), err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	return vm;
}

static void end(kata_vm *vm)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
}

Test(vm_snapshot, a_machine_is_saved_in_full_and_restored)
{
	struct machine m;
	kata_snapshot *snapshot;
	kata_vm *vm;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start(&m);
	snapshot = save(&m, "snap", NULL);
	cr_assert_eq(kata_vm_get_state(m.vm), KATA_VM_RUNNING);
	vm = restore(&m, snapshot, NULL);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_RUNNING);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_RESTORED);
	end(vm);
	kata_snapshot_free(snapshot);
	machine_destroy(&m);
	machine_deinit(&m);
}

Test(vm_snapshot, shared_memory_stays_in_its_file)
{
	kata_snapshot_options o = KATA_SNAPSHOT_OPTIONS_INIT;
	kata_vm_config c;
	kata_error *err = NULL;
	kata_snapshot *snapshot;
	struct machine m;
	kata_vm *vm;
	char *ram;

	machine_init(&m, 0);
	ram = fixture_path(&m.f, "ram");
	c = machine_config(&m);
	c.id = "a";
	c.memory_path = ram;
	c.memory_shared = true;
	fixture_assert_ok(kata_vm_builder_build(m.builder, &c, NULL, NULL, &m.vm, &err), err);
	machine_start(&m);
	o.memory = KATA_SNAPSHOT_SHARED;
	snapshot = save(&m, "snap", &o);
	cr_assert_eq(kata_vm_get_state(m.vm), KATA_VM_PAUSED);
	fixture_assert_fails(kata_vm_resume(m.vm, NULL, &err), KATA_E_STATE, err);
	error_clear(&err);
	machine_destroy(&m);
	vm = restore(&m, snapshot, NULL);
	end(vm);
	kata_snapshot_free(snapshot);
	free(ram);
	machine_deinit(&m);
}

Test(vm_snapshot, a_snapshot_says_what_is_in_it_and_can_be_removed)
{
	kata_snapshot *snapshot, *again = NULL;
	kata_error *err = NULL;
	kata_op *op = NULL;
	struct machine m;
	char *path;
	char address[16];

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start(&m);
	snapshot = save(&m, "snap", NULL);
	path = fixture_path(&m.f, "snap");
	cr_assert_str_eq(kata_snapshot_get_path(snapshot), path);
	cr_assert_eq(kata_snapshot_get_memory(snapshot), KATA_SNAPSHOT_FULL);
	cr_assert_str_eq(kata_snapshot_memory_get_name(KATA_SNAPSHOT_FULL), "full");
	cr_assert_gt(kata_snapshot_get_created_ns(snapshot), UINT64_C(1600000000000000000));
	cr_assert_str_eq(kata_snapshot_get_driver(snapshot), "qemu");
	cr_assert_str_eq(kata_snapshot_get_accelerator(snapshot), kata_vm_get_accelerator(m.vm));
	cr_assert_eq(strncmp(kata_snapshot_get_machine(snapshot), "pc-q35-", 7), 0);
	cr_assert_neq(kata_snapshot_get_vmm_version(snapshot)[0], '\0');
	cr_assert_neq(kata_snapshot_get_cpu_model(snapshot)[0], '\0');
	cr_assert_eq(strlen(kata_snapshot_get_digest(snapshot)), 64u);
	cr_assert_gt(kata_snapshot_get_size_bytes(snapshot), UINT64_C(100000));
	cr_assert_str_eq(kata_snapshot_get_config(snapshot)->id, "a");
	cr_assert_eq(kata_snapshot_get_config(snapshot)->memory_mib, 128u);
	cr_assert_str_eq(kata_snapshot_get_uuid(snapshot), kata_vm_get_uuid(m.vm));
	cr_assert_eq(kata_snapshot_get_storage_count(snapshot), 0u);
	cr_assert_eq(kata_snapshot_get_nic_count(snapshot), 0u);
	cr_assert_eq(kata_snapshot_get_storage_address(snapshot, 0, address, sizeof(address)), 0u);
	cr_assert_eq(kata_snapshot_get_nic_address(snapshot, 0, address, sizeof(address)), 0u);
	fixture_assert_fails(kata_vm_snapshot_begin(m.vm, "snap", NULL, NULL, &op, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_snapshot(m.vm, path, NULL, NULL, NULL, &err), KATA_E_EXISTS, err);
	error_clear(&err);
	cr_assert_str_eq(kata_vm_origin_get_name(kata_vm_get_origin(m.vm)), "booted");
	fixture_assert_ok(kata_snapshot_open(m.f.context, path, KATA_SNAPSHOT_VERIFY, &again, &err), err);
	kata_snapshot_free(again);
	fixture_assert_ok(kata_snapshot_delete(m.f.context, path, &err), err);
	cr_assert_eq(access(path, F_OK), -1);
	kata_snapshot_free(snapshot);
	free(path);
	machine_destroy(&m);
	machine_deinit(&m);
}

static void plug(struct machine *m, const char *id, kata_storage_driver driver)
{
	kata_storage *s = machine_disk(m, id, driver);
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_add_storage(m->vm, s, NULL, &err), err);
	kata_storage_unref(s);
}

static void plug_nic(kata_vm *vm, const char *id)
{
	kata_nic *n = fixture_nic(id, NULL);
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_add_nic(vm, n, NULL, &err), err);
	kata_nic_unref(n);
}

static void assert_devices(const kata_snapshot *snapshot)
{
	kata_storage *s = NULL;
	kata_nic *n = NULL;
	kata_error *err = NULL;
	char address[16];

	cr_assert_eq(kata_snapshot_get_storage_count(snapshot), 2u);
	cr_assert_eq(kata_snapshot_get_nic_count(snapshot), 1u);
	fixture_assert_ok(kata_snapshot_get_storage(snapshot, 1, &s, &err), err);
	cr_assert_str_eq(kata_storage_get_id(s), "scsi");
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_NEW);
	kata_snapshot_get_storage_address(snapshot, 1, address, sizeof(address));
	cr_assert_str_eq(address, "0:0");
	fixture_assert_ok(kata_snapshot_get_nic(snapshot, 0, &n, &err), err);
	cr_assert_str_eq(kata_nic_get_id(n), "nic");
	kata_snapshot_get_nic_address(snapshot, 0, address, sizeof(address));
	cr_assert_str_eq(address, "09/00");
	kata_storage_unref(s);
	kata_nic_unref(n);
}

Test(vm_snapshot, devices_are_there_again_and_more_can_be_added)
{
	kata_snapshot *snapshot;
	kata_error *err = NULL;
	struct machine m;
	kata_storage *extra;
	kata_vm *source;

	machine_init(&m, 0);
	machine_build(&m, "a");
	plug(&m, "blk", KATA_STORAGE_VIRTIO_BLK);
	machine_start(&m);
	plug(&m, "scsi", KATA_STORAGE_VIRTIO_SCSI);
	plug_nic(m.vm, "nic");
	snapshot = save(&m, "snap", NULL);
	assert_devices(snapshot);
	source = m.vm;
	fixture_assert_ok(kata_vm_builder_build_from_snapshot(m.builder, snapshot, NULL, NULL, NULL, NULL, &m.vm, &err),
			  err);
	fixture_assert_fails(kata_vm_remove_storage(m.vm, "blk", NULL, &err), KATA_E_STATE, err);
	error_clear(&err);
	extra = machine_disk(&m, "extra", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_vm_add_storage(m.vm, extra, NULL, &err), err);
	assert_address(extra, "0a/00");
	plug_nic(m.vm, "extranic");
	machine_start(&m);
	cr_assert_eq(kata_vm_get_storage_count(m.vm), 3u);
	cr_assert_eq(kata_vm_get_nic_count(m.vm), 2u);
	plug(&m, "later", KATA_STORAGE_VIRTIO_BLK);
	kata_storage_unref(extra);
	end(source);
	kata_snapshot_free(snapshot);
	machine_destroy(&m);
	machine_deinit(&m);
}
