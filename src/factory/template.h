/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_TEMPLATE_H
#define KATA_FACTORY_TEMPLATE_H
/*
 * The template builder: a directory with a saved machine, and clones of it.
 *
 *	<path>/lock          who changes the directory holds it (template_lock.h)
 *	<path>/base          the snapshot: there whole, or not at all; replaced by an exchange of names
 *	<path>/base-<uuid>, memory-<uuid>, .kata-save-<uuid>
 *	                     what is in the making, or was replaced; or was left by a process that was killed: whoever
 *	                     gets the lock next removes it
 *
 * A build looks at the template that it knows by names alone, without the lock. Where that is not good any more, or
 * none is known, an operation (template_make.c) takes the lock, reads what is there, and makes it where it has to.
 */
#include <pthread.h>
#include <stdatomic.h>

#include <kata/template.h>

#include "factory/template_base.h"
#include "op/op.h"
#include "vm/vm.h"

struct kata__template {
	atomic_uint refs; /* the builder, and operations at work */
	kata_context *ctx;
	kata_vm_builder *inner;
	kata_agent_builder *agents;
	kata_agent_builder *own_agents; /* the same, where we made it */
	char *path;
	uint64_t flags;

	pthread_mutex_t mutex;            /* a leaf lock, for what follows */
	struct kata__template_base *base; /* the last that was found good; referenced; NULL */
	uint64_t made, clones, missed;
};

struct kata__template *kata__template_ref(struct kata__template *t);
void kata__template_unref(struct kata__template *t);
/* A reference to the base that is known, the caller's; or NULL. */
struct kata__template_base *kata__template_known(struct kata__template *t);
/* From now on this one is known (NULL: none). */
void kata__template_learn(struct kata__template *t, struct kata__template_base *base);

/* NULL and *err where it is no template builder. */
struct kata__template *kata__template_of(const kata_vm_builder *builder, kata_error **err);

/* template_make.c: an operation that finds the template or makes it. `config` as kata__template_config_new makes it, is
 * copied. `wanted`: a template of another config is replaced, and a stale one whatever the flags say. */
int kata__template_find_begin(struct kata__template *t, const struct kata__vm_config_copy *config, bool wanted,
			      const kata_op_options *options, kata_op **ret_op, kata_error **err);
/* Once it has succeeded: a reference, the caller's; NULL: there is a template of another config. */
struct kata__template_base *kata__template_find_result(kata_op *op);

/* template_dir.c, with the lock: removes what is not the template; with `all` that too, and the directory. [worker] */
int kata__template_sweep(const char *path, bool all, kata_error **err);
bool kata__template_is_making(const char *name); /* a name in it of what is being made */
#endif
