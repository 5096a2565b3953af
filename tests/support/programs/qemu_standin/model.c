/* SPDX-License-Identifier: Apache-2.0 */
/* model.c - the rules of the pretended machine. Texts are those of QEMU 7.2. */
#include "qemu_standin/model.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

__attribute__((format(printf, 3, 4))) static bool refuse(struct refusal *why, const char *class, const char *fmt, ...)
{
	va_list ap;

	snprintf(why->class, sizeof(why->class), "%s", class);
	va_start(ap, fmt);
	vsnprintf(why->text, sizeof(why->text), fmt, ap);
	va_end(ap);
	return false;
}

static void *new_zeroed(size_t size)
{
	void *p = calloc(1, size);

	if (!p)
		abort();
	return p;
}

/* ---- fds */

static void drop_fd(struct model *m, struct named_fd *f, bool close_it)
{
	struct named_fd **at = &m->fds;

	while (*at != f)
		at = &(*at)->next;
	*at = f->next;
	if (close_it)
		close(f->fd);
	free(f);
}

static struct named_fd *find_named(const struct model *m, const char *name)
{
	struct named_fd *f = m->fds;

	while (f && (f->set >= 0 || strcmp(f->name, name) != 0))
		f = f->next;
	return f;
}

static struct named_fd *find_set(const struct model *m, int64_t set)
{
	struct named_fd *f = m->fds;

	while (f && f->set != set)
		f = f->next;
	return f;
}

static void keep_fd(struct model *m, const char *name, int64_t set, int fd)
{
	struct named_fd *f = new_zeroed(sizeof(*f));

	snprintf(f->name, sizeof(f->name), "%s", name);
	f->set = set;
	f->fd = fd;
	f->next = m->fds;
	m->fds = f;
}

bool model_getfd(struct model *m, const json_t *args, int take_fd, struct refusal *why)
{
	const char *name = text_of(args, "fdname");
	struct named_fd *old = find_named(m, name);

	if (take_fd < 0)
		return refuse(why, "GenericError", "No file descriptor supplied via SCM_RIGHTS");
	if (old)
		drop_fd(m, old, true);
	keep_fd(m, name, -1, take_fd);
	return true;
}

int model_take_fd(struct model *m, const char *name)
{
	struct named_fd *f = find_named(m, name);
	int fd = f ? f->fd : -1;

	if (f)
		drop_fd(m, f, false);
	return fd;
}

bool model_closefd(struct model *m, const json_t *args, struct refusal *why)
{
	struct named_fd *f = find_named(m, text_of(args, "fdname"));

	if (!f)
		return refuse(why, "GenericError", "File descriptor named '%s' not found", text_of(args, "fdname"));
	drop_fd(m, f, true);
	return true;
}

bool model_add_fd(struct model *m, int64_t set, int take_fd, struct refusal *why)
{
	if (take_fd < 0)
		return refuse(why, "GenericError", "No file descriptor supplied via SCM_RIGHTS");
	keep_fd(m, "", set, take_fd);
	return true;
}

bool model_remove_fd(struct model *m, const json_t *args, struct refusal *why)
{
	int64_t set = json_integer_value(json_object_get(args, "fdset-id"));
	struct named_fd *f = find_set(m, set);

	if (!f)
		return refuse(why, "GenericError", "File descriptor named 'fdset-id:%" PRId64 "' not found", set);
	while (f) {
		drop_fd(m, f, true);
		f = find_set(m, set);
	}
	return true;
}

/* ---- block nodes and netdevs */

static struct node *find_node(const struct model *m, const char *name)
{
	struct node *n = m->nodes;

	while (n && strcmp(n->name, name) != 0)
		n = n->next;
	return n;
}

