/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taps: attach to a link that exists, or make one that goes with its last fd.
 *
 * Model: TUNSETIFF both attaches and makes. A tap it makes is not persistent, so every failure after it is undone by
 * closing the fd; of a tap that was there before, MTU and flags are put back. The link is set up by ioctls on a
 * datagram socket of the caller's network namespace. Security: a link that is no tap is never touched; the name was
 * checked when the NIC was made.
 */
#include "net/nic.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"

static void set_name(struct ifreq *r, const char *name)
{
	memset(r, 0, sizeof(*r));
	snprintf(r->ifr_name, sizeof(r->ifr_name), "%s", name);
}

/* Asked by ioctl, not in /sys: that shows the network namespace it was mounted in, not the caller's. */
static bool is_tun_device(const char *name)
{
	KATA_AUTO_FD int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
	struct ifreq r;

	set_name(&r, name);
	r.ifr_data = (char *)&info;
	return sock >= 0 && ioctl(sock, SIOCETHTOOL, &r) == 0 && strcmp(info.driver, "tun") == 0;
}

static int fail_permission(const char *name, bool existed, kata_error **err)
{
	int rc = kata__fail_errno(err, EPERM, "tap '%s' cannot be %s", name, existed ? "attached to" : "made");

	if (err)
		kata__error_set_hint(*err,
				     "it takes CAP_NET_ADMIN, or a tap made for this user (ip tuntap add %s mode "
				     "tap user $USER), or a NIC of type KATA_NIC_USER",
				     name);
	return rc;
}

static int fail_attach(const char *name, bool existed, int os_errno, kata_error **err)
{
	switch (os_errno) {
	case EBUSY:
		return kata__fail(err, KATA_E_BUSY, HOST, "tap '%s' is held by another process", name);
	case EINVAL:
		if (existed && !is_tun_device(name))
			return kata__fail(err, KATA_E_EXISTS, HOST, "'%s' is a link, but no tap: name another", name);
		if (existed)
			return kata__fail(err, KATA_E_EXISTS, HOST,
					  "'%s' is a tun, or a tap of several queues: one queue is needed", name);
		break;
	case EPERM:
		return fail_permission(name, existed, err);
	default:
		break;
	}
	return kata__fail_errno(err, os_errno, "tap '%s' cannot be %s", name, existed ? "attached to" : "made");
}

static int attach(int fd, const char *name, bool *ret_created, kata_error **err)
{
	bool existed = if_nametoindex(name) != 0;
	struct ifreq r;

	set_name(&r, name);
	r.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	if (ioctl(fd, TUNSETIFF, &r) < 0)
		return fail_attach(name, existed, errno, err);
	*ret_created = !existed;
	return 0;
}

/* What can be put back. */
struct link {
	int sock;
	const char *name;
	int mtu;
	short flags;
};

static int set_mtu(const struct link *l, int mtu)
{
	struct ifreq r;

	set_name(&r, l->name);
	r.ifr_mtu = mtu;
	return ioctl(l->sock, SIOCSIFMTU, &r);
}

static int set_flags(const struct link *l, short flags)
{
	struct ifreq r;

	set_name(&r, l->name);
	r.ifr_flags = flags;
	return ioctl(l->sock, SIOCSIFFLAGS, &r);
}

static int read_link(struct link *l, kata_error **err)
{
	struct ifreq r;

	set_name(&r, l->name);
	if (ioctl(l->sock, SIOCGIFMTU, &r) < 0)
		return kata__fail_errno(err, errno, "cannot read the MTU of tap '%s'", l->name);
	l->mtu = r.ifr_mtu;
	set_name(&r, l->name);
	if (ioctl(l->sock, SIOCGIFFLAGS, &r) < 0)
		return kata__fail_errno(err, errno, "cannot read the flags of tap '%s'", l->name);
	l->flags = r.ifr_flags;
	return 0;
}

static int open_link(const char *name, struct link *ret, kata_error **err)
{
	*ret = (struct link){.name = name, .sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
	return ret->sock < 0 ? kata__fail_errno(err, errno, "cannot open a socket to set up tap '%s'", name) : 0;
}

static int change(const struct link *l, uint32_t mtu, kata_error **err)
{
	int rc;

	if (l->mtu != (int)mtu && set_mtu(l, (int)mtu) < 0)
		return kata__fail_errno(err, errno, "tap '%s' does not take an MTU of %u", l->name, mtu);
	if ((l->flags & IFF_UP) || set_flags(l, (short)(l->flags | IFF_UP)) == 0)
		return 0;
	rc = kata__fail_errno(err, errno, "tap '%s' cannot be set up", l->name);
	set_mtu(l, l->mtu);
	return rc;
}

static int set_up(const char *name, uint32_t mtu, struct kata__tap_before *ret_before, kata_error **err)
{
	struct link l;
	int rc = open_link(name, &l, err);

	if (rc < 0)
		return rc;
	rc = read_link(&l, err);
	if (rc == 0)
		rc = change(&l, mtu, err);
	ret_before->mtu = l.mtu;
	ret_before->up = l.flags & IFF_UP;
	kata__close_fd(&l.sock);
	return rc;
}

int kata__tap_open(const char *name, uint32_t mtu, int *ret_fd, bool *ret_created, struct kata__tap_before *ret_before,
		   kata_error **err)
{
	KATA_AUTO_FD int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	struct kata__tap_before before = {0};
	bool created = false;
	int rc;

	if (fd < 0 && errno == ENOENT)
		return kata__fail(err, KATA_E_UNSUPPORTED, HOST,
				  "/dev/net/tun is not there: the kernel has no tun driver loaded");
	if (fd < 0)
		return kata__fail_errno(err, errno, "cannot open /dev/net/tun");
	rc = attach(fd, name, &created, err);
	if (rc == 0)
		rc = set_up(name, mtu, &before, err);
	if (rc < 0)
		return rc;
	before.existed = !created;
	if (ret_before)
		*ret_before = before;
	*ret_fd = kata__take_fd(&fd);
	*ret_created = created;
	return 0;
}

/* In the other order than it was done; both are tried. */
static int put_back(const struct link *l, const struct kata__tap_before *before, kata_error **err)
{
	int failed = 0;

	if (!before->up && (l->flags & IFF_UP) && set_flags(l, (short)(l->flags & ~IFF_UP)) < 0)
		failed = errno;
	if (l->mtu != before->mtu && set_mtu(l, before->mtu) < 0)
		failed = errno;
	return failed ? kata__fail_errno(err, failed, "tap '%s' cannot be put back as it was", l->name) : 0;
}

int kata__tap_undo(const char *name, int *fd, const struct kata__tap_before *before, kata_error **err)
{
	struct link l;
	int rc = 0;

	if (*fd >= 0 && before->existed) {
		rc = open_link(name, &l, err);
		if (rc == 0)
			rc = read_link(&l, err);
		if (rc == 0)
			rc = put_back(&l, before, err);
		kata__close_fd(&l.sock);
	}
	kata__close_fd(fd);
	return rc;
}
