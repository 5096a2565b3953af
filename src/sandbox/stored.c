/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sandboxes in a persistence: store, release, obtain.
 *
 * Each store writes the next generation in place of the one that this handle believes to be there. When something else
 * is there, what the handle stored was rolled back by the caller: DIVERGED, and kata_sandbox_reconcile (reconcile.c).
 *
 * Obtaining is fenced twice: by the owner file of the machine, and then by the row's epoch, raised by compare-and-set.
 * Whoever loses either puts back what he raised.
 */
#include "sandbox/stored.h"

#include <string.h>

#include "base/text.h"
#include "persist/persistence.h"
#include "sandbox/rebuild.h"
#include "sandbox/record.h"
#include "vm/recover.h"

/* ---- plugs that were undone */

static void forget_plug(kata_sandbox *s, kata_reservation_kind kind, const char *id)
{
	for (size_t i = 0; i < s->undone_count; i++) {
		if (s->undone[i].kind != (uint32_t)kind || strcmp(s->undone[i].id, id) != 0)
			continue;
		free(s->undone[i].id);
		s->undone[i] = s->undone[--s->undone_count];
		return;
	}
}

static void remember_plug(kata_sandbox *s, kata_reservation_kind kind, const char *id)
{
	struct kata__record_undone *grown;
	char *copy = kata__strdup(id);

	if (s->undone_count == KATA__SANDBOX_UNDONE_MAX)
		forget_plug(s, (kata_reservation_kind)s->undone[0].kind, s->undone[0].id);
	grown = copy ? reallocarray(s->undone, s->undone_count + 1, sizeof(*grown)) : NULL;
	if (!grown) {
		free(copy);
		return;
	}
	s->undone = grown;
	grown[s->undone_count++] = (struct kata__record_undone){(uint32_t)kind, copy};
}

void kata__sandbox_note_plug(kata_sandbox *s, kata_reservation_kind kind, const char *id, bool undone)
{
	pthread_mutex_lock(&s->mutex);
	forget_plug(s, kind, id);
	if (undone)
		remember_plug(s, kind, id);
	pthread_mutex_unlock(&s->mutex);
}

bool kata__sandbox_fill_undone(kata_sandbox *s, struct kata_record *r)
{
	r->undone = s->undone_count ? calloc(s->undone_count, sizeof(*r->undone)) : NULL;
	if (s->undone_count && !r->undone)
		return false;
	for (size_t i = 0; i < s->undone_count; i++) {
		r->undone[i].kind = s->undone[i].kind;
		r->undone[i].id = kata__record_keep(r, s->undone[i].id);
		r->undone_count++;
		if (!r->undone[i].id)
			return false;
	}
	return true;
}

void kata__sandbox_free_undone(kata_sandbox *s)
{
	for (size_t i = 0; i < s->undone_count; i++)
		free(s->undone[i].id);
	free(s->undone);
}

/* ---- store */

uint64_t kata__sandbox_generation(kata_sandbox *s)
{
	uint64_t generation;

	pthread_mutex_lock(&s->mutex);
	generation = s->generation;
	pthread_mutex_unlock(&s->mutex);
	return generation;
}

/* One store at a time: of two, the one that comes later might have the older record. Waiting here could wait for a
 * thread that waits for the handle that this one holds. */
static int begin_store(kata_sandbox *s, uint64_t newest, uint64_t *ret_generation, kata_error **err)
{
	int rc = 0;

	pthread_mutex_lock(&s->mutex);
	if (s->storing)
		rc = kata__fail(err, KATA_E_BUSY, CALLER,
				"another thread stores sandbox '%s' just now: store again when it is done", s->id);
	else if (s->state == KATA_SANDBOX_SAVING) /* its record is then of somebody who restores it */
		rc = kata__fail(err, KATA_E_BUSY, CALLER, "sandbox '%s' is being saved: store it when that is done",
				s->id);
	else
		s->storing = true;
	*ret_generation = (s->generation > newest ? s->generation : newest) + 1;
	pthread_mutex_unlock(&s->mutex);
	return rc;
}

