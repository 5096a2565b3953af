/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_FACTORY_LOAD_H
#define KATA_TESTS_SUPPORT_FACTORY_LOAD_H
/*
 * A pool under a load of clients in other processes, which take, use, drop and crash at random, in rounds: every
 * machine that was taken works, none is handed out twice, and in every round there are as many VMMs as are pooled and
 * taken.
 */
#include "support/fixture.h"

struct factory_load {
	struct fixture *f; /* without a context */
	const char *binary, *kernel, *initrd;
	uint32_t machines; /* pooled */
	unsigned clients;  /* at once, at most; fewer than machines */
	unsigned seconds;
};

/* How many machines were taken. */
unsigned factory_load_run(const struct factory_load *l);
#endif
