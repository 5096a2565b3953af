/* SPDX-License-Identifier: Apache-2.0 */
/* Each method as the guest sees it: what was asked for, as a message of the method's type. */
#include "unit/agent/agent_test.h"

#include "agent/request.h"

#define SPEC                                                                                                           \
	"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"/bin/true\"],\"cwd\":\"/"                                  \
	"\",\"user\":{\"uid\":0,\"gid\":0}},"                                                                          \
	"\"root\":{\"path\":\"storage:root\"},\"linux\":{}}"
#define PROCESS "{\"args\":[\"sh\",\"-c\",\"id\"],\"cwd\":\"/tmp\",\"user\":{\"uid\":7,\"gid\":8},\"terminal\":true}"

/* Encodes, packs and unpacks, as the wire would do. */
static void *over_the_wire(const kata_agent_request *request, uint64_t timeout_ms, enum kata__method_id expected)
{
	struct kata__kata_encoding e;
	ProtobufCMessage *message = NULL;
	kata_error *err = NULL;
	uint8_t *bytes;
	size_t length;

	fixture_assert_ok(kata__agent_request_check(request, &err), err);
	fixture_assert_ok(kata__kata_encode(request, timeout_ms, &e, &err), err);
	cr_assert_eq(e.method, expected);
	bytes = malloc(protobuf_c_message_get_packed_size(&e.message.base) + 1);
	length = protobuf_c_message_pack(&e.message.base, bytes);
	kata__kata_encoding_deinit(&e);
	fixture_assert_ok(kata__proto_unpack(kata__methods[expected].request, bytes, length, &message, &err), err);
	free(bytes);
	return message;
}

Test(kata_request, check_asks_nothing)
{
	Grpc__CheckRequest *m = over_the_wire(REQUEST(.method = KATA_AGENT_CHECK), 0, KATA__HEALTH_CHECK);

	cr_assert_str_eq(m->service, "");
	kata__proto_free(m);
}

Test(kata_request, version_asks_the_health_service)
{
	kata__proto_free(over_the_wire(REQUEST(.method = KATA_AGENT_VERSION), 0, KATA__HEALTH_VERSION));
}

Test(kata_request, create_sandbox_carries_id_hostname_dns_and_storages)
{
	const char *const dns[] = {"nameserver 10.0.2.3", "search example.org", NULL};
	const char *const options[] = {"noexec", "size=64m", NULL};
	const kata_agent_storage storages[] = {
		{.driver = "ephemeral",
		 .source = "shm",
		 .fstype = "tmpfs",
		 .mount_point = "/dev/shm",
		 .options = options},
		{.driver = "blk", .source = "08/00", .fstype = "ext4", .mount_point = "/run/disk"},
	};
	Grpc__CreateSandboxRequest *m =
		over_the_wire(REQUEST(.method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "box", .hostname = "web",
				      .dns = dns, .storages = storages, .storage_count = 2),
			      0, KATA__AGENT_CREATE_SANDBOX);

	cr_assert_str_eq(m->sandbox_id, "box");
	cr_assert_str_eq(m->hostname, "web");
	cr_assert_eq(m->n_dns, 2u);
	cr_assert_str_eq(m->dns[1], "search example.org");
	cr_assert_eq(m->n_storages, 2u);
	cr_assert_str_eq(m->storages[0]->driver, "ephemeral");
	cr_assert_str_eq(m->storages[0]->fstype, "tmpfs");
	cr_assert_eq(m->storages[0]->n_options, 2u);
	cr_assert_str_eq(m->storages[0]->options[1], "size=64m");
	cr_assert_str_eq(m->storages[1]->source, "08/00");
	cr_assert_str_eq(m->storages[1]->mount_point, "/run/disk");
	cr_assert_eq(m->storages[1]->n_options, 0u);
	kata__proto_free(m);
}

Test(kata_request, destroy_sandbox_asks_nothing)
{
	kata__proto_free(over_the_wire(REQUEST(.method = KATA_AGENT_DESTROY_SANDBOX), 0, KATA__AGENT_DESTROY_SANDBOX));
}

