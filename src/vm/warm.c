/* SPDX-License-Identifier: Apache-2.0 */
/* See warm.h. `warm` is under the VM's mutex; it is set here and ends with the start (finish.c). */
#include "vm/warm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "vm/core.h"

bool kata__vm_is_warm(const kata_vm *vm)
{
	bool warm;

	kata__vm_lock(vm);
	warm = vm->shared->warm;
	kata__vm_unlock(vm);
	return warm;
}

bool kata__vm_is_prestarted(const kata_vm *vm)
{
	bool prestarted;

	kata__vm_lock(vm);
	prestarted = vm->shared->prestarted;
	kata__vm_unlock(vm);
	return prestarted;
}

void kata__vm_set_origin(kata_vm *vm, kata_vm_origin origin)
{
	kata__vm_lock(vm);
	vm->shared->origin = origin;
	kata__vm_unlock(vm);
}

void kata__vm_set_identity_reset(kata_vm *vm, uint64_t reset)
{
	kata__vm_lock(vm);
	vm->shared->identity_reset = reset;
	kata__vm_unlock(vm);
}

int kata__vm_check_poolable(const kata_vm *vm, kata_error **err)
{
	if (vm->driver->start_warm)
		return 0;
	return kata__fail(err, KATA_E_UNSUPPORTED, CALLER, "a machine of driver '%s' cannot be kept warm",
			  vm->driver->name);
}

/* ---- the name ---- */

static char *dir_of(const kata_vm *vm, const char *id)
{
	return kata__format("%s/vm/%s", kata_context_get_state_dir(vm->ctx), id);
}

static int check_is_free(const kata_vm *vm, const char *id, kata_error **err)
{
	KATA_AUTO(free) char *dir = dir_of(vm, id);

	if (!dir)
		return kata__fail_no_memory(err);
	if (strcmp(dir, vm->dir) == 0 || access(dir, F_OK) < 0)
		return 0;
	return kata__fail(err, KATA_E_EXISTS, CALLER,
			  "config.id: %s is there: of a VM that lives, was released, or was left by a dead process",
			  dir);
}

int kata__vm_check_id(const kata_vm *vm, const char *id, kata_error **err)
{
	int rc = id ? kata__vm_check_registered(vm, id, err) : 0;

	return rc == 0 && id && vm->dir ? check_is_free(vm, id, err) : rc;
}

int kata__vm_claim_id(kata_vm *vm, const char *id, kata_error **err)
{
	char *copy = NULL;
	int rc = vm->dir ? check_is_free(vm, id, err) : 0;

	if (rc < 0)
		return rc;
	copy = kata__strdup(id);
	if (!copy)
		return kata__fail_no_memory(err);
	rc = kata__vm_reregister(vm, id, err);
	if (rc < 0) {
		free(copy);
		return rc;
	}
	kata__vm_lock(vm);
	free((char *)vm->config->v.id);
	vm->config->v.id = copy;
	vm->shared->generation++;
	kata__vm_unlock(vm);
	return 0;
}

static int rename_dir(const kata_vm *vm, const char *to, kata_error **err)
{
	if (renameat2(AT_FDCWD, vm->dir, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno == EEXIST || errno == ENOTEMPTY)
		return kata__fail(err, KATA_E_EXISTS, CALLER,
				  "config.id: %s is there: another VM of that id was started just now", to);
	return kata__fail_errno(err, errno, "cannot rename %s to %s", vm->dir, to);
}

int kata__vm_move(kata_vm *vm, kata_error **err)
{
	KATA_AUTO(free) char *dir = vm->dir ? dir_of(vm, vm->id) : NULL;
	struct kata__journal journal = {0};
	int rc;

	if (!vm->dir)
		return 0;
	if (!dir)
		return kata__fail_no_memory(err);
	if (strcmp(dir, vm->dir) == 0)
		return 0;
	rc = kata__journal_init(&journal, dir, err);
	if (rc < 0)
		return rc;
	rc = rename_dir(vm, dir, err);
	if (rc < 0) {
		kata__journal_deinit(&journal);
		return rc;
	}
	kata__journal_deinit(&vm->journal);
	vm->journal = journal;
	free(vm->dir);
	vm->dir = kata__take_ptr(dir);
	return 0;
}

/* ---- the mark ---- */

int kata__vm_mark_pooled(kata_vm *vm, kata_error **err)
{
	struct kata__owner steward = {.process = *kata__context_self(vm->ctx), .epoch = 1};

	if (!vm->dir)
		return 0;
	snprintf(steward.vm_id, sizeof(steward.vm_id), "%s", vm->id);
	snprintf(steward.vm_uuid, sizeof(steward.vm_uuid), "%s", vm->uuid);
	return kata__owner_mark_pooled(vm->dir, &steward, err);
}

int kata__vm_unmark_pooled(kata_vm *vm, kata_error **err)
{
	return vm->dir ? kata__owner_unmark_pooled(vm->dir, err) : 0;
}

/* ---- the state ---- */

static int check_idle(const kata_vm *vm, kata_error **err)
{
	const struct kata__vm_shared *s = vm->shared;

	if (s->state != KATA_VM_PAUSED)
		return kata__vm_fail_state(vm, s->state, KATA__VM_IN(PAUSED), "laying it up", err);
	if (s->active_count || vm->agent_connected)
		return kata__fail(err, KATA_E_BUSY, CALLER, "vm '%s' has %s", vm->id,
				  s->active_count ? "an operation under way" : "an agent connected");
	return 0;
}

int kata__vm_stock(kata_vm *vm, kata_vm_origin origin, kata_error **err)
{
	int rc = kata__vm_check_poolable(vm, err);

	if (rc < 0)
		return rc;
	kata__vm_lock(vm);
	rc = check_idle(vm, err);
	if (rc == 0) {
		kata__vm_move_locked(vm, KATA_VM_CREATED);
		vm->shared->warm = !vm->shared->prestarted;
		vm->shared->origin = origin;
	}
	kata__vm_unlock(vm);
	return rc;
}
