/* SPDX-License-Identifier: Apache-2.0 */
/* template_calls.c - what is called on a template builder beside its builds: make, remove, status. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/options.h"
#include "base/text.h"
#include "factory/template.h"
#include "factory/template_lock.h"

#define REMOVE_MS 30000u

/* ---- making ---- */

static int copy_config(const kata_vm_config *config, struct kata__vm_config_copy **ret, kata_error **err)
{
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	int rc;

	if (!config)
		return kata__fail(err, KATA_E_INVALID, CALLER, "config: is NULL");
	rc = kata__options_read(&c, sizeof(c), config, "config", err);
	if (rc == 0 && c.memory_path)
		rc = kata__fail(err, KATA_E_INVALID, CALLER,
				"config.memory_path: must be NULL: a template keeps the RAM in its own directory");
	return rc < 0 ? rc : kata__template_config_new(&c, ret, err);
}

int kata_template_make_begin(kata_vm_builder *builder, const kata_vm_config *config, const kata_op_options *options,
			     kata_op **ret_op, kata_error **err)
{
	struct kata__template *t = kata__template_of(builder, err);
	struct kata__vm_config_copy *copy = NULL;
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	int rc;

	if (!t)
		return KATA_E_INVALID;
	if (!ret_op)
		return kata__fail(err, KATA_E_INVALID, CALLER, "ret_op: is NULL");
	rc = kata__options_read(&o, sizeof(o), options, "options", err);
	if (rc == 0)
		rc = copy_config(config, &copy, err);
	if (rc == 0)
		rc = kata__template_find_begin(t, copy, true, &o, ret_op, err);
	kata__vm_config_copy_free(copy);
	return rc;
}

static int check_may_block(const kata_vm_builder *builder, const char *function, kata_error **err)
{
	const struct kata__template *t = kata__template_of(builder, err);

	return t ? kata__context_check_may_block(t->ctx, function, err) : KATA_E_INVALID;
}

