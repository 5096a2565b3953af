/* SPDX-License-Identifier: Apache-2.0 */
/*
 * deletion.c - waiting until the guest has let go of a device.
 *
 * The event may come before the reply to device_del, so the waiter is in the list before the command is sent. A guest
 * that has not booted far enough clears the request unseen; QEMU allows to repeat it, so it is repeated, at growing
 * intervals, for as long as the op's deadline lets it. A reply "no such device" comes earlier than the event, by up to
 * 0.1 s: who took it for the event would take the event for one of the next device of that name. So it counts only
 * where the event has been seen, may have passed on a connection that broke, or may never come, since it is not known
 * that the device ever was there.
 *
 * What its answers tell about ports that may be used again is in ports.c.
 */
#include "vm/qemu/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_REPEAT_MS 2000u
#define SILENCE_MS 1000u /* of the monitor, in an undo: then another connection is tried */
#define RECONNECTS_MAX 3u

/* In the list from before the device_del to the op's finish. */
struct kata__qemu_waiter {
	struct kata__qemu_waiter *next;
	struct kata__qemu *q;
	kata_op *op; /* borrowed: the waiter is the op's scratch */
	uint64_t token;
	uint64_t asked_ns;   /* when device_del was sent first */
	bool port_was_clean; /* then: so the answer can be to nothing else */
	bool armed;          /* the op waits for it */
	bool deleted;
	bool answered; /* QEMU has replied to the last device_del */
	bool was_silent;
	unsigned reconnects;
	uint64_t repeat_ms;
	struct kata__timer *repeat;
	char name[KATA__QEMU_NAME_MAX];
};

struct request {
	struct kata__qemu *q;
	char name[KATA__QEMU_NAME_MAX];
};

static struct kata__qemu_waiter *waiter_of(const kata_op *op)
{
	return kata__vm_op_data(op)->scratch;
}

static struct kata__qemu_waiter *find_waiter(const struct kata__qemu *q, const char *name)
{
	for (struct kata__qemu_waiter *w = q->waiters; w; w = w->next)
		if (strcmp(w->name, name) == 0)
			return w;
	return NULL;
}

static void disarm(struct kata__qemu_waiter *w)
{
	w->armed = false;
	kata__timer_remove(kata__take_ptr(w->repeat));
}

static void resume(struct kata__qemu_waiter *w, kata_error *take_err)
{
	if (!w->armed) {
		kata_error_free(take_err);
		return;
	}
	disarm(w);
	kata__op_resume(w->op, w->token, (int)kata_error_get_status(take_err), take_err);
}

/* Unasked: the guest ejected it by itself, or did so after the call that asked for it had given up. While the machine
 * is being released its record stands as it was written: whoever takes it over will notice. */
void kata__qemu_note_lost(struct kata__qemu *q, const char *name)
{
	if (!kata__qemu_is_callers_device(name) || kata__vm_get_state(q->vm) == KATA_VM_RELEASING ||
	    !kata__vm_device_lost(q->vm, name[0] == 'n', name + 2))
		return;
	kata__log(q->vm->ctx, KATA_LOG_WARNING, "vm", "vm %s: the guest let go of %s unasked: it is diverged",
		  q->vm->id, name);
	kata__vm_changed(q->vm);
}

static void finish_wait(struct kata__qemu_waiter *w)
{
	kata__qemu_note_lost(w->q, w->name);
	w->deleted = true;
	resume(w, NULL);
}

static void deleted(struct kata__qemu *q, const char *name)
{
	struct kata__qemu_waiter *w = find_waiter(q, name);

	if (!w) {
		if (!kata__qemu_stray_deleted(q, name))
			kata__qemu_note_lost(q, name);
		return;
	}
	w->deleted = true;
	if (kata__qemu_uses_port(w->op))
		kata__qemu_port_answered(q, w->asked_ns, w->port_was_clean);
	finish_wait(w);
}

static void on_asked(void *user, const json_t *value, kata_error *take_err)
{
	struct request *r = user;

	if (kata__qemu_says_absent(take_err))
		deleted(r->q, r->name);
	kata_error_free(take_err);
	free(r);
}