Test(kata_request, update_interface_splits_addresses_and_says_their_family)
{
	const char *const addresses[] = {"10.0.2.15/24", "fd00::2/64", NULL};
	const kata_agent_interface nic = {
		.name = "eth0", .mac = "02:00:00:00:00:01", .pci_path = "09/00", .mtu = 1450, .addresses = addresses};
	Grpc__UpdateInterfaceRequest *m = over_the_wire(
		REQUEST(.method = KATA_AGENT_UPDATE_INTERFACE, .interface_ = &nic), 0, KATA__AGENT_UPDATE_INTERFACE);
	Grpc__Interface *i = m->interface;

	cr_assert_str_eq(i->name, "eth0");
	cr_assert_str_eq(i->hwaddr, "02:00:00:00:00:01");
	cr_assert_str_eq(i->devicepath, "09/00");
	cr_assert_eq(i->mtu, 1450u);
	cr_assert_eq(i->n_ipaddresses, 2u);
	cr_assert_eq(i->ipaddresses[0]->family, GRPC__IPFAMILY__v4);
	cr_assert_str_eq(i->ipaddresses[0]->address, "10.0.2.15");
	cr_assert_str_eq(i->ipaddresses[0]->mask, "24");
	cr_assert_eq(i->ipaddresses[1]->family, GRPC__IPFAMILY__v6);
	cr_assert_str_eq(i->ipaddresses[1]->address, "fd00::2");
	cr_assert_str_eq(i->ipaddresses[1]->mask, "64");
	kata__proto_free(m);
}

Test(kata_request, update_routes_says_the_family_of_each)
{
	const kata_agent_route routes[] = {
		{.gateway = "10.0.2.2", .device = "eth0"},
		{.destination = "10.1.0.0/16", .device = "eth1", .source = "10.1.0.9"},
		{.destination = "", .gateway = "fd00::1", .device = "eth0"},
	};
	Grpc__UpdateRoutesRequest *m =
		over_the_wire(REQUEST(.method = KATA_AGENT_UPDATE_ROUTES, .routes = routes, .route_count = 3), 0,
			      KATA__AGENT_UPDATE_ROUTES);

	cr_assert_eq(m->routes->n_routes, 3u);
	cr_assert_str_eq(m->routes->routes[0]->dest, "");
	cr_assert_str_eq(m->routes->routes[0]->gateway, "10.0.2.2");
	cr_assert_eq(m->routes->routes[0]->family, GRPC__IPFAMILY__v4);
	cr_assert_str_eq(m->routes->routes[1]->dest, "10.1.0.0/16");
	cr_assert_str_eq(m->routes->routes[1]->source, "10.1.0.9");
	cr_assert_str_eq(m->routes->routes[1]->device, "eth1");
	cr_assert_eq(m->routes->routes[2]->family, GRPC__IPFAMILY__v6);
	kata__proto_free(m);
}

Test(kata_request, update_routes_may_have_none)
{
	Grpc__UpdateRoutesRequest *m =
		over_the_wire(REQUEST(.method = KATA_AGENT_UPDATE_ROUTES), 0, KATA__AGENT_UPDATE_ROUTES);

	cr_assert_not_null(m->routes);
	cr_assert_eq(m->routes->n_routes, 0u);
	kata__proto_free(m);
}

Test(kata_request, await_device_passes_the_time_left_on)
{
	Grpc__AwaitDeviceRequest *m = over_the_wire(
		REQUEST(.method = KATA_AGENT_AWAIT_DEVICE, .device_kind = "scsi", .device_address = "0:3"), 1234,
		KATA__GUEST_AWAIT_DEVICE);

	cr_assert_str_eq(m->kind, "scsi");
	cr_assert_str_eq(m->address, "0:3");
	cr_assert_eq(m->timeout_ms, 1234u);
	kata__proto_free(m);
}

Test(kata_request, await_device_without_a_deadline_waits_all_the_same)
{
	Grpc__AwaitDeviceRequest *m = over_the_wire(
		REQUEST(.method = KATA_AGENT_AWAIT_DEVICE, .device_kind = "blk", .device_address = "08/00"), 0,
		KATA__GUEST_AWAIT_DEVICE);

	cr_assert_gt(m->timeout_ms, 0u);
	kata__proto_free(m);
}

Test(kata_request, offline_device_names_the_device)
{
	Grpc__OfflineDeviceRequest *m = over_the_wire(REQUEST(.method = KATA_AGENT_OFFLINE_DEVICE, .device_kind = "net",
							      .device_address = "02:00:00:00:00:01"),
						      0, KATA__GUEST_OFFLINE_DEVICE);

	cr_assert_str_eq(m->kind, "net");
	cr_assert_str_eq(m->address, "02:00:00:00:00:01");
	kata__proto_free(m);
}

Test(kata_request, create_container_turns_the_oci_json_into_a_spec)
{
	const kata_agent_storage storage = {
		.driver = "blk", .source = "08/00", .fstype = "ext4", .mount_point = "/run/root"};
	Grpc__CreateContainerRequest *m =
		over_the_wire(REQUEST(.method = KATA_AGENT_CREATE_CONTAINER, .container_id = "c1", .json = SPEC,
				      .json_length = strlen(SPEC), .storages = &storage, .storage_count = 1),
			      0, KATA__AGENT_CREATE_CONTAINER);

	cr_assert_str_eq(m->container_id, "c1");
	cr_assert_str_eq(m->exec_id, "c1");
	cr_assert_str_eq(m->oci->root->path, "storage:root");
	cr_assert_str_eq(m->oci->process->args[0], "/bin/true");
	cr_assert_eq(m->n_storages, 1u);
	kata__proto_free(m);
}

