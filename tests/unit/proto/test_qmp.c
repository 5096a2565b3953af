/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/qmp.h"
#include "unit/proto/proto_test.h"

static void feed(struct kata__buffer *b, const void *bytes, size_t length)
{
	cr_assert_eq(kata__buffer_append(b, bytes, length), 0);
}

static struct kata__qmp_message parse(const char *text)
{
	struct kata__slice line = slice_of(text);
	struct kata__qmp_message m;
	kata_error *err = NULL;

	expect_success(kata__qmp_parse(&line, &m, &err), &err);
	return m;
}

static void expect_refused(const char *text, const char *part)
{
	struct kata__slice line = slice_of(text);
	struct kata__qmp_message m;
	kata_error *err = NULL;

	expect_failure(kata__qmp_parse(&line, &m, &err), KATA_E_PROTOCOL, part, &err);
}

/* ---- lines */

Test(qmp, lines_end_with_lf_or_crlf)
{
	struct kata__qmp_reader r = {0};
	struct kata__slice line;
	struct kata__buffer b;

	kata__buffer_init(&b, KATA__QMP_BUFFER_MAX);
	feed(&b, "one\r\ntwo\n\r\nthr", 14);
	cr_assert_eq(kata__qmp_next_line(&r, &b, &line, NULL), 1);
	cr_assert(slice_is(line, "one"));
	kata__qmp_consume(&r, &b);
	cr_assert_eq(kata__qmp_next_line(&r, &b, &line, NULL), 1);
	cr_assert(slice_is(line, "two"));
	kata__qmp_consume(&r, &b);
	cr_assert_eq(kata__qmp_next_line(&r, &b, &line, NULL), 1);
	cr_assert(slice_is(line, ""));
	kata__qmp_consume(&r, &b);
	cr_assert_eq(kata__qmp_next_line(&r, &b, &line, NULL), 0);
	feed(&b, "ee\n", 3);
	cr_assert_eq(kata__qmp_next_line(&r, &b, &line, NULL), 1);
	cr_assert(slice_is(line, "three"));
	kata__buffer_deinit(&b);
}

Test(qmp, a_line_that_comes_byte_by_byte_is_found)
{
	static const char text[] = "{\"return\": {}}\r\n";
	struct kata__qmp_reader r = {0};
	struct kata__slice line;
	struct kata__buffer b;

	kata__buffer_init(&b, KATA__QMP_BUFFER_MAX);
	for (size_t i = 0; i + 1 < sizeof(text); i++) {
		cr_assert_eq(kata__qmp_next_line(&r, &b, &line, NULL), 0, "at byte %zu", i);
		feed(&b, text + i, 1);
	}
	cr_assert_eq(kata__qmp_next_line(&r, &b, &line, NULL), 1);
	cr_assert(slice_is(line, "{\"return\": {}}"));
	kata__buffer_deinit(&b);
}

static int next_of_size(size_t size, const char *end, struct kata__slice *line, kata_error **err)
{
	struct kata__qmp_reader r = {0};
	struct kata__buffer b;
	char *bytes = malloc(size);
	int rc;

	memset(bytes, ' ', size);
	kata__buffer_init(&b, KATA__QMP_BUFFER_MAX);
	feed(&b, bytes, size);
	feed(&b, end, strlen(end));
	rc = kata__qmp_next_line(&r, &b, line, err);
	kata__buffer_deinit(&b);
	free(bytes);
	return rc;
}

Test(qmp, a_line_of_1_mib_is_read)
{
	struct kata__slice line;

	cr_assert_eq(next_of_size(1048576, "\r\n", &line, NULL), 1);
	cr_assert_eq(line.length, 1048576);
	cr_assert_eq(next_of_size(1048576, "", &line, NULL), 0);
}

Test(qmp, a_line_of_1_mib_and_1_is_refused_before_and_with_its_end)
{
	struct kata__slice line;
	kata_error *err = NULL;

	expect_failure(next_of_size(1048577, "", &line, &err), KATA_E_PROTOCOL, "more than 1048576 bytes", &err);
	expect_failure(next_of_size(1048577, "\n", &line, &err), KATA_E_PROTOCOL, "more than 1048576 bytes", &err);
}

/* ---- messages */

Test(qmp, the_greeting_has_a_version)
{
	struct kata__qmp_message m =
		parse("{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 7, \"major\": 8}, "
		      "\"package\": \"Debian\"}, \"capabilities\": [\"oob\"]}}");

	cr_assert_eq(m.kind, KATA__QMP_GREETING);
	cr_assert_eq(m.version[0], 8);
	cr_assert_eq(m.version[1], 7);
	cr_assert_eq(m.version[2], 2);
	cr_assert(json_is_array(json_object_get(m.data, "capabilities")));
	kata__qmp_message_deinit(&m);
	kata__qmp_message_deinit(&m);
}

