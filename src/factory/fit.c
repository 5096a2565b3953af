/* SPDX-License-Identifier: Apache-2.0 */
#include "factory/fit.h"

#include <string.h>
#include <sys/stat.h>

static void stamp_file(const char *path, struct kata__file_stamp *ret)
{
	struct stat st;

	*ret = (struct kata__file_stamp){0};
	if (path && stat(path, &st) == 0)
		*ret = (struct kata__file_stamp){
			.dev = st.st_dev, .ino = st.st_ino, .size_bytes = st.st_size, .changed = st.st_ctim};
}

void kata__stamp_take(const kata_vm_config *config, struct kata__stamp *ret)
{
	stamp_file(config->kernel, &ret->kernel);
	stamp_file(config->initrd, &ret->initrd);
	stamp_file(config->image, &ret->image);
}

static bool same_file(const struct kata__file_stamp *a, const struct kata__file_stamp *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size_bytes == b->size_bytes &&
	       a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

bool kata__stamp_is_equal(const struct kata__stamp *a, const struct kata__stamp *b)
{
	return same_file(&a->kernel, &b->kernel) && same_file(&a->initrd, &b->initrd) &&
	       same_file(&a->image, &b->image);
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_params(const char *const *a, const char *const *b)
{
	size_t i = 0;

	while (a[i] && b[i] && strcmp(a[i], b[i]) == 0)
		i++;
	return !a[i] && !b[i];
}

bool kata__config_fits(const kata_vm_config *have, const kata_vm_config *wanted)
{
	return have->cpus == wanted->cpus && have->cpus_max == wanted->cpus_max &&
	       have->memory_mib == wanted->memory_mib && have->memory_max_mib == wanted->memory_max_mib &&
	       have->memory_slots == wanted->memory_slots && have->device_slots == wanted->device_slots &&
	       have->memory_shared == wanted->memory_shared && same_text(have->kernel, wanted->kernel) &&
	       same_text(have->initrd, wanted->initrd) && same_text(have->image, wanted->image) &&
	       same_text(have->memory_path, wanted->memory_path) && same_text(have->machine, wanted->machine) &&
	       same_params(have->kernel_params, wanted->kernel_params);
}
