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

#include "factory/pool.h"
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
	uint32_t prestarted;     /* VMMs kept waiting */
	struct kata__pool *pool; /* of those; NULL where none are */

	pthread_mutex_t mutex;               /* a leaf lock, for what follows */
	struct kata__template_base *base;    /* the last that was found good; referenced; NULL */
	struct kata__template_base *pool_of; /* the one that the pool was told of [written by leader]; likewise */
	uint64_t made, clones, missed;
};

struct kata__template *kata__template_ref(struct kata__template *t);
void kata__template_unref(struct kata__template *t);
/* A reference to the base that is known, the caller's; or NULL. */
struct kata__template_base *kata__template_known(struct kata__template *t);
/* From now on this one is known (NULL: none). VMMs that wait for another are ended, and such as wait for it made. */
void kata__template_learn(struct kata__template *t, struct kata__template_base *base);
/* Of t, under its mutex: `base`, or none. The slot has a reference of its own. */
void kata__template_set_base(struct kata__template *t, struct kata__template_base **slot,
			     struct kata__template_base *base);
/* prestart.c: the pool of waiting VMMs is of this base from now on (NULL: of none). [any thread] */
void kata__template_follow(struct kata__template *t, struct kata__template_base *base);
/* One of them as a VM that the caller starts; *ret_vm NULL: none is ready, none is kept, or it is not of this base.
 * [may block] */
int kata__template_take_prestarted(struct kata__template *t, struct kata__template_base *base, const char *id,
				   kata_vm **ret_vm, kata_error **err);

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
