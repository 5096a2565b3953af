/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_VM_STRESS_H
#define KATA_TESTS_SUPPORT_VM_STRESS_H
/*
 * Threads that plug and unplug on one machine, each a disk (every other one on SCSI) and a NIC. What must hold: no slot
 * is given out twice, none is lost, nobody fails.
 */
#include "support/fixture.h"

#define VM_STRESS_THREADS_MAX 16

/* Runs to its end in `threads` threads of `rounds` rounds each; fails the test with the first thing that went wrong.
 * The machine is running and has 2 * threads slots free. */
void vm_stress_plug_and_unplug(struct fixture *f, kata_vm *vm, unsigned threads, unsigned rounds);

/* For others that let threads loose: threads note failures, the test asserts that there were none. Consumes the error.
 */
void vm_stress_note_failure(const char *what, kata_error *take_err);
void vm_stress_assert_no_failure(void);
/* fn(user, index) in each of `threads` threads. */
void vm_stress_run_threads(unsigned threads, void (*fn)(void *user, unsigned index), void *user);
#endif
