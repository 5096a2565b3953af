/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp.c - lines to messages, commands to lines.
 *
 * A line is searched for its end once: `scanned` remembers where the search stopped, so bytes that drip in cost no more
 * than bytes that come at once. jansson parses the line after its cost was counted (json_limits.h); but the two
 * messages that most commands cause, the reply "{}" and STOP or RESUME, are known by their very bytes: for them a tree
 * would be most of what a round trip costs.
 */
#include "proto/qmp.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/json_limits.h"

#define COMMAND_GUESS 1024u

/* ---- lines */

static int too_long(kata_error **err)
{
	return kata__fail(err, KATA_E_PROTOCOL, VMM, "QMP: a line of more than %u bytes", KATA__QMP_LINE_MAX);
}

int kata__qmp_next_line(struct kata__qmp_reader *reader, const struct kata__buffer *in, struct kata__slice *ret_line,
			kata_error **err)
{
	const uint8_t *bytes = kata__buffer_bytes(in);
	size_t have = kata__buffer_len(in);
	const uint8_t *end =
		have > reader->scanned ? memchr(bytes + reader->scanned, '\n', have - reader->scanned) : NULL;
	size_t length = end ? (size_t)(end - bytes) : have;

	reader->scanned = length;
	if (length && bytes[length - 1] == '\r')
		length--;
	if (length > KATA__QMP_LINE_MAX)
		return too_long(err);
	if (!end)
		return 0;
	*ret_line = (struct kata__slice){.data = bytes, .length = length};
	return 1;
}

void kata__qmp_consume(struct kata__qmp_reader *reader, struct kata__buffer *in)
{
	kata__buffer_consume(in, reader->scanned + 1);
	reader->scanned = 0;
}

/* ---- messages */

static int refuse(kata_error **err, const char *why)
{
	return kata__fail(err, KATA_E_PROTOCOL, VMM, "QMP: %s", why);
}

static int load(const struct kata__slice *line, json_t **ret, kata_error **err)
{
	struct kata__json_cost cost = kata__json_cost((const char *)line->data, line->length);
	json_error_t why;

	if (cost.depth > KATA__QMP_DEPTH_MAX)
		return refuse(err, "a message nested too deeply");
	if (cost.values > KATA__QMP_VALUES_MAX)
		return refuse(err, "a message of too many values");
	*ret = json_loadb((const char *)line->data, line->length, JSON_REJECT_DUPLICATES, &why);
	if (*ret && json_is_object(*ret))
		return 0;
	if (*ret) {
		json_decref(*ret);
		*ret = NULL;
		return refuse(err, "a message that is not a JSON object");
	}
	/* Out of memory before it began, jansson says nothing. */
	if (!why.text[0] || json_error_code(&why) == json_error_out_of_memory)
		return kata__fail_no_memory(err);
	return kata__fail(err, KATA_E_PROTOCOL, VMM, "QMP: a message that is not JSON at byte %d of %zu", why.position,
			  line->length);
}

static int read_id(struct kata__qmp_message *m, kata_error **err)
{
	const json_t *id = json_object_get(m->root, "id");

	if (!id)
		return 0;
	if (!json_is_integer(id) || json_integer_value(id) < 1)
		return refuse(err, "an id that is not a positive integer");
	m->id = (uint64_t)json_integer_value(id);
	return 0;
}

static int read_greeting(struct kata__qmp_message *m, kata_error **err)
{
	static const char *const parts[] = {"major", "minor", "micro"};
	const json_t *version = json_object_get(json_object_get(m->data, "version"), "qemu");

	for (unsigned i = 0; i < 3; i++) {
		const json_t *part = json_object_get(version, parts[i]);

		if (!json_is_integer(part) || json_integer_value(part) < 0 || json_integer_value(part) > 99999)
			return refuse(err, "a greeting without version.qemu.{major,minor,micro}");
		m->version[i] = (unsigned)json_integer_value(part);
	}
	return 0;
}

static int read_error(struct kata__qmp_message *m, kata_error **err)
{
	m->name = json_string_value(json_object_get(m->data, "class"));
	m->text = json_string_value(json_object_get(m->data, "desc"));
	if (!m->name || !m->text)
		return refuse(err, "an error without the strings class and desc");
	return read_id(m, err);
}

/* QEMU sends -1 for both parts when it has no clock. */
static uint64_t timestamp_of(int64_t seconds, int64_t us)
{
	if (seconds < 0 || us < 0 || us > 999999 || seconds > INT64_MAX / 2000000)
		return 0;
	return (uint64_t)seconds * 1000000 + (uint64_t)us;
}

static uint64_t read_timestamp(const json_t *t)
{
	return timestamp_of(json_integer_value(json_object_get(t, "seconds")),
			    json_integer_value(json_object_get(t, "microseconds")));
}

static int read_event(struct kata__qmp_message *m, kata_error **err)
{
	m->name = json_string_value(json_object_get(m->root, "event"));
	m->data = json_object_get(m->root, "data");
	if (!m->name)
		return refuse(err, "an event whose name is not a string");
	if (m->data && !json_is_object(m->data))
		return refuse(err, "an event whose data is not an object");
	m->timestamp_us = read_timestamp(json_object_get(m->root, "timestamp"));
	return 0;
}

