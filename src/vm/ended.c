/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of the machine: who is told, and how. The pollable fd is made when first asked for, so that an idle VM has
 * none. `over` is what kata_vm_wait sleeps on; listeners are the rooms above (agent, sandbox), called once each on the
 * leader. They are also asked whether they use a storage that is to go.
 */
#include "vm/core.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void signal_fd(int fd)
{
	uint64_t one = 1;

	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
		return; /* only a counter at its limit refuses, and then the fd is readable */
}

static void call_listeners(struct kata__vm_shared *s)
{
	size_t n = 0;

	s->notifying = true;
	for (size_t i = 0; i < s->listener_count; i++)
		if (s->listeners[i].ended)
			s->listeners[i].ended(s->listeners[i].user);
	s->notifying = false;
	for (size_t i = 0; i < s->listener_count; i++)
		if (s->listeners[i].ended)
			s->listeners[n++] = s->listeners[i];
	s->listener_count = n;
}

void kata__vm_notify_ended(kata_vm *vm)
{
	struct kata__vm_shared *s = vm->shared;
	bool first;

	kata__vm_lock(vm);
	first = !s->over;
	__atomic_store_n(&s->over, true, __ATOMIC_RELEASE);
	if (first)
		signal_fd(s->ended_fd);
	kata__vm_unlock(vm);
	if (!first)
		return;
	kata__loop_wake_waiters(kata__context_loop(vm->ctx));
	call_listeners(s);
}

void kata__vm_ended(kata_vm *vm)
{
	struct kata__vm_shared *s = vm->shared;
	bool tell = false;

	kata__vm_lock(vm);
	s->ended = true;
	if (s->state == KATA_VM_RUNNING || s->state == KATA_VM_PAUSED || s->state == KATA_VM_RELEASING ||
	    s->state == KATA_VM_SAVING || (s->state == KATA_VM_CREATED && (s->warm || s->prestarted))) {
		kata__vm_move_locked(vm, KATA_VM_ENDED);
		tell = true;
	}
	kata__vm_unlock(vm);
	if (tell) {
		kata__log(vm->ctx, KATA_LOG_WARNING, "vm", "vm %s: the machine has ended by itself", vm->id);
		kata__vm_notify_ended(vm);
	}
}

int kata__vm_add_listener(kata_vm *vm, kata__vm_ended_fn ended, kata__vm_check_unused_fn check_unused, void *user,
			  kata_error **err)
{
	struct kata__vm_shared *s = vm->shared;
	struct kata__vm_listener *grown = realloc(s->listeners, (s->listener_count + 1) * sizeof(*grown));

	if (!grown)
		return kata__fail_no_memory(err);
	s->listeners = grown;
	grown[s->listener_count++] = (struct kata__vm_listener){ended, check_unused, user};
	return 0;
}

void kata__vm_remove_listener(kata_vm *vm, kata__vm_ended_fn ended, void *user)
{
	struct kata__vm_shared *s = vm->shared;

	for (size_t i = 0; i < s->listener_count; i++) {
		if (s->listeners[i].ended != ended || s->listeners[i].user != user)
			continue;
		s->listeners[i].ended = NULL;
		if (!s->notifying)
			memmove(&s->listeners[i], &s->listeners[i + 1],
				(--s->listener_count - i) * sizeof(*s->listeners));
		return;
	}
}

int kata__vm_check_unused(const kata_vm *vm, const char *storage_id, kata_error **err)
{
	const struct kata__vm_shared *s = vm->shared;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < s->listener_count; i++)
		if (s->listeners[i].check_unused)
			rc = s->listeners[i].check_unused(s->listeners[i].user, storage_id, err);
	return rc;
}

int kata_vm_get_ended_fd(kata_vm *vm)
{
	struct kata__vm_shared *s;
	int fd;

	if (!vm)
		return -1;
	s = vm->shared;
	kata__vm_lock(vm);
	if (s->ended_fd < 0) {
		s->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (s->over)
			signal_fd(s->ended_fd);
	}
	fd = s->ended_fd;
	kata__vm_unlock(vm);
	return fd;
}

int kata_vm_wait(kata_vm *vm, uint64_t timeout_ms, kata_error **err)
{
	int rc = kata__vm_check(vm, err);

	if (rc == 0)
		rc = kata__vm_check_state(vm, ~KATA__VM_IN(RELEASED), "a wait for its end", err);
	if (rc < 0)
		return rc;
	if (__atomic_load_n(&vm->shared->over, __ATOMIC_ACQUIRE))
		return 0;
	rc = kata__context_check_may_block(vm->ctx, "kata_vm_wait", err);
	if (rc < 0)
		return rc;
	if (kata__loop_wait(kata__context_loop(vm->ctx), &vm->shared->over, kata__deadline_in_ms(timeout_ms)))
		return 0;
	return kata__fail(err, KATA_E_TIMEOUT, CALLER, "vm '%s' has not ended within %llu ms: it is %s", vm->id,
			  (unsigned long long)timeout_ms, kata_vm_state_get_name(kata__vm_get_state(vm)));
}
