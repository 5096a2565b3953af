/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_vm: the object, its states, its references.
 *
 * The states and the function of each edge:
 *
 *	CREATED     --kata_vm_start-->    STARTING    --finish--> RUNNING; failed: CREATED; ended meanwhile: ENDED
 *	CREATED     --prestart-->         STARTING    --finish--> PAUSED: a VMM that waits for its state (warm.h)
 *	PAUSED      --kata__vm_stock-->   CREATED     which is warm, or pre-started: a VMM is there, and may end: ENDED
 *	RUNNING     --kata_vm_pause-->    PAUSED      --kata_vm_resume--> RUNNING        (at the finish)
 *	RUNNING     --kata__vm_ended-->   ENDED       likewise from PAUSED, RELEASING
 *	RUNNING     --kata_vm_release-->  RELEASING   --finish--> RELEASED; failed: back  (likewise from PAUSED)
 *	RUNNING     --kata_vm_snapshot--> SAVING      --finish--> what it was         (likewise from PAUSED)
 *	REBUILDING  --finish-->           RUNNING or PAUSED as recorded; failed: RELEASED
 *	any but RELEASED --kata_vm_destroy--> DESTROYING --finish--> DESTROYED; failed: stays, may be called again
 *
 * Model: whoever holds a reference may call from any thread. What getters read is in `shared` under its mutex; the
 * machine itself is driven by the leader alone. A reference is two counts: the machine lives while somebody wants it
 * (lives), the memory while somebody may look (refs). An operation holds both through its data.
 *
 * Invariants: 1. the state changes only along `transitions`. 2. when `lives` falls to 0 the machine is DESTROYED or
 * RELEASED, or a destroy is tried. 3. ended_fd is readable exactly when `over` is set.
 *
 * It does not know any VMM: see the driver.
 */
#include "vm/core.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "vm/restore.h"

static const char *const state_names[] = {"created",  "starting",   "running",    "paused",    "ended", "releasing",
					  "released", "rebuilding", "destroying", "destroyed", "saving"};

#define TO(state) KATA__VM_IN(state)
static const uint32_t transitions[] = {
	[KATA_VM_CREATED] = TO(STARTING) | TO(DESTROYING) | TO(ENDED),
	[KATA_VM_STARTING] = TO(RUNNING) | TO(PAUSED) | TO(CREATED) | TO(ENDED) | TO(DESTROYING),
	[KATA_VM_RUNNING] = TO(PAUSED) | TO(ENDED) | TO(RELEASING) | TO(SAVING) | TO(DESTROYING),
	[KATA_VM_PAUSED] = TO(RUNNING) | TO(ENDED) | TO(RELEASING) | TO(SAVING) | TO(DESTROYING) | TO(CREATED),
	[KATA_VM_ENDED] = TO(DESTROYING),
	[KATA_VM_RELEASING] = TO(RELEASED) | TO(RUNNING) | TO(PAUSED) | TO(ENDED) | TO(DESTROYING),
	[KATA_VM_RELEASED] = 0,
	[KATA_VM_REBUILDING] = TO(RUNNING) | TO(PAUSED) | TO(RELEASED) | TO(DESTROYING),
	[KATA_VM_DESTROYING] = TO(DESTROYED),
	[KATA_VM_DESTROYED] = 0,
	[KATA_VM_SAVING] = TO(RUNNING) | TO(PAUSED) | TO(ENDED) | TO(DESTROYING),
};

const char *kata_vm_origin_get_name(kata_vm_origin origin)
{
	static const char *const names[] = {"booted", "restored", "cloned", "warm", "prestarted"};

	return (unsigned)origin < kata__array_size(names) ? names[origin] : "unknown";
}

const char *kata_vm_state_get_name(kata_vm_state state)
{
	return (unsigned)state < kata__array_size(state_names) ? state_names[state] : "unknown";
}

/* ---- states ---- */

int kata__vm_check(const kata_vm *vm, kata_error **err)
{
	if (!vm)
		return kata__fail(err, KATA_E_INVALID, CALLER, "vm: is NULL");
	assert(vm->magic == KATA__VM_MAGIC);
	return 0;
}

