/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_VICTIM_H
#define KATA_TESTS_SUPPORT_VICTIM_H
/* What programs share that a test starts and kills: a call that fails ends them with its error on stderr. */
#include <kata/error.h>

#include <stdio.h>
#include <stdlib.h>

static inline void must(int rc, kata_error *err, const char *what)
{
	char *text;

	if (rc == 0)
		return;
	text = kata_error_to_text(err);
	fprintf(stderr, "%s: %s\n", what, text ? text : "?");
	exit(1);
}

#define MUST(call)                                                                                                     \
	do {                                                                                                           \
		int rc_ = (call); /* before err is read */                                                             \
		must(rc_, err, #call);                                                                                 \
	} while (0)
#endif
