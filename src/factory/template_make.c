/* SPDX-License-Identifier: Apache-2.0 */
/*
 * template_make.c - finding the template, and making it where there is none that is good.
 *
 *	open, lock, look | found, or of another config: the end
 *	make-room, build, start, connect-agent, release-agent, warm-up, snapshot, destroy | the machine
 *	verify, publish, load, retire | its snapshot becomes the template
 *
 * What was there stays until `publish`, which exchanges the two. The lock is let go of in the finish, behind all undo.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/fd.h"
#include "base/text.h"
#include "factory/fit.h"
#include "factory/identity.h"
#include "factory/template.h"
#include "factory/template_lock.h"
#include "vm/save.h"

#define WHOLE_MS 600000u
#define UNDO_MS 30000u

struct find {
	struct kata__template *t; /* referenced */
	struct kata__vm_config_copy *config;
	bool wanted;
	struct kata__template_lock lock;
	struct kata__template_base *found; /* the result */
	bool is_done;                      /* nothing is to be made */

	char *memory_path, *base_path,
		*new_path; /* of the making: RAM, snapshot; new_path is where the latter becomes public */
	struct kata__template_record record;
	struct kata__stamp stamp; /* the files it boots from, before it did */
	kata_vm *vm;
	kata_agent *agent;
	bool exchanged; /* the old template is at base_path */
	bool retired;   /* it was, and goes: the new one stays */
};

static struct find *find_of(const kata_op *op)
{
	return kata__op_data(op);
}

static int run_child(kata_op *op, int rc, kata_op *child, kata_error **err)
{
	return rc < 0 ? rc : kata__op_run_child(op, child, err);
}

/* ---- what is there ---- */

static int step_open(kata_op *op, kata_error **err)
{
	return kata__template_lock_open(&find_of(op)->lock, err);
}

static int undo_open(kata_op *op, kata_error **err)
{
	kata__template_lock_unmake(&find_of(op)->lock);
	return KATA__STEP_DONE;
}

static int step_lock(kata_op *op, kata_error **err)
{
	return kata__template_lock_acquire(&find_of(op)->lock, op, err);
}

static void cancel_lock(kata_op *op)
{
	kata__template_lock_cancel(&find_of(op)->lock);
}

static bool fits(const struct find *f, const struct kata__template_base *base)
{
	return kata__config_fits(&base->config->v, &f->config->v);
}

/* There is one, and it is not good: is it to be replaced? */
static int judge_stale(struct find *f, const struct kata__template_base *stale, kata_error *take_why, kata_error **err)
{
	kata_error *why = take_why;

	if (!f->wanted && stale->config && !fits(f, stale)) {
		f->is_done = true;
	} else if (!f->wanted && f->t->flags & KATA_TEMPLATE_REFUSE_STALE) {
		kata__error_set_hint(why,
				     "kata_template_make() makes it anew; KATA_TEMPLATE_REFUSE_STALE keeps a build "
				     "from that");
		return kata__error_move(err, &why);
	} else {
		kata__log(f->t->ctx, KATA_LOG_INFO, "factory", "%s: made anew: %s", f->t->path,
			  kata_error_get_message(why));
	}
	kata_error_free(why);
	return 0;
}

/* Its memory is read whole by the first who finds it in this builder. */
static int look(struct find *f, kata_error **err)
{
	struct kata__template_base *known = kata__template_known(f->t), *base = NULL, *stale = NULL;
	kata_error *why = NULL;
	int rc = kata__template_base_load(f->t->inner, f->t->path, true, known, &base, &stale, &why);

	kata__template_base_unref(known);
	if (rc == 0 && (fits(f, base) || !f->wanted)) {
		f->is_done = true;
		kata__template_learn(f->t, base);
		if (fits(f, base))
			f->found = kata__template_base_ref(base);
	} else if (rc < 0 && stale) {
		rc = judge_stale(f, stale, kata__take_ptr(why), err);
	} else if (rc < 0) {
		kata__error_move(err, &why);
	}
	kata__template_base_unref(base);
	kata__template_base_unref(stale);
	return rc;
}