Test(qmp, a_return_has_its_id_and_value)
{
	struct kata__qmp_message m = parse("{\"return\": {\"running\": true}, \"id\": 9223372036854775807}");

	cr_assert_eq(m.kind, KATA__QMP_RETURN);
	cr_assert_eq(m.id, INT64_MAX);
	cr_assert(json_is_true(json_object_get(m.data, "running")));
	kata__qmp_message_deinit(&m);
}

Test(qmp, a_return_may_be_any_value_and_lack_an_id)
{
	struct kata__qmp_message m = parse("{\"return\": [1, 2]}");

	cr_assert_eq(m.id, 0);
	cr_assert_eq(json_array_size(m.data), 2);
	kata__qmp_message_deinit(&m);
}

Test(qmp, an_error_has_class_and_text)
{
	struct kata__qmp_message m =
		parse("{\"id\": 3, \"error\": {\"class\": \"GenericError\", \"desc\": \"Bus 'x' not found\"}}");

	cr_assert_eq(m.kind, KATA__QMP_ERROR);
	cr_assert_eq(m.id, 3);
	cr_assert_str_eq(m.name, "GenericError");
	cr_assert_str_eq(m.text, "Bus 'x' not found");
	kata__qmp_message_deinit(&m);
}

Test(qmp, an_event_has_name_data_and_time)
{
	struct kata__qmp_message m =
		parse("{\"timestamp\": {\"seconds\": 1700000000, \"microseconds\": 7}, \"event\": \"DEVICE_DELETED\", "
		      "\"data\": {\"device\": \"d0\", \"path\": \"/machine\"}}");

	cr_assert_eq(m.kind, KATA__QMP_EVENT);
	cr_assert_str_eq(m.name, "DEVICE_DELETED");
	cr_assert_str_eq(json_string_value(json_object_get(m.data, "device")), "d0");
	cr_assert_eq(m.timestamp_us, 1700000000000007);
	kata__qmp_message_deinit(&m);
}

Test(qmp, an_event_without_data_and_clock_is_fine)
{
	struct kata__qmp_message m = parse("{\"event\":\"STOP\",\"timestamp\":{\"seconds\":-1,\"microseconds\":-1}}");

	cr_assert(!m.data);
	cr_assert_eq(m.timestamp_us, 0);
	kata__qmp_message_deinit(&m);
}

/* Known by its bytes, without a tree; the same text with a blank more is parsed as JSON. */
static void expect_short(const char *text, bool is_short)
{
	struct kata__qmp_message m = parse(text), other;
	char longer[256];

	snprintf(longer, sizeof(longer), "%s ", text);
	other = parse(longer);
	cr_expect_eq(m.root == NULL, is_short, "%s", text);
	cr_assert_not_null(other.root);
	cr_expect_eq(m.kind, other.kind);
	cr_expect_eq(m.id, other.id);
	cr_expect_eq(m.timestamp_us, other.timestamp_us, "%s", text);
	cr_expect_eq(m.name == NULL, other.name == NULL);
	if (m.name && other.name)
		cr_expect_str_eq(m.name, other.name);
	if (is_short)
		cr_expect_null(m.data);
	kata__qmp_message_deinit(&m);
	kata__qmp_message_deinit(&other);
}

#define EVENT(seconds, us, name)                                                                                       \
	"{\"timestamp\": {\"seconds\": " seconds ", \"microseconds\": " us "}, \"event\": \"" name "\"}"

Test(qmp, what_most_commands_cause_needs_no_tree)
{
	expect_short("{\"return\": {}, \"id\": 1}", true);
	expect_short("{\"return\": {}, \"id\": 999999999999999999}", true);
	expect_short(EVENT("1700000000", "7", "STOP"), true);
	expect_short(EVENT("1700000000", "1000000", "RESUME"), true);
	expect_short(EVENT("999999999999999999", "1", "RESUME"), true);
}

Test(qmp, what_looks_like_it_but_is_not_is_parsed_as_json)
{
	expect_short("{\"return\": {}}", false);
	expect_short("{\"return\":{}, \"id\": 1}", false);
	expect_short("{\"return\": {}, \"id\": 1000000000000000000}", false);
	expect_short("{\"return\": {}, \"id\": 1, \"x\": 2}", false);
	expect_short(EVENT("1700000000", "0", "STOP"), false);
	expect_short(EVENT("-1", "-1", "STOP"), false);
	expect_short(EVENT("1", "1", "STOPPED"), false);
	expect_short(EVENT("1", "1", "WAKEUP"), false);
	expect_short(EVENT("1", "1", "stop"), false);
	expect_short(EVENT("1", "1", ""), false);
	expect_refused("{\"return\": {}, \"id\": 0}", "id that is not");
	expect_refused("{\"return\": {}, \"id\": 01}", "not JSON");
	expect_refused("{\"return\": {}, \"id\": 1}}", "not JSON");
	expect_refused("{\"return\": {}, \"id\": 1} {}", "not JSON");
	expect_refused(EVENT("1", "1", "STOP") "x", "not JSON");
	expect_refused(EVENT("1", "01", "STOP"), "not JSON");
}

