/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_QEMU_ACCEL_H
#define KATA_VM_QEMU_ACCEL_H
/*
 * Which accelerator: KVM where /dev/kvm runs guest code at the CPU's speed, else TCG. Found out by running some code,
 * since a /dev/kvm that opens, has the right version and creates VMs may still emulate every instruction.
 */
#include <stdbool.h>
#include <sys/types.h>

#include <kata/vm_builder.h>

#include "base/error.h"

struct kata__accel {
	bool kvm;
	bool measured; /* the verdict comes from running code, so it may be cached */
	char reason[160];
};

/* Runs the probe: at most about 0.2 s. Blocking; makes a thread for that time. Never fails: what cannot be found out is
 * TCG, with the reason. */
void kata__accel_probe(const char *device, struct kata__accel *ret);

/*
 * The answer for a builder: wanted AUTO, KVM or TCG; the verdict of the probe is read from and kept in cache_dir, keyed
 * by boot id and the device's identity. uid and gid are what the VMM will run with. KVM wanted but not usable:
 * UNSUPPORTED, with the reason.
 */
int kata__accel_choose(kata_accelerator wanted, const char *cache_dir, uid_t uid, gid_t gid, struct kata__accel *ret,
		       kata_error **err);

/* The group that may read and write the device (Debian: kvm), for a VMM that runs as nobody; else the fallback. */
gid_t kata__accel_group(const char *device, gid_t fallback);
#endif
