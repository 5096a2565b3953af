/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmdline.c - see cmdline.h.
 *
 * Options that QEMU 7.2 reads as key=value lists only (-machine, -smp, -m, -chardev, -name, -add-fd) get numbers and
 * names of our own or from a safe alphabet; all others get JSON.
 */
#include "vm/qemu/cmdline.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "vm/vm.h"

#define FIRST_CHILD_FD 3
/* What QEMU names the RAM of a q35 machine that has no file: so a saved state does not depend on where it was. */
#define RAM "pc.ram"

/* ---- the two lists */

static void push(struct kata__qemu_launch *l, char *take_text)
{
	if (take_text && l->argc + 2 > l->argv_alloc) {
		size_t n = l->argv_alloc ? l->argv_alloc * 2 : 64;
		char **v = realloc(l->argv, n * sizeof(*v));

		if (v) {
			l->argv = v;
			l->argv_alloc = n;
		}
	}
	if (!take_text || l->argc + 2 > l->argv_alloc) {
		l->out_of_memory = true;
		free(take_text);
		return;
	}
	l->argv[l->argc++] = take_text;
	l->argv[l->argc] = NULL;
}

static void option(struct kata__qemu_launch *l, const char *name, const char *fmt, ...) KATA__PRINTF(3, 4);
static void option(struct kata__qemu_launch *l, const char *name, const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;

	push(l, kata__strdup(name));
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	push(l, text);
}

static void flag(struct kata__qemu_launch *l, const char *name)
{
	push(l, kata__strdup(name));
}

static void json_option(struct kata__qemu_launch *l, const char *name, json_t *take_o)
{
	push(l, kata__strdup(name));
	push(l, take_o ? kata__json_dump(take_o) : NULL);
	json_decref(take_o);
}

static int pass_as(struct kata__qemu_launch *l, int parent_fd, int child_fd)
{
	if (l->fd_count == l->fd_alloc) {
		size_t n = l->fd_alloc ? l->fd_alloc * 2 : 16;
		struct kata__fd_map *v = realloc(l->fds, n * sizeof(*v));

		if (!v) {
			l->out_of_memory = true;
			return -1;
		}
		l->fds = v;
		l->fd_alloc = n;
	}
	l->fds[l->fd_count++] = (struct kata__fd_map){.parent_fd = parent_fd, .child_fd = child_fd};
	return child_fd;
}

/* The number the child knows the fd by. The log is mapped first, to 2. */
static int pass(struct kata__qemu_launch *l, int parent_fd)
{
	return pass_as(l, parent_fd, FIRST_CHILD_FD - 1 + (int)l->fd_count);
}

void kata__qemu_launch_deinit(struct kata__qemu_launch *l)
{
	for (size_t i = 0; i < l->argc; i++)
		free(l->argv[i]);
	free(l->argv);
	free(l->fds);
	*l = (struct kata__qemu_launch){0};
}

/* ---- kernel parameters */

static const char *const own_params[] = {
	"console=ttyS0",
	"quiet",
	"panic=-1",
	"reboot=k",
	"tsc=reliable",
	"no_timer_check",
	"noreplace-smp",
	"cryptomgr.notests",
	"random.trust_cpu=on",
	"rcupdate.rcu_expedited=1",
	"i8042.nopnp=1",
	"i8042.noaux=1",
	"i8042.dumbkbd=1",
	"8250.nr_uarts=1",
	"net.ifnames=0",
};

static void append_param(char *at, size_t room, size_t *len, const char *param)
{
	int n = snprintf(*len < room ? at + *len : NULL, *len < room ? room - *len : 0, "%s%s", *len ? " " : "", param);

	*len += (size_t)n;
}

