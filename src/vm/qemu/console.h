/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_QEMU_CONSOLE_H
#define KATA_VM_QEMU_CONSOLE_H
/*
 * The guest's console as far as this handle has seen it: the last KATA__CONSOLE_MAX bytes. The guest may write as much
 * as it likes; what nobody keeps is dropped. Memory is taken as text comes.
 */
#include <pthread.h>

#include "base/loop.h"

#define KATA__CONSOLE_MAX 8192u

struct kata__console {
	pthread_mutex_t mutex; /* the ring */
	char *ring;
	size_t alloc, start, len;
	/* [leader] */
	int fd;
	struct kata__watch *watch;
};

void kata__console_init(struct kata__console *c);
void kata__console_deinit(struct kata__console *c);
/* [leader] Takes the socket, also on failure. */
int kata__console_attach(struct kata__console *c, struct kata__loop *loop, int take_fd, kata_error **err);
/* [leader] Reads what is left and lets go; what was seen stays. */
void kata__console_detach(struct kata__console *c);
/* [any thread] malloc'ed copy, NUL-terminated; NULL when empty or out of memory. */
char *kata__console_copy(struct kata__console *c, size_t *ret_len);
/* [any thread] */
void kata__console_append(struct kata__console *c, const char *data, size_t len);
#endif