Test(kata_request, create_container_says_what_is_wrong_with_the_json)
{
	static const char *const broken[] = {"{", "[]", "{\"ociVersion\":\"1.0.2\"}"};

	for (size_t i = 0; i < kata__array_size(broken); i++) {
		struct kata__kata_encoding e;
		kata_error *err = NULL;

		fixture_assert_fails(
			kata__kata_encode(REQUEST(.method = KATA_AGENT_CREATE_CONTAINER, .container_id = "c1",
						  .json = broken[i], .json_length = strlen(broken[i])),
					  0, &e, &err),
			KATA_E_INVALID, err);
		kata_error_free(err);
	}
}

Test(kata_request, exec_process_turns_the_json_into_a_process)
{
	Grpc__ExecProcessRequest *m =
		over_the_wire(REQUEST(.method = KATA_AGENT_EXEC_PROCESS, .container_id = "c1", .exec_id = "e1",
				      .json = PROCESS, .json_length = strlen(PROCESS)),
			      0, KATA__AGENT_EXEC_PROCESS);

	cr_assert_str_eq(m->container_id, "c1");
	cr_assert_str_eq(m->exec_id, "e1");
	cr_assert(m->process->terminal);
	cr_assert_eq(m->process->n_args, 3u);
	cr_assert_eq(m->process->user->uid, 7u);
	kata__proto_free(m);
}

/* Methods that name a container and nothing else. */
static void names_container(kata_agent_method method, enum kata__method_id id)
{
	Grpc__StartContainerRequest *m = over_the_wire(REQUEST(.method = method, .container_id = "c1"), 0, id);

	cr_assert_str_eq(m->container_id, "c1"); /* the first field of all of them */
	kata__proto_free(m);
}

Test(kata_request, start_container_names_it)
{
	names_container(KATA_AGENT_START_CONTAINER, KATA__AGENT_START_CONTAINER);
}

Test(kata_request, remove_container_names_it_and_sets_no_time)
{
	Grpc__RemoveContainerRequest *m = over_the_wire(
		REQUEST(.method = KATA_AGENT_REMOVE_CONTAINER, .container_id = "c1"), 0, KATA__AGENT_REMOVE_CONTAINER);

	cr_assert_str_eq(m->container_id, "c1");
	cr_assert_eq(m->timeout, 0u);
	kata__proto_free(m);
}

Test(kata_request, stats_pause_and_resume_name_the_container)
{
	names_container(KATA_AGENT_STATS_CONTAINER, KATA__AGENT_STATS_CONTAINER);
	names_container(KATA_AGENT_PAUSE_CONTAINER, KATA__AGENT_PAUSE_CONTAINER);
	names_container(KATA_AGENT_RESUME_CONTAINER, KATA__AGENT_RESUME_CONTAINER);
}

Test(kata_request, signal_process_without_exec_id_means_all)
{
	Grpc__SignalProcessRequest *m =
		over_the_wire(REQUEST(.method = KATA_AGENT_SIGNAL_PROCESS, .container_id = "c1", .signal = 9), 0,
			      KATA__AGENT_SIGNAL_PROCESS);

	cr_assert_str_eq(m->exec_id, "");
	cr_assert_eq(m->signal, 9u);
	kata__proto_free(m);
}

Test(kata_request, wait_process_without_exec_id_means_the_first_one)
{
	Grpc__WaitProcessRequest *m = over_the_wire(REQUEST(.method = KATA_AGENT_WAIT_PROCESS, .container_id = "c1"), 0,
						    KATA__AGENT_WAIT_PROCESS);

	cr_assert_str_eq(m->exec_id, "c1");
	kata__proto_free(m);
}

Test(kata_request, write_stdin_carries_bytes_of_any_value)
{
	uint8_t data[256];
	Grpc__WriteStreamRequest *m;

	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)i;
	m = over_the_wire(REQUEST(.method = KATA_AGENT_WRITE_STDIN, .container_id = "c1", .exec_id = "e1", .data = data,
				  .data_length = sizeof(data)),
			  0, KATA__AGENT_WRITE_STDIN);
	cr_assert_str_eq(m->exec_id, "e1");
	cr_assert_eq(m->data.len, sizeof(data));
	cr_assert_eq(memcmp(m->data.data, data, sizeof(data)), 0);
	kata__proto_free(m);
}

Test(kata_request, close_stdin_names_the_process)
{
	Grpc__CloseStdinRequest *m =
		over_the_wire(REQUEST(.method = KATA_AGENT_CLOSE_STDIN, .container_id = "c1", .exec_id = "e1"), 0,
			      KATA__AGENT_CLOSE_STDIN);

	cr_assert_str_eq(m->container_id, "c1");
	cr_assert_str_eq(m->exec_id, "e1");
	kata__proto_free(m);
}

