/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_batch: several plugs and unplugs as one operation.
 *
 *	identify (blocking)  the file behind each disk: two items of one file are found before anything is touched
 *	validate             ids, MACs and files against each other and the VM, needed slots against free ones
 *	run                  begins all in one turn of the leader, so that slots are reserved together; waits
 *	conclude             fails with the first failed item's error
 *
 * Model: handle and op share a counted struct. Items carry the deadline, each from the batch's begin, so that each ends
 * with its own outcome; the batch itself has none and ends with the last of them. A cancel cancels the items and waits
 * for them. With ALL_OR_NOTHING the undo of `run` begins the inverse of each item that succeeded, side by side, and
 * waits for those.
 *
 * Invariants: 1. what the batch began it waits for. 2. an item's op is published once it was begun.
 */
#include "vm/core.h"

#include <stdio.h>
#include <string.h>

#include "base/options.h"

#define BATCH_MAGIC 0x4b424154u
#define ITEMS_MAX 1024u
#define UNDO_TIMEOUT_MS 60000u

enum kind { ADD_STORAGE, REMOVE_STORAGE, ADD_NIC, REMOVE_NIC };

struct item {
	enum kind kind;
	char id[KATA__VM_ITEM_ID_MAX];
	kata_storage *storage; /* referenced; removals: from the begin on */
	kata_nic *nic;
	struct kata__disk_files files;
	kata_op *op;         /* under the mutex; referenced */
	kata_error *refused; /* the op could not even begin; [leader] */
	bool undone;
};

struct kata_batch {
	uint32_t magic;
	atomic_uint refs;
	kata_vm *vm;
	uint64_t flags;
	pthread_mutex_t mutex; /* item.op */
	bool begun;
	struct item *items;
	size_t count;

	/* [leader] */
	uint64_t deadline; /* of the items; KATA__NEVER: each the default of its table */
	size_t running;    /* ops begun and not ended, forward or inverse */
	kata_op *waiter;   /* borrowed: it is under way */
	uint64_t token;
};

/* ---- the handle ---- */

static void batch_unref(kata_batch *b)
{
	if (!b || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < b->count; i++) {
		kata_storage_unref(b->items[i].storage);
		kata_nic_unref(b->items[i].nic);
		kata_op_unref(b->items[i].op);
		kata_error_free(b->items[i].refused);
	}
	free(b->items);
	pthread_mutex_destroy(&b->mutex);
	kata__vm_drop_memory(b->vm);
	b->magic = 0;
	free(b);
}

int kata_batch_new(kata_vm *vm, uint64_t flags, kata_batch **ret_batch, kata_error **err)
{
	kata_batch *b;
	int rc = kata__vm_check(vm, err);

	if (rc == 0 && !ret_batch)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "ret_batch: is NULL");
	if (rc == 0 && (flags & ~KATA_BATCH_ALL_OR_NOTHING))
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "flags: unknown bits 0x%llx",
				(unsigned long long)(flags & ~KATA_BATCH_ALL_OR_NOTHING));
	if (rc < 0)
		return rc;
	b = calloc(1, sizeof(*b));
	if (!b)
		return kata__fail_no_memory(err);
	b->magic = BATCH_MAGIC;
	atomic_init(&b->refs, 1);
	pthread_mutex_init(&b->mutex, NULL);
	b->vm = kata_vm_ref(vm);
	b->flags = flags;
	*ret_batch = b;
	return 0;
}

/* The handle's share of the VM's life ends here, the memory with the last of handle and op. */
void kata_batch_free(kata_batch *batch)
{
	if (!batch)
		return;
	kata__vm_drop_life(batch->vm);
	batch_unref(batch);
}

static int check(const kata_batch *b, const void *argument, const char *name, kata_error **err)
{
	if (!b || b->magic != BATCH_MAGIC)
		return kata__fail(err, KATA_E_INVALID, CALLER, "batch: is %s", b ? "no batch, or was freed" : "NULL");
	if (b->begun)
		return kata__fail(err, KATA_E_STATE, CALLER, "the batch is begun, must not be: make another");
	if (!argument)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", name);
	return 0;
}

