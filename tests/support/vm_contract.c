/* SPDX-License-Identifier: Apache-2.0 */
/* vm_contract.c - the world of a case, and the cases on a machine's life: states, references, its end. */
#include "support/vm_contract.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the world */

void world_build(struct vm_world *w)
{
	cr_assert_null(w->vm);
	fixture_assert_ok(kata_vm_builder_build(w->builder, &w->config, NULL, NULL, &w->vm, &w->err), w->err);
}

/* What is made once and stays: the cache of what the VMM can do, directories of the context. */
static void warm_up(struct vm_world *w)
{
	world_build(w);
	fixture_assert_ok(kata_vm_start(w->vm, NULL, &w->err), w->err);
	fixture_assert_ok(kata_vm_destroy(w->vm, NULL, &w->err), w->err);
	kata_vm_unref(w->vm);
	w->vm = NULL;
}

void world_open(struct vm_world *w, const struct vm_kind *kind, uint32_t device_slots)
{
	*w = (struct vm_world){.kind = kind, .config = KATA_VM_CONFIG_INIT};
	fixture_init(&w->f, true, 0);
	w->builder = kind->new_builder(&w->f);
	w->config.id = "vm-1";
	w->config.device_slots = device_slots;
	kind->configure(&w->f, &w->config);
	if (kind->opens_files)
		warm_up(w);
	w->before = fixture_census(&w->f);
	world_build(w);
}

void world_start(struct vm_world *w)
{
	fixture_assert_ok(kata_vm_start(w->vm, NULL, &w->err), w->err);
	cr_assert_eq(kata_vm_get_state(w->vm), KATA_VM_RUNNING);
	if (w->kind->await_guest)
		w->kind->await_guest(&w->f, w->vm);
}

void world_destroy(struct vm_world *w)
{
	if (w->vm)
		fixture_assert_ok(kata_vm_destroy(w->vm, NULL, &w->err), w->err);
	kata_vm_unref(w->vm);
	w->vm = NULL;
	if (w->before)
		fixture_assert_census(&w->f, w->before, "after the destroy");
	w->before = NULL;
}

void world_close(struct vm_world *w)
{
	world_destroy(w);
	kata_vm_builder_free(w->builder);
	error_clear(&w->err);
	fixture_deinit(&w->f);
}

kata_storage *world_disk(struct vm_world *w, const char *id, kata_storage_driver driver)
{
	kata_storage *storage;
	char name[32];
	char *path;

	snprintf(name, sizeof(name), "disk%u.raw", w->disks++);
	path = fixture_make_raw(&w->f, name, UINT64_C(1) << 20);
	storage = fixture_storage(id, path, driver);
	free(path);
	return storage;
}

kata_nic *world_nic(const char *id, const char *mac)
{
	return fixture_nic(id, mac);
}

void world_plug_disk(struct vm_world *w, const char *id, kata_storage_driver driver)
{
	kata_storage *s = world_disk(w, id, driver);

	fixture_assert_ok(kata_vm_add_storage(w->vm, s, NULL, &w->err), w->err);
	cr_assert_eq(kata_storage_get_state(s), KATA_DEVICE_PLUGGED);
	kata_storage_unref(s);
}

void world_plug_nic(struct vm_world *w, const char *id, const char *mac)
{
	kata_nic *n = world_nic(id, mac);

	fixture_assert_ok(kata_vm_add_nic(w->vm, n, NULL, &w->err), w->err);
	cr_assert_eq(kata_nic_get_state(n), KATA_DEVICE_PLUGGED);
	kata_nic_unref(n);
}

void world_rebuild(struct vm_world *w, const char *json)
{
	cr_assert_null(w->vm);
	fixture_assert_ok(kata_vm_builder_build_from_released(w->builder, json, strlen(json), NULL, &w->vm, &w->err),
			  w->err);
}

static bool is_readable(int fd)
{
	struct pollfd p = {fd, POLLIN, 0};

	return poll(&p, 1, 0) == 1;
}

/* ---- life */

