/* SPDX-License-Identifier: Apache-2.0 */
/* kata_op as an object: references, waiting, what can be read of it, its callback. The engine that runs it is engine.c.
 */
#include "op/op_private.h"

#include <assert.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"

/* ---- references ---- */

kata_op *kata_op_ref(kata_op *op)
{
	if (op)
		atomic_fetch_add_explicit(&op->refs, 1, memory_order_relaxed);
	return op;
}

void kata_op_unref(kata_op *op)
{
	if (!op || atomic_fetch_sub_explicit(&op->refs, 1, memory_order_acq_rel) != 1)
		return;
	assert(op->magic == OP_MAGIC);
	if (op->table->free_data)
		op->table->free_data(op->data);
	if (op->callback_free)
		op->callback_free(op->callback_user);
	kata_error_free(op->error);
	kata_error_free(op->result_error);
	kata__close_fd(&op->event_fd);
	pthread_mutex_destroy(&op->lock);
	free(op->subject);
	op->magic = 0;
	free(op);
}

int kata__op_new(kata_context *ctx, const struct kata__op_table *table, void *take_data, const kata_op_options *options,
		 uint32_t scale, kata_op **ret_op, kata_error **err)
{
	size_t entries_size = 2 * table->count * sizeof(struct entry);
	kata_op *op = malloc(sizeof(*op) + entries_size); /* glibc's calloc passes its fast cache by */

	if (!op) {
		if (table->free_data)
			table->free_data(take_data);
		return kata__fail_no_memory(err);
	}
	memset(op, 0, sizeof(*op));
	memset(op->entries, 0, entries_size);
	op->magic = OP_MAGIC;
	atomic_init(&op->refs, 1);
	op->ctx = ctx;
	op->table = table;
	op->data = take_data;
	op->scale = scale ? scale : 1;
	op->event_fd = -1;
	op->timeout_ms = options && options->timeout_ms ? options->timeout_ms : (uint64_t)table->timeout_ms * op->scale;
	op->start_ns = kata__now_ns();
	op->deadline = KATA__NEVER;
	if (!(table->flags & KATA__OP_NO_DEADLINE) || (options && options->timeout_ms))
		op->deadline = op->timeout_ms > (KATA__NEVER - 1 - op->start_ns) / 1000000u
				       ? KATA__NEVER
				       : op->start_ns + op->timeout_ms * 1000000u;
	pthread_mutex_init(&op->lock, NULL);
	*ret_op = op;
	return 0;
}

void kata__op_set_journal(kata_op *op, struct kata__journal *journal, const char *subject)
{
	op->journal = journal;
	free(op->subject);
	op->subject = kata__strdup(subject);
}

/* ---- the end, told to others ---- */

static void callback_run(struct kata__task *task)
{
	kata_op *op = kata__container_of(task, kata_op, callback_task);
	void (*free_user)(void *) = op->callback_free;

	op->callback(op->callback_user, op);
	op->callback_free = NULL;
	if (free_user)
		free_user(op->callback_user);
	kata_op_unref(op);
}

static void post_callback(kata_op *op)
{
	op->callback_task.fn = callback_run;
	kata_op_ref(op);
	kata__loop_post(kata__context_loop(op->ctx), &op->callback_task);
}

void kata__op_publish(kata_op *op)
{
	uint64_t one = 1;
	bool has_callback;

	atomic_store(&op->end_ns, kata__now_ns());
	pthread_mutex_lock(&op->lock);
	__atomic_store_n(&op->done, true, __ATOMIC_RELEASE);
	if (op->event_fd >= 0)
		(void)!write(op->event_fd, &one, sizeof(one));
	has_callback = op->callback != NULL;
	pthread_mutex_unlock(&op->lock);
	if (op->on_done)
		op->on_done(op->on_done_user, op);
	if (has_callback)
		post_callback(op);
	kata__loop_wake_waiters(kata__context_loop(op->ctx));
}

/* ---- waiting and reading ---- */

bool kata_op_is_done(const kata_op *op)
{
	return __atomic_load_n(&op->done, __ATOMIC_ACQUIRE);
}

const kata_error *kata_op_get_error(const kata_op *op)
{
	return kata_op_is_done(op) ? op->error : NULL;
}

