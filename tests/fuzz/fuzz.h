/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FUZZ_H
#define KATA_FUZZ_H
/*
 * What fuzz targets share. A target is one file fuzz_NAME.c with one function LLVMFuzzerTestOneInput and a directory
 * corpus/NAME of seeds. With clang (preset fuzz) each is a libFuzzer program; without, all of them run their seeds and
 * simple mutations of them in one Criterion program (corpus.c), where each function has the name fuzz_NAME.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold whatever the input is. Not assert(): it must also hold in builds with NDEBUG. */
#define must(condition)                                                                                                \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                  \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

/* A failing call sets an error of the same status, a succeeding one none. */
#define must_agree(rc, err) must(((rc) < 0) == ((err) != NULL) && (!(err) || (int)kata_error_get_status(err) == (rc)))
#endif
