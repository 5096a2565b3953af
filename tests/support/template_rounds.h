/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_TEMPLATE_ROUNDS_H
#define KATA_TESTS_SUPPORT_TEMPLATE_ROUNDS_H
/*
 * A template is made, cloned, destroyed, again and again: after every round the host is as before (processes, fds,
 * files, mounts), and this process holds no more memory than after the first few. Every other round keeps a VMM
 * waiting, and its clone is that one. KATA_TEST_ROUNDS says how many rounds, KATA_TEST_TIMES prints figures.
 */
#include "support/fixture.h"

struct template_rounds {
	struct fixture *f; /* with a context */
	kata_vm_builder *inner;
	const char *kernel, *initrd;
	unsigned memory_mib;
	unsigned rounds;          /* without KATA_TEST_ROUNDS */
	long (*count_live)(void); /* pieces of memory allocated and not freed; NULL: not looked at */
};

void template_rounds_run(const struct template_rounds *r);
#endif
