/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BENCH_VMS_H
#define BENCH_VMS_H
/* The VMs the metrics use. All print what failed and return NULL or -1. */
#include "bench.h"

/* QEMU under TCG (chosen, not probed: the hand program does not probe either), ids kept; or the stand-in for QEMU. */
kata_vm_builder *vms_qemu(kata_context *ctx);
kata_vm_builder *vms_standin(struct bench *b, kata_context *ctx);
/* The config of a VM of the guest image; the paths are written to the two buffers, which it names. */
void vms_config(struct bench *b, uint32_t slots, kata_vm_config *ret, char *kernel, char *initrd, size_t size);
/* A VM of the guest image, not started, with `slots` device slots. */
kata_vm *vms_build(struct bench *b, kata_vm_builder *builder, uint32_t slots);
/* A builder of clones of that VM, in work_dir; the template is made. So many VMMs are kept waiting for it. */
#define VMS_TEMPLATE "template"
kata_vm_builder *vms_template(struct bench *b, kata_context *ctx, kata_vm_builder *inner, kata_agent_builder *agents,
			      uint32_t slots, uint32_t prestarted);
kata_storage *vms_disk(struct bench *b, const char *name);
kata_nic *vms_nic(const char *id);
/* Until the guest has the device. The end takes the op. */
int vms_await_begin(kata_agent *agent, const char *kind, const char *address, kata_op **ret_op);
int vms_await_end(kata_op *take_op);
#endif
