/* SPDX-License-Identifier: Apache-2.0 */
#include "unit/agent/agent_test.h"

#include "agent/request.h"

/* INVALID, and the message names the member. */
static void refused(const kata_agent_request *request, const char *member)
{
	kata_error *err = NULL;

	fixture_assert_fails(kata__agent_request_check(request, &err), KATA_E_INVALID, err);
	cr_assert_eq(kata_error_get_origin(err), KATA_ORIGIN_CALLER);
	cr_assert_not_null(strstr(kata_error_get_message(err), member), "'%s' does not name %s",
			   kata_error_get_message(err), member);
	kata_error_free(err);
}

static void accepted(const kata_agent_request *request)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata__agent_request_check(request, &err), err);
}

Test(request, refuses_methods_that_are_none)
{
	refused(REQUEST(.method = KATA_AGENT_METHOD_COUNT), "request.method");
	refused(REQUEST(.method = (kata_agent_method)-1), "request.method");
}

Test(request, names_the_id_that_a_method_lacks)
{
	static const kata_agent_method methods[] = {
		KATA_AGENT_CREATE_CONTAINER, KATA_AGENT_START_CONTAINER, KATA_AGENT_REMOVE_CONTAINER,
		KATA_AGENT_EXEC_PROCESS,     KATA_AGENT_SIGNAL_PROCESS,  KATA_AGENT_WAIT_PROCESS,
		KATA_AGENT_STATS_CONTAINER,  KATA_AGENT_PAUSE_CONTAINER, KATA_AGENT_RESUME_CONTAINER,
		KATA_AGENT_WRITE_STDIN,      KATA_AGENT_CLOSE_STDIN,     KATA_AGENT_READ_STDOUT,
		KATA_AGENT_READ_STDERR,      KATA_AGENT_TTY_WIN_RESIZE,
	};

	for (size_t i = 0; i < kata__array_size(methods); i++)
		refused(REQUEST(.method = methods[i], .exec_id = "e", .json = "{}", .json_length = 2, .data = "x",
				.data_length = 1, .signal = 9, .max_length = 10),
			"request.container_id");
	refused(REQUEST(.method = KATA_AGENT_CREATE_SANDBOX), "request.sandbox_id");
	refused(REQUEST(.method = KATA_AGENT_EXEC_PROCESS, .container_id = "c", .json = "{}", .json_length = 2),
		"request.exec_id");
}

Test(request, refuses_ids_of_a_wrong_form)
{
	static const char *const ids[] = {"", "../x", "a/b", "-a", "a b", "ä"};

	for (size_t i = 0; i < kata__array_size(ids); i++) {
		refused(REQUEST(.method = KATA_AGENT_START_CONTAINER, .container_id = ids[i]), "request.container_id");
		refused(REQUEST(.method = KATA_AGENT_WAIT_PROCESS, .container_id = "c", .exec_id = ids[i]),
			"request.exec_id");
	}
}

Test(request, wants_json_where_the_method_has_some)
{
	refused(REQUEST(.method = KATA_AGENT_CREATE_CONTAINER, .container_id = "c"), "request.json");
	refused(REQUEST(.method = KATA_AGENT_EXEC_PROCESS, .container_id = "c", .exec_id = "e", .json = ""),
		"request.json");
}

Test(request, wants_data_of_a_size_that_fits)
{
	refused(REQUEST(.method = KATA_AGENT_WRITE_STDIN, .container_id = "c"), "request.data");
	refused(REQUEST(.method = KATA_AGENT_WRITE_STDIN, .container_id = "c", .data = "", .data_length = 0),
		"request.data");
	refused(REQUEST(.method = KATA_AGENT_WRITE_STDIN, .container_id = "c", .data = "x", .data_length = 4194304),
		"request.data");
	refused(REQUEST(.method = KATA_AGENT_RESEED), "request.data");
}

Test(request, wants_reads_to_say_how_much)
{
	refused(REQUEST(.method = KATA_AGENT_READ_STDOUT, .container_id = "c"), "request.max_length");
	refused(REQUEST(.method = KATA_AGENT_READ_STDERR, .container_id = "c", .max_length = UINT32_MAX),
		"request.max_length");
	accepted(REQUEST(.method = KATA_AGENT_READ_STDERR, .container_id = "c", .max_length = 65536));
}