int kata__vm_fail_state(const kata_vm *vm, kata_vm_state state, uint32_t permitted, const char *what, kata_error **err)
{
	char list[160] = "";
	size_t n = 0, left = 0;

	for (size_t i = 0; i < kata__array_size(state_names); i++)
		left += (permitted >> i) & 1;
	for (size_t i = 0; i < kata__array_size(state_names) && n < sizeof(list); i++) {
		if (!((permitted >> i) & 1))
			continue;
		left--;
		n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", state_names[i],
				      left > 1    ? ", "
				      : left == 1 ? " or "
						  : "");
	}
	return kata__fail(err, KATA_E_STATE, CALLER, "vm '%s' is %s, must be %s for %s", vm->id,
			  kata_vm_state_get_name(state), list, what);
}

int kata__vm_check_state(kata_vm *vm, uint32_t permitted, const char *what, kata_error **err)
{
	kata_vm_state state = kata__vm_get_state(vm);

	return (permitted >> state) & 1 ? 0 : kata__vm_fail_state(vm, state, permitted, what, err);
}

int kata__vm_recheck_state(kata_vm *vm, uint32_t permitted, const char *what, kata_error **err)
{
	kata_vm_state state = kata__vm_get_state(vm);

	if ((permitted >> state) & 1)
		return 0;
	if (state == KATA_VM_DESTROYING || state == KATA_VM_DESTROYED)
		return kata__fail(err, KATA_E_GONE, CALLER, "%s: the VM was destroyed meanwhile", what);
	return kata__vm_fail_state(vm, state, permitted, what, err);
}

void kata__vm_move_locked(kata_vm *vm, kata_vm_state state)
{
	struct kata__vm_shared *s = vm->shared;

	if (s->state == state)
		return;
	assert((transitions[s->state] >> state) & 1);
	if (!((transitions[s->state] >> state) & 1))
		return;
	if (s->state == KATA_VM_STARTING && (state == KATA_VM_RUNNING || state == KATA_VM_PAUSED))
		s->started_ns = kata__now_ns();
	s->state = state;
	if (state == KATA_VM_RUNNING || state == KATA_VM_PAUSED)
		s->resting = state;
	s->generation++;
}

kata_vm_state kata__vm_get_state(const kata_vm *vm)
{
	kata_vm_state state;

	kata__vm_lock(vm);
	state = vm->shared->state;
	kata__vm_unlock(vm);
	return state;
}

void kata__vm_set_state(kata_vm *vm, kata_vm_state state)
{
	kata__vm_lock(vm);
	kata__vm_move_locked(vm, state);
	kata__vm_unlock(vm);
	if (state == KATA_VM_ENDED || state == KATA_VM_DESTROYED)
		kata__vm_notify_ended(vm);
}

void kata__vm_set_pid(kata_vm *vm, pid_t pid, uint64_t start_time)
{
	kata__vm_lock(vm);
	vm->shared->process.pid = pid;
	vm->shared->process.start_time = start_time;
	vm->shared->generation++;
	kata__vm_unlock(vm);
}

int kata__vm_take(kata_vm *vm, const char *sandbox_id, kata_error **err)
{
	int rc = 0;

	kata__vm_lock(vm);
	if (vm->shared->sandbox_id)
		rc = kata__fail(
			err, KATA_E_BUSY, CALLER,
			"vm: VM '%s' is of sandbox '%s', which must be released or destroyed, and dropped, first",
			vm->id, vm->shared->sandbox_id);
	else
		vm->shared->sandbox_id = sandbox_id;
	kata__vm_unlock(vm);
	return rc;
}

void kata__vm_let_go(kata_vm *vm, const char *sandbox_id)
{
	kata__vm_lock(vm);
	if (vm->shared->sandbox_id == sandbox_id)
		vm->shared->sandbox_id = NULL;
	kata__vm_unlock(vm);
}

void kata__vm_get_process(const kata_vm *vm, struct kata__process_identity *ret)
{
	kata__vm_lock(vm);
	*ret = vm->shared->process;
	kata__vm_unlock(vm);
}

