/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every write of a persistence fails in turn, once and from then on: the error names the cause, the record is the one
 * of before, the machine answers, the caller's handle is in no transaction, and the same call succeeds afterwards. By a
 * shim below SQLite, by functions in place of the C library's for records in a directory, and on file systems that are
 * really full. The VMM is the stand-in.
 */
#include <errno.h>
#include <fcntl.h>
#include <kata/reconcile.h>
#include <kata/rows.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "standin_kit.h"
#include "support/sqlite_shim.h"

/* ---- what fails below the records in a directory: these take the place of the C library's */

static struct {
	const char *below; /* files in this directory */
	int64_t fail_at;
	bool sticky, failed;
	bool is_real;  /* an fsync reaches it */
	char acts[64]; /* below it, a letter each */
} disk;

static void note_act(const char *path, char act)
{
	size_t n = strlen(disk.acts);

	if (disk.below && strncmp(path, disk.below, strlen(disk.below)) == 0 && n + 1 < sizeof(disk.acts))
		disk.acts[n] = act;
}

/* Of what fails for good, names can still be changed: they take no room. */
static bool disk_fails(const char *path, bool is_name)
{
	if (disk.failed && is_name)
		return false;
	if (disk.fail_at == 0 || strncmp(path, disk.below, strlen(disk.below)) != 0 || --disk.fail_at > 0)
		return false;
	disk.fail_at = disk.sticky;
	disk.failed = true;
	errno = EIO;
	return true;
}

static bool disk_fails_fd(int fd, char act)
{
	char link[64], path[256] = "";

	if (!disk.below)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (readlink(link, path, sizeof(path) - 1) <= 0 || strstr(path, "/lock"))
		return false;
	note_act(path, act);
	return disk_fails(path, false);
}

KATA_API ssize_t write(int fd, const void *data, size_t length)
{
	return disk_fails_fd(fd, 'w') ? -1 : syscall(SYS_write, fd, data, length);
}

KATA_API int fsync(int fd)
{
	if (disk.is_real)
		return (int)syscall(SYS_fsync, fd);
	return disk_fails_fd(fd, 's') ? -1 : 0; /* nobody pulls the plug here */
}

KATA_API int rename(const char *from, const char *to)
{
	note_act(to, 'r');
	return disk_fails(to, true) ? -1 : (int)syscall(SYS_rename, from, to);
}

KATA_API int unlink(const char *path)
{
	return disk_fails(path, true) ? -1 : (int)syscall(SYS_unlink, path);
}

/* ---- kinds */

struct book {
	struct standin_kit k;
	const char *dir; /* where the records are */
	char *path;
	sqlite3 *db; /* the caller's, or NULL */
	kata_persistence *p;
	char *json; /* of a release that could not be stored */
};

static int open_attached(struct book *b, const char *journal, kata_error **err)
{
	char pragma[64];
	int rc;

	cr_assert_eq(sqlite3_open(b->path, &b->db), SQLITE_OK);
	snprintf(pragma, sizeof(pragma), "PRAGMA journal_mode = %s", journal);
	cr_assert_eq(sqlite3_exec(b->db, pragma, NULL, NULL, NULL), SQLITE_OK, "%s", sqlite3_errmsg(b->db));
	rc = kata_persistence_new_sqlite_attached(b->k.f.context, b->db, NULL, &b->p, err);
	return rc < 0 ? rc : kata_persistence_create_schema(b->p, err);
}

static int open_wal(struct book *b, kata_error **err)
{
	return open_attached(b, "WAL", err);
}

static int open_journal(struct book *b, kata_error **err)
{
	return open_attached(b, "DELETE", err);
}

static int open_own(struct book *b, kata_error **err)
{
	return kata_persistence_new_sqlite(b->k.f.context, b->path, &b->p, err);
}

static int open_directory(struct book *b, kata_error **err)
{
	return kata_persistence_new_file(b->k.f.context, b->path, &b->p, err);
}

typedef int open_fn(struct book *b, kata_error **err);

static void book_close(struct book *b)
{
	kata_persistence_free(b->p);
	b->p = NULL;
	if (b->db)
		cr_assert_eq(sqlite3_close(b->db), SQLITE_OK);
	b->db = NULL;
}