void vm_contract_a_new_vm_is_created_and_has_an_identity(const struct vm_kind *kind)
{
	struct vm_world w;

	world_open(&w, kind, 0);
	cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_CREATED);
	cr_assert_str_eq(kata_vm_get_id(w.vm), "vm-1");
	cr_assert_eq(strlen(kata_vm_get_uuid(w.vm)), 36);
	cr_assert_neq(kata_vm_get_driver(w.vm)[0], 0);
	cr_assert_neq(kata_vm_get_accelerator(w.vm)[0], 0);
	cr_assert_neq(kata_vm_get_accelerator_reason(w.vm)[0], 0);
	cr_assert_eq(kata_vm_get_pid(w.vm) != 0, kind->is_warm && kind->opens_files);
	world_close(&w);
}

void vm_contract_an_id_that_is_in_use_is_refused(const struct vm_kind *kind)
{
	struct vm_world w;
	kata_vm *second = NULL;

	world_open(&w, kind, 0);
	fixture_assert_fails(kata_vm_builder_build(w.builder, &w.config, NULL, NULL, &second, &w.err), KATA_E_EXISTS,
			     w.err);
	cr_assert_null(second);
	cr_assert(strstr(kata_error_get_message(w.err), "vm-1"), "%s", error_text(w.err));
	world_close(&w);
}

void vm_contract_a_machine_runs_until_it_is_destroyed(const struct vm_kind *kind)
{
	struct vm_world w;
	int fd;

	world_open(&w, kind, 0);
	fd = kata_vm_get_ended_fd(w.vm);
	cr_assert_geq(fd, 0);
	world_start(&w);
	cr_assert_not(is_readable(fd));
	fixture_assert_ok(kata_vm_destroy(w.vm, NULL, &w.err), w.err);
	cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_DESTROYED);
	cr_assert(is_readable(fd));
	fixture_assert_ok(kata_vm_wait(w.vm, 1000, &w.err), w.err);
	world_close(&w);
}

void vm_contract_destroying_twice_does_nothing_the_second_time(const struct vm_kind *kind)
{
	struct vm_world w;

	world_open(&w, kind, 0);
	world_start(&w);
	fixture_assert_ok(kata_vm_destroy(w.vm, NULL, &w.err), w.err);
	fixture_assert_ok(kata_vm_destroy(w.vm, NULL, &w.err), w.err);
	cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_DESTROYED);
	world_close(&w);
}

void vm_contract_the_last_unref_of_a_live_machine_destroys_it(const struct vm_kind *kind)
{
	struct vm_world w;

	world_open(&w, kind, 0);
	world_start(&w);
	world_plug_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	kata_vm_unref(w.vm);
	w.vm = NULL;
	world_close(&w);
}

void vm_contract_pausing_what_is_paused_and_resuming_what_runs_succeed(const struct vm_kind *kind)
{
	struct vm_world w;

	world_open(&w, kind, 0);
	world_start(&w);
	fixture_assert_ok(kata_vm_resume(w.vm, NULL, &w.err), w.err);
	cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_RUNNING);
	for (int i = 0; i < 2; i++) {
		fixture_assert_ok(kata_vm_pause(w.vm, NULL, &w.err), w.err);
		cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_PAUSED);
	}
	fixture_assert_ok(kata_vm_resume(w.vm, NULL, &w.err), w.err);
	cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_RUNNING);
	world_close(&w);
}

void vm_contract_a_machine_that_ends_by_itself_is_noticed(const struct vm_kind *kind)
{
	struct vm_world w;
	kata_storage *s;

	world_open(&w, kind, 0);
	world_start(&w);
	s = world_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	kind->end(w.vm);
	fixture_assert_ok(kata_vm_wait(w.vm, kind->patience_ms, &w.err), w.err);
	cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_ENDED);
	cr_assert(is_readable(kata_vm_get_ended_fd(w.vm)));
	fixture_assert_fails(kata_vm_add_storage(w.vm, s, NULL, &w.err), KATA_E_STATE, w.err);
	kata_storage_unref(s);
	error_clear(&w.err);
	world_close(&w);
}

void vm_contract_waiting_for_a_running_machine_times_out(const struct vm_kind *kind)
{
	struct vm_world w;

	world_open(&w, kind, 0);
	world_start(&w);
	fixture_assert_fails(kata_vm_wait(w.vm, 20, &w.err), KATA_E_TIMEOUT, w.err);
	world_close(&w);
}

