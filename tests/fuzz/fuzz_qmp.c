/* SPDX-License-Identifier: Apache-2.0 */
/* QMP: byte 0 is the size of the reads, the rest is the stream. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "proto/qmp.h"

/* A blank more is the same JSON, but no message that is known by its bytes. */
static void must_be_the_same_as_json(const struct kata__slice *line, const struct kata__qmp_message *m)
{
	uint8_t *longer = malloc(line->length + 1);
	struct kata__slice slice = {.data = longer, .length = line->length + 1};
	struct kata__qmp_message other;

	if (!longer)
		return;
	memcpy(longer, line->data, line->length);
	longer[line->length] = ' ';
	must(kata__qmp_parse(&slice, &other, NULL) == 0);
	must(other.root && other.kind == m->kind && other.id == m->id && other.timestamp_us == m->timestamp_us);
	must(m->kind != KATA__QMP_EVENT || strcmp(m->name, other.name) == 0);
	must(m->data || m->kind == KATA__QMP_EVENT ? !m->data == !other.data : json_object_size(other.data) == 0);
	kata__qmp_message_deinit(&other);
	free(longer);
}

static void parse(const struct kata__slice *line)
{
	struct kata__qmp_message message;
	kata_error *err = NULL;
	int rc = kata__qmp_parse(line, &message, &err);

	must_agree(rc, err);
	kata_error_free(err);
	if (rc)
		return;
	must(message.kind != KATA__QMP_ERROR || (message.name && message.text));
	must(message.kind != KATA__QMP_EVENT || message.name);
	must(message.kind != KATA__QMP_RETURN || message.data || (message.id && !message.root));
	must_be_the_same_as_json(line, &message);
	kata__qmp_message_deinit(&message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t step = size ? 1u + data[0] : 1;
	struct kata__qmp_reader reader = {0};
	struct kata__slice line;
	struct kata__buffer in;
	int rc = 0;

	kata__buffer_init(&in, KATA__QMP_BUFFER_MAX);
	for (size_t at = 1; at < size && rc == 0; at += step) {
		size_t n = size - at < step ? size - at : step;

		must(kata__buffer_append(&in, data + at, n) == 0);
		while ((rc = kata__qmp_next_line(&reader, &in, &line, NULL)) == 1) {
			must(!line.length || !memchr(line.data, '\n', line.length));
			parse(&line);
			kata__qmp_consume(&reader, &in);
		}
	}
	kata__buffer_deinit(&in);
	return 0;
}