int kata__qemu_kernel_cmdline(const kata_vm_config *config, bool kvm, char **ret, kata_error **err)
{
	char text[KATA__QEMU_KERNEL_CMDLINE_MAX + 1] = "";
	size_t len = 0;

	for (size_t i = 0; i < kata__array_size(own_params); i++)
		append_param(text, sizeof(text), &len, own_params[i]);
	if (config->image)
		append_param(text, sizeof(text), &len, "root=/dev/vda ro rootwait");
	for (size_t i = 0; config->kernel_params && config->kernel_params[i]; i++)
		append_param(text, sizeof(text), &len, config->kernel_params[i]);
	(void)kvm;
	if (len >= sizeof(text))
		return kata__fail(
			err, KATA_E_INVALID, CALLER,
			"vm_config.kernel_params: with the library's own they take %zu bytes, x86 kernels read %u", len,
			KATA__QEMU_KERNEL_CMDLINE_MAX);
	*ret = kata__strdup(text);
	return *ret ? 0 : kata__fail_no_memory(err);
}

/* ---- parts */

static void add_machine(struct kata__qemu_launch *l, const struct kata__qemu_boot *b)
{
	const kata_vm_config *c = b->config;

	option(l, "-name", "%s", b->id);
	option(l, "-uuid", "%s", b->uuid);
	option(l, "-machine", "%s,accel=%s,usb=off,vmport=off,sata=off,smbus=off%s", b->machine, b->kvm ? "kvm" : "tcg",
	       b->memory_fd >= 0 ? ",memory-backend=" RAM : "");
	option(l, "-cpu", "%s", b->kvm ? "host" : "max");
	option(l, "-smp", "cpus=%" PRIu32 ",maxcpus=%" PRIu32, c->cpus, c->cpus_max);
	if (c->memory_max_mib > c->memory_mib && c->memory_slots)
		option(l, "-m", "size=%" PRIu64 "M,slots=%" PRIu32 ",maxmem=%" PRIu64 "M", c->memory_mib,
		       c->memory_slots, c->memory_max_mib);
	else
		option(l, "-m", "size=%" PRIu64 "M", c->memory_mib);
}

static void add_memory_file(struct kata__qemu_launch *l, const struct kata__qemu_boot *b)
{
	char path[32];

	if (b->memory_fd < 0)
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", pass(l, b->memory_fd));
	json_option(l, "-object",
		    json_pack("{s:s, s:s, s:I, s:s, s:b}", "qom-type", "memory-backend-file", "id", RAM, "size",
			      (json_int_t)(b->config->memory_mib << 20), "mem-path", path, "share",
			      (int)b->config->memory_shared));
}

static void add_hardening(struct kata__qemu_launch *l, bool incoming)
{
	flag(l, "-nodefaults");
	flag(l, "-no-user-config");
	option(l, "-display", "none");
	flag(l, "-no-reboot");
	option(l, "-sandbox", "%s", KATA__QEMU_SANDBOX);
	flag(l, "-S");
	if (incoming)
		option(l, "-incoming", "defer");
}

static void add_chardev(struct kata__qemu_launch *l, const char *id, int parent_fd)
{
	option(l, "-chardev", "socket,id=%s,fd=%d,server=on,wait=off", id, pass(l, parent_fd));
}

static void add_channels(struct kata__qemu_launch *l, const struct kata__qemu_boot *b)
{
	add_chardev(l, "qmp", b->qmp_fd);
	option(l, "-mon", "chardev=qmp,mode=control");
	add_chardev(l, "console", b->console_fd);
	option(l, "-serial", "chardev:console");
	if (b->agent_vsock) {
		char fd[16];

		snprintf(fd, sizeof(fd), "%d", pass(l, b->vsock_fd));
		json_option(l, "-device",
			    json_pack("{s:s, s:s, s:s, s:I, s:s}", "driver", "vhost-vsock-pci", "bus", "pcie.0", "addr",
				      "4", "guest-cid", (json_int_t)b->vsock_cid, "vhostfd", fd));
		return;
	}
	add_chardev(l, "agent", b->agent_fd);
	json_option(l, "-device",
		    json_pack("{s:s, s:s, s:s, s:s, s:i}", "driver", "virtio-serial-pci", "id", "serial0", "bus",
			      "pcie.0", "addr", "1", "max_ports", 2));
	json_option(l, "-device",
		    json_pack("{s:s, s:s, s:i, s:s, s:s}", "driver", "virtserialport", "bus", "serial0.0", "nr", 1,
			      "chardev", "agent", "name", KATA__QEMU_AGENT_PORT));
}

