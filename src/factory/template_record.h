/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_TEMPLATE_RECORD_H
#define KATA_FACTORY_TEMPLATE_RECORD_H
/*
 * What a template was made by, beyond what the manifest of its snapshot says: the part "x-template" of that snapshot.
 * Hostile input when it is read.
 */
#include "vm/manifest.h"

#define KATA__TEMPLATE_PART "x-template"
#define KATA__TEMPLATE_RECORD_VERSION 1
#define KATA__TEMPLATE_RECORD_MAX 65536u

struct kata__template_record {
	char library[32];
	char agent[128];                /* as it said of itself; "" when it did not */
	struct kata__manifest_file vmm; /* its binary; path NULL: it has none */
};

void kata__template_record_deinit(struct kata__template_record *r);
/* The text of the part; NULL when out of memory. */
char *kata__template_record_write(const struct kata__template_record *r);
/* CORRUPT, VERSION. Fills a record that is zeroed. */
int kata__template_record_read(const char *text, size_t len, struct kata__template_record *ret, kata_error **err);
#endif