static void book_init(struct book *b, open_fn *open_it, const char *dir)
{
	kata_error *err = NULL;

	b->dir = dir ? dir : b->k.f.dir;
	b->path = malloc(strlen(b->dir) + 9);
	sprintf(b->path, "%s/records", b->dir);
	fixture_assert_ok(open_it(b, &err), err);
	fixture_assert_ok(kata_persistence_store_sandbox(b->p, b->k.s, &err), err);
}

static void book_deinit(struct book *b)
{
	book_close(b);
	disk.below = NULL;
	free(b->path);
	standin_kit_deinit(&b->k);
}

/* ---- operations: each is begun with "sb" running and stored */

static int run_create(struct book *b, kata_error **err)
{
	return kata_persistence_create_sandbox(b->p, "another", err);
}

static void undo_create(struct book *b, kata_error **err)
{
	fixture_assert_ok(kata_persistence_delete_sandbox(b->p, "another", err), *err);
}

static int run_reserve(struct book *b, kata_error **err)
{
	kata_reservation_config config = KATA_RESERVATION_CONFIG_INIT;

	config.sandbox_id = "sb";
	config.kind = KATA_RESERVE_NIC;
	config.id = "n9";
	config.tap_name = "tap9";
	return kata_persistence_reserve(b->p, &config, err);
}

static void undo_reserve(struct book *b, kata_error **err)
{
	fixture_assert_ok(kata_persistence_settle(b->p, "sb", KATA_RESERVE_NIC, "n9", KATA_RESERVATION_UNDONE, err),
			  *err);
}

static int run_store(struct book *b, kata_error **err)
{
	return kata_persistence_store_sandbox(b->p, b->k.s, err);
}

/* What a release hands out where its store fails is what the next goes on from. */
static int run_release(struct book *b, kata_error **err)
{
	kata_sandbox *next = NULL;

	if (b->json) {
		kata_sandbox_unref(b->k.s);
		b->k.s = NULL;
		cr_assert_eq(kata_sandbox_build_from_released(b->k.f.context, b->json, strlen(b->json), b->k.builder,
							      NULL, NULL, &next, err),
			     0, "%s", error_text(*err));
		b->k.s = next;
		free(b->json);
		b->json = NULL;
		cr_assert_eq(kata_persistence_store_sandbox(b->p, b->k.s, err), 0, "%s", error_text(*err));
	}
	return kata_persistence_release_sandbox(b->p, b->k.s, NULL, &b->json, err);
}

static int run_obtain(struct book *b, kata_error **err)
{
	kata_sandbox *next = NULL;
	int rc = kata_persistence_obtain_sandbox(b->p, "sb", b->k.builder, NULL, NULL, &next, err);

	if (rc == 0) {
		kata_sandbox_unref(b->k.s);
		b->k.s = next;
	}
	return rc;
}

static void undo_release(struct book *b, kata_error **err)
{
	free(b->json);
	b->json = NULL;
	fixture_assert_ok(run_obtain(b, err), *err);
}

static void prepare_obtain(struct book *b, kata_error **err)
{
	fixture_assert_ok(kata_persistence_release_sandbox(b->p, b->k.s, NULL, NULL, err), *err);
}

static int run_delete(struct book *b, kata_error **err)
{
	return kata_persistence_delete_sandbox(b->p, "sb", err);
}

static void undo_delete(struct book *b, kata_error **err)
{
	fixture_assert_ok(kata_sandbox_reconcile(b->k.s, b->p, KATA_RECONCILE_STORE, NULL, NULL, err), *err);
}

static const struct operation {
	const char *name;
	void (*prepare)(struct book *b, kata_error **err); /* or NULL */
	int (*run)(struct book *b, kata_error **err);
	void (*undo)(struct book *b, kata_error **err); /* or NULL */
	bool may_raise;                                 /* leaves the epoch raised where it cannot be written back */
} operations[] = {
	{"create", NULL, run_create, undo_create, false},
	{"reserve", NULL, run_reserve, undo_reserve, false},
	{"store", NULL, run_store, NULL, false},
	{"release", NULL, run_release, undo_release, false},
	{"obtain", prepare_obtain, run_obtain, NULL, true},
	{"delete", NULL, run_delete, undo_delete, false},
};

/* ---- what holds after a failure */

