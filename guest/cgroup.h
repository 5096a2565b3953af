/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_CGROUP_H
#define KATA_GUEST_CGROUP_H
/* A container's control group (version 2), by its directory. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CGROUP_ROOT "/sys/fs/cgroup"

/* The directory of a process's group below `root`, by the text of /proc/PID/cgroup. False: no version 2 line, or the
 * root group itself. */
bool cgroup_path_of(const char *root, const char *proc_text, char *out, size_t size);
/* The same for a live process. */
bool cgroup_of_process(pid_t pid, char *out, size_t size);
/* Kills every process in it, frozen or not. 0 or -errno. */
int cgroup_kill(const char *dir);
/* The number in a file of one number ("max": UINT64_MAX); 0 when it cannot be read. */
uint64_t cgroup_read_number(const char *dir, const char *file);
/* The text of a file, malloc'ed; NULL when it cannot be read. */
char *cgroup_read_text(const char *dir, const char *file);
/* The value after "KEY " at the start of a line; 0 when there is none. */
uint64_t cgroup_text_number(const char *text, const char *key);
#endif
