/* SPDX-License-Identifier: Apache-2.0 */
#include "parts.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* Runs a tool with its output thrown away; 0 when it exits with 0. */
static int run(const char *const *argv)
{
	posix_spawn_file_actions_t actions;
	int status = -1, rc;
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	rc = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (rc) {
		fprintf(stderr, "tour: cannot run %s: %s\n", argv[0], strerror(rc));
		return -1;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static int make_tree(const char *dir)
{
	static const char *const dirs[] = {"", "/bin", "/proc", "/sys", "/dev", "/etc", "/tmp", "/mnt"};
	static const char *const tools[] = {"sh",   "echo", "cat",   "sleep", "ping",
					    "stty", "tty",  "uname", "grep",  "true"};
	char path[600], target[32];

	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", dir, dirs[i]);
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return -1;
	}
	snprintf(path, sizeof(path), "%s/bin/busybox", dir);
	if (run((const char *const[]){"cp", "-f", "/bin/busybox", path, NULL}))
		return -1;
	for (size_t i = 0; i < sizeof(tools) / sizeof(tools[0]); i++) {
		snprintf(path, sizeof(path), "%s/bin/%s", dir, tools[i]);
		snprintf(target, sizeof(target), "busybox");
		if (symlink(target, path) < 0 && errno != EEXIST)
			return -1;
	}
	return 0;
}

int make_rootfs(const char *work_dir, const char *path)
{
	char tree[512];

	snprintf(tree, sizeof(tree), "%s/rootfs", work_dir);
	if (make_tree(tree))
		return -1;
	unlink(path);
	return run((const char *const[]){"mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E",
					 "root_owner=0:0", "-d", tree, path, "16M", NULL});
}

int make_qcow2(const char *path)
{
	return run((const char *const[]){"qemu-img", "create", "-q", "-f", "qcow2", path, "64M", NULL});
}

static json_t *process_json(const char *script, bool terminal)
{
	return json_pack("{s:b,s:{s:i,s:i},s:s,s:[s,s,s],s:[s,s],s:{s:[s],s:[s],s:[s]}}", "terminal", (int)terminal,
			 "user", "uid", 0, "gid", 0, "cwd", "/", "args", "/bin/sh", "-c", script, "env", "PATH=/bin",
			 "TERM=xterm", "capabilities", "bounding", "CAP_NET_RAW", "effective", "CAP_NET_RAW",
			 "permitted", "CAP_NET_RAW");
}

static void print(char *out, size_t size, json_t *take)
{
	char *text = json_dumps(take, JSON_COMPACT);

	snprintf(out, size, "%s", text ? text : "");
	free(text);
	json_decref(take);
}

void process_spec(char *out, size_t size, const char *script, bool terminal)
{
	print(out, size, process_json(script, terminal));
}

static json_t *mount_json(const char *destination, const char *type, json_t *take_options)
{
	return json_pack("{s:s,s:s,s:s,s:o}", "destination", destination, "type", type, "source", type, "options",
			 take_options);
}

void container_spec(char *out, size_t size, const char *root, const char *script)
{
	json_t *mounts = json_array();

	json_array_append_new(mounts, mount_json("/proc", "proc", json_array()));
	json_array_append_new(mounts, mount_json("/dev", "tmpfs", json_pack("[s,s]", "nosuid", "mode=755")));
	json_array_append_new(mounts,
			      mount_json("/dev/pts", "devpts", json_pack("[s,s]", "newinstance", "ptmxmode=0666")));
	print(out, size,
	      json_pack("{s:s,s:{s:s},s:o,s:o,s:{s:[{s:s},{s:s},{s:s},{s:s}]}}", "ociVersion", "1.0.2", "root", "path",
			root, "process", process_json(script, false), "mounts", mounts, "linux", "namespaces", "type",
			"mount", "type", "ipc", "type", "uts", "type", "pid"));
}

bool is_running(long long pid)
{
	char path[64], state = 'Z';
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%lld/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
		state = 'Z';
	fclose(f);
	return state != 'Z' && state != 'X';
}

int read_line(int fd, char *out, size_t size)
{
	size_t at = 0;

	out[0] = '\0';
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		char c;

		if (poll(&p, 1, 60000) != 1 || read(fd, &c, 1) != 1)
			return at ? 0 : -1;
		if (c == '\n')
			return 0;
		if (c != '\r' && at + 1 < size) {
			out[at++] = c;
			out[at] = '\0';
		}
	}
}

int unexpected(const char *what)
{
	fprintf(stderr, "tour: unexpected: %s\n", what);
	return -1;
}