/* The record as it reads, and whether anything is half there. */
static void describe(struct book *b, char *text, size_t room, const char *when)
{
	kata_sandbox_info info = {.size = sizeof(info)};
	kata_error *err = NULL;
	int rc = kata_persistence_get_info(b->p, "sb", &info, &err);

	cr_assert(rc == 0 || rc == KATA_E_NOT_FOUND, "%s: %s", when, error_text(err));
	error_clear(&err);
	snprintf(text, room, "%d %s epoch %llu generation %llu owner %lld, %u %u %u, %u intents", rc, info.state,
		 (unsigned long long)info.epoch, (unsigned long long)info.generation, (long long)info.owner_pid,
		 info.storage_count, info.nic_count, info.container_count, info.intent_count);
	info.size = sizeof(info);
	rc = kata_persistence_get_info(b->p, "another", &info, &err);
	cr_assert(rc == 0 || rc == KATA_E_NOT_FOUND, "%s: %s", when, error_text(err));
	error_clear(&err);
	snprintf(text + strlen(text), room - strlen(text), "; another: %d", rc);
}

static bool names_cause(const kata_error *err)
{
	static const char *const words[] = {"free space on the file system", "No space left", "Input/output error",
					    "disk I/O error", "unable to open"};

	for (; err; err = kata_error_get_cause(err))
		for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
			if (strstr(kata_error_get_message(err), words[i]))
				return true;
	return false;
}

/* The errno of the innermost error that has one. */
static int errno_of(const kata_error *err)
{
	int e = 0;

	for (; err; err = kata_error_get_cause(err))
		e = kata_error_get_errno(err) ? kata_error_get_errno(err) : e;
	return e;
}

static void assert_handle_is_free(struct book *b, const char *when)
{
	if (!b->db)
		return;
	cr_assert_eq(sqlite3_get_autocommit(b->db), 1, "%s: a transaction is left open", when);
	for (sqlite3_stmt *st = NULL; (st = sqlite3_next_stmt(b->db, st)) != NULL;)
		cr_assert_eq(sqlite3_stmt_busy(st), 0, "%s: a statement is left: %s", when, sqlite3_sql(st));
}

static void assert_lives(struct book *b, pid_t vmm, const char *when)
{
	cr_assert_eq(kill(vmm, 0), 0, "%s: the VMM has ended", when);
	assert_handle_is_free(b, when);
}

static void assert_unharmed(struct book *b, pid_t vmm, const char *when)
{
	assert_lives(b, vmm, when);
	if (kata_sandbox_get_state(b->k.s) == KATA_SANDBOX_RUNNING)
		standin_assert_answers(b->k.s, when);
}

static void forget_epoch(char *text)
{
	char *epoch = strstr(text, " epoch ");

	if (epoch)
		memmove(epoch + 6, epoch + 7 + strcspn(epoch + 7, " "),
			strlen(epoch + 7 + strcspn(epoch + 7, " ")) + 1);
}

static void assert_failed_as_it_should(struct book *b, const struct operation *op, int rc, const kata_error *err,
				       char *before, const char *when)
{
	char after[256];

	cr_assert(rc == KATA_E_IO || rc == KATA_E_PERMISSION, "%s: %s", when, error_text(err));
	cr_assert(names_cause(err), "%s: %s", when, error_text(err));
	describe(b, after, sizeof(after), when);
	if (op->may_raise) {
		forget_epoch(before);
		forget_epoch(after);
	}
	cr_assert_str_eq(after, before, "%s: %s: %s", when, after, error_text(err));
}

static void arm(struct book *b, int64_t n, int code, bool sticky)
{
	sqlite_shim.fail_at = disk.fail_at = n;
	sqlite_shim.sticky = disk.sticky = sticky;
	sqlite_shim.failed = disk.failed = false;
	sqlite_shim.fail_code = code;
	disk.below = b->path;
}

static bool disarm(void)
{
	sqlite_shim.fail_at = disk.fail_at = 0;
	return sqlite_shim.failed || disk.failed;
}

