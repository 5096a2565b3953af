/* SPDX-License-Identifier: Apache-2.0 */
/* driver.c - the QEMU driver on one screen, and its part of the released record. */
#include "vm/qemu/machine.h"

#include <string.h>

#include "base/text.h"
#include "vm/qemu/vsock.h"

static int connect_agent(kata_vm *vm, int *ret_fd, kata_error **err)
{
	const struct kata__qemu *q = kata__qemu_of(vm);

	return q->vsock_cid ? kata__qemu_vsock_connect(q->vsock_cid, ret_fd, err)
			    : kata__qemu_connect_socket(q, "agent.sock", ret_fd, err);
}

/* All else is in the core's part. The binary is for the reader: a rebuild talks to the process. */
static int dump(kata_vm *vm, json_t *driver, kata_error **err)
{
	const struct kata__qemu *q = kata__qemu_of(vm);

	if (json_object_set_new(driver, "binary", json_string(q->settings.binary)) ||
	    json_object_set_new(driver, "machine", json_string(q->machine)) ||
	    json_object_set_new(driver, "vsock_cid", json_integer(q->vsock_cid)))
		return kata__fail_no_memory(err);
	return 0;
}

static int restore(kata_vm *vm, const json_t *driver, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of(vm);
	const char *binary, *machine;
	uint64_t cid;
	int rc;

	if ((rc = kata__json_get_string(driver, "record.vmm", "binary", &binary, err)) ||
	    (rc = kata__json_get_string(driver, "record.vmm", "machine", &machine, err)) ||
	    (rc = kata__json_get_uint(driver, "record.vmm", "vsock_cid", UINT32_MAX, &cid, err)))
		return rc;
	if ((cid != 0) != (vm->agent_transport == KATA_AGENT_VSOCK))
		return kata__fail(err, KATA_E_CORRUPT, CALLER,
				  "record.vmm.vsock_cid: contradicts record.agent_transport");
	q->vsock_cid = (unsigned)cid;
	q->machine = kata__strdup(machine);
	q->kvm = strcmp(vm->accelerator, "kvm") == 0;
	return q->machine ? 0 : kata__fail_no_memory(err);
}

const struct kata__vm_driver kata__qemu_driver = {
	.name = "qemu",
	.start = &kata__qemu_start,
	.start_warm = &kata__qemu_start_warm,
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
	.snapshot = &kata__qemu_snapshot,
	.start_restored = &kata__qemu_start_restored,
	.prestart = &kata__qemu_prestart,
	.start_prestarted = &kata__qemu_start_prestarted,
	.init = kata__qemu_init,
	.deinit = kata__qemu_deinit,
	.connect_agent = connect_agent,
	.dump = dump,
	.restore = restore,
	.dump_is_constant = true,
	.get_console = kata__qemu_console,
	.get_vmm_output = kata__qemu_last_words,
	.explain = kata__qemu_explain,
};
