/* SPDX-License-Identifier: Apache-2.0 */
/* See recover.h. What lies in the directory is ours, but may be cut: everything is parsed strictly, and what cannot be
 * read counts as absent. */
#include "vm/recover.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/json.h"
#include "base/text.h"
#include "vm/core.h"

#define GRACE_NS UINT64_C(1000000000)
#define GRACE_STEP_NS 20000000
#define CMDLINE_MAX (1024u * 1024u)

static char *path_in(const struct kata__leftover *l, const char *name)
{
	return kata__format("%s/%s", l->dir, name);
}

static bool exists(const struct kata__leftover *l, const char *name)
{
	KATA_AUTO(free) char *path = path_in(l, name);

	return path && faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void nap(void)
{
	nanosleep(&(struct timespec){.tv_nsec = GRACE_STEP_NS}, NULL);
}

/* ---- the owner */

static bool is_this_boot(const struct kata__leftover *l)
{
	char boot_id[37];

	return kata__boot_id(boot_id, NULL) == 0 && strcmp(boot_id, l->owner.process.boot_id) == 0;
}

/* A released owner.json has no process, and then no boot id either: released.json and the VMM say the rest. */
static bool may_have_vmm(const struct kata__leftover *l)
{
	return !l->has_owner || l->owner.process.pid == 0 || is_this_boot(l);
}

static void read_owner(struct kata__leftover *l, bool grace)
{
	uint64_t until = kata__now_ns() + GRACE_NS;

	while (kata__owner_read(l->dir, &l->owner, NULL) < 0) {
		if (!grace || exists(l, "owner.json") || kata__now_ns() > until || access(l->dir, F_OK) < 0)
			return;
		nap();
	}
	l->has_owner = true;
	l->owner_lives = kata__owner_is_alive(&l->owner);
}

static void read_pooled(struct kata__leftover *l)
{
	struct kata__owner steward;
	int rc = kata__owner_read_pooled(l->dir, &steward, NULL);

	l->pooled = rc != KATA_E_NOT_FOUND;
	if (rc < 0)
		return; /* cut while it was written: the factory has died in its making */
	l->steward_pid = steward.process.pid;
	l->steward_lives = kata__owner_is_alive(&steward);
}

/* ---- the journal */

struct last {
	char *name;
	bool spawning;
};

static void on_step(void *user, const char *op, const char *subject, const char *step, bool done)
{
	struct last *last = user;

	(void)subject;
	free(last->name);
	last->name = kata__format("%s/%s", op, step);
	if (strcmp(step, "spawn") == 0 && !done)
		last->spawning = true;
}

/* ---- the VMM */

static pid_t read_pid(const struct kata__leftover *l)
{
	KATA_AUTO(free) char *path = path_in(l, "vmm.pid");
	KATA_AUTO(free) char *text = NULL;
	char *end;
	size_t length = 0;
	long pid;

	if (!path || kata__read_file(path, 32, &text, &length, NULL) < 0 || length < 2 || text[length - 1] != '\n')
		return 0;
	pid = strtol(text, &end, 10);
	return *end == '\n' && pid > 1 && pid <= 4194304 ? (pid_t)pid : 0;
}

static bool contains(const char *data, size_t length, const char *needle)
{
	return memmem(data, length, needle, strlen(needle)) != NULL;
}

/* The process is the machine's: 1. It is not: 0. */
static int carries_uuid(pid_t pid, const char *uuid)
{
	KATA_AUTO(free) char *path = kata__format("/proc/%d/cmdline", (int)pid);
	KATA_AUTO(free) char *data = NULL;
	size_t length = 0;

	return path && uuid[0] && kata__read_file(path, CMDLINE_MAX, &data, &length, NULL) == 0 &&
	       contains(data, length, uuid);
}

/* The identity is checked before and after the look at the command line, so that both are of one process. */
static void identify_vmm(struct kata__leftover *l, pid_t pid, bool grace)
{
	uint64_t until = kata__now_ns() + GRACE_NS;
	struct kata__process_identity identity;
	KATA_AUTO_FD int pidfd = -1;

	if (kata__process_identity_of(pid, &identity, NULL) < 0 || kata__process_open(&identity, &pidfd, NULL) < 0)
		return;
	if (!l->has_owner) {
		l->doubtful = kata__process_is_alive(&identity);
		return;
	}
	/* Between vmm.pid and exec a child still has its parent's command line. */
	while (!carries_uuid(pid, l->owner.vm_uuid)) {
		if (!grace || kata__now_ns() > until || !kata__process_is_alive(&identity))
			return;
		nap();
	}
	if (!kata__process_is_alive(&identity))
		return;
	l->vmm_pidfd = kata__take_fd(&pidfd);
	l->vmm_pid = pid;
}

static void find_vmm(struct kata__leftover *l, bool spawning, bool grace)
{
	uint64_t until = kata__now_ns() + GRACE_NS;
	pid_t pid;

	if (!may_have_vmm(l))
		return;
	/* The starter died while its child was on the way: it says its pid in a moment, or never came to be. */
	while ((pid = read_pid(l)) == 0 && spawning && grace && kata__now_ns() < until)
		nap();
	if (pid > 0)
		identify_vmm(l, pid, grace && spawning);
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

static void read_released(struct kata__leftover *l)
{
	KATA_AUTO(free) char *path = path_in(l, "released.json");
	KATA_AUTO(free) char *text = NULL;
	size_t length = 0;

	if (!path || kata__read_file(path, KATA__JSON_RECORD_MAX, &text, &length, NULL) < 0)
		return;
	l->released_epoch = kata__vm_record_epoch(text, length);
	l->released = l->released_epoch > 0;
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

int kata__leftover_open(const char *state_dir, const char *id, bool grace, struct kata__leftover *ret, kata_error **err)
{
	struct kata__leftover l = {.lock_fd = -1, .vmm_pidfd = -1};
	struct last last = {0};
	int rc;

	snprintf(l.id, sizeof(l.id), "%s", id);
	l.dir = kata__format("%s/vm/%s", state_dir, id);
	rc = l.dir ? lock_dir(&l, err) : kata__fail_no_memory(err);
	if (rc == 0) {
		read_owner(&l, grace);
		rc = access(l.dir, F_OK) == 0 ? 0 : kata__fail(err, KATA_E_NOT_FOUND, HOST, "%s is gone", l.dir);
	}
	if (rc < 0) {
		kata__leftover_close(&l);
		return rc;
	}
	if (!l.owner_lives) {
		kata__journal_read(l.dir, on_step, &last, NULL);
		l.interrupted = last.name;
		read_released(&l);
		read_pooled(&l);
		find_vmm(&l, last.spawning, grace);
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
	if (owner.process.pid == 0 && owner.epoch == epoch)
		return 0;
	owner.process = (struct kata__process_identity){0};
	owner.epoch = epoch;
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
