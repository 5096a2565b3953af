/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PROTO_OCI_H
#define KATA_PROTO_OCI_H
/*
 * OCI runtime-spec JSON (config.json, 1.x) to the agent's Spec message and back; likewise a process (for exec) and
 * resources (for update) alone.
 *
 * Nothing is dropped silently: a field that the message cannot carry is refused with its path, unless leaving it out
 * changes nothing (it is null, false, empty, or listed as harmless in oci_schema.c).
 *
 * Messages are allocated with malloc, field by field, so a caller may edit them: kata__oci_set_string() replaces a
 * string. All functions may be used from any thread on different objects.
 */
#include <stddef.h>

#include "agent.pb-c.h"
#include "base/error.h"

#define KATA__OCI_JSON_MAX (1024u * 1024u)        /* bytes of JSON read; what it becomes fits in a ttrpc frame */
#define KATA__OCI_ITEMS_MAX 4096u                 /* items of one array, entries of one map */
#define KATA__OCI_WRITE_MAX (16u * 1024u * 1024u) /* bytes of JSON written */

/*
 * JSON text to message. Required are ociVersion 1.x, process.args (not empty), process.cwd (absolute), root.path, and
 * what the runtime-spec requires of each part.
 * text: `length` bytes, no NUL needed. ret_*: the caller frees it with kata__oci_free().
 * Returns 0; INVALID with the path ("process.args[2]: expected a string, found integer"; unknown words with the allowed
 * ones; "not JSON at byte N"); UNSUPPORTED with the path for a field the agent's protocol cannot carry; NO_MEMORY.
 * The error's origin is the caller.
 */
int kata__oci_spec_from_json(const char *text, size_t length, Grpc__Spec **ret_spec, kata_error **err);
/* Paths in errors begin with "process.". */
int kata__oci_process_from_json(const char *text, size_t length, Grpc__Process **ret_process, kata_error **err);
/* Paths in errors begin with "resources.". */
int kata__oci_resources_from_json(const char *text, size_t length, Grpc__LinuxResources **ret_resources,
				  kata_error **err);

/*
 * Message to compact JSON text, which crun 1.8 loads. Numbers that are 0, empty strings and empty lists mean "not set"
 * in the message and are left out, except where the runtime-spec requires the field. A version later than 1.0 is
 * written as 1.0.2, whose fields these are. The same requirements and words are checked as in reading, since the
 * message may come off the wire. ret_text: NUL-terminated, the caller frees it. ret_length: may be NULL. Returns 0;
 * INVALID with the path; NO_MEMORY.
 */
int kata__oci_spec_to_json(const Grpc__Spec *spec, char **ret_text, size_t *ret_length, kata_error **err);
int kata__oci_process_to_json(const Grpc__Process *process, char **ret_text, size_t *ret_length, kata_error **err);
int kata__oci_resources_to_json(const Grpc__LinuxResources *resources, char **ret_text, size_t *ret_length,
				kata_error **err);

/* Frees a message made by one of the functions above, or a part taken out of one. NULL is fine. */
void kata__oci_free(void *message);
/* Replaces a string field of such a message by a copy of `value`. NO_MEMORY. */
int kata__oci_set_string(char **field, const char *value, kata_error **err);
#endif
