/* SPDX-License-Identifier: Apache-2.0 */
/* See template_base.h. */
#include "factory/template_base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "factory/template_lock.h"
#include "vm/builder.h"

struct kata__template_base *kata__template_base_ref(struct kata__template_base *base)
{
	atomic_fetch_add_explicit(&base->refs, 1, memory_order_relaxed);
	return base;
}

void kata__template_base_unref(struct kata__template_base *base)
{
	if (!base || atomic_fetch_sub_explicit(&base->refs, 1, memory_order_acq_rel) != 1)
		return;
	kata_snapshot_free(base->snapshot);
	kata__vm_config_copy_free(base->config);
	kata__template_record_deinit(&base->record);
	free(base);
}

bool kata__template_is_stale(int status)
{
	return status == KATA_E_NOT_FOUND || status == KATA_E_CORRUPT || status == KATA_E_VERSION ||
	       status == KATA_E_UNSUPPORTED;
}

bool kata__template_base_is_same(const struct kata__template_base *a, const struct kata__template_base *b)
{
	return a == b || (a && b && kata__file_identity_equal(&a->manifest, &b->manifest));
}

int kata__template_config_new(const kata_vm_config *config, struct kata__vm_config_copy **ret, kata_error **err)
{
	kata_vm_config c = *config;

	c.id = "template";
	c.memory_path = NULL;
	c.memory_shared = false;
	return kata__vm_config_copy_new(&c, ret, err);
}

/* ---- what it was made of ---- */

int kata__template_vmm_of(kata_vm_builder *inner, struct kata__template_vmm *ret, kata_error **err)
{
	kata_capabilities c = {.size = sizeof(c)};
	int rc = kata_vm_builder_get_capabilities(inner, &c, err);

	if (rc < 0)
		return rc;
	*ret = (struct kata__template_vmm){.path = c.vmm_path};
	snprintf(ret->version, sizeof(ret->version), "%s", c.vmm_version);
	snprintf(ret->accelerator, sizeof(ret->accelerator), "%s", c.accelerator);
	return 0;
}

/* A file of the same content: then that is the one from now on. */
static int compare_content(const char *what, struct kata__manifest_file *f, kata_error **err)
{
	char digest[KATA__DIGEST_MAX] = "";
	KATA_AUTO_FD int fd = open(f->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	struct stat st;
	int rc = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		return kata__fail_errno(err, errno, "the template is stale: its %s, %s", what, f->path);
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size == f->file.size_bytes)
		rc = kata__digest_fd(fd, f->file.size_bytes, f->path, NULL, NULL, digest, err);
	if (rc < 0)
		return rc;
	if (strcmp(digest, f->sha256) != 0)
		return kata__fail(err, KATA_E_VERSION, CALLER,
				  "the template is stale: its %s, %s, has changed since it was made", what, f->path);
	kata__file_identity_of(&st, &f->file);
	return 0;
}

static int compare_name(const char *what, const struct kata__manifest_file *f, kata_error **err)
{
	struct kata__file_identity now;
	struct stat st;

	if (!f->path)
		return 0;
	if (stat(f->path, &st) < 0)
		return kata__fail_errno(err, errno, "the template is stale: its %s, %s", what, f->path);
	kata__file_identity_of(&st, &now);
	if (kata__file_identity_equal(&now, &f->file))
		return 0;
	return kata__fail(err, KATA_E_VERSION, CALLER, "the template is stale: its %s, %s, was written to or replaced",
			  what, f->path);
}

static int renew(const char *what, struct kata__manifest_file *f, kata_error **err)
{
	return compare_name(what, f, NULL) == 0 ? 0 : compare_content(what, f, err);
}

