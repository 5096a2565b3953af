/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/channel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/device_wait.h"
#include "guest/kmsg.h"
#include "guest/text_file.h"

#define PORTS SYS "/class/virtio-ports"
#define VSOCK_DRIVER SYS "/bus/virtio/drivers/vmw_vsock_virtio_transport"

static bool port_is_open;

static bool is_ours(const char *port)
{
	KATA_AUTO(free) char *name = NULL;
	char path[320];

	snprintf(path, sizeof(path), PORTS "/%.200s/name", port);
	name = text_file_read_line(path);
	return name && strcmp(name, CHANNEL_PORT_NAME) == 0;
}

static void open_port(struct guest *guest, const char *port)
{
	kata_error *err = NULL;
	char path[320];
	int fd;

	snprintf(path, sizeof(path), "/dev/%.200s", port);
	fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0) {
		kmsg_error("cannot open %s: %s", path, strerror(errno));
		return;
	}
	if (rpc_add(guest->rpc, fd, true, &err) != 0) {
		kmsg_error("channel: %s", kata_error_get_message(err));
		kata_error_free(err);
		return;
	}
	port_is_open = true;
}

static void look_for_port(void *user, const char *action, const char *devpath)
{
	DIR *d = port_is_open ? NULL : opendir(PORTS);
	struct dirent *e;

	while (d && !port_is_open && (e = readdir(d)))
		if (e->d_name[0] != '.' && is_ours(e->d_name))
			open_port(user, e->d_name);
	if (d)
		closedir(d);
}

int channel_begin(struct guest *guest, kata_error **err)
{
	int rc = device_waits_subscribe(guest->waits, "virtio-ports", look_for_port, guest, err);

	if (rc == 0)
		look_for_port(guest, "", "");
	return rc;
}

/* ---- vsock */

static int listen_fd = -1;

static void on_vsock(void *user, uint32_t events)
{
	struct guest *guest = user;
	int fd;

	while ((fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		kata_error *err = NULL;

		if (rpc_add(guest->rpc, fd, false, &err) != 0)
			kmsg_error("vsock: %s", kata_error_get_message(err));
		kata_error_free(err);
	}
}

static bool has_vsock_device(void)
{
	DIR *d = opendir(VSOCK_DRIVER);
	struct dirent *e;
	bool has = false;

	while (d && !has && (e = readdir(d)))
		has = strncmp(e->d_name, "virtio", 6) == 0;
	if (d)
		closedir(d);
	return has;
}

int channel_listen_vsock(struct guest *guest, kata_error **err)
{
	struct sockaddr_vm addr = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = CHANNEL_VSOCK_PORT};
	struct kata__watch *watch;

	if (listen_fd >= 0 || !has_vsock_device())
		return 0;
	listen_fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (listen_fd < 0 || bind(listen_fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 || listen(listen_fd, 8) != 0)
		return kata__fail_errno(err, errno, "cannot listen on vsock port %d", CHANNEL_VSOCK_PORT);
	return kata__watch_add(guest->loop, listen_fd, EPOLLIN, on_vsock, guest, &watch, err);
}