static void end_store(kata_sandbox *s, int rc, uint64_t generation)
{
	pthread_mutex_lock(&s->mutex);
	s->storing = false;
	if (rc == 0)
		s->generation = generation;
	pthread_mutex_unlock(&s->mutex);
}

int kata__sandbox_store(kata_sandbox *s, kata_persistence *p, int64_t base, uint64_t newest, kata_error **err)
{
	struct kata_record *record = NULL;
	uint64_t generation = 0;
	int rc = begin_store(s, newest, &generation, err);

	if (rc < 0)
		return rc;
	rc = kata__sandbox_to_record(s, &record, err);
	if (rc == 0) {
		record->base = base;
		record->generation = generation;
		rc = kata__persistence_store(p, record, err);
	}
	end_store(s, rc, generation);
	kata__record_free(record);
	return rc;
}

int kata_persistence_store_sandbox(kata_persistence *persistence, kata_sandbox *sandbox, kata_error **err)
{
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0)
		rc = kata__sandbox_check(sandbox, err);
	return rc < 0 ? rc
		      : kata__sandbox_store(sandbox, persistence, (int64_t)kata__sandbox_generation(sandbox), 0, err);
}

/* A record that is not what this handle stored last is noticed before the sandbox is let go of. */
static int check_stored(kata_persistence *p, kata_sandbox *s, kata_error **err)
{
	kata_sandbox_info info = {.size = sizeof(info)};
	uint64_t generation = kata__sandbox_generation(s);
	int rc = kata_persistence_get_info(p, s->id, &info, NULL);

	if (rc < 0 && rc != KATA_E_NOT_FOUND)
		return 0; /* the store says it better */
	if (rc == KATA_E_NOT_FOUND ? generation == 0 : info.generation == generation)
		return 0;
	if (rc == 0 && info.epoch > s->epoch)
		return 0;
	return kata__fail(
		err, KATA_E_DIVERGED, CALLER,
		"sandbox '%s' is not released: it stored generation %llu, but the store has %llu: what it stored was "
		"rolled back: kata_sandbox_reconcile first",
		s->id, (unsigned long long)generation, (unsigned long long)(rc == 0 ? info.generation : 0));
}

int kata_persistence_release_sandbox(kata_persistence *persistence, kata_sandbox *sandbox,
				     const kata_op_options *options, char **ret_json, kata_error **err)
{
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0)
		rc = kata__sandbox_check(sandbox, err);
	if (rc == 0)
		rc = check_stored(persistence, sandbox, err);
	if (rc == 0)
		rc = kata_sandbox_release(sandbox, options, NULL, err);
	if (rc < 0)
		return rc;
	rc = kata_persistence_store_sandbox(persistence, sandbox, err);
	if (ret_json) /* after the store: with the generation that stands there */
		kata_sandbox_dump(sandbox, ret_json, NULL);
	if (rc < 0)
		return kata__error_wrap(err, rc, "sandbox '%s' is released, but its record could not be stored",
					sandbox->id);
	return ret_json && !*ret_json ? kata__fail_no_memory(err) : 0;
}

/* ---- obtain */

#define OBTAIN_TRIES 3

static int check_owner(kata_persistence *p, const struct kata_record *record, kata_error **err)
{
	struct kata__process_identity owner = {.pid = (pid_t)record->owner_pid, .start_time = record->owner_start_time};
	kata_sandbox_info info = {.size = sizeof(info)};
	char since[32];

	if (record->owner_pid == 0)
		return 0;
	snprintf(owner.boot_id, sizeof(owner.boot_id), "%s", record->boot_id ? record->boot_id : "");
	if (!kata__process_is_alive(&owner))
		return 0;
	kata_persistence_get_info(p, record->id, &info, NULL);
	kata__format_time(info.held_since, since, sizeof(since));
	return kata__fail(
		err, KATA_E_FENCED, CALLER,
		"process %lld (start time %llu) owns sandbox '%s' since %s (epoch %llu) and lives: it must release "
		"it first",
		(long long)record->owner_pid, (unsigned long long)record->owner_start_time, record->id, since,
		(unsigned long long)record->epoch);
}

