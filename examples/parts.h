/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EXAMPLES_PARTS_H
#define EXAMPLES_PARTS_H
/* What the tour needs that is not libkata's job: disk images, OCI specs, reading lines. */
#include <stdbool.h>
#include <stddef.h>

/* An ext4 image at `path` with busybox in it, made by `mke2fs -d` from a directory below work_dir; needs no root. */
int make_rootfs(const char *work_dir, const char *path);
/* An empty qcow2 image of 64 MiB. */
int make_qcow2(const char *path);

/* An OCI runtime spec that runs `sh -c script` on the root file system `root` ("storage:<id>"); and the process alone.
 */
void container_spec(char *out, size_t size, const char *root, const char *script);
void process_spec(char *out, size_t size, const char *script, bool terminal);

/* Whether a process of that pid runs; one that has ended and waits for its parent to notice does not. */
bool is_running(long long pid);
/* One line without its end of line; -1 at end of file or after 60 s. */
int read_line(int fd, char *out, size_t size);
/* Says what did not come out as it should; returns -1. */
int unexpected(const char *what);
#endif