Test(qmp, a_short_message_cut_at_every_byte_is_refused)
{
	static const char *const texts[] = {"{\"return\": {}, \"id\": 42}", EVENT("1700000000", "7", "STOP")};

	for (size_t i = 0; i < 2; i++)
		for (size_t n = 0; n < strlen(texts[i]); n++) {
			struct kata__slice line = {.data = (const uint8_t *)texts[i], .length = n};
			struct kata__qmp_message m;

			cr_assert_eq(kata__qmp_parse(&line, &m, NULL), KATA_E_PROTOCOL, "%zu bytes", n);
		}
}

Test(qmp, what_is_not_one_json_object_is_refused)
{
	expect_refused("", "not JSON");
	expect_refused("QEMU 7.2.0 monitor", "not JSON");
	expect_refused("[1]", "not a JSON object");
	expect_refused("7", "not JSON");
	expect_refused("{\"return\": {}} {\"return\": {}}", "not JSON");
	expect_refused("{\"return\": {}", "not JSON");
	expect_refused("{\"return\": \"\\u0000\"}", "not JSON");
	expect_refused("{\"return\": \"\xff\"}", "not JSON");
}

Test(qmp, duplicate_keys_are_refused)
{
	expect_refused("{\"return\": {}, \"id\": 1, \"id\": 2}", "not JSON");
	expect_refused("{\"return\": {\"a\": 1, \"a\": 2}}", "not JSON");
}

Test(qmp, a_message_of_no_kind_or_of_two_is_refused)
{
	expect_refused("{}", "none of return, error, event, QMP");
	expect_refused("{\"id\": 1}", "none of");
	expect_refused("{\"return\": {}, \"error\": {\"class\": \"a\", \"desc\": \"b\"}}", "several of");
	expect_refused("{\"return\": {}, \"event\": \"STOP\"}", "several of");
}

Test(qmp, wrong_types_are_refused)
{
	expect_refused("{\"return\": {}, \"id\": \"1\"}", "id that is not a positive integer");
	expect_refused("{\"return\": {}, \"id\": 0}", "id that is not");
	expect_refused("{\"return\": {}, \"id\": -1}", "id that is not");
	expect_refused("{\"return\": {}, \"id\": null}", "id that is not");
	expect_refused("{\"error\": \"no\"}", "without the strings class and desc");
	expect_refused("{\"error\": {\"class\": \"GenericError\"}}", "without the strings");
	expect_refused("{\"error\": {\"class\": 1, \"desc\": \"\"}}", "without the strings");
	expect_refused("{\"event\": 5}", "name is not a string");
	expect_refused("{\"event\": \"STOP\", \"data\": []}", "data is not an object");
	expect_refused("{\"QMP\": 1}", "greeting without");
	expect_refused("{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": -7, \"major\": 8}}}}",
		       "greeting without");
}

Test(qmp, a_message_cut_at_every_byte_is_refused)
{
	static const char text[] = "{\"return\": {\"a\": [1, \"x\"]}, \"id\": 4}";

	for (size_t n = 0; n + 1 < sizeof(text); n++) {
		struct kata__slice line = {.data = (const uint8_t *)text, .length = n};
		struct kata__qmp_message m;

		cr_assert_eq(kata__qmp_parse(&line, &m, NULL), KATA_E_PROTOCOL, "%zu bytes", n);
	}
}

static int parse_nested(size_t depth)
{
	struct kata__qmp_message m;
	struct kata__slice line;
	char text[512] = "{\"return\":";
	int rc;

	for (size_t i = 1; i < depth; i++)
		strcat(text, "["); /* within 512 bytes: depth is at most 65 */
	for (size_t i = 1; i < depth; i++)
		strcat(text, "]");
	strcat(text, "}");
	line = slice_of(text);
	rc = kata__qmp_parse(&line, &m, NULL);
	if (!rc)
		kata__qmp_message_deinit(&m);
	return rc;
}

Test(qmp, nesting_of_64_is_read_and_of_65_refused)
{
	cr_assert_eq(parse_nested(64), 0);
	cr_assert_eq(parse_nested(65), KATA_E_PROTOCOL);
}

Test(qmp, too_many_values_are_refused)
{
	size_t n = KATA__QMP_VALUES_MAX;
	char *text = malloc(3 * n + 64);
	char *at = text + sprintf(text, "{\"return\":["); /* 64 bytes of room beside the values */

	for (size_t i = 0; i < n; i++, at += 3)
		memcpy(at, "{},", 3);
	memcpy(at - 1, "]}", 3);
	expect_refused(text, "too many values");
	free(text);
}

