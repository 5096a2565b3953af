/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "guest/device.h"

static char sys[] = "/tmp/kata-sys-XXXXXX";

static void make_dir(const char *path)
{
	char full[512];

	snprintf(full, sizeof(full), "%s/%s", sys, path);
	cr_assert_eq(kata__mkdirs(full, 0755, NULL), 0);
}

static void make_file(const char *dir, const char *name, const char *text)
{
	char full[512];
	FILE *f;

	make_dir(dir);
	snprintf(full, sizeof(full), "%s/%s/%s", sys, dir, name);
	f = fopen(full, "w");
	cr_assert_not_null(f);
	fputs(text, f);
	fclose(f);
}

#define PORT "devices/pci0000:00/0000:00:05.0"

static void set_up(void)
{
	cr_assert_not_null(mkdtemp(sys));
	/* a disk behind the root port in slot 5 */
	make_dir(PORT "/pci_bus/0000:03");
	make_dir(PORT "/0000:03:00.0/virtio4/block/vda");
	/* behind the one in slot 6 a NIC; nothing behind the one in slot 7 */
	make_dir("devices/pci0000:00/0000:00:06.0/pci_bus/0000:04");
	make_dir("devices/pci0000:00/0000:00:06.0/0000:04:00.0/virtio5/net/eth0");
	make_dir("devices/pci0000:00/0000:00:07.0/pci_bus/0000:05");
	/* on the root bus: a disk in slot 9, and in slot 0xa one whose driver has not come */
	make_dir("devices/pci0000:00/0000:00:09.2/virtio6/block/vdb");
	make_dir("devices/pci0000:00/0000:00:0a.0/virtio7");
	make_dir("class/scsi_device/2:0:3:1/device/block/sdc");
	make_dir("class/scsi_device/2:1:3:0/device/block/sdd");
	make_file("class/net/eth0", "address", "02:00:00:00:0a:01\n");
	make_file("class/net/lo", "address", "00:00:00:00:00:00\n");
	make_file("class/block/vda", "size", "2048\n");
}

static void tear_down(void)
{
	kata__remove_tree(sys, NULL);
}

TestSuite(device, .init = set_up, .fini = tear_down);

static const char *found(enum device_kind kind, const char *address)
{
	static char name[DEVICE_NAME_MAX];

	return device_find(sys, kind, address, name) ? name : "none";
}

Test(device, finds_a_disk_behind_a_root_port)
{
	cr_assert_str_eq(found(DEVICE_BLK, "05/00"), "vda");
	cr_assert_str_eq(found(DEVICE_BLK, "5/0"), "vda");
}

Test(device, finds_a_disk_on_the_root_bus_with_a_function)
{
	cr_assert_str_eq(found(DEVICE_BLK, "09.2"), "vdb");
	cr_assert_str_eq(found(DEVICE_BLK, "09"), "none");
}

Test(device, finds_nothing_behind_an_empty_port_or_in_an_empty_slot)
{
	cr_assert_str_eq(found(DEVICE_BLK, "07/00"), "none");
	cr_assert_str_eq(found(DEVICE_BLK, "1f"), "none");
	cr_assert_str_eq(found(DEVICE_BLK, "05/00/00"), "none");
}

Test(device, does_not_take_a_device_before_its_driver_has_made_the_disk)
{
	cr_assert_str_eq(found(DEVICE_BLK, "0a"), "none");
}

Test(device, does_not_take_a_nic_for_a_disk)
{
	cr_assert_str_eq(found(DEVICE_BLK, "06/00"), "none");
	cr_assert_str_eq(found(DEVICE_NET, "05/00"), "none");
}

Test(device, finds_a_nic_by_path_and_by_mac_whatever_the_case)
{
	cr_assert_str_eq(found(DEVICE_NET, "06/00"), "eth0");
	cr_assert_str_eq(found(DEVICE_NET, "02:00:00:00:0A:01"), "eth0");
	cr_assert_str_eq(found(DEVICE_NET, "02:00:00:00:0a:02"), "none");
}

Test(device, finds_a_scsi_disk_on_channel_zero_of_any_host)
{
	cr_assert_str_eq(found(DEVICE_SCSI, "3:1"), "sdc");
	cr_assert_str_eq(found(DEVICE_SCSI, "3:0"), "none");
}

Test(device, tells_a_size_in_bytes)
{
	cr_assert_eq(device_size_bytes(sys, "vda"), 2048 * 512);
	cr_assert_eq(device_size_bytes(sys, "vdz"), 0);
}

Test(device, refuses_addresses_that_are_none)
{
	static const char *const bad_paths[] = {"",       "/",  "05/", "/05", "20",    "05/00.8",
						"05/00.", "5x", "005", "-1",  "../..", "01/01/01/01/01/01/01/01/01"};
	static const char *const bad_scsi[] = {"", "3", "3:", ":1", "3:1:2", "a:b", "256:0", "0:16384", "-1:0", "3: 1"};
	static const char *const bad_macs[] = {"02:00:00:00:00", "02:00:00:00:00:01:02", "02-00-00-00-00-01",
					       "0200000000001", "02:00:00:00:00:0g"};

	for (size_t i = 0; i < kata__array_size(bad_paths); i++)
		cr_expect_eq(device_address_check(DEVICE_BLK, bad_paths[i], NULL), KATA_E_INVALID, "'%s'",
			     bad_paths[i]);
	for (size_t i = 0; i < kata__array_size(bad_scsi); i++)
		cr_expect_eq(device_address_check(DEVICE_SCSI, bad_scsi[i], NULL), KATA_E_INVALID, "'%s'", bad_scsi[i]);
	for (size_t i = 0; i < kata__array_size(bad_macs); i++)
		cr_expect_eq(device_address_check(DEVICE_NET, bad_macs[i], NULL), KATA_E_INVALID, "'%s'", bad_macs[i]);
}

Test(device, names_the_kinds_when_asked_for_another)
{
	enum device_kind kind;
	kata_error *err = NULL;

	cr_assert_eq(device_kind_parse("scsi", &kind, &err), 0);
	cr_assert_eq(kind, DEVICE_SCSI);
	cr_assert_eq(device_kind_parse("usb", &kind, &err), KATA_E_INVALID);
	cr_assert_str_eq(kata_error_get_message(err), "kind: 'usb' is not one of blk, scsi, net");
	kata_error_free(err);
}
