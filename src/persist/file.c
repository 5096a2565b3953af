/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records in a directory: a file a record, for people without a database.
 *
 *     DIR/format               "kata-records 1": looked at before anything else
 *     DIR/lock                 locked while an op is at work: shared by readers, alone by a writer, who writes his pid
 * in it DIR/sandboxes/ID.json    and networks/, snapshots/, templates/, pooled-vms/
 *
 * A file's first line is "kata-record SHA256 LENGTH" of the JSON that follows. It is written beside, synced and
 * renamed, and its directory synced: after a crash or a power failure it is the one of before or the new one. What is
 * cut, changed or of another length is CORRUPT.
 *
 * The lock is one of the open file (F_OFD_SETLK): it goes with the process that holds it, excludes two persistences of
 * one process too, and is not lost when another fd of the file is closed. There is no event for a lock that becomes
 * free within a deadline, so it is asked for again, with growing pauses; a holder that is stuck costs 10 s and is
 * named. Readers who come one after another would keep a writer out: so all pass a gate, another byte of that file,
 * which a writer keeps shut from when he comes to when he goes.
 *
 * Invariants: 1. nothing is followed: files are opened with O_NOFOLLOW, names are ids. 2. the directory is ours alone.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/text.h"
#include "persist/shelf.h"

#define FORMAT_WORD "kata-records"
#define FORMAT_VERSION 1
#define LOCK_MS 10000u
#define GATE ((off_t)1 << 40) /* the byte; what is before it is the lock */
#define FILE_MAX (4u * 1024u * 1024u + 128u)
#define SUM_HEX (2 * SHA256_DIGEST_SIZE)

struct file {
	pthread_mutex_t mutex; /* threads of this persistence; the OFD lock is for everybody else */
	kata_context *ctx;
	char *dir;
	int lock_fd;
};

/* ---- the lock */

static int try_lock(const struct file *f, short type, off_t from, off_t length)
{
	struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = from, .l_len = length};

	return fcntl(f->lock_fd, F_OFD_SETLK, &l) < 0 ? -errno : 0;
}

static int busy(const struct file *f, kata_error **err)
{
	char who[64] = "";
	ssize_t n = pread(f->lock_fd, who, sizeof(who) - 1, 0);
	long long pid = 0, start_time = 0;

	if (n <= 0 || sscanf(who, "%lld %lld", &pid, &start_time) != 2)
		pid = start_time = 0;
	return kata__fail(
		err, KATA_E_BUSY, HOST,
		"the records in '%s' are locked for more than %u s, last by process %lld (start time %lld): is it "
		"stuck?",
		f->dir, LOCK_MS / 1000, pid, start_time);
}

static int wait_for_lock(const struct file *f, short type, off_t from, off_t length, uint64_t deadline,
			 kata_error **err)
{
	long pause_ns = 200000;
	int rc;

	while ((rc = try_lock(f, type, from, length)) == -EAGAIN || rc == -EACCES) {
		struct timespec pause = {0, pause_ns};

		if (kata__now_ns() >= deadline)
			return busy(f, err);
		nanosleep(&pause, NULL);
		pause_ns = pause_ns < 20000000 ? 2 * pause_ns : pause_ns;
	}
	return rc < 0 ? kata__fail_errno(err, -rc, "cannot lock '%s/lock'", f->dir) : 0;
}

/* For who waits too long. Not worth an error. */
static void say_who(const struct file *f)
{
	const struct kata__process_identity *self = kata__context_self(f->ctx);
	char who[64];
	int n = snprintf(who, sizeof(who), "%-10lld %-20llu\n", (long long)self->pid,
			 (unsigned long long)self->start_time);

	if (pwrite(f->lock_fd, who, (size_t)n, 0) < 0)
		return;
}

static void file_unlock(void *self)
{
	struct file *f = self;

	try_lock(f, F_UNLCK, 0, 0);
	pthread_mutex_unlock(&f->mutex);
}

/* In a directory that was made anew meanwhile, others lock another file. */
static int check_lock(const struct file *f, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/lock", f->dir);
	struct stat ours, there;

	if (!path)
		return kata__fail_no_memory(err);
	if (fstat(f->lock_fd, &ours) == 0 && lstat(path, &there) == 0 && ours.st_ino == there.st_ino &&
	    ours.st_dev == there.st_dev)
		return 0;
	return kata__fail(err, KATA_E_IO, HOST,
			  "'%s' is not the directory that was opened: was it removed or unmounted? open it again",
			  f->dir);
}

