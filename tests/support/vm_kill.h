/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_VM_KILL_H
#define KATA_TESTS_SUPPORT_VM_KILL_H
/*
 * Kills the process that drives a VM, at every step of an operation in turn, and recovers in this one: what was left is
 * attachable or an orphan, afterwards the host is as before, and the same operation then succeeds in a new process.
 */
#include "support/fixture.h"

struct vm_kill {
	struct fixture *f; /* without a context */
	const char *binary, *kernel, *initrd;
	bool tap; /* NICs are taps; fixture_enter_netns() was called */
};

/* "probe": kills it while the stand-in that it asks for its abilities runs (its script says how it keeps silent). */
void vm_kill_in_the_probe(const struct vm_kill *k, const char *operation);
/* The owner of a machine is killed while he saves it: who takes it over by its record finds it running. */
void vm_kill_while_saving(const struct vm_kill *k);
/* `operation`: one of tests/support/programs/vm_victim.c. */
void vm_kill_everywhere(const struct vm_kill *k, const char *operation);
#endif