static int ask_whether_gone(struct kata__qemu *q, const char *name)
{
	char path[sizeof("/machine/peripheral/") + KATA__QEMU_NAME_MAX];
	struct request *r = calloc(1, sizeof(*r));
	json_t *args;
	int rc;

	snprintf(path, sizeof(path), "/machine/peripheral/%s", name);
	args = r ? json_pack("{s:s, s:s}", "path", path, "property", "parent_bus") : NULL;
	if (!args) {
		free(r);
		return KATA_E_NO_MEMORY;
	}
	r->q = q;
	snprintf(r->name, sizeof(r->name), "%s", name);
	rc = kata__qmp_execute(q->qmp, "qom-get", args, -1, on_asked, r, NULL);
	if (rc)
		free(r);
	return rc;
}

/* What an owner unplugged who died is gone up to 0.1 s before its event: by then the name may be another device's. */
void kata__qemu_on_deleted(struct kata__qemu *q, const char *name)
{
	if (!q->inherited || !kata__qemu_is_callers_device(name) || ask_whether_gone(q, name))
		deleted(q, name);
}

/* That QEMU does not know the device. */
static bool is_final(const struct kata__qemu_waiter *w)
{
	const struct kata__vm_op *d = kata__vm_op_data(w->op);
	const void *object = d->storage ? (const void *)d->storage : (const void *)d->nic;

	return kata__op_is_undoing(w->op) || d->device_before == KATA_DEVICE_DIVERGED || w->q->connections > 1 ||
	       kata__vm_device_is_lost(d->vm, object);
}

/* ---- asking again */

static bool says_pending(const kata_error *err)
{
	return kata_error_get_status(err) == KATA_E_VMM &&
	       strstr(kata_error_get_message(err), "already in the process of unplug") != NULL;
}

/* Success says nothing yet. A broken connection is told to all waiters by kata__qemu_fail_waiters. */
static void on_reply(void *user, const json_t *value, kata_error *take_err)
{
	struct request *r = user;
	struct kata__qemu_waiter *w = find_waiter(r->q, r->name);

	if (w)
		w->answered = !take_err || kata_error_get_status(take_err) == KATA_E_VMM;
	if (w && w->answered)
		r->q->silent = false;
	if (w && kata__qemu_says_absent(take_err)) {
		if (is_final(w))
			finish_wait(w);
	} else if (w && kata_error_get_status(take_err) == KATA_E_VMM && !says_pending(take_err)) {
		resume(w, kata__take_ptr(take_err));
	}
	kata_error_free(take_err);
	free(r);
}

static int send_request(struct kata__qemu_waiter *w, kata_error **err)
{
	struct request *r;
	json_t *args;
	int rc = kata__qemu_ensure_connected(w->q, err);

	if (rc)
		return rc;
	r = calloc(1, sizeof(*r));
	args = r ? json_pack("{s:s}", "id", w->name) : NULL;
	if (!args) {
		free(r);
		return kata__fail_no_memory(err);
	}
	r->q = w->q;
	w->answered = false;
	memcpy(r->name, w->name, sizeof(r->name));
	rc = kata__qmp_execute(w->q->qmp, "device_del", args, -1, on_reply, r, err);
	if (rc)
		free(r);
	return rc;
}

static void on_repeat(void *user);

static int arm(struct kata__qemu_waiter *w, kata_error **err)
{
	w->token = kata__op_token(w->op);
	w->armed = true;
	return kata__timer_add(kata__context_loop(w->q->vm->ctx), kata__deadline_in_ms(w->repeat_ms), on_repeat, w,
			       &w->repeat, err);
}

static void on_repeat(void *user)
{
	struct kata__qemu_waiter *w = user;
	kata_error *err = NULL;

	w->repeat = NULL;
	w->repeat_ms *= 2;
	if (kata__op_is_undoing(w->op) && !w->answered) {
		if (w->was_silent) {
			w->q->silent = true;
			kata__fail(&err, KATA_E_TIMEOUT, VMM,
				   "QEMU does not answer device_del, not on a new connection either");
			resume(w, err);
			return;
		}
		w->was_silent = true;
		kata__qmp_close(kata__take_ptr(w->q->qmp), NULL);
	}
	if (send_request(w, &err) == 0)
		(void)kata__timer_add(kata__context_loop(w->q->vm->ctx), kata__deadline_in_ms(w->repeat_ms), on_repeat,
				      w, &w->repeat, NULL);
	else
		resume(w, err);
}

/* ---- steps */

