/* SPDX-License-Identifier: Apache-2.0 */
/* template_dir.c - removing from a template's directory what is ours: by its names alone, so that nothing else goes. */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "factory/template.h"
#include "factory/template_lock.h"

bool kata__template_is_making(const char *name)
{
	static const char *const prefixes[] = {KATA__TEMPLATE_BASE "-", "memory-", ".kata-save-"};

	for (size_t i = 0; i < kata__array_size(prefixes); i++)
		if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0 &&
		    kata__uuid_is_valid(name + strlen(prefixes[i])))
			return true;
	return false;
}

static int remove_in(const char *path, const char *name, kata_error **err)
{
	KATA_AUTO(free) char *full = kata__format("%s/%s", path, name);

	if (!full)
		return kata__fail_no_memory(err);
	if (unlink(full) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return kata__fail_errno(err, errno, "cannot remove %s", full);
	return kata__remove_tree(full, err);
}

/* The template gets a name of the makings first: what is removed in part is none any more. */
static int put_aside(const char *path, kata_error **err)
{
	char uuid[37];
	KATA_AUTO(free) char *from = kata__format("%s/" KATA__TEMPLATE_BASE, path);
	KATA_AUTO(free) char *to = NULL;

	kata__uuid_generate(uuid);
	to = kata__format("%s/" KATA__TEMPLATE_BASE "-%s", path, uuid);
	if (!from || !to)
		return kata__fail_no_memory(err);
	return rename(from, to) == 0 || errno == ENOENT ? 0 : kata__fail_errno(err, errno, "cannot rename %s", from);
}

static int sweep(const char *path, kata_error **err)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	int rc = 0;

	if (!dir)
		return kata__fail_errno(err, errno, "cannot read %s", path);
	while (rc == 0 && (e = readdir(dir)))
		if (kata__template_is_making(e->d_name))
			rc = remove_in(path, e->d_name, err);
	closedir(dir);
	return rc;
}

/* A directory that somebody has put something else in, or mounted, stays. */
static int remove_dir(const char *path, kata_error **err)
{
	int rc = remove_in(path, KATA__TEMPLATE_LOCK_NAME, err);

	if (rc < 0 || rmdir(path) == 0 || errno == ENOTEMPTY || errno == EEXIST || errno == EBUSY)
		return rc;
	return kata__fail_errno(err, errno, "cannot remove %s", path);
}

int kata__template_sweep(const char *path, bool all, kata_error **err)
{
	int rc = all ? put_aside(path, err) : 0;

	if (rc == 0)
		rc = sweep(path, err);
	return rc < 0 || !all ? rc : remove_dir(path, err);
}
