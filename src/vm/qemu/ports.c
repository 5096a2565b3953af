/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ports.c - when a root port may be used again.
 *
 * QEMU shows a pending eject to every scan of the guest's until the guest has ejected, and the guest scans for every
 * plug and unplug of any port. So it notes an eject more than once, and goes on ejecting a port that it has emptied: up
 * to 25 ms behind DEVICE_DELETED on a quiet machine, more on a loaded one. Such a late eject takes whatever is on the
 * port by then, also a device that the guest has not seen yet.
 *
 * A guest works its notes off in order, and notes an eject only while it is pending. So a port is clean once the guest
 * has answered an unplug that was asked for after the port was freed; if that answer was none to a note of old, that
 * is, if the port of the unplugged device was clean itself. Slots are given out longest free first, so nobody waits for
 * this unless nearly all of them are in use. Then a plug waits for the answers under way; where there are none, time
 * must do, since nothing else tells how far the guest is: as much as it took for its last answer, or more.
 *
 * A device that is lost nevertheless is diverged (kata__vm_device_lost).
 *
 * What dead owners left is waited for here too (reconcile.c): a device of the same name, nodes that hold an image open.
 */
#include "vm/qemu/machine.h"

#include <stdlib.h>

#define LATE_EJECT_MS 50u  /* x the VM's time scale */
#define GIVE_UP_FACTOR 10u /* of a guest that leaves an unplug unanswered */

struct kata__qemu_port_wait {
	struct kata__qemu_port_wait *next;
	struct kata__qemu *q;
	kata_op *op; /* referenced */
	uint64_t token;
	struct kata__timer *timer;
};

bool kata__qemu_uses_port(const kata_op *op)
{
	const kata_storage *s = kata__vm_op_data(op)->storage;

	return !s || kata_storage_get_driver(s) != KATA_STORAGE_VIRTIO_SCSI;
}

bool kata__qemu_port_is_clean(const kata_op *op)
{
	const struct kata__vm_op *d = kata__vm_op_data(op);
	uint64_t freed_ns = kata__slots_freed_ns(&d->vm->ports, d->slot);

	return !freed_ns || freed_ns < kata__qemu_of_op(op)->drained_ns;
}

/* If no answer comes meanwhile. 0: at once. */
static uint64_t usable_at(const kata_op *op)
{
	const struct kata__qemu *q = kata__qemu_of_op(op);
	uint64_t freed_ns = kata__slots_freed_ns(&q->vm->ports, kata__vm_op_data(op)->slot);
	uint64_t since_ns = freed_ns > q->last_answer_ns ? freed_ns : q->last_answer_ns;
	uint64_t late_ns = UINT64_C(1000000) * LATE_EJECT_MS * q->vm->time_scale;

	if (q->exited || kata__qemu_port_is_clean(op))
		return 0;
	if (late_ns < q->last_answer_took_ns)
		late_ns = q->last_answer_took_ns;
	return kata__qemu_awaits_guest(q) ? freed_ns + GIVE_UP_FACTOR * late_ns : since_ns + late_ns;
}

void kata__qemu_occupy_port(kata_op *op)
{
	if (kata__qemu_uses_port(op))
		kata__slots_commit(&kata__vm_op_data(op)->vm->ports, kata__vm_op_data(op)->slot);
}

static void free_wait(struct kata__qemu_port_wait *w)
{
	struct kata__qemu_port_wait **at = &w->q->port_waits;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	kata__timer_remove(w->timer);
	kata_op_unref(w->op);
	free(w);
}

static void end_wait(struct kata__qemu_port_wait *w, int status, kata_error *take_err)
{
	kata__op_resume(w->op, w->token, status, take_err);
	free_wait(w);
}

/* 0: now. WAIT: until then, or (KATA__NEVER) until it is looked at again. */
static int check(const kata_op *op, uint64_t *ret_ns, kata_error **err)
{
	char name[KATA__QEMU_NAME_MAX];
	int rc;

	kata__qemu_device_name(op, name);
	rc = kata__qemu_check_strays(op, name, err);
	*ret_ns = rc == KATA__STEP_WAIT ? KATA__NEVER : 0;
	if (rc == 0 && kata__qemu_uses_port(op))
		*ret_ns = usable_at(op);
	return rc == 0 && *ret_ns > kata__now_ns() ? KATA__STEP_WAIT : rc;
}

static void look_again(void *user);

/* 0, WAIT, or < 0. */
static int look(struct kata__qemu_port_wait *w, kata_error **err)
{
	uint64_t at_ns;
	int rc = check(w->op, &at_ns, err);

	if (rc != KATA__STEP_WAIT)
		return rc;
	kata__timer_remove(kata__take_ptr(w->timer));
	if (at_ns == KATA__NEVER)
		return KATA__STEP_WAIT;
	rc = kata__timer_add(kata__context_loop(w->q->vm->ctx), at_ns, look_again, w, &w->timer, err);
	return rc < 0 ? rc : KATA__STEP_WAIT;
}

static void look_at(struct kata__qemu_port_wait *w)
{
	kata_error *err = NULL;
	int rc = look(w, &err);

	if (rc != KATA__STEP_WAIT)
		end_wait(w, rc, err);
}

static void look_again(void *user)
{
	struct kata__qemu_port_wait *w = user;

	w->timer = NULL;
	look_at(w);
}

void kata__qemu_look_at_ports(struct kata__qemu *q)
{
	struct kata__qemu_port_wait *next;

	for (struct kata__qemu_port_wait *w = q->port_waits; w; w = next) {
		next = w->next;
		look_at(w);
	}
}

void kata__qemu_port_answered(struct kata__qemu *q, uint64_t asked_ns, bool port_was_clean)
{
	q->last_answer_ns = kata__now_ns();
	q->last_answer_took_ns = q->last_answer_ns - asked_ns;
	if (port_was_clean && asked_ns > q->drained_ns)
		q->drained_ns = asked_ns;
	kata__qemu_look_at_ports(q);
}

int kata__qemu_await_port(kata_op *op, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of_op(op);
	struct kata__qemu_port_wait *w;
	uint64_t at_ns;
	int rc = check(op, &at_ns, err);

	if (rc != KATA__STEP_WAIT)
		return rc;
	w = calloc(1, sizeof(*w));
	if (!w)
		return kata__fail_no_memory(err);
	*w = (struct kata__qemu_port_wait){
		.next = q->port_waits, .q = q, .op = kata_op_ref(op), .token = kata__op_token(op)};
	q->port_waits = w;
	rc = look(w, err);
	if (rc != KATA__STEP_WAIT)
		free_wait(w);
	return rc;
}

void kata__qemu_cancel_await_port(kata_op *op)
{
	struct kata__qemu_port_wait *w = kata__qemu_of_op(op)->port_waits;

	while (w && w->op != op)
		w = w->next;
	if (w)
		free_wait(w);
}
