/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PROTO_QMP_H
#define KATA_PROTO_QMP_H
/*
 * QMP, the monitor protocol of QEMU: a stream of lines, one JSON object each. The VMM may be compromised by its guest,
 * so what it sends is as hostile as what a guest sends: a line is capped, nesting and the number of values too.
 *
 * Reading: read into kata__buffer_reserve(in, n), kata__buffer_added(), then kata__qmp_next_line() until it answers 0;
 * kata__qmp_parse() each line, then kata__qmp_consume() it. `in` should have a cap of KATA__QMP_BUFFER_MAX.
 * May be used from any thread on different objects.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "proto/cursor.h"

#define KATA__QMP_LINE_MAX (1024u * 1024u) /* bytes, without the line's end */
#define KATA__QMP_BUFFER_MAX (KATA__QMP_LINE_MAX + 65536u)
#define KATA__QMP_DEPTH_MAX 64u
#define KATA__QMP_VALUES_MAX 65536u

/* How far the first line was searched for its end; all zero at the start of a connection. */
struct kata__qmp_reader {
	size_t scanned;
};

/*
 * The first whole line in `in`. Returns 1 with *ret_line, borrowed from the buffer until it is consumed, without its
 * "\n" or "\r\n"; 0 when more bytes are needed; PROTOCOL (origin: VMM) when the line is longer than KATA__QMP_LINE_MAX,
 * whether or not its end has come. After an error the stream has no meaning any more.
 */
int kata__qmp_next_line(struct kata__qmp_reader *reader, const struct kata__buffer *in, struct kata__slice *ret_line,
			kata_error **err);
/* Drops the line that kata__qmp_next_line() returned last. */
void kata__qmp_consume(struct kata__qmp_reader *reader, struct kata__buffer *in);

enum kata__qmp_kind {
	KATA__QMP_GREETING,
	KATA__QMP_RETURN,
	KATA__QMP_ERROR,
	KATA__QMP_EVENT,
};

struct kata__qmp_message {
	enum kata__qmp_kind kind;
	json_t *root;       /* owned; everything below is borrowed from it. NULL where there is no tree */
	uint64_t id;        /* RETURN, ERROR: of the command; 0: the message has none */
	const json_t *data; /* RETURN: the value, or NULL when that is {}; EVENT: "data" or NULL; GREETING: the object
			       "QMP"; ERROR: the object "error" */
	const char *name;   /* EVENT: "DEVICE_DELETED"; ERROR: the class, "GenericError"; else NULL */
	const char *text;   /* ERROR: the description, foreign text; else NULL */
	uint64_t timestamp_us; /* EVENT: wall clock of the VMM, or 0 */
	unsigned version[3];   /* GREETING: major, minor, micro */
};

/*
 * Parses one line. Returns 0; PROTOCOL (origin: VMM) for what is no QMP message: not one JSON object, duplicate keys,
 * too deep, too many values, none or several of QMP/return/error/event, wrong types, an id that is not a positive
 * integer; NO_MEMORY.
 */
int kata__qmp_parse(const struct kata__slice *line, struct kata__qmp_message *ret, kata_error **err);
/* Frees the content; fine on a zeroed one and twice. */
void kata__qmp_message_deinit(struct kata__qmp_message *message);

/*
 * Appends {"execute": name, "arguments": ..., "id": id} and a newline. The buffer is unchanged on failure.
 * id: from 1. arguments: an object, borrowed, or NULL for none.
 * Returns 0; INVALID for a name that is not [A-Za-z0-9_-]+ or arguments that are no object; EXHAUSTED when the
 * buffer's cap leaves no room; NO_MEMORY.
 */
int kata__qmp_append_command(struct kata__buffer *out, uint64_t id, const char *name, const json_t *arguments,
			     kata_error **err);
#endif
