/* SPDX-License-Identifier: Apache-2.0 */
/* fixture.c - directories, images, the stand-in's place, programs with a timeout. */
#include "support/fixture.h"

#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static bool in_own_netns;

bool fixture_enter_netns(void)
{
	in_own_netns = unshare(CLONE_NEWNET) == 0;
	return in_own_netns;
}

/* ---- what a test that fails leaves */

#define OPEN_MAX_FIXTURES 8
static char open_dirs[OPEN_MAX_FIXTURES][sizeof(((struct fixture *)0)->dir)];
static pid_t open_pid; /* the process of the test: its forks leave everything alone */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

/* A failed test does not come to fixture_deinit: VMMs outlive it by nature. */
static void clean_up_at_exit(void)
{
	int64_t pids[64];

	for (int i = 0; i < OPEN_MAX_FIXTURES && open_pid == getpid(); i++) {
		if (!open_dirs[i][0])
			continue;
		for (size_t n = census_find_processes(open_dirs[i], pids, 64); n > 0; n--)
			if (n <= 64)
				kill((pid_t)pids[n - 1], SIGKILL);
		nftw(open_dirs[i], remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	}
}

static void note_open(const char *dir, const char *replacement)
{
	if (!open_pid) {
		open_pid = getpid();
		atexit(clean_up_at_exit);
	}
	for (int i = 0; i < OPEN_MAX_FIXTURES && open_pid == getpid(); i++) {
		if (strcmp(open_dirs[i], dir) != 0)
			continue;
		snprintf(open_dirs[i], sizeof(open_dirs[i]), "%s", replacement);
		return;
	}
}

void fixture_init(struct fixture *f, bool with_context, uint64_t context_flags)
{
	memset(f, 0, sizeof(*f));
	snprintf(f->dir, sizeof(f->dir), "/tmp/kata-XXXXXX");
	cr_assert_not_null(mkdtemp(f->dir), "mkdtemp: %s", strerror(errno));
	note_open("", f->dir);
	cr_assert_eq(chmod(f->dir, 0755), 0);
	snprintf(f->state_dir, sizeof(f->state_dir), "%s/state", f->dir);
	if (with_context)
		f->context = fixture_new_context(f, context_flags);
}

void fixture_deinit(struct fixture *f)
{
	kata_error *err = NULL;

	if (f->context)
		fixture_assert_ok(kata_context_free(f->context, &err), err);
	f->context = NULL;
	cr_assert_eq(nftw(f->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0, "%s: %s", f->dir, strerror(errno));
	note_open(f->dir, "");
}

kata_context *fixture_new_context(struct fixture *f, uint64_t flags)
{
	kata_context_options options = KATA_CONTEXT_OPTIONS_INIT;
	kata_context *context = NULL;
	kata_error *err = NULL;

	options.flags = flags;
	options.state_dir = f->state_dir;
	fixture_assert_ok(kata_context_new(&options, &context, &err), err);
	return context;
}

char *fixture_path(struct fixture *f, const char *name)
{
	char *path = NULL;

	cr_assert(asprintf(&path, "%s/%s", f->dir, name) > 0);
	return path;
}

static int create(const char *path, mode_t mode)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	cr_assert(fd >= 0, "%s: %s", path, strerror(errno));
	cr_assert_eq(fchmod(fd, mode), 0);
	return fd;
}

static void write_at(int fd, const void *data, size_t length, off_t at)
{
	cr_assert_eq(pwrite(fd, data, length, at), (ssize_t)length);
}

char *fixture_write_file(struct fixture *f, const char *name, const void *data, size_t length)
{
	char *path = fixture_path(f, name);
	int fd = create(path, 0644);

	write_at(fd, data, length, 0);
	close(fd);
	return path;
}

char *fixture_make_raw(struct fixture *f, const char *name, uint64_t size_bytes)
{
	char *path = fixture_path(f, name);
	int fd = create(path, 0666);

	cr_assert_eq(ftruncate(fd, (off_t)size_bytes), 0);
	close(fd);
	return path;
}

struct qcow2_header {
	uint32_t magic, version;
	uint64_t backing_offset;
	uint32_t backing_size, cluster_bits;
	uint64_t size;
	uint32_t crypt, l1_size;
	uint64_t l1_offset, refcount_offset;
	uint32_t refcount_clusters, snapshots;
	uint64_t snapshots_offset, incompatible, compatible, autoclear;
	uint32_t refcount_order, header_length;
} __attribute__((packed));

static void write_backing(int fd, struct qcow2_header *h, const char *backing_path)
{
	static const uint8_t raw_format[16] = {0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3, 'r', 'a', 'w'};
	size_t length = strlen(backing_path);

	cr_assert_lt(length, 1024u);
	h->backing_offset = htobe64(512);
	h->backing_size = htobe32((uint32_t)length);
	write_at(fd, raw_format, sizeof(raw_format), sizeof(*h));
	write_at(fd, backing_path, length, 512);
}

char *fixture_make_qcow2(struct fixture *f, const char *name, uint64_t size_bytes, const char *backing_path)
{
	/* Clusters of 64 KiB: the header, the refcount table, one block of refcounts, the L1 table. */
	const uint64_t cluster = 65536;
	const uint64_t block_at = htobe64(2 * cluster);
	const uint16_t counts[4] = {htobe16(1), htobe16(1), htobe16(1), htobe16(1)};
	struct qcow2_header h = {
		.magic = htobe32(0x514649fb),
		.version = htobe32(3),
		.cluster_bits = htobe32(16),
		.size = htobe64(size_bytes),
		.l1_size = htobe32(1),
		.l1_offset = htobe64(3 * cluster),
		.refcount_offset = htobe64(cluster),
		.refcount_clusters = htobe32(1),
		.refcount_order = htobe32(4),
		.header_length = htobe32(sizeof(h)),
	};
	char *path = fixture_path(f, name);
	int fd = create(path, 0666);

	cr_assert_leq(size_bytes, UINT64_C(512) << 20);
	cr_assert_eq(ftruncate(fd, (off_t)(4 * cluster)), 0);
	if (backing_path)
		write_backing(fd, &h, backing_path);
	write_at(fd, &h, sizeof(h), 0);
	write_at(fd, &block_at, sizeof(block_at), (off_t)cluster);
	write_at(fd, counts, sizeof(counts), (off_t)(2 * cluster));
	close(fd);
	return path;
}

char *fixture_make_kernel(struct fixture *f)
{
	static const char text[] = "no kernel: this file is named by tests that boot nothing\n";

	return fixture_write_file(f, "vmlinux", text, sizeof(text) - 1);
}

/* ---- the stand-in */

static void copy_program(const char *from, const char *to)
{
	struct stat st;
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = create(to, 0755);
	off_t at = 0;

	cr_assert(in >= 0, "%s: %s (built by the target qemu_standin)", from, strerror(errno));
	cr_assert_eq(fstat(in, &st), 0);
	while (at < st.st_size) /* sendfile: /tmp may be another file system */
		cr_assert(sendfile(out, in, &at, (size_t)(st.st_size - at)) > 0, "%s", strerror(errno));
	close(in);
	close(out);
}

void fixture_set_script(const char *standin, const char *script)
{
	char path[256], temporary[260];
	int fd;

	snprintf(path, sizeof(path), "%.*s/script", (int)(strrchr(standin, '/') - standin), standin);
	snprintf(temporary, sizeof(temporary), "%s.new", path);
	fd = create(temporary, 0644);
	write_at(fd, script, strlen(script), 0);
	close(fd);
	cr_assert_eq(rename(temporary, path), 0);
}

char *fixture_make_standin(struct fixture *f, const char *script)
{
	char name[64], dir[128];
	char *path;

	snprintf(dir, sizeof(dir), "%s/bin%u", f->dir, ++f->made);
	cr_assert_eq(mkdir(dir, 0755), 0);
	cr_assert_eq(chmod(dir, 0755), 0);
	snprintf(name, sizeof(name), "bin%u/qemu-system-x86_64", f->made);
	path = fixture_path(f, name);
	copy_program(KATA_BUILD_DIR "/tests/programs/qemu_standin", path);
	fixture_set_script(path, script ? script : "");
	return path;
}

static int connect_to(const char *dir, const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = 20};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", dir, name);
	cr_assert_eq(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0, "%s: %s", address.sun_path,
		     strerror(errno));
	return fd;
}

