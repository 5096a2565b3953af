/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The public operations of a VM: each is a check of the state, a table of the driver, and its data.
 *
 * Model: under the VM's mutex the state is checked, moved (CREATED to STARTING, ...) and the op entered in the list of
 * active ones, all together; so of two starts at once one fails. The op leaves the list in its finish (finish.c). What
 * only the leader may see (slots, duplicates) is checked by the first step of the table.
 */
#include "vm/core.h"

#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/options.h"
#include "vm/restore.h"
#include "vm/save.h"
#include "vm/warm.h"

#define LIVE_OR_CREATED (KATA__VM_LIVE | KATA__VM_IN(CREATED))

/* ---- op data ---- */

struct kata__vm_op *kata__vm_op_new(kata_vm *vm)
{
	struct kata__vm_op *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->vm = kata_vm_ref(vm);
	d->holds_life = true;
	d->slot = -1;
	d->image.fd = -1;
	d->image.backing_fd = -1;
	d->tap_fd = -1;
	return d;
}

void kata__vm_free_op_data(void *data)
{
	struct kata__vm_op *d = data;

	if (!d)
		return;
	kata__image_close(&d->image);
	kata__close_fd(&d->tap_fd);
	kata_storage_unref(d->storage);
	kata_nic_unref(d->nic);
	free(d->scratch);
	free(d->json_owned);
	free(d->owner_before);
	kata__save_free(d->save);
	json_decref(d->record);
	if (d->holds_life)
		kata__vm_drop_life(d->vm);
	kata__vm_drop_memory(d->vm);
	free(d);
}

/* ---- entering and leaving ---- */

static int grow_active(struct kata__vm_shared *s)
{
	kata_op **grown;

	if (s->active_count < s->active_alloc)
		return 0;
	grown = realloc(s->active, (s->active_alloc + 16) * sizeof(*grown));
	if (!grown)
		return KATA_E_NO_MEMORY;
	s->active = grown;
	s->active_alloc += 16;
	return 0;
}

static int check_alone(const kata_vm *vm, const struct kata__vm_call *call, kata_error **err)
{
	struct kata__vm_shared *s = vm->shared;

	if (call->alone && s->active_count)
		return kata__fail(err, KATA_E_BUSY, CALLER,
				  "vm '%s' has %zu operations under way (%s): wait for them before %s", vm->id,
				  s->active_count, kata_op_get_name(s->active[0]), call->table->name);
	if (call->no_agent && vm->agent_connected)
		return kata__fail(err, KATA_E_BUSY, CALLER, "an agent is connected to vm '%s': release it before %s",
				  vm->id, call->table->name);
	if (s->active_count >= KATA__VM_OPS_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "vm '%s' has %zu operations under way, its limit",
				  vm->id, s->active_count);
	return 0;
}

/* Who has been taken for dead by another process, because he sat in another pid namespace or his clock was changed,
 * finds out before he touches what is another's. */
int kata__vm_check_fence(const kata_vm *vm, kata_error **err)
{
	struct kata__vm_shared *s = vm->shared;
	struct kata__owner_stamp ours, now;
	uint64_t epoch;
	bool owns;

	kata__vm_lock(vm);
	owns = s->owns_dir && s->owner.ino && s->state != KATA_VM_RELEASED && s->state != KATA_VM_DESTROYED;
	ours = s->owner;
	epoch = s->epoch;
	kata__vm_unlock(vm);
	if (!owns || !vm->dir)
		return 0;
	if (kata__owner_stamp(vm->dir, &now) && now.ino == ours.ino && now.written.tv_sec == ours.written.tv_sec &&
	    now.written.tv_nsec == ours.written.tv_nsec)
		return 0;
	return kata__owner_fence(vm->dir, vm->id, kata__context_self(vm->ctx), epoch, err);
}

