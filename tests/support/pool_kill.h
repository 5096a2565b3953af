/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_POOL_KILL_H
#define KATA_TESTS_SUPPORT_POOL_KILL_H
/*
 * Kills the process that keeps a pool of machines, at every step of making and handing out in turn, and recovers in
 * this one: whatever was left is an orphan and goes, afterwards the host is as before, and the program then succeeds.
 */
#include "support/fixture.h"

struct pool_kill {
	struct fixture *f; /* without a context */
	const char *binary, *kernel, *initrd;
	unsigned machines;        /* that it keeps */
	const char *template_dir; /* of a template for which it keeps VMMs waiting; NULL: a warm cache */
	const char *only;         /* the steps that begin with this; the others are left to another test */
	bool brief;               /* it is not run to its end, before and after */
};

void pool_kill_everywhere(const struct pool_kill *k);
#endif
