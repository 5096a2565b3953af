/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_INTEGRATION_SANDBOX_TEST_H
#define KATA_TESTS_INTEGRATION_SANDBOX_TEST_H
/* What the tests of sandboxes on the real QEMU share: a root file system, a sandbox, its containers and processes. */
#include "integration/vm_test.h"

#include <poll.h>
#include <sys/stat.h>

#include <kata/persistence.h>

struct stage {
	struct machine m;
	kata_sandbox *s;
	char rootfs[64];
};

static inline void run_tool(const char *const *argv)
{
	char *output = NULL;
	int status = fixture_run(argv, 60000, &output);

	cr_assert_eq(status, 0, "%s ended with %d: %s", argv[0], status, output);
	free(output);
}

/* An ext4 image with busybox in /bin. */
static inline void make_rootfs(struct stage *st)
{
	static const char *const tools[] = {"sh", "cat", "echo", "sleep", "ping", "stty", "dd", "head", "ls"};
	static const char *const dirs[] = {"", "/bin", "/proc", "/dev", "/sys", "/mnt", "/tmp"};
	const char *mke2fs = access("/sbin/mke2fs", X_OK) == 0 ? "/sbin/mke2fs" : "/usr/sbin/mke2fs";
	char tree[64], path[128];

	if (access("/bin/busybox", X_OK) || access(mke2fs, X_OK))
		cr_skip_test("no /bin/busybox or no mke2fs: install busybox-static and e2fsprogs");
	snprintf(tree, sizeof(tree), "%s/tree", st->m.f.dir);
	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", tree, dirs[i]);
		cr_assert_eq(mkdir(path, 0755), 0);
	}
	snprintf(path, sizeof(path), "%s/bin/busybox", tree);
	run_tool((const char *const[]){"/bin/cp", "/bin/busybox", path, NULL});
	for (size_t i = 0; i < sizeof(tools) / sizeof(tools[0]); i++) {
		snprintf(path, sizeof(path), "%s/bin/%s", tree, tools[i]);
		cr_assert_eq(symlink("busybox", path), 0);
	}
	snprintf(st->rootfs, sizeof(st->rootfs), "%s/rootfs.raw", st->m.f.dir);
	run_tool((const char *const[]){mke2fs, "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0",
				       "-d", tree, st->rootfs, "16M", NULL});
}

static inline void stage_init(struct stage *st)
{
	memset(st, 0, sizeof(*st));
	machine_init(&st->m, 0);
	make_rootfs(st);
}

static inline void stage_start(struct stage *st)
{
	kata_vm_config config = machine_config(&st->m);
	kata_error *err = NULL;

	config.id = "sb";
	config.memory_mib = 192;
	fixture_assert_ok(kata_sandbox_create(st->m.f.context, NULL, st->m.builder, &config, NULL, NULL, &st->s, &err),
			  err);
	fixture_assert_ok(kata_sandbox_start(st->s, NULL, &err), err);
}

static inline void stage_deinit(struct stage *st)
{
	kata_sandbox_unref(st->s);
	machine_deinit(&st->m);
}

static inline void add_disk(struct stage *st, const char *id, const char *path, kata_storage_driver driver)
{
	kata_storage *storage = fixture_storage(id, path, driver);
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_add_storage(st->s, storage, NULL, &err), err);
	kata_storage_unref(storage);
}

/* A process object; the script has no quotes and no backslashes. */
static inline void process_text(char *out, size_t size, const char *script, bool terminal)
{
	snprintf(out, size,
		 "{\"terminal\":%s,\"user\":{\"uid\":0,\"gid\":0},\"cwd\":\"/\",\"args\":[\"/bin/"
		 "sh\",\"-c\",\"%s\"],\"env\":[\"PATH=/bin\","
		 "\"TERM=xterm\"],\"capabilities\":{\"bounding\":[\"CAP_NET_RAW\"],\"effective\":[\"CAP_NET_RAW\"],"
		 "\"permitted\":[\"CAP_NET_"
		 "RAW\"]}}",
		 terminal ? "true" : "false", script);
}

static inline void add_container(struct stage *st, const char *id, const char *storage, const char *mounts,
				 const char *script)
{
	static const char kernel_mounts[] =
		"{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"},"
		"{\"destination\":\"/"
		"dev\",\"type\":\"tmpfs\",\"source\":\"tmpfs\",\"options\":[\"nosuid\",\"mode=755\"]},"
		"{\"destination\":\"/dev/pts\",\"type\":\"devpts\",\"source\":\"devpts\",\"options\":[\"newinstance\","
		"\"ptmxmode=0666\",\"mode=0620\"]}";
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;
	char process[1024], spec[4096];
	kata_error *err = NULL;

	process_text(process, sizeof(process), script, false);
	snprintf(spec, sizeof(spec),
		 "{\"ociVersion\":\"1.0.2\",\"process\":%s,\"root\":{\"path\":\"storage:%s\"},\"mounts\":[%s%s],"
		 "\"linux\":{"
		 "\"namespaces\":[{\"type\":\"mount\"},{\"type\":\"ipc\"},{\"type\":\"pid\"}]}}",
		 process, storage, kernel_mounts, mounts);
	config.id = id;
	config.oci_spec = spec;
	fixture_assert_ok(kata_sandbox_add_container(st->s, &config, NULL, &err), err);
}

static inline void start_container(struct stage *st, const char *id)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_start_container(st->s, id, NULL, &err), err);
}

static inline void exec(struct stage *st, const char *id, const char *exec_id, const char *script, bool terminal)
{
	kata_process_config config = KATA_PROCESS_CONFIG_INIT;
	char process[1024];
	kata_error *err = NULL;

	process_text(process, sizeof(process), script, terminal);
	config.exec_id = exec_id;
	config.oci_process = process;
	fixture_assert_ok(kata_sandbox_add_process(st->s, id, &config, NULL, &err), err);
}

static inline int32_t wait_for(struct stage *st, const char *id, const char *exec_id)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	int32_t status = -1;
	kata_error *err = NULL;

	options.timeout_ms = 60000;
	fixture_assert_ok(kata_sandbox_wait_process(st->s, id, exec_id, &options, &status, &err), err);
	return status;
}

static inline void open_stdio(struct stage *st, const char *id, const char *exec_id, int *in, int *out, int *errors)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_open_stdio(st->s, id, exec_id, in, out, errors, &err), err);
}

/* Reads until the end of file, or until `until` has been seen (NULL: never). Caller frees. */
static inline char *read_text(int fd, const char *until)
{
	size_t length = 0, room = 1 << 20;
	char *text = calloc(1, room + 1);

	while (!until || !strstr(text, until)) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		cr_assert_eq(poll(&p, 1, 60000), 1, "nothing more after 60 s; so far: %s", text);
		n = read(fd, text + length, room - length);
		cr_assert_geq(n, 0);
		if (n == 0)
			break;
		length += (size_t)n;
	}
	return text;
}

static inline void assert_exec_says(struct stage *st, const char *id, const char *exec_id, const char *script,
				    const char *expected)
{
	char *text;
	int out;

	exec(st, id, exec_id, script, false);
	open_stdio(st, id, exec_id, NULL, &out, NULL);
	text = read_text(out, NULL);
	close(out);
	cr_assert_str_eq(text, expected, "%s said '%s'", exec_id, text);
	free(text);
	cr_assert_eq(wait_for(st, id, exec_id), 0);
}
#endif
