/* SPDX-License-Identifier: Apache-2.0 */
/* See recover.h. What lies in the directory is ours, but may be cut: everything is parsed strictly. What is cut counts
 * as absent; what could not be read for another reason is an error, for it says nothing about the machine. */
#include "vm/recover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/json.h"
#include "base/text.h"
#include "vm/core.h"
#include "vm/notes.h"

#define PID_FILE_MAX 128u
#define PID_MAX_VALUE 4194304 /* PID_MAX_LIMIT of 64-bit kernels */

static char *path_in(const struct kata__leftover *l, const char *name)
{
	return kata__format("%s/%s", l->dir, name);
}

static bool exists(const struct kata__leftover *l, const char *name)
{
	KATA_AUTO(free) char *path = path_in(l, name);

	return path && faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* ---- a wait for what another process does to a file; where the kernel gives no watch it has no patience */

struct wait {
	int fd;
	uint64_t until;
};

static struct wait begin_wait(uint64_t until)
{
	return (struct wait){.fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), .until = until};
}

static void watch(const struct wait *w, const char *path, uint32_t events)
{
	if (path && w->fd >= 0)
		(void)inotify_add_watch(w->fd, path, events);
}

/* False: nothing has happened until the end of the grace. */
static bool await(const struct wait *w)
{
	struct pollfd p = {.fd = w->fd, .events = POLLIN};
	char events[4096];
	int n;

	if (w->fd < 0)
		return false;
	do
		n = poll(&p, 1, kata__deadline_left_ms(w->until));
	while (n < 0 && errno == EINTR);
	return n > 0 && read(w->fd, events, sizeof(events)) > 0;
}

/* ---- the owner */

/* Also in the directory above, since one that is open here does not tell of its own end. */
static void watch_for_owner(const struct kata__leftover *l, const struct wait *w)
{
	KATA_AUTO(free) char *above = path_in(l, "..");

	watch(w, l->dir, IN_MOVED_TO);
	watch(w, above, IN_DELETE | IN_MOVED_FROM);
}

/* True: it is there now, or may be after a while. */
static bool may_get_owner(const struct kata__leftover *l, const struct wait *w)
{
	return exists(l, "owner.json") || (access(l->dir, F_OK) == 0 && await(w));
}

/* What was cut while it was written says as little as what is not there. Anything else (no fd, no memory, written by a
 * newer library) says nothing about the machine, and then nothing is done to it. */
static bool says_nothing(int rc)
{
	return rc == KATA_E_NOT_FOUND || rc == KATA_E_CORRUPT;
}

static int forward(int rc, kata_error **err, kata_error *take_error)
{
	if (rc < 0 && !says_nothing(rc))
		return kata__error_move(err, &take_error);
	kata_error_free(take_error);
	return 0;
}

static int read_owner(struct kata__leftover *l, uint64_t patience_ns, kata_error **err)
{
	struct wait w = {.fd = -1};
	kata_error *error = NULL;
	int rc = kata__owner_read(l->dir, &l->owner, &error);

	if (rc == KATA_E_NOT_FOUND && patience_ns) {
		w = begin_wait(patience_ns);
		watch_for_owner(l, &w);
		do {
			kata_error_free(kata__take_ptr(error));
			rc = kata__owner_read(l->dir, &l->owner, &error);
		} while (rc == KATA_E_NOT_FOUND && may_get_owner(l, &w));
		kata__close_fd(&w.fd);
	}
	l->has_owner = rc == 0;
	l->owner_lives = rc == 0 && kata__owner_is_alive(&l->owner);
	return forward(rc, err, error);
}

static int read_pooled(struct kata__leftover *l, kata_error **err)
{
	struct kata__owner steward = {0};
	kata_error *error = NULL;
	int rc = kata__owner_read_pooled(l->dir, &steward, &error);

	/* CORRUPT: it was cut while it was written, the factory has died in its making. */
	l->pooled = rc == 0 || rc == KATA_E_CORRUPT;
	l->steward_pid = steward.process.pid;
	l->steward_lives = rc == 0 && kata__owner_is_alive(&steward);
	return forward(rc, err, error);
}

/* ---- the journal */

static void on_step(void *user, const char *op, const char *subject, const char *step, bool done)
{
	char **last = user;

	(void)subject;
	(void)done;
	free(*last);
	*last = kata__format("%s/%s", op, step);
}

/* ---- the VMM */

/* Digits up to `end`, which is passed over. */
static bool take_number(char **at, char end, uint64_t max, uint64_t *ret)
{
	char *stop = NULL;

	if (**at < '0' || **at > '9')
		return false;
	errno = 0;
	*ret = strtoull(*at, &stop, 10);
	if (errno || *stop != end || *ret > max)
		return false;
	*at = stop + 1;
	return true;
}