void fixture_speak_qmp(const char *vm_dir, const char *commands, const char *until)
{
	static const char hello[] = "{\"execute\":\"qmp_capabilities\"}\n";
	char line[16384], text[1024];
	int fd = connect_to(vm_dir, "qmp.sock");
	FILE *in = fdopen(fd, "r");
	int length = snprintf(text, sizeof(text), "%s%s\n", hello, commands);

	cr_assert_eq(write(fd, text, (size_t)length), length);
	do
		cr_assert(fgets(line, sizeof(line), in), "the monitor does not say '%s'", until);
	while (!strstr(line, until));
	fclose(in);
}

/* ---- devices */

kata_storage *fixture_storage(const char *id, const char *path, kata_storage_driver driver)
{
	kata_storage_config config = KATA_STORAGE_CONFIG_INIT;
	kata_storage *storage = NULL;
	kata_error *err = NULL;

	config.id = id;
	config.path = path;
	config.driver = driver;
	fixture_assert_ok(kata_storage_new(&config, &storage, &err), err);
	return storage;
}

kata_nic *fixture_nic(const char *id, const char *mac)
{
	kata_nic_config config = KATA_NIC_CONFIG_INIT;
	kata_nic *nic = NULL;
	kata_error *err = NULL;

	config.id = id;
	config.mac = mac;
	fixture_assert_ok(kata_nic_new(&config, &nic, &err), err);
	return nic;
}

/* ---- census */

