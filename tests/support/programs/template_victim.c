/* SPDX-License-Identifier: Apache-2.0 */
/*
 * template_victim - a program that makes a template and a clone of it, and is killed while it does.
 *
 *     template_victim STATE_DIR BINARY KERNEL INITRD TEMPLATE_DIR MEMORY_MIB POINT
 *
 * Makes the template for a machine of so much memory (one that is there for another goes), builds a clone under the id
 * "victim", starts and destroys it, and removes the template; the fail-point POINT kills this process on its first
 * pass. POINT "-" arms nothing: the steps of all that are printed, a line "operation/step" each. Exits 0 when all went
 * well, 1 with the error on stderr.
 */
#include <kata/kata.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "victim.h"

struct victim {
	kata_context *context;
	kata_vm_builder *inner, *builder;
	kata_vm_config config;
	bool prints;
};

static void set_up(struct victim *v, char **argv)
{
	kata_template_options template_options = KATA_TEMPLATE_OPTIONS_INIT;
	kata_context_options options = KATA_CONTEXT_OPTIONS_INIT;
	kata_qemu_options qemu = KATA_QEMU_OPTIONS_INIT;
	kata_error *err = NULL;

	options.state_dir = argv[1];
	qemu.binary = argv[2];
	qemu.accelerator = KATA_ACCELERATOR_TCG;
	v->config = (kata_vm_config)KATA_VM_CONFIG_INIT;
	v->config.kernel = argv[3];
	v->config.initrd = argv[4];
	v->config.memory_mib = (uint64_t)atoi(argv[6]);
	template_options.path = argv[5];
	template_options.flags = KATA_TEMPLATE_SHARE_MEMORY;
	v->prints = strcmp(argv[7], "-") == 0;
	MUST(kata_context_new(&options, &v->context, &err));
	MUST(kata_vm_builder_new_qemu(v->context, &qemu, &v->inner, &err));
	MUST(kata_vm_builder_new_template(v->context, v->inner, NULL, &template_options, &v->builder, &err));
	if (!v->prints)
		MUST(kata_context_set_fail_point(v->context, argv[7], KATA_FAIL_KILL, 0, 0, 1, &err));
}

static void finish(const struct victim *v, kata_op *take_op)
{
	kata_timeline_entry entry = {.size = sizeof(entry)};
	kata_error *err = NULL;

	MUST(kata_op_wait(take_op, &err));
	for (size_t i = 0; v->prints && i < kata_op_get_timeline_length(take_op); i++)
		if (kata_op_get_timeline_entry(take_op, i, &entry, NULL) == 0)
			printf("%s/%s\n", kata_op_get_name(take_op), entry.step);
	kata_op_unref(take_op);
}

static void run(struct victim *v)
{
	kata_error *err = NULL;
	kata_op *op = NULL;
	kata_vm *vm = NULL;

	MUST(kata_template_make_begin(v->builder, &v->config, NULL, &op, &err));
	finish(v, op);
	v->config.id = "victim";
	MUST(kata_vm_builder_build(v->builder, &v->config, NULL, NULL, &vm, &err));
	MUST(kata_vm_start_begin(vm, NULL, &op, &err));
	finish(v, op);
	MUST(kata_vm_destroy(vm, NULL, &err));
	kata_vm_unref(vm);
	MUST(kata_template_remove_begin(v->builder, NULL, &op, &err));
	finish(v, op);
}

int main(int argc, char **argv)
{
	kata_error *err = NULL;
	struct victim v;

	if (argc != 8)
		return 2;
	set_up(&v, argv);
	run(&v);
	kata_vm_builder_free(v.builder);
	kata_vm_builder_free(v.inner);
	MUST(kata_context_free(v.context, &err));
	return 0;
}
