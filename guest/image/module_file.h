/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_IMAGE_MODULE_FILE_H
#define KATA_GUEST_IMAGE_MODULE_FILE_H
/* A kernel module's file below /lib/modules/VERSION of an unpacked kernel package, and what its .modinfo section says.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct module_file {
	uint8_t *data;
	size_t len; /* without the appended signature */
	const char *info;
	size_t info_len;
};

/* Prints "kata-image: " and the message to stderr and exits with 1. */
void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* The whole file in memory that the caller frees. Dies when it cannot be read. */
uint8_t *module_file_read(const char *path, size_t *ret_len);

/* Finds NAME.ko below dir/kernel, '-' and '_' being the same. False: there is none. Dies on a broken file. */
bool module_file_open(struct module_file *m, const char *dir, const char *name);
void module_file_close(struct module_file *m);

/* The next value of `key` in .modinfo after `previous` (NULL: the first), or NULL. Borrowed from m. */
const char *module_file_info(const struct module_file *m, const char *key, const char *previous);

/* True where dir/modules.builtin names it. */
bool module_dir_has_builtin(const char *dir, const char *name);
#endif