static int compare_vmm(const struct kata__template_base *base, const struct kata__template_vmm *vmm, kata_error **err)
{
	const struct kata__manifest *m = kata__snapshot_manifest(base->snapshot);
	const struct kata__template_record *r = &base->record;

	if (strcmp(r->library, kata_get_version()) != 0)
		return kata__fail(err, KATA_E_VERSION, CALLER,
				  "the template is stale: libkata %s has made it, this is %s", r->library,
				  kata_get_version());
	if (strcmp(m->vmm_version, vmm->version) != 0)
		return kata__fail(err, KATA_E_VERSION, CALLER, "the template is stale: its VMM was version %s, now %s",
				  m->vmm_version, vmm->version);
	if (strcmp(m->accelerator, vmm->accelerator) != 0)
		return kata__fail(err, KATA_E_VERSION, CALLER,
				  "the template is stale: it was made under the accelerator '%s', now it is '%s'",
				  m->accelerator, vmm->accelerator);
	if (!r->vmm.path != !vmm->path || (vmm->path && strcmp(r->vmm.path, vmm->path) != 0))
		return kata__fail(err, KATA_E_VERSION, CALLER, "the template is stale: its VMM was %s, now %s",
				  r->vmm.path ? r->vmm.path : "none", vmm->path ? vmm->path : "none");
	return 0;
}

/* ---- its files ---- */

/* The directory is still ours alone: it may have been changed since it was read. */
static int check_dir(const char *dir, kata_error **err)
{
	KATA_AUTO_FD int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return kata__fail_errno(err, errno, "there is no template at %s", dir);
	return kata__template_check_dir(fd, dir, false, err);
}

static int stat_in(const char *dir, const char *name, struct stat *ret, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/" KATA__TEMPLATE_BASE "/%s", dir, name);

	if (!path)
		return kata__fail_no_memory(err);
	return lstat(path, ret) == 0 ? 0 : kata__fail_errno(err, errno, "there is no template at %s: %s", dir, path);
}

static int read_manifest_identity(const char *dir, struct kata__file_identity *ret, kata_error **err)
{
	struct stat st;
	int rc = stat_in(dir, KATA__MANIFEST_NAME, &st, err);

	if (rc == 0)
		kata__file_identity_of(&st, ret);
	return rc;
}

static int check_part(const char *dir, const struct kata__manifest_part *part, kata_error **err)
{
	struct kata__file_identity now;
	struct stat st;
	int rc = stat_in(dir, part->name, &st, err);

	if (rc < 0)
		return rc;
	kata__file_identity_of(&st, &now);
	now.ctime_ns = part->file.ctime_ns;
	if (kata__file_identity_equal(&now, &part->file))
		return 0;
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "the template was tampered with: its part '%s' was changed",
			  part->name);
}

static int check_files(const struct kata__template_base *base, const char *dir, kata_error **err)
{
	const struct kata__manifest *m = kata__snapshot_manifest(base->snapshot);
	struct kata__file_identity manifest;
	int rc = read_manifest_identity(dir, &manifest, err);

	if (rc == 0 && !kata__file_identity_equal(&manifest, &base->manifest))
		rc = kata__fail(err, KATA_E_NOT_FOUND, CALLER, "another template is at %s now", dir);
	for (size_t i = 0; rc == 0 && i < m->part_count; i++)
		rc = check_part(dir, &m->parts[i], err);
	return rc;
}

int kata__template_base_check(const struct kata__template_base *base, kata_vm_builder *inner, const char *dir,
			      kata_error **err)
{
	const struct kata__manifest *m = kata__snapshot_manifest(base->snapshot);
	struct kata__template_vmm vmm;
	int rc = check_dir(dir, err);

	if (rc == 0)
		rc = kata__template_vmm_of(inner, &vmm, err);
	if (rc == 0)
		rc = check_files(base, dir, err);
	if (rc == 0)
		rc = compare_vmm(base, &vmm, err);
	if (rc == 0)
		rc = compare_name("VMM", &base->record.vmm, err);
	if (rc == 0)
		rc = compare_name("kernel", &m->kernel, err);
	if (rc == 0)
		rc = compare_name("initrd", &m->initrd, err);
	return rc < 0 ? rc : compare_name("image", &m->image, err);
}

/* ---- reading ---- */

static int read_record(struct kata__template_base *base, kata_error **err)
{
	KATA_AUTO(free) char *text = NULL;
	size_t len = 0;
	int rc = kata__snapshot_read_extra(base->snapshot, KATA__TEMPLATE_PART, KATA__TEMPLATE_RECORD_MAX, &text, &len,
					   err);

	return rc < 0 ? rc : kata__template_record_read(text, len, &base->record, err);
}

