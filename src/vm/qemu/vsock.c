/* SPDX-License-Identifier: Apache-2.0 */
/* vsock.c - see vsock.h. CIDs are drawn at random: numbers that count up collide with those of other programs. */
#include "vm/qemu/vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>
/* after sys/socket.h */
#include <linux/vm_sockets.h>

#include "base/fd.h"

#define FIRST_CID 3u
#define LAST_CID 0x7fffffffu
#define TRIES 64

bool kata__qemu_vsock_is_there(void)
{
	return access(KATA__QEMU_VSOCK_DEVICE, R_OK | W_OK) == 0;
}

static int claim(int fd, unsigned *ret_cid, kata_error **err)
{
	for (int i = 0; i < TRIES; i++) {
		uint32_t random;
		uint64_t cid;

		if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
			return kata__fail_errno(err, errno, "no random number for a CID");
		cid = FIRST_CID + random % (LAST_CID - FIRST_CID);
		if (ioctl(fd, VHOST_VSOCK_SET_GUEST_CID, &cid) == 0) {
			*ret_cid = (unsigned)cid;
			return 0;
		}
		if (errno != EADDRINUSE)
			return kata__fail_errno(err, errno, KATA__QEMU_VSOCK_DEVICE " takes no CID");
	}
	return kata__fail(err, KATA_E_EXHAUSTED, HOST, "of %d random vsock CIDs all are in use", TRIES);
}

int kata__qemu_vsock_open(unsigned *ret_cid, int *ret_fd, kata_error **err)
{
	KATA_AUTO_FD int fd = open(KATA__QEMU_VSOCK_DEVICE, O_RDWR | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return kata__fail_errno(err, errno, "cannot open " KATA__QEMU_VSOCK_DEVICE);
	rc = claim(fd, ret_cid, err);
	if (!rc)
		*ret_fd = kata__take_fd(&fd);
	return rc;
}

int kata__qemu_vsock_connect(unsigned cid, int *ret_fd, kata_error **err)
{
	const struct sockaddr_vm addr = {
		.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = KATA__QEMU_VSOCK_AGENT_PORT};
	KATA_AUTO_FD int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return kata__fail_errno(err, errno, "no vsock socket");
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) && errno != EINPROGRESS)
		return kata__fail(err, KATA_E_GONE, GUEST, "nobody listens at vsock %u port %u", cid,
				  KATA__QEMU_VSOCK_AGENT_PORT);
	*ret_fd = kata__take_fd(&fd);
	return 0;
}
