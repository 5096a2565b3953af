/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of kinds. What has no row needs none: taps are not persistent and go with the last fd that holds them,
 * QEMU's included; a QEMU that is asked what it can do is killed by the kernel with the thread that waits for it;
 * nothing is mounted; sockets, logs and journals of a machine lie in its directory. docs/recovery.md says the same to
 * users.
 */
#include "recover/recover.h"

const struct kata__kind *const kata__recover_kinds[] = {
	&kata__recover_vm,
	&kata__recover_process,
	&kata__recover_snapshot,
	&kata__recover_template,
	&kata__recover_socket,
	&kata__recover_sandbox,
	&kata__recover_reservation,
	&kata__recover_pooled_row,
	&kata__recover_template_row,
	&kata__recover_snapshot_row,
	NULL,
};