static int file_lock(void *self, bool exclusive, kata_error **err)
{
	struct file *f = self;
	short type = exclusive ? F_WRLCK : F_RDLCK;
	uint64_t deadline = kata__deadline_in_ms(LOCK_MS);
	int rc;

	pthread_mutex_lock(&f->mutex);
	rc = wait_for_lock(f, type, GATE, 1, deadline, err);
	if (rc == 0)
		rc = wait_for_lock(f, type, 0, GATE, deadline, err);
	if (rc == 0)
		rc = check_lock(f, err);
	if (rc < 0)
		file_unlock(f);
	else if (exclusive)
		say_who(f);
	else
		try_lock(f, F_UNLCK, GATE, 1);
	return rc;
}

/* ---- a text and its checksum */

static void checksum(const char *text, size_t len, char out[SUM_HEX + 1])
{
	uint8_t digest[SHA256_DIGEST_SIZE];
	struct sha256_ctx ctx;

	sha256_init(&ctx);
	sha256_update(&ctx, len, (const uint8_t *)text);
	sha256_digest(&ctx, sizeof(digest), digest);
	for (size_t i = 0; i < sizeof(digest); i++)
		snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

/* The text within the file's bytes, moved to their beginning. NULL, or what is wrong. */
static const char *unwrap(char *data, size_t len)
{
	char sum[SUM_HEX + 1], expected[SUM_HEX + 1] = "";
	char *end = memchr(data, '\n', len);
	size_t length = 0, rest;
	int used = 0;

	if (!end || sscanf(data, "kata-record %64[0-9a-f] %zu%n", expected, &length, &used) != 2 || data + used != end)
		return "its first line is not that of a record";
	rest = len - (size_t)(end + 1 - data);
	if (rest != length)
		return "it was cut or has grown";
	if (memchr(end + 1, '\0', rest))
		return "it has a NUL";
	checksum(end + 1, length, sum);
	if (strcmp(sum, expected) != 0)
		return "its checksum is another";
	memmove(data, end + 1, rest + 1);
	return NULL;
}

static char *path_of(const struct file *f, int drawer, const char *id)
{
	return kata__format("%s/%s/%s.json", f->dir, kata__drawer_names[drawer], id);
}

/* That there is no file says that there is no record only where its directory still is. */
static int check_drawer(const struct file *f, int drawer, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/%s", f->dir, kata__drawer_names[drawer]);

	if (!path)
		return kata__fail_no_memory(err);
	if (access(path, F_OK) == 0)
		return 0;
	return kata__error_set(err, KATA__BIRTH, KATA_E_IO, KATA_ORIGIN_HOST, errno,
			       "cannot look into '%s': %s: was the directory of the records removed or unmounted?",
			       path, strerrordesc_np(errno));
}

static int file_get(void *self, int drawer, const char *id, char **ret, kata_error **err)
{
	KATA_AUTO(free) char *path = path_of(self, drawer, id);
	KATA_AUTO(kata_error_free) kata_error *own = NULL;
	KATA_AUTO(free) char *data = NULL;
	const char *wrong;
	size_t len = 0;
	int rc;

	*ret = NULL;
	if (!path)
		return kata__fail_no_memory(err);
	rc = kata__read_file(path, FILE_MAX, &data, &len, &own);
	if (rc == KATA_E_NOT_FOUND)
		return check_drawer(self, drawer, err);
	if (rc < 0)
		return kata__error_move(err, &own);
	wrong = unwrap(data, len);
	if (wrong)
		return kata__fail(err, KATA_E_CORRUPT, HOST, "'%s': %s", path, wrong);
	*ret = kata__take_ptr(data);
	return 0;
}

/* The failure may have come after the rename, when the directory was synced: `before` is another name of the file that
 * stood there, or NULL where there was none. */
static void put_back(const char *path, const char *before)
{
	if (!before)
		unlink(path);
	else if (rename(before, path) == 0) /* does nothing where both are still one file */
		unlink(before);
}

/* All of it or nothing: with another name of the file that stands there, until the new one is there for good. */
static int replace_file(const char *path, const char *data, kata_error **err)
{
	KATA_AUTO(free) char *before = kata__format("%s.%ld.before.tmp", path, (long)getpid());
	bool had, kept;
	int rc;

	if (!before)
		return kata__fail_no_memory(err);
	unlink(before);
	kept = link(path, before) == 0;
	had = kept || errno != ENOENT;
	rc = kata__write_file_atomic(path, data, strlen(data), err);
	if (rc < 0 && (kept || !had))
		put_back(path, kept ? before : NULL);
	else if (kept)
		unlink(before);
	return rc;
}

static int file_put(void *self, int drawer, const char *id, const char *text, kata_error **err)
{
	KATA_AUTO(free) char *path = path_of(self, drawer, id);
	KATA_AUTO(free) char *data = NULL;
	size_t len = strlen(text);
	char sum[SUM_HEX + 1];

	if (path && len + 128 <= FILE_MAX) {
		checksum(text, len, sum);
		data = kata__format("kata-record %s %zu\n%s", sum, len, text);
	} else if (path) {
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "'%s': has %zu bytes, at most %u can be read back",
				  path, len, FILE_MAX - 128);
	}
	if (!path || !data)
		return kata__fail_no_memory(err);
	return replace_file(path, data, err);
}