static int enter(kata_vm *vm, const struct kata__vm_call *call, kata_op *op, kata_error **err)
{
	struct kata__vm_shared *s = vm->shared;
	int rc;

	if (!((call->permitted >> s->state) & 1))
		return kata__vm_fail_state(vm, s->state, call->permitted, call->table->name, err);
	if (s->frozen)
		return kata__fail(
			err, KATA_E_STATE, CALLER,
			"vm '%s' was saved with its memory shared: its RAM is a part of the snapshot and must "
			"not change, so it can only be destroyed: %s",
			vm->id, call->table->name);
	rc = check_alone(vm, call, err);
	if (rc < 0)
		return rc;
	if (grow_active(s) < 0)
		return kata__fail_no_memory(err);
	s->active[s->active_count++] = op;
	if (s->state != KATA_VM_REBUILDING) /* a rebuild has what the record says */
		kata__vm_op_data(op)->state_before = s->state;
	if (call->next >= 0)
		kata__vm_move_locked(vm, (kata_vm_state)call->next);
	return 0;
}

int kata__vm_call_begin(kata_vm *vm, const struct kata__vm_call *call, struct kata__vm_op *take_data,
			const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	kata_op *op = NULL;
	int rc;

	if (!take_data)
		return kata__fail_no_memory(err);
	rc = kata__op_new(vm->ctx, call->table, take_data, options, vm->time_scale, &op, err);
	if (rc < 0)
		return rc;
	if (vm->dir && (call->starts || !(call->permitted & KATA__VM_IN(CREATED)) || kata__vm_is_warm(vm)))
		kata__op_set_journal(op, &vm->journal,
				     vm->id); /* a cold plug has no directory yet, and leaves nothing behind */
	rc = kata__vm_check_fence(vm, err);
	if (rc == 0) {
		kata__vm_lock(vm);
		rc = enter(vm, call, op, err);
		kata__vm_unlock(vm);
	}
	if (rc == 0)
		kata__op_begin(op);
	if (rc == 0 && ret_op)
		*ret_op = op;
	else
		kata_op_unref(op);
	return rc;
}

void kata__vm_call_leave(kata_vm *vm, kata_op *op)
{
	struct kata__vm_shared *s = vm->shared;

	kata__vm_lock(vm);
	for (size_t i = 0; i < s->active_count; i++) {
		if (s->active[i] != op)
			continue;
		s->active[i] = s->active[--s->active_count];
		break;
	}
	if (s->destroying == op)
		s->destroying = NULL;
	kata__vm_unlock(vm);
	kata__vm_drain_check(vm);
}

static int check_call(const kata_vm *vm, const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	int rc = kata__vm_check(vm, err);

	if (rc == 0 && !ret_op)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "ret_op: is NULL");
	return rc < 0 ? rc : kata__options_read(&o, sizeof(o), options, "options", err);
}

/* ---- nothing to do ---- */

static int do_nothing(kata_op *op, kata_error **err)
{
	return KATA__STEP_DONE;
}

static void finish_nothing(kata_op *op, int status, kata_error **error)
{
	struct kata__vm_op *d = kata__vm_op_data(op);

	d->holds_life = false;
	kata__vm_drop_life(d->vm);
}

static const struct kata__step nothing_steps[] = {{.name = "nothing-to-do", .run = do_nothing}};

#define NOTHING(table_name)                                                                                            \
	{                                                                                                              \
		.name = table_name, KATA__STEPS(nothing_steps), .timeout_ms = 1000, .finish = finish_nothing,          \
		.free_data = kata__vm_free_op_data                                                                     \
	}
static const struct kata__op_table nothing_to_pause = NOTHING("pause");
static const struct kata__op_table nothing_to_resume = NOTHING("resume");
static const struct kata__op_table nothing_to_destroy = NOTHING("destroy");

static int begin_nothing(kata_vm *vm, const struct kata__op_table *table, kata_op **ret_op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_new(vm);

	return d ? kata__op_start(vm->ctx, table, d, NULL, 1, ret_op, err) : kata__fail_no_memory(err);
}

/* ---- start, pause, resume, release ---- */

