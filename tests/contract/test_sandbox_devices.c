/* SPDX-License-Identifier: Apache-2.0 */
/* Storages, NICs and routes of a sandbox. */
#include "sandbox_kit.h"

static int add_with_spec(struct kit *k, const char *id, const char *spec, kata_error **err)
{
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;

	config.id = id;
	config.oci_spec = spec;
	return kata_sandbox_add_container(k->s, &config, NULL, err);
}

static const char rootfs_spec[] =
	"{\"ociVersion\":\"1.0.2\",\"process\":{\"user\":{\"uid\":0,\"gid\":0},\"args\":[\"sleep\"],\"cwd\":\"/\"},"
	"\"root\":{\"path\":\"storage:rootfs\",\"readonly\":true},"
	"\"mounts\":[{\"destination\":\"/data\",\"type\":\"bind\",\"source\":\"storage:data/sub/"
	"dir\",\"options\":[\"rbind\"]}]}";

Test(sandbox_devices, a_container_lives_on_disks_that_were_plugged)
{
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	kit_add_disk(&k, "rootfs", KATA_STORAGE_VIRTIO_BLK);
	kit_add_disk(&k, "data", KATA_STORAGE_VIRTIO_SCSI);
	fixture_assert_ok(add_with_spec(&k, "c1", rootfs_spec, &err), err);
	fixture_assert_ok(kata_sandbox_start_container(k.s, "c1", NULL, &err), err);
	kit_deinit(&k);
}

