/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of an identity as this machine's kernel has them.
 *
 * Entropy: a write to /dev/urandom would be mixed in, yet change no output before the next reseeding, which may be a
 * minute away. So the bytes are credited, which seeds a kernel that has no seed yet, and the reseeding is asked for: it
 * invalidates the keys of all CPUs at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "guest/device.h"
#include "guest/guest.h"
#include "guest/identity.h"
#include "guest/kmsg.h"
#include "guest/network.h"
#include "guest/text_file.h"

#define MACHINE_ID_FILE "/etc/machine-id"
#define PRODUCT_UUID SYS "/class/dmi/id/product_uuid"

/* Opened by identity_prepare() on a worker, or by the loop's thread where a call comes before: once set they stay. */
static _Atomic int random_fd = -1, machine_id_fd = -1;

static int keep(_Atomic int *slot, int fd)
{
	int none = -1;

	if (fd >= 0 && !atomic_compare_exchange_strong(slot, &none, fd))
		close(fd);
	return fd < 0 ? -errno : atomic_load(slot);
}

static int open_random(void)
{
	int fd = atomic_load(&random_fd);

	return fd >= 0 ? fd : keep(&random_fd, open("/dev/urandom", O_RDWR | O_CLOEXEC));
}

static int open_machine_id(void)
{
	int fd = atomic_load(&machine_id_fd);

	return fd >= 0 ? fd
		       : keep(&machine_id_fd, open(MACHINE_ID_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0444));
}

int identity_add_entropy(const void *bytes, size_t len)
{
	struct {
		struct rand_pool_info info;
		uint8_t bytes[IDENTITY_ENTROPY_MAX];
	} pool;
	int fd = open_random();

	if (fd < 0)
		return fd;
	pool.info.entropy_count = (int)len * 8;
	pool.info.buf_size = (int)len;
	memcpy(pool.bytes, bytes, len);
	return ioctl(fd, RNDADDENTROPY, &pool) != 0 || ioctl(fd, RNDRESEEDCRNG) != 0 ? -errno : 0;
}

static int set_clock(int64_t seconds, int64_t microseconds)
{
	struct timespec t = {.tv_sec = seconds, .tv_nsec = (long)microseconds * 1000};

	return clock_settime(CLOCK_REALTIME, &t) == 0 ? 0 : -errno;
}

static int set_hostname(const char *name)
{
	return sethostname(name, strlen(name)) == 0 ? 0 : -errno;
}

/* One write of what always has the same length: a reader sees the old one or the new one. */
static int set_machine_id(const char *id)
{
	char line[34];
	int fd = open_machine_id();

	if (fd < 0)
		return fd;
	snprintf(line, sizeof(line), "%.32s\n", id);
	return pwrite(fd, line, 33, 0) == 33 ? 0 : -errno;
}

static int set_mac(const char *pci_path, const uint8_t mac[6])
{
	char name[DEVICE_NAME_MAX];

	return device_find(SYS, DEVICE_NET, pci_path, name) ? network_set_mac(name, mac) : -ENODEV;
}

const struct identity_ops identity_kernel = {
	.add_entropy = identity_add_entropy,
	.set_clock = set_clock,
	.set_hostname = set_hostname,
	.set_machine_id = set_machine_id,
	.set_mac = set_mac,
};

/* The UUID without its dashes, in lower case: as systemd has it in a machine that has no other. */
static void write_first_machine_id(void)
{
	KATA_AUTO(free) char *uuid = text_file_read_line(PRODUCT_UUID);
	char id[33];
	size_t n = 0;

	for (const char *p = uuid ? uuid : ""; *p && n < 32; p++)
		if (*p != '-')
			id[n++] = *p >= 'A' && *p <= 'F' ? (char)(*p | 0x20) : *p;
	id[n] = '\0';
	if (n == 32)
		set_machine_id(id);
}

void identity_prepare(void)
{
	bool is_new = access(MACHINE_ID_FILE, F_OK) != 0;

	if (open_random() < 0 || open_machine_id() < 0)
		kmsg_error("identity: %s", strerror(errno));
	else if (is_new)
		write_first_machine_id();
}