/* Every "filename" of the node and those below must be an fd set that is there. */
static bool check_files(const struct model *m, const json_t *o, uint64_t *ret_size, struct refusal *why)
{
	const char *name = text_of(o, "filename");
	const json_t *below;
	const struct named_fd *f;
	const char *key;
	struct stat st;
	int64_t set;

	if (*name) {
		f = sscanf(name, "/dev/fdset/%" SCNd64, &set) == 1 ? find_set(m, set) : NULL;
		if (!f || fstat(f->fd, &st) < 0)
			return refuse(why, "GenericError", "Could not open '%s': No such file or directory", name);
		*ret_size = (uint64_t)st.st_size;
	}
	json_object_foreach((json_t *)(uintptr_t)o, key,
			    below) if (json_is_object(below) && !check_files(m, below, ret_size, why)) return false;
	return true;
}

bool model_blockdev_add(struct model *m, const json_t *args, struct refusal *why)
{
	const char *name = text_of(args, "node-name");
	uint64_t size = 0;
	struct node *n;

	if (!*name)
		return refuse(why, "GenericError", "'node-name' must be specified for the root node");
	if (find_node(m, name))
		return refuse(why, "GenericError", "Duplicate nodes with node-name='%s'", name);
	if (!check_files(m, args, &size, why))
		return false;
	n = new_zeroed(sizeof(*n));
	snprintf(n->name, sizeof(n->name), "%s", name);
	snprintf(n->driver, sizeof(n->driver), "%s", text_of(args, "driver"));
	n->size_bytes = size;
	n->read_only = json_is_true(json_object_get(args, "read-only"));
	n->next = m->nodes;
	m->nodes = n;
	return true;
}

bool model_blockdev_del(struct model *m, const json_t *args, struct refusal *why)
{
	const char *name = text_of(args, "node-name");
	struct node *n = find_node(m, name), **at = &m->nodes;

	if (!n)
		return refuse(why, "GenericError", "Failed to find node with node-name='%s'", name);
	if (n->user[0])
		return refuse(why, "GenericError", "Node %s is in use", name);
	while (*at != n)
		at = &(*at)->next;
	*at = n->next;
	free(n);
	return true;
}

static struct netdev *find_netdev(const struct model *m, const char *id)
{
	struct netdev *n = m->netdevs;

	while (n && strcmp(n->id, id) != 0)
		n = n->next;
	return n;
}

/* On the command line "fd" is a number, later the name given to getfd. */
static bool take_tap(struct model *m, const char *name, int *ret_fd, struct refusal *why)
{
	struct named_fd *f = find_named(m, name);

	if (!m->hot) {
		*ret_fd = atoi(name);
		return true;
	}
	if (!f)
		return refuse(why, "GenericError", "File descriptor named '%s' has not been found", name);
	*ret_fd = f->fd;
	drop_fd(m, f, false);
	return true;
}

bool model_netdev_add(struct model *m, const json_t *args, struct refusal *why)
{
	const char *id = text_of(args, "id"), *type = text_of(args, "type");
	struct netdev *n;
	int fd = -1;

	if (find_netdev(m, id))
		return refuse(why, "GenericError", "Duplicate ID '%s' for netdev", id);
	if (strcmp(type, "user") != 0 && strcmp(type, "tap") != 0)
		return refuse(why, "GenericError", "Invalid parameter '%s'", type);
	if (strcmp(type, "tap") == 0 && !take_tap(m, text_of(args, "fd"), &fd, why))
		return false;
	n = new_zeroed(sizeof(*n));
	snprintf(n->id, sizeof(n->id), "%s", id);
	n->fd = fd;
	n->next = m->netdevs;
	m->netdevs = n;
	return true;
}

bool model_netdev_del(struct model *m, const json_t *args, struct refusal *why)
{
	const char *id = text_of(args, "id");
	struct netdev *n = find_netdev(m, id), **at = &m->netdevs;

	if (!n)
		return refuse(why, "DeviceNotFound", "Device '%s' not found", id);
	while (*at != n)
		at = &(*at)->next;
	*at = n->next;
	if (n->fd >= 0)
		close(n->fd);
	free(n);
	return true;
}

/* ---- devices */

static const char *const pci_drivers[] = {"virtio-blk-pci",    "virtio-net-pci",  "virtio-scsi-pci",
					  "virtio-serial-pci", "vhost-vsock-pci", "pcie-root-port"};