static int add_item(kata_batch *b, enum kind kind, const char *id, kata_storage *storage, kata_nic *nic,
		    kata_error **err)
{
	struct item *grown;

	if (b->count >= ITEMS_MAX)
		return kata__fail(err, KATA_E_EXHAUSTED, CALLER, "the batch has %u items, its limit", ITEMS_MAX);
	if (strlen(id) >= KATA__VM_ITEM_ID_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "id: is longer than %u bytes", KATA__VM_ITEM_ID_MAX - 1);
	grown = realloc(b->items, (b->count + 1) * sizeof(*grown));
	if (!grown)
		return kata__fail_no_memory(err);
	b->items = grown;
	memset(&grown[b->count], 0, sizeof(*grown));
	grown[b->count].kind = kind;
	grown[b->count].storage = kata_storage_ref(storage);
	grown[b->count].nic = kata_nic_ref(nic);
	snprintf(grown[b->count].id, sizeof(grown[b->count].id), "%s", id);
	b->count++;
	return 0;
}

int kata_batch_add_storage(kata_batch *batch, kata_storage *storage, kata_error **err)
{
	int rc = check(batch, storage, "storage", err);

	return rc < 0 ? rc : add_item(batch, ADD_STORAGE, kata_storage_get_id(storage), storage, NULL, err);
}

int kata_batch_add_nic(kata_batch *batch, kata_nic *nic, kata_error **err)
{
	int rc = check(batch, nic, "nic", err);

	return rc < 0 ? rc : add_item(batch, ADD_NIC, kata_nic_get_id(nic), NULL, nic, err);
}

int kata_batch_remove_storage(kata_batch *batch, const char *id, kata_error **err)
{
	int rc = check(batch, id, "id", err);

	return rc < 0 ? rc : add_item(batch, REMOVE_STORAGE, id, NULL, NULL, err);
}

int kata_batch_remove_nic(kata_batch *batch, const char *id, kata_error **err)
{
	int rc = check(batch, id, "id", err);

	return rc < 0 ? rc : add_item(batch, REMOVE_NIC, id, NULL, NULL, err);
}

size_t kata_batch_get_count(const kata_batch *batch)
{
	return batch ? batch->count : 0;
}

const char *kata_batch_get_item_id(const kata_batch *batch, size_t index)
{
	return batch && index < batch->count ? batch->items[index].id : NULL;
}

kata_op *kata_batch_get_item_op(const kata_batch *batch, size_t index)
{
	kata_op *op;

	if (!batch || index >= batch->count)
		return NULL;
	pthread_mutex_lock(&((kata_batch *)batch)->mutex);
	op = batch->items[index].op;
	pthread_mutex_unlock(&((kata_batch *)batch)->mutex);
	return op;
}

/* ---- identify, validate ---- */

static kata_batch *batch_of(kata_op *op)
{
	return kata__op_data(op);
}

/* A path that cannot be looked at fails its item with the reason, in its own open. */
static int identify(kata_op *op, kata_error **err)
{
	kata_batch *b = batch_of(op);

	for (size_t i = 0; i < b->count; i++)
		if (b->items[i].kind == ADD_STORAGE)
			kata__disk_files_look(b->items[i].storage, &b->items[i].files);
	return KATA__STEP_DONE;
}

static bool is_add(const struct item *it)
{
	return it->kind == ADD_STORAGE || it->kind == ADD_NIC;
}

static int check_below(const struct item *below, const struct item *above, kata_error **err)
{
	if (!kata__disk_files_below(&below->files, &above->files))
		return 0;
	return kata__fail(
		err, KATA_E_EXISTS, CALLER,
		"batch: storage '%s', %s, is the backing file of storage '%s': it may be plugged only read-only",
		below->id, kata_storage_get_path(below->storage), above->id);
}

