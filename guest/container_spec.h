/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_CONTAINER_SPEC_H
#define KATA_GUEST_CONTAINER_SPEC_H
/* What the agent makes of the OCI spec it was sent: it is written out as it came, but for a pid namespace of its own
 * where the spec names none, which the Kata protocol leaves to the agent. */
#include "agent.pb-c.h"
#include "base/error.h"

/* [A-Za-z0-9][A-Za-z0-9_.-]{1,63}; INVALID otherwise. */
int container_id_check(const char *id, kata_error **err);
/* config.json, the caller's. INVALID: process, root or linux is missing, the root path is not absolute, or what the
 * runtime-spec requires is not there. Looks at the file system for nothing. */
int container_spec_text(const Grpc__Spec *spec, char **ret_text, kata_error **err);
#endif