Test(sandbox_devices, a_disk_that_a_container_names_cannot_be_removed_until_the_container_is)
{
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	kit_add_disk(&k, "rootfs", KATA_STORAGE_VIRTIO_BLK);
	kit_add_disk(&k, "data", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(add_with_spec(&k, "c1", rootfs_spec, &err), err);
	fixture_assert_fails(kata_sandbox_remove_storage(k.s, "data", NULL, &err), KATA_E_BUSY, err);
	cr_assert(strstr(kata_error_get_message(err), "'c1'"));
	error_clear(&err);
	fixture_assert_ok(kata_sandbox_remove_container(k.s, "c1", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_remove_storage(k.s, "data", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_remove_storage(k.s, "rootfs", NULL, &err), err);
	fixture_assert_fails(kata_sandbox_remove_storage(k.s, "rootfs", NULL, &err), KATA_E_NOT_FOUND, err);
	error_clear(&err);
	kit_deinit(&k);
}

static void in_use(int rc, kata_error **err)
{
	cr_assert_eq(rc, KATA_E_BUSY, "%s", error_text(*err));
	cr_assert(strstr(error_text(*err),
			 "storage 'data' is in use by container 'c1' of sandbox 'sb': remove that first"),
		  "%s", error_text(*err));
	error_clear(err);
}

static void both_in_use(kata_vm *vm)
{
	kata_batch *batch = NULL;
	kata_error *err = NULL;

	in_use(kata_vm_remove_storage(vm, "data", NULL, &err), &err);
	fixture_assert_ok(kata_batch_new(vm, KATA_BATCH_ALL_OR_NOTHING, &batch, &err), err);
	fixture_assert_ok(kata_batch_remove_storage(batch, "other", &err), err);
	fixture_assert_ok(kata_batch_remove_storage(batch, "data", &err), err);
	in_use(kata_batch_run(batch, NULL, &err), &err);
	kata_batch_free(batch);
	cr_assert_eq(kata_vm_get_storage_count(vm), 3u);
}

/* By the VM's own call, which bypasses the sandbox, and in a batch; by the next owner, too. */
Test(sandbox_devices, a_disk_that_a_container_names_cannot_be_taken_from_the_vm)
{
	kata_error *err = NULL;
	char *json = NULL;
	struct kit k;
	kata_vm *vm;

	kit_init(&k);
	kit_add_disk(&k, "rootfs", KATA_STORAGE_VIRTIO_BLK);
	kit_add_disk(&k, "data", KATA_STORAGE_VIRTIO_BLK);
	kit_add_disk(&k, "other", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(add_with_spec(&k, "c1", rootfs_spec, &err), err);
	vm = kata_sandbox_get_vm(k.s);
	both_in_use(vm);
	kata_vm_unref(vm);
	fixture_assert_ok(kata_sandbox_release(k.s, NULL, &json, &err), err);
	kata_sandbox_unref(k.s);
	fixture_assert_ok(
		kata_sandbox_build_from_released(k.f.context, json, strlen(json), k.builder, NULL, NULL, &k.s, &err),
		err);
	free(json);
	vm = kata_sandbox_get_vm(k.s);
	both_in_use(vm);
	fixture_assert_ok(kata_vm_remove_storage(vm, "other", NULL, &err), err);
	fixture_assert_ok(kata_sandbox_remove_container(k.s, "c1", NULL, &err), err);
	fixture_assert_ok(kata_vm_remove_storage(vm, "data", NULL, &err), err);
	kata_vm_unref(vm);
	kit_deinit(&k);
}

Test(sandbox_devices, a_disk_that_is_being_removed_cannot_be_named)
{
	struct kit k;
	kata_op *op = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	kit_add_disk(&k, "rootfs", KATA_STORAGE_VIRTIO_BLK);
	kit_add_disk(&k, "data", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_mock_set_delay(k.builder, KATA_MOCK_REMOVE_STORAGE, 300, &err), err);
	fixture_assert_ok(kata_sandbox_remove_storage_begin(k.s, "data", NULL, &op, &err), err);
	fixture_assert_fails(add_with_spec(&k, "c1", rootfs_spec, &err), KATA_E_BUSY, err);
	error_clear(&err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	kata_op_unref(op);
	fixture_assert_fails(add_with_spec(&k, "c1", rootfs_spec, &err), KATA_E_NOT_FOUND, err);
	error_clear(&err);
	kit_deinit(&k);
}

Test(sandbox_devices, disks_are_plugged_side_by_side)
{
	enum { N = 6 };
	kata_storage *storages[N];
	kata_op *ops[N];
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	fixture_assert_ok(kata_mock_set_delay(k.builder, KATA_MOCK_ADD_STORAGE, 100, &err), err);
	for (int i = 0; i < N; i++) {
		char path[8];

		snprintf(path, sizeof(path), "/d%d", i);
		storages[i] = fixture_storage(path + 1, path, KATA_STORAGE_VIRTIO_BLK);
	}
	for (int i = 0; i < N; i++)
		fixture_assert_ok(kata_sandbox_add_storage_begin(k.s, storages[i], NULL, &ops[i], &err), err);
	for (int i = 0; i < N; i++)
		fixture_assert_ok(kata_op_wait(ops[i], &err), err);
	/* Each was begun before the first had ended. */
	for (int i = 1; i < N; i++)
		cr_assert_lt(kata_op_get_start_ns(ops[i]), kata_op_get_end_ns(ops[0]));
	for (int i = 0; i < N; i++) {
		kata_op_unref(ops[i]);
		kata_storage_unref(storages[i]);
	}
	kit_deinit(&k);
}

Test(sandbox_devices, a_nic_is_plugged_and_configured_updated_and_removed)
{
	static const char *const addresses[] = {"10.0.2.15/24", "fd00::2/64", NULL};
	kata_interface_config config = KATA_INTERFACE_CONFIG_INIT;
	kata_agent_route routes[2] = {{.gateway = "10.0.2.2", .device = "eth0"},
				      {.destination = "10.9.0.0/16", .device = "eth0"}};
	struct kit k;
	kata_nic *nic;
	char *json = NULL;
	kata_error *err = NULL;

	kit_init(&k);
	nic = fixture_nic("n1", "02:00:00:00:00:01");
	config.name = "eth0";
	config.addresses = addresses;
	fixture_assert_ok(kata_sandbox_add_nic(k.s, nic, &config, NULL, &err), err);
	cr_assert_eq(kata_nic_get_state(nic), KATA_DEVICE_PLUGGED);
	fixture_assert_ok(kata_sandbox_update_routes(k.s, routes, 2, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_dump(k.s, &json, &err), err);
	cr_assert(strstr(json, "fd00::2/64"));
	cr_assert(strstr(json, "10.9.0.0/16"));
	free(json);
	config.addresses = NULL;
	config.mtu = 1400;
	fixture_assert_ok(kata_sandbox_update_nic(k.s, "n1", &config, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_dump(k.s, &json, &err), err);
	cr_assert_null(strstr(json, "fd00::2/64"));
	cr_assert(strstr(json, "1400"));
	free(json);
	fixture_assert_ok(kata_sandbox_remove_nic(k.s, "n1", NULL, &err), err);
	cr_assert_eq(kata_nic_get_state(nic), KATA_DEVICE_NEW);
	fixture_assert_fails(kata_sandbox_remove_nic(k.s, "n1", NULL, &err), KATA_E_NOT_FOUND, err);
	error_clear(&err);
	kata_nic_unref(nic);
	kit_deinit(&k);
}

Test(sandbox_devices, nics_are_removed_side_by_side)
{
	kata_op *ops[4];
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	for (int i = 0; i < 4; i++) {
		char id[8];
		kata_nic *nic;

		snprintf(id, sizeof(id), "n%d", i);
		nic = fixture_nic(id, NULL);
		fixture_assert_ok(kata_sandbox_add_nic(k.s, nic, NULL, NULL, &err), err);
		kata_nic_unref(nic);
	}
	fixture_assert_ok(kata_mock_set_delay(k.builder, KATA_MOCK_REMOVE_NIC, 100, &err), err);
	for (int i = 0; i < 4; i++) {
		char id[8];

		snprintf(id, sizeof(id), "n%d", i);
		fixture_assert_ok(kata_sandbox_remove_nic_begin(k.s, id, NULL, &ops[i], &err), err);
	}
	for (int i = 0; i < 4; i++) {
		fixture_assert_ok(kata_op_wait(ops[i], &err), err);
		cr_assert_lt(kata_op_get_start_ns(ops[i]), kata_op_get_end_ns(ops[0]));
	}
	for (int i = 0; i < 4; i++)
		kata_op_unref(ops[i]);
	kit_deinit(&k);
}

Test(sandbox_devices, a_nic_that_cannot_be_configured_is_unplugged_again)
{
	kata_interface_config config = KATA_INTERFACE_CONFIG_INIT;
	struct kit k;
	kata_nic *nic;
	kata_error *err = NULL;

	kit_init(&k);
	nic = fixture_nic("n1", NULL);
	config.name = "eth0";
	fixture_assert_ok(kata_mock_set_failure(k.builder, KATA_MOCK_AGENT_CALL, KATA_E_INVALID, 1, &err), err);
	fixture_assert_fails(kata_sandbox_add_nic(k.s, nic, &config, NULL, &err), KATA_E_GUEST, err);
	error_clear(&err);
	cr_assert_eq(kata_nic_get_state(nic), KATA_DEVICE_NEW);
	fixture_assert_ok(kata_sandbox_add_nic(k.s, nic, &config, NULL, &err), err);
	kata_nic_unref(nic);
	kit_deinit(&k);
}

Test(sandbox_devices, bad_interfaces_and_routes_are_refused_by_name)
{
	static const char *const no_prefix[] = {"10.0.0.1", NULL}, *const second[] = {"10.0.0.1/24", "10.0.0.300/24",
										      NULL};
	kata_interface_config config = KATA_INTERFACE_CONFIG_INIT;
	kata_agent_route route = {0};
	struct kit k;
	kata_nic *nic;
	kata_error *err = NULL;

	kit_init(&k);
	nic = fixture_nic("n1", NULL);
#define INVALID(argument)                                                                                              \
	do {                                                                                                           \
		fixture_assert_fails(kata_sandbox_add_nic(k.s, nic, &config, NULL, &err), KATA_E_INVALID, err);        \
		cr_assert(strstr(kata_error_get_message(err), argument));                                              \
		error_clear(&err);                                                                                     \
	} while (0)
	INVALID("config.name");
	config.name = "a-name-of-16-byt";
	INVALID("config.name");
	config.name = "eth/0";
	INVALID("config.name");
	config.name = "eth0";
	config.mtu = 1;
	INVALID("config.mtu");
	config.mtu = 0;
	config.addresses = no_prefix;
	INVALID("config.addresses[0]: '10.0.0.1' is not like 10.0.0.2/24");
	config.addresses = second;
	INVALID("config.addresses[1]: '10.0.0.300/24' is not like 10.0.0.2/24");
#undef INVALID
	fixture_assert_fails(kata_sandbox_update_routes(k.s, &route, 1, NULL, &err), KATA_E_INVALID, err);
	cr_assert(strstr(kata_error_get_message(err), "routes[0].device"));
	error_clear(&err);
	route.device = "eth0";
	route.gateway = "10.0.0";
	fixture_assert_fails(kata_sandbox_update_routes(k.s, &route, 1, NULL, &err), KATA_E_INVALID, err);
	cr_assert_eq(strncmp(kata_error_get_message(err), "routes[0].gateway: '10.0.0' is no address", 41), 0, "%s",
		     error_text(err));
	error_clear(&err);
	fixture_assert_fails(kata_sandbox_update_routes(k.s, NULL, 0, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	kata_nic_unref(nic);
	kit_deinit(&k);
}

Test(sandbox_devices, the_same_disk_twice_is_refused_and_stays_plugged_once)
{
	struct kit k;
	kata_storage *again;
	kata_error *err = NULL;

	kit_init(&k);
	kit_add_disk(&k, "d", KATA_STORAGE_VIRTIO_BLK);
	again = fixture_storage("d", "/other", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_fails(kata_sandbox_add_storage(k.s, again, NULL, &err), KATA_E_EXISTS, err);
	error_clear(&err);
	cr_assert_eq(kata_storage_get_state(again), KATA_DEVICE_NEW);
	kata_storage_unref(again);
	kit_deinit(&k);
}