/* One attempt with the n-th write failing. False: there was no n-th. */
static bool fail_once(struct book *b, const struct operation *op, int64_t n, int code, bool sticky, int *failures)
{
	char when[96], before[256];
	kata_error *err = NULL;
	pid_t vmm = standin_pid(b->k.s);
	bool failed;
	int rc;

	snprintf(when, sizeof(when), "%s, write %lld%s, SQLite %d", op->name, (long long)n,
		 sticky ? " and all after" : "", code);
	if (op->prepare)
		op->prepare(b, &err);
	describe(b, before, sizeof(before), when);
	arm(b, n, code, sticky);
	rc = op->run(b, &err);
	failed = disarm();
	if (rc < 0) {
		cr_assert(failed, "%s: %s", when, error_text(err));
		assert_failed_as_it_should(b, op, rc, err, before, when);
		error_clear(&err);
		assert_unharmed(b, vmm, when);
		rc = op->run(b, &err);
		*failures += 1;
	}
	cr_assert_eq(rc, 0, "%s, again: %s", when, error_text(err));
	if (op->undo)
		op->undo(b, &err);
	assert_lives(b, vmm, when);
	return failed;
}

static void fail_everywhere(open_fn *open_it)
{
	struct book b = {0};
	int failures = 0;

	standin_kit_init(&b.k);
	sqlite_shim_make_default();
	sqlite_shim.no_sync = true;
	book_init(&b, open_it, NULL);
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		for (int way = 0; way < 2; way++) { /* an I/O error that passes, a disk that stays full */
			int code = way ? SQLITE_FULL : SQLITE_IOERR_WRITE, had = failures;

			for (int64_t n = 1; fail_once(&b, &operations[i], n, code, way > 0, &failures); n++)
				cr_assert_lt(n, 200);
			cr_assert_gt(failures, had, "%s was never failed", operations[i].name);
		}
	}
	book_deinit(&b);
}

Test(persistence_writes, each_fails_in_turn_on_the_callers_handle_with_a_wal, .timeout = 120)
{
	fail_everywhere(open_wal);
}

Test(persistence_writes, each_fails_in_turn_on_the_callers_handle_with_a_journal, .timeout = 120)
{
	fail_everywhere(open_journal);
}

Test(persistence_writes, each_fails_in_turn_in_a_file_of_ours, .timeout = 120)
{
	fail_everywhere(open_own);
}

Test(persistence_writes, each_fails_in_turn_in_a_directory, .timeout = 120)
{
	fail_everywhere(open_directory);
}

/* The file is synced before it takes the name, and the directory after it. */
Test(persistence_writes, a_record_in_a_directory_is_there_for_good_before_the_call_returns)
{
	kata_error *err = NULL;
	struct book b = {0};

	standin_kit_init(&b.k);
	book_init(&b, open_directory, NULL);
	disk.below = b.path;
	fixture_assert_ok(kata_persistence_store_sandbox(b.p, b.k.s, &err), err);
	cr_assert_str_eq(disk.acts, "wsrs");
	memset(disk.acts, 0, sizeof(disk.acts));
	fixture_assert_ok(kata_persistence_delete_sandbox(b.p, "sb", &err), err);
	cr_assert_str_eq(disk.acts, "rs");
	book_deinit(&b);
}

/* ---- a file system that is really full */

static void enter_mount_namespace(void)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		cr_skip_test("no mount namespace of its own here: %s", strerror(errno));
}

static void mount_tmpfs(const char *dir)
{
	if (mount("small", dir, "tmpfs", 0, "size=1m,mode=0700") < 0) {
		int e = errno;

		rmdir(dir);
		cr_skip_test("cannot mount a tmpfs here: %s", strerror(e));
	}
}

/* Of what is free half a MiB is left, so that filling it up takes no time. */
static void take_bulk(const char *dir)
{
	struct statvfs fs;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/bulk", dir);
	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	cr_assert_geq(fd, 0);
	cr_assert_eq(fstatvfs(fd, &fs), 0);
	cr_assert_eq(posix_fallocate(fd, 0, (off_t)(fs.f_bavail * fs.f_bsize) - (512 << 10)), 0);
	close(fd);
}

/* Unlike a tmpfs it gives blocks out late, and an fsync reaches it. */
static void mount_ext4(const char *dir)
{
	char image[64], *said = NULL;
	const char *const make[] = {"/sbin/mke2fs", "-qF", "-t", "ext4", "-b", "4096", "-m", "0", image, "16M", NULL};
	const char *const mount_it[] = {"/bin/mount", "-o", "loop", image, dir, NULL};
	int rc;

	snprintf(image, sizeof(image), "%s.image", dir);
	rc = fixture_run(make, 10000, &said);
	if (rc == 0) {
		free(said);
		rc = fixture_run(mount_it, 10000, &said);
	}
	unlink(image); /* the mount keeps it */
	if (rc != 0)
		rmdir(dir);
	if (rc != 0)
		cr_skip_test("cannot mount an ext4 here: %s", said ? said : "no answer");
	free(said);
	disk.is_real = true;
	take_bulk(dir);
}