static int classify(struct kata__qmp_message *m, kata_error **err)
{
	static const struct {
		const char *key;
		enum kata__qmp_kind kind;
		int (*read)(struct kata__qmp_message *m, kata_error **err);
	} kinds[] = {
		{"return", KATA__QMP_RETURN, read_id},
		{"event", KATA__QMP_EVENT, read_event},
		{"error", KATA__QMP_ERROR, read_error},
		{"QMP", KATA__QMP_GREETING, read_greeting},
	};
	int found = -1;

	for (int i = 0; i < (int)kata__array_size(kinds); i++) {
		const json_t *value = json_object_get(m->root, kinds[i].key);

		if (value && found >= 0)
			return refuse(err, "a message that is several of return, error, event, QMP");
		if (value) {
			found = i;
			m->data = value;
		}
	}
	if (found < 0)
		return refuse(err, "a message that is none of return, error, event, QMP");
	m->kind = kinds[found].kind;
	return kinds[found].read(m, err);
}

/* ---- messages known by their bytes: as QEMU writes them, to the blank; what differs in any way is parsed as JSON */

static bool take_text(struct kata__slice *at, const char *text)
{
	size_t n = strlen(text);

	if (at->length < n || memcmp(at->data, text, n) != 0)
		return false;
	at->data += n;
	at->length -= n;
	return true;
}

/* 1 to 18 digits, the first of which is not 0. */
static bool take_number(struct kata__slice *at, uint64_t *ret)
{
	uint64_t v = 0;
	size_t n = 0;

	for (; n < at->length && at->data[n] >= '0' && at->data[n] <= '9'; n++) {
		if (n == 18)
			return false;
		v = v * 10 + (uint64_t)(at->data[n] - '0');
	}
	if (!n || at->data[0] == '0')
		return false;
	at->data += n;
	at->length -= n;
	*ret = v;
	return true;
}

/* One of the events that a stop and a cont cause. */
static const char *take_name(struct kata__slice *at)
{
	static const char *const names[] = {"STOP", "RESUME"};

	for (size_t i = 0; i < kata__array_size(names); i++)
		if (take_text(at, names[i]))
			return names[i];
	return NULL;
}

static bool is_short_return(struct kata__slice at, struct kata__qmp_message *m)
{
	m->kind = KATA__QMP_RETURN;
	return take_text(&at, "{\"return\": {}, \"id\": ") && take_number(&at, &m->id) && take_text(&at, "}") &&
	       !at.length;
}

static bool is_short_event(struct kata__slice at, struct kata__qmp_message *m)
{
	uint64_t seconds, us;

	if (!take_text(&at, "{\"timestamp\": {\"seconds\": ") || !take_number(&at, &seconds) ||
	    !take_text(&at, ", \"microseconds\": ") || !take_number(&at, &us) || !take_text(&at, "}, \"event\": \"") ||
	    !(m->name = take_name(&at)) || !take_text(&at, "\"}") || at.length)
		return false;
	m->kind = KATA__QMP_EVENT;
	m->timestamp_us = timestamp_of((int64_t)seconds, (int64_t)us); /* 18 digits fit */
	return true;
}

int kata__qmp_parse(const struct kata__slice *line, struct kata__qmp_message *ret, kata_error **err)
{
	int rc;

	*ret = (struct kata__qmp_message){0};
	if (is_short_return(*line, ret) || is_short_event(*line, ret))
		return 0;
	*ret = (struct kata__qmp_message){0};
	rc = load(line, &ret->root, err);
	if (rc)
		return rc;
	rc = classify(ret, err);
	if (rc)
		kata__qmp_message_deinit(ret);
	return rc;
}

void kata__qmp_message_deinit(struct kata__qmp_message *message)
{
	json_decref(message->root);
	*message = (struct kata__qmp_message){0};
}

/* ---- commands */

static bool name_is_valid(const char *name)
{
	const char *at = name;

	while ((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || (*at >= '0' && *at <= '9') || *at == '-' ||
	       *at == '_')
		at++;
	return at > name && !*at;
}

/* Like snprintf: writes what fits, returns what it takes without a NUL, or 0 when out of memory. */
static size_t write_command(char *at, size_t room, uint64_t id, const char *name, const json_t *arguments)
{
	int head = snprintf(at, room, "{\"execute\":\"%s\",\"id\":%" PRIu64 "%s", name, id,
			    arguments ? ",\"arguments\":" : "");
	size_t used = (size_t)head;
	size_t body;

	if (arguments) {
		size_t left = used < room ? room - used : 0;

		body = json_dumpb(arguments, left ? at + used : NULL, left, JSON_COMPACT);
		if (!body)
			return 0;
		used += body;
	}
	if (used + 2 <= room)
		memcpy(at + used, "}\n", 2);
	return used + 2;
}

int kata__qmp_append_command(struct kata__buffer *out, uint64_t id, const char *name, const json_t *arguments,
			     kata_error **err)
{
	size_t space = out->cap - kata__buffer_len(out);
	size_t need = COMMAND_GUESS;
	size_t room;

	if (!name_is_valid(name))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "QMP command name: only letters, digits, '-' and '_' are allowed");
	if (arguments && !json_is_object(arguments))
		return kata__fail(err, KATA_E_INVALID, CALLER, "QMP command '%s': arguments must be an object", name);
	do {
		uint8_t *at;

		/* snprintf's NUL needs a byte more than the line. */
		room = need > space ? space : need;
		at = kata__buffer_reserve(out, room);
		if (!at && room)
			return kata__fail_no_memory(err);
		need = write_command((char *)at, room, id, name, arguments);
		if (!need)
			return kata__fail_no_memory(err);
		if (need > space)
			return kata__fail(err, KATA_E_EXHAUSTED, CALLER,
					  "QMP: a command of %zu bytes where %zu may still be queued", need, space);
	} while (need > room);
	kata__buffer_added(out, need);
	return 0;
}
