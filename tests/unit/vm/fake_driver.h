/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_UNIT_VM_FAKE_DRIVER_H
#define KATA_TESTS_UNIT_VM_FAKE_DRIVER_H
/*
 * A driver without a machine, for tests of the VM core: its own steps end at once ("act"), and what tests want to be
 * slow or to fail is a fail-point. Its undo can be made to fail, so that an op ends uncertain. It keeps a directory, as
 * a real one does; fake_driver_no_files does not.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "support/fixture.h"
#include "vm/builder.h"
#include "vm/core.h"

#define FAKE_STUCK_MS UINT64_C(60000) /* longer than any test */

struct fake {
	uint64_t plugs; /* in the driver's part of the record */
	bool fail_undo;
	bool fail_dump;
	bool loses_device; /* "act" says that the op's device has left */
	int acts, undos;
	int peer; /* the other end of the agent's channel */
};

static inline struct fake *fake_of(const kata_vm *vm)
{
	return vm->impl;
}

static int fake_init(kata_vm *vm, kata_error **err)
{
	struct fake *f = calloc(1, sizeof(*f));

	if (!f)
		return kata__fail_no_memory(err);
	f->peer = -1;
	vm->impl = f;
	return 0;
}

static void fake_deinit(kata_vm *vm)
{
	kata__close_fd(&fake_of(vm)->peer);
	free(vm->impl);
	vm->impl = NULL;
}

static int fake_connect_agent(kata_vm *vm, int *ret_fd, kata_error **err)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		return kata__fail(err, KATA_E_IO, HOST, "no socket pair");
	kata__close_fd(&fake_of(vm)->peer);
	fake_of(vm)->peer = fds[1];
	*ret_fd = fds[0];
	return 0;
}

static int fake_dump(kata_vm *vm, json_t *driver, kata_error **err)
{
	if (fake_of(vm)->fail_dump)
		return kata__fail(err, KATA_E_IO, HOST, "the fake cannot dump");
	if (json_object_set_new(driver, "plugs", json_integer((json_int_t)fake_of(vm)->plugs)) < 0)
		return kata__fail_no_memory(err);
	return 0;
}

static int fake_restore(kata_vm *vm, const json_t *driver, kata_error **err)
{
	return kata__json_get_uint(driver, "record.vmm", "plugs", 1000000, &fake_of(vm)->plugs, err);
}

static char *fake_console(kata_vm *vm, size_t *ret_len)
{
	static const char text[] = "boot\r\nfine\x1b[2J\ttab\x01\xff\n";

	*ret_len = sizeof(text) - 1;
	return strdup(text);
}

static char *fake_last_words(kata_vm *vm, size_t *ret_len)
{
	*ret_len = strlen("fake: no such thing\n");
	return strdup("fake: no such thing\n");
}

static int fake_act(kata_op *op, kata_error **err)
{
	const struct kata__vm_op *d = kata__vm_op_data(op);
	struct fake *f = fake_of(d->vm);

	f->acts++;
	f->plugs++;
	if (f->loses_device && (d->nic || d->storage))
		(void)kata__vm_device_lost(d->vm, d->nic != NULL,
					   d->nic ? kata_nic_get_id(d->nic) : kata_storage_get_id(d->storage));
	return KATA__STEP_DONE;
}

static int fake_undo(kata_op *op, kata_error **err)
{
	struct fake *f = fake_of(kata__vm_op_data(op)->vm);

	f->undos++;
	return f->fail_undo ? kata__fail(err, KATA_E_VMM, VMM, "the fake cannot take it back") : KATA__STEP_DONE;
}

static int fake_boot(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	const struct kata__process_identity *self = kata__context_self(vm->ctx);

	kata__vm_set_pid(vm, self->pid, self->start_time);
	return KATA__STEP_DONE;
}

static int fake_nothing(kata_op *op, kata_error **err)
{
	return KATA__STEP_DONE;
}

#define FAKE_ACT                                                                                                       \
	{                                                                                                              \
		.name = "act", .run = fake_act, .undo = fake_undo                                                      \
	}
#define FAKE_LAST                                                                                                      \
	{                                                                                                              \
		.name = "last", .run = fake_nothing                                                                    \
	}
#define FAKE_TABLE(var, text, array, ms)                                                                               \
	static const struct kata__op_table var = {.name = text,                                                        \
						  KATA__STEPS(array),                                                  \
						  .timeout_ms = ms,                                                    \
						  .finish = kata__vm_finish_device,                                    \
						  .free_data = kata__vm_free_op_data}