/* Takes all but `pages` of what is free. */
static void fill(const char *dir, int pages)
{
	static const char page[4096] = "x";
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/ballast", dir);
	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	cr_assert_geq(fd, 0);
	cr_assert_eq(lseek(fd, 0, SEEK_END) % (off_t)sizeof(page), 0);
	while (write(fd, page, sizeof(page)) == (ssize_t)sizeof(page))
		;
	cr_assert_eq(errno, ENOSPC);
	cr_assert_eq(ftruncate(fd, lseek(fd, 0, SEEK_END) - pages * (off_t)sizeof(page)), 0);
	close(fd);
}

static void make_room(const char *dir)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/ballast", dir);
	cr_assert_eq(unlink(path), 0);
}

static bool run_while_full(struct book *b, const struct operation *op, int pages)
{
	char when[96], before[256];
	kata_error *err = NULL;
	pid_t vmm = standin_pid(b->k.s);
	int rc;

	snprintf(when, sizeof(when), "%s with %d free pages", op->name, pages);
	if (op->prepare)
		op->prepare(b, &err);
	describe(b, before, sizeof(before), when);
	fill(b->dir, pages);
	rc = op->run(b, &err);
	if (rc < 0) {
		assert_failed_as_it_should(b, op, rc, err, before, when);
		cr_assert_eq(rc, KATA_E_IO, "%s: %s", when, error_text(err));
		cr_assert_eq(errno_of(err), ENOSPC, "%s: errno %d: %s", when, errno_of(err), error_text(err));
		error_clear(&err);
		assert_unharmed(b, vmm, when);
		make_room(b->dir);
		cr_assert_eq(op->run(b, &err), 0, "%s, again: %s", when, error_text(err));
	} else {
		make_room(b->dir);
	}
	if (op->undo)
		op->undo(b, &err);
	assert_lives(b, vmm, when);
	return rc < 0;
}

/* SQLite writes over pages that it has: a checkpoint first, so that a full disk is met. */
static void be_full(open_fn *open_it, void (*mount_it)(const char *dir))
{
	char dir[] = "/tmp/kata-full-XXXXXX";
	struct book b = {0};

	enter_mount_namespace();
	cr_assert_not_null(mkdtemp(dir));
	mount_it(dir);
	standin_kit_init(&b.k);
	book_init(&b, open_it, dir);
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		int failures = 0;

		for (int pages = 0; pages < 8; pages += 1 + pages / 3) {
			kata_error *err = NULL;

			book_close(&b); /* and with it goes the WAL */
			fixture_assert_ok(open_it(&b, &err), err);
			failures += run_while_full(&b, &operations[i], pages);
		}
		cr_assert_gt(failures, operations[i].run != run_delete ? 0 : -1, "%s never found it full",
			     operations[i].name);
	}
	book_deinit(&b);
	cr_assert_eq(umount(dir), 0);
	cr_assert_eq(rmdir(dir), 0);
}

Test(persistence_writes, a_full_file_system_under_the_callers_handle_with_a_wal, .timeout = 120)
{
	be_full(open_wal, mount_tmpfs);
}

Test(persistence_writes, a_full_file_system_under_the_callers_handle_with_a_journal, .timeout = 120)
{
	be_full(open_journal, mount_tmpfs);
}

Test(persistence_writes, a_full_file_system_under_a_file_of_ours, .timeout = 120)
{
	be_full(open_own, mount_tmpfs);
}

Test(persistence_writes, a_full_file_system_under_a_directory, .timeout = 120)
{
	be_full(open_directory, mount_tmpfs);
}

Test(persistence_writes, a_full_ext4_under_the_callers_handle_with_a_wal, .timeout = 120)
{
	be_full(open_wal, mount_ext4);
}

Test(persistence_writes, a_full_ext4_under_a_directory, .timeout = 120)
{
	be_full(open_directory, mount_ext4);
}
