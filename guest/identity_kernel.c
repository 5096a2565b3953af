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
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "guest/device.h"
#include "guest/guest.h"
#include "guest/identity.h"
#include "guest/kmsg.h"
#include "guest/network.h"
#include "guest/text_file.h"

#define MACHINE_ID_FILE "/etc/machine-id"
#define NO_MACHINE_ID "00000000000000000000000000000000"
#define PRODUCT_UUID SYS "/class/dmi/id/product_uuid"

#define MACHINE_ID_LENGTH 32

/*
 * What is to be had at once when a call comes: prepared on a worker, or by the loop's thread where a call comes before;
 * once set it stays. The file is written through a mapping: a copy of 32 bytes is all that a clone pays for it.
 */
static _Atomic int random_fd = -1;
static char *_Atomic machine_id;

static int open_random(void)
{
	int fd = atomic_load(&random_fd), none = -1;

	if (fd >= 0)
		return fd;
	fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	if (fd >= 0 && !atomic_compare_exchange_strong(&random_fd, &none, fd)) {
		close(fd);
		return none;
	}
	return fd < 0 ? -errno : fd;
}

static int map_machine_id(char **ret)
{
	KATA_AUTO_FD int fd = -1;
	char *map = atomic_load(&machine_id), *none = NULL;
	struct stat st;

	*ret = map;
	if (map)
		return 0;
	fd = open(MACHINE_ID_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0444);
	if (fd < 0 || fstat(fd, &st) != 0)
		return -errno;
	if (st.st_size != MACHINE_ID_LENGTH + 1 && pwrite(fd, NO_MACHINE_ID "\n", MACHINE_ID_LENGTH + 1, 0) < 0)
		return -errno;
	map = mmap(NULL, MACHINE_ID_LENGTH + 1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	if (!atomic_compare_exchange_strong(&machine_id, &none, map)) {
		munmap(map, MACHINE_ID_LENGTH + 1);
		map = none;
	}
	*ret = map;
	return 0;
}

/* Not on the stack, which would have to grow for it. The loop's thread alone uses it. */
static struct {
	struct rand_pool_info info;
	uint8_t bytes[IDENTITY_ENTROPY_MAX];
} pool;

int identity_add_entropy(const void *bytes, size_t len)
{
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

static int set_machine_id(const char *id)
{
	char *map;
	int rc = map_machine_id(&map);

	if (rc == 0)
		memcpy(map, id, MACHINE_ID_LENGTH);
	return rc;
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

/* The UUID without its dashes, in lower case: as systemd has it in a machine that has no other. A random one where the
 * machine has no UUID. */
static void write_first_machine_id(char *map)
{
	KATA_AUTO(free) char *uuid = text_file_read_line(PRODUCT_UUID);
	char random[37];
	size_t n = 0;

	kata__uuid_generate(random);
	for (const char *p = uuid ? uuid : random; *p && n < MACHINE_ID_LENGTH; p++)
		if (*p != '-')
			map[n++] = *p >= 'A' && *p <= 'F' ? (char)(*p | 0x20) : *p;
}

void identity_prepare(void)
{
	struct timespec now;
	char *map;

	if (open_random() < 0 || map_machine_id(&map) != 0)
		kmsg_error("identity: %s", strerror(errno));
	else if (memcmp(map, NO_MACHINE_ID, MACHINE_ID_LENGTH) == 0)
		write_first_machine_id(map);
	/* These pages are there from now on. */
	clock_gettime(CLOCK_REALTIME, &now);
	for (size_t i = 0; i < sizeof(pool.bytes); i += 1024)
		((volatile uint8_t *)pool.bytes)[i] = 0;
}