/* ---- birth and death ---- */

/* What an AF_UNIX address holds, without the longest name of a socket in the directory and its NUL. */
#define DIR_BYTES_MAX (108u - sizeof("/console.sock"))

static int make_dir_name(kata_vm *vm, kata_error **err)
{
	if (vm->driver->no_files)
		return 0;
	vm->dir = kata__format("%s/vm/%s", kata_context_get_state_dir(vm->ctx), vm->id);
	if (!vm->dir)
		return kata__fail_no_memory(err);
	if (strlen(vm->dir) > DIR_BYTES_MAX)
		return kata__fail(
			err, KATA_E_INVALID, CALLER,
			"config.id: the VM's directory %s has %zu bytes, at most %zu leave room for the sockets "
			"in it: use a shorter id, or a shorter state_dir of the context",
			vm->dir, strlen(vm->dir), DIR_BYTES_MAX);
	return kata__journal_init(&vm->journal, vm->dir, err);
}

static int init_shared(kata_vm *vm, kata_vm_state state, kata_error **err)
{
	struct kata__vm_shared *s = calloc(1, sizeof(*s));

	if (!s)
		return kata__fail_no_memory(err);
	atomic_init(&s->lives, 1);
	atomic_init(&s->refs, 1);
	pthread_mutex_init(&s->mutex, NULL);
	s->state = state;
	s->ended_fd = -1;
	s->generation = 1;
	s->epoch = 1;
	memcpy(s->process.boot_id, kata__context_self(vm->ctx)->boot_id, sizeof(s->process.boot_id));
	vm->shared = s;
	return 0;
}

static int init_slots(kata_vm *vm, kata_error **err)
{
	int rc = kata__slots_init(&vm->ports, "device slot", vm->config->v.device_slots, err);

	return rc < 0 ? rc : kata__slots_init(&vm->luns, "SCSI LUN", KATA__VM_LUNS_MAX, err);
}

int kata__vm_alloc(kata_context *ctx, const struct kata__vm_driver *driver, struct kata__vm_config_copy *take_config,
		   const char *uuid, kata_vm_state state, kata_vm **ret, kata_error **err)
{
	kata_vm *vm = calloc(1, sizeof(*vm));
	int rc;

	if (!vm) {
		kata__vm_config_copy_free(take_config);
		return kata__fail_no_memory(err);
	}
	rc = kata__context_enter(ctx, KATA__OBJECT_VM, err);
	if (rc < 0) {
		kata__vm_config_copy_free(take_config);
		free(vm);
		return rc;
	}
	vm->magic = KATA__VM_MAGIC;
	vm->ctx = ctx;
	vm->driver = driver;
	vm->config = take_config;
	vm->time_scale = 1;
	snprintf(vm->id, sizeof(vm->id), "%s", take_config->v.id);
	if (uuid)
		snprintf(vm->uuid, sizeof(vm->uuid), "%s", uuid);
	else
		kata__uuid_generate(vm->uuid);
	snprintf(vm->accelerator, sizeof(vm->accelerator), "none");
	rc = init_shared(vm, state, err);
	if (rc == 0)
		rc = init_slots(vm, err);
	if (rc == 0)
		rc = make_dir_name(vm, err);
	if (rc == 0)
		rc = kata__vm_register(vm, err);
	if (rc < 0) {
		kata__vm_free(vm);
		return rc;
	}
	*ret = vm;
	return 0;
}

static void free_shared(kata_vm *vm)
{
	struct kata__vm_shared *s = vm->shared;

	if (!s)
		return;
	kata__vm_device_drop_all(vm);
	free(s->devices);
	free(s->active);
	free(s->listeners);
	free(s->text);
	json_decref(s->driver_part);
	kata__close_fd(&s->ended_fd);
	pthread_mutex_destroy(&s->mutex);
	free(s);
	vm->shared = NULL;
}

