/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_LEFT_H
#define KATA_FACTORY_LEFT_H
/* What dead factories leave in files, for recovery. A lock that is free says that whoever made it is dead. Blocking. */
#include "base/error.h"

/* Files and directories of makings in a template's directory that nobody is at; 0 also where it is no template's
 * directory, or not ours alone. */
size_t kata__template_count_left(const char *path);
/* Removes them. BUSY: somebody makes it just now. */
int kata__template_remove_left(const char *path, kata_error **err);

/* At `path` is the socket of a server that is dead, or its lock alone: see server.c. */
bool kata__server_is_left(const char *path);
int kata__server_remove_left(const char *path, kata_error **err); /* BUSY: another serves there just now */
#endif
