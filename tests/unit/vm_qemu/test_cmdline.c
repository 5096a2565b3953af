/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: what the caller says arrives byte for byte, as an argument or a JSON string, or is refused before.
 */
#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "storage/storage.h"
#include "vm/qemu/cmdline.h"
#include "vm/vm.h"

static const char *const nasty[] = {
	",",
	",,",
	"a,readonly=on",
	"=",
	"x=y,z=w",
	"\n",
	"a\nb",
	"\"",
	"\"}",
	"\\",
	"\\\"",
	"'",
	"-",
	"--help",
	"-device",
	"%s%n",
	"$(id)",
	"`id`",
	";",
	"|",
	"{}",
	"{\"driver\":\"x\"}",
	"/dev/fdset/1",
	"file:x",
	"\xc3\xa9",
	"\x01",
};

static kata_vm_config config;
static struct kata__qemu_boot boot;
static struct kata__qemu_launch launch;

static void set_up(void)
{
	config = (kata_vm_config)KATA_VM_CONFIG_INIT;
	config.cpus = config.cpus_max = 1;
	config.memory_mib = config.memory_max_mib = 128;
	config.device_slots = 4;
	boot = (struct kata__qemu_boot){.binary = "/usr/bin/qemu",
					.id = "vm-1",
					.uuid = "00000000-0000-4000-8000-000000000000",
					.machine = "q35",
					.config = &config,
					.kernel_fd = 50,
					.initrd_fd = 51,
					.image_fd = -1,
					.memory_fd = -1,
					.vsock_fd = -1,
					.qmp_fd = 52,
					.console_fd = 53,
					.agent_fd = 54,
					.log_fd = 55};
}

static void tear_down(void)
{
	kata__qemu_launch_deinit(&launch);
}

TestSuite(cmdline, .init = set_up, .fini = tear_down);

static void make(void)
{
	kata__qemu_launch_deinit(&launch);
	cr_assert_eq(kata__qemu_launch_make(&boot, &launch, NULL), 0);
}

static const char *value_of(const char *option)
{
	for (size_t i = 0; i + 1 < launch.argc; i++)
		if (strcmp(launch.argv[i], option) == 0)
			return launch.argv[i + 1];
	return NULL;
}

static unsigned count_of(const char *option)
{
	unsigned n = 0;

	for (size_t i = 0; i < launch.argc; i++)
		n += strcmp(launch.argv[i], option) == 0;
	return n;
}

/* The n-th JSON value of an option whose "key" is "value". */
static json_t *find_json(const char *option, const char *key, const char *value)
{
	for (size_t i = 0; i + 1 < launch.argc; i++) {
		json_t *o;

		if (strcmp(launch.argv[i], option) != 0 || launch.argv[i + 1][0] != '{')
			continue;
		o = json_loads(launch.argv[i + 1], JSON_REJECT_DUPLICATES, NULL);
		cr_assert_not_null(o, "%s %s", option, launch.argv[i + 1]);
		if (json_is_string(json_object_get(o, key)) &&
		    strcmp(json_string_value(json_object_get(o, key)), value) == 0)
			return o;
		json_decref(o);
	}
	return NULL;
}

