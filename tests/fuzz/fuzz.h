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
#include <string.h>

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

/* What is read can be written, and reads as the same again. `read_and_write` answers NULL when it refuses the input. */
static inline void must_read_again(const uint8_t *data, size_t size, char *(*read_and_write)(const char *, size_t))
{
	char *first = data ? read_and_write((const char *)data, size) : NULL;
	char *second = first ? read_and_write(first, strlen(first)) : NULL;

	must(!first || (second && strcmp(first, second) == 0));
	free(first);
	free(second);
}
#endif
