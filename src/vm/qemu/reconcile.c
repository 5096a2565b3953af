/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reconcile.c - the devices of a machine that is taken over, compared with the record.
 *
 * After an orderly release the record that counts has exactly QEMU's devices, but for those that the guest let go of
 * since; another one is an old one, and is refused. After the death of an owner the last record may be older than what
 * that owner was just doing, and nobody was told of it:
 *
 * - recorded, but gone in QEMU: its unplug was under way, so it is dropped from the list; so is one that was diverged;
 * - in QEMU under a recorded id, but in another slot or with another MAC: unplugged and plugged again since. Both of
 * these hold: the recorded one is gone, the one that is there is a stray;
 * - in QEMU, but not recorded: a stray, whose plug was under way. QEMU is asked to take it back; until the guest lets
 * go its port stays taken;
 * - nodes and netdevs of free slots: halves of a plug or unplug. They are removed.
 */
#include "vm/qemu/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/core.h"

#define STRAYS_MAX 512u
#define FIRST_REPEAT_MS 2000u
#define LAST_REPEAT_MS 64000u
#define CLEAR_AGAIN_MS 10u
#define LOOK_MS 20u /* after a rebuild: whoever releases the machine again at once need not wait for the answer */
#define CLEAR_TRIES_MAX 200u

struct kata__qemu_stray {
	struct kata__qemu_stray *next;
	int port; /* -1: none, or not known yet */
	char name[KATA__QEMU_NAME_MAX];
};

bool kata__qemu_owner_died(const kata_op *op)
{
	const struct kata__owner *before = kata__vm_op_data(op)->owner_before;

	return before && (before->process.pid != 0 || before->unsettled);
}

static bool has_more_slots(kata_vm *vm, const struct kata__slots *slots, bool luns)
{
	return slots->count - slots->free_count != kata__vm_device_slots_used(vm, luns);
}

bool kata__qemu_is_unsettled(const struct kata__qemu *q)
{
	return q->strays || q->clearings || has_more_slots(q->vm, &q->vm->ports, false) ||
	       has_more_slots(q->vm, &q->vm->luns, true);
}

/* ---- commands whose outcome is read later, or not at all */

static void ignore(void *user, const json_t *value, kata_error *take_err)
{
	kata_error_free(take_err);
}

static void tell(struct kata__qemu *q, const char *command, json_t *take_args)
{
	if (q->qmp && take_args)
		(void)kata__qmp_execute(q->qmp, command, take_args, -1, ignore, NULL, NULL);
	else
		json_decref(take_args);
}

static void tell_to_clear_nic(struct kata__qemu *q, int slot)
{
	char name[16];

	kata__qemu_netdev_name(slot, name);
	tell(q, "netdev_del", json_pack("{s:s}", "id", name));
	tell(q, "closefd", json_pack("{s:s}", "fdname", name));
}

/* ---- clearing a slot of what a plug has left on it */

/* The slot is held by it, so that nobody gets it before it is empty. */
struct kata__qemu_clearing {
	struct kata__qemu_clearing *next;
	struct kata__qemu *q;
	char kind; /* 'b': a port, 'l': a LUN, as in the names of nodes */
	int slot;
	unsigned tries;
	struct kata__timer *again;
};

static struct kata__slots *slots_of(const struct kata__qemu_clearing *c)
{
	return c->kind == 'b' ? &c->q->vm->ports : &c->q->vm->luns;
}

static void free_clearing(struct kata__qemu_clearing *c)
{
	struct kata__qemu *q = c->q;

	for (struct kata__qemu_clearing **at = &c->q->clearings; *at; at = &(*at)->next) {
		if (*at != c)
			continue;
		*at = c->next;
		break;
	}
	kata__timer_remove(c->again);
	free(c);
	kata__qemu_look_at_ports(q);
}

static void end_clearing(struct kata__qemu_clearing *c)
{
	unsigned set = (c->kind == 'l' ? 1000u : 10u) + 2u * (unsigned)c->slot;

	for (unsigned i = 0; i < 2; i++)
		tell(c->q, "remove-fd", json_pack("{s:i}", "fdset-id", (int)(set + i)));
	if (c->kind == 'b')
		tell_to_clear_nic(c->q, c->slot);
	kata__slots_release(slots_of(c), c->slot, true);
	free_clearing(c);
}

