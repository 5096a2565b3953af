/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading is idempotent (a module that is there answers EEXIST), so there is no table of what is loaded. For a module
 * that is asked for, everything it depends on is found by its own "depends=" text, as modprobe does it.
 */
#include "guest/modules.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "guest/kmsg.h"

#define LIST "/lib/modules/list"
#define ALIAS "/lib/modules/alias"
#define TEXT_MAX (1u << 20)
#define MODULE_MAX (16u << 20)
#define DEPTH_MAX 8

static int load_file(const char *name, const char *parameters)
{
	char path[192];
	KATA_AUTO_FD int fd = -1;

	snprintf(path, sizeof(path), "/lib/modules/%s.ko", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (syscall(SYS_finit_module, fd, parameters, 0) != 0 && errno != EEXIST)
		return -errno;
	return 0;
}

void modules_load_group(const char *group)
{
	KATA_AUTO(free) char *text = NULL;
	char *save = NULL;
	size_t len = 0;

	if (kata__read_file(LIST, TEXT_MAX, &text, &len, NULL) != 0)
		return;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *name = strchr(line, ' ');
		int rc;

		if (!name)
			continue;
		*name++ = '\0';
		if (strcmp(line, group) != 0)
			continue;
		rc = load_file(name, "");
		if (rc < 0)
			kmsg_error("module %s: %s", name, strerror(-rc));
	}
}

/* The module that an alias stands for, or the name itself, with '-' as '_'. */
static bool resolve(const char *name, char *out, size_t size)
{
	KATA_AUTO(free) char *text = NULL;
	char *save = NULL;
	char path[192];
	size_t len = 0;

	snprintf(out, size, "%s", name);
	for (char *p = out; *p; p++)
		*p = *p == '-' ? '_' : *p;
	snprintf(path, sizeof(path), "/lib/modules/%s.ko", out);
	if (!strchr(out, '/') && access(path, F_OK) == 0)
		return true;
	if (kata__read_file(ALIAS, TEXT_MAX, &text, &len, NULL) != 0)
		return false;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *module = strrchr(line, ' ');

		if (!module)
			continue;
		*module++ = '\0';
		if (fnmatch(line, name, 0) == 0) {
			snprintf(out, size, "%s", module);
			return true;
		}
	}
	return false;
}

/* The module's "depends=a,b" text, malloc'ed, or NULL. */
static char *depends_of(const char *name)
{
	static const char key[] = "\0depends=";
	KATA_AUTO(free) char *data = NULL;
	char path[192];
	size_t len = 0;
	const char *at;

	snprintf(path, sizeof(path), "/lib/modules/%s.ko", name);
	if (kata__read_file(path, MODULE_MAX, &data, &len, NULL) != 0)
		return NULL;
	at = memmem(data, len, key, sizeof(key) - 1);
	return at ? strdup(at + sizeof(key) - 1) : NULL;
}

static int load_with_dependencies(const char *name, const char *parameters, int depth)
{
	KATA_AUTO(free) char *depends = NULL;
	char *save = NULL;

	if (depth > DEPTH_MAX)
		return -ELOOP;
	depends = depends_of(name);
	for (char *d = depends ? strtok_r(depends, ",", &save) : NULL; d; d = strtok_r(NULL, ",", &save)) {
		int rc = load_with_dependencies(d, "", depth + 1);

		if (rc < 0 && rc != -ENOENT) /* built in */
			return rc;
	}
	return load_file(name, parameters);
}

int modules_load(const char *name, const char *parameters, kata_error **err)
{
	char module[128];
	int rc;

	if (!resolve(name, module, sizeof(module)))
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "the guest image has no module '%.100s'", name);
	rc = load_with_dependencies(module, parameters ? parameters : "", 0);
	if (rc < 0)
		return kata__fail_errno(err, -rc, "cannot load module '%s'", module);
	return 0;
}

int modules_modprobe(int argc, char **argv)
{
	return argc > 1 && modules_load(argv[argc - 1], "", NULL) == 0 ? 0 : 1;
}
