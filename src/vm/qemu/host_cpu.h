/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_QEMU_HOST_CPU_H
#define KATA_VM_QEMU_HOST_CPU_H
/*
 * Which CPU a guest sees: "max", the same for every QEMU of a version, where it is emulated; under KVM the host's, and
 * then a saved state can be loaded only where that is the same.
 */
#include "vm/manifest.h"

/* The driver's part of the manifest, and the model's name for people; NULL when out of memory. */
json_t *kata__qemu_host_cpu_describe(bool kvm, char *ret_model, size_t size);
/* The manifest's against this host's: CORRUPT, UNSUPPORTED. */
int kata__qemu_host_cpu_check(const struct kata__manifest *m, bool kvm, kata_error **err);
#endif