struct census *fixture_census(struct fixture *f)
{
	const struct census_scope scope = {
		.what = CENSUS_ALL & ~CENSUS_THREADS & ~(in_own_netns ? 0 : CENSUS_LINKS),
		.marker = f->dir,
		.directory = f->state_dir,
	};

	return census_take(&scope);
}

/* ---- programs */

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Reads the pipe until its end or the deadline; then waits for the end of the process by its pidfd. False on timeout.
 */
static bool await_end(int pipe_fd, int pidfd, uint64_t deadline_ms, FILE *output)
{
	struct pollfd fds[2] = {{pidfd, POLLIN, 0}, {pipe_fd, POLLIN, 0}};
	char chunk[4096];

	for (;;) {
		uint64_t now = now_ms();
		ssize_t n;

		if (now >= deadline_ms)
			return false;
		if (poll(fds, 2, (int)(deadline_ms - now)) < 0 && errno != EINTR)
			return false;
		if (fds[1].revents) {
			n = read(pipe_fd, chunk, sizeof(chunk));
			if (n > 0)
				fwrite(chunk, 1, (size_t)n, output);
			else
				fds[1].fd = -1;
		} else if (fds[0].revents) {
			return true;
		}
	}
}

int fixture_run(const char *const *argv, uint64_t timeout_ms, char **ret_output)
{
	posix_spawn_file_actions_t actions;
	char *text = NULL;
	size_t size = 0;
	FILE *output = open_memstream(&text, &size);
	int ends[2], pidfd, status, rc;
	bool ended;
	pid_t pid;

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
	posix_spawn_file_actions_adddup2(&actions, ends[1], 2);
	rc = posix_spawn(&pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ);
	cr_assert_eq(rc, 0, "%s: %s", argv[0], strerror(rc));
	posix_spawn_file_actions_destroy(&actions);
	close(ends[1]);
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	cr_assert(pidfd >= 0);
	ended = await_end(ends[0], pidfd, now_ms() + timeout_ms, output);
	if (!ended)
		kill(pid, SIGKILL);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	close(pidfd);
	close(ends[0]);
	fclose(output);
	if (ret_output)
		*ret_output = text;
	else
		free(text);
	if (!ended)
		return -1;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* ---- census, compared */

/* An operation's own reference may be the last one of its objects and goes just after its waiters woke: their fds are
 * waited for, for this long. */
#define SETTLE_MS 2000

void fixture_assert_census(struct fixture *f, struct census *take_before, const char *when)
{
	const struct timespec pause = {0, 5000000};
	uint64_t deadline_ms = now_ms() + SETTLE_MS;
	struct census *after = fixture_census(f);
	char *difference = census_diff(take_before, after);

	while (difference && now_ms() < deadline_ms) {
		free(difference);
		census_free(after);
		nanosleep(&pause, NULL);
		after = fixture_census(f);
		difference = census_diff(take_before, after);
	}
	cr_assert_null(difference, "%s the host is not as before:\n%s", when, difference);
	census_free(take_before);
	census_free(after);
}

/* ---- errors */

#ifdef __SANITIZE_ADDRESS__
/* Criterion itself leaks the reason of a skipped test. The name is LeakSanitizer's. */
KATA_API const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libcriterion.so\n";
}
#endif

const char *error_text(const kata_error *err)
{
	static _Thread_local char text[2048];
	size_t at;

	if (!err)
		return "(no error)";
	at = (size_t)snprintf(text, sizeof(text), "(%s) [%s] %s", kata_status_get_name(kata_error_get_status(err)),
			      kata_error_get_step(err) ? kata_error_get_step(err) : "", kata_error_get_message(err));
	for (err = kata_error_get_cause(err); err && at < sizeof(text); err = kata_error_get_cause(err))
		at += (size_t)snprintf(text + at, sizeof(text) - at, " <- %s", kata_error_get_message(err));
	return text;
}

void error_clear(kata_error **err)
{
	kata_error_free(*err);
	*err = NULL;
}

char *fixture_release(kata_vm **vm)
{
	kata_error *err = NULL;
	char *json = NULL;

	fixture_assert_ok(kata_vm_release(*vm, NULL, &json, &err), err);
	kata_vm_unref(*vm);
	*vm = NULL;
	return json;
}

int fixture_recover(kata_context *context, kata_persistence *persistence, uint64_t flags,
		    kata_recover_report **ret_report, kata_error **err)
{
	kata_recover_options options = KATA_RECOVER_OPTIONS_INIT;

	options.flags = flags;
	return kata_recover(context, persistence, &options, ret_report, err);
}

bool fixture_was_undone(const kata_recover_report *report, size_t index)
{
	kata_recover_verdict v = kata_recover_report_get_verdict(report, index);

	return kata_recover_report_is_undone(report, index) &&
	       (v == KATA_RECOVER_GONE || v == KATA_RECOVER_HALF_MADE || v == KATA_RECOVER_ORPHAN);
}
