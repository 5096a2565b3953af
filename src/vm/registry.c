/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ids of the VMs that this context drives, so that two of one id cannot be made, whether or not the driver keeps
 * files. A released handle gives its id up: the machine may be rebuilt in the same process.
 */
#include "vm/core.h"

#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define REGISTRY_KEY "vm.ids"

struct registered {
	const kata_vm *vm;
	char id[KATA__ID_MAX + 1];
};

struct registry {
	pthread_mutex_t mutex;
	void *entries; /* by id: tsearch(3) */
};

static int compare_ids(const void *a, const void *b)
{
	return strcmp(((const struct registered *)a)->id, ((const struct registered *)b)->id);
}

static void registry_free(void *p)
{
	struct registry *r = p;

	tdestroy(r->entries, free);
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

static struct registered *find(const struct registry *r, const char *id)
{
	struct registered key;
	struct registered *const *found;

	snprintf(key.id, sizeof(key.id), "%s", id);
	found = tfind(&key, &r->entries, compare_ids);
	return found ? *found : NULL;
}

/* By another VM. With the mutex. */
static bool is_taken(const struct registry *r, const kata_vm *vm, const char *id)
{
	const struct registered *e = find(r, id);

	return e && e->vm != vm;
}

static void forget(struct registry *r, const char *id)
{
	struct registered *e = find(r, id);

	if (e)
		tdelete(e, &r->entries, compare_ids);
	free(e);
}

/* The id is another VM's: EXISTS. With the mutex. */
static int enter(struct registry *r, const kata_vm *vm, const char *id)
{
	struct registered *e = find(r, id);

	if (e)
		return e->vm == vm ? 0 : KATA_E_EXISTS;
	e = calloc(1, sizeof(*e));
	if (!e)
		return KATA_E_NO_MEMORY;
	e->vm = vm;
	snprintf(e->id, sizeof(e->id), "%s", id);
	if (tsearch(e, &r->entries, compare_ids))
		return 0;
	free(e);
	return KATA_E_NO_MEMORY;
}

static int fail_taken(const char *id, kata_error **err)
{
	return kata__fail(err, KATA_E_EXISTS, CALLER, "config.id: this context has a VM '%s' already", id);
}

static int answer(int rc, const char *id, kata_error **err)
{
	return rc == KATA_E_EXISTS ? fail_taken(id, err) : rc < 0 ? kata__fail_no_memory(err) : 0;
}

int kata__vm_register(kata_vm *vm, kata_error **err)
{
	struct registry *r = registry_of(vm->ctx, err);
	int rc;

	if (!r)
		return KATA_E_NO_MEMORY;
	pthread_mutex_lock(&r->mutex);
	rc = enter(r, vm, vm->id);
	pthread_mutex_unlock(&r->mutex);
	vm->shared->registered = rc == 0;
	return answer(rc, vm->id, err);
}

void kata__vm_unregister(kata_vm *vm)
{
	struct registry *r = vm->shared->registered ? kata__context_get_extra(vm->ctx, REGISTRY_KEY) : NULL;

	if (!r)
		return;
	pthread_mutex_lock(&r->mutex);
	forget(r, vm->id);
	pthread_mutex_unlock(&r->mutex);
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
	int rc;

	pthread_mutex_lock(&r->mutex);
	rc = enter(r, vm, id);
	if (rc == 0 && strcmp(vm->id, id) != 0) {
		forget(r, vm->id);
		snprintf(vm->id, sizeof(vm->id), "%s", id);
	}
	pthread_mutex_unlock(&r->mutex);
	return answer(rc, id, err);
}
