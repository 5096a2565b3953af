/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Machines: a directory below <state_dir>/vm and the VMM that it says is its own.
 *
 *   owner lives, or somebody is at it just now         OWNED
 *   pooled by a factory that lives, on its way out of  OWNED
 *   no directory of ours, or vmm.pid names a stranger  FOREIGN
 *   a VMM may live, but nothing can prove which it is  FAILED
 *   pooled by a factory that is dead                   ORPHAN, also when it was released: nobody was given it
 *   VMM lives, and released.json or a record names it  ATTACHABLE (applied: freed from its dead owner)
 *   VMM lives                                          ORPHAN (applied: VMM killed, directory removed)
 *   no VMM, and an operation was cut                   HALF_MADE (applied: directory removed)
 *   no VMM                                             GONE (likewise)
 *
 * Invariants: 1. a VMM is killed only when no record could name it: records that cannot be read protect every machine.
 * 2. all of a batch are killed before the first is waited for, so that one stuck VMM costs its own 10 s and nobody
 * else's. 3. a directory is locked from the look that decides to the end: of two recoveries, one does it.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "recover/recover.h"
#include "vm/recover.h"

#define REMOVE_MS 10000u

/* While it is being undone. */
struct undoing {
	struct kata__leftover leftover;
	uint64_t deadline_ns;
};

/* ---- verdicts ---- */

static char *describe(const struct kata__leftover *l)
{
	const char *cut = l->interrupted ? l->interrupted : "nothing under way";

	if (!l->has_owner)
		return kata__format("no readable owner.json: left while it was being made or removed");
	if (l->old_boot)
		return kata__format("the host was rebooted since; last step: %s", cut);
	if (l->pooled)
		return kata__format("it was the stock of process %d, a factory that is dead; last step: %s",
				    (int)l->steward_pid, cut);
	if (l->vmm_pidfd < 0 && l->owner.process.pid == 0)
		return kata__format("released, and its VMM is gone since; last step: %s", cut);
	if (l->vmm_pidfd < 0)
		return kata__format("its VMM is gone; owner process %d is dead; last step: %s",
				    (int)l->owner.process.pid, cut);
	return kata__format("VMM %d lives, owner process %d is dead, no record names it; last step: %s",
			    (int)l->vmm_pid, (int)l->owner.process.pid, cut);
}

/* True: whose it is cannot be told, or is nobody's business. */
static bool judge_doubtful(const struct kata__leftover *l, struct kata__finding *f)
{
	int vmm = (int)l->vmm_pid;

	if (l->stranger)
		kata__finding_say(
			f, KATA_RECOVER_FOREIGN,
			kata__format("process %d of vmm.pid is not of this directory, but another may be: it was "
				     "changed by hand; end what has its vmm.log open",
				     vmm));
	else if (l->doubtful)
		kata__finding_say(f, KATA_RECOVER_FAILED,
				  kata__format("owner.json cannot be read, and VMM %d of vmm.pid lives: end it by hand "
					       "if it is nobody's",
					       vmm));
	else if (l->ending)
		kata__finding_say(f, KATA_RECOVER_FAILED,
				  kata__format("process %d of vmm.pid is ending: recover again", vmm));
	else if (l->becoming)
		kata__finding_say(f, KATA_RECOVER_FAILED,
				  kata__format("owner process %d is dead, but a child of it is still about to become "
					       "the VMM: recover again",
					       (int)l->owner.process.pid));
	else
		return false;
	return true;
}

static void judge_living(const struct kata__recovery *r, const struct kata__leftover *l, struct kata__finding *f)
{
	const kata_sandbox_info *record = kata__recover_record_of(r, l->owner.vm_uuid);
	int vmm = (int)l->vmm_pid;

	if (l->pooled)
		kata__finding_say(f, KATA_RECOVER_ORPHAN, describe(l));
	else if (record)
		kata__finding_say(f, KATA_RECOVER_ATTACHABLE,
				  kata__format("VMM %d lives, recorded as sandbox '%s'", vmm, record->id));
	else if (l->released)
		kata__finding_say(f, KATA_RECOVER_ATTACHABLE, kata__format("VMM %d lives, released", vmm));
	else if (r->unreadable)
		kata__finding_say(f, KATA_RECOVER_FAILED,
				  kata__format("VMM %d lives, and records that cannot be read may name it: %s", vmm,
					       r->unreadable));
	else
		kata__finding_say(f, KATA_RECOVER_ORPHAN, describe(l));
}

static void judge(const struct kata__recovery *r, const struct kata__leftover *l, struct kata__finding *f)
{
	if (l->has_owner)
		snprintf(f->vm_uuid, sizeof(f->vm_uuid), "%s", l->owner.vm_uuid);
	if (l->owner_lives)
		kata__finding_say(f, KATA_RECOVER_OWNED,
				  kata__format(l->pooled ? "process %d keeps it ready" : "process %d owns it",
					       (int)l->owner.process.pid));
	else if (l->pooled && l->steward_lives)
		kata__finding_say(f, KATA_RECOVER_OWNED,
				  kata__format("process %d is giving it to another process", (int)l->steward_pid));
	else if (judge_doubtful(l, f))
		return;
	else if (l->vmm_pidfd >= 0)
		judge_living(r, l, f);
	else
		kata__finding_say(f, l->interrupted || !l->has_owner ? KATA_RECOVER_HALF_MADE : KATA_RECOVER_GONE,
				  describe(l));
	if (f->verdict == KATA_RECOVER_ATTACHABLE && (r->flags & KATA_RECOVER_ATTACHABLE_TOO))
		kata__finding_say(f, KATA_RECOVER_ORPHAN, kata__format("%s; not wanted any more", f->text));
}

