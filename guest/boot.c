/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The root: the kernel refuses pivot_root, which crun needs, while the root is the initramfs, as that mount has no
 * parent. A bind mount of "/" moved over "/" is the same files, without a copy, on a mount that has one.
 */
#include "guest/boot.h"

#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/compiler.h"
#include "base/fd.h"
#include "guest/kmsg.h"
#include "guest/text_file.h"

struct early_mount {
	const char *type;
	const char *target;
	unsigned long flags;
	const char *data;
};

static const struct early_mount early_mounts[] = {
	{"devtmpfs", "/dev", MS_NOSUID, "mode=0755"},
	{"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"},
	{"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777"},
	{"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
	{"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
	{"cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate"},
};

static const char *const controllers[] = {"+cpuset", "+cpu", "+io", "+memory", "+pids"};

static void mount_early(void)
{
	for (size_t i = 0; i < kata__array_size(early_mounts); i++) {
		const struct early_mount *m = &early_mounts[i];

		mkdir(m->target, 0755);
		if (mount(m->type, m->target, m->type, m->flags, m->data) != 0)
			kmsg_error("cannot mount %s: %s", m->target, strerror(errno));
		if (i == 0)
			kmsg_open();
	}
}

static void leave_initramfs_root(void)
{
	mkdir("/newroot", 0755);
	if (mount("/", "/newroot", NULL, MS_BIND, NULL) != 0 || chdir("/newroot") != 0 ||
	    mount("/newroot", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
		kmsg_error("cannot leave the initramfs root: %s", strerror(errno));
}

static void write_text(const char *path, const char *text)
{
	int rc = text_file_write(path, text);

	if (rc < 0)
		kmsg_error("cannot write '%s' to %s: %s", text, path, strerror(-rc));
}

static void set_up_loopback(void)
{
	KATA_AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &r) != 0)
		kmsg_error("cannot bring up lo: %s", strerror(errno));
}

void boot_prepare(void)
{
	umask(022);
	leave_initramfs_root();
	mount_early();
	symlink("/proc/self/fd", "/dev/fd");
	symlink("/proc/self/fd/0", "/dev/stdin");
	symlink("/proc/self/fd/1", "/dev/stdout");
	symlink("/proc/self/fd/2", "/dev/stderr");
	write_text("/proc/sys/kernel/modprobe", "/sbin/modprobe");
	/* A thread that wakes twice a second to compact memory that nobody is short of. */
	write_text("/proc/sys/vm/compaction_proactiveness", "0");
	for (size_t i = 0; i < kata__array_size(controllers); i++)
		write_text("/sys/fs/cgroup/cgroup.subtree_control", controllers[i]);
	setrlimit(RLIMIT_NOFILE, &(struct rlimit){.rlim_cur = 65536, .rlim_max = 65536});
	set_up_loopback();
}

void boot_power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