int kata_op_wait(kata_op *op, kata_error **err)
{
	int rc;

	if (!op)
		return kata__fail(err, KATA_E_INVALID, CALLER, "op: is NULL");
	if (!kata_op_is_done(op)) {
		rc = kata__context_check_may_block(op->ctx, "kata_op_wait", err);
		if (rc)
			return rc;
		kata__loop_wait(kata__context_loop(op->ctx), &op->done, KATA__NEVER);
	}
	if (op->error && err)
		*err = kata__error_dup(op->error);
	return op->error ? (int)kata_error_get_status(op->error) : 0;
}

int kata__op_finish_sync(int rc, kata_op **take_op, kata_error **err)
{
	kata_op *op = kata__take_ptr(*take_op);

	if (rc)
		return rc;
	rc = kata_op_wait(op, err);
	kata_op_unref(op);
	return rc;
}

int kata_op_get_fd(kata_op *op)
{
	int fd;

	pthread_mutex_lock(&op->lock);
	if (op->event_fd < 0)
		op->event_fd = eventfd(op->done ? 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK);
	fd = op->event_fd;
	pthread_mutex_unlock(&op->lock);
	return fd;
}

int kata_op_set_callback(kata_op *op, kata_op_done_fn fn, void *user, void (*free_user)(void *user), kata_error **err)
{
	bool done;

	if (!op || !fn)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", op ? "fn" : "op");
	pthread_mutex_lock(&op->lock);
	if (op->callback) {
		pthread_mutex_unlock(&op->lock);
		return kata__fail(err, KATA_E_STATE, CALLER, "this op has a callback already");
	}
	op->callback = fn;
	op->callback_user = user;
	op->callback_free = free_user;
	done = op->done;
	pthread_mutex_unlock(&op->lock);
	if (done)
		post_callback(op);
	return 0;
}

const char *kata_op_get_name(const kata_op *op)
{
	return op->table->name;
}

size_t kata_op_get_timeline_length(const kata_op *op)
{
	return atomic_load_explicit(&op->entry_count, memory_order_acquire);
}

int kata_op_get_timeline_entry(const kata_op *op, size_t index, kata_timeline_entry *ret_entry, kata_error **err)
{
	const struct entry *e;

	if (index >= kata_op_get_timeline_length(op))
		return kata__fail(err, KATA_E_INVALID, CALLER, "index: is %zu, the timeline has %zu entries", index,
				  kata_op_get_timeline_length(op));
	if (!ret_entry || ret_entry->size != sizeof(*ret_entry))
		return kata__fail(err, KATA_E_INVALID, CALLER, "ret_entry.size: must be sizeof(kata_timeline_entry)");
	e = &op->entries[index];
	ret_entry->step = e->step;
	ret_entry->start_ns = e->start_ns;
	ret_entry->outcome = atomic_load(&e->outcome);
	ret_entry->end_ns = atomic_load(&e->end_ns);
	ret_entry->is_undo = e->is_undo;
	return 0;
}

uint64_t kata_op_get_start_ns(const kata_op *op)
{
	return op->start_ns;
}

uint64_t kata_op_get_end_ns(const kata_op *op)
{
	return atomic_load(&op->end_ns);
}

void *kata__op_data(const kata_op *op)
{
	return op->data;
}

kata_context *kata__op_context(const kata_op *op)
{
	return op->ctx;
}

const struct kata__op_table *kata__op_get_table(const kata_op *op)
{
	return op->table;
}

uint64_t kata__op_deadline(const kata_op *op)
{
	return op->deadline;
}

uint32_t kata__op_scale(const kata_op *op)
{
	return op->scale;
}

int kata__op_check_stop(const kata_op *op, kata_error **err)
{
	if (atomic_load(&op->cancel_asked))
		return kata__fail(err, KATA_E_CANCELLED, CALLER, "%s: cancelled", op->table->name);
	if (op->deadline == KATA__NEVER || kata__now_ns() < op->deadline)
		return 0;
	return kata__fail(err, KATA_E_TIMEOUT, HOST, "%s: not finished by its deadline of %llu ms", op->table->name,
			  (unsigned long long)op->timeout_ms);
}

bool kata__op_is_undoing(const kata_op *op)
{
	return op->phase == PHASE_UNDO;
}
