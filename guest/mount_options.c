/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/mount_options.h"

#include <string.h>
#include <sys/mount.h>

struct word {
	const char *name;
	unsigned long set, clear;
};

static const struct word words[] = {
	{"defaults", 0, 0},
	{"ro", MS_RDONLY, 0},
	{"rw", 0, MS_RDONLY},
	{"nosuid", MS_NOSUID, 0},
	{"suid", 0, MS_NOSUID},
	{"nodev", MS_NODEV, 0},
	{"dev", 0, MS_NODEV},
	{"noexec", MS_NOEXEC, 0},
	{"exec", 0, MS_NOEXEC},
	{"sync", MS_SYNCHRONOUS, 0},
	{"async", 0, MS_SYNCHRONOUS},
	{"dirsync", MS_DIRSYNC, 0},
	{"mand", MS_MANDLOCK, 0},
	{"nomand", 0, MS_MANDLOCK},
	{"noatime", MS_NOATIME, 0},
	{"atime", 0, MS_NOATIME},
	{"nodiratime", MS_NODIRATIME, 0},
	{"diratime", 0, MS_NODIRATIME},
	{"relatime", MS_RELATIME, 0},
	{"norelatime", 0, MS_RELATIME},
	{"strictatime", MS_STRICTATIME, 0},
	{"nostrictatime", 0, MS_STRICTATIME},
	{"lazytime", MS_LAZYTIME, 0},
	{"silent", MS_SILENT, 0},
	{"bind", MS_BIND, 0},
	{"rbind", MS_BIND | MS_REC, 0},
};

static const struct word *find(const char *name)
{
	for (size_t i = 0; i < kata__array_size(words); i++)
		if (strcmp(words[i].name, name) == 0)
			return &words[i];
	return NULL;
}

int mount_options_parse(char *const *options, size_t count, struct mount_options *ret, kata_error **err)
{
	struct mount_options o = {0};
	size_t used = 0;

	for (size_t i = 0; i < count; i++) {
		const struct word *w = find(options[i]);
		size_t len = strlen(options[i]);

		if (w) {
			o.flags = (o.flags & ~w->clear) | w->set;
			continue;
		}
		if (len == 0)
			continue;
		if (used + len + 2 > sizeof(o.data))
			return kata__fail(err, KATA_E_INVALID, CALLER, "options: more than %zu bytes in all",
					  sizeof(o.data));
		if (used)
			o.data[used++] = ',';
		memcpy(o.data + used, options[i], len + 1);
		used += len;
	}
	*ret = o;
	return 0;
}