static bool is_pci_driver(const char *driver)
{
	for (size_t i = 0; i < sizeof(pci_drivers) / sizeof(pci_drivers[0]); i++)
		if (strcmp(pci_drivers[i], driver) == 0)
			return true;
	return false;
}

bool model_is_pci(const struct device *d)
{
	return is_pci_driver(d->driver);
}

struct device *model_find_device(const struct model *m, const char *id)
{
	struct device *d = m->devices;

	while (d && (!*id || strcmp(d->id, id) != 0))
		d = d->next;
	return d;
}

static int64_t slot_of(const json_t *args)
{
	const json_t *addr = json_object_get(args, "addr");
	unsigned slot, function = 0;

	if (json_is_integer(addr))
		return json_integer_value(addr) * 8;
	if (!json_is_string(addr) || sscanf(json_string_value(addr), "%x.%x", &slot, &function) < 1)
		return -1;
	return slot * 8 + function;
}

/* The bus the device wants: "pcie.0", a root port, a controller's bus. */
static bool check_bus(const struct model *m, const struct device *d, struct refusal *why)
{
	char controller[64];
	const char *dot = strrchr(d->bus, '.');

	if (strcmp(d->bus, "pcie.0") == 0)
		return true;
	snprintf(controller, sizeof(controller), "%.*s", (int)(dot ? dot - d->bus : (int)strlen(d->bus)), d->bus);
	if (!*d->bus || !model_find_device(m, controller))
		return refuse(why, "GenericError", "Bus '%s' not found", d->bus);
	return true;
}

static bool collides(const struct device *a, const struct device *b)
{
	if (strcmp(a->bus, b->bus) != 0)
		return false;
	if (a->lun >= 0 || b->lun >= 0)
		return a->lun == b->lun;
	return a->addr < 0 || b->addr < 0 || a->addr == b->addr;
}

static bool check_place(const struct model *m, const struct device *d, struct refusal *why)
{
	for (const struct device *other = m->devices; other; other = other->next) {
		if (strcmp(d->driver, "virtserialport") == 0 || !collides(d, other))
			continue;
		if (d->lun >= 0)
			return refuse(why, "GenericError", "lun already used by '%s'", other->id);
		return refuse(why, "GenericError",
			      "PCI: slot %" PRId64 " function 0 not available for %s, in use by %s,id=%s",
			      d->addr < 0 ? 0 : d->addr / 8, d->driver, other->driver, other->id);
	}
	return true;
}

static bool check_backend(const struct model *m, const struct device *d, struct refusal *why)
{
	const struct node *n = find_node(m, d->drive);

	if (*d->drive && !n)
		return refuse(why, "GenericError", "Property '%s.drive' can't find value '%s'", d->driver, d->drive);
	if (n && n->user[0])
		return refuse(why, "GenericError", "Drive '%s' is already in use by another block backend", d->drive);
	if (*d->netdev && !find_netdev(m, d->netdev))
		return refuse(why, "GenericError", "Property '%s.netdev' can't find value '%s'", d->driver, d->netdev);
	return true;
}

static void set_guest_address(const struct model *m, struct device *d)
{
	const struct device *port = model_find_device(m, d->bus);

	if (d->lun >= 0)
		snprintf(d->pci_path, sizeof(d->pci_path), "0:%d", (int)d->lun);
	else if (port && port->addr >= 0 && port->addr % 8)
		snprintf(d->pci_path, sizeof(d->pci_path), "%02x.%x/00", (unsigned)port->addr / 8,
			 (unsigned)port->addr % 8);
	else if (port && port->addr >= 0)
		snprintf(d->pci_path, sizeof(d->pci_path), "%02x/00", (unsigned)port->addr / 8);
	else if (d->addr >= 0)
		snprintf(d->pci_path, sizeof(d->pci_path), "%02x", (unsigned)d->addr / 8);
}

static struct device *new_device(const json_t *args)
{
	struct device *d = new_zeroed(sizeof(*d));
	const json_t *lun = json_object_get(args, "lun");

