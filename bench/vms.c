/* SPDX-License-Identifier: Apache-2.0 */
#include "vms.h"

#include <stdio.h>

static kata_vm_builder *builder_of(kata_context *ctx, const char *binary)
{
	kata_qemu_options o = KATA_QEMU_OPTIONS_INIT;
	kata_vm_builder *builder = NULL;
	kata_error *err = NULL;

	o.binary = binary;
	o.accelerator = KATA_ACCELERATOR_TCG;
	o.flags = KATA_QEMU_KEEP_IDS;
	if (kata_vm_builder_new_qemu(ctx, &o, &builder, &err))
		bench_fail("builder", err);
	return builder;
}

kata_vm_builder *vms_qemu(kata_context *ctx)
{
	return builder_of(ctx, NULL);
}

kata_vm_builder *vms_standin(struct bench *b, kata_context *ctx)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/tests/programs/qemu_standin", b->build_dir);
	return builder_of(ctx, path);
}

void vms_config(struct bench *b, uint32_t slots, kata_vm_config *ret, char *kernel, char *initrd, size_t size)
{
	snprintf(kernel, size, "%s/vmlinuz", b->guest_dir);
	snprintf(initrd, size, "%s/initrd", b->guest_dir);
	ret->kernel = kernel;
	ret->initrd = initrd;
	ret->memory_mib = 256;
	ret->device_slots = slots;
}

kata_vm *vms_build(struct bench *b, kata_vm_builder *builder, uint32_t slots)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	char kernel[512], initrd[512];
	kata_error *err = NULL;
	kata_vm *vm = NULL;

	vms_config(b, slots, &config, kernel, initrd, sizeof(kernel));
	if (kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err))
		bench_fail("build", err);
	return vm;
}

kata_vm_builder *vms_template(struct bench *b, kata_context *ctx, kata_vm_builder *inner, kata_agent_builder *agents,
			      uint32_t slots, uint32_t prestarted)
{
	kata_template_options o = KATA_TEMPLATE_OPTIONS_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	char kernel[512], initrd[512], path[256];
	kata_vm_builder *builder = NULL;
	kata_error *err = NULL;

	snprintf(path, sizeof(path), "%s/" VMS_TEMPLATE, b->work_dir);
	o.path = path;
	o.prestarted = prestarted;
	o.flags = KATA_TEMPLATE_SHARE_MEMORY;
	vms_config(b, slots, &config, kernel, initrd, sizeof(kernel));
	if (kata_vm_builder_new_template(ctx, inner, agents, &o, &builder, &err) == 0 &&
	    kata_template_make(builder, &config, NULL, &err) == 0)
		return builder;
	bench_fail("template", err);
	kata_vm_builder_free(builder);
	return NULL;
}

kata_storage *vms_disk(struct bench *b, const char *name)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_storage *disk = NULL;
	kata_error *err = NULL;
	char path[256];

	c.id = name;
	c.path = path;
	if (bench_image(b, name, path) || kata_storage_new(&c, &disk, &err))
		bench_fail("disk", err);
	return disk;
}

kata_nic *vms_nic(const char *id)
{
	kata_nic_config c = KATA_NIC_CONFIG_INIT;
	kata_error *err = NULL;
	kata_nic *nic = NULL;

	c.id = id;
	if (kata_nic_new(&c, &nic, &err))
		bench_fail("NIC", err);
	return nic;
}

int vms_await_begin(kata_agent *agent, const char *kind, const char *address, kata_op **ret_op)
{
	kata_agent_request r = {
		.size = sizeof(r), .method = KATA_AGENT_AWAIT_DEVICE, .device_kind = kind, .device_address = address};
	kata_error *err = NULL;

	return kata_agent_call_begin(agent, &r, NULL, ret_op, &err) ? bench_fail("await", err) : 0;
}

int vms_await_end(kata_op *take_op)
{
	kata_error *err = NULL;
	int rc = take_op ? kata_op_wait(take_op, &err) : -1;

	kata_op_unref(take_op);
	return rc ? bench_fail("await", err) : 0;
}
