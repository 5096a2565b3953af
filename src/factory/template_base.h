/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_TEMPLATE_BASE_H
#define KATA_FACTORY_TEMPLATE_BASE_H
/*
 * A template as it was read from its directory, and whether it is still that. Immutable, so any thread; kept while
 * clones are built from it. All functions are blocking; `is_fresh` makes system calls on names alone.
 *
 * What is stale (made of other things, or there is none) is told by a status: kata__template_is_stale(). Others (no
 * memory, a directory that is not ours alone) say nothing about the template.
 */
#include <stdatomic.h>

#include <kata/vm_builder.h>

#include "factory/template_record.h"
#include "vm/snapshot.h"

struct kata__template_base {
	atomic_uint refs;
	kata_snapshot *snapshot;
	struct kata__vm_config_copy *config; /* as builds ask for it: its RAM in no file */
	struct kata__template_record record;
	struct kata__file_identity manifest; /* the file */
};

/* What is asked of it: the VMM that is to run the clones. */
struct kata__template_vmm {
	const char *path; /* of the binary; NULL: none */
	char version[64], accelerator[8];
};
int kata__template_vmm_of(kata_vm_builder *inner, struct kata__template_vmm *ret, kata_error **err);

struct kata__template_base *kata__template_base_ref(struct kata__template_base *base);
void kata__template_base_unref(struct kata__template_base *base); /* NULL is fine */

/*
 * Reads the template in `dir` and compares all: its files (with `verify` each part's content, unless it is the one that
 * is `known` already, else where it is another file than was written), what it was made of, and that `inner` would
 * build a clone of it. When it fails with a status that says stale, *ret_stale has what could be read of it (config
 * NULL: nothing). `known` and ret_stale may be NULL. Needs the lock, or the template may change under it.
 */
int kata__template_base_load(kata_vm_builder *inner, const char *dir, bool verify,
			     const struct kata__template_base *known, struct kata__template_base **ret,
			     struct kata__template_base **ret_stale, kata_error **err);
/* 0: all is as it was. Stale also when another template is there now. */
int kata__template_base_check(const struct kata__template_base *base, kata_vm_builder *inner, const char *dir,
			      kata_error **err);
bool kata__template_is_stale(int status);
/* Read from the same files; of two NULL: true. */
bool kata__template_base_is_same(const struct kata__template_base *a, const struct kata__template_base *b);

/* A config as a template keeps it: without an id, its RAM in no file. */
int kata__template_config_new(const kata_vm_config *config, struct kata__vm_config_copy **ret, kata_error **err);
#endif