	snprintf(d->id, sizeof(d->id), "%s", text_of(args, "id"));
	snprintf(d->driver, sizeof(d->driver), "%s", text_of(args, "driver"));
	snprintf(d->bus, sizeof(d->bus), "%s", text_of(args, "bus"));
	snprintf(d->drive, sizeof(d->drive), "%s", text_of(args, "drive"));
	snprintf(d->netdev, sizeof(d->netdev), "%s", text_of(args, "netdev"));
	snprintf(d->mac, sizeof(d->mac), "%s", text_of(args, "mac"));
	d->addr = slot_of(args);
	d->lun = lun ? json_integer_value(lun) : -1;
	return d;
}

static bool check_device(const struct model *m, const struct device *d, struct refusal *why)
{
	if (!is_pci_driver(d->driver) && strcmp(d->driver, "scsi-hd") != 0 && strcmp(d->driver, "virtserialport") != 0)
		return refuse(why, "GenericError", "'%s' is not a valid device model name", d->driver);
	if (model_find_device(m, d->id))
		return refuse(why, "GenericError", "Duplicate device ID '%s'", d->id);
	if (m->hot && is_pci_driver(d->driver) && strcmp(d->bus, "pcie.0") == 0)
		return refuse(why, "GenericError", "Bus 'pcie.0' does not support hotplugging");
	return check_bus(m, d, why) && check_place(m, d, why) && check_backend(m, d, why);
}

bool model_device_add(struct model *m, const json_t *args, struct refusal *why)
{
	struct device *d = new_device(args);
	struct node *n;
	struct netdev *net;

	if (!check_device(m, d, why)) {
		free(d);
		return false;
	}
	n = find_node(m, d->drive);
	if (n)
		snprintf(n->user, sizeof(n->user), "%s", d->id);
	net = find_netdev(m, d->netdev);
	if (net)
		snprintf(net->user, sizeof(net->user), "%s", d->id);
	set_guest_address(m, d);
	d->next = m->devices;
	m->devices = d;
	return true;
}

bool model_device_del(struct model *m, const json_t *args, struct refusal *why)
{
	const char *id = text_of(args, "id");
	struct device *d = model_find_device(m, id);

	if (!d)
		return refuse(why, "DeviceNotFound", "Device '%s' not found", id);
	if (d->unplugging)
		return refuse(why, "GenericError", "Device %s is already in the process of unplug", id);
	d->unplugging = true;
	return true;
}

void model_device_remove(struct model *m, struct device *d)
{
	struct node *n = find_node(m, d->drive);
	struct netdev *net = find_netdev(m, d->netdev);
	struct device **at = &m->devices;

	if (n)
		n->user[0] = 0;
	if (net)
		net->user[0] = 0;
	while (*at != d)
		at = &(*at)->next;
	*at = d->next;
	free(d);
}

/* ---- as the guest sees it */

static bool fits(const struct device *d, const char *kind, const char *address)
{
	if (strcmp(kind, "blk") == 0)
		return strcmp(d->driver, "virtio-blk-pci") == 0 && strcasecmp(d->pci_path, address) == 0;
	if (strcmp(kind, "scsi") == 0)
		return strcmp(d->driver, "scsi-hd") == 0 && strcmp(d->pci_path, address) == 0;
	return strcmp(kind, "net") == 0 && strcmp(d->driver, "virtio-net-pci") == 0 && strcasecmp(d->mac, address) == 0;
}

bool model_guest_find(const struct model *m, const char *kind, const char *address, char ret_name[32],
		      uint64_t *ret_size)
{
	const struct node *n;
	unsigned index = 0;

	for (const struct device *d = m->devices; d; d = d->next, index++) {
		if (!fits(d, kind, address))
			continue;
		n = find_node(m, d->drive);
		*ret_size = n ? n->size_bytes : 0;
		snprintf(ret_name, 32, "%s%u", strcmp(kind, "net") == 0 ? "eth" : kind, index);
		return true;
	}
	return false;
}