/* 0: *ret is open. 1: the verdict is said, or it is not there any more (undone). */
static int look(const struct kata__recovery *r, struct kata__finding *f, uint64_t patience_ns,
		struct kata__leftover *ret)
{
	kata_error *error = NULL;
	int rc = kata__leftover_open(kata_context_get_state_dir(r->ctx), f->id, patience_ns, ret, &error);

	if (rc == 0) {
		judge(r, ret, f);
		return 0;
	}
	if (rc == KATA_E_NOT_FOUND) {
		f->undone = true;
		kata_error_free(error);
	} else {
		kata__finding_say_error(f, rc == KATA_E_BUSY ? KATA_RECOVER_OWNED : KATA_RECOVER_FAILED, error);
	}
	return 1;
}

/* ---- finding ---- */

/* Why what has that name is none of ours, or NULL. */
static const char *is_foreign(const char *parent, const char *name, char buf[96])
{
	KATA_AUTO(free) char *path = kata__format("%s/%s", parent, name);
	struct stat st;

	if (!kata__id_is_valid(name))
		return "its name is none that a machine can have";
	if (!path || lstat(path, &st) < 0)
		return NULL;
	if (!S_ISDIR(st.st_mode))
		return "it is no directory";
	if (st.st_uid == geteuid() && !(st.st_mode & 022))
		return NULL;
	snprintf(buf, 96, "it belongs to uid %u with mode %04o: it must be ours alone", (unsigned)st.st_uid,
		 (unsigned)(st.st_mode & 07777));
	return buf;
}

static int find_one(struct kata__recovery *r, const char *parent, const char *name, kata_error **err)
{
	char buf[96];
	const char *foreign = is_foreign(parent, name, buf);
	struct kata__finding *f = NULL;
	struct kata__leftover l;
	int rc = kata__finding_add(r, &kata__recover_vm, name, KATA_RECOVER_FOREIGN,
				   kata__strdup(foreign ? foreign : ""), &f, err);

	if (rc < 0 || foreign)
		return rc;
	if (look(r, f, r->patience_ns, &l) == 0)
		kata__leftover_close(&l); /* many of these may be there, and fds are few */
	if (f->undone)
		kata__finding_drop_last(r); /* it went while we looked */
	return 0;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(((const struct kata__finding *)a)->id, ((const struct kata__finding *)b)->id);
}

static int find(struct kata__recovery *r, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/vm", kata_context_get_state_dir(r->ctx));
	struct dirent *d;
	DIR *dir;
	int rc = 0;

	if (!path)
		return kata__fail_no_memory(err);
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? 0 : kata__fail_errno(err, errno, "cannot read %s", path);
	while (rc == 0 && (errno = 0, d = readdir(dir)) != NULL)
		if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
			rc = find_one(r, path, d->d_name, err);
	if (rc == 0 && errno != 0)
		rc = kata__fail_errno(err, errno, "cannot read %s", path);
	closedir(dir);
	if (r->count)
		qsort(r->findings, r->count, sizeof(*r->findings), compare_names);
	r->machine_count = r->count;
	return rc;
}

/* ---- undoing ---- */

static void free_undoing(void *data)
{
	struct undoing *u = data;

	if (u)
		kata__leftover_close(&u->leftover);
	free(u);
}

static void hold(struct kata__recovery *r, struct kata__finding *f)
{
	struct undoing *u = calloc(1, sizeof(*u));

	if (!u)
		kata__finding_say(f, KATA_RECOVER_FAILED, kata__strdup("out of memory"));
	else if (look(r, f, 0, &u->leftover) != 0)
		free(u);
	else if (kata__finding_is_undoable(f))
		f->data = u;
	else
		free_undoing(u);
}

/* One that is recorded meanwhile is let go of: `keep` locks it itself. */
static void begin_undo(struct kata__recovery *r, struct kata__finding *f)
{
	struct undoing *u = f->data;
	kata_error *error = NULL;

	if (!u)
		return;
	judge(r, &u->leftover, f);
	if (!kata__finding_is_undoable(f)) {
		free_undoing(kata__take_ptr(f->data));
		return;
	}
	u->deadline_ns = kata__deadline_in_ms(REMOVE_MS);
	if (kata__leftover_kill(&u->leftover, &error) < 0)
		kata__finding_say_error(f, KATA_RECOVER_FAILED, error);
}

static int undo(struct kata__recovery *r, struct kata__finding *f, kata_error **err)
{
	struct undoing *u = kata__take_ptr(f->data);
	int rc = kata__leftover_remove(&u->leftover, u->deadline_ns, err);

	free_undoing(u);
	return rc;
}

/* A dead owner must not stand in the way of who takes it over next. */
static int set_free(const struct kata__recovery *r, struct kata__leftover *l, kata_error **err)
{
	const kata_sandbox_info *record = kata__recover_record_of(r, l->owner.vm_uuid);
	uint64_t epoch = l->released_epoch;
	kata_error *error = NULL;

	if (!l->released)
		epoch = record ? kata__recover_epoch_of(r, record, &error) : 0;
	if (error)
		return kata__error_move(err, &error);
	return epoch ? kata__leftover_set_free(l, epoch, err) : 0;
}

static int keep(struct kata__recovery *r, struct kata__finding *f, kata_error **err)
{
	struct kata__leftover l;
	int rc;

	if (look(r, f, 0, &l) != 0)
		return 0;
	rc = f->verdict == KATA_RECOVER_ATTACHABLE ? set_free(r, &l, err) : 0;
	kata__leftover_close(&l);
	return rc;
}

const struct kata__kind kata__recover_vm = {.name = "vm",
					    .find = find,
					    .hold = hold,
					    .begin_undo = begin_undo,
					    .undo = undo,
					    .keep = keep,
					    .free = free_undoing};