static int check_pair(const struct item *a, const struct item *b, kata_error **err)
{
	int rc;

	if (strcmp(a->id, b->id) == 0)
		return kata__fail(err, KATA_E_EXISTS, CALLER, "batch: two items have the id '%s'", a->id);
	if (a->kind == ADD_NIC && b->kind == ADD_NIC && strcmp(kata_nic_get_mac(a->nic), kata_nic_get_mac(b->nic)) == 0)
		return kata__fail(err, KATA_E_EXISTS, CALLER, "batch: NICs '%s' and '%s' have one MAC, %s", a->id,
				  b->id, kata_nic_get_mac(a->nic));
	if (kata__disk_files_same(&a->files, &b->files))
		return kata__fail(
			err, KATA_E_EXISTS, CALLER,
			"batch: storages '%s' and '%s' are one file, %s: it may be there twice only read-only", a->id,
			b->id, kata_storage_get_path(a->storage));
	rc = check_below(a, b, err);
	return rc < 0 ? rc : check_below(b, a, err);
}

static int check_against_vm(kata_vm *vm, const struct item *it, kata_error **err)
{
	if (!is_add(it))
		return 0;
	if (kata__vm_device_has_id(vm, it->id))
		return kata__fail(err, KATA_E_EXISTS, CALLER, "batch: id '%s' is taken in vm '%s'", it->id, vm->id);
	if (it->nic && kata__vm_device_has_mac(vm, kata_nic_get_mac(it->nic)))
		return kata__fail(err, KATA_E_EXISTS, CALLER, "batch: NIC '%s': its MAC %s is taken in vm '%s'", it->id,
				  kata_nic_get_mac(it->nic), vm->id);
	return 0;
}

static int check_slots(const struct kata__slots *s, uint32_t needed, kata_error **err)
{
	if (needed <= s->free_count)
		return 0;
	return kata__fail(err, KATA_E_EXHAUSTED, CALLER,
			  "batch: needs %u %ss, of %u there are %u free: nothing was touched", needed, s->noun,
			  s->count, s->free_count);
}

static int validate(kata_op *op, kata_error **err)
{
	kata_batch *b = batch_of(op);
	uint32_t ports = 0, luns = 0;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < b->count; i++) {
		const struct item *it = &b->items[i];

		rc = check_against_vm(b->vm, it, err);
		for (size_t j = i + 1; rc == 0 && j < b->count; j++)
			rc = check_pair(it, &b->items[j], err);
		if (it->kind == ADD_STORAGE && kata_storage_get_driver(it->storage) == KATA_STORAGE_VIRTIO_SCSI)
			luns++;
		else if (is_add(it))
			ports++;
	}
	if (rc == 0)
		rc = check_slots(&b->vm->ports, ports, err);
	if (rc == 0)
		rc = check_slots(&b->vm->luns, luns, err);
	return rc;
}

/* ---- run ---- */

static int begin_item(kata_batch *b, struct item *it, bool inverse, const kata_op_options *options, kata_op **ret,
		      kata_error **err)
{
	bool add = is_add(it) != inverse;
	int rc = kata__vm_recheck_state(b->vm, KATA__VM_LIVE | KATA__VM_IN(CREATED), "batch", err);

	if (rc < 0)
		return rc;
	return it->storage ? kata__vm_begin_storage(b->vm, add, it->storage, options, ret, err)
			   : kata__vm_begin_nic(b->vm, add, it->nic, options, ret, err);
}

static void op_ended(void *user, kata_op *op)
{
	kata_batch *b = user;
	kata_op *waiter = b->waiter;

	if (--b->running == 0 && waiter) {
		b->waiter = NULL;
		kata__op_resume(waiter, b->token, 0, NULL);
		kata_op_unref(waiter);
	}
	batch_unref(b);
}

/* The op has just begun on this thread, the leader: it may have ended already. */
static void watch(kata_batch *b, kata_op *op)
{
	if (kata_op_is_done(op))
		return;
	b->running++;
	atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
	kata__op_on_done(op, op_ended, b);
}

static int wait_for_all(kata_batch *b, kata_op *op)
{
	if (b->running == 0)
		return KATA__STEP_DONE;
	b->waiter = kata_op_ref(op);
	b->token = kata__op_token(op);
	return KATA__STEP_WAIT;
}

