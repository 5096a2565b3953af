/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_MOCK_H
#define KATA_MOCK_H
/*
 * The mock VMM: a VM in the caller's process with slots, addresses and states like the real one, no guest, and an agent
 * that answers the Kata protocol over a socket pair (containers "run": see docs/mock.md). Delays and failures are what
 * the caller sets. For tests of those who use the library, and for what a real guest cannot show: timing, faults,
 * scale. A mock VM may be released and rebuilt within the process. It makes no file and no process.
 */
#include <kata/vm_builder.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kata_mock_operation {
	KATA_MOCK_START = 0,
	KATA_MOCK_ADD_STORAGE,
	KATA_MOCK_REMOVE_STORAGE,
	KATA_MOCK_ADD_NIC,
	KATA_MOCK_REMOVE_NIC,
	KATA_MOCK_PAUSE,
	KATA_MOCK_RESUME,
	KATA_MOCK_DESTROY,
	KATA_MOCK_AGENT_CALL, /* every call of the agent but the reads and the wait */
	KATA_MOCK_OPERATION_COUNT
} kata_mock_operation;

KATA_API int kata_vm_builder_new_mock(kata_context *context, kata_vm_builder **ret_builder, kata_error **err);

/* Applies to VMs of this builder, from now on. INVALID when the builder is not a mock. */
KATA_API int kata_mock_set_delay(kata_vm_builder *builder, kata_mock_operation operation, uint64_t delay_ms,
				 kata_error **err);
/* The next `count` operations of this kind fail with `status` (a negative kata_status), after the delay. */
KATA_API int kata_mock_set_failure(kata_vm_builder *builder, kata_mock_operation operation, int status, uint32_t count,
				   kata_error **err);
/* Ends the machine as if the VMM had died. INVALID when it is not a mock. */
KATA_API int kata_mock_end(kata_vm *vm, kata_error **err);

#ifdef __cplusplus
}
#endif
#endif
