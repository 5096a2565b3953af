/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_SPEC_H
#define KATA_SANDBOX_SPEC_H
/*
 * What the library looks at in an OCI spec, and the one thing it changes: "storage:<id>[/sub/path]" in root.path and
 * mounts[].source becomes the guest path below which the agent mounts that storage. Pure functions; everything else in
 * the spec is the guest runtime's business.
 */
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

#define KATA__SPEC_STORAGE_DIR "/run/kata-containers/sandbox/storage"
#define KATA__SPEC_STORAGE_PREFIX "storage:"
#define KATA__SPEC_MAX (1024u * 1024u)

struct kata__spec {
	char *json; /* what the guest gets: the text as it came when nothing was replaced */
	size_t json_length;
	bool terminal;
	char **storages; /* ids named, each once, NULL-terminated; NULL where there are none */
};

/* A container's config.json. `argument` names it in errors. length 0: strlen. INVALID says which field. */
int kata__spec_parse(const char *argument, const char *text, size_t length, struct kata__spec *ret, kata_error **err);
/* The `process` object of an exec. */
int kata__spec_parse_process(const char *argument, const char *text, size_t length, struct kata__spec *ret,
			     kata_error **err);
void kata__spec_deinit(struct kata__spec *spec);
#endif