void vm_contract_a_context_with_live_objects_is_not_freed(const struct vm_kind *kind)
{
	struct vm_world w;

	world_open(&w, kind, 0);
	fixture_assert_fails(kata_context_free(w.f.context, &w.err), KATA_E_BUSY, w.err);
	cr_assert(strstr(kata_error_get_message(w.err), "1 "), "it counts them: %s", error_text(w.err));
	error_clear(&w.err);
	world_start(&w);
	fixture_assert_fails(kata_context_free(w.f.context, &w.err), KATA_E_BUSY, w.err);
	error_clear(&w.err);
	world_close(&w);
}

/* ---- the table of states */

static int call_start(struct vm_world *w, kata_error **err)
{
	return kata_vm_start(w->vm, NULL, err);
}
static int call_add_storage(struct vm_world *w, kata_error **err)
{
	kata_storage *s = world_disk(w, "x", KATA_STORAGE_VIRTIO_BLK);
	int rc = kata_vm_add_storage(w->vm, s, NULL, err);

	kata_storage_unref(s);
	return rc;
}
static int call_remove_storage(struct vm_world *w, kata_error **err)
{
	return kata_vm_remove_storage(w->vm, "a", NULL, err);
}
static int call_add_nic(struct vm_world *w, kata_error **err)
{
	kata_nic *n = world_nic("y", NULL);
	int rc = kata_vm_add_nic(w->vm, n, NULL, err);

	kata_nic_unref(n);
	return rc;
}
static int call_remove_nic(struct vm_world *w, kata_error **err)
{
	return kata_vm_remove_nic(w->vm, "n", NULL, err);
}
static int call_pause(struct vm_world *w, kata_error **err)
{
	return kata_vm_pause(w->vm, NULL, err);
}
static int call_resume(struct vm_world *w, kata_error **err)
{
	return kata_vm_resume(w->vm, NULL, err);
}
static int call_release(struct vm_world *w, kata_error **err)
{
	char *json = NULL;
	int rc = kata_vm_release(w->vm, NULL, &json, err);

	cr_assert_null(json, "a failed release must not set its output");
	return rc;
}
static int call_dump(struct vm_world *w, kata_error **err)
{
	char *json = NULL;
	int rc = kata_vm_dump(w->vm, &json, err);

	cr_assert_null(json, "a failed dump must not set its output");
	return rc;
}
static int call_destroy(struct vm_world *w, kata_error **err)
{
	return kata_vm_destroy(w->vm, NULL, err);
}
static int call_wait(struct vm_world *w, kata_error **err)
{
	return kata_vm_wait(w->vm, 0, err);
}

#define IN(state) (1u << KATA_VM_##state)
#define LIVE (IN(RUNNING) | IN(PAUSED))
static const struct {
	const char *name;
	int (*call)(struct vm_world *w, kata_error **err);
	uint32_t permitted;
} calls[] = {
	{"start", call_start, IN(CREATED)},
	{"add_storage", call_add_storage, IN(CREATED) | LIVE},
	{"remove_storage", call_remove_storage, IN(CREATED) | LIVE},
	{"add_nic", call_add_nic, IN(CREATED) | LIVE},
	{"remove_nic", call_remove_nic, IN(CREATED) | LIVE},
	{"pause", call_pause, LIVE},
	{"resume", call_resume, LIVE},
	{"release", call_release, LIVE},
	{"dump", call_dump, LIVE | IN(RELEASED)},
	{"destroy", call_destroy, ~IN(RELEASED)},
	{"wait", call_wait, ~IN(RELEASED)},
};

static void assert_names_states(const char *call, kata_vm_state state, uint32_t permitted, const kata_error *err)
{
	const char *text = kata_error_get_message(err);
	bool says_required = false;

	cr_assert(strstr(text, kata_vm_state_get_name(state)), "%s does not say the state is %s: %s", call,
		  kata_vm_state_get_name(state), text);
	for (int s = 0; s <= KATA_VM_DESTROYED; s++)
		says_required |= (permitted >> s & 1) && strstr(text, kata_vm_state_get_name((kata_vm_state)s));
	cr_assert(says_required || permitted == ~IN(RELEASED), "%s does not say which state is required: %s", call,
		  text);
}