static int sync_dir(const char *path, kata_error **err)
{
	KATA_AUTO_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0)
		return kata__fail_errno(err, errno, "cannot sync '%s'", path);
	return 0;
}

static int file_remove(void *self, int drawer, const char *id, kata_error **err)
{
	KATA_AUTO(free) char *path = path_of(self, drawer, id), *gone = NULL;
	char *slash;
	int rc;

	gone = path ? kata__format("%s.%ld.tmp", path, (long)getpid()) : NULL;
	if (!gone)
		return kata__fail_no_memory(err);
	if (rename(path, gone) < 0)
		return errno == ENOENT ? 0 : kata__fail_errno(err, errno, "cannot remove '%s'", path);
	slash = strrchr(path, '/');
	*slash = '\0';
	rc = sync_dir(path, err);
	*slash = '/';
	if (rc < 0)
		put_back(path, gone);
	else
		unlink(gone); /* or the next who opens the directory sweeps it */
	return rc;
}

/* ---- lists */

/* "pod" of "pod.json"; false for other names. */
static bool take_id(const char *name, char id[65])
{
	size_t len = strlen(name);

	if (len < 6 || len - 5 > KATA__ID_MAX || strcmp(name + len - 5, ".json") != 0)
		return false;
	memcpy(id, name, len - 5);
	id[len - 5] = '\0';
	return kata__id_is_valid(id);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int read_names(DIR *dir, struct kata__id_list *l, kata_error **err)
{
	struct dirent *d;
	int rc = kata__id_list_add(l, NULL, err);

	while (rc == 0 && (errno = 0, d = readdir(dir)) != NULL) {
		char id[65];

		if (take_id(d->d_name, id))
			rc = kata__id_list_add(l, id, err);
	}
	return rc == 0 && errno ? kata__fail_errno(err, errno, "cannot read the directory") : rc;
}

static int file_list(void *self, int drawer, char ***ret, kata_error **err)
{
	struct file *f = self;
	KATA_AUTO(free) char *path = kata__format("%s/%s", f->dir, kata__drawer_names[drawer]);
	struct kata__id_list l = {0};
	DIR *dir;
	int rc;

	if (!path)
		return kata__fail_no_memory(err);
	dir = opendir(path);
	if (!dir)
		return kata__fail_errno(err, errno, "cannot read '%s'", path);
	rc = read_names(dir, &l, err);
	closedir(dir);
	if (rc < 0) {
		kata__strv_free(l.list);
		return rc;
	}
	qsort(l.list, l.count, sizeof(char *), by_name);
	*ret = l.list;
	return 0;
}

static void file_free(void *self)
{
	struct file *f = self;

	kata__close_fd(&f->lock_fd);
	pthread_mutex_destroy(&f->mutex);
	free(f->dir);
	free(f);
}

static const struct kata__shelf_ops file_ops = {
	.lock = file_lock,
	.unlock = file_unlock,
	.get = file_get,
	.put = file_put,
	.remove = file_remove,
	.list = file_list,
	.free = file_free,
};

/* ---- opening */

static int make_dir(const char *path, kata_error **err)
{
	struct stat st;

	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return errno == ENOENT ? kata__fail(err, KATA_E_NOT_FOUND, CALLER,
						    "path: the directory of '%s' does not exist", path)
				       : kata__fail_errno(err, errno, "path: cannot make '%s'", path);
	if (lstat(path, &st) < 0)
		return kata__fail_errno(err, errno, "path: cannot look at '%s'", path);
	if (!S_ISDIR(st.st_mode))
		return kata__fail(err, KATA_E_INVALID, CALLER, "path: '%s' is no directory", path);
	if (st.st_uid != geteuid() || (st.st_mode & 022))
		return kata__fail(
			err, KATA_E_PERMISSION, HOST,
			"path: '%s' belongs to uid %d with mode %o: it must be ours, and writable for nobody else",
			path, (int)st.st_uid, (unsigned)(st.st_mode & 07777));
	return 0;
}

/* Under the lock. A directory that is not ours is left as it is. *ret_made: it had none. */
static int check_format(const struct file *f, bool *ret_made, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/format", f->dir);
	KATA_AUTO(kata_error_free) kata_error *own = NULL;
	KATA_AUTO(free) char *text = NULL;
	int version = 0, used = 0, rc;

	if (!path)
		return kata__fail_no_memory(err);
	rc = kata__read_file(path, 64, &text, NULL, &own);
	if (rc == KATA_E_NOT_FOUND) {
		char line[64];
		int n = snprintf(line, sizeof(line), FORMAT_WORD " %d\n", FORMAT_VERSION);

		*ret_made = true;
		return kata__write_file_atomic(path, line, (size_t)n, err);
	}
	if (rc < 0)
		return kata__error_move(err, &own);
	if (sscanf(text, FORMAT_WORD " %d\n%n", &version, &used) != 1 || !used || version < 1)
		return kata__fail(err, KATA_E_CORRUPT, HOST, "'%s' does not say '" FORMAT_WORD " %d'", path,
				  FORMAT_VERSION);
	if (version > FORMAT_VERSION)
		return kata__fail(err, KATA_E_VERSION, HOST,
				  "'%s' is of version %d, this library knows up to %d: use a newer library", path,
				  version, FORMAT_VERSION);
	return 0;
}

/* What was being written when its writer died. */
static void sweep(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *d;

	while (dir && (d = readdir(dir)) != NULL) {
		size_t len = strlen(d->d_name);

		if (len > 4 && strcmp(d->d_name + len - 4, ".tmp") == 0)
			unlinkat(dirfd(dir), d->d_name, 0);
	}
	if (dir)
		closedir(dir);
}

static int make_drawers(const struct file *f, kata_error **err)
{
	bool made = false;
	int rc = check_format(f, &made, err);

	for (int i = 0; rc == 0 && i < KATA__DRAWERS; i++) {
		KATA_AUTO(free) char *path = kata__format("%s/%s", f->dir, kata__drawer_names[i]);

		rc = path ? make_dir(path, err) : kata__fail_no_memory(err);
		if (rc == 0 && !made) /* what was there before is not ours */
			sweep(path);
	}
	return rc;
}

static int open_lock(struct file *f, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/lock", f->dir);

	if (!path)
		return kata__fail_no_memory(err);
	f->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	return f->lock_fd < 0 ? kata__fail_errno(err, errno, "cannot open '%s'", path) : 0;
}

/* A relative path counts from the directory that is the working one now. */
static int open_dir(struct file *f, const char *path, kata_error **err)
{
	int rc = make_dir(path, err);

	if (rc < 0)
		return rc;
	f->dir = realpath(path, NULL);
	rc = f->dir ? open_lock(f, err) : kata__fail_errno(err, errno, "path: cannot resolve '%s'", path);
	if (rc == 0)
		rc = file_lock(f, true, err);
	if (rc < 0)
		return rc;
	rc = make_drawers(f, err);
	file_unlock(f);
	return rc;
}

int kata_persistence_new_file(kata_context *context, const char *path, kata_persistence **ret_persistence,
			      kata_error **err)
{
	struct file *f;
	int rc;

	if (!context || !ret_persistence || !path || !*path)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is %s",
				  !context           ? "context"
				  : !ret_persistence ? "ret_persistence"
						     : "path",
				  path && !*path ? "empty" : "NULL");
	f = calloc(1, sizeof(*f));
	if (!f)
		return kata__fail_no_memory(err);
	pthread_mutex_init(&f->mutex, NULL);
	f->ctx = context;
	f->lock_fd = -1;
	rc = open_dir(f, path, err);
	if (rc < 0) {
		file_free(f);
		return rc;
	}
	return kata__shelf_publish(context, "file", &file_ops, f, kata__format("'%s'", path), ret_persistence, err);
}
