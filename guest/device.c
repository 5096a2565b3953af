/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PCI path is resolved as the Kata agent does it: a bridge's "pci_bus" directory names the bus behind it, and a
 * device on bus BBBB:BB in slot SS is the directory BBBB:BB:SS.F inside its bridge's.
 */
#include "guest/device.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/text_file.h"

#define ROOT_BUS "0000:00"

static inline void close_dir(DIR **d)
{
	if (*d)
		closedir(*d);
}
#define AUTO_DIR __attribute__((cleanup(close_dir))) DIR *

int device_kind_parse(const char *text, enum device_kind *ret, kata_error **err)
{
	static const char *const names[] = {[DEVICE_BLK] = "blk", [DEVICE_SCSI] = "scsi", [DEVICE_NET] = "net"};

	for (size_t i = 0; i < kata__array_size(names); i++) {
		if (strcmp(text, names[i]) == 0) {
			*ret = (enum device_kind)i;
			return 0;
		}
	}
	return kata__fail(err, KATA_E_INVALID, CALLER, "kind: '%.32s' is not one of blk, scsi, net", text);
}

/* One "SS" or "SS.F"; returns the character after it, or NULL. */
static const char *parse_slot(const char *p, unsigned *slot, unsigned *function)
{
	char *end;

	if (!isxdigit((unsigned char)*p))
		return NULL;
	*slot = (unsigned)strtoul(p, &end, 16);
	*function = 0;
	if (end - p > 2 || *slot > 0x1f)
		return NULL;
	if (*end != '.')
		return end;
	if (end[1] < '0' || end[1] > '7')
		return NULL;
	*function = (unsigned)(end[1] - '0');
	return end + 2;
}

bool device_is_pci_path(const char *text)
{
	unsigned slot, function;

	for (int depth = 0; depth < DEVICE_PATH_DEPTH_MAX; depth++) {
		text = parse_slot(text, &slot, &function);
		if (!text || *text == '\0')
			return text != NULL;
		if (*text++ != '/')
			return false;
	}
	return false;
}

static bool parse_scsi(const char *text, unsigned *id, unsigned *lun)
{
	char *end;
	unsigned long a, b;

	if (!isdigit((unsigned char)*text))
		return false;
	a = strtoul(text, &end, 10);
	if (*end != ':' || !isdigit((unsigned char)end[1]))
		return false;
	b = strtoul(end + 1, &end, 10);
	*id = (unsigned)a;
	*lun = (unsigned)b;
	return *end == '\0' && a <= 255 && b <= 16383;
}

bool device_is_scsi_address(const char *text)
{
	unsigned id, lun;

	return parse_scsi(text, &id, &lun);
}

bool device_parse_mac(const char *text, uint8_t out[6])
{
	for (int i = 0; i < 6; i++) {
		if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]) ||
		    text[2] != (i < 5 ? ':' : '\0'))
			return false;
		out[i] = (uint8_t)strtoul((char[]){text[0], text[1], '\0'}, NULL, 16);
		text += 3;
	}
	return true;
}

int device_address_check(enum device_kind kind, const char *address, kata_error **err)
{
	uint8_t mac[6];

	switch (kind) {
	case DEVICE_BLK:
		if (device_is_pci_path(address))
			return 0;
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "address: '%.64s' is not a PCI path (hexadecimal slots joined by '/', \"05/00\")",
				  address);
	case DEVICE_SCSI:
		if (device_is_scsi_address(address))
			return 0;
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "address: '%.64s' is not a SCSI address (decimal \"ID:LUN\")", address);
	default:
		if (device_parse_mac(address, mac) || device_is_pci_path(address))
			return 0;
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "address: '%.64s' is neither a MAC (\"02:00:00:00:00:01\") nor a PCI path", address);
	}
}

/* The first entry of a directory that starts with `prefix`; false: none. */
static bool first_entry(const char *dir, const char *prefix, char *out, size_t size)
{
	AUTO_DIR d = opendir(dir);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.' || strncmp(e->d_name, prefix, strlen(prefix)) != 0)
			continue;
		return snprintf(out, size, "%s", e->d_name) < (int)size;
	}
	return false;
}

