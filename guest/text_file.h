/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_TEXT_FILE_H
#define KATA_GUEST_TEXT_FILE_H
/* Small files of proc, sysfs and cgroups: a number or a word each. */

/* Writes the text at once to a file that exists. 0 or -errno. */
int text_file_write(const char *path, const char *text);
/* The first line, malloc'ed, or NULL when it cannot be read. */
char *text_file_read_line(const char *path);
#endif