static void on_cleared(void *user, const json_t *value, kata_error *take_err);

static void on_clear_again(void *user)
{
	struct kata__qemu_clearing *c = user;
	char node[16];

	c->again = NULL;
	snprintf(node, sizeof(node), "%c%d", c->kind, c->slot);
	if (kata__qemu_ensure_connected(c->q, NULL) ||
	    kata__qmp_execute(c->q->qmp, "blockdev-del", json_pack("{s:s}", "node-name", node), -1, on_cleared, c,
			      NULL))
		free_clearing(c); /* the slot stays taken */
}

/* QEMU tells that a device is deleted a moment before it lets go of the device's node. */
static void on_cleared(void *user, const json_t *value, kata_error *take_err)
{
	struct kata__qemu_clearing *c = user;
	bool gone = !take_err || kata__qemu_says_absent(take_err);
	bool again = !gone && kata_error_get_status(take_err) == KATA_E_VMM && c->tries++ < CLEAR_TRIES_MAX &&
		     kata__timer_add(kata__context_loop(c->q->vm->ctx), kata__deadline_in_ms(CLEAR_AGAIN_MS),
				     on_clear_again, c, &c->again, NULL) == 0;

	if (gone)
		end_clearing(c);
	else if (!again)
		free_clearing(c);
	kata_error_free(take_err);
}

/* The slot is taken already. Out of memory: it stays taken. */
static void clear_slot(struct kata__qemu *q, char kind, int slot)
{
	struct kata__qemu_clearing *c = calloc(1, sizeof(*c));

	if (!c)
		return;
	*c = (struct kata__qemu_clearing){.next = q->clearings, .q = q, .kind = kind, .slot = slot};
	q->clearings = c;
	on_clear_again(c);
}

/* ---- strays */

struct deletion {
	struct kata__qemu *q;
	char name[KATA__QEMU_NAME_MAX];
};

/* That QEMU does not know it any more is said before the event, which would be taken for the next of that name; but
 * the event may have passed on a connection that broke. */
static void on_deletion_reply(void *user, const json_t *value, kata_error *take_err)
{
	struct deletion *d = user;

	if (d->q->connections > 1 && kata__qemu_says_absent(take_err))
		kata__qemu_stray_deleted(d->q, d->name);
	kata_error_free(take_err);
	free(d);
}

static void tell_to_delete(struct kata__qemu *q, const char *name)
{
	struct deletion *d = calloc(1, sizeof(*d));

	if (!d)
		return; /* it is repeated */
	d->q = q;
	snprintf(d->name, sizeof(d->name), "%s", name);
	if (kata__qmp_execute(q->qmp, "device_del", json_pack("{s:s}", "id", name), -1, on_deletion_reply, d, NULL))
		free(d);
}

static void on_repeat(void *user);

/* A guest that boots clears the request unseen: it is repeated, less and less often. */
static void repeat_later(struct kata__qemu *q)
{
	if (q->strays && !q->stray_timer)
		(void)kata__timer_add(kata__context_loop(q->vm->ctx), kata__deadline_in_ms(q->stray_repeat_ms),
				      on_repeat, q, &q->stray_timer, NULL);
}

static void on_repeat(void *user)
{
	struct kata__qemu *q = user;

	q->stray_timer = NULL;
	if (kata__qemu_ensure_connected(q, NULL))
		return;
	for (struct kata__qemu_stray *s = q->strays; s; s = s->next)
		tell_to_delete(q, s->name);
	if (q->stray_repeat_ms < LAST_REPEAT_MS)
		q->stray_repeat_ms *= 2;
	repeat_later(q);
}

void kata__qemu_forget_strays(struct kata__qemu *q)
{
	kata__timer_remove(kata__take_ptr(q->stray_timer));
	while (q->clearings)
		free_clearing(q->clearings);
	while (q->strays) {
		struct kata__qemu_stray *s = q->strays;

		q->strays = s->next;
		free(s);
	}
}

bool kata__qemu_stray_deleted(struct kata__qemu *q, const char *name)
{
	for (struct kata__qemu_stray **at = &q->strays; *at; at = &(*at)->next) {
		struct kata__qemu_stray *s = *at;

		if (strcmp(s->name, name) != 0)
			continue;
		*at = s->next;
		if (s->port >= 0)
			clear_slot(q, 'b', s->port);
		free(s);
		kata__qemu_look_at_ports(q);
		return true;
	}
	return false;
}