static int make_waiter(kata_op *op, const char *name, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	struct kata__qemu_waiter *w = d->scratch;
	struct kata__qemu *q = kata__qemu_of(d->vm);

	if (w)
		return 0;
	w = calloc(1, sizeof(*w));
	if (!w)
		return kata__fail_no_memory(err);
	*w = (struct kata__qemu_waiter){.next = q->waiters,
					.q = q,
					.op = op,
					.asked_ns = kata__now_ns(),
					.port_was_clean = kata__qemu_uses_port(op) && kata__qemu_port_is_clean(op),
					.repeat_ms = FIRST_REPEAT_MS};
	snprintf(w->name, sizeof(w->name), "%s", name);
	q->waiters = w;
	d->scratch = w;
	return 0;
}

static int check_request(kata_op *op, const json_t *value, kata_error **err)
{
	struct kata__qemu_waiter *w = waiter_of(op);

	if (!*err)
		return 0;
	if (kata__qemu_says_absent(*err)) {
		if (is_final(w))
			finish_wait(w);
	} else if (!says_pending(*err))
		return (int)kata_error_get_status(*err);
	kata_error_free(*err);
	*err = NULL;
	return 0;
}

int kata__qemu_request_deletion(kata_op *op, const char *name, kata_error **err)
{
	int rc = make_waiter(op, name, err);

	if (rc)
		return rc;
	return kata__qemu_command(op, "device_del", json_pack("{s:s}", "id", name), -1, check_request, err);
}

int kata__qemu_await_deletion(kata_op *op, kata_error **err)
{
	struct kata__qemu_waiter *w = waiter_of(op);
	int rc;

	if (w->deleted)
		return KATA__STEP_DONE;
	rc = arm(w, err);
	return rc ? rc : KATA__STEP_WAIT;
}

void kata__qemu_cancel_deletion(kata_op *op)
{
	struct kata__qemu_waiter *w = waiter_of(op);

	if (w)
		disarm(w);
}

int kata__qemu_undo_device(kata_op *op, const char *name, kata_error **err)
{
	kata_error *failure = NULL;
	struct kata__qemu_waiter *w;
	int rc = make_waiter(op, name, err);

	if (rc)
		return rc;
	w = waiter_of(op);
	if (w->q->silent)
		return kata__fail(err, KATA_E_TIMEOUT, VMM, "QEMU has stopped answering: device_del was not sent");
	w->repeat_ms = SILENCE_MS;
	rc = send_request(w, &failure);
	if (rc == KATA_E_GONE) { /* QEMU has ended, and the device with it */
		kata_error_free(failure);
		return KATA__STEP_DONE;
	}
	if (!rc)
		rc = arm(w, &failure);
	return rc ? kata__error_move(err, &failure) : KATA__STEP_WAIT;
}

bool kata__qemu_awaits_guest(const struct kata__qemu *q)
{
	for (const struct kata__qemu_waiter *w = q->waiters; w; w = w->next)
		if (!w->deleted && kata__qemu_uses_port(w->op))
			return true;
	return false;
}

void kata__qemu_end_deletion(kata_op *op)
{
	struct kata__qemu_waiter *w = waiter_of(op);

	if (!w)
		return;
	disarm(w);
	for (struct kata__qemu_waiter **at = &w->q->waiters; *at; at = &(*at)->next) {
		if (*at != w)
			continue;
		*at = w->next;
		kata__qemu_look_at_ports(w->q);
		return;
	}
}

/* An undo asks again on a new connection; where there is none QEMU is gone, and the device with it. */
static void fail_undo(struct kata__qemu_waiter *w, const kata_error *why)
{
	kata_error *err = NULL;

	if (!w->q->exited && w->reconnects++ >= RECONNECTS_MAX) {
		resume(w, kata__error_dup(why));
		return;
	}
	switch (w->q->exited ? KATA_E_GONE : send_request(w, &err)) {
	case 0:
		return;
	case KATA_E_GONE:
		kata_error_free(err);
		resume(w, NULL);
		return;
	default:
		resume(w, err);
	}
}

void kata__qemu_fail_waiters(struct kata__qemu *q, const kata_error *why)
{
	for (struct kata__qemu_waiter *w = q->waiters; w; w = w->next) {
		if (!w->armed)
			continue;
		if (kata__op_is_undoing(w->op))
			fail_undo(w, why);
		else
			resume(w, kata__error_dup(why));
	}
}