static const char *get(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

Test(cmdline, kernel_parameters_arrive_byte_for_byte_in_one_argument)
{
	for (size_t i = 0; i < kata__array_size(nasty); i++) {
		const char *params[] = {"first=1", nasty[i], NULL};
		const char *append;
		char tail[128];

		config.kernel_params = params;
		make();
		append = value_of("-append");
		snprintf(tail, sizeof(tail), " first=1 %s", nasty[i]);
		cr_assert_geq(strlen(append), strlen(tail));
		cr_assert_str_eq(append + strlen(append) - strlen(tail), tail);
		cr_assert_eq(count_of("-append"), 1u);
	}
}

Test(cmdline, the_callers_kernel_parameters_come_after_the_librarys)
{
	const char *params[] = {"panic=30", NULL};
	const char *ours, *theirs;

	config.kernel_params = params;
	make();
	ours = strstr(value_of("-append"), "panic=-1");
	theirs = strstr(value_of("-append"), "panic=30");
	cr_assert(ours && theirs && ours < theirs);
}

Test(cmdline, kernel_parameters_longer_than_x86_takes_are_invalid)
{
	static char longest[2001];
	const char *params[] = {longest, NULL};
	kata_error *err = NULL;

	memset(longest, 'x', sizeof(longest) - 1);
	config.kernel_params = params;
	cr_assert_eq(kata__qemu_launch_make(&boot, &launch, &err), KATA_E_INVALID);
	cr_assert(strstr(kata_error_get_message(err), "kernel_params"));
	kata_error_free(err);
}

Test(cmdline, every_option_stands_alone_whatever_the_caller_says)
{
	size_t argc;

	make();
	argc = launch.argc;
	for (size_t i = 0; i < kata__array_size(nasty); i++) {
		const char *params[] = {nasty[i], NULL};

		config.kernel_params = params;
		make();
		cr_assert_eq(launch.argc, argc);
	}
}

Test(cmdline, no_path_of_the_callers_is_on_it)
{
	config.kernel = "/secret/kernel,x";
	config.initrd = "/secret/initrd";
	config.memory_path = "/secret/ram";
	boot.memory_fd = 60;
	make();
	for (size_t i = 0; i < launch.argc; i++)
		cr_assert_null(strstr(launch.argv[i], "secret"), "%s", launch.argv[i]);
	cr_assert_eq(strncmp(value_of("-kernel"), "/proc/self/fd/", 14), 0);
	cr_assert_eq(strncmp(value_of("-initrd"), "/proc/self/fd/", 14), 0);
}

Test(cmdline, vsock_replaces_the_serial_port)
{
	json_t *o;

	boot.agent_vsock = true;
	boot.vsock_fd = 61;
	boot.vsock_cid = 4711;
	boot.agent_fd = -1;
	make();
	o = find_json("-device", "driver", "vhost-vsock-pci");
	cr_assert_not_null(o);
	cr_assert_eq(json_integer_value(json_object_get(o, "guest-cid")), 4711);
	cr_assert_eq(launch.fds[launch.fd_count - 3].parent_fd, 61, "before kernel and initrd");
	cr_assert_eq(atoi(get(o, "vhostfd")), launch.fds[launch.fd_count - 3].child_fd);
	cr_assert_null(find_json("-device", "driver", "virtserialport"));
	json_decref(o);
}

Test(cmdline, each_fd_has_its_own_number_in_the_child_and_stderr_is_the_log)
{
	make();
	cr_assert_eq(launch.fds[0].parent_fd, 55);
	cr_assert_eq(launch.fds[0].child_fd, 2);
	for (size_t i = 1; i < launch.fd_count; i++)
		cr_assert_eq(launch.fds[i].child_fd, launch.fds[i - 1].child_fd + 1);
	cr_assert_eq(launch.fd_count, 6u);
}

Test(cmdline, is_hardened)
{
	make();
	cr_assert_eq(count_of("-nodefaults"), 1u);
	cr_assert_eq(count_of("-no-user-config"), 1u);
	cr_assert_eq(count_of("-S"), 1u);
	cr_assert_str_eq(value_of("-sandbox"),
			 "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
}

Test(cmdline, memory_file_is_an_object_that_the_machine_uses)
{
	json_t *o;

	boot.memory_fd = 60;
	config.memory_shared = true;
	make();
	o = find_json("-object", "id", "pc.ram");
	cr_assert_not_null(o);
	cr_assert_eq(json_integer_value(json_object_get(o, "size")), 128 << 20);
	cr_assert(json_is_true(json_object_get(o, "share")));
	cr_assert(strstr(value_of("-machine"), ",memory-backend=pc.ram"));
	json_decref(o);
}

Test(cmdline, memory_slots_are_named_only_where_memory_may_grow)
{
	make();
	cr_assert_str_eq(value_of("-m"), "size=128M");
	config.memory_max_mib = 512;
	config.memory_slots = 3;
	make();
	cr_assert_str_eq(value_of("-m"), "size=128M,slots=3,maxmem=512M");
}

Test(cmdline, there_is_a_root_port_for_each_slot_at_the_address_the_core_tells)
{
	config.device_slots = 23;
	make();
	for (int i = 0; i < 23; i++) {
		char name[16], address[16];
		json_t *o;

		kata__qemu_port_name(i, name);
		o = find_json("-device", "id", name);
		cr_assert_not_null(o);
		kata__vm_port_address(i, address);
		cr_assert_eq(strncmp(get(o, "addr"), address, 2), 0);
		cr_assert_str_eq(address + 2, "/00");
		cr_assert_null(json_object_get(o, "multifunction"));
		cr_assert_eq(json_integer_value(json_object_get(o, "chassis")), i + 1);
		json_decref(o);
	}
}

Test(cmdline, ports_beyond_the_bus_are_functions_of_its_slots)
{
	char address[16];
	json_t *first, *second;

	config.device_slots = 24;
	make();
	kata__vm_port_address(23, address);
	cr_assert_str_eq(address, "08.1/00");
	first = find_json("-device", "id", "p0");
	second = find_json("-device", "id", "p23");
	cr_assert_str_eq(get(second, "addr"), "08.1");
	cr_assert(json_is_true(json_object_get(first, "multifunction")));
	json_decref(first);
	json_decref(second);
}

static kata_storage *new_storage(const char *id, kata_storage_format format, uint64_t flags, const char *backing)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_storage *s = NULL;

	c.id = id;
	c.path = "/secret/disk,format=raw";
	c.format = format;
	c.flags = flags;
	c.backing_path = backing;
	cr_assert_eq(kata_storage_new(&c, &s, NULL), 0);
	return s;
}

Test(cmdline, a_cold_disk_is_an_fd_set_a_node_and_a_device)
{
	struct kata__qemu_cold d = {.fd = 70, .backing_fd = -1, .slot = 2};
	json_t *node, *device;

	d.storage = new_storage("data", KATA_STORAGE_RAW, 0, NULL);
	boot.devices = &d;
	make();
	node = find_json("-blockdev", "node-name", "b2");
	device = find_json("-device", "id", "s-data");
	cr_assert_not_null(node);
	cr_assert_str_eq(get(node, "driver"), "file");
	cr_assert_str_eq(get(node, "filename"), "/dev/fdset/14");
	cr_assert(strstr(value_of("-add-fd"), ",set=14"));
	cr_assert_str_eq(get(device, "bus"), "p2");
	cr_assert_str_eq(get(device, "drive"), "b2");
	json_decref(node);
	json_decref(device);
	kata_storage_unref(d.storage);
}

Test(cmdline, a_qcow2_disk_always_says_what_its_backing_is)
{
	kata_storage *alone = new_storage("a", KATA_STORAGE_QCOW2, 0, NULL);
	kata_storage *backed = new_storage("b", KATA_STORAGE_QCOW2, KATA_STORAGE_READ_ONLY, "/secret/base");
	json_t *one = kata__qemu_blockdev(alone, 0, false, false), *two = kata__qemu_blockdev(backed, 1, true, false);
	const json_t *backing = json_object_get(two, "backing");

	cr_assert(json_is_null(json_object_get(one, "backing")));
	cr_assert_str_eq(get(json_object_get(one, "file"), "filename"), "/dev/fdset/10");
	cr_assert_str_eq(get(backing, "driver"), "raw");
	cr_assert_str_eq(get(json_object_get(backing, "file"), "filename"), "/dev/fdset/13");
	cr_assert(json_is_true(json_object_get(backing, "read-only")));
	cr_assert(json_is_true(json_object_get(two, "read-only")));
	cr_assert_null(json_object_get(two, "discard"));
	cr_assert_str_eq(get(json_object_get(two, "file"), "driver"), "host_device");
	json_decref(one);
	json_decref(two);
	kata_storage_unref(alone);
	kata_storage_unref(backed);
}

Test(cmdline, node_names_fit_qemus_31_bytes_whatever_the_id)
{
	char id[65], name[16];
	kata_storage *s;

	memset(id, 'x', 64);
	id[64] = '\0';
	s = new_storage(id, KATA_STORAGE_RAW, 0, NULL);
	kata__qemu_node_name(s, 183, name);
	cr_assert_lt(strlen(name), 32u);
	kata_storage_unref(s);
}

Test(cmdline, a_cold_tap_is_passed_by_fd_and_a_user_nic_has_none)
{
	kata_nic_config c = KATA_NIC_CONFIG_INIT;
	struct kata__qemu_cold user = {.fd = -1, .backing_fd = -1, .slot = 1},
			       tap = {.fd = 71, .backing_fd = -1, .slot = 0, .next = &user};
	json_t *netdev, *device;

	c.id = "u";
	cr_assert_eq(kata_nic_new(&c, &user.nic, NULL), 0);
	c.id = "t";
	c.type = KATA_NIC_TAP;
	c.mtu = 9000;
	cr_assert_eq(kata_nic_new(&c, &tap.nic, NULL), 0);
	boot.devices = &tap;
	make();
	netdev = find_json("-netdev", "id", "t0");
	device = find_json("-device", "id", "n-t");
	cr_assert_str_eq(get(netdev, "type"), "tap");
	cr_assert_eq(launch.fds[launch.fd_count - 1].parent_fd, 71);
	cr_assert_eq(atoi(get(netdev, "fd")), launch.fds[launch.fd_count - 1].child_fd);
	cr_assert_str_eq(get(device, "romfile"), "");
	cr_assert_str_eq(get(device, "mac"), kata_nic_get_mac(tap.nic));
	cr_assert_eq(json_integer_value(json_object_get(device, "host_mtu")), 9000);
	json_decref(netdev);
	json_decref(device);
	netdev = find_json("-netdev", "id", "t1");
	cr_assert_str_eq(get(netdev, "type"), "user");
	json_decref(netdev);
	kata_nic_unref(user.nic);
	kata_nic_unref(tap.nic);
}
