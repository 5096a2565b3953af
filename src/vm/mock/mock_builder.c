/* SPDX-License-Identifier: Apache-2.0 */
/* mock_builder.c - the public face of the mock: its builder, and what the caller sets on it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/options.h"
#include "vm/builder.h"
#include "vm/mock/mock.h"

struct builder {
	kata_context *ctx;
	struct kata__mock_controls *controls;
};

/* The config as the core wants it, checked: what the mock never opens need not be given. */
static int complete_config(const kata_vm_config *config, kata_vm_config *ret, kata_error **err)
{
	int rc = kata__options_read(ret, sizeof(*ret), config, "config", err);

	if (rc < 0)
		return rc;
	if (!ret->kernel)
		ret->kernel = "/mock/kernel";
	if (!ret->initrd && !ret->image)
		ret->initrd = "/mock/initrd";
	return kata__vm_config_check_values(ret, err);
}

static int mock_build(void *self, const kata_vm_config *config, const kata_agent_config *agent_config,
		      const kata_qos_config *qos_config, kata_vm **ret_vm, kata_error **err)
{
	kata_vm_config complete = KATA_VM_CONFIG_INIT;
	struct builder *b = self;
	kata_vm *vm = NULL;
	int rc = complete_config(config, &complete, err);

	if (rc < 0)
		return rc;
	if (agent_config && agent_config->transport == KATA_AGENT_VSOCK)
		return kata__fail(
			err, KATA_E_UNSUPPORTED, CALLER,
			"agent.transport: the mock has no vsock; use KATA_AGENT_AUTO or KATA_AGENT_VIRTIO_SERIAL");
	rc = kata__vm_new(b->ctx, &kata__mock_driver, &complete, agent_config, qos_config, &vm, err);
	if (rc < 0)
		return rc;
	kata__mock_machine_of(vm)->controls = kata__mock_controls_ref(b->controls);
	*ret_vm = vm;
	return 0;
}

static int prepare_rebuild(kata_vm *vm, void *user, kata_error **err)
{
	kata__mock_machine_of(vm)->controls = kata__mock_controls_ref(user);
	return 0;
}

static int mock_build_from_released(void *self, const char *json, size_t length, const kata_op_options *options,
				    kata_vm **ret_vm, kata_op **ret_op, kata_error **err)
{
	struct builder *b = self;

	return kata__vm_rebuild_begin(b->ctx, &kata__mock_driver, json, length, options, prepare_rebuild, b->controls,
				      ret_vm, ret_op, err);
}

static int mock_get_capabilities(void *self, kata_capabilities *ret, kata_error **err)
{
	snprintf(ret->driver, sizeof(ret->driver), "mock");
	snprintf(ret->vmm_version, sizeof(ret->vmm_version), "%s", kata_get_version());
	snprintf(ret->accelerator, sizeof(ret->accelerator), "none");
	snprintf(ret->accelerator_reason, sizeof(ret->accelerator_reason), "the mock runs no guest");
	ret->hotplug_storage = true;
	ret->hotplug_nic = true;
	ret->pause = true;
	ret->release = true;
	ret->cpus_max = KATA__VM_CPUS_MAX;
	ret->device_slots_max = KATA__VM_DEVICE_SLOTS_MAX;
	ret->scsi_luns_max = KATA__VM_LUNS_MAX;
	ret->memory_max_mib = KATA__VM_MEMORY_MAX_MIB;
	return 0;
}

static void mock_free(void *self)
{
	struct builder *b = self;

	kata__mock_controls_unref(b->controls);
	free(b);
}

static const kata_vm_builder_ops builder_ops = {
	.size = sizeof(kata_vm_builder_ops),
	.name = "mock",
	.build = mock_build,
	.build_from_released = mock_build_from_released,
	.get_capabilities = mock_get_capabilities,
	.free = mock_free,
};

int kata_vm_builder_new_mock(kata_context *context, kata_vm_builder **ret_builder, kata_error **err)
{
	struct builder *b;
	int rc;

	if (!context || !ret_builder)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s is NULL", context ? "ret_builder" : "context");
	b = calloc(1, sizeof(*b));
	if (!b || !(b->controls = kata__mock_controls_new())) {
		free(b);
		return kata__fail_no_memory(err);
	}
	b->ctx = context;
	rc = kata_vm_builder_new(context, &builder_ops, b, ret_builder, err);
	if (rc < 0)
		mock_free(b);
	return rc;
}

/* The controls, or NULL with *err set. */
static struct kata__mock_controls *controls_of(const kata_vm_builder *builder, kata_mock_operation operation,
					       kata_error **err)
{
	struct builder *b = builder ? kata__vm_builder_self(builder, &builder_ops) : NULL;

	if (!b)
		kata__fail(err, KATA_E_INVALID, CALLER, "builder: %s; kata_vm_builder_new_mock() makes a mock",
			   builder ? "is not a mock" : "is NULL");
	else if ((unsigned)operation >= KATA_MOCK_OPERATION_COUNT)
		kata__fail(err, KATA_E_INVALID, CALLER, "operation: %d is none, they are 0 to %d", (int)operation,
			   KATA_MOCK_OPERATION_COUNT - 1);
	else
		return b->controls;
	return NULL;
}

int kata_mock_set_delay(kata_vm_builder *builder, kata_mock_operation operation, uint64_t delay_ms, kata_error **err)
{
	struct kata__mock_controls *c = controls_of(builder, operation, err);

	if (!c)
		return KATA_E_INVALID;
	kata__mock_controls_set_delay(c, operation, delay_ms);
	return 0;
}

int kata_mock_set_failure(kata_vm_builder *builder, kata_mock_operation operation, int status, uint32_t count,
			  kata_error **err)
{
	struct kata__mock_controls *c = controls_of(builder, operation, err);

	if (!c)
		return KATA_E_INVALID;
	if (status >= 0 || status < KATA_E_DIVERGED)
		return kata__fail(err, KATA_E_INVALID, CALLER, "status: %d is no failure, they are %d to %d", status,
				  KATA_E_DIVERGED, KATA_E_INVALID);
	kata__mock_controls_set_failure(c, operation, status, count);
	return 0;
}

/* ---- ending a machine from outside: an operation, so that it happens on the loop */

static int step_die(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__op_data(op);
	struct kata__mock_machine *m = kata__mock_machine_of(vm);

	if (!m)
		return kata__fail(err, KATA_E_STATE, CALLER, "the machine was released: this handle does not drive it");
	if (m->ended || !m->running)
		return kata__fail(err, KATA_E_STATE, CALLER, "the machine is %s; RUNNING or PAUSED is required",
				  kata_vm_state_get_name(kata_vm_get_state(vm)));
	kata__mock_machine_end(m);
	kata__vm_ended(vm);
	return KATA__STEP_DONE;
}

static void drop_vm(void *data)
{
	kata_vm_unref(data);
}

static const struct kata__step die_steps[] = {
	{.name = "die", .run = step_die},
};
static const struct kata__op_table die_table = {
	.name = "mock-end",
	KATA__STEPS(die_steps),
	.timeout_ms = 10000,
	.free_data = drop_vm,
};

int kata_mock_end(kata_vm *vm, kata_error **err)
{
	kata_op *op = NULL;
	int rc;

	if (!vm || vm->driver != &kata__mock_driver)
		return kata__fail(err, KATA_E_INVALID, CALLER, "vm: %s; a VM of a mock builder is required",
				  vm ? "is not a mock" : "is NULL");
	rc = kata__op_start(vm->ctx, &die_table, kata_vm_ref(vm), NULL, 1, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}