static const struct kata__step fake_start_steps[] = {
	{.name = "make-dir",
	 .run = kata__vm_step_make_dir,
	 .undo = kata__vm_step_unmake_dir,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
	{.name = "boot", .run = fake_boot, .flags = KATA__STEP_JOURNAL},
	FAKE_LAST,
};
static const struct kata__step fake_add_storage_steps[] = {
	{.name = "reserve", .run = kata__vm_step_reserve_storage, .undo = kata__vm_step_unreserve_storage},
	{.name = "open",
	 .run = kata__vm_step_open_image,
	 .undo = kata__vm_step_close_image,
	 .flags = KATA__STEP_BLOCKING},
	FAKE_ACT,
	{.name = "commit", .run = kata__vm_step_commit_storage},
};
static const struct kata__step fake_remove_storage_steps[] = {
	{.name = "find", .run = kata__vm_step_find_storage, .undo = kata__vm_step_unfind_storage},
	FAKE_ACT,
	{.name = "drop", .run = kata__vm_step_drop_storage},
};
static const struct kata__step fake_add_nic_steps[] = {
	{.name = "reserve", .run = kata__vm_step_reserve_nic, .undo = kata__vm_step_unreserve_nic},
	FAKE_ACT,
	{.name = "commit", .run = kata__vm_step_commit_nic},
};
static const struct kata__step fake_remove_nic_steps[] = {
	{.name = "find", .run = kata__vm_step_find_nic, .undo = kata__vm_step_unfind_nic},
	FAKE_ACT,
	{.name = "drop", .run = kata__vm_step_drop_nic},
};
static const struct kata__step fake_act_steps[] = {FAKE_ACT, FAKE_LAST};
static const struct kata__step fake_release_steps[] = {
	{.name = "record", .run = kata__vm_step_write_record},
	{.name = "save",
	 .run = kata__vm_step_save_released,
	 .undo = kata__vm_step_unsave_released,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
	{.name = "hand-over",
	 .run = kata__vm_step_hand_over,
	 .undo = kata__vm_step_take_back,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
	FAKE_LAST,
};
static const struct kata__step fake_rebuild_steps[] = {
	{.name = "take-over",
	 .run = kata__vm_step_take_over,
	 .undo = kata__vm_step_give_back,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
	FAKE_ACT,
	{.name = "drop-released", .run = kata__vm_step_drop_released, .flags = KATA__STEP_BLOCKING},
};
static const struct kata__step fake_destroy_steps[] = {
	{.name = "cancel-operations", .run = kata__vm_step_cancel_operations},
	{.name = "act", .run = fake_act},
	{.name = "await-operations", .run = kata__vm_step_await_operations},
	{.name = "remove-dir", .run = kata__vm_step_remove_dir, .flags = KATA__STEP_BLOCKING},
};

FAKE_TABLE(fake_start, "start", fake_start_steps, 5000);
FAKE_TABLE(fake_start_warm, "start-warm", fake_act_steps, 5000);
FAKE_TABLE(fake_add_storage_cold, "plug-storage-cold", fake_add_storage_steps, 5000);
FAKE_TABLE(fake_add_storage, "plug-storage", fake_add_storage_steps, 5000);
FAKE_TABLE(fake_remove_storage_cold, "unplug-storage-cold", fake_remove_storage_steps, 5000);
FAKE_TABLE(fake_remove_storage, "unplug-storage", fake_remove_storage_steps, 5000);
FAKE_TABLE(fake_add_nic_cold, "plug-nic-cold", fake_add_nic_steps, 5000);
FAKE_TABLE(fake_add_nic, "plug-nic", fake_add_nic_steps, 5000);
FAKE_TABLE(fake_remove_nic_cold, "unplug-nic-cold", fake_remove_nic_steps, 5000);
FAKE_TABLE(fake_remove_nic, "unplug-nic", fake_remove_nic_steps, 5000);
FAKE_TABLE(fake_pause, "pause", fake_act_steps, 5000);
FAKE_TABLE(fake_resume, "resume", fake_act_steps, 5000);
FAKE_TABLE(fake_release, "release", fake_release_steps, 5000);
FAKE_TABLE(fake_rebuild, "rebuild", fake_rebuild_steps, 5000);
FAKE_TABLE(fake_destroy, "destroy", fake_destroy_steps, 5000);

#define FAKE_MEMBERS                                                                                                   \
	.name = "fake", .start = &fake_start, .start_warm = &fake_start_warm,                                          \
	.add_storage_cold = &fake_add_storage_cold, .add_storage = &fake_add_storage,                                  \
	.remove_storage_cold = &fake_remove_storage_cold, .remove_storage = &fake_remove_storage,                      \
	.add_nic_cold = &fake_add_nic_cold, .add_nic = &fake_add_nic, .remove_nic_cold = &fake_remove_nic_cold,        \
	.remove_nic = &fake_remove_nic, .pause = &fake_pause, .resume = &fake_resume, .release = &fake_release,        \
	.rebuild = &fake_rebuild, .destroy = &fake_destroy, .init = fake_init, .deinit = fake_deinit,                  \
	.connect_agent = fake_connect_agent, .dump = fake_dump, .restore = fake_restore, .get_console = fake_console,  \
	.get_vmm_output = fake_last_words

static const struct kata__vm_driver fake_driver = {FAKE_MEMBERS};
static const KATA__UNUSED struct kata__vm_driver fake_driver_no_files = {FAKE_MEMBERS, .no_files = true};
/* It lies: its part does change, so that a test can tell when it was asked. */
static const KATA__UNUSED struct kata__vm_driver fake_driver_constant_dump = {FAKE_MEMBERS, .dump_is_constant = true};

/* ---- what tests do with it ---- */

static KATA__UNUSED kata_vm *fake_new_vm(struct fixture *f, const char *id, uint32_t slots)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_error *err = NULL;
	kata_vm *vm = NULL;

	config.id = id;
	config.kernel = "/boot/kernel";
	config.initrd = "/boot/initrd";
	config.device_slots = slots;
	fixture_assert_ok(kata__vm_new(f->context, &fake_driver, &config, NULL, NULL, &vm, &err), err);
	return vm;
}

static KATA__UNUSED kata_vm *fake_started_vm(struct fixture *f, const char *id, uint32_t slots)
{
	kata_vm *vm = fake_new_vm(f, id, slots);
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	return vm;
}

static KATA__UNUSED int fake_rebuild_begin(struct fixture *f, const char *json, kata_vm **ret_vm, kata_op **ret_op,
					   kata_error **err)
{
	return kata__vm_rebuild_begin(f->context, &fake_driver, json, strlen(json), NULL, NULL, NULL, ret_vm, ret_op,
				      err);
}

static KATA__UNUSED int fake_rebuild_wait(struct fixture *f, const char *json, kata_vm **ret_vm, kata_error **err)
{
	kata_vm *vm = NULL;
	kata_op *op = NULL;
	int rc = fake_rebuild_begin(f, json, &vm, &op, err);

	rc = kata__op_finish_sync(rc, &op, err);
	if (rc < 0)
		kata_vm_unref(vm);
	else
		*ret_vm = vm;
	return rc;
}

static KATA__UNUSED void fake_arm(struct fixture *f, const char *point, kata_fail_action action)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_context_set_fail_point(f->context, point, action, 0, 0, 0, &err), err);
}

struct fake_turn {
	struct kata__task task;
	void (*fn)(void *user);
	void *user;
	struct kata__loop *loop;
	bool done;
};

static void fake_turn_run(struct kata__task *task)
{
	struct fake_turn *t = kata__container_of(task, struct fake_turn, task);
	struct kata__loop *loop = t->loop;

	t->fn(t->user);
	__atomic_store_n(&t->done, true, __ATOMIC_RELEASE); /* from here on t, on the waiter's stack, may be gone */
	kata__loop_wake_waiters(loop);
}

/* Runs fn on the leader and waits for it. */
static KATA__UNUSED void fake_on_leader(struct fixture *f, void (*fn)(void *user), void *user)
{
	struct fake_turn t = {.task.fn = fake_turn_run, .fn = fn, .user = user, .loop = kata__context_loop(f->context)};

	kata__loop_post(t.loop, &t.task);
	cr_assert(kata__loop_wait(t.loop, &t.done, kata__deadline_in_ms(10000)));
}

static KATA__UNUSED void fake_end(void *vm)
{
	kata__vm_ended(vm);
}

/* Waits until the newest step of the op is the one named: a fail-point holds it there. */
static KATA__UNUSED void fake_await_steps(kata_op *op, size_t length)
{
	uint64_t deadline = kata__deadline_in_ms(10000);

	while (kata_op_get_timeline_length(op) < length) {
		cr_assert(kata__now_ns() < deadline, "the op did not come to step %zu", length);
		usleep(1000); /* there is no event for a step's start; what is waited for is bounded */
	}
}
#endif