Test(kata_request, reads_say_how_much_is_wanted)
{
	static const struct {
		kata_agent_method method;
		enum kata__method_id id;
	} reads[] = {{KATA_AGENT_READ_STDOUT, KATA__AGENT_READ_STDOUT},
		     {KATA_AGENT_READ_STDERR, KATA__AGENT_READ_STDERR}};

	for (size_t i = 0; i < 2; i++) {
		Grpc__ReadStreamRequest *m = over_the_wire(
			REQUEST(.method = reads[i].method, .container_id = "c1", .max_length = 32768), 0, reads[i].id);

		cr_assert_str_eq(m->exec_id, "c1");
		cr_assert_eq(m->len, 32768u);
		kata__proto_free(m);
	}
}

Test(kata_request, tty_win_resize_carries_rows_and_columns)
{
	Grpc__TtyWinResizeRequest *m = over_the_wire(REQUEST(.method = KATA_AGENT_TTY_WIN_RESIZE, .container_id = "c1",
							     .exec_id = "e1", .rows = 24, .columns = 80),
						     0, KATA__AGENT_TTY_WIN_RESIZE);

	cr_assert_eq(m->row, 24u);
	cr_assert_eq(m->column, 80u);
	kata__proto_free(m);
}

Test(kata_request, set_time_carries_seconds_and_microseconds)
{
	Grpc__SetGuestDateTimeRequest *m =
		over_the_wire(REQUEST(.method = KATA_AGENT_SET_TIME, .seconds = 1700000000, .microseconds = 999999), 0,
			      KATA__AGENT_SET_GUEST_DATE_TIME);

	cr_assert_eq(m->sec, 1700000000);
	cr_assert_eq(m->usec, 999999);
	kata__proto_free(m);
}

Test(kata_request, reseed_carries_random_bytes)
{
	Grpc__ReseedRandomDevRequest *m =
		over_the_wire(REQUEST(.method = KATA_AGENT_RESEED, .data = "\0\1\2", .data_length = 3), 0,
			      KATA__AGENT_RESEED_RANDOM_DEV);

	cr_assert_eq(m->data.len, 3u);
	cr_assert_eq(memcmp(m->data.data, "\0\1\2", 3), 0);
	kata__proto_free(m);
}

Test(kata_request, online_cpu_mem_says_how_many_cpus_and_waits)
{
	Grpc__OnlineCPUMemRequest *m =
		over_the_wire(REQUEST(.method = KATA_AGENT_ONLINE_CPU_MEM, .cpus = 3), 0, KATA__AGENT_ONLINE_CPU_MEM);

	cr_assert_eq(m->nb_cpus, 3u);
	cr_assert(m->wait);
	kata__proto_free(m);
}

Test(kata_request, reset_identity_carries_each_part_that_is_given)
{
	const kata_agent_mac macs[] = {{.pci_path = "08/00", .mac = "02:00:00:00:00:01"},
				       {.pci_path = "09/00", .mac = "02:00:00:00:00:02"}};
	static const char entropy[40] = "forty bytes";
	Grpc__ResetIdentityRequest *m =
		over_the_wire(REQUEST(.method = KATA_AGENT_RESET_IDENTITY, .data = entropy,
				      .data_length = sizeof(entropy), .seconds = 1700000000, .microseconds = 5,
				      .hostname = "clone-1", .machine_id = "0123456789abcdef0123456789abcdef",
				      .macs = macs, .mac_count = 2, .max_length = 16),
			      0, KATA__GUEST_RESET_IDENTITY);

	cr_assert_eq(m->entropy.len, sizeof(entropy));
	cr_assert_eq(memcmp(m->entropy.data, entropy, sizeof(entropy)), 0);
	cr_assert_eq(m->seconds, 1700000000);
	cr_assert_eq(m->microseconds, 5);
	cr_assert_str_eq(m->hostname, "clone-1");
	cr_assert_str_eq(m->machine_id, "0123456789abcdef0123456789abcdef");
	cr_assert_eq(m->n_macs, 2u);
	cr_assert_str_eq(m->macs[1]->address, "09/00");
	cr_assert_str_eq(m->macs[1]->mac, "02:00:00:00:00:02");
	cr_assert_eq(m->sample_length, 16u);
	kata__proto_free(m);
}

Test(kata_request, reset_identity_may_ask_for_nothing)
{
	Grpc__ResetIdentityRequest *m =
		over_the_wire(REQUEST(.method = KATA_AGENT_RESET_IDENTITY), 0, KATA__GUEST_RESET_IDENTITY);

	cr_assert_eq(m->entropy.len, 0u);
	cr_assert_eq(m->n_macs, 0u);
	cr_assert_str_eq(m->hostname, "");
	kata__proto_free(m);
}