static void forget_waiter(kata_batch *b)
{
	kata_op_unref(kata__take_ptr(b->waiter));
}

static int run(kata_op *op, kata_error **err)
{
	kata_batch *b = batch_of(op);
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	int left = kata__deadline_left_ms(b->deadline);

	if (b->deadline != KATA__NEVER)
		o.timeout_ms = left > 0 ? (uint64_t)left : 1;
	for (size_t i = 0; i < b->count; i++) {
		kata_op *item_op = NULL;

		if (begin_item(b, &b->items[i], false, &o, &item_op, &b->items[i].refused) < 0)
			continue;
		pthread_mutex_lock(&b->mutex);
		b->items[i].op = item_op;
		pthread_mutex_unlock(&b->mutex);
		watch(b, item_op);
	}
	return wait_for_all(b, op);
}

/* ---- taking back ---- */

static bool has_succeeded(const struct item *it)
{
	return it->op && kata_op_is_done(it->op) && !kata_op_get_error(it->op);
}

static void report(kata_batch *b, const struct item *it, const kata_error *error)
{
	kata__log(b->vm->ctx, KATA_LOG_ERROR, "vm", "vm %s: batch: '%s' could not be taken back: %s", b->vm->id, it->id,
		  kata_error_get_message(error));
}

struct inverse {
	kata_batch *batch;
	struct item *item;
};

static void inverse_ended(void *user, kata_op *op)
{
	struct inverse *inv = user;

	if (kata_op_get_error(op))
		report(inv->batch, inv->item, kata_op_get_error(op));
	else
		inv->item->undone = true;
	op_ended(inv->batch, op);
	free(inv);
}

static int begin_inverse(kata_batch *b, struct item *it, kata_error **err)
{
	struct inverse *inv = calloc(1, sizeof(*inv));
	kata_op *op = NULL;
	int rc;

	if (!inv)
		return kata__fail_no_memory(err);
	rc = begin_item(b, it, true, NULL, &op, err);
	if (rc < 0 || kata_op_is_done(op)) {
		it->undone = rc == 0 && !kata_op_get_error(op);
		free(inv);
	} else {
		*inv = (struct inverse){b, it};
		b->running++;
		atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
		kata__op_on_done(op, inverse_ended, inv);
	}
	kata_op_unref(op);
	return rc;
}

/* Of a VM that is being destroyed or has ended there is nothing to take back. */
static bool must_undo(const kata_batch *b)
{
	kata_vm_state state = kata__vm_get_state(b->vm);

	return (b->flags & KATA_BATCH_ALL_OR_NOTHING) && (((KATA__VM_LIVE | KATA__VM_IN(CREATED)) >> state) & 1);
}

static void begin_inverses(kata_batch *b)
{
	for (size_t i = 0; i < b->count; i++) {
		kata_error *error = NULL;

		if (!has_succeeded(&b->items[i]) || b->items[i].undone)
			continue;
		if (begin_inverse(b, &b->items[i], &error) < 0)
			report(b, &b->items[i], error);
		kata_error_free(error);
	}
}

/* The undo of `run`, and of `cancel`: items are waited for there. */
static int take_back(kata_op *op, kata_error **err)
{
	kata_batch *b = batch_of(op);

	forget_waiter(b);
	if (must_undo(b))
		begin_inverses(b);
	return wait_for_all(b, op);
}

/* Fails where something that had to be taken back is still there. */
static int check_taken_back(kata_op *op, kata_error **err)
{
	kata_batch *b = batch_of(op);

	forget_waiter(b);
	for (size_t i = 0; must_undo(b) && i < b->count; i++)
		if (has_succeeded(&b->items[i]) && !b->items[i].undone)
			return kata__fail(err, KATA_E_VMM, VMM, "batch: '%s' could not be taken back", b->items[i].id);
	return KATA__STEP_DONE;
}

/* ---- cancel, conclude ---- */