int kata__qemu_check_strays(const kata_op *op, const char *name, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of_op(op);

	for (const struct kata__qemu_stray *s = q->strays; s && !q->exited; s = s->next) {
		if (strcmp(s->name, name) != 0)
			continue;
		if (s->port < 0 || kata_vm_get_state(q->vm) != KATA_VM_PAUSED)
			return KATA__STEP_WAIT;
		return kata__fail(err, KATA_E_BUSY, CALLER,
				  "'%s' is what an owner who died has plugged and not stored: it is being taken back, "
				  "but the guest is paused and cannot let go of it: resume it, or use another id",
				  name + 2);
	}
	return q->clearings && !q->exited ? KATA__STEP_WAIT : 0;
}

static int add_stray(struct kata__qemu *q, const char *name, kata_error **err)
{
	struct kata__qemu_stray *s;

	if (strlen(name) >= sizeof(s->name))
		return 0; /* no name of ours */
	s = calloc(1, sizeof(*s));
	if (!s)
		return kata__fail_no_memory(err);
	s->port = -1;
	memcpy(s->name, name, strlen(name) + 1);
	s->next = q->strays;
	q->strays = s;
	kata__log(q->vm->ctx, KATA_LOG_WARNING, "vm", "vm %s: device %s is in no record: it is being taken back",
		  q->vm->id, name);
	tell_to_delete(q, name);
	q->stray_repeat_ms = FIRST_REPEAT_MS;
	repeat_later(q);
	return 0;
}

/* ---- the comparison */

static bool has_child(const json_t *children, const char *name)
{
	const json_t *child;
	size_t i;

	json_array_foreach(children, i, child)
	{
		const char *found = json_string_value(json_object_get(child, "name"));

		if (found && strcmp(found, name) == 0)
			return true;
	}
	return false;
}

static int refuse_old(const kata_vm *vm, const char *what, const char *name, kata_error **err)
{
	int rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "%s '%.64s' of machine '%s': the record is an old one", what,
			    name, vm->id);

	if (err)
		kata__error_set_hint(*err, "rebuild from the latest record: released.json, or the last one stored");
	return rc;
}

static int device_is_missing(kata_op *op, const void *object, const char *name, kata_device_state state,
			     kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	bool committed;

	if (!kata__qemu_owner_died(op) && state != KATA_DEVICE_DIVERGED && !kata__vm_op_data(op)->is_released_one)
		return refuse_old(vm, "the record has a device that was unplugged since:", name + 2, err);
	kata__log(vm->ctx, KATA_LOG_WARNING, "vm", "vm %s: device %s has gone since it was recorded", vm->id, name);
	if (name[0] == 'n')
		tell_to_clear_nic(kata__qemu_of(vm), kata__vm_device_slot(vm, object, &committed));
	kata__vm_device_drop(vm, object); /* a disk's node is swept */
	return 0;
}

static int compare_storages(kata_op *op, const json_t *children, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;

	for (size_t i = kata_vm_get_storage_count(vm); i-- > 0;) {
		char name[KATA__QEMU_NAME_MAX];
		kata_storage *s = NULL;
		int rc = kata_vm_get_storage(vm, i, &s, err);

		if (rc)
			return rc;
		kata__qemu_storage_name(s, name);
		if (!has_child(children, name))
			rc = device_is_missing(op, s, name, kata_storage_get_state(s), err);
		kata_storage_unref(s);
		if (rc)
			return rc;
	}
	return 0;
}

static int compare_nics(kata_op *op, const json_t *children, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;

	for (size_t i = kata_vm_get_nic_count(vm); i-- > 0;) {
		char name[KATA__QEMU_NAME_MAX];
		kata_nic *n = NULL;
		int rc = kata_vm_get_nic(vm, i, &n, err);

		if (rc)
			return rc;
		kata__qemu_nic_name(n, name);
		if (!has_child(children, name))
			rc = device_is_missing(op, n, name, kata_nic_get_state(n), err);
		kata_nic_unref(n);
		if (rc)
			return rc;
	}
	return 0;
}