/* "PID START_TIME BOOT_ID\n", as its process wrote it. */
static bool parse_identity(char *at, struct kata__process_identity *ret)
{
	uint64_t pid, start_time;

	if (!take_number(&at, ' ', PID_MAX_VALUE, &pid) || !take_number(&at, ' ', UINT64_MAX, &start_time) ||
	    strlen(at) != sizeof(ret->boot_id) || at[sizeof(ret->boot_id) - 1] != '\n')
		return false;
	at[sizeof(ret->boot_id) - 1] = '\0';
	*ret = (struct kata__process_identity){.pid = (pid_t)pid, .start_time = start_time};
	memcpy(ret->boot_id, at, sizeof(ret->boot_id));
	return true;
}

static int read_identity_in(const char *dir, bool *ret_said, struct kata__process_identity *ret, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/vmm.pid", dir);
	KATA_AUTO(free) char *text = NULL;
	kata_error *error = NULL;
	int rc;

	*ret_said = false;
	if (!path)
		return kata__fail_no_memory(err);
	rc = kata__read_file(path, PID_FILE_MAX, &text, NULL, &error);
	if (rc == 0)
		*ret_said = parse_identity(text, ret);
	return forward(rc, err, error);
}

static int read_identity(const struct kata__leftover *l, bool *ret_said, struct kata__process_identity *ret,
			 kata_error **err)
{
	return read_identity_in(l->dir, ret_said, ret, err);
}

static bool has_said(const struct kata__leftover *l)
{
	struct kata__process_identity identity;
	bool said;

	return read_identity(l, &said, &identity, NULL) < 0 || said;
}

bool kata__leftover_names(const char *dir, pid_t pid)
{
	struct kata__process_identity said, now;
	bool has;

	if (read_identity_in(dir, &has, &said, NULL) < 0)
		return true;
	return has && said.pid == pid && kata__process_identity_of(pid, &now, NULL) == 0 &&
	       said.start_time == now.start_time && strcmp(said.boot_id, now.boot_id) == 0;
}

/* The starter has locked it; that lock lasts while he lives, or a child of his that has not come to its exec. */
static bool is_held(int fd)
{
	return flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

/* The starter died while his child was on the way: it says who it is in a moment, or dies too. True: it is still there
 * and has said nothing. */
static bool await_child(const struct kata__leftover *l, uint64_t patience_ns)
{
	KATA_AUTO(free) char *path = path_in(l, "vmm.pid");
	KATA_AUTO_FD int fd = path ? open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;
	struct wait w;
	bool held;

	if (fd < 0 || !is_held(fd))
		return false;
	w = begin_wait(patience_ns);
	watch(&w, path, IN_MODIFY | IN_CLOSE_WRITE);
	while ((held = is_held(fd)) && !has_said(l) && await(&w))
		;
	kata__close_fd(&w.fd);
	return held && is_held(fd); /* a close is told a moment before it unlocks */
}

static bool has_ended(int pidfd, uint64_t patience_ns)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	int n;

	do
		n = poll(&p, 1, patience_ns ? kata__deadline_left_ms(patience_ns) : 0);
	while (n < 0 && errno == EINTR);
	return n > 0;
}

/* The pidfd says that it lives and started when it should have; whether it is of this directory, its files say. */
static int is_of(const struct stat *log, pid_t pid)
{
	return pid == getpid() ? 0 : kata__process_has_open(pid, log->st_dev, log->st_ino);
}

/* Some process of the host has it open: then vmm.pid was changed by hand, and this is the VMM. Another user's is none.
 */
static int has_another(const struct stat *log)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	int found = proc ? 0 : -errno;

	while (proc && (found == 0 || found == -EACCES) && (e = readdir(proc)))
		found = e->d_name[0] >= '1' && e->d_name[0] <= '9' ? is_of(log, (pid_t)atol(e->d_name)) : 0;
	if (proc)
		closedir(proc);
	return found == -EACCES ? 0 : found;
}

enum who { NOBODY, THE_VMM, ENDING, A_STRANGER };

/* Of a process that the pid file names and that lives. Negative: it cannot be told. */
static int who_is(const struct kata__leftover *l, pid_t pid, int pidfd, uint64_t patience_ns, kata_error **err)
{
	KATA_AUTO(free) char *path = path_in(l, "vmm.log");
	struct stat log = {0};
	int rc;

	if (!path)
		return kata__fail_no_memory(err);
	if (lstat(path, &log) < 0)
		return errno == ENOENT ? A_STRANGER : kata__fail_errno(err, errno, "cannot look at %s", path);
	rc = is_of(&log, pid);
	if (rc == 0 && kata__process_is_ending(pid))
		return has_ended(pidfd, patience_ns) ? NOBODY : ENDING;
	if (rc == 1)
		return THE_VMM;
	if (rc == 0 || rc == -EACCES)
		rc = has_another(&log);
	if (rc < 0)
		return kata__fail_errno(err, -rc, "cannot look who has %s open", path);
	return rc ? A_STRANGER : NOBODY;
}