Test(request, wants_a_signal_that_exists)
{
	refused(REQUEST(.method = KATA_AGENT_SIGNAL_PROCESS, .container_id = "c"), "request.signal");
	refused(REQUEST(.method = KATA_AGENT_SIGNAL_PROCESS, .container_id = "c", .signal = 65), "request.signal");
	accepted(REQUEST(.method = KATA_AGENT_SIGNAL_PROCESS, .container_id = "c", .signal = 64));
}

Test(request, wants_storages_with_driver_and_absolute_mount_point)
{
	const kata_agent_storage nothing = {.mount_point = "/x"}, relative = {.driver = "blk", .mount_point = "x"},
				 none = {.driver = "blk"};

	refused(REQUEST(.method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "s", .storages = &nothing,
			.storage_count = 1),
		"request.storages[0].driver");
	refused(REQUEST(.method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "s", .storages = &relative,
			.storage_count = 1),
		"request.storages[0].mount_point");
	refused(REQUEST(.method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "s", .storages = &none, .storage_count = 1),
		"request.storages[0].mount_point");
	refused(REQUEST(.method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "s", .storage_count = 1),
		"request.storages");
}

Test(request, refuses_host_names_and_dns_lines_that_would_be_several)
{
	const char *const dns[] = {"nameserver 1.1.1.1\nsearch evil", NULL};

	refused(REQUEST(.method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "s", .hostname = "a\nb"),
		"request.hostname");
	refused(REQUEST(.method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "s",
			.hostname = "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffggggg"),
		"request.hostname");
	refused(REQUEST(.method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "s", .dns = dns), "request.dns[0]");
}

static void interface_refused(kata_agent_interface nic, const char *member)
{
	refused(REQUEST(.method = KATA_AGENT_UPDATE_INTERFACE, .interface_ = &nic), member);
}

Test(request, wants_interfaces_that_the_guest_can_set)
{
	const char *const addresses[] = {"10.0.0.1", NULL}, *const prefix[] = {"10.0.0.1/33", NULL},
			  *const words[] = {"ten/8", NULL}, *const sign[] = {"10.0.0.1/+8", NULL},
			  *const v6[] = {"fd00::/129", NULL};
	const kata_agent_interface good = {.name = "eth0", .mac = "02:00:00:00:00:0a", .mtu = 1500};
	kata_agent_interface n;

	refused(REQUEST(.method = KATA_AGENT_UPDATE_INTERFACE), "request.interface_");
	accepted(REQUEST(.method = KATA_AGENT_UPDATE_INTERFACE, .interface_ = &good));
	n = good, n.name = "", interface_refused(n, "interface_.name");
	n = good, n.name = "sixteen-bytes-ab", interface_refused(n, "interface_.name");
	n = good, n.mac = "02:00:00:00:00", interface_refused(n, "interface_.mac");
	n = good, n.mac = "02:00:00:00:00:0g", interface_refused(n, "interface_.mac");
	n = good, n.mac = "02:00:00:00:00:0a:", interface_refused(n, "interface_.mac");
	n = good, n.mtu = 0, interface_refused(n, "interface_.mtu");
	n = good, n.addresses = addresses, interface_refused(n, "interface_.addresses[0]");
	n = good, n.addresses = prefix, interface_refused(n, "interface_.addresses[0]");
	n = good, n.addresses = words, interface_refused(n, "interface_.addresses[0]");
	n = good, n.addresses = sign, interface_refused(n, "interface_.addresses[0]");
	n = good, n.addresses = v6, interface_refused(n, "interface_.addresses[0]");
}

static void route_refused(kata_agent_route route, const char *member)
{
	refused(REQUEST(.method = KATA_AGENT_UPDATE_ROUTES, .routes = &route, .route_count = 1), member);
}