/* After a cancel: the items are cancelled and waited for, before anything is taken back. */
static int await_cancelled(kata_op *op, kata_error **err)
{
	kata_batch *b = batch_of(op);

	forget_waiter(b);
	for (size_t i = 0; i < b->count; i++)
		kata_op_cancel(b->items[i].op);
	return wait_for_all(b, op);
}

static int nothing(kata_op *op, kata_error **err)
{
	return KATA__STEP_DONE;
}

static const kata_error *item_error(const struct item *it)
{
	return it->refused ? it->refused : it->op ? kata_op_get_error(it->op) : NULL;
}

static int conclude(kata_op *op, kata_error **err)
{
	kata_batch *b = batch_of(op);
	const kata_error *first = NULL;
	size_t failed = 0, at = 0;
	kata_error *copy;
	int rc;

	for (size_t i = 0; i < b->count; i++) {
		if (!item_error(&b->items[i]))
			continue;
		if (failed++ == 0) {
			first = item_error(&b->items[i]);
			at = i;
		}
	}
	if (!first)
		return KATA__STEP_DONE;
	copy = kata__error_dup(first);
	rc = kata__error_move(err, &copy);
	return kata__error_wrap(err, rc, "batch: %zu of %zu items failed, first '%s'", failed, b->count,
				b->items[at].id);
}

static void free_data(void *data)
{
	batch_unref(data);
}

static void finish(kata_op *op, int status, kata_error **error)
{
	kata_vm_unref(batch_of(op)->vm);
}

/* Undone from the end: await-cancelled, then take-back, then check. Each is the undo of a step of its own, since each
 * waits. */
static const struct kata__step steps[] = {
	{.name = "identify", .run = identify, .flags = KATA__STEP_BLOCKING},
	{.name = "validate", .run = validate},
	{.name = "prepare", .run = nothing, .undo = check_taken_back},
	{.name = "open", .run = nothing, .undo = take_back},
	{.name = "run", .run = run, .undo = await_cancelled, .flags = KATA__STEP_UNCERTAIN},
	{.name = "conclude", .run = conclude},
};

static const struct kata__op_table batch_table = {
	.name = "batch",
	KATA__STEPS(steps),
	.undo_timeout_ms = UNDO_TIMEOUT_MS,
	.flags = KATA__OP_NO_DEADLINE,
	.finish = finish,
	.free_data = free_data,
};

/* ---- begin ---- */

/* What is to be removed must be there now. */
static int resolve(kata_batch *b, kata_error **err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < b->count; i++) {
		struct item *it = &b->items[i];

		if (it->kind == REMOVE_STORAGE && !it->storage)
			rc = kata__vm_device_find_storage(b->vm, it->id, &it->storage, err);
		else if (it->kind == REMOVE_NIC && !it->nic)
			rc = kata__vm_device_find_nic(b->vm, it->id, &it->nic, err);
	}
	return rc;
}

int kata_batch_begin(kata_batch *batch, const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;
	int rc = check(batch, ret_op, "ret_op", err);

	if (rc == 0)
		rc = kata__options_read(&o, sizeof(o), options, "options", err);
	if (rc == 0)
		rc = kata__vm_check_state(batch->vm, KATA__VM_LIVE | KATA__VM_IN(CREATED), "batch", err);
	if (rc == 0)
		rc = resolve(batch, err);
	if (rc < 0)
		return rc;
	batch->begun = true;
	batch->deadline = o.timeout_ms ? kata__deadline_in_ms(o.timeout_ms) : KATA__NEVER;
	atomic_fetch_add_explicit(&batch->refs, 1, memory_order_relaxed);
	kata_vm_ref(batch->vm);
	rc = kata__op_start(batch->vm->ctx, &batch_table, batch, NULL, batch->vm->time_scale, ret_op, err);
	if (rc < 0)
		kata_vm_unref(batch->vm);
	return rc;
}

int kata_batch_run(kata_batch *batch, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = batch ? kata__vm_check_may_block(batch->vm, "kata_batch_run", err) : 0;

	if (rc == 0)
		rc = kata_batch_begin(batch, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}