static const struct kata__op_table *start_table(const kata_vm *vm)
{
	if (kata__vm_is_warm(vm))
		return vm->driver->start_warm;
	if (kata__vm_is_prestarted(vm))
		return vm->driver->start_prestarted;
	return vm->restore ? vm->driver->start_restored : vm->driver->start;
}

static int begin_start(kata_vm *vm, const struct kata__op_table *table, const kata_op_options *options,
		       kata_op **ret_op, kata_error **err)
{
	struct kata__vm_call call = {.table = table,
				     .permitted = KATA__VM_IN(CREATED),
				     .next = KATA_VM_STARTING,
				     .starts = true,
				     .alone = true};

	return kata__vm_call_begin(vm, &call, kata__vm_op_new(vm), options, ret_op, err);
}

int kata_vm_start_begin(kata_vm *vm, const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	int rc = check_call(vm, options, ret_op, err);

	return rc < 0 ? rc : begin_start(vm, start_table(vm), options, ret_op, err);
}

int kata__vm_prestart_begin(kata_vm *vm, kata_op **ret_op, kata_error **err)
{
	const struct kata__restore *r = vm->restore;

	if (r && !r->disk_count && !r->nic_count && vm->driver->prestart)
		return begin_start(vm, vm->driver->prestart, NULL, ret_op, err);
	return kata__fail(err, KATA_E_UNSUPPORTED, CALLER, "a VMM of driver '%s' cannot be kept waiting for %s",
			  vm->driver->name,
			  !r                              ? "a machine that boots: it has no state to load"
			  : r->disk_count || r->nic_count ? "a saved machine that has devices"
							  : "a state");
}

int kata_vm_pause_begin(kata_vm *vm, const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	int rc = check_call(vm, options, ret_op, err);
	struct kata__vm_call call;

	if (rc < 0)
		return rc;
	if (kata__vm_get_state(vm) == KATA_VM_PAUSED)
		return begin_nothing(vm, &nothing_to_pause, ret_op, err);
	call = (struct kata__vm_call){.table = vm->driver->pause, .permitted = KATA__VM_LIVE, .next = -1};
	return kata__vm_call_begin(vm, &call, kata__vm_op_new(vm), options, ret_op, err);
}

int kata_vm_resume_begin(kata_vm *vm, const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	int rc = check_call(vm, options, ret_op, err);
	struct kata__vm_call call;

	if (rc < 0)
		return rc;
	if (kata__vm_get_state(vm) == KATA_VM_RUNNING)
		return begin_nothing(vm, &nothing_to_resume, ret_op, err);
	call = (struct kata__vm_call){.table = vm->driver->resume, .permitted = KATA__VM_LIVE, .next = -1};
	return kata__vm_call_begin(vm, &call, kata__vm_op_new(vm), options, ret_op, err);
}

int kata_vm_release_begin(kata_vm *vm, const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	int rc = check_call(vm, options, ret_op, err);
	struct kata__vm_call call;

	if (rc < 0)
		return rc;
	call = (struct kata__vm_call){.table = vm->driver->release,
				      .permitted = KATA__VM_LIVE,
				      .next = KATA_VM_RELEASING,
				      .alone = true,
				      .no_agent = true};
	return kata__vm_call_begin(vm, &call, kata__vm_op_new(vm), options, ret_op, err);
}

int kata__vm_check_may_block(const kata_vm *vm, const char *function, kata_error **err)
{
	return vm ? kata__context_check_may_block(vm->ctx, function, err) : 0;
}

