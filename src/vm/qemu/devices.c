/* SPDX-License-Identifier: Apache-2.0 */
/* devices.c - devices as QEMU's JSON. See devices.h for the names. */
#include "vm/qemu/devices.h"

#include <stdio.h>
#include <string.h>

#include "storage/storage.h"
#include "vm/vm.h"

static bool is_lun(const kata_storage *s)
{
	return kata_storage_get_driver(s) == KATA_STORAGE_VIRTIO_SCSI;
}

void kata__qemu_storage_name(const kata_storage *s, char out[KATA__QEMU_NAME_MAX])
{
	snprintf(out, KATA__QEMU_NAME_MAX, "s-%.64s", kata_storage_get_id(s));
}

void kata__qemu_nic_name(const kata_nic *n, char out[KATA__QEMU_NAME_MAX])
{
	snprintf(out, KATA__QEMU_NAME_MAX, "n-%.64s", kata_nic_get_id(n));
}

bool kata__qemu_is_callers_device(const char *name)
{
	return strncmp(name, "s-", 2) == 0 || strncmp(name, "n-", 2) == 0;
}

void kata__qemu_node_name(const kata_storage *s, int slot, char out[16])
{
	snprintf(out, 16, "%c%d", is_lun(s) ? 'l' : 'b', slot);
}

void kata__qemu_netdev_name(int slot, char out[16])
{
	snprintf(out, 16, "t%d", slot);
}

void kata__qemu_port_name(int slot, char out[16])
{
	snprintf(out, 16, "p%d", slot);
}

unsigned kata__qemu_fd_set(const kata_storage *s, int slot)
{
	return (is_lun(s) ? 1000u : 10u) + 2u * (unsigned)slot;
}

/* The node that reads the passed fd. */
static json_t *file_node(unsigned fd_set, bool is_block_device)
{
	char path[32];

	snprintf(path, sizeof(path), "/dev/fdset/%u", fd_set);
	return json_pack("{s:s, s:s}", "driver", is_block_device ? "host_device" : "file", "filename", path);
}

/* NULL when out of memory; takes node. */
static json_t *with(json_t *take_node, const char *key, json_t *take_value)
{
	if (take_node && json_object_set_new(take_node, key, take_value) == 0)
		return take_node;
	if (!take_node)
		json_decref(take_value);
	json_decref(take_node);
	return NULL;
}

/* A qcow2 header can name a backing file; "backing" is always written, so that it is never followed. */
static json_t *qcow2_node(json_t *take_file, json_t *take_backing)
{
	json_t *node = take_file && take_backing ? json_pack("{s:s}", "driver", "qcow2") : NULL;

	if (!node) {
		json_decref(take_file);
		json_decref(take_backing);
		return NULL;
	}
	node = with(node, "file", take_file);
	return with(node, "backing", take_backing);
}

/* QEMU adds the file name in the header to a backing node that has none in a node below it: so raw has its own too. */
static json_t *backing_node(const kata_storage *s, int slot, bool is_block_device)
{
	json_t *file, *node;

	if (!kata__storage_backing_path(s))
		return json_null();
	file = with(file_node(kata__qemu_fd_set(s, slot) + 1, is_block_device), "read-only", json_true());
	if (kata__storage_backing_format(s) == KATA_STORAGE_QCOW2)
		node = qcow2_node(file, json_null());
	else
		node = file ? with(json_pack("{s:s}", "driver", "raw"), "file", file) : NULL;
	return with(node, "read-only", json_true());
}

json_t *kata__qemu_blockdev(const kata_storage *s, int slot, bool is_block_device, bool backing_is_block_device)
{
	bool read_only = kata_storage_is_read_only(s);
	const char *key = read_only ? "read-only" : "discard";
	json_t *node = file_node(kata__qemu_fd_set(s, slot), is_block_device);
	char name[16];

	node = with(node, key, read_only ? json_true() : json_string("unmap"));
	if (kata_storage_get_format(s) == KATA_STORAGE_QCOW2) {
		node = qcow2_node(node, backing_node(s, slot, backing_is_block_device));
		node = with(node, key, read_only ? json_true() : json_string("unmap"));
	}
	kata__qemu_node_name(s, slot, name);
	return with(node, "node-name", json_string(name));
}

/* A write that fails for want of space is the guest's error; QEMU's default would stop the machine. */
json_t *kata__qemu_storage_device(const kata_storage *s, int slot)
{
	char name[KATA__QEMU_NAME_MAX], node[16], port[16];

	kata__qemu_storage_name(s, name);
	kata__qemu_node_name(s, slot, node);
	if (is_lun(s))
		return json_pack("{s:s, s:s, s:s, s:i, s:i, s:s, s:s}", "driver", "scsi-hd", "id", name, "bus",
				 "scsi0.0", "scsi-id", 0, "lun", slot, "drive", node, "werror", "report");
	kata__qemu_port_name(slot, port);
	return json_pack("{s:s, s:s, s:s, s:s, s:s}", "driver", "virtio-blk-pci", "id", name, "bus", port, "drive",
			 node, "werror", "report");
}

json_t *kata__qemu_netdev(const kata_nic *n, int slot, const char *fd)
{
	char name[16];

	kata__qemu_netdev_name(slot, name);
	if (kata_nic_get_type(n) == KATA_NIC_USER)
		return json_pack("{s:s, s:s}", "type", "user", "id", name);
	return json_pack("{s:s, s:s, s:s}", "type", "tap", "id", name, "fd", fd);
}

/* No option ROM: the firmware would run a network boot from it. */
json_t *kata__qemu_nic_device(const kata_nic *n, int slot)
{
	char name[KATA__QEMU_NAME_MAX], port[16], netdev[16];
	uint32_t mtu = kata_nic_get_mtu(n);
	json_t *o;

	kata__qemu_nic_name(n, name);
	kata__qemu_port_name(slot, port);
	kata__qemu_netdev_name(slot, netdev);
	o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "driver", "virtio-net-pci", "id", name, "bus", port, "netdev",
		      netdev, "mac", kata_nic_get_mac(n), "romfile", "");
	if (o && mtu != 1500 && json_object_set_new(o, "host_mtu", json_integer(mtu))) {
		json_decref(o);
		return NULL;
	}
	return o;
}

json_t *kata__qemu_port_device(int slot, bool multifunction)
{
	char name[16], address[16];
	json_t *o;

	kata__qemu_port_name(slot, name);
	kata__vm_port_address(slot, address);
	*strchr(address, '/') = '\0';
	o = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i}", "driver", "pcie-root-port", "id", name, "bus", "pcie.0", "addr",
		      address, "chassis", slot + 1, "slot", slot + 1);
	if (o && multifunction && json_object_set_new(o, "multifunction", json_true())) {
		json_decref(o);
		return NULL;
	}
	return o;
}