static void try_forbidden_calls(struct vm_world *w, kata_vm_state state)
{
	cr_assert_eq(kata_vm_get_state(w->vm), state);
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		int rc;

		if (calls[i].permitted >> state & 1)
			continue;
		rc = calls[i].call(w, &w->err);
		cr_assert_eq(rc, KATA_E_STATE, "%s in %s: %s", calls[i].name, kata_vm_state_get_name(state),
			     error_text(w->err));
		assert_names_states(calls[i].name, state, calls[i].permitted, w->err);
		error_clear(&w->err);
		cr_assert_eq(kata_vm_get_state(w->vm), state, "%s changed the state", calls[i].name);
	}
}

void vm_contract_a_call_in_a_forbidden_state_says_current_and_required(const struct vm_kind *kind)
{
	struct vm_world w;
	char *json = NULL;

	world_open(&w, kind, 0);
	world_plug_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	world_plug_nic(&w, "n", NULL);
	try_forbidden_calls(&w, KATA_VM_CREATED);
	world_start(&w);
	try_forbidden_calls(&w, KATA_VM_RUNNING);
	fixture_assert_ok(kata_vm_pause(w.vm, NULL, &w.err), w.err);
	try_forbidden_calls(&w, KATA_VM_PAUSED);
	fixture_assert_ok(kata_vm_release(w.vm, NULL, &json, &w.err), w.err);
	try_forbidden_calls(&w, KATA_VM_RELEASED);
	kata_vm_unref(w.vm);
	w.vm = NULL;
	world_rebuild(&w, json);
	free(json);
	kind->end(w.vm);
	fixture_assert_ok(kata_vm_wait(w.vm, kind->patience_ms, &w.err), w.err);
	try_forbidden_calls(&w, KATA_VM_ENDED);
	fixture_assert_ok(kata_vm_destroy(w.vm, NULL, &w.err), w.err);
	try_forbidden_calls(&w, KATA_VM_DESTROYED);
	world_close(&w);
}

/* ---- operations under way: held by a step that hangs */

static void hang_plugs(struct vm_world *w, const char *where)
{
	fixture_assert_ok(kata_context_set_fail_point(w->f.context, where, KATA_FAIL_HANG, 0, 0, 0, &w->err), w->err);
}

void vm_contract_release_refuses_while_an_operation_is_at_work(const struct vm_kind *kind)
{
	struct vm_world w;
	kata_op *op = NULL;
	char *json = NULL;
	kata_storage *s;

	world_open(&w, kind, 0);
	world_start(&w);
	s = world_disk(&w, "a", KATA_STORAGE_VIRTIO_BLK);
	hang_plugs(&w, "plug-storage/commit:before");
	fixture_assert_ok(kata_vm_add_storage_begin(w.vm, s, NULL, &op, &w.err), w.err);
	fixture_assert_fails(kata_vm_release(w.vm, NULL, &json, &w.err), KATA_E_BUSY, w.err);
	cr_assert_null(json);
	error_clear(&w.err);
	cr_assert_eq(kata_vm_get_state(w.vm), KATA_VM_RUNNING);
	kata_op_cancel(op);
	fixture_assert_fails(kata_op_wait(op, &w.err), KATA_E_CANCELLED, w.err);
	kata_op_unref(op);
	kata_storage_unref(s);
	world_close(&w);
}

void vm_contract_destroy_cancels_operations_under_way(const struct vm_kind *kind)
{
	struct vm_world w;
	kata_op *ops[4] = {NULL};
	kata_storage *s[4];

	world_open(&w, kind, 0);
	world_start(&w);
	hang_plugs(&w, "plug-storage/commit:before");
	for (int i = 0; i < 4; i++) {
		char id[8];

		snprintf(id, sizeof(id), "d%d", i);
		s[i] = world_disk(&w, id, KATA_STORAGE_VIRTIO_BLK);
		fixture_assert_ok(kata_vm_add_storage_begin(w.vm, s[i], NULL, &ops[i], &w.err), w.err);
	}
	fixture_assert_ok(kata_vm_destroy(w.vm, NULL, &w.err), w.err);
	for (int i = 0; i < 4; i++) {
		int rc = kata_op_wait(ops[i], NULL);

		cr_assert_eq(rc, KATA_E_GONE, "operation %d ended with %s", i, kata_status_get_name(rc));
		cr_assert_eq(kata_storage_get_state(s[i]), KATA_DEVICE_NEW);
		kata_op_unref(ops[i]);
		kata_storage_unref(s[i]);
	}
	world_close(&w);
}