static int check_kind(const struct kata__manifest *m, const char *dir, kata_error **err)
{
	if (m->memory == KATA_SNAPSHOT_SHARED && !m->disk_count && !m->nic_count)
		return 0;
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s/" KATA__TEMPLATE_BASE " is no template: %s", dir,
			  m->memory == KATA_SNAPSHOT_SHARED ? "it has devices" : "its memory is not shared");
}

static int open_snapshot(kata_context *ctx, const char *dir, bool verify, const struct kata__template_base *known,
			 struct kata__template_base *base, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/" KATA__TEMPLATE_BASE, dir);
	int rc = path ? check_dir(dir, err) : kata__fail_no_memory(err);

	if (rc == 0)
		rc = read_manifest_identity(dir, &base->manifest, err);
	if (rc == 0 && known && kata__file_identity_equal(&base->manifest, &known->manifest))
		verify = false;
	if (rc == 0)
		rc = kata_snapshot_open(ctx, path, verify ? KATA_SNAPSHOT_VERIFY : 0, &base->snapshot, err);
	if (rc == 0)
		rc = kata__template_config_new(kata_snapshot_get_config(base->snapshot), &base->config, err);
	if (rc == 0)
		rc = check_kind(kata__snapshot_manifest(base->snapshot), dir, err);
	return rc < 0 ? rc : read_record(base, err);
}

/* The open has compared the content of what is not the file that was written. */
static int renew_parts(struct kata__manifest *m, const char *dir, kata_error **err)
{
	struct stat st;
	int rc = 0;

	for (size_t i = 0; i < m->part_count && rc == 0; i++) {
		rc = stat_in(dir, m->parts[i].name, &st, err);
		if (rc == 0)
			kata__file_identity_of(&st, &m->parts[i].file);
	}
	return rc;
}

static int renew_files(struct kata__template_base *base, const char *dir, kata_error **err)
{
	struct kata__manifest *m = kata__snapshot_manifest_of_new(base->snapshot);
	int rc = renew_parts(m, dir, err);

	if (rc == 0)
		rc = renew("VMM", &base->record.vmm, err);
	if (rc == 0)
		rc = renew("kernel", &m->kernel, err);
	if (rc == 0)
		rc = renew("initrd", &m->initrd, err);
	return rc < 0 ? rc : renew("image", &m->image, err);
}

/* Touches nothing; refuses what is of another CPU, machine, driver. */
static int try_build(kata_vm_builder *inner, const struct kata__template_base *base, kata_error **err)
{
	kata_error *why = NULL;
	kata_vm *vm = NULL;
	int rc = kata_vm_builder_build_from_snapshot(inner, base->snapshot, NULL, NULL, NULL, NULL, &vm, &why);

	kata_vm_unref(vm);
	if (rc < 0 && kata__template_is_stale(rc))
		kata__fail(err, rc, CALLER, "the template is stale: %s", kata_error_get_message(why));
	else if (rc < 0)
		kata__error_move(err, &why);
	kata_error_free(why);
	return rc;
}

static int fill(kata_vm_builder *inner, const char *dir, bool verify, const struct kata__template_base *known,
		struct kata__template_base *base, kata_error **err)
{
	struct kata__template_vmm vmm;
	int rc = kata__template_vmm_of(inner, &vmm, err);

	if (rc == 0)
		rc = open_snapshot(kata__vm_builder_context(inner), dir, verify, known, base, err);
	if (rc == 0)
		rc = compare_vmm(base, &vmm, err);
	if (rc == 0)
		rc = renew_files(base, dir, err);
	if (rc == 0)
		rc = try_build(inner, base, err);
	return rc < 0 ? rc : kata__snapshot_pin(base->snapshot, err);
}

int kata__template_base_load(kata_vm_builder *inner, const char *dir, bool verify,
			     const struct kata__template_base *known, struct kata__template_base **ret,
			     struct kata__template_base **ret_stale, kata_error **err)
{
	struct kata__template_base *base = calloc(1, sizeof(*base));
	int rc;

	if (!base)
		return kata__fail_no_memory(err);
	atomic_init(&base->refs, 1);
	rc = fill(inner, dir, verify, known, base, err);
	if (rc == 0)
		*ret = base;
	else if (ret_stale && kata__template_is_stale(rc))
		*ret_stale = base;
	else
		kata__template_base_unref(base);
	return rc;
}
