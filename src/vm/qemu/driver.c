/* SPDX-License-Identifier: Apache-2.0 */
/* driver.c - the QEMU driver on one screen, and its part of the released record. */
#include "vm/qemu/machine.h"

#include <string.h>

#include "base/text.h"

static int connect_agent(kata_vm *vm, int *ret_fd, kata_error **err)
{
	return kata__qemu_connect_socket(kata__qemu_of(vm), "agent.sock", ret_fd, err);
}

/* All else is in the core's part. The binary is for the reader: a rebuild talks to the process. */
static int dump(kata_vm *vm, json_t *driver, kata_error **err)
{
	const struct kata__qemu *q = kata__qemu_of(vm);

	if (json_object_set_new(driver, "binary", json_string(q->settings.binary)) ||
	    json_object_set_new(driver, "machine", json_string(q->machine)))
		return kata__fail_no_memory(err);
	return 0;
}

static int restore(kata_vm *vm, const json_t *driver, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of(vm);
	const char *binary, *machine;
	int rc;

	if ((rc = kata__json_get_string(driver, "record.vmm", "binary", &binary, err)) ||
	    (rc = kata__json_get_string(driver, "record.vmm", "machine", &machine, err)))
		return rc;
	q->machine = kata__strdup(machine);
	q->kvm = strcmp(vm->accelerator, "kvm") == 0;
	return q->machine ? 0 : kata__fail_no_memory(err);
}

const struct kata__vm_driver kata__qemu_driver = {
	.name = "qemu",
	.start = &kata__qemu_start,
	.add_storage_cold = &kata__qemu_add_storage_cold,
	.add_storage = &kata__qemu_add_storage,
	.remove_storage_cold = &kata__qemu_remove_storage_cold,
	.remove_storage = &kata__qemu_remove_storage,
	.add_nic_cold = &kata__qemu_add_nic_cold,
	.add_nic = &kata__qemu_add_nic,
	.remove_nic_cold = &kata__qemu_remove_nic_cold,
	.remove_nic = &kata__qemu_remove_nic,
	.pause = &kata__qemu_pause,
	.resume = &kata__qemu_resume,
	.release = &kata__qemu_release,
	.rebuild = &kata__qemu_rebuild,
	.destroy = &kata__qemu_destroy,
	.init = kata__qemu_init,
	.deinit = kata__qemu_deinit,
	.connect_agent = connect_agent,
	.dump = dump,
	.restore = restore,
	.get_console = kata__qemu_console,
	.get_vmm_output = kata__qemu_last_words,
};