Test(qmp, a_null_in_the_middle_is_refused)
{
	struct kata__slice line = {.data = (const uint8_t *)"{\"return\":\0{}}", .length = 14};
	struct kata__qmp_message m;

	cr_assert_eq(kata__qmp_parse(&line, &m, NULL), KATA_E_PROTOCOL);
}

Test(qmp, the_origin_of_an_error_is_the_vmm)
{
	struct kata__slice line = slice_of("[]");
	struct kata__qmp_message m;
	kata_error *err = NULL;

	kata__qmp_parse(&line, &m, &err);
	cr_assert_eq(kata_error_get_origin(err), KATA_ORIGIN_VMM);
	kata_error_free(err);
}

/* ---- commands */

Test(qmp, a_command_without_arguments)
{
	struct kata__buffer b;

	kata__buffer_init(&b, 4096);
	cr_assert_eq(kata__qmp_append_command(&b, 1, "qmp_capabilities", NULL, NULL), 0);
	cr_assert(slice_is((struct kata__slice){kata__buffer_bytes(&b), kata__buffer_len(&b)},
			   "{\"execute\":\"qmp_capabilities\",\"id\":1}\n"));
	kata__buffer_deinit(&b);
}

Test(qmp, callers_strings_are_never_syntax)
{
	json_t *arguments = json_pack("{s:s}", "id", "a\"},\n\"x\\");
	struct kata__buffer b;
	json_t *back;

	kata__buffer_init(&b, 4096);
	cr_assert_eq(kata__qmp_append_command(&b, UINT64_MAX, "device_del", arguments, NULL), 0);
	cr_assert_eq(memchr(kata__buffer_bytes(&b), '\n', kata__buffer_len(&b)),
		     kata__buffer_bytes(&b) + kata__buffer_len(&b) - 1);
	back = json_loadb((const char *)kata__buffer_bytes(&b), kata__buffer_len(&b), JSON_DECODE_INT_AS_REAL, NULL);
	cr_assert(json_equal(json_object_get(back, "arguments"), arguments));
	json_decref(back);
	json_decref(arguments);
	kata__buffer_deinit(&b);
}

Test(qmp, commands_of_every_size_around_the_guess_are_whole)
{
	for (size_t n = 900; n < 1100; n++) {
		char value[1200] = "";
		struct kata__buffer b;
		json_t *arguments, *back;

		memset(value, 'v', n);
		arguments = json_pack("{s:s}", "k", value);
		kata__buffer_init(&b, 8192);
		cr_assert_eq(kata__qmp_append_command(&b, 2, "x", arguments, NULL), 0);
		back = json_loadb((const char *)kata__buffer_bytes(&b), kata__buffer_len(&b), 0, NULL);
		cr_assert(json_equal(json_object_get(back, "arguments"), arguments), "%zu bytes", n);
		json_decref(back);
		json_decref(arguments);
		kata__buffer_deinit(&b);
	}
}

Test(qmp, a_command_fills_the_buffer_to_its_cap_but_not_past_it)
{
	static const char text[] = "{\"execute\":\"cont\",\"id\":1}\n";
	struct kata__buffer b;
	kata_error *err = NULL;

	kata__buffer_init(&b, sizeof(text) - 1);
	expect_success(kata__qmp_append_command(&b, 1, "cont", NULL, &err), &err);
	expect_failure(kata__qmp_append_command(&b, 2, "cont", NULL, &err), KATA_E_EXHAUSTED, "0 may still be queued",
		       &err);
	cr_assert_eq(kata__buffer_len(&b), sizeof(text) - 1);
	kata__buffer_deinit(&b);

	kata__buffer_init(&b, sizeof(text) - 2);
	expect_failure(kata__qmp_append_command(&b, 1, "cont", NULL, &err), KATA_E_EXHAUSTED, "26 bytes where 25",
		       &err);
	cr_assert_eq(kata__buffer_len(&b), 0);
	kata__buffer_deinit(&b);
}

Test(qmp, a_bad_name_or_arguments_that_are_no_object_are_refused)
{
	json_t *list = json_array();
	struct kata__buffer b;
	kata_error *err = NULL;

	kata__buffer_init(&b, 4096);
	expect_failure(kata__qmp_append_command(&b, 1, "a\"b", NULL, &err), KATA_E_INVALID, "command name", &err);
	expect_failure(kata__qmp_append_command(&b, 1, "", NULL, &err), KATA_E_INVALID, "command name", &err);
	expect_failure(kata__qmp_append_command(&b, 1, "cont", list, &err), KATA_E_INVALID, "must be an object", &err);
	cr_assert_eq(kata__buffer_len(&b), 0);
	json_decref(list);
	kata__buffer_deinit(&b);
}