bool device_find_pci(const char *sys, const char *pci_path, char *out, size_t size)
{
	char bus[NAME_MAX + 1] = ROOT_BUS;
	char buses[PATH_MAX];
	unsigned slot, function;
	size_t n = (size_t)snprintf(out, size, "%s/devices/pci" ROOT_BUS, sys);

	for (const char *p = pci_path;; p++) {
		p = parse_slot(p, &slot, &function);
		if (!p || n >= size)
			return false;
		n += (size_t)snprintf(out + n, size - n, "/%.200s:%02x.%x", bus, slot, function);
		if (n >= size || access(out, F_OK) != 0)
			return false;
		if (*p != '/')
			return *p == '\0';
		snprintf(buses, sizeof(buses), "%.3000s/pci_bus", out);
		if (!first_entry(buses, "", bus, sizeof(bus)))
			return false;
	}
}

/* <pci>/virtioN/<class>/<name> */
static bool find_virtio(const char *pci, const char *class, char out[DEVICE_NAME_MAX])
{
	char virtio[NAME_MAX + 1];
	char dir[PATH_MAX + NAME_MAX];

	if (!first_entry(pci, "virtio", virtio, sizeof(virtio)))
		return false;
	snprintf(dir, sizeof(dir), "%.3000s/%s/%s", pci, virtio, class);
	return first_entry(dir, "", out, DEVICE_NAME_MAX);
}

static bool find_scsi(const char *sys, const char *address, char out[DEVICE_NAME_MAX])
{
	char dir[PATH_MAX];
	char suffix[32];
	unsigned id, lun;
	AUTO_DIR d = NULL;
	struct dirent *e;

	if (!parse_scsi(address, &id, &lun))
		return false;
	snprintf(suffix, sizeof(suffix), ":0:%u:%u", id, lun);
	snprintf(dir, sizeof(dir), "%s/class/scsi_device", sys);
	d = opendir(dir);
	while (d && (e = readdir(d))) {
		const char *colon = strchr(e->d_name, ':');

		if (!colon || strcmp(colon, suffix) != 0)
			continue;
		snprintf(dir, sizeof(dir), "%s/class/scsi_device/%s/device/block", sys, e->d_name);
		return first_entry(dir, "", out, DEVICE_NAME_MAX);
	}
	return false;
}

static bool has_mac(const char *sys, const char *name, const uint8_t mac[6])
{
	KATA_AUTO(free) char *text = NULL;
	char path[PATH_MAX];
	uint8_t theirs[6];

	snprintf(path, sizeof(path), "%s/class/net/%s/address", sys, name);
	text = text_file_read_line(path);
	return text && device_parse_mac(text, theirs) && memcmp(theirs, mac, 6) == 0;
}

static bool find_net(const char *sys, const uint8_t mac[6], char out[DEVICE_NAME_MAX])
{
	char dir[PATH_MAX];
	AUTO_DIR d = NULL;
	struct dirent *e;

	snprintf(dir, sizeof(dir), "%s/class/net", sys);
	d = opendir(dir);
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' && has_mac(sys, e->d_name, mac))
			return snprintf(out, DEVICE_NAME_MAX, "%s", e->d_name) < DEVICE_NAME_MAX;
	return false;
}

bool device_find(const char *sys, enum device_kind kind, const char *address, char out[DEVICE_NAME_MAX])
{
	char pci[PATH_MAX];
	uint8_t mac[6];

	if (kind == DEVICE_SCSI)
		return find_scsi(sys, address, out);
	if (kind == DEVICE_NET && device_parse_mac(address, mac))
		return find_net(sys, mac, out);
	return device_find_pci(sys, address, pci, sizeof(pci)) &&
	       find_virtio(pci, kind == DEVICE_NET ? "net" : "block", out);
}

uint64_t device_size_bytes(const char *sys, const char *name)
{
	KATA_AUTO(free) char *text = NULL;
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/class/block/%s/size", sys, name);
	text = text_file_read_line(path);
	return text ? strtoull(text, NULL, 10) * 512 : 0;
}

void device_rescan_scsi(const char *sys, const char *address)
{
	char dir[PATH_MAX], path[PATH_MAX + NAME_MAX], text[32];
	unsigned id, lun;
	AUTO_DIR d = NULL;
	struct dirent *e;

	if (!parse_scsi(address, &id, &lun))
		return;
	snprintf(text, sizeof(text), "0 %u %u", id, lun);
	snprintf(dir, sizeof(dir), "%s/class/scsi_host", sys);
	d = opendir(dir);
	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%.3000s/%s/scan", dir, e->d_name);
		text_file_write(path, text);
	}
}

int device_delete_scsi(const char *sys, const char *address)
{
	char name[DEVICE_NAME_MAX], path[PATH_MAX];

	if (!find_scsi(sys, address, name))
		return -ENODEV;
	snprintf(path, sizeof(path), "%s/class/block/%s/device/delete", sys, name);
	return text_file_write(path, "1");
}