static bool is_recorded(kata_vm *vm, const char *name)
{
	kata_storage *s = NULL;
	kata_nic *n = NULL;
	bool found = name[0] == 's' ? kata_vm_find_storage(vm, name + 2, &s, NULL) == 0
				    : kata_vm_find_nic(vm, name + 2, &n, NULL) == 0;

	kata_storage_unref(s);
	kata_nic_unref(n);
	return found;
}

static int compare_children(kata_op *op, const json_t *children, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	const json_t *child;
	size_t i;
	int rc;

	if (json_array_size(children) > STRAYS_MAX)
		return kata__fail(err, KATA_E_PROTOCOL, VMM, "QEMU has more devices than it was given");
	json_array_foreach(children, i, child)
	{
		const char *name = json_string_value(json_object_get(child, "name"));

		if (!name || !kata__qemu_is_callers_device(name) || is_recorded(vm, name))
			continue;
		rc = kata__qemu_owner_died(op)
			     ? add_stray(kata__qemu_of(vm), name, err)
			     : refuse_old(vm, "the record lacks the device that was plugged since:", name + 2, err);
		if (rc)
			return rc;
	}
	return 0;
}

/* After verify-slots, before find-strays. */
int kata__qemu_plugged_anew(kata_op *op, const char *name, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	kata_storage *s = NULL;
	kata_nic *n = NULL;
	int rc = name[0] == 's' ? kata_vm_find_storage(vm, name + 2, &s, NULL)
				: kata_vm_find_nic(vm, name + 2, &n, NULL);

	if (rc == 0) /* else another of its properties said so already */
		rc = device_is_missing(op, s ? (void *)s : n, name, KATA_DEVICE_PLUGGED, err);
	else
		rc = 1;
	if (rc == 0)
		rc = add_stray(kata__qemu_of(vm), name, err);
	kata_storage_unref(s);
	kata_nic_unref(n);
	return rc < 0 ? rc : 0;
}

static int check_devices(kata_op *op, const json_t *value, kata_error **err)
{
	int rc;

	if (*err)
		return (int)kata_error_get_status(*err);
	if ((rc = compare_storages(op, value, err)) || (rc = compare_nics(op, value, err)))
		return rc;
	return compare_children(op, value, err);
}

int kata__qemu_step_compare_devices(kata_op *op, kata_error **err)
{
	kata__qemu_of_op(op)->inherited = kata__qemu_owner_died(op);
	return kata__qemu_command(op, "qom-list", json_pack("{s:s}", "path", "/machine/peripheral"), -1, check_devices,
				  err);
}

/* ---- afterwards, where nothing was compared */

static void look_for_strangers(struct kata__qemu *q, const json_t *children)
{
	const json_t *child;
	size_t i;

	json_array_foreach(children, i, child)
	{
		const char *name = json_string_value(json_object_get(child, "name"));

		if (name && kata__qemu_is_callers_device(name) && !kata__vm_device_has_id(q->vm, name + 2))
			kata__log(q->vm->ctx, KATA_LOG_ERROR, "vm",
				  "vm %s: device %.64s is in no record: it was plugged by hand", q->vm->id, name);
	}
}

static void on_children(void *user, const json_t *value, kata_error *take_err)
{
	struct kata__qemu *q = user;
	char name[KATA__QEMU_NAME_MAX];
	kata_storage *s = NULL;
	kata_nic *n = NULL;

	if (take_err || !json_is_array(value)) {
		kata_error_free(take_err);
		return;
	}
	for (size_t i = 0; kata_vm_get_storage(q->vm, i, &s, NULL) == 0; i++) {
		kata__qemu_storage_name(s, name);
		kata_storage_unref(kata__take_ptr(s));
		if (!has_child(value, name))
			kata__qemu_note_lost(q, name);
	}
	for (size_t i = 0; kata_vm_get_nic(q->vm, i, &n, NULL) == 0; i++) {
		kata__qemu_nic_name(n, name);
		kata_nic_unref(kata__take_ptr(n));
		if (!has_child(value, name))
			kata__qemu_note_lost(q, name);
	}
	look_for_strangers(q, value);
}