int kata_vm_start(kata_vm *vm, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__vm_check_may_block(vm, "kata_vm_start", err);

	if (rc == 0)
		rc = kata_vm_start_begin(vm, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_vm_pause(kata_vm *vm, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__vm_check_may_block(vm, "kata_vm_pause", err);

	if (rc == 0)
		rc = kata_vm_pause_begin(vm, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_vm_resume(kata_vm *vm, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__vm_check_may_block(vm, "kata_vm_resume", err);

	if (rc == 0)
		rc = kata_vm_resume_begin(vm, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_vm_release(kata_vm *vm, const kata_op_options *options, char **ret_json, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__vm_check_may_block(vm, "kata_vm_release", err);

	if (rc == 0)
		rc = kata_vm_release_begin(vm, options, &op, err);
	rc = kata__op_finish_sync(rc, &op, err);
	return rc < 0 || !ret_json ? rc : kata_vm_dump(vm, ret_json, err);
}

/* ---- destroy ---- */

/* All states but RELEASED. */
#define DESTROYABLE (((KATA__VM_IN(SAVING) << 1) - 1) & ~KATA__VM_IN(RELEASED))

/* *ret: the destroy that is under way, or `op`, entered as that; NULL when there is nothing left to destroy. */
static int enter_destroy(kata_vm *vm, kata_op *op, kata_op **ret, kata_error **err)
{
	struct kata__vm_shared *s = vm->shared;
	int rc = 0;

	kata__vm_lock(vm);
	if (s->state == KATA_VM_RELEASED) {
		rc = kata__vm_fail_state(vm, s->state, DESTROYABLE, "destroy", err);
	} else if (s->destroying) {
		*ret = kata_op_ref(s->destroying);
	} else if (s->state != KATA_VM_DESTROYED) {
		kata__vm_op_data(op)->state_before = s->state;
		kata__vm_move_locked(vm, KATA_VM_DESTROYING);
		s->destroying = op;
		*ret = kata_op_ref(op);
	}
	kata__vm_unlock(vm);
	return rc;
}

int kata_vm_destroy_begin(kata_vm *vm, const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	struct kata__vm_op *d;
	kata_op *op = NULL, *entered = NULL;
	int rc = check_call(vm, options, ret_op, err);

	if (rc < 0)
		return rc;
	d = kata__vm_op_new(vm);
	if (!d)
		return kata__fail_no_memory(err);
	rc = kata__op_new(vm->ctx, vm->driver->destroy, d, options, vm->time_scale, &op, err);
	if (rc < 0)
		return rc;
	rc = kata__vm_check_fence(vm, err);
	if (rc == 0)
		rc = enter_destroy(vm, op, &entered, err);
	if (entered == op)
		kata__op_begin(op);
	kata_op_unref(op);
	if (rc == 0 && !entered)
		return begin_nothing(vm, &nothing_to_destroy, ret_op, err);
	if (rc == 0)
		*ret_op = entered;
	return rc;
}

int kata_vm_destroy(kata_vm *vm, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__vm_check_may_block(vm, "kata_vm_destroy", err);

	if (rc == 0)
		rc = kata_vm_destroy_begin(vm, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

/* ---- devices ---- */

/* Cold or hot, by the state now; the table's first step checks that it still holds. */
static int choose(kata_vm *vm, const struct kata__op_table *cold, const struct kata__op_table *hot,
		  const struct kata__op_table *warm, struct kata__vm_call *call, kata_error **err)
{
	bool is_created = kata__vm_get_state(vm) == KATA_VM_CREATED;

	*call = (struct kata__vm_call){.table = !is_created            ? hot
						: kata__vm_is_warm(vm) ? warm
								       : cold,
				       .permitted = is_created ? KATA__VM_IN(CREATED) : KATA__VM_LIVE,
				       .next = -1};
	return kata__vm_check_state(vm, LIVE_OR_CREATED, call->table->name, err);
}

int kata__vm_begin_storage(kata_vm *vm, bool add, kata_storage *storage, const kata_op_options *options,
			   kata_op **ret_op, kata_error **err)
{
	const struct kata__vm_driver *driver = vm->driver;
	struct kata__vm_call call;
	struct kata__vm_op *d;
	int rc;

	rc = choose(vm, add ? driver->add_storage_cold : driver->remove_storage_cold,
		    add ? driver->add_storage : driver->remove_storage, kata__vm_warm_table(false, add), &call, err);
	if (rc < 0)
		return rc;
	d = kata__vm_op_new(vm);
	if (d)
		d->storage = kata_storage_ref(storage);
	return kata__vm_call_begin(vm, &call, d, options, ret_op, err);
}

int kata__vm_begin_nic(kata_vm *vm, bool add, kata_nic *nic, const kata_op_options *options, kata_op **ret_op,
		       kata_error **err)
{
	const struct kata__vm_driver *driver = vm->driver;
	struct kata__vm_call call;
	struct kata__vm_op *d;
	int rc;

	rc = choose(vm, add ? driver->add_nic_cold : driver->remove_nic_cold,
		    add ? driver->add_nic : driver->remove_nic, kata__vm_warm_table(true, add), &call, err);
	if (rc < 0)
		return rc;
	d = kata__vm_op_new(vm);
	if (d)
		d->nic = kata_nic_ref(nic);
	return kata__vm_call_begin(vm, &call, d, options, ret_op, err);
}

int kata_vm_add_storage_begin(kata_vm *vm, kata_storage *storage, const kata_op_options *options, kata_op **ret_op,
			      kata_error **err)
{
	int rc = check_call(vm, options, ret_op, err);

	if (rc == 0 && !storage)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "storage: is NULL");
	return rc < 0 ? rc : kata__vm_begin_storage(vm, true, storage, options, ret_op, err);
}

int kata_vm_remove_storage_begin(kata_vm *vm, const char *id, const kata_op_options *options, kata_op **ret_op,
				 kata_error **err)
{
	kata_storage *storage = NULL;
	int rc = check_call(vm, options, ret_op, err);

	if (rc == 0)
		rc = kata__vm_check_state(vm, LIVE_OR_CREATED, "remove-storage", err);
	if (rc == 0)
		rc = kata__vm_device_find_storage(vm, id, &storage, err);
	if (rc == 0)
		rc = kata__vm_begin_storage(vm, false, storage, options, ret_op, err);
	kata_storage_unref(storage);
	return rc;
}

int kata_vm_add_nic_begin(kata_vm *vm, kata_nic *nic, const kata_op_options *options, kata_op **ret_op,
			  kata_error **err)
{
	int rc = check_call(vm, options, ret_op, err);

	if (rc == 0 && !nic)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "nic: is NULL");
	return rc < 0 ? rc : kata__vm_begin_nic(vm, true, nic, options, ret_op, err);
}

int kata_vm_remove_nic_begin(kata_vm *vm, const char *id, const kata_op_options *options, kata_op **ret_op,
			     kata_error **err)
{
	kata_nic *nic = NULL;
	int rc = check_call(vm, options, ret_op, err);

	if (rc == 0)
		rc = kata__vm_check_state(vm, LIVE_OR_CREATED, "remove-nic", err);
	if (rc == 0)
		rc = kata__vm_device_find_nic(vm, id, &nic, err);
	if (rc == 0)
		rc = kata__vm_begin_nic(vm, false, nic, options, ret_op, err);
	kata_nic_unref(nic);
	return rc;
}

int kata_vm_add_storage(kata_vm *vm, kata_storage *storage, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__vm_check_may_block(vm, "kata_vm_add_storage", err);

	if (rc == 0)
		rc = kata_vm_add_storage_begin(vm, storage, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_vm_remove_storage(kata_vm *vm, const char *id, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__vm_check_may_block(vm, "kata_vm_remove_storage", err);

	if (rc == 0)
		rc = kata_vm_remove_storage_begin(vm, id, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_vm_add_nic(kata_vm *vm, kata_nic *nic, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__vm_check_may_block(vm, "kata_vm_add_nic", err);

	if (rc == 0)
		rc = kata_vm_add_nic_begin(vm, nic, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_vm_remove_nic(kata_vm *vm, const char *id, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__vm_check_may_block(vm, "kata_vm_remove_nic", err);

	if (rc == 0)
		rc = kata_vm_remove_nic_begin(vm, id, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}