Test(request, wants_routes_of_one_family)
{
	route_refused((kata_agent_route){.gateway = "10.0.0.1"}, "routes[0].device");
	route_refused((kata_agent_route){.device = "eth0", .destination = "10.0.0.0"}, "routes[0].destination");
	route_refused((kata_agent_route){.device = "eth0", .gateway = "gateway"}, "routes[0].gateway");
	route_refused((kata_agent_route){.device = "eth0", .destination = "10.0.0.0/8", .gateway = "fd00::1"},
		      "routes[0].gateway");
	route_refused((kata_agent_route){.device = "eth0", .gateway = "10.0.0.1", .source = "fd00::1"},
		      "routes[0].source");
	refused(REQUEST(.method = KATA_AGENT_UPDATE_ROUTES, .route_count = 1), "request.routes");
}

Test(request, wants_a_device_of_a_known_kind)
{
	refused(REQUEST(.method = KATA_AGENT_AWAIT_DEVICE, .device_address = "1"), "request.device_kind");
	refused(REQUEST(.method = KATA_AGENT_AWAIT_DEVICE, .device_kind = "usb", .device_address = "1"),
		"request.device_kind");
	refused(REQUEST(.method = KATA_AGENT_OFFLINE_DEVICE, .device_kind = "blk"), "request.device_address");
}

Test(request, wants_a_time_since_1970)
{
	refused(REQUEST(.method = KATA_AGENT_SET_TIME, .seconds = -1), "request.microseconds");
	refused(REQUEST(.method = KATA_AGENT_SET_TIME, .microseconds = 1000000), "request.microseconds");
}

Test(request, a_copy_shares_nothing_with_the_original)
{
	char id[] = "c1", json[] = "{}", option[] = "ro", mount_point[] = "/mnt", data[] = "abc";
	const char *options[] = {option, NULL};
	kata_agent_storage storage = {.driver = "blk", .mount_point = mount_point, .options = options};
	kata_agent_request *from = REQUEST(.method = KATA_AGENT_CREATE_CONTAINER, .container_id = id, .json = json,
					   .json_length = 2, .storages = &storage, .storage_count = 1);
	size_t size = kata__agent_request_copy(from, NULL, NULL);
	void *memory = malloc(size);
	kata_agent_request copy;

	cr_assert_eq(kata__agent_request_copy(from, memory, &copy), size);
	id[0] = json[0] = option[0] = mount_point[1] = data[0] = '#';
	options[0] = NULL;
	storage.driver = NULL;
	cr_assert_str_eq(copy.container_id, "c1");
	cr_assert_eq(memcmp(copy.json, "{}", 2), 0);
	cr_assert_str_eq(copy.storages[0].driver, "blk");
	cr_assert_str_eq(copy.storages[0].mount_point, "/mnt");
	cr_assert_str_eq(copy.storages[0].options[0], "ro");
	cr_assert_null(copy.storages[0].options[1]);
	cr_assert_null(copy.storages[0].source);
	free(memory);
}

Test(request, a_copy_holds_interface_routes_and_dns)
{
	const char *const list[] = {"one", "two", NULL}, *const addresses[] = {"10.0.0.1/8", NULL};
	kata_agent_interface nic = {.name = "eth0", .mac = "02:00:00:00:00:01", .mtu = 1500, .addresses = addresses};
	kata_agent_route routes[2] = {{.device = "eth0", .gateway = "10.0.0.1"},
				      {.device = "eth1", .destination = "10.0.0.0/8"}};
	kata_agent_request *requests[] = {
		REQUEST(.method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "s", .dns = list),
		REQUEST(.method = KATA_AGENT_UPDATE_INTERFACE, .interface_ = &nic),
		REQUEST(.method = KATA_AGENT_UPDATE_ROUTES, .routes = routes, .route_count = 2),
	};
	kata_agent_request copies[3];
	void *memory[3];

	for (int i = 0; i < 3; i++) {
		memory[i] = malloc(kata__agent_request_copy(requests[i], NULL, NULL));
		kata__agent_request_copy(requests[i], memory[i], &copies[i]);
	}
	cr_assert_str_eq(copies[0].dns[1], "two");
	cr_assert_null(copies[0].dns[2]);
	cr_assert_neq(copies[1].interface_, &nic);
	cr_assert_eq(copies[1].interface_->mtu, 1500u);
	cr_assert_str_eq(copies[1].interface_->addresses[0], "10.0.0.1/8");
	cr_assert_str_eq(copies[2].routes[0].gateway, "10.0.0.1");
	cr_assert_str_eq(copies[2].routes[1].destination, "10.0.0.0/8");
	for (int i = 0; i < 3; i++)
		free(memory[i]);
}

