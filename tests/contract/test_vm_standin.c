/* SPDX-License-Identifier: Apache-2.0 */
/* The VM contract, held by the QEMU driver on the stand-in: the real driver, commands, sockets and files, no emulation.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "support/vm_contract.h"

static kata_vm_builder *new_qemu_builder(struct fixture *f)
{
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;
	kata_vm_builder *builder = NULL;
	kata_error *err = NULL;
	char *binary = fixture_make_standin(f, NULL);

	options.binary = binary;
	options.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(f->context, &options, &builder, &err), err);
	free(binary);
	return builder;
}

static char kernel[64], initrd[64];

static void configure(struct fixture *f, kata_vm_config *config)
{
	char *path = fixture_make_kernel(f);

	snprintf(kernel, sizeof(kernel), "%s", path);
	snprintf(initrd, sizeof(initrd), "%s", path);
	free(path);
	config->kernel = kernel;
	config->initrd = initrd;
}

static void kill_vmm(kata_vm *vm)
{
	cr_assert_gt(kata_vm_get_pid(vm), 1);
	cr_assert_eq(kill((pid_t)kata_vm_get_pid(vm), SIGKILL), 0);
}

static const struct vm_kind standin_kind = {
	.name = "qemu on the stand-in",
	.new_builder = new_qemu_builder,
	.configure = configure,
	.end = kill_vmm,
	.patience_ms = 5000,
	.opens_files = true,
};

#define CASE(name)                                                                                                     \
	Test(vm_standin, name, .timeout = 120)                                                                         \
	{                                                                                                              \
		vm_contract_##name(&standin_kind);                                                                     \
	}
VM_CONTRACT_CASES(CASE)