/* For a VM without an operation and without references. */
void kata__vm_free(kata_vm *vm)
{
	kata_context *ctx = vm->ctx;

	if (vm->shared)
		kata__vm_unregister(vm);
	if (vm->impl)
		vm->driver->deinit(vm);
	free_shared(vm);
	kata__vm_restore_free(vm->restore);
	kata__vm_preparation_free(vm->preparation);
	kata__slots_deinit(&vm->ports);
	kata__slots_deinit(&vm->luns);
	if (vm->journal.path)
		kata__journal_deinit(&vm->journal);
	kata__vm_config_copy_free(vm->config);
	free(vm->dir);
	vm->magic = 0;
	free(vm);
	kata__context_leave(ctx, KATA__OBJECT_VM);
}

static int check_qos(const kata_qos_config *qos, kata_error **err)
{
	if (!qos)
		return 0;
	if (qos->size < sizeof(*qos))
		return kata__fail(err, KATA_E_INVALID, CALLER, "qos.size: is %zu, must be sizeof(kata_qos_config), %zu",
				  qos->size, sizeof(*qos));
	if (!qos->cgroup_path && !qos->inbound_average_bytes && !qos->inbound_peak_bytes &&
	    !qos->outbound_average_bytes && !qos->outbound_peak_bytes)
		return 0;
	return kata__fail(
		err, KATA_E_UNSUPPORTED, CALLER,
		"qos: limits are not in this version: pass NULL and put the VMM's pid into a cgroup of yours");
}

static int check_transport(const kata_agent_config *agent, kata_agent_transport *ret, kata_error **err)
{
	*ret = agent ? agent->transport : KATA_AGENT_AUTO;
	if (agent && agent->size < sizeof(*agent))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "agent.size: is %zu, must be sizeof(kata_agent_config), %zu", agent->size,
				  sizeof(*agent));
	if ((unsigned)*ret > KATA_AGENT_VSOCK)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "agent.transport: %d is none of KATA_AGENT_AUTO, _VIRTIO_SERIAL, _VSOCK", (int)*ret);
	return 0;
}

/* A directory of that id is there: somebody's machine, or what a dead process left. */
static int check_dir_is_free(kata_vm *vm, kata_error **err)
{
	struct kata__owner owner;

	if (!vm->dir || access(vm->dir, F_OK) < 0)
		return 0;
	if (kata__owner_read(vm->dir, &owner, NULL) == 0 && owner.process.pid > 0 && kata__owner_is_alive(&owner))
		return kata__fail(err, KATA_E_EXISTS, CALLER, "config.id: a VM '%s' lives in %s, driven by process %d",
				  vm->id, vm->dir, (int)owner.process.pid);
	return kata__fail(err, KATA_E_EXISTS, CALLER,
			  "config.id: %s is there, released or left by a dead process: rebuild that VM, or remove it "
			  "by kata_recover()",
			  vm->dir);
}

int kata__vm_new(kata_context *ctx, const struct kata__vm_driver *driver, const kata_vm_config *config,
		 const kata_agent_config *agent_config, const kata_qos_config *qos_config, kata_vm **ret_vm,
		 kata_error **err)
{
	struct kata__vm_config_copy *copy = NULL;
	kata_agent_transport transport = KATA_AGENT_AUTO;
	kata_vm *vm = NULL;
	int rc;

	rc = check_qos(qos_config, err);
	if (rc == 0)
		rc = check_transport(agent_config, &transport, err);
	if (rc == 0)
		rc = kata__vm_config_copy_new(config, &copy, err);
	if (rc == 0)
		rc = kata__vm_alloc(ctx, driver, copy, NULL, KATA_VM_CREATED, &vm, err);
	if (rc < 0)
		return rc;

	vm->agent_transport = transport;
	rc = check_dir_is_free(vm, err);
	if (rc == 0)
		rc = driver->init(vm, err);
	if (rc < 0) {
		kata__vm_free(vm);
		return rc;
	}
	if (vm->agent_transport == KATA_AGENT_AUTO)
		vm->agent_transport = KATA_AGENT_VIRTIO_SERIAL;
	*ret_vm = vm;
	return 0;
}