static bool is_there(const struct find *f)
{
	return faccessat(f->lock.dir_fd, KATA__TEMPLATE_BASE, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int step_look(kata_op *op, kata_error **err)
{
	struct find *f = find_of(op);

	return is_there(f) ? look(f, err) : KATA__STEP_DONE;
}

static int step_decide(kata_op *op, kata_error **err)
{
	if (find_of(op)->is_done)
		kata__op_skip_rest(op);
	return KATA__STEP_DONE;
}

/* ---- room for a new one ---- */

static int check_room(const struct find *f, kata_error **err)
{
	uint64_t needed_mib = f->config->v.memory_mib, free_mib;
	struct statvfs st;

	if (fstatvfs(f->lock.dir_fd, &st) < 0)
		return kata__fail_errno(err, errno, "cannot look at the file system of %s", f->t->path);
	free_mib = (uint64_t)st.f_bavail * st.f_frsize >> 20;
	if (free_mib >= needed_mib)
		return 0;
	return kata__fail(err, KATA_E_IO, HOST,
			  "path: the file system of %s has %llu MiB free, the machine's RAM may take %llu", f->t->path,
			  (unsigned long long)free_mib, (unsigned long long)needed_mib);
}

static int read_vmm(kata_op *op, const char *path, struct kata__manifest_file *ret, kata_error **err)
{
	KATA_AUTO_FD int fd = -1;
	struct stat st;

	if (!path)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return kata__fail_errno(err, errno, "cannot read the VMM, %s", path);
	kata__file_identity_of(&st, &ret->file);
	ret->path = kata__strdup(path);
	if (!ret->path)
		return kata__fail_no_memory(err);
	return kata__digest_fd(fd, ret->file.size_bytes, path, kata__save_go_on, op, ret->sha256, err);
}

static int name_files(struct find *f, kata_error **err)
{
	char uuid[37];

	kata__uuid_generate(uuid);
	f->memory_path = kata__format("%s/memory-%s", f->t->path, uuid);
	f->base_path = kata__format("%s/" KATA__TEMPLATE_BASE "-%s", f->t->path, uuid);
	f->new_path = kata__format("%s/" KATA__TEMPLATE_BASE, f->t->path);
	return f->memory_path && f->base_path && f->new_path ? 0 : kata__fail_no_memory(err);
}

static int step_make_room(kata_op *op, kata_error **err)
{
	struct find *f = find_of(op);
	struct kata__template_vmm vmm;
	int rc = kata__template_sweep(f->t->path, false, err);

	if (rc == 0)
		rc = check_room(f, err);
	if (rc == 0)
		rc = kata__template_vmm_of(f->t->inner, &vmm, err);
	if (rc == 0)
		rc = read_vmm(op, vmm.path, &f->record.vmm, err);
	if (rc == 0)
		rc = name_files(f, err);
	if (rc < 0)
		return rc;
	snprintf(f->record.library, sizeof(f->record.library), "%s", kata_get_version());
	kata__stamp_take(&f->config->v, &f->stamp);
	return KATA__STEP_DONE;
}

/* The VMM makes the file of its RAM, and leaves it there. */
static int undo_make_room(kata_op *op, kata_error **err)
{
	const struct find *f = find_of(op);

	if (unlink(f->memory_path) == 0 || errno == ENOENT)
		return KATA__STEP_DONE;
	return kata__fail_errno(err, errno, "cannot remove %s", f->memory_path);
}

/* ---- the machine ---- */

static int step_build(kata_op *op, kata_error **err)
{
	struct find *f = find_of(op);
	kata_vm_config config = f->config->v;

	config.id = NULL;
	config.memory_path = f->memory_path;
	config.memory_shared = true;
	return kata_vm_builder_build(f->t->inner, &config, NULL, NULL, &f->vm, err);
}

static int undo_build(kata_op *op, kata_error **err)
{
	kata_op *child = NULL;
	int rc = kata_vm_destroy_begin(find_of(op)->vm, NULL, &child, err);

	return run_child(op, rc, child, err);
}

static int step_start(kata_op *op, kata_error **err)
{
	kata_op *child = NULL;
	int rc = kata_vm_start_begin(find_of(op)->vm, NULL, &child, err);

	return run_child(op, rc, child, err);
}

static int step_connect(kata_op *op, kata_error **err)
{
	struct find *f = find_of(op);
	kata_op *child = NULL;
	int rc = kata_agent_builder_build_begin(f->t->agents, f->vm, NULL, NULL, &f->agent, &child, err);

	return run_child(op, rc, child, err);
}

static int undo_connect(kata_op *op, kata_error **err)
{
	kata_agent_unref(kata__take_ptr(find_of(op)->agent));
	return KATA__STEP_DONE;
}

static int step_release_agent(kata_op *op, kata_error **err)
{
	struct find *f = find_of(op);
	kata_error *error = NULL;
	char *json = NULL;
	int rc;

	snprintf(f->record.agent, sizeof(f->record.agent), "%s", kata_agent_get_version(f->agent));
	rc = kata_agent_release(f->agent, &json, &error);
	free(json);
	if (rc < 0 && rc != KATA_E_UNSUPPORTED)
		return kata__error_move(err, &error);
	kata_error_free(error);
	kata_agent_unref(kata__take_ptr(f->agent)); /* one that cannot be released is closed by this */
	return KATA__STEP_DONE;
}

/* All that a clone's start asks of the guest: what it needs for that is in memory from then on. */
static int step_warm_up(kata_op *op, kata_error **err)
{
	const struct find *f = find_of(op);
	struct kata__identity_options options = {.agents = f->t->agents, .hostname = "template"};
	kata_op *child = NULL;
	int rc = kata__identity_reset_new(f->vm, &options, NULL, &child, err);

	return run_child(op, rc, child, err);
}

static int step_snapshot(kata_op *op, kata_error **err)
{
	struct find *f = find_of(op);
	kata_snapshot_options options = KATA_SNAPSHOT_OPTIONS_INIT;
	KATA_AUTO(free) char *record = kata__template_record_write(&f->record);
	kata_op *child = NULL;
	int rc;

	if (!record)
		return kata__fail_no_memory(err);
	options.memory = KATA_SNAPSHOT_SHARED;
	rc = kata__vm_snapshot_begin(f->vm, f->base_path, &options, KATA__TEMPLATE_PART, record, NULL, &child, err);
	return run_child(op, rc, child, err);
}

static int undo_snapshot(kata_op *op, kata_error **err)
{
	return kata__remove_tree(find_of(op)->base_path, err);
}

static int step_destroy(kata_op *op, kata_error **err)
{
	kata_op *child = NULL;
	int rc = kata_vm_destroy_begin(find_of(op)->vm, NULL, &child, err);

	return run_child(op, rc, child, err);
}

/* ---- its snapshot becomes the template ---- */

/* All is as it was before the boot, and as the snapshot says. */
static int step_verify(kata_op *op, kata_error **err)
{
	struct find *f = find_of(op);
	kata_snapshot *snapshot = NULL;
	struct kata__stamp now;
	int rc = kata_snapshot_open(f->t->ctx, f->base_path, KATA_SNAPSHOT_VERIFY, &snapshot, err);

	kata_snapshot_free(snapshot);
	kata__stamp_take(&f->config->v, &now);
	if (rc == 0 && !kata__stamp_is_equal(&now, &f->stamp))
		rc = kata__fail(err, KATA_E_VERSION, CALLER,
				"the kernel, initrd or image has changed while the template was made of it");
	return rc;
}

static int exchange(struct find *f, kata_error **err)
{
	if (renameat2(AT_FDCWD, f->base_path, AT_FDCWD, f->new_path,
		      f->exchanged ? RENAME_EXCHANGE : RENAME_NOREPLACE) == 0)
		return 0;
	return kata__fail_errno(err, errno, "cannot rename %s to %s", f->base_path, f->new_path);
}

static int step_publish(kata_op *op, kata_error **err)
{
	struct find *f = find_of(op);

	f->exchanged = is_there(f);
	return exchange(f, err);
}

static int undo_publish(kata_op *op, kata_error **err)
{
	struct find *f = find_of(op);

	if (f->retired)
		return KATA__STEP_DONE;
	if (f->exchanged)
		return exchange(f, err);
	if (rename(f->new_path, f->base_path) == 0)
		return KATA__STEP_DONE;
	return kata__fail_errno(err, errno, "cannot rename %s to %s", f->new_path, f->base_path);
}

static int step_load(kata_op *op, kata_error **err)
{
	struct find *f = find_of(op);

	return kata__template_base_load(f->t->inner, f->t->path, false, NULL, &f->found, NULL, err);
}

static int undo_load(kata_op *op, kata_error **err)
{
	kata__template_base_unref(kata__take_ptr(find_of(op)->found));
	return KATA__STEP_DONE;
}

/* What cannot be removed goes with the next making. There is no way back from here. */
static int step_retire(kata_op *op, kata_error **err)
{
	struct find *f = find_of(op);
	kata_error *error = NULL;

	f->retired = f->exchanged;
	if (f->exchanged && kata__remove_tree(f->base_path, &error) < 0)
		kata__log(f->t->ctx, KATA_LOG_WARNING, "factory", "%s", kata_error_get_message(error));
	kata_error_free(error);
	return KATA__STEP_DONE;
}

/* ---- the end ---- */

static void finish(kata_op *op, int status, kata_error **error)
{
	struct find *f = find_of(op);

	if (status == 0 && !f->is_done) {
		kata__template_learn(f->t, f->found);
		pthread_mutex_lock(&f->t->mutex);
		f->t->made++;
		pthread_mutex_unlock(&f->t->mutex);
	}
	kata__template_lock_release(&f->lock);
}

static void free_find(void *data)
{
	struct find *f = data;

	kata_agent_unref(f->agent);
	kata_vm_unref(f->vm);
	kata__template_base_unref(f->found);
	kata__template_record_deinit(&f->record);
	kata__vm_config_copy_free(f->config);
	kata__template_unref(f->t);
	free(f->memory_path);
	free(f->base_path);
	free(f->new_path);
	free(f);
}

static const struct kata__step steps[] = {
	{.name = "open", .run = step_open, .undo = undo_open, .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
	{.name = "lock", .run = step_lock, .cancel = cancel_lock},
	{.name = "look", .run = step_look, .flags = KATA__STEP_BLOCKING},
	{.name = "decide", .run = step_decide},
	{.name = "make-room",
	 .run = step_make_room,
	 .undo = undo_make_room,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
	{.name = "build", .run = step_build, .undo = undo_build, .flags = KATA__STEP_BLOCKING},
	{.name = "start", .run = step_start},
	{.name = "connect-agent", .run = step_connect, .undo = undo_connect},
	{.name = "release-agent", .run = step_release_agent},
	{.name = "warm-up", .run = step_warm_up},
	{.name = "snapshot", .run = step_snapshot, .undo = undo_snapshot, .flags = KATA__STEP_UNDO_BLOCKING},
	{.name = "destroy", .run = step_destroy},
	{.name = "verify", .run = step_verify, .flags = KATA__STEP_BLOCKING},
	{.name = "publish",
	 .run = step_publish,
	 .undo = undo_publish,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
	{.name = "load", .run = step_load, .undo = undo_load, .flags = KATA__STEP_BLOCKING},
	{.name = "retire", .run = step_retire, .flags = KATA__STEP_BLOCKING | KATA__STEP_NO_CANCEL},
};
static const struct kata__op_table table = {
	.name = "template",
	KATA__STEPS(steps),
	.timeout_ms = WHOLE_MS,
	.undo_timeout_ms = UNDO_MS,
	.finish = finish,
	.free_data = free_find,
};

int kata__template_find_begin(struct kata__template *t, const struct kata__vm_config_copy *config, bool wanted,
			      const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	struct find *f = calloc(1, sizeof(*f));
	int rc;

	if (!f)
		return kata__fail_no_memory(err);
	f->t = kata__template_ref(t);
	f->wanted = wanted;
	kata__template_lock_init(&f->lock, t->path, true);
	rc = kata__template_config_new(&config->v, &f->config, err);
	if (rc < 0) {
		free_find(f);
		return rc;
	}
	return kata__op_start(t->ctx, &table, f, options, 1, ret_op, err);
}

struct kata__template_base *kata__template_find_result(kata_op *op)
{
	return kata__take_ptr(find_of(op)->found);
}