void kata__qemu_look_for_lost(struct kata__qemu *q)
{
	json_t *args = json_pack("{s:s}", "path", "/machine/peripheral");

	q->look_due = false;
	kata__timer_remove(kata__take_ptr(q->look_timer));
	if (args)
		(void)kata__qmp_execute(q->qmp, "qom-list", args, -1, on_children, q, NULL);
}

static void on_look(void *user)
{
	struct kata__qemu *q = user;

	q->look_timer = NULL;
	(void)kata__qemu_ensure_connected(q, NULL);
}

void kata__qemu_look_for_lost_later(struct kata__qemu *q)
{
	q->look_due = true;
	if (!q->look_timer)
		(void)kata__timer_add(kata__context_loop(q->vm->ctx), kata__deadline_in_ms(LOOK_MS), on_look, q,
				      &q->look_timer, NULL);
}

/* ---- where the strays are */

/* "/machine/peripheral/p3/p3": port 3. -1: another bus. */
static int port_of(const char *bus)
{
	static const char prefix[] = "/machine/peripheral/p";
	char *end;
	long port;

	if (!bus || strncmp(bus, prefix, sizeof(prefix) - 1) != 0)
		return -1;
	port = strtol(bus + sizeof(prefix) - 1, &end, 10);
	return end != bus + sizeof(prefix) - 1 && *end == '/' && port >= 0 && port < KATA__VM_DEVICE_SLOTS_MAX
		       ? (int)port
		       : -1;
}

static void place(struct kata__qemu *q, const char *name, int port)
{
	for (struct kata__qemu_stray *s = q->strays; s; s = s->next)
		if (strcmp(s->name, name) == 0 && s->port < 0 && port >= 0 &&
		    kata__slots_take(&q->vm->ports, (uint32_t)port, NULL) == 0)
			s->port = port;
}

static int on_bus(kata_op *op, const struct kata__qemu_question *question, const char *text, kata_error **err)
{
	place(kata__qemu_of_op(op), question->device, port_of(text));
	return 0;
}

int kata__qemu_step_find_strays(kata_op *op, kata_error **err)
{
	KATA_AUTO(free) struct kata__qemu_question *questions = NULL;
	struct kata__qemu *q = kata__qemu_of_op(op);
	size_t count = 0, n = 0;

	for (const struct kata__qemu_stray *s = q->strays; s; s = s->next)
		count++;
	questions = calloc(count + 1, sizeof(*questions));
	if (!questions)
		return kata__fail_no_memory(err);
	for (const struct kata__qemu_stray *s = q->strays; s; s = s->next, n++) {
		questions[n].property = "parent_bus";
		memcpy(questions[n].device, s->name, sizeof(s->name));
	}
	return kata__qemu_inquire(op, questions, count, on_bus, err);
}

/* ---- what is left on free slots */

static bool is_free(const struct kata__slots *slots, long slot)
{
	return slot >= 0 && slot < (long)slots->count && slots->states[slot] == KATA__SLOT_FREE;
}

static void sweep_node(struct kata__qemu *q, const char *node)
{
	struct kata__slots *slots = node[0] == 'b' ? &q->vm->ports : &q->vm->luns;
	char *end;
	long slot;

	if (node[0] != 'b' && node[0] != 'l')
		return;
	slot = strtol(node + 1, &end, 10);
	if (end != node + 1 && *end == '\0' && is_free(slots, slot) &&
	    kata__slots_take(slots, (uint32_t)slot, NULL) == 0)
		clear_slot(q, node[0], (int)slot);
}

static int check_nodes(kata_op *op, const json_t *value, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of_op(op);
	const json_t *node;
	size_t i;
	int rc;

	if (*err)
		return (int)kata_error_get_status(*err);
	if ((rc = kata__qemu_verify_nodes(op, value, err)))
		return rc;
	json_array_foreach(value, i, node)
	{
		const char *name = json_string_value(json_object_get(node, "node-name"));

		if (name && i < STRAYS_MAX)
			sweep_node(q, name);
	}
	for (uint32_t port = 0; kata__qemu_owner_died(op) && port < q->vm->ports.count; port++)
		if (is_free(&q->vm->ports, port))
			tell_to_clear_nic(q, (int)port);
	return 0;
}

int kata__qemu_step_sweep(kata_op *op, kata_error **err)
{
	return kata__qemu_command(op, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), -1, check_nodes, err);
}
