/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ids of the VMs that this context drives, so that two of one id cannot be made, whether or not the driver keeps
 * files. A released handle gives its id up: the machine may be rebuilt in the same process.
 */
#include "vm/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REGISTRY_KEY "vm.ids"

struct entry {
	struct entry *next;
	const kata_vm *vm;
};

struct registry {
	pthread_mutex_t mutex;
	struct entry *first;
};

static void registry_free(void *p)
{
	struct registry *r = p;

	pthread_mutex_destroy(&r->mutex);
	free(r);
}

/* Two threads may make it at once: the context answers with the oldest, the other is freed with the context. */
static struct registry *registry_of(kata_context *ctx, kata_error **err)
{
	struct registry *r = kata__context_get_extra(ctx, REGISTRY_KEY);

	if (r)
		return r;
	r = calloc(1, sizeof(*r));
	if (!r) {
		kata__fail_no_memory(err);
		return NULL;
	}
	pthread_mutex_init(&r->mutex, NULL);
	if (kata__context_set_extra(ctx, REGISTRY_KEY, r, registry_free, err) < 0) {
		registry_free(r);
		return NULL;
	}
	return kata__context_get_extra(ctx, REGISTRY_KEY);
}

/* With the mutex. */
static bool is_taken(const struct registry *r, const kata_vm *vm, const char *id)
{
	const struct entry *e = r->first;

	while (e && (e->vm == vm || strcmp(e->vm->id, id) != 0))
		e = e->next;
	return e != NULL;
}

static int fail_taken(const char *id, kata_error **err)
{
	return kata__fail(err, KATA_E_EXISTS, CALLER, "config.id: this context has a VM '%s' already", id);
}

int kata__vm_register(kata_vm *vm, kata_error **err)
{
	struct registry *r = registry_of(vm->ctx, err);
	struct entry *e = calloc(1, sizeof(*e));
	bool taken;

	if (!r || !e) {
		free(e);
		return r ? kata__fail_no_memory(err) : KATA_E_NO_MEMORY;
	}
	e->vm = vm;
	pthread_mutex_lock(&r->mutex);
	taken = is_taken(r, vm, vm->id);
	if (!taken) {
		e->next = r->first;
		r->first = e;
	}
	pthread_mutex_unlock(&r->mutex);
	if (taken) {
		free(e);
		return fail_taken(vm->id, err);
	}
	vm->shared->registered = true;
	return 0;
}

void kata__vm_unregister(kata_vm *vm)
{
	struct registry *r = vm->shared->registered ? kata__context_get_extra(vm->ctx, REGISTRY_KEY) : NULL;
	struct entry **p, *e = NULL;

	if (!r)
		return;
	pthread_mutex_lock(&r->mutex);
	for (p = &r->first; *p && (*p)->vm != vm; p = &(*p)->next)
		;
	if (*p) {
		e = *p;
		*p = e->next;
	}
	pthread_mutex_unlock(&r->mutex);
	free(e);
	vm->shared->registered = false;
}

int kata__vm_check_registered(const kata_vm *vm, const char *id, kata_error **err)
{
	struct registry *r = kata__context_get_extra(vm->ctx, REGISTRY_KEY);
	bool taken;

	pthread_mutex_lock(&r->mutex);
	taken = is_taken(r, vm, id);
	pthread_mutex_unlock(&r->mutex);
	return taken ? fail_taken(id, err) : 0;
}

int kata__vm_reregister(kata_vm *vm, const char *id, kata_error **err)
{
	struct registry *r = kata__context_get_extra(vm->ctx, REGISTRY_KEY);
	bool taken;

	pthread_mutex_lock(&r->mutex);
	taken = is_taken(r, vm, id);
	if (!taken)
		snprintf(vm->id, sizeof(vm->id), "%s", id);
	pthread_mutex_unlock(&r->mutex);
	return taken ? fail_taken(id, err) : 0;
}