int kata_template_make(kata_vm_builder *builder, const kata_vm_config *config, const kata_op_options *options,
		       kata_error **err)
{
	kata_op *op = NULL;
	int rc = check_may_block(builder, "kata_template_make", err);

	if (rc == 0)
		rc = kata_template_make_begin(builder, config, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

/* ---- removing ---- */

struct removal {
	struct kata__template *t; /* referenced */
	struct kata__template_lock lock;
};

static struct removal *removal_of(const kata_op *op)
{
	return kata__op_data(op);
}

static int step_open(kata_op *op, kata_error **err)
{
	return kata__template_lock_open(&removal_of(op)->lock, err);
}

static int step_lock(kata_op *op, kata_error **err)
{
	return kata__template_lock_acquire(&removal_of(op)->lock, op, err);
}

static void cancel_lock(kata_op *op)
{
	kata__template_lock_cancel(&removal_of(op)->lock);
}

/* Nothing is undone: what is removed in part is no template any more, and goes with the next removal. */
static int step_remove(kata_op *op, kata_error **err)
{
	return kata__template_sweep(removal_of(op)->t->path, true, err);
}

static void finish_removal(kata_op *op, int status, kata_error **error)
{
	struct removal *r = removal_of(op);

	if (status == 0)
		kata__template_learn(r->t, NULL);
	kata__template_lock_release(&r->lock);
}

static void free_removal(void *data)
{
	struct removal *r = data;

	kata__template_unref(r->t);
	free(r);
}

static const struct kata__step remove_steps[] = {
	{.name = "open", .run = step_open, .flags = KATA__STEP_BLOCKING},
	{.name = "lock", .run = step_lock, .cancel = cancel_lock},
	{.name = "remove", .run = step_remove, .flags = KATA__STEP_BLOCKING},
};
static const struct kata__op_table remove_table = {
	.name = "template-remove",
	KATA__STEPS(remove_steps),
	.timeout_ms = REMOVE_MS,
	.finish = finish_removal,
	.free_data = free_removal,
};

int kata_template_remove_begin(kata_vm_builder *builder, const kata_op_options *options, kata_op **ret_op,
			       kata_error **err)
{
	struct kata__template *t = kata__template_of(builder, err);
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	struct removal *r;
	int rc;

	if (!t)
		return KATA_E_INVALID;
	if (!ret_op)
		return kata__fail(err, KATA_E_INVALID, CALLER, "ret_op: is NULL");
	rc = kata__options_read(&o, sizeof(o), options, "options", err);
	if (rc < 0)
		return rc;
	r = calloc(1, sizeof(*r));
	if (!r)
		return kata__fail_no_memory(err);
	r->t = kata__template_ref(t);
	kata__template_lock_init(&r->lock, t->path, false);
	return kata__op_start(t->ctx, &remove_table, r, &o, 1, ret_op, err);
}

int kata_template_remove(kata_vm_builder *builder, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = check_may_block(builder, "kata_template_remove", err);

	if (rc == 0)
		rc = kata_template_remove_begin(builder, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

/* ---- status ---- */

static void copy_text(char *out, size_t size, const char *text)
{
	snprintf(out, size, "%s", text ? text : "");
}
#define COPY(member, text) copy_text(s->member, sizeof(s->member), (text))

static uint64_t disk_bytes(const char *dir, const struct kata__manifest *m)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < m->part_count; i++) {
		KATA_AUTO(free) char *path = kata__format("%s/" KATA__TEMPLATE_BASE "/%s", dir, m->parts[i].name);
		struct stat st;

		if (path && lstat(path, &st) == 0)
			bytes += (uint64_t)st.st_blocks * 512u;
	}
	return bytes;
}

static void describe(const char *dir, const struct kata__template_base *base, kata_template_status *s)
{
	const struct kata__manifest *m;

	if (!base || !base->snapshot)
		return;
	m = kata__snapshot_manifest(base->snapshot);
	s->made_ns = m->created_ns;
	s->memory_bytes = m->config->v.memory_mib << 20;
	s->disk_bytes = disk_bytes(dir, m);
	COPY(vmm_version, m->vmm_version);
	COPY(vmm_sha256, base->record.vmm.sha256);
	COPY(accelerator, m->accelerator);
	COPY(cpu_model, m->cpu_model);
	COPY(kernel_sha256, m->kernel.sha256);
	COPY(initrd_sha256, m->initrd.sha256);
	COPY(image_sha256, m->image.sha256);
	COPY(agent_version, base->record.agent);
	COPY(library_version, base->record.library);
	COPY(digest, kata_snapshot_get_digest(base->snapshot));
}

static void read_counters(struct kata__template *t, kata_template_status *s)
{
	pthread_mutex_lock(&t->mutex);
	s->made = t->made;
	s->clones = t->clones;
	s->missed = t->missed;
	pthread_mutex_unlock(&t->mutex);
}

/* 0: there is one. */
static int look_at(struct kata__template *t, bool *ret_exists, kata_error **err)
{
	KATA_AUTO_FD int fd = open(t->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	*ret_exists = fd >= 0 && faccessat(fd, KATA__TEMPLATE_BASE, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	if (fd >= 0)
		return kata__template_check_dir(fd, t->path, false, err);
	return errno == ENOENT ? 0 : kata__fail_errno(err, errno, "cannot open %s", t->path);
}

static int read_status(struct kata__template *t, kata_template_status *s, kata_error **err)
{
	struct kata__template_base *base = NULL, *stale = NULL;
	kata_error *why = NULL;
	int rc = look_at(t, &s->exists, err);

	if (rc < 0)
		return rc;
	read_counters(t, s);
	if (!s->exists) {
		COPY(problem, "there is none");
		return 0;
	}
	rc = kata__template_base_load(t->inner, t->path, false, NULL, &base, &stale, &why);
	s->is_valid = rc == 0;
	if (rc < 0)
		COPY(problem, kata_error_get_message(why));
	kata_error_free(why);
	describe(t->path, base ? base : stale, s);
	kata__template_base_unref(base);
	kata__template_base_unref(stale);
	return rc < 0 && !kata__template_is_stale(rc) ? kata__fail(err, rc, HOST, "%s", s->problem) : 0;
}

int kata_template_get_status(kata_vm_builder *builder, kata_template_status *ret_status, kata_error **err)
{
	struct kata__template *t = kata__template_of(builder, err);
	kata_template_status s = {.size = sizeof(s)};
	int rc;

	if (!t)
		return KATA_E_INVALID;
	rc = kata__options_check_ret(ret_status, "ret_status", err);
	if (rc == 0)
		rc = read_status(t, &s, err);
	if (rc == 0)
		kata__options_write(ret_status, &s, sizeof(s));
	return rc;
}
