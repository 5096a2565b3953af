/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/cgroup.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "guest/text_file.h"

bool cgroup_path_of(const char *root, const char *proc_text, char *out, size_t size)
{
	const char *line = proc_text;

	while (line && strncmp(line, "0::/", 4) != 0) {
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	if (!line || line[4] == '\n' || line[4] == '\0')
		return false;
	return snprintf(out, size, "%s%.*s", root, (int)strcspn(line + 3, "\n"), line + 3) < (int)size;
}

bool cgroup_of_process(pid_t pid, char *out, size_t size)
{
	KATA_AUTO(free) char *text = NULL;
	char path[32];
	size_t len = 0;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
	return kata__read_file(path, 65536, &text, &len, NULL) == 0 && cgroup_path_of(CGROUP_ROOT, text, out, size);
}

int cgroup_kill(const char *dir)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/cgroup.kill", dir);
	return text_file_write(path, "1");
}

char *cgroup_read_text(const char *dir, const char *file)
{
	char path[PATH_MAX];
	char *text = NULL;
	size_t len = 0;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	return kata__read_file(path, 1u << 20, &text, &len, NULL) == 0 ? text : NULL;
}

uint64_t cgroup_read_number(const char *dir, const char *file)
{
	KATA_AUTO(free) char *text = cgroup_read_text(dir, file);

	if (!text)
		return 0;
	return strncmp(text, "max", 3) == 0 ? UINT64_MAX : strtoull(text, NULL, 10);
}

uint64_t cgroup_text_number(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
		if (strncmp(line, key, len) == 0 && line[len] == ' ')
			return strtoull(line + len + 1, NULL, 10);
	return 0;
}