kata_vm *kata_vm_ref(kata_vm *vm)
{
	if (!vm)
		return NULL;
	atomic_fetch_add_explicit(&vm->shared->lives, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&vm->shared->refs, 1, memory_order_relaxed);
	return vm;
}

void kata__vm_drop_life(kata_vm *vm)
{
	struct kata__vm_shared *s = vm->shared;
	kata_vm_state state;
	kata_op *op = NULL;

	if (atomic_fetch_sub_explicit(&s->lives, 1, memory_order_acq_rel) != 1)
		return;
	state = kata__vm_get_state(vm);
	if (state == KATA_VM_DESTROYED || state == KATA_VM_RELEASED || s->last_destroy_tried)
		return;
	s->last_destroy_tried = true;
	if (kata_vm_destroy_begin(vm, NULL, &op, NULL) == 0 &&
	    kata__context_check_may_block(vm->ctx, "kata_vm_unref", NULL) == 0)
		kata_op_wait(op, NULL);
	kata_op_unref(op);
}

struct farewell {
	struct kata__task task;
	kata_vm *vm;
	bool done;
};

static void free_on_leader(struct kata__task *task)
{
	struct farewell *f = (struct farewell *)(void *)task;
	struct kata__loop *loop = kata__context_loop(f->vm->ctx);

	kata__vm_free(f->vm);
	__atomic_store_n(&f->done, true, __ATOMIC_RELEASE);
	kata__loop_wake_waiters(loop);
}

/* A machine that is another's by now could not be destroyed: what watches it is still in the loop, and goes there. */
static bool is_watched(kata_vm *vm)
{
	kata_vm_state state = kata__vm_get_state(vm);

	return state != KATA_VM_CREATED && state != KATA_VM_DESTROYED && state != KATA_VM_RELEASED;
}

void kata__vm_drop_memory(kata_vm *vm)
{
	struct farewell f = {.task.fn = free_on_leader, .vm = vm};
	struct kata__loop *loop = kata__context_loop(vm->ctx);

	if (atomic_fetch_sub_explicit(&vm->shared->refs, 1, memory_order_acq_rel) != 1)
		return;
	if (!is_watched(vm) || kata__loop_is_leader(loop)) {
		kata__vm_free(vm);
		return;
	}
	kata__loop_post(loop, &f.task);
	kata__loop_wait(loop, &f.done, KATA__NEVER);
}

void kata_vm_unref(kata_vm *vm)
{
	if (!vm)
		return;
	kata__vm_drop_life(vm);
	kata__vm_drop_memory(vm);
}

/* ---- getters ---- */

const char *kata_vm_get_id(const kata_vm *vm)
{
	return vm ? vm->id : NULL;
}

const char *kata_vm_get_uuid(const kata_vm *vm)
{
	return vm ? vm->uuid : NULL;
}

const char *kata_vm_get_driver(const kata_vm *vm)
{
	return vm ? vm->driver->name : NULL;
}

kata_vm_origin kata_vm_get_origin(const kata_vm *vm)
{
	kata_vm_origin origin;

	if (!vm)
		return KATA_VM_BOOTED;
	kata__vm_lock(vm);
	origin = vm->shared->origin;
	kata__vm_unlock(vm);
	return origin;
}

uint64_t kata_vm_get_identity_reset(const kata_vm *vm)
{
	uint64_t reset;

	if (!vm)
		return 0;
	kata__vm_lock(vm);
	reset = vm->shared->identity_reset;
	kata__vm_unlock(vm);
	return reset;
}

const char *kata_vm_get_accelerator(const kata_vm *vm)
{
	return vm ? vm->accelerator : NULL;
}

const char *kata_vm_get_accelerator_reason(const kata_vm *vm)
{
	return vm ? vm->accelerator_reason : NULL;
}

kata_vm_state kata_vm_get_state(const kata_vm *vm)
{
	return vm ? kata__vm_get_state(vm) : KATA_VM_DESTROYED;
}

int64_t kata_vm_get_pid(const kata_vm *vm)
{
	struct kata__process_identity process;

	if (!vm)
		return 0;
	kata__vm_get_process(vm, &process);
	return process.pid;
}
