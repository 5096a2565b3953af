/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_COPY_FILE_H
#define KATA_GUEST_COPY_FILE_H
/*
 * CopyFile: a file of the host's, in pieces. A regular file grows beside its place, as PATH with its extension replaced
 * by "tmp", and moves there when it has the size that the request names; piece 0 begins it anew. Directories and
 * symbolic links come in one piece.
 */
#include "agent.pb-c.h"
#include "base/error.h"

#define COPY_FILE_ROOT "/run/kata-containers/shared/containers"

/* `root` is COPY_FILE_ROOT; nothing outside is touched: a path with "..", or through a symbolic link, is refused. */
int copy_file(const char *root, const Grpc__CopyFileRequest *request, kata_error **err);
#endif