static int judge_vmm(struct kata__leftover *l, pid_t pid, int *pidfd, uint64_t patience_ns, kata_error **err)
{
	int who = who_is(l, pid, *pidfd, patience_ns, err);

	if (who <= NOBODY)
		return who;
	l->vmm_pid = pid;
	if (who == ENDING)
		l->ending = true;
	else if (who == A_STRANGER)
		l->stranger = true;
	else if (l->has_owner)
		l->vmm_pidfd = kata__take_fd(pidfd);
	else
		l->doubtful = true;
	return 0;
}

static bool is_of_old_boot(const struct kata__process_identity *id)
{
	char boot_id[37];

	return id->boot_id[0] && kata__boot_id(boot_id, NULL) == 0 && strcmp(boot_id, id->boot_id) != 0;
}

static int find_vmm(struct kata__leftover *l, uint64_t patience_ns, kata_error **err)
{
	struct kata__process_identity identity = {0};
	KATA_AUTO_FD int pidfd = -1;
	kata_error *error = NULL;
	bool said = false;
	int rc = read_identity(l, &said, &identity, err);

	if (rc == 0 && !said && patience_ns) {
		l->becoming = await_child(l, patience_ns);
		rc = read_identity(l, &said, &identity, err);
	}
	if (rc < 0)
		return rc;
	if (said)
		l->becoming = false;
	l->old_boot = is_of_old_boot(said ? &identity : &l->owner.process);
	if (!said)
		return 0;
	rc = kata__process_open(&identity, &pidfd, &error);
	if (rc == 0)
		return judge_vmm(l, identity.pid, &pidfd, patience_ns, err);
	if (rc != KATA_E_GONE && rc != KATA_E_IDENTITY)
		return kata__error_move(err, &error);
	kata_error_free(error);
	return 0;
}

/* ---- the record */

uint64_t kata__vm_record_epoch(const char *json, size_t length)
{
	KATA_AUTO_JSON json_t *o = NULL;
	uint64_t epoch = 0;

	if (kata__json_parse("record", json, length, KATA__JSON_RECORD_MAX, &o, NULL) < 0 ||
	    kata__json_get_uint(o, "record", "epoch", INT64_MAX - 1, &epoch, NULL) < 0)
		return 0;
	return epoch;
}

char *kata__vm_read_released(const char *state_dir, const char *id, uint64_t epoch)
{
	KATA_AUTO(free) char *path = kata__format("%s/vm/%s/released.json", state_dir, id);
	KATA_AUTO(free) char *text = NULL;
	size_t length = 0;

	if (!path || kata__read_file(path, KATA__JSON_RECORD_MAX, &text, &length, NULL) < 0 ||
	    kata__vm_record_epoch(text, length) != epoch)
		return NULL;
	return kata__take_ptr(text);
}

/* It is written whole: one that cannot be read was spoilt by somebody, and is nobody's leave to end the machine. */
static int read_released(struct kata__leftover *l, kata_error **err)
{
	KATA_AUTO(free) char *path = path_in(l, "released.json");
	KATA_AUTO(free) char *text = NULL;
	kata_error *error = NULL;
	size_t length = 0;
	int rc;

	if (!path)
		return kata__fail_no_memory(err);
	rc = kata__read_file(path, KATA__JSON_RECORD_MAX, &text, &length, &error);
	if (rc == KATA_E_NOT_FOUND) {
		kata_error_free(error);
		return 0;
	}
	if (rc < 0)
		return kata__error_move(err, &error);
	l->released_epoch = kata__vm_record_epoch(text, length);
	l->released = l->released_epoch > 0;
	return l->released ? 0 : kata__fail(err, KATA_E_CORRUPT, HOST, "%s cannot be read", path);
}

/* ---- open, close */

