/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_CONFIG_H
#define KATA_VM_CONFIG_H
/*
 * A deep copy of kata_vm_config with the defaults filled in: what the VM keeps and drivers read (vm->config->v).
 * Immutable once made, so any thread may read it. `v` is an ordinary config: strings are owned by the copy, zero no
 * longer means default.
 */
#include <kata/vm.h>

#include "base/json.h"

#define KATA__VM_CPUS_MAX 255u
#define KATA__VM_MEMORY_MIN_MIB 16u
#define KATA__VM_MEMORY_MAX_MIB (UINT64_C(1) << 24) /* 16 TiB */
#define KATA__VM_MEMORY_SLOTS_MAX 256u
#define KATA__VM_DEVICE_SLOTS_DEFAULT 16u
#define KATA__VM_DEVICE_SLOTS_MAX 240u /* what an address can name; a driver may allow fewer */
#define KATA__VM_LUNS_MAX 256u
#define KATA__VM_KERNEL_PARAMS_MAX 256u
#define KATA__VM_CMDLINE_MAX 2000u /* bytes of all kernel parameters; x86 takes 2047 in all */

struct kata__vm_config_copy {
	kata_vm_config v;
	char **kernel_params; /* owned; v.kernel_params is the same list, never NULL */
};

/* kata_vm_config_validate() without a look at the files: for drivers that open none. */
int kata__vm_config_check_values(const kata_vm_config *config, kata_error **err);
/* `config` is valid. NULL id: a UUID is made. */
int kata__vm_config_copy_new(const kata_vm_config *config, struct kata__vm_config_copy **ret, kata_error **err);
void kata__vm_config_copy_free(struct kata__vm_config_copy *c); /* accepts NULL */

/* For the released record. From: hostile input; ranges are checked as by the validation, files are not looked at. */
json_t *kata__vm_config_to_json(const struct kata__vm_config_copy *c);
int kata__vm_config_from_json(const json_t *o, const char *what, struct kata__vm_config_copy **ret, kata_error **err);
#endif