static void add_kernel(struct kata__qemu_launch *l, const struct kata__qemu_boot *b, char *take_params)
{
	option(l, "-kernel", "/proc/self/fd/%d", pass(l, b->kernel_fd));
	if (b->initrd_fd >= 0)
		option(l, "-initrd", "/proc/self/fd/%d", pass(l, b->initrd_fd));
	push(l, kata__strdup("-append"));
	push(l, take_params);
}

static void add_fd_set(struct kata__qemu_launch *l, int parent_fd, unsigned set)
{
	option(l, "-add-fd", "fd=%d,set=%u", pass(l, parent_fd), set);
}

/* The root disk is not one of the caller's devices: it has a place of its own and stays. */
static void add_image(struct kata__qemu_launch *l, const struct kata__qemu_boot *b)
{
	if (b->image_fd < 0)
		return;
	add_fd_set(l, b->image_fd, 1);
	json_option(l, "-blockdev",
		    json_pack("{s:s, s:s, s:s, s:b}", "driver", "file", "node-name", "image", "filename",
			      "/dev/fdset/1", "read-only", 1));
	json_option(l, "-device",
		    json_pack("{s:s, s:s, s:s, s:s, s:s}", "driver", "virtio-blk-pci", "id", "image", "bus", "pcie.0",
			      "addr", "3", "drive", "image"));
}

static bool shares_slot(int port, uint32_t count)
{
	char mine[16], other[16];

	kata__vm_port_address(port, mine);
	for (uint32_t i = 0; i < count; i++) {
		kata__vm_port_address((int)i, other);
		if ((int)i != port && strncmp(mine, other, 2) == 0)
			return true;
	}
	return false;
}

static void add_buses(struct kata__qemu_launch *l, const struct kata__qemu_boot *b)
{
	json_option(l, "-device",
		    json_pack("{s:s, s:s, s:s, s:s}", "driver", "virtio-scsi-pci", "id", "scsi0", "bus", "pcie.0",
			      "addr", "2"));
	for (uint32_t i = 0; i < b->config->device_slots; i++)
		json_option(l, "-device", kata__qemu_port_device((int)i, shares_slot((int)i, b->config->device_slots)));
}

static void add_cold_storage(struct kata__qemu_launch *l, const struct kata__qemu_cold *d)
{
	unsigned set = kata__qemu_fd_set(d->storage, d->slot);

	add_fd_set(l, d->fd, set);
	if (d->backing_fd >= 0)
		add_fd_set(l, d->backing_fd, set + 1);
	json_option(l, "-blockdev",
		    kata__qemu_blockdev(d->storage, d->slot, d->fd_is_block_device, d->backing_is_block_device));
	json_option(l, "-device", kata__qemu_storage_device(d->storage, d->slot));
}

static void add_cold_nic(struct kata__qemu_launch *l, const struct kata__qemu_cold *d)
{
	char fd[16] = "";

	if (d->fd >= 0)
		snprintf(fd, sizeof(fd), "%d", pass(l, d->fd));
	json_option(l, "-netdev", kata__qemu_netdev(d->nic, d->slot, fd));
	json_option(l, "-device", kata__qemu_nic_device(d->nic, d->slot));
}

int kata__qemu_launch_make(const struct kata__qemu_boot *b, struct kata__qemu_launch *ret, kata_error **err)
{
	struct kata__qemu_launch l = {0};
	char *params = NULL;
	int rc = kata__qemu_kernel_cmdline(b->config, b->kvm, &params, err);

	if (rc)
		return rc;
	pass_as(&l, b->log_fd, 2);
	push(&l, kata__strdup(b->binary));
	add_machine(&l, b);
	add_memory_file(&l, b);
	add_hardening(&l, b->incoming);
	add_channels(&l, b);
	add_kernel(&l, b, params);
	add_image(&l, b);
	add_buses(&l, b);
	for (const struct kata__qemu_cold *d = b->devices; d; d = d->next) {
		if (d->storage)
			add_cold_storage(&l, d);
		else
			add_cold_nic(&l, d);
	}
	if (l.out_of_memory) {
		kata__qemu_launch_deinit(&l);
		return kata__fail_no_memory(err);
	}
	*ret = l;
	return 0;
}
