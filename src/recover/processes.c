/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes that look like VMMs of this state directory, and that no machine's vmm.pid names: their directory was
 * removed or changed by hand. Their stderr is the log of a machine there, but anybody can have that: FOREIGN. The look
 * is one readlink a process of the host.
 */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "recover/recover.h"
#include "vm/recover.h"

static bool read_stderr(const char *pid, char out[PATH_MAX])
{
	char path[48];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%.16s/fd/2", pid);
	n = readlink(path, out, PATH_MAX - 1);
	out[n > 0 ? n : 0] = '\0';
	return n > 0;
}

/* "<parent>/<id>/vmm.log", which may be deleted: the directory in *ret. */
static bool is_log(char *path, const char *parent)
{
	size_t len = strlen(parent);
	char *id = path + len + 1, *end;

	if (strncmp(path, parent, len) != 0 || path[len] != '/')
		return false;
	end = strchr(id, '/');
	if (!end || (strcmp(end, "/vmm.log") != 0 && strcmp(end, "/vmm.log (deleted)") != 0))
		return false;
	*end = '\0';
	return kata__id_is_valid(id);
}

static int look(struct kata__recovery *r, const char *parent, const char *pid, kata_error **err)
{
	char dir[PATH_MAX], again[PATH_MAX];

	if (!read_stderr(pid, dir) || !is_log(dir, parent) || kata__leftover_names(dir, (pid_t)atol(pid)))
		return 0;
	if (!read_stderr(pid, again)) /* it has ended meanwhile, and its directory was removed */
		return 0;
	return kata__finding_add(r, &kata__recover_process, pid, KATA_RECOVER_FOREIGN,
				 kata__format("its stderr is vmm.log in %s, but nothing there says that it is the VMM: "
					      "end it by hand if it is nobody's",
					      dir),
				 NULL, err);
}

static int find(struct kata__recovery *r, kata_error **err)
{
	KATA_AUTO(free) char *real = realpath(kata_context_get_state_dir(r->ctx), NULL);
	KATA_AUTO(free) char *parent = real ? kata__format("%s/vm", real) : NULL;
	DIR *proc = parent ? opendir("/proc") : NULL;
	struct dirent *e;
	int rc = 0;

	while (proc && rc == 0 && (e = readdir(proc)))
		if (e->d_name[0] >= '1' && e->d_name[0] <= '9')
			rc = look(r, parent, e->d_name, err);
	if (proc)
		closedir(proc);
	return rc;
}

const struct kata__kind kata__recover_process = {.name = "process", .find = find};