void kata__sandbox_give_up(kata_sandbox *s)
{
	kata__vm_rewind_epoch(s->vm);
	if (kata_sandbox_release(s, NULL, NULL, NULL) < 0)
		kata__log(s->ctx, KATA_LOG_ERROR, "sandbox", "sandbox '%s' could be neither stored nor released",
			  s->id);
}

/* The row is raised by whoever has the machine, so that one who is refused there has disturbed nobody's store. */
static int take_row(kata_persistence *p, kata_sandbox *s, uint64_t epoch, kata_error **err)
{
	int rc = kata__persistence_set_epoch(p, s->id, epoch, epoch + 1, err);

	if (rc < 0)
		return rc;
	rc = kata_persistence_store_sandbox(p, s, err);
	if (rc < 0 && kata__persistence_set_epoch(p, s->id, epoch + 1, epoch, NULL) < 0 && err)
		kata__error_set_hint(
			*err,
			"nothing could be written any more, so its record stays at epoch %llu, which hinders "
			"nobody: obtain it again",
			(unsigned long long)epoch + 1);
	return rc;
}

/* An owner that let go of the machine may have died before that was committed: the record is then older than the one
 * that the release left beside the machine, which is its last word. Of the same epoch: nobody had it since. */
static void take_last_word(kata_context *ctx, struct kata_record *record)
{
	uint64_t epoch = kata__vm_record_epoch(record->vm_json, strlen(record->vm_json));
	char *text = record->owner_pid ? kata__vm_read_released(kata_context_get_state_dir(ctx), record->vm_id, epoch)
				       : NULL;

	if (!text)
		return;
	free(record->vm_json);
	record->vm_json = text;
}

static int obtain(kata_persistence *p, const char *id, kata_vm_builder *vm_builder, kata_agent_builder *agent_builder,
		  const kata_op_options *options, uint64_t *ret_generation, kata_sandbox **ret, kata_error **err)
{
	struct kata_record *record = NULL;
	kata_sandbox *s = NULL;
	uint64_t epoch;
	int rc = kata__persistence_load(p, id, &record, err);

	if (rc == 0) {
		*ret_generation = record->generation;
		rc = check_owner(p, record, err);
	}
	if (rc < 0) {
		kata__record_free(record);
		return rc;
	}
	epoch = record->epoch;
	take_last_word(p->ctx, record);
	rc = kata__sandbox_rebuild(p->ctx, record, epoch + 1, vm_builder, agent_builder, options, &s, err);
	if (rc < 0)
		return rc;
	rc = take_row(p, s, epoch, err);
	if (rc < 0) { /* it goes back to nobody */
		kata__sandbox_give_up(s);
		kata_sandbox_unref(s);
		return rc;
	}
	*ret = s;
	return 0;
}

static bool was_stored_since(kata_persistence *p, const char *id, uint64_t generation)
{
	kata_sandbox_info info = {.size = sizeof(info)};

	return kata_persistence_get_info(p, id, &info, NULL) == 0 && info.generation != generation;
}

int kata_persistence_obtain_sandbox(kata_persistence *persistence, const char *id, kata_vm_builder *vm_builder,
				    kata_agent_builder *agent_builder, const kata_op_options *options,
				    kata_sandbox **ret_sandbox, kata_error **err)
{
	uint64_t generation = 0;
	kata_error *error = NULL;
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0)
		rc = kata__id_check("id", id, err);
	if (rc == 0 && (!vm_builder || !ret_sandbox))
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "%s: it is NULL",
				vm_builder ? "ret_sandbox" : "vm_builder");
	if (rc == 0)
		rc = kata__context_check_may_block(persistence->ctx, "kata_persistence_obtain_sandbox", err);
	if (rc < 0)
		return rc;
	/* Who owned it when the record was read may have stored once more before he let go of it, or died. */
	for (int i = 0; i < OBTAIN_TRIES; i++) {
		kata_error_free(kata__take_ptr(error));
		rc = obtain(persistence, id, vm_builder, agent_builder, options, &generation, ret_sandbox, &error);
		if (rc == 0 || generation == 0 || !was_stored_since(persistence, id, generation))
			break;
	}
	return kata__error_move(err, &error);
}