static int lock_dir(struct kata__leftover *l, kata_error **err)
{
	l->lock_fd = open(l->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (l->lock_fd < 0)
		return kata__fail_errno(err, errno, "cannot open %s", l->dir);
	if (flock(l->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK
			       ? kata__fail(err, KATA_E_BUSY, HOST,
					    "another process takes %s over or recovers it just now", l->dir)
			       : kata__fail_errno(err, errno, "cannot lock %s", l->dir);
	return 0;
}

static int read_rest(struct kata__leftover *l, uint64_t patience_ns, kata_error **err)
{
	int rc = find_vmm(l, patience_ns, err);

	kata__journal_read(l->dir, on_step, &l->interrupted, NULL);
	/* Without a VMM there is nothing to attach to. */
	return rc < 0 || l->vmm_pidfd < 0 ? rc : read_released(l, err);
}

int kata__leftover_open(const char *state_dir, const char *id, uint64_t patience_ns, struct kata__leftover *ret,
			kata_error **err)
{
	struct kata__leftover l = {.lock_fd = -1, .vmm_pidfd = -1};
	int rc;

	snprintf(l.id, sizeof(l.id), "%s", id);
	l.dir = kata__format("%s/vm/%s", state_dir, id);
	rc = l.dir ? lock_dir(&l, err) : kata__fail_no_memory(err);
	if (rc == 0)
		rc = read_owner(&l, patience_ns, err);
	if (rc == 0 && access(l.dir, F_OK) < 0)
		rc = kata__fail(err, KATA_E_NOT_FOUND, HOST, "%s is gone", l.dir);
	if (rc == 0)
		rc = read_pooled(&l, err);
	if (rc == 0 && !l.owner_lives)
		rc = read_rest(&l, patience_ns, err);
	if (rc < 0) {
		kata__leftover_close(&l);
		return rc;
	}
	*ret = l;
	return 0;
}

void kata__leftover_close(struct kata__leftover *l)
{
	kata__close_fd(&l->vmm_pidfd);
	kata__close_fd(&l->lock_fd);
	free(l->interrupted);
	free(l->dir);
	*l = (struct kata__leftover){.lock_fd = -1, .vmm_pidfd = -1};
}

/* ---- removing, freeing */

int kata__leftover_kill(struct kata__leftover *l, kata_error **err)
{
	int rc = l->vmm_pidfd < 0 ? -ESRCH : kata__process_signal(l->vmm_pidfd, SIGKILL);

	if (l->stranger)
		return kata__fail(err, KATA_E_IDENTITY, HOST,
				  "vmm.pid of '%s' names process %d, which is not of that directory", l->id,
				  (int)l->vmm_pid);
	if (rc == 0 || rc == -ESRCH)
		return 0;
	return kata__fail_errno(err, -rc, "cannot kill the VMM of '%s', process %d", l->id, (int)l->vmm_pid);
}

static int await_end(const struct kata__leftover *l, uint64_t deadline_ns, kata_error **err)
{
	struct pollfd p = {.fd = l->vmm_pidfd, .events = POLLIN};
	int n;

	if (l->vmm_pidfd < 0)
		return 0;
	do
		n = poll(&p, 1, kata__deadline_left_ms(deadline_ns));
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return 0;
	return kata__fail(err, KATA_E_TIMEOUT, HOST, "the VMM of '%s', process %d, was killed and does not end", l->id,
			  (int)l->vmm_pid);
}

/* <state_dir>/vm goes with the last VM in it. */
static void remove_parent(const char *dir)
{
	KATA_AUTO(free) char *parent = kata__strdup(dir);

	if (!parent)
		return;
	*strrchr(parent, '/') = '\0';
	if (rmdir(parent) < 0)
		return; /* others live in it */
}

int kata__leftover_remove(struct kata__leftover *l, uint64_t deadline_ns, kata_error **err)
{
	int rc = await_end(l, deadline_ns, err);

	if (rc == 0)
		rc = kata__sweep_notes(l->dir, err);
	if (rc == 0)
		rc = kata__remove_tree(l->dir, err);
	if (rc == 0)
		remove_parent(l->dir);
	return rc;
}

int kata__leftover_set_free(struct kata__leftover *l, uint64_t epoch, kata_error **err)
{
	struct kata__owner owner = l->owner;

	if (!l->has_owner || l->owner_lives)
		return kata__fail(err, KATA_E_STATE, HOST, "the machine '%s' %s", l->id,
				  l->has_owner ? "has an owner" : "has no owner.json");
	/* A dead owner's record may be older than what he was doing: the rebuild must know that he died, and settles
	 * the difference. After a release it has all that he did, but not what he may have found half done. */
	if (l->released) {
		owner.process = (struct kata__process_identity){0};
		owner.unsettled = owner.unsettled || l->owner.process.pid != 0;
	}
	owner.epoch = epoch;
	if (owner.process.pid == l->owner.process.pid && owner.epoch == l->owner.epoch)
		return 0;
	return kata__owner_write(l->dir, &owner, err);
}

void kata__vm_rewind_epoch(kata_vm *vm)
{
	kata__vm_lock(vm);
	if (vm->shared->epoch > 1) {
		vm->shared->epoch--;
		vm->shared->generation++;
	}
	kata__vm_unlock(vm);
}