static void identity_refused(kata_agent_request request, const char *member)
{
	request.method = KATA_AGENT_RESET_IDENTITY;
	refused(&request, member);
}

Test(request, wants_an_identity_that_the_guest_can_take)
{
	static const char bytes[4097];
	const kata_agent_mac no_path = {.mac = "02:00:00:00:00:01"}, no_mac = {.pci_path = "08/00"},
			     short_mac = {.pci_path = "08/00", .mac = "02:00"},
			     good = {.pci_path = "08/00", .mac = "02:00:00:00:00:01"};

	identity_refused(*REQUEST(.data = bytes, .data_length = 31), "request.data");
	identity_refused(*REQUEST(.data = bytes, .data_length = 4097), "request.data");
	identity_refused(*REQUEST(.data_length = 32), "request.data");
	identity_refused(*REQUEST(.seconds = -1), "request.microseconds");
	identity_refused(*REQUEST(.seconds = 1, .microseconds = 1000000), "request.microseconds");
	identity_refused(*REQUEST(.hostname = "a\nb"), "request.hostname");
	identity_refused(*REQUEST(.machine_id = ""), "request.machine_id");
	identity_refused(*REQUEST(.machine_id = "0123456789ABCDEF0123456789ABCDEF"), "request.machine_id");
	identity_refused(*REQUEST(.max_length = 65), "request.max_length");
	identity_refused(*REQUEST(.mac_count = 1), "request.macs");
	identity_refused(*REQUEST(.macs = &good, .mac_count = 65), "request.macs");
	identity_refused(*REQUEST(.macs = &no_path, .mac_count = 1), "request.macs[0].pci_path");
	identity_refused(*REQUEST(.macs = &no_mac, .mac_count = 1), "request.macs[0].mac");
	identity_refused(*REQUEST(.macs = &short_mac, .mac_count = 1), "request.macs[0].mac");
	accepted(REQUEST(.method = KATA_AGENT_RESET_IDENTITY, .macs = &good, .mac_count = 1, .data = bytes,
			 .data_length = 4096, .max_length = 64, .seconds = 1));
	accepted(REQUEST(.method = KATA_AGENT_RESET_IDENTITY));
}

Test(request, a_copy_of_an_identity_outlives_the_original)
{
	kata_agent_mac macs[] = {{.pci_path = strdup("08/00"), .mac = strdup("02:00:00:00:00:01")}};
	char data[32] = "thirty-two", *hostname = strdup("clone"), *id = strdup("0123456789abcdef0123456789abcdef");
	kata_agent_request from = {.size = sizeof(from),
				   .method = KATA_AGENT_RESET_IDENTITY,
				   .data = data,
				   .data_length = sizeof(data),
				   .hostname = hostname,
				   .machine_id = id,
				   .macs = macs,
				   .mac_count = 1,
				   .seconds = 5,
				   .max_length = 8};
	kata_agent_request to;
	void *memory = malloc(kata__agent_request_copy(&from, NULL, NULL));

	kata__agent_request_copy(&from, memory, &to);
	free((char *)(uintptr_t)macs[0].pci_path);
	free((char *)(uintptr_t)macs[0].mac);
	free(hostname);
	free(id);
	memset(data, 0, sizeof(data));
	memset(macs, 0, sizeof(macs));
	cr_assert_str_eq(to.hostname, "clone");
	cr_assert_str_eq(to.machine_id, "0123456789abcdef0123456789abcdef");
	cr_assert_str_eq(to.macs[0].pci_path, "08/00");
	cr_assert_str_eq(to.macs[0].mac, "02:00:00:00:00:01");
	cr_assert_eq(memcmp(to.data, "thirty-two", 10), 0);
	cr_assert_eq(to.seconds, 5);
	cr_assert_eq(to.max_length, 8u);
	free(memory);
}
